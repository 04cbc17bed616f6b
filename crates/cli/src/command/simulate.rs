//! `longshore simulate`: schedulers compared on machines and jobs in virtual time. It talks to no cluster.
//!
//! | module | what lives there |
//! |---|---|
//! | `read` | nodes and histories from files |
//! | `shown` | results as tables, JSON and plots |

mod read;
mod shown;

use std::path::Path;
use std::thread;
use std::time::Duration;

use longshore_proto::spec::SchedulerKind;
use longshore_scheduler::plan::rebalance::Bounds;
use longshore_simulate::compact::{self, Case, Compaction};
use longshore_simulate::engine::{self, Failures, Order, Rebalance};
use longshore_simulate::machines::Host;
use longshore_simulate::measure::Report;
use longshore_simulate::workload::{self, Job, Workload};

use crate::args::{Format, simulate::Simulate};
use crate::failure::{Exit, Failure};
use crate::render::Printer;
use crate::table::span;

/// How many nodes there are when nobody says: enough for figures that do not depend on it.
const NODES_USUAL: u32 = 100;
const NODES_USUAL_COMPACT: u32 = 500;
/// How long jobs arrive when nobody says.
const DURATION_USUAL_MS: u64 = 6 * 3_600_000;
/// How many times cheaper a task must be elsewhere to be moved, and how many kinds of tasks are looked at.
const REBALANCE_GAIN: f64 = 2.0;
const REBALANCE_KINDS: usize = 1000;

/// Runs a simulation.
pub(crate) fn run(wish: &Simulate, printer: Printer) -> Result<Exit, Failure> {
    let hosts = hosts(wish)?;
    let kinds = kinds(wish);
    if wish.compact {
        return compact(wish, &hosts, &kinds, printer);
    }
    let (settings, reports) = simulated(wish, &hosts, &kinds, printer)?;
    match wish.output {
        Format::Table => printer.data(&shown::table(&reports))?,
        Format::Json => printer.json(&shown::Results::new(wish, &settings, &hosts, &reports))?,
    }
    match &wish.svg {
        Some(path) => plotted(path, &shown::picture(&reports), printer),
        None => Ok(Exit::Done),
    }
}

/// The schedulers that are asked for, each once.
fn kinds(wish: &Simulate) -> Vec<SchedulerKind> {
    let mut kinds: Vec<SchedulerKind> = Vec::new();
    for kind in wish.scheduler.iter().map(|scheduler| SchedulerKind::from(*scheduler)) {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds
}

/// Lets the same jobs arrive for each scheduler.
fn simulated(
    wish: &Simulate,
    hosts: &[Host],
    kinds: &[SchedulerKind],
    printer: Printer,
) -> Result<(engine::Settings, Vec<Report>), Failure> {
    let (settings, jobs) = jobs(wish, hosts, printer)?;
    let tasks: usize = jobs.iter().map(|job| job.lasts_ms.len()).sum();
    printer.talk(&format!(
        "{tasks} tasks of {} jobs in {}, the first {} not measured; {}",
        jobs.len(),
        span(settings.duration_ms),
        span(settings.warm_up_ms),
        setting_text(wish, hosts)
    ));
    let reports = each(kinds, |scheduler| {
        engine::run(hosts, &jobs, engine::Settings { scheduler, ..settings })
    });
    Ok((settings, reports))
}

/// The jobs that arrive, and how they are run.
fn jobs(
    wish: &Simulate,
    hosts: &[Host],
    printer: Printer,
) -> Result<(engine::Settings, Vec<Job>), Failure> {
    let Some(path) = &wish.history else {
        let settings = settings(wish, DURATION_USUAL_MS, true)?;
        let until = |job: &Job| job.arrives_ms < settings.duration_ms;
        let jobs = Workload::new(drawn(wish), hosts).take_while(until).collect();
        return Ok((settings, jobs));
    };
    let history = read::history(path)?.sped_up(wish.speed);
    if history.unknown > 0 {
        printer.warning(&format!(
            "{} tasks are left out: the history does not say what they asked for",
            history.unknown
        ));
    }
    if history.never_ran > 0 {
        printer.talk(&format!("{} tasks that never had a node are left out", history.never_ran));
    }
    // To the end, and the last event with it.
    let settings = settings(wish, history.duration_ms + 1, false)?;
    Ok((settings, history.jobs))
}

fn drawn(wish: &Simulate) -> workload::Settings {
    let constrained = wish.constrained.unwrap_or_else(|| wish.workload.constrained());
    workload::Settings { source: wish.workload, load: wish.load, constrained, seed: wish.seed }
}

fn hosts(wish: &Simulate) -> Result<Vec<Host>, Failure> {
    if let Some(path) = &wish.node_list {
        return read::nodes(path);
    }
    let usual = if wish.compact { NODES_USUAL_COMPACT } else { NODES_USUAL };
    let mix = wish.machines.unwrap_or_else(|| wish.workload.mix());
    Ok(mix.hosts(wish.nodes.unwrap_or(usual) as usize, wish.seed))
}

/// Where nodes and jobs come from, for people.
fn setting_text(wish: &Simulate, hosts: &[Host]) -> String {
    let nodes = match &wish.node_list {
        Some(path) => format!("{} nodes of {}", hosts.len(), path.display()),
        None => {
            let mix = wish.machines.unwrap_or_else(|| wish.workload.mix());
            format!("{} nodes as {}", hosts.len(), mix.as_str())
        }
    };
    let jobs = match &wish.history {
        Some(path) => format!("history {}", path.display()),
        None if wish.compact => format!("workload {}", wish.workload),
        None => format!("workload {}, load {}", wish.workload, wish.load),
    };
    format!("{nodes}, {jobs}, seed {}", wish.seed)
}

/// How time passes; `fills` when the nodes are empty at first and should not be.
fn settings(wish: &Simulate, usual_ms: u64, fills: bool) -> Result<engine::Settings, Failure> {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let duration_ms = wish.duration.map_or(usual_ms, ms);
    let warm_up_ms = wish.warm_up.map_or(if fills { duration_ms / 4 } else { 0 }, ms);
    if warm_up_ms >= duration_ms {
        return Err(Failure::new("nothing would be left to measure after the warm-up")
            .hint("make --warm-up shorter than --duration")
            .exit(Exit::Usage));
    }
    let up_ms =
        |up: Duration| Failures { up_ms: ms(up) as f64, away_ms: ms(wish.node_away) as f64 };
    let rebalance = |every: Duration| Rebalance {
        every_ms: ms(every),
        bounds: Bounds {
            moves_max: wish.moves as usize,
            gain: REBALANCE_GAIN,
            kinds_max: REBALANCE_KINDS,
            looks_max: usize::MAX,
            nodes_skipped: 0,
        },
    };
    Ok(engine::Settings {
        scheduler: SchedulerKind::Epvm,
        order: wish.order,
        duration_ms,
        warm_up_ms,
        failures: wish.node_up.map(up_ms),
        rebalance: wish.rebalance.map(rebalance),
        seed: wish.seed,
    })
}

/// Does something for each scheduler, side by side.
fn each<T: Send>(kinds: &[SchedulerKind], one: impl Fn(SchedulerKind) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let one = &one;
        let threads: Vec<_> = kinds.iter().map(|kind| scope.spawn(move || one(*kind))).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, T>| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        threads.into_iter().map(join).collect()
    })
}

/// How one scheduler did, once for each seed.
struct Compacted {
    scheduler: SchedulerKind,
    /// In the order of arrival; `None` where all nodes were too few.
    arrival: Vec<Option<Compaction>>,
    /// The largest first.
    largest: Vec<Option<Compaction>>,
    /// Cores, memory and disk that were unused when one task in a hundred found no room.
    unused: Vec<Option<[f64; 3]>>,
}

fn compact(
    wish: &Simulate,
    hosts: &[Host],
    kinds: &[SchedulerKind],
    printer: Printer,
) -> Result<Exit, Failure> {
    let further = wish.repeat - 1;
    printer.talk(&format!("{}, and {further} further ones", setting_text(wish, hosts)));
    let results = compacted(wish, hosts, kinds);
    match wish.output {
        Format::Table => printer.data(&shown::compact_table(&results))?,
        Format::Json => printer.json(&shown::CompactResults::new(wish, hosts, &results))?,
    }
    match &wish.svg {
        Some(path) => plotted(path, &shown::compact_picture(&results), printer),
        None => Ok(Exit::Done),
    }
}

fn compacted(wish: &Simulate, hosts: &[Host], kinds: &[SchedulerKind]) -> Vec<Compacted> {
    let case = |further: u64| {
        let seed = wish.seed.wrapping_add(further);
        Case::draw(hosts, workload::Settings { seed, ..drawn(wish) })
    };
    let cases: Vec<Case> = (0..wish.repeat).map(case).collect();
    each(kinds, |scheduler| {
        let compaction = |order: Order| {
            let one =
                |case: &Case| compact::compaction(&case.hosts, &case.wanted, scheduler, order);
            cases.iter().map(one).collect()
        };
        let unused = |case: &Case| compact::unused_when_full(&case.hosts, &case.filling, scheduler);
        Compacted {
            scheduler,
            arrival: compaction(Order::Arrival),
            largest: compaction(Order::Largest),
            unused: cases.iter().map(unused).collect(),
        }
    })
}

fn plotted(path: &Path, text: &str, printer: Printer) -> Result<Exit, Failure> {
    std::fs::write(path, text).map_err(|error| Failure::file("write", path, &error))?;
    printer.talk(&format!("the plot is in {}", path.display()));
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use clap::Parser;
    use longshore_proto::event::{Event, JobWants, SpecWants};
    use longshore_proto::id::TaskId;
    use longshore_proto::name::Namespace;
    use longshore_proto::spec::Resources;
    use longshore_simulate::history;
    use uuid::Uuid;

    use super::*;
    use crate::args::{Cli, Verb};
    use crate::json::EventLine;

    fn wish(words: &[&str]) -> Simulate {
        let words = ["longshore", "simulate"].iter().chain(words);
        match Cli::try_parse_from(words).unwrap().verb {
            Verb::Simulate(wish) => *wish,
            other => panic!("{other:?}"),
        }
    }

    fn reports(wish: &Simulate) -> Vec<Report> {
        let hosts = hosts(wish).unwrap();
        simulated(wish, &hosts, &kinds(wish), Printer).unwrap().1
    }

    /// A file with these lines.
    fn file(lines: &[String]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        lines.iter().for_each(|line| writeln!(file, "{line}").unwrap());
        file
    }

    const SHORT: [&str; 8] =
        ["--nodes", "6", "--duration", "30m", "--load", "1.1", "--scheduler", "epvm,binpack,epvm"];

    #[test]
    fn the_table_is_the_same_wherever_it_is_made() {
        let text = shown::table(&reports(&wish(&SHORT)));
        assert_eq!(
            text,
            "SCHEDULER   CPU     MEMORY   STRANDED CPU   STRANDED MEMORY   FULLEST   AT ONCE   WAIT P99   WAIT MAX   SLOWDOWN   WAITING\n\
             epvm        59.3%   67.8%    1.5%           1.8%              85.7%     78.9%     11m45s     13m15s     1.74       6\n\
             binpack     59.0%   67.6%    1.4%           2.1%              88.0%     78.3%     12m40s     13m15s     1.85       14\n"
        );
    }

    #[test]
    fn json_and_plots_hold_every_scheduler() {
        let wish = wish(&SHORT);
        let hosts = hosts(&wish).unwrap();
        let (settings, reports) = simulated(&wish, &hosts, &kinds(&wish), Printer).unwrap();
        let results = shown::Results::new(&wish, &settings, &hosts, &reports);
        let value = serde_json::to_value(&results).unwrap();
        assert_eq!(value["results"][1]["scheduler"], "binpack");
        assert_eq!((&value["nodes"], &value["duration_ms"]), (&6.into(), &1_800_000.into()));
        let tasks = &value["results"][0]["tasks"];
        let count = |name: &str| tasks[name].as_u64().unwrap();
        let sum = ["ended", "running", "waiting", "rejected"].map(count).iter().sum::<u64>();
        assert_eq!(count("arrived"), sum);
        let picture = shown::picture(&reports);
        assert!(picture.contains(">epvm<") && picture.contains(">binpack<"));
    }

    #[test]
    fn nodes_are_counted_against_the_bound() {
        let wish = wish(&["--compact", "--nodes", "40", "--repeat", "2", "--scheduler", "epvm"]);
        let hosts = hosts(&wish).unwrap();
        let results = compacted(&wish, &hosts, &kinds(&wish));
        let value =
            serde_json::to_value(shown::CompactResults::new(&wish, &hosts, &results)).unwrap();
        for order in ["arrival", "largest"] {
            let needed = &value["results"][0][order][1];
            assert!(needed["nodes"].as_u64() >= needed["nodes_bound"].as_u64(), "{value}");
        }
        assert!(shown::compact_table(&results).contains("epvm"));
        assert!(shown::compact_picture(&results).contains("placed the largest first"));
    }

    /// What a cluster would have printed.
    fn events() -> Vec<Event> {
        let blank = |index: u64, event_type: &str| Event {
            namespace: Some(Namespace::standard()),
            job: Some("web".parse().unwrap()),
            ..Event::bare(index, 0, 1_700_000_000_000 + index * 10_000, event_type)
        };
        let spec = SpecWants {
            name: "main".parse().unwrap(),
            instances: 2,
            resources: Resources { cpu_millis: 1500, memory_bytes: 1 << 30, disk_bytes: 0 },
            constraints: vec!["label.class in c0, \"c 1\"".parse().unwrap()],
        };
        let wants = JobWants { priority: 50, datacenters: vec![], specs: vec![spec] };
        let task = |index, number, state: &str| Event {
            spec: Some("main".parse().unwrap()),
            task: Some(TaskId(Uuid::from_u128(number))),
            ..blank(index, &format!("task.{state}"))
        };
        vec![
            Event { wants: Some(wants), ..blank(1, "job.submitted") },
            task(2, 1, "pending"),
            task(3, 1, "assigned"),
            task(4, 2, "pending"),
            task(5, 2, "assigned"),
            task(9, 1, "completed"),
        ]
    }

    fn lines(events: &[Event]) -> Vec<String> {
        let line = |event| serde_json::to_string(&EventLine::from(event)).unwrap();
        events.iter().map(line).collect()
    }

    #[test]
    fn what_events_prints_can_be_run_again() {
        let mut lines = lines(&events());
        // Lines that were recorded twice, or out of order, change nothing.
        lines.push(lines[2].clone());
        lines.swap(0, 3);
        let recorded = file(&lines);
        let path = recorded.path().to_str().unwrap();
        assert_eq!(read::history(recorded.path()).unwrap(), history::read(events()));
        let nodes = file(&[concat!(
            r#"[{"name": "n1", "labels": {"class": "c 1"}, "#,
            r#""capacity": {"cpu_millis": 2000, "memory_bytes": 4294967296, "disk_bytes": 0}}]"#
        )
        .to_owned()]);
        let nodes = nodes.path().to_str().unwrap();
        let words = ["--history", path, "--node-list", nodes, "--scheduler", "epvm"];
        let report = reports(&wish(&words)).remove(0);
        // There is room for one at a time: the second waits from 30 s to 70 s, or a second longer.
        assert_eq!((report.arrived, report.ended, report.running), (2, 1, 1));
        assert_eq!(report.waits.max_ms, 41_000);
        // At twice the speed the second comes at 15 s, and still waits when the record ends, at 40 s.
        let twice = [&words[..], &["--speed", "2"]].concat();
        assert_eq!(reports(&wish(&twice)).remove(0).waits.max_ms, 25_001);
    }

    #[test]
    fn files_that_cannot_be_read_say_where_and_what_to_do() {
        let text = |failure: Failure| {
            let (text, hint) = failure.told().unwrap();
            format!("{text}; {}", hint.unwrap_or_default())
        };
        let mut odd = lines(&events());
        odd[1] = "{\"index\": 2}".to_owned();
        let failure = text(read::history(file(&odd).path()).unwrap_err());
        assert!(failure.contains("line 2: missing field") && failure.contains("events --all"));
        let unknown = &lines(&events())[1..];
        let failure = text(read::history(file(unknown).path()).unwrap_err());
        assert!(failure.contains("2 are left out") && failure.contains("submit"), "{failure}");
        let failure = text(read::nodes(file(&["[]".to_owned()]).path()).unwrap_err());
        assert!(failure.contains("none in it") && failure.contains("node ls -o json"));
        let failure = text(read::nodes(Path::new("/nowhere")).unwrap_err());
        assert!(failure.contains("/nowhere"), "{failure}");
    }

    #[test]
    fn a_warm_up_must_leave_something_to_measure() {
        let failure = settings(&wish(&["--duration", "1h", "--warm-up", "1h"]), 0, true);
        assert_eq!(failure.unwrap_err().status(), Exit::Usage);
    }
}
