//! Loads what `[data]` names. The form of a file is told by its content, never by its name.

use std::path::Path;

use jiff::Timestamp;

use super::embedded;
use super::formats::file::{self, Content, FileFault};
use super::formats::magic::SGT_MAGIC;
use super::formats::ranges::answering;
use super::formats::sgt::{self, Body};
use super::formats::{country, mmdb, provider, sgp};
use super::model::{
    AsnTable, CountryTable, DataFault, Kind, ProviderTable, SourceInfo, Sources, Table, shown_path,
};
use super::settings::{CountryField, Data, Source};
use crate::control::progress::{Progress, Silent, reading};
use crate::control::side_by_side::side_by_side;

/// Why a file is not the table that is wanted.
#[derive(Debug, thiserror::Error)]
enum KindFault {
    #[error("is a table of kind {kind}, and one of kind {wanted} is needed")]
    Other { kind: &'static str, wanted: &'static str },
    /// What speaks against each kind.
    #[error("is not a table of any kind ({0}); say --kind")]
    NoKind(String),
}

/// Loads every source of `[data]`, in order. A source that is named twice in one list counts once.
///
/// # Errors
/// Every fault of every source at once.
pub fn load(settings: &Data) -> Result<Sources, Vec<DataFault>> {
    let (pack, tables) = load_all(settings, &Silent);
    let mut sources = Sources::default();
    let mut faults = Vec::new();
    match pack {
        Some(Ok(info)) => sources.pack = Some(info),
        Some(Err(fault)) => faults.push(fault),
        None => {}
    }
    for (_, table) in tables {
        match table {
            Ok(Table::Country(table)) => sources.countries.push(table),
            Ok(Table::Asn(table)) => sources.asns.push(table),
            Ok(Table::Providers(table)) => sources.providers.push(table),
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() { Ok(sources) } else { Err(faults) }
}

/// Loads a country table: CSV, TSV, mmdb, RIR statistics or `.sgt`, gzip or not.
///
/// # Errors
/// What is wrong, with its row: an unknown form, a table that is cut, empty or contradicts itself.
pub fn load_country(path: &Path) -> Result<CountryTable, DataFault> {
    load_country_by(path, CountryField::Country)
}

/// As [`load_country`]; of mmdb records this field counts. A table of `registered_country` says so
/// in its name, which records and `explain` show.
///
/// # Errors
/// As for [`load_country`].
pub fn load_country_by(path: &Path, field: CountryField) -> Result<CountryTable, DataFault> {
    country_from(path, &file::read(path)?, field)
}

/// As [`load_country_by`], of bytes that were read already; `path` names them, and what lies beside
/// it belongs to them.
pub(super) fn country_from(
    path: &Path,
    content: &Content,
    field: CountryField,
) -> Result<CountryTable, DataFault> {
    if content.bytes.starts_with(SGT_MAGIC) {
        return match packed(path, content)? {
            (info, Body::Country(ranges)) => {
                Ok(CountryTable { info, ranges: answering(path, ranges, "country")? })
            }
            (_, other) => Err(wrong_kind(path, &other, "country")),
        };
    }
    if mmdb::is_mmdb(&content.bytes) {
        let read = mmdb::countries(&content.bytes, field);
        let read = read.map_err(|what| DataFault::whole(path, what))?;
        let ranges = answering(path, read.ranges, field.label())?;
        let mut info = info(path, content, read.rows, read.as_of, None);
        info.licence = read.licence.map(str::to_owned);
        match field {
            CountryField::Country => {}
            CountryField::Registered => {
                info.name = format!("{} ({})", info.name, field.label());
            }
        }
        return Ok(CountryTable { info, ranges });
    }
    let read = text(path, content).and_then(|text| {
        country::countries(text, path).map_err(|bad| DataFault::at_row(path, bad))
    })?;
    let ranges = answering(path, read.ranges, "country")?;
    let mut info = info(path, content, read.rows, read.as_of, None);
    info.files.extend(read.beside);
    Ok(CountryTable { info, ranges })
}

/// Loads an AS table: CSV, TSV, mmdb or `.sgt`, gzip or not.
///
/// # Errors
/// As for [`load_country`].
pub fn load_asn(path: &Path) -> Result<AsnTable, DataFault> {
    asn_from(path, &file::read(path)?)
}

/// As [`load_asn`], of bytes that were read already.
pub(super) fn asn_from(path: &Path, content: &Content) -> Result<AsnTable, DataFault> {
    if content.bytes.starts_with(SGT_MAGIC) {
        return match packed(path, content)? {
            (info, Body::Asn(ranges)) => {
                Ok(AsnTable { info, ranges: answering(path, ranges, "AS number")? })
            }
            (_, other) => Err(wrong_kind(path, &other, "AS")),
        };
    }
    let (ranges, rows, as_of, licence) = if mmdb::is_mmdb(&content.bytes) {
        let read = mmdb::as_numbers(&content.bytes).map_err(|what| DataFault::whole(path, what))?;
        (read.ranges, read.rows, read.as_of, read.licence)
    } else {
        let read = text(path, content).and_then(|text| {
            country::as_numbers(text).map_err(|bad| DataFault::at_row(path, bad))
        })?;
        (read.ranges, read.rows, read.as_of, None)
    };
    let ranges = answering(path, ranges, "AS number")?;
    let licence = licence.map(str::to_owned);
    Ok(AsnTable { info: SourceInfo { licence, ..info(path, content, rows, as_of, None) }, ranges })
}

/// Loads the ranges that a provider publishes: JSON of AWS, Google, Azure, Oracle or Fastly, a
/// geofeed, a list of prefixes, `cidr,provider,region,country` or `.sgt`, gzip or not.
///
/// # Errors
/// As for [`load_country`].
pub fn load_provider(path: &Path) -> Result<ProviderTable, DataFault> {
    provider_from(path, &file::read(path)?)
}

/// As [`load_provider`], of bytes that were read already.
pub(super) fn provider_from(path: &Path, content: &Content) -> Result<ProviderTable, DataFault> {
    if content.bytes.starts_with(SGT_MAGIC) {
        return match packed(path, content)? {
            (info, Body::Provider(rows)) => {
                provider::check(&rows).map_err(|bad| DataFault::at_row(path, bad))?;
                Ok(ProviderTable { info, rows })
            }
            (_, other) => Err(wrong_kind(path, &other, "provider")),
        };
    }
    let bytes = text(path, content)?;
    let read = provider::read(bytes, path).map_err(|bad| DataFault::at_row(path, bad))?;
    let info = info(path, content, read.count, read.as_of, read.name);
    Ok(ProviderTable { info, rows: read.rows })
}

/// The bytes, where they can be text.
fn text<'a>(path: &Path, content: &'a Content) -> Result<&'a [u8], DataFault> {
    let bytes = content.bytes.as_slice();
    let what = match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => FileFault::Utf16,
        [b'P', b'K', 3, 4, ..] => FileFault::Zip,
        _ if bytes.contains(&0) => FileFault::Formless,
        _ => return Ok(bytes),
    };
    Err(DataFault::whole(path, what))
}

fn packed(path: &Path, content: &Content) -> Result<(SourceInfo, Body), DataFault> {
    let (header, body) = sgt::read(&content.bytes).map_err(|what| DataFault::whole(path, what))?;
    let licence = Some(shown_path(Path::new(&header.licence))).filter(|text| !text.is_empty());
    let base = info(path, content, header.rows, header.as_of, None);
    Ok((SourceInfo { licence, ..base }, body))
}

fn wrong_kind(path: &Path, body: &Body, wanted: &'static str) -> DataFault {
    DataFault::whole(path, KindFault::Other { kind: body.kind(), wanted })
}

fn info(
    path: &Path,
    content: &Content,
    rows: u64,
    as_of: Option<Timestamp>,
    name: Option<&str>,
) -> SourceInfo {
    let file = || {
        let name = path.file_name().unwrap_or(path.as_os_str());
        shown_path(Path::new(name))
    };
    SourceInfo {
        name: name.map_or_else(file, str::to_owned),
        origin: Some(path.to_owned()),
        as_of: as_of.or(content.modified),
        dated_by_file: as_of.is_none() && content.modified.is_some(),
        rows,
        licence: None,
        digest: content.digest.clone(),
        files: vec![content.stamp(path)],
    }
}

impl Table {
    /// Loads one entry of a list of `[data]`; `field` counts in mmdb files of countries.
    ///
    /// # Errors
    /// As the loader of its kind.
    pub fn load(kind: Kind, source: &Source, field: CountryField) -> Result<Self, DataFault> {
        match (kind, source) {
            (Kind::Country, Source::Embedded) => embedded::embedded_country().map(Self::Country),
            (Kind::Country, Source::File(path)) => load_country_by(path, field).map(Self::Country),
            (Kind::Asn, Source::Embedded) => embedded::embedded_asn().map(Self::Asn),
            (Kind::Asn, Source::File(path)) => load_asn(path).map(Self::Asn),
            (Kind::Providers, Source::Embedded) => {
                embedded::embedded_providers().map(Self::Providers)
            }
            (Kind::Providers, Source::File(path)) => load_provider(path).map(Self::Providers),
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
            Kind::Country => country_from(path, content, field).map(Self::Country),
            Kind::Asn => asn_from(path, content).map(Self::Asn),
            Kind::Providers => provider_from(path, content).map(Self::Providers),
        }
    }

    /// Loads a file whose kind nobody says: the first kind that it can be, in the order of
    /// [`Kind::ALL`].
    ///
    /// # Errors
    /// Where it can be none, what speaks against each.
    pub fn guess(path: &Path) -> Result<Self, DataFault> {
        let content = file::read(path)?;
        let mut against = Vec::new();
        for kind in Kind::ALL {
            match Self::from(kind, path, &content, CountryField::Country) {
                Ok(table) => return Ok(table),
                Err(fault) => against.push((kind, fault)),
            }
        }
        // What is wrong with the file itself is the same whatever it is read as.
        let same = against.windows(2).all(|pair| match pair {
            [a, b] => a.1.said() == b.1.said() && a.1.row == b.1.row,
            _ => true,
        });
        let said = |(kind, fault): &(Kind, DataFault)| {
            let row = fault.row.map_or_else(String::new, |row| format!("row {row}: "));
            format!("as {}, {row}{}", kind.label(), fault.said())
        };
        let said: Vec<_> = against.iter().map(said).collect();
        let none = DataFault::whole(path, KindFault::NoKind(said.join("; ")));
        Err(against.into_iter().next().filter(|_| same).map_or(none, |(_, fault)| fault))
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
        .map(|path| reading(progress, path, || sgp::read(path, settings.pack_key.as_ref())));
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
    let entries: Vec<_> = entries(settings).chain(embedded).collect();
    let own = (Kind::Country, &Source::Embedded);
    let has_own = entries.contains(&own);
    let load = |kind, source: &Source| Table::load(kind, source, settings.country_field);
    // Half of what is read is where addresses are, by the program: the rest beside it.
    let ((read, witness), own_table) = side_by_side(
        || {
            let read = |(kind, source): (Kind, &Source)| match source {
                Source::Embedded if kind == Kind::Country => (kind, None),
                Source::Embedded => (kind, Some(load(kind, source))),
                Source::File(path) => (kind, Some(reading(progress, path, || load(kind, source)))),
            };
            let read: Vec<_> = entries.iter().copied().map(read).collect();
            (read, has_own.then(|| embedded::embedded_dissent().map(Table::Country)))
        },
        || has_own.then(|| load(own.0, own.1)),
    );
    // The witness stands behind the table that it was heard for.
    let mut own = own_table.into_iter().chain(witness);
    for (kind, table) in read {
        match table {
            Some(table) => tables.push((kind, table)),
            None => tables.extend(own.by_ref().map(|table| (kind, table))),
        }
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
