//! IPv4, fast: an entry for each /24 (DIR-24-8: Gupta, Lin and McKeown, "Routing lookups in
//! hardware at memory access speeds", 1998), and a block of 256 values for each /24 that is cut.
//!
//! A look-up is one load, or two where the /24 is cut, of which the second waits for the first. No
//! loop and but one branch, so that look-ups that follow each other overlap: what one of them costs
//! in far memory is paid for many at once.

use super::leaf::{Leaf, Walk};
use crate::policy::huge_pages::zeroed;

/// /24s in the address space.
const ENTRIES: u32 = 1 << 24;

/// Addresses in a block.
const BLOCK: usize = 256;

/// Blocks that a table may have: as much memory as its entries take. A table that cuts nearly every
/// /24 would take gigabytes.
const BLOCKS_MAX: usize = ENTRIES as usize / BLOCK;

/// The table of one width of leaves.
#[derive(Debug)]
pub(super) struct Direct<L> {
    /// For each /24 a value, or [`Direct::first_block`] and the number of its block.
    entries: Box<[L]>,
    blocks: Box<[L]>,
    first_block: u32,
}

impl<L: Leaf> Direct<L> {
    /// Builds from the first address and value of each range, ascending; [`None`] where values and
    /// blocks are more than leaves of this width can tell apart, or the blocks too many.
    pub(super) fn build(ranges: &[(u32, u32)]) -> Option<Self> {
        let largest = ranges.iter().map(|&(_, value)| value).max().unwrap_or(0);
        let first_block = largest.checked_add(1)?;
        let cut = ranges.iter().map(|&(start, _)| start).filter(|start| start & 0xff != 0);
        let mut cut: Vec<u32> = cut.map(|start| start >> 8).collect();
        cut.dedup();
        let last_block = largest.checked_add(u32::try_from(cut.len()).ok()?)?;
        if last_block > L::MAX || cut.len() > BLOCKS_MAX {
            return None;
        }
        let mut entries = zeroed::<L>(ENTRIES as usize);
        let mut blocks = zeroed::<L>(cut.len() * BLOCK);
        let mut walk = Walk::new(ranges);
        let mut rest = blocks.chunks_exact_mut(BLOCK).zip(first_block..);
        let mut at = 0;
        while at < ENTRIES {
            let begins = at << 8;
            let value = walk.value_at(begins);
            if walk.starts_by(begins | 0xff) {
                let (block, number) = rest.next()?;
                for (value, low) in block.iter_mut().zip(0..) {
                    *value = L::new(walk.value_at(begins | low))?;
                }
                *entries.get_mut(at as usize)? = L::new(number)?;
                at += 1;
            } else {
                let end = walk.next_start().map_or(ENTRIES, |start| start >> 8);
                // Pages of zeros that nobody writes to take no memory: those of 224.0.0.0/3, since
                // the class of 0.0.0.0 is the first that is met.
                if value != 0 {
                    entries.get_mut(at as usize..end as usize)?.fill(L::new(value)?);
                }
                at = end;
            }
        }
        Some(Self { entries, blocks, first_block })
    }

    #[inline]
    pub(super) fn value(&self, address: u32) -> u32 {
        let entry = self.entries.get((address >> 8) as usize).map_or(0, |entry| entry.number());
        let Some(block) = entry.checked_sub(self.first_block) else { return entry };
        let at = block as usize * BLOCK + (address & 0xff) as usize;
        self.blocks.get(at).map_or(0, |value| value.number())
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.entries) + size_of_val(&*self.blocks)
    }
}
