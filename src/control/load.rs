//! From a policy file to a compiler: the one load that `run`, `check`, `explain` and `inspect` share.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use super::compile::{Beside, BuiltTables, Compiler};
use super::config::{self, Config, Faults, Lint, Loaded, Update};
use super::data::{self, Data, DataFault, LastGood, Sources};
use crate::policy::CountrySet;

/// A policy that loads, and what was noticed on the way.
#[derive(Debug)]
pub struct LoadedPolicy {
    /// Ready to be compiled for any instant.
    pub compiler: Compiler,
    /// What is worth a second look.
    pub lints: Vec<Lint>,
    /// The tables in use, once this policy is, and those before them.
    pub last_good: LastGood,
}

/// What the tables are compared with before they are taken up.
#[derive(Debug, Clone, Copy)]
pub enum Against<'a> {
    /// Nothing: the answer is about the files as they are.
    Nothing,
    /// What was in use when the gateway last ran, as far as `[data] directory` tells.
    Remembered {
        /// Whether a table may be older than it was.
        allow_older: bool,
    },
    /// What is in use. Where the load would build the same address table, it takes this one.
    InUse(&'a LastGood, &'a Arc<BuiltTables>),
}

/// Why a policy does not load.
#[derive(Debug)]
pub enum LoadFault {
    /// Faults of the file, each with its place.
    Policy(Faults),
    /// Faults of tables.
    Data(Vec<DataFault>),
    /// Nobody told the gateway to take up what lacks much of what the policy in force refuses: how
    /// much of what. Only of a load that was not asked for.
    Loss(Vec<String>),
}

impl fmt::Display for LoadFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy(faults) => faults.fmt(f),
            Self::Loss(lost) => write!(
                f,
                "lacks more than [data] max_loss of what is refused now: {}; look at it with \
                 `schengate check`, and if it is meant so, take it up with SIGHUP \
                 (`systemctl reload schengate`)",
                lost.join(", ")
            ),
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

/// Loads the policy at `path` (`None`: the built-in default) with its tables, which are compared
/// with nothing.
///
/// # Errors
/// As [`load_against`].
pub fn load(path: Option<&Path>, at: Timestamp) -> Result<LoadedPolicy, LoadFault> {
    load_against(path, at, Against::Nothing)
}

/// Loads the policy at `path` (`None`: the built-in default) with its tables, and compares these
/// with what is in use.
///
/// # Errors
/// Every fault of the file at once; where the file is sound, every fault of its tables; where they
/// are sound, everything that speaks against taking them up.
pub fn load_against(
    path: Option<&Path>,
    at: Timestamp,
    against: Against<'_>,
) -> Result<LoadedPolicy, LoadFault> {
    let loaded = config::load(path).map_err(LoadFault::Policy)?;
    if let Against::InUse(last_good, tables) = against
        && tables.holds(&loaded.config, at)
    {
        // The tables in use: nothing of them can speak against themselves.
        regions_known(&loaded, |region| tables.publishes(region))?;
        let lints = loaded.lints.clone();
        let (tables, local) = (Arc::clone(tables), local_addresses()?);
        let compiler = Compiler::over(loaded.config, tables, &loaded.text, local);
        return Ok(LoadedPolicy { compiler, lints, last_good: last_good.clone() });
    }
    let sources = sources(&loaded)?;
    let settings = &loaded.config.data;
    let (mut last_good, allow_older) = match against {
        Against::Nothing => (LastGood::default(), true),
        Against::Remembered { allow_older } => {
            let read = LastGood::read(&settings.directory);
            (read.map_err(|fault| LoadFault::Data(vec![fault]))?, allow_older)
        }
        Against::InUse(last_good, _) => (last_good.clone(), false),
    };
    let refusals =
        last_good.refusals(settings, &sources, permitted(&loaded.config, at), allow_older);
    if !refusals.is_empty() {
        return Err(LoadFault::Data(refusals));
    }
    match against {
        Against::Nothing => {}
        Against::Remembered { .. } | Against::InUse(..) => {
            last_good.take(LastGood::of(&sources));
        }
    }
    let beside = match against {
        Against::Nothing | Against::Remembered { .. } => Beside::Nothing,
        Against::InUse(..) => Beside::Older,
    };
    let lints = loaded.lints.clone();
    Ok(LoadedPolicy { compiler: compiler(loaded, sources, at, beside)?, lints, last_good })
}

/// As [`load`], of a policy that was read already.
///
/// # Errors
/// As [`load_against`], but for the faults of the file.
pub fn complete(loaded: Loaded, at: Timestamp) -> Result<LoadedPolicy, LoadFault> {
    let sources = sources(&loaded)?;
    let (lints, last_good) = (loaded.lints.clone(), LastGood::default());
    Ok(LoadedPolicy { compiler: compiler(loaded, sources, at, Beside::Nothing)?, lints, last_good })
}

/// A policy that judges where its own tables are fetched from.
#[derive(Debug)]
pub struct Fetching {
    /// The policy, over those of its tables that can be read.
    pub compiler: Compiler,
    /// `[data]` as it is written.
    pub settings: Data,
    /// `[data.update]`.
    pub update: Option<Update>,
    /// Every country that anybody is permitted to reach.
    pub permitted: CountrySet,
    /// The files that are to be fetched and are not there, or not sound: what else there is judges
    /// without them.
    pub left_out: Vec<DataFault>,
}

/// Loads the policy for `schengate data update`. A file that an update would bring does not have to
/// be there yet, nor be sound; the tables in the program stand in where a list has no other.
///
/// # Errors
/// As [`load_against`], but for those files.
pub fn load_to_fetch(path: Option<&Path>, at: Timestamp) -> Result<Fetching, LoadFault> {
    let mut loaded = config::load_to_fetch(path).map_err(LoadFault::Policy)?;
    let (settings, update) = (loaded.config.data.clone(), loaded.config.update.clone());
    let brought = update.iter().flat_map(|update| &update.sources).map(|source| &source.file);
    let left_out = data::leave_out(&mut loaded.config.data, brought);
    let permitted = permitted(&loaded.config, at);
    let sources = sources(&loaded)?;
    Ok(Fetching {
        compiler: compiler(loaded, sources, at, Beside::Nothing)?,
        settings,
        update,
        permitted,
        left_out,
    })
}

/// Every table of a policy; a region of a rule that neither they nor the facts know is a fault.
fn sources(loaded: &Loaded) -> Result<Sources, LoadFault> {
    let mut sources = data::load(&loaded.config.data).map_err(LoadFault::Data)?;
    if loaded.config.policy.registrant {
        let table = data::embedded_registrant();
        sources.registrant = Some(table.map_err(|fault| LoadFault::Data(vec![fault]))?);
    }
    regions_known(loaded, |region| is_published(&sources, region))?;
    Ok(sources)
}

fn regions_known(loaded: &Loaded, published: impl Fn(&str) -> bool) -> Result<(), LoadFault> {
    let unknown = loaded.unknown_regions.iter();
    let unknown = unknown.filter(|unknown| !published(&unknown.region));
    let unknown: Vec<_> = unknown.map(|unknown| unknown.fault.clone()).collect();
    if unknown.is_empty() { Ok(()) } else { Err(LoadFault::Policy(Faults(unknown))) }
}

fn compiler(
    loaded: Loaded,
    sources: Sources,
    at: Timestamp,
    beside: Beside,
) -> Result<Compiler, LoadFault> {
    let local = local_addresses()?;
    let tables = Arc::new(BuiltTables::new(&loaded.config, sources, at, beside));
    Ok(Compiler::over(loaded.config, tables, &loaded.text, local))
}

/// Without its own addresses the gateway does not know itself.
#[derive(Debug, thiserror::Error)]
#[error("cannot be listed, so the gateway cannot know itself")]
struct Unlisted(#[source] io::Error);

fn local_addresses() -> Result<Vec<IpAddr>, LoadFault> {
    crate::sys::local_addresses().map_err(|error| {
        LoadFault::Data(vec![DataFault {
            source: "addresses of this host".into(),
            row: None,
            what: Unlisted(error).into(),
        }])
    })
}

/// Every country that anybody is permitted to reach.
fn permitted(config: &Config, at: Timestamp) -> CountrySet {
    let groups = config.groups.iter().map(|group| &group.permit);
    let lists = std::iter::once(&config.policy.permit).chain(groups);
    let sets = lists.map(|list| config.zones.resolve(list, at));
    sets.fold(CountrySet::EMPTY, |all, set| all | set)
}

/// Whether a loaded provider table has rows of `provider:region`.
fn is_published(sources: &Sources, region: &str) -> bool {
    let rows = sources.providers.iter().flat_map(|table| &table.rows);
    region.split_once(':').is_some_and(|(provider, region)| {
        rows.into_iter().any(|row| row.provider == provider && row.region == region)
    })
}
