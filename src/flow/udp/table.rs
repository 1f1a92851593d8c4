//! Keeps the UDP flows of one worker: bounded in number, for each client, and in the bytes that wait.
//!
//! A flow is *unvalidated* (RFC 9000 §8) until its client has answered an answer of the destination: a
//! source address can be forged, that exchange cannot. Where there are as many of these as there may
//! be, the oldest gives way, so that a flood of forged datagrams costs forged flows only.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::account::{Dropped, network};
use crate::flow::slots::{self, Clients};

/// Datagrams that wait for one flow, and their bytes: a first flight over eight Initials with early
/// data behind it fits.
pub(super) const WAITING_MAX: usize = 32;
const WAITING_BYTES: usize = 64 * 1024;

/// Bytes that wait for all flows of a worker.
pub(super) const HELD_BYTES: usize = 16 * 1024 * 1024;

/// Young flows that one datagram may displace for room: what they hold is freed only when their
/// tasks have their turn.
const GIVEN_WAY_MAX: usize = 4;

/// Who sends, and where to: both as on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) client: SocketAddr,
    pub(super) to: SocketAddr,
    /// 0 on a transparent listener; else the number of an association, or of a name that its client
    /// gave in the place of an address.
    pub(super) association_id: u64,
}

impl Key {
    /// A flow of a transparent listener.
    pub(super) const fn transparent(client: SocketAddr, to: SocketAddr) -> Self {
        Self { client, to, association_id: 0 }
    }
}

/// How many flows there may be.
#[derive(Debug, Clone, Copy)]
pub(in crate::flow) struct Limits {
    /// At once.
    pub(super) flows: usize,
    /// Of these, unvalidated.
    pub(super) unvalidated: usize,
    /// For one client of this worker: an IPv4 address, or a /64.
    pub(super) client: usize,
}

impl Limits {
    /// The limits that go with `flows` flows at once.
    pub(in crate::flow) const fn of(flows: usize) -> Self {
        Self { flows, unvalidated: flows.div_ceil(2), client: flows.div_ceil(4) }
    }

    /// The same, with no more unvalidated flows than half of the worker's part of the local ports: a
    /// flood of forged sources takes a port for each, and the others are for who answers.
    pub(super) const fn with_ports(self, ports: usize) -> Self {
        let most = if ports < 2 { 1 } else { ports / 2 };
        Self { unvalidated: if self.unvalidated < most { self.unvalidated } else { most }, ..self }
    }
}

/// The flows of one worker.
#[derive(Debug)]
pub(in crate::flow) struct Table {
    limits: Limits,
    /// Where each client has a limit over all workers.
    shared: Option<Arc<Clients>>,
    flows: RefCell<HashMap<Key, Rc<Entry>>>,
    clients: RefCell<HashMap<IpAddr, usize>>,
    /// In the order in which they came; entries that were validated or have ended are stale.
    unvalidated: RefCell<VecDeque<Rc<Entry>>>,
    unvalidated_count: Cell<usize>,
    /// What the entries are charged with, together.
    held: Cell<usize>,
    association_ids: Cell<u64>,
}

#[derive(Debug)]
struct Entry {
    key: Key,
    waiting: RefCell<VecDeque<Vec<u8>>>,
    waiting_bytes: Cell<usize>,
    /// Bytes that wait, that are held, and that the reader holds until the verdict.
    charged: Cell<usize>,
    reader: Cell<usize>,
    unvalidated: Cell<bool>,
    ended: Cell<bool>,
    displaced: Cell<bool>,
    arrived: Notify,
    given_way: Notify,
    /// Among the flows of its client over all workers.
    shared: RefCell<Option<slots::Place>>,
}

/// A flow's place in the table, given up when dropped.
#[derive(Debug)]
pub(super) struct Place {
    table: Rc<Table>,
    entry: Rc<Entry>,
}

/// A datagram that is held, charged to its flow until it is dropped.
#[derive(Debug)]
pub(super) struct QueuedDatagram {
    bytes: Vec<u8>,
    table: Rc<Table>,
    entry: Rc<Entry>,
}

impl QueuedDatagram {
    /// The datagram.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for QueuedDatagram {
    fn drop(&mut self) {
        self.table.discharge(&self.entry, self.bytes.len());
    }
}

/// What became of a datagram.
#[derive(Debug)]
pub(super) enum Delivered {
    /// It waits for its flow.
    Waits,
    /// It is the first of a flow, and waits in it.
    New(Place),
    /// There is no room for it.
    Dropped(Dropped),
}

impl Table {
    /// An empty table.
    pub(in crate::flow) fn new(limits: Limits) -> Rc<Self> {
        Self::with_clients(limits, None)
    }

    /// An empty table, whose clients have a limit over all workers as well.
    pub(super) fn with_clients(limits: Limits, shared: Option<Arc<Clients>>) -> Rc<Self> {
        Rc::new(Self {
            limits,
            shared,
            flows: RefCell::default(),
            clients: RefCell::default(),
            unvalidated: RefCell::default(),
            unvalidated_count: Cell::new(0),
            held: Cell::new(0),
            association_ids: Cell::new(0),
        })
    }

    /// Brings a datagram to its flow, or begins one with it.
    pub(super) fn deliver(self: &Rc<Self>, key: Key, datagram: &[u8]) -> Delivered {
        // The flow that has waited longest gives way, so that forged half hellos keep no place for long.
        let mut given_way = 0;
        while self.held.get() + datagram.len() > HELD_BYTES {
            if given_way == GIVEN_WAY_MAX || !self.displace_oldest() {
                return Delivered::Dropped(Dropped::Held);
            }
            given_way += 1;
        }
        let known = self.flows.borrow().get(&key).map(Rc::clone);
        if let Some(entry) = known {
            return if entry.takes(datagram) {
                self.charge(&entry, datagram.len());
                Delivered::Waits
            } else {
                Delivered::Dropped(Dropped::Held)
            };
        }
        let client = network(key.client.ip());
        if self.clients.borrow().get(&client).is_some_and(|&n| n >= self.limits.client) {
            return Delivered::Dropped(Dropped::ClientLimit);
        }
        let shared = match &self.shared {
            Some(shared) => match shared.take(client) {
                Ok(place) => Some(place),
                Err(_) => return Delivered::Dropped(Dropped::ClientLimit),
            },
            None => None,
        };
        if self.unvalidated_count.get() >= self.limits.unvalidated
            || self.flows.borrow().len() >= self.limits.flows
        {
            self.displace_oldest();
        }
        if self.flows.borrow().len() >= self.limits.flows {
            return Delivered::Dropped(Dropped::TableFull);
        }
        let entry = Rc::new(Entry {
            key,
            waiting: RefCell::default(),
            waiting_bytes: Cell::new(0),
            charged: Cell::new(0),
            reader: Cell::new(0),
            unvalidated: Cell::new(true),
            ended: Cell::new(false),
            displaced: Cell::new(false),
            arrived: Notify::new(),
            given_way: Notify::new(),
            shared: RefCell::new(shared),
        });
        entry.takes(datagram);
        self.charge(&entry, datagram.len());
        *self.clients.borrow_mut().entry(client).or_default() += 1;
        self.flows.borrow_mut().insert(key, Rc::clone(&entry));
        self.remember_unvalidated(&entry);
        Delivered::New(Place { table: Rc::clone(self), entry })
    }

    /// An association id that no other flow has.
    pub(super) fn next_association_id(&self) -> u64 {
        self.association_ids.set(self.association_ids.get() + 1);
        self.association_ids.get()
    }

    /// Whether there is such a flow.
    pub(super) fn has(&self, key: &Key) -> bool {
        self.flows.borrow().contains_key(key)
    }

    /// Flows at once.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.flows.borrow().len()
    }

    fn remember_unvalidated(&self, entry: &Rc<Entry>) {
        self.unvalidated_count.set(self.unvalidated_count.get() + 1);
        let mut unvalidated = self.unvalidated.borrow_mut();
        // Stale entries are cleared away before they are as many as the others may be.
        if unvalidated.len() >= 2 * self.limits.unvalidated {
            unvalidated.retain(|entry| entry.is_unvalidated());
        }
        unvalidated.push_back(Rc::clone(entry));
    }

    /// Whether there was one.
    fn displace_oldest(&self) -> bool {
        let oldest = {
            let mut unvalidated = self.unvalidated.borrow_mut();
            std::iter::from_fn(|| unvalidated.pop_front()).find(|entry| entry.is_unvalidated())
        };
        let Some(entry) = oldest else { return false };
        self.end(&entry);
        entry.displaced.set(true);
        entry.given_way.notify_one();
        true
    }

    fn charge(&self, entry: &Entry, bytes: usize) {
        if !entry.ended.get() {
            entry.charged.set(entry.charged.get() + bytes);
            self.held.set(self.held.get() + bytes);
        }
    }

    /// A flow that has ended is charged with nothing any more.
    fn discharge(&self, entry: &Entry, bytes: usize) {
        if !entry.ended.get() {
            entry.charged.set(entry.charged.get().saturating_sub(bytes));
            self.held.set(self.held.get().saturating_sub(bytes));
        }
    }

    /// Takes a flow off the table, once.
    fn end(&self, entry: &Entry) {
        if entry.ended.replace(true) {
            return;
        }
        self.flows.borrow_mut().remove(&entry.key);
        if entry.unvalidated.get() {
            self.unvalidated_count.set(self.unvalidated_count.get().saturating_sub(1));
        }
        let mut clients = self.clients.borrow_mut();
        let client = network(entry.key.client.ip());
        if let Some(count) = clients.get_mut(&client) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                clients.remove(&client);
            }
        }
        entry.waiting.borrow_mut().clear();
        drop(entry.shared.take());
        // Its task frees the rest when it has its turn, before the next batch of datagrams.
        self.held.set(self.held.get().saturating_sub(entry.charged.replace(0)));
    }
}

impl Entry {
    fn is_unvalidated(&self) -> bool {
        self.unvalidated.get() && !self.ended.get()
    }

    fn takes(&self, datagram: &[u8]) -> bool {
        let bytes = self.waiting_bytes.get() + datagram.len();
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() >= WAITING_MAX || bytes > WAITING_BYTES {
            return false;
        }
        waiting.push_back(datagram.to_vec());
        self.waiting_bytes.set(bytes);
        self.arrived.notify_one();
        true
    }
}

impl Place {
    pub(super) fn key(&self) -> Key {
        self.entry.key
    }

    /// The next datagram that waits, if one does.
    pub(super) fn take(&self) -> Option<QueuedDatagram> {
        let bytes = self.entry.waiting.borrow_mut().pop_front()?;
        self.entry.waiting_bytes.set(self.entry.waiting_bytes.get().saturating_sub(bytes.len()));
        Some(self.held(bytes))
    }

    /// Waits for the next datagram.
    pub(super) async fn next(&self) -> QueuedDatagram {
        loop {
            if let Some(held) = self.take() {
                return held;
            }
            self.entry.arrived.notified().await;
        }
    }

    /// Waits until the flow has to give way.
    pub(super) async fn displaced(&self) {
        while !self.entry.displaced.get() {
            self.entry.given_way.notified().await;
        }
    }

    /// A datagram that came to the flow's own socket; `None` where no more may be held.
    pub(super) fn hold(&self, datagram: &[u8]) -> Option<QueuedDatagram> {
        if self.table.held.get() + datagram.len() > HELD_BYTES {
            return None;
        }
        self.table.charge(&self.entry, datagram.len());
        Some(self.held(datagram.to_vec()))
    }

    /// Charges the flow with what its reader holds by now.
    pub(super) fn charge_reader(&self, bytes: usize) {
        self.table.discharge(&self.entry, self.entry.reader.replace(bytes));
        self.table.charge(&self.entry, bytes);
    }

    fn held(&self, bytes: Vec<u8>) -> QueuedDatagram {
        QueuedDatagram { bytes, table: Rc::clone(&self.table), entry: Rc::clone(&self.entry) }
    }

    /// The client has proved that it receives what is sent to its address.
    pub(super) fn validate(&self) {
        if self.entry.is_unvalidated() {
            self.table.unvalidated_count.set(self.table.unvalidated_count.get().saturating_sub(1));
        }
        self.entry.unvalidated.set(false);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.table.end(&self.entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::slots::Shares;

    fn key(client: u32, port: u16) -> Key {
        let client = SocketAddr::new(IpAddr::from(client.to_be_bytes()), port);
        Key::transparent(client, "198.51.100.7:443".parse().unwrap())
    }

    fn begin(table: &Rc<Table>, key: Key) -> Place {
        let delivered = table.deliver(key, b"first");
        let Delivered::New(place) = delivered else { panic!("{delivered:?}") };
        place
    }

    #[test]
    fn datagrams_come_out_in_the_order_in_which_they_went_in() {
        let table = Table::new(Limits::of(8));
        let place = begin(&table, key(1, 1));
        for datagram in [&b"b"[..], b"", b"c"] {
            assert!(matches!(table.deliver(key(1, 1), datagram), Delivered::Waits));
        }
        let taken: Vec<_> =
            std::iter::from_fn(|| place.take()).map(|held| held.bytes().to_vec()).collect();
        assert_eq!(taken, [&b"first"[..], b"b", b"", b"c"]);
        assert_eq!(table.held.get(), 0);
    }

    #[test]
    fn what_waits_is_bounded_for_a_flow_and_for_the_worker() {
        let table = Table::new(Limits::of(100_000));
        let place = begin(&table, key(1, 1));
        for _ in 1..WAITING_MAX {
            assert!(matches!(table.deliver(key(1, 1), b"x"), Delivered::Waits));
        }
        let over = table.deliver(key(1, 1), b"x");
        assert!(matches!(over, Delivered::Dropped(Dropped::Held)), "{over:?}");
        drop(place);
        assert_eq!((table.held.get(), table.len()), (0, 0));
        let datagram = vec![0; 60_000];
        let mut places = Vec::new();
        for n in 0..400 {
            let Delivered::New(place) = table.deliver(key(n, 1), &datagram) else { panic!("{n}") };
            places.push(place);
            assert!(table.held.get() <= HELD_BYTES);
        }
        let alive = places.iter().filter(|place| !place.entry.ended.get()).count();
        assert_eq!(alive, HELD_BYTES / 60_000, "the oldest gave way");
        let last = places.pop().unwrap();
        last.charge_reader(5000);
        last.charge_reader(HELD_BYTES);
        assert!(last.hold(&datagram).is_none());
        last.charge_reader(0);
        drop((places, last));
        assert_eq!(table.held.get(), 0);
    }

    #[test]
    fn a_flood_of_new_flows_displaces_the_oldest_unvalidated_ones_and_nobody_else() {
        let table = Table::new(Limits::of(40));
        let validated = begin(&table, key(7, 7));
        validated.validate();
        let mut unvalidated = VecDeque::new();
        for n in 0..100_000 {
            unvalidated.push_back(begin(&table, key(n + 100, 1)));
            if unvalidated.len() > 30 {
                unvalidated.pop_front();
            }
            assert!(table.len() <= 21 && table.unvalidated.borrow().len() <= 41);
        }
        assert!(!validated.entry.ended.get() && !validated.entry.displaced.get());
        assert!(unvalidated.front().unwrap().entry.displaced.get());
        assert!(!unvalidated.back().unwrap().entry.displaced.get());
        drop((unvalidated, validated));
        assert_eq!((table.len(), table.unvalidated_count.get(), table.held.get()), (0, 0, 0));
        assert!(table.clients.borrow().is_empty());
    }

    #[test]
    fn one_client_cannot_take_every_place() {
        let table = Table::new(Limits::of(40));
        let places: Vec<_> = (0..10).map(|port| begin(&table, key(1, port))).collect();
        let over = table.deliver(key(1, 99), b"x");
        assert!(matches!(over, Delivered::Dropped(Dropped::ClientLimit)), "{over:?}");
        begin(&table, key(2, 1));
        drop(places);
        begin(&table, key(1, 99));
        let one: IpAddr = "2001:db8::1".parse().unwrap();
        let two: IpAddr = "2001:db8::ffff:1".parse().unwrap();
        assert_eq!(network(one), network(two));
    }

    #[test]
    fn h09_a_client_has_no_more_flows_over_all_workers_than_its_limit() {
        let shared = Arc::new(Clients::new(Shares { connections: 2, hellos: usize::MAX }));
        let workers =
            [(); 2].map(|()| Table::with_clients(Limits::of(100), Some(Arc::clone(&shared))));
        let first = begin(&workers[0], key(1, 1));
        let _second = begin(&workers[1], key(1, 2));
        for table in &workers {
            let over = table.deliver(key(1, 3), b"x");
            assert!(matches!(over, Delivered::Dropped(Dropped::ClientLimit)), "{over:?}");
        }
        begin(&workers[1], key(2, 1));
        drop(first);
        begin(&workers[1], key(1, 3));
    }

    #[test]
    fn a_table_of_validated_flows_takes_no_more() {
        let table = Table::new(Limits { flows: 2, unvalidated: 2, client: 8 });
        let places = [begin(&table, key(1, 1)), begin(&table, key(2, 1))];
        places.iter().for_each(Place::validate);
        let over = table.deliver(key(3, 1), b"x");
        assert!(matches!(over, Delivered::Dropped(Dropped::TableFull)), "{over:?}");
    }

    #[tokio::test]
    async fn a_displaced_flow_is_told_and_its_place_may_be_taken_again() {
        let table = Table::new(Limits { flows: 1, unvalidated: 1, client: 8 });
        let first = begin(&table, key(1, 1));
        let second = begin(&table, key(2, 1));
        first.displaced().await;
        drop(first);
        assert_eq!(second.next().await.bytes(), b"first");
        assert_eq!(table.len(), 1, "a place that was lost is not given up twice");
    }
}
