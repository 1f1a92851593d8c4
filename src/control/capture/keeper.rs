//! Keeps the kernel's sets what the policy in force says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;

use super::fault::CaptureFault;
use super::program::{checked, nft, words};
use super::shortcut::{self, Standing};
use crate::control::config::{Config, From, Shortcut as Setting};
use crate::policy::{Policy, TooMuch};

/// The policy whose sets the kernel is to have.
#[derive(Debug, Clone)]
pub struct Wanted {
    setting: Setting,
    policy: Arc<Policy>,
    /// A client of every class among them.
    candidates: Vec<IpAddr>,
}

impl Wanted {
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
    Standing(usize),
    /// The policy is not for the kernel, or the kernel did not take it: nothing is judged there.
    Without(String),
}

/// The one who fills the kernel's sets. May be shared; one changes them at a time.
#[derive(Debug, Default)]
pub struct Keeper(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    wanted: Option<Wanted>,
    /// Intervals of the sets that were loaded, and their edition.
    loaded: Option<(String, usize)>,
}

impl Keeper {
    /// Hands the kernel the sets of a policy, or takes the last ones away where it may have none.
    /// On return the kernel has no sets but these.
    ///
    /// # Errors
    /// The sets of an earlier policy stand and cannot be taken away: whoever publishes the new one
    /// would have the kernel judge by the old.
    pub fn take_up(&self, wanted: Wanted) -> Result<State, CaptureFault> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let standing = match (&kept.wanted, wanted.setting) {
            // An earlier run may have left sets. Who may not look has left none.
            (None, Setting::Off) => standing().unwrap_or(None),
            (Some(Wanted { setting: Setting::Off, .. }), Setting::Off) => {
                // Nothing changes but the policy, and the tables of the last one go with it.
                kept.wanted = Some(wanted);
                return Ok(State::Off);
            }
            _ => standing()?,
        };
        let state = kept.load(&wanted, standing.as_ref())?;
        kept.wanted = Some(wanted);
        Ok(state)
    }

    /// As [`Keeper::take_up`], where the kernel has not got these very sets already.
    ///
    /// # Errors
    /// As [`Keeper::take_up`].
    pub fn follow(&self, wanted: Wanted) -> Result<State, CaptureFault> {
        {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let loaded = kept.loaded.as_ref();
            if loaded.is_none_or(|(edition, _)| *edition != wanted.edition()) {
                drop(kept);
                return self.take_up(wanted);
            }
            // The same sets, of a policy whose tables may be others.
            kept.wanted = Some(wanted);
        }
        self.look()
    }

    /// Looks whether the kernel has the sets that it should have, and hands them over where it has
    /// not: a frame was set since, or set anew.
    ///
    /// # Errors
    /// As [`Keeper::take_up`].
    pub fn look(&self) -> Result<State, CaptureFault> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(wanted) = kept.wanted.clone().filter(|wanted| wanted.setting != Setting::Off)
        else {
            return Ok(State::Off);
        };
        let Some(standing) = standing()? else { return Ok(State::NoFrame) };
        if let Some((edition, intervals)) = &kept.loaded
            && standing.edition.as_ref() == Some(edition)
        {
            return Ok(State::Standing(*intervals));
        }
        kept.load(&wanted, Some(&standing))
    }

    /// Has the kernel judge nothing any more: the gateway stops, and nobody would tell it of a
    /// change. Connections that it carries are held back, and go on under the next sets.
    ///
    /// # Errors
    /// The sets stand and cannot be taken away.
    pub fn stop(&self) -> Result<(), CaptureFault> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = kept.wanted.take();
        kept.loaded = None;
        if wanted.is_none_or(|wanted| wanted.setting == Setting::Off) {
            return Ok(());
        }
        match standing()? {
            Some(standing) => nft(&shortcut::nothing(&standing, true)),
            None => Ok(()),
        }
    }
}

impl Kept {
    fn load(
        &mut self,
        wanted: &Wanted,
        standing: Option<&Standing>,
    ) -> Result<State, CaptureFault> {
        let Some(standing) = standing else {
            self.loaded = None;
            return Ok(if wanted.setting == Setting::Off { State::Off } else { State::NoFrame });
        };
        let clear = || nft(&shortcut::nothing(standing, false));
        self.loaded = None;
        if wanted.setting == Setting::Off {
            clear()?;
            return Ok(State::Off);
        }
        let shortcut = match wanted.shortcut() {
            Ok(shortcut) => shortcut,
            Err(too_much) => {
                clear()?;
                return Ok(State::Without(too_much.to_string()));
            }
        };
        let next = wanted.edition();
        let program = shortcut::program(&shortcut, wanted.setting, standing, &next);
        let fill = || shortcut::fill(&shortcut, program.half).map_err(CaptureFault::Intervals);
        let done = nft(&program.before).and_then(|()| fill()).and_then(|()| nft(&program.swap));
        match done {
            Ok(()) => {
                let intervals = shortcut.intervals();
                self.loaded = Some((next, intervals));
                Ok(State::Standing(intervals))
            }
            Err(fault) => {
                clear()?;
                Ok(State::Without(fault.to_string()))
            }
        }
    }
}

fn standing() -> Result<Option<Standing>, CaptureFault> {
    Ok(shortcut::standing(&checked("nft", &words("list chains"), None)?))
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
        let wanted =
            || Wanted::new(compiler.config(), Arc::new(compiler.policy_at(Timestamp::now())));
        let keeper = Keeper::default();
        let first = wanted();
        let seen = Arc::downgrade(&first.policy);
        for wanted in [first, wanted()] {
            assert_eq!(keeper.take_up(wanted).unwrap(), State::Off);
        }
        assert!(seen.upgrade().is_none(), "its tables are held for nothing");
    }
}
