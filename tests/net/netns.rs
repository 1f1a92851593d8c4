//! The built binary between a client and the world, with the firewall rules it sets itself.

use std::process::{Output, Stdio};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use serde_json::{Value, json};

use crate::lab::role::{EXCHANGE, GREETING, hex};
use crate::lab::{
    self, GATEWAY, Gateway, Helper, Lab, PERMITTED, REFUSED, at, bytes_in_the_world, has, lab,
    said, shout, wait_until,
};
use crate::support;

const TPROXY: &str = "mode = \"tproxy\"\naddress = \"[::]:15001\"";
const REDIRECT: &str = "mode = \"redirect\"\naddress = \"[::]:15002\"";
const PROXY: &str = "mode = \"proxy\"\naddress = \"192.0.2.1:3128\"";

/// A rule that opens [`REFUSED`] for one name, and only where that name can be read.
const NAME_RULE: &str = "[policy.on]
unread = \"block\"

[[rule]]
name = \"one name\"
host = [\"allowed.example\"]
action = \"allow\"
reason = \"the name decides in this test\"
";

/// Fatal alert `access_denied` (RFC 8446 §6), any record version.
const ALERT: [&str; 2] = ["15030100020231", "15030300020231"];

/// Bytes of each direction of a whole exchange.
const MUCH: u64 = 50_000_000;

/// [`PERMITTED`] is in France, which is permitted; [`REFUSED`] is in the United States.
fn policy(mode: &str, listen: &str, more: &str) -> String {
    let (places, admin) = (lab::places(), lab::ADMIN);
    format!(
        "schema = 1
[policy]
mode = \"{mode}\"
permit = [\"FR\"]

[names]
binding = \"trust\"

{places}[[listen]]
{listen}
peek_timeout = \"500ms\"

[admin]
address = \"{admin}\"

{more}"
    )
}

/// A gateway at work, the world behind it and a client before it.
struct Scene<'lab> {
    gateway: Gateway<'lab>,
    world: Helper,
    client: Helper,
}

impl<'lab> Scene<'lab> {
    /// With interception, where the listener is a transparent one.
    fn start(lab: &'lab Lab, mode: &str, listen: &str, more: &str) -> Self {
        let world = lab.world.helper("world");
        let gateway = lab.start_gateway(&policy(mode, listen, more));
        if listen != PROXY {
            gateway.capture();
        }
        Self { gateway, world, client: lab.client.helper("client") }
    }

    /// Sends bytes to a port of the world, in segments of `step`, and says what came back.
    fn send(&mut self, to: &str, bytes: &[u8], step: usize) -> Value {
        let enough = if bytes.is_empty() { u64::MAX } else { 7 };
        let ask = json!({"do": "send", "to": to, "hex": hex(bytes), "step": step,
            "enough": enough, "patience_ms": 10_000});
        self.client.ask(&ask)
    }

    fn passes_whole(&mut self, ip: &str) {
        passes_whole(&mut self.client, &mut self.world, ip);
    }

    fn is_refused_without_a_byte(&mut self, ip: &str) {
        let end = self.send(&at(ip, EXCHANGE), b"\0\0\0\0\0\0\0\x01 never to be seen", usize::MAX);
        assert_eq!(end, json!({"end": "reset", "received": ""}));
        assert_eq!(self.world.arrived(ip), (0, 0), "bytes and connections");
        assert!(self.gateway.count("reason=\"outside\"") >= 1.0);
    }
}

/// Sends [`MUCH`] each way at once and compares the hashes of both ends.
fn passes_whole(client: &mut Helper, world: &mut Helper, ip: &str) {
    let to = at(ip, EXCHANGE);
    let ask = json!({"do": "exchange", "to": to, "up": MUCH, "down": MUCH});
    let here = client.ask(&ask);
    assert_eq!(here["received"], MUCH, "{here}");
    let there =
        wait_until("the world has hashed all", || world.ask(&json!("exchanges")).get(0).cloned());
    assert_eq!(there["received"], MUCH);
    assert_eq!(there["received_hash"], here["sent_hash"]);
    assert_eq!(there["sent_hash"], here["received_hash"]);
}

fn passes(listen: &str, family: usize) {
    let Some(lab) = lab("a permitted connection") else { return };
    Scene::start(&lab, "enforce", listen, "").passes_whole(PERMITTED[family]);
}

fn refused(listen: &str, family: usize) {
    let Some(lab) = lab("a refused connection") else { return };
    Scene::start(&lab, "enforce", listen, "").is_refused_without_a_byte(REFUSED[family]);
}

/// What the other tests rest on: the world answers, by address and by name, and counts right.
#[test]
fn the_laboratory_without_a_gateway_carries_everything() {
    let Some(lab) = lab("the laboratory itself") else { return };
    let (mut world, mut client) = (lab.world.helper("world"), lab.client.helper("client"));
    lab.switch_forwarding_on();
    passes_whole(&mut client, &mut world, REFUSED[1]);
    assert_eq!(world.arrived(REFUSED[1]), (MUCH + 8, 1));
    let hello = hello("allowed.example");
    let ask = json!({"do": "send", "to": at(REFUSED[0], 443), "hex": hex(&hello), "step": 1,
        "enough": 7});
    let end = client.ask(&ask);
    assert!(end["received"].as_str().unwrap().starts_with("1603"), "{end}");
    assert_eq!(world.arrived(REFUSED[0]), (hello.len() as u64, 1));
    let output = openssl(&lab, &at(PERMITTED[1], 443), "allowed.example");
    assert!(said(&output).contains(GREETING), "{}", said(&output));
    for url in ["http://permitted.example/", "https://refused.example/"] {
        let page = lab.gateway.shell(&format!("curl -sSk --max-time 10 {url}")).unwrap();
        assert_eq!(page, GREETING);
    }
}

#[test]
fn tproxy_passes_a_permitted_ipv4_connection_byte_for_byte() {
    passes(TPROXY, 0);
}

#[test]
fn tproxy_passes_a_permitted_ipv6_connection_byte_for_byte() {
    passes(TPROXY, 1);
}

#[test]
fn redirect_passes_a_permitted_ipv4_connection_byte_for_byte() {
    passes(REDIRECT, 0);
}

#[test]
fn redirect_passes_a_permitted_ipv6_connection_byte_for_byte() {
    passes(REDIRECT, 1);
}

#[test]
fn tproxy_lets_no_byte_of_a_refused_ipv4_connection_out() {
    refused(TPROXY, 0);
}

#[test]
fn tproxy_lets_no_byte_of_a_refused_ipv6_connection_out() {
    refused(TPROXY, 1);
}

#[test]
fn redirect_lets_no_byte_of_a_refused_ipv4_connection_out() {
    refused(REDIRECT, 0);
}

#[test]
fn redirect_lets_no_byte_of_a_refused_ipv6_connection_out() {
    refused(REDIRECT, 1);
}

#[test]
fn observe_passes_what_enforce_refuses_and_counts_it() {
    let Some(lab) = lab("observe") else { return };
    let mut scene = Scene::start(&lab, "observe", TPROXY, "");
    scene.passes_whole(REFUSED[0]);
    assert!(scene.gateway.count("reason=\"outside\"") >= 1.0);
}

#[test]
fn a_long_hello_in_many_segments_is_judged_by_its_name() {
    let Some(lab) = lab("a long hello") else { return };
    for (listen, family) in [(TPROXY, 0), (TPROXY, 1), (REDIRECT, 0)] {
        let mut scene = Scene::start(&lab, "enforce", listen, NAME_RULE);
        let ip = REFUSED[family];
        let (allowed, other) = (hello("allowed.example"), hello("other.example"));
        assert!(allowed.len() > 1_500 && other.len() > 1_500);
        for step in [usize::MAX, 1_400, 700, 1] {
            let end = scene.send(&at(ip, 443), &other, step);
            let received = end["received"].as_str().unwrap();
            assert!(ALERT.contains(&received), "{listen}, step {step}: {end}");
        }
        assert_eq!(scene.world.arrived(ip), (0, 0), "bytes and connections");
        for (nth, step) in [usize::MAX, 1_400, 700, 1].into_iter().enumerate() {
            let end = scene.send(&at(ip, 443), &allowed, step);
            let received = end["received"].as_str().unwrap();
            // The world's answer is a handshake record.
            assert!(received.starts_with("1603"), "{listen}, step {step}: {end}");
            let expected = (nth as u64 + 1) * allowed.len() as u64;
            assert_eq!(scene.world.arrived(ip), (expected, nth as u64 + 1));
        }
    }
}

/// Hellos that Chromium sent (post-quantum key share, ECH, over 1,500 bytes), from the comparison
/// material: each is opened by a rule for its own name, and by no other.
#[test]
fn a_browsers_hello_in_many_segments_is_judged_by_its_name() {
    let Some(shared) = support::shared("hellos of a browser") else { return };
    let Some(lab) = lab("a browser's hello") else { return };
    let rule = NAME_RULE.replace("allowed.example", "www.example.fr");
    let mut scene = Scene::start(&lab, "enforce", TPROXY, &rule);
    let flight = |name: &str| {
        let path = shared.join(format!("corpus/tcp/local-chromium-{name}-tcp-1.bin"));
        std::fs::read(path).expect("a flight of the corpus")
    };
    let (allowed, other) = (flight("tls1"), flight("moret0"));
    assert!(allowed.len() > 1_500 && other.len() > 1_500);
    for ip in REFUSED {
        for step in [1_400, 1] {
            let end = scene.send(&at(ip, 443), &other, step);
            assert!(ALERT.contains(&end["received"].as_str().unwrap()), "step {step}: {end}");
        }
        assert_eq!(scene.world.arrived(ip), (0, 0), "bytes and connections");
        for (nth, step) in [1_400, 1].into_iter().enumerate() {
            let end = scene.send(&at(ip, 443), &allowed, step);
            assert_ne!(end["received"].as_str().unwrap(), "", "step {step}: {end}");
            let expected = (nth as u64 + 1) * allowed.len() as u64;
            assert_eq!(scene.world.arrived(ip), (expected, nth as u64 + 1));
        }
    }
}

#[test]
fn half_a_hello_garbage_and_silence_are_refused_where_a_name_is_needed() {
    let Some(lab) = lab("no name") else { return };
    let mut scene = Scene::start(&lab, "enforce", TPROXY, NAME_RULE);
    let hello = hello("allowed.example");
    let half = &hello[..hello.len() / 2];
    for (nth, ip) in REFUSED.into_iter().enumerate() {
        for (what, bytes) in
            [("half", half), ("garbage", b"\x01\x02\x03 garbage"), ("silence", b"")]
        {
            let end = scene.send(&at(ip, 443), bytes, usize::MAX);
            let received = end["received"].as_str().unwrap();
            assert!(received.is_empty() || ALERT.contains(&received), "{what}: {end}");
            assert_ne!(end["end"], "silence", "{what}: nobody refused");
        }
        assert_eq!(scene.world.arrived(ip), (0, 0), "bytes and connections");
        assert!(scene.gateway.count("reason=\"unread\"") >= 2.0 * (nth as f64 + 1.0));
        assert!(scene.gateway.count("reason=\"malformed\"") >= nth as f64 + 1.0);
    }
}

#[test]
fn curl_speaks_tls_through_the_gateway_where_its_name_is_allowed() {
    let Some(lab) = lab("curl") else { return };
    if !has("curl") {
        return;
    }
    let mut scene = Scene::start(&lab, "enforce", TPROXY, NAME_RULE);
    for ip in REFUSED {
        let resolve = |name: &str| format!("{name}:443:{}", at(ip, 443).replace(":443", ""));
        let output = curl(
            &lab,
            &["-k", "--resolve", &resolve("allowed.example"), "https://allowed.example/"],
        );
        assert_eq!(String::from_utf8_lossy(&output.stdout), GREETING, "{}", said(&output));
        let before = scene.world.arrived(ip);
        let output =
            curl(&lab, &["-k", "--resolve", &resolve("other.example"), "https://other.example/"]);
        assert!(said(&output).contains("access denied"), "{}", said(&output));
        assert_eq!(scene.world.arrived(ip), before, "bytes and connections");
    }
}

#[test]
fn openssl_speaks_tls_through_the_gateway_where_its_name_is_allowed() {
    let Some(lab) = lab("openssl") else { return };
    if !has("openssl") {
        return;
    }
    let mut scene = Scene::start(&lab, "enforce", REDIRECT, NAME_RULE);
    for ip in REFUSED {
        let connect = |name: &str| openssl(&lab, &at(ip, 443), name);
        let output = connect("allowed.example");
        assert!(said(&output).contains(GREETING), "{}", said(&output));
        let before = scene.world.arrived(ip);
        let output = connect("other.example");
        assert!(said(&output).contains("alert access denied"), "{}", said(&output));
        assert_eq!(scene.world.arrived(ip), before, "bytes and connections");
    }
}

#[test]
fn an_explicit_proxy_opens_and_refuses_tunnels() {
    let Some(lab) = lab("connect") else { return };
    let mut scene = Scene::start(&lab, "enforce", PROXY, "");
    let through = ["-k", "-x", "http://192.0.2.1:3128"];
    let output = curl(&lab, &[&through[..], &["https://permitted.example/"]].concat());
    assert_eq!(String::from_utf8_lossy(&output.stdout), GREETING, "{}", said(&output));
    let code = ["-o", "/dev/null", "-w", "%{http_connect}", "https://refused.example/"];
    let output = curl(&lab, &[&through[..], &code].concat());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "451", "{}", said(&output));
    assert_eq!(REFUSED.map(|ip| scene.world.arrived(ip)), [(0, 0); 2]);
}

#[test]
fn an_explicit_proxy_answers_a_refused_request_with_451_and_says_why() {
    let Some(lab) = lab("plain http") else { return };
    let mut scene = Scene::start(&lab, "enforce", PROXY, "");
    let through = ["-x", "http://192.0.2.1:3128"];
    let output = curl(&lab, &[&through[..], &["http://permitted.example/"]].concat());
    assert_eq!(String::from_utf8_lossy(&output.stdout), GREETING, "{}", said(&output));
    let output = curl(&lab, &[&through[..], &["-i", "http://refused.example/"]].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 451 "), "{text}");
    assert!(head.to_lowercase().contains("\r\nproxy-status: "), "{text}");
    assert!(body.contains("outside"), "{text}");
    assert_eq!(REFUSED.map(|ip| scene.world.arrived(ip)), [(0, 0); 2]);
}

#[test]
fn an_explicit_proxy_speaks_socks5_and_refuses_with_reply_2() {
    let Some(lab) = lab("socks5") else { return };
    let mut scene = Scene::start(&lab, "enforce", PROXY, "");
    let through = ["-k", "--socks5-hostname", "192.0.2.1:3128"];
    let output = curl(&lab, &[&through[..], &["https://permitted.example/"]].concat());
    assert_eq!(String::from_utf8_lossy(&output.stdout), GREETING, "{}", said(&output));
    let output = curl(&lab, &[&through[..], &["-v", "https://refused.example/"]].concat());
    assert_eq!(output.status.code(), Some(97), "{}", said(&output));
    assert!(said(&output).contains("(2)"), "{}", said(&output));
    assert_eq!(REFUSED.map(|ip| scene.world.arrived(ip)), [(0, 0); 2]);
}

#[test]
fn a_client_that_connects_to_the_listener_itself_is_refused_as_loop() {
    let Some(lab) = lab("loop") else { return };
    // In observe, too: it is a guard.
    let mut scene = Scene::start(&lab, "observe", TPROXY, "");
    for (nth, ip) in GATEWAY.into_iter().enumerate() {
        let end = scene.send(&at(ip, 15_001), b"\0\0\0\0 hello, gateway", usize::MAX);
        assert_eq!(end["received"], "", "{end}");
        assert_ne!(end["end"], "silence", "{end}");
        assert!(scene.gateway.count("reason=\"loop\"") > nth as f64);
    }
}

#[test]
fn nothing_leaves_when_the_gateway_is_killed() {
    let Some(lab) = lab("kill") else { return };
    lab.switch_forwarding_on();
    for (listen, permitted) in [(TPROXY, PERMITTED[0]), (REDIRECT, PERMITTED[1])] {
        let mut scene = Scene::start(&lab, "enforce", listen, "");
        let end = scene.send(&at(permitted, EXCHANGE), b"\0\0\0\0\0\0\0\x07 alive", usize::MAX);
        assert_eq!(end["end"], "enough", "{end}");
        // The world answers the first eight bytes; the rest of what was permitted may come later.
        wait_until("all that was permitted has arrived", || {
            (scene.world.arrived(permitted).0 == 14).then_some(())
        });
        let before = bytes_in_the_world(&mut scene.world);
        scene.gateway.kill();
        shout(&mut scene.client);
        assert_eq!(bytes_in_the_world(&mut scene.world), before, "{listen}");
    }
}

/// A ClientHello of rustls that fills more than one Ethernet frame.
fn hello(name: &str) -> Vec<u8> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = (0..30).map(|nth| format!("{nth:050}").into_bytes()).collect();
    let name = name.to_owned().try_into().unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

fn curl(lab: &Lab, arguments: &[&str]) -> Output {
    lab.client
        .command("curl")
        .args(["-sS", "--max-time", "20"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// `openssl s_client` with a request on its standard input.
fn openssl(lab: &Lab, to: &str, name: &str) -> Output {
    let request = lab.write("request", "GET / HTTP/1.0\r\n\r\n");
    lab.client
        .command("openssl")
        .args(["s_client", "-connect", to, "-servername", name, "-quiet"])
        .stdin(std::fs::File::open(request).unwrap())
        .output()
        .unwrap()
}
