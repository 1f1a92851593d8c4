//! IPv4: a leaf for each /20, and below it nodes of sixteen leaves, one cache line each.
//!
//! A look-up is one load where the value is the same all over the /20, two where it is the same
//! over each /24, at most four, and never a search. A small table (the clients of a policy) has an
//! index of /12s instead, 16 KiB.
//!
//! Tried on the embedded country table, each of its ranges as likely as the next, and on 512 hot
//! addresses (AMD EPYC, two shared cores under load; one run a form, so that only large differences
//! count): this form 23 ns and 3.4 ns; a cache line with up to ten pieces of a /20 29 and 6.5; blocks
//! of 64 bits that say where the value changes, with the leaves behind them, 24 and 8.6, in half the
//! memory (ranks are counted without the POPCNT instruction, which not every x86-64 has). Huge pages
//! gained a fifth, for the peers as well. A flat index of /24s (64 MiB) was not tried.

use std::net::Ipv4Addr;

/// Marks a leaf that is no value but the place of a node.
const NODE: u32 = 1 << 31;

/// Ranges from which on the index is of /20s, 4 MiB; below, of /12s.
const LARGE: usize = 1 << 14;

/// The table of one family; values are below 2^31.
#[derive(Debug)]
pub(super) struct V4Table {
    /// A leaf for each block of the index.
    tops: Box<[u32]>,
    /// Bits of an address that are no part of a block's number in the index.
    shift: u32,
    nodes: Box<[Node]>,
}

/// The leaves of the sixteen parts of a block, in order.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Node([u32; 16]);

impl V4Table {
    /// Builds from the first address and value of each range, ascending; see [`super::IpTable`].
    pub(super) fn build(ranges: &[(u32, u32)]) -> Self {
        let shift = if ranges.len() < LARGE { 20 } else { 12 };
        let mut walk = Walk { ranges, at: 0, value: 0, nodes: Vec::new() };
        let tops = (0..1_u32 << (32 - shift)).map(|top| walk.leaf(top << shift, shift)).collect();
        Self { tops, shift, nodes: walk.nodes.into() }
    }

    #[inline]
    pub(super) fn value(&self, address: Ipv4Addr) -> u32 {
        let bits = address.to_bits();
        let mut shift = self.shift;
        let mut leaf = self.tops.get((bits >> shift) as usize).copied().unwrap_or(0);
        while leaf & NODE != 0 {
            // A node of single addresses holds values only.
            shift = shift.saturating_sub(4);
            let node = self.nodes.get((leaf & !NODE) as usize);
            leaf = node.map_or(0, |node| node.0[(bits >> shift & 15) as usize]);
        }
        leaf
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.tops) + size_of_val(&*self.nodes)
    }
}

/// The ranges, walked once from the first address to the last.
struct Walk<'a> {
    ranges: &'a [(u32, u32)],
    at: usize,
    /// The value at the address that the walk has reached.
    value: u32,
    nodes: Vec<Node>,
}

impl Walk<'_> {
    /// The leaf of the `1 << width` addresses from `begins` on.
    fn leaf(&mut self, begins: u32, width: u32) -> u32 {
        while let Some(&(_, value)) = self.ranges.get(self.at).filter(|next| next.0 <= begins) {
            self.value = value;
            self.at += 1;
        }
        let last = begins + ((1 << width) - 1);
        if self.ranges.get(self.at).is_none_or(|next| next.0 > last) {
            return self.value;
        }
        let Some(width) = width.checked_sub(4) else { return self.value };
        let node = std::array::from_fn(|part| self.leaf(begins + ((part as u32) << width), width));
        // Neighbours of one value may make a node that says nothing.
        if node.iter().all(|&leaf| leaf == node[0]) {
            return node[0];
        }
        self.nodes.push(Node(node));
        // At most five for each range, and the readers of tables hold the number of ranges far
        // below what 31 bits can name.
        NODE | u32::try_from(self.nodes.len() - 1).unwrap_or(!NODE)
    }
}
