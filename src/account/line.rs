//! A line of JSON, written as it is put together.
//!
//! Two lines are written for each connection. Through `serde_json` and the formatters of `std` they
//! took 27,000 instructions of the 58,500 that a connection cost outside the kernel; written here
//! they take 4,000 (valgrind --tool=callgrind, 400 connections). Keys are put in place where their
//! length is known, and not by a call for each. Texts that have to be escaped are still left to
//! `serde_json`, whose output is also what the tests compare with.

use std::cell::RefCell;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;

use crate::policy::CountrySet;

/// Room for a line of the usual length.
const USUAL: usize = 1024;

/// Room for the longest address of four octets behind a quotation mark, and for the last copy.
const ENDPOINT_MAX: usize = 16 + 4;

/// The digits of each octet, and how many they are: a kilobyte.
static OCTETS: [([u8; 3], u8); 256] = {
    let mut all = [([0; 3], 0); 256];
    let mut octet = 0;
    while octet < 256 {
        let [hundreds, tens, ones] = [octet / 100, octet / 10 % 10, octet % 10];
        let [hundreds, tens, ones] = [b'0' + hundreds as u8, b'0' + tens as u8, b'0' + ones as u8];
        all[octet] = match octet {
            100.. => ([hundreds, tens, ones], 3),
            10.. => ([tens, ones, 0], 2),
            _ => ([ones, 0, 0], 1),
        };
        octet += 1;
    }
    all
};

/// A field's name with what stands around it.
macro_rules! key {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}
pub(super) use key;

/// An object in the making. Every key is made by [`key!`]; fields that do not apply are null.
pub(super) struct Line<'b> {
    out: &'b mut Vec<u8>,
    /// Where the object begins.
    from: usize,
}

impl<'b> Line<'b> {
    /// Begins an object behind whatever is in `out`.
    pub(super) fn begin(out: &'b mut Vec<u8>) -> Self {
        out.reserve(USUAL);
        Self { from: out.len(), out }
    }

    /// Ends the object, without a line feed.
    pub(super) fn end(self) {
        // The comma before the first field.
        if let Some(first) = self.out.get_mut(self.from) {
            *first = b'{';
        }
        self.out.push(b'}');
    }

    /// Ends an object, of which the closing brace was taken away, as one that stands for so many.
    pub(super) fn fold(out: &'b mut Vec<u8>, count: u64, first: Timestamp, last: Timestamp) {
        let mut line = Self { from: out.len(), out };
        line.number(key!("count"), Some(count));
        line.time(key!("first"), first);
        line.time(key!("last"), last);
        line.out.push(b'}');
    }

    /// Fields that were written before.
    pub(super) fn fields(&mut self, fields: &[u8]) {
        self.out.extend_from_slice(fields);
    }

    /// A text.
    #[inline(always)]
    pub(super) fn text(&mut self, key: &str, text: Option<&str>) {
        self.put(key);
        match text {
            Some(text) => self.escaped(text),
            None => self.put("null"),
        }
    }

    fn escaped(&mut self, text: &str) {
        let is_plain = |byte: u8| byte >= 0x20 && byte != b'"' && byte != b'\\';
        if text.bytes().all(is_plain) {
            self.quoted(text);
        } else if serde_json::to_writer(&mut *self.out, text).is_err() {
            // A vector takes everything.
            self.put("null");
        }
    }

    /// A label of the program's own, in which nothing has to be escaped.
    #[inline(always)]
    pub(super) fn label(&mut self, key: &str, label: Option<&'static str>) {
        self.put(key);
        match label {
            Some(label) => self.quoted(label),
            None => self.put("null"),
        }
    }

    /// A boolean.
    #[inline(always)]
    pub(super) fn flag(&mut self, key: &str, flag: Option<bool>) {
        self.put(key);
        self.put(match flag {
            Some(true) => "true",
            Some(false) => "false",
            None => "null",
        });
    }

    /// A number.
    #[inline(always)]
    pub(super) fn number(&mut self, key: &str, number: Option<u64>) {
        self.put(key);
        match number {
            Some(number) => self.digits(number),
            None => self.put("null"),
        }
    }

    /// An address and a port, as a text.
    #[inline(always)]
    pub(super) fn address(&mut self, key: &str, address: Option<SocketAddr>) {
        self.put(key);
        match address {
            Some(address) => self.endpoint(address),
            None => self.put("null"),
        }
    }

    fn endpoint(&mut self, address: SocketAddr) {
        let IpAddr::V4(ip) = address.ip() else {
            // Into a vector nothing fails.
            write!(self.out, "\"{address}\"").ok();
            return;
        };
        let mut text = [0; ENDPOINT_MAX];
        let (mut at, mut before) = (0, b'"');
        for octet in ip.octets() {
            let (digits, length) = OCTETS[usize::from(octet)];
            let length = usize::from(length);
            if let Some([mark, to @ ..]) = text.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<4>)
            {
                (*mark, *to) = (before, digits);
            }
            (at, before) = (at + 1 + length, b'.');
        }
        self.out.extend_from_slice(text.get(..at).unwrap_or_default());
        self.out.push(b':');
        self.digits(address.port().into());
        self.out.push(b'"');
    }

    fn quoted(&mut self, text: &str) {
        self.out.push(b'"');
        self.put(text);
        self.out.push(b'"');
    }

    /// The codes of a set, as a list.
    pub(super) fn codes(&mut self, key: &str, codes: Option<CountrySet>) {
        self.put(key);
        let Some(codes) = codes else { return self.put("null") };
        self.out.push(b'[');
        for (at, country) in codes.iter().enumerate() {
            self.put(if at == 0 { "\"" } else { ",\"" });
            self.put(country.code());
            self.out.push(b'"');
        }
        self.out.push(b']');
    }

    /// The id of an event: what all of a run have in common, and its number.
    pub(super) fn id(&mut self, key: &str, run: &str, number: u64) {
        self.put(key);
        self.out.push(b'"');
        self.put(run);
        self.digits(number);
        self.out.push(b'"');
    }

    /// An instant, to the millisecond.
    pub(super) fn time(&mut self, key: &str, at: Timestamp) {
        thread_local! {
            /// The last second that was written, and its text.
            static SECOND: RefCell<(i64, String)> = const { RefCell::new((0, String::new())) };
        }
        self.put(key);
        self.out.push(b'"');
        let at_ms = at.as_millisecond();
        let second = at_ms.div_euclid(1000);
        SECOND.with_borrow_mut(|(known, text)| {
            if *known != second || text.is_empty() {
                let whole = Timestamp::from_second(second).unwrap_or(at);
                *text = format!("{whole:.0}");
                *known = second;
            }
            self.put(text.trim_end_matches('Z'));
        });
        let thousandths = 1000 + at_ms.rem_euclid(1000);
        let from = self.out.len();
        self.digits(thousandths.unsigned_abs());
        // The digit that kept the leading zeros.
        if let Some(digit) = self.out.get_mut(from) {
            *digit = b'.';
        }
        self.put("Z\"");
    }

    #[inline(always)]
    fn put(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    fn digits(&mut self, number: u64) {
        self.put(itoa::Buffer::new().format(number));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::policy::Country;

    /// What `fill` writes, read by another's reader.
    fn read(fill: impl FnOnce(&mut Line<'_>)) -> Value {
        let mut out = b"before\n".to_vec();
        let mut line = Line::begin(&mut out);
        fill(&mut line);
        line.end();
        let text = String::from_utf8(out).unwrap();
        let line = text.strip_prefix("before\n").unwrap();
        assert!(!line.contains('\n'), "{line}");
        serde_json::from_str(line).unwrap()
    }

    #[test]
    fn every_text_is_read_as_it_was() {
        let all: String = (0..0x250).filter_map(char::from_u32).collect();
        let single = all.chars().map(String::from);
        for text in single.chain([all.clone(), String::new(), "\u{1F3E5} \"\\".to_owned()]) {
            let read = read(|line| {
                line.text(key!("before"), Some("x"));
                line.text(key!("text"), Some(&text));
                line.text(key!("none"), None);
            });
            assert_eq!(read, json!({ "before": "x", "text": text, "none": null }));
        }
    }

    #[test]
    fn numbers_flags_and_labels_are_read_as_they_were() {
        for number in [0, 1, 9, 10, 12_345, u64::MAX] {
            let read = read(|line| {
                line.number(key!("number"), Some(number));
                line.number(key!("none"), None);
                line.flag(key!("yes"), Some(true));
                line.flag(key!("no"), Some(false));
                line.flag(key!("open"), None);
                line.label(key!("label"), Some("client-gone"));
                line.label(key!("unlabelled"), None);
            });
            let expected = json!({
                "number": number, "none": null, "yes": true, "no": false, "open": null,
                "label": "client-gone", "unlabelled": null,
            });
            assert_eq!(read, expected);
        }
    }

    #[test]
    fn addresses_and_codes_and_ids_are_written_as_elsewhere() {
        let addresses = [
            "0.0.0.0:0",
            "192.0.2.9:40000",
            "255.255.255.255:65535",
            "[2001:db8::1]:443",
            "[::]:1",
        ];
        for address in addresses {
            let at = address.parse().unwrap();
            assert_eq!(read(|line| line.address(key!("at"), Some(at))), json!({ "at": address }),);
        }
        for octet in 0..=255 {
            let at = SocketAddr::from(([octet, 255 - octet, octet, octet ^ 1], 443));
            let read = read(|line| line.address(key!("at"), Some(at)));
            assert_eq!(read, json!({ "at": at.to_string() }));
        }
        let mut set = CountrySet::EMPTY;
        let mut codes = Vec::new();
        for country in Country::all().step_by(40) {
            let read = read(|line| line.codes(key!("codes"), Some(set)));
            assert_eq!(read, json!({ "codes": codes }));
            set.insert(country);
            codes.push(country.code());
        }
        let read = read(|line| line.id(key!("id"), "19a-", 77));
        assert_eq!(read, json!({ "id": "19a-77" }));
    }

    #[test]
    fn an_instant_is_written_as_the_library_writes_it() {
        let base = 1_790_000_000_000_i64;
        let around = [-1, 0, 1, 7, 10, 99, 100, 998, 999, 1000, 1001, 86_400_000];
        let early = [-1, 0, 1, 999, 1000];
        for ms in around.iter().map(|offset| base + offset).chain(early) {
            let at = Timestamp::from_millisecond(ms).unwrap();
            let read = read(|line| line.time(key!("time"), at));
            assert_eq!(read, json!({ "time": format!("{at:.3}") }));
        }
    }
}
