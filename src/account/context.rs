//! What many connections have in common, kept once and put into words once.

use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use super::line::{Line, key};
use crate::policy::AddressInfo;

/// What a verdict stands on, beside the connection itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Facts<'a> {
    /// What is known of the destination.
    pub place: AddressInfo<'a>,
    /// Version of the policy; `None` where none was asked.
    pub policy: Option<&'a str>,
    /// Name of the client's group.
    pub group: Option<&'a str>,
    /// Name of the rule that decided.
    pub rule: Option<&'a str>,
    /// The ground on which data leave by that rule.
    pub basis: Option<&'a str>,
}

impl Facts<'_> {
    /// Writes the fields of a record's line that tell it; all null where there is nothing to tell.
    pub(super) fn write(facts: Option<&Self>, line: &mut Line<'_>) {
        let place = facts.map(|facts| &facts.place);
        line.codes(key!("location"), place.map(|place| place.codes));
        line.flag(key!("anycast"), place.map(|place| place.anycast));
        line.text(key!("source"), place.and_then(|place| place.source));
        line.text(key!("region"), place.and_then(|place| place.region));
        line.text(key!("operator"), place.and_then(|place| place.operator));
        line.number(key!("asn"), place.and_then(|place| place.asn).map(u64::from));
        line.codes(key!("law"), place.map(|place| place.law));
        line.text(key!("policy"), facts.and_then(|facts| facts.policy));
        line.text(key!("group"), facts.and_then(|facts| facts.group));
        line.text(key!("rule"), facts.and_then(|facts| facts.rule));
        line.text(key!("basis"), facts.and_then(|facts| facts.basis));
    }
}

/// [`Facts`], owned, since they outlive the policy that judged, and shared by the records of a
/// thread: there are few, and each connection would hold them, and write them twice.
#[derive(Debug)]
pub struct DecisionContext {
    place: AddressInfo<'static>,
    source: Option<Box<str>>,
    region: Option<Box<str>>,
    operator: Option<Box<str>>,
    policy: Option<Box<str>>,
    group: Option<Box<str>>,
    rule: Option<Box<str>>,
    basis: Option<Box<str>>,
    /// The fields of a record's line.
    fields: Box<[u8]>,
}

impl DecisionContext {
    /// The context that these facts are.
    #[must_use]
    pub fn of(facts: &Facts<'_>) -> Arc<Self> {
        const ROOM: usize = 64;
        thread_local! {
            static KEPT: RefCell<[Option<Arc<DecisionContext>>; ROOM]> =
                const { RefCell::new([const { None }; ROOM]) };
        }
        // What tells most of them apart.
        let mut hasher = DefaultHasher::new();
        (facts.place.codes, facts.place.asn, facts.rule).hash(&mut hasher);
        KEPT.with_borrow_mut(|kept| match kept.get_mut(hasher.finish() as usize % ROOM) {
            Some(Some(known)) if known.facts() == *facts => Arc::clone(known),
            Some(place) => Arc::clone(place.insert(Arc::new(Self::new(facts)))),
            None => Arc::new(Self::new(facts)),
        })
    }

    fn new(facts: &Facts<'_>) -> Self {
        let owned = |text: Option<&str>| text.map(Box::from);
        let place = facts.place;
        let mut fields = Vec::new();
        Facts::write(Some(facts), &mut Line::begin(&mut fields));
        Self {
            source: owned(place.source),
            region: owned(place.region),
            operator: owned(place.operator),
            place: AddressInfo { source: None, region: None, operator: None, ..place },
            policy: owned(facts.policy),
            group: owned(facts.group),
            rule: owned(facts.rule),
            basis: owned(facts.basis),
            fields: fields.into(),
        }
    }

    /// What they are.
    #[must_use]
    pub fn facts(&self) -> Facts<'_> {
        Facts {
            place: AddressInfo {
                source: self.source.as_deref(),
                region: self.region.as_deref(),
                operator: self.operator.as_deref(),
                ..self.place
            },
            policy: self.policy.as_deref(),
            group: self.group.as_deref(),
            rule: self.rule.as_deref(),
            basis: self.basis.as_deref(),
        }
    }

    /// Whether another one tells the same of the connection, whichever policy and table it has it from.
    #[must_use]
    pub fn says_as(&self, other: &Self) -> bool {
        fn told(context: &DecisionContext) -> Facts<'_> {
            let facts = context.facts();
            Facts { place: AddressInfo { source: None, ..facts.place }, policy: None, ..facts }
        }
        told(self) == told(other)
    }

    /// The same, where another thing than the rule decided.
    #[must_use]
    pub fn without_rule(&self) -> Arc<Self> {
        Self::of(&Facts { rule: None, basis: None, ..self.facts() })
    }

    /// The fields of a record's line, as [`Facts::write`] writes them.
    pub(super) fn fields(&self) -> &[u8] {
        &self.fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Country, CountrySet};

    #[test]
    fn grounds_are_kept_once_and_stay_what_they_were() {
        let rules: Vec<String> = (0..1000).map(|number| format!("rule {number}")).collect();
        let facts = |rule: &'static str, asn| Facts {
            rule: Some(rule),
            place: AddressInfo { asn, ..AddressInfo::default() },
            ..Facts::default()
        };
        let of = |rule| Facts { rule: Some(rule), policy: Some("0a"), ..Facts::default() };
        let all: Vec<_> = rules.iter().map(|rule| DecisionContext::of(&of(rule))).collect();
        assert!(all.iter().zip(&rules).all(|(kept, rule)| kept.facts() == of(rule)));
        assert!(Arc::ptr_eq(&DecisionContext::of(&of("rule 999")), &all[999]));
        assert_eq!(all[999].without_rule().facts(), Facts { rule: None, ..of("") });
        assert_ne!(
            *DecisionContext::of(&facts("a", None)).fields(),
            *DecisionContext::of(&facts("a", Some(1))).fields()
        );
    }

    /// Facts that differ in what they are not looked up by.
    #[test]
    fn grounds_that_differ_anywhere_are_not_the_same() {
        let law: CountrySet = Country::all().take(3).collect();
        let place = |change: fn(&mut AddressInfo<'static>)| {
            let mut place = AddressInfo { law: CountrySet::EMPTY, ..AddressInfo::default() };
            change(&mut place);
            Facts { place, ..Facts::default() }
        };
        let all = [
            Facts { place: AddressInfo { law, ..AddressInfo::default() }, ..Facts::default() },
            place(|_| {}),
            place(|place| place.anycast = true),
            place(|place| place.source = Some("a")),
            place(|place| place.region = Some("a")),
            place(|place| place.operator = Some("a")),
            Facts { policy: Some("a"), ..Facts::default() },
            Facts { group: Some("a"), ..Facts::default() },
            Facts { group: Some("b"), ..Facts::default() },
            Facts { basis: Some("a"), ..Facts::default() },
        ];
        for facts in all.iter().chain(&all) {
            let context = DecisionContext::of(facts);
            assert_eq!(context.facts(), *facts);
            let mut fields = Vec::new();
            Facts::write(Some(facts), &mut Line::begin(&mut fields));
            assert_eq!(context.fields(), fields);
        }
    }
}
