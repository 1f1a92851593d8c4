//! Address -> a small number: a class of addresses, or of clients.
//!
//! Built aside, never changed. Both families answer without a loop over the number of ranges;
//! how, say [`v4`] and [`v6`].

mod v4;
mod v6;

use std::net::IpAddr;

use v4::V4Table;
use v6::V6Table;

/// An immutable table over the whole of both address families.
#[derive(Debug)]
pub struct IpTable {
    v4: V4Table,
    v6: V6Table,
}

impl IpTable {
    /// Builds from the first address and value (below 2^31) of each range, ascending; a range ends
    /// where the next begins. What lies before the first range has the value 0.
    #[must_use]
    pub fn build(v4: &[(u32, u32)], v6: &[(u128, u32)]) -> Self {
        Self { v4: V4Table::build(v4), v6: V6Table::build(v6) }
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
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn scan<A: PartialOrd>(ranges: &[(A, u32)], address: A) -> u32 {
        ranges.iter().take_while(|(start, _)| *start <= address).last().map_or(0, |&(_, v)| v)
    }

    proptest! {
        /// At every edge and one step to each side, over ranges that share /16s and that do not.
        #[test]
        fn the_table_agrees_with_a_linear_scan(
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
            let (v4, v6): (Vec<_>, Vec<_>) = (v4.into_iter().collect(), v6.into_iter().collect());
            let table = IpTable::build(&v4, &v6);
            for &(start, _) in &v4 {
                for at in [start.wrapping_sub(1), start, start.wrapping_add(1)] {
                    prop_assert_eq!(table.value(Ipv4Addr::from_bits(at).into()), scan(&v4, at));
                }
            }
            for &(start, _) in &v6 {
                for at in [start.wrapping_sub(1), start, start.wrapping_add(1)] {
                    prop_assert_eq!(table.value(Ipv6Addr::from_bits(at).into()), scan(&v6, at));
                }
            }
        }
    }

    /// As many ranges as make the large index of IPv4, crowded and sparse.
    #[test]
    fn a_large_table_agrees_with_its_ranges_at_every_edge() {
        let v4: Vec<(u32, u32)> = (0..40_000_u32)
            .map(|n| (n / 300 * 0x0101_0000 + n % 300 * (1 + n % 7), 1 + n % 11))
            .collect::<std::collections::BTreeMap<_, _>>()
            .into_iter()
            .collect();
        let v6: Vec<(u128, u32)> = (0..40_000_u128)
            .map(|n| {
                (
                    ((0x2a00 << 48) + ((n / 700) << 32) + n % 700 * 0x3_0001) << 64,
                    1 + (n % 11) as u32,
                )
            })
            .collect::<std::collections::BTreeMap<_, _>>()
            .into_iter()
            .collect();
        let table = IpTable::build(&v4, &v6);
        for (&(start, value), before) in
            v4.iter().zip([0].into_iter().chain(v4.iter().map(|r| r.1)))
        {
            let at = |bits: u32| table.value(Ipv4Addr::from_bits(bits).into());
            assert_eq!(at(start), value);
            assert_eq!(start.checked_sub(1).map_or(before, at), before);
        }
        for (&(start, value), before) in
            v6.iter().zip([0].into_iter().chain(v6.iter().map(|r| r.1)))
        {
            let at = |bits: u128| table.value(Ipv6Addr::from_bits(bits).into());
            assert_eq!(at(start), value);
            assert_eq!(start.checked_sub(1).map_or(before, at), before);
        }
    }

    #[test]
    fn an_empty_table_knows_nothing() {
        let table = IpTable::build(&[], &[]);
        assert_eq!(table.value("192.0.2.1".parse().unwrap()), 0);
        assert_eq!(table.value("2001:db8::1".parse().unwrap()), 0);
    }
}
