//! What the API and the page have to ask: the policy in force, the live connections, the record.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::access::Access;
use super::health::Health;
use super::pulse::Pulse;
use crate::account::Account;
use crate::account::live::{By, Listed, Selection, Total};
use crate::control::compile::Compiler;
use crate::evidence::register::{Column, Query, Register, Row};
use crate::evidence::{Segment, lines};
use crate::policy::{Live, Policy};

/// How long a worker may take to answer.
const WORKER_TIME: Duration = Duration::from_secs(2);

/// How long a look into the record may take.
const RECORD_TIME: Duration = Duration::from_secs(5);

/// How long an answer of the register is good enough: its sums are of hours.
const REGISTER_TIME: Duration = Duration::from_secs(30);

/// Answers of the register that are kept.
const ANSWERS_MAX: usize = 16;

/// Segments of the record that are searched for an event, from the newest.
const SEGMENTS_MAX: usize = 4;

/// The live connections, as the data plane tells of them. Nothing that it serves waits for this.
pub trait Flows: fmt::Debug + Send + Sync {
    /// What is wanted, of each worker.
    fn list(&self, wanted: &Arc<Selection>) -> Vec<oneshot::Receiver<Listed>>;

    /// Bytes added up, by each worker.
    fn totals(&self, by: By) -> Vec<oneshot::Receiver<HashMap<String, Total>>>;

    /// Ends the connection of this record; the worker that had it answers `true`.
    fn kill(&self, sequence: u64) -> Vec<oneshot::Receiver<bool>>;
}

/// The policy in force.
#[derive(Debug)]
pub(super) struct InForce {
    pub(super) compiler: Arc<Compiler>,
    live: Arc<Live>,
}

impl InForce {
    /// The policy of this moment; `None` where the last one has lapsed without a successor.
    pub(super) fn policy(&self, now: Timestamp) -> Option<Arc<Policy>> {
        self.live.load(now.as_millisecond()).ok()
    }
}

/// What the admin listener answers from.
#[derive(Debug)]
pub struct Console {
    pub(super) account: Account,
    pub(super) health: Arc<Health>,
    pub(super) access: Access,
    pub(super) pulse: Pulse,
    pub(super) begun: (Instant, Timestamp),
    in_force: Mutex<Option<Arc<InForce>>>,
    flows: OnceLock<Arc<dyn Flows>>,
    audit: OnceLock<PathBuf>,
    register: tokio::sync::Mutex<Answers>,
}

/// What the register answered, and when.
type Answers = HashMap<(By, u32), (Instant, Arc<Vec<Row>>)>;

/// Why something cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Untold {
    /// The gateway is not that far yet, or stops.
    NotYet,
    /// A worker does not answer in time.
    Busy,
    /// The record, or its register, is not kept or cannot be read in time.
    NoRecord,
}

impl Console {
    pub(super) fn new(account: Account, health: Arc<Health>, access: Access) -> Self {
        Self {
            pulse: Pulse::new(account.clone()),
            account,
            health,
            access,
            begun: (Instant::now(), Timestamp::now()),
            in_force: Mutex::default(),
            flows: OnceLock::new(),
            audit: OnceLock::new(),
            register: tokio::sync::Mutex::default(),
        }
    }

    /// The data plane runs, and this is the way to ask it.
    pub fn serves(&self, flows: Arc<dyn Flows>) {
        // A data plane is started once in a process.
        drop(self.flows.set(flows));
    }

    /// The record is kept in this directory.
    pub fn records(&self, directory: PathBuf) {
        drop(self.audit.set(directory));
    }

    /// Another policy, or its tables in another form, is in force.
    pub fn in_force(&self, compiler: Arc<Compiler>, live: Arc<Live>) {
        let now = Some(Arc::new(InForce { compiler, live }));
        *self.in_force.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// Whether a record is kept on the disk.
    pub(super) fn has_record(&self) -> bool {
        self.audit.get().is_some()
    }

    pub(super) fn policy(&self) -> Result<Arc<InForce>, Untold> {
        let in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        in_force.clone().ok_or(Untold::NotYet)
    }

    fn flows(&self) -> Result<&Arc<dyn Flows>, Untold> {
        self.flows.get().ok_or(Untold::NotYet)
    }

    /// The live connections that are wanted.
    pub(super) async fn list(&self, wanted: Selection) -> Result<Listed, Untold> {
        let wanted = Arc::new(wanted);
        let mut listed = Listed::default();
        for part in heard(self.flows()?.list(&wanted)).await? {
            listed.join(part, &wanted);
        }
        Ok(listed)
    }

    /// The bytes of the live connections, added up.
    pub(super) async fn totals(&self, by: By) -> Result<HashMap<String, Total>, Untold> {
        let mut totals: HashMap<String, Total> = HashMap::new();
        for part in heard(self.flows()?.totals(by)).await? {
            for (key, total) in part {
                totals.entry(key).or_default().add(&total);
            }
        }
        Ok(totals)
    }

    /// Ends a connection, and tells whether it lived.
    pub(super) async fn kill(&self, sequence: u64) -> Result<bool, Untold> {
        Ok(heard(self.flows()?.kill(sequence)).await?.into_iter().any(|found| found))
    }

    /// The sums of the last so many hours, off the transfer register.
    pub(super) async fn register(&self, by: By, hours: u32) -> Result<Arc<Vec<Row>>, Untold> {
        let directory = self.audit.get().ok_or(Untold::NoRecord)?.clone();
        // One look at a time: others wait for it, and find its answer.
        let mut answers = self.register.lock().await;
        answers.retain(|_, (at, _)| at.elapsed() < REGISTER_TIME);
        if let Some((_, rows)) = answers.get(&(by, hours)) {
            return Ok(Arc::clone(rows));
        }
        let since = SystemTime::now() - Duration::from_secs(u64::from(hours) * 3600);
        let since = since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let from = i64::try_from(since).unwrap_or(i64::MAX);
        let column = match by {
            By::Destination => Column::Name,
            By::Country => Column::Location,
            By::Operator => Column::Operator,
            By::Group => Column::Group,
            By::Client => return Err(Untold::NoRecord),
        };
        let query = Query { from: Some(from), by: vec![column], ..Query::default() };
        let look = spawn_blocking(move || Register::read(&directory).ok()??.query(&query).ok());
        let rows = timeout(RECORD_TIME, look).await.ok().and_then(Result::ok).flatten();
        let rows = Arc::new(rows.ok_or(Untold::NoRecord)?);
        if answers.len() < ANSWERS_MAX {
            answers.insert((by, hours), (Instant::now(), Arc::clone(&rows)));
        }
        Ok(rows)
    }

    /// The last record of an event that tells a verdict, off the newest segments.
    pub(super) async fn recorded(&self, id: String) -> Result<Option<Map<String, Value>>, Untold> {
        let directory = self.audit.get().ok_or(Untold::NoRecord)?.clone();
        // One look at a time, as of the register: each reads some megabytes.
        let _one = self.register.lock().await;
        let look = move || {
            let wanted = format!("\"id\":{}", Value::from(id.as_str()));
            let segments = Segment::all(&directory).ok()?;
            for segment in segments.iter().rev().take(SEGMENTS_MAX) {
                let records = segment.records().ok()?;
                let of = |line: &&[u8]| {
                    line.windows(wanted.len()).any(|window| window == wanted.as_bytes())
                };
                let read = lines(&records)
                    .filter(of)
                    .filter_map(|line| serde_json::from_slice::<Map<String, Value>>(line).ok());
                let told = |fields: &Map<String, Value>| {
                    fields.get("id").is_some_and(|it| *it == id.as_str())
                        && fields.contains_key("verdict")
                };
                if let Some(fields) = read.filter(told).last() {
                    return Some(fields);
                }
            }
            None
        };
        let found = timeout(RECORD_TIME, spawn_blocking(look)).await;
        found.ok().and_then(Result::ok).ok_or(Untold::NoRecord)
    }
}

/// What the workers answer; one that has ended has nothing to say.
async fn heard<T>(answers: Vec<oneshot::Receiver<T>>) -> Result<Vec<T>, Untold> {
    let all = async {
        let mut heard = Vec::with_capacity(answers.len());
        for answer in answers {
            heard.extend(answer.await);
        }
        heard
    };
    timeout(WORKER_TIME, all).await.map_err(|_| Untold::Busy)
}
