//! What the gateway gives up before it hears a byte of a client: files that are not its own, programs, the
//! administration of the system, dumps of its memory. What it needs of these later, the broker does.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use super::start::StartFault;
use crate::control::admin::Health;
use crate::control::config::Config;
use crate::control::watch;
use crate::sys::{self, Fenced, Holds, Paths, Role};

/// What [`Health`] calls the line that says what holds.
const CONFINEMENT: &str = "Confinement";

/// Read by the gateway beside its own files: switches of the network that stand in its way, and what the
/// kernel says of itself and of its modules; numbers of chance for the register's database.
const SYSTEM: [&str; 7] = [
    "/proc/sys/net",
    "/proc/sys/kernel",
    "/proc/sys/fs",
    "/proc/modules",
    "/proc/self/net",
    "/lib/modules",
    "/dev/urandom",
];

/// Folders that hold much that is not the gateway's.
const SHARED: [&str; 8] = ["/", "/etc", "/usr", "/var", "/var/lib", "/home", "/root", "/run"];

/// Gives it up, for this thread and all that it starts, and says what holds.
///
/// # Errors
/// The kernel can hold it, and does not.
pub(super) fn confine(config: &Config, health: &Health) -> Result<(), StartFault> {
    if let Some(audit) = &config.audit {
        // Where they cannot be made, whoever opens them says so, and whether that is borne.
        audit.make_folders().ok();
    }
    let step = |what: &str, fault: &io::Error| {
        io::Error::new(fault.kind(), format!("the gateway cannot be confined: {what}: {fault}"))
    };
    sys::leave_no_dumps().map_err(|fault| step("no core dumps", &fault))?;
    let paths = paths(config);
    let shared: Vec<_> = SHARED.iter().map(Path::new).filter(|it| paths.holds(it)).collect();
    for folder in shared {
        warn!(
            folder = %folder.display(),
            "files of the policy lie there, so that the gateway may read all of it: give them a folder \
             of their own"
        );
    }
    let fenced = sys::restrict_files(&paths.all).map_err(|fault| step("landlock", &fault))?;
    let filtered = sys::restrict_calls(Role::Gateway).map_err(|fault| step("seccomp", &fault))?;
    for path in &fenced.missing {
        let path = path.display();
        info!(%path, "is not there: the gateway may not use it before its next start");
    }
    let text = told(&fenced, filtered, &paths.all);
    if fenced.holds == Holds::Whole && filtered {
        info!(confinement = %text, "the gateway is confined");
    } else {
        warn!(confinement = %text, "the gateway is confined in part: this kernel can do no more");
    }
    health.fact(CONFINEMENT, text);
    Ok(())
}

/// What holds, and what the kernel lacks.
fn told(fenced: &Fenced, filtered: bool, paths: &Paths) -> String {
    let count = paths.read.len() + paths.write.len() - fenced.missing.len();
    let files = match fenced.holds {
        Holds::Whole => format!("files: {count} paths (landlock)"),
        Holds::Part => {
            format!("files: {count} paths, by an older landlock that knows fewer rights")
        }
        Holds::Nothing => "files: NOT CONFINED, the kernel has no landlock".to_owned(),
    };
    let calls = if filtered {
        "calls: gateway and workers (seccomp), no programs, no new privileges"
    } else {
        "calls: NOT CONFINED, the kernel has no seccomp filters"
    };
    format!("{files}; {calls}; no core dumps")
}

/// Paths that may be used.
#[derive(Debug, Default)]
struct Own {
    all: Paths,
}

impl Own {
    /// Whether this folder is among them, by whichever name.
    fn holds(&self, folder: &Path) -> bool {
        let same = |path: &Path| fs::metadata(path).ok().map(|about| (about.dev(), about.ino()));
        let folder = same(folder);
        let mut paths = self.all.read.iter().chain(&self.all.write);
        folder.is_some() && paths.any(|path| same(path) == folder)
    }
}

/// What a running gateway reads and writes. Files are replaced rather than written over, so that it is
/// their folders that count: as they are named, and as links lead to them.
fn paths(config: &Config) -> Own {
    let mut read = BTreeSet::new();
    for file in watch::files(config) {
        read.extend(folder(&file));
        read.extend(fs::canonicalize(&file).ok().and_then(|file| folder(&file)));
    }
    read.extend(SYSTEM.map(PathBuf::from));
    let mut write = BTreeSet::new();
    write.insert(config.data.directory.clone());
    write.extend(config.admin.socket.as_deref().and_then(folder));
    if let Some(audit) = &config.audit {
        write.insert(audit.directory.clone());
        if let Some(keys) = audit.keys() {
            write.insert(keys.to_owned());
        }
        // A key that is not there yet is made.
        let place = folder(&audit.key);
        if audit.key.exists() { read.extend(place) } else { write.extend(place) }
    }
    let (read, write) = (read.into_iter().collect(), write.into_iter().collect());
    Own { all: Paths { read, write } }
}

/// The folder of a file.
fn folder(file: &Path) -> Option<PathBuf> {
    let parent = file.parent()?;
    Some(if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_shared_folder_is_found_by_whichever_name_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let shared = dir.path().join("shared");
        fs::create_dir_all(shared.join("below")).unwrap();
        symlink("shared", dir.path().join("link")).unwrap();
        for name in ["shared", "shared/", "link", "shared/below/..", "./link/below/../../shared"] {
            let write = vec![dir.path().join(name)];
            let own = Own { all: Paths { read: Vec::new(), write } };
            assert!(own.holds(&shared), "{name}");
            assert!(
                !own.holds(&shared.join("below")) && !own.holds(&shared.join("none")),
                "{name}"
            );
        }
    }
}
