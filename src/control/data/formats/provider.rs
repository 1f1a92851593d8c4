//! The ranges that providers publish, in the form in which each publishes them.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::path::Path;

use ipnet::IpNet;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::Deserialize;

use super::ranges::MAX_ROWS;
use super::text::{self, Separator, fields, lines, prefix};
use crate::control::data::model::{BadRow, ProviderRow, Shown, shown};
use crate::control::data::providers::provider_of_words;
use crate::policy::Country;

/// The services of AWS that are announced from many places, whatever region their rows name.
/// Exactly these: `ROUTE53_HEALTHCHECKS` and its like stand in a region.
const AWS_ANYCAST: [&str; 3] = ["GLOBALACCELERATOR", "CLOUDFRONT", "ROUTE53"];

/// Providers whose whole network is anycast.
const ALL_ANYCAST: [&str; 2] = ["cloudflare", "fastly"];

/// The provider of a geofeed whose file name tells none. It has no regions and no operator: such
/// rows say where, and leave whose to the AS table.
pub const UNNAMED_PROVIDER: &str = "geofeed";

/// What is wrong with a provider's file.
#[derive(Debug, thiserror::Error)]
pub(in crate::control::data) enum ProviderFault {
    #[error("names no prefix; an empty table answers nothing")]
    Empty,
    #[error("has more than {MAX_ROWS} rows")]
    TooLarge,
    #[error("more than {MAX_ROWS} rows")]
    TooMany,
    #[error("{net}: {region} is not a key of a region")]
    RegionKey { net: IpNet, region: Shown },
    #[error("is not JSON of a known form")]
    Json(#[source] serde_json::Error),
    #[error("mixes the forms of AWS and Google")]
    Mixed,
    #[error(
        "is JSON of none of the known forms (AWS ip-ranges, Google cloud.json, Azure ServiceTags, \
         Oracle, Fastly)"
    )]
    UnknownForm,
    #[error(
        "is a JSON list, as the endpoints of Microsoft 365 are, which say whose an address is and \
         not where; name such a file in [data] services"
    )]
    JsonList,
    #[error("entry {row} has no {key}")]
    Missing { row: u64, key: &'static str },
    #[error("{0} is under the key of the other family")]
    OtherFamily(IpNet),
    #[error("the header is not cidr,provider,region,country")]
    Header,
    #[error("has not four columns; is the file whole?")]
    NotFour,
    #[error(
        "a list of prefixes does not say whose they are; name the file after its provider, as in \
         cloudflare-ips-v4.txt"
    )]
    Whose,
    #[error("has no prefix")]
    NoPrefix,
    #[error("{0} is not a key")]
    Key(Shown),
    #[error("names no provider")]
    NoProvider,
}

/// Rows, how many there were before doubles were dropped, and what the content says of its date.
#[derive(Debug)]
pub(in crate::control::data) struct Read {
    pub(in crate::control::data) rows: Vec<ProviderRow>,
    pub(in crate::control::data) count: u64,
    pub(in crate::control::data) as_of: Option<Timestamp>,
    /// A name for `explain` that is better than the file's.
    pub(in crate::control::data) name: Option<&'static str>,
}

/// Reads a provider's file.
pub(in crate::control::data) fn read(bytes: &[u8], path: &Path) -> Result<Read, BadRow> {
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Err(BadRow::new(1, ProviderFault::JsonList));
    }
    let mut read =
        if bytes.trim_ascii_start().starts_with(b"{") { json(bytes)? } else { plain(bytes, path)? };
    check(&read.rows)?;
    read.count = read.rows.len() as u64;
    settle(&mut read.rows);
    Ok(read)
}

/// Refuses a table that answers nothing, one that is too large, and keys that could not stand in a
/// record as they are.
pub(in crate::control::data) fn check(rows: &[ProviderRow]) -> Result<(), BadRow> {
    if rows.is_empty() {
        return Err(BadRow::new(0, ProviderFault::Empty));
    }
    if rows.len() > MAX_ROWS {
        return Err(BadRow::new(0, ProviderFault::TooLarge));
    }
    let sound = |key: &str| key.len() <= 64 && key.escape_debug().eq(key.chars());
    match rows.iter().find(|row| !sound(&row.provider) || !sound(&row.region)) {
        Some(row) => {
            let region = shown(row.region.as_bytes());
            Err(BadRow::new(0, ProviderFault::RegionKey { net: row.net, region }))
        }
        None => Ok(()),
    }
}

/// By address, then the shorter prefix, then the rest.
pub fn provider_order(a: &ProviderRow, b: &ProviderRow) -> Ordering {
    let key = |row: &ProviderRow| (row.net.addr(), row.net.prefix_len());
    let rest = |row: &ProviderRow| (row.anycast, row.country);
    key(a)
        .cmp(&key(b))
        .then_with(|| a.provider.cmp(&b.provider))
        .then_with(|| a.region.cmp(&b.region))
        .then_with(|| rest(a).cmp(&rest(b)))
}

/// Sorts, and drops doubles and what says less than its surroundings: Azure lists most prefixes
/// once for a region and again, often as smaller pieces, for services "everywhere". As the longest
/// prefix wins, such a piece would hide the region that it lies in.
pub fn settle(rows: &mut Vec<ProviderRow>) {
    let regional: HashSet<(IpNet, String)> = rows
        .iter()
        .filter(|row| !row.region.is_empty())
        .map(|row| (row.net, row.provider.clone()))
        .collect();
    rows.retain(|row| {
        let says_nothing = row.region.is_empty() && row.country.is_none() && !row.anycast;
        let mut around = Some(row.net);
        let covered = std::iter::from_fn(|| {
            let net = around?;
            around = net.supernet();
            Some(net)
        })
        .any(|net| says_nothing && regional.contains(&(net, row.provider.clone())));
        !covered
    });
    rows.sort_unstable_by(provider_order);
    rows.dedup();
}

/// Every key of every known form; the keys that are there tell the form.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Json {
    create_date: Option<String>,
    creation_time: Option<String>,
    prefixes: Option<Vec<JsonPrefix>>,
    #[serde(rename = "ipv6_prefixes")]
    v6_prefixes: Option<Vec<JsonPrefix>>,
    values: Option<Vec<Tag>>,
    #[serde(rename = "last_updated_timestamp")]
    last_updated: Option<String>,
    regions: Option<Vec<Region>>,
    addresses: Option<Vec<String>>,
    #[serde(rename = "ipv6_addresses")]
    v6_addresses: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct JsonPrefix {
    ip_prefix: Option<String>,
    ipv6_prefix: Option<String>,
    network_border_group: Option<String>,
    service: Option<String>,
    #[serde(rename = "ipv4Prefix")]
    google_v4: Option<String>,
    #[serde(rename = "ipv6Prefix")]
    google_v6: Option<String>,
    scope: Option<String>,
}

/// A service tag of Azure.
#[derive(Deserialize)]
struct Tag {
    name: String,
    properties: TagProperties,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TagProperties {
    region: String,
    address_prefixes: Vec<String>,
}

/// A region of Oracle.
#[derive(Deserialize)]
struct Region {
    region: String,
    cidrs: Vec<RegionCidr>,
}

#[derive(Deserialize)]
struct RegionCidr {
    cidr: String,
}

fn json(bytes: &[u8]) -> Result<Read, BadRow> {
    let json: Json = serde_json::from_slice(bytes)
        .map_err(|error| BadRow::new(error.line() as u64, ProviderFault::Json(error)))?;
    if let Some(prefixes) = json.prefixes {
        let google = |p: &JsonPrefix| p.google_v4.is_some() || p.google_v6.is_some();
        return match (json.v6_prefixes, prefixes.iter().any(google)) {
            (None, true) => google_ranges(&prefixes, json.creation_time.as_deref()),
            (v6, false) => {
                aws_ranges(&prefixes, &v6.unwrap_or_default(), json.create_date.as_deref())
            }
            (Some(_), true) => Err(BadRow::new(1, ProviderFault::Mixed)),
        };
    }
    if let Some(tags) = json.values {
        return service_tags(&tags);
    }
    if let Some(regions) = json.regions {
        return oracle_ranges(&regions, json.last_updated.as_deref());
    }
    let Some(v4) = json.addresses else {
        return Err(BadRow::new(1, ProviderFault::UnknownForm));
    };
    let all = v4.iter().chain(json.v6_addresses.iter().flatten());
    let rows = (1..).zip(all).map(|(row, net)| Ok(anycast("fastly", prefix(row, net.as_bytes())?)));
    Ok(Read { rows: rows.collect::<Result<_, BadRow>>()?, count: 0, as_of: None, name: None })
}

/// The place of a row is its `network_border_group`, never its `region`: local zones stand in
/// other countries than their region (`eu-central-1-ist-1` is in Turkey).
fn aws_ranges(v4: &[JsonPrefix], v6: &[JsonPrefix], date: Option<&str>) -> Result<Read, BadRow> {
    let mut rows = Vec::with_capacity(v4.len() + v6.len());
    let numbered = (1_u64..).zip(v4.iter().chain(v6));
    for (row, entry) in numbered {
        let missing = |key| BadRow::new(row, ProviderFault::Missing { row, key });
        let six = row > v4.len() as u64;
        let (net, key) = match six {
            false => (&entry.ip_prefix, "ip_prefix"),
            true => (&entry.ipv6_prefix, "ipv6_prefix"),
        };
        let net = prefix(row, net.as_deref().ok_or_else(|| missing(key))?.as_bytes())?;
        if net.addr().is_ipv6() != six {
            return Err(BadRow::new(row, ProviderFault::OtherFamily(net)));
        }
        let group = entry.network_border_group.as_deref().filter(|group| !group.is_empty());
        let service = entry.service.as_deref().ok_or_else(|| missing("service"))?;
        rows.push(ProviderRow {
            net,
            provider: "aws".to_owned(),
            region: group.ok_or_else(|| missing("network_border_group"))?.to_owned(),
            anycast: AWS_ANYCAST.contains(&service),
            country: None,
        });
    }
    let as_of = date.and_then(|date| at_utc(DateTime::strptime("%Y-%m-%d-%H-%M-%S", date).ok()?));
    Ok(Read { rows, count: 0, as_of, name: Some("aws-ranges") })
}

/// `cloud.json`, whose scope is a region or `global`, and `goog.json`, which has no scope.
fn google_ranges(prefixes: &[JsonPrefix], date: Option<&str>) -> Result<Read, BadRow> {
    let missing = |row| BadRow::new(row, ProviderFault::Missing { row, key: "prefix" });
    let mut rows = Vec::with_capacity(prefixes.len());
    for (row, entry) in (1_u64..).zip(prefixes) {
        let net = entry.google_v4.as_deref().or(entry.google_v6.as_deref());
        let net = net.ok_or_else(|| missing(row))?;
        let region = entry.scope.clone().unwrap_or_default();
        rows.push(ProviderRow {
            net: prefix(row, net.as_bytes())?,
            provider: "gcp".to_owned(),
            anycast: region == "global",
            region,
            country: None,
        });
    }
    Ok(Read { rows, count: 0, as_of: date.and_then(date_time), name: None })
}

fn service_tags(tags: &[Tag]) -> Result<Read, BadRow> {
    let mut rows = Vec::new();
    for (row, tag) in (1_u64..).zip(tags) {
        for net in &tag.properties.address_prefixes {
            rows.push(ProviderRow {
                net: prefix(row, net.as_bytes())?,
                provider: "azure".to_owned(),
                region: tag.properties.region.clone(),
                anycast: is_front_door(&tag.name),
                country: None,
            });
        }
    }
    Ok(Read { rows, count: 0, as_of: None, name: None })
}

/// Front Door is the service of Azure whose addresses are announced from every edge.
pub fn is_front_door(tag: &str) -> bool {
    const FRONT_DOOR: &str = "azurefrontdoor.";
    tag.get(..FRONT_DOOR.len()).is_some_and(|head| head.eq_ignore_ascii_case(FRONT_DOOR))
}

/// Whether an AWS service is one of those that are announced from many places.
pub fn is_aws_anycast(service: &str) -> bool {
    AWS_ANYCAST.contains(&service)
}

fn oracle_ranges(regions: &[Region], date: Option<&str>) -> Result<Read, BadRow> {
    let mut rows = Vec::new();
    for (row, region) in (1_u64..).zip(regions) {
        for entry in &region.cidrs {
            rows.push(ProviderRow {
                net: prefix(row, entry.cidr.as_bytes())?,
                provider: "oci".to_owned(),
                region: region.region.clone(),
                anycast: false,
                country: None,
            });
        }
    }
    Ok(Read { rows, count: 0, as_of: date.and_then(date_time), name: None })
}

/// Text: `cidr,provider,region,country` under that header, a geofeed (RFC 8805), or prefixes one a
/// line. The last two do not say whose they are: the file's or the folder's name does.
fn plain(bytes: &[u8], path: &Path) -> Result<Read, BadRow> {
    let mut columns = Vec::new();
    let mut rows = Vec::new();
    let mut named = None;
    let provider = provider_of_path(path);
    for (row, line) in lines(bytes) {
        fields(line, Separator::Comma, &mut columns).map_err(|what| BadRow::new(row, what))?;
        if rows.is_empty() && named.is_none() && text::header(&columns).is_some() {
            let names: Vec<&[u8]> = columns.iter().map(AsRef::as_ref).collect();
            if names != [b"cidr".as_slice(), b"provider", b"region", b"country"] {
                return Err(BadRow::new(row, ProviderFault::Header));
            }
            named = Some(());
            continue;
        }
        let columns: Vec<&[u8]> = columns.iter().map(AsRef::as_ref).collect();
        rows.push(match (columns.as_slice(), named, provider) {
            ([net, provider, region, code], Some(()), _) => {
                named_row(row, net, provider, region, code)?
            }
            (_, Some(()), _) => return Err(BadRow::new(row, ProviderFault::NotFour)),
            ([net], None, Some(provider)) => {
                let net = prefix(row, net)?;
                if ALL_ANYCAST.contains(&provider) {
                    anycast(provider, net)
                } else {
                    placed(provider, net, None)
                }
            }
            ([_], None, None) => return Err(BadRow::new(row, ProviderFault::Whose)),
            ([net, code, ..], None, provider) => {
                let country = text::country(row, code)?;
                placed(provider.unwrap_or(UNNAMED_PROVIDER), prefix(row, net)?, country)
            }
            ([], None, _) => return Err(BadRow::new(row, ProviderFault::NoPrefix)),
        });
        if rows.len() > MAX_ROWS {
            return Err(BadRow::new(row, ProviderFault::TooMany));
        }
    }
    Ok(Read { rows, count: 0, as_of: None, name: None })
}

fn named_row(
    row: u64,
    net: &[u8],
    provider: &[u8],
    region: &[u8],
    code: &[u8],
) -> Result<ProviderRow, BadRow> {
    let word = |field: &[u8]| {
        let text = str::from_utf8(field).map(str::to_owned);
        text.map_err(|_| BadRow::new(row, ProviderFault::Key(shown(field))))
    };
    let (provider, region) = (word(provider)?, word(region)?);
    if provider.is_empty() {
        return Err(BadRow::new(row, ProviderFault::NoProvider));
    }
    let anycast = code.eq_ignore_ascii_case(b"zz");
    let country = text::country(row, code)?;
    Ok(ProviderRow { net: prefix(row, net)?, provider, region, anycast, country })
}

fn anycast(provider: &str, net: IpNet) -> ProviderRow {
    ProviderRow { anycast: true, ..placed(provider, net, None) }
}

fn placed(provider: &str, net: IpNet, country: Option<Country>) -> ProviderRow {
    let provider = provider.to_owned();
    ProviderRow { net, provider, region: String::new(), anycast: false, country }
}

/// The provider that the file's name, else its folder's, names with a whole word.
fn provider_of_path(path: &Path) -> Option<&'static str> {
    let folder = path.parent().and_then(Path::file_name);
    [path.file_name(), folder]
        .into_iter()
        .flatten()
        .find_map(|name| provider_of_words(&name.to_string_lossy()))
}

/// A date and time without an offset, or with `Z`: UTC.
fn date_time(text: &str) -> Option<Timestamp> {
    at_utc(text.trim_end_matches('Z').parse().ok()?)
}

fn at_utc(time: DateTime) -> Option<Timestamp> {
    time.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str, path: &str) -> Result<Vec<String>, String> {
        let read = read(text.as_bytes(), Path::new(path)).map_err(|bad| bad.what.to_string())?;
        let shown = |row: &ProviderRow| {
            let country = row.country.map_or("-", Country::code);
            let anycast = if row.anycast { "anycast" } else { "placed" };
            format!("{} {} [{}] {country} {anycast}", row.net, row.provider, row.region)
        };
        Ok(read.rows.iter().map(shown).collect())
    }

    const AWS: &str = r#"{"createDate": "2026-11-04-12-00-00", "prefixes": [
        {"ip_prefix": "192.0.2.0/25", "region": "eu-central-1", "service": "AMAZON",
         "network_border_group": "eu-central-1-ist-1"},
        {"ip_prefix": "192.0.2.128/25", "region": "eu-west-3", "service": "CLOUDFRONT",
         "network_border_group": "eu-west-3"},
        {"ip_prefix": "198.51.100.0/24", "region": "eu-west-3", "service": "ROUTE53_HEALTHCHECKS",
         "network_border_group": "eu-west-3"}],
        "ipv6_prefixes": [{"ipv6_prefix": "2001:db8::/32", "region": "GLOBAL", "service": "EC2",
         "network_border_group": "GLOBAL"}]}"#;

    #[test]
    fn aws_is_read_by_border_group_and_three_services_are_anycast() {
        let read = read(AWS.as_bytes(), Path::new("any")).unwrap();
        assert_eq!(read.name, Some("aws-ranges"));
        assert_eq!(read.as_of.unwrap().to_string(), "2026-11-04T12:00:00Z");
        assert_eq!(
            rows(AWS, "any").unwrap(),
            [
                "192.0.2.0/25 aws [eu-central-1-ist-1] - placed",
                "192.0.2.128/25 aws [eu-west-3] - anycast",
                "198.51.100.0/24 aws [eu-west-3] - placed",
                "2001:db8::/32 aws [GLOBAL] - placed",
            ]
        );
    }

    #[test]
    fn aws_without_a_border_group_or_with_host_bits_is_refused() {
        for (from, to) in [
            ("network_border_group", "network"),
            ("192.0.2.0/25", "192.0.2.1/25"),
            ("\"ip_prefix\": \"192.0.2.0/25\"", "\"ip_prefix\": \"2001:db8::/32\""),
            ("\"service\"", "\"services\""),
            ("\"prefixes\"", "\"prefix\""),
            ("ist-1", "\\u001b[31m"),
        ] {
            assert!(rows(&AWS.replace(from, to), "any").is_err(), "{from} -> {to}");
        }
        for end in 0..AWS.len() {
            assert!(rows(&AWS[..end], "aws").is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_service_without_a_region_does_not_hide_the_region_around_it() {
        let tags = r#"{"values": [
            {"name": "Sql", "properties": {"region": "", "addressPrefixes": ["192.0.2.64/26", "203.0.113.0/24"]}},
            {"name": "AzureFrontDoor.Frontend", "properties": {"region": "", "addressPrefixes": ["192.0.2.0/26"]}},
            {"name": "AzureCloud.westeurope", "properties": {"region": "westeurope", "addressPrefixes": ["192.0.2.0/24"]}}]}"#;
        assert_eq!(
            rows(tags, "any").unwrap(),
            [
                "192.0.2.0/24 azure [westeurope] - placed",
                "192.0.2.0/26 azure [] - anycast",
                "203.0.113.0/24 azure [] - placed",
            ]
        );
    }

    #[test]
    fn google_oracle_and_fastly_are_told_by_their_keys() {
        let google = r#"{"creationTime": "2025-07-24T19:16:28.780563", "prefixes": [
            {"ipv4Prefix": "192.0.2.0/24", "scope": "europe-west9"},
            {"ipv6Prefix": "2001:db8::/32", "scope": "global"}, {"ipv4Prefix": "198.51.100.0/24"}]}"#;
        assert_eq!(
            rows(google, "any").unwrap(),
            [
                "192.0.2.0/24 gcp [europe-west9] - placed",
                "198.51.100.0/24 gcp [] - placed",
                "2001:db8::/32 gcp [global] - anycast",
            ]
        );
        let oracle = r#"{"last_updated_timestamp": "2025-07-21T07:13:25.457838", "regions":
            [{"region": "eu-zurich-1", "cidrs": [{"cidr": "192.0.2.0/24", "tags": ["OCI"]}]}]}"#;
        assert_eq!(rows(oracle, "any").unwrap(), ["192.0.2.0/24 oci [eu-zurich-1] - placed"]);
        assert!(read(oracle.as_bytes(), Path::new("any")).unwrap().as_of.is_some());
        let fastly = r#"{"addresses": ["192.0.2.0/24"], "ipv6_addresses": ["2001:db8::/32"]}"#;
        assert_eq!(rows(fastly, "any").unwrap().len(), 2);
    }

    #[test]
    fn a_geofeed_names_countries_and_its_file_the_provider() {
        let feed = "# geofeed\n192.0.2.0/24,NL,NL-NH,Amsterdam,1098 XH\n2001:db8::/32,,,,\n";
        assert_eq!(
            rows(feed, "x/linode-geofeed.csv").unwrap(),
            ["192.0.2.0/24 linode [] NL placed", "2001:db8::/32 linode [] - placed",]
        );
        assert!(rows(feed, "x/feed.csv").unwrap()[0].contains(UNNAMED_PROVIDER));
        assert!(rows("192.0.2.0/24,Netherlands,,,", "feed.csv").is_err());
    }

    #[test]
    fn a_bare_list_needs_the_providers_name() {
        let list = "192.0.2.0/24\n";
        let cloudflare = ["192.0.2.0/24 cloudflare [] - anycast"];
        assert_eq!(rows(list, "cloudflare-ips-v4.txt").unwrap(), cloudflare);
        assert_eq!(rows(list, "amazon/ipv4.txt").unwrap(), ["192.0.2.0/24 aws [] - placed"]);
        assert!(rows(list, "ips-v4.txt").unwrap_err().contains("name the file"));
        assert!(rows("<html>blocked</html>", "cloudflare.txt").is_err());
    }

    #[test]
    fn the_four_columns_are_read_and_zz_is_anycast() {
        let csv = "cidr,provider,region,country\n192.0.2.0/24,aws,eu-west-3,FR\n\
                   198.51.100.0/24,gcp,global,ZZ\n";
        assert_eq!(
            rows(csv, "any").unwrap(),
            ["192.0.2.0/24 aws [eu-west-3] FR placed", "198.51.100.0/24 gcp [global] - anycast",]
        );
        assert!(rows(&csv.replace(",ZZ", ""), "any").is_err());
        assert!(rows("cidr,provider,region,country\n", "any").is_err());
    }
}
