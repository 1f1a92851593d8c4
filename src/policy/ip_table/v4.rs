//! IPv4: a leaf for each /20, and below it nodes of sixteen leaves, one cache line each.
//!
//! A look-up is one load where the value is the same all over the /20, two where it is the same
//! over each /24, at most four, and never a search. With the embedded tables, 4 MiB of /20s and
//! some 7 MiB of nodes. Tried on the same questions (the ranges of the embedded country table, each
//! as likely as the next): blocks of 64 bits that say where the value changes, with the leaves
//! behind them, are half as large and take half as long again, since ranks must be counted without
//! the POPCNT instruction that not every x86-64 has; sorted starts under an index of /16s take
//! three times as long.

use std::net::Ipv4Addr;

/// Marks a leaf that is no value but the place of a node.
const NODE: u32 = 1 << 31;

/// The table of one family; values are below 2^31.
#[derive(Debug)]
pub(super) struct V4Table {
    /// One for each /20.
    tops: Box<[u32; 1 << 20]>,
    nodes: Box<[Node]>,
}

/// The leaves of sixteen blocks of addresses, in order.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Node([u32; 16]);

impl V4Table {
    /// Builds from the first address and value of each range, ascending; see [`super::IpTable`].
    pub(super) fn build(ranges: &[(u32, u32)]) -> Self {
        let mut walk = Walk { ranges, at: 0, value: 0, nodes: Vec::new() };
        let mut tops = Box::new([0; 1 << 20]);
        for (top, begins) in tops.iter_mut().zip((0..=u32::MAX).step_by(1 << 12)) {
            *top = walk.leaf(begins, 12);
        }
        Self { tops, nodes: walk.nodes.into() }
    }

    #[inline]
    pub(super) fn value(&self, address: Ipv4Addr) -> u32 {
        let bits = address.to_bits();
        let mut leaf = self.tops.get((bits >> 12) as usize).copied().unwrap_or(0);
        for shift in [8, 4, 0] {
            if leaf & NODE == 0 {
                break;
            }
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
        let node = std::array::from_fn(|slot| self.leaf(begins + ((slot as u32) << width), width));
        // Neighbours of one value may make a node that says nothing.
        if node.iter().all(|&leaf| leaf == node[0]) {
            return node[0];
        }
        self.nodes.push(Node(node));
        // At most three for each range, whose number the readers of tables hold far below 2^29.
        NODE | u32::try_from(self.nodes.len() - 1).unwrap_or(!NODE)
    }
}
