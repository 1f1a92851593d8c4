//! The API, version 1 (docs/api.md): JSON, of bounded length, never from what a worker would have to
//! stop for.

use std::collections::HashSet;
use std::sync::Arc;

use hyper::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::access::Who;
use super::console::{Console, Untold};
use super::parameters::{ROWS_MAX, Wrong};
use super::pulse::count;
use super::{events, live, words};
use crate::control::config::Rule;
use crate::control::data::SourceInfo;
use crate::policy::{Action, Policy};
use crate::report::figures::days_left;

/// What every path of the API begins with.
pub(super) const ROOT: &str = "/api/v1/";

/// The answer to a request below [`ROOT`]; `path` is what stands behind it.
pub(super) async fn answer(
    console: &Console,
    method: &Method,
    path: &str,
    query: &str,
    who: &Who,
) -> Result<Value, Wrong> {
    let parts: Vec<&str> = path.split('/').collect();
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    match (parts.as_slice(), is_read) {
        (["connections", id], false) if *method == Method::DELETE => {
            live::kill(console, id, who).await
        }
        (["connections", id, "kill"], false) if *method == Method::POST => {
            live::kill(console, id, who).await
        }
        (["connections", _, "kill"], _) => Err(wrong_method("POST")),
        (["connections", _], false) => Err(wrong_method("GET, HEAD, DELETE")),
        (["state"], true) => state(console),
        (["verdicts"], true) => Ok(verdicts(console)),
        (["connections"], true) => live::connections(console, query).await,
        (["connections", id], true) => live::connection(console, id).await,
        (["top"], true) => live::top(console, query).await,
        (["refusals"], true) => events::refusals(console, query),
        (["events", id], true) => events::event(console, id).await,
        (["explain"], true) => events::explain(console, query).await,
        (["waivers"], true) => waivers(console),
        (["tables"], true) => tables(console),
        (["record"], true) => Ok(record(console)),
        (["policy"], true) => policy(console),
        (_, true) => Err(Wrong(StatusCode::NOT_FOUND, "docs/api.md lists what there is.".into())),
        (_, false) => Err(wrong_method("GET, HEAD")),
    }
}

fn wrong_method(allowed: &str) -> Wrong {
    Wrong(StatusCode::METHOD_NOT_ALLOWED, format!("allowed here: {allowed}"))
}

pub(super) fn state(console: &Console) -> Result<Value, Wrong> {
    let in_force = console.policy()?;
    let config = in_force.compiler.config();
    let now = Timestamp::now();
    let policy = in_force.policy(now);
    let missing = console.health.missing();
    let facts: Map<String, Value> =
        console.health.facts().into_iter().map(|(term, text)| (term.into(), text.into())).collect();
    let mode = |policy: &Arc<Policy>| if policy.enforces() { "enforce" } else { "observe" };
    Ok(json!({
        "api": 1,
        "version": env!("CARGO_PKG_VERSION"),
        "time": format!("{now:.3}"),
        "started": format!("{:.3}", console.begun.1),
        "uptime_s": console.begun.0.elapsed().as_secs(),
        "ready": missing.is_empty(),
        "missing": missing,
        "mode": policy.as_ref().map(mode),
        "policy": {
            "version": policy.as_ref().map(|policy| policy.version()),
            "file": config.path.as_ref().map(|path| path.display().to_string()),
            "rules": config.rules.len(),
            "groups": config.groups.len(),
            "lapsed": policy.is_none(),
        },
        "data": in_force.compiler.infos().iter().map(|info| json!({
            "name": info.name,
            "digest": info.digest,
        })).collect::<Vec<_>>(),
        "live": console.account.metrics().counts().live,
        "facts": facts,
    }))
}

pub(super) fn verdicts(console: &Console) -> Value {
    let counts = console.account.metrics().counts();
    let pulse = &console.pulse;
    let round = |rate: f64| (rate * 100.0).round() / 100.0;
    let reasons: Vec<Value> = counts
        .verdicts
        .iter()
        .map(|&(action, reason, count)| {
            json!({
                "verdict": action.label(),
                "reason": reason.label(),
                "sentence": reason.sentence(),
                "count": count,
                "rate": round(pulse.rate_of(action, reason, 10)),
            })
        })
        .collect();
    let countries = counts.countries.iter();
    json!({
        "live": counts.live,
        "totals": {
            "allow": count(&counts, Action::Allow),
            "log": count(&counts, Action::Log),
            "block": count(&counts, Action::Block),
            "unjudged": counts.unjudged,
            "bytes_up": counts.bytes_up,
            "bytes_down": counts.bytes_down,
        },
        "rates": {
            "second": pulse.rates(1).json(),
            "ten_seconds": pulse.rates(10).json(),
            "minute": pulse.rates(60).json(),
        },
        "seconds": pulse.seconds(),
        "reasons": reasons,
        "countries": countries.map(|(country, count)| json!({
            "country": country.code(),
            "count": count,
        })).collect::<Vec<_>>(),
        "no_country": counts.no_country,
        "several_countries": counts.several_countries,
        "no_place": counts.no_place,
    })
}

/// Days until an instant, as a report counts them.
fn days(now: Timestamp, until: Timestamp) -> u64 {
    days_left(now.as_second(), until.as_second())
}

pub(super) fn waivers(console: &Console) -> Result<Value, Wrong> {
    let in_force = console.policy()?;
    let now = Timestamp::now();
    let mut named = HashSet::new();
    // A rule of services is several, of one name.
    let rules = in_force.compiler.config().rules.iter();
    let rules = rules.filter(|rule| rule.is_waiver() && named.insert(rule.name.as_str()));
    let mut rules: Vec<&Rule> = rules.collect();
    rules.sort_by_key(|rule| rule.until);
    let all = rules.len();
    rules.truncate(ROWS_MAX);
    let row = |rule: &&Rule| {
        let until = rule.until.map(|until| until.0);
        let is_over = until.is_some_and(|until| until <= now);
        let begins = rule.since.filter(|since| *since > now);
        let status = if is_over {
            "over"
        } else if begins.is_some() {
            "ahead"
        } else {
            "holds"
        };
        json!({
            "rule": rule.name,
            "action": rule.action.label(),
            "owner": rule.owner,
            "basis": rule.basis,
            "reason": rule.reason,
            "since": rule.since.map(|at| at.to_string()),
            "until": until.map(|at| at.to_string()),
            "days_left": until.map(|until| days(now, until)),
            "status": status,
            "is_used": console.account.waiver_is_used(&rule.name),
        })
    };
    let rows: Vec<_> = rules.iter().map(row).collect();
    Ok(json!({ "waivers": rows, "more": all - rules.len() }))
}

pub(super) fn tables(console: &Console) -> Result<Value, Wrong> {
    let in_force = console.policy()?;
    let now = Timestamp::now();
    let days = |time: std::time::Duration| time.as_secs() / 86_400;
    let row = |info: &SourceInfo| {
        let (age, max_age) = (info.age(now), in_force.compiler.max_age(&info.name));
        let is_stale = age.zip(max_age).is_some_and(|(age, max)| age > max);
        json!({
            "name": info.name,
            "file": info.origin.as_ref().map(|path| path.display().to_string()),
            "as_of": info.as_of.map(|at| at.to_string()),
            "dated_by_file": info.dated_by_file,
            "age_days": age.map(days),
            "max_age_days": max_age.map(days),
            "is_stale": is_stale,
            "advice": info.old(now),
            "rows": info.rows,
            "licence": info.licence,
            "digest": info.digest,
        })
    };
    Ok(json!({ "tables": in_force.compiler.infos().iter().map(row).collect::<Vec<_>>() }))
}

pub(super) fn record(console: &Console) -> Value {
    let Some(status) = console.account.fares() else {
        return json!({ "kept": false, "is_written": null, "fault": null, "records": null,
            "gaps": null, "bytes": null, "bytes_time": null, "head_size": null,
            "head_time": null, "registered": null });
    };
    let instant = |seconds: u64| {
        let at = i64::try_from(seconds).ok().filter(|at| *at > 0);
        at.and_then(|at| Timestamp::from_second(at).ok()).map(|at| at.to_string())
    };
    json!({
        "kept": true,
        "is_written": status.fault.is_none(),
        "fault": status.fault,
        "records": status.records,
        "gaps": status.gaps,
        "bytes": status.bytes,
        "bytes_time": instant(status.bytes_time),
        "head_size": status.head_size,
        "head_time": instant(status.head_time),
        "registered": status.registered,
    })
}

pub(super) fn policy(console: &Console) -> Result<Value, Wrong> {
    let in_force = console.policy()?;
    let now = Timestamp::now();
    let policy = in_force.policy(now).ok_or(Untold::NotYet)?;
    Ok(words::policy(in_force.compiler.config(), policy.version(), now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_whole_and_never_below_none() {
        let now: Timestamp = "2026-11-30T12:00:00Z".parse().unwrap();
        let until = |text: &str| days(now, text.parse().unwrap());
        assert_eq!(until("2026-11-30T12:00:01Z"), 1);
        assert_eq!(until("2026-12-01T12:00:00Z"), 1);
        assert_eq!(until("2026-12-01T12:00:01Z"), 2);
        assert_eq!(until("2026-11-30T12:00:00Z"), 0);
        assert_eq!(until("2020-01-01T00:00:00Z"), 0);
    }
}
