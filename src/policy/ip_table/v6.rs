//! IPv6: each /16 is cut into as many buckets as it has ranges, and a bucket holds the few ranges
//! that begin in it, by the upper 64 bits of their first address.
//!
//! Allocations crowd into a few /16s (2a00::/12 holds half of a country table, and most /16s
//! nothing), so that an index of one width over all of them is either large or coarse. The few
//! ranges that begin within a /64 stand apart, in a list that is searched by the lower 64 bits.

use std::net::Ipv6Addr;

/// Marks a value that is the place of a /64's own list in [`V6Table::lists`].
const DEEP: u32 = 1 << 31;

/// The table of one family; values are below 2^31.
#[derive(Debug)]
pub(super) struct V6Table {
    /// One for each /16.
    tops: Box<[Top; 1 << 16]>,
    /// For each bucket, the first entry at or above its first address; one more at the end.
    buckets: Box<[u32]>,
    /// Ascending; the first begins at `::`.
    entries: Box<[Entry]>,
    /// For each /64 that is cut, where its list begins in `tails`; one more at the end.
    lists: Box<[u32]>,
    /// Lower 64 bits and value; each list begins at 0.
    tails: Box<[(u64, u32)]>,
}

/// A /16: its first bucket, and how many bits of the 48 that follow are no part of a bucket's number.
#[derive(Debug, Clone, Copy)]
struct Top {
    first: u32,
    shift: u32,
}

/// Where the value changes, by the upper 64 bits in two halves, so that an entry takes 12 bytes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Entry {
    low: u32,
    high: u32,
    value: u32,
}

impl Entry {
    fn new(start: u64, value: u32) -> Self {
        Self { low: start as u32, high: (start >> 32) as u32, value }
    }

    fn start(&self) -> u64 {
        u64::from(self.high) << 32 | u64::from(self.low)
    }
}

impl V6Table {
    /// Builds from the first address and value of each range, ascending; see [`super::IpTable`].
    pub(super) fn build(ranges: &[(u128, u32)]) -> Self {
        let (mut lists, mut tails) = (vec![0], Vec::new());
        let mut entries = vec![Entry::new(0, 0)];
        let mut value = 0;
        let mut ranges = ranges;
        while let Some(&(first, _)) = ranges.first() {
            let upper = (first >> 64) as u64;
            let own = ranges.partition_point(|&(start, _)| (start >> 64) as u64 <= upper);
            let (group, rest) = ranges.split_at(own.max(1));
            ranges = rest;
            let last = group.last().map_or(value, |&(_, last)| last);
            if group.iter().any(|&(start, _)| start as u64 != 0) {
                if first as u64 != 0 {
                    tails.push((0, value));
                }
                tails.extend(group.iter().map(|&(start, value)| (start as u64, value)));
                put(&mut entries, upper, DEEP | place(lists.len() - 1));
                lists.push(place(tails.len()));
                if let Some(next) = upper.checked_add(1) {
                    put(&mut entries, next, last);
                }
            } else {
                put(&mut entries, upper, last);
            }
            value = last;
        }
        let (tops, buckets) = index(&entries);
        Self { tops, buckets, entries: entries.into(), lists: lists.into(), tails: tails.into() }
    }

    pub(super) fn value(&self, address: Ipv6Addr) -> u32 {
        let bits = address.to_bits();
        let upper = (bits >> 64) as u64;
        let Some(top) = self.tops.get((upper >> 48) as usize) else { return 0 };
        let bucket = top.first as usize + ((upper & 0xffff_ffff_ffff) >> top.shift) as usize;
        let Some(&[from, to]) = self.buckets.get(bucket..bucket + 2) else { return 0 };
        let entries = self.entries.get(from as usize..to as usize).unwrap_or_default();
        let below = entries.partition_point(|entry| entry.start() <= upper);
        // An entry before the bucket covers its beginning: the first of all begins at `::`.
        let entry = (from as usize + below).checked_sub(1).and_then(|at| self.entries.get(at));
        let value = entry.map_or(0, |entry| entry.value);
        if value & DEEP == 0 { value } else { self.tail(value & !DEEP, bits as u64) }
    }

    #[cold]
    fn tail(&self, list: u32, lower: u64) -> u32 {
        let list = list as usize;
        let Some(&[from, to]) = self.lists.get(list..list + 2) else { return 0 };
        let tails = self.tails.get(from as usize..to as usize).unwrap_or_default();
        let below = tails.partition_point(|&(start, _)| start <= lower);
        below.checked_sub(1).and_then(|at| tails.get(at)).map_or(0, |&(_, value)| value)
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.tops)
            + size_of_val(&*self.buckets)
            + size_of_val(&*self.entries)
            + size_of_val(&*self.lists)
            + size_of_val(&*self.tails)
    }
}

/// Adds an entry; one of the same address is replaced, and one that changes nothing left out.
fn put(entries: &mut Vec<Entry>, start: u64, value: u32) {
    entries.pop_if(|last| last.start() == start);
    if entries.last().is_none_or(|last| last.value != value) {
        entries.push(Entry::new(start, value));
    }
}

/// Cuts each /16 into buckets, at least as many as it has entries.
fn index(entries: &[Entry]) -> (Box<[Top; 1 << 16]>, Box<[u32]>) {
    let mut tops = Box::new([Top { first: 0, shift: 48 }; 1 << 16]);
    let mut buckets = Vec::new();
    let mut from = 0;
    for (top, high) in tops.iter_mut().zip(0_u64..) {
        let rest = entries.get(from..).unwrap_or_default();
        let count = rest.partition_point(|entry| entry.start() >> 48 == high);
        let own = rest.get(..count).unwrap_or_default();
        let width = if count < 2 { 0 } else { (count.ilog2() + 2).min(24) };
        *top = Top { first: place(buckets.len()), shift: 48 - width };
        let mut at = 0;
        for bucket in 0..1_u64 << width {
            let begins = high << 48 | bucket << top.shift;
            while own.get(at).is_some_and(|entry| entry.start() < begins) {
                at += 1;
            }
            buckets.push(place(from + at));
        }
        from += count;
    }
    buckets.push(place(entries.len()));
    (tops, buckets.into())
}

/// Positions are below 2^31: there are at most two entries for each range, and the readers of tables hold the
/// number of ranges far below that.
fn place(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}
