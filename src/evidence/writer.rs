//! The one who writes segments: takes lines out of the rings, numbers them, puts them under the tree,
//! signs what there is, and seals what is full.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::added::Added;
use super::checkpoint::Checkpoint;
use super::note::PrivateKey;
use super::recover::{Recovered, recover};
use super::ring::{Commit, Found};
use super::segment::{Entry, HEAD, LEAVES, NOTES, PLAIN, SEALED, Segment};
use super::settings::Durability;
use super::sink::{Left, Shared, SinkFault, left_rings};
use super::tree::{Frontier, HASH_LEN, leaf_hash};

/// Bytes that are written at once.
const BATCH_MAX: usize = 4 << 20;

/// How well sealed records are compressed: zstd's default.
const LEVEL: i32 = 3;

/// While this file is in the directory, nothing is removed.
pub(super) const HOLD: &str = "hold";

pub(super) struct Writer {
    shared: Arc<Shared>,
    key: PrivateKey,
    files: Files,
    committed: Commit,
    frontier: Frontier,
    /// Records under the last checkpoint, and when it was signed.
    signed: u64,
    signed_at: Instant,
    /// Records of the writer's own that are to be written next.
    own: Vec<Value>,
    left: Vec<Left>,
    batch: Batch,
    sealing: Option<JoinHandle<()>>,
    measured: Option<Instant>,
    looked: Instant,
}

/// The open segment.
struct Files {
    segment: Segment,
    begun: Instant,
    records: Added,
    leaves: Added,
    notes: Added,
    /// It took something that may be half on the disk: the next attempt is another's.
    is_broken: bool,
}

/// What is to be written at once.
struct Batch {
    records: Vec<u8>,
    leaves: Vec<u8>,
    frontier: Frontier,
    gaps: u64,
}

impl Batch {
    /// Numbers a record, which is an object of JSON, and puts it under the tree.
    fn append(&mut self, object: &[u8]) {
        let Some((b'{', fields)) = object.split_first().map(|(first, rest)| (*first, rest)) else {
            return;
        };
        let from = self.records.len();
        self.records.extend_from_slice(b"{\"seq\":");
        let mut digits = itoa::Buffer::new();
        self.records.extend_from_slice(digits.format(self.frontier.size()).as_bytes());
        self.records.push(b',');
        self.records.extend_from_slice(fields);
        let leaf = leaf_hash(self.records.get(from..).unwrap_or_default());
        self.records.push(b'\n');
        self.leaves.extend_from_slice(&leaf);
        self.frontier.push(leaf);
    }

    fn is_full(&self) -> bool {
        self.records.len() >= BATCH_MAX
    }
}

impl Writer {
    /// Takes up the log where it ended, and what was left in the rings of processes that are gone.
    pub(super) fn open(
        shared: Arc<Shared>,
        key: PrivateKey,
        left: Vec<Left>,
    ) -> Result<Self, SinkFault> {
        let directory = shared.settings.directory.clone();
        let Recovered { frontier, mut events } = recover(&directory, key.public(), &left)?;
        for left in left.iter().filter(|left| left.found == Found::Unreadable) {
            events.push(
                json!({ "event": "gap", "lost": Value::Null, "cause": "the machine stopped" }),
            );
            fs::remove_file(&left.path).ok();
        }
        let left = left.into_iter().filter(|left| left.found == Found::Left).collect();
        let path = directory.join(format!("{:020}.{PLAIN}", frontier.size()));
        let files = Files::create(&directory, &frontier, &key);
        let files = files.map_err(SinkFault::file(&path, "cannot be made"))?;
        events.push(segment_event(&key));
        let batch = Batch {
            records: Vec::new(),
            leaves: Vec::new(),
            frontier: Frontier::default(),
            gaps: 0,
        };
        let mut committed = shared.ring.committed();
        committed.segment = frontier.size();
        committed.length = 0;
        shared.ring.commit(&committed);
        let mut writer = Self {
            shared,
            key,
            files,
            committed,
            signed: frontier.size(),
            signed_at: Instant::now(),
            frontier,
            own: events,
            left,
            batch,
            sealing: None,
            measured: None,
            looked: Instant::now(),
        };
        writer.seal_and_retire();
        Ok(writer)
    }

    /// One round: writes what there is, and does what is due.
    pub(super) fn work(&mut self, closing: bool) -> io::Result<()> {
        self.take_up();
        while self.write()? {}
        let settings = &self.shared.settings;
        let is_due = self.signed_at.elapsed() >= settings.checkpoint || closing;
        let is_old = self.files.begun.elapsed() >= settings.segment_age;
        let is_full = self.committed.length >= settings.segment_bytes;
        if (is_due || is_full || is_old) && self.signed != self.frontier.size() {
            self.sign()?;
        }
        if is_full || is_old && self.committed.length > 0 {
            self.turn_over()?;
            self.seal_and_retire();
        }
        self.measure();
        if closing && let Some(sealing) = self.sealing.take() {
            drop(sealing.join());
        }
        Ok(())
    }

    /// Takes up what others have left since: a process that has ended, or the command that tells who a
    /// client was.
    fn take_up(&mut self) {
        const EVERY: Duration = Duration::from_secs(2);
        if !self.left.is_empty() || self.looked.elapsed() < EVERY {
            return;
        }
        self.looked = Instant::now();
        // What cannot be read now is looked for again, and at the next start.
        let left = left_rings(&self.shared.settings.directory).unwrap_or_default();
        let has_lines = |left: &Left| left.ring.tails() != left.ring.committed().heads;
        self.left.extend(left.into_iter().filter(|one| one.found == Found::Left && has_lines(one)));
    }

    /// Writes one batch; `false` where there was nothing.
    fn write(&mut self) -> io::Result<bool> {
        if self.files.is_broken {
            self.turn_over()?;
        }
        let ring = &self.shared.ring;
        let mut next = self.committed;
        self.batch.records.clear();
        self.batch.leaves.clear();
        self.batch.frontier.clone_from(&self.frontier);
        self.batch.gaps = 0;
        let batch = &mut self.batch;
        let now = Timestamp::now();
        for event in &mut self.own {
            event["time"] = format!("{now:.3}").into();
            batch.gaps += u64::from(event["event"] == "gap");
            batch.append(event.to_string().as_bytes());
        }
        for left in &self.left {
            let (heads, tails) = (left.ring.committed(), left.ring.tails());
            for (shard, (head, tail)) in heads.heads.into_iter().zip(tails).enumerate() {
                let read = left.ring.read(shard, head, tail, |line| {
                    batch.append(line);
                    true
                });
                if read.is_err() {
                    batch.append(gap(None, "a ring is damaged", now).as_bytes());
                    batch.gaps += 1;
                }
            }
            let lost = left.ring.lost().saturating_sub(heads.reported);
            if lost > 0 {
                batch.append(gap(Some(lost), "no room", now).as_bytes());
                batch.gaps += 1;
            }
        }
        let tails = ring.tails();
        for (shard, (head, tail)) in next.heads.iter_mut().zip(tails).enumerate() {
            if batch.is_full() {
                break;
            }
            let read = ring.read(shard, *head, tail, |line| {
                batch.append(line);
                !batch.is_full()
            });
            *head = read.unwrap_or_else(|_| {
                batch.append(gap(None, "a ring is damaged", now).as_bytes());
                batch.gaps += 1;
                tail
            });
        }
        let lost = ring.lost();
        if lost > next.reported {
            batch.append(gap(Some(lost - next.reported), "no room", now).as_bytes());
            batch.gaps += 1;
            next.reported = lost;
        }
        if self.batch.records.is_empty() {
            return Ok(false);
        }
        let on_disk = self.is_on_disk();
        self.files.append(&self.batch, self.committed.length, &self.frontier, on_disk)?;
        next.length = self.committed.length + self.batch.records.len() as u64;
        self.shared.ring.commit(&next);
        self.shared.share_anew();
        self.committed = next;
        std::mem::swap(&mut self.frontier, &mut self.batch.frontier);
        self.own.clear();
        for left in self.left.drain(..) {
            // Its lines are in a segment now.
            fs::remove_file(&left.path).ok();
        }
        let numbers = &self.shared.numbers;
        numbers.records.store(self.frontier.size(), Ordering::Relaxed);
        numbers.gaps.fetch_add(self.batch.gaps, Ordering::Relaxed);
        self.batch.records.shrink_to(BATCH_MAX / 4);
        Ok(true)
    }

    fn is_on_disk(&self) -> bool {
        self.shared.settings.durability == Durability::Disk
    }

    /// Signs a checkpoint over all that is written.
    fn sign(&mut self) -> io::Result<()> {
        let entry = entry(&self.key, &self.frontier);
        let directory = &self.shared.settings.directory;
        let on_disk = self.shared.settings.durability == Durability::Disk;
        self.files.note(&entry, on_disk)?;
        head(directory, &entry)?;
        self.signed = self.frontier.size();
        self.signed_at = Instant::now();
        let numbers = &self.shared.numbers;
        numbers.head_size.store(self.signed, Ordering::Relaxed);
        numbers.head_time.store(seconds_now(), Ordering::Relaxed);
        Ok(())
    }

    /// Begins the next segment.
    fn turn_over(&mut self) -> io::Result<()> {
        let directory = self.shared.settings.directory.clone();
        self.files = Files::create(&directory, &self.frontier, &self.key)?;
        self.committed.segment = self.frontier.size();
        self.committed.length = 0;
        self.shared.ring.commit(&self.committed);
        self.own.push(segment_event(&self.key));
        Ok(())
    }

    /// Has the segments before this one sealed, on a thread of its own, and removes what is kept no
    /// longer.
    fn seal_and_retire(&mut self) {
        if self.sealing.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        let directory = self.shared.settings.directory.clone();
        let Ok(all) = Segment::all(&directory) else { return };
        self.retire(&all);
        let own = self.files.segment.first;
        let open: Vec<Segment> =
            all.into_iter().filter(|segment| segment.first < own && !segment.is_sealed).collect();
        let work = move || {
            for segment in &open {
                if let Err(fault) = seal(segment) {
                    tracing::warn!(segment = %segment.name(), %fault, "the segment is not sealed");
                }
            }
        };
        // Where there is no thread for it, the next segment asks again.
        self.sealing = thread::Builder::new().name("seal".to_owned()).spawn(work).ok();
    }

    /// Removes the oldest sealed segments that are kept no longer, once a record says so.
    fn retire(&mut self, all: &[Segment]) {
        let settings = self.shared.settings.clone();
        if settings.directory.join(HOLD).exists() {
            return;
        }
        let sealed = |segment: &&Segment| segment.is_sealed;
        let sizes: Vec<u64> = all.iter().filter(sealed).map(bytes_of).collect();
        let mut total: u64 = sizes.iter().sum();
        let mut gone = 0;
        for (segment, size) in all.iter().take_while(sealed).zip(&sizes) {
            let is_old = settings.retain.is_some_and(|time| age(segment) > time);
            let is_much = settings.retain_bytes.is_some_and(|most| total > most);
            if !is_old && !is_much {
                break;
            }
            total -= size;
            gone += 1;
        }
        let Some((removed, kept)) = all.split_at_checked(gone) else { return };
        let (Some(first), Some(next)) = (removed.first(), kept.first()) else { return };
        self.own.push(json!({ "event": "retired", "first": first.first, "next": next.first }));
        // Only what the record says is gone may be gone.
        match self.write() {
            Ok(_) => {
                for segment in removed {
                    for ending in [SEALED, LEAVES, NOTES] {
                        fs::remove_file(segment.path(ending)).ok();
                    }
                }
            }
            Err(_) => drop(self.own.pop()),
        }
    }

    /// Sums up what the log takes on the disk, from time to time.
    fn measure(&mut self) {
        const EVERY: Duration = Duration::from_secs(10);
        if self.measured.is_some_and(|at| at.elapsed() < EVERY) {
            return;
        }
        self.measured = Some(Instant::now());
        let all = Segment::all(&self.shared.settings.directory).unwrap_or_default();
        let bytes = all.iter().map(bytes_of).sum();
        let numbers = &self.shared.numbers;
        numbers.bytes.store(bytes, Ordering::Relaxed);
        numbers.bytes_time.store(seconds_now(), Ordering::Relaxed);
    }
}

/// Seconds since 1970.
fn seconds_now() -> u64 {
    u64::try_from(Timestamp::now().as_second()).unwrap_or(0)
}

impl Files {
    /// The files of the segment that goes on from a tree; its first checkpoint is that tree's.
    fn create(directory: &Path, frontier: &Frontier, key: &PrivateKey) -> io::Result<Self> {
        let segment = Segment::new(directory, frontier.size(), false);
        let [records, leaves, notes] =
            [PLAIN, LEAVES, NOTES].map(|ending| Added::create(&segment.path(ending)));
        let mut files = Self {
            segment,
            begun: Instant::now(),
            records: records?,
            leaves: leaves?,
            notes: notes?,
            is_broken: false,
        };
        files.note(&entry(key, frontier), true)?;
        File::open(directory)?.sync_all()?;
        Ok(files)
    }

    /// Writes a batch behind `length` bytes and the leaves of `before`; what was written of it is cut
    /// off again where that fails.
    fn append(
        &mut self,
        batch: &Batch,
        length: u64,
        before: &Frontier,
        on_disk: bool,
    ) -> io::Result<()> {
        let hashes = (before.size() - self.segment.first) * HASH_LEN as u64;
        let written = self.records.add(&batch.records);
        let written = written.and_then(|()| self.leaves.add(&batch.leaves));
        let synced = match written {
            Ok(()) if on_disk => {
                let synced = self.records.sync().and_then(|()| self.leaves.sync());
                // What the kernel did not get to the disk it may hold for clean: nothing more is
                // written behind it (<https://lwn.net/Articles/752063/>).
                self.is_broken |= synced.is_err();
                synced
            }
            other => other,
        };
        if synced.is_err() {
            let cut = self.records.cut(length).and_then(|()| self.leaves.cut(hashes));
            self.is_broken |= cut.is_err();
        }
        synced
    }

    fn note(&mut self, entry: &Entry, on_disk: bool) -> io::Result<()> {
        let length = self.notes.length()?;
        let written = self.notes.add(entry.line().as_bytes());
        let written = written.and_then(|()| if on_disk { self.notes.sync() } else { Ok(()) });
        if written.is_err() {
            self.is_broken |= self.notes.cut(length).is_err();
        }
        written
    }
}

/// Moves a file aside: it is kept, under a name that no segment has.
pub(super) fn aside(path: &Path) -> io::Result<()> {
    let now = Timestamp::now().as_millisecond();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    fs::rename(path, path.with_file_name(format!("aside-{now}-{name}")))
}

/// A signed checkpoint of a tree.
fn entry(key: &PrivateKey, frontier: &Frontier) -> Entry {
    let origin = key.public().name().to_owned();
    let checkpoint = Checkpoint { origin, size: frontier.size(), root: frontier.root() };
    Entry {
        time: format!("{:.3}", Timestamp::now()),
        frontier: frontier.clone(),
        note: key.sign(&checkpoint.to_string()),
    }
}

/// Puts the last checkpoint where others fetch it, whole at any time.
fn head(directory: &Path, entry: &Entry) -> io::Result<()> {
    let next = directory.join("head.next");
    fs::write(&next, &entry.note)?;
    fs::rename(next, directory.join(HEAD))
}

/// What a segment begins with.
fn segment_event(key: &PrivateKey) -> Value {
    let version = env!("CARGO_PKG_VERSION");
    json!({ "event": "segment", "schema": 2, "log": key.public().name(), "version": version })
}

/// A record of lines that were lost.
fn gap(lost: Option<u64>, cause: &str, now: Timestamp) -> String {
    let time = format!("{now:.3}");
    json!({ "event": "gap", "lost": lost, "cause": cause, "time": time }).to_string()
}

/// Compresses the records of a segment to which nothing is added any more.
pub(super) fn seal(segment: &Segment) -> io::Result<()> {
    let (plain, sealed) = (segment.path(PLAIN), segment.path(SEALED));
    let part: PathBuf = sealed.with_extension("part");
    let mut from = File::open(&plain)?;
    let mut to = OpenOptions::new();
    let mut to = to.create(true).truncate(true).write(true).mode(0o600).open(&part)?;
    zstd::stream::copy_encode(&mut from, &mut to, LEVEL)?;
    to.sync_all()?;
    fs::rename(&part, &sealed)?;
    fs::remove_file(&plain)
}

fn bytes_of(segment: &Segment) -> u64 {
    let records = if segment.is_sealed { SEALED } else { PLAIN };
    let length = |ending| fs::metadata(segment.path(ending)).map_or(0, |file| file.len());
    [records, LEAVES, NOTES].into_iter().map(length).sum()
}

/// How long ago a segment was last written to.
fn age(segment: &Segment) -> Duration {
    let written = fs::metadata(segment.path(NOTES)).and_then(|file| file.modified());
    let age = written.ok().and_then(|at| SystemTime::now().duration_since(at).ok());
    age.unwrap_or_default()
}
