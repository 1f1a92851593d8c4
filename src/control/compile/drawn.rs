//! An atlas with what it was drawn from: kept over a reload that changes nothing of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;

use super::chart::chart;
use super::plan::Plan;
use crate::control::config::Config;
use crate::control::data::{Imprint, SourceInfo, Sources};
use crate::policy::Atlas;

/// The facts by address, and all that a reload has to know of the tables without reading them.
#[derive(Debug)]
pub struct Drawn {
    plan: Plan,
    imprint: Imprint,
    atlas: Arc<Atlas>,
    infos: Vec<SourceInfo>,
    /// Provider and region of every row of the provider tables.
    regions: BTreeSet<(String, String)>,
    /// Kept only where the plan moves.
    sources: Option<Sources>,
}

impl Drawn {
    /// Draws the atlas of `config` at an instant; `sources` are the tables that it names.
    #[must_use]
    pub fn new(config: &Config, sources: Sources, at: Timestamp) -> Self {
        let plan = Plan::of(config, at);
        let atlas = Arc::new(chart(&plan, &sources));
        let rows = sources.providers.iter().flat_map(|table| &table.rows);
        let regions = rows.map(|row| (row.provider.clone(), row.region.clone()));
        Self {
            imprint: Imprint::of(&config.data, &sources),
            atlas,
            infos: sources.tables().cloned().collect(),
            regions: regions.collect(),
            sources: Some(sources).filter(|_| plan.moves),
            plan,
        }
    }

    /// Whether a load of `config` at an instant would draw just this: the same plan, over files of
    /// the same bytes. The files are read, but not understood anew.
    #[must_use]
    pub fn holds(&self, config: &Config, at: Timestamp) -> bool {
        Plan::of(config, at) == self.plan && self.imprint.holds(&config.data)
    }

    /// Whether a provider table has rows of `provider:region`.
    #[must_use]
    pub fn publishes(&self, region: &str) -> bool {
        region.split_once(':').is_some_and(|(provider, region)| {
            self.regions.contains(&(provider.to_owned(), region.to_owned()))
        })
    }

    /// The atlas as it was drawn.
    pub(super) const fn atlas(&self) -> &Arc<Atlas> {
        &self.atlas
    }

    /// The atlas at another instant.
    pub(super) fn atlas_at(&self, config: &Config, at: Timestamp) -> Arc<Atlas> {
        if let Some(sources) = &self.sources {
            let plan = Plan::of(config, at);
            if plan != self.plan {
                return Arc::new(chart(&plan, sources));
            }
        }
        Arc::clone(&self.atlas)
    }

    pub(super) fn infos(&self) -> &[SourceInfo] {
        &self.infos
    }
}
