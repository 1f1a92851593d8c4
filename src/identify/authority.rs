//! `host:port` as HTTP targets, Host fields and CONNECT requests spell it (RFC 9110 §7.2).

use std::net::{IpAddr, Ipv6Addr};

use super::fault::Fault;
use super::name::HostName;

/// The host of an authority: a name, or an address written as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "a box would be a heap allocation for each name")]
pub enum Host {
    /// A host name.
    Name(HostName),
    /// An IPv4 address in four plain decimal numbers, or an IPv6 address in brackets. No other
    /// spelling is read: resolvers take `0177.0.0.1` and `2130706433` for addresses too.
    Address(IpAddr),
}

/// A host and, where one was written, a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authority {
    /// The host.
    pub host: Host,
    /// From 1 to 65535.
    pub port: Option<u16>,
}

impl Authority {
    /// Reads `host` or `host:port`.
    ///
    /// # Errors
    /// [`Fault::UserInfo`], [`Fault::Port`] (empty, 0, over 65535, signed) or [`Fault::Authority`]
    /// (an escape, a zone, a byte that no name has, an address in another spelling ...).
    pub fn parse(wire: &[u8]) -> Result<Self, Fault> {
        if wire.contains(&b'@') {
            return Err(Fault::UserInfo);
        }
        if let [b'[', rest @ ..] = wire {
            let end = rest.iter().position(|&byte| byte == b']').ok_or(Fault::Authority)?;
            let (inside, behind) = rest.split_at_checked(end).ok_or(Fault::Authority)?;
            let text = std::str::from_utf8(inside).map_err(|_| Fault::Authority)?;
            let address: Ipv6Addr = text.parse().map_err(|_| Fault::Authority)?;
            let port = match behind {
                [b']'] => None,
                [b']', b':', port @ ..] => Some(parse_port(port)?),
                _ => return Err(Fault::Authority),
            };
            return Ok(Self { host: Host::Address(address.into()), port });
        }
        let (host, port) = match wire.iter().position(|&byte| byte == b':') {
            Some(colon) => {
                let (host, port) = wire.split_at_checked(colon).ok_or(Fault::Authority)?;
                (host, Some(parse_port(port.get(1..).unwrap_or_default())?))
            }
            None => (wire, None),
        };
        let dotted = std::str::from_utf8(host).ok().and_then(|text| text.parse::<IpAddr>().ok());
        let host = match dotted {
            Some(address) => Host::Address(address),
            None => Host::Name(HostName::parse(host).map_err(|_| Fault::Authority)?),
        };
        Ok(Self { host, port })
    }

    /// Reads the target of a CONNECT request, whose port is not to be left out (RFC 9110 §9.3.6).
    ///
    /// # Errors
    /// Those of [`Authority::parse`], and [`Fault::Port`] where there is none.
    pub fn parse_connect(wire: &[u8]) -> Result<Self, Fault> {
        let authority = Self::parse(wire)?;
        if authority.port.is_none() { Err(Fault::Port) } else { Ok(authority) }
    }

    /// The name that some server may read in an authority that breaks the rules: behind user
    /// information, and before whatever port is written.
    pub(super) fn lenient(wire: &[u8]) -> Option<HostName> {
        let host = wire.rsplit(|&byte| byte == b'@').next()?;
        let host = host.split(|&byte| byte == b':').next()?;
        HostName::parse(host.trim_ascii()).ok()
    }

    /// The name, where the host is one.
    #[must_use]
    pub const fn name(&self) -> Option<HostName> {
        match self.host {
            Host::Name(name) => Some(name),
            Host::Address(_) => None,
        }
    }
}

/// Plain decimal digits, 1 to 65535. `u16::from_str` alone would take a sign.
fn parse_port(wire: &[u8]) -> Result<u16, Fault> {
    if !wire.iter().all(u8::is_ascii_digit) || wire.len() > 5 {
        return Err(Fault::Port);
    }
    let text = std::str::from_utf8(wire).map_err(|_| Fault::Port)?;
    text.parse().ok().filter(|&port| port != 0).ok_or(Fault::Port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(wire: &str) -> Option<(String, Option<u16>)> {
        let authority = Authority::parse(wire.as_bytes()).ok()?;
        Some((authority.name()?.to_string(), authority.port))
    }

    #[test]
    fn a_name_is_the_same_in_every_legal_spelling() {
        for wire in ["HoSt.example:443", "host.example.:443", "host.EXAMPLE:0443"] {
            assert_eq!(name(wire), Some(("host.example".into(), Some(443))), "{wire}");
        }
        assert_eq!(name("host.example"), Some(("host.example".into(), None)));
    }

    #[test]
    fn addresses_are_read_in_one_spelling_only() {
        let address = |wire: &str| Authority::parse(wire.as_bytes()).map(|a| (a.host, a.port));
        let v6 = Host::Address("2001:db8::1".parse().unwrap());
        assert_eq!(address("[2001:db8::1]:8443"), Ok((v6, Some(8443))));
        assert_eq!(address("[2001:db8::1]"), Ok((v6, None)));
        let v4 = Host::Address("192.0.2.1".parse().unwrap());
        assert_eq!(address("192.0.2.1:80"), Ok((v4, Some(80))));
        for wire in ["0177.0.0.1", "2130706433", "0x7f.1", "127.1", "[::1%eth0]", "[192.0.2.1]"] {
            assert_eq!(address(wire), Err(Fault::Authority), "{wire}");
        }
    }

    #[test]
    fn what_servers_read_in_several_ways_is_refused() {
        for (wire, fault) in [
            ("user@host.example", Fault::UserInfo),
            ("[host.example]", Fault::Authority),
            ("host%00.example", Fault::Authority),
            ("host.example:443:80", Fault::Port),
            ("host.example:", Fault::Port),
            ("host.example:0", Fault::Port),
            ("host.example:65536", Fault::Port),
            ("host.example:+80", Fault::Port),
            ("2001:db8::1", Fault::Port),
            ("[::1]x", Fault::Authority),
            ("[::1", Fault::Authority),
            ("", Fault::Authority),
            ("\u{ff11}.example", Fault::Authority),
            ("a b", Fault::Authority),
        ] {
            assert_eq!(Authority::parse(wire.as_bytes()), Err(fault), "{wire}");
        }
        assert_eq!(Authority::parse_connect(b"host.example"), Err(Fault::Port));
    }
}
