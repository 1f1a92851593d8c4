//! The kernel short cut: the table in which the kernel judges by itself.
//!
//! ```text
//!  inet schengate_shortcut   prerouting, before the capture: marks what the sets permit, rejects
//!                            what they refuse, leaves all else alone
//!  inet schengate            captures what bears no mark
//!  inet schengate_guard      drops what would be forwarded without the mark
//! ```
//! `capture up` sets the frame: the hooks, and who is asked at all. The gateway fills in what the
//! policy in force says: new maps beside those in use ([`Program::before`], [`fill`]), then in one
//! transaction the rules that look into them ([`Program::swap`]), which keeps the counters: the
//! kernel judges by the old sets or by the new ones, at every moment.
//!
//! A packet is judged by the destination that the client first asked for, in both directions and for
//! the ICMP errors of the connection, so that a network that leaves the sets is cut off at once.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::family::Family;
use super::matches::{HERE, HTTPS, ICMP, TCP, UDP};
use super::model::Capture;
use crate::control::config::Shortcut as Setting;
use crate::policy::{
    Action, Interval, KernelVerdict, PORT_CLASSES_MAX, PortClass, Reason, Shortcut, Transport,
};
use crate::sys;

/// The table of the short cut, of family `inet`.
pub const TABLE: &str = crate::broker::SHORTCUT;

/// Firewall mark of the packets that the kernel may forward.
pub(super) const MARK: u32 = 0x5348;

/// Connection mark of what the kernel carries, with the number of the plane below.
const CARRIED: u32 = MARK << 16;

/// Bits of [`CARRIED`] that do not number a plane.
const CARRIED_MASK: u32 = 0xffff_0000;

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
    rules.push(format!("{ICMP} ct state related {carried} jump judge"));
    for (family, (tcp, udp)) in Family::ALL.into_iter().zip(capture.tcp.iter().zip(&capture.udp)) {
        let digit = family.digit();
        if tcp.is_some() {
            rules.push(format!("meta nfproto ipv{digit} {TCP} jump judge"));
        }
        // What UDP the firewall refuses for want of a listener, it refuses here as well.
        if let Some(udp) = udp {
            let what = if udp.address.port() == HTTPS { "udp dport 443" } else { UDP };
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

/// Which of two sets of maps: one is filled while the rules look into the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    A,
    B,
}

impl Half {
    const ALL: [Self; 2] = [Self::A, Self::B];

    const fn letter(self) -> char {
        match self {
            Self::A => 'a',
            Self::B => 'b',
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// How the kernel is brought to judge by a policy.
#[derive(Debug)]
pub(super) struct Program {
    /// For `nft -f`, first: the counters, and empty maps that no rule looks into.
    pub(super) before: String,
    /// The maps that [`fill`] then fills.
    pub(super) half: Half,
    /// For `nft -f`, last, as one transaction: the rules, and an end to the maps so far.
    pub(super) swap: String,
}

/// What brings the kernel to judge by `shortcut`. `next` is the edition of these sets. Fails as a
/// whole where there is no frame.
pub(super) fn program(
    shortcut: &Shortcut,
    setting: Setting,
    installed: &InstalledChains,
    next: &str,
) -> Program {
    let half = installed.half.map_or(Half::A, Half::other);
    // Counters stand before the maps whose elements name them, or nft 1.0.6 finds none.
    let mut before = String::new();
    for name in counters(shortcut) {
        before += &format!("add counter inet {TABLE} {name}\n");
    }
    // Of an attempt that broke off something may be there.
    before += &without(half);
    for (name, kind) in maps(half) {
        let shape = format!("{{ type {kind} : counter; flags interval; }}");
        before += &format!("add map inet {TABLE} {name} {shape}\n");
    }
    let mut swap = no_rules(installed);
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
        judge.push(format!("{ICMP} ct mark {carried} jump answer_{at}"));
        answer.push(format!("ct mark {carried} jump answer_{at}"));
        swap += &verdicts(at, half, setting == Setting::Address, &carried);
    }
    for (name, rules) in [("judge", judge), ("answer", answer)] {
        for rule in rules {
            swap += &format!("add rule inet {TABLE} {name} {rule}\n");
        }
    }
    swap += &without(half.other());
    swap += &format!("add chain inet {TABLE} {EDITION}{}_{next}\n", half.letter());
    Program { before, half, swap }
}

/// No sets: every new connection passes the gateway. What the kernel carries is held back where
/// `hold` says so, to go on under the next sets.
pub(super) fn nothing(installed: &InstalledChains, hold: bool) -> String {
    let mut text = no_rules(installed);
    if hold {
        let held = format!("ct mark & {CARRIED_MASK:#x} == {CARRIED:#x}");
        text += &format!("add rule inet {TABLE} judge {held} drop\n");
    }
    text + &Half::ALL.map(without).concat()
}

/// Chains, made where they are not there, and emptied.
fn no_rules(installed: &InstalledChains) -> String {
    let mut text = String::new();
    for name in ["judge", "answer"] {
        text += &format!("flush chain inet {TABLE} {name}\n");
    }
    for at in 0..PORT_CLASSES_MAX {
        for name in ["plane", "answer"] {
            text += &format!("add chain inet {TABLE} {name}_{at}\n");
            text += &format!("flush chain inet {TABLE} {name}_{at}\n");
        }
    }
    for chain in &installed.chains {
        text += &format!("delete chain inet {TABLE} {chain}\n");
    }
    text
}

/// The maps of a half, with the type of their keys.
fn maps(half: Half) -> impl Iterator<Item = (String, &'static str)> {
    let kinds = [("v4", "ipv4_addr"), ("v6", "ipv6_addr")];
    (0..PORT_CLASSES_MAX).flat_map(move |at| {
        kinds.into_iter().flat_map(move |(word, kind)| {
            ["permit", "refuse"].into_iter().map(move |name| (map(name, at, word, half), kind))
        })
    })
}

fn map(name: &str, at: usize, word: &str, half: Half) -> String {
    format!("{name}_{at}_{word}_{}", half.letter())
}

/// Removes the maps of a half, whether or not they are there.
fn without(half: Half) -> String {
    let mut text = String::new();
    for (name, kind) in maps(half) {
        let shape = format!("{{ type {kind} : counter; flags interval; }}");
        text += &format!("add map inet {TABLE} {name} {shape}\n");
        text += &format!("delete map inet {TABLE} {name}\n");
    }
    text
}

/// Fills the maps that no rule looks into yet.
///
/// # Errors
/// The kernel does not take them.
pub(super) fn fill(shortcut: &Shortcut, half: Half) -> io::Result<()> {
    for (at, plane) in shortcut.planes.iter().enumerate() {
        add(&plane.v4, at, "v4", half, &|bits| Ipv4Addr::from_bits(bits).into())?;
        add(&plane.v6, at, "v6", half, &|bits| Ipv6Addr::from_bits(bits).into())?;
    }
    Ok(())
}

fn add<A: Copy>(
    intervals: &[Interval<A>],
    at: usize,
    word: &str,
    half: Half,
    address: &dyn Fn(A) -> IpAddr,
) -> io::Result<()> {
    let mut names: HashMap<KernelVerdict, String> = HashMap::new();
    for interval in intervals {
        names.entry(interval.fate).or_insert_with_key(counter);
    }
    for (action, name) in [(Action::Allow, "permit"), (Action::Block, "refuse")] {
        let own = intervals.iter().filter(|it| it.fate.action == action).filter_map(|it| {
            let counter = names.get(&it.fate)?;
            Some(sys::Counted { first: address(it.first), last: address(it.last), counter })
        });
        sys::add_intervals(TABLE, &map(name, at, word, half), own)?;
    }
    Ok(())
}

/// Matches the packets of a plane; `None` where it has no ports of the transport.
fn ports(plane: &PortClass, transport: Transport) -> Option<String> {
    let (word, all_of) = match transport {
        Transport::Tcp => ("tcp", TCP),
        Transport::Udp => ("udp", UDP),
    };
    let ranges: Vec<String> = plane
        .ports
        .iter()
        .filter(|(of, _)| *of == transport)
        .map(|(_, ports)| format!("{}-{}", ports.start(), ports.end()))
        .collect();
    match ranges.as_slice() {
        [] => None,
        [all] if all == "0-65535" => Some(all_of.to_owned()),
        several => Some(format!("{word} dport {{ {} }}", several.join(", "))),
    }
}

/// What is done with the packets of a plane, and with the answers to them.
fn verdicts(at: usize, half: Half, refuses: bool, carried: &str) -> String {
    let mut text = String::new();
    for (digit, ip) in [('4', "ip"), ('6', "ip6")] {
        let word = format!("v{digit}");
        let counted = |name: &str| {
            let map = map(name, at, &word, half);
            format!("counter name ct original {ip} daddr map @{map}")
        };
        let family = format!("meta nfproto ipv{digit}");
        let forward = format!("meta mark set {MARK:#x} accept");
        let permit = counted("permit");
        let mut rules =
            vec![("plane", format!("{family} {permit} ct mark set {carried} {forward}"))];
        rules.push(("answer", format!("{family} {permit} {forward}")));
        if refuses {
            let refuse = counted("refuse");
            let reset = "reject with tcp reset";
            rules.push(("plane", format!("{family} {TCP} {refuse} {reset}")));
            let prohibited = "reject with icmpx type admin-prohibited";
            rules.push(("plane", format!("{family} {UDP} {refuse} {prohibited}")));
        }
        for (name, rule) in rules {
            text += &format!("add rule inet {TABLE} {name}_{at} {rule}\n");
        }
    }
    text
}

/// The name of the counter of a fate: `allow_permitted_FR`, `block_outside`.
fn counter(fate: &KernelVerdict) -> String {
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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct InstalledChains {
    /// The edition of the sets; `None` where nothing is judged.
    pub(super) edition: Option<String>,
    /// The maps that the rules look into.
    half: Option<Half>,
    /// The chains whose names say so.
    chains: Vec<String>,
}

/// Reads `nft list chains`; `None` where there is no frame.
pub(super) fn installed(chains: &str) -> Option<InstalledChains> {
    let head = format!("table inet {TABLE} {{");
    let own = chains.split("\n}").find(|table| table.trim_start().starts_with(&head))?;
    let names = own.lines().filter_map(|line| line.trim().strip_prefix("chain "));
    let names = names.filter_map(|line| line.split(' ').next());
    let mut installed = InstalledChains::default();
    for name in names {
        let Some(edition) = name.strip_prefix(EDITION) else { continue };
        installed.chains.push(name.to_owned());
        let of = |half: &Half| edition.strip_prefix(half.letter())?.strip_prefix('_');
        if let Some((half, edition)) =
            Half::ALL.iter().find_map(|half| Some((*half, of(half)?.to_owned())))
        {
            (installed.half, installed.edition) = (Some(half), Some(edition));
        }
    }
    Some(installed)
}
