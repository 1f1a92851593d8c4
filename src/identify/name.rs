//! Host names in the one form that every table, rule and reader uses.

use std::fmt;

/// The longest name in presentation form, without its final dot (RFC 1035 §2.3.4).
pub const NAME_MAX: usize = 253;

/// A host name: ASCII lower case, no final dot, 1 to 253 bytes, labels of 1 to 63 bytes of letters,
/// digits, `-` and `_`. Two names are equal exactly when their bytes are.
///
/// Inline, so that a name on the hot path never reaches the heap. An address literal is no name:
/// RFC 6066 §3 bars it from the SNI, and a name that ends in a number is read as an IPv4 address
/// by resolvers (`0x7f.1`, `2130706433`), so it is refused here, before anything can resolve it.
#[derive(Clone, Copy)]
pub struct HostName {
    len: u8,
    bytes: [u8; NAME_MAX],
}

/// Why some bytes are no host name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum BadName {
    /// No bytes, or nothing but a dot.
    #[error("the name is empty")]
    Empty,
    /// Over 253 bytes, or a label over 63.
    #[error("the name or one of its labels is too long")]
    TooLong,
    /// Two dots in a row, or a dot in front.
    #[error("the name has an empty label")]
    EmptyLabel,
    /// A byte that is no letter, digit, `-`, `_` or `.`.
    #[error("the name has a byte that no host name has")]
    BadByte,
    /// An IPv4 or IPv6 address, in any spelling that a resolver would take for one.
    #[error("the name is an address")]
    Address,
}

impl HostName {
    /// The place of a name that is still to be read.
    pub(super) const NONE: Self = Self { len: 0, bytes: [0; NAME_MAX] };

    /// Reads a name as it stands on the wire or in a file (A-labels; see the configuration for
    /// U-labels). Case is folded and one final dot is dropped.
    ///
    /// # Errors
    /// [`BadName`] says which rule was broken.
    pub fn parse(wire: &[u8]) -> Result<Self, BadName> {
        let mut name = Self::NONE;
        name.read(wire)?;
        Ok(name)
    }

    /// As [`HostName::parse`], in the place of [`HostName::NONE`]; what stands there after an error
    /// is no name.
    ///
    /// # Errors
    /// As [`HostName::parse`].
    #[inline]
    pub(super) fn read(&mut self, wire: &[u8]) -> Result<(), BadName> {
        let wire = wire.strip_suffix(b".").unwrap_or(wire);
        self.fold(wire).ok_or_else(|| fault_of(wire))
    }

    /// Takes `wire` in, eight bytes at a time; `None` where it is no name.
    fn fold(&mut self, wire: &[u8]) -> Option<()> {
        self.len = u8::try_from(wire.len()).ok()?;
        let room = self.bytes.get_mut(..wire.len())?;
        let (words, rest) = wire.as_chunks::<WORD>();
        let (room_words, room_rest) = room.as_chunks_mut::<WORD>();
        let mut labels = Labels { begins: 0 };
        for (index, (to, from)) in room_words.iter_mut().zip(words).enumerate() {
            let word = Word::fold(*from)?;
            *to = word.bytes();
            labels.end_at(word, index * WORD)?;
        }
        // Letters behind the last bytes: they are of the alphabet and end no label.
        let mut last = [b'a'; WORD];
        last.get_mut(..rest.len())?.copy_from_slice(rest);
        let word = Word::fold(last)?;
        room_rest.copy_from_slice(word.bytes().get(..rest.len())?);
        labels.end_at(word, words.len() * WORD)?;
        is_label(wire.len() - labels.begins).then_some(())?;
        (!is_number(self.as_bytes().get(labels.begins..)?)).then_some(())
    }

    /// The name's bytes: lower case, no final dot.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// The name's bytes with zeros behind them, so that they can be read a word at a time.
    #[must_use]
    pub const fn padded(&self) -> &[u8; NAME_MAX] {
        &self.bytes
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

/// Bytes that are read at once.
const WORD: usize = 8;

/// Eight bytes of a name in lower case, the first one lowest.
#[derive(Clone, Copy)]
struct Word(u64);

impl Word {
    /// Folds eight bytes; `None` where one is not of the alphabet. A name is read on every
    /// connection: byte by byte, 37 bytes were 580 instructions, and so are 370.
    fn fold(bytes: [u8; WORD]) -> Option<Self> {
        let word = u64::from_le_bytes(bytes);
        if word & HIGH != 0 {
            return None;
        }
        let upper = (from(word, b'A') ^ from(word, b'Z' + 1)) & HIGH;
        let folded = word | upper >> 2; // the bit 0x20 of each capital
        // Each bound of a range turns the bit over: it is set inside `-.`, `0-9`, `_`, `a-z`.
        let good = from(folded, b'-')
            ^ from(folded, b'.' + 1)
            ^ from(folded, b'0')
            ^ from(folded, b'9' + 1)
            ^ from(folded, b'_')
            ^ from(folded, b'_' + 1)
            ^ from(folded, b'a')
            ^ from(folded, b'z' + 1);
        (good & HIGH == HIGH).then_some(Self(folded))
    }

    const fn bytes(self) -> [u8; WORD] {
        self.0.to_le_bytes()
    }

    /// The high bit of each byte that is a dot.
    const fn dots(self) -> u64 {
        (from(self.0, b'.') ^ from(self.0, b'.' + 1)) & HIGH
    }
}

/// The high bit of each byte.
const HIGH: u64 = 0x8080_8080_8080_8080;

/// Sets the high bit of each byte of `word` that is `bound` or above; its other bits say nothing.
/// No byte of `word` has its high bit set, so none carries into the next.
const fn from(word: u64, bound: u8) -> u64 {
    word + (HIGH - 0x0101_0101_0101_0101 * bound as u64)
}

/// Where the label begins that is being read.
struct Labels {
    begins: usize,
}

impl Labels {
    /// Ends a label at each dot of `word`, which stands at `at`; `None` where one has a length
    /// that no label has.
    fn end_at(&mut self, word: Word, at: usize) -> Option<()> {
        let mut dots = word.dots();
        while dots != 0 {
            let dot = at + (dots.trailing_zeros() / u8::BITS) as usize;
            is_label(dot - self.begins).then_some(())?;
            self.begins = dot + 1;
            dots &= dots - 1;
        }
        Some(())
    }
}

/// The length of a label (RFC 1035 §2.3.4).
const fn is_label(len: usize) -> bool {
    matches!(len, 1..=63)
}

/// What makes `wire` no name: the first thing, read from its beginning.
#[cold]
fn fault_of(wire: &[u8]) -> BadName {
    if wire.is_empty() {
        return BadName::Empty;
    }
    if wire.len() > NAME_MAX {
        return BadName::TooLong;
    }
    let mut label = 0;
    for &byte in wire {
        label = match byte {
            b'.' if label == 0 => return BadName::EmptyLabel,
            b'.' if label > 63 => return BadName::TooLong,
            b'.' => 0,
            b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => label + 1,
            // An IPv6 literal, bare or in brackets, is told apart for the error's sake only.
            b':' | b'[' => return BadName::Address,
            _ => return BadName::BadByte,
        };
    }
    match label {
        0 => BadName::EmptyLabel,
        1..=63 => BadName::Address,
        _ => BadName::TooLong,
    }
}

/// Whether a name that ends in the label `last` is read as an address: the rule of the WHATWG URL
/// standard ("ends in a number"), which covers all that inet_aton reads. `last` is in lower case.
fn is_number(last: &[u8]) -> bool {
    match last {
        [b'0', b'x', hex @ ..] => hex.iter().all(u8::is_ascii_hexdigit),
        digits => digits.iter().all(u8::is_ascii_digit),
    }
}

impl PartialEq for HostName {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for HostName {}

impl std::hash::Hash for HostName {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_the_final_dot_do_not_matter() {
        let name = HostName::parse(b"PACS.Example.EU.").unwrap();
        assert_eq!(name.as_str(), "pacs.example.eu");
        assert_eq!(name, HostName::parse(b"pacs.example.eu").unwrap());
    }

    /// The rule in words: what a name reads as, byte by byte.
    fn plainly(wire: &str) -> Option<String> {
        let name = wire.strip_suffix('.').unwrap_or(wire).to_ascii_lowercase();
        let of_the_alphabet = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let sound = name.len() <= NAME_MAX
            && name.chars().all(of_the_alphabet)
            && name.split('.').all(|label| (1..=63).contains(&label.len()));
        let last = name.rsplit('.').next()?;
        let hex =
            last.strip_prefix("0x").is_some_and(|hex| hex.chars().all(|c| c.is_ascii_hexdigit()));
        let number = hex || last.chars().all(|c| c.is_ascii_digit());
        (sound && !number).then_some(name)
    }

    #[track_caller]
    fn is_read_plainly(wire: &str) {
        let parsed = HostName::parse(wire.as_bytes()).ok();
        assert_eq!(parsed.map(|name| name.to_string()), plainly(wire), "{wire:?}");
        if let Some(name) = parsed {
            let behind = &name.padded()[name.as_bytes().len()..];
            assert!(behind.iter().all(|&byte| byte == 0), "{wire:?}");
        }
    }

    #[test]
    fn every_byte_is_read_alike_at_every_place_of_a_word() {
        for len in 1..=3 * WORD {
            for at in 0..len {
                for byte in 0..=u8::MAX {
                    let mut wire = vec![b'Q'; len];
                    wire[at] = byte;
                    match str::from_utf8(&wire) {
                        Ok(wire) => is_read_plainly(wire),
                        Err(_) => assert_eq!(HostName::parse(&wire), Err(BadName::BadByte)),
                    }
                }
            }
        }
    }

    #[test]
    fn labels_end_alike_at_every_place_of_a_word() {
        for first in 0..=65 {
            for second in 0..=65 {
                for end in ["", ".", "..", ".7", ".0x7", ".0xg", ".Z."] {
                    is_read_plainly(&format!("{}.{}{end}", "a".repeat(first), "1".repeat(second)));
                }
            }
        }
        for len in 0..=2 * NAME_MAX {
            is_read_plainly(&"ab.".repeat(len / 3 + 1)[..len]);
        }
    }

    #[test]
    fn the_first_fault_is_the_one_that_is_told() {
        let long = "a".repeat(64);
        for (wire, fault) in [
            ("good.example:443".to_owned(), BadName::Address),
            ("fe80::1%eth0".to_owned(), BadName::Address),
            ("good.example/path".to_owned(), BadName::BadByte),
            ("good.example..com:".to_owned(), BadName::EmptyLabel),
            (format!("{long}.example..com"), BadName::TooLong),
            (format!("good.example.{long}"), BadName::TooLong),
            ("good.example..".to_owned(), BadName::EmptyLabel),
            ("192.0.2.0x1f".to_owned(), BadName::Address),
        ] {
            assert_eq!(HostName::parse(wire.as_bytes()), Err(fault), "{wire}");
        }
    }

    #[test]
    fn whatever_a_resolver_reads_as_an_address_is_refused() {
        for text in ["127.0.0.1", "0177.0.0.1", "2130706433", "0x7f.1", "127.1", "[::1]", "::1"] {
            assert_eq!(HostName::parse(text.as_bytes()), Err(BadName::Address), "{text}");
        }
        assert!(HostName::parse(b"1.2.3.4.example").is_ok());
        assert!(HostName::parse(b"0xg").is_ok());
    }

    #[test]
    fn lengths_are_held_at_their_edges() {
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        assert_eq!(longest.len(), NAME_MAX);
        assert!(HostName::parse(longest.as_bytes()).is_ok());
        assert!(HostName::parse(format!("{longest}.").as_bytes()).is_ok());
        assert_eq!(HostName::parse(format!("{longest}a").as_bytes()), Err(BadName::TooLong));
        assert_eq!(HostName::parse(format!("{label}a").as_bytes()), Err(BadName::TooLong));
    }

    #[test]
    fn empty_labels_are_refused() {
        for text in ["", ".", "..", ".a", "a..b", "a..", "a.b.."] {
            assert!(HostName::parse(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
