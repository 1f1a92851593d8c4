//! What sections are made of: cells, keys in words, references to rows.

use maud::{Markup, html};

use super::super::figures::{bytes, countries, digits};
use super::super::model::{By, Fate};
use super::super::text::printable;
use super::super::texts::Texts;
use super::super::world::Language;
use super::super::{Report, charts};

/// Rows that a reader sees at once; those behind them are one line.
pub(super) const ROWS_MAX: usize = 1000;
/// Parts of one table.
const PARTS_MAX: usize = 100;
/// Rows that are named beside a number, before somebody asks for all of them.
const REFS: usize = 5;
/// Rows that are named at all.
const REFS_MAX: usize = 100;

/// A report and the language that it is told in.
pub(super) struct Words<'r> {
    pub(super) report: &'r Report,
    pub(super) texts: &'static Texts,
    pub(super) language: Language,
}

impl Words<'_> {
    /// A cell with a number.
    pub(super) fn number(&self, number: u64) -> Markup {
        html! { td.n { (digits(number, self.texts)) } }
    }

    /// A cell with bytes for people, and the exact number for who wants it.
    pub(super) fn bytes(&self, number: u64) -> Markup {
        html! { td.n title=(digits(number, self.texts)) { (bytes(number, self.texts)) } }
    }

    /// What a column of keys is called.
    pub(super) const fn heading(&self, by: By) -> &'static str {
        let texts = self.texts;
        match by {
            By::Location => texts.location,
            By::Law => texts.law,
            By::Operator => texts.operator,
            By::Ground => texts.ground,
            By::Group => texts.group,
            By::Reason => texts.reason,
            By::Fate => texts.what_became,
        }
    }

    /// A key in words.
    pub(super) fn key(&self, by: By, key: &str) -> Markup {
        let texts = self.texts;
        let plain = |none: &'static str| {
            let shown = if key.is_empty() { none.to_owned() } else { printable(key.as_bytes()) };
            html! { (shown) }
        };
        match by {
            By::Location => html! { (countries(key, texts.or, texts.unknown_place, self.language)) },
            By::Law => html! { (countries(key, texts.and, texts.unknown_law, self.language)) },
            By::Operator => plain(texts.unknown_operator),
            // What ended before a verdict was judged for nobody.
            By::Group => plain(texts.fates[Fate::Unjudged as usize]),
            By::Reason => html! { (printable(texts.reason_of(key).as_bytes())) },
            By::Fate => Fate::ALL.iter().find(|fate| fate.code() == key).map_or_else(
                || plain(texts.none),
                |fate| html! { span class={ "tag " (fate.code()) } { (texts.fates[*fate as usize]) } },
            ),
            By::Ground => {
                let (rule, basis) = key.split_once('\u{1f}').unwrap_or((key, ""));
                html! {
                    @if rule.is_empty() && basis.is_empty() { (texts.no_rule) }
                    @else if rule.is_empty() { (printable(basis.as_bytes())) }
                    @else {
                        b { (printable(rule.as_bytes())) } br;
                        span.note {
                            @if basis.is_empty() { (texts.no_basis) } @else { (printable(basis.as_bytes())) }
                        }
                    }
                }
            }
        }
    }

    /// A cell that names the rows of which a number is the sum.
    pub(super) fn refs(&self, rows: &[usize]) -> Markup {
        let one = |row: &usize| {
            let number = row + 1;
            html! {
                @if *row < ROWS_MAX { a href={ "#r" (number) } { (number) } } @else { a href="#rest" { (number) } }
                " "
            }
        };
        let behind = rows.get(REFS..).unwrap_or_default();
        html! {
            td.refs {
                @for row in rows.iter().take(REFS) { (one(row)) }
                @if !behind.is_empty() {
                    details {
                        summary { "+" (behind.len()) " " (self.texts.more) }
                        " "
                        @for row in behind.iter().take(REFS_MAX) { (one(row)) }
                        @if behind.len() > REFS_MAX { a href="#rows" { "…" } }
                    }
                }
            }
        }
    }

    /// Sums by one question, as a table that adds up to the whole.
    pub(super) fn by(&self, by: By, says: &str) -> Markup {
        let (texts, model) = (self.texts, &self.report.model);
        // A ground is one of what was let go by it.
        let is_wanted = |row: &super::super::model::Row| by != By::Ground || row.fate.is_outside();
        let (parts, whole) = (model.parts(by, is_wanted), model.sum(is_wanted));
        let most = parts.iter().map(|part| part.totals.up).max().unwrap_or(0);
        let others = parts.get(PARTS_MAX..).unwrap_or_default();
        let mut rest = super::super::model::Part::default();
        for part in others {
            rest.totals.add(&part.totals);
            rest.outside.add(&part.outside);
            rest.refused += part.refused;
        }
        let line = |part: &super::super::model::Part| {
            html! {
                (self.bytes(part.totals.up))
                (self.bytes(part.outside.up))
                (self.bytes(part.totals.down))
                (self.number(part.totals.connections))
                (self.number(part.refused))
            }
        };
        html! {
            p.note { (says) }
            @if parts.is_empty() { p { (texts.none) } } @else {
                div.scroll tabindex="0" {
                    table {
                        thead {
                            tr {
                                th { (self.heading(by)) }
                                th { span.unseen { (texts.share) } }
                                th.n { (texts.up) }
                                th.n { (texts.legend_outside) }
                                th.n { (texts.down) }
                                th.n { (texts.connections) }
                                th.n { (texts.refused) }
                                th { (texts.rows) }
                            }
                        }
                        tbody {
                            @for part in parts.iter().take(PARTS_MAX) {
                                tr {
                                    th.name scope="row" { (self.key(by, &part.key)) }
                                    td.bars { (charts::bar(part.totals.up, part.outside.up, most)) }
                                    (line(part))
                                    (self.refs(&part.rows))
                                }
                            }
                            @if !others.is_empty() {
                                tr {
                                    th scope="row" { (texts.others) " (" (others.len()) ")" }
                                    td.bars { (charts::bar(rest.totals.up, rest.outside.up, most)) }
                                    (line(&rest))
                                    td.refs { a href="#rows" { "…" } }
                                }
                            }
                        }
                        tfoot { tr { th scope="row" { (texts.sum) } td {} (line(&whole)) td {} } }
                    }
                }
            }
        }
    }
}
