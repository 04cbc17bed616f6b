//! `longshore backup` and `longshore restore`: everything that a cluster is, into a file and back.

use std::fs::File;
use std::io::Write;

use longshore_proto::api::ReadBackup;
use longshore_proto::quantity::format_bytes;

use crate::args::cluster::{Backup, Restore};
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::render::Printer;
use crate::table;

/// Fetches a backup part by part, and checks it. The file stands under its name only when it is complete.
pub(crate) async fn make(
    client: &Client,
    wish: &Backup,
    printer: Printer,
) -> Result<Exit, Failure> {
    let file = &wish.file;
    let shown = file.display();
    if file.exists() {
        return Err(Failure::new(format!("{shown} is there already"))
            .hint("name another file; nothing is overwritten"));
    }
    let part = file.with_extension("part");
    let problem = |error: std::io::Error| {
        Failure::new(format!("cannot write {}", part.display())).cause(&error)
    };
    let mut to = File::create(&part).map_err(problem)?;
    let made = client.make_backup().await;
    let made = made.map_err(|error| Failure::asked("make a backup", &error))?;
    let mut offset = 0;
    while offset < made.bytes {
        let question = ReadBackup { index: made.index, offset };
        let bytes = client.read_backup(&question).await;
        let bytes = bytes.map_err(|error| Failure::asked("read the backup", &error))?;
        if bytes.is_empty() {
            break;
        }
        to.write_all(&bytes).map_err(problem)?;
        offset += bytes.len() as u64;
    }
    to.sync_all().map_err(problem)?;
    let (head, _) = longshore_manager::snapshot::open(&part)
        .map_err(|error| Failure::new("the backup did not arrive whole").cause(&error))?;
    std::fs::rename(&part, file).map_err(problem)?;
    printer.line(&shown.to_string())?;
    printer.talk(&format!(
        "cluster {} as of index {} ({}), {}",
        head.cluster,
        head.index,
        table::time(head.at_ms),
        format_bytes(made.bytes)
    ));
    Ok(Exit::Done)
}

/// Makes a data directory.
pub(crate) fn restore(wish: &Restore, printer: Printer) -> Result<Exit, Failure> {
    let head = longshore_manager::restore(&wish.file, &wish.data_dir)
        .map_err(|error| Failure::new("the backup is not restored").cause(&error))?;
    printer.talk(&format!(
        "cluster {} as of index {} ({}) is in {}; start `longshore manager --data-dir {}` on a NATS server without a \
         cluster",
        head.cluster,
        head.index,
        table::time(head.at_ms),
        wish.data_dir.display(),
        wish.data_dir.display()
    ));
    Ok(Exit::Done)
}
