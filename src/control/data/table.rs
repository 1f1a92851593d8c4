//! One table of any kind, and how much of the address space it gives to whom.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use serde::{Serialize, Serializer};

use super::{
    AsnTable, CountryTable, DataFault, Facts, ProviderRow, ProviderTable, Ranges, RegionPlace,
    SourceInfo, Whereabouts, bundle, embedded, load,
    source::{self, Content},
};
use crate::control::config::{CountryField, Data, Source};
use crate::control::progress::{Progress, reading};
use crate::policy::{AddressBits, Country, nest};

/// What a table is asked for: the three lists of `[data]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Where an address is.
    Country,
    /// Whose network it is in, by AS number.
    Asn,
    /// Ranges that a provider publishes.
    Providers,
}

impl Kind {
    /// Every kind, in the order in which a file of unknown kind is tried.
    pub const ALL: [Self; 3] = [Self::Country, Self::Asn, Self::Providers];

    /// The key of the list in `[data]`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Country => "country",
            Self::Asn => "asn",
            Self::Providers => "providers",
        }
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.label())
    }
}

/// A loaded table.
#[derive(Debug, Clone)]
pub enum Table {
    /// Where an address is.
    Country(CountryTable),
    /// Whose network it is in.
    Asn(AsnTable),
    /// Ranges that a provider publishes.
    Providers(ProviderTable),
}

impl Table {
    /// Loads one entry of a list of `[data]`; `field` counts in mmdb files of countries.
    ///
    /// # Errors
    /// As the loader of its kind.
    pub fn load(kind: Kind, source: &Source, field: CountryField) -> Result<Self, DataFault> {
        match (kind, source) {
            (Kind::Country, Source::Embedded) => embedded::embedded_country().map(Self::Country),
            (Kind::Country, Source::File(path)) => {
                load::load_country_by(path, field).map(Self::Country)
            }
            (Kind::Asn, Source::Embedded) => embedded::embedded_asn().map(Self::Asn),
            (Kind::Asn, Source::File(path)) => load::load_asn(path).map(Self::Asn),
            (Kind::Providers, Source::Embedded) => {
                embedded::embedded_providers().map(Self::Providers)
            }
            (Kind::Providers, Source::File(path)) => load::load_provider(path).map(Self::Providers),
        }
    }

    /// As [`Table::load`], of a file whose bytes were read already.
    pub(super) fn from(
        kind: Kind,
        path: &Path,
        content: &Content,
        field: CountryField,
    ) -> Result<Self, DataFault> {
        match kind {
            Kind::Country => load::country_from(path, content, field).map(Self::Country),
            Kind::Asn => load::asn_from(path, content).map(Self::Asn),
            Kind::Providers => load::provider_from(path, content).map(Self::Providers),
        }
    }

    /// Loads a file whose kind nobody says: the first kind that it can be, in the order of
    /// [`Kind::ALL`].
    ///
    /// # Errors
    /// Where it can be none, what speaks against each.
    pub fn guess(path: &Path) -> Result<Self, DataFault> {
        let content = source::read(path)?;
        let mut against = Vec::new();
        for kind in Kind::ALL {
            match Self::from(kind, path, &content, CountryField::Country) {
                Ok(table) => return Ok(table),
                Err(fault) => against.push((kind, fault)),
            }
        }
        // What is wrong with the file itself is the same whatever it is read as.
        let same = against.windows(2).all(|pair| match pair {
            [a, b] => a.1.what == b.1.what && a.1.row == b.1.row,
            _ => true,
        });
        let first = against.first().map(|(_, fault)| (fault.source.clone(), fault.row));
        let (source, row) = first.unwrap_or_default();
        let said = |(kind, fault): &(Kind, DataFault)| {
            let row = fault.row.map_or_else(String::new, |row| format!("row {row}: "));
            format!("as {}, {row}{}", kind.label(), fault.what)
        };
        if same {
            let what = against.into_iter().next().map(|(_, fault)| fault.what);
            return Err(DataFault { source, row, what: what.unwrap_or_default() });
        }
        let said: Vec<_> = against.iter().map(said).collect();
        let what = format!("is no table of any kind ({}); say --kind", said.join("; "));
        Err(DataFault { source, row: None, what })
    }

    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Country(_) => Kind::Country,
            Self::Asn(_) => Kind::Asn,
            Self::Providers(_) => Kind::Providers,
        }
    }

    /// Where it came from.
    #[must_use]
    pub const fn info(&self) -> &SourceInfo {
        match self {
            Self::Country(table) => &table.info,
            Self::Asn(table) => &table.info,
            Self::Providers(table) => &table.info,
        }
    }

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

/// A table of `[data]` by its kind, or why it is refused.
pub(super) type Loaded = (Kind, Result<Table, DataFault>);

/// Everything that `[data]` names, loaded: the pack as a source, where there is one, and every
/// table by its kind, each kind best first. The tables of the pack stand before those of the lists;
/// a list that is empty, as it is where a pack is named and the list is not written, is filled with
/// the table in the program where the pack has none of its kind.
pub(super) fn load_all(
    settings: &Data,
    progress: &dyn Progress,
) -> (Option<Result<SourceInfo, DataFault>>, Vec<Loaded>) {
    let bundle = settings
        .pack
        .as_ref()
        .map(|path| reading(progress, path, || bundle::read(path, settings.pack_key.as_ref())));
    let (info, packed) = match bundle {
        None => (None, Vec::new()),
        Some(Err(fault)) => (Some(Err(fault)), Vec::new()),
        Some(Ok(bundle)) => (Some(Ok(bundle.info)), bundle.tables),
    };
    let mut tables: Vec<_> = packed.into_iter().map(|table| (table.kind(), Ok(table))).collect();
    let missing: Vec<Kind> = Kind::ALL
        .into_iter()
        .filter(|&kind| {
            let named = entries(settings).any(|entry| entry.0 == kind);
            !named && !tables.iter().any(|table| table.0 == kind)
        })
        .collect();
    let embedded = missing.iter().map(|&kind| (kind, &Source::Embedded));
    for (kind, source) in entries(settings).chain(embedded) {
        let load = || Table::load(kind, source, settings.country_field);
        let table = match source {
            Source::Embedded => load(),
            Source::File(path) => reading(progress, path, load),
        };
        tables.push((kind, table));
    }
    // Stable: within a kind the order stays.
    tables.sort_by_key(|table| table.0);
    (info, tables)
}

/// The entries of the lists of `[data]`, each once, in order.
fn entries(settings: &Data) -> impl Iterator<Item = (Kind, &Source)> {
    let lists = [
        (Kind::Country, &settings.country),
        (Kind::Asn, &settings.asn),
        (Kind::Providers, &settings.providers),
    ];
    lists.into_iter().flat_map(|(kind, list)| {
        let first = |at: usize, source: &Source| !list.iter().take(at).any(|other| other == source);
        list.iter()
            .enumerate()
            .filter(move |&(at, source)| first(at, source))
            .map(move |(_, source)| (kind, source))
    })
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
            Whereabouts::Country(country) => Label::Country(country),
            Whereabouts::Anycast => Label::Anycast,
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
                None => Label::Unplaced,
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
    let pieces = nest(prefixes);
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
