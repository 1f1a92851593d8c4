//! The register's database: SQLite, in a file that others may read while it is written.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, params};

use super::{FILE, Flow, HOURS_MAX, Label, Names, Place, Progress, REST, Register, RegisterFault};
use crate::evidence::writer::aside;

/// What does not fit into a cache stays in memory: a gateway may make no file outside its folders.
const NO_FILES_ELSEWHERE: &str = "PRAGMA temp_store = MEMORY";

/// Adds a row to the sums of its hour, label and name.
const ADD_UP: &str = "ON CONFLICT DO UPDATE SET opened = opened + excluded.opened,
    connections = connections + excluded.connections,
    bytes_up = bytes_up + excluded.bytes_up,
    bytes_down = bytes_down + excluded.bytes_down,
    first_seen = min(first_seen, excluded.first_seen),
    last_seen = max(last_seen, excluded.last_seen),
    contradicted = contradicted + excluded.contradicted";

/// The form of the database that this program writes.
const VERSION: i64 = 1;

const SCHEMA: &str = include_str!("schema.sql");

/// What others query it by.
const VIEW: &str = include_str!("view.sql");

impl Register {
    /// The register of a log, to write to it; made anew where it cannot be read, or is not this log's.
    /// What was there is then moved aside, and the second value says why, and where to.
    ///
    /// # Errors
    /// It can be neither opened nor made.
    pub fn open(directory: &Path, most: usize) -> Result<(Self, Option<String>), RegisterFault> {
        let path = directory.join(FILE);
        let is_new = !path.exists();
        let fault = match Self::load(&path, most).and_then(|register| register.held_to(directory)) {
            Ok(mut register) => {
                register.catch_up(directory)?;
                return Ok((register, None));
            }
            Err(fault @ RegisterFault::File { .. }) => return Err(fault),
            Err(RegisterFault::Database { source, .. }) if !is_broken(&source) => {
                return Err(RegisterFault::Database { path, source });
            }
            Err(fault) => fault,
        };
        let moved = move_aside(&path);
        moved.map_err(|source| RegisterFault::File { path: path.clone(), source })?;
        let register = Self::load(&path, most)?;
        let why = (!is_new).then(|| format!("moved aside, and made anew: {fault}"));
        Ok((register, why))
    }

    /// A register in memory, of which nothing is there when it is dropped.
    ///
    /// # Errors
    /// No memory.
    pub fn in_memory(most: usize) -> Result<Self, RegisterFault> {
        let path = PathBuf::from(":memory:");
        let made = Connection::open_in_memory();
        made.and_then(|database| Self::of(database, path.clone(), most))
            .map_err(|source| RegisterFault::Database { path, source })
    }

    /// The register of a log, to read it; `None` where there is none.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(directory: &Path) -> Result<Option<Self>, RegisterFault> {
        let path = directory.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let opened = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY);
        let register = opened.and_then(|database| {
            database.busy_timeout(std::time::Duration::from_secs(10))?;
            database.execute_batch(NO_FILES_ELSEWHERE)?;
            // All that is asked is of one moment.
            database.execute_batch("BEGIN")?;
            Self::known(database, path.clone(), usize::MAX)
        });
        register.map(Some).map_err(|source| RegisterFault::Database { path, source })
    }

    fn load(path: &Path, most: usize) -> Result<Self, RegisterFault> {
        let file = |source| RegisterFault::File { path: path.to_owned(), source };
        // Its owner's alone, and so is what SQLite puts beside it.
        let made = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
        drop(made.map_err(file)?);
        let fault = |source| RegisterFault::Database { path: path.to_owned(), source };
        let database = Connection::open(path).map_err(fault)?;
        let check = |database: &Connection| -> Result<String, rusqlite::Error> {
            database.busy_timeout(std::time::Duration::from_secs(10))?;
            database.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        };
        let other = |what: String| RegisterFault::Other { path: path.to_owned(), what };
        let said = check(&database).map_err(fault)?;
        if said != "ok" {
            return Err(other(said));
        }
        let version = |row: &rusqlite::Row<'_>| row.get(0);
        let version: i64 = database.query_row("PRAGMA user_version", [], version).map_err(fault)?;
        let tables = "SELECT count(*) FROM sqlite_schema";
        let tables: i64 = database.query_row(tables, [], |row| row.get(0)).map_err(fault)?;
        match (version, tables) {
            (VERSION, _) | (0, 0) => Self::of(database, path.to_owned(), most).map_err(fault),
            _ => Err(other(format!("it is of version {version}, and not {VERSION}"))),
        }
    }

    fn of(database: Connection, path: PathBuf, most: usize) -> Result<Self, rusqlite::Error> {
        // In memory there is no such journal.
        let _mode: String =
            database.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        // The record is what has to be on the disk; the register is made from it.
        database.execute_batch("PRAGMA synchronous = NORMAL; PRAGMA secure_delete = ON")?;
        database.execute_batch(NO_FILES_ELSEWHERE)?;
        let version: i64 = database.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if version == 0 {
            database.execute_batch(&format!("BEGIN; {SCHEMA} {VIEW} COMMIT;"))?;
        } else if !has_contradicted(&database)? {
            // It was made before there was such a column; what it knows stays.
            database.execute_batch(&format!(
                "BEGIN; DROP VIEW transfer;
                 ALTER TABLE hourly ADD COLUMN contradicted INTEGER NOT NULL DEFAULT 0; {VIEW} COMMIT;"
            ))?;
        }
        Self::make_events(&database)?;
        database.execute_batch(
            "CREATE TEMP TABLE folded (label INTEGER, name TEXT, PRIMARY KEY (label, name))",
        )?;
        Self::known(database, path, most)
    }

    /// What the database knows.
    fn known(database: Connection, path: PathBuf, most: usize) -> Result<Self, rusqlite::Error> {
        let progress = database.query_row("SELECT * FROM progress", [], |row| {
            let number = |at: &str| row.get::<_, i64>(at).map(|number| number.unsigned_abs());
            let runs: String = row.get("runs")?;
            let (latest, before) = runs.split_once(' ').unwrap_or_default();
            Ok(Progress {
                began: number("began")?,
                next: number("next")?,
                segment: number("segment")?,
                position: number("position")?,
                last: number("last")?,
                hash: row.get("hash")?,
                missing: number("missing")?,
                unread: number("unread")?,
                runs: [latest.to_owned(), before.to_owned()],
            })
        })?;
        let mut labels = HashMap::new();
        {
            let mut all = database.prepare("SELECT * FROM label")?;
            let mut rows = all.query([])?;
            while let Some(row) = rows.next()? {
                let mut label = Label::default();
                for (at, part) in label.iter_mut().enumerate() {
                    *part = row.get::<_, String>(at + 1)?.into();
                }
                labels.insert(label, row.get(0)?);
            }
        }
        let mut flows = HashMap::new();
        {
            let mut all = database.prepare("SELECT * FROM flow")?;
            let mut rows = all.query([])?;
            while let Some(row) = rows.next()? {
                let number = |at| row.get::<_, i64>(at).map(|number: i64| number.unsigned_abs());
                let name = row.get::<_, String>(2)?.into();
                let flow = Flow { label: row.get(1)?, name, bytes: (number(3)?, number(4)?) };
                flows.insert(row.get(0)?, flow);
            }
        }
        let latest = database.query_row("SELECT max(hour) FROM hourly", [], |row| row.get(0))?;
        let latest: Option<i64> = latest;
        let events = Self::known_events(&database)?;
        let contradicted = if has_contradicted(&database)? { "contradicted" } else { "0" };
        Ok(Self {
            database,
            path,
            most,
            progress,
            by_number: labels
                .iter()
                .map(|(label, number)| (*number, Label::clone(label)))
                .collect(),
            labels,
            flows,
            changed: HashMap::new(),
            pending: HashMap::new(),
            events,
            new_events: Vec::new(),
            names: HashMap::new(),
            latest: latest.unwrap_or(i64::MIN),
            contradicted,
        })
    }

    /// The number of a label.
    pub(super) fn label(&mut self, label: Label) -> Result<i64, rusqlite::Error> {
        if let Some(known) = self.labels.get(&label) {
            return Ok(*known);
        }
        self.begin()?;
        let texts = rusqlite::params_from_iter(label.iter().map(|part| &**part));
        let insert = "INSERT INTO label (group_name, location, operator, law, basis, rule, verdict, \
                      reason, listener, transport) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        self.database.prepare(insert)?.execute(texts)?;
        let id = self.database.last_insert_rowid();
        self.by_number.insert(id, label.clone());
        self.labels.insert(label, id);
        Ok(id)
    }

    /// Begins a transaction where none is open: what is read off a part of the record is there whole,
    /// with how far that is, or not at all.
    fn begin(&self) -> Result<(), rusqlite::Error> {
        if self.database.is_autocommit() {
            self.database.execute_batch("BEGIN IMMEDIATE")?;
        }
        Ok(())
    }

    /// Reads the names of an hour.
    pub(super) fn learn(&mut self, hour: i64) -> Result<(), rusqlite::Error> {
        self.write_sums()?;
        if self.names.len() >= HOURS_MAX
            && let Some(oldest) = self.names.keys().min().copied()
        {
            self.names.remove(&oldest);
        }
        let mut names = Names::default();
        let select = "SELECT label, name, bytes_up + bytes_down FROM hourly WHERE hour = ?";
        let mut of_hour = self.database.prepare(select)?;
        let mut rows = of_hour.query([hour])?;
        while let Some(row) = rows.next()? {
            let (label, name): (i64, String) = (row.get(0)?, row.get(1)?);
            if name == REST {
                names.has_rest = true;
            } else if !name.is_empty() {
                let bytes: i64 = row.get(2)?;
                names.bytes.insert((label, name.into()), bytes.unsigned_abs());
            }
        }
        drop(rows);
        drop(of_hour);
        self.names.insert(hour, names);
        Ok(())
    }

    /// Sums up all but the largest names of an hour as the rest.
    pub(super) fn fold(&mut self, hour: i64) -> Result<(), rusqlite::Error> {
        // Rows that are there before anything is summed up are whole.
        self.write_sums()?;
        let most = self.most;
        let Some(names) = self.names.get_mut(&hour) else { return Ok(()) };
        let Some(more) = names.bytes.len().checked_sub(most).filter(|more| *more > 0) else {
            return Ok(());
        };
        let mut all: Vec<(u64, (i64, Box<str>))> =
            names.bytes.iter().map(|(key, bytes)| (*bytes, key.clone())).collect();
        all.sort_unstable();
        all.truncate(more);
        names.has_rest = true;
        for (_, key) in &all {
            names.bytes.remove(key);
        }
        self.begin()?;
        self.database.execute("DELETE FROM temp.folded", [])?;
        {
            let mut insert = self.database.prepare("INSERT INTO temp.folded VALUES (?, ?)")?;
            for (_, (label, name)) in &all {
                insert.execute(params![label, name])?;
            }
        }
        self.database
            .prepare(&format!(
                "INSERT INTO hourly
                 SELECT hour, label, '*', sum(opened), sum(connections), sum(bytes_up),
                        sum(bytes_down), min(first_seen), max(last_seen), 0,
                        sum(contradicted)
                 FROM hourly WHERE hour = ?1 AND (label, name) IN (SELECT label, name FROM temp.folded)
                 GROUP BY label {ADD_UP}"
            ))?
            .execute([hour])?;
        self.database
            .prepare(
                "DELETE FROM hourly
                 WHERE hour = ? AND (label, name) IN (SELECT label, name FROM temp.folded)",
            )?
            .execute([hour])?;
        Ok(())
    }

    /// Removes the hours that begin before this second; how many rows they were.
    ///
    /// # Errors
    /// The database does not take it.
    pub fn expire(&mut self, before: i64) -> Result<usize, RegisterFault> {
        let mut remove = || {
            self.write_sums()?;
            self.begin()?;
            self.database.execute_batch(
                "CREATE TABLE IF NOT EXISTS expired (
                     one INTEGER PRIMARY KEY CHECK (one = 1), before INTEGER NOT NULL) STRICT",
            )?;
            self.database.execute(
                "INSERT INTO expired VALUES (1, ?)
                 ON CONFLICT DO UPDATE SET before = max(before, excluded.before)",
                [before],
            )?;
            let gone = self.database.execute("DELETE FROM hourly WHERE hour < ?", [before])?;
            self.expire_events(before)?;
            self.names.retain(|hour, _| *hour >= before);
            self.commit()?;
            Ok(gone)
        };
        remove().map_err(|source| RegisterFault::Database { path: self.path.clone(), source })
    }

    /// Before which second hours were removed.
    pub(super) fn expired(&self) -> Result<Option<i64>, rusqlite::Error> {
        let is_there = "SELECT count(*) FROM sqlite_schema WHERE name = 'expired'";
        let is_there: i64 = self.database.query_row(is_there, [], |row| row.get(0))?;
        if is_there == 0 {
            return Ok(None);
        }
        self.database.query_row("SELECT max(before) FROM expired", [], |row| row.get(0))
    }

    /// Puts the sums that wait into the transaction.
    pub(super) fn write_sums(&mut self) -> Result<(), rusqlite::Error> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.begin()?;
        let mut add = self.database.prepare(&format!(
            "INSERT INTO hourly VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) {ADD_UP}"
        ))?;
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        for ((hour, label, name), sums) in self.pending.drain() {
            let place: Place = (hour, label, name);
            // A name that comes after others were summed up may have been one of these.
            let is_new_among_rest = self.names.get(&hour).is_some_and(|names| names.has_rest)
                && !place.2.is_empty()
                && &*place.2 != REST;
            add.execute(params![
                place.0,
                place.1,
                place.2,
                number(sums.opened),
                number(sums.connections),
                number(sums.bytes_up),
                number(sums.bytes_down),
                sums.first_seen,
                sums.last_seen,
                i64::from(is_new_among_rest),
                number(sums.contradicted),
            ])?;
        }
        Ok(())
    }

    /// Puts everything on the disk, with how far the record is read.
    ///
    /// # Errors
    /// The database does not take it; what it holds is then as it was before.
    pub(super) fn commit(&mut self) -> Result<(), rusqlite::Error> {
        self.write_sums()?;
        self.begin()?;
        self.write_events()?;
        {
            let mut put = self.database.prepare("REPLACE INTO flow VALUES (?, ?, ?, ?, ?)")?;
            let mut end = self.database.prepare("DELETE FROM flow WHERE id = ?")?;
            let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
            for (id, flow) in self.changed.drain() {
                match flow {
                    Some(Flow { label, name, bytes: (up, down) }) => {
                        put.execute(params![id, label, name, number(up), number(down)])?;
                    }
                    None => {
                        end.execute([id])?;
                    }
                }
            }
        }
        let Progress { began, next, segment, position, last, hash, missing, unread, runs } =
            &self.progress;
        let number = |number: &u64| i64::try_from(*number).unwrap_or(i64::MAX);
        self.database.execute(
            "UPDATE progress SET began = ?, next = ?, segment = ?, position = ?, last = ?, hash = ?,
                 missing = ?, unread = ?, runs = ?",
            params![
                number(began),
                number(next),
                number(segment),
                number(position),
                number(last),
                hash,
                number(missing),
                number(unread),
                runs.join(" "),
            ],
        )?;
        self.database.execute_batch("COMMIT")
    }

    pub(super) fn fault(&self, source: rusqlite::Error) -> RegisterFault {
        RegisterFault::Database { path: self.path.clone(), source }
    }

    /// The column of connections that were measured to be nearer than their location; a nought in a
    /// register that is read and was made before there was one.
    pub(super) const fn contradicted(&self) -> &'static str {
        self.contradicted
    }

    pub(super) const fn database(&self) -> &Connection {
        &self.database
    }
}

/// Whether a database knows which connections were measured to be nearer than their location.
fn has_contradicted(database: &Connection) -> Result<bool, rusqlite::Error> {
    let known = "SELECT count(*) FROM pragma_table_info('hourly') WHERE name = 'contradicted'";
    database.query_row(known, [], |row| row.get::<_, i64>(0)).map(|known| known > 0)
}

/// Whether a fault is of the database itself: of what is in it, not of the disk it is on.
pub(super) fn is_broken(fault: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    if let rusqlite::Error::SqliteFailure(cause, said) = fault {
        let is_of_content = matches!(cause.code, DatabaseCorrupt | NotADatabase);
        // A table that is not there, or another one of that name.
        let is_of_form = cause.extended_code == rusqlite::ffi::SQLITE_ERROR && said.is_some();
        return is_of_content || is_of_form;
    }
    // A value of another type than was written, or no row of progress.
    matches!(
        fault,
        rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::InvalidColumnName(..)
            | rusqlite::Error::InvalidColumnIndex(..)
            | rusqlite::Error::Utf8Error(..)
            | rusqlite::Error::QueryReturnedNoRows
    )
}

/// Moves a database aside, with what SQLite keeps beside it.
pub(super) fn move_aside(path: &Path) -> io::Result<()> {
    for ending in ["-wal", "-shm", ""] {
        let mut beside = path.as_os_str().to_owned();
        beside.push(ending);
        let beside = PathBuf::from(beside);
        if fs::symlink_metadata(&beside).is_ok() {
            aside(&beside)?;
        }
    }
    Ok(())
}
