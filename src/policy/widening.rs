//! What one policy lets go that another refuses: who may now send where.
//!
//! Nothing is drawn by chance. Addresses are taken by the classes that the two policies put them in,
//! clients and ports likewise, names by the rules that name them; each combination is asked of both by
//! the function that judges connections. What is alike for both is asked once.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::{RangeInclusive, Sub};

use super::address::{canonical, target};
use super::compile::carriers_of;
use super::rule_index::ClassRules;
use super::{Action, AddressKind, Claim, CountrySet, HostRef, Policy, Question, Reason, Transport};
use crate::identify::HostName;

/// Questions that are asked at the most, of each policy.
const QUESTIONS_MAX: u64 = 20_000_000;

/// The longest stretch of addresses that is looked through for one that nobody sees as its own.
const LOOKED_AT: usize = 64;

/// What was compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Widening {
    /// What is let go now, and was refused; the most addresses first.
    pub widened: Vec<Widened>,
    /// Why the two could not be compared; `None` where they were, whole.
    pub inexact: Option<&'static str>,
}

/// What is let go now, and was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Widened {
    /// The client's group, by the new policy.
    pub group: String,
    /// Which names it is about.
    pub host: Host,
    /// Where the bytes may land, by the new policy.
    pub codes: CountrySet,
    /// The addresses are announced from many places.
    pub anycast: bool,
    /// The operator's id, by the new policy; empty where nobody knows.
    pub operator: String,
    /// How the bytes travel.
    pub transport: Transport,
    /// What becomes of it: `Allow` or `Log`.
    pub action: Action,
    /// Why.
    pub reason: Reason,
    /// The rule that decides.
    pub rule: Option<String>,
    /// The ports, ascending.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Addresses of IPv4.
    pub v4: u64,
    /// Networks of IPv6, of 64 bits, in whole or in part.
    pub v6_networks: u64,
}

/// Names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// Whatever the name is, and without one, where no rule says otherwise of a name.
    Any,
    /// No name can be read.
    Unread,
    /// Those that no rule names.
    Unnamed,
    /// This pattern, as rules write it; the name is tied to the address.
    Pattern(String),
    /// This pattern, as the client says, with nothing that ties the name to the address.
    Claimed(String),
}

/// The addresses that both policies see alike.
#[derive(Debug, Clone, Copy, Default)]
struct Stretch {
    sample: Option<IpAddr>,
    v4: u64,
    v6_networks: u64,
}

/// The classes of an address, by the old policy and by the new one.
type Pair = (u32, u32);

/// What tells the answers of one policy apart between addresses.
#[derive(PartialEq, Eq, Hash)]
struct Kind {
    kind: AddressKind,
    rules: Option<ClassRules>,
    axes: Vec<(Action, Reason)>,
    /// Where names have operators, all that is known of the address counts as well.
    class: Option<u32>,
}

/// Compares two policies. `clients` has the edges of the prefixes that either names
/// ([`Policy::clients`]), `hosts` every pattern of the rules and operators of both. Both policies need
/// an address table that kept its ranges.
#[must_use]
pub fn widening<'a>(
    old: &Policy,
    new: &Policy,
    clients: impl IntoIterator<Item = IpAddr>,
    hosts: impl IntoIterator<Item = HostRef<'a>>,
) -> Widening {
    let inexact = |why| Widening { inexact: Some(why), ..Widening::default() };
    if [old, new].iter().any(|policy| policy.address_table.v4_ranges().is_empty()) {
        return inexact("the address ranges of one of the policies were not kept");
    }
    let stretches = stretches(old, new);
    let mut kinds: HashMap<(Kind, Kind), Vec<Pair>> = HashMap::new();
    for (pair, _) in stretches.iter().filter(|(_, stretch)| stretch.sample.is_some()) {
        kinds.entry((kind(old, pair.0), kind(new, pair.1))).or_default().push(*pair);
    }
    let clients = clients_of_both(old, new, clients);
    let ports = ports_of_both(old, new);
    let names = names_of_both(old, new, hosts);
    let claims = 2 * names.len() as u64 + 3;
    // Two transports, over which five carriers are told apart.
    let each = [kinds.len() as u64, clients.len() as u64, ports.len() as u64, 5, claims];
    let all = each.iter().try_fold(1_u64, |all, more| all.checked_mul(*more));
    if all.is_none_or(|all| all > QUESTIONS_MAX) {
        return inexact("the policies tell too many clients, addresses, ports and names apart");
    }
    let mut found = Found { stretches: &stretches, new, rows: BTreeMap::new() };
    for pairs in kinds.values() {
        let sample = pairs.first().and_then(|pair| stretches.get(pair)?.sample);
        let Some(address) = sample else { continue };
        for client in &clients {
            for (start, ranges) in &ports {
                for transport in [Transport::Tcp, Transport::Udp] {
                    let at = SocketAddr::new(address, *start);
                    let both = Both { old, new, client: *client, at, transport };
                    for (host, end) in both.widened(&names) {
                        found.add(pairs, &host, &end, transport, ranges);
                    }
                }
            }
        }
    }
    let mut widened: Vec<Widened> = found.rows.into_values().map(|(row, _)| row).collect();
    widened.iter_mut().for_each(|row| row.ports.sort_by_key(|ports| *ports.start()));
    widened.sort_by_key(|row| std::cmp::Reverse((row.v4, row.v6_networks)));
    Widening { widened, inexact: None }
}

/// How a question ends by the new policy: group, action, reason, rule.
type Ending = (String, Action, Reason, Option<String>);

/// One client, address, port and transport, asked of both.
struct Both<'a> {
    old: &'a Policy,
    new: &'a Policy,
    client: Option<IpAddr>,
    at: SocketAddr,
    transport: Transport,
}

impl Both<'_> {
    /// The names that are let go now, over some protocol.
    fn widened(&self, names: &[(HostName, String)]) -> Vec<(Host, Ending)> {
        let mut found = Vec::new();
        // No rule can mean it (RFC 2606 §2).
        let other = HostName::parse(b"a-name-of-no-rule.invalid").ok();
        let other = other.as_ref();
        let unnamed = other.and_then(|other| self.ends(Claim::Bound(other)));
        let unread = self.ends(Claim::Unread);
        match (unread, &unnamed) {
            (Some(unread), Some(unnamed)) if unread == *unnamed => found.push((Host::Any, unread)),
            (unread, unnamed) => {
                found.extend(unread.map(|end| (Host::Unread, end)));
                found.extend(unnamed.clone().map(|end| (Host::Unnamed, end)));
            }
        }
        for (name, pattern) in names {
            // What is said of all names is not said of each once more.
            let is_own = |end: &Ending| unnamed.as_ref() != Some(end);
            if let Some(end) = self.ends(Claim::Bound(name)) {
                found.extend(
                    Some(end).filter(is_own).map(|end| (Host::Pattern(pattern.clone()), end)),
                );
            } else if let Some(end) = self.ends(Claim::Claimed(name)).filter(is_own) {
                found.push((Host::Claimed(pattern.clone()), end));
            }
        }
        found
    }

    /// How the new policy lets it go, over some protocol over which the old one refused it.
    fn ends(&self, name: Claim<'_>) -> Option<Ending> {
        carriers_of(self.transport).iter().find_map(|&protocol| {
            let question = Question {
                client: self.client,
                destination: self.at,
                transport: self.transport,
                protocol,
                name,
                ech: false,
            };
            let (before, now) = (self.old.decide(&question), self.new.decide(&question));
            if before.action() != Action::Block || now.action() == Action::Block {
                return None;
            }
            let group = self.new.group_name(now.group()).to_owned();
            let rule = now.rule().map(|rule| self.new.rule_name(rule).to_owned());
            Some((group, now.action(), now.reason(), rule))
        })
    }
}

/// What rows are told apart by.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    host: Host,
    codes: Vec<&'static str>,
    anycast: bool,
    operator: u32,
    words: [&'static str; 3],
    group: String,
    rule: Option<String>,
}

struct Found<'a> {
    stretches: &'a BTreeMap<Pair, Stretch>,
    new: &'a Policy,
    /// With the pairs of classes that are counted in each.
    rows: BTreeMap<Key, (Widened, BTreeSet<Pair>)>,
}

impl Found<'_> {
    fn add(
        &mut self,
        pairs: &[Pair],
        host: &Host,
        (group, action, reason, rule): &Ending,
        transport: Transport,
        ports: &[RangeInclusive<u16>],
    ) {
        for pair in pairs {
            let Some(class) = self.new.address_table.classes().get(pair.1 as usize) else {
                continue;
            };
            let location = self.new.address_table.locations().get(class.location as usize);
            let codes = location.map_or(CountrySet::EMPTY, |location| location.codes);
            let anycast = location.is_some_and(|location| location.anycast);
            let key = Key {
                host: host.clone(),
                codes: codes.iter().map(|country| country.code()).collect(),
                anycast,
                operator: class.operator,
                words: [transport.label(), action.label(), reason.label()],
                group: group.clone(),
                rule: rule.clone(),
            };
            let operator = self.new.address_table.operators().get(class.operator as usize);
            let (row, counted) = self.rows.entry(key).or_insert_with(|| {
                let row = Widened {
                    group: group.clone(),
                    host: host.clone(),
                    codes,
                    anycast,
                    operator: operator.map_or_else(String::new, |operator| operator.id.clone()),
                    transport,
                    action: *action,
                    reason: *reason,
                    rule: rule.clone(),
                    ports: Vec::new(),
                    v4: 0,
                    v6_networks: 0,
                };
                (row, BTreeSet::new())
            });
            for range in ports {
                if !row.ports.contains(range) {
                    row.ports.push(range.clone());
                }
            }
            if counted.insert(*pair)
                && let Some(stretch) = self.stretches.get(pair)
            {
                row.v4 += stretch.v4;
                row.v6_networks = row.v6_networks.saturating_add(stretch.v6_networks);
            }
        }
    }
}

/// The pairs of classes that some address is in.
fn stretches(old: &Policy, new: &Policy) -> BTreeMap<Pair, Stretch> {
    let mut found: BTreeMap<Pair, Stretch> = BTreeMap::new();
    // What is never opened, or carries another address, stands for no class.
    let plain = |ip: &IpAddr| {
        let seen = target(*ip);
        canonical(*ip) == *ip
            && seen.outer.is_none()
            && !matches!(seen.kind, AddressKind::Guard | AddressKind::Loop)
            && !old.is_own(*ip)
            && !new.is_own(*ip)
    };
    for (first, last, pair) in
        overlaps(old.address_table.v4_ranges(), new.address_table.v4_ranges(), u32::MAX)
    {
        let stretch = found.entry(pair).or_default();
        stretch.v4 += u64::from(last - first) + 1;
        if stretch.sample.is_none() {
            let mut addresses = (first..=last).map(|bits| IpAddr::from(Ipv4Addr::from_bits(bits)));
            stretch.sample = addresses.by_ref().take(LOOKED_AT).find(plain);
        }
    }
    for (first, last, pair) in
        overlaps(old.address_table.v6_ranges(), new.address_table.v6_ranges(), u128::MAX)
    {
        let stretch = found.entry(pair).or_default();
        let networks = u64::try_from((last >> 64) - (first >> 64)).unwrap_or(u64::MAX);
        stretch.v6_networks = stretch.v6_networks.saturating_add(networks).saturating_add(1);
        if stretch.sample.is_none() {
            let mut addresses = (first..=last).map(|bits| IpAddr::from(Ipv6Addr::from_bits(bits)));
            stretch.sample = addresses.by_ref().take(LOOKED_AT).find(plain);
        }
    }
    found
}

/// First and last address, and the two classes, of each stretch of which both tables say one thing.
fn overlaps<A: Copy + Ord + From<u8> + Sub<Output = A>>(
    old: &[(A, u32)],
    new: &[(A, u32)],
    end: A,
) -> Vec<(A, A, Pair)> {
    let mut starts: Vec<A> = old.iter().chain(new).map(|(first, _)| *first).collect();
    starts.sort_unstable();
    starts.dedup();
    let class = |of: &[(A, u32)], at: &mut usize, first: A| {
        while of.get(*at + 1).is_some_and(|(next, _)| *next <= first) {
            *at += 1;
        }
        of.get(*at).map(|(_, class)| *class)
    };
    let (mut at_old, mut at_new) = (0, 0);
    let mut found = Vec::with_capacity(starts.len());
    for (number, first) in starts.iter().enumerate() {
        let last = starts.get(number + 1).map_or(end, |next| *next - A::from(1));
        let pair = (class(old, &mut at_old, *first), class(new, &mut at_new, *first));
        if let (Some(one), Some(other)) = pair {
            found.push((*first, last, (one, other)));
        }
    }
    found
}

fn kind(policy: &Policy, class: u32) -> Kind {
    let classes = policy.address_table.classes();
    let at = class as usize;
    Kind {
        kind: classes.get(at).map_or(AddressKind::Guard, |class| class.kind),
        rules: policy.index.classes.get(at).copied(),
        axes: policy.axes.of_each_profile(at),
        class: (!policy.index.names.operators.is_empty()).then_some(class),
    }
}

/// A client of each pair of client classes; `None` is one that neither policy names.
fn clients_of_both(
    old: &Policy,
    new: &Policy,
    candidates: impl IntoIterator<Item = IpAddr>,
) -> Vec<Option<IpAddr>> {
    let class = |policy: &Policy, client| policy.clients.position(client);
    let mut seen = HashSet::new();
    let all = std::iter::once(None).chain(candidates.into_iter().map(Some));
    all.filter(|client| seen.insert((class(old, *client), class(new, *client)))).collect()
}

/// One port, and all that are judged like it.
type Ports = (u16, Vec<RangeInclusive<u16>>);

/// The ports of each pair of port classes.
fn ports_of_both(old: &Policy, new: &Policy) -> Vec<Ports> {
    let mut found: BTreeMap<(u16, u16), Ports> = BTreeMap::new();
    let mut before = None;
    let classes =
        old.index.ports.classes.iter().copied().zip(new.index.ports.classes.iter().copied());
    for (port, pair) in (0..=u16::MAX).zip(classes) {
        let (_, ranges) = found.entry(pair).or_insert_with(|| (port, Vec::new()));
        match ranges.last_mut() {
            Some(range) if before == Some(pair) => *range = *range.start()..=port,
            _ => ranges.push(port..=port),
        }
        before = Some(pair);
    }
    found.into_values().collect()
}

/// A name of each pair of name entries, and the pattern that it is of.
fn names_of_both<'a>(
    old: &Policy,
    new: &Policy,
    hosts: impl IntoIterator<Item = HostRef<'a>>,
) -> Vec<(HostName, String)> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for host in hosts {
        let (name, pattern) = if host.below {
            (format!("any-name-below.{}", host.name), format!("*.{}", host.name))
        } else {
            (host.name.to_owned(), host.name.to_owned())
        };
        // A pattern that leaves no room for a label above it stands for no name.
        let Ok(name) = HostName::parse(name.as_bytes()) else { continue };
        if seen.insert((old.index.names.table.value(&name), new.index.names.table.value(&name))) {
            found.push((name, pattern));
        }
    }
    found
}
