//! Small policies for the tests of those who ask one: the real decision over a few addresses.
//!
//! Every address is inside what the policy permits, unless the test says otherwise, and so are the
//! loopback addresses, on which tests have their sockets: a policy of the control plane refuses them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{
    Action, AddressKind, AddressTable, AddressTableParts, Binding, Blueprint, Causes, Class,
    Country, CountrySet, Ech, GroupSpec, HostListBuilder, Location, Memory, Mode, Operator, Policy,
    RuleSpec,
};
use crate::identify::HostName;

/// Where an address lies, as the policy sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// In a country that is permitted.
    Inside,
    /// In one that is not.
    Outside,
    /// Inside, and another source says outside.
    Disputed,
}

/// A policy to be, as plain data.
#[derive(Debug)]
pub(crate) struct Fixture {
    group: GroupSpec,
    rules: Vec<RuleSpec>,
    /// Where addresses lie that are not listed.
    elsewhere: At,
    /// Addresses, where they lie, and whose they are (index into `operators`).
    addresses: Vec<(IpAddr, At, u32)>,
    operators: Vec<Operator>,
    host_operators: Vec<(HostName, bool, u32)>,
    binding: Binding,
    own: Vec<IpAddr>,
    own_ports: Vec<(IpAddr, u16)>,
    grace: Duration,
    valid_until_ms: i64,
    version: &'static str,
}

impl Fixture {
    /// Permits everything; a name that does not belong to its address opens nothing, and where none
    /// could be read the address is judged without one.
    pub(crate) fn new() -> Self {
        let blocks = Action::Block;
        let on = Causes {
            outside: blocks,
            law: blocks,
            operator: blocks,
            unknown: blocks,
            disputed: blocks,
            anycast: blocks,
            mismatch: blocks,
            unread: Action::Allow,
            malformed: Action::Allow,
            stale: blocks,
            private: blocks,
        };
        let group = GroupSpec {
            name: "default".to_owned(),
            clients: Vec::new(),
            mode: Mode::Enforce,
            permit: countries("de"),
            permit_law: None,
            on,
        };
        Self {
            group,
            rules: Vec::new(),
            elsewhere: At::Inside,
            addresses: Vec::new(),
            operators: vec![operator("", "")],
            host_operators: Vec::new(),
            binding: Binding::Verify,
            own: Vec::new(),
            own_ports: Vec::new(),
            grace: Duration::ZERO,
            valid_until_ms: i64::MAX,
            version: "0123456789ab",
        }
    }

    /// As [`Fixture::new`], and no address is inside that is not said to be.
    pub(crate) fn outside() -> Self {
        Self { elsewhere: At::Outside, ..Self::new() }
    }

    /// Where one address lies.
    pub(crate) fn at(self, address: &str, at: At) -> Self {
        self.of(address, at, 0)
    }

    /// Whose one address is (the operators count from 1).
    pub(crate) fn of(mut self, address: &str, at: At, operator: u32) -> Self {
        self.addresses.push((address.parse().unwrap(), at, operator));
        self
    }

    /// Adds an operator with its seat in a country, and the names of its own.
    pub(crate) fn operator(mut self, id: &str, home: &str, names: &[&str]) -> Self {
        let index = u32::try_from(self.operators.len()).unwrap();
        self.operators.push(operator(id, home));
        self.host_operators.extend(names.iter().map(|text| (name(text), false, index)));
        self
    }

    /// Adds a rule behind those before it.
    pub(crate) fn rule(mut self, rule: RuleSpec) -> Self {
        self.rules.push(rule);
        self
    }

    /// Adds a rule about names (see [`by_name`]).
    pub(crate) fn names(self, action: Action, patterns: &[&str]) -> Self {
        self.rule(by_name(action, patterns))
    }

    /// Adds an address of the gateway itself, on one port where that is given.
    pub(crate) fn own(mut self, address: &str, port: Option<u16>) -> Self {
        let ip = address.parse().unwrap();
        match port {
            Some(port) => self.own_ports.push((ip, port)),
            None => self.own.push(ip),
        }
        self
    }

    /// Says what the causes lead to.
    pub(crate) fn on(mut self, change: impl FnOnce(&mut Causes)) -> Self {
        change(&mut self.group.on);
        self
    }

    /// Another version of the same.
    pub(crate) const fn of_version(mut self, version: &'static str) -> Self {
        self.version = version;
        self
    }

    /// Refuses nothing, and says what it would.
    pub(crate) fn observing(mut self) -> Self {
        self.group.mode = Mode::Observe;
        self
    }

    /// How names are tied to addresses.
    pub(crate) fn binding(self, binding: Binding) -> Self {
        Self { binding, ..self }
    }

    /// How long a connection that is no longer permitted may go on.
    pub(crate) fn grace(self, grace: Duration) -> Self {
        Self { grace, ..self }
    }

    /// The same, of a time that is over.
    pub(crate) fn lapsed(self) -> Self {
        Self { valid_until_ms: 0, ..self }
    }

    /// The policy, compiled as the control plane has it compiled.
    pub(crate) fn policy(self) -> Arc<Policy> {
        let rest = (IpAddr::from([0, 0, 0, 0]), self.elsewhere, 0);
        let listed: Vec<_> = std::iter::once(rest).chain(self.addresses).collect();
        let classes = (0..).zip(&listed).map(|(location, &(_, _, operator))| Class {
            kind: AddressKind::Ordinary,
            location,
            operator,
            asn: 0,
            to: 0,
        });
        let locations = listed.iter().map(|&(_, at, _)| Location {
            codes: countries(if at == At::Outside { "us" } else { "de" }),
            dissent: if at == At::Disputed { countries("us") } else { CountrySet::EMPTY },
            ..Location::default()
        });
        let parts = AddressTableParts {
            classes: classes.collect(),
            locations: locations.collect(),
            operators: self.operators,
            to_sets: vec![Vec::new()],
            memory: Memory::Compact,
            v4: ranges(&listed, |ip| match ip {
                IpAddr::V4(ip) => Some((ip.to_bits(), ip.to_bits().checked_add(1))),
                IpAddr::V6(_) => None,
            }),
            v6: ranges(&listed, |ip| match ip {
                IpAddr::V4(_) => None,
                IpAddr::V6(ip) => Some((ip.to_bits(), ip.to_bits().checked_add(1))),
            }),
            ..AddressTableParts::default()
        };
        let mut policy = Policy::build(Blueprint {
            version: self.version.to_owned(),
            valid_until_ms: self.valid_until_ms,
            address_table: Arc::new(AddressTable::build(parts)),
            stale: Vec::new(),
            own: self.own,
            own_ports: self.own_ports,
            groups: vec![self.group],
            rules: self.rules,
            host_operators: self.host_operators,
            host_laws: Vec::new(),
            binding: self.binding,
            ech: Ech::Claim,
            contact: Some("it@hospital.example".to_owned()),
            ask_url: Some("https://ask.hospital.example/".to_owned()),
            grace: self.grace,
        });
        policy.opens_loopback = true;
        Arc::new(policy)
    }
}

/// A rule about names (`name`, or `*.name` for all below it), whatever else is asked.
pub(crate) fn by_name(action: Action, patterns: &[&str]) -> RuleSpec {
    let mut host = HostListBuilder::default();
    for pattern in patterns {
        match pattern.strip_prefix("*.") {
            Some(above) => host.push(&name(above), true),
            None => host.push(&name(pattern), false),
        }
    }
    RuleSpec { host: Some(host.finish()), ..any(action) }
}

/// A rule that holds for everything.
pub(crate) fn any(action: Action) -> RuleSpec {
    RuleSpec {
        name: "rule".to_owned(),
        action,
        basis: None,
        waiver: false,
        active: true,
        from: None,
        host: None,
        to: false,
        location: None,
        law: None,
        operator: None,
        asn: None,
        region: None,
        port: None,
        transport: None,
        protocol: None,
    }
}

/// The set of one country, or of none.
pub(crate) fn countries(code: &str) -> CountrySet {
    let mut set = CountrySet::EMPTY;
    Country::from_code(code).into_iter().for_each(|country| set.insert(country));
    set
}

fn operator(id: &str, home: &str) -> Operator {
    Operator {
        id: id.to_owned(),
        homes: countries(home),
        technology: CountrySet::EMPTY,
        uncertain: false,
        source: "test".to_owned(),
    }
}

fn name(text: &str) -> HostName {
    HostName::parse(text.as_bytes()).unwrap()
}

/// First address and class of each range, where each listed address (but the first, which stands for
/// all others) is a range of its own. `of` gives the bits of an address and of the next one.
fn ranges<A: Ord + Copy + Default>(
    listed: &[(IpAddr, At, u32)],
    of: impl Fn(IpAddr) -> Option<(A, Option<A>)>,
) -> Vec<(A, u32)> {
    let mut ranges = std::collections::BTreeMap::from([(A::default(), 0)]);
    for (class, &(address, ..)) in (0..).zip(listed).skip(1) {
        let Some((first, next)) = of(address) else { continue };
        ranges.insert(first, class);
        if let Some(next) = next {
            ranges.entry(next).or_insert(0);
        }
    }
    ranges.into_iter().collect()
}

/// Leave to dial `destination`.
pub(crate) fn permit(destination: std::net::SocketAddr) -> super::Permit {
    let verdict = super::Verdict::given(Action::Allow, super::Reason::Permitted, destination);
    verdict.permit().unwrap()
}
