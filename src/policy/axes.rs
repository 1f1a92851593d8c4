//! The axes of a judgement: every cause that holds is weighed, the strictest action decides
//! (docs/policy.md §3, step 3).

use super::address_table::{AddressTable, Class, Location};
use super::blueprint::Causes;
use super::{Action, AddressKind, CountrySet, Reason};

/// What the axes say where something is not to be found.
const UNKNOWN: (Action, Reason) = (Action::Block, Reason::Unknown);

/// What the axes come to, weighed ahead for every profile and every class of addresses.
#[derive(Debug)]
pub(super) struct AxesTable {
    profiles: Box<[Profile]>,
    /// Profile by profile, class by class.
    outcomes: Box<[(Action, Reason)]>,
    /// Classes of addresses.
    classes: usize,
    /// Whether each source of the address table is older than allowed.
    stale: Box<[bool]>,
}

impl AxesTable {
    /// Weighs everything.
    pub(super) fn build(table: &AddressTable, profiles: Vec<Profile>, stale: &[bool]) -> Self {
        let classes = table.classes();
        let weighed = |profile: &Profile, class: &Class| {
            class_facts(table, class, stale)
                .map_or(UNKNOWN, |facts| weigh(profile, &facts, |_, _| ()))
        };
        let outcomes = profiles
            .iter()
            .flat_map(|profile| classes.iter().map(move |class| weighed(profile, class)))
            .collect();
        Self { profiles: profiles.into(), outcomes, classes: classes.len(), stale: stale.into() }
    }

    /// A profile by its index.
    #[inline(always)]
    pub(super) fn profile(&self, index: u32) -> Option<&Profile> {
        self.profiles.get(index as usize)
    }

    /// What the axes come to for a class of addresses by itself.
    #[inline(always)]
    pub(super) fn of_class(&self, profile: u32, class: usize) -> (Action, Reason) {
        let at = profile as usize * self.classes + class;
        self.outcomes.get(at).copied().unwrap_or(UNKNOWN)
    }

    /// The same for each profile.
    pub(super) fn of_each_profile(&self, class: usize) -> Vec<(Action, Reason)> {
        (0..).zip(&self.profiles).map(|(profile, _)| self.of_class(profile, class)).collect()
    }

    /// What the axes come to for a class of which a name says more: `change` adds it. `heard` is told
    /// each cause.
    pub(super) fn weighed(
        &self,
        table: &AddressTable,
        (profile, class): (u32, usize),
        change: impl FnOnce(&mut Facts<'_>),
        heard: impl FnMut(Reason, Action),
    ) -> (Action, Reason) {
        let facts = table.classes().get(class);
        let facts = facts.and_then(|class| class_facts(table, class, &self.stale));
        let (Some(profile), Some(mut facts)) = (self.profile(profile), facts) else {
            return UNKNOWN;
        };
        change(&mut facts);
        weigh(profile, &facts, heard)
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.outcomes)
    }
}

/// What the axes look at for a class by itself, without a name.
fn class_facts<'a>(table: &'a AddressTable, class: &Class, stale: &[bool]) -> Option<Facts<'a>> {
    let location = table.locations().get(class.location as usize)?;
    let operator = table.operators().get(class.operator as usize)?;
    let too_old = |source: u32| stale.get(source as usize).copied().unwrap_or(false);
    Some(Facts {
        kind: class.kind,
        location,
        homes: operator.homes,
        operator_known: operator.is_known(),
        stale: location.source.is_some_and(too_old),
    })
}

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
