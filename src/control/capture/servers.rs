//! Whom the host form lets this machine's programs ask without a verdict: its resolvers, and the
//! servers of time and addresses that the policy names.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::family::Family;
use super::matches::{ECHO_MAX, ERROR_MAX, NEIGHBOUR_MAX};
use crate::control::config::Config;

/// Where the system says whom it asks; the second is what stands behind the stub of
/// systemd-resolved, whose questions leave this host.
const RESOLVERS: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// The port of DNS.
const DNS: u16 = 53;

/// Servers that this machine's programs may ask.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Servers {
    /// `[dns] listen`, to which every question goes where it is set.
    names: Option<SocketAddr>,
    /// The resolvers of the host and of `[names]`.
    resolvers: BTreeSet<IpAddr>,
    /// `[names] resolvers`, which `[dns]` asks.
    asked: Vec<SocketAddr>,
    ntp: BTreeSet<IpAddr>,
    dhcp: BTreeSet<IpAddr>,
}

impl Servers {
    /// What a policy names, and what this host's own files do.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let [first, behind] = RESOLVERS.map(|path| nameservers(Path::new(path)));
        let named: Vec<_> = config.names.resolvers.iter().map(|resolver| resolver.at).collect();
        let stub = first.iter().any(IpAddr::is_loopback);
        let system = first.into_iter().chain(behind.into_iter().filter(|_| stub));
        let at_53 = named.iter().filter(|at| at.port() == DNS).map(SocketAddr::ip);
        Self {
            names: config.dns.as_ref().map(|dns| dns.listen),
            resolvers: system.chain(at_53).filter(|ip| !ip.is_loopback()).collect(),
            asked: named,
            ntp: config.capture.ntp.iter().copied().collect(),
            dhcp: config.capture.dhcp.iter().copied().collect(),
        }
    }

    /// A resolver that would ask `[dns]` what `[dns]` asked it.
    pub(super) fn goes_round(&self) -> Option<SocketAddr> {
        self.names?;
        self.asked.iter().copied().find(|at| at.ip().is_loopback())
    }

    /// The rules that bring every question to `[dns]`.
    pub(super) fn names_here(&self) -> impl Iterator<Item = String> {
        self.names.into_iter().flat_map(|listen| {
            let to = move |family: Family| {
                let port = listen.port();
                let to = match listen.ip() {
                    ip if ip.is_unspecified() => format!("redirect to :{port}"),
                    IpAddr::V4(ip) => format!("dnat ip to {ip}:{port}"),
                    IpAddr::V6(ip) => format!("dnat ip6 to [{ip}]:{port}"),
                };
                format!(
                    "meta nfproto ipv{} meta l4proto {{ 6, 17 }} th dport {DNS} {to}",
                    family.digit()
                )
            };
            Family::ALL.into_iter().filter(move |family| family.served_by(listen)).map(to)
        })
    }

    /// What this host's own programs may send to an address without a verdict where the host form
    /// stands, one way each: the rules of `let_out`, and of ICMP, in words.
    #[must_use]
    pub fn open_to(&self, ip: IpAddr) -> Vec<String> {
        let ip = ip.to_canonical();
        let mut open = Vec::new();
        if self.names.is_none() && self.resolvers.contains(&ip) {
            open.push("DNS: UDP to port 53, since it is a resolver of this host".to_owned());
        }
        if self.ntp.contains(&ip) {
            open.push("NTP: UDP to port 123, by [capture] ntp".to_owned());
        }
        let at = usize::from(ip.is_ipv6());
        if self.dhcp.contains(&ip) {
            let ports = ["68 to 67", "546 to 547"][at];
            open.push(format!("DHCP: UDP from port {ports}, by [capture] dhcp"));
        }
        let (echo, errors) = [(8, "3, 11, 12"), (128, "1 to 4")][at];
        open.push(format!(
            "ICMP type {echo} (echo request) of at most {} bytes, 10 a second; types {errors} (errors) \
             about its connections, of at most {} bytes",
            ECHO_MAX[at], ERROR_MAX[at]
        ));
        if at == 1 {
            open.push(format!(
                "ICMP types 133, 135, 136 (neighbours) of at most {NEIGHBOUR_MAX} bytes, which no router \
                 passes on"
            ));
        }
        open.push("answers to connections that came from there".to_owned());
        open
    }

    /// The rules that let questions out.
    pub(super) fn let_out(&self) -> Vec<String> {
        let none = BTreeSet::new();
        // Where names are judged here, nobody else is asked.
        let resolvers = if self.names.is_some() { &none } else { &self.resolvers };
        let mut rules = Vec::new();
        for (what, servers, ports) in [
            ("dns", resolvers, ["udp dport 53"; 2]),
            ("ntp", &self.ntp, ["udp dport 123"; 2]),
            ("dhcp", &self.dhcp, ["udp sport 68 udp dport 67", "udp sport 546 udp dport 547"]),
        ] {
            for (word, is_v6, ports) in [("ip", false, ports[0]), ("ip6", true, ports[1])] {
                let of = servers.iter().filter(|ip| ip.is_ipv6() == is_v6);
                let of: Vec<_> = of.map(ToString::to_string).collect();
                if !of.is_empty() {
                    let of = of.join(", ");
                    let rule =
                        format!("{word} daddr {{ {of} }} {ports} counter name {what} accept");
                    rules.push(rule);
                }
            }
        }
        rules
    }
}

#[cfg(test)]
impl Servers {
    /// Some of every kind, in both families.
    pub(super) fn every_kind() -> Self {
        let of = |texts: [&str; 2]| texts.map(|ip| ip.parse().unwrap());
        Self {
            names: Some("127.0.0.1:5353".parse().unwrap()),
            resolvers: of(["192.0.2.53", "2001:db8::53"]).into(),
            asked: Vec::new(),
            ntp: of(["192.0.2.123", "2001:db8::123"]).into(),
            dhcp: of(["192.0.2.67", "2001:db8::547"]).into(),
        }
    }
}

/// The addresses of a resolv.conf(5); none where there is no such file. Whom it names in a way that
/// is not read is not asked.
fn nameservers(path: &Path) -> Vec<IpAddr> {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let words = text.lines().filter_map(|line| line.strip_prefix("nameserver"));
    let words = words.filter(|rest| rest.starts_with([' ', '\t']));
    let addresses = words.filter_map(|rest| rest.split_whitespace().next());
    // The zone of a link-local address is no part of it.
    let addresses = addresses.filter_map(|word| word.split('%').next()?.parse::<IpAddr>().ok());
    addresses.map(|ip| ip.to_canonical()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_as_the_c_library_reads_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        let text = "# nameserver 192.0.2.1\nsearch example\nnameserver 192.0.2.53 \n\
                    nameserver\t2001:db8::53\nnameserver fe80::1%lan0\nnameservers 192.0.2.2\n\
                    nameserver nonsense\n";
        std::fs::write(&path, text).unwrap();
        let wanted: [IpAddr; 3] =
            ["192.0.2.53", "2001:db8::53", "fe80::1"].map(|ip| ip.parse().unwrap());
        assert_eq!(nameservers(&path), wanted);
        assert_eq!(nameservers(&directory.path().join("none")), [] as [IpAddr; 0]);
    }

    #[test]
    fn nobody_but_the_named_is_asked() {
        let of = |texts: &[&str]| texts.iter().map(|ip| ip.parse().unwrap()).collect();
        let servers = Servers {
            resolvers: of(&["192.0.2.53", "2001:db8::53"]),
            ntp: of(&["192.0.2.123"]),
            dhcp: of(&["2001:db8::547"]),
            ..Servers::default()
        };
        assert_eq!(
            servers.let_out(),
            [
                "ip daddr { 192.0.2.53 } udp dport 53 counter name dns accept",
                "ip6 daddr { 2001:db8::53 } udp dport 53 counter name dns accept",
                "ip daddr { 192.0.2.123 } udp dport 123 counter name ntp accept",
                "ip6 daddr { 2001:db8::547 } udp sport 546 udp dport 547 counter name dhcp accept",
            ]
        );
        assert_eq!(servers.names_here().count(), 0);
        let listen = Some("127.0.0.1:53".parse().unwrap());
        let judged = Servers { names: listen, ..servers };
        assert!(!judged.let_out().iter().any(|rule| rule.contains("dport 53 ")));
        let rule = "meta nfproto ipv4 meta l4proto { 6, 17 } th dport 53 dnat ip to 127.0.0.1:53";
        assert_eq!(judged.names_here().collect::<Vec<_>>(), [rule]);
    }

    #[test]
    fn w06_what_stays_open_is_said_of_each_address_as_the_rules_have_it() {
        let every = Servers { names: None, ..Servers::every_kind() };
        for (ip, ways) in [
            ("192.0.2.53", &["DNS", "ICMP type 8 "][..]),
            ("192.0.2.123", &["NTP", "ICMP type 8 "]),
            ("192.0.2.67", &["DHCP: UDP from port 68", "ICMP type 8 "]),
            ("::ffff:192.0.2.123", &["NTP", "ICMP type 8 "]),
            ("192.0.2.9", &["ICMP type 8 "]),
            ("2001:db8::53", &["DNS", "ICMP type 128 ", "ICMP types 133"]),
            ("2001:db8::547", &["DHCP: UDP from port 546", "ICMP type 128 ", "ICMP types 133"]),
        ] {
            let open = every.open_to(ip.parse().unwrap());
            assert_eq!(open.len(), ways.len() + 1, "{ip}: {open:?}");
            for (said, way) in open.iter().zip(ways) {
                assert!(said.starts_with(way), "{ip}: {open:?}");
            }
        }
        // Where [dns] judges names nobody else is asked.
        let judged = Servers::every_kind().open_to("192.0.2.53".parse().unwrap());
        assert!(!judged.iter().any(|way| way.starts_with("DNS")), "{judged:?}");
    }

    #[test]
    fn a_question_that_would_go_round_for_ever_is_found() {
        let round = |asked: &str| Servers {
            names: Some("[::]:53".parse().unwrap()),
            asked: vec![asked.parse().unwrap()],
            ..Servers::default()
        };
        assert!(round("127.0.0.53:53").goes_round().is_some());
        assert!(round("192.0.2.53:53").goes_round().is_none());
        assert!(Servers { names: None, ..round("127.0.0.53:53") }.goes_round().is_none());
    }
}
