//! What of this host stands in the way of a gateway that runs: the checks of `schengate doctor` that it
//! can make by itself, again and again.

use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tracing::{info, warn};

use crate::control::admin::Health;
use crate::control::config::Config;
use crate::control::data::SourceInfo;
use crate::control::doctor::{self, Diagnosis, Expected, State};

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(15);

/// What [`Health`] calls the line of what was found, and what the gateway misses.
const HOST: &str = "Host";
const NEED: &str = "a host that lets it work";

/// What was found at the last look.
#[derive(Debug, Default)]
pub(super) struct Host {
    looked: Option<Instant>,
    bad: Vec<Diagnosis>,
    /// The checks that were bad, and without which the gateway cannot work.
    vital: Vec<&'static str>,
}

impl Host {
    /// Looks where it is time to, and says what is new.
    pub(super) fn look(
        &mut self,
        at: Instant,
        (config, tables): (&Config, &[SourceInfo]),
        resolves: bool,
        health: &Health,
    ) {
        if self.looked.is_some_and(|looked| at.duration_since(looked) < LOOK) {
            return;
        }
        let wanted = Expected { config: Some(config), tables, keeper: Path::new("") };
        let found = doctor::look_while_running(wanted, resolves, Timestamp::now());
        self.take(at, found, |found| doctor::is_vital(found, wanted), health);
    }

    fn take(
        &mut self,
        at: Instant,
        found: Vec<Diagnosis>,
        is_vital: impl Fn(&Diagnosis) -> bool,
        health: &Health,
    ) {
        let is_first = self.looked.replace(at).is_none();
        let is_bad = |found: &Diagnosis| matches!(found.state, State::Bad { .. });
        let bad: Vec<_> = found.into_iter().filter(is_bad).collect();
        for found in bad.iter().filter(|found| !self.bad.contains(found)) {
            warn!(check = found.check, found = %told(found), "this host stands in the way");
        }
        let gone = |before: &&Diagnosis| bad.iter().all(|found| found.check != before.check);
        for before in self.bad.iter().filter(gone) {
            info!(check = before.check, "this host no longer stands in the way");
        }
        // A file in the middle of being written is no reason to take the gateway out of service: what is
        // bad counts once it was so at two looks, or at the first of all.
        let stays = |found: &&Diagnosis| is_first || self.vital.contains(&found.check);
        let vital: Vec<&Diagnosis> = bad.iter().filter(|found| is_vital(found)).collect();
        let missing: Vec<_> = vital.iter().copied().filter(stays).map(told).collect();
        if missing.is_empty() {
            health.met(NEED);
        } else {
            health.misses_since(NEED, missing.join("; "));
        }
        let said: Vec<_> = bad.iter().map(told).collect();
        let said = if said.is_empty() { "nothing in the way".to_owned() } else { said.join("; ") };
        health.fact(HOST, said);
        self.vital = vital.iter().map(|found| found.check).collect();
        self.bad = bad;
    }
}

/// What was found and what mends it, in words.
fn told(found: &Diagnosis) -> String {
    match &found.state {
        State::Bad { what, mend } => format!("{what}: {mend}"),
        State::Good | State::Unseen(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::Account;

    fn one(check: &'static str, is_bad: bool) -> Diagnosis {
        let bad = || State::Bad { what: format!("{check} is bad"), mend: "mend it".to_owned() };
        Diagnosis { check, state: if is_bad { bad() } else { State::Good } }
    }

    /// Whether the gateway is ready behind each look at one check.
    fn ready(check: &'static str, looks: &[bool]) -> Vec<bool> {
        let account = Account::start(Box::new(std::io::sink())).unwrap();
        let health = Health::new(account, &[]);
        let (mut host, mut at) = (Host::default(), Instant::now());
        let look = |is_bad: &bool| {
            at += LOOK;
            host.take(at, vec![one(check, *is_bad)], |it| it.check == "vital" && *is_bad, &health);
            health.is_ready()
        };
        looks.iter().map(look).collect()
    }

    #[test]
    fn what_is_vital_and_stays_bad_takes_the_gateway_out_of_service_and_a_flicker_does_not() {
        assert_eq!(ready("vital", &[true, true, false]), [false, false, true]);
        let flicker = [false, true, false, true, true, true, false, true];
        let wanted = [true, true, true, true, false, false, true, true];
        assert_eq!(ready("vital", &flicker), wanted);
        assert_eq!(ready("other", &[true, true]), [true, true]);
    }
}
