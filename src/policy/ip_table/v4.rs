//! IPv4: one of two forms ([`direct`](super::direct), [`nodes`](super::nodes)), each with leaves of
//! 16 bits where values and blocks fit them, else of 32.
//!
//! Measured on the embedded country table (334,281 ranges), each range as likely as the next, and on
//! 512 hot addresses (AMD EPYC, 2 cores, some 5 MiB of the last cache for this machine, 120 ns to
//! memory; ns a look-up, the better of two runs; MiB):
//!
//! | form | random | hot | memory |
//! |---|---|---|---|
//! | entry for each /24, huge pages | 10.6 | 2.4 | 39.8 |
//! | the same, pages of 4 KiB | 12.2 | 2.5 | 39.8 |
//! | nodes of sixteen, leaves of 16 bits | 18.2 | 7.2 | 5.1 |
//! | nodes of sixteen, leaves of 32 bits, one base | 21.3 | 5.9 | 9.8 |
//!
//! The first is `memory = "fast"`, the third `"compact"`. Memory, not work, bounds both: the first
//! wins although it is the larger, because its one load depends on nothing but the address. Tried
//! before and slower: a cache line with up to ten pieces of a /20 (29 ns where the fourth took 23),
//! and blocks of 64 bits that say where the value changes (24).

use std::net::Ipv4Addr;

use super::Memory;
use super::direct::Direct;
use super::nodes::Nodes;

/// Ranges from which on a direct index pays for its 32 MiB.
const MANY: usize = 1 << 14;

/// The table of one family; values are below 2^31.
#[derive(Debug)]
pub(super) enum V4Table {
    Direct(Direct<u16>),
    DirectWide(Direct<u32>),
    Nodes(Nodes<u16>),
    NodesWide(Nodes<u32>),
}

impl V4Table {
    /// Builds from the first address and value of each range, ascending; see [`super::IpTable`].
    pub(super) fn build(ranges: &[(u32, u32)], memory: Memory) -> Self {
        let direct = memory == Memory::Fast && ranges.len() >= MANY;
        if direct { Self::direct(ranges) } else { Self::nodes(ranges) }
    }

    /// The direct form, or the nodes where it would be too large.
    pub(super) fn direct(ranges: &[(u32, u32)]) -> Self {
        let narrow = Direct::build(ranges).map(Self::Direct);
        let table = narrow.or_else(|| Direct::build(ranges).map(Self::DirectWide));
        table.unwrap_or_else(|| Self::nodes(ranges))
    }

    pub(super) fn nodes(ranges: &[(u32, u32)]) -> Self {
        let narrow = Nodes::build(ranges).map(Self::Nodes);
        let table = narrow.or_else(|| Nodes::build(ranges).map(Self::NodesWide));
        // Leaves of 32 bits have room for all that there can be: values are below 2^31, and nodes are
        // at most five for each range, of which the readers of tables allow far fewer.
        table.unwrap_or_else(|| Self::Nodes(Nodes::default()))
    }

    #[inline]
    pub(super) fn value(&self, address: Ipv4Addr) -> u32 {
        let address = address.to_bits();
        match self {
            Self::Direct(table) => table.value(address),
            Self::DirectWide(table) => table.value(address),
            Self::Nodes(table) => table.value(address),
            Self::NodesWide(table) => table.value(address),
        }
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Direct(table) => table.bytes(),
            Self::DirectWide(table) => table.bytes(),
            Self::Nodes(table) => table.bytes(),
            Self::NodesWide(table) => table.bytes(),
        }
    }
}
