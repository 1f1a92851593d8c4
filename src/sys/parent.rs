//! What a process and the one that started it are to each other.

use std::io;

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

/// Ends this process with the one that started it, whose number is `parent`; whether that one still
/// lives.
///
/// # Errors
/// Whatever prctl(2) says.
pub fn end_with_parent(parent: u32) -> io::Result<bool> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(std::os::unix::process::parent_id() == parent)
}

/// Lets this process outlive the one that started it.
///
/// # Errors
/// Whatever prctl(2) says.
pub fn outlive_parent() -> io::Result<()> {
    Ok(set_parent_process_death_signal(None)?)
}

/// Sends a signal to another process.
///
/// # Errors
/// Whatever kill(2) says; what is not a process or not a signal.
pub fn signal(process: u32, signal: libc::c_int) -> io::Result<()> {
    let process = i32::try_from(process).ok().and_then(Pid::from_raw);
    let known = process.zip(Signal::from_named_raw(signal));
    let (process, signal) = known.ok_or(io::ErrorKind::InvalidInput)?;
    Ok(kill_process(process, signal)?)
}
