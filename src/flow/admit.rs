//! The verdict on a connection: asked of the policy in force, noted in the record and, where it permits,
//! in the registry.

use super::judge::{
    Answer, Asked, First, Tie, now_ms, settle, settle_at_once, settle_unasked, unread,
};
use super::refuse::{Notice, Stop};
use super::session::Session;
use super::worker::Worker;
use crate::account::Judged;
use crate::identify::Protocol;
use crate::policy::{Action, Denial, Permit, Policy, Verdict};

impl Worker {
    /// Whether the policy would let this pass, as far as is known without a query.
    pub(super) fn permits(&self, asked: &Asked) -> bool {
        self.live.load(now_ms()).is_ok_and(|policy| {
            settle_at_once(&policy, asked, self.account.metrics())
                .is_some_and(|answer| answer.verdict.action() != Action::Block)
        })
    }

    /// What the policy in force says, as far as is known without a query; `None` where one would have
    /// to be made, or no policy is in force.
    pub(super) fn judged_at_once(&self, asked: &Asked) -> Option<Judged> {
        let policy = self.live.load(now_ms()).ok()?;
        let answer = settle_at_once(&policy, asked, self.account.metrics())?;
        Some(answer.judged(&policy, asked))
    }

    /// As [`Worker::judged_at_once`], where nobody waits for a query: a name that one would have to be made
    /// about is what the client claims. `None` where no policy is in force.
    pub(super) fn judged_unasked(&self, asked: &Asked) -> Option<Judged> {
        let policy = self.live.load(now_ms()).ok()?;
        let answer = settle_unasked(&policy, asked, self.account.metrics());
        Some(answer.judged(&policy, asked))
    }
}

impl Session {
    /// The verdict that falls before a byte was read, noted, and what becomes of the first bytes; `None`
    /// where they must be waited for.
    pub(super) fn admit_unread(&mut self, asked: &Asked) -> Option<(Result<Permit, Stop>, First)> {
        let Ok(policy) = self.worker.live.load(now_ms()) else {
            return Some((Err(self.refused(Verdict::overload(asked.destination))), First::Settled));
        };
        let (answer, first) = unread(&policy, asked, self.worker.account.metrics())?;
        Some((self.note(&policy, asked.clone(), answer), first))
    }

    /// The verdict on all that was read, noted.
    pub(super) async fn admit(&mut self, asked: Asked) -> Result<Permit, Stop> {
        loop {
            let turn = self.worker.registry.turn();
            let Ok(policy) = self.worker.live.load(now_ms()) else {
                return Err(self.refused(Verdict::overload(asked.destination)));
            };
            let metrics = self.worker.account.metrics();
            let answer = settle(&policy, &asked, &self.worker.names, metrics).await;
            // A policy that came while the resolver was asked has to be asked as well: the turn
            // that it began did not find this connection among those with a verdict.
            if self.worker.registry.turn() == turn {
                return self.note(&policy, asked, answer);
            }
        }
    }

    /// Notes an answer in the record and, where it permits, in the registry.
    pub(super) fn note(
        &mut self,
        policy: &Policy,
        mut asked: Asked,
        answer: Answer,
    ) -> Result<Permit, Stop> {
        let protocol = asked.protocol;
        self.record.judged(answer.judged(policy, &asked));
        match answer.verdict.permit() {
            Ok(permit) => {
                let to = permit.destination();
                // What was seen to belong to the name stays so while the connection lives: a name
                // that turns over its addresses takes none away from who is connected to one.
                asked.tie = match asked.tie {
                    Tie::Said | Tie::SaidAndDialled if answer.bound == Some(true) => Tie::Resolved,
                    Tie::Said if asked.destination == to => Tie::SaidAndDialled,
                    Tie::Said => Tie::Resolved,
                    tie @ (Tie::SaidAndDialled | Tie::Resolved) => tie,
                };
                asked.destination = to;
                self.registration.judged(&asked, &self.record);
                Ok(permit)
            }
            Err(denial) => {
                let notice = Notice::of(denial, &self.record, policy.contact());
                Err(Stop::refused(protocol, notice))
            }
        }
    }

    /// What was read of a connection that has its verdict already: asked with it from here on. Whether
    /// it may go on, where the policy in force is a later one by which that matters. The bytes are held
    /// meanwhile, so that no query is waited for: what only one could permit does not go on.
    pub(super) fn learnt(&self, asked: &Asked) -> bool {
        self.registration.note(asked, asked.name.map(Into::into));
        let Some(judged) = self.worker.judged_unasked(asked) else { return false };
        let goes_on = judged.verdict.action() != Action::Block;
        if !goes_on {
            self.registration.judge(judged);
        }
        goes_on
    }

    /// Adds what was read to the record of a verdict that it could not change.
    pub(super) fn label(&mut self, read: &Asked) {
        let Some(judged) = self.record.judgement() else { return };
        let &Asked { protocol, name, ech, .. } = read;
        let (name, fault) = (name.map(Into::into), read.fault());
        let judged = Judged { protocol, name, ech, fault, ..judged.clone() };
        self.record.replace(judged);
    }

    /// The refusal of a connection that no policy was asked about.
    pub(super) fn refused(&mut self, denial: Denial) -> Stop {
        self.record.judged(Judged::without_policy(*denial.verdict()));
        let notice = Notice::of(denial, &self.record, None);
        Stop::refused(Protocol::Other, notice)
    }
}
