//! `schengate run`: the service. Wires the control plane to the data plane; decides nothing.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::front::{self, Behind};
use super::{Exit, complain};
use crate::account::{Account, Way};
use crate::control::addresses::{Addresses, Heard};
use crate::control::admin::{self, Health};
use crate::control::anchors;
use crate::control::capture::{Fence, STATE, State, StateListener, Wanted, Word};
use crate::control::config::{self, Config, ListenMode};
use crate::control::load::LoadFault;
use crate::control::notify::{self, Inherited};
use crate::control::reload::{Built, Governor, Hastened};
use crate::control::watch::{Seen, Watch};
use crate::flow::{DataPlane, Datagrams, Dns, Listener, NameService, Resolver, Settings, Socket};

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub(super) struct Run {
    /// Policy file; without it: an explicit proxy on 127.0.0.1:3128 that observes, embedded tables
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Worker threads; without it one for each core
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,
    /// Keep each worker on a processor of its own
    #[arg(long)]
    affinity: bool,
    /// Time that live connections have to end after SIGTERM, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    drain: u64,
    /// End at once at SIGTERM, and leave the connections to a process behind this one: for a service
    /// manager that passes the listeners
    #[arg(long)]
    hand_over: bool,
    /// Where `capture keep` says what it found
    #[arg(long, value_name = "FILE", default_value = STATE)]
    keeper: PathBuf,
    /// Take up tables at the start even where they are older than those last in use
    #[arg(long)]
    allow_older: bool,
}

/// What must be there before the gateway says that it is ready.
const NEEDS: [&str; 2] = ["policy and tables", "listeners"];

/// What it misses where this host's addresses are not followed.
const OWN_ADDRESSES: &str = "own addresses";

/// What is missing where the capture was probed, and not as it should be.
const PROBE: &str = "a probe that is refused";

/// How long a worker may take to answer before the watchdog is left to bite.
const BEAT_LIMIT: Duration = Duration::from_secs(2);

/// Time between two looks at the files behind the policy, and at the clock, so that a clock that was
/// set is noticed.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How long the last lines are waited for, where stderr takes them slowly.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Exit status: 0 after an orderly stop, 2 where the gateway could not start.
pub(super) fn run(arguments: Run) -> Exit {
    let behind = match Behind::find() {
        Ok(None) if arguments.hand_over => return front::front(),
        Ok(behind) => behind,
        Err(error) => return complain(error),
    };
    let account = match account() {
        Ok(account) => account,
        Err(fault) => return complain(fault),
    };
    let messages = account.clone();
    super::log(move || messages.messages());
    // Where nobody reads stderr, a thread that panics must not wait there with what it says.
    std::panic::set_hook(Box::new(|panic| error!(%panic, "a thread of the gateway panicked")));
    crate::sys::keep_large_blocks_apart();
    let exit = match Service::start(&arguments, behind, account.clone()) {
        Ok(service) => service.supervise(Duration::from_secs(arguments.drain)),
        Err(refusal) => {
            let _written = account.flush(LAST_LINES);
            return complain(refusal);
        }
    };
    let _written = account.flush(LAST_LINES);
    exit
}

/// Keeps the record, and what the process says of itself, on stderr by a descriptor of its own: the
/// standard library's handle has a lock, at which everybody would wait for a reader that is stuck.
fn account() -> io::Result<Account> {
    let stderr = io::stderr().as_fd().try_clone_to_owned()?;
    Account::start(Box::new(File::from(stderr)))
}

struct Service {
    governor: Governor,
    account: Account,
    health: Arc<Health>,
    plane: DataPlane,
    signals: Signals,
    watch: Watch,
    /// This host's addresses as they change, and the last list of them.
    addresses: Addresses,
    local: Option<Vec<IpAddr>>,
    /// What stands in the kernel, where a listener is captured for.
    fence: Option<Fence>,
    /// Where another process is watched in this one's place.
    behind: Option<Behind>,
    /// Who keeps the capture, and what was last heard.
    keeper: (StateListener, PathBuf),
    heard: Word,
    building: Option<Building>,
    /// What asked for a reload while one was built.
    again: Option<Asked>,
    /// Tables that are known to be older than `[data] max_age`.
    stale: BTreeSet<String>,
    runtime: tokio::runtime::Runtime,
}

/// The end of a build on its own thread.
type Building = oneshot::Receiver<Made>;

/// What was built.
enum Made {
    Policy(Result<Box<Built>, NotBuilt>),
    /// The policy in force, over tables in their own form.
    Hastened(Box<Hastened>),
    /// The thread ended before it was done.
    Nothing,
}

/// Why there is no next policy.
struct NotBuilt {
    said: String,
    cause: Cause,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    Policy,
    /// A table is at fault, and not the file.
    Data,
    /// Nobody asked for it, and it lacks much of what is refused now.
    Loss,
    /// Nobody asked for it, and a file changed while it was read.
    Unfinished,
}

/// Who asked for a reload.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Asked {
    /// Nobody: a file behind the policy changed.
    Watch,
    Signal,
}

struct Signals {
    reload: Signal,
    stop: Signal,
    interrupt: Signal,
}

impl Service {
    fn start(arguments: &Run, behind: Option<Behind>, account: Account) -> Result<Self, String> {
        let text = |error: io::Error| error.to_string();
        // Before anything takes time: a signal that comes early must not end the process.
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(text)?;
        let signals = {
            let _inside = runtime.enter();
            let hear = |kind| signal(kind).map_err(text);
            Signals {
                reload: hear(SignalKind::hangup())?,
                stop: hear(SignalKind::terminate())?,
                interrupt: hear(SignalKind::interrupt())?,
            }
        };
        if let Err(fault) = crate::sys::raise_descriptor_limit() {
            warn!(%fault, "the limit of descriptors stays as it is");
        }
        let mut inherited = Inherited::take(behind.map(|behind| behind.front)).map_err(text)?;
        let path = arguments.config.as_deref();
        let mut watch = Watch::before(Instant::now());
        let (governor, lints) = Governor::start(path, arguments.allow_older, Timestamp::now())
            .map_err(|fault| fault.to_string())?;
        lints.iter().for_each(|lint| warn!("{lint}"));
        let health = Arc::new(Health::new(account.clone(), &NEEDS));
        let config = governor.config();
        let admin = admin::start(config.admin.address, account.clone(), Arc::clone(&health))
            .map_err(text)?;
        info!(address = %admin, "admin pages");
        let workers = arguments.workers.or_else(|| std::thread::available_parallelism().ok());
        let workers = workers.unwrap_or(NonZeroUsize::MIN);
        let names = name_service(config)?;
        let dns = config.dns.as_ref().map(name_server);
        let affinity = arguments.affinity;
        let listeners = listeners(config, &mut inherited);
        let settings = Settings { listeners, workers, affinity, names, dns };
        for socket in inherited.left_over() {
            warn!(%socket, "the service manager passed a socket that no [[listen]] takes");
        }
        let addresses = Addresses::follow().map_err(text)?;
        let plane = DataPlane::start(settings, governor.live(), account.clone()).map_err(text)?;
        for (way, address) in plane.listeners() {
            info!(mode = way.label(), %address, "listening");
        }
        watch.follow(governor.config(), Instant::now());
        let fence = Fence::start(governor.config(), account.clone()).map_err(text)?;
        if let Some(fence) = &fence {
            let wanted = Wanted::new(governor.config(), Arc::clone(governor.current()));
            // A kernel that judges by the sets of an earlier run is worse than no gateway.
            let state = fence.keeper().take_up(wanted).map_err(|fault| {
                format!("the kernel short cut: {fault}; it needs nft and CAP_NET_ADMIN")
            })?;
            if let State::Without(why) = state {
                error!(%why, "the kernel judges nothing: every connection passes the gateway");
            }
        }
        Ok(Self {
            governor,
            account,
            health,
            plane,
            signals,
            watch,
            addresses,
            local: None,
            fence,
            behind,
            keeper: (StateListener::default(), arguments.keeper.clone()),
            heard: Word::Nobody,
            building: None,
            again: None,
            stale: BTreeSet::new(),
            runtime,
        })
    }

    fn supervise(mut self, drain: Duration) -> Exit {
        self.publish(None);
        self.remember();
        self.health.met(NEEDS[1]);
        self.listen();
        notify::ready(&self.status());
        loop {
            let lapses = self.governor.lapses();
            let event =
                next_event(&mut self.signals, &mut self.building, &mut self.addresses, lapses);
            match self.runtime.block_on(event) {
                Event::Reload => self.reload(Asked::Signal),
                Event::Made(made) => self.made(made),
                Event::Addresses(heard) => self.heard(heard),
                Event::Stop => break,
                Event::Tick => self.tick(),
            }
        }
        self.health.misses("the gateway is stopping");
        info!(limit_s = drain.as_secs(), "draining");
        if let Some(behind) = self.behind {
            self.hand_over(behind, drain);
        } else {
            notify::stopping();
        }
        self.plane.drain(drain);
        if self.behind.is_none() {
            stop_shortcut(self.fence.as_ref());
        }
        if !self.account.flush(LAST_LINES) {
            error!("records were lost at the end: stderr does not take them");
        }
        Exit::Yes
    }

    /// Lets go of everything that the next gateway needs, and tells the front.
    fn hand_over(&self, behind: Behind, drain: Duration) {
        self.plane.let_go(drain);
        // The sets are the next one's from here on.
        stop_shortcut(self.fence.as_ref());
        self.health.close();
        if let Err(fault) = behind.gone() {
            warn!(%fault, "nobody hears that the listeners are free");
        }
    }

    /// Begins to build the next policy aside; one build at a time.
    fn reload(&mut self, asked: Asked) {
        if self.building.is_some() {
            self.again = self.again.max(Some(asked));
            return;
        }
        notify::reloading();
        let read = self.watch.begin();
        let work = self.governor.work();
        let work = match asked {
            Asked::Signal => work,
            Asked::Watch => work.guarded(&self.governor),
        };
        let keeper = self.fence.as_ref().map(|fence| Arc::clone(fence.keeper()));
        let begun = self.begin(move || {
            let built = work.build(Timestamp::now()).map_err(|fault| NotBuilt {
                said: fault.to_string(),
                cause: match fault {
                    LoadFault::Policy(_) => Cause::Policy,
                    LoadFault::Data(_) => Cause::Data,
                    LoadFault::Loss(_) => Cause::Loss,
                },
            });
            // What was read in the middle of a write is of no state of the files.
            let is_one_state = asked == Asked::Signal || read.holds();
            let unfinished =
                || NotBuilt { said: "a file changed again".into(), cause: Cause::Unfinished };
            let built = if is_one_state { built } else { Err(unfinished()) };
            let built = built.and_then(|built| {
                // The kernel first: where its sets cannot be changed, the policy is not either.
                let wanted = Wanted::new(built.config(), Arc::clone(built.policy()));
                match keeper.map(|keeper| keeper.take_up(wanted)) {
                    Some(Err(fault)) => Err(NotBuilt {
                        said: format!("the kernel short cut: {fault}"),
                        cause: Cause::Policy,
                    }),
                    Some(Ok(_)) | None => Ok(Box::new(built)),
                }
            });
            Made::Policy(built)
        });
        if let Err(error) = begun {
            let said = format!("no thread to build the policy: {error}");
            self.built(Err(NotBuilt { said, cause: Cause::Policy }));
        }
    }

    /// Builds on a thread of its own, which yields to all others.
    fn begin(&mut self, build: impl FnOnce() -> Made + Send + 'static) -> io::Result<()> {
        let (done, building) = oneshot::channel();
        let build = move || {
            if let Err(fault) = crate::sys::yield_to_others() {
                warn!(%fault, "the policy is built at the priority of the gateway");
            }
            // Nobody waits for it any more where the gateway is stopping.
            drop(done.send(build()));
        };
        std::thread::Builder::new().name("build".into()).spawn(build)?;
        self.building = Some(building);
        Ok(())
    }

    /// Takes up what was made, and begins what is to be made next.
    fn made(&mut self, made: Made) {
        let is_lost = matches!(made, Made::Nothing);
        match made {
            Made::Policy(built) => self.built(built),
            Made::Hastened(hastened) => {
                self.governor.hasten(*hastened, Timestamp::now());
                self.follow();
                info!("the new tables are in their own form");
            }
            Made::Nothing => {
                let said = "the thread that built the policy ended before it was done".to_owned();
                self.built(Err(NotBuilt { said, cause: Cause::Policy }));
            }
        }
        // What was built knows the addresses of when it was begun.
        self.readdress();
        if let Some(asked) = self.again.take() {
            self.reload(asked);
        } else if let Some(haste) = self.governor.haste().filter(|_| !is_lost) {
            let build = move || Made::Hastened(Box::new(haste.build(Timestamp::now())));
            if let Err(fault) = self.begin(build) {
                warn!(%fault, "the new tables stay in a slower form until the next reload");
            }
        }
    }

    /// Takes up what was built, or says why not.
    fn built(&mut self, built: Result<Box<Built>, NotBuilt>) {
        let before = self.governor.current().version().to_owned();
        match built {
            Ok(built) => {
                let reloaded = self.governor.take_up(*built, Timestamp::now());
                reloaded.lints.iter().for_each(|lint| warn!("{lint}"));
                if reloaded.needs_restart {
                    warn!(
                        "listeners, resolvers or the admin address changed: restart to take them up"
                    );
                }
                self.account.metrics().policy_reload(true);
                self.publish(Some(&before));
                self.remember();
                self.watch.follow(self.governor.config(), Instant::now());
                self.health.fact("Last reload", format!("taken up at {}", Timestamp::now()));
                self.plane.rejudge();
                info!(version = self.governor.current().version(), "policy reloaded");
            }
            Err(NotBuilt { said, cause: Cause::Unfinished }) => {
                info!(what = %said, "not taken up yet");
            }
            Err(NotBuilt { said, cause }) => {
                self.account.metrics().policy_reload(false);
                if cause == Cause::Data {
                    self.account.metrics().data_refused();
                }
                if cause == Cause::Loss {
                    warn!(
                        version = before,
                        fault = %said,
                        cause = "loss",
                        "the changed policy is held back; the one in force stays"
                    );
                } else {
                    error!(
                        version = before,
                        fault = %said,
                        cause = if cause == Cause::Data { "data" } else { "policy" },
                        "the policy does not load; the one in force stays"
                    );
                }
                let refused = format!("REFUSED at {}, see the log", Timestamp::now());
                self.health.fact("Last reload", refused);
            }
        }
        notify::ready(&self.status());
    }

    /// Takes up this host's addresses, or says that they are not known any more: what it would get is
    /// then not known for the gateway itself, and it is not ready.
    fn heard(&mut self, heard: Heard) {
        match heard.fault {
            Some(fault) => {
                error!(%fault, "this host's addresses are not followed");
                self.health.misses(OWN_ADDRESSES);
            }
            None => self.health.met(OWN_ADDRESSES),
        }
        if heard.addresses.is_some() {
            self.local = heard.addresses;
            self.readdress();
        }
    }

    /// Has the policy in force know the addresses that this host has.
    fn readdress(&mut self) {
        let Some(local) = &self.local else { return };
        if self.governor.readdress(local, Timestamp::now()) {
            info!(addresses = local.len(), "this host's addresses changed: judged anew");
            self.follow();
            self.plane.rejudge();
        }
    }

    fn remember(&self) {
        if let Err(fault) = self.governor.remember() {
            let directory = self.governor.config().data.directory.display();
            warn!(%directory, %fault, "the tables in use are not written down for the next start");
        }
    }

    /// What the clock asks for: the policy's next state, the age of the tables, the watchdog.
    fn tick(&mut self) {
        if self.governor.turn_over(Timestamp::now()) {
            self.publish(None);
            self.plane.rejudge();
            info!("a date in the policy has passed: judged anew");
        }
        self.ages();
        self.listen();
        if self.governor.config().policy.watch {
            match self.watch.look(Instant::now()) {
                Seen::Nothing => {}
                Seen::Changing => {
                    info!("a file behind the policy changes: taken up once it is whole")
                }
                Seen::Changed => {
                    info!("a file behind the policy changed");
                    self.reload(Asked::Watch);
                }
            }
        }
        if notify::watchdog_interval().is_some() && self.plane.beat(BEAT_LIMIT) {
            notify::alive();
        }
    }

    /// Hears what the keeper of the capture says: the gateway is ready as far as its probes are.
    fn listen(&mut self) {
        let (keeper, path) = &mut self.keeper;
        if self.fence.is_none() {
            return;
        }
        let word = keeper.hear(path, Instant::now());
        let metrics = self.account.metrics();
        let wrong = match &word {
            Word::Nobody => None,
            Word::Silent => Some("the keeper of the capture is gone, or hangs".to_owned()),
            Word::Says(said) => {
                said.ways().for_each(|(way, held)| metrics.capture_probe(way, held));
                said.restored
                    .iter()
                    .for_each(|(part, times)| metrics.capture_restored(part, *times));
                said.wrong()
            }
        };
        let tells = |word: &Word| match word {
            Word::Says(said) => (said.wrong(), said.probe.is_empty()),
            Word::Nobody | Word::Silent => (None, true),
        };
        let same = std::mem::discriminant(&word) == std::mem::discriminant(&self.heard)
            && tells(&word) == tells(&self.heard);
        self.heard = word;
        if same {
            return;
        }
        let fact = match (&wrong, &self.heard) {
            (Some(wrong), _) => wrong.clone(),
            (None, Word::Says(said)) if said.probe.is_empty() => {
                format!("kept, not probed: {}", said.unprobed)
            }
            (None, Word::Says(_)) => "probed, and holds".to_owned(),
            (None, Word::Nobody | Word::Silent) => {
                "not probed: `schengate capture keep` does not run".to_owned()
            }
        };
        match &wrong {
            Some(wrong) => {
                error!(%wrong, "the capture does not hold, or brings nothing here");
                self.health.misses(PROBE);
            }
            None => {
                info!(capture = %fact, "the capture");
                self.health.met(PROBE);
            }
        }
        self.health.fact("Capture", fact);
        notify::status(&self.status());
    }

    /// Tells the outside what is in force.
    fn publish(&mut self, before: Option<&str>) {
        let policy = self.governor.current();
        let metrics = self.account.metrics();
        metrics.policy_taken_up(Timestamp::now().as_second() as f64);
        metrics.policy_info(policy.version(), before.filter(|before| *before != policy.version()));
        metrics.enforcing(policy.enforces());
        let mode = if policy.enforces() { "enforce" } else { "observe" };
        self.health.fact("Mode", mode.into());
        self.health.fact("Policy version", policy.version().into());
        let config = self.governor.config();
        let file = config
            .path
            .as_ref()
            .map_or_else(|| "built in".into(), |path| path.display().to_string());
        self.health.fact("Policy file", file);
        self.health.fact("Rules", config.rules.len().to_string());
        let lapses = self.governor.lapses();
        self.health
            .fact("Next change by date", lapses.map_or_else(|| "none".into(), |at| at.to_string()));
        self.follow();
        self.ages();
        self.health.met(NEEDS[0]);
    }

    /// Hands the policy in force to the one who fills the kernel's sets.
    fn follow(&self) {
        if let Some(fence) = &self.fence {
            let (config, policy) = (self.governor.config(), self.governor.current());
            fence.follow(Wanted::new(config, Arc::clone(policy)));
        }
    }

    /// Ages of the tables; one that grew older than `[data] max_age` is told of once.
    fn ages(&mut self) {
        let now = Timestamp::now();
        let max_age = self.governor.config().data.max_age;
        let mut stale = BTreeSet::new();
        for info in self.governor.compiler().infos() {
            let Some(date) = info.as_of else { continue };
            // A date to come is no age.
            let Ok(age) = Duration::try_from(now.duration_since(date)) else { continue };
            self.account.metrics().data_age(&info.name, age);
            let limit = max_age.filter(|&max_age| age > max_age);
            self.account.metrics().data_stale(&info.name, limit.is_some());
            if let Some(max_age) = limit {
                if !self.stale.contains(&info.name) {
                    warn!(
                        dataset = info.name,
                        age_days = age.as_secs() / 86_400,
                        max_age_days = max_age.as_secs() / 86_400,
                        "a table is older than [data] max_age"
                    );
                }
                stale.insert(info.name.clone());
            }
        }
        self.stale = stale;
    }

    fn status(&self) -> String {
        let policy = self.governor.current();
        let mode = if policy.enforces() { "enforce" } else { "observe" };
        let holds = if self.health.is_ready() { "" } else { "NOT READY; " };
        format!(
            "{holds}policy {} ({mode}), {} rules",
            policy.version(),
            self.governor.config().rules.len()
        )
    }
}

fn stop_shortcut(fence: Option<&Fence>) {
    if let Some(Err(fault)) = fence.map(|fence| fence.keeper().stop()) {
        error!(%fault, "the kernel goes on to judge by its last sets");
    }
}

enum Event {
    Reload,
    Made(Made),
    Addresses(Heard),
    Stop,
    Tick,
}

/// Waits for a signal, the end of a build, the next date in the policy, the next look at the files,
/// or the watchdog's turn.
async fn next_event(
    signals: &mut Signals,
    building: &mut Option<Building>,
    addresses: &mut Addresses,
    lapses: Option<Timestamp>,
) -> Event {
    let until = lapses.and_then(|at| Duration::try_from(at.duration_since(Timestamp::now())).ok());
    let wait =
        [until, notify::watchdog_interval()].into_iter().flatten().fold(LOOK_EVERY, Duration::min);
    tokio::select! {
        _ = signals.stop.recv() => Event::Stop,
        _ = signals.interrupt.recv() => Event::Stop,
        _ = signals.reload.recv() => Event::Reload,
        made = done(building) => Event::Made(made),
        heard = addresses.next() => Event::Addresses(heard),
        () = tokio::time::sleep(wait) => Event::Tick,
    }
}

/// The end of the build; never where none is under way.
async fn done(building: &mut Option<Building>) -> Made {
    let Some(receiver) = building else { return std::future::pending().await };
    let ended = receiver.await;
    *building = None;
    ended.unwrap_or(Made::Nothing)
}

fn name_service(config: &Config) -> Result<NameService, String> {
    let names = &config.names;
    let resolver = |it: &config::Resolver| Resolver { at: it.at, tls: it.tls };
    let tls = if names.resolvers.iter().any(|resolver| resolver.tls.is_some()) {
        Some(anchors::client(names.resolver_ca.as_deref()).map_err(|fault| fault.to_string())?)
    } else {
        None
    };
    let resolvers = names.resolvers.iter().map(resolver).collect();
    Ok(NameService { resolvers, tls, remember: names.remember, limit: names.limit })
}

fn name_server(dns: &config::Dns) -> Dns {
    let &config::Dns { listen, nxdomain, filter, strip_ech, rate, ref types } = dns;
    Dns { listen, nxdomain, filter, strip_ech, rate, types: types.clone() }
}

fn listeners(config: &Config, inherited: &mut Inherited) -> Vec<Listener> {
    let mut listener = |listen: &config::Listen| Listener {
        way: match listen.mode {
            ListenMode::Tproxy => Way::Tproxy,
            ListenMode::Redirect => Way::Redirect,
            ListenMode::Proxy => Way::Proxy,
        },
        socket: inherited
            .listener(listen.mode, listen.address)
            .map_or(Socket::Address(listen.address), Socket::Inherited),
        peek_timeout: listen.peek_timeout,
        connect_timeout: listen.connect_timeout,
        idle_timeout: listen.idle_timeout,
        half_closed_timeout: listen.half_closed_timeout,
        lifetime: listen.lifetime,
        keepalive: listen.keepalive,
        user_timeout: listen.user_timeout,
        keep_source: listen.keep_source,
        max_connections: listen.max_connections,
        max_connections_per_client: listen.max_connections_per_client,
        silent: listen.silent,
        starttls: listen.starttls,
        udp: listen.udp.map(|at| {
            inherited
                .datagrams(listen.mode, at)
                .map_or(Datagrams::Address(at), Datagrams::Inherited)
        }),
    };
    config.listen.iter().map(&mut listener).collect()
}
