//! Facts in, a verdict out. Pure and immutable; the same code for the data plane, the command line
//! and replay.

mod country;
mod live;
mod verdict;

use std::net::IpAddr;

pub use country::{Country, CountrySet};
pub use live::{Lapsed, Live};
pub use verdict::{
    Action, Binding, Claim, Denial, Ech, GroupId, Mode, Permit, Question, Reason, RuleId,
    Transport, Verdict,
};

/// A compiled policy: every table and every rule, good from one instant to another.
#[derive(Debug)]
pub struct Policy {}

/// What is known of one address, for records, answers and `explain`.
#[derive(Debug, Clone, Copy)]
pub struct Whereabouts<'a> {
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

#[expect(clippy::unused_self, reason = "stub")]
impl Policy {
    /// Judges one connection. Pure; allocates nothing.
    #[must_use]
    pub fn decide(&self, question: &Question<'_>) -> Verdict {
        unimplemented!("{question:?}")
    }

    /// The verdict, where no byte that could still be read (name, protocol, ECH) can change it;
    /// `None` where it must be waited for.
    #[must_use]
    pub fn decide_unread(&self, question: &Question<'_>) -> Option<Verdict> {
        unimplemented!("{question:?}")
    }

    /// How names are tied to addresses.
    #[must_use]
    pub fn binding(&self) -> Binding {
        unimplemented!()
    }

    /// What is known of an address.
    #[must_use]
    pub fn whereabouts(&self, address: IpAddr) -> Whereabouts<'_> {
        unimplemented!("{address}")
    }

    /// The name of a rule.
    #[must_use]
    pub fn rule_name(&self, rule: RuleId) -> &str {
        unimplemented!("{rule:?}")
    }

    /// The name of a group; `default` is the policy of clients in no group.
    #[must_use]
    pub fn group_name(&self, group: GroupId) -> &str {
        unimplemented!("{group:?}")
    }

    /// The policy's version: the first 12 hex digits of the digest of file and data.
    #[must_use]
    pub fn version(&self) -> &str {
        unimplemented!()
    }

    /// The operator's contact line for those who are refused.
    #[must_use]
    pub fn contact(&self) -> Option<&str> {
        unimplemented!()
    }

    /// How long a live connection that is no longer permitted may go on.
    #[must_use]
    pub fn grace(&self) -> std::time::Duration {
        unimplemented!()
    }

    /// First instant, in milliseconds since 1970 UTC, at which the policy is no longer what the
    /// file says (a waiver ends, a zone changes); `i64::MAX` where there is none.
    #[must_use]
    pub fn valid_until_ms(&self) -> i64 {
        unimplemented!()
    }
}
