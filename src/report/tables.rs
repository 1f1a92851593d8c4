//! A report for programs: one JSON object, or the table that the preset is about as comma-separated
//! values.

use serde_json::{Value, json};

use super::figures::{days_left, end, minute};
use super::history::Doing;
use super::model::{By, Fate, Name, Part, Preset, Row, Totals, UNDECIDABLE};
use super::text::{cell, printable};
use super::texts::Texts;
use super::world::Language;
use super::{Report, Waiver};

/// How a waiver stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Days until it ends, one that has begun as a whole one.
    Days(u64),
    /// It has ended.
    Ended,
    /// It has not begun.
    NotBegun,
    /// It was used, and the policy file has it no longer.
    Gone,
    /// The policy file was not read.
    NotKnown,
}

/// A waiver with what went by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    /// Its name.
    pub rule: String,
    /// Who answers for it; empty where nobody can tell.
    pub owner: String,
    /// Why.
    pub reason: String,
    /// The ground.
    pub basis: String,
    /// Its end, as the policy or the record has it; empty where nobody can tell.
    pub until: String,
    /// First second in which it holds no longer; `None` where nobody can tell.
    pub ends: Option<i64>,
    /// How it stands.
    pub state: State,
    /// What went by it.
    pub part: Part,
}

impl Used {
    /// Its end for people, as they write one; empty where nobody can tell.
    #[must_use]
    pub fn end(&self, texts: &Texts) -> String {
        self.ends.map_or_else(|| self.until.clone(), |ends| end(ends, texts))
    }
}

/// Every waiver of the policy, and every one that was used; the most used first.
#[must_use]
pub fn used(report: &Report) -> Vec<Used> {
    // What is published says nothing of exceptions, which bear names of people.
    if report.preset == Preset::Transfers {
        return Vec::new();
    }
    let model = &report.model;
    let of = |rule: &str| model.sum(|row| row.fate == Fate::Waiver && row.rule == rule);
    let known = report.waivers.as_deref().unwrap_or_default();
    let mut all: Vec<Used> = known
        .iter()
        .map(|waiver| {
            let Waiver { rule, owner, reason, basis, since, until } = waiver.clone();
            let now = report.made.div_euclid(1000);
            let state = match (since, until) {
                (_, until) if until <= now => State::Ended,
                (Some(since), _) if since > now => State::NotBegun,
                (_, until) => State::Days(days_left(now, until)),
            };
            let (part, ends) = (of(&rule), until);
            let until = minute(ends.saturating_mul(1000));
            Used { rule, owner, reason, basis, until, ends: Some(ends), state, part }
        })
        .collect();
    for row in model.rows.iter().filter(|row| row.fate == Fate::Waiver) {
        if all.iter().any(|waiver| waiver.rule == row.rule) {
            continue;
        }
        let ended = report.history.ended.get(&row.rule).cloned().unwrap_or_default();
        all.push(Used {
            rule: row.rule.clone(),
            owner: ended.owner,
            reason: String::new(),
            basis: row.basis.clone(),
            ends: ended.until.parse().ok().map(jiff::Timestamp::as_second),
            until: ended.until,
            state: if report.waivers.is_some() { State::Gone } else { State::NotKnown },
            part: of(&row.rule),
        });
    }
    all.sort_by(|one, other| {
        (other.part.totals.up, &one.rule).cmp(&(one.part.totals.up, &other.rule))
    });
    all
}

fn totals(totals: &Totals) -> Value {
    let Totals { connections, opened, up, down } = totals;
    json!({ "connections": connections, "opened": opened, "bytes_up": up, "bytes_down": down })
}

/// A text, or null where there is none.
fn text(text: &str) -> Value {
    Some(text).filter(|text| !text.is_empty()).into()
}

fn words(codes: &str) -> Value {
    codes.split(' ').filter(|code| !code.is_empty()).collect::<Vec<_>>().into()
}

fn instant(ms: i64) -> Value {
    jiff::Timestamp::from_millisecond(ms).map_or(Value::Null, |at| format!("{at:.3}").into())
}

fn part(name: &str, part: &Part) -> Value {
    let rows: Vec<usize> = part.rows.iter().map(|row| row + 1).collect();
    json!({
        name: text(&part.key), "totals": totals(&part.totals), "outside": totals(&part.outside),
        "refused": part.refused, "rows": rows,
    })
}

fn row(number: usize, row: &Row) -> Value {
    json!({
        "row": number + 1, "group": text(&row.group), "location": words(&row.location),
        "operator": text(&row.operator), "law": words(&row.law), "basis": text(&row.basis),
        "rule": text(&row.rule), "verdict": text(&row.verdict), "reason": text(&row.reason),
        "fate": row.fate.code(), "totals": totals(&row.totals),
        "first_seen": instant(row.seen.0), "last_seen": instant(row.seen.1),
    })
}

fn name(name: &Name) -> Value {
    json!({
        "name": name.name, "totals": totals(&name.totals), "first_seen": instant(name.first_seen),
        "partial": name.partial,
    })
}

/// The report as one JSON object on one line.
#[must_use]
pub fn json(report: &Report) -> String {
    let (model, history, record) = (&report.model, &report.history, &report.record);
    let by = |label: &str, by: By| -> Vec<Value> {
        model.by(by).iter().map(|one| part(label, one)).collect()
    };
    let seen = |all: &[(String, i64)], label: &str| -> Vec<Value> {
        all.iter().map(|(key, at)| json!({ label: key, "first_seen": instant(*at) })).collect()
    };
    let fates: Vec<Value> = Fate::ALL
        .into_iter()
        .map(|fate| {
            let sum = model.sum(|row| row.fate == fate);
            part("fate", &Part { key: fate.code().to_owned(), ..sum })
        })
        .collect();
    let is_undecidable = |row: &Row| UNDECIDABLE.contains(&row.reason.as_str());
    let hours = |doing| history.time(doing) / 1000;
    let told = json!({
        "report": "schengate", "version": 1,
        "preset": preset(report.preset), "group": report.group,
        "from": instant(report.span.0.saturating_mul(1000)),
        "to": instant(report.span.1.saturating_mul(1000)),
        "made": instant(report.made),
        "totals": totals(&model.total),
        "outside": part("of", &model.sum(|row| row.fate.is_outside())),
        "fates": fates,
        "by_location": by("location", By::Location), "by_law": by("law", By::Law),
        "by_operator": by("operator", By::Operator), "by_group": by("group", By::Group),
        "by_reason": by("reason", By::Reason),
        "countries": model.countries().values().map(|one| part("country", one)).collect::<Vec<_>>(),
        "undecidable": part("of", &model.sum(is_undecidable)),
        "waivers": used(report).iter().map(waiver).collect::<Vec<_>>(),
        "refused_names": model.refused.iter().map(|(reason, names)| {
            let names = names.iter().map(|(name, count)| json!({ "name": name, "connections": count }));
            json!({ "reason": reason, "names": names.collect::<Vec<_>>() })
        }).collect::<Vec<_>>(),
        "contradicted": model.contradicted.iter().map(|one| json!({
            "operator": text(&one.operator), "name": text(&one.name),
            "location": words(&one.location), "connections": one.connections,
        })).collect::<Vec<_>>(),
        "more_contradicted": model.more_contradicted,
        "names": model.names.iter().map(name).collect::<Vec<_>>(), "more_names": model.more_names,
        "first_seen": {
            "known_before": model.first_seen.hours_before,
            "countries": seen(&model.first_seen.countries, "country"),
            "operators": seen(&model.first_seen.operators, "operator"),
            "names": model.first_seen.names.iter().map(name).collect::<Vec<_>>(),
            "more_names": model.first_seen.more_names,
        },
        "in_force": history.in_force.iter().filter(|_| report.preset != Preset::Transfers).map(|one| json!({
            "record": one.number, "time": instant(one.at), "event": one.event, "policy": one.policy,
            "mode": one.mode,
        })).collect::<Vec<_>>(),
        "tables": history.tables.iter().map(|one| json!({
            "record": one.number, "time": instant(one.at), "table": one.name,
            "digest": text(&one.digest), "as_of": text(&one.as_of),
        })).collect::<Vec<_>>(),
        "record": {
            "holds": record.verified.as_ref().map(crate::evidence::Report::holds),
            "agrees": record.reconciled.as_ref().map(crate::evidence::register::Reconciled::agrees),
            "head": record.head.as_ref().map(|head| json!({
                "log": head.log, "size": head.size, "root": head.root, "time": head.time,
                "signature_holds": head.is_signed,
            })),
            "gaps": history.gaps.iter().map(|gap| json!({
                "record": gap.number, "time": instant(gap.at), "lost": gap.lost, "cause": gap.cause,
            })).collect::<Vec<_>>(),
            "missing": record.missing,
            "unreadable": report.unreadable().collect::<Vec<_>>(),
            "seconds": {
                "enforcing": hours(Doing::Enforcing), "observing": hours(Doing::Observing),
                "stopped": hours(Doing::Stopped), "unknown": hours(Doing::Unknown),
            },
        },
        "rows": model.rows.iter().enumerate().map(|(at, one)| row(at, one)).collect::<Vec<_>>(),
    });
    printable(told.to_string().as_bytes()) + "\n"
}

const fn preset(preset: Preset) -> &'static str {
    match preset {
        Preset::Full => "full",
        Preset::Transfers => "transfers",
        Preset::Waivers => "waivers",
        Preset::FirstSeen => "first-seen",
        Preset::Group => "group",
    }
}

fn waiver(waiver: &Used) -> Value {
    let (state, days) = waiver_state(waiver.state);
    json!({
        "rule": waiver.rule, "owner": text(&waiver.owner), "reason": text(&waiver.reason),
        "basis": text(&waiver.basis), "until": text(&waiver.until), "state": state, "days_left": days,
        "totals": totals(&waiver.part.totals),
        "rows": waiver.part.rows.iter().map(|row| row + 1).collect::<Vec<_>>(),
    })
}

const fn waiver_state(state: State) -> (&'static str, Option<u64>) {
    match state {
        State::Days(days) => ("running", Some(days)),
        State::Ended => ("ended", None),
        State::NotBegun => ("not-begun", None),
        State::Gone => ("not-in-policy", None),
        State::NotKnown => ("not-known", None),
    }
}

const SUMS: [&str; 4] = ["connections", "opened", "bytes_up", "bytes_down"];

fn sums(totals: &Totals) -> Vec<String> {
    [totals.connections, totals.opened, totals.up, totals.down].map(|n| n.to_string()).to_vec()
}

/// The table that the preset is about (RFC 4180), with a first line of names.
#[must_use]
pub fn csv(report: &Report) -> String {
    let model = &report.model;
    let (names, lines): (Vec<&str>, Vec<Vec<String>>) = match report.preset {
        Preset::Full => {
            let names = [
                "row", "group", "location", "operator", "law", "basis", "rule", "verdict",
                "reason", "fate",
            ];
            let lines = model.rows.iter().enumerate().map(|(number, row)| {
                let texts = [
                    &row.group,
                    &row.location,
                    &row.operator,
                    &row.law,
                    &row.basis,
                    &row.rule,
                    &row.verdict,
                    &row.reason,
                ];
                let mut line = vec![(number + 1).to_string()];
                line.extend(texts.into_iter().cloned());
                line.push(row.fate.code().to_owned());
                line.extend(sums(&row.totals));
                line
            });
            (names.into_iter().chain(SUMS).collect(), lines.collect())
        }
        Preset::Transfers => {
            let names = ["location", "operator", "law", "basis", "fate"];
            let lines = model.rows.iter().map(|row| {
                let texts = [&row.location, &row.operator, &row.law, &row.basis];
                let mut line: Vec<String> = texts.into_iter().cloned().collect();
                line.push(row.fate.code().to_owned());
                line.extend(sums(&row.totals));
                line
            });
            (names.into_iter().chain(SUMS).collect(), lines.collect())
        }
        Preset::Waivers => {
            let names = ["waiver", "owner", "reason", "basis", "until", "state", "days_left"];
            let lines = used(report).into_iter().map(|waiver| {
                let (state, days) = waiver_state(waiver.state);
                let days = days.map(|days| days.to_string()).unwrap_or_default();
                let until = waiver.end(Texts::of(Language::En));
                let mut line = vec![
                    waiver.rule,
                    waiver.owner,
                    waiver.reason,
                    waiver.basis,
                    until,
                    state.to_owned(),
                    days,
                ];
                line.extend(sums(&waiver.part.totals));
                line
            });
            (names.into_iter().chain(SUMS).collect(), lines.collect())
        }
        Preset::FirstSeen => {
            let first = &model.first_seen;
            let kinds = [("country", &first.countries), ("operator", &first.operators)];
            let mut lines: Vec<Vec<String>> = kinds
                .into_iter()
                .flat_map(|(kind, all)| all.iter().map(move |(key, at)| (kind, key, at)))
                .map(|(kind, key, at)| {
                    let mut line = vec![kind.to_owned(), key.clone(), minute(*at)];
                    line.resize(3 + SUMS.len(), String::new());
                    line
                })
                .collect();
            lines.extend(first.names.iter().map(|name| {
                let mut line = vec!["name".to_owned(), name.name.clone(), minute(name.first_seen)];
                line.extend(sums(&name.totals));
                line
            }));
            (["kind", "what", "first_seen"].into_iter().chain(SUMS).collect(), lines)
        }
        Preset::Group => {
            let lines = model.by(By::Group).into_iter().map(|part| {
                // What ended before a verdict was judged for nobody.
                let not_judged = Texts::of(Language::En).fates[Fate::Unjudged as usize];
                let key = if part.key.is_empty() { not_judged.to_owned() } else { part.key };
                let mut line = vec![key];
                line.extend(sums(&part.totals));
                line.extend([part.outside.up.to_string(), part.refused.to_string()]);
                line
            });
            let names = ["group"].into_iter().chain(SUMS).chain(["bytes_up_outside", "refused"]);
            (names.collect(), lines.collect())
        }
    };
    let mut told = names.join(",") + "\r\n";
    for line in lines {
        let cells: Vec<String> = line.iter().map(|text| cell(text)).collect();
        told += &(cells.join(",") + "\r\n");
    }
    told
}
