//! Segments that the gateway sends of its own to the two ends of a refused connection.

use std::net::SocketAddr;

use etherparse::{TcpHeader, TcpOptionElement};

use super::packet::pseudo_header;

/// What a receiver may send that is told to stop: it counts for nothing.
const WINDOW: u16 = 512;

/// The longest header of TCP, and an alert.
const LENGTH_MAX: usize = 60 + 7;

/// A TCP segment with its checksum, for a raw socket of TCP.
#[derive(Debug, Clone, Copy)]
pub struct Segment {
    /// Whose it looks to be.
    pub from: SocketAddr,
    /// Whoever it is for.
    pub to: SocketAddr,
    bytes: [u8; LENGTH_MAX],
    length: usize,
}

/// What a segment says beside its payload.
pub(super) struct Fields {
    pub(super) sequence: u32,
    pub(super) acknowledged: Option<u32>,
    pub(super) flags: Flags,
    /// The timestamp and the one that is echoed.
    pub(super) timestamps: Option<[u32; 2]>,
}

pub(super) enum Flags {
    /// PSH and FIN.
    End,
    /// RST.
    Reset,
}

impl Segment {
    pub(super) fn new(from: SocketAddr, to: SocketAddr, fields: Fields, payload: &[u8]) -> Self {
        let Fields { sequence, acknowledged, flags, timestamps } = fields;
        let mut header = TcpHeader::new(from.port(), to.port(), sequence, WINDOW);
        (header.ack, header.acknowledgment_number) =
            (acknowledged.is_some(), acknowledged.unwrap_or_default());
        match flags {
            Flags::End => (header.psh, header.fin) = (true, true),
            Flags::Reset => header.rst = true,
        }
        if let Some([value, echo]) = timestamps {
            let options = [
                TcpOptionElement::Noop,
                TcpOptionElement::Noop,
                TcpOptionElement::Timestamp(value, echo),
            ];
            // Of twelve bytes, where forty are room.
            header.set_options(&options).unwrap_or_default();
        }
        let mut segment = Self { from, to, bytes: [0; LENGTH_MAX], length: 0 };
        let head = header.to_bytes();
        segment.push(&head);
        segment.push(payload);
        let sum = pseudo_header(from.ip(), to.ip(), 6, segment.length);
        let sum = sum.add_slice(segment.as_bytes()).ones_complement();
        if let Some(place) = segment.bytes.get_mut(16..18) {
            place.copy_from_slice(&sum.to_ne_bytes());
        }
        segment
    }

    fn push(&mut self, more: &[u8]) {
        let room = self.bytes.get_mut(self.length..).and_then(|room| room.get_mut(..more.len()));
        if let Some(room) = room {
            room.copy_from_slice(more);
            self.length += more.len();
        }
    }

    /// From the TCP header on.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}
