//! The kernel: what it can do, and switches that break the way.

use super::diagnosis::{Diagnosis, Expected, State};
use super::files::Files;

/// Connections that a listener lets wait, and the kernel should.
const WAITING: i64 = 4096;

/// Ports for connections of the gateway's own, at least.
const PORTS: i64 = 10_000;

/// Files that may be open at once, at least.
const OPEN: i64 = 65_536;

pub(super) fn look(files: &Files, wanted: Expected<'_>, found: &mut Vec<Diagnosis>) {
    let mut put = |check, state| found.push(Diagnosis { check, state });
    if wanted.has_tproxy() {
        put("nft_tproxy", tproxy(files));
    }
    if wanted.is_captured() {
        // The capture's own checks say so of this host's kernel.
        if !files.is_own() {
            put("rp_filter", reverse_path(files));
            put("src_valid_mark", interfaces(files, "src_valid_mark", VALID_MARK));
            put("tcp_fwmark_accept", accept_mark(files));
            put("br_netfilter", bridge(files));
            put("forwarding", forwarding(files));
        }
        put("tcp_rfc1337", rfc1337(files));
        put("ip_nonlocal_bind", nonlocal(files));
        put("conntrack", conntrack(files));
    }
    put("local_ports", local_ports(files, wanted));
    put("somaxconn", at_least(files, "net/core/somaxconn", WAITING, WAITS));
    put("descriptors", descriptors(files));
}

const VALID_MARK: &str =
    "it drops marked packets where they come in (Tailscale and wg-quick switch it on)";
const WAITS: &str = "connections that wait beyond it are dropped";

fn set(name: &str, value: impl std::fmt::Display) -> String {
    let name = name.replace('/', ".");
    format!(
        "sysctl -w {name}={value}; and for the next start: echo '{name} = {value}' \
         >/etc/sysctl.d/60-schengate.conf"
    )
}

/// Whether nf_tables can hand connections over (TPROXY).
fn tproxy(files: &Files) -> State {
    let is_there = files.exists("sys/module/nft_tproxy")
        || files.read("proc/modules").is_some_and(|text| text.contains("nft_tproxy "));
    let Some(release) = files.switch("kernel/osrelease").filter(|_| !is_there) else {
        return if is_there { State::Good } else { State::Unseen("no /proc/sys".to_owned()) };
    };
    let folders = ["lib/modules", "usr/lib/modules"].map(|folder| format!("{folder}/{release}"));
    let lists: Vec<_> = folders
        .iter()
        .flat_map(|folder| {
            ["modules.dep", "modules.builtin"].map(|list| format!("{folder}/{list}"))
        })
        .filter_map(|list| files.read(&list))
        .collect();
    match lists.iter().any(|list| list.contains("nft_tproxy.ko")) {
        true => State::Good,
        false if lists.is_empty() => State::Unseen(format!(
            "/lib/modules/{release} is not there: `nft` says it when it is asked"
        )),
        false => State::bad(
            format!(
                "the kernel {release} has no nft_tproxy: mode = \"tproxy\" brings nothing here"
            ),
            "install a kernel with CONFIG_NFT_TPROXY, or write mode = \"redirect\"",
        ),
    }
}

/// The first interface of which a switch of IPv4 is 1.
fn switched_on(files: &Files, name: &str) -> Option<String> {
    let all = files.list("proc/sys/net/ipv4/conf").into_iter().map(|(interface, _)| interface);
    all.into_iter()
        .find(|interface| files.number(&format!("net/ipv4/conf/{interface}/{name}")) == Some(1))
}

fn interfaces(files: &Files, name: &str, means: &str) -> State {
    match switched_on(files, name) {
        None => State::Good,
        Some(interface) => {
            let switch = format!("net/ipv4/conf/{interface}/{name}");
            State::bad(format!("{name} is on for {interface}: {means}"), set(&switch, 0))
        }
    }
}

fn reverse_path(files: &Files) -> State {
    match switched_on(files, "rp_filter") {
        None => State::Good,
        Some(interface) => State::bad(
            format!(
                "{interface} filters by strict reverse path (rp_filter=1): what is routed back by another \
                 interface is dropped there and not counted"
            ),
            set(&format!("net/ipv4/conf/{interface}/rp_filter"), 2),
        ),
    }
}

fn accept_mark(files: &Files) -> State {
    match files.number("net/ipv4/tcp_fwmark_accept") {
        Some(1) => State::bad(
            "tcp_fwmark_accept is on: answers bear the mark of what was captured, and stay here",
            set("net/ipv4/tcp_fwmark_accept", 0),
        ),
        _ => State::Good,
    }
}

fn bridge(files: &Files) -> State {
    let calls = ["iptables", "ip6tables"];
    let on = calls
        .iter()
        .find(|call| files.number(&format!("net/bridge/bridge-nf-call-{call}")) == Some(1));
    match on {
        None => State::Good,
        Some(call) => State::bad(
            format!(
                "bridge-nf-call-{call} is on: a bridge shows its packets to the hooks before they are for \
                 this host, and TPROXY finds nobody"
            ),
            set(&format!("net/bridge/bridge-nf-call-{call}"), 0),
        ),
    }
}

fn forwarding(files: &Files) -> State {
    for switch in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        if files.number(switch) == Some(1) {
            let what = "this host forwards: only the guard stands between a client and the world where the \
                        gateway is gone";
            return State::bad(what, set(switch, 0));
        }
    }
    State::Good
}

fn rfc1337(files: &Files) -> State {
    match files.number("net/ipv4/tcp_rfc1337") {
        Some(1) => State::bad(
            "tcp_rfc1337 is on: a client that uses a port again while the old connection is in TIME-WAIT is \
             met by that one, and waits",
            set("net/ipv4/tcp_rfc1337", 0),
        ),
        _ => State::Good,
    }
}

fn nonlocal(files: &Files) -> State {
    for switch in ["net/ipv4/ip_nonlocal_bind", "net/ipv6/ip_nonlocal_bind"] {
        if files.number(switch) == Some(1) {
            let what = format!(
                "{} is on: every address looks like one of this host's own, and what goes to the port of a \
                 listener is refused as a loop",
                switch.replace('/', ".")
            );
            return State::bad(what, set(switch, 0));
        }
    }
    State::Good
}

fn conntrack(files: &Files) -> State {
    let number = |name: &str| files.number(&format!("net/netfilter/nf_conntrack_{name}"));
    match (number("count"), number("max")) {
        (Some(count), Some(max)) if count * 10 > max * 8 => State::bad(
            format!(
                "{count} of {max} entries of the connection tracking are taken: beyond, packets are dropped"
            ),
            set("net/netfilter/nf_conntrack_max", max * 4),
        ),
        _ => State::Good,
    }
}

fn at_least(files: &Files, name: &str, least: i64, means: &str) -> State {
    match files.number(name) {
        None => State::Unseen(format!("{} is not there", name.replace('/', "."))),
        Some(number) if number < least => {
            State::bad(format!("{} is {number}: {means}", name.replace('/', ".")), set(name, least))
        }
        Some(_) => State::Good,
    }
}

fn descriptors(files: &Files) -> State {
    let means = "a relayed connection takes two descriptors";
    for name in ["fs/nr_open", "fs/file-max"] {
        match at_least(files, name, OPEN, means) {
            State::Good => {}
            other @ (State::Bad { .. } | State::Unseen(_)) => return other,
        }
    }
    State::Good
}

/// Ports for the gateway's own connections: enough of them, and no listener's among them.
fn local_ports(files: &Files, wanted: Expected<'_>) -> State {
    const RANGE: &str = "net/ipv4/ip_local_port_range";
    let Some(text) = files.switch(RANGE) else { return State::Unseen("no /proc/sys".to_owned()) };
    let mut words = text.split_whitespace().filter_map(|word| word.parse::<i64>().ok());
    let (Some(first), Some(last)) = (words.next(), words.next()) else {
        return State::Unseen(format!("{RANGE}: {text:?}"));
    };
    if last - first + 1 < PORTS {
        let what = format!(
            "{} ports for connections of the gateway's own ({first} to {last}): so many to one destination at \
             once",
            last - first + 1
        );
        return State::bad(what, set(RANGE, "'16384 60999'"));
    }
    let reserved = files.switch("net/ipv4/ip_local_reserved_ports").unwrap_or_default();
    let is_reserved = |port: i64| {
        reserved.split(',').any(|range| {
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            let number = |text: &str| text.trim().parse::<i64>();
            matches!((number(from), number(to)), (Ok(from), Ok(to)) if (from..=to).contains(&port))
        })
    };
    let listeners = wanted.config.map_or(&[][..], |config| &config.listen);
    let taken = listeners.iter().map(|listen| i64::from(listen.address.port()));
    match taken.into_iter().find(|port| (first..=last).contains(port) && !is_reserved(*port)) {
        None => State::Good,
        Some(port) => State::bad(
            format!(
                "port {port} of a listener is among the local ports: another program may have it first"
            ),
            set("net/ipv4/ip_local_reserved_ports", port),
        ),
    }
}
