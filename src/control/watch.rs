//! Whether the files behind a policy changed: looked at every few seconds, beside SIGHUP.
//!
//! Looked at and not subscribed to: a look costs one stat(2) a file, and it sees what no
//! notification does (a renamed folder, a mount, a network file system).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::config::{Config, Source};

/// What one look sees of a file. A file that was written over, exchanged or touched differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// A look at every file; `None`: it is not to be seen.
type Look = BTreeMap<PathBuf, Option<Stamp>>;

/// The files behind the policy in force, as they were when they were last read.
#[derive(Debug)]
pub struct Watch {
    read: Look,
    last: Look,
    /// When the reading began, by the clock of the files.
    began: Instant,
}

/// Seconds and nanoseconds since 1970.
type Instant = (i64, i64);

impl Watch {
    /// To be made before the policy is read for the first time.
    #[must_use]
    pub fn before() -> Self {
        Self { read: Look::new(), last: Look::new(), began: now() }
    }

    /// Whether a file differs from when it was last read, and has stood still since the look before
    /// this one: a file that is still being written is not read yet. What was told once is not told
    /// again before it changes anew.
    pub fn changed(&mut self) -> bool {
        let now = look(self.read.keys().cloned());
        let still = now == self.last;
        self.last = now;
        let changed = still && self.last != self.read;
        if changed {
            self.read.clone_from(&self.last);
        }
        changed
    }

    /// Takes the files as they are for read: they are about to be.
    pub fn begin(&mut self) {
        self.began = now();
        self.last = look(self.read.keys().cloned());
        self.read.clone_from(&self.last);
    }

    /// Looks at the files that `config` names from now on. They count as read when the reading began,
    /// so that what changed meanwhile is told.
    pub fn follow(&mut self, config: &Config) {
        let now = look(files(config));
        let began = self.began;
        let known = |(path, stamp): (&PathBuf, &Option<Stamp>)| {
            let untouched = stamp.filter(|stamp| stamp.changed < began);
            (path.clone(), self.read.get(path).copied().unwrap_or(untouched))
        };
        self.read = now.iter().map(known).collect();
        self.last = now;
    }
}

/// Without a clock, the end of time: then only looks are compared.
fn now() -> Instant {
    crate::sys::file_clock().unwrap_or((i64::MAX, 0))
}

/// Every file that a load of this policy reads.
fn files(config: &Config) -> impl Iterator<Item = PathBuf> {
    let data = &config.data;
    let lists = [&data.country, &data.asn, &data.providers].into_iter().flatten();
    let tables = lists.filter_map(|source| match source {
        Source::Embedded => None,
        Source::File(path) => Some(path),
    });
    let others = config.path.iter().chain(&config.host_files).chain(&data.pack);
    others.chain(tables).cloned()
}

fn look(files: impl Iterator<Item = PathBuf>) -> Look {
    let stamp = |about: fs::Metadata| Stamp {
        device: about.dev(),
        inode: about.ino(),
        bytes: about.size(),
        modified: (about.mtime(), about.mtime_nsec()),
        changed: (about.ctime(), about.ctime_nsec()),
    };
    files
        .map(|path| {
            let seen = fs::metadata(&path).ok().map(stamp);
            (path, seen)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::control::config;

    fn policy(folder: &Path, table: &str) -> Config {
        let path = folder.join("p.toml");
        let text = format!(
            "schema = 1\n[policy]\npermit = ['eea']\n[data]\ncountry = ['{table}']\n\
            [[rule]]\nname = 'a'\naction = 'block'\nhost_file = 'h.txt'\n"
        );
        fs::write(&path, text).unwrap();
        fs::write(folder.join("h.txt"), "example.eu\n").unwrap();
        config::load(Some(&path)).unwrap().config
    }

    #[test]
    fn a_change_is_told_once_and_only_after_the_file_stood_still() {
        let dir = tempfile::tempdir().unwrap();
        let config = policy(dir.path(), "t.csv");
        for name in ["p.toml", "t.csv", "h.txt"] {
            let mut watch = Watch { began: (i64::MAX, 0), ..Watch::before() };
            watch.follow(&config);
            assert!(!watch.changed());
            let before = fs::read_to_string(dir.path().join(name)).unwrap_or_default();
            fs::write(dir.path().join(name), format!("{before}x")).unwrap();
            assert!(!watch.changed(), "{name} may still be written");
            fs::write(dir.path().join(name), format!("{before}xy")).unwrap();
            assert!(!watch.changed(), "{name} was still written");
            assert!(watch.changed(), "{name}");
            assert!(!watch.changed(), "{name} was told");
            fs::remove_file(dir.path().join(name)).unwrap();
            assert_eq!((watch.changed(), watch.changed()), (false, true), "{name} is gone");
        }
    }

    #[test]
    fn what_changed_since_the_first_reading_began_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = Watch::before();
        let config = policy(dir.path(), "t.csv");
        watch.follow(&config);
        assert!(watch.changed(), "the policy was written after the reading began");
        assert!(!watch.changed());
    }

    #[test]
    fn the_files_of_a_new_policy_are_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = Watch { began: (i64::MAX, 0), ..Watch::before() };
        watch.follow(&policy(dir.path(), "t.csv"));
        let config = policy(dir.path(), "other.csv");
        assert_eq!((watch.changed(), watch.changed()), (false, true), "the policy");
        watch.begin();
        fs::write(dir.path().join("h.txt"), "example.fr\n").unwrap();
        watch.follow(&config);
        assert!(watch.changed(), "the host file, while the policy was read");
        assert!(!watch.changed());
        fs::write(dir.path().join("other.csv"), "x").unwrap();
        assert_eq!((watch.changed(), watch.changed()), (false, true), "the table");
    }
}
