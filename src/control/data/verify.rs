//! What `schengate data verify` shows: every table read to its end, and what it covers.

use std::fmt;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::Serialize;

use super::coverage::{Extent, Label, coverage, grouped};
use super::list::{Listing, listing};
use super::load::load_all;
use super::model::{DataFault, Kind, SourceInfo, Table};
use super::settings::{CountryField, Data, Source};
use crate::control::progress::{self, Progress};

/// One table, read to its end. As JSON an object of the listing's fields and `coverage`.
#[derive(Debug, Clone, Serialize)]
pub struct Verified {
    /// Name, kind, rows, date, age, licence, digest, fault.
    #[serde(flatten)]
    pub listing: Listing,
    /// What it covers; `None` where it is refused, and of a pack, whose tables stand beside it.
    pub coverage: Option<Coverage>,
}

/// How much of the address space a table answers for, and who has most of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// All of it.
    pub total: Extent,
    /// How many labels (countries, AS numbers) there are.
    pub labels: usize,
    /// The largest, by IPv4 addresses, then by IPv6.
    pub top: Vec<Share>,
}

/// What one label has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Share {
    /// Country code, `anycast`, `EU`, `several`, `unplaced`, or an AS number.
    pub label: Label,
    /// How much.
    #[serde(flatten)]
    pub extent: Extent,
}

/// Reads every table that `[data]` names. `top`: how many labels are shown of each; 0 is all.
#[must_use]
pub fn verify(
    settings: &Data,
    top: usize,
    now: Timestamp,
    progress: &dyn Progress,
) -> Vec<Verified> {
    let (pack, tables) = load_all(settings, progress);
    let pack = pack.map(|info| Verified { listing: listing("pack", info, now), coverage: None });
    let tables = tables.into_iter().map(|(kind, table)| verified(Some(kind), table, top, now));
    pack.into_iter().chain(tables).collect()
}

/// Reads files, as tables of `kind`, else of the kind that their content has.
#[must_use]
pub fn verify_files(
    files: &[PathBuf],
    kind: Option<Kind>,
    top: usize,
    now: Timestamp,
    progress: &dyn Progress,
) -> Vec<Verified> {
    let read = |path: &PathBuf| match kind {
        Some(kind) => Table::load(kind, &Source::File(path.clone()), CountryField::Country),
        None => Table::guess(path),
    };
    let one = |path: &PathBuf| {
        let read = progress::reading(progress, path, || read(path));
        verified(kind, read, top, now)
    };
    files.iter().map(one).collect()
}

fn verified(
    kind: Option<Kind>,
    table: Result<Table, DataFault>,
    top: usize,
    now: Timestamp,
) -> Verified {
    let kind = table.as_ref().map_or(kind, |table| Some(table.kind()));
    let label = kind.map_or("unknown", Kind::label);
    let covers = table.as_ref().ok().map(|table| covers(table, top));
    let info: Result<SourceInfo, DataFault> = table.map(|table| table.info().clone());
    Verified { listing: listing(label, info, now), coverage: covers }
}

fn covers(table: &Table, top: usize) -> Coverage {
    let sums = coverage(&table.labels());
    let mut total = Extent::default();
    sums.values().for_each(|&extent| total.add(extent));
    let mut shares: Vec<Share> =
        sums.into_iter().map(|(label, extent)| Share { label, extent }).collect();
    let labels = shares.len();
    let size = |share: &Share| (share.extent.v4, share.extent.v6);
    shares.sort_by_key(|share| (std::cmp::Reverse(size(share)), share.label));
    if top > 0 {
        shares.truncate(top);
    }
    Coverage { total, labels, top: shares }
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Listing { name, kind, rows, date, date_of, age_days, licence, digest, fault } =
            &self.listing;
        if let Some(fault) = fault {
            return write!(f, "{kind} {name}: REFUSED: {fault}");
        }
        write!(f, "{kind} {name}: sound, {} rows", grouped(*rows))?;
        if let (Some(date), Some(days)) = (date, age_days) {
            let by = if *date_of == Some("file") { " by its file" } else { "" };
            write!(f, ", of {}{by} ({days} d old)", date.get(..10).unwrap_or(date))?;
        }
        write!(f, "\n  licence {}", licence.as_deref().unwrap_or("not known"))?;
        write!(f, "\n  sha256  {digest}")?;
        let Some(Coverage { total, labels, top }) = &self.coverage else { return Ok(()) };
        let (v4, v6) = (grouped(total.v4), grouped(total.v6_48s()));
        write!(f, "\n  covers  {v4} IPv4 addresses, {v6} IPv6 /48s, {labels} labels")?;
        for Share { label, extent } in top {
            let (v4, v6) = (grouped(extent.v4), grouped(extent.v6_48s()));
            write!(
                f,
                "\n    {label:<10} {v4:>15} {:>6} {v6:>15} {:>6}",
                percent(extent.v4, total.v4),
                percent(extent.v6_48s(), total.v6_48s())
            )?;
        }
        if let Some(more) = labels.checked_sub(top.len()).filter(|&more| more > 0) {
            write!(f, "\n    and {more} more")?;
        }
        Ok(())
    }
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    let tenths = u128::from(part) * 1_000 / u128::from(whole);
    format!("{}.{}%", tenths / 10, tenths % 10)
}
