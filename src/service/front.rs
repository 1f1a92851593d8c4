//! `schengate run --hand-over`: the process that the service manager watches, and the gateway behind
//! it.
//!
//! A service manager starts the next process when the one that it watches has ended. Where that one
//! carried connections, everybody new would wait until the last of them is done. So it carries none:
//! the gateway is another process, and when it is told to stop it lets go of its listeners at once,
//! says so, and ends its connections alone, while the next gateway takes the new ones.
//!
//! Each ends with the other in any other case: where the gateway ends, the front ends as it did, and
//! the kernel kills the gateway with its front until it has let go.

use std::env;
use std::io::{self, Write};
use std::process::{Child, Command, ExitStatus, Stdio};

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::signal::unix::{SignalKind, signal};

use crate::sys::{self, Role};

/// Number of the front, in the environment of the gateway behind it.
const FRONT: &str = "SCHENGATE_FRONT";

/// What the gateway says when it has let go of its listeners.
const GONE: &[u8] = b"gone\n";

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
        out.write_all(GONE)?;
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
        let mut gateway = start()?;
        // It hands on signals from here on, and runs no other program.
        sys::leave_no_dumps()?;
        sys::restrict_calls(Role::Gateway)?;
        let number = gateway.id();
        let said = gateway.stdout.take().ok_or_else(|| io::Error::other("no pipe"))?;
        let mut said = Receiver::from_owned_fd(said.into())?;
        let mut words = Vec::with_capacity(GONE.len());
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
                read = said.read_buf(&mut words), if words.len() < GONE.len() => {
                    if read? > 0 && words == GONE {
                        return Ok(FrontEnd::LetGo);
                    }
                    continue;
                }
            };
            // Who has ended already is heard of above.
            sys::signal(number, signal).ok();
        }
    })
}

fn start() -> io::Result<Child> {
    Command::new(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env(FRONT, std::process::id().to_string())
        // The watchdog asks for the gateway's life, not for its front's.
        .env_remove("WATCHDOG_PID")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
}
