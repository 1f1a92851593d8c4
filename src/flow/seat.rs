//! A connection's place among the live ones of its worker: judged with them when the policy changes,
//! and by itself when it turns out to be for another host.

use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::time::Duration;

use super::gate::Gate;
use super::judge::Asked;
use super::registry::Flow;
use crate::account::{End, Judged, Record};
use crate::policy::Action;

/// The place, given up when dropped.
pub(super) struct Seat {
    gate: Rc<Gate>,
    key: u64,
    flow: Rc<Flow>,
}

impl Seat {
    /// Takes a place for a connection that nobody has judged yet; it ends after `lifetime`.
    pub(super) fn take(gate: &Rc<Gate>, lifetime: Option<Duration>) -> Self {
        let (key, flow) = gate.registry.enter(lifetime);
        Self { gate: Rc::clone(gate), key, flow }
    }

    /// What the connection shares with the others of its worker.
    pub(super) const fn gate(&self) -> &Rc<Gate> {
        &self.gate
    }

    /// The connection has a verdict, in its record, and this is what it asked.
    pub(super) fn judged(&self, asked: &Asked, record: &Record) {
        let name = record.judgement().and_then(|judged| judged.name.clone());
        self.flow.note(asked, name);
        self.flow.forwards(record.bytes());
    }

    /// What was read of a connection that has its verdict already: asked with it from here on. Whether
    /// it may go on, where the policy in force is a later one by which that matters. The bytes are held
    /// meanwhile, so that no query is waited for: what only one could permit does not go on.
    pub(super) fn learnt(&self, asked: &Asked) -> bool {
        self.flow.note(asked, asked.name.map(Into::into));
        let Some(judged) = self.gate.judged_unasked(asked) else { return false };
        let goes_on = judged.verdict.action() != Action::Block;
        if !goes_on {
            self.flow.judge(judged);
        }
        goes_on
    }

    /// The client has named another host than the one that was judged. Whether it may go on by the
    /// policy in force: `observe` only notes it. The same is asked again when the policy changes.
    pub(super) fn mismatched(&self) -> bool {
        let Some(Ok(asked)) = self.flow.mismatched() else { return false };
        let Some(judged) = self.gate.judged_at_once(&asked) else { return false };
        let goes_on = judged.verdict.action() != Action::Block;
        self.flow.judge(judged);
        goes_on
    }

    /// Waits until the connection is told to end; one task at a time may.
    pub(super) fn cut(&self) -> impl Future<Output = End> {
        poll_fn(|context| self.flow.poll_cut(context))
    }

    /// The verdict that takes the place of the one in the record, where a later one fell.
    pub(super) fn last_judged(&self) -> Option<Judged> {
        self.flow.last_judged()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.gate.registry.leave(self.key);
    }
}
