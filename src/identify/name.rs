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
    /// Reads a name as it stands on the wire or in a file (A-labels; see the configuration for
    /// U-labels). Case is folded and one final dot is dropped.
    ///
    /// # Errors
    /// [`BadName`] says which rule was broken.
    pub fn parse(wire: &[u8]) -> Result<Self, BadName> {
        let wire = wire.strip_suffix(b".").unwrap_or(wire);
        if wire.is_empty() {
            return Err(BadName::Empty);
        }
        let mut bytes = [0; NAME_MAX];
        let room = bytes.get_mut(..wire.len()).ok_or(BadName::TooLong)?;
        // Where the label begins: its length is looked at once, where it ends.
        let mut label = 0_usize;
        for (at, (to, &from)) in room.iter_mut().zip(wire).enumerate() {
            let folded = ALPHABET.get(usize::from(from)).copied().unwrap_or_default();
            *to = folded;
            if folded == b'.' {
                check_label(at - label)?;
                label = at + 1;
            } else if folded == 0 {
                return Err(fault_of(from));
            }
        }
        check_label(wire.len() - label)?;
        if ends_in_a_number(room) {
            return Err(BadName::Address);
        }
        let len = u8::try_from(wire.len()).map_err(|_| BadName::TooLong)?;
        Ok(Self { len, bytes })
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

/// Each byte of the alphabet in lower case, 0 for all others: one look-up a byte, for a name is
/// read on every connection.
#[expect(clippy::indexing_slicing, reason = "evaluated when it is compiled")]
const ALPHABET: [u8; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < table.len() {
        let byte = index as u8;
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') {
            table[index] = byte.to_ascii_lowercase();
        }
        index += 1;
    }
    table
};

/// The length of a label (RFC 1035 §2.3.4).
fn check_label(len: usize) -> Result<(), BadName> {
    match len {
        0 => Err(BadName::EmptyLabel),
        1..=63 => Ok(()),
        _ => Err(BadName::TooLong),
    }
}

/// What is wrong with a byte outside the alphabet.
#[cold]
const fn fault_of(byte: u8) -> BadName {
    match byte {
        // An IPv6 literal, bare or in brackets, is told apart for the error's sake only.
        b':' | b'[' => BadName::Address,
        _ => BadName::BadByte,
    }
}

/// The rule of the WHATWG URL standard ("ends in a number"), which covers all that inet_aton reads.
fn ends_in_a_number(name: &[u8]) -> bool {
    let last = name.rsplit(|&b| b == b'.').next().unwrap_or_default();
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

    #[test]
    fn every_byte_outside_the_alphabet_is_refused() {
        for byte in 0..=u8::MAX {
            let parsed = HostName::parse(&[b'a', byte, b'b']);
            let good = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            assert_eq!(parsed.is_ok(), good, "byte {byte:#04x}");
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
