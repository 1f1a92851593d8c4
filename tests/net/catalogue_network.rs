//! The catalogue's rows about interception and the network layer (docs/catalogue.md), each a test of
//! its id: the built binary, the rules it sets itself, and an administrator who breaks one of them.

use std::io::Write;
use std::net::IpAddr;
use std::process::Stdio;
use std::thread;

use serde_json::json;

use crate::lab::role::{self, BANNER, EXCHANGE, hex};
use crate::lab::{
    self, ADMIN, Gateway, Helper, Lab, PERMITTED, REFUSED, at, bytes_in_the_world, lab, said,
    shout, wait_until,
};

/// The client's addresses.
const CLIENT: [&str; 2] = ["192.0.2.2", "2001:db8:1::2"];

fn policy() -> String {
    let places = lab::places();
    format!(
        "schema = 1
[policy]
mode = \"enforce\"
permit = [\"FR\"]

{places}[[listen]]
mode = \"tproxy\"
address = \"[::]:15001\"
peek_timeout = \"500ms\"

[admin]
address = \"{ADMIN}\"
"
    )
}

/// A laboratory whose kernel forwards, as other software may have it do, with a gateway at work.
struct Scene<'lab> {
    lab: &'lab Lab,
    gateway: Gateway<'lab>,
    world: Helper,
    client: Helper,
}

impl<'lab> Scene<'lab> {
    fn start(lab: &'lab Lab) -> Self {
        lab.switch_forwarding_on();
        watch(lab);
        let world = lab.world.helper("world");
        let gateway = lab.start_gateway(&policy());
        gateway.capture();
        Self { lab, gateway, world, client: lab.client.helper("client") }
    }

    /// What everything rests on: the permitted side answers through the gateway, the refused side
    /// sees no packet at all, and no packet of the client's own reaches either.
    fn holds(&mut self, what: &str) {
        let before = bytes_in_the_world(&mut self.world);
        for ip in PERMITTED {
            let ask = json!({"do": "send", "to": at(ip, EXCHANGE), "enough": 7,
                "hex": hex(b"\0\0\0\0\0\0\0\x07 alive"), "patience_ms": 5_000});
            let end = self.client.ask(&ask);
            assert_eq!(end["end"], "enough", "{what}, {ip}: {end}");
        }
        shout(&mut self.client);
        let after = bytes_in_the_world(&mut self.world);
        assert_eq!(after[2..], before[2..], "{what}: bytes on the refused side");
        assert_eq!(strangers(self.lab), 0, "{what}: packets past the gateway");
    }

    /// As [`Scene::holds`], where the gateway itself may be cut off.
    fn lets_nothing_out(&mut self, what: &str) {
        shout(&mut self.client);
        let bytes = bytes_in_the_world(&mut self.world);
        assert_eq!(bytes[2..], [0; 2], "{what}: bytes on the refused side");
        assert_eq!(strangers(self.lab), 0, "{what}: packets past the gateway");
    }

    /// Sends whole packets from the client to each address of the world, none of which may see any.
    fn drops(&mut self, what: &str, packets: impl Fn(IpAddr, IpAddr) -> Vec<Vec<u8>>) {
        for ip in [PERMITTED, REFUSED].concat() {
            let to: IpAddr = ip.parse().unwrap();
            let from: IpAddr = CLIENT[usize::from(to.is_ipv6())].parse().unwrap();
            let packets: Vec<_> = packets(from, to).iter().map(|packet| hex(packet)).collect();
            let ask = json!({"do": "raw", "to": at(ip, 0), "packets": packets});
            assert_eq!(self.client.ask(&ask)["sent"], packets.len(), "{what}");
        }
        // Behind them, something that is answered: by then they have been judged too.
        self.holds(what);
    }
}

/// Counts in the world what comes from any address but the gateway's.
fn watch(lab: &Lab) {
    let [all4, all6] = [0, 1].map(|family| format!("{}, {}", PERMITTED[family], REFUSED[family]));
    let rules = format!(
        "table inet watch {{
            counter strangers {{ }}
            chain seen {{
                type filter hook prerouting priority -300; policy accept;
                ip daddr {{ {all4} }} ip saddr != 198.51.100.1 counter name strangers
                ip6 daddr {{ {all6} }} ip6 saddr != 2001:db8:2::1 counter name strangers
            }}
        }}"
    );
    let rules = lab.write("watch.nft", &rules);
    lab.world.shell(&format!("nft -f {}", rules.display())).unwrap();
}

/// Packets that reached the world from somebody else than the gateway.
fn strangers(lab: &Lab) -> u64 {
    let text = lab.world.shell("nft list counter inet watch strangers").unwrap();
    let mut words = text.split_whitespace();
    words.find(|word| *word == "packets").and_then(|_| words.next()).unwrap().parse().unwrap()
}

fn rules(lab: &Lab) -> String {
    lab.gateway.shell("nft -s list ruleset; ip -4 rule; ip -6 rule").unwrap()
}

/// Packets that the named table of the gateway dropped.
fn dropped(lab: &Lab, table: &str) -> u64 {
    let text = lab.gateway.shell(&format!("nft list table inet {table}")).unwrap();
    let counted = text.split("counter packets ").skip(1);
    let counted =
        counted.filter(|rule| rule.lines().next().is_some_and(|line| line.contains("drop")));
    counted.map(|rule| rule.split(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn n02_a_ruleset_that_does_not_load_changes_nothing() {
    let Some(lab) = lab("n02") else { return };
    let mut scene = Scene::start(&lab);
    let before = rules(&lab);
    let broken = lab.write("broken.nft", "flush ruleset\ntable inet x { chain fwd { nonsense } }");
    assert!(lab.gateway.shell(&format!("nft -f {}", broken.display())).is_err());
    // The program's own: a policy that is none is refused before any rule is touched.
    let policy = lab.write("broken.toml", "schema = 1\n[[listen]]\nmode = \"tproxy\"\n");
    let output = lab
        .gateway
        .command(env!("CARGO_BIN_EXE_schengate"))
        .args(["capture", "up", "--config"])
        .arg(&policy)
        .output()
        .unwrap();
    assert!(!output.status.success(), "{}", said(&output));
    assert_eq!(rules(&lab), before);
    scene.holds("a broken ruleset");
}

#[test]
fn n03_connections_wait_while_the_gateway_starts_anew_and_nothing_leaks() {
    let Some(lab) = lab("n03") else { return };
    if !lab::has("setpriv") {
        return;
    }
    lab.switch_forwarding_on();
    watch(&lab);
    let mut world = lab.world.helper("world");
    let mut client = lab.client.helper("client");
    let config = lab.write("held.toml", &policy());
    let log = lab.write("held.log", "");
    let mut keeper = lab.gateway.helper("holder");
    let start = json!({"do": "start", "binary": env!("CARGO_BIN_EXE_schengate"),
        "config": config.to_str(), "log": log.to_str()});
    keeper.ask(&start);
    let mut capture = lab.gateway.command(env!("CARGO_BIN_EXE_schengate"));
    let set = capture.args(["capture", "up", "--config"]).arg(&config).output().unwrap();
    assert!(set.status.success(), "{}", said(&set));
    let hello = |ip: &str| {
        json!({"do": "send", "to": at(ip, EXCHANGE), "enough": 7,
            "hex": hex(b"\0\0\0\0\0\0\0\x07 alive"), "patience_ms": 20_000})
    };
    assert_eq!(client.ask(&hello(PERMITTED[0]))["end"], "enough");
    let mut arrived = || bytes_in_the_world(&mut world);
    keeper.ask(&json!({"do": "stop"}));
    let before = arrived();
    // The queue holds one or two; the others are not even answered. None of them gets out.
    let mut held = lab.client.helper("client");
    let hold =
        json!({"do": "keep", "to": at(REFUSED[0], EXCHANGE), "hex": "00", "patience_ms": 300});
    let kept = (0..6).filter(|_| held.ask(&hold)["kept"].is_u64()).count();
    assert!((1..6).contains(&kept), "{kept} of 6 were held by a queue of one");
    held.ask(&json!({"do": "let-go", "to": at(REFUSED[0], EXCHANGE)}));
    shout(&mut lab.client.helper("client"));
    assert_eq!(arrived(), before, "while nobody accepts");
    // One that waits is served by the next process.
    let waiting = thread::spawn({
        let ask = hello(PERMITTED[1]);
        move || client.ask(&ask)
    });
    keeper.ask(&start);
    assert_eq!(waiting.join().unwrap()["end"], "enough");
    let after = arrived();
    assert_eq!(after[2..], before[2..], "bytes on the refused side");
    assert_eq!(strangers(&lab), 0);
}

/// An IPv6 packet: extension headers, each with the number of the next in its first byte, and a
/// payload.
fn v6_packet(from: IpAddr, to: IpAddr, first: u8, behind: &[u8]) -> Vec<u8> {
    let (IpAddr::V6(from), IpAddr::V6(to)) = (from, to) else { panic!("not IPv6") };
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(behind.len()).unwrap().to_be_bytes());
    packet.extend([first, 64]);
    packet.extend([from, to].map(|ip| ip.octets()).concat());
    packet.extend(behind);
    packet
}

/// A datagram or a SYN, its checksum right.
fn transport(from: IpAddr, to: IpAddr, tcp: bool) -> (u8, Vec<u8>) {
    let mut bytes = Vec::new();
    let payload = b"payload that must not leave";
    match (from, to) {
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let builder = etherparse::PacketBuilder::ipv6(from.octets(), to.octets(), 64);
            if tcp {
                builder.tcp(4_321, 443, 1, 65_000).syn().write(&mut bytes, &[]).unwrap();
            } else {
                builder.udp(4_321, 443).write(&mut bytes, payload).unwrap();
            }
            (bytes[6], bytes.split_off(40))
        }
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let builder = etherparse::PacketBuilder::ipv4(from.octets(), to.octets(), 64);
            builder.udp(4_321, 443).write(&mut bytes, payload).unwrap();
            (17, bytes.split_off(20))
        }
        _ => panic!("one family"),
    }
}

#[test]
fn n04_extension_headers_take_no_packet_past_the_gateway() {
    let Some(lab) = lab("n04") else { return };
    let mut scene = Scene::start(&lab);
    scene.drops("extension headers", |from, to| {
        if to.is_ipv4() {
            return Vec::new();
        }
        let mut packets = Vec::new();
        for tcp in [false, true] {
            let (protocol, segment) = transport(from, to, tcp);
            // Hop-by-hop and destination options with padding (RFC 8200 §4.3, §4.6), a routing
            // header with no segments left (§4.4), a fragment header of an atomic fragment (§4.5).
            for (kind, header) in [
                (0, [protocol, 0, 1, 4, 0, 0, 0, 0]),
                (60, [protocol, 0, 1, 4, 0, 0, 0, 0]),
                (43, [protocol, 0, 4, 0, 0, 0, 0, 0]),
                (44, [protocol, 0, 0, 0, 0, 0, 0, 9]),
            ] {
                packets.push(v6_packet(from, to, kind, &[&header[..], &segment].concat()));
            }
            // Both kinds of options, one behind the other.
            let both = [60, 0, 1, 4, 0, 0, 0, 0, protocol, 0, 1, 4, 0, 0, 0, 0];
            packets.push(v6_packet(from, to, 0, &[&both[..], &segment].concat()));
        }
        packets
    });
    // The measure itself: without any fence the same packets arrive.
    lab.open();
    let (from, to): (IpAddr, IpAddr) = (CLIENT[1].parse().unwrap(), REFUSED[1].parse().unwrap());
    let (protocol, segment) = transport(from, to, false);
    let options = [&[protocol, 0, 1, 4, 0, 0, 0, 0][..], &segment].concat();
    let packet = hex(&v6_packet(from, to, 60, &options));
    scene.client.ask(&json!({"do": "raw", "to": at(REFUSED[1], 0), "packets": [packet]}));
    wait_until("the packet arrives without a fence", || (strangers(&lab) > 0).then_some(()));
}

#[test]
fn n05_a_flow_that_is_older_than_the_rules_does_not_outlive_them() {
    let Some(lab) = lab("n05") else { return };
    lab.switch_forwarding_on();
    let mut world = lab.world.helper("world");
    let mut client = lab.client.helper("client");
    for ip in REFUSED {
        let keep = json!({"do": "keep", "to": at(ip, BANNER), "hex": hex(b"before")});
        assert!(client.ask(&keep)["kept"].is_u64());
        wait_until("the flow is there", || (world.arrived(ip).0 == 6).then_some(()));
    }
    let gateway = lab.start_gateway(&policy());
    gateway.capture();
    for ip in [REFUSED[1], REFUSED[0]] {
        let on = json!({"do": "say-on", "to": at(ip, BANNER), "hex": hex(b"behind"),
            "patience_ms": 1_000});
        let end = client.ask(&on);
        assert_ne!(end["end"], "enough", "{end}");
    }
    for ip in REFUSED {
        assert_eq!(world.arrived(ip), (6, 1), "nothing behind the rules");
    }
}

#[test]
fn n06_protocols_that_nobody_can_judge_are_dropped_and_counted() {
    let Some(lab) = lab("n06") else { return };
    let mut scene = Scene::start(&lab);
    let before = dropped(&lab, "schengate");
    // ICMP, IP in IP, 6in4, GRE, ESP, AH, OSPF, SCTP, UDP-Lite, and a number that nobody has.
    let protocols = [1_u8, 4, 41, 47, 50, 51, 89, 132, 136, 253];
    scene.drops("other protocols", |from, to| {
        let inner = {
            let (_, segment) = transport(from, to, false);
            segment
        };
        let payload = |protocol: u8| match protocol {
            // An echo request that carries data.
            1 => vec![8, 0, 0x1c, 0x13, 0, 1, 0, 1, b'd', b'a', b't', b'a'],
            _ => [&[0, 0, 8, 0, 0, 0, 0, 1][..], &inner].concat(),
        };
        let packet = |protocol: u8| match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let payload = payload(protocol);
                let mut packet = vec![0x45, 0];
                packet.extend(u16::try_from(20 + payload.len()).unwrap().to_be_bytes());
                packet.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
                packet.extend([from, to].map(|ip| ip.octets()).concat());
                packet.extend(payload);
                packet
            }
            _ => {
                let protocol = if protocol == 1 { 58 } else { protocol };
                v6_packet(from, to, protocol, &payload(if protocol == 58 { 0 } else { protocol }))
            }
        };
        protocols.map(packet).to_vec()
    });
    let counted = dropped(&lab, "schengate") - before;
    let sent = 4 * protocols.len() as u64;
    assert!(counted >= sent, "{counted} of {sent} are counted");
}

#[test]
fn n07_no_port_is_outside_the_interception() {
    let Some(lab) = lab("n07") else { return };
    let mut scene = Scene::start(&lab);
    let ports = [1, 53, 8_443, 15_001, 65_535];
    for ip in REFUSED {
        for port in ports {
            let to = at(ip, port);
            let payload = hex(b"payload that must not leave");
            let tcp = json!({"do": "send", "to": to, "hex": payload, "patience_ms": 5_000});
            let end = scene.client.ask(&tcp);
            assert_ne!(end["end"], "silence", "{to}: {end}");
            let udp = json!({"do": "udp", "to": to, "hex": payload, "patience_ms": 5_000});
            let end = scene.client.ask(&udp);
            assert_ne!(end["end"], "silence", "{to}: {end}");
            assert_eq!(end["received"], "", "{to}: {end}");
        }
    }
    let refused = scene.gateway.count("reason=\"outside\"");
    assert!(refused >= 4.0 * ports.len() as f64, "{refused}");
    scene.holds("any port");
}

#[test]
fn n12_a_table_that_accepts_earlier_and_a_flowtable_open_nothing() {
    let Some(lab) = lab("n12") else { return };
    let mut scene = Scene::start(&lab);
    let other = lab.write(
        "other.nft",
        "table inet other {
            chain early { type filter hook prerouting priority -500; policy accept; accept; }
            chain pass { type filter hook forward priority -500; policy accept; accept; }
            chain late { type filter hook forward priority 500; policy accept; accept; }
        }",
    );
    lab.gateway.shell(&format!("nft -f {}", other.display())).unwrap();
    scene.holds("a table that accepts everything");
    let offload = lab.write(
        "offload.nft",
        "table inet shortcut {
            flowtable f { hook ingress priority 0; devices = { lan0, wan0 }; }
            chain into { type filter hook forward priority -400; meta l4proto { tcp, udp } flow add @f; }
        }",
    );
    match lab.gateway.shell(&format!("nft -f {}", offload.display())) {
        Ok(_) => scene.holds("a flowtable"),
        Err(e) => {
            // A kernel without nf_flow_table; said where it can be seen, for nothing was shown.
            writeln!(std::io::stderr(), "LEFT OUT: n12 with a flowtable: {e}").unwrap();
        }
    }
}

#[test]
fn n14_until_a_policy_is_in_force_nothing_passes() {
    let Some(lab) = lab("n14") else { return };
    lab.switch_forwarding_on();
    watch(&lab);
    let mut world = lab.world.helper("world");
    let mut client = lab.client.helper("client");
    let config = lab.write("n14.toml", &policy());
    let mut capture = lab.gateway.command(env!("CARGO_BIN_EXE_schengate"));
    let set = capture.args(["capture", "up", "--config"]).arg(&config).output().unwrap();
    assert!(set.status.success(), "{}", said(&set));
    // The addresses are here already; the policy is not.
    let broken = lab.write("n14-broken.toml", "schema = 1\n[policy]\npermit = []\n");
    let output = lab
        .gateway
        .command(env!("CARGO_BIN_EXE_schengate"))
        .args(["run", "--config"])
        .arg(&broken)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(!output.status.success(), "no policy, no service: {}", said(&output));
    shout(&mut client);
    assert_eq!(bytes_in_the_world(&mut world), [0; 4], "before a policy is in force");
    let gateway = lab.start_gateway(&policy());
    let mut scene = Scene { lab: &lab, gateway, world, client };
    scene.holds("a policy in force");
}

#[test]
fn n15_each_fence_holds_where_another_is_taken_away() {
    let Some(lab) = lab("n15") else { return };
    let mut scene = Scene::start(&lab);
    // Forwarding is on from the start.
    lab.gateway
        .shell("sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.lan0.rp_filter=1")
        .unwrap();
    scene.holds("rp_filter");
    lab.gateway.shell("nft delete table inet schengate_guard").unwrap();
    scene.holds("no guard");
    scene.gateway.capture();
    lab.gateway.shell("nft delete table inet schengate").unwrap();
    scene.lets_nothing_out("no rules");
    scene.gateway.capture();
    scene.holds("set again");
    lab.gateway
        .shell(
            "ip -4 rule flush; ip -4 rule add priority 32766 lookup main;
            ip -6 rule flush; ip -6 rule add priority 32766 lookup main",
        )
        .unwrap();
    scene.lets_nothing_out("no routing rules");
    scene.gateway.capture();
    scene.holds("set again");
    // The measure itself: with all of them gone, and forwarding on, everything would leave.
    lab.open();
    shout(&mut scene.client);
    assert!(strangers(&lab) > 0);
}

/// A whole packet: a SYN or a datagram from one address and port to another.
fn forged(from: IpAddr, source: u16, to: IpAddr, port: u16, tcp: bool) -> Vec<u8> {
    use etherparse::PacketBuilder;
    let payload = b"payload that must not leave";
    let mut packet = Vec::new();
    let builder = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
        _ => panic!("one family"),
    };
    if tcp {
        builder.tcp(source, port, 1, 65_000).syn().write(&mut packet, &[]).unwrap();
    } else {
        builder.udp(source, port).write(&mut packet, payload).unwrap();
    }
    packet
}

/// Packets that a named counter of the capture counted.
fn counted(lab: &Lab, name: &str) -> u64 {
    let text = lab.gateway.shell(&format!("nft list counter inet schengate {name}")).unwrap();
    let mut words = text.split_whitespace();
    words.find(|word| *word == "packets").and_then(|_| words.next()).unwrap().parse().unwrap()
}

/// Every packet that reached the world, whosever it is.
fn seen_by_the_world(lab: &Lab) -> u64 {
    let text = lab.world.shell("nft list counter inet everybody seen").unwrap();
    let mut words = text.split_whitespace();
    words.find(|word| *word == "packets").and_then(|_| words.next()).unwrap().parse().unwrap()
}

/// Sends a packet, from where it is sent by whom it names.
fn send_raw(sender: &mut Helper, to: IpAddr, packet: &[u8]) {
    let ask = json!({"do": "raw", "to": at(&to.to_string(), 0), "packets": [hex(packet)]});
    assert_eq!(sender.ask(&ask)["sent"], 1);
}

/// Catalogue W04.
#[test]
fn w04_what_is_not_routed_back_by_its_interface_is_dropped_before_anything_answers() {
    let Some(lab) = lab("w04") else { return };
    let mut scene = Scene::start(&lab);
    let all = [PERMITTED, REFUSED].concat().join(" ");
    let (v4, v6): (Vec<&str>, Vec<&str>) = all.split(' ').partition(|ip| !ip.contains(':'));
    lab.world
        .shell(&format!(
            "nft 'table inet everybody {{ counter seen {{ }}
            chain c {{ type filter hook prerouting priority -300;
                ip daddr {{ {}, 198.51.100.53 }} counter name seen
                ip6 daddr {{ {} }} counter name seen
            }}
            }}'",
            v4.join(", "),
            v6.join(", ")
        ))
        .unwrap();
    let mut far = lab.world.helper("client");
    let parse = |ip: &str| ip.parse::<IpAddr>().unwrap();
    for interface in [&[][..], &["--interface", "lan0"]] {
        scene.gateway.capture_with(interface);
        let (before, mut sent) = (counted(&lab, "astray"), 0);
        let (world, verdicts) = (seen_by_the_world(&lab), scene.gateway.count("verdict"));
        for family in [0, 1] {
            // A refused address, the world's resolver's network, a group on another network.
            let sources = [REFUSED[family], PERMITTED[family], ["10.77.0.9", "fd77::9"][family]];
            for from in sources.map(parse) {
                for to in [PERMITTED[family], REFUSED[family], lab::GATEWAY[family]].map(parse) {
                    for (port, tcp) in [(443, true), (EXCHANGE, true), (443, false), (53, false)] {
                        // From 53, too: the answer of a resolver that was not asked.
                        send_raw(&mut scene.client, to, &forged(from, 53, to, port, tcp));
                        sent += 1;
                    }
                }
            }
            if !interface.is_empty() {
                // A client's address on the far side: its group's verdicts are not for sale there.
                let (from, to) = (parse(CLIENT[family]), ["198.51.100.1", "2001:db8:2::1"][family]);
                let to = parse(to);
                send_raw(&mut far, to, &forged(from, 4_321, to, 3_128, true));
                sent += 1;
            }
        }
        wait_until("all of it is counted", || {
            (counted(&lab, "astray") - before == sent).then_some(())
        });
        assert_eq!(seen_by_the_world(&lab), world, "{interface:?}: nothing answered a stranger");
        assert_eq!(scene.gateway.count("verdict"), verdicts, "{interface:?}: nobody judged it");
        scene.holds("forged sources");
    }
}

/// Catalogue H08.
#[test]
fn h08_a_port_that_is_used_again_reaches_the_listener_at_once() {
    let Some(lab) = lab("h08") else { return };
    let mut scene = Scene::start(&lab);
    // A socket in TIME-WAIT that takes a SYN answers with an old ACK, and ignores the reset.
    lab.gateway.shell("sysctl -qw net.ipv4.tcp_rfc1337=1").unwrap();
    for ip in PERMITTED {
        let ask = json!({"do": "again", "to": at(ip, EXCHANGE), "port": 21_700, "count": 3,
            "hex": hex(b"\0\0\0\0\0\0\0\x07"), "patience_ms": 15_000});
        let ends = scene.client.ask(&ask);
        assert_eq!(ends, json!(["7 bytes", "7 bytes", "7 bytes"]), "{ip}");
    }
    let sockets = lab.gateway.shell("cat /proc/net/tcp /proc/net/tcp6").unwrap();
    let waits = |line: &str| line.split_whitespace().nth(3) == Some("06");
    assert!(sockets.lines().any(waits), "no socket is in TIME-WAIT: {sockets}");
}

/// Catalogue L10.
#[test]
fn l10_a_destination_without_a_route_is_refused_at_the_syn() {
    let Some(lab) = lab("l10") else { return };
    if !lab::has("curl") {
        return;
    }
    let mut scene = Scene::start(&lab);
    lab.gateway.shell("ip -6 route del default").unwrap();
    let before = counted(&lab, "no_route");
    for what in ["send", "udp"] {
        let to = at("2001:db8:77::1", 443);
        let ask = json!({"do": what, "to": to, "hex": "00", "patience_ms": 15_000});
        let end = scene.client.ask(&ask).to_string();
        // A reset, or ICMP that is no passing trouble.
        assert!(end.contains("refused") || end.contains("denied"), "{what}: {end}");
    }
    assert_eq!(counted(&lab, "no_route"), before + 2);
    // A client that waits for its first address to fail, and turns to the next.
    let page = lab.client.shell(
        "curl -sS --noproxy '*' --happy-eyeballs-timeout-ms 60000 --max-time 15 \
            --resolve 'both.example:80:[2001:db8:77::1],198.51.100.7' http://both.example/",
    );
    assert_eq!(page.unwrap(), role::GREETING);
    scene.holds("no route");
}

/// Catalogue W05: an address that this host gets is the gateway itself at once.
#[test]
fn w05_an_address_that_comes_later_is_the_gateways_own() {
    let Some(lab) = lab("w05 address") else { return };
    let own = "[[place]]\nto = [\"192.0.2.0/24\", \"2001:db8:1::/64\"]\nlocation = [\"FR\"]\n\
               reason = \"the clients' side\"\n[[listen]]\nmode = \"proxy\"\naddress = \"[::]:3128\"\n";
    let gateway = lab.start_gateway(&format!("{}{own}", policy()));
    let mut client = lab.client.helper("client");
    for (proxy, own, command) in [
        (lab::GATEWAY[0], "192.0.2.99", "ip address add 192.0.2.99/24 dev lan0"),
        (lab::GATEWAY[1], "2001:db8:1::99", "ip address add 2001:db8:1::99/64 dev lan0 nodad"),
    ] {
        let to = at(own, 3_128);
        let line = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n");
        let ask = json!({"do": "send", "to": at(proxy, 3_128), "hex": hex(line.as_bytes()),
            "enough": 12, "patience_ms": 15_000});
        let looped = gateway.count("reason=\"loop\"");
        lab.gateway.shell(command).unwrap();
        wait_until("the address is known for the gateway's own", || {
            client.ask(&ask);
            (gateway.count("reason=\"loop\"") > looped).then_some(())
        });
    }
}

/// Catalogue W05: a route that leads back makes one connection one connection.
#[test]
fn w05_a_route_that_leads_back_ends_at_the_first_turn() {
    let Some(lab) = lab("w05 route") else { return };
    let places = "[[place]]\nto = [\"198.51.100.192/27\", \"2001:db8:1:ffff::/64\"]\n\
                  location = [\"FR\"]\nreason = \"not in use\"\n";
    let gateway = lab.start_gateway(&format!("{}{places}", policy()));
    let mut client = lab.client.helper("client");
    let on_the_far_side = "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
        ip route add 198.51.100.192/27 via 198.51.100.1
        ip route add 2001:db8:1:ffff::/64 via 2001:db8:2::1";
    lab.world.shell(on_the_far_side).unwrap();
    lab.gateway.shell("ip route add 198.51.100.192/27 via 198.51.100.2").unwrap();
    for interface in [&[][..], &["--interface", "lan0"]] {
        gateway.capture_with(interface);
        for ip in ["198.51.100.200", "2001:db8:1:ffff::77"] {
            let before = gateway.count("reason=\"permitted\"");
            let tcp = json!({"do": "send", "to": at(ip, 80), "hex": "00", "patience_ms": 1_500});
            client.ask(&tcp);
            let udp = json!({"do": "udp", "to": at(ip, 5_000), "hex": "00", "patience_ms": 500});
            client.ask(&udp);
            wait_until("what came back is counted", || (counted(&lab, "loop") >= 2).then_some(()));
            let judged = gateway.count("reason=\"permitted\"") - before;
            assert!(judged <= 4.0, "{interface:?}, {ip}: one connection, one flow: {judged} lines");
        }
    }
}
