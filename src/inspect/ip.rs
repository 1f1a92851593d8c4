//! IP headers, and what stands between them and the transport.

use std::net::IpAddr;

use etherparse::{
    IpAuthHeaderSlice, Ipv4HeaderSlice, Ipv6FragmentHeaderSlice, Ipv6HeaderSlice,
    Ipv6RawExtHeaderSlice,
};

use super::fragments::{Fragment, Key};
use super::unread::Unread;

pub(super) const AUTHENTICATION: u8 = 51;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;

/// An IP packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ip<'a> {
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    pub(super) part: Part<'a>,
    /// Bytes of the payload that the packet had and the capture lacks.
    pub(super) missing: usize,
}

/// A payload, or a piece of one.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part<'a> {
    Whole { kind: u8, payload: &'a [u8] },
    Fragment(Key, Fragment<'a>),
}

/// Reads the headers of a packet that the capture may have cut short.
pub(super) fn read(packet: &[u8]) -> Result<Ip<'_>, Unread> {
    match packet.first().map(|first| first >> 4) {
        Some(4) => read_v4(packet),
        Some(6) => read_v6(packet),
        _ => Err(Unread::Header),
    }
}

fn read_v4(packet: &[u8]) -> Result<Ip<'_>, Unread> {
    let header = Ipv4HeaderSlice::from_slice(packet).map_err(|_| Unread::Header)?;
    let header_len = header.slice().len();
    let (from, to) = (IpAddr::V4(header.source_addr()), IpAddr::V4(header.destination_addr()));
    // A length of 0 is what a card that cuts by itself (TSO) was given.
    let len = match usize::from(header.total_len()) {
        0 => packet.len(),
        len => len,
    };
    let payload = packet.get(header_len..len.min(packet.len())).ok_or(Unread::Header)?;
    let kind = header.protocol().0;
    let (offset, more) = (header.fragments_offset().byte_offset(), header.more_fragments());
    let part = if offset > 0 || more {
        let key = Key { from, to, id: header.identification().into(), kind: Some(kind) };
        Part::Fragment(key, Fragment { kind, offset: offset.into(), more, bytes: payload })
    } else {
        Part::Whole { kind, payload }
    };
    Ok(Ip { from, to, part, missing: len.saturating_sub(packet.len()) })
}

fn read_v6(packet: &[u8]) -> Result<Ip<'_>, Unread> {
    let header = Ipv6HeaderSlice::from_slice(packet).map_err(|_| Unread::Header)?;
    let rest = packet.get(header.slice().len()..).unwrap_or_default();
    let len = match usize::from(header.payload_length()) {
        0 => rest.len(),
        len => len,
    };
    let (from, to) = (IpAddr::V6(header.source_addr()), IpAddr::V6(header.destination_addr()));
    let payload = rest.get(..len.min(rest.len())).unwrap_or_default();
    let part = extensions(from, to, header.next_header().0, payload)?;
    Ok(Ip { from, to, part, missing: len.saturating_sub(rest.len()) })
}

/// Walks over the extension headers of IPv6 (RFC 8200 §4), of a packet or of what was joined to one.
/// A fragment that is all of its packet (RFC 6946) is none.
pub(super) fn extensions(
    from: IpAddr,
    to: IpAddr,
    mut kind: u8,
    mut rest: &[u8],
) -> Result<Part<'_>, Unread> {
    loop {
        let (next, len) = match kind {
            HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY | HOST_IDENTITY | SHIM6 => {
                let header = Ipv6RawExtHeaderSlice::from_slice(rest);
                let header = header.map_err(|_| Unread::Header)?;
                (header.next_header().0, header.slice().len())
            }
            AUTHENTICATION => authentication(rest)?,
            FRAGMENT => {
                let header = Ipv6FragmentHeaderSlice::from_slice(rest);
                let header = header.map_err(|_| Unread::Header)?;
                let (next, len) = (header.next_header().0, header.slice().len());
                if header.is_fragmenting_payload() {
                    let key = Key { from, to, id: header.identification(), kind: None };
                    let offset = header.fragment_offset().byte_offset().into();
                    let more = header.more_fragments();
                    let bytes = rest.get(len..).unwrap_or_default();
                    return Ok(Part::Fragment(key, Fragment { kind: next, offset, more, bytes }));
                }
                (next, len)
            }
            kind => return Ok(Part::Whole { kind, payload: rest }),
        };
        kind = next;
        rest = rest.get(len..).ok_or(Unread::Header)?;
    }
}

/// The protocol behind an authentication header (RFC 4302), and the length of the header.
pub(super) fn authentication(rest: &[u8]) -> Result<(u8, usize), Unread> {
    let header = IpAuthHeaderSlice::from_slice(rest).map_err(|_| Unread::Header)?;
    Ok((header.next_header().0, header.slice().len()))
}
