//! Holds the flows of one worker that wait for a verdict or are carried, by the addresses that the
//! kernel knows them by.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use super::named::Named;
use super::queue::Queue;
use crate::account::{Bytes, End};
use crate::settings;
use crate::sys::{FlowKey, Tracked};

/// Packets of one flow that wait for its verdict; more are dropped, and come again.
const PARKED_MAX: usize = 4;

/// Time after a verdict in which a packet that the queue held before may still be read.
const LATE: Duration = Duration::from_secs(1);

/// Lists of the kernel in which a flow may be missing: one is made while the kernel changes it.
const MISSES_MAX: u8 = 2;

/// A packet that the kernel holds.
pub(super) type Parked = (Rc<Queue>, u32);

/// A flow, from its first packet to the end of its record.
pub(super) struct Flow {
    pub(super) key: FlowKey,
    begins_at: Option<u32>,
    /// Where a name decides: what is known of its first flight.
    pub(super) named: Option<Named>,
    /// The mark that its connection bears, once it was let go.
    pub(super) mark: Cell<u32>,
    parked: RefCell<Vec<Parked>>,
    /// When its first packet was let go.
    released: Cell<Option<Instant>>,
    /// What its record counts, once it is open.
    bytes: OnceCell<Arc<Bytes>>,
    /// What the kernel had counted when it was last asked.
    counted: Cell<[u64; 2]>,
    missed: Cell<u8>,
    end: Cell<Option<End>>,
    waits: Cell<Option<Waker>>,
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flow").field("key", &self.key).finish_non_exhaustive()
    }
}

/// What is to be done with a packet of a flow that is known.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// It waits with the others.
    Waits,
    /// Enough of them wait.
    TooMany,
    /// It was in the queue already when the others were let go.
    Late,
}

impl Flow {
    pub(super) fn new(key: FlowKey, begins_at: Option<u32>, named: Option<Named>) -> Rc<Self> {
        Rc::new(Self {
            key,
            begins_at,
            named,
            mark: Cell::default(),
            parked: RefCell::default(),
            released: Cell::default(),
            bytes: OnceCell::new(),
            counted: Cell::default(),
            missed: Cell::default(),
            end: Cell::default(),
            waits: Cell::default(),
        })
    }

    pub(super) fn park(&self, packet: Parked) {
        self.parked.borrow_mut().push(packet);
    }

    /// The packets that wait, which go on now with this mark.
    pub(super) fn release(&self, mark: u32) -> Vec<Parked> {
        self.mark.set(mark);
        self.released.set(Some(Instant::now()));
        self.parked.take()
    }

    /// Its record counts here, and the kernel counted so much before.
    pub(super) fn counts(&self, bytes: &Arc<Bytes>, before: [u64; 2]) {
        if self.bytes.set(Arc::clone(bytes)).is_ok() {
            self.counted.set(before);
        }
    }

    /// Takes over what the kernel has counted.
    pub(super) fn count(&self, now: [u64; 2]) {
        let before = self.counted.replace(now);
        let Some(bytes) = self.bytes.get() else { return };
        let grown =
            |at: usize| usize::try_from(now[at].saturating_sub(before[at])).unwrap_or(usize::MAX);
        bytes.up(grown(0));
        bytes.down(grown(1));
    }

    /// The kernel carries it no more, for this reason.
    pub(super) fn ends(&self, end: End) {
        if self.end.get().is_none() {
            self.end.set(Some(end));
            if let Some(waker) = self.waits.take() {
                waker.wake();
            }
        }
    }

    /// Waits until the kernel carries it no more; one task may.
    pub(super) async fn ended(&self) -> End {
        poll_fn(|context| match self.end.get() {
            Some(end) => Poll::Ready(end),
            None => {
                self.waits.set(Some(context.waker().clone()));
                Poll::Pending
            }
        })
        .await
    }

    /// Whether a packet is of this flow, and what is to be done with it; `None` where it begins
    /// another one between the same ports.
    fn takes(&self, begins_at: Option<u32>) -> Option<Known> {
        match self.released.get() {
            _ if self.end.get().is_some() || self.begins_at != begins_at => None,
            None if self.parked.borrow().len() < PARKED_MAX => Some(Known::Waits),
            None => Some(Known::TooMany),
            // A datagram looks like any other of its flow, so that after a while it is of the next one.
            // The same SYN comes again where another table dropped it: it is the same connection.
            Some(at) if begins_at.is_some() || at.elapsed() < LATE => {
                self.released.set(Some(Instant::now()));
                self.missed.set(0);
                Some(Known::Late)
            }
            Some(_) => None,
        }
    }

    /// Whether a SYN asks for another connection than this one.
    pub(super) fn is_another(&self, begins_at: Option<u32>) -> bool {
        self.begins_at != begins_at
    }

    /// Whether all its packets still come here.
    pub(super) fn is_held(&self) -> bool {
        self.mark.get() == settings::Lane::HELD
    }
}

/// The flows of a worker.
#[derive(Debug, Default)]
pub(super) struct Flows(HashMap<FlowKey, Place, RandomState>);

/// Those between the same ports: the kernel forgets one before it knows the next, and tells of it
/// later.
#[derive(Debug)]
struct Place {
    flow: Rc<Flow>,
    earlier: Vec<Rc<Flow>>,
}

impl Flows {
    /// The flow that a packet is of.
    pub(super) fn find(&self, key: &FlowKey, begins_at: Option<u32>) -> Option<(Rc<Flow>, Known)> {
        let place = self.0.get(key)?;
        let known = place.flow.takes(begins_at)?;
        Some((Rc::clone(&place.flow), known))
    }

    /// The flow between these ends whose name decides, from its first packet to its end.
    pub(super) fn named(&self, key: &FlowKey) -> Option<Rc<Flow>> {
        let flow = &self.0.get(key)?.flow;
        (flow.named.is_some() && flow.end.get().is_none()).then(|| Rc::clone(flow))
    }

    /// Takes a flow in.
    pub(super) fn insert(&mut self, flow: Rc<Flow>) {
        match self.0.get_mut(&flow.key) {
            None => {
                self.0.insert(flow.key, Place { flow, earlier: Vec::new() });
            }
            Some(place) => {
                let before = std::mem::replace(&mut place.flow, flow);
                place.earlier.push(before);
            }
        }
    }

    /// Lets go of a flow whose record has ended.
    pub(super) fn remove(&mut self, flow: &Rc<Flow>) {
        let Some(place) = self.0.get_mut(&flow.key) else { return };
        if let Some(at) = place.earlier.iter().position(|other| Rc::ptr_eq(other, flow)) {
            place.earlier.remove(at);
        } else if Rc::ptr_eq(&place.flow, flow) {
            match place.earlier.pop() {
                Some(earlier) => place.flow = earlier,
                None => drop(self.0.remove(&flow.key)),
            }
        }
    }

    /// The kernel has forgotten a connection: of several between these ports the oldest.
    pub(super) fn forgotten(&self, tracked: &Tracked) {
        let Some(place) = self.0.get(&tracked.key) else { return };
        let mut flows = place.earlier.iter().chain([&place.flow]);
        let is_its = |flow: &&Rc<Flow>| {
            flow.end.get().is_none()
                // Else it is another one's, from before this one was asked about.
                && flow.released.get().is_some()
                && flow.mark.get() == tracked.mark
        };
        let Some(flow) = flows.find(is_its) else { return };
        tracked.bytes.into_iter().for_each(|bytes| flow.count(bytes));
        flow.ends(how(tracked));
    }

    /// Takes over what a list of the kernel, made at `at`, says: counters, and who is not in it.
    pub(super) fn seen(&self, listed: &HashMap<FlowKey, Option<[u64; 2]>>, at: Instant) {
        for place in self.0.values() {
            let found = listed.get(&place.flow.key).copied();
            found.flatten().into_iter().for_each(|bytes| place.flow.count(bytes));
            let missing = place.earlier.iter().chain(found.is_none().then_some(&place.flow));
            for flow in missing {
                // The list has those alone that are carried.
                let is_awaited = flow.released.get().is_some_and(|released| released + LATE < at);
                if is_awaited && !flow.is_held() {
                    flow.missed.set(flow.missed.get() + 1);
                    if flow.missed.get() >= MISSES_MAX {
                        flow.ends(End::Done);
                    }
                }
            }
            if found.is_some() {
                place.flow.missed.set(0);
            }
        }
    }
}

/// How a connection ended that the kernel has forgotten, by the state that it was in
/// (`enum tcp_conntrack`).
const fn how(tracked: &Tracked) -> End {
    match tracked.tcp_state {
        // SYN sent, SYN received: nobody answered.
        Some(1 | 2) => End::ConnectTimedOut,
        // Established; and UDP, which has no end but silence.
        Some(3) | None => End::Idle,
        Some(_) => End::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: u32 = settings::Lane::carried(7);

    fn key(port: u16) -> FlowKey {
        FlowKey {
            protocol: 6,
            client: ([192, 0, 2, 2], port).into(),
            destination: ([198, 51, 100, 7], 443).into(),
        }
    }

    fn tracked(port: u16, bytes: [u64; 2], state: u8) -> Tracked {
        Tracked { key: key(port), mark: MARK, bytes: Some(bytes), tcp_state: Some(state) }
    }

    fn carried(flows: &mut Flows, begins_at: u32) -> (Rc<Flow>, Arc<Bytes>) {
        let (flow, bytes) = (Flow::new(key(1), Some(begins_at), None), Arc::<Bytes>::default());
        flow.counts(&bytes, [0, 0]);
        flow.release(MARK);
        flows.insert(Rc::clone(&flow));
        (flow, bytes)
    }

    #[test]
    fn bytes_are_those_of_the_kernel_whoever_tells_of_them() {
        let mut flows = Flows::default();
        let (flow, bytes) = carried(&mut flows, 7);
        flows.seen(&HashMap::from([(key(1), Some([100, 1000]))]), Instant::now());
        assert_eq!(bytes.totals(), (100, 1000));
        flows.forgotten(&tracked(1, [150, 4000], 7));
        assert_eq!(bytes.totals(), (150, 4000));
        assert_eq!(flow.end.get(), Some(End::Done));
        flows.remove(&flow);
        assert!(flows.0.is_empty());
    }

    #[test]
    fn of_two_flows_between_the_same_ports_the_oldest_is_forgotten_first() {
        let mut flows = Flows::default();
        let (old, of_old) = carried(&mut flows, 7);
        assert!(flows.find(&key(1), Some(8)).is_none(), "it is another connection");
        let (new, of_new) = carried(&mut flows, 8);
        flows.forgotten(&tracked(1, [1, 2], 7));
        assert_eq!((of_old.totals(), of_new.totals()), ((1, 2), (0, 0)));
        assert_eq!((old.end.get(), new.end.get()), (Some(End::Done), None));
        flows.forgotten(&tracked(1, [30, 40], 3));
        assert_eq!((of_old.totals(), of_new.totals()), ((1, 2), (30, 40)));
        flows.remove(&new);
        flows.remove(&old);
        assert!(flows.0.is_empty());
    }

    #[test]
    fn a_packet_that_comes_again_waits_with_the_first_and_few_do() {
        let mut flows = Flows::default();
        let flow = Flow::new(key(1), Some(7), None);
        flows.insert(Rc::clone(&flow));
        assert_eq!(flows.find(&key(1), Some(7)).unwrap().1, Known::Waits);
        assert!(flows.find(&key(2), Some(7)).is_none());
        flow.release(MARK);
        assert_eq!(flows.find(&key(1), Some(7)).unwrap().1, Known::Late);
        flow.released.set(Instant::now().checked_sub(LATE));
        assert_eq!(flows.find(&key(1), Some(7)).unwrap().1, Known::Late, "the same SYN");
        flow.ends(End::Done);
        assert!(flows.find(&key(1), Some(7)).is_none());
    }

    #[test]
    fn a_datagram_that_comes_later_begins_another_flow() {
        let mut flows = Flows::default();
        let flow = Flow::new(key(1), None, None);
        flows.insert(Rc::clone(&flow));
        flow.release(MARK);
        assert_eq!(flows.find(&key(1), None).unwrap().1, Known::Late);
        flow.released.set(Instant::now().checked_sub(LATE));
        assert!(flows.find(&key(1), None).is_none(), "the kernel knows it no more");
    }

    #[test]
    fn a_flow_is_not_ended_by_word_of_a_connection_that_bore_another_mark() {
        let mut flows = Flows::default();
        let (flow, bytes) = carried(&mut flows, 7);
        let refused = Tracked { mark: settings::Lane::REFUSED, ..tracked(1, [9, 9], 7) };
        flows.forgotten(&refused);
        assert_eq!((flow.end.get(), bytes.totals()), (None, (0, 0)));
        flows.forgotten(&tracked(1, [1, 2], 7));
        assert_eq!(flow.end.get(), Some(End::Done));
    }

    #[test]
    fn who_is_missing_twice_has_ended_and_not_who_came_since() {
        let mut flows = Flows::default();
        let (flow, _) = carried(&mut flows, 7);
        let now = Instant::now();
        flows.seen(&HashMap::new(), now);
        flows.seen(&HashMap::new(), now);
        assert_eq!(flow.end.get(), None, "it may have come after the list");
        let later = now + 2 * LATE;
        flows.seen(&HashMap::new(), later);
        flows.seen(&HashMap::from([(key(1), None)]), later);
        flows.seen(&HashMap::new(), later);
        assert_eq!(flow.end.get(), None);
        flows.seen(&HashMap::new(), later);
        assert_eq!(flow.end.get(), Some(End::Done));
    }

    #[test]
    fn what_is_not_released_is_not_forgotten() {
        let mut flows = Flows::default();
        let flow = Flow::new(key(1), Some(7), None);
        flows.insert(Rc::clone(&flow));
        flows.forgotten(&tracked(1, [1, 2], 7));
        assert_eq!(flow.end.get(), None);
    }
}
