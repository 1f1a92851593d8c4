//! Starts the workers, has them judge their live connections again, and stops them.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc::{
    UnboundedReceiver, UnboundedSender, WeakUnboundedSender, unbounded_channel,
};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinSet, spawn_local, yield_now};
use tokio::time::timeout;

use super::accept;
use super::dns;
use super::lane;
use super::listener::{self, Listener};
use super::registry::Registry;
use super::serve::serve;
use super::settings::{self, NameService, Settings};
use super::slots::{Clients, Shares};
use super::udp;
use super::worker::Worker;
use crate::account::live::{By, Listed, Selection, Total};
use crate::account::{Account, End, Ingress};
use crate::egress::name_binding::{BindingCache, Memory};
use crate::egress::{Allowance, Resolver};
use crate::net::dialled::Dialled;
use crate::policy::Live;
use crate::settings::{Dns, Listen, ListenMode};
use crate::sys::{self, Role};

/// Time that connections which were told to end may take for it.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The running data plane: one thread for each worker, each with its own listeners. Connections
/// stay on the thread that accepted them. Dropped without [`DataPlane::drain`], it
/// stops at once.
pub struct DataPlane {
    workers: Vec<WorkerThread>,
    /// Dropped after the workers have ended: their flows end by it.
    lane: Option<lane::Watching>,
    listeners: Vec<(Ingress, SocketAddr)>,
    resolver: Arc<Resolver>,
}

struct WorkerThread {
    commands: UnboundedSender<Command>,
    thread: JoinHandle<()>,
}

enum Command {
    Rejudge,
    Ping(mpsc::Sender<()>),
    List(Arc<Selection>, oneshot::Sender<Listed>),
    Totals(By, oneshot::Sender<HashMap<String, Total>>),
    Kill(u64, oneshot::Sender<bool>),
    /// How long connections have, and who waits until the listeners are free.
    Drain(Duration, Option<mpsc::Sender<()>>),
}

/// What a worker is made of, before it runs.
struct WorkerParts {
    listeners: Vec<(std::net::TcpListener, Listener)>,
    datagrams: Vec<UdpListener>,
    lane: Option<lane::Part>,
    live: Arc<Live>,
    account: Account,
    names: NamesOf,
    resolver: Arc<Resolver>,
    /// The name server, for the first worker alone.
    dns: Option<(dns::Opened, Dns)>,
    /// UDP flows of SOCKS5 clients at once.
    associated: usize,
    ports: Arc<udp::Ports>,
    commands: UnboundedReceiver<Command>,
    /// Which of the processors that the process may use the worker keeps to.
    processor: Option<usize>,
    /// It gives up every call that it does not need, before it reads a byte.
    confined: bool,
}

/// A worker's socket of a UDP listener, and how many flows it may have.
struct UdpListener {
    socket: std::net::UdpSocket,
    listener: Listener,
    flows: usize,
    /// Workers that share its datagrams.
    workers: usize,
}

/// Makes a worker's resolver, on the worker's thread.
type NamesOf = Arc<dyn Fn(&Arc<Resolver>) -> BindingCache + Send + Sync>;

impl DataPlane {
    /// Opens the listeners and starts the workers. Every connection is judged by what `live`
    /// publishes at that moment, and accounted for in `account`.
    ///
    /// # Errors
    /// A listener that cannot be opened (its address is in the text), or a thread that cannot be
    /// started. Nothing is left running.
    pub fn start(settings: Settings, live: Arc<Live>, account: Account) -> io::Result<Self> {
        let memory = Memory::new(settings.names.remember);
        let allowance = Arc::new(Allowance::new(settings.names.limit));
        let names = move |resolver: &Arc<Resolver>| {
            let resolver = Box::new(Arc::clone(resolver));
            BindingCache::new(resolver, memory.clone(), Arc::clone(&allowance))
        };
        Self::launch(settings, live, account, Arc::new(names))
    }

    pub(super) fn launch(
        settings: Settings,
        live: Arc<Live>,
        account: Account,
        names: NamesOf,
    ) -> io::Result<Self> {
        let count = settings.workers.get();
        let mut listening: Vec<Vec<(std::net::TcpListener, Listener)>> = Vec::new();
        listening.resize_with(count, Vec::new);
        let mut udp_listeners: Vec<Vec<UdpListener>> = Vec::new();
        udp_listeners.resize_with(count, Vec::new);
        let mut listeners = Vec::new();
        let most =
            settings.listeners.iter().map(|listener| listener.settings.max_connections).sum();
        let clients = Arc::new(Clients::new(Shares::of_all(sys::connections_max().min(most))));
        // One for all: what is dialled for a client of one listener may come back to another.
        let keeps = settings.listeners.iter().any(|listener| listener.settings.keep_source);
        let dialled = keeps.then(Arc::<Dialled>::default);
        for settings::Listener { settings, socket, datagrams } in settings.listeners {
            let Listen { mode, address, udp, max_connections_per_client, .. } = settings;
            let mut opened = listener::open(settings, socket, count).map_err(|e| {
                let needs = match (mode, e.kind()) {
                    (ListenMode::Tproxy, io::ErrorKind::PermissionDenied) => {
                        "; a transparent listener needs CAP_NET_ADMIN, or a socket unit that opens \
                         it (schengate-tcp.socket)"
                    }
                    _ => "",
                };
                io::Error::new(e.kind(), format!("listener {address}: {e}{needs}"))
            })?;
            if max_connections_per_client.is_none() {
                opened.listener.slots.share(&clients);
            }
            opened.listener.dialled.clone_from(&dialled);
            listeners.push((opened.listener.ingress(), opened.listener.address));
            for (of_worker, socket) in listening.iter_mut().zip(opened.sockets) {
                of_worker.push((socket, opened.listener.clone()));
            }
            if let Some(at) = udp {
                let opened = open_datagrams(at, datagrams, &opened.listener, count)?;
                for (room, udp_listener) in udp_listeners.iter_mut().zip(opened) {
                    room.push(udp_listener);
                }
            }
        }
        let mut name_server = None;
        if let Some(dns) = settings.dns {
            let opened = dns::open(dns.listen, settings.dns_sockets).map_err(|e| {
                io::Error::new(e.kind(), format!("name server {}: {e}", dns.listen))
            })?;
            listeners.push((Ingress::Dns, opened.address));
            name_server = Some((opened, dns));
        }
        let (mut lane_parts, mut lane) = (Vec::new(), None);
        if let Some(settings) = &settings.lane {
            let mut listener = Listener::of_lane(settings);
            if settings.max_connections_per_client.is_none() {
                listener.slots.share(&clients);
            }
            let (parts, watching) = lane::open(settings, &listener, count, account.clone())?;
            (lane_parts, lane) = (parts, Some(watching));
        }
        let mut lane_parts = lane_parts.into_iter();
        let ports = udp::Ports::new();
        let NameService { resolvers, tls, host, .. } = settings.names;
        let resolver = Arc::new(match host {
            None => Resolver::new(&resolvers, tls),
            Some(files) => Resolver::told(&resolvers, tls, files),
        });
        // Workers that are already running end when their commands are dropped with this vector.
        let mut workers = Vec::with_capacity(count);
        for (number, (listeners, datagrams)) in listening.into_iter().zip(udp_listeners).enumerate()
        {
            let (commands, received) = unbounded_channel();
            let parts = WorkerParts {
                listeners,
                datagrams,
                lane: lane_parts.next(),
                live: Arc::clone(&live),
                account: account.clone(),
                names: Arc::clone(&names),
                resolver: Arc::clone(&resolver),
                dns: name_server.take(),
                associated: udp::associated_max(count),
                ports: Arc::clone(&ports),
                commands: received,
                processor: settings.affinity.then_some(number),
                confined: settings.confined,
            };
            let (started, on_start) = mpsc::channel();
            let thread = thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || work(parts, &started))?;
            on_start.recv().map_err(|_| io::Error::other("a worker ended at its start"))??;
            workers.push(WorkerThread { commands, thread });
        }
        Ok(Self { workers, lane, listeners, resolver })
    }

    /// The ingress of every listener and the address it is bound to, in the order of the settings.
    #[must_use]
    pub fn listeners(&self) -> &[(Ingress, SocketAddr)] {
        &self.listeners
    }

    /// Whether there is a name server that could be asked.
    #[must_use]
    pub fn has_name_servers(&self) -> bool {
        self.resolver.has_servers()
    }

    /// Has every live connection judged by the policy now in force; those that it no longer permits
    /// end after its grace, recorded as `policy-change`. Call it after each publication, and when
    /// the published policy lapses into its successor. Returns at once.
    pub fn rejudge(&self) {
        for worker in &self.workers {
            // A worker that is gone has no connections; `ping` tells of it.
            worker.commands.send(Command::Rejudge).ok();
        }
    }

    /// The way for others to ask about the live connections, as long as there are workers.
    #[must_use]
    pub fn connections(&self) -> Connections {
        Connections(self.workers.iter().map(|worker| worker.commands.downgrade()).collect())
    }

    /// Whether every worker answers within `limit`, and none lost a listener. Where this is false
    /// the process should end, so that its supervisor starts it anew.
    #[must_use]
    pub fn ping(&self, limit: Duration) -> bool {
        let (answer, heard) = mpsc::channel();
        self.lane.as_ref().is_none_or(lane::Watching::lives)
            && self.workers.iter().all(|w| w.commands.send(Command::Ping(answer.clone())).is_ok())
            && self.workers.iter().all(|_| heard.recv_timeout(limit).is_ok())
    }

    /// Stops taking connections, and lets go of the listeners: on return their addresses are free,
    /// but for those that somebody else holds as well. Live connections have up to `limit`.
    pub fn let_go(&self, limit: Duration) {
        let (done, heard) = mpsc::channel();
        let told =
            |w: &&WorkerThread| w.commands.send(Command::Drain(limit, Some(done.clone()))).is_ok();
        let workers = self.workers.iter().filter(told).count();
        for _ in 0..workers {
            // One that hangs must not hold up the next process for ever.
            if heard.recv_timeout(LAST_WORDS).is_err() {
                tracing::error!("a worker does not let go of its listeners");
                return;
            }
        }
    }

    /// Stops: no new connections, up to `limit` for the live ones to end by themselves, then they
    /// are closed. Returns when every record is finished.
    pub fn drain(self, limit: Duration) {
        for worker in &self.workers {
            worker.commands.send(Command::Drain(limit, None)).ok();
        }
        for worker in self.workers {
            if worker.thread.join().is_err() {
                tracing::error!("a worker ended in a panic");
            }
        }
    }
}

/// Asks the workers about their live connections. It keeps none of them running, and each answers
/// between two of its other tasks: no connection waits for who looks on.
#[derive(Clone)]
pub struct Connections(Vec<WeakUnboundedSender<Command>>);

impl Connections {
    /// What is wanted, of each worker that still takes connections.
    #[must_use]
    pub fn list(&self, wanted: &Arc<Selection>) -> Vec<oneshot::Receiver<Listed>> {
        self.ask(|answer| Command::List(Arc::clone(wanted), answer))
    }

    /// Bytes of live connections, added up by each worker.
    #[must_use]
    pub fn totals(&self, by: By) -> Vec<oneshot::Receiver<HashMap<String, Total>>> {
        self.ask(|answer| Command::Totals(by, answer))
    }

    /// Ends the connection of this record, where a worker has it: that one answers `true`.
    #[must_use]
    pub fn kill(&self, sequence: u64) -> Vec<oneshot::Receiver<bool>> {
        self.ask(|answer| Command::Kill(sequence, answer))
    }

    fn ask<T>(&self, command: impl Fn(oneshot::Sender<T>) -> Command) -> Vec<oneshot::Receiver<T>> {
        let ask = |worker: &WeakUnboundedSender<Command>| {
            let (answer, answered) = oneshot::channel();
            // A worker that is gone has no connections.
            worker.upgrade()?.send(command(answer)).ok()?;
            Some(answered)
        };
        self.0.iter().filter_map(ask).collect()
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").field("workers", &self.0.len()).finish()
    }
}

impl fmt::Debug for DataPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataPlane").field("listeners", &self.listeners).finish_non_exhaustive()
    }
}

/// The UDP socket beside a TCP listener, for as many workers as it serves.
fn open_datagrams(
    at: SocketAddr,
    inherited: Option<std::net::UdpSocket>,
    tcp: &Listener,
    workers: usize,
) -> io::Result<Vec<UdpListener>> {
    let port = if at.port() == 0 { tcp.address.port() } else { at.port() };
    let at = SocketAddr::new(at.ip(), port);
    let sockets = udp::open(at, inherited, workers).map_err(|e| {
        io::Error::new(
            e.kind(),
            format!(
                "UDP listener {at}: {e}; without CAP_NET_RAW, let a socket unit open it, or \
                     write udp = false"
            ),
        )
    })?;
    let share = sockets.len();
    let Some(first) = sockets.first() else { return Ok(Vec::new()) };
    // One for all workers: what it counts is over all of them.
    let listener = tcp.for_datagrams(first.local_addr()?);
    udp::say_what_is_missing(&listener);
    let flows = udp::flows_max(&listener, share);
    let room = |socket| UdpListener { socket, listener: listener.clone(), flows, workers: share };
    Ok(sockets.into_iter().map(room).collect())
}

/// A worker's life.
fn work(mut parts: WorkerParts, started: &mpsc::Sender<io::Result<()>>) {
    let runtime =
        match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
            Ok(runtime) => runtime,
            Err(fault) => {
                started.send(Err(fault)).ok();
                return;
            }
        };
    runtime.block_on(async move {
        if let Some(number) = parts.processor
            && let Err(fault) = sys::keep_to_processor(number)
        {
            tracing::warn!(%fault, number, "a worker keeps to no processor");
        }
        if parts.confined
            && let Err(fault) = sys::restrict_calls(Role::Worker)
        {
            let text = format!("a worker cannot be confined: {fault}");
            started.send(Err(io::Error::other(text))).ok();
            return;
        }
        let registry = Rc::new(Registry::default());
        let worker = Rc::new(Worker {
            live: parts.live,
            account: parts.account,
            names: (parts.names)(&parts.resolver),
            registry: Rc::clone(&registry),
            associated: udp::Table::new(udp::Limits::of(parts.associated)),
            ports: parts.ports,
            stopping: watch::Sender::new(false),
        });
        let mut accepting = JoinSet::new();
        let ends = |listener: &Listener| listener.lifetime.is_some();
        if parts.listeners.iter().any(|(_, listener)| ends(listener))
            || parts.lane.as_ref().is_some_and(|lane| ends(lane.listener()))
        {
            spawn_local(async move { registry.end_the_old().await });
        }
        let counting = Rc::clone(&worker);
        spawn_local(async move {
            counting.registry.follow(&counting.account).await;
        });
        let registry = Rc::clone(&worker.registry);
        for (socket, listener) in parts.listeners {
            accepting.spawn_local(accept::run(
                socket,
                Rc::new(listener),
                Rc::clone(&worker),
                serve,
            ));
        }
        for UdpListener { socket, listener, flows, workers } in parts.datagrams {
            match UdpSocket::from_std(socket) {
                Ok(socket) => {
                    accepting.spawn_local(udp::run(
                        socket,
                        Rc::new(listener),
                        Rc::clone(&worker),
                        flows,
                        workers,
                    ));
                }
                Err(fault) => {
                    started.send(Err(fault)).ok();
                    return;
                }
            }
        }
        if let Some(part) = parts.lane {
            accepting.spawn_local(lane::run(part, Rc::clone(&worker)));
        }
        if let Some((opened, dns)) = parts.dns {
            accepting.spawn_local(dns::run(opened, dns, parts.resolver, Rc::clone(&worker)));
        }
        started.send(Ok(())).ok();
        let (limit, waiting) = run_commands(&mut parts.commands, &mut accepting, &worker).await;
        accepting.shutdown().await;
        if let Some(waiting) = waiting {
            // Who asked may have given up waiting.
            waiting.send(()).ok();
        }
        worker.stopping.send_replace(true);
        // The connection that was accepted last has not taken a place in the registry yet.
        yield_now().await;
        if timeout(limit, registry.emptied()).await.is_err() {
            registry.cut_all(End::Drained);
            // A connection that does not end now ends with the runtime, and its record says `aborted`.
            timeout(LAST_WORDS, registry.emptied()).await.ok();
        }
    });
}

/// Runs commands until the worker is told to stop, or everyone who could tell it is gone.
async fn run_commands(
    commands: &mut UnboundedReceiver<Command>,
    accepting: &mut JoinSet<io::Error>,
    worker: &Rc<Worker>,
) -> (Duration, Option<mpsc::Sender<()>>) {
    let mut broken = false;
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Rejudge) => {
                    let worker = Rc::clone(worker);
                    spawn_local(async move { worker.rejudge().await });
                }
                // Who asked may have given up waiting.
                Some(Command::List(wanted, answer)) => {
                    let worker = Rc::clone(worker);
                    spawn_local(async move {
                        answer.send(worker.registry.list(&wanted).await).ok();
                    });
                }
                Some(Command::Totals(by, answer)) => {
                    let worker = Rc::clone(worker);
                    spawn_local(async move {
                        answer.send(worker.registry.totals(by).await).ok();
                    });
                }
                Some(Command::Kill(sequence, answer)) => {
                    answer.send(worker.registry.kill(sequence)).ok();
                }
                Some(Command::Ping(_)) if broken => {}
                Some(Command::Ping(answer)) => {
                    // Who asked may have given up waiting.
                    answer.send(()).ok();
                }
                Some(Command::Drain(limit, waiting)) => return (limit, waiting),
                None => return (Duration::ZERO, None),
            },
            Some(ended) = accepting.join_next() => {
                broken = true;
                match ended {
                    Ok(fault) => tracing::error!(%fault, "a listener broke"),
                    Err(fault) => tracing::error!(%fault, "a listener's task ended"),
                }
            }
        }
    }
}
