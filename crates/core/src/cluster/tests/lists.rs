//! Lists: whichever way the tasks of a job or a node are found, they are those that a look at each task finds.

use longshore_proto::api::{ListJobs, ListTasks, RemoveNode, TaskView};
use longshore_proto::name::Namespace;
use longshore_proto::spec::{JobType, Resources};
use longshore_proto::state::TaskState;

use super::world::{NODE, World, hasty_job, job, key};
use crate::cluster::{Command, NodeCommand};

/// Everything that a question finds, page by page.
fn all(world: &World, namespace: Option<&Namespace>, question: &ListTasks) -> Vec<TaskView> {
    let (mut question, mut found) = (question.clone(), Vec::new());
    loop {
        let page = world.cluster.task_page(namespace, &question);
        question.after = page.items.last().map(|task| task.id);
        found.extend(page.items);
        if !page.more {
            return found;
        }
    }
}

/// A few jobs with tasks that live, wait, end, and are given up, and one in another namespace.
fn filled() -> World {
    let mut world = World::new();
    for node in ["n1", "n2"] {
        world.join(node, NODE).unwrap();
    }
    world.submit(job("web", 5));
    world.start_all("web");
    let mut other = job("web", 2);
    other.namespace = "other".parse().unwrap();
    world.submit(other);
    let mut sums = job("sums", 3);
    sums.job_type = JobType::Batch;
    world.submit(sums);
    world.start_all("sums");
    let done = world.live("sums")[0];
    world.report(done, 1, TaskState::Completed, Some(0));
    world.submit(hasty_job("hasty", 2));
    for _ in 0..4 {
        world.start_all("hasty");
        if let Some(task) = world.live("hasty").first() {
            world.report(*task, 1, TaskState::Failed, Some(1));
        }
        world.pass(60_000, &["n1", "n2"]);
    }
    let mut large = job("large", 2);
    large.specs[0].resources = Resources { cpu_millis: 2 * NODE.cpu_millis, ..NODE };
    world.submit(large);
    // One that has just been given up, and waits for its next.
    world.submit(hasty_job("broken", 1));
    world.start_all("broken");
    world.report(world.live("broken")[0], 1, TaskState::Failed, Some(1));
    world
}

#[test]
fn the_tasks_of_a_job_or_a_node_are_those_that_a_look_at_each_finds() {
    let mut world = filled();
    check(&world);
    // What ended there is known yet.
    let remove = RemoveNode { name: "n1".parse().unwrap(), force: true };
    world.command(Command::Node(NodeCommand::Remove(remove))).unwrap();
    assert!(!world.cluster.state().nodes.contains_key("n1"));
    check(&world);
}

fn check(world: &World) {
    let everything = all(world, None, &ListTasks { ended: true, ..ListTasks::default() });
    assert_eq!(everything.len(), world.cluster.state().tasks.len());
    assert!(everything.iter().any(|task| task.state == TaskState::Failed));
    let given_up = all(world, None, &ListTasks { given_up: true, ..ListTasks::default() });
    assert!(given_up.iter().any(|task| task.state == TaskState::Failed && task.node.is_some()));
    let standard = Namespace::standard();
    let names: Vec<_> = ["web", "sums", "hasty", "large", "none"]
        .map(|name| Some(name.parse().unwrap()))
        .into_iter()
        .chain([None])
        .collect();
    let nodes: Vec<_> = ["n1", "n2", "gone"]
        .map(|name| Some(name.parse().unwrap()))
        .into_iter()
        .chain([None])
        .collect();
    let mut found_some = 0;
    for (ended, given_up) in [(false, false), (true, false), (false, true)] {
        let kept = all(world, None, &ListTasks { ended, given_up, ..ListTasks::default() });
        for ((namespace, job), node) in [None, Some(&standard)]
            .iter()
            .flat_map(|namespace| names.iter().map(move |job| (namespace, job)))
            .flat_map(|one| nodes.iter().map(move |node| (one, node)))
        {
            let (job, node) = (job.clone(), node.clone());
            let question =
                ListTasks { job, node, ended, given_up, limit: Some(2), ..ListTasks::default() };
            let is_wanted = |task: &&TaskView| {
                namespace.is_none_or(|of| task.namespace == *of)
                    && question.job.as_ref().is_none_or(|job| task.job == *job)
                    && (question.node.is_none() || task.node == question.node)
            };
            let wanted: Vec<_> = kept.iter().filter(is_wanted).map(|task| task.id).collect();
            let found: Vec<_> =
                all(world, *namespace, &question).iter().map(|task| task.id).collect();
            assert_eq!(found, wanted, "{namespace:?} {question:?}");
            found_some += usize::from(!found.is_empty());
        }
    }
    assert!(found_some > 30, "{found_some}");
}

#[test]
fn a_copy_shows_jobs_and_counts_tasks_as_they_stood() {
    let mut world = filled();
    let mut changed = job("web", 5);
    changed.specs[0].image = "another:1".into();
    world.submit(changed);
    let state = world.cluster.state();
    let (jobs, counts) = (state.job_page(None, &ListJobs::default()), state.count_tasks());
    let web = jobs.items.iter().find(|job| job.name.as_str() == "web").unwrap();
    assert_eq!(web.version, 2);
    assert!(web.specs[0].outdated > 0, "{web:#?}");
    assert_eq!(counts.values().sum::<u64>(), state.tasks.len() as u64);
    let copy = state.copy_of_jobs();
    for id in world.live("sums") {
        world.report(id, 1, TaskState::Completed, Some(0));
    }
    assert_eq!(copy.job_page(None, &ListJobs::default()), jobs);
    assert_eq!(copy.count_tasks(), counts);
    assert_eq!(copy.tasks_of(&key("large")), 2);
    assert_ne!(world.cluster.state().count_tasks(), counts);
}
