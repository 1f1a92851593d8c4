//! What a run came to: destinations, and what was refused.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::SocketAddr;

use serde::Deserialize;

use crate::enclosure::{Ended, Unserved};
use crate::sys::Gone;

/// Rows that are told apart; what comes after is counted with the last one.
const ROWS_MAX: usize = 5000;

/// The last line of a connection or of questions about a name, as far as it is asked here
/// (docs/record.md).
#[derive(Debug, Deserialize)]
pub(super) struct Final {
    event: Kind,
    listener: String,
    transport: Option<String>,
    destination: Option<SocketAddr>,
    host: Option<String>,
    location: Option<Vec<String>>,
    law: Option<Vec<String>>,
    operator: Option<String>,
    anycast: Option<bool>,
    rule: Option<String>,
    verdict: Option<String>,
    reason: Option<String>,
    would: Option<String>,
    bytes_up: u64,
    bytes_down: u64,
    end: String,
    #[serde(default)]
    queries: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Close,
    Refused,
    Unjudged,
    Asked,
}

/// What became of a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    /// It got something, or could have.
    Forwarded,
    /// The policy, or a limit, refused it.
    Refused,
    /// Its name was asked about, and the answer given.
    Asked,
    /// It ended before there was a verdict.
    Unjudged,
}

/// What rows are told apart by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) fate: Fate,
    /// The name, else the address.
    pub(super) host: Option<String>,
    /// It is a question about a name, and no connection.
    pub(super) is_question: bool,
    /// Of one without a name.
    pub(super) address: Option<SocketAddr>,
    pub(super) port: Option<u16>,
    pub(super) transport: Option<String>,
    pub(super) verdict: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) would: Option<String>,
    pub(super) rule: Option<String>,
    pub(super) location: Vec<String>,
    pub(super) law: Vec<String>,
    pub(super) operator: Option<String>,
    pub(super) anycast: bool,
}

/// What there was of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Row {
    pub(super) connections: u64,
    pub(super) up: u64,
    pub(super) down: u64,
    /// How they ended, where that was not in order.
    pub(super) ends: BTreeSet<String>,
}

/// By which policy it was judged.
#[derive(Debug, Clone, Default)]
pub(super) struct About {
    /// In words: a file, or what was given on the command line.
    pub(super) policy: String,
    pub(super) version: String,
    pub(super) enforces: bool,
}

/// What a run came to.
#[derive(Debug, Clone)]
pub(super) struct Summary {
    pub(super) command: Vec<OsString>,
    pub(super) about: About,
    pub(super) ended: Ended,
    /// Whether every line of the record was read by its end.
    pub(super) is_whole: bool,
    pub(super) rows: BTreeMap<Key, Row>,
    /// Lines that found no row of their own.
    pub(super) beyond: u64,
    /// Why lines of the record are not in the file in which it is kept.
    pub(super) record_fault: Option<String>,
}

impl Default for Summary {
    fn default() -> Self {
        let ended = Ended { gone: Gone::Exited(0), unserved: Unserved::default() };
        Self {
            command: Vec::new(),
            about: About::default(),
            ended,
            is_whole: true,
            rows: BTreeMap::new(),
            beyond: 0,
            record_fault: None,
        }
    }
}

impl Summary {
    /// Adds a line.
    pub(super) fn add(&mut self, last: Final) {
        let is_question = last.listener == "dns";
        let fate = match last.event {
            Kind::Close => Fate::Forwarded,
            Kind::Refused => Fate::Refused,
            Kind::Asked => Fate::Asked,
            Kind::Unjudged => Fate::Unjudged,
        };
        let port = last.destination.map(|at| at.port()).filter(|_| !is_question);
        let key = Key {
            fate,
            is_question,
            address: last.destination.filter(|_| last.host.is_none()),
            host: last.host,
            port,
            transport: last.transport,
            verdict: last.verdict,
            reason: last.reason,
            would: last.would,
            rule: last.rule,
            location: last.location.unwrap_or_default(),
            law: last.law.unwrap_or_default(),
            operator: last.operator,
            anycast: last.anycast.unwrap_or_default(),
        };
        if self.rows.len() >= ROWS_MAX && !self.rows.contains_key(&key) {
            self.beyond += 1;
            return;
        }
        let row = self.rows.entry(key).or_default();
        row.connections += last.queries.unwrap_or(1);
        row.up += last.bytes_up;
        row.down += last.bytes_down;
        if !["done", "refused"].contains(&last.end.as_str()) {
            row.ends.insert(last.end);
        }
    }

    /// Rows of one fate, those with most bytes up first.
    pub(super) fn of(&self, fate: Fate) -> Vec<(&Key, &Row)> {
        let mut rows: Vec<_> = self.rows.iter().filter(|(key, _)| key.fate == fate).collect();
        rows.sort_by_key(|(_, row)| std::cmp::Reverse((row.up, row.down, row.connections)));
        rows
    }

    /// Countries where bytes of what was forwarded may have landed, and those whose law reaches it.
    pub(super) fn reached(&self) -> (BTreeSet<&str>, BTreeSet<&str>) {
        let went = || self.of(Fate::Forwarded).into_iter().filter(|(_, row)| row.up > 0);
        let codes = |of: fn(&Key) -> &Vec<String>| {
            went().flat_map(move |(key, _)| of(key)).map(String::as_str).collect()
        };
        (codes(|key| &key.location), codes(|key| &key.law))
    }

    /// Connections that were forwarded, and that `enforce` would have refused.
    pub(super) fn would_be_refused(&self) -> u64 {
        let would =
            |key: &Key| key.fate == Fate::Forwarded && key.would.as_deref() == Some("block");
        self.rows.iter().filter(|(key, _)| would(key)).map(|(_, row)| row.connections).sum()
    }

    /// Connections, bytes up and bytes down of one fate.
    pub(super) fn sums(&self, fate: Fate) -> (u64, u64, u64) {
        self.of(fate).iter().fold((0, 0, 0), |(count, up, down), (_, row)| {
            (count + row.connections, up + row.up, down + row.down)
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// A line of the record with these fields in place of the usual ones.
    pub(in crate::cli::exec) fn line(fields: &serde_json::Value) -> Final {
        let mut line = json!({
            "event": "close", "listener": "tproxy", "transport": "tcp",
            "destination": "198.51.100.7:443", "host": "permitted.example", "location": ["FR"],
            "law": ["FR"], "operator": null, "anycast": false, "rule": null, "verdict": "allow",
            "reason": "permitted", "would": null, "bytes_up": 10, "bytes_down": 20, "end": "done",
            "queries": null,
        });
        for (name, value) in fields.as_object().unwrap() {
            line[name] = value.clone();
        }
        serde_json::from_value(line).unwrap()
    }

    #[test]
    fn lines_of_one_destination_are_one_row_and_each_fate_has_its_own() {
        let mut summary = Summary::default();
        summary.add(line(&json!({})));
        summary.add(line(&json!({ "destination": "198.51.100.8:443", "bytes_up": 1 })));
        summary.add(line(&json!({
            "event": "refused", "host": "refused.example", "location": ["US"], "law": ["US"],
            "verdict": "block", "reason": "outside", "bytes_up": 0, "bytes_down": 0, "end": "refused",
        })));
        let went = summary.of(Fate::Forwarded);
        assert_eq!(went.len(), 1, "{went:?}");
        assert_eq!((went[0].1.connections, went[0].1.up, went[0].1.down), (2, 11, 40));
        assert_eq!(summary.sums(Fate::Refused), (1, 0, 0));
        let (places, law) = summary.reached();
        assert!(places.iter().eq(["FR"].iter()) && law.iter().eq(["FR"].iter()), "{places:?}");
    }

    #[test]
    fn rows_are_bounded_and_what_finds_none_is_counted() {
        let mut summary = Summary::default();
        for number in 0..ROWS_MAX + 7 {
            summary.add(line(&json!({ "host": format!("n{number}.example") })));
        }
        assert_eq!((summary.rows.len(), summary.beyond), (ROWS_MAX, 7));
    }
}
