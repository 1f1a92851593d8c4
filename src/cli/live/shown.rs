//! What the API answers, in the words and columns of a terminal.

use std::io::{self, Write};

use serde_json::Value;

use super::api;
use crate::account::notice::printable;
use crate::cli::common::{Exit, complain};
use crate::control::admin::units;
pub(super) use crate::control::admin::units::span;

/// A text of an answer, on one line and without commands to a terminal; empty where there is none.
pub(super) fn text(value: &Value) -> String {
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
pub(super) fn first<'v>(values: impl IntoIterator<Item = &'v Value>) -> String {
    values.into_iter().map(text).find(|text| !text.is_empty()).unwrap_or_else(|| "-".to_owned())
}

/// Where an event lies: its countries, `anycast`, or `?`.
pub(super) fn place(event: &Value) -> String {
    if event["anycast"] == true {
        return "anycast".to_owned();
    }
    Some(text(&event["location"])).filter(|codes| !codes.is_empty()).unwrap_or_else(|| "?".into())
}

/// Bytes for a person.
pub(super) fn bytes(value: &Value) -> String {
    units::bytes(value.as_f64().unwrap_or(0.0))
}

/// A text of exactly so many columns, cut where it is longer.
pub(super) fn fit(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return format!("{text:width$}");
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    kept + "\u{2026}"
}

/// A line without the blanks behind it.
pub(super) fn line(out: &mut impl Write, text: &str) -> io::Result<()> {
    writeln!(out, "{}", text.trim_end())
}

/// Says why there is no answer.
pub(super) fn unanswered(fault: &api::Fault) -> Exit {
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
