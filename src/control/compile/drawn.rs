//! An atlas with what it was drawn from: kept over a reload that changes nothing of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;

use super::chart::chart;
use super::plan::Plan;
use crate::control::config::Config;
use crate::control::data::{Fingerprint, SourceInfo, Sources};
use crate::policy::{Atlas, AtlasParts, Memory};

/// The facts by address, and all that a reload has to know of the tables without reading them.
#[derive(Debug)]
pub struct Drawn {
    ground: Arc<Ground>,
    atlas: Arc<Atlas>,
}

/// What an atlas was drawn from.
#[derive(Debug)]
struct Ground {
    plan: Plan,
    fingerprint: Fingerprint,
    infos: Vec<SourceInfo>,
    /// Provider and region of every row of the provider tables.
    regions: BTreeSet<(String, String)>,
    /// Names of the provider tables that came from files.
    provider_files: BTreeSet<String>,
    /// Kept only where the plan moves.
    sources: Option<Sources>,
}

/// Whether an older atlas is in force while one is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// None: the new one takes its final form at once.
    Nothing,
    /// One is: where the new one is to be fast, it comes as a [lean](Atlas::is_lean) one, so that two
    /// fast ones are never held at a time.
    Older,
}

impl Drawn {
    /// Draws the atlas of `config` at an instant; `sources` are the tables that it names.
    #[must_use]
    pub fn new(config: &Config, sources: Sources, at: Timestamp, beside: Beside) -> Self {
        let plan = Plan::of(config, at);
        let parts = chart(&plan, &sources);
        let rows = sources.providers.iter().flat_map(|table| &table.rows);
        let regions = rows.map(|row| (row.provider.clone(), row.region.clone()));
        let provider_files = sources.providers.iter().map(|table| &table.info);
        let provider_files = provider_files.filter(|info| info.origin.is_some());
        let ground = Ground {
            fingerprint: Fingerprint::of(&config.data, &sources),
            infos: sources.tables().cloned().collect(),
            regions: regions.collect(),
            provider_files: provider_files.map(|info| info.name.clone()).collect(),
            // Whatever else was read is given back before the atlas takes its memory.
            sources: Some(sources).filter(|_| plan.moves),
            plan,
        };
        let atlas = match (beside, ground.plan.memory) {
            (Beside::Older, Memory::Fast) => Atlas::lean(parts, ground.plan.keeps_ranges),
            (Beside::Older, Memory::Compact) | (Beside::Nothing, _) => build(&ground.plan, parts),
        };
        Self { ground: Arc::new(ground), atlas: Arc::new(atlas) }
    }

    /// Whether the atlas waits to be [hastened](Drawn::hastened).
    #[must_use]
    pub fn is_lean(&self) -> bool {
        self.atlas.is_lean()
    }

    /// The same with a fast atlas; `None` where it is what it is to be.
    #[must_use]
    pub fn hastened(&self) -> Option<Self> {
        let atlas = self.atlas.hastened()?;
        Some(Self { ground: Arc::clone(&self.ground), atlas: Arc::new(atlas) })
    }

    /// Whether a load of `config` at an instant would draw just this: the same plan, over files of
    /// the same bytes. The files are read, but not understood anew.
    #[must_use]
    pub fn holds(&self, config: &Config, at: Timestamp) -> bool {
        Plan::of(config, at) == self.ground.plan && self.ground.fingerprint.holds(&config.data)
    }

    /// Whether a provider table has rows of `provider:region`.
    #[must_use]
    pub fn publishes(&self, region: &str) -> bool {
        region.split_once(':').is_some_and(|(provider, region)| {
            self.ground.regions.contains(&(provider.to_owned(), region.to_owned()))
        })
    }

    /// Whether the table of this name is a file of `[data] providers`.
    pub(super) fn is_provider_file(&self, name: &str) -> bool {
        self.ground.provider_files.contains(name)
    }

    /// The atlas as it was drawn.
    pub(super) const fn atlas(&self) -> &Arc<Atlas> {
        &self.atlas
    }

    /// The atlas at another instant.
    pub(super) fn atlas_at(&self, config: &Config, at: Timestamp) -> Arc<Atlas> {
        if let Some(sources) = &self.ground.sources {
            let plan = Plan::of(config, at);
            if plan != self.ground.plan {
                return Arc::new(build(&plan, chart(&plan, sources)));
            }
        }
        Arc::clone(&self.atlas)
    }

    pub(super) fn infos(&self) -> &[SourceInfo] {
        &self.ground.infos
    }
}

fn build(plan: &Plan, parts: AtlasParts) -> Atlas {
    if plan.keeps_ranges { Atlas::keeping_ranges(parts) } else { Atlas::build(parts) }
}
