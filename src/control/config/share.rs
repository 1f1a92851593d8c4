//! Shares: `"20%"`.

use super::error::Wrong;
use super::reader::{Item, Reader};

const HELP: &str = "write whole percent in quotes, from \"0%\" to \"100%\": \"20%\"";

/// A share in whole percent, at most 100.
pub(super) fn percent(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<u8> {
    let text = reader.string(item, HELP)?;
    let parsed = parse(text);
    reader.keep(item, parsed)
}

fn parse(text: &str) -> Result<u8, Wrong> {
    let digits = text.strip_suffix('%').map(str::trim_end);
    let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let share = digits.and_then(|digits| digits.parse().ok()).filter(|&share| share <= 100);
    share.ok_or_else(|| Wrong::new(format!("{text:?} is not a share"), HELP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_whole_percent_up_to_all() {
        assert_eq!(parse("20%"), Ok(20));
        assert_eq!(parse("0 %"), Ok(0));
        assert_eq!(parse("100%"), Ok(100));
        for text in ["", "%", "20", "101%", "-1%", "+1%", "2.5%", "20%%", "999999%"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
