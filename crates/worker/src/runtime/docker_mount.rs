//! What a task mounts, in Docker's words; and the rule that guards the node's own files: a task sees of them what is
//! really below a path that the node's operator has allowed, whatever links lead there.
//!
//! The rule looks before Docker mounts, and cannot look while it does. Who may write below an allowed path may put a
//! link there at just that moment, so an operator allows what may be lent as a whole.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use bollard::models::{Mount as DockerMount, MountTmpfsOptions, MountType, MountVolumeOptions};
use longshore_proto::spec::{Mount, MountSource};

/// Docker's mounts for a task's, or why there is one that the task does not get. A volume that is not there yet is
/// made with these labels. Looks at the disk.
pub(super) fn mounts(
    wishes: &[Mount],
    allowed: &[String],
    labels: &HashMap<String, String>,
) -> Result<Vec<DockerMount>, String> {
    wishes.iter().map(|wish| mount(wish, allowed, labels)).collect()
}

fn mount(
    wish: &Mount,
    allowed: &[String],
    labels: &HashMap<String, String>,
) -> Result<DockerMount, String> {
    let plain = DockerMount {
        target: Some(wish.target.clone()),
        read_only: Some(wish.read_only),
        ..DockerMount::default()
    };
    Ok(match &wish.source {
        MountSource::Bind { path } => DockerMount {
            typ: Some(MountType::BIND),
            source: Some(real_path(path, allowed)?),
            ..plain
        },
        MountSource::Volume { name } => DockerMount {
            typ: Some(MountType::VOLUME),
            source: Some(name.clone()),
            volume_options: Some(MountVolumeOptions {
                labels: Some(labels.clone()),
                ..MountVolumeOptions::default()
            }),
            ..plain
        },
        MountSource::Tmpfs { size_bytes } => DockerMount {
            typ: Some(MountType::TMPFS),
            tmpfs_options: size_bytes.map(|size| MountTmpfsOptions {
                size_bytes: Some(i64::try_from(size).unwrap_or(i64::MAX)),
                ..MountTmpfsOptions::default()
            }),
            ..plain
        },
    })
}

/// The place that a path leads to, when it is below an allowed one.
fn real_path(path: &str, allowed: &[String]) -> Result<String, String> {
    let refused = |leads_to: &str| {
        format!(
            "its mount of {path}{leads_to} is refused: this node lends only what is below {}; start its worker with \
             another --allow-mount, or use a volume",
            allowed.join(", ")
        )
    };
    let really: Vec<PathBuf> =
        allowed.iter().filter_map(|path| Path::new(path).canonicalize().ok()).collect();
    let is_below_one =
        |path: &Path| really.iter().any(|root: &PathBuf| path.starts_with(root.as_path()));
    // By its name first, so that nobody learns from an answer what else is on the node.
    if !allowed.iter().any(|root| Path::new(path).starts_with(root))
        && !is_below_one(Path::new(path))
    {
        return Err(refused(""));
    }
    let real = Path::new(path).canonicalize().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            format!("its mount of {path} fails: there is no such file or folder on this node; make it, or use a volume")
        }
        _ => format!("its mount of {path} fails: {error}; look at the path on this node"),
    })?;
    if !is_below_one(&real) {
        return Err(refused(", which is a link,"));
    }
    let text = real.to_str().map(str::to_owned);
    text.ok_or_else(|| {
        format!("its mount of {path} fails: where it leads to is no text; rename it")
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn bind(path: &str) -> Mount {
        Mount {
            target: "/data".into(),
            source: MountSource::Bind { path: path.into() },
            read_only: true,
        }
    }

    /// A folder with `lent/inner`, `lent/way-out` (a link to `secret`), `secret`, and `alias` (a link to `lent`).
    fn disk() -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("lent/inner")).unwrap();
        fs::create_dir(root.join("secret")).unwrap();
        symlink(root.join("secret"), root.join("lent/way-out")).unwrap();
        symlink(root.join("lent"), root.join("alias")).unwrap();
        symlink(root.join("lent/inner"), root.join("lent/way-in")).unwrap();
        let root = root.to_str().unwrap().to_owned();
        (folder, root)
    }

    #[test]
    fn a_volume_and_memory_need_no_permission() {
        let wishes = [
            Mount {
                target: "/cache".into(),
                source: MountSource::Volume { name: "cache".into() },
                read_only: false,
            },
            Mount {
                target: "/tmp".into(),
                source: MountSource::Tmpfs { size_bytes: Some(1 << 20) },
                read_only: false,
            },
            Mount {
                target: "/run".into(),
                source: MountSource::Tmpfs { size_bytes: None },
                read_only: false,
            },
        ];
        let made = mounts(&wishes, &[], &HashMap::new()).unwrap();
        assert_eq!(made[0].typ, Some(MountType::VOLUME));
        assert_eq!(made[0].source.as_deref(), Some("cache"));
        assert_eq!(made[0].read_only, Some(false));
        assert_eq!(made[1].typ, Some(MountType::TMPFS));
        assert_eq!(made[1].source, None);
        assert_eq!(made[1].tmpfs_options.as_ref().unwrap().size_bytes, Some(1 << 20));
        assert_eq!(made[2].tmpfs_options, None);
    }

    #[test]
    fn what_is_below_an_allowed_path_is_mounted_where_it_really_is() {
        let (_folder, root) = disk();
        let lent = format!("{root}/lent");
        for (allowed, path, real) in [
            (&lent, "lent", "lent"),
            (&lent, "lent/inner", "lent/inner"),
            (&lent, "lent/inner/", "lent/inner"),
            (&lent, "lent/way-in", "lent/inner"),
            (&format!("{root}/alias"), "alias/inner", "lent/inner"),
            (&format!("{root}/alias"), "lent/inner", "lent/inner"),
            (&"/".to_owned(), "secret", "secret"),
        ] {
            let made = mounts(
                &[bind(&format!("{root}/{path}"))],
                std::slice::from_ref(allowed),
                &HashMap::new(),
            )
            .unwrap();
            assert_eq!(made[0].source, Some(format!("{root}/{real}")), "{path}");
            assert_eq!((made[0].typ, made[0].read_only), (Some(MountType::BIND), Some(true)));
        }
    }

    #[test]
    fn everything_else_of_the_node_is_refused() {
        let (_folder, root) = disk();
        let lent = format!("{root}/lent");
        for (path, problem) in [
            (format!("{root}/secret"), "lends only what is below"),
            (format!("{root}/lent/way-out"), "which is a link, is refused"),
            (format!("{root}/lent/../secret"), "is refused"),
            (format!("{root}/lent-too"), "lends only what is below"),
            (format!("{root}/lent/none"), "there is no such file or folder"),
            (format!("{root}/none"), "lends only what is below"),
            ("/".to_owned(), "lends only what is below"),
            (root.clone(), "lends only what is below"),
        ] {
            let reason =
                mounts(&[bind(&path)], std::slice::from_ref(&lent), &HashMap::new()).unwrap_err();
            assert!(reason.contains(&path) && reason.contains(problem), "{path}: {reason}");
        }
        let reason = mounts(&[bind(&lent)], &[], &HashMap::new()).unwrap_err();
        assert!(reason.contains("is refused"), "{reason}");
        // An allowed path that is not there (yet) allows nothing.
        let reason =
            mounts(&[bind(&lent)], &[format!("{root}/later")], &HashMap::new()).unwrap_err();
        assert!(reason.contains("lends only what is below"), "{reason}");
    }
}
