//! Keeps the association of one SOCKS5 client: whose datagrams it takes, the names that they go to, and
//! how its client is answered.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::watch;

use super::table::{Key, Table};
use crate::account::Dropped;
use crate::flow::authority::{Target, canonical};
use crate::flow::worker::Worker;
use crate::identify::socks::{self, BadDatagram, Destination};
use crate::identify::{Host, HostName};
use crate::net::idle::IdleTimer;

/// Names that one client may have flows to at once.
const NAMES_MAX: usize = 256;

/// Time without a datagram after which an association ends once the gateway is stopping.
const STOPPING_IDLE: Duration = Duration::from_secs(1);

/// Whose datagrams are taken.
#[derive(Debug, Clone, Copy)]
pub(in crate::flow) struct Pin {
    /// The address behind the control connection.
    pub(in crate::flow) client: IpAddr,
    /// The port that the client said it would send from; without one, that of its first datagram.
    pub(in crate::flow) port: Option<u16>,
}

/// One client's association.
#[derive(Debug)]
pub(super) struct Association {
    socket: UdpSocket,
    pin: Pin,
    client: Cell<Option<SocketAddr>>,
    /// The association id of the destinations that are addresses.
    association_id: u64,
    /// The names that the client gave, by their ids.
    names: RefCell<HashMap<u64, (HostName, u16)>>,
    idle_timer: IdleTimer,
    closed: watch::Sender<bool>,
}

impl Association {
    /// Begins one, whose client has sent nothing yet.
    pub(super) fn new(socket: UdpSocket, pin: Pin, table: &Table) -> Self {
        Self {
            socket,
            pin,
            client: Cell::new(None),
            association_id: table.next_association_id(),
            names: RefCell::default(),
            idle_timer: IdleTimer::start(),
            closed: watch::Sender::new(false),
        }
    }

    /// Ends its flows, and itself.
    pub(super) fn close(&self) {
        self.closed.send_replace(true);
    }

    /// The socket that its client's datagrams come to.
    pub(super) const fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// A datagram of its client has come, from here.
    pub(super) fn heard(&self, from: SocketAddr) {
        // A client is known by the first datagram of its own that can be read.
        self.client.set(Some(from));
        self.idle_timer.touch();
    }

    /// Waits until the association has ended.
    pub(super) async fn closed(&self) {
        // Who says so is borrowed here: it cannot be gone.
        self.closed.subscribe().wait_for(|&closed| closed).await.ok();
    }

    /// The name that the client gave for a flow, and the port.
    pub(super) fn name_of(&self, key: Key) -> Option<(HostName, u16)> {
        self.names.borrow().get(&key.association_id).copied()
    }

    /// Waits for the idle time to pass without a datagram either way.
    pub(super) async fn idled(&self, worker: &Worker, idle: Duration) {
        let mut stopping = worker.stopping.subscribe();
        tokio::select! {
            () = self.idle_timer.timed_out(idle) => return,
            _ = stopping.wait_for(|&stopping| stopping) => {}
        }
        self.idle_timer.timed_out(idle.min(STOPPING_IDLE)).await;
    }

    pub(super) fn is_client(&self, from: SocketAddr) -> bool {
        let port = self.client.get().map(|client| client.port()).or(self.pin.port);
        from.ip() == self.pin.client && port.is_none_or(|port| port == from.port())
    }

    /// The flow that a target belongs to; `None` where the client has too many names.
    pub(super) fn key(&self, client: SocketAddr, target: Target, table: &Table) -> Option<Key> {
        let name = match target.host {
            Host::Address(address) => {
                let to = SocketAddr::new(address, target.port);
                return Some(Key { client, to, association_id: self.association_id });
            }
            Host::Name(name) => (name, target.port),
        };
        let key = |association_id| Key { client, to: nowhere(target.port), association_id };
        let mut names = self.names.borrow_mut();
        if let Some((&association_id, _)) = names.iter().find(|&(_, known)| *known == name) {
            return Some(key(association_id));
        }
        if names.len() >= NAMES_MAX {
            names.retain(|&association_id, (_, port)| {
                table.has(&Key { client, to: nowhere(*port), association_id })
            });
        }
        if names.len() >= NAMES_MAX {
            return None;
        }
        let association_id = table.next_association_id();
        names.insert(association_id, name);
        Some(key(association_id))
    }

    /// Passes the answers of a judged destination on.
    pub(super) fn answer(&self, from: SocketAddr, run: &[u8], segment: usize) -> io::Result<()> {
        self.idle_timer.touch();
        let header = header(Host::Address(from.ip()), from.port());
        run.chunks(segment.max(1)).try_for_each(|datagram| self.send(&header, datagram))
    }

    /// Answers for a destination that was refused.
    pub(super) fn refuse(&self, key: Key, datagram: &[u8]) -> io::Result<()> {
        let host = self.name_of(key).map(|(name, _)| Host::Name(name));
        let host = host.unwrap_or_else(|| Host::Address(key.to.ip()));
        self.send(&header(host, key.to.port()), datagram)
    }

    fn send(&self, header: &[u8], datagram: &[u8]) -> io::Result<()> {
        let client = self.client.get().ok_or(io::ErrorKind::NotConnected)?;
        self.socket.try_send_to(&[header, datagram].concat(), client).map(drop)
    }
}

/// An IPv4-mapped address as that IPv4; a link-local one keeps its zone (RFC 4007 §6), without which
/// nothing can be bound to it or sent there.
pub(super) fn canonical_end(end: SocketAddr) -> SocketAddr {
    match (end, end.ip().to_canonical()) {
        (SocketAddr::V6(v6), IpAddr::V6(ip)) => {
            SocketAddrV6::new(ip, end.port(), 0, v6.scope_id()).into()
        }
        (_, ip) => SocketAddr::new(ip, end.port()),
    }
}

const fn nowhere(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)
}

/// Where a client's datagram is to go, and what.
pub(super) fn parse(datagram: &[u8]) -> Result<(Target, &[u8]), Dropped> {
    let (Destination { host, port }, payload) =
        socks::datagram(datagram).map_err(|bad| match bad {
            BadDatagram::Fragment => Dropped::Fragment,
            BadDatagram::Malformed => Dropped::Malformed,
        })?;
    Ok((Target { host: canonical(host), port }, payload))
}

/// The header of a datagram to the client.
fn header(host: Host, port: u16) -> Vec<u8> {
    let mut header = vec![0; 3];
    socks::put(&mut header, host, port);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(datagram: &[u8]) -> Result<(String, &[u8]), Dropped> {
        parse(datagram).map(|(target, payload)| (target.to_field(0), payload))
    }

    #[test]
    fn a_header_is_read_back_as_it_was_written() {
        let name = HostName::parse(b"pacs.example").unwrap();
        for (host, text) in [
            (Host::Address("198.51.100.7".parse().unwrap()), "198.51.100.7:443"),
            (Host::Address("2001:db8::7".parse().unwrap()), "[2001:db8::7]:443"),
            (Host::Name(name), "pacs.example:443"),
        ] {
            let datagram = [&header(host, 443)[..], b"payload"].concat();
            assert_eq!(parsed(&datagram), Ok((text.to_owned(), &b"payload"[..])));
            for end in 0..datagram.len() - b"payload".len() {
                assert_eq!(parsed(&datagram[..end]), Err(Dropped::Malformed), "{text} at {end}");
            }
        }
        let text = [&[0, 0, 0, 3, 12][..], b"198.51.100.7", &[1, 187], b"payload"].concat();
        assert_eq!(parsed(&text), Ok(("198.51.100.7:443".to_owned(), &b"payload"[..])));
        let mapped = header(Host::Address("::ffff:198.51.100.7".parse().unwrap()), 443);
        assert_eq!(parsed(&mapped).unwrap().0, "198.51.100.7:443");
    }

    #[test]
    fn fragments_and_what_is_no_destination_are_told_apart_and_dropped() {
        let plain = [0, 0, 0, 1, 198, 51, 100, 7, 1, 187, b'x'];
        let with = |at: usize, byte: u8| {
            let mut datagram = plain;
            datagram[at] = byte;
            datagram
        };
        assert!(parsed(&plain).is_ok());
        for fragment in [1, 2, 0x80, 0xff] {
            assert_eq!(parsed(&with(2, fragment)), Err(Dropped::Fragment));
        }
        for other in [with(0, 1), with(1, 1), with(3, 0), with(3, 2)] {
            assert_eq!(parsed(&other), Err(Dropped::Malformed), "{other:?}");
        }
        assert_eq!(parsed(&[0, 0, 0, 1, 198, 51, 100, 7, 0, 0]), Err(Dropped::Malformed));
        for name in [&b""[..], b"198.51.100.07", b"a\0.example", b"2130706433"] {
            let length = [u8::try_from(name.len()).unwrap()];
            let datagram = [&[0, 0, 0, 3][..], &length, name, &[1, 187]].concat();
            assert_eq!(parsed(&datagram), Err(Dropped::Malformed), "{name:?}");
        }
    }
}
