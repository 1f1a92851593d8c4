//! UDP and QUIC through the built binary, with the firewall rules it sets itself; each test by its
//! number in docs/catalogue.md.

use std::io::Write;

use rustls::quic::Version;
use serde_json::{Value, json};

use crate::flights::{self, dtls_hello};
use crate::lab::role::{self, hex};
use crate::lab::{self, Gateway, Helper, Lab, PERMITTED, REFUSED, at, lab};

/// A rule that opens [`REFUSED`] for one name, and only where that name can be read.
const NAME_RULE: &str = "[policy.on]
unread = \"block\"

[[rule]]
name = \"one name\"
host = [\"allowed.example\"]
action = \"allow\"
reason = \"the name decides in this test\"
";

const DCID: &[u8] = b"\x83\x94\xc8\xf0\x3e\x51\x57\x08";

/// Both families.
const FAMILIES: [usize; 2] = [0, 1];

/// [`PERMITTED`] is in France; [`REFUSED`] is in the United States.
fn policy(mode: &str, permit: &str, listen: &str, more: &str) -> String {
    let (places, admin) = (lab::places(), lab::ADMIN);
    format!(
        "schema = 1
[policy]
mode = \"{mode}\"
permit = [\"{permit}\"]

[names]
binding = \"trust\"

{places}[[listen]]
mode = \"tproxy\"
address = \"[::]:15001\"
peek_timeout = \"500ms\"
{listen}

[admin]
address = \"{admin}\"

{more}"
    )
}

struct Scene<'lab> {
    lab: &'lab Lab,
    gateway: Gateway<'lab>,
    world: Helper,
    client: Helper,
    /// How long the client waits for an answer before it sends its next datagram.
    pause_ms: u64,
}

impl<'lab> Scene<'lab> {
    /// France is permitted.
    fn start(lab: &'lab Lab, mode: &str, listen: &str, more: &str) -> Self {
        let policy = policy(mode, "FR", listen, more);
        let world = lab.world.helper("world");
        let gateway = lab.start_gateway(&policy);
        gateway.capture();
        Self { lab, gateway, world, client: lab.client.helper("client"), pause_ms: 150 }
    }

    /// Sends datagrams from one port and says what came back: answers in order, and the end.
    fn talk(&mut self, to: &str, datagrams: &[Vec<u8>], patience_ms: u64) -> (Vec<String>, String) {
        let hex: Vec<String> = datagrams.iter().map(|datagram| hex(datagram)).collect();
        let ask = json!({"do": "talk", "to": to, "datagrams": hex, "patience_ms": patience_ms,
            "pause_ms": self.pause_ms});
        let said = self.client.ask(&ask);
        let answers = said["answers"].as_array().expect("answers");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        (answers.iter().map(text).collect(), text(&said["end"]))
    }

    /// Every datagram comes back from the world as it was sent, in order, and nothing else does.
    fn passes(&mut self, ip: &str, port: u16, datagrams: &[Vec<u8>], what: &str) {
        let before = self.world.arrived(ip).0;
        let (answers, end) = self.talk(&at(ip, port), datagrams, 10_000);
        let sent: Vec<String> = datagrams.iter().map(|datagram| hex(datagram)).collect();
        assert_eq!(answers, sent, "{what} to {ip}: {end}");
        let bytes: usize = datagrams.iter().map(Vec::len).sum();
        assert_eq!(self.world.arrived(ip).0, before + bytes as u64, "{what}");
    }

    /// No byte arrives in the world.
    fn is_held_back(&mut self, ip: &str, port: u16, datagrams: &[Vec<u8>], what: &str) -> String {
        let before = self.world.arrived(ip);
        let (answers, end) = self.talk(&at(ip, port), datagrams, 10_000);
        assert_eq!(self.world.arrived(ip), before, "{what} to {ip}: {end}");
        let close = answers.first().cloned().unwrap_or_default();
        assert!(datagrams.iter().all(|datagram| hex(datagram) != close), "{what}: an echo");
        if close.is_empty() { end } else { close }
    }
}

/// A hello in as many Initials.
fn initials(version: Version, dcid: &[u8], name: &str, count: usize) -> Vec<Vec<u8>> {
    let hello = flights::quic_hello(name, &[b"h3".to_vec()]);
    let step = hello.len().div_ceil(count);
    let parts = hello.chunks(step).enumerate();
    parts
        .map(|(n, part)| {
            let frame = flights::crypto_frame(n * step, part);
            flights::initial(version, dcid, u32::try_from(n).unwrap(), &frame)
        })
        .collect()
}

fn hello(name: &str) -> Vec<u8> {
    initials(Version::V1, DCID, name, 1).remove(0)
}

/// Whether this is the CONNECTION_CLOSE that the gateway sends (its contents are tested beside it).
fn is_close(answer: &str) -> bool {
    answer.len() < 200 && (answer.starts_with("c") || answer.starts_with("d"))
}

/// What the client's kernel makes of ICMP "administratively prohibited".
fn is_prohibited(end: &str) -> bool {
    end.contains("os error 113") || end.contains("os error 13") || end == "refused"
}

#[test]
fn q01_an_initial_of_either_version_is_judged_by_its_name() {
    let Some(lab) = lab("q01") else { return };
    let mut scene = Scene::start(&lab, "enforce", "", NAME_RULE);
    for ip in REFUSED {
        for version in [Version::V1, Version::V2] {
            let refused = initials(version, DCID, "other.example", 1);
            let answer = scene.is_held_back(ip, 443, &refused, "another name");
            assert!(is_close(&answer), "{ip}: {answer}");
            let allowed = initials(version, DCID, "allowed.example", 1);
            let whole = [allowed, vec![b"\x40 short header".to_vec(), vec![0x41; 1350]]].concat();
            scene.passes(ip, 443, &whole, "the allowed name");
        }
    }
    assert!(scene.gateway.count("verdict=\"block\"") >= 4.0);
}

#[test]
fn q02_a_hello_over_many_initials_in_any_order_is_judged_by_its_name() {
    let Some(lab) = lab("q02") else { return };
    let mut scene = Scene::start(&lab, "enforce", "", NAME_RULE);
    scene.pause_ms = 1;
    for family in FAMILIES {
        for count in [2, 3, 8] {
            let mut allowed = initials(Version::V1, DCID, "allowed.example", count);
            allowed.reverse();
            scene.passes(REFUSED[family], 443, &allowed, "backwards");
            let mut other = initials(Version::V1, DCID, "other.example", count);
            other.rotate_left(1);
            let answer = scene.is_held_back(REFUSED[family], 443, &other, "another name, turned");
            assert!(is_close(&answer), "{answer}");
            // A part that never comes: held until the deadline, then refused.
            let part = &initials(Version::V1, DCID, "allowed.example", count)[..count - 1];
            scene.is_held_back(REFUSED[family], 443, part, "part of a hello");
        }
    }
}

#[test]
fn q03_fragments_that_contradict_each_other_are_refused() {
    let Some(lab) = lab("q03") else { return };
    let mut scene = Scene::start(&lab, "enforce", "", NAME_RULE);
    let allowed = flights::quic_hello("allowed.example", &[]);
    let other = flights::quic_hello("other.example", &[]);
    let half = allowed.len() / 2;
    let pieces = [
        flights::crypto_frame(half, &other[half..]),
        flights::crypto_frame(0, &other[..half + 8]),
        flights::crypto_frame(0, &allowed),
    ];
    let datagrams: Vec<_> = (0..)
        .zip(&pieces)
        .map(|(n, frame)| flights::initial(Version::V1, DCID, n, frame))
        .collect();
    for ip in REFUSED {
        scene.is_held_back(ip, 443, &datagrams, "an overlap");
    }
}

#[test]
fn q04_junk_first_is_dropped_and_a_later_initial_still_judged() {
    let Some(lab) = lab("q04") else { return };
    let mut scene = Scene::start(&lab, "enforce", "", NAME_RULE);
    for ip in REFUSED {
        for junk in [vec![0x42], vec![0x40; 1200], b"\0junk".to_vec()] {
            let before = scene.world.arrived(ip).0;
            let initial = hello("allowed.example");
            let (answers, end) = scene.talk(&at(ip, 443), &[junk.clone(), initial.clone()], 1500);
            assert_eq!(answers, [hex(&initial)], "{end}");
            assert_eq!(scene.world.arrived(ip).0, before + initial.len() as u64);
            scene.is_held_back(ip, 443, &[junk, hello("other.example")], "junk, another name");
        }
    }
}

#[test]
fn q05_an_unknown_version_and_version_negotiation_are_not_forwarded() {
    let Some(lab) = lab("q05") else { return };
    let mut scene = Scene::start(&lab, "enforce", "", NAME_RULE);
    for ip in REFUSED {
        for version in [[0x1a, 0x2a, 0x3a, 0x4a], [0; 4], [0xba, 0xad, 0xf0, 0x0d]] {
            let mut initial = hello("allowed.example");
            initial[1..5].copy_from_slice(&version);
            let end = scene.is_held_back(ip, 443, &[initial], "another version");
            assert!(is_prohibited(&end), "{version:x?}: {end}");
        }
    }
    assert!(scene.gateway.count("reason=\"unread\"") >= 6.0);
}

#[test]
fn q06_a_second_hello_with_another_name_does_not_ride_on_the_first() {
    let Some(lab) = lab("q06") else { return };
    let mut scene = Scene::start(&lab, "enforce", "", NAME_RULE);
    for ip in REFUSED {
        let before = scene.world.arrived(ip).0;
        let first = hello("allowed.example");
        // After a Retry the keys are others; the same name passes.
        let retried =
            initials(Version::V1, b"\x01\x02\x03\x04\x05\x06\x07\x08", "allowed.example", 2);
        let passing = [&[first.clone()][..], &retried].concat();
        scene.passes(ip, 443, &passing, "a retry");
        let sent: usize = passing.iter().map(Vec::len).sum();
        let other = initials(Version::V1, b"\x08\x07\x06\x05\x04\x03\x02\x01", "other.example", 1);
        let (answers, end) =
            scene.talk(&at(ip, 443), &[&[first.clone()][..], &other].concat(), 1500);
        assert_eq!(answers[0], hex(&first), "{end}");
        assert!(answers.get(1).is_some_and(|answer| is_close(answer)), "{answers:?} {end}");
        assert_eq!(scene.world.arrived(ip).0, before + (sent + first.len()) as u64);
    }
}

#[test]
fn q07_early_data_beside_the_hello_waits_for_the_verdict() {
    let Some(lab) = lab("q07") else { return };
    let mut scene = Scene::start(&lab, "enforce", "", NAME_RULE);
    // A 0-RTT packet: long header of type 1, ids, length, bytes that nobody here can read.
    let mut early = vec![0xd3, 0, 0, 0, 1, 8];
    early.extend(DCID);
    early.extend([0, 0x44, 0x00]);
    early.resize(early.len() + 1024, 0x5a);
    for ip in REFUSED {
        for (name, passes) in [("allowed.example", true), ("other.example", false)] {
            let initial = hello(name);
            let coalesced = [&initial[..], &early].concat();
            for flight in [vec![coalesced], vec![early.clone(), initial.clone()]] {
                if passes {
                    scene.passes(ip, 443, &flight, name);
                } else {
                    scene.is_held_back(ip, 443, &flight, name);
                }
            }
        }
        scene.is_held_back(ip, 443, &[early.clone()], "early data alone");
    }
}

#[test]
fn q08_a_short_header_from_a_new_port_is_refused_where_a_name_is_needed() {
    let Some(lab) = lab("q08") else { return };
    let mut scene = Scene::start(&lab, "enforce", "", NAME_RULE);
    for ip in REFUSED {
        scene.passes(ip, 443, &[hello("allowed.example"), vec![0x45; 60]], "a connection");
        let end = scene.is_held_back(ip, 443, &[vec![0x45; 60]], "the same, from a new port");
        assert!(is_prohibited(&end), "{end}");
    }
}

#[test]
fn q09_a_connection_that_moves_to_another_address_is_judged_anew_there() {
    let Some(lab) = lab("q09") else { return };
    let mut scene = Scene::start(&lab, "enforce", "", "");
    for family in FAMILIES {
        let hello = hello("allowed.example");
        let open = json!({"do": "open", "to": at(PERMITTED[family], 443),
            "datagrams": [hex(&hello), hex(&[0x41; 80])]});
        assert_eq!(scene.client.ask(&open)["answers"], open["datagrams"]);
        // From the same port, with the same connection ids: what a client sends to the preferred
        // address of its server (RFC 9000 §9.6).
        let before = scene.world.arrived(REFUSED[family]);
        let on = json!({"do": "go-on", "to": at(REFUSED[family], 443),
            "datagrams": [hex(&[0x41; 80]), hex(&hello)], "patience_ms": 2_000});
        let said = scene.client.ask(&on);
        assert_eq!(scene.world.arrived(REFUSED[family]), before, "bytes and connections: {said}");
        let back = json!({"do": "go-on", "to": at(PERMITTED[family], 443),
            "datagrams": [hex(&[0x42; 80])]});
        assert_eq!(scene.client.ask(&back)["answers"], back["datagrams"], "the old path goes on");
    }
    assert!(scene.gateway.count("reason=\"outside\"") >= 2.0);
}

#[test]
fn q10_what_is_cut_short_or_sealed_wrong_is_refused() {
    let Some(lab) = lab("q10") else { return };
    let mut scene = Scene::start(&lab, "enforce", "", NAME_RULE);
    let whole = hello("allowed.example");
    let mut wrong_seal = whole.clone();
    let last = wrong_seal.len() - 1;
    wrong_seal[last] ^= 1;
    let mut long_id = whole.clone();
    long_id[5] = 21;
    for ip in REFUSED {
        for (what, datagram) in [
            ("a wrong seal", wrong_seal.clone()),
            ("a long id", long_id.clone()),
            ("600 bytes of it", whole[..600].to_vec()),
            ("a header", whole[..7].to_vec()),
        ] {
            scene.is_held_back(ip, 443, &[datagram], what);
        }
    }
}

#[test]
fn q11_an_initial_in_ip_fragments_is_read_whole() {
    let Some(lab) = lab("q11") else { return };
    let mut scene = Scene::start(&lab, "enforce", "", NAME_RULE);
    let frames =
        [flights::crypto_frame(0, &flights::quic_hello("allowed.example", &[])), vec![0; 2600]];
    let long = flights::initial(Version::V1, DCID, 0, &frames.concat());
    assert!(long.len() > 2600);
    for ip in REFUSED {
        scene.passes(ip, 443, std::slice::from_ref(&long), "two fragments");
    }
}

#[test]
fn q12_other_udp_is_judged_by_its_address() {
    let Some(lab) = lab("q12") else { return };
    let mut scene = Scene::start(&lab, "enforce", "", "");
    // WireGuard's handshake initiation: type 1, 148 bytes.
    let mut wireguard = vec![1, 0, 0, 0];
    wireguard.resize(148, 7);
    // A DTLS record of a later epoch, and a plain datagram.
    let dtls = vec![23, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 5, 0, 2, 9, 9];
    for family in FAMILIES {
        for datagram in [&wireguard, &dtls, &b"ping".to_vec()] {
            for port in role::UDP {
                let two = [datagram.clone(), datagram.clone()];
                scene.passes(PERMITTED[family], port, &two, "permitted");
                let end = scene.is_held_back(REFUSED[family], port, &two, "refused");
                assert!(is_prohibited(&end), "{end}");
            }
        }
    }
    assert!(scene.gateway.count("reason=\"outside\"") >= 12.0);
}

#[test]
fn q12_other_udp_is_refused_where_a_name_is_needed_and_dtls_is_judged_by_its_own() {
    let Some(lab) = lab("q12 names") else { return };
    let mut scene = Scene::start(&lab, "enforce", "", NAME_RULE);
    for ip in REFUSED {
        let end = scene.is_held_back(ip, 9000, &[b"ping".to_vec()], "no name");
        assert!(is_prohibited(&end), "{end}");
        scene.passes(ip, 9000, &[dtls_hello("allowed.example")], "DTLS");
        scene.is_held_back(ip, 9000, &[dtls_hello("other.example")], "DTLS, another name");
    }
}

#[test]
fn q13_a_flood_of_forged_initials_is_bounded_and_live_flows_do_not_notice() {
    let Some(lab) = lab("q13") else { return };
    let mut scene = Scene::start(&lab, "enforce", "", "");
    let to = at(PERMITTED[0], 9000);
    let live = json!({"do": "open", "to": to, "datagrams": [hex(b"one"), hex(b"two")]});
    assert_eq!(scene.client.ask(&live)["answers"], json!([hex(b"one"), hex(b"two")]));
    let before = scene.gateway.memory_kib();
    // No such client is there. The gateway has to believe it.
    scene.lab.gateway.shell(lab::BEHIND_THE_CLIENT).unwrap();
    let initial = hex(&hello("other.example"));
    for (to, count) in [(at(REFUSED[0], 443), 50_000), (at(PERMITTED[0], 443), 50_000)] {
        let flood = json!({"do": "flood", "to": to, "hex": initial, "count": count});
        assert_eq!(scene.client.ask(&flood)["sent"], count);
    }
    let after = scene.gateway.memory_kib();
    let on = json!({"do": "go-on", "to": to, "datagrams": [hex(b"three")]});
    assert_eq!(scene.client.ask(&on)["answers"], json!([hex(b"three")]), "the live flow goes on");
    assert_eq!(scene.world.arrived(REFUSED[0]).0, 0);
    // Behind what is left of the flood, a datagram may be lost, as on any full link.
    lab::wait_until("a new flow passes", || {
        let new = [b"a new flow".to_vec()];
        let (answers, _) = scene.talk(&at(PERMITTED[0], 9000), &new, 500);
        (answers == [hex(b"a new flow")]).then_some(())
    });
    let grown = after.saturating_sub(before);
    writeln!(std::io::stderr(), "q13: {before} KiB before, {after} KiB after").unwrap();
    assert!(grown < 128 * 1024, "{grown} KiB more after the flood");
}

#[test]
fn q14_refused_quic_is_told_at_once_and_observe_refuses_nothing() {
    let Some(lab) = lab("q14") else { return };
    let mut scene = Scene::start(&lab, "enforce", "", "");
    for ip in REFUSED {
        let answer = scene.is_held_back(ip, 443, &[hello("allowed.example")], "by address");
        assert!(is_close(&answer), "{ip}: {answer}");
    }
    drop(scene);
    let mut scene = Scene::start(&lab, "observe", "", "");
    for ip in REFUSED {
        scene.passes(ip, 443, &[hello("other.example"), b"more".to_vec()], "observed");
    }
    assert!(scene.gateway.count("reason=\"outside\"") >= 2.0);
}

#[test]
fn q14_a_refused_hello_over_two_initials_is_one_record() {
    let Some(lab) = lab("q14 in two") else { return };
    let mut scene = Scene::start(&lab, "enforce", "", "");
    scene.pause_ms = 50;
    for (nth, ip) in REFUSED.into_iter().enumerate() {
        let parts = initials(Version::V1, DCID, "other.example", 2);
        // As a client repeats it.
        let sent = [parts.clone(), parts].concat();
        let answer = scene.is_held_back(ip, 443, &sent, "by address");
        assert!(is_close(&answer), "{ip}: {answer}");
        assert_eq!(scene.gateway.count("reason=\"outside\""), nth as f64 + 1.0);
    }
}

#[test]
fn a_datagram_to_the_gateway_itself_is_refused_once() {
    let Some(lab) = lab("udp loop") else { return };
    // In observe, too: it is a guard.
    let mut scene = Scene::start(&lab, "observe", "", "");
    for (nth, ip) in lab::GATEWAY.into_iter().enumerate() {
        let sent = [hello("allowed.example"), hello("other.example"), dtls_hello("a.example")];
        let (answers, end) = scene.talk(&at(ip, 15_001), &sent, 3000);
        assert!(answers.iter().all(|answer| is_close(answer)), "{answers:?} {end}");
        assert_eq!(scene.gateway.count("reason=\"loop\""), 2.0 * nth as f64 + 1.0);
        // Of no name at first: what comes after it changes nothing either.
        scene.talk(&at(ip, 15_001), &[b"junk".to_vec(), hello("allowed.example")], 3000);
        assert_eq!(scene.gateway.count("reason=\"loop\""), 2.0 * nth as f64 + 2.0);
    }
    scene.passes(PERMITTED[0], 443, &[hello("allowed.example")], "the worker goes on");
}

#[test]
fn a_later_rule_by_name_is_heard_on_a_flow_that_was_permitted_unread() {
    let Some(lab) = lab("rejudge unread") else { return };
    let mut scene = Scene::start(&lab, "enforce", "", "");
    let ip = PERMITTED[0];
    let to = at(ip, 443);
    let live = json!({"do": "open", "to": to, "datagrams": [hex(b"one"), hex(b"two")]});
    assert_eq!(scene.client.ask(&live)["answers"], json!([hex(b"one"), hex(b"two")]));
    let rule =
        "[[rule]]\nname = \"not this one\"\nhost = [\"other.example\"]\naction = \"block\"\n";
    let text = policy("enforce", "FR", "", rule);
    scene.gateway.reload(&text.replace("permit =", "on = { unread = \"judge\" }\npermit ="));
    let on = json!({"do": "go-on", "to": to, "datagrams": [hex(b"three")]});
    assert_eq!(
        scene.client.ask(&on)["answers"],
        json!([hex(b"three")]),
        "what is not a hello goes"
    );
    let before = scene.world.arrived(ip).0;
    let on = json!({"do": "go-on", "to": to, "datagrams": [hex(&hello("other.example"))]});
    scene.client.ask(&on);
    assert_eq!(scene.world.arrived(ip).0, before, "the hello of a refused name");
    assert!(scene.gateway.count("reason=\"rule\"") >= 1.0);
}

#[test]
fn q15_dns_to_a_foreign_resolver_is_a_destination_like_any_other() {
    let Some(lab) = lab("q15") else { return };
    let mut scene = Scene::start(&lab, "enforce", "", "");
    let query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01a\x07example\0\0\x01\0\x01".to_vec();
    for ip in REFUSED {
        let end = scene.is_held_back(ip, 53, std::slice::from_ref(&query), "DNS");
        assert!(is_prohibited(&end), "{end}");
    }
    let bypass = "schengate_resolver_bypass_total{verdict=\"block\"}";
    assert_eq!(scene.gateway.count(bypass), 2.0);
}

#[test]
fn without_a_capability_the_listener_answers_from_its_own_port() {
    let Some(lab) = lab("no capability") else { return };
    if !lab::has("setpriv") {
        return;
    }
    let (mut world, mut client) = (lab.world.helper("world"), lab.client.helper("client"));
    let policy = policy("enforce", "FR", "udp = \"[::]:443\"", NAME_RULE);
    let config = lab.write("sealed.toml", &policy);
    let log = lab.write("sealed.log", "");
    let mut keeper = lab.gateway.helper("sealed");
    let started = keeper.ask(&json!({"binary": env!("CARGO_BIN_EXE_schengate"),
        "config": config.to_str(), "log": log.to_str()}));
    let set = lab
        .gateway
        .command(env!("CARGO_BIN_EXE_schengate"))
        .args(["capture", "up"])
        .arg("--config")
        .arg(&config)
        .output()
        .unwrap();
    assert!(set.status.success(), "{}", lab::said(&set));
    let mut talk = |ip: &str, datagrams: &[Vec<u8>]| {
        let datagrams: Vec<String> = datagrams.iter().map(|datagram| hex(datagram)).collect();
        let ask = json!({"do": "talk", "to": at(ip, 443), "datagrams": datagrams,
            "patience_ms": 2000});
        client.ask(&ask)["answers"].clone()
    };
    let whole = [hello("allowed.example"), vec![0x41; 1200], b"\x40 short".to_vec()];
    let echoes = json!(whole.iter().map(|datagram| hex(datagram)).collect::<Vec<_>>());
    for ip in REFUSED {
        lab::wait_until("the gateway relays", || (talk(ip, &whole) == echoes).then_some(()));
        let before = world.arrived(ip);
        let close = talk(ip, &[hello("other.example")]);
        assert!(close[0].as_str().is_some_and(is_close), "{ip}: {close}");
        assert_eq!(talk(ip, &[b"junk".to_vec()]), json!([]), "silence without ICMP");
        assert_eq!(world.arrived(ip), before);
    }
    let status = std::fs::read_to_string(format!("/proc/{started}/status")).unwrap();
    let effective = status.lines().find(|line| line.starts_with("CapEff:")).unwrap();
    assert_eq!(effective.split_whitespace().nth(1), Some("0000000000000000"));
}

#[test]
fn a_later_policy_ends_a_live_flow_and_its_next_datagram_is_refused() {
    let Some(lab) = lab("rejudge") else { return };
    let mut scene = Scene::start(&lab, "enforce", "", "");
    for ip in PERMITTED {
        let to = at(ip, 9000);
        let live = json!({"do": "open", "to": to, "datagrams": [hex(b"one"), hex(b"two")]});
        assert_eq!(scene.client.ask(&live)["answers"], json!([hex(b"one"), hex(b"two")]));
        scene.gateway.reload(&policy("enforce", "US", "", ""));
        let before = scene.world.arrived(ip);
        let on = json!({"do": "go-on", "to": to, "datagrams": [hex(b"three")]});
        let said = lab::wait_until("the flow is refused", || {
            let said = scene.client.ask(&on);
            is_prohibited(said["end"].as_str().unwrap()).then_some(said)
        });
        assert_eq!(said["answers"], json!([]));
        let after = scene.world.arrived(ip);
        assert!(after.0 - before.0 <= 5, "one datagram at most passed while the reload went on");
        scene.gateway.reload(&policy("enforce", "FR", "", ""));
    }
}

#[test]
fn a_listener_on_port_443_leaves_other_ports_to_the_firewall() {
    let Some(lab) = lab("port 443") else { return };
    let mut scene = Scene::start(&lab, "enforce", "udp = \"[::]:443\"", NAME_RULE);
    for ip in REFUSED {
        scene.passes(ip, 443, &[hello("allowed.example"), vec![0x41; 1200]], "QUIC");
        let answer = scene.is_held_back(ip, 443, &[hello("other.example")], "another name");
        assert!(is_close(&answer), "{answer}");
        // Other ports are not captured, and refused by the firewall itself.
        let end = scene.is_held_back(ip, 9000, &[b"ping".to_vec()], "another port");
        assert!(is_prohibited(&end), "{end}");
    }
}
