//! The files of the segment that is written: what is added to them, and when it is on the disk. Nothing
//! else touches them, so that tests know what a power cut would leave.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
#[cfg(test)]
use std::path::PathBuf;

use super::writer::aside;

/// A file that is only added to, and cut off where that fails.
pub(super) struct Added {
    file: File,
    #[cfg(test)]
    path: PathBuf,
}

impl Added {
    /// A new file; one of that name that is there is moved aside, since nothing accounts for it.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.create_new(true).append(true).read(true).mode(0o600);
        let file = match options.open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                aside(path)?;
                options.open(path)
            }
            opened => opened,
        };
        let made = Self {
            file: file?,
            #[cfg(test)]
            path: path.to_owned(),
        };
        #[cfg(test)]
        journal::note(&made.path, journal::Done::Added(Vec::new()));
        Ok(made)
    }

    /// Adds bytes; they are with the kernel.
    pub(super) fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        #[cfg(test)]
        journal::note(&self.path, journal::Done::Added(bytes.to_vec()));
        Ok(())
    }

    /// Waits until everything is on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()?;
        #[cfg(test)]
        journal::note(&self.path, journal::Done::Synced);
        Ok(())
    }

    /// Cuts off what is behind so many bytes.
    pub(super) fn cut(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        #[cfg(test)]
        journal::note(&self.path, journal::Done::Cut(length));
        Ok(())
    }

    /// Bytes in it.
    pub(super) fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

/// What was done to files, in its order, for a directory of which somebody wants to know.
#[cfg(test)]
mod journal {
    use std::collections::HashMap;
    use std::sync::{LazyLock, Mutex};

    use super::*;

    #[derive(Debug, Clone)]
    pub(super) enum Done {
        Added(Vec<u8>),
        Synced,
        Cut(u64),
    }

    type All = HashMap<PathBuf, Vec<(PathBuf, Done)>>;

    static ALL: LazyLock<Mutex<All>> = LazyLock::new(Mutex::default);

    pub(super) fn watch(directory: &Path) {
        ALL.lock().unwrap().insert(directory.to_owned(), Vec::new());
    }

    pub(super) fn note(path: &Path, done: Done) {
        if let Some(of) = ALL.lock().unwrap().get_mut(path.parent().unwrap()) {
            of.push((path.to_owned(), done));
        }
    }

    pub(super) fn of(directory: &Path) -> Vec<(PathBuf, Done)> {
        ALL.lock().unwrap()[directory].clone()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};
    use std::fs;
    use std::time::Duration;

    use super::journal::Done;
    use super::*;
    use crate::evidence::note::PublicKey;
    use crate::evidence::{Durability, Kind, Segment, Settings, Sink, lines, verify};

    const LIMIT: Duration = Duration::from_secs(60);

    /// Opens connections one after the other, each let out once its line is on the disk; gives how much
    /// had been done to the files by then.
    fn load(directory: &Path) -> Vec<(String, usize)> {
        let settings = Settings {
            durability: Durability::Disk,
            checkpoint: Duration::from_millis(1),
            segment_bytes: 700,
            register: false,
            ..Settings::new(directory.to_owned())
        };
        let sink = Sink::start(&settings, false).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut out = Vec::new();
        for number in 0..8 {
            let id = format!("1-{number}");
            let line =
                format!("{{\"event\":\"open\",\"id\":\"{id}\",\"host\":\"{}\"}}", "x".repeat(200));
            let kept = sink.line(Kind::Opening, |buffer| buffer.extend_from_slice(line.as_bytes()));
            runtime.block_on(kept.unwrap().unwrap()).unwrap();
            out.push((id, journal::of(directory).len()));
        }
        assert!(sink.close(LIMIT));
        out
    }

    /// The files as a power cut leaves them behind so many steps: all that was synced, and so many
    /// quarters of what was not.
    fn left(done: &[(PathBuf, Done)], quarters: usize) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files: BTreeMap<PathBuf, (Vec<u8>, usize)> = BTreeMap::new();
        for (path, done) in done {
            let (bytes, synced) = files.entry(path.clone()).or_default();
            match done {
                Done::Added(more) => bytes.extend_from_slice(more),
                Done::Synced => *synced = bytes.len(),
                Done::Cut(length) => bytes.truncate(*length as usize),
            }
        }
        let cut = |(mut bytes, synced): (Vec<u8>, usize)| {
            let synced = synced.min(bytes.len());
            bytes.truncate(synced + (bytes.len() - synced) * quarters / 4);
            bytes
        };
        files.into_iter().map(|(path, file)| (path, cut(file))).collect()
    }

    #[test]
    fn no_power_cut_loses_the_open_line_of_a_connection_that_was_let_out() {
        let dir = tempfile::tempdir().unwrap();
        journal::watch(dir.path());
        let out = load(dir.path());
        let done = journal::of(dir.path());
        assert!(Segment::all(dir.path()).unwrap().len() > 2, "also where a segment begins");
        let public = fs::read_to_string(dir.path().join("signing.pub")).unwrap();
        let key = PublicKey::parse(&public).unwrap();
        for (at, quarters) in (1..=done.len()).flat_map(|at| [(at, 0), (at, 2), (at, 4)]) {
            let after = tempfile::tempdir().unwrap();
            for name in ["signing.key", "signing.pub"] {
                fs::copy(dir.path().join(name), after.path().join(name)).unwrap();
            }
            for (path, bytes) in left(&done[..at], quarters) {
                fs::write(after.path().join(path.file_name().unwrap()), bytes).unwrap();
            }
            let settings = Settings { register: false, ..Settings::new(after.path().to_owned()) };
            let again = Sink::start(&settings, false);
            let again = again.unwrap_or_else(|fault| panic!("step {at}, {quarters}/4: {fault}"));
            assert!(again.close(LIMIT));
            let report = verify(after.path(), &key, &[]).unwrap();
            assert!(report.holds(), "step {at}, {quarters}/4: {:?}", report.findings);
            let segments = Segment::all(after.path()).unwrap();
            let records: Vec<u8> = segments.iter().flat_map(|one| one.records().unwrap()).collect();
            let id =
                |line| serde_json::from_slice::<serde_json::Value>(line).unwrap()["id"].clone();
            let kept: HashSet<String> =
                lines(&records).filter_map(|line| id(line).as_str().map(str::to_owned)).collect();
            for (id, _) in out.iter().filter(|(_, by)| *by <= at) {
                assert!(kept.contains(id), "step {at}, {quarters}/4: {id}");
            }
        }
    }
}
