//! Which addresses a name has, by the gateway's own resolver: what ties a name to an address, and
//! where an explicit request goes.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use tokio::time::{Instant, timeout};

use crate::identify::HostName;

/// How long an answer ties a name to an address, where its TTL is shorter: clients and resolvers
/// keep answers past their time, and a name that turns over its addresses is not a mismatch.
const REMEMBERED: Duration = Duration::from_secs(600);

/// How long an address that was not among the answers is not asked about again.
const ASKED_AGAIN: Duration = Duration::from_secs(30);

/// Time allowed for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Names remembered at once, and addresses of each; about 20 MB if all are full.
const NAMES_MAX: usize = 16 * 1024;
const ADDRESSES_MAX: usize = 64;

/// Why a name has no address that could be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unresolved {
    /// The resolver says that the name has none.
    #[error("the name has no address")]
    NoAddress,
    /// The resolver did not answer, or not in time, or there is none.
    #[error("the resolver did not answer")]
    NoAnswer,
}

type Answer<'a> = Pin<Box<dyn Future<Output = Result<Addresses, Unresolved>> + 'a>>;

/// The addresses of a name, and how long they are good.
#[derive(Debug, Clone)]
pub(super) struct Addresses {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ttl: Duration,
}

/// Something that resolves names.
pub(super) trait Resolve {
    /// The name's addresses, at least one.
    fn resolve(&self, name: &HostName) -> Answer<'_>;
}

/// A worker's resolver with the memory that all workers share.
pub(super) struct Names {
    resolver: Box<dyn Resolve>,
    memory: Memory,
}

/// What was answered lately.
#[derive(Clone, Default)]
pub(super) struct Memory(Arc<Mutex<HashMap<HostName, Remembered>>>);

struct Remembered {
    addresses: Vec<(IpAddr, Instant)>,
    ask_again: Instant,
}

impl Names {
    /// A resolver and a memory.
    pub(super) fn new(resolver: Box<dyn Resolve>, memory: Memory) -> Self {
        Self { resolver, memory }
    }

    /// Whether `address` is among the name's own. Unknown is no.
    pub(super) async fn is_bound(&self, name: &HostName, address: IpAddr) -> bool {
        if let Some(known) = self.memory.knows(name, address) {
            return known;
        }
        match self.resolve(name).await {
            Ok(addresses) => addresses.contains(&address) || self.memory.holds(name, address),
            Err(_) => false,
        }
    }

    /// The name's addresses, in canonical form, as the resolver gives them now.
    pub(super) async fn resolve(&self, name: &HostName) -> Result<Vec<IpAddr>, Unresolved> {
        let answer = timeout(PATIENCE, self.resolver.resolve(name)).await;
        let mut answer = match answer.unwrap_or(Err(Unresolved::NoAnswer)) {
            // A name without an address is an answer, to be remembered like any other.
            Err(Unresolved::NoAddress) => Addresses { addresses: Vec::new(), ttl: Duration::ZERO },
            answer => answer?,
        };
        answer.addresses.truncate(ADDRESSES_MAX);
        answer.addresses.iter_mut().for_each(|address| *address = address.to_canonical());
        self.memory.remember(name, &answer);
        if answer.addresses.is_empty() { Err(Unresolved::NoAddress) } else { Ok(answer.addresses) }
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Names").finish_non_exhaustive()
    }
}

impl Memory {
    /// Whether the address is the name's; `None` where the resolver has to be asked.
    fn knows(&self, name: &HostName, address: IpAddr) -> Option<bool> {
        let now = Instant::now();
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = names.get(name)?;
        if known.addresses.iter().any(|&(ip, until)| ip == address && now < until) {
            return Some(true);
        }
        (now < known.ask_again).then_some(false)
    }

    fn holds(&self, name: &HostName, address: IpAddr) -> bool {
        self.knows(name, address) == Some(true)
    }

    /// Adds an answer to the ones before it: a name may give a few of its addresses at a time.
    fn remember(&self, name: &HostName, answer: &Addresses) {
        let now = Instant::now();
        let until = now + answer.ttl.max(REMEMBERED);
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= NAMES_MAX && !names.contains_key(name) {
            names.retain(|_, known| known.addresses.iter().any(|&(_, until)| now < until));
            if names.len() >= NAMES_MAX {
                // Full of names that still hold: starting afresh costs one query a name.
                names.clear();
            }
        }
        let known = names
            .entry(*name)
            .or_insert_with(|| Remembered { addresses: Vec::new(), ask_again: now });
        known.ask_again = now + ASKED_AGAIN;
        known.addresses.retain(|(ip, until)| now < *until && !answer.addresses.contains(ip));
        known.addresses.splice(0..0, answer.addresses.iter().map(|&ip| (ip, until)));
        known.addresses.truncate(ADDRESSES_MAX);
    }
}

/// The host's own resolver configuration. Where that cannot be read, no name has an address.
pub(super) struct SystemResolver(Option<TokioResolver>);

impl SystemResolver {
    /// Reads the configuration; to be called within the runtime that will ask.
    pub(super) fn new() -> Self {
        let resolver = TokioResolver::builder_tokio().map(|mut builder| {
            let options = builder.options_mut();
            options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
            options.timeout = PATIENCE / 2;
            options.attempts = 2;
            builder.build()
        });
        if let Err(fault) = &resolver {
            tracing::warn!(%fault, "no resolver: names are bound to nothing; see /etc/resolv.conf");
        }
        Self(resolver.ok())
    }
}

impl Resolve for SystemResolver {
    fn resolve(&self, name: &HostName) -> Answer<'_> {
        // With its final dot the name is never looked for in a search domain.
        let name = format!("{name}.");
        Box::pin(async move {
            let resolver = self.0.as_ref().ok_or(Unresolved::NoAnswer)?;
            match resolver.lookup_ip(name).await {
                Ok(found) => {
                    let now = std::time::Instant::now();
                    let ttl = found.valid_until().saturating_duration_since(now);
                    Ok(Addresses { addresses: found.iter().collect(), ttl })
                }
                Err(e) if e.is_no_records_found() => Err(Unresolved::NoAddress),
                Err(_) => Err(Unresolved::NoAnswer),
            }
        })
    }
}

/// A resolver for tests, by a list.
#[cfg(test)]
pub(super) mod book {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Clone, Default)]
    pub(crate) struct Book {
        entries: Arc<Mutex<HashMap<String, Vec<IpAddr>>>>,
        queries: Arc<AtomicUsize>,
    }

    impl Book {
        pub(crate) fn entry(self, name: &str, addresses: &[&str]) -> Self {
            let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
            self.entries.lock().unwrap().insert(name.to_owned(), addresses);
            self
        }

        pub(crate) fn queries(&self) -> usize {
            self.queries.load(Ordering::Relaxed)
        }

        pub(crate) fn names(&self) -> Names {
            Names::new(Box::new(self.clone()), Memory::default())
        }
    }

    impl Resolve for Book {
        fn resolve(&self, name: &HostName) -> Answer<'_> {
            self.queries.fetch_add(1, Ordering::Relaxed);
            let found = self.entries.lock().unwrap().get(name.as_str()).cloned();
            Box::pin(async move {
                let addresses = found.ok_or(Unresolved::NoAnswer)?;
                Ok(Addresses { addresses, ttl: Duration::from_secs(60) })
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::book::Book;
    use super::*;

    fn name(text: &str) -> HostName {
        HostName::parse(text.as_bytes()).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_binds_for_ten_minutes_whatever_its_ttl() {
        let book = Book::default().entry("a.example", &["198.51.100.1"]);
        let names = book.names();
        assert!(names.is_bound(&name("a.example"), ip("198.51.100.1")).await);
        let book = book.entry("a.example", &["198.51.100.2"]);
        tokio::time::advance(Duration::from_secs(599)).await;
        assert!(names.is_bound(&name("a.example"), ip("198.51.100.1")).await);
        assert_eq!(book.queries(), 1);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(!names.is_bound(&name("a.example"), ip("198.51.100.1")).await);
        assert!(names.is_bound(&name("a.example"), ip("198.51.100.2")).await);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_is_not_the_names_is_asked_about_once_in_thirty_seconds() {
        let book = Book::default().entry("a.example", &["198.51.100.1"]);
        let names = book.names();
        for _ in 0..5 {
            assert!(!names.is_bound(&name("a.example"), ip("203.0.113.1")).await);
        }
        assert_eq!(book.queries(), 1);
        tokio::time::advance(ASKED_AGAIN).await;
        assert!(!names.is_bound(&name("a.example"), ip("203.0.113.1")).await);
        assert_eq!(book.queries(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_resolver_that_never_answers_binds_nothing_after_two_seconds() {
        struct Never;
        impl Resolve for Never {
            fn resolve(&self, _: &HostName) -> Answer<'_> {
                Box::pin(std::future::pending())
            }
        }
        let names = Names::new(Box::new(Never), Memory::default());
        let begun = Instant::now();
        assert!(!names.is_bound(&name("a.example"), ip("198.51.100.1")).await);
        assert_eq!(begun.elapsed().as_secs(), PATIENCE.as_secs());
    }

    #[tokio::test]
    async fn a_mapped_answer_is_its_ipv4() {
        let names = Book::default().entry("a.example", &["::ffff:198.51.100.1"]).names();
        assert!(names.is_bound(&name("a.example"), ip("198.51.100.1")).await);
    }

    #[tokio::test]
    async fn the_memory_is_bounded() {
        let book = Book::default();
        let names = book.names();
        let answer = Addresses { addresses: vec![ip("198.51.100.1")], ttl: Duration::ZERO };
        for i in 0..NAMES_MAX * 2 {
            names.memory.remember(&name(&format!("n{i}.example")), &answer);
        }
        assert!(names.memory.0.lock().unwrap().len() <= NAMES_MAX);
    }
}
