//! The record, and the messages of the process, written: JSON lines through buffers in memory and one writer thread, so that a slow
//! or stuck sink never holds up the data plane. What finds its buffer full is lost and counted.
//!
//! Lines are handed over in batches. A thread that writes a line wakes nobody while the writer is
//! at work: with a wake-up a line, a connection of two lines cost four futex(2) calls, two write(2)
//! calls and seven switches between threads (strace -c -f, perf stat; 1,000 connections); in
//! batches it costs none of them. The price: what was handed over in the last [`BATCH_TIME`] is
//! lost when the process is killed. An orderly end flushes.

use std::cell::Cell;
use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::sys::{self, Paths};

/// The longest that a line waits before it is given to the sink.
const BATCH_TIME: Duration = Duration::from_millis(50);

/// Bytes in one buffer at which the writer does not wait any longer.
const BATCH_BYTES: usize = 64 * 1024;

/// Buffers; a thread keeps to one of them, so that workers do not wait for each other.
const SHARDS: usize = 8;

/// Bytes that may wait in one buffer: some 6,000 lines.
const SHARD_MAX: usize = 4 * 1024 * 1024;

/// Bytes of messages that may wait: they have a buffer of their own, so that neither they nor the
/// record take the other's room.
const MESSAGES_MAX: usize = 256 * 1024;

/// What a line is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The record.
    Record,
    /// What the process says of itself.
    Message,
}

thread_local! {
    static SHARD: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The way to the writer thread.
pub(super) struct Log(Arc<Shared>);

struct Shared {
    shards: [Mutex<Vec<u8>>; SHARDS],
    messages: Mutex<Vec<u8>>,
    /// The writer has nothing to do and waits to be told of a line.
    asleep: AtomicBool,
    desk: Mutex<Desk>,
    bell: Condvar,
    answer: Condvar,
}

/// What the writer is told.
#[derive(Default)]
struct Desk {
    /// A buffer has grown large.
    full: bool,
    closed: bool,
    /// Flushes that were asked for, and how many of them are done.
    asked: u64,
    done: u64,
}

impl Desk {
    const fn is_urgent(&self) -> bool {
        self.full || self.closed || self.asked != self.done
    }
}

impl Log {
    /// Starts the writer thread; it ends when the `Log` is dropped. `lost` is called, on that
    /// thread, for each line that the sink refused.
    pub(super) fn start(
        sink: Box<dyn Write + Send>,
        lost: impl Fn(Kind) + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            shards: std::array::from_fn(|_| Mutex::default()),
            messages: Mutex::default(),
            asleep: AtomicBool::new(false),
            desk: Mutex::default(),
            bell: Condvar::new(),
            answer: Condvar::new(),
        });
        let writer = Writer { shared: Arc::clone(&shared), sink, lost, torn: false };
        thread::Builder::new().name("record".to_owned()).spawn(move || {
            // It writes to what is open, and opens nothing. Where the kernel refuses that, it refuses
            // the gateway as well, which does not start then.
            sys::restrict_files(&Paths::default()).ok();
            writer.run();
        })?;
        Ok(Self(shared))
    }

    /// Hands a line over, which `put` appends to the buffer; `false` where it is lost, since too
    /// much waits already.
    pub(super) fn line(&self, put: impl FnOnce(&mut Vec<u8>)) -> bool {
        let shard = self.0.shards.get(own_shard()).unwrap_or(&self.0.shards[0]);
        self.append(shard, SHARD_MAX, put)
    }

    /// Hands a message over, as [`Log::line`].
    pub(super) fn message(&self, message: &[u8]) -> bool {
        self.append(&self.0.messages, MESSAGES_MAX, |buffer| buffer.extend_from_slice(message))
    }

    fn append(&self, shard: &Mutex<Vec<u8>>, most: usize, put: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut buffer = lock(shard);
        let before = buffer.len();
        if before >= most {
            return false;
        }
        put(&mut buffer);
        let is_full = before < BATCH_BYTES && buffer.len() >= BATCH_BYTES;
        drop(buffer);
        if self.0.asleep.load(Ordering::SeqCst) && self.0.asleep.swap(false, Ordering::SeqCst) {
            self.0.tell(|_| ());
        }
        if is_full {
            self.0.tell(|desk| desk.full = true);
        }
        true
    }

    /// Waits, up to `limit`, until everything handed over so far is written.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let mut desk = lock(&self.0.desk);
        desk.asked += 1;
        let number = desk.asked;
        self.0.bell.notify_one();
        while desk.done < number {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.0.answer.wait_timeout(desk, left);
            desk = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.0.tell(|desk| desk.closed = true);
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").finish_non_exhaustive()
    }
}

impl Shared {
    fn tell(&self, what: impl FnOnce(&mut Desk)) {
        what(&mut lock(&self.desk));
        self.bell.notify_one();
    }

    fn is_empty(&self) -> bool {
        let mut all = self.shards.iter().chain([&self.messages]);
        all.all(|shard| lock(shard).is_empty())
    }

    /// Waits for a first line, and then for more of them; the flushes that were asked for until
    /// now, and whether this is the last batch.
    fn wait(&self) -> (u64, bool) {
        self.asleep.store(true, Ordering::SeqCst);
        // Whoever appended before this look is seen by it, and whoever appends after it sees that
        // the writer sleeps: the buffer's lock is between the two.
        if !self.is_empty() {
            self.asleep.store(false, Ordering::SeqCst);
        }
        let desk = lock(&self.desk);
        let idle = |desk: &mut Desk| !desk.is_urgent() && self.asleep.load(Ordering::SeqCst);
        let desk = self.bell.wait_while(desk, idle).unwrap_or_else(PoisonError::into_inner);
        self.asleep.store(false, Ordering::SeqCst);
        let waited = self.bell.wait_timeout_while(desk, BATCH_TIME, |desk| !desk.is_urgent());
        let mut desk = waited.unwrap_or_else(PoisonError::into_inner).0;
        desk.full = false;
        (desk.asked, desk.closed)
    }
}

struct Writer<L> {
    shared: Arc<Shared>,
    sink: Box<dyn Write + Send>,
    lost: L,
    /// The sink took a part of a line, and not its end.
    torn: bool,
}

impl<L: Fn(Kind)> Writer<L> {
    fn run(mut self) {
        // Each shard's buffer is filled while its other one is written, so that both stay as large
        // as the shard needs them.
        let mut batches: [Vec<u8>; SHARDS + 1] = Default::default();
        let shared = Arc::clone(&self.shared);
        loop {
            let (asked, closed) = self.shared.wait();
            let records = shared.shards.iter().map(|shard| (shard, Kind::Record));
            let all = records.chain([(&shared.messages, Kind::Message)]);
            for ((shard, kind), batch) in all.zip(&mut batches) {
                std::mem::swap(&mut *lock(shard), batch);
                self.write(batch, kind);
                batch.clear();
                // What a burst took is given back.
                batch.shrink_to(2 * BATCH_BYTES);
            }
            if self.sink.flush().is_err() {
                (self.lost)(Kind::Record);
            }
            lock(&self.shared.desk).done = asked;
            self.shared.answer.notify_all();
            if closed {
                return;
            }
        }
    }

    fn write(&mut self, batch: &[u8], kind: Kind) {
        let mut left = batch;
        if self.torn && !left.is_empty() {
            // The lines that follow are whole ones.
            self.torn = self.sink.write_all(b"\n").is_err();
        }
        while !left.is_empty() {
            match self.sink.write(left) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(written) if written > 0 => left = left.get(written..).unwrap_or_default(),
                Ok(_) | Err(_) => {
                    let begun = batch.len() - left.len();
                    self.torn |= begun > 0 && batch.get(begun - 1) != Some(&b'\n');
                    left.iter().filter(|&&byte| byte == b'\n').for_each(|_| (self.lost)(kind));
                    return;
                }
            }
        }
    }
}

fn own_shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    SHARD.get().unwrap_or_else(|| {
        let shard = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
        SHARD.set(Some(shard));
        shard
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;
    use crate::account::kept::CapturedLog;

    /// A sink that says when it is written to, and then waits for leave.
    struct Stuck {
        reached: Sender<usize>,
        leave: Receiver<()>,
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.reached.send(bytes.len()).ok();
            self.leave.recv().ok();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn put(log: &Log, line: &str) -> bool {
        log.line(|buffer| buffer.extend_from_slice(line.as_bytes()))
    }

    #[test]
    fn lines_are_written_in_order_by_the_time_a_flush_returns() {
        let kept = CapturedLog::default();
        let log = Log::start(Box::new(kept.clone()), |_| ()).unwrap();
        for round in 0..100 {
            for i in 0..10 {
                assert!(put(&log, &format!("{}\n", round * 10 + i)));
            }
            assert!(log.flush(Duration::from_secs(10)));
            let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
            let lines = text.lines().map(|l| l.parse::<u32>().unwrap());
            assert!(lines.eq(0..(round + 1) * 10));
        }
    }

    #[test]
    fn a_line_is_written_though_nobody_asks_and_the_last_ones_when_the_log_goes() {
        let (reached, on_reached) = channel();
        let (leave, on_leave) = channel();
        let log = Log::start(Box::new(Stuck { reached, leave: on_leave }), |_| ()).unwrap();
        // Each is the first one after the writer fell asleep, or comes just before it does.
        for _ in 0..5 {
            assert!(put(&log, "line\n"));
            assert_eq!(on_reached.recv().unwrap(), 5);
            leave.send(()).unwrap();
        }
        assert!(put(&log, "last\n"));
        drop(log);
        assert_eq!(on_reached.recv().unwrap(), 5);
    }

    #[test]
    fn every_thread_s_lines_arrive() {
        let kept = CapturedLog::default();
        let log = Log::start(Box::new(kept.clone()), |_| ()).unwrap();
        thread::scope(|scope| {
            for number in 0..20 {
                let log = &log;
                scope.spawn(move || {
                    for i in 0..500 {
                        assert!(put(log, &format!("{number} {i}\n")));
                    }
                });
            }
        });
        assert!(log.flush(Duration::from_secs(10)));
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        for number in 0..20 {
            let start = format!("{number} ");
            let own = text.lines().filter_map(|line| line.strip_prefix(&start));
            assert!(own.map(|i| i.parse::<u32>().unwrap()).eq(0..500), "thread {number}");
        }
    }

    #[test]
    fn a_stuck_sink_costs_lines_and_never_time() {
        let (reached, on_reached) = channel();
        let (leave, on_leave) = channel();
        let log = Log::start(Box::new(Stuck { reached, leave: on_leave }), |_| ()).unwrap();
        assert!(put(&log, "the one at which it sticks\n"));
        on_reached.recv().unwrap();
        let line = "x".repeat(1023) + "\n";
        for _ in 0..SHARD_MAX / line.len() {
            assert!(put(&log, &line));
        }
        assert!(!put(&log, "one too many\n"));
        assert!(!log.flush(Duration::from_millis(1)));
        // The record has not taken the room of messages, nor do they wait.
        for _ in 0..MESSAGES_MAX / line.len() {
            assert!(log.message(line.as_bytes()));
        }
        assert!(!log.message(b"one too many\n"));
        drop(leave);
    }

    /// Takes 8 bytes, then fails until it is told to work.
    #[derive(Clone, Default)]
    struct Broken {
        kept: CapturedLog,
        works: Arc<AtomicBool>,
    }

    impl Write for Broken {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let had = self.kept.0.lock().unwrap().len();
            if self.works.load(Ordering::SeqCst) {
                return self.kept.write(bytes);
            }
            match bytes.get(..8 - had.min(8)) {
                Some(part) if !part.is_empty() => self.kept.write(part),
                _ => Err(io::ErrorKind::StorageFull.into()),
            }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_sink_that_fails_is_counted_and_a_torn_line_spoils_no_other() {
        let lost = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&lost);
        let count = move |kind| {
            assert_eq!(kind, Kind::Record);
            counted.fetch_add(1, Ordering::Relaxed);
        };
        let sink = Broken::default();
        let log = Log::start(Box::new(sink.clone()), count).unwrap();
        for line in ["kept\n", "torn and lost\n", "lost\n"] {
            assert!(put(&log, line));
        }
        assert!(log.flush(Duration::from_secs(10)));
        assert_eq!(lost.load(Ordering::Relaxed), 2);
        sink.works.store(true, Ordering::SeqCst);
        assert!(put(&log, "again\n"));
        assert!(log.flush(Duration::from_secs(10)));
        assert_eq!(*sink.kept.0.lock().unwrap(), b"kept\ntor\nagain\n");
    }
}
