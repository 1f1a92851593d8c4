//! Dates and durations of the policy file.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::{Offset, TimeZone};
use toml::de::DeValue;
use toml::value::{Datetime, Offset as TomlOffset, Time};

use super::error::Wrong;
use super::model::Until;
use super::reader::{Item, Reader};

/// The longest duration that means something here: a hundred years.
const LONGEST: Duration = Duration::from_secs(36_500 * 24 * 60 * 60);

const DATE_HELP: &str = "write a day (2026-12-31, its time is UTC) or a date-time with its offset \
                         (2026-12-31T18:00:00+01:00)";

const DURATION_HELP: &str = "write a whole number and a unit in quotes: \"250ms\", \"3s\", \
                             \"5m\", \"1h\", \"45d\" or \"8w\"";

/// Which instant a bare day stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Edge {
    /// `since`: the day's first instant in UTC.
    First,
    /// `until`: the first instant after the day in UTC.
    After,
}

/// The instant that a date stands for: a TOML date, or the same in quotes.
pub(super) fn instant(reader: &mut Reader<'_>, item: &Item<'_>, edge: Edge) -> Option<Timestamp> {
    let written = match item.value {
        DeValue::Datetime(written) => *written,
        DeValue::String(text) => {
            let parsed = text
                .parse::<Datetime>()
                .map_err(|_| Wrong::new(format!("{text:?} is not a date"), DATE_HELP));
            reader.keep(item, parsed)?
        }
        DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Array(_)
        | DeValue::Table(_) => {
            reader.wrong_type(item, "a date", DATE_HELP);
            return None;
        }
    };
    reader.keep(item, resolve(&written, edge))
}

fn resolve(written: &Datetime, edge: Edge) -> Result<Timestamp, Wrong> {
    let out_of_range = || Wrong::new(format!("{written} is not a date of the calendar"), DATE_HELP);
    let Datetime { date: Some(date), time, offset } = *written else {
        return Err(Wrong::new("a time of day without its date", DATE_HELP));
    };
    let date = calendar_day(date.year, date.month, date.day).ok_or_else(out_of_range)?;
    match (time, offset) {
        (None, _) => Ok(day(date, edge)),
        (Some(_), None) => Err(Wrong::new(
            "a date-time without its offset means another instant in every country",
            format!("write {written}Z for UTC, or the offset of your country"),
        )),
        (Some(time), Some(offset)) => moment(date, time, offset).ok_or_else(out_of_range),
    }
}

fn calendar_day(year: u16, month: u8, day: u8) -> Option<Date> {
    let (year, month, day) = (year.try_into().ok()?, month.try_into().ok()?, day.try_into().ok()?);
    Date::new(year, month, day).ok()
}

/// The instant that a day stands for, in UTC. The last days of the calendar, which is how "for
/// ever" is written, end with the last instant that there is.
pub(super) fn day(date: Date, edge: Edge) -> Timestamp {
    let first = match edge {
        Edge::First => Ok(date),
        Edge::After => date.tomorrow(),
    };
    let zoned = first.and_then(|first| first.to_zoned(TimeZone::UTC));
    zoned.map_or(Timestamp::MAX, |zoned| zoned.timestamp())
}

/// Until when something holds, for people: what ends with a day in UTC says that day, as the file
/// most likely does.
impl fmt::Display for Until {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let after = self.0.to_zoned(TimeZone::UTC);
        let last = if self.0 == Timestamp::MAX {
            Some(Date::MAX)
        } else if after.time() == jiff::civil::Time::midnight() {
            after.date().yesterday().ok()
        } else {
            None
        };
        match last {
            Some(last) => write!(f, "through {last} (UTC)"),
            None => write!(f, "until {}", self.0),
        }
    }
}

fn moment(date: Date, time: Time, offset: TomlOffset) -> Option<Timestamp> {
    let second = time.second.unwrap_or_default();
    let nanosecond = time.nanosecond.unwrap_or_default();
    let time = jiff::civil::Time::new(
        time.hour.try_into().ok()?,
        time.minute.try_into().ok()?,
        second.try_into().ok()?,
        nanosecond.try_into().ok()?,
    )
    .ok()?;
    let minutes = match offset {
        TomlOffset::Z => 0,
        TomlOffset::Custom { minutes } => minutes,
    };
    let offset = Offset::from_seconds(i32::from(minutes) * 60).ok()?;
    offset.to_timestamp(date.to_datetime(time)).ok()
}

/// A duration within bounds.
pub(super) fn duration(
    reader: &mut Reader<'_>,
    item: &Item<'_>,
    least: Duration,
    most: Option<Duration>,
) -> Option<Duration> {
    let text = reader.string(item, DURATION_HELP)?;
    let parsed = parse_duration(text).and_then(|duration| {
        let most = most.unwrap_or(LONGEST);
        if (least..=most).contains(&duration) {
            return Ok(duration);
        }
        let bounds = format!("write {} to {}", spelled(least), spelled(most));
        Err(Wrong::new(format!("{text:?} is out of bounds"), bounds))
    });
    reader.keep(item, parsed)
}

fn parse_duration(text: &str) -> Result<Duration, Wrong> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let milliseconds_each = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "w" => 7 * 86_400_000,
        _ => return Err(Wrong::new(format!("{text:?} is not a duration"), DURATION_HELP)),
    };
    let number = number.parse::<u64>().ok();
    number
        .and_then(|number| number.checked_mul(milliseconds_each))
        .map(Duration::from_millis)
        .ok_or_else(|| Wrong::new(format!("{text:?} is not a duration"), DURATION_HELP))
}

fn spelled(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    match milliseconds {
        0 => "0s".to_owned(),
        whole if whole % 86_400_000 == 0 => format!("{}d", whole / 86_400_000),
        whole if whole % 1_000 == 0 => format!("{}s", whole / 1_000),
        other => format!("{other}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, edge: Edge) -> Result<String, String> {
        let written: Datetime = text.parse().unwrap();
        resolve(&written, edge).map(|at| at.to_string()).map_err(|wrong| wrong.what)
    }

    #[test]
    fn a_day_ends_with_its_last_instant_and_begins_with_its_first() {
        assert_eq!(read("2026-12-31", Edge::After), Ok("2027-01-01T00:00:00Z".into()));
        assert_eq!(read("2026-12-31", Edge::First), Ok("2026-12-31T00:00:00Z".into()));
    }

    #[test]
    fn a_date_time_is_its_instant_and_needs_an_offset() {
        for edge in [Edge::After, Edge::First] {
            let at = read("2026-11-24T14:00:00+02:00", edge);
            assert_eq!(at, Ok("2026-11-24T12:00:00Z".into()));
            assert!(read("2026-11-24T14:00:00", edge).unwrap_err().contains("without its offset"));
            assert!(read("14:00:00", edge).unwrap_err().contains("without its date"));
        }
    }

    #[test]
    fn instants_that_the_calendar_does_not_hold_are_refused() {
        assert!(read("2026-12-31T23:59:60Z", Edge::First).is_err());
    }

    #[test]
    fn the_last_day_of_the_calendar_is_for_ever() {
        assert_eq!(read("9999-12-31", Edge::After), Ok(Timestamp::MAX.to_string()));
        assert_eq!(read("9999-12-29", Edge::After), Ok("9999-12-30T00:00:00Z".into()));
    }

    #[test]
    fn an_end_is_told_as_the_day_that_it_ends_with() {
        let told = |text: &str| Until(text.parse().unwrap()).to_string();
        assert_eq!(told("2027-01-02T00:00:00Z"), "through 2027-01-01 (UTC)");
        assert_eq!(told("2027-01-02T00:00:00.5Z"), "until 2027-01-02T00:00:00.5Z");
        assert_eq!(Until(Timestamp::MAX).to_string(), "through 9999-12-31 (UTC)");
    }

    #[test]
    fn a_duration_is_a_whole_number_and_a_unit() {
        for (text, milliseconds) in
            [("250ms", 250), ("3s", 3_000), ("5m", 300_000), ("1h", 3_600_000), ("0s", 0)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        assert_eq!(parse_duration("45d"), Ok(Duration::from_secs(45 * 86_400)));
        assert_eq!(parse_duration("8w"), Ok(Duration::from_secs(56 * 86_400)));
        for text in ["", "3", "s", "1.5h", "-1s", "3 s", "3S", "99999999999999999999d", "1y", "é"]
        {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
        assert!(parse_duration("300000000000000d").is_err());
    }
}
