//! The interfaces of this host, what they belong to, and their addresses (rtnetlink(7)): what `ip -d
//! link` and `ip address` show. Needs no privilege.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::netlink::attribute;
use super::route::dump;

/// `RTM_NEWLINK`, `RTM_GETLINK`.
const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
/// Bytes of `struct ifinfomsg`.
const LINK_HEADER: usize = 16;
/// Attributes of an interface: its name, the number of what it is a port of, and what it is.
const NAME: u16 = 3;
const MASTER: u16 = 10;
const ABOUT: u16 = 18;
/// Within [`ABOUT`]: the kind, what is special to it, the kind of what it is a port of.
const KIND: u16 = 1;
const DATA: u16 = 2;
const PORT_KIND: u16 = 4;
/// Within [`DATA`] of a bridge: `nf_call_iptables`, `nf_call_ip6tables`.
const CALLS: [u16; 2] = [36, 37];

/// `RTM_NEWADDR`, `RTM_GETADDR`.
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
/// Bytes of `struct ifaddrmsg`.
const ADDRESS_HEADER: usize = 8;
/// The address at the far end of a point-to-point link, else the interface's own; and its own, which
/// IPv4 always names.
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// For a bridge: whether it asks for the hooks of IPv4 and of IPv6 by itself.
    pub bridge: Option<[bool; 2]>,
    /// The bridge, bond or team whose port it is: what comes in by it comes in by that one.
    pub port_of: Option<String>,
}

/// Every interface.
///
/// # Errors
/// The kernel cannot be asked.
pub fn links() -> io::Result<Vec<Link>> {
    let (mut found, mut names) = (Vec::new(), HashMap::new());
    dump(GET_LINK, &[0; LINK_HEADER], &[], |kind, body| {
        if let (NEW_LINK, Some((number, link, master))) = (kind, read_link(body)) {
            names.insert(number, link.name.clone());
            found.push((link, master));
        }
    })?;
    let with_master = |(link, master): (Link, Option<u32>)| {
        let port_of = master.and_then(|number| names.get(&number).cloned());
        Link { port_of, ..link }
    };
    Ok(found.into_iter().map(with_master).collect())
}

/// Every address of every interface of this host, loopback included, in canonical form.
///
/// # Errors
/// The kernel cannot be asked; never a partial list.
pub fn local_addresses() -> io::Result<Vec<IpAddr>> {
    let mut found = Vec::new();
    dump(GET_ADDRESS, &[0; ADDRESS_HEADER], &[], |kind, body| {
        if kind == NEW_ADDRESS {
            found.extend(read_address(body));
        }
    })?;
    Ok(found)
}

fn read_address(body: &[u8]) -> Option<IpAddr> {
    let attributes = body.get(ADDRESS_HEADER..)?;
    let address = attribute(attributes, LOCAL).or_else(|| attribute(attributes, ADDRESS))?;
    match libc::c_int::from(*body.first()?) {
        libc::AF_INET => Some(Ipv4Addr::from(*address.first_chunk()?).into()),
        libc::AF_INET6 => Some(Ipv6Addr::from(*address.first_chunk()?).to_canonical()),
        _ => None,
    }
}

/// The number of an interface, what it is, and the number of what it is a port of.
fn read_link(body: &[u8]) -> Option<(u32, Link, Option<u32>)> {
    let (header, attributes) = body.split_at_checked(LINK_HEADER)?;
    let word = |bytes: &[u8]| Some(u32::from_ne_bytes(*bytes.first_chunk()?));
    let text = |bytes: &[u8]| {
        let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    };
    let about = attribute(attributes, ABOUT).unwrap_or_default();
    let kind = |which| attribute(about, which).map(text);
    let data = attribute(about, DATA).unwrap_or_default();
    let is_bridge = kind(KIND).is_some_and(|kind| kind == "bridge");
    let calls =
        CALLS.map(|call| attribute(data, call).is_some_and(|value| value.starts_with(&[1])));
    // A port of a VRF keeps its packets to itself.
    let gives_away = kind(PORT_KIND)
        .is_some_and(|kind| ["bridge", "bond", "team", "openvswitch"].contains(&kind.as_str()));
    let master = attribute(attributes, MASTER).and_then(word).filter(|_| gives_away);
    let name = attribute(attributes, NAME).map(text)?;
    let link = Link { name, bridge: is_bridge.then_some(calls), port_of: None };
    Some((word(header.get(4..)?)?, link, master))
}

#[cfg(test)]
mod tests {
    use super::super::netlink::put;
    use super::*;

    #[test]
    fn the_loopback_address_is_among_the_local_ones() {
        let found = local_addresses().unwrap();
        assert!(found.contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)), "{found:?}");
    }

    fn message(kind: &str, data: &[u8], port_kind: &str) -> Vec<u8> {
        let mut about = Vec::new();
        for (which, value) in
            [(KIND, kind.as_bytes()), (DATA, data), (PORT_KIND, port_kind.as_bytes())]
        {
            if !value.is_empty() {
                put(&mut about, which, value);
            }
        }
        let mut body = vec![0; LINK_HEADER];
        body[4] = 7;
        put(&mut body, NAME, b"lan0\0");
        put(&mut body, MASTER, &3_u32.to_ne_bytes());
        put(&mut body, ABOUT, &about);
        body
    }

    #[test]
    fn a_bridge_says_which_hooks_it_calls_and_a_port_whose_it_is() {
        let mut data = Vec::new();
        put(&mut data, CALLS[0], &[0]);
        put(&mut data, CALLS[1], &[1]);
        let (number, link, master) = read_link(&message("bridge\0", &data, "")).unwrap();
        assert_eq!((number, link.bridge, master), (7, Some([false, true]), None));
        let (_, link, master) = read_link(&message("veth\0", &[], "bridge\0")).unwrap();
        assert_eq!((link.name.as_str(), link.bridge, master), ("lan0", None, Some(3)));
        let (_, _, master) = read_link(&message("veth\0", &[], "vrf\0")).unwrap();
        assert_eq!(master, None);
        assert!(links().unwrap().iter().any(|link| link.name == "lo"));
    }

    #[test]
    fn no_cut_of_a_message_is_read_beyond_its_end() {
        let whole = message("bridge\0", &[], "bond\0");
        for end in 0..whole.len() {
            drop(read_link(&whole[..end]));
        }
    }
}
