//! Copies datagrams both ways, in runs: as they came, so they go (UDP_GRO, UDP_SEGMENT).

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::coop::consume_budget;
use tokio::time::sleep_until;

use super::association::Association;
use super::context::{UdpContext, UdpIngress};
use super::flight::{Flight, Pass};
use super::icmp::Error;
use super::ports::{Port, Unopened};
use super::refuse;
use super::sockets::{answer_from, finish, send_from};
use super::table::{Key, Place, QueuedDatagram};
use crate::account::{Bytes, Dropped, End};
use crate::net::canonical;
use crate::net::idle::IdleTimer;
use crate::policy::Permit;
use crate::sys::udp::{self, RUN_MAX, Run};

/// Time without a datagram after which a flow ends whose client has not yet answered the
/// destination's answer: what Linux's own connection tracking allows (nf_conntrack_udp_timeout).
const UNVALIDATED_IDLE: Duration = Duration::from_secs(30);

/// The same for all others, where the listener's `idle_timeout` is not shorter (RFC 4787, REQ-5).
const IDLE: Duration = Duration::from_secs(300);

/// The same once the gateway is stopping.
const STOPPING_IDLE: Duration = Duration::from_secs(1);

/// Runs that are taken from one socket before the other has its turn.
const TURN: usize = 16;

thread_local! {
    static SHARED: RefCell<Vec<u8>> = RefCell::new(vec![0; RUN_MAX]);
}

/// How a relay ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// For good.
    End(End),
    /// The client began anew: with these datagrams.
    Restart(Vec<QueuedDatagram>),
}

/// The two sides of a permitted flow.
#[derive(Debug)]
pub(super) struct Pipe {
    /// Connected to the permitted destination.
    far: UdpSocket,
    /// In the form in which the kernel tells who sent a datagram.
    destination: SocketAddr,
    near: Near,
    key: Key,
    /// Given back when `far` is closed.
    _port: Port,
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
    #[error("nothing can be sent to the destination")]
    Far(#[source] Unopened),
    /// To the client.
    #[error(
        "no socket that sends from the destination's address; give the gateway CAP_NET_RAW, or \
         bind the UDP listener to the destination's port"
    )]
    Near(#[source] io::Error),
}

impl Pipe {
    /// Opens both sides for a permitted destination.
    pub(super) fn open(permit: &Permit, key: Key, context: &UdpContext) -> Result<Self, Fault> {
        let destination = permit.destination();
        let keep =
            context.listener.keep_source && matches!(context.ingress, UdpIngress::Listener { .. });
        let dialled = context.worker.ports.dial(key.client, keep, permit);
        let (far, port) = dialled.map_err(Fault::Far)?;
        let far = finish(far).map_err(|fault| Fault::Far(Unopened::Failed(fault)))?;
        let near = match &context.ingress {
            UdpIngress::Listener { socket, is_foreign, .. } => {
                match answer_from(key, *is_foreign) {
                    Ok(own) => Near::Own(own),
                    Err(fault) => match socket.local_addr() {
                        Ok(at) if at.port() == key.to.port() => Near::Listener(Rc::clone(socket)),
                        Ok(_) | Err(_) => return Err(Fault::Near(fault)),
                    },
                }
            }
            // A client that gave an address is answered from that one; one that gave a name learns
            // which address it was.
            UdpIngress::Association(association) => {
                let from = if association.name_of(key).is_some() { destination } else { key.to };
                Near::Association(Rc::clone(association), from)
            }
        };
        Ok(Self { far, destination: canonical(destination), near, key, _port: port })
    }

    /// Relays until nothing moves for the idle time, or the client begins anew.
    pub(super) async fn run(
        &self,
        place: &Place,
        flight: &mut Flight,
        context: &Rc<UdpContext>,
        bytes: &Bytes,
    ) -> Ended {
        let shuttle = Shuttle {
            pipe: self,
            context,
            bytes,
            idle_timer: IdleTimer::start(),
            answered: Cell::new(false),
            validated: Cell::new(false),
        };
        for held in flight.take() {
            shuttle.up(held.bytes(), held.bytes().len());
        }
        let mut stopping = context.worker.stopping.subscribe();
        let mut last_words = false;
        loop {
            consume_budget().await;
            let idle = shuttle.idle(last_words);
            let ended = tokio::select! {
                _ = self.far.ready(Interest::READABLE.add(Interest::ERROR)) => shuttle.take_from_far(),
                () = self.near_readable() => shuttle.take_from_near(place, flight),
                held = place.next() => shuttle.pass_on(place, flight, held),
                () = sleep_until(shuttle.idle_timer.due(idle)) => {
                    shuttle.idle_timer.has_timed_out(idle).then_some(Ended::End(End::Idle))
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
    context: &'a Rc<UdpContext>,
    bytes: &'a Bytes,
    idle_timer: IdleTimer,
    answered: Cell<bool>,
    validated: Cell<bool>,
}

impl Shuttle<'_> {
    fn idle(&self, stopping: bool) -> Duration {
        if stopping {
            STOPPING_IDLE
        } else if self.validated.get() {
            IDLE.min(self.context.listener.idle_timeout)
        } else {
            UNVALIDATED_IDLE.min(self.context.listener.idle_timeout)
        }
    }

    /// Takes what the destination sent, and what was said of the datagrams to it.
    fn take_from_far(&self) -> Option<Ended> {
        for _ in 0..TURN {
            match self.pipe.far.try_io(Interest::ERROR, || udp::told(&self.pipe.far)) {
                Ok(told) => {
                    if let Some(error) = Error::of(told, self.pipe.key) {
                        self.tell(error, told.quoted);
                    }
                }
                Err(_) => break,
            }
        }
        for _ in 0..TURN {
            let taken: io::Result<_> = SHARED.with_borrow_mut(|buffer| {
                match take_only(&self.pipe.far, self.pipe.destination, buffer)? {
                    Some(run) => self.down(buffer.get(..run.len).unwrap_or_default(), run.segment),
                    None => self.context.worker.account.metrics().dropped(Dropped::Stranger),
                }
                Ok(())
            });
            match taken {
                Ok(()) => {}
                // An ICMP error of the destination, or of a router: the client was told of it, or is
                // with what waits behind it, and it may pass.
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
        }
        None
    }

    /// Tells the client what became of a datagram of its own (RFC 5508 §4).
    fn tell(&self, error: Error, length: usize) {
        refuse::tell(self.context, self.pipe.key, error, length);
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
                    self.context.deliver(Key { client, ..self.pipe.key }, datagram);
                }
            }
            return None;
        }
        let turn = self.context.worker.registry.turn();
        if bytes.chunks(run.segment.max(1)).all(|datagram| !flight.looks_at(datagram, turn)) {
            self.up_and_validate(place, bytes, run.segment);
            return None;
        }
        for datagram in bytes.chunks(run.segment.max(1)) {
            let Some(held) = place.hold(datagram) else {
                self.context.worker.account.metrics().dropped(Dropped::Held);
                continue;
            };
            if let ended @ Some(_) = self.pass_on(place, flight, held) {
                return ended;
            }
        }
        None
    }

    /// One datagram of the client.
    fn pass_on(&self, place: &Place, flight: &mut Flight, held: QueuedDatagram) -> Option<Ended> {
        if !flight.looks_at(held.bytes(), self.context.worker.registry.turn()) {
            self.up_and_validate(place, held.bytes(), held.bytes().len());
            return None;
        }
        let pass = flight.pass(held);
        place.charge_reader(flight.excess());
        match pass {
            Pass::Go => {
                for held in flight.take() {
                    self.up_and_validate(place, held.bytes(), held.bytes().len());
                }
            }
            Pass::Held => {}
            Pass::Drop => self.context.worker.account.metrics().dropped(Dropped::Unread),
            Pass::Restart => return Some(Ended::Restart(flight.take())),
        }
        None
    }

    fn up_and_validate(&self, place: &Place, run: &[u8], segment: usize) {
        if self.answered.get() && !self.validated.replace(true) {
            place.validate();
        }
        self.up(run, segment);
    }

    fn up(&self, run: &[u8], segment: usize) {
        self.idle_timer.touch();
        match send(&self.pipe.far, run, segment) {
            Ok(()) => self.bytes.up(run.len()),
            Err(e) if e.raw_os_error() == Some(libc::EMSGSIZE) => {
                run.chunks(segment.max(1)).for_each(|datagram| self.up_one(datagram));
            }
            Err(_) => self.context.worker.account.metrics().dropped(Dropped::Unsent),
        }
    }

    /// Sends one datagram of a run in which some are longer than the far side's packets may be.
    fn up_one(&self, datagram: &[u8]) {
        let sent = match send(&self.pipe.far, datagram, datagram.len()) {
            Err(e) if e.raw_os_error() == Some(libc::EMSGSIZE) => self.too_big(datagram),
            sent => sent.map(|()| true),
        };
        match sent {
            Ok(true) => self.bytes.up(datagram.len()),
            Ok(false) => self.context.worker.account.metrics().dropped(Dropped::TooBig),
            Err(_) => self.context.worker.account.metrics().dropped(Dropped::Unsent),
        }
    }

    /// Whether the datagram went, in fragments: where it came in fragments itself, or its sender
    /// cannot be told what fits. Else the client is told, as by a router.
    fn too_big(&self, datagram: &[u8]) -> io::Result<bool> {
        let Pipe { far, near, key, .. } = self.pipe;
        let v6 = self.pipe.destination.is_ipv6();
        let headers = if v6 { 40 + 8 } else { 20 + 8 };
        let came_whole = match near {
            Near::Own(own) => datagram.len() + headers <= udp::mtu(own, v6)?,
            Near::Listener(_) | Near::Association(..) => false,
        };
        if came_whole && refuse::can_tell(self.context, *key) {
            self.tell(Error::too_big(*key, udp::mtu(far, v6)?), datagram.len());
            return Ok(false);
        }
        udp::send_in_pieces(far, v6, datagram).map(|()| true)
    }

    fn down(&self, run: &[u8], segment: usize) {
        self.idle_timer.touch();
        self.answered.set(true);
        let Key { client, to, .. } = self.pipe.key;
        let sent = match &self.pipe.near {
            Near::Own(own) => udp::send(own, run, segment, None, None),
            Near::Listener(listener) => send_from(listener, run, segment, client, to),
            Near::Association(association, from) => association.answer(*from, run, segment),
        };
        match sent {
            Ok(()) => self.bytes.down(run.len()),
            Err(_) => self.context.worker.account.metrics().dropped(Dropped::Unsent),
        }
    }
}

/// Takes one run of the permitted destination; `None` where it is another's. Between bind and connect
/// a socket takes what anybody sends to its port.
fn take_only(far: &UdpSocket, from: SocketAddr, buffer: &mut [u8]) -> io::Result<Option<Run>> {
    take(far, buffer).map(|run| Some(run).filter(|run| run.from.map(canonical) == Some(from)))
}

fn take(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Run> {
    socket.try_io(Interest::READABLE, || udp::receive(socket, buffer))
}

/// Sends on a connected socket. What ICMP said of an earlier datagram stands in the way of the next
/// one once.
fn send(socket: &UdpSocket, run: &[u8], segment: usize) -> io::Result<()> {
    let send = || udp::send(socket, run, segment, None, None);
    send().or_else(|e| if e.kind() == io::ErrorKind::WouldBlock { Err(e) } else { send() })
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket as StdSocket;

    use super::super::ports::datagrams;
    use super::*;

    #[tokio::test]
    async fn l08_what_came_before_the_connect_from_another_is_no_answer() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (permitted, stranger) = (StdSocket::bind(any).unwrap(), StdSocket::bind(any).unwrap());
        let far = datagrams(any).unwrap();
        far.bind(&any.into()).unwrap();
        let at = far.local_addr().unwrap().as_socket().unwrap();
        stranger.send_to(b"a stranger's", at).unwrap();
        let destination = permitted.local_addr().unwrap();
        far.connect(&destination.into()).unwrap();
        permitted.send_to(b"an answer", at).unwrap();
        let far = finish(far).unwrap();
        let mut buffer = vec![0; RUN_MAX];
        far.readable().await.unwrap();
        assert!(take_only(&far, destination, &mut buffer).unwrap().is_none());
        let run = take_only(&far, destination, &mut buffer).unwrap().unwrap();
        assert_eq!(&buffer[..run.len], b"an answer");
    }
}
