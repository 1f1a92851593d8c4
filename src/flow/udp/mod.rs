//! Serves transparent UDP, in the order in which a datagram meets the files: the listener ([`run`]),
//! the table of flows, the walk of one flow (read, decide, relay or refuse).
//!
//! The first datagrams of a flow come through the listener, which learns where they were going.
//! Once a flow is permitted it has two sockets of its own, connected to either end: the kernel
//! tells the flows apart from then on, and a relay costs what a plain one does.

mod associate;
mod association;
mod context;
mod flight;
mod icmp;
pub(super) mod ports;
mod refuse;
mod relay;
mod sockets;
pub(super) mod table;
mod walk;

use std::io;
use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use socket2::Protocol;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::yield_now;
use tokio::time::sleep;

use super::accept;
use super::listener::Listener;
use super::worker::Worker;
use crate::account::{Accept, Dropped, Probed};
use crate::net::bind::{Sharing, bind};
use crate::policy::probe;
use crate::sys;
use crate::sys::udp::{self, RecvBatch};
use context::{UdpContext, UdpIngress};
use icmp::IcmpSockets;
use table::Key;

pub(super) use associate::{Near, serve as associate};
pub(super) use association::Pin;
pub(super) use ports::Ports;
pub(super) use sockets::send_from;
pub(super) use table::{Limits, Table};

/// Receive buffer of a listener, in bytes, as far as net.core.rmem_max allows: some 900 first
/// datagrams. A larger one would not save a flood's victims, only have them wait behind it.
const LISTENER_BUFFER: usize = 1024 * 1024;

/// What of a probe comes back, in bytes.
const PROBE_MAX: usize = 16;

/// Wait after the listener failed for want of memory.
const PAUSE: Duration = Duration::from_millis(10);

/// Opens one UDP listener for `workers` workers: a socket for each, which the kernel spreads flows
/// over. An inherited socket is one, and all its flows are the first worker's, so that no two
/// workers share the datagrams of one flow.
pub(super) fn open(
    mut at: SocketAddr,
    inherited: Option<StdSocket>,
    workers: usize,
) -> io::Result<Vec<StdSocket>> {
    let mut sockets: Vec<StdSocket> = Vec::with_capacity(workers);
    match inherited {
        None => {
            for _ in 0..workers {
                let socket = listen(at)?;
                // Port 0 asks for any port; the other workers then share the first one's.
                at = socket.local_addr()?;
                sockets.push(socket);
            }
        }
        Some(socket) => {
            socket.set_nonblocking(true)?;
            sockets.push(socket);
        }
    }
    for socket in &sockets {
        udp::want_origin(socket, socket.local_addr()?.is_ipv6())?;
    }
    Ok(sockets)
}

fn listen(address: SocketAddr) -> io::Result<StdSocket> {
    // The flows' own sockets may have the same address and port as a listener of port 443.
    let socket = bind(address, Protocol::UDP, Sharing::WithOthers, true)?;
    // A smaller one loses more of a burst, and is no fault.
    socket.set_recv_buffer_size(LISTENER_BUFFER).ok();
    Ok(socket.into())
}

/// Flows that one worker of `workers` may have at once. A flow has two sockets; a quarter of the
/// process's descriptors is for flows, so that a flood of them leaves TCP and the record theirs.
pub(super) fn flows_max(listener: &Listener, workers: usize) -> usize {
    let descriptors = udp::descriptor_limit() / 4;
    (listener.max_connections.min(descriptors) / workers.max(1)).max(1)
}

/// The same for the flows of all associations of one worker of `workers`; each has one socket.
pub(super) fn associated_max(workers: usize) -> usize {
    (udp::descriptor_limit() / 8 / workers.max(1)).max(1)
}

/// Says once, at the start, what a listener cannot do without a capability.
pub(super) fn say_what_is_missing(listener: &Listener) {
    let icmp = IcmpSockets::open();
    if !icmp.can_tell(listener.address.is_ipv6()) {
        tracing::info!(listener = %listener.address, "without CAP_NET_RAW, UDP clients are not told by ICMP \
            what was refused or did not arrive, and what is too long leaves in fragments");
    }
    if listener.keep_source && !icmp.can_tell(listener.address.is_ipv6()) {
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
    let clients = listener.slots.clients();
    let limits = Limits::of(flows).with_ports(worker.ports.count() / workers.max(1));
    let is_foreign = match sys::is_of_this_network(socket.as_fd()) {
        Ok(is_ours) => !is_ours,
        Err(fault) => return fault,
    };
    let icmp = if is_foreign { IcmpSockets::none() } else { IcmpSockets::open() };
    let ingress = UdpIngress::Listener { socket: Rc::clone(&socket), icmp, is_foreign };
    let context = Rc::new(UdpContext {
        worker,
        listener,
        table: Table::with_clients(limits, clients),
        ingress,
        serve: walk::serve,
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
                        (Some(client), Some(to))
                            if probe::is_from(context.listener.client.of(client).ip()) =>
                        {
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
