//! What `schengate data list` shows: every table and file of facts behind a verdict.

use std::fmt;

use jiff::Timestamp;
use serde::Serialize;

use super::formats::file;
use super::load::load_all;
use super::model::{DataFault, SourceInfo};
use super::settings::{Data, Source};
use super::{embedded, facts, services};
use crate::control::progress::Silent;

/// One source of data. As JSON an object with the fields' names; as text one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listing {
    /// Short name: `embedded:country`, `country-a.csv`, `aws-ranges`; for a source that cannot
    /// be read, its path.
    pub name: String,
    /// `pack`, `country`, `asn`, `providers`, `services`, `registrant` or `facts`.
    pub kind: &'static str,
    /// Rows.
    pub rows: u64,
    /// Date of the content, else of the file, RFC 3339.
    pub date: Option<String>,
    /// `content`, or `file` where the content tells no date and the file was last written then.
    pub date_of: Option<&'static str>,
    /// Whole days since then.
    pub age_days: Option<i64>,
    /// Licence, where known.
    pub licence: Option<String>,
    /// SHA-256 of the bytes, hex; empty where they cannot be read.
    pub digest: String,
    /// Why the source cannot be used.
    pub fault: Option<String>,
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = self.date.as_deref().and_then(|date| date.get(..10)).unwrap_or("-");
        let age = self.age_days.map_or_else(|| "-".to_owned(), |days| format!("{days} d"));
        write!(f, "{:<10} {:<28} {:>9} {date:<10} {age:>7}", self.kind, self.name, self.rows)?;
        write!(f, "  {:<12}", self.digest.get(..12).unwrap_or("-"))?;
        if self.date_of == Some("file") {
            write!(f, "  (dated by its file)")?;
        }
        match (&self.fault, &self.licence) {
            (Some(fault), _) => write!(f, "  FAULT: {fault}"),
            (None, Some(licence)) => write!(f, "  {licence}"),
            (None, None) => Ok(()),
        }
    }
}

/// Lists every source that `[data]` names, in order, then what is built in beside them. A source
/// that cannot be read is listed with its fault.
#[must_use]
pub fn list(settings: &Data) -> Vec<Listing> {
    list_at(settings, Timestamp::now())
}

fn list_at(settings: &Data, now: Timestamp) -> Vec<Listing> {
    let (pack, tables) = load_all(settings, &Silent);
    let pack = pack.map(|info| listing("pack", info, now));
    let named = tables
        .into_iter()
        .map(|(kind, table)| listing(kind.label(), table.map(|table| table.info().clone()), now));
    let files = settings.services.iter().filter_map(|source| match source {
        Source::Embedded => None,
        Source::File(path) => Some(path),
    });
    let services = files.map(|path| {
        let read = services::read_file(path, settings.services_key.as_ref());
        listing("services", read.map(|(_, info)| info), now)
    });
    let named = named.chain(services);
    let registrant = embedded::embedded_registrant().map(|table| table.info);
    let registrant = std::iter::once_with(|| listing("registrant", registrant, now));
    pack.into_iter().chain(named).chain(registrant).chain(built_in(now)).collect()
}

/// The facts; the rows of the zones are those that name a country.
fn built_in(now: Timestamp) -> impl Iterator<Item = Listing> {
    facts::FILES.into_iter().map(move |(name, content)| {
        let rows = match name {
            "jurisdiction-sets.csv" => {
                facts::zone_rows().filter(|row| row.country.is_some()).count()
            }
            _ => content.lines().count().saturating_sub(1),
        };
        let as_of = facts::as_of();
        let info = SourceInfo {
            name: format!("built-in:{name}"),
            origin: None,
            as_of,
            dated_by_file: false,
            rows: rows as u64,
            licence: Some("MIT OR Apache-2.0".to_owned()),
            digest: file::digest(content.as_bytes()),
            files: Vec::new(),
        };
        listing("facts", Ok(info), now)
    })
}

/// One line of the list.
pub(super) fn listing(
    kind: &'static str,
    info: Result<SourceInfo, DataFault>,
    now: Timestamp,
) -> Listing {
    let (info, fault) = match info {
        Ok(info) => (info, None),
        Err(fault) => {
            let row = fault.row.map_or_else(String::new, |row| format!("row {row}: "));
            let told = format!("{row}{}", fault.said());
            let (as_of, rows, licence, digest) = (None, 0, None, String::new());
            let (name, origin, dated_by_file, files) = (fault.source, None, false, Vec::new());
            let info =
                SourceInfo { name, origin, as_of, dated_by_file, rows, licence, digest, files };
            (info, Some(told))
        }
    };
    let age = |date: Timestamp| now.as_second().saturating_sub(date.as_second()).div_euclid(86_400);
    Listing {
        name: info.name,
        kind,
        rows: info.rows,
        date: info.as_of.map(|date| date.to_string()),
        date_of: info.as_of.map(|_| if info.dated_by_file { "file" } else { "content" }),
        age_days: info.as_of.map(age),
        licence: info.licence,
        digest: info.digest,
        fault,
    }
}
