//! Which managers are there: each offers its api as a NATS service, and says so to whoever asks for services.

use std::time::Duration;

use futures_util::StreamExt;
use longshore_bus::Bus;
use longshore_bus::service::{LEADER, MANAGER, PART, ROOT, SERVICE};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::Finding;

/// How long answers are waited for: nothing tells how many there will be.
const TIMEOUT: Duration = Duration::from_millis(700);

/// Looks who leads and who stands by; nothing where nobody answers, which the manager's own line tells. Nothing tells how
/// many are meant to be there, so that one that is missing is no fault: it is seen by its name not being here.
pub(super) async fn look(bus: &Bus) -> Option<Finding> {
    match ask(bus).await {
        Ok(answers) => found(&answers, bus.root().as_str()),
        Err(error) => Some(Finding::warn(
            "managers",
            format!("cannot ask which there are: {error}"),
            "see whether these credentials are an operator's",
        )),
    }
}

async fn ask(bus: &Bus) -> Result<Vec<Value>, String> {
    let client = bus.client();
    let inbox = client.new_inbox();
    let problem = |error: &dyn std::error::Error| error.to_string();
    let mut answers = client.subscribe(inbox.clone()).await.map_err(|error| problem(&error))?;
    let question = client.publish_with_reply(format!("$SRV.PING.{SERVICE}"), inbox, "".into());
    question.await.map_err(|error| problem(&error))?;
    let (mut found, until) = (Vec::new(), Instant::now() + TIMEOUT);
    while let Ok(Some(answer)) = timeout_at(until, answers.next()).await {
        found.extend(serde_json::from_slice::<Value>(&answer.payload));
    }
    Ok(found)
}

fn found(answers: &[Value], root: &str) -> Option<Finding> {
    let of = |answer: &Value, field: &str| {
        answer["metadata"][field].as_str().unwrap_or_default().to_owned()
    };
    let ours = answers.iter().filter(|answer| of(answer, ROOT) == root);
    let (leaders, others): (Vec<&Value>, Vec<&Value>) =
        ours.partition(|answer| of(answer, PART) == LEADER);
    let names = |answers: &[&Value]| {
        let mut names: Vec<String> = answers.iter().map(|answer| of(answer, MANAGER)).collect();
        names.sort_unstable();
        names.dedup();
        names.join(", ")
    };
    if leaders.is_empty() && others.is_empty() {
        // Those of the version before say nothing of themselves.
        return None;
    }
    let leads = if leaders.is_empty() { "none" } else { &names(&leaders) };
    let stand_by = match others.len() {
        0 => "no other one stands by".to_owned(),
        1 => format!("{} stands by", names(&others)),
        _ => format!("{} stand by", names(&others)),
    };
    Some(Finding::ok("managers", format!("{leads} leads, {stand_by}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_of_this_cluster_are_named_by_what_they_do() {
        let answer = |root: &str, manager: &str, part: &str| serde_json::json!({ "metadata": { "root": root, "manager": manager, "part": part } });
        let told = |answers: &[Value]| found(answers, "here").unwrap().detail;
        let (m1, m2) = (answer("here", "m1", "leader"), answer("here", "m2", "standby"));
        assert_eq!(told(std::slice::from_ref(&m1)), "m1 leads, no other one stands by");
        assert_eq!(told(&[m2.clone(), m1.clone()]), "m1 leads, m2 stands by");
        let (m3, else_) = (answer("here", "m3", "standby"), answer("there", "x", "leader"));
        assert_eq!(told(&[m3, m2.clone(), m1, else_.clone()]), "m1 leads, m2, m3 stand by");
        assert_eq!(told(&[m2]), "none leads, m2 stands by");
        for nothing in [&[][..], &[else_], &[serde_json::json!({ "name": "longshore" })]] {
            assert_eq!(found(nothing, "here"), None);
        }
    }
}
