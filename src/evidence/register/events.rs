//! What happened to the gateway itself, kept beside the sums, so that whoever asks for it need not read
//! every segment: starts, reloads, tables, lines that were lost.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};
use serde_json::Value;

use super::{Register, RegisterFault};
use crate::evidence::happened::{Events, Happened, happened_from, time};
use crate::evidence::segment::Segment;

const SCHEMA: &str = include_str!("events.sql");

/// Events that say what is in force, and are kept whatever their age.
const LASTING: [&str; 5] = ["start", "stop", "reload", "reload-failed", "table"];

/// How far events are read: as far as the sums, but where an earlier version went on with these.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    /// Number of the record that is read next.
    next: u64,
    /// The time of the last record that said one.
    sign: Option<String>,
    /// Segments that could not be read when the tables were made.
    unread: u64,
}

/// What is not in the database yet.
#[derive(Debug)]
pub(super) struct Pending {
    number: u64,
    sign: Option<String>,
    record: String,
}

impl Register {
    /// Makes the tables where there are none.
    pub(super) fn make_events(database: &Connection) -> Result<(), rusqlite::Error> {
        database.execute_batch(&format!("BEGIN; {SCHEMA} COMMIT;"))
    }

    /// What a database knows of events; `None` where it has no such table.
    pub(super) fn known_events(database: &Connection) -> Result<Option<Known>, rusqlite::Error> {
        let is_there = "SELECT count(*) FROM sqlite_schema WHERE name = 'event_progress'";
        let is_there: i64 = database.query_row(is_there, [], |row| row.get(0))?;
        if is_there == 0 {
            return Ok(None);
        }
        let known = |row: &rusqlite::Row<'_>| {
            let number = |at| row.get::<_, i64>(at).map(|number: i64| number.unsigned_abs());
            Ok(Known { next: number(0)?, sign: row.get(1)?, unread: number(2)? })
        };
        let ask = "SELECT next, sign, unread FROM event_progress";
        database.query_row(ask, [], known).optional()
    }

    /// Notes a record that is of no connection; `before` is the one before it.
    pub(super) fn note_event(&mut self, line: &[u8], before: Option<&[u8]>) {
        let sign = || self.events.as_ref().and_then(|known| known.sign.clone());
        let sign = before.and_then(time).or_else(sign);
        let record = String::from_utf8_lossy(line).into_owned();
        self.new_events.push(Pending { number: self.progress.next, sign, record });
    }

    /// The last record of a part was this one.
    pub(super) fn note_sign(&mut self, line: &[u8]) {
        if let Some(known) = &mut self.events {
            known.sign = time(line).or_else(|| known.sign.take());
        }
    }

    /// Puts the events that wait into the transaction, with how far they are read.
    pub(super) fn write_events(&mut self) -> Result<(), rusqlite::Error> {
        let Some(known) = &mut self.events else { return Ok(()) };
        known.next = self.progress.next;
        let mut add = self.database.prepare("REPLACE INTO event VALUES (?, ?, ?, ?, ?)")?;
        for Pending { number, sign, record } in self.new_events.drain(..) {
            let fields: Value = serde_json::from_str(&record).unwrap_or_default();
            let (at, event) = columns(&fields);
            add.execute(params![signed(number), at, event, sign, record])?;
        }
        self.database.execute(
            "UPDATE event_progress SET next = ?, sign = ?, unread = ?",
            params![signed(known.next), known.sign, signed(known.unread)],
        )?;
        Ok(())
    }

    /// Reads what an earlier version passed over, so that events are known as far as the sums are.
    pub(super) fn catch_up(&mut self, directory: &Path) -> Result<(), RegisterFault> {
        let Some(known) = &mut self.events else { return Ok(()) };
        let next = self.progress.next;
        if known.next == next {
            return Ok(());
        }
        let fault = |source| RegisterFault::File { path: directory.to_owned(), source };
        let from = if known.next < next { known.next } else { 0 };
        let found = happened_from(directory, from..next, known.sign.take()).map_err(fault)?;
        known.unread += found.unreadable.len() as u64;
        known.sign = found.last;
        self.new_events.extend(found.all.into_iter().map(|one| Pending {
            number: one.number,
            sign: one.before,
            record: one.record.to_string(),
        }));
        self.commit().map_err(|source| self.fault(source))
    }

    /// Everything that happened to the gateway, as far as the record can be read: what the register has,
    /// and behind that the segments. `None` where it does not have all of it, and the segments have to be
    /// asked. Of those that it has read it is seen whether they can be opened, and not what is in them.
    ///
    /// # Errors
    /// The database or the directory cannot be read.
    pub fn events(&self, directory: &Path) -> Result<Option<Events>, RegisterFault> {
        let next = self.progress.next;
        let is_whole = |known: &&Known| known.next == next && known.unread == 0;
        let Some(known) = self.events.as_ref().filter(is_whole) else { return Ok(None) };
        let file = |source| RegisterFault::File { path: directory.to_owned(), source };
        let mut all = self.kept_events().map_err(|source| self.fault(source))?;
        let mut unreadable = Vec::new();
        let segments = Segment::all(directory).map_err(file)?;
        for (at, segment) in segments.iter().enumerate() {
            let is_read = segments.get(at + 1).is_some_and(|after| after.first <= next);
            if is_read && let Err(fault) = segment.opened().map(drop::<File>) {
                unreadable.push(segment.named(&fault));
            }
        }
        let behind = happened_from(directory, next..u64::MAX, known.sign.clone()).map_err(file)?;
        all.extend(behind.all);
        unreadable.extend(behind.unreadable);
        Ok(Some(Events { all, last: behind.last, unreadable }))
    }

    /// The records whose events the register should have; none where an earlier version could not read
    /// them all.
    pub(super) fn known_of_events(&self) -> Range<u64> {
        let known = self.events.as_ref().filter(|known| known.unread == 0);
        0..known.map_or(0, |known| known.next)
    }

    /// Holds the events that the register has against those that were written, of a log whose oldest
    /// record is `oldest`: of those that are not as they were written the number of the record, and
    /// whether there is one.
    pub(super) fn compare_events(
        &self,
        oldest: u64,
        written: &[Happened],
    ) -> Result<BTreeMap<u64, bool>, rusqlite::Error> {
        let mut differ = BTreeMap::new();
        if self.known_of_events().is_empty() {
            return Ok(differ);
        }
        let expired = self.expired()?.map(|before| before.saturating_mul(1000));
        let mut rows = self.event_rows()?;
        for Happened { number, record, before } in written {
            let (at, event) = columns(record);
            let is_as_written = match rows.remove(number) {
                Some(row) => {
                    // Of the oldest record that is there, the one before it is gone.
                    let has_sign = *number == oldest || row.sign == *before;
                    let text = serde_json::from_str::<Value>(&row.record);
                    has_sign
                        && row.at == at
                        && row.event == event
                        && text.is_ok_and(|it| it == *record)
                }
                None => {
                    !LASTING.contains(&event) && at.zip(expired).is_some_and(|(at, end)| at < end)
                }
            };
            if !is_as_written {
                differ.insert(*number, true);
            }
        }
        // What is left was written by nobody, or stood in a segment that was removed.
        let left = rows.into_keys().filter(|number| *number >= oldest);
        differ.extend(left.map(|number| (number, false)));
        Ok(differ)
    }

    fn event_rows(&self) -> Result<BTreeMap<u64, Row>, rusqlite::Error> {
        let mut all =
            self.database.prepare("SELECT number, time, event, sign, record FROM event")?;
        let rows = all.query_map([], |row| {
            let number: i64 = row.get(0)?;
            let (at, event, sign, record) = (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
            Ok((number.unsigned_abs(), Row { at, event, sign, record }))
        })?;
        rows.collect()
    }

    fn kept_events(&self) -> Result<Vec<Happened>, rusqlite::Error> {
        let mut all =
            self.database.prepare("SELECT number, sign, record FROM event ORDER BY number")?;
        let mut rows = all.query([])?;
        let mut events = Vec::new();
        while let Some(row) = rows.next()? {
            let (number, before): (i64, _) = (row.get(0)?, row.get(1)?);
            // What is not in the form of a record tells nothing, here as in a segment.
            if let Ok(record) = serde_json::from_str(row.get_ref(2)?.as_str()?) {
                events.push(Happened { number: number.unsigned_abs(), record, before });
            }
        }
        Ok(events)
    }

    /// Removes what happened before this second, and says nothing of what is in force.
    pub(super) fn expire_events(&self, before: i64) -> Result<(), rusqlite::Error> {
        if self.events.is_some() {
            let lasting = LASTING.map(|event| format!("'{event}'")).join(", ");
            self.database.execute(
                &format!("DELETE FROM event WHERE time < ? AND event NOT IN ({lasting})"),
                [before.saturating_mul(1000)],
            )?;
        }
        Ok(())
    }
}

/// A number as SQLite has it.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A row of an event, as the database has it.
struct Row {
    at: Option<i64>,
    event: String,
    sign: Option<String>,
    record: String,
}

/// What stands beside a record, so that it can be asked for: its time in milliseconds, and what it is.
fn columns(record: &Value) -> (Option<i64>, &str) {
    let at = record["time"].as_str().and_then(|time| time.parse::<Timestamp>().ok());
    (at.map(Timestamp::as_millisecond), record["event"].as_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;
    use crate::evidence::happened;

    const EVENTS: [&str; 8] =
        ["start", "stop", "reload", "table", "gap", "open", "close", "waiver-ended"];

    /// A log of so many segments of these events, each with its time.
    fn log(directory: &Path, segments: &[Vec<usize>]) {
        let mut number = 0;
        for events in segments {
            let mut text = String::new();
            let first = number;
            for event in events {
                let time = Timestamp::from_second(1_700_000_000 + number).unwrap();
                let (event, id) = (EVENTS[*event], format!("19a-{number}"));
                text += &serde_json::json!({
                    "seq": number, "event": event, "id": id, "time": time.to_string(),
                    "host": "\"event\":\"stop\"", "verdict": "allow", "reason": "permitted",
                })
                .to_string();
                text += "\n";
                number += 1;
            }
            fs::write(directory.join(format!("{first:020}.jsonl")), text).unwrap();
        }
    }

    fn fed(directory: &Path) -> Register {
        let (mut register, _) = Register::open(directory, 10).unwrap();
        while register.feed(directory, u64::MAX).unwrap() {}
        register
    }

    fn read(directory: &Path) -> Option<Events> {
        Register::read(directory).unwrap().unwrap().events(directory).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// However far the register has read when it is asked, it says what the segments say.
        #[test]
        fn the_register_tells_what_the_segments_tell(
            segments in prop::collection::vec(prop::collection::vec(0..EVENTS.len(), 1..12), 1..5),
            limit in 0..40_u64,
        ) {
            let dir = tempfile::tempdir().unwrap();
            log(dir.path(), &segments);
            let (mut register, _) = Register::open(dir.path(), 10).unwrap();
            while register.feed(dir.path(), limit).unwrap() {}
            prop_assert_eq!(read(dir.path()), Some(happened(dir.path()).unwrap()));
            drop(register);
            drop(fed(dir.path()));
            prop_assert_eq!(read(dir.path()), Some(happened(dir.path()).unwrap()));
        }
    }

    #[test]
    fn what_an_earlier_version_passed_over_is_read_off_the_segments() {
        let dir = tempfile::tempdir().unwrap();
        log(dir.path(), &[vec![0, 5, 3, 6], vec![2, 4, 5, 1], vec![0, 6, 7]]);
        drop(fed(dir.path()));
        let wanted = Some(happened(dir.path()).unwrap());
        let change = |sql: &str| {
            Connection::open(dir.path().join(super::super::FILE))
                .unwrap()
                .execute_batch(sql)
                .unwrap();
        };
        // It was written before there were such tables, or went on without them.
        for before in
            ["DROP TABLE event; DROP TABLE event_progress", "UPDATE event_progress SET next = 5"]
        {
            change(before);
            assert_eq!(read(dir.path()), None, "{before}");
            drop(fed(dir.path()));
            assert_eq!(read(dir.path()), wanted, "{before}");
        }
    }

    #[test]
    fn what_is_known_of_a_segment_outlives_it_and_one_that_cannot_be_opened_is_named() {
        let dir = tempfile::tempdir().unwrap();
        log(dir.path(), &[vec![0, 5, 3], vec![2, 6], vec![4]]);
        drop(fed(dir.path()));
        let wanted = happened(dir.path()).unwrap();
        let first = dir.path().join(format!("{:020}.jsonl", 0));
        fs::remove_file(&first).unwrap();
        assert_eq!(read(dir.path()).unwrap(), wanted);
        let second = dir.path().join(format!("{:020}.jsonl", 3));
        fs::remove_file(&second).unwrap();
        std::os::unix::fs::symlink("nowhere", &second).unwrap();
        let told = read(dir.path()).unwrap();
        assert_eq!(told.all, wanted.all);
        let names: Vec<_> = told.unreadable.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["00000000000000000003.jsonl"]);
    }

    #[test]
    fn with_the_hours_go_events_that_say_nothing_of_what_is_in_force() {
        let dir = tempfile::tempdir().unwrap();
        log(dir.path(), &[vec![0, 3, 4, 7, 2, 4]]);
        let mut register = fed(dir.path());
        register.expire(1_700_000_005).unwrap();
        drop(register);
        let told = read(dir.path()).unwrap();
        let left: Vec<u64> = told.all.iter().map(|one| one.number).collect();
        assert_eq!(left, [0, 1, 4, 5]);
    }
}
