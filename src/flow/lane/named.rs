//! Reads the first flight of a flow that a name decides. Every packet of it comes here, both ways, until
//! what the client says was judged and its server has answered; then the kernel carries it on. What
//! cannot be read here to its end is reset, and the next connection of this client there is the proxy's.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout_at};

use super::queue::Queue;
use super::table::{Flow, Parked};
use super::walk::Lane;
use crate::account::{End, Hello, LaneLoss, network};
use crate::flow::evaluate::Subject;
use crate::flow::hello_retry;
use crate::flow::refuse::Rejection;
use crate::flow::session::{Session, run_until};
use crate::flow::slots::Slot;
use crate::identify::{HostName, NameSource, Protocol, Step, each_name};
use crate::lane::packet::Packet;
use crate::lane::{self, ANSWER_TIME, Cause, Disposition, Event, HELD_TIME, Held, Judgement, Pool};
use crate::net::idle::IdleTimer;
use crate::settings;
use crate::sys::FlowKey;

/// Rooms of each size for the first flights of one worker, 2 KiB and 16 KiB: a flow without one is the
/// proxy's.
const ROOMS: [usize; 2] = [2048, 128];

/// How long it is known where a connection that is over began: late packets of it are told by that from
/// those of the next one between the same ends.
const LATE: Duration = Duration::from_secs(10);

/// Time between two looks for those of these that are over.
const SWEEP: Duration = Duration::from_secs(1);

/// Packets that wait in all flows of one worker, and in those of one client: a queue of the kernel has
/// room for 16,384 of them, and one that is full drops everybody's.
const HELD_MAX: [u32; 2] = [8192, 1024];

/// Connections of a worker of which that is known at once; with more, new ones are the proxy's.
const LATE_MAX: usize = 32_768;

/// How long a client's connections to a destination are the proxy's, once one could not be read here or
/// was refused, which the proxy tells its client in words.
const PROXIED_FOR: Duration = Duration::from_secs(300);

/// Clients with destinations of which that is known at once; with more, new ones are the proxy's.
const PROXIED_MAX: usize = 32_768;

/// What was heard of a first flight.
#[derive(Debug)]
enum Told {
    /// The first packet is held: the time runs.
    Held,
    /// There is something to judge.
    Flight,
    /// Its server has answered what was permitted.
    Carried,
    /// It cannot be read to its end.
    GiveUp(Cause),
    /// A packet would have had to go on changed.
    Unfit,
    Gone(End),
}

/// The first flight of one flow, and the packets of it that wait.
pub(super) struct Named {
    /// The interface by which its client comes in.
    interface: u32,
    reader: RefCell<lane::Flow>,
    /// In the order in which they came; `None` for one that goes nowhere, whatever is judged.
    held: RefCell<Vec<Option<Parked>>>,
    /// Since when something is waited for.
    since: IdleTimer,
    /// A server has taken it.
    is_open: Cell<bool>,
    /// The mark that its permit stands for.
    permitted: Cell<Option<u32>>,
    told: RefCell<VecDeque<Told>>,
    wakes: Notify,
    /// A packet of it goes nowhere, so that it is not read to its end.
    is_unfit: Cell<bool>,
    waiting: Rc<Waiting>,
    client: IpAddr,
}

/// How many packets wait, in all and of each client.
#[derive(Default)]
struct Waiting {
    all: Cell<u32>,
    of_client: RefCell<HashMap<IpAddr, u32>>,
}

impl Waiting {
    /// Room for one more of this client.
    fn take(&self, client: IpAddr) -> bool {
        let [most, most_of_client] = HELD_MAX;
        let mut of_client = self.of_client.borrow_mut();
        let its = of_client.get(&client).copied().unwrap_or_default();
        let is_room = self.all.get() < most && its < most_of_client;
        if is_room {
            self.all.set(self.all.get() + 1);
            of_client.insert(client, its + 1);
        }
        is_room
    }

    fn give_back(&self, client: IpAddr, count: u32) {
        self.all.set(self.all.get().saturating_sub(count));
        let mut of_client = self.of_client.borrow_mut();
        let its = of_client.remove(&client).unwrap_or_default().saturating_sub(count);
        if its > 0 {
            of_client.insert(client, its);
        }
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        self.waiting.give_back(self.client, waiting(self.held.get_mut()));
    }
}

/// The packets among those that are held.
fn waiting(held: &[Option<Parked>]) -> u32 {
    u32::try_from(held.iter().flatten().count()).unwrap_or(u32::MAX)
}

impl Named {
    fn tell(&self, told: Told) {
        self.told.borrow_mut().push_back(told);
        self.wakes.notify_one();
    }

    /// What was heard next; what has come of waiting where that was too long.
    async fn next(&self, flow: &Flow) -> Told {
        let limit = if self.held.borrow().is_empty() { ANSWER_TIME } else { HELD_TIME };
        let next = async {
            loop {
                if let Some(told) = self.told.borrow_mut().pop_front() {
                    return told;
                }
                tokio::select! {
                    () = self.wakes.notified() => {}
                    end = flow.ended() => {
                        // The kernel forgets at once what no server takes.
                        let is_refused = end == End::Done && !self.is_open.get();
                        return Told::Gone(if is_refused { End::ConnectRefused } else { end });
                    }
                }
            }
        };
        timeout_at(self.since.due(limit), next).await.unwrap_or_else(|_| {
            let waited = self.reader.borrow_mut().waited(limit);
            match waited {
                Some(Event::GiveUp(cause)) => Told::GiveUp(cause),
                // No server has taken it.
                _ => Told::Gone(End::ConnectTimedOut),
            }
        })
    }

    /// One that there is no room for goes nowhere, and the flow is not read to its end.
    fn hold(&self, packet: Option<Parked>) {
        let packet = match packet {
            Some((queue, id)) if !self.waiting.take(self.client) => {
                queue.drop(id);
                self.unfit();
                None
            }
            packet => packet,
        };
        let mut held = self.held.borrow_mut();
        if held.is_empty() {
            self.since.touch();
            self.tell(Told::Held);
        }
        held.push(packet);
    }

    fn unfit(&self) {
        self.is_unfit.set(true);
        self.tell(Told::Unfit);
    }

    /// Lets go what is held, or drops it.
    fn settle(&self, what: Held, mark: u32) {
        let released = match what {
            Held::Keep => return,
            Held::Drop => 0,
            Held::Release(bits) => bits,
        };
        self.since.touch();
        let held = self.held.take();
        self.waiting.give_back(self.client, waiting(&held));
        for (at, packet) in held.into_iter().enumerate() {
            let Some((queue, id)) = packet else { continue };
            if released.checked_shr(u32::try_from(at).unwrap_or(u32::MAX)).unwrap_or(0) & 1 == 1 {
                queue.accept(id, mark);
            } else {
                queue.drop(id);
            }
        }
    }
}

/// What the named flows of one worker share.
pub(super) struct NamedFlows {
    pool: RefCell<Pool>,
    /// Those that are over, and when they ended.
    late: RefCell<HashMap<FlowKey, (Instant, lane::Flow)>>,
    /// Whose next connections are the proxy's, and until when.
    proxied: RefCell<HashMap<(IpAddr, SocketAddr), Instant>>,
    /// When those that are no more were taken out of these.
    swept: Cell<Option<Instant>>,
    waiting: Rc<Waiting>,
}

impl Default for NamedFlows {
    fn default() -> Self {
        let [small, large] = ROOMS;
        let pool = RefCell::new(Pool::new(small, large));
        Self {
            pool,
            late: RefCell::default(),
            proxied: RefCell::default(),
            swept: Cell::default(),
            waiting: Rc::default(),
        }
    }
}

impl NamedFlows {
    /// Whether there is room for another one, and none of this client there is known to be the proxy's.
    pub(super) fn takes(&self, key: &FlowKey) -> bool {
        let pair = (key.client.ip(), key.destination);
        let mut proxied = self.proxied.borrow_mut();
        let now = Instant::now();
        if proxied.get(&pair).is_some_and(|until| *until <= now) {
            proxied.remove(&pair);
        }
        // Not at each packet: there are many, and who fills them up sends more.
        if proxied.len() >= PROXIED_MAX && self.swept.get().is_none_or(|at| at + SWEEP <= now) {
            proxied.retain(|_, until| *until > now);
            self.swept.set(Some(now));
        }
        let (small, large) = self.pool.borrow().left();
        proxied.len() < PROXIED_MAX
            && !proxied.contains_key(&pair)
            && self.late.borrow().len() < LATE_MAX
            && small > 0
            && large > 0
    }

    /// The next connections of this client there are the proxy's.
    fn leave_to_proxy(&self, key: &FlowKey) {
        let until = Instant::now() + PROXIED_FOR;
        self.proxied.borrow_mut().insert((key.client.ip(), key.destination), until);
    }

    /// A flow that begins with this packet; `None` where its SYN may be a late one of another connection.
    pub(super) fn begin(
        &self,
        packet: &Packet<'_>,
        key: &FlowKey,
        interface: u32,
    ) -> Option<Named> {
        let (ended, mut reader) = match self.late.borrow_mut().remove(key) {
            Some((ended, reader)) => (Some(ended), reader),
            None => (None, lane::Flow::new()),
        };
        let step = reader.from_client(packet, &mut self.pool.borrow_mut());
        if step.packet != Disposition::Pass {
            if let Some(ended) = ended {
                self.late.borrow_mut().insert(*key, (ended, reader));
            }
            return None;
        }
        Some(Named {
            interface,
            reader: RefCell::new(reader),
            held: RefCell::default(),
            since: IdleTimer::start(),
            is_open: Cell::default(),
            permitted: Cell::default(),
            told: RefCell::default(),
            wakes: Notify::new(),
            is_unfit: Cell::default(),
            waiting: Rc::clone(&self.waiting),
            client: network(key.client.ip()),
        })
    }

    /// Gives back what the flow holds, and remembers for a while where it began.
    fn end(self: &Rc<Self>, key: FlowKey, named: &Named) {
        let mut reader = named.reader.take();
        reader.end(&mut self.pool.borrow_mut());
        let ended = Instant::now();
        self.late.borrow_mut().insert(key, (ended, reader));
        let flows = Rc::clone(self);
        spawn_local(async move {
            sleep(LATE).await;
            let mut late = flows.late.borrow_mut();
            if late.get(&key).is_some_and(|(at, _)| *at == ended) {
                late.remove(&key);
            }
        });
    }
}

/// The name that the first hello said, and whether it hid another one.
type Said = (Option<(HostName, NameSource)>, bool);

impl Lane {
    /// Takes a packet of a flow that a name decides, from whichever side.
    pub(super) fn follow(
        &self,
        flow: &Flow,
        named: &Named,
        packet: &Packet<'_>,
        (queue, id): Parked,
        interface: u32,
    ) {
        if flow.mark.get() == settings::Lane::REFUSED {
            // The kernel resets it.
            return queue.accept(id, settings::Lane::REFUSED);
        }
        let is_clients = packet.from == flow.key.client;
        if is_clients != (interface == named.interface) {
            // An answer that comes in where its client does may be the client's own.
            self.unread();
            return queue.drop(id);
        }
        let step = {
            let mut pool = self.named.pool.borrow_mut();
            let mut reader = named.reader.borrow_mut();
            if is_clients {
                reader.from_client(packet, &mut pool)
            } else {
                reader.from_server(packet, &mut pool)
            }
        };
        match step.event {
            // What its permit stands for is the mark of this packet already.
            Some(Event::Carried) => {
                flow.mark.set(named.permitted.get().unwrap_or(settings::Lane::REFUSED));
            }
            Some(Event::Opened) => {
                named.is_open.set(true);
                named.settle(Held::Drop, 0);
            }
            _ => {}
        }
        match step.packet {
            Disposition::Pass => queue.accept(id, flow.mark.get()),
            Disposition::Hold => named.hold(Some((queue, id))),
            Disposition::HoldCut | Disposition::PassCut => {
                self.unread();
                queue.drop(id);
                if step.packet == Disposition::HoldCut {
                    named.hold(None);
                }
                named.unfit();
            }
            Disposition::Drop => queue.drop(id),
        }
        let told = match step.event {
            Some(Event::FirstFlight) => Told::Flight,
            Some(Event::Carried) => Told::Carried,
            Some(Event::GiveUp(cause)) => Told::GiveUp(cause),
            Some(Event::Closed) if is_clients => Told::Gone(End::ClientReset),
            Some(Event::Closed) if named.is_open.get() => Told::Gone(End::UpstreamReset),
            Some(Event::Closed) => Told::Gone(End::ConnectRefused),
            _ => return,
        };
        named.tell(told);
    }

    pub(super) fn unread(&self) {
        self.worker.account.metrics().lane_lost(LaneLoss::Unread);
    }

    /// The life of a flow that a name decides, from its SYN on.
    pub(super) async fn carry_named(
        self: Rc<Self>,
        flow: Rc<Flow>,
        mut session: Session,
        slot: Slot,
    ) {
        let Some(named) = &flow.named else { return };
        let closed = session.closed();
        let read = run_until(closed, pin!(self.read(&flow, named, &mut session))).await;
        let end = match read.flatten() {
            Ok(()) => {
                slot.heard();
                self.carried(&flow, &session).await
            }
            Err(end) => {
                self.refuse(&flow, named).await;
                self.named.end(flow.key, named);
                end
            }
        };
        self.flows.borrow_mut().remove(&flow);
        drop(slot);
        session.close(end);
    }

    /// The kernel resets the flow both ways: its client at once, where a packet of it waits.
    async fn refuse(self: &Rc<Self>, flow: &Rc<Flow>, named: &Named) {
        let refused = settings::Lane::REFUSED;
        flow.mark.set(refused);
        // One packet is enough, whichever: none goes on with this mark.
        named.settle(Held::Release(1), refused);
        self.mark_later(flow, refused).await.ok();
    }

    /// Reads, judges and records what the client says, until its server has answered that.
    async fn read(
        self: &Rc<Self>,
        flow: &Rc<Flow>,
        named: &Named,
        session: &mut Session,
    ) -> Result<(), End> {
        let mut said = None;
        loop {
            let cause = match named.next(flow).await {
                Told::Held => continue,
                Told::Carried => return Ok(()),
                Told::Gone(end) => {
                    if end == End::ConnectTimedOut {
                        // Its answers may take another way than by here, or come in where it does.
                        self.named.leave_to_proxy(&flow.key);
                    }
                    return Err(end);
                }
                Told::GiveUp(cause) => Some(cause),
                Told::Unfit => None,
                // What was heard of it before has bytes that go nowhere.
                Told::Flight if named.is_unfit.get() => None,
                Told::Flight => match self.judge_flight(flow, named, session, &mut said).await {
                    Ok(()) => continue,
                    Err(Unread::Refused) => {
                        self.named.leave_to_proxy(&flow.key);
                        return Err(End::Refused);
                    }
                    Err(Unread::Ended(end)) => return Err(end),
                    Err(Unread::GiveUp(cause)) => cause,
                },
            };
            let cause = cause.map_or("not-tls", Cause::label);
            let (client, destination) = (flow.key.client, flow.key.destination);
            tracing::debug!(%client, %destination, cause, "a first flight is left to the proxy");
            self.named.leave_to_proxy(&flow.key);
            return Err(End::Restarted);
        }
    }

    /// Judges what is held, as far as it is whole.
    async fn judge_flight(
        &self,
        flow: &Flow,
        named: &Named,
        session: &mut Session,
        said: &mut Option<Said>,
    ) -> Result<(), Unread> {
        let FlowKey { client, destination, .. } = flow.key;
        let subject = {
            let mut reader = named.reader.borrow_mut();
            let flight = reader.first_flight().to_vec();
            let identity = match reader.identify() {
                Step::Done(identity) => identity,
                Step::NeedMore(_) => {
                    let pool = &mut self.named.pool.borrow_mut();
                    let outcome = reader.judged(Judgement::NeedMore, pool);
                    named.settle(outcome.held, flow.mark.get());
                    return Ok(());
                }
            };
            if identity.protocol != Protocol::Tls {
                // A request, which is one of several; or nothing that says a name.
                return Err(Unread::GiveUp(None));
            }
            let hello = match (identity.fault, identity.name) {
                (Some(_), _) => Hello::Malformed,
                (None, Some(_)) => Hello::Named,
                (None, None) => Hello::Nameless,
            };
            let subject = Subject::unread(client.ip(), destination)
                .read(&identity, |see| each_name(&flight, see));
            if subject.fault().is_none() && reader.is_followed() {
                return Err(Unread::GiveUp(Some(Cause::BehindHello)));
            }
            session.record.metrics().hello(hello, session.record.age());
            subject
        };
        let (says, is_faulty) = ((subject.name, subject.ech), subject.fault().is_some());
        match said {
            Some(before) if !is_faulty && *before == says => {}
            Some(_) => {
                if !hello_retry::changed(session) {
                    return Err(Unread::Refused);
                }
            }
            None => {
                let permit = session.admit(subject).await.map_err(|rejection| match rejection {
                    Rejection::Refused(_) => Unread::Refused,
                    Rejection::Ended(end) => Unread::Ended(end),
                })?;
                if is_faulty {
                    // Permitted whatever it says: who reads on behind it is the proxy.
                    return Err(Unread::GiveUp(None));
                }
                if named.is_unfit.get() {
                    return Err(Unread::GiveUp(None));
                }
                session.record.forwarding().await.map_err(Unread::Ended)?;
                named.permitted.set(self.mark_of(permit, &flow.key));
                *said = Some(says);
            }
        }
        if named.permitted.get().is_none() {
            return Err(Unread::Refused);
        }
        if named.is_unfit.get() {
            // It came while the record was written.
            return Err(Unread::GiveUp(None));
        }
        let outcome = named
            .reader
            .borrow_mut()
            .judged(Judgement::Permitted, &mut self.named.pool.borrow_mut());
        match outcome.event {
            Some(Event::GiveUp(cause)) => return Err(Unread::GiveUp(Some(cause))),
            // Only what is no hello goes on unanswered, and that was left to the proxy.
            Some(_) => return Err(Unread::GiveUp(None)),
            None => {}
        }
        // What the kernel counts of a flow of which nothing goes on went nowhere.
        flow.counts(session.record.bytes(), [0, 0]);
        named.settle(outcome.held, flow.mark.get());
        Ok(())
    }
}

/// Why a first flight goes no further here.
enum Unread {
    Refused,
    Ended(End),
    /// `None`: it is no hello.
    GiveUp(Option<Cause>),
}

impl Lane {
    /// Begins a flow that a name decides with its SYN.
    pub(super) fn begin_named(
        self: &Rc<Self>,
        flow: Rc<Flow>,
        session: Session,
        slot: Slot,
        (queue, id): (&Rc<Queue>, u32),
    ) {
        self.flows.borrow_mut().insert(Rc::clone(&flow));
        // A SYN holds nothing to judge; whoever it is for, some name may be permitted there.
        drop(flow.release(settings::Lane::HELD));
        queue.accept(id, settings::Lane::HELD);
        spawn_local(Rc::clone(self).carry_named(flow, session, slot));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_of_one_client_leaves_room_for_others_and_is_given_back() {
        let waiting = Waiting::default();
        let [most, most_of_client] = HELD_MAX;
        let client = |last: u32| IpAddr::from([192, 0, 2, u8::try_from(last).unwrap()]);
        let took = |last| (0..most).filter(|_| waiting.take(client(last))).count() as u32;
        assert_eq!(took(1), most_of_client);
        for last in 2..=most / most_of_client {
            assert_eq!(took(last), most_of_client);
        }
        assert!(!waiting.take(client(200)), "there is a queue behind it");
        waiting.give_back(client(1), most_of_client);
        assert!(waiting.take(client(200)));
        waiting.give_back(client(200), 1);
        (2..=most / most_of_client)
            .for_each(|last| waiting.give_back(client(last), most_of_client));
        assert_eq!((waiting.all.get(), waiting.of_client.borrow().len()), (0, 0));
    }
}
