//! What a process and the one that started it are to each other.

use std::io;

/// Ends this process with the one that started it, whose number is `parent`; whether that one still
/// lives.
///
/// # Errors
/// Whatever prctl(2) says.
pub fn end_with_parent(parent: u32) -> io::Result<bool> {
    on_parents_end(libc::SIGKILL)?;
    Ok(std::os::unix::process::parent_id() == parent)
}

/// Lets this process outlive the one that started it.
///
/// # Errors
/// Whatever prctl(2) says.
pub fn outlive_parent() -> io::Result<()> {
    on_parents_end(0)
}

fn on_parents_end(signal: libc::c_int) -> io::Result<()> {
    let signal = libc::c_ulong::try_from(signal).map_err(io::Error::other)?;
    // SAFETY: a number is passed, and no memory.
    let done = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends a signal to another process.
///
/// # Errors
/// Whatever kill(2) says.
pub fn signal(process: u32, signal: libc::c_int) -> io::Result<()> {
    let process = libc::pid_t::try_from(process).map_err(io::Error::other)?;
    // SAFETY: numbers are passed, and no memory.
    let done = unsafe { libc::kill(process, signal) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
