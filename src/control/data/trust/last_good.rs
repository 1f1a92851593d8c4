//! What the tables in use were, so that what follows them can be compared: `state.json` in
//! `[data] directory`.
//!
//! A table that is older than the one it replaces, or that lost a large part of a permitted
//! country, is more often a mistake or an attack (a mirror that fell behind, a file that was cut at
//! the end of a row, a replayed download) than news. Only files are remembered: the tables in the
//! program change with the program.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::control::data::coverage::{Extent, Label, coverage};
use crate::control::data::formats::file;
use crate::control::data::model::{
    CountryTable, DataFault, Kind, Located, ProviderTable, SourceInfo, Sources,
};
use crate::control::data::settings::Data;
use crate::policy::{Country, CountrySet};

/// The file in `[data] directory`.
const FILE: &str = "state.json";

/// The largest `state.json` that is read.
const FILE_MAX_BYTES: u64 = 16 << 20;

/// Tables that are no longer named are remembered up to this many in all.
const TABLES_MAX: usize = 1_000;

/// The kind of a pack, which is no table.
const PACK: &str = "pack";

/// How many countries a refusal names.
const SHOWN: usize = 5;

/// The tables in use, and those that were before them under other names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastGood {
    tables: Vec<Remembered>,
}

/// One table in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    kind: String,
    /// Absolute; what is no UTF-8 in it is replaced.
    path: String,
    #[serde(with = "instant")]
    as_of: Option<Timestamp>,
    /// SHA-256 of the file, hex.
    digest: String,
    /// IPv4 addresses and IPv6 /48s of each country.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    countries: BTreeMap<String, (u64, u64)>,
}

/// An instant as RFC 3339 has it.
mod instant {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    pub(in crate::control::data) fn serialize<S: Serializer>(
        instant: &Option<Timestamp>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        instant.map(|instant| instant.to_string()).serialize(serializer)
    }

    pub(in crate::control::data) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Timestamp>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(de::Error::custom)).transpose()
    }
}

impl Remembered {
    fn is_of(&self, kind: &str, path: &str) -> bool {
        self.kind == kind && self.path == path
    }
}

impl LastGood {
    /// The files among `sources`.
    #[must_use]
    pub fn of(sources: &Sources) -> Self {
        let remembered = |(kind, path, info, said): (&str, &Path, &SourceInfo, _)| Remembered {
            kind: kind.to_owned(),
            path: absolute(path),
            as_of: info.as_of,
            digest: info.digest.clone(),
            countries: counts(&said),
        };
        Self { tables: files(sources).map(remembered).collect() }
    }

    /// What was written into `directory`; nothing where nothing was, or where it is not for us to
    /// see.
    ///
    /// # Errors
    /// Where the file cannot be read or makes no sense: then nobody knows what was in use.
    pub fn read(directory: &Path) -> Result<Self, DataFault> {
        let path = directory.join(FILE);
        let content = match file::read_up_to(&path, FILE_MAX_BYTES) {
            Ok(content) => content,
            Err(_) if fs::File::open(&path).is_err_and(|error| is_none_of_ours(&error)) => {
                return Ok(Self::default());
            }
            Err(fault) => {
                return Err(DataFault { what: Unknown(fault.said()).into(), ..fault });
            }
        };
        serde_json::from_slice(&content.bytes).map_err(|error| {
            let row = u64::try_from(error.line()).ok().filter(|&line| line > 0);
            DataFault { row, ..DataFault::whole(&path, NoRecord(error)) }
        })
    }

    /// Takes up what is in use now, in place of what was in use under the same name. The same bytes
    /// keep their later date, so that touching a file opens no way to an older one.
    pub fn take(&mut self, mut now: Self) {
        for new in &mut now.tables {
            let same = |old: &&Remembered| {
                (&old.kind, &old.path, &old.digest) == (&new.kind, &new.path, &new.digest)
            };
            if let Some(old) = self.tables.iter().find(same) {
                new.as_of = new.as_of.max(old.as_of);
            }
        }
        let replaced = |old: &Remembered| {
            now.tables.iter().any(|new| new.kind == old.kind && new.path == old.path)
        };
        self.tables.retain(|old| !replaced(old));
        let room = TABLES_MAX.saturating_sub(now.tables.len());
        let before = std::mem::replace(&mut self.tables, now.tables);
        self.tables.extend(before.into_iter().take(room));
    }

    /// Writes it into `directory`, whole or not at all, and tells whether it did: a directory that
    /// is not there or not ours to write is no fault.
    ///
    /// # Errors
    /// Why it could not be written where it should have been.
    pub fn write(&self, directory: &Path) -> io::Result<bool> {
        if self.tables.is_empty() {
            return Ok(false);
        }
        let new = directory.join(format!(".{FILE}.new"));
        let written = fs::File::create(&new).and_then(|mut file| {
            serde_json::to_writer_pretty(&mut file, self)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&new, directory.join(FILE))
        });
        match written {
            Ok(()) => Ok(true),
            Err(error) if is_none_of_ours(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What speaks against taking up `sources` in place of what is remembered: a table that is
    /// older (unless `allow_older`), or one that lost more than `[data] max_loss` of the addresses
    /// of a country in `permitted`. A table with the digest of the one in use is that one.
    #[must_use]
    pub fn refusals(
        &self,
        settings: &Data,
        sources: &Sources,
        permitted: CountrySet,
        allow_older: bool,
    ) -> Vec<DataFault> {
        let mut faults = Vec::new();
        for (kind, path, info, said) in files(sources) {
            let name = absolute(path);
            let Some(old) = self.tables.iter().find(|old| old.is_of(kind, &name)) else { continue };
            if old.digest == info.digest {
                continue;
            }
            if let (Some(before), Some(now)) = (old.as_of, info.as_of)
                && now < before
                && !allow_older
            {
                faults.push(DataFault::whole(path, Refusal::Older { now, before }));
            }
            let now = counts(&said);
            let lost = losses(&old.countries, &now, permitted, settings.max_loss);
            if !lost.is_empty() {
                let more = lost.len().saturating_sub(SHOWN);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                let shown: Vec<_> = lost.into_iter().take(SHOWN).collect();
                let lost = format!("{}{more}", shown.join(", "));
                let fault = Refusal::Lost { max_loss: settings.max_loss, lost };
                faults.push(DataFault::whole(path, fault));
            }
        }
        faults
    }
}

/// What was in use cannot be read: why.
#[derive(Debug, thiserror::Error)]
#[error("{0}; remove it to take the tables as they are")]
struct Unknown(String);

/// What is there is not what this wrote.
#[derive(Debug, thiserror::Error)]
#[error("is not a record of the tables in use ({0}); remove it to take the tables as they are")]
struct NoRecord(serde_json::Error);

/// What speaks against taking a table up.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(
        "is of {now}, older than the one in use ({before}); fetch a newer one, or start with \
         --allow-older"
    )]
    Older { now: Timestamp, before: Timestamp },
    #[error(
        "lost more than {max_loss}% of what is permitted against the one in use: {lost}; compare \
         the two with `schengate data diff`, fetch it again, or set a larger [data] max_loss"
    )]
    Lost { max_loss: u8, lost: String },
}

/// Not there, not ours to see or to write, or on a file system that is not written to.
fn is_none_of_ours(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
    matches!(error.kind(), NotFound | NotADirectory | PermissionDenied | ReadOnlyFilesystem)
}

fn absolute(path: &Path) -> String {
    let absolute = std::path::absolute(path);
    absolute.as_deref().unwrap_or(path).to_string_lossy().into_owned()
}

/// What a source says of places.
enum Said<'a> {
    /// The pack itself and an AS table: nothing.
    Nothing,
    Country(&'a CountryTable),
    Providers(&'a ProviderTable),
}

/// What came from files: the pack, and the tables.
fn files(sources: &Sources) -> impl Iterator<Item = (&'static str, &Path, &SourceInfo, Said<'_>)> {
    let pack = sources.pack.iter().map(|info| (PACK, info, Said::Nothing));
    let country = sources.countries.iter();
    let country = country.map(|table| (Kind::Country.label(), &table.info, Said::Country(table)));
    let asn = sources.asns.iter();
    let asn = asn.map(|table| (Kind::Asn.label(), &table.info, Said::Nothing));
    let providers = sources.providers.iter();
    let providers =
        providers.map(|table| (Kind::Providers.label(), &table.info, Said::Providers(table)));
    let all = pack.chain(country).chain(asn).chain(providers);
    all.filter_map(|(kind, info, said)| Some((kind, info.origin.as_deref()?, info, said)))
}

/// IPv4 addresses and IPv6 /48s of each country.
fn counts(said: &Said<'_>) -> BTreeMap<String, (u64, u64)> {
    let mut sums = vec![Extent::default(); Country::COUNT];
    let mut sum = |country: Country, add: &dyn Fn(&mut Extent)| {
        sums.get_mut(country.index()).into_iter().for_each(add);
    };
    match said {
        Said::Nothing => {}
        // Without its labels, which take as much memory as the table: this is a load's largest moment.
        Said::Country(table) => {
            for &(first, last, place) in &table.ranges.v4 {
                if let Located::Country(country) = place {
                    sum(country, &|extent| extent.add_v4(first, last));
                }
            }
            for &(first, last, place) in &table.ranges.v6 {
                if let Located::Country(country) = place {
                    sum(country, &|extent| extent.add_v6(first, last));
                }
            }
        }
        Said::Providers(table) => {
            for (label, extent) in coverage(&table.labels()) {
                if let Label::Country(country) = label {
                    sum(country, &|sum| sum.add(extent));
                }
            }
        }
    }
    let named = sums.into_iter().enumerate().filter(|(_, extent)| !extent.is_empty());
    named
        .filter_map(|(at, extent)| {
            let code = Country::from_index(at)?.code().to_owned();
            Some((code, (extent.v4, extent.v6_48s())))
        })
        .collect()
}

/// The permitted countries that lost more than `max_loss` percent, the worst first, in words.
fn losses(
    before: &BTreeMap<String, (u64, u64)>,
    now: &BTreeMap<String, (u64, u64)>,
    permitted: CountrySet,
    max_loss: u8,
) -> Vec<String> {
    let mut lost = Vec::new();
    for country in permitted.iter() {
        let code = country.code();
        let (old, new) = (before.get(code).copied().unwrap_or_default(), now.get(code).copied());
        let new = new.unwrap_or_default();
        for (had, has, what) in [(old.0, new.0, "IPv4 addresses"), (old.1, new.1, "IPv6 /48s")] {
            let missing = u128::from(had.saturating_sub(has));
            if missing * 100 > u128::from(had) * u128::from(max_loss) {
                let percent = missing * 100 / u128::from(had.max(1));
                lost.push((percent, format!("{code} {percent}% ({had} to {has} {what})")));
            }
        }
    }
    lost.sort_by_key(|&(percent, _)| std::cmp::Reverse(percent));
    lost.into_iter().map(|(_, text)| text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::config::Source;
    use crate::control::data::load;

    fn settings(path: &Path) -> Data {
        Data {
            country: vec![Source::File(path.to_owned()), Source::Embedded],
            asn: vec![Source::Embedded],
            providers: vec![Source::Embedded],
            ..Data::default()
        }
    }

    fn france() -> CountrySet {
        CountrySet::from_iter(Country::from_code("FR"))
    }

    /// Writes a table of France with this many addresses and this date, and loads it.
    fn table(path: &Path, addresses: u8, day: &str) -> (Data, Sources) {
        fs::write(path, format!("192.0.2.0,192.0.2.{},FR\n", addresses - 1)).unwrap();
        let at: Timestamp = format!("{day}T00:00:00Z").parse().unwrap();
        let file = fs::File::options().append(true).open(path).unwrap();
        file.set_modified(at.into()).unwrap();
        let settings = settings(path);
        let sources = load(&settings).unwrap();
        (settings, sources)
    }

    #[test]
    fn an_older_table_is_refused_unless_it_is_allowed_or_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.csv");
        let (settings, first) = table(&path, 100, "2026-06-01");
        let last_good = LastGood::of(&first);
        assert_eq!(last_good.tables.len(), 1, "the tables in the program are not remembered");
        let (_, older) = table(&path, 99, "2026-05-31");
        let refused = last_good.refusals(&settings, &older, france(), false);
        assert!(refused[0].said().contains("older than the one in use"), "{refused:?}");
        assert!(refused[0].source.ends_with("t.csv") && refused.len() == 1);
        assert!(last_good.refusals(&settings, &older, france(), true).is_empty());
        let (_, same) = table(&path, 100, "2026-05-31");
        assert!(last_good.refusals(&settings, &same, france(), false).is_empty());
        let (_, newer) = table(&path, 99, "2026-06-02");
        assert!(last_good.refusals(&settings, &newer, france(), false).is_empty());
    }

    #[test]
    fn a_table_that_lost_more_of_a_permitted_country_than_it_may_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.csv");
        let (settings, first) = table(&path, 100, "2026-06-01");
        let last_good = LastGood::of(&first);
        let (_, at_the_limit) = table(&path, 80, "2026-06-02");
        assert!(last_good.refusals(&settings, &at_the_limit, france(), false).is_empty());
        let (_, beyond) = table(&path, 79, "2026-06-02");
        let refused = last_good.refusals(&settings, &beyond, france(), true);
        assert!(refused[0].said().contains("FR 21% (100 to 79 IPv4 addresses)"), "{refused:?}");
        assert!(last_good.refusals(&settings, &beyond, CountrySet::EMPTY, false).is_empty());
        let any = Data { max_loss: 100, ..settings };
        assert!(last_good.refusals(&any, &beyond, france(), false).is_empty());
    }

    #[test]
    fn what_was_written_comes_back_and_what_is_damaged_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (_, sources) = table(&dir.path().join("t.csv"), 9, "2026-06-01");
        assert_eq!(LastGood::read(dir.path()).unwrap(), LastGood::default());
        let last_good = LastGood::of(&sources);
        assert!(last_good.write(dir.path()).unwrap());
        assert_eq!(LastGood::read(dir.path()).unwrap(), last_good);
        let state = dir.path().join(FILE);
        let text = fs::read(&state).unwrap();
        for cut in [0, 1, text.len() / 2, text.len() - 3] {
            fs::write(&state, &text[..cut]).unwrap();
            let refused = LastGood::read(dir.path()).unwrap_err();
            assert!(refused.said().contains("remove it"), "{cut}: {refused}");
        }
        assert!(!last_good.write(&dir.path().join("absent")).unwrap());
        assert_eq!(LastGood::read(&dir.path().join("absent")).unwrap(), LastGood::default());
    }

    #[test]
    fn what_is_no_longer_named_is_still_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let (first, sources) = table(&dir.path().join("a.csv"), 9, "2026-06-01");
        let mut last_good = LastGood::of(&sources);
        let (_, sources) = table(&dir.path().join("b.csv"), 9, "2026-06-01");
        last_good.take(LastGood::of(&sources));
        last_good.take(LastGood::of(&sources));
        assert_eq!(last_good.tables.len(), 2);
        let (_, older) = table(&dir.path().join("a.csv"), 8, "2026-05-01");
        assert_eq!(last_good.refusals(&first, &older, france(), false).len(), 1);
    }
}
