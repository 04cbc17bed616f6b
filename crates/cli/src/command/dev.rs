//! `longshore dev`: a cluster on this machine, in one process, for as long as it is wanted.

use std::path::{Path, PathBuf};
use std::time::Duration;

use longshore_bus::{Bus, Tls};
use longshore_proto::api::{ClusterView, NodeView};
use longshore_proto::name::{Root, UserName};
use longshore_proto::permission::Role;
use longshore_proto::state::NodeStatus;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::args::Global;
use crate::args::dev::Dev;
use crate::auth::shell_word;
use crate::client::Client;
use crate::connect::{self, Target};
use crate::context::{Context, Found};
use crate::dev::access::{Access, Keys, node_names};
use crate::dev::find;
use crate::dev::members::{self, Members};
use crate::dev::place::Place;
use crate::dev::server::{Plan, Port};
use crate::dev::stops::Stops;
use crate::failure::{Exit, Failure};
use crate::render::Printer;

/// How often the cluster is asked whether it is up.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How long it may take to come up before a word is said of it, and before each further one.
const PATIENCE: Duration = Duration::from_secs(20);

/// The context that was written; it goes with this value.
struct Announced(Context);

impl Drop for Announced {
    fn drop(&mut self) {
        self.0.remove();
    }
}

/// The NATS server that was started, and the task that keeps it up.
struct OwnServer {
    keeper: JoinHandle<Result<(), Failure>>,
    stop: CancellationToken,
}

impl OwnServer {
    async fn stop(self) -> Result<(), Failure> {
        self.stop.cancel();
        self.keeper.await.unwrap_or_else(|error| {
            Err(Failure::new("the task that keeps nats-server up has failed").cause(&error))
        })
    }
}

/// Runs a cluster until it is told to stop.
pub(crate) async fn run(global: &Global, wish: Dev, printer: Printer) -> Result<Exit, Failure> {
    let stops = Stops::listen()?;
    let place = match &wish.data_dir {
        Some(path) => Place::kept(path).await?,
        None => {
            if let Some(left) = Context::read().ok().and_then(|found| left_over(&found)) {
                printer.talk(&format!(
                    "note: an earlier `longshore dev` was killed; `longshore dev --data-dir {}` goes on from there",
                    shell_word(&left)
                ));
            }
            Place::temporary().await?
        }
    };
    let kept = wish.keep || !place.is_temporary();
    let outcome = tokio::select! {
        outcome = Box::pin(session(global, &wish, &place, &stops.first, printer)) => outcome,
        () = stops.second.cancelled() => {
            printer.warning(&format!(
                "ended at once: containers may run on, and what is in {} stays", place.path().display()
            ));
            return Ok(Exit::Interrupted);
        }
    };
    if outcome.is_ok() && kept {
        // Containers that run on are found again by what is in the folder, and by nothing else.
        let folder = shell_word(place.path());
        printer.talk(&format!("`longshore dev --data-dir {folder}` goes on from here"));
    } else if outcome.is_err() && place.manager().exists() {
        printer.talk(&format!("what is in {} stays, to be looked at", place.path().display()));
    } else {
        place.clear()?;
    }
    outcome.map(|()| Exit::Done)
}

/// The folder of a `dev` that had no chance to clean up: its containers may still run.
fn left_over(found: &Found) -> Option<PathBuf> {
    let Found::Stale(context, _) = found else { return None };
    let folder = context.credentials.as_deref()?.parent()?.parent()?;
    folder.join("lock").exists().then(|| folder.to_owned())
}

/// Starts everything, stays until it is told to stop or something breaks, and stops what it started.
async fn session(
    global: &Global,
    wish: &Dev,
    place: &Place,
    stop: &CancellationToken,
    printer: Printer,
) -> Result<(), Failure> {
    let nodes = node_names(wish.workers)?;
    let (server, access) = match global.nats.as_deref().map(str::trim) {
        None | Some("") => {
            let (server, access) = own_server(global, wish, place, &nodes, printer).await?;
            (Some(server), access)
        }
        Some(_) => (None, given_server(global, wish, &nodes)?),
    };
    let lived = live(global, wish, place, &access, &nodes, stop, printer).await;
    let ended = match server {
        Some(server) => server.stop().await,
        None => Ok(()),
    };
    lived.and(ended)
}

/// The part of a session that has a bus.
async fn live(
    global: &Global,
    wish: &Dev,
    place: &Place,
    access: &Access,
    nodes: &[UserName],
    stop: &CancellationToken,
    printer: Printer,
) -> Result<(), Failure> {
    let bus = Bus::connect(access.operator()?)
        .await
        .map_err(|error| Failure::connecting(&error, "of `longshore dev`"))?;
    let client = Client::new(bus, global);
    let mut members = Members::start(access, place, nodes, wish.keep, &wish.allow_mount)?;
    let mut cluster = None;
    let outcome = tokio::select! {
        ended = members.ended() => Err(ended),
        () = stop.cancelled() => Ok(()),
        up = up(client, nodes, printer) => {
            cluster = Some(up.0.id);
            let _announced = announce(access, place, wish, &up.1, printer);
            tokio::select! {
                ended = members.ended() => Err(ended),
                () = stop.cancelled() => Ok(()),
            }
        }
    };
    if outcome.is_ok() {
        let containers = if wish.keep { "containers run on" } else { "containers are stopped" };
        printer.talk(&format!("stopping; {containers} (Ctrl-C again ends at once)"));
    }
    let stopped = members.stop(printer).await;
    if let Some(cluster) = cluster.filter(|_| !wish.keep && place.is_temporary()) {
        members::clear_containers(cluster, nodes, printer).await;
    }
    outcome.and(stopped)
}

/// A NATS server of our own, with users and keys.
async fn own_server(
    global: &Global,
    wish: &Dev,
    place: &Place,
    nodes: &[UserName],
    printer: Printer,
) -> Result<(OwnServer, Access), Failure> {
    if global.creds.is_some() {
        printer.talk("note: --creds and LONGSHORE_CREDS are for --nats; a server of our own has its own keys");
    }
    let found = find::nats_server(wish.nats_server.as_deref()).await?;
    let root = global.root.clone().unwrap_or_else(Root::standard);
    let (keys, conf) = Keys::own(place, &root, nodes)?;
    let plan = Plan { program: found.path, conf, folder: place.path().to_owned() };
    let port = match (wish.port, place.port()) {
        (Some(port), _) => Port::Exactly(port),
        (None, Some(port)) => Port::Rather(port),
        (None, None) => Port::Any,
    };
    let server = plan.start(port).await?;
    if let Port::Rather(port) = port
        && server.port() != port
    {
        printer.talk(&format!("note: port {port} of the last start is taken now"));
    }
    place.remember_port(server.port());
    let access = Access { servers: server.url(), root, tls: Tls::default(), keys };
    let stop = CancellationToken::new();
    let keeper = tokio::spawn(server.keep(stop.clone(), printer));
    Ok((OwnServer { keeper, stop }, access))
}

/// A NATS server that is there.
fn given_server(global: &Global, wish: &Dev, nodes: &[UserName]) -> Result<Access, Failure> {
    if wish.port.is_some() {
        return Err(Failure::new(
            "--port is for a NATS server of our own, and --nats names another",
        )
        .hint("leave out one of them; LONGSHORE_NATS_URL counts as --nats")
        .exit(Exit::Usage));
    }
    let target = Target::from_options(global);
    let keys = match &target.credentials {
        Some(path) => Keys::beside(path, wish.core_creds.as_deref(), nodes)?,
        None => Keys::default(),
    };
    let tls = target.program_options(global, Role::Manager, connect::user("dev")?, None)?.tls;
    Ok(Access { servers: target.servers, root: target.root, tls, keys })
}

/// Waits until every node is ready, and says what it waits for when it takes long. The connection goes with it.
async fn up(client: Client, names: &[UserName], printer: Printer) -> (ClusterView, Vec<NodeView>) {
    let mut next_word = Instant::now() + PATIENCE;
    loop {
        let problem = match (client.cluster().await, client.nodes().await) {
            (Ok(cluster), Ok(mut nodes)) => {
                nodes.retain(|node| names.iter().any(|name| name.as_str() == node.name.as_str()));
                // Heard by this manager: what the log says of the last start does not count.
                let is_up = |node: &&NodeView| {
                    node.status == NodeStatus::Ready && node.heard_ms_ago.is_some()
                };
                let ready = nodes.iter().filter(is_up).count();
                if ready == names.len() {
                    return (cluster, nodes);
                }
                format!("{ready} of {} nodes are ready", names.len())
            }
            (Err(error), _) | (_, Err(error)) => error.to_string(),
        };
        if Instant::now() > next_word {
            next_word = Instant::now() + PATIENCE;
            printer.warning(&format!(
                "still waiting for the cluster: {problem} (RUST_LOG=info tells more)"
            ));
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// Says how to reach the cluster, to the person at the terminal and to the other verbs.
fn announce(
    access: &Access,
    place: &Place,
    wish: &Dev,
    nodes: &[NodeView],
    printer: Printer,
) -> Option<Announced> {
    let operator = access.keys.operator().map(|key| key.path.clone());
    let context = Context {
        nats_url: access.servers.clone(),
        root: access.root.clone(),
        credentials: operator,
        pid: std::process::id(),
    };
    if let Ok(Found::Live(other, _)) = Context::read() {
        printer.talk(&format!(
            "note: the `longshore dev` of process {} is no longer what the other verbs find by themselves",
            other.pid
        ));
    }
    let file = context.write();
    printer.talk(&summary(access, place, wish, nodes, file.as_deref().ok()));
    for node in nodes {
        if let Some(problem) = &node.runtime_error {
            printer.warning(&format!("{} cannot run containers: {problem}", node.name));
        }
    }
    match file {
        Ok(_) => Some(Announced(context)),
        Err(failure) => {
            printer.failure(&failure);
            printer.warning("the other verbs do not find this cluster by themselves");
            None
        }
    }
}

fn summary(
    access: &Access,
    place: &Place,
    wish: &Dev,
    nodes: &[NodeView],
    context: Option<&Path>,
) -> String {
    let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
    let mut rows = vec![("NATS", access.servers.clone())];
    for (what, key) in [("operator", access.keys.operator()), ("observer", access.keys.observer())]
    {
        rows.extend(key.map(|key| (what, shell_word(&key.path))));
    }
    let removed = if place.is_temporary() && !wish.keep { " (removed at the end)" } else { "" };
    rows.push(("nodes", names.join(", ")));
    rows.push(("data", format!("{}{removed}", shell_word(place.path()))));
    rows.extend(context.map(|path| ("context", shell_word(path))));
    let rows: String = rows.iter().map(|(what, value)| format!("  {what:<9} {value}\n")).collect();
    let found = match (context, access.keys.operator()) {
        (Some(_), _) => "The other verbs find it by themselves. In another terminal:".to_owned(),
        (None, Some(key)) => format!(
            "In another terminal, with LONGSHORE_NATS_URL={} and LONGSHORE_CREDS={}:",
            access.servers,
            shell_word(&key.path)
        ),
        (None, None) => format!("In another terminal, with LONGSHORE_NATS_URL={}:", access.servers),
    };
    let end =
        if wish.keep { "it, and leaves the containers running" } else { "it and its containers" };
    format!(
        "The cluster is up.\n{rows}{found}\n  longshore run --name hello busybox sleep 600\n  \
         longshore ps\nCtrl-C stops {end}."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(place: &Place, keys: bool) -> Access {
        let root = Root::standard();
        let keys = match keys {
            true => Keys::own(place, &root, &node_names(1).unwrap()).unwrap().0,
            false => Keys::default(),
        };
        Access { servers: "nats://127.0.0.1:4333".into(), root, tls: Tls::default(), keys }
    }

    fn wish(keep: bool) -> Dev {
        Dev {
            workers: 1,
            data_dir: None,
            keep,
            allow_mount: Vec::new(),
            port: None,
            nats_server: None,
            core_creds: None,
        }
    }

    #[tokio::test]
    async fn what_a_killed_dev_left_is_found() {
        let place = Place::temporary().await.unwrap();
        let key = access(&place, true).keys.operator().unwrap().path.clone();
        let context = |credentials| Context {
            nats_url: "nats://x".into(),
            root: Root::standard(),
            credentials,
            pid: u32::MAX,
        };
        let stale = |credentials| Found::Stale(context(credentials), "/context.toml".into());
        assert_eq!(left_over(&stale(Some(key.clone()))), Some(place.path().to_owned()));
        assert_eq!(left_over(&stale(None)), None);
        assert_eq!(left_over(&Found::Live(context(Some(key.clone())), "/c".into())), None);
        place.clear().unwrap();
        assert_eq!(left_over(&stale(Some(key))), None);
    }

    #[tokio::test]
    async fn the_summary_says_how_to_reach_it_and_what_becomes_of_it() {
        let place = Place::temporary().await.unwrap();
        let with_keys = access(&place, true);
        let context = Path::new("/state/context.toml");
        let text = summary(&with_keys, &place, &wish(false), &[], Some(context));
        for part in
            ["nats://127.0.0.1:4333", "operator-dev.creds", "removed at the end", "find it by"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        let seed = with_keys.keys.operator().unwrap().credentials.nkey_seed.reveal();
        assert!(!text.contains(seed), "a secret is printed");
        let text = summary(&with_keys, &place, &wish(true), &[], None);
        assert!(
            text.contains("LONGSHORE_CREDS=/") && text.contains("leaves the containers"),
            "{text}"
        );
        assert!(!text.contains("removed at the end"), "{text}");
        let text = summary(&access(&place, false), &place, &wish(false), &[], None);
        assert!(text.contains("LONGSHORE_NATS_URL=nats://127.0.0.1:4333:"), "{text}");
        place.clear().unwrap();
    }
}
