//! The page: what a person wants to see at once, whole without a script. The script beside it asks for
//! the same markup again, and moves what moves.

use std::collections::HashMap;

use maud::{Markup, html};
use serde_json::Value;

use super::health::{OLD_TABLES, RECORD};
use super::markup::{
    called, clock, done, explained, first, number, of_path, place, rows, shell, size, text, verdict,
};
use super::units::{count, span};
use crate::report::world;

/// The script and the style, as files of their own: the policy of the page lets in nothing else.
pub(super) const SCRIPT: &str = include_str!("page.js");
pub(super) const STYLE: &str = include_str!("page.css");

/// The `Content-Security-Policy` of the page.
pub(super) const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Columns of the small chart: seconds.
const SECONDS: usize = 60;

/// All that the page shows, as the API answers it; null where that is not known now.
#[derive(Debug, Default)]
pub(super) struct Shown {
    pub(super) state: Value,
    pub(super) verdicts: Value,
    pub(super) top: Value,
    pub(super) refusals: Value,
    pub(super) connections: Value,
    pub(super) waivers: Value,
    pub(super) tables: Value,
    pub(super) record: Value,
    pub(super) policy: Value,
    /// What was asked in the box, and the answer or what is wrong with it.
    pub(super) asked: Option<(Question, Result<Value, String>)>,
    /// By what the largest are added up.
    pub(super) by: &'static str,
    /// What is missing, where the gateway is not ready.
    pub(super) missing: Vec<String>,
    /// Lines that the gateway says of itself.
    pub(super) facts: Vec<(&'static str, String)>,
}

/// What was written in the box.
#[derive(Debug, Default, Clone)]
pub(super) struct Question {
    pub(super) host: String,
    pub(super) to: String,
    pub(super) client: String,
}

/// The whole page; with `parts`, without the shapes of the map, which the script has already.
pub(super) fn page(shown: &Shown, parts: bool) -> String {
    let is_ready = shown.missing.is_empty();
    let mode = text(&shown.state["mode"]);
    let title = if is_ready { "schengate" } else { "NOT READY \u{b7} schengate" };
    shell(
        title,
        &html! {
            a.skip href="#main" { "To the content" }
            header {
                h1.brand { a href="/" { "schengate" } span.version { (text(&shown.state["version"])) } }
                div #status data-part {
                    @if is_ready { span.pill.good { "Ready" } } @else { span.pill.bad { "Not ready" } }
                    @if mode == "enforce" { span.pill.good { "Enforcing" } }
                    @else if mode == "observe" { span.pill.warn { "Only observing" } }
                    @else { span.pill.bad { "No policy in force" } }
                    span.soft { "policy " code { (first([&shown.state["policy"]["version"]])) } }
                    span.soft { "up " (span(number(&shown.state["uptime_s"]))) }
                }
                p #link.soft role="status" { "Reload for newer numbers." }
                nav aria-label="Sections" {
                    @for (id, label) in SECTIONS { a href={ "#" (id) } { (label) } }
                }
            }
            main #main {
                (missing(shown))
                (now(&shown.verdicts))
                div.wide {
                    (map(shown, parts))
                    (top(shown))
                }
                (ask(shown))
                (refusals(&shown.refusals))
                (connections(&shown.connections))
                // What only another policy changes the script does not ask for again.
                @if !parts {
                    (policy(&shown.policy))
                    div.wide {
                        (waivers(&shown.waivers))
                        (tables(&shown.tables))
                    }
                }
                (health(shown))
            }
            footer {
                a href="/metrics" { "Metrics" } " \u{b7} "
                a href="/readyz" { "Readiness" } " \u{b7} "
                a href="/api/v1/state" { "API" }
            }
            dialog #detail aria-label="An event" {}
        },
    )
}

const SECTIONS: [(&str, &str); 8] = [
    ("now", "Now"),
    ("where", "Where"),
    ("ask", "Ask"),
    ("refusals", "Refusals"),
    ("connections", "Connections"),
    ("policy", "Policy"),
    ("waivers", "Waivers"),
    ("health", "Health"),
];

fn missing(shown: &Shown) -> Markup {
    html! {
        div #missing data-part {
            @if !shown.missing.is_empty() {
                div.alarm role="alert" {
                    strong { "The gateway is not ready." }
                    ul { @for what in &shown.missing { li { (what) } } }
                }
            }
        }
    }
}

/// The tiles, and the verdicts of the last minute.
fn now(verdicts: &Value) -> Markup {
    let (rate, totals) = (&verdicts["rates"]["ten_seconds"], &verdicts["totals"]);
    let per_second = |what: &str| format!("{:.1}", rate[what].as_f64().unwrap_or(0.0));
    let tiles = [
        ("allow", "Let go", per_second("allow"), "/s", count(number(&totals["allow"]))),
        ("log", "Let go, marked", per_second("log"), "/s", count(number(&totals["log"]))),
        ("block", "Refused", per_second("block"), "/s", count(number(&totals["block"]))),
        ("live", "Live", count(number(&verdicts["live"])), "", String::new()),
        ("up", "Up", size(&rate["bytes_up"]), "/s", size(&totals["bytes_up"])),
        ("down", "Down", size(&rate["bytes_down"]), "/s", size(&totals["bytes_down"])),
    ];
    html! {
        section #now aria-labelledby="now-h" {
            h2 #now-h { "Now" }
            div #tiles.tiles data-part {
                @for (key, label, value, unit, sum) in &tiles {
                    div.tile.(key) {
                        span.label { (label) }
                        span.value { span data-now=(key) { (value) } small { (unit) } }
                        @if !sum.is_empty() { span.soft { (sum) " since the start" } }
                    }
                }
            }
            figure {
                (chart(&verdicts["seconds"]))
                figcaption.soft { "Verdicts of the last minute, second by second: let go, marked, refused." }
            }
            div #reasons data-part { (reasons(&verdicts["reasons"])) }
        }
    }
}

fn chart(seconds: &Value) -> Markup {
    let all = rows(seconds);
    let all = all.get(all.len().saturating_sub(SECONDS)..).unwrap_or_default();
    let sum = |second: &Value| rows(second).iter().map(number).sum::<u64>();
    let most = all.iter().map(sum).max().unwrap_or(0).max(1) as f64;
    html! {
        svg #chart viewBox="0 0 600 80" preserveAspectRatio="none" role="img" aria-label="Verdicts of the last minute" {
            @for (at, second) in all.iter().enumerate() {
                @let x = (SECONDS - all.len() + at) * 10;
                @let heights: Vec<f64> = rows(second).iter().map(|n| number(n) as f64 * 78.0 / most).collect();
                @let (a, l, b) = (height(&heights, 0), height(&heights, 1), height(&heights, 2));
                rect.allow x=(x) y=(80.0 - a) width="8" height=(a) {}
                rect.log x=(x) y=(80.0 - a - l) width="8" height=(l) {}
                rect.block x=(x) y=(80.0 - a - l - b) width="8" height=(b) {}
            }
        }
    }
}

fn height(heights: &[f64], at: usize) -> f64 {
    (heights.get(at).copied().unwrap_or(0.0) * 10.0).round() / 10.0
}

fn reasons(reasons: &Value) -> Markup {
    let mut all: Vec<&Value> = rows(reasons).iter().collect();
    all.sort_by_key(|row| std::cmp::Reverse(number(&row["count"])));
    html! {
        @if all.is_empty() { p.empty { "Nothing was judged yet." } }
        @else {
            ul.reasons {
                @for row in all.into_iter().take(12) {
                    li.(text(&row["verdict"])) title=(text(&row["sentence"])) {
                        b { (count(number(&row["count"]))) } " " (done(&text(&row["verdict"]))) ": " (text(&row["reason"]))
                    }
                }
            }
        }
    }
}

fn permitted(policy: &Value) -> Vec<&str> {
    rows(&policy["permit"]["countries"]).iter().filter_map(Value::as_str).collect()
}

/// The map: what was judged by country, and whether it is permitted.
fn map(shown: &Shown, parts: bool) -> Markup {
    let counts: HashMap<&str, u64> = rows(&shown.verdicts["countries"])
        .iter()
        .filter_map(|row| Some((row["country"].as_str()?, number(&row["count"]))))
        .collect();
    let permit = permitted(&shown.policy);
    let most = counts.values().copied().max().unwrap_or(0);
    let class = |code: &str| {
        let of = counts.get(code).copied().unwrap_or(0);
        let side = if permit.contains(&code) { "in" } else { "out" };
        format!("{side} h{}", heat(of, most))
    };
    let tip = |code: &str| {
        let of = counts.get(code).copied().unwrap_or(0);
        let side = if permit.contains(&code) { "permitted" } else { "not permitted" };
        format!("{}: {} judged, {side}", called(code), count(of))
    };
    let mut largest: Vec<(&str, u64)> = counts.iter().map(|(code, of)| (*code, *of)).collect();
    largest.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    // Of what is in no country by its nature nobody is in doubt.
    let [no_country, no_place] = ["no_country", "no_place"].map(|key| number(&shown.verdicts[key]));
    let unknown = no_country.saturating_sub(no_place);
    html! {
        section #where.map aria-labelledby="where-h" {
            h2 #where-h { "Where it was to go" }
            @if !parts {
                svg viewBox=(world::VIEW_BOX) role="img" aria-label="World map of judged destinations; the list below says the same" {
                    @for outline in world::outlines() {
                        @if outline.code == "-" { path.land d=(outline.path) {} }
                        @else if outline.path.is_empty() {
                            @if counts.contains_key(outline.code) {
                                circle.(class(outline.code)) cx=(outline.middle.0) cy=(outline.middle.1) r="7" { title { (tip(outline.code)) } }
                            }
                        }
                        @else {
                            path.(class(outline.code)) id={ "c-" (outline.code) } d=(outline.path) { title { (tip(outline.code)) } }
                        }
                    }
                }
            }
            p.legend.soft {
                span.key.in { "permitted" } span.key.out { "not permitted" }
                "the stronger the colour, the more destinations were judged"
            }
            ul #countries.chips data-part data-permit=(permit.join(" ")) {
                @if largest.is_empty() { li.empty { "No destination was judged yet." } }
                @for (code, of) in largest.iter().take(14) {
                    li.(if permit.contains(code) { "in" } else { "out" }) data-code=(code) data-count=(of) title=(tip(code)) {
                        (called(code)) " " b { (count(*of)) }
                    }
                }
                @if number(&shown.verdicts["several_countries"]) > 0 {
                    li { "several, or anycast " b { (count(number(&shown.verdicts["several_countries"]))) } }
                }
                @if unknown > 0 { li { "nobody knows " b { (count(unknown)) } } }
            }
        }
    }
}

/// How much of the most, in six steps; the first is none.
fn heat(of: u64, most: u64) -> u32 {
    if of == 0 || most == 0 {
        return 0;
    }
    let share = (of as f64).ln_1p() / (most as f64).ln_1p();
    ((share * 5.0).ceil() as u32).clamp(1, 5)
}

fn top(shown: &Shown) -> Markup {
    let all = rows(&shown.top["rows"]);
    let most = all.iter().map(|row| number(&row["bytes_up"])).max().unwrap_or(0).max(1) as f64;
    html! {
        section #top aria-labelledby="top-h" {
            h2 #top-h { "Most bytes up, live" }
            p.tabs {
                @for by in ["destination", "country", "operator", "client"] {
                    a href={ "/?by=" (by) "#top" } aria-current=[(by == shown.by).then_some("true")] { "by " (by) }
                }
            }
            div #uploads data-part {
                @if all.is_empty() { p.empty { "No live connection." } }
                @else {
                    table.bars {
                        thead { tr { th scope="col" { (shown.by) } th.num scope="col" { "Up" } th.num scope="col" { "Down" } th.num scope="col" { "Conns" } } }
                        tbody {
                            @for row in all {
                                tr {
                                    th scope="row" {
                                        (top_key(shown.by, &row["key"]))
                                        svg.bar viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true" {
                                            rect width=(height(&[number(&row["bytes_up"]) as f64 * 100.0 / most], 0)) height="4" {}
                                        }
                                    }
                                    td.num { (size(&row["bytes_up"])) }
                                    td.num { (size(&row["bytes_down"])) }
                                    td.num { (count(number(&row["connections"]))) }
                                }
                            }
                        }
                    }
                    @if number(&shown.top["more"]) > 0 { p.soft { "and " (count(number(&shown.top["more"]))) " more" } }
                }
            }
        }
    }
}

fn top_key(by: &str, key: &Value) -> String {
    let key = text(key);
    match (by, key.is_empty()) {
        (_, true) => "unknown".to_owned(),
        ("country", false) => key.split(' ').map(called).collect::<Vec<_>>().join(", "),
        (_, false) => key,
    }
}

fn ask(shown: &Shown) -> Markup {
    let question = shown.asked.as_ref().map(|(question, _)| question.clone()).unwrap_or_default();
    html! {
        section #ask aria-labelledby="ask-h" {
            h2 #ask-h { "May this client reach this name?" }
            form method="get" action="/#ask" {
                label { "Name" input name="host" value=(question.host) placeholder="www.example.eu" autocomplete="off" spellcheck="false"; }
                label { "Address (with it, the whole answer)" input name="to" value=(question.to) placeholder="192.0.2.1:443" autocomplete="off" spellcheck="false"; }
                label { "Client" input name="client" value=(question.client) placeholder="10.0.0.7" autocomplete="off" spellcheck="false"; }
                button type="submit" { "Ask the running policy" }
            }
            div #answer aria-live="polite" {
                @match &shown.asked {
                    None => p.soft { "Nothing is looked up: without an address the name alone is judged, and addresses of it that were seen lately." },
                    Some((_, Err(wrong))) => p.alarm { (wrong) },
                    Some((_, Ok(answer))) => (explained(answer)),
                }
            }
        }
    }
}

fn refusals(refusals: &Value) -> Markup {
    let all = rows(&refusals["refusals"]);
    html! {
        section #refusals aria-labelledby="refusals-h" {
            h2 #refusals-h { "Refused lately, or would be" }
            div #refused data-part {
                @if all.is_empty() { p.empty { "Nothing was refused, or would be, since the gateway began." } }
                @else {
                    div.scroll tabindex="0" role="region" aria-label="List of refusals" {
                        table.rows {
                            thead { tr {
                                th scope="col" { "Time" } th scope="col" { "Why" } th scope="col" { "Place" }
                                th scope="col" { "Client" } th scope="col" { "Name or address" } th scope="col" { "Event" }
                            } }
                            tbody { @for row in all { (refusal(row)) } }
                        }
                    }
                    p.soft { (count(number(&refusals["seen"]))) " were refused, or would be, since the start; the last 1000 are kept here." }
                }
            }
        }
    }
}

fn refusal(row: &Value) -> Markup {
    html! {
        tr {
            td data-label="Time" { time datetime=(text(&row["time"])) { (clock(&row["time"])) } }
            td data-label="Why" { (verdict(row)) }
            td data-label="Place" { (place(row)) }
            td data-label="Client" { (text(&row["client"])) }
            td.name data-label="Name" { (first([&row["host"], &row["destination"]])) }
            td data-label="Event" { a.event href={ "/event/" (of_path(&row["id"])) } { (text(&row["id"])) } }
        }
    }
}

fn connections(connections: &Value) -> Markup {
    let all = rows(&connections["connections"]);
    let more = number(&connections["live"]).saturating_sub(all.len() as u64);
    html! {
        section #connections aria-labelledby="connections-h" {
            h2 #connections-h { "Live connections" }
            div #live data-part {
                @if all.is_empty() { p.empty { "No live connection." } }
                @else {
                    div.scroll tabindex="0" role="region" aria-label="List of live connections" {
                        table.rows {
                            thead { tr {
                                th scope="col" { "Client" } th scope="col" { "Name or address" } th scope="col" { "Place" }
                                th scope="col" { "Why" } th.num scope="col" { "Up" } th.num scope="col" { "Down" }
                                th.num scope="col" { "Age" } th.script scope="col" { "End" }
                            } }
                            tbody {
                                @for row in all {
                                    tr {
                                        td data-label="Client" { (text(&row["client"])) }
                                        td.name data-label="Name" { (first([&row["host"], &row["destination"]])) }
                                        td data-label="Place" { (place(row)) }
                                        td data-label="Why" { a.event href={ "/event/" (of_path(&row["id"])) } { (text(&row["reason"])) } }
                                        td.num data-label="Up" { (size(&row["bytes_up"])) }
                                        td.num data-label="Down" { (size(&row["bytes_down"])) }
                                        td.num data-label="Age" { (span(number(&row["age_s"]))) }
                                        td.script { button type="button" data-kill=(of_path(&row["id"])) aria-label={ "End the connection to " (first([&row["host"], &row["destination"]])) } { "End" } }
                                    }
                                }
                            }
                        }
                    }
                    @if more > 0 { p.soft { "The " (all.len()) " with most bytes up, of " (count(number(&connections["live"]))) "." } }
                }
            }
        }
    }
}

fn policy(policy: &Value) -> Markup {
    let chips = |list: &Value| {
        let mut names: Vec<_> = rows(list).iter().filter_map(Value::as_str).map(called).collect();
        names.sort();
        html! { ul.chips { @for name in &names { li.in { (name) } } } }
    };
    let rules = rows(&policy["rules"]);
    html! {
        section #policy aria-labelledby="policy-h" {
            h2 #policy-h { "The policy in words" }
            @if policy.is_null() { p.empty { "No policy is in force." } }
            @for sentence in rows(&policy["sentences"]) { p { (text(sentence)) } }
            details { summary { "Every country where data may go (" (rows(&policy["permit"]["countries"]).len()) ")" } (chips(&policy["permit"]["countries"])) }
            @if !policy["permit_law"].is_null() {
                details { summary { "Every country whose law may reach them" } (chips(&policy["permit_law"]["countries"])) }
            }
            details { summary { "What becomes of doubt" } ul { @for cause in rows(&policy["causes"]) { li { (text(&cause["says"])) } } } }
            @if !rows(&policy["groups"]).is_empty() {
                h3 { "Groups" }
                dl { @for group in rows(&policy["groups"]) { dt { (text(&group["name"])) } dd { (text(&group["says"])) } } }
            }
            @if !rules.is_empty() {
                details open[rules.len() <= 8] {
                    summary { "Rules, in the order in which they are asked (" (rules.len() as u64 + number(&policy["more_rules"])) ")" }
                    dl {
                        @for rule in rules {
                            dt.(text(&rule["action"])) { (text(&rule["name"])) @if rule["is_in_force"] == false { span.soft { " (not in force now)" } } }
                            dd {
                                (text(&rule["says"]))
                                @for (term, key) in [("Ground", "basis"), ("Reason", "reason"), ("Owner", "owner")] {
                                    @if !rule[key].is_null() { span.soft { " " (term) ": " (text(&rule[key])) "." } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn waivers(waivers: &Value) -> Markup {
    let all = rows(&waivers["waivers"]);
    let left = |row: &Value| match (row["status"].as_str(), number(&row["days_left"])) {
        (Some("over"), _) => ("bad", "over".to_owned()),
        (Some("ahead"), _) => ("", "not yet".to_owned()),
        (_, 0..=1) => ("bad", "1 day or less".to_owned()),
        (_, days @ 2..=14) => ("warn", format!("{days} days")),
        (_, days) => ("good", format!("{days} days")),
    };
    html! {
        section #waivers aria-labelledby="waivers-h" {
            h2 #waivers-h { "Waivers" }
            @if all.is_empty() { p.empty { "There is no waiver." } }
            ul.cards {
                @for row in all {
                    @let (tone, left) = left(row);
                    li {
                        span.pill.(tone) { (left) } b { (text(&row["rule"])) }
                        span.soft { "owner " (first([&row["owner"]])) @if row["is_used"] == true { ", in use" } @else { ", not used since the start" } }
                        @if !row["basis"].is_null() { span.soft { "ground: " (text(&row["basis"])) } }
                        @if !row["reason"].is_null() { span.soft { (text(&row["reason"])) } }
                    }
                }
            }
        }
    }
}

fn tables(tables: &Value) -> Markup {
    html! {
        section #tables aria-labelledby="tables-h" {
            h2 #tables-h { "Tables" }
            ul.cards {
                @for row in rows(&tables["tables"]) {
                    li {
                        @if row["is_stale"] == true { span.pill.bad { "stale" } }
                        @else if !row["advice"].is_null() { span.pill.warn { "old" } }
                        @else { span.pill.good { "sound" } }
                        b { (text(&row["name"])) }
                        span.soft {
                            @if row["age_days"].is_null() { "of no date" } @else { (number(&row["age_days"])) " days old" }
                            ", " (count(number(&row["rows"]))) " rows"
                        }
                        @if !row["advice"].is_null() { span.soft { (text(&row["advice"])) } }
                    }
                }
            }
        }
    }
}

fn health(shown: &Shown) -> Markup {
    let record = &shown.record;
    // The age of a table stands beside it, and how a record fares that is kept above.
    let is_new = |(term, _): &&(&str, String)| {
        *term != OLD_TABLES && (*term != RECORD || record["kept"] != true)
    };
    html! {
        section #health aria-labelledby="health-h" {
            h2 #health-h { "Record and capture" }
            dl #facts data-part {
                dt { "Record" }
                dd {
                    @if record["kept"] != true { "kept on the log alone: no evidence" }
                    @else if record["is_written"] == true { span.pill.good { "written" } }
                    @else { span.pill.bad { "NOT WRITTEN" } " " (text(&record["fault"])) }
                }
                @if record["kept"] == true {
                    dt { "Head" } dd { (count(number(&record["head_size"]))) " records signed" @if !record["head_time"].is_null() { ", " (text(&record["head_time"])) } }
                    dt { "Records" } dd { (count(number(&record["records"]))) ", " (count(number(&record["gaps"]))) " gaps" }
                    dt { "On the disk" } dd { (size(&record["bytes"])) @if !record["bytes_time"].is_null() { ", summed up at " (clock(&record["bytes_time"])) } }
                }
                @for (term, said) in shown.facts.iter().filter(is_new) { dt { (term) } dd { (said) } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_only_observed_is_not_called_refused() {
        let row = |would: Value| {
            json!({ "time": "2026-11-30T12:00:00Z", "verdict": if would.is_null() { "block" } else { "log" },
                "would": would, "reason": "outside", "location": ["US"], "client": "10.0.0.7:5",
                "host": "a.example", "id": "1a-7" })
        };
        let of = |would: Value| {
            let refusals = json!({ "seen": 9, "refusals": [row(would)] });
            page(&Shown { refusals, ..Shown::default() }, true)
        };
        let observed = of(json!("block"));
        let pill = "<span class=\"verdict would\">would be refused: outside</span>";
        assert!(observed.contains(pill), "{observed}");
        assert!(!observed.contains(">refused: outside<"), "{observed}");
        assert!(observed.contains("9 were refused, or would be, since the start"), "{observed}");
        assert!(observed.contains("Refused lately, or would be"), "{observed}");
        assert!(STYLE.contains(".verdict.would{"));
        let refused = of(Value::Null);
        assert!(refused.contains("<span class=\"verdict block\">refused: outside</span>"));
        assert!(!refused.contains("would be refused"), "{refused}");
    }

    #[test]
    fn no_colour_alone_tells_one_count_from_another() {
        let verdicts = json!({
            "reasons": [
                { "verdict": "block", "reason": "outside", "count": 3, "sentence": "" },
                { "verdict": "log", "reason": "outside", "count": 2, "sentence": "" },
            ],
            "no_country": 7,
            "no_place": 5,
        });
        let shown = page(&Shown { verdicts, ..Shown::default() }, true);
        for word in [
            "<b>3</b> refused: outside",
            "<b>2</b> let go, marked: outside",
            "the stronger the colour",
            "nobody knows <b>2</b>",
        ] {
            assert!(shown.contains(word), "{word} in {shown}");
        }
        assert!(!shown.contains("darker"));
        let verdicts = json!({ "no_country": 5, "no_place": 5 });
        let shown = page(&Shown { verdicts, ..Shown::default() }, true);
        assert!(!shown.contains("nobody knows"), "{shown}");
    }

    #[test]
    fn the_age_of_a_table_is_told_once_and_bytes_as_of_when() {
        let advice = "the table x is 334 days old; fetch a newer one";
        let shown = Shown {
            tables: json!({ "tables": [{ "name": "x", "age_days": 334, "rows": 1, "advice": advice }] }),
            record: json!({ "kept": true, "is_written": true, "records": 42, "gaps": 0,
                "bytes": 2300, "bytes_time": "2026-11-30T12:00:07Z", "head_size": 42 }),
            facts: vec![
                (OLD_TABLES, advice.to_owned()),
                ("Rules", "3".to_owned()),
                (RECORD, "written".to_owned()),
            ],
            ..Shown::default()
        };
        let shown = page(&shown, false);
        assert_eq!(shown.matches(">written<").count(), 1, "{shown}");
        assert_eq!(shown.matches(advice).count(), 1, "{shown}");
        assert!(shown.contains("<dt>Rules</dt>"), "{shown}");
        assert!(shown.contains("2.3 kB, summed up at 12:00:07"), "{shown}");
        let (fact, record) = ("NOT WRITTEN: no room", json!({ "kept": false }));
        let facts = vec![(RECORD, fact.to_owned())];
        let shown = page(&Shown { record, facts, ..Shown::default() }, false);
        assert_eq!(shown.matches(fact).count(), 1, "{shown}");
    }
}
