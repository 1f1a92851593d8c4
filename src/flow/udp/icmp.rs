//! Sends ICMP errors to UDP clients, and limits how many answers of any kind a network of clients gets.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use socket2::{Domain, Protocol, Socket, Type};

use super::table::Key;
use crate::account::{Dropped, Metrics};
use crate::sys::udp::Told;

/// ICMP errors a second that one listener sends at most: whoever forges addresses has the gateway
/// send to them. The kernel's own limit (`net.ipv4.icmp_msgs_per_sec`, 1000 as well) is not asked
/// about raw sockets.
const ICMP_MAX: u64 = 1000;

/// Answers of either kind a second that one network of clients is sent: an IPv4 /24, an IPv6 /56.
const NETWORK_MAX: u64 = 200;

/// Counts of networks; networks that fall on one share it.
const NETWORKS: usize = 4096;

/// Protocol number of UDP.
const UDP: u8 = 17;

/// Raw sockets for ICMP errors, `None` without CAP_NET_RAW; and how much was sent lately.
#[derive(Debug)]
pub(super) struct IcmpSockets {
    v4: Option<Socket>,
    v6: Option<Socket>,
    begun: Instant,
    icmp: Limit,
    networks: Box<[Limit]>,
    /// Keyed anew in each process: nobody can choose networks that share a count.
    hasher: RandomState,
}

/// How many were sent in the second at hand: the second in the upper half, the count in the lower.
#[derive(Debug, Default)]
struct Limit(AtomicU64);

impl Limit {
    /// Takes one of `most` from what the second (since the beginning) still allows.
    fn allows(&self, second: u64, most: u64) -> bool {
        let next = |spent: u64| match spent >> 32 == second {
            true => ((spent & u64::from(u32::MAX)) < most).then_some(spent + 1),
            false => Some(second << 32 | 1),
        };
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

/// An ICMP error about a client's datagram, in the terms of its family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Error {
    kind: u8,
    code: u8,
    /// The four bytes behind the checksum.
    more: u32,
}

/// Type "destination unreachable" (RFC 792; RFC 4443 §3.1).
const UNREACHABLE: [u8; 2] = [3, 1];
/// Type "packet too big" (RFC 4443 §3.2); of IPv4 it is a code of "unreachable" (RFC 1191 §4).
const TOO_BIG: u8 = 2;
const FRAGMENTATION_NEEDED: u8 = 4;

impl Error {
    const fn unreachable(key: Key, codes: [u8; 2]) -> Self {
        let v6 = key.client.is_ipv6() as usize;
        Self { kind: UNREACHABLE[v6], code: codes[v6], more: 0 }
    }

    /// Communication administratively prohibited (RFC 1812 §5.2.7.1, RFC 4443 §3.1).
    pub(super) const fn prohibited(key: Key) -> Self {
        Self::unreachable(key, [13, 1])
    }

    /// No route to the destination.
    pub(super) const fn no_route(key: Key) -> Self {
        Self::unreachable(key, [0, 0])
    }

    /// What fits is a packet of `mtu` bytes.
    pub(super) fn too_big(key: Key, mtu: usize) -> Self {
        let mtu = u32::try_from(mtu).unwrap_or(u32::MAX);
        if key.client.is_ipv6() {
            Self { kind: TOO_BIG, code: 0, more: mtu }
        } else {
            // Two unused bytes, then the MTU of the next hop.
            let mtu = mtu.min(u16::MAX.into());
            Self { kind: UNREACHABLE[0], code: FRAGMENTATION_NEEDED, more: mtu }
        }
    }

    /// What the client is told of what the gateway was told: "unreachable" and "too big", and nothing
    /// where the families of its two sides are not the same.
    pub(super) fn of(told: Told, key: Key) -> Option<Self> {
        let kind = told.kind?;
        let v6 = key.client.is_ipv6();
        if key.to.is_ipv6() != v6 {
            return None;
        }
        let big = if v6 { kind == TOO_BIG } else { (kind, told.code) == (3, FRAGMENTATION_NEEDED) };
        if big {
            return usize::try_from(told.mtu).ok().map(|mtu| Self::too_big(key, mtu));
        }
        (kind == UNREACHABLE[usize::from(v6)]).then_some(Self { kind, code: told.code, more: 0 })
    }
}

impl IcmpSockets {
    pub(super) fn open() -> Self {
        let raw = |domain, protocol| {
            let socket = Socket::new(domain, Type::RAW.nonblocking(), Some(protocol)).ok()?;
            // Nothing is read from it: let what arrives take as little memory as may be.
            socket.set_recv_buffer_size(1).ok();
            Some(socket)
        };
        Self::with([raw(Domain::IPV4, Protocol::ICMPV4), raw(Domain::IPV6, Protocol::ICMPV6)])
    }

    fn with([v4, v6]: [Option<Socket>; 2]) -> Self {
        Self {
            v4,
            v6,
            begun: Instant::now(),
            icmp: Limit::default(),
            networks: std::iter::repeat_with(Limit::default).take(NETWORKS).collect(),
            hasher: RandomState::new(),
        }
    }

    /// Those of a listener whose clients cannot be told: they are of another network namespace.
    pub(super) fn none() -> Self {
        Self::with([None, None])
    }

    /// Whether clients of a family can be told.
    pub(super) const fn can_tell(&self, v6: bool) -> bool {
        if v6 { self.v6.is_some() } else { self.v4.is_some() }
    }

    /// Seconds since these were opened.
    pub(super) fn second(&self) -> u64 {
        self.begun.elapsed().as_secs()
    }

    /// Whether the network of `client` may be sent one more answer in this second.
    pub(super) fn network_allows(&self, client: IpAddr, second: u64) -> bool {
        let network = match client.to_canonical() {
            IpAddr::V4(ip) => ip.to_bits() as u64 >> 8,
            IpAddr::V6(ip) => (ip.to_bits() >> 72) as u64 | 1 << 63,
        };
        let place = self.hasher.hash_one(network) as usize % NETWORKS;
        self.networks.get(place).is_some_and(|limit| limit.allows(second, NETWORK_MAX))
    }

    /// Tells a client what became of its datagram of `length` bytes, as long as the second allows it.
    pub(super) fn tell(
        &self,
        key: Key,
        error: Error,
        length: usize,
        second: u64,
        metrics: &Metrics,
    ) {
        if !self.icmp.allows(second, ICMP_MAX) {
            metrics.dropped(Dropped::IcmpLimit);
        } else if self.send(key, error, length).is_err() {
            metrics.dropped(Dropped::NoIcmp);
        }
    }

    fn send(&self, key: Key, error: Error, length: usize) -> io::Result<()> {
        let none = || io::Error::from(io::ErrorKind::PermissionDenied);
        let (socket, message) = match (key.client, key.to) {
            (SocketAddr::V4(client), SocketAddr::V4(to)) => {
                (&self.v4, v4(error, client, to, length))
            }
            (SocketAddr::V6(client), SocketAddr::V6(to)) => {
                (&self.v6, v6(error, client, to, length))
            }
            (SocketAddr::V4(_), SocketAddr::V6(_)) | (SocketAddr::V6(_), SocketAddr::V4(_)) => {
                return Err(none());
            }
        };
        let mut client = key.client;
        client.set_port(0);
        socket.as_ref().ok_or_else(none)?.send_to(&message, &client.into()).map(drop)
    }
}

/// An ICMP error about a datagram whose headers are made up from what is known of it.
fn v4(error: Error, client: SocketAddrV4, to: SocketAddrV4, length: usize) -> Vec<u8> {
    let total = u16::try_from(20 + 8 + length).unwrap_or(u16::MAX);
    let mut header = vec![0x45, 0];
    header.extend(total.to_be_bytes());
    header.extend([0, 0, 0, 0, 64, UDP, 0, 0]);
    header.extend([*client.ip(), *to.ip()].iter().flat_map(Ipv4Addr::octets));
    let sum = checksum(&header);
    header.splice(10..12, sum.to_be_bytes());
    let mut message = vec![error.kind, error.code, 0, 0];
    message.extend(error.more.to_be_bytes());
    message.extend(header);
    message.extend(udp_header(client.port(), to.port(), length));
    let sum = checksum(&message);
    message.splice(2..4, sum.to_be_bytes());
    message
}

/// The same of IPv6. The kernel fills in the checksum of a raw ICMPv6 socket (RFC 3542 §3.1).
fn v6(error: Error, client: SocketAddrV6, to: SocketAddrV6, length: usize) -> Vec<u8> {
    let payload = u16::try_from(8 + length).unwrap_or(u16::MAX);
    let mut message = vec![error.kind, error.code, 0, 0];
    message.extend(error.more.to_be_bytes());
    message.extend([0x60, 0, 0, 0]);
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

    fn key(client: &str, to: &str) -> Key {
        Key::transparent(client.parse().unwrap(), to.parse().unwrap())
    }

    #[test]
    fn a_second_has_so_many_answers_and_the_next_as_many_again() {
        let limit = Limit::default();
        for second in [0, 1, 7] {
            let sent = (0..ICMP_MAX * 2).filter(|_| limit.allows(second, ICMP_MAX)).count() as u64;
            assert_eq!(sent, ICMP_MAX);
        }
    }

    #[test]
    fn w04_a_network_of_clients_is_sent_so_many_answers_a_second_and_another_has_its_own() {
        let own = IcmpSockets::open();
        for (network, other) in [("192.0.2", "198.51.100.1"), ("2001:db8:1:0:", "2001:db8:2::1")] {
            let nth = |n: u64| match network.contains(':') {
                true => format!("{network}{n:x}::1").parse().unwrap(),
                false => format!("{network}.{}", n % 256).parse().unwrap(),
            };
            for second in [0, 1] {
                let sent =
                    (0..NETWORK_MAX * 2).filter(|&n| own.network_allows(nth(n % 256), second));
                assert_eq!(sent.count() as u64, NETWORK_MAX, "{network}");
            }
            assert!(own.network_allows(other.parse().unwrap(), 1));
        }
    }

    #[test]
    fn l08_what_icmp_said_is_said_again_in_the_terms_of_the_client() {
        let told = |kind, code, mtu| Told { kind: Some(kind), code, mtu, quoted: 8 };
        let v4 = key("192.0.2.2:4000", "203.0.113.7:443");
        let v6 = key("[2001:db8:1::2]:4000", "[2001:db8:bad::7]:443");
        let mixed = key("192.0.2.2:4000", "[2001:db8:bad::7]:443");
        let error = |kind, code, more| Some(Error { kind, code, more });
        assert_eq!(Error::of(told(3, 3, 0), v4), error(3, 3, 0), "port unreachable");
        assert_eq!(Error::of(told(3, 4, 1280), v4), error(3, 4, 1280));
        assert_eq!(Error::of(told(11, 0, 0), v4), None, "the client set no hop limit here");
        assert_eq!(Error::of(told(1, 4, 0), v6), error(1, 4, 0), "port unreachable");
        assert_eq!(Error::of(told(2, 0, 1280), v6), error(2, 0, 1280));
        assert_eq!(Error::of(told(3, 0, 0), v6), None, "time exceeded");
        assert_eq!(Error::of(told(1, 4, 0), mixed), None);
        assert_eq!(Error::of(Told { kind: None, ..told(3, 3, 0) }, v4), None, "the kernel's own");
    }

    #[test]
    fn icmp_errors_name_the_datagram_that_was_refused() {
        let prohibited = Error { kind: 3, code: 13, more: 0 };
        let (client, to) = ("192.0.2.2:40000".parse().unwrap(), "203.0.113.7:443".parse().unwrap());
        let message = v4(prohibited, client, to, 1200);
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
            Error { kind: 1, code: 1, more: 0 },
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
