//! Signed notes and their keys, as <https://c2sp.org/signed-note> has them: a text that anybody can
//! read, and Ed25519 signatures under it (RFC 8032).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

/// The type of a key: Ed25519.
const ED25519_TYPE: u8 = 1;

/// What a private key begins with.
const PRIVATE: &str = "PRIVATE+KEY+";

/// What a line with a signature begins with.
const MARK: &str = "\u{2014} ";

/// Why a key or a note is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteFault {
    /// A name that a key cannot have.
    #[error("a key's name is neither empty nor holds white space, control characters or a plus")]
    Name,
    /// No public key.
    #[error("is not a public key; it is NAME+8 hexadecimal digits+base64, on one line")]
    PublicKey,
    /// No private key.
    #[error(
        "is not a private key; it is PRIVATE+KEY+NAME+8 hexadecimal digits+base64, on one line"
    )]
    PrivateKey,
    /// The digits of a key are not those of its name and key.
    #[error(
        "the digits of the key are not those of its name and its bytes: one of them was changed"
    )]
    KeyId,
    /// No signed note.
    #[error("is not a signed note: a text, an empty line, and lines that begin with a dash")]
    Form,
    /// No signature of this key.
    #[error("there is no signature by the key {0}")]
    Unsigned(String),
    /// A signature that does not hold.
    #[error("the signature by the key {0} does not hold")]
    Forged(String),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers for a key")]
    Random,
}

/// What signatures are checked with. Its text (`to_string`) is what a person keeps elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    name: String,
    id: [u8; 4],
    key: [u8; 32],
}

impl PublicKey {
    fn new(name: &str, key: [u8; 32]) -> Result<Self, NoteFault> {
        let is_bad = |c: char| c.is_whitespace() || c.is_control() || c == '+';
        if name.is_empty() || name.contains(is_bad) {
            return Err(NoteFault::Name);
        }
        let text = [name.as_bytes(), b"\n", &[ED25519_TYPE], &key].concat();
        let mut id = [0; 4];
        id.iter_mut().zip(digest(&SHA256, &text).as_ref()).for_each(|(to, from)| *to = *from);
        Ok(Self { name: name.to_owned(), id, key })
    }

    /// Reads a key's text, white space around it left out.
    ///
    /// # Errors
    /// [`NoteFault`] says what it is not.
    pub fn parse(text: &str) -> Result<Self, NoteFault> {
        let (name, id, key) = parts(text.trim()).ok_or(NoteFault::PublicKey)?;
        let made = Self::new(name, key)?;
        if made.id == id { Ok(made) } else { Err(NoteFault::KeyId) }
    }

    /// The key's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text of a note that this key has signed.
    ///
    /// # Errors
    /// [`NoteFault`]: it is no note, or is not signed by this key, or the signature does not hold.
    /// Signatures by other keys are passed over.
    pub fn open<'n>(&self, note: &'n str) -> Result<&'n str, NoteFault> {
        let (text, signatures) = note.rsplit_once("\n\n").ok_or(NoteFault::Form)?;
        let text = note.get(..=text.len()).ok_or(NoteFault::Form)?;
        let has_control = |c: char| c.is_control() && c != '\n';
        if note.contains(has_control) || !signatures.ends_with('\n') {
            return Err(NoteFault::Form);
        }
        let mut is_signed = false;
        for line in signatures.lines() {
            let (name, bytes) = line
                .strip_prefix(MARK)
                .and_then(|line| line.split_once(' '))
                .ok_or(NoteFault::Form)?;
            let bytes = BASE64.decode(bytes).map_err(|_| NoteFault::Form)?;
            let (id, signature) = bytes.split_first_chunk::<4>().ok_or(NoteFault::Form)?;
            if name != self.name || *id != self.id {
                continue;
            }
            let key = UnparsedPublicKey::new(&ED25519, self.key);
            if key.verify(text.as_bytes(), signature).is_err() {
                return Err(NoteFault::Forged(self.name.clone()));
            }
            is_signed = true;
        }
        if is_signed { Ok(text) } else { Err(NoteFault::Unsigned(self.name.clone())) }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", encoded(self, &self.key))
    }
}

/// What notes are signed with.
pub struct PrivateKey {
    public: PublicKey,
    seed: [u8; 32],
    pair: Ed25519KeyPair,
}

impl PrivateKey {
    /// A new key under this name.
    ///
    /// # Errors
    /// The name cannot be one, or the system gives no random numbers.
    pub fn generate(name: &str) -> Result<Self, NoteFault> {
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).map_err(|_| NoteFault::Random)?;
        Self::new(name, seed)
    }

    fn new(name: &str, seed: [u8; 32]) -> Result<Self, NoteFault> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| NoteFault::PrivateKey)?;
        let key = pair.public_key().as_ref().try_into().map_err(|_| NoteFault::PrivateKey)?;
        Ok(Self { public: PublicKey::new(name, key)?, seed, pair })
    }

    /// Reads a private key's text, white space around it left out.
    ///
    /// # Errors
    /// [`NoteFault`] says what it is not.
    pub fn parse(text: &str) -> Result<Self, NoteFault> {
        let text = text.trim().strip_prefix(PRIVATE).ok_or(NoteFault::PrivateKey)?;
        let (name, id, seed) = parts(text).ok_or(NoteFault::PrivateKey)?;
        let made = Self::new(name, seed)?;
        if made.public.id == id { Ok(made) } else { Err(NoteFault::KeyId) }
    }

    /// The text of the key, for the file that keeps it, and for no other eyes.
    #[must_use]
    pub fn secret_text(&self) -> String {
        format!("{PRIVATE}{}", encoded(&self.public, &self.seed))
    }

    /// The key that checks what this one signs.
    #[must_use]
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The text, signed. It ends with a line feed.
    #[must_use]
    pub fn sign(&self, text: &str) -> String {
        let signature = self.pair.sign(text.as_bytes());
        let bytes = BASE64.encode([&self.public.id, signature.as_ref()].concat());
        format!("{text}\n{MARK}{} {bytes}\n", self.public.name)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKey").field("public", &self.public).finish_non_exhaustive()
    }
}

fn encoded(public: &PublicKey, bytes: &[u8; 32]) -> String {
    let id = u32::from_be_bytes(public.id);
    let key = BASE64.encode([&[ED25519_TYPE], &bytes[..]].concat());
    format!("{}+{id:08x}+{key}", public.name)
}

/// Name, id and 32 bytes of a key's text.
fn parts(text: &str) -> Option<(&str, [u8; 4], [u8; 32])> {
    let mut parts = text.splitn(3, '+');
    let (name, id, key) = (parts.next()?, parts.next()?, parts.next()?);
    let is_hex = id.len() == 8 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = u32::from_str_radix(id, 16).ok().filter(|_| is_hex)?.to_be_bytes();
    let key = BASE64.decode(key).ok()?;
    let (kind, key) = key.split_first()?;
    Some((name, id, key.try_into().ok()?)).filter(|_| *kind == ED25519_TYPE)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of Go's golang.org/x/mod/sumdb/note.
    const PRIVATE_TEXT: &str =
        "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
    const PUBLIC_TEXT: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const TEXT: &str = "If you think cryptography is the answer to your problem,\n\
                        then you don't know what your problem is.\n";
    const SIGNATURE: &str = "\u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    #[test]
    fn a_note_is_signed_and_read_as_another_program_does_it() {
        let private = PrivateKey::parse(PRIVATE_TEXT).unwrap();
        let public = PublicKey::parse(PUBLIC_TEXT).unwrap();
        assert_eq!(*private.public(), public);
        assert_eq!(public.to_string(), PUBLIC_TEXT);
        assert_eq!(private.secret_text(), PRIVATE_TEXT);
        let note = private.sign(TEXT);
        assert_eq!(note, format!("{TEXT}\n{SIGNATURE}"));
        assert_eq!(public.open(&note), Ok(TEXT));
    }

    #[test]
    fn a_note_that_was_changed_anywhere_is_not_taken() {
        let public = PublicKey::parse(PUBLIC_TEXT).unwrap();
        let note = format!("{TEXT}\n{SIGNATURE}");
        for at in (0..note.len()).filter(|&at| note.is_char_boundary(at)) {
            let mut changed = note.clone();
            changed.insert(at, 'x');
            assert!(public.open(&changed).is_err(), "{changed}");
        }
        let forged = note.replace("problem is", "problem was");
        assert_eq!(public.open(&forged), Err(NoteFault::Forged("PeterNeumann".to_owned())));
        let other = PrivateKey::generate("other").unwrap();
        let unsigned = NoteFault::Unsigned("other".to_owned());
        assert_eq!(other.public().open(&note), Err(unsigned));
        // Another's signature beside it changes nothing.
        let both = format!("{note}{}", other.sign(TEXT).rsplit_once("\n\n").unwrap().1);
        assert_eq!((public.open(&both), other.public().open(&both)), (Ok(TEXT), Ok(TEXT)));
        for broken in
            ["", "text\n", "text\n\nno dash\n", "a\n\n\u{2014} a b", "a\r\n\n\u{2014} a b\n"]
        {
            assert_eq!(public.open(broken), Err(NoteFault::Form), "{broken:?}");
        }
    }

    #[test]
    fn keys_that_are_none_are_told() {
        for name in ["", "a b", "a+b", "a\n"] {
            assert_eq!(PrivateKey::generate(name).unwrap_err(), NoteFault::Name, "{name:?}");
        }
        let other = PUBLIC_TEXT.replace("Peter", "Meter");
        assert_eq!(PublicKey::parse(&other), Err(NoteFault::KeyId));
        for text in
            ["", "a+b", "a+c74f20a3+AA==", "a+00+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"]
        {
            assert_eq!(PublicKey::parse(text), Err(NoteFault::PublicKey), "{text:?}");
        }
        assert_eq!(PrivateKey::parse(PUBLIC_TEXT).unwrap_err(), NoteFault::PrivateKey);
        let shown = format!("{:?}", PrivateKey::parse(PRIVATE_TEXT).unwrap());
        assert!(!shown.contains("seed") && !shown.contains("129, 10"), "{shown}");
    }
}
