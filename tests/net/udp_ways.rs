//! UDP as a router does it: one outer port for a client endpoint, ICMP both ways, whole datagrams, no
//! loops, a share for each client. Rows of "Found in use" in docs/catalogue.md.

use rustls::quic::Version;
use serde_json::{Value, json};

use crate::flights;
use crate::lab::role::{WHO, hex, unhex};
use crate::lab::{self, Gateway, Helper, Lab, PERMITTED, REFUSED, at, lab};

/// In France, and nobody's: a route there may lead back.
const UNUSED: [&str; 2] = ["203.0.113.200", "2001:db8:ffff::77"];

fn policy(listen: &str, more: &str) -> String {
    let (places, admin) = (lab::places(), lab::ADMIN);
    let [u4, u6] = UNUSED;
    format!(
        "schema = 1
[policy]
mode = \"enforce\"
permit = [\"FR\"]
{more}

[names]
binding = \"trust\"

[[place]]
to = [\"{u4}/32\", \"{u6}/128\"]
location = [\"FR\"]
reason = \"more of the permitted side\"

{places}[[listen]]
mode = \"tproxy\"
address = \"[::]:15001\"
peek_timeout = \"500ms\"
{listen}

[[listen]]
mode = \"proxy\"
address = \"[::]:3128\"

[admin]
address = \"{admin}\"
"
    )
}

/// Port 9000 of [`REFUSED`] is opened.
const REFUSED_BUT_ONE: &str = "
[[rule]]
name = \"one port\"
to = [\"203.0.113.7/32\", \"2001:db8:bad::7/128\"]
port = [9000]
action = \"allow\"
reason = \"a second destination\"
";

struct Scene<'lab> {
    lab: &'lab Lab,
    gateway: Gateway<'lab>,
    world: Helper,
    client: Helper,
}

impl<'lab> Scene<'lab> {
    fn start(lab: &'lab Lab, listen: &str, more: &str) -> Self {
        let world = lab.world.helper("world");
        let gateway = lab.start_gateway(&policy(listen, more));
        gateway.capture();
        Self { lab, gateway, world, client: lab.client.helper("client") }
    }

    fn talk(&mut self, what: &str, to: &str, datagrams: &[&[u8]]) -> Value {
        let datagrams: Vec<String> = datagrams.iter().map(|datagram| hex(datagram)).collect();
        self.client.ask(&json!({"do": what, "to": to, "datagrams": datagrams,
            "patience_ms": 3_000, "pause_ms": 150}))
    }

    /// The address that the world sees, asked from a port that stays open, or (`go-on`) that is.
    fn seen(&mut self, what: &str, to: &str) -> String {
        let said = self.talk(what, to, &[WHO]);
        let answer = said["answers"][0].as_str().unwrap_or_else(|| panic!("{to}: {said}"));
        String::from_utf8(unhex(answer)).unwrap()
    }

    fn dropped(&self, cause: &str) -> f64 {
        self.gateway.count(&format!("schengate_udp_dropped_total{{cause=\"{cause}\"}}"))
    }
}

#[test]
fn l08_all_destinations_of_a_client_port_see_one_outer_port() {
    let Some(lab) = lab("l08") else { return };
    let mut scene = Scene::start(&lab, "", REFUSED_BUT_ONE);
    for (family, own) in ["198.51.100.1:", "[2001:db8:2::1]:"].into_iter().enumerate() {
        let to = |ip: [&str; 2], port| at(ip[family], port);
        let first = scene.seen("open", &to(PERMITTED, 9000));
        assert!(first.starts_with(own), "{first}");
        for other in [to(REFUSED, 9000), to(PERMITTED, 443), to(PERMITTED, 9000)] {
            assert_eq!(scene.seen("go-on", &other), first, "{other}");
        }
        // Each destination has its own verdict all the same.
        let before = scene.world.arrived(REFUSED[family]);
        scene.talk("go-on", &to(REFUSED, 443), &[WHO]);
        assert_eq!(scene.world.arrived(REFUSED[family]), before);
        assert_ne!(scene.seen("talk", &to(PERMITTED, 9000)), first, "another client port");
    }
}

#[test]
fn l08_the_source_is_kept_where_the_listener_keeps_it() {
    let Some(lab) = lab("l08 source") else { return };
    let mut scene = Scene::start(&lab, "keep_source = true", REFUSED_BUT_ONE);
    for (family, own) in ["192.0.2.2:", "[2001:db8:1::2]:"].into_iter().enumerate() {
        let first = scene.seen("open", &at(PERMITTED[family], 9000));
        assert!(first.starts_with(own), "{first}");
        assert_eq!(scene.seen("go-on", &at(REFUSED[family], 9000)), first);
    }
}

#[test]
fn l08_an_answer_of_another_is_not_passed_on() {
    let Some(lab) = lab("l08 filter") else { return };
    let mut scene = Scene::start(&lab, "", "");
    for family in [0, 1] {
        let outer = scene.seen("open", &at(PERMITTED[family], 9000));
        let port = outer.rsplit_once(':').unwrap().1;
        // From another address, and from another port of the same.
        for (from, number) in [(REFUSED[family], 9990), (PERMITTED[family], 9999)] {
            let to = outer.trim_end_matches(port).trim_end_matches(':');
            let to = to.trim_matches(['[', ']']);
            let send = format!(
                "python3 -c 'import socket as s
f = s.AF_INET6 if \":\" in \"{from}\" else s.AF_INET
u = s.socket(f, s.SOCK_DGRAM)
u.bind((\"{from}\", {number}))
u.sendto(b\"a stranger\", (\"{to}\", {port}))'"
            );
            scene.lab.world.shell(&send).unwrap();
        }
        let said = scene.talk("go-on", &at(PERMITTED[family], 9000), &[b"one"]);
        assert_eq!(said["answers"], json!([hex(b"one")]), "and nothing else: {said}");
    }
}

#[test]
fn l08_a_closed_port_and_a_missing_route_are_told_to_the_client() {
    let Some(lab) = lab("l08 icmp") else { return };
    let mut scene = Scene::start(&lab, "", "");
    for ip in PERMITTED {
        let said = scene.talk("talk", &at(ip, 21_999), &[b"q", b"q"]);
        assert_eq!(said["end"], "refused", "{ip}");
    }
    scene.lab.gateway.shell("ip route del default; ip -6 route del default").unwrap();
    // By the gateway's own socket, or by its rules, which look for a route first.
    let rules = "table inet heard { chain input { type filter hook input priority 0
        icmp type destination-unreachable icmp code { net-unreachable, admin-prohibited } counter
        icmpv6 type destination-unreachable icmpv6 code { no-route, admin-prohibited } counter
        }\n}\n";
    let rules = lab.write("heard.nft", rules);
    lab.client.shell(&format!("nft -f {}", rules.display())).unwrap();
    for (nth, ip) in UNUSED.into_iter().enumerate() {
        scene.talk("talk", &at(ip, 9000), &[b"q"]);
        let heard = lab.client.shell("nft list table inet heard").unwrap();
        assert_eq!(heard.matches("packets 1 ").count(), nth + 1, "{ip}: {heard}");
    }
}

#[test]
fn l08_a_datagram_that_came_whole_leaves_whole_or_its_sender_is_told() {
    let Some(lab) = lab("l08 mtu") else { return };
    let mut scene = Scene::start(&lab, "", "");
    scene.lab.gateway.shell("ip link set wan0 mtu 1400").unwrap();
    scene.lab.world.shell("ip link set eth0 mtu 1400").unwrap();
    for ip in PERMITTED {
        let to = at(ip, 9000);
        let said = scene.talk("talk", &to, &[&[7; 1300]]);
        assert_eq!(said["answers"], json!([hex(&[7; 1300])]), "{ip}: {said}");
        let before = (scene.world.arrived(ip), scene.dropped("too-big"));
        // The client's kernel learns it, and cuts what its sockets allow to be cut.
        let said = scene.talk("talk", &to, &[&[8; 1420]]);
        assert_eq!(said["answers"], json!([]), "{ip}: {said}");
        assert_eq!((scene.world.arrived(ip), scene.dropped("too-big")), (before.0, before.1 + 1.0));
        // In fragments it came, in fragments it leaves.
        let said = scene.talk("talk", &to, &[&[9; 3000]]);
        assert_eq!(said["answers"], json!([hex(&[9; 3000])]), "{ip}: {said}");
    }
}

/// A route that leads back: over the far side, or over the clients'.
#[test]
fn w05_a_datagram_that_comes_back_is_no_new_flow() {
    for (keep, side) in [(false, "world"), (false, "client"), (true, "client")] {
        let what = format!("w05 {side} {keep}");
        let Some(lab) = lab(&what) else { return };
        let listen = if keep { "keep_source = true" } else { "" };
        let mut scene = Scene::start(&lab, listen, "");
        let [u4, u6] = UNUSED;
        // Hosts that believe what they are told, so that nothing but the gateway ends it.
        let believe = "sysctl -qw net.ipv4.conf.all.accept_local=1 net.ipv4.conf.all.rp_filter=0
            for c in /proc/sys/net/ipv4/conf/*; do echo 0 > $c/rp_filter; done
            sysctl -qw net.ipv4.conf.all.send_redirects=0";
        let (back, v4, v6) = match side {
            "world" => (&scene.lab.world, "198.51.100.1", "2001:db8:2::1"),
            _ => (&scene.lab.client, "192.0.2.1", "2001:db8:1::1"),
        };
        scene.lab.gateway.shell(believe).unwrap();
        back.shell(&format!(
            "{believe}
            sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
            ip route replace {u4}/32 via {v4}; ip -6 route replace {u6}/128 via {v6}
            ip route replace default via {v4}; ip -6 route replace default via {v6}"
        ))
        .unwrap();
        if side == "client" {
            let routes = format!(
                "ip route add {u4}/32 via 192.0.2.2; ip -6 route add {u6}/128 via 2001:db8:1::2"
            );
            scene.lab.gateway.shell(&routes).unwrap();
        }
        for ip in UNUSED {
            let before = scene.gateway.count("schengate_connections_total");
            scene.client.ask(&json!({"do": "udp", "to": at(ip, 5000), "hex": hex(b"x"),
                "patience_ms": 700}));
            let begun = scene.gateway.count("schengate_connections_total") - before;
            assert!((1.0..=2.0).contains(&begun), "{what} {ip}: one datagram began {begun} flows");
        }
    }
}

#[test]
fn l10_a_client_goes_on_in_version_2_as_its_server_chose() {
    let Some(lab) = lab("l10") else { return };
    let rule = "on = { unread = \"block\" }
[[rule]]
name = \"one name\"
host = [\"allowed.example\"]
action = \"allow\"
reason = \"the name decides in this test\"
";
    let mut scene = Scene::start(&lab, "", rule);
    let id = b"\x83\x94\xc8\xf0\x3e\x51\x57\x08";
    let first = flights::quic_hello("allowed.example", &[b"h3".to_vec()]);
    let initial = flights::initial(Version::V1, id, 0, &flights::crypto_frame(0, &first));
    let on = |number, frames: &[u8]| {
        flights::initial_to(Version::V2, id, b"of the server", number, frames)
    };
    let other = flights::quic_hello("other.example", &[b"h3".to_vec()]);
    for ip in REFUSED {
        let to = at(ip, 443);
        let sent = [&initial[..], &on(1, &[1]), &on(2, &[1])];
        let said = scene.talk("talk", &to, &sent);
        assert_eq!(said["answers"], json!(sent.map(hex)), "{ip}: no datagram is lost");
        let before = scene.world.arrived(ip);
        let more = on(1, &flights::crypto_frame(first.len(), &other));
        scene.talk("talk", &to, &[&initial, &more]);
        assert_eq!(scene.world.arrived(ip).0, before.0 + initial.len() as u64, "another name");
    }
    assert_eq!(scene.dropped("unread"), 0.0);
}

#[test]
fn w08_a_hello_that_stops_half_way_does_not_pass_a_block_rule_by_name() {
    let Some(lab) = lab("w08") else { return };
    let rule = "on = { unread = \"judge\" }
[[rule]]
name = \"not this one\"
host = [\"other.example\"]
action = \"block\"
";
    let mut scene = Scene::start(&lab, "", rule);
    let hello = flights::quic_hello("other.example", &[b"h3".to_vec()]);
    let half = hello.len() / 2;
    let initial = |n: usize, part: &[u8]| {
        let frame = flights::crypto_frame(n * half, part);
        flights::initial(Version::V1, b"\x83\x94\xc8\xf0\x3e", u32::try_from(n).unwrap(), &frame)
    };
    let quic = vec![initial(0, &hello[..half]), initial(1, &hello[half..])];
    let dtls = flights::dtls_fragments("other.example", 2);
    let mut refused = 0.0;
    for ip in PERMITTED {
        for (port, parts) in [(443, &quic), (9000, &dtls)] {
            let before = scene.world.arrived(ip);
            // The second comes when the time for the first bytes is over.
            let datagrams: Vec<String> = parts.iter().map(|part| hex(part)).collect();
            scene.client.ask(&json!({"do": "talk", "to": at(ip, port), "datagrams": datagrams,
                "patience_ms": 700, "pause_ms": 900}));
            assert_eq!(scene.world.arrived(ip), before, "{ip} {port}");
            refused += 1.0;
            assert!(scene.gateway.count("reason=\"malformed\"") >= refused, "{ip} {port}");
        }
        // A server looks at the first byte of the version alone.
        let mut strange = flights::dtls_fragments("other.example", 1).remove(0);
        strange[2] = 0x42;
        let before = scene.world.arrived(ip);
        scene.talk("talk", &at(ip, 9000), &[&strange]);
        assert_eq!(scene.world.arrived(ip), before, "{ip}: a version that is none");
        // OpenSSL reads the hello all the same: behind an empty record, a header that is none, or one of
        // another type; and on a flow that began with something else.
        let hello = flights::dtls_fragments("other.example", 1).remove(0);
        let record = |kind: u8, length: u8| [&[kind, 0xfe, 0xfd][..], &[0; 9], &[length]].concat();
        let alone = |bytes: &[u8]| [bytes, &[0; 2]].concat();
        for front in [
            record(22, 0),
            alone(b"GET / HTTP/"),
            alone(&[0xc0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]),
            alone(&[0; 24]),
            [record(20, 1), vec![1]].concat(),
            [record(23, 1), vec![1]].concat(),
        ] {
            let behind = [&front[..], &hello].concat();
            let before = scene.world.arrived(ip);
            scene.talk("talk", &at(ip, 9000), &[&behind]);
            assert_eq!(scene.world.arrived(ip), before, "{ip}: {}", front.escape_ascii());
            scene.talk("talk", &at(ip, 9000), &[b"junk", &behind]);
            let arrived = scene.world.arrived(ip).0 - before.0;
            assert_eq!(arrived, 4, "{ip}: live, {}", front.escape_ascii());
        }
        let whole = flights::dtls_fragments("allowed.example", 1).remove(0);
        let stun = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat();
        let rtp = [&[0x80, 0x60, 0, 1][..], &[9; 168]].concat();
        let rtcp = [&[0x81, 0xc8, 0, 6][..], &[9; 24]].concat();
        for passes in [whole, stun, rtp, rtcp] {
            let said = scene.talk("talk", &at(ip, 9000), &[&passes]);
            assert_eq!(said["answers"], json!([hex(&passes)]), "{ip}: {said}");
        }
    }
}

#[test]
fn h09_one_client_leaves_ports_to_the_others_and_what_is_missing_is_counted() {
    let Some(lab) = lab("h09") else { return };
    lab.gateway.shell("sysctl -qw net.ipv4.ip_local_port_range='40000 40255'").unwrap();
    let mut scene = Scene::start(&lab, "", "");
    let to = at(PERMITTED[0], 9000);
    let many = json!({"do": "many", "to": to, "count": 100, "patience_ms": 20});
    assert_eq!(scene.client.ask(&many), json!(64), "a quarter of the ports");
    assert_eq!(scene.dropped("client-ports"), 36.0);
    let said = scene.talk("talk", &at(PERMITTED[1], 9000), &[b"another client"]);
    assert_eq!(said["answers"], json!([hex(b"another client")]));
}

#[test]
fn h09_forged_sources_leave_ports_to_who_answers() {
    let Some(lab) = lab("h09 forged") else { return };
    lab.gateway.shell("sysctl -qw net.ipv4.ip_local_port_range='40000 40255'").unwrap();
    lab.gateway.shell(lab::BEHIND_THE_CLIENT).unwrap();
    let mut scene = Scene::start(&lab, "", "");
    let to = at(PERMITTED[0], 9000);
    let flood = json!({"do": "flood", "to": to, "hex": hex(b"x"), "count": 2_000});
    scene.client.ask(&flood);
    // Behind what is left of the flood, one may be lost, as on any full link.
    let said = scene.talk("talk", &to, &[&b"a client that is there"[..]; 5]);
    assert_ne!(said["answers"], json!([]), "{said}");
}

#[test]
fn h09_a_flow_that_finds_no_port_is_counted() {
    let Some(lab) = lab("h09 none") else { return };
    lab.gateway.shell("sysctl -qw net.ipv4.ip_local_port_range='40000 40003'").unwrap();
    let mut scene = Scene::start(&lab, "", "");
    // Whoever asks for the metrics needs a port as well.
    let reserve = |ports: &str| {
        let set = format!("sysctl -qw net.ipv4.ip_local_reserved_ports={ports}");
        lab.gateway.shell(&set).unwrap();
    };
    for (nth, ip) in PERMITTED.into_iter().enumerate() {
        lab::wait_until("it is counted", || {
            reserve("40000-40003");
            let said = scene.talk("talk", &at(ip, 9000), &[b"x"]);
            reserve("''");
            assert_eq!(said["answers"], json!([]), "{said}");
            (scene.dropped("no-port") >= nth as f64 + 1.0).then_some(())
        });
    }
}

#[test]
fn h09_max_connections_per_client_holds_for_flows() {
    let Some(lab) = lab("h09 flows") else { return };
    let mut scene = Scene::start(&lab, "max_connections_per_client = 5", "");
    let many = json!({"do": "many", "to": at(PERMITTED[0], 9000), "count": 20, "patience_ms": 20});
    assert_eq!(scene.client.ask(&many), json!(5));
    assert_eq!(scene.dropped("client-limit"), 15.0);
}
