//! The service manager: what it is told (sd_notify(3)), and the sockets that it passes
//! (systemd.socket(5)). Without one, telling does nothing and no socket is found.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use sd_notify::NotifyState;

use super::config::ListenMode;
use crate::sys;

/// The gateway takes connections; `status` is one line for `systemctl status`.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// One line for `systemctl status`.
pub fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// A reload begins; [`ready`] ends it.
pub fn reloading() {
    // `Type=notify-reload` needs the time beside the word (sd_notify(3)).
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(fault) => tracing::warn!(%fault, "the reload is not announced: no monotonic time"),
    }
}

/// The gateway is stopping.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// How often [`alive`] is to be called: half of the manager's time, where it watches at all.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

/// Everything that has to answer did answer. Call it only after it was asked
/// (`flow::DataPlane::ping`), or it proves nothing.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

fn tell(words: &[NotifyState<'_>]) {
    if let Err(fault) = sd_notify::notify(words) {
        tracing::warn!(%fault, "the service manager cannot be told");
    }
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
