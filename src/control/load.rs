//! From a policy file to a compiler: the one load that `run`, `check`, `explain` and `inspect` share.

use std::fmt;
use std::path::Path;

use jiff::Timestamp;

use super::compile::Compiler;
use super::config::{self, Faults, Lint};
use super::data::{self, DataFault, Sources};

/// A policy that loads, and what was noticed on the way.
#[derive(Debug)]
pub struct LoadedPolicy {
    /// Ready to be compiled for any instant.
    pub compiler: Compiler,
    /// What is worth a second look.
    pub lints: Vec<Lint>,
}

/// Why a policy does not load.
#[derive(Debug)]
pub enum LoadFault {
    /// Faults of the file, each with its place.
    Policy(Faults),
    /// Faults of tables.
    Data(Vec<DataFault>),
}

impl fmt::Display for LoadFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy(faults) => faults.fmt(f),
            Self::Data(faults) => {
                for (at, fault) in faults.iter().enumerate() {
                    write!(f, "{}{fault}", if at == 0 { "" } else { "\n" })?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for LoadFault {}

/// Loads the policy at `path` (`None`: the built-in default) with its tables.
///
/// # Errors
/// Every fault of the file at once; where the file is sound, every fault of its tables.
pub fn load(path: Option<&Path>, at: Timestamp) -> Result<LoadedPolicy, LoadFault> {
    let loaded = config::load(path).map_err(LoadFault::Policy)?;
    let sources = data::load(&loaded.config.data).map_err(LoadFault::Data)?;
    let unknown = loaded.unknown_regions.into_iter();
    let unknown = unknown.filter(|unknown| !is_published(&sources, &unknown.region));
    let unknown: Vec<_> = unknown.map(|unknown| unknown.fault).collect();
    if !unknown.is_empty() {
        return Err(LoadFault::Policy(Faults(unknown)));
    }
    let local = crate::sys::local_addresses().unwrap_or_default();
    let compiler = Compiler::new(loaded.config, sources, &loaded.text, local, at);
    Ok(LoadedPolicy { compiler, lints: loaded.lints })
}

/// Whether a loaded provider table has rows of `provider:region`.
fn is_published(sources: &Sources, region: &str) -> bool {
    let rows = sources.providers.iter().flat_map(|table| &table.rows);
    region.split_once(':').is_some_and(|(provider, region)| {
        rows.into_iter().any(|row| row.provider == provider && row.region == region)
    })
}
