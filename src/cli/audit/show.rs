//! Records, printed: nothing that a client wrote reaches a terminal, or a table of a spreadsheet, as
//! anything but text.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::Path;

use jiff::Timestamp;
use serde_json::Value;

use super::place::last_entry;
use crate::cli::common::{Exit, complain};
use crate::evidence::tree::leaf_hash;
use crate::evidence::{Segment, lines};
use crate::report::ocsf;
use crate::report::text::{cell, printable};

/// The form of what is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// One JSON object a line, as it is in the record
    Json,
    /// Comma-separated values (RFC 4180), with a first line of names
    Csv,
    /// OCSF Network Activity (class 4001), one JSON object a line: connections alone
    Ocsf,
}

/// What is exported.
#[derive(Debug)]
pub(super) struct Export {
    pub(super) format: Format,
    /// Records of this second or later, and before that one.
    pub(super) between: (Option<i64>, Option<i64>),
    /// Version 1.x of OCSF.
    pub(super) minor: u8,
}

/// Which records.
#[derive(Debug)]
pub(super) enum Selected {
    /// Of this event id or number.
    Id(String),
    /// In which this text stands.
    Text(String),
}

/// The columns of a table, in its order.
const COLUMNS: [&str; 76] = [
    "seq",
    "event",
    "id",
    "time",
    "client",
    "listener",
    "transport",
    "destination",
    "host",
    "name_source",
    "name_bound",
    "sni_inside",
    "ech",
    "protocol",
    "fault",
    "location",
    "anycast",
    "source",
    "region",
    "operator",
    "asn",
    "law",
    "policy",
    "group",
    "rule",
    "basis",
    "verdict",
    "reason",
    "would",
    "mode",
    "bytes_up",
    "bytes_down",
    "duration_ms",
    "rtt_min_us",
    "rtt_contradicts",
    "end",
    "queries",
    "count",
    "last",
    "lost",
    "cause",
    "version",
    "before",
    "log",
    "first",
    "next",
    "table",
    "digest",
    "rows",
    "as_of",
    "key",
    "made",
    "from",
    "until",
    "asked",
    "purpose",
    "uid",
    "login_uid",
    "client_sealed",
    "connection",
    "probes",
    "holds",
    "schema",
    "owner",
    "widened",
    "record",
    "segment",
    "bytes",
    "detail",
    "held",
    "how",
    "names",
    "ports",
    "stands",
    "step_ms",
    "way",
];

/// The last column: what a record says beside those, as one JSON object, so that nothing is left out.
const MORE: &str = "more";

/// Whether a record, which is the one of this number, is of an event id or of a number.
pub(super) fn is_of(line: &[u8], number: u64, id: &str) -> bool {
    if id.bytes().all(|byte| byte.is_ascii_digit()) {
        return id.parse() == Ok(number);
    }
    let wanted = format!("\"id\":{}", Value::from(id));
    contains(line, wanted.as_bytes())
}

fn contains(line: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || line.windows(wanted.len()).any(|window| window == wanted)
}

/// Exit status: 0 something was printed, 1 nothing, 2 it cannot be read.
pub(super) fn print(
    directory: &Path,
    selected: &Selected,
    out: &mut impl Write,
) -> io::Result<Exit> {
    let mut has_any = false;
    let walked = walk(directory, |number, line| {
        let is_wanted = match selected {
            Selected::Id(id) => is_of(line, number, id),
            Selected::Text(text) => contains(line, text.as_bytes()),
        };
        if is_wanted {
            has_any = true;
            writeln!(out, "{}", printable(line))?;
        }
        Ok(())
    })?;
    if walked.is_ok() && !has_any {
        match selected {
            Selected::Id(id) => eprintln!("schengate: there is no record of {id:?}"),
            Selected::Text(text) => eprintln!("schengate: {text:?} stands in no record"),
        }
    }
    Ok(ended(walked, has_any))
}

fn ended(walked: Result<(), String>, has_any: bool) -> Exit {
    match walked {
        Ok(()) if has_any => Exit::Yes,
        Ok(()) => Exit::No,
        Err(fault) => complain(fault),
    }
}

/// Exit status: 0 something was exported, 1 nothing, 2 it cannot be read.
pub(super) fn export(directory: &Path, export: &Export, out: &mut impl Write) -> io::Result<Exit> {
    let (mut has_any, mut left_out) = (false, 0_u64);
    // The name of the log is known once a checkpoint is.
    let log = last_entry(directory).ok().flatten();
    let log = log.and_then(|entry| entry.note.lines().next().map(str::to_owned));
    let form = ocsf::Form { minor: export.minor, log: log.unwrap_or_default() };
    if export.format == Format::Csv {
        writeln!(out, "{},{MORE}\r", COLUMNS.join(","))?;
    }
    let walked = walk(directory, |_, line| {
        if !is_between(line, export.between) {
            return Ok(());
        }
        match export.format {
            Format::Json => writeln!(out, "{}", printable(line))?,
            Format::Csv => writeln!(out, "{}\r", row(line))?,
            Format::Ocsf => {
                let leaf: String =
                    leaf_hash(line).iter().map(|byte| format!("{byte:02x}")).collect();
                let record: Value = serde_json::from_slice(line).unwrap_or_default();
                let Some(event) = ocsf::event(&record, &leaf, &form) else {
                    left_out += 1;
                    return Ok(());
                };
                writeln!(out, "{}", printable(event.to_string().as_bytes()))?;
            }
        }
        has_any = true;
        Ok(())
    })?;
    if left_out > 0 {
        eprintln!(
            "note: {left_out} records are of no connection, or only say how far one is; they are not \
             network activity: --format json has them"
        );
    }
    Ok(ended(walked, has_any))
}

/// Whether a record is of this time; one that says no time is of none.
fn is_between(line: &[u8], (from, to): (Option<i64>, Option<i64>)) -> bool {
    if from.is_none() && to.is_none() {
        return true;
    }
    #[derive(serde::Deserialize)]
    struct Timed<'t> {
        time: &'t str,
    }
    let timed = serde_json::from_slice(line).ok().and_then(|Timed { time }| time.parse().ok());
    let Some(time): Option<Timestamp> = timed else { return false };
    let is_after = from.is_none_or(|from| time.as_millisecond() >= from.saturating_mul(1000));
    is_after && to.is_none_or(|to| time.as_millisecond() < to.saturating_mul(1000))
}

/// The last records.
pub(super) fn tail(directory: &Path, count: usize, out: &mut impl Write) -> io::Result<Exit> {
    let mut last = VecDeque::new();
    let walked = walk(directory, |_, line| {
        last.push_back(printable(line));
        if last.len() > count {
            last.pop_front();
        }
        Ok(())
    })?;
    if let Err(fault) = walked {
        return Ok(complain(fault));
    }
    last.iter().try_for_each(|line| writeln!(out, "{line}"))?;
    Ok(if last.is_empty() { Exit::No } else { Exit::Yes })
}

/// Hands over every record with its number. The outer error is of what is printed, the inner one of
/// what is read.
pub(super) fn walk(
    directory: &Path,
    mut see: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<Result<(), String>> {
    let segments = match Segment::all(directory) {
        Ok(segments) => segments,
        Err(fault) => return Ok(Err(format!("{}: {fault}", directory.display()))),
    };
    for segment in segments {
        let records = match segment.records() {
            Ok(records) => records,
            Err(fault) => return Ok(Err(segment.unreadable(&fault))),
        };
        for (number, line) in (segment.first..).zip(lines(&records)) {
            see(number, line)?;
        }
    }
    Ok(Ok(()))
}

/// A record as a row of a table.
fn row(line: &[u8]) -> String {
    let mut record: Value = serde_json::from_slice(line).unwrap_or_default();
    let mut take = |column: &str| record.get_mut(column).map(Value::take).unwrap_or_default();
    let cells = COLUMNS.map(|column| match &take(column) {
        Value::Null => String::new(),
        Value::String(text) => cell(text),
        Value::Array(members) => {
            let told =
                |member: &Value| member.as_str().map_or_else(|| member.to_string(), str::to_owned);
            cell(&members.iter().map(told).collect::<Vec<_>>().join(" "))
        }
        other @ (Value::Bool(_) | Value::Number(_) | Value::Object(_)) => cell(&other.to_string()),
    });
    let mut more = record.as_object().cloned().unwrap_or_default();
    more.retain(|_, value| !value.is_null());
    let more = if more.is_empty() { String::new() } else { cell(&Value::from(more).to_string()) };
    format!("{},{more}", cells.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a08_nothing_that_a_client_wrote_is_more_than_text() {
        for c in (0..0x300).filter_map(char::from_u32).chain(['\u{202e}', '\u{2066}']) {
            let line = serde_json::json!({ "host": format!("a{c}b"), "rule": c.to_string() });
            let shown = printable(line.to_string().as_bytes());
            assert!(
                !shown.contains(|c: char| c.is_control() || c == '\u{202e}' || c == '\u{2066}')
            );
            assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), line, "{c:?}");
            let row = row(line.to_string().as_bytes());
            assert!(!row.contains(|c: char| c.is_control()), "{row:?}");
            let is_hostile = row.contains('\u{202e}') || row.contains('\u{2066}');
            assert!(!is_hostile, "{row:?}");
        }
        assert_eq!(printable(b"\xff\x1b[2J"), "\u{fffd}\\u001b[2J");
    }

    #[test]
    fn a_table_leaves_nothing_out_that_a_record_says() {
        let record = serde_json::json!({
            "event": "table", "table": "country", "digest": "d1", "rows": 5, "as_of": "2026-08-01",
            "before": null, "names": ["a", 7], "of_tomorrow": "=x", "empty": null,
        });
        let row = row(record.to_string().as_bytes());
        for said in ["table", "country", "d1", "5", "2026-08-01", "\"a 7\""] {
            assert!(row.split(',').any(|cell| cell == said), "{said}: {row}");
        }
        assert!(row.ends_with("\"{\"\"of_tomorrow\"\":\"\"=x\"\"}\""), "{row}");
        assert!(super::row(b"{\"seq\":1}").ends_with(','));
    }

    #[test]
    fn a_record_is_found_by_its_number_or_its_whole_id() {
        let line = br#"{"seq":7,"event":"open","id":"19a-77","host":"x"}"#;
        assert!(is_of(line, 7, "7") && is_of(line, 7, "19a-77"));
        assert!(!is_of(line, 8, "7") && !is_of(line, 7, "19a-7") && !is_of(line, 7, "x"));
    }
}
