//! What the gateway dials from its clients' own addresses (`keep_source`): nothing about such a
//! connection says that it is the gateway's, so a route that leads it back brings a client like any
//! other. It is known by the pair of its addresses.
//!
//! A client may come to use the port that the gateway chose for it, with the same destination. So a
//! pair is in question only until the destination has answered with a byte: what came back is refused
//! before it is sent any. A pair that was never answered is kept for a while after its end: what
//! came back may still wait to be accepted.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::origin::canonical;

/// How long a pair is kept that ended without a byte.
const KEPT: Duration = Duration::from_secs(10);

/// Locks; each is held for the length of a connect that does not wait.
const SHARDS: usize = 64;

/// Where a connection comes from, and where it goes.
type Pair = (SocketAddr, SocketAddr);

/// The pairs in question, of all workers.
#[derive(Debug, Default)]
pub(super) struct Dialled {
    hasher: RandomState,
    shards: [Shard; SHARDS / 2],
    more: [Shard; SHARDS / 2],
}

type Shard = Mutex<Pairs>;

#[derive(Debug, Default)]
struct Pairs {
    /// How often: a pair that ended may be dialled again.
    counts: HashMap<Pair, usize>,
    /// Those that ended without a byte, the oldest first.
    ended: VecDeque<(Instant, Pair)>,
}

/// The address that a destination is dialled from.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) ip: IpAddr,
    pub(super) dialled: Arc<Dialled>,
}

/// A pair in question, as long as this lives, and [`KEPT`] longer.
#[derive(Debug)]
pub(super) struct InQuestion {
    dialled: Arc<Dialled>,
    pair: Pair,
    answered: bool,
}
