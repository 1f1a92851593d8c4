//! Gives out the outer ports of the gateway: which one the world sees for which client.
//!
//! All flows of one client endpoint leave from one port, whatever their destinations (RFC 4787, REQ-1:
//! endpoint-independent mapping), so that what a client learns of itself from one peer (STUN) holds
//! for the next. Every destination still has a socket of its own, connected to it: the kernel tells
//! the answers apart, and what comes from anybody else finds no socket (REQ-8: address- and
//! port-dependent filtering). No two client endpoints share a port (REQ-3).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use socket2::{Domain, Protocol, Socket, Type};

use crate::account::network;
use crate::egress::dial;
use crate::net::canonical;
use crate::policy::Permit;
use crate::sys::udp;
use crate::sys::unreserved;

/// Send and receive buffers of a flow's sockets, in bytes, as far as net.core.wmem_max and rmem_max
/// allow: a burst waits in the kernel while the worker serves others.
const SOCKET_BUFFER: usize = 1024 * 1024;

/// Why there is no socket to a permitted destination.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unopened {
    /// This client has as many outer ports as one client may have.
    #[error("the client has a quarter of the local ports")]
    Share,
    /// There is no free port.
    #[error("no local port is free; widen net.ipv4.ip_local_port_range")]
    Exhausted,
    /// Anything else.
    #[error("no socket to the destination")]
    Failed(#[source] io::Error),
}

impl From<io::Error> for Unopened {
    fn from(fault: io::Error) -> Self {
        let none = [io::ErrorKind::AddrInUse, io::ErrorKind::WouldBlock];
        if none.contains(&fault.kind()) { Self::Exhausted } else { Self::Failed(fault) }
    }
}

/// The ports of all workers.
#[derive(Debug)]
pub(in crate::flow) struct Ports {
    /// Where the kernel takes ports from.
    range: RangeInclusive<u16>,
    /// Ports at once of one client: an IPv4 address, or a /64.
    share: usize,
    taken: Mutex<Taken>,
}

/// A client endpoint, and the address that its flows leave from (unspecified: the route's own).
type Inner = (SocketAddr, IpAddr);

/// Where datagrams leave from and, where that is the client's own address, where they go: a datagram
/// that arrives so was sent by the gateway.
type Outer = (SocketAddr, Option<SocketAddr>);

#[derive(Debug, Default)]
struct Taken {
    mappings: HashMap<Inner, Mapping>,
    clients: HashMap<IpAddr, usize>,
    outer: HashMap<Outer, usize>,
}

#[derive(Debug)]
struct Mapping {
    port: u16,
    flows: usize,
}

/// A flow's part in its client's port, given back when dropped.
#[derive(Debug)]
pub(super) struct Port {
    ports: Arc<Ports>,
    inner: Inner,
    outer: Option<Outer>,
}

impl Ports {
    /// No port is taken; a client may have a quarter of those that the kernel gives out.
    pub(in crate::flow) fn new() -> Arc<Self> {
        Self::over(udp::local_ports())
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.range.len()
    }

    fn over(range: RangeInclusive<u16>) -> Arc<Self> {
        let share = range.len().div_ceil(4).max(1);
        Arc::new(Self { range, share, taken: Mutex::default() })
    }

    /// A socket that is connected to the permitted `destination` and to nothing else, and leaves from
    /// the client's outer port. With `keep` it leaves from the client's address, at a port that is not
    /// the client's own: a datagram that is routed back is then known by it.
    ///
    /// What other hosts send to the port before the connect is done waits in the socket: its reader
    /// looks at who sent what it takes.
    pub(super) fn dial(
        self: &Arc<Self>,
        client: SocketAddr,
        keep: bool,
        permit: &Permit,
    ) -> Result<(Socket, Port), Unopened> {
        let destination = permit.destination();
        let source = match destination {
            _ if keep => client.ip(),
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let (socket, mut port) = self.bind((client, source))?;
        dial::begin(&socket, permit)?;
        let from = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable);
        let outer = (canonical(from.map_err(io::Error::from)?), keep.then_some(destination));
        *self.taken().outer.entry(outer).or_default() += 1;
        port.outer = Some(outer);
        Ok((socket, port))
    }

    /// Whether this datagram is one of the gateway's own, come back.
    pub(super) fn is_own(&self, from: SocketAddr, to: SocketAddr) -> bool {
        let (from, to) = (canonical(from), canonical(to));
        let taken = self.taken();
        taken.outer.contains_key(&(from, None)) || taken.outer.contains_key(&(from, Some(to)))
    }

    /// A socket at the client's port; its first flow finds one.
    fn bind(self: &Arc<Self>, inner: Inner) -> Result<(Socket, Port), Unopened> {
        // The last flow of a port may end, and another program take it, between a look and the bind.
        for _ in 0..2 {
            if let Some((number, port)) = self.join(inner) {
                let socket = open(inner.1)?;
                socket.set_reuse_address(true)?;
                match socket.bind(&SocketAddr::new(inner.1, number).into()) {
                    Ok(()) => return Ok((socket, port)),
                    Err(e) if e.kind() == io::ErrorKind::AddrInUse => continue,
                    Err(e) => return Err(e.into()),
                }
            }
            if self.is_at_share(&self.taken(), inner) {
                return Err(Unopened::Share);
            }
            let (socket, number) = self.fresh(inner)?;
            if let Some(port) = self.begin(inner, number)? {
                return Ok((socket, port));
            }
        }
        Err(Unopened::Exhausted)
    }

    /// A port that nobody has; where it can be, the client's own number, so that a client that was
    /// silent for long has the same again.
    fn fresh(&self, (client, source): Inner) -> io::Result<(Socket, u16)> {
        let keep = !source.is_unspecified();
        let wanted = Some(client.port()).filter(|port| !keep && self.range.contains(port));
        let at = |port| -> io::Result<(Socket, u16)> {
            let socket = open(source)?;
            socket.bind(&SocketAddr::new(source, port).into())?;
            // Not before: the kernel would hand out ports that are shared already.
            socket.set_reuse_address(true)?;
            let at = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
            Ok((socket, at.port()))
        };
        if let Some(port) = wanted
            && let Ok(fresh) = at(port)
        {
            return Ok(fresh);
        }
        let first = at(0)?;
        // While the first holds the client's own number, the second has another.
        if keep && first.1 == client.port() { at(0) } else { Ok(first) }
    }

    /// Takes part in a port that the client has.
    fn join(self: &Arc<Self>, inner: Inner) -> Option<(u16, Port)> {
        let mut taken = self.taken();
        let mapping = taken.mappings.get_mut(&inner)?;
        mapping.flows += 1;
        Some((mapping.port, Port { ports: Arc::clone(self), inner, outer: None }))
    }

    /// Notes the client's new port; `None` where another worker found one for it meanwhile.
    fn begin(self: &Arc<Self>, inner: Inner, port: u16) -> Result<Option<Port>, Unopened> {
        let mut taken = self.taken();
        if self.is_at_share(&taken, inner) {
            return Err(Unopened::Share);
        }
        let Entry::Vacant(place) = taken.mappings.entry(inner) else { return Ok(None) };
        place.insert(Mapping { port, flows: 1 });
        *taken.clients.entry(network(inner.0.ip().to_canonical())).or_default() += 1;
        Ok(Some(Port { ports: Arc::clone(self), inner, outer: None }))
    }

    /// At its own address a client takes nobody's ports.
    fn is_at_share(&self, taken: &Taken, (client, source): Inner) -> bool {
        let has = taken.clients.get(&network(client.ip().to_canonical()));
        source.is_unspecified() && has.is_some_and(|&has| has >= self.share)
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let mut taken = self.ports.taken();
        if let Some(outer) = self.outer {
            less(&mut taken.outer, outer);
        }
        if let Entry::Occupied(mut mapping) = taken.mappings.entry(self.inner) {
            mapping.get_mut().flows -= 1;
            if mapping.get().flows == 0 {
                mapping.remove();
                less(&mut taken.clients, network(self.inner.0.ip().to_canonical()));
            }
        }
    }
}

fn less<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: K) {
    if let Entry::Occupied(mut count) = counts.entry(key) {
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }
}

/// A socket that may leave from `source`, which is the client's address or none in particular.
fn open(source: IpAddr) -> io::Result<Socket> {
    let socket = datagrams(SocketAddr::new(source, 0))?;
    match source {
        IpAddr::V4(ip) if !ip.is_unspecified() => socket.set_ip_transparent_v4(true)?,
        IpAddr::V6(ip) if !ip.is_unspecified() => socket.set_ip_transparent_v6(true)?,
        IpAddr::V4(_) => {}
        // The same port of the other family is another client's.
        IpAddr::V6(_) => socket.set_only_v6(true)?,
    }
    udp::keep_whole(&socket, source.is_ipv6())?;
    udp::want_errors(&socket, source.is_ipv6())?;
    Ok(socket)
}

/// A UDP socket of the family of `address`, with the buffers of a flow.
pub(super) fn datagrams(address: SocketAddr) -> io::Result<Socket> {
    let kind = Type::DGRAM.nonblocking();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::UDP))?;
    let socket = unreserved(socket)?;
    // As much as the host's limits allow; less is slower, and no fault.
    socket.set_recv_buffer_size(SOCKET_BUFFER).ok();
    socket.set_send_buffer_size(SOCKET_BUFFER).ok();
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixture::permit;

    const RANGE: RangeInclusive<u16> = 32_768..=60_999;

    fn client(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 2], port))
    }

    fn to(ip: &str, port: u16) -> SocketAddr {
        SocketAddr::new(ip.parse().unwrap(), port)
    }

    fn outer(socket: &Socket) -> SocketAddr {
        socket.local_addr().unwrap().as_socket().unwrap()
    }

    #[test]
    fn l08_one_client_endpoint_has_one_port_for_all_destinations_and_none_with_another() {
        let ports = Ports::over(RANGE);
        for (ip, other) in [("127.0.0.7", "127.0.0.8"), ("::1", "::1")] {
            let dial =
                |from, ip, port| ports.dial(client(from), false, &permit(to(ip, port))).unwrap();
            let first = dial(50_001, ip, 9000);
            let second = dial(50_001, other, 9001);
            let third = dial(50_001, ip, 9002);
            assert_eq!(outer(&first.0).port(), outer(&second.0).port());
            assert_eq!(outer(&first.0).port(), outer(&third.0).port());
            let stranger = dial(50_002, ip, 9000);
            assert_ne!(outer(&first.0).port(), outer(&stranger.0).port());
            let at = outer(&first.0);
            assert!(ports.is_own(at, to(ip, 9000)) && ports.is_own(at, to(ip, 1)));
            drop((first, second));
            assert!(ports.is_own(at, to(ip, 9000)), "the third has it still");
            assert_eq!(outer(&dial(50_001, ip, 9003).0).port(), at.port());
            drop(third);
            assert!(!ports.is_own(at, to(ip, 9000)));
        }
        let taken = ports.taken();
        assert!(taken.mappings.is_empty() && taken.clients.is_empty() && taken.outer.is_empty());
    }

    #[test]
    fn h09_one_client_has_a_quarter_of_the_ports_at_most() {
        let ports = Ports::over(40_000..=40_007);
        let dial = |client: SocketAddr| ports.dial(client, false, &permit(to("127.0.0.7", 9000)));
        let held = [dial(client(1)).unwrap(), dial(client(2)).unwrap()];
        assert!(matches!(dial(client(3)), Err(Unopened::Share)));
        let again = dial(client(2));
        assert!(again.is_ok(), "another flow of a port that it has");
        assert!(dial(to("192.0.2.3", 1)).is_ok(), "another client");
        drop(held);
        assert!(dial(client(3)).is_ok(), "a port was given back");
    }
}
