//! How well tasks are packed, in machines and in capacity that nobody can use: the cases of
//! `longshore simulate --compact` in docs/scheduling.md, on the same machines with the same seeds.

use longshore_proto::spec::SchedulerKind;
use longshore_simulate::compact::{self, Case};
use longshore_simulate::engine::Order;
use longshore_simulate::machines::Mix;
use longshore_simulate::workload::{Settings, Source};

use crate::Failure;
use crate::report::{Figure, median, progress};

/// Each figure is the middle over so many seeds, the first of which is 1.
const SEEDS: u64 = 5;

/// Machines and what runs on them.
#[derive(Debug, Clone, Copy)]
struct Cell {
    machines: usize,
    mix: Mix,
    source: Source,
}

const REAL: Cell = Cell { machines: 500, mix: Mix::Alibaba2023, source: Source::Alibaba2023 };
const SYNTHETIC: Cell = Cell { machines: 300, mix: Mix::Google2011, source: Source::Synthetic };
const SMALL: Cell = Cell { machines: 300, mix: Mix::Google2011, source: Source::Google2019 };

impl Cell {
    /// Jobs that may run anywhere, once for each seed.
    fn cases(self) -> Vec<Case> {
        let hosts = self.mix.hosts(self.machines, 1);
        let case = |seed| {
            let settings = Settings { source: self.source, load: 1.0, constrained: 0.0, seed };
            Case::draw(&hosts, settings)
        };
        (1..=SEEDS).map(case).collect()
    }
}

/// How many machines are needed above the least that the volume of the tasks allows, in per cent.
fn above_volume(cases: &[Case], scheduler: SchedulerKind, order: Order) -> Result<f64, Failure> {
    let excess = |case: &Case| {
        let found = compact::compaction(&case.hosts, &case.wanted, scheduler, order);
        Ok(found.ok_or("all machines together are too few")?.excess() * 100.0)
    };
    let all = cases.iter().map(excess).collect::<Result<Vec<f64>, Failure>>()?;
    Ok(median(&all))
}

/// What of the resource that is used most is free when one task of a hundred has found no room, in per cent.
fn stranded(cases: &[Case], scheduler: SchedulerKind) -> Result<f64, Failure> {
    let free = |case: &Case| {
        let unused = compact::unused_when_full(&case.hosts, &case.filling, scheduler);
        let unused = unused.ok_or("the machines never got full")?;
        Ok(unused.into_iter().fold(1.0, f64::min) * 100.0)
    };
    let all = cases.iter().map(free).collect::<Result<Vec<f64>, Failure>>()?;
    Ok(median(&all))
}

/// Everything about quality.
pub(super) fn measure() -> Result<Vec<Figure>, Failure> {
    let mut figures = Vec::new();
    let (real, synthetic, small) = (REAL.cases(), SYNTHETIC.cases(), SMALL.cases());
    let (guard, epvm) = (SchedulerKind::EpvmGuard, SchedulerKind::Epvm);
    let arrival = "in order of arrival, with the guard";
    for (mix, cases, how, scheduler, order, most) in [
        ("real shapes", &real, arrival, guard, Order::Arrival, 5.0),
        ("synthetic mix", &synthetic, arrival, guard, Order::Arrival, 9.0),
        ("real shapes", &real, "batch", epvm, Order::Largest, 2.0),
        ("synthetic mix", &synthetic, "batch", epvm, Order::Largest, 2.0),
    ] {
        let above = above_volume(cases, scheduler, order)?;
        let packed = above_volume(cases, SchedulerKind::Binpack, Order::Arrival)?;
        let name = format!("scheduler/machines above the volume bound, {mix}, {how}");
        progress(&format!("{name}: {above:.1} %, binpack {packed:.1} %"));
        let figure = Figure::alone(name, above, "%");
        let ratio = Some((100.0 + packed) / (100.0 + above));
        figures.push(Figure { limit: Some(packed), ratio, ..figure }.at_most(most));
    }
    for (text, cases, scheduler) in
        [("small tasks", &small, epvm), ("real shapes, with the guard", &real, guard)]
    {
        let part = stranded(cases, scheduler)?;
        let name = format!("scheduler/stranded capacity at 1 % rejects, {text}");
        progress(&format!("{name}: {part:.1} %"));
        figures.push(Figure::alone(name, part, "%").at_most(5.0));
    }
    Ok(figures)
}
