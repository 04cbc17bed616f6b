//! Files out of containers and into them, as tar archives.

use std::io;

use bollard::errors::Error;
use bollard::query_parameters::{
    ContainerArchiveInfoOptionsBuilder, DownloadFromContainerOptionsBuilder,
    UploadToContainerOptionsBuilder,
};
use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt};
use longshore_proto::rpc::{FileKind, FileStat};

use super::RuntimeError;
use super::docker::Docker;
use super::docker_error::{explain, status};

/// Of Docker's file modes, which are Go's: the bits that say what a file is.
mod mode {
    pub(super) const FOLDER: u32 = 1 << 31;
    pub(super) const LINK: u32 = 1 << 27;
    /// Everything that is no regular file: folders, links, devices, pipes, sockets, irregular ones.
    pub(super) const ANY: u32 =
        FOLDER | LINK | (1 << 26) | (1 << 25) | (1 << 24) | (1 << 21) | (1 << 19);
}

/// What a path names; `None` where nothing has it.
pub(super) async fn stat(
    docker: &Docker,
    container_id: &str,
    path: &str,
    follow_link: bool,
) -> Result<Option<FileStat>, RuntimeError> {
    let Some((found, target)) = look(docker, container_id, path).await? else { return Ok(None) };
    if found.kind != FileKind::Link || !follow_link {
        return Ok(Some(found));
    }
    // Docker has resolved the whole chain within the container's root. What it leads to may not exist.
    Ok(look(docker, container_id, &target).await?.map(|(found, _)| found))
}

async fn look(
    docker: &Docker,
    container_id: &str,
    path: &str,
) -> Result<Option<(FileStat, String)>, RuntimeError> {
    let options = ContainerArchiveInfoOptionsBuilder::default().path(path).build();
    match docker.client()?.get_container_archive_info(container_id, Some(options)).await {
        Ok(found) => {
            let kind = match found.file_mode {
                mode if mode & mode::FOLDER != 0 => FileKind::Folder,
                mode if mode & mode::LINK != 0 => FileKind::Link,
                mode if mode & mode::ANY != 0 => FileKind::Other,
                _ => FileKind::File,
            };
            let size_bytes = u64::try_from(found.size).unwrap_or(0);
            let stat = FileStat { path: path.to_owned(), kind, size_bytes };
            Ok(Some((stat, found.link_target)))
        }
        Err(error) if status(&error) == Some(404) => match docker.inspect(container_id).await? {
            Some(_) => Ok(None),
            None => Err(RuntimeError::Refused("its container is gone".to_owned())),
        },
        // A file stands where a folder would have to.
        Err(error) if told(&error).contains("not a directory") => Ok(None),
        Err(error) => Err(explain(&error, docker.host(), "looking at the path")),
    }
}

/// A file or folder, as the bytes of an archive.
pub(super) fn get(
    docker: &Docker,
    container_id: &str,
    path: &str,
) -> BoxStream<'static, Result<Bytes, RuntimeError>> {
    let client = match docker.client() {
        Ok(client) => client,
        Err(error) => return futures_util::stream::iter([Err(error)]).boxed(),
    };
    let host = docker.host().to_owned();
    let options = DownloadFromContainerOptionsBuilder::default().path(path).build();
    client
        .download_from_container(container_id, Some(options))
        .map(move |piece| piece.map_err(|error| explain(&error, &host, "reading the files")))
        .boxed()
}

/// Unpacks the bytes of an archive in a folder. An archive that breaks off is an error.
pub(super) async fn put(
    docker: &Docker,
    container_id: &str,
    folder: &str,
    archive: BoxStream<'static, io::Result<Bytes>>,
) -> Result<(), RuntimeError> {
    let client = docker.client()?;
    let options = UploadToContainerOptionsBuilder::default()
        .path(folder)
        // A folder is not put in a file's place, nor a file in a folder's.
        .no_overwrite_dir_non_dir("true")
        .build();
    let body = bollard::body_try_stream(archive);
    match client.upload_to_container(container_id, Some(options), body).await {
        Ok(()) => Ok(()),
        Err(error) if told(&error).contains("read-only") => Err(RuntimeError::Refused(
            "the container may not write there: its root or that volume is read-only".to_owned(),
        )),
        Err(error) => Err(explain(&error, docker.host(), "writing the files")),
    }
}

/// What Docker says of a refusal.
fn told(error: &Error) -> &str {
    match error {
        Error::DockerResponseServerError { message, .. } => message,
        _ => "",
    }
}
