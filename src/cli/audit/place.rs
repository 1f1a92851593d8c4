//! Where a record lies, its last checkpoint, and the key that it is verified with.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::evidence::note::PublicKey;
use crate::evidence::{Entry, Segment};

/// Where the installed service keeps its record.
pub(in crate::cli) const INSTALLED: &str = "/var/lib/schengate/audit";

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Place {
    /// The directory of the record
    #[arg(long, short, value_name = "DIR", default_value = INSTALLED)]
    directory: PathBuf,
    /// The directory of the record, as --directory
    #[arg(value_name = "DIR", conflicts_with = "directory")]
    at: Option<PathBuf>,
}

impl Place {
    /// The directory that is meant, however it was given.
    pub(in crate::cli) fn directory(&self) -> &Path {
        self.at.as_deref().unwrap_or(&self.directory)
    }
}

/// A public key as it is written, or from a file.
pub(in crate::cli) fn public_key(given: &str) -> Result<PublicKey, String> {
    let text = match fs::read_to_string(given) {
        Ok(text) => text,
        Err(_) if given.contains('+') => given.to_owned(),
        Err(fault) => return Err(format!("--key {given}: {fault}")),
    };
    PublicKey::parse(&text).map_err(|fault| format!("--key {given}: {fault}"))
}

/// The last signed checkpoint of a log.
pub(in crate::cli) fn last_entry(directory: &Path) -> io::Result<Option<Entry>> {
    for segment in Segment::all(directory)?.iter().rev() {
        let entries = segment.entries()?;
        if let Some(entry) = entries.iter().rev().find_map(|line| Entry::parse(line)) {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}
