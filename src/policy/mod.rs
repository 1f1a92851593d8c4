//! Facts in, a verdict out. Pure and immutable; the same code for the data plane, the command line
//! and replay.
//!
//! A policy is compiled when it is loaded. Each dimension of a question is looked up once: client
//! address, destination address, port, carrier (transport and protocol) and name each give a set of
//! rules as bits (`rule_set`); the first bit of their intersection is the rule that decides. What
//! the axes say is computed ahead for each class of addresses and each group. So a verdict is a few
//! table look-ups, a few words and-ed and a count of trailing zeros, whatever the number of rules,
//! and touches neither heap nor clock.

mod address;
mod address_table;
mod axes;
mod blueprint;
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
pub mod probe;
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

use address::LastBytes;
use axes::Profile;
use rule_set::{RuleSets, SetId};

/// A compiled policy: every table and every rule, good until an instant.
#[derive(Debug)]
pub struct Policy {
    version: String,
    valid_until_ms: i64,
    contact: Option<String>,
    ask_url: Option<String>,
    grace: Duration,
    binding: Binding,
    ech: Ech,
    own: Box<[IpAddr]>,
    own_ports: Box<[(IpAddr, u16)]>,
    /// Of both.
    own_ends: LastBytes,

    address_table: Arc<AddressTable>,
    stale: Box<[bool]>,
    /// For each class of the address table.
    classes: Box<[ClassRules]>,
    /// For each operator of the address table.
    operators: Box<[OperatorRules]>,

    clients: IpTable,
    client_classes: Box<[ClientClass]>,
    groups: Box<[GroupState]>,
    profiles: Box<[Profile]>,
    /// Outcome of the axes, profile by profile, class by class.
    axes: Box<[(Action, Reason)]>,

    rules: Box<[RuleState]>,
    sets: RuleSets,
    port_classes: Box<[u16]>,
    ports: Box<[SetId]>,
    /// One port of each class.
    port_samples: Box<[u16]>,
    names: NameTable,
    name_rules: Box<[NameRules]>,
    /// The operators that have hosts, each once.
    host_operators: Box<[u32]>,
    /// The first rule with a condition about the operator or the law; else [`usize::MAX`].
    asking: usize,
    /// Some rule has a condition about the law.
    asks_law: bool,
    /// The names that add a law, apart from those above: they are asked only where a law could turn
    /// the answer. One more than the index into `name_laws`.
    law_names: NameTable,
    /// What names may add to the law, each set of homes once.
    name_laws: Box<[NameLaw]>,
    /// Rules in force by transport and protocol.
    carriers: [[SetId; 4]; 2],
    /// Rules in force over some protocol of a transport, and over every one.
    any_carrier: [SetId; 2],
    every_carrier: [SetId; 2],
    everything: SetId,
    nothing: SetId,
    /// Rules without `host`, and with one.
    hostless: SetId,
    with_host: SetId,
    /// Rules with `host`, by what they do, in the order of [`Action::ALL`].
    hosted: [SetId; 3],
    fromless: SetId,
    toless: SetId,
    /// Rules without `host`, `from` and `to`.
    loose: SetId,
    block_rules: SetId,
    /// Block rules without a condition about the address, and those whose only ones are about the
    /// operator and its law.
    addressless: SetId,
    unplaced: SetId,
    /// The policies of [`fixture`] alone judge the loopback addresses as they judge others.
    #[cfg(test)]
    opens_loopback: bool,
}

/// The rules that a class of addresses leaves possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct ClassRules {
    /// By all but `to`, with the class's own operator: the common case, in one set.
    all: SetId,
    /// By location, region and AS number.
    geo: SetId,
    /// Those whose `to` holds.
    to: SetId,
    /// By `law`, as far as the place decides it.
    place_law: SetId,
}

/// The rules that an operator leaves possible.
#[derive(Debug, Clone, Copy)]
struct OperatorRules {
    /// By `operator`.
    ids: SetId,
    /// By `law`, as far as the operator's homes decide it.
    laws: SetId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct ClientClass {
    group: u32,
    /// Rules whose `from` holds.
    from: SetId,
}

#[derive(Debug)]
struct GroupState {
    name: String,
    mode: Mode,
    profile: u32,
}

#[derive(Debug)]
struct RuleState {
    name: String,
    basis: Option<String>,
    action: Action,
    reason: Reason,
    has_host: bool,
}

impl RuleState {
    /// An allow or log rule by name holds only where the name is tied to the address.
    fn needs_binding(&self) -> bool {
        self.has_host && self.action != Action::Block
    }
}

/// What the policy file says of a name.
#[derive(Debug, Clone, Copy)]
struct NameRules {
    /// Rules whose `host` holds for the name.
    rules: SetId,
    /// The `[[operator]]` that the name belongs to, as an index into the address table.
    operator: Option<u32>,
}

/// What is known of a name.
#[derive(Debug, Clone, Copy)]
struct NameEntry {
    /// Rules whose `host` holds for the name.
    rules: SetId,
    /// The `[[operator]]` that the name belongs to, as an index into the address table.
    operator: Option<u32>,
    /// What law the name adds, as an index into [`Policy::name_laws`].
    law: Option<u32>,
}

/// The law that some names add.
#[derive(Debug, Clone, Copy)]
struct NameLaw {
    homes: CountrySet,
    /// Rules that these homes leave possible.
    rules: SetId,
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
        self.law_of(name).and_then(|law| self.law(law)).map(|law| law.homes).unwrap_or_default()
    }

    /// The facts by address.
    #[must_use]
    pub fn address_table(&self) -> &AddressTable {
        &self.address_table
    }

    /// The name of a rule.
    #[must_use]
    pub fn rule_name(&self, rule: RuleId) -> &str {
        self.rules.get(rule.0 as usize).map_or("", |rule| rule.name.as_str())
    }

    /// The ground on which data leave by a rule, as the policy file says.
    #[must_use]
    pub fn rule_basis(&self, rule: RuleId) -> Option<&str> {
        self.rules.get(rule.0 as usize)?.basis.as_deref()
    }

    /// The name of a group; `default` is the policy of clients in no group.
    #[must_use]
    pub fn group_name(&self, group: GroupId) -> &str {
        self.groups.get(group.0 as usize).map_or("default", |group| group.name.as_str())
    }

    /// The policy's version: the first 12 hex digits of the digest of file and data.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The operator's contact line for those who are refused.
    #[must_use]
    pub fn contact(&self) -> Option<&str> {
        self.contact.as_deref()
    }

    /// Where those who are refused can ask for the destination.
    #[must_use]
    pub fn ask_url(&self) -> Option<&str> {
        self.ask_url.as_deref()
    }

    /// How long a live connection that is no longer permitted may go on.
    #[must_use]
    pub const fn grace(&self) -> Duration {
        self.grace
    }

    /// First instant, in milliseconds since 1970 UTC, at which the policy is no longer what the
    /// file says (a waiver ends, a zone changes); `i64::MAX` where there is none.
    #[must_use]
    pub const fn valid_until_ms(&self) -> i64 {
        self.valid_until_ms
    }

    /// Whether some client is under `enforce`.
    #[must_use]
    pub fn enforces(&self) -> bool {
        self.groups.iter().any(|group| group.mode == Mode::Enforce)
    }

    /// Bytes held by tables and sets, the address table included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.address_table.table_bytes()
            + self.sets.bytes()
            + self.clients.bytes()
            + self.names.bytes()
            + self.law_names.bytes()
            + size_of_val(&*self.classes)
            + size_of_val(&*self.axes)
            + size_of_val(&*self.port_classes)
    }
}
