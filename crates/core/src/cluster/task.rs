//! A task as the state keeps it: there may be a million, so what each takes is laid out here and nowhere else.
//!
//! What every task has lies in [`Task`] itself. What few have shares one allocation ([`Rare`]); the reason for a
//! placement is packed into bytes ([`PackedWhy`]), and a container's id into half of its text. What is *stored* is
//! another matter, and stays as it always was: see [`Stored`].

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use longshore_proto::codec;
use longshore_proto::explain::{CostTerms, MovedFrom, Reason, RunnerUp, Why};
use longshore_proto::health::HealthReport;
use longshore_proto::id::{Revision, TaskId};
use longshore_proto::name::{JobKey, JobName, NameError, Namespace, NodeName, SpecName};
use longshore_proto::node::TaskReport;
use longshore_proto::spec::{Port, SchedulerKind};
use longshore_proto::state::{Mover, TaskState, is_legal_move};
use serde::{Deserialize, Serialize, Serializer};

/// A task.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Its job.
    pub job: JobKey,
    /// Its part of the job.
    pub spec: SpecName,
    /// Where it is.
    pub node: Option<NodeName>,
    /// The job's version that it runs.
    pub version: u64,
    /// The worker's count of starts.
    pub attempt: u64,
    /// When the manager last decided on it.
    pub revision: Revision,
    /// The record that made it: ids of one millisecond do not tell which came first.
    pub created_index: u64,
    /// When it was made.
    pub created_at_ms: u64,
    /// When its container last started.
    pub started_at_ms: Option<u64>,
    /// Its health, where it is asked for and it runs.
    pub health: Option<HealthReport>,
    /// Why it is where it is.
    pub(super) why: Option<PackedWhy>,
    /// Its container.
    pub(super) container: Option<ContainerId>,
    rare: Option<Box<Rare>>,
    /// Its place among the instances.
    pub slot: u32,
    /// How many tasks in a row failed in this slot before it.
    pub failures: u32,
    /// The task that it replaces.
    pub replaces: Option<TaskId>,
    /// Where it stands.
    pub state: TaskState,
}

/// What few tasks have, most of them ended or ending.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Rare {
    /// Why it is to end, once it is.
    pub(super) stop: Option<String>,
    /// Why it is as it is.
    pub(super) reason: Option<String>,
    /// The exit code of the attempt that ended last.
    pub(super) exit_code: Option<i64>,
    /// When it ended.
    pub(super) finished_at_ms: Option<u64>,
    /// The more important job that needs its place.
    pub(super) displaced_by: Option<JobKey>,
    /// Its ports with those that its worker has chosen; empty where there was nothing to choose.
    pub(super) ports: Vec<Port>,
    /// Why it is where it is, as versions of before kept it.
    pub(super) placement: Option<String>,
    /// How many times its image could not be had, while it prepares.
    pub(super) pulls_failed: u32,
}

impl Task {
    /// One that waits for a node.
    pub(super) fn new(
        (job, spec): (JobKey, SpecName),
        slot: u32,
        version: u64,
        revision: Revision,
        at_ms: u64,
    ) -> Self {
        Self {
            job,
            spec,
            node: None,
            version,
            attempt: 0,
            revision,
            created_index: revision.index,
            created_at_ms: at_ms,
            started_at_ms: None,
            health: None,
            why: None,
            container: None,
            rare: None,
            slot,
            failures: 0,
            replaces: None,
            state: TaskState::Pending,
        }
    }

    /// Why it is to end, once it is.
    pub fn stop(&self) -> Option<&str> {
        self.rare.as_ref()?.stop.as_deref()
    }

    /// Whether it has been told to end.
    pub fn is_to_stop(&self) -> bool {
        self.stop().is_some()
    }

    /// Why it is as it is.
    pub fn reason(&self) -> Option<&str> {
        self.rare.as_ref()?.reason.as_deref()
    }

    /// The exit code of the attempt that ended last.
    pub fn exit_code(&self) -> Option<i64> {
        self.rare.as_ref()?.exit_code
    }

    /// When it ended.
    pub fn finished_at_ms(&self) -> Option<u64> {
        self.rare.as_ref()?.finished_at_ms
    }

    /// The more important job that needs its place.
    pub fn displaced_by(&self) -> Option<&JobKey> {
        self.rare.as_ref()?.displaced_by.as_ref()
    }

    /// Its ports with those that its worker has chosen; empty where there was nothing to choose.
    pub fn ports(&self) -> &[Port] {
        self.rare.as_ref().map_or(&[], |rare| &rare.ports)
    }

    /// Why it is where it is.
    pub fn why(&self) -> Option<Why> {
        self.why.as_ref()?.unpack()
    }

    /// Why it is where it is, as versions of before kept it: in words.
    pub(super) fn placement_text(&self) -> Option<&str> {
        self.rare.as_ref()?.placement.as_deref()
    }

    /// Its container.
    pub fn container_id(&self) -> Option<String> {
        self.container.as_ref().map(ContainerId::to_string)
    }

    /// How many times its image could not be had, while it prepares.
    pub fn pulls_failed(&self) -> u32 {
        self.rare.as_ref().map_or(0, |rare| rare.pulls_failed)
    }

    /// Changes what few tasks have. Where nothing is left of it, it takes no memory.
    pub(super) fn set_rare(&mut self, change: impl FnOnce(&mut Rare)) {
        let mut rare = self.rare.take().unwrap_or_default();
        change(&mut rare);
        self.rare = (*rare != Rare::default()).then_some(rare);
    }

    /// Whether a worker's report says something that is not known: a step forward, another health, or that its image
    /// cannot be had.
    pub fn is_news(&self, report: &TaskReport) -> bool {
        let (from, to) = ((self.attempt, self.state), (report.attempt, report.state));
        let place = |health: Option<HealthReport>| health.map_or(0, |health| health.sequence);
        is_legal_move(from, to, Mover::Worker)
            || (from == to
                && match self.state {
                    TaskState::Running => place(report.health) > place(self.health),
                    TaskState::Preparing => report.pulls_failed > self.pulls_failed(),
                    _ => false,
                })
    }
}

/// A container's id. Docker's are 32 bytes, written as 64 digits.
#[derive(Clone, PartialEq)]
pub(super) enum ContainerId {
    Bytes([u8; 32]),
    Text(Box<str>),
}

impl From<&str> for ContainerId {
    fn from(text: &str) -> Self {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let mut bytes = [0; 32];
        let is_hash = text.len() == 64
            && bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)).all(|(byte, pair)| {
                let (high, low) = (digit(pair[0]), digit(pair[1]));
                *byte = high.unwrap_or(0) << 4 | low.unwrap_or(0);
                high.is_some() && low.is_some()
            });
        if is_hash { Self::Bytes(bytes) } else { Self::Text(text.into()) }
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        match self {
            Self::Bytes(bytes) => {
                let mut text = [0; 64];
                for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
                    pair[0] = DIGITS[usize::from(byte >> 4)];
                    pair[1] = DIGITS[usize::from(byte & 15)];
                }
                f.write_str(std::str::from_utf8(&text).unwrap_or_default())
            }
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A [`Why`] in some ninety bytes instead of three hundred: without the names of fields, and with one byte for each
/// term of a cost that says nothing.
#[derive(Clone, PartialEq)]
pub(super) struct PackedWhy(Box<[u8]>);

/// The terms of a cost: nothing where they are as usual.
type Terms = [Option<f64>; 6];

#[derive(Serialize, Deserialize)]
struct Parts(
    /// The scheduler, by its place among all.
    u8,
    /// How many nodes there were, and how many of them were feasible.
    (u32, u32),
    /// Reasons by their place among all, with how many nodes each removed.
    Vec<(u8, u32)>,
    /// Constraints that were not met.
    Vec<(u32, u32)>,
    /// The cost.
    Option<Terms>,
    /// The runner-up.
    Option<(NodeName, Terms)>,
    /// Where it was moved from.
    Option<(NodeName, f64, f64)>,
);

impl PackedWhy {
    pub(super) fn pack(why: &Why) -> Self {
        let terms = |cost: &CostTerms| {
            let CostTerms { cpu, memory, disk, tasks, stale_penalty, preference } = *cost;
            let unusual = |term: f64, usual: f64| (term != usual).then_some(term);
            let [cpu, memory, disk, tasks, stale] =
                [cpu, memory, disk, tasks, stale_penalty].map(|term| unusual(term, 0.0));
            [cpu, memory, disk, tasks, stale, unusual(preference, 1.0)]
        };
        let removed = why.removed.iter();
        let runner_up = why.runner_up.as_ref();
        let moved = why.moved_from.as_ref();
        let parts = Parts(
            place(&SchedulerKind::ALL, &why.scheduler),
            (why.nodes, why.feasible),
            removed.map(|(reason, nodes)| (place(&Reason::ALL, reason), *nodes)).collect(),
            why.unmet.clone(),
            why.cost.as_ref().map(terms),
            runner_up.map(|next| (next.node.clone(), terms(&next.cost))),
            moved.map(|moved| (moved.node.clone(), moved.cost, moved.cost_now)),
        );
        Self(codec::encode(&parts).into_boxed_slice())
    }

    /// Nothing only if the bytes were not made by [`PackedWhy::pack`].
    fn unpack(&self) -> Option<Why> {
        let Parts(scheduler, (nodes, feasible), removed, unmet, cost, runner_up, moved_from) =
            codec::decode_trusted(&self.0).ok()?;
        let terms = |[cpu, memory, disk, tasks, stale, preference]: Terms| {
            let [cpu, memory, disk, tasks, stale_penalty] =
                [cpu, memory, disk, tasks, stale].map(|term| term.unwrap_or(0.0));
            let preference = preference.unwrap_or(1.0);
            CostTerms { cpu, memory, disk, tasks, stale_penalty, preference }
        };
        let reason = |(place, nodes)| Some((*Reason::ALL.get(usize::from(place))?, nodes));
        Some(Why {
            scheduler: *SchedulerKind::ALL.get(usize::from(scheduler))?,
            nodes,
            feasible,
            removed: removed.into_iter().filter_map(reason).collect(),
            unmet,
            cost: cost.map(terms),
            runner_up: runner_up.map(|(node, cost)| RunnerUp { node, cost: terms(cost) }),
            moved_from: moved_from.map(|(node, cost, cost_now): (_, f64, f64)| MovedFrom {
                node,
                cost,
                cost_now,
            }),
        })
    }
}

fn place<T: PartialEq>(all: &[T], one: &T) -> u8 {
    let place = all.iter().position(|other| other == one);
    place.and_then(|place| u8::try_from(place).ok()).unwrap_or(u8::MAX)
}

impl fmt::Debug for PackedWhy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.unpack().fmt(f)
    }
}

/// A task as it is stored, which is a format that only grows: new fields are optional.
#[derive(Serialize, Deserialize)]
pub(super) struct Stored<'a> {
    #[serde(borrow)]
    job: StoredJob<'a>,
    spec: &'a str,
    slot: u32,
    version: u64,
    node: Option<&'a str>,
    state: TaskState,
    attempt: u64,
    stop: Option<&'a str>,
    revision: Revision,
    container_id: Option<&'a str>,
    #[serde(default, skip_serializing_if = "is_empty")]
    ports: Cow<'a, [Port]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    health: Option<HealthReport>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pulls_failed: u32,
    exit_code: Option<i64>,
    reason: Option<&'a str>,
    placement: Option<&'a str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    why: Option<Why>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    displaced_by: Option<Cow<'a, JobKey>>,
    replaces: Option<TaskId>,
    failures: u32,
    created_index: u64,
    created_at_ms: u64,
    started_at_ms: Option<u64>,
    finished_at_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct StoredJob<'a> {
    namespace: &'a str,
    name: &'a str,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

fn is_empty(ports: &[Port]) -> bool {
    ports.is_empty()
}

impl Serialize for Task {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let container = self.container_id();
        let stored = Stored {
            job: StoredJob { namespace: self.job.namespace.as_str(), name: self.job.name.as_str() },
            spec: self.spec.as_str(),
            slot: self.slot,
            version: self.version,
            node: self.node.as_ref().map(NodeName::as_str),
            state: self.state,
            attempt: self.attempt,
            stop: self.stop(),
            revision: self.revision,
            container_id: container.as_deref(),
            ports: self.ports().into(),
            health: self.health,
            pulls_failed: self.pulls_failed(),
            exit_code: self.exit_code(),
            reason: self.reason(),
            placement: self.placement_text(),
            why: self.why(),
            displaced_by: self.displaced_by().map(Cow::Borrowed),
            replaces: self.replaces,
            failures: self.failures,
            created_index: self.created_index,
            created_at_ms: self.created_at_ms,
            started_at_ms: self.started_at_ms,
            finished_at_ms: self.finished_at_ms(),
        };
        stored.serialize(serializer)
    }
}

impl Stored<'_> {
    /// The task, named by the names that are known already.
    pub(super) fn read(self, names: &mut Names) -> Result<Task, NameError> {
        let job = names.job(self.job.namespace, self.job.name)?;
        let spec = names.spec(self.spec)?;
        let node = self.node.map(|node| names.node(node)).transpose()?;
        let mut task =
            Task::new((job, spec), self.slot, self.version, self.revision, self.created_at_ms);
        task.node = node;
        task.attempt = self.attempt;
        task.created_index = self.created_index;
        task.started_at_ms = self.started_at_ms;
        task.health = self.health;
        task.why = self.why.as_ref().map(PackedWhy::pack);
        task.container = self.container_id.map(ContainerId::from);
        task.failures = self.failures;
        task.replaces = self.replaces;
        task.state = self.state;
        task.set_rare(|rare| {
            *rare = Rare {
                stop: self.stop.map(str::to_owned),
                reason: self.reason.map(str::to_owned),
                exit_code: self.exit_code,
                finished_at_ms: self.finished_at_ms,
                displaced_by: self.displaced_by.map(Cow::into_owned),
                ports: self.ports.into_owned(),
                placement: self.placement.map(str::to_owned),
                pulls_failed: self.pulls_failed,
            };
        });
        Ok(task)
    }
}

/// Names that were read before: a million tasks name a few jobs, parts and nodes, and had each a text of its own for
/// these, that would be a hundred bytes a task.
#[derive(Debug, Default)]
pub struct Names {
    /// The job of the task before: those of one job mostly come together.
    job: Option<JobKey>,
    namespaces: BTreeSet<Namespace>,
    jobs: BTreeSet<JobName>,
    specs: BTreeSet<SpecName>,
    nodes: BTreeSet<NodeName>,
}

impl Names {
    fn job(&mut self, namespace: &str, name: &str) -> Result<JobKey, NameError> {
        let is_it =
            |job: &&JobKey| (job.namespace.as_str(), job.name.as_str()) == (namespace, name);
        if let Some(job) = self.job.as_ref().filter(is_it) {
            return Ok(job.clone());
        }
        let namespace = known(&mut self.namespaces, namespace)?;
        let job = JobKey { namespace, name: known(&mut self.jobs, name)? };
        self.job = Some(job.clone());
        Ok(job)
    }

    fn spec(&mut self, name: &str) -> Result<SpecName, NameError> {
        known(&mut self.specs, name)
    }

    fn node(&mut self, name: &str) -> Result<NodeName, NameError> {
        known(&mut self.nodes, name)
    }
}

fn known<N>(names: &mut BTreeSet<N>, text: &str) -> Result<N, NameError>
where
    N: Ord + Clone + std::borrow::Borrow<str> + for<'a> TryFrom<&'a str, Error = NameError>,
{
    if let Some(name) = names.get(text) {
        return Ok(name.clone());
    }
    let name = N::try_from(text)?;
    names.insert(name.clone());
    Ok(name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// A million of them are kept: whoever adds a field to every task does it knowingly.
    #[test]
    fn a_task_takes_little_room() {
        assert!(size_of::<Task>() <= 248, "a task has {} bytes", size_of::<Task>());
        let cost = CostTerms { cpu: 1.5, memory: 0.7, tasks: 0.01, ..CostTerms::default() };
        let why = Why {
            scheduler: SchedulerKind::Epvm,
            nodes: 10_000,
            feasible: 9_000,
            removed: BTreeMap::from([(Reason::Cpu, 600), (Reason::Memory, 400)]),
            unmet: vec![],
            cost: Some(cost),
            runner_up: Some(RunnerUp { node: "node-1234".parse().unwrap(), cost }),
            moved_from: None,
        };
        let packed = PackedWhy::pack(&why).0.len();
        assert!(packed <= 100, "a reason has {packed} bytes");
    }

    #[test]
    fn ids_of_containers_come_back_as_they_were() {
        let docker = format!("{:064x}", u128::MAX);
        for text in
            [docker.as_str(), "", "c-1", &docker[1..], &docker.to_uppercase(), &"g".repeat(64)]
        {
            let id = ContainerId::from(text);
            assert_eq!(id.to_string(), text);
            assert_eq!(matches!(id, ContainerId::Bytes(_)), text == docker);
        }
    }

    #[test]
    fn tasks_that_are_read_share_their_names() {
        let mut names = Names::default();
        let of = |names: &mut Names, job: &str| {
            (names.job("default", job).unwrap(), names.spec("main").unwrap())
        };
        let (one, other, third) = (of(&mut names, "a"), of(&mut names, "a"), of(&mut names, "b"));
        let is_same = |one: &str, other: &str| std::ptr::eq(one, other);
        assert!(is_same(one.0.name.as_str(), other.0.name.as_str()));
        assert!(is_same(one.0.namespace.as_str(), third.0.namespace.as_str()));
        assert!(is_same(one.1.as_str(), third.1.as_str()));
        assert_eq!(third.0.name.as_str(), "b");
        assert!(names.node("no name").is_err());
    }

    fn cost() -> impl Strategy<Value = CostTerms> {
        let term = || prop_oneof![Just(0.0), Just(1.0), 0.0..1e9, Just(f64::MIN_POSITIVE)];
        (term(), term(), term(), term(), term(), term()).prop_map(
            |(cpu, memory, disk, tasks, stale_penalty, preference)| CostTerms {
                cpu,
                memory,
                disk,
                tasks,
                stale_penalty,
                preference,
            },
        )
    }

    proptest! {
        #[test]
        fn reasons_come_back_as_they_were(
            scheduler in 0..SchedulerKind::ALL.len(),
            (nodes, feasible) in any::<(u32, u32)>(),
            removed in proptest::collection::btree_map(0..Reason::ALL.len(), any::<u32>(), 0..4),
            unmet in proptest::collection::vec(any::<(u32, u32)>(), 0..3),
            (cost, next) in (proptest::option::of(cost()), proptest::option::of(cost())),
            moved in proptest::option::of(0.0..9.0),
        ) {
            let node: NodeName = "n1".parse().unwrap();
            let why = Why {
                scheduler: SchedulerKind::ALL[scheduler],
                nodes,
                feasible,
                removed: removed.into_iter().map(|(at, count)| (Reason::ALL[at], count)).collect(),
                unmet,
                cost,
                runner_up: next.map(|cost| RunnerUp { node: node.clone(), cost }),
                moved_from: moved.map(|cost| MovedFrom { node: node.clone(), cost, cost_now: 0.0 }),
            };
            prop_assert_eq!(PackedWhy::pack(&why).unpack(), Some(why));
        }
    }
}
