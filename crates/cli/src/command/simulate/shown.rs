//! What comes of a simulation: as a table, as JSON with stable names, and as plots.

use longshore_simulate::compact::Compaction;
use longshore_simulate::engine;
use longshore_simulate::machines::Host;
use longshore_simulate::measure::{Report, Sample, Share};
use longshore_simulate::plot::{Bars, Lines, Picture};
use serde::Serialize;

use super::Compacted;
use crate::args::simulate::Simulate;
use crate::table::{lines, span};

/// A number of a report.
type Count = fn(&Report) -> u64;

/// Schedulers side by side.
pub(super) fn table(reports: &[Report]) -> String {
    let any = |of: Count| reports.iter().any(|report| of(report) > 0);
    let optional: Vec<(&str, Count)> = [
        ("REJECTED", (|report| report.rejected) as Count),
        ("RESTARTED", |report| report.restarted),
        ("MOVES", |report| report.moves),
    ]
    .into_iter()
    .filter(|(_, of)| any(*of))
    .collect();
    let mut heads = vec![
        "SCHEDULER",
        "CPU",
        "MEMORY",
        "STRANDED CPU",
        "STRANDED MEMORY",
        "FULLEST",
        "AT ONCE",
        "WAIT P99",
        "WAIT MAX",
        "SLOWDOWN",
        "WAITING",
    ];
    heads.extend(optional.iter().map(|(head, _)| *head));
    let row = |report: &Report| {
        let mut row = vec![
            report.scheduler.as_str().to_owned(),
            percent(report.cpu.used),
            percent(report.memory.used),
            percent(report.cpu.stranded),
            percent(report.memory.stranded),
            percent(report.fullest),
            percent(report.at_once),
            span(report.waits.p99_ms),
            span(report.waits.max_ms),
            format!("{:.2}", report.slowdown.mean),
            report.waiting.to_string(),
        ];
        row.extend(optional.iter().map(|(_, of)| of(report).to_string()));
        row
    };
    lines(&heads, reports.iter().map(row).collect(), None)
}

fn percent(part: f64) -> String {
    format!("{:.1}%", 100.0 * part)
}

/// How things went over time.
pub(super) fn picture(reports: &[Report]) -> String {
    let names = reports.iter().map(|report| report.scheduler.as_str().to_owned()).collect();
    let panel = |title: &str, y_label: &str, of: fn(&Sample) -> f64| {
        let point = |sample: &Sample| (sample.at_ms as f64 / 3_600_000.0, of(sample));
        let series = |report: &Report| report.samples.iter().map(point).collect();
        Lines {
            title: title.to_owned(),
            x_label: "virtual time, hours".to_owned(),
            y_label: y_label.to_owned(),
            series: reports.iter().map(series).collect(),
        }
    };
    Picture::new(names)
        .lines(&panel("Cores promised to tasks", "of all cores, %", |at| 100.0 * at.cpu.used))
        .lines(&panel("Memory promised to tasks", "of all memory, %", |at| 100.0 * at.memory.used))
        .lines(&panel("Stranded: free where a typical task does not fit", "cores, %", |at| {
            100.0 * at.cpu.stranded
        }))
        .lines(&panel("The fullest of a hundred nodes", "fullest resource, %", |at| {
            100.0 * at.fullest
        }))
        .lines(&panel("Tasks that wait", "tasks", |at| at.waiting as f64))
        .finish()
}

/// What `-o json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Results {
    nodes: usize,
    /// Absent with a history.
    workload: Option<&'static str>,
    load: Option<f64>,
    seed: u64,
    duration_ms: u64,
    warm_up_ms: u64,
    order: &'static str,
    results: Vec<Outcome>,
}

/// How one scheduler did. Parts are from 0 to 1.
#[derive(Debug, Serialize)]
struct Outcome {
    scheduler: &'static str,
    tasks: Tasks,
    node_failures: u64,
    moves: u64,
    used: Parts,
    stranded: Parts,
    fullest: f64,
    at_once: f64,
    wait: Wait,
    slowdown_mean: f64,
    slowdown_p99: f64,
    samples: Vec<Point>,
}

#[derive(Debug, Serialize)]
struct Tasks {
    arrived: u64,
    ended: u64,
    running: u64,
    waiting: u64,
    rejected: u64,
    restarted: u64,
}

#[derive(Debug, Serialize)]
struct Parts {
    cpu: f64,
    memory: f64,
    disk: f64,
}

impl Parts {
    fn of([cpu, memory, disk]: [Share; 3], of: fn(Share) -> f64) -> Self {
        Self { cpu: of(cpu), memory: of(memory), disk: of(disk) }
    }
}

#[derive(Debug, Serialize)]
struct Wait {
    mean_ms: f64,
    p50_ms: u64,
    p90_ms: u64,
    p99_ms: u64,
    max_ms: u64,
}

#[derive(Debug, Serialize)]
struct Point {
    at_ms: u64,
    used: Parts,
    stranded: Parts,
    fullest: f64,
    waiting: u64,
}

impl Results {
    pub(super) fn new(
        wish: &Simulate,
        settings: &engine::Settings,
        hosts: &[Host],
        reports: &[Report],
    ) -> Self {
        Self {
            nodes: hosts.len(),
            workload: wish.history.is_none().then(|| wish.workload.as_str()),
            load: wish.history.is_none().then_some(wish.load),
            seed: wish.seed,
            duration_ms: settings.duration_ms,
            warm_up_ms: settings.warm_up_ms,
            order: settings.order.as_str(),
            results: reports.iter().map(Outcome::from).collect(),
        }
    }
}

impl From<&Report> for Outcome {
    fn from(report: &Report) -> Self {
        let shares = [report.cpu, report.memory, report.disk];
        let point = |sample: &Sample| {
            let shares = [sample.cpu, sample.memory, sample.disk];
            Point {
                at_ms: sample.at_ms,
                used: Parts::of(shares, |share| share.used),
                stranded: Parts::of(shares, |share| share.stranded),
                fullest: sample.fullest,
                waiting: sample.waiting,
            }
        };
        Self {
            scheduler: report.scheduler.as_str(),
            tasks: Tasks {
                arrived: report.arrived,
                ended: report.ended,
                running: report.running,
                waiting: report.waiting,
                rejected: report.rejected,
                restarted: report.restarted,
            },
            node_failures: report.failures,
            moves: report.moves,
            used: Parts::of(shares, |share| share.used),
            stranded: Parts::of(shares, |share| share.stranded),
            fullest: report.fullest,
            at_once: report.at_once,
            wait: Wait {
                mean_ms: report.waits.mean_ms,
                p50_ms: report.waits.p50_ms,
                p90_ms: report.waits.p90_ms,
                p99_ms: report.waits.p99_ms,
                max_ms: report.waits.max_ms,
            },
            slowdown_mean: report.slowdown.mean,
            slowdown_p99: report.slowdown.p99,
            samples: report.samples.iter().map(point).collect(),
        }
    }
}

/// The figure in the middle, and those at both ends; `None` where one is missing.
fn spread_of(figures: impl Iterator<Item = Option<f64>>) -> Option<[f64; 3]> {
    let mut figures: Vec<f64> = figures.collect::<Option<_>>()?;
    figures.sort_by(f64::total_cmp);
    Some([*figures.get(figures.len() / 2)?, *figures.first()?, *figures.last()?])
}

fn excess(found: &[Option<Compaction>]) -> Option<[f64; 3]> {
    spread_of(found.iter().map(|one| one.map(|one| one.excess())))
}

fn unused(found: &[Option<[f64; 3]>], resource: usize) -> Option<[f64; 3]> {
    spread_of(found.iter().map(|one| one.map(|one| one[resource])))
}

/// How many nodes each scheduler needs.
pub(super) fn compact_table(results: &[Compacted]) -> String {
    let more = |found: &[Option<Compaction>]| match excess(found) {
        Some([middle, least, most]) => {
            format!("+{} ({}..{})", percent(middle), percent(least), percent(most))
        }
        None => "all are too few".to_owned(),
    };
    let left = |found: &[Option<[f64; 3]>], resource| {
        unused(found, resource).map_or_else(|| "-".to_owned(), |[middle, ..]| percent(middle))
    };
    let row = |one: &Compacted| {
        vec![
            one.scheduler.as_str().to_owned(),
            more(&one.arrival),
            more(&one.largest),
            left(&one.unused, 0),
            left(&one.unused, 1),
        ]
    };
    let heads = [
        "SCHEDULER",
        "NODES ABOVE BOUND, AS THEY COME",
        "LARGEST FIRST",
        "CPU UNUSED WHEN FULL",
        "MEMORY UNUSED",
    ];
    lines(&heads, results.iter().map(row).collect(), None)
}

/// The same as bars.
pub(super) fn compact_picture(results: &[Compacted]) -> String {
    let names = results.iter().map(|one| one.scheduler.as_str().to_owned()).collect();
    let group = |name: &str, of: &dyn Fn(&Compacted) -> Option<[f64; 3]>| {
        let figure = |one| of(one).map_or(f64::NAN, |[middle, ..]| 100.0 * middle);
        (name.to_owned(), results.iter().map(figure).collect())
    };
    Picture::new(names)
        .bars(&Bars {
            title: "Nodes needed above the volume bound".to_owned(),
            y_label: "more nodes, %".to_owned(),
            groups: vec![
                group("placed as they come", &|one| excess(&one.arrival)),
                group("placed the largest first", &|one| excess(&one.largest)),
            ],
        })
        .bars(&Bars {
            title: "Unused once one task in a hundred finds no room".to_owned(),
            y_label: "of all there is, %".to_owned(),
            groups: vec![
                group("cores", &|one| unused(&one.unused, 0)),
                group("memory", &|one| unused(&one.unused, 1)),
            ],
        })
        .finish()
}

/// What `-o json` prints with `--compact`.
#[derive(Debug, Serialize)]
pub(super) struct CompactResults {
    nodes: usize,
    workload: &'static str,
    seed: u64,
    repeat: u64,
    results: Vec<CompactOutcome>,
}

/// How one scheduler did, once for each seed; `null` where all nodes were too few.
#[derive(Debug, Serialize)]
struct CompactOutcome {
    scheduler: &'static str,
    arrival: Vec<Option<Needed>>,
    largest: Vec<Option<Needed>>,
    unused_when_full: Vec<Option<Unused>>,
}

#[derive(Debug, Serialize)]
struct Needed {
    nodes: usize,
    nodes_bound: usize,
    excess: f64,
}

#[derive(Debug, Serialize)]
struct Unused {
    cpu: f64,
    memory: f64,
}

impl CompactResults {
    pub(super) fn new(wish: &Simulate, hosts: &[Host], results: &[Compacted]) -> Self {
        let needed = |found: &Option<Compaction>| {
            found.map(|one| Needed {
                nodes: one.machines,
                nodes_bound: one.bound,
                excess: one.excess(),
            })
        };
        let unused =
            |found: &Option<[f64; 3]>| found.map(|[cpu, memory, _]| Unused { cpu, memory });
        let outcome = |one: &Compacted| CompactOutcome {
            scheduler: one.scheduler.as_str(),
            arrival: one.arrival.iter().map(needed).collect(),
            largest: one.largest.iter().map(needed).collect(),
            unused_when_full: one.unused.iter().map(unused).collect(),
        };
        Self {
            nodes: hosts.len(),
            workload: wish.workload.as_str(),
            seed: wish.seed,
            repeat: wish.repeat,
            results: results.iter().map(outcome).collect(),
        }
    }
}
