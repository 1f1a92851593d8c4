//! Lines, fields, addresses and codes of the tables that come as text.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::control::data::model::{BadRow, Shown, shown};
use crate::policy::Country;

/// The lines that hold something, with their numbers from 1: no empty ones, no `#` comments, no
/// byte order mark, no carriage return at the end.
pub fn lines(text: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let numbered = (1_u64..).zip(text.split(|&byte| byte == b'\n'));
    numbered
        .map(|(number, line)| (number, line.strip_suffix(b"\r").unwrap_or(line)))
        .filter(|(_, line)| !line.trim_ascii().is_empty() && !line.starts_with(b"#"))
}

/// What is wrong with a line, or with a field of it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextFault {
    /// RFC 4180: a quoted field ends on the line that it begins on, in the files that are known.
    #[error("a quote does not end on its line; is the file whole?")]
    OpenQuote,
    /// RFC 4180: a comma or the end follows a closing quote.
    #[error("a quoted field goes on after its closing quote")]
    AfterQuote,
    /// Neither dotted, nor with colons, nor one number.
    #[error("{0} is not an address")]
    Address(Shown),
    /// Neither a prefix nor an address.
    #[error("{0} is not a prefix")]
    Prefix(Shown),
    /// A prefix that names an address within it.
    #[error("{field} has bits beyond its length; is {meant} meant?")]
    HostBits {
        /// What stands there.
        field: Shown,
        /// The prefix that it lies in.
        meant: IpNet,
    },
    /// Longer than a code: the column is another one.
    #[error("{0} is not a two-letter country code")]
    Country(Shown),
    /// Not 32 bits of digits.
    #[error("{0} is not an AS number")]
    AsNumber(Shown),
}

/// How the fields of a line are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Separator {
    /// RFC 4180, quotes and all.
    Comma,
    /// Tabs; a quote is a quote.
    Tab,
}

impl Separator {
    /// Tabs where the line has one: no address, code or AS number does.
    pub(in crate::control::data) fn of(line: &[u8]) -> Self {
        if line.contains(&b'\t') { Self::Tab } else { Self::Comma }
    }
}

/// The fields of one line, blanks around them cut.
///
/// # Errors
/// A quote that does not end, or that ends inside a field.
pub fn fields<'a>(
    line: &'a [u8],
    separator: Separator,
    into: &mut Vec<Cow<'a, [u8]>>,
) -> Result<(), TextFault> {
    into.clear();
    if separator == Separator::Tab {
        into.extend(line.split(|&byte| byte == b'\t').map(|f| Cow::Borrowed(f.trim_ascii())));
        return Ok(());
    }
    let mut rest = Some(line);
    while let Some(line) = rest {
        let trimmed = line.trim_ascii_start();
        let (field, after) = match trimmed.strip_prefix(b"\"") {
            Some(quoted) => {
                let (field, after) = unquote(quoted).ok_or(TextFault::OpenQuote)?;
                (Cow::Owned(field), after.trim_ascii_start())
            }
            None => {
                let end = line.iter().position(|&byte| byte == b',').unwrap_or(line.len());
                let (field, after) = line.split_at_checked(end).unwrap_or((line, &[]));
                (Cow::Borrowed(field.trim_ascii()), after)
            }
        };
        rest = match after {
            [] => None,
            [b',', next @ ..] => Some(next),
            _ => return Err(TextFault::AfterQuote),
        };
        into.push(field);
    }
    Ok(())
}

/// What stands before the closing quote, doubled quotes halved, and what follows it.
fn unquote(mut text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut field = Vec::new();
    loop {
        let end = text.iter().position(|&byte| byte == b'"')?;
        field.extend(text.get(..end)?);
        match text.get(end + 1..)? {
            [b'"', rest @ ..] => {
                field.push(b'"');
                text = rest;
            }
            rest => return Some((field, rest)),
        }
    }
}

/// An address: dotted, with colons, or one decimal number (IPv4 where it fits 32 bits).
pub fn address(row: u64, field: &[u8]) -> Result<IpAddr, BadRow> {
    let bad = || BadRow::new(row, TextFault::Address(shown(field)));
    let text = str::from_utf8(field).map_err(|_| bad())?;
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map_err(|_| bad());
    }
    let number: u128 = text.parse().map_err(|_| bad())?;
    Ok(u32::try_from(number).map_or_else(
        |_| IpAddr::V6(Ipv6Addr::from_bits(number)),
        |number| IpAddr::V4(Ipv4Addr::from_bits(number)),
    ))
}

/// A prefix without host bits, or a single address.
pub fn prefix(row: u64, field: &[u8]) -> Result<IpNet, BadRow> {
    let bad = || BadRow::new(row, TextFault::Prefix(shown(field)));
    let text = str::from_utf8(field).map_err(|_| bad())?;
    let net = match text.parse::<IpNet>() {
        Ok(net) => net,
        Err(_) => IpNet::from(text.parse::<IpAddr>().map_err(|_| bad())?),
    };
    if net.trunc() == net {
        Ok(net)
    } else {
        let fault = TextFault::HostBits { field: shown(field), meant: net.trunc() };
        Err(BadRow::new(row, fault))
    }
}

/// A country code. `None` is a code that is no country: no answer. A longer text is a fault, since
/// then the column is another one.
pub(in crate::control::data) fn country(row: u64, field: &[u8]) -> Result<Option<Country>, BadRow> {
    match field {
        [_, _] => Ok(str::from_utf8(field).ok().and_then(Country::from_code)),
        [] | [_] => Ok(None),
        _ if [b"none".as_slice(), b"null", b"n/a"]
            .iter()
            .any(|p| field.eq_ignore_ascii_case(p)) =>
        {
            Ok(None)
        }
        _ => Err(BadRow::new(row, TextFault::Country(shown(field)))),
    }
}

/// An AS number, with or without `AS` in front. `None` is AS 0 or nothing: unrouted.
pub fn as_number(row: u64, field: &[u8]) -> Result<Option<u32>, BadRow> {
    let digits = match field {
        [b'A' | b'a', b'S' | b's', digits @ ..] => digits,
        digits => digits,
    };
    if field.is_empty() || field == b"-" {
        return Ok(None);
    }
    let plain = digits.iter().all(u8::is_ascii_digit);
    let number = str::from_utf8(digits).ok().filter(|_| plain).and_then(|d| d.parse().ok());
    let number: u32 = number.ok_or_else(|| BadRow::new(row, TextFault::AsNumber(shown(field))))?;
    Ok(Some(number).filter(|&number| number != 0))
}

/// The columns that a header names, lower case; `None` where the line is no header.
pub(in crate::control::data) fn header(fields: &[Cow<'_, [u8]>]) -> Option<Vec<String>> {
    let names: Vec<String> =
        fields.iter().map(|f| String::from_utf8_lossy(f).to_ascii_lowercase()).collect();
    const FIRST: [&str; 9] = [
        "network",
        "cidr",
        "prefix",
        "ip_prefix",
        "start",
        "start_ip",
        "ip_from",
        "first",
        "range_start",
    ];
    names.first().is_some_and(|name| FIRST.contains(&name.as_str())).then_some(names)
}

/// The first instant of a day, in UTC.
pub(in crate::control::data) fn begins(day: Date) -> Option<Timestamp> {
    day.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

/// The first instant of a day written as eight digits, `20260924`.
pub fn day(digits: &[u8]) -> Option<Timestamp> {
    let text = str::from_utf8(digits).ok().filter(|t| t.len() == 8 && t.is_ascii())?;
    let number: u32 = text.parse().ok()?;
    let year = i16::try_from(number / 10_000).ok()?;
    let month = i8::try_from(number / 100 % 100).ok()?;
    begins(Date::new(year, month, i8::try_from(number % 100).ok()?).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str) -> Result<Vec<String>, TextFault> {
        let mut into = Vec::new();
        fields(line.as_bytes(), Separator::of(line.as_bytes()), &mut into)?;
        Ok(into.iter().map(|f| String::from_utf8_lossy(f).into_owned()).collect())
    }

    #[test]
    fn quotes_are_those_of_rfc_4180() {
        let fields = split(r#"192.0.2.0,"a, b","AS ""name"", Ltd","#).unwrap();
        assert_eq!(fields, ["192.0.2.0", "a, b", "AS \"name\", Ltd", ""]);
        assert!(split("\"open").is_err() && split("\"a\"b,c").is_err());
        assert_eq!(split("a\tit \"is\"\tc").unwrap(), ["a", "it \"is\"", "c"]);
    }

    #[test]
    fn comments_blank_lines_and_the_byte_order_mark_are_passed_over() {
        let text = b"\xef\xbb\xbf# a\r\n\r\nfirst\r\n\nsecond";
        let read: Vec<_> = lines(text).collect();
        assert_eq!(read, [(3, b"first".as_slice()), (5, b"second".as_slice())]);
    }

    #[test]
    fn addresses_are_read_in_every_spelling_and_nothing_else() {
        assert_eq!(address(1, b"16777216").unwrap(), address(1, b"1.0.0.0").unwrap());
        let six = address(1, b"42540766411282592856903984951653826560").unwrap();
        assert_eq!(six, address(1, b"2001:db8::").unwrap());
        let bad = [
            "",
            "1.2.3",
            "01.2.3.4",
            "-1",
            "1e3",
            "1.2.3.4 ",
            "::g",
            "9999999999999999999999999999999999999999",
        ];
        for text in bad {
            assert!(address(1, text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn host_bits_are_refused_with_the_prefix_that_was_meant() {
        let BadRow { row, what } = prefix(7, b"192.0.2.1/24").unwrap_err();
        assert!(row == 7 && what.to_string().contains("192.0.2.0/24"), "{what}");
        assert_eq!(prefix(1, b"192.0.2.1").unwrap().prefix_len(), 32);
        assert!(prefix(1, b"192.0.2.0/33").is_err() && prefix(1, b"\xff").is_err());
    }

    #[test]
    fn odd_codes_are_no_answer_and_names_are_faults() {
        for code in ["??", "SU", "", "-", "EU", "ZZ", "None"] {
            assert_eq!(country(1, code.as_bytes()).unwrap(), None, "{code}");
        }
        assert_eq!(country(1, b"fr").unwrap(), Country::from_code("FR"));
        assert!(country(1, b"France").is_err() && country(1, b"FRA").is_err());
    }

    #[test]
    fn as_numbers_are_32_bits() {
        assert_eq!(as_number(1, b"AS15169").unwrap(), Some(15169));
        assert_eq!(as_number(1, b"4294967295").unwrap(), Some(u32::MAX));
        assert_eq!(as_number(1, b"0").unwrap(), None);
        for text in ["4294967296", "AS", "+1", "FR", "1.10"] {
            assert!(as_number(1, text.as_bytes()).is_err(), "{text}");
        }
    }
}
