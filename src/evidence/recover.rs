//! Where a log ended, after whatever end its last writer had.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use serde_json::{Value, json};

use super::note::PublicKey;
use super::ring::{Commit, Found};
use super::segment::{Entry, LEAVES, NOTES, PLAIN, Segment, lines};
use super::sink::{Left, SinkFault};
use super::tree::{Frontier, HASH_LEN, Hash, leaf_hash};
use super::writer::aside;

/// Where a log goes on.
pub(super) struct Recovered {
    /// The tree so far.
    pub(super) frontier: Frontier,
    /// What was found, as records.
    pub(super) events: Vec<Value>,
}

/// Finds the end of a log, cuts off what is torn there, and says so.
pub(super) fn recover(
    directory: &Path,
    key: &PublicKey,
    left: &[Left],
) -> Result<Recovered, SinkFault> {
    let list = |source| SinkFault::file(directory, "cannot be read")(source);
    let mut segments = Segment::all(directory).map_err(list)?;
    while let Some(last) = segments.last().filter(|last| is_unbegun(last)) {
        let path = last.path(PLAIN);
        remove(last).map_err(SinkFault::file(&path, "cannot be moved aside"))?;
        segments.pop();
    }
    // Of one that somebody took away there is nothing but what was signed: it is one that was cut.
    let gone = Segment::gone(directory).map_err(list)?;
    let behind = |gone: &&Segment| segments.last().is_none_or(|last| last.first < gone.first);
    if let Some(gone) = gone.into_iter().rev().find(|gone| behind(&gone)) {
        let path = gone.path(PLAIN);
        File::create_new(&path).map_err(SinkFault::file(&path, "cannot be made again"))?;
        segments.push(gone);
    }
    let commits = left.iter().filter(|left| left.found == Found::Left);
    let commits = commits.map(|left| left.ring.committed());
    let commit = commits.filter(Commit::is_made).max_by_key(|commit| commit.segment);
    let mut events = Vec::new();
    let Some(last) = segments.last() else {
        return Ok(Recovered { frontier: Frontier::default(), events });
    };
    let length = commit.filter(|commit| commit.segment == last.first).map(|commit| commit.length);
    let path = last.path(PLAIN);
    let frontier = last_tree(last, key, length, &mut events)
        .map_err(SinkFault::file(&path, "cannot be read or mended"))?
        .ok_or_else(|| SinkFault::Headless(path.clone()))?;
    if frontier.size() == last.first && !last.is_sealed {
        // Nothing is in it, and the next one has its name.
        remove(last).map_err(SinkFault::file(&path, "cannot be moved aside"))?;
    }
    Ok(Recovered { frontier, events })
}

/// The tree at the end of a segment, `None` where it cannot be told where it begins. `length` is how
/// much of it was committed, where a ring tells.
fn last_tree(
    segment: &Segment,
    key: &PublicKey,
    length: Option<u64>,
    events: &mut Vec<Value>,
) -> io::Result<Option<Frontier>> {
    let entries: Vec<Entry> = segment
        .entries()
        .unwrap_or_default()
        .iter()
        .filter_map(|line| Entry::parse(line).filter(|entry| entry.open(key).is_ok()))
        .collect();
    let begins = entries.first().filter(|entry| entry.frontier.size() == segment.first);
    let begins = match begins {
        Some(entry) => entry.frontier.clone(),
        None if segment.first == 0 => Frontier::default(),
        None => return Ok(None),
    };
    let mut leaves = match segment.leaves() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        leaves => leaves?,
    };
    if !segment.is_sealed {
        let own: Vec<Hash> = own_leaves(segment, length, events)?;
        for (at, (is, was)) in own.iter().zip(&leaves).enumerate() {
            if is != was {
                let record = segment.first + at as u64;
                events.push(json!({ "event": "damage", "record": record }));
            }
        }
        let signed = entries.last().map_or(0, |last| last.frontier.size());
        let signed = signed.saturating_sub(segment.first);
        let signed = usize::try_from(signed).unwrap_or(usize::MAX);
        // What no checkpoint holds, and no record is there for, was never kept.
        leaves.truncate(own.len().max(signed));
        if let Some(more) = own.get(leaves.len()..) {
            leaves.extend_from_slice(more);
        }
        let lost = leaves.len().saturating_sub(own.len());
        if lost > 0 {
            let cause = "the segment was cut";
            events.push(json!({ "event": "gap", "lost": lost, "cause": cause }));
        }
        let bytes: Vec<u8> = leaves.iter().flatten().copied().collect();
        let path = segment.path(LEAVES);
        if fs::metadata(&path).map_or(0, |file| file.len()) != (leaves.len() * HASH_LEN) as u64 {
            fs::write(&path, bytes)?;
        }
    }
    let mut frontier = begins;
    leaves.iter().for_each(|leaf| frontier.push(*leaf));
    // What was signed was there, whatever became of it.
    if let Some(last) = entries.last()
        && last.frontier.size() > frontier.size()
    {
        let lost = last.frontier.size() - frontier.size();
        events.push(json!({ "event": "gap", "lost": lost, "cause": "the segment was cut" }));
        frontier = last.frontier.clone();
    }
    Ok(Some(frontier))
}

/// The hashes of the records that are there, once what is torn or not committed is cut off.
fn own_leaves(
    segment: &Segment,
    length: Option<u64>,
    events: &mut Vec<Value>,
) -> io::Result<Vec<Hash>> {
    let bytes = segment.records()?;
    let there = bytes.len() as u64;
    // What is behind the committed length is in the ring as well, and is written once more.
    let kept = length.map_or(there, |length| there.min(length));
    let kept = bytes.get(..usize::try_from(kept).unwrap_or(usize::MAX)).unwrap_or(&bytes);
    let whole: usize = lines(kept).map(|line| line.len() + 1).sum();
    if whole < kept.len() {
        let torn = kept.len() - whole;
        events.push(json!({ "event": "cut", "segment": segment.first, "bytes": torn }));
    }
    if whole as u64 != there {
        let file = OpenOptions::new().write(true).open(segment.path(PLAIN))?;
        file.set_len(whole as u64)?;
    }
    if length.is_some_and(|length| length > there) {
        events.push(json!({ "event": "gap", "lost": Value::Null, "cause": "the segment was cut" }));
    }
    Ok(lines(kept).map(leaf_hash).collect())
}

/// Whether the machine stopped while the segment was made: its first checkpoint, which is on the disk before
/// a record is, is not there, and no record is.
fn is_unbegun(segment: &Segment) -> bool {
    let entries = segment.entries().unwrap_or_default();
    let is_empty = |bytes: io::Result<Vec<u8>>| bytes.is_ok_and(|bytes| bytes.is_empty());
    segment.first > 0
        && !segment.is_sealed
        && entries.iter().all(|line| Entry::parse(line).is_none())
        && is_empty(segment.records())
}

/// Moves a segment without records aside.
fn remove(segment: &Segment) -> io::Result<()> {
    for ending in [PLAIN, LEAVES, NOTES] {
        let path = segment.path(ending);
        if path.exists() {
            if fs::metadata(&path)?.len() == 0 { fs::remove_file(&path)? } else { aside(&path)? }
        }
    }
    Ok(())
}
