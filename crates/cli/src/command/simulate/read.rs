//! Nodes and histories from files, as this program's own `-o json` prints them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use jiff::Timestamp;
use longshore_proto::constraint::Constraint;
use longshore_proto::event::{Event, JobWants, SpecWants};
use longshore_proto::id::TaskId;
use longshore_proto::name::{Datacenter, JobName, Namespace, NodeName, SpecName};
use longshore_proto::node::tasks_max_usual;
use longshore_proto::spec::Resources;
use longshore_simulate::history::{self, History};
use longshore_simulate::machines::Host;
use serde::Deserialize;

use crate::failure::Failure;

/// What is read of a node of `longshore node ls -o json`.
#[derive(Debug, Deserialize)]
struct Node {
    name: NodeName,
    #[serde(default = "Datacenter::standard")]
    datacenter: Datacenter,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
    capacity: Resources,
    #[serde(default = "tasks_max_usual")]
    tasks_max: u32,
}

/// The nodes of a file.
pub(super) fn nodes(path: &Path) -> Result<Vec<Host>, Failure> {
    let what = || Failure::new(format!("cannot read the nodes of {}", path.display()));
    let hint = "make the file with: longshore node ls -o json > FILE";
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::file("read the nodes of", path, &error))?;
    let nodes: Vec<Node> =
        serde_json::from_str(&text).map_err(|error| what().cause(&error).hint(hint))?;
    if nodes.is_empty() {
        return Err(what().because("there is none in it").hint(hint));
    }
    let mut hosts: BTreeMap<NodeName, Host> = BTreeMap::new();
    for Node { name, datacenter, labels, attributes, capacity, tasks_max } in nodes {
        let host = Host { name: name.clone(), datacenter, labels, attributes, capacity, tasks_max };
        if hosts.insert(name.clone(), host).is_some() {
            return Err(what().because(&format!("{name} is in it twice")));
        }
    }
    Ok(hosts.into_values().collect())
}

/// What is read of a line of `longshore events -o json`.
#[derive(Debug, Deserialize)]
struct Line {
    index: u64,
    ordinal: u32,
    time: String,
    #[serde(rename = "type")]
    event_type: String,
    namespace: Option<Namespace>,
    job: Option<JobName>,
    spec: Option<SpecName>,
    task: Option<TaskId>,
    wants: Option<Wants>,
}

/// What a job asks of nodes.
#[derive(Debug, Deserialize)]
struct Wants {
    priority: u8,
    #[serde(default)]
    datacenters: Vec<Datacenter>,
    specs: Vec<Spec>,
}

/// What each task of a part of a job asks of its node.
#[derive(Debug, Deserialize)]
struct Spec {
    name: SpecName,
    instances: u32,
    resources: Resources,
    #[serde(default)]
    constraints: Vec<String>,
}

/// The jobs of a file of events.
pub(super) fn history(path: &Path) -> Result<History, Failure> {
    let what = || Failure::new(format!("cannot read the history of {}", path.display()));
    let hint = "make the file with: longshore events --all --all-namespaces -o json > FILE";
    let unread = |error| Failure::file("read the history of", path, &error);
    let file = File::open(path).map_err(unread)?;
    let mut events: Vec<Event> = Vec::new();
    for (line, number) in BufReader::new(file).lines().zip(1_u64..) {
        let line = line.map_err(unread)?;
        let problem = || Failure::new(format!("line {number}")).hint(hint);
        let within = |failure: Failure| {
            failure.within(format_args!("cannot read the history of {}", path.display()))
        };
        let line: Line =
            serde_json::from_str(&line).map_err(|error| within(problem().cause(&error)))?;
        events.push(event(line).map_err(|cause| within(problem().because(&cause)))?);
    }
    events.sort_by_key(|event| (event.index, event.ordinal));
    events.dedup_by_key(|event| (event.index, event.ordinal));
    let history = history::read(events);
    if history.jobs.is_empty() {
        let left_out = history.unknown + history.never_ran;
        let cause = format!("no task of it can be run again; {left_out} are left out");
        return Err(what()
            .because(&cause)
            .hint(format!("{hint}; it must reach back to a job's submit")));
    }
    Ok(history)
}

/// The event of a line.
fn event(line: Line) -> Result<Event, String> {
    let Line { index, ordinal, time, event_type, namespace, job, spec, task, wants } = line;
    let constraints = |texts: &[String]| {
        let parse = |text: &String| text.parse::<Constraint>().map_err(|error| error.to_string());
        texts.iter().map(parse).collect::<Result<Vec<Constraint>, String>>()
    };
    let spec_wants = |spec: Spec| {
        let constraints = constraints(&spec.constraints)?;
        let Spec { name, instances, resources, .. } = spec;
        Ok(SpecWants { name, instances, resources, constraints })
    };
    let job_wants = |wants: Wants| {
        let specs = wants.specs.into_iter().map(spec_wants).collect::<Result<_, String>>()?;
        Ok::<_, String>(JobWants {
            priority: wants.priority,
            datacenters: wants.datacenters,
            specs,
        })
    };
    let time: Timestamp = time.parse().map_err(|error: jiff::Error| error.to_string())?;
    Ok(Event {
        namespace,
        job,
        spec,
        task,
        wants: wants.map(job_wants).transpose()?,
        ..Event::bare(index, ordinal, u64::try_from(time.as_millisecond()).unwrap_or(0), event_type)
    })
}
