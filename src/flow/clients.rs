//! How many connections, or other things, each client has at once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::account::network;

/// Parts of the table, each under a lock of its own, so that workers seldom wait for each other.
const PARTS: usize = 64;

/// The connections of every client that has one, over all workers: a client that spreads its
/// connections over them has no more than any other. An IPv6 client is its /64. Who has none is not
/// in it, so that it never has more entries than there are connections.
#[derive(Debug)]
pub(super) struct Clients {
    most: usize,
    /// Keyed anew in each process: nobody can choose addresses that all fall into one part.
    hasher: RandomState,
    parts: [Mutex<HashMap<IpAddr, usize>>; PARTS],
}

impl Clients {
    /// `most` connections at once for each.
    pub(super) fn new(most: NonZeroUsize) -> Self {
        let parts = std::array::from_fn(|_| Mutex::default());
        Self { most: most.get(), hasher: RandomState::new(), parts }
    }

    /// The same limit for other things, none of which is taken.
    pub(super) fn anew(&self) -> Self {
        let parts = std::array::from_fn(|_| Mutex::default());
        Self { most: self.most, hasher: RandomState::new(), parts }
    }

    /// Counts one more connection of `client`; `None` where it has as many as it may.
    pub(super) fn take(self: &Arc<Self>, client: IpAddr) -> Option<Place> {
        // A listener on `[::]` has its IPv4 clients as mapped addresses, all of one /64.
        let client = network(client.to_canonical());
        let mut part = self.part(client);
        let held = part.entry(client).or_insert(0);
        if *held >= self.most {
            return None;
        }
        *held += 1;
        Some(Place { clients: Arc::clone(self), client })
    }

    fn part(&self, client: IpAddr) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        let part = self.hasher.hash_one(client) as usize % PARTS;
        self.parts[part].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of a client's connections, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    clients: Arc<Clients>,
    client: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut part = self.clients.part(self.client);
        if let Entry::Occupied(mut held) = part.entry(self.client) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(most: usize) -> Arc<Clients> {
        Arc::new(Clients::new(NonZeroUsize::new(most).unwrap()))
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
        assert!(take("192.0.2.1").is_none());
        let other = take("192.0.2.2");
        assert!(other.is_some(), "another client");
        drop(first);
        assert!(take("192.0.2.1").is_some());
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
            assert!(take(same).is_none(), "{same}");
            assert!(take(other).is_some(), "{other}");
        }
    }

    #[test]
    fn clients_without_a_connection_are_not_remembered() {
        let clients = clients(1);
        for n in 0..10_000_u32 {
            assert!(clients.take(n.to_be_bytes().into()).is_some());
        }
        assert_eq!(entries(&clients), 0);
        let held: Vec<_> = (0..500_u32).map(|n| clients.take(n.to_be_bytes().into())).collect();
        assert_eq!(entries(&clients), 500);
        assert!(held.iter().all(Option::is_some) && clients.take([0; 4].into()).is_none());
        assert_eq!(entries(&clients), 500, "a refused one leaves nothing");
        drop(held);
        assert_eq!(entries(&clients), 0);
    }

    #[test]
    fn the_limit_holds_over_threads() {
        let clients = clients(100);
        let take = || (0..1_000).filter_map(|_| clients.take([192, 0, 2, 1].into())).collect();
        let held: Vec<Vec<Place>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(held.iter().map(Vec::len).sum::<usize>(), 100);
    }
}
