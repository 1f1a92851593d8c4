//! Loads what `[data]` names. The form of a file is told by its content, never by its name.

use std::path::Path;

use jiff::Timestamp;
use jiff::civil::Date;

use super::pack::{self, Body};
use super::ranges::BadRow;
use super::source::{self, Content};
use super::table::{Table, load_all};
use super::{
    AsnTable, CountryTable, DataFault, Mark, ProviderTable, Ranges, SourceInfo, Sources, country,
    facts, mmdb, provider,
};
use crate::control::config::{CountryField, Data};
use crate::control::progress::Silent;

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
    country_from(path, &source::read(path)?, field)
}

/// As [`load_country_by`], of bytes that were read already; `path` names them, and what lies beside
/// it belongs to them.
pub(super) fn country_from(
    path: &Path,
    content: &Content,
    field: CountryField,
) -> Result<CountryTable, DataFault> {
    if content.bytes.starts_with(pack::MAGIC) {
        return match packed(path, content)? {
            (info, Body::Country(ranges)) => {
                Ok(CountryTable { info, ranges: answering(path, ranges, "country")? })
            }
            (_, other) => Err(wrong_kind(path, &other, "country")),
        };
    }
    if mmdb::is_mmdb(&content.bytes) {
        let read = mmdb::countries(&content.bytes, field);
        let read = read.map_err(|what| source::whole(path, what))?;
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
    let read = text(path, content)
        .and_then(|text| country::countries(text, path).map_err(|bad| at_row(path, bad)))?;
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
    asn_from(path, &source::read(path)?)
}

/// As [`load_asn`], of bytes that were read already.
pub(super) fn asn_from(path: &Path, content: &Content) -> Result<AsnTable, DataFault> {
    if content.bytes.starts_with(pack::MAGIC) {
        return match packed(path, content)? {
            (info, Body::Asn(ranges)) => {
                Ok(AsnTable { info, ranges: answering(path, ranges, "AS number")? })
            }
            (_, other) => Err(wrong_kind(path, &other, "AS")),
        };
    }
    let (ranges, rows, as_of, licence) = if mmdb::is_mmdb(&content.bytes) {
        let read = mmdb::as_numbers(&content.bytes).map_err(|what| source::whole(path, what))?;
        (read.ranges, read.rows, read.as_of, read.licence)
    } else {
        let read = text(path, content)
            .and_then(|text| country::as_numbers(text).map_err(|bad| at_row(path, bad)))?;
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
    provider_from(path, &source::read(path)?)
}

/// As [`load_provider`], of bytes that were read already.
pub(super) fn provider_from(path: &Path, content: &Content) -> Result<ProviderTable, DataFault> {
    if content.bytes.starts_with(pack::MAGIC) {
        return match packed(path, content)? {
            (info, Body::Provider(rows)) => {
                provider::check(&rows).map_err(|bad| at_row(path, bad))?;
                Ok(ProviderTable { info, rows })
            }
            (_, other) => Err(wrong_kind(path, &other, "provider")),
        };
    }
    let bytes = text(path, content)?;
    let read = provider::read(bytes, path).map_err(|bad| at_row(path, bad))?;
    let info = info(path, content, read.count, read.as_of, read.name);
    Ok(ProviderTable { info, rows: read.rows })
}

/// The bytes, where they can be text.
fn text<'a>(path: &Path, content: &'a Content) -> Result<&'a [u8], DataFault> {
    let bytes = content.bytes.as_slice();
    let what = match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "is UTF-16; write it as UTF-8",
        [b'P', b'K', 3, 4, ..] => "is a zip archive; unpack it and name the table in it",
        _ if bytes.contains(&0) => source::FORMLESS,
        _ => return Ok(bytes),
    };
    Err(source::whole(path, what.to_owned()))
}

fn packed(path: &Path, content: &Content) -> Result<(SourceInfo, Body), DataFault> {
    let (header, body) = pack::read(&content.bytes).map_err(|what| source::whole(path, what))?;
    let licence = Some(source::name_of(Path::new(&header.licence))).filter(|text| !text.is_empty());
    let base = info(path, content, header.rows, header.as_of, None);
    Ok((SourceInfo { licence, ..base }, body))
}

fn wrong_kind(path: &Path, body: &Body, wanted: &str) -> DataFault {
    let what = format!("is a table of kind {}, and one of kind {wanted} is needed", body.kind());
    source::whole(path, what)
}

/// A table that answers nothing is a mistake, not a table.
pub(super) fn answering<V>(
    path: &Path,
    ranges: Ranges<V>,
    what: &str,
) -> Result<Ranges<V>, DataFault> {
    if ranges.is_empty() {
        return Err(source::whole(
            path,
            format!("names no {what} in any row; is it another table?"),
        ));
    }
    Ok(ranges)
}

pub(super) fn at_row(path: &Path, (row, what): BadRow) -> DataFault {
    DataFault { row: Some(row).filter(|&row| row > 0), ..source::whole(path, what) }
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
        source::name_of(Path::new(name))
    };
    SourceInfo {
        name: name.map_or_else(file, str::to_owned),
        origin: Some(path.to_owned()),
        as_of: as_of.or(content.modified),
        dated_by_file: as_of.is_none() && content.modified.is_some(),
        rows,
        licence: None,
        digest: content.digest.clone(),
        files: vec![Mark::new(path, content)],
    }
}

/// The first instant of a day written as eight digits, `20260924`.
pub(super) fn day(digits: &[u8]) -> Option<Timestamp> {
    let text = str::from_utf8(digits).ok().filter(|t| t.len() == 8 && t.is_ascii())?;
    let number: u32 = text.parse().ok()?;
    let year = i16::try_from(number / 10_000).ok()?;
    let month = i8::try_from(number / 100 % 100).ok()?;
    facts::begins(Date::new(year, month, i8::try_from(number % 100).ok()?).ok()?)
}
