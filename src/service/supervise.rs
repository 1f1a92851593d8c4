//! Hears what happens, asks [`step`] what follows, and does it.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::signal::unix::Signal;
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::events;
use super::front::Behind;
use super::host::Host;
use super::keeper::Keeper;
use super::record;
use super::step::{
    self, Asked, Candidate, Cause, Dated, Ending, Need, NotBuilt, State, Work, endings, step,
};
use super::{LAST_LINES, Options};
use crate::account::Account;
use crate::broker::Firewall;
use crate::control::addresses::Addresses;
use crate::control::admin::{Console, Health, OLD_TABLES};
use crate::control::capture::{CaptureMonitor, Check, DesiredState, KernelSetSync, Word};
use crate::control::data::SourceInfo;
use crate::control::load::LoadFault;
use crate::control::notify::{self, Manager};
use crate::control::reload::{BuiltPolicy, PolicyManager, PromotedTables, ReloadJob};
use crate::control::watch::{AsRead, Watch};
use crate::flow::DataPlane;
use crate::sys;

/// What must be there before the gateway says that it is ready.
pub(super) const NEEDS: [&str; 2] = [POLICY, LISTENERS];

const POLICY: &str = "policy and tables";
const LISTENERS: &str = "listeners";

/// How long a worker may take to answer before the watchdog is left to bite.
const PING_LIMIT: Duration = Duration::from_secs(2);

/// Time between two looks at the files behind the policy, and at the clock, so that a clock that was
/// set is noticed.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How EACCES reads in the text of a fault.
const NOT_PERMITTED: &str = "(os error 13)";

type Event = step::Event<Box<BuiltPolicy>, Box<PromotedTables>>;
type Action = step::Action<Box<BuiltPolicy>, Box<PromotedTables>>;

/// A gateway that runs.
#[derive(Debug)]
pub struct Service {
    pub(super) policies: PolicyManager,
    pub(super) account: Account,
    pub(super) health: Arc<Health>,
    /// What the API and the page answer from.
    pub(super) console: Arc<Console>,
    pub(super) plane: DataPlane,
    pub(super) signals: Signals,
    pub(super) watch: Watch,
    /// This host's addresses as they change.
    pub(super) addresses: Addresses,
    /// What stands in the kernel, where a listener is captured for.
    pub(super) monitor: Option<CaptureMonitor>,
    /// Where another process is watched in this one's place.
    pub(super) behind: Option<Behind>,
    /// Who is told how the gateway fares.
    pub(super) manager: Manager,
    /// The line of text that it was told last.
    pub(super) said: String,
    /// Hears what the keeper of the capture says.
    pub(super) keeper: Keeper,
    /// What of this host stands in the way.
    pub(super) host: Host,
    /// The process that does what this one gave up lasts as long as this is there.
    pub(super) broker: Arc<Firewall>,
    /// Whether it was said that it has ended.
    pub(super) is_alone: bool,
    pub(super) building: Option<Building>,
    pub(super) state: State,
    /// What was last said of how the record fares.
    pub(super) recorded: record::Heard,
    /// What the record was last told of the gateway itself.
    pub(super) told: events::Told,
    pub(super) runtime: tokio::runtime::Runtime,
    pub(super) options: Options,
}

/// The end of a build on its own thread.
type Building = oneshot::Receiver<Event>;

#[derive(Debug)]
pub(super) struct Signals {
    pub(super) reload: Signal,
    pub(super) stop: Signal,
    pub(super) interrupt: Signal,
}

/// What the supervisor wakes up for.
enum Woken {
    By(Event),
    Tick,
    Stop,
}

impl Service {
    /// Runs until it is told to stop, then ends in order.
    pub fn supervise(mut self) {
        self.publish(None);
        self.remember();
        self.health.met(LISTENERS);
        self.hear_keeper();
        self.look_at_host();
        self.tell_ready();
        record::started(&self.account, self.policies.current());
        self.told.tables(&self.account, self.policies.compiler().infos());
        self.tell_record();
        loop {
            let lapses = self.policies.lapses();
            let woken = woken(&mut self.signals, &mut self.building, &mut self.addresses, lapses);
            match self.runtime.block_on(woken) {
                Woken::By(event) => self.follow_up(event),
                Woken::Tick => self.tick(),
                Woken::Stop => break,
            }
        }
        self.end();
    }

    /// Does what follows from an event, and from what comes of that.
    fn follow_up(&mut self, event: Event) {
        let mut next = Some(event);
        while let Some(event) = next.take() {
            let state = std::mem::replace(&mut self.state, State::started());
            let (state, actions) = step(state, event);
            self.state = state;
            for action in actions {
                // Only what is begun can fail, and it is the last thing that a step asks for.
                next = self.perform(action).or(next);
            }
        }
    }

    fn perform(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Note(said) => info!("{said}"),
            Action::TellReloading => self.manager.reloading(),
            Action::TellReady => self.tell_ready(),
            Action::TellStatus => self.tell_status(),
            Action::Build(asked) => return self.build(asked),
            Action::Promote => return self.promote(),
            Action::Install(built) => self.install(*built),
            Action::InstallPromoted(tables) => {
                self.policies.install_promoted(*tables, Timestamp::now());
                self.hand_over();
                info!("the new tables are in their own form");
            }
            Action::Refuse(why) => self.refuse(&why),
            Action::PromotionPutOff(fault) => {
                warn!(%fault, "the new tables stay in a slower form until the next reload");
            }
            Action::Readdress(local) => {
                if self.policies.readdress(&local, Timestamp::now()) {
                    info!(addresses = local.len(), "this host's addresses changed: judged anew");
                    self.hand_over();
                    self.plane.rejudge();
                }
            }
            Action::AddressesUnknown(fault) => {
                error!(%fault, "this host's addresses are not followed");
            }
            Action::Publish => self.publish(None),
            Action::Rejudge => self.plane.rejudge(),
            Action::Met(need) => self.health.met(named(need)),
            Action::Misses(need) => self.health.misses(named(need)),
            Action::CaptureFails(wrong) => {
                error!(%wrong, "the capture does not hold, or brings nothing here");
                events::capture(&self.account, false, &wrong);
                self.health.misses_since(named(Need::Probe), wrong);
            }
            Action::CaptureStands(how) => {
                info!(capture = %how, "the capture");
                events::capture(&self.account, true, &how);
            }
            Action::CaptureFact(fact) => self.health.fact("Capture", fact),
            Action::Age { table, age, is_stale } => {
                self.account.metrics().data_age(&table, age);
                self.account.metrics().data_stale(&table, is_stale);
            }
            Action::GrownStale { table, age, max_age } => warn!(
                dataset = table,
                age_days = age.as_secs() / 86_400,
                max_age_days = max_age.as_secs() / 86_400,
                "a table is older than [data] max_age"
            ),
        }
        None
    }

    /// What the clock asks for: the policy's next state, the age of the tables, the watchdog.
    fn tick(&mut self) {
        if self.policies.advance(Timestamp::now()) {
            self.follow_up(Event::Advanced);
        }
        self.look_at_ages();
        self.recorded.hear(&self.account, &self.health);
        self.hear_keeper();
        self.look_at_broker();
        self.look_at_host();
        self.tell_record();
        if self.policies.config().policy.watch {
            let seen = self.watch.look(Instant::now());
            self.follow_up(Event::Files(seen));
        }
        if notify::watchdog_interval().is_some() && self.plane.ping(PING_LIMIT) {
            self.manager.alive();
        }
        // What became of readiness meanwhile.
        if self.status() != self.said {
            self.tell_status();
        }
    }

    fn tell_ready(&mut self) {
        self.said = self.status();
        self.manager.ready(&self.said);
    }

    fn tell_status(&mut self) {
        self.said = self.status();
        self.manager.status(&self.said);
    }

    /// Records what has become of the gateway itself.
    fn tell_record(&mut self) {
        let (now, account) = (Timestamp::now(), &self.account);
        self.told.clock(account, now, Instant::now());
        self.told.waivers(account, self.policies.config(), now);
        self.told.self_test(account, self.policies.current(), Instant::now());
    }

    fn look_at_ages(&mut self) {
        let now = Timestamp::now();
        let compiler = self.policies.compiler();
        let dated = |info: &SourceInfo| {
            let (table, max_age) = (info.name.clone(), compiler.max_age(&info.name));
            Some(Dated { table, as_of: info.as_of?, max_age })
        };
        let tables = compiler.infos().iter().filter_map(dated).collect();
        let old: Vec<_> = compiler.infos().iter().filter_map(|info| info.old(now)).collect();
        let old = if old.is_empty() { "none".to_owned() } else { old.join("; ") };
        self.health.fact(OLD_TABLES, old);
        self.follow_up(Event::Ages { now, tables });
    }

    fn look_at_host(&mut self) {
        let policy = (self.policies.config(), self.policies.compiler().infos());
        let resolves = self.plane.has_name_servers();
        self.host.look(Instant::now(), policy, resolves, &self.health);
    }

    /// Without the broker nothing that changes on this host is heard: there is no other one until a restart.
    fn look_at_broker(&mut self) {
        if self.is_alone || self.broker.is_there() {
            return;
        }
        self.is_alone = true;
        let why = "the process beside the gateway has ended, and name servers, hosts and firewall are \
                   those of before: restart the gateway";
        error!("{why}");
        self.health.misses_since("the broker", why.to_owned());
    }

    fn hear_keeper(&mut self) {
        if self.monitor.is_none() {
            return;
        }
        let word = self.keeper.hear(Instant::now());
        let word = match (word, self.monitor.as_ref().and_then(CaptureMonitor::hindered)) {
            (Word::Nobody, Some(how)) => Word::Hindered(how),
            // Whoever keeps the capture sees more.
            (word, _) => word,
        };
        if let Word::Says(said) = &word {
            let metrics = self.account.metrics();
            for check in Check::HINDERS {
                if let Some(how) = said.hindered.get(check.label()) {
                    metrics.capture_intact(check.label(), how.is_empty());
                }
            }
            said.ways().for_each(|(way, held)| metrics.capture_probe(way, held));
            self.told.probes(&self.account, said.ways());
            said.restored.iter().for_each(|(part, times)| metrics.capture_restored(part, *times));
        }
        self.follow_up(Event::Capture(word));
    }

    /// Begins to build the next policy aside.
    fn build(&mut self, asked: Asked) -> Option<Event> {
        let read = self.watch.begin();
        let job = self.policies.job();
        let job = match asked {
            Asked::Signal => job,
            Asked::Watch => job.guarded(&self.policies),
        };
        let set_sync = self.monitor.as_ref().map(|monitor| Arc::clone(monitor.set_sync()));
        let begun = self.begin(move || Event::Built(built(job, asked, &read, set_sync.as_deref())));
        begun.err().map(|fault| Event::NotBegun(Work::Policy, fault.to_string()))
    }

    /// Begins to give the tables in use their final form.
    fn promote(&mut self) -> Option<Event> {
        let Some(job) = self.policies.promotion_job() else {
            let none = "they are in their own form".to_owned();
            return Some(Event::NotBegun(Work::Promotion, none));
        };
        let begun = self.begin(move || Event::Promoted(Box::new(job.build(Timestamp::now()))));
        begun.err().map(|fault| Event::NotBegun(Work::Promotion, fault.to_string()))
    }

    /// Builds on a thread of its own, which yields to all others.
    fn begin(&mut self, build: impl FnOnce() -> Event + Send + 'static) -> io::Result<()> {
        let (done, building) = oneshot::channel();
        let build = move || {
            if let Err(fault) = sys::yield_to_others() {
                warn!(%fault, "the policy is built at the priority of the gateway");
            }
            // Nobody waits for it any more where the gateway is stopping.
            drop(done.send(build()));
        };
        std::thread::Builder::new().name("build".into()).spawn(build)?;
        self.building = Some(building);
        Ok(())
    }

    /// Puts what was built in force.
    fn install(&mut self, built: BuiltPolicy) {
        let before = self.policies.current().version().to_owned();
        let widening = built.widening().cloned();
        let reloaded = self.policies.install(built, Timestamp::now());
        reloaded.lints.iter().for_each(|lint| warn!("{lint}"));
        if reloaded.needs_restart {
            warn!("listeners, resolvers or the admin address changed: restart to take them up");
        }
        record::reloaded(&self.account, &before, self.policies.current(), widening.as_ref());
        self.told.tables(&self.account, self.policies.compiler().infos());
        self.tell_record();
        self.account.metrics().policy_reload(true);
        self.publish(Some(&before));
        self.remember();
        self.watch.follow(self.policies.config(), Instant::now());
        self.health.fact("Last reload", format!("taken up at {}", Timestamp::now()));
        self.plane.rejudge();
        info!(version = self.policies.current().version(), "policy reloaded");
    }

    /// Says why the policy in force stays.
    fn refuse(&self, NotBuilt { said, cause }: &NotBuilt) {
        let version = self.policies.current().version();
        let metrics = self.account.metrics();
        match cause {
            Cause::Unfinished => {
                info!(what = %said, "not taken up yet");
                return;
            }
            Cause::Loss => warn!(
                version,
                fault = %said,
                cause = "loss",
                "the changed policy is held back; the one in force stays"
            ),
            Cause::Data | Cause::Policy => {
                let cause = if *cause == Cause::Data { "data" } else { "policy" };
                // What cannot be opened may lie where a gateway that runs no longer looks.
                let said = match said.contains(NOT_PERMITTED) {
                    true => format!(
                        "{said}; a gateway that runs reads the folders of its start alone: for another \
                         folder restart it"
                    ),
                    false => said.clone(),
                };
                error!(
                    version,
                    fault = %said,
                    cause,
                    "the policy does not load; the one in force stays"
                );
            }
        }
        record::not_reloaded(&self.account, version, said);
        metrics.policy_reload(false);
        if *cause == Cause::Data {
            metrics.data_refused();
        }
        let refused = format!("REFUSED at {}, see the log", Timestamp::now());
        self.health.fact("Last reload", refused);
    }

    fn remember(&self) {
        if let Err(fault) = self.policies.remember() {
            let directory = self.policies.config().data.directory.display();
            warn!(%directory, %fault, "the tables in use are not written down for the next start");
        }
    }

    /// Tells the outside what is in force.
    fn publish(&mut self, before: Option<&str>) {
        let policy = self.policies.current();
        let metrics = self.account.metrics();
        metrics.policy_taken_up(Timestamp::now().as_second() as f64);
        metrics.policy_info(policy.version(), before.filter(|before| *before != policy.version()));
        metrics.enforcing(policy.enforces());
        let mode = if policy.enforces() { "enforce" } else { "observe" };
        self.health.fact("Mode", mode.into());
        self.health.fact("Policy version", policy.version().into());
        let config = self.policies.config();
        let file = config
            .path
            .as_ref()
            .map_or_else(|| "built in".into(), |path| path.display().to_string());
        self.health.fact("Policy file", file);
        self.health.fact("Rules", config.rules.len().to_string());
        let lapses = self.policies.lapses();
        self.health
            .fact("Next change by date", lapses.map_or_else(|| "none".into(), |at| at.to_string()));
        self.hand_over();
        self.look_at_ages();
        self.health.met(POLICY);
    }

    /// Hands the policy in force to those who answer about it, and to the one who fills the kernel's
    /// sets.
    fn hand_over(&self) {
        self.console.in_force(self.policies.shared_compiler(), self.policies.live());
        if let Some(monitor) = &self.monitor {
            let (config, policy) = (self.policies.config(), self.policies.current());
            monitor.follow(DesiredState::new(config, Arc::clone(policy)));
        }
    }

    fn status(&self) -> String {
        let policy = self.policies.current();
        let mode = if policy.enforces() { "enforce" } else { "observe" };
        let holds = if self.health.is_ready() { "" } else { "NOT READY; " };
        format!(
            "{holds}policy {} ({mode}), {} rules",
            policy.version(),
            self.policies.config().rules.len()
        )
    }

    fn end(self) {
        let Self { policies, plane, behind, manager, monitor, health, account, options, .. } = self;
        let mut plane = Some(plane);
        for ending in endings(behind.is_some()) {
            match ending {
                Ending::Unready => {
                    health.misses("the gateway is stopping");
                    info!(limit_s = options.drain.as_secs(), "draining");
                }
                Ending::TellStopping => manager.stopping(),
                Ending::LetGo => plane.iter().for_each(|plane| plane.let_go(options.drain)),
                Ending::StopShortcut => {
                    if let Some(Err(fault)) =
                        monitor.as_ref().map(|monitor| monitor.set_sync().stop())
                    {
                        error!(%fault, "the kernel goes on to judge by its last sets");
                    }
                }
                Ending::CloseAdmin => health.close(),
                Ending::TellFront => {
                    if let Some(Err(fault)) = behind.map(Behind::gone) {
                        warn!(%fault, "nobody hears that the listeners are free");
                    }
                }
                Ending::Drain => plane.take().into_iter().for_each(|it| it.drain(options.drain)),
                Ending::Flush => {
                    record::stopped(&account, policies.current());
                    if !account.flush(LAST_LINES) {
                        error!("records were lost at the end: stderr does not take them");
                    }
                }
            }
        }
    }
}

/// What `/readyz` and the status page call a need.
const fn named(need: Need) -> &'static str {
    match need {
        Need::OwnAddresses => "own addresses",
        Need::Probe => "a probe that is refused",
    }
}

/// Builds the next policy; on a thread of its own.
fn built(
    job: ReloadJob,
    asked: Asked,
    read: &AsRead,
    set_sync: Option<&KernelSetSync>,
) -> Result<Candidate<Box<BuiltPolicy>>, NotBuilt> {
    let built = job.build(Timestamp::now());
    // What was read in the middle of a write is of no state of the files.
    if asked == Asked::Watch && !read.holds() {
        return Err(NotBuilt { said: "a file changed again".into(), cause: Cause::Unfinished });
    }
    let built = built.map_err(|fault| NotBuilt {
        said: fault.to_string(),
        cause: match fault {
            LoadFault::Policy(_) => Cause::Policy,
            LoadFault::Data(_) => Cause::Data,
            LoadFault::Loss(_) => Cause::Loss,
        },
    })?;
    // The kernel first: where its sets cannot be changed, the policy is not either.
    if let Some(set_sync) = set_sync {
        let desired = DesiredState::new(built.config(), Arc::clone(built.policy()));
        set_sync.install(desired).map_err(|fault| NotBuilt {
            said: format!("the kernel short cut: {fault}"),
            cause: Cause::Policy,
        })?;
    }
    Ok(Candidate { is_compact: built.is_compact(), policy: Box::new(built) })
}

/// Waits for a signal, the end of a build, the next date in the policy, the next look at the files,
/// or the watchdog's turn.
async fn woken(
    signals: &mut Signals,
    building: &mut Option<Building>,
    addresses: &mut Addresses,
    lapses: Option<Timestamp>,
) -> Woken {
    let until = lapses.and_then(|at| Duration::try_from(at.duration_since(Timestamp::now())).ok());
    let wait =
        [until, notify::watchdog_interval()].into_iter().flatten().fold(LOOK_EVERY, Duration::min);
    tokio::select! {
        _ = signals.stop.recv() => Woken::Stop,
        _ = signals.interrupt.recv() => Woken::Stop,
        _ = signals.reload.recv() => Woken::By(Event::Reload),
        event = ended(building) => Woken::By(event),
        heard = addresses.next() => Woken::By(Event::Addresses(heard)),
        () = tokio::time::sleep(wait) => Woken::Tick,
    }
}

/// The end of the build; never where none is under way.
async fn ended(building: &mut Option<Building>) -> Event {
    let Some(receiver) = building else { return std::future::pending().await };
    let event = receiver.await;
    *building = None;
    event.unwrap_or(Event::Lost)
}
