//! What happened to the gateway itself, read off the segments: its starts and reloads, its tables, what
//! was lost.

use std::io;
use std::ops::Range;
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
    /// Segments that cannot be read.
    pub unreadable: Vec<Unreadable>,
}

/// A segment that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The name of its file, without the directory: fit for whoever has nothing to do with this host.
    pub name: String,
    /// What a person is told who can mend it.
    pub told: String,
}

/// Everything that happened to the gateway. A segment that cannot be read is named and left out: what the
/// others say is worth more than nothing.
///
/// # Errors
/// The directory cannot be read.
pub fn happened(directory: &Path) -> io::Result<Events> {
    happened_from(directory, 0..u64::MAX, None)
}

/// The same of records of these numbers; the last sign of the gateway before them is known.
pub(super) fn happened_from(
    directory: &Path,
    numbers: Range<u64>,
    last: Option<String>,
) -> io::Result<Events> {
    let mut events = Events { last, ..Events::default() };
    let segments = Segment::all(directory)?;
    for (at, segment) in segments.iter().enumerate() {
        let is_before = segments.get(at + 1).is_some_and(|after| after.first <= numbers.start);
        if is_before || segment.first >= numbers.end {
            continue;
        }
        let records = match segment.records() {
            Ok(records) => records,
            Err(fault) => {
                events.unreadable.push(segment.named(&fault));
                continue;
            }
        };
        events.read(segment.first, &records, &numbers);
    }
    Ok(events)
}

impl Events {
    /// Reads on with the records of a segment that begins with `first`, as far as they are of these
    /// numbers.
    pub(super) fn read(&mut self, first: u64, records: &[u8], numbers: &Range<u64>) {
        let mut before: Option<&[u8]> = None;
        for (number, line) in (first..numbers.end).zip(lines(records)) {
            if numbers.contains(&number)
                && !is_of_a_connection(line)
                && let Ok(record) = serde_json::from_slice(line)
            {
                let before = before.and_then(time).or_else(|| self.last.clone());
                self.all.push(Happened { number, record, before });
            }
            before = Some(line);
        }
        self.last = before.and_then(time).or_else(|| self.last.take());
    }
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

/// When a record says that it was.
pub(super) fn time(line: &[u8]) -> Option<String> {
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
        assert_eq!(unreadable, []);
        let told: Vec<_> = all.iter().map(|one| (one.number, one.before.as_deref())).collect();
        assert_eq!(told, [(0, None), (2, Some("t1"))]);
        // Of the last line, which is no record, nobody knows the time.
        assert_eq!(last, None);
    }
}
