//! All layers of statements about addresses, merged into classes.
//!
//! Each layer (special space, places, provider ranges, country and AS tables, operators by prefix,
//! `to` of the rules) is a list of starts with a value; one sweep over all of them cuts the address
//! space where any layer changes, and every combination of values is looked at once.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::locate::{Locator, OperatorChoice, Statements};
use super::plan::Plan;
use crate::control::data::{Ranges, Sources, Whereabouts};
use crate::policy::{
    AddressBits, Atlas, AtlasParts, Class, Country, CountrySet, Location, Operator, Standing, nest,
    special_v4, special_v6, standing,
};

/// The atlas's index of the file's `[[operator]]` at `position`.
pub(super) fn operator_index(position: usize) -> u32 {
    index(position + 1)
}

/// Builds the atlas.
pub(super) fn chart(plan: &Plan, sources: &Sources) -> Atlas {
    let mut drawing = Drawing::new(plan, sources);
    let v4 = drawing.family::<u32>();
    let v6 = drawing.family::<u128>();
    let Drawing { locator, classes, locations, operators, to, .. } = drawing;
    let parts = AtlasParts {
        v4,
        v6,
        classes: classes.list,
        locations: locations.list,
        operators: operators.list,
        sources: locator.source_notes(),
        regions: locator.region_names,
        to_sets: to.list,
        memory: plan.memory,
    };
    if plan.keeps_ranges { Atlas::keeping_ranges(parts) } else { Atlas::build(parts) }
}

/// A list in which each value stands once.
struct Interned<T> {
    list: Vec<T>,
    known: HashMap<T, u32>,
}

impl<T> Default for Interned<T> {
    fn default() -> Self {
        Self { list: Vec::new(), known: HashMap::new() }
    }
}

impl<T: Clone + Eq + Hash> Interned<T> {
    fn id(&mut self, value: T) -> u32 {
        if let Some(&id) = self.known.get(&value) {
            return id;
        }
        let id = index(self.list.len());
        self.list.push(value.clone());
        self.known.insert(value, id);
        id
    }
}

/// The layers that are always there, in the order of their values; a layer for each country table
/// and one for each AS table follow. 0 is "says nothing" in each.
#[derive(Clone, Copy)]
enum Layer {
    /// Only cuts, at the edges of special-purpose space.
    Special,
    /// Position of the `[[place]]`, plus one.
    Place,
    /// Index into [`Drawing::provider`].
    Provider,
    /// Position of the `[[operator]]`, plus one.
    Operator,
    /// Index into [`Drawing::to`].
    To,
}

const FIXED: usize = 5;

/// One address family's way of writing addresses and reaching its half of each table.
trait Bits: AddressBits {
    const ZERO: Self;
    fn address(self) -> IpAddr;
    fn prefix(net: &IpNet) -> Option<(Self, Self)>;
    fn of<V>(ranges: &Ranges<V>) -> &[(Self, Self, V)];
    fn special() -> Vec<Self>;
}

impl Bits for u32 {
    const ZERO: Self = 0;

    fn address(self) -> IpAddr {
        Ipv4Addr::from_bits(self).into()
    }

    fn prefix(net: &IpNet) -> Option<(Self, Self)> {
        match net {
            IpNet::V4(net) => Some((net.network().to_bits(), net.broadcast().to_bits())),
            IpNet::V6(_) => None,
        }
    }

    fn of<V>(ranges: &Ranges<V>) -> &[(Self, Self, V)] {
        &ranges.v4
    }

    fn special() -> Vec<Self> {
        special_v4()
            .flat_map(|(first, last, _)| [Some(first), last.checked_add(1)])
            .flatten()
            .collect()
    }
}

impl Bits for u128 {
    const ZERO: Self = 0;

    fn address(self) -> IpAddr {
        Ipv6Addr::from_bits(self).into()
    }

    fn prefix(net: &IpNet) -> Option<(Self, Self)> {
        match net {
            IpNet::V4(_) => None,
            IpNet::V6(net) => Some((net.network().to_bits(), net.broadcast().to_bits())),
        }
    }

    fn of<V>(ranges: &Ranges<V>) -> &[(Self, Self, V)] {
        &ranges.v6
    }

    fn special() -> Vec<Self> {
        special_v6()
            .flat_map(|(first, last, _)| [Some(first), last.checked_add(1)])
            .flatten()
            .collect()
    }
}

/// The atlas in the making.
struct Drawing<'a> {
    plan: &'a Plan,
    sources: &'a Sources,
    locator: Locator<'a>,
    /// Rules whose `to` holds, by position among those that have one; the first is none.
    to: Interned<Vec<u32>>,
    /// Rows of a longest provider prefix, as `(table, row)`; the first is none.
    provider: Interned<Vec<(usize, usize)>>,
    classes: Interned<Class>,
    locations: Interned<Location>,
    operators: Interned<Operator>,
    /// What each combination of values came to.
    seen: HashMap<Box<[u32]>, u32>,
    /// The combination at hand.
    key: Vec<u32>,
}

impl<'a> Drawing<'a> {
    fn new(plan: &'a Plan, sources: &'a Sources) -> Self {
        let mut drawing = Self {
            plan,
            sources,
            locator: Locator::new(plan, sources),
            to: Interned::default(),
            provider: Interned::default(),
            classes: Interned::default(),
            locations: Interned::default(),
            operators: Interned::default(),
            seen: HashMap::new(),
            key: Vec::new(),
        };
        drawing.to.id(Vec::new());
        drawing.provider.id(Vec::new());
        // Nobody known, then the operators of the file, so that names can point to them.
        drawing.operators.list.push(Operator {
            id: String::new(),
            homes: CountrySet::EMPTY,
            technology: CountrySet::EMPTY,
            source: String::new(),
        });
        let entries = plan.operators.iter().map(|owner| owner.operator.clone());
        drawing.operators.list.extend(entries);
        drawing
    }

    fn family<A: Bits>(&mut self) -> Vec<(A, u32)> {
        let layers = self.layers::<A>();
        let mut pieces: Vec<(A, u32)> = Vec::new();
        merge(&layers, |start, values| {
            let class = self.class(standing(start.address()), values);
            if pieces.last().is_none_or(|&(_, last)| last != class) {
                pieces.push((start, class));
            }
        });
        pieces
    }

    fn layers<A: Bits>(&mut self) -> Vec<Vec<(A, u32)>> {
        let Plan { places, operators, to, .. } = self.plan;
        let mut special: Vec<_> = A::special().into_iter().map(|start| (start, 0)).collect();
        special.sort_unstable();
        let places = places.iter().enumerate();
        let places = places.flat_map(|(at, place)| place.to.iter().map(move |net| (net, at)));
        let operators = operators.iter().enumerate();
        let operators =
            operators.flat_map(|(at, entry)| entry.prefix.iter().map(move |net| (net, at)));
        let innermost = |chain: Vec<usize>| chain.last().map_or(0, |&at| index(at + 1));
        let place = spread(places, innermost);
        let operator = spread(operators, innermost);
        let rules = to.iter().enumerate();
        let rules = rules.flat_map(|(at, nets)| nets.iter().map(move |net| (net, at)));
        let to = &mut self.to;
        let to = spread(rules, |chain: Vec<usize>| {
            let mut rules: Vec<u32> = chain.into_iter().map(index).collect();
            rules.sort_unstable();
            rules.dedup();
            to.id(rules)
        });
        let rows = self.sources.providers.iter().enumerate().flat_map(|(table, provider)| {
            let rows = provider.rows.iter().enumerate();
            rows.map(move |(row, content)| (&content.net, (content.net.prefix_len(), table, row)))
        });
        let provider = &mut self.provider;
        let provider = spread(rows, |chain: Vec<(u8, usize, usize)>| {
            let longest = chain.last().map(|&(length, _, _)| length);
            let rows = chain.into_iter().filter(|&(length, _, _)| Some(length) == longest);
            provider.id(rows.map(|(_, table, row)| (table, row)).collect())
        });
        let mut layers: Vec<Vec<(A, u32)>> = vec![special, place, provider, operator, to];
        debug_assert_eq!(layers.len(), FIXED);
        let country = |said: Whereabouts| match said {
            Whereabouts::Anycast => 1,
            Whereabouts::Country(country) => index(country.index()) + 2,
        };
        let countries = self.sources.countries.iter();
        layers.extend(countries.map(|table| starts(A::of(&table.ranges), country)));
        layers
            .extend(self.sources.asns.iter().map(|table| starts(A::of(&table.ranges), |asn| asn)));
        layers
    }

    /// The class of the addresses of which each layer says one thing.
    fn class(&mut self, standing: Standing, values: &[u32]) -> u32 {
        // The first layer only cuts: its place in the key tells how the addresses stand.
        let mut key = std::mem::take(&mut self.key);
        key.clear();
        key.extend_from_slice(values);
        key[Layer::Special as usize] = standing as u32;
        let known = self.seen.get(key.as_slice()).copied();
        let class = known.unwrap_or_else(|| {
            let class = self.new_class(standing, values);
            self.seen.insert(key.as_slice().into(), class);
            class
        });
        self.key = key;
        class
    }

    fn new_class(&mut self, standing: Standing, values: &[u32]) -> u32 {
        let (fixed, tables) = values.split_at(FIXED);
        let (countries, asns) = tables.split_at(self.sources.countries.len());
        let said = |value: u32| match value {
            0 => None,
            1 => Some(Whereabouts::Anycast),
            code => Country::from_index(code as usize - 2).map(Whereabouts::Country),
        };
        let countries: Vec<_> = countries.iter().map(|&value| said(value)).collect();
        let position = |layer: Layer| (fixed[layer as usize] as usize).checked_sub(1);
        let provider = self.provider.list.get(fixed[Layer::Provider as usize] as usize);
        let statements = Statements {
            standing,
            place: position(Layer::Place),
            provider: provider.map(Vec::as_slice).unwrap_or_default(),
            countries: &countries,
            asn: asns.iter().copied().find(|&asn| asn != 0).unwrap_or(0),
            operator: position(Layer::Operator),
        };
        let location = self.locator.locate(&statements);
        let operator = match self.locator.operator(&statements) {
            None => 0,
            Some(OperatorChoice::Entry(at)) => operator_index(at),
            Some(OperatorChoice::BuiltIn(operator)) => self.operators.id(operator),
        };
        let ordinary = standing == Standing::Ordinary;
        self.classes.id(Class {
            standing,
            location: self.locations.id(location),
            operator,
            asn: if ordinary { statements.asn } else { 0 },
            to: fixed[Layer::To as usize],
        })
    }
}

/// Nested prefixes as a layer: `value` turns the prefixes around an address, outermost first, into
/// the layer's value.
fn spread<'a, A: Bits, P: Clone>(
    nets: impl Iterator<Item = (&'a IpNet, P)>,
    mut value: impl FnMut(Vec<P>) -> u32,
) -> Vec<(A, u32)> {
    let prefixes = nets.filter_map(|(net, payload)| {
        let (first, last) = A::prefix(net)?;
        Some((first, last, payload))
    });
    nest(prefixes.collect()).into_iter().map(|(start, chain)| (start, value(chain))).collect()
}

/// Disjoint ranges as a layer.
fn starts<A: Bits, V: Copy>(ranges: &[(A, A, V)], value: impl Fn(V) -> u32) -> Vec<(A, u32)> {
    let mut starts: Vec<(A, u32)> = Vec::with_capacity(ranges.len() * 2);
    for &(first, last, said) in ranges {
        match starts.last_mut() {
            Some(end) if end.0 == first => end.1 = value(said),
            _ => starts.push((first, value(said))),
        }
        if let Some(next) = last.next() {
            starts.push((next, 0));
        }
    }
    starts
}

/// Walks all layers at once: `piece` hears, in ascending order, every address at which a layer
/// changes, with the value of each layer from there on. The first piece begins at address 0.
/// Each layer is ascending.
fn merge<A: Bits>(layers: &[Vec<(A, u32)>], mut piece: impl FnMut(A, &[u32])) {
    debug_assert!(layers.iter().all(|layer| layer.is_sorted_by_key(|&(start, _)| start)));
    let mut values = vec![0; layers.len()];
    let mut cursors = vec![0_usize; layers.len()];
    let mut start = A::ZERO;
    loop {
        let mut next: Option<A> = None;
        for ((layer, cursor), value) in layers.iter().zip(&mut cursors).zip(&mut values) {
            while let Some(&(_, said)) = layer.get(*cursor).filter(|&&(from, _)| from <= start) {
                *value = said;
                *cursor += 1;
            }
            if let Some(&(from, _)) = layer.get(*cursor) {
                next = Some(next.map_or(from, |next| next.min(from)));
            }
        }
        piece(start, &values);
        match next {
            Some(next) => start = next,
            None => return,
        }
    }
}

fn index(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}
