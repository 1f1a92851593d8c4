//! What a question may still come to while its name is not known: whether first bytes are worth
//! waiting for (docs/policy.md §3), and whether bytes that break their protocol matter.

use super::address::target;
use super::axes::Profile;
use super::rule_index::{NameEntry, NameLaw, Subject};
use super::rule_set::{Named, SetId};
use super::{Action, Binding, Claim, Ech, Policy, Question, Verdict};

/// What is known of a verdict before a byte was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// This is the verdict, whatever name is read; a name only labels the record.
    Settled(Verdict),
    /// This is the verdict without a name. No name opens the address further; one which a rule opens
    /// elsewhere is refused here as `mismatch`, and one which brings a law along may be refused for
    /// it. Who wants in leaves the name out, so that nothing is won by waiting for it: the destination
    /// may be dialled and may speak, and the client's first bytes are judged before they go on.
    Unless(Verdict),
    /// A name may turn the answer: the first bytes are waited for.
    Open,
}

/// The actions that `enforce` may come to, over every name.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Possible {
    actions: [bool; Action::ALL.len()],
    /// Some name would be refused, or noted, because it does not belong to the address.
    mismatch: bool,
    /// Some name would be judged more strictly for the law that it brings along.
    law: bool,
}

impl Possible {
    const fn add(&mut self, action: Action) {
        match action {
            Action::Allow => self.actions[0] = true,
            Action::Log => self.actions[1] = true,
            Action::Block => self.actions[2] = true,
        }
    }

    /// Whether a name could change the answer. That a name may be refused as not belonging to an
    /// address which is open without one does not count: who wants in leaves it out.
    pub(super) fn differ(self) -> bool {
        self.actions.iter().filter(|&&possible| possible).count() > 1
    }

    /// Whether the law that some name brings along changes the answer.
    pub(super) const fn is_turned_by_law(self) -> bool {
        self.law
    }

    /// The least strict action, as a position in [`Action::ALL`].
    fn least(self) -> Option<usize> {
        self.actions.iter().position(|&possible| possible)
    }

    /// Takes in what a name comes to that brings a law along: the same, something stricter, or, where
    /// a rule holds no longer that would have been stricter, anything.
    fn with_law(&mut self, named: Self) {
        if self.actions == named.actions {
            return;
        }
        self.law = true;
        if named.least() < self.least() {
            self.actions = [true; Action::ALL.len()];
        }
    }
}

impl Policy {
    /// What the answer hangs on while nothing was read. The question's name, protocol and ECH are not
    /// looked at: over TCP and UDP alike, anything may come. Pure; allocates nothing.
    #[must_use]
    pub fn outlook(&self, question: &Question<'_>) -> Outlook {
        let silent = Question { name: Claim::Unread, ech: false, ..*question };
        let at = target(question.destination.ip());
        if self.guard(&at, question.destination.port()).is_some() {
            return Outlook::Settled(self.decide(&silent));
        }
        let subject = self.subject(question, at);
        let transport = question.transport as usize;
        let carriers = &self.index.carriers;
        let (any, every) = (carriers.any.get(transport), carriers.every.get(transport));
        let (Some(profile), Some(&any), Some(&every)) = (self.profile(subject.client), any, every)
        else {
            return Outlook::Open;
        };
        let mut possible = self.possible(&subject, profile, any, every);
        if self.ech == Ech::Block {
            possible.add(Action::Block);
        }
        let Possible { mismatch, law, .. } = possible;
        match (possible.differ(), self.binding) {
            // Where a name may be opened elsewhere, it says which address is dialled.
            (false, Binding::Redial) if mismatch => Outlook::Open,
            (false, _) if mismatch || law => Outlook::Unless(self.decide(&silent)),
            (false, _) => Outlook::Settled(self.decide(&silent)),
            (true, _) => Outlook::Open,
        }
    }

    /// What may come of a question whose name is open. `any`: rules that some protocol it may turn
    /// out to be leaves in force, `every`: those that each of them does.
    pub(super) fn possible(
        &self,
        subject: &Subject,
        profile: &Profile,
        any: SetId,
        every: SetId,
    ) -> Possible {
        let subject = Subject { name: self.index.unknown_name(), bound: false, ..*subject };
        // A claimed or bound name may say whose the address is, and so what rules and axes see.
        if self.index.asking != usize::MAX && !self.index.names.operators.is_empty() {
            let actions = [true; Action::ALL.len()];
            return Possible { actions, ..Possible::default() };
        }
        let mut possible = self.possible_under(&subject, profile, any, every);
        // Rules may ask for any law; the axes tell only whether one is permitted.
        let foreign = |law: &NameLaw| {
            profile.permit_law.is_some_and(|permitted| !law.homes.is_subset(permitted))
        };
        let laws = self.index.names.laws.iter().zip(0..);
        let laws = laws.filter(|(law, _)| self.index.asks_law || foreign(law));
        let few = if self.index.asks_law { usize::MAX } else { 1 };
        for (_, law) in laws.take(few) {
            if possible.differ() {
                break;
            }
            let name = NameEntry { law: Some(law), ..subject.name };
            let named = self.possible_under(&Subject { name, ..subject }, profile, any, every);
            possible.with_law(named);
        }
        possible
    }

    /// As [`Policy::possible`], of names that bring along the law of `subject`.
    fn possible_under(
        &self,
        subject: &Subject,
        profile: &Profile,
        any: SetId,
        every: SetId,
    ) -> Possible {
        let mut possible = Possible::default();
        let (table, kinds) = (&*self.address_table, &self.index.kinds);
        let hostless = Named { own: kinds.nothing, unasked: kinds.hostless };
        let mut from = 0;
        // The first rule without a `host` that holds in any case ends the walk.
        let end = loop {
            let Some(position) = self.index.first_named(table, subject, any, hostless, from) else {
                self.possible_axes(subject, &mut possible);
                break usize::MAX;
            };
            if let Some(rule) = self.index.rules.get(position) {
                possible.add(rule.action);
            }
            if self.index.sets.contains(every, position) {
                break position;
            }
            if possible.differ() {
                return possible;
            }
            from = position + 1;
        };
        for (action, own) in Action::ALL.into_iter().zip(kinds.hosted) {
            // Nothing that follows could make them agree again; and equal sets have one id.
            if possible.differ() {
                break;
            }
            if own == kinds.nothing {
                continue;
            }
            let hosted = Named { own, unasked: kinds.nothing };
            let first = self.index.first_named(table, subject, any, hosted, 0);
            if first.is_none_or(|position| position > end) {
                continue;
            }
            possible.add(action);
            // Silence is weighed at the rule as well.
            if profile.on.unread != Action::Allow {
                possible.add(profile.on.unread);
            }
            possible.mismatch |= action != Action::Block
                && profile.on.mismatch != Action::Allow
                && self.binding != Binding::Trust;
        }
        possible
    }

    /// What the axes may come to, whosever the name is.
    fn possible_axes(&self, subject: &Subject, possible: &mut Possible) {
        possible.add(self.axes(subject, &mut ()).0);
        for &operator in &self.index.names.operators {
            for bound in [false, true] {
                let name = NameEntry { operator: Some(operator), ..subject.name };
                possible.add(self.axes(&Subject { name, bound, ..*subject }, &mut ()).0);
            }
            if possible.differ() {
                return;
            }
        }
    }
}
