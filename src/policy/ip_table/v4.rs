//! IPv4: an index of blocks of addresses, and for each block that is cut one cache line with the
//! pieces of it; only where they are more than ten, sixteen smaller blocks.
//!
//! So a look-up is one load, or two, and never a search over ranges. The index is of /20s, or of
//! /12s where a table is small (the clients of a policy).

use std::net::Ipv4Addr;

/// A leaf below this is a value; from here on it is the place of a line, from [`NODE`] on of a node.
const LINE: u32 = 1 << 31;
const NODE: u32 = 3 << 30;

/// Ranges from which on the index is of /20s, 4 MiB; below, of /12s.
const LARGE: usize = 1 << 14;

/// Pieces in a line.
const PIECES: usize = 10;

/// The table of one family; values are below 2^31.
#[derive(Debug)]
pub(super) struct V4Table {
    /// A leaf for each block of the index.
    tops: Box<[u32]>,
    /// Bits of an address that are no part of a block's number in the index.
    shift: u32,
    nodes: Box<[Node]>,
    lines: Box<[Line]>,
}

/// The leaves of the sixteen parts of a block, in order.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Node([u32; 16]);

/// The pieces of a block of at most 2^15 addresses.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Line {
    values: [u32; PIECES],
    /// First address of each piece less that of the block, ascending from 0; `u16::MAX` behind the
    /// last.
    starts: [u16; PIECES],
}

impl V4Table {
    /// Builds from the first address and value of each range, ascending; see [`super::IpTable`].
    pub(super) fn build(ranges: &[(u32, u32)]) -> Self {
        let shift = if ranges.len() < LARGE { 20 } else { 12 };
        let mut walk = Walk { nodes: Vec::new(), lines: Vec::new() };
        let (mut rest, mut value) = (ranges, 0);
        let tops = (0..1_u32 << (32 - shift)).map(|top| {
            let begins = top << shift;
            let last = begins + ((1 << shift) - 1);
            let (own, behind) = rest.split_at(rest.partition_point_near(last));
            rest = behind;
            let leaf = walk.leaf(own, begins, shift, value);
            value = own.last().map_or(value, |&(_, last)| last);
            leaf
        });
        let tops = tops.collect();
        Self { tops, shift, nodes: walk.nodes.into(), lines: walk.lines.into() }
    }

    #[inline]
    pub(super) fn value(&self, address: Ipv4Addr) -> u32 {
        let bits = address.to_bits();
        let mut shift = self.shift;
        let mut leaf = self.tops.get((bits >> shift) as usize).copied().unwrap_or(0);
        while leaf >= NODE {
            shift -= 4;
            let node = self.nodes.get((leaf - NODE) as usize);
            leaf = node.map_or(0, |node| node.0[(bits >> shift & 15) as usize]);
        }
        if leaf < LINE {
            return leaf;
        }
        let Some(line) = self.lines.get((leaf - LINE) as usize) else { return 0 };
        let low = (bits & ((1 << shift) - 1)) as u16;
        // The first piece begins at 0. A count over all of them is a few vector instructions, and
        // no branch that could be foreseen wrongly.
        let begun: u16 = line.starts.iter().map(|&start| u16::from(start <= low)).sum();
        line.values.get(usize::from(begun) - 1).copied().unwrap_or(0)
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.tops) + size_of_val(&*self.nodes) + size_of_val(&*self.lines)
    }
}

/// How many of the first ranges begin at or below an address: few, so from the front.
trait Near {
    fn partition_point_near(&self, last: u32) -> usize;
}

impl Near for [(u32, u32)] {
    fn partition_point_near(&self, last: u32) -> usize {
        self.iter().take_while(|&&(start, _)| start <= last).count()
    }
}

/// What the leaves point to.
struct Walk {
    nodes: Vec<Node>,
    lines: Vec<Line>,
}

impl Walk {
    /// The leaf of the `1 << width` addresses from `begins` on; `own` are the ranges that begin
    /// there, and before the first of them the value is `before`.
    fn leaf(&mut self, own: &[(u32, u32)], begins: u32, width: u32, before: u32) -> u32 {
        let mut line = Line { values: [0; PIECES], starts: [u16::MAX; PIECES] };
        let mut pieces = 0;
        let mut last = None;
        let head = (begins, before);
        let head = Some(&head).filter(|_| own.first().is_none_or(|&(start, _)| start != begins));
        for &(start, value) in head.into_iter().chain(own) {
            if last == Some(value) {
                continue;
            }
            last = Some(value);
            if let Some((to, from)) = line.values.get_mut(pieces).zip(line.starts.get_mut(pieces)) {
                *to = value;
                *from = (start - begins) as u16;
            }
            pieces += 1;
        }
        if pieces <= 1 {
            return line.values[0];
        }
        if pieces <= PIECES && width < u16::BITS {
            self.lines.push(line);
            return LINE + place(self.lines.len() - 1);
        }
        let width = width - 4;
        let (mut rest, mut value) = (own, before);
        let node = std::array::from_fn(|part| {
            let begins = begins + ((part as u32) << width);
            let last = begins + ((1 << width) - 1);
            let (own, behind) = rest.split_at(rest.partition_point_near(last));
            rest = behind;
            let leaf = self.leaf(own, begins, width, value);
            value = own.last().map_or(value, |&(_, last)| last);
            leaf
        });
        self.nodes.push(Node(node));
        NODE + place(self.nodes.len() - 1)
    }
}

/// Places are below 2^30: a line or node is of two ranges at least, a range in at most five of
/// them, and the readers of tables hold the number of ranges far below that.
fn place(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}
