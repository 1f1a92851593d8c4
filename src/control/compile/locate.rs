//! The statements about one class of addresses -> where it may be and whose it is (docs/policy.md §3).

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use super::table_inputs::TableInputs;
use crate::control::data::{Facts, Located, ProviderRow, RegionPlace, Sources, provider_operator};
use crate::policy::{AddressKind, Country, CountrySet, Location, Operator, SourceNote};

/// What each layer says of a class of addresses; an index into the layer's own list.
#[derive(Debug)]
pub(super) struct Statements<'a> {
    pub(super) kind: AddressKind,
    pub(super) place: Option<usize>,
    /// Rows of the longest provider prefix, as `(table, row)`.
    pub(super) provider: &'a [(usize, usize)],
    /// The facts know the address as one that answers from many places.
    pub(super) anycast: bool,
    /// What each country table says, in their order.
    pub(super) countries: &'a [Option<Located>],
    pub(super) asn: u32,
    /// `[[operator]]` of the most specific prefix.
    pub(super) operator: Option<usize>,
    /// Where the holder is registered, where that counts.
    pub(super) registrant: Option<Country>,
}

/// Everything that statements are read against.
pub(super) struct Locator<'a> {
    inputs: &'a TableInputs,
    sources: &'a Sources,
    regions: HashMap<(&'a str, &'a str), RegionPlace>,
    by_asn: HashMap<u32, usize>,
    built_in: HashMap<u32, &'a crate::control::data::OperatorFact>,
    by_name: HashMap<&'a str, &'a crate::control::data::OperatorFact>,
    facts: &'static Facts,
    /// AS numbers of edge networks, where they count.
    edges: Option<&'static HashSet<u32>>,
    region_ids: HashMap<String, u32>,
    pub(super) region_names: Vec<String>,
}

impl<'a> Locator<'a> {
    pub(super) fn new(inputs: &'a TableInputs, sources: &'a Sources) -> Self {
        let facts = Facts::built_in();
        let by_asn = inputs.operators.iter().enumerate();
        let by_asn =
            by_asn.flat_map(|(index, entry)| entry.asn.iter().map(move |&asn| (asn, index)));
        let region = |fact: &'a crate::control::data::RegionFact| {
            ((fact.provider.as_str(), fact.region.as_str()), fact.place)
        };
        // Several rows of one name: the first is the operator's main network.
        let mut by_name = HashMap::new();
        for fact in &facts.operators {
            by_name.entry(fact.name.as_str()).or_insert(fact);
        }
        Self {
            inputs,
            sources,
            regions: facts.regions.iter().map(region).collect(),
            by_asn: by_asn.collect(),
            built_in: facts.operators.iter().map(|fact| (fact.asn, fact)).collect(),
            by_name,
            facts,
            edges: sources.counts_edges().then_some(&facts.edges),
            region_ids: HashMap::new(),
            region_names: Vec::new(),
        }
    }

    /// The sources of locations: `[[place]]` first, then provider tables, country tables, and the
    /// facts by prefix and by AS number.
    pub(super) fn source_notes(&self) -> Vec<SourceNote> {
        let place = SourceNote { name: "place".into(), as_of_ms: None };
        let providers = self.sources.providers.iter().map(|table| &table.info);
        let countries = self.sources.countries.iter().map(|table| &table.info);
        let note = |info: &crate::control::data::SourceInfo| SourceNote {
            name: info.name.clone(),
            as_of_ms: info.as_of.map(Timestamp::as_millisecond),
        };
        let facts = ["built-in:anycast.csv", "built-in:edges.csv"].map(|name| SourceNote {
            name: name.into(),
            as_of_ms: self.facts.as_of.map(Timestamp::as_millisecond),
        });
        let tables = providers.chain(countries).map(note);
        std::iter::once(place).chain(tables).chain(facts).collect()
    }

    fn provider_source(&self, table: usize) -> u32 {
        index(1 + table)
    }

    fn country_source(&self, table: usize) -> u32 {
        index(1 + self.sources.providers.len() + table)
    }

    /// The file of facts by which the address answers from many places, if any: such an address is
    /// in no country, whatever a country table says of it.
    fn steered(&self, said: &Statements<'_>) -> Option<u32> {
        let edge = self.edges.is_some_and(|edges| edges.contains(&said.asn));
        let file = match (said.anycast, edge) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => return None,
        };
        let Sources { providers, countries, .. } = self.sources;
        Some(index(1 + providers.len() + countries.len() + file))
    }

    pub(super) fn locate(&mut self, said: &Statements<'_>) -> Location {
        let mut location =
            Location { regions: self.regions_of(said.provider), ..Location::default() };
        if let Some(place) = said.place {
            location.placed = true;
            location.source = Some(0);
            let countries = self.inputs.places.get(place).map(|site| site.countries);
            location.anycast = countries == Some(None);
            location.codes = countries.flatten().unwrap_or_default();
            location.unknown = !location.anycast && location.codes.is_empty();
            return location;
        }
        if said.kind != AddressKind::Ordinary {
            location.unknown = true;
            return location;
        }
        // A list without regions says whose a prefix is, and nothing of where it is.
        let located =
            |row: &ProviderRow| row.anycast || row.country.is_some() || !row.region.is_empty();
        let rows = said.provider.iter().filter_map(|&at| Some((at.0, row(self.sources, at)?)));
        let mut rows = rows.filter(|(_, row)| located(row)).peekable();
        if let Some(&(first, _)) = rows.peek() {
            // The source is the table that gave the answer; where none did, the first one asked.
            let mut source = None;
            for (table, row) in rows {
                if self.add(&mut location, row) {
                    source.get_or_insert(table);
                }
            }
            location.source = Some(self.provider_source(source.unwrap_or(first)));
            // AWS lists the prefix of an anycast service under its umbrella service as well, with
            // a region that says nothing about it.
            if location.anycast {
                location.codes = CountrySet::EMPTY;
                location.unknown = false;
            }
            return location;
        }
        if let Some(source) = self.steered(said) {
            (location.anycast, location.source) = (true, Some(source));
            return location;
        }
        let answers = said.countries.iter().enumerate();
        let mut answers = answers.filter_map(|(table, said)| Some((table, (*said)?)));
        let Some((table, first)) = answers.next() else {
            location.unknown = true;
            return location;
        };
        location.source = Some(self.country_source(table));
        match first {
            Located::Country(country) => location.codes.insert(country),
            Located::Anycast => location.anycast = true,
        }
        for (table, other) in answers {
            if let Located::Country(country) = other
                && !location.codes.contains(country)
            {
                location.dissent.insert(country);
                location.dissenters.push((self.country_source(table), country));
            }
        }
        location
    }

    /// Adds the possibilities of one row of a provider's file; `false` where it does not know.
    fn add(&self, location: &mut Location, row: &ProviderRow) -> bool {
        let region = (row.provider.as_str(), row.region.as_str());
        let place = match row.country {
            _ if row.anycast => Some(RegionPlace::Anycast),
            Some(country) => Some(RegionPlace::Country(country)),
            None => self.regions.get(&region).copied(),
        };
        match place {
            Some(RegionPlace::Country(country)) => location.codes.insert(country),
            Some(RegionPlace::Union) => location.codes |= self.inputs.union,
            Some(RegionPlace::Anycast) => location.anycast = true,
            Some(RegionPlace::Several | RegionPlace::Unsourced) | None => {
                location.unknown = true;
                return false;
            }
        }
        true
    }

    /// The index of a region's name among those that were met.
    pub(super) fn region_id(&mut self, name: String) -> u32 {
        let names = &mut self.region_names;
        *self.region_ids.entry(name).or_insert_with_key(|name| {
            names.push(name.clone());
            index(names.len() - 1)
        })
    }

    fn regions_of(&mut self, rows: &[(usize, usize)]) -> Vec<u32> {
        let mut regions = Vec::new();
        let sources = self.sources;
        for row in rows.iter().filter_map(|&at| row(sources, at)) {
            if row.region.is_empty() {
                continue;
            }
            let id = self.region_id(format!("{}:{}", row.provider, row.region));
            if !regions.contains(&id) {
                regions.push(id);
            }
        }
        regions
    }

    /// Whose it is: `[[operator]]` by prefix, by AS number, the provider of the range, the built-in
    /// operator of the AS number; where nobody knows, the country of the registrant, if it counts.
    pub(super) fn operator(&self, said: &Statements<'_>) -> Option<OperatorChoice> {
        if let Some(entry) = said.operator {
            return Some(OperatorChoice::Entry(entry));
        }
        if said.kind != AddressKind::Ordinary {
            return None;
        }
        if let Some(&entry) = self.by_asn.get(&said.asn) {
            return Some(OperatorChoice::Entry(entry));
        }
        let built_in = self.built_in.get(&said.asn).copied();
        let provider = said.provider.first().and_then(|&at| row(self.sources, at));
        let provider = provider.map(|row| row.provider.as_str()).and_then(|provider| {
            let name = provider_operator(provider)?;
            // The AS number names the very company, where it is of the same operator.
            let main = self.by_name.get(name).copied();
            built_in.filter(|fact| main.is_some_and(|main| main.id == fact.id)).or(main)
        });
        let source = if provider.is_some() { "provider" } else { "built-in" };
        let known = provider.or(built_in).map(|fact| Operator {
            id: fact.id.clone(),
            homes: fact.homes,
            technology: CountrySet::EMPTY,
            uncertain: fact.uncertain,
            source: source.into(),
        });
        let registered = || {
            said.registrant.map(|country| Operator {
                id: String::new(),
                homes: CountrySet::from_iter([country]),
                technology: CountrySet::EMPTY,
                uncertain: false,
                source: "registrant".into(),
            })
        };
        known.or_else(registered).map(OperatorChoice::BuiltIn)
    }
}

fn row(sources: &Sources, (table, row): (usize, usize)) -> Option<&ProviderRow> {
    sources.providers.get(table)?.rows.get(row)
}

/// An operator: one of the file's, or a built-in one.
pub(super) enum OperatorChoice {
    /// Index into [`TableInputs::operators`].
    Entry(usize),
    BuiltIn(Operator),
}

fn index(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}
