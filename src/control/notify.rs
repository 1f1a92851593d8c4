//! The service manager: what it is told (sd_notify(3)), and the sockets that it passes
//! (systemd.socket(5)). Without one, telling does nothing and no socket is found.

use std::env;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;

use super::config::ListenMode;
use crate::sys;

/// Number of the process in front, in the environment of the gateway behind it.
pub const FRONT: &str = "SCHENGATE_FRONT";

/// What may be said on behalf of the gateway by the process in front: its life, and one line of text. No
/// other process, no descriptors, and no other limit of time.
const PASSED_ON: [&str; 6] =
    ["READY=1", "RELOADING=1", "STOPPING=1", "WATCHDOG=1", "STATUS=", "MONOTONIC_USEC="];

/// Whom the gateway tells how it fares. Its socket is open from the start: later on nobody in the gateway
/// makes another.
#[derive(Debug)]
pub enum Manager {
    /// Nobody asked.
    Nobody,
    /// The service manager.
    Itself(UnixDatagram),
    /// The process in front, which passes it on, by standard output.
    Front,
}

impl Manager {
    /// Who is told, by the environment.
    ///
    /// # Errors
    /// The socket that `NOTIFY_SOCKET` names cannot be reached.
    pub fn find() -> io::Result<Self> {
        if env::var_os(FRONT).is_some() { Ok(Self::Front) } else { Self::beyond() }
    }

    /// The service manager itself, also for the process in front.
    ///
    /// # Errors
    /// As [`Manager::find`].
    pub fn beyond() -> io::Result<Self> {
        let Some(name) = env::var_os("NOTIFY_SOCKET") else { return Ok(Self::Nobody) };
        let socket = UnixDatagram::unbound()?;
        match name.as_bytes().strip_prefix(b"@") {
            Some(name) => socket.connect_addr(&UnixAddress::from_abstract_name(name)?)?,
            None => socket.connect(name)?,
        }
        Ok(Self::Itself(socket))
    }

    /// The gateway takes connections; `status` is one line for `systemctl status`.
    pub fn ready(&self, status: &str) {
        self.tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// One line for `systemctl status`.
    pub fn status(&self, status: &str) {
        self.tell(&[NotifyState::Status(status)]);
    }

    /// A reload begins; [`Manager::ready`] ends it.
    pub fn reloading(&self) {
        // `Type=notify-reload` needs the time beside the word (sd_notify(3)).
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(fault) => tracing::warn!(%fault, "the reload is not announced: no monotonic time"),
        }
    }

    /// The gateway is stopping.
    pub fn stopping(&self) {
        self.tell(&[NotifyState::Stopping]);
    }

    /// Everything that has to answer did answer. Call it only after it was asked
    /// (`flow::DataPlane::ping`), or it proves nothing.
    pub fn alive(&self) {
        self.tell(&[NotifyState::Watchdog]);
    }

    fn tell(&self, words: &[NotifyState<'_>]) {
        let message: String = words.iter().map(|word| format!("{word}\n")).collect();
        let told = match self {
            Self::Nobody => Ok(()),
            Self::Itself(socket) => socket.send(message.as_bytes()).map(drop),
            Self::Front => {
                let mut out = io::stdout().lock();
                // An empty line is its end.
                writeln!(out, "{message}").and_then(|()| out.flush())
            }
        };
        if let Err(fault) = told {
            tracing::warn!(%fault, "the service manager cannot be told");
        }
    }

    /// Passes on what the gateway behind this process says, as far as it may say that.
    ///
    /// # Errors
    /// The service manager does not hear it.
    pub fn pass_on(&self, message: &str) -> io::Result<()> {
        let may = |line: &&str| {
            PASSED_ON
                .iter()
                .any(|known| *line == *known || (known.ends_with('=') && line.starts_with(known)))
        };
        let lines: String = message.lines().filter(may).map(|line| format!("{line}\n")).collect();
        match self {
            Self::Itself(socket) if !lines.is_empty() => socket.send(lines.as_bytes()).map(drop),
            Self::Itself(_) | Self::Nobody | Self::Front => Ok(()),
        }
    }
}

/// How often [`Manager::alive`] is to be called: half of the manager's time, where it watches at all.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

/// The sockets that the service manager passed.
#[derive(Debug)]
pub struct Inherited {
    listeners: Vec<(String, TcpListener)>,
    datagrams: Vec<(String, UdpSocket)>,
}

impl Inherited {
    /// Takes them from the environment. They can be taken once. `front`: the process that they were
    /// passed to, where it started this one.
    ///
    /// # Errors
    /// Where the environment that describes them makes no sense.
    pub fn take(front: Option<u32>) -> io::Result<Self> {
        let sys::Passed { listeners, datagrams } = sys::inherited(front)?;
        Ok(Self { listeners, datagrams })
    }

    /// The socket for a `[[listen]]` entry: `FileDescriptorName=` is the mode's name (`tproxy`,
    /// `redirect`, `proxy`), and it is bound to the entry's address and port.
    pub fn listener(&mut self, mode: ListenMode, address: SocketAddr) -> Option<TcpListener> {
        let fits = |(name, socket): &(String, TcpListener)| {
            name == mode.label() && socket.local_addr().is_ok_and(|bound| bound == address)
        };
        let at = self.listeners.iter().position(fits)?;
        Some(self.listeners.swap_remove(at).1)
    }

    /// The UDP socket for the `udp` of a `[[listen]]` entry, by the same name and its own address.
    pub fn datagrams(&mut self, mode: ListenMode, address: SocketAddr) -> Option<UdpSocket> {
        let fits = |(name, socket): &(String, UdpSocket)| {
            name == mode.label() && socket.local_addr().is_ok_and(|bound| bound == address)
        };
        let at = self.datagrams.iter().position(fits)?;
        Some(self.datagrams.swap_remove(at).1)
    }

    /// Names and addresses of the sockets that no entry asked for: worth a warning, since clients
    /// that connect to them are never answered.
    #[must_use]
    pub fn left_over(&self) -> Vec<String> {
        let described = |name: &str, kind, address: io::Result<SocketAddr>| {
            let address = address.map_or_else(|e| e.to_string(), |at| at.to_string());
            format!("{} {kind}{address}", name.escape_debug())
        };
        let tcp = self.listeners.iter().map(|(name, it)| described(name, "", it.local_addr()));
        let udp = self.datagrams.iter().map(|(name, it)| described(name, "UDP ", it.local_addr()));
        tcp.chain(udp).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_in_front_passes_on_life_and_status_and_nothing_else() {
        let (here, there) = UnixDatagram::pair().unwrap();
        let manager = Manager::Itself(here);
        let heard = |message: &str| {
            manager.pass_on(message).unwrap();
            there.set_nonblocking(true).unwrap();
            let mut bytes = [0; 256];
            there.recv(&mut bytes).ok().map(|read| String::from_utf8_lossy(&bytes[..read]).into())
        };
        let said: Option<String> = heard("READY=1\nMAINPID=1\nSTATUS=policy 1\nFDSTORE=1\n");
        assert_eq!(said.unwrap(), "READY=1\nSTATUS=policy 1\n");
        assert_eq!(heard("WATCHDOG=1\n").unwrap(), "WATCHDOG=1\n");
        for other in ["WATCHDOG=trigger", "WATCHDOG_USEC=1", "READY=12", " READY=1", "", "gone"] {
            assert_eq!(heard(other), None, "{other}");
        }
    }

    #[test]
    fn a_passed_socket_goes_to_the_entry_of_its_name_and_address() {
        let socket = || TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let (first, second) = (socket(), socket());
        let (at_first, at_second) = (first.local_addr().unwrap(), second.local_addr().unwrap());
        let passed = [("tproxy", first), ("proxy", second)];
        let listeners = passed.map(|(name, s)| (name.to_owned(), s)).into();
        let udp = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let at_udp = udp.local_addr().unwrap();
        let datagrams = vec![("tproxy".to_owned(), udp)];
        let mut passed = Inherited { listeners, datagrams };
        assert!(passed.datagrams(ListenMode::Tproxy, at_first).is_none(), "that is TCP");
        assert_eq!(passed.left_over().len(), 3);
        assert!(passed.datagrams(ListenMode::Tproxy, at_udp).is_some());
        assert!(passed.listener(ListenMode::Tproxy, at_second).is_none(), "another address");
        assert!(passed.listener(ListenMode::Redirect, at_first).is_none(), "another name");
        let found = passed.listener(ListenMode::Tproxy, at_first).unwrap();
        assert_eq!(found.local_addr().unwrap(), at_first);
        assert!(passed.listener(ListenMode::Tproxy, at_first).is_none(), "handed out once");
        assert_eq!(passed.left_over(), [format!("proxy {at_second}")]);
    }
}
