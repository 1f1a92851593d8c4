//! Asks the gateway's own resolver which addresses a name has, and remembers it: that ties a name to an
//! address, and says where an explicit request goes.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::egress::{
    ANSWER_TIMEOUT, Addresses, Allowance, Family, NoAddresses, OverLimit, Resolver,
};
use crate::identify::HostName;

/// The longest that an answer ties a name to an address, whatever its TTL: who owns the name says
/// that, and it may not be the gateway's last word for years.
const TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How long an address that was not among the answers is not asked about again, and a name that has
/// none.
const ASKED_AGAIN: Duration = Duration::from_secs(30);

/// The same, where the resolver gave no answer: long enough that a resolver which is down is not
/// asked, and waited for, by every connection.
const ASKED_AGAIN_WHEN_DOWN: Duration = Duration::from_secs(2);

/// How long the addresses of one family wait for those of the other one (RFC 8305 §3).
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// BindingCache remembered at once, and addresses of all of them: about 30 MB if all are full.
const NAMES_MAX: usize = 16 * 1024;
const ADDRESSES_MAX: usize = 512 * 1024;

/// Addresses that are remembered of one name: more than an answer has room for. A name that turns over
/// more than these within their time loses the oldest, which the log says.
const OF_ONE_NAME_MAX: usize = 4096;

/// Time between two such lines.
const SAID_AGAIN: Duration = Duration::from_secs(60);

/// Why a name has no address that could be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unresolved {
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
/// The answer to a query under way, once there is one.
type Awaited = watch::Receiver<Option<Answered>>;
type Answer<'a> = Pin<Box<dyn Future<Output = Answered> + 'a>>;

/// Something that resolves names.
pub(crate) trait Resolve {
    /// What is known of the name without a question, where anything is.
    fn local(&self, _: &HostName, _: Family) -> Option<Vec<IpAddr>> {
        None
    }

    /// The name's addresses of one family, at least one.
    fn resolve(&self, name: &HostName, family: Family) -> Answer<'_>;
}

impl Resolve for Arc<Resolver> {
    fn local(&self, name: &HostName, family: Family) -> Option<Vec<IpAddr>> {
        Resolver::local(self, name, family)
    }

    fn resolve(&self, name: &HostName, family: Family) -> Answer<'_> {
        let name = *name;
        Box::pin(async move {
            self.addresses(&name, family).await.map_err(|none| match none {
                NoAddresses::None => Unresolved::NoAddress,
                NoAddresses::Unanswered => Unresolved::NoAnswer,
            })
        })
    }
}

/// A worker's resolver with the memory that all workers share.
pub(crate) struct BindingCache {
    resolver: Box<dyn Resolve>,
    memory: Memory,
    allowance: Arc<Allowance>,
}

/// What was answered lately, and what is being asked.
#[derive(Clone)]
pub(crate) struct Memory {
    /// How long an answer ties a name to an address, where its TTL is shorter: clients and
    /// resolvers keep answers past their time, and a name that turns over its addresses is not a
    /// mismatch.
    keep: Duration,
    known: Arc<Mutex<Known>>,
    /// One query at a time for each name and family; who asks meanwhile waits for its answer.
    asking: Arc<Mutex<HashMap<(HostName, Family), Awaited>>>,
}

/// The names that are remembered.
#[derive(Default)]
struct Known {
    names: HashMap<HostName, Remembered>,
    /// Addresses of all of them.
    addresses: usize,
    /// When it was last said that a name has too many.
    said: Option<Instant>,
}

struct Remembered {
    addresses: Vec<(IpAddr, Instant)>,
    /// Of IPv4 and of IPv6.
    families: [Last; 2],
    /// It tied a connection to its address, since names last had to go.
    used: bool,
}

/// The last answer about the addresses of one family.
#[derive(Default)]
struct Last {
    ask_again: Option<Instant>,
    /// The answer for those who ask where the name is now, and until when it is one.
    answer: Option<(Answered, Instant)>,
}

impl BindingCache {
    /// A resolver and a memory, and how much each client may have asked.
    pub(crate) fn new(
        resolver: Box<dyn Resolve>,
        memory: Memory,
        allowance: Arc<Allowance>,
    ) -> Self {
        Self { resolver, memory, allowance }
    }

    /// How much each client may have asked.
    pub(crate) fn allowance(&self) -> &Allowance {
        &self.allowance
    }

    /// Whether `address` is among the name's own. Unknown is no. Asks for addresses of its family
    /// alone: whether the name has others is no matter.
    ///
    /// # Errors
    /// Somebody would have to be asked, and the client has had that done too often.
    pub(crate) async fn is_bound(
        &self,
        name: &HostName,
        address: IpAddr,
        client: IpAddr,
    ) -> Result<bool, OverLimit> {
        let known = self.memory.lookup(name, address);
        if known == Some(true) {
            return Ok(true);
        }
        let family = Family::of(address);
        if let Some(local) = self.resolver.local(name, family) {
            return Ok(local.contains(&address));
        }
        if let Some(known) = known {
            return Ok(known);
        }
        match self.ask_once(name, family, client).await {
            Ok(found) => {
                Ok(found.addresses.contains(&address) || self.memory.is_kept(name, address))
            }
            // An answer of before may still hold, though the resolver is down now.
            Err(Unresolved::NoAddress | Unresolved::NoAnswer) => {
                Ok(self.memory.is_kept(name, address))
            }
            Err(Unresolved::OverLimit) => Err(OverLimit),
        }
    }

    /// The name's addresses, in canonical form, as the resolver gives them now: those of both families
    /// at once, and those of one where the other one is slow.
    pub(crate) async fn resolve(
        &self,
        name: &HostName,
        client: IpAddr,
    ) -> Result<Vec<IpAddr>, Unresolved> {
        let mut four = pin!(self.of_family(name, Family::V4, client));
        let mut six = pin!(self.of_family(name, Family::V6, client));
        let (four, six) = tokio::select! {
            biased;
            four = &mut four => {
                let six = beside(&four, six).await;
                (four, six)
            }
            six = &mut six => {
                let four = beside(&six, four).await;
                (four, six)
            }
        };
        match (four, six) {
            (Ok(mut four), Ok(six)) => {
                four.extend(six);
                Ok(four)
            }
            (Ok(found), Err(_)) | (Err(_), Ok(found)) => Ok(found),
            (Err(Unresolved::OverLimit), Err(_)) | (Err(_), Err(Unresolved::OverLimit)) => {
                Err(Unresolved::OverLimit)
            }
            (Err(Unresolved::NoAddress), Err(Unresolved::NoAddress)) => Err(Unresolved::NoAddress),
            (Err(_), Err(_)) => Err(Unresolved::NoAnswer),
        }
    }

    /// The name's addresses of one family, out of what was answered lately or else asked for.
    async fn of_family(
        &self,
        name: &HostName,
        family: Family,
        client: IpAddr,
    ) -> Result<Vec<IpAddr>, Unresolved> {
        let local = self.resolver.local(name, family);
        if let Some(local) = local {
            return if local.is_empty() { Err(Unresolved::NoAddress) } else { Ok(local) };
        }
        let answered = match self.memory.last(name, family) {
            Some(answered) => answered,
            None => self.ask_once(name, family, client).await,
        };
        answered.map(|answer| answer.addresses)
    }

    /// Asks the resolver. A client that waits for a query that another client's request has begun takes
    /// nothing out of its own allowance.
    async fn ask_once(&self, name: &HostName, family: Family, client: IpAddr) -> Answered {
        loop {
            match self.memory.turn(name, family) {
                Turn::Mine(flight) => {
                    let taken = self.allowance.take(client, name);
                    taken.map_err(|OverLimit| Unresolved::OverLimit)?;
                    return self.ask(name, family, flight).await;
                }
                Turn::Wait(mut answer) => {
                    // The client that asked may have been cut off before the answer came.
                    if let Ok(answered) = answer.wait_for(Option::is_some).await
                        && let Some(answered) = &*answered
                    {
                        return answered.clone();
                    }
                }
            }
        }
    }

    /// A client was told these addresses of the name, by a resolver that is asked here as well.
    pub(crate) fn insert(&self, name: &HostName, addresses: &[IpAddr], ttl: Duration) {
        let found: Vec<_> = addresses.iter().map(IpAddr::to_canonical).collect();
        self.memory.add(name, &found, ttl, None);
    }

    async fn ask(&self, name: &HostName, family: Family, flight: Flight<'_>) -> Answered {
        let answer = timeout(ANSWER_TIMEOUT, self.resolver.resolve(name, family)).await;
        let mut answer = answer.unwrap_or(Err(Unresolved::NoAnswer));
        if let Ok(found) = &mut answer {
            found.addresses.iter_mut().for_each(|address| *address = address.to_canonical());
            if found.addresses.is_empty() {
                answer = Err(Unresolved::NoAddress);
            }
        }
        self.memory.remember(name, family, &answer);
        flight.land(answer.clone());
        answer
    }
}

/// The answer about the other family, once there is one about the first.
async fn beside(
    first: &Result<Vec<IpAddr>, Unresolved>,
    other: impl Future<Output = Result<Vec<IpAddr>, Unresolved>>,
) -> Result<Vec<IpAddr>, Unresolved> {
    if first.is_err() {
        return other.await;
    }
    timeout(RESOLUTION_DELAY, other).await.unwrap_or(Err(Unresolved::NoAnswer))
}

impl fmt::Debug for BindingCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BindingCache").finish_non_exhaustive()
    }
}

/// Who asks the resolver about a name.
#[expect(clippy::large_enum_variant, reason = "on the stack for a moment, beside a query")]
enum Turn<'a> {
    /// The caller does, and tells the others.
    Mine(Flight<'a>),
    /// Somebody does already.
    Wait(Awaited),
}

/// A query under way; dropped without an answer, the next one who waits asks anew.
struct Flight<'a> {
    memory: &'a Memory,
    name: (HostName, Family),
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
    pub(crate) fn new(keep: Duration) -> Self {
        Self { keep, known: Arc::default(), asking: Arc::default() }
    }

    /// Joins the query for `name`, or begins it.
    fn turn(&self, name: &HostName, family: Family) -> Turn<'_> {
        let name = (*name, family);
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = asking.get(&name) {
            return Turn::Wait(answer.clone());
        }
        let (told, answer) = watch::channel(None);
        asking.insert(name, answer);
        Turn::Mine(Flight { memory: self, name, told })
    }

    /// Whether the address is the name's; `None` where the resolver has to be asked.
    fn lookup(&self, name: &HostName, address: IpAddr) -> Option<bool> {
        let now = Instant::now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.names.get_mut(name)?;
        if known.addresses.iter().any(|&(ip, until)| ip == address && now < until) {
            known.used = true;
            return Some(true);
        }
        let [four, six] = &known.families;
        let last = if Family::of(address) == Family::V4 { four } else { six };
        last.ask_again.is_some_and(|again| now < again).then_some(false)
    }

    fn is_kept(&self, name: &HostName, address: IpAddr) -> bool {
        self.lookup(name, address) == Some(true)
    }

    /// The last answer, within its own time.
    fn last(&self, name: &HostName, family: Family) -> Option<Answered> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let last = known.names.get_mut(name)?.last(family);
        let (answer, until) = last.answer.as_ref()?;
        (Instant::now() < *until).then(|| answer.clone())
    }

    /// Adds an answer to the ones before it: a name may give a few of its addresses at a time. That
    /// there is none, or no answer, is remembered too, and takes none of them away.
    fn remember(&self, name: &HostName, family: Family, answer: &Answered) {
        let (found, ttl) = match answer {
            Ok(answer) => (answer.addresses.as_slice(), answer.ttl),
            Err(_) => (&[][..], Duration::ZERO),
        };
        let (wait, good) = match answer {
            Ok(answer) => (ASKED_AGAIN, answer.ttl.min(TTL_MAX)),
            Err(Unresolved::NoAddress) => (ASKED_AGAIN, ASKED_AGAIN),
            // A client that is told nothing asks again.
            Err(Unresolved::NoAnswer | Unresolved::OverLimit) => {
                (ASKED_AGAIN_WHEN_DOWN, Duration::ZERO)
            }
        };
        let now = Instant::now();
        let answer = (!good.is_zero()).then(|| (answer.clone(), now + good));
        self.add(name, found, ttl, Some((family, Last { ask_again: Some(now + wait), answer })));
    }

    /// Adds addresses of a name. `last` is the answer that they come from.
    fn add(&self, name: &HostName, found: &[IpAddr], ttl: Duration, last: Option<(Family, Last)>) {
        let now = Instant::now();
        let until = now + ttl.min(TTL_MAX).max(self.keep);
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        all.make_room(name, found.len(), now);
        let fresh =
            || Remembered { addresses: Vec::new(), families: Default::default(), used: false };
        let known = all.names.entry(*name).or_insert_with(fresh);
        let before = known.addresses.len();
        if let Some((family, last)) = last {
            *known.last(family) = last;
        }
        known.addresses.retain(|(ip, until)| now < *until && !found.contains(ip));
        known.addresses.splice(0..0, found.iter().map(|&ip| (ip, until)));
        let is_cut = known.addresses.len() > OF_ONE_NAME_MAX;
        known.addresses.truncate(OF_ONE_NAME_MAX);
        let after = known.addresses.len();
        all.addresses = (all.addresses + after).saturating_sub(before);
        if is_cut && all.said.is_none_or(|said| now.duration_since(said) >= SAID_AGAIN) {
            all.said = Some(now);
            tracing::warn!(%name, most = OF_ONE_NAME_MAX,
                "a name has more addresses than are remembered: the oldest are forgotten");
        }
    }
}

impl Remembered {
    const fn last(&mut self, family: Family) -> &mut Last {
        let [four, six] = &mut self.families;
        match family {
            Family::V4 => four,
            Family::V6 => six,
        }
    }
}

impl Known {
    fn is_full(&self, name: &HostName, more: usize) -> bool {
        self.addresses + more > ADDRESSES_MAX
            || (self.names.len() >= NAMES_MAX && !self.names.contains_key(name))
    }

    /// Lets names go until there is room for another answer.
    fn make_room(&mut self, name: &HostName, more: usize, now: Instant) {
        if !self.is_full(name, more) {
            return;
        }
        self.keep_those(|known| known.addresses.iter().any(|&(_, until)| now < until));
        if self.is_full(name, more) {
            // Full of names that still hold. Those that tied a connection to its address since the
            // last time stay, so that nobody who asks for many names takes them away.
            self.keep_those(|known| std::mem::take(&mut known.used));
        }
        if self.is_full(name, more) {
            // The order is another one in each process: nobody can tell which ones go.
            let mut left = self.names.len().div_ceil(16);
            self.keep_those(|_| {
                left = left.saturating_sub(1);
                left == 0
            });
        }
    }

    fn keep_those(&mut self, mut stays: impl FnMut(&mut Remembered) -> bool) {
        self.names.retain(|_, known| stays(known));
        self.addresses = self.names.values().map(|known| known.addresses.len()).sum();
    }
}

/// A resolver for tests, by a list.
#[cfg(test)]
pub(crate) mod fake {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::egress::NamesLimit;

    #[derive(Clone, Default)]
    pub(crate) struct FakeResolver {
        entries: Arc<Mutex<HashMap<String, Vec<IpAddr>>>>,
        queries: Arc<AtomicUsize>,
    }

    impl FakeResolver {
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

        pub(crate) fn names(&self) -> BindingCache {
            self.names_within(usize::MAX)
        }

        /// The same, for clients that may have so many names of one domain asked about.
        pub(crate) fn names_within(&self, below_parent: usize) -> BindingCache {
            let limit = NamesLimit { below_parent, in_all: usize::MAX };
            let memory = Memory::new(Duration::from_secs(600));
            BindingCache::new(Box::new(self.clone()), memory, Arc::new(Allowance::new(limit)))
        }
    }

    impl Resolve for FakeResolver {
        fn resolve(&self, name: &HostName, family: Family) -> Answer<'_> {
            self.queries.fetch_add(1, Ordering::Relaxed);
            let found = self.entries.lock().unwrap().get(name.as_str()).cloned();
            Box::pin(async move {
                let mut addresses = found.ok_or(Unresolved::NoAnswer)?;
                addresses.retain(|address| Family::of(address.to_canonical()) == family);
                Ok(Addresses { addresses, ttl: Duration::from_secs(60) })
            })
        }
    }
}

#[cfg(test)]
mod tests;
