//! How the register reads the segments: from where it stopped, a part at a time.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use super::{PENDING_MAX, Register, RegisterFault};
use crate::evidence::segment::{PLAIN, SEALED, Segment};
use crate::evidence::tree::leaf_hash;

/// Records that are read before what they add is put on the disk.
const PART: u64 = 200_000;

/// Bytes that are read at once.
const ROOM: usize = 256 * 1024;

impl Register {
    /// Reads records that are below `limit` and were not read yet, a part of them at a time; `false`
    /// where there are none.
    ///
    /// # Errors
    /// The record cannot be read, or the database does not take what is in it. The register is then to
    /// be opened again.
    pub fn feed(&mut self, directory: &Path, limit: u64) -> Result<bool, RegisterFault> {
        let fault = |source| RegisterFault::File { path: directory.to_owned(), source };
        if self.progress.next >= limit {
            return Ok(false);
        }
        let segments = Segment::all(directory).map_err(fault)?;
        let next = self.progress.next;
        let holds = segments.iter().rposition(|segment| segment.first <= next);
        let Some(segment) = holds.map_or_else(|| segments.first(), |at| segments.get(at)) else {
            return Ok(false);
        };
        // What is gone before it was read, with its segments or out of the last one.
        if segment.first > next {
            self.skip(segment.first);
        }
        let file = |fault: io::Error| RegisterFault::Segment(segment.unreadable(&fault));
        if self.progress.segment != segment.first {
            self.progress.segment = segment.first;
            self.progress.position = 0;
        }
        let mut begun = reader(segment, directory, self.progress.position).map_err(file)?;
        let after = segments.iter().map(|after| after.first).find(|after| *after > segment.first);
        // What stands in a segment behind its last record is no record.
        let limit = limit.min(after.unwrap_or(limit));
        let (mut line, mut next_line) = (Vec::new(), Vec::new());
        let mut count = 0;
        while count < PART && self.progress.next < limit {
            let Some(length) = read_line(&mut *begun, &mut next_line).map_err(file)? else { break };
            std::mem::swap(&mut line, &mut next_line);
            let before = (count > 0).then_some(next_line.as_slice());
            self.hear(&line, before).map_err(|source| self.fault(source))?;
            self.progress.last = self.progress.position;
            self.progress.position += length;
            self.progress.next += 1;
            count += 1;
            if self.pending.len() >= PENDING_MAX {
                self.write_sums().map_err(|source| self.fault(source))?;
            }
        }
        if count > 0 {
            self.progress.hash = hash(&line);
            self.note_sign(&line);
        } else if let Some(after) = after {
            // The segment ends before the next one begins.
            self.skip(after);
        } else {
            return Ok(false);
        }
        self.commit().map_err(|source| self.fault(source))?;
        Ok(true)
    }

    /// Goes on from a later record; what is between is missing.
    fn skip(&mut self, to: u64) {
        if self.progress.next == 0 && self.progress.hash.is_empty() {
            self.progress.began = to;
        } else {
            self.progress.missing += to - self.progress.next;
        }
        self.progress.next = to;
    }

    /// The register, where the record that it read last is still what it was.
    pub(super) fn held_to(self, directory: &Path) -> Result<Self, RegisterFault> {
        let progress = &self.progress;
        if progress.hash.is_empty() {
            return Ok(self);
        }
        let fault = |source| RegisterFault::File { path: directory.to_owned(), source };
        let segments = Segment::all(directory).map_err(fault)?;
        let Some(segment) = segments.iter().find(|one| one.first == progress.segment) else {
            let oldest = segments.first().map_or(0, |segment| segment.first);
            // It was removed, as the policy says, and nothing can be compared.
            if oldest > progress.segment {
                return Ok(self);
            }
            let what = "the segment that it read last is not in the record".to_owned();
            return Err(RegisterFault::Other { path: self.path, what });
        };
        let last = reader(segment, directory, progress.last).and_then(|mut begun| {
            let mut line = Vec::new();
            let is_there = read_line(&mut *begun, &mut line)?.is_some();
            Ok(is_there && hash(&line) == progress.hash)
        });
        // What cannot be read is found again where it is read.
        if last.unwrap_or(true) {
            return Ok(self);
        }
        let what = "the record that it read last is another one".to_owned();
        Err(RegisterFault::Other { path: self.path, what })
    }
}

/// The records of a segment behind so many bytes.
fn reader(segment: &Segment, directory: &Path, position: u64) -> io::Result<Box<dyn BufRead>> {
    let path = |ending| directory.join(format!("{:020}.{ending}", segment.first));
    let plain = if segment.is_sealed { None } else { Some(File::open(path(PLAIN))) };
    match plain {
        Some(Ok(mut file)) => {
            file.seek(SeekFrom::Start(position))?;
            Ok(Box::new(BufReader::with_capacity(ROOM, file)))
        }
        // It may have been sealed in between.
        Some(Err(fault)) if fault.kind() != io::ErrorKind::NotFound => Err(fault),
        Some(Err(_)) | None => {
            let mut reader =
                BufReader::with_capacity(ROOM, zstd::Decoder::new(File::open(path(SEALED))?)?);
            io::copy(&mut (&mut reader).take(position), &mut io::sink())?;
            Ok(Box::new(reader))
        }
    }
}

/// Reads a line without its line feed, and how many bytes it takes; `None` where no whole one is left.
fn read_line(from: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<Option<u64>> {
    line.clear();
    let length = from.read_until(b'\n', line)?;
    if line.pop_if(|last| *last == b'\n').is_none() {
        return Ok(None);
    }
    Ok(Some(length as u64))
}

/// The hash of a record, in hexadecimal digits.
fn hash(line: &[u8]) -> String {
    leaf_hash(line).iter().map(|byte| format!("{byte:02x}")).collect()
}
