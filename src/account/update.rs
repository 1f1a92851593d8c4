//! What is recorded of a connection while it lives: how far it has come, and that it was judged again.

use std::sync::atomic::Ordering;
use std::time::Instant;

use jiff::Timestamp;

use super::line::{Line, key};
use super::{Account, Bytes, Decision, Named};
use crate::evidence::{self, Sink};
use crate::policy::Reason;

/// Why a connection that lives was judged again. A closed set: the field `cause` of an `update`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejudged {
    /// Another policy, or other tables, came into force.
    Policy,
    /// More was read of what the client says: a second hello, or a hello inside a tunnel.
    Heard,
    /// Another of the name's addresses answered than the one that was asked first.
    Dialled,
}

impl Rejudged {
    /// The cause's code.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Heard => "heard",
            Self::Dialled => "dialled",
        }
    }
}

impl Account {
    /// Counts what a live connection has forwarded, and records it where `[audit] interval` has passed
    /// since it was last recorded.
    pub fn live(&self, bytes: &Bytes) {
        self.0.metrics.forwarded(bytes.uncounted());
        let Some((sink, &(sequence, opened))) = self.0.sink.get().zip(bytes.record.get()) else {
            return;
        };
        let age = opened.elapsed();
        let due = age.as_millis().checked_div(sink.interval().as_millis()).unwrap_or(0);
        let due = u32::try_from(due).unwrap_or(u32::MAX);
        if bytes.updates.fetch_max(due, Ordering::Relaxed) >= due {
            return;
        }
        self.update(sink, (sequence, opened), bytes, |_| ());
    }

    /// Records that a live connection was judged again, and goes on; `false` where that has to wait:
    /// there is more to record than the disk takes, or its `open` line is not there yet.
    #[must_use]
    pub fn judged_again(&self, bytes: &Bytes, judged: &Decision, cause: Rejudged) -> bool {
        let Some(sink) = self.0.sink.get() else { return true };
        let Some(record) = bytes.record.get().filter(|_| !sink.is_pressed()) else { return false };
        self.update(sink, *record, bytes, |line| line_of(line, judged, cause));
        if judged.verdict.reason() == Reason::Waiver
            && let Some(rule) = judged.context.facts().rule
        {
            self.waiver_used(rule, &format!("{}{}", self.0.run, record.0));
        }
        true
    }

    /// Puts an `update` of the record of this number and begin; `more` writes what else it says.
    fn update(
        &self,
        sink: &Sink,
        (sequence, opened): (u64, Instant),
        bytes: &Bytes,
        more: impl FnOnce(&mut Line<'_>),
    ) {
        let (up, down) = bytes.totals();
        let _kept = sink.line(evidence::Kind::Other, |buffer| {
            let mut line = Line::begin(buffer);
            line.label(key!("event"), Some("update"));
            line.id(key!("id"), &self.0.run, sequence);
            line.time(key!("time"), Timestamp::now());
            more(&mut line);
            line.number(key!("bytes_up"), Some(up));
            line.number(key!("bytes_down"), Some(down));
            let age = u64::try_from(opened.elapsed().as_millis()).unwrap_or(u64::MAX);
            line.number(key!("duration_ms"), Some(age));
            line.end();
        });
    }
}

/// What an `update` says of a judgement.
fn line_of(line: &mut Line<'_>, judged: &Decision, cause: Rejudged) {
    let (name, verdict) = (judged.name.as_ref(), &judged.verdict);
    line.label(key!("cause"), Some(cause.label()));
    line.address(key!("destination"), Some(verdict.destination()));
    line.text(key!("host"), name.map(Named::host));
    line.label(key!("name_source"), name.map(|name| name.source().label()));
    line.flag(key!("name_bound"), judged.bound);
    line.fields(judged.context.fields());
    line.label(key!("verdict"), Some(verdict.action().label()));
    line.label(key!("reason"), Some(verdict.reason().label()));
    line.label(key!("would"), verdict.would().map(|would| would.label()));
    line.label(key!("mode"), Some(verdict.mode().label()));
}
