//! Transparent UDP, in the order in which a datagram meets the files: the listener ([`run`]), the
//! table of flows, the walk of one flow (read, decide, relay or refuse).
//!
//! The first datagrams of a flow come through the listener, which learns where they were going.
//! Once a flow is permitted it has two sockets of its own, connected to either end: the kernel
//! tells the flows apart from then on, and a relay costs what a plain one does.

mod associate;
mod flight;
pub(super) mod ports;
mod refuse;
mod relay;
pub(super) mod table;
mod walk;

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::rc::Rc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::{spawn_local, yield_now};
use tokio::time::sleep;

use super::accept;
use super::listener::Listener;
use super::settings::Datagrams;
use super::worker::Worker;
use crate::account::{Accept, Dropped, Probed};
use crate::policy::probe;
use crate::sys::udp::{self, RecvBatch};
use associate::Association;
use refuse::Own;
use table::{Delivered, Key};

pub(super) use associate::{Near, Pin, serve as associate};
pub(super) use ports::Ports;
pub(super) use relay::send_from;
pub(super) use table::{Limits, Table};

/// Receive buffer of a listener, in bytes, as far as net.core.rmem_max allows: some 900 first
/// datagrams. A larger one would not save a flood's victims, only have them wait behind it.
const LISTENER_BUFFER: usize = 1024 * 1024;

/// What of a probe comes back, in bytes.
const PROBE_MAX: usize = 16;

/// Wait after the listener failed for want of memory.
const PAUSE: Duration = Duration::from_millis(10);

/// What the UDP flows of one way in share: of a listener, or of an association.
struct UdpContext {
    worker: Rc<Worker>,
    listener: Rc<Listener>,
    table: Rc<Table>,
    ingress: UdpIngress,
}

/// Where datagrams come in, and how their clients are answered.
enum UdpIngress {
    /// A transparent listener.
    Listener { socket: Rc<UdpSocket>, own: Own },
    /// The relay socket of one SOCKS5 client.
    Association(Rc<Association>),
}

/// Opens one UDP listener for `workers` workers: a socket for each, which the kernel spreads flows
/// over. An inherited socket is one, and all its flows are the first worker's, so that no two
/// workers share the datagrams of one flow.
pub(super) fn open(datagrams: Datagrams, workers: usize) -> io::Result<Vec<StdSocket>> {
    let mut sockets: Vec<StdSocket> = Vec::with_capacity(workers);
    match datagrams {
        Datagrams::Address(mut at) => {
            for _ in 0..workers {
                let socket = bind(at)?;
                // Port 0 asks for any port; the other workers then share the first one's.
                at = socket.local_addr()?;
                sockets.push(socket);
            }
        }
        Datagrams::Inherited(socket) => {
            socket.set_nonblocking(true)?;
            sockets.push(socket);
        }
    }
    for socket in &sockets {
        udp::want_origin(socket, socket.local_addr()?.is_ipv6())?;
    }
    Ok(sockets)
}

fn bind(address: SocketAddr) -> io::Result<StdSocket> {
    let socket =
        Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    // The flows' own sockets may have the same address and port as a listener of port 443.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // One flag in the kernel, whichever of the two options sets it; an IPv6 socket takes both.
    socket.set_ip_transparent_v4(true)?;
    // A smaller one loses more of a burst, and is no fault.
    socket.set_recv_buffer_size(LISTENER_BUFFER).ok();
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Flows that one worker of `workers` may have at once. A flow has two sockets; a quarter of the
/// process's descriptors is for flows, so that a flood of them leaves TCP and the record theirs.
pub(super) fn flows_max(listener: &Listener, workers: usize) -> usize {
    let descriptors = udp::descriptor_limit() / 4;
    (listener.max_connections().min(descriptors) / workers.max(1)).max(1)
}

/// The same for the flows of all associations of one worker of `workers`; each has one socket.
pub(super) fn associated_max(workers: usize) -> usize {
    (udp::descriptor_limit() / 8 / workers.max(1)).max(1)
}

/// Says once, at the start, what a listener cannot do without a capability.
pub(super) fn say_what_is_missing(listener: &Listener) {
    let own = Own::open();
    if !own.can_tell(listener.address.is_ipv6()) {
        tracing::info!(listener = %listener.address, "without CAP_NET_RAW, UDP clients are not told by ICMP \
            what was refused or did not arrive, and what is too long leaves in fragments");
    }
    if listener.keep_source && !own.can_tell(listener.address.is_ipv6()) {
        tracing::warn!(listener = %listener.address, "keep_source needs CAP_NET_RAW for UDP: without it \
            permitted datagrams are dropped");
    }
}

/// Takes datagrams until the listener breaks; to stop it, drop the future. `workers` share its flows.
pub(super) async fn run(
    socket: UdpSocket,
    listener: Rc<Listener>,
    worker: Rc<Worker>,
    flows: usize,
    workers: usize,
) -> io::Error {
    let socket = Rc::new(socket);
    let clients = listener.clients();
    let limits = Limits::of(flows).with_ports(worker.ports.count() / workers.max(1));
    let context = Rc::new(UdpContext {
        worker,
        listener,
        table: Table::with_clients(limits, clients),
        ingress: UdpIngress::Listener { socket: Rc::clone(&socket), own: Own::open() },
    });
    let mut batch = RecvBatch::default();
    loop {
        if let Err(fault) = socket.readable().await {
            return fault;
        }
        let received = socket.try_io(Interest::READABLE, || batch.receive(&*socket));
        match received {
            Ok(_) => {
                for (datagram, bytes) in batch.datagrams() {
                    match (datagram.from, datagram.to) {
                        (Some(client), Some(to)) if probe::is_from(client.ip()) => {
                            context.worker.account.metrics().probed(Probed::Udp);
                            // Its own few bytes, to the one address that nobody else has.
                            let bytes = bytes.get(..bytes.len().min(PROBE_MAX)).unwrap_or_default();
                            send_from(&socket, bytes, bytes.len(), client, to).ok();
                        }
                        (Some(client), Some(to)) => {
                            context.deliver(Key::transparent(client, to), bytes);
                        }
                        _ => context.worker.account.metrics().dropped(Dropped::NoOrigin),
                    }
                }
                // The flows have their turn before the next batch: a flood does not outgrow them.
                yield_now().await;
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(fault) => match accept::class(&fault) {
                Accept::Connection => yield_now().await,
                Accept::Exhausted => sleep(PAUSE).await,
                Accept::Listener => return fault,
            },
        }
    }
}

impl UdpContext {
    /// Brings a datagram to its flow, and begins the flow where there is none.
    fn deliver(self: &Rc<Self>, key: Key, datagram: &[u8]) {
        match self.table.deliver(key, datagram) {
            Delivered::Waits => {}
            Delivered::New(place) => {
                spawn_local(walk::serve(place, Rc::clone(self)));
            }
            Delivered::Dropped(cause) => self.worker.account.metrics().dropped(cause),
        }
    }

    /// Waits until the way in is gone, and its flows with it; that of a listener outlives them.
    async fn closed(&self) {
        match &self.ingress {
            UdpIngress::Listener { .. } => std::future::pending().await,
            UdpIngress::Association(association) => association.closed().await,
        }
    }
}

impl fmt::Debug for UdpContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpContext").field("listener", &self.listener).finish_non_exhaustive()
    }
}
