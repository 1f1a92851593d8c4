//! The axes of a judgement: every cause that holds is weighed, the strictest action decides
//! (docs/policy.md §3, step 3).

use super::address_table::Location;
use super::blueprint::Causes;
use super::{Action, AddressKind, CountrySet, Reason};

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
    pub(super) kind: AddressKind,
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
    if facts.kind == AddressKind::Private && !location.placed {
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

/// Whether one more law could turn what [`weigh`] came to. Only one cause knows of laws: what was
/// found before it stands against an action that is no stricter, and what was found behind it yields
/// to one that is as strict.
#[inline(always)]
pub(super) fn law_may_turn(profile: &Profile, (action, reason): (Action, Reason)) -> bool {
    let on_law = profile.on.law;
    let behind = matches!(reason, Reason::Operator | Reason::Stale) && on_law == action;
    profile.permit_law.is_some() && reason != Reason::Private && (on_law > action || behind)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Country;
    use super::*;

    fn set(codes: &[&str]) -> CountrySet {
        let mut set = CountrySet::EMPTY;
        codes.iter().filter_map(|code| Country::from_code(code)).for_each(|code| set.insert(code));
        set
    }

    proptest! {
        /// Over every action of every cause and every fact: what no law turns stays whatever law a
        /// name adds, and what one may turn is turned by some law.
        #[test]
        fn a_law_turns_what_may_be_turned_and_nothing_else(
            on in prop::collection::vec(prop::sample::select(Action::ALL.to_vec()), 7),
            facts in any::<[bool; 7]>(),
            judges_law in any::<bool>(),
            home in prop::sample::select(vec!["FR", "US"]),
            code in prop::sample::select(vec!["", "FR", "US"]),
        ) {
            let [unknown, anycast, placed, private, operator_known, stale, dissents] = facts;
            let &[outside, law, operator, unknown_place, disputed, edge, rest] = &*on else {
                return Err(TestCaseError::fail("seven actions"));
            };
            let profile = Profile {
                permit: set(&["FR"]),
                permit_law: judges_law.then(|| set(&["FR"])),
                on: Causes {
                    outside,
                    law,
                    operator,
                    unknown: unknown_place,
                    disputed,
                    anycast: edge,
                    mismatch: rest,
                    unread: rest,
                    malformed: rest,
                    stale: rest,
                    private: rest,
                },
            };
            let location = Location {
                codes: set(&[code]),
                unknown,
                anycast,
                dissent: if dissents { set(&["US"]) } else { CountrySet::EMPTY },
                placed,
                ..Location::default()
            };
            let kind = if private { AddressKind::Private } else { AddressKind::Ordinary };
            let facts =
                Facts { kind, location: &location, homes: set(&[home]), operator_known, stale };
            let alone = weigh(&profile, &facts, |_, _| ());
            let with = |code| {
                weigh(&profile, &Facts { homes: facts.homes | set(&[code]), ..facts }, |_, _| ())
            };
            prop_assert_eq!(with("FR"), alone);
            prop_assert_eq!(law_may_turn(&profile, alone), with("RU") != alone);
        }
    }
}
