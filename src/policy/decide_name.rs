//! The judgement of a name alone, before any address is known: where it refuses, no query for the
//! name has to leave, and a query carries bytes of the client out.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::clients::{ClientClass, GroupState};
use super::compile::carriers_of;
use super::rule_index::NameEntry;
use super::rule_set::SetId;
use super::{Action, GroupId, Mode, Policy, Question, Reason, RuleId, Transport, Verdict};

/// What the name alone settles.
struct Settled {
    reason: Reason,
    rule: Option<RuleId>,
}

impl Policy {
    /// The refusal, where [`Policy::decide`] refuses every address that the question's name could
    /// be bound to; `None` where some address might pass, where the client is only observed, or
    /// where that cannot be told from the name. Of the destination, the port alone is looked at.
    ///
    /// The verdict's destination is the port under `::`: nothing was resolved, and nothing may be
    /// dialled. Pure; allocates nothing.
    #[must_use]
    pub fn decide_name(&self, question: &Question<'_>) -> Option<Verdict> {
        // A hello with ECH may lose its name (`[names] ech`); an explicit request has no hello yet.
        let name = question.name.host().filter(|_| !question.ech)?;
        let client = self.clients.class(question.client)?;
        let group = self.clients.group(client);
        if group.mode == Mode::Observe {
            return None;
        }
        let NameEntry { rules, operator, law } = self.index.entry(name);
        let settled = match self.refused_by_rule(question, client, rules, operator) {
            Walk::Refused(rule) => Settled { reason: Reason::Rule, rule: Some(rule) },
            Walk::Possible => return None,
            Walk::NoRule => {
                Settled { reason: self.refused_by_law(group, operator, law)?, rule: None }
            }
        };
        let nowhere = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        Some(Verdict {
            action: Action::Block,
            reason: settled.reason,
            rule: settled.rule,
            would: None,
            group: GroupId(client.group),
            mode: group.mode,
            destination: SocketAddr::new(nowhere, question.destination.port()),
        })
    }

    /// What is noted of a question about a name that [`Policy::refuses_name`] lets pass, to a name
    /// server of this host (the destination): it is no destination that could be refused, and what
    /// that server asks of others is judged there.
    #[must_use]
    pub fn asks_here(&self, question: &Question<'_>) -> Verdict {
        if let Some(refused) = self.refuses_name(question) {
            return refused;
        }
        let group = self.clients.class(question.client).map_or(0, |client| client.group);
        let mode =
            self.clients.groups.get(group as usize).map_or(Mode::Enforce, |group| group.mode);
        Verdict {
            action: Action::Allow,
            reason: Reason::Permitted,
            rule: None,
            would: None,
            group: GroupId(group),
            mode,
            destination: question.destination,
        }
    }

    /// As [`Policy::decide_name`], where that refuses the name on every port and over every protocol:
    /// what a name server, which hears of neither, may refuse.
    #[must_use]
    pub fn refuses_name(&self, question: &Question<'_>) -> Option<Verdict> {
        let verdict = self.decide_name(question)?;
        self.everywhere(question).all(|it| self.decide_name(&it).is_some()).then_some(verdict)
    }

    /// The refusal of an address, where [`Policy::decide`] refuses it on every port and over every
    /// protocol.
    #[must_use]
    pub fn refuses_address(&self, question: &Question<'_>) -> Option<Verdict> {
        let blocks = |verdict: &Verdict| verdict.action() == Action::Block;
        let verdict = Some(self.decide(question)).filter(blocks)?;
        self.everywhere(question).all(|it| blocks(&self.decide(&it))).then_some(verdict)
    }

    /// The question on one port of each class, over every transport and protocol.
    fn everywhere<'a>(&self, question: &Question<'a>) -> impl Iterator<Item = Question<'a>> {
        let question = *question;
        let ip = question.destination.ip();
        let over = [Transport::Tcp, Transport::Udp].into_iter().flat_map(|transport| {
            carriers_of(transport).iter().map(move |&protocol| (transport, protocol))
        });
        self.index.ports.samples.iter().flat_map(move |&port| {
            over.clone().map(move |(transport, protocol)| Question {
                destination: SocketAddr::new(ip, port),
                transport,
                protocol,
                ..question
            })
        })
    }

    /// What `[policy.on] mismatch` leads to for the clients of a group.
    #[must_use]
    pub fn on_mismatch(&self, group: GroupId) -> Action {
        let group = self.clients.groups.get(group.0 as usize);
        let profile = group.and_then(|group| self.axes.profile(group.profile));
        profile.map_or(Action::Block, |profile| profile.on.mismatch)
    }

    /// Walks the rules that some address may match, in order, to the first that settles it.
    fn refused_by_rule(
        &self,
        question: &Question<'_>,
        client: ClientClass,
        names: SetId,
        operator: Option<u32>,
    ) -> Walk {
        let port = self.index.port(question.destination.port());
        let carried = self.index.carried(question.transport, question.protocol);
        let (Some(port), Some(carried)) = (port, carried) else { return Walk::Possible };
        let mut from = 0;
        while let Some(position) = self.index.first_anywhere(client, port, carried, names, from) {
            let Some(rule) = self.index.rules.get(position) else { return Walk::Possible };
            if rule.action != Action::Block {
                return Walk::Possible;
            }
            if self.index.holds_everywhere(position, operator) {
                return Walk::Refused(RuleId(u32::try_from(position).unwrap_or(u32::MAX)));
            }
            // A block rule about some addresses takes them out, and says nothing of the others.
            from = position + 1;
        }
        Walk::NoRule
    }

    /// Where no rule is in the way, the law of the name's own operator, or else the law that the name
    /// adds, reaches every address of it. Private ones have a cause of their own, which must refuse
    /// as well.
    fn refused_by_law(
        &self,
        group: &GroupState,
        operator: Option<u32>,
        law: Option<u32>,
    ) -> Option<Reason> {
        let homes = match operator {
            Some(operator) => self.address_table.operators().get(operator as usize)?.homes,
            None => self.index.law(law?)?.homes,
        };
        let profile = self.axes.profile(group.profile)?;
        let blocks = profile.on.law == Action::Block && profile.on.private == Action::Block;
        let foreign = !homes.is_subset(profile.permit_law?);
        (blocks && foreign).then_some(Reason::Law)
    }
}

enum Walk {
    /// Every address is refused, by this rule at the latest.
    Refused(RuleId),
    /// Some address might be let through by a rule.
    Possible,
    /// No rule settles it: the axes decide.
    NoRule,
}
