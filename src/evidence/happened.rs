//! What happened to the gateway itself, read off the segments: its starts and reloads, its tables, what
//! was lost.

use std::io;
use std::path::Path;

use serde_json::Value;

use super::segment::{Segment, lines};

/// A record of the gateway, or of the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Happened {
    /// Number of the record.
    pub number: u64,
    /// The record.
    pub record: Value,
    /// The time of the record before it, as that says it: the last sign of an earlier run.
    pub before: Option<String>,
}

/// Everything that happened to the gateway, as far as the record can be read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Events {
    /// In the order of the record.
    pub all: Vec<Happened>,
    /// The time of the last record.
    pub last: Option<String>,
    /// Segments that cannot be read, each as a person is told of it.
    pub unreadable: Vec<String>,
}

/// Everything that happened to the gateway. A segment that cannot be read is named and left out: what the
/// others say is worth more than nothing.
///
/// # Errors
/// The directory cannot be read.
pub fn happened(directory: &Path) -> io::Result<Events> {
    let mut events = Events::default();
    for segment in Segment::all(directory)? {
        let records = match segment.records() {
            Ok(records) => records,
            Err(fault) => {
                events.unreadable.push(segment.unreadable(&fault));
                continue;
            }
        };
        let mut before: Option<&[u8]> = None;
        for (number, line) in (segment.first..).zip(lines(&records)) {
            if !is_of_a_connection(line)
                && let Ok(record) = serde_json::from_slice(line)
            {
                let before = before.and_then(time).or_else(|| events.last.clone());
                events.all.push(Happened { number, record, before });
            }
            before = Some(line);
        }
        events.last = before.and_then(time).or(events.last);
    }
    Ok(events)
}

/// Whether a record is of a connection: most are, and are not read any further.
fn is_of_a_connection(line: &[u8]) -> bool {
    const EVENT: &[u8] = b"\"event\":\"";
    // A key of the record's own stands before anything that a client wrote.
    let at = line.windows(EVENT.len()).position(|window| window == EVENT);
    let event = at.and_then(|at| line.get(at + EVENT.len()..)).unwrap_or_default();
    [&b"open\""[..], b"close\"", b"refused\"", b"unjudged\"", b"asked\"", b"update\""]
        .iter()
        .any(|name| event.starts_with(name))
}

fn time(line: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Timed {
        time: String,
    }
    serde_json::from_slice(line).ok().map(|Timed { time }| time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_to_the_gateway_is_told_from_what_clients_did() {
        let dir = tempfile::tempdir().unwrap();
        let text = "{\"seq\":0,\"event\":\"start\",\"time\":\"t0\"}\n\
            {\"seq\":1,\"event\":\"open\",\"time\":\"t1\",\"host\":\"\\\"event\\\":\\\"stop\\\"\"}\n\
            {\"seq\":2,\"event\":\"gap\",\"time\":\"t2\",\"cause\":\"\\\"event\\\":\\\"open\\\"\"}\nno record\n";
        std::fs::write(dir.path().join(format!("{:020}.jsonl", 0)), text).unwrap();
        let Events { all, last, unreadable } = happened(dir.path()).unwrap();
        assert_eq!(unreadable, Vec::<String>::new());
        let told: Vec<_> = all.iter().map(|one| (one.number, one.before.as_deref())).collect();
        assert_eq!(told, [(0, None), (2, Some("t1"))]);
        // Of the last line, which is no record, nobody knows the time.
        assert_eq!(last, None);
    }
}
