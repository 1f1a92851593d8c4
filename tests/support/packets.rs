//! Packets of TCP written byte by byte, as a client writes them that keeps to no rule, with checksums
//! of this file's own arithmetic.
#![allow(dead_code, unreachable_pub, reason = "several tests include this file, each for a part")]

use std::net::{IpAddr, SocketAddr};

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;
pub const URG: u8 = 32;

/// A segment of TCP, and whom it goes between.
#[derive(Clone, Debug)]
pub struct Sent {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub sequence: u32,
    pub acknowledged: u32,
    pub flags: u8,
    pub window: u16,
    pub urgent: u16,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
    /// What stands between the headers of IPv4 and TCP is options, of IPv6 extension headers with the
    /// number of the first.
    pub between: (u8, Vec<u8>),
    /// Added to the right checksum.
    pub wrong: u16,
}

impl Sent {
    pub fn new(from: SocketAddr, to: SocketAddr, flags: u8, sequence: u32, ack: u32) -> Self {
        Self {
            from,
            to,
            sequence,
            acknowledged: ack,
            flags,
            window: 65_000,
            urgent: 0,
            options: Vec::new(),
            payload: Vec::new(),
            between: (6, Vec::new()),
            wrong: 0,
        }
    }

    pub fn with(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// The segment, from its TCP header on.
    pub fn segment(&self) -> Vec<u8> {
        let mut options = self.options.clone();
        options.resize(options.len().next_multiple_of(4), 0);
        let mut segment = Vec::new();
        segment.extend(self.from.port().to_be_bytes());
        segment.extend(self.to.port().to_be_bytes());
        segment.extend(self.sequence.to_be_bytes());
        segment.extend(self.acknowledged.to_be_bytes());
        segment.push(u8::try_from(5 + options.len() / 4).unwrap() << 4);
        segment.push(self.flags);
        segment.extend(self.window.to_be_bytes());
        segment.extend([0, 0]);
        segment.extend(self.urgent.to_be_bytes());
        segment.extend(options);
        segment.extend(&self.payload);
        let sum = checksum(self.from.ip(), self.to.ip(), 6, &segment).wrapping_add(self.wrong);
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        segment
    }

    /// The packet, from its IP header on.
    pub fn bytes(&self) -> Vec<u8> {
        let (kind, between) = &self.between;
        wrap(self.from.ip(), self.to.ip(), *kind, between, &self.segment())
    }
}

/// An IP packet of a payload.
pub fn wrap(from: IpAddr, to: IpAddr, kind: u8, between: &[u8], payload: &[u8]) -> Vec<u8> {
    let length = |length: usize| u16::try_from(length).unwrap().to_be_bytes();
    let mut packet = Vec::new();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            assert_eq!(between.len() % 4, 0);
            packet.push(0x45 + u8::try_from(between.len() / 4).unwrap());
            packet.push(0);
            packet.extend(length(20 + between.len() + payload.len()));
            packet.extend([0, 0, 0x40, 0, 64, kind, 0, 0]);
            packet.extend(from.octets());
            packet.extend(to.octets());
            packet.extend(between);
            let sum = !fold(add(0, &packet));
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            packet.extend([0x60, 0, 0, 0]);
            packet.extend(length(between.len() + payload.len()));
            packet.extend([kind, 64]);
            packet.extend(from.octets());
            packet.extend(to.octets());
            packet.extend(between);
        }
        _ => panic!("one family"),
    }
    packet.extend(payload);
    packet
}

/// The checksum of a transport's bytes, of which the checksum's own are zero; 0 where they are right.
pub fn checksum(from: IpAddr, to: IpAddr, kind: u8, bytes: &[u8]) -> u16 {
    let mut sum = 0;
    for ip in [from, to] {
        sum = match ip {
            IpAddr::V4(ip) => add(sum, &ip.octets()),
            IpAddr::V6(ip) => add(sum, &ip.octets()),
        };
    }
    sum = add(sum, &u32::try_from(bytes.len()).unwrap().to_be_bytes());
    !fold(add(sum + u32::from(kind), bytes))
}

fn add(sum: u32, bytes: &[u8]) -> u32 {
    bytes.chunks(2).fold(sum, |sum, pair| {
        let pair = [pair[0], pair.get(1).copied().unwrap_or_default()];
        u32::from(fold(sum)) + u32::from(u16::from_be_bytes(pair))
    })
}

fn fold(mut sum: u32) -> u16 {
    while sum >> 16 > 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}
