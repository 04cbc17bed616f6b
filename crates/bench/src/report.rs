//! Figures to files: `docs/benchmarks.json` for programs, `docs/benchmarks.md` for people, and the terminal.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Failure;

/// One figure beside its limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured: `part/what`.
    pub name: String,
    /// The median.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// The limit, measured in the same run, in the same unit.
    pub limit: Option<f64>,
    /// How close the value comes to the limit: 1 is the limit itself, less is worse.
    pub ratio: Option<f64>,
    /// What it should be, as a sentence: "ratio >= 70".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Whether it is that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub met: Option<bool>,
    /// How often it was measured, where that differs from row to row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounds: Option<usize>,
}

impl Figure {
    /// A rate: more is better.
    pub fn rate(name: impl Into<String>, value: f64, unit: &str, limit: f64) -> Self {
        Self {
            name: name.into(),
            value,
            unit: unit.to_owned(),
            limit: Some(limit),
            ratio: Some(value / limit),
            target: None,
            met: None,
            rounds: None,
        }
    }

    /// A time: less is better.
    pub fn time(name: impl Into<String>, value: f64, unit: &str, limit: f64) -> Self {
        Self {
            name: name.into(),
            value,
            unit: unit.to_owned(),
            limit: Some(limit),
            ratio: Some(limit / value),
            target: None,
            met: None,
            rounds: None,
        }
    }

    /// A figure that is its own measure.
    pub fn alone(name: impl Into<String>, value: f64, unit: &str) -> Self {
        let (name, unit) = (name.into(), unit.to_owned());
        Self { name, value, unit, limit: None, ratio: None, target: None, met: None, rounds: None }
    }

    /// A value that should not be above this.
    pub fn at_most(self, most: f64) -> Self {
        let target = Some(format!("<= {most} {}", self.unit));
        Self { target, met: Some(self.value <= most), ..self }
    }

    /// A ratio to the limit that should not be below this.
    pub fn at_least_times(self, least: f64) -> Self {
        let met = Some(self.ratio.is_some_and(|ratio| ratio >= least));
        Self { target: Some(format!("ratio >= {least}")), met, ..self }
    }

    /// The median of so many measurements.
    #[must_use]
    pub fn of_rounds(self, rounds: usize) -> Self {
        Self { rounds: Some(rounds), ..self }
    }
}

/// The middle of some measurements.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value below which a part of the measurements lies.
pub fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index of a short list"
    )]
    let at = ((sorted.len().saturating_sub(1)) as f64 * part).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// Writes both files; figures that were not measured now keep their last value.
///
/// # Errors
///
/// A file of before that does not read, or a folder that cannot be written to.
pub fn write(new: &[Figure]) -> Result<(), Failure> {
    let json = docs("benchmarks.json");
    let mut figures: Vec<Figure> = match std::fs::read_to_string(&json) {
        Ok(text) => serde_json::from_str(&text)?,
        Err(_) => Vec::new(),
    };
    for figure in new {
        match figures.iter_mut().find(|known| known.name == figure.name) {
            Some(known) => *known = figure.clone(),
            None => figures.push(figure.clone()),
        }
    }
    std::fs::write(&json, serde_json::to_string_pretty(&figures)? + "\n")?;
    let text = page(&figures);
    std::fs::write(docs("benchmarks.md"), &text)?;
    say(&text);
    Ok(())
}

fn docs(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name)
}

fn page(figures: &[Figure]) -> String {
    let mut text = String::from(
        "# Benchmarks\n\nWritten by `make bench` (`make bench ONLY=launch` for a part). Medians; each figure \
         beside the limit that was measured in turn with it in the same run. The ratio says how close it comes: \
         1 is the limit itself.\n\n",
    );
    let _ = writeln!(text, "Machine: {}.\n", machine());
    text.push_str(&table(figures));
    text.push_str(
        "\nWhat the limits are: for `submit/*`, a request of the same size answered by an echo over the same NATS \
         server; for `launch/*`, the same containers created and started straight through \
         the Docker API at the concurrency that is best for it in this run, or by a Docker Swarm service on the same machine \
         (made anew for it; one that is not complete in two minutes counts by what runs of it then); for starts with sandboxes beside bare joins, containers that join networks made beforehand straight \
         through the API; for `stop/*`, the same containers stopped through the API; for `restart/*`, a program that \
         waits for the end of a container and starts another; for `scheduler/*` (also by `cargo bench -p longshore-bench`), \
         the plain full scan that computes two powers for each resource of every node, on the same fleet. Times of the \
         scheduler are the processor's time of its one thread. For machines above the volume bound (the fewest machines \
         whose capacity is what the tasks want together, whatever their shapes) the limit is what `binpack` needs for the \
         same tasks in the order of their arrival, and the ratio is of the numbers of machines; for a decision with a wish or \
         with its explanation kept, the same decision without; for 16 shapes on 100000 nodes, the same on 1000. A part \
         without rows has not been measured on this machine yet.\n",
    );
    text.push_str(
        "\nFor `log/*` clients submit without pause, each again as soon as it is answered; a command is some six facts. The \
         limit of commands and facts is what JetStream stores of messages of a command's size with as many in flight, that of \
         records what it stores of a record's size one after the other, as the order of the log demands; both on a server of \
         their own with the same `sync_interval: always`, in turn with the log. A bare service is the least that a lone command \
         can take: it publishes a request, waits until JetStream has it, writes it to its own disk, synced, and answers; beside raw it is the most that \
         one client can have of an order in which the disk comes after the log, and without a disk of its own it shows what that order takes. `state/*` starts a manager on a state that its own \
         brain has made and its own store has written: tasks that run, 1,000 a job, 50 a node. Memory is what the process has \
         more than one without tasks. `size/*` plays all workers in one process, with real brains and shells, a connection and a \
         user each, stores in memory, and containers that are entries of a map: NATS, the manager and all workers share this \
         machine's cores, so that a real cluster, whose workers have their own, is quicker. A decision is a small job that \
         is submitted while all else goes on, until it is granted: in the log, on the disk, its task placed if there was room in \
         the record. A bare service on a server of its own, asked as often meanwhile, shows how much of that is the machine's: \
         what any answer takes that stands in a synced log and on a synced disk, while all cores are taken. Whoever asks keeps records short \
         while tasks start, so the time until all run is that of a cluster that is asked for something all the while.\n",
    );
    text
}

/// Figures as a table for people.
pub fn table(figures: &[Figure]) -> String {
    let mut text = String::from(
        "| figure | value | limit | ratio | target | met | rounds |\n|---|---|---|---|---|---|---|\n",
    );
    for Figure { name, value, unit, limit, ratio, target, met, rounds } in figures {
        let limit = limit.map_or_else(|| "-".to_owned(), |limit| format!("{limit:.2} {unit}"));
        let ratio = ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        let met = met.map_or("-", |met| if met { "yes" } else { "no" });
        let target = target.as_deref().unwrap_or("-");
        let rounds = rounds.map_or_else(|| "-".to_owned(), |rounds| rounds.to_string());
        let _ = writeln!(
            text,
            "| {name} | {value:.2} {unit} | {limit} | {ratio} | {target} | {met} | {rounds} |"
        );
    }
    text
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = sysinfo::System::new()
        .map(|mut system| {
            system.refresh_memory();
            system.total_memory()
        })
        .map_or_else(
            |_| "unknown memory".to_owned(),
            |bytes| format!("{} GiB of memory", bytes >> 30),
        );
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores, {memory}, Linux {}", kernel.trim())
}

/// Says figures.
#[expect(clippy::print_stdout, reason = "figures are this program's data")]
pub fn say(text: &str) {
    println!("{text}");
}

/// Tells of progress.
#[expect(clippy::print_stderr, reason = "progress is talk")]
pub fn progress(text: &str) {
    eprintln!("{text}");
}

/// Tells why there are no figures.
#[expect(clippy::print_stderr, reason = "errors are talk")]
pub fn complain(error: &Failure) {
    eprintln!("error: {error}");
}
