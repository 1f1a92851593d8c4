//! What the service has to do with the record: opens it, says how it fares, and puts into it what
//! happens to the gateway itself.

use std::time::Duration;

use serde_json::{Map, Value, json};
use tracing::{error, info};

use super::events;
use crate::account::Account;
use crate::control::admin::{self, Health};
use crate::control::config::Config;
use crate::evidence::{OnFailure, Settings, Shown, Sink, SinkFault};
use crate::policy::{Policy, Widening};

/// What the gateway misses where the record is not written.
const RECORD: &str = "the record";

/// How long the last records are waited for, where the disk takes them slowly.
const LAST_RECORDS: Duration = Duration::from_secs(5);

/// What was last said of how the record fares.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Why it is not kept at all, though the policy asks for it.
    unkept: Option<String>,
    fault: Option<String>,
}

/// Keeps the record as the policy says. Behind another process of the same service, the end of that
/// one is waited for, and lines stay in the ring meanwhile.
///
/// # Errors
/// It cannot be kept, and nothing may go unrecorded.
pub(super) fn keep(config: &Config, account: &Account, waits: bool) -> Result<Heard, SinkFault> {
    account.show(config.log);
    let Some(settings) = &config.audit else { return Ok(Heard::default()) };
    let is_passed = settings.on_failure == OnFailure::Pass;
    let _is_first = match Shown::open(settings) {
        Ok(shown) => account.show_clients(shown),
        Err(fault) if is_passed => {
            error!(%fault, "clients are withheld from the record: there is no key for pseudonyms");
            account.show_clients(Shown::withheld())
        }
        Err(fault) => return Err(fault),
    };
    let _is_first = config.position.is_none_or(|position| account.stand_at(position));
    let heard = begin(settings, account, waits)?;
    match account.prepare_clients() {
        Err(fault) if !is_passed => Err(fault),
        // They are withheld meanwhile, and the supervisor says why.
        Err(_) | Ok(()) => Ok(heard),
    }
}

fn begin(settings: &Settings, account: &Account, waits: bool) -> Result<Heard, SinkFault> {
    let directory = settings.directory.display();
    match Sink::start(settings, waits) {
        Ok(sink) => {
            let key = sink.public_key().unwrap_or_default();
            info!(%directory, %key, "the record is kept");
            let _is_first = account.keep(sink);
            Ok(Heard::default())
        }
        Err(fault) if settings.on_failure == OnFailure::Pass => {
            error!(%fault, "no record is kept, and the policy lets everything go on without it");
            Ok(Heard { unkept: Some(fault.to_string()), fault: None })
        }
        Err(fault) => Err(fault),
    }
}

impl Heard {
    /// Looks how the record fares; the gateway is not ready while it is not written.
    pub(super) fn hear(&mut self, account: &Account, health: &Health) {
        let fault = match (&self.unkept, account.fares()) {
            (Some(unkept), _) => Some(unkept.clone()),
            (None, Some(status)) => status.fault,
            (None, None) => return,
        };
        if fault == self.fault {
            return;
        }
        match &fault {
            Some(fault) => {
                error!(%fault, "the record is not written");
                health.misses(RECORD);
                health.fact(admin::RECORD, format!("NOT WRITTEN: {fault}"));
            }
            None => {
                info!("the record is written again");
                health.met(RECORD);
                health.fact(admin::RECORD, "written".to_owned());
            }
        }
        self.fault = fault;
    }
}

/// The gateway takes connections.
pub(super) fn started(account: &Account, policy: &Policy) {
    let mut fields = in_force(policy);
    fields.insert("version".to_owned(), env!("CARGO_PKG_VERSION").into());
    account.event("start", &fields);
}

/// The gateway ends: what there is is written and signed.
pub(super) fn stopped(account: &Account, policy: &Policy) {
    account.event("stop", &in_force(policy));
    if !account.close(LAST_RECORDS) {
        error!("the last records are not in a segment: the next start takes them up from the ring");
    }
}

/// Another policy is in force.
pub(super) fn reloaded(
    account: &Account,
    before: &str,
    policy: &Policy,
    widening: Option<&Widening>,
) {
    let mut fields = in_force(policy);
    fields.insert("before".to_owned(), before.into());
    fields.extend(widening.map(events::widened).unwrap_or_default());
    account.event("reload", &fields);
}

/// A policy was not taken up.
pub(super) fn not_reloaded(account: &Account, version: &str, why: &str) {
    let fields = json!({ "policy": version, "cause": why });
    if let Value::Object(fields) = fields {
        account.event("reload-failed", &fields);
    }
}

fn in_force(policy: &Policy) -> Map<String, Value> {
    let mode = if policy.enforces() { "enforce" } else { "observe" };
    let fields = [("policy", policy.version()), ("mode", mode)];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
}
