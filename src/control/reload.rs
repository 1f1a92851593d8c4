//! The policy in force over time: loaded, reloaded, and turned over when the calendar says so.
//!
//! A reload builds everything aside, on a thread that yields to all others, and publishes it with
//! one store; on any fault the policy in force stays. Of the facts by address it takes what is in use,
//! where they are the same; else the new ones come in the compact form, and in the fast one once the
//! old ones are gone, since two fast ones at a time would take nearly twice the memory. When a policy
//! lapses (a waiver ends, a zone changes, a table grows stale) its successor is already published
//! beside it, so that the change falls on the instant.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

use super::capture::candidates;
use super::compile::{BuiltTables, Compiler};
use super::config::{Config, Lint};
use super::data::LastGood;
use super::load::{Against, LoadFault, LoadedPolicy, load_against};
use super::loss::losses;
use crate::policy::{HostRef, Live, Policy, Widening, widening};
use crate::sys;

/// Publishes policies: the first at the start, later ones as they are built, successors by date.
#[derive(Debug)]
pub struct PolicyManager {
    path: Option<PathBuf>,
    compiler: Arc<Compiler>,
    current: Arc<Policy>,
    live: Arc<Live>,
    last_good: LastGood,
}

/// The next policy, yet to be built.
#[derive(Debug, Clone)]
pub struct ReloadJob {
    /// What is in force, where what the next one widens is to be recorded.
    recorded: Option<(Arc<Compiler>, Arc<Policy>)>,
    /// What is in force, where that is not to be given up for what lacks much of it.
    guarded: Option<Arc<Compiler>>,
    path: Option<PathBuf>,
    last_good: LastGood,
    tables: Arc<BuiltTables>,
}

/// The policy in force, whose tables are yet to be given their own form: after a reload that changed
/// them, they stand in a smaller and slower one.
#[derive(Debug)]
pub struct PromotionJob(Arc<Compiler>);

/// The policy in force over tables in their own form, not yet published.
#[derive(Debug)]
pub struct PromotedTables {
    compiler: Arc<Compiler>,
    current: Arc<Policy>,
    next: Option<Arc<Policy>>,
}

impl PromotionJob {
    /// Builds the tables anew from what is in memory: nothing is read, and nothing can fail.
    #[must_use]
    pub fn build(self, now: Timestamp) -> PromotedTables {
        let compiler = self.0.promoted().map_or(self.0, Arc::new);
        let current = Arc::new(compiler.policy_at(now));
        let next = compiler.successor(now).map(Arc::new);
        sys::trim_heap();
        PromotedTables { compiler, current, next }
    }
}

/// The next policy, built and not yet published.
#[derive(Debug)]
pub struct BuiltPolicy {
    loaded: LoadedPolicy,
    current: Arc<Policy>,
    next: Option<Arc<Policy>>,
    widening: Option<Widening>,
}

impl ReloadJob {
    /// As a reload that nobody asked for: what lacks much of what the policy in force refuses is not
    /// taken up ([`losses`]).
    #[must_use]
    pub fn guarded(self, manager: &PolicyManager) -> Self {
        Self { guarded: Some(Arc::clone(&manager.compiler)), ..self }
    }

    /// Loads the file and the tables anew, compares them with those in use, and compiles them. May
    /// take a second and more: nothing that others wait for is held meanwhile.
    ///
    /// # Errors
    /// Every fault; whatever is in force stays.
    pub fn build(self, now: Timestamp) -> Result<BuiltPolicy, LoadFault> {
        let loaded =
            load_against(self.path.as_deref(), now, Against::InUse(&self.last_good, &self.tables))?;
        let before = self.guarded.as_ref();
        let lost = before.map(|old| losses(old.config(), loaded.compiler.config()));
        if let Some(lost) = lost.filter(|lost| !lost.is_empty()) {
            return Err(LoadFault::Loss(lost));
        }
        let current = Arc::new(loaded.compiler.policy_at(now));
        let next = loaded.compiler.successor(now).map(Arc::new);
        let widening = self.recorded.map(|(compiler, before)| {
            widened((compiler.config(), &before), (loaded.compiler.config(), &current))
        });
        // What was read is dropped by now, and most of it stood in the heap.
        sys::trim_heap();
        Ok(BuiltPolicy { loaded, current, next, widening })
    }
}

impl BuiltPolicy {
    /// The policy, as it will be published.
    #[must_use]
    pub const fn policy(&self) -> &Arc<Policy> {
        &self.current
    }

    /// What it lets go that the one in force refuses, where that is recorded.
    #[must_use]
    pub const fn widening(&self) -> Option<&Widening> {
        self.widening.as_ref()
    }

    /// The configuration that it was made from.
    #[must_use]
    pub const fn config(&self) -> &Config {
        self.loaded.compiler.config()
    }

    /// Whether its tables come in a smaller and slower form, and wait to be promoted.
    #[must_use]
    pub fn is_compact(&self) -> bool {
        self.loaded.compiler.tables().is_compact()
    }
}

/// What a policy lets go that the one before refuses, each beside the configuration that it is of.
#[must_use]
pub fn widened(before: (&Config, &Policy), now: (&Config, &Policy)) -> Widening {
    let configs = [before.0, now.0];
    let clients = configs.into_iter().flat_map(candidates);
    widening(before.1, now.1, clients, configs.into_iter().flat_map(patterns))
}

/// Every name and pattern of a configuration's rules and operators.
fn patterns(config: &Config) -> impl Iterator<Item = HostRef<'_>> {
    let rules = config.rules.iter().filter_map(|rule| rule.host.as_ref());
    let operators = config.operators.iter().flat_map(|operator| &operator.host);
    let operators = operators.map(|host| HostRef { name: host.name.as_str(), below: host.below });
    rules.flat_map(|list| list.iter()).chain(operators)
}

/// What a reload changed.
#[derive(Debug)]
pub struct Reloaded {
    /// What is worth a second look.
    pub lints: Vec<Lint>,
    /// Listeners or the admin address differ: they are taken up at the next start.
    pub needs_restart: bool,
}

impl PolicyManager {
    /// Loads the policy at `path` (`None`: the built-in default) and publishes it as of `now`.
    /// Tables that are older than when the gateway last ran are refused unless `allow_older`.
    ///
    /// # Errors
    /// Every fault of the file, or of its tables.
    pub fn start(
        path: Option<&Path>,
        allow_older: bool,
        now: Timestamp,
    ) -> Result<(Self, Vec<Lint>), LoadFault> {
        let loaded = load_against(path, now, Against::Remembered { allow_older })?;
        let lints = loaded.lints.clone();
        Ok((Self { path: path.map(Path::to_owned), ..Self::over(loaded, now) }, lints))
    }

    /// Publishes a policy that was loaded, as of `now`.
    #[must_use]
    pub fn over(loaded: LoadedPolicy, now: Timestamp) -> Self {
        let compiler = Arc::new(loaded.compiler);
        let current = Arc::new(compiler.policy_at(now));
        let next = compiler.successor(now).map(Arc::new);
        let live = Arc::new(Live::new(Arc::clone(&current), next));
        sys::trim_heap();
        Self { path: None, compiler, current, live, last_good: loaded.last_good }
    }

    /// The published policy, for those who judge.
    #[must_use]
    pub fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live)
    }

    /// The policy as it was last published.
    #[must_use]
    pub const fn current(&self) -> &Arc<Policy> {
        &self.current
    }

    /// The loaded file and tables.
    #[must_use]
    pub fn compiler(&self) -> &Compiler {
        &self.compiler
    }

    /// The loaded file and tables, for those who keep them as long as they are in force.
    #[must_use]
    pub fn shared_compiler(&self) -> Arc<Compiler> {
        Arc::clone(&self.compiler)
    }

    /// The configuration of the loaded file.
    #[must_use]
    pub fn config(&self) -> &Config {
        self.compiler.config()
    }

    /// Writes down which tables are in use, for the next start, where `[data] directory` is there
    /// and may be written; tells whether it did.
    ///
    /// # Errors
    /// Why it could not be written.
    pub fn remember(&self) -> io::Result<bool> {
        self.last_good.write(&self.config().data.directory)
    }

    /// What [`ReloadJob::build`] needs to build the next policy aside, on a thread of its own.
    #[must_use]
    pub fn job(&self) -> ReloadJob {
        ReloadJob {
            recorded: self
                .config()
                .audit
                .is_some()
                .then(|| (Arc::clone(&self.compiler), Arc::clone(&self.current))),
            guarded: None,
            path: self.path.clone(),
            last_good: self.last_good.clone(),
            tables: Arc::clone(self.compiler.tables()),
        }
    }

    /// What there is to build so that the tables in use take their own form; `None` where they have.
    #[must_use]
    pub fn promotion_job(&self) -> Option<PromotionJob> {
        self.compiler.tables().is_compact().then(|| PromotionJob(Arc::clone(&self.compiler)))
    }

    /// Publishes the policy in force over the tables in their own form. The caller has taken up no
    /// other one since [`PolicyManager::promotion_job`].
    pub fn install_promoted(&mut self, promoted: PromotedTables, now: Timestamp) {
        let PromotedTables { compiler, current, next } = promoted;
        self.replace(compiler, current, next, now);
    }

    /// Publishes what was built aside.
    pub fn install(&mut self, built: BuiltPolicy, now: Timestamp) -> Reloaded {
        let BuiltPolicy { loaded, current, next, .. } = built;
        let (old, new) = (self.compiler.config(), loaded.compiler.config());
        let resolving = |config: &Config| {
            let names = &config.names;
            let dns = config.dns.clone();
            let fixed = (names.remember, names.limit);
            (names.resolvers.clone(), names.resolver_ca.clone(), fixed, dns)
        };
        let needs_restart =
            old.listen != new.listen || old.admin != new.admin || resolving(old) != resolving(new);
        self.last_good = loaded.last_good;
        self.replace(Arc::new(loaded.compiler), current, next, now);
        Reloaded { lints: loaded.lints, needs_restart }
    }

    fn replace(
        &mut self,
        compiler: Arc<Compiler>,
        current: Arc<Policy>,
        next: Option<Arc<Policy>>,
        now: Timestamp,
    ) {
        self.compiler = compiler;
        self.current = Arc::clone(&current);
        self.live.publish(current, next);
        // Building took its time: it may have lapsed since.
        self.advance(now);
    }

    /// Takes these addresses for this host's own, in any order, and tells whether they are others than
    /// before: the policy is then published anew. The tables stay as they are.
    pub fn readdress(&mut self, local: &[IpAddr], now: Timestamp) -> bool {
        let Some(compiler) = self.compiler.readdressed(local) else { return false };
        self.compiler = Arc::new(compiler);
        self.publish(now);
        true
    }

    /// Publishes the policy of `now` where the one in force has lapsed, and tells whether it had.
    pub fn advance(&mut self, now: Timestamp) -> bool {
        let lapsed = now.as_millisecond() >= self.current.valid_until_ms();
        if lapsed {
            self.publish(now);
        }
        lapsed
    }

    /// When [`PolicyManager::advance`] will next have something to do; `None`: never.
    #[must_use]
    pub fn lapses(&self) -> Option<Timestamp> {
        let until = self.current.valid_until_ms();
        Some(until)
            .filter(|&until| until != i64::MAX)
            .and_then(|ms| Timestamp::from_millisecond(ms).ok())
    }

    fn publish(&mut self, now: Timestamp) {
        self.current = Arc::new(self.compiler.policy_at(now));
        let next = self.compiler.successor(now).map(Arc::new);
        self.live.publish(Arc::clone(&self.current), next);
        sys::trim_heap();
    }
}
