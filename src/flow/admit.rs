//! Asks the policy in force about a session, and notes the verdict in the record and, where it permits,
//! in the registry, so that a later policy is asked the same.

use super::evaluate::{
    Answer, First, NameEvidence, Subject, evaluate_cached, evaluate_early, evaluate_unasked,
    evaluate_with_dns, now_ms,
};
use super::refuse::{self, Rejection};
use super::session::Session;
use super::worker::Worker;
use crate::account::Decision;
use crate::identify::Protocol;
use crate::policy::{Action, Denial, Permit, Policy, Verdict};

impl Worker {
    /// Whether the policy would let this pass, as far as is known without a query.
    pub(super) fn permits(&self, subject: &Subject) -> bool {
        self.live.load(now_ms()).is_ok_and(|policy| {
            evaluate_cached(&policy, subject, self.account.metrics())
                .is_some_and(|answer| answer.verdict.action() != Action::Block)
        })
    }

    /// What the policy in force says, as far as is known without a query; `None` where one would have
    /// to be made, or no policy is in force.
    pub(super) fn judged_at_once(&self, subject: &Subject) -> Option<Decision> {
        let policy = self.live.load(now_ms()).ok()?;
        let answer = evaluate_cached(&policy, subject, self.account.metrics())?;
        Some(answer.judged(&policy, subject))
    }

    /// As [`Worker::judged_at_once`], where nobody waits for a query: a name that one would have to be made
    /// about is what the client claims. `None` where no policy is in force.
    pub(super) fn judged_unasked(&self, subject: &Subject) -> Option<Decision> {
        let policy = self.live.load(now_ms()).ok()?;
        let answer = evaluate_unasked(&policy, subject, self.account.metrics());
        Some(answer.judged(&policy, subject))
    }
}

impl Session {
    /// The verdict that falls before a byte was read, noted, and what becomes of the first bytes; `None`
    /// where they must be waited for.
    pub(super) fn admit_unread(
        &mut self,
        subject: &Subject,
    ) -> Option<(Result<Permit, Rejection>, First)> {
        let Ok(policy) = self.worker.live.load(now_ms()) else {
            return Some((
                Err(self.refused(Verdict::overload(subject.destination))),
                First::Settled,
            ));
        };
        let (answer, first) = evaluate_early(&policy, subject, self.worker.account.metrics())?;
        Some((self.note(&policy, subject.clone(), answer), first))
    }

    /// The verdict, noted, and what becomes of the first bytes: at once where the address decides alone,
    /// else on what `hear` reads of the client.
    pub(super) async fn admit_heard(
        &mut self,
        subject: Subject,
        hear: impl AsyncFnOnce(Subject, &Self) -> Result<(Subject, First), Rejection>,
    ) -> Result<(Permit, First), Rejection> {
        if let Some((verdict, first)) = self.admit_unread(&subject) {
            return verdict.map(|permit| (permit, first));
        }
        let (subject, first) = hear(subject, self).await?;
        self.admit(subject).await.map(|permit| (permit, first))
    }

    /// The verdict on all that was read, noted.
    pub(super) async fn admit(&mut self, subject: Subject) -> Result<Permit, Rejection> {
        loop {
            let turn = self.worker.registry.turn();
            let Ok(policy) = self.worker.live.load(now_ms()) else {
                return Err(self.refused(Verdict::overload(subject.destination)));
            };
            let metrics = self.worker.account.metrics();
            let (record, source) = (&mut self.record, subject.name.map(|(_, source)| source));
            let asks = |name| {
                if let Some(source) = source {
                    record.asks_about(name, source);
                }
            };
            let answer =
                evaluate_with_dns(&policy, &subject, &self.worker.names, metrics, asks).await;
            // A policy that came while the resolver was asked has to be asked as well: the turn
            // that it began did not find this connection among those with a verdict.
            if self.worker.registry.turn() == turn {
                return self.note(&policy, subject, answer);
            }
        }
    }

    /// Notes an answer in the record and, where it permits, in the registry.
    pub(super) fn note(
        &mut self,
        policy: &Policy,
        mut subject: Subject,
        mut answer: Answer,
    ) -> Result<Permit, Rejection> {
        let protocol = subject.protocol;
        if answer.verdict.action() != Action::Block && !self.worker.account.keeps() {
            answer.verdict = *answer.verdict.unrecorded().verdict();
        }
        self.record.judged(answer.judged(policy, &subject));
        match answer.verdict.permit() {
            Ok(permit) => {
                let to = permit.destination();
                // What was seen to belong to the name stays so while the connection lives: a name
                // that turns over its addresses takes none away from who is connected to one.
                subject.evidence = match subject.evidence {
                    NameEvidence::Claimed | NameEvidence::ClaimedAfterDial
                        if answer.bound == Some(true) =>
                    {
                        NameEvidence::Resolved
                    }
                    NameEvidence::Claimed if subject.destination == to => {
                        NameEvidence::ClaimedAfterDial
                    }
                    NameEvidence::Claimed => NameEvidence::Resolved,
                    evidence @ (NameEvidence::ClaimedAfterDial | NameEvidence::Resolved) => {
                        evidence
                    }
                };
                subject.destination = to;
                self.registration.judged(&subject, &self.record);
                Ok(permit)
            }
            Err(denial) => {
                let notice = refuse::notice(denial, &self.record, Some(policy));
                Err(Rejection::refused(protocol, notice))
            }
        }
    }

    /// What was read of a connection that has its verdict already: asked with it from here on. Whether
    /// it may go on, where the policy in force is a later one by which that matters. The bytes are held
    /// meanwhile, so that no query is waited for: what only one could permit does not go on.
    pub(super) fn learnt(&self, subject: &Subject) -> bool {
        self.registration.note(subject, subject.name.map(Into::into));
        let Some(judged) = self.worker.judged_unasked(subject) else { return false };
        let goes_on = judged.verdict.action() != Action::Block;
        let is_new = self.record.judgement().is_none_or(|before| judged.differs(before));
        if goes_on && is_new {
            self.tell_again(&judged);
        }
        if !goes_on || is_new {
            self.registration.judge(judged);
        }
        goes_on
    }

    /// Adds what was read to the record of a verdict that it could not change.
    pub(super) fn label(&mut self, read: &Subject) {
        self.take_last_verdict();
        let Some(judged) = self.record.judgement() else { return };
        let &Subject { protocol, name, ech, .. } = read;
        let (name, fault) = (name.map(Into::into), read.fault());
        let judged = Decision { protocol, name, ech, fault, ..judged.clone() };
        self.record.replace(judged);
    }

    /// The refusal of a connection that no policy was asked about.
    pub(super) fn refused(&mut self, denial: Denial) -> Rejection {
        self.record.judged(Decision::without_policy(*denial.verdict()));
        let notice = refuse::notice(denial, &self.record, None);
        Rejection::refused(Protocol::Other, notice)
    }
}
