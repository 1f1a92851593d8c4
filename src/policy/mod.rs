//! Facts in, a verdict out. Pure and immutable; the same code for the data plane, the command line
//! and replay.
//!
//! A policy is compiled when it is loaded. Each dimension of a question is looked up once: client
//! address (`clients`), destination address, port, carrier (transport and protocol) and name each
//! give a set of rules (`rule_index`) as bits (`rule_set`); the first bit of their intersection is
//! the rule that decides. What the axes say is computed ahead for each class of addresses and each
//! group (`axes`). So a verdict is a few table look-ups, a few words and-ed and a count of trailing
//! zeros, whatever the number of rules, and touches neither heap nor clock.

mod address;
mod address_table;
mod axes;
mod blueprint;
mod clients;
mod compile;
mod country;
mod decide;
mod decide_name;
#[cfg(test)]
pub(crate) mod fixture;
mod flatten;
mod host_list;
mod huge_pages;
mod ip_table;
mod live;
mod name_table;
mod outlook;
mod own;
pub mod probe;
mod rule_index;
mod rule_set;
mod shortcut;
mod verdict;
mod widening;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::identify::HostName;

pub use address::{AddressKind, Target, address_kind, canonical, special_v4, special_v6, target};
pub use address_table::{
    AddressTable, AddressTableParts, Class, Location, Operator, SourceNote, leads,
};
pub use blueprint::{Blueprint, Causes, FromSpec, GroupSpec, RuleSpec};
pub use country::{Country, CountrySet};
pub use decide::{Step, Trace};
pub use flatten::{AddressBits, flatten_prefixes};
pub use host_list::{HostList, HostListBuilder, HostRef};
pub use ip_table::{IpTable, Memory};
pub use live::{Lapsed, Live};
pub use name_table::NameTable;
pub use outlook::Outlook;
pub use shortcut::{
    Clients, Datapath, INTERVALS_MAX, Interval, KernelVerdict, PORT_CLASSES_MAX, Place, PortClass,
    Shortcut, SlowPathReason, TooMuch,
};
pub use verdict::{
    Action, Binding, Claim, Denial, Ech, GroupId, Mode, Permit, Question, Reason, RuleId,
    Transport, Verdict,
};
pub use widening::{Host, Widened, Widening, widening};

use axes::AxesTable;
use clients::ClientIndex;
use own::OwnAddresses;
use rule_index::RuleIndex;

/// A compiled policy: every table and every rule, good until an instant.
#[derive(Debug)]
pub struct Policy {
    terms: Terms,
    own: OwnAddresses,
    binding: Binding,
    ech: Ech,
    address_table: Arc<AddressTable>,
    clients: ClientIndex,
    index: RuleIndex,
    axes: AxesTable,
    /// The policies of [`fixture`] alone judge the loopback addresses as they judge others.
    #[cfg(test)]
    opens_loopback: bool,
}

/// What a policy says of itself; no verdict depends on it.
#[derive(Debug)]
struct Terms {
    version: String,
    valid_until_ms: i64,
    contact: Option<String>,
    ask_url: Option<String>,
    grace: Duration,
}

/// What is known of one address, for records, answers and `explain`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AddressInfo<'a> {
    /// Every country that the address may be in; empty where unknown or anycast.
    pub codes: CountrySet,
    /// Announced from many places.
    pub anycast: bool,
    /// The source that gave the location, by its short name.
    pub source: Option<&'a str>,
    /// `provider:region`, where one was published (the first of several).
    pub region: Option<&'a str>,
    /// Operator id.
    pub operator: Option<&'a str>,
    /// AS number.
    pub asn: Option<u32>,
    /// Every law that may reach the holder: the operator's homes and the location.
    pub law: CountrySet,
}

impl Policy {
    /// How names are tied to addresses.
    #[must_use]
    pub const fn binding(&self) -> Binding {
        self.binding
    }

    /// What is known of an address, without regard to any name.
    #[must_use]
    pub fn address_info(&self, address: IpAddr) -> AddressInfo<'_> {
        let address_table = &self.address_table;
        let class = address_table.classes().get(address_table.class_of(target(address).judged));
        let location =
            class.and_then(|class| address_table.locations().get(class.location as usize));
        let operator =
            class.and_then(|class| address_table.operators().get(class.operator as usize));
        let source = location
            .and_then(|at| at.source)
            .and_then(|at| address_table.sources().get(at as usize));
        let region = location.and_then(|at| at.regions.first().copied());
        let codes = location.map_or(CountrySet::EMPTY, |location| location.codes);
        AddressInfo {
            codes,
            anycast: location.is_some_and(|location| location.anycast),
            source: source.map(|source| source.name.as_str()),
            region: region
                .and_then(|at| address_table.regions().get(at as usize))
                .map(String::as_str),
            operator: operator.map(|operator| operator.id.as_str()).filter(|id| !id.is_empty()),
            asn: class.map(|class| class.asn).filter(|&asn| asn != 0),
            law: codes | operator.map_or(CountrySet::EMPTY, |operator| operator.homes),
        }
    }

    /// The law that a name adds, whatever address it has.
    #[must_use]
    pub fn name_law(&self, name: &HostName) -> CountrySet {
        self.index
            .law_of(name)
            .and_then(|law| self.index.law(law))
            .map(|law| law.homes)
            .unwrap_or_default()
    }

    /// The facts by address.
    #[must_use]
    pub fn address_table(&self) -> &AddressTable {
        &self.address_table
    }

    /// The name of a rule.
    #[must_use]
    pub fn rule_name(&self, rule: RuleId) -> &str {
        self.index.rules.get(rule.0 as usize).map_or("", |rule| rule.name.as_str())
    }

    /// The ground on which data leave by a rule, as the policy file says.
    #[must_use]
    pub fn rule_basis(&self, rule: RuleId) -> Option<&str> {
        self.index.rules.get(rule.0 as usize)?.basis.as_deref()
    }

    /// The name of a group; `default` is the policy of clients in no group.
    #[must_use]
    pub fn group_name(&self, group: GroupId) -> &str {
        self.clients.groups.get(group.0 as usize).map_or("default", |group| group.name.as_str())
    }

    /// The policy's version: the first 12 hex digits of the digest of file and data.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.terms.version
    }

    /// The operator's contact line for those who are refused.
    #[must_use]
    pub fn contact(&self) -> Option<&str> {
        self.terms.contact.as_deref()
    }

    /// Where those who are refused can ask for the destination.
    #[must_use]
    pub fn ask_url(&self) -> Option<&str> {
        self.terms.ask_url.as_deref()
    }

    /// How long a live connection that is no longer permitted may go on.
    #[must_use]
    pub const fn grace(&self) -> Duration {
        self.terms.grace
    }

    /// First instant, in milliseconds since 1970 UTC, at which the policy is no longer what the
    /// file says (a waiver ends, a zone changes); `i64::MAX` where there is none.
    #[must_use]
    pub const fn valid_until_ms(&self) -> i64 {
        self.terms.valid_until_ms
    }

    /// Whether some client is under `enforce`.
    #[must_use]
    pub fn enforces(&self) -> bool {
        self.clients.groups.iter().any(|group| group.mode == Mode::Enforce)
    }

    /// Bytes held by tables and sets, the address table included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.address_table.table_bytes()
            + self.clients.table.bytes()
            + self.index.bytes()
            + self.axes.bytes()
    }
}
