//! Rows in any order, sorted, disjoint ranges out; and the one way to look an address up in them.

use std::net::IpAddr;
use std::path::Path;

use crate::control::data::model::{BadRow, DataFault, Ranges};

/// The most rows a table may have. The largest known free table has 0.7 million, a full city table
/// five; the limit bounds memory, not use.
pub(in crate::control::data) const MAX_ROWS: usize = 16 << 20;

/// A table that answers nothing is a mistake, not a table: what no row of it names.
#[derive(Debug, thiserror::Error)]
#[error("names no {0} in any row; is it another table?")]
struct Unanswering(String);

/// A table that answers nothing is a mistake, not a table.
pub(in crate::control::data) fn answering<V>(
    path: &Path,
    ranges: Ranges<V>,
    what: &str,
) -> Result<Ranges<V>, DataFault> {
    if ranges.is_empty() {
        return Err(DataFault::whole(path, Unanswering(what.to_owned())));
    }
    Ok(ranges)
}

/// What is wrong with the ranges of a table; each with the row that cannot stand.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeFault {
    /// There is no end to the table.
    #[error("more than {MAX_ROWS} rows; use a smaller table")]
    TooMany {
        /// The first row beyond the limit.
        row: u64,
    },
    /// The last address stands before the first.
    #[error("the range ends before it begins: {first} to {last}")]
    Reversed {
        /// The row.
        row: u64,
        /// Its first address.
        first: IpAddr,
        /// Its last address.
        last: IpAddr,
    },
    /// The ends are of two families.
    #[error("one end is IPv4, the other IPv6: {first} to {last}")]
    Mixed {
        /// The row.
        row: u64,
        /// Its first address.
        first: IpAddr,
        /// Its last address.
        last: IpAddr,
    },
    /// Two rows say two things of one range.
    #[error("it contradicts row {early} ({first} to {last}); correct one of the two")]
    Contradicts {
        /// The later of the two.
        row: u64,
        /// The other one.
        early: u64,
        /// The first address of both.
        first: IpAddr,
        /// The last address of both.
        last: IpAddr,
    },
    /// Two rows share a part of their ranges.
    #[error("it overlaps row {early} ({first} to {last}); correct one of the two")]
    Overlaps {
        /// The later of the two.
        row: u64,
        /// The other one.
        early: u64,
        /// The first address of both.
        first: IpAddr,
        /// The last address of both.
        last: IpAddr,
    },
}

impl From<RangeFault> for BadRow {
    fn from(fault: RangeFault) -> Self {
        let (RangeFault::TooMany { row }
        | RangeFault::Reversed { row, .. }
        | RangeFault::Mixed { row, .. }
        | RangeFault::Contradicts { row, .. }
        | RangeFault::Overlaps { row, .. }) = fault;
        Self::new(row, fault)
    }
}

/// A row as read: first address, last address, row number in its file, and the value, where the row
/// has one.
type Rows<T, V> = Vec<(T, T, u64, Option<V>)>;

/// Collects the rows of one table. Rows without a value (no country, AS 0) still take part in the
/// check for overlaps, and are left out of the result.
pub struct Builder<V> {
    v4: Rows<u32, V>,
    v6: Rows<u128, V>,
}

impl<V> Default for Builder<V> {
    fn default() -> Self {
        Self { v4: Vec::new(), v6: Vec::new() }
    }
}

impl<V: Copy + PartialEq> Builder<V> {
    /// Rows taken so far.
    pub const fn rows(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Adds a row. IPv4-mapped ends (`::ffff:0:0/96`) are the IPv4 addresses.
    pub fn push(
        &mut self,
        row: u64,
        first: IpAddr,
        last: IpAddr,
        value: Option<V>,
    ) -> Result<(), RangeFault> {
        if self.rows() >= MAX_ROWS {
            return Err(RangeFault::TooMany { row });
        }
        match (first.to_canonical(), last.to_canonical()) {
            (first, last) if first.is_ipv4() == last.is_ipv4() && first > last => {
                Err(RangeFault::Reversed { row, first, last })
            }
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                self.v4.push((first.into(), last.into(), row, value));
                Ok(())
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                self.v6.push((first.into(), last.into(), row, value));
                Ok(())
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
                Err(RangeFault::Mixed { row, first, last })
            }
        }
    }

    /// Sorts, refuses overlaps, drops rows without a value and joins neighbours of one value.
    /// A row that is there twice with one value is there once.
    pub fn finish(self) -> Result<Ranges<V>, RangeFault> {
        Ok(Ranges {
            v4: settle(self.v4, |last| last.checked_add(1), |at| IpAddr::V4(at.into()))?,
            v6: settle(self.v6, |last| last.checked_add(1), |at| IpAddr::V6(at.into()))?,
        })
    }
}

fn settle<T: Copy + Ord, V: Copy + PartialEq>(
    mut rows: Rows<T, V>,
    after: impl Fn(T) -> Option<T>,
    shown: impl Fn(T) -> IpAddr,
) -> Result<Vec<(T, T, V)>, RangeFault> {
    // The row number last, so that the fault for a file is the same in each run.
    rows.sort_unstable_by_key(|&(first, last, row, _)| (first, last, row));
    let mut ranges: Vec<(T, T, V)> = Vec::with_capacity(rows.len());
    let mut before: Option<(T, T, u64, Option<V>)> = None;
    for now in rows {
        let (first, last, row, value) = now;
        if let Some((first_before, last_before, row_before, value_before)) = before
            && first <= last_before
        {
            let same = (first, last) == (first_before, last_before);
            if same && value == value_before {
                continue;
            }
            let (row, early) = (row.max(row_before), row.min(row_before));
            let (first, last) = (shown(first), shown(last.min(last_before)));
            return Err(if same {
                RangeFault::Contradicts { row, early, first, last }
            } else {
                RangeFault::Overlaps { row, early, first, last }
            });
        }
        before = Some(now);
        let Some(value) = value else { continue };
        match ranges.last_mut() {
            Some(end) if end.2 == value && after(end.1) == Some(first) => end.1 = last,
            _ => ranges.push((first, last, value)),
        }
    }
    ranges.shrink_to_fit();
    Ok(ranges)
}

impl<V: Copy> Ranges<V> {
    /// The value of the range that holds `address`. An IPv4-mapped address is the IPv4 address.
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Option<V> {
        match address.to_canonical() {
            IpAddr::V4(address) => find(&self.v4, address.into()),
            IpAddr::V6(address) => find(&self.v6, address.into()),
        }
    }
}

impl<V> Ranges<V> {
    /// How many ranges there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether there is no range.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn find<T: Copy + Ord, V: Copy>(ranges: &[(T, T, V)], address: T) -> Option<V> {
    let after = ranges.partition_point(|&(first, _, _)| first <= address);
    let &(_, last, value) = ranges.get(after.checked_sub(1)?)?;
    (address <= last).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(rows: &[(&str, &str, Option<u32>)]) -> Result<Ranges<u32>, RangeFault> {
        let mut builder = Builder::default();
        for (i, &(first, last, value)) in rows.iter().enumerate() {
            builder.push(i as u64 + 1, first.parse().unwrap(), last.parse().unwrap(), value)?;
        }
        builder.finish()
    }

    #[test]
    fn rows_in_any_order_are_sorted_and_neighbours_joined() {
        let ranges = build(&[
            ("192.0.2.128", "192.0.2.255", Some(1)),
            ("2001:db8::", "2001:db8::ffff", Some(2)),
            ("192.0.2.0", "192.0.2.127", Some(1)),
            ("::ffff:198.51.100.0", "::ffff:198.51.100.255", Some(3)),
            ("203.0.113.0", "203.0.113.255", None),
        ])
        .unwrap();
        assert_eq!(ranges.v4.len(), 2);
        assert_eq!(ranges.v4[0], (0xc000_0200, 0xc000_02ff, 1));
        assert_eq!(ranges.lookup("198.51.100.9".parse().unwrap()), Some(3));
        assert_eq!(ranges.lookup("::ffff:192.0.2.200".parse().unwrap()), Some(1));
        assert_eq!(ranges.lookup("203.0.113.9".parse().unwrap()), None);
        assert_eq!(ranges.lookup("2001:db8::1:0".parse().unwrap()), None);
    }

    #[test]
    fn a_row_without_a_value_still_contradicts_one_with() {
        let both = [("192.0.2.0", "192.0.2.255", None), ("192.0.2.0", "192.0.2.255", Some(1))];
        let fault = build(&both).unwrap_err();
        assert!(fault.to_string().contains("contradicts row 1"), "{fault}");
        assert_eq!(BadRow::from(fault).row, 2);
    }

    #[test]
    fn overlaps_reversals_and_mixed_families_are_refused() {
        let cases: [&[(&str, &str, Option<u32>)]; 4] = [
            &[("192.0.2.0", "192.0.2.9", Some(1)), ("192.0.2.9", "192.0.2.12", Some(1))],
            &[("192.0.2.0", "192.0.2.255", Some(1)), ("192.0.2.4", "192.0.2.5", Some(2))],
            &[("192.0.2.9", "192.0.2.0", Some(1))],
            &[("192.0.2.0", "2001:db8::", Some(1))],
        ];
        for rows in cases {
            assert!(build(rows).is_err(), "{rows:?}");
        }
        let twice = [("192.0.2.0", "192.0.2.9", Some(1)), ("192.0.2.0", "192.0.2.9", Some(1))];
        assert_eq!(build(&twice).unwrap().len(), 1);
    }

    #[test]
    fn the_ends_of_the_address_space_hold() {
        let all = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let ranges = build(&[
            ("0.0.0.0", "255.255.255.254", Some(1)),
            ("255.255.255.255", "255.255.255.255", Some(2)),
            ("::", all, Some(3)),
        ])
        .unwrap();
        assert_eq!(ranges.lookup("255.255.255.255".parse().unwrap()), Some(2));
        assert_eq!(ranges.lookup("0.0.0.0".parse().unwrap()), Some(1));
        assert_eq!(ranges.lookup(all.parse().unwrap()), Some(3));
    }
}
