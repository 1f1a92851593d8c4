//! What was decided lately, for those who look on: a bounded list that threads put into without
//! waiting for anybody, and out of which one reader takes. What nobody takes in time is written over.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_queue::ArrayQueue;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{Decision, End, Ingress, Named};
use crate::identify::Fault;
use crate::policy::{Action, Country, CountrySet, Transport};

/// What waits for the reader at the most.
const ROOM: usize = 2048;

/// What happened to a connection, as its record has it.
#[derive(Debug, Clone)]
pub struct Happened {
    /// `open`, `close`, `refused`, `asked`, `unjudged`.
    pub event: &'static str,
    /// The number of its record.
    pub sequence: u64,
    /// When, milliseconds since 1970.
    pub at_ms: i64,
    /// The client.
    pub client: SocketAddr,
    /// How it came in.
    pub ingress: Ingress,
    /// How its bytes travel, where that is one way.
    pub transport: Option<Transport>,
    /// Where it was going, as far as that is known.
    pub destination: Option<SocketAddr>,
    /// What was judged.
    pub judged: Option<Decision>,
    /// How it ended.
    pub end: Option<End>,
    /// Bytes up and down.
    pub bytes: (u64, u64),
    /// Milliseconds since it came in.
    pub duration_ms: u64,
}

impl Happened {
    /// Whether it was refused, or would be in `enforce`.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.judged.as_ref().is_some_and(|judged| {
            let verdict = &judged.verdict;
            verdict.would().unwrap_or_else(|| verdict.action()) == Action::Block
        })
    }

    /// The fields of its record, under the same names.
    #[must_use]
    pub fn fields(&self, id: String) -> Map<String, Value> {
        let codes = |set: CountrySet| set.iter().map(Country::code).collect::<Vec<_>>();
        let judged = self.judged.as_ref();
        let verdict = judged.map(|judged| &judged.verdict);
        let name = judged.and_then(|judged| judged.name.as_ref());
        let facts = judged.map(|judged| judged.context.facts());
        let place = facts.as_ref().map(|facts| &facts.place);
        let time = Timestamp::from_millisecond(self.at_ms).unwrap_or_default();
        let fields = json!({
            "event": self.event,
            "id": id,
            "time": format!("{time:.3}"),
            "client": self.client.to_string(),
            "listener": self.ingress.label(),
            "transport": self.transport.map(Transport::label),
            "destination": self.destination.map(|at| at.to_string()),
            "host": name.map(Named::host),
            "name_bound": judged.and_then(|judged| judged.bound),
            "ech": judged.map(|judged| judged.ech),
            "protocol": judged.map(|judged| judged.protocol.label()),
            "fault": judged.and_then(|judged| judged.fault).map(Fault::label),
            "location": place.map(|place| codes(place.codes)),
            "anycast": place.map(|place| place.anycast),
            "operator": place.and_then(|place| place.operator),
            "asn": place.and_then(|place| place.asn),
            "law": place.map(|place| codes(place.law)),
            "policy": facts.as_ref().and_then(|facts| facts.policy),
            "group": facts.as_ref().and_then(|facts| facts.group),
            "rule": facts.as_ref().and_then(|facts| facts.rule),
            "basis": facts.as_ref().and_then(|facts| facts.basis),
            "verdict": verdict.map(|verdict| verdict.action().label()),
            "reason": verdict.map(|verdict| verdict.reason().label()),
            "would": verdict.and_then(|verdict| verdict.would()).map(Action::label),
            "mode": verdict.map(|verdict| verdict.mode().label()),
            "bytes_up": self.bytes.0,
            "bytes_down": self.bytes.1,
            "duration_ms": self.duration_ms,
            "end": self.end.map(End::label),
        });
        match fields {
            Value::Object(fields) => fields,
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => Map::new(),
        }
    }
}

/// The list.
#[derive(Debug)]
pub(super) struct Recent {
    waiting: ArrayQueue<Happened>,
    /// Somebody wants what was let go as well.
    is_watched: AtomicBool,
    /// What was written over before anybody took it.
    missed: AtomicU64,
}

impl Default for Recent {
    fn default() -> Self {
        Self {
            waiting: ArrayQueue::new(ROOM),
            is_watched: AtomicBool::new(false),
            missed: AtomicU64::new(0),
        }
    }
}

impl Recent {
    pub(super) fn is_watched(&self) -> bool {
        self.is_watched.load(Ordering::Relaxed)
    }

    pub(super) fn watch(&self, watched: bool) {
        self.is_watched.store(watched, Ordering::Relaxed);
    }

    pub(super) fn put(&self, happened: Happened) {
        if self.waiting.force_push(happened).is_some() {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn take(&self) -> (Vec<Happened>, u64) {
        // No more than there is room for: threads may put as fast as this takes.
        let taken = std::iter::from_fn(|| self.waiting.pop()).take(ROOM).collect();
        (taken, self.missed.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn happened(sequence: u64) -> Happened {
        Happened {
            event: "refused",
            sequence,
            at_ms: 0,
            client: "192.0.2.1:1".parse().unwrap(),
            ingress: Ingress::Proxy,
            transport: None,
            destination: None,
            judged: None,
            end: None,
            bytes: (0, 0),
            duration_ms: 0,
        }
    }

    #[test]
    fn what_nobody_takes_is_written_over_and_counted() {
        let recent = Recent::default();
        let more = 100;
        (0..ROOM as u64 + more).for_each(|number| recent.put(happened(number)));
        let (taken, missed) = recent.take();
        assert_eq!((taken.len(), missed), (ROOM, more));
        assert_eq!(taken[0].sequence, more, "the oldest are gone");
        assert_eq!(recent.take().0.len(), 0);
        assert_eq!(recent.take().1, 0, "counted once");
    }
}
