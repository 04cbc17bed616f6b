//! Jobs as they arrive: generated from published distributions.
//!
//! Amounts are parts of the largest machine, so a workload fits whatever fleet it meets. Whatever fits on no machine at
//! all is drawn again. Arrivals are sped up or slowed down until the jobs offered take `load` of the fleet's
//! scarcest resource on average, and keep their pattern.
//!
//! | source | arrivals | tasks a job | shapes | durations |
//! |---|---|---|---|---|
//! | `google-2019` | Weibull, shape 0.54 | 83 % one, else Γ(1), mean 12 | log-normal, means 0.0090 and 0.0061 | log-normal, median 117 s, σ 1.74 |
//! | `alibaba-2023` | log-normal, σ 2.14: half within 161 s of the one before, mean 1,583 s | one | 151 shapes by their published quantiles; the ten commonest are 59 % | log-normal, median 626 s, σ 1.88 |
//! | `synthetic` | Poisson | compute of a job is a bounded Pareto, index 0.69 | 85 % as `google-2019`, 15 % from a tenth to half of the largest machine | as `google-2019` |
//!
//! The figures are those of the 2019 trace's tiers without service objectives (cell A, fits with
//! Kolmogorov-Smirnov distances of 0.07 to 0.20), of 8,152 pods of `openb`, and of Tirmazi et al., *Borg: the Next
//! Generation* (EuroSys 2020). What is not published is a choice, and said here: that the Γ tail has shape 1, that
//! all tasks of a job are of one shape, which part of the jobs is of which priority, and what `synthetic` calls large.

use std::fmt;

use longshore_proto::constraint::{Attribute, Constraint, Operator};
use longshore_proto::spec::Resources;

use crate::machines::{self, CLASS_LABEL, Host, Mix};
use crate::random::Random;

/// A job as it arrives: tasks alike, each with its own end.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// When it arrives, in milliseconds since the beginning.
    pub arrives_ms: u64,
    /// 1 (least) to 100.
    pub priority: u8,
    /// What each task wants of a node.
    pub resources: Resources,
    /// What must be true of the node.
    pub constraints: Vec<Constraint>,
    /// How long each task runs once it is placed; `None` is for ever.
    pub lasts_ms: Vec<Option<u64>>,
}

/// Where jobs come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Google, May 2019: many small tasks, in jobs of one or of very many.
    Google2019,
    /// Alibaba, 2023: single large tasks of few shapes, in bursts, a third of them bound to one class of machine.
    Alibaba2023,
    /// Small tasks with a seventh of large ones among them, in jobs from mice to hogs: hard to pack.
    Synthetic,
}

impl Source {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Google2019, Self::Alibaba2023, Self::Synthetic];

    /// As it is written in options.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Google2019 => "google-2019",
            Self::Alibaba2023 => "alibaba-2023",
            Self::Synthetic => "synthetic",
        }
    }

    /// The machines that it ran on, or the nearest mix to them.
    pub fn mix(self) -> Mix {
        match self {
            Self::Google2019 => Mix::Google2019,
            Self::Alibaba2023 => Mix::Alibaba2023,
            Self::Synthetic => Mix::Google2011,
        }
    }

    /// What part of the jobs names a class of machine: of Google's about 6 %; of Alibaba's a third of the 86 % that
    /// use a GPU.
    pub fn constrained(self) -> f64 {
        match self {
            Self::Google2019 | Self::Synthetic => 0.06,
            Self::Alibaba2023 => 0.29,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Priorities and how often each is drawn: free, best effort, mid, production, monitoring.
const TIERS: [(u8, f64); 5] = [(10, 0.35), (25, 0.35), (50, 0.10), (75, 0.19), (95, 0.01)];

/// How many jobs are looked at to find how much one takes.
const PILOT_JOBS: usize = 20_000;
/// How often a shape is drawn anew that fits nowhere, before the smallest one is taken.
const DRAWS_MAX: usize = 1000;
/// The least that a task wants.
const LEAST: Resources = Resources { cpu_millis: 10, memory_bytes: 16 << 20, disk_bytes: 0 };
/// How long a task runs at least and at most, in milliseconds.
const LASTS_MS: (f64, f64) = (1000.0, 30.0 * 24.0 * 3_600_000.0);

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Where the jobs come from.
    pub source: Source,
    /// What part of the scarcest resource is asked for on average.
    pub load: f64,
    /// What part of the jobs names a class of machine; [`Source::constrained`] is the published one.
    pub constrained: f64,
    /// The seed.
    pub seed: u64,
}

/// Jobs without end, in the order of their arrival.
#[derive(Debug, Clone)]
pub struct Workload<'a> {
    settings: Settings,
    hosts: &'a [Host],
    capacity: Resources,
    shapes: Shapes,
    arrivals: Random,
    bodies: Random,
    /// How many milliseconds one of the source's own units of time takes here.
    scale_ms: f64,
    clock_ms: f64,
}

impl<'a> Workload<'a> {
    /// Jobs for these machines.
    pub fn new(settings: Settings, hosts: &'a [Host]) -> Self {
        let Settings { source, seed, .. } = settings;
        let mut workload = Self {
            settings,
            hosts,
            capacity: machines::capacity(hosts),
            shapes: Shapes::new(source, hosts, seed),
            arrivals: Random::new(seed, 3),
            bodies: Random::new(seed, 4),
            scale_ms: 1.0,
            clock_ms: 0.0,
        };
        if !hosts.is_empty() {
            workload.scale_ms = workload.clone().pilot();
        }
        workload
    }

    /// The scale at which the first jobs take what they should. They are the ones that will be drawn.
    fn pilot(mut self) -> f64 {
        let mut work = [0.0; 2];
        let mut units = 0.0;
        for _ in 0..PILOT_JOBS {
            units += self.gap();
            let job = self.job();
            let lasts_ms: f64 = job.lasts_ms.iter().flatten().map(|ms| *ms as f64).sum();
            work[0] += job.resources.cpu_millis as f64 * lasts_ms;
            work[1] += job.resources.memory_bytes as f64 * lasts_ms;
        }
        let whole = [self.capacity.cpu_millis as f64, self.capacity.memory_bytes as f64];
        let needed_ms = (work[0] / whole[0].max(1.0)).max(work[1] / whole[1].max(1.0));
        needed_ms / (self.settings.load.max(1e-6) * units)
    }

    /// The time to the next job, in the source's own unit: its mean or its scale.
    fn gap(&mut self) -> f64 {
        match self.settings.source {
            Source::Google2019 => libm::pow(self.arrivals.exponential(), 1.0 / 0.54),
            Source::Alibaba2023 => libm::exp(2.14 * self.arrivals.normal()),
            Source::Synthetic => self.arrivals.exponential(),
        }
    }

    fn job(&mut self) -> Job {
        let (resources, large) = self.shapes.draw();
        let random = &mut self.bodies;
        let priority = TIERS[random.weighted(TIERS.iter().map(|tier| tier.1))].0;
        let tasks = match self.settings.source {
            Source::Google2019 if random.chance(0.83) => 1,
            // The others have 65.7 on average, so that all have 12.
            Source::Google2019 => 1 + libm::round(64.7 * random.exponential()) as usize,
            Source::Alibaba2023 => 1,
            Source::Synthetic => {
                // From a small task to a fiftieth of the fleet, in parts of the largest machine.
                let most = (self.hosts.len() as f64 / 50.0).max(1.0);
                let compute = bounded_pareto(random, 0.69, 0.005, most);
                (compute / large).clamp(1.0, 10_000.0) as usize
            }
        };
        let (median_s, sigma) = match self.settings.source {
            Source::Google2019 | Source::Synthetic => (117.0, 1.74),
            Source::Alibaba2023 => (626.0, 1.88),
        };
        let mut lasts_ms = || {
            let ms = 1000.0 * median_s * libm::exp(sigma * random.normal());
            Some(ms.clamp(LASTS_MS.0, LASTS_MS.1) as u64)
        };
        let lasts_ms = (0..tasks).map(|_| lasts_ms()).collect();
        let constraints = self.constraints(resources);
        Job { arrives_ms: 0, priority, resources, constraints, lasts_ms }
    }

    /// The class of a machine that the job would fit on, for those that name one.
    fn constraints(&mut self, resources: Resources) -> Vec<Constraint> {
        if !self.bodies.chance(self.settings.constrained) {
            return Vec::new();
        }
        let from = self.bodies.below(self.hosts.len() as u64) as usize;
        let (before, after) = self.hosts.split_at(from);
        let fitting = after.iter().chain(before).find(|host| resources.fits_in(host.capacity));
        let class = fitting.and_then(|host| host.labels.get(CLASS_LABEL));
        let named = class.map(|class| Constraint {
            attribute: Attribute::Label(CLASS_LABEL.to_owned()),
            operator: Operator::Equal,
            values: vec![class.clone()],
        });
        named.into_iter().collect()
    }
}

impl Iterator for Workload<'_> {
    type Item = Job;

    fn next(&mut self) -> Option<Job> {
        if self.hosts.is_empty() {
            return None;
        }
        self.clock_ms += self.gap() * self.scale_ms;
        Some(Job { arrives_ms: self.clock_ms as u64, ..self.job() })
    }
}

/// What tasks want of a node, without end.
#[derive(Debug, Clone)]
pub struct Shapes {
    source: Source,
    largest: Resources,
    /// The capacities that there are, each once.
    capacities: Vec<Resources>,
    /// For [`Source::Alibaba2023`]: every shape as parts of the largest machine, and how often each comes up.
    table: Vec<([f64; 2], f64)>,
    random: Random,
}

impl Shapes {
    /// Shapes for these machines.
    pub fn new(source: Source, hosts: &[Host], seed: u64) -> Self {
        let mut capacities: Vec<Resources> = hosts.iter().map(|host| host.capacity).collect();
        capacities.sort_unstable_by_key(|one| (one.cpu_millis, one.memory_bytes, one.disk_bytes));
        capacities.dedup();
        let table = match source {
            Source::Alibaba2023 => openb_shapes(seed),
            Source::Google2019 | Source::Synthetic => Vec::new(),
        };
        let largest = machines::largest(hosts);
        Self { source, largest, capacities, table, random: Random::new(seed, 2) }
    }

    /// A shape that fits on some machine, and the larger of its parts of the largest machine.
    fn draw(&mut self) -> (Resources, f64) {
        for _ in 0..DRAWS_MAX {
            let parts = self.parts();
            let resources = self.resources(parts);
            if self.capacities.iter().any(|capacity| resources.fits_in(*capacity)) {
                return (resources, parts[0].max(parts[1]));
            }
        }
        (LEAST, self.least())
    }

    fn parts(&mut self) -> [f64; 2] {
        let random = &mut self.random;
        match self.source {
            Source::Synthetic if random.chance(0.15) => {
                // As many from a tenth to a fifth as from a fifth to two fifths.
                [(); 2].map(|()| 0.1 * libm::pow(5.0, random.uniform()))
            }
            Source::Google2019 | Source::Synthetic => {
                [(0.0090, 0.81), (0.0061, 0.95)].map(|(mean, sigma): (f64, f64)| {
                    mean * libm::exp(sigma * random.normal() - sigma * sigma / 2.0)
                })
            }
            Source::Alibaba2023 => {
                let at = random.weighted(self.table.iter().map(|(_, weight)| *weight));
                self.table.get(at).map_or([0.0; 2], |(parts, _)| *parts)
            }
        }
    }

    /// Parts of the largest machine in whole steps, as people would ask for them.
    fn resources(&self, [cpu, memory]: [f64; 2]) -> Resources {
        let steps = |part: f64, whole: u64, step: u64| {
            libm::round(part * whole as f64 / step as f64).max(1.0) as u64 * step
        };
        Resources {
            cpu_millis: steps(cpu, self.largest.cpu_millis, LEAST.cpu_millis),
            memory_bytes: steps(memory, self.largest.memory_bytes, LEAST.memory_bytes),
            disk_bytes: 0,
        }
    }

    /// The larger part that the smallest shape is of the largest machine.
    fn least(&self) -> f64 {
        let part = |least: u64, whole: u64| least as f64 / whole.max(1) as f64;
        part(LEAST.cpu_millis, self.largest.cpu_millis)
            .max(part(LEAST.memory_bytes, self.largest.memory_bytes))
    }
}

impl Iterator for Shapes {
    type Item = Resources;

    fn next(&mut self) -> Option<Resources> {
        (!self.capacities.is_empty()).then(|| self.draw().0)
    }
}

/// A number between two others, the larger ones rarer by a power.
fn bounded_pareto(random: &mut Random, index: f64, least: f64, most: f64) -> f64 {
    let ratio = libm::pow(least / most, index);
    least / libm::pow(1.0 - random.uniform() * (1.0 - ratio), 1.0 / index)
}

/// How many shapes `openb` has.
const OPENB_SHAPES: usize = 151;
/// The quantiles of its requests: cores.
const OPENB_CORES: [(f64, f64); 9] = [
    (0.0, 1.0),
    (0.10, 3.2),
    (0.25, 4.0),
    (0.50, 11.3),
    (0.75, 12.0),
    (0.90, 16.4),
    (0.95, 24.2),
    (0.99, 32.0),
    (1.0, 120.0),
];
/// GiB of memory.
const OPENB_GIB: [(f64, f64); 9] = [
    (0.0, 2.0),
    (0.10, 5.5),
    (0.25, 15.0),
    (0.50, 41.0),
    (0.75, 48.0),
    (0.90, 57.0),
    (0.95, 63.0),
    (0.99, 123.0),
    (1.0, 720.0),
];
/// How the logarithms of the two go together.
const OPENB_CORRELATION: f64 = 0.88;
/// Its largest machine: 128 cores and 768 GiB.
const OPENB_LARGEST: [f64; 2] = [128.0, 768.0];

/// Shapes that are as common, as large and as alike as those of `openb`: the k-th commonest has the weight
/// (k + 17.5)^-2.98, so that ten are 59 % and fifty 94 %; each stands in the middle of its part of the quantiles.
fn openb_shapes(seed: u64) -> Vec<([f64; 2], f64)> {
    let mut random = Random::new(seed, 5);
    let weight = |k: usize| libm::pow(k as f64 + 17.5, -2.98);
    let whole: f64 = (1..=OPENB_SHAPES).map(weight).sum();
    // Where each stands among the others by either resource.
    let mut shapes: Vec<([f64; 2], f64)> = (1..=OPENB_SHAPES)
        .map(|k| {
            let (cpu, own) = (random.normal(), random.normal());
            let rest = libm::sqrt(1.0 - OPENB_CORRELATION * OPENB_CORRELATION);
            ([cpu, OPENB_CORRELATION * cpu + rest * own], weight(k) / whole)
        })
        .collect();
    for (resource, quantiles) in [&OPENB_CORES, &OPENB_GIB].into_iter().enumerate() {
        shapes.sort_by(|one, other| one.0[resource].total_cmp(&other.0[resource]));
        let mut below = 0.0;
        for (parts, weight) in &mut shapes {
            parts[resource] = quantile(quantiles, below + *weight / 2.0) / OPENB_LARGEST[resource];
            below += *weight;
        }
    }
    shapes
}

/// The figure at a quantile, between published ones as a straight line of the logarithms.
fn quantile(table: &[(f64, f64)], at: f64) -> f64 {
    let after = table.partition_point(|(quantile, _)| *quantile < at);
    let (Some(high), Some(low)) = (table.get(after), table.get(after.saturating_sub(1))) else {
        return table.last().map_or(0.0, |last| last.1);
    };
    if high.0 <= low.0 {
        return high.1;
    }
    low.1 * libm::pow(high.1 / low.1, (at - low.0) / (high.0 - low.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings =
        Settings { source: Source::Google2019, load: 0.7, constrained: 0.06, seed: 1 };

    fn sorted(figures: impl Iterator<Item = f64>) -> Vec<f64> {
        let mut figures: Vec<f64> = figures.collect();
        figures.sort_by(f64::total_cmp);
        figures
    }

    fn at(sorted: &[f64], quantile: f64) -> f64 {
        sorted[(quantile * (sorted.len() - 1) as f64) as usize]
    }

    #[track_caller]
    fn near(seen: f64, published: f64, tolerance: f64) {
        let off = (seen / published - 1.0).abs();
        assert!(off <= tolerance, "{seen} for {published}: off by {off:.3}");
    }

    fn jobs(settings: Settings, hosts: &[Host], count: usize) -> Vec<Job> {
        Workload::new(settings, hosts).take(count).collect()
    }

    #[test]
    fn a_seed_says_it_all() {
        let hosts = Mix::Google2019.hosts(100, 1);
        for source in Source::ALL {
            let settings = Settings { source, ..SETTINGS };
            assert_eq!(jobs(settings, &hosts, 500), jobs(settings, &hosts, 500));
            let other = jobs(Settings { seed: 2, ..settings }, &hosts, 500);
            assert_ne!(jobs(settings, &hosts, 500), other);
        }
    }

    #[test]
    fn googles_tasks_are_as_published() {
        let hosts = Mix::Google2019.hosts(1000, 1);
        let jobs = jobs(Settings { load: 1.0, ..SETTINGS }, &hosts, 40_000);
        let cpu = sorted(jobs.iter().map(|job| job.resources.cpu_millis as f64 / 64_000.0));
        let memory = sorted(jobs.iter().map(|job| {
            job.resources.memory_bytes as f64 / machines::largest(&hosts).memory_bytes as f64
        }));
        let mean = |sorted: &[f64]| sorted.iter().sum::<f64>() / sorted.len() as f64;
        near(mean(&cpu), 0.0090, 0.03);
        near(at(&cpu, 0.5), 0.0065, 0.03);
        near(mean(&memory), 0.0061, 0.03);
        near(at(&memory, 0.5), 0.0039, 0.03);
        let lasts = jobs.iter().flat_map(|job| job.lasts_ms.iter().flatten());
        let lasts = sorted(lasts.map(|ms| *ms as f64 / 1000.0));
        let median = at(&lasts, 0.5);
        assert!((105.0..=129.0).contains(&median), "{median}");
        let tasks = sorted(jobs.iter().map(|job| job.lasts_ms.len() as f64));
        near(mean(&tasks), 12.0, 0.05);
        assert_eq!(at(&tasks, 0.82), 1.0);
        assert!(at(&tasks, 0.84) > 1.0);
        let gaps = jobs.windows(2).map(|two| (two[1].arrives_ms - two[0].arrives_ms) as f64);
        let gaps = sorted(gaps);
        // Of a Weibull distribution of shape 0.54: the ratio of p90 to the median, (ln 10 / ln 2)^(1 / 0.54).
        near(at(&gaps, 0.9) / at(&gaps, 0.5), 9.24, 0.1);
    }

    #[test]
    fn alibabas_tasks_are_as_published() {
        let hosts = Mix::Alibaba2023.hosts(1523, 1);
        for seed in [1, 2, 3] {
            let settings = Settings { source: Source::Alibaba2023, seed, ..SETTINGS };
            let jobs = jobs(settings, &hosts, 20_000);
            let cores = sorted(jobs.iter().map(|job| job.resources.cpu_millis as f64 / 1000.0));
            let gib = |job: &Job| job.resources.memory_bytes as f64 / f64::from(1 << 30);
            let memory = sorted(jobs.iter().map(gib));
            // The published figures have few shapes, and steps; so has what is drawn.
            for (quantile, published) in &OPENB_CORES[1..7] {
                near(at(&cores, *quantile), *published, 0.35);
            }
            for (quantile, published) in &OPENB_GIB[1..7] {
                near(at(&memory, *quantile), *published, 0.35);
            }
            near(at(&cores, 0.5), 11.3, 0.1);
            near(at(&memory, 0.5), 41.0, 0.1);
            let lasts = sorted(jobs.iter().map(|job| job.lasts_ms[0].unwrap() as f64 / 1000.0));
            for (quantile, published) in
                [(0.25, 167.0), (0.5, 540.0), (0.75, 1971.0), (0.9, 6568.0)]
            {
                near(at(&lasts, quantile), published, 0.2);
            }
            let named = jobs.iter().filter(|job| !job.constraints.is_empty()).count();
            near(named as f64 / jobs.len() as f64, 0.06, 0.1);
        }
    }

    #[test]
    fn alibabas_shapes_are_few() {
        let hosts = Mix::Alibaba2023.hosts(1523, 1);
        let mut counts = std::collections::BTreeMap::new();
        for shape in Shapes::new(Source::Alibaba2023, &hosts, 1).take(50_000) {
            *counts.entry((shape.cpu_millis, shape.memory_bytes)).or_insert(0) += 1;
        }
        assert!(counts.len() <= OPENB_SHAPES, "{}", counts.len());
        let mut counts: Vec<i32> = counts.into_values().collect();
        counts.sort_unstable();
        let top = |count: usize| f64::from(counts.iter().rev().take(count).sum::<i32>()) / 50_000.0;
        near(top(10), 0.59, 0.03);
        near(top(50), 0.94, 0.03);
    }

    #[test]
    fn the_load_is_what_was_asked_for() {
        for source in Source::ALL {
            let hosts = Mix::Google2011.hosts(1000, 1);
            let settings = Settings { source, load: 0.6, ..SETTINGS };
            let jobs = jobs(settings, &hosts, PILOT_JOBS);
            let work = |of: fn(Resources) -> u64| {
                let of_job = |job: &Job| {
                    let lasts: u64 = job.lasts_ms.iter().flatten().sum();
                    of(job.resources) as f64 * lasts as f64
                };
                jobs.iter().map(of_job).sum::<f64>() / of(machines::capacity(&hosts)) as f64
            };
            let needed = work(|r| r.cpu_millis).max(work(|r| r.memory_bytes));
            near(needed / jobs.last().unwrap().arrives_ms as f64, 0.6, 0.001);
        }
    }

    #[test]
    fn every_task_fits_on_some_machine_that_it_may_use() {
        for (mix, source) in
            Mix::ALL.into_iter().flat_map(|mix| Source::ALL.map(|source| (mix, source)))
        {
            let hosts = mix.hosts(50, 1);
            for job in jobs(Settings { source, constrained: 0.5, ..SETTINGS }, &hosts, 2000) {
                let may = |host: &&Host| {
                    let class = host.labels.get(CLASS_LABEL).map(String::as_str);
                    job.constraints.iter().all(|constraint| constraint.holds(class))
                };
                assert!(
                    hosts.iter().filter(may).any(|host| job.resources.fits_in(host.capacity)),
                    "{mix:?}, {source}: {job:?}"
                );
            }
        }
    }

    #[test]
    fn no_machine_means_no_job() {
        assert_eq!(jobs(SETTINGS, &[], 3), []);
        assert_eq!(Shapes::new(Source::Synthetic, &[], 1).next(), None);
    }
}
