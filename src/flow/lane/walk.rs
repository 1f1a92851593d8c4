//! Walks a flow of the lane: judged by its addresses, recorded, let go with the mark that its permit
//! stands for, and carried by the kernel until it ends or a later policy ends it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::{spawn_local, yield_now};

use super::named::NamedFlows;
use super::queue::Queue;
use super::table::{Flow, Flows, Known};
use super::watch::Pulse;
use crate::account::{End, Probed};
use crate::flow::evaluate::{Answer, First, Subject, evaluate_early, now_ms};
use crate::flow::listener::Listener;
use crate::flow::session::{Session, run_until};
use crate::flow::slots::Slot;
use crate::flow::worker::Worker;
use crate::lane::packet::{Content, Offload, Packet};
use crate::net::canonical;
use crate::policy::{Action, Binding, Permit, Transport, Verdict, probe};
use crate::settings::{self, OnDeath};
use crate::sys::{Conntrack, FlowKey, QueuedPacket, Tracked};

/// How long the kernel remembers a flow that was refused while it was carried.
const REFUSED_FOR: Duration = Duration::from_secs(120);

/// Times that the kernel is asked to change marks before the lane gives up.
const TRIES: usize = 20;

/// What the flows of one worker share.
pub(super) struct Lane {
    pub(super) worker: Rc<Worker>,
    listener: Rc<Listener>,
    pub(super) flows: RefCell<Flows>,
    pub(super) named: Rc<NamedFlows>,
    conntrack: RefCell<Conntrack>,
    unmarked: RefCell<Vec<Unmarked>>,
    /// The connection mark of what is carried.
    mark: u32,
    on_death: OnDeath,
    pulse: Arc<Pulse>,
}

/// A flow that is to have this mark, and who waits until it has.
type Unmarked = (Rc<Flow>, u32, oneshot::Sender<()>);

/// What the addresses of a flow say.
enum Judged {
    /// They permit it: its record, its permit, its place.
    ByAddress(Session, Result<Permit, End>, Slot),
    /// What its client says first could turn the verdict.
    ByName,
    /// It is for the proxy: refused, by this answer, or beyond a limit.
    Proxied(Option<Answer>),
}

/// How the first packet of a flow goes on once the flow is recorded.
enum Release {
    /// It waits in a queue.
    Parked,
    /// There is none: an earlier process let it go.
    Marked,
}

impl Lane {
    pub(super) fn new(
        worker: Rc<Worker>,
        listener: Listener,
        conntrack: Conntrack,
        mark: u32,
        on_death: OnDeath,
        pulse: Arc<Pulse>,
    ) -> Rc<Self> {
        Rc::new(Self {
            worker,
            listener: Rc::new(listener),
            flows: RefCell::default(),
            named: Rc::default(),
            conntrack: RefCell::new(conntrack),
            unmarked: RefCell::default(),
            mark,
            on_death,
            pulse,
        })
    }

    /// Takes a packet from a queue: one that begins a flow, or one of a flow that a name decides.
    pub(super) fn take(self: &Rc<Self>, queue: &Rc<Queue>, queued: &QueuedPacket<'_>) {
        let &QueuedPacket { id, bytes, interface, checksum_missing, several: gso } = queued;
        let Ok(packet) = Packet::read(bytes, Offload { checksum_missing, gso }) else {
            self.unread();
            return queue.drop(id);
        };
        let (kind, begins_at) = match &packet.content {
            Content::Udp(_) => (libc::IPPROTO_UDP, None),
            Content::Tcp(tcp) => {
                let begins = tcp.syn && tcp.acknowledged.is_none() && tcp.is_sound();
                (libc::IPPROTO_TCP, begins.then_some(tcp.sequence))
            }
        };
        let is_first = kind == libc::IPPROTO_UDP || begins_at.is_some();
        let key = |client, destination| FlowKey { protocol: kind as u8, client, destination };
        let (key, answers) = (key(packet.from, packet.to), key(packet.to, packet.from));
        if !is_first {
            let flows = self.flows.borrow();
            let flow = flows.named(&key).or_else(|| flows.named(&answers));
            return match flow.as_ref().and_then(|flow| Some((flow, flow.named.as_ref()?))) {
                Some((flow, named)) => {
                    self.follow(flow, named, &packet, (Rc::clone(queue), id), interface);
                }
                // Of one that is over, or of an earlier process.
                None => queue.accept(id, settings::Lane::REFUSED),
            };
        }
        let held = self.flows.borrow().named(&key).filter(|flow| flow.is_held());
        if held.is_some_and(|flow| flow.is_another(begins_at)) {
            // The mark of the one is that of the other: it has to end first.
            return queue.drop(id);
        }
        let known = self.flows.borrow().find(&key, begins_at);
        match known {
            Some((flow, Known::Late)) if flow.named.is_some() => {
                if let Some(named) = &flow.named {
                    self.follow(&flow, named, &packet, (Rc::clone(queue), id), interface);
                }
                return;
            }
            Some((flow, Known::Waits)) => return flow.park((Rc::clone(queue), id)),
            Some((_, Known::TooMany)) => return queue.drop(id),
            Some((_, Known::Late)) => return queue.accept(id, self.mark),
            None => {}
        }
        match self.judge(&key) {
            Judged::Proxied(_) => queue.accept(id, settings::Lane::PROXIED),
            Judged::ByAddress(session, permit, slot) => {
                let flow = Flow::new(key, begins_at, None);
                flow.park((Rc::clone(queue), id));
                self.begin(flow, session, permit, slot, Release::Parked, [0, 0]);
            }
            Judged::ByName if !self.reads(&key, &packet) => {
                queue.accept(id, settings::Lane::PROXIED);
            }
            Judged::ByName => {
                let slot = match self.listener.slots.take(key.client.ip()) {
                    Ok(slot) => slot,
                    Err(limit) => {
                        self.worker.account.metrics().limit_hit(limit);
                        return queue.accept(id, settings::Lane::PROXIED);
                    }
                };
                let Some(named) = self.named.begin(&packet, &key, interface) else {
                    return queue.drop(id);
                };
                let session = self.open(&key);
                let flow = Flow::new(key, begins_at, Some(named));
                self.begin_named(flow, session, slot, (queue, id));
            }
        }
    }

    /// Whether the lane reads the first flight of a flow that a name decides. What asks for more than a
    /// stream of bytes has the gateway's own TCP, at the proxy.
    fn reads(&self, key: &FlowKey, packet: &Packet<'_>) -> bool {
        let redials =
            || self.worker.live.load(now_ms()).map_or(true, |it| it.binding() == Binding::Redial);
        packet.tcp().is_some()
            && key.destination.port() == settings::Lane::NAMED_PORT
            && !packet.needs_cut()
            && packet.is_intact()
            && self.named.takes(key)
            && !redials()
    }

    /// Takes over a flow that an earlier process let go: judged anew, and counted from here on.
    pub(super) fn take_over(self: &Rc<Self>, tracked: &Tracked) {
        let flow = Flow::new(tracked.key, None, None);
        let refused = match self.judge(&tracked.key) {
            Judged::ByAddress(session, permit, slot) => {
                let before = tracked.bytes.unwrap_or_default();
                return self.begin(flow, session, permit, slot, Release::Marked, before);
            }
            Judged::Proxied(answer) => answer,
            // What it said first was said to the process that is gone.
            Judged::ByName => None,
        };
        drop(self.mark_later(&flow, settings::Lane::REFUSED));
        let mut session = self.open(&tracked.key);
        let policy = self.worker.live.load(now_ms());
        match (policy, refused) {
            (Ok(policy), Some(answer)) => {
                let subject = Subject::unread(tracked.key.client.ip(), tracked.key.destination);
                let subject = subject.over(transport(&tracked.key));
                // Its rejection is for a client that asks.
                drop(session.note(&policy, subject, answer));
            }
            _ => drop(session.refused(Verdict::overload(tracked.key.destination))),
        }
        session.close(End::Refused);
    }

    fn begin(
        self: &Rc<Self>,
        flow: Rc<Flow>,
        session: Session,
        permit: Result<Permit, End>,
        slot: Slot,
        release: Release,
        before: [u64; 2],
    ) {
        flow.counts(session.record.bytes(), before);
        self.flows.borrow_mut().insert(Rc::clone(&flow));
        spawn_local(Rc::clone(self).carry(flow, session, permit, slot, release));
    }

    /// Judges a flow by its addresses, and takes the one on that they permit.
    fn judge(&self, key: &FlowKey) -> Judged {
        let metrics = self.worker.account.metrics();
        if probe::is_from(key.client.ip()) {
            metrics.probed(Probed::Lane);
            return Judged::Proxied(None);
        }
        // What the kernel would not count is not recorded as it should be; and an address that carries
        // another one is not what the packets go to.
        if !self.pulse.may_carry() || canonical(key.destination) != key.destination {
            return Judged::Proxied(None);
        }
        let subject = Subject::unread(key.client.ip(), key.destination).over(transport(key));
        let Ok(policy) = self.worker.live.load(now_ms()) else { return Judged::Proxied(None) };
        let answer = match evaluate_early(&policy, &subject, metrics) {
            Some((answer, First::Settled)) if answer.verdict.action() != Action::Block => answer,
            Some((answer, First::Settled)) => return Judged::Proxied(Some(answer)),
            Some((_, First::Judged)) | None => return Judged::ByName,
        };
        let slot = match self.listener.slots.take(key.client.ip()) {
            Ok(slot) => slot,
            Err(limit) => {
                metrics.limit_hit(limit);
                return Judged::Proxied(None);
            }
        };
        let mut session = self.open(key);
        let permit = session.note(&policy, subject, answer).map_err(|_| End::Refused);
        slot.heard();
        Judged::ByAddress(session, permit, slot)
    }

    /// Opens the record of a flow.
    fn open(&self, key: &FlowKey) -> Session {
        let (worker, listener) = (Rc::clone(&self.worker), Rc::clone(&self.listener));
        let mut session = Session::open(worker, listener, key.client);
        session.record.bound_for(key.destination);
        if transport(key) == Transport::Udp {
            session.record.over_udp();
        }
        session
    }

    /// The life of a flow: its record is opened before its first packet goes on.
    async fn carry(
        self: Rc<Self>,
        flow: Rc<Flow>,
        mut session: Session,
        permit: Result<Permit, End>,
        slot: Slot,
        release: Release,
    ) {
        let opened = match permit {
            Ok(permit) => {
                let closed = session.closed();
                let kept = run_until(closed, pin!(session.record.forwarding())).await;
                kept.flatten().and_then(|()| self.mark_of(permit, &flow.key).ok_or(End::Refused))
            }
            Err(end) => Err(end),
        };
        let end = match (opened, release) {
            (Ok(mark), Release::Parked) => {
                for (queue, id) in flow.release(mark) {
                    queue.accept(id, mark);
                }
                self.carried(&flow, &session).await
            }
            (Ok(mark), Release::Marked) => {
                flow.release(mark);
                self.mark_later(&flow, mark).await.ok();
                self.carried(&flow, &session).await
            }
            (Err(end), Release::Parked) => {
                for (queue, id) in flow.release(settings::Lane::REFUSED) {
                    queue.accept(id, settings::Lane::REFUSED);
                }
                end
            }
            (Err(end), Release::Marked) => {
                self.mark_later(&flow, settings::Lane::REFUSED).await.ok();
                end
            }
        };
        self.flows.borrow_mut().remove(&flow);
        drop(slot);
        session.close(end);
    }

    /// Waits until the kernel has forgotten the flow, or until it is told to end.
    pub(super) async fn carried(self: &Rc<Self>, flow: &Rc<Flow>, session: &Session) -> End {
        let end = tokio::select! {
            biased;
            end = flow.ended() => return end,
            end = session.closed() => end,
        };
        let goes_on = end == End::Drained && self.on_death == OnDeath::Carry;
        let mark = if goes_on { self.mark } else { settings::Lane::REFUSED };
        // Where nobody says that it is done, the lane has failed, and what it carries stops.
        self.mark_later(flow, mark).await.ok();
        end
    }

    /// What a permit is for the kernel: the mark of a connection to this destination and no other.
    pub(super) fn mark_of(&self, permit: Permit, key: &FlowKey) -> Option<u32> {
        (permit.destination() == key.destination).then_some(self.mark)
    }

    /// Gives a flow another mark, with others that wait for it, and takes over what the kernel has
    /// counted of it.
    pub(super) fn mark_later(self: &Rc<Self>, flow: &Rc<Flow>, mark: u32) -> oneshot::Receiver<()> {
        let (done, wait) = oneshot::channel();
        let mut unmarked = self.unmarked.borrow_mut();
        if unmarked.is_empty() {
            spawn_local(Rc::clone(self).mark_all());
        }
        unmarked.push((Rc::clone(flow), mark, done));
        wait
    }

    async fn mark_all(self: Rc<Self>) {
        let unmarked = self.unmarked.take();
        for mark in [self.mark, settings::Lane::REFUSED] {
            let of_mark = unmarked.iter().filter(|(_, wanted, _)| *wanted == mark);
            let flows: Vec<&Rc<Flow>> = of_mark.map(|(flow, _, _)| flow).collect();
            if let Err(fault) = self.mark_flows(&flows, mark).await {
                tracing::error!(%fault, "flows that are no longer permitted cannot be stopped one by \
                    one: the lane ends");
                self.pulse.fail();
                return;
            }
        }
        for (_, _, done) in unmarked {
            // Who waited may have ended meanwhile.
            done.send(()).ok();
        }
    }

    async fn mark_flows(&self, flows: &[&Rc<Flow>], mark: u32) -> io::Result<()> {
        let keys: Vec<FlowKey> = flows.iter().map(|flow| flow.key).collect();
        let keep = (mark == settings::Lane::REFUSED).then_some(REFUSED_FOR);
        let mut left = TRIES;
        let found = loop {
            let marked = self.conntrack.borrow_mut().mark(&keys, mark, keep);
            match marked {
                Ok(found) => break found,
                Err(fault) if left == 0 => return Err(fault),
                Err(_) => {
                    left -= 1;
                    yield_now().await;
                }
            }
        };
        for (flow, tracked) in flows.iter().zip(found) {
            tracked.and_then(|it| it.bytes).into_iter().for_each(|bytes| flow.count(bytes));
        }
        Ok(())
    }

    /// The kernel has forgotten a connection.
    pub(super) fn forgotten(&self, tracked: &Tracked) {
        self.flows.borrow().forgotten(tracked);
    }

    /// The kernel's list of what it carries, made at `at`.
    pub(super) fn seen(&self, listed: &HashMap<FlowKey, Option<[u64; 2]>>, at: Instant) {
        self.flows.borrow().seen(listed, at);
    }
}

fn transport(key: &FlowKey) -> Transport {
    if i32::from(key.protocol) == libc::IPPROTO_UDP { Transport::Udp } else { Transport::Tcp }
}
