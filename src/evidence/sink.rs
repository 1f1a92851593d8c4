//! Where the record goes: from any thread into a [`Ring`], and by a thread of its own from there into
//! segments.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use ring::digest::{SHA256, digest};

use super::note::{NoteFault, PrivateKey};
use super::register::keep::Keeper;
use super::ring::{Found, Ring};
use super::settings::{Durability, LOG_MODE, OnFailure, Settings, make_folder};
use super::writer::Writer;

/// Words of one ring: 4 MiB, some 6,000 lines.
const SHARD_WORDS: u64 = 512 * 1024;

/// Words of a ring that are kept for what is not the opening of a connection: the end of those that
/// are open has to find room as well, and refusals.
const SPARE: u64 = SHARD_WORDS / 4;

/// Words that are used in a ring from which on there is more to record than the disk takes.
const PRESSED: u64 = SHARD_WORDS / 2;

/// Openings that one client may have in a ring that is pressed, until the next batch is written: what
/// is left is for the others.
const SHARE: u32 = 64;

/// Clients that are told apart by their share, by a hash.
const SHARES: usize = 1024;

/// Words in a ring at which the writer does not wait any longer.
const HURRY: u64 = 8 * 1024;

/// The longest that a line waits in the ring, where the disk takes it.
const BATCH_TIME: Duration = Duration::from_millis(50);

/// Time between two attempts where the disk does not take what is written.
const AGAIN: Duration = Duration::from_secs(1);

/// What the name of a ring's file begins with.
const RING: &str = "ring.";

/// Why no record can be kept.
#[derive(Debug, thiserror::Error)]
pub enum SinkFault {
    /// The directory or a file in it.
    #[error("[audit] {}: {what}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Another process keeps its record there.
    #[error(
        "[audit] directory {}: another process keeps its record there; give each gateway a \
         directory of its own", .0.display()
    )]
    Taken(PathBuf),
    /// The key.
    #[error("[audit] key {}: {fault}", .path.display())]
    Key {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        fault: NoteFault,
    },
    /// The last segment cannot be continued.
    #[error(
        "[audit] {}: the checkpoint that the segment begins with is missing or not signed by the \
         key, so that the log cannot go on from it; move the directory aside, and keep it", .0.display()
    )]
    Headless(PathBuf),
}

impl SinkFault {
    pub(super) fn file(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File { path, what, source }
    }
}

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It has to be kept before a connection goes on.
    Opening,
    /// Anything else.
    Other,
}

/// A line could not be kept, and the settings let nothing go on without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unkept;

/// How the record fares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// What is wrong, where it is not kept now.
    pub fault: Option<String>,
    /// Records in the log.
    pub records: u64,
    /// Records that say that lines were lost.
    pub gaps: u64,
    /// Bytes of the log on the disk, summed up every ten seconds.
    pub bytes: u64,
    /// When they were summed up, seconds since 1970; 0 before the first time.
    pub bytes_time: u64,
    /// Records under the last checkpoint.
    pub head_size: u64,
    /// When it was signed, seconds since 1970; 0 before the first.
    pub head_time: u64,
    /// Records that the transfer register has read; `None` where none is kept.
    pub registered: Option<u64>,
}

/// The way to the record. Cheap to clone.
#[derive(Clone)]
pub struct Sink(Arc<Shared>);

pub(super) struct Shared {
    pub(super) ring: Ring,
    pub(super) settings: Settings,
    /// Its lock says that the ring has an owner.
    _ring_file: File,
    ring_path: PathBuf,
    asleep: AtomicBool,
    hurried: AtomicBool,
    failing: AtomicBool,
    /// Openings of each client since the last batch, while the rings were pressed.
    shares: Box<[AtomicU32]>,
    pub(super) numbers: Numbers,
    desk: Mutex<Desk>,
    bell: Condvar,
    answer: Condvar,
    /// Who waits for a line to be on the disk, by its ring and its end there.
    waiting: Mutex<HashMap<(usize, u64), Waker>>,
}

#[derive(Default)]
pub(super) struct Numbers {
    pub(super) records: AtomicU64,
    pub(super) gaps: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) bytes_time: AtomicU64,
    pub(super) head_size: AtomicU64,
    pub(super) head_time: AtomicU64,
    pub(super) registered: AtomicU64,
}

#[derive(Default)]
struct Desk {
    hurry: bool,
    closed: bool,
    ended: bool,
    asked: u64,
    done: u64,
    fault: Option<String>,
}

impl Desk {
    const fn is_urgent(&self) -> bool {
        self.hurry || self.closed || self.asked != self.done
    }
}

impl Sink {
    /// Begins to keep the record, and takes up what an earlier process left. With `waits`, a process
    /// that still keeps its record there is waited for, and lines stay in the ring meanwhile.
    ///
    /// # Errors
    /// [`SinkFault`] names the file and what is wrong with it.
    pub fn start(settings: &Settings, waits: bool) -> Result<Self, SinkFault> {
        let directory = &settings.directory;
        make_folder(directory, LOG_MODE)?;
        let key = signing_key(settings)?;
        let (ring, ring_file, ring_path) = own_ring(directory)?;
        let shared = Arc::new(Shared {
            ring,
            settings: settings.clone(),
            _ring_file: ring_file,
            ring_path,
            asleep: AtomicBool::new(false),
            hurried: AtomicBool::new(false),
            failing: AtomicBool::new(false),
            shares: (0..SHARES).map(|_| AtomicU32::new(0)).collect(),
            numbers: Numbers::default(),
            desk: Mutex::default(),
            bell: Condvar::new(),
            answer: Condvar::new(),
            waiting: Mutex::default(),
        });
        let path = directory.join("lock");
        let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let lock = lock.map_err(SinkFault::file(&path, "cannot be opened"))?;
        let begun = begin(&shared, &key, &lock, waits);
        if begun.is_err() {
            // Nothing was put there yet.
            fs::remove_file(&shared.ring_path).ok();
        }
        let (begun, desk) = (begun?, Arc::clone(&shared));
        let run = move || run(&desk, begun, &key, lock);
        let spawned = thread::Builder::new().name("audit".to_owned()).spawn(run);
        spawned.map_err(SinkFault::file(directory, "no thread to write there"))?;
        Ok(Self(shared))
    }

    /// The public key's text, for whoever verifies; as in the file beside the key.
    #[must_use]
    pub fn public_key(&self) -> Option<String> {
        let text = fs::read_to_string(public_path(&self.0.settings.key)).ok()?;
        Some(text.trim().to_owned())
    }

    /// Keeps a line, an object of JSON that `fill` appends to a buffer, without a line feed. Never waits:
    /// of an opening that has to be on the disk, gives what is to be waited for.
    ///
    /// # Errors
    /// Of an opening, where it is not kept and nothing may go on without it. Any other line that is
    /// not kept is lost, and counted in the record.
    pub fn line(
        &self,
        kind: Kind,
        fill: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Option<OnDisk>, Unkept> {
        self.line_of(kind, 1, || None, fill)
    }

    /// As [`Sink::line`], of a client, by a number that tells it apart, where it has a share; and as one
    /// line for so many.
    ///
    /// # Errors
    /// As [`Sink::line`]; an opening also where the disk takes less than there is to record, and this
    /// client has had its share.
    pub fn line_of(
        &self,
        kind: Kind,
        times: u64,
        client: impl FnOnce() -> Option<u64>,
        fill: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Option<OnDisk>, Unkept> {
        let shared = &*self.0;
        let must_be_kept = kind == Kind::Opening && shared.settings.on_failure == OnFailure::Block;
        let is_over = kind == Kind::Opening
            && self.is_pressed()
            && client().is_some_and(|client| shared.has_had(client));
        let put = if is_over {
            None
        } else {
            shared.ring.put(if must_be_kept { SPARE } else { 0 }, fill).ok()
        };
        let Some((shard, end)) = put else {
            if must_be_kept {
                return Err(Unkept);
            }
            shared.ring.lose(times);
            return Ok(None);
        };
        if shared.asleep.load(Ordering::SeqCst) && shared.asleep.swap(false, Ordering::SeqCst) {
            shared.tell(|_| ());
        }
        let is_much = end.wrapping_sub(shared.ring.freed(shard)) >= HURRY;
        if is_much && !shared.hurried.swap(true, Ordering::Relaxed) {
            shared.tell(|desk| desk.hurry = true);
        }
        if kind == Kind::Opening && shared.settings.durability == Durability::Disk {
            shared.tell(|desk| desk.hurry = true);
            return Ok(Some(OnDisk { shared: Arc::clone(&self.0), shard, end, must_be_kept }));
        }
        Ok(None)
    }

    /// Whether there is more to record than the disk takes, as far as the calling thread sees.
    #[must_use]
    pub fn is_pressed(&self) -> bool {
        !self.0.ring.has_room(PRESSED)
    }

    /// The same, of any thread.
    #[must_use]
    pub fn is_pressed_anywhere(&self) -> bool {
        self.0.ring.is_full(PRESSED)
    }

    /// Whether a connection that is opened now would find its line kept, or goes on without it.
    #[must_use]
    pub fn keeps(&self) -> bool {
        let shared = &*self.0;
        let disk_fails = || {
            shared.settings.durability == Durability::Disk && shared.failing.load(Ordering::Relaxed)
        };
        shared.settings.on_failure == OnFailure::Pass
            || shared.ring.has_room(SPARE) && !disk_fails()
    }

    /// Waits, up to `limit`, until every line so far is in a segment; `false` where that failed.
    #[must_use]
    pub fn flush(&self, limit: Duration) -> bool {
        let mut number = 0;
        self.0.tell(|desk| {
            desk.asked += 1;
            number = desk.asked;
        });
        self.0.wait_until(limit, |desk| desk.done >= number)
    }

    /// Writes what there is, signs it, and gives the directory free; waits up to `limit`. Later lines
    /// stay in the ring, for the next process.
    #[must_use]
    pub fn close(&self, limit: Duration) -> bool {
        self.0.tell(|desk| desk.closed = true);
        self.0.wait_until(limit, |desk| desk.ended)
    }

    /// How the record fares.
    #[must_use]
    pub fn status(&self) -> Status {
        let numbers = &self.0.numbers;
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let fault = self.0.lock().fault.clone();
        let is_full =
            || "the rings are full: the disk takes less than there is to record".to_owned();
        Status {
            fault: fault.or_else(|| self.0.ring.is_full(SPARE).then(is_full)),
            records: read(&numbers.records),
            gaps: read(&numbers.gaps),
            bytes: read(&numbers.bytes),
            bytes_time: read(&numbers.bytes_time),
            head_size: read(&numbers.head_size),
            head_time: read(&numbers.head_time),
            registered: self.0.settings.register.then(|| read(&numbers.registered)),
        }
    }

    /// Time between two `update` records of a live connection.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.0.settings.interval
    }
}

/// An opening on its way to the disk, with whatever else is written at once; ready when it is there.
#[derive(Debug)]
#[must_use]
pub struct OnDisk {
    shared: Arc<Shared>,
    shard: usize,
    end: u64,
    must_be_kept: bool,
}

impl OnDisk {
    /// How long it may take.
    #[must_use]
    pub fn limit(&self) -> Duration {
        self.shared.settings.disk_limit
    }

    /// Whether a connection may go on though it is not there in time.
    #[must_use]
    pub const fn may_fail(&self) -> bool {
        !self.must_be_kept
    }
}

impl Future for OnDisk {
    type Output = Result<(), Unkept>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { shared, shard, end, must_be_kept } = &*self;
        // Before the look, so that what is written behind it finds who waits.
        shared.waiting().insert((*shard, *end), context.waker().clone());
        if shared.ring.freed(*shard) >= *end {
            return Poll::Ready(Ok(()));
        }
        if shared.failing.load(Ordering::Relaxed) {
            return Poll::Ready(if *must_be_kept { Err(Unkept) } else { Ok(()) });
        }
        Poll::Pending
    }
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        self.shared.waiting().remove(&(self.shard, self.end));
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, what: impl FnOnce(&mut Desk)) {
        what(&mut self.lock());
        self.bell.notify_one();
    }

    fn wait_until(&self, limit: Duration, is_so: impl Fn(&Desk) -> bool) -> bool {
        let waited = self.answer.wait_timeout_while(self.lock(), limit, |desk| !is_so(desk));
        is_so(&waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    /// Counts an opening of a client; whether it has had its share already.
    fn has_had(&self, client: u64) -> bool {
        let place = usize::try_from(client % SHARES as u64).unwrap_or(0);
        let had = self.shares.get(place).map(|had| had.fetch_add(1, Ordering::Relaxed));
        had.is_some_and(|had| had >= SHARE)
    }

    /// A batch was written, and there is room again.
    pub(super) fn share_anew(&self) {
        self.shares.iter().for_each(|had| had.store(0, Ordering::Relaxed));
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<(usize, u64), Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has everybody look again who waits for a line, or for a flush.
    fn tell_all(&self) {
        self.answer.notify_all();
        let waiting = std::mem::take(&mut *self.waiting());
        waiting.into_values().for_each(Waker::wake);
    }

    fn has_lines(&self) -> bool {
        let heads = self.ring.committed().heads;
        self.ring.tails() != heads
    }

    /// Waits for a first line, and then for more of them; the flushes that were asked for until now,
    /// and whether this is the last batch.
    fn wait(&self, longest: Duration) -> (u64, bool) {
        self.asleep.store(true, Ordering::SeqCst);
        if self.has_lines() {
            self.asleep.store(false, Ordering::SeqCst);
        }
        let idle = |desk: &mut Desk| !desk.is_urgent() && self.asleep.load(Ordering::SeqCst);
        let waited = self.bell.wait_timeout_while(self.lock(), longest, idle);
        let desk = waited.unwrap_or_else(PoisonError::into_inner).0;
        self.asleep.store(false, Ordering::SeqCst);
        let waited = self.bell.wait_timeout_while(desk, BATCH_TIME, |desk| !desk.is_urgent());
        let mut desk = waited.unwrap_or_else(PoisonError::into_inner).0;
        desk.hurry = false;
        self.hurried.store(false, Ordering::Relaxed);
        (desk.asked, desk.closed)
    }

    fn fares(&self, fault: Option<String>) {
        self.failing.store(fault.is_some(), Ordering::Relaxed);
        self.lock().fault = fault;
    }
}

/// The thread that writes.
fn run(shared: &Arc<Shared>, begun: Option<Writer>, key: &PrivateKey, lock: File) {
    let mut writer = begun;
    let mut next_try = Instant::now();
    let mut keeper = None;
    loop {
        let (asked, closed) = shared.wait(shared.settings.checkpoint.min(AGAIN));
        if writer.is_none() {
            match begin(shared, key, &lock, true) {
                Ok(begun) => writer = begun,
                Err(fault) => shared.fares(Some(fault.to_string())),
            }
        }
        if keeper.is_none() && writer.is_some() && shared.settings.register {
            // Where there is no thread for it, the next round asks again.
            keeper = Keeper::start(shared);
        }
        if closed && let Some(keeper) = keeper.take() {
            // It reads what is written now; what it has to say is written below, as the last.
            let written = writer.as_mut().map(|writer| writer.work(false));
            if let Some(Err(fault)) = written {
                shared.fares(Some(fault.to_string()));
            }
            keeper.end();
        }
        let mut has_failed = false;
        if let Some(writer) = &mut writer
            && (closed || Instant::now() >= next_try)
        {
            let written = writer.work(closed);
            has_failed = written.is_err();
            if has_failed {
                next_try = Instant::now() + AGAIN;
            }
            shared.fares(written.err().map(|fault| fault.to_string()));
        }
        let is_waiting = writer.is_none() || has_failed || Instant::now() < next_try;
        let mut desk = shared.lock();
        if !is_waiting || closed {
            desk.done = asked;
        }
        if closed {
            let is_written = writer.is_some() && !has_failed && !shared.has_lines();
            drop(writer.take());
            // Whoever waits for the directory finds it free once this is closed.
            drop(lock.unlock());
            if is_written {
                fs::remove_file(&shared.ring_path).ok();
            }
            desk.ended = is_written;
            desk.done = if is_written { asked } else { 0 };
            drop(desk);
            shared.tell_all();
            return;
        }
        drop(desk);
        shared.tell_all();
        if is_waiting {
            // Lines stay where they are; nobody hurries the writer for a disk that does not take them.
            thread::sleep(BATCH_TIME);
        }
    }
}

/// Takes the directory, and what was left in it; `None` where it is another's, and is waited for.
fn begin(
    shared: &Arc<Shared>,
    key: &PrivateKey,
    lock: &File,
    waits: bool,
) -> Result<Option<Writer>, SinkFault> {
    let directory = &shared.settings.directory;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) if waits => return Ok(None),
        Err(TryLockError::WouldBlock) => return Err(SinkFault::Taken(directory.clone())),
        Err(TryLockError::Error(source)) => {
            return Err(SinkFault::File {
                path: directory.clone(),
                what: "cannot be locked",
                source,
            });
        }
    }
    let key = PrivateKey::parse(&key.secret_text());
    let key = key.map_err(|fault| SinkFault::Key { path: shared.settings.key.clone(), fault })?;
    let left = left_rings(directory)?;
    Writer::open(Arc::clone(shared), key, left).map(Some)
}

/// A ring in a file of its own, which this process holds locked.
pub(super) fn own_ring(directory: &Path) -> Result<(Ring, File, PathBuf), SinkFault> {
    let now = jiff::Timestamp::now().as_nanosecond();
    let path = directory.join(format!("{RING}{}-{now:x}", std::process::id()));
    let mut options = OpenOptions::new();
    let file = options.create_new(true).read(true).write(true).mode(0o600).open(&path);
    let file = file.map_err(SinkFault::file(&path, "cannot be made"))?;
    file.lock().map_err(SinkFault::file(&path, "cannot be locked"))?;
    match Ring::open(&file, SHARD_WORDS, boot()) {
        Ok((ring, _)) => Ok((ring, file, path)),
        Err(source) => {
            fs::remove_file(&path).ok();
            Err(SinkFault::File { path, what: "no room for it on the disk", source })
        }
    }
}

/// A ring whose process is gone.
pub(super) struct Left {
    pub(super) ring: Ring,
    pub(super) found: Found,
    pub(super) path: PathBuf,
}

pub(super) fn left_rings(directory: &Path) -> Result<Vec<Left>, SinkFault> {
    let mut left = Vec::new();
    let entries = fs::read_dir(directory).map_err(SinkFault::file(directory, "cannot be read"))?;
    for entry in entries {
        let entry = entry.map_err(SinkFault::file(directory, "cannot be read"))?;
        if !entry.file_name().to_string_lossy().starts_with(RING) {
            continue;
        }
        let path = entry.path();
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.map_err(SinkFault::file(&path, "cannot be opened"))?;
        if file.try_lock().is_err() {
            continue;
        }
        let opened = Ring::open(&file, SHARD_WORDS, boot());
        let (ring, found) = opened.map_err(SinkFault::file(&path, "cannot be mapped"))?;
        left.push(Left { ring, found, path });
    }
    left.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(left)
}

/// What tells one run of the machine from the next.
fn boot() -> u64 {
    let id = fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let hash = digest(&SHA256, &id);
    hash.as_ref().first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
}

/// The file of the public key beside that of a private one.
#[must_use]
pub fn public_path(key: &Path) -> PathBuf {
    key.with_extension("pub")
}

/// The private key, made now where there is none.
fn signing_key(settings: &Settings) -> Result<PrivateKey, SinkFault> {
    let path = &settings.key;
    let fault = |fault| SinkFault::Key { path: path.clone(), fault };
    match fs::read_to_string(path) {
        Ok(text) => PrivateKey::parse(&text).map_err(fault),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = PrivateKey::generate(&settings.name).map_err(fault)?;
            write_key(path, &key).map_err(SinkFault::file(path, "cannot be written"))?;
            Ok(key)
        }
        Err(error) => Err(SinkFault::file(path, "cannot be read")(error)),
    }
}

/// Writes a new private key, which nobody else may read, and its public key beside it: both, or none.
///
/// # Errors
/// Also where a file of that name is there; which of the two it is stands in the text.
pub fn write_key(path: &Path, key: &PrivateKey) -> io::Result<()> {
    let create = |path: &Path, mode: u32, text: &dyn fmt::Display| {
        let file = OpenOptions::new().create_new(true).write(true).mode(mode).open(path);
        let written = file.and_then(|mut file| {
            let written = writeln!(file, "{text}").and_then(|()| file.sync_all());
            // Half a key would be in the way of a whole one.
            written.inspect_err(|_| drop(fs::remove_file(path)))
        });
        written
            .map_err(|fault| io::Error::new(fault.kind(), format!("{}: {fault}", path.display())))
    };
    let public = public_path(path);
    if public.symlink_metadata().is_ok() {
        let text = format!("{}: File exists", public.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    create(path, 0o600, &key.secret_text())?;
    create(&public, 0o644, &key.public()).inspect_err(|_| drop(fs::remove_file(path)))
}
