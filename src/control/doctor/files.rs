//! The files of a host, below a root of theirs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where the files of the host are.
#[derive(Debug, Clone)]
pub struct Files(PathBuf);

impl Files {
    /// Below this directory; `/` is this host.
    #[must_use]
    pub fn below(root: &Path) -> Self {
        Self(root.to_owned())
    }

    /// Whether they are this host's.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// Where a file of the host is.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    pub(super) fn read(&self, path: &str) -> Option<String> {
        let bytes = fs::read(self.path(path)).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        fs::symlink_metadata(self.path(path)).is_ok()
    }

    /// A switch of the kernel, such as `net/ipv4/ip_forward`; [`None`] where there is no such one.
    pub(super) fn switch(&self, name: &str) -> Option<String> {
        Some(self.read(&format!("proc/sys/{name}"))?.trim().to_owned())
    }

    /// The number of such a switch.
    pub(super) fn number(&self, name: &str) -> Option<i64> {
        self.switch(name)?.parse().ok()
    }

    /// What is in a directory, in order of their names; nothing where it cannot be read.
    pub(super) fn list(&self, path: &str) -> Vec<(String, PathBuf)> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut all: Vec<_> = entries
            .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
            .collect();
        all.sort();
        all
    }

    /// The texts of the files in a directory whose names end so, each with its path as the host sees it.
    pub(super) fn texts(&self, path: &str, ending: &str) -> Vec<(String, String)> {
        let listed = self.list(path).into_iter().filter(|(name, _)| name.ends_with(ending));
        let read = |(name, at): (String, PathBuf)| -> io::Result<(String, String)> {
            let bytes = fs::read(at)?;
            Ok((format!("/{path}/{name}"), String::from_utf8_lossy(&bytes).into_owned()))
        };
        listed.filter_map(|file| read(file).ok()).collect()
    }

    /// Whether a unit of systemd is started with the system.
    pub(super) fn is_enabled(&self, unit: &str) -> bool {
        let folders = ["etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"];
        let masked = fs::read_link(self.path(&format!("etc/systemd/system/{unit}")));
        if masked.is_ok_and(|target| target == Path::new("/dev/null")) {
            return false;
        }
        folders.iter().any(|folder| {
            self.list(folder).iter().any(|(name, _)| {
                (name.ends_with(".wants") || name.ends_with(".requires"))
                    && self.exists(&format!("{folder}/{name}/{unit}"))
            })
        })
    }
}
