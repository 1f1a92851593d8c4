//! Limits how many connections, or other things, there are at once: of a listener, and of one client.

use std::cell::Cell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::account::{Limit, network};

/// Parts of the table, each under a lock of its own, so that workers seldom wait for each other.
const PARTS: usize = 64;

/// The connections, or UDP flows, that a listener may have at once, over all workers.
#[derive(Debug, Clone)]
pub(super) struct Slots {
    max_connections: usize,
    taken: Arc<Taken>,
    /// Where each client has a limit of its own.
    clients: Option<Arc<Clients>>,
}

/// What a listener's connections take.
#[derive(Debug, Default)]
struct Taken {
    connections: AtomicUsize,
    /// Connections whose first bytes are not yet known.
    hellos: AtomicUsize,
}

impl Slots {
    /// None is taken. 0 for each client is no limit of its own, and so is [`None`] until
    /// [`Slots::share`].
    pub(super) fn new(max_connections: usize, per_client: Option<usize>) -> Self {
        let own = per_client.and_then(NonZeroUsize::new);
        let own = own.map(|most| Shares::set(most, max_connections));
        let clients = own.map(|shares| Arc::new(Clients::new(shares)));
        Self { max_connections, taken: Arc::default(), clients }
    }

    /// Gives each client a share of what all listeners together may have.
    pub(super) fn share(&mut self, clients: &Arc<Clients>) {
        self.clients = Some(Arc::clone(clients));
    }

    /// The same limits for other things, none of which is taken.
    pub(super) fn anew(&self) -> Self {
        let clients = self.clients.as_ref().map(|clients| Arc::new(clients.anew()));
        Self { taken: Arc::default(), clients, ..*self }
    }

    /// What each client has at once, where it has a limit of its own.
    pub(super) fn clients(&self) -> Option<Arc<Clients>> {
        self.clients.clone()
    }

    /// Takes one for a connection of `client`, whose first bytes are to be read.
    ///
    /// # Errors
    /// The limit that was reached.
    pub(super) fn take(&self, client: IpAddr) -> Result<Slot, Limit> {
        // The client's own limit comes first: over it, no place of the others is taken.
        let place = self.clients.as_ref().map(|clients| clients.take(client));
        let place = place.transpose()?;
        let one_of = |count: &AtomicUsize, most| {
            let below = |taken| (taken < most).then_some(taken + 1);
            count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below).is_ok()
        };
        if !one_of(&self.taken.connections, self.max_connections) {
            return Err(Limit::Connections);
        }
        if !one_of(&self.taken.hellos, hellos_max(self.max_connections)) {
            self.taken.connections.fetch_sub(1, Ordering::Relaxed);
            return Err(Limit::Hellos);
        }
        let taken = Arc::clone(&self.taken);
        Ok(Slot(Box::new(Holds { taken, place, hears: Cell::new(true) })))
    }
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

/// The connections of every client that has one, over all workers: a client that spreads its
/// connections over them has no more than any other. An IPv6 client is its /64. Who has none is not
/// in it, so that it never has more entries than there are connections.
#[derive(Debug)]
pub(super) struct Clients {
    most: Shares,
    /// Keyed anew in each process: nobody can choose addresses that all fall into one part.
    hasher: RandomState,
    parts: [Mutex<HashMap<IpAddr, Held>>; PARTS],
}

/// What each client may have at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shares {
    /// Connections.
    pub(super) connections: usize,
    /// Of these, ones whose first bytes are not yet known.
    pub(super) hellos: usize,
}

/// The most first flights that all clients of a listener may have under way: each may hold 72 KiB,
/// so that the unread hold 288 MiB, however many connections are allowed.
const HELLOS_MAX: usize = 4096;

/// Local ports to one destination, by Linux's own `net.ipv4.ip_local_port_range`; the unit hides the
/// one that is set. A client whose connections all go to one place leaves half of them to others.
const LOCAL_PORTS: usize = 28_232;

/// First flights that `connections` connections may have under way.
pub(super) const fn hellos_max(connections: usize) -> usize {
    let half = connections.div_ceil(2);
    if half < HELLOS_MAX { half } else { HELLOS_MAX }
}

impl Shares {
    /// One client's, where there may be `connections` in all: a quarter of them.
    pub(super) fn of_all(connections: usize) -> Self {
        let quarter = connections.div_ceil(4);
        let hellos = hellos_max(connections).div_ceil(4);
        Self { connections: quarter.clamp(1, LOCAL_PORTS / 2), hellos: hellos.max(1) }
    }

    /// One client's, where it may have so many connections of all `connections`.
    pub(super) fn set(most: NonZeroUsize, connections: usize) -> Self {
        let hellos = hellos_max(connections).div_ceil(4);
        Self { connections: most.get(), hellos: hellos.max(1) }
    }
}

/// What one client has.
#[derive(Debug, Default)]
struct Held {
    connections: usize,
    hellos: usize,
}

impl Clients {
    /// `most` for each.
    pub(super) fn new(most: Shares) -> Self {
        let parts = std::array::from_fn(|_| Mutex::default());
        Self { most, hasher: RandomState::new(), parts }
    }

    /// The same limit for other things, none of which is taken, and all of which may be unread.
    pub(super) fn anew(&self) -> Self {
        Self::new(Shares { hellos: usize::MAX, ..self.most })
    }

    /// Counts one more connection of `client`, whose first bytes are to be read.
    ///
    /// # Errors
    /// The limit that it has reached.
    pub(super) fn take(self: &Arc<Self>, client: IpAddr) -> Result<Place, Limit> {
        // A listener on `[::]` has its IPv4 clients as mapped addresses, all of one /64.
        let client = network(client.to_canonical());
        let mut part = self.part(client);
        // A client that has reached a limit has an entry already.
        let held = part.entry(client).or_default();
        if held.connections >= self.most.connections {
            return Err(Limit::Client);
        }
        if held.hellos >= self.most.hellos {
            return Err(Limit::ClientHellos);
        }
        held.connections += 1;
        held.hellos += 1;
        Ok(Place { clients: Arc::clone(self), client, hears: Cell::new(true) })
    }

    fn part(&self, client: IpAddr) -> MutexGuard<'_, HashMap<IpAddr, Held>> {
        let part = self.hasher.hash_one(client) as usize % PARTS;
        self.parts[part].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of a client's connections, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    clients: Arc<Clients>,
    client: IpAddr,
    /// Its first bytes are still to be read.
    hears: Cell<bool>,
}

impl Place {
    /// The first bytes are known, or are not asked for.
    pub(super) fn heard(&self) {
        if self.hears.replace(false)
            && let Some(held) = self.clients.part(self.client).get_mut(&self.client)
        {
            held.hellos -= 1;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.heard();
        let mut part = self.clients.part(self.client);
        if let Entry::Occupied(mut held) = part.entry(self.client) {
            held.get_mut().connections -= 1;
            if held.get().connections == 0 {
                held.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(most: usize) -> Arc<Clients> {
        Arc::new(Clients::new(Shares { connections: most, hellos: usize::MAX }))
    }

    fn entries(clients: &Clients) -> usize {
        clients.parts.iter().map(|part| part.lock().unwrap().len()).sum()
    }

    #[test]
    fn each_client_has_its_own_places_and_gives_them_back() {
        let clients = clients(2);
        let take = |client: &str| clients.take(client.parse().unwrap());
        let first = take("192.0.2.1").unwrap();
        let _second = take("192.0.2.1").unwrap();
        assert_eq!(take("192.0.2.1").unwrap_err(), Limit::Client);
        let other = take("192.0.2.2");
        assert!(other.is_ok(), "another client");
        drop(first);
        assert!(take("192.0.2.1").is_ok());
    }

    #[test]
    fn a_client_is_an_ipv4_address_however_written_or_an_ipv6_64() {
        for (held, same, other) in [
            ("192.0.2.1", "::ffff:192.0.2.1", "::ffff:192.0.2.2"),
            ("2001:db8::1", "2001:db8::ffff:1:2", "2001:db8:0:1::1"),
        ] {
            let clients = clients(1);
            let take = |client: &str| clients.take(client.parse().unwrap());
            let _held = take(held).unwrap();
            assert!(take(same).is_err(), "{same}");
            assert!(take(other).is_ok(), "{other}");
        }
    }

    #[test]
    fn h09_first_flights_under_way_have_a_limit_of_their_own_and_are_given_back() {
        let clients = Arc::new(Clients::new(Shares { connections: 4, hellos: 2 }));
        let take = || clients.take([192, 0, 2, 1].into());
        let (first, second) = (take().unwrap(), take().unwrap());
        assert_eq!(take().unwrap_err(), Limit::ClientHellos);
        first.heard();
        first.heard();
        let third = take().unwrap();
        assert_eq!(take().unwrap_err(), Limit::ClientHellos);
        drop(second);
        let fourth = take().unwrap();
        [&third, &fourth].into_iter().for_each(Place::heard);
        let _fifth = take().unwrap();
        assert_eq!(take().unwrap_err(), Limit::Client, "{first:?}");
    }

    #[test]
    fn h09_one_client_s_share_leaves_most_to_the_others() {
        for all in [1, 2, 10, 246, 65_536, 10_000_000] {
            let share = Shares::of_all(all);
            assert!(share.connections >= 1 && share.hellos >= 1, "{all}: {share:?}");
            assert!(share.connections <= all.div_ceil(4), "{all}: {share:?}");
            assert!(share.connections <= LOCAL_PORTS / 2, "{all}: {share:?}");
            assert!(share.hellos <= hellos_max(all).div_ceil(4), "{all}: {share:?}");
        }
        let usual = Shares { connections: 14_116, hellos: 1024 };
        assert_eq!(Shares::of_all(65_536), usual, "as the documentation says");
    }

    #[test]
    fn clients_without_a_connection_are_not_remembered() {
        let clients = clients(1);
        for n in 0..10_000_u32 {
            assert!(clients.take(n.to_be_bytes().into()).is_ok());
        }
        assert_eq!(entries(&clients), 0);
        let held: Vec<_> = (0..500_u32).map(|n| clients.take(n.to_be_bytes().into())).collect();
        assert_eq!(entries(&clients), 500);
        assert!(held.iter().all(Result::is_ok) && clients.take([0; 4].into()).is_err());
        assert_eq!(entries(&clients), 500, "a refused one leaves nothing");
        drop(held);
        assert_eq!(entries(&clients), 0);
    }

    #[test]
    fn the_limit_holds_over_threads() {
        let clients = clients(100);
        let take = || (0..1_000).filter_map(|_| clients.take([192, 0, 2, 1].into()).ok()).collect();
        let held: Vec<Vec<Place>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(held.iter().map(Vec::len).sum::<usize>(), 100);
    }

    fn one() -> IpAddr {
        IpAddr::from([192, 0, 2, 1])
    }

    #[test]
    fn the_limit_holds_over_all_workers_and_places_come_back() {
        let slots = Slots::new(2, Some(0));
        let other_worker = slots.clone();
        let take = |slots: &Slots| slots.take(one()).inspect(Slot::heard);
        let first = take(&slots).unwrap();
        let _second = take(&other_worker).unwrap();
        assert_eq!(take(&slots).unwrap_err(), Limit::Connections);
        drop(first);
        assert!(take(&other_worker).is_ok());
    }

    #[test]
    fn h09_half_of_the_connections_may_wait_for_their_first_bytes() {
        let slots = Slots::new(4, Some(0));
        let take = || slots.take(one());
        let (first, second) = (take().unwrap(), take().unwrap());
        assert_eq!(take().unwrap_err(), Limit::Hellos);
        first.heard();
        let third = take().unwrap();
        assert_eq!(take().unwrap_err(), Limit::Hellos);
        [&second, &third].into_iter().for_each(Slot::heard);
        let fourth = take().unwrap();
        assert_eq!(take().unwrap_err(), Limit::Connections);
        drop((first, second, third, fourth));
        let taken = [&slots.taken.connections, &slots.taken.hellos];
        assert_eq!(taken.map(|count| count.load(Ordering::Relaxed)), [0, 0]);
    }

    #[test]
    fn a_client_over_its_limit_leaves_the_places_of_the_listener_to_others() {
        let slots = Slots::new(2, Some(1));
        let other_worker = slots.clone();
        let take =
            |slots: &Slots, last| slots.take(IpAddr::from([192, 0, 2, last])).inspect(Slot::heard);
        let first = take(&slots, 1).unwrap();
        assert_eq!(take(&other_worker, 1).unwrap_err(), Limit::Client);
        let _other = take(&slots, 2).unwrap();
        // A listener that is full takes no place of the client's either.
        assert_eq!(take(&slots, 3).unwrap_err(), Limit::Connections);
        drop(first);
        assert!(take(&slots, 3).is_ok());
    }
}
