//! Opens listeners, and holds what their connections have to know of them and how many of these there
//! may be.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use socket2::Protocol;

use super::clients::{Clients, Place, Shares, hellos_max};
use super::relay::IdleTimeouts;
use crate::account::{Limit, Way};
use crate::net::bind::{Sharing, bind};
use crate::net::dialled::{Dialled, Source};
use crate::net::socket::{TcpSocket, delay_acks, prepare, set_limits};
use crate::settings::{Listen, ListenMode};

/// Connections that the kernel holds until they are accepted; it takes less where
/// net.core.somaxconn is lower.
const BACKLOG: i32 = 65_535;

/// What a connection has to know of the listener that took it.
#[derive(Debug, Clone)]
pub(super) struct Listener {
    /// As the policy file has it, but for the address, which is the one that it is bound to.
    settings: Listen,
    /// What is dialled from clients' own addresses, by whichever listener; where none does, nobody
    /// asks.
    pub(super) dialled: Option<Arc<Dialled>>,
    /// What is taken at once, over all workers.
    taken: Arc<Taken>,
    /// Where each client has a limit of its own.
    clients: Option<Arc<Clients>>,
}

impl Deref for Listener {
    type Target = Listen;

    fn deref(&self) -> &Listen {
        &self.settings
    }
}

/// What a listener's connections take.
#[derive(Debug, Default)]
struct Taken {
    connections: AtomicUsize,
    /// Connections whose first bytes are not yet known.
    hellos: AtomicUsize,
}

impl Listener {
    /// One that is bound to `address`.
    fn new(settings: Listen, address: SocketAddr) -> Self {
        let own = settings.max_connections_per_client.and_then(NonZeroUsize::new);
        let own = own.map(|most| Shares::set(most, settings.max_connections));
        Self {
            dialled: settings.keep_source.then(Arc::default),
            taken: Arc::default(),
            clients: own.map(|shares| Arc::new(Clients::new(shares))),
            settings: Listen { address, ..settings },
        }
    }

    /// How long a relay in which no byte moves is kept.
    pub(super) fn timeouts(&self) -> IdleTimeouts {
        let idle = self.idle_timeout;
        IdleTimeouts { idle, half_closed: self.half_closed_timeout.min(idle) }
    }

    /// How its connections stand in the record.
    pub(super) fn way(&self) -> Way {
        self.mode.into()
    }

    /// Gives each client a share of what all listeners together may have.
    pub(super) fn share(&mut self, clients: &Arc<Clients>) {
        self.clients = Some(Arc::clone(clients));
    }

    /// The same for the UDP socket beside a listener, under limits of its own.
    pub(super) fn for_datagrams(&self, address: SocketAddr) -> Self {
        let clients = self.clients.as_ref().map(|clients| Arc::new(clients.anew()));
        let settings = Listen { address, ..self.settings.clone() };
        Self { settings, taken: Arc::default(), clients, ..self.clone() }
    }

    /// Where a client's destinations are dialled from; `None` where the kernel is to choose.
    pub(super) fn source(&self, client: IpAddr) -> Option<Source> {
        let dialled = || self.dialled.clone().unwrap_or_default();
        self.keep_source.then(|| Source { ip: client, dialled: dialled() })
    }

    /// What each client has at once, where it has a limit of its own.
    pub(super) fn clients(&self) -> Option<Arc<Clients>> {
        self.clients.clone()
    }
}

impl From<ListenMode> for Way {
    fn from(mode: ListenMode) -> Self {
        match mode {
            ListenMode::Tproxy => Self::Tproxy,
            ListenMode::Redirect => Self::Redirect,
            ListenMode::Proxy => Self::Proxy,
        }
    }
}

#[cfg(test)]
impl Listener {
    /// One whose own address is nobody's destination.
    pub(super) fn for_tests(mode: ListenMode) -> Self {
        let settings = Listen {
            mode,
            connect_timeout: std::time::Duration::from_secs(3),
            idle_timeout: std::time::Duration::from_secs(60),
            max_connections: 100,
            ..Listen::DEFAULT
        };
        Self::new(settings, SocketAddr::from(([192, 0, 2, 1], 15001)))
    }

    /// The same, with a limit for each client.
    pub(super) fn with_per_client(self, most: NonZeroUsize) -> Self {
        let most = Shares::set(most, self.max_connections);
        Self { clients: Some(Arc::new(Clients::new(most))), ..self }
    }
}

/// A connection, and what it holds while it lives.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) socket: TcpSocket,
    pub(super) peer: SocketAddr,
    pub(super) listener: Rc<Listener>,
    pub(super) slot: Slot,
}

/// One of a listener's connections, given back when dropped. Boxed: every connection keeps room for
/// it as long as it lives.
#[derive(Debug)]
pub(super) struct Slot(Box<Holds>);

#[derive(Debug)]
struct Holds {
    taken: Arc<Taken>,
    /// Where each client has a limit of its own.
    place: Option<Place>,
    /// Its first bytes are still to be read.
    hears: Cell<bool>,
}

impl Slot {
    /// # Errors
    /// The limit that was reached.
    pub(super) fn take(listener: &Listener, client: IpAddr) -> Result<Self, Limit> {
        // The client's own limit comes first: over it, no place of the others is taken.
        let place = listener.clients.as_ref().map(|clients| clients.take(client));
        let place = place.transpose()?;
        let one_of = |count: &AtomicUsize, most| {
            let below = |taken| (taken < most).then_some(taken + 1);
            count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below).is_ok()
        };
        if !one_of(&listener.taken.connections, listener.max_connections) {
            return Err(Limit::Connections);
        }
        if !one_of(&listener.taken.hellos, hellos_max(listener.max_connections)) {
            listener.taken.connections.fetch_sub(1, Ordering::Relaxed);
            return Err(Limit::Hellos);
        }
        let taken = Arc::clone(&listener.taken);
        Ok(Self(Box::new(Holds { taken, place, hears: Cell::new(true) })))
    }

    /// The first bytes of the connection are known, or are not asked for.
    pub(super) fn heard(&self) {
        let Holds { taken, place, hears } = &*self.0;
        if hears.replace(false) {
            taken.hellos.fetch_sub(1, Ordering::Relaxed);
            place.iter().for_each(Place::heard);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.heard();
        self.0.taken.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A listener, and a socket of its own for each worker.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) listener: Listener,
    pub(super) sockets: Vec<StdListener>,
}

/// Opens one listener for `workers` workers, or takes the `socket` that was opened for it.
pub(super) fn open(
    settings: Listen,
    socket: Option<StdListener>,
    workers: usize,
) -> io::Result<Opened> {
    let sockets = match socket {
        None => {
            let mut sockets = Vec::with_capacity(workers);
            let mut at = settings.address;
            for _ in 0..workers {
                let socket = listen(at, settings.mode)?;
                // Port 0 asks for any port; the other workers then share the first one's.
                at = socket.local_addr()?;
                sockets.push(socket);
            }
            sockets
        }
        Some(socket) => {
            socket.set_nonblocking(true)?;
            (0..workers).map(|_| socket.try_clone()).collect::<io::Result<_>>()?
        }
    };
    for socket in &sockets {
        // Accepted sockets inherit all of it.
        prepare(socket);
        set_limits(socket, settings.keepalive, settings.user_timeout)?;
        if settings.mode != ListenMode::Proxy {
            delay_acks(socket);
        }
    }
    let first = sockets.first().ok_or_else(|| io::Error::other("a data plane without workers"))?;
    Ok(Opened { listener: Listener::new(settings, first.local_addr()?), sockets })
}

fn listen(address: SocketAddr, mode: ListenMode) -> io::Result<StdListener> {
    let is_transparent = mode == ListenMode::Tproxy;
    let socket = bind(address, Protocol::TCP, Sharing::WithOthers, is_transparent)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::time::Duration;

    use super::*;
    use crate::sys;

    /// On any port.
    fn settings() -> Listen {
        Listen {
            keepalive: Some(Duration::from_secs(77)),
            user_timeout: Some(Duration::from_secs(33)),
            max_connections: 2,
            max_connections_per_client: Some(0),
            ..Listen::DEFAULT
        }
    }

    #[test]
    fn workers_share_one_port() {
        let opened = open(settings(), None, 3).unwrap();
        assert_eq!(opened.sockets.len(), 3);
        assert_ne!(opened.listener.address.port(), 0);
        for socket in &opened.sockets {
            assert_eq!(socket.local_addr().unwrap(), opened.listener.address);
        }
        let inherited = Some(StdListener::bind(("127.0.0.1", 0)).unwrap());
        assert_eq!(open(settings(), inherited, 2).unwrap().sockets.len(), 2);
    }

    #[test]
    fn accepted_sockets_have_their_options_from_the_listener() {
        use std::io::Write;
        use std::os::fd::AsFd;

        let opened = open(settings(), None, 1).unwrap();
        let mut client = std::net::TcpStream::connect(opened.listener.address).unwrap();
        opened.sockets[0].set_nonblocking(false).unwrap();
        let (accepted, _) = opened.sockets[0].accept().unwrap();
        assert!(accepted.nodelay().unwrap());
        let socket = socket2::SockRef::from(&accepted);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(77));
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(33)));
        client.write_all(b"x").unwrap();
        accepted.peek(&mut [0]).unwrap();
        let read = sys::receive(accepted.as_fd(), &mut [0; 8]).unwrap();
        assert_eq!(read.left, Some(0));
    }

    #[tokio::test(flavor = "local")]
    async fn an_accepted_socket_waits_with_its_acknowledgements_until_it_is_told() {
        let opened = open(Listen { mode: ListenMode::Redirect, ..settings() }, None, 1).unwrap();
        let _client = std::net::TcpStream::connect(opened.listener.address).unwrap();
        let (socket, _) = sys::accept(opened.sockets[0].as_fd()).unwrap();
        let socket = TcpSocket::accepted(socket).unwrap();
        let at_once = || socket2::SockRef::from(&socket).tcp_quickack().unwrap();
        assert!(!at_once());
        socket.quickack();
        assert!(at_once());
    }

    #[test]
    fn the_limit_holds_over_all_workers_and_places_come_back() {
        let listener = open(settings(), None, 1).unwrap().listener;
        let other_worker = listener.clone();
        let take =
            |listener| Slot::take(listener, IpAddr::from([192, 0, 2, 1])).inspect(Slot::heard);
        let first = take(&listener).unwrap();
        let _second = take(&other_worker).unwrap();
        assert_eq!(take(&listener).unwrap_err(), Limit::Connections);
        drop(first);
        assert!(take(&other_worker).is_ok());
    }

    #[test]
    fn h09_half_of_the_connections_may_wait_for_their_first_bytes() {
        let listener = open(Listen { max_connections: 4, ..settings() }, None, 1).unwrap().listener;
        let take = || Slot::take(&listener, IpAddr::from([192, 0, 2, 1]));
        let (first, second) = (take().unwrap(), take().unwrap());
        assert_eq!(take().unwrap_err(), Limit::Hellos);
        first.heard();
        let third = take().unwrap();
        assert_eq!(take().unwrap_err(), Limit::Hellos);
        [&second, &third].into_iter().for_each(Slot::heard);
        let fourth = take().unwrap();
        assert_eq!(take().unwrap_err(), Limit::Connections);
        drop((first, second, third, fourth));
        let taken = [&listener.taken.connections, &listener.taken.hellos];
        assert_eq!(taken.map(|count| count.load(Ordering::Relaxed)), [0, 0]);
    }

    #[test]
    fn a_client_over_its_limit_leaves_the_places_of_the_listener_to_others() {
        let with = Listen { max_connections_per_client: Some(1), ..settings() };
        let listener = open(with, None, 1).unwrap().listener;
        let other_worker = listener.clone();
        let take = |listener, last| {
            Slot::take(listener, IpAddr::from([192, 0, 2, last])).inspect(Slot::heard)
        };
        let first = take(&listener, 1).unwrap();
        assert_eq!(take(&other_worker, 1).unwrap_err(), Limit::Client);
        let _other = take(&listener, 2).unwrap();
        // A listener that is full takes no place of the client's either.
        assert_eq!(take(&listener, 3).unwrap_err(), Limit::Connections);
        drop(first);
        assert!(take(&listener, 3).is_ok());
    }
}
