//! Signals that are waited for beside other things (signalfd(2)).

use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Signals of this process that wait to be read, and what was blocked before.
#[derive(Debug)]
pub struct Signals {
    file: File,
    before: Blocked,
}

/// A set of signals.
#[derive(Clone, Copy)]
struct Blocked(libc::sigset_t);

impl std::fmt::Debug for Blocked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Blocked")
    }
}

/// What [`Signals::wait`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// A signal, and whether another process sent it, rather than the terminal or the kernel.
    Signal(libc::c_int, bool),
    /// The other descriptor has something to read, or its other end is gone.
    Other,
    /// Neither, for so long.
    Neither,
}

impl Signals {
    /// Keeps these signals of the calling thread, and of those that it starts from now on, to be read
    /// here; each stays one until it is read.
    ///
    /// # Errors
    /// Whatever signalfd(2) says.
    pub fn hold(signals: &[libc::c_int]) -> io::Result<Self> {
        let mut wanted = MaybeUninit::uninit();
        let mut before = MaybeUninit::uninit();
        // SAFETY: the sets are written before they are read; `before` is written where the call
        // succeeds, and used only then.
        let descriptor = unsafe {
            libc::sigemptyset(wanted.as_mut_ptr());
            for signal in signals {
                libc::sigaddset(wanted.as_mut_ptr(), *signal);
            }
            let code = libc::pthread_sigmask(libc::SIG_BLOCK, wanted.as_ptr(), before.as_mut_ptr());
            if code != 0 {
                return Err(io::Error::from_raw_os_error(code));
            }
            libc::signalfd(-1, wanted.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: signalfd made the descriptor and nobody else has it; the set was written above.
        let (owned, before) =
            unsafe { (OwnedFd::from_raw_fd(descriptor), Blocked(before.assume_init())) };
        Ok(Self { file: File::from(owned), before })
    }

    /// Blocks what was blocked before, and nothing else: for a program that this process becomes.
    ///
    /// # Errors
    /// Whatever pthread_sigmask(3) says.
    pub fn release(&self) -> io::Result<()> {
        let before = &raw const self.before.0;
        // SAFETY: the set is whole, and the old one is not asked for.
        let code =
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before, std::ptr::null_mut()) };
        if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
    }

    /// Waits for a signal or for `other`, for `limit` at most.
    ///
    /// # Errors
    /// Whatever poll(2) says.
    pub fn wait(&self, other: &impl AsFd, limit: Option<Duration>) -> io::Result<Woken> {
        loop {
            if let Some((signal, is_sent)) = self.next()? {
                return Ok(Woken::Signal(signal, is_sent));
            }
            let mut both =
                [PollFd::new(&self.file, PollFlags::IN), PollFd::new(other, PollFlags::IN)];
            let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
            match poll(&mut both, limit.as_ref()) {
                Ok(0) => return Ok(Woken::Neither),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(fault) => return Err(fault.into()),
            }
            if !both[1].revents().is_empty() && both[0].revents().is_empty() {
                return Ok(Woken::Other);
            }
        }
    }

    /// The next signal of this process that waits already, and whether another process sent it.
    ///
    /// # Errors
    /// Whatever read(2) says.
    pub fn next(&self) -> io::Result<Option<(libc::c_int, bool)>> {
        // `struct signalfd_siginfo`: the number first, then an error number, then who sent it: 0 or
        // less is a process.
        let mut about = [0; 128];
        match (&self.file).read_exact(&mut about) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(fault) => return Err(fault),
        }
        let word = |at: usize| {
            let bytes = about.get(at..).and_then(|bytes| bytes.first_chunk());
            bytes.map_or(0, |bytes| i32::from_ne_bytes(*bytes))
        };
        Ok(Some((word(0), word(8) <= 0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_read_with_who_sent_it_and_blocked_no_longer_than_it_was() {
        let (reader, writer) = io::pipe().unwrap();
        let one = std::thread::spawn(move || {
            let signals = Signals::hold(&[libc::SIGUSR1]).unwrap();
            let nothing = signals.wait(&reader, Some(Duration::ZERO)).unwrap();
            assert_eq!(nothing, Woken::Neither);
            // SAFETY: a thread may send itself a signal.
            unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGUSR1) };
            assert_eq!(signals.wait(&reader, None).unwrap(), Woken::Signal(libc::SIGUSR1, true));
            drop(writer);
            assert_eq!(signals.wait(&reader, None).unwrap(), Woken::Other);
            signals.release().unwrap();
            let text = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            text.lines().find(|line| line.starts_with("SigBlk")).unwrap().to_owned()
        });
        assert!(one.join().unwrap().ends_with("0000000000000000"));
    }
}
