//! The kernel short cut: the table in which the kernel judges by itself.
//!
//! ```text
//!  inet schengate_shortcut   prerouting, before the capture: marks what the sets permit, rejects
//!                            what they refuse, leaves all else alone
//!  inet schengate            captures what bears no mark
//!  inet schengate_guard      drops what would be forwarded without the mark
//! ```
//! `capture up` sets the frame: the hooks, and who is asked at all. The gateway fills in what the
//! policy in force says ([`program`]), in one transaction that keeps the counters: the kernel holds
//! the old sets or the new ones, at every moment.
//!
//! A packet is judged by the destination that the client first asked for, in both directions and for
//! the ICMP errors of the connection, so that a network that leaves the sets is cut off at once.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Capture, Family, HERE, HTTPS};
use crate::control::config::Shortcut as Setting;
use crate::policy::{Action, Fate, Interval, PLANES_MAX, Plane, Reason, Shortcut, Transport};

/// The table of the short cut, of family `inet`.
pub const TABLE: &str = "schengate_shortcut";

/// Firewall mark of the packets that the kernel may forward.
pub(super) const MARK: u32 = 0x5348;

/// Connection mark of what the kernel carries, with the number of the plane below.
const CARRIED: u32 = MARK << 16;

/// Bits of [`CARRIED`] that do not number a plane.
const CARRIED_MASK: u32 = 0xffff_0000;

/// Elements in one statement.
const CHUNK: usize = 4096;

/// What the name of a chain begins with that says which policy the sets are of.
const EDITION: &str = "policy_";

/// Removes the table whether or not there is one.
pub(super) const EMPTY_TABLE: &str =
    "table inet schengate_shortcut\ndelete table inet schengate_shortcut\n";

/// The rules of the guard that let the marked packets through; a destination that was rewritten
/// after it was judged is another destination.
const GUARD_RULES: &str = "        meta mark 0x5348 ct status dnat counter drop
        meta mark 0x5348 accept
";

/// The guard that lets through what the sets permit.
pub(super) fn guard(plain: &str) -> String {
    let at = plain.find("        counter drop").unwrap_or(plain.len());
    let (before, after) = plain.split_at(at);
    format!("{before}{GUARD_RULES}{after}")
}

/// The frame: hooks and conditions. What the policy says stays as it is, if there is any.
pub(super) fn frame(capture: &Capture, masquerade: bool) -> String {
    let mut rules = vec![
        // Nobody else's mark opens the guard.
        format!("meta mark {MARK:#x} meta mark set 0"),
        "socket transparent 1 return".to_owned(),
        "ct direction reply jump answer".to_owned(),
        "ct direction reply return".to_owned(),
    ];
    rules.extend(capture.elsewhere());
    // What was redirected before stays with the gateway.
    rules.push("ct status dnat return".to_owned());
    rules.push(format!("{HERE} return"));
    let carried = format!("ct mark & {CARRIED_MASK:#x} == {CARRIED:#x}");
    rules.push(format!("meta l4proto {{ icmp, ipv6-icmp }} ct state related {carried} jump judge"));
    for (family, (tcp, udp)) in Family::ALL.into_iter().zip(capture.tcp.iter().zip(&capture.udp)) {
        let digit = family.digit();
        if tcp.is_some() {
            rules.push(format!("meta nfproto ipv{digit} meta l4proto tcp jump judge"));
        }
        // What UDP the firewall refuses for want of a listener, it refuses here as well.
        if let Some(udp) = udp {
            let what = if udp.address.port() == HTTPS { "udp dport 443" } else { super::ALL_UDP };
            rules.push(format!("meta nfproto ipv{digit} {what} jump judge"));
        }
    }
    let mut text = format!("add table inet {TABLE}\n");
    for chain in ["judge", "answer"] {
        text += &format!("add chain inet {TABLE} {chain}\n");
    }
    let hook = "type filter hook prerouting priority mangle - 5; policy accept;";
    text += &chain("prerouting", hook, &rules);
    // The destination sees the gateway's address, as it does of what the gateway dials.
    let leave = masquerade.then(|| format!("meta mark {MARK:#x} masquerade"));
    let hook = "type nat hook postrouting priority srcnat; policy accept;";
    text += &chain("postrouting", hook, leave.as_slice());
    text
}

/// A base chain with these rules and no others.
fn chain(name: &str, hook: &str, rules: &[String]) -> String {
    let mut text = format!("add chain inet {TABLE} {name} {{ {hook} }}\n");
    text += &format!("flush chain inet {TABLE} {name}\n");
    for rule in rules {
        text += &format!("add rule inet {TABLE} {name} {rule}\n");
    }
    text
}

/// What the kernel judges, as one transaction for `nft -f`. `standing` is the
/// edition of the sets so far, `next` that of these. Fails as a whole where there is no frame.
pub(super) fn program(
    shortcut: &Shortcut,
    setting: Setting,
    standing: Option<&str>,
    next: &str,
) -> String {
    let refuses = setting == Setting::Address;
    // Counters stand before the maps whose elements name them, or nft 1.0.6 finds none.
    let mut text = String::new();
    for name in counters(shortcut) {
        text += &format!("add counter inet {TABLE} {name}\n");
    }
    text += &emptied(standing);
    let mut judge = Vec::new();
    let mut answer = Vec::new();
    if shortcut.valid_until_ms != i64::MAX {
        let until = shortcut.valid_until_ms.div_euclid(1000);
        // Held back, not handed over: the gateway does not know these connections. It sends the
        // next sets at once, and what they permit goes on.
        let held = format!("ct mark & {CARRIED_MASK:#x} == {CARRIED:#x}");
        judge.push(format!("meta time >= {until} {held} drop"));
        judge.push(format!("meta time >= {until} return"));
        answer.push(format!("meta time >= {until} return"));
    }
    for (at, plane) in shortcut.planes.iter().enumerate() {
        let carried = format!("{:#x}", CARRIED | at as u32);
        for transport in [Transport::Tcp, Transport::Udp] {
            if let Some(ports) = ports(plane, transport) {
                judge.push(format!("{ports} jump plane_{at}"));
            }
        }
        let icmp = "meta l4proto { icmp, ipv6-icmp }";
        judge.push(format!("{icmp} ct mark {carried} jump answer_{at}"));
        answer.push(format!("ct mark {carried} jump answer_{at}"));
        text += &sets(plane, at);
        text += &verdicts(at, refuses, &carried);
    }
    for (name, rules) in [("judge", judge), ("answer", answer)] {
        for rule in rules {
            text += &format!("add rule inet {TABLE} {name} {rule}\n");
        }
    }
    text += &format!("add chain inet {TABLE} {EDITION}{next}\n");
    text
}

/// No sets: every new connection passes the gateway. What the kernel carries is held back where
/// `hold` says so, to go on under the next sets.
pub(super) fn nothing(standing: Option<&str>, hold: bool) -> String {
    let mut text = emptied(standing);
    if hold {
        let held = format!("ct mark & {CARRIED_MASK:#x} == {CARRIED:#x}");
        text += &format!("add rule inet {TABLE} judge {held} drop\n");
    }
    text
}

/// Chains and maps, made where they are not there, and emptied.
fn emptied(standing: Option<&str>) -> String {
    let mut text = String::new();
    for name in ["judge", "answer"] {
        text += &format!("flush chain inet {TABLE} {name}\n");
    }
    for at in 0..PLANES_MAX {
        for name in ["plane", "answer"] {
            text += &format!("add chain inet {TABLE} {name}_{at}\n");
            text += &format!("flush chain inet {TABLE} {name}_{at}\n");
        }
        for (word, kind) in [("v4", "ipv4_addr"), ("v6", "ipv6_addr")] {
            for name in ["permit", "refuse"] {
                let map = format!("{name}_{at}_{word}");
                let shape = format!("{{ type {kind} : counter; flags interval; }}");
                text += &format!("add map inet {TABLE} {map} {shape}\n");
                text += &format!("flush map inet {TABLE} {map}\n");
            }
        }
    }
    if let Some(edition) = standing {
        text += &format!("delete chain inet {TABLE} {EDITION}{edition}\n");
    }
    text
}

/// Matches the packets of a plane; `None` where it has no ports of the transport.
fn ports(plane: &Plane, transport: Transport) -> Option<String> {
    let word = match transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    };
    let ranges: Vec<String> = plane
        .ports
        .iter()
        .filter(|(of, _)| *of == transport)
        .map(|(_, ports)| format!("{}-{}", ports.start(), ports.end()))
        .collect();
    match ranges.as_slice() {
        [] => None,
        [all] if all == "0-65535" => Some(format!("meta l4proto {word}")),
        several => Some(format!("{word} dport {{ {} }}", several.join(", "))),
    }
}

/// The elements of a plane's maps.
fn sets(plane: &Plane, at: usize) -> String {
    let mut text = String::new();
    elements(&mut text, &plane.v4, at, "v4", &|bits| Ipv4Addr::from_bits(bits).to_string());
    elements(&mut text, &plane.v6, at, "v6", &|bits| Ipv6Addr::from_bits(bits).to_string());
    text
}

fn elements<A: Copy + PartialEq>(
    text: &mut String,
    intervals: &[Interval<A>],
    at: usize,
    word: &str,
    address: &dyn Fn(A) -> String,
) {
    for (action, map) in [(Action::Allow, "permit"), (Action::Block, "refuse")] {
        let own: Vec<_> = intervals.iter().filter(|it| it.fate.action == action).collect();
        for chunk in own.chunks(CHUNK) {
            *text += &format!("add element inet {TABLE} {map}_{at}_{word} {{");
            for (position, interval) in chunk.iter().enumerate() {
                let comma = if position == 0 { "" } else { "," };
                let first = address(interval.first);
                let name = counter(&interval.fate);
                // Writing to a String does not fail.
                let _written = if interval.first == interval.last {
                    write!(text, "{comma} {first} : \"{name}\"")
                } else {
                    write!(text, "{comma} {first}-{} : \"{name}\"", address(interval.last))
                };
            }
            text.push_str(" }\n");
        }
    }
}

/// What is done with the packets of a plane, and with the answers to them.
fn verdicts(at: usize, refuses: bool, carried: &str) -> String {
    let mut text = String::new();
    for (digit, ip) in [('4', "ip"), ('6', "ip6")] {
        let counted =
            |map: &str| format!("counter name ct original {ip} daddr map @{map}_{at}_v{digit}");
        let family = format!("meta nfproto ipv{digit}");
        let forward = format!("meta mark set {MARK:#x} accept");
        let permit = counted("permit");
        let mut rules =
            vec![("plane", format!("{family} {permit} ct mark set {carried} {forward}"))];
        rules.push(("answer", format!("{family} {permit} {forward}")));
        if refuses {
            let refuse = counted("refuse");
            let reset = "reject with tcp reset";
            rules.push(("plane", format!("{family} meta l4proto tcp {refuse} {reset}")));
            let prohibited = "reject with icmpx type admin-prohibited";
            rules.push(("plane", format!("{family} meta l4proto udp {refuse} {prohibited}")));
        }
        for (name, rule) in rules {
            text += &format!("add rule inet {TABLE} {name}_{at} {rule}\n");
        }
    }
    text
}

/// The name of the counter of a fate: `allow_permitted_FR`, `block_outside`.
fn counter(fate: &Fate) -> String {
    let place = fate.place.map_or_else(String::new, |place| format!("_{}", place.label()));
    format!("{}_{}{place}", fate.action.label(), fate.reason.label())
}

/// The names of all counters of a short cut.
fn counters(shortcut: &Shortcut) -> BTreeSet<String> {
    let fates = shortcut.planes.iter().flat_map(|plane| {
        plane.v4.iter().map(|it| it.fate).chain(plane.v6.iter().map(|it| it.fate))
    });
    fates.map(|fate| counter(&fate)).collect()
}

/// What a counter of the kernel counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted<'a> {
    /// `Allow` or `Block`.
    pub action: Action,
    /// Why.
    pub reason: Reason,
    /// As [`crate::policy::Place::label`]; `none` for what is refused.
    pub place: &'a str,
}

/// Reads the name of a counter; `None` for one that is not ours.
#[must_use]
pub fn counted(name: &str) -> Option<Counted<'_>> {
    let mut words = name.splitn(3, '_');
    let (action, reason) = (words.next()?, words.next()?);
    Some(Counted {
        action: Action::ALL.into_iter().find(|known| known.label() == action)?,
        reason: Reason::ALL.into_iter().find(|known| known.label() == reason)?,
        place: words.next().unwrap_or("none"),
    })
}

/// What `nft list chains` shows of the short cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    /// The edition of the sets; `None` where nothing is judged.
    pub(super) edition: Option<String>,
}

/// Reads `nft list chains`; `None` where there is no frame.
pub(super) fn standing(chains: &str) -> Option<Standing> {
    let head = format!("table inet {TABLE} {{");
    let own = chains.split("\n}").find(|table| table.trim_start().starts_with(&head))?;
    let names = own.lines().filter_map(|line| line.trim().strip_prefix("chain "));
    let mut editions = names.filter_map(|line| line.split(' ').next()?.strip_prefix(EDITION));
    Some(Standing { edition: editions.next().map(str::to_owned) })
}
