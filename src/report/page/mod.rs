//! A report as one HTML page that needs nothing else: no script, nothing fetched.

mod parts;
mod sections;

use maud::{DOCTYPE, Markup, html};

use super::figures::{bytes, day, digits, hours, minute, share};
use super::history::Doing;
use super::model::{By, Fate, Part, Preset, Totals};
use super::style::STYLE;
use super::text::printable;
use super::texts::Texts;
use super::world::Language;
use super::{Report, charts};
use parts::Words;

/// Parts in short lists of the first page.
const SHORT: usize = 5;

/// The report as a page.
#[must_use]
pub fn html(report: &Report, language: Language) -> String {
    let words = Words { report, texts: Texts::of(language), language };
    let texts = words.texts;
    let title = texts.titles[report.preset as usize];
    let sections = sections(&words);
    let body = html! {
        (DOCTYPE)
        html lang=(language.code()) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="referrer" content="no-referrer";
                meta http-equiv="Content-Security-Policy"
                    content="default-src 'none'; style-src 'unsafe-inline'";
                title { (title) ", " (day(report.span.0)) }
                // The one text that is no input of anybody.
                style { (maud::PreEscaped(STYLE)) }
            }
            body {
                main {
                    (head(&words, title))
                    (short(&words))
                    (contents(texts, &sections))
                    @for (id, heading, markup) in &sections {
                        section {
                            h2 id=(id) { (heading) }
                            (markup)
                        }
                    }
                    footer {
                        (texts.made_by) " " (env!("CARGO_PKG_VERSION")) ", " (minute(report.made)) " UTC. "
                        (texts.all_times_utc)
                    }
                }
            }
        }
    };
    body.into_string()
}

/// A section: its anchor, its heading, what is in it.
type Section = (&'static str, &'static str, Markup);

fn sections(words: &Words<'_>) -> Vec<Section> {
    let texts = words.texts;
    let rows = ("rows", texts.all_rows, words.rows());
    let fates = ("fates", texts.what_became, words.fates());
    let days = (
        "days",
        texts.by_day,
        html! {
            p.note { (texts.by_day_says) }
            (charts::days(&words.report.model.days, words.report.span, texts))
        },
    );
    let map = ("map", texts.map, words.map());
    let country = ("countries", texts.by_country, words.by(By::Location, texts.by_country_says));
    let law = ("laws", texts.by_law, words.by(By::Law, texts.by_law_says));
    let operators = ("operators", texts.operators, words.by(By::Operator, texts.operators_says));
    let ground = ("grounds", texts.ground, words.by(By::Ground, texts.left_outside_says));
    let groups = ("groups", texts.groups, words.by(By::Group, texts.groups_says));
    let waivers = ("waivers", texts.waivers, words.waivers());
    let refusals = ("refusals", texts.refusals, words.refusals());
    let first_seen = ("first-seen", texts.first_seen, words.first_seen());
    let whole = ("whole", texts.whole, words.whole());
    match words.report.preset {
        Preset::Full => vec![
            fates,
            days,
            map,
            country,
            law,
            operators,
            ground,
            groups,
            waivers,
            refusals,
            ("names", texts.names, words.names()),
            first_seen,
            ("undecidable", texts.undecidable, words.undecidable()),
            ("contradicted", texts.contradicted, words.contradicted()),
            ("blind", texts.blind, words.blind()),
            ("in-force", texts.in_force, words.in_force()),
            whole,
            rows,
        ],
        Preset::Transfers => vec![map, country, law, operators, ground, whole, rows],
        Preset::Waivers => vec![waivers, ground, country, whole, rows],
        Preset::FirstSeen => vec![first_seen, map, whole, rows],
        Preset::Group => vec![groups, fates, country, ground, whole, rows],
    }
}

fn head(words: &Words<'_>, title: &str) -> Markup {
    let (report, texts) = (words.report, words.texts);
    let (from, to) = report.span;
    let log = report.record.head.as_ref().map(|head| printable(head.log.as_bytes()));
    html! {
        header {
            p.mark { "schengate" }
            h1 { (title) }
            p.lead { (texts.subtitle) }
            dl.facts {
                div { dt { (texts.span) } dd { time { (minute(from.saturating_mul(1000))) " –" } " " time { (minute(to.saturating_mul(1000))) " UTC" } } }
                div {
                    dt { (texts.group) }
                    dd {
                        @match &report.group {
                            Some(group) => (printable(group.as_bytes())),
                            None => (texts.every_group),
                        }
                    }
                }
                @if let Some(log) = log { div { dt { (texts.whole) } dd { (log) } } }
                div { dt { (texts.made) } dd { (minute(report.made)) " UTC" } }
            }
        }
    }
}

/// What somebody reads who reads nothing else.
fn short(words: &Words<'_>) -> Markup {
    let (report, texts) = (words.report, words.texts);
    let model = &report.model;
    let outside = model.sum(|row| row.fate.is_outside());
    let permitted = model.sum(|row| row.fate.is_let_go() && !row.fate.is_outside());
    let refused = model.sum(|row| row.fate == Fate::Refused);
    let is_public = report.preset == Preset::Transfers;
    let has_refused = !is_public && report.preset != Preset::Waivers;
    let anchor = match report.preset {
        Preset::Full | Preset::Group => "fates",
        Preset::Transfers | Preset::Waivers => "grounds",
        Preset::FirstSeen => "rows",
    };
    let of_all = |part: &Totals| share(part.up, model.total.up, texts);
    let places = model.parts(By::Location, |row| row.fate.is_outside());
    let grounds = model.parts(By::Ground, |row| row.fate.is_outside());
    html! {
        section {
            h2 id="short" { (texts.in_short) }
            @if model.rows.is_empty() { p.lead { (texts.nothing) } }
            div.cards.three[!has_refused] {
                div.card.out {
                    h3 { (texts.left_outside) }
                    p.big { a href={ "#" (anchor) } title=(digits(outside.totals.up, texts)) { (bytes(outside.totals.up, texts)) } }
                    p { (of_all(&outside.totals)) " " (texts.of_all_up) ". " (digits(outside.totals.connections, texts)) " " (texts.connections_of) ". " (texts.left_outside_says) }
                }
                div.card {
                    h3 { (texts.left_permitted) }
                    p.big { a href={ "#" (if is_public { "countries" } else { anchor }) } title=(digits(permitted.totals.up, texts)) { (bytes(permitted.totals.up, texts)) } }
                    p { (of_all(&permitted.totals)) " " (texts.of_all_up) ". " (texts.left_permitted_says) }
                }
                @if has_refused {
                    div.card {
                        h3 { (texts.refused) }
                        p.big { a href={ "#" (if report.preset == Preset::Full { "refusals" } else { "rows" }) } { (digits(refused.totals.connections, texts)) } }
                        p { (texts.refused_says) }
                    }
                }
                (record_card(words))
            }
            @if !places.is_empty() {
                div.two {
                    div { h3 { (texts.where_to) } (short_list(words, By::Location, &places, &outside.totals)) }
                    div { h3 { (texts.ground) } (short_list(words, By::Ground, &grounds, &outside.totals)) }
                }
            }
        }
    }
}

/// The largest parts of what left, the others as one.
fn short_list(words: &Words<'_>, by: By, parts: &[Part], whole: &Totals) -> Markup {
    let texts = words.texts;
    let most = parts.iter().map(|part| part.totals.up).max().unwrap_or(0);
    let others = parts.get(SHORT..).unwrap_or_default();
    let rest = others.iter().fold(Totals::default(), |mut sum, part| {
        sum.add(&part.totals);
        sum
    });
    html! {
        div.scroll tabindex="0" {
            table {
                thead { tr { th { (words.heading(by)) } th.n { (texts.up) } th.n { (texts.connections) } th { (texts.share) } } }
                tbody {
                    @for part in parts.iter().take(SHORT) {
                        tr {
                            th.name scope="row" { (words.key(by, &part.key)) }
                            (words.bytes(part.totals.up))
                            (words.number(part.totals.connections))
                            td.bars { (charts::bar(part.totals.up, part.outside.up, most)) }
                        }
                    }
                    @if !others.is_empty() {
                        tr {
                            th scope="row" { (texts.others) " (" (others.len()) ")" }
                            (words.bytes(rest.up))
                            (words.number(rest.connections))
                            td.bars { (charts::bar(rest.up, rest.up, most)) }
                        }
                    }
                }
                tfoot { tr { th scope="row" { (texts.sum) } (words.bytes(whole.up)) (words.number(whole.connections)) td {} } }
            }
        }
    }
}

/// Whether the record is whole, in one look.
fn record_card(words: &Words<'_>) -> Markup {
    let (report, texts) = (words.report, words.texts);
    let record = &report.record;
    let says = match &record.verified {
        Some(verified) if verified.holds() => texts.holds,
        Some(_) => texts.holds_not,
        None => texts.not_verified,
    };
    let class = match (&record.verified, report.is_sound()) {
        (_, false) => "card ill",
        (Some(_), true) => "card ok",
        (None, true) => "card",
    };
    let history = &report.history;
    html! {
        div class=(class) {
            h3 { (texts.record) }
            @if record.differs() { p.word { a href="#whole" { (texts.agrees_not) } } }
            @else if record.verified.is_none() && !record.unreadable.is_empty() {
                p.word { a href="#whole" { (texts.unreadable) } }
            }
            @else { p.word { a href="#whole" { (says) } } }
            ul {
                @if record.differs() { li { (says) } }
                @if record.verified.is_some() && !record.unreadable.is_empty() { li.warn { (texts.unreadable) } }
                @if history.gaps.is_empty() { @if !record.lacks() { li { (texts.gaps_none) } } }
                @else { li.warn { (words.lost()) " " (texts.lost) } }
                @for (doing, says) in [
                    (Doing::Observing, texts.hours_observing),
                    (Doing::Stopped, texts.hours_stopped),
                    (Doing::Unknown, texts.hours_unknown),
                ] {
                    @let time = history.time(doing);
                    @if time > 0 { li { b { (hours(time)) } " " (says) } }
                }
                li { b { (hours(history.time(Doing::Enforcing))) } " " (texts.hours_enforcing) }
            }
        }
    }
}

fn contents(texts: &Texts, sections: &[Section]) -> Markup {
    html! {
        nav aria-label=(texts.contents) {
            ol.toc {
                @for (id, heading, _) in sections { li { a href={ "#" (id) } { (heading) } } }
            }
        }
    }
}
