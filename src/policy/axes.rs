//! The axes of a judgement: every cause that holds is weighed, the strictest action decides
//! (docs/policy.md §3, step 3).

use super::atlas::Location;
use super::blueprint::Causes;
use super::{Action, CountrySet, Reason, Standing};

/// What a group permits, and what each cause leads to. Groups with equal settings share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Profile {
    pub(super) permit: CountrySet,
    pub(super) permit_law: Option<CountrySet>,
    pub(super) on: Causes,
}

/// What the axes look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    pub(super) standing: Standing,
    pub(super) location: &'a Location,
    /// Homes of every operator that it may be.
    pub(super) homes: CountrySet,
    /// Whether it is known whose network it is.
    pub(super) operator_known: bool,
    /// The table that gave the location is older than allowed.
    pub(super) stale: bool,
}

/// The strictest cause and its action; `allow` and `permitted` where none holds. `heard` is told
/// every cause that holds, in the order of precedence.
pub(super) fn weigh(
    profile: &Profile,
    facts: &Facts<'_>,
    mut heard: impl FnMut(Reason, Action),
) -> (Action, Reason) {
    let Profile { permit, permit_law, on } = profile;
    let location = facts.location;
    if facts.standing == Standing::Private && !location.placed {
        heard(Reason::Private, on.private);
        return (on.private, Reason::Private);
    }
    let law = location.codes | facts.homes;
    let inside = location.codes.is_subset(*permit);
    let causes = [
        (Reason::Unknown, on.unknown, location.unknown),
        (Reason::Anycast, on.anycast, location.anycast),
        (Reason::Outside, on.outside, !inside),
        (
            Reason::Disputed,
            on.disputed,
            location.is_known() && inside && !location.dissent.is_subset(*permit),
        ),
        (Reason::Law, on.law, permit_law.is_some_and(|permitted| !law.is_subset(permitted))),
        (Reason::Operator, on.operator, permit_law.is_some() && !facts.operator_known),
        (Reason::Stale, on.stale, facts.stale),
    ];
    let mut strictest = (Action::Allow, Reason::Permitted);
    for (reason, action, holds) in causes {
        if holds {
            heard(reason, action);
            if action > strictest.0 {
                strictest = (action, reason);
            }
        }
    }
    strictest
}
