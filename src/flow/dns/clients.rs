//! Limits how much one client may ask: a bucket of queries for each, filled as time goes by, and a
//! share of what can wait at once.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::account::network;
use crate::flow::slots;

/// Clients that are remembered; an IPv6 client is its /64.
const CLIENTS_MAX: usize = 16 * 1024;

/// Seconds of queries that a client may ask at once.
const BURST: f64 = 2.0;

/// The buckets of all clients.
#[derive(Debug)]
pub(super) struct Clients {
    /// Queries a second.
    rate: f64,
    buckets: RefCell<HashMap<IpAddr, Bucket>>,
    /// When the buckets were last looked through for full ones.
    swept: Cell<Option<Instant>>,
}

#[derive(Debug)]
struct Bucket {
    queries: f64,
    at: Instant,
}

impl Clients {
    pub(super) fn new(rate: u32) -> Self {
        Self { rate: rate.into(), buckets: RefCell::default(), swept: Cell::new(None) }
    }

    /// Whether the client may ask once more.
    pub(super) fn may_ask(&self, client: IpAddr) -> bool {
        let (now, full) = (Instant::now(), self.rate * BURST);
        let mut buckets = self.buckets.borrow_mut();
        let client = network(client);
        if buckets.len() >= CLIENTS_MAX && !buckets.contains_key(&client) {
            // A bucket that is full again says nothing about its client.
            let quiet = Duration::from_secs_f64(BURST);
            // Not for each query of a flood.
            if self.swept.get().is_none_or(|swept| now.duration_since(swept) >= quiet) {
                self.swept.set(Some(now));
                buckets.retain(|_, bucket| now.duration_since(bucket.at) < quiet);
            }
            if buckets.len() >= CLIENTS_MAX {
                // More clients at once than are remembered: the new ones wait.
                return false;
            }
        }
        let bucket = buckets.entry(client).or_insert(Bucket { queries: full, at: now });
        let passed = now.duration_since(bucket.at).as_secs_f64();
        bucket.queries = (bucket.queries + passed * self.rate).min(full);
        bucket.at = now;
        if bucket.queries < 1.0 {
            return false;
        }
        bucket.queries -= 1.0;
        true
    }
}

/// What there may be so many of at once, and no more than a quarter of them of one client.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    taken: Cell<usize>,
    each: Arc<slots::Clients>,
}

/// One of them, given back when dropped.
pub(super) struct Place<'a> {
    of: &'a Places,
    _own: slots::Place,
}

impl Places {
    pub(super) fn new(most: usize) -> Self {
        let each = slots::Shares { connections: (most / 4).max(1), hellos: usize::MAX };
        Self { most, taken: Cell::new(0), each: Arc::new(slots::Clients::new(each)) }
    }

    /// A place for one more of this client.
    pub(super) fn take(&self, client: IpAddr) -> Option<Place<'_>> {
        if self.taken.get() >= self.most {
            return None;
        }
        let own = self.each.take(client).ok()?;
        self.taken.set(self.taken.get() + 1);
        Some(Place { of: self, _own: own })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.of.taken.set(self.of.taken.get().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_asks_as_often_as_it_may_and_no_other_is_held_up_by_it() {
        let clients = Clients::new(10);
        let (one, two) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        assert_eq!((0..100).filter(|_| clients.may_ask(one)).count(), 20);
        assert!(clients.may_ask(two));
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!((0..100).filter(|_| clients.may_ask(one)).count(), 5);
        let six = |last: u16| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).into();
        assert_eq!((0..100).filter(|&last| clients.may_ask(six(last))).count(), 20, "one /64");
    }

    #[tokio::test(start_paused = true)]
    async fn the_clients_that_are_remembered_are_bounded() {
        let clients = Clients::new(1);
        let nth = |n: u32| IpAddr::from(n.to_be_bytes());
        for n in 0..2 * CLIENTS_MAX as u32 {
            clients.may_ask(nth(n));
        }
        assert_eq!(clients.buckets.borrow().len(), CLIENTS_MAX);
        assert!(!clients.may_ask(nth(u32::MAX)));
        tokio::time::advance(Duration::from_secs(3)).await;
        assert!(clients.may_ask(nth(u32::MAX)));
        assert_eq!(clients.buckets.borrow().len(), 1);
    }

    #[test]
    fn one_client_takes_no_more_than_a_quarter_of_the_places() {
        let places = Places::new(8);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let one: Vec<_> = (0..3).map_while(|_| places.take(ip("2001:db8::1"))).collect();
        assert_eq!(one.len(), 2);
        assert!(places.take(ip("2001:db8::2")).is_none(), "of the same /64");
        let others: Vec<_> =
            (0..9).filter_map(|n| places.take(IpAddr::from([192, 0, 2, n]))).collect();
        assert_eq!(others.len(), 6, "and all of them no more than there are");
        drop((one, others));
        assert!(places.take(ip("2001:db8::2")).is_some());
    }
}
