//! Where a fetched file lands: aside, under a lock, and into its place by one rename. Beside it lies
//! what the server said of it, so that the next update asks only for what changed.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH};
use jiff::Timestamp;
use ring::signature::{ED25519, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use url::Url;

use super::fault::Fault;
use crate::control::data::PackKey;

/// The longest list of digests and the longest signature that are read.
pub(super) const DIGESTS_MAX_BYTES: u64 = 1 << 20;
pub(super) const SIGNATURE_MAX_BYTES: u64 = 4 << 10;

/// The longest file of validators.
const VALIDATORS_MAX_BYTES: u64 = 16 << 10;

/// What a server said of a file (RFC 9110 §8.8), and which file that was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Validators {
    /// SHA-256 of the URL, hex: it may hold a token, and this file may be read by many.
    url_sha256: String,
    etag: Option<String>,
    last_modified: Option<String>,
    /// SHA-256 of the file, hex: of another one, nothing is known.
    sha256: String,
}

impl Validators {
    pub(super) fn of(url: &str, etag: Option<String>, last_modified: Option<String>) -> Self {
        Self { url_sha256: sha256(url), etag, last_modified, sha256: String::new() }
    }

    /// The same, of the file with this digest.
    pub(super) fn known_by(self, sha256: &str) -> Self {
        Self { sha256: sha256.to_owned(), ..self }
    }

    /// Whether they ask nothing.
    pub(super) const fn is_empty(&self) -> bool {
        self.etag.is_none() && self.last_modified.is_none()
    }

    /// The conditions of a request (RFC 9110 §13.1): the date only where there is no tag.
    pub(super) fn conditions(&self) -> impl Iterator<Item = (HeaderName, &str)> {
        let etag = self.etag.as_deref().map(|etag| (IF_NONE_MATCH, etag));
        let date = self.last_modified.as_deref().filter(|_| self.etag.is_none());
        etag.into_iter().chain(date.map(|date| (IF_MODIFIED_SINCE, date)))
    }
}

fn sha256(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `.NAME.ENDING` beside the file.
fn beside(file: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(file.file_name().unwrap_or(file.as_os_str()));
    name.push(ending);
    file.with_file_name(name)
}

/// What is known of the file there, whose digest is `there`, as it came from `url`; nothing where it
/// came from elsewhere, was changed since, or nobody wrote it down.
pub(super) fn validators(file: &Path, url: &str, there: Option<&str>) -> Validators {
    let read = || {
        let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
        let mut open = OpenOptions::new();
        let opened = open.read(true).custom_flags(flags).open(beside(file, ".update")).ok()?;
        let mut text = Vec::new();
        opened.take(VALIDATORS_MAX_BYTES).read_to_end(&mut text).ok()?;
        let known: Validators = serde_json::from_slice(&text).ok()?;
        (known.url_sha256 == sha256(url) && Some(known.sha256.as_str()) == there).then_some(known)
    };
    read().unwrap_or_default()
}

/// The right to write a file, held until it is dropped; what was written aside goes with it.
#[derive(Debug)]
pub(super) struct Place {
    file: PathBuf,
    aside: PathBuf,
    lock: File,
}

impl Place {
    /// Waits for nobody: where another holds it, that is a fault.
    pub(super) fn take(file: &Path) -> Result<Self, Fault> {
        let path = beside(file, ".update");
        // The file of validators is the lock: it is never renamed, so that there is only one.
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
            .open(&path)
            .map_err(|error| Fault::aside(&path, error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Fault::Busy(file.to_owned())),
            Err(TryLockError::Error(error)) => return Err(Fault::aside(&path, error)),
        }
        Ok(Self { file: file.to_owned(), aside: beside(file, ".new"), lock })
    }

    /// The file aside, empty; whatever an update that was cut off left there is gone.
    pub(super) fn create(&self) -> Result<File, Fault> {
        // Most often there is nothing to remove.
        fs::remove_file(&self.aside).ok();
        let created = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&self.aside);
        created.map_err(|error| Fault::aside(&self.aside, error))
    }

    /// Where it is written aside.
    pub(super) fn aside(&self) -> &Path {
        &self.aside
    }

    /// Makes it last, under the date that the server gave it: where the content of a table has no
    /// date, that of its file stands. A date to come is none.
    pub(super) fn settle(&self, file: &mut File, modified: Option<Timestamp>) -> Result<(), Fault> {
        let modified = modified.filter(|&at| at <= Timestamp::now());
        let dated = modified.map_or(Ok(()), |at| file.set_modified(at.into()));
        dated.and_then(|()| file.sync_all()).map_err(|error| Fault::aside(&self.aside, error))
    }

    /// Puts it into its place, and writes down what the server said of it.
    pub(super) fn put(mut self, validators: &Validators) -> Result<(), Fault> {
        fs::rename(&self.aside, &self.file).map_err(|error| Fault::aside(&self.file, error))?;
        let written = self.lock.seek(SeekFrom::Start(0)).and_then(|_| {
            self.lock.set_len(0)?;
            serde_json::to_writer_pretty(&mut self.lock, validators)?;
            self.lock.write_all(b"\n")
        });
        written.map_err(|error| Fault::aside(&beside(&self.file, ".update"), error))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Renamed, never written, or refused.
        fs::remove_file(&self.aside).ok();
    }
}

/// The digest of the file that `of` names, as `sha256sum` publishes it: its line of a list, or the
/// one digest of the text.
pub(super) fn published_digest(text: &[u8], of: &Url) -> Result<String, Fault> {
    let name = of.path_segments().and_then(|mut segments| segments.next_back()).unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    let lines = text.lines().filter_map(|line| {
        let (digest, named) =
            line.trim().split_once([' ', '\t']).unwrap_or_else(|| (line.trim(), ""));
        let hex = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        let named = named.trim_start().trim_start_matches('*');
        let named = named.rsplit('/').next().unwrap_or_default();
        hex.then(|| (digest.to_ascii_lowercase(), named.to_owned()))
    });
    let mut lines: Vec<_> = lines.collect();
    if lines.len() > 1 {
        lines.retain(|(_, named)| named == name);
    }
    match lines.as_slice() {
        [(digest, _)] => Ok(digest.clone()),
        _ => {
            Err(Fault::Unproven("the text at sha256_url holds no digest of this file, or several"))
        }
    }
}

/// Whether `key` signed these bytes; the signature is its 64 bytes, or those in base64.
pub(super) fn check_signature(key: &PackKey, bytes: &[u8], signature: &[u8]) -> Result<(), Fault> {
    let raw = match signature.len() {
        64 => signature.to_vec(),
        _ => STANDARD.decode(signature.trim_ascii()).unwrap_or_default(),
    };
    let verified = UnparsedPublicKey::new(&ED25519, key.bytes()).verify(bytes, &raw);
    verified.map_err(|_| Fault::Unproven("is not signed by `key`; do not use it, and find out why"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url() -> Url {
        Url::parse("https://data.example/tables/c.csv?now").unwrap()
    }

    #[test]
    fn a_published_digest_is_the_one_of_the_file() {
        let [a, b] = ["a", "B"].map(|digit| digit.repeat(64));
        let told = |text: &str| published_digest(text.as_bytes(), &url()).ok();
        assert_eq!(told(&a), Some(a.clone()));
        assert_eq!(told(&format!("{b}  anything\n")), Some(b.to_lowercase()));
        assert_eq!(told(&format!("{a}  d.csv\n{b} *./c.csv\n")), Some(b.to_lowercase()));
        for text in ["", "<html>", &a[1..], &format!("{a} d.csv\n{b} e.csv"), &format!("{a}\n{a}")]
        {
            assert_eq!(told(text), None, "{text}");
        }
    }

    #[test]
    fn what_the_server_said_holds_for_that_file_of_that_place() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.csv");
        let place = Place::take(&file).unwrap();
        assert!(matches!(Place::take(&file), Err(Fault::Busy(_))));
        place.create().unwrap().write_all(b"table").unwrap();
        let url = url().to_string();
        let said = Validators::of(&url, Some("\"1\"".to_owned()), Some("a day".to_owned()));
        place.put(&said.known_by("ab")).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"table");
        let known = validators(&file, &url, Some("ab"));
        let conditions: Vec<_> = known.conditions().collect();
        assert_eq!(conditions, [(IF_NONE_MATCH, "\"1\"")]);
        assert!(validators(&file, &url, Some("cd")).is_empty());
        assert!(validators(&file, &url, None).is_empty());
        assert!(validators(&file, "https://b.example", Some("ab")).is_empty());
        let kept = fs::read_to_string(dir.path().join(".c.csv.update")).unwrap();
        assert!(!kept.contains("example") && !kept.contains("now"), "{kept}");
        fs::write(dir.path().join(".c.csv.update"), "{").unwrap();
        assert!(validators(&file, &url, Some("ab")).is_empty());
    }

    #[test]
    fn what_is_not_put_into_its_place_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.csv");
        fs::write(dir.path().join(".c.csv.new"), "left over").unwrap();
        let place = Place::take(&file).unwrap();
        let mut aside = place.create().unwrap();
        assert_eq!(fs::read(place.aside()).unwrap(), b"");
        let to_come = Timestamp::now() + jiff::SignedDuration::from_hours(1);
        place.settle(&mut aside, Some(to_come)).unwrap();
        let modified = aside.metadata().unwrap().modified().unwrap();
        assert!(Timestamp::try_from(modified).unwrap() < to_come);
        drop(place);
        assert!(!file.exists() && !dir.path().join(".c.csv.new").exists());
    }
}
