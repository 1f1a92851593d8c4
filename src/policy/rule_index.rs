//! Which rules match: for each thing that a rule may ask about, the rules that each answer leaves
//! possible, as sets. What matches all is in all of them, and the first of these decides.

use super::address::Target;
use super::address_table::AddressTable;
use super::clients::ClientClass;
use super::compile::carrier;
use super::name_table::NameTable;
use super::rule_set::{Named, Question, RuleSets, SetId, Term};
use super::{Action, CountrySet, Reason, Transport};
use crate::identify::{HostName, Protocol};

/// The rules of a policy, and the sets of them that look-ups give.
#[derive(Debug)]
pub(super) struct RuleIndex {
    pub(super) rules: Box<[RuleState]>,
    pub(super) sets: RuleSets,
    /// For each class of the address table.
    pub(super) classes: Box<[ClassRules]>,
    /// For each operator of the address table.
    pub(super) operators: Box<[OperatorRules]>,
    pub(super) ports: PortIndex,
    pub(super) names: NameIndex,
    pub(super) carriers: CarrierSets,
    pub(super) kinds: KindSets,
    /// The first rule with a condition about the operator or the law; else [`usize::MAX`].
    pub(super) asking: usize,
    /// Some rule has a condition about the law.
    pub(super) asks_law: bool,
}

#[derive(Debug)]
pub(super) struct RuleState {
    pub(super) name: String,
    pub(super) basis: Option<String>,
    pub(super) action: Action,
    pub(super) reason: Reason,
    pub(super) has_host: bool,
}

impl RuleState {
    /// An allow or log rule by name holds only where the name is tied to the address.
    pub(super) fn needs_binding(&self) -> bool {
        self.has_host && self.action != Action::Block
    }
}

/// The rules that a class of addresses leaves possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ClassRules {
    /// By all but `to`, with the class's own operator: the common case, in one set.
    pub(super) all: SetId,
    /// By location, region and AS number.
    pub(super) geo: SetId,
    /// Those whose `to` holds.
    pub(super) to: SetId,
    /// By `law`, as far as the place decides it.
    pub(super) place_law: SetId,
}

/// The rules that an operator leaves possible.
#[derive(Debug, Clone, Copy)]
pub(super) struct OperatorRules {
    /// By `operator`.
    pub(super) ids: SetId,
    /// By `law`, as far as the operator's homes decide it.
    pub(super) laws: SetId,
}

/// Port -> class of ports -> the rules that it leaves possible.
#[derive(Debug)]
pub(super) struct PortIndex {
    /// The class of each port.
    pub(super) classes: Box<[u16]>,
    pub(super) sets: Box<[SetId]>,
    /// One port of each class.
    pub(super) samples: Box<[u16]>,
}

/// What is known of names.
#[derive(Debug)]
pub(super) struct NameIndex {
    pub(super) table: NameTable,
    /// For each value of `table`.
    pub(super) rules: Box<[NameRules]>,
    /// The operators that have hosts, each once.
    pub(super) operators: Box<[u32]>,
    /// The names that add a law, apart from those above: they are asked only where a law could turn
    /// the answer. One more than the index into `laws`.
    pub(super) law_table: NameTable,
    /// What names may add to the law, each set of homes once.
    pub(super) laws: Box<[NameLaw]>,
}

/// What the policy file says of a name.
#[derive(Debug, Clone, Copy)]
pub(super) struct NameRules {
    /// Rules whose `host` holds for the name.
    pub(super) rules: SetId,
    /// The `[[operator]]` that the name belongs to, as an index into the address table.
    pub(super) operator: Option<u32>,
}

/// What is known of a name.
#[derive(Debug, Clone, Copy)]
pub(super) struct NameEntry {
    /// Rules whose `host` holds for the name.
    pub(super) rules: SetId,
    /// The `[[operator]]` that the name belongs to, as an index into the address table.
    pub(super) operator: Option<u32>,
    /// What law the name adds, as an index into [`NameIndex::laws`].
    pub(super) law: Option<u32>,
}

/// The law that some names add.
#[derive(Debug, Clone, Copy)]
pub(super) struct NameLaw {
    pub(super) homes: CountrySet,
    /// Rules that these homes leave possible.
    pub(super) rules: SetId,
}

/// Rules in force, for each transport.
#[derive(Debug)]
pub(super) struct CarrierSets {
    /// Over each protocol.
    pub(super) each: [[SetId; 4]; 2],
    /// Over some protocol.
    pub(super) any: [SetId; 2],
    /// Over every one.
    pub(super) every: [SetId; 2],
}

/// Rules by what they ask about at all.
#[derive(Debug)]
pub(super) struct KindSets {
    pub(super) everything: SetId,
    pub(super) nothing: SetId,
    /// Rules without `host`, and with one.
    pub(super) hostless: SetId,
    pub(super) with_host: SetId,
    /// Rules with `host`, by what they do, in the order of [`Action::ALL`].
    pub(super) hosted: [SetId; 3],
    pub(super) fromless: SetId,
    pub(super) toless: SetId,
    /// Rules without `host`, `from` and `to`.
    pub(super) loose: SetId,
    pub(super) block: SetId,
    /// Block rules without a condition about the address, and those whose only ones are about the
    /// operator and its law.
    pub(super) addressless: SetId,
    pub(super) unplaced: SetId,
}

/// What the sets are looked up by, gathered once for a question.
#[derive(Clone, Copy)]
pub(super) struct Subject {
    pub(super) client: ClientClass,
    pub(super) class: usize,
    pub(super) target: Target,
    pub(super) port: u16,
    pub(super) name: NameEntry,
    pub(super) bound: bool,
}

impl NameIndex {
    /// What the policy file says of a name, and one more than the index of its law, in one pass over
    /// its labels.
    #[inline(always)]
    pub(super) fn both(&self, host: &HostName) -> [u32; 2] {
        NameTable::values([&self.table, &self.law_table], host)
    }
}

impl RuleIndex {
    /// The rules in force over a protocol.
    #[inline(always)]
    pub(super) fn carried(&self, transport: Transport, protocol: Protocol) -> Option<SetId> {
        self.carriers.each.get(transport as usize)?.get(carrier(protocol)).copied()
    }

    /// The rules that a port leaves possible.
    #[inline(always)]
    pub(super) fn port(&self, port: u16) -> Option<SetId> {
        let class = *self.ports.classes.get(usize::from(port))?;
        self.ports.sets.get(usize::from(class)).copied()
    }

    /// What a name that no pattern knows leaves possible.
    pub(super) const fn unknown_name(&self) -> NameEntry {
        NameEntry { rules: self.kinds.nothing, operator: None, law: None }
    }

    /// What some names add to the law.
    pub(super) fn law(&self, index: u32) -> Option<&NameLaw> {
        self.names.laws.get(index as usize)
    }

    /// What the policy file says of a name.
    #[inline]
    pub(super) fn rules_of(&self, host: &HostName) -> NameRules {
        self.name_rules(self.names.table.value(host))
    }

    /// What stands for a value of the names.
    #[inline]
    pub(super) fn name_rules(&self, value: u32) -> NameRules {
        let known = self.names.rules.get(value as usize).copied();
        known.unwrap_or(NameRules { rules: self.kinds.nothing, operator: None })
    }

    /// The law that a name adds, as an index into [`NameIndex::laws`].
    #[inline]
    pub(super) fn law_of(&self, host: &HostName) -> Option<u32> {
        self.names.law_table.value(host).checked_sub(1)
    }

    /// What is known of a name.
    pub(super) fn entry(&self, host: &HostName) -> NameEntry {
        let NameRules { rules, operator } = self.rules_of(host);
        NameEntry { rules, operator, law: self.law_of(host) }
    }

    /// Whether the `host` of a rule holds for one of the names.
    pub(super) fn hosts(&self, rule: usize, names: &[HostName]) -> bool {
        names.iter().any(|name| self.sets.contains(self.rules_of(name).rules, rule))
    }

    /// The lowest rule from `from` on whose conditions all hold; those with a `host` are the ones of
    /// `names`.
    #[inline(always)]
    pub(super) fn first(
        &self,
        table: &AddressTable,
        subject: &Subject,
        carrier: SetId,
        names: SetId,
        from: usize,
    ) -> Option<usize> {
        let name = Named { own: names, unasked: self.kinds.hostless };
        self.first_named(table, subject, carrier, name, from)
    }

    /// As [`RuleIndex::first`], where `name` says which rules with a `host` and which without are
    /// looked at.
    #[inline(always)]
    pub(super) fn first_named(
        &self,
        table: &AddressTable,
        subject: &Subject,
        carrier: SetId,
        name: Named,
        from: usize,
    ) -> Option<usize> {
        let class = self.classes.get(subject.class)?;
        let port = self.port(subject.port)?;
        let client = Named { own: subject.client.from, unasked: self.kinds.fromless };
        let to = Named { own: class.to, unasked: self.kinds.toless };
        let NameEntry { operator, law, .. } = subject.name;
        let law_counts = law.is_some() && self.asks_law;
        if subject.target.outer.is_none() && operator.is_none() && !law_counts {
            let others = [carrier, port, class.all];
            let question = Question { name, client, to, others, loose: self.kinds.loose };
            return self.sets.first(&question, from);
        }
        self.first_rare(table, subject, carrier, port, [name, client, to], from)
    }

    /// As [`RuleIndex::first_named`] of an embedded address, whose outer form `to` sees as well, or of
    /// a name that says whose the address is, or adds a law.
    #[inline(never)]
    fn first_rare(
        &self,
        table: &AddressTable,
        subject: &Subject,
        carrier: SetId,
        port: SetId,
        [name, client, to]: [Named; 3],
        from: usize,
    ) -> Option<usize> {
        let class = self.classes.get(subject.class)?;
        let NameEntry { operator: by_name, law: name_law, .. } = subject.name;
        let to = match subject.target.outer {
            Some(outer) => {
                let outer = self.classes.get(table.class_of(outer.into()))?;
                let toless = self.kinds.toless;
                Term::Fold([class.to, outer.to, toless, toless], self.kinds.everything)
            }
            None => Term::Named(to),
        };
        let operator_sets = |index: u32| self.operators.get(index as usize);
        let own = operator_sets(table.classes().get(subject.class)?.operator)?;
        let named = match by_name {
            Some(index) => operator_sets(index)?,
            None => own,
        };
        let own = if subject.bound && by_name.is_some() { named } else { own };
        let added = match name_law {
            Some(index) => self.law(index)?.rules,
            None => named.laws,
        };
        let either = self.kinds.block;
        let operator = Term::Fold([own.ids, named.ids, named.ids, named.ids], either);
        let law = Term::Fold([class.place_law, own.laws, named.laws, added], either);
        let [carrier, port, geo] = [carrier, port, class.geo].map(Term::Set);
        let [name, client] = [name, client].map(Term::Named);
        self.sets.first_of(&[carrier, client, port, name, geo, to, operator, law], from)
    }

    /// The lowest rule from `from` on that some address may match.
    pub(super) fn first_anywhere(
        &self,
        client: ClientClass,
        port: SetId,
        carrier: SetId,
        names: SetId,
        from: usize,
    ) -> Option<usize> {
        let client = Named { own: client.from, unasked: self.kinds.fromless };
        let name = Named { own: names, unasked: self.kinds.hostless };
        let [client, name] = [client, name].map(Term::Named);
        let terms = [Term::Set(carrier), client, Term::Set(port), name];
        self.sets.first_of(&terms, from)
    }

    /// Whether a block rule matches whatever the address is: it has no condition about it, or only
    /// such as the name's own operator meets (a block rule matches on any possibility).
    pub(super) fn holds_everywhere(&self, rule: usize, operator: Option<u32>) -> bool {
        match operator.and_then(|index| self.operators.get(index as usize)) {
            Some(of) => [self.kinds.unplaced, of.ids, of.laws]
                .iter()
                .all(|&set| self.sets.contains(set, rule)),
            None => self.sets.contains(self.kinds.addressless, rule),
        }
    }

    /// Bytes held by tables and sets.
    pub(super) fn bytes(&self) -> usize {
        self.sets.bytes()
            + self.names.table.bytes()
            + self.names.law_table.bytes()
            + size_of_val(&*self.classes)
            + size_of_val(&*self.ports.classes)
    }
}
