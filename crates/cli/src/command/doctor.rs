//! `longshore doctor`: looks for what is wrong, one thing after another, and says what to do.

mod docker;
mod jobs;
mod managers;

use std::collections::BTreeMap;
use std::time::Instant;

use longshore_bus::{AskError, Bus, Credentials};
use longshore_proto::api::{ClusterView, HistoryView, NodeView};
use longshore_proto::permission::Role;
use longshore_proto::state::NodeStatus;
use serde::Serialize;

use crate::args::{Format, Global, cluster::Doctor};
use crate::client::Client;
use crate::connect::Target;
use crate::failure::{Exit, Failure};
use crate::render::Printer;
use crate::table;

/// The NATS version that has every fix that matters.
const VERSION_RECOMMENDED: (u64, u64, u64) = (2, 14, 5);
/// The payload that our largest messages need, in bytes.
const PAYLOAD_BYTES_NEEDED: usize = longshore_proto::codec::PAYLOAD_BYTES_MAX;
/// How long an answer of the manager may take before it is worth a word, in milliseconds.
const ROUND_TRIP_MS_MAX: u128 = 500;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warn,
    Fail,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// What one look has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    level: Level,
    what: &'static str,
    detail: String,
    /// What to do next, when there is something to do.
    next: Option<String>,
}

impl Finding {
    fn ok(what: &'static str, detail: impl Into<String>) -> Self {
        Self { level: Level::Ok, what, detail: detail.into(), next: None }
    }

    fn warn(what: &'static str, detail: impl Into<String>, next: impl Into<String>) -> Self {
        Self { level: Level::Warn, what, detail: detail.into(), next: Some(next.into()) }
    }

    fn fail(what: &'static str, detail: impl Into<String>, next: impl Into<String>) -> Self {
        Self { level: Level::Fail, what, detail: detail.into(), next: Some(next.into()) }
    }

    fn failed(what: &'static str, failure: &Failure) -> Self {
        let (detail, next) = failure.told().unwrap_or_default();
        let next = next.map(str::to_owned);
        Self { level: Level::Fail, what, detail: detail.to_owned(), next }
    }
}

/// Prints findings as they come, and remembers the worst.
struct Report {
    printer: Printer,
    format: Format,
    findings: Vec<Finding>,
}

impl Report {
    fn add(&mut self, finding: Finding) -> Result<(), Failure> {
        if self.format == Format::Table {
            let word = finding.level.as_str();
            let mut text = table::lines(
                &[],
                vec![vec![
                    format!("{word:<4}"),
                    format!("{:<12}", finding.what),
                    finding.detail.clone(),
                ]],
                None,
            );
            if let Some(next) = &finding.next {
                text.push_str(&format!("       next: {next}\n"));
            }
            self.printer.data(&text)?;
        }
        self.findings.push(finding);
        Ok(())
    }

    fn close(self) -> Result<Exit, Failure> {
        if self.format == Format::Json {
            self.printer.json(&self.findings)?;
        }
        let worst = self.findings.iter().map(|finding| finding.level).max();
        Ok(if worst == Some(Level::Fail) { Exit::Failed } else { Exit::Done })
    }
}

/// Looks at everything that can be looked at.
pub(crate) async fn run(global: &Global, wish: &Doctor, printer: Printer) -> Result<Exit, Failure> {
    let mut report = Report { printer, format: wish.output, findings: Vec::new() };
    match Target::of_verb(global, printer) {
        Err(failure) => report.add(Finding::failed("context", &failure))?,
        Ok(target) => {
            report.add(credentials(&target))?;
            match connect(&target, global).await {
                Err(failure) => report.add(Finding::failed("nats", &failure))?,
                Ok(bus) => {
                    for finding in server(&bus, &target) {
                        report.add(finding)?;
                    }
                    let client = Client::new(bus, global);
                    cluster(&client, &mut report).await?;
                }
            }
        }
    }
    report.add(docker::look().await)?;
    report.close()
}

async fn connect(target: &Target, global: &Global) -> Result<Bus, Failure> {
    let options = target.verb_options(global)?;
    Bus::connect(options).await.map_err(|error| Failure::connecting(&error, &target.origin))
}

fn credentials(target: &Target) -> Finding {
    let Some(path) = &target.credentials else {
        return Finding::warn(
            "credentials",
            "none are used: if the server lets us in, the cluster is open to everybody who reaches it",
            "for anything but a trial, write accounts and users with `longshore auth init`",
        );
    };
    match Credentials::load(path) {
        Ok(credentials) => {
            let detail = format!("{} {} ({})", credentials.role, credentials.name, path.display());
            match credentials.role {
                Role::Operator => Finding::ok("credentials", detail),
                Role::Observer => {
                    Finding::warn("credentials", detail, "an observer may look, and change nothing")
                }
                _ => Finding::fail(
                    "credentials",
                    detail,
                    "verbs need an operator's: name them with --creds",
                ),
            }
        }
        Err(error) => Finding::failed("credentials", &Failure::from(error)),
    }
}

fn server(bus: &Bus, target: &Target) -> Vec<Finding> {
    let info = bus.client().server_info();
    let at = format!("{} ({}), version {}", target.servers, target.origin, info.version);
    let (major, minor, patch) = VERSION_RECOMMENDED;
    let mut findings =
        vec![if bus.client().is_server_compatible(major as i64, minor as i64, patch as i64) {
            Finding::ok("nats", at)
        } else {
            Finding::warn("nats", at, format!("{major}.{minor}.{patch} or newer is recommended"))
        }];
    if target.credentials.is_some() && !info.auth_required {
        findings.push(Finding::warn(
            "access",
            "the server asks nobody for credentials: the cluster is open",
            "start it with the configuration that `longshore auth init` writes",
        ));
    }
    findings.push(if info.jetstream {
        Finding::ok("jetstream", "the server has it")
    } else {
        Finding::fail(
            "jetstream",
            "this server does not have it, and the cluster's log lives in it",
            "start nats-server with -js, or with `jetstream { store_dir: … }` in its configuration",
        )
    });
    findings.push(if info.max_payload >= PAYLOAD_BYTES_NEEDED {
        Finding::ok("max_payload", table_bytes(info.max_payload))
    } else {
        Finding::warn(
            "max_payload",
            format!(
                "{}, and long lists need {}",
                table_bytes(info.max_payload),
                table_bytes(PAYLOAD_BYTES_NEEDED)
            ),
            "raise max_payload in the server's configuration",
        )
    });
    findings
}

fn table_bytes(bytes: usize) -> String {
    longshore_proto::quantity::format_bytes(bytes as u64)
}

async fn cluster(client: &Client, report: &mut Report) -> Result<(), Failure> {
    // An observer may not ask for services.
    if client.bus().role() == Role::Operator
        && let Some(finding) = managers::look(client.bus()).await
    {
        report.add(finding)?;
    }
    let asked_at = Instant::now();
    let cluster = match client.cluster_of_leader().await {
        Ok(cluster) => cluster,
        Err(error) => return report.add(no_leader(client, &error).await),
    };
    let round_trip_ms = asked_at.elapsed().as_millis();
    for finding in manager(&cluster, round_trip_ms) {
        report.add(finding)?;
    }
    if client.bus().role() == Role::Observer {
        return Ok(());
    }
    match client.nodes().await {
        Ok(nodes) => {
            for finding in machines(&nodes) {
                report.add(finding)?;
            }
        }
        Err(error) => {
            report.add(Finding::failed("nodes", &Failure::asked("list the nodes", &error)))?;
        }
    }
    report.add(match client.jobs(true).await {
        Ok(jobs) => jobs::look(&jobs),
        Err(error) => Finding::failed("jobs", &Failure::asked("list the jobs", &error)),
    })
}

/// Why nobody can decide: no manager at all, none that leads, or one that cannot write to the log.
async fn no_leader(client: &Client, error: &AskError) -> Finding {
    if let AskError::Refused(refusal) = error {
        return Finding::fail(
            "manager",
            format!("the leader cannot write: {}", refusal.message),
            // Its hint is for who asked for a change, and sends them here.
            "nothing was changed, tasks run on, and all goes on by itself once that is mended: see that a majority of the NATS \
             servers is up, that they reach each other, and that their disks have room (one whose disk was full is restarted \
             afterwards); the leader's log has the whole story",
        );
    }
    if let Ok(cluster) = client.cluster().await {
        return Finding::fail(
            "manager",
            format!(
                "a manager of cluster {} answers, and none leads: nothing can be changed, tasks run on",
                cluster.id
            ),
            "in a few seconds another one leads; if not, the managers' logs say what they wait for",
        );
    }
    let failure = Failure::asked("ask the manager", error);
    let detail = failure.told().map_or_else(String::new, |(text, _)| text.to_owned());
    let next = "start one with `longshore manager`; if one runs, its log says what it waits for";
    Finding::fail("manager", detail, next)
}

fn manager(cluster: &ClusterView, round_trip_ms: u128) -> Vec<Finding> {
    let detail = format!(
        "cluster {}, leader {} (epoch {}), version {}, answered in {round_trip_ms} ms",
        cluster.id,
        table::leader(cluster),
        cluster.epoch,
        cluster.manager_version
    );
    let mut findings = vec![if round_trip_ms <= ROUND_TRIP_MS_MAX {
        Finding::ok("manager", detail)
    } else {
        Finding::warn("manager", detail, "see whether its machine, its disk or NATS is overloaded")
    }];
    findings.extend(cluster.alarms.iter().map(|alarm| {
        Finding::fail("alarm", alarm.as_str(), "the manager's log has the whole story")
    }));
    findings.extend(cluster.warnings.iter().map(|warning| {
        Finding::warn("warning", warning.as_str(), "the manager's log has the whole story")
    }));
    findings.extend(cluster.history.as_ref().map(history));
    if cluster.records_skipped > 0 {
        findings.push(Finding::warn(
            "log",
            format!("{} messages in the log are no records of ours", cluster.records_skipped),
            "only managers may write there: check who has credentials for the managers' account",
        ));
    }
    if cluster.payloads_refused > 0 {
        findings.push(Finding::warn(
            "payloads",
            format!(
                "{} payloads could not be read since the manager started",
                cluster.payloads_refused
            ),
            "somebody speaks another version or protocol: the manager's log names the subjects",
        ));
    }
    findings
}

/// How far back the leader's history reaches, and why not further.
fn history(history: &HistoryView) -> Finding {
    let HistoryView { from_index, from_ms, joined_index } = history;
    let reach = format!("reaches back to {} (index {from_index})", table::time(*from_ms));
    match joined_index {
        Some(joined) if *from_index > 1 => Finding::warn(
            "history",
            format!(
                "{reach}: the leader joined at index {joined} from a snapshot, which carries the newest 64 MiB of events"
            ),
            "managers that were there before have more, and tell it while one of them leads; `longshore backup` then keeps it",
        ),
        _ => Finding::ok("history", reach),
    }
}

fn machines(nodes: &[NodeView]) -> Vec<Finding> {
    let mut by_status: BTreeMap<&str, u64> = BTreeMap::new();
    for node in nodes {
        *by_status.entry(node.status.as_str()).or_default() += 1;
    }
    let counts: Vec<String> =
        by_status.iter().map(|(status, count)| format!("{count} {status}")).collect();
    let ready = by_status.get(NodeStatus::Ready.as_str()).copied().unwrap_or(0);
    let silent =
        nodes.iter().any(|node| matches!(node.status, NodeStatus::Suspect | NodeStatus::Lost));
    let mut findings = vec![if nodes.is_empty() {
        Finding::warn("nodes", "there are none, so nothing can run", "start a `longshore worker`")
    } else if ready == 0 {
        Finding::fail(
            "nodes",
            counts.join(", "),
            "start the workers: `longshore node ls` lists them",
        )
    } else if silent {
        Finding::warn(
            "nodes",
            counts.join(", "),
            "look after those that are silent: `longshore node ls`",
        )
    } else {
        Finding::ok("nodes", counts.join(", "))
    }];
    for node in nodes {
        if let Some(problem) = &node.runtime_error {
            findings.push(Finding::fail(
                "runtime",
                format!("{}: {problem}", node.name),
                "mend Docker on that machine; the worker notices by itself",
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::tests::node;

    #[test]
    fn nodes_are_judged_by_whether_anything_can_run() {
        let levels = |nodes: &[NodeView]| machines(nodes).iter().map(|f| f.level).max().unwrap();
        assert_eq!(levels(&[]), Level::Warn);
        assert_eq!(levels(&[node("n1")]), Level::Ok);
        let lost = NodeView { status: NodeStatus::Lost, ..node("n2") };
        assert_eq!(levels(std::slice::from_ref(&lost)), Level::Fail);
        assert_eq!(levels(&[node("n1"), lost]), Level::Warn);
        let left = NodeView { status: NodeStatus::Left, ..node("n3") };
        assert_eq!(levels(&[node("n1"), left]), Level::Ok);
        let broken = NodeView { runtime_error: Some("Docker is away".into()), ..node("n1") };
        let found = machines(&[broken]);
        assert_eq!(found[1].detail, "n1: Docker is away");
        assert_eq!(found[1].level, Level::Fail);
    }

    #[test]
    fn history_that_did_not_come_along_is_told() {
        let reach = |from_index, joined_index| {
            history(&HistoryView { from_index, from_ms: 1_763_800_000_000, joined_index })
        };
        for (from, joined, level) in [
            (1, None, Level::Ok),
            (500, None, Level::Ok),
            (1, Some(900), Level::Ok),
            (500, Some(900), Level::Warn),
        ] {
            let found = reach(from, joined);
            assert_eq!((found.level, found.next.is_some()), (level, level == Level::Warn));
            assert!(found.detail.contains(&format!("(index {from})")), "{found:?}");
        }
    }

    #[test]
    fn whatever_is_not_well_says_what_to_do() {
        let mut findings = machines(&[]);
        let lost = NodeView { status: NodeStatus::Lost, ..node("n2") };
        findings.extend(machines(&[lost]));
        for finding in findings {
            assert_eq!(finding.level == Level::Ok, finding.next.is_none(), "{finding:?}");
        }
    }
}
