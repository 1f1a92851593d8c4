//! The order of the start: what may fail comes before what others see.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use super::Options;
use super::confine;
use super::events;
use super::flows::OfPlane;
use super::front::Behind;
use super::host::Host;
use super::keeper::Keeper;
use super::record;
use super::settings::{listeners, name_service};
use super::step;
use super::supervise::{NEEDS, Service, Signals};
use crate::account::Account;
use crate::broker::Broker;
use crate::control::addresses::Addresses;
use crate::control::admin::{self, Access, AccessFault, Health};
use crate::control::capture::{CaptureFault, CaptureMonitor, DesiredState, Nft, State};
use crate::control::load::LoadFault;
use crate::control::notify::{Inherited, Manager};
use crate::control::reload::PolicyManager;
use crate::control::trust_roots;
use crate::control::watch::Watch;
use crate::evidence::SinkFault;
use crate::flow::{DataPlane, Settings};
use crate::sys;

/// Why the gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartFault {
    /// A socket, a thread, or what else the system gives.
    #[error(transparent)]
    System(#[from] io::Error),
    /// The policy or its tables.
    #[error(transparent)]
    Load(#[from] LoadFault),
    /// The record cannot be kept, and nothing may go unrecorded.
    #[error(transparent)]
    Record(#[from] SinkFault),
    /// Who may ask the admin listener.
    #[error(transparent)]
    Admin(#[from] AccessFault),
    /// Nobody can vouch for the resolvers.
    #[error(transparent)]
    Anchors(#[from] trust_roots::Fault),
    /// A kernel that judges by the sets of an earlier run is worse than no gateway.
    #[error("the kernel short cut: {0}; it needs nft and CAP_NET_ADMIN")]
    Shortcut(CaptureFault),
}

impl Service {
    /// Loads the policy, gives up what a gateway does not need, binds every socket and starts the data
    /// plane. `behind`: another process is watched in this one's place; `broker`: the one that does what
    /// was given up.
    ///
    /// # Errors
    /// The first thing that the gateway cannot do without.
    pub fn start(
        options: Options,
        behind: Option<Behind>,
        broker: Broker,
        account: Account,
    ) -> Result<Self, StartFault> {
        // Before anything takes time: a signal that comes early must not end the process.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let signals = {
            let _inside = runtime.enter();
            Signals {
                reload: signal(SignalKind::hangup())?,
                stop: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
            }
        };
        if let Err(fault) = sys::raise_descriptor_limit() {
            warn!(%fault, "the limit of descriptors stays as it is");
        }
        let mut inherited = Inherited::take(behind.map(Behind::front))?;
        let manager = Manager::find().unwrap_or_else(|fault| {
            warn!(%fault, "the service manager cannot be told");
            Manager::Nobody
        });
        let mut watch = Watch::before(Instant::now());
        let path = options.config.as_deref();
        let (policies, lints) = PolicyManager::start(path, options.allow_older, Timestamp::now())?;
        lints.iter().for_each(|lint| warn!("{lint}"));
        let health = Arc::new(Health::new(account.clone(), &NEEDS));
        let config = policies.config();
        // What is read once is read before the files are out of reach; every thread from here on has
        // no more than this one.
        let access = Access::load(&config.admin)?;
        let names = name_service(config, Some(broker.names))?;
        // Nobody makes a socket of this host from here on either.
        let doors = admin::Doors::open(&config.admin)?;
        let workers = options.workers.or_else(|| std::thread::available_parallelism().ok());
        confine::confine(config, &health)?;
        let recorded = record::keep(config, &account, behind.is_some())?;
        let (admin, console) = admin::start(doors, access, account.clone(), Arc::clone(&health))?;
        info!(address = %admin, "admin pages");
        if let Some(audit) = &config.audit {
            console.records(audit.directory.clone());
        }
        let settings = Settings {
            workers: workers.unwrap_or(NonZeroUsize::MIN),
            affinity: options.affinity,
            names,
            dns: config.dns.clone(),
            lane: config.lane.clone(),
            dns_sockets: None,
            listeners: listeners(config, &mut inherited),
            confined: true,
        };
        for socket in inherited.left_over() {
            warn!(%socket, "the service manager passed a socket that no [[listen]] takes");
        }
        let addresses = Addresses::follow()?;
        let plane = DataPlane::start(settings, policies.live(), account.clone())?;
        console.serves(Arc::new(OfPlane(plane.connections())));
        for (ingress, address) in plane.listeners() {
            info!(mode = ingress.label(), %address, "listening");
        }
        if let Some(lane) = &config.lane {
            let (queues, on_death) = (&lane.queues, lane.on_death.label());
            info!(
                mode = "lane",
                first = queues.start(),
                last = queues.end(),
                on_death,
                "listening"
            );
        }
        watch.follow(policies.config(), Instant::now());
        let firewall = Arc::new(broker.firewall);
        let nft = Nft::Broker(Arc::clone(&firewall));
        let monitor = CaptureMonitor::start(policies.config(), account.clone(), nft)?;
        if let Some(monitor) = &monitor {
            let desired = DesiredState::new(policies.config(), Arc::clone(policies.current()));
            let state = monitor.set_sync().install(desired).map_err(StartFault::Shortcut)?;
            if let State::Without(why) = state {
                error!(%why, "the kernel judges nothing: every connection passes the gateway");
            }
        }
        Ok(Self {
            policies,
            account,
            health,
            console,
            plane,
            signals,
            watch,
            addresses,
            monitor,
            behind,
            manager,
            said: String::new(),
            keeper: Keeper::new(broker.keeper),
            host: Host::default(),
            broker: firewall,
            is_alone: false,
            building: None,
            state: step::State::started(),
            recorded,
            told: events::Told::default(),
            runtime,
            options,
        })
    }
}
