//! `[data] pack_key`: who may sign the tables.

use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// An Ed25519 public key (RFC 8032 §5.1.5), written as its 32 bytes in base64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackKey([u8; 32]);

impl PackKey {
    /// The bytes of the key.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The text is not 32 bytes in base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an Ed25519 key: 32 bytes in base64 are wanted")]
pub struct BadPackKey;

impl FromStr for PackKey {
    type Err = BadPackKey;

    fn from_str(text: &str) -> Result<Self, BadPackKey> {
        let bytes = STANDARD.decode(text).map_err(|_| BadPackKey)?;
        bytes.try_into().map(Self).map_err(|_| BadPackKey)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_32_bytes_in_base64_are_a_key() {
        let text = STANDARD.encode([7; 32]);
        assert_eq!(text.parse(), Ok(PackKey([7; 32])));
        let wrong = [String::new(), STANDARD.encode([7; 31]), text[1..].into(), format!("{text} ")];
        for text in wrong {
            assert_eq!(text.parse::<PackKey>(), Err(BadPackKey), "{text:?}");
        }
    }
}
