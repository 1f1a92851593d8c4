//! Whether a service gets one answer over IPv4 and the opposite over IPv6.
//!
//! There is no DNS here: what is compared is all the space of the networks that answer for a service,
//! by `services.csv`. A front is an AS number, or `PROVIDER:anycast`, what that provider publishes as
//! answering from many places. Which network answers for whom is general knowledge of 2026-11-30.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use schengate::control::data::{AsnTable, ProviderTable, embedded_asn, embedded_providers};

use super::{Gate, address, span};

const SERVICES: &str = include_str!("services.csv");

/// From this share of a family on, in per cent, its answer is the one that counts.
const NEARLY_ALL: f64 = 90.0;

/// What of a front is let through.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Let {
    all: f64,
    through: f64,
}

impl Let {
    fn share(self) -> Option<f64> {
        (self.all > 0.0).then(|| 100.0 * self.through / self.all)
    }
}

/// The answers of the services, of each family.
pub(super) struct Services {
    rows: Vec<(&'static str, [Option<f64>; 2])>,
}

impl Services {
    pub(super) fn ask(gate: &Gate) -> Result<Self, Box<dyn std::error::Error>> {
        let (asn, providers) = (embedded_asn()?, embedded_providers()?);
        let mut known: HashMap<&str, [Let; 2]> = HashMap::new();
        let mut rows = Vec::new();
        for line in SERVICES.lines().skip(1) {
            let (name, fronts) =
                line.split_once(',').ok_or("services.csv: a row without a front")?;
            let mut both = [Let::default(); 2];
            for front in fronts.split(' ') {
                if !known.contains_key(front) {
                    known.insert(front, of(gate, front, &asn, &providers)?);
                }
                for (sum, part) in both.iter_mut().zip(known.get(front).into_iter().flatten()) {
                    sum.all += part.all;
                    sum.through += part.through;
                }
            }
            rows.push((name, both.map(Let::share)));
        }
        Ok(Self { rows })
    }

    /// Those that are let through over one family and refused over the other.
    pub(super) fn opposite(&self) -> Vec<&'static str> {
        let opposite = self.rows.iter().filter(|(_, shares)| is_opposite(*shares));
        opposite.map(|row| row.0).collect()
    }

    pub(super) fn lines(&self) -> String {
        let families = |of: &dyn Fn(f64, f64) -> bool| {
            let both = self.rows.iter().filter_map(|(_, [v4, v6])| Some(((*v4)?, (*v6)?)));
            both.filter(|&(v4, v6)| of(v4, v6)).count()
        };
        let refused = families(&|v4, v6| v4 <= 100.0 - NEARLY_ALL && v6 <= 100.0 - NEARLY_ALL);
        let through = families(&|v4, v6| v4 >= NEARLY_ALL && v6 >= NEARLY_ALL);
        let apart = self.rows.iter().filter_map(|(name, [v4, v6])| {
            let (v4, v6) = ((*v4)?, (*v6)?);
            ((v4 - v6).abs() > 10.0).then(|| format!("\n  {name}: {v4:.1} % and {v6:.1} %"))
        });
        format!(
            "services: {} by the space of their networks, {} with both families; refused over both \
             {refused}, let through over both {through}, opposite {}; more than 10 points apart:{}",
            self.rows.len(),
            families(&|_, _| true),
            self.opposite().len(),
            apart.collect::<String>()
        )
    }
}

fn is_opposite(shares: [Option<f64>; 2]) -> bool {
    match shares {
        [Some(v4), Some(v6)] => {
            let (less, more) = (v4.min(v6), v4.max(v6));
            less <= 100.0 - NEARLY_ALL && more >= NEARLY_ALL
        }
        [None, _] | [_, None] => false,
    }
}

/// What is let through of one front, of each family.
fn of(
    gate: &Gate,
    front: &str,
    asn: &AsnTable,
    providers: &ProviderTable,
) -> Result<[Let; 2], String> {
    let bad = || format!("services.csv: `{front}` is no front that the tables know");
    let spans: [Vec<(u128, u128)>; 2] = if let Some(number) = front.strip_prefix("AS") {
        let number: u32 = number.parse().map_err(|_| bad())?;
        let v4 = asn.ranges.v4.iter().filter(|range| range.2 == number);
        let v6 = asn.ranges.v6.iter().filter(|range| range.2 == number);
        [v4.map(|r| (r.0.into(), r.1.into())).collect(), v6.map(|r| (r.0, r.1)).collect()]
    } else {
        let provider = front.strip_suffix(":anycast").ok_or_else(bad)?;
        let rows = providers.rows.iter().filter(|row| row.anycast && row.provider == provider);
        let nets: Vec<&IpNet> = rows.map(|row| &row.net).collect();
        [true, false].map(|v4| {
            let mine = nets.iter().filter(|net| net.addr().is_ipv4() == v4);
            mine.map(|net| span(net)).collect()
        })
    };
    if spans.iter().all(Vec::is_empty) {
        return Err(bad());
    }
    Ok([4, 6].map(|family| {
        let mut part = Let::default();
        for &(first, last) in &spans[usize::from(family == 6)] {
            gate.pieces(family, first, last, |size, at| {
                part.all += size;
                part.through += if gate.forwards(at) { size } else { 0.0 };
            });
        }
        part
    }))
}

/// Of a list of prefixes that answer from many places, one a line: how many there are, and those of
/// which some address is let through; IPv4, IPv6.
pub(super) fn census(gate: &Gate, text: &str) -> Result<[(usize, Vec<IpNet>); 2], String> {
    let mut families = [(0, Vec::new()), (0, Vec::new())];
    for (row, line) in (1..).zip(text.lines()) {
        let word = line.split(',').next().unwrap_or_default().trim();
        if word.is_empty() || word.starts_with('#') {
            continue;
        }
        let net: IpNet =
            word.parse().map_err(|_| format!("row {row}: `{word}` is not a prefix"))?;
        let (first, last) = span(&net);
        let family = if net.addr().is_ipv4() { 4 } else { 6 };
        let mut some = false;
        gate.pieces(family, first, last, |_, at| some |= gate.forwards(at));
        let (all, through) = &mut families[usize::from(family == 6)];
        *all += 1;
        if some {
            through.push(net);
        }
    }
    Ok(families)
}

impl Gate {
    /// Tells of each piece from `first` to `last`, of which one thing is said throughout, its size and
    /// its first address.
    fn pieces(&self, family: u8, first: u128, last: u128, mut piece: impl FnMut(f64, IpAddr)) {
        let edges = &self.edges[usize::from(family == 6)];
        let from = edges.partition_point(|&edge| edge <= first);
        let inner = edges.iter().skip(from).take_while(|&&edge| edge <= last).copied();
        let mut start = first;
        for end in inner.chain([last.saturating_add(1)]) {
            piece((end - start) as f64, address(family, start));
            start = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_opposite_where_one_family_is_let_through_and_the_other_refused() {
        assert!(is_opposite([Some(0.0), Some(100.0)]));
        assert!(is_opposite([Some(95.0), Some(3.0)]));
        assert!(!is_opposite([Some(40.0), Some(100.0)]));
        assert!(!is_opposite([Some(100.0), None]));
    }

    #[test]
    fn no_well_known_service_is_answered_oppositely_over_the_two_families() {
        let gate = Gate::new(&[]).unwrap();
        let services = Services::ask(&gate).unwrap();
        assert!(services.rows.len() >= 200, "{}", services.rows.len());
        assert_eq!(services.opposite(), [""; 0], "{}", services.lines());
    }

    #[test]
    fn a_census_counts_a_prefix_of_which_any_address_is_let_through() {
        let gate = Gate::new(&[]).unwrap();
        let text = "# a list\n1.1.1.0/24\n213.186.32.0/19,OVH\n\n2606:4700::/44\n";
        let [(v4, through), (v6, none)] = census(&gate, text).unwrap();
        assert_eq!((v4, v6), (2, 1));
        assert_eq!(through, ["213.186.32.0/19".parse::<IpNet>().unwrap()]);
        assert!(none.is_empty());
        let fault = census(&gate, "1.1.1.0/24\nfar").unwrap_err();
        assert_eq!(fault, "row 2: `far` is not a prefix");
    }
}
