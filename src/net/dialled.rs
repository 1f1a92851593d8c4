//! Remembers what the gateway dials from its clients' own addresses (`keep_source`): nothing about such
//! a connection says that it is the gateway's, and a route that leads it back brings a client like any
//! other. It is known by the pair of its addresses.
//!
//! A client may itself come to use the port that the gateway chose, with the same destination. So a
//! pair is in question only until the destination has answered with a byte: what came back is refused
//! before it is sent any. A pair that was never answered is kept a while beyond its end: what came
//! back may still wait to be accepted.

use std::cell::RefCell;
use std::collections::hash_map::{Entry, RandomState};
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::canonical;

/// How long a pair is kept that ended without a byte.
const KEPT: Duration = Duration::from_secs(10);

/// Locks. Each is held while a connect begins, so that nothing can come back before it is noted.
const SHARDS: usize = 64;

/// Where a connection comes from, and where it goes.
type Pair = (SocketAddr, SocketAddr);

/// The pairs in question, of all workers.
#[derive(Debug)]
pub(crate) struct Dialled {
    hasher: RandomState,
    shards: Vec<Mutex<Pairs>>,
}

#[derive(Debug, Default)]
struct Pairs {
    /// How often: one that ended may be dialled again.
    counts: HashMap<Pair, usize>,
    /// Those that ended without a byte, the oldest first.
    ended: VecDeque<(Instant, Pair)>,
}

/// The address that a destination is dialled from.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) ip: IpAddr,
    pub(crate) dialled: Arc<Dialled>,
}

thread_local! {
    /// Those of this worker's sockets, by their descriptors: other connections keep no room for one.
    static HELD: RefCell<HashMap<RawFd, InQuestion>> = RefCell::default();
}

/// A pair in question; given up when dropped.
#[derive(Debug)]
pub(crate) struct InQuestion {
    dialled: Arc<Dialled>,
    pair: Pair,
    answered: bool,
}

impl Default for Dialled {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { hasher: RandomState::new(), shards }
    }
}

impl Dialled {
    /// Whether a connection between these is one of the gateway's own, come back.
    pub(crate) fn is_own(&self, from: SocketAddr, to: SocketAddr) -> bool {
        let pair = (canonical(from), canonical(to));
        self.pairs(pair.0.ip(), pair.1).is_some_and(|pairs| pairs.counts.contains_key(&pair))
    }

    /// The pairs of an address and a destination, whatever the port is.
    fn pairs(&self, from: IpAddr, to: SocketAddr) -> Option<MutexGuard<'_, Pairs>> {
        let at = self.hasher.hash_one((from, to)) as usize % SHARDS;
        Some(self.shards.get(at)?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn end(&self, pair: Pair, answered: bool, now: Instant) {
        if let Some(mut pairs) = self.pairs(pair.0.ip(), pair.1) {
            if answered {
                pairs.less(pair);
            } else {
                pairs.ended.push_back((now, pair));
            }
        }
    }
}

impl Pairs {
    fn less(&mut self, pair: Pair) {
        if let Entry::Occupied(mut count) = self.counts.entry(pair) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    /// Gives up what ended long ago.
    fn forget(&mut self, now: Instant) {
        while let Some(&(ended, pair)) = self.ended.front()
            && now.duration_since(ended) >= KEPT
        {
            self.ended.pop_front();
            self.less(pair);
        }
    }
}

impl Source {
    /// Begins to connect to `destination`, and notes the pair. `connect` begins, and says from where.
    ///
    /// # Errors
    /// Those of `connect`; then nothing is noted.
    pub(crate) fn dial(
        self,
        destination: SocketAddr,
        connect: impl FnOnce() -> io::Result<SocketAddr>,
    ) -> io::Result<InQuestion> {
        self.dial_at(destination, connect, Instant::now())
    }

    fn dial_at(
        self,
        destination: SocketAddr,
        connect: impl FnOnce() -> io::Result<SocketAddr>,
        now: Instant,
    ) -> io::Result<InQuestion> {
        let to = canonical(destination);
        let no_shard = || io::Error::other("no place to note what is dialled");
        let mut pairs = self.dialled.pairs(self.ip.to_canonical(), to).ok_or_else(no_shard)?;
        pairs.forget(now);
        let pair = (canonical(connect()?), to);
        *pairs.counts.entry(pair).or_default() += 1;
        drop(pairs);
        Ok(InQuestion { dialled: self.dialled, pair, answered: false })
    }
}

impl InQuestion {
    /// Keeps it for an open socket of this worker, which takes it back ([`InQuestion::held`]) before
    /// it is closed.
    pub(crate) fn hold(self, socket: BorrowedFd<'_>) {
        HELD.with_borrow_mut(|held| held.insert(socket.as_raw_fd(), self));
    }

    /// What is kept for a socket.
    pub(crate) fn held(socket: BorrowedFd<'_>) -> Option<Self> {
        // Gone with its thread, where that ends first.
        let take =
            |held: &RefCell<HashMap<RawFd, Self>>| held.borrow_mut().remove(&socket.as_raw_fd());
        HELD.try_with(take).ok().flatten()
    }

    /// The destination has sent a byte: it is not the gateway itself.
    pub(crate) fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for InQuestion {
    fn drop(&mut self) {
        self.dialled.end(self.pair, self.answered, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: &str = "192.0.2.2:40000";
    const TO: &str = "198.51.100.7:443";

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn dial(dialled: &Arc<Dialled>, from: &str, to: &str, now: Instant) -> InQuestion {
        let source = Source { ip: at(from).ip(), dialled: Arc::clone(dialled) };
        source.dial_at(at(to), || Ok(at(from)), now).unwrap()
    }

    #[test]
    fn w05_a_pair_is_in_question_until_a_byte_has_come() {
        let dialled = Arc::<Dialled>::default();
        let now = Instant::now();
        for (from, to, mapped) in [
            (CLIENT, TO, "[::ffff:192.0.2.2]:40000"),
            ("[2001:db8:1::2]:40000", "[2001:db8:2::7]:443", "[2001:db8:1::2]:40000"),
        ] {
            let first = dial(&dialled, from, to, now);
            assert!(dialled.is_own(at(from), at(to)) && dialled.is_own(at(mapped), at(to)));
            assert!(!dialled.is_own(at("192.0.2.2:40001"), at(to)), "the client's own port");
            assert!(!dialled.is_own(at(from), at("198.51.100.7:444")), "another destination");
            first.answered();
            assert!(!dialled.is_own(at(from), at(to)), "a client that uses the same port");
        }
    }

    #[test]
    fn w05_a_pair_without_an_answer_outlives_its_connection_for_a_while() {
        let dialled = Arc::<Dialled>::default();
        let begun = Instant::now();
        drop(dial(&dialled, CLIENT, TO, begun));
        assert!(dialled.is_own(at(CLIENT), at(TO)));
        // The same again, which is answered: the first is kept for itself.
        dial(&dialled, CLIENT, TO, begun).answered();
        assert!(dialled.is_own(at(CLIENT), at(TO)));
        dial(&dialled, CLIENT, TO, Instant::now() + KEPT).answered();
        assert!(!dialled.is_own(at(CLIENT), at(TO)));
        let left = |shard: &Mutex<Pairs>| {
            let pairs = shard.lock().unwrap();
            pairs.counts.len() + pairs.ended.len()
        };
        assert_eq!(dialled.shards.iter().map(left).sum::<usize>(), 0, "nothing is kept for ever");
    }

    #[test]
    fn w05_a_connect_that_does_not_begin_is_not_noted() {
        let dialled = Arc::<Dialled>::default();
        let source = Source { ip: at(CLIENT).ip(), dialled: Arc::clone(&dialled) };
        let failed = source.dial(at(TO), || Err(io::ErrorKind::NetworkUnreachable.into()));
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::NetworkUnreachable);
        assert!(!dialled.is_own(at(CLIENT), at(TO)));
    }
}
