//! The files of a log, and how they are read.
//!
//! A segment is three files named by the number of its first record: `.jsonl`, a record a line (once
//! it is sealed `.jsonl.zst`); `.leaves`, the hash of each record, 32 bytes each; `.notes`, a line for
//! each checkpoint. The hashes are what an edited record is told by; they are themselves held to the
//! signed roots. Each checkpoint stands beside the frontier of the tree that it signs, from which the
//! tree goes on where older segments were removed; a frontier shows by itself that it is that one.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use memchr::memchr_iter;
use serde::{Deserialize, Serialize};

use super::checkpoint::{Checkpoint, CheckpointFault, hash};
use super::happened::Unreadable;
use super::note::PublicKey;
use super::tree::{Frontier, HASH_LEN, Hash};

/// The ending of records in the clear.
pub(super) const PLAIN: &str = "jsonl";

/// The ending of sealed records.
pub(super) const SEALED: &str = "jsonl.zst";

/// The ending of hashes.
pub(super) const LEAVES: &str = "leaves";

/// The ending of checkpoints.
pub(super) const NOTES: &str = "notes";

/// The last checkpoint, in a file of its own, for whoever carries it elsewhere.
pub(super) const HEAD: &str = "head";

/// A segment, as far as its name tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The number of its first record.
    pub first: u64,
    /// Whether its records are compressed, and never change again.
    pub is_sealed: bool,
    directory: PathBuf,
}

impl Segment {
    /// The segment of this first record.
    pub(super) fn new(directory: &Path, first: u64, is_sealed: bool) -> Self {
        Self { first, is_sealed, directory: directory.to_owned() }
    }

    /// The segments of a directory, the oldest first.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn all(directory: &Path) -> io::Result<Vec<Self>> {
        Self::named_by(directory, &[PLAIN, SEALED])
    }

    /// Those of which the records are gone and something else is there, which says that there were some.
    /// What the log removes it removes from its beginning: what is older than all that is left is none.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub(super) fn gone(directory: &Path) -> io::Result<Vec<Self>> {
        let left = Self::all(directory)?;
        let oldest = left.first().map(|segment| segment.first);
        let mut gone = Self::named_by(directory, &[LEAVES, NOTES])?;
        gone.retain(|segment| {
            let is_there = left.iter().any(|one| one.first == segment.first);
            let is_removed = oldest.is_some_and(|oldest| segment.first < oldest);
            !is_there && !is_removed && segment.has_begun()
        });
        Ok(gone)
    }

    /// Whether a record was in it, by what stands beside its records: one that begins has a checkpoint of
    /// all that is before it.
    fn has_begun(&self) -> bool {
        let entries = self.entries().unwrap_or_default();
        let mut sizes = entries.iter().filter_map(|line| Some(Entry::parse(line)?.frontier.size()));
        self.leaves().is_ok_and(|leaves| !leaves.is_empty()) || sizes.any(|size| size > self.first)
    }

    /// The segments that files of these endings are of.
    fn named_by(directory: &Path, endings: &[&str]) -> io::Result<Vec<Self>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(directory)? {
            let name = entry?.file_name();
            let Some((first, ending)) = name.to_str().and_then(|name| name.split_once('.')) else {
                continue;
            };
            let is_number = first.len() == 20 && first.bytes().all(|byte| byte.is_ascii_digit());
            let Some(first) = first.parse().ok().filter(|_| is_number) else { continue };
            if endings.contains(&ending) {
                all.push(Self::new(directory, first, ending == SEALED));
            }
        }
        // Of one that was being sealed both are there: the one in the clear is whole.
        all.sort_by_key(|segment| (segment.first, segment.is_sealed));
        all.dedup_by_key(|segment| segment.first);
        Ok(all)
    }

    /// One of its files.
    #[must_use]
    pub(super) fn path(&self, ending: &str) -> PathBuf {
        self.directory.join(format!("{:020}.{ending}", self.first))
    }

    /// The file of its records, without the directory.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{:020}.{}", self.first, if self.is_sealed { SEALED } else { PLAIN })
    }

    /// Its records, as they are written, each with its line feed.
    ///
    /// # Errors
    /// They cannot be read or decompressed.
    pub fn records(&self) -> io::Result<Vec<u8>> {
        if !self.is_sealed {
            return fs::read(self.path(PLAIN));
        }
        let mut bytes = Vec::new();
        zstd::Decoder::new(File::open(self.path(SEALED))?)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Its records as a file that can be opened, whatever is in it.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(super) fn opened(&self) -> io::Result<File> {
        File::open(self.path(if self.is_sealed { SEALED } else { PLAIN }))
    }

    /// The same as [`Segment::unreadable`], with its name apart.
    pub(super) fn named(&self, fault: &io::Error) -> Unreadable {
        Unreadable { name: self.name(), told: self.unreadable(fault) }
    }

    /// What a person is told where its records cannot be read: which file, and what names the loss.
    #[must_use]
    pub fn unreadable(&self, fault: &io::Error) -> String {
        let is_there =
            !matches!(fault.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied);
        let damaged = if is_there { "damaged: " } else { "" };
        let directory = self.directory.display();
        format!(
            "{} cannot be read ({damaged}{fault}); `schengate audit verify {directory} --key PUB` \
             names what is lost",
            self.directory.join(self.name()).display()
        )
    }

    /// The hashes of its records; bytes behind the last whole one are left out.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn leaves(&self) -> io::Result<Vec<Hash>> {
        let bytes = fs::read(self.path(LEAVES))?;
        Ok(bytes.as_chunks::<HASH_LEN>().0.to_vec())
    }

    /// Its checkpoints, as they are written; a last line without its end is left out.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn entries(&self) -> io::Result<Vec<String>> {
        let text = String::from_utf8_lossy(&fs::read(self.path(NOTES))?).into_owned();
        let whole = text.rfind('\n').and_then(|end| text.get(..end)).unwrap_or_default();
        Ok(whole.lines().map(str::to_owned).collect())
    }
}

/// A checkpoint, with what the tree goes on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When it was signed, as the gateway's clock had it; nothing vouches for it.
    pub time: String,
    /// The tree that it signs.
    pub frontier: Frontier,
    /// The signed note.
    pub note: String,
}

#[derive(Serialize, Deserialize)]
struct Written {
    time: String,
    size: u64,
    frontier: Vec<String>,
    note: String,
}

impl Entry {
    /// The line that it is written as.
    pub(super) fn line(&self) -> String {
        let written = Written {
            time: self.time.clone(),
            size: self.frontier.size(),
            frontier: self.frontier.nodes().iter().map(|node| BASE64.encode(node)).collect(),
            note: self.note.clone(),
        };
        // A structure of texts and numbers always has a text.
        serde_json::to_string(&written).map(|line| line + "\n").unwrap_or_default()
    }

    /// Reads a line. What its note says is not looked at.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let Written { time, size, frontier, note } = serde_json::from_str(line).ok()?;
        let nodes = frontier.iter().map(|node| hash(node)).collect::<Option<Vec<Hash>>>()?;
        Some(Self { time, frontier: Frontier::new(size, nodes)?, note })
    }

    /// Its checkpoint, where this key has signed it and the frontier is that of its tree.
    ///
    /// # Errors
    /// What does not hold.
    pub fn open(&self, key: &PublicKey) -> Result<Checkpoint, CheckpointFault> {
        let checkpoint = Checkpoint::open(&self.note, key)?;
        let same =
            checkpoint.size == self.frontier.size() && checkpoint.root == self.frontier.root();
        if same { Ok(checkpoint) } else { Err(CheckpointFault::Form) }
    }
}

/// The lines of records, each without its line feed; what is behind the last line feed is no record.
pub fn lines(records: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut from = 0;
    memchr_iter(b'\n', records).map(move |end| {
        let line = records.get(from..end).unwrap_or_default();
        from = end + 1;
        line
    })
}
