//! `longshore cp`: files and folders out of a task's container, and into it.
//!
//! Both ways carry a tar archive. What is called how follows `docker cp`: a target that is a folder gets the source
//! under its own name, anything else is what the source is called from then on.

use std::io;
use std::path::{Path, PathBuf};

use longshore_proto::id::SessionId;
use longshore_proto::name::NodeName;
use longshore_proto::rpc::{
    ChunkBody, CopyFromRequest, CopyToRequest, FileKind, FileStat, InputBody,
};
use longshore_proto::subject::RpcVerb;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::exec::{one_task, read_input};
use crate::archive::unpack::{Target, Unpacked, unpack};
use crate::archive::{pack, pipe};
use crate::args::reach::{Cp, Place};
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::render::Printer;
use crate::session::{Broken, Session};
use crate::signal::interrupted;
use crate::table::task_name;

/// Copies.
pub(crate) async fn run(client: &Client, wish: &Cp, printer: Printer) -> Result<Exit, Failure> {
    match (&wish.source, &wish.target) {
        (Place::There { name, path }, target @ (Place::Here(_) | Place::Archive)) => {
            let there = There::find(client, name, path).await?;
            interruptible(there.copy_from(wish.follow_link, target, printer)).await
        }
        (source @ (Place::Here(_) | Place::Archive), Place::There { name, path }) => {
            // What is not here is told before anybody is asked.
            let source = Source::look(source, wish.follow_link)?;
            let there = There::find(client, name, path).await?;
            interruptible(there.copy_to(source, printer)).await
        }
        (Place::There { .. }, Place::There { .. }) => Err(Failure::new(
            "nothing is copied from container to container",
        )
        .hint("copy it here first; or pipe it: longshore cp A:PATH - | longshore cp - B:FOLDER")
        .exit(Exit::Usage)),
        _ => Err(Failure::new("one of the two must be in a task's container")
            .hint("write it as NAME:PATH, such as web:/etc/hosts")
            .exit(Exit::Usage)),
    }
}

async fn interruptible(copy: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    tokio::select! {
        outcome = copy => outcome,
        () = interrupted() => Ok(Exit::Interrupted),
    }
}

/// The end of a copy that is in a container.
struct There<'a> {
    client: &'a Client,
    node: NodeName,
    task: longshore_proto::api::TaskView,
    path: &'a str,
}

impl<'a> There<'a> {
    async fn find(client: &'a Client, name: &str, path: &'a str) -> Result<Self, Failure> {
        let task = one_task(client, name).await?;
        let Some(node) = task.node.clone() else {
            return Err(Failure::new(format!("{} has no node, and so no files", task_name(&task))));
        };
        Ok(Self { client, node, task, path })
    }

    fn broken(&self, broken: Broken) -> Failure {
        let place = format!("{}:{}", task_name(&self.task), self.path);
        broken.failure(&self.node, &format!("copy {place}"), &format!("the copy of {place}"))
    }

    /// What the path names, by the first chunk.
    async fn found(&self, session: &mut Session) -> Result<Option<FileStat>, Failure> {
        match session.next().await.map_err(|broken| self.broken(broken))? {
            Some(ChunkBody::Found(found)) => Ok(found),
            _ => Err(self.broken(Broken::Off("the worker says something else first".to_owned()))),
        }
    }

    async fn copy_from(
        &self,
        follow_link: bool,
        target: &Place,
        printer: Printer,
    ) -> Result<Exit, Failure> {
        let request = CopyFromRequest {
            user: self.client.bus().user().clone(),
            session: SessionId(Uuid::new_v4()),
            task: self.task.id,
            path: self.path.to_owned(),
            // A path that ends like a folder's means what a link leads to, as everywhere.
            follow_link: follow_link || self.path.ends_with('/') || is_inside(self.path),
        };
        let (node, verb, id) = (self.node.clone(), RpcVerb::CopyFrom, request.session);
        let mut session = Session::open(self.client, node, verb, id, &request).await?;
        let outcome = match target {
            Place::Here(local) => self.unpack_here(&mut session, local, printer).await,
            _ => self.pass_on(&mut session, printer).await,
        };
        session.close().await;
        outcome
    }

    /// Writes the archive as it comes.
    async fn pass_on(&self, session: &mut Session, printer: Printer) -> Result<Exit, Failure> {
        self.found(session).await?;
        while let Some(body) = session.next().await.map_err(|broken| self.broken(broken))? {
            if let ChunkBody::Stdout(bytes) = body {
                // A reader that stops reading must not stop the credit as well.
                tokio::task::block_in_place(|| printer.bytes(&bytes))?;
            }
        }
        Ok(Exit::Done)
    }

    async fn unpack_here(
        &self,
        session: &mut Session,
        local: &str,
        printer: Printer,
    ) -> Result<Exit, Failure> {
        let Some(found) = self.found(session).await? else {
            return Err(self.broken(Broken::Off("the worker does not say what it is".to_owned())));
        };
        let target = target(&found, self.path, local)?;
        let (pieces, reader) = pipe::to_reader();
        let (into, place) = (target.clone(), local.to_owned());
        let unpacking: JoinHandle<io::Result<Unpacked>> =
            tokio::task::spawn_blocking(move || unpack(reader, &into));
        let broken = loop {
            let piece = match session.next().await {
                Ok(Some(ChunkBody::Stdout(bytes))) => Some(bytes),
                Ok(Some(_)) => continue,
                Ok(None) => None,
                Err(broken) => break Some(broken),
            };
            let is_last = piece.is_none();
            // Whoever unpacks has given up, and says why below.
            if pieces.send(piece).await.is_err() || is_last {
                break None;
            }
        };
        drop(pieces);
        let unpacked = unpacking.await;
        if let Some(broken) = broken {
            return Err(self.broken(broken).hint("what came until then may be here"));
        }
        let problem = Failure::new(format!("cannot write to {place}"));
        let unpacked = match unpacked {
            Ok(Ok(unpacked)) => unpacked,
            Ok(Err(error)) => return Err(problem.cause(&error)),
            Err(error) => return Err(problem.cause(&error)),
        };
        for reason in &unpacked.reasons {
            printer.warning(&format!("left out: {reason}"));
        }
        if unpacked.left_out > 0 {
            return Err(Failure::new(format!(
                "{} of {} entries were left out",
                unpacked.left_out,
                unpacked.left_out + unpacked.entries
            ))
            .hint("what leads out of the target, or is no file, folder or link, is not unpacked; `-` as target gives the archive as it is"));
        }
        printer.talk(&format!("copied {} to {place}", files(unpacked.entries)));
        Ok(Exit::Done)
    }

    async fn copy_to(&self, source: Source, printer: Printer) -> Result<Exit, Failure> {
        let request = CopyToRequest {
            user: self.client.bus().user().clone(),
            session: SessionId(Uuid::new_v4()),
            task: self.task.id,
            path: self.path.to_owned(),
        };
        let (node, verb, id) = (self.node.clone(), RpcVerb::CopyTo, request.session);
        let mut session = Session::open(self.client, node, verb, id, &request).await?;
        let outcome = self.send(&mut session, source, printer).await;
        session.close().await;
        outcome
    }

    async fn send(
        &self,
        session: &mut Session,
        source: Source,
        printer: Printer,
    ) -> Result<Exit, Failure> {
        let found = self.found(session).await?;
        let name = source.name(found.as_ref(), self.path)?;
        let (mut pieces, mut packing) = source.pack(name);
        let mut is_open = true;
        loop {
            let may_send = is_open && session.may_send();
            tokio::select! {
                body = session.next() => {
                    if body.map_err(|broken| self.broken(broken))?.is_none() {
                        break;
                    }
                }
                piece = pieces.recv(), if may_send => match piece {
                    Some(bytes) => {
                        let sent = session.send(InputBody::Bytes(bytes)).await;
                        sent.map_err(|broken| self.broken(broken))?;
                    }
                    None => {
                        is_open = false;
                        // Half an archive is not ended: the worker then drops what it has.
                        for left_out in packed(packing.take()).await? {
                            printer.warning(&format!("left out: {left_out}"));
                        }
                        let sent = session.send(InputBody::End).await;
                        sent.map_err(|broken| self.broken(broken))?;
                    }
                },
            }
        }
        printer.talk(&format!("copied to {}:{}", task_name(&self.task), self.path));
        Ok(Exit::Done)
    }
}

/// The end of a copy that is on this machine, where it is the source.
enum Source {
    /// Standard input.
    Archive,
    /// A path.
    Path {
        path: PathBuf,
        /// Its own name.
        name: String,
        is_folder: bool,
        /// Whether only what is in the folder is meant.
        is_inside: bool,
    },
}

/// Work that makes an archive.
type Packing = JoinHandle<io::Result<pack::LeftOut>>;

impl Source {
    fn look(place: &Place, follow_link: bool) -> Result<Self, Failure> {
        let Place::Here(text) = place else { return Ok(Self::Archive) };
        let problem = |error: io::Error| Failure::new(format!("cannot read {text}")).cause(&error);
        let given = Path::new(text);
        let metadata = if follow_link { given.metadata() } else { given.symlink_metadata() };
        let mut metadata = metadata.map_err(problem)?;
        // A link that ends with a slash is the folder that it leads to, as everywhere.
        if text.ends_with('/') {
            metadata = given.metadata().map_err(problem)?;
        }
        let whole = given.canonicalize();
        let path = if metadata.is_symlink() { given.to_owned() } else { whole.map_err(problem)? };
        let own = given.file_name().or_else(|| path.file_name()).unwrap_or_default();
        Ok(Self::Path {
            name: own.to_string_lossy().into_owned(),
            is_folder: metadata.is_dir(),
            is_inside: is_inside(text),
            path,
        })
    }

    /// What the archive's entries begin with, by what the path in the container names; nothing for what is in a
    /// folder.
    fn name(&self, found: Option<&FileStat>, path: &str) -> Result<Option<String>, Failure> {
        let is_folder_there = found.is_some_and(|found| found.kind == FileKind::Folder);
        let Self::Path { name, is_folder, is_inside, .. } = self else {
            return if is_folder_there {
                Ok(None)
            } else {
                Err(Failure::new(format!("{path} is no folder, and an archive is unpacked in one")))
            };
        };
        if *is_inside && !is_folder {
            return Err(Failure::new(format!("{name} is no folder, and so has nothing in it")));
        }
        if is_folder_there {
            return Ok((!is_inside).then(|| name.clone()));
        }
        if found.is_some() && *is_folder {
            return Err(Failure::new(format!(
                "{path} is a file, and a folder cannot take its place"
            )));
        }
        if path.ends_with('/') && !is_folder {
            return Err(Failure::new(format!("there is no folder {path} in the container")));
        }
        let wanted = found.map_or(path, |found| &found.path).trim_end_matches("/.");
        let wanted = wanted.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        Ok(Some(wanted.to_owned()))
    }

    /// Begins to make the archive; gives its pieces, and the work.
    fn pack(self, name: Option<String>) -> (mpsc::Receiver<Vec<u8>>, Option<Packing>) {
        let Self::Path { path, .. } = self else { return (read_input(), None) };
        let (writer, pieces) = pipe::from_writer();
        let work = move || pack::pack(&path, name.as_deref(), writer);
        (pieces, Some(tokio::task::spawn_blocking(work)))
    }
}

/// What was left out of an archive that has been made.
async fn packed(packing: Option<Packing>) -> Result<pack::LeftOut, Failure> {
    let Some(packing) = packing else { return Ok(Vec::new()) };
    let problem = Failure::new("the files could not be read");
    match packing.await {
        Ok(Ok(left_out)) => Ok(left_out),
        Ok(Err(error)) => Err(problem.cause(&error).hint("some may be in the container already")),
        Err(error) => Err(problem.cause(&error)),
    }
}

/// Where what comes goes, and what it is called there.
fn target(found: &FileStat, path: &str, local: &str) -> Result<Target, Failure> {
    let name = found.path.rsplit('/').next().unwrap_or_default().to_owned();
    let is_folder = found.kind == FileKind::Folder;
    let is_inside = is_inside(path);
    if is_inside && !is_folder {
        return Err(Failure::new(format!("{} is no folder, and so has nothing in it", found.path)));
    }
    let here = Path::new(local);
    let kind = here.metadata();
    if kind.as_ref().is_ok_and(std::fs::Metadata::is_dir) {
        // The name that was asked for: that of a link, and not of what it leads to.
        let own = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let called = if is_inside { PathBuf::new() } else { PathBuf::from(own) };
        return Ok(Target { folder: here.to_owned(), name, called });
    }
    if kind.is_ok() && is_folder {
        return Err(Failure::new(format!("{local} is a file, and a folder cannot take its place")));
    }
    if local.ends_with('/') && !is_folder {
        return Err(Failure::new(format!("there is no folder {local}")));
    }
    let folder = match here.parent() {
        Some(above) if !above.as_os_str().is_empty() => above.to_owned(),
        _ => PathBuf::from("."),
    };
    if !folder.is_dir() {
        return Err(Failure::new(format!("there is no folder {}", folder.display())));
    }
    let called = here.file_name().map(PathBuf::from).unwrap_or_default();
    Ok(Target { folder, name, called })
}

/// Whether a path means what is in a folder, and not the folder.
fn is_inside(path: &str) -> bool {
    path == "." || path.ends_with("/.")
}

fn files(count: u64) -> String {
    if count == 1 { "1 file".to_owned() } else { format!("{count} files and folders") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(path: &str, kind: FileKind) -> FileStat {
        FileStat { path: path.into(), kind, size_bytes: 1 }
    }

    fn told<T>(result: Result<T, Failure>) -> String {
        result.err().and_then(|failure| failure.told().map(|(text, _)| text.to_owned())).unwrap()
    }

    #[test]
    fn what_comes_is_called_as_docker_cp_calls_it() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(at("file"), "").unwrap();
        let there = at("");
        let file = stat("/etc/hosts", FileKind::File);
        let folder = stat("/etc", FileKind::Folder);
        let called = |found: &FileStat, path: &str, local: &str| {
            let target = target(found, path, local).unwrap();
            (target.name, target.called.to_str().unwrap().to_owned())
        };
        let both = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(called(&file, "/etc/hosts", &there), both("hosts", "hosts"));
        assert_eq!(called(&file, "/etc/hosts", &at("new")), both("hosts", "new"));
        assert_eq!(called(&file, "/etc/hosts", &at("file")), both("hosts", "file"));
        assert_eq!(called(&folder, "/etc", &there), both("etc", "etc"));
        assert_eq!(called(&folder, "/etc/.", &there), both("etc", ""));
        assert_eq!(called(&folder, "/etc", &at("new")), both("etc", "new"));
        // A link that is followed keeps its name here.
        assert_eq!(called(&file, "/link", &there), both("hosts", "link"));
        assert!(told(target(&folder, "/etc", &at("file"))).contains("is a file"));
        assert!(told(target(&file, "/etc/hosts", &at("no/such"))).contains("no folder"));
        assert!(told(target(&file, "/etc/hosts", &at("new/"))).contains("no folder"));
        assert!(told(target(&file, "/etc/hosts/.", &there)).contains("nothing in it"));
    }

    #[test]
    fn what_goes_is_called_as_docker_cp_calls_it() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("file"), "").unwrap();
        let source = |text: String| Source::look(&Place::Here(text), false).unwrap();
        let at = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
        let own = place.path().file_name().unwrap().to_str().unwrap().to_owned();
        let folder_there = stat("/srv", FileKind::Folder);
        let file_there = stat("/srv/f", FileKind::File);
        let name = |source: &Source, found: Option<&FileStat>, path: &str| {
            source.name(found, path).unwrap()
        };
        let (file, folder) = (source(at("file")), source(at("")));
        assert_eq!(name(&file, Some(&folder_there), "/srv"), Some("file".into()));
        assert_eq!(name(&file, Some(&file_there), "/srv/f"), Some("f".into()));
        assert_eq!(name(&file, None, "/srv/new"), Some("new".into()));
        assert_eq!(name(&folder, Some(&folder_there), "/srv"), Some(own));
        assert_eq!(name(&source(at(".")), Some(&folder_there), "/srv"), None);
        assert_eq!(name(&folder, None, "/srv/new/"), Some("new".into()));
        assert!(told(file.name(None, "/srv/new/")).contains("no folder"));
        assert!(told(folder.name(Some(&file_there), "/srv/f")).contains("is a file"));
        assert!(told(Source::Archive.name(None, "/srv/new")).contains("no folder"));
    }
}
