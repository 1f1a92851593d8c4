//! Records, printed: nothing that a client wrote reaches a terminal, or a table of a spreadsheet, as
//! anything but text.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;

use serde_json::Value;

use super::{Exit, complain};
use crate::evidence::{Segment, lines};

/// The form of what is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// One JSON object a line, as it is in the record
    Json,
    /// Comma-separated values (RFC 4180), with a first line of names
    Csv,
}

/// Which records.
#[derive(Debug)]
pub(super) enum Selected {
    All,
    /// Of this event id or number.
    Id(String),
    /// In which this text stands.
    Text(String),
}

/// The columns of a table, in its order.
const COLUMNS: [&str; 45] = [
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
];

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

/// A line of JSON with every control character in it escaped, those above ASCII and the marks that
/// turn the direction of text as well; bytes that are no UTF-8 are replaced.
pub(in crate::cli) fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turns {
            // Into a string nothing fails.
            write!(safe, "\\u{:04x}", u32::from(c)).ok();
        } else {
            safe.push(c);
        }
    }
    safe
}

/// Exit status: 0 something was printed, 1 nothing, 2 it cannot be read.
pub(super) fn print(
    directory: &Path,
    selected: &Selected,
    format: Format,
    out: &mut impl Write,
) -> io::Result<Exit> {
    let mut has_any = false;
    if format == Format::Csv {
        writeln!(out, "{}\r", COLUMNS.join(","))?;
    }
    let walked = walk(directory, |number, line| {
        let is_wanted = match selected {
            Selected::All => true,
            Selected::Id(id) => is_of(line, number, id),
            Selected::Text(text) => contains(line, text.as_bytes()),
        };
        if is_wanted {
            has_any = true;
            match format {
                Format::Json => writeln!(out, "{}", printable(line))?,
                Format::Csv => writeln!(out, "{}\r", row(line))?,
            }
        }
        Ok(())
    })?;
    Ok(match walked {
        Ok(()) if has_any => Exit::Yes,
        Ok(()) => Exit::No,
        Err(fault) => complain(format!("{}: {fault}", directory.display())),
    })
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
        return Ok(complain(format!("{}: {fault}", directory.display())));
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
        Err(fault) => return Ok(Err(fault.to_string())),
    };
    for segment in segments {
        let records = match segment.records() {
            Ok(records) => records,
            Err(fault) => return Ok(Err(format!("{}: {fault}", segment.name()))),
        };
        for (number, line) in (segment.first..).zip(lines(&records)) {
            see(number, line)?;
        }
    }
    Ok(Ok(()))
}

/// A record as a row of a table.
fn row(line: &[u8]) -> String {
    let record: Value = serde_json::from_slice(line).unwrap_or_default();
    let cells = COLUMNS.map(|column| match &record[column] {
        Value::Null => String::new(),
        Value::String(text) => cell(text),
        Value::Array(members) => {
            let members = members.iter().map(|member| member.as_str().unwrap_or_default());
            cell(&members.collect::<Vec<_>>().join(" "))
        }
        other @ (Value::Bool(_) | Value::Number(_) | Value::Object(_)) => cell(&other.to_string()),
    });
    cells.join(",")
}

/// A cell that is text and nothing else: control characters are escaped, and what a spreadsheet would
/// take for a formula begins with an apostrophe.
pub(super) fn cell(text: &str) -> String {
    let mut safe = printable(text.as_bytes());
    if safe.starts_with(['=', '+', '-', '@', '\\']) {
        safe.insert(0, '\'');
    }
    if safe.contains(['"', ',', '\'', ' ']) {
        safe = format!("\"{}\"", safe.replace('"', "\"\""));
    }
    safe
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
        }
        assert_eq!(printable(b"\xff\x1b[2J"), "\u{fffd}\\u001b[2J");
    }

    #[test]
    fn a08_what_would_be_a_formula_is_text() {
        for text in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "=cmd|'/c calc'!A0"] {
            let cell = cell(text);
            assert!(cell.trim_start_matches('"').starts_with('\''), "{text:?}: {cell}");
        }
        assert_eq!(cell("a\"b,c"), "\"a\"\"b,c\"");
        assert_eq!(
            (cell("198.51.100.7:443"), cell("")),
            ("198.51.100.7:443".to_owned(), String::new())
        );
    }

    #[test]
    fn a_record_is_found_by_its_number_or_its_whole_id() {
        let line = br#"{"seq":7,"event":"open","id":"19a-77","host":"x"}"#;
        assert!(is_of(line, 7, "7") && is_of(line, 7, "19a-77"));
        assert!(!is_of(line, 8, "7") && !is_of(line, 7, "19a-7") && !is_of(line, 7, "x"));
    }
}
