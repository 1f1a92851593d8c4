//! IPv6: a tree over the upper 64 bits whose nodes are as wide as they are full, down to blocks in
//! which at most eight ranges begin.
//!
//! Allocations crowd: of a country table, half lies in 2a00::/12, and single /32s are cut into
//! thousands of /48s, so that an index of one width is either large or coarse (with one index for
//! each /16 some blocks held thousands of ranges). The ranges that begin within a /64, few if any,
//! stand apart and are searched by the lower 64 bits.

use std::net::Ipv6Addr;

/// Marks a value that is the place of a /64's own list in [`V6Table::lists`].
const DEEP: u32 = 1 << 31;

/// Entries that a block is searched for without being cut further.
const FEW: usize = 8;

/// The table of one family; values are below 2^31.
#[derive(Debug, Clone)]
pub(super) struct V6Table {
    /// The first is the root.
    blocks: Box<[Block]>,
    /// Ascending; the first begins at `::`.
    entries: Box<[Entry]>,
    /// For each /64 that is cut, where its list begins in `tails`; one more at the end.
    lists: Box<[u32]>,
    /// Lower 64 bits and value; each list begins at 0.
    tails: Box<[(u64, u32)]>,
}

/// A block of addresses.
#[derive(Debug, Clone, Copy)]
struct Block {
    /// The first entry that begins in it; where it is cut (`width` is not 0), the first of its
    /// `1 << width` parts in [`V6Table::blocks`].
    at: u32,
    /// How many entries begin in it, where it is not cut.
    entries: u16,
    width: u8,
    /// The bits of an address, of 64, that are below those that number the parts.
    shift: u8,
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
    const fn new(start: u64, value: u32) -> Self {
        Self { low: start as u32, high: (start >> 32) as u32, value }
    }

    const fn start(&self) -> u64 {
        (self.high as u64) << 32 | self.low as u64
    }
}

impl V6Table {
    /// Builds from the first address and value of each range, ascending; see [`super::IpTable`].
    pub(super) fn build(ranges: &[(u128, u32)]) -> Self {
        let (mut lists, mut tails) = (vec![0], Vec::new());
        let mut entries = Vec::with_capacity(ranges.len() + 1);
        entries.push(Entry::new(0, 0));
        let mut value = 0;
        for group in ranges.chunk_by(|a, b| a.0 >> 64 == b.0 >> 64) {
            let (Some(&(first, _)), Some(&(_, last))) = (group.first(), group.last()) else {
                continue;
            };
            let upper = (first >> 64) as u64;
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
        Self {
            blocks: blocks(&entries).into(),
            entries: entries.into(),
            lists: lists.into(),
            tails: tails.into(),
        }
    }

    #[inline]
    pub(super) fn value(&self, address: Ipv6Addr) -> u32 {
        let bits = address.to_bits();
        let upper = (bits >> 64) as u64;
        let Some(mut block) = self.blocks.first() else { return 0 };
        while block.width != 0 {
            let part = upper >> block.shift & ((1 << block.width) - 1);
            let Some(part) = self.blocks.get(block.at as usize + part as usize) else { return 0 };
            block = part;
        }
        let from = block.at as usize;
        let own = self.entries.get(from..from + usize::from(block.entries)).unwrap_or_default();
        let begun = own.iter().filter(|entry| entry.start() <= upper).count();
        // What begins before the block holds at its beginning; the first entry begins at `::`.
        let entry = (from + begun).checked_sub(1).and_then(|at| self.entries.get(at));
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
        size_of_val(&*self.blocks)
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

/// The tree over the entries.
fn blocks(entries: &[Entry]) -> Vec<Block> {
    // A block, its entries, and the bits that number the addresses in it.
    let mut blocks = vec![Block { at: 0, entries: 0, width: 0, shift: 0 }];
    let mut open = vec![(0, 0..entries.len(), u64::BITS)];
    while let Some((block, own, bits)) = open.pop() {
        let block: usize = block;
        if own.len() <= FEW || bits == 0 {
            // With no bit left there is one entry at most.
            let count = u16::try_from(own.len()).unwrap_or(u16::MAX);
            blocks[block] = Block { at: place(own.start), entries: count, width: 0, shift: 0 };
            continue;
        }
        // The first sixteen bits say least where much is: from there on, a part for two entries.
        let width = if bits == u64::BITS { 16 } else { own.len().ilog2().max(3) }.min(bits);
        let shift = bits - width;
        let first = blocks.len();
        // At most 64 each.
        blocks[block] =
            Block { at: place(first), entries: 0, width: width as u8, shift: shift as u8 };
        let mut from = own.start;
        for part in 0..1_u64 << width {
            blocks.push(Block { at: 0, entries: 0, width: 0, shift: 0 });
            let rest = entries.get(from..own.end).unwrap_or_default();
            let inside = |entry: &&Entry| entry.start() >> shift & ((1 << width) - 1) == part;
            let to = from + rest.iter().take_while(inside).count();
            open.push((blocks.len() - 1, from..to, shift));
            from = to;
        }
    }
    blocks
}

/// Places are below 2^31: there are at most two entries and three blocks for each range, and the
/// readers of tables hold the number of ranges far below that.
fn place(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}
