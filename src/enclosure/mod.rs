//! Shuts one command into namespaces of its own, of which sockets that are passed out are the only way
//! out: whoever serves them decides what leaves. Needs no rights; knows of no policy.
//!
//! ```text
//!  this process ── copy ── unshares: user, network, mount, IPC
//!       │                     └── copy: process 1 of its own process namespace (`inside`)
//!       │  sockets, how it ended     ├── makes the way out, passes its sockets here
//!       └──────── channel ───────────┤   and keeps the counters
//!                                    └── the command, without a capability
//! ```
//! The network namespace has the loopback and nothing else. Every address is delivered in it: TCP to
//! one transparent listener, UDP to the ports on which somebody waits. Whatever is missed by that goes
//! nowhere.

mod connects;
mod inside;
mod message;
mod mounts;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use crate::sys::{self, Channel, Forked, Gone, Signals, Woken};
use message::{FromInside, ToInside};

/// Where the command's packets come from where it names no address of its own, and whom it is taken for
/// where it does: of the prefix that a host has for itself (RFC 7335), and of a local prefix that is
/// nobody's (RFC 4193).
pub const CLIENT: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(192, 0, 0, 2), Ipv6Addr::new(0xfd73, 0x6368, 0x656e, 0, 0, 0, 0, 2));

/// Status of a command that was never started, as env(1) and timeout(1) have it: the shutting in
/// failed; it cannot be run; it is not there.
pub const NOT_STARTED: i32 = 125;
const NOT_RUNNABLE: i32 = 126;
const NOT_FOUND: i32 = 127;

/// What is to be run, and how.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The program and its arguments.
    pub command: Vec<OsString>,
    /// Files, directories and sockets of the host that stay within reach, of those that do not: all of
    /// `/run` and `/dev/shm`, and sockets elsewhere.
    pub keep: Vec<PathBuf>,
    /// Whether QUIC has a socket (UDP port 443).
    pub quic: bool,
}

/// The way out, made inside.
#[derive(Debug)]
pub struct Sockets {
    /// A transparent listener: the local address of what it accepts is the destination.
    pub tcp: TcpListener,
    /// Takes what is sent to port 443 of any address; [`None`] where that is not wanted.
    pub quic: Option<UdpSocket>,
    /// Take what is sent to port 53 of any address.
    pub names: (UdpSocket, TcpListener),
}

/// Why nothing can be shut in.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// This host does not let this user have namespaces.
    #[error("this host gives no namespace to shut the command into ({step}: {fault}). {help}")]
    NoNamespaces {
        /// The step that failed.
        step: String,
        /// What the kernel said.
        fault: io::Error,
        /// How to go on.
        help: String,
    },
    /// A later step.
    #[error("the command cannot be shut in: {step}: {fault}")]
    Step {
        /// The step that failed.
        step: String,
        /// What the kernel said.
        fault: io::Error,
    },
    /// What was given to the command leads out.
    #[error(
        "standard input, output or error is a network socket, or one for datagrams, which would be a way out \
         past the gateway: give the command a pipe or a file (for example: `cat | schengate exec ... | cat`)"
    )]
    NetworkSocket,
    /// The processes inside are gone before their time.
    #[error("the processes that shut the command in ended before they should")]
    Gone,
    /// The system.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// How it went.
#[derive(Debug, Clone)]
pub struct Ended {
    /// How the command ended.
    pub gone: Gone,
    /// UDP datagrams to where nobody waited, and packets that were neither TCP nor UDP.
    pub unserved: Unserved,
}

/// What found no way out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unserved {
    /// UDP datagrams to ports on which nobody waited.
    pub udp: u64,
    /// Packets that were neither TCP nor UDP.
    pub others: u64,
}

/// What [`Enclosure::next`] saw.
#[derive(Debug)]
pub enum Event {
    /// The command has ended, and everything that it left behind ends with it.
    Ended(Ended),
    /// Nothing, for as long as was waited.
    Nothing,
}

/// A command that is shut in.
#[derive(Debug)]
pub struct Enclosure {
    channel: Channel,
    signals: Signals,
    outer: i32,
    has_terminal: bool,
}

/// Signals that are passed on to the command where another process sent them; the terminal sends its own
/// to the command by itself.
const PASSED_ON: [libc::c_int; 6] =
    [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2];

impl Enclosure {
    /// Begins the processes in which the command will run. This process must have one thread yet.
    ///
    /// # Errors
    /// Whatever fork(2) says, or there are other threads.
    pub fn begin(plan: &Plan) -> Result<Self, Fault> {
        if sys::holds_network_socket() {
            return Err(Fault::NetworkSocket);
        }
        let has_terminal = sys::foreground();
        let (outside, inside) = Channel::pair()?;
        let held = PASSED_ON.iter().chain(&[libc::SIGTTOU, libc::SIGCHLD]);
        let signals = Signals::hold(&held.copied().collect::<Vec<_>>())?;
        match sys::fork()? {
            Forked::Parent(outer) => {
                drop(inside);
                Ok(Self { channel: outside, signals, outer, has_terminal })
            }
            Forked::Child => {
                drop(outside);
                inside::run(inside, plan, &signals)
            }
        }
    }

    /// Waits for the way out.
    ///
    /// # Errors
    /// Which step of its making failed.
    pub fn sockets(&self) -> Result<Sockets, Fault> {
        let Some(packet) = self.channel.receive()? else { return Err(Fault::Gone) };
        let mut passed = packet.descriptors.into_iter();
        match message::read(&packet.bytes)? {
            FromInside::Ready { has_quic } => {
                let mut next = || passed.next().ok_or(Fault::Gone);
                let tcp = next()?.into();
                let names = (UdpSocket::from(next()?), TcpListener::from(next()?));
                let quic = if has_quic { Some(next()?.into()) } else { None };
                Ok(Sockets { tcp, quic, names })
            }
            FromInside::Fault { step, code, is_first } => {
                let fault = io::Error::from_raw_os_error(code);
                Err(if is_first {
                    Fault::NoNamespaces { help: help(&step), step, fault }
                } else {
                    Fault::Step { step, fault }
                })
            }
            FromInside::Ended { .. } => Err(Fault::Gone),
        }
    }

    /// Starts the command: the way out is served.
    ///
    /// # Errors
    /// The processes inside are gone.
    pub fn go(&self) -> Result<(), Fault> {
        let mut early = Vec::new();
        while let Some((signal, _)) = self.signals.next()? {
            if PASSED_ON.contains(&signal) {
                early.push(signal);
            }
        }
        Ok(self.channel.send(&message::written(&ToInside::Go { early }), &[])?)
    }

    /// Waits for the end of the command, for so long, and passes signals on meanwhile.
    ///
    /// # Errors
    /// The processes inside are gone.
    pub fn next(&self, patience: Duration) -> Result<Event, Fault> {
        match self.signals.wait(&self.channel, Some(patience))? {
            Woken::Neither => Ok(Event::Nothing),
            Woken::Signal(signal, is_sent) => {
                // The terminal's end is told to who leads the session alone.
                let is_for_it = is_sent || signal == libc::SIGHUP && sys::leads_session();
                if is_for_it && PASSED_ON.contains(&signal) {
                    // Where it has ended meanwhile, that is read next.
                    drop(self.channel.send(&message::written(&ToInside::Signal(signal)), &[]));
                }
                Ok(Event::Nothing)
            }
            Woken::Other => {
                let packet = self.channel.receive()?.ok_or(Fault::Gone)?;
                match message::read(&packet.bytes)? {
                    FromInside::Ended { exited, number, udp, others } => {
                        let gone = if exited { Gone::Exited } else { Gone::Killed }(number);
                        let unserved = Unserved { udp, others };
                        Ok(Event::Ended(Ended { gone, unserved }))
                    }
                    FromInside::Fault { step, code, .. } => {
                        Err(Fault::Step { step, fault: io::Error::from_raw_os_error(code) })
                    }
                    FromInside::Ready { .. } => Err(Fault::Gone),
                }
            }
        }
    }
}

impl Drop for Enclosure {
    /// Ends whatever is left inside.
    fn drop(&mut self) {
        // Process 1 ends with the channel, and all others with it; the one between waits for that.
        if let Ok((gone, _)) = Channel::pair() {
            drop(std::mem::replace(&mut self.channel, gone));
        }
        drop(sys::wait(self.outer));
        if self.has_terminal {
            drop(sys::take_terminal());
        }
    }
}

/// How to go on where there are no namespaces for this user.
fn help(step: &str) -> String {
    let read = |name: &str| fs::read_to_string(format!("/proc/sys/{name}")).ok();
    let is = |name: &str, value: &str| read(name).is_some_and(|text| text.trim() == value);
    if step == sys::NUMBERS && sys::user() == 0 {
        return "Root without CAP_SETFCAP, as in a container, may not be root in a namespace of its own: run \
                it as an ordinary user. Within another `schengate exec` the command is judged already: run \
                it there as it is"
            .to_owned();
    }
    let switch = if is("kernel/unprivileged_userns_clone", "0") {
        "An administrator may allow it: sysctl -w kernel.unprivileged_userns_clone=1"
    } else if is("user/max_user_namespaces", "0") {
        "An administrator may allow it: sysctl -w user.max_user_namespaces=15000"
    } else if is("user/max_net_namespaces", "0") {
        "An administrator may allow it: sysctl -w user.max_net_namespaces=15000"
    } else if is("kernel/apparmor_restrict_unprivileged_userns", "1") {
        "AppArmor keeps user namespaces from this program: an administrator may give it a profile with \
         `userns,`, or for all programs: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    } else {
        "In a container its runtime forbids it (seccomp): allow unshare(2) there, or run this outside"
    };
    format!(
        "{switch}. Or run the gateway beside the command (`schengate run`) and give the command its \
         explicit proxy: HTTPS_PROXY=http://127.0.0.1:3128"
    )
}
