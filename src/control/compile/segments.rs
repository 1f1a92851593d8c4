//! All layers of statements about addresses, merged into classes.
//!
//! Each layer (special space, places, provider ranges, country and AS tables, operators by prefix,
//! `to` of the rules) is a list of starts with a value; one sweep over all of them cuts the address
//! space where any layer changes, and every combination of values is looked at once.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use foldhash::fast::RandomState;
use ipnet::IpNet;

use super::locate::{Locator, OperatorChoice, Statements};
use super::table_inputs::TableInputs;
use super::voices::Voices;
use crate::control::data::{CountryTable, Facts, Located, Ranges, Sources};
use crate::control::side_by_side::side_by_side;
use crate::policy::{
    AddressBits, AddressKind, AddressTableParts, Class, Country, CountrySet, Location, Operator,
    address_kind, flatten_prefixes, special_v4, special_v6,
};

/// The address table's index of the file's `[[operator]]` at `position`.
pub(super) fn operator_index(position: usize) -> u32 {
    index(position + 1)
}

/// What the address table is built from.
pub(super) fn build_segments(inputs: &TableInputs, sources: &Sources) -> AddressTableParts {
    // Each family by itself, side by side: what both came to is put together behind.
    let ((v4, mut builder), (mut v6, other)) = side_by_side(
        || Builder::of::<u32>(inputs, sources),
        || Builder::of::<u128>(inputs, sources),
    );
    let classes = builder.take_over(other);
    v6.iter_mut().for_each(|(_, class)| *class = classes[*class as usize]);
    let Builder { locator, classes, locations, operators, to, .. } = builder;
    AddressTableParts {
        v4,
        v6,
        classes: classes.list,
        locations: locations.list,
        operators: operators.list,
        sources: locator.source_notes(),
        regions: locator.region_names,
        to_sets: to.list,
        memory: inputs.memory,
    }
}

/// A list in which each value stands once. It is asked once for each piece of the address space, so
/// that its hash is a fast one; keyed, since what is hashed comes from files of others.
struct Interned<T> {
    list: Vec<T>,
    known: HashMap<T, u32, RandomState>,
}

impl<T> Default for Interned<T> {
    fn default() -> Self {
        Self { list: Vec::new(), known: HashMap::default() }
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

/// The layers that are always there, in the order of their values; a layer for each country table,
/// one for each AS table and one for the registrants, where they count, follow. 0 is "says nothing"
/// in each.
#[derive(Clone, Copy)]
enum Layer {
    /// The kind of the addresses, as the position in [`KINDS`].
    Kind,
    /// Position of the `[[place]]`, plus one.
    Place,
    /// Index into [`Builder::provider`].
    Provider,
    /// Position of the `[[operator]]`, plus one.
    Operator,
    /// Index into [`Builder::to`].
    To,
    /// 1 where the facts say that the addresses answer from many places.
    Anycast,
}

const FIXED: usize = 6;

/// Every kind of address.
const KINDS: [AddressKind; 6] = [
    AddressKind::Ordinary,
    AddressKind::Unallocated,
    AddressKind::Private,
    AddressKind::Special,
    AddressKind::Guard,
    AddressKind::Loop,
];

/// One address family's way of writing addresses and reaching its half of each table.
trait Bits: AddressBits + 'static {
    const ZERO: Self;
    fn address(self) -> IpAddr;
    fn prefix(net: &IpNet) -> Option<(Self, Self)>;
    fn of<V>(ranges: &Ranges<V>) -> &[(Self, Self, V)];
    /// Every address at which it may change how addresses stand.
    fn edges() -> Vec<Self>;
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

    fn edges() -> Vec<Self> {
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

    fn edges() -> Vec<Self> {
        special_v6()
            .flat_map(|(first, last, _)| [Some(first), last.checked_add(1)])
            .flatten()
            .collect()
    }
}

/// The address table in the making.
struct Builder<'a> {
    inputs: &'a TableInputs,
    sources: &'a Sources,
    voices: Voices<'a>,
    locator: Locator<'a>,
    /// Rules whose `to` holds, by position among those that have one; the first is none.
    to: Interned<Vec<u32>>,
    /// Rows of a longest provider prefix, as `(table, row)`; the first is none.
    provider: Interned<Vec<(usize, usize)>>,
    classes: Interned<Class>,
    locations: Interned<Location>,
    operators: Interned<Operator>,
    /// What each combination of values came to.
    seen: HashMap<Box<[u32]>, u32, RandomState>,
}

impl<'a> Builder<'a> {
    fn new(inputs: &'a TableInputs, sources: &'a Sources) -> Self {
        let mut builder = Self {
            inputs,
            sources,
            voices: Voices::of(sources),
            locator: Locator::new(inputs, sources),
            to: Interned::default(),
            provider: Interned::default(),
            classes: Interned::default(),
            locations: Interned::default(),
            operators: Interned::default(),
            seen: HashMap::default(),
        };
        builder.to.id(Vec::new());
        builder.provider.id(Vec::new());
        // Nobody known, then the operators of the file, so that names can point to them.
        builder.operators.list.push(Operator {
            id: String::new(),
            homes: CountrySet::EMPTY,
            technology: CountrySet::EMPTY,
            uncertain: false,
            source: String::new(),
        });
        let entries = inputs.operators.iter().map(|owner| owner.operator.clone());
        builder.operators.list.extend(entries);
        builder
    }

    /// A family's pieces, and what they came to.
    fn of<A: Bits>(inputs: &'a TableInputs, sources: &'a Sources) -> (Vec<(A, u32)>, Self) {
        let mut builder = Self::new(inputs, sources);
        (builder.family(), builder)
    }

    /// Takes over what another family came to, and gives the class that each of its classes is here.
    fn take_over(&mut self, other: Self) -> Vec<u32> {
        let names = other.locator.region_names.into_iter();
        let regions: Vec<u32> = names.map(|name| self.locator.region_id(name)).collect();
        let locations: Vec<u32> = other
            .locations
            .list
            .into_iter()
            .map(|mut location| {
                location.regions.iter_mut().for_each(|region| *region = regions[*region as usize]);
                self.locations.id(location)
            })
            .collect();
        // Nobody, and those of the file, have the same places in both.
        let first = 1 + self.inputs.operators.len();
        let operators = other.operators.list.into_iter().enumerate();
        let operators = operators
            .map(|(at, operator)| if at < first { index(at) } else { self.operators.id(operator) });
        let operators: Vec<u32> = operators.collect();
        let to: Vec<u32> = other.to.list.into_iter().map(|rules| self.to.id(rules)).collect();
        let here = |class: Class| Class {
            location: locations[class.location as usize],
            operator: operators[class.operator as usize],
            to: to[class.to as usize],
            ..class
        };
        other.classes.list.into_iter().map(|class| self.classes.id(here(class))).collect()
    }

    fn family<A: Bits>(&mut self) -> Vec<(A, u32)> {
        let layers = self.layers::<A>();
        let mut pieces: Vec<(A, u32)> = Vec::new();
        merge(layers, |start, values| {
            let class = self.class(values);
            if pieces.last().is_none_or(|&(_, last)| last != class) {
                pieces.push((start, class));
            }
        });
        pieces
    }

    fn layers<A: Bits>(&mut self) -> Vec<Starts<'a, A>> {
        let TableInputs { places, operators, to, .. } = self.inputs;
        let mut edges = A::edges();
        edges.push(A::ZERO);
        edges.sort_unstable();
        let stands = |start: A| {
            let kind = address_kind(start.address());
            index(KINDS.iter().position(|&known| known == kind).unwrap_or(usize::MAX))
        };
        let kind = edges.into_iter().map(|start| (start, stands(start))).collect();
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
        let voices = &self.voices;
        let rows = self.sources.providers.iter().enumerate().flat_map(|(table, provider)| {
            let rows = provider.rows.iter().enumerate();
            let heard = rows.filter(move |(_, content)| voices.hears(table, content));
            heard.map(move |(row, content)| (&content.net, (content.net.prefix_len(), table, row)))
        });
        let provider = &mut self.provider;
        let provider = spread(rows, |chain: Vec<(u8, usize, usize)>| {
            let longest = chain.last().map(|&(length, _, _)| length);
            let rows = chain.into_iter().filter(|&(length, _, _)| Some(length) == longest);
            provider.id(rows.map(|(_, table, row)| (table, row)).collect())
        });
        let anycast = Facts::built_in().anycast.iter().filter(|_| self.sources.counts_edges());
        let anycast = anycast.map(|net| (net, ()));
        let anycast = spread(anycast, |chain| u32::from(!chain.is_empty()));
        let fixed: [Vec<(A, u32)>; FIXED] = [kind, place, provider, operator, to, anycast];
        let country = |said: Located| match said {
            Located::Anycast => 1,
            Located::Country(country) => index(country.index()) + 2,
        };
        let mut layers: Vec<Starts<'a, A>> = Vec::new();
        layers
            .extend(fixed.into_iter().map(|starts| Box::new(starts.into_iter()) as Starts<'_, A>));
        for table in &self.sources.countries {
            layers.push(Box::new(starts(A::of(&table.ranges), country)));
        }
        for table in &self.sources.asns {
            layers.push(Box::new(starts(A::of(&table.ranges), |asn| asn)));
        }
        for table in self.registrants() {
            layers.push(Box::new(starts(A::of(&table.ranges), country)));
        }
        layers
    }

    /// The table of registrants, where the inputs let it count.
    fn registrants(&self) -> impl Iterator<Item = &'a CountryTable> + use<'a> {
        let sources = self.sources;
        sources.registrant.iter().filter({
            let counts = self.inputs.registrant;
            move |_| counts
        })
    }

    /// The class of the addresses of which each layer says one thing.
    fn class(&mut self, values: &[u32]) -> u32 {
        if let Some(&class) = self.seen.get(values) {
            return class;
        }
        let class = self.new_class(values);
        self.seen.insert(values.into(), class);
        class
    }

    fn new_class(&mut self, values: &[u32]) -> u32 {
        let (fixed, tables) = values.split_at(FIXED);
        let kind = KINDS.get(fixed[Layer::Kind as usize] as usize);
        let kind = kind.copied().unwrap_or(AddressKind::Guard);
        let (countries, rest) = tables.split_at(self.sources.countries.len());
        let (asns, registrant) = rest.split_at(self.sources.asns.len());
        let said = |value: u32| match value {
            0 => None,
            1 => Some(Located::Anycast),
            code => Country::from_index(code as usize - 2).map(Located::Country),
        };
        let countries: Vec<_> = countries.iter().map(|&value| said(value)).collect();
        let position = |layer: Layer| (fixed[layer as usize] as usize).checked_sub(1);
        let provider = self.provider.list.get(fixed[Layer::Provider as usize] as usize);
        let statements = Statements {
            kind,
            place: position(Layer::Place),
            provider: provider.map(Vec::as_slice).unwrap_or_default(),
            anycast: fixed[Layer::Anycast as usize] != 0,
            countries: &countries,
            asn: asns.iter().copied().find(|&asn| asn != 0).unwrap_or(0),
            operator: position(Layer::Operator),
            registrant: registrant.first().and_then(|&value| match said(value) {
                Some(Located::Country(country)) => Some(country),
                Some(Located::Anycast) | None => None,
            }),
        };
        let location = self.locator.locate(&statements);
        let operator = match self.locator.operator(&statements) {
            None => 0,
            Some(OperatorChoice::Entry(at)) => operator_index(at),
            Some(OperatorChoice::BuiltIn(operator)) => self.operators.id(operator),
        };
        let ordinary = kind == AddressKind::Ordinary;
        self.classes.id(Class {
            kind,
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
    flatten_prefixes(prefixes.collect())
        .into_iter()
        .map(|(start, chain)| (start, value(chain)))
        .collect()
}

/// Disjoint ranges as a layer.
fn starts<A: Bits, V: Copy>(
    ranges: &[(A, A, V)],
    value: impl Fn(V) -> u32,
) -> impl Iterator<Item = (A, u32)> {
    let following = ranges.iter().skip(1).map(|&(first, ..)| Some(first)).chain([None]);
    ranges.iter().zip(following).flat_map(move |(&(first, last, said), following)| {
        let gap = last.next().filter(|&gap| following != Some(gap));
        std::iter::once((first, value(said))).chain(gap.map(|gap| (gap, 0)))
    })
}

/// A layer: where its value changes, ascending, and to what.
type Starts<'a, A> = Box<dyn Iterator<Item = (A, u32)> + 'a>;

/// Walks all layers at once: `piece` hears, in ascending order, every address at which a layer
/// changes, with the value of each layer from there on. The first piece begins at address 0.
/// Each layer is ascending.
fn merge<'a, A: Bits>(layers: Vec<Starts<'a, A>>, mut piece: impl FnMut(A, &[u32])) {
    let mut values = vec![0; layers.len()];
    // Each layer with the first of its starts that lies ahead.
    let ahead = |mut layer: Starts<'a, A>| (layer.next(), layer);
    let mut layers: Vec<_> = layers.into_iter().map(ahead).collect();
    let mut start = A::ZERO;
    loop {
        let mut next: Option<A> = None;
        for ((ahead, layer), value) in layers.iter_mut().zip(&mut values) {
            while let Some((from, said)) = *ahead
                && from <= start
            {
                *value = said;
                *ahead = layer.next();
                debug_assert!(ahead.is_none_or(|(next, _)| from <= next), "no ascending layer");
            }
            if let Some((from, _)) = *ahead {
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
