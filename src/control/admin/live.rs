//! The live connections: listed, added up, ended.

use std::cmp::Reverse;

use hyper::StatusCode;
use serde_json::{Value, json};

use super::access::Who;
use super::console::Console;
use super::parameters::{Parameters, Wrong};
use crate::account::Account;
use crate::account::live::{By, LiveConnection, Order, Selection};
use crate::evidence::register::Row;
use crate::policy::{Country, CountrySet};

/// The longest span that sums of the register are asked for, hours.
const HOURS_MAX: u32 = 24 * 31;

fn codes(set: CountrySet) -> Vec<&'static str> {
    set.iter().map(Country::code).collect()
}

/// A live connection.
pub(super) fn row(connection: &LiveConnection, account: &Account) -> Value {
    let facts = connection.context.facts();
    json!({
        "id": account.id(connection.sequence),
        "client": connection.client.to_string(),
        "listener": connection.ingress.label(),
        "transport": connection.transport.label(),
        "protocol": connection.protocol.label(),
        "destination": connection.destination.to_string(),
        "host": connection.host.as_deref(),
        "location": codes(facts.place.codes),
        "anycast": facts.place.anycast,
        "operator": facts.place.operator,
        "asn": facts.place.asn,
        "law": codes(facts.place.law),
        "group": facts.group,
        "rule": facts.rule,
        "basis": facts.basis,
        "policy": facts.policy,
        "verdict": connection.action.label(),
        "reason": connection.reason.label(),
        "bytes_up": connection.bytes_up,
        "bytes_down": connection.bytes_down,
        "age_s": connection.age.as_secs(),
    })
}

pub(super) async fn connections(console: &Console, query: &str) -> Result<Value, Wrong> {
    let known = ["order", "limit", "after", "client", "host", "country", "reason"];
    let parameters = Parameters::read(query, &known)?;
    let order = |text: &str| match text {
        "newest" => Some(Order::Newest),
        "up" => Some(Order::Up),
        "down" => Some(Order::Down),
        _ => None,
    };
    let place = |text: &str| {
        let (by, sequence) = text.split_once('-')?;
        Some((by.parse().ok()?, sequence.parse().ok()?))
    };
    let wanted = Selection {
        order: parameters.parsed("order", "newest, up or down", order)?.unwrap_or(Order::Newest),
        after: parameters.parsed("after", "write what `next` of an answer says", place)?,
        limit: parameters.limit()?,
        client: parameters.client()?,
        host: parameters.text("host").map(str::to_lowercase),
        country: parameters.country()?,
        reason: parameters.reason()?,
        sequence: None,
    };
    let (order, limit) = (wanted.order, wanted.limit);
    let listed = console.list(wanted).await?;
    let last = listed.rows.last().filter(|_| listed.rows.len() == limit);
    let next = last.map(|row| row.place(order)).map(|(by, number)| format!("{by}-{number}"));
    let rows: Vec<_> = listed.rows.iter().map(|one| row(one, &console.account)).collect();
    Ok(json!({
        "live": listed.live,
        "matching": listed.matching,
        "connections": rows,
        "next": next,
    }))
}

fn unknown_id() -> Wrong {
    Wrong(StatusCode::NOT_FOUND, "There is no live connection of this id.".to_owned())
}

/// The live connection of an event id.
pub(super) async fn live(console: &Console, id: &str) -> Result<Option<LiveConnection>, Wrong> {
    let Some(sequence) = console.account.sequence(id) else { return Ok(None) };
    let wanted = Selection { sequence: Some(sequence), ..Selection::newest(1) };
    Ok(console.list(wanted).await?.rows.into_iter().next())
}

pub(super) async fn connection(console: &Console, id: &str) -> Result<Value, Wrong> {
    let found = live(console, id).await?.ok_or_else(unknown_id)?;
    Ok(row(&found, &console.account))
}

pub(super) async fn kill(console: &Console, id: &str, who: &Who) -> Result<Value, Wrong> {
    let sequence = console.account.sequence(id).ok_or_else(unknown_id)?;
    if !console.kill(sequence).await? {
        return Err(unknown_id());
    }
    tracing::info!(connection = id, by = %who, "a connection is ended by the API");
    let fields = [("action", "kill"), ("connection", id), ("by", &who.to_string())]
        .map(|(name, value)| (name.to_owned(), value.into()));
    console.account.event("admin", &fields.into_iter().collect());
    Ok(json!({ "id": id, "killed": true }))
}

pub(super) async fn top(console: &Console, query: &str) -> Result<Value, Wrong> {
    let parameters = Parameters::read(query, &["by", "direction", "limit", "hours"])?;
    let by = |text: &str| By::ALL.into_iter().find(|by| by.label() == text);
    let by = parameters.parsed("by", "destination, country, operator, client or group", by)?;
    let by = by.unwrap_or(By::Destination);
    let up = parameters.parsed("direction", "up or down", |text| match text {
        "up" => Some(true),
        "down" => Some(false),
        _ => None,
    });
    let (up, limit) = (up?.unwrap_or(true), parameters.limit()?);
    let hours = |text: &str| text.parse().ok().filter(|hours| (1..=HOURS_MAX).contains(hours));
    let hours = parameters.parsed("hours", &format!("write 1 to {HOURS_MAX}"), hours)?;
    let mut rows: Vec<(String, u64, u64, u64)> = match hours {
        None => {
            let totals = console.totals(by).await?.into_iter();
            totals.map(|(key, t)| (key, t.connections, t.bytes_up, t.bytes_down)).collect()
        }
        Some(_) if by == By::Client => {
            let what = "by: sums over hours have no clients; leave `hours` out";
            return Err(Wrong::query(what));
        }
        Some(hours) => {
            let rows = console.register(by, hours).await?;
            let key = |row: &Row| row.values.first().cloned();
            rows.iter()
                .map(|row| {
                    let sums = &row.sums;
                    let key = key(row).unwrap_or_default();
                    (key, sums.connections, sums.bytes_up, sums.bytes_down)
                })
                .collect()
        }
    };
    let of = |row: &(String, u64, u64, u64)| if up { row.2 } else { row.3 };
    let (sum_up, sum_down) = rows.iter().fold((0_u64, 0_u64), |(up, down), row| {
        (up.saturating_add(row.2), down.saturating_add(row.3))
    });
    let all = rows.len();
    rows.sort_unstable_by(|a, b| Reverse(of(a)).cmp(&Reverse(of(b))).then_with(|| a.0.cmp(&b.0)));
    rows.truncate(limit);
    let row = |(key, connections, bytes_up, bytes_down): &(String, u64, u64, u64)| {
        json!({
            "key": key,
            "connections": connections,
            "bytes_up": bytes_up,
            "bytes_down": bytes_down,
        })
    };
    Ok(json!({
        "by": by.label(),
        "direction": if up { "up" } else { "down" },
        "of": if hours.is_some() { "register" } else { "live" },
        "hours": hours,
        "rows": rows.iter().map(row).collect::<Vec<_>>(),
        "more": all - rows.len(),
        "bytes_up": sum_up,
        "bytes_down": sum_down,
    }))
}
