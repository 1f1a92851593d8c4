//! Numbers for a person.

/// Bytes, in three digits or fewer.
#[must_use]
pub fn bytes(count: f64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let (mut left, mut unit) = (count, 0);
    while left >= 999.5 && unit + 1 < UNITS.len() {
        left /= 1000.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && left < 99.95);
    format!("{left:.digits$} {}", UNITS.get(unit).unwrap_or(&"B"))
}

/// Seconds, in the two largest units.
#[must_use]
pub fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, ..) => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

/// A count with its thousands apart.
#[must_use]
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (number, said) in
            [(0.0, "0 B"), (999.0, "999 B"), (1000.0, "1.0 kB"), (999_950.0, "1.0 MB")]
        {
            assert_eq!(bytes(number), said);
        }
        for (seconds, said) in [(59, "59s"), (61, "1m01s"), (3660, "1h01m"), (90_000, "1d01h")] {
            assert_eq!(span(seconds), said);
        }
        for (number, said) in [(0, "0"), (999, "999"), (1_234_567, "1\u{202f}234\u{202f}567")] {
            assert_eq!(count(number), said);
        }
    }
}
