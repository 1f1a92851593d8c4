//! The transfer register: what left, to where and whom, on what ground, hour by hour, in exact sums.
//!
//! It is read off the segments, and made anew from them where it is lost, so that nothing but the
//! record is evidence. What a connection moved is counted in the hour in which a record said so, under
//! what it had been judged as until then; the connection itself in the hour in which it ended.

mod database;
mod events;
mod feed;
mod hours;
pub(super) mod keep;
mod query;
mod reconcile;
mod told;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

pub use hours::Hourly;
pub use query::{Column, Query, Row};
pub use reconcile::{Difference, Metrics, Reconciled, reconcile};
pub use told::{LABELS, Label};
use told::{Stage, Told, Transfer, told};

/// The register's file.
const FILE: &str = "register.db";

/// The name under which the smaller names of an hour are summed up; no host has it.
pub const REST: &str = "*";

/// How many times as many rows with a name as are kept an hour has while it lasts.
const ROOM: usize = 4;

/// Sums that wait in memory at the most.
const PENDING_MAX: usize = 50_000;

/// Hours of which the names are known in memory.
const HOURS_MAX: usize = 4;

/// Why there is no register.
#[derive(Debug, thiserror::Error)]
pub enum RegisterFault {
    /// The database.
    #[error("{}: {source}", .path.display())]
    Database {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        source: rusqlite::Error,
    },
    /// A file of the record, or of the register.
    #[error("{}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Records of a segment, and what a person is told of them.
    #[error("{0}")]
    Segment(String),
    /// The database is sound, and not the register of this log.
    #[error("{}: {what}", .path.display())]
    Other {
        /// Its file.
        path: PathBuf,
        /// What it is instead.
        what: String,
    },
}

/// What is summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sums {
    /// Connections that were let go.
    pub opened: u64,
    /// Connections that ended, or were refused.
    pub connections: u64,
    /// Bytes to destinations.
    pub bytes_up: u64,
    /// Bytes to clients.
    pub bytes_down: u64,
    /// The first record, milliseconds since 1970.
    pub first_seen: i64,
    /// The last one.
    pub last_seen: i64,
    /// Connections of which the round trip was too short for every country of the location.
    pub contradicted: u64,
}

impl Sums {
    /// Of nothing.
    const NONE: Self = Self {
        opened: 0,
        connections: 0,
        bytes_up: 0,
        bytes_down: 0,
        first_seen: i64::MAX,
        last_seen: i64::MIN,
        contradicted: 0,
    };

    fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        self.connections += other.connections;
        self.bytes_up = self.bytes_up.saturating_add(other.bytes_up);
        self.bytes_down = self.bytes_down.saturating_add(other.bytes_down);
        self.first_seen = self.first_seen.min(other.first_seen);
        self.last_seen = self.last_seen.max(other.last_seen);
        self.contradicted += other.contradicted;
    }

    /// What one record adds, which moved so many bytes more.
    fn of(transfer: &Transfer, (up, down): (u64, u64)) -> Self {
        Self {
            opened: u64::from(transfer.stage == Stage::Open),
            connections: if transfer.stage == Stage::Final { transfer.times } else { 0 },
            bytes_up: up,
            bytes_down: down,
            first_seen: transfer.first.min(transfer.at),
            last_seen: transfer.at,
            contradicted: if transfer.is_contradicted { transfer.times } else { 0 },
        }
    }
}

/// A connection that lives, as far as it is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Flow {
    label: i64,
    name: Box<str>,
    bytes: (u64, u64),
}

/// Where sums belong: the hour, the label, the name.
type Place = (i64, i64, Box<str>);

/// The names of an hour, each under a label, by their bytes.
#[derive(Debug, Default)]
struct Names {
    bytes: HashMap<(i64, Box<str>), u64>,
    /// Smaller ones were summed up as the rest already.
    has_rest: bool,
}

/// How far the record is read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// Number of the record with which it began.
    pub began: u64,
    /// Number of the record that is read next.
    pub next: u64,
    /// The segment that was read last, by its first record, and how many bytes of it.
    segment: u64,
    position: u64,
    /// Where the last line begins, and its hash.
    last: u64,
    hash: String,
    /// Records that were gone before they were read.
    pub missing: u64,
    /// Records that could not be read.
    pub unread: u64,
    /// The run of the gateway that began last, and the one before.
    runs: [String; 2],
}

/// The register of one log.
#[derive(Debug)]
pub struct Register {
    database: Connection,
    path: PathBuf,
    /// Rows with a name that are kept of an hour.
    most: usize,
    progress: Progress,
    labels: HashMap<Label, i64>,
    by_number: HashMap<i64, Label>,
    flows: HashMap<String, Flow>,
    /// Flows of which the database knows something else.
    changed: HashMap<String, Option<Flow>>,
    pending: HashMap<Place, Sums>,
    /// How far what happened to the gateway is known; `None` where the database has no table of it.
    events: Option<events::Known>,
    /// Events that the database does not have yet.
    new_events: Vec<events::Pending>,
    names: HashMap<i64, Names>,
    /// The latest hour of a record.
    latest: i64,
    /// The column `contradicted`, or what stands for it in a register that was made before there was one.
    contradicted: &'static str,
}

/// Where the register of a log is.
#[must_use]
pub fn register_path(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

impl Register {
    /// How far the record is read.
    #[must_use]
    pub const fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Counts one record; `before` is the one before it, where that was just read.
    fn hear(&mut self, line: &[u8], before: Option<&[u8]>) -> Result<(), rusqlite::Error> {
        match told(line) {
            None => self.progress.unread += 1,
            Some(Told::Other) => self.note_event(line, before),
            Some(Told::Start(run)) => {
                self.note_event(line, before);
                self.begun(run);
            }
            Some(Told::Transfer(transfer)) => self.count(&transfer)?,
        }
        Ok(())
    }

    /// Another run of the gateway begins. Lines of the one before may still come, out of its ring; of
    /// what lived in earlier ones nothing comes any more.
    fn begun(&mut self, run: String) {
        let [latest, before] = &mut self.progress.runs;
        if *latest == run {
            return;
        }
        *before = std::mem::replace(latest, run);
        let runs = self.progress.runs.clone();
        let is_over = |id: &String| !runs.iter().any(|known| known == told::run(id));
        let over: Vec<String> = self.flows.keys().filter(|id| is_over(id)).cloned().collect();
        for id in over {
            self.flows.remove(&id);
            self.changed.insert(id, None);
        }
    }

    fn count(&mut self, transfer: &Transfer) -> Result<(), rusqlite::Error> {
        let known = self.flows.get(&transfer.id).map(|flow| (flow.label, flow.name.clone()));
        match (&transfer.label, known) {
            // Its beginning was lost: it is counted when it ends.
            (_, None) if transfer.stage == Stage::Update => Ok(()),
            (Some(label), Some((before, name))) if transfer.stage == Stage::Update => {
                // What it moved until now, it moved by the judgement before.
                self.more(transfer, before, name)?;
                let known = self.by_number.get(&before).unwrap_or(label);
                let label = self.label(transfer.relabelled(known))?;
                let name = transfer.name.clone();
                if let Some(flow) = self.flows.get_mut(&transfer.id) {
                    (flow.label, flow.name) = (label, name);
                    self.changed.insert(transfer.id.clone(), Some(flow.clone()));
                }
                Ok(())
            }
            (Some(label), _) => {
                let label = self.label(label.clone())?;
                self.more(transfer, label, transfer.name.clone())
            }
            (None, Some((label, name))) => self.more(transfer, label, name),
            (None, None) => Ok(()),
        }
    }

    /// Adds what a record says to the sums of a label and a name.
    fn more(
        &mut self,
        transfer: &Transfer,
        label: i64,
        name: Box<str>,
    ) -> Result<(), rusqlite::Error> {
        let (up, down) = self.flows.get(&transfer.id).map_or((0, 0), |flow| flow.bytes);
        let moved = (transfer.bytes.0.saturating_sub(up), transfer.bytes.1.saturating_sub(down));
        let flow = (transfer.stage != Stage::Final).then(|| Flow {
            label,
            name: name.clone(),
            bytes: (transfer.bytes.0.max(up), transfer.bytes.1.max(down)),
        });
        match &flow {
            Some(flow) => drop(self.flows.insert(transfer.id.clone(), flow.clone())),
            None => drop(self.flows.remove(&transfer.id)),
        }
        self.changed.insert(transfer.id.clone(), flow);
        let hour = transfer.hour();
        let name = self.placed(hour, label, name, moved.0.saturating_add(moved.1))?;
        let place = (hour, label, name);
        let sums = Sums::of(transfer, moved);
        self.pending.entry(place).or_insert(Sums::NONE).add(&sums);
        Ok(())
    }

    /// The name under which something is counted: its own, or that of the rest.
    fn placed(
        &mut self,
        hour: i64,
        label: i64,
        name: Box<str>,
        bytes: u64,
    ) -> Result<Box<str>, rusqlite::Error> {
        if name.is_empty() {
            return Ok(name);
        }
        if !self.names.contains_key(&hour) {
            self.learn(hour)?;
        }
        if hour > self.latest {
            let before = std::mem::replace(&mut self.latest, hour);
            // What comes late finds no more room than what is kept.
            if self.names.contains_key(&before) {
                self.fold(before)?;
            }
        }
        let (latest, most) = (self.latest, self.most);
        let names = self.names.entry(hour).or_default();
        let key = (label, name);
        if let Some(sum) = names.bytes.get_mut(&key) {
            *sum = sum.saturating_add(bytes);
            return Ok(key.1);
        }
        if hour < latest && names.bytes.len() >= most {
            names.has_rest = true;
            return Ok(REST.into());
        }
        names.bytes.insert(key.clone(), bytes);
        if names.bytes.len() > most.saturating_mul(ROOM) {
            self.fold(hour)?;
        }
        // It may have been among the smallest itself.
        let names = self.names.get(&hour);
        let is_kept = names.is_some_and(|names| names.bytes.contains_key(&key));
        Ok(if is_kept { key.1 } else { REST.into() })
    }
}
