//! Detects clients that are refused many distinct names: a sign of data leaking through names, as in
//! DNS tunnels.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Different refused names of one source, within [`WINDOW`], from which on it is counted.
pub(super) const MANY: usize = 50;

/// How long names are remembered.
const WINDOW: Duration = Duration::from_secs(600);

/// Clients that are watched at once; an IPv6 source is its /64. About 4 MB if all are full.
const SOURCES_MAX: usize = 4096;

/// Time between two looks through all sources.
const SWEEP: Duration = Duration::from_secs(1);

/// The sources of refused names.
#[derive(Debug, Default)]
pub(super) struct RefusedNames {
    hasher: RandomState,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    by_source: HashMap<IpAddr, Source>,
    /// When it was last looked through for sources that are no longer watched.
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Source {
    since: Instant,
    names: HashSet<u64>,
}

impl RefusedNames {
    /// Notes a refused name; true once in a window, where the source has asked for [`MANY`].
    pub(super) fn refused(&self, client: IpAddr, name: &str, now: Instant) -> bool {
        let name = self.hasher.hash_one(name);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let client = network(client);
        if seen.by_source.len() >= SOURCES_MAX && !seen.by_source.contains_key(&client) {
            // Not for each name of a flood: the workers wait for each other here.
            if seen.swept.is_none_or(|swept| now.duration_since(swept) >= SWEEP) {
                seen.swept = Some(now);
                seen.by_source.retain(|_, source| now.duration_since(source.since) < WINDOW);
            }
            if seen.by_source.len() >= SOURCES_MAX {
                return false;
            }
        }
        let fresh = || Source { since: now, names: HashSet::new() };
        let source = seen.by_source.entry(client).or_insert_with(fresh);
        if now.duration_since(source.since) >= WINDOW {
            *source = fresh();
        }
        // Nothing more is to be learnt of one that has been counted.
        source.names.len() < MANY && source.names.insert(name) && source.names.len() == MANY
    }
}

/// Who counts as one client: an IPv4 address, or the /64 of an IPv6 address.
pub(crate) fn network(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: usize) -> String {
        format!("n{n}.example")
    }

    #[test]
    fn a_source_of_many_refused_names_is_told_once_in_ten_minutes() {
        let sources = RefusedNames::default();
        let (one, begun) = ("192.0.2.1".parse().unwrap(), Instant::now());
        let told = |at: Instant| (0..200).filter(|&n| sources.refused(one, &name(n), at)).count();
        assert_eq!(told(begun), 1);
        assert_eq!(told(begun), 0);
        assert_eq!(told(begun + WINDOW), 1);
        let two = "192.0.2.2".parse().unwrap();
        assert!((0..500).all(|_| !sources.refused(two, &name(1), begun)), "one name, often");
    }

    #[test]
    fn the_sources_that_are_watched_are_bounded() {
        let sources = RefusedNames::default();
        let now = Instant::now();
        for n in 0..2 * SOURCES_MAX as u32 {
            sources.refused(n.to_be_bytes().into(), &name(1), now);
        }
        assert_eq!(sources.seen.lock().unwrap().by_source.len(), SOURCES_MAX);
        sources.refused("192.0.2.1".parse().unwrap(), &name(1), now + WINDOW);
        assert_eq!(sources.seen.lock().unwrap().by_source.len(), 1);
    }
}
