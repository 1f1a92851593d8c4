//! Services by name (`[data] services`): which there are, what each is made of, and files of them
//! made and signed.
//!
//! A signed file is a table of services under one line:
//! ```text
//! # schengate services 1 signed BASE64
//! ```
//! with the Ed25519 signature (RFC 8032) over [`CONTEXT`] and every byte behind that line.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use ring::signature::{ED25519, UnparsedPublicKey};

use super::facts::SERVICES as EMBEDDED;
use super::formats::file::{self, Content};
use super::formats::services::{self, Endpoint, HEADER, Read, ServiceRow};
use super::formats::sgp::SigningKey;
use super::model::{DataFault, SourceInfo, shown_path};
use super::pack_key::PackKey;
use super::settings::{Data, Source};
use crate::control::host_pattern::HostPattern;
use crate::control::spelling::nearest;

/// What is signed before the content, so that a signature over anything else is none over services.
const CONTEXT: &[u8] = b"schengate services 1\0";

/// What stands before the signature in the first line of a signed file.
const SIGNED: &str = "# schengate services 1 signed ";

/// How many names a fault suggests.
const SUGGESTED: usize = 5;

/// Every service that a policy may name.
#[derive(Debug, Clone, Default)]
pub struct Services {
    /// Each row with the index of its source.
    rows: Vec<(ServiceRow, usize)>,
    infos: Vec<SourceInfo>,
}

/// What a name stands for.
#[derive(Debug, Clone, Default)]
pub struct Endpoints {
    /// Hosts of any rule.
    pub hosts: Vec<HostPattern>,
    /// Hosts of block rules alone.
    pub blocked_hosts: Vec<HostPattern>,
    /// Prefixes of any rule.
    pub nets: Vec<IpNet>,
    /// Prefixes of block rules alone.
    pub blocked_nets: Vec<IpNet>,
    /// The sources that say so, each with its date.
    pub sources: Vec<String>,
}

impl Services {
    /// Those in the program.
    #[must_use]
    pub fn embedded() -> &'static Self {
        static EMBEDDED_ONES: OnceLock<Services> = OnceLock::new();
        EMBEDDED_ONES.get_or_init(|| {
            let mut services = Self::default();
            // A test holds that it is sound; one that were not would know of no service.
            if let Ok(read) = services::read(EMBEDDED.as_bytes()) {
                let info = SourceInfo {
                    name: "embedded:services".to_owned(),
                    origin: None,
                    as_of: read.as_of,
                    dated_by_file: false,
                    rows: read.rows.len() as u64,
                    licence: Some("MIT OR Apache-2.0".to_owned()),
                    digest: file::digest(EMBEDDED.as_bytes()),
                    files: Vec::new(),
                };
                services.add(read.rows, info);
            }
            services
        })
    }

    /// Reads what `[data] services` names. Of each family (the word before the first `/`) the first
    /// file that holds rows of it speaks alone.
    #[must_use]
    pub fn load(settings: &Data) -> (Self, Vec<DataFault>) {
        let (mut services, mut faults) = (Self::default(), Vec::new());
        for source in &settings.services {
            match source {
                Source::Embedded => {
                    for (at, info) in Self::embedded().infos.iter().enumerate() {
                        let rows = Self::embedded().rows.iter().filter(|row| row.1 == at);
                        services.add(rows.map(|row| row.0.clone()).collect(), info.clone());
                    }
                }
                Source::File(path) => match read_file(path, settings.services_key.as_ref()) {
                    Ok((read, info)) => services.add(read.rows, info),
                    Err(fault) => faults.push(fault),
                },
            }
        }
        (services, faults)
    }

    fn add(&mut self, rows: Vec<ServiceRow>, info: SourceInfo) {
        let taken: BTreeSet<String> =
            self.rows.iter().map(|(row, _)| family(&row.service).to_owned()).collect();
        let at = self.infos.len();
        self.infos.push(info);
        let new = rows.into_iter().filter(|row| !taken.contains(family(&row.service)));
        self.rows.extend(new.map(|row| (row, at)));
    }

    /// Where each file came from.
    #[must_use]
    pub fn infos(&self) -> &[SourceInfo] {
        &self.infos
    }

    /// What a name stands for: a service, or all below a family or a part of one.
    ///
    /// # Errors
    /// The names that are near, where nobody knows it.
    pub fn named(&self, name: &str) -> Result<Endpoints, Vec<String>> {
        let below = |service: &str| {
            service.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let mut found = Endpoints::default();
        let mut sources = BTreeSet::new();
        for (row, source) in self.rows.iter().filter(|(row, _)| below(&row.service)) {
            match (&row.endpoint, row.blocks_only) {
                (Endpoint::Host(host), false) => found.hosts.push(**host),
                (Endpoint::Host(host), true) => found.blocked_hosts.push(**host),
                (Endpoint::Net(net), false) => found.nets.push(*net),
                (Endpoint::Net(net), true) => found.blocked_nets.push(*net),
            }
            sources.insert(*source);
        }
        if sources.is_empty() {
            return Err(self.near(name));
        }
        let dated = |info: &SourceInfo| match info.as_of {
            Some(at) => format!("{} of {}", info.name, at.to_zoned(TimeZone::UTC).date()),
            None => info.name.clone(),
        };
        found.sources = sources.iter().filter_map(|&at| self.infos.get(at)).map(dated).collect();
        Ok(found)
    }

    fn near(&self, name: &str) -> Vec<String> {
        let mut names = BTreeSet::new();
        for (row, _) in &self.rows {
            let ends = row.service.match_indices('/').map(|(at, _)| at);
            names.extend(ends.filter_map(|end| row.service.get(..end)));
            names.insert(&row.service);
        }
        let mut near: Vec<&str> = nearest(name, names.iter().copied()).into_iter().collect();
        let lower = name.to_ascii_lowercase();
        let words = || lower.split('/').filter(|word| word.len() >= 3);
        let family = family(&lower);
        let holds = |known: &&str| words().any(|word| known.split('/').any(|it| it.contains(word)));
        near.extend(names.iter().copied().filter(|known| self::family(known) == family));
        near.extend(names.iter().copied().filter(holds));
        if near.is_empty() {
            // Nothing is near: the families then.
            near.extend(names.iter().copied().filter(|known| !known.contains('/')));
        }
        let mut once = BTreeSet::new();
        let near = near.into_iter().filter(|known| once.insert(*known));
        near.take(SUGGESTED).map(str::to_owned).collect()
    }
}

fn family(service: &str) -> &str {
    service.split('/').next().unwrap_or(service)
}

/// Reads a file of services; with a key only one that this key signed.
pub(super) fn read_file(
    path: &Path,
    key: Option<&PackKey>,
) -> Result<(Read, SourceInfo), DataFault> {
    from(path, &file::read(path)?, key)
}

/// As [`read_file`], of bytes that were read already; `path` names them.
pub(super) fn from(
    path: &Path,
    content: &Content,
    key: Option<&PackKey>,
) -> Result<(Read, SourceInfo), DataFault> {
    if let Some(key) = key {
        authentic(&content.bytes, key).map_err(|what| DataFault::whole(path, what))?;
    }
    let read = services::read(&content.bytes).map_err(|bad| DataFault::at_row(path, bad))?;
    let info = SourceInfo {
        name: shown_path(Path::new(path.file_name().unwrap_or(path.as_os_str()))),
        origin: Some(path.to_owned()),
        as_of: read.as_of.or(content.modified),
        dated_by_file: read.as_of.is_none() && content.modified.is_some(),
        rows: read.rows.len() as u64,
        licence: None,
        digest: content.digest.clone(),
        files: vec![content.stamp(path)],
    };
    Ok((read, info))
}

/// Why a file of services is not taken, or not made.
#[derive(Debug, thiserror::Error)]
enum SignedFault {
    #[error(
        "is not signed, and [data] services_key asks for a signature; fetch it from where it is \
         signed, or sign it: `schengate data build --services --sign`"
    )]
    Unsigned,
    #[error(
        "is not signed by [data] services_key, or was changed since; do not use it, and find out \
         where it came from"
    )]
    OtherKey,
    #[error("cannot be written")]
    Unwritten(#[source] io::Error),
}

fn authentic(bytes: &[u8], key: &PackKey) -> Result<(), SignedFault> {
    let line = bytes.iter().position(|&byte| byte == b'\n').ok_or(SignedFault::Unsigned)?;
    let (line, signed) = bytes.split_at_checked(line + 1).ok_or(SignedFault::Unsigned)?;
    let signature = line.strip_prefix(SIGNED.as_bytes()).ok_or(SignedFault::Unsigned)?;
    let signature = STANDARD.decode(signature.trim_ascii());
    let signature = signature.map_err(|_| SignedFault::Unsigned)?;
    let message = [CONTEXT, signed].concat();
    let verified = UnparsedPublicKey::new(&ED25519, key.bytes()).verify(&message, &signature);
    verified.map_err(|_| SignedFault::OtherKey)
}

/// Writes the services of these files into one at `out`, whole or not at all, and signs it where there
/// is a key. A row without a date of its own takes the file's.
///
/// # Errors
/// Every file that is refused, or where `out` cannot be written.
pub fn build_services(
    files: &[&Path],
    key: Option<&SigningKey>,
    out: &Path,
) -> Result<SourceInfo, Vec<DataFault>> {
    let (mut lines, mut faults) = (BTreeSet::new(), Vec::new());
    for path in files {
        match read_file(path, None) {
            Ok((read, info)) => {
                let day = |at: Timestamp| at.to_zoned(TimeZone::UTC).date();
                let dated = info.as_of.map(day).unwrap_or_default();
                lines.extend(read.rows.iter().map(|row| line(row, dated)));
            }
            Err(fault) => faults.push(fault),
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let mut text = format!("{HEADER}\n");
    lines.iter().for_each(|line| text.push_str(line));
    let first = key.map(|key| {
        let signature = key.sign(&[CONTEXT, text.as_bytes()].concat());
        format!("{SIGNED}{}\n", STANDARD.encode(signature))
    });
    let mut new = out.as_os_str().to_owned();
    new.push(".new");
    let text = format!("{}{text}", first.unwrap_or_default());
    let written = fs::write(&new, text).and_then(|()| fs::rename(&new, out));
    let one = |fault| vec![fault];
    written.map_err(|error| one(DataFault::whole(out, SignedFault::Unwritten(error))))?;
    read_file(out, None).map(|(_, info)| info).map_err(one)
}

fn line(row: &ServiceRow, dated: jiff::civil::Date) -> String {
    let mut line = format!("{},", row.service);
    // Writing to a String cannot fail.
    match &row.endpoint {
        Endpoint::Host(host) => {
            let below = if host.below { "*." } else { "" };
            write!(line, "{below}{}", host.name).unwrap_or_default();
        }
        Endpoint::Net(net) => write!(line, "{net}").unwrap_or_default(),
    }
    let usage = if row.blocks_only { "block" } else { "" };
    let source = row.source.replace('"', "\"\"");
    writeln!(line, ",{usage},\"{source}\",{}", row.as_of.unwrap_or(dated)).unwrap_or_default();
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_embedded_row_is_read_and_names_its_source_and_date() {
        let services = Services::embedded();
        assert_eq!(services.rows.len(), EMBEDDED.trim_end().lines().count() - 1);
        for (row, _) in &services.rows {
            assert!(row.source.starts_with("https://") && row.as_of.is_some(), "{row:?}");
        }
        let mail = services.named("microsoft-365/exchange").unwrap();
        assert!(mail.hosts.iter().any(|host| host.name.as_str() == "outlook.office365.com"));
        let all = services.named("microsoft-365").unwrap();
        assert!(all.hosts.len() > mail.hosts.len() && !all.nets.is_empty());
        assert!(mail.sources[0].starts_with("embedded:services of 2026-"), "{:?}", mail.sources);
    }

    #[test]
    fn a_name_that_nobody_knows_gets_those_that_are_near() {
        let services = Services::embedded();
        let near = |name: &str| services.named(name).unwrap_err();
        assert_eq!(near("microsoft-365/exchnage")[0], "microsoft-365/exchange");
        assert!(near("microsoft-365/mail").contains(&"microsoft-365/exchange".to_owned()));
        assert!(near("debian").contains(&"system-updates/debian".to_owned()));
        assert!(near("zzz").contains(&"pki".to_owned()));
        assert!(services.named("microsoft-36").is_err() && services.named("").is_err());
    }

    #[test]
    fn with_a_key_nothing_else_is_taken_than_what_it_signed() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let keys =
            ["own.pem", "stranger.pem"].map(|name| SigningKey::generate(&path(name)).unwrap());
        let public: PackKey = keys[0].public().parse().unwrap();
        let (plain, out) = (path("plain.csv"), path("out.csv"));
        let row = "a/b,*.example.eu,block,\"https://example.eu/a,b\",2026-11-30\n";
        fs::write(&plain, format!("{HEADER}\n{row}")).unwrap();
        let why = |file: &Path| match read_file(file, Some(&public)) {
            Ok((read, _)) => format!("{} rows", read.rows.len()),
            Err(fault) => fault.said(),
        };
        assert!(why(&plain).contains("is not signed"));
        build_services(&[&plain], Some(&keys[1]), &out).unwrap();
        assert!(why(&out).contains("is not signed by [data] services_key"), "{}", why(&out));
        build_services(&[&plain], Some(&keys[0]), &out).unwrap();
        assert_eq!(why(&out), "1 rows");
        let signed = fs::read(&out).unwrap();
        assert!(String::from_utf8_lossy(&signed).ends_with(row), "the same row comes out");
        for bit in 0..signed.len() * 8 {
            let mut changed = signed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            fs::write(&out, changed).unwrap();
            assert_ne!(why(&out), "1 rows", "bit {bit}");
        }
    }
}
