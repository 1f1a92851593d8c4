//! Whether a fetched file may take the place of one that `[data]` names: read by the one reader,
//! compared with what is there and with what was last in use.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::last_good::LastGood;
use crate::control::data::formats::file::{self, Content};
use crate::control::data::formats::sgp;
use crate::control::data::model::{
    AsnTable, CountryTable, DataFault, Kind, ProviderTable, SourceInfo, Sources, Table, shown_path,
};
use crate::control::data::services;
use crate::control::data::settings::{Data, Source};
use crate::policy::CountrySet;

/// Takes out of `[data]` those of the files `brought`, which an update is to bring, that cannot be
/// read as they are, and says why of each.
pub fn leave_out<'f>(
    settings: &mut Data,
    brought: impl IntoIterator<Item = &'f PathBuf>,
) -> Vec<DataFault> {
    let mut faults = Vec::new();
    for file in brought {
        let Some(fault) = read(settings, file).err() else { continue };
        faults.push(fault);
        if settings.pack.as_ref() == Some(file) {
            settings.pack = None;
        }
        let Data { country, asn, providers, services, .. } = settings;
        let lists = [country, asn, providers, services];
        for list in lists {
            list.retain(|source| *source != Source::File(file.clone()));
        }
    }
    faults
}

/// Reads the file at `fetched` as what `[data]` calls `file`, and gives what it is.
///
/// # Errors
/// Everything that speaks against putting it there: what `data verify` would refuse, a date before
/// that of the file there or of the one last in use, a loss of more than `max_loss` of the addresses
/// of a country in `permitted` against either.
pub fn vet(
    settings: &Data,
    file: &Path,
    fetched: &Path,
    permitted: CountrySet,
) -> Result<SourceInfo, Vec<DataFault>> {
    let one = |fault| vec![fault];
    let content = file::read(fetched).map_err(|fault| {
        // The reader names what it was given; the file is known by where it would go.
        one(DataFault { source: shown_path(file), ..fault })
    })?;
    if is_services(settings, file) {
        return vet_services(settings, file, &content).map_err(one);
    }
    let new = sources(settings, file, &content).map_err(one)?;
    let mut faults = Vec::new();
    // Where the one there cannot be read, anything that can be is better.
    let there = read(settings, file).ok().map(|there| LastGood::of(&there));
    let used = LastGood::read(&settings.directory).map_err(one)?;
    for last_good in there.into_iter().chain([used]) {
        faults.extend(last_good.refusals(settings, &new, permitted, false));
    }
    faults.dedup_by(|a, b| a.source == b.source && a.said() == b.said());
    if !faults.is_empty() {
        return Err(faults);
    }
    let first = new.pack.into_iter().chain(infos(new.countries, new.asns, new.providers)).next();
    first.ok_or_else(|| one(DataFault::whole(file, Unnamed)))
}

/// `[data]` does not say what the file is.
#[derive(Debug, thiserror::Error)]
#[error("is named by no list of [data]")]
struct Unnamed;

/// A file of services is older than the one there.
#[derive(Debug, thiserror::Error)]
#[error("is of {now}, older than the one in use, of {there}")]
struct Older {
    now: Timestamp,
    there: Timestamp,
}

/// SHA-256 of the file there, hex; `None` where there is none to be read.
#[must_use]
pub fn digest_of(file: &Path) -> Option<String> {
    file::read(file).ok().map(|content| content.digest)
}

fn is_services(settings: &Data, file: &Path) -> bool {
    settings.services.contains(&Source::File(file.to_owned()))
}

/// As [`vet`], of services: sound, signed where that is asked for, and not older than those there.
fn vet_services(settings: &Data, file: &Path, content: &Content) -> Result<SourceInfo, DataFault> {
    let key = settings.services_key.as_ref();
    let (_, new) = services::from(file, content, key)?;
    // Where the one there cannot be read, anything that can be is better.
    let there = services::read_file(file, key).ok().and_then(|(_, info)| info.as_of);
    match (there, new.as_of) {
        (Some(there), Some(now)) if now < there => {
            Err(DataFault::whole(file, Older { now, there }))
        }
        _ => Ok(new),
    }
}

fn read(settings: &Data, file: &Path) -> Result<Sources, DataFault> {
    sources(settings, file, &file::read(file)?)
}

/// A file as each of what `[data]` names it as.
fn sources(settings: &Data, file: &Path, content: &Content) -> Result<Sources, DataFault> {
    let mut sources = Sources::default();
    let mut tables = Vec::new();
    if is_services(settings, file) {
        services::from(file, content, settings.services_key.as_ref())?;
    }
    if settings.pack.as_deref() == Some(file) {
        let bundle = sgp::read_from(file, content, settings.pack_key.as_ref())?;
        sources.pack = Some(bundle.info);
        tables.extend(bundle.tables);
    }
    let lists = [
        (Kind::Country, &settings.country),
        (Kind::Asn, &settings.asn),
        (Kind::Providers, &settings.providers),
    ];
    let named = Source::File(file.to_owned());
    for (kind, _) in lists.into_iter().filter(|(_, list)| list.contains(&named)) {
        tables.push(Table::from(kind, file, content, settings.country_field)?);
    }
    for table in tables {
        match table {
            Table::Country(table) => sources.countries.push(table),
            Table::Asn(table) => sources.asns.push(table),
            Table::Providers(table) => sources.providers.push(table),
        }
    }
    Ok(sources)
}

fn infos(
    countries: Vec<CountryTable>,
    asns: Vec<AsnTable>,
    providers: Vec<ProviderTable>,
) -> impl Iterator<Item = SourceInfo> {
    let countries = countries.into_iter().map(|table| table.info);
    let asns = asns.into_iter().map(|table| table.info);
    countries.chain(asns).chain(providers.into_iter().map(|table| table.info))
}
