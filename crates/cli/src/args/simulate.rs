//! Options of `longshore simulate`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use longshore_proto::quantity;
use longshore_simulate::engine::Order;
use longshore_simulate::machines::Mix;
use longshore_simulate::workload::Source;

use super::Format;
use super::program::Scheduler;

/// `longshore simulate`
#[derive(Debug, Args)]
#[command(after_help = "\
Figures: CPU and MEMORY are what is promised to tasks, as a mean over time. STRANDED is what is free on nodes \
where a typical task does not fit. FULLEST is how full all nodes are but one in a hundred. A task's WAIT ends with its \
start; its SLOWDOWN is what it took from arrival to end over the time it runs.

Examples:
  longshore simulate --workload synthetic --nodes 200 --load 0.9 --svg plot.svg
  longshore simulate --history events.jsonl --node-list nodes.json --scheduler epvm,binpack
  longshore simulate --compact --workload alibaba-2023")]
pub(crate) struct Simulate {
    /// Where the jobs come from: a published workload
    #[arg(long, value_name = "NAME", default_value = "google-2019", value_parser = source())]
    pub(crate) workload: Source,
    /// Where the jobs come from: what happened in a cluster, as `longshore events --all --all-namespaces -o json`
    /// prints it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["workload", "load", "constrained", "compact"])]
    pub(crate) history: Option<PathBuf>,
    /// How many times as fast the jobs of the history arrive; they run as long as they did
    #[arg(
        long, value_name = "TIMES", default_value_t = 1.0, value_parser = speed, requires = "history",
        allow_hyphen_values = true
    )]
    pub(crate) speed: f64,
    /// What the nodes are: a published mix of machines [default: that of the workload]
    #[arg(long, value_name = "NAME", value_parser = mix())]
    pub(crate) machines: Option<Mix>,
    /// How many nodes there are [default: 100; with --compact 500]
    #[arg(
        long, value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=100_000), allow_hyphen_values = true
    )]
    pub(crate) nodes: Option<u32>,
    /// The nodes of a cluster, as `longshore node ls -o json` prints them
    #[arg(long, value_name = "FILE", conflicts_with_all = ["machines", "nodes"])]
    pub(crate) node_list: Option<PathBuf>,
    /// Which schedulers to compare
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "A,B,…",
        default_value = "epvm,epvm-guard,spread,binpack,round-robin,lieb"
    )]
    pub(crate) scheduler: Vec<Scheduler>,
    /// What part of the scarcest resource the jobs ask for on average
    #[arg(
        long, value_name = "PART", default_value_t = 0.8, value_parser = load,
        allow_hyphen_values = true
    )]
    pub(crate) load: f64,
    /// What part of the jobs names a class of machines [default: as published]
    #[arg(long, value_name = "PART", value_parser = part, allow_hyphen_values = true)]
    pub(crate) constrained: Option<f64>,
    /// How long jobs arrive, in virtual time [default: 6h; with --history all of it]
    #[arg(
        long, value_name = "TIME", value_parser = quantity::parse_duration,
        allow_hyphen_values = true
    )]
    pub(crate) duration: Option<Duration>,
    /// How much of the beginning is not measured [default: a quarter; with --history nothing]
    #[arg(
        long, value_name = "TIME", value_parser = quantity::parse_duration,
        allow_hyphen_values = true
    )]
    pub(crate) warm_up: Option<Duration>,
    /// In which order tasks are placed that wait together: largest (by priority, then size) or arrival
    #[arg(long, value_name = "ORDER", default_value = "largest", value_parser = order())]
    pub(crate) order: Order,
    /// How long a node stays up on average; without it none fails
    #[arg(long, value_name = "TIME", value_parser = quantity::parse_duration)]
    pub(crate) node_up: Option<Duration>,
    /// How long a node that failed stays away on average
    #[arg(
        long, value_name = "TIME", default_value = "10m", value_parser = quantity::parse_duration,
        requires = "node_up"
    )]
    pub(crate) node_away: Duration,
    /// How often running tasks are rebalanced; without it none is moved
    #[arg(long, value_name = "TIME", value_parser = quantity::parse_duration)]
    pub(crate) rebalance: Option<Duration>,
    /// How many tasks are moved at most at a time
    #[arg(long, value_name = "N", default_value_t = 10, requires = "rebalance")]
    pub(crate) moves: u32,
    /// Count how many nodes the workload needs at least, instead of letting time pass
    #[arg(long, conflicts_with_all = ["duration", "warm_up", "order", "node_up", "rebalance", "load"])]
    pub(crate) compact: bool,
    /// How often --compact is done anew, each time with the next seed
    #[arg(
        long, value_name = "N", default_value_t = 5, requires = "compact",
        value_parser = clap::value_parser!(u64).range(1..=1000)
    )]
    pub(crate) repeat: u64,
    /// What the machines, jobs and failures are drawn from: the same seed gives the same figures
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Write a plot into this file
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// The form of the figures
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

fn source() -> impl TypedValueParser<Value = Source> {
    named(&Source::ALL, Source::as_str)
}

fn mix() -> impl TypedValueParser<Value = Mix> {
    named(&Mix::ALL, Mix::as_str)
}

fn order() -> impl TypedValueParser<Value = Order> {
    named(&Order::ALL, Order::as_str)
}

/// One of a few things by its name.
fn named<T: Copy + Send + Sync + 'static>(
    all: &'static [T],
    name: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T> {
    let names = PossibleValuesParser::new(all.iter().map(|one| name(*one)));
    names.try_map(move |text| {
        let found = all.iter().copied().find(|one| name(*one) == text);
        found.ok_or_else(|| format!("{text} is not known"))
    })
}

fn load(text: &str) -> Result<f64, String> {
    let load = text.parse().ok().filter(|load| (0.01..=10.0).contains(load));
    load.ok_or_else(|| "write a part from 0.01 to 10, such as 0.8".to_owned())
}

fn speed(text: &str) -> Result<f64, String> {
    let speed = text.parse().ok().filter(|speed| (0.001..=1000.0).contains(speed));
    speed.ok_or_else(|| "write a number from 0.001 to 1000, such as 2".to_owned())
}

fn part(text: &str) -> Result<f64, String> {
    let part = text.parse().ok().filter(|part| (0.0..=1.0).contains(part));
    part.ok_or_else(|| "write a part from 0 to 1, such as 0.06".to_owned())
}
