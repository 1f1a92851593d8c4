//! Blueprint -> policy: each condition becomes sets of rules, one a class of what it looks at.

use std::collections::HashMap;
use std::net::IpAddr;

use super::address::canonical;
use super::atlas::{Atlas, Class, Location, Operator};
use super::axes::{Facts, Profile, weigh};
use super::blueprint::{Blueprint, FromSpec, GroupSpec, RuleSpec};
use super::ip_table::IpTable;
use super::name_table::{NameTable, Pattern};
use super::nest::{AddressBits, nest};
use super::rule_set::{Bits, RuleSetsBuilder, SetId};
use super::{
    Action, ClassRules, ClientClass, GroupState, NameEntry, OperatorRules, Policy, Reason,
    RuleState, Standing, Transport,
};
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
const fn carriers_of(transport: Transport) -> &'static [Protocol] {
    match transport {
        Transport::Tcp => &[Protocol::Tls, Protocol::Http, Protocol::Other],
        Transport::Udp => &[Protocol::Quic, Protocol::Other],
    }
}

impl Policy {
    /// Compiles a blueprint.
    #[must_use]
    pub fn build(blueprint: Blueprint) -> Self {
        let Blueprint { groups, rules, atlas, stale, .. } = &blueprint;
        let mut build = Build { rules, sets: RuleSetsBuilder::new(rules.len()) };
        let (clients, client_classes) = build.clients(groups);
        let (port_classes, ports) = build.ports();
        let (names, name_entries) = build.names(&blueprint.host_operators);
        let carriers = [Transport::Tcp, Transport::Udp].map(|transport| {
            [Protocol::Tls, Protocol::Quic, Protocol::Http, Protocol::Other]
                .map(|protocol| build.set(|rule| carries(rule, transport, protocol)))
        });
        let any_carrier = [Transport::Tcp, Transport::Udp].map(|transport| {
            build.set(|rule| carriers_of(transport).iter().any(|&p| carries(rule, transport, p)))
        });
        let every_carrier = [Transport::Tcp, Transport::Udp].map(|transport| {
            build.set(|rule| carriers_of(transport).iter().all(|&p| carries(rule, transport, p)))
        });
        let (classes, operators) = build.classes(atlas);
        let (profiles, group_states) = profiles(groups);
        let axes = axes(atlas, &profiles, stale);
        let everything = build.set(|_| true);
        let block_rules = build.set(|rule| rule.action == Action::Block);
        let hostless = build.set(|rule| rule.host.is_none());
        let addressless = build
            .set(|rule| is_unplaced_block(rule) && rule.operator.is_none() && rule.law.is_none());
        let unplaced = build.set(is_unplaced_block);
        Self {
            rules: rules.iter().map(RuleState::of).collect(),
            sets: build.sets.finish(),
            clients,
            client_classes,
            port_classes,
            ports,
            names,
            name_entries,
            hostless,
            everything,
            block_rules,
            addressless,
            unplaced,
            carriers,
            any_carrier,
            every_carrier,
            classes,
            operators,
            profiles: profiles.into(),
            groups: group_states,
            axes,
            stale: stale.iter().copied().collect(),
            has_host_operators: !blueprint.host_operators.is_empty(),
            own: blueprint.own.iter().copied().map(canonical).collect(),
            own_ports: blueprint
                .own_ports
                .iter()
                .map(|&(ip, port)| (canonical(ip), port))
                .collect(),
            version: blueprint.version,
            valid_until_ms: blueprint.valid_until_ms,
            atlas: blueprint.atlas,
            binding: blueprint.binding,
            ech: blueprint.ech,
            contact: blueprint.contact,
            grace: blueprint.grace,
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
        let unnamed = self.client_class(&[]);
        let mut classes = vec![unnamed];
        let mut known = HashMap::from([(unnamed, 0_u32)]);
        let v4 = self.client_ranges(v4, &mut classes, &mut known);
        let v6 = self.client_ranges(v6, &mut classes, &mut known);
        (IpTable::build(&v4, &v6), classes.into())
    }

    fn client_ranges<A: AddressBits>(
        &mut self,
        prefixes: Vec<(A, A, Mark)>,
        classes: &mut Vec<ClientClass>,
        known: &mut HashMap<ClientClass, u32>,
    ) -> Vec<(A, u32)> {
        let mut ranges = Vec::new();
        for (start, marks) in nest(prefixes) {
            let class = self.client_class(&marks);
            let index = *known.entry(class).or_insert_with(|| {
                classes.push(class);
                index_of(classes.len() - 1)
            });
            ranges.push((start, index));
        }
        ranges
    }

    /// The class of a client in these prefixes, outermost first.
    fn client_class(&mut self, marks: &[Mark]) -> ClientClass {
        let group = marks.iter().rev().find_map(|mark| match mark {
            Mark::Group(index) => Some(*index),
            Mark::Rule(_) => None,
        });
        let named = |index: usize| marks.contains(&Mark::Rule(index));
        let bits = Bits::collect(
            self.rules.len(),
            self.rules.iter().enumerate().filter_map(|(index, rule)| {
                let in_group =
                    |from: &FromSpec| matches!(from, FromSpec::Group(g) if Some(*g) == group);
                let matches = match &rule.from {
                    None => true,
                    Some(from) => from.iter().any(in_group) || named(index),
                };
                matches.then_some(index)
            }),
        );
        ClientClass { group: index_of(group.unwrap_or(0)), from: self.sets.intern(&bits) }
    }

    /// Port -> class of port -> set.
    fn ports(&mut self) -> (Box<[u16]>, Box<[SetId]>) {
        let mut edges: Vec<u32> = vec![0];
        for range in self.rules.iter().filter_map(|rule| rule.port.as_ref()).flatten() {
            edges.extend([u32::from(*range.start()), u32::from(*range.end()) + 1]);
        }
        edges.sort_unstable();
        edges.dedup();
        edges.retain(|&edge| edge <= u32::from(u16::MAX));
        let mut classes = Vec::with_capacity(65_536);
        let mut sets: Vec<SetId> = Vec::new();
        for (at, &edge) in edges.iter().enumerate() {
            let port = edge as u16;
            let set = self.set(|rule| {
                rule.port.as_ref().is_none_or(|list| list.iter().any(|range| range.contains(&port)))
            });
            let class = sets.iter().position(|&known| known == set).unwrap_or_else(|| {
                sets.push(set);
                sets.len() - 1
            });
            let end = edges.get(at + 1).map_or(65_536, |&next| next as usize);
            classes.resize(end, u16::try_from(class).unwrap_or(u16::MAX));
        }
        (classes.into(), sets.into())
    }

    /// Names -> entries. Entry 0 is a name that no pattern knows.
    fn names(&mut self, operators: &[(HostName, bool, u32)]) -> (NameTable, Box<[NameEntry]>) {
        let mut own: HashMap<Pattern, (Vec<usize>, Option<u32>)> = HashMap::new();
        for (index, rule) in self.rules.iter().enumerate() {
            for &pattern in rule.host.iter().flatten() {
                own.entry(pattern).or_default().0.push(index);
            }
        }
        for &(name, below, operator) in operators {
            own.entry((name, below)).or_default().1 = Some(operator);
        }
        let hostless = self.bits(|rule| rule.host.is_none());
        let unknown = NameEntry { rules: self.sets.intern(&hostless), operator: None };
        let mut entries = vec![unknown];
        let mut known = HashMap::from([(unknown, 0_u32)]);
        // Most patterns of a long list share their own rules and have no wider pattern around them.
        let mut seen: HashMap<(Vec<usize>, Option<u32>), u32> = HashMap::new();
        let mut values = HashMap::with_capacity(own.len());
        for (pattern, (rules, operator)) in &own {
            let mut rules = rules.clone();
            let mut operator = *operator;
            for suffix in suffixes(&pattern.0) {
                if let Some((wider, wider_operator)) = own.get(&(suffix, true)) {
                    rules.extend_from_slice(wider);
                    operator = operator.or(*wider_operator);
                }
            }
            rules.sort_unstable();
            rules.dedup();
            let value = *seen.entry((rules, operator)).or_insert_with_key(|(rules, operator)| {
                let matched = Bits::collect(self.rules.len(), rules.iter().copied());
                let entry = NameEntry {
                    rules: self.sets.intern(&matched.or(&hostless)),
                    operator: *operator,
                };
                *known.entry(entry).or_insert_with(|| {
                    entries.push(entry);
                    index_of(entries.len() - 1)
                })
            });
            values.insert(*pattern, value);
        }
        (NameTable::build(&values), entries.into())
    }

    /// Class of addresses -> sets.
    fn classes(&mut self, atlas: &Atlas) -> (Box<[ClassRules]>, Box<[OperatorRules]>) {
        let everything = self.bits(|_| true);
        let blocks = self.bits(|rule| rule.action == Action::Block);
        let opens_special = self.bits(|rule| rule.action == Action::Block || rule.to);
        let places: Vec<_> =
            atlas.locations().iter().map(|at| self.location_bits(atlas, at)).collect();
        let place_laws: Vec<_> =
            atlas.locations().iter().map(|at| self.law_bits(at.is_known(), at.codes)).collect();
        let operators: Vec<_> = atlas.operators().iter().map(|op| self.operator_bits(op)).collect();
        let home_laws: Vec<_> =
            atlas.operators().iter().map(|op| self.law_bits(!op.id.is_empty(), op.homes)).collect();
        let to_sets: Vec<_> = atlas.to_sets().iter().map(|set| self.to_bits(set)).collect();
        let mut asns: HashMap<u32, Bits> = HashMap::new();
        let at =
            |list: &[Bits], index: u32| list.get(index as usize).unwrap_or(&everything).clone();
        let classes = atlas
            .classes()
            .iter()
            .map(|class| {
                let asn = asns.entry(class.asn).or_insert_with(|| {
                    self.bits(|rule| rule.asn.as_ref().is_none_or(|list| list.contains(&class.asn)))
                });
                let mut geo = at(&places, class.location).and(asn);
                let placed =
                    atlas.locations().get(class.location as usize).is_some_and(|at| at.placed);
                if class.standing != Standing::Ordinary && !placed {
                    geo = geo.and(&opens_special);
                }
                let (a, b) = (at(&place_laws, class.location), at(&home_laws, class.operator));
                let law = a.clone().and(&b).or(&a.or(&b).and(&blocks));
                let to = at(&to_sets, class.to);
                let operator = at(&operators, class.operator);
                ClassRules {
                    all: self.sets.intern(&geo.clone().and(&to).and(&operator).and(&law)),
                    geo: self.sets.intern(&geo),
                    to: self.sets.intern(&to),
                    place_law: self.sets.intern(&at(&place_laws, class.location)),
                }
            })
            .collect();
        let operators = operators.iter().zip(&home_laws).map(|(ids, laws)| OperatorRules {
            ids: self.sets.intern(ids),
            laws: self.sets.intern(laws),
        });
        (classes, operators.collect())
    }

    fn location_bits(&self, atlas: &Atlas, at: &Location) -> Bits {
        let regions: Vec<&str> = at
            .regions
            .iter()
            .filter_map(|&index| atlas.regions().get(index as usize))
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

    fn law_bits(&self, known: bool, codes: super::CountrySet) -> Bits {
        self.bits(|rule| match rule.action {
            Action::Block => rule.law.is_none_or(|set| codes.meets(set)),
            Action::Allow | Action::Log => rule.law.is_none_or(|set| known && codes.is_subset(set)),
        })
    }

    fn operator_bits(&self, operator: &Operator) -> Bits {
        let id = operator.id.as_str();
        let leads = |words: &String| {
            id.strip_prefix(words.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        self.bits(|rule| match (&rule.operator, rule.action) {
            (None, _) => true,
            (Some(_), _) if id.is_empty() => false,
            (Some(list), Action::Block) => list.iter().any(leads),
            (Some(list), Action::Allow | Action::Log) => list.iter().any(|listed| listed == id),
        })
    }

    fn to_bits(&self, listed: &[u32]) -> Bits {
        let bits = self.bits(|rule| !rule.to);
        bits.or(&Bits::collect(self.rules.len(), listed.iter().map(|&rule| rule as usize)))
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

/// Every proper suffix of a name that begins at a label, longest first.
fn suffixes(name: &HostName) -> impl Iterator<Item = HostName> {
    let text = name.as_bytes();
    let dots = text.iter().enumerate().filter(|&(_, &b)| b == b'.').map(|(at, _)| at + 1);
    dots.filter_map(move |at| HostName::parse(text.get(at..)?).ok())
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

/// The outcome of the axes for each profile and class, profile by profile.
fn axes(atlas: &Atlas, profiles: &[Profile], stale: &[bool]) -> Box<[(Action, Reason)]> {
    let mut outcomes = Vec::with_capacity(profiles.len() * atlas.classes().len());
    for profile in profiles {
        for class in atlas.classes() {
            let outcome = class_facts(atlas, class, stale)
                .map_or((Action::Block, Reason::Unknown), |facts| {
                    weigh(profile, &facts, |_, _| ())
                });
            outcomes.push(outcome);
        }
    }
    outcomes.into()
}

/// What the axes look at for a class by itself, without a name.
pub(super) fn class_facts<'a>(
    atlas: &'a Atlas,
    class: &Class,
    stale: &[bool],
) -> Option<Facts<'a>> {
    let location = atlas.locations().get(class.location as usize)?;
    let operator = atlas.operators().get(class.operator as usize)?;
    let too_old = |source: u32| stale.get(source as usize).copied().unwrap_or(false);
    Some(Facts {
        standing: class.standing,
        location,
        homes: operator.homes,
        operator_known: !operator.id.is_empty(),
        stale: location.source.is_some_and(too_old),
    })
}

fn index_of(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}
