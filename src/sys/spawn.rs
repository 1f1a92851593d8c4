//! Processes that begin as a copy of this one, in namespaces of their own.

use std::fs;
use std::io::{self, IsTerminal};

use rustix::process::{Pid, WaitOptions, WaitStatus, getpgrp, getpid, getsid, waitpid};
use rustix::termios::{tcgetpgrp, tcsetpgrp};
use rustix::thread::UnshareFlags;

/// Which of the two a process is behind [`fork`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forked {
    /// The new one.
    Child,
    /// The old one, with the number of the new one.
    Parent(i32),
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// By itself, with this status.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

/// Begins a copy of this process, which must have one thread.
///
/// # Errors
/// There are other threads, whose locks the copy would wait for without end; or what fork(2) says.
pub fn fork() -> io::Result<Forked> {
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("a process of several threads cannot be copied"));
    }
    // SAFETY: this is the only thread, so that the copy is whole, locks of the allocator included.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        child => Ok(Forked::Parent(child)),
    }
}

/// The step of [`unshare`] in which a user namespace is told who is in it.
pub const NUMBERS: &str = "the user's number";

/// Enters a user, network, mount and IPC namespace of its own, and lets the children of this process
/// have one of processes. It is the same user and group in them, and may do in them what an
/// administrator may.
///
/// # Errors
/// Which step failed, and how: without user namespaces, or where they are given nothing to do.
pub fn unshare() -> Result<(), (&'static str, io::Error)> {
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    let all = UnshareFlags::NEWUSER
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWNS
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWPID;
    // SAFETY: the table of descriptors stays shared with nobody, as it was.
    unsafe { rustix::thread::unshare_unsafe(all) }
        .map_err(|fault| ("a user namespace", fault.into()))?;
    let write = |file: &str, text: String| {
        fs::write(format!("/proc/self/{file}"), text).map_err(|fault| (NUMBERS, fault))
    };
    // Without it nobody but an administrator outside may say which groups there are.
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("{0} {0} 1", user.as_raw()))?;
    write("gid_map", format!("{0} {0} 1", group.as_raw()))
}

/// Ends this process at once, and runs nothing that was registered for its end.
pub fn leave(status: i32) -> ! {
    // SAFETY: _exit(2) takes a number and does not return.
    unsafe { libc::_exit(status) }
}

/// Waits until a child ends.
///
/// # Errors
/// Whatever waitpid(2) says.
pub fn wait(child: i32) -> io::Result<Gone> {
    loop {
        match waitpid(Pid::from_raw(child), WaitOptions::empty()) {
            Ok(Some((_, status))) => {
                if let Some(gone) = gone(status) {
                    return Ok(gone);
                }
            }
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(fault) => return Err(fault.into()),
        }
    }
}

/// The next child that has ended; [`None`] where none has.
///
/// # Errors
/// Whatever waitpid(2) says.
pub fn reap() -> io::Result<Option<(i32, Gone)>> {
    // Of any process group: a command may have begun one of its own.
    match rustix::process::wait(WaitOptions::NOHANG) {
        Ok(Some((child, status))) => {
            Ok(gone(status).map(|gone| (child.as_raw_nonzero().get(), gone)))
        }
        Ok(None) | Err(rustix::io::Errno::CHILD) => Ok(None),
        Err(fault) => Err(fault.into()),
    }
}

fn gone(status: WaitStatus) -> Option<Gone> {
    let killed = || status.terminating_signal().map(Gone::Killed);
    status.exit_status().map(Gone::Exited).or_else(killed)
}

/// Whether this process is in the foreground of the terminal on its standard input.
#[must_use]
pub fn foreground() -> bool {
    io::stdin().is_terminal() && tcgetpgrp(io::stdin()).is_ok_and(|group| group == getpgrp())
}

/// Whether this process leads its session: when its terminal goes, it alone is told (SIGHUP).
#[must_use]
pub fn leads_session() -> bool {
    getsid(None).is_ok_and(|session| session == getpid())
}

/// Takes the terminal back, which a command of another process group may have left in its hands.
/// SIGTTOU is held, or ends up stopping this process.
///
/// # Errors
/// Whatever tcsetpgrp(3) says.
pub fn take_terminal() -> io::Result<()> {
    Ok(tcsetpgrp(io::stdin(), getpgrp())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_several_threads_is_not_copied() {
        // The threads of the test runner.
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || wait.recv().is_err());
        assert!(fork().is_err());
        drop(done);
        assert!(other.join().unwrap());
    }
}
