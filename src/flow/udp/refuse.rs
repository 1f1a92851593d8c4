//! What a refused UDP client sees (POLICY.md §4): CONNECTION_CLOSE for QUIC that was read, else ICMP
//! "administratively prohibited". Never more bytes than the client sent in a QUIC Initial.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::relay::{answer_from, send_from};
use super::table::Key;
use super::{Desk, Front};
use crate::account::Dropped;
use crate::identify::quic::Initial;
use crate::sys::udp;

/// How long a refused flow keeps its place.
pub(super) const REFUSED_FOR: Duration = Duration::from_secs(3);

/// How often a refused flow is answered: clients repeat what goes unanswered, and one answer may be
/// lost; more would be noise for somebody whose address was forged.
pub(super) const ANSWERS_MAX: u32 = 4;

/// Protocol number of UDP.
const UDP: u8 = 17;

/// Raw sockets for ICMP errors; `None` without CAP_NET_RAW.
#[derive(Debug)]
pub(super) struct Icmp {
    v4: Option<Socket>,
    v6: Option<Socket>,
}

impl Icmp {
    pub(super) fn open() -> Self {
        let raw = |domain, protocol| {
            let socket = Socket::new(domain, Type::RAW.nonblocking(), Some(protocol)).ok()?;
            // Nothing is read from it: let what arrives take as little memory as may be.
            socket.set_recv_buffer_size(1).ok();
            Some(socket)
        };
        Self { v4: raw(Domain::IPV4, Protocol::ICMPV4), v6: raw(Domain::IPV6, Protocol::ICMPV6) }
    }

    /// Tells a client that a datagram of `length` bytes was not forwarded.
    fn prohibited(&self, key: Key, length: usize) -> io::Result<()> {
        let none = || io::Error::from(io::ErrorKind::PermissionDenied);
        let (socket, message) = match (key.client, key.to) {
            (SocketAddr::V4(client), SocketAddr::V4(to)) => (&self.v4, v4(client, to, length)),
            (SocketAddr::V6(client), SocketAddr::V6(to)) => (&self.v6, v6(client, to, length)),
            (SocketAddr::V4(_), SocketAddr::V6(_)) | (SocketAddr::V6(_), SocketAddr::V4(_)) => {
                return Err(none());
            }
        };
        let mut client = key.client;
        client.set_port(0);
        socket.as_ref().ok_or_else(none)?.send_to(&message, &client.into()).map(drop)
    }
}

/// Answers a refused flow, whose last datagram had `length` bytes.
pub(super) fn answer(desk: &Desk, key: Key, refused: Option<Initial>, length: usize) {
    if desk.door.silent {
        return;
    }
    let metrics = desk.gate.account.metrics();
    let closed = refused.and_then(|initial| initial.refusal());
    match &desk.front {
        Front::Listener { socket, icmp } => {
            if let Some(close) = closed
                && say(socket, key, &close).is_ok()
            {
                return;
            }
            if icmp.prohibited(key, length).is_err() {
                metrics.dropped(Dropped::NoIcmp);
            }
        }
        // SOCKS5 has no word for it; a client that speaks QUIC is told in QUIC.
        Front::Association(association) => {
            if closed.is_some_and(|close| association.refuse(key, &close).is_err()) {
                metrics.dropped(Dropped::Unsent);
            }
        }
    }
}

/// Sends a datagram to the client, from where it sent its own.
fn say(listener: &UdpSocket, key: Key, datagram: &[u8]) -> io::Result<()> {
    if listener.local_addr()?.port() == key.to.port() {
        return send_from(listener, datagram, datagram.len(), key.client, key.to);
    }
    udp::send(&answer_from(key)?, datagram, datagram.len(), None, None)
}

/// Destination unreachable, communication administratively prohibited (RFC 792, RFC 1812 §5.2.7.1),
/// about a datagram whose headers are made up from what is known of it.
fn v4(client: SocketAddrV4, to: SocketAddrV4, length: usize) -> Vec<u8> {
    let total = u16::try_from(20 + 8 + length).unwrap_or(u16::MAX);
    let mut header = vec![0x45, 0];
    header.extend(total.to_be_bytes());
    header.extend([0, 0, 0, 0, 64, UDP, 0, 0]);
    header.extend([*client.ip(), *to.ip()].iter().flat_map(Ipv4Addr::octets));
    let sum = checksum(&header);
    header.splice(10..12, sum.to_be_bytes());
    let mut message = vec![3, 13, 0, 0, 0, 0, 0, 0];
    message.extend(header);
    message.extend(udp_header(client.port(), to.port(), length));
    let sum = checksum(&message);
    message.splice(2..4, sum.to_be_bytes());
    message
}

/// Destination unreachable, communication administratively prohibited (RFC 4443 §3.1). The kernel
/// fills in the checksum of a raw ICMPv6 socket (RFC 3542 §3.1).
fn v6(client: SocketAddrV6, to: SocketAddrV6, length: usize) -> Vec<u8> {
    let payload = u16::try_from(8 + length).unwrap_or(u16::MAX);
    let mut message = vec![1, 1, 0, 0, 0, 0, 0, 0, 0x60, 0, 0, 0];
    message.extend(payload.to_be_bytes());
    message.extend([UDP, 64]);
    message.extend([*client.ip(), *to.ip()].iter().flat_map(Ipv6Addr::octets));
    message.extend(udp_header(client.port(), to.port(), length));
    message
}

fn udp_header(from: u16, to: u16, length: usize) -> impl Iterator<Item = u8> {
    let length = u16::try_from(8 + length).unwrap_or(u16::MAX);
    [from, to, length, 0].into_iter().flat_map(u16::to_be_bytes)
}

/// RFC 1071; the length is even.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| pair.iter().fold(0_u32, |word, &byte| word << 8 | u32::from(byte)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn icmp_errors_name_the_datagram_that_was_refused() {
        let message =
            v4("192.0.2.2:40000".parse().unwrap(), "203.0.113.7:443".parse().unwrap(), 1200);
        assert_eq!(message.len(), 8 + 20 + 8);
        assert_eq!(message[..2], [3, 13]);
        let inner = etherparse::Ipv4Header::from_slice(&message[8..]).unwrap().0;
        assert_eq!(inner.source, [192, 0, 2, 2]);
        assert_eq!(inner.destination, [203, 0, 113, 7]);
        assert_eq!(inner.header_checksum, inner.calc_header_checksum());
        assert_eq!(inner.total_len, 1228);
        let udp = etherparse::UdpHeader::from_slice(&message[28..]).unwrap().0;
        assert_eq!((udp.source_port, udp.destination_port, udp.length), (40000, 443, 1208));
        assert_eq!(checksum(&message), 0, "a whole message sums up to nothing");
        let message = v6(
            "[2001:db8:1::2]:40000".parse().unwrap(),
            "[2001:db8:bad::7]:443".parse().unwrap(),
            9,
        );
        assert_eq!(message[..2], [1, 1]);
        let inner = etherparse::Ipv6Header::from_slice(&message[8..]).unwrap().0;
        assert_eq!(inner.payload_length, 17);
        assert_eq!(inner.next_header.0, 17);
        let udp = etherparse::UdpHeader::from_slice(&message[48..]).unwrap().0;
        assert_eq!((udp.source_port, udp.destination_port), (40000, 443));
    }
}
