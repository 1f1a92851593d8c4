//! The client's side of one TCP connection, put in order.

use std::collections::{BTreeMap, BTreeSet};

use super::packet::Segment;
use crate::identify::Protocol;
use crate::identify::starttls::{Upgrade, upgrade};
use crate::identify::{Step, identify};

/// The most of a stream that is kept: a hello of 64 KiB in records of a few bytes, or behind
/// STARTTLS.
pub(super) const SEEN_MAX: usize = 256 * 1024;

/// Segments kept behind a gap; of more, those that are farthest from it are let go.
const PENDING_MAX: usize = 512;

/// Ends kept that are not yet reached.
const FINS_MAX: usize = 16;

/// Segments in any order become the bytes that the server reads. Where two overlap, the first to
/// arrive counts, as in the kernel. What the server does not take for the end of the connection is
/// none here: a FIN or RST that does not stand at the next byte (RFC 9293 §3.10.7.4, RFC 5961 §3.2).
#[derive(Debug, Default)]
pub(super) struct Client {
    /// Sequence number of the first byte; known from the SYN, or guessed from the first segment of
    /// a connection that is older than the capture.
    base: Option<u32>,
    seen: Vec<u8>,
    /// What came with the SYN (RFC 7413), until it is known whether the server took it.
    with_syn: Vec<u8>,
    /// Behind a gap, by offset.
    pending: BTreeMap<usize, Vec<u8>>,
    pending_bytes: usize,
    /// Bytes that the client sent without a gap: those of `seen`, and those that the capture lacks
    /// because it cut packets short.
    next: usize,
    /// Offsets at which the client may end: those of its FINs.
    fins: BTreeSet<usize>,
    ended: bool,
    looks: Looks,
    /// Bytes that were looked at.
    #[cfg(test)]
    visited: usize,
}

/// When a stream that grows is looked at again: when it has grown by a quarter. So all looks
/// together read no more than about five times its bytes, whatever the sizes of its segments and
/// whatever is read.
#[derive(Debug, Default)]
struct Looks {
    next: usize,
}

impl Looks {
    const fn is_due(&mut self, len: usize) -> bool {
        let due = len >= self.next;
        if due {
            self.next = len + len / 4 + 1;
        }
        due
    }
}

impl Client {
    /// One whose first byte has this sequence number.
    pub(super) fn from(base: u32) -> Self {
        Self { base: Some(base), ..Self::default() }
    }

    /// The sequence number of the client's first byte, as far as is known.
    pub(super) const fn base(&self) -> Option<u32> {
        self.base
    }

    /// The client begins: with `payload`, of which it is not yet known whether the server takes it.
    pub(super) fn begin(&mut self, base: u32, payload: &[u8]) {
        self.base = Some(base);
        if self.seen.is_empty() && self.with_syn.is_empty() {
            self.with_syn.extend_from_slice(payload);
        }
    }

    /// Whether a server that answers the SYN with this number answers this client.
    pub(super) fn is_answered_by(&self, acknowledged: u32) -> bool {
        self.base.is_none_or(|base| {
            let taken = acknowledged.wrapping_sub(base) as usize;
            taken <= self.with_syn.len().max(self.next)
        })
    }

    /// The server's answer to the SYN: what came with it was taken, or is sent again.
    pub(super) fn answered(&mut self, acknowledged: u32) {
        let base = *self.base.get_or_insert(acknowledged);
        self.settle(acknowledged != base);
    }

    fn settle(&mut self, taken: bool) {
        let with_syn = std::mem::take(&mut self.with_syn);
        if taken {
            self.take(0, &with_syn);
        }
    }

    /// Where a segment with this number stands; the number of a client whose first is not known is
    /// the first. A distance over 2^31 is one backwards (RFC 9293 §3.4).
    fn offset(&self, sequence: u32) -> i64 {
        let base = self.base.unwrap_or(sequence);
        i64::from(sequence.wrapping_sub(base).cast_signed())
    }

    /// Whether the server would take bytes of this segment at once, for they are the next.
    pub(super) fn is_next(&self, segment: &Segment<'_>) -> bool {
        let offset = self.offset(segment.sequence);
        let next = i64::try_from(self.next).unwrap_or(i64::MAX);
        let len = i64::try_from(segment.payload.len() + segment.missing).unwrap_or(i64::MAX);
        offset <= next && offset + len > next
    }

    /// Adds a segment of the client that is not its SYN.
    pub(super) fn add(&mut self, segment: &Segment<'_>) {
        let Segment { sequence, payload, missing, fin, rst, .. } = *segment;
        if rst || payload.is_empty() && missing == 0 && !fin {
            // RFC 5961 §3.2: any other is answered with a challenge, and the connection goes on.
            let offset = usize::try_from(self.offset(sequence));
            self.ended |= rst && self.base.is_some() && offset == Ok(self.next);
            return; // or a bare ACK, whose number may be of a keep-alive
        }
        if payload.is_empty() && missing == 0 && self.base.is_none() {
            return;
        }
        self.base.get_or_insert(sequence);
        let distance = self.offset(sequence);
        if !self.with_syn.is_empty() {
            // The server took it, unless it is sent again.
            self.settle(distance != 0);
        }
        let len = i64::try_from(payload.len() + missing).unwrap_or(i64::MAX);
        let Ok(end) = usize::try_from(distance.saturating_add(len)) else { return };
        let (offset, payload) = match usize::try_from(distance) {
            Ok(offset) => (offset, payload),
            Err(_) => {
                let before = usize::try_from(distance.unsigned_abs()).unwrap_or(usize::MAX);
                (0, payload.get(before..).unwrap_or_default())
            }
        };
        if fin && end >= self.next && self.fins.len() < FINS_MAX {
            self.fins.insert(end);
        }
        self.take(offset, payload);
        if missing > 0 && offset <= self.next {
            self.reach(end);
        }
    }

    fn take(&mut self, offset: usize, payload: &[u8]) {
        let room = SEEN_MAX.saturating_sub(offset).min(payload.len());
        let payload = payload.get(..room).unwrap_or_default();
        if offset <= self.seen.len() {
            self.append(offset, payload);
            self.join();
        } else if !payload.is_empty() {
            self.keep(offset, payload);
        }
    }

    /// Keeps a segment that is behind a gap.
    fn keep(&mut self, offset: usize, payload: &[u8]) {
        let is_full = self.pending.len() >= PENDING_MAX || self.pending_bytes >= SEEN_MAX;
        if is_full && !self.pending.contains_key(&offset) {
            if self.pending.last_key_value().is_none_or(|(&last, _)| last < offset) {
                return;
            }
            if let Some((_, farthest)) = self.pending.pop_last() {
                self.pending_bytes -= farthest.len();
            }
        }
        let kept = self.pending.entry(offset).or_default();
        if let Some(more) = payload.get(kept.len()..) {
            kept.extend_from_slice(more);
            self.pending_bytes += more.len();
        }
    }

    fn append(&mut self, offset: usize, payload: &[u8]) {
        let known = self.seen.len().saturating_sub(offset);
        self.seen.extend_from_slice(payload.get(known..).unwrap_or_default());
        self.reach(self.seen.len());
    }

    /// The server has all up to here, and an end of the client stands here or does not count.
    fn reach(&mut self, next: usize) {
        self.next = self.next.max(next);
        while let Some(&fin) = self.fins.first().filter(|&&fin| fin <= self.next) {
            self.fins.remove(&fin);
            self.ended |= fin == self.next;
        }
    }

    fn join(&mut self) {
        while let Some(entry) = self.pending.first_entry() {
            if *entry.key() > self.seen.len() || self.ended {
                return;
            }
            let (offset, payload) = entry.remove_entry();
            self.pending_bytes -= payload.len();
            self.append(offset, &payload);
        }
    }

    /// No more will come or count: takes what came with the SYN for taken, where nothing denied it.
    pub(super) fn finish(&mut self) {
        self.settle(true);
    }

    /// All that is known without a gap from byte 0.
    pub(super) fn seen(&self) -> &[u8] {
        &self.seen
    }

    /// Whether the client has sent bytes.
    pub(super) fn has_sent(&self) -> bool {
        self.next > 0 || !self.with_syn.is_empty()
    }

    /// Whether the client sent more, without an end before it, than is known.
    pub(super) fn lacks_bytes(&self) -> bool {
        self.next > self.seen.len() || !self.ended && !self.pending.is_empty()
    }

    /// Whether the client has ended.
    pub(super) const fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether more bytes would change nothing, or none will come. What is not yet told may be told
    /// with a later segment.
    pub(super) fn is_done(&mut self) -> bool {
        if self.ended || self.seen.len() >= SEEN_MAX {
            return true;
        }
        if !self.looks.is_due(self.seen.len()) {
            return false;
        }
        #[cfg(test)]
        {
            self.visited += self.seen.len();
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
        self.seen.capacity() + self.pending_bytes + self.with_syn.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::identify::tls::tests::hello;

    fn segment(sequence: u32, payload: &[u8]) -> Segment<'_> {
        let (acknowledged, syn, fin, rst) = (Some(1), false, false, false);
        Segment { sequence, acknowledged, syn, fin, rst, payload, missing: 0 }
    }

    fn fin(sequence: u32, payload: &[u8]) -> Segment<'_> {
        Segment { fin: true, ..segment(sequence, payload) }
    }

    fn rst(sequence: u32) -> Segment<'static> {
        Segment { rst: true, ..segment(sequence, b"") }
    }

    #[test]
    fn segments_join_in_any_order_across_the_end_of_the_numbers() {
        let mut client = Client::from(u32::MAX - 1);
        client.add(&fin(2, b"ef"));
        client.add(&segment(0, b"cd"));
        assert_eq!(client.seen(), b"");
        client.add(&segment(u32::MAX - 1, b"ab"));
        assert_eq!(client.seen(), b"abcdef");
        assert!(client.is_done());
    }

    #[test]
    fn what_arrived_first_counts() {
        let mut client = Client::from(10);
        client.add(&segment(10, b"abc"));
        client.add(&segment(11, b"XYZ"));
        client.add(&segment(8, b"123456"));
        assert_eq!(client.seen(), b"abcZ");
    }

    #[test]
    fn a_gap_is_not_bridged() {
        let mut client = Client::from(0);
        client.add(&fin(5, b"hello"));
        assert_eq!(client.seen(), b"");
        assert!(!client.is_done() && client.lacks_bytes());
    }

    #[test]
    fn only_an_end_at_the_next_byte_is_one() {
        // RFC 5961 §3.2 for RST, RFC 9293 §3.10.7.4 for FIN: before, within and behind what came.
        for end in [rst, |at| fin(at, b"")] {
            for decoy in [0, 99, 100, 102, 104, 5_000, u32::MAX] {
                let mut client = Client::from(100);
                client.add(&segment(100, b"GET"));
                client.add(&end(decoy));
                assert!(!client.is_done(), "{decoy}");
                client.add(&segment(103, b" / HTTP/1.1\r\nHost: a.example\r\n\r\n"));
                assert_eq!(client.seen().len(), 35, "{decoy}");
                assert!(client.is_done(), "{decoy}");
            }
            let mut client = Client::from(100);
            client.add(&segment(100, b"GET"));
            client.add(&end(103));
            assert!(client.is_done() && client.has_ended());
        }
    }

    #[test]
    fn an_end_counts_when_the_bytes_before_it_came() {
        let mut client = Client::from(0);
        client.add(&fin(3, b"def"));
        client.add(&segment(6, b"behind the end"));
        client.add(&segment(0, b"abc"));
        assert!(client.is_done());
        assert_eq!(client.seen(), b"abcdef", "the server reads nothing behind it");
        assert!(!client.lacks_bytes());
    }

    #[test]
    fn what_came_with_the_syn_counts_where_the_server_took_it() {
        let taken = |answer: Option<u32>, next: &[u8], at: u32| {
            let mut client = Client::default();
            client.begin(10, b"decoy");
            if let Some(answer) = answer {
                client.answered(answer);
            }
            if !next.is_empty() {
                client.add(&segment(at, next));
            }
            client.finish();
            client.seen().to_vec()
        };
        assert_eq!(taken(Some(10), b"hello", 10), b"hello");
        assert_eq!(taken(Some(15), b"hello", 15), b"decoyhello");
        assert_eq!(taken(None, b"hello", 10), b"hello");
        assert_eq!(taken(None, b"hello", 15), b"decoyhello");
        assert_eq!(taken(None, b"", 0), b"decoy");
    }

    #[test]
    fn decoys_far_ahead_do_not_crowd_out_what_is_near() {
        let mut client = Client::from(0);
        for at in 0..2_000_u32 {
            client.add(&segment(90_000 + 2 * at, b"x"));
        }
        client.add(&segment(3, b"def"));
        client.add(&segment(0, b"abc"));
        assert_eq!(client.seen(), b"abcdef");
    }

    /// Work over a stream that comes byte by byte, in bytes looked at.
    fn work(stream: &[u8]) -> usize {
        let mut client = Client::from(0);
        for (at, byte) in stream.iter().enumerate() {
            client.add(&segment(u32::try_from(at).unwrap(), &[*byte]));
            if client.is_done() {
                break;
            }
        }
        client.visited
    }

    #[test]
    fn the_work_grows_with_the_stream_and_not_with_its_square() {
        let smtp = b"NOOP\r\n".repeat(20_000);
        let head = [&b"GET / HTTP/1.1\r\n"[..], &b"a: b\r\n".repeat(10_000)].concat();
        let xmpp = [&b"<stream:stream>"[..], &[b' '; 60_000]].concat();
        let ldap = [&b"0\x84\0\x0f\0\0"[..], &[1; 60_000]].concat();
        for stream in [smtp, head, xmpp, ldap] {
            let [half, whole] = [stream.len() / 2, stream.len()].map(|end| work(&stream[..end]));
            assert!(whole <= 6 * stream.len(), "{whole} of {}", stream.len());
            assert!(half <= 3 * stream.len() && whole <= 3 * half, "{half}, {whole}");
        }
    }

    proptest! {
        /// Cut anywhere, in any order, with decoys between, a stream is read as it is sent whole.
        #[test]
        fn any_cut_in_any_order_with_decoys_is_the_stream(
            cuts in prop::collection::btree_set(1..400_usize, 0..20),
            order in prop::collection::vec(any::<u16>(), 24),
            decoys in prop::collection::vec((1..u32::MAX / 2, any::<bool>()), 0..24),
            base in any::<u32>(),
        ) {
            let stream = hello(b"proptest.example").repeat(3);
            let mut edges = vec![0];
            edges.extend(cuts.into_iter().filter(|&cut| cut < stream.len()));
            edges.push(stream.len());
            let mut pieces: Vec<_> = edges.windows(2).map(|pair| pair[0]..pair[1]).collect();
            pieces.sort_by_key(|piece| order[piece.start % order.len()]);
            let mut client = Client::from(base);
            let mut decoys = decoys.into_iter();
            for piece in pieces {
                if let Some((ahead, reset)) = decoys.next() {
                    // Never at the next byte.
                    let at = base.wrapping_add(u32::try_from(stream.len()).unwrap() + ahead);
                    client.add(&if reset { rst(at) } else { fin(at, b"") });
                }
                let at = base.wrapping_add(u32::try_from(piece.start).unwrap());
                client.add(&segment(at, &stream[piece]));
                prop_assert!(!client.has_ended());
            }
            prop_assert_eq!(client.seen(), &stream[..]);
            prop_assert!(!client.lacks_bytes());
        }
    }
}
