//! The service manager: what it is told (sd_notify(3)), and the sockets that it passes
//! (systemd.socket(5)). Without one, telling does nothing and no socket is found.

use std::io;
use std::net::{SocketAddr, TcpListener};
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
/// (`flow::DataPlane::beat`), or it proves nothing.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

fn tell(words: &[NotifyState<'_>]) {
    if let Err(fault) = sd_notify::notify(words) {
        tracing::warn!(%fault, "the service manager cannot be told");
    }
}

/// The listening sockets that the service manager passed.
#[derive(Debug)]
pub struct Inherited(Vec<(String, TcpListener)>);

impl Inherited {
    /// Takes them from the environment. They can be taken once.
    ///
    /// # Errors
    /// Where the environment that describes them makes no sense.
    pub fn take() -> io::Result<Self> {
        sys::inherited_listeners().map(Self)
    }

    /// The socket for a `[[listen]]` entry: `FileDescriptorName=` is the mode's name (`tproxy`,
    /// `redirect`, `proxy`), and it is bound to the entry's address and port.
    pub fn listener(&mut self, mode: ListenMode, address: SocketAddr) -> Option<TcpListener> {
        let fits = |(name, socket): &(String, TcpListener)| {
            name == mode.label() && socket.local_addr().is_ok_and(|bound| bound == address)
        };
        let at = self.0.iter().position(fits)?;
        Some(self.0.swap_remove(at).1)
    }

    /// Names and addresses of the sockets that no entry asked for: worth a warning, since clients
    /// that connect to them are never answered.
    #[must_use]
    pub fn left_over(&self) -> Vec<String> {
        let described = |(name, socket): &(String, TcpListener)| {
            let address = socket.local_addr().map_or_else(|e| e.to_string(), |at| at.to_string());
            format!("{} {address}", name.escape_debug())
        };
        self.0.iter().map(described).collect()
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
        let mut passed = Inherited(passed.map(|(name, s)| (name.to_owned(), s)).into());
        assert!(passed.listener(ListenMode::Tproxy, at_second).is_none(), "another address");
        assert!(passed.listener(ListenMode::Redirect, at_first).is_none(), "another name");
        let found = passed.listener(ListenMode::Tproxy, at_first).unwrap();
        assert_eq!(found.local_addr().unwrap(), at_first);
        assert!(passed.listener(ListenMode::Tproxy, at_first).is_none(), "handed out once");
        assert_eq!(passed.left_over(), [format!("proxy {at_second}")]);
    }
}
