//! STARTTLS followed to the name in the hello (`[[listen]] starttls`), by OpenSSL's own client.

use std::process::Output;

use serde_json::json;

use crate::flights;
use crate::lab::role::{GREETING, hex, unhex};
use crate::lab::{self, ADMIN, Gateway, Helper, Lab, PERMITTED, REFUSED, at, lab, said};

/// What `openssl s_client -starttls` calls the protocols, and their ports.
const PROTOCOLS: [(&str, u16); 4] =
    [("smtp", 587), ("imap", 143), ("pop3", 110), ("postgres", 5432)];

fn policy() -> String {
    let places = lab::places();
    format!(
        "schema = 1
[policy]
mode = \"enforce\"
permit = [\"FR\"]

[names]
binding = \"trust\"

[[rule]]
name = \"blocked\"
host = [\"blocked.example\"]
action = \"block\"

[[rule]]
name = \"allowed\"
host = [\"allowed.example\"]
action = \"allow\"
reason = \"the name decides in these tests\"

{places}[[listen]]
mode = \"tproxy\"
address = \"[::]:15001\"
peek_timeout = \"2s\"
starttls = true

[admin]
address = \"{ADMIN}\"
"
    )
}

struct Scene<'lab> {
    lab: &'lab Lab,
    gateway: Gateway<'lab>,
    world: Helper,
    client: Helper,
}

impl<'lab> Scene<'lab> {
    fn start(lab: &'lab Lab) -> Self {
        let world = lab.world.helper("world");
        let gateway = lab.start_gateway(&policy());
        gateway.capture();
        Self { lab, gateway, world, client: lab.client.helper("client") }
    }

    /// What OpenSSL makes of a server behind an upgrade.
    fn s_client(&self, protocol: &str, to: &str, name: &str, more: &[&str]) -> Output {
        let mut openssl = self.lab.client.command("timeout");
        openssl.args(["20", "openssl", "s_client", "-starttls", protocol, "-connect", to]);
        openssl.args(["-servername", name, "-ign_eof"]).args(more);
        openssl.stdin(std::process::Stdio::null()).output().unwrap()
    }

    /// Sends bytes and says what came back until the end.
    fn send(&mut self, to: &str, bytes: &[u8], enough: u64) -> String {
        let ask = json!({"do": "send", "to": to, "hex": hex(bytes), "enough": enough,
            "patience_ms": 5_000});
        let end = self.client.ask(&ask);
        String::from_utf8(unhex(end["received"].as_str().unwrap())).unwrap()
    }
}

#[test]
fn the_name_behind_the_upgrade_decides_before_anything_is_dialled() {
    let Some(lab) = lab("starttls") else { return };
    if !lab::has("openssl") {
        return;
    }
    let mut scene = Scene::start(&lab);
    for (protocol, port) in PROTOCOLS {
        let to = at(REFUSED[0], port);
        for name in ["other.example", "blocked.example"] {
            let refused = scene.s_client(protocol, &to, name, &[]);
            assert!(!refused.status.success(), "{protocol}: {}", said(&refused));
            assert!(said(&refused).contains("alert number 49"), "{protocol}: {}", said(&refused));
        }
        assert_eq!(scene.world.arrived(REFUSED[0]), (0, 0), "{protocol}: bytes and connections");
    }
    for (protocol, port) in PROTOCOLS {
        for ip in REFUSED {
            let passed = scene.s_client(protocol, &at(ip, port), "allowed.example", &[]);
            assert!(said(&passed).contains(GREETING), "{protocol} {ip}: {}", said(&passed));
        }
        // Where the address alone would pass, a name that a rule refuses does not.
        let blocked = scene.s_client(protocol, &at(PERMITTED[0], port), "blocked.example", &[]);
        assert!(said(&blocked).contains("alert number 49"), "{protocol}: {}", said(&blocked));
    }
    assert_eq!(scene.world.arrived(PERMITTED[0]), (0, 0));
    assert_eq!(scene.gateway.count("verdict=\"block\",reason=\"rule\""), 8.0);
    assert_eq!(scene.gateway.count("verdict=\"allow\",reason=\"rule\""), 8.0);
}

#[test]
fn a_server_that_says_no_ends_what_its_client_was_promised() {
    let Some(lab) = lab("starttls no") else { return };
    if !lab::has("openssl") {
        return;
    }
    let scene = Scene::start(&lab);
    let to = at(REFUSED[0], 587);
    let ended = scene.s_client("smtp", &to, "allowed.example", &["-name", "no-tls.example"]);
    assert!(said(&ended).contains("alert number 40"), "{}", said(&ended));
    assert!(!said(&ended).contains(GREETING));
}

#[test]
fn in_the_clear_the_address_decides_and_the_server_hears_what_was_said() {
    let Some(lab) = lab("starttls clear") else { return };
    let mut scene = Scene::start(&lab);
    let clear = b"EHLO client.example\r\nMAIL FROM:<a@client.example>\r\n";
    let heard = scene.send(&at(PERMITTED[0], 587), clear, 68);
    assert!(heard.starts_with("220 gateway"), "{heard}");
    assert!(heard.ends_with("250 world heard MAIL\r\n"), "{heard}");
    assert_eq!(scene.world.arrived(PERMITTED[0]).0, clear.len() as u64);
    let heard = scene.send(&at(REFUSED[0], 587), clear, u64::MAX);
    assert!(!heard.contains("world"), "{heard}");
    // Whoever puts commands behind the request for TLS is not the one who speaks TLS.
    let injected = b"EHLO client.example\r\nSTARTTLS\r\nMAIL FROM:<a@client.example>\r\n";
    for ip in [PERMITTED[0], REFUSED[0]] {
        let before = scene.world.arrived(ip);
        let heard = scene.send(&at(ip, 587), injected, u64::MAX);
        assert!(!heard.contains("go ahead"), "{heard}");
        assert_eq!(scene.world.arrived(ip), before);
    }
    assert_eq!(scene.world.arrived(REFUSED[0]), (0, 0));
}

#[test]
fn what_comes_instead_of_a_command_is_read_as_on_any_other_port() {
    let Some(lab) = lab("starttls, and none") else { return };
    let mut scene = Scene::start(&lab);
    // A line feed in its first bytes makes it look like a line.
    let hello = flights::tls_hello("blocked.example", &[vec![b'\n'; 10]]);
    let head = b"GET / HTTP/1.1\r\nHost: blocked.example\r\n\r\n".to_vec();
    // No line feed: nothing that the client sends is a line before its time is over.
    let silent = flights::tls_hello("blocked.example", &[]);
    assert!(hello.contains(&b'\n'));
    let mut refused = 0.0;
    for (what, bytes) in [("a hello", hello), ("a request", head), ("any hello", silent)] {
        let before = scene.world.arrived(PERMITTED[0]);
        let to = at(PERMITTED[0], 587);
        let ask = json!({"do": "send", "to": to, "hex": hex(&bytes), "patience_ms": 10_000});
        scene.client.ask(&ask);
        assert_eq!(scene.world.arrived(PERMITTED[0]), before, "{what}: bytes and connections");
        refused += 1.0;
        assert_eq!(scene.gateway.count("reason=\"rule\""), refused, "{what}");
    }
}

/// What it says later would go to a server with whom nobody listens any more.
#[test]
fn w08_a_client_that_falls_silent_in_the_dialogue_has_not_said_who_it_is_for() {
    let Some(lab) = lab("w08 starttls") else { return };
    let mut scene = Scene::start(&lab);
    let step = |said: &[u8], until: &[u8]| json!({"hex": hex(said), "until": hex(until)});
    let ehlo = || step(b"EHLO client.example\r\n", b"STARTTLS\r\n");
    let ssl_request = [0, 0, 0, 8, 4, 210, 22, 47];
    let mut refused = 0.0;
    for (what, port, steps) in [
        ("nothing", 587, vec![]),
        ("a greeting", 587, vec![ehlo()]),
        ("a request for TLS", 587, vec![ehlo(), step(b"STARTTLS\r\n", b"go ahead\r\n")]),
        ("nothing", 5432, vec![]),
        ("a request for TLS", 5432, vec![step(&ssl_request, b"S")]),
    ] {
        let to = at(PERMITTED[0], port);
        let ask = json!({"do": "converse", "to": to, "steps": steps, "patience_ms": 10_000});
        let end = scene.client.ask(&ask);
        assert_ne!(end["end"], "silence", "{port}, {what}: {end}");
        assert_eq!(scene.world.arrived(PERMITTED[0]), (0, 0), "{port}, {what}");
        refused += 1.0;
        assert_eq!(scene.gateway.count("reason=\"malformed\""), refused, "{port}, {what}");
    }
}
