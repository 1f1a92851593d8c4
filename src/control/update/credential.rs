//! What a server wants to know of those who ask: read when it is needed, sent where it belongs, shown
//! to nobody.

use std::fmt;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};

use super::fault::{Fault, NoCredential};
use crate::control::config::{self, CredentialAt, CredentialSent, percent_encoded};

/// The longest credential.
const MAX_BYTES: u64 = 4 << 10;

/// A text of fewer bytes is not looked for in what is shown: half of every message would go.
const MASKED_MIN_BYTES: usize = 4;

/// Where systemd puts credentials (systemd.exec(5)).
const DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// A text that neither `Debug` nor `Display` shows.
pub(super) struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A credential and how it is sent.
#[derive(Debug)]
pub(super) struct Credential {
    secret: Secret,
    sent: CredentialSent,
    /// Every form in which it could come back.
    forms: Vec<Secret>,
}

impl Credential {
    /// Reads it from where the policy says.
    ///
    /// # Errors
    /// Where it is not there, is not one line of visible characters, or anybody on the host may read
    /// it. That is refused and not warned of: who reads the warnings of a timer, and `chmod o-rwx` is
    /// all that it takes.
    pub(super) fn read(config: &config::Credential) -> Result<Self, Fault> {
        let path = match &config.at {
            CredentialAt::File(path) => path.clone(),
            CredentialAt::Named(name) => match std::env::var_os(DIRECTORY) {
                Some(directory) => PathBuf::from(directory).join(name),
                None => {
                    return Err(Fault::Credential { path: None, why: NoCredential::NoDirectory });
                }
            },
        };
        let bytes = read(&path)?;
        let wrong = |why| Fault::Credential { path: Some(path), why };
        let text = String::from_utf8(bytes).unwrap_or_default();
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong(NoCredential::NotALine));
        }
        if config.sent == CredentialSent::Basic(None) && !text.contains(':') {
            return Err(wrong(NoCredential::NoUser));
        }
        Ok(Self::new(text, config.sent.clone()))
    }

    fn new(text: &str, sent: CredentialSent) -> Self {
        let mut forms = vec![text.to_owned()];
        if let CredentialSent::Basic(user) = &sent {
            let pair =
                user.as_ref().map_or_else(|| text.to_owned(), |user| format!("{user}:{text}"));
            forms.push(STANDARD.encode(pair));
            forms.extend(text.split_once(':').map(|(_, password)| password.to_owned()));
        }
        let others =
            [percent_encoded(text), text.escape_debug().to_string(), STANDARD.encode(text)];
        forms.extend(others);
        forms.retain(|form| form.len() >= MASKED_MIN_BYTES);
        // The longest first, so that none leaves a part of another.
        forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
        forms.dedup();
        let forms = forms.into_iter().map(Secret).collect();
        Self { secret: Secret(text.to_owned()), sent, forms }
    }

    /// The header that carries it; `None` where the URL does.
    pub(super) fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        let Self { secret: Secret(text), .. } = self;
        let (name, value) = match &self.sent {
            CredentialSent::Url => return None,
            CredentialSent::Basic(user) => {
                let pair = user.as_ref().map_or_else(|| text.clone(), |it| format!("{it}:{text}"));
                (AUTHORIZATION, format!("Basic {}", STANDARD.encode(pair)))
            }
            CredentialSent::Bearer => (AUTHORIZATION, format!("Bearer {text}")),
            CredentialSent::Header(name) => (name.parse().ok()?, text.clone()),
        };
        let mut value = HeaderValue::try_from(value).ok()?;
        value.set_sensitive(true);
        Some((name, value))
    }

    /// What stands in the URL for `{credential}`.
    pub(super) fn in_url(&self) -> &str {
        &self.secret.0
    }

    /// Whether a text holds it, in any form.
    pub(super) fn is_in(&self, text: &str) -> bool {
        self.forms.iter().any(|Secret(form)| text.contains(form.as_str()))
    }

    /// The text without it.
    pub(super) fn masked(&self, text: &str) -> String {
        let hide = |text: String, Secret(form): &Secret| text.replace(form.as_str(), "***");
        self.forms.iter().fold(text.to_owned(), hide)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Fault> {
    let fault = |why| Fault::Credential { path: Some(path.to_owned()), why };
    let mut open = OpenOptions::new();
    let opened = open.read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let opened = opened.map_err(|error| fault(NoCredential::Unopened(error)))?;
    let about = opened.metadata().map_err(|error| fault(NoCredential::Unknown(error)))?;
    if !about.is_file() {
        return Err(fault(NoCredential::NoFile));
    }
    if about.mode() & 0o007 != 0 {
        return Err(Fault::Exposed(path.to_owned()));
    }
    let mut bytes = Vec::new();
    let read = opened.take(MAX_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| fault(NoCredential::Unread(error)))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_BYTES) {
        return Err(fault(NoCredential::Long(MAX_BYTES)));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(text: &str, mode: u32, sent: CredentialSent) -> Result<Credential, Fault> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        Credential::read(&config::Credential { at: CredentialAt::File(path), sent })
    }

    #[test]
    fn a_credential_is_shown_in_no_form() {
        let basic = CredentialSent::Basic(Some("12".to_owned()));
        let key = file("s3c\"ret/Key\r\n", 0o640, basic).unwrap();
        let (name, value) = key.header().unwrap();
        assert_eq!(name, AUTHORIZATION);
        assert_eq!(
            value.to_str().unwrap(),
            format!("Basic {}", STANDARD.encode("12:s3c\"ret/Key"))
        );
        let shown = format!("{key:?} {:?} {}", value, key.secret);
        assert!(!shown.contains("s3c") && !shown.contains("czNj"), "{shown}");
        for text in ["s3c\"ret/Key", "s3c%22ret%2FKey", "s3c\\\"ret/Key", value.to_str().unwrap()] {
            assert!(key.is_in(text), "{text}");
            assert!(!key.masked(&format!("a {text} b")).contains("ret"), "{text}");
        }
        assert_eq!(key.masked("nothing of it"), "nothing of it");
    }

    #[test]
    fn what_anybody_may_read_is_refused() {
        for mode in [0o644, 0o604, 0o602, 0o601] {
            let fault = file("s3cret", mode, CredentialSent::Bearer).unwrap_err();
            assert!(matches!(fault, Fault::Exposed(_)), "{mode:o}: {fault}");
            assert!(fault.is_refusal() && fault.to_string().contains("chmod o-rwx"), "{fault}");
        }
        for mode in [0o600, 0o400, 0o440] {
            let key = file("s3cret", mode, CredentialSent::Bearer).unwrap();
            assert_eq!(key.header().unwrap().1.to_str().unwrap(), "Bearer s3cret");
        }
    }

    #[test]
    fn what_is_no_credential_is_a_fault_that_does_not_repeat_it() {
        let long = "x".repeat(5_000);
        for text in ["", "\n", "s3cret two", "s3cret\nmore", "s3cr\u{e9}t", "\0s3cret", &long] {
            let fault = file(text, 0o600, CredentialSent::Bearer).unwrap_err().to_string();
            assert!(!fault.contains("s3c") && !fault.contains("xxx"), "{fault}");
        }
        assert!(file("s3cret", 0o600, CredentialSent::Basic(None)).is_err());
        let pair = file("12:s3cret", 0o600, CredentialSent::Basic(None)).unwrap();
        assert_eq!(pair.masked("s3cret"), "***", "the password by itself");
        let header = CredentialSent::Header("x-api-key".to_owned());
        let (name, _) = file("s3cret", 0o600, header).unwrap().header().unwrap();
        assert_eq!(name, "x-api-key");
    }
}
