//! From a document to a [`Config`]: each section read to its end, whatever the others hold.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use hickory_proto::rr::RecordType;
use ipnet::IpNet;

use super::error::{UnknownRegion, Wrong};
use super::fields::{ACTIONS, Mark, Marks, only_owner, optional, or, unique_name};
use super::model::{
    Admin, AdminTls, Capture, Config, DNS_TYPES, Defaults, Group, Names, Shortcut, Until, Update,
    ZoneList,
};
use super::reader::{Item, Reader, Table};
use super::{audit, listen, net, rules, services, share, time, update, zones};
use crate::control::data::{BadPackKey, CountryField, Data, Source};
use crate::control::host_pattern::host_name;
use crate::egress::NamesLimit;
use crate::policy::{Action, Binding, Causes, Ech, Memory, Mode};
use crate::settings::{ClientAddress, Dns, Listen, ListenMode};

const MODES: [(&str, Mode); 2] = [("enforce", Mode::Enforce), ("observe", Mode::Observe)];

/// What the registrant of an address is for.
const REGISTRANT: [(&str, bool); 2] = [("show", false), ("judge", true)];

/// As [`ACTIONS`]; where no name could be read, to allow is to judge by address.
const UNREAD_ACTIONS: [(&str, Action); 3] =
    [("judge", Action::Allow), ("log", Action::Log), ("block", Action::Block)];

const PERMIT_HELP: &str = "say where bytes may land: permit = [\"eea\", \"gdpr-adequacy\"]";

impl Causes {
    /// What each cause leads to where the file does not say (docs/policy.md §2).
    pub const DEFAULT: Self = Self {
        outside: Action::Block,
        law: Action::Block,
        operator: Action::Log,
        unknown: Action::Block,
        disputed: Action::Log,
        anycast: Action::Block,
        mismatch: Action::Block,
        unread: Action::Allow,
        malformed: Action::Block,
        stale: Action::Log,
        private: Action::Allow,
    };
}

/// The config and what belongs to it; `None` where any part of it was faulty.
pub(super) fn config(
    reader: &mut Reader<'_>,
    root: &Table<'_>,
    path: Option<&Path>,
) -> Option<(Config, Marks, Vec<UnknownRegion>)> {
    schema(reader, root);
    reader.only(root);
    let zone_table = reader.table(root, "zones");
    let (zones, names) = zones::read(reader, zone_table.as_ref());
    let policy_table = reader.table(root, "policy");
    let policy = policy(reader, root, policy_table.as_ref(), &names);
    // What groups inherit from a faulty [policy] is never used: the file is refused.
    let inherited = policy.clone().unwrap_or_else(|| Defaults {
        mode: Mode::Enforce,
        permit: ZoneList::default(),
        permit_law: None,
        on: Causes::DEFAULT,
        grace: Duration::ZERO,
        watch: true,
        contact: None,
        ask_url: None,
        registrant: false,
    });
    let group_tables = reader.tables(root, "group");
    let groups = groups(reader, &group_tables, &names, &inherited);
    let group_names = group_names(&group_tables);
    let operators = rules::operators(reader, root);
    let places = rules::places(reader, root, &names);
    let rule_tables = reader.tables(root, "rule");
    let data = data(reader, root);
    let (data, update) = data.unzip();
    let brought = update.as_ref().and_then(Option::as_ref);
    let services = services::load(reader, root, data.as_ref(), brought);
    let known = rules::Known { zones: &names, groups: &group_names, services: &services };
    let mut unknown_regions = Vec::new();
    let rules = rules::rules(reader, &rule_tables, root, &known, &mut unknown_regions);
    let name_table = reader.table(root, "names");
    let bindings = name_settings(reader, name_table.as_ref());
    let dns = dns(reader, root, bindings.as_ref());
    let admin = admin(reader, root);
    let (listen, lane) = listen::listeners(reader, root, admin.as_ref()).unzip();
    let has_lane = lane.as_ref().is_some_and(Option::is_some);
    let capture = capture(reader, root, listen.as_deref(), has_lane);
    let (audit, position) = audit::audit(reader, root).unzip();
    let log = audit::log(reader, root, root.has("audit"));
    let (rules, tables_of_rules) = rules.unzip();
    let mark = |&at: &usize| rule_tables.get(at).map(Mark::of);
    let marks = Marks {
        policy: policy_table.as_ref().map(Mark::of).unwrap_or_default(),
        names: name_table.as_ref().map(Mark::of).unwrap_or_default(),
        capture: reader.table(root, "capture").as_ref().map(Mark::of).unwrap_or_default(),
        data: reader.table(root, "data").as_ref().map(Mark::of).unwrap_or_default(),
        groups: group_tables.iter().map(Mark::of).collect(),
        rules: tables_of_rules.iter().flatten().filter_map(mark).collect(),
    };
    let config = Config {
        path: path.map(Path::to_owned),
        lines: reader.lines_that_say(),
        host_files: std::mem::take(&mut reader.host_files),
        policy: policy?,
        groups: groups?,
        zones,
        rules: rules?,
        operators: operators?,
        places: places?,
        names: bindings?,
        dns: dns?,
        listen: listen?,
        lane: lane?,
        admin: admin?,
        capture: capture?,
        data: data?,
        update: update?,
        services: services.infos().to_vec(),
        audit: audit?,
        position: position?,
        log: log?,
    };
    Some((config, marks, unknown_regions))
}

fn schema(reader: &mut Reader<'_>, root: &Table<'_>) {
    let help = "write schema = 1";
    if let Some(item) = reader.required(root, "schema", help) {
        let one = item.value.as_integer().is_some_and(|number| number.as_str() == "1");
        if !one {
            reader.fault(&item, "this program reads schema 1", help);
        }
    }
}

fn policy(
    reader: &mut Reader<'_>,
    root: &Table<'_>,
    table: Option<&Table<'_>>,
    names: &zones::Names,
) -> Option<Defaults> {
    if !root.has("policy") {
        let wrong = Wrong::new("missing", format!("write [policy] and, below it, {PERMIT_HELP}"));
        reader.fault_at(0, "policy", wrong);
    }
    let table = table?;
    reader.only(table);
    let mode = or(table, "mode", Mode::Enforce, |item| reader.word(item, &MODES));
    let permit = reader.required(table, "permit", PERMIT_HELP);
    let permit = permit.and_then(|item| zones::zone_list(reader, &item, names));
    let permit_law = optional(table, "permit_law", |item| zones::zone_list(reader, item, names));
    let on = causes(reader, table, Causes::DEFAULT);
    let grace = or(table, "grace", Duration::ZERO, |item| {
        time::duration(reader, item, Duration::ZERO, None)
    });
    let watch = or(table, "watch", true, |item| reader.boolean(item));
    let contact = optional(table, "contact", |item| reader.line(item));
    let ask_url = optional(table, "ask_url", |item| {
        let help = "write a whole URL: \"https://helpdesk.hospital.example/egress\"";
        let text = reader.line(item)?;
        let url = url::Url::parse(&text).ok();
        let fits = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        if fits.is_none() {
            reader.fault(item, format!("{text:?} is not the URL of a page"), help);
        }
        fits.map(|url| url.to_string())
    });
    let registrant = or(table, "registrant", false, |item| reader.word(item, &REGISTRANT));
    Some(Defaults {
        mode: mode?,
        permit: permit?,
        permit_law: permit_law?,
        on: on?,
        grace: grace?,
        watch: watch?,
        contact: contact?,
        ask_url: ask_url?,
        registrant: registrant?,
    })
}

/// `on`, over what holds where it does not say.
fn causes(reader: &mut Reader<'_>, parent: &Table<'_>, inherited: Causes) -> Option<Causes> {
    if !parent.has("on") {
        return Some(inherited);
    }
    let table = reader.table(parent, "on")?;
    let mut on = inherited;
    let fields: [(&str, &mut Action); 11] = [
        ("outside", &mut on.outside),
        ("law", &mut on.law),
        ("operator", &mut on.operator),
        ("unknown", &mut on.unknown),
        ("disputed", &mut on.disputed),
        ("anycast", &mut on.anycast),
        ("mismatch", &mut on.mismatch),
        ("unread", &mut on.unread),
        ("malformed", &mut on.malformed),
        ("stale", &mut on.stale),
        ("private", &mut on.private),
    ];
    reader.only(&table);
    let mut sound = true;
    for (key, field) in fields {
        let words: &[_] = if key == "unread" { &UNREAD_ACTIONS } else { &ACTIONS };
        match or(&table, key, *field, |item| reader.word(item, words)) {
            Some(action) => *field = action,
            None => sound = false,
        }
    }
    sound.then_some(on)
}

fn groups(
    reader: &mut Reader<'_>,
    tables: &[Table<'_>],
    names: &zones::Names,
    inherited: &Defaults,
) -> Option<Vec<Group>> {
    let mut taken = BTreeMap::new();
    let mut owners: BTreeMap<IpNet, String> = BTreeMap::new();
    let read: Vec<_> = tables
        .iter()
        .map(|table| {
            let group = group(reader, table, names, inherited);
            let name = unique_name(reader, table, &mut taken);
            let shown = name.clone().unwrap_or_else(|| "another".to_owned());
            let alone = only_owner(reader, table, "clients", &mut owners, &shown);
            let group = Group { name: name?, ..group? };
            alone.then_some(group)
        })
        .collect();
    read.into_iter().collect()
}

/// The index of each group by its name, faulty groups included, so that no rule is blamed for them.
fn group_names(tables: &[Table<'_>]) -> BTreeMap<String, usize> {
    let name = |table: &Table<'_>| Some(table.item("name")?.value.as_str()?.trim().to_owned());
    tables.iter().enumerate().filter_map(|(i, table)| Some((name(table)?, i))).collect()
}

fn group(
    reader: &mut Reader<'_>,
    table: &Table<'_>,
    names: &zones::Names,
    inherited: &Defaults,
) -> Option<Group> {
    reader.only(table);
    if let Some(item) = table.item("name") {
        match item.value.as_str() {
            Some("default") => {
                let what = "\"default\" names the policy of clients in no group";
                reader.fault(&item, what, "give the group another name");
            }
            Some(name) if name.contains('/') => {
                let what = "the name of a group with \"/\" reads as a prefix in `from`";
                reader.fault(&item, what, "give the group a name without \"/\"");
            }
            Some(_) | None => {}
        }
    }
    let help = "say who is in the group: clients = [\"10.40.0.0/16\"]";
    let clients = reader.required(table, "clients", help);
    let clients = clients.and_then(|item| net::prefixes(reader, &item));
    let mode = or(table, "mode", inherited.mode, |item| reader.word(item, &MODES));
    let permit =
        or(table, "permit", inherited.permit.clone(), |item| zones::zone_list(reader, item, names));
    let permit_law = or(table, "permit_law", inherited.permit_law.clone(), |item| {
        zones::zone_list(reader, item, names).map(Some)
    });
    let on = causes(reader, table, inherited.on);
    let until =
        optional(table, "until", |item| time::instant(reader, item, time::Edge::After).map(Until));
    Some(Group {
        name: String::new(),
        clients: clients?,
        mode: mode?,
        until: until?,
        permit: permit?,
        permit_law: permit_law?,
        on: on?,
    })
}

fn name_settings(reader: &mut Reader<'_>, table: Option<&Table<'_>>) -> Option<Names> {
    let ten_minutes = Duration::from_secs(600);
    let default = Names {
        binding: Binding::Verify,
        ech: Ech::Claim,
        resolvers: Vec::new(),
        resolver_ca: None,
        remember: ten_minutes,
        limit: NamesLimit::default(),
    };
    let Some(table) = table else { return Some(default) };
    reader.only(table);
    let bindings =
        [("verify", Binding::Verify), ("redial", Binding::Redial), ("trust", Binding::Trust)];
    let hellos = [("claim", Ech::Claim), ("unread", Ech::Unread), ("block", Ech::Block)];
    let binding = or(table, "binding", default.binding, |item| reader.word(item, &bindings));
    let ech = or(table, "ech", default.ech, |item| reader.word(item, &hellos));
    let help = "write resolvers = [\"192.0.2.53:53\"]";
    let resolvers = or(table, "resolvers", Vec::new(), |item| {
        let mut known = Vec::new();
        reader.parsed_list(item, help, |text| {
            let at = net::resolver(text)?;
            if known.contains(&at) {
                return Err(Wrong::new(format!("{at} stands here twice"), "write it once"));
            }
            known.push(at);
            Ok(at)
        })
    });
    let resolver_ca =
        optional(table, "resolver_ca", |item| reader.line(item).map(|at| reader.base.join(at)));
    let day = Duration::from_secs(24 * 60 * 60);
    let remember = or(table, "remember", default.remember, |item| {
        time::duration(reader, item, Duration::ZERO, Some(day))
    });
    let mut most = |key, default| {
        or(table, key, default, |item| usize::try_from(reader.number(item, 1..1_000_001)?).ok())
    };
    let in_all = most("new_names", default.limit.in_all);
    let below_parent = most("new_names_per_domain", default.limit.below_parent);
    Some(Names {
        limit: NamesLimit { in_all: in_all?, below_parent: below_parent? },
        binding: binding?,
        ech: ech?,
        resolvers: resolvers?,
        resolver_ca: resolver_ca?,
        remember: remember?,
    })
}

/// What `[dns]` says where it has nothing but an address.
#[must_use]
pub fn dns_defaults(listen: SocketAddr) -> Dns {
    Dns {
        listen,
        nxdomain: false,
        filter: true,
        strip_ech: false,
        rate: 100,
        types: dns_types(),
        client: ClientAddress::OfPackets,
    }
}

/// Types of records that may be asked for where none are named, in ascending order.
fn dns_types() -> Vec<u16> {
    let mut types: Vec<_> = DNS_TYPES.iter().filter_map(|name| record_type(name).ok()).collect();
    types.sort_unstable();
    types
}

/// `[dns]`; `Some(None)` where it is not written.
fn dns(reader: &mut Reader<'_>, root: &Table<'_>, names: Option<&Names>) -> Option<Option<Dns>> {
    if !root.has("dns") {
        return Some(None);
    }
    let table = reader.table(root, "dns")?;
    reader.only(&table);
    let help = "write where clients ask: listen = \"192.0.2.1:53\"";
    let item = reader.required(&table, "listen", help)?;
    let listen = net::socket(reader, &item);
    let resolvers = names.map(|names| names.resolvers.as_slice());
    let asks_itself = |at: SocketAddr, listen: SocketAddr| {
        let any = listen.ip().is_unspecified() && at.ip().is_loopback();
        at.port() == listen.port() && (at.ip() == listen.ip() || any)
    };
    match (listen, resolvers) {
        (Some(_), Some([])) => {
            let help = "name the servers to ask: [names] resolvers = [\"192.0.2.53:53\"]";
            reader.fault(&item, "nobody is named whom it could ask", help);
            return None;
        }
        (Some(at), Some(all)) if all.iter().any(|resolver| asks_itself(resolver.at, at)) => {
            let help = "take this address out of [names] resolvers";
            reader.fault(&item, "it would ask itself", help);
            return None;
        }
        (None | Some(_), _) => {}
    }
    let codes = [("refused", false), ("nxdomain", true)];
    let nxdomain = or(&table, "refuse", false, |item| reader.word(item, &codes));
    let filter = or(&table, "filter", true, |item| reader.boolean(item));
    let strip_ech = or(&table, "strip_ech", false, |item| reader.boolean(item));
    let rate = or(&table, "rate", 100, |item| u32::try_from(reader.number(item, 1..100_001)?).ok());
    let types = or(&table, "types", dns_types(), |item| {
        let help = "write types = [\"A\", \"AAAA\", \"HTTPS\"]";
        reader.parsed_list(item, help, record_type)
    });
    let types = types.map(|mut types| {
        types.sort_unstable();
        types.dedup();
        types
    });
    Some(Some(Dns {
        listen: listen?,
        nxdomain: nxdomain?,
        filter: filter?,
        strip_ech: strip_ech?,
        rate: rate?,
        types: types?,
        client: ClientAddress::OfPackets,
    }))
}

/// The type of a record by its name, or as `TYPE` and its number (RFC 3597 §5).
fn record_type(text: &str) -> Result<u16, Wrong> {
    let upper = text.to_ascii_uppercase();
    let by_number = upper.strip_prefix("TYPE").and_then(|number| number.parse().ok());
    let code = by_number.or_else(|| RecordType::from_str(&upper).ok().map(u16::from));
    let help = "write a type as \"TXT\", or by its number as \"TYPE16\"";
    let code = code.ok_or_else(|| Wrong::new(format!("{text:?} is not a type of record"), help))?;
    let never = [RecordType::AXFR, RecordType::IXFR, RecordType::OPT, RecordType::TSIG];
    if never.contains(&RecordType::from(code)) {
        return Err(Wrong::new(format!("{text} is never forwarded"), "take it out"));
    }
    Ok(code)
}

fn admin(reader: &mut Reader<'_>, root: &Table<'_>) -> Option<Admin> {
    let default = Admin::at(SocketAddr::from(([127, 0, 0, 1], 9643)));
    if !root.has("admin") {
        return Some(default);
    }
    let table = reader.table(root, "admin")?;
    reader.only(&table);
    let address = or(&table, "address", default.address, |item| net::socket(reader, item));
    let mut path =
        |key| optional(&table, key, |item| reader.line(item).map(|path| reader.base.join(path)));
    let socket = path("socket");
    let token_file = path("token_file");
    let (certificate, key, client_ca) = (path("certificate")?, path("key")?, path("client_ca")?);
    let names = or(&table, "names", Vec::new(), |item| {
        reader.parsed_list(item, "write names = [\"gateway.hospital.example\"]", |text| {
            let name =
                host_name(text).map_err(|fault| Wrong::new(fault.to_string(), fault.help()))?;
            Ok(name.as_str().to_owned())
        })
    });
    let tls = match (certificate, key) {
        (Some(certificate), Some(key)) => Some(AdminTls { certificate, key, client_ca }),
        (None, None) => {
            if let Some(item) = table.item("client_ca") {
                let help = "write `certificate` and `key` as well, or take `client_ca` out";
                reader.fault(&item, "certificates are asked for over TLS alone", help);
                return None;
            }
            None
        }
        (has, _) => {
            let (there, lacks) =
                if has.is_some() { ("certificate", "key") } else { ("key", "certificate") };
            if let Some(item) = table.item(there) {
                let what = format!("`{there}` without `{lacks}`");
                reader.fault(&item, what, format!("write `{lacks}` as well"));
            }
            return None;
        }
    };
    let (address, token_file) = (address?, token_file?);
    if !address.ip().to_canonical().is_loopback() {
        let asks = tls.as_ref().is_some_and(|tls| tls.client_ca.is_some()) || token_file.is_some();
        let (at, what, help) = match (&tls, asks) {
            // The metrics alone are served there, as ever.
            (None, false) | (Some(_), true) => {
                return Some(Admin { address, socket: socket?, token_file, tls, names: names? });
            }
            (None, true) => (
                "token_file",
                "the token would go over the network in the clear",
                "write `certificate` and `key`, or listen on 127.0.0.1",
            ),
            (Some(_), false) => (
                "certificate",
                "nobody who asks on this address would have to say who they are",
                "write `token_file` or `client_ca`",
            ),
        };
        if let Some(item) = table.item(at) {
            reader.fault(&item, what, help);
        }
        return None;
    }
    Some(Admin { address, socket: socket?, token_file, tls, names: names? })
}

/// `[capture]`. The short cut is beside a transparent listener: what it does not take goes there.
fn capture(
    reader: &mut Reader<'_>,
    root: &Table<'_>,
    listen: Option<&[Listen]>,
    has_lane: bool,
) -> Option<Capture> {
    let default = Capture::default();
    if !root.has("capture") {
        return Some(default);
    }
    let table = reader.table(root, "capture")?;
    reader.only(&table);
    let words = Shortcut::ALL.map(|shortcut| (shortcut.label(), shortcut));
    let shortcut = or(&table, "shortcut", default.shortcut, |item| reader.word(item, &words))?;
    let is_captured = |listen: &Listen| listen.mode != ListenMode::Proxy;
    let captures = listen.is_none_or(|listen| listen.iter().any(is_captured));
    if let Some(item) = table.item("shortcut").filter(|_| shortcut != Shortcut::Off && !captures) {
        let help = "listen with mode = \"tproxy\" or \"redirect\", or take the key out";
        reader.fault(&item, "a short cut past an explicit proxy, which clients choose", help);
        return None;
    }
    if let Some(item) = table.item("shortcut").filter(|_| shortcut != Shortcut::Off && has_lane) {
        let help = "take one of them out: a lane carries the same flows and records them, a short \
                    cut counts them";
        reader.fault(&item, "a short cut beside a [[listen]] with mode = \"lane\"", help);
        return None;
    }
    let ntp = or(&table, "ntp", default.ntp, |item| net::addresses(reader, item));
    let dhcp = or(&table, "dhcp", default.dhcp, |item| net::addresses(reader, item));
    Some(Capture { shortcut, ntp: ntp?, dhcp: dhcp? })
}

/// `[data]` and, within it, `[data.update]`.
fn data(reader: &mut Reader<'_>, root: &Table<'_>) -> Option<(Data, Option<Update>)> {
    let default = Data::default();
    if !root.has("data") {
        return Some((default, None));
    }
    let table = reader.table(root, "data")?;
    reader.only(&table);
    let directory = or(&table, "directory", default.directory, |item| {
        reader.line(item).map(|path| reader.base.join(path))
    });
    let pack =
        optional(&table, "pack", |item| reader.line(item).map(|path| reader.base.join(path)));
    let pack_key = optional(&table, "pack_key", |item| {
        let help = "write the line that `schengate data keygen` printed";
        let key = reader.string(item, help)?.parse();
        reader.keep(item, key.map_err(|bad: BadPackKey| Wrong::new(bad.to_string(), help)))
    });
    if let Some(item) = table.item("pack_key").filter(|_| !table.has("pack")) {
        let help = "name the pack as well: pack = \"site.sgp\"";
        reader.fault(&item, "a key without the pack that it is for", help);
    }
    // Beside a pack, a list holds what is written and nothing else.
    let unwritten = |list| if table.has("pack") { Vec::new() } else { list };
    let mut sources =
        |key, default| or(&table, key, unwritten(default), |item| source_list(reader, item));
    let country = sources("country", default.country);
    let asn = sources("asn", default.asn);
    let providers = sources("providers", default.providers);
    let services = or(&table, "services", default.services, |item| source_list(reader, item));
    let services_key = optional(&table, "services_key", |item| {
        let help = "write the key that `schengate data keygen` printed";
        let key = reader.string(item, help)?.parse();
        reader.keep(item, key.map_err(|bad: BadPackKey| Wrong::new(bad.to_string(), help)))
    });
    let max_age = optional(&table, "max_age", |item| {
        time::duration(reader, item, Duration::from_secs(1), None)
    });
    let max_loss = or(&table, "max_loss", default.max_loss, |item| share::percent(reader, item));
    let fields = [CountryField::Country, CountryField::Registered];
    let fields = fields.map(|field| (field.label(), field));
    let country_field =
        or(&table, "country_field", default.country_field, |item| reader.word(item, &fields));
    let forms = [("fast", Memory::Fast), ("compact", Memory::Compact)];
    let memory = or(&table, "memory", default.memory, |item| reader.word(item, &forms));
    let data = Data {
        directory: directory?,
        country: country?,
        asn: asn?,
        providers: providers?,
        services: services?,
        services_key: services_key?,
        max_age: max_age?,
        max_loss: max_loss?,
        memory: memory?,
        country_field: country_field?,
        pack: pack?,
        pack_key: pack_key?,
    };
    let update = update::read(reader, &table, &data)?;
    Some((data, update))
}

fn source_list(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Vec<Source>> {
    let help =
        "write \"embedded\" or paths relative to this file: [\"country.mmdb\", \"embedded\"]";
    let members = reader.list(item, help)?;
    reader.each(&members, |reader, member| {
        let source = match reader.line(member)?.as_str() {
            "embedded" => Source::Embedded,
            path => Source::File(reader.base.join(path)),
        };
        Some(source)
    })
}
