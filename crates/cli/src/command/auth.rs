//! `longshore auth`: the NATS server's accounts, users and credential files.

use std::collections::BTreeSet;
use std::path::PathBuf;

use longshore_proto::name::{NAME_LENGTH_MAX, Root, UserName};
use longshore_proto::permission::Role;
use serde::Serialize;

use crate::args::auth::{Add, Auth, Init, Kind, Ls, Member, Revoke};
use crate::args::{Format, Global};
use crate::auth::{Existing, Folder, Membership, ServerConf, shell_word};
use crate::connect;
use crate::failure::{Exit, Failure};
use crate::render::Printer;
use crate::table;

/// One user in `auth ls -o json`.
#[derive(Debug, Serialize)]
struct Listed {
    role: String,
    name: String,
    account: &'static str,
    nkey: String,
    credentials: Option<PathBuf>,
}

/// Does what was asked.
pub(crate) fn run(global: &Global, wish: Auth, printer: Printer) -> Result<Exit, Failure> {
    let root = global.root.as_ref();
    match wish {
        Auth::Init(wish) => init(root, &wish, printer)?,
        Auth::Worker(wish) => add(root, &wish, Kind::Worker, printer)?,
        Auth::Operator(wish) => add(root, &wish, Kind::Operator, printer)?,
        Auth::Observer(wish) => add(root, &wish, Kind::Observer, printer)?,
        Auth::Manager(wish) => add(root, &wish, Kind::Manager, printer)?,
        Auth::Revoke(wish) => revoke(root, &wish, printer)?,
        Auth::Ls(wish) => list(root, &wish, printer)?,
        Auth::Render(place) => {
            let [accounts, _] = Folder::open(&place.dir, root)?.save()?;
            printer.line(&accounts.display().to_string())?;
            advise_reload(printer);
        }
    }
    Ok(Exit::Done)
}

fn init(root: Option<&Root>, wish: &Init, printer: Printer) -> Result<(), Failure> {
    let dir = &wish.place.dir;
    let operator = match &wish.operator {
        Some(name) => name.clone(),
        None => connect::user(&operator_name(&login_name()))?,
    };
    let workers: BTreeSet<&UserName> = wish.workers.iter().collect();
    let mut users = vec![(Role::ManagerCore, &wish.manager), (Role::Manager, &wish.manager)];
    users.extend(workers.iter().map(|name| (Role::Worker, *name)));
    users.push((Role::Operator, &operator));
    users.extend(wish.observer.iter().map(|name| (Role::Observer, name)));

    if !wish.servers.is_empty() {
        check_members(&wish.servers)?;
    }
    let existing = if wish.force { Existing::Replace } else { Existing::Refuse };
    let root = root.cloned().unwrap_or_else(Root::standard);
    let mut folder = Folder::create(dir, root, existing)?;
    let mut made = Vec::new();
    for (role, name) in users {
        made.push(folder.add(role, name, Existing::Refuse)?);
    }
    let servers = write_servers(&folder, wish)?;
    let [accounts, list] = folder.save()?;

    for file in servers.iter().chain([&accounts, &list]).chain(&made) {
        printer.line(&file.display().to_string())?;
    }
    let addresses: Vec<&str> = match wish.servers.as_slice() {
        [] => vec![&wish.listen],
        members => members.iter().map(|member| member.listen.as_str()).collect(),
    };
    let urls: Vec<String> = addresses.iter().map(|listen| url(listen)).collect();
    let url = urls.join(",");
    let replicas = if wish.servers.is_empty() { "" } else { " --replicas 3" };
    let start: Vec<String> = servers
        .iter()
        .map(|file| format!("nats-server -c {}", shell_word(file)))
        .zip(wish.servers.iter().map(Some).chain([None]))
        .map(|(start, member)| match member {
            Some(member) => format!("{start}   # on {}, with accounts.conf beside it", member.name),
            None => start,
        })
        .collect();
    let start = start.join("\n  ");
    let creds = |role, name| shell_word(&folder.credentials_path(role, name));
    let worker = workers.first().map_or_else(
        || {
            format!(
                "longshore auth worker NAME --dir {}   # one for each machine; then, on that machine:\n  \
                 longshore worker --nats {url} --name NAME --data-dir FOLDER --creds FILE",
                shell_word(dir)
            )
        },
        |name| {
            format!(
                "longshore worker --nats {url} --name {name} --data-dir FOLDER --creds {}",
                creds(Role::Worker, name)
            )
        },
    );
    printer.talk(&format!(
        "Next:\n  {start}\n  \
         longshore manager --nats {url}{replicas} --data-dir FOLDER --creds {} --core-creds {}\n  {worker}\n  \
         longshore status --nats {url} --creds {}   # or set LONGSHORE_NATS_URL and LONGSHORE_CREDS\n\
         Each .creds file is a secret: give it to its user alone.",
        creds(Role::Manager, &wish.manager),
        creds(Role::ManagerCore, &wish.manager),
        creds(Role::Operator, &operator),
    ));
    if let Some(address) = addresses.into_iter().find(|address| !is_loopback(address)) {
        printer.warning(&format!(
            "{address} can be reached from other machines, and TLS is not set up: what is said there can be read on \
             the way. Set the `tls` block in {}",
            servers.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
        ));
    }
    Ok(())
}

/// Writes the configuration of the one server, or that of each.
fn write_servers(folder: &Folder, wish: &Init) -> Result<Vec<PathBuf>, Failure> {
    let store = wish.store_dir.clone().unwrap_or_else(|| wish.place.dir.join("store"));
    let store = std::path::absolute(&store).map_err(|error| {
        Failure::new(format!("cannot tell where {} is", store.display())).cause(&error)
    })?;
    if wish.servers.is_empty() {
        let monitor = wish.monitor.as_deref();
        let conf = ServerConf { listen: &wish.listen, store: &store, monitor, membership: None };
        return Ok(vec![folder.write_server_conf(&conf)?]);
    }
    let password = uuid::Uuid::new_v4().simple().to_string();
    let routes: Vec<String> = wish.servers.iter().map(|member| member.route.clone()).collect();
    let write = |member: &Member| {
        // Several may be tried out on one machine.
        let store =
            if wish.store_dir.is_some() { store.clone() } else { store.join(member.name.as_str()) };
        let membership = Membership {
            name: &member.name,
            listen: &member.route,
            routes: &routes,
            password: &password,
        };
        folder.write_server_conf(&ServerConf {
            listen: &member.listen,
            store: &store,
            monitor: None,
            membership: Some(membership),
        })
    };
    wish.servers.iter().map(write).collect()
}

/// Whether so many servers of these names and addresses make sense.
fn check_members(members: &[Member]) -> Result<(), Failure> {
    if !matches!(members.len(), 3 | 5) {
        let many = members.len();
        return Err(Failure::new(format!("--server was said {many} times"))
            .hint("name three servers (or five), so that one may die, or leave it out for a single one")
            .exit(Exit::Usage));
    }
    let names: BTreeSet<&UserName> = members.iter().map(|member| &member.name).collect();
    let addresses: BTreeSet<&String> =
        members.iter().flat_map(|member| [&member.listen, &member.route]).collect();
    if names.len() < members.len() || addresses.len() < 2 * members.len() {
        return Err(Failure::new("two of the servers have the same name or address")
            .hint("give each a name and a host of its own, or ports of its own on one host")
            .exit(Exit::Usage));
    }
    Ok(())
}

fn add(root: Option<&Root>, wish: &Add, kind: Kind, printer: Printer) -> Result<(), Failure> {
    let existing = if wish.force { Existing::Replace } else { Existing::Refuse };
    let mut folder = Folder::open(&wish.place.dir, root)?;
    let mut made = Vec::new();
    for role in kind.roles() {
        made.push(folder.add(*role, &wish.name, existing)?);
    }
    folder.save()?;
    for file in made {
        printer.line(&file.display().to_string())?;
    }
    advise_reload(printer);
    Ok(())
}

fn revoke(root: Option<&Root>, wish: &Revoke, printer: Printer) -> Result<(), Failure> {
    let mut folder = Folder::open(&wish.place.dir, root)?;
    let mut was_there = false;
    for role in wish.role.roles() {
        was_there |= folder.revoke(*role, &wish.name)?;
    }
    if !was_there {
        return Err(Failure::new(format!("there is no {} {}", wish.role.word(), wish.name)).hint(
            format!("`longshore auth ls --dir {}` lists the users", shell_word(&wish.place.dir)),
        ));
    }
    folder.save()?;
    printer.talk(&format!("revoked: {} {}", wish.role.word(), wish.name));
    advise_reload(printer);
    Ok(())
}

fn list(root: Option<&Root>, wish: &Ls, printer: Printer) -> Result<(), Failure> {
    let folder = Folder::open(&wish.place.dir, root)?;
    let users = folder.users().list().iter().map(|user| {
        let path = folder.credentials_path(user.role, &user.name);
        Listed {
            role: user.role.to_string(),
            name: user.name.to_string(),
            account: user.role.account().as_str(),
            nkey: user.nkey.clone(),
            credentials: path.exists().then_some(path),
        }
    });
    match wish.output {
        Format::Json => printer.json(&users.collect::<Vec<_>>())?,
        Format::Table => {
            let rows = users.map(|user| {
                let file =
                    user.credentials.map_or_else(|| "-".to_owned(), |f| f.display().to_string());
                vec![user.role, user.name, user.account.to_owned(), user.nkey, file]
            });
            let heads = ["ROLE", "NAME", "ACCOUNT", "NKEY", "CREDENTIALS"];
            printer.data(&table::lines(&heads, rows.collect(), None))?;
        }
    }
    if !folder.accounts_are_current() {
        printer.warning(&format!(
            "accounts.conf is not what the list of users gives; `longshore auth render --dir {}` writes it anew",
            shell_word(&wish.place.dir)
        ));
    }
    Ok(())
}

fn advise_reload(printer: Printer) {
    printer.talk(
        "Next: `nats-server --signal reload` makes a running server know it \
         (`--signal reload=PID` where there are several)",
    );
}

/// Who is at the terminal, as the system says it.
fn login_name() -> String {
    ["USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok()).unwrap_or_default()
}

/// A login name made legal.
fn operator_name(login: &str) -> String {
    let legal: String = login
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(NAME_LENGTH_MAX)
        .collect();
    match legal.trim_matches('-') {
        "" => "operator".to_owned(),
        name => name.to_owned(),
    }
}

fn host(listen: &str) -> &str {
    listen.rsplit_once(':').map_or(listen, |(host, _)| host)
}

fn is_loopback(listen: &str) -> bool {
    let host = host(listen);
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Where a client on the same machine finds the server.
fn url(listen: &str) -> String {
    let port = listen.rsplit_once(':').map_or("4222", |(_, port)| port);
    match host(listen) {
        "0.0.0.0" | "[::]" => format!("nats://127.0.0.1:{port}"),
        host => format!("nats://{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::args::auth::{Place, member};

    fn init_in(dir: &Path, force: bool) -> Result<(), Failure> {
        let name = |text: &str| text.parse::<UserName>().unwrap();
        let wish = Init {
            place: Place { dir: dir.to_owned() },
            manager: name("m1"),
            operator: Some(name("alice")),
            observer: Some(name("billing")),
            workers: vec![name("w2"), name("w1"), name("w2")],
            listen: "127.0.0.1:4222".to_owned(),
            servers: vec![],
            monitor: None,
            store_dir: None,
            force,
        };
        init(None, &wish, Printer)
    }

    #[test]
    fn servers_of_a_cluster_are_checked_together() {
        let of = |texts: &[&str]| -> Vec<Member> {
            texts.iter().map(|text| member(text).unwrap()).collect()
        };
        assert!(check_members(&of(&["a=h1", "b=h2", "c=h3"])).is_ok());
        for bad in [&["a=h1", "b=h2"][..], &["a=h1", "b=h2", "a=h3"], &["a=h1", "b=h2", "c=h1"]] {
            assert!(check_members(&of(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn init_makes_a_file_for_each_user_and_keeps_what_is_there() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("auth");
        init_in(&dir, false).unwrap();
        let files = || {
            let entries = std::fs::read_dir(&dir).unwrap();
            let mut names: Vec<String> =
                entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        let expected = [
            "accounts.conf",
            "manager-core-m1.creds",
            "manager-m1.creds",
            "observer-billing.creds",
            "operator-alice.creds",
            "server.conf",
            "users.toml",
            "worker-w1.creds",
            "worker-w2.creds",
        ];
        assert_eq!(files(), expected);
        let read = || std::fs::read_to_string(dir.join("worker-w1.creds")).unwrap();
        let first = read();
        assert!(init_in(&dir, false).is_err());
        assert_eq!(read(), first);
        init_in(&dir, true).unwrap();
        assert_ne!(read(), first);
        assert_eq!(files(), expected);
    }

    #[test]
    fn a_manager_comes_and_goes_with_both_its_users() {
        let place = tempfile::tempdir().unwrap();
        init_in(place.path(), false).unwrap();
        let of = |name: &str| Add {
            name: name.parse().unwrap(),
            place: Place { dir: place.path().to_owned() },
            force: false,
        };
        add(None, &of("m2"), Kind::Manager, Printer).unwrap();
        assert!(add(None, &of("m2"), Kind::Manager, Printer).is_err());
        // Its file would have the name of m1's second one.
        assert!(add(None, &of("core-m1"), Kind::Manager, Printer).is_err());
        let count = || Folder::open(place.path(), None).unwrap().users().list().len();
        assert_eq!(count(), 8);
        let gone = |name: &str| Revoke {
            role: Kind::Manager,
            name: name.parse().unwrap(),
            place: Place { dir: place.path().to_owned() },
        };
        revoke(None, &gone("m2"), Printer).unwrap();
        assert_eq!(count(), 6);
        assert!(revoke(None, &gone("m2"), Printer).is_err());
        assert!(!place.path().join("manager-core-m2.creds").exists());
    }

    #[test]
    fn login_names_are_made_legal() {
        for (login, name) in [
            ("alice", "alice"),
            ("Alice.Smith", "alice-smith"),
            ("", "operator"),
            ("__", "operator"),
            ("DOM\\bob", "dom-bob"),
        ] {
            assert_eq!(operator_name(login), name);
        }
        assert!(operator_name(&"x".repeat(300)).parse::<UserName>().is_ok());
        assert!(operator_name(&format!("{}-x", "x".repeat(62))).parse::<UserName>().is_ok());
    }

    #[test]
    fn an_address_to_listen_on_tells_where_clients_find_it() {
        assert_eq!(url("0.0.0.0:4333"), "nats://127.0.0.1:4333");
        assert_eq!(url("[::1]:4333"), "nats://[::1]:4333");
        assert!(is_loopback("[::1]:1") && is_loopback("localhost:1") && !is_loopback("10.0.0.1:1"));
    }
}
