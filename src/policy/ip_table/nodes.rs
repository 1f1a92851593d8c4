//! IPv4, compact: a leaf for each /20, and below it nodes of sixteen leaves.
//!
//! A look-up is one load where the value is the same all over the /20, three where it is the same
//! over each /24, at most five, and never a search. A leaf of sixteen bits is enough to name a node
//! because nodes are counted from the first of their /16 (which has at most 4,369). A small table
//! (the clients of a policy) has an index of /12s instead, 10 KiB.

use super::leaf::{Leaf, Walk};
use crate::policy::huge_pages::zeroed;

/// Ranges from which on the index is of /20s; below, of /12s.
const LARGE: usize = 1 << 14;

/// Bits that number the leaves of a node, and the leaves of the index that share a base.
const STEP: u32 = 4;

/// The leaves of the sixteen parts of a block, in order.
type Node<L> = [L; 1 << STEP];

/// The table of one width of leaves. The upper half of the numbers of a leaf names nodes.
#[derive(Debug, Default)]
pub(super) struct Nodes<L> {
    /// A leaf for each block of the index.
    tops: Box<[L]>,
    /// For each sixteen of them, where their nodes begin.
    bases: Box<[u32]>,
    /// Bits of an address that are no part of a block's number in the index.
    shift: u32,
    nodes: Box<[Node<L>]>,
}

/// The first number of a leaf that names a node.
const fn first_node<L: Leaf>() -> u32 {
    L::MAX / 2 + 1
}

impl<L: Leaf> Nodes<L> {
    /// Builds from the first address and value of each range, ascending; [`None`] where a value or
    /// the number of a node does not fit a leaf of this width.
    pub(super) fn build(ranges: &[(u32, u32)]) -> Option<Self> {
        let shift = if ranges.len() < LARGE { 20 } else { 12 };
        let count = 1_u32 << (u32::BITS - shift);
        let mut build = Build { walk: Walk::new(ranges), nodes: Vec::new(), base: 0 };
        let mut tops = zeroed::<L>(count as usize);
        let mut bases = Vec::with_capacity((count >> STEP) as usize);
        for (leaf, top) in tops.iter_mut().zip(0..count) {
            if top & ((1 << STEP) - 1) == 0 {
                build.base = build.nodes.len();
                bases.push(u32::try_from(build.base).ok()?);
            }
            *leaf = build.leaf(top << shift, shift)?;
        }
        let mut nodes = zeroed::<Node<L>>(build.nodes.len());
        nodes.copy_from_slice(&build.nodes);
        Some(Self { tops, bases: bases.into(), shift, nodes })
    }

    #[inline]
    pub(super) fn value(&self, address: u32) -> u32 {
        let mut shift = self.shift;
        let top = self.tops.get((address >> shift) as usize);
        let mut leaf = top.map_or(0, |top| top.number());
        let base = self.bases.get((address >> (shift + STEP)) as usize).copied().unwrap_or(0);
        while let Some(node) = leaf.checked_sub(first_node::<L>()) {
            // A node of single addresses holds values only.
            shift = shift.saturating_sub(STEP);
            let part = (address >> shift) as usize & ((1 << STEP) - 1);
            let node = self.nodes.get(base as usize + node as usize);
            leaf = node.and_then(|node| node.get(part)).map_or(0, |part| part.number());
        }
        leaf
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.tops) + size_of_val(&*self.bases) + size_of_val(&*self.nodes)
    }
}

struct Build<'a, L> {
    walk: Walk<'a>,
    nodes: Vec<Node<L>>,
    /// The first node of the leaves that share a base.
    base: usize,
}

impl<L: Leaf> Build<'_, L> {
    /// The leaf of the `1 << width` addresses from `begins` on.
    fn leaf(&mut self, begins: u32, width: u32) -> Option<L> {
        let value = self.walk.value_at(begins);
        let last = begins + ((1 << width) - 1);
        if !self.walk.starts_by(last) {
            return L::new(value).filter(|_| value < first_node::<L>());
        }
        // Of a single address nothing can lie ahead.
        let width = width.checked_sub(STEP)?;
        let mut node = Node::<L>::default();
        for (leaf, part) in node.iter_mut().zip(0..) {
            *leaf = self.leaf(begins + (part << width), width)?;
        }
        // Neighbours of one value may make a node that says nothing.
        let [first, ..] = node;
        if node.iter().all(|&leaf| leaf == first) {
            return Some(first);
        }
        self.nodes.push(node);
        let number = u32::try_from(self.nodes.len() - 1 - self.base).ok()?;
        L::new(first_node::<L>().checked_add(number)?)
    }
}
