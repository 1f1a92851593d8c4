//! Whether the files behind a policy changed, and are whole: looked at every few seconds, beside
//! SIGHUP.
//!
//! Looked at and not subscribed to: a look costs one stat(2) a file, and it sees what no
//! notification does (a renamed folder, a mount, a network file system). A file that was put in its
//! place by a rename is whole; one that was written where it stands is taken for whole when it has
//! stood still for [`SETTLE`] and, as far as the kernel tells, nobody who wrote to it has it open.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::config::{Config, Source};
use crate::sys::{Writers, file_clock};

/// How long a file that was written in its place has to stand still.
pub const SETTLE: Duration = Duration::from_secs(10);

/// What one look sees of a file. A file that was written over, exchanged or touched differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: Time,
    changed: Time,
}

impl Stamp {
    /// Whether this is another file than `before`, written elsewhere and then renamed: a rename is a
    /// change of the file, and no modification.
    fn was_renamed(&self, before: &Option<Self>) -> bool {
        let other = before.is_none_or(|old| (old.device, old.inode) != (self.device, self.inode));
        other && self.changed > self.modified
    }
}

/// A look at every file; `None`: it is not to be seen.
type Look = BTreeMap<PathBuf, Option<Stamp>>;

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Nothing new.
    Nothing,
    /// A file differs from when it was last read, and may still be written. Told once.
    Changing,
    /// What differs is whole. Told once, before it changes anew.
    Changed,
}

/// The files behind the policy in force, as they were when they were last read.
#[derive(Debug)]
pub struct Watch {
    read: Look,
    last: Look,
    /// Since when `last` is what there is.
    since: Instant,
    /// Whether the change that is waited for was told.
    told: bool,
    /// When the reading began, by the clock of the files.
    began: Time,
    /// `None` where the kernel does not tell who writes.
    writers: Option<Writers>,
}

/// Seconds and nanoseconds since 1970.
type Time = (i64, i64);

/// How the files were when a reading of them began.
#[derive(Debug, Clone)]
pub struct AsRead(Look);

impl AsRead {
    /// Whether they are so still: then what was read is one state of them.
    #[must_use]
    pub fn holds(&self) -> bool {
        look(self.0.keys().cloned()) == self.0
    }
}

impl Watch {
    /// To be made before the policy is read for the first time.
    #[must_use]
    pub fn before(at: Instant) -> Self {
        let (read, last) = (Look::new(), Look::new());
        let writers = Writers::new().ok();
        Self { read, last, since: at, told: false, began: file_clock(), writers }
    }

    /// Looks at the files. `at` is now.
    pub fn look(&mut self, at: Instant) -> Seen {
        if let Some(writers) = &mut self.writers {
            writers.poll();
        }
        let now = look(self.read.keys().cloned());
        if now != self.last {
            self.last = now;
            self.since = at;
        } else if self.last != self.read && self.is_whole(at) {
            self.read.clone_from(&self.last);
            self.told = false;
            return Seen::Changed;
        }
        let is_new = self.last != self.read && !self.told;
        self.told = self.last != self.read;
        if is_new { Seen::Changing } else { Seen::Nothing }
    }

    /// Whether what differs, and has stood still for a look, is all there.
    fn is_whole(&self, at: Instant) -> bool {
        let has_settled = at.duration_since(self.since) >= SETTLE;
        let mut changed = self.last.iter().filter(|(path, now)| self.read.get(*path) != Some(now));
        changed.all(|(path, now)| {
            let before = self.read.get(path).copied().flatten();
            let renamed = now.is_some_and(|now| now.was_renamed(&before));
            (renamed || has_settled) && !self.is_written(path)
        })
    }

    fn is_written(&self, path: &PathBuf) -> bool {
        let Some(writers) = &self.writers else { return false };
        fs::canonicalize(path).is_ok_and(|file| writers.is_open(&file))
    }

    /// Takes the files as they are for read: they are about to be.
    pub fn begin(&mut self) -> AsRead {
        self.began = file_clock();
        self.last = look(self.read.keys().cloned());
        self.read.clone_from(&self.last);
        self.told = false;
        AsRead(self.read.clone())
    }

    /// Looks at the files that `config` names from now on. They count as read when the reading began,
    /// so that what changed meanwhile is told.
    pub fn follow(&mut self, config: &Config, at: Instant) {
        for file in files(config) {
            let Ok(file) = fs::canonicalize(&file) else { continue };
            if let (Some(writers), Some(folder)) = (&mut self.writers, file.parent()) {
                // Of a folder that is not ours to read, the time alone tells.
                drop(writers.follow(folder));
            }
        }
        let now = look(files(config));
        let began = self.began;
        let known = |(path, stamp): (&PathBuf, &Option<Stamp>)| {
            let untouched = stamp.filter(|stamp| stamp.changed < began);
            (path.clone(), self.read.get(path).copied().unwrap_or(untouched))
        };
        self.read = now.iter().map(known).collect();
        self.last = now;
        self.since = at;
        self.told = false;
    }
}

/// Every file that a load of this policy reads.
pub fn files(config: &Config) -> impl Iterator<Item = PathBuf> {
    let data = &config.data;
    let lists = [&data.country, &data.asn, &data.providers, &data.services].into_iter().flatten();
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
    use std::io::Write;
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

    /// A watch and its clock, which stands still but for [`Watched::after`].
    struct Watched {
        watch: Watch,
        at: Instant,
    }

    impl Watched {
        fn new(config: &Config) -> Self {
            let at = Instant::now();
            let mut watch = Watch { began: (i64::MAX, 0), ..Watch::before(at) };
            watch.follow(config, at);
            Self { watch, at }
        }

        fn look(&mut self) -> Seen {
            self.watch.look(self.at)
        }

        /// What is seen when some time has passed.
        fn after(&mut self, time: Duration) -> Seen {
            self.at += time;
            self.look()
        }
    }

    const ALMOST: Duration = SETTLE.saturating_sub(Duration::from_millis(1));

    #[test]
    fn a_file_that_is_written_where_it_stands_is_whole_when_it_stood_still() {
        let dir = tempfile::tempdir().unwrap();
        let config = policy(dir.path(), "t.csv");
        for name in ["p.toml", "t.csv", "h.txt"] {
            let mut watch = Watched::new(&config);
            assert_eq!(watch.look(), Seen::Nothing);
            let before = fs::read_to_string(dir.path().join(name)).unwrap_or_default();
            fs::write(dir.path().join(name), format!("{before}x")).unwrap();
            assert_eq!(watch.look(), Seen::Changing, "{name}");
            assert_eq!(watch.after(ALMOST), Seen::Nothing, "{name} may still be written");
            fs::write(dir.path().join(name), format!("{before}xy")).unwrap();
            assert_eq!(watch.after(ALMOST), Seen::Nothing, "{name} was still written");
            assert_eq!(watch.after(ALMOST), Seen::Nothing, "{name}: the time began anew");
            assert_eq!(watch.after(SETTLE), Seen::Changed, "{name}");
            assert_eq!(watch.after(SETTLE), Seen::Nothing, "{name} was told");
            fs::remove_file(dir.path().join(name)).unwrap();
            assert_eq!(watch.look(), Seen::Changing, "{name} is gone");
            assert_eq!(watch.after(SETTLE), Seen::Changed, "{name} is gone");
        }
    }

    #[test]
    fn a_file_that_its_writer_has_open_is_not_whole_however_long_it_stands_still() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = Watched::new(&policy(dir.path(), "t.csv"));
        let mut writer = fs::File::create(dir.path().join("h.txt")).unwrap();
        writer.write_all(b"half.example\n").unwrap();
        assert_eq!(watch.look(), Seen::Changing);
        for _ in 0..9 {
            assert_eq!(watch.after(SETTLE), Seen::Nothing);
        }
        writer.write_all(b"whole.example\n").unwrap();
        drop(writer);
        assert_eq!(watch.look(), Seen::Nothing);
        assert_eq!(watch.after(SETTLE), Seen::Changed);
    }

    #[test]
    fn a_file_that_was_renamed_into_its_place_is_whole_at_the_next_look() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = Watched::new(&policy(dir.path(), "t.csv"));
        let [new, place] = ["new", "h.txt"].map(|name| dir.path().join(name));
        fs::write(&new, "example.fr\n").unwrap();
        let earlier = std::time::SystemTime::UNIX_EPOCH;
        fs::File::options().append(true).open(&new).unwrap().set_modified(earlier).unwrap();
        fs::rename(&new, &place).unwrap();
        assert_eq!((watch.look(), watch.look()), (Seen::Changing, Seen::Changed));
        // One that is made anew in its place may still be written.
        fs::remove_file(&place).unwrap();
        fs::write(&place, "example.de\n").unwrap();
        assert_eq!((watch.look(), watch.look()), (Seen::Changing, Seen::Nothing));
        assert_eq!(watch.after(SETTLE), Seen::Changed);
    }

    #[test]
    fn what_changed_since_the_first_reading_began_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let at = Instant::now();
        let mut watch = Watch::before(at);
        let config = policy(dir.path(), "t.csv");
        watch.follow(&config, at);
        assert_eq!(watch.look(at), Seen::Changing, "the policy was written after it began");
        assert_eq!(watch.look(at + SETTLE), Seen::Changed);
        assert_eq!(watch.look(at + SETTLE), Seen::Nothing);
    }

    #[test]
    fn the_files_of_a_new_policy_are_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = Watched::new(&policy(dir.path(), "t.csv"));
        let config = policy(dir.path(), "other.csv");
        assert_eq!((watch.look(), watch.after(SETTLE)), (Seen::Changing, Seen::Changed));
        let read = watch.watch.begin();
        assert!(read.holds());
        fs::write(dir.path().join("h.txt"), "example.fr\n").unwrap();
        assert!(!read.holds(), "the host file changed while it was read");
        let at = watch.at;
        watch.watch.follow(&config, at);
        assert_eq!((watch.look(), watch.after(SETTLE)), (Seen::Changing, Seen::Changed));
        fs::write(dir.path().join("other.csv"), "x").unwrap();
        assert_eq!((watch.look(), watch.after(SETTLE)), (Seen::Changing, Seen::Changed), "table");
    }
}
