//! The policy in force: one load a connection, one swap a reload.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::Policy;

/// The published policy. Readers never wait, and hold one generation for a whole verdict.
#[derive(Debug)]
pub struct Live {
    now: ArcSwap<Snapshot>,
}

#[derive(Debug)]
struct Snapshot {
    current: Arc<Policy>,
    /// What follows when `current` lapses, compiled ahead so that the change falls on the instant
    /// and not on the next turn of the control plane.
    next: Option<Arc<Policy>>,
}

/// The policy in force ended, and the control plane has not published what follows. Nothing may be
/// forwarded on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the policy in force has lapsed and no successor was published")]
pub struct Lapsed;

impl Live {
    /// Starts with one policy and what follows it.
    #[must_use]
    pub fn new(current: Arc<Policy>, next: Option<Arc<Policy>>) -> Self {
        Self { now: ArcSwap::from_pointee(Snapshot { current, next }) }
    }

    /// Replaces the policy, for every connection that is judged from now on.
    pub fn publish(&self, current: Arc<Policy>, next: Option<Arc<Policy>>) {
        self.now.store(Arc::new(Snapshot { current, next }));
    }

    /// The policy in force at `now_ms` (milliseconds since 1970 UTC).
    ///
    /// # Errors
    /// [`Lapsed`] where neither the published policy nor its successor covers the instant.
    pub fn load(&self, now_ms: i64) -> Result<Arc<Policy>, Lapsed> {
        let snapshot = self.now.load();
        let covers = |policy: &&Arc<Policy>| now_ms < policy.valid_until_ms();
        let next = snapshot.next.as_ref();
        Some(&snapshot.current)
            .filter(covers)
            .or_else(|| next.filter(covers))
            .cloned()
            .ok_or(Lapsed)
    }
}
