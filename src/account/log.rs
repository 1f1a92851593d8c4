//! The record, written: JSON lines through a bounded channel and one writer thread, so that a slow
//! or stuck sink never holds up the data plane. What finds the channel full is lost and counted.

use std::fmt;
use std::io::{self, BufWriter, Write};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

/// Lines that may wait for the writer: a second's worth at 8,000 lines a second, under 8 MiB.
const WAITING_MAX: usize = 8192;

enum Message {
    Line(String),
    /// Everything before this is to be written out, then answered.
    Flush(SyncSender<()>),
}

/// The way to the writer thread.
pub(super) struct Log(SyncSender<Message>);

impl Log {
    /// Starts the writer thread; it ends when the `Log` is dropped. `lost` is called, on that
    /// thread, for each line that the sink refused.
    pub(super) fn start(
        sink: Box<dyn Write + Send>,
        lost: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(WAITING_MAX);
        thread::Builder::new()
            .name("record".to_owned())
            .spawn(move || write_all(&receiver, BufWriter::new(sink), lost))?;
        Ok(Self(sender))
    }

    /// Hands a line over; `false` where it is lost.
    pub(super) fn line(&self, line: String) -> bool {
        self.0.try_send(Message::Line(line)).is_ok()
    }

    /// Waits, up to `limit`, until everything handed over so far is written.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let (done, answer) = sync_channel(1);
        let mut message = Message::Flush(done);
        let step = Duration::from_millis(5);
        for _ in 0..=limit.as_millis() / step.as_millis() {
            match self.0.try_send(message) {
                Ok(()) => return answer.recv_timeout(limit).is_ok(),
                Err(TrySendError::Disconnected(_)) => return false,
                Err(TrySendError::Full(back)) => message = back,
            }
            thread::sleep(step);
        }
        false
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").finish_non_exhaustive()
    }
}

fn write_all(lines: &Receiver<Message>, mut sink: impl Write, lost: impl Fn()) {
    while let Ok(first) = lines.recv() {
        write_one(first, &mut sink, &lost);
        while let Ok(next) = lines.try_recv() {
            write_one(next, &mut sink, &lost);
        }
        // A line that is complete does not wait for the next one to push it out.
        if sink.flush().is_err() {
            lost();
        }
    }
}

fn write_one(message: Message, sink: &mut impl Write, lost: &impl Fn()) {
    match message {
        Message::Line(line) => {
            if sink.write_all(line.as_bytes()).is_err() {
                lost();
            }
        }
        Message::Flush(done) => {
            if sink.flush().is_err() {
                lost();
            }
            // The one who asked may have given up, which is no fault of this thread.
            done.try_send(()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Sender, channel};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A sink that says when it is written to, and then waits for leave.
    struct Stuck {
        reached: Sender<()>,
        leave: Receiver<()>,
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.reached.send(()).ok();
            self.leave.recv().ok();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_written_in_order_by_the_time_a_flush_returns() {
        let kept = Kept::default();
        let log = Log::start(Box::new(kept.clone()), || ()).unwrap();
        for i in 0..100 {
            assert!(log.line(format!("{i}\n")));
        }
        assert!(log.flush(Duration::from_secs(10)));
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        assert!(text.lines().map(|l| l.parse::<u32>().unwrap()).eq(0..100));
    }

    #[test]
    fn a_stuck_sink_costs_lines_and_never_time() {
        let (reached, on_reached) = channel();
        let (leave, on_leave) = channel();
        let log = Log::start(Box::new(Stuck { reached, leave: on_leave }), || ()).unwrap();
        assert!(log.line("x".repeat(20_000)));
        on_reached.recv().unwrap();
        for _ in 0..WAITING_MAX {
            assert!(log.line("waits\n".to_owned()));
        }
        assert!(!log.line("one too many\n".to_owned()));
        drop(leave);
    }

    #[test]
    fn a_sink_that_fails_is_counted() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let lost = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&lost);
        let count = move || {
            counted.fetch_add(1, Ordering::Relaxed);
        };
        let log = Log::start(Box::new(Broken), count).unwrap();
        assert!(log.line("line\n".to_owned()));
        assert!(log.flush(Duration::from_secs(10)));
        assert!(lost.load(Ordering::Relaxed) > 0);
    }
}
