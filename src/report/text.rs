//! Texts of others, made safe to show: nothing that a client wrote is anything but text.

use std::fmt::Write as _;

/// A text with every control character in it escaped as JSON does it, those above ASCII and the marks
/// that turn the direction of text as well; bytes that are no UTF-8 are replaced.
#[must_use]
pub fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turns {
            // Into a string nothing fails.
            write!(safe, "\\u{:04x}", u32::from(c)).ok();
        } else {
            safe.push(c);
        }
    }
    safe
}

/// A cell of comma-separated values that is text and nothing else: control characters are escaped, and
/// what a spreadsheet would take for a formula begins with an apostrophe.
#[must_use]
pub fn cell(text: &str) -> String {
    let mut safe = printable(text.as_bytes());
    if safe.starts_with(['=', '+', '-', '@', '\\']) {
        safe.insert(0, '\'');
    }
    if safe.contains(['"', ',', '\'', ' ']) {
        safe = format!("\"{}\"", safe.replace('"', "\"\""));
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a08_what_would_be_a_formula_is_text() {
        for text in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "=cmd|'/c calc'!A0"] {
            let cell = cell(text);
            assert!(cell.trim_start_matches('"').starts_with('\''), "{text:?}: {cell}");
        }
        assert_eq!(cell("a\"b,c"), "\"a\"\"b,c\"");
        assert_eq!(
            (cell("198.51.100.7:443"), cell("")),
            ("198.51.100.7:443".to_owned(), String::new())
        );
    }
}
