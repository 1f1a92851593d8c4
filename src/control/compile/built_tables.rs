//! An address table with what it was built from: kept over a reload that changes nothing of it.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::segments::build_segments;
use super::table_inputs::TableInputs;
use crate::control::config::Config;
use crate::control::data::{Fingerprint, SourceInfo, Sources};
use crate::policy::{AddressTable, AddressTableParts, Memory};

/// The facts by address, and all that a reload has to know of the tables without reading them.
#[derive(Debug)]
pub struct BuiltTables {
    from: Arc<BuiltFrom>,
    address_table: Arc<AddressTable>,
}

/// What an address table was built from.
#[derive(Debug)]
struct BuiltFrom {
    inputs: TableInputs,
    fingerprint: Fingerprint,
    infos: Vec<SourceInfo>,
    /// Provider and region of every row of the provider tables.
    regions: BTreeSet<(String, String)>,
    /// Names of the provider tables that came from files.
    provider_files: BTreeSet<String>,
    /// Kept only where the inputs move.
    sources: Option<Sources>,
}

/// Whether an older address table is in force while one is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// None: the new one takes its final form at once.
    Nothing,
    /// One is: where the new one is to be fast, it comes as a
    /// [compact](AddressTable::is_compact) one, so that two fast ones are never held at a time.
    Older,
}

impl BuiltTables {
    /// Builds the address table of `config` at an instant; `sources` are the tables that it names.
    #[must_use]
    pub fn new(config: &Config, sources: Sources, at: Timestamp, beside: Beside) -> Self {
        let inputs = TableInputs::of(config, at);
        let parts = build_segments(&inputs, &sources);
        let rows = sources.providers.iter().flat_map(|table| &table.rows);
        // Many rows of few regions: each is copied once.
        let regions: HashSet<_> = rows.map(|row| (&row.provider, &row.region)).collect();
        let regions =
            regions.into_iter().map(|(provider, region)| (provider.clone(), region.clone()));
        let provider_files = sources.providers.iter().map(|table| &table.info);
        let provider_files = provider_files.filter(|info| info.origin.is_some());
        let from = BuiltFrom {
            fingerprint: Fingerprint::of(&config.data, &sources),
            infos: sources.tables().cloned().collect(),
            regions: regions.collect(),
            provider_files: provider_files.map(|info| info.name.clone()).collect(),
            // Whatever else was read is given back before the address table takes its memory.
            sources: Some(sources).filter(|_| inputs.moves),
            inputs,
        };
        let address_table = match (beside, from.inputs.memory) {
            (Beside::Older, Memory::Fast) => AddressTable::compact(parts, from.inputs.keeps_ranges),
            (Beside::Older, Memory::Compact) | (Beside::Nothing, _) => build(&from.inputs, parts),
        };
        Self { from: Arc::new(from), address_table: Arc::new(address_table) }
    }

    /// Whether the address table waits to be [promoted](BuiltTables::promoted).
    #[must_use]
    pub fn is_compact(&self) -> bool {
        self.address_table.is_compact()
    }

    /// The same with a fast address table; `None` where it is what it is to be.
    #[must_use]
    pub fn promoted(&self) -> Option<Self> {
        let address_table = self.address_table.promoted()?;
        Some(Self { from: Arc::clone(&self.from), address_table: Arc::new(address_table) })
    }

    /// Whether a load of `config` at an instant would build just this: the same inputs, over files of
    /// the same bytes. The files are read, but not understood anew.
    #[must_use]
    pub fn holds(&self, config: &Config, at: Timestamp) -> bool {
        TableInputs::of(config, at) == self.from.inputs && self.from.fingerprint.holds(&config.data)
    }

    /// Whether a provider table has rows of `provider:region`.
    #[must_use]
    pub fn publishes(&self, region: &str) -> bool {
        region.split_once(':').is_some_and(|(provider, region)| {
            self.from.regions.contains(&(provider.to_owned(), region.to_owned()))
        })
    }

    /// Whether the table of this name is a file of `[data] providers`.
    pub(super) fn is_provider_file(&self, name: &str) -> bool {
        self.from.provider_files.contains(name)
    }

    /// The address table as it was built.
    pub(super) const fn address_table(&self) -> &Arc<AddressTable> {
        &self.address_table
    }

    /// The address table at another instant.
    pub(super) fn table_at(&self, config: &Config, at: Timestamp) -> Arc<AddressTable> {
        if let Some(sources) = &self.from.sources {
            let inputs = TableInputs::of(config, at);
            if inputs != self.from.inputs {
                return Arc::new(build(&inputs, build_segments(&inputs, sources)));
            }
        }
        Arc::clone(&self.address_table)
    }

    pub(super) fn infos(&self) -> &[SourceInfo] {
        &self.from.infos
    }
}

fn build(inputs: &TableInputs, parts: AddressTableParts) -> AddressTable {
    if inputs.keeps_ranges {
        AddressTable::keeping_ranges(parts)
    } else {
        AddressTable::build(parts)
    }
}
