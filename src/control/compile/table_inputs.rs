//! What the policy file adds to the tables, for an instant: all that an address table is built from
//! beside them.
//!
//! [`segments`](super::segments) sees these inputs and the tables, and nothing else of the file, so
//! that equal inputs over the same tables give one address table: a condition that the table is to
//! depend on is added here first, or cannot be reached there.

use ipnet::IpNet;
use jiff::Timestamp;

use crate::control::config::{
    Config, OperatorEntry, Place, PlaceLocation, Shortcut, Term, ZoneList,
};
use crate::policy::{Country, CountrySet, Memory, Operator};

/// The inputs of an address table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TableInputs {
    /// `[[place]]`, in file order.
    pub(super) places: Vec<PlaceOverride>,
    /// `[[operator]]`, in file order.
    pub(super) operators: Vec<OperatorOverride>,
    /// `to` of the rules that have one, in file order.
    pub(super) to: Vec<Vec<IpNet>>,
    /// Whether the country of an address's registrant counts as home where no operator is known.
    pub(super) registrant: bool,
    /// The states of the Union, for regions that are published as standing in several of them.
    pub(super) union: CountrySet,
    pub(super) memory: Memory,
    /// Whether the ranges are read again, for the kernel's sets.
    pub(super) keeps_ranges: bool,
    /// Some `[[place]]` names a zone whose members change with the date: the address table will
    /// have to be built again from the same tables.
    pub(super) moves: bool,
}

/// A `[[place]]`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PlaceOverride {
    pub(super) to: Vec<IpNet>,
    /// `None`: announced from many places.
    pub(super) countries: Option<CountrySet>,
}

/// An `[[operator]]`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OperatorOverride {
    pub(super) operator: Operator,
    pub(super) prefix: Vec<IpNet>,
    pub(super) asn: Vec<u32>,
}

impl TableInputs {
    pub(super) fn of(config: &Config, at: Timestamp) -> Self {
        let Config { policy, places, operators, rules, zones, data, capture, audit, .. } = config;
        let site = |place: &Place| PlaceOverride {
            to: place.to.clone(),
            countries: match &place.location {
                PlaceLocation::Somewhere(list) => Some(zones.resolve(list, at)),
                PlaceLocation::Anycast => None,
            },
        };
        let moves = |place: &Place| match &place.location {
            PlaceLocation::Somewhere(list) => zones.boundaries(list).next().is_some(),
            PlaceLocation::Anycast => false,
        };
        let union = zones.all.iter().position(|zone| zone.name == "eu");
        let union = union.map(Term::Zone).into_iter().collect();
        Self {
            places: places.iter().map(site).collect(),
            operators: operators.iter().map(owner).collect(),
            to: rules.iter().filter_map(|rule| rule.to.clone()).collect(),
            registrant: policy.registrant,
            union: zones.resolve(&ZoneList { plus: union, minus: Vec::new() }, at),
            memory: data.memory,
            // What a reload widens is told by them.
            keeps_ranges: match capture.shortcut {
                Shortcut::Off => audit.is_some(),
                Shortcut::Permitted | Shortcut::Address => true,
            },
            moves: places.iter().any(moves),
        }
    }
}

fn owner(entry: &OperatorEntry) -> OperatorOverride {
    let set = |countries: &[Country]| countries.iter().copied().collect();
    OperatorOverride {
        operator: Operator {
            id: entry.name.clone(),
            homes: set(&entry.homes),
            technology: set(&entry.technology),
            uncertain: false,
            source: "[[operator]]".into(),
        },
        prefix: entry.prefix.clone(),
        asn: entry.asn.clone(),
    }
}
