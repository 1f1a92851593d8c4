//! Whether a log is what was signed: each record that was changed, taken out, put in or moved, by its
//! number and line.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use memchr::{memchr_iter, memrchr};
use serde_json::Value;

use super::checkpoint::Checkpoint;
use super::note::PublicKey;
use super::segment::{Entry, HEAD, Segment, lines};
use super::tree::{Frontier, Hash, leaf_hash};

/// How far the time of records may go back: threads hand their lines over in no order.
const STEP: Duration = Duration::from_secs(2);

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Number of the first record that is there.
    pub first: u64,
    /// Records that should be there, by the hashes.
    pub records: u64,
    /// Records under the last signed checkpoint.
    pub signed: u64,
    /// Signed checkpoints.
    pub checkpoints: u64,
    /// Segments.
    pub segments: u64,
    /// Bytes of records that were read.
    pub bytes: u64,
    /// What does not hold.
    pub findings: Vec<Finding>,
    /// What the log itself says: lost lines, a clock that was set.
    pub remarks: Vec<Finding>,
}

impl Report {
    /// Whether records are not there, or cannot be read.
    #[must_use]
    pub fn lacks_records(&self) -> bool {
        let lacks = |finding: &Finding| {
            matches!(finding.kind, Kind::Deleted | Kind::Cut | Kind::Missing | Kind::Unreadable)
        };
        self.findings.iter().any(lacks)
    }

    /// Whether the log is what was signed.
    #[must_use]
    pub const fn holds(&self) -> bool {
        self.findings.is_empty()
    }
}

/// One thing that was found, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub kind: Kind,
    /// The segment's file; empty where it is of the whole log.
    pub segment: String,
    /// Number of the record.
    pub record: u64,
    /// Line of the segment, from 1.
    pub line: Option<u64>,
    /// More about it.
    pub detail: String,
}

/// What can be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A record is not what it was.
    Edited,
    /// A record is gone.
    Deleted,
    /// A line that no record of the log is.
    Inserted,
    /// A record stands elsewhere than it did.
    Reordered,
    /// Records and hashes are gone that a checkpoint has signed.
    Cut,
    /// The log is not the one that a checkpoint has signed.
    Fork,
    /// A checkpoint is missing, changed, or not signed by the key.
    Forged,
    /// The hashes beside the records were changed; the records themselves are what was signed.
    Hashes,
    /// A whole segment is gone.
    Missing,
    /// A file cannot be read.
    Unreadable,
    /// Remark: the log says that lines were lost.
    Gap,
    /// Remark: the log says that it was cut or damaged, and went on.
    Mended,
    /// Remark: the time of records goes back.
    Clock,
    /// Remark: the log says that older segments were removed.
    Retired,
}

impl Kind {
    /// The kind's code.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Edited => "edited",
            Self::Deleted => "deleted",
            Self::Inserted => "inserted",
            Self::Reordered => "reordered",
            Self::Cut => "cut",
            Self::Fork => "fork",
            Self::Forged => "forged",
            Self::Hashes => "hashes",
            Self::Missing => "missing",
            Self::Unreadable => "unreadable",
            Self::Gap => "gap",
            Self::Mended => "mended",
            Self::Clock => "clock",
            Self::Retired => "retired",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, segment, record, line, detail } = self;
        write!(f, "{}: record {record}", kind.label())?;
        if !segment.is_empty() {
            write!(f, ", {segment}")?;
        }
        if let Some(line) = line {
            write!(f, " line {line}")?;
        }
        write!(f, ": {detail}")
    }
}

/// Verifies the log of a directory with a public key, and holds it against checkpoints that were kept
/// elsewhere.
///
/// # Errors
/// The directory cannot be read. What cannot be read in it is a finding.
pub fn verify(directory: &Path, key: &PublicKey, kept: &[Checkpoint]) -> io::Result<Report> {
    // The one in the directory is read first: records that come meanwhile are more than it has.
    let head = fs::read_to_string(directory.join(HEAD)).ok();
    let head = head.and_then(|note| Checkpoint::open(&note, key).ok());
    let mut known = kept.to_vec();
    known.extend(head.filter(|head| !kept.contains(head)));
    let mut check = Check {
        report: Report::default(),
        kept: &known,
        frontier: None,
        latest: Vec::new(),
        retired: 0,
        forked: HashSet::new(),
    };
    let mut segments = Segment::all(directory)?;
    segments.extend(Segment::gone(directory)?);
    segments.sort_by_key(|segment| segment.first);
    for segment in segments {
        check.segment(&segment, key);
    }
    Ok(check.end())
}

struct Check<'a> {
    report: Report,
    kept: &'a [Checkpoint],
    /// The tree so far.
    frontier: Option<Frontier>,
    /// The latest time of a record, as it is written; empty before the first.
    latest: Vec<u8>,
    /// The first record that the log did not remove itself.
    retired: u64,
    /// Sizes of kept checkpoints that are known to be of another log.
    forked: HashSet<u64>,
}

impl Check<'_> {
    fn find(&mut self, kind: Kind, segment: &Segment, at: (u64, Option<u64>), detail: String) {
        let (record, line) = at;
        let finding = Finding { kind, segment: segment.name(), record, line, detail };
        match kind {
            Kind::Gap | Kind::Mended | Kind::Clock | Kind::Retired => {
                self.report.remarks.push(finding);
            }
            Kind::Edited
            | Kind::Deleted
            | Kind::Inserted
            | Kind::Reordered
            | Kind::Cut
            | Kind::Fork
            | Kind::Forged
            | Kind::Hashes
            | Kind::Missing
            | Kind::Unreadable => self.report.findings.push(finding),
        }
    }

    fn segment(&mut self, segment: &Segment, key: &PublicKey) {
        let first = segment.first;
        self.report.segments += 1;
        let entries = self.entries(segment, key);
        let begins = entries.first().filter(|entry| entry.size() == first).cloned();
        let wrong = match (&self.frontier, &begins) {
            (None, None) if first > 0 => {
                let detail = "the checkpoint that the segment begins with is missing".to_owned();
                Some((Kind::Forged, first, detail))
            }
            (Some(before), _) if before.size() < first => {
                let detail = format!("the records up to {} are gone", first - 1);
                Some((Kind::Missing, before.size(), detail))
            }
            (Some(before), _) if before.size() > first => {
                let detail = format!("the segment before it goes up to {}", before.size() - 1);
                Some((Kind::Fork, first, detail))
            }
            (Some(before), Some(begins)) if before != begins => {
                let detail = "the segment does not go on from the one before it".to_owned();
                Some((Kind::Fork, first, detail))
            }
            (None | Some(_), _) => None,
        };
        if self.frontier.is_none() {
            self.report.first = first;
        }
        if let Some((kind, record, detail)) = wrong {
            self.find(kind, segment, (record, None), detail);
        }
        let before = self.frontier.take().filter(|before| before.size() == first);
        let before = begins.or(before).unwrap_or_default();
        let (own, unread) = match segment.records() {
            Ok(records) => (records, None),
            Err(fault) => (Vec::new(), Some(fault)),
        };
        let leaves = match segment.leaves() {
            Ok(leaves) => leaves,
            Err(fault) => {
                let detail = format!("the hashes beside the records: {fault}");
                self.find(Kind::Unreadable, segment, (first, None), detail);
                Vec::new()
            }
        };
        self.report.bytes += own.len() as u64;
        let hashed: Vec<Hash> = lines(&own).map(leaf_hash).collect();
        let leaves = self.held(segment, before, &entries, leaves, &hashed);
        if let Some(fault) = unread {
            // They are not known to be gone: one finding for all of them.
            let ends = self.report.records.max(first + leaves.len() as u64);
            let which = match ends.checked_sub(first) {
                None | Some(0) => "its records cannot be read".to_owned(),
                Some(1) => format!("record {first} cannot be read"),
                Some(_) => format!("records {first} to {} cannot be read", ends - 1),
            };
            let is_gone = fault.kind() == io::ErrorKind::NotFound;
            let kind = if is_gone { Kind::Missing } else { Kind::Unreadable };
            self.find(kind, segment, (first, None), format!("{which}: {fault}"));
            return;
        }
        self.compare(segment, &own, &hashed, &leaves);
        self.read(segment, &own);
    }

    /// The trees of the checkpoints of a segment that the key has signed.
    fn entries(&mut self, segment: &Segment, key: &PublicKey) -> Vec<Frontier> {
        let lines = match segment.entries() {
            Ok(lines) => lines,
            Err(fault) => {
                let detail = format!("its checkpoints: {fault}");
                self.find(Kind::Unreadable, segment, (segment.first, None), detail);
                Vec::new()
            }
        };
        let mut entries: Vec<Frontier> = Vec::new();
        for (at, line) in lines.iter().enumerate() {
            let detail = match Entry::parse(line).map(|entry| (entry.open(key), entry)) {
                Some((Ok(_), entry)) => {
                    let after = entries.last().map_or(segment.first, Frontier::size);
                    if entry.frontier.size() >= after {
                        entries.push(entry.frontier);
                        continue;
                    }
                    "the checkpoints are not in order".to_owned()
                }
                Some((Err(fault), _)) => fault.to_string(),
                None => "the line is not a checkpoint".to_owned(),
            };
            let record = entries.last().map_or(segment.first, Frontier::size);
            let detail = format!("checkpoint {}: {detail}", at + 1);
            self.find(Kind::Forged, segment, (record, None), detail);
        }
        self.report.checkpoints += entries.len() as u64;
        entries
    }

    /// Holds the hashes of a segment to its checkpoints. Where they do not hold and those of the
    /// records do, these are taken; what is left is what the records are compared with.
    fn held(
        &mut self,
        segment: &Segment,
        before: Frontier,
        entries: &[Frontier],
        mut leaves: Vec<Hash>,
        own: &[Hash],
    ) -> Vec<Hash> {
        let mut tree = before;
        for entry in entries {
            let begun = tree.size();
            let piece = |hashes: &[Hash]| -> Option<Vec<Hash>> {
                let from = usize::try_from(begun.checked_sub(segment.first)?).ok()?;
                let to = usize::try_from(entry.size().checked_sub(segment.first)?).ok()?;
                hashes.get(from..to).map(<[Hash]>::to_vec)
            };
            let grown = |piece: &[Hash]| {
                let mut grown = tree.clone();
                piece.iter().for_each(|leaf| grown.push(*leaf));
                grown
            };
            let by_leaves = piece(&leaves);
            let holds =
                |piece: &Option<Vec<Hash>>| piece.as_deref().is_some_and(|p| grown(p) == *entry);
            if holds(&by_leaves) {
                self.kept_within(segment, &tree, by_leaves.as_deref().unwrap_or_default());
            } else if let Some(by_records) =
                piece(own).filter(|own| grown(own.as_slice()) == *entry)
            {
                let detail = format!(
                    "the hashes of the records up to {} were changed; the records are as they were signed",
                    entry.size().saturating_sub(1)
                );
                self.find(Kind::Hashes, segment, (begun, None), detail);
                self.kept_within(segment, &tree, &by_records);
                let from = usize::try_from(begun - segment.first).unwrap_or(usize::MAX);
                let behind = leaves.split_off(from.min(leaves.len()));
                let behind = behind.get(by_records.len()..).unwrap_or_default().to_vec();
                leaves.extend(by_records);
                leaves.extend(behind);
            } else {
                let (kind, what) = if by_leaves.is_none() {
                    (Kind::Cut, "are gone, or their hashes are")
                } else {
                    (Kind::Fork, "are not those that were signed")
                };
                let detail =
                    format!("records from here up to {} {what}", entry.size().saturating_sub(1));
                self.find(kind, segment, (begun, None), detail);
            }
            tree = entry.clone();
            self.report.signed = self.report.signed.max(entry.size());
        }
        let from = usize::try_from(tree.size() - segment.first).unwrap_or(usize::MAX);
        let unsigned = leaves.get(from..).unwrap_or_default().to_vec();
        self.kept_within(segment, &tree, &unsigned);
        unsigned.iter().for_each(|leaf| tree.push(*leaf));
        self.report.records = tree.size();
        self.frontier = Some(tree);
        leaves
    }

    /// Compares the checkpoints that were kept elsewhere with the tree as it grows.
    fn kept_within(&mut self, segment: &Segment, tree: &Frontier, more: &[Hash]) {
        let to = tree.size() + more.len() as u64;
        let within = |kept: &&Checkpoint| kept.size >= tree.size() && kept.size <= to;
        let mut wrong = Vec::new();
        for kept in self.kept.iter().filter(within) {
            let mut then = tree.clone();
            let count = usize::try_from(kept.size - tree.size()).unwrap_or(usize::MAX);
            more.iter().take(count).for_each(|leaf| then.push(*leaf));
            if then.root() != kept.root {
                wrong.push(kept.size);
            }
        }
        for size in wrong {
            if !self.forked.insert(size) {
                continue;
            }
            let detail =
                format!("the first {size} records are not those of the checkpoint that was kept");
            self.find(Kind::Fork, segment, (size.saturating_sub(1), None), detail);
        }
    }

    /// Compares the records of a segment with their hashes.
    fn compare(&mut self, segment: &Segment, own: &[u8], hashed: &[Hash], leaves: &[Hash]) {
        let torn = own.len() - memrchr(b'\n', own).map_or(0, |end| end + 1);
        if torn > 0 {
            let at = (segment.first + hashed.len() as u64, Some(hashed.len() as u64 + 1));
            self.find(Kind::Inserted, segment, at, "the last line has no end".to_owned());
        }
        if hashed == leaves {
            return;
        }
        let number = |at: usize| segment.first + at as u64;
        let mut places: HashMap<&Hash, usize> = HashMap::with_capacity(leaves.len());
        for (at, leaf) in leaves.iter().enumerate().rev() {
            places.insert(leaf, at);
        }
        let matched: Vec<Option<usize>> =
            hashed.iter().map(|hash| places.get(hash).copied()).collect();
        let mut seen: HashSet<usize> = HashSet::new();
        let claimed: HashSet<usize> = matched.iter().flatten().copied().collect();
        let mut edited: HashSet<usize> = HashSet::new();
        let mut reached = 0;
        for (at, (line, place)) in lines(own).zip(&matched).enumerate() {
            let on_line = Some(at as u64 + 1);
            match place {
                Some(place) if !seen.insert(*place) => {
                    let detail = format!("the line is record {} once more", number(*place));
                    self.find(Kind::Inserted, segment, (number(*place), on_line), detail);
                }
                Some(place) => {
                    if *place < reached {
                        let detail = "the record stands behind later ones".to_owned();
                        self.find(Kind::Reordered, segment, (number(*place), on_line), detail);
                    }
                    reached = reached.max(*place + 1);
                }
                None => {
                    // The number that the line bears, where it is that of a record that is not there.
                    let says = says(line, "seq").and_then(|seq| seq.as_u64());
                    let says =
                        says.and_then(|seq| usize::try_from(seq.checked_sub(segment.first)?).ok());
                    let free = |place: &usize| {
                        *place < leaves.len() && !claimed.contains(place) && !edited.contains(place)
                    };
                    match says.filter(free).or_else(|| Some(reached).filter(free)) {
                        Some(place) => {
                            edited.insert(place);
                            reached = reached.max(place + 1);
                            let detail = "the record is not what it was".to_owned();
                            self.find(Kind::Edited, segment, (number(place), on_line), detail);
                        }
                        None => {
                            let detail = "the line is not a record of the log".to_owned();
                            self.find(Kind::Inserted, segment, (number(at), on_line), detail);
                        }
                    }
                }
            }
        }
        for at in (0..leaves.len()).filter(|at| !claimed.contains(at) && !edited.contains(at)) {
            self.find(Kind::Deleted, segment, (number(at), None), "the record is gone".to_owned());
        }
    }

    /// What the records say of the log, and of the clock.
    fn read(&mut self, segment: &Segment, own: &[u8]) {
        for (at, line) in lines(own).enumerate() {
            let here = (segment.first + at as u64, Some(at as u64 + 1));
            if is_own(line) {
                self.said(segment, here, line);
            }
            let Some(time) = time(line) else { continue };
            if time < self.latest.as_slice() {
                let back = instant(&self.latest).zip(instant(time));
                let back = back.map(|(latest, time)| latest.duration_since(time).unsigned_abs());
                let Some(back) = back.filter(|back| *back > STEP) else { continue };
                let detail = format!("the time goes back by {} s", back.as_secs());
                self.find(Kind::Clock, segment, here, detail);
            }
            self.latest.clear();
            self.latest.extend_from_slice(time);
        }
    }

    fn said(&mut self, segment: &Segment, at: (u64, Option<u64>), line: &[u8]) {
        let Ok(record) = serde_json::from_slice::<Value>(line) else { return };
        let cause = record["cause"].as_str().unwrap_or("no cause is given");
        match record["event"].as_str() {
            Some("gap") => {
                let detail = match record["lost"].as_u64() {
                    Some(lost) => format!("{lost} lines were lost: {cause}"),
                    None => format!("nobody knows how many lines were lost: {cause}"),
                };
                self.find(Kind::Gap, segment, at, detail);
            }
            Some("cut") => {
                let detail = "a torn line was cut off when the log went on".to_owned();
                self.find(Kind::Mended, segment, at, detail);
            }
            Some("damage") => {
                let detail = format!("record {} was not what it had been", record["record"]);
                self.find(Kind::Mended, segment, at, detail);
            }
            Some("retired") => {
                self.retired = self.retired.max(record["next"].as_u64().unwrap_or(0));
                let detail = format!(
                    "records {} to before {} were removed",
                    record["first"], record["next"]
                );
                self.find(Kind::Retired, segment, at, detail);
            }
            _ => {}
        }
    }

    fn end(mut self) -> Report {
        let size = self.report.records;
        let first = self.report.first;
        if first > self.retired {
            let detail =
                format!("the records up to {} are gone, and no record says why", first - 1);
            self.report.findings.push(whole(Kind::Missing, self.retired, detail));
        }
        for kept in self.kept {
            if kept.size > size {
                let detail = format!(
                    "the checkpoint that was kept has {} records, and the log has {size}",
                    kept.size
                );
                self.report.findings.push(whole(Kind::Cut, size, detail));
            } else if kept.size < first {
                let detail = "the checkpoint that was kept is older than what is left".to_owned();
                self.report.remarks.push(whole(Kind::Retired, kept.size, detail));
            }
        }
        self.report
    }
}

fn whole(kind: Kind, record: u64, detail: String) -> Finding {
    Finding { kind, segment: String::new(), record, line: None, detail }
}

/// Whether a record is one of the log's own. Quotation marks of a client are escaped, so that no text
/// of its can look like this.
fn is_own(line: &[u8]) -> bool {
    const KEY: &[u8] = b"\"event\":\"";
    let event = find(line, KEY).and_then(|at| line.get(at..)).unwrap_or_default();
    let own: [&[u8]; 4] = [b"gap\"", b"cut\"", b"damage\"", b"retired\""];
    own.iter().any(|own| event.starts_with(own))
}

/// The value of a field, where the line is an object.
fn says(line: &[u8], field: &str) -> Option<Value> {
    let Ok(Value::Object(mut record)) = serde_json::from_slice(line) else { return None };
    record.remove(field)
}

/// The time of a record as it is written, which is in the order of time.
fn time(line: &[u8]) -> Option<&[u8]> {
    const KEY: &[u8] = b"\"time\":\"";
    let at = find(line, KEY)?;
    line.get(at..at + "2026-01-01T00:00:00.000Z".len())
}

/// Where what follows the first `key`, which begins with a quotation mark, begins.
fn find(line: &[u8], key: &[u8]) -> Option<usize> {
    let mut marks = memchr_iter(b'"', line);
    let at = marks.find(|&at| line.get(at..).is_some_and(|rest| rest.starts_with(key)))?;
    Some(at + key.len())
}

fn instant(time: &[u8]) -> Option<Timestamp> {
    std::str::from_utf8(time).ok()?.parse().ok()
}
