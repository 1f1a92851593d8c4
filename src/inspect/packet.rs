//! From a captured frame to addresses, ports and payload.

use std::net::{IpAddr, SocketAddr};

use etherparse::defrag::IpDefragPool;
use etherparse::{IpNumber, LaxIpSlice, SlicedPacket, TcpSlice, UdpSlice};
use pcap_parser::Linktype;

/// A TCP segment or UDP datagram.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet<'a> {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) part: Part<'a>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Part<'a> {
    Tcp {
        sequence: u32,
        /// The number acknowledged, where the ACK bit is set.
        acknowledged: Option<u32>,
        syn: bool,
        /// FIN or RST.
        end: bool,
        payload: &'a [u8],
    },
    Udp {
        payload: &'a [u8],
    },
}

/// Whether frames of the link type are read.
pub(super) fn is_read(link: Linktype) -> bool {
    network(link, &[]).is_some()
}

/// Frames after which an incomplete IP packet is given up, and how often that is looked at.
const FRAGMENTS_KEPT: u64 = 2048;

/// Decodes frames; joins the fragments of IP packets as a receiver does.
#[derive(Debug)]
pub(super) struct Decoder {
    fragments: IpDefragPool<u64, ()>,
    frames: u64,
    joined: Vec<u8>,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self { fragments: IpDefragPool::new(), frames: 0, joined: Vec::new() }
    }

    /// The TCP or UDP packet that a frame holds or makes whole; `None` where it holds another.
    pub(super) fn read<'a>(&'a mut self, link: Linktype, frame: &'a [u8]) -> Option<Packet<'a>> {
        self.frames += 1;
        if self.frames.is_multiple_of(FRAGMENTS_KEPT) {
            let oldest = self.frames - FRAGMENTS_KEPT;
            self.fragments.retain(|&frame| frame >= oldest);
        }
        let packet = network(link, frame)??;
        // Lax: the capture may have cut the packet short.
        let (ip, _) = LaxIpSlice::from_slice(packet).ok()?;
        let (from, to) = (ip.source_addr(), ip.destination_addr());
        let (kind, fragmented) = (ip.payload_ip_number(), ip.is_fragmenting_payload());
        if !fragmented {
            return transport(from, to, kind, ip.payload().payload);
        }
        let whole = SlicedPacket::from_ip(packet).ok()?;
        let joined = self.fragments.process_sliced_packet(&whole, self.frames, ()).ok()??;
        self.joined = joined.payload;
        transport(from, to, joined.ip_number, &self.joined)
    }
}

/// The IP packet in a frame. Outer `None`: a link type that is not read. Inner: no IP in it.
fn network(link: Linktype, frame: &[u8]) -> Option<Option<&[u8]>> {
    // Numbers and layouts: the tcpdump.org registry of link types.
    Some(match link.0 {
        0 | 108 => frame.get(4..), // BSD loopback: address family
        1 => ether(frame.get(12..).unwrap_or_default()), // two addresses
        9 | 50 => ppp(frame),
        12 | 14 | 101 | 228 | 229 => Some(frame), // raw IP, under the numbers it had
        113 => ether(frame.get(14..).unwrap_or_default()), // Linux cooked
        276 => {
            let kind = frame.get(..2).unwrap_or_default();
            payload_of(kind, frame.get(20..).unwrap_or_default())
        }
        _ => return None,
    })
}

/// An EtherType and what is behind it.
fn ether(frame: &[u8]) -> Option<&[u8]> {
    let (kind, rest) = frame.split_at_checked(2)?;
    payload_of(kind, rest)
}

fn payload_of<'a>(kind: &[u8], rest: &'a [u8]) -> Option<&'a [u8]> {
    match *kind {
        [0x08, 0x00] | [0x86, 0xdd] => Some(rest),
        // VLAN tags: 802.1Q, 802.1ad and their predecessors.
        [0x81 | 0x91, 0x00] | [0x88, 0xa8] => ether(rest.get(2..)?),
        // PPPoE session: version, code, session, length.
        [0x88, 0x64] => ppp(rest.get(6..)?),
        // MPLS: labels until the one with the bottom bit; IP is told by its first byte.
        [0x88, 0x47 | 0x48] => {
            let (labels, _) = rest.as_chunks::<4>();
            let last = labels.iter().position(|label| label[2] & 1 == 1)?;
            rest.get(4 * (last + 1)..)
        }
        _ => None,
    }
}

/// PPP, with or without the address and control bytes of HDLC.
fn ppp(frame: &[u8]) -> Option<&[u8]> {
    let frame = frame.strip_prefix(&[0xff, 0x03]).unwrap_or(frame);
    match *frame {
        [0x00, 0x21 | 0x57, ref rest @ ..] | [0x21 | 0x57, ref rest @ ..] => Some(rest),
        _ => None,
    }
}

fn transport(from: IpAddr, to: IpAddr, kind: IpNumber, payload: &[u8]) -> Option<Packet<'_>> {
    let (from_port, to_port, part) = match kind {
        IpNumber::TCP => {
            let tcp = TcpSlice::from_slice(payload).ok()?;
            let part = Part::Tcp {
                sequence: tcp.sequence_number(),
                acknowledged: tcp.ack().then(|| tcp.acknowledgment_number()),
                syn: tcp.syn(),
                end: tcp.fin() || tcp.rst(),
                payload: tcp.payload(),
            };
            (tcp.source_port(), tcp.destination_port(), part)
        }
        IpNumber::UDP => {
            let udp = UdpSlice::from_slice_lax(payload).ok()?;
            let part = Part::Udp { payload: udp.payload() };
            (udp.source_port(), udp.destination_port(), part)
        }
        _ => return None,
    };
    Some(Packet { from: SocketAddr::new(from, from_port), to: SocketAddr::new(to, to_port), part })
}
