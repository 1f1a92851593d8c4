//! Limits how many connections, or other things, there are at once: of a listener, and of one client.

use std::cell::Cell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::account::Limit;

/// Parts of the table, each under a lock of its own, so that workers seldom wait for each other.
const PARTS: usize = 64;

/// The connections, or UDP flows, that a listener may have at once, over all workers.
#[derive(Debug, Clone)]
pub(super) struct Slots(Arc<Taken>);

/// What a listener's connections may take, and have taken.
#[derive(Debug)]
struct Taken {
    max_connections: usize,
    connections: AtomicUsize,
    /// Connections whose first bytes are not yet known.
    hellos: AtomicUsize,
    /// Where each client has a limit of its own.
    clients: Option<Arc<Clients>>,
}

impl Slots {
    /// None is taken. 0 for each client is no limit of its own, and so is [`None`] until
    /// [`Slots::share`].
    pub(super) fn new(max_connections: usize, per_client: Option<usize>) -> Self {
        let own = per_client.and_then(NonZeroUsize::new);
        let own = own.map(|most| Shares::set(most, max_connections));
        Self::of(max_connections, own.map(|shares| Arc::new(Clients::new(shares))))
    }

    fn of(max_connections: usize, clients: Option<Arc<Clients>>) -> Self {
        let (connections, hellos) = Default::default();
        Self(Arc::new(Taken { max_connections, connections, hellos, clients }))
    }

    /// Gives each client a share of what all listeners together may have; before any is taken.
    pub(super) fn share(&mut self, clients: &Arc<Clients>) {
        *self = Self::of(self.0.max_connections, Some(Arc::clone(clients)));
    }

    /// The same limits for other things, none of which is taken.
    pub(super) fn anew(&self) -> Self {
        let clients = self.0.clients.as_ref().map(|clients| Arc::new(clients.anew()));
        Self::of(self.0.max_connections, clients)
    }

    /// What each client has at once, where it has a limit of its own.
    pub(super) fn clients(&self) -> Option<Arc<Clients>> {
        self.0.clients.clone()
    }

    /// Takes one for a connection of `client`, whose first bytes are to be read.
    ///
    /// # Errors
    /// The limit that was reached.
    pub(super) fn take(&self, client: IpAddr) -> Result<Slot, Limit> {
        let (taken, client) = (&*self.0, Network::of(client));
        // The client's own limit comes first: over it, no place of the others is taken.
        let clients = taken.clients.as_ref();
        clients.map_or(Ok(()), |clients| clients.enter(client))?;
        if let Err(limit) = taken.take() {
            clients.inspect(|clients| {
                clients.heard(client);
                clients.leave(client);
            });
            return Err(limit);
        }
        Ok(Slot { taken: Arc::clone(&self.0), client, hears: Cell::new(true) })
    }
}

impl Taken {
    fn take(&self) -> Result<(), Limit> {
        let one_of = |count: &AtomicUsize, most| {
            let below = |taken| (taken < most).then_some(taken + 1);
            count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below).is_ok()
        };
        if !one_of(&self.connections, self.max_connections) {
            return Err(Limit::Connections);
        }
        if !one_of(&self.hellos, hellos_max(self.max_connections)) {
            self.connections.fetch_sub(1, Ordering::Relaxed);
            return Err(Limit::Hellos);
        }
        Ok(())
    }
}

/// One of a listener's connections, given back when dropped: three words, which every connection holds
/// as long as it lives.
#[derive(Debug)]
pub(super) struct Slot {
    taken: Arc<Taken>,
    client: Network,
    /// Its first bytes are still to be read.
    hears: Cell<bool>,
}

impl Slot {
    /// The first bytes of the connection are known, or are not asked for.
    pub(super) fn heard(&self) {
        if self.hears.replace(false) {
            self.taken.hellos.fetch_sub(1, Ordering::Relaxed);
            self.taken.clients.iter().for_each(|clients| clients.heard(self.client));
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.heard();
        self.taken.connections.fetch_sub(1, Ordering::Relaxed);
        self.taken.clients.iter().for_each(|clients| clients.leave(self.client));
    }
}

/// The connections of every client that has one, over all workers: a client that spreads its
/// connections over them has no more than any other. An IPv6 client is its /64. Who has none is not
/// in it, so that it never has more entries than there are connections.
#[derive(Debug)]
pub(super) struct Clients {
    most: Shares,
    mix: Mix,
    parts: [Mutex<Part>; PARTS],
}

/// By what [`Mix`] makes of a client.
type Part = HashMap<u64, Held, BuildHasherDefault<Mixed>>;

/// Scatters clients by keys of this process alone, so that nobody can choose addresses that all fall
/// into one place; two clients never become one, since every step can be undone. `SipHash` would take
/// a thousand instructions of every connection, which is looked up three times.
#[derive(Debug)]
struct Mix([u64; 3]);

impl Mix {
    fn new() -> Self {
        let random = RandomState::new();
        Self([random.hash_one(0), random.hash_one(1) | 1, random.hash_one(2) | 1])
    }

    const fn of(&self, Network(client): Network) -> u64 {
        let Self([key, odd, other]) = *self;
        let mixed = (client ^ key).wrapping_mul(odd);
        let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(other);
        mixed ^ (mixed >> 32)
    }
}

/// The hash of what is scattered already.
#[derive(Debug, Default)]
struct Mixed(u64);

impl Hasher for Mixed {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.0 = self.0.rotate_left(8) ^ u64::from(byte));
    }

    fn write_u64(&mut self, mixed: u64) {
        self.0 = mixed;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// What counts as one client: an IPv4 address, or the upper half of an IPv6 one. In a word, since every
/// connection holds it: an IPv4 address is a /64 of `::/32`, which nobody has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Network(u64);

impl Network {
    /// A listener on `[::]` has its IPv4 clients as mapped addresses, which are those addresses.
    pub(super) const fn of(client: IpAddr) -> Self {
        match client.to_canonical() {
            IpAddr::V4(v4) => Self(v4.to_bits() as u64),
            IpAddr::V6(v6) => Self((v6.to_bits() >> 64) as u64),
        }
    }
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
        Self { most, mix: Mix::new(), parts }
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
        let client = Network::of(client);
        self.enter(client)?;
        Ok(Place { clients: Arc::clone(self), client, hears: Cell::new(true) })
    }

    /// As [`Clients::take`], for who calls [`Clients::leave`], and [`Clients::heard`] before it.
    pub(super) fn enter(&self, client: Network) -> Result<(), Limit> {
        let (mut part, client) = self.part(client);
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
        Ok(())
    }

    /// The first bytes of one more connection of `client` are known.
    pub(super) fn heard(&self, client: Network) {
        let (mut part, client) = self.part(client);
        if let Some(held) = part.get_mut(&client) {
            held.hellos -= 1;
        }
    }

    /// One connection of `client` less.
    pub(super) fn leave(&self, client: Network) {
        let (mut part, client) = self.part(client);
        if let Entry::Occupied(mut held) = part.entry(client) {
            held.get_mut().connections -= 1;
            if held.get().connections == 0 {
                held.remove();
            }
        }
    }

    /// Where a client is, and as what.
    fn part(&self, client: Network) -> (MutexGuard<'_, Part>, u64) {
        let client = self.mix.of(client);
        // Of the bits that the map of the part does not look at first.
        let part = (client >> 40) as usize % PARTS;
        (self.parts[part].lock().unwrap_or_else(PoisonError::into_inner), client)
    }
}

/// One of a client's connections, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    clients: Arc<Clients>,
    client: Network,
    /// Its first bytes are still to be read.
    hears: Cell<bool>,
}

impl Place {
    /// The first bytes are known, or are not asked for.
    pub(super) fn heard(&self) {
        if self.hears.replace(false) {
            self.clients.heard(self.client);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.heard();
        self.clients.leave(self.client);
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
    fn clients_are_scattered_over_the_parts_and_no_two_are_one() {
        let mix = Mix::new();
        let (mut all, mut parts) = (std::collections::HashSet::new(), [0; PARTS]);
        for n in 0..64_000_u64 {
            // Neighbours, as the clients of a network are; and /64s of a /32.
            let mixed = mix.of(Network(0x0a00_0000 + n / 2 + ((n % 2) << 44)));
            assert!(all.insert(mixed), "{n}");
            parts[(mixed >> 40) as usize % PARTS] += 1;
        }
        assert!(parts.iter().all(|&part| (500..2_000).contains(&part)), "{parts:?}");
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
        let taken = [&slots.0.connections, &slots.0.hellos];
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
