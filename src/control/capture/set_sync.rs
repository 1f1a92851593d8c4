//! Keeps the nftables sets of the short cut in sync with the policy in force.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;

use super::fault::CaptureFault;
use super::program::Nft;
use super::shortcut::{self, InstalledChains};
use crate::control::config::{Config, From, Shortcut as Setting};
use crate::policy::{Policy, TooMuch};

/// The policy whose sets the kernel is to have.
#[derive(Debug, Clone)]
pub struct DesiredState {
    setting: Setting,
    policy: Arc<Policy>,
    /// A client of every class among them.
    candidates: Vec<IpAddr>,
}

impl DesiredState {
    /// What a policy and its configuration ask for.
    #[must_use]
    pub fn new(config: &Config, policy: Arc<Policy>) -> Self {
        Self { setting: config.capture.shortcut, candidates: candidates(config), policy }
    }

    /// The setting.
    #[must_use]
    pub const fn setting(&self) -> Setting {
        self.setting
    }

    /// What tells its sets from those of any other policy, setting or time.
    fn edition(&self) -> String {
        let policy = &self.policy;
        let (version, until) = (policy.version(), policy.valid_until_ms());
        format!("{version}_{until}_{}", self.setting.label())
    }

    /// What the kernel may judge by itself.
    ///
    /// # Errors
    /// As [`Policy::shortcut`].
    pub fn shortcut(&self) -> Result<crate::policy::Shortcut, TooMuch> {
        let clients = self.policy.clients(self.candidates.iter().copied());
        self.policy.shortcut(&clients, self.setting == Setting::Address)
    }
}

/// Where client prefixes begin and end: one address for each class of clients is among these.
#[must_use]
pub fn candidates(config: &Config) -> Vec<IpAddr> {
    let groups = config.groups.iter().flat_map(|group| &group.clients);
    let nets = |from: &From| match from {
        From::Net(net) => Some(*net),
        From::Group(_) => None,
    };
    let rules = config.rules.iter().flat_map(|rule| rule.from.iter().flatten());
    let prefixes = groups.copied().chain(rules.filter_map(nets));
    let edges = prefixes.flat_map(|net| match net {
        IpNet::V4(net) => {
            let after = net.broadcast().to_bits().checked_add(1).map(Ipv4Addr::from_bits);
            [Some(net.network().into()), after.map(IpAddr::from)]
        }
        IpNet::V6(net) => {
            let after = net.broadcast().to_bits().checked_add(1).map(Ipv6Addr::from_bits);
            [Some(net.network().into()), after.map(IpAddr::from)]
        }
    });
    edges.flatten().collect()
}

/// How the short cut stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It is not asked for.
    Off,
    /// `capture up` has set no frame for it, so that nothing is judged by the kernel.
    NoFrame,
    /// The kernel judges by as many intervals.
    Installed(usize),
    /// The policy is not for the kernel, or the kernel did not take it: nothing is judged there.
    Without(String),
}

/// Fills the kernel's sets. May be shared; one thread changes them at a time.
#[derive(Debug, Default)]
pub struct KernelSetSync {
    nft: Nft,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    desired: Option<DesiredState>,
    /// Intervals of the sets that were loaded, and their edition.
    loaded: Option<(String, usize)>,
}

impl KernelSetSync {
    /// Fills them by this way.
    #[must_use]
    pub fn new(nft: Nft) -> Self {
        Self { nft, inner: Mutex::default() }
    }

    /// Hands the kernel the sets of a policy, or takes the last ones away where it may have none.
    /// On return the kernel has no sets but these.
    ///
    /// # Errors
    /// The sets of an earlier policy stand and cannot be taken away: whoever publishes the new one
    /// would have the kernel judge by the old.
    pub fn install(&self, desired: DesiredState) -> Result<State, CaptureFault> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let installed = match (&inner.desired, desired.setting) {
            // An earlier run may have left sets. Who may not look has left none.
            (None, Setting::Off) => installed(&self.nft).unwrap_or(None),
            (Some(DesiredState { setting: Setting::Off, .. }), Setting::Off) => {
                // Nothing changes but the policy, and the tables of the last one go with it.
                inner.desired = Some(desired);
                return Ok(State::Off);
            }
            _ => installed(&self.nft)?,
        };
        let state = inner.load(&self.nft, &desired, installed.as_ref())?;
        inner.desired = Some(desired);
        Ok(state)
    }

    /// As [`KernelSetSync::install`], where the kernel has not got these very sets already.
    ///
    /// # Errors
    /// As [`KernelSetSync::install`].
    pub fn follow(&self, desired: DesiredState) -> Result<State, CaptureFault> {
        {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            let loaded = inner.loaded.as_ref();
            if loaded.is_none_or(|(edition, _)| *edition != desired.edition()) {
                drop(inner);
                return self.install(desired);
            }
            // The same sets, of a policy whose tables may be others.
            inner.desired = Some(desired);
        }
        self.poll()
    }

    /// Looks whether the kernel has the sets that it should have, and hands them over where it has
    /// not: a frame was set since, or set anew.
    ///
    /// # Errors
    /// As [`KernelSetSync::install`].
    pub fn poll(&self) -> Result<State, CaptureFault> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(desired) = inner.desired.clone().filter(|desired| desired.setting != Setting::Off)
        else {
            return Ok(State::Off);
        };
        let Some(installed) = installed(&self.nft)? else { return Ok(State::NoFrame) };
        if let Some((edition, intervals)) = &inner.loaded
            && installed.edition.as_ref() == Some(edition)
        {
            return Ok(State::Installed(*intervals));
        }
        inner.load(&self.nft, &desired, Some(&installed))
    }

    /// Has the kernel judge nothing any more: the gateway stops, and nobody would tell it of a
    /// change. Connections that it carries are held back, and go on under the next sets.
    ///
    /// # Errors
    /// The sets stand and cannot be taken away.
    pub fn stop(&self) -> Result<(), CaptureFault> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let desired = inner.desired.take();
        inner.loaded = None;
        if desired.is_none_or(|desired| desired.setting == Setting::Off) {
            return Ok(());
        }
        match installed(&self.nft)? {
            Some(installed) => self.nft.load(&shortcut::nothing(&installed, true)),
            None => Ok(()),
        }
    }
}

impl Inner {
    fn load(
        &mut self,
        nft: &Nft,
        desired: &DesiredState,
        installed: Option<&InstalledChains>,
    ) -> Result<State, CaptureFault> {
        let Some(installed) = installed else {
            self.loaded = None;
            return Ok(if desired.setting == Setting::Off { State::Off } else { State::NoFrame });
        };
        let clear = || nft.load(&shortcut::nothing(installed, false));
        self.loaded = None;
        if desired.setting == Setting::Off {
            clear()?;
            return Ok(State::Off);
        }
        let shortcut = match desired.shortcut() {
            Ok(shortcut) => shortcut,
            Err(too_much) => {
                clear()?;
                return Ok(State::Without(too_much.to_string()));
            }
        };
        let next = desired.edition();
        let program = shortcut::program(&shortcut, desired.setting, installed, &next);
        let fill = || shortcut::fill(&shortcut, program.half).map_err(CaptureFault::Intervals);
        let done = nft.load(&program.before);
        let done = done.and_then(|()| fill()).and_then(|()| nft.load(&program.swap));
        match done {
            Ok(()) => {
                let intervals = shortcut.intervals();
                self.loaded = Some((next, intervals));
                Ok(State::Installed(intervals))
            }
            Err(fault) => {
                clear()?;
                Ok(State::Without(fault.to_string()))
            }
        }
    }
}

fn installed(nft: &Nft) -> Result<Option<InstalledChains>, CaptureFault> {
    Ok(shortcut::installed(&nft.shown("list chains")?))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::control::load::load;

    #[test]
    fn without_a_short_cut_the_last_policy_is_let_go() {
        let loaded = load(None, Timestamp::now()).unwrap();
        let compiler = loaded.compiler;
        let desired =
            || DesiredState::new(compiler.config(), Arc::new(compiler.policy_at(Timestamp::now())));
        let set_sync = KernelSetSync::default();
        let first = desired();
        let seen = Arc::downgrade(&first.policy);
        for desired in [first, desired()] {
            assert_eq!(set_sync.install(desired).unwrap(), State::Off);
        }
        assert!(seen.upgrade().is_none(), "its tables are held for nothing");
    }
}
