//! The space that somebody holds: what a registry has registered for a holder, and what a network
//! announces. Of the rest nothing is kept: DB-IP Lite gives Switzerland for nearly all IPv6 space that
//! nobody holds, and the other tables the seats of the registries for what lies in their pools.

use std::net::IpAddr;

use schengate::control::data::{Located, Ranges};

use super::witness::{Number, Range};

/// Spans of addresses, both ends inside: in any order as they are collected, disjoint and ascending
/// once [`Held::of`] has taken them.
#[derive(Default)]
pub(super) struct Spans {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl Spans {
    pub(super) fn push(&mut self, first: IpAddr, last: IpAddr) {
        match (first, last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => self.v4.push((first.into(), last.into())),
            (IpAddr::V6(first), IpAddr::V6(last)) => self.v6.push((first.into(), last.into())),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {}
        }
    }
}

/// The space that somebody holds.
pub(super) struct Held(Spans);

impl Held {
    pub(super) fn of(registered: &Ranges<Located>, announced: Spans) -> Self {
        let Spans { mut v4, mut v6 } = announced;
        v4.extend(registered.v4.iter().map(|range| (range.0, range.1)));
        v6.extend(registered.v6.iter().map(|range| (range.0, range.1)));
        Self(Spans { v4: joined(v4), v6: joined(v6) })
    }

    /// What of the ranges is held.
    pub(super) fn within(&self, ranges: &Ranges<Located>) -> Ranges<Located> {
        Ranges { v4: cut(&ranges.v4, &self.0.v4), v6: cut(&ranges.v6, &self.0.v6) }
    }
}

fn joined<A: Number>(mut spans: Vec<(A, A)>) -> Vec<(A, A)> {
    spans.sort_unstable();
    let mut into: Vec<(A, A)> = Vec::new();
    for (first, last) in spans {
        match into.last_mut() {
            Some(before) if before.1.after().is_none_or(|next| first <= next) => {
                before.1 = before.1.max(last);
            }
            _ => into.push((first, last)),
        }
    }
    into
}

fn cut<A: Number>(ranges: &[Range<A>], mut spans: &[(A, A)]) -> Vec<Range<A>> {
    let mut kept = Vec::new();
    for &(first, last, value) in ranges {
        while let [(_, end), rest @ ..] = spans
            && *end < first
        {
            spans = rest;
        }
        let inside = spans.iter().take_while(|span| span.0 <= last);
        kept.extend(inside.map(|span| (span.0.max(first), span.1.min(last), value)));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use schengate::policy::Country;

    fn at(code: &str) -> Located {
        Located::Country(Country::from_code(code).unwrap())
    }

    #[test]
    fn nothing_is_said_of_space_that_is_neither_registered_nor_announced() {
        let (fr, ch) = (at("FR"), at("CH"));
        let registered = Ranges { v4: vec![(10, 19, fr), (30, 39, fr)], v6: vec![(10, 19, fr)] };
        let mut announced = Spans::default();
        announced.push(IpAddr::V4(15.into()), IpAddr::V4(24.into()));
        announced.push(IpAddr::V4(u32::MAX.into()), IpAddr::V4(u32::MAX.into()));
        announced.push(IpAddr::V6(18.into()), IpAddr::V6(19.into()));
        let held = Held::of(&registered, announced);
        let table = Ranges {
            v4: vec![(0, 4, ch), (5, 12, ch), (13, 34, fr), (35, u32::MAX, ch)],
            v6: vec![(0, u128::MAX, ch)],
        };
        let wanted = Ranges {
            v4: vec![
                (10, 12, ch),
                (13, 24, fr),
                (30, 34, fr),
                (35, 39, ch),
                (u32::MAX, u32::MAX, ch),
            ],
            v6: vec![(10, 19, ch)],
        };
        assert_eq!(held.within(&table), wanted);
    }
}
