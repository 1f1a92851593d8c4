//! Copies datagrams both ways, in runs: as they came, so they go (UDP_GRO, UDP_SEGMENT).

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, sleep_until};

use super::associate::Association;
use super::flight::{Flight, Pass};
use super::table::{Held, Key, Place};
use super::{Desk, Front};
use crate::account::{Bytes, Dropped, End};
use crate::policy::Permit;
use crate::sys::udp::{self, RUN_MAX, Run};
use crate::sys::unreserved;

/// Time without a datagram after which a flow ends whose client has not yet answered the
/// destination's answer: what Linux's own connection tracking allows (nf_conntrack_udp_timeout).
const YOUNG_IDLE: Duration = Duration::from_secs(30);

/// The same for all others, where the listener's `idle_timeout` is not shorter (RFC 4787, REQ-5).
const IDLE: Duration = Duration::from_secs(300);

/// The same once the gateway is stopping.
const STOPPING_IDLE: Duration = Duration::from_secs(1);

/// Runs that are taken from one socket before the other has its turn.
const TURN: usize = 16;

/// Send and receive buffers of a flow's sockets, in bytes, as far as net.core.wmem_max and rmem_max
/// allow: a burst waits in the kernel while the worker serves others.
const SOCKET_BUFFER: usize = 1024 * 1024;

thread_local! {
    static SHARED: RefCell<Vec<u8>> = RefCell::new(vec![0; RUN_MAX]);
}

/// How a relay ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// For good.
    End(End),
    /// The client began anew: with these datagrams.
    Anew(Vec<Held>),
}

/// The two sides of a permitted flow.
#[derive(Debug)]
pub(super) struct Pipe {
    /// Connected to the permitted destination.
    far: UdpSocket,
    near: Near,
    key: Key,
}

/// How the client is answered: always from the address that it sent to.
#[derive(Debug)]
enum Near {
    /// A socket with the destination's address and port, connected to the client, which from then
    /// on gets the client's datagrams without the listener.
    Own(UdpSocket),
    /// The listener, which is bound to the destination's port; needs no capability.
    Listener(Rc<UdpSocket>),
    /// The client's association, with where its datagrams say that they come from.
    Association(Rc<Association>, SocketAddr),
}

/// Why a permitted flow cannot be relayed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// To the destination.
    #[error("no socket to the destination")]
    Far(#[source] io::Error),
    /// To the client.
    #[error(
        "no socket that sends from the destination's address; give the gateway CAP_NET_RAW, or \
         bind the UDP listener to the destination's port"
    )]
    Near(#[source] io::Error),
}

impl Pipe {
    /// Opens both sides for a permitted destination.
    pub(super) fn open(permit: &Permit, key: Key, front: &Front) -> Result<Self, Fault> {
        let far = dial(permit.destination()).map_err(Fault::Far)?;
        let near = match front {
            Front::Listener { socket, .. } => match answer_from(key) {
                Ok(own) => Near::Own(own),
                Err(fault) => match socket.local_addr() {
                    Ok(at) if at.port() == key.to.port() => Near::Listener(Rc::clone(socket)),
                    Ok(_) | Err(_) => return Err(Fault::Near(fault)),
                },
            },
            // A client that gave an address is answered from that one; one that gave a name learns
            // which address it was.
            Front::Association(association) => {
                let from =
                    if association.name_of(key).is_some() { permit.destination() } else { key.to };
                Near::Association(Rc::clone(association), from)
            }
        };
        Ok(Self { far, near, key })
    }

    /// Relays until nothing moves for the idle time, or the client begins anew.
    pub(super) async fn run(
        &self,
        place: &Place,
        flight: &mut Flight,
        desk: &Rc<Desk>,
        bytes: &Bytes,
    ) -> Ended {
        let shuttle = Shuttle {
            pipe: self,
            desk,
            bytes,
            moved: Cell::new(Instant::now()),
            answered: Cell::new(false),
            grown: Cell::new(false),
        };
        for held in flight.take() {
            shuttle.up(held.bytes(), held.bytes().len());
        }
        let mut stopping = desk.gate.stopping.subscribe();
        let mut last_words = false;
        loop {
            consume_budget().await;
            let idle = shuttle.idle(last_words);
            let due = shuttle.moved.get() + idle;
            let ended = tokio::select! {
                _ = self.far.readable() => shuttle.take_from_far(),
                () = self.near_readable() => shuttle.take_from_near(place, flight),
                held = place.next() => shuttle.letter(place, flight, held),
                () = sleep_until(due) => {
                    (shuttle.moved.get() + idle <= Instant::now()).then_some(Ended::End(End::Idle))
                }
                // Who could stop it is gone with the worker.
                _ = stopping.wait_for(|stopping| *stopping), if !last_words => {
                    last_words = true;
                    None
                }
            };
            if let Some(ended) = ended {
                return ended;
            }
        }
    }

    async fn near_readable(&self) {
        match &self.near {
            // An error is told by the read that follows.
            Near::Own(own) => drop(own.readable().await),
            Near::Listener(_) | Near::Association(..) => std::future::pending().await,
        }
    }
}

/// A relay at work.
struct Shuttle<'a> {
    pipe: &'a Pipe,
    desk: &'a Rc<Desk>,
    bytes: &'a Bytes,
    moved: Cell<Instant>,
    answered: Cell<bool>,
    grown: Cell<bool>,
}

impl Shuttle<'_> {
    fn idle(&self, stopping: bool) -> Duration {
        if stopping {
            STOPPING_IDLE
        } else if self.grown.get() {
            IDLE.min(self.desk.door.patience.idle)
        } else {
            YOUNG_IDLE.min(self.desk.door.patience.idle)
        }
    }

    /// Takes what the destination sent.
    fn take_from_far(&self) -> Option<Ended> {
        for _ in 0..TURN {
            let taken: io::Result<_> = SHARED.with_borrow_mut(|buffer| {
                let run = take(&self.pipe.far, buffer)?;
                self.down(buffer.get(..run.len).unwrap_or_default(), run.segment);
                Ok(())
            });
            match taken {
                Ok(()) => {}
                // An ICMP error of the destination, or of a router: it may pass.
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
        }
        None
    }

    /// Takes what the client sent on its own socket.
    fn take_from_near(&self, place: &Place, flight: &mut Flight) -> Option<Ended> {
        let Near::Own(own) = &self.pipe.near else { return None };
        for _ in 0..TURN {
            let taken: io::Result<_> = SHARED.with_borrow_mut(|buffer| {
                let run = take(own, buffer)?;
                Ok(self.run_up(place, flight, buffer.get(..run.len).unwrap_or_default(), run))
            });
            match taken {
                Ok(None) => {}
                Ok(ended @ Some(_)) => return ended,
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
        }
        None
    }

    fn run_up(&self, place: &Place, flight: &mut Flight, bytes: &[u8], run: Run) -> Option<Ended> {
        if run.from != Some(self.pipe.key.client) {
            // Between bind and connect the socket took what others sent to the same destination:
            // theirs is another flow, with a verdict of its own.
            for datagram in bytes.chunks(run.segment.max(1)) {
                if let Some(client) = run.from {
                    self.desk.deliver(Key { client, ..self.pipe.key }, datagram);
                }
            }
            return None;
        }
        let turn = self.desk.gate.registry.turn();
        if bytes.chunks(run.segment.max(1)).all(|datagram| !flight.looks_at(datagram, turn)) {
            self.up_and_grow(place, bytes, run.segment);
            return None;
        }
        for datagram in bytes.chunks(run.segment.max(1)) {
            let Some(held) = place.hold(datagram) else {
                self.desk.gate.account.metrics().dropped(Dropped::Held);
                continue;
            };
            if let ended @ Some(_) = self.letter(place, flight, held) {
                return ended;
            }
        }
        None
    }

    /// One datagram of the client.
    fn letter(&self, place: &Place, flight: &mut Flight, held: Held) -> Option<Ended> {
        if !flight.looks_at(held.bytes(), self.desk.gate.registry.turn()) {
            self.up_and_grow(place, held.bytes(), held.bytes().len());
            return None;
        }
        let pass = flight.pass(held);
        place.charge_reader(flight.excess());
        match pass {
            Pass::Go => {
                for held in flight.take() {
                    self.up_and_grow(place, held.bytes(), held.bytes().len());
                }
            }
            Pass::Held => {}
            Pass::Drop => self.desk.gate.account.metrics().dropped(Dropped::Unread),
            Pass::Anew => return Some(Ended::Anew(flight.take())),
        }
        None
    }

    fn up_and_grow(&self, place: &Place, run: &[u8], segment: usize) {
        if self.answered.get() && !self.grown.replace(true) {
            place.grow_up();
        }
        self.up(run, segment);
    }

    fn up(&self, run: &[u8], segment: usize) {
        self.moved.set(Instant::now());
        let send = || udp::send(&self.pipe.far, run, segment, None, None);
        // The error of an earlier datagram, brought by ICMP, stands in the way of the next one once.
        let sent = send().or_else(|e| {
            let told = [io::ErrorKind::ConnectionRefused, io::ErrorKind::HostUnreachable];
            if told.contains(&e.kind()) { send() } else { Err(e) }
        });
        match sent {
            Ok(()) => self.bytes.up(run.len()),
            Err(_) => self.desk.gate.account.metrics().dropped(Dropped::Unsent),
        }
    }

    fn down(&self, run: &[u8], segment: usize) {
        self.moved.set(Instant::now());
        self.answered.set(true);
        let Key { client, to, .. } = self.pipe.key;
        let sent = match &self.pipe.near {
            Near::Own(own) => udp::send(own, run, segment, None, None),
            Near::Listener(listener) => send_from(listener, run, segment, client, to),
            Near::Association(association, from) => association.answer(*from, run, segment),
        };
        match sent {
            Ok(()) => self.bytes.down(run.len()),
            Err(_) => self.desk.gate.account.metrics().dropped(Dropped::Unsent),
        }
    }
}

/// Sends from the listener, as from `from`, whose port is the listener's.
pub(in crate::flow) fn send_from(
    listener: &UdpSocket,
    run: &[u8],
    segment: usize,
    client: SocketAddr,
    from: SocketAddr,
) -> io::Result<()> {
    // A dual-stack socket takes IPv4 clients by their mapped address only.
    let dual = listener.local_addr()?.is_ipv6();
    let to = match client {
        SocketAddr::V4(v4) if dual => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        SocketAddr::V4(_) | SocketAddr::V6(_) => client,
    };
    udp::send(listener, run, segment, Some(to), Some(from.ip()))
}

fn take(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Run> {
    socket.try_io(Interest::READABLE, || udp::receive(socket, buffer))
}

/// A socket that is connected to the permitted destination, and to nothing else.
fn dial(destination: SocketAddr) -> io::Result<UdpSocket> {
    let socket = open(destination)?;
    socket.connect(&destination.into())?;
    finish(socket)
}

/// A transparent socket with the destination's address and port, connected to the client.
pub(super) fn answer_from(key: Key) -> io::Result<UdpSocket> {
    let socket = open(key.to)?;
    socket.set_reuse_address(true)?;
    // One flag in the kernel, whichever of the two options sets it; each asks its own family.
    if key.to.is_ipv6() {
        socket.set_ip_transparent_v6(true)?;
    } else {
        socket.set_ip_transparent_v4(true)?;
    }
    socket.bind(&key.to.into())?;
    socket.connect(&key.client.into())?;
    finish(socket)
}

fn open(address: SocketAddr) -> io::Result<Socket> {
    let kind = Type::DGRAM.nonblocking();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::UDP))?;
    let socket = unreserved(socket)?;
    // As much as the host's limits allow; less is slower, and no fault.
    socket.set_recv_buffer_size(SOCKET_BUFFER).ok();
    socket.set_send_buffer_size(SOCKET_BUFFER).ok();
    Ok(socket)
}

fn finish(socket: Socket) -> io::Result<UdpSocket> {
    // A kernel without it hands over one datagram at a time.
    udp::want_runs(&socket).ok();
    UdpSocket::from_std(socket.into())
}
