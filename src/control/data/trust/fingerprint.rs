//! What a load of the tables hung on, so that the next one can tell whether it would give the same.
//!
//! By content and never by name, size or time alone: a change that is missed is a wrong verdict.

use std::path::PathBuf;

use crate::control::data::formats::{country, file};
use crate::control::data::model::{FileStamp, SourceInfo, Sources};
use crate::control::data::pack_key::PackKey;
use crate::control::data::settings::{CountryField, Data, Source};

/// Everything that the tables of one load hung on.
#[derive(Debug)]
pub struct Fingerprint {
    asked: Asked,
    files: Vec<FileStamp>,
}

/// What `[data]` says of what is read, and how.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    lists: [Vec<Source>; 3],
    country_field: CountryField,
    pack: Option<PathBuf>,
    pack_key: Option<PackKey>,
}

impl Asked {
    fn of(settings: &Data) -> Self {
        // Each key by its name, so that a new one has to be given its place here.
        let Data {
            country,
            asn,
            providers,
            country_field,
            pack,
            pack_key,
            directory: _,
            // They are a part of the rules, not of the tables.
            services: _,
            services_key: _,
            max_age: _,
            max_loss: _,
            memory: _,
        } = settings;
        Self {
            lists: [country.clone(), asn.clone(), providers.clone()],
            country_field: *country_field,
            pack: pack.clone(),
            pack_key: pack_key.clone(),
        }
    }
}

impl Fingerprint {
    /// What `sources`, which were loaded by `settings`, hung on.
    #[must_use]
    pub fn of(settings: &Data, sources: &Sources) -> Self {
        let files = |info: &SourceInfo| info.files.clone();
        Self { asked: Asked::of(settings), files: sources.infos().flat_map(files).collect() }
    }

    /// Whether a load by `settings` would give the same tables now. Each file is read to its end;
    /// one that cannot be read holds nothing, and the load will say why.
    #[must_use]
    pub fn holds(&self, settings: &Data) -> bool {
        Asked::of(settings) == self.asked && self.files.iter().all(holds)
    }
}

/// Whether a load would read the same bytes with the same date.
fn holds(file: &FileStamp) -> bool {
    let found = file.beside.as_deref().map(country::file_of_locations);
    let here = found.is_none_or(|found| found.is_ok_and(|found| found == file.path));
    let now = || file::stat_digest(&file.path);
    here && now()
        .is_some_and(|(digest, modified)| digest == file.digest && modified == file.modified)
}
