//! A policy as plain data, resolved for one instant: what the control plane hands over to be
//! compiled.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::{Action, AddressTable, Binding, CountrySet, Ech, HostList, Mode, Transport};
use crate::identify::{HostName, Protocol};

/// Everything that one compiled policy is made of.
#[derive(Debug)]
pub struct Blueprint {
    /// Short digest of file and data.
    pub version: String,
    /// First instant, ms since 1970 UTC, at which the blueprint is no longer what the file says.
    pub valid_until_ms: i64,
    /// The facts by address. Its `to_sets` are those of the `rules` that have a `to`.
    pub address_table: Arc<AddressTable>,
    /// For each of the address table's sources, whether it is older than the file allows.
    pub stale: Vec<bool>,
    /// Addresses that are the gateway itself, on every port.
    pub own: Vec<IpAddr>,
    /// Addresses that are the gateway itself on one port.
    pub own_ports: Vec<(IpAddr, u16)>,
    /// The default policy first, then the groups in file order.
    pub groups: Vec<GroupSpec>,
    /// In file order; a rule that holds no more, or not yet, keeps its position.
    pub rules: Vec<RuleSpec>,
    /// Hosts of `[[operator]]`: pattern, and index into the address table's operators.
    pub host_operators: Vec<(HostName, bool, u32)>,
    /// What a name adds, whatever address it has: a suffix, which stands for itself and for every
    /// name below it, and the homes of whoever answers to it.
    pub host_laws: Vec<(HostName, CountrySet)>,
    /// How names are tied to addresses.
    pub binding: Binding,
    /// What ECH does to a name.
    pub ech: Ech,
    /// Whom a refused person may ask.
    pub contact: Option<String>,
    /// Where a refused person can ask for the destination.
    pub ask_url: Option<String>,
    /// How long a live connection that is no longer permitted may go on.
    pub grace: Duration,
}

/// The settings of one group of clients.
#[derive(Debug, Clone)]
pub struct GroupSpec {
    /// `default`, or the group's name.
    pub name: String,
    /// Its prefixes: network address and length.
    pub clients: Vec<(IpAddr, u8)>,
    /// Whether verdicts are carried out.
    pub mode: Mode,
    /// Where bytes may land.
    pub permit: CountrySet,
    /// Whose law may reach them, where it is judged.
    pub permit_law: Option<CountrySet>,
    /// What each cause leads to.
    pub on: Causes,
}

/// What each cause leads to (`[policy.on]`); `judge` (for `unread` and `malformed`) is [`Action::Allow`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each field is the cause of its name, docs/policy.md §2")]
pub struct Causes {
    pub outside: Action,
    pub law: Action,
    pub operator: Action,
    pub unknown: Action,
    pub disputed: Action,
    pub anycast: Action,
    pub mismatch: Action,
    pub unread: Action,
    pub malformed: Action,
    pub stale: Action,
    pub private: Action,
}

/// One rule. A condition that is `None` holds for everything.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are the conditions of docs/policy.md §2")]
pub struct RuleSpec {
    pub name: String,
    pub action: Action,
    /// The ground on which data leave by the rule, as its file says.
    pub basis: Option<String>,
    /// The rule has an owner and an end.
    pub waiver: bool,
    /// The rule holds at the blueprint's instant.
    pub active: bool,
    pub from: Option<Vec<FromSpec>>,
    pub host: Option<HostList>,
    /// The rule has a `to`; which addresses that is, say the address table's `to_sets`.
    pub to: bool,
    pub location: Option<CountrySet>,
    pub law: Option<CountrySet>,
    pub operator: Option<Vec<String>>,
    pub asn: Option<Vec<u32>>,
    pub region: Option<Vec<String>>,
    pub port: Option<Vec<RangeInclusive<u16>>>,
    pub transport: Option<Vec<Transport>>,
    pub protocol: Option<Vec<Protocol>>,
}

/// One value of `from`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FromSpec {
    /// Index into [`Blueprint::groups`].
    Group(usize),
    /// Network address and length.
    Net(IpAddr, u8),
}
