//! What is known of every address, whatever the policy permits: address -> class, class -> facts.
//! It does not depend on the time, so that a policy that changes with the calendar shares it.

use std::mem;
use std::net::IpAddr;

use super::ip_table::{IpTable, Memory};
use super::{AddressKind, CountrySet};

/// Where an address may be, and who says so. Interned: many classes share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Location {
    /// Every country that it may be in.
    pub codes: CountrySet,
    /// Some possibility is not known: no source knows it, or an unknown region.
    pub unknown: bool,
    /// Some possibility is that it is announced from many places.
    pub anycast: bool,
    /// Countries that lower-ranked tables name and the deciding one does not.
    pub dissent: CountrySet,
    /// The dissenting statements: index into [`AddressTable::sources`], and the country.
    pub dissenters: Vec<(u32, super::Country)>,
    /// Published regions, as indices into [`AddressTable::regions`].
    pub regions: Vec<u32>,
    /// Index into [`AddressTable::sources`] of the one that gave the location.
    pub source: Option<u32>,
    /// A `[[place]]` gave it.
    pub placed: bool,
}

impl Location {
    /// Whether every possibility is a known country.
    #[must_use]
    pub fn is_known(&self) -> bool {
        !self.unknown && !self.anycast && !self.codes.is_empty()
    }
}

/// Whose an address is. The first of [`AddressTable::operators`] stands for nobody known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Operator {
    /// Operator id.
    pub id: String,
    /// Countries whose law reaches it by its seat.
    pub homes: CountrySet,
    /// Countries of the technology it runs on; shown, never judged.
    pub technology: CountrySet,
    /// Whose it is, or whose law reaches that one, is in doubt: the homes count, and the cause
    /// `operator` holds beside them.
    pub uncertain: bool,
    /// What says so: `[[operator]]`, a provider's ranges, the built-in table, the registrant table.
    pub source: String,
}

impl Operator {
    /// Whether somebody says who it is, or at least where the holder is registered.
    #[must_use]
    pub fn is_named(&self) -> bool {
        !self.id.is_empty() || !self.homes.is_empty()
    }

    /// Whether that is beyond doubt.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.is_named() && !self.uncertain
    }
}

/// Whether `words` are whole leading words of the operator id `id`, or all of it: how a block rule
/// names operators (docs/policy.md §3).
#[must_use]
pub fn leads(words: &str, id: &str) -> bool {
    id.strip_prefix(words).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// A class of addresses about which the same is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Class {
    /// How the address stands before any table: ordinary, private or special.
    pub kind: AddressKind,
    /// Index into [`AddressTable::locations`].
    pub location: u32,
    /// Index into [`AddressTable::operators`].
    pub operator: u32,
    /// AS number, 0 for unknown.
    pub asn: u32,
    /// Index into [`AddressTable::to_sets`].
    pub to: u32,
}

/// A source of locations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceNote {
    /// Short name.
    pub name: String,
    /// Date of its content, milliseconds since 1970 UTC.
    pub as_of_ms: Option<i64>,
}

/// The parts of an [`AddressTable`]. Every index is into the list it names.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "the fields are the lists that AddressTable hands out")]
pub struct AddressTableParts {
    /// First address and class of each range, ascending, from 0.0.0.0 on.
    pub v4: Vec<(u32, u32)>,
    /// The same for IPv6.
    pub v6: Vec<(u128, u32)>,
    pub classes: Vec<Class>,
    pub locations: Vec<Location>,
    pub operators: Vec<Operator>,
    pub regions: Vec<String>,
    pub sources: Vec<SourceNote>,
    pub to_sets: Vec<Vec<u32>>,
    pub memory: Memory,
}

/// The facts about every address.
#[derive(Debug)]
pub struct AddressTable {
    table: IpTable,
    parts: AddressTableParts,
    /// The ranges of IPv4, where its table is not yet what `memory` says.
    compact: Option<Vec<(u32, u32)>>,
}

impl AddressTable {
    /// Freezes the parts.
    #[must_use]
    pub fn build(mut parts: AddressTableParts) -> Self {
        let (v4, v6) = (mem::take(&mut parts.v4), mem::take(&mut parts.v6));
        Self { table: IpTable::build_from(v4, v6, parts.memory), parts, compact: None }
    }

    /// As [`AddressTable::build`], and the ranges can still be read, for as much memory again.
    #[must_use]
    pub fn keeping_ranges(parts: AddressTableParts) -> Self {
        let table = IpTable::build(&parts.v4, &parts.v6, parts.memory);
        Self { table, parts, compact: None }
    }

    /// With a compact table, whatever `memory` says: what can be built beside a fast one without
    /// taking as much again. It answers the same, a little later.
    #[must_use]
    pub fn compact(mut parts: AddressTableParts, keeps_ranges: bool) -> Self {
        let table = IpTable::build(&parts.v4, &parts.v6, Memory::Compact);
        let v4 = if keeps_ranges {
            parts.v4.clone()
        } else {
            parts.v6 = Vec::new();
            mem::take(&mut parts.v4)
        };
        Self { table, parts, compact: Some(v4) }
    }

    /// The same as its `memory` says; `None` where it is that already.
    #[must_use]
    pub fn promoted(&self) -> Option<Self> {
        let v4 = self.compact.as_ref()?;
        let table = self.table.with_v4(v4, self.parts.memory);
        Some(Self { table, parts: self.parts.clone(), compact: None })
    }

    /// Whether the table is smaller and slower than its `memory` says.
    #[must_use]
    pub const fn is_compact(&self) -> bool {
        self.compact.is_some()
    }

    /// First address and class of each range of IPv4; none where they were not kept.
    #[must_use]
    pub fn v4_ranges(&self) -> &[(u32, u32)] {
        &self.parts.v4
    }

    /// As [`AddressTable::v4_ranges`], of IPv6.
    #[must_use]
    pub fn v6_ranges(&self) -> &[(u128, u32)] {
        &self.parts.v6
    }

    /// The class of an address, as an index into [`AddressTable::classes`].
    #[must_use]
    #[inline]
    pub fn class_of(&self, address: IpAddr) -> usize {
        self.table.value(address) as usize
    }

    /// Every class.
    #[must_use]
    pub fn classes(&self) -> &[Class] {
        &self.parts.classes
    }

    /// The locations that classes point to.
    #[must_use]
    pub fn locations(&self) -> &[Location] {
        &self.parts.locations
    }

    /// The operators that classes point to; the first is nobody known.
    #[must_use]
    pub fn operators(&self) -> &[Operator] {
        &self.parts.operators
    }

    /// Regions, `provider:region`.
    #[must_use]
    pub fn regions(&self) -> &[String] {
        &self.parts.regions
    }

    /// Sources of locations.
    #[must_use]
    pub fn sources(&self) -> &[SourceNote] {
        &self.parts.sources
    }

    /// The sets of rules whose `to` holds an address, by position among the rules that have one: so
    /// that a rule without a `to` changes nothing here.
    #[must_use]
    pub fn to_sets(&self) -> &[Vec<u32>] {
        &self.parts.to_sets
    }

    /// Bytes held by the address table.
    #[must_use]
    pub fn table_bytes(&self) -> usize {
        self.table.bytes()
    }
}
