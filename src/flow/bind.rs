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
use hickory_resolver::config::{
    LookupIpStrategy, NameServerConfig, NameServerConfigGroup, ResolveHosts, ResolverConfig,
};
use hickory_resolver::name_server::TokioConnectionProvider;
use hickory_resolver::proto::xfer::Protocol;
use rustls::ClientConfig;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::settings::{NameService, Resolver};
use crate::egress::{Allowance, OverLimit};
use crate::identify::HostName;

/// The longest that an answer ties a name to an address, whatever its TTL: who owns the name says
/// that, and it may not be the gateway's last word for years.
const TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How long an address that was not among the answers is not asked about again.
const ASKED_AGAIN: Duration = Duration::from_secs(30);

/// The same, where the resolver gave no answer: long enough that a resolver which is down is not
/// asked, and waited for, by every connection.
const ASKED_AGAIN_WHEN_DOWN: Duration = Duration::from_secs(2);

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
    /// Nobody was asked.
    #[error("{}", OverLimit)]
    OverLimit,
}

type Answered = Result<Addresses, Unresolved>;
type Answer<'a> = Pin<Box<dyn Future<Output = Answered> + 'a>>;

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
    allowance: Arc<Allowance>,
}

/// What was answered lately, and what is being asked.
#[derive(Clone)]
pub(super) struct Memory {
    /// How long an answer ties a name to an address, where its TTL is shorter: clients and
    /// resolvers keep answers past their time, and a name that turns over its addresses is not a
    /// mismatch.
    keep: Duration,
    names: Arc<Mutex<HashMap<HostName, Remembered>>>,
    /// One query at a time for each name; whoever comes meanwhile waits for its answer.
    asking: Arc<Mutex<HashMap<HostName, watch::Receiver<Option<Answered>>>>>,
}

struct Remembered {
    addresses: Vec<(IpAddr, Instant)>,
    ask_again: Instant,
    /// It tied a connection to its address, since names last had to go.
    used: bool,
}

impl Names {
    /// A resolver and a memory, and how much each client may have asked.
    pub(super) fn new(
        resolver: Box<dyn Resolve>,
        memory: Memory,
        allowance: Arc<Allowance>,
    ) -> Self {
        Self { resolver, memory, allowance }
    }

    /// How much each client may have asked.
    pub(super) fn allowance(&self) -> &Allowance {
        &self.allowance
    }

    /// Whether `address` is among the name's own. Unknown is no.
    ///
    /// # Errors
    /// Somebody would have to be asked, and the client has had that done too often.
    pub(super) async fn is_bound(
        &self,
        name: &HostName,
        address: IpAddr,
        client: IpAddr,
    ) -> Result<bool, OverLimit> {
        if let Some(known) = self.memory.knows(name, address) {
            return Ok(known);
        }
        match self.resolve(name, client).await {
            Ok(addresses) => Ok(addresses.contains(&address) || self.memory.holds(name, address)),
            // An answer of before may still hold, though the resolver is down now.
            Err(Unresolved::NoAddress | Unresolved::NoAnswer) => {
                Ok(self.memory.holds(name, address))
            }
            Err(Unresolved::OverLimit) => Err(OverLimit),
        }
    }

    /// The name's addresses, in canonical form, as the resolver gives them now. Whoever waits for a
    /// query that another client's request has begun takes nothing out of its own allowance.
    pub(super) async fn resolve(
        &self,
        name: &HostName,
        client: IpAddr,
    ) -> Result<Vec<IpAddr>, Unresolved> {
        loop {
            match self.memory.turn(name) {
                Turn::Mine(flight) => {
                    let taken = self.allowance.take(client, name);
                    taken.map_err(|OverLimit| Unresolved::OverLimit)?;
                    return self.ask(name, flight).await.map(|a| a.addresses);
                }
                Turn::Wait(mut answer) => {
                    // Whoever asked may have been cut off before the answer came.
                    if let Ok(answered) = answer.wait_for(Option::is_some).await
                        && let Some(answered) = &*answered
                    {
                        return answered.clone().map(|answer| answer.addresses);
                    }
                }
            }
        }
    }

    /// A client was told these addresses of the name, by a resolver that is asked here as well.
    pub(super) fn tell(&self, name: &HostName, addresses: &[IpAddr], ttl: Duration) {
        let found: Vec<_> =
            addresses.iter().take(ADDRESSES_MAX).map(IpAddr::to_canonical).collect();
        self.memory.add(name, &found, ttl, None);
    }

    async fn ask(&self, name: &HostName, flight: Flight<'_>) -> Answered {
        let answer = timeout(PATIENCE, self.resolver.resolve(name)).await;
        let mut answer = answer.unwrap_or(Err(Unresolved::NoAnswer));
        if let Ok(found) = &mut answer {
            found.addresses.truncate(ADDRESSES_MAX);
            found.addresses.iter_mut().for_each(|address| *address = address.to_canonical());
            if found.addresses.is_empty() {
                answer = Err(Unresolved::NoAddress);
            }
        }
        self.memory.remember(name, &answer);
        flight.land(answer.clone());
        answer
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Names").finish_non_exhaustive()
    }
}

/// Who asks the resolver about a name.
#[expect(clippy::large_enum_variant, reason = "on the stack for a moment, beside a query")]
enum Turn<'a> {
    /// The caller does, and tells the others.
    Mine(Flight<'a>),
    /// Somebody does already.
    Wait(watch::Receiver<Option<Answered>>),
}

/// A query under way; dropped without an answer, the next one who waits asks anew.
struct Flight<'a> {
    memory: &'a Memory,
    name: HostName,
    told: watch::Sender<Option<Answered>>,
}

impl Flight<'_> {
    fn land(self, answer: Answered) {
        self.told.send_replace(Some(answer));
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let mut asking = self.memory.asking.lock().unwrap_or_else(PoisonError::into_inner);
        asking.remove(&self.name);
    }
}

impl Memory {
    /// An empty memory that keeps answers for `keep` at least.
    pub(super) fn new(keep: Duration) -> Self {
        Self { keep, names: Arc::default(), asking: Arc::default() }
    }

    /// Joins the query for `name`, or begins it.
    fn turn(&self, name: &HostName) -> Turn<'_> {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = asking.get(name) {
            return Turn::Wait(answer.clone());
        }
        let (told, answer) = watch::channel(None);
        asking.insert(*name, answer);
        Turn::Mine(Flight { memory: self, name: *name, told })
    }

    /// Whether the address is the name's; `None` where the resolver has to be asked.
    fn knows(&self, name: &HostName, address: IpAddr) -> Option<bool> {
        let now = Instant::now();
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let known = names.get_mut(name)?;
        if known.addresses.iter().any(|&(ip, until)| ip == address && now < until) {
            known.used = true;
            return Some(true);
        }
        (now < known.ask_again).then_some(false)
    }

    fn holds(&self, name: &HostName, address: IpAddr) -> bool {
        self.knows(name, address) == Some(true)
    }

    /// Adds an answer to the ones before it: a name may give a few of its addresses at a time. That
    /// there is none, or no answer, is remembered too, and takes none of them away.
    fn remember(&self, name: &HostName, answer: &Answered) {
        let (found, ttl) = match answer {
            Ok(answer) => (answer.addresses.as_slice(), answer.ttl),
            Err(_) => (&[][..], Duration::ZERO),
        };
        let wait = match answer {
            Err(Unresolved::NoAnswer) => ASKED_AGAIN_WHEN_DOWN,
            Ok(_) | Err(Unresolved::NoAddress | Unresolved::OverLimit) => ASKED_AGAIN,
        };
        self.add(name, found, ttl, Some(wait));
    }

    /// Adds addresses of a name. `wait` is how long the resolver need not be asked about others.
    fn add(&self, name: &HostName, found: &[IpAddr], ttl: Duration, wait: Option<Duration>) {
        let now = Instant::now();
        let until = now + ttl.min(TTL_MAX).max(self.keep);
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= NAMES_MAX && !names.contains_key(name) {
            names.retain(|_, known| known.addresses.iter().any(|&(_, until)| now < until));
            if names.len() >= NAMES_MAX {
                // Full of names that still hold. Those that tied a connection to its address since
                // the last time stay, so that nobody who asks for many names takes them away.
                names.retain(|_, known| std::mem::take(&mut known.used));
            }
            if names.len() >= NAMES_MAX {
                // The order is another one in each process: nobody can tell which ones go.
                let mut left = NAMES_MAX / 16;
                names.retain(|_, _| {
                    left = left.saturating_sub(1);
                    left == 0
                });
            }
        }
        let known = names.entry(*name).or_insert_with(|| Remembered {
            addresses: Vec::new(),
            ask_again: now,
            used: false,
        });
        if let Some(wait) = wait {
            known.ask_again = now + wait;
        }
        known.addresses.retain(|(ip, until)| now < *until && !found.contains(ip));
        known.addresses.splice(0..0, found.iter().map(|&ip| (ip, until)));
        known.addresses.truncate(ADDRESSES_MAX);
    }
}

/// The resolvers of `[names] resolvers`, else those of the host's own configuration. Where neither
/// can be had, no name has an address.
pub(super) struct SystemResolver(Option<TokioResolver>);

impl SystemResolver {
    /// Asks the resolvers of `service`, over TLS or UDP and, where an answer does not fit, TCP;
    /// without any, those that the host's configuration names. To be called within the runtime that
    /// will ask.
    pub(super) fn new(service: &NameService) -> Self {
        let builder = if service.resolvers.is_empty() {
            TokioResolver::builder_tokio()
        } else {
            let config = ResolverConfig::from_parts(None, Vec::new(), servers(&service.resolvers));
            let provider = TokioConnectionProvider::default();
            let mut builder = TokioResolver::builder_with_config(config, provider);
            // Who names the resolvers means these, and no file of this host.
            builder.options_mut().use_hosts_file = ResolveHosts::Never;
            Ok(builder)
        };
        let resolver = builder.map(|mut builder| {
            let options = builder.options_mut();
            options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
            options.timeout = PATIENCE / 2;
            options.attempts = 2;
            if let Some(tls) = &service.tls {
                options.tls_config = ClientConfig::clone(tls);
            }
            builder.build()
        });
        if let Err(fault) = &resolver {
            tracing::warn!(%fault, "no resolver: names are bound to nothing; see /etc/resolv.conf");
        }
        Self(resolver.ok())
    }
}

fn servers(resolvers: &[Resolver]) -> NameServerConfigGroup {
    let each = |&Resolver { at, tls }: &Resolver| match tls {
        None => [Protocol::Udp, Protocol::Tcp].map(|it| NameServerConfig::new(at, it)).to_vec(),
        Some(name) => {
            let tls_dns_name = Some(name.to_string());
            vec![NameServerConfig { tls_dns_name, ..NameServerConfig::new(at, Protocol::Tls) }]
        }
    };
    resolvers.iter().flat_map(each).collect::<Vec<_>>().into()
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
    use crate::egress::NamesLimit;

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

        pub(crate) fn forget(&self, name: &str) {
            self.entries.lock().unwrap().remove(name);
        }

        pub(crate) fn queries(&self) -> usize {
            self.queries.load(Ordering::Relaxed)
        }

        pub(crate) fn names(&self) -> Names {
            self.names_within(usize::MAX)
        }

        /// The same, for clients that may have so many names of one domain asked about.
        pub(crate) fn names_within(&self, below_parent: usize) -> Names {
            let limit = NamesLimit { below_parent, in_all: usize::MAX };
            let memory = Memory::new(Duration::from_secs(600));
            Names::new(Box::new(self.clone()), memory, Arc::new(Allowance::new(limit)))
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

    fn client() -> IpAddr {
        ip("192.0.2.1")
    }

    async fn bound(names: &Names, of: &str, address: &str) -> bool {
        names.is_bound(&name(of), ip(address), client()).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_binds_for_ten_minutes_whatever_its_ttl() {
        let book = Book::default().entry("a.example", &["198.51.100.1"]);
        let names = book.names();
        assert!(bound(&names, "a.example", "198.51.100.1").await);
        let book = book.entry("a.example", &["198.51.100.2"]);
        tokio::time::advance(Duration::from_secs(599)).await;
        assert!(bound(&names, "a.example", "198.51.100.1").await);
        assert_eq!(book.queries(), 1);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(!bound(&names, "a.example", "198.51.100.1").await);
        assert!(bound(&names, "a.example", "198.51.100.2").await);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_is_not_the_names_is_asked_about_once_in_thirty_seconds() {
        let book = Book::default().entry("a.example", &["198.51.100.1"]);
        let names = book.names();
        for _ in 0..5 {
            assert!(!bound(&names, "a.example", "203.0.113.1").await);
        }
        assert_eq!(book.queries(), 1);
        tokio::time::advance(ASKED_AGAIN).await;
        assert!(!bound(&names, "a.example", "203.0.113.1").await);
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
        let names = Names::new(Box::new(Never), Memory::new(Duration::ZERO), Arc::default());
        let begun = Instant::now();
        assert!(!bound(&names, "a.example", "198.51.100.1").await);
        assert_eq!(begun.elapsed().as_secs(), PATIENCE.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_of_before_holds_while_the_resolver_is_down() {
        let book = Book::default().entry("a.example", &["198.51.100.1"]);
        let names = book.names();
        assert!(bound(&names, "a.example", "198.51.100.1").await);
        book.forget("a.example");
        tokio::time::advance(Duration::from_secs(500)).await;
        assert!(!bound(&names, "a.example", "203.0.113.1").await, "no answer");
        assert!(bound(&names, "a.example", "198.51.100.1").await);
        tokio::time::advance(Duration::from_secs(101)).await;
        assert!(!bound(&names, "a.example", "198.51.100.1").await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_resolver_that_is_down_is_asked_once_in_two_seconds() {
        let book = Book::default();
        let names = book.names();
        for _ in 0..5 {
            assert!(!bound(&names, "a.example", "198.51.100.1").await);
        }
        assert_eq!(book.queries(), 1);
        tokio::time::advance(ASKED_AGAIN_WHEN_DOWN).await;
        let book = book.entry("a.example", &["198.51.100.1"]);
        assert!(bound(&names, "a.example", "198.51.100.1").await);
        assert_eq!(book.queries(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_client_was_told_binds_and_takes_no_other_address_away() {
        let book = Book::default().entry("a.example", &["198.51.100.1", "2001:db8::1"]);
        let names = book.names();
        names.tell(&name("a.example"), &[ip("198.51.100.7")], Duration::from_secs(60));
        assert!(bound(&names, "a.example", "198.51.100.7").await);
        assert_eq!(book.queries(), 0);
        // Of its IPv6 addresses the client was told nothing: that is no answer about them.
        assert!(bound(&names, "a.example", "2001:db8::1").await);
        assert_eq!(book.queries(), 1);
        names.tell(&name("b.example"), &[ip("::ffff:198.51.100.8")], Duration::ZERO);
        assert!(bound(&names, "b.example", "198.51.100.8").await);
        tokio::time::advance(Duration::from_secs(601)).await;
        assert!(!bound(&names, "b.example", "198.51.100.8").await);
    }

    /// Answers when it is told to.
    #[derive(Clone, Default)]
    struct Slow(Arc<tokio::sync::Notify>, Book);

    impl Resolve for Slow {
        fn resolve(&self, name: &HostName) -> Answer<'_> {
            let answer = self.1.resolve(name);
            Box::pin(async move {
                self.0.notified().await;
                answer.await
            })
        }
    }

    #[tokio::test]
    async fn those_who_ask_at_once_share_one_query_over_all_workers() {
        let slow = Slow::default();
        let slow = Slow(slow.0, slow.1.entry("a.example", &["198.51.100.1"]));
        let memory = Memory::new(Duration::from_secs(600));
        let workers =
            [(); 2].map(|()| Names::new(Box::new(slow.clone()), memory.clone(), Arc::default()));
        let name = name("a.example");
        let ask = |worker: usize| workers[worker].resolve(&name, client());
        let answer = async {
            tokio::task::yield_now().await;
            slow.0.notify_waiters();
        };
        let (a, b, c, ()) = tokio::join!(ask(0), ask(1), ask(0), answer);
        let expected = Ok(vec![ip("198.51.100.1")]);
        assert_eq!([a, b, c], [expected.clone(), expected.clone(), expected]);
        assert_eq!(slow.1.queries(), 1);
        assert!(memory.asking.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn one_who_waits_for_a_query_that_is_given_up_asks_anew() {
        let slow = Slow::default();
        let slow = Slow(slow.0, slow.1.entry("a.example", &["198.51.100.1"]));
        let names = Names::new(Box::new(slow.clone()), Memory::new(Duration::ZERO), Arc::default());
        let name = name("a.example");
        let mut first = Box::pin(names.resolve(&name, client()));
        let mut second = Box::pin(names.resolve(&name, client()));
        for waiting in [&mut first, &mut second] {
            assert!(timeout(Duration::ZERO, waiting).await.is_err());
        }
        drop(first);
        let answer = async {
            tokio::task::yield_now().await;
            slow.0.notify_waiters();
        };
        let (answered, ()) = tokio::join!(second, answer);
        assert_eq!(answered, Ok(vec![ip("198.51.100.1")]));
        assert_eq!(slow.1.queries(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn no_ttl_binds_for_more_than_a_day() {
        let memory = Memory::new(Duration::from_secs(600));
        let for_ever = Duration::from_secs(u64::from(u32::MAX));
        let answer = Ok(Addresses { addresses: vec![ip("198.51.100.1")], ttl: for_ever });
        memory.remember(&name("a.example"), &answer);
        tokio::time::advance(TTL_MAX).await;
        assert!(!memory.holds(&name("a.example"), ip("198.51.100.1")));
    }

    #[tokio::test]
    async fn a_mapped_answer_is_its_ipv4() {
        let names = Book::default().entry("a.example", &["::ffff:198.51.100.1"]).names();
        assert!(bound(&names, "a.example", "198.51.100.1").await);
    }

    #[tokio::test]
    async fn the_memory_is_bounded() {
        let book = Book::default();
        let names = book.names();
        let answer = Ok(Addresses { addresses: vec![ip("198.51.100.1")], ttl: Duration::ZERO });
        for i in 0..NAMES_MAX * 2 {
            names.memory.remember(&name(&format!("n{i}.example")), &answer);
        }
        assert!(names.memory.names.lock().unwrap().len() <= NAMES_MAX);
    }

    #[tokio::test]
    async fn a_flood_of_names_takes_none_away_that_is_in_use() {
        let names = Book::default().names();
        let (used, address) = (name("used.example"), ip("198.51.100.1"));
        let day = Duration::from_secs(86_400);
        names.tell(&used, &[address], day);
        for i in 0..NAMES_MAX * 3 {
            if i % (NAMES_MAX / 2) == 0 {
                assert!(names.memory.holds(&used, address), "after {i} others");
            }
            names.tell(&name(&format!("n{i}.example")), &[address], day);
        }
        // All of them in use: some give way, and not all.
        for i in 0..NAMES_MAX * 3 {
            names.memory.holds(&name(&format!("n{i}.example")), address);
        }
        let before = names.memory.names.lock().unwrap().len();
        names.tell(&name("more.example"), &[address], day);
        assert!(names.memory.names.lock().unwrap().len() > before / 2);
    }
}

#[cfg(test)]
pub(super) mod tests_tls {
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use rustls::{RootCertStore, ServerConfig};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// A name server over TLS whose certificate has this name: every name has 198.51.100.1.
    pub(crate) async fn server(name: &str) -> (std::net::SocketAddr, RootCertStore) {
        let own = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
        let config =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![own.cert.der().clone()], key)
                .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(own.cert.der().clone()).unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                while let Ok(length) = stream.read_u16().await {
                    let mut query = vec![0; length.into()];
                    stream.read_exact(&mut query).await.unwrap();
                    let reply = reply(&query);
                    stream.write_u16(u16::try_from(reply.len()).unwrap()).await.unwrap();
                    stream.write_all(&reply).await.unwrap();
                    stream.flush().await.unwrap();
                }
            }
        });
        (at, roots)
    }

    /// The question again, and behind it an A record where one was asked for.
    fn reply(query: &[u8]) -> Vec<u8> {
        let end = 12 + query[12..].iter().position(|&byte| byte == 0).unwrap() + 5;
        let is_a = query[end - 3] == 1;
        let mut reply = query[..end].to_vec();
        reply[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
        if is_a {
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 51, 100, 1]);
        }
        reply
    }

    pub(crate) fn client(roots: RootCertStore) -> Arc<ClientConfig> {
        let builder =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
    }

    #[tokio::test]
    async fn a_resolver_over_tls_is_believed_only_with_its_own_certificate() {
        let (at, roots) = server("dns.example").await;
        let asked = HostName::parse(b"pacs.example").unwrap();
        for (named, roots, believed) in [
            ("dns.example", roots.clone(), true),
            ("other.example", roots, false),
            ("dns.example", RootCertStore::empty(), false),
        ] {
            let tls = Some(HostName::parse(named.as_bytes()).unwrap());
            let service = NameService {
                resolvers: vec![Resolver { at, tls }],
                tls: Some(client(roots)),
                remember: Duration::ZERO,
                limit: Default::default(),
            };
            let resolver = Box::new(SystemResolver::new(&service));
            let names = Names::new(resolver, Memory::new(Duration::ZERO), Arc::default());
            let answer = names.resolve(&asked, "192.0.2.1".parse().unwrap()).await;
            let wanted = vec!["198.51.100.1".parse().unwrap()];
            let wanted = if believed { Ok(wanted) } else { Err(Unresolved::NoAnswer) };
            assert_eq!(answer, wanted, "{named}");
        }
    }
}
