//! What the record says of the gateway over a span: what was in force, how long it enforced, what was
//! lost.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use crate::evidence::Happened;

/// Milliseconds of a span.
pub type Span = (i64, i64);

/// What the gateway was doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// It refused what is not permitted.
    Enforcing,
    /// It recorded, and refused nothing.
    Observing,
    /// It had ended in order.
    Stopped,
    /// Nothing says what it did: before the first record, after the last, or from the last sign of a run
    /// that ended out of order to the next start.
    Unknown,
}

/// A policy that came into force, or did not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InForce {
    /// Number of the record.
    pub number: u64,
    /// Milliseconds since 1970.
    pub at: i64,
    /// `start`, `reload`, `reload-failed` or `stop`.
    pub event: String,
    /// The policy's version.
    pub policy: String,
    /// `enforce` or `observe`; of one that was not taken up, why.
    pub mode: String,
}

/// A table that came into force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Number of the record.
    pub number: u64,
    /// Milliseconds since 1970.
    pub at: i64,
    /// The table.
    pub name: String,
    /// SHA-256 in hexadecimal digits; empty where it is gone.
    pub digest: String,
    /// The date of its data, as it says; empty where it says none.
    pub as_of: String,
}

/// Lines that were lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Number of the record that says so.
    pub number: u64,
    /// Milliseconds since 1970.
    pub at: i64,
    /// How many; `None`: nobody knows.
    pub lost: Option<u64>,
    /// Why.
    pub cause: String,
}

/// A waiver that ended, by what the record says of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ended {
    /// Who answered for it.
    pub owner: String,
    /// Its end, as the policy had it.
    pub until: String,
}

/// What the record says of a span.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// Policies, the one that was in force when the span began first.
    pub in_force: Vec<InForce>,
    /// Tables, those that were in force when the span began first.
    pub tables: Vec<Table>,
    /// Lines that were lost.
    pub gaps: Vec<Gap>,
    /// Milliseconds of each: enforcing, observing, stopped, unknown.
    pub doing: [u64; 4],
    /// Waivers that ended, by name.
    pub ended: BTreeMap<String, Ended>,
}

impl History {
    /// Of what happened, the last sign of the gateway (milliseconds since 1970), and a span of which
    /// nothing behind `now` is counted.
    #[must_use]
    pub fn of(happened: &[Happened], last: Option<i64>, (from, to): Span, now: i64) -> Self {
        let mut history = Self::default();
        let (mut policy_before, mut tables_before) = (None, BTreeMap::new());
        let mut turns: Vec<(i64, Doing)> = Vec::new();
        for Happened { number, record, before } in happened {
            let Some(at) = instant(record["time"].as_str()) else { continue };
            if at >= to {
                // What ends later has not ended yet, and yet its owner is known by it.
                history.ends(record);
                continue;
            }
            let text = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
            let event = text("event");
            match event.as_str() {
                "start" | "reload" | "reload-failed" | "stop" => {
                    let mode = if event == "reload-failed" { "cause" } else { "mode" };
                    let doing = match (event.as_str(), text("mode").as_str()) {
                        ("reload-failed", _) => None,
                        ("stop", _) => Some(Doing::Stopped),
                        (_, "enforce") => Some(Doing::Enforcing),
                        (_, "observe") => Some(Doing::Observing),
                        _ => Some(Doing::Unknown),
                    };
                    // A run that ended out of order says no more than its last record did.
                    let is_running =
                        turns.last().is_some_and(|(_, doing)| *doing != Doing::Stopped);
                    if event == "start" && is_running {
                        let sign = instant(before.as_deref()).unwrap_or(at).min(at);
                        turns.push((sign, Doing::Unknown));
                    }
                    turns.extend(doing.map(|doing| (at, doing)));
                    let one = InForce {
                        number: *number,
                        at,
                        event,
                        policy: text("policy"),
                        mode: text(mode),
                    };
                    if at >= from {
                        history.in_force.push(one);
                    } else if one.event != "reload-failed" {
                        policy_before = Some(one);
                    }
                }
                "table" => {
                    let name = text("table");
                    let (digest, as_of) = (text("digest"), text("as_of"));
                    let table = Table { number: *number, at, name, digest, as_of };
                    if at < from {
                        tables_before.insert(table.name.clone(), table);
                    } else if !history.knows(&table, &tables_before) {
                        history.tables.push(table);
                    }
                }
                "gap" | "damage" if at >= from => {
                    let (lost, cause) = match event.as_str() {
                        "gap" => (record["lost"].as_u64(), text("cause")),
                        _ => (Some(1), event),
                    };
                    history.gaps.push(Gap { number: *number, at, lost, cause });
                }
                _ => history.ends(record),
            }
        }
        history.in_force.splice(0..0, policy_before);
        tables_before.retain(|_, table| !table.digest.is_empty());
        history.tables.splice(0..0, tables_before.into_values());
        let end = to.min(now);
        // Nothing speaks for the time behind the last record, unless it is that the gateway ended.
        if let Some(last) = last
            && turns.last().is_some_and(|(at, doing)| *doing != Doing::Stopped && *at <= last)
        {
            turns.push((last, Doing::Unknown));
        }
        history.doing = durations(&turns, (from, end));
        history
    }

    /// Whether a table says what it said when it was last heard of.
    fn knows(&self, table: &Table, before: &BTreeMap<String, Table>) -> bool {
        let last = self.tables.iter().rev().find(|other| other.name == table.name);
        let last = last.or_else(|| before.get(&table.name));
        last.is_some_and(|last| last.digest == table.digest)
    }

    fn ends(&mut self, record: &Value) {
        if record["event"] == "waiver-ended" {
            let text = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
            let ended = Ended { owner: text("owner"), until: text("until") };
            self.ended.insert(text("rule"), ended);
        }
    }

    /// Milliseconds in which it did this.
    #[must_use]
    pub const fn time(&self, doing: Doing) -> u64 {
        self.doing[doing as usize]
    }
}

/// How long each thing was done between two instants.
fn durations(turns: &[(i64, Doing)], (from, to): Span) -> [u64; 4] {
    let mut sums = [0; 4];
    let begin = (i64::MIN, Doing::Unknown);
    let all: Vec<(i64, Doing)> = std::iter::once(begin).chain(turns.iter().copied()).collect();
    for (number, (at, doing)) in all.iter().enumerate() {
        let until = all.get(number + 1).map_or(i64::MAX, |(at, _)| *at);
        let (at, until) = ((*at).max(from), until.min(to));
        if let Some(sum) = sums.get_mut(*doing as usize) {
            *sum += until.saturating_sub(at).max(0).unsigned_abs();
        }
    }
    sums
}

/// Milliseconds since 1970.
fn instant(text: Option<&str>) -> Option<i64> {
    text?.parse::<Timestamp>().ok().map(Timestamp::as_millisecond)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const HOUR: i64 = 3_600_000;

    fn events(all: &[(i64, &str, &str)]) -> Vec<Happened> {
        let mut before: Option<String> = None;
        let each = all.iter().enumerate().map(|(number, (hour, event, mode))| {
            let time = Timestamp::from_millisecond(hour * HOUR).unwrap().to_string();
            let record = json!({ "event": event, "time": time, "mode": mode, "policy": "p" });
            let told = Happened { number: number as u64, record, before: before.clone() };
            before = Some(time);
            told
        });
        each.collect()
    }

    #[test]
    fn hours_in_which_it_did_not_enforce_are_counted() {
        let all = events(&[
            (1, "start", "enforce"),
            (4, "reload", "observe"),
            (5, "reload-failed", ""),
            (6, "stop", "observe"),
            (8, "start", "enforce"),
            // A connection at 10 is the last sign of it.
            (10, "other", ""),
            (13, "start", "enforce"),
        ]);
        let hours = |from: i64, to: i64, last: i64, now: i64| {
            let span = (from * HOUR, to * HOUR);
            let history = History::of(&all, Some(last * HOUR), span, now * HOUR);
            history.doing.map(|ms| ms as i64 / HOUR)
        };
        assert_eq!(hours(0, 20, 20, 20), [3 + 2 + 7, 2, 2, 1 + 3]);
        assert_eq!(hours(2, 7, 20, 20), [2, 2, 1, 0]);
        // Behind the last record, and behind now, nobody knows anything.
        assert_eq!(hours(12, 24, 15, 24), [2, 0, 0, 1 + 9]);
        assert_eq!(hours(13, 24, 16, 16), [3, 0, 0, 0]);
        let nothing = History::of(&[], None, (0, 5 * HOUR), 9 * HOUR);
        assert_eq!(nothing.doing.map(|ms| ms as i64 / HOUR), [0, 0, 0, 5]);
    }

    #[test]
    fn what_was_in_force_when_the_span_began_stands_first() {
        let all = events(&[(1, "start", "enforce"), (4, "reload", "observe"), (6, "stop", "")]);
        let history = History::of(&all, None, (2 * HOUR, 5 * HOUR), 9 * HOUR);
        let told: Vec<_> = history.in_force.iter().map(|one| (one.number, &*one.event)).collect();
        assert_eq!(told, [(0, "start"), (1, "reload")]);
    }
}
