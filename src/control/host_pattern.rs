//! Host patterns, one dialect: `example.eu` is that name, `*.example.eu` every name below it.

use std::net::IpAddr;

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use ipnet::IpNet;

use crate::identify::{BadName, HostName};

/// `example.eu` or `*.example.eu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HostPattern {
    /// The name, without `*.`.
    pub name: HostName,
    /// Whether it stood behind `*.`: every name below it, and not itself.
    pub below: bool,
}

/// Why a text is not a host pattern, or not one host name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternFault {
    /// A star somewhere else than in front.
    #[error("in {0:?}, \"*\" is not a whole first label")]
    Star(String),
    /// An address or a prefix.
    #[error("{0:?} is an address, not a name")]
    Address(String),
    /// A part of a URL.
    #[error("{0:?} holds {1:?}, which no host name does")]
    Mark(String, char),
    /// An A-label that does not decode, or a U-label that has no A-label (UTS #46).
    #[error("{0:?} has a label that stands for no name")]
    Undecodable(String),
    /// What [`HostName`] does not take.
    #[error("{0:?} is not a host name: {1}")]
    Name(String, #[source] BadName),
    /// It stands for many names, and one is wanted.
    #[error("{0:?} is a pattern")]
    Many(String),
}

impl PatternFault {
    /// What to write.
    #[must_use]
    pub const fn help(&self) -> &'static str {
        match self {
            Self::Star(_) | Self::Name(..) => {
                "write a name (\"example.eu\") or every name below one (\"*.example.eu\")"
            }
            Self::Address(_) => "use `to` for addresses",
            Self::Mark(..) => "write the name alone; `port` takes the port",
            Self::Undecodable(_) => {
                "write the name as people read it; a label \"xn--...\" must decode"
            }
            Self::Many(_) => "write one name",
        }
    }
}

impl HostPattern {
    /// Reads a pattern: case folded, the final dot dropped, U-labels converted (UTS #46).
    ///
    /// # Errors
    /// Why the text is not one.
    pub fn parse(text: &str) -> Result<Self, PatternFault> {
        let (below, name) = text.strip_prefix("*.").map_or((false, text), |name| (true, name));
        if name.contains('*') {
            return Err(PatternFault::Star(text.to_owned()));
        }
        // A list of a million names is nearly all of this form, and UTS #46 has nothing to add to it.
        if !has_ace(name)
            && let Ok(name) = HostName::parse(name.as_bytes())
        {
            return Ok(Self { name, below });
        }
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        if bare.parse::<IpAddr>().is_ok() || bare.parse::<IpNet>().is_ok() {
            return Err(PatternFault::Address(text.to_owned()));
        }
        if let Some(mark) = name.chars().find(|mark| matches!(mark, ':' | '/' | '@' | '?')) {
            return Err(PatternFault::Mark(text.to_owned(), mark));
        }
        // The whole of UTS #46 but its length and hyphen rules: the wire's rules on both are looser
        // (`r3---sn-x.example`), and `HostName` holds the ones that matter.
        let ascii = Uts46::new()
            .to_ascii(name.as_bytes(), AsciiDenyList::EMPTY, Hyphens::Allow, DnsLength::Ignore)
            .map_err(|_| PatternFault::Undecodable(text.to_owned()))?;
        let name = HostName::parse(ascii.as_bytes()).map_err(|bad| match bad {
            BadName::Address => PatternFault::Address(text.to_owned()),
            BadName::Empty | BadName::TooLong | BadName::EmptyLabel | BadName::BadByte => {
                PatternFault::Name(text.to_owned(), bad)
            }
        })?;
        Ok(Self { name, below })
    }
}

/// Reads one host name as the policy file does: case folded, a U-label converted.
///
/// # Errors
/// As [`HostPattern::parse`], and [`PatternFault::Many`] for a pattern.
pub fn host_name(text: &str) -> Result<HostName, PatternFault> {
    match HostPattern::parse(text)? {
        HostPattern { name, below: false } => Ok(name),
        HostPattern { .. } => Err(PatternFault::Many(text.to_owned())),
    }
}

/// Whether some label may be an A-label, which must decode; a U-label is never a [`HostName`].
fn has_ace(name: &str) -> bool {
    name.as_bytes().windows(4).any(|four| four.eq_ignore_ascii_case(b"xn--"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        HostPattern::parse(text)
            .map(|p| format!("{}{}", if p.below { "*." } else { "" }, p.name))
            .map_err(|fault| fault.to_string())
    }

    #[test]
    fn a_pattern_is_read_into_the_one_form() {
        for (text, form) in [
            ("example.eu", "example.eu"),
            ("PACS.Example.EU.", "pacs.example.eu"),
            ("*.example.eu", "*.example.eu"),
            ("*.münchen.example", "*.xn--mnchen-3ya.example"),
            ("MÜNCHEN.example", "xn--mnchen-3ya.example"),
            ("xn--mnchen-3ya.example", "xn--mnchen-3ya.example"),
            ("straße.example", "xn--strae-oqa.example"),
            ("_dmarc.example", "_dmarc.example"),
            ("r3---sn-x.example", "r3---sn-x.example"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(form), "{text}");
        }
    }

    #[test]
    fn a_star_is_a_whole_first_label_or_a_fault() {
        for text in ["*", "*.", "*.*.example", "a.*.example", "a*.example", "*a.example", "**.b"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_is_no_name_in_any_spelling() {
        for text in ["192.0.2.1", "[2001:db8::1]", "2001:db8::1", "192.0.2.0/24", "2130706433"] {
            assert!(read(text).unwrap_err().contains("is an address"), "{text}");
        }
        // Digits that UTS #46 folds to ASCII.
        assert!(read("１９２.0.2.1").unwrap_err().contains("is an address"));
    }

    #[test]
    fn fake_punycode_ports_and_urls_are_refused() {
        for text in ["xn--a.example", "xn--mnchen-3y.example", "xn--.example"] {
            assert!(read(text).unwrap_err().contains("stands for no name"), "{text}");
        }
        for text in ["example.eu:443", "https://example.eu/", "a@example.eu"] {
            assert!(read(text).unwrap_err().contains("which no host name does"), "{text}");
        }
        assert!(read("").is_err() && read("a..b").is_err() && read("a b.example").is_err());
    }
}
