//! The client's side of one TCP connection, put in order.

use std::collections::BTreeMap;

use crate::identify::Protocol;
use crate::identify::starttls::{Upgrade, upgrade};
use crate::identify::{Step, identify};

/// The most of a stream that is kept: a hello of 64 KiB in records of a few bytes, or behind
/// STARTTLS.
pub(super) const SEEN_MAX: usize = 256 * 1024;

/// Segments kept behind a gap.
const PENDING_MAX: usize = 512;

/// Segments in any order become the bytes that the server reads. Where two overlap, the first to
/// arrive counts, as in the kernel.
#[derive(Debug, Default)]
pub(super) struct Client {
    /// Sequence number of the first byte; known from the SYN, or guessed from the first segment of
    /// a connection that is older than the capture.
    base: Option<u32>,
    seen: Vec<u8>,
    /// Behind a gap, by offset.
    pending: BTreeMap<usize, Vec<u8>>,
    pending_bytes: usize,
    /// Offset at which the client ended.
    end: Option<usize>,
}

impl Client {
    /// The next byte of the client has this sequence number, where none was known.
    pub(super) fn starts_at(&mut self, sequence: u32) {
        self.base.get_or_insert(sequence);
    }

    /// The sequence number of the client's first byte, as far as is known.
    pub(super) const fn base(&self) -> Option<u32> {
        self.base
    }

    /// Whether the client's first byte has this sequence number, as far as is known.
    pub(super) fn could_start_at(&self, sequence: u32) -> bool {
        self.base.is_none_or(|base| base == sequence)
    }

    /// Adds a segment of the client.
    pub(super) fn add(&mut self, sequence: u32, payload: &[u8], end: bool) {
        let base = *self.base.get_or_insert(sequence);
        // A distance over 2^31 is one backwards (RFC 9293 §3.4).
        let distance = sequence.wrapping_sub(base).cast_signed();
        let (offset, payload) = match usize::try_from(distance) {
            Ok(offset) => (offset, payload),
            Err(_) => {
                let before = usize::try_from(distance.unsigned_abs()).unwrap_or(usize::MAX);
                (0, payload.get(before..).unwrap_or_default())
            }
        };
        if end {
            self.end.get_or_insert(offset + payload.len());
        }
        let room = SEEN_MAX.saturating_sub(offset).min(payload.len());
        let payload = payload.get(..room).unwrap_or_default();
        if payload.is_empty() {
            return;
        }
        if offset <= self.seen.len() {
            self.append(offset, payload);
            self.join();
        } else if self.pending.len() < PENDING_MAX && self.pending_bytes < SEEN_MAX {
            let kept = self.pending.entry(offset).or_default();
            if kept.len() < payload.len() {
                let more = payload.get(kept.len()..).unwrap_or_default();
                kept.extend_from_slice(more);
                self.pending_bytes += more.len();
            }
        }
    }

    fn append(&mut self, offset: usize, payload: &[u8]) {
        let known = self.seen.len().saturating_sub(offset);
        self.seen.extend_from_slice(payload.get(known..).unwrap_or_default());
    }

    fn join(&mut self) {
        while let Some(entry) = self.pending.first_entry() {
            if *entry.key() > self.seen.len() {
                return;
            }
            let (offset, payload) = entry.remove_entry();
            self.pending_bytes -= payload.len();
            self.append(offset, &payload);
        }
    }

    /// All that is known without a gap from byte 0.
    pub(super) fn seen(&self) -> &[u8] {
        &self.seen
    }

    /// Whether more bytes would change nothing, or none will come.
    pub(super) fn is_done(&self) -> bool {
        let ended = self.end.is_some_and(|end| end <= self.seen.len());
        if ended || self.seen.len() >= SEEN_MAX {
            return true;
        }
        match identify(&self.seen, false) {
            Step::NeedMore(_) => false,
            Step::Done(identity) => {
                let connect = identity.http.is_some_and(|head| head.method == b"CONNECT");
                let clear = identity.protocol == Protocol::Other || connect;
                !clear || upgrade(&self.seen) != Upgrade::NeedMore && !self.waits_for_tls()
            }
        }
    }

    /// The TLS hello behind STARTTLS is not whole.
    fn waits_for_tls(&self) -> bool {
        let Upgrade::Tls { at, .. } = upgrade(&self.seen) else { return false };
        matches!(identify(self.seen.get(at..).unwrap_or_default(), false), Step::NeedMore(_))
    }

    /// Memory held, in bytes.
    pub(super) fn held(&self) -> usize {
        self.seen.capacity() + self.pending_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_join_in_any_order_across_the_end_of_the_numbers() {
        let mut client = Client::default();
        client.starts_at(u32::MAX - 1);
        client.add(2, b"ef", true);
        client.add(0, b"cd", false);
        assert_eq!(client.seen(), b"");
        client.add(u32::MAX - 1, b"ab", false);
        assert_eq!(client.seen(), b"abcdef");
        assert!(client.is_done());
    }

    #[test]
    fn what_arrived_first_counts() {
        let mut client = Client::default();
        client.starts_at(10);
        client.add(10, b"abc", false);
        client.add(11, b"XYZ", false);
        client.add(8, b"123456", false);
        assert_eq!(client.seen(), b"abcZ");
    }

    #[test]
    fn a_gap_is_not_bridged() {
        let mut client = Client::default();
        client.starts_at(0);
        client.add(5, b"hello", true);
        assert_eq!(client.seen(), b"");
        assert!(!client.is_done());
    }
}
