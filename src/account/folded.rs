//! Refusals that are alike, while there is more to record than the disk takes: one record of all of
//! them, with their number. Whoever repeats itself fills the record with one line, and displaces
//! nobody's.

use std::collections::HashMap;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use super::line::Line;
use super::{DecisionContext, End, Ingress};
use crate::policy::{Reason, Transport};

/// Kinds of refusals that are counted at once; what is more than that has a record each.
const KINDS_MAX: usize = 4096;

/// What refusals have to share to be alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    pub(super) client: IpAddr,
    pub(super) ingress: Ingress,
    pub(super) transport: Option<Transport>,
    pub(super) destination: Option<SocketAddr>,
    pub(super) host: Option<Arc<str>>,
    pub(super) reason: Reason,
    pub(super) end: Option<End>,
    /// Which of the facts that a thread keeps, by its place: they are held as long as this.
    pub(super) context: usize,
}

/// Refusals that are alike.
#[derive(Debug)]
struct Alike {
    /// The line of the first.
    line: Vec<u8>,
    count: u64,
    first: Timestamp,
    last: Timestamp,
    _context: Arc<DecisionContext>,
}

/// Refusals that are counted, and not recorded yet.
#[derive(Debug, Default)]
pub(super) struct Folded(Mutex<HashMap<Kind, Alike>>);

impl Folded {
    /// Counts a refusal; `false` where there is no room for another kind. `fill` makes its line.
    pub(super) fn add(
        &self,
        kind: Kind,
        context: &Arc<DecisionContext>,
        at: Timestamp,
        fill: impl FnOnce(&mut Vec<u8>),
    ) -> bool {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(alike) = kinds.get_mut(&kind) {
            alike.count += 1;
            alike.first = alike.first.min(at);
            alike.last = alike.last.max(at);
            return true;
        }
        if kinds.len() >= KINDS_MAX {
            return false;
        }
        let mut line = Vec::new();
        fill(&mut line);
        let _context = Arc::clone(context);
        kinds.insert(kind, Alike { line, count: 1, first: at, last: at, _context });
        true
    }

    /// Hands over a line for each kind, and how many refusals it stands for; none is left.
    pub(super) fn take(&self, mut see: impl FnMut(&[u8], u64)) {
        let kinds = mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for Alike { line, count, first, last, .. } in kinds.into_values() {
            if count == 1 {
                see(&line, 1);
                continue;
            }
            let mut told = line.strip_suffix(b"}").unwrap_or(&line).to_vec();
            Line::fold(&mut told, count, first, last);
            see(&told, count);
        }
    }
}
