//! `[[listen]]`: where clients come in.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

use super::fields::or;
use super::model::Admin;
use super::reader::{Item, Reader, Table};
use super::{keys, net, time};
use crate::settings::{Lane, Listen, ListenMode, OnDeath};

/// `[[listen]]`; a file without one has an explicit proxy on loopback, as no file has.
pub(super) fn listeners(
    reader: &mut Reader<'_>,
    root: &Table<'_>,
    admin: Option<&Admin>,
) -> Option<(Vec<Listen>, Option<Lane>)> {
    if !root.has("listen") {
        let address = SocketAddr::from(([127, 0, 0, 1], 3128));
        return Some((vec![Listen { mode: ListenMode::Proxy, address, ..LISTEN }], None));
    }
    let is_lane = |table: &Table<'_>| {
        table.item("mode").is_some_and(|item| item.value.as_str() == Some(LANE))
    };
    let (lanes, tables): (Vec<_>, Vec<_>) =
        reader.tables(root, "listen").into_iter().partition(is_lane);
    let mut taken: Vec<(SocketAddr, &str)> =
        admin.iter().map(|admin| (admin.address, "[admin]")).collect();
    let mut taken_udp: Vec<SocketAddr> = Vec::new();
    let read: Vec<_> = tables
        .iter()
        .map(|table| {
            let listen = listener(reader, table)?;
            let clash = taken.iter().find(|&&(address, _)| address == listen.address);
            // Port 0 is a free port, another one each time.
            if let Some(&(address, whose)) = clash.filter(|(address, _)| address.port() != 0) {
                if let Some(item) = table.item("address") {
                    let what = format!("{address} is the address of {whose} already");
                    reader.fault(&item, what, "give each its own address or port");
                }
                return None;
            }
            taken.push((listen.address, "another [[listen]]"));
            if let Some(udp) = listen.udp.filter(|udp| udp.port() != 0) {
                if taken_udp.contains(&udp) {
                    let item = table.item("udp").or_else(|| table.item("address"))?;
                    let what = format!("{udp} is the UDP address of another [[listen]] already");
                    reader.fault(&item, what, "give each its own, or write udp = false");
                    return None;
                }
                taken_udp.push(udp);
            }
            Some(listen)
        })
        .collect();
    let listen: Option<Vec<Listen>> = read.into_iter().collect();
    let lane = match lanes.as_slice() {
        [] => Some(None),
        [table] => lane(reader, table, listen.as_deref()).map(Some),
        [_, second, ..] => {
            if let Some(item) = second.item("mode") {
                let help = "leave one of them; it has queues and interfaces as many as it needs";
                reader.fault(&item, "there is another [[listen]] with mode = \"lane\"", help);
            }
            None
        }
    };
    Some((listen?, lane?))
}

/// The word for a lane, which is no listener of a socket.
const LANE: &str = "lane";

/// The keys of a lane; the others are of sockets, or of what the proxy reads.
const LANE_KEYS: [&str; 7] = [
    "mode",
    "queues",
    "interface",
    "on_death",
    "lifetime",
    "max_connections",
    "max_connections_per_client",
];

/// `[[listen]] mode = "lane"`.
fn lane(reader: &mut Reader<'_>, table: &Table<'_>, listen: Option<&[Listen]>) -> Option<Lane> {
    reader.only(table);
    for key in keys::of("listen").into_iter().filter(|key| !LANE_KEYS.contains(key)) {
        if let Some(item) = table.item(key) {
            let help =
                "take it out, or write it to the [[listen]] with mode = \"tproxy\" beside it";
            reader.fault(&item, "a lane has no such key: the kernel carries what it permits", help);
        }
    }
    let default = Lane::DEFAULT;
    let queues = or(table, "queues", default.queues, |item| queues(reader, item));
    let interfaces = match table.item("interface") {
        Some(item) => interfaces(reader, &item),
        None => Some(default.interfaces),
    };
    let words = [OnDeath::Halt, OnDeath::Carry].map(|word| (word.label(), word));
    let on_death = or(table, "on_death", default.on_death, |item| reader.word(item, &words));
    let (second, month) = (Duration::from_secs(1), Duration::from_secs(30 * 24 * 60 * 60));
    let lifetime = match table.item("lifetime") {
        Some(item) => time::duration(reader, &item, second, Some(month)).map(Some),
        None => Some(None),
    };
    let max_connections = or(table, "max_connections", default.max_connections, |item| {
        usize::try_from(reader.number(item, 1..10_000_001)?).ok()
    });
    let max_connections_per_client = per_client(reader, table, max_connections);
    if !listen?.iter().any(|listen| listen.mode == ListenMode::Tproxy)
        && let Some(item) = table.item("mode")
    {
        let help = "add [[listen]] with mode = \"tproxy\" and an address: what a lane does not \
                    carry goes there, refusals too";
        reader.fault(&item, "there is no listener with mode = \"tproxy\" beside the lane", help);
        return None;
    }
    Some(Lane {
        queues: queues?,
        interfaces: interfaces?,
        on_death: on_death?,
        lifetime: lifetime?,
        max_connections: max_connections?,
        max_connections_per_client: max_connections_per_client?,
    })
}

/// Most queues of a lane.
const QUEUES_MAX: u16 = 256;

/// `"21320-21323"`, or one number.
fn queues(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<RangeInclusive<u16>> {
    let help = "write the first and the last: queues = \"21320-21323\"";
    let text = reader.string(item, help)?;
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
        (Ok(first), Ok(last)) if first <= last && last - first < QUEUES_MAX => Some(first..=last),
        _ => {
            reader.fault(item, "that is not a range of 256 queues at most, of 0 to 65535", help);
            None
        }
    }
}

/// Names of interfaces, none of them empty.
fn interfaces(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Vec<String>> {
    let help = "write interface = [\"lan0\"], or leave it out: those of `capture up --interface`";
    let items = reader.list(item, help)?;
    let names: Option<Vec<_>> = items.iter().map(|item| reader.line(item)).collect();
    let names = names?;
    if names.is_empty() {
        reader.fault(item, "no interface is named", help);
        return None;
    }
    Some(names)
}

/// The defaults of a listener.
const LISTEN: Listen = Listen::DEFAULT;

fn listener(reader: &mut Reader<'_>, table: &Table<'_>) -> Option<Listen> {
    reader.only(table);
    for key in ["queues", "interface", "on_death"] {
        if let Some(item) = table.item(key) {
            let help = "write it to a [[listen]] with mode = \"lane\", or take it out";
            reader.fault(&item, "only a lane has such a key", help);
        }
    }
    let modes = [ListenMode::Tproxy, ListenMode::Redirect, ListenMode::Proxy];
    let modes = modes.map(|mode| (mode.label(), mode));
    let help = "write mode = \"tproxy\", \"redirect\", \"proxy\" or \"lane\"";
    let mode = reader.required(table, "mode", help).and_then(|item| reader.word(&item, &modes));
    let help = "write address and port: address = \"127.0.0.1:3128\"";
    let address = reader.required(table, "address", help);
    let address = address.and_then(|item| net::socket(reader, &item));
    let mut timeout = |key, default, least, most| {
        or(table, key, default, |item| time::duration(reader, item, least, Some(most)))
    };
    let (short, minute) = (Duration::from_millis(50), Duration::from_secs(60));
    let peek_timeout = timeout("peek_timeout", LISTEN.peek_timeout, short, minute);
    let connect_timeout = timeout("connect_timeout", LISTEN.connect_timeout, short, 5 * minute);
    let (second, month) = (Duration::from_secs(1), Duration::from_secs(30 * 24 * 60 * 60));
    let idle_timeout = timeout("idle_timeout", LISTEN.idle_timeout, second, month);
    let half_closed_timeout = match idle_timeout {
        Some(idle) => timeout("half_closed_timeout", idle, second, month),
        None => Some(LISTEN.half_closed_timeout),
    };
    let mut if_any = |key, most| match table.item(key) {
        Some(item) => time::duration(reader, &item, second, Some(most)).map(Some),
        None => Some(None),
    };
    let lifetime = if_any("lifetime", month);
    let keepalive = if_any("keepalive", 9 * 60 * minute);
    let user_timeout = if_any("user_timeout", 24 * 60 * minute);
    let keep_source = keep_source(reader, table, mode);
    let max_connections = or(table, "max_connections", LISTEN.max_connections, |item| {
        usize::try_from(reader.number(item, 1..10_000_001)?).ok()
    });
    let max_connections_per_client = per_client(reader, table, max_connections);
    let silent = or(table, "silent", LISTEN.silent, |item| reader.boolean(item));
    let starttls = starttls(reader, table, mode);
    let udp = datagrams(reader, table, mode, address);
    Some(Listen {
        mode: mode?,
        address: address?,
        udp: udp?,
        peek_timeout: peek_timeout?,
        connect_timeout: connect_timeout?,
        idle_timeout: idle_timeout?,
        half_closed_timeout: half_closed_timeout?,
        lifetime: lifetime?,
        keepalive: keepalive?,
        user_timeout: user_timeout?,
        keep_source: keep_source?,
        max_connections: max_connections?,
        max_connections_per_client: max_connections_per_client?,
        silent: silent?,
        starttls: starttls?,
        client: LISTEN.client,
    })
}

/// More than the listener takes would be a limit that is never met; 0 says that there is none.
fn per_client(
    reader: &mut Reader<'_>,
    table: &Table<'_>,
    of_all: Option<usize>,
) -> Option<Option<usize>> {
    let Some(item) = table.item("max_connections_per_client") else { return Some(None) };
    let most = usize::try_from(reader.number(&item, 0..10_000_001)?).ok()?;
    if most > of_all? {
        let what = format!("{most} is more than max_connections, which is {}", of_all?);
        reader.fault(&item, what, "write fewer, or 0: then only max_connections counts");
        return None;
    }
    Some(Some(most))
}

/// An explicit client says whom it means before anything else.
fn starttls(reader: &mut Reader<'_>, table: &Table<'_>, mode: Option<ListenMode>) -> Option<bool> {
    let Some(item) = table.item("starttls") else { return Some(LISTEN.starttls) };
    let follow = reader.boolean(&item)?;
    if follow && mode == Some(ListenMode::Proxy) {
        let help = "leave it out, or listen with mode = \"tproxy\"";
        reader.fault(&item, "an explicit proxy does not play servers", help);
        return None;
    }
    Some(follow)
}

/// Only a captured client has an address that its answers come back to through this host.
fn keep_source(
    reader: &mut Reader<'_>,
    table: &Table<'_>,
    mode: Option<ListenMode>,
) -> Option<bool> {
    let Some(item) = table.item("keep_source") else { return Some(LISTEN.keep_source) };
    let keep = reader.boolean(&item)?;
    if keep && mode == Some(ListenMode::Proxy) {
        let help = "leave it out, or listen with mode = \"tproxy\"";
        reader.fault(&item, "an explicit proxy cannot keep the client's address", help);
        return None;
    }
    Some(keep)
}

/// `udp` of a listener: a word or an address.
fn datagrams(
    reader: &mut Reader<'_>,
    table: &Table<'_>,
    mode: Option<ListenMode>,
    address: Option<SocketAddr>,
) -> Option<Option<SocketAddr>> {
    let Some(item) = table.item("udp") else {
        return Some(address.filter(|_| mode == Some(ListenMode::Tproxy)));
    };
    let udp = match item.value {
        DeValue::String(_) => Some(net::socket(reader, &item)?),
        DeValue::Boolean(wanted) if *wanted => Some(address?),
        DeValue::Boolean(_) => None,
        DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_)
        | DeValue::Table(_) => {
            let help = "write true, false, or where it listens: udp = \"[::]:443\"";
            reader.wrong_type(&item, "a boolean or an address", help);
            return None;
        }
    };
    if udp.is_some() && mode? != ListenMode::Tproxy {
        let what = format!("mode {:?} takes no UDP", mode?.label());
        reader.fault(&item, what, "only mode = \"tproxy\" does; take the key out");
        return None;
    }
    Some(udp)
}
