//! What was decided, and what would be: refusals of late, one event, one question.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use hyper::StatusCode;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::console::{Console, InForce, Untold};
use super::live::{live, row};
use super::parameters::{Parameters, ROWS_MAX, Wrong};
use crate::account::live::Selection;
use crate::account::{Happened, Notice};
use crate::control::config;
use crate::control::explain::{Answer, Asked, Spoken, destination};
use crate::identify::{HostName, Protocol};
use crate::policy::{Action, Claim, Policy, Question, Reason, Transport};

/// Addresses of one name that are judged where nobody gives one.
const SEEN_MAX: usize = 8;

pub(super) fn refusals(console: &Console, query: &str) -> Result<Value, Wrong> {
    let parameters =
        Parameters::read(query, &["limit", "before", "client", "country", "reason", "host"])?;
    let (limit, client) = (parameters.limit()?, parameters.client()?);
    let (country, reason) = (parameters.country()?, parameters.reason()?);
    let host = parameters.text("host").map(str::to_lowercase);
    let sequence = |text: &str| console.account.sequence(text);
    let before = parameters.parsed("before", "write what `next` of an answer says", sequence)?;
    let (rows, seen) = console.pulse.refusals(before, limit, |row| {
        let judged = row.judged.as_ref();
        let name = judged.and_then(|judged| judged.name.as_ref());
        let codes = judged.map(|judged| judged.context.facts().place.codes);
        client.is_none_or(|client| client == row.client.ip())
            && reason.is_none_or(|reason| judged.is_some_and(|j| j.verdict.reason() == reason))
            && country.is_none_or(|country| codes.is_some_and(|codes| codes.contains(country)))
            && host.as_ref().is_none_or(|part| name.is_some_and(|it| it.host().contains(part)))
    });
    let next = rows.last().filter(|_| rows.len() == limit);
    let next = next.map(|row| console.account.id(row.sequence));
    let fields: Vec<Value> = rows
        .iter()
        .map(|row| Value::Object(row.fields(console.account.id(row.sequence))))
        .collect();
    Ok(json!({ "seen": seen, "refusals": fields, "next": next }))
}

pub(super) async fn event(console: &Console, id: &str) -> Result<Value, Wrong> {
    let in_memory = console.account.sequence(id).and_then(|sequence| console.pulse.event(sequence));
    let (fields, from) = match in_memory {
        Some(happened) => (happened.fields(id.to_owned()), "memory"),
        None => match live(console, id).await? {
            Some(found) => match row(&found, &console.account) {
                Value::Object(fields) => (fields, "live"),
                Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::String(_)
                | Value::Array(_) => (Map::new(), "live"),
            },
            None => match console.recorded(id.to_owned()).await {
                Ok(Some(fields)) => (fields, "record"),
                Ok(None) | Err(Untold::NoRecord) => {
                    let what = if console.has_record() {
                        "No event of this id is in memory, alive, or in the newest segments of \
                         the record; `schengate audit show` searches all."
                    } else {
                        "No event of this id is in memory or alive, and no record is kept: the \
                         policy has no [audit]. The log of the service, where it was kept, has a \
                         line of each."
                    };
                    return Err(Wrong(StatusCode::NOT_FOUND, what.to_owned()));
                }
                Err(untold) => return Err(untold.into()),
            },
        },
    };
    let in_force = console.policy()?;
    let now = Timestamp::now();
    let policy = in_force.policy(now);
    let today = policy.as_ref().and_then(|policy| today(&fields, &in_force, policy, now));
    let notice = notice(id, &fields, policy.as_deref());
    Ok(json!({
        "event": fields,
        "from": from,
        "told": notice.map(|notice| json!({ "text": notice.text(), "problem": notice.json() })),
        "today": today,
    }))
}

fn text<'f>(fields: &'f Map<String, Value>, name: &str) -> Option<&'f str> {
    fields.get(name).and_then(Value::as_str)
}

/// What the refused was told of an event, by its record; `None` where it was not refused.
fn notice(id: &str, fields: &Map<String, Value>, policy: Option<&Policy>) -> Option<Notice> {
    let owned = |name| text(fields, name).map(str::to_owned);
    let is_refused = text(fields, "verdict") == Some(Action::Block.label())
        || text(fields, "would") == Some(Action::Block.label());
    let label = text(fields, "reason").filter(|_| is_refused)?;
    let codes = fields.get("location").and_then(Value::as_array);
    let codes: Vec<_> = codes.into_iter().flatten().filter_map(Value::as_str).collect();
    let place = match (fields.get("anycast") == Some(&Value::Bool(true)), codes.is_empty()) {
        (true, _) => "anycast".to_owned(),
        (false, true) => "unknown".to_owned(),
        (false, false) => codes.join(" "),
    };
    Some(Notice {
        reason: Reason::ALL.into_iter().find(|reason| reason.label() == label)?,
        place,
        host: owned("host"),
        destination: owned("destination").filter(|at| is_somewhere(at)),
        rule: owned("rule"),
        group: owned("group"),
        policy: owned("policy"),
        event: id.to_owned(),
        contact: policy.and_then(Policy::contact).map(str::to_owned),
        ask_url: policy.and_then(Policy::ask_url).map(str::to_owned),
    })
}

/// Whether an address and port are a place: what is refused by its name alone has none.
fn is_somewhere(at: &str) -> bool {
    at.parse::<SocketAddr>().is_ok_and(|at| !at.ip().is_unspecified())
}

/// What the policy in force decides about what a record tells.
fn today(
    fields: &Map<String, Value>,
    in_force: &InForce,
    policy: &Policy,
    now: Timestamp,
) -> Option<Value> {
    let client = text(fields, "client")?.parse::<SocketAddr>().ok().map(|client| client.ip());
    let host = text(fields, "host").and_then(|host| config::host_name(host).ok());
    let to: SocketAddr = text(fields, "destination")?.parse().ok()?;
    // Refused by its name, before it had an address.
    if let Some(host) = host.as_ref().filter(|_| to.ip().is_unspecified()) {
        return Some(json!({
            "host": host.as_str(),
            "client": client.map(|client| client.to_string()),
            "by_name": refused_by_name(policy, host, client),
            "addresses": [],
        }));
    }
    let asked = Asked {
        to,
        host,
        client,
        protocol: Spoken::of(text(fields, "protocol").unwrap_or_default()),
        ech: fields.get("ech") == Some(&Value::Bool(true)),
        malformed: text(fields, "fault").is_some(),
        unbound: fields.get("name_bound") == Some(&Value::Bool(false)),
    };
    Some(Answer::new(&asked, &in_force.compiler, policy, now).json())
}

pub(super) async fn explain(console: &Console, query: &str) -> Result<Value, Wrong> {
    let known = ["to", "host", "client", "protocol", "ech", "malformed", "unbound"];
    let parameters = Parameters::read(query, &known)?;
    let in_force = console.policy()?;
    let now = Timestamp::now();
    let policy = in_force.policy(now).ok_or(Untold::NotYet)?;
    let protocol = |text: &str| {
        let spoken = Spoken::of(text);
        (spoken != Spoken::Other || text == "other").then_some(spoken)
    };
    let protocol = parameters.parsed("protocol", "tls, quic, http, dtls or other", protocol)?;
    let to = parameters.text("to").map(destination).transpose();
    let to = to.map_err(|fault| Wrong::query(fault.to_string()))?;
    let asked = |to| -> Result<Asked, Wrong> {
        Ok(Asked {
            to,
            host: parameters.host()?,
            client: parameters.client()?,
            protocol: protocol.unwrap_or(Spoken::Tls),
            ech: parameters.flag("ech")?,
            malformed: parameters.flag("malformed")?,
            unbound: parameters.flag("unbound")?,
        })
    };
    let Some(to) = to else {
        let host = parameters.host()?;
        let host = host.ok_or_else(|| Wrong::query("write `to` (IP, IP:PORT) or `host`"))?;
        return by_name(console, &in_force, &policy, &host, parameters.client()?, now).await;
    };
    Ok(Answer::new(&asked(to)?, &in_force.compiler, &policy, now).json())
}

/// The refusal of a name that no address can turn; `None` where it depends on the address.
fn refused_by_name(policy: &Policy, host: &HostName, client: Option<IpAddr>) -> Option<Value> {
    let verdict = policy.decide_name(&Question {
        client,
        destination: SocketAddr::from((Ipv6Addr::UNSPECIFIED, 443)),
        transport: Transport::Tcp,
        protocol: Protocol::Tls,
        name: Claim::Bound(host),
        ech: false,
    })?;
    let would = verdict.would().unwrap_or_else(|| verdict.action());
    (would == Action::Block).then(|| {
        json!({
            "verdict": verdict.action().label(),
            "reason": verdict.reason().label(),
            "would": verdict.would().map(Action::label),
            "rule": verdict.rule().map(|rule| policy.rule_name(rule)),
            "mode": verdict.mode().label(),
            "sentence": "No address can make the policy let this name go.",
        })
    })
}

/// What is known of a name without an address: whether the name alone is refused, and how those of its
/// addresses are judged to which connections went lately. Nothing is looked up: a query would carry the
/// name out.
async fn by_name(
    console: &Console,
    in_force: &InForce,
    policy: &Policy,
    host: &HostName,
    client: Option<IpAddr>,
    now: Timestamp,
) -> Result<Value, Wrong> {
    let refused = refused_by_name(policy, host, client);
    let mut seen: Vec<SocketAddr> = Vec::new();
    if refused.is_none() {
        let wanted =
            Selection { host: Some(host.as_str().to_owned()), ..Selection::newest(ROWS_MAX) };
        let live = console.list(wanted).await?.rows;
        let live = live.iter().filter(|row| row.host.as_deref() == Some(host.as_str()));
        seen.extend(live.map(|row| row.destination));
        let of = |row: &Happened| {
            let name = row.judged.as_ref().and_then(|judged| judged.name.as_ref());
            name.is_some_and(|name| name.host() == host.as_str())
        };
        let (rows, _) = console.pulse.refusals(None, ROWS_MAX, of);
        seen.extend(rows.iter().filter_map(|row| row.destination));
        let mut known = HashSet::new();
        seen.retain(|at| !at.ip().is_unspecified() && known.insert(*at));
        seen.truncate(SEEN_MAX);
    }
    let judged = |to: SocketAddr| {
        let (protocol, ech, malformed, unbound) = (Spoken::Tls, false, false, false);
        let asked = Asked { to, host: Some(*host), client, protocol, ech, malformed, unbound };
        Answer::new(&asked, &in_force.compiler, policy, now).json()
    };
    Ok(json!({
        "host": host.as_str(),
        "client": client.map(|client| client.to_string()),
        "by_name": refused,
        "addresses": seen.into_iter().map(judged).collect::<Vec<_>>(),
    }))
}
