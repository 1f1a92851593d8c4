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

/// Everything that happened to the gateway, in the order of the record, and the time of the last record.
///
/// # Errors
/// A segment cannot be read.
pub fn happened(directory: &Path) -> io::Result<(Vec<Happened>, Option<String>)> {
    let (mut all, mut last): (Vec<Happened>, Option<String>) = (Vec::new(), None);
    for segment in Segment::all(directory)? {
        let records = segment.records()?;
        let mut before: Option<&[u8]> = None;
        for (number, line) in (segment.first..).zip(lines(&records)) {
            if !is_of_a_connection(line)
                && let Ok(record) = serde_json::from_slice(line)
            {
                let before = before.and_then(time).or_else(|| last.clone());
                all.push(Happened { number, record, before });
            }
            before = Some(line);
        }
        last = before.and_then(time).or(last);
    }
    Ok((all, last))
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
        let (all, last) = happened(dir.path()).unwrap();
        let told: Vec<_> = all.iter().map(|one| (one.number, one.before.as_deref())).collect();
        assert_eq!(told, [(0, None), (2, Some("t1"))]);
        // Of the last line, which is no record, nobody knows the time.
        assert_eq!(last, None);
    }
}
