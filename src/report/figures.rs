//! Numbers, times and places in the words of a language.

use jiff::Timestamp;

use super::text::printable;
use super::texts::Texts;
use super::world::{self, Language};

/// Digits in groups of three.
#[must_use]
pub fn digits(number: u64, texts: &Texts) -> String {
    let plain = number.to_string();
    let mut grouped = String::with_capacity(plain.len() * 2);
    for (at, digit) in plain.chars().enumerate() {
        if at > 0 && (plain.len() - at).is_multiple_of(3) {
            grouped.push(texts.thousands);
        }
        grouped.push(digit);
    }
    grouped
}

/// Bytes for people: three digits, units of a thousand.
#[must_use]
pub fn bytes(number: u64, texts: &Texts) -> String {
    let (mut value, mut unit) = (number as f64, 0);
    while value >= 999.5 && unit + 1 < texts.bytes.len() {
        value /= 1000.0;
        unit += 1;
    }
    let places = if unit == 0 || value >= 99.95 { 0 } else { 1 };
    let shown = format!("{value:.places$}").replace('.', &texts.decimal.to_string());
    format!("{shown}\u{a0}{}", texts.bytes.get(unit).unwrap_or(&""))
}

/// A share in per cent; something is never nothing, and less than all never all.
#[must_use]
pub fn share(part: u64, whole: u64, texts: &Texts) -> String {
    let percent = if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 };
    let shown = match percent {
        _ if part == 0 => "0".to_owned(),
        _ if part == whole => "100".to_owned(),
        small if small < 0.1 => "< 0.1".to_owned(),
        large if large > 99.9 => "> 99.9".to_owned(),
        other => format!("{other:.1}"),
    };
    format!("{}\u{a0}%", shown.replace('.', &texts.decimal.to_string()))
}

/// Hours and minutes; something is never nothing.
#[must_use]
pub fn hours(ms: u64) -> String {
    let minutes = ms / 60_000;
    if ms > 0 && minutes == 0 {
        return "<\u{a0}1\u{a0}min".to_owned();
    }
    format!("{}\u{a0}h\u{a0}{:02}\u{a0}min", minutes / 60, minutes % 60)
}

/// Whole days from one second to another, rounded up: on its last day one is left, once it has come none.
#[must_use]
pub const fn days_left(now: i64, until: i64) -> u64 {
    if until <= now { 0 } else { until.abs_diff(now).div_ceil(86_400) }
}

/// The end of what holds up to this second, which is not in it: where that is a midnight (UTC), the day
/// that still is.
#[must_use]
pub fn end(until: i64, texts: &Texts) -> String {
    if until.rem_euclid(86_400) == 0 {
        format!("{} {}", texts.to_the_end_of, day(until.saturating_sub(1)))
    } else {
        minute(until.saturating_mul(1000))
    }
}

/// A day and a minute, UTC.
#[must_use]
pub fn minute(ms: i64) -> String {
    Timestamp::from_millisecond(ms)
        .map_or_else(|_| ms.to_string(), |at| at.strftime("%Y-%m-%d %H:%M").to_string())
}

/// A day, UTC.
#[must_use]
pub fn day(second: i64) -> String {
    Timestamp::from_second(second)
        .map_or_else(|_| second.to_string(), |at| at.strftime("%Y-%m-%d").to_string())
}

/// A country in words; a code that is nobody's is shown as it is.
#[must_use]
pub fn country(code: &str, language: Language) -> String {
    world::name(code, language).map_or_else(
        || format!("{} ({})", printable(code.as_bytes()), Texts::of(language).unknown_code),
        str::to_owned,
    )
}

/// Countries in words, with the word between them; what is said of none.
#[must_use]
pub fn countries(codes: &str, between: &str, none: &str, language: Language) -> String {
    let each = codes.split(' ').filter(|code| !code.is_empty());
    let each: Vec<String> = each
        .map(|code| match code {
            "anycast" => Texts::of(language).anycast.to_owned(),
            code => country(code, language),
        })
        .collect();
    match each.split_last() {
        None => none.to_owned(),
        Some((last, [])) => last.clone(),
        Some((last, before)) => format!("{} {between} {last}", before.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_people_of_the_language_write_them() {
        let (en, fr) = (Texts::of(Language::En), Texts::of(Language::Fr));
        assert_eq!(digits(1_234_567, en), "1\u{202f}234\u{202f}567");
        assert_eq!((digits(0, en), digits(999, en)), ("0".to_owned(), "999".to_owned()));
        assert_eq!(bytes(1_540_000, en), "1.5\u{a0}MB");
        assert_eq!(bytes(1_540_000, fr), "1,5\u{a0}Mo");
        assert_eq!(
            (bytes(0, en), bytes(999_600, en)),
            ("0\u{a0}B".to_owned(), "1.0\u{a0}MB".to_owned())
        );
        assert_eq!(bytes(u64::MAX, en), "18447\u{a0}PB");
        assert_eq!(share(1, 1_000_000, en), "< 0.1\u{a0}%");
        assert_eq!(share(999_999, 1_000_000, fr), "> 99,9\u{a0}%");
        assert_eq!(
            (share(0, 0, en), share(5, 5, en)),
            ("0\u{a0}%".to_owned(), "100\u{a0}%".to_owned())
        );
        assert_eq!(hours(3_661_000), "1\u{a0}h\u{a0}01\u{a0}min");
        assert_eq!(hours(0), "0\u{a0}h\u{a0}00\u{a0}min");
        assert_eq!((hours(1), hours(59_999)), (hours(2), "<\u{a0}1\u{a0}min".to_owned()));
        assert_eq!(minute(1_795_996_800_000), "2026-11-30 00:00");
    }

    #[test]
    fn an_end_names_its_last_day_and_a_day_that_has_begun_is_left() {
        let (en, fr) = (Texts::of(Language::En), Texts::of(Language::Fr));
        // 2027-04-01T00:00:00Z.
        let april = 1_806_537_600;
        assert_eq!(end(april, en), "to the end of 2027-03-31");
        assert_eq!(end(april, fr), "jusqu’à la fin du 2027-03-31");
        assert_eq!(end(april + 3600, en), "2027-04-01 01:00");
        let left = |before: i64| days_left(april - before, april);
        assert_eq!([left(-5), left(0), left(1), left(86_400), left(86_401)], [0, 0, 1, 1, 2]);
    }

    #[test]
    fn places_are_named_and_a_code_of_nobody_is_not_hidden() {
        let says = |codes| countries(codes, "or", "nowhere", Language::En);
        assert_eq!(says(""), "nowhere");
        assert_eq!(says("DE"), "Germany");
        assert_eq!(says("DE FR anycast"), "Germany, France or many places (anycast)");
        assert_eq!(says("ZZ"), "ZZ (unknown code)");
        assert_eq!(says("<b>"), "<b> (unknown code)");
    }
}
