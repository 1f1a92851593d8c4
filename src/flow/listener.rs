//! Opens listeners, and holds what their connections have to know of them.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::ops::Deref;
use std::sync::Arc;

use socket2::Protocol;

use super::relay::IdleTimeouts;
use super::slots::Slots;
use crate::account::Ingress;
use crate::net::bind::{Sharing, bind};
use crate::net::dialled::{Dialled, Source};
use crate::net::socket::{delay_acks, prepare, set_limits};
use crate::settings::{Lane, Listen, ListenMode};

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
    /// Its connections at once, over all workers.
    pub(super) slots: Slots,
    ingress: Ingress,
}

impl Deref for Listener {
    type Target = Listen;

    fn deref(&self) -> &Listen {
        &self.settings
    }
}

impl Listener {
    /// One that is bound to `address`.
    fn new(settings: Listen, address: SocketAddr) -> Self {
        Self {
            dialled: settings.keep_source.then(Arc::default),
            slots: Slots::new(settings.max_connections, settings.max_connections_per_client),
            ingress: settings.mode.into(),
            settings: Listen { address, ..settings },
        }
    }

    /// That of a lane, which has no address: what comes in by it goes on as it is.
    pub(super) fn of_lane(lane: &Lane) -> Self {
        let settings = Listen {
            mode: ListenMode::Tproxy,
            lifetime: lane.lifetime,
            max_connections: lane.max_connections,
            max_connections_per_client: lane.max_connections_per_client,
            ..Listen::DEFAULT
        };
        let address = settings.address;
        Self { ingress: Ingress::Lane, ..Self::new(settings, address) }
    }

    /// How long a relay in which no byte moves is kept.
    pub(super) fn timeouts(&self) -> IdleTimeouts {
        let idle = self.idle_timeout;
        IdleTimeouts { idle, half_closed: self.half_closed_timeout.min(idle) }
    }

    /// How its connections stand in the record.
    pub(super) const fn ingress(&self) -> Ingress {
        self.ingress
    }

    /// The same for the UDP socket beside a listener, under limits of its own.
    pub(super) fn for_datagrams(&self, address: SocketAddr) -> Self {
        let settings = Listen { address, ..self.settings.clone() };
        Self { settings, slots: self.slots.anew(), ..self.clone() }
    }

    /// Where a client's destinations are dialled from; `None` where the kernel is to choose.
    pub(super) fn source(&self, client: IpAddr) -> Option<Source> {
        let dialled = || self.dialled.clone().unwrap_or_default();
        self.keep_source.then(|| Source { ip: client, dialled: dialled() })
    }
}

impl From<ListenMode> for Ingress {
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
    pub(super) fn with_per_client(self, most: usize) -> Self {
        let slots = Slots::new(self.max_connections, Some(most));
        Self { slots, ..self }
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
    use crate::net::socket::TcpSocket;
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
}
