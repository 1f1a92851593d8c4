//! The fragments of IP packets, joined as a receiver does (RFC 8200 §4.5, RFC 5722, RFC 815).

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::unread::Unread;
use crate::ip::{Fragment, Key};

/// Frames after which an incomplete packet is given up, counted from its first fragment. A receiver
/// waits 30 to 60 seconds.
const KEPT: u64 = 65_536;

/// Bytes of incomplete packets that are held; then the oldest is given up.
const HELD_MAX: usize = 64 * 1024 * 1024;

/// The largest packet that a length of 16 bits can say.
const LENGTH_MAX: usize = 65_535;

#[derive(Debug)]
struct Partial {
    number: u64,
    /// Of the first fragment.
    kind: u8,
    bytes: Vec<u8>,
    /// The ranges that came: start and end. None touches the inside of another.
    came: BTreeMap<usize, usize>,
    /// Bytes that came.
    sum: usize,
    end: Option<usize>,
    /// Two of them contradict each other: all are dropped, those to come as well.
    broken: bool,
}

/// Packets of which some fragments came.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    partial: HashMap<Key, Partial>,
    /// In the order in which they began, with the frame of the first and a number of their own.
    order: VecDeque<(Key, u64, u64)>,
    frame: u64,
    begun: u64,
    held: usize,
    given_up: u64,
}

impl Fragments {
    /// Another frame of the capture; gives up what has waited for too long.
    pub(super) fn next_frame(&mut self) {
        self.frame += 1;
        while let Some(&(_, frame, _)) = self.order.front()
            && (frame + KEPT < self.frame || self.held > HELD_MAX)
        {
            self.give_up_oldest();
        }
    }

    /// Adds a fragment; gives the protocol and the bytes of a packet that it makes whole.
    ///
    /// # Errors
    /// [`Unread::Overlap`], once for each packet, which is dropped as a receiver drops it.
    pub(super) fn add(
        &mut self,
        key: Key,
        fragment: Fragment<'_>,
    ) -> Result<Option<(u8, Vec<u8>)>, Unread> {
        if !self.partial.contains_key(&key) {
            self.begun += 1;
            self.order.push_back((key, self.frame, self.begun));
            self.partial.insert(key, Partial::new(self.begun));
        }
        let Some(partial) = self.partial.get_mut(&key) else { return Ok(None) };
        if partial.broken {
            return Ok(None);
        }
        let before = partial.bytes.len();
        let added = partial.add(fragment);
        if added.is_err() {
            partial.broken = true;
            partial.bytes = Vec::new();
        }
        self.held = self.held - before + partial.bytes.len();
        added?;
        if partial.end != Some(partial.sum) {
            return Ok(None);
        }
        let Some(partial) = self.partial.remove(&key) else { return Ok(None) };
        self.held -= partial.bytes.len();
        Ok(Some((partial.kind, partial.bytes)))
    }

    /// How many packets never became whole.
    pub(super) fn finish(&mut self) -> u64 {
        while !self.order.is_empty() {
            self.give_up_oldest();
        }
        self.given_up
    }

    fn give_up_oldest(&mut self) {
        let Some((key, _, number)) = self.order.pop_front() else { return };
        if self.partial.get(&key).is_some_and(|partial| partial.number == number)
            && let Some(partial) = self.partial.remove(&key)
        {
            self.held -= partial.bytes.len();
            self.given_up += u64::from(!partial.broken);
        }
    }
}

impl Partial {
    fn new(number: u64) -> Self {
        let (bytes, came) = (Vec::new(), BTreeMap::new());
        Self { number, kind: 0, bytes, came, sum: 0, end: None, broken: false }
    }

    fn add(&mut self, fragment: Fragment<'_>) -> Result<(), Unread> {
        let Fragment { kind, offset, more, bytes } = fragment;
        let end = offset + bytes.len();
        let is_whole = !more || bytes.len().is_multiple_of(8);
        if !is_whole || end > LENGTH_MAX || bytes.is_empty() {
            return Err(Unread::Overlap);
        }
        // The same fragment again is no contradiction (RFC 8200 §4.5): a capture on two interfaces
        // has each twice.
        if self.came.get(&offset) == Some(&end)
            && self.bytes.get(offset..end) == Some(bytes)
            && (more || self.end == Some(end))
        {
            return Ok(());
        }
        let before = self.came.range(..end).next_back();
        if before.is_some_and(|(_, &known_end)| known_end > offset) {
            return Err(Unread::Overlap);
        }
        if !more {
            let is_last = self.came.last_key_value().is_none_or(|(_, &last)| last <= end);
            if self.end.is_some() || !is_last {
                return Err(Unread::Overlap);
            }
            self.end = Some(end);
        } else if self.end.is_some_and(|known| end > known) {
            return Err(Unread::Overlap);
        }
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        if let Some(room) = self.bytes.get_mut(offset..end) {
            room.copy_from_slice(bytes);
        }
        if offset == 0 {
            self.kind = kind;
        }
        self.came.insert(offset, end);
        self.sum += bytes.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const KEY: Key = Key {
        from: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        to: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        id: 7,
        kind: None,
    };

    fn add(
        to: &mut Fragments,
        offset: usize,
        bytes: &[u8],
        more: bool,
    ) -> Result<Option<(u8, Vec<u8>)>, Unread> {
        to.next_frame();
        let kind = if offset == 0 { 6 } else { 0 };
        to.add(KEY, Fragment { kind, offset, more, bytes })
    }

    #[test]
    fn fragments_in_any_order_and_twice_are_one_packet() {
        let mut fragments = Fragments::default();
        assert_eq!(add(&mut fragments, 8, b"second.!", true), Ok(None));
        assert_eq!(add(&mut fragments, 16, b"end", false), Ok(None));
        assert_eq!(add(&mut fragments, 8, b"second.!", true), Ok(None));
        assert_eq!(add(&mut fragments, 16, b"end", false), Ok(None));
        let whole = (6, b"first..!second.!end".to_vec());
        assert_eq!(add(&mut fragments, 0, b"first..!", true), Ok(Some(whole)));
        assert_eq!(fragments.finish(), 0);
    }

    #[test]
    fn a_packet_whose_fragments_overlap_is_dropped_with_all_that_come() {
        // RFC 5722: what came, and what comes, though it would make the packet whole.
        for (offset, bytes, more) in [
            (8, &b"8bytes.."[..], true), // the same place, other bytes
            (0, b"sixteen bytes...", true),
            (8, b"sixteen bytes...", true),
            (16, b"no multiple", true),
            (8, b"", true),
            (65_528, b"8bytes..", true),
        ] {
            let mut fragments = Fragments::default();
            assert_eq!(add(&mut fragments, 8, b"second.!", true), Ok(None));
            assert_eq!(add(&mut fragments, offset, bytes, more), Err(Unread::Overlap), "{offset}");
            assert_eq!(add(&mut fragments, 16, b"end", false), Ok(None));
            assert_eq!(add(&mut fragments, 0, b"first..!", true), Ok(None), "{offset}");
            assert_eq!(fragments.finish(), 0, "it was told once");
        }
    }

    #[test]
    fn two_ends_contradict_each_other() {
        for (offset, bytes) in [(24, &b"end"[..]), (0, b"end")] {
            let mut fragments = Fragments::default();
            assert_eq!(add(&mut fragments, 8, b"second.!", true), Ok(None));
            assert_eq!(add(&mut fragments, 16, b"end", false), Ok(None));
            assert_eq!(add(&mut fragments, offset, bytes, false), Err(Unread::Overlap));
        }
        let mut fragments = Fragments::default();
        assert_eq!(add(&mut fragments, 16, b"end", false), Ok(None));
        assert_eq!(add(&mut fragments, 24, b"behind..", true), Err(Unread::Overlap));
    }

    #[test]
    fn what_never_becomes_whole_is_counted_and_let_go_of() {
        let mut fragments = Fragments::default();
        assert_eq!(add(&mut fragments, 0, b"first..!", true), Ok(None));
        for _ in 0..=KEPT {
            fragments.next_frame();
        }
        assert_eq!((fragments.held, fragments.given_up), (0, 1));
        assert_eq!(add(&mut fragments, 8, b"too late", true), Ok(None));
        assert_eq!(fragments.finish(), 2);
    }
}
