//! Services by name: the hosts and prefixes at which each is reached.
//!
//! Two forms: `service,endpoint,use,source,as_of` under that header, and the endpoint list of Microsoft
//! 365 as its web service gives it (JSON).

use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use jiff::civil::Date;
use serde::Deserialize;

use super::text::{Separator, begins, fields, lines, prefix};
use crate::control::data::model::{BadRow, Shown, shown};
use crate::control::host_pattern::{HostPattern, PatternFault};
use crate::policy::{AddressKind, special_v4, special_v6};

/// The header of the text form.
pub(in crate::control::data) const HEADER: &str = "service,endpoint,use,source,as_of";

/// Rows of one file.
const MAX_ROWS: usize = 100_000;

/// Prefixes that are shorter hold a part of the Internet, and not of a service.
const SHORTEST_V4: u8 = 8;
const SHORTEST_V6: u8 = 16;

/// What is wrong with a file of services.
#[derive(Debug, thiserror::Error)]
pub(in crate::control::data) enum ServicesFault {
    #[error("names no service")]
    Empty,
    #[error("has more than {MAX_ROWS} rows")]
    TooLarge,
    #[error("the header is not {HEADER}")]
    Header,
    #[error("has {0} columns, and not five")]
    Columns(usize),
    #[error("{0} is not a use; write \"block\", or nothing")]
    Use(Shown),
    #[error("{0} is not a date such as 2026-11-30")]
    Date(Shown),
    #[error("names no source")]
    NoSource,
    #[error("{0} is not a service such as family/name")]
    Name(Shown),
    #[error(transparent)]
    Host(PatternFault),
    #[error("{0} is a whole top-level domain")]
    TopLevel(Shown),
    #[error("{0} is not the public address of one service")]
    NotPublic(IpNet),
    #[error("is not the endpoint list of Microsoft 365")]
    Microsoft(#[source] serde_json::Error),
}

/// One endpoint of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::control::data) struct ServiceRow {
    /// Words of lower-case letters, digits and `-`, two or three, with `/` between them.
    pub(in crate::control::data) service: String,
    /// Where it is reached.
    pub(in crate::control::data) endpoint: Endpoint,
    /// A block rule uses it, and no other: the address of a host that is listed too, or a pattern that
    /// is wider than the published one.
    pub(in crate::control::data) blocks_only: bool,
    /// The document that says so.
    pub(in crate::control::data) source: String,
    /// When that was looked at; `None`: when the file was written.
    pub(in crate::control::data) as_of: Option<Date>,
}

/// Where a service is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::control::data) enum Endpoint {
    /// A name, or every name below one.
    Host(Box<HostPattern>),
    /// Addresses.
    Net(IpNet),
}

/// Rows, and the date of the last of them.
#[derive(Debug)]
pub(in crate::control::data) struct Read {
    pub(in crate::control::data) rows: Vec<ServiceRow>,
    pub(in crate::control::data) as_of: Option<Timestamp>,
}

/// Reads a file of services.
pub(in crate::control::data) fn read(bytes: &[u8]) -> Result<Read, BadRow> {
    let rows =
        if bytes.trim_ascii_start().starts_with(b"[") { microsoft(bytes)? } else { plain(bytes)? };
    if rows.is_empty() {
        return Err(BadRow::new(0, ServicesFault::Empty));
    }
    if rows.len() > MAX_ROWS {
        return Err(BadRow::new(0, ServicesFault::TooLarge));
    }
    let as_of = rows.iter().filter_map(|row| row.as_of).max().and_then(begins);
    Ok(Read { rows, as_of })
}

fn plain(bytes: &[u8]) -> Result<Vec<ServiceRow>, BadRow> {
    let (mut rows, mut columns, mut headed) = (Vec::new(), Vec::new(), false);
    for (row, line) in lines(bytes) {
        fields(line, Separator::Comma, &mut columns).map_err(|what| BadRow::new(row, what))?;
        let bad = |what| BadRow::new(row, what);
        let columns: Vec<_> = columns.iter().map(|field| String::from_utf8_lossy(field)).collect();
        if !headed {
            if columns.join(",") != HEADER {
                return Err(bad(ServicesFault::Header));
            }
            headed = true;
            continue;
        }
        let [service, endpoint, usage, source, as_of] = columns.as_slice() else {
            return Err(bad(ServicesFault::Columns(columns.len())));
        };
        let blocks_only = match usage.as_ref() {
            "" => false,
            "block" => true,
            other => return Err(bad(ServicesFault::Use(shown(other.as_bytes())))),
        };
        let parsed = as_of.parse::<Date>();
        let as_of = parsed.map_err(|_| bad(ServicesFault::Date(shown(as_of.as_bytes()))))?;
        if source.is_empty() {
            return Err(bad(ServicesFault::NoSource));
        }
        rows.push(ServiceRow {
            service: name(row, service)?,
            endpoint: endpoint_of(row, endpoint)?,
            blocks_only,
            source: source.to_string(),
            as_of: Some(as_of),
        });
    }
    Ok(rows)
}

/// Whether a text is the name of a service, or of several.
fn name(row: u64, text: &str) -> Result<String, BadRow> {
    let word = |word: &str| {
        let sound = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !word.is_empty() && word.bytes().all(sound)
    };
    let words = text.split('/').count();
    if text.len() > 64 || !(2..=3).contains(&words) || !text.split('/').all(word) {
        return Err(BadRow::new(row, ServicesFault::Name(shown(text.as_bytes()))));
    }
    Ok(text.to_owned())
}

fn endpoint_of(row: u64, text: &str) -> Result<Endpoint, BadRow> {
    if text.contains('/') || text.parse::<IpAddr>().is_ok() {
        return net(row, text).map(Endpoint::Net);
    }
    let host =
        HostPattern::parse(text).map_err(|fault| BadRow::new(row, ServicesFault::Host(fault)))?;
    if host.below && !host.name.as_str().contains('.') {
        return Err(BadRow::new(row, ServicesFault::TopLevel(shown(text.as_bytes()))));
    }
    Ok(Endpoint::Host(Box::new(host)))
}

/// A prefix of public space. A rule with prefixes opens private space, which nobody but the policy
/// itself may do.
fn net(row: u64, text: &str) -> Result<IpNet, BadRow> {
    let net = prefix(row, text.as_bytes())?;
    let closed = |kind: AddressKind| kind != AddressKind::Ordinary;
    let special = match net {
        IpNet::V4(net) => {
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            special_v4().any(|(from, to, at)| from <= last && first <= to && closed(at))
        }
        IpNet::V6(net) => {
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            special_v6().any(|(from, to, at)| from <= last && first <= to && closed(at))
        }
    };
    let shortest = if net.addr().is_ipv4() { SHORTEST_V4 } else { SHORTEST_V6 };
    if special || net.prefix_len() < shortest {
        return Err(BadRow::new(row, ServicesFault::NotPublic(net)));
    }
    Ok(net)
}

/// A set of endpoints of Microsoft 365.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EndpointSet {
    service_area: String,
    category: String,
    required: bool,
    #[serde(default)]
    urls: Vec<String>,
    #[serde(default)]
    ips: Vec<String>,
}

/// `microsoft-365/AREA/CATEGORY` of what is required; what is not (it names whole content networks) is
/// in `microsoft-365-optional`, so that nobody opens it by the way.
fn microsoft(bytes: &[u8]) -> Result<Vec<ServiceRow>, BadRow> {
    let sets: Vec<EndpointSet> = serde_json::from_slice(bytes)
        .map_err(|error| BadRow::new(error.line() as u64, ServicesFault::Microsoft(error)))?;
    let mut rows = Vec::new();
    for (at, set) in (1_u64..).zip(&sets) {
        let area = match set.service_area.as_str() {
            "Skype" => "teams".to_owned(),
            area => area.to_ascii_lowercase(),
        };
        let family = if set.required { "microsoft-365" } else { "microsoft-365-optional" };
        let category = set.category.to_ascii_lowercase();
        let service = name(at, &format!("{family}/{area}/{category}"))?;
        let mut push = |endpoint, blocks_only| {
            let source = "endpoints.office.com".to_owned();
            let service = service.clone();
            rows.push(ServiceRow { service, endpoint, blocks_only, source, as_of: None });
        };
        for url in &set.urls {
            match wider(url) {
                None => push(endpoint_of(at, url)?, false),
                Some(wide) => push(endpoint_of(at, &wide)?, true),
            }
        }
        for ip in &set.ips {
            // Where hosts stand beside them, these are their addresses, and shared with others.
            push(Endpoint::Net(net(at, ip)?), !set.urls.is_empty());
        }
    }
    Ok(rows)
}

/// Of a pattern whose `*` is not a whole first label (`autodiscover.*.onmicrosoft.com`,
/// `*cdn.onenote.net`), the narrowest one that holds all of it.
fn wider(url: &str) -> Option<String> {
    if !url.strip_prefix("*.").unwrap_or(url).contains('*') {
        return None;
    }
    let (_, rest) = url.rsplit_once('*')?;
    rest.split_once('.').map(|(_, rest)| format!("*.{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> Result<Vec<String>, String> {
        let read = read(text.as_bytes()).map_err(|bad| format!("row {}: {}", bad.row, bad.what))?;
        let shown = |row: &ServiceRow| {
            let endpoint = match &row.endpoint {
                Endpoint::Host(host) => {
                    format!("{}{}", if host.below { "*." } else { "" }, host.name)
                }
                Endpoint::Net(net) => net.to_string(),
            };
            let blocks = if row.blocks_only { " blocks" } else { "" };
            format!("{} {endpoint}{blocks}", row.service)
        };
        Ok(read.rows.iter().map(shown).collect())
    }

    #[test]
    fn the_list_of_microsoft_is_read_by_area_and_category() {
        let list = r#"[
            {"id": 1, "serviceArea": "Exchange", "serviceAreaDisplayName": "Exchange Online",
             "urls": ["outlook.office.com", "autodiscover.*.onmicrosoft.com"],
             "ips": ["52.96.0.0/14", "2603:1006::/40"], "tcpPorts": "80,443", "expressRoute": true,
             "category": "Optimize", "required": true},
            {"id": 11, "serviceArea": "Skype", "ips": ["52.112.0.0/14"], "udpPorts": "3478",
             "category": "Optimize", "required": true},
            {"id": 51, "serviceArea": "Common", "urls": ["*cdn.onenote.net", "*.microsoft.com"],
             "category": "Default", "required": false}]"#;
        assert_eq!(
            rows(list).unwrap(),
            [
                "microsoft-365/exchange/optimize outlook.office.com",
                "microsoft-365/exchange/optimize *.onmicrosoft.com blocks",
                "microsoft-365/exchange/optimize 52.96.0.0/14 blocks",
                "microsoft-365/exchange/optimize 2603:1006::/40 blocks",
                "microsoft-365/teams/optimize 52.112.0.0/14",
                "microsoft-365-optional/common/default *.onenote.net blocks",
                "microsoft-365-optional/common/default *.microsoft.com",
            ]
        );
        for (from, to) in [
            ("\"Exchange\"", "\"Ex change\""),
            ("\"category\"", "\"kind\""),
            ("52.112.0.0/14", "10.0.0.0/8"),
            ("52.112.0.0/14", "0.0.0.0/0"),
            ("*.microsoft.com", "*.com"),
            ("*.microsoft.com", "a b.example"),
        ] {
            assert!(rows(&list.replace(from, to)).is_err(), "{from} -> {to}");
        }
        for end in 0..list.len() {
            assert!(rows(&list[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_row_names_service_endpoint_source_and_date() {
        let file = |row: &str| rows(&format!("{HEADER}\n{row}\n"));
        let good = "a/b,*.example.eu,,https://example.eu/doc,2026-11-30";
        assert_eq!(file(good).unwrap(), ["a/b *.example.eu"]);
        assert_eq!(file(&good.replace(",,", ",block,")).unwrap(), ["a/b *.example.eu blocks"]);
        for (from, to) in [
            ("a/b", "a"),
            ("a/b", "A/b"),
            ("a/b", "a/b/c/d"),
            ("*.example.eu", "192.168.0.0/16"),
            ("*.example.eu", "64.0.0.0/4"),
            ("*.example.eu", "fd00::/16"),
            ("*.example.eu", "*.eu"),
            ("*.example.eu", "exa mple.eu"),
            (",,", ",open,"),
            ("https://example.eu/doc", ""),
            ("2026-11-30", "yesterday"),
            (",2026-11-30", ""),
        ] {
            let fault = file(&good.replace(from, to)).unwrap_err();
            assert!(fault.starts_with("row 2: "), "{from} -> {to}: {fault}");
        }
        assert!(rows("a/b,example.eu,,x,2026-11-30").unwrap_err().contains("the header is not"));
        assert!(rows(HEADER).is_err());
    }
}
