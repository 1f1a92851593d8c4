//! The summary of a run, for people and for programs.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::{Value, json};

use super::summary::{Fate, Key, Row, Summary};
use crate::policy::Reason;
use crate::report::text::printable;
use crate::sys::Gone;

/// Codes that a cell shows before it only counts them.
const CODES_SHOWN: usize = 4;

/// Rows of one table that are shown.
const ROWS_SHOWN: usize = 40;

/// The longest cell that is shown whole.
const CELL_MAX: usize = 60;

/// A text in which nothing is more than text.
pub(super) fn plain(text: &str) -> String {
    printable(text.as_bytes())
}

/// The first cells of a row: whom it is about, and how often.
fn holder(key: &Key, row: &Row) -> [String; 5] {
    let operator = key.operator.as_deref().map_or_else(|| "-".to_owned(), plain);
    [whom(key), place(key), codes(&key.law), operator, row.connections.to_string()]
}

/// For people.
pub(super) fn text(summary: &Summary, is_colored: bool) -> String {
    let paint = Paint(is_colored);
    let mut out = String::new();
    let (connections, up, down) = summary.sums(Fate::Forwarded);
    let (refused, ..) = summary.sums(Fate::Refused);
    let about = &summary.about;
    let mode = if about.enforces { "enforced" } else { "only observed" };
    let version = about.version.get(..12).unwrap_or(&about.version);
    let (policy, version) = (plain(&about.policy), plain(version));
    let command: Vec<_> = summary.command.iter().map(|word| word.to_string_lossy()).collect();
    let command = short(&plain(&command.join(" ")));
    let head = format!("schengate exec: {command}: {}", ended(summary.ended.gone));
    // Into a text nothing fails.
    writeln!(out, "\n{}", paint.bold(&head)).ok();
    writeln!(out, "  by {policy} ({mode}, version {version})").ok();
    writeln!(
        out,
        "  {}, {} up, {} down; {refused} refused{}",
        counted(connections, "connection"),
        bytes(up),
        bytes(down),
        match summary.would_be_refused() {
            0 => String::new(),
            would => format!(", {would} WOULD BE REFUSED by enforce"),
        }
    )
    .ok();
    let (places, law) = summary.reached();
    if !places.is_empty() || !law.is_empty() {
        writeln!(out, "  bytes went to {}, under the law of {}", list(&places), list(&law)).ok();
    }
    let went: Vec<_> = summary.of(Fate::Forwarded);
    table(
        &mut out,
        &paint.bold("went to"),
        &["DESTINATION", "PLACE", "LAW", "OPERATOR", "CONNECTIONS", "UP", "DOWN", "WHY"],
        went.iter().map(|(key, row)| {
            let sent = [bytes(row.up), bytes(row.down)];
            let cells = holder(key, row).into_iter().chain(sent).chain([why(key, row)]).collect();
            (cells, key.would.as_deref() == Some("block"))
        }),
        paint,
    );
    let refused: Vec<_> = summary.of(Fate::Refused);
    table(
        &mut out,
        &paint.red("refused"),
        &["DESTINATION", "PLACE", "LAW", "OPERATOR", "TIMES", "WHY"],
        refused.iter().map(|(key, row)| {
            (holder(key, row).into_iter().chain([why(key, row)]).collect(), false)
        }),
        paint,
    );
    let asked: Vec<_> =
        summary.of(Fate::Asked).into_iter().filter(|(key, _)| !is_met(summary, key)).collect();
    table(
        &mut out,
        &paint.bold("names asked about, without a connection"),
        &["NAME", "TIMES"],
        asked.iter().map(|(key, row)| (vec![whom(key), row.connections.to_string()], false)),
        paint,
    );
    for (key, row) in summary.of(Fate::Unjudged) {
        let ends: Vec<_> = row.ends.iter().map(|end| plain(end)).collect();
        let count = counted(row.connections, "connection");
        writeln!(out, "  {count} ended before a verdict: {} ({})", whom(key), ends.join(", ")).ok();
    }
    let unserved = summary.ended.unserved;
    if unserved.udp > 0 {
        let count = counted(unserved.udp, "UDP datagram");
        writeln!(out, "  {count} to ports other than 53 and 443: there is no way for them").ok();
    }
    if unserved.others > 0 {
        let count = counted(unserved.others, "packet");
        writeln!(out, "  {count} neither TCP nor UDP (ping, for example): dropped").ok();
    }
    if summary.beyond > 0 {
        writeln!(out, "  {} lines of the record found no row here", summary.beyond).ok();
    }
    if !summary.is_whole {
        writeln!(out, "  NOT WHOLE: the last lines of the record were not written in time").ok();
    }
    out
}

/// For programs.
pub(super) fn json(summary: &Summary) -> Value {
    let rows = |fate: Fate| -> Value {
        let row = |(key, row): (&Key, &Row)| {
            json!({
                "host": key.host,
                "address": key.address.map(|address| address.to_string()),
                "port": key.port,
                "question": key.is_question,
                "transport": key.transport,
                "location": key.location,
                "anycast": key.anycast,
                "law": key.law,
                "operator": key.operator,
                "verdict": key.verdict,
                "reason": key.reason,
                "would": key.would,
                "rule": key.rule,
                "count": row.connections,
                "bytes_up": row.up,
                "bytes_down": row.down,
                "ends": row.ends,
            })
        };
        summary.of(fate).into_iter().map(row).collect()
    };
    let (places, law) = summary.reached();
    let (connections, up, down) = summary.sums(Fate::Forwarded);
    let command: Vec<_> = summary.command.iter().map(|word| word.to_string_lossy()).collect();
    let (status, signal) = match summary.ended.gone {
        Gone::Exited(status) => (Some(status), None),
        Gone::Killed(signal) => (None, Some(signal)),
    };
    json!({
        "command": command,
        "status": status,
        "signal": signal,
        "policy": summary.about.policy,
        "version": summary.about.version,
        "mode": if summary.about.enforces { "enforce" } else { "observe" },
        "connections": connections,
        "bytes_up": up,
        "bytes_down": down,
        "would_be_refused": summary.would_be_refused(),
        "countries": places,
        "law": law,
        "went": rows(Fate::Forwarded),
        "refused": rows(Fate::Refused),
        "asked": rows(Fate::Asked),
        "unjudged": rows(Fate::Unjudged),
        "unserved": { "udp": summary.ended.unserved.udp, "others": summary.ended.unserved.others },
        "lines_without_a_row": summary.beyond,
        "whole": summary.is_whole,
        "record_fault": summary.record_fault,
    })
}

/// Whether a name that was asked about stands in another table.
fn is_met(summary: &Summary, asked: &Key) -> bool {
    summary.rows.keys().any(|key| key.fate != Fate::Asked && key.host == asked.host)
}

fn ended(gone: Gone) -> String {
    match gone {
        Gone::Exited(status) => format!("status {status}"),
        Gone::Killed(signal) => format!("ended by signal {signal}"),
    }
}

fn whom(key: &Key) -> String {
    if key.is_question && key.fate == Fate::Refused {
        let name = key.host.as_deref().unwrap_or("a name");
        return format!("{} (question)", short(&plain(name)));
    }
    let udp = if key.transport.as_deref() == Some("udp") { "/udp" } else { "" };
    let whole = match (&key.host, key.address, key.port) {
        (Some(host), _, Some(port)) => format!("{host}:{port}{udp}"),
        (Some(host), _, None) => host.clone(),
        (None, Some(address), _) => format!("{address}{udp}"),
        (None, None, _) => "no destination".to_owned(),
    };
    short(&plain(&whole))
}

fn short(text: &str) -> String {
    if text.chars().count() <= CELL_MAX {
        return text.to_owned();
    }
    text.chars().take(CELL_MAX - 3).chain("...".chars()).collect()
}

fn place(key: &Key) -> String {
    if key.anycast { "many (anycast)".to_owned() } else { codes(&key.location) }
}

fn codes(all: &[String]) -> String {
    let shown: Vec<_> = all.iter().take(CODES_SHOWN).map(|code| plain(code)).collect();
    match (all.len(), all.len().saturating_sub(CODES_SHOWN)) {
        (0, _) => "unknown".to_owned(),
        (_, 0) => shown.join(" "),
        (_, more) => format!("{} and {more} more", shown.join(" ")),
    }
}

fn list(all: &BTreeSet<&str>) -> String {
    let all: Vec<_> = all.iter().map(|code| plain(code)).collect();
    if all.is_empty() { "nobody known".to_owned() } else { all.join(" ") }
}

/// Why it is so, in words; and what `enforce` would have done.
fn why(key: &Key, row: &Row) -> String {
    let reason = key.reason.as_deref().unwrap_or("no verdict");
    let rule = key.rule.as_deref().map(|rule| format!(" \"{}\"", short(&plain(rule))));
    let mut text = format!("{}{}", plain(reason), rule.unwrap_or_default());
    if key.would.as_deref() == Some("block") {
        text = format!("WOULD BE REFUSED: {text}");
    } else if key.is_question && reason == Reason::Guard.label() {
        // Of the gateway's own name server: it has no address that could be guarded.
        text = format!("{text}: a question of this type is not passed on ([dns] types)");
    } else if key.fate == Fate::Refused
        && let Some(known) = Reason::ALL.iter().find(|known| known.label() == reason)
    {
        text = format!("{text}: {}", known.sentence());
    }
    if !row.ends.is_empty() {
        let ends: Vec<_> = row.ends.iter().map(|end| plain(end)).collect();
        text = format!("{text} ({})", ends.join(", "));
    }
    text
}

fn counted(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// A number of bytes with its unit, of three digits.
fn bytes(number: u64) -> String {
    let (mut value, mut unit) = (number as f64, "B");
    for next in ["kB", "MB", "GB", "TB"] {
        if value < 1000.0 {
            break;
        }
        (value, unit) = (value / 1000.0, next);
    }
    let digits = if unit == "B" || value >= 100.0 { 0 } else { 1 };
    format!("{value:.digits$} {unit}")
}

/// A table with its heading, where it has rows: each with whether it is to be seen first.
fn table(
    out: &mut String,
    heading: &str,
    columns: &[&str],
    rows: impl Iterator<Item = (Vec<String>, bool)>,
    paint: Paint,
) {
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return;
    }
    let shown = rows.get(..ROWS_SHOWN.min(rows.len())).unwrap_or_default();
    let width = |at: usize| {
        let cells =
            shown.iter().filter_map(|(row, _)| row.get(at)).map(|cell| cell.chars().count());
        cells.chain(columns.get(at).map(|name| name.len())).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    writeln!(out, "\n  {heading}").ok();
    writeln!(out, "  {}", paint.dim(&line(&mut columns.iter().copied()))).ok();
    for (row, is_bad) in shown {
        let row = line(&mut row.iter().map(String::as_str));
        writeln!(out, "  {}", if *is_bad { paint.red(&row) } else { row }).ok();
    }
    if rows.len() > shown.len() {
        writeln!(out, "  and {} more (--json has all)", rows.len() - shown.len()).ok();
    }
}

/// Colours, where a terminal reads them.
#[derive(Debug, Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    fn red(self, text: &str) -> String {
        self.with("31", text)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::summary::tests::line;
    use super::*;

    fn example() -> Summary {
        let mut summary = Summary::default();
        summary.add(line(&json!({ "bytes_up": 12_345 })));
        summary.add(line(&json!({
            "event": "refused", "host": "refused.example", "location": ["US"], "law": ["US"],
            "verdict": "block", "reason": "outside", "bytes_up": 0, "end": "refused",
        })));
        summary.add(line(&json!({ "host": "law.example", "would": "block", "reason": "law",
            "verdict": "log" })));
        summary.add(line(&json!({ "event": "asked", "listener": "dns", "host": "asked.example",
            "queries": 3, "destination": "192.0.2.53:53" })));
        summary.ended.unserved.udp = 2;
        summary
    }

    #[test]
    fn the_summary_says_where_bytes_went_and_what_was_refused_and_why() {
        let text = text(&example(), false);
        for part in [
            "permitted.example:443",
            "12.3 kB",
            "refused.example:443",
            "US",
            "outside: ",
            "WOULD BE REFUSED: law",
            "asked.example",
            "2 UDP datagrams",
            "bytes went to FR, under the law of FR",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }

    #[test]
    fn colours_are_for_a_terminal_alone() {
        assert!(text(&example(), true).contains('\u{1b}'));
    }

    #[test]
    fn what_others_wrote_is_nothing_but_text() {
        let mut summary = Summary::default();
        for c in (0..0x300).filter_map(char::from_u32).chain(['\u{202e}', '\u{2066}']) {
            summary.add(line(&json!({ "host": format!("a{c}b"), "rule": format!("r{c}") })));
        }
        summary.command = vec!["\u{1b}[2J".into(), "\u{202e}".into()];
        let shown = text(&summary, false);
        let bad = |c: char| c != '\n' && c.is_control() || c == '\u{202e}' || c == '\u{2066}';
        assert!(!shown.contains(bad), "{shown:?}");
        let whole = json(&summary);
        assert_eq!(whole["went"].as_array().unwrap().len(), summary.rows.len());
    }

    #[test]
    fn bytes_have_three_digits_and_a_unit() {
        let shown = [0, 999, 1000, 12_345, 999_999, 5_000_000_000].map(bytes);
        assert_eq!(shown, ["0 B", "999 B", "1.0 kB", "12.3 kB", "1000 kB", "5.0 GB"]);
    }
}
