//! Address -> a small number, by sorted ranges under a direct index.
//!
//! IPv4: the upper 16 bits index into the ranges that begin in that /16, whose lower 16 bits are
//! then searched: 2 + 4 bytes a range and 256 KiB of index. IPv6: the same over the upper 32 bits
//! by a sorted list, then the full address. Built aside, never changed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An immutable table over the whole of both address families.
#[derive(Debug)]
pub(super) struct IpTable {
    v4: V4Table,
    v6: V6Table,
}

#[derive(Debug)]
struct V4Table {
    /// For each /16, where its ranges begin in `lows` and `values`; one entry more at the end.
    index: Box<[u32]>,
    /// Lower 16 bits of each range's first address; each /16 begins with one at 0.
    lows: Box<[u16]>,
    values: Box<[u32]>,
}

#[derive(Debug)]
struct V6Table {
    starts: Box<[u128]>,
    values: Box<[u32]>,
    /// For each value of the upper 16 bits, the first range that begins at or above it.
    index: Box<[u32]>,
}

impl IpTable {
    /// Builds from the first address and value of each range, ascending; a range ends where the
    /// next begins. What lies before the first range has the value 0.
    pub(super) fn build(v4: &[(u32, u32)], v6: &[(u128, u32)]) -> Self {
        Self { v4: V4Table::build(v4), v6: V6Table::build(v6) }
    }

    pub(super) fn value(&self, address: IpAddr) -> u32 {
        match address {
            IpAddr::V4(v4) => self.v4.value(v4),
            IpAddr::V6(v6) => self.v6.value(v6),
        }
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        let V4Table { index, lows, values } = &self.v4;
        size_of_val(&**index)
            + size_of_val(&**lows)
            + size_of_val(&**values)
            + size_of_val(&*self.v6.starts)
            + size_of_val(&*self.v6.values)
            + size_of_val(&*self.v6.index)
    }
}

impl V4Table {
    fn build(ranges: &[(u32, u32)]) -> Self {
        let (mut lows, mut values) = (Vec::new(), Vec::new());
        let mut index = Vec::with_capacity(65_537);
        let mut ranges = ranges.iter().copied().peekable();
        let mut current = 0;
        for high in 0..65_536_u32 {
            index.push(u32::try_from(lows.len()).unwrap_or(u32::MAX));
            let mut begins = Some(0_u16);
            while let Some((start, value)) = ranges.next_if(|&(start, _)| start >> 16 == high) {
                let low = (start & 0xffff) as u16;
                if let Some(first) = begins.take().filter(|_| low != 0) {
                    lows.push(first);
                    values.push(current);
                }
                lows.push(low);
                values.push(value);
                current = value;
            }
            if let Some(first) = begins {
                lows.push(first);
                values.push(current);
            }
        }
        index.push(u32::try_from(lows.len()).unwrap_or(u32::MAX));
        Self { index: index.into(), lows: lows.into(), values: values.into() }
    }

    fn value(&self, address: Ipv4Addr) -> u32 {
        let bits = address.to_bits();
        let high = (bits >> 16) as usize;
        let Some(&[from, to]) = self.index.get(high..high + 2) else { return 0 };
        let lows = self.lows.get(from as usize..to as usize).unwrap_or_default();
        let below = lows.partition_point(|&low| low <= (bits & 0xffff) as u16);
        self.values.get(from as usize + below - 1).copied().unwrap_or(0)
    }
}

impl V6Table {
    fn build(ranges: &[(u128, u32)]) -> Self {
        let starts: Box<[u128]> = ranges.iter().map(|&(start, _)| start).collect();
        let at = |high: u32| starts.partition_point(|&start| start < u128::from(high) << 112);
        let index = (0..=65_536)
            .map(|high| if high == 65_536 { starts.len() } else { at(high) })
            .map(|at| u32::try_from(at).unwrap_or(u32::MAX))
            .collect();
        Self { values: ranges.iter().map(|&(_, value)| value).collect(), index, starts }
    }

    fn value(&self, address: Ipv6Addr) -> u32 {
        let bits = address.to_bits();
        let high = (bits >> 112) as usize;
        let Some(&[from, to]) = self.index.get(high..high + 2) else { return 0 };
        let starts = self.starts.get(from as usize..to as usize).unwrap_or_default();
        let below = from as usize + starts.partition_point(|&start| start <= bits);
        below.checked_sub(1).and_then(|at| self.values.get(at)).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
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
                prop_oneof![any::<u32>(), 0x0a00_0000_u32..0x0a02_0000, Just(0), Just(u32::MAX)],
                1_u32..9, 0..200),
            v6 in prop::collection::btree_map(
                prop_oneof![any::<u128>(), (0_u128..1 << 20).prop_map(|low| low + (0x2a01 << 112)),
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

    #[test]
    fn an_empty_table_knows_nothing() {
        let table = IpTable::build(&[], &[]);
        assert_eq!(table.value("192.0.2.1".parse().unwrap()), 0);
        assert_eq!(table.value("2001:db8::1".parse().unwrap()), 0);
    }
}
