//! What plans and explanations look like.

use std::collections::BTreeMap;

use longshore_proto::api::NameTask;
use longshore_proto::explain::{CostTerms, Reason, RunnerUp, Why};
use longshore_proto::id::TaskId;
use longshore_proto::name::{Namespace, NodeName, Root};
use longshore_proto::plan;
use longshore_proto::plan::{
    Candidate, Displaced, Footing, Outlook, Rebalance, RebalancePlan, Refused, Shortage, Standing,
    TaskExplained, TaskRef, Unplaced, WhatIf,
};
use longshore_proto::spec::{Resources, SchedulerKind};
use longshore_proto::state::TaskState;
use longshore_proto::subject::{ApiVerb, Scope, Subject};

use crate::api::operated_nodes;
use crate::samples::{CAPACITY, job, uuid};
use crate::{Examples, ok};

pub(crate) fn plans(examples: &mut Examples) {
    let subject = |scope: Scope, verb| Subject::Api { scope, verb }.text(&Root::standard());
    let own = Scope::Namespace(Namespace::standard());
    let title = |verb: ApiVerb, scope| format!("{} (`{}`)", verb.as_str(), subject(scope, verb));
    let task = |id: Option<u128>, job: &str| TaskRef {
        id: id.map(|id| TaskId(uuid(id))),
        namespace: Namespace::standard(),
        job: job.parse().unwrap(),
        spec: "main".parse().unwrap(),
    };
    let (n1, n2): (NodeName, NodeName) = ("n1".parse().unwrap(), "n2".parse().unwrap());
    let cost = CostTerms { cpu: 0.25, memory: 0.5, tasks: 0.125, ..CostTerms::default() };
    let why = Why {
        scheduler: SchedulerKind::Epvm,
        nodes: 3,
        feasible: 2,
        removed: BTreeMap::from([(Reason::Constraint, 1)]),
        unmet: vec![(0, 1)],
        cost: Some(cost),
        runner_up: Some(RunnerUp { node: n2.clone(), cost: CostTerms { cpu: 0.5, ..cost } }),
        moved_from: None,
    };

    examples.heading(&title(ApiVerb::TaskExplain, own));
    examples.message("Request:", &NameTask { id: "01970000".into() });
    let placed = TaskExplained {
        task: task(Some(7), "web"),
        priority: 50,
        state: TaskState::Running,
        silent: false,
        node: Some(n1.clone()),
        reason: None,
        placement: Some(why.sentence(|_| "label.rack = r1".to_owned())),
        why: Some(why),
        now: Some(Standing {
            scheduler: SchedulerKind::Epvm,
            nodes: 3,
            feasible: 1,
            removed: BTreeMap::from([(Reason::Constraint, 1), (Reason::Cpu, 1)]),
            removed_text: "1 does not meet a constraint (label.rack = r1: 1), 1 lacks cpu (most \
                           free: 0.2 of 0.5 cores wanted)"
                .into(),
            best: vec![Candidate { node: n1.clone(), cost: Some(cost) }],
            refused: vec![Refused {
                node: n2.clone(),
                reason: Reason::Cpu,
                text: "lacks cpu: 0.2 of 0.5 cores wanted are free".into(),
            }],
            closest: Some(Shortage {
                node: n2.clone(),
                missing: Resources { cpu_millis: 300, memory_bytes: 0, disk_bytes: 0 },
            }),
            spread_over_nothing: vec![],
        }),
        room: vec![],
    };
    examples.message("Answer:", &ok(placed));
    let displaced =
        || Displaced { task: task(Some(9), "low"), priority: 10, node: Some(n2.clone()), to: None };
    let waiting = TaskExplained {
        task: task(Some(8), "web"),
        priority: 50,
        state: TaskState::Pending,
        silent: false,
        node: None,
        reason: Some("no node has joined yet".into()),
        placement: None,
        why: None,
        now: None,
        room: vec![plan::Seat { node: n2.clone(), displaced: vec![displaced()] }],
    };
    examples.message("Answer of a task that waits, with what would be displaced:", &ok(waiting));

    examples.heading(&title(ApiVerb::ClusterWhatIf, Scope::Cluster));
    examples.message("Request:", &WhatIf::Drain { nodes: vec![n1.clone()] });
    examples.message("Request:", &WhatIf::Lose { nodes: vec![n1.clone(), n2.clone()] });
    let add = WhatIf::Add {
        nodes: 3,
        capacity: CAPACITY,
        datacenter: Some("dc2".parse().unwrap()),
        labels: BTreeMap::from([("rack".to_owned(), "r1".to_owned())]),
    };
    examples.message("Request:", &add);
    examples.message("Request:", &WhatIf::Submit { job: Box::new(job()) });
    let before = Footing {
        nodes: 2,
        cost: 1.5,
        capacity: CAPACITY,
        free: Resources { cpu_millis: 500, memory_bytes: 1 << 30, disk_bytes: 1 << 30 },
    };
    let after = Footing { nodes: 1, cost: 2.5, ..before };
    let outlook = Outlook {
        before,
        after,
        placed: vec![plan::Placed {
            task: task(Some(7), "web"),
            from: Some(n1.clone()),
            to: n2.clone(),
        }],
        placed_total: 1,
        displaced: vec![Displaced { to: Some(n1.clone()), ..displaced() }],
        displaced_total: 1,
        ended_total: 0,
        unplaced: vec![Unplaced {
            namespace: Namespace::standard(),
            job: "low".parse().unwrap(),
            spec: "main".parse().unwrap(),
            tasks: 1,
            placed_now: 1,
            reason: "no node fits: of 2 nodes, 1 is draining, 1 lacks cpu".into(),
        }],
        unplaced_total: 1,
    };
    examples.message("Answer:", &ok(outlook));

    let asked = Rebalance { moves_max: Some(10), gain: Some(2.0) };
    let plan = |successor: Option<u128>| RebalancePlan {
        moves: vec![plan::Move {
            task: task(Some(7), "web"),
            from: n1.clone(),
            to: n2.clone(),
            cost_here: 3.0,
            cost_there: 1.0,
            successor: successor.map(|id| TaskId(uuid(id))),
        }],
        before: after,
        after: before,
    };
    examples.heading(&title(ApiVerb::RebalancePlan, Scope::Cluster));
    examples.message("Request:", &asked);
    examples.message("Answer:", &ok(plan(None)));
    operated_nodes(examples, &title);

    examples.heading(&title(ApiVerb::RebalanceStart, Scope::Cluster));
    examples.message("Request:", &asked);
    examples.message("Answer:", &ok(plan(Some(10))));
}
