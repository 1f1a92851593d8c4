//! What a relayed connection looks like from the destination's side.

use std::net::IpAddr;

use etherparse::PacketBuilder;
use serde_json::json;

use crate::lab::role::{EXCHANGE, WHO, hex, unhex};
use crate::lab::{self, Gateway, Helper, Lab, PERMITTED, REFUSED, at, lab};

/// In France, and nobody's: a route there may lead back.
const UNUSED: [&str; 2] = ["203.0.113.200", "2001:db8:ffff::77"];

fn policy(mode: &str, more: &str) -> String {
    let [u4, u6] = UNUSED;
    let (places, admin) = (lab::places(), lab::ADMIN);
    format!(
        "schema = 1
[policy]
mode = \"enforce\"
permit = [\"FR\"]

[[place]]
to = [\"{u4}/32\", \"{u6}/128\"]
location = [\"FR\"]
reason = \"more of the permitted side\"

{places}[[listen]]
mode = \"{mode}\"
address = \"[::]:15001\"
{more}

[admin]
address = \"{admin}\"
"
    )
}

/// Has the world count the packets of new connections by where they come from.
fn count_sources(lab: &Lab) {
    let rules = "table inet seen { chain input { type filter hook input priority 0
        ip saddr 192.0.2.2 tcp flags syn counter comment client4
        ip6 saddr 2001:db8:1::2 tcp flags syn counter comment client6
        ip saddr 198.51.100.1 tcp flags syn counter comment gateway4
        ip6 saddr 2001:db8:2::1 tcp flags syn counter comment gateway6
        ip saddr 203.0.113.200 counter comment nobody4
        ip6 saddr 2001:db8:f::200 counter comment nobody6
        }\n}\n";
    let path = lab.write("seen.nft", rules);
    lab.world.shell(&format!("nft -f {}", path.display())).unwrap();
}

fn packets(lab: &Lab, comment: &str) -> u64 {
    let rules = lab.world.shell("nft list table inet seen").unwrap();
    let line = rules.lines().find(|line| line.contains(comment)).unwrap();
    let (_, count) = line.split_once("packets ").unwrap();
    count.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn the_destination_sees_the_client_only_where_its_source_is_kept() {
    let test = "the_destination_sees_the_client_only_where_its_source_is_kept";
    for (more, seen, unseen) in
        [("keep_source = true", "client", "gateway"), ("", "gateway", "client")]
    {
        let Some(lab) = lab(test) else { return };
        let _world = lab.world.helper("world");
        let gateway = lab.start_gateway(&policy("tproxy", more));
        gateway.capture();
        let mut client = lab.client.helper("client");
        count_sources(&lab);
        for (ip, family) in PERMITTED.into_iter().zip([4, 6]) {
            let answer = client.ask(&json!({"do": "send", "to": at(ip, EXCHANGE),
                "hex": hex(b"\0\0\0\0\0\0\0\x07 and a few more"), "step": 1000, "enough": 7,
                "patience_ms": 10_000}));
            assert_eq!(answer["received"].as_str().map(str::len), Some(14), "{answer}");
            assert!(packets(&lab, &format!("{seen}{family}")) > 0, "{more} {ip}");
            assert_eq!(packets(&lab, &format!("{unseen}{family}")), 0, "{more} {ip}");
        }
    }
}

/// Seven bytes of the world's, for a client's first eight and some more.
const SEVEN: &[u8] = b"\0\0\0\0\0\0\0\x07 and a few more";

/// What the gateway and the world count: connections and flows, and bytes and connections that
/// arrived on the refused side.
fn counts(gateway: &Gateway<'_>, world: &mut Helper) -> (f64, Vec<(u64, u64)>) {
    let begun = gateway.count("schengate_connections_total");
    (begun, REFUSED.into_iter().map(|ip| world.arrived(ip)).collect())
}

/// Catalogue L08: the answers come in on the far side, for an address that is not the gateway's.
#[test]
fn l08_the_source_is_kept_where_the_clients_side_is_named() {
    for mode in ["tproxy", "redirect"] {
        for side in [&["--interface", "lan0"][..], &[]] {
            let what = format!("l08 {mode} {side:?}");
            let Some(lab) = lab(&what) else { return };
            let mut world = lab.world.helper("world");
            let gateway = lab.start_gateway(&policy(mode, "keep_source = true"));
            gateway.capture_with(side);
            let mut client = lab.client.helper("client");
            let mut far = lab.world.helper("client");
            count_sources(&lab);
            for family in [0, 1] {
                let (ip, own) = (PERMITTED[family], ["192.0.2.2", "2001:db8:1::2"][family]);
                let ask = json!({"do": "send", "to": at(ip, EXCHANGE), "hex": hex(SEVEN),
                    "enough": 7, "patience_ms": 5_000});
                let end = client.ask(&ask);
                assert_eq!(end["end"], "enough", "{what} {ip}: {end}");
                let digit = ["4", "6"][family];
                assert!(packets(&lab, &format!("client{digit}")) > 0, "{what} {ip}");
                assert_eq!(packets(&lab, &format!("gateway{digit}")), 0, "{what} {ip}");
                if mode == "tproxy" {
                    let said = client.ask(&json!({"do": "talk", "to": at(ip, 9_000),
                        "datagrams": [hex(WHO)], "patience_ms": 3_000, "pause_ms": 150}));
                    let seen = said["answers"][0].as_str().unwrap_or_else(|| panic!("{said}"));
                    let seen = String::from_utf8(unhex(seen)).unwrap();
                    assert!(seen.starts_with(at(own, 0).trim_end_matches('0')), "{what}: {seen}");
                }
                for doing in ["send", "udp"] {
                    client.ask(&json!({"do": doing, "to": at(REFUSED[family], EXCHANGE),
                        "hex": hex(SEVEN), "patience_ms": 500}));
                }
                let before = counts(&gateway, &mut world);
                assert_eq!(before.1, [(0, 0); 2], "{what}: the refused side");
                if !side.is_empty() {
                    // What the far side begins goes nowhere, at the listener's port neither.
                    for port in [15_001, 443] {
                        for doing in ["send", "udp"] {
                            far.ask(&json!({"do": doing, "to": at(own, port),
                                "hex": hex(SEVEN), "patience_ms": 300}));
                        }
                    }
                    assert_eq!(counts(&gateway, &mut world), before, "{what}: the far side");
                    // Nor is what is for nobody here looked for among the gateway's sockets: its
                    // listener would answer in that address's name.
                    let nobody = ["203.0.113.200", "2001:db8:f::200"][family];
                    let from = ["198.51.100.2", "2001:db8:2::2"][family];
                    let packet = acknowledgement(from.parse().unwrap(), nobody.parse().unwrap());
                    let ask = json!({"do": "raw", "to": at(nobody, 0), "packets": [hex(&packet)]});
                    assert_eq!(far.ask(&ask)["sent"], 1, "{what}");
                    // Nor does what has a client's address there.
                    lab.world.shell(&forge(own)).unwrap();
                    lab::wait_until("it is counted", || astray(&lab, 2 * (family + 1)));
                    assert_eq!(counts(&gateway, &mut world), before, "{what}: forged");
                    assert_eq!(packets(&lab, &format!("nobody{digit}")), 0, "{what}: for nobody");
                }
            }
        }
    }
}

/// An acknowledgement of no connection, to the port of the gateway's listener.
fn acknowledgement(from: IpAddr, to: IpAddr) -> Vec<u8> {
    let builder = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
        _ => panic!("one family"),
    };
    let mut packet = Vec::new();
    builder.tcp(4_321, 15_001, 1, 65_000).ack(1).write(&mut packet, &[]).unwrap();
    packet
}

/// Sends from another's address, which nothing but the gateway's rules forbids: TCP and UDP.
fn forge(from: &str) -> String {
    let (to, bits, cut) = match from.contains(':') {
        true => ("2001:db8:2::1", 128, "-6"),
        false => ("198.51.100.1", 32, "-4"),
    };
    format!(
        "ip address add {from}/{bits} dev lo
        python3 -c 'import socket as s
f = s.AF_INET6 if \":\" in \"{from}\" else s.AF_INET
u = s.socket(f, s.SOCK_DGRAM); u.bind((\"{from}\", 4321)); u.sendto(b\"x\", (\"{to}\", 15001))
t = s.socket(f, s.SOCK_STREAM); t.bind((\"{from}\", 4321)); t.setblocking(False)
t.connect_ex((\"{to}\", 15001))'
        ip {cut} address del {from}/{bits} dev lo"
    )
}

/// Whether so many packets were dropped for where they claim to come from.
fn astray(lab: &Lab, least: usize) -> Option<()> {
    let text = lab.gateway.shell("nft list counter inet schengate astray").unwrap();
    let mut words = text.split_whitespace();
    let count = words.find(|word| *word == "packets").and_then(|_| words.next()).unwrap();
    (count.parse::<usize>().unwrap() >= least).then_some(())
}

/// Catalogue W05: a route that leads what the gateway dials from a client's address back to it, on
/// the clients' side, where everything else about it is in order.
#[test]
fn w05_a_connection_from_a_kept_source_that_comes_back_is_a_loop() {
    for (mode, side) in
        [("tproxy", &["--interface", "lan0"][..]), ("tproxy", &[]), ("redirect", &[])]
    {
        let what = format!("w05 {mode} {side:?}");
        let Some(lab) = lab(&what) else { return };
        let gateway = lab.start_gateway(&policy(mode, "keep_source = true"));
        gateway.capture_with(side);
        let mut client = lab.client.helper("client");
        let [u4, u6] = UNUSED;
        lab.gateway
            .shell(&format!(
                "sysctl -qw net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.lan0.send_redirects=0
                ip route add {u4}/32 via 192.0.2.2; ip -6 route add {u6}/128 via 2001:db8:1::2"
            ))
            .unwrap();
        // The client's host sends everything back, what answers the gateway's own ports too.
        let back = lab.write(
            "back.nft",
            &format!(
                "table inet back {{ chain c {{ type filter hook prerouting priority -300
                ip saddr {u4} tcp dport >= 32768 meta mark set 7
                ip6 saddr {u6} tcp dport >= 32768 meta mark set 7
                }}\n}}\n"
            ),
        );
        lab.client
            .shell(&format!(
                "sysctl -qw net.ipv4.conf.all.accept_local=1 net.ipv4.conf.all.rp_filter=0
                for c in /proc/sys/net/ipv4/conf/*; do echo 0 > $c/rp_filter
                    echo 0 > $c/send_redirects; done
                sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
                nft -f {}
                ip route add default via 192.0.2.1 table 77
                ip -6 route add default via 2001:db8:1::1 table 77
                for f in -4 -6; do ip $f rule add pref 5 fwmark 7 lookup 77
                    ip $f rule add pref 10 lookup local; ip $f rule del pref 0; done",
                back.display()
            ))
            .unwrap();
        for ip in UNUSED {
            let begun = gateway.count("schengate_connections_total");
            let looped = gateway.count("reason=\"loop\"");
            let ask = json!({"do": "again", "to": at(ip, EXCHANGE), "port": 21_700, "count": 1,
                "hex": hex(SEVEN), "patience_ms": 2_000});
            let ends = client.ask(&ask);
            assert!(!ends.to_string().contains("bytes"), "{what} {ip}: {ends}");
            let begun = gateway.count("schengate_connections_total") - begun;
            let looped = gateway.count("reason=\"loop\"") - looped;
            // Behind REDIRECT the kernel knows the connection for one that it tracks already, and does
            // not redirect it: it is dropped.
            let turns = if mode == "tproxy" { (2.0, 1.0) } else { (1.0, 0.0) };
            assert_eq!((begun, looped), turns, "{what} {ip}: {ends}");
        }
    }
}
