//! The verdict on a connection: asked of the policy in force, noted in the record and, where it permits,
//! in the registry.

use super::gate::Gate;
use super::judge::{
    Answer, Asked, First, Tie, now_ms, settle, settle_at_once, settle_unasked, unread,
};
use super::refuse::{Notice, Stop};
use super::seat::Seat;
use crate::account::{End, Judged, Record};
use crate::identify::Protocol;
use crate::policy::{Action, Denial, Permit, Policy, Verdict};

impl Gate {
    /// The verdict that falls before a byte was read, noted, and what becomes of the first bytes; `None`
    /// where they must be waited for.
    pub(super) fn admit_unread(
        &self,
        asked: &Asked,
        seat: &Seat,
        record: &mut Record,
    ) -> Option<(Result<Permit, Stop>, First)> {
        let Ok(policy) = self.live.load(now_ms()) else {
            return Some((
                Err(refused(Verdict::overload(asked.destination), record)),
                First::Settled,
            ));
        };
        let (answer, first) = unread(&policy, asked, self.account.metrics())?;
        Some((self.note(&policy, asked.clone(), answer, seat, record), first))
    }

    /// The verdict on all that was read, noted.
    pub(super) async fn admit(
        &self,
        asked: Asked,
        seat: &Seat,
        record: &mut Record,
    ) -> Result<Permit, Stop> {
        loop {
            let turn = self.registry.turn();
            let Ok(policy) = self.live.load(now_ms()) else {
                return Err(refused(Verdict::overload(asked.destination), record));
            };
            let metrics = self.account.metrics();
            let answer = settle(&policy, &asked, &self.names, metrics).await;
            // A policy that came while the resolver was asked has to be asked as well: the turn
            // that it began did not find this connection among those with a verdict.
            if self.registry.turn() == turn {
                return self.note(&policy, asked, answer, seat, record);
            }
        }
    }

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

    /// As [`Gate::judged_at_once`], where nobody waits for a query: a name that one would have to be made
    /// about is what the client claims. `None` where no policy is in force.
    pub(super) fn judged_unasked(&self, asked: &Asked) -> Option<Judged> {
        let policy = self.live.load(now_ms()).ok()?;
        let answer = settle_unasked(&policy, asked, self.account.metrics());
        Some(answer.judged(&policy, asked))
    }

    /// Notes an answer in the record and, where it permits, in the registry.
    pub(super) fn note(
        &self,
        policy: &Policy,
        mut asked: Asked,
        answer: Answer,
        seat: &Seat,
        record: &mut Record,
    ) -> Result<Permit, Stop> {
        let protocol = asked.protocol;
        record.judged(answer.judged(policy, &asked));
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
                seat.judged(&asked, record);
                Ok(permit)
            }
            Err(denial) => {
                let notice = Notice::of(denial, record, policy.contact());
                Err(Stop::refused(protocol, notice))
            }
        }
    }
}

/// Adds what was read to the record of a verdict that it could not change.
pub(super) fn label(record: &mut Record, read: &Asked) {
    let Some(judged) = record.judgement() else { return };
    let &Asked { protocol, name, ech, .. } = read;
    let (name, fault) = (name.map(Into::into), read.fault());
    record.replace(Judged { protocol, name, ech, fault, ..judged.clone() });
}

/// The refusal of a connection that no policy was asked about.
pub(super) fn refused(denial: Denial, record: &mut Record) -> Stop {
    record.judged(Judged::without_policy(*denial.verdict()));
    let notice = Notice::of(denial, record, None);
    Stop::refused(Protocol::Other, notice)
}

/// Closes a connection's record, with the verdict that ended it where that was a later one.
pub(super) fn close(mut record: Record, seat: &Seat, end: End) {
    if let Some(judged) = seat.last_judged() {
        record.replace(judged);
    }
    record.finish(end);
}
