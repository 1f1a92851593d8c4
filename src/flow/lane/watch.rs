//! Watches what the kernel carries, on a thread of its own: hears which connections have ended, asks for
//! the counters of those that live, and has the kernel carry them only as long as every worker lives.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

use crate::account::{Account, LaneLoss};
use crate::settings::{Lane, OnDeath};
use crate::sys::{ConnectionCounting, Conntrack, ConntrackEnds, FlowKey, Heard, MarkSet, Tracked};

/// How long the kernel carries what bears the mark of this process once nobody asks it to; and what
/// becomes of it when the process ends is what comes of this.
const KEPT: Duration = Duration::from_millis(600);

/// Time between two times that it is asked to.
const KEEP_EVERY: Duration = Duration::from_millis(150);

/// A worker that has said nothing for so long does not live. With [`KEPT`] less than a second.
const SILENT: Duration = Duration::from_millis(350);

/// Time between two lists of the kernel: how far the sums of live flows are behind.
const LIST_EVERY: Duration = Duration::from_secs(20);

/// The same once messages were lost.
const LIST_AGAIN: Duration = Duration::from_secs(2);

/// Time in which the flows of earlier processes are taken over.
const TAKE_OVER: Duration = Duration::from_secs(2);

/// A sign of life of a worker, and whether its part of the lane still works.
#[derive(Debug)]
pub(in crate::flow) struct Pulse {
    begun: Instant,
    /// Milliseconds since `begun`.
    last: AtomicU64,
    failed: AtomicBool,
    failure: Notify,
    /// The kernel counts what it carries.
    counts: AtomicBool,
}

impl Default for Pulse {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            last: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            failure: Notify::new(),
            counts: AtomicBool::new(false),
        }
    }
}

impl Pulse {
    pub(super) fn lives_on(&self) {
        self.last.store(self.since_begun(), Ordering::Relaxed);
    }

    /// This worker cannot do its part any more.
    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
        self.failure.notify_one();
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Waits until it has failed; one task may.
    pub(super) fn failed_later(self: &Arc<Self>) -> impl Future<Output = io::Error> + use<> {
        let pulse = Arc::clone(self);
        async move {
            pulse.failure.notified().await;
            io::Error::other("the kernel's connections cannot be marked")
        }
    }

    /// Whether what is let go now is counted by the kernel.
    pub(super) fn may_carry(&self) -> bool {
        self.counts.load(Ordering::Relaxed)
    }

    fn lives(&self) -> bool {
        let silent = self.since_begun().saturating_sub(self.last.load(Ordering::Relaxed));
        !self.has_failed() && u128::from(silent) < SILENT.as_millis()
    }

    fn since_begun(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// What a worker is told of the kernel's connections.
#[derive(Debug, Clone)]
pub(super) enum Told {
    /// These have ended.
    Ended(Arc<Vec<Tracked>>),
    /// All that live, with their counters, as asked for at this moment.
    Listed(Arc<HashMap<FlowKey, Option<[u64; 2]>>>, Instant),
    /// One that an earlier process let go.
    Found(Tracked),
}

/// The thread that watches; it ends when this is dropped, and with it what is carried, unless the
/// policy says that it goes on.
#[derive(Debug)]
pub(in crate::flow) struct Watching {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watching {
    /// Whether it still watches.
    pub(in crate::flow) fn lives(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the watch over the lane ended in a panic");
        }
    }
}

/// A connection mark that no connection bears: this process's own.
///
/// # Errors
/// Without CAP_NET_ADMIN, or where the kernel cannot be asked.
pub(super) fn new_mark() -> io::Result<u32> {
    let borne = Conntrack::open()?.list(Lane::MARK, Lane::MARK_MASK)?;
    let borne: HashSet<u32> = borne.iter().map(|tracked| tracked.mark).collect();
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seconds = seconds.map_or(0, |since| since.as_secs());
    let from = seconds ^ (u64::from(std::process::id()) << 3);
    let mut marks =
        (0..0x2000).map(|step| Lane::carried((from.wrapping_add(step) & 0x1fff) as u16));
    marks.find(|mark| !borne.contains(mark)).ok_or_else(|| {
        io::Error::other("every mark is borne by a connection of an earlier process")
    })
}

type Worker = (UnboundedSender<Told>, Arc<Pulse>);

pub(super) struct Watch {
    mark: u32,
    on_death: OnDeath,
    workers: Vec<Worker>,
    account: Account,
    connections: Conntrack,
    forgotten: ConntrackEnds,
    counting: ConnectionCounting,
    set: MarkSet,
    /// What was last said of the kernel, so that it is said once.
    said: String,
    told_stopped: bool,
    begun: Instant,
    /// The marks of earlier processes are out of the set.
    alone: bool,
}

impl Watch {
    /// Begins to watch what bears `mark`.
    ///
    /// # Errors
    /// The kernel tells nothing, or no thread is to be had.
    pub(super) fn start(
        lane: &Lane,
        mark: u32,
        workers: Vec<Worker>,
        account: Account,
    ) -> io::Result<Watching> {
        let watch = Self {
            mark,
            on_death: lane.on_death,
            workers,
            account,
            connections: Conntrack::open()?,
            forgotten: ConntrackEnds::subscribe()?,
            counting: ConnectionCounting::find()?,
            set: MarkSet::open(Lane::TABLE, Lane::CARRIED_SET)?,
            said: String::new(),
            told_stopped: false,
            begun: Instant::now(),
            alone: false,
        };
        let ends = Arc::<AtomicBool>::default();
        let told = Arc::clone(&ends);
        let work = move || watch.run(&told);
        let thread = Some(thread::Builder::new().name("lane".into()).spawn(work)?);
        Ok(Watching { ends, thread })
    }

    fn run(mut self, ends: &AtomicBool) {
        self.see_counting();
        self.take_over();
        let (mut keep, mut list) = (Instant::now(), Instant::now() + LIST_EVERY);
        while !ends.load(Ordering::Relaxed) {
            let mut ended = Vec::new();
            let see = |tracked: Tracked| {
                if tracked.mark & Lane::MARK_MASK == Lane::MARK && tracked.mark != Lane::PROXIED {
                    ended.push(tracked);
                }
            };
            let left = keep.saturating_duration_since(Instant::now());
            match self.forgotten.wait(left, see) {
                Ok(Heard::All) => {}
                Ok(Heard::Lost) => {
                    self.account.metrics().lane_lost(LaneLoss::Ends);
                    self.list();
                    list = Instant::now() + LIST_AGAIN;
                }
                Err(fault) => {
                    tracing::error!(%fault, "the kernel does not tell which connections end");
                    break;
                }
            }
            if !ended.is_empty() {
                self.tell(&Told::Ended(Arc::new(ended)));
            }
            let now = Instant::now();
            if now >= list {
                self.list();
                list = now + LIST_EVERY;
            }
            if now >= keep {
                self.keep();
                keep = now + KEEP_EVERY;
            }
        }
        if self.on_death == OnDeath::Halt {
            // Where there is no table, nothing is carried.
            self.set.remove(self.mark).ok();
        }
    }

    fn tell(&self, told: &Told) {
        for (worker, _) in &self.workers {
            // A worker that is gone has no flows.
            worker.send(told.clone()).ok();
        }
    }

    /// What earlier processes let go: taken over where the policy says that it goes on, else stopped.
    fn take_over(&mut self) {
        let found = match self.connections.list(Lane::MARK, Lane::MARK_MASK) {
            Ok(found) => found,
            Err(fault) => return tracing::error!(%fault, "the kernel's connections are not seen"),
        };
        let ours = [self.mark, Lane::PROXIED, Lane::REFUSED, Lane::HELD];
        let found: Vec<Tracked> =
            found.into_iter().filter(|tracked| !ours.contains(&tracked.mark)).collect();
        match self.on_death {
            OnDeath::Carry => {
                for (tracked, (worker, _)) in found.iter().zip(self.workers.iter().cycle()) {
                    worker.send(Told::Found(*tracked)).ok();
                }
            }
            OnDeath::Halt => {
                let keys: Vec<FlowKey> = found.iter().map(|tracked| tracked.key).collect();
                // Those that keep their mark are dropped all the same: it is in no set.
                if let Err(fault) = self.connections.mark(&keys, Lane::REFUSED, None) {
                    tracing::warn!(%fault, "flows of an earlier process are dropped and not reset");
                }
            }
        }
        if !found.is_empty() {
            let (flows, then) = (found.len(), self.on_death.label());
            tracing::info!(flows, then, "flows of an earlier process are there");
        }
    }

    fn list(&mut self) {
        let at = Instant::now();
        match self.connections.list(self.mark, u32::MAX) {
            Ok(found) => {
                let listed: HashMap<_, _> = found.iter().map(|it| (it.key, it.bytes)).collect();
                self.tell(&Told::Listed(Arc::new(listed), at));
            }
            Err(fault) => {
                self.account.metrics().lane_lost(LaneLoss::Ends);
                tracing::warn!(%fault, "the kernel's connections are not seen");
                self.connections = match Conntrack::open() {
                    Ok(connections) => connections,
                    Err(fault) => return tracing::error!(%fault, "no way to the kernel"),
                };
            }
        }
    }

    /// Whether the kernel counts what it carries; the workers are told.
    fn see_counting(&self) -> bool {
        let counts = self.counting.is_on();
        for (_, pulse) in &self.workers {
            pulse.counts.store(counts, Ordering::Relaxed);
        }
        counts
    }

    /// Has the kernel carry on, where every worker lives.
    fn keep(&mut self) {
        let counts = self.see_counting();
        let silent = self.workers.iter().position(|(_, pulse)| !pulse.lives());
        if let Some(worker) = silent {
            if !std::mem::replace(&mut self.told_stopped, true) {
                tracing::error!(worker, "a worker does not answer: what the lane carries stops");
            }
            if self.workers.iter().any(|(_, pulse)| pulse.has_failed()) {
                // Kept for good where the policy says so: this is no death, but flows that nobody
                // could end one by one.
                self.set.remove(self.mark).ok();
            }
            return;
        }
        self.told_stopped = false;
        let time = (self.on_death == OnDeath::Halt).then_some(KEPT);
        let waited = self.on_death == OnDeath::Halt || self.begun.elapsed() > TAKE_OVER;
        let kept = if self.alone || !waited {
            self.set.keep(self.mark, time)
        } else {
            self.set.keep_only(self.mark, time)
        };
        let say = match &kept {
            Ok(()) if counts => {
                self.alone |= waited;
                String::new()
            }
            Ok(()) => {
                "net.netfilter.nf_conntrack_acct is 0: the kernel counts no bytes, and every \
                       flow goes to the proxy (`schengate capture up` sets it)"
                    .to_owned()
            }
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => {
                self.alone = false;
                "the rules of the lane are not there: every connection is the proxy's \
                 (`schengate capture up` sets them)"
                    .to_owned()
            }
            Err(fault) => format!("what the lane carries stops: {fault}"),
        };
        if say != self.said {
            match (say.is_empty(), kept) {
                (true, _) => tracing::info!("the kernel carries what the lane permits"),
                (false, Ok(())) => tracing::warn!("{say}"),
                (false, Err(fault)) if fault.kind() == io::ErrorKind::NotFound => {
                    tracing::info!("{say}");
                }
                (false, Err(_)) => tracing::error!("{say}"),
            }
            self.said = say;
        }
    }
}
