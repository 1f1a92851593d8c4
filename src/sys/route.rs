//! Routing rules, local routes, and the switches of interfaces, by the kernel's own messages
//! (rtnetlink(7)): what `ip rule`, `ip route` and `ip netconf` do, without that program.

use std::fmt;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, netdevice};
use socket2::Socket;

use super::netlink::{self, DONE, DUMP, ERROR, HEADER, READ_MAX, REQUEST, attribute, head, put};
use super::options;

/// `RTM_NEWROUTE` and `RTM_DELROUTE`, `RTM_GETROUTE`.
pub(super) const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const GET_ROUTE: u16 = 26;
/// `RTM_NEWRULE`, `RTM_DELRULE`, `RTM_GETRULE`.
const NEW_RULE: u16 = 32;
const DELETE_RULE: u16 = 33;
const GET_RULE: u16 = 34;
/// `RTM_NEWNETCONF`, `RTM_GETNETCONF`.
const NEW_SWITCHES: u16 = 80;
const GET_SWITCHES: u16 = 82;
/// `NLM_F_ACK`, `NLM_F_CREATE`, `NLM_F_REPLACE`.
const ACK: u16 = 0x0004;
pub(super) const CREATE: u16 = 0x0400;
pub(super) const REPLACE: u16 = 0x0100;

/// Attributes of a rule: destination, source, interface it came in by, where to go on, preference,
/// mark, table, mask of the mark, interface it leaves by, who set it.
const DESTINATION: u16 = 1;
const SOURCE: u16 = 2;
const INCOMING: u16 = 3;
const GOTO: u16 = 4;
const PREFERENCE: u16 = 6;
const MARK: u16 = 10;
const TABLE: u16 = 15;
const MASK: u16 = 16;
const OUTGOING: u16 = 17;
const PROTOCOL: u16 = 21;
/// `FIB_RULE_INVERT`.
const INVERT: u32 = 2;
/// `RTPROT_KERNEL`: what systemd-networkd and others leave alone.
const BY_KERNEL: u8 = 2;
/// Bytes of `struct fib_rule_hdr` and `struct rtmsg`, which begin alike.
const RULE_HEADER: usize = 12;
/// Attributes of a route: the interface, and [`TABLE`].
const INTERFACE: u16 = 4;
/// `RTN_LOCAL`, `RT_SCOPE_HOST`, `RT_TABLE_COMPAT`.
const LOCAL: u8 = 2;
const SCOPE_HOST: u8 = 254;
const TABLE_COMPAT: u8 = 252;
/// Attributes of an interface's switches: its number (-1 all, -2 those to come), forwarding, filter.
const NUMBER: u16 = 1;
const FORWARDING: u16 = 2;
const REVERSE_PATH: u16 = 3;
/// `rp_filter` of RFC 3704, strict; 2 is loose and wins.
const STRICT: i32 = 1;

/// Reads for one dump, at most.
const READS_MAX: usize = 65_536;

/// What a routing rule has the kernel do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Look into a table.
    Lookup(u32),
    /// Go on at the first rule of a preference.
    Goto(u32),
    /// Nothing: a place to go on at.
    Nop,
    /// Say that there is no way (RFC 1812 5.2.7.1, code 13).
    Prohibit,
    /// Something else, by its number.
    Other(u8),
}

impl Act {
    const fn number(self) -> u8 {
        match self {
            Self::Lookup(_) => 1,
            Self::Goto(_) => 2,
            Self::Nop => 3,
            Self::Prohibit => 8,
            Self::Other(number) => number,
        }
    }
}

/// A routing rule, as far as it is told from others here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutingRule {
    /// The lowest is asked first; of equal ones that which was set first.
    pub preference: u32,
    /// Firewall mark that a packet has, all 32 bits of it.
    pub mark: Option<u32>,
    /// The interface that a packet came in by: `lo` for what this host sends.
    pub incoming: Option<String>,
    /// Whether it is for the packets that it does not match.
    pub inverted: bool,
    /// What is then done.
    pub act: Act,
    /// Whether it is marked as one of the kernel's own, which other software leaves alone.
    pub by_kernel: bool,
    /// Anything else that it asks for, in words; empty for none.
    pub further: String,
}

impl RoutingRule {
    /// A rule for every packet, marked as one of the kernel's own.
    #[must_use]
    pub const fn new(preference: u32, act: Act) -> Self {
        Self {
            preference,
            mark: None,
            incoming: None,
            inverted: false,
            act,
            by_kernel: true,
            further: String::new(),
        }
    }

    /// Whether it does the same to the same packets, whoever set it.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let by_kernel = other.by_kernel;
        Self { by_kernel, ..self.clone() } == *other
    }
}

impl fmt::Display for RoutingRule {
    /// As `ip rule` shows it, nearly.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { preference, mark, incoming, inverted, act, by_kernel: _, further } = self;
        write!(f, "{preference}:{} from {}", if *inverted { " not" } else { "" }, {
            if further.is_empty() { "all" } else { further }
        })?;
        if let Some(mark) = mark {
            write!(f, " fwmark {mark:#x}")?;
        }
        if let Some(incoming) = incoming {
            write!(f, " iif {incoming}")?;
        }
        match act {
            Act::Lookup(table) => write!(f, " lookup {table}"),
            Act::Goto(preference) => write!(f, " goto {preference}"),
            Act::Nop => f.write_str(" nop"),
            Act::Prohibit => f.write_str(" prohibit"),
            Act::Other(number) => write!(f, " action {number}"),
        }
    }
}

/// The family as the kernel numbers it.
const fn family(is_v6: bool) -> u8 {
    if is_v6 { libc::AF_INET6 as u8 } else { libc::AF_INET as u8 }
}

/// Every routing rule of IPv4 or IPv6, in the order in which they are asked.
///
/// # Errors
/// The kernel cannot be asked; never a partial list.
pub fn routing_rules(is_v6: bool) -> io::Result<Vec<RoutingRule>> {
    let mut header = [0; RULE_HEADER];
    header[0] = family(is_v6);
    let mut found = Vec::new();
    dump(GET_RULE, &header, &[], |kind, body| {
        if kind == NEW_RULE {
            found.extend(read_rule(body));
        }
    })?;
    Ok(found)
}

/// Adds a rule behind all others of its preference, as one of the kernel's own.
///
/// # Errors
/// Without CAP_NET_ADMIN, or where the kernel does not take it.
pub fn add_routing_rule(is_v6: bool, rule: &RoutingRule) -> io::Result<()> {
    let (header, mut attributes) = rule_message(is_v6, rule);
    put(&mut attributes, PROTOCOL, &[if rule.by_kernel { BY_KERNEL } else { 0 }]);
    change(NEW_RULE, CREATE, &(header, attributes))
}

/// Deletes the first rule that is like this one.
///
/// # Errors
/// Without CAP_NET_ADMIN, or where there is none.
pub fn delete_routing_rule(is_v6: bool, rule: &RoutingRule) -> io::Result<()> {
    change(DELETE_RULE, 0, &rule_message(is_v6, rule))
}

/// Header and attributes of a rule.
fn rule_message(is_v6: bool, rule: &RoutingRule) -> (Vec<u8>, Vec<u8>) {
    let mut header = vec![0; RULE_HEADER];
    header[0] = family(is_v6);
    header[7] = rule.act.number();
    if rule.inverted {
        header[8..].copy_from_slice(&INVERT.to_ne_bytes());
    }
    let mut attributes = Vec::new();
    let mut number = |kind, value: u32| put(&mut attributes, kind, &value.to_ne_bytes());
    number(PREFERENCE, rule.preference);
    if let Some(mark) = rule.mark {
        number(MARK, mark);
        number(MASK, u32::MAX);
    }
    match rule.act {
        Act::Lookup(table) => number(TABLE, table),
        Act::Goto(preference) => number(GOTO, preference),
        Act::Nop | Act::Prohibit | Act::Other(_) => {}
    }
    if let Some(incoming) = &rule.incoming {
        put(&mut attributes, INCOMING, &[incoming.as_bytes(), &[0]].concat());
    }
    (header, attributes)
}

fn read_rule(body: &[u8]) -> Option<RoutingRule> {
    let (header, attributes) = body.split_at_checked(RULE_HEADER)?;
    let number = |kind| Some(u32::from_ne_bytes(*attribute(attributes, kind)?.first_chunk()?));
    let text = |kind| {
        let bytes = attribute(attributes, kind)?;
        let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
        Some(String::from_utf8_lossy(bytes).into_owned())
    };
    let flags = u32::from_ne_bytes(*header.get(8..)?.first_chunk()?);
    let act = match header[7] {
        1 => Act::Lookup(number(TABLE).unwrap_or_else(|| u32::from(header[4]))),
        2 => Act::Goto(number(GOTO).unwrap_or_default()),
        3 => Act::Nop,
        8 => Act::Prohibit,
        other => Act::Other(other),
    };
    let mut further = Vec::new();
    for (kind, length) in [(SOURCE, header[2]), (DESTINATION, header[1])] {
        let word = if kind == SOURCE { "" } else { "all to " };
        if let Some(address) = attribute(attributes, kind).and_then(address) {
            further.push(format!("{word}{address}/{length}"));
        }
    }
    if let Some(name) = text(OUTGOING) {
        further.push(format!("all oif {name}"));
    }
    let mask = number(MASK).unwrap_or(u32::MAX);
    let mark = number(MARK);
    if mask != u32::MAX {
        further.push(format!("all fwmark {:#x}/{mask:#x}", mark.unwrap_or_default()));
    }
    Some(RoutingRule {
        preference: number(PREFERENCE).unwrap_or_default(),
        mark: mark.filter(|_| mask == u32::MAX),
        incoming: text(INCOMING),
        inverted: flags & INVERT != 0,
        act,
        by_kernel: attribute(attributes, PROTOCOL) == Some(&[BY_KERNEL]),
        further: further.join(" "),
    })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(*bytes.first_chunk()?).into()),
        16 => Some(Ipv6Addr::from(*bytes.first_chunk()?).into()),
        _ => None,
    }
}

/// Delivers here whatever is looked up in the routing table; what stood there as its default is
/// replaced.
///
/// # Errors
/// Without CAP_NET_ADMIN, or where the kernel does not take it.
pub fn deliver_locally(is_v6: bool, table: u32) -> io::Result<()> {
    change(NEW_ROUTE, CREATE | REPLACE, &route_message(is_v6, table)?)
}

/// Takes [`deliver_locally`] back.
///
/// # Errors
/// Without CAP_NET_ADMIN, or where there is no such route.
pub fn deliver_no_longer(is_v6: bool, table: u32) -> io::Result<()> {
    change(DELETE_ROUTE, 0, &route_message(is_v6, table)?)
}

pub(super) fn route_message(is_v6: bool, table: u32) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut header = route_header(is_v6);
    header[4] = TABLE_COMPAT;
    header[5] = BY_KERNEL;
    header[6] = SCOPE_HOST;
    header[7] = LOCAL;
    let mut attributes = Vec::new();
    put(&mut attributes, TABLE, &table.to_ne_bytes());
    put(&mut attributes, INTERFACE, &loopback()?.to_ne_bytes());
    Ok((header, attributes))
}

fn route_header(is_v6: bool) -> Vec<u8> {
    let mut header = vec![0; RULE_HEADER];
    header[0] = family(is_v6);
    header
}

/// Whether the routing table delivers everything here.
///
/// # Errors
/// The kernel cannot be asked.
pub fn delivers_locally(is_v6: bool, table: u32) -> io::Result<bool> {
    let loopback = loopback()?;
    let mut attributes = Vec::new();
    put(&mut attributes, TABLE, &table.to_ne_bytes());
    let mut found = false;
    let asked = dump(GET_ROUTE, &route_header(is_v6), &attributes, |kind, body| {
        let Some((header, attributes)) = body.split_at_checked(RULE_HEADER) else { return };
        let number = |kind| Some(u32::from_ne_bytes(*attribute(attributes, kind)?.first_chunk()?));
        found |= kind == NEW_ROUTE
            && (header[1], header[7]) == (0, LOCAL)
            && number(TABLE) == Some(table)
            && number(INTERFACE) == Some(loopback);
    });
    match asked {
        // Nothing was ever put into that table.
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        asked => asked.map(|()| found),
    }
}

pub(super) fn loopback() -> io::Result<u32> {
    Ok(netdevice::name_to_index(any_socket()?, "lo")?)
}

/// What a family's switches of an interface say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switches {
    /// Its name; `all` for the switches of the whole family.
    pub interface: String,
    /// Whether it forwards.
    pub forwarding: bool,
    /// Whether it drops what is not routed back by it: the greater of its own `rp_filter` and that
    /// of `all` is 1.
    pub strict: bool,
}

/// The switches of every interface but loopback, and `all`.
///
/// # Errors
/// The kernel cannot be asked.
pub fn switches(is_v6: bool) -> io::Result<Vec<Switches>> {
    let mut found = Vec::new();
    dump(GET_SWITCHES, &[family(is_v6), 0, 0, 0], &[], |kind, body| {
        if kind == NEW_SWITCHES {
            found.extend(body.get(4..).and_then(read_switches));
        }
    })?;
    let of_all = found.iter().find(|(switches, _)| switches.interface == "all");
    let of_all = of_all.map_or(0, |(_, filter)| *filter);
    let in_effect = |(switches, filter): (Switches, i32)| {
        let strict = switches.interface != "all" && filter.max(of_all) == STRICT;
        Switches { strict, ..switches }
    };
    Ok(found.into_iter().map(in_effect).collect())
}

/// The switches of an interface, and its own `rp_filter`.
fn read_switches(attributes: &[u8]) -> Option<(Switches, i32)> {
    let number = |kind| Some(i32::from_ne_bytes(*attribute(attributes, kind)?.first_chunk()?));
    let interface = match number(NUMBER)? {
        -1 => "all".to_owned(),
        // Of interfaces that are yet to come.
        ..=-2 => return None,
        number => name_of(number.cast_unsigned())?,
    };
    let filter = number(REVERSE_PATH).unwrap_or_default();
    let forwarding = number(FORWARDING).is_some_and(|on| on != 0);
    (interface != "lo").then_some((Switches { forwarding, strict: false, interface }, filter))
}

/// A socket of the network whose interfaces are asked about (netdevice(7)).
fn any_socket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?)
}

fn name_of(number: u32) -> Option<String> {
    // One that is gone meanwhile has none.
    netdevice::index_to_name(any_socket().ok()?, number).ok()
}

/// Tells when an address of this host comes or goes. Needs no privilege.
#[derive(Debug)]
pub struct AddressWatch {
    socket: Socket,
    buffer: Vec<u8>,
}

impl AddressWatch {
    /// Begins to listen. Whoever lists the addresses afterwards misses none.
    ///
    /// # Errors
    /// No socket can be had.
    pub fn open() -> io::Result<Self> {
        let socket = netlink::open(libc::NETLINK_ROUTE)?;
        for group in [libc::RTNLGRP_IPV4_IFADDR, libc::RTNLGRP_IPV6_IFADDR] {
            let group = libc::c_int::try_from(group).map_err(io::Error::other)?;
            options::set(socket.as_fd(), libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group)?;
        }
        Ok(Self { socket, buffer: vec![0; READ_MAX] })
    }

    /// Waits until an address may have come or gone: true; false where none has for so long.
    ///
    /// # Errors
    /// The socket is of no use any more.
    pub fn wait(&mut self, patience: Duration) -> io::Result<bool> {
        self.socket.set_read_timeout(Some(patience))?;
        match self.socket.read(&mut self.buffer) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(true),
            Err(e) => match e.raw_os_error() {
                // More came than was read: whatever it was, the list is another.
                Some(libc::ENOBUFS) => Ok(true),
                Some(libc::EAGAIN | libc::EINTR) => Ok(false),
                _ => Err(e),
            },
        }
    }
}

/// Asks for a list, and hands over each message with its type.
pub(super) fn dump(
    kind: u16,
    header: &[u8],
    attributes: &[u8],
    mut take: impl FnMut(u16, &[u8]),
) -> io::Result<()> {
    let mut socket = netlink::open(libc::NETLINK_ROUTE)?;
    if !attributes.is_empty() {
        // A kernel without it gives more than was asked for.
        drop(options::set(socket.as_fd(), libc::SOL_NETLINK, libc::NETLINK_GET_STRICT_CHK, 1));
    }
    socket.send(&netlink::message(kind, DUMP, header, attributes))?;
    let mut buffer = vec![0; READ_MAX];
    for _ in 0..READS_MAX {
        let length = socket.read(&mut buffer)?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        while let Some((length, kind)) = head(rest) {
            let body = rest.get(HEADER..length).unwrap_or_default();
            match kind {
                // A list that could not be made ends with the reason.
                DONE | ERROR => return outcome(body),
                kind => take(kind, body),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
    Err(io::Error::other("the kernel's list has no end"))
}

pub(super) fn change(
    kind: u16,
    flags: u16,
    (header, attributes): &(Vec<u8>, Vec<u8>),
) -> io::Result<()> {
    let mut socket = netlink::open(libc::NETLINK_ROUTE)?;
    socket.send(&netlink::message(kind, REQUEST | ACK | flags, header, attributes))?;
    let mut buffer = vec![0; READ_MAX];
    let length = socket.read(&mut buffer)?;
    let answer = buffer.get(..length).unwrap_or_default();
    match head(answer) {
        Some((length, ERROR)) => outcome(answer.get(HEADER..length).unwrap_or_default()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// What a message says that tells how it went: 0, or an error number below 0.
fn outcome(body: &[u8]) -> io::Result<()> {
    match body.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
        None | Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_read_as_it_was_written() {
        let fence = RoutingRule {
            incoming: Some("lo".into()),
            inverted: true,
            ..RoutingRule::new(0, Act::Prohibit)
        };
        let marked = RoutingRule { mark: Some(0x5347), ..RoutingRule::new(0, Act::Goto(21_319)) };
        let lookup = RoutingRule { mark: Some(1), ..RoutingRule::new(21_319, Act::Lookup(70_000)) };
        for (rule, shown) in [
            (fence, "0: not from all iif lo prohibit"),
            (marked, "0: from all fwmark 0x5347 goto 21319"),
            (lookup, "21319: from all fwmark 0x1 lookup 70000"),
            (RoutingRule::new(1, Act::Nop), "1: from all nop"),
        ] {
            for is_v6 in [false, true] {
                let (header, attributes) = rule_message(is_v6, &rule);
                let read = read_rule(&[header, attributes].concat()).unwrap();
                assert!(read.is_like(&rule) && !read.by_kernel, "{read:?}");
                assert_eq!(read.to_string(), shown);
            }
        }
    }

    #[test]
    fn what_a_rule_asks_for_beside_is_shown_and_makes_it_another() {
        let ours = RoutingRule { mark: Some(0x5347), ..RoutingRule::new(1, Act::Lookup(2)) };
        let (mut header, mut attributes) = rule_message(false, &ours);
        header[2] = 32;
        put(&mut attributes, SOURCE, &[10, 9, 8, 7]);
        let read = read_rule(&[header, attributes].concat()).unwrap();
        assert!(!read.is_like(&ours));
        assert!(read.to_string().contains("from 10.9.8.7/32"), "{read}");
        let (header, mut attributes) = rule_message(false, &RoutingRule::new(1, Act::Lookup(2)));
        put(&mut attributes, MARK, &0x5347_u32.to_ne_bytes());
        put(&mut attributes, MASK, &0xffff_u32.to_ne_bytes());
        let read = read_rule(&[header, attributes].concat()).unwrap();
        assert!(!read.is_like(&ours), "a mask makes it another");
    }

    #[test]
    fn the_kernel_shows_its_own_rules_and_switches() {
        let rules = routing_rules(false).unwrap();
        assert!(rules.iter().any(|rule| rule.act == Act::Lookup(254)), "{rules:?}");
        assert!(switches(false).unwrap().iter().any(|it| it.interface == "all"));
        assert!(!delivers_locally(false, 4_000_000_001).unwrap());
    }

    #[test]
    fn no_cut_of_a_rule_is_more_than_nothing_or_a_rule() {
        let rule = RoutingRule { mark: Some(7), ..RoutingRule::new(9, Act::Lookup(3)) };
        let (header, attributes) = rule_message(true, &rule);
        let whole = [header, attributes].concat();
        for end in 0..whole.len() {
            assert!(read_rule(&whole[..end]).is_none_or(|read| !read.is_like(&rule)), "{end}");
        }
    }
}
