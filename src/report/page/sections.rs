//! The sections of a report, each by itself.

use maud::{Markup, html};

use super::super::charts;
use super::super::figures::{bytes, country, digits, hours, minute, share};
use super::super::history::{Doing, InForce};
use super::super::model::{By, Fate, Name, Part, Totals, UNDECIDABLE};
use super::super::tables::{State, Used, used};
use super::super::text::printable;
use super::parts::{ROWS_MAX, Words};
use crate::evidence::register::REST;

/// Lines of a list that could be of any length.
const LINES_MAX: usize = 200;

impl Words<'_> {
    /// What became of everything; the sum is that of the whole report.
    pub(super) fn fates(&self) -> Markup {
        let (texts, model) = (self.texts, &self.report.model);
        let parts: Vec<(Fate, Part)> = Fate::ALL
            .into_iter()
            .map(|fate| (fate, model.sum(|row| row.fate == fate)))
            .filter(|(_, part)| !part.rows.is_empty())
            .collect();
        let most = parts.iter().map(|(_, part)| part.totals.up).max().unwrap_or(0);
        html! {
            div.scroll tabindex="0" {
                table {
                    thead { tr { th { (texts.what_became) } th { span.unseen { (texts.share) } } th.n { (texts.up) } th.n { (texts.share) } th.n { (texts.down) } th.n { (texts.opened) } th.n { (texts.connections) } th { (texts.rows) } } }
                    tbody {
                        @for (fate, part) in &parts {
                            tr {
                                th.name scope="row" { (self.key(By::Fate, fate.code())) br; span.note { (texts.fates_say[*fate as usize]) } }
                                td.bars { (charts::bar(part.totals.up, part.outside.up, most)) }
                                (self.bytes(part.totals.up))
                                td.n { (share(part.totals.up, model.total.up, texts)) }
                                (self.bytes(part.totals.down))
                                (self.number(part.totals.opened))
                                (self.number(part.totals.connections))
                                (self.refs(&part.rows))
                            }
                        }
                    }
                    tfoot { tr { th scope="row" { (texts.sum) } td {} (self.bytes(model.total.up)) td {} (self.bytes(model.total.down)) (self.number(model.total.opened)) (self.number(model.total.connections)) td {} } }
                }
            }
        }
    }

    pub(super) fn map(&self) -> Markup {
        let texts = self.texts;
        let shades = |class: char| {
            html! {
                svg viewBox="0 0 100 12" aria-hidden="true" {
                    @for shade in 1..=5 { rect class={ (class) (shade) } x=((shade - 1) * 20) width="20" height="12" {} }
                }
            }
        };
        html! {
            p.note { (texts.map_says) }
            (charts::map(&self.report.model.countries(), self.language))
            p.legend {
                span { (shades('p')) (texts.legend_permitted) }
                span { (shades('o')) (texts.legend_outside) }
                span { (texts.map_borders) }
            }
        }
    }

    pub(super) fn waivers(&self) -> Markup {
        let texts = self.texts;
        let all = used(self.report);
        html! {
            p.note { (texts.waivers_says) }
            @if self.report.waivers.is_none() { p.note { (texts.policy_not_read) } }
            @if all.is_empty() { p { (texts.waivers_none) } } @else {
                div.scroll tabindex="0" {
                    table.stack {
                        thead { tr { th { (texts.waiver) } th { (texts.owner) } th { (texts.reason) } th.n { (texts.days_left) } th.n { (texts.up) } th.n { (texts.connections) } th { (texts.rows) } } }
                        tbody { @for waiver in &all { (self.waiver(waiver)) } }
                        tfoot {
                            @let whole = self.report.model.sum(|row| row.fate == Fate::Waiver);
                            tr {
                                th scope="row" { (texts.sum) } td {} td {} td {}
                                td.n title=(digits(whole.totals.up, texts)) data-label=(texts.up) { (bytes(whole.totals.up, texts)) }
                                td.n data-label=(texts.connections) { (digits(whole.totals.connections, texts)) }
                                td {}
                            }
                        }
                    }
                }
            }
        }
    }

    fn waiver(&self, waiver: &Used) -> Markup {
        let texts = self.texts;
        html! {
            tr {
                th.name scope="row" {
                    span {
                        (printable(waiver.rule.as_bytes()))
                        @if !waiver.basis.is_empty() { br; span.note { (printable(waiver.basis.as_bytes())) } }
                    }
                }
                td.name data-label=(texts.owner) { (printable(waiver.owner.as_bytes())) }
                td.name data-label=(texts.reason) { (printable(waiver.reason.as_bytes())) }
                td.n data-label=(texts.days_left) {
                    span {
                        @match waiver.state {
                            State::Days(days) => (digits(days, texts)),
                            State::Ended => (texts.ended),
                            State::NotBegun => (texts.not_begun),
                            State::Gone => (texts.not_in_policy),
                            State::NotKnown => "?",
                        }
                        @let end = waiver.end(texts);
                        @if !end.is_empty() { br; span.note.end { (printable(end.as_bytes())) } }
                    }
                }
                td.n title=(digits(waiver.part.totals.up, texts)) data-label=(texts.up) { (bytes(waiver.part.totals.up, texts)) }
                td.n data-label=(texts.connections) {
                    @if waiver.part.rows.is_empty() { (texts.unused) } @else { (digits(waiver.part.totals.connections, texts)) }
                }
                (self.refs(&waiver.part.rows))
            }
        }
    }

    pub(super) fn refusals(&self) -> Markup {
        let (texts, model) = (self.texts, &self.report.model);
        let mut causes = model.parts(By::Reason, |row| row.fate == Fate::Refused);
        causes.sort_by_key(|part| std::cmp::Reverse(part.totals.connections));
        let most = causes.iter().map(|part| part.totals.connections).max().unwrap_or(0);
        let whole = model.sum(|row| row.fate == Fate::Refused);
        html! {
            p.note { (texts.refusals_says) }
            @if causes.is_empty() { p { (texts.none) } } @else {
                div.scroll tabindex="0" {
                    table {
                        thead { tr { th { (texts.reason) } th { span.unseen { (texts.share) } } th.n { (texts.connections) } th { (texts.top_names) } th { (texts.rows) } } }
                        tbody {
                            @for part in &causes {
                                tr {
                                    th.name scope="row" { code { (printable(part.key.as_bytes())) } br; span.note { (self.key(By::Reason, &part.key)) } }
                                    td.bars { (charts::bar(part.totals.connections, 0, most)) }
                                    (self.number(part.totals.connections))
                                    td.name.host {
                                        @for (name, count) in model.refused.get(&part.key).into_iter().flatten() {
                                            (printable(name.as_bytes())) " (" (digits(*count, texts)) ")" br;
                                        }
                                    }
                                    (self.refs(&part.rows))
                                }
                            }
                        }
                        tfoot { tr { th scope="row" { (texts.sum) } td {} (self.number(whole.totals.connections)) td {} td {} } }
                    }
                }
            }
        }
    }

    pub(super) fn names(&self) -> Markup {
        let (texts, model) = (self.texts, &self.report.model);
        html! {
            p.note { (texts.names_says) }
            (self.name_table(&model.names, model.more_names))
        }
    }

    fn name_table(&self, names: &[Name], more: usize) -> Markup {
        let texts = self.texts;
        let more = more + names.len().saturating_sub(LINES_MAX);
        html! {
            @if names.is_empty() { p { (texts.none) } } @else {
                div.scroll tabindex="0" {
                    table {
                        thead { tr { th { (texts.name) } th.n { (texts.up) } th.n { (texts.down) } th.n { (texts.connections) } th.n { (texts.first) } } }
                        tbody {
                            @for name in names.iter().take(LINES_MAX) {
                                tr {
                                    th.name.host scope="row" { (printable(name.name.as_bytes())) @if name.partial { abbr title=(texts.partial) { " +" } } }
                                    (self.bytes(name.totals.up))
                                    (self.bytes(name.totals.down))
                                    (self.number(name.totals.connections))
                                    td.n { (minute(name.first_seen)) }
                                }
                            }
                        }
                    }
                }
                @if more > 0 { p.note { "+ " (digits(more as u64, texts)) " " (texts.more) } }
                @if names.iter().any(|name| name.partial) { p.note { "+ " (texts.partial) } }
            }
        }
    }

    pub(super) fn first_seen(&self) -> Markup {
        let (texts, first) = (self.texts, &self.report.model.first_seen);
        let list = |heading: &str,
                    column: &str,
                    all: &[(String, i64)],
                    says: &dyn Fn(&str) -> String| {
            html! {
                h3 { (heading) }
                @if all.is_empty() { p { (texts.none) } } @else {
                    div.scroll tabindex="0" {
                        table {
                            thead { tr { th { (column) } th.n { (texts.first) } } }
                            tbody {
                                @for (key, at) in all.iter().take(LINES_MAX) {
                                    tr { th.name scope="row" { (says(key)) } td.n { (minute(*at)) } }
                                }
                            }
                        }
                    }
                    @if all.len() > LINES_MAX { p.note { "+ " (all.len() - LINES_MAX) " " (texts.more) } }
                }
            }
        };
        html! {
            p.note { (texts.first_seen_says) }
            @if !first.hours_before { p { (texts.first_seen_nothing_before) } }
            div.two {
                div { (list(texts.countries, texts.location, &first.countries, &|code| country(code, self.language))) }
                div { (list(texts.operators_new, texts.operator, &first.operators, &|id| printable(id.as_bytes()))) }
            }
            h3 { (texts.names) }
            (self.name_table(&first.names, first.more_names))
        }
    }

    pub(super) fn undecidable(&self) -> Markup {
        let (texts, model) = (self.texts, &self.report.model);
        let is_such = |row: &super::super::model::Row| UNDECIDABLE.contains(&row.reason.as_str());
        let (parts, whole) = (model.parts(By::Reason, is_such), model.sum(is_such));
        html! {
            p.note { (texts.undecidable_says) }
            p {
                b { (share(whole.totals.connections, model.total.connections, texts)) } " "
                (texts.connections_of) ", " b { (share(whole.totals.up, model.total.up, texts)) } " " (texts.of_all_up) "."
            }
            @if !parts.is_empty() {
                div.scroll tabindex="0" {
                    table {
                        thead { tr { th { (texts.reason) } th.n { (texts.connections) } th.n { (texts.share) } th.n { (texts.up) } th.n { (texts.refused) } th { (texts.rows) } } }
                        tbody {
                            @for part in &parts {
                                tr {
                                    th.name scope="row" { code { (part.key) } br; span.note { (self.key(By::Reason, &part.key)) } }
                                    (self.number(part.totals.connections))
                                    td.n { (share(part.totals.connections, model.total.connections, texts)) }
                                    (self.bytes(part.totals.up))
                                    (self.number(part.refused))
                                    (self.refs(&part.rows))
                                }
                            }
                        }
                        tfoot { tr { th scope="row" { (texts.sum) } (self.number(whole.totals.connections)) td {} (self.bytes(whole.totals.up)) (self.number(whole.refused)) td {} } }
                    }
                }
            }
        }
    }

    pub(super) fn contradicted(&self) -> Markup {
        let (texts, model) = (self.texts, &self.report.model);
        let name = |name: &str| match name {
            "" => "–".to_owned(),
            REST => texts.others.to_owned(),
            name => printable(name.as_bytes()),
        };
        html! {
            p.note { (texts.contradicted_says) }
            @if model.contradicted.is_empty() { p { (texts.contradicted_none) } } @else {
                div.scroll tabindex="0" {
                    table {
                        thead { tr { th { (texts.operator) } th { (texts.name) } th { (texts.location) } th.n { (texts.connections) } } }
                        tbody {
                            @for one in &model.contradicted {
                                tr {
                                    th.name scope="row" { (self.key(By::Operator, &one.operator)) }
                                    td.name.host { (name(&one.name)) }
                                    td { (self.key(By::Location, &one.location)) }
                                    (self.number(one.connections))
                                }
                            }
                        }
                    }
                }
                @if model.more_contradicted > 0 { p.note { "+ " (digits(model.more_contradicted as u64, texts)) " " (texts.more) } }
            }
        }
    }

    pub(super) fn blind(&self) -> Markup {
        html! { ul { @for spot in self.texts.blind_spots { li { (spot) } } } }
    }

    pub(super) fn in_force(&self) -> Markup {
        let (texts, history) = (self.texts, &self.report.history);
        let from = self.report.span.0.saturating_mul(1000);
        let when = |at: i64| html! { (minute(at)) @if at < from { br; span.note { (texts.before_span) } } };
        let what = |one: &InForce| match one.event.as_str() {
            "start" => texts.started,
            "stop" => texts.stopped,
            "reload-failed" => texts.reload_failed,
            _ => texts.reloaded,
        };
        html! {
            p.note { (texts.in_force_says) }
            h3 { (texts.policy) }
            @if history.in_force.is_empty() { p { (texts.none) } } @else {
                div.scroll tabindex="0" {
                    table {
                        thead { tr { th { (texts.when) } th { (texts.what) } th { (texts.policy) } th { (texts.mode) } } }
                        tbody {
                            @for one in history.in_force.iter().take(LINES_MAX) {
                                tr { td { (when(one.at)) } td { (what(one)) } td.name { code { (printable(one.policy.as_bytes())) } } td.name { (printable(one.mode.as_bytes())) } }
                            }
                        }
                    }
                }
                @if history.in_force.len() > LINES_MAX { p.note { "+ " (history.in_force.len() - LINES_MAX) " " (texts.more) } }
            }
            h3 { (texts.table) }
            @if history.tables.is_empty() { p { (texts.none) } } @else {
                div.scroll tabindex="0" {
                    table {
                        thead { tr { th { (texts.when) } th { (texts.table) } th { (texts.as_of) } th { (texts.digest) } } }
                        tbody {
                            @for table in history.tables.iter().take(LINES_MAX) {
                                tr {
                                    td { (when(table.at)) }
                                    td.name { (printable(table.name.as_bytes())) }
                                    td { (printable(table.as_of.as_bytes())) }
                                    td.name { code { @if table.digest.is_empty() { (texts.ended) } @else { (printable(table.digest.as_bytes())) } } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    /// How many lines were lost, in words.
    pub(super) fn lost(&self) -> String {
        let gaps = &self.report.history.gaps;
        let known = gaps.iter().filter_map(|gap| gap.lost).fold(0, u64::saturating_add);
        let known = digits(known, self.texts);
        if gaps.iter().all(|gap| gap.lost.is_some()) {
            known
        } else {
            format!("{known} + {}", self.texts.lost_unknown)
        }
    }

    pub(super) fn whole(&self) -> Markup {
        let (report, texts) = (self.report, self.texts);
        let (record, history) = (&report.record, &report.history);
        let is_signed = |signed: Option<bool>| match signed {
            Some(true) => html! { span.good { (texts.head_signed) } },
            Some(false) => html! { b.bad { (texts.head_unsigned) } },
            None => html! { (texts.head_unsigned) },
        };
        let (is_agreed, compared) = match &record.reconciled {
            Some(told) if told.agrees() => (true, html! { span.good { (texts.agrees) } }),
            Some(_) => (false, html! { b.bad { (texts.agrees_not) } }),
            None => (true, html! { (texts.not_compared) }),
        };
        html! {
            p {
                @match &record.verified {
                    Some(verified) if verified.holds() => b.good { (texts.holds) },
                    Some(_) => b.bad { (texts.holds_not) },
                    None => b { (texts.not_verified) },
                }
                " " (texts.verified_says)
            }
            @if let Some(verified) = &record.verified {
                @if !verified.findings.is_empty() {
                    ul { @for finding in verified.findings.iter().take(LINES_MAX) { li { code { (printable(finding.to_string().as_bytes())) } } } }
                }
            }
            @if !record.unreadable.is_empty() {
                p { b.bad { (texts.unreadable) } }
                ul { @for segment in report.unreadable().take(LINES_MAX) { li { code { (printable(segment.as_bytes())) } } } }
            }
            dl.facts {
                div {
                    dt { (texts.head) }
                    dd {
                        @match &record.head {
                            Some(head) => {
                                (digits(head.size, texts)) ", " (printable(head.time.as_bytes())) ": " (is_signed(head.is_signed)) br;
                                code { (head.root) }
                            }
                            None => (texts.head_none),
                        }
                    }
                }
                @if !history.gaps.is_empty() || !record.lacks() {
                    div {
                        dt { (texts.gaps) }
                        dd { @if history.gaps.is_empty() { (texts.gaps_none) } @else { (self.lost()) } }
                    }
                }
                div { dt { (texts.missing) } dd { (digits(record.missing, texts)) } }
            }
            @if !history.gaps.is_empty() {
                div.scroll tabindex="0" {
                    table {
                        thead { tr { th { (texts.when) } th.n { (texts.lost) } th { (texts.reason) } } }
                        tbody {
                            @for gap in history.gaps.iter().take(LINES_MAX) {
                                tr {
                                    td { (minute(gap.at)) }
                                    td.n { @match gap.lost { Some(lost) => (digits(lost, texts)), None => (texts.lost_unknown) } }
                                    td.name { (printable(gap.cause.as_bytes())) }
                                }
                            }
                        }
                    }
                }
            }
            h3 { (texts.hours) }
            p.note { (texts.hours_says) }
            div.scroll tabindex="0" {
                table {
                    tbody {
                        @for (doing, says) in [
                            (Doing::Enforcing, texts.hours_enforcing),
                            (Doing::Observing, texts.hours_observing),
                            (Doing::Stopped, texts.hours_stopped),
                            (Doing::Unknown, texts.hours_unknown),
                        ] {
                            tr { th.name scope="row" { (says) } td.n { (hours(history.time(doing))) } }
                        }
                    }
                    tfoot { tr { th scope="row" { (texts.sum) } td.n { (hours(history.doing.iter().sum())) } } }
                }
            }
            h3 { (texts.reconciled) }
            p { (compared) }
            @if !is_agreed && let Some(told) = &record.reconciled {
                ul { @for one in told.differences.iter().take(LINES_MAX) { li { code { (printable(one.to_string().as_bytes())) } } } }
            }
            (self.sums())
        }
    }

    /// The sums of the rows beside the answer to the same question asked at once.
    fn sums(&self) -> Markup {
        let (report, texts) = (self.report, self.texts);
        let line = |says: &str, totals: &Totals| {
            html! {
                tr {
                    th.name scope="row" { (says) }
                    td.n { (digits(totals.connections, texts)) }
                    td.n { (digits(totals.opened, texts)) }
                    td.n { (digits(totals.up, texts)) }
                    td.n { (digits(totals.down, texts)) }
                }
            }
        };
        html! {
            div.scroll tabindex="0" {
                table {
                    thead { tr { td {} th.n { (texts.connections) } th.n { (texts.opened) } th.n { (texts.up) " (" (texts.bytes[0]) ")" } th.n { (texts.down) " (" (texts.bytes[0]) ")" } } }
                    tbody {
                        (line(texts.rows_add_up, &report.model.total))
                        @if let Some(asked) = &report.asked { (line(texts.asked_at_once, asked)) }
                    }
                }
            }
            @if report.asked.is_some_and(|asked| asked != report.model.total) { p { b.bad { (texts.agrees_not) } } }
        }
    }

    pub(super) fn rows(&self) -> Markup {
        let (texts, model) = (self.texts, &self.report.model);
        let hidden = model.rows.get(ROWS_MAX..).unwrap_or_default();
        let rest = hidden.iter().fold(Totals::default(), |mut sum, row| {
            sum.add(&row.totals);
            sum
        });
        let sums = |totals: &Totals| {
            html! {
                td.n { (digits(totals.up, texts)) }
                td.n { (digits(totals.down, texts)) }
                (self.number(totals.connections))
            }
        };
        let is_public = self.report.preset == super::super::model::Preset::Transfers;
        html! {
            p.note { (texts.all_rows_says) }
            @if model.rows.is_empty() { p { (texts.none) } } @else {
                div.scroll tabindex="0" {
                    table.all {
                        thead {
                            tr {
                                th.n { "#" }
                                @if !is_public { th { (texts.group) } }
                                th { (texts.location) } th { (texts.operator) } th { (texts.law) }
                                th { (texts.ground) } th { (texts.verdict) }
                                th.n { (texts.up) } th.n { (texts.down) } th.n { (texts.connections) }
                            }
                        }
                        tbody {
                            @for (number, row) in model.rows.iter().take(ROWS_MAX).enumerate() {
                                tr id={ "r" (number + 1) } {
                                    td.n { (number + 1) }
                                    @if !is_public { td { (printable(row.group.as_bytes())) } }
                                    td { (self.key(By::Location, &row.location)) }
                                    td { (self.key(By::Operator, &row.operator)) }
                                    td { (self.key(By::Law, &row.law)) }
                                    td.name { @if !row.rule.is_empty() || !row.basis.is_empty() { (self.key(By::Ground, &format!("{}\u{1f}{}", row.rule, row.basis))) } }
                                    td { (self.key(By::Fate, row.fate.code())) " " code { (printable(row.reason.as_bytes())) } }
                                    (sums(&row.totals))
                                }
                            }
                            @if !hidden.is_empty() {
                                tr id="rest" { td {} @if !is_public { td {} } td { (texts.others) " (" (hidden.len()) ")" } td {} td {} td {} td {} (sums(&rest)) }
                            }
                        }
                        tfoot { tr { td {} @if !is_public { td {} } th scope="row" { (texts.sum) } td {} td {} td {} td {} (sums(&model.total)) } }
                    }
                }
            }
        }
    }
}
