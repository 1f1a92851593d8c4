//! Limits how many names one client may have asked about: a name carries bytes of its client to the
//! owner of the domain, whatever the answer is, and no verdict on the answer takes them back.
//!
//! Counted are different names of a minute, for each client in all and below each parent domain. A
//! name that was asked about in this minute carries nothing new, and is never refused.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::account::network;
use crate::identify::HostName;

/// How long a name is not new.
const PERIOD: Duration = Duration::from_secs(60);

/// Names that are remembered of all clients together: some 16 MB. Beyond, no new name is asked about.
const NAMES_MAX: usize = 1024 * 1024;

/// Time between two looks through all clients where there is no more room.
const SWEEP: Duration = Duration::from_secs(1);

/// How many times as much may be asked below what may be a registry's domain (`co.uk`) as below one
/// of its own (`example.co.uk`).
const REGISTRY: usize = 4;

/// New names that one client may have asked about in a minute; an IPv6 client is its /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamesLimit {
    /// Below one parent domain: the last two labels of the name, or the last three where the last two
    /// may be a registry's (`co.uk`), which has four times as many.
    pub below_parent: usize,
    /// In all.
    pub in_all: usize,
}

impl Default for NamesLimit {
    /// 300 and 6,000: a browser that opens a page of a hundred hosts each second stays below, and so
    /// does one whose pages come from random names of one content network.
    fn default() -> Self {
        Self { below_parent: 300, in_all: 6_000 }
    }
}

/// A client asked about more new names than it may: nothing was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more new names than one client may have asked about")]
pub struct OverLimit;

/// What every client has asked about, shared by all workers.
#[derive(Debug, Default)]
pub struct Allowance {
    limit: NamesLimit,
    hasher: RandomState,
    asked: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    clients: HashMap<IpAddr, Client>,
    /// Names of all clients.
    names: usize,
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Client {
    since: Instant,
    names: HashSet<u64>,
    parents: HashMap<u64, usize>,
}

impl Allowance {
    /// An allowance of this size.
    #[must_use]
    pub fn new(limit: NamesLimit) -> Self {
        Self { limit, ..Self::default() }
    }

    /// Takes one name out of the client's allowance: to be called before anybody is asked about it.
    ///
    /// # Errors
    /// The name is new, and the client has had all that it may.
    pub fn take(&self, client: IpAddr, name: &HostName) -> Result<(), OverLimit> {
        let now = Instant::now();
        let client = network(client);
        let hash = self.hasher.hash_one(name.as_str());
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.sweep(now, PERIOD);
        if asked.names >= NAMES_MAX {
            asked.sweep(now, SWEEP);
        }
        let Counts { clients, names, .. } = &mut *asked;
        let fresh =
            || Client { since: now, names: HashSet::default(), parents: HashMap::default() };
        let own = clients.entry(client).or_insert_with(fresh);
        if own.is_over(now) {
            *names = names.saturating_sub(own.names.len());
            *own = fresh();
        }
        if own.names.contains(&hash) {
            return Ok(());
        }
        if own.names.len() >= self.limit.in_all || *names >= NAMES_MAX {
            return Err(OverLimit);
        }
        let parents: Vec<_> = parents(name.as_str())
            .map(|(parent, times)| (self.hasher.hash_one(parent), times))
            .collect();
        let is_full = |&(parent, times): &(u64, usize)| {
            let most = self.limit.below_parent.saturating_mul(times);
            own.parents.get(&parent).is_some_and(|&below| below >= most)
        };
        if parents.iter().any(is_full) {
            return Err(OverLimit);
        }
        for (parent, _) in parents {
            *own.parents.entry(parent).or_default() += 1;
        }
        own.names.insert(hash);
        *names += 1;
        Ok(())
    }
}

impl Counts {
    /// Forgets the clients whose minute is over, where that was last done so long ago.
    fn sweep(&mut self, now: Instant, every: Duration) {
        if self.swept.is_some_and(|swept| now.duration_since(swept) < every) {
            return;
        }
        self.swept = Some(now);
        self.clients.retain(|_, client| !client.is_over(now));
        self.names = self.clients.values().map(|client| client.names.len()).sum();
    }
}

impl Client {
    fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.since) >= PERIOD
    }
}

/// The domain below which a name is counted first.
pub(crate) fn parent(name: &str) -> &str {
    parents(name).next().map_or(name, |(parent, _)| parent)
}

/// The domains below which a name is counted, and how many times the limit each has.
///
/// Without a list of all registries it is said by form who may be one: a domain of two or three
/// letters below a country (`co.uk`), and what stands for addresses (RFC 1035 §3.5, RFC 3596 §2.5),
/// of which a network is one. Whoever owns such a domain and is none has four times as much, and no
/// more.
fn parents(name: &str) -> impl Iterator<Item = (&str, usize)> {
    let two = last_labels(name, 2);
    let narrow = match two {
        // A /16, and a /32.
        "in-addr.arpa" => Some(4),
        "ip6.arpa" => Some(10),
        _ => two
            .split_once('.')
            .and_then(|(own, country)| (country.len() == 2 && own.len() <= 3).then_some(3)),
    };
    let narrow = narrow.map(|labels| last_labels(name, labels)).filter(|narrow| *narrow != two);
    let wide = if narrow.is_some() { REGISTRY } else { 1 };
    narrow.map(|narrow| (narrow, 1)).into_iter().chain([(two, wide)])
}

/// The last labels of a name, or all of it.
fn last_labels(name: &str, labels: usize) -> &str {
    let mut dots = name.rmatch_indices('.').map(|(at, _)| at + 1);
    let from = dots.nth(labels.saturating_sub(1)).unwrap_or(0);
    name.get(from..).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> HostName {
        HostName::parse(text.as_bytes()).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn small() -> Allowance {
        Allowance::new(NamesLimit { below_parent: 5, in_all: 40 })
    }

    /// How many of `n` new names below a domain a client has its way with.
    fn taken(allowance: &Allowance, client: &str, domain: &str, n: usize) -> usize {
        let each = (0..n).map(|n| name(&format!("n{n}.{domain}")));
        each.filter(|name| allowance.take(ip(client), name).is_ok()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn new_names_below_one_parent_are_so_many_a_minute_and_known_ones_free() {
        let allowance = small();
        assert_eq!(taken(&allowance, "192.0.2.1", "evil.example", 20), 5);
        assert_eq!(taken(&allowance, "192.0.2.1", "deep.evil.example", 20), 0, "the same parent");
        assert_eq!(taken(&allowance, "192.0.2.1", "evil.example", 20), 5, "the five of before");
        assert_eq!(taken(&allowance, "192.0.2.1", "other.example", 20), 5);
        assert_eq!(taken(&allowance, "192.0.2.2", "evil.example", 20), 5, "another client");
        tokio::time::advance(PERIOD).await;
        assert_eq!(taken(&allowance, "192.0.2.1", "a.evil.example", 20), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn many_parents_are_bounded_in_all() {
        let allowance = small();
        let one = (0..100).filter(|n| {
            let name = name(&format!("data.evil{n}.example"));
            allowance.take(ip("2001:db8::1"), &name).is_ok()
        });
        assert_eq!(one.count(), 40);
        assert_eq!(taken(&allowance, "2001:db8::2", "b.example", 1), 0, "the same /64");
    }

    #[test]
    fn a_registry_has_more_and_no_address_space_is_one_parent() {
        let both = |name: &'static str| parents(name).collect::<Vec<_>>();
        assert_eq!(both("a.b.example.com"), [("example.com", 1)]);
        assert_eq!(both("example.com"), [("example.com", 1)]);
        assert_eq!(both("com"), [("com", 1)]);
        assert_eq!(both("a.b.nhs.uk"), [("b.nhs.uk", 1), ("nhs.uk", 4)]);
        assert_eq!(both("nhs.uk"), [("nhs.uk", 1)]);
        assert_eq!(both("a.hospital.de"), [("hospital.de", 1)]);
        let four = "4.3.113.203.in-addr.arpa";
        assert_eq!(both(four), [("113.203.in-addr.arpa", 1), ("in-addr.arpa", 4)]);
        let six = "1.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa";
        assert_eq!(both(six), [("8.b.d.0.1.0.0.2.ip6.arpa", 1), ("ip6.arpa", 4)]);
        // Who owns a domain that looks like a registry's has no way around.
        let allowance = Allowance::new(NamesLimit { below_parent: 5, in_all: 1000 });
        assert_eq!(taken(&allowance, "192.0.2.1", "xyz.de", 100), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded_and_comes_free_again() {
        let allowance = Allowance::new(NamesLimit { below_parent: 1, in_all: usize::MAX });
        let client = |n: u32| IpAddr::from(n.to_be_bytes());
        allowance.asked.lock().unwrap().names = NAMES_MAX;
        allowance.asked.lock().unwrap().swept = Some(Instant::now());
        assert!(allowance.take(client(1), &name("a.example")).is_err(), "no room for any name");
        tokio::time::advance(SWEEP).await;
        assert!(allowance.take(client(1), &name("a.example")).is_ok());
        for n in 0..100 {
            allowance.take(client(n), &name("a.example")).ok();
        }
        tokio::time::advance(PERIOD).await;
        allowance.take(client(1), &name("a.example")).unwrap();
        assert_eq!(allowance.asked.lock().unwrap().clients.len(), 1);
    }
}
