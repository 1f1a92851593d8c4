//! What a SOCKS5 client says (RFC 1928): the greeting, the request, the headers of its datagrams.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::authority::{Authority, Host};

/// As far as a message has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<T> {
    /// At least so many bytes are missing, and no byte behind the message is among them; from 1.
    Missing(usize),
    /// All of it is there.
    Whole(T),
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "a box would be a heap allocation for each name")]
pub enum Command {
    /// A connection.
    Connect(Destination),
    /// UDP (§7). The address that the client will send from is what its connection says, whatever
    /// it says itself: it may be behind a translator and not know.
    Associate {
        /// The port that it will send from, where it knows.
        port: Option<u16>,
    },
}

/// Where a CONNECT goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    /// The name or the address.
    pub host: Host,
    /// From 1.
    pub port: u16,
}

/// Why a request is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unserved {
    /// Another version than 5.
    #[error("the version of the request is not 5")]
    Version,
    /// A kind of address other than IPv4, IPv6 and name.
    #[error("the kind of the address is not known")]
    Kind,
    /// BIND, or no command at all.
    #[error("the command is neither CONNECT nor UDP ASSOCIATE")]
    Command,
    /// Neither a host name nor an address, or port 0.
    #[error("the destination is not a host name, or its port is 0")]
    Destination,
}

/// Reads the greeting (§3) in `seen`, all that the client has sent: whether it offers to go without
/// authentication. Bytes behind the greeting are not looked at.
#[must_use]
pub fn greeting(seen: &[u8]) -> Part<bool> {
    let Some((&[_version, methods], offered)) = seen.split_first_chunk() else {
        return Part::Missing(2 - seen.len());
    };
    match offered.get(..usize::from(methods)) {
        Some(offered) => Part::Whole(offered.contains(&0)),
        None => Part::Missing(usize::from(methods) - offered.len()),
    }
}

/// Reads the request (§4) in `seen`, all that the client has sent behind its greeting. Bytes behind
/// the request are not looked at: they belong to the tunnel.
#[must_use]
pub fn request(seen: &[u8]) -> Part<Result<Command, Unserved>> {
    let Some((&[version, command, _reserved, kind], behind)) = seen.split_first_chunk() else {
        return Part::Missing(4 - seen.len());
    };
    if version != 5 {
        return Part::Whole(Err(Unserved::Version));
    }
    let (host, port) = match address(kind, behind) {
        Part::Missing(missing) => return Part::Missing(missing),
        Part::Whole(None) => return Part::Whole(Err(Unserved::Kind)),
        Part::Whole(Some(Address { host, port, .. })) => (host, port),
    };
    Part::Whole(match command {
        1 => {
            let connect = |host| Command::Connect(Destination { host, port });
            host.filter(|_| port != 0).map(connect).ok_or(Unserved::Destination)
        }
        3 => Ok(Command::Associate { port: Some(port).filter(|&port| port != 0) }),
        _ => Err(Unserved::Command),
    })
}

/// Why a client's datagram goes nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadDatagram {
    /// A part of a larger one; nobody has to put these together (§7).
    #[error("the datagram is a fragment")]
    Fragment,
    /// No header, no host name, or port 0.
    #[error("the datagram names no destination")]
    Malformed,
}

/// Reads a client's datagram (§7): where it is to go, and what.
///
/// # Errors
/// Where it goes nowhere.
pub fn datagram(bytes: &[u8]) -> Result<(Destination, &[u8]), BadDatagram> {
    let Some((&[0, 0, fragment, kind], behind)) = bytes.split_first_chunk() else {
        return Err(BadDatagram::Malformed);
    };
    if fragment != 0 {
        return Err(BadDatagram::Fragment);
    }
    match address(kind, behind) {
        Part::Whole(Some(Address { host: Some(host), port, len })) if port != 0 => {
            Ok((Destination { host, port }, behind.get(len..).unwrap_or_default()))
        }
        Part::Whole(_) | Part::Missing(_) => Err(BadDatagram::Malformed),
    }
}

/// Writes an address (§5) and a port behind what is there.
pub fn put(bytes: &mut Vec<u8>, host: Host, port: u16) {
    match host {
        Host::Address(IpAddr::V4(v4)) => {
            bytes.push(1);
            bytes.extend(v4.octets());
        }
        Host::Address(IpAddr::V6(v6)) => {
            bytes.push(4);
            bytes.extend(v6.octets());
        }
        Host::Name(name) => {
            let name = name.as_str().as_bytes();
            bytes.push(3);
            // A name has 253 bytes at most.
            bytes.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
            bytes.extend(name);
        }
    }
    bytes.extend(port.to_be_bytes());
}

/// What stands behind the kind of an address.
struct Address {
    /// `None` where a name is no host name.
    host: Option<Host>,
    port: u16,
    /// Bytes that both take.
    len: usize,
}

/// Reads an address (§5) and a port; `None` where the kind is not known.
fn address(kind: u8, behind: &[u8]) -> Part<Option<Address>> {
    let (name_len, address_len) = match (kind, behind) {
        (1, _) => (0, 4),
        (4, _) => (0, 16),
        (3, []) => return Part::Missing(1),
        (3, [len, ..]) => (1, usize::from(*len)),
        _ => return Part::Whole(None),
    };
    let len = name_len + address_len + 2;
    let Some((address, port)) = behind.get(name_len..len).and_then(|b| b.split_last_chunk()) else {
        return Part::Missing(len - behind.len());
    };
    let port = u16::from_be_bytes(*port);
    Part::Whole(Some(Address { host: host(kind, address), port, len }))
}

fn host(kind: u8, address: &[u8]) -> Option<Host> {
    if kind == 3 {
        return named(address);
    }
    let v4 = <[u8; 4]>::try_from(address).map(|v4| Ipv4Addr::from(v4).into());
    let v6 = || <[u8; 16]>::try_from(address).map(|v6| Ipv6Addr::from(v6).into());
    v4.or_else(|_| v6()).ok().map(Host::Address)
}

/// What stands in the place of a name. Browsers put addresses there too: one in the spelling that
/// [`Host::Address`] has, or an IPv6 address without its brackets, is that address.
fn named(wire: &[u8]) -> Option<Host> {
    let v6 = || std::str::from_utf8(wire).ok()?.parse::<Ipv6Addr>().ok();
    match Authority::parse(wire) {
        Ok(Authority { host, port: None }) => Some(host),
        Ok(Authority { port: Some(_), .. }) => None,
        Err(_) => v6().map(|v6| Host::Address(v6.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(name: &[u8], port: u16) -> Vec<u8> {
        let len = [u8::try_from(name.len()).unwrap()];
        [&[5, 1, 0, 3], &len[..], name, &port.to_be_bytes()].concat()
    }

    #[test]
    fn a_message_asks_for_its_own_bytes_and_no_more() {
        let greeting = [5, 3, 2, 1, 0];
        let requests = [
            domain(b"pacs.example", 443),
            domain(b"", 0),
            vec![5, 1, 0, 1, 198, 51, 100, 7, 0, 80],
        ];
        for end in 0..greeting.len() {
            let Part::Missing(missing) = super::greeting(&greeting[..end]) else { panic!("{end}") };
            assert!(missing > 0 && end + missing <= greeting.len(), "{end}: {missing}");
        }
        assert_eq!(super::greeting(&[&greeting[..], b"behind"].concat()), Part::Whole(true));
        assert_eq!(super::greeting(&[5, 0, 0]), Part::Whole(false));
        for whole in requests {
            for end in 0..whole.len() {
                let Part::Missing(missing) = request(&whole[..end]) else { panic!("{end}") };
                assert!(missing > 0 && end + missing <= whole.len(), "{end}: {missing}");
            }
            assert_eq!(request(&[&whole[..], b"behind"].concat()), request(&whole));
        }
    }

    #[test]
    fn an_association_is_of_a_port_or_of_none_yet() {
        for (high, low, port) in [(0, 0, None), (1, 187, Some(443))] {
            let bytes = [5, 3, 0, 1, 0, 0, 0, 0, high, low];
            assert_eq!(request(&bytes), Part::Whole(Ok(Command::Associate { port })));
        }
    }

    #[test]
    fn what_is_not_served_says_why() {
        for (bytes, expected) in [
            (vec![4, 1, 0, 1], Unserved::Version),
            (vec![5, 1, 0, 2], Unserved::Kind),
            (vec![5, 2, 0, 1, 198, 51, 100, 7, 0, 53], Unserved::Command),
            (vec![5, 1, 0, 1, 198, 51, 100, 7, 0, 0], Unserved::Destination),
            (domain(b"evil\0.google.example", 443), Unserved::Destination),
            (domain(b"", 443), Unserved::Destination),
        ] {
            assert_eq!(request(&bytes), Part::Whole(Err(expected)), "{bytes:?}");
        }
    }

    #[test]
    fn l09_an_address_in_the_place_of_a_name_is_that_address_in_one_spelling() {
        for (wire, address) in [
            ("127.0.0.1", "127.0.0.1"),
            ("198.51.100.7", "198.51.100.7"),
            ("2001:DB8::7", "2001:db8::7"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("::ffff:198.51.100.7", "::ffff:198.51.100.7"),
        ] {
            let host = Host::Address(address.parse().unwrap());
            let connect = Command::Connect(Destination { host, port: 443 });
            assert_eq!(request(&domain(wire.as_bytes(), 443)), Part::Whole(Ok(connect)), "{wire}");
            let len = [u8::try_from(wire.len()).unwrap()];
            let bytes = [&[0, 0, 0, 3], &len[..], wire.as_bytes(), &[1, 187], b"x"].concat();
            assert_eq!(datagram(&bytes), Ok((Destination { host, port: 443 }, &b"x"[..])));
        }
        for wire in [
            "0177.0.0.1",
            "127.1",
            "2130706433",
            "0x7f.0.0.1",
            "127.0.0.01",
            "127.0.0.1:443",
            "[127.0.0.1]",
            "[::1]:443",
            "[::1",
            "::1]",
            "fe80::1%eth0",
            "[fe80::1%2]",
            " ::1",
            "pacs.example:443",
            "user@pacs.example",
            "127.0.0.1\0",
        ] {
            let refused = Part::Whole(Err(Unserved::Destination));
            assert_eq!(request(&domain(wire.as_bytes(), 443)), refused, "{wire}");
        }
    }
}
