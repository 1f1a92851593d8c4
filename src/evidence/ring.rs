//! Lines on their way to the segments, in a mapped file: a line that was put there survives the end
//! of the process, and costs neither a system call nor a wake-up. Whoever opens the file next finds
//! what the last process had not written yet.
//!
//! The file is a header and [`SHARDS`] rings of words, so that threads do not wait for each other. A
//! line is a word with its length, and its bytes. What its reader has written to a segment it commits:
//! one word turns from one of two slots to the other, so that a process that is killed in the middle
//! has committed a batch whole or not at all.
//!
//! Beside those that make it, a line of 590 bytes takes 385 instructions (`release` profile, `valgrind
//! --tool=callgrind`, 800 connections): two of them are 2.4 % of what a connection costs outside the
//! kernel.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::sys::SharedWords;

/// Rings in the file.
pub(super) const SHARDS: usize = 8;

/// The longest line, in bytes: many times the longest that is written.
const LINE_MAX: u64 = 64 * 1024;

/// Bytes of a word.
const WORD: usize = size_of::<u64>();

/// Words that are moved in one run.
const RUN: usize = 8;

/// Words of a long line of the usual kind.
const USUAL: u64 = 256;

/// The first word, by which another format is told.
const MAGIC: u64 = u64::from_le_bytes(*b"schgrng1");

/// The segment of a ring of which nothing was ever committed.
const NOWHERE: u64 = u64::MAX;

/// Words before the rings.
const HEADER: usize = 128;

/// Places of words in the header.
mod place {
    pub(super) const MAGIC: usize = 0;
    pub(super) const SHARD_WORDS: usize = 1;
    pub(super) const BOOT: usize = 2;
    pub(super) const ACTIVE: usize = 3;

    /// A slot: 8 words of how far the rings are read, then [`SEGMENT`], [`LENGTH`], [`REPORTED`].
    pub(super) const fn slot(which: u64) -> usize {
        8 + (which as usize & 1) * 16
    }
    pub(super) const SEGMENT: usize = 8;
    pub(super) const LENGTH: usize = 9;
    pub(super) const REPORTED: usize = 10;

    pub(super) const fn tail(shard: usize) -> usize {
        64 + shard * 8
    }
    pub(super) const fn lost(shard: usize) -> usize {
        tail(shard) + 1
    }
}

/// What has been written to a segment, all of it at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Commit {
    /// How far each ring is read, in words since it was made.
    pub(super) heads: [u64; SHARDS],
    /// The first record of the segment that was written to last.
    pub(super) segment: u64,
    /// Bytes of it that are whole records.
    pub(super) length: u64,
    /// Lost lines that are accounted for by a record.
    pub(super) reported: u64,
}

impl Commit {
    /// Whether anything was ever committed: a process that only waited for another wrote nothing.
    pub(super) const fn is_made(&self) -> bool {
        self.segment != NOWHERE
    }
}

/// The rings.
#[derive(Debug)]
pub(super) struct Ring {
    words: SharedWords,
    shard_words: u64,
    /// How far each ring is free again.
    free: [AtomicU64; SHARDS],
    /// Each taken by whoever puts a line into the ring, with room to make it.
    desks: [Mutex<Vec<u8>>; SHARDS],
}

/// How a ring was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// It was made now.
    New,
    /// It was left by a process that ended without closing it.
    Left,
    /// It was left before the machine stopped, and nobody can tell what of it reached the disk, or it
    /// has another form: it was emptied.
    Unreadable,
}

/// There is no room for a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

impl Ring {
    /// Maps the rings of a file, each of `shard_words` words, a power of two; `boot` tells the runs of
    /// the machine apart.
    ///
    /// # Errors
    /// No room on the disk, or a file that cannot be mapped.
    pub(super) fn open(file: &File, shard_words: u64, boot: u64) -> io::Result<(Self, Found)> {
        if !shard_words.is_power_of_two() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let is_new = file.metadata()?.len() == 0;
        let shard = usize::try_from(shard_words).map_err(|_| io::ErrorKind::InvalidInput)?;
        let words = SharedWords::map(file, HEADER + SHARDS * shard)?;
        let ring = Self { words, shard_words, free: Default::default(), desks: Default::default() };
        let head = [(place::MAGIC, MAGIC), (place::SHARD_WORDS, shard_words), (place::BOOT, boot)];
        let is_ours = head.iter().all(|&(at, value)| ring.word(at) == value);
        let found = match (is_ours, is_new) {
            (true, _) => Found::Left,
            (false, true) => Found::New,
            (false, false) => Found::Unreadable,
        };
        if !is_ours {
            (0..HEADER).for_each(|at| ring.set(at, 0));
            ring.set(place::slot(0) + place::SEGMENT, NOWHERE);
            head.iter().rev().for_each(|&(at, value)| ring.set(at, value));
        }
        let heads = ring.committed().heads;
        ring.free.iter().zip(heads).for_each(|(free, head)| free.store(head, Ordering::Release));
        Ok((ring, found))
    }

    fn word(&self, at: usize) -> u64 {
        self.words.get(at).map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn set(&self, at: usize, value: u64) {
        if let Some(word) = self.words.get(at) {
            word.store(value, Ordering::Release);
        }
    }

    /// Puts a line, which `fill` appends to a buffer, into the ring of this thread; `spare` words of
    /// it stay free. Gives the ring, and where the line ends.
    pub(super) fn put(
        &self,
        spare: u64,
        fill: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(usize, u64), Full> {
        let shard = own_shard();
        let mut desk = self.desk(shard);
        // The word with the length, then the line, then zeros up to a whole word.
        desk.clear();
        desk.extend_from_slice(&[0; WORD]);
        fill(&mut desk);
        let length = (desk.len() - WORD) as u64;
        let whole = desk.len().next_multiple_of(WORD);
        desk.resize(whole, 0);
        let (words, _) = desk.as_chunks_mut::<WORD>();
        if let Some(first) = words.first_mut() {
            *first = length.to_ne_bytes();
        }
        let need = words.len() as u64;
        let tail = self.word(place::tail(shard));
        let used = tail.wrapping_sub(self.freed(shard));
        if used + need + spare > self.shard_words || length > LINE_MAX {
            return Err(Full);
        }
        let (first, second) = self.places(shard, tail, need);
        let (before, behind) = words.split_at(first.len());
        store(first, before);
        store(second, behind);
        // Now the line is there, for this process and for the next.
        self.set(place::tail(shard), tail + need);
        Ok((shard, tail + need))
    }

    /// Whether a line of the usual length would find room in this thread's ring beside the spare.
    pub(super) fn has_room(&self, spare: u64) -> bool {
        let shard = own_shard();
        let used = self.word(place::tail(shard)).wrapping_sub(self.freed(shard));
        used + spare + USUAL <= self.shard_words
    }

    /// Whether any ring is filled up to the spare.
    pub(super) fn is_full(&self, spare: u64) -> bool {
        let used = |shard: usize| self.word(place::tail(shard)).wrapping_sub(self.freed(shard));
        (0..SHARDS).any(|shard| used(shard) + spare + USUAL > self.shard_words)
    }

    /// How far a ring was read and committed.
    pub(super) fn freed(&self, shard: usize) -> u64 {
        self.free.get(shard).map_or(0, |free| free.load(Ordering::Acquire))
    }

    /// Counts lines that are lost.
    pub(super) fn lose(&self, lines: u64) {
        let shard = own_shard();
        let _held = self.desk(shard);
        self.set(place::lost(shard), self.word(place::lost(shard)) + lines);
    }

    /// Lines that were lost, since the file was made.
    pub(super) fn lost(&self) -> u64 {
        (0..SHARDS).map(|shard| self.word(place::lost(shard))).sum()
    }

    /// How far each ring is filled.
    pub(super) fn tails(&self) -> [u64; SHARDS] {
        std::array::from_fn(|shard| self.word(place::tail(shard)))
    }

    /// Hands over the lines of a ring from `from` to `to`, until `see` has had enough; gives where
    /// the next one begins. A line that cannot be one ends the ring: `Err` with where it would begin.
    pub(super) fn read(
        &self,
        shard: usize,
        from: u64,
        to: u64,
        mut see: impl FnMut(&[u8]) -> bool,
    ) -> Result<u64, u64> {
        let (mut at, mut line) = (from, Vec::new());
        while at < to {
            let length = self.length(shard, at);
            let words = length.div_ceil(8);
            if length > LINE_MAX || at + 1 + words > to {
                return Err(at);
            }
            let (first, second) = self.places(shard, at + 1, words);
            line.resize((first.len() + second.len()) * WORD, 0);
            let (before, behind) = line.as_chunks_mut::<WORD>().0.split_at_mut(first.len());
            load(first, before);
            load(second, behind);
            line.truncate(usize::try_from(length).unwrap_or(0));
            at += 1 + words;
            if !see(&line) {
                break;
            }
        }
        Ok(at)
    }

    /// What is committed.
    pub(super) fn committed(&self) -> Commit {
        let slot = place::slot(self.word(place::ACTIVE));
        Commit {
            heads: std::array::from_fn(|shard| self.word(slot + shard)),
            segment: self.word(slot + place::SEGMENT),
            length: self.word(slot + place::LENGTH),
            reported: self.word(slot + place::REPORTED),
        }
    }

    /// Commits, and gives the room of what is committed back. One thread does this.
    pub(super) fn commit(&self, commit: &Commit) {
        let next = self.word(place::ACTIVE) ^ 1;
        let slot = place::slot(next);
        commit.heads.iter().enumerate().for_each(|(shard, head)| self.set(slot + shard, *head));
        self.set(slot + place::SEGMENT, commit.segment);
        self.set(slot + place::LENGTH, commit.length);
        self.set(slot + place::REPORTED, commit.reported);
        self.set(place::ACTIVE, next);
        for (free, head) in self.free.iter().zip(commit.heads) {
            free.store(head, Ordering::Release);
        }
    }

    /// Words from a place on, in the two pieces in which they lie.
    fn places(&self, shard: usize, at: u64, words: u64) -> (&[AtomicU64], &[AtomicU64]) {
        let size = self.shard_words as usize;
        // A mask: a ring has 2^n words.
        let begins = (at & (self.shard_words - 1)) as usize;
        let base = HEADER + shard * size;
        let ring = self.words.get(base..base + size).unwrap_or_default();
        let behind = ring.get(begins..).unwrap_or_default();
        match behind.split_at_checked(words as usize) {
            Some((piece, _)) => (piece, &[]),
            None => (behind, ring.get(..words as usize - behind.len()).unwrap_or_default()),
        }
    }

    /// The word with the length of a line.
    fn length(&self, shard: usize, at: u64) -> u64 {
        let place = self.places(shard, at, 1).0.first();
        place.map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn desk(&self, shard: usize) -> MutexGuard<'_, Vec<u8>> {
        let desk = self.desks.get(shard).unwrap_or(&self.desks[0]);
        desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stores as many words as places, in runs that the compiler unrolls: a store each and little else. It knows no wider
/// store that is atomic.
fn store(places: &[AtomicU64], words: &[[u8; WORD]]) {
    let (runs, rest) = places.as_chunks::<RUN>();
    let (word_runs, word_rest) = words.as_chunks::<RUN>();
    let one = |(place, word): (&AtomicU64, &[u8; WORD])| {
        place.store(u64::from_ne_bytes(*word), Ordering::Relaxed);
    };
    for (run, words) in runs.iter().zip(word_runs) {
        run.iter().zip(words).for_each(one);
    }
    rest.iter().zip(word_rest).for_each(one);
}

/// As [`store`], the other way.
fn load(places: &[AtomicU64], words: &mut [[u8; WORD]]) {
    let (runs, rest) = places.as_chunks::<RUN>();
    let (word_runs, word_rest) = words.as_chunks_mut::<RUN>();
    let one = |(place, word): (&AtomicU64, &mut [u8; WORD])| {
        *word = place.load(Ordering::Relaxed).to_ne_bytes();
    };
    for (run, words) in runs.iter().zip(word_runs) {
        run.iter().zip(words).for_each(one);
    }
    rest.iter().zip(word_rest).for_each(one);
}

/// The ring of this thread.
fn own_shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static SHARD: usize = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
    }
    SHARD.with(|shard| *shard)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: u64 = 64;

    fn ring(file: &File) -> Ring {
        Ring::open(file, WORDS, 7).unwrap().0
    }

    fn all(ring: &Ring) -> Vec<String> {
        let (heads, tails) = (ring.committed().heads, ring.tails());
        let mut lines = Vec::new();
        for shard in 0..SHARDS {
            let read = ring.read(shard, heads[shard], tails[shard], |line| {
                lines.push(String::from_utf8(line.to_vec()).unwrap());
                true
            });
            assert_eq!(read, Ok(tails[shard]));
        }
        lines
    }

    fn put(ring: &Ring, spare: u64, text: &str) -> bool {
        ring.put(spare, |line| line.extend_from_slice(text.as_bytes())).is_ok()
    }

    #[test]
    fn lines_are_found_by_the_next_process_until_they_are_committed() {
        let file = tempfile::tempfile().unwrap();
        // Many rounds, so that lines of every length lie across the end of the ring.
        for round in 0..300 {
            let lines: Vec<String> = (0..4).map(|n| "x".repeat((round * 3 + n * 7) % 60)).collect();
            let first = ring(&file);
            assert!(lines.iter().all(|line| put(&first, 0, line)), "round {round}");
            drop(first);
            let next = ring(&file);
            assert_eq!(all(&next), lines, "round {round}");
            let commit =
                Commit { heads: next.tails(), segment: round as u64, length: 9, reported: 2 };
            next.commit(&commit);
            assert_eq!(ring(&file).committed(), commit);
            assert!(all(&ring(&file)).is_empty());
        }
    }

    #[test]
    fn a_line_that_finds_no_room_spoils_no_other() {
        let file = tempfile::tempfile().unwrap();
        let ring = ring(&file);
        let line = "y".repeat(7 * 8);
        assert!((0..4).all(|_| put(&ring, 32, &line)));
        assert!(!put(&ring, 32, &line), "the spare room is not for everybody");
        assert!((0..4).all(|_| put(&ring, 0, &line)));
        assert!(!put(&ring, 0, &line));
        ring.lose(2);
        ring.lose(3);
        assert_eq!((ring.lost(), all(&ring).len()), (5, 8));
        assert!(!ring.has_room(0) && ring.is_full(0));
    }

    #[test]
    fn what_another_run_of_the_machine_left_is_not_read() {
        let file = tempfile::tempfile().unwrap();
        let (first, found) = Ring::open(&file, WORDS, 7).unwrap();
        assert_eq!((found, first.committed().is_made()), (Found::New, false));
        assert!(put(&first, 0, "line"));
        assert_eq!(Ring::open(&file, WORDS, 7).unwrap().1, Found::Left);
        let (other, found) = Ring::open(&file, WORDS, 8).unwrap();
        assert_eq!((found, all(&other).len()), (Found::Unreadable, 0));
        drop(other);
        assert_eq!(Ring::open(&file, WORDS, 8).unwrap().1, Found::Left);
    }
}
