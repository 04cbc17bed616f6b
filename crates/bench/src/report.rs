//! Figures to files: `docs/benchmarks.json` for programs, `docs/benchmarks.md` for people, and the terminal.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Failure;

/// One figure beside its limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// What was measured: `part/what`.
    pub(crate) name: String,
    /// The median.
    pub(crate) value: f64,
    /// Its unit.
    pub(crate) unit: String,
    /// The limit, measured in the same run, in the same unit.
    pub(crate) limit: Option<f64>,
    /// How close the value comes to the limit: 1 is the limit itself, less is worse.
    pub(crate) ratio: Option<f64>,
}

impl Figure {
    /// A rate: more is better.
    pub(crate) fn rate(name: impl Into<String>, value: f64, unit: &str, limit: f64) -> Self {
        Self {
            name: name.into(),
            value,
            unit: unit.to_owned(),
            limit: Some(limit),
            ratio: Some(value / limit),
        }
    }

    /// A time: less is better.
    pub(crate) fn time(name: impl Into<String>, value: f64, unit: &str, limit: f64) -> Self {
        Self {
            name: name.into(),
            value,
            unit: unit.to_owned(),
            limit: Some(limit),
            ratio: Some(limit / value),
        }
    }
}

/// The middle of some measurements.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value below which a part of the measurements lies.
pub(crate) fn quantile(values: &[f64], part: f64) -> f64 {
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
pub(crate) fn write(new: &[Figure]) -> Result<(), Failure> {
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
    text.push_str("| figure | value | limit | ratio |\n|---|---|---|---|\n");
    for Figure { name, value, unit, limit, ratio } in figures {
        let limit = limit.map_or_else(|| "-".to_owned(), |limit| format!("{limit:.2} {unit}"));
        let ratio = ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        let _ = writeln!(text, "| {name} | {value:.2} {unit} | {limit} | {ratio} |");
    }
    text.push_str(
        "\nWhat the limits are: for `submit/*`, a request of the same size answered by an echo over the same NATS \
         server; for `launch/*`, the same containers created and started straight through \
         the Docker API with the worker's concurrency.\n",
    );
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

#[expect(clippy::print_stdout, reason = "figures are this program's data")]
fn say(text: &str) {
    println!("{text}");
}

/// Tells of progress.
#[expect(clippy::print_stderr, reason = "progress is talk")]
pub(crate) fn progress(text: &str) {
    eprintln!("{text}");
}

/// Tells why there are no figures.
#[expect(clippy::print_stderr, reason = "errors are talk")]
pub(crate) fn complain(error: &Failure) {
    eprintln!("error: {error}");
}
