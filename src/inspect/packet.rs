//! From a captured frame to addresses, ports and payload, through tags and tunnels.

use std::net::{IpAddr, SocketAddr};

use etherparse::{TcpSlice, UdpSlice};
use pcap_parser::Linktype;

use super::fragments::Fragments;
use super::unread::{Tally, Unread};
use crate::ip::{self, Part as IpPart};

/// A TCP segment or UDP datagram.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet<'a> {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) part: Part<'a>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Part<'a> {
    Tcp(Segment<'a>),
    Udp {
        payload: &'a [u8],
        /// Bytes of the payload that the capture lacks.
        missing: usize,
    },
}

/// A TCP segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment<'a> {
    pub(super) sequence: u32,
    /// The number acknowledged, where the ACK bit is set.
    pub(super) acknowledged: Option<u32>,
    pub(super) syn: bool,
    pub(super) fin: bool,
    pub(super) rst: bool,
    pub(super) payload: &'a [u8],
    /// Bytes of the payload that the capture lacks: it was told to cut packets short.
    pub(super) missing: usize,
}

/// Tags and tunnels that one packet is followed through.
const DEPTH_MAX: u8 = 16;

/// Where packets go.
type Sink<'s> = &'s mut dyn FnMut(&Packet<'_>);

/// Decodes frames; joins the fragments of IP packets as a receiver does.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    fragments: Fragments,
    unread: Tally,
    depth: u8,
}

impl Decoder {
    /// Gives the TCP or UDP packet that a frame holds or makes whole to `sink`. What it holds and is
    /// not read is counted, but for what carries no connection.
    pub(super) fn read(&mut self, link: Linktype, frame: &[u8], sink: Sink<'_>) {
        self.fragments.next_frame();
        self.depth = 0;
        if let Err(kind) = self.link(link, frame, sink) {
            self.unread.add(kind, 1);
        }
    }

    /// What was not read.
    pub(super) fn finish(mut self) -> Tally {
        let given_up = self.fragments.finish();
        self.unread.add(Unread::Fragments, given_up);
        self.unread
    }

    fn deeper(&mut self) -> Result<(), Unread> {
        self.depth += 1;
        if self.depth > DEPTH_MAX { Err(Unread::Nested) } else { Ok(()) }
    }

    /// Numbers and layouts: the tcpdump.org registry of link types.
    fn link(&mut self, link: Linktype, frame: &[u8], sink: Sink<'_>) -> Result<(), Unread> {
        match link.0 {
            0 | 108 => self.ip(behind(frame, 4)?, sink), // BSD loopback: address family
            1 => self.ethernet(frame, sink),
            9 | 50 => self.ppp(frame, sink),
            51 => self.ppp(behind(frame, 6)?, sink), // PPPoE
            12 | 14 | 101 | 228 | 229 => self.ip(frame, sink), // raw IP, under the numbers it had
            104 => self.typed(behind(frame, 2)?, sink), // Cisco HDLC: address, control
            113 => self.typed(behind(frame, 14)?, sink), // Linux cooked
            276 => {
                let (kind, _) = number(frame)?;
                self.ether_type(kind, behind(frame, 20)?, sink)
            }
            number => Err(Unread::LinkType(number)),
        }
    }

    /// Two addresses before the type.
    fn ethernet(&mut self, frame: &[u8], sink: Sink<'_>) -> Result<(), Unread> {
        self.typed(behind(frame, 12)?, sink)
    }

    /// An EtherType, or the length of an 802.3 frame, and what is behind it.
    fn typed(&mut self, frame: &[u8], sink: Sink<'_>) -> Result<(), Unread> {
        let (kind, rest) = number(frame)?;
        self.ether_type(kind, rest, sink)
    }

    fn ether_type(&mut self, kind: u16, rest: &[u8], sink: Sink<'_>) -> Result<(), Unread> {
        self.deeper()?;
        match kind {
            // Lengths of IEEE 802.3, and the number that Linux cooked capture has for 802.2.
            0..=1500 => self.llc(rest, sink),
            0x0800 | 0x86dd => self.ip(rest, sink),
            // VLAN tags: 802.1Q, 802.1ad and their predecessors.
            0x8100 | 0x9100 | 0x9200 | 0x88a8 => self.typed(behind(rest, 2)?, sink),
            // Provider backbone bridges (802.1ah): a tag of four bytes, then a frame.
            0x88e7 => self.ethernet(behind(rest, 4)?, sink),
            0x6558 => self.ethernet(rest, sink), // a frame inside GRE (RFC 7637)
            // PPPoE session: version, code, session, length.
            0x8864 => self.ppp(behind(rest, 6)?, sink),
            0x8847 | 0x8848 => self.mpls(rest, sink),
            // ARP, RARP, AVTP, SRP, MVRP, Cisco keep-alive, MAC control, slow protocols, PPPoE
            // discovery, 802.1X, HomePlug, LLDP, PTP, CFM, 1905.1, loop-back: no connection.
            0x0806 | 0x8035 | 0x22ea | 0x22f0 | 0x88f5 | 0x8808 | 0x8809 | 0x8863 | 0x888e
            | 0x88e1 | 0x8912 | 0x88cc | 0x88f7 | 0x8902 | 0x893a | 0x9000 | 0x2000 => Ok(()),
            _ => Err(Unread::EtherType(kind)),
        }
    }

    /// IEEE 802.2: two service access points, control; with SNAP an organization and an EtherType.
    fn llc(&mut self, frame: &[u8], sink: Sink<'_>) -> Result<(), Unread> {
        match *frame {
            [0xaa, 0xaa, 3, 0, 0, 0 | 0xf8, ref rest @ ..] => self.typed(rest, sink),
            [0xaa, 0xaa, 3, 0, 0, 0x0c, 0x20, 0 | 1 | 3 | 4, ..] => Ok(()), // Cisco CDP, VTP
            [0xaa, 0xaa, 3, 0, 0x80, 0xc2, 0, 1 | 7, ref rest @ ..] => {
                // A bridged frame (RFC 2684), behind two bytes of padding.
                self.ethernet(behind(rest, 2)?, sink)
            }
            [6, 6, 3, ref rest @ ..] => self.ip(rest, sink),
            // Spanning tree, IS-IS, a null SAP: no connection.
            [0x42 | 0xfe | 0, ..] => Ok(()),
            [point, _, _, ..] => Err(Unread::ServiceAccessPoint(point)),
            _ => Err(Unread::Header),
        }
    }

    /// Labels until the one with the bottom bit. What follows is told by its first four bits: IP, or
    /// the control word of a pseudowire (RFC 4385) before a frame.
    fn mpls(&mut self, rest: &[u8], sink: Sink<'_>) -> Result<(), Unread> {
        let (labels, _) = rest.as_chunks::<4>();
        let last = labels.iter().position(|label| label[2] & 1 == 1).ok_or(Unread::Header)?;
        let inner = behind(rest, 4 * (last + 1))?;
        match inner.first().map(|first| first >> 4) {
            Some(0) => self.ethernet(behind(inner, 4)?, sink),
            _ => self.ip(inner, sink),
        }
    }

    /// PPP, with or without the address and control bytes of HDLC.
    fn ppp(&mut self, frame: &[u8], sink: Sink<'_>) -> Result<(), Unread> {
        self.deeper()?;
        let frame = frame.strip_prefix(&[0xff, 0x03]).unwrap_or(frame);
        // Protocol field compression (RFC 1661 §6.5): an odd first byte is all of it.
        let (kind, rest) = match *frame {
            [short, ref rest @ ..] if short & 1 == 1 => (u16::from(short), rest),
            _ => number(frame)?,
        };
        match kind {
            0x0021 | 0x0057 => self.ip(rest, sink),
            0x0281 | 0x0283 => self.mpls(rest, sink),
            0x8000..=0xffff => Ok(()), // the protocols that set up the link and the others
            _ => Err(Unread::Ppp(kind)),
        }
    }

    fn ip(&mut self, packet: &[u8], sink: Sink<'_>) -> Result<(), Unread> {
        self.deeper()?;
        let ip = ip::read(packet)?;
        self.part(ip.from, ip.to, ip.part, ip.missing, sink)
    }

    fn part(
        &mut self,
        from: IpAddr,
        to: IpAddr,
        part: IpPart<'_>,
        missing: usize,
        sink: Sink<'_>,
    ) -> Result<(), Unread> {
        match part {
            IpPart::Whole { kind, payload } => {
                self.transport(from, to, kind, payload, missing, sink)
            }
            // Without all of its bytes it joins to nothing.
            IpPart::Fragment(..) if missing > 0 => Err(Unread::Fragments),
            IpPart::Fragment(key, fragment) => {
                self.deeper()?;
                let Some((kind, joined)) = self.fragments.add(key, fragment)? else {
                    return Ok(());
                };
                let part = match key.kind {
                    Some(_) => IpPart::Whole { kind, payload: &joined },
                    None => ip::extensions(from, to, kind, &joined)?.part,
                };
                self.part(from, to, part, 0, sink)
            }
        }
    }

    fn transport(
        &mut self,
        from: IpAddr,
        to: IpAddr,
        kind: u8,
        payload: &[u8],
        missing: usize,
        sink: Sink<'_>,
    ) -> Result<(), Unread> {
        match kind {
            6 => {
                let tcp = TcpSlice::from_slice(payload).map_err(|_| Unread::Header)?;
                let part = Part::Tcp(Segment {
                    sequence: tcp.sequence_number(),
                    acknowledged: tcp.ack().then(|| tcp.acknowledgment_number()),
                    syn: tcp.syn(),
                    fin: tcp.fin(),
                    rst: tcp.rst(),
                    payload: tcp.payload(),
                    missing,
                });
                let from = SocketAddr::new(from, tcp.source_port());
                let to = SocketAddr::new(to, tcp.destination_port());
                sink(&Packet { from, to, part });
                Ok(())
            }
            17 => {
                let udp = UdpSlice::from_slice_lax(payload).map_err(|_| Unread::Header)?;
                let from = SocketAddr::new(from, udp.source_port());
                let to = SocketAddr::new(to, udp.destination_port());
                sink(&Packet { from, to, part: Part::Udp { payload: udp.payload(), missing } });
                Ok(())
            }
            4 | 41 => self.ip(payload, sink), // RFC 2003, RFC 4213
            47 => self.gre(payload, sink),
            // EtherIP (RFC 3378): version and zeros, then a frame.
            97 => self.ethernet(behind(payload, 2)?, sink),
            137 => self.mpls(payload, sink),
            ip::AUTHENTICATION => {
                self.deeper()?;
                let (kind, len) = ip::authentication(payload)?;
                self.transport(from, to, kind, behind(payload, len)?, missing, sink)
            }
            // ICMP, IGMP, RSVP, ICMPv6, no next header, EIGRP, OSPF, PIM, VRRP: no connection.
            1 | 2 | 46 | 58 | 59 | 88 | 89 | 103 | 112 => Ok(()),
            kind => Err(Unread::IpProtocol(kind)),
        }
    }

    /// RFC 2784 with the fields of RFC 2890, the older routing fields left aside, and the version of
    /// PPTP (RFC 2637), which carries PPP.
    fn gre(&mut self, packet: &[u8], sink: Sink<'_>) -> Result<(), Unread> {
        let (flags, rest) = number(packet)?;
        let (kind, rest) = number(rest)?;
        let has = |bit: u16| usize::from(flags & bit != 0);
        let [checksum, routing, key, sequence, acknowledged] =
            [0x8000, 0x4000, 0x2000, 0x1000, 0x0080].map(has);
        match flags & 7 {
            0 if routing == 0 => {
                let rest = behind(rest, 4 * (checksum + key + sequence))?;
                match (kind, sequence) {
                    // ERSPAN: a frame, from the second version on behind a header.
                    (0x88be, 0) => self.ethernet(rest, sink),
                    (0x88be, _) => self.ethernet(behind(rest, 8)?, sink),
                    (0x22eb, _) => self.ethernet(behind(rest, 12)?, sink),
                    // WCCP: IP, in its second version behind a header of four bytes.
                    (0x883e, _) if rest.first().is_some_and(|first| first >> 4 != 4) => {
                        self.ip(behind(rest, 4)?, sink)
                    }
                    (0x883e, _) => self.ip(rest, sink),
                    _ => self.ether_type(kind, rest, sink),
                }
            }
            1 => {
                let rest = behind(rest, 4 * (1 + sequence + acknowledged))?;
                // An acknowledgement alone has no payload.
                if sequence == 0 { Ok(()) } else { self.ppp(rest, sink) }
            }
            _ => Err(Unread::Gre(flags)),
        }
    }
}

/// What is behind `len` bytes.
fn behind(bytes: &[u8], len: usize) -> Result<&[u8], Unread> {
    bytes.get(len..).ok_or(Unread::Header)
}

/// Two bytes, big-endian, and what is behind them.
fn number(bytes: &[u8]) -> Result<(u16, &[u8]), Unread> {
    let (number, rest) = bytes.split_first_chunk::<2>().ok_or(Unread::Header)?;
    Ok((u16::from_be_bytes(*number), rest))
}
