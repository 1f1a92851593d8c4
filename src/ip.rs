//! IP headers, and what stands between them and the transport. Pure: bytes in, views of them out. For
//! the packets of the fast lane and for captures.
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::net::IpAddr;

use etherparse::{
    IpAuthHeaderSlice, Ipv4HeaderSlice, Ipv6FragmentHeaderSlice, Ipv6HeaderSlice,
    Ipv6RawExtHeaderSlice,
};

pub(crate) const AUTHENTICATION: u8 = 51;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;

/// The most extension headers that are walked over: a packet needs six (RFC 8200 §4.1), and one of
/// thousands is made to cost time.
const EXTENSIONS_MAX: usize = 32;

/// Options of IPv4 that send a packet by way of others, loosely or strictly (RFC 791 §3.1).
const SOURCE_ROUTES: [u8; 2] = [131, 137];

/// A header that ends early or makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadHeader;

/// Whose fragments belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) id: u32,
    /// The protocol, of IPv4 alone (RFC 791 §3.2; RFC 8200 has it in the first fragment).
    pub(crate) kind: Option<u8>,
}

/// A piece of a packet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fragment<'a> {
    /// What its header says is behind the last header that every fragment repeats.
    pub(crate) kind: u8,
    /// Offset in bytes.
    pub(crate) offset: usize,
    /// Others follow.
    pub(crate) more: bool,
    pub(crate) bytes: &'a [u8],
}

/// An IP packet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ip<'a> {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) part: Part<'a>,
    /// Bytes of the payload that the packet had and that are not here.
    pub(crate) missing: usize,
    /// A source route leads on from the destination: it is not the last one.
    pub(crate) is_routed_on: bool,
}

/// A payload, or a piece of one.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part<'a> {
    Whole { kind: u8, payload: &'a [u8] },
    Fragment(Key, Fragment<'a>),
}

/// What the extension headers of IPv6 lead to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extended<'a> {
    pub(crate) part: Part<'a>,
    is_routed_on: bool,
}

/// Reads the headers of a packet, which may have been cut short.
pub(crate) fn read(packet: &[u8]) -> Result<Ip<'_>, BadHeader> {
    match packet.first().map(|first| first >> 4) {
        Some(4) => read_v4(packet),
        Some(6) => read_v6(packet),
        _ => Err(BadHeader),
    }
}

fn read_v4(packet: &[u8]) -> Result<Ip<'_>, BadHeader> {
    let header = Ipv4HeaderSlice::from_slice(packet).map_err(|_| BadHeader)?;
    let header_len = header.slice().len();
    let (from, to) = (IpAddr::V4(header.source_addr()), IpAddr::V4(header.destination_addr()));
    // A length of 0 is what a card that cuts by itself (TSO) was given.
    let len = match usize::from(header.total_len()) {
        0 => packet.len(),
        len => len,
    };
    let payload = packet.get(header_len..len.min(packet.len())).ok_or(BadHeader)?;
    let kind = header.protocol().0;
    let (offset, more) = (header.fragments_offset().byte_offset(), header.more_fragments());
    let part = if offset > 0 || more {
        let key = Key { from, to, id: header.identification().into(), kind: Some(kind) };
        Part::Fragment(key, Fragment { kind, offset: offset.into(), more, bytes: payload })
    } else {
        Part::Whole { kind, payload }
    };
    let missing = len.saturating_sub(packet.len());
    Ok(Ip { from, to, part, missing, is_routed_on: leads_on(header.options()) })
}

/// Whether a source route among the options of IPv4 has hops left: its pointer stands within it.
/// Options that cannot be told apart any more count as one.
fn leads_on(mut options: &[u8]) -> bool {
    loop {
        options = match *options {
            [] | [0, ..] => return false,
            [1, ref rest @ ..] => rest,
            [kind, length, ref rest @ ..] if SOURCE_ROUTES.contains(&kind) => {
                if rest.first().is_none_or(|&pointer| pointer <= length) {
                    return true;
                }
                match options.get(usize::from(length)..).filter(|_| length >= 2) {
                    Some(rest) => rest,
                    None => return true,
                }
            }
            [_, length, ..] => match options.get(usize::from(length)..).filter(|_| length >= 2) {
                Some(rest) => rest,
                None => return true,
            },
            [_] => return true,
        };
    }
}

fn read_v6(packet: &[u8]) -> Result<Ip<'_>, BadHeader> {
    let header = Ipv6HeaderSlice::from_slice(packet).map_err(|_| BadHeader)?;
    let rest = packet.get(header.slice().len()..).unwrap_or_default();
    let len = match usize::from(header.payload_length()) {
        0 => rest.len(),
        len => len,
    };
    let (from, to) = (IpAddr::V6(header.source_addr()), IpAddr::V6(header.destination_addr()));
    let payload = rest.get(..len.min(rest.len())).unwrap_or_default();
    let missing = len.saturating_sub(rest.len());
    let Extended { part, is_routed_on } = extensions(from, to, header.next_header().0, payload)?;
    Ok(Ip { from, to, part, missing, is_routed_on })
}

/// Walks over the extension headers of IPv6 (RFC 8200 §4), of a packet or of what was joined to one.
/// A fragment that is all of its packet (RFC 6946) is none.
pub(crate) fn extensions(
    from: IpAddr,
    to: IpAddr,
    mut kind: u8,
    mut rest: &[u8],
) -> Result<Extended<'_>, BadHeader> {
    let mut is_routed_on = false;
    for _ in 0..=EXTENSIONS_MAX {
        let (next, len) = match kind {
            HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY | HOST_IDENTITY | SHIM6 => {
                let header = Ipv6RawExtHeaderSlice::from_slice(rest);
                let header = header.map_err(|_| BadHeader)?;
                // Segments left (RFC 8200 §4.4).
                is_routed_on |= kind == ROUTING && header.payload().get(1) != Some(&0);
                (header.next_header().0, header.slice().len())
            }
            AUTHENTICATION => authentication(rest)?,
            FRAGMENT => {
                let header = Ipv6FragmentHeaderSlice::from_slice(rest);
                let header = header.map_err(|_| BadHeader)?;
                let (next, len) = (header.next_header().0, header.slice().len());
                if header.is_fragmenting_payload() {
                    let key = Key { from, to, id: header.identification(), kind: None };
                    let offset = header.fragment_offset().byte_offset().into();
                    let more = header.more_fragments();
                    let bytes = rest.get(len..).unwrap_or_default();
                    let part = Part::Fragment(key, Fragment { kind: next, offset, more, bytes });
                    return Ok(Extended { part, is_routed_on });
                }
                (next, len)
            }
            kind => {
                return Ok(Extended { part: Part::Whole { kind, payload: rest }, is_routed_on });
            }
        };
        kind = next;
        rest = rest.get(len..).ok_or(BadHeader)?;
    }
    Err(BadHeader)
}

/// The protocol behind an authentication header (RFC 4302), and the length of the header.
pub(crate) fn authentication(rest: &[u8]) -> Result<(u8, usize), BadHeader> {
    let header = IpAuthHeaderSlice::from_slice(rest).map_err(|_| BadHeader)?;
    Ok((header.next_header().0, header.slice().len()))
}
