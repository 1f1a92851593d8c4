//! How much of the address space a table gives to whom.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;

use serde::{Serialize, Serializer};

use super::model::{
    CountryTable, Facts, Located, ProviderRow, ProviderTable, Ranges, RegionPlace, Table,
};
use crate::policy::{AddressBits, Country, flatten_prefixes};

impl Table {
    /// What it says of each address.
    #[must_use]
    pub fn labels(&self) -> Ranges<Label> {
        match self {
            Self::Country(table) => table.labels(),
            Self::Asn(table) => table.ranges.map(Label::As),
            Self::Providers(table) => table.labels(),
        }
    }
}

/// What a table says of an address, whatever the kind of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Label {
    /// A country.
    Country(Country),
    /// Several states of the Union.
    Union,
    /// Several places.
    Several,
    /// Announced from many places.
    Anycast,
    /// A provider's prefix of which nobody says where it is.
    Unplaced,
    /// An AS number.
    As(u32),
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Country(country) => country.code(),
            Self::Union => "EU",
            Self::Several => "several",
            Self::Anycast => "anycast",
            Self::Unplaced => "unplaced",
            Self::As(number) => return f.pad(&format!("AS{number}")),
        };
        f.pad(text)
    }
}

impl Serialize for Label {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl CountryTable {
    /// What it says of each address.
    #[must_use]
    pub fn labels(&self) -> Ranges<Label> {
        self.ranges.map(|place| match place {
            Located::Country(country) => Label::Country(country),
            Located::Anycast => Label::Anycast,
        })
    }
}

impl ProviderTable {
    /// Where it says that each address is: the longest prefix decides, several rows of one prefix
    /// that differ are [`Label::Several`], an anycast one among them is [`Label::Anycast`].
    #[must_use]
    pub fn labels(&self) -> Ranges<Label> {
        let facts = Facts::built_in().regions.iter();
        let places: HashMap<(&str, &str), RegionPlace> = facts
            .map(|fact| ((fact.provider.as_str(), fact.region.as_str()), fact.place))
            .collect();
        let label = |row: &ProviderRow| match (row.anycast, row.country) {
            (true, _) => Label::Anycast,
            (false, Some(country)) => Label::Country(country),
            (false, None) => match places.get(&(row.provider.as_str(), row.region.as_str())) {
                Some(RegionPlace::Country(country)) => Label::Country(*country),
                Some(RegionPlace::Union) => Label::Union,
                Some(RegionPlace::Several) => Label::Several,
                Some(RegionPlace::Anycast) => Label::Anycast,
                Some(RegionPlace::Unsourced) | None => Label::Unplaced,
            },
        };
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for row in &self.rows {
            let says = (row.net.prefix_len(), label(row));
            match (row.net.network(), row.net.broadcast()) {
                (IpAddr::V4(first), IpAddr::V4(last)) => {
                    v4.push((first.to_bits(), last.to_bits(), says));
                }
                (IpAddr::V6(first), IpAddr::V6(last)) => {
                    v6.push((first.to_bits(), last.to_bits(), says));
                }
                (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {}
            }
        }
        Ranges {
            v4: longest(v4, |next| next.checked_sub(1)),
            v6: longest(v6, |next| next.checked_sub(1)),
        }
    }
}

/// Prefixes, each with its length and label -> ranges of the longest one's label.
fn longest<A: AddressBits>(
    prefixes: Vec<(A, A, (u8, Label))>,
    before: impl Fn(A) -> Option<A>,
) -> Vec<(A, A, Label)> {
    let pieces = flatten_prefixes(prefixes);
    let ends = pieces.iter().skip(1).map(|&(next, _)| before(next)).chain([Some(A::MAX)]);
    let ranges = pieces.iter().zip(ends).filter_map(|((first, chain), last)| {
        let length = chain.iter().map(|says| says.0).max()?;
        let mut labels = chain.iter().filter(|says| says.0 == length).map(|says| says.1);
        let one = labels.next()?;
        let label = labels.fold(one, |all, label| match (all, label) {
            (Label::Anycast, _) | (_, Label::Anycast) => Label::Anycast,
            (all, label) if all == label => all,
            _ => Label::Several,
        });
        Some((*first, last?, label))
    });
    ranges.collect()
}

impl<V: Copy> Ranges<V> {
    /// The same ranges with other values.
    pub(super) fn map<W>(&self, to: impl Fn(V) -> W) -> Ranges<W> {
        Ranges {
            v4: self.v4.iter().map(|&(first, last, value)| (first, last, to(value))).collect(),
            v6: self.v6.iter().map(|&(first, last, value)| (first, last, to(value))).collect(),
        }
    }
}

/// How much of the address space: IPv4 and IPv6 addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extent {
    /// IPv4 addresses.
    pub v4: u64,
    /// IPv6 addresses; the whole space counts one less than it is.
    pub v6: u128,
}

impl Extent {
    /// IPv6 in networks of 48 bits; part of one counts as one.
    #[must_use]
    pub fn v6_48s(self) -> u64 {
        // At most 2^48.
        u64::try_from(self.v6.div_ceil(1 << 80)).unwrap_or(u64::MAX)
    }

    /// Whether it is nothing.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.v4 == 0 && self.v6 == 0
    }

    /// Adds what lies from `first` to `last`.
    pub(super) const fn add_v4(&mut self, first: u32, last: u32) {
        self.v4 += (last - first) as u64 + 1;
    }

    /// Adds what lies from `first` to `last`.
    pub(super) const fn add_v6(&mut self, first: u128, last: u128) {
        self.v6 = self.v6.saturating_add((last - first).saturating_add(1));
    }

    /// Adds another extent.
    pub const fn add(&mut self, other: Self) {
        self.v4 += other.v4;
        self.v6 = self.v6.saturating_add(other.v6);
    }

    /// For a ranking: an IPv6 /48 weighs as much as an IPv4 address.
    pub(super) fn weight(self) -> u64 {
        self.v4.saturating_add(self.v6_48s())
    }
}

impl Serialize for Extent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut fields = serializer.serialize_struct("Extent", 2)?;
        fields.serialize_field("ipv4", &self.v4)?;
        fields.serialize_field("ipv6_48s", &self.v6_48s())?;
        fields.end()
    }
}

/// How much of the address space each label has.
#[must_use]
pub fn coverage(labels: &Ranges<Label>) -> BTreeMap<Label, Extent> {
    let mut sums: BTreeMap<Label, Extent> = BTreeMap::new();
    for &(first, last, label) in &labels.v4 {
        sums.entry(label).or_default().add_v4(first, last);
    }
    for &(first, last, label) in &labels.v6 {
        sums.entry(label).or_default().add_v6(first, last);
    }
    sums
}

/// A number with a comma between each three digits.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::data::model::SourceInfo;

    fn row(net: &str, region: &str, anycast: bool, country: &str) -> ProviderRow {
        ProviderRow {
            net: net.parse().unwrap(),
            provider: "aws".to_owned(),
            region: region.to_owned(),
            anycast,
            country: Country::from_code(country),
        }
    }

    fn providers(rows: Vec<ProviderRow>) -> ProviderTable {
        let info = SourceInfo {
            name: "test".to_owned(),
            origin: None,
            as_of: None,
            dated_by_file: false,
            rows: rows.len() as u64,
            licence: None,
            digest: String::new(),
            files: Vec::new(),
        };
        ProviderTable { info, rows }
    }

    #[test]
    fn the_longest_prefix_of_a_provider_gives_the_label() {
        let table = providers(vec![
            row("192.0.2.0/24", "eu-west-3", false, ""),
            row("192.0.2.64/26", "eu-central-1", false, ""),
            row("192.0.2.128/26", "eu-west-3", false, ""),
            row("192.0.2.128/26", "eu-central-1", false, ""),
            row("192.0.2.192/26", "eu-west-3", true, ""),
            row("2001:db8::/32", "nowhere", false, ""),
        ]);
        let labels = table.labels();
        let at = |address: &str| labels.lookup(address.parse().unwrap()).unwrap().to_string();
        assert_eq!(at("192.0.2.63"), "FR");
        assert_eq!(at("192.0.2.64"), "DE");
        assert_eq!(at("192.0.2.128"), "several");
        assert_eq!(at("192.0.2.255"), "anycast");
        assert_eq!(at("2001:db8::1"), "unplaced");
        assert_eq!(labels.lookup("192.0.3.0".parse().unwrap()), None);
        let sums = coverage(&labels);
        assert_eq!(sums.values().map(|extent| extent.v4).sum::<u64>(), 256);
        assert_eq!(sums[&Label::Unplaced].v6_48s(), 1 << 16);
    }

    #[test]
    fn the_whole_space_and_less_than_a_network_are_counted() {
        let country = Label::Country(Country::from_code("FR").unwrap());
        let all = Ranges { v4: vec![(0, u32::MAX, country)], v6: vec![(0, u128::MAX, country)] };
        let extent = coverage(&all)[&country];
        assert_eq!((extent.v4, extent.v6_48s()), (1 << 32, 1 << 48));
        let one = Ranges { v4: Vec::new(), v6: vec![(7, 7, country)] };
        assert_eq!(coverage(&one)[&country].v6_48s(), 1);
    }

    #[test]
    fn numbers_are_grouped_by_three() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(4_294_967_296), "4,294,967,296");
    }
}
