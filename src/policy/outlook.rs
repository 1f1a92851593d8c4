//! What a question may still come to while its name is not known: whether first bytes are worth
//! waiting for (docs/policy.md §3), and whether bytes that break their protocol matter.

use super::address::target;
use super::axes::Profile;
use super::decide::Subject;
use super::rule_set::{Named, SetId};
use super::{Action, Binding, Claim, Ech, NameEntry, Policy, Question, Verdict};

/// What is known of a verdict before a byte was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// This is the verdict, whatever name is read; a name only labels the record.
    Settled(Verdict),
    /// This is the verdict without a name. No name gives the address away or takes it, save that one
    /// which a rule opens elsewhere is refused here as `mismatch`: the destination may be dialled and
    /// may speak, and the client's first bytes are judged before they go on.
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
        let profile = self.profiles.get(self.group(subject.client).profile as usize);
        let (Some(profile), Some(&any), Some(&every)) =
            (profile, self.any_carrier.get(transport), self.every_carrier.get(transport))
        else {
            return Outlook::Open;
        };
        let mut possible = self.possible(&subject, profile, any, every);
        if self.ech == Ech::Block {
            possible.add(Action::Block);
        }
        match (possible.differ(), possible.mismatch, self.binding) {
            (false, false, _) => Outlook::Settled(self.decide(&silent)),
            (false, true, Binding::Verify | Binding::Trust) => {
                Outlook::Unless(self.decide(&silent))
            }
            // The name says which address is dialled.
            (false, true, Binding::Redial) | (true, ..) => Outlook::Open,
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
        let mut possible = Possible::default();
        let subject = Subject { name: self.unknown_name(), bound: false, ..*subject };
        // A claimed or bound name may say whose the address is, and so what rules and axes see.
        if self.asks_operator && !self.host_operators.is_empty() {
            possible.actions = [true; Action::ALL.len()];
            return possible;
        }
        let hostless = Named { own: self.nothing, unasked: self.hostless };
        let mut from = 0;
        // The first rule without a `host` that holds in any case ends the walk.
        let end = loop {
            let Some(position) = self.first_named(&subject, any, hostless, from) else {
                self.possible_axes(&subject, &mut possible);
                break usize::MAX;
            };
            if let Some(rule) = self.rules.get(position) {
                possible.add(rule.action);
            }
            if self.sets.contains(every, position) {
                break position;
            }
            if possible.differ() {
                return possible;
            }
            from = position + 1;
        };
        for (action, own) in Action::ALL.into_iter().zip(self.hosted) {
            // Nothing that follows could make them agree again; and equal sets have one id.
            if possible.differ() {
                break;
            }
            if own == self.nothing {
                continue;
            }
            let hosted = Named { own, unasked: self.nothing };
            let first = self.first_named(&subject, any, hosted, 0);
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
        for &operator in &self.host_operators {
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
