//! Prefixes, ports, AS numbers and addresses of the policy file.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use toml::de::DeValue;

use super::error::Wrong;
use super::reader::{Item, Reader};
use crate::identify::HostName;
use crate::settings::Resolver;

const PREFIX_HELP: &str = "write a prefix: \"192.0.2.0/24\" or \"2001:db8::/32\"";
const PORT_HELP: &str = "write a list of ports and ranges: [443, \"8000-8099\"]";

/// Reads a prefix without host bits. One of IPv4-mapped addresses (`::ffff:192.0.2.0/120`) is the
/// prefix of those IPv4 addresses, as such an address is judged as that IPv4.
pub(super) fn prefix(text: &str) -> Result<IpNet, Wrong> {
    let Some((address, length)) = text.split_once('/') else {
        let Ok(address) = text.parse::<IpAddr>() else {
            return Err(Wrong::new(format!("{text:?} is not a prefix"), PREFIX_HELP));
        };
        let length = if address.is_ipv4() { 32 } else { 128 };
        let what = format!("{text:?} is an address, not a prefix");
        return Err(Wrong::new(what, format!("write \"{address}/{length}\"")));
    };
    // The parser of `ipnet` reads 010.0.0.0 as 10.0.0.0, where others read it as 8.0.0.0; that of
    // `std` refuses it.
    let net = address
        .parse()
        .ok()
        .zip(decimal(length))
        .and_then(|(address, length)| IpNet::new(address, length).ok())
        .ok_or_else(|| Wrong::new(format!("{text:?} is not a prefix"), PREFIX_HELP))?;
    let net = match net {
        IpNet::V6(mapped) => unmapped(mapped).map_or(net, IpNet::V4),
        IpNet::V4(_) => net,
    };
    if net == net.trunc() {
        return Ok(net);
    }
    let what = format!("{text:?} has bits set behind its length");
    Err(Wrong::new(what, format!("write \"{}\", or a longer prefix", net.trunc())))
}

fn decimal(text: &str) -> Option<u8> {
    let plain = text == "0" || (!text.starts_with(['0', '+']) && !text.is_empty());
    text.parse().ok().filter(|_| plain)
}

fn unmapped(net: Ipv6Net) -> Option<Ipv4Net> {
    let address = net.addr().to_ipv4_mapped()?;
    Ipv4Net::new(address, net.prefix_len().checked_sub(96)?).ok()
}

pub(super) fn prefixes(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Vec<IpNet>> {
    reader.parsed_list(item, "write a list of prefixes: [\"192.0.2.0/24\"]", prefix)
}

/// A list of addresses, each in canonical form.
pub(super) fn addresses(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Vec<IpAddr>> {
    let help = "write a list of addresses: [\"192.0.2.1\", \"2001:db8::1\"]";
    reader.parsed_list(item, help, |text| match text.parse::<IpAddr>() {
        Ok(ip) => Ok(ip.to_canonical()),
        Err(_) => Err(Wrong::new(format!("{text:?} is not an address"), help)),
    })
}

/// A list of ports and port ranges.
pub(super) fn ports(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Vec<RangeInclusive<u16>>> {
    let members = reader.list(item, PORT_HELP)?;
    reader.each(&members, |reader, member| match member.value {
        DeValue::String(text) => reader.keep(member, port_range(text)),
        DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_)
        | DeValue::Table(_) => {
            let port = reader.number(member, 1..65_536)?;
            let port = u16::try_from(port).ok()?;
            Some(port..=port)
        }
    })
}

fn port_range(text: &str) -> Result<RangeInclusive<u16>, Wrong> {
    let port = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|&port| digits && port > 0)
    };
    let bad = |help: String| Wrong::new(format!("{text:?} is not a range of ports"), help);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        (Some(first), Some(last)) => Err(bad(format!("write \"{last}-{first}\""))),
        _ => Err(bad("write \"a-b\" with a and b from 1 to 65535".to_owned())),
    }
}

/// A list of AS numbers; 0 is the number of no AS (RFC 7607).
pub(super) fn asns(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Vec<u32>> {
    let members = reader.list(item, "write a list of AS numbers: [64496]")?;
    reader.each(&members, |reader, member| {
        let number = reader.number(member, 1..(1 << 32))?;
        u32::try_from(number).ok()
    })
}

/// An address to listen on.
pub(super) fn socket(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<SocketAddr> {
    let help = "write address and port: \"127.0.0.1:3128\" or \"[::]:15001\"";
    let text = reader.string(item, help)?;
    let parsed = text
        .parse()
        .map_err(|_| Wrong::new(format!("{text:?} is not an address with a port"), help));
    reader.keep(item, parsed)
}

/// Reads a resolver: `address:port`, or `tls://address:port#name`.
pub(super) fn resolver(text: &str) -> Result<Resolver, Wrong> {
    const TLS_HELP: &str = "write address, port and the name in its certificate: \
                            \"tls://192.0.2.53:853#dns.example\"";
    let Some((scheme, rest)) = text.split_once("://") else {
        return Ok(Resolver { at: answerer(text, 53)?, tls: None });
    };
    if scheme != "tls" {
        let what =
            format!("{scheme:?} is not spoken here: resolvers are asked over UDP, TCP or TLS");
        return Err(Wrong::new(what, TLS_HELP));
    }
    let Some((at, name)) = rest.split_once('#') else {
        let what = format!("{text:?} does not say whose certificate it is");
        return Err(Wrong::new(what, TLS_HELP));
    };
    let name = HostName::parse(name.as_bytes())
        .map_err(|bad| Wrong::new(format!("{name:?} names no certificate: {bad}"), TLS_HELP))?;
    Ok(Resolver { at: answerer(at, 853)?, tls: Some(name) })
}

/// Reads the address of somebody who answers.
fn answerer(text: &str, port: u16) -> Result<SocketAddr, Wrong> {
    const HELP: &str = "write address and port: \"192.0.2.53:53\" or \"[2001:db8::53]:53\"";
    let at: SocketAddr = match text.parse() {
        Ok(at) => at,
        Err(_) => {
            let help = match text.parse() {
                Ok(address) => format!("write {:?}", SocketAddr::new(address, port).to_string()),
                Err(_) => HELP.to_owned(),
            };
            return Err(Wrong::new(format!("{text:?} is not an address with a port"), help));
        }
    };
    if at.port() == 0 || at.ip().is_unspecified() || at.ip().is_multicast() {
        return Err(Wrong::new(format!("nobody answers at {text:?}"), HELP));
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_is_an_address_with_a_port_that_somebody_can_answer_at() {
        assert!(resolver("192.0.2.53:53").is_ok() && resolver("[2001:db8::53]:5353").is_ok());
        assert_eq!(resolver("192.0.2.53").unwrap_err().help, "write \"192.0.2.53:53\"");
        let dot = resolver("tls://[2001:db8::53]:853#DNS.example").unwrap();
        assert_eq!(dot.to_string(), "tls://[2001:db8::53]:853#dns.example");
        assert!(resolver("tls://192.0.2.53:853").unwrap_err().what.contains("certificate"));
        assert!(resolver("https://192.0.2.53:443#a.example").unwrap_err().what.contains("TLS"));
        for text in ["tls://192.0.2.53#a.example", "tls://192.0.2.53:853#", "tls://#a.example"] {
            assert!(resolver(text).is_err(), "{text:?}");
        }
        for text in ["", "dns.example:53", "192.0.2.53:0", "0.0.0.0:53", "[::]:53", "224.0.0.1:53"]
        {
            assert!(resolver(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn host_bits_are_a_fault_that_names_the_prefix() {
        let wrong = prefix("10.1.2.3/8").unwrap_err();
        assert!(wrong.help.contains("\"10.0.0.0/8\""), "{}", wrong.help);
        let wrong = prefix("2001:db8::1/32").unwrap_err();
        assert!(wrong.help.contains("\"2001:db8::/32\""), "{}", wrong.help);
        assert!(prefix("10.1.2.3").unwrap_err().help.contains("\"10.1.2.3/32\""));
        assert!(prefix("::1").unwrap_err().help.contains("\"::1/128\""));
        for text in [
            "",
            "10.0.0.0/33",
            "x/8",
            "10.0.0.0/-1",
            "fe80::%eth0/64",
            "010.0.0.0/8",
            "10.0.0.0/08",
            "10.0.0.0/+8",
        ] {
            assert!(prefix(text).unwrap_err().what.contains("is not a prefix"), "{text}");
        }
    }

    #[test]
    fn a_mapped_prefix_is_the_ipv4_prefix() {
        assert_eq!(prefix("::ffff:10.41.0.0/112"), prefix("10.41.0.0/16"));
        assert_eq!(prefix("::ffff:0:0/96"), prefix("0.0.0.0/0"));
        let wrong = prefix("::ffff:10.41.0.1/112").unwrap_err();
        assert!(wrong.help.contains("\"10.41.0.0/16\""), "{}", wrong.help);
        assert!(prefix("::ffff:0:0/95").unwrap_err().help.contains("/95\""));
    }

    #[test]
    fn a_port_range_goes_upwards_within_its_bounds() {
        assert_eq!(port_range("440-443"), Ok(440..=443));
        assert_eq!(port_range("443-443"), Ok(443..=443));
        assert_eq!(port_range("443"), Ok(443..=443));
        assert!(port_range("443-440").unwrap_err().help.contains("\"440-443\""));
        for text in ["", "-", "0-1", "1-65536", "+1-2", "1-2-3", " 1-2", "1-", "a-b"] {
            assert!(port_range(text).is_err(), "{text:?}");
        }
    }
}
