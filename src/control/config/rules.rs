//! `[[rule]]`, `[[operator]]` and `[[place]]`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use toml::de::DeValue;

use super::error::{UnknownRegion, Wrong};
use super::fields::{ACTIONS, only_owner, optional, unique_name};
use super::model::{From, OperatorEntry, Place, PlaceLocation, Rule, Until};
use super::reader::{Item, Reader, Table};
use super::{hosts, known, net, services, time, zones};
use crate::control::data::{Endpoints, Services};
use crate::control::host_pattern::HostPattern;
use crate::control::spelling::nearest;
use crate::identify::Protocol;
use crate::policy::{HostList, Transport};

/// The conditions of a rule; a rule has at least one.
const CONDITIONS: [&str; 15] = [
    "from",
    "host",
    "host_file",
    "service",
    "to",
    "location",
    "law",
    "operator",
    "asn",
    "region",
    "port",
    "transport",
    "protocol",
    "since",
    "until",
];

/// Text that the hosts of all rules together may have: the tables name places in it by 32 bits.
const HOSTS_MAX_BYTES: usize = 1 << 30;

const TRANSPORTS: [(&str, Transport); 2] = [("tcp", Transport::Tcp), ("udp", Transport::Udp)];

/// DTLS counts as `other` (docs/policy.md §2 names no more).
const PROTOCOLS: [(&str, Protocol); 4] = [
    ("tls", Protocol::Tls),
    ("quic", Protocol::Quic),
    ("http", Protocol::Http),
    ("other", Protocol::Other),
];

/// What rules may name.
pub(super) struct Known<'k> {
    pub(super) zones: &'k zones::Names,
    /// Index of each group by name.
    pub(super) groups: &'k BTreeMap<String, usize>,
    pub(super) services: &'k Services,
}

/// The rules, and of each the index of its table: a rule of services is several.
pub(super) fn rules(
    reader: &mut Reader<'_>,
    tables: &[Table<'_>],
    root: &Table<'_>,
    known: &Known<'_>,
    unknown_regions: &mut Vec<UnknownRegion>,
) -> Option<(Vec<Rule>, Vec<usize>)> {
    let own = own_operators(root);
    let mut taken = BTreeMap::new();
    let read: Vec<_> = tables
        .iter()
        .map(|table| rule(reader, table, known, &own, &mut taken, unknown_regions))
        .collect();
    let hosts = read.iter().flatten().filter_map(|(rule, _)| rule.host.as_ref());
    let bytes: usize = hosts.map(HostList::bytes).sum();
    if bytes > HOSTS_MAX_BYTES
        && let Some(table) = tables.first()
    {
        let what = format!("the hosts of all rules take {bytes} bytes");
        let help = format!("keep to {HOSTS_MAX_BYTES}; \"*.\" covers many names");
        reader.fault_at(table.span.start, "rule.host", Wrong::new(what, help));
    }
    let read: Vec<_> = read.into_iter().collect::<Option<_>>()?;
    let expanded = read.into_iter().enumerate().flat_map(|(at, (rule, endpoints))| {
        services::expand(rule, endpoints).into_iter().map(move |rule| (rule, at))
    });
    Some(expanded.unzip())
}

fn rule(
    reader: &mut Reader<'_>,
    table: &Table<'_>,
    known: &Known<'_>,
    own_operators: &BTreeSet<String>,
    taken: &mut BTreeMap<String, usize>,
    unknown_regions: &mut Vec<UnknownRegion>,
) -> Option<(Rule, Option<Endpoints>)> {
    reader.only(table);
    let name = unique_name(reader, table, taken);
    let help = "write action = \"allow\", \"log\" or \"block\"";
    let action = reader.required(table, "action", help);
    let action = action.and_then(|item| reader.word(&item, &ACTIONS));
    let line = reader.position(table.span.start).line;
    let conditioned = CONDITIONS.iter().any(|key| table.has(key));
    if !conditioned {
        let help = "say what it is for (host, to, location ...); what holds for everything belongs \
                    into [policy]";
        let wrong = Wrong::new("a rule without a condition", help);
        reader.fault_at(table.span.start, "rule", wrong);
    }
    let from = optional(table, "from", |item| clients(reader, item, known.groups));
    let host = hosts::condition(reader, table);
    let to = optional(table, "to", |item| net::prefixes(reader, item));
    let service = optional(table, "service", |item| {
        services::condition(reader, item, known.services, action)
    });
    if let Some(item) = table.item("service")
        && ["host", "host_file", "to"].iter().any(|key| table.has(key))
    {
        let what = "a service is hosts and prefixes, and the rule names others as well";
        reader.fault(&item, what, "write two rules");
    }
    let location = optional(table, "location", |item| zones::zone_list(reader, item, known.zones));
    let law = optional(table, "law", |item| zones::zone_list(reader, item, known.zones));
    let operator = optional(table, "operator", |item| {
        let help = "write a list of operator ids: [\"amazon\"]";
        reader.parsed_list(item, help, |text| known_operator(text, own_operators))
    });
    let asn = optional(table, "asn", |item| net::asns(reader, item));
    let region = optional(table, "region", |item| regions(reader, item, unknown_regions));
    let port = optional(table, "port", |item| net::ports(reader, item));
    let transport = optional(table, "transport", |item| words(reader, item, &TRANSPORTS));
    let protocol = optional(table, "protocol", |item| words(reader, item, &PROTOCOLS));
    let since = optional(table, "since", |item| time::instant(reader, item, time::Edge::First));
    let until =
        optional(table, "until", |item| time::instant(reader, item, time::Edge::After).map(Until));
    let [basis, reason, owner] =
        ["basis", "reason", "owner"].map(|key| optional(table, key, |item| reader.line(item)));
    conditioned.then_some(())?;
    let (service, endpoints) = service?.unzip();
    let rule = Rule {
        name: name?,
        action: action?,
        from: from?,
        host: host.ok()?,
        service,
        to: to?,
        location: location?,
        law: law?,
        operator: operator?,
        asn: asn?,
        region: region?,
        port: port?,
        transport: transport?,
        protocol: protocol?,
        since: since?,
        until: until?,
        basis: basis?,
        reason: reason?,
        owner: owner?,
        line,
    };
    Some((rule, endpoints))
}

/// `from`: groups and prefixes.
fn clients(
    reader: &mut Reader<'_>,
    item: &Item<'_>,
    groups: &BTreeMap<String, usize>,
) -> Option<Vec<From>> {
    reader.parsed_list(item, "write a list of groups and prefixes: [\"radiology\"]", |text| {
        if let Some(&index) = groups.get(text) {
            return Ok(From::Group(index));
        }
        if text.contains('/') || text.parse::<std::net::IpAddr>().is_ok() {
            return net::prefix(text).map(From::Net);
        }
        let help = match nearest(text, groups.keys().map(String::as_str)) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => "name a [[group]] of this file, or write a prefix".to_owned(),
        };
        Err(Wrong::new(format!("no group is called {text:?}"), help))
    })
}

fn words<T: Copy>(reader: &mut Reader<'_>, item: &Item<'_>, words: &[(&str, T)]) -> Option<Vec<T>> {
    let first = words.first().map_or("", |&(word, _)| word);
    let members = reader.list(item, &format!("write a list: [{first:?}]"))?;
    reader.each(&members, |reader, member| reader.word(member, words))
}

fn regions(
    reader: &mut Reader<'_>,
    item: &Item<'_>,
    unknown: &mut Vec<UnknownRegion>,
) -> Option<Vec<String>> {
    let help = "write \"provider:region\": [\"aws:eu-west-3\"]";
    let members = reader.list(item, help)?;
    reader.each(&members, |reader, member| {
        let text = reader.string(member, help)?;
        let parts = text.split_once(':');
        if !parts.is_some_and(|(provider, region)| !provider.is_empty() && !region.is_empty()) {
            reader.fault(member, format!("{text:?} names no provider and region"), help);
            return None;
        }
        if !known::region_keys().contains(text) {
            let help = match nearest(text, known::region_keys().iter().map(String::as_str)) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => "name a region that a table of [data] providers holds".to_owned(),
            };
            let wrong = Wrong::new(format!("nobody knows the region {text:?}"), help);
            let fault = reader.finding(member.span.start, &member.key, wrong);
            unknown.push(UnknownRegion { region: text.to_owned(), fault });
        }
        Some(text.to_owned())
    })
}

fn known_operator(text: &str, own: &BTreeSet<String>) -> Result<String, Wrong> {
    // Of a name that ends in a dot ("Orange Business U.S.") the id may be written with its last dash.
    let text = text.trim_end_matches('-');
    let mut ids = known::operator_ids().iter().chain(own);
    if !text.is_empty() && ids.clone().any(|id| known::leads(text, id)) {
        return Ok(text.to_owned());
    }
    // Somebody who writes a part of a name gets the names that hold it.
    let holds = |id: &&String| text.len() >= 3 && id.contains(&text.to_lowercase());
    let near = nearest(text, ids.clone().map(String::as_str))
        .or_else(|| ids.find(holds).map(String::as_str));
    let help = match near {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => "name a built-in operator, or describe it in an [[operator]]".to_owned(),
    };
    Err(Wrong::new(format!("nobody knows the operator {text:?}"), help))
}

/// The names of the file's operators, faulty ones included, so that no rule is blamed for them.
fn own_operators(root: &Table<'_>) -> BTreeSet<String> {
    let tables = root.item("operator").and_then(|item| item.value.as_array());
    let name = |value: &DeValue<'_>| value.get("name")?.get_ref().as_str().map(str::to_owned);
    tables.into_iter().flat_map(|array| array.iter()).filter_map(|v| name(v.get_ref())).collect()
}

/// `[[operator]]`.
pub(super) fn operators(reader: &mut Reader<'_>, root: &Table<'_>) -> Option<Vec<OperatorEntry>> {
    let tables = reader.tables(root, "operator");
    let mut taken = BTreeMap::new();
    let mut nets = BTreeMap::new();
    let mut asns = BTreeMap::new();
    let mut hosts = BTreeMap::new();
    let read: Vec<_> = tables
        .iter()
        .map(|table| {
            let entry = operator(reader, table);
            let name = unique_name(reader, table, &mut taken);
            let owner = name.clone().unwrap_or_else(|| "another operator".to_owned());
            let mut alone = only_owner(reader, table, "prefix", &mut nets, &owner);
            let entry = OperatorEntry { name: name?, ..entry? };
            let shown =
                |host: &HostPattern| format!("{}{}", if host.below { "*." } else { "" }, host.name);
            let all = entry.host.iter().map(shown).collect::<Vec<_>>();
            alone &= only_member(reader, table, "host", all, &mut hosts, &owner);
            alone &= only_member(reader, table, "asn", entry.asn.clone(), &mut asns, &owner);
            alone.then_some(entry)
        })
        .collect();
    read.into_iter().collect()
}

/// As [`only_owner`], for values that were read in the order of the list.
fn only_member<T: Ord + Display + Clone>(
    reader: &mut Reader<'_>,
    table: &Table<'_>,
    key: &str,
    values: Vec<T>,
    owners: &mut BTreeMap<T, String>,
    name: &str,
) -> bool {
    let Some(item) = table.item(key) else { return true };
    let spans = item.value.as_array().into_iter().flat_map(|array| array.iter());
    let mut alone = true;
    for (value, span) in values.iter().zip(spans.map(toml::Spanned::span)) {
        if let Some(owner) = owners.get(value).filter(|owner| *owner != name) {
            let wrong =
                Wrong::new(format!("{value} is in {owner} already"), "leave it in one of the two");
            reader.fault_at(span.start, &item.key, wrong);
            alone = false;
        }
    }
    for value in values {
        owners.entry(value).or_insert_with(|| name.to_owned());
    }
    alone
}

fn operator(reader: &mut Reader<'_>, table: &Table<'_>) -> Option<OperatorEntry> {
    reader.only(table);
    if let Some(item) = table.item("name")
        && let Some(name) = item.value.as_str()
        && !is_operator_id(name)
    {
        let help = "write it in lower-case letters, digits and single \"-\": \"s3ns\"";
        reader.fault(&item, format!("{name:?} is not an operator id"), help);
    }
    let tied = ["host", "prefix", "asn"].iter().any(|key| table.has(key));
    if !tied {
        let wrong = Wrong::new(
            "an operator without host, prefix or asn is nobody's",
            "say what is theirs: prefix = [\"192.0.2.0/24\"], asn = [64496] or host = [\"*.example\"]",
        );
        reader.fault_at(table.span.start, "operator", wrong);
    }
    let host = optional(table, "host", |item| hosts::list(reader, item));
    let prefix = optional(table, "prefix", |item| net::prefixes(reader, item));
    let asn = optional(table, "asn", |item| net::asns(reader, item));
    let help = "say whose law reaches it: homes = [\"FR\"]";
    let homes = reader.required(table, "homes", help);
    let homes = homes.and_then(|item| zones::countries(reader, &item));
    let technology = optional(table, "technology", |item| zones::countries(reader, item));
    let evidence = optional(table, "evidence", |item| reader.line(item));
    let as_of = optional(table, "as_of", |item| time::instant(reader, item, time::Edge::First));
    tied.then_some(())?;
    Some(OperatorEntry {
        name: String::new(),
        host: host?.unwrap_or_default(),
        prefix: prefix?.unwrap_or_default(),
        asn: asn?.unwrap_or_default(),
        homes: homes?,
        technology: technology?.unwrap_or_default(),
        evidence: evidence?,
        as_of: as_of?,
    })
}

fn is_operator_id(name: &str) -> bool {
    let letters = |word: &str| {
        !word.is_empty()
            && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    name.len() <= 64 && name.split('-').all(letters)
}

/// `[[place]]`.
pub(super) fn places(
    reader: &mut Reader<'_>,
    root: &Table<'_>,
    names: &zones::Names,
) -> Option<Vec<Place>> {
    let tables = reader.tables(root, "place");
    let mut owners = BTreeMap::new();
    let read: Vec<_> = tables
        .iter()
        .map(|table| {
            let place = place(reader, table, names);
            let line = reader.position(table.span.start).line;
            let owner = format!("the [[place]] of line {line}");
            let alone = only_owner(reader, table, "to", &mut owners, &owner);
            place.filter(|_| alone)
        })
        .collect();
    read.into_iter().collect()
}

fn place(reader: &mut Reader<'_>, table: &Table<'_>, names: &zones::Names) -> Option<Place> {
    reader.only(table);
    let to = reader.required(table, "to", "say which addresses: to = [\"192.0.2.0/24\"]");
    let to = to.and_then(|item| net::prefixes(reader, &item));
    let location = optional(table, "location", |item| zones::zone_list(reader, item, names));
    let anycast = optional(table, "anycast", |item| reader.boolean(item));
    let reason = optional(table, "reason", |item| reader.line(item));
    let location = match (location?, anycast?) {
        (Some(list), None) => PlaceLocation::Somewhere(list),
        (None, Some(true)) => PlaceLocation::Anycast,
        (Some(_), Some(_)) | (None, Some(false) | None) => {
            let wrong = Wrong::new(
                "a place is either at a location or anycast",
                "write one of the two: location = [\"FR\"], or anycast = true",
            );
            reader.fault_at(table.span.start, "place", wrong);
            return None;
        }
    };
    Some(Place { to: to?, location, reason: reason? })
}
