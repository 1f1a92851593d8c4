//! Pieces of markup that the page and the page of an event share.

use maud::{DOCTYPE, Markup, html};
use serde_json::Value;

use super::units::bytes;
use super::words::name;
use crate::policy::Country;

pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(text).collect::<Vec<_>>().join(" "),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Object(_)) => other.to_string(),
    }
}

pub(super) fn rows(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

pub(super) fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

pub(super) fn size(value: &Value) -> String {
    bytes(value.as_f64().unwrap_or(0.0))
}

/// `17:31:02` of an instant.
pub(super) fn clock(value: &Value) -> String {
    let text = text(value);
    text.get(11..19).map(str::to_owned).unwrap_or(text)
}

/// The first of the texts that says something.
pub(super) fn first<'v>(values: impl IntoIterator<Item = &'v Value>) -> String {
    values.into_iter().map(text).find(|text| !text.is_empty()).unwrap_or_else(|| "\u{2014}".into())
}

/// Where something lies, by name.
pub(super) fn place(row: &Value) -> Markup {
    let codes = rows(&row["location"]);
    html! {
        @if row["anycast"] == true { "anycast" }
        @else if codes.is_empty() { span.soft { "unknown" } }
        @else {
            @for (at, code) in codes.iter().take(3).enumerate() {
                @if at > 0 { ", " }
                (called(code.as_str().unwrap_or_default()))
            }
            @if codes.len() > 3 { " +" (codes.len() - 3) }
        }
    }
}

pub(super) fn called(code: &str) -> String {
    Country::from_code(code).map_or_else(|| code.to_owned(), |country| name(country).to_owned())
}

/// An `id` as a part of a path: nothing but what an event id is made of.
pub(super) fn of_path(id: &Value) -> String {
    text(id).chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect()
}

pub(super) fn shell(title: &str, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width,initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                link rel="icon" href="data:,";
                link rel="stylesheet" href="/page.css";
                script src="/page.js" defer {}
            }
            body { (body) }
        }
    };
    page.into_string() + "\n"
}

/// An answer of `explain`, of a destination or of a name alone.
pub(super) fn explained(answer: &Value) -> Markup {
    if answer["addresses"].is_array() {
        let by_name = &answer["by_name"];
        let addresses = rows(&answer["addresses"]);
        return html! {
            @if !by_name.is_null() {
                p { (verdict(by_name)) " " (text(&by_name["sentence"])) @if !by_name["rule"].is_null() { " Rule: " q { (text(&by_name["rule"])) } "." } }
            } @else {
                p { "The name alone does not decide: it depends on its addresses." }
                @if addresses.is_empty() { p.soft { "None was seen lately; give one to have the whole answer." } }
                @for one in addresses { (explained(one)) }
            }
        };
    }
    html! {
        div.explained {
            p { (verdict(answer)) " " b { (text(&answer["destination"])) } @if !answer["rule"].is_null() { ", by the rule " q { (text(&answer["rule"])) } } ", policy " q { (text(&answer["policy"])) } }
            ol { @for step in rows(&answer["steps"]) { li { (text(step)) } } }
        }
    }
}

/// A verdict in words.
pub(super) fn done(action: &str) -> &str {
    match action {
        "allow" => "let go",
        "log" => "let go, marked",
        "block" => "refused",
        other => other,
    }
}

/// What was decided and why; of what is only observed, what would be.
pub(super) fn verdict(row: &Value) -> Markup {
    let (action, would) = (text(&row["verdict"]), text(&row["would"]));
    let is_observed = !would.is_empty() && would != action;
    html! {
        @if is_observed {
            span.verdict.would { "would be " (done(&would)) ": " (text(&row["reason"])) }
            " " span.soft { "(only observed)" }
        }
        @else { span.verdict.(action) { (done(&action)) ": " (text(&row["reason"])) } }
    }
}

/// One event: what was told, and what would be decided today.
pub(super) fn event(id: &str, answer: &Result<Value, String>) -> String {
    let body = html! {
        header { p.brand { a href="/" { "schengate" } } nav aria-label="Back" { a href="/#refusals" { "Back to the page" } } }
        main #main {
            section #event {
                h1 { "Event " code { (id) } }
                @match answer {
                    Err(wrong) => p.alarm { (wrong) },
                    Ok(answer) => (told(answer)),
                }
            }
        }
    };
    shell("An event \u{b7} schengate", &body)
}

fn told(answer: &Value) -> Markup {
    let (event, problem, today) = (&answer["event"], &answer["told"]["problem"], &answer["today"]);
    let rows = [
        ("Time", text(&event["time"])),
        ("Client", text(&event["client"])),
        ("Group", text(&event["group"])),
        ("Name", text(&event["host"])),
        ("Address", text(&event["destination"])),
        ("Operator", text(&event["operator"])),
        ("Law", text(&event["law"])),
        ("Rule", text(&event["rule"])),
        ("Ground", text(&event["basis"])),
        ("Policy", text(&event["policy"])),
        ("End", text(&event["end"])),
    ];
    html! {
        p { (verdict(event)) " " (place(event)) }
        @if !problem.is_null() {
            blockquote {
                @for part in ["what", "why", "who", "what_to_do"] { p { (text(&problem[part])) } }
            }
        }
        dl { @for (term, said) in rows.iter().filter(|(_, said)| !said.is_empty()) { dt { (term) } dd { (said) } } }
        h2 { "Today" }
        @if today.is_null() { p.soft { "Not judged: the record does not say where it was going." } }
        @else { (explained(today)) }
    }
}
