//! `longshore node`: list, look at, cordon, label, remove; draining has a file of its own.

pub(crate) mod drain;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use longshore_bus::AskError;
use longshore_proto::api::{LabelNode, ListTasks, NameNodes, RemoveNode};
use longshore_proto::name::NodeName;
use longshore_proto::subject::ApiVerb;

use crate::args::{Format, WideFormat, node};
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::json;
use crate::parse::{Label, LabelChange};
use crate::render::Printer;
use crate::table::{self, Detail};

/// Lists nodes.
pub(crate) async fn list(
    client: &Client,
    wish: &node::Ls,
    printer: Printer,
) -> Result<Exit, Failure> {
    let nodes = client.at(wish.at.clone()).nodes().await;
    let nodes = nodes.map_err(|error| Failure::asked("list the nodes", &error))?;
    match wish.output {
        WideFormat::Json => {
            printer.json(&nodes.iter().map(json::Node::from).collect::<Vec<_>>())?
        }
        WideFormat::Table => printer.data(&table::nodes(&nodes, false))?,
        WideFormat::Wide => printer.data(&table::nodes(&nodes, true))?,
    }
    Ok(Exit::Done)
}

/// Shows a node and its tasks.
pub(crate) async fn status(
    client: &Client,
    wish: &node::Status,
    printer: Printer,
) -> Result<Exit, Failure> {
    let name = &wish.name;
    let problem = |error| Failure::asked(format_args!("show the node {name}"), &error);
    let node = client.node(name).await.map_err(problem)?;
    match wish.output {
        Format::Json => printer.json(&json::Node::from(&node))?,
        Format::Table => {
            printer.data(&table::node(&node))?;
            let question = ListTasks { node: Some(name.clone()), ..ListTasks::default() };
            let tasks = client.tasks(question).await.map_err(problem)?;
            if !tasks.is_empty() {
                printer
                    .data(&format!("\n{}", table::tasks(&tasks, table::now_ms(), Detail::Brief)))?;
            }
            let waits = table::drain_waits(&node);
            if !waits.is_empty() {
                printer.data(&format!("\n{waits}"))?;
            }
        }
    }
    Ok(Exit::Done)
}

/// Gives nodes no new tasks.
pub(crate) async fn cordon(
    client: &Client,
    wish: &node::Nodes,
    printer: Printer,
) -> Result<Exit, Failure> {
    let asked = NameNodes { names: wish.names.clone() };
    let answer = client.change_nodes(ApiVerb::NodeCordon, &asked).await;
    let changed = match answer {
        Ok(answer) => answer.names,
        Err(error) => return Err(refused(client, "cordon", &wish.names, &error).await),
    };
    tell(printer, &wish.names, &changed, "takes no new tasks", "was cordoned already")
}

/// Gives nodes tasks again.
pub(crate) async fn uncordon(
    client: &Client,
    wish: &node::Nodes,
    printer: Printer,
) -> Result<Exit, Failure> {
    let asked = NameNodes { names: wish.names.clone() };
    let answer = client.change_nodes(ApiVerb::NodeUncordon, &asked).await;
    let changed = match answer {
        Ok(answer) => answer.names,
        Err(error) => return Err(refused(client, "uncordon", &wish.names, &error).await),
    };
    tell(printer, &wish.names, &changed, "takes tasks again", "was open already")
}

/// Changes what an operator says of a node.
pub(crate) async fn label(
    client: &Client,
    wish: node::LabelNode,
    printer: Printer,
) -> Result<Exit, Failure> {
    let node::LabelNode { name, changes } = wish;
    let asked = labels(name.clone(), changes)?;
    let names = [name];
    let answer = client.change_nodes(ApiVerb::NodeLabel, &asked).await;
    let changed = match answer {
        Ok(answer) => answer.names,
        Err(error) => return Err(refused(client, "label", &names, &error).await),
    };
    tell(printer, &names, &changed, "has other labels now", "had these labels already")
}

fn labels(name: NodeName, changes: Vec<LabelChange>) -> Result<LabelNode, Failure> {
    let (mut set, mut remove) = (BTreeMap::new(), BTreeSet::new());
    for change in changes {
        let label = match change {
            LabelChange::Set(Label { name, value }) => match set.insert(name.clone(), value) {
                None => continue,
                Some(_) => name,
            },
            LabelChange::Remove(name) if remove.insert(name.clone()) => continue,
            LabelChange::Remove(name) => name,
        };
        return Err(Failure::new(format!("the label {label} is said twice"))
            .hint("say it once")
            .exit(Exit::Usage));
    }
    Ok(LabelNode { name, set, remove })
}

/// Forgets a node.
pub(crate) async fn remove(
    client: &Client,
    wish: &node::Rm,
    printer: Printer,
) -> Result<Exit, Failure> {
    let name = &wish.name;
    let asked = RemoveNode { name: name.clone(), force: wish.force };
    let gone = match client.remove_node(&asked).await {
        Ok(gone) => gone,
        Err(error) => {
            return Err(refused(client, "remove", std::slice::from_ref(name), &error).await);
        }
    };
    printer.data(&format!("{name}\n"))?;
    printer.talk(&match gone.tasks_lost {
        0 => format!("{name} is forgotten; it had no tasks"),
        1 => format!("{name} is forgotten; its task was lost and is replaced"),
        lost => format!("{name} is forgotten; its {lost} tasks were lost and are replaced"),
    });
    Ok(Exit::Done)
}

/// Takes the operator's word that a silent node has stopped.
pub(crate) async fn confirm_lost(
    client: &Client,
    wish: &node::ConfirmLost,
    printer: Printer,
) -> Result<Exit, Failure> {
    let name = &wish.name;
    let gone = match client.confirm_lost(name).await {
        Ok(gone) => gone,
        Err(error) => {
            let names = std::slice::from_ref(name);
            return Err(refused(client, "confirm the loss of", names, &error).await);
        }
    };
    printer.data(&format!("{name}\n"))?;
    printer.talk(&match gone.tasks_lost {
        0 => format!("{name} is confirmed lost; it had no fenced tasks that waited for it"),
        1 => format!("{name} is confirmed lost; its fenced task is replaced"),
        lost => format!("{name} is confirmed lost; its {lost} fenced tasks are replaced"),
    });
    Ok(Exit::Done)
}

/// Prints the nodes that are different now, and says of each how it stands.
fn tell(
    printer: Printer,
    names: &[NodeName],
    changed: &[NodeName],
    now: &str,
    already: &str,
) -> Result<Exit, Failure> {
    for name in names {
        let is_changed = changed.contains(name);
        printer.talk(&format!("{name} {}", if is_changed { now } else { already }));
        if is_changed {
            printer.data(&format!("{name}\n"))?;
        }
    }
    Ok(Exit::Done)
}

/// A request about nodes that was not granted. Managers that are older than this program do not listen to it.
async fn refused(
    client: &Client,
    verb: impl fmt::Display,
    names: &[NodeName],
    error: &AskError,
) -> Failure {
    let names: Vec<&str> = names.iter().map(NodeName::as_str).collect();
    let failure = Failure::commanded(format_args!("{verb} {}", names.join(", ")), error);
    let is_silence = matches!(error, AskError::NoResponders { .. });
    match client.cluster_of_leader().await {
        Ok(cluster) if is_silence => failure
            .because(&format!(
                "the manager is version {}, and does not know this request",
                cluster.manager_version
            ))
            .hint("upgrade the managers first"),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    fn made(words: &[&str]) -> Result<LabelNode, Failure> {
        let changes = words.iter().map(|word| parse::label_change(word).unwrap());
        labels("n1".parse().unwrap(), changes.collect())
    }

    #[test]
    fn labels_are_set_with_a_value_and_taken_away_with_a_hyphen() {
        let asked = made(&["rack=r1-", "disk-", "my-zone=a=b"]).unwrap();
        assert_eq!(asked.set["rack"], "r1-");
        assert_eq!(asked.set["my-zone"], "a=b");
        assert!(asked.remove.contains("disk"));
        for twice in [["a=1", "a=2"], ["a-", "a-"]] {
            assert_eq!(made(&twice).unwrap_err().status(), Exit::Usage);
        }
        for bad in ["-", "rack", "=x", ""] {
            assert!(parse::label_change(bad).is_err(), "{bad}");
        }
    }
}
