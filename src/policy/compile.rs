//! Blueprint -> policy: each condition becomes sets of rules, one a class of what it looks at.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::address::canonical;
use super::address_table::{AddressTable, Class, Location, Operator, leads};
use super::axes::{AxesTable, Profile};
use super::blueprint::{Blueprint, FromSpec, GroupSpec, RuleSpec};
use super::clients::{ClientClass, ClientIndex, GroupState};
use super::flatten::{AddressBits, flatten_prefixes};
use super::host_list::HostList;
use super::ip_table::{IpTable, Memory};
use super::name_table::NameTable;
use super::own::OwnAddresses;
use super::rule_index::{
    CarrierSets, ClassRules, KindSets, NameIndex, NameLaw, NameRules, OperatorRules, PortIndex,
    RuleIndex, RuleState,
};
use super::rule_set::{Bits, RuleSetsBuilder, SetId};
use super::{Action, AddressKind, CountrySet, Policy, Reason, Terms, Transport};
use crate::identify::{HostName, Protocol};

/// Position of a protocol among the carriers; DTLS counts as `other`.
pub(super) const fn carrier(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Tls => 0,
        Protocol::Quic => 1,
        Protocol::Http => 2,
        Protocol::Dtls | Protocol::Other => 3,
    }
}

/// Which protocols may still turn out to run over a transport.
pub(super) const fn carriers_of(transport: Transport) -> &'static [Protocol] {
    match transport {
        Transport::Tcp => &[Protocol::Tls, Protocol::Http, Protocol::Other],
        Transport::Udp => &[Protocol::Quic, Protocol::Other],
    }
}

impl Policy {
    /// Compiles a blueprint.
    #[must_use]
    pub fn build(blueprint: Blueprint) -> Self {
        let Blueprint { groups, rules, address_table, .. } = &blueprint;
        let mut build = Build { rules, sets: RuleSetsBuilder::new(rules.len()) };
        let (table, classes) = build.clients(groups);
        let (profiles, groups) = profiles(groups);
        let axes = AxesTable::build(address_table, profiles, &blueprint.stale);
        let index = build.index(&blueprint);
        Self {
            terms: Terms {
                version: blueprint.version,
                valid_until_ms: blueprint.valid_until_ms,
                contact: blueprint.contact,
                ask_url: blueprint.ask_url,
                grace: blueprint.grace,
            },
            own: OwnAddresses::new(&blueprint.own, &blueprint.own_ports),
            binding: blueprint.binding,
            ech: blueprint.ech,
            address_table: blueprint.address_table,
            clients: ClientIndex { table, classes, groups },
            index,
            axes,
            #[cfg(test)]
            opens_loopback: false,
        }
    }
}

/// A block rule that asks neither where the address is nor which it is.
fn is_unplaced_block(rule: &RuleSpec) -> bool {
    rule.action == Action::Block
        && !rule.to
        && rule.location.is_none()
        && rule.asn.is_none()
        && rule.region.is_none()
}

fn carries(rule: &RuleSpec, transport: Transport, protocol: Protocol) -> bool {
    rule.active
        && rule.transport.as_ref().is_none_or(|list| list.contains(&transport))
        && rule
            .protocol
            .as_ref()
            .is_none_or(|list| list.iter().any(|&listed| carrier(listed) == carrier(protocol)))
}

impl RuleState {
    fn of(rule: &RuleSpec) -> Self {
        Self {
            name: rule.name.clone(),
            basis: rule.basis.clone(),
            action: rule.action,
            reason: if rule.waiver && rule.action != Action::Block {
                Reason::Waiver
            } else {
                Reason::Rule
            },
            has_host: rule.host.is_some(),
        }
    }
}

struct Build<'a> {
    rules: &'a [RuleSpec],
    sets: RuleSetsBuilder,
}

impl Build<'_> {
    /// Every look-up of rules.
    fn index(mut self, blueprint: &Blueprint) -> RuleIndex {
        let ports = self.ports();
        let names = self.names(&blueprint.host_operators, &blueprint.host_laws);
        let carriers = self.carriers();
        let (classes, operators) = self.classes(&blueprint.address_table);
        let kinds = self.kinds();
        RuleIndex {
            rules: self.rules.iter().map(RuleState::of).collect(),
            classes,
            operators,
            ports,
            names,
            carriers,
            kinds,
            asking: self.rules.iter().position(asks_operator).unwrap_or(usize::MAX),
            asks_law: self.rules.iter().any(|rule| rule.law.is_some()),
            sets: self.sets.finish(),
        }
    }

    fn carriers(&mut self) -> CarrierSets {
        const BOTH: [Transport; 2] = [Transport::Tcp, Transport::Udp];
        let each = BOTH.map(|transport| {
            [Protocol::Tls, Protocol::Quic, Protocol::Http, Protocol::Other]
                .map(|protocol| self.set(|rule| carries(rule, transport, protocol)))
        });
        let any = BOTH.map(|transport| {
            self.set(|rule| carriers_of(transport).iter().any(|&p| carries(rule, transport, p)))
        });
        let every = BOTH.map(|transport| {
            self.set(|rule| carriers_of(transport).iter().all(|&p| carries(rule, transport, p)))
        });
        CarrierSets { each, any, every }
    }

    fn kinds(&mut self) -> KindSets {
        KindSets {
            everything: self.set(|_| true),
            nothing: self.set(|_| false),
            hostless: self.set(|rule| rule.host.is_none()),
            with_host: self.set(|rule| rule.host.is_some()),
            hosted: Action::ALL
                .map(|action| self.set(|rule| rule.host.is_some() && rule.action == action)),
            fromless: self.set(|rule| rule.from.is_none()),
            toless: self.set(|rule| !rule.to),
            loose: self.set(|rule| rule.host.is_none() && rule.from.is_none() && !rule.to),
            block: self.set(|rule| rule.action == Action::Block),
            addressless: self.set(|rule| {
                is_unplaced_block(rule) && rule.operator.is_none() && rule.law.is_none()
            }),
            unplaced: self.set(is_unplaced_block),
        }
    }

    fn bits(&self, member: impl Fn(&RuleSpec) -> bool) -> Bits {
        let rules = self.rules.iter().enumerate();
        Bits::collect(self.rules.len(), rules.filter(|(_, rule)| member(rule)).map(|(i, _)| i))
    }

    fn set(&mut self, member: impl Fn(&RuleSpec) -> bool) -> SetId {
        let bits = self.bits(member);
        self.sets.intern(&bits)
    }

    /// Client address -> group and `from` set. Class 0 is a client that nothing names.
    fn clients(&mut self, groups: &[GroupSpec]) -> (IpTable, Box<[ClientClass]>) {
        let mut v4 = Vec::new();
        let mut v6 = Vec::new();
        let mut add =
            |(address, length): (IpAddr, u8), mark: Mark| match canonical_net(address, length) {
                (IpAddr::V4(net), len) => {
                    let first = net.to_bits();
                    v4.push((first, first | u32::MAX.checked_shr(len.into()).unwrap_or(0), mark));
                }
                (IpAddr::V6(net), len) => {
                    let first = net.to_bits();
                    v6.push((first, first | u128::MAX.checked_shr(len.into()).unwrap_or(0), mark));
                }
            };
        for (index, group) in groups.iter().enumerate() {
            group.clients.iter().for_each(|&net| add(net, Mark::Group(index)));
        }
        for (index, rule) in self.rules.iter().enumerate() {
            for from in rule.from.iter().flatten() {
                if let FromSpec::Net(address, length) = *from {
                    add((address, length), Mark::Rule(index));
                }
            }
        }
        // What each group names, once: 10,000 prefixes times 10,000 rules is too much.
        let of_group = |group: Option<usize>| {
            self.bits(|rule| {
                let named =
                    |from: &FromSpec| matches!(from, FromSpec::Group(at) if Some(*at) == group);
                rule.from.iter().flatten().any(named)
            })
        };
        let by_group: Vec<Bits> = (0..groups.len()).map(|at| of_group(Some(at))).collect();
        let unnamed = self.client_class(&[], &by_group);
        let mut classes = vec![unnamed];
        let mut known = HashMap::from([(unnamed, 0_u32)]);
        let v4 = self.client_ranges(v4, &by_group, &mut classes, &mut known);
        let v6 = self.client_ranges(v6, &by_group, &mut classes, &mut known);
        (IpTable::build(&v4, &v6, Memory::Compact), classes.into())
    }

    fn client_ranges<A: AddressBits>(
        &mut self,
        prefixes: Vec<(A, A, Mark)>,
        by_group: &[Bits],
        classes: &mut Vec<ClientClass>,
        known: &mut HashMap<ClientClass, u32>,
    ) -> Vec<(A, u32)> {
        let mut ranges = Vec::new();
        for (start, marks) in flatten_prefixes(prefixes) {
            let class = self.client_class(&marks, by_group);
            let index = *known.entry(class).or_insert_with(|| {
                classes.push(class);
                index_of(classes.len() - 1)
            });
            ranges.push((start, index));
        }
        ranges
    }

    /// The class of a client in these prefixes, outermost first.
    fn client_class(&mut self, marks: &[Mark], by_group: &[Bits]) -> ClientClass {
        let group = marks.iter().rev().find_map(|mark| match mark {
            Mark::Group(index) => Some(*index),
            Mark::Rule(_) => None,
        });
        let mut bits = group.and_then(|group| by_group.get(group)).cloned();
        let bits = bits.get_or_insert_with(|| Bits::new(self.rules.len()));
        for mark in marks {
            if let Mark::Rule(index) = *mark {
                bits.insert(index);
            }
        }
        ClientClass { group: index_of(group.unwrap_or(0)), from: self.sets.intern(bits) }
    }

    /// Ports -> classes; the set of each class, and one port of it.
    fn ports(&mut self) -> PortIndex {
        let mut edges: Vec<u32> = vec![0];
        for range in self.rules.iter().filter_map(|rule| rule.port.as_ref()).flatten() {
            edges.extend([u32::from(*range.start()), u32::from(*range.end()) + 1]);
        }
        edges.sort_unstable();
        edges.dedup();
        edges.retain(|&edge| edge <= u32::from(u16::MAX));
        let mut classes = Vec::with_capacity(65_536);
        let mut sets: Vec<SetId> = Vec::new();
        let mut samples = Vec::new();
        for (at, &edge) in edges.iter().enumerate() {
            let port = edge as u16;
            let set = self.set(|rule| {
                rule.port.as_ref().is_none_or(|list| list.iter().any(|range| range.contains(&port)))
            });
            let class = sets.iter().position(|&known| known == set).unwrap_or_else(|| {
                sets.push(set);
                samples.push(port);
                sets.len() - 1
            });
            let end = edges.get(at + 1).map_or(65_536, |&next| next as usize);
            classes.resize(end, u16::try_from(class).unwrap_or(u16::MAX));
        }
        PortIndex { classes: classes.into(), sets: sets.into(), samples: samples.into() }
    }

    /// Names, and those below them, -> one more than the index of the law that they add.
    fn name_laws(&mut self, laws: &[(HostName, CountrySet)]) -> (NameTable, Box<[NameLaw]>) {
        let mut name_laws: Vec<NameLaw> = Vec::new();
        let mut values: HashMap<&str, u32> = HashMap::with_capacity(laws.len());
        for (suffix, homes) in laws {
            let law = name_laws.iter().position(|law| law.homes == *homes).unwrap_or_else(|| {
                let bits = self.law_bits(true, *homes);
                name_laws.push(NameLaw { homes: *homes, rules: self.sets.intern(&bits) });
                name_laws.len() - 1
            });
            values.insert(suffix.as_str(), index_of(law + 1));
        }
        let both = |(&name, &value)| [(name, false, value), (name, true, value)];
        let patterns: Vec<_> = values.iter().flat_map(both).collect();
        (NameTable::build(patterns.into_iter()), name_laws.into())
    }

    /// What is known of names: what the policy file says of them, and the law that they add.
    fn names(
        &mut self,
        operators: &[(HostName, bool, u32)],
        laws: &[(HostName, CountrySet)],
    ) -> NameIndex {
        let (table, rules) = self.name_rules(operators);
        let (law_table, laws) = self.name_laws(laws);
        let mut operators: Vec<u32> = operators.iter().map(|&(_, _, operator)| operator).collect();
        operators.sort_unstable();
        operators.dedup();
        NameIndex { table, rules, operators: operators.into(), law_table, laws }
    }

    /// Names -> what the policy file says of them. Entry 0 is a name that no pattern knows.
    fn name_rules(&mut self, operators: &[(HostName, bool, u32)]) -> (NameTable, Box<[NameRules]>) {
        let mut lists = RuleLists::new();
        let patterns = || self.rules.iter().map(|rule| rule.host.iter().flat_map(HostList::iter));
        let count = patterns().flatten().filter(|host| !host.below).count();
        // The rules and the operator that each pattern is of, by itself: names, and `*.` names.
        let mut exact: HashMap<&str, Own> = HashMap::with_capacity(count);
        let mut below: HashMap<&str, Own> = HashMap::new();
        for (rule, hosts) in patterns().enumerate() {
            for host in hosts {
                let own = if host.below { &mut below } else { &mut exact };
                let own = own.entry(host.name).or_default();
                own.rules = lists.with(own.rules, index_of(rule));
            }
        }
        for (name, is_below, operator) in operators {
            let own = if *is_below { &mut below } else { &mut exact };
            own.entry(name.as_str()).or_default().operator = Some(*operator);
        }
        let mut entries = vec![NameRules { rules: self.set(|_| false), operator: None }];
        let mut known: HashMap<Own, u32> = HashMap::new();
        let depths = below.keys().fold(0, |depths, name| depths | depth_bit(name));
        let mut value = |name: &str, own: Own| {
            let mut own = own;
            for suffix in suffixes(name, depths) {
                if let Some(wider) = below.get(suffix) {
                    own.rules = lists.union(own.rules, wider.rules);
                    own.operator = own.operator.or(wider.operator);
                }
            }
            *known.entry(own).or_insert_with(|| {
                let rules = lists.rules(own.rules).iter().map(|&rule| rule as usize);
                let bits = Bits::collect(self.rules.len(), rules);
                let rules = self.sets.intern(&bits);
                entries.push(NameRules { rules, operator: own.operator });
                index_of(entries.len() - 1)
            })
        };
        let mut patterns = Vec::with_capacity(exact.len() + below.len());
        patterns.extend(exact.iter().map(|(&name, &own)| (name, false, value(name, own))));
        patterns.extend(below.iter().map(|(&name, &own)| (name, true, value(name, own))));
        (NameTable::build(patterns.into_iter()), entries.into())
    }

    /// Class of addresses -> sets.
    fn classes(
        &mut self,
        address_table: &AddressTable,
    ) -> (Box<[ClassRules]>, Box<[OperatorRules]>) {
        let everything = self.bits(|_| true);
        let blocks = self.bits(|rule| rule.action == Action::Block);
        let opens_special = self.bits(|rule| rule.action == Action::Block || rule.to);
        let places: Vec<_> = address_table
            .locations()
            .iter()
            .map(|at| self.location_bits(address_table, at))
            .collect();
        let place_laws: Vec<_> = address_table
            .locations()
            .iter()
            .map(|at| self.law_bits(at.is_known(), at.codes))
            .collect();
        let operators: Vec<_> =
            address_table.operators().iter().map(|op| self.operator_bits(op)).collect();
        let home_laws: Vec<_> = address_table
            .operators()
            .iter()
            .map(|op| self.law_bits(op.is_known(), op.homes))
            .collect();
        let nobody = self.set(|_| false);
        let rules = self.rules.iter().enumerate();
        let with_to: Vec<usize> = rules.filter(|(_, rule)| rule.to).map(|(at, _)| at).collect();
        let to_sets: Vec<_> =
            address_table.to_sets().iter().map(|set| self.listed_set(set, &with_to)).collect();
        // Most AS numbers are in no rule: they share one set, and so do the classes that differ in
        // nothing else, of which a full AS table makes a hundred thousand.
        let listed: HashSet<u32> =
            self.rules.iter().flat_map(|rule| rule.asn.iter().flatten().copied()).collect();
        let of_asn =
            |asn: u32| self.bits(|rule| rule.asn.as_ref().is_none_or(|list| list.contains(&asn)));
        let unlisted = self.bits(|rule| rule.asn.is_none());
        let asns: HashMap<u32, Bits> = listed.iter().map(|&asn| (asn, of_asn(asn))).collect();
        let at =
            |list: &[Bits], index: u32| list.get(index as usize).unwrap_or(&everything).clone();
        let mut known: HashMap<Class, ClassRules> = HashMap::new();
        let mut classes = Vec::with_capacity(address_table.classes().len());
        for class in address_table.classes() {
            let asn = if listed.contains(&class.asn) { class.asn } else { 0 };
            let alike = Class { asn, ..*class };
            let rules = *known.entry(alike).or_insert_with(|| {
                let mut geo =
                    at(&places, class.location).and(asns.get(&class.asn).unwrap_or(&unlisted));
                let placed = address_table
                    .locations()
                    .get(class.location as usize)
                    .is_some_and(|at| at.placed);
                let open = [AddressKind::Ordinary, AddressKind::Unallocated];
                if !open.contains(&class.kind) && !placed {
                    geo = geo.and(&opens_special);
                }
                let (a, b) = (at(&place_laws, class.location), at(&home_laws, class.operator));
                let law = a.clone().and(&b).or(&a.or(&b).and(&blocks));
                let operator = at(&operators, class.operator);
                ClassRules {
                    all: self.sets.intern(&geo.clone().and(&operator).and(&law)),
                    geo: self.sets.intern(&geo),
                    to: to_sets.get(class.to as usize).copied().unwrap_or(nobody),
                    place_law: self.sets.intern(&at(&place_laws, class.location)),
                }
            });
            classes.push(rules);
        }
        let operators = operators.iter().zip(&home_laws).map(|(ids, laws)| OperatorRules {
            ids: self.sets.intern(ids),
            laws: self.sets.intern(laws),
        });
        (classes.into(), operators.collect())
    }

    fn location_bits(&self, address_table: &AddressTable, at: &Location) -> Bits {
        let regions: Vec<&str> = at
            .regions
            .iter()
            .filter_map(|&index| address_table.regions().get(index as usize))
            .map(String::as_str)
            .collect();
        self.bits(|rule| {
            let listed =
                |list: &Vec<String>, region: &&str| list.iter().any(|known| known == region);
            let (placed, regional) = match rule.action {
                Action::Block => (
                    rule.location.is_none_or(|set| at.codes.meets(set)),
                    rule.region
                        .as_ref()
                        .is_none_or(|list| regions.iter().any(|region| listed(list, region))),
                ),
                Action::Allow | Action::Log => (
                    rule.location.is_none_or(|set| at.is_known() && at.codes.is_subset(set)),
                    rule.region.as_ref().is_none_or(|list| {
                        !regions.is_empty() && regions.iter().all(|region| listed(list, region))
                    }),
                ),
            };
            placed && regional
        })
    }

    fn law_bits(&self, known: bool, codes: CountrySet) -> Bits {
        self.bits(|rule| match rule.action {
            Action::Block => rule.law.is_none_or(|set| codes.meets(set)),
            Action::Allow | Action::Log => rule.law.is_none_or(|set| known && codes.is_subset(set)),
        })
    }

    fn operator_bits(&self, operator: &Operator) -> Bits {
        let id = operator.id.as_str();
        self.bits(|rule| match (&rule.operator, rule.action) {
            (None, _) => true,
            (Some(_), _) if id.is_empty() => false,
            (Some(list), Action::Block) => list.iter().any(|words| leads(words, id)),
            (Some(list), Action::Allow | Action::Log) => list.iter().any(|listed| listed == id),
        })
    }

    /// The rules whose `to` holds, listed by their positions in `with_to`.
    fn listed_set(&mut self, listed: &[u32], with_to: &[usize]) -> SetId {
        let rules = listed.iter().filter_map(|&at| with_to.get(at as usize).copied());
        let bits = Bits::collect(self.rules.len(), rules);
        self.sets.intern(&bits)
    }
}

/// What a client prefix stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Group(usize),
    Rule(usize),
}

/// A prefix of IPv4-mapped addresses is the IPv4 prefix.
fn canonical_net(address: IpAddr, length: u8) -> (IpAddr, u8) {
    match (address, canonical(address)) {
        (IpAddr::V6(_), v4 @ IpAddr::V4(_)) if length >= 96 => (v4, length - 96),
        _ => (address, length),
    }
}

/// Every proper suffix of a name that begins at a label and has a number of labels that `depths`
/// holds, longest first.
fn suffixes(name: &str, depths: u128) -> impl Iterator<Item = &str> {
    let suffixes = name.match_indices('.').filter_map(|(dot, _)| name.get(dot + 1..));
    suffixes.filter(move |suffix| depths & depth_bit(suffix) != 0)
}

/// The bit that stands for a name's number of labels.
fn depth_bit(name: &str) -> u128 {
    1 << (name.bytes().filter(|&byte| byte == b'.').count() & 127)
}

/// Whether a rule has a condition about the operator or the law.
const fn asks_operator(rule: &RuleSpec) -> bool {
    rule.operator.is_some() || rule.law.is_some()
}

/// The rules (an index into [`RuleLists`]) and the operator of a pattern.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Own {
    rules: u32,
    operator: Option<u32>,
}

/// Lists of rules, each once, so that a million patterns of one rule share one.
struct RuleLists {
    lists: Vec<Box<[u32]>>,
    known: HashMap<Box<[u32]>, u32>,
    /// What a list with one rule more is, and what two lists make, where it was asked before.
    with: HashMap<(u32, u32), u32>,
    unions: HashMap<(u32, u32), u32>,
}

impl RuleLists {
    /// List 0 is the empty one.
    fn new() -> Self {
        let known = HashMap::from([(Box::default(), 0)]);
        Self { lists: vec![Box::default()], known, with: HashMap::new(), unions: HashMap::new() }
    }

    /// The rules of a list, ascending.
    fn rules(&self, list: u32) -> &[u32] {
        self.lists.get(list as usize).map_or(&[], |list| list)
    }

    /// The list of `list` and `rule`.
    fn with(&mut self, list: u32, rule: u32) -> u32 {
        if let Some(&known) = self.with.get(&(list, rule)) {
            return known;
        }
        let id = self.id([self.rules(list), &[rule]].concat());
        self.with.insert((list, rule), id);
        id
    }

    fn union(&mut self, a: u32, b: u32) -> u32 {
        if let Some(&known) = self.unions.get(&(a, b)) {
            return known;
        }
        let id = self.id([self.rules(a), self.rules(b)].concat());
        self.unions.insert((a, b), id);
        id
    }

    fn id(&mut self, mut rules: Vec<u32>) -> u32 {
        rules.sort_unstable();
        rules.dedup();
        let lists = &mut self.lists;
        *self.known.entry(rules.into()).or_insert_with_key(|rules| {
            lists.push(rules.clone());
            index_of(lists.len() - 1)
        })
    }
}

fn profiles(groups: &[GroupSpec]) -> (Vec<Profile>, Box<[GroupState]>) {
    let mut profiles: Vec<Profile> = Vec::new();
    let states = groups
        .iter()
        .map(|group| {
            let profile =
                Profile { permit: group.permit, permit_law: group.permit_law, on: group.on };
            let index = profiles.iter().position(|&known| known == profile).unwrap_or_else(|| {
                profiles.push(profile);
                profiles.len() - 1
            });
            GroupState { name: group.name.clone(), mode: group.mode, profile: index_of(index) }
        })
        .collect();
    (profiles, states)
}

fn index_of(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}
