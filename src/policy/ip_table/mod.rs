//! Address -> a small number: a class of addresses, or of clients.
//!
//! Built aside, never changed. Both families answer without a loop over the number of ranges;
//! how, say [`v4`] and [`v6`].

mod direct;
mod leaf;
mod nodes;
mod v4;
mod v6;

use std::net::IpAddr;

use v4::V4Table;
use v6::V6Table;

/// What a table is built for (`[data] memory`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Memory {
    /// The shortest look-up: 32 MiB for IPv4 and 0.5 KiB for each /24 that is cut, twice as much
    /// where 16 bits do not tell all classes apart; as [`Memory::Compact`] where more than 65,536
    /// /24s are cut.
    #[default]
    Fast,
    /// The smallest table.
    Compact,
}

/// An immutable table over the whole of both address families.
#[derive(Debug)]
pub struct IpTable {
    v4: V4Table,
    v6: V6Table,
}

impl IpTable {
    /// Builds from the first address and value (below 2^31) of each range, ascending; a range ends
    /// where the next begins. What lies before the first range has the value 0. A table of few
    /// ranges is small, whatever `memory` says.
    #[must_use]
    pub fn build(v4: &[(u32, u32)], v6: &[(u128, u32)], memory: Memory) -> Self {
        Self { v4: V4Table::build(v4, memory), v6: V6Table::build(v6) }
    }

    /// As [`IpTable::build`], at less memory: the ranges of a family go as soon as its table stands,
    /// and the larger table comes last.
    #[must_use]
    pub fn build_from(v4: Vec<(u32, u32)>, v6: Vec<(u128, u32)>, memory: Memory) -> Self {
        let table = V6Table::build(&v6);
        drop(v6);
        Self { v4: V4Table::build(&v4, memory), v6: table }
    }

    /// The same table with another form of IPv4.
    #[must_use]
    pub fn with_v4(&self, v4: &[(u32, u32)], memory: Memory) -> Self {
        Self { v4: V4Table::build(v4, memory), v6: self.v6.clone() }
    }

    /// The value of the range that holds `address`.
    #[must_use]
    #[inline]
    pub fn value(&self, address: IpAddr) -> u32 {
        match address {
            IpAddr::V4(v4) => self.v4.value(v4),
            IpAddr::V6(v6) => self.v6.value(v6),
        }
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.v4.bytes() + self.v6.bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::direct::Direct;
    use super::nodes::Nodes;
    use super::*;

    /// Every form in which the ranges can be held.
    fn forms(v4: &[(u32, u32)], v6: &[(u128, u32)]) -> Vec<IpTable> {
        let direct = || Direct::build(v4).map(V4Table::Direct);
        let forms = [
            Some(V4Table::nodes(v4)),
            Nodes::build(v4).map(V4Table::NodesWide),
            direct(),
            Direct::build(v4).map(V4Table::DirectWide),
        ];
        let forms = forms.into_iter().flatten();
        forms.map(|v4| IpTable { v4, v6: V6Table::build(v6) }).collect()
    }

    fn scan<A: PartialOrd>(ranges: &[(A, u32)], address: A) -> u32 {
        ranges.iter().take_while(|(start, _)| *start <= address).last().map_or(0, |&(_, v)| v)
    }

    /// At every edge and one step to each side.
    fn agrees(v4: &[(u32, u32)], v6: &[(u128, u32)]) {
        for table in forms(v4, v6) {
            for (start, at) in v4
                .iter()
                .flat_map(|&(at, _)| [at.wrapping_sub(1), at, at.wrapping_add(1)])
                .map(|at| (at, Ipv4Addr::from_bits(at)))
            {
                assert_eq!(table.value(at.into()), scan(v4, start), "{at}");
            }
            for (start, at) in v6
                .iter()
                .flat_map(|&(at, _)| [at.wrapping_sub(1), at, at.wrapping_add(1)])
                .map(|at| (at, Ipv6Addr::from_bits(at)))
            {
                assert_eq!(table.value(at.into()), scan(v6, start), "{at}");
            }
        }
    }

    proptest! {
        // A tenth of what is set: each case fills tables of 32 and 64 MiB.
        #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.div_ceil(10)))]

        /// Over ranges that share /16s and /24s and that do not.
        #[test]
        fn every_form_agrees_with_a_linear_scan(
            v4 in prop::collection::btree_map(
                prop_oneof![any::<u32>(), 0x0a00_0000_u32..0x0a02_0000, 0x0a00_0000_u32..0x0a00_0100,
                            Just(0), Just(u32::MAX)],
                1_u32..9, 0..200),
            v6 in prop::collection::btree_map(
                prop_oneof![any::<u128>(), (0_u128..1 << 20).prop_map(|low| low + (0x2a01 << 112)),
                            (0_u128..1 << 12).prop_map(|upper| (upper + (0x2a01 << 48)) << 64),
                            (0_u128..1 << 6).prop_map(|upper| (upper << 60) + (0x2a02 << 112)),
                            Just(0), Just(u128::MAX)],
                1_u32..9, 0..200),
        ) {
            agrees(&v4.into_iter().collect::<Vec<_>>(), &v6.into_iter().collect::<Vec<_>>());
        }
    }

    /// As many ranges as make the large index of IPv4, crowded and sparse, and values that 16 bits
    /// hold and do not hold.
    #[test]
    fn a_large_table_agrees_with_its_ranges_at_every_edge() {
        for factor in [1, 3_000, 7_000, 0x0800_0000] {
            let v4: Vec<(u32, u32)> = (0..40_000_u32)
                .map(|n| (n / 300 * 0x0101_0000 + n % 300 * (1 + n % 7), (1 + n % 11) * factor))
                .collect::<BTreeMap<_, _>>()
                .into_iter()
                .collect();
            let upper = |n: u128| ((0x2a00 << 48) + ((n / 700) << 32) + n % 700 * 0x3_0001) << 64;
            let v6: Vec<(u128, u32)> = (0..40_000_u128)
                .map(|n| (upper(n), (1 + (n % 11) as u32) * factor))
                .collect::<BTreeMap<_, _>>()
                .into_iter()
                .collect();
            let mut tables = forms(&v4, &v6);
            tables.extend([Memory::Fast, Memory::Compact].map(|m| IpTable::build(&v4, &v6, m)));
            for table in tables {
                let at = |bits: u32| table.value(Ipv4Addr::from_bits(bits).into());
                let before = [0].into_iter().chain(v4.iter().map(|range| range.1));
                for (&(start, value), before) in v4.iter().zip(before) {
                    assert_eq!(at(start), value);
                    assert_eq!(start.checked_sub(1).map_or(before, at), before);
                }
                let at = |bits: u128| table.value(Ipv6Addr::from_bits(bits).into());
                let before = [0].into_iter().chain(v6.iter().map(|range| range.1));
                for (&(start, value), before) in v6.iter().zip(before) {
                    assert_eq!(at(start), value);
                    assert_eq!(start.checked_sub(1).map_or(before, at), before);
                }
            }
        }
    }

    /// The largest value that a leaf of 16 bits can stand beside the blocks or nodes that there are,
    /// and one more.
    #[test]
    fn a_leaf_that_is_too_narrow_is_told_and_never_cut_off() {
        // One /24 is cut.
        let ranges = |value| [(0, 1), (0x0a00_0001, value), (0x0a00_0003, 2)];
        assert!(Direct::<u16>::build(&ranges(0xfffe)).is_some());
        assert!(Direct::<u16>::build(&ranges(0xffff)).is_none());
        assert!(Nodes::<u16>::build(&ranges(0x7fff)).is_some());
        assert!(Nodes::<u16>::build(&ranges(0x8000)).is_none());
        for value in [0x7fff, 0x8000, 0xfffe, 0xffff, 0x1_0000, (1 << 31) - 1] {
            agrees(&ranges(value), &[]);
            for table in [V4Table::direct(&ranges(value)), V4Table::nodes(&ranges(value))] {
                assert_eq!(table.value(Ipv4Addr::from_bits(0x0a00_0002)), value);
            }
        }
    }

    /// Each /24 cut: the direct form would take gigabytes.
    #[test]
    fn a_table_that_cuts_more_than_it_may_is_made_of_nodes() {
        let ranges = |count: u32| -> Vec<(u32, u32)> {
            (0..count).map(|n| (0x0a00_0080 + (n << 8), 1 + n % 5)).collect()
        };
        let fast = |count| V4Table::build(&ranges(count), Memory::Fast);
        // With 65,536 blocks sixteen bits are too few for block and value.
        assert!(matches!(fast(65_530), V4Table::Direct(_)));
        assert!(matches!(fast(65_536), V4Table::DirectWide(_)));
        assert!(matches!(fast(65_537), V4Table::Nodes(_)));
        assert!(fast(200_000).bytes() < 32 << 20);
    }

    #[test]
    fn an_empty_table_knows_nothing() {
        let table = IpTable::build(&[], &[], Memory::Fast);
        assert_eq!(table.value("192.0.2.1".parse().unwrap()), 0);
        assert_eq!(table.value("2001:db8::1".parse().unwrap()), 0);
    }
}
