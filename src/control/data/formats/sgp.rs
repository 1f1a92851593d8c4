//! Several tables in one file with one signature, `.sgp`: what a site builds once, in a place that
//! it trusts, and hands to its gateways.
//!
//! ```text
//!   0   4  magic "SGP1"
//!   4   1  0 unsigned, 1 signed with Ed25519 (RFC 8032)
//!   5  64  signature over CONTEXT and the bytes from 69 on; zeros where unsigned
//!  69  32  SHA-256 of what follows
//! 101   8  date of the build, seconds since 1970, little endian
//! 109   2  number of tables, little endian
//!          each table: 4 bytes of length, and the table as `.sgt` (see `sgt`)
//! ```
//! A reader that holds a key takes nothing else than what this key signed: the byte at 4 is not
//! under the signature, and so decides nothing but which fault is told.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use ring::error::KeyRejected;
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use sha2::{Digest, Sha256};

use super::file::{self, Content};
use super::magic::SGP_MAGIC as MAGIC;
use super::provider;
use super::ranges::answering;
use super::sgt::{self, Body, Header, SgtFault};
use crate::control::data::model::{
    AsnTable, Cause, CountryTable, DataFault, Kind, ProviderTable, SourceInfo, Table, shown_path,
};
use crate::control::data::pack_key::PackKey;

/// What is signed before the content, so that a signature by the same key over something else is
/// none over a pack.
const CONTEXT: &[u8] = b"schengate pack 1\0";

const SIGNATURE_AT: usize = 5;
const DIGEST_AT: usize = 69;
const CONTENT_AT: usize = 101;

/// What is wrong with a pack, with what it is to be made from, or with the key that signs it.
#[derive(Debug, thiserror::Error)]
pub(in crate::control::data) enum PackFault {
    #[error("is not a schengate pack, or was cut short")]
    NoPack,
    #[error(
        "is not signed, and [data] pack_key asks for a signature; fetch it from where it is \
         signed, or sign it: `schengate data build --pack --sign`"
    )]
    Unsigned,
    #[error(
        "is not signed by [data] pack_key, or was changed since; do not use it, and find out \
         where it came from"
    )]
    OtherKey,
    #[error("is damaged: its digest differs; fetch or build it again")]
    Damaged,
    #[error("holds tables that do not fit their lengths, although its digest is right")]
    Cut,
    #[error("holds no table")]
    Empty,
    #[error("table {at} of it {what}")]
    Table { at: usize, what: SgtFault },
    #[error("has too many tables")]
    TooManyTables,
    #[error("a table of kind {} is too large", .0.label())]
    TooLarge(Kind),
    #[error("two of its tables are called {0}; name one otherwise")]
    SameName(String),
    #[error("cannot be written")]
    Unwritable(#[source] io::Error),
    #[error("is not a private key in PEM (no line {PEM_HEAD})")]
    NoPem,
    #[error("is not an Ed25519 key: {0}")]
    NoKey(KeyRejected),
}

/// A pack and its tables.
#[derive(Debug)]
pub(in crate::control::data) struct Bundle {
    /// The pack as a source: its name, the date of its build, the rows of all of its tables.
    pub(in crate::control::data) info: SourceInfo,
    pub(in crate::control::data) tables: Vec<Table>,
}

/// Reads the pack at `path`; with a key only one that this key signed.
///
/// # Errors
/// What is wrong with it, or why it is not to be trusted.
pub(in crate::control::data) fn read(
    path: &Path,
    key: Option<&PackKey>,
) -> Result<Bundle, DataFault> {
    read_from(path, &file::read(path)?, key)
}

/// As [`read`], of bytes that were read already; `path` names them.
pub(in crate::control::data) fn read_from(
    path: &Path,
    content: &Content,
    key: Option<&PackKey>,
) -> Result<Bundle, DataFault> {
    let fault = |what: PackFault| DataFault::whole(path, what);
    let signed = authentic(&content.bytes, key).map_err(fault)?;
    let (date, parts) = parts(signed).map_err(fault)?;
    let mut tables = Vec::new();
    for part in parts {
        let at = tables.len() + 1;
        let (header, body) =
            sgt::read(part).map_err(|what| fault(PackFault::Table { at, what }))?;
        tables.push(table(path, part, header, body)?);
    }
    let file = path.file_name().unwrap_or(path.as_os_str());
    let info = SourceInfo {
        name: shown_path(Path::new(file)),
        origin: Some(path.to_owned()),
        as_of: Some(date),
        dated_by_file: false,
        rows: tables.iter().map(|table| table.info().rows).sum(),
        licence: None,
        digest: content.digest.clone(),
        files: vec![content.stamp(path)],
    };
    Ok(Bundle { info, tables })
}

fn table(path: &Path, part: &[u8], header: Header, body: Body) -> Result<Table, DataFault> {
    let safe = |text: &str| shown_path(Path::new(text));
    let file = path.file_name().unwrap_or(path.as_os_str());
    let name = format!("{}:{}", shown_path(Path::new(file)), safe(&header.name));
    let info = SourceInfo {
        name,
        origin: Some(path.join(&header.name)),
        as_of: header.as_of,
        dated_by_file: false,
        rows: header.rows,
        licence: Some(safe(&header.licence)).filter(|text| !text.is_empty()),
        digest: file::digest(part),
        files: Vec::new(),
    };
    Ok(match body {
        Body::Country(ranges) => {
            let ranges = answering(path, ranges, "country")?;
            Table::Country(CountryTable { info, ranges })
        }
        Body::Asn(ranges) => {
            let ranges = answering(path, ranges, "AS number")?;
            Table::Asn(AsnTable { info, ranges })
        }
        Body::Provider(rows) => {
            provider::check(&rows).map_err(|bad| DataFault::at_row(path, bad))?;
            Table::Providers(ProviderTable { info, rows })
        }
    })
}

/// The content of a pack, whose digest holds and which the key signed, where there is one.
fn authentic<'a>(pack: &'a [u8], key: Option<&PackKey>) -> Result<&'a [u8], PackFault> {
    let known = pack.starts_with(MAGIC);
    let signature = pack.get(SIGNATURE_AT..DIGEST_AT).filter(|_| known);
    let (signature, signed) = signature.zip(pack.get(DIGEST_AT..)).ok_or(PackFault::NoPack)?;
    let kind = pack.get(4).copied();
    if let Some(key) = key {
        if kind != Some(1) {
            return Err(PackFault::Unsigned);
        }
        let message = [CONTEXT, signed].concat();
        UnparsedPublicKey::new(&ED25519, key.bytes())
            .verify(&message, signature)
            .map_err(|_| PackFault::OtherKey)?;
    } else if !matches!(kind, Some(0 | 1)) {
        return Err(PackFault::Damaged);
    }
    let digest = pack.get(DIGEST_AT..CONTENT_AT).ok_or(PackFault::Damaged)?;
    let content = pack.get(CONTENT_AT..).ok_or(PackFault::Damaged)?;
    let holds = Sha256::digest(content).as_slice() == digest;
    if holds { Ok(content) } else { Err(PackFault::Damaged) }
}

/// The date of the build, and the bytes of each table.
fn parts(content: &[u8]) -> Result<(Timestamp, Vec<&[u8]>), PackFault> {
    let (date, rest) = content.split_first_chunk().ok_or(PackFault::Cut)?;
    let (count, mut rest) = rest.split_first_chunk().ok_or(PackFault::Cut)?;
    let date = Timestamp::from_second(i64::from_le_bytes(*date)).map_err(|_| PackFault::Cut)?;
    let mut parts = Vec::new();
    for _ in 0..u16::from_le_bytes(*count) {
        let (length, after) = rest.split_first_chunk().ok_or(PackFault::Cut)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| PackFault::Cut)?;
        let (part, after) = after.split_at_checked(length).ok_or(PackFault::Cut)?;
        parts.push(part);
        rest = after;
    }
    if parts.is_empty() {
        return Err(PackFault::Empty);
    }
    if rest.is_empty() { Ok((date, parts)) } else { Err(PackFault::Cut) }
}

/// Writes tables into one pack at `out`, whole or not at all. The same tables with the same date
/// and key give the same bytes.
///
/// # Errors
/// A table that does not fit the form, or where `out` cannot be written.
pub fn build_pack(
    tables: Vec<Table>,
    date: Timestamp,
    key: Option<&SigningKey>,
    out: &Path,
) -> Result<SourceInfo, DataFault> {
    let fault = |what: PackFault| DataFault::whole(out, what);
    let count = u16::try_from(tables.len()).map_err(|_| fault(PackFault::TooManyTables))?;
    let mut names = Vec::new();
    let mut content = date.as_second().to_le_bytes().to_vec();
    content.extend(count.to_le_bytes());
    let mut rows = 0;
    for table in tables {
        let kind = table.kind();
        let part =
            serialise(table, &mut rows, &mut names).map_err(|what| DataFault::whole(out, what))?;
        let length = u32::try_from(part.len()).map_err(|_| fault(PackFault::TooLarge(kind)))?;
        content.extend(length.to_le_bytes());
        content.extend(part);
    }
    let signed = [Sha256::digest(&content).as_slice(), &content].concat();
    let signature = match key {
        Some(key) => key.sign(&[CONTEXT, &signed].concat()),
        None => vec![0; DIGEST_AT - SIGNATURE_AT],
    };
    let pack = [MAGIC.as_slice(), &[u8::from(key.is_some())], &signature, &signed].concat();
    let mut new = out.as_os_str().to_owned();
    new.push(".new");
    let written = fs::write(&new, &pack).and_then(|()| fs::rename(&new, out));
    written.map_err(|error| fault(PackFault::Unwritable(error)))?;
    let name = shown_path(Path::new(out.file_name().unwrap_or(out.as_os_str())));
    let (as_of, licence, digest) = (Some(date), None, file::digest(&pack));
    let (origin, dated_by_file, files) = (Some(out.to_owned()), false, Vec::new());
    Ok(SourceInfo { name, origin, as_of, dated_by_file, rows, licence, digest, files })
}

/// A table as `.sgt`. Two of one name in a pack could not be told apart in a record.
fn serialise(table: Table, rows: &mut u64, names: &mut Vec<String>) -> Result<Vec<u8>, Cause> {
    let (info, body) = match table {
        Table::Country(table) => (table.info, Body::Country(table.ranges)),
        Table::Asn(table) => (table.info, Body::Asn(table.ranges)),
        Table::Providers(mut table) => {
            table.rows.sort_unstable_by(provider::provider_order);
            (table.info, Body::Provider(table.rows))
        }
    };
    if names.contains(&info.name) {
        return Err(PackFault::SameName(info.name).into());
    }
    *rows += info.rows;
    names.push(info.name.clone());
    let licence = info.licence.unwrap_or_default();
    let source = format!("sha256 {}", info.digest);
    let header = Header { name: info.name, as_of: info.as_of, rows: info.rows, source, licence };
    Ok(sgt::write(&header, &body)?)
}

/// The private half of a site's key.
pub struct SigningKey(Ed25519KeyPair);

const PEM_HEAD: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_FOOT: &str = "-----END PRIVATE KEY-----";

impl SigningKey {
    /// Makes a new key and writes it to `path` as PKCS#8 in PEM (RFC 5958, RFC 7468), for its owner
    /// alone to read. A file that is there is never overwritten.
    ///
    /// # Errors
    /// Where there is no randomness, or the file cannot be written.
    pub fn generate(path: &Path) -> io::Result<Self> {
        let unspecified = |_| io::Error::other("the system gives no randomness");
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(unspecified)?;
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref())
            .map_err(|rejected| io::Error::other(rejected.to_string()))?;
        let encoded = STANDARD.encode(document.as_ref());
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        writeln!(file, "{PEM_HEAD}")?;
        for line in encoded.as_bytes().chunks(64) {
            file.write_all(line)?;
            file.write_all(b"\n")?;
        }
        writeln!(file, "{PEM_FOOT}")?;
        file.sync_all()?;
        Ok(Self(pair))
    }

    /// Reads a key from PKCS#8 in PEM, as [`SigningKey::generate`] or `openssl genpkey -algorithm
    /// ed25519` writes it.
    ///
    /// # Errors
    /// Why it cannot be read; never what it holds.
    pub fn read(path: &Path) -> Result<Self, DataFault> {
        let content = file::read_up_to(path, 16 << 10)?;
        let no_pem = || DataFault::whole(path, PackFault::NoPem);
        let text = String::from_utf8(content.bytes).map_err(|_| no_pem())?;
        let (_, inner) = text.split_once(PEM_HEAD).ok_or_else(no_pem)?;
        let (inner, _) = inner.split_once(PEM_FOOT).ok_or_else(no_pem)?;
        let encoded: String = inner.split_ascii_whitespace().collect();
        let document = STANDARD.decode(encoded).map_err(|_| no_pem())?;
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(&document)
            .map(Self)
            .map_err(|rejected| DataFault::whole(path, PackFault::NoKey(rejected)))
    }

    /// The public half, as `[data] pack_key` has it.
    #[must_use]
    pub fn public(&self) -> String {
        STANDARD.encode(self.0.public_key().as_ref())
    }

    /// Signs a message; what it is for stands at its head.
    pub(in crate::control::data) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).as_ref().to_vec()
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey(public {})", self.public())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::config::Source;
    use crate::control::data::{Kind, Table};

    fn country(folder: &Path) -> Table {
        let path = folder.join("c.csv");
        fs::write(&path, "192.0.2.0,192.0.2.255,FR\n2001:db8::,2001:db8::ffff,DE\n").unwrap();
        Table::load(Kind::Country, &Source::File(path), Default::default()).unwrap()
    }

    fn build(folder: &Path, key: Option<&SigningKey>) -> Vec<u8> {
        let path = folder.join("site.sgp");
        let date = Timestamp::from_second(1_781_654_400).unwrap();
        build_pack(vec![country(folder)], date, key, &path).unwrap();
        fs::read(path).unwrap()
    }

    fn why(folder: &Path, pack: &[u8], key: Option<&PackKey>) -> String {
        let path = folder.join("other.sgp");
        fs::write(&path, pack).unwrap();
        read(&path, key).map_or_else(|fault| fault.said(), |_| "taken".to_owned())
    }

    fn key(folder: &Path, name: &str) -> (SigningKey, PackKey) {
        let key = SigningKey::generate(&folder.join(name)).unwrap();
        let public = key.public().parse().unwrap();
        (key, public)
    }

    #[test]
    fn a_signed_pack_gives_its_tables_and_is_the_same_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let (private, public) = key(dir.path(), "key.pem");
        let pack = build(dir.path(), Some(&private));
        assert_eq!(pack, build(dir.path(), Some(&private)));
        let read = read(&dir.path().join("site.sgp"), Some(&public)).unwrap();
        assert_eq!(read.info.as_of.unwrap().as_second(), 1_781_654_400);
        assert_eq!(read.tables[0].labels(), country(dir.path()).labels());
        assert_eq!(read.tables[0].info().name, "site.sgp:c.csv");
        let again = SigningKey::read(&dir.path().join("key.pem")).unwrap();
        assert_eq!(again.public(), private.public());
    }

    #[test]
    fn with_a_key_nothing_else_is_taken_than_what_it_signed() {
        let dir = tempfile::tempdir().unwrap();
        let (private, public) = key(dir.path(), "key.pem");
        let (stranger, _) = key(dir.path(), "stranger.pem");
        let signed = build(dir.path(), Some(&private));
        assert_eq!(why(dir.path(), &signed, Some(&public)), "taken");
        let unsigned = build(dir.path(), None);
        assert!(why(dir.path(), &unsigned, Some(&public)).contains("is not signed"));
        let mut stripped = signed.clone();
        stripped[4..DIGEST_AT].fill(0);
        assert!(why(dir.path(), &stripped, Some(&public)).contains("is not signed"));
        let wrongly = build(dir.path(), Some(&stranger));
        assert!(why(dir.path(), &wrongly, Some(&public)).contains("not signed by"));
        assert_eq!(why(dir.path(), &unsigned, None), "taken");
        for bit in 0..signed.len() * 8 {
            let mut pack = signed.clone();
            pack[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(why(dir.path(), &pack, Some(&public)), "taken", "bit {bit}");
        }
        for end in 0..signed.len() {
            assert_ne!(why(dir.path(), &signed[..end], Some(&public)), "taken", "cut at {end}");
        }
        // A pack whose content was exchanged, with a digest that is right again.
        let mut forged = signed.clone();
        forged[CONTENT_AT] ^= 1;
        let digest = Sha256::digest(&forged[CONTENT_AT..]);
        forged[DIGEST_AT..CONTENT_AT].copy_from_slice(&digest);
        assert!(why(dir.path(), &forged, Some(&public)).contains("not signed by"));
    }

    #[test]
    fn without_a_key_every_bit_but_the_signature_still_counts() {
        let dir = tempfile::tempdir().unwrap();
        let pack = build(dir.path(), None);
        for bit in (DIGEST_AT * 8)..pack.len() * 8 {
            let mut pack = pack.clone();
            pack[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(why(dir.path(), &pack, None), PackFault::Damaged.to_string(), "bit {bit}");
        }
    }

    #[test]
    fn a_key_is_for_its_owner_and_never_overwritten() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        let key = SigningKey::generate(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(SigningKey::generate(&path).is_err());
        assert_eq!(SigningKey::read(&path).unwrap().public(), key.public());
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace('M', "N")).unwrap();
        let refused = SigningKey::read(&path).unwrap_err().said();
        assert!(refused.starts_with("is not "), "{refused}");
    }
}
