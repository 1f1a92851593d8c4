//! The rows of the catalogue's "Found in use" about first flights, each a test of its id, over the
//! built binary and every way in that the row claims.

use serde_json::{Value, json};

use crate::lab::role::{BANNER, hex};
use crate::lab::{
    self, Gateway, Helper, Lab, NAME_SERVER, PERMITTED, REFUSED, at, lab, wait_until,
};

const TPROXY: &str = "mode = \"tproxy\"\naddress = \"[::]:15001\"";
const REDIRECT: &str = "mode = \"redirect\"\naddress = \"[::]:15002\"";
/// Where the explicit listener is.
const PROXY: &str = "192.0.2.1:3128";
/// Fatal alert `access_denied` (RFC 8446 §6).
const ALERT: &str = "15030300020231";

/// One name that is blocked, at an address that is permitted; `unread` is left as it is, `judge`.
const BLOCK: &str = "[[rule]]
name = \"no\"
host = [\"other.example\", \"*.other.example\"]
action = \"block\"
";
const BLOCK_HTTP: &str = "[[rule]]
name = \"no\"
protocol = [\"http\"]
action = \"block\"
";

struct Scene<'lab> {
    gateway: Gateway<'lab>,
    world: Helper,
    client: Helper,
    had: usize,
}

fn policy(form: &str, mode: &str, peek: &str, more: &str) -> String {
    let (places, admin) = (lab::places(), lab::ADMIN);
    format!(
        "schema = 1
[policy]
mode = \"{mode}\"
permit = [\"FR\"]
[names]
resolvers = [\"{NAME_SERVER}:53\"]
{places}[[listen]]
{form}
peek_timeout = \"{peek}\"
[[listen]]
mode = \"proxy\"
address = \"{PROXY}\"
peek_timeout = \"{peek}\"
[admin]
address = \"{admin}\"
{more}"
    )
}

impl<'lab> Scene<'lab> {
    fn start(lab: &'lab Lab, form: &str, mode: &str, peek: &str, more: &str) -> Self {
        let world = lab.world.helper("world");
        let gateway = lab.start_gateway(&policy(form, mode, peek, more));
        gateway.capture();
        Self { gateway, world, client: lab.client.helper("client"), had: 0 }
    }

    /// Says `parts`, with a pause behind each where there are several, after `greeting` and an answer
    /// of `enough` bytes to it; and gives the one line of the record.
    fn say(&mut self, to: &str, greeting: &[u8], enough: u64, parts: &[&[u8]]) -> (Value, Value) {
        let parts: Vec<String> = parts.iter().map(|part| hex(part)).collect();
        let pause = if parts.len() > 1 { 900 } else { 0 };
        let ask = json!({"do": "send", "to": to, "hex": hex(greeting), "enough": enough,
            "parts": parts, "pause_ms": pause, "patience_ms": 6_000});
        let end = self.client.ask(&ask);
        let lines = wait_until("its line is written", || {
            let lines = self.gateway.final_lines();
            (lines.len() > self.had).then_some(lines)
        });
        assert_eq!(lines.len(), self.had + 1, "one line: {lines:#?}");
        self.had = lines.len();
        (end, lines.last().unwrap().clone())
    }

    /// Says it to a port of the permitted side, captured, and asserts that nothing came of it.
    #[track_caller]
    fn is_refused(&mut self, port: u16, parts: &[&[u8]], reason: &str) -> Value {
        let before = self.world.arrived(PERMITTED[0]);
        let (end, line) = self.say(&at(PERMITTED[0], port), b"", 0, parts);
        let what = parts.concat().escape_ascii().to_string();
        assert_ne!(end["end"], "silence", "{what}: {end}");
        assert_eq!(self.world.arrived(PERMITTED[0]), before, "{what}: bytes and connections");
        assert_eq!(
            (&line["verdict"], &line["reason"]),
            (&json!("block"), &json!(reason)),
            "{what}"
        );
        line
    }

    /// Says it inside a tunnel, and asserts that no byte of it went on.
    #[track_caller]
    fn is_refused_inside(&mut self, tunnel: &Tunnel, parts: &[&[u8]], reason: &str) -> Value {
        let before = self.world.arrived(PERMITTED[0]).0;
        let (end, line) = self.say(PROXY, &tunnel.0, tunnel.1, parts);
        let what = parts.concat().escape_ascii().to_string();
        assert_ne!(end["end"], "silence", "{what}: {end}");
        assert_eq!(self.world.arrived(PERMITTED[0]).0, before, "{what}: bytes");
        assert_eq!(line["reason"], reason, "{what}: {line}");
        line
    }
}

/// What opens a tunnel, and how many bytes answer it.
struct Tunnel(Vec<u8>, u64);

fn connect(authority: &str) -> Tunnel {
    let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    // Up to the end of the status line, at the least: the head of an answer comes at once.
    Tunnel(head.into_bytes(), 19)
}

fn socks(name: &str) -> Tunnel {
    let length = [u8::try_from(name.len()).unwrap()];
    let ask = [&[5, 1, 0, 5, 1, 0, 3][..], &length, name.as_bytes(), &[1, 187]].concat();
    Tunnel(ask, 12)
}

fn tunnels() -> [Tunnel; 2] {
    [connect("permitted.example:443"), socks("permitted.example")]
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

/// A hello whose `server_name` holds these names, one extension for each.
fn hello(names: &[&str]) -> Vec<u8> {
    let name = |name: &&str| {
        let list = [&[0][..], &sized(name.as_bytes())].concat();
        [&[0, 0][..], &sized(&sized(&list))].concat()
    };
    let extensions: Vec<u8> = names.iter().flat_map(name).collect();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 4, 0x13, 1, 0xc0, 0x2f, 1, 0]);
    body.extend(sized(&extensions));
    let [_, length @ ..] = u32::try_from(body.len()).unwrap().to_be_bytes();
    let message = [&[1][..], &length, &body].concat();
    [&[22, 3, 1][..], &sized(&message)].concat()
}

fn in_version(mut hello: Vec<u8>, version: u16) -> Vec<u8> {
    hello[1..3].copy_from_slice(&version.to_be_bytes());
    hello
}

const VERSIONS: [u16; 6] = [0, 0x0200, 0x0303, 0x0400, 0x0fff, 0xffff];

#[test]
fn w02_a_hello_in_records_of_any_version_is_judged_by_its_name() {
    for form in [TPROXY, REDIRECT] {
        let Some(lab) = lab("w02") else { return };
        let mut scene = Scene::start(&lab, form, "enforce", "500ms", BLOCK);
        for version in VERSIONS {
            let flight = in_version(hello(&["other.example"]), version);
            let line = scene.is_refused(443, &[&flight], "rule");
            let read = [&line["protocol"], &line["host"]];
            assert_eq!(read, [&json!("tls"), &json!("other.example")], "{version:#06x}");
        }
    }
    let Some(lab) = lab("w02 in a tunnel") else { return };
    let mut scene = Scene::start(&lab, TPROXY, "enforce", "500ms", "");
    for version in VERSIONS {
        for tunnel in tunnels() {
            let flight = in_version(hello(&["other.example"]), version);
            let line = scene.is_refused_inside(&tunnel, &[&flight], "mismatch");
            assert_eq!(line["sni_inside"], "other.example", "{version:#06x}");
        }
    }
}

#[test]
fn w03_whatever_may_still_become_a_hello_is_refused_after_a_pause() {
    let Some(lab) = lab("w03") else { return };
    let whole = hello(&["other.example"]);
    let at = [1, 2, 5, 6, 30, whole.len() - 1];
    let mut scene = Scene::start(&lab, TPROXY, "enforce", "500ms", "");
    for end in at {
        for tunnel in tunnels() {
            let (part, rest) = whole.split_at(end);
            scene.is_refused_inside(&tunnel, &[part, rest], "mismatch");
        }
    }
    for part in [&b"\r\n"[..], b"G", b"GET / HTTP/1.1\r\nHost: x", b"\x80", b"\x15\x03"] {
        for tunnel in tunnels() {
            scene.is_refused_inside(&tunnel, &[part, b" and the rest"], "mismatch");
        }
    }
}

#[test]
fn w03_half_a_hello_and_a_pause_names_nobody_where_a_name_is_needed() {
    let whole = hello(&["other.example"]);
    for form in [TPROXY, REDIRECT] {
        let Some(lab) = lab("w03 captured") else { return };
        let mut scene = Scene::start(&lab, form, "enforce", "500ms", BLOCK);
        for end in [1, 6, whole.len() - 1] {
            let (part, rest) = whole.split_at(end);
            let line = scene.is_refused(443, &[part, rest], "malformed");
            assert_eq!(line["fault"], "incomplete");
        }
        let request = b"GET / HTTP/1.1\r\nHost: other.example\r\n\r\n";
        for end in [1, 10, request.len() - 1] {
            let (part, rest) = request.split_at(end);
            let line = scene.is_refused(80, &[part, rest], "malformed");
            assert_eq!(line["fault"], "incomplete");
        }
    }
}

/// Flights that hide or contradict the name they mean, and the fault of each.
fn hiding() -> Vec<(u16, Vec<u8>, &'static str)> {
    let twice = |one: &str, other: &str| hello(&[one, other]);
    let of = |text: &str| text.as_bytes().to_vec();
    vec![
        (443, twice("good.example", "other.example"), "extension-twice"),
        (443, twice("other.example", "good.example"), "extension-twice"),
        (
            80,
            of("GET / HTTP/1.1\r\nHost: good.example\r\nHost: other.example\r\n\r\n"),
            "host-twice",
        ),
        (
            80,
            of("GET http://x.other.example/ HTTP/1.1\r\nHost: good.example\r\n\r\n"),
            "host-disagrees",
        ),
        (80, of("GET / HTTP/1.1\nHost: other.example\n\n"), "bare-lf"),
        (80, of("GET / HTTP/1.1\r\nA: b\r\n Host: x\r\nHost: other.example\r\n\r\n"), "folded"),
        (80, of("GET / HTTP/1.1\r\nHost : other.example\r\n\r\n"), "field-line"),
        (
            80,
            of("GET http://good.example\\@x.other.example/ HTTP/1.1\r\nHost: good.example\r\n\r\n"),
            "user-info",
        ),
    ]
}

#[test]
fn w08_what_hides_or_contradicts_its_name_passes_no_rule_about_it() {
    for form in [TPROXY, REDIRECT] {
        let Some(lab) = lab("w08") else { return };
        let mut scene = Scene::start(&lab, form, "enforce", "500ms", BLOCK);
        for (port, flight, fault) in hiding() {
            let line = scene.is_refused(port, &[&flight], "malformed");
            assert_eq!(line["fault"], fault);
        }
        // Inside a tunnel to an address, which has no name of its own.
        for (port, flight, fault) in hiding() {
            let tunnel = connect(&at(PERMITTED[0], port));
            let line = scene.is_refused_inside(&tunnel, &[&flight], "malformed");
            assert_eq!(line["fault"], fault);
        }
    }
}

#[test]
fn w08_a_block_rule_matches_on_either_name_where_malformed_is_allowed() {
    let Some(lab) = lab("w08 allowed") else { return };
    let more = format!("[policy.on]\nmalformed = \"allow\"\n{BLOCK}");
    let mut scene = Scene::start(&lab, TPROXY, "enforce", "500ms", &more);
    for (port, flight, _) in hiding() {
        scene.is_refused(port, &[&flight], "rule");
    }
}

#[test]
fn w08_observe_lets_it_go_and_says_what_it_would_have_done() {
    let Some(lab) = lab("w08 observed") else { return };
    let mut scene = Scene::start(&lab, TPROXY, "observe", "500ms", BLOCK);
    let (_, line) = scene.say(&at(PERMITTED[0], 443), b"", 0, &[&hiding()[0].1]);
    let said = [&line["verdict"], &line["would"], &line["reason"], &line["fault"]];
    assert_eq!(said, ["log", "block", "malformed", "extension-twice"]);
}

#[test]
fn w09_what_some_server_answers_as_http_is_http_and_a_servers_client_is_not() {
    for form in [TPROXY, REDIRECT] {
        let Some(lab) = lab("w09") else { return };
        let mut scene = Scene::start(&lab, form, "enforce", "500ms", BLOCK_HTTP);
        let rest = "HTTP/1.1\r\nHost: good.example\r\n\r\n";
        for request in [
            format!("{}GET / {rest}", "\r\n".repeat(9)),
            format!("{}GET / {rest}", "\n".repeat(40)),
            format!(" GET / {rest}"),
            format!("\t\r\n GET / {rest}"),
            format!("{} / {rest}", "M".repeat(33)),
            format!("{} / {rest}", "M".repeat(400)),
            format!("get / {rest}"),
            format!("GET\t/\t{rest}"),
            "GET / ICE/1.0\r\nHost: good.example\r\n\r\n".to_owned(),
            "SOURCE / ICE/1.0\r\n\r\n".to_owned(),
            "ODD / HTTP/1.1\rHost: good.example\r\n\r\n".to_owned(),
            "GET /\n".to_owned(),
            "POST /x\r\n\r\n".to_owned(),
        ] {
            let line = scene.is_refused(80, &[request.as_bytes()], "rule");
            assert_eq!(line["protocol"], "http", "{request:?}");
        }
        scene.is_refused(80, &[b"G", b"ET / HTTP/1.0\r\n\r\n"], "rule");
        for said in ["EHLO client.example\r\n", "USER me\r\n", "SSH-2.0-x\r\n"] {
            let (end, line) = scene.say(&at(PERMITTED[0], BANNER), said.as_bytes(), 3, &[]);
            assert!(end["received"].as_str().unwrap().starts_with(&hex(b"220")), "{end}");
            assert_eq!([&line["protocol"], &line["verdict"]], ["other", "allow"], "{said}");
        }
    }
}

/// The rule of README.md: names without a port, whose destinations may lie anywhere.
const ALLOW: &str = "[[rule]]
name = \"os-updates\"
host = [\"deb.debian.org\", \"*.windowsupdate.com\"]
action = \"allow\"
reason = \"no patient data\"
owner  = \"IT operations\"
until  = 2037-03-31
";

/// Longer than the patience of the client: whoever waits for it has failed.
const LONG: &str = "60s";

#[test]
fn l03_a_server_that_speaks_first_is_heard_at_once_where_no_name_turns_the_answer() {
    for form in [TPROXY, REDIRECT] {
        let Some(lab) = lab("l03") else { return };
        for more in [ALLOW, ""] {
            let mut scene = Scene::start(&lab, form, "enforce", LONG, more);
            let (end, line) = scene.say(&at(PERMITTED[0], BANNER), b"", 3, &[]);
            assert!(end["received"].as_str().unwrap().starts_with(&hex(b"220")), "{end}");
            assert_eq!([&line["verdict"], &line["reason"]], ["allow", "permitted"]);
        }
    }
}

#[test]
fn l03_what_is_refused_in_any_case_is_refused_at_once() {
    for form in [TPROXY, REDIRECT] {
        let Some(lab) = lab("l03 refused") else { return };
        for more in ["", BLOCK] {
            let mut scene = Scene::start(&lab, form, "enforce", LONG, more);
            let (end, line) = scene.say(&at(REFUSED[0], BANNER), b"", u64::MAX, &[]);
            assert_eq!(end, json!({"end": "reset", "received": ""}), "{more}");
            assert_eq!([&line["verdict"], &line["reason"]], ["block", "outside"]);
            let (end, _) = scene.say(&at(REFUSED[0], 443), &hello(&["a.example"]), u64::MAX, &[]);
            assert_eq!(end["received"], ALERT, "told in its own protocol");
            assert_eq!(scene.world.arrived(REFUSED[0]), (0, 0), "bytes and connections");
        }
    }
}

#[test]
fn l04_the_name_stands_in_the_record_where_no_rule_asks_for_one() {
    for (form, mode) in [(TPROXY, "observe"), (REDIRECT, "enforce"), (TPROXY, "enforce")] {
        let Some(lab) = lab("l04") else { return };
        let mut scene = Scene::start(&lab, form, mode, "5s", "");
        let tls = hello(&["pacs.example"]);
        let http = b"GET / HTTP/1.0\r\nHost: pacs.example\r\n\r\n".to_vec();
        for (port, flight, protocol, source) in
            [(443, &tls, "tls", "sni"), (80, &http, "http", "http-host")]
        {
            let (part, rest) = flight.split_at(20);
            for parts in [&[&flight[..]][..], &[part, rest]] {
                let before = scene.world.arrived(PERMITTED[0]).0;
                let (end, line) = scene.say(&at(PERMITTED[0], port), b"", 0, parts);
                assert_ne!(end["end"], "silence", "{end}");
                let sent = scene.world.arrived(PERMITTED[0]).0 - before;
                assert_eq!(sent, flight.len() as u64, "every byte goes on, once");
                let read = [&line["host"], &line["name_source"], &line["protocol"]];
                assert_eq!(read, ["pacs.example", source, protocol], "{line}");
                assert_eq!([&line["verdict"], &line["reason"]], ["allow", "permitted"]);
            }
        }
    }
}

#[test]
fn l04_what_is_silent_until_a_later_policy_is_judged_by_that_one() {
    // Nobody waits for a resolver by then: a name that only one could tie to the address is a claim.
    let rule = |action: &str| {
        format!(
            "[[rule]]\nname = \"later\"\nhost = [\"permitted.example\"]\naction = \"{action}\"\n\
             reason = \"the name decides in these tests\"\n"
        )
    };
    for form in [TPROXY, REDIRECT] {
        let Some(lab) = lab("l04 later") else { return };
        for (action, reason) in [("block", "rule"), ("allow", "mismatch")] {
            let mut scene = Scene::start(&lab, form, "enforce", "5s", "");
            let to = at(PERMITTED[0], 443);
            scene.client.ask(&json!({"do": "keep", "to": to, "hex": "", "patience_ms": 100}));
            wait_until("it is connected", || {
                (scene.world.arrived(PERMITTED[0]).1 > 0).then_some(())
            });
            scene.gateway.reload(&policy(form, "enforce", "5s", &rule(action)));
            let before = scene.world.arrived(PERMITTED[0]).0;
            let ask = json!({"do": "say-on", "to": to, "hex": hex(&hello(&["permitted.example"])),
                "patience_ms": 3_000});
            let end = scene.client.ask(&ask);
            assert_ne!(end["end"], "silence", "{form}, {action}: {end}");
            let line = wait_until("it ends", || scene.gateway.final_lines().pop());
            let said = [&line["verdict"], &line["reason"], &line["host"]];
            assert_eq!(said, ["block", reason, "permitted.example"], "{form}: {line}");
            assert_eq!(scene.world.arrived(PERMITTED[0]).0, before, "{form}, {action}: bytes");
        }
    }
}

#[test]
fn w08_a_name_that_comes_after_the_time_to_speak_is_judged_before_it_goes_on() {
    let Some(lab) = lab("w08 late") else { return };
    let mut scene = Scene::start(&lab, TPROXY, "enforce", "500ms", BLOCK);
    let before = scene.world.arrived(PERMITTED[0]).0;
    let (_, line) = scene.say(&at(PERMITTED[0], 443), b"", 0, &[b"", &hello(&["other.example"])]);
    assert_eq!(scene.world.arrived(PERMITTED[0]).0, before, "bytes");
    let said = [&line["verdict"], &line["reason"], &line["host"]];
    assert_eq!(said, ["block", "rule", "other.example"]);
}

#[test]
fn l03_a_name_that_belongs_elsewhere_is_still_a_mismatch() {
    let Some(lab) = lab("l03 mismatch") else { return };
    let mut scene = Scene::start(&lab, TPROXY, "enforce", "5s", ALLOW);
    let before = scene.world.arrived(PERMITTED[0]).0;
    let flight = hello(&["deb.debian.org"]);
    let (_, line) = scene.say(&at(PERMITTED[0], 443), b"", 0, &[&flight]);
    assert_eq!(scene.world.arrived(PERMITTED[0]).0, before, "bytes");
    assert_eq!([&line["verdict"], &line["reason"]], ["block", "mismatch"]);
}
