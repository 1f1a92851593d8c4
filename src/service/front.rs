//! `schengate run --hand-over`: the process that the service manager watches, and the gateway behind
//! it.
//!
//! A service manager starts the next process when the one that it watches has ended. Where that one
//! carried connections, everybody new would wait until the last of them is done. So it carries none:
//! the gateway is another process, and when it is told to stop it lets go of its listeners at once,
//! says so, and ends its connections alone, while the next gateway takes the new ones.
//!
//! What the gateway says of itself to the service manager goes through the front, which passes on whether it
//! lives and one line of text: nothing in the gateway speaks to the manager itself.
//!
//! Each ends with the other in any other case: where the gateway ends, the front ends as it did, and
//! the kernel kills the gateway with its front until it has let go.

use std::env;
use std::io::{self, Write};
use std::process::{Child, Command, ExitStatus, Stdio};

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::signal::unix::{SignalKind, signal};

use crate::control::notify::{FRONT, Manager};
use crate::sys::{self, Role};

/// What the gateway says when it has let go of its listeners.
const GONE: &str = "gone\n";

/// The end of what the gateway says at a time.
const END: &[u8] = b"\n\n";

/// Bytes that it says at a time, at most.
const MOST: usize = 4096;

/// The gateway's side.
#[derive(Debug, Clone, Copy)]
pub struct Behind {
    /// Number of the front.
    front: u32,
}

impl Behind {
    /// Who started this process as the gateway behind it; `None` where nobody did.
    ///
    /// # Errors
    /// It has ended meanwhile.
    pub fn find() -> io::Result<Option<Self>> {
        let number = env::var(FRONT).ok().and_then(|number| number.parse().ok());
        let Some(front) = number else { return Ok(None) };
        if sys::end_with_parent(front)? {
            Ok(Some(Self { front }))
        } else {
            Err(io::Error::other("the process in front of the gateway has ended"))
        }
    }

    /// Number of the front.
    pub(super) const fn front(self) -> u32 {
        self.front
    }

    /// Says that the listeners are free: from here on the front may end.
    ///
    /// # Errors
    /// The front does not hear it.
    pub(super) fn gone(self) -> io::Result<()> {
        sys::outlive_parent()?;
        let mut out = io::stdout().lock();
        writeln!(out, "{GONE}")?;
        out.flush()
    }
}

/// How the front ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrontEnd {
    /// The gateway has let go of its listeners, and ends its connections alone.
    LetGo,
    /// The gateway ended, and the front with it.
    Ended(ExitStatus),
}

/// Starts the gateway with the same arguments, hands signals on to it, and ends when it has let go,
/// or as it ends.
///
/// # Errors
/// No gateway can be started, or it is not heard of.
pub fn front() -> io::Result<FrontEnd> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Before there is somebody to hand them to: none is lost.
        let mut reload = signal(SignalKind::hangup())?;
        let mut stop = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut ended = signal(SignalKind::child())?;
        let manager = Manager::beyond()?;
        let mut gateway = start()?;
        // It hands on signals and words from here on, and runs no other program.
        sys::leave_no_dumps()?;
        sys::restrict_calls(Role::Gateway)?;
        let number = gateway.id();
        let said = gateway.stdout.take().ok_or_else(|| io::Error::other("no pipe"))?;
        let mut said = Receiver::from_owned_fd(said.into())?;
        let mut words = Vec::with_capacity(MOST);
        let mut is_open = true;
        loop {
            let signal = tokio::select! {
                _ = reload.recv() => libc::SIGHUP,
                _ = stop.recv() => libc::SIGTERM,
                _ = interrupt.recv() => libc::SIGINT,
                _ = ended.recv() => {
                    match gateway.try_wait()? {
                        Some(status) => return Ok(FrontEnd::Ended(status)),
                        None => continue,
                    }
                }
                read = said.read_buf(&mut words), if is_open => {
                    is_open = read? > 0;
                    for message in whole(&mut words) {
                        if message == GONE {
                            return Ok(FrontEnd::LetGo);
                        }
                        // A manager that does not hear of it has the gateway end, by its own limits.
                        manager.pass_on(&message).ok();
                    }
                    continue;
                }
            };
            // Who has ended already is heard of above.
            sys::signal(number, signal).ok();
        }
    })
}

/// Takes out what is whole; of what has no end within [`MOST`] bytes nothing is left.
fn whole(words: &mut Vec<u8>) -> Vec<String> {
    let mut messages = Vec::new();
    while let Some(at) = words.windows(END.len()).position(|two| two == END) {
        let rest = words.split_off(at + END.len());
        let mut message = std::mem::replace(words, rest);
        message.truncate(at + 1);
        messages.push(String::from_utf8_lossy(&message).into_owned());
    }
    if words.len() >= MOST {
        words.clear();
    }
    messages
}

fn start() -> io::Result<Child> {
    Command::new(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env(FRONT, std::process::id().to_string())
        // The gateway speaks through its front alone.
        .env_remove("NOTIFY_SOCKET")
        // The watchdog asks for the gateway's life, not for its front's.
        .env_remove("WATCHDOG_PID")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_taken_whole_however_it_is_cut_and_never_without_end() {
        let said = b"READY=1\nSTATUS=a\n\nWATCHDOG=1\n\ngone\n\nrest";
        for cut in 0..said.len() {
            let (first, second) = said.split_at(cut);
            let mut words = first.to_vec();
            let mut messages = whole(&mut words);
            words.extend_from_slice(second);
            messages.extend(whole(&mut words));
            assert_eq!(messages, ["READY=1\nSTATUS=a\n", "WATCHDOG=1\n", GONE], "{cut}");
            assert_eq!(words, b"rest");
        }
        let mut endless = vec![b'x'; MOST];
        assert!(whole(&mut endless).is_empty() && endless.is_empty());
    }
}
