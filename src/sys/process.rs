//! What a process lets go of for good: descriptors, signals, dumps of its memory.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

/// Leaves no image of this process behind (no core dump), and lets no process of the same user look
/// into it or trace it.
///
/// # Errors
/// Whatever setrlimit(2) or prctl(2) says.
pub fn leave_no_dumps() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Closes every descriptor but these, and makes the first three ones of `/dev/null`. For a process that
/// was copied from another and shares nothing else with it; it must never come back to that one's code,
/// whose descriptors are gone.
///
/// # Errors
/// `/dev/null` cannot be opened, or whatever close_range(2) says.
pub fn keep_only(kept: &[BorrowedFd<'_>]) -> io::Result<()> {
    let nothing = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    dup2_stdin(nothing.as_fd())?;
    dup2_stdout(nothing.as_fd())?;
    dup2_stderr(nothing.as_fd())?;
    let mut kept: Vec<u32> = kept.iter().map(|fd| fd.as_raw_fd().unsigned_abs()).collect();
    kept.sort_unstable();
    let mut from = 3;
    for end in kept.into_iter().chain([u32::MAX]) {
        // What is at `end` stays, but for the end of all of them, which is none.
        let last = if end == u32::MAX { end } else { end - 1 };
        if from <= last {
            // SAFETY: the descriptors are of this copy of the process alone, which the caller lets do
            // nothing with them any more; `nothing`, too, is not used again.
            if unsafe { libc::close_range(from, last, 0) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        from = end.saturating_add(1);
    }
    std::mem::forget(nothing);
    Ok(())
}

/// Has these signals do nothing to this process.
///
/// # Errors
/// Whatever sigaction(2) says.
pub fn ignore(signals: &[libc::c_int]) -> io::Result<()> {
    for &number in signals {
        // SAFETY: SIG_IGN is no function that could be called.
        if unsafe { libc::signal(number, libc::SIG_IGN) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
