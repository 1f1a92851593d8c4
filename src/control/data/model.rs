//! What the tables say, and where they came from: plain data.

use std::collections::HashSet;
use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::identify::HostName;
use crate::policy::{Country, CountrySet};

/// Sorted, disjoint, inclusive ranges, each with a value; IPv4 and IPv6 apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranges<V> {
    /// `(first, last, value)`, both ends inside.
    pub v4: Vec<(u32, u32, V)>,
    /// `(first, last, value)`, both ends inside.
    pub v6: Vec<(u128, u128, V)>,
}

/// What a country table says of a range. A range whose code is no country is left out: it is no
/// answer, and the next table is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Located {
    /// There.
    Country(Country),
    /// Announced from many places.
    Anycast,
}

/// Where a table came from.
#[derive(Debug, Clone)]
pub struct SourceInfo {
    /// Short name for records and `explain`: `embedded:country`, `country-a.csv`, `aws-ranges`.
    pub name: String,
    /// The file that it came from, of a table in a pack with the table's name below it; `None`: it
    /// is in the program.
    pub origin: Option<PathBuf>,
    /// Date of the content, else of the file.
    pub as_of: Option<Timestamp>,
    /// Whether `as_of` is when the file was last written, since its content tells no date: whoever
    /// copies the file without its time makes it young.
    pub dated_by_file: bool,
    /// Rows read.
    pub rows: u64,
    /// Licence, where known.
    pub licence: Option<String>,
    /// SHA-256 of the bytes read, hex.
    pub digest: String,
    /// Every file that it was read from, as it was then; a table in a pack has none of its own.
    pub files: Vec<FileStamp>,
}

/// A country table.
#[derive(Debug, Clone)]
pub struct CountryTable {
    /// Where it came from.
    pub info: SourceInfo,
    /// What it says.
    pub ranges: Ranges<Located>,
}

/// An AS table.
#[derive(Debug, Clone)]
pub struct AsnTable {
    /// Where it came from.
    pub info: SourceInfo,
    /// AS number of each range; 0 (unrouted) is left out.
    pub ranges: Ranges<u32>,
}

/// The published ranges of one or more cloud providers.
#[derive(Debug, Clone)]
pub struct ProviderTable {
    /// Where it came from.
    pub info: SourceInfo,
    /// Every row; prefixes may nest and repeat.
    pub rows: Vec<ProviderRow>,
}

/// One row of a provider's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderRow {
    /// The prefix, host bits clear.
    pub net: IpNet,
    /// Provider key of `cloud-regions.csv`: `aws`, `azure`, `gcp`, `oci` ...
    pub provider: String,
    /// Region key as published (AWS: `network_border_group`); empty where none is published.
    pub region: String,
    /// The row is of a service or scope that is announced from many places.
    pub anycast: bool,
    /// The country that the file itself names (geofeeds); outranks the region's.
    pub country: Option<Country>,
}

/// Everything that was loaded for one policy.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The pack, where there is one; its tables are among the others.
    pub pack: Option<SourceInfo>,
    /// Country tables, best first.
    pub countries: Vec<CountryTable>,
    /// AS tables, best first.
    pub asns: Vec<AsnTable>,
    /// Provider tables; the longest prefix over all of them wins.
    pub providers: Vec<ProviderTable>,
    /// Where the holders of addresses are registered; only where the policy lets it count.
    pub registrant: Option<CountryTable>,
}

/// Age from which a table is called old: each that is published at all has been published anew by
/// then, most of them every month.
pub const OLD_AFTER: Duration = Duration::from_secs(90 * 24 * 60 * 60);

impl SourceInfo {
    /// How old it is; `None` where it tells no date, or one to come.
    #[must_use]
    pub fn age(&self, now: Timestamp) -> Option<Duration> {
        Duration::try_from(now.duration_since(self.as_of?)).ok()
    }

    /// What is to be said of it where it is older than [`OLD_AFTER`], and what to do about it.
    #[must_use]
    pub fn old(&self, now: Timestamp) -> Option<String> {
        let age = self.age(now).filter(|age| *age > OLD_AFTER)?;
        let days = age.as_secs() / 86_400;
        let help = if self.origin.is_some() {
            "fetch a newer one (`schengate data update`)"
        } else {
            "it is in the program: name a newer file before it in [data], or update the program"
        };
        Some(format!("the table {} is {days} days old; {help}", self.name))
    }

    /// The files that were read with it and that nothing names.
    pub fn beside(&self) -> impl Iterator<Item = &FileStamp> {
        self.files.iter().filter(|stamp| stamp.is_beside())
    }
}

impl Sources {
    /// Whether the facts of anycast prefixes and edge networks count: they stand with the embedded
    /// list of providers, and who names other lists alone is answered by those alone.
    #[must_use]
    pub fn counts_edges(&self) -> bool {
        self.providers.iter().any(|table| table.info.origin.is_none())
    }

    /// Where each came from: the pack, then the tables in their order.
    pub fn infos(&self) -> impl Iterator<Item = &SourceInfo> {
        self.pack.iter().chain(self.tables())
    }

    /// Where each table came from.
    pub fn tables(&self) -> impl Iterator<Item = &SourceInfo> {
        let countries = self.countries.iter().map(|table| &table.info);
        let asns = self.asns.iter().map(|table| &table.info);
        countries.chain(asns).chain(self.providers.iter().map(|table| &table.info))
    }
}

/// The facts that are not by address: our own, from `config/facts`, built in.
#[derive(Debug)]
pub struct Facts {
    /// Operators by AS number.
    pub operators: Vec<OperatorFact>,
    /// Regions of each provider.
    pub regions: Vec<RegionFact>,
    /// Prefixes that are announced from many places, or whose addresses DNS hands out by where the
    /// client is (`anycast.csv`); they may nest.
    pub anycast: Vec<IpNet>,
    /// AS numbers of networks that are nothing but such addresses, wherever their operator
    /// publishes no region (`edges.csv`).
    pub edges: HashSet<u32>,
    /// The day on which the facts were last gone through.
    pub as_of: Option<Timestamp>,
    /// Whose law a name brings with it.
    pub domains: Vec<DomainFact>,
}

/// A row of `operator-domains.csv`: whoever answers to a name at or below the suffix is, or is
/// hosted for, this operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainFact {
    /// The suffix; it stands for itself and for every name below it.
    pub suffix: HostName,
    /// The operator's name as written.
    pub operator: String,
    /// Its legal homes.
    pub homes: CountrySet,
}

/// A row of `operators.csv`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorFact {
    /// The AS number.
    pub asn: u32,
    /// The name as written.
    pub name: String,
    /// The operator id (docs/policy.md §3).
    pub id: String,
    /// Legal homes: of the parents, and of the holding entity where it differs.
    pub homes: CountrySet,
    /// The owner is in doubt.
    pub uncertain: bool,
}

/// A row of `cloud-regions.csv`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionFact {
    /// Provider key.
    pub provider: String,
    /// Region key.
    pub region: String,
    /// Where it is.
    pub place: RegionPlace,
}

/// Where a region is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegionPlace {
    /// In one country.
    Country(Country),
    /// In several states of the Union (`EU` in the file).
    Union,
    /// Announced from many places (`ZZ`, kind `anycast`).
    Anycast,
    /// In several countries that the file does not name (`ZZ`, kind `multiregion`).
    Several,
    /// In a country that no list of its provider names (`ZZ`, kind `unsourced`): unknown.
    Unsourced,
}

/// What is wrong, as the reader that found it says: an enum of its own, with what it came from in
/// `source()`.
pub type Cause = Box<dyn Error + Send + Sync>;

/// Why a source was refused: the file, the row where there is one, and what is wrong.
#[derive(Debug)]
pub struct DataFault {
    /// The source's name or path.
    pub source: String,
    /// Row or line, from 1.
    pub row: Option<u64>,
    /// What is wrong, and what to do.
    pub what: Cause,
}

impl DataFault {
    /// A fault of a file as a whole.
    pub fn whole(path: &Path, what: impl Into<Cause>) -> Self {
        Self { source: shown_path(path), row: None, what: what.into() }
    }

    /// A fault of one row of a file; row 0 is the file as a whole.
    pub fn at_row(path: &Path, bad: BadRow) -> Self {
        Self { row: Some(bad.row).filter(|&row| row > 0), ..Self::whole(path, bad.what) }
    }

    /// What is wrong, and what that came from, without the place.
    #[must_use]
    pub fn said(&self) -> String {
        said(self.what.as_ref())
    }
}

/// An error and what it came from, in one line.
fn said(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// A row that cannot stand.
#[derive(Debug)]
pub struct BadRow {
    /// From 1; 0: the table as a whole.
    pub row: u64,
    /// What is wrong.
    pub what: Cause,
}

impl BadRow {
    /// What is wrong with a row, from 1; 0: the table as a whole.
    pub fn new(row: u64, what: impl Into<Cause>) -> Self {
        Self { row, what: what.into() }
    }
}

/// The path as it may stand in a message: control characters escaped.
pub(super) fn shown_path(path: &Path) -> String {
    path.to_string_lossy().escape_debug().to_string()
}

/// Bytes of a file as they may stand in a message: quoted, escaped, cut after 40.
#[derive(Debug, PartialEq, Eq)]
pub struct Shown(String);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(super) fn shown(bytes: &[u8]) -> Shown {
    let cut = bytes.get(..40);
    let text = String::from_utf8_lossy(cut.unwrap_or(bytes)).escape_debug().to_string();
    let end = if cut.is_some_and(|c| c.len() < bytes.len()) { " ..." } else { "" };
    Shown(format!("\"{text}\"{end}"))
}

impl fmt::Display for DataFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.row {
            Some(row) => write!(f, "{}: row {row}: {}", self.source, self.said()),
            None => write!(f, "{}: {}", self.source, self.said()),
        }
    }
}

impl Error for DataFault {}

impl<V> Default for Ranges<V> {
    fn default() -> Self {
        Self { v4: Vec::new(), v6: Vec::new() }
    }
}

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
}

/// One file as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStamp {
    pub(super) path: PathBuf,
    /// SHA-256 of the bytes on disk, hex.
    pub(super) digest: String,
    /// When it was last written: the date of a table whose content has none.
    pub(super) modified: Option<Timestamp>,
    /// The table that it was found beside; no setting names it.
    pub(super) beside: Option<PathBuf>,
}

impl FileStamp {
    pub(super) fn beside(self, table: &Path) -> Self {
        Self { beside: Some(table.to_owned()), ..self }
    }

    pub(super) const fn is_beside(&self) -> bool {
        self.beside.is_some()
    }

    /// SHA-256 of the bytes on disk, hex.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_old_after_90_days() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let mut info = SourceInfo {
            name: "c.csv".to_owned(),
            origin: None,
            as_of: Some(at("2026-01-01T00:00:00Z")),
            dated_by_file: false,
            rows: 1,
            licence: None,
            digest: String::new(),
            files: Vec::new(),
        };
        assert_eq!(info.old(at("2026-04-01T00:00:00Z")), None);
        let old = info.old(at("2026-04-02T00:00:00Z")).unwrap();
        assert!(old.starts_with("the table c.csv is 91 days old; it is in the program"), "{old}");
        assert_eq!(info.age(at("2025-12-31T00:00:00Z")), None, "a date to come is not an age");
        info.origin = Some(PathBuf::from("c.csv"));
        assert!(info.old(at("2027-01-01T00:00:00Z")).unwrap().contains("data update"));
        info.as_of = None;
        assert_eq!(info.old(at("2027-01-01T00:00:00Z")), None);
    }

    #[test]
    fn control_bytes_never_reach_a_message() {
        assert_eq!(shown(b"a\x1b[31m\n").to_string(), "\"a\\u{1b}[31m\\n\"");
        assert_eq!(shown_path(Path::new("/tables/a\nb.csv")), "/tables/a\\nb.csv");
        assert!(shown(&[b'x'; 99]).to_string().len() < 50);
    }
}
