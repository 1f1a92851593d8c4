//! What happened: one [`Record`] for each connection (or proxy request), opened once and finished
//! once, on every path; the metrics; the lines of the record.

mod context;
mod definitions;
mod folded;
mod labels;
mod line;
pub mod live;
mod log;
mod metrics;
pub mod notice;
mod recent;
mod record;
mod refused_names;
mod sharded;
mod update;

use std::collections::HashSet;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

pub use context::{DecisionContext, Facts};
pub use labels::{Accept, Connect, DnsQuery, Dropped, Hello, LaneLoss, Limit, Probed};
pub use metrics::{Counts, Metrics};
pub use notice::Notice;
pub use recent::Happened;
pub use record::Record;
pub(crate) use refused_names::network;
pub use update::Rejudged;

use crate::evidence::{self, Shown, Sink, SinkFault};
use crate::identify::{Fault, HostName, NameSource, Protocol};
use crate::policy::Verdict;
use crate::report::distance::{Distances, Position};
use folded::Folded;
use line::{Line, key};
use log::{Kind, Log};
use recent::Recent;
use refused_names::RefusedNames;

/// How a connection came in. The label `mode` of the metrics, the field `listener` of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Ingress {
    /// TPROXY.
    Tproxy,
    /// REDIRECT.
    Redirect,
    /// Explicit proxy.
    Proxy,
    /// A question to the gateway's own name server.
    Dns,
    /// A lane: judged here, carried by the kernel.
    Lane,
}

impl Ingress {
    /// Each, in the order of the labels.
    pub const ALL: [Self; 5] = [Self::Tproxy, Self::Redirect, Self::Proxy, Self::Dns, Self::Lane];

    /// `tproxy`, `redirect`, `proxy`, `dns` or `lane`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tproxy => "tproxy",
            Self::Redirect => "redirect",
            Self::Proxy => "proxy",
            Self::Dns => "dns",
            Self::Lane => "lane",
        }
    }
}

/// How a connection ended. A closed set: the field `end` of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// Both sides closed in order, or the answer was passed on whole.
    Done,
    /// The policy, or a limit, refused it.
    Refused,
    /// No byte either way for the idle time.
    Idle,
    /// It lasted as long as a connection may.
    Lifetime,
    /// The client broke it off.
    ClientReset,
    /// The destination broke it off.
    UpstreamReset,
    /// The client left before there was a verdict.
    ClientGone,
    /// The destination refused the connect.
    ConnectRefused,
    /// The destination did not answer the connect in time.
    ConnectTimedOut,
    /// No route to the destination.
    ConnectUnreachable,
    /// The connect failed on this host.
    ConnectFailed,
    /// What the destination said is no answer to the request.
    BadAnswer,
    /// The name of an explicit request could not be resolved.
    DnsError,
    /// An explicit request that is none.
    BadRequest,
    /// Transparent, and the original destination is not known.
    NoOrigin,
    /// A later policy no longer permits it.
    PolicyChange,
    /// Somebody who may do so ended it, by the API of the admin listener.
    Killed,
    /// The gateway is stopping.
    Drained,
    /// A UDP flow that gave way to a newer one, when there were too many of unproven source.
    Displaced,
    /// A UDP flow whose client began anew, with another protocol or name; or a connection of the lane
    /// that only the proxy can read, which is reset, so that its client begins anew there. What follows
    /// is another record.
    Restarted,
    /// The destination does not go over to TLS, which its client was promised.
    NoUpgrade,
    /// A socket failed in another way.
    IoError,
    /// The task that served it ended early; set by `Drop` alone.
    Aborted,
}

impl End {
    /// The end's code.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Idle => "idle",
            Self::Lifetime => "lifetime",
            Self::ClientReset => "client-reset",
            Self::UpstreamReset => "upstream-reset",
            Self::ClientGone => "client-gone",
            Self::ConnectRefused => "connect-refused",
            Self::ConnectTimedOut => "connect-timed-out",
            Self::ConnectUnreachable => "connect-unreachable",
            Self::ConnectFailed => "connect-failed",
            Self::BadAnswer => "bad-answer",
            Self::DnsError => "dns-error",
            Self::BadRequest => "bad-request",
            Self::NoOrigin => "no-origin",
            Self::PolicyChange => "policy-change",
            Self::Killed => "killed",
            Self::Drained => "drained",
            Self::Displaced => "displaced",
            Self::Restarted => "restarted",
            Self::NoUpgrade => "no-upgrade",
            Self::IoError => "io-error",
            Self::Aborted => "aborted",
        }
    }
}

/// Which lines of connections go to the log, for people (`[log] connections`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum View {
    /// All of them.
    All,
    /// Of those that were not forwarded.
    Refused,
    /// None.
    Nothing,
}

/// The way to the metrics and the record. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Account(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    metrics: Arc<Metrics>,
    log: Log,
    /// Where the record is kept, if it is kept anywhere but in the log.
    sink: OnceLock<Sink>,
    /// How clients stand in the record and on the log; as they are where nobody said.
    clients: OnceLock<Shown>,
    /// How far countries are, where it is known where the gateway stands.
    distances: OnceLock<Distances>,
    /// A [`View`].
    view: AtomicU8,
    sources: RefusedNames,
    folded: Folded,
    /// Waivers by which something was judged, by the names of their rules.
    waivers: Mutex<HashSet<Box<str>>>,
    recent: Recent,
    /// The first part of each id, by which those of different runs differ: the milliseconds since
    /// 1970 at which the process began to keep a record.
    run: String,
    sequence: AtomicU64,
}

impl Account {
    /// Begins a record, written to `sink` (standard error, for the service) by a thread of its own.
    ///
    /// # Errors
    /// Where that thread cannot be started.
    pub fn start(sink: Box<dyn Write + Send>) -> io::Result<Self> {
        let metrics = Arc::new(Metrics::register());
        let counted = Arc::clone(&metrics);
        let log = Log::start(sink, move |kind| match kind {
            Kind::Record => counted.audit_lost(),
            Kind::Message => counted.message_lost(),
        })?;
        let run = format!("{:x}-", Timestamp::now().as_millisecond());
        Ok(Self(Arc::new(Inner {
            metrics,
            log,
            sink: OnceLock::new(),
            clients: OnceLock::new(),
            distances: OnceLock::new(),
            view: AtomicU8::new(View::All as u8),
            sources: RefusedNames::default(),
            folded: Folded::default(),
            waivers: Mutex::default(),
            recent: Recent::default(),
            run,
            sequence: AtomicU64::new(1),
        })))
    }

    /// The metrics.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Opens the record of one connection or one proxy request.
    #[must_use]
    pub fn open(&self, client: SocketAddr, ingress: Ingress) -> Record {
        Record::open(self, client, ingress)
    }

    /// Keeps the record there from now on; `false` where it is kept already.
    #[must_use]
    pub fn keep(&self, sink: Sink) -> bool {
        self.0.sink.set(sink).is_ok()
    }

    /// Has clients stand in the record and on the log like this; `false` where that was said already.
    #[must_use]
    pub fn show_clients(&self, shown: Shown) -> bool {
        self.0.clients.set(shown).is_ok()
    }

    /// The gateway stands there: what is measured is held against how far countries are; `false` where that
    /// was said already.
    #[must_use]
    pub fn stand_at(&self, position: Position) -> bool {
        self.0.distances.set(Distances::of(position)).is_ok()
    }

    /// Has the keys of pseudonyms ready that are needed now and next, and records what became of them.
    ///
    /// # Errors
    /// A key cannot be made, read or destroyed.
    pub fn prepare_clients(&self) -> Result<(), SinkFault> {
        let Some(shown) = self.0.clients.get() else { return Ok(()) };
        for change in shown.prepare(Timestamp::now())? {
            let fields = serde_json::json!({
                "key": change.id,
                "from": format!("{:.3}", change.from),
                "until": format!("{:.3}", change.until),
                "made": change.is_made,
            });
            if let serde_json::Value::Object(fields) = fields {
                self.event("client-key", &fields);
            }
        }
        Ok(())
    }

    /// Shows these lines of connections in the log from now on.
    pub fn show(&self, view: View) {
        self.0.view.store(view as u8, Ordering::Relaxed);
    }

    /// Whether a connection that begins now can be recorded, or goes on unrecorded.
    #[must_use]
    pub fn keeps(&self) -> bool {
        self.0.sink.get().is_none_or(Sink::keeps)
    }

    /// How the record fares, where it is kept anywhere but in the log.
    #[must_use]
    pub fn fares(&self) -> Option<evidence::Status> {
        let keyless = self.prepare_clients().err().map(|fault| fault.to_string());
        let sink = self.0.sink.get()?;
        if !sink.is_pressed_anywhere() {
            self.unfold(sink);
        }
        let mut status = sink.status();
        status.fault = status.fault.or(keyless);
        self.0.metrics.audit(&status);
        Some(status)
    }

    /// Records the refusals that were only counted, while there was more to record than the disk took.
    fn unfold(&self, sink: &Sink) {
        self.0.folded.take(|line, count| {
            // What finds no room is counted as lost, as many as there were.
            let fill = |buffer: &mut Vec<u8>| buffer.extend_from_slice(line);
            let _kept = sink.line_of(evidence::Kind::Other, count, || None, fill);
        });
    }

    /// Records what happened to the gateway itself; `fields` is an object of more fields.
    pub fn event(&self, event: &'static str, fields: &serde_json::Map<String, serde_json::Value>) {
        let Some(sink) = self.0.sink.get() else { return };
        let sequence = self.0.sequence.fetch_add(1, Ordering::Relaxed);
        // No connection waits for it.
        let _kept = sink.line(evidence::Kind::Other, |buffer| {
            let mut line = Line::begin(buffer);
            line.label(key!("event"), Some(event));
            line.id(key!("id"), &self.0.run, sequence);
            line.time(key!("time"), Timestamp::now());
            for (name, value) in fields {
                line.fields(
                    format!(",{}:{value}", serde_json::Value::from(name.as_str())).as_bytes(),
                );
            }
            line.end();
        });
    }

    /// Records that a waiver decided about a connection, where it is the first.
    fn waiver_used(&self, rule: &str, id: &str) {
        let mut used = self.0.waivers.lock().unwrap_or_else(PoisonError::into_inner);
        if used.contains(rule) || !used.insert(rule.into()) {
            return;
        }
        drop(used);
        let fields = [("rule", rule), ("connection", id)];
        let fields = fields.map(|(name, value)| (name.to_owned(), value.into()));
        self.event("waiver-used", &fields.into_iter().collect());
    }

    /// A waiver holds no longer: another of that name is used for the first time again.
    pub fn waiver_ended(&self, rule: &str) {
        self.0.waivers.lock().unwrap_or_else(PoisonError::into_inner).remove(rule);
    }

    /// Whether a waiver of this name has decided about a connection since the gateway began.
    #[must_use]
    pub fn waiver_is_used(&self, rule: &str) -> bool {
        self.0.waivers.lock().unwrap_or_else(PoisonError::into_inner).contains(rule)
    }

    /// The event id of a record of this run.
    #[must_use]
    pub fn id(&self, sequence: u64) -> String {
        format!("{}{sequence}", self.0.run)
    }

    /// The number of the record that an event id of this run names; `None` where it is of another one,
    /// or no event id.
    #[must_use]
    pub fn sequence(&self, id: &str) -> Option<u64> {
        id.strip_prefix(&self.0.run)?.parse().ok()
    }

    /// Takes what was decided since the last call, the oldest first, and how much of it was written
    /// over before. Refusals alone, unless somebody [watches](Account::watch). One reader at a time.
    #[must_use]
    pub fn take_recent(&self) -> (Vec<Happened>, u64) {
        self.0.recent.take()
    }

    /// Whether somebody wants to see what was let go as well.
    pub fn watch(&self, watched: bool) {
        self.0.recent.watch(watched);
    }

    /// Ends the record that is kept elsewhere than in the log: what there is is written and signed;
    /// `false` where that is not done within `limit`.
    #[must_use]
    pub fn close(&self, limit: Duration) -> bool {
        self.0.sink.get().is_none_or(|sink| {
            self.unfold(sink);
            sink.close(limit)
        })
    }

    /// The way of the process's own messages to the sink of the record, which their writer does not
    /// wait for.
    #[must_use]
    pub fn messages(&self) -> Messages {
        Messages(self.clone())
    }

    /// Waits, up to `limit`, until every line so far is written; `false` where that failed.
    #[must_use]
    pub fn flush(&self, limit: Duration) -> bool {
        self.0.log.flush(limit)
    }
}

impl Inner {
    /// What is written of a client, where that is not its address.
    fn hidden(&self, client: IpAddr) -> Option<evidence::Client> {
        let shown = self.clients.get().filter(|shown| !shown.is_plain())?;
        Some(shown.of(client))
    }

    /// Whether the line of a connection goes to the log.
    fn shows(&self, was_opened: bool) -> bool {
        let view = self.view.load(Ordering::Relaxed);
        view == View::All as u8 || view == View::Refused as u8 && !was_opened
    }
}

/// Takes messages, a whole one in each write, and never waits: one that finds no room is lost and
/// counted.
#[derive(Debug)]
pub struct Messages(Account);

impl Write for Messages {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        if !self.0.0.log.message(message) {
            self.0.metrics().message_lost();
        }
        Ok(message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes that were forwarded.
#[derive(Debug, Default)]
pub struct Bytes {
    up: AtomicU64,
    down: AtomicU64,
    /// What the counters of the process have been told of each.
    up_counted: AtomicU64,
    down_counted: AtomicU64,
    /// The number of its record and when it began, once it is opened.
    record: OnceLock<(u64, Instant)>,
    /// Intervals of which an `update` was recorded.
    updates: AtomicU32,
    /// The shortest round trip to the destination, microseconds; 0 is none. Here, where there is room
    /// for it, and not in the record, which a connection holds in its task.
    round_trip: AtomicU32,
}

impl Bytes {
    fn reached_within(&self, round_trip: Option<NonZeroU32>) {
        self.round_trip.store(round_trip.map_or(0, NonZeroU32::get), Ordering::Relaxed);
    }

    fn round_trip(&self) -> Option<u32> {
        NonZeroU32::new(self.round_trip.load(Ordering::Relaxed)).map(NonZeroU32::get)
    }

    /// They are those of an open record.
    fn opened(&self, sequence: u64, since: Instant) {
        self.record.get_or_init(|| (sequence, since));
    }

    /// The number of the record that they are of, and how long ago it began; `None` before it is
    /// forwarded.
    #[must_use]
    pub fn record(&self) -> Option<(u64, Duration)> {
        self.record.get().map(|(sequence, since)| (*sequence, since.elapsed()))
    }

    /// `count` bytes more went to the destination.
    pub fn up(&self, count: usize) {
        self.up.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// `count` bytes more went to the client.
    pub fn down(&self, count: usize) {
        self.down.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Bytes up and down since the last call, for the counters of the process.
    #[must_use]
    pub fn uncounted(&self) -> (u64, u64) {
        let since = |now: u64, counted: &AtomicU64| {
            now.saturating_sub(counted.swap(now, Ordering::Relaxed))
        };
        let (up, down) = self.totals();
        (since(up, &self.up_counted), since(down, &self.down_counted))
    }

    /// Bytes up and down so far.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        (self.up.load(Ordering::Relaxed), self.down.load(Ordering::Relaxed))
    }
}

/// A name and where it was read, in as many bytes as it has: a [`HostName`] has room for the longest
/// one, and a connection keeps its name as long as it lives, and in two places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    host: Arc<str>,
    source: NameSource,
}

impl Named {
    /// The name.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The name, shared.
    #[must_use]
    pub const fn shared(&self) -> &Arc<str> {
        &self.host
    }

    /// Where it was read.
    #[must_use]
    pub const fn source(&self) -> NameSource {
        self.source
    }
}

impl From<(HostName, NameSource)> for Named {
    fn from((host, source): (HostName, NameSource)) -> Self {
        Self { host: host.as_str().into(), source }
    }
}

/// What was judged, and what came of it: owned, since it outlives the policy that judged.
#[derive(Debug, Clone)]
pub struct Decision {
    /// The verdict.
    pub verdict: Verdict,
    /// The name and where it was read.
    pub name: Option<Named>,
    /// Whether the name belongs to the address; `None` where nobody had to ask.
    pub bound: Option<bool>,
    /// What the first bytes are.
    pub protocol: Protocol,
    /// Whether the hello carries ECH.
    pub ech: bool,
    /// Why the first bytes could not be read to their end.
    pub fault: Option<Fault>,
    /// What the verdict stands on.
    pub context: Arc<DecisionContext>,
}

impl Decision {
    /// A verdict that no policy gave: the gateway could not take the connection on.
    #[must_use]
    pub fn without_policy(verdict: Verdict) -> Self {
        Self {
            verdict,
            name: None,
            bound: None,
            protocol: Protocol::Other,
            ech: false,
            fault: None,
            context: DecisionContext::of(&Facts::default()),
        }
    }

    /// Whether a connection is let go otherwise than by another one: elsewhere, or for another reason.
    #[must_use]
    pub fn differs(&self, other: &Self) -> bool {
        let kind = |judged: &Self| {
            let verdict = &judged.verdict;
            (verdict.destination(), verdict.action(), verdict.reason(), verdict.would())
        };
        kind(self) != kind(other) || self.context.facts() != other.context.facts()
    }

    /// The same under another verdict, which no rule gave.
    #[must_use]
    pub fn overruled(&self, verdict: Verdict) -> Self {
        Self { verdict, context: self.context.without_rule(), ..self.clone() }
    }
}

/// A sink that keeps what was written, for the tests of whatever keeps a record.
#[cfg(test)]
pub(crate) mod kept {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    pub(crate) struct CapturedLog(pub(crate) Arc<Mutex<Vec<u8>>>);

    impl Write for CapturedLog {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl CapturedLog {
        /// An account that writes here.
        pub(crate) fn account(&self) -> Account {
            Account::start(Box::new(self.clone())).unwrap()
        }

        /// Every line so far.
        pub(crate) fn lines(&self, account: &Account) -> Vec<serde_json::Value> {
            assert!(account.flush(Duration::from_secs(30)));
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        }
    }

    /// Keeps the record of an account in a directory.
    pub(crate) fn keep(account: &Account, directory: &std::path::Path) {
        let settings = evidence::Settings::new(directory.to_owned());
        assert!(account.keep(Sink::start(&settings, false).unwrap()));
    }

    /// Every record of an account in its directory; it is closed with that.
    pub(crate) fn records(
        account: &Account,
        directory: &std::path::Path,
    ) -> Vec<serde_json::Value> {
        assert!(account.close(Duration::from_secs(60)));
        let segments = evidence::Segment::all(directory).unwrap();
        let records: Vec<u8> = segments.iter().flat_map(|one| one.records().unwrap()).collect();
        let read = |line| serde_json::from_slice(line).unwrap();
        let records = evidence::lines(&records).map(read);
        records.filter(|record: &serde_json::Value| record["event"] != "segment").collect()
    }

    /// Keeps the record of an account on the disk, in a directory that another sink, which is given
    /// back, holds until it is closed: nothing gets there before.
    pub(crate) fn hold(account: &Account, directory: &std::path::Path) -> Sink {
        let first = evidence::Settings::new(directory.to_owned());
        let (durability, disk_limit) = (evidence::Durability::Disk, Duration::from_secs(600));
        let durable = evidence::Settings { durability, disk_limit, ..first.clone() };
        let first = Sink::start(&first, false).unwrap();
        assert!(account.keep(Sink::start(&durable, true).unwrap()));
        first
    }

    /// Keeps the record of an account in a directory, and leaves no room in it: another sink, which is
    /// given back, holds the directory until it is closed, so that nobody takes lines away.
    pub(crate) fn fill(account: &Account, directory: &std::path::Path) -> Sink {
        let settings = evidence::Settings::new(directory.to_owned());
        let first = Sink::start(&settings, false).unwrap();
        assert!(account.keep(Sink::start(&settings, true).unwrap()));
        let much = serde_json::Map::from_iter([("cause".to_owned(), "x".repeat(40_000).into())]);
        while account.keeps() {
            account.event("reload-failed", &much);
        }
        first
    }
}

#[cfg(test)]
mod tests;
