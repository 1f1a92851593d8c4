//! Charts as SVG, drawn by the same templates as the text: they need no script, and they print.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::figures::{bytes, country, day};
use super::model::{Day, Part};
use super::texts::Texts;
use super::world::{self, Language};

/// Seconds of a day.
const DAY: i64 = 86_400;
/// Columns of a chart at the most: of more days, several are one.
const COLUMNS_MAX: i64 = 62;

/// A part of a whole as a bar, of which `outside` is drawn in the other colour.
pub(super) fn bar(part: u64, outside: u64, most: u64) -> Markup {
    let width = |number: u64| if most == 0 { 0.0 } else { number as f64 * 100.0 / most as f64 };
    // What is there is seen.
    let whole = if part == 0 { 0.0 } else { width(part).max(0.8) };
    let other = if outside == 0 { 0.0 } else { width(outside).max(0.8).min(whole) };
    html! {
        svg.bar viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true" {
            rect.track width="100" height="8" {}
            rect.fill width=(format!("{whole:.2}")) height="8" {}
            rect.fill-out width=(format!("{other:.2}")) height="8" {}
        }
    }
}

/// Bytes up by day.
pub(super) fn days(days: &BTreeMap<i64, Day>, (from, to): (i64, i64), texts: &Texts) -> Markup {
    let first = from.div_euclid(DAY);
    let count = (to.saturating_sub(1).div_euclid(DAY) - first + 1).max(1);
    let each = count.div_euclid(COLUMNS_MAX) + i64::from(count.rem_euclid(COLUMNS_MAX) > 0);
    let mut columns: BTreeMap<i64, Day> = BTreeMap::new();
    for (at, day) in days {
        let column = columns.entry((at.div_euclid(DAY) - first).div_euclid(each)).or_default();
        column.permitted = column.permitted.saturating_add(day.permitted);
        column.outside = column.outside.saturating_add(day.outside);
        column.refused = column.refused.saturating_add(day.refused);
    }
    let shown = (count + each - 1).div_euclid(each);
    let most = columns.values().map(|day| day.permitted.saturating_add(day.outside)).max();
    let most = most.unwrap_or(0).max(1);
    let step = 1000.0 / shown as f64;
    // Of few days the columns are no walls.
    let wide = (step * 0.76).min(90.0);
    let tall = |number: u64| number as f64 * 150.0 / most as f64;
    html! {
        svg.days viewBox="0 -30 1000 220" role="img" aria-label=(texts.by_day) {
            line.grid x1="0" x2="1000" y1="10" y2="10" {}
            line.grid x1="0" x2="1000" y1="85" y2="85" {}
            line.axis x1="0" x2="1000" y1="160" y2="160" {}
            text.tick x="0" y="4" { (bytes(most, texts)) }
            @for (at, column) in &columns {
                @let x = *at as f64 * step + (step - wide) / 2.0;
                @let whole = tall(column.permitted.saturating_add(column.outside));
                @let other = tall(column.outside);
                @let begin = day((first + at * each) * DAY);
                g {
                    title {
                        (begin) ": " (bytes(column.permitted.saturating_add(column.outside), texts))
                        ", " (texts.legend_outside) " " (bytes(column.outside, texts))
                    }
                    rect.fill x=(format!("{x:.1}")) width=(format!("{wide:.1}"))
                        y=(format!("{:.1}", 160.0 - whole)) height=(format!("{whole:.1}")) {}
                    rect.fill-out x=(format!("{x:.1}")) width=(format!("{wide:.1}"))
                        y=(format!("{:.1}", 160.0 - other)) height=(format!("{other:.1}")) {}
                }
            }
            text.tick x="0" y="180" { (day(first * DAY)) }
            @if count > 1 { text.tick x="1000" y="180" text-anchor="end" { (day((first + count - 1) * DAY)) } }
        }
    }
}

/// The map: each country by how much may have landed there.
pub(super) fn map(countries: &BTreeMap<String, Part>, language: Language) -> Markup {
    let texts = Texts::of(language);
    let most = countries.values().map(|part| part.totals.up).max().unwrap_or(0);
    // Five shades, each for ten times as much as the one before.
    let shade = |part: &Part| {
        let digits = |number: u64| f64::from(number.max(1).ilog10());
        let level = 5.0 - (digits(most) - digits(part.totals.up));
        (level.clamp(1.0, 5.0)) as u8
    };
    let class = |code: &str| match countries.get(code) {
        // What was opened and sent nothing is in the sums; the colour is of what went.
        Some(part) if part.totals.up == 0 => "land".to_owned(),
        Some(part) if part.outside.connections + part.outside.opened + part.outside.up > 0 => {
            format!("o{}", shade(part))
        }
        Some(part) => format!("p{}", shade(part)),
        None => "land".to_owned(),
    };
    let says = |code: &str| {
        let part = countries.get(code)?;
        Some(format!("{}: {}", country(code, language), bytes(part.totals.up, texts)))
    };
    html! {
        svg.map viewBox=(world::VIEW_BOX) role="img" aria-label=(texts.map) {
            @for outline in world::outlines() {
                @let is_point = outline.path.is_empty();
                @let says = says(outline.code);
                @if !is_point {
                    path class=(class(outline.code)) d=(outline.path) {
                        @if let Some(says) = says { title { (says) } }
                    }
                } @else if says.is_some() {
                    circle class=(class(outline.code)) cx=(outline.middle.0) cy=(outline.middle.1) r="9" {
                        @if let Some(says) = says { title { (says) } }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::model::Totals;

    #[test]
    fn a_country_where_nothing_went_has_no_colour() {
        let part = |up, opened| Part {
            totals: Totals { connections: 1, opened, up, ..Totals::default() },
            outside: Totals { connections: 1, opened, up, ..Totals::default() },
            ..Part::default()
        };
        let countries =
            BTreeMap::from([("DE".to_owned(), part(7, 1)), ("FR".to_owned(), part(0, 1))]);
        let drawn = map(&countries, Language::En).into_string();
        let class = |says: &str| {
            let title = drawn.find(says).unwrap();
            let tag = &drawn[drawn[..title].rfind("class=\"").unwrap() + 7..];
            tag.split('"').next().unwrap().to_owned()
        };
        assert_eq!((class("Germany: 7"), class("France: 0")), ("o5".to_owned(), "land".to_owned()));
    }
}
