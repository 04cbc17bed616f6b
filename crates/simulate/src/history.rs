//! Jobs as they came: a cluster's own events, to be run again.
//!
//! What is taken from the events: when each task was made, how long it held its node (from its assignment to its end),
//! and what its job asked of nodes. A task that had not ended when the recording did is taken to have no end. A task
//! that a loss or a failure made anew is one more, as it was one more for the cluster.
//!
//! Not in the events, and so not run again: affinities, spread, ports and mounts; and who was waited for.

use std::collections::BTreeMap;

use longshore_proto::constraint::{Attribute, Constraint, Operator};
use longshore_proto::event::{Event, JobWants};
use longshore_proto::id::TaskId;
use longshore_proto::name::{JobName, Namespace, SpecName};
use longshore_proto::state::TaskState;

use crate::workload::Job;

/// What was recorded.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct History {
    /// The jobs, in the order of their arrival. The first event was at 0.
    pub jobs: Vec<Job>,
    /// How long it was recorded, in milliseconds.
    pub duration_ms: u64,
    /// How many tasks are left out because the events do not say what they asked for: their job was submitted
    /// before the first event, or by a version of the manager that did not say it yet.
    pub unknown: u64,
    /// How many tasks are left out because they ended before they had a node.
    pub never_ran: u64,
}

/// Where a task belongs.
type Part = (Namespace, JobName, SpecName);

/// What is known of a task.
#[derive(Debug)]
struct Life {
    part: Part,
    made_ms: u64,
    /// What it asked for; absent when that is not known.
    wants: Option<Wants>,
    assigned_ms: Option<u64>,
    ended_ms: Option<u64>,
}

/// What one task asks for.
#[derive(Debug, Clone, PartialEq)]
struct Wants {
    priority: u8,
    resources: longshore_proto::spec::Resources,
    constraints: Vec<Constraint>,
}

/// Reads events, in the order in which they happened.
pub fn read(events: impl IntoIterator<Item = Event>) -> History {
    let mut wanted: BTreeMap<(Namespace, JobName), JobWants> = BTreeMap::new();
    // By the order of making, so that tasks of one job that came at once stay together.
    let mut lives: Vec<Life> = Vec::new();
    let mut numbers: BTreeMap<TaskId, usize> = BTreeMap::new();
    let (mut first_ms, mut now_ms) = (None, 0);
    for event in events {
        let first_ms = *first_ms.get_or_insert(event.at_ms);
        // Another leader's clock may be behind; time does not go back for that.
        now_ms = event.at_ms.saturating_sub(first_ms).max(now_ms);
        let (Some(namespace), Some(job)) = (event.namespace, event.job) else { continue };
        if let Some(wants) = event.wants {
            wanted.insert((namespace.clone(), job.clone()), wants);
        }
        let (Some(spec), Some(task)) = (event.spec, event.task) else { continue };
        let state = event.event_type.strip_prefix("task.").and_then(TaskState::parse);
        let number = *numbers.entry(task).or_insert_with(|| {
            let wants = wanted.get(&(namespace.clone(), job.clone()));
            let wants = wants.and_then(|wants| of_spec(wants, &spec));
            let part = (namespace, job, spec);
            // Of a task that is first heard of later, it is not known when it was made.
            let wants = wants.filter(|_| state == Some(TaskState::Pending));
            lives.push(Life { part, made_ms: now_ms, wants, assigned_ms: None, ended_ms: None });
            lives.len() - 1
        });
        let life = &mut lives[number];
        match state {
            Some(TaskState::Assigned) => {
                life.assigned_ms.get_or_insert(now_ms);
            }
            Some(state) if state.is_terminal() => {
                life.ended_ms.get_or_insert(now_ms);
            }
            _ => {}
        }
    }
    gather(lives, now_ms)
}

fn of_spec(wants: &JobWants, spec: &SpecName) -> Option<Wants> {
    let of_spec = wants.specs.iter().find(|one| one.name == *spec)?;
    let mut constraints = of_spec.constraints.clone();
    if !wants.datacenters.is_empty() {
        constraints.push(Constraint {
            attribute: Attribute::Datacenter,
            operator: Operator::In,
            values: wants.datacenters.iter().map(|name| name.as_str().to_owned()).collect(),
        });
    }
    Some(Wants { priority: wants.priority, resources: of_spec.resources, constraints })
}

/// Tasks of one part that came at once become one job.
fn gather(lives: Vec<Life>, duration_ms: u64) -> History {
    let mut history = History { duration_ms, ..History::default() };
    let mut last: Option<(Part, Wants)> = None;
    for Life { part, made_ms, wants, assigned_ms, ended_ms } in lives {
        let Some(wants) = wants else {
            history.unknown += 1;
            continue;
        };
        let lasts_ms = match (assigned_ms, ended_ms) {
            (Some(assigned_ms), Some(ended_ms)) => Some(ended_ms - assigned_ms),
            (None, Some(_)) => {
                history.never_ran += 1;
                continue;
            }
            (_, None) => None,
        };
        let is_of_last = last.as_ref() == Some(&(part.clone(), wants.clone()));
        match history.jobs.last_mut().filter(|job| is_of_last && job.arrives_ms == made_ms) {
            Some(job) => job.lasts_ms.push(lasts_ms),
            None => {
                let Wants { priority, resources, constraints } = wants.clone();
                history.jobs.push(Job {
                    arrives_ms: made_ms,
                    priority,
                    resources,
                    constraints,
                    lasts_ms: vec![lasts_ms],
                });
                last = Some((part, wants));
            }
        }
    }
    history
}

impl History {
    /// The same jobs, arriving so many times as fast; they run as long as they did.
    pub fn sped_up(mut self, times: f64) -> Self {
        let sooner = |ms: u64| (ms as f64 / times) as u64;
        self.jobs.iter_mut().for_each(|job| job.arrives_ms = sooner(job.arrives_ms));
        self.duration_ms = sooner(self.duration_ms);
        self
    }
}

#[cfg(test)]
mod tests {
    use longshore_proto::event::SpecWants;
    use longshore_proto::spec::Resources;
    use uuid::Uuid;

    use super::*;

    const RESOURCES: Resources =
        Resources { cpu_millis: 500, memory_bytes: 1 << 30, disk_bytes: 0 };

    fn blank(at_s: u64, event_type: &str) -> Event {
        Event {
            namespace: Some(Namespace::standard()),
            job: Some("web".parse().unwrap()),
            ..Event::bare(1, 0, 1_700_000_000_000 + at_s * 1000, event_type)
        }
    }

    fn submitted(at_s: u64, instances: u32) -> Event {
        let spec = SpecWants {
            name: "main".parse().unwrap(),
            instances,
            resources: RESOURCES,
            constraints: vec!["label.rack = r1".parse().unwrap()],
        };
        let wants =
            JobWants { priority: 70, datacenters: vec!["dc2".parse().unwrap()], specs: vec![spec] };
        Event { wants: Some(wants), ..blank(at_s, "job.submitted") }
    }

    fn task(at_s: u64, number: u128, state: &str) -> Event {
        Event {
            spec: Some("main".parse().unwrap()),
            task: Some(TaskId(Uuid::from_u128(number))),
            ..blank(at_s, &format!("task.{state}"))
        }
    }

    #[test]
    fn tasks_come_and_last_as_they_did() {
        let history = read([
            submitted(0, 2),
            task(1, 1, "pending"),
            task(1, 2, "pending"),
            task(1, 1, "assigned"),
            task(2, 1, "running"),
            task(5, 2, "assigned"),
            task(31, 1, "running"),
            task(61, 1, "completed"),
            task(61, 3, "pending"),
            task(70, 3, "stopped"),
            blank(100, "job.running"),
        ]);
        let constraints: Vec<String> =
            history.jobs[0].constraints.iter().map(ToString::to_string).collect();
        assert_eq!(constraints, ["label.rack = r1", "node.datacenter in dc2"]);
        let job = Job {
            arrives_ms: 1000,
            priority: 70,
            resources: RESOURCES,
            constraints: history.jobs[0].constraints.clone(),
            lasts_ms: vec![Some(60_000), None],
        };
        assert_eq!(
            history,
            History { jobs: vec![job], duration_ms: 100_000, unknown: 0, never_ran: 1 }
        );
    }

    #[test]
    fn what_is_not_known_is_counted_and_left_out() {
        let other = Event { job: Some("old".parse().unwrap()), ..task(2, 8, "pending") };
        let history = read([
            task(0, 7, "running"),
            submitted(1, 1),
            other,
            task(3, 7, "completed"),
            task(4, 9, "pending"),
        ]);
        assert_eq!((history.jobs.len(), history.unknown), (1, 2));
        assert_eq!(history.jobs[0].arrives_ms, 4000);
        assert_eq!(read([]), History::default());
    }

    #[test]
    fn a_new_version_is_a_new_job_and_clocks_do_not_go_back() {
        let more = |at_s| {
            let mut event = submitted(at_s, 1);
            event.wants.as_mut().unwrap().specs[0].resources.cpu_millis = 900;
            event
        };
        let history = read([
            submitted(10, 1),
            task(10, 1, "pending"),
            more(10),
            task(10, 2, "pending"),
            task(5, 3, "pending"),
            task(20, 3, "assigned"),
            task(19, 3, "failed"),
        ]);
        let cpus: Vec<(u64, u64)> =
            history.jobs.iter().map(|job| (job.arrives_ms, job.resources.cpu_millis)).collect();
        assert_eq!(cpus, [(0, 500), (0, 900)]);
        assert_eq!(history.jobs[1].lasts_ms, [None, Some(0)]);
    }

    #[test]
    fn a_history_can_be_run_faster() {
        let history = read([submitted(0, 1), task(60, 1, "pending"), blank(120, "job.running")]);
        let fast = history.sped_up(2.0);
        assert_eq!((fast.jobs[0].arrives_ms, fast.duration_ms), (30_000, 60_000));
    }
}
