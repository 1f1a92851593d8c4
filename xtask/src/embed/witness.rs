//! One country table out of three, and what speaks against it.
//!
//! Two witnesses that agree decide against the third; where no two do, the first that knows the
//! address decides, but where all three say something else: of that the first is right for one address in
//! nine, and nobody decides. The last of them is kept beside the result, where it says something else. It is
//! the one that does not come from the same work as the other two, so that its dissent says most.
//!
//! Where those two agree on the country in which the address is registered, they may only have copied
//! it: leased space is registered far away. Of a network that the last witness sees nearly whole in one
//! country, that witness then decides for IPv4, unless its country is permitted by the default policy and
//! theirs is not. What the last witness alone knows counts only where the address is registered in the
//! country that it names: it names one for every address, also for those of which it knows nothing.
//! Measured against the places on which GeoLite2 of 2026-09 and IPFire of 2026-06 agree,
//! by `config/README.md`.

use std::collections::HashMap;

use schengate::control::data::{Located, Ranges};
use schengate::policy::Country;

/// Dissent over fewer IPv4 addresses than a /24 has is left out, and over less of IPv6 than a /40.
/// Measured: that keeps 98.0 and 99.9 % of the addresses that are disputed between inside and outside
/// the default policy, and leaves out 7 of 10 pieces that dissent adds to the table of all addresses.
const LEAST_V4: u128 = 1 << 8;
const LEAST_V6: u128 = 1 << 88;

/// What two of three say, and where the last of them says something else.
pub(super) struct Heard {
    pub(super) decided: Ranges<Located>,
    pub(super) dissent: Ranges<Located>,
}

/// What may speak for the last witness: where it is alone, and of IPv4 against the two others.
pub(super) struct Echo<'a> {
    /// Where the holder of each address is registered.
    pub(super) registered: &'a Ranges<Located>,
    /// The one country of the network of each address of IPv4.
    pub(super) homes: &'a [Range<u32>],
    /// Whether the default policy permits a place.
    pub(super) permitted: &'a dyn Fn(Located) -> bool,
}

pub(super) fn hear(witnesses: [&Ranges<Located>; 3], echo: &Echo<'_>) -> Heard {
    let v4 = witnesses.map(|of| of.v4.as_slice());
    let decide_v4 = |said: [Option<Located>; 3], beside: [Option<Located>; 2]| {
        echo.unmasked(said, beside).or_else(|| decide(said, beside))
    };
    let beside = [echo.registered.v4.as_slice(), echo.homes];
    let (decided_v4, dissent_v4) = family(v4, beside, LEAST_V4, &decide_v4);
    let v6 = witnesses.map(|of| of.v6.as_slice());
    let beside = [echo.registered.v6.as_slice(), &[]];
    let (decided_v6, dissent_v6) = family(v6, beside, LEAST_V6, &decide);
    Heard {
        decided: Ranges { v4: decided_v4, v6: decided_v6 },
        dissent: Ranges { v4: dissent_v4, v6: dissent_v6 },
    }
}

/// A range of a table, both ends inside.
pub(super) type Range<A> = (A, A, Located);

impl Echo<'_> {
    /// What the last witness says, where the others only echo the registrant.
    fn unmasked(
        &self,
        [first, second, third]: [Option<Located>; 3],
        [registered, home]: [Option<Located>; 2],
    ) -> Option<Located> {
        let echoed = first.filter(|_| first == second && first == registered)?;
        let other = third.filter(|_| third == home && third != first)?;
        let looser = (self.permitted)(other) && !(self.permitted)(echoed);
        (!looser).then_some(other)
    }
}

/// Each range of `networks` of which `witness` sees more than the network's `share` of the addresses that
/// it places in one country, with that country. Both ascend, and overlap nothing of their own.
pub(super) fn homes(
    networks: &[(u32, u32, u32)],
    witness: &[Range<u32>],
    share: impl Fn(u32) -> f64,
) -> Vec<Range<u32>> {
    let mut seen: HashMap<u32, HashMap<Country, u64>> = HashMap::new();
    let mut ahead = witness;
    for &(first, last, network) in networks {
        says(&mut ahead, first);
        for &(from, to, place) in ahead.iter().take_while(|range| range.0 <= last) {
            let Located::Country(country) = place else { continue };
            let size = u64::from(to.min(last) - from.max(first)) + 1;
            *seen.entry(network).or_default().entry(country).or_default() += size;
        }
    }
    let mut home: HashMap<u32, Located> = HashMap::new();
    for (network, places) in seen {
        let all: u64 = places.values().sum();
        let enough = |size: u64| size as f64 >= share(network) * all as f64;
        let only = places.into_iter().find(|&(_, size)| enough(size));
        home.extend(only.map(|(country, _)| (network, Located::Country(country))));
    }
    let at = |&(first, last, network): &(u32, u32, u32)| Some((first, last, *home.get(&network)?));
    networks.iter().filter_map(at).collect()
}

/// An address of either family, as a number.
pub(super) trait Number: Copy + Ord + Into<u128> + 'static {
    const MAX: Self;
    fn after(self) -> Option<Self>;
    fn before(self) -> Option<Self>;
}

impl Number for u32 {
    const MAX: Self = Self::MAX;
    fn after(self) -> Option<Self> {
        self.checked_add(1)
    }
    fn before(self) -> Option<Self> {
        self.checked_sub(1)
    }
}

impl Number for u128 {
    const MAX: Self = Self::MAX;
    fn after(self) -> Option<Self> {
        self.checked_add(1)
    }
    fn before(self) -> Option<Self> {
        self.checked_sub(1)
    }
}

/// Both tables of one family, ascending, neighbours of one value joined.
fn family<A: Number>(
    witnesses: [&[Range<A>]; 3],
    beside: [&[Range<A>]; 2],
    least: u128,
    decide: &dyn Fn([Option<Located>; 3], [Option<Located>; 2]) -> Option<Located>,
) -> (Vec<Range<A>>, Vec<Range<A>>) {
    let mut edges: Vec<A> = witnesses
        .iter()
        .chain(&beside)
        .flat_map(|ranges| ranges.iter())
        .flat_map(|&(first, last, _)| [Some(first), last.after()])
        .flatten()
        .collect();
    edges.sort_unstable();
    edges.dedup();
    let (mut ahead, mut beside) = (witnesses, beside);
    let (mut decided, mut dissent) = (Vec::new(), Vec::new());
    for (at, &first) in edges.iter().enumerate() {
        let next = edges.get(at + 1).and_then(|next| next.before());
        let last = next.unwrap_or(A::MAX);
        let said = ahead.each_mut().map(|ranges| says(ranges, first));
        let beside = beside.each_mut().map(|ranges| says(ranges, first));
        let Some(place) = decide(said, beside) else { continue };
        push(&mut decided, (first, last, place));
        if let [_, _, Some(other)] = said
            && other != place
        {
            push(&mut dissent, (first, last, other));
        }
    }
    let size = |range: &Range<A>| range.1.into() - range.0.into();
    dissent.retain(|range| size(range) >= least - 1);
    (decided, dissent)
}

/// What a table says of `address`, which lies behind every one asked before.
fn says<A: Number>(ranges: &mut &[Range<A>], address: A) -> Option<Located> {
    while let [(_, last, _), rest @ ..] = *ranges
        && *last < address
    {
        *ranges = rest;
    }
    ranges.first().filter(|range| range.0 <= address).map(|range| range.2)
}

fn decide(
    [first, second, third]: [Option<Located>; 3],
    [registered, _]: [Option<Located>; 2],
) -> Option<Located> {
    match (first, second, third) {
        (_, Some(second), Some(third)) if second == third => Some(second),
        (Some(first), Some(second), Some(third)) if first != second && first != third => None,
        _ => first.or(second).or_else(|| third.filter(|_| third == registered)),
    }
}

fn push<A: Number>(into: &mut Vec<Range<A>>, range: Range<A>) {
    match into.last_mut() {
        Some(last) if last.2 == range.2 && last.1.after() == Some(range.0) => last.1 = range.1,
        _ => into.push(range),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(code: &str) -> Located {
        Located::Country(Country::from_code(code).unwrap())
    }

    fn table(v4: &[(u32, u32, &str)]) -> Ranges<Located> {
        let v4: Vec<_> = v4.iter().map(|&(first, last, code)| (first, last, at(code))).collect();
        let wide = |end: u32| u128::from(end) << 96;
        let v6 = v4.iter().map(|r| (wide(r.0), wide(r.1) | (u128::MAX >> 32), r.2)).collect();
        Ranges { v4, v6 }
    }

    #[test]
    fn two_of_three_decide_and_the_last_one_dissents() {
        let first = table(&[(0, 0x3ff, "FR"), (0x1000, 0x10ff, "NL"), (0x3000, 0x30ff, "FR")]);
        let second = table(&[
            (0x100, 0x2ff, "US"),
            (0x1000, 0x10ff, "NL"),
            (0x2000, 0x20ff, "IE"),
            (0x3000, 0x30ff, "US"),
        ]);
        let third = table(&[
            (0x200, 0x2ff, "US"),
            (0x300, 0x4ff, "DE"),
            (0x1000, 0x1007, "BE"),
            (0x3000, 0x30ff, "DE"),
        ]);
        let registered = table(&[(0x400, 0x47f, "DE"), (0x480, 0x4ff, "US")]);
        let echo = Echo { registered: &registered, homes: &[], permitted: &|_| false };
        let heard = hear([&first, &second, &third], &echo);
        // What the last one alone knows is where the registrant is, or nowhere; so is that of which all
        // three say something else.
        let wanted = table(&[
            (0, 0x1ff, "FR"),
            (0x200, 0x2ff, "US"),
            (0x300, 0x3ff, "FR"),
            (0x400, 0x47f, "DE"),
            (0x1000, 0x10ff, "NL"),
            (0x2000, 0x20ff, "IE"),
        ]);
        assert_eq!(heard.decided, wanted);
        // Eight addresses are too few to be kept; in IPv6 the same range is wide.
        let dissent = table(&[(0x300, 0x3ff, "DE")]);
        assert_eq!(heard.dissent.v4, dissent.v4);
        let dissent = table(&[(0x300, 0x3ff, "DE"), (0x1000, 0x1007, "BE")]);
        assert_eq!(heard.dissent.v6, dissent.v6);
    }

    #[test]
    fn of_a_network_in_one_country_the_last_witness_tells_a_place_from_a_registrants_seat() {
        let leased = table(&[(0, 0x3ff, "SC"), (0x1000, 0x13ff, "SC"), (0x2000, 0x23ff, "US")]);
        let seen = [(0, 0x3ff, "US"), (0x1000, 0x13ff, "US"), (0x2000, 0x23ff, "FR")];
        let seen = table(&seen);
        let networks =
            [(0, 0x3ff, 7), (0x1000, 0x13ff, 8), (0x2000, 0x23ff, 9), (0x4000, 0x40ff, 8)];
        let wide = table(&[
            (0, 0x3ff, "US"),
            (0x1000, 0x13ff, "US"),
            (0x2000, 0x23ff, "FR"),
            (0x4000, 0x40ff, "BE"),
        ]);
        let homes = homes(&networks, &wide.v4, |_| 0.9);
        assert_eq!(
            homes,
            [(0, 0x3ff, at("US")), (0x2000, 0x23ff, at("FR"))],
            "8 is in two countries"
        );
        let echo =
            Echo { registered: &leased, homes: &homes, permitted: &|place| place == at("FR") };
        let heard = hear([&leased, &leased, &seen], &echo);
        // 7 is where it is seen; 8 is nowhere at home; 9 would be permitted then, and stays outside.
        let wanted = table(&[(0, 0x3ff, "US"), (0x1000, 0x13ff, "SC"), (0x2000, 0x23ff, "US")]);
        assert_eq!(heard.decided.v4, wanted.v4);
        assert_eq!(heard.decided.v6, leased.v6, "measured for IPv4 only");
    }

    #[test]
    fn the_last_address_is_reached() {
        let first = table(&[(u32::MAX - 0xff, u32::MAX, "FR")]);
        let third = table(&[(u32::MAX - 0xfff, u32::MAX, "DE")]);
        let echo = Echo { registered: &third, homes: &[], permitted: &|_| false };
        let heard = hear([&first, &Ranges::default(), &third], &echo);
        let wanted =
            table(&[(u32::MAX - 0xfff, u32::MAX - 0x100, "DE"), (u32::MAX - 0xff, u32::MAX, "FR")]);
        assert_eq!(heard.decided, wanted);
        assert_eq!(heard.dissent.v4, [(u32::MAX - 0xff, u32::MAX, at("DE"))]);
    }
}
