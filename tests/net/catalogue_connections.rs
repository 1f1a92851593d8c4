//! The catalogue's rows about connections and plain HTTP (docs/catalogue.md), each a test of its
//! id, over the built binary.

use std::thread;

use serde_json::json;

use crate::catalogue::{self, ALERT, Expect, abroad, forwarded, hello, refused, row};
use crate::lab::role::{self, BANNER, GREETING};
use crate::lab::{PERMITTED, REFUSED, at, wait_until};

fn plain() -> String {
    at(REFUSED[0], 80)
}

/// A request head of these lines, without the empty one.
fn head(lines: &[&str]) -> Vec<u8> {
    lines.iter().flat_map(|line| [line.as_bytes(), b"\r\n"].concat()).collect()
}

fn whole(lines: &[&str]) -> Vec<u8> {
    [&head(lines)[..], b"\r\n"].concat()
}

const GET: &str = "GET / HTTP/1.1";
const HOST: &str = "Host: allowed.example";

#[test]
fn c01_a_client_that_says_nothing_is_refused_at_the_deadline_and_nothing_is_dialled() {
    refused("c01", &abroad(), &[Vec::new()], "unread");
}

#[test]
fn c02_a_server_speaks_first_where_no_name_is_needed() {
    row("c02", Expect::Forwarded(0), 1, |scene| {
        let end = scene.send_with(&at(PERMITTED[0], BANNER), b"", json!({"enough": 3}));
        assert!(end["received"].as_str().unwrap().starts_with(&role::hex(b"220")), "{end}");
    });
}

#[test]
fn c03_a_slow_hello_ends_at_an_absolute_deadline() {
    let lines = row("c03", Expect::Blocked, 1, |scene| {
        let more = json!({"step": 1, "pause_ms": 30, "enough": u64::MAX});
        scene.send_with(&abroad(), &hello(b"allowed.example"), more);
    });
    for line in lines.into_iter().flatten() {
        assert_eq!(line["reason"], "malformed");
        let time = line["duration_ms"].as_u64().unwrap();
        assert!(time >= 500, "not before the deadline: {line}");
    }
}

#[test]
fn c03_a_crowd_of_half_hellos_ends_at_the_deadline_and_others_are_served_meanwhile() {
    const CROWD: usize = 800;
    let hello = hello(b"allowed.example");
    let lines = row("c03 crowd", Expect::Forwarded(hello.len()), CROWD + 1, |scene| {
        let mut crowd = scene.another_client();
        let half = json!({"do": "storm", "to": abroad(), "hex": role::hex(&hello[..50]),
            "count": CROWD});
        let storm = thread::spawn(move || crowd.ask(&half));
        let end = scene.send(&abroad(), &hello, usize::MAX);
        assert_ne!(end["received"], ALERT, "{end}");
        assert_ne!(end["received"], "", "served beside the crowd: {end}");
        assert_eq!(storm.join().unwrap(), json!({"failed": 0, "left_alone": 0}));
    });
    let lines = lines.unwrap_or_default();
    let blocked = lines.iter().filter(|line| line["reason"] == "malformed").count();
    assert_eq!(blocked, CROWD.min(lines.len()), "each has its reason");
}

#[test]
fn c04_a_storm_of_resets_is_one_record_each_and_no_connect() {
    const STORM: usize = 3_000;
    let half = role::hex(&hello(b"allowed.example")[..50]);
    let lines = row("c04 storm", Expect::Blocked, STORM, |scene| {
        let storm = json!({"do": "storm", "to": abroad(), "hex": half, "count": STORM,
            "reset": true});
        assert_eq!(scene.client.ask(&storm), json!({"failed": 0, "left_alone": 0}));
    });
    for line in lines.into_iter().flatten() {
        assert!(line["verdict"] != "allow", "{line}");
    }
}

#[test]
fn c04_a_hello_that_ends_in_its_middle_leaves_one_record_and_no_connect() {
    let hello = hello(b"allowed.example");
    row("c04", Expect::Blocked, 20, |scene| {
        for end in [1, 3, 7, 20, 50] {
            for how in ["shut", "reset"] {
                scene.send_with(&abroad(), &hello[..end], json!({how: true, "enough": u64::MAX}));
                scene.send_with(&plain(), &head(&[GET])[..7], json!({how: true}));
            }
        }
    });
}

#[test]
fn c05_a_half_close_after_the_request_brings_the_whole_answer() {
    let request = whole(&[GET, "Host: permitted.example"]);
    row("c05", Expect::Forwarded(request.len()), 1, |scene| {
        let more = json!({"shut": true, "enough": u64::MAX});
        let end = scene.send_with(&at(PERMITTED[0], 80), &request, more);
        assert_eq!(end["end"], "end of stream", "{end}");
        assert!(end["received"].as_str().unwrap().ends_with(&role::hex(GREETING.as_bytes())));
    });
}

#[test]
fn c06_a_destination_that_cannot_be_reached_is_a_reset_and_in_the_record() {
    let lines = row("c06", Expect::Forwarded(0), 3, |scene| {
        let prohibited = format!(
            "nft 'add table inet shut; add chain inet shut in {{ type filter hook input priority 0; }};
            add rule inet shut in ip daddr {} tcp dport 82 reject with icmpx admin-prohibited'",
            PERMITTED[0]
        );
        scene.in_the_world(&prohibited);
        // Nobody listens; nobody is there; a firewall says no.
        let nobody = "198.51.100.99:81".to_owned();
        for to in [at(PERMITTED[0], 81), nobody, at(PERMITTED[0], 82)] {
            let end = scene.send_with(&to, b"", json!({"enough": u64::MAX}));
            assert_eq!(end["end"], "reset", "{end}");
        }
        scene.in_the_world("nft delete table inet shut");
    });
    let lines = lines.unwrap_or_default();
    for (line, ends) in lines.iter().zip([
        &["connect-refused"][..],
        &["connect-timed-out", "connect-unreachable"],
        &["connect-unreachable"],
    ]) {
        assert_eq!(line["verdict"], "allow", "{line}");
        assert!(ends.contains(&line["end"].as_str().unwrap()), "{line}");
    }
}

/// SYNs with data that the gateway's kernel has taken so far (tcp(7), TCP Fast Open).
fn fast_opened(scene: &catalogue::Scene) -> u64 {
    let text = scene.in_the_gateway("cat /proc/net/netstat");
    let mut tcp = text.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
    let (names, values) = (tcp.next().unwrap(), tcp.next().unwrap());
    let mut both = names.split_whitespace().zip(values.split_whitespace());
    both.find(|(name, _)| *name == "TCPFastOpenPassive").unwrap().1.parse().unwrap()
}

#[test]
fn c07_a_hello_in_the_syn_is_judged_as_any_other() {
    let (allowed, other) = (hello(b"allowed.example"), hello(b"other.example"));
    row("c07 syn", Expect::Forwarded(allowed.len()), 2, |scene| {
        // Without asking for a cookie first (ip-sysctl, tcp_fastopen).
        scene.in_the_client(
            "sysctl -qw net.ipv4.tcp_fastopen=5
            nft 'add table inet seen
            add chain inet seen out { type filter hook output priority 0; }
            add rule inet seen out tcp flags & (syn | ack) == syn meta length > 100 counter'",
        );
        let before = fast_opened(scene);
        for (hello, answered) in [(&other, false), (&allowed, true)] {
            let ask = json!({"do": "fast-open", "to": abroad(), "hex": role::hex(hello),
                "enough": 7});
            let end = scene.client.ask(&ask);
            assert_eq!(end["received"] != ALERT && end["received"] != "", answered, "{end}");
        }
        let seen = scene.in_the_client("nft list table inet seen; nft delete table inet seen");
        assert!(seen.contains("counter packets 2 "), "both hellos are in the SYN: {seen}");
        // The kernel need not take what is in a SYN; then it is sent again.
        assert!(fast_opened(scene) > before, "one of them was taken from there");
    });
}

#[test]
fn c07_a_hello_in_the_ack_that_completes_the_connection_is_judged_as_any_other() {
    let (allowed, other) = (hello(b"allowed.example"), hello(b"other.example"));
    row("c07 ack", Expect::Forwarded(allowed.len()), 2, |scene| {
        // A client that has no cookie yet asks for one in its SYN, and keeps the bytes for the ACK.
        scene.in_the_client(
            "sysctl -qw net.ipv4.tcp_fastopen=1 net.netfilter.nf_conntrack_acct=1
            nft 'add table inet seen
            add chain inet seen out { type filter hook output priority 0; }
            add rule inet seen out tcp dport 443 ct original packets 2 meta length > 100 counter'",
        );
        for (hello, answered) in [(&other, false), (&allowed, true)] {
            scene.in_the_client("ip tcp_metrics flush all");
            let ask = json!({"do": "fast-open", "to": abroad(), "hex": role::hex(hello),
                "enough": 7});
            let end = scene.client.ask(&ask);
            assert_eq!(end["received"] != ALERT && end["received"] != "", answered, "{end}");
        }
        let seen = scene.in_the_client("nft list table inet seen; nft delete table inet seen");
        assert!(seen.contains("counter packets 2 "), "each hello is the second segment: {seen}");
    });
}

#[test]
fn c08_what_is_forwarded_is_the_stream_that_was_read_without_the_urgent_byte() {
    let hello = hello(b"allowed.example");
    row("c08", Expect::Forwarded(hello.len()), 1, |scene| {
        let more = json!({"urgent": true, "rest": role::hex(&hello[40..])});
        let end = scene.send_with(&abroad(), &hello[..40], more);
        assert_ne!(end["received"], ALERT, "{end}");
    });
}

#[test]
fn c09_each_request_of_a_connection_is_judged_by_itself() {
    let get =
        |host: &str| whole(&[&format!("GET http://{host}/ HTTP/1.1"), &format!("Host: {host}")]);
    let lines = row("c09", Expect::Told, 2, |scene| {
        let both = [get("permitted.example"), get("refused.example")].concat();
        let before = scene.world.arrived(REFUSED[0]);
        let answer = scene.proxy_with(&both, json!({"shut": true}));
        let text = String::from_utf8_lossy(&answer);
        assert!(text.starts_with("HTTP/1.1 200 ") && text.contains(GREETING), "{text}");
        assert!(text.contains("HTTP/1.1 451 "), "{text}");
        assert_eq!(scene.world.arrived(REFUSED[0]), before, "bytes and connections");
    });
    let lines = lines.unwrap_or_default();
    let verdicts: Vec<_> = lines.iter().map(|line| line["verdict"].as_str().unwrap()).collect();
    if !verdicts.is_empty() {
        assert!(verdicts.contains(&"allow") && verdicts.contains(&"block"), "{verdicts:?}");
    }
}

/// Requests that two servers could read differently.
fn ambiguous() -> Vec<Vec<u8>> {
    let with = |field: &str| whole(&[GET, HOST, field]);
    vec![
        whole(&["GET http://other.example/ HTTP/1.1", HOST]),
        whole(&[GET, HOST, "Host: other.example"]),
        whole(&[GET]),
        whole(&[GET, "Host: user@allowed.example"]),
        whole(&[GET, "Host: allowed.example:"]),
        whole(&[GET, "Host: allowed.example:99999"]),
    ]
    .into_iter()
    .chain([
        whole(&[GET, HOST, "Content-Length: 3", "Transfer-Encoding: chunked"]),
        with("Transfer-Encoding: gzip, chunked"),
        with("Transfer-Encoding: xchunked"),
        with("Content-Length: +3"),
        with("Content-Length: 3, 3"),
        whole(&[GET, HOST, "Content-Length: 3", "Content-Length: 4"]),
        with(" folded"),
        with("Name : value"),
        with("Bad\0: x"),
        b"GET / HTTP/1.1\nHost: allowed.example\n\n".to_vec(),
    ])
    .collect()
}

#[test]
fn c10_hosts_that_disagree_or_are_none_are_refused() {
    let transparent = &ambiguous()[..6];
    refused("c10", &plain(), transparent, "malformed");
    let requests = [
        whole(&["GET http://permitted.example/ HTTP/1.1", "Host: other.example"]),
        whole(&["GET http://permitted.example/ HTTP/1.1", HOST, HOST]),
        whole(&["GET http://permitted.example/ HTTP/1.1"]),
        whole(&["GET http://a@permitted.example/ HTTP/1.1", "Host: permitted.example"]),
        whole(&["GET http://permitted.example:/ HTTP/1.1", "Host: permitted.example"]),
        whole(&["GET / HTTP/1.1", "Host: permitted.example"]),
        whole(&["GET https://permitted.example/ HTTP/1.1", "Host: permitted.example"]),
    ];
    row("c10 explicit", Expect::Blocked, requests.len(), |scene| {
        for request in &requests {
            assert_eq!(scene.status(request), 400, "{}", request.escape_ascii());
        }
    });
}

#[test]
fn c11_heads_whose_end_is_read_in_two_ways_are_refused() {
    refused("c11", &plain(), &ambiguous()[6..], "malformed");
    let post = ["POST http://permitted.example/ HTTP/1.1", "Host: permitted.example"];
    let with = |fields: &[&str]| whole(&[&post[..], fields].concat());
    let requests = [
        with(&["Content-Length: +3"]),
        with(&["Content-Length: 3", "Content-Length: 4"]),
        with(&["Transfer-Encoding: chunked, gzip"]),
        with(&["Content-Length: 3, 3"]),
        with(&["Transfer-Encoding: xchunked"]),
        with(&[" folded"]),
        with(&["Name: value", "\tfolded"]),
        with(&["Name : value"]),
        with(&["Name\t: value"]),
        with(&["Host: permitted.example"]),
        with(&["Bad\0: x"]),
    ];
    row("c11 explicit", Expect::Blocked, requests.len(), |scene| {
        for request in &requests {
            let answer = scene.proxy(request);
            let (request, told) = (request.escape_ascii(), answer.escape_ascii());
            assert!(answer.starts_with(b"HTTP/1.1 400 "), "{request}: {told}");
        }
    });
}

/// What goes on is written anew, byte for byte the one reading that was judged: chunk extensions are
/// left out (RFC 9112 §7.1.1), and a head that has two readings is answered with 400.
#[test]
fn c11_what_an_explicit_request_sends_on_is_the_one_reading_that_was_judged() {
    let head = "POST http://permitted.example/ HTTP/1.1\r\nHost: permitted.example\r\n";
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n");
    let three = "3\r\nabc\r\n0\r\n\r\n";
    let anew = "POST / HTTP/1.1\r\nHost: permitted.example\r\nTransfer-Encoding: chunked\r\n\
                Via: 1.1 schengate\r\nConnection: close\r\n\r\n";
    let in_chunks = format!("{anew}{three}");
    let extended = format!("{chunked}\r\n3;name=value;x=\"y\"\r\nabc\r\n0;last\r\n\r\n");
    let twofold = [
        format!("{chunked}Content-Length: 4\r\n\r\n{three}"),
        format!("{chunked}Transfer-Encoding: chunked\r\n\r\n{three}"),
        format!("{}\r\n{three}", chunked.replace("\r\n", "\n")),
    ];
    row("c11 anew", Expect::Forwarded(in_chunks.len()), 1 + twofold.len(), |scene| {
        let answer = scene.proxy_with(extended.as_bytes(), json!({"shut": true}));
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{extended}: {}", answer.escape_ascii());
        assert_eq!(scene.requests().pop().as_ref(), Some(&in_chunks), "{extended}");
        for request in &twofold {
            assert_eq!(scene.status(request.as_bytes()), 400, "{request}");
        }
    });
}

/// The head is judged, and may be sent, before the body is read: what is no chunk ends both
/// connections, and nothing of it goes out.
#[test]
fn c11_a_body_whose_chunks_can_be_read_in_two_ways_is_not_sent_on() {
    let head = "POST http://permitted.example/ HTTP/1.1\r\nHost: permitted.example\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    let bodies = [
        "3\nabc\n0\n\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "3;\n\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
    ];
    row("c11 chunks", Expect::Told, bodies.len(), |scene| {
        for body in bodies {
            let before = scene.requests().len();
            let answer = scene.proxy(format!("{head}{body}").as_bytes());
            assert!(answer.starts_with(b"HTTP/1.1 400 "), "{body:?}: {}", answer.escape_ascii());
            let seen = wait_until("what came of it", || scene.requests().get(before).cloned());
            let head = seen.is_empty() || seen.ends_with("Connection: close\r\n\r\n");
            assert!(head, "{body:?}: {seen:?}");
        }
    });
}

#[test]
fn c12_http2_and_upgrades_carry_no_name_past_the_judgement() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    refused("c12", &plain(), std::slice::from_ref(&preface), "unread");
    let upgrade = whole(&[GET, "Host: other.example", "Upgrade: h2c", "Connection: upgrade"]);
    refused("c12 upgrade", &plain(), &[upgrade], "outside");
    row("c12 explicit", Expect::Told, 2, |scene| {
        assert!(!scene.proxy(&preface).starts_with(b"HTTP/1.1 2"));
        let upgrade = whole(&[
            "GET http://permitted.example/ HTTP/1.1",
            "Host: permitted.example",
            "Upgrade: websocket",
            "Connection: upgrade, close",
        ]);
        assert_eq!(scene.status(&upgrade), 200, "asked for without the upgrade");
    });
}

#[test]
fn c13_heads_without_end_are_refused_and_cost_little() {
    let many = [&head(&[GET, HOST])[..], &b"A: b\r\n".repeat(12_000), b"\r\n"].concat();
    let line = [&b"GET /"[..], &vec![b'a'; 70_000], b" HTTP/1.1\r\n\r\n"].concat();
    refused("c13", &plain(), &[many, line], "malformed");
    let explicit = "GET http://permitted.example/ HTTP/1.1";
    let many =
        [&head(&[explicit, "Host: permitted.example"])[..], &b"A: b\r\n".repeat(10_000), b"\r\n"]
            .concat();
    row("c13 explicit", Expect::Blocked, 1, |scene| {
        let answer = scene.proxy(&many);
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 431 "),
            "{}",
            answer.escape_ascii()
        );
    });
    // A byte at a time, as fast as it goes: the whole is read, and forwarded as it was sent.
    let long = [&head(&[GET, HOST])[..], &b"A: b\r\n".repeat(1_500), b"\r\n"].concat();
    forwarded("c13 slow", &plain(), &[long], 1);
}
