//! What runs now, at a terminal: `top`, `connections`, `tail` and `why`, by the API of the admin
//! listener. Plain text where it is read by no terminal; nothing that a client named is a command to
//! one.

mod api;
mod connections;
mod tail;
mod top;
mod why;

use std::io::{self, Write};

use serde_json::Value;

pub(super) use self::connections::Connections;
pub(super) use self::tail::Tail;
pub(super) use self::top::Top;
pub(super) use self::why::Why;
use super::{Exit, complain};
use crate::account::notice::printable;
use crate::control::admin::units::{self, span};

/// Exit status: 0 printed, 2 the gateway does not answer.
pub(super) fn top(arguments: &Top, out: &mut impl Write) -> io::Result<Exit> {
    top::run(arguments, out)
}

/// Exit status: 0 printed, or the connection is ended; 1 there is no such connection; 2 no answer.
pub(super) fn connections(arguments: &Connections, out: &mut impl Write) -> io::Result<Exit> {
    connections::run(arguments, out)
}

/// Exit status: 0 as much was printed as was asked for, 2 the gateway does not answer.
pub(super) fn tail(arguments: &Tail, out: &mut impl Write) -> io::Result<Exit> {
    tail::run(arguments, out)
}

/// Exit status: 0 it is known and would be let go today, 1 it is known and would be refused, 2 it is
/// not known, or the gateway does not answer.
pub(super) fn why(arguments: &Why, out: &mut impl Write) -> io::Result<Exit> {
    why::run(arguments, out)
}

/// A text of an answer, on one line and without commands to a terminal; empty where there is none.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => printable(text).replace('\n', "\\n"),
        Value::Array(list) => list.iter().map(text).collect::<Vec<_>>().join(" "),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Object(_)) => {
            printable(&other.to_string()).replace('\n', "\\n")
        }
    }
}

/// The first of the texts that says something.
fn first<'v>(values: impl IntoIterator<Item = &'v Value>) -> String {
    values.into_iter().map(text).find(|text| !text.is_empty()).unwrap_or_else(|| "-".to_owned())
}

/// Where an event lies: its countries, `anycast`, or `?`.
fn place(event: &Value) -> String {
    if event["anycast"] == true {
        return "anycast".to_owned();
    }
    Some(text(&event["location"])).filter(|codes| !codes.is_empty()).unwrap_or_else(|| "?".into())
}

/// Bytes for a person.
fn bytes(value: &Value) -> String {
    units::bytes(value.as_f64().unwrap_or(0.0))
}

/// A text of exactly so many columns, cut where it is longer.
fn fit(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return format!("{text:width$}");
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    kept + "\u{2026}"
}

/// A line without the blanks behind it.
fn line(out: &mut impl Write, text: &str) -> io::Result<()> {
    writeln!(out, "{}", text.trim_end())
}

/// Says why there is no answer.
fn unanswered(fault: &api::Fault) -> Exit {
    complain(printable(&fault.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_of_others_stay_on_their_line_and_are_no_commands() {
        assert_eq!(text(&json!("a\u{1b}[2J\nb")), "a\\u{1b}[2J\\nb");
        assert_eq!(text(&json!(["FR", "DE"])), "FR DE");
        assert_eq!(first([&json!(null), &json!("b")]), "b");
        assert_eq!(fit("abcdef", 4), "abc\u{2026}");
        assert_eq!(fit("ab", 4), "ab  ");
    }
}
