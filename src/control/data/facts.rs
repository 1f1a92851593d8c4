//! Our own facts, built in: operators, regions, zones. Read once, from the files in `config/facts`.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::OnceLock;

use ipnet::IpNet;
use jiff::Timestamp;
use jiff::civil::Date;

use super::formats::text::{Separator, as_number, begins, fields, lines, prefix};
use super::model::{DomainFact, Facts, OperatorFact, RegionFact, RegionPlace};
use crate::identify::HostName;
use crate::policy::{Country, CountrySet};

const OPERATORS: &str = include_str!("../../../config/facts/operators.csv");
const REGIONS: &str = include_str!("../../../config/facts/cloud-regions.csv");
pub(super) const SERVICES: &str = include_str!("../../../config/facts/services.csv");
const DOMAINS: &str = include_str!("../../../config/facts/operator-domains.csv");
const SETS: &str = include_str!("../../../config/facts/jurisdiction-sets.csv");
const ANYCAST: &str = include_str!("../../../config/facts/anycast.csv");
const EDGES: &str = include_str!("../../../config/facts/edges.csv");

/// The day on which the facts were last gone through.
const AS_OF: &str = "2026-11-30";

/// The facts' files as built in: name, content and header.
pub(super) const FILES: [(&str, &str); 7] = [
    ("operators.csv", OPERATORS),
    ("operator-domains.csv", DOMAINS),
    ("cloud-regions.csv", REGIONS),
    ("jurisdiction-sets.csv", SETS),
    ("anycast.csv", ANYCAST),
    ("edges.csv", EDGES),
    ("services.csv", SERVICES),
];

/// The day on which the facts were last gone through.
pub(super) fn as_of() -> Option<Timestamp> {
    AS_OF.parse().ok().and_then(begins)
}

/// A row of `jurisdiction-sets.csv`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneRow {
    /// The set.
    pub set: String,
    /// The member; `None` for an organisation without a code and for a part of a country (`XC`,
    /// `XD`: no table tells them apart from the country).
    pub country: Option<Country>,
    /// The membership covers some recipients only (sector- or certificate-bound adequacy).
    pub partial: bool,
    /// First instant of membership; `None`: always.
    pub since: Option<Timestamp>,
    /// First instant after membership; `None`: open.
    pub until: Option<Timestamp>,
    /// Where it stands: `K:` from general knowledge, `L:` read in a stored page.
    pub source: String,
}

impl Facts {
    /// The facts of this version.
    #[must_use]
    pub fn built_in() -> &'static Self {
        static FACTS: OnceLock<Facts> = OnceLock::new();
        FACTS.get_or_init(|| Self {
            operators: operators(),
            regions: regions(),
            anycast: anycast(),
            edges: edges(),
            as_of: as_of(),
            domains: domains(),
        })
    }

    /// The row of `operator-domains.csv` that a name is at or below; the longest suffix.
    #[must_use]
    pub fn domain(&self, name: &HostName) -> Option<&DomainFact> {
        let name = name.as_str();
        let holds = |fact: &&DomainFact| {
            let above = name.strip_suffix(fact.suffix.as_str());
            above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
        };
        self.domains.iter().filter(holds).max_by_key(|fact| fact.suffix.as_str().len())
    }
}

/// The rows of `jurisdiction-sets.csv`, in their order.
pub fn zone_rows() -> impl Iterator<Item = ZoneRow> {
    rows::<6>(SETS).map(|[set, code, since, until, note, source]| ZoneRow {
        set: set.into_owned(),
        country: Country::from_code(&code),
        partial: note.contains("scope=partial"),
        since: since_of(&since),
        until: until.parse::<Date>().ok().and_then(|day| day.tomorrow().ok()).and_then(begins),
        source: source.into_owned(),
    })
}

/// The first instant of a year, a month or a day, in UTC.
fn since_of(text: &str) -> Option<Timestamp> {
    let mut parts = text.split('-');
    let year = parts.next()?.parse().ok()?;
    let [month, day] = [parts.next(), parts.next()].map(|part| part.map_or(Ok(1), str::parse));
    begins(Date::new(year, month.ok()?, day.ok()?).ok()?)
}

/// The operator id of a name (docs/policy.md §3): up to ` / ` or ` (`, lower case, one `-` for each run
/// of other characters.
#[must_use]
pub fn operator_id(name: &str) -> String {
    let end = [" / ", " ("].iter().filter_map(|mark| name.find(mark)).min();
    let name = end.and_then(|end| name.get(..end)).unwrap_or(name);
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-").to_ascii_lowercase()
}

fn operators() -> Vec<OperatorFact> {
    let rows = rows::<13>(OPERATORS);
    rows.filter_map(|[asn, name, home, _, _, entity, uncertain, ..]| {
        let homes = countries(&home) | countries(&entity);
        let asn = as_number(0, asn.as_bytes()).ok()??;
        let (id, name) = (operator_id(&name), name.into_owned());
        Some(OperatorFact { asn, name, id, homes, uncertain: uncertain == "yes" })
    })
    .collect()
}

/// Codes with a space between them.
fn countries(codes: &str) -> CountrySet {
    codes.split(' ').filter_map(Country::from_code).collect()
}

fn domains() -> Vec<DomainFact> {
    let rows = rows::<5>(DOMAINS);
    rows.filter_map(|[suffix, operator, home, ..]| {
        let suffix = HostName::parse(suffix.as_bytes()).ok()?;
        Some(DomainFact { suffix, operator: operator.into_owned(), homes: countries(&home) })
    })
    .collect()
}

fn regions() -> Vec<RegionFact> {
    let rows = rows::<7>(REGIONS);
    rows.filter_map(|[provider, region, code, _, _, kind, _]| {
        let place = match (code.as_ref(), kind.as_ref()) {
            ("EU", _) => RegionPlace::Union,
            ("ZZ", "anycast") => RegionPlace::Anycast,
            ("ZZ", "unsourced") => RegionPlace::Unsourced,
            ("ZZ", _) => RegionPlace::Several,
            (code, _) => RegionPlace::Country(Country::from_code(code)?),
        };
        Some(RegionFact { provider: provider.into_owned(), region: region.into_owned(), place })
    })
    .collect()
}

/// The prefixes whose operators publish that they answer from many places.
fn anycast() -> Vec<IpNet> {
    rows::<5>(ANYCAST).filter_map(|[net, ..]| prefix(0, net.as_bytes()).ok()).collect()
}

/// The AS numbers of the networks whose front ends stand in many places.
fn edges() -> HashSet<u32> {
    rows::<5>(EDGES).filter_map(|[asn, ..]| as_number(0, asn.as_bytes()).ok()?).collect()
}

/// The rows of a built-in file below its header. A test holds that none is malformed; one that
/// were would be left out, and nothing would be known of what it says.
fn rows<const N: usize>(file: &'static str) -> impl Iterator<Item = [Cow<'static, str>; N]> {
    lines(file.as_bytes()).skip(1).filter_map(|(_, line)| {
        let mut columns = Vec::new();
        fields(line, Separator::Comma, &mut columns).ok()?;
        let columns: Vec<Cow<'static, str>> = columns.into_iter().map(text).collect();
        columns.try_into().ok()
    })
}

fn text(field: Cow<'static, [u8]>) -> Cow<'static, str> {
    match field {
        Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
        Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::data::providers::{PROVIDERS, provider_operator};

    fn at(text: &str) -> Option<Timestamp> {
        Some(text.parse().unwrap())
    }

    fn zone(name: &str) -> Vec<ZoneRow> {
        zone_rows().filter(|row| row.set == name).collect()
    }

    #[test]
    fn no_row_of_the_built_in_files_is_left_out() {
        let rows = |file: &str| file.trim_end().lines().count() - 1;
        assert_eq!(Facts::built_in().operators.len(), rows(OPERATORS));
        assert_eq!(Facts::built_in().regions.len(), rows(REGIONS));
        assert_eq!(Facts::built_in().domains.len(), rows(DOMAINS));
        assert!(Facts::built_in().domains.iter().all(|fact| !fact.homes.is_empty()));
        let no_country = SETS.lines().filter(|line| {
            let code = line.split(',').nth(1).unwrap();
            Country::from_code(code).is_none() && code != "iso2"
        });
        let left_out: Vec<_> = no_country.map(|line| line.split(',').nth(1).unwrap()).collect();
        assert_eq!(left_out.iter().filter(|code| **code == "XC" || **code == "XD").count(), 4);
        assert_eq!(left_out.iter().filter(|code| code.is_empty()).count(), left_out.len() - 4);
        assert_eq!(zone_rows().count(), rows(SETS));
    }

    #[test]
    fn every_operator_has_an_id_and_a_home_and_as_numbers_are_unique() {
        let operators = &Facts::built_in().operators;
        let mut numbers: Vec<u32> = operators.iter().map(|o| o.asn).collect();
        numbers.sort_unstable();
        assert!(numbers.windows(2).all(|pair| pair[0] != pair[1]));
        for operator in operators {
            assert!(!operator.id.is_empty() && !operator.homes.is_empty(), "{operator:?}");
        }
        let aws = operators.iter().find(|o| o.asn == 16509).unwrap();
        assert_eq!((aws.id.as_str(), aws.homes.to_string().as_str()), ("amazon", "US"));
        let aliyun = operators.iter().find(|o| o.name.contains("Aliyun")).unwrap();
        assert_eq!(aliyun.id, "alibaba-cloud");
    }

    #[test]
    fn an_operator_has_every_code_of_its_row_and_a_name_the_law_of_its_longest_suffix() {
        let homes = |asn: u32| {
            let mut operators = Facts::built_in().operators.iter();
            operators.find(|o| o.asn == asn).unwrap().homes.to_string()
        };
        for (asn, codes) in [
            (6, "FR, US"),
            (25773, "IL, US"),
            (203501, "DE, US"),
            (3258, "DE, JP"),
            (8888, "AU, DE"),
            (834, "GB, LT, US"),
            (210976, "KZ, RU"),
            (34762, "BE, CA, GB"),
            (1836, "CH, FR"),
            (33915, "BM, GB, NL, US"),
            (135629, "CN"),
        ] {
            assert_eq!(homes(asn), codes, "AS{asn}");
        }
        let law = |name: &str| {
            let name = HostName::parse(name.as_bytes()).unwrap();
            Facts::built_in().domain(&name).map(|fact| fact.homes.to_string())
        };
        assert_eq!(law("app.datadoghq.com").as_deref(), Some("US"));
        assert_eq!(law("datadoghq.com").as_deref(), Some("US"));
        assert_eq!(law("s3.cn-north-1.amazonaws.com.cn").as_deref(), Some("CN"));
        assert_eq!(law("notdatadoghq.com"), None);
    }

    #[test]
    fn ids_end_at_the_first_mark() {
        assert_eq!(operator_id("Akamai International"), "akamai-international");
        assert_eq!(operator_id("IBM / IBM Cloud (SoftLayer)"), "ibm");
        assert_eq!(operator_id("Linode (Akamai) / x"), "linode");
        assert_eq!(operator_id("home.pl (IONOS / United Internet)"), "home-pl");
    }

    #[test]
    fn partial_adequacy_is_told_and_ends_are_read() {
        let codes = |partial| {
            let rows = zone("gdpr-adequacy").into_iter().filter(move |row| row.partial == partial);
            rows.filter_map(|row| row.country.map(Country::code)).collect::<Vec<_>>()
        };
        assert_eq!(codes(true), ["CA", "JP", "KR", "US", "US", "US"]);
        assert_eq!(codes(false).len(), 13);
        let is_britain = |row: &ZoneRow| row.country == Country::from_code("GB");
        let britain = zone("gdpr-adequacy").into_iter().find(is_britain).unwrap();
        assert_eq!(britain.since, at("2021-06-28T00:00:00Z"));
        assert_eq!(britain.until, at("2031-12-28T00:00:00Z"));
        let (former, members): (Vec<_>, Vec<_>) =
            zone("eea").into_iter().partition(|row| row.until.is_some());
        assert_eq!((former.len(), members.len()), (3, 37));
        assert!(zone("eu-sanctioned-regions").iter().all(|row| row.country.is_none()));
    }

    #[test]
    fn a_year_is_its_first_day_and_nothing_is_always() {
        assert_eq!(since_of("2019"), at("2019-01-01T00:00:00Z"));
        assert_eq!(since_of("2022-02"), at("2022-02-01T00:00:00Z"));
        assert_eq!(since_of(""), None);
        for line in SETS.lines().skip(1) {
            let since = line.split(',').nth(2).unwrap();
            assert!(since.is_empty() || since_of(since).is_some(), "{line}");
            let until = line.split(',').nth(3).unwrap();
            assert!(until.is_empty() || until.parse::<Date>().is_ok(), "{line}");
        }
        let backwards =
            |row: &ZoneRow| row.until.zip(row.since).is_some_and(|(until, since)| until <= since);
        assert!(!zone_rows().any(|row| backwards(&row)));
        assert!(zone_rows().all(|row| !row.source.is_empty()));
    }

    #[test]
    fn no_region_of_the_embedded_ranges_is_without_a_row() {
        let known = |provider: &str, region: &str| {
            let mut regions = Facts::built_in().regions.iter();
            regions.any(|row| row.provider == provider && row.region == region)
        };
        let table = crate::control::data::embedded_providers().unwrap();
        let without: std::collections::BTreeSet<_> = table
            .rows
            .iter()
            .filter(|row| !row.region.is_empty() && !row.anycast && row.country.is_none())
            .filter(|row| !known(&row.provider, &row.region))
            .map(|row| format!("{}:{}", row.provider, row.region))
            .collect();
        assert!(without.is_empty(), "{without:?}");
    }

    #[test]
    fn every_provider_stands_for_an_operator_that_is_listed() {
        for (provider, operator, _) in PROVIDERS {
            let known = Facts::built_in().operators.iter().any(|o| o.name == operator);
            assert!(known, "{provider}: {operator}");
        }
        let without: Vec<_> = Facts::built_in()
            .regions
            .iter()
            .map(|region| region.provider.as_str())
            .filter(|provider| provider_operator(provider).is_none())
            .collect();
        let allowed = ["stackit"];
        assert!(without.iter().all(|p| allowed.contains(p)), "{without:?}");
    }

    #[test]
    fn anycast_prefixes_and_edges_are_told_once_with_source_and_day() {
        let facts = Facts::built_in();
        let sound = |[first, operator, kind, source, day]: [Cow<'static, str>; 5]| {
            let known = kind == "anycast" || kind == "edge";
            assert!(known && !operator.is_empty(), "{first}");
            assert!(source.starts_with("https://"), "{first}: {source}");
            let day = since_of(&day).unwrap_or_else(|| panic!("{first}: {day}"));
            assert!(as_of().is_some_and(|latest| day <= latest), "{first}: {day}");
        };
        assert_eq!(rows::<5>(ANYCAST).map(sound).count(), facts.anycast.len());
        assert_eq!(rows::<5>(EDGES).map(sound).count(), facts.edges.len());
        let lines = |file: &str| file.trim_end().lines().count() - 1;
        let counts = (facts.anycast.len(), facts.edges.len());
        assert_eq!(counts, (lines(ANYCAST), lines(EDGES)));
        let prefixes: HashSet<&IpNet> = facts.anycast.iter().collect();
        assert_eq!(prefixes.len(), facts.anycast.len(), "a prefix is there twice");
        // The embedded AS table knows the networks of listed operators alone.
        for asn in &facts.edges {
            assert!(facts.operators.iter().any(|operator| operator.asn == *asn), "AS{asn}");
        }
        for (asn, steered) in [(15169, true), (32934, true), (714, true), (396_982, false)] {
            assert_eq!(facts.edges.contains(&asn), steered, "AS{asn}");
        }
    }

    #[test]
    fn regions_of_the_union_are_no_country() {
        let place = |provider: &str, region: &str| {
            let mut regions = Facts::built_in().regions.iter();
            regions.find(|r| r.provider == provider && r.region == region).unwrap().place
        };
        assert_eq!(place("gcp", "eu"), RegionPlace::Union);
        assert_eq!(place("aws", "GLOBAL"), RegionPlace::Anycast);
        assert_eq!(place("gcp", "asia"), RegionPlace::Several);
        assert_eq!(place("gcp", "europe-west15"), RegionPlace::Unsourced);
        let turkey = RegionPlace::Country(Country::from_code("TR").unwrap());
        assert_eq!(place("aws", "eu-central-1-ist-1"), turkey);
    }
}
