//! SOCKS5 UDP ASSOCIATE (RFC 1928 §7): the relay socket of one client. Every destination that its
//! datagrams name is a flow with a verdict and a record of its own, as on a transparent listener.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::rc::Rc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use super::table::{Key, Table};
use super::{UdpContext, UdpIngress};
use crate::account::{Dropped, End, Metrics};
use crate::flow::authority::{Target, canonical};
use crate::flow::listener::Listener;
use crate::flow::socket::TcpSocket;
use crate::flow::worker::Worker;
use crate::identify::socks::{self, BadDatagram, Destination};
use crate::identify::{Host, HostName};
use crate::sys;

/// Names that one client may have flows to at once.
const NAMES_MAX: usize = 256;

/// The longest datagram, its header included; one more byte tells that there was more.
const DATAGRAM_MAX: usize = 65_535;

/// Datagrams that are taken before others have their turn.
const TURN: usize = 32;

/// Time without a datagram after which an association ends once the gateway is stopping.
const STOPPING_IDLE: Duration = Duration::from_secs(1);

/// The socket that a client's datagrams come to.
#[derive(Debug)]
pub(in crate::flow) struct Near {
    socket: UdpSocket,
    address: SocketAddr,
}

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
    /// The lane of the destinations that are addresses.
    lane: u64,
    /// The names that the client gave, by their lanes.
    names: RefCell<HashMap<u64, (HostName, u16)>>,
    moved: Cell<Instant>,
    closed: watch::Sender<bool>,
}

impl Near {
    /// Opens the relay socket at the address that the client's control connection came to.
    ///
    /// # Errors
    /// As socket(2) and bind(2).
    pub(in crate::flow) fn open(control: &TcpSocket) -> io::Result<Self> {
        let here = SockRef::from(control).local_addr()?.as_socket();
        let mut at = canonical_end(here.ok_or(io::ErrorKind::AddrNotAvailable)?);
        at.set_port(0);
        let socket = sys::unreserved(std::net::UdpSocket::bind(at)?)?;
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from_std(socket)?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// Where the client is to send its datagrams.
    pub(in crate::flow) const fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Serves an association to its end, which is that of its control connection, or silence.
pub(in crate::flow) async fn serve(
    near: Near,
    pin: Pin,
    control: &TcpSocket,
    listener: &Rc<Listener>,
    worker: &Rc<Worker>,
) -> End {
    let table = Rc::clone(&worker.associated);
    let association = Rc::new(Association {
        socket: near.socket,
        pin,
        client: Cell::new(None),
        lane: table.next_lane(),
        names: RefCell::default(),
        moved: Cell::new(Instant::now()),
        closed: watch::Sender::new(false),
    });
    let _until_here = Closing(Rc::clone(&association));
    let ingress = UdpIngress::Association(Rc::clone(&association));
    let context = Rc::new(UdpContext {
        worker: Rc::clone(worker),
        listener: Rc::clone(listener),
        table,
        ingress,
    });
    tokio::select! {
        biased;
        end = hung_up(control) => end,
        () = association.idled(worker, listener.patience.idle) => End::Idle,
        fault = association.take(&context) => {
            tracing::warn!(%fault, "the socket of a SOCKS5 association failed");
            End::IoError
        }
    }
}

/// Ends the flows of an association, however it ended itself.
struct Closing(Rc<Association>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.closed.send_replace(true);
    }
}

/// Waits for the end of the control connection; what comes over it is nothing that is expected.
async fn hung_up(control: &TcpSocket) -> End {
    let mut ignored = [0; 64];
    loop {
        if control.readable().await.is_err() {
            return End::ClientReset;
        }
        match control.receive(&mut ignored).map(|read| read.bytes) {
            Ok(0) => return End::Done,
            Ok(_) => yield_now().await,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return End::ClientReset,
        }
    }
}

impl Association {
    /// Waits until the association has ended.
    pub(super) async fn closed(&self) {
        // Who says so is borrowed here: it cannot be gone.
        self.closed.subscribe().wait_for(|&closed| closed).await.ok();
    }

    /// The name that the client gave for a flow, and the port.
    pub(super) fn name_of(&self, key: Key) -> Option<(HostName, u16)> {
        self.names.borrow().get(&key.lane).copied()
    }

    /// Waits for the idle time to pass without a datagram either way.
    async fn idled(&self, worker: &Worker, idle: Duration) {
        let mut stopping = worker.stopping.subscribe();
        let mut idle = idle;
        let mut told = false;
        loop {
            let due = self.moved.get() + idle;
            if due <= Instant::now() {
                return;
            }
            tokio::select! {
                () = sleep_until(due) => {}
                _ = stopping.wait_for(|&stopping| stopping), if !told => {
                    told = true;
                    idle = idle.min(STOPPING_IDLE);
                }
            }
        }
    }

    /// Takes the client's datagrams until the socket breaks.
    async fn take(&self, context: &Rc<UdpContext>) -> io::Error {
        let metrics = context.worker.account.metrics();
        let mut buffer = vec![0; DATAGRAM_MAX];
        loop {
            if let Err(fault) = self.socket.readable().await {
                return fault;
            }
            for _ in 0..TURN {
                match self.socket.try_recv_from(&mut buffer) {
                    Ok((length, from)) => {
                        let datagram = buffer.get(..length).unwrap_or_default();
                        self.datagram(from, datagram, context, metrics);
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    // An ICMP error about an answer to the client: it may pass.
                    Err(_) => {}
                }
            }
            yield_now().await;
        }
    }

    fn datagram(
        &self,
        from: SocketAddr,
        datagram: &[u8],
        context: &Rc<UdpContext>,
        metrics: &Metrics,
    ) {
        let from = canonical_end(from);
        if !self.is_client(from) {
            return metrics.dropped(Dropped::Stranger);
        }
        let (target, payload) = match parse(datagram) {
            Ok(both) => both,
            Err(cause) => return metrics.dropped(cause),
        };
        // A client is known by the first datagram of its own that can be read.
        self.client.set(Some(from));
        self.moved.set(Instant::now());
        match self.key(from, target, &context.table) {
            Some(key) => context.deliver(key, payload),
            None => metrics.dropped(Dropped::ClientLimit),
        }
    }

    fn is_client(&self, from: SocketAddr) -> bool {
        let port = self.client.get().map(|client| client.port()).or(self.pin.port);
        from.ip() == self.pin.client && port.is_none_or(|port| port == from.port())
    }

    /// The flow that a target belongs to; `None` where the client has too many names.
    fn key(&self, client: SocketAddr, target: Target, table: &Table) -> Option<Key> {
        let name = match target.host {
            Host::Address(address) => {
                let to = SocketAddr::new(address, target.port);
                return Some(Key { client, to, lane: self.lane });
            }
            Host::Name(name) => (name, target.port),
        };
        let key = |lane| Key { client, to: nowhere(target.port), lane };
        let mut names = self.names.borrow_mut();
        if let Some((&lane, _)) = names.iter().find(|&(_, known)| *known == name) {
            return Some(key(lane));
        }
        if names.len() >= NAMES_MAX {
            names.retain(|&lane, (_, port)| table.has(&Key { client, to: nowhere(*port), lane }));
        }
        if names.len() >= NAMES_MAX {
            return None;
        }
        let lane = table.next_lane();
        names.insert(lane, name);
        Some(key(lane))
    }

    /// Passes the answers of a judged destination on.
    pub(super) fn answer(&self, from: SocketAddr, run: &[u8], segment: usize) -> io::Result<()> {
        self.moved.set(Instant::now());
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
fn canonical_end(end: SocketAddr) -> SocketAddr {
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
fn parse(datagram: &[u8]) -> Result<(Target, &[u8]), Dropped> {
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
