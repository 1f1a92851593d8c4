//! SOCKS5 UDP ASSOCIATE (RFC 1928 §7) through the built binary: row P13 of docs/catalogue.md.

use std::net::{IpAddr, SocketAddr};

use rustls::quic::Version;
use serde_json::{Value, json};

use crate::catalogue::{Expect, PROXY, Scene, row};
use crate::flights;
use crate::lab::role::{hex, unhex};
use crate::lab::{self, PERMITTED, REFUSED, at};

/// A datagram to an address.
fn to_address(to: &str, payload: &[u8]) -> Vec<u8> {
    let to: SocketAddr = to.parse().unwrap();
    let (kind, ip) = match to.ip() {
        IpAddr::V4(v4) => (1, v4.octets().to_vec()),
        IpAddr::V6(v6) => (4, v6.octets().to_vec()),
    };
    [&[0, 0, 0, kind][..], &ip, &to.port().to_be_bytes(), payload].concat()
}

/// A datagram to a name.
fn to_name(name: &str, port: u16, payload: &[u8]) -> Vec<u8> {
    let length = [u8::try_from(name.len()).unwrap()];
    [&[0, 0, 0, 3][..], &length, name.as_bytes(), &port.to_be_bytes(), payload].concat()
}

fn initial(name: &str) -> Vec<u8> {
    let hello = flights::quic_hello(name, &[b"h3".to_vec()]);
    flights::initial(Version::V1, b"\x83\x94\xc8\xf0", 0, &flights::crypto_frame(0, &hello))
}

/// What comes back over one association that sends these datagrams.
fn talk(scene: &mut Scene, datagrams: &[Vec<u8>], more: Value) -> Value {
    let datagrams: Vec<String> = datagrams.iter().map(|datagram| hex(datagram)).collect();
    let mut ask = json!({"do": "associate", "to": PROXY, "datagrams": datagrams,
        "patience_ms": 700});
    ask.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    scene.client.ask(&ask)
}

fn answers(said: &Value) -> Vec<Vec<u8>> {
    let all = said["answers"].as_array().unwrap_or_else(|| panic!("{said}"));
    all.iter().map(|answer| unhex(answer.as_str().unwrap())).collect()
}

/// The line about a flow, of the lines of a row.
fn flow<'a>(lines: &'a [Value], destination: &str) -> &'a Value {
    let found = lines.iter().find(|line| line["destination"] == destination);
    found.unwrap_or_else(|| panic!("no line about {destination}: {lines:#?}"))
}

#[test]
fn p13_each_destination_of_an_association_is_judged_by_its_address() {
    let permitted = PERMITTED.map(|ip| at(ip, 9000));
    let refused = REFUSED.map(|ip| at(ip, 9000));
    let lines = row("p13 addresses", Expect::Forwarded(4 * 4), 5, |scene| {
        let sent: Vec<_> = [&permitted[..], &refused, &permitted]
            .concat()
            .iter()
            .map(|to| to_address(to, b"ping"))
            .collect();
        let back = answers(&talk(scene, &sent, json!({})));
        let echoes = [&sent[..2], &sent[4..]].concat();
        assert_eq!(back, echoes, "the answers come from where the datagrams went");
    });
    let Some(lines) = lines else { return };
    for to in &permitted {
        let line = flow(&lines, to);
        assert_eq!((&line["verdict"], &line["bytes_up"]), (&json!("allow"), &json!(8)), "{line}");
        assert_eq!((&line["listener"], &line["end"]), (&json!("proxy"), &json!("done")), "{line}");
    }
    for to in &refused {
        let line = flow(&lines, to);
        assert_eq!((&line["reason"], &line["bytes_up"]), (&json!("outside"), &json!(0)), "{line}");
    }
}

#[test]
fn p13_guards_and_the_gateway_itself_stay_shut_over_udp() {
    let targets = ["169.254.169.254:80", "192.0.2.1:53", "127.0.0.1:53", "224.0.0.1:5353"];
    let lines = row("p13 guards", Expect::Blocked, targets.len() + 1, |scene| {
        let sent: Vec<_> = targets.iter().map(|to| to_address(to, b"ping")).collect();
        assert_eq!(answers(&talk(scene, &sent, json!({}))).len(), 0);
    });
    for (line, to) in lines.iter().flat_map(|lines| targets.iter().map(|to| (flow(lines, to), to)))
    {
        let reason = line["reason"].as_str().unwrap();
        assert!(["guard", "loop"].contains(&reason), "{to}: {line}");
    }
}

#[test]
fn p13_fragments_strangers_and_what_is_no_datagram_are_dropped_and_counted() {
    let to = at(PERMITTED[0], 9000);
    let lines = row("p13 dropped", Expect::Forwarded(4), 2, |scene| {
        let dropped = |scene: &Scene, cause: &str| {
            scene.metric(&format!("schengate_udp_dropped_total{{cause=\"{cause}\"}}")).unwrap()
        };
        let causes = ["fragment", "malformed", "stranger"];
        let before = causes.map(|cause| dropped(scene, cause));
        let whole = to_address(&to, b"ping");
        let mut fragment = whole.clone();
        fragment[2] = 1;
        let last = to_address(&to, b"a stranger's");
        let bad = [vec![], vec![0, 0, 0, 1, 198], to_name("127.1", 9000, b"x"), vec![9; 40]];
        let sent = [&[whole.clone(), fragment][..], &bad].concat();
        let said = talk(scene, &sent, json!({"strange": [hex(&last), hex(&last)]}));
        assert_eq!(answers(&said), [whole]);
        assert_eq!(said["strange"], json!([]));
        let after = causes.map(|cause| dropped(scene, cause));
        let counted: Vec<_> =
            after.iter().zip(before).map(|(after, before)| after - before).collect();
        assert_eq!(counted, [1, 4, 2]);
    });
    drop(lines);
}

#[test]
fn p13_a_name_is_resolved_here_and_the_hello_inside_must_be_its_own() {
    let here = initial("a.permitted.example");
    let lines = row("p13 names", Expect::Forwarded(here.len()), 2, |scene| {
        let sent = [to_name("a.permitted.example", 443, &here)];
        let back = answers(&talk(scene, &sent, json!({})));
        assert_eq!(back, [to_address(&at(REFUSED[0], 443), &here)]);
    });
    let Some(lines) = lines else { return };
    let line = flow(&lines, &at(REFUSED[0], 443));
    let told = (&line["host"], &line["name_source"], &line["name_bound"], &line["rule"]);
    let wanted = (&json!("a.permitted.example"), &json!("connect"), &json!(true), &json!("names"));
    assert_eq!(told, wanted, "{line}");
    let lines = row("p13 other name", Expect::Blocked, 2, |scene| {
        let sent = [to_name("a.permitted.example", 443, &initial("allowed.example"))];
        let back = answers(&talk(scene, &sent, json!({})));
        assert_eq!(back.len(), 1, "a CONNECTION_CLOSE");
        assert!(back[0].starts_with(&to_name("a.permitted.example", 443, b"")));
        assert!(back[0].len() < 200, "no echo");
    });
    let lines = lines.unwrap_or_default();
    let line = flow(&lines, &at(REFUSED[0], 443));
    assert_eq!(line["reason"], "mismatch", "{line}");
    assert_eq!(line["sni_inside"], "allowed.example", "{line}");
    // Nobody can tell whom a datagram names that cannot be opened.
    let mut sealed = initial("a.permitted.example");
    let last = sealed.len() - 1;
    sealed[last] ^= 1;
    let lines = row("p13 sealed", Expect::Blocked, 2, |scene| {
        let sent = [to_name("a.permitted.example", 443, &sealed)];
        talk(scene, &sent, json!({}));
    });
    let lines = lines.unwrap_or_default();
    assert_eq!(flow(&lines, &at(REFUSED[0], 443))["reason"], "mismatch");
}

#[test]
fn p13_an_address_is_opened_by_the_name_in_the_hello_as_on_a_transparent_listener() {
    let allowed = initial("allowed.example");
    let to = at(REFUSED[0], 443);
    row("p13 by hello", Expect::Forwarded(allowed.len()), 2, |scene| {
        let back = answers(&talk(scene, &[to_address(&to, &allowed)], json!({})));
        assert_eq!(back, [to_address(&to, &allowed)]);
    });
    row("p13 by hello, refused", Expect::Blocked, 2, |scene| {
        talk(scene, &[to_address(&to, &initial("other.example"))], json!({}));
    });
}

#[test]
fn l09_an_association_over_a_link_local_address_and_addresses_as_names() {
    let Some(lab) = lab::lab("l09") else { return };
    let policy = format!(
        "schema = 1\n[policy]\nmode = \"enforce\"\npermit = [\"FR\"]\n{}[[listen]]\nmode = \"proxy\"\n\
         address = \"[::]:3128\"\n[admin]\naddress = \"{}\"\n",
        lab::places(),
        lab::ADMIN,
    );
    let _world = lab.world.helper("world");
    let _gateway = lab.start_gateway(&policy);
    let mut client = lab.client.helper("client");
    // Before the kernel has looked for doubles of its own address, a client comes from another one.
    let settled = |space: &lab::Space, link: &str| {
        let show = format!(
            "ip -6 -o address show dev {link} scope link -tentative | sed 's/.*inet6 //; s,/.*,,'"
        );
        lab::wait_until("a link-local address", || {
            Some(space.shell(&show).unwrap().trim().to_owned()).filter(|ip| !ip.is_empty())
        })
    };
    let link_local = settled(&lab.gateway, "lan0");
    settled(&lab.client, "eth0");
    let zone = lab.client.shell("ip -o link show eth0 | cut -d: -f1");
    let zone = zone.unwrap();
    let proxies = [
        format!("[{link_local}%{}]:3128", zone.trim()),
        PROXY.to_owned(),
        at(lab::GATEWAY[1], 3128),
    ];
    for proxy in proxies {
        for ip in PERMITTED {
            let sent = to_name(ip, 9000, b"ping");
            let back = lab::wait_until("the way over the link is there", || {
                let said = client.ask(&json!({"do": "associate", "to": proxy,
                    "datagrams": [hex(&sent)], "patience_ms": 700}));
                said["answers"].is_array().then(|| answers(&said))
            });
            assert_eq!(back, [to_address(&at(ip, 9000), b"ping")], "{proxy} {ip}");
        }
    }
}

#[test]
fn p13_no_query_leaves_for_a_name_that_a_rule_refuses() {
    let lines = row("p13 no query", Expect::Blocked, 2, |scene| {
        let before = scene.asked().len();
        talk(scene, &[to_name("x.foreign.example", 443, b"ping")], json!({}));
        assert_eq!(scene.asked().len(), before);
    });
    let lines = lines.unwrap_or_default();
    assert_eq!(flow(&lines, "[::]:443")["rule"], "foreign");
}
