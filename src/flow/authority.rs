//! Reads where an explicit request goes, `host:port` as CONNECT, SOCKS5 and absolute URIs give it, by
//! the one strict reader of authorities. What that refuses is never resolved.

use std::net::IpAddr;

use crate::identify::{Authority, Host};

/// A host and a port. An IPv4-mapped IPv6 address is that IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) host: Host,
    /// From 1.
    pub(super) port: u16,
}

/// Some bytes that are no host and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the destination is not a host and a port")]
pub(super) struct BadTarget;

impl Target {
    /// Reads `host:port`; `default_port` stands for a port that was not written (but not for an
    /// empty one).
    pub(super) fn parse(text: &[u8], default_port: Option<u16>) -> Result<Self, BadTarget> {
        let Authority { host, port } = Authority::parse(text).map_err(|_| BadTarget)?;
        let port = port.or(default_port).ok_or(BadTarget)?;
        Ok(Self { host: canonical(host), port })
    }

    /// `host:port`, or the host alone where the port is `default_port`.
    pub(super) fn to_field(self, default_port: u16) -> String {
        let host = match self.host {
            Host::Name(name) => name.to_string(),
            Host::Address(IpAddr::V4(v4)) => v4.to_string(),
            Host::Address(IpAddr::V6(v6)) => format!("[{v6}]"),
        };
        if self.port == default_port { host } else { format!("{host}:{}", self.port) }
    }
}

/// The host with an IPv4-mapped IPv6 address as that IPv4.
pub(super) fn canonical(host: Host) -> Host {
    match host {
        Host::Name(_) => host,
        Host::Address(address) => Host::Address(address.to_canonical()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Result<Target, BadTarget> {
        Target::parse(text.as_bytes(), None)
    }

    #[test]
    fn one_host_has_one_form() {
        let plain = target("pacs.example:443").unwrap();
        for text in ["PACS.Example:443", "pacs.example.:443", "pAcS.eXaMpLe.:00443"] {
            assert_eq!(target(text), Ok(plain), "{text}");
        }
        let v4 = target("198.51.100.7:443").unwrap();
        assert_eq!(target("[::ffff:198.51.100.7]:443"), Ok(v4));
        assert_eq!(target("[2001:DB8:0:0::7]:443"), target("[2001:db8::7]:443"));
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        for text in [
            "",
            ":443",
            "host",
            "host:",
            "host:0",
            "host:65536",
            "host:+443",
            "host:443 ",
            " host:443",
            "host:443:80",
            "host:4 43",
            "host:0x1bb",
            "host%00:443",
            "host%2eexample:443",
            "a@b:443",
            "a:b@host:443",
            "host/path:443",
            "[host]:443",
            "[198.51.100.7]:443",
            "[fe80::1%eth0]:443",
            "[fe80::1%25eth0]:443",
            "[::1]443",
            "[::1",
            "[]:443",
            "::1:443",
            "2001:db8::7",
            "host\0:443",
            "host\r\n:443",
            "ho st:443",
            "*.example:443",
        ] {
            assert!(target(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn numbers_that_a_resolver_takes_for_addresses_are_refused() {
        for host in [
            "0177.0.0.1",
            "2130706433",
            "0x7f.1",
            "127.1",
            "127.0.0.1.",
            "0x7f000001",
            "1.2.3.04",
            "１２７.0.0.1",
            "127。0。0。1",
            "exa\u{ad}mple.com",
            "256.1.1.1",
        ] {
            assert!(target(&format!("{host}:443")).is_err(), "{host}");
        }
    }

    #[test]
    fn every_port_is_read_as_itself() {
        for port in 1..=u16::MAX {
            assert_eq!(target(&format!("a.example:{port}")).unwrap().port, port);
        }
    }

    #[test]
    fn a_port_that_was_not_written_is_the_scheme_s_and_an_empty_one_is_not() {
        assert_eq!(Target::parse(b"a.example", Some(80)).unwrap().port, 80);
        assert_eq!(Target::parse(b"[2001:db8::7]", Some(80)).unwrap().port, 80);
        assert_eq!(Target::parse(b"a.example:", Some(80)), Err(BadTarget));
        assert_eq!(Target::parse(b"a.example", None), Err(BadTarget));
    }

    #[test]
    fn a_field_is_read_back_as_the_target_it_came_from() {
        for text in ["a.example:8080", "a.example:80", "198.51.100.7:81", "[2001:db8::7]:80"] {
            let read = target(text).unwrap();
            assert_eq!(Target::parse(read.to_field(80).as_bytes(), Some(80)), Ok(read), "{text}");
        }
    }
}
