//! The judgement: guards, rules in file order, axes (docs/policy.md §3). One function for the data
//! plane, `explain`, `inspect` and replay; who wants to know the steps passes a [`Trace`].

use std::net::SocketAddr;

use super::address::{Target, canonical, target};
use super::axes::{Facts, Profile, law_may_turn};
use super::clients::ClientClass;
use super::compile::carriers_of;
use super::rule_index::{NameEntry, NameRules, Subject};
use super::rule_set::SetId;
use super::{
    Action, AddressKind, Binding, Claim, CountrySet, Ech, GroupId, Mode, Policy, Question, Reason,
    RuleId, Verdict,
};
use crate::identify::{HostName, Protocol};

/// One step of a judgement, as it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// What is judged for the destination, and how it stands.
    Target(Target),
    /// The client's group and its mode.
    Group(GroupId, Mode),
    /// `[names] ech` takes the name away, or refuses.
    Ech(Ech),
    /// The name is of an `[[operator]]` (index into the address table), and whether it is bound.
    HostOperator(u32, bool),
    /// The name adds a law, whatever address it has.
    NameLaw(CountrySet),
    /// A cause was weighed at a rule (`mismatch`, `unread`, `malformed`) or on the axes.
    Cause(Reason, Action, Option<RuleId>),
    /// A rule decided.
    Rule(RuleId, Action),
    /// An earlier `log` stands where the rest would allow.
    Floor(Reason),
}

/// Hears the steps of a judgement.
pub trait Trace {
    /// One more step.
    fn step(&mut self, step: Step);

    /// Whether anybody listens; if nobody does, what was computed ahead is not computed again.
    fn listens(&self) -> bool {
        true
    }
}

/// The data plane hears nothing, at no cost.
impl Trace for () {
    fn step(&mut self, _: Step) {}

    fn listens(&self) -> bool {
        false
    }
}

impl Trace for Vec<Step> {
    fn step(&mut self, step: Step) {
        self.push(step);
    }
}

/// Notes whether it mattered that a name is claimed alone. Whether one is bound is asked for in two
/// places: at a rule that needs it, and where the name is of an `[[operator]]`. Both are steps.
#[derive(Default)]
struct HangsOnBinding(bool);

impl Trace for HangsOnBinding {
    #[inline(always)]
    fn step(&mut self, step: Step) {
        self.0 |= matches!(step, Step::Cause(Reason::Mismatch, ..) | Step::HostOperator(..));
    }

    fn listens(&self) -> bool {
        false
    }
}

/// What `enforce` does.
#[derive(Clone, Copy)]
struct Enforced {
    action: Action,
    reason: Reason,
    rule: Option<RuleId>,
}

impl Enforced {
    const fn by(action: Action, reason: Reason) -> Self {
        Self { action, reason, rule: None }
    }

    fn or_stricter(self, other: Self) -> Self {
        if other.action > self.action { other } else { self }
    }
}

impl Policy {
    /// Judges one connection. Pure; allocates nothing.
    #[must_use]
    pub fn decide(&self, question: &Question<'_>) -> Verdict {
        self.decide_traced(question, &mut ())
    }

    /// As [`Policy::decide`], of a name that is claimed, and whether another verdict may come of it
    /// where the name is bound. Where none may, the question need not be asked twice.
    #[must_use]
    pub fn decide_claimed(&self, question: &Question<'_>) -> (Verdict, bool) {
        let mut hangs = HangsOnBinding::default();
        let verdict = self.decide_traced(question, &mut hangs);
        (verdict, hangs.0)
    }

    /// As [`Policy::decide`], and tells each step.
    pub fn decide_traced(&self, question: &Question<'_>, trace: &mut impl Trace) -> Verdict {
        let target = target(question.destination.ip());
        trace.step(Step::Target(target));
        let subject = self.subject(question, target);
        let group = self.clients.group(subject.client);
        trace.step(Step::Group(GroupId(subject.client.group), group.mode));
        if let Some(reason) = self.guard(&target, question.destination.port()) {
            return self.verdict(
                question,
                subject.client,
                Enforced::by(Action::Block, reason),
                true,
            );
        }
        let name = match (question.ech, self.ech) {
            (true, Ech::Block) => {
                trace.step(Step::Ech(Ech::Block));
                let refused = Enforced::by(Action::Block, Reason::Unread);
                return self.verdict(question, subject.client, refused, false);
            }
            (true, Ech::Unread) => {
                trace.step(Step::Ech(Ech::Unread));
                Claim::Unread
            }
            (true, Ech::Claim) | (false, _) => question.name,
        };
        let subject = self.named(subject, name, trace.listens());
        if let Some(operator) = subject.name.operator {
            trace.step(Step::HostOperator(operator, subject.bound));
        }
        if let Some(law) = subject.name.law.and_then(|law| self.index.law(law)) {
            trace.step(Step::NameLaw(law.homes));
        }
        let by_protocol = self.index.carried(question.transport, question.protocol);
        let enforced = match (by_protocol, name) {
            (Some(carrier), Claim::Malformed(names)) => {
                self.malformed(question, &subject, names, carrier, trace)
            }
            (Some(carrier), _) => self.walk(&subject, name, carrier, None, trace),
            (None, _) => Enforced::by(Action::Block, Reason::Overload),
        };
        self.verdict(question, subject.client, enforced, false)
    }

    /// What follows for malformed bytes. What may still become a protocol that carries a name is the
    /// strictest that it may be.
    #[cold]
    #[inline(never)]
    fn malformed(
        &self,
        question: &Question<'_>,
        subject: &Subject,
        names: &[HostName],
        by_protocol: SetId,
        trace: &mut impl Trace,
    ) -> Enforced {
        if question.protocol != Protocol::Other {
            return self.malformed_over(subject, names, by_protocol, trace);
        }
        let either = |&protocol: &Protocol| self.index.carried(question.transport, protocol);
        let mut carriers = carriers_of(question.transport).iter().rev().filter_map(either);
        let other = carriers.next().unwrap_or(self.index.kinds.nothing);
        let first = self.malformed_over(subject, names, other, trace);
        carriers.fold(first, |strictest, carrier| {
            strictest.or_stricter(self.malformed_over(subject, names, carrier, &mut ()))
        })
    }

    /// The strictest of what follows for a name that nobody knows, and for the operators and laws of
    /// the names that were read although the bytes are malformed: any of them may be the one that is
    /// meant.
    fn malformed_over(
        &self,
        subject: &Subject,
        names: &[HostName],
        carrier: SetId,
        trace: &mut impl Trace,
    ) -> Enforced {
        let claim = Claim::Malformed(names);
        let profile = self.profile(subject.client);
        let cause = profile
            .filter(|profile| {
                let possible = self.possible(subject, profile, carrier, carrier);
                possible.differ() || possible.is_turned_by_law()
            })
            .map(|profile| profile.on.malformed);
        let mut strictest = self.walk_malformed(subject, claim, carrier, cause, trace);
        for name in names {
            let NameEntry { operator, law, .. } = self.index.entry(name);
            if operator.is_none() && law.is_none() {
                continue;
            }
            let name = NameEntry { operator, law, ..subject.name };
            let of = Subject { name, ..*subject };
            let enforced = self.walk_malformed(&of, claim, carrier, cause, &mut ());
            strictest = strictest.or_stricter(enforced);
        }
        strictest
    }

    /// The verdict, where nothing that can still be read may change it; `None` where it must be
    /// waited for. Protocol and ECH count as not read yet, and so does the name where the question
    /// has none; a name that it has is settled.
    #[must_use]
    pub fn decide_unread(&self, question: &Question<'_>) -> Option<Verdict> {
        let target = target(question.destination.ip());
        let subject = self.subject(question, target);
        if let Some(reason) = self.guard(&target, question.destination.port()) {
            let enforced = Enforced::by(Action::Block, reason);
            return Some(self.verdict(question, subject.client, enforced, true));
        }
        let name_open = question.name.host().is_none();
        // A hello with ECH is refused, or loses its name, whatever else is known of it.
        let ech_matters = match self.ech {
            Ech::Claim => false,
            Ech::Unread => !name_open,
            Ech::Block => true,
        };
        if ech_matters || (name_open && !self.index.names.operators.is_empty()) {
            return None;
        }
        let subject = self.named(subject, question.name, false);
        let transport = question.transport as usize;
        let carriers = &self.index.carriers;
        let (any, every) = (*carriers.any.get(transport)?, *carriers.every.get(transport)?);
        let profile = self.profile(subject.client)?;
        if name_open && self.possible(&subject, profile, any, every).is_turned_by_law() {
            return None;
        }
        let mut from = 0;
        while let Some(position) =
            self.index.first(&self.address_table, &subject, any, subject.name.rules, from)
        {
            let rule = self.index.rules.get(position)?;
            if !self.index.sets.contains(every, position) || (name_open && rule.has_host) {
                return None;
            }
            if !rule.needs_binding() || subject.bound {
                break;
            }
            from = position + 1;
        }
        Some(self.decide(question))
    }

    /// Loop and guards: what nothing opens, in `observe` too.
    #[inline(always)]
    pub(super) fn guard(&self, target: &Target, port: u16) -> Option<Reason> {
        #[cfg(test)]
        if self.opens_loopback && target.kind == AddressKind::Loop {
            return None;
        }
        if target.kind == AddressKind::Loop || self.own.hold(target, port) {
            return Some(Reason::Loop);
        }
        (target.kind == AddressKind::Guard).then_some(Reason::Guard)
    }

    #[inline(always)]
    pub(super) fn subject(&self, question: &Question<'_>, target: Target) -> Subject {
        let nobody = ClientClass { group: 0, from: self.index.kinds.nothing };
        Subject {
            client: self.clients.class(question.client).unwrap_or(nobody),
            class: self.address_table.class_of(target.judged),
            target,
            port: question.destination.port(),
            name: self.index.unknown_name(),
            bound: false,
        }
    }

    /// With what is known of the name. Its law is looked up where it could turn the answer, or where
    /// it is `told`: it is one look-up more for each label.
    #[inline(always)]
    fn named(&self, subject: Subject, name: Claim<'_>, told: bool) -> Subject {
        let Some(host) = name.host() else {
            return Subject {
                name: NameEntry { rules: self.index.kinds.with_host, ..self.index.unknown_name() },
                ..subject
            };
        };
        let bound = matches!(name, Claim::Bound(_)) || self.binding == Binding::Trust;
        let (NameRules { rules, operator }, law) = if told || self.is_turned_by_law(&subject) {
            let [known, law] = self.index.names.both(host);
            (self.index.name_rules(known), law.checked_sub(1))
        } else {
            let known = self.index.rules_of(host);
            // With an operator of its own the axes are weighed anew.
            (known, known.operator.and_then(|_| self.index.law_of(host)))
        };
        // An `[[operator]]` of the policy that is bound says all there is to say of the law.
        let law = law.filter(|_| !bound || operator.is_none());
        Subject { name: NameEntry { rules, operator, law }, bound, ..subject }
    }

    /// Whether a law that a name adds could turn what rules and axes come to for an address.
    #[inline(always)]
    fn is_turned_by_law(&self, subject: &Subject) -> bool {
        let index = self.clients.group(subject.client).profile;
        self.index.asks_law
            || self.axes.profile(index).is_none_or(|profile| {
                law_may_turn(profile, self.axes.of_class(index, subject.class))
            })
    }

    /// What a client's group permits.
    #[inline(always)]
    pub(super) fn profile(&self, client: ClientClass) -> Option<&Profile> {
        self.axes.profile(self.clients.group(client).profile)
    }

    /// [`Policy::walk`] apart from that of everybody else, so that theirs is without the cause.
    #[inline(never)]
    fn walk_malformed(
        &self,
        subject: &Subject,
        name: Claim<'_>,
        carrier: SetId,
        malformed: Option<Action>,
        trace: &mut impl Trace,
    ) -> Enforced {
        self.walk(subject, name, carrier, malformed, trace)
    }

    /// Rules, then axes. `malformed`: what that cause leads to, where it holds; weighed before the first
    /// rule by name, or else before the axes.
    #[inline(always)]
    fn walk(
        &self,
        subject: &Subject,
        name: Claim<'_>,
        carrier: SetId,
        mut malformed: Option<Action>,
        trace: &mut impl Trace,
    ) -> Enforced {
        let Some(profile) = self.profile(subject.client) else {
            return Enforced::by(Action::Block, Reason::Overload);
        };
        let mut floor = None;
        let mut from = 0;
        let mut names = subject.name.rules;
        while let Some(position) =
            self.index.first(&self.address_table, subject, carrier, names, from)
        {
            from = position + 1;
            let Some(rule) = self.index.rules.get(position) else { break };
            let id = RuleId(u32::try_from(position).unwrap_or(u32::MAX));
            // A name may also say whose law reaches the holder: then it may turn each rule from the
            // first one on that asks for that.
            if (rule.has_host || position >= self.index.asking)
                && let Some(action) = malformed.take()
            {
                trace.step(Step::Cause(Reason::Malformed, action, Some(id)));
                match action {
                    Action::Block => return Enforced::by(Action::Block, Reason::Malformed),
                    Action::Log => floor = floor.or(Some(Reason::Malformed)),
                    Action::Allow => {}
                }
            }
            let cause = match name {
                // Where two names were read, a block rule matches on either.
                Claim::Malformed(names)
                    if rule.has_host
                        && rule.action == Action::Block
                        && self.index.hosts(position, names) =>
                {
                    None
                }
                Claim::Unread | Claim::Malformed(_) if rule.has_host => {
                    Some((Reason::Unread, profile.on.unread))
                }
                Claim::Claimed(_) if rule.needs_binding() && !subject.bound => {
                    Some((Reason::Mismatch, profile.on.mismatch))
                }
                Claim::Unread | Claim::Malformed(_) | Claim::Claimed(_) | Claim::Bound(_) => None,
            };
            let Some((reason, action)) = cause else {
                trace.step(Step::Rule(id, rule.action));
                let decided = Enforced { action: rule.action, reason: rule.reason, rule: Some(id) };
                return under(floor, decided, trace);
            };
            trace.step(Step::Cause(reason, action, Some(id)));
            match action {
                Action::Block => return Enforced::by(Action::Block, reason),
                Action::Log => floor = floor.or(Some(reason)),
                Action::Allow => {}
            }
            // Every further rule with a host comes to the same where no name was read: once is
            // enough, unless each step is to be told.
            let nameless = matches!(name, Claim::Unread | Claim::Malformed([]));
            if nameless && !trace.listens() {
                names = self.index.kinds.nothing;
            }
        }
        if let Some(action) = malformed {
            trace.step(Step::Cause(Reason::Malformed, action, None));
            match action {
                Action::Block => return Enforced::by(Action::Block, Reason::Malformed),
                Action::Log => floor = floor.or(Some(Reason::Malformed)),
                Action::Allow => {}
            }
        }
        let (action, reason) = self.axes(subject, trace);
        under(floor, Enforced::by(action, reason), trace)
    }

    #[inline(always)]
    pub(super) fn axes(&self, subject: &Subject, trace: &mut impl Trace) -> (Action, Reason) {
        if subject.name.operator.is_none() && subject.name.law.is_none() && !trace.listens() {
            return self.axes.of_class(self.clients.group(subject.client).profile, subject.class);
        }
        self.axes_weighed(subject, trace)
    }

    /// As [`Policy::axes`], where they are not known ahead, or each cause is told.
    #[inline(never)]
    fn axes_weighed(&self, subject: &Subject, trace: &mut impl Trace) -> (Action, Reason) {
        let profile = self.clients.group(subject.client).profile;
        let NameEntry { operator: named, law: name_law, .. } = subject.name;
        let named = named.and_then(|at| self.address_table.operators().get(at as usize));
        let add = |facts: &mut Facts<'_>| {
            if let Some(operator) = named {
                if subject.bound {
                    facts.homes = operator.homes;
                    facts.operator_known = true;
                } else {
                    facts.homes |= operator.homes;
                }
            }
            if let Some(law) = name_law.and_then(|law| self.index.law(law)) {
                facts.homes |= law.homes;
            }
        };
        let heard = |reason, action| trace.step(Step::Cause(reason, action, None));
        self.axes.weighed(&self.address_table, (profile, subject.class), add, heard)
    }

    fn verdict(
        &self,
        question: &Question<'_>,
        client: ClientClass,
        enforced: Enforced,
        guard: bool,
    ) -> Verdict {
        let mode = self.clients.group(client).mode;
        let would = match mode {
            Mode::Observe => Some(enforced.action),
            Mode::Enforce => None,
        };
        let action = match (mode, enforced.action) {
            (Mode::Observe, Action::Block) if !guard => Action::Log,
            (_, action) => action,
        };
        let ip = canonical(question.destination.ip());
        Verdict {
            action,
            reason: enforced.reason,
            rule: enforced.rule,
            would,
            group: GroupId(client.group),
            mode,
            destination: SocketAddr::new(ip, question.destination.port()),
        }
    }
}

/// What stands once a cause has said `log`: nothing is merely allowed any more.
fn under(floor: Option<Reason>, enforced: Enforced, trace: &mut impl Trace) -> Enforced {
    match (floor, enforced.action) {
        (Some(reason), Action::Allow) => {
            trace.step(Step::Floor(reason));
            Enforced::by(Action::Log, reason)
        }
        _ => enforced,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;
    use crate::policy::Transport;

    #[test]
    fn each_own_address_is_a_loop_in_every_form_and_its_neighbours_are_not() {
        let policy = Fixture::new()
            .own("203.0.113.7", None)
            .own("2001:db8::a:7", None)
            .own("64:ff9b::c633:6409", None)
            .own("198.51.100.200", Some(53))
            .policy();
        for (to, is_loop) in [
            ("203.0.113.7:443", true),
            ("[::ffff:203.0.113.7]:1", true),
            ("[2002:cb00:7107::1]:443", true),
            ("[64:ff9b::203.0.113.7]:443", true),
            ("203.0.113.8:443", false),
            ("203.0.114.7:443", false),
            ("[2001:db8::a:7]:443", true),
            ("[2001:db8::b:7]:443", false),
            ("[64:ff9b::198.51.100.9]:443", true),
            ("198.51.100.9:443", false),
            ("198.51.100.200:53", true),
            ("[::ffff:198.51.100.200]:53", true),
            ("198.51.100.200:54", false),
            ("198.51.100.201:53", false),
        ] {
            let verdict = policy.decide(&Question {
                client: None,
                destination: to.parse().unwrap(),
                transport: Transport::Tcp,
                protocol: Protocol::Other,
                name: Claim::Unread,
                ech: false,
            });
            assert_eq!(verdict.reason() == Reason::Loop, is_loop, "{to}: {verdict:?}");
        }
    }
}
