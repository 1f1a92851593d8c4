//! One packet as the kernel's queue gives it, from its IP header on.

use std::net::{IpAddr, SocketAddr};

use etherparse::checksum::Sum16BitWords;
use etherparse::{TcpSlice, UdpSlice};

use super::options::{OptionKind, Options};
use crate::ip::{self, Ip, Part};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// What the network card, or the kernel in its place, does with a packet behind this process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offload {
    /// The checksum is not computed yet (`NFQA_SKB_CSUMNOTREADY`).
    pub checksum_missing: bool,
    /// It is several packets in one, and is cut later (`NFQA_SKB_GSO`).
    pub gso: bool,
}

/// Why a packet is none that the lane can judge: it is dropped. Each is the cause of a refusal where it
/// begins a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unfit {
    /// A header ends early or makes no sense.
    #[error("a header of the packet ends early or makes no sense")]
    Header,
    /// It is shorter than its IP header says: the queue was told to copy less than all.
    #[error("the packet is shorter than its IP header says")]
    Truncated,
    /// A fragment; conntrack joins them before the queue.
    #[error("the packet is a fragment")]
    Fragment,
    /// A source route leads on from the destination, so that another host than the judged one gets it.
    #[error("a source route leads on from the destination of the packet")]
    RoutedOn,
    /// Neither TCP nor UDP.
    #[error("IP protocol {0} is neither TCP nor UDP")]
    Protocol(u8),
}

/// A packet of TCP or UDP. Borrows the bytes that it was read from.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// From the IP header to the end of the payload.
    bytes: &'a [u8],
    /// Bytes before the header of the transport.
    headers: usize,
    offload: Offload,
    /// Whoever sent it.
    pub from: SocketAddr,
    /// Whoever it is for.
    pub to: SocketAddr,
    /// What it carries.
    pub content: Content<'a>,
}

/// What a packet carries.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// A TCP segment.
    Tcp(Tcp<'a>),
    /// The payload of a UDP datagram, or of several in one packet ([`Offload::gso`]), of which the
    /// kernel does not tell where they end.
    Udp(&'a [u8]),
}

/// A TCP segment (RFC 9293 §3.1).
#[derive(Debug, Clone, Copy)]
pub struct Tcp<'a> {
    /// The number of the SYN, or of the first byte of the payload.
    pub sequence: u32,
    /// The number acknowledged, where the ACK bit is set.
    pub acknowledged: Option<u32>,
    /// The SYN bit.
    pub syn: bool,
    /// The FIN bit.
    pub fin: bool,
    /// The RST bit.
    pub rst: bool,
    /// The URG bit, or an urgent pointer without it.
    pub urgent: bool,
    /// The bytes of the stream.
    pub payload: &'a [u8],
    /// Its options.
    pub options: Options<'a>,
}

impl<'a> Packet<'a> {
    /// Reads a packet. Looks at its headers alone; allocates nothing. What stands behind the length that
    /// the IP header tells is padding.
    ///
    /// # Errors
    /// [`Unfit`] says why it cannot be judged.
    pub fn read(bytes: &'a [u8], offload: Offload) -> Result<Self, Unfit> {
        let Ip { from, to, part, missing, is_routed_on } =
            ip::read(bytes).map_err(|_| Unfit::Header)?;
        if missing > 0 {
            return Err(Unfit::Truncated);
        }
        let Part::Whole { kind, payload } = part else { return Err(Unfit::Fragment) };
        if is_routed_on {
            return Err(Unfit::RoutedOn);
        }
        let headers = payload.as_ptr() as usize - bytes.as_ptr() as usize;
        let bytes = bytes.get(..headers + payload.len()).ok_or(Unfit::Header)?;
        let (ports, content) = match kind {
            TCP => {
                let tcp = TcpSlice::from_slice(payload).map_err(|_| Unfit::Header)?;
                ((tcp.source_port(), tcp.destination_port()), Content::Tcp(Tcp::of(&tcp)))
            }
            UDP => {
                let udp = UdpSlice::from_slice(payload).map_err(|_| Unfit::Header)?;
                ((udp.source_port(), udp.destination_port()), Content::Udp(udp.payload()))
            }
            kind => return Err(Unfit::Protocol(kind)),
        };
        let (from, to) = (SocketAddr::new(from, ports.0), SocketAddr::new(to, ports.1));
        Ok(Self { bytes, headers, offload, from, to, content })
    }

    /// The TCP segment, where it is one.
    #[must_use]
    pub const fn tcp(&self) -> Option<&Tcp<'a>> {
        match &self.content {
            Content::Tcp(tcp) => Some(tcp),
            Content::Udp(_) => None,
        }
    }

    /// The packet as it came, without padding.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What becomes of it behind this process.
    #[must_use]
    pub const fn offload(&self) -> Offload {
        self.offload
    }

    /// Whether its receiver will find the checksum of the transport right: one that does not drops the
    /// packet, and is told the next one. True where it is computed later, and for UDP over IPv4 that has
    /// none.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        if self.offload.checksum_missing {
            return true;
        }
        let transport = self.transport();
        let kind = match self.content {
            Content::Udp(_) if self.to.is_ipv4() && transport.get(6..8) == Some(&[0, 0]) => {
                return true;
            }
            Content::Udp(_) => UDP,
            Content::Tcp(_) => TCP,
        };
        // Over all bytes, the checksum's own with them, the sum is zero.
        self.sum(kind, transport.len()).add_slice(transport).ones_complement() == 0
    }

    /// Whether it holds what makes a receiver read other bytes than those that were judged, so that a
    /// copy without it goes in its place: the urgent pointer (which takes a byte out of the stream),
    /// options that are not known to leave the stream as it is (Multipath TCP, Fast Open ...), and a
    /// payload beside SYN or RST.
    #[must_use]
    pub fn needs_cut(&self) -> bool {
        self.tcp().is_some_and(|tcp| {
            tcp.urgent
                || (tcp.syn || tcp.rst) && !tcp.payload.is_empty()
                || !tcp.options.are_plain()
        })
    }

    /// Writes the copy that goes in the place of a packet that [needs one](Self::needs_cut), from its IP
    /// header on, and tells its length. For a verdict that gives the packet another content; never for a
    /// packet whose checksum is missing or that is several in one, which the kernel would complete: such
    /// one is dropped, and goes anew by [`Packet::segments`].
    ///
    /// `None` where it is no TCP, or the room is too small.
    #[must_use]
    pub fn cut_into(&self, room: &mut [u8]) -> Option<usize> {
        let tcp = self.tcp()?;
        let dropped = if tcp.syn || tcp.rst { tcp.payload.len() } else { 0 };
        let kept = self.bytes.get(..self.bytes.len() - dropped)?;
        let copy = room.get_mut(..kept.len())?;
        copy.copy_from_slice(kept);
        let (ip, segment) = copy.split_at_mut_checked(self.headers)?;
        shorten(ip, segment.len())?;
        let (header, _) = segment.split_at_mut_checked(self.tcp_header())?;
        if let Some(flags) = header.get_mut(13) {
            *flags &= !URG;
        }
        header.get_mut(16..20)?.fill(0); // checksum, urgent pointer
        Options::blank(header.get_mut(20..)?);
        let sum = self.sum(TCP, segment.len()).add_slice(segment).ones_complement();
        segment.get_mut(16..18)?.copy_from_slice(&sum.to_ne_bytes());
        Some(kept.len())
    }

    /// Gives the packet's segment in pieces of at most `size` bytes of payload to `send`, each a TCP
    /// segment with its checksum and without what [would be cut](Self::needs_cut), for a raw socket of
    /// TCP from [`Packet::from`] to [`Packet::to`]. `room` holds one of them: 60 bytes and `size`.
    ///
    /// `None` where it is no TCP, or the room is too small; then some may have been given.
    pub fn segments(
        &self,
        size: usize,
        room: &mut [u8],
        mut send: impl FnMut(&[u8]),
    ) -> Option<()> {
        let tcp = self.tcp()?;
        let payload = if tcp.syn || tcp.rst { &[][..] } else { tcp.payload };
        let whole = self.transport().get(..self.tcp_header())?;
        let mut rest = payload;
        loop {
            let (piece, behind) = rest.split_at_checked(size.max(1)).unwrap_or((rest, &[]));
            let room = room.get_mut(..whole.len() + piece.len())?;
            let (header, body) = room.split_at_mut_checked(whole.len())?;
            header.copy_from_slice(whole);
            body.copy_from_slice(piece);
            let offset = u32::try_from(payload.len() - rest.len()).ok()?;
            header.get_mut(4..8)?.copy_from_slice(&tcp.sequence.wrapping_add(offset).to_be_bytes());
            if let Some(flags) = header.get_mut(13) {
                *flags &= !(URG | if behind.is_empty() { 0 } else { FIN | PSH });
            }
            header.get_mut(16..20)?.fill(0);
            Options::blank(header.get_mut(20..)?);
            let sum = self.sum(TCP, room.len()).add_slice(room).ones_complement();
            room.get_mut(16..18)?.copy_from_slice(&sum.to_ne_bytes());
            send(room);
            if behind.is_empty() {
                return Some(());
            }
            rest = behind;
        }
    }

    /// From the header of the transport on.
    fn transport(&self) -> &'a [u8] {
        self.bytes.get(self.headers..).unwrap_or_default()
    }

    /// Length of the TCP header.
    fn tcp_header(&self) -> usize {
        let payload = self.tcp().map_or(0, |tcp| tcp.payload.len());
        self.transport().len() - payload
    }

    fn sum(&self, kind: u8, length: usize) -> Sum16BitWords {
        pseudo_header(self.from.ip(), self.to.ip(), kind, length)
    }
}

const FIN: u8 = 1;
const PSH: u8 = 8;
const URG: u8 = 0x20;

/// The sum of what stands before the transport's own bytes in its checksum (RFC 9293 §3.1, RFC 8200
/// §8.1).
pub(super) fn pseudo_header(from: IpAddr, to: IpAddr, kind: u8, length: usize) -> Sum16BitWords {
    let mut sum = Sum16BitWords::new();
    for ip in [from, to] {
        sum = match ip {
            IpAddr::V4(ip) => sum.add_4bytes(ip.octets()),
            IpAddr::V6(ip) => sum.add_16bytes(ip.octets()),
        };
    }
    // A segment of a packet whose length does not fit is 64 KiB long at most, but for jumbograms.
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    sum.add_2bytes([0, kind]).add_4bytes(length.to_be_bytes())
}

/// Puts a shorter transport's length into an IP header, and its checksum right.
fn shorten(ip: &mut [u8], transport: usize) -> Option<()> {
    let headers = ip.len();
    if ip.first()? >> 4 == 4 {
        let length = u16::try_from(headers + transport).ok()?;
        ip.get_mut(2..4)?.copy_from_slice(&length.to_be_bytes());
        ip.get_mut(10..12)?.fill(0);
        let sum = Sum16BitWords::new().add_slice(ip).ones_complement();
        ip.get_mut(10..12)?.copy_from_slice(&sum.to_ne_bytes());
    } else {
        let length = u16::try_from(headers.checked_sub(40)? + transport).ok()?;
        ip.get_mut(4..6)?.copy_from_slice(&length.to_be_bytes());
    }
    Some(())
}

impl<'a> Tcp<'a> {
    fn of(tcp: &TcpSlice<'a>) -> Self {
        Self {
            sequence: tcp.sequence_number(),
            acknowledged: tcp.ack().then(|| tcp.acknowledgment_number()),
            syn: tcp.syn(),
            fin: tcp.fin(),
            rst: tcp.rst(),
            urgent: tcp.urg() || tcp.urgent_pointer() != 0,
            payload: tcp.payload(),
            options: Options(tcp.header_slice().get(20..).unwrap_or_default()),
        }
    }

    /// Whether some receiver might do with it what another would not: a SYN that ends or breaks off a
    /// connection at once, or a segment that neither opens one nor belongs to one (RFC 9293 §3.10.7:
    /// without ACK it is dropped).
    #[must_use]
    pub const fn is_sound(&self) -> bool {
        if self.syn { !self.fin && !self.rst } else { self.rst || self.acknowledged.is_some() }
    }

    /// The timestamp and the one that is echoed (RFC 7323 §3).
    #[must_use]
    pub fn timestamps(&self) -> Option<[u32; 2]> {
        let mut found = None;
        self.options.each(|kind, body| {
            if kind == OptionKind::TIMESTAMPS
                && let Some((value, echo)) = body.split_first_chunk::<4>()
                && let Ok(echo) = echo.try_into()
            {
                found = Some([*value, echo].map(u32::from_be_bytes));
            }
        });
        found
    }

    /// The largest segment that its sender takes (RFC 9293 §3.7.1); of a SYN.
    #[must_use]
    pub fn largest_segment(&self) -> Option<u16> {
        let mut found = None;
        self.options.each(|kind, body| {
            if kind == OptionKind::LARGEST_SEGMENT {
                found = body.try_into().ok().map(u16::from_be_bytes);
            }
        });
        found
    }
}
