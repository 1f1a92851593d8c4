//! The lane at work between a client and a world: what is permitted by its addresses is carried by the
//! kernel and recorded, everything else is the proxy's, and nothing passes where a part of it is gone.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use schengate::settings;
use schengate::sys::{self, PacketQueue, QueueBatch, Queued, Verdicts};
use serde_json::{Value, json};

use crate::catalogue::record;
use crate::catalogue_tls::without_a_share;
use crate::flights;
use crate::lab::role::{self, EXCHANGE, GREETING, SILENCE, hex, unhex};
use crate::lab::{
    self, Gateway, Helper, Lab, NAME_SERVER, PERMITTED, REFUSED, at, lab, said, wait_until,
};
use crate::packets::{SYN, Sent, wrap};

/// As the client reads it: nothing is to be sent back.
const QUIET: &[u8] = &[0; 8];

/// What the client says more, on a connection that is carried.
const MORE: &[u8] = b"bytes that stay here";

/// [`PERMITTED`] is in France, which is permitted; [`REFUSED`] is in the United States.
fn written(permit: &str, lane: &str, more: &str) -> String {
    let (places, admin) = (lab::places(), lab::ADMIN);
    format!(
        "schema = 1
[policy]
permit = [\"{permit}\"]
[names]
binding = \"trust\"
{places}[[listen]]
mode = \"tproxy\"
address = \"[::]:15001\"
peek_timeout = \"500ms\"
[[listen]]
mode = \"lane\"
interface = [\"lan0\"]
{lane}
[admin]
address = \"{admin}\"
{more}"
    )
}

/// A gateway at work with a lane, the world behind it and a client before it.
struct Scene<'lab> {
    lab: &'lab Lab,
    gateway: Gateway<'lab>,
    world: Helper,
    client: Helper,
}

impl<'lab> Scene<'lab> {
    fn start(lab: &'lab Lab, lane: &str, more: &str) -> Self {
        let world = lab.world.helper("world");
        // What has ended is forgotten soon.
        let soon = "sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_time_wait=1 \
                    net.netfilter.nf_conntrack_udp_timeout=2";
        lab.gateway.shell(soon).unwrap();
        let gateway = lab.start_gateway(&written("FR", lane, more));
        gateway.capture();
        let scene = Self { lab, gateway, world, client: lab.client.helper("client") };
        scene.carries();
        scene
    }

    /// Waits until the kernel carries what is permitted.
    fn carries(&self) {
        wait_until("the lane carries", || (!carried(self.lab).is_empty()).then_some(()));
    }

    fn exchange(&mut self, ip: &str, up: u64, down: u64) -> Value {
        let to = at(ip, EXCHANGE);
        self.client.ask(&json!({"do": "exchange", "to": to, "up": up, "down": down}))
    }

    /// Opens a connection that stays, and waits until its first bytes are in the world.
    fn keep(&mut self, ip: &str) {
        let before = self.world.arrived(ip).0;
        let to = at(ip, EXCHANGE);
        let kept = self.client.ask(&json!({"do": "keep", "to": to, "hex": hex(QUIET)}));
        assert!(kept["kept"].is_u64(), "{kept}");
        wait_until("the first bytes have arrived", || {
            (self.world.arrived(ip).0 == before + 8).then_some(())
        });
    }

    /// Says more on the connection that was opened last.
    fn say_on(&mut self, ip: &str) -> Value {
        let to = at(ip, EXCHANGE);
        let more =
            json!({"do": "say-on", "to": to, "hex": hex(MORE), "patience_ms": 700, "enough": 1});
        self.client.ask(&more)
    }

    /// Tries the permitted and the refused side anew, TCP and UDP, each with payload.
    fn try_all(&mut self) -> Vec<Value> {
        let mut ends = Vec::new();
        for ip in [PERMITTED, REFUSED].concat() {
            let payload = hex(&[QUIET, b"never to be seen"].concat());
            let to = at(ip, EXCHANGE);
            let (tcp, udp) = (
                json!({"do": "send", "to": to, "hex": payload, "patience_ms": 400, "enough": 1}),
                json!({"do": "udp", "to": to, "hex": payload, "patience_ms": 100}),
            );
            ends.push(self.client.ask(&tcp));
            ends.push(self.client.ask(&udp));
        }
        ends
    }

    /// Every byte that the world has seen, by address.
    fn arrived(&mut self) -> BTreeMap<&'static str, u64> {
        let all = [PERMITTED, REFUSED].concat();
        all.into_iter().map(|ip| (ip, self.world.arrived(ip).0)).collect()
    }

    /// The record's lines of the lane, of one event, once there are so many of them.
    fn lane_lines(&self, event: &str, count: usize) -> Vec<Value> {
        wait_until(&format!("{count} lines {event} of the lane"), || {
            // Who lists connections has the kernel forget those that are over.
            drop(self.lab.gateway.shell("cat /proc/net/nf_conntrack >/dev/null"));
            let lines: Vec<Value> = self.gateway.records();
            let of_lane = |line: &Value| line["listener"] == "lane" && line["event"] == event;
            let lines: Vec<Value> = lines.into_iter().filter(of_lane).collect();
            (lines.len() >= count).then_some(lines)
        })
    }

    fn log(&self) -> Vec<Value> {
        self.gateway.records()
    }

    fn signal(&self, name: &str) {
        let sent = std::process::Command::new("kill")
            .args([&format!("-{name}"), &self.gateway.pid().to_string()])
            .status();
        assert!(sent.unwrap().success());
    }
}

/// The marks of what the kernel carries.
fn carried(lab: &Lab) -> String {
    let listed = lab.gateway.shell("nft list set inet schengate_lane carried").unwrap_or_default();
    listed.split_once("elements = {").map_or(String::new(), |(_, rest)| rest.to_owned())
}

/// A counter of the lane's rules.
fn counted(lab: &Lab, name: &str) -> u64 {
    let shown = capture(lab, &["show"]).1;
    let line = shown.lines().find(|line| line.starts_with(&format!("lane   {name} ")));
    let line = line.unwrap_or_else(|| panic!("no counter {name}: {shown}"));
    line.split_whitespace().nth(2).unwrap().parse().unwrap()
}

/// `schengate capture`, in the gateway's namespace: whether it succeeded, and what it said.
fn capture(lab: &Lab, arguments: &[&str]) -> (bool, String) {
    let mut command = lab.gateway.command(env!("CARGO_BIN_EXE_schengate"));
    let output = command.arg("capture").args(arguments).output().unwrap();
    (output.status.success(), said(&output))
}

#[test]
fn a_permitted_flow_is_carried_by_the_kernel_and_recorded_with_its_bytes() {
    let Some(lab) = lab("a lane") else { return };
    let mut scene = Scene::start(&lab, "", "");
    for (at, ip) in PERMITTED.into_iter().enumerate() {
        let here = scene.exchange(ip, 3_000_000, 2_000_000);
        assert_eq!(here["received"], 2_000_000, "{here}");
        wait_until("all of the client's bytes are in the world", || {
            (scene.world.arrived(ip).0 == 3_000_008).then_some(())
        });
        let closed = scene.lane_lines("close", at + 1);
        let line = closed.iter().find(|line| line["destination"] == lab::at(ip, EXCHANGE)).unwrap();
        assert_eq!((&line["verdict"], &line["reason"]), (&json!("allow"), &json!("permitted")));
        assert_eq!((&line["transport"], &line["end"]), (&json!("tcp"), &json!("done")), "{line}");
        // Whole packets: the payload, and at least 52 bytes of headers for each 64 KiB of it.
        let bytes = |key: &str| line[key].as_u64().unwrap();
        assert!((3_000_008..3_400_000).contains(&bytes("bytes_up")), "{line}");
        assert!((2_000_000..2_400_000).contains(&bytes("bytes_down")), "{line}");
        let opened = scene.lane_lines("open", at + 1);
        assert!(opened.iter().any(|opened| opened["id"] == line["id"]));
    }
    // The proxy saw none of it.
    assert!(scene.log().iter().all(|line| line["listener"] == "lane"), "{:?}", scene.log());
    assert_eq!(scene.gateway.count("mode=\"lane\",verdict=\"allow\",reason=\"permitted\""), 2.0);
    assert_eq!((counted(&lab, "unqueued"), counted(&lab, "refused")), (0, 0));
    let whole = capture(&lab, &["check", "--config", scene.gateway.config().to_str().unwrap()]);
    let line = whole.1.lines().find(|line| line.contains("lane ")).unwrap_or_default();
    assert!(line.ends_with("intact"), "{}", whole.1);
}

#[test]
fn a_datagram_is_carried_and_recorded_as_well() {
    let Some(lab) = lab("a lane for datagrams") else { return };
    let mut scene = Scene::start(&lab, "", "");
    for ip in PERMITTED {
        let ask = json!({"do": "udp", "to": at(ip, EXCHANGE), "hex": "00112233"});
        assert_eq!(scene.client.ask(&ask)["received"], "00112233");
    }
    let closed = scene.lane_lines("close", 2);
    for (ip, headers) in PERMITTED.into_iter().zip([28, 48]) {
        let line = closed.iter().find(|line| line["destination"] == at(ip, EXCHANGE)).unwrap();
        assert_eq!((&line["transport"], &line["end"]), (&json!("udp"), &json!("idle")), "{line}");
        // Exactly what the kernel counted: one datagram each way, its headers with it.
        let exact = json!(headers + 4);
        assert_eq!((&line["bytes_up"], &line["bytes_down"]), (&exact, &exact), "{line}");
    }
}

#[test]
fn what_is_refused_by_its_addresses_is_the_proxys_to_refuse_and_record() {
    let Some(lab) = lab("a lane and refusals") else { return };
    let mut scene = Scene::start(&lab, "", "");
    for ip in REFUSED {
        let payload = hex(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
        let end = scene.client.ask(&json!({"do": "send", "to": at(ip, 80), "hex": payload}));
        let answer = String::from_utf8(unhex(end["received"].as_str().unwrap())).unwrap();
        assert!(answer.starts_with("HTTP/1.1 451 "), "{ip}: {end}");
        let udp = json!({"do": "udp", "to": at(ip, 443), "hex": "00", "patience_ms": 3000});
        let end = scene.client.ask(&udp);
        assert!(end["end"] != "silence" && end["received"] == "", "{ip}: {end}");
        assert_eq!(scene.world.arrived(ip), (0, 0));
    }
    let refused = wait_until("every refusal is recorded", || {
        let lines = scene.log();
        let lines: Vec<_> = lines.into_iter().filter(|line| line["event"] == "refused").collect();
        (lines.len() >= 4).then_some(lines)
    });
    for line in refused {
        assert_eq!((&line["listener"], &line["reason"]), (&json!("tproxy"), &json!("outside")));
    }
}

#[test]
fn what_a_name_decides_is_the_proxys() {
    let Some(lab) = lab("a lane and names") else { return };
    let by_name = "[[rule]]\nname = 'n'\nhost = ['refused.example']\naction = 'block'\n";
    let mut scene = Scene::start(&lab, "", by_name);
    let ip = PERMITTED[0];
    for (host, answer) in [("refused.example", "HTTP/1.1 451 "), ("a.example", "HTTP/1.1 200 ")] {
        let payload = hex(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
        let end = scene.client.ask(&json!({"do": "send", "to": at(ip, 80), "hex": payload}));
        let got = String::from_utf8(unhex(end["received"].as_str().unwrap())).unwrap();
        assert!(got.starts_with(answer), "{host}: {got}");
        assert!(host == "refused.example" || got.ends_with(GREETING), "{got}");
    }
    let lines = wait_until("both are recorded", || {
        let lines = scene.log();
        let last = |line: &&Value| line["event"] == "refused" || line["event"] == "close";
        (lines.iter().filter(last).count() == 2).then_some(lines)
    });
    assert!(lines.iter().all(|line| line["listener"] == "tproxy"), "{lines:?}");
    assert_eq!(scene.gateway.count("mode=\"lane\""), 0.0);
}

/// Only a name could refuse what [`PERMITTED`] serves.
const BY_NAME: &str = "[[rule]]\nname = 'n'\nhost = ['refused.example']\naction = 'block'\n";

/// What curl says of a name at an address, over TLS.
fn curl(lab: &Lab, host: &str, ip: &str) -> (bool, String) {
    let bare = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let mut command = lab.client.command("curl");
    command.args(["-sSk", "--http1.1", "--max-time", "20", "--resolve"]);
    command.args([format!("{host}:443:{bare}"), format!("https://{host}/")]);
    let output = command.output().unwrap();
    (output.status.success(), said(&output))
}

/// Counts at the client what goes to an address and what comes back, as whole packets.
struct Meter<'lab>(&'lab Lab);

impl<'lab> Meter<'lab> {
    fn set(lab: &'lab Lab) -> Self {
        let rules = lab.write(
            "meter.nft",
            "table inet metering {
                counter up {}
                counter down {}
                chain output {
                    type filter hook output priority 0; policy accept;
                    tcp dport 443 counter name up
                }
                chain input {
                    type filter hook input priority 0; policy accept;
                    tcp sport 443 counter name down
                }
            }",
        );
        lab.client.shell(&format!("nft -f {}", rules.display())).unwrap();
        Self(lab)
    }

    /// What was counted since it was last asked.
    fn take(&self, name: &str) -> u64 {
        let listed =
            self.0.client.shell(&format!("nft reset counter inet metering {name}")).unwrap();
        let bytes = listed.split_once("bytes ").unwrap().1;
        bytes.split_whitespace().next().unwrap().parse().unwrap()
    }
}

#[test]
fn a_name_that_is_permitted_is_carried_and_recorded_to_the_byte() {
    let Some(lab) = lab("a lane that reads names") else { return };
    let scene = Scene::start(&lab, "", BY_NAME);
    let meter = Meter::set(&lab);
    for (at, ip) in PERMITTED.into_iter().enumerate() {
        let (works, text) = curl(&lab, "a.example", ip);
        assert!(works && text.contains(GREETING), "{ip}: {text}");
        let closed = scene.lane_lines("close", at + 1);
        let line = closed.iter().find(|line| line["destination"] == lab::at(ip, 443)).unwrap();
        assert_eq!((&line["verdict"], &line["host"]), (&json!("allow"), &json!("a.example")));
        assert_eq!((&line["end"], &line["protocol"]), (&json!("done"), &json!("tls")), "{line}");
        assert_eq!(line["bytes_up"], meter.take("up"), "{line}");
        assert_eq!(line["bytes_down"], meter.take("down"), "{line}");
    }
    assert!(scene.log().iter().all(|line| line["listener"] == "lane"), "{:?}", scene.log());
    assert_eq!((counted(&lab, "unqueued"), counted(&lab, "refused")), (0, 0));
}

#[test]
fn a_name_that_is_refused_is_reset_before_a_byte_arrives_and_then_told_by_the_proxy() {
    let Some(lab) = lab("a lane that refuses names") else { return };
    let mut scene = Scene::start(&lab, "", BY_NAME);
    for (at, ip) in PERMITTED.into_iter().enumerate() {
        let (works, text) = curl(&lab, "refused.example", ip);
        assert!(!works && text.to_lowercase().contains("reset"), "{ip}: {text}");
        let (works, text) = curl(&lab, "refused.example", ip);
        assert!(!works && text.contains("alert"), "{ip}: {text}");
        assert_eq!(scene.world.arrived(ip).0, 0, "bytes in the world");
        let refused = wait_until("both are recorded", || {
            let lines = scene.log();
            let lines: Vec<_> = lines.into_iter().filter(|it| it["event"] == "refused").collect();
            (lines.len() == 2 * (at + 1)).then_some(lines)
        });
        for listener in ["lane", "tproxy"] {
            let its = |line: &&Value| line["listener"] == listener;
            let line = refused.iter().filter(its).nth(at).unwrap();
            assert_eq!(
                (&line["host"], &line["reason"]),
                (&json!("refused.example"), &json!("rule"))
            );
            assert_eq!((&line["bytes_up"], &line["bytes_down"]), (&json!(0), &json!(0)), "{line}");
        }
    }
    // Another name there is not held up by it.
    let (works, text) = curl(&lab, "a.example", PERMITTED[0]);
    assert!(works && text.contains(GREETING), "{text}");
}

#[test]
fn what_is_no_hello_is_left_to_the_proxy() {
    let Some(lab) = lab("a lane and what it cannot read") else { return };
    let mut scene = Scene::start(&lab, "", BY_NAME);
    let ip = PERMITTED[0];
    for (said, then) in [("reset", ""), ("", "HTTP/1.1 451 ")] {
        let payload = hex(b"GET / HTTP/1.1\r\nHost: refused.example\r\n\r\n");
        let end = scene.client.ask(&json!({"do": "send", "to": at(ip, 443), "hex": payload}));
        let got = String::from_utf8(unhex(end["received"].as_str().unwrap())).unwrap();
        assert!(got.starts_with(then) && (said.is_empty() || end["end"] == said), "{end}");
        assert_eq!(scene.world.arrived(ip).0, 0);
    }
    let lines = wait_until("both are recorded", || {
        let lines = scene.log();
        (lines.len() >= 2).then_some(lines)
    });
    assert_eq!((&lines[0]["event"], &lines[0]["end"]), (&json!("unjudged"), &json!("restarted")));
    assert_eq!((&lines[0]["listener"], &lines[1]["listener"]), (&json!("lane"), &json!("tproxy")));
}

#[test]
fn a_second_hello_and_one_in_pieces_are_read() {
    let Some(lab) = lab("a lane and a second hello") else { return };
    let mut scene = Scene::start(&lab, "", BY_NAME);
    // The server knows no such group, and asks for a hello with another one.
    let ask = format!(
        "echo Q | timeout 20 openssl s_client -connect {}:443 -servername a.example -tls1_3 \
         -groups P-521:P-256 2>&1",
        PERMITTED[0]
    );
    let said = lab.client.shell(&ask).unwrap();
    assert!(said.contains("TLSv1.3"), "{said}");
    let hello = flights::tls_hello("b.example", &[]);
    let ask = json!({"do": "send", "to": at(PERMITTED[0], 443), "hex": hex(&hello), "step": 40,
        "pause_ms": 10, "enough": 1});
    let end = scene.client.ask(&ask);
    assert!(end["received"].as_str().unwrap().starts_with("160303"), "{end}");
    let opened = scene.lane_lines("open", 2);
    assert_eq!([&opened[0]["host"], &opened[1]["host"]], ["a.example", "b.example"]);
}

#[test]
fn a_second_hello_of_another_host_goes_nowhere() {
    let Some(lab) = lab("a lane and another second hello") else { return };
    let mut scene = Scene::start(&lab, "", BY_NAME);
    let (ip, first) = (PERMITTED[0], without_a_share(b"a.example"));
    let then = [record(20, &[1]), without_a_share(b"b.example")].concat();
    let ask = json!({"do": "send", "to": at(ip, 443), "hex": hex(&first), "enough": 1,
        "then": hex(&then)});
    let end = scene.client.ask(&ask);
    // What the server says is a request for another hello, and no more.
    assert!(end["received"].as_str().unwrap().starts_with("160303"), "{end}");
    assert_eq!(end["end"], "reset", "{end}");
    assert_eq!(scene.world.arrived(ip).0, first.len() as u64);
    let closed = scene.lane_lines("close", 1);
    assert_eq!(
        (&closed[0]["verdict"], &closed[0]["reason"]),
        (&json!("block"), &json!("mismatch"))
    );
}

/// After each of these nothing arrives of what a name decides: neither the rest of a hello of which half
/// is held, nor a new one, whatever its name.
const NAMELESS: &[Case] = &[
    ("killed", |scene| scene.gateway.kill()),
    ("stopped", |scene| scene.signal("STOP")),
    ("the lane's table is deleted", |scene| {
        scene.signal("STOP");
        scene.lab.gateway.shell("nft delete table inet schengate_lane").unwrap();
    }),
    ("every rule is flushed, and the process is gone", |scene| {
        scene.gateway.kill();
        scene.lab.gateway.shell("nft flush ruleset").unwrap();
    }),
    ("the rules for answers are gone", |scene| {
        scene.lab.gateway.shell("nft flush chain inet schengate_lane answers").unwrap();
    }),
    ("the rules behind the verdict on answers are gone", |scene| {
        scene.lab.gateway.shell("nft flush chain inet schengate_lane answered").unwrap();
    }),
    ("the kernel forgets every connection", |scene| {
        scene.lab.gateway.shell("conntrack -F 2>/dev/null").unwrap();
    }),
];

#[test]
fn nothing_of_what_a_name_decides_passes_where_a_part_of_the_lane_is_gone() {
    let hello = flights::tls_hello("refused.example", &[]);
    let (half, rest) = hello.split_at(hello.len() / 2);
    for (what, befalls) in NAMELESS {
        let Some(lab) = lab("a lane that fails while it reads") else { return };
        let mut scene = Scene::start(&lab, "", BY_NAME);
        let to = at(PERMITTED[0], 443);
        let kept = scene.client.ask(&json!({"do": "keep", "to": to, "hex": hex(half)}));
        assert!(kept["kept"].is_u64(), "{kept}");
        lab.switch_forwarding_on();
        befalls(&mut scene);
        for _ in 0..2 {
            let ask = json!({"do": "say-on", "to": to, "hex": hex(rest), "patience_ms": 400});
            scene.client.ask(&ask);
            let ask = json!({"do": "send", "to": to, "hex": hex(&hello), "patience_ms": 400});
            scene.client.ask(&ask);
        }
        assert_eq!(scene.world.arrived(PERMITTED[0]).0, 0, "{what}: bytes in the world");
        if scene.gateway.descriptors_if_there().is_some() {
            scene.signal("CONT");
        }
    }
}

/// Every TLS flight of the corpus, with a client's address for each.
fn corpus() -> Option<Vec<(String, String, Vec<u8>)>> {
    let beside = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let shared = std::env::var_os("SCHENGATE_SHARED").map_or(beside, std::path::PathBuf::from);
    let expected = std::fs::read_to_string(shared.join("corpus/expect.jsonl")).ok()?;
    let files = expected.lines().filter_map(|line| {
        let expected: Value = serde_json::from_str(line).unwrap();
        let file = expected["file"].as_str().unwrap().to_owned();
        let is_one = file.starts_with("tcp/") && expected["proto"] == "tls";
        (is_one && expected["incomplete"] != true).then_some(file)
    });
    let step = std::env::var("SCHENGATE_CORPUS_STEP").map_or(7, |step| step.parse().unwrap());
    let flights = files.step_by(step).enumerate().map(|(at, file)| {
        let bytes = std::fs::read(shared.join("corpus").join(&file)).unwrap();
        (file, format!("10.9.{}.{}", at / 250, at % 250 + 1), bytes)
    });
    Some(flights.collect())
}

/// What the record says of the client at an address: the verdict, and what it is by.
fn judged(gateway: &Gateway<'_>, client: &str, listener: &str) -> Value {
    wait_until("its verdict is recorded", || {
        let lines = gateway.records();
        let its = |line: &&Value| {
            let from = line["client"].as_str().unwrap_or_default();
            from.strip_prefix(client).is_some_and(|rest| rest.starts_with(':'))
                && line["event"] != "close"
                && (line["listener"] == listener || listener.is_empty())
        };
        let line = lines.iter().find(its)?;
        let keys = [
            "event",
            "listener",
            "verdict",
            "reason",
            "rule",
            "host",
            "name_source",
            "protocol",
            "ech",
            "fault",
            "law",
            "destination",
        ];
        Some(keys.into_iter().map(|key| (key.to_owned(), line[key].clone())).collect())
    })
}

#[test]
fn every_flight_has_the_same_verdict_and_record_by_the_lane_and_by_the_proxy() {
    let Some(flights) = corpus() else {
        println!("LEFT OUT: the corpus of first flights is not here (set SCHENGATE_SHARED)");
        return;
    };
    let Some(lab) = lab("both ways of a flight") else { return };
    lab.client.shell("ip route add local 10.9.0.0/16 dev lo").unwrap();
    lab.gateway.shell("ip route add 10.9.0.0/16 via 192.0.2.2").unwrap();
    let rules = "[policy.on]
unread = \"block\"
[[rule]]
name = 'n'
host = ['*.com', '*.net', '*.example']
action = 'block'
";
    let by_lane = written("FR", "", rules);
    let (before, behind) = by_lane.split_once("[[listen]]\nmode = \"lane\"").unwrap();
    let by_proxy = format!("{before}{}", &behind[behind.find("[admin]").unwrap()..]);
    let mut world = lab.world.helper("world");
    let mut client = lab.client.helper("client");
    let to = at(PERMITTED[0], 443);
    let say = |client: &mut Helper, from: &str, bytes: &[u8]| {
        let ask = json!({"do": "send", "to": to, "hex": hex(bytes), "patience_ms": 1500, "enough": 1,
            "from": from});
        client.ask(&ask)
    };
    let gateway = lab.start_gateway(&by_proxy);
    gateway.capture();
    let mut wanted = Vec::new();
    for (_, from, bytes) in &flights {
        say(&mut client, from, bytes);
        wanted.push(judged(&gateway, from, "tproxy"));
    }
    drop(gateway);
    let gateway = lab.start_gateway(&by_lane);
    gateway.capture();
    wait_until("the lane carries", || (!carried(&lab).is_empty()).then_some(()));
    let (mut here, mut left) = (0, 0);
    for ((file, from, bytes), mut wanted) in flights.iter().zip(wanted) {
        let arrived = world.arrived(PERMITTED[0]).0;
        let end = say(&mut client, from, bytes);
        let mut found = judged(&gateway, from, "");
        assert_eq!(found["listener"], "lane", "{file}: {found}");
        let went = world.arrived(PERMITTED[0]).0 - arrived;
        assert_eq!(found["event"] == "open", went > 0, "{file}: {went} bytes, {end}, {found}");
        if found["event"] == "unjudged" {
            left += 1;
            say(&mut client, from, bytes);
            found = judged(&gateway, from, "tproxy");
        } else {
            here += 1;
            wanted["listener"] = json!("lane");
        }
        assert_eq!(found, wanted, "{file}");
    }
    println!("{here} flights were judged in the lane, {left} were left to the proxy");
    assert!(here > 4 * left, "{here} and {left}");
}

#[test]
fn a_name_is_bound_to_its_address_while_its_packets_wait() {
    let Some(lab) = lab("a lane that asks for names") else { return };
    let rule = "[[rule]]\nname = 'n'\nhost = ['allowed.example', 'moved.example']\nport = [443]\n\
                action = 'allow'\nreason = 'a test'\n";
    let mut scene = Scene::start(&lab, "", rule);
    let resolved = format!("resolvers = [\"{NAME_SERVER}:53\"]");
    let policy = written("FR", "", rule).replace("binding = \"trust\"", &resolved);
    scene.gateway.kill();
    scene.gateway = lab.start_gateway(&policy);
    scene.gateway.capture();
    scene.carries();
    let ip = REFUSED[0];
    // The name belongs to another address, which the name server says while the hello is held.
    let (works, text) = curl(&lab, "moved.example", ip);
    assert!(!works && text.to_lowercase().contains("reset"), "{text}");
    assert_eq!(scene.world.arrived(ip).0, 0, "bytes in the world");
    let (works, text) = curl(&lab, "allowed.example", REFUSED[1]);
    assert!(works && text.contains(GREETING), "{text}");
    let lines = wait_until("both are recorded", || {
        let lines = scene.log();
        let opened = lines.iter().any(|line| line["event"] == "open");
        (opened && lines.iter().any(|line| line["event"] == "refused")).then_some(lines)
    });
    for line in lines {
        assert_eq!(line["listener"], "lane", "{line}");
        assert_eq!(line["name_bound"], line["host"] == "allowed.example", "{line}");
    }
}

#[test]
fn a_later_rule_by_name_ends_what_was_carried_by_its_name() {
    let Some(lab) = lab("a lane and a later rule by name") else { return };
    let mut scene = Scene::start(&lab, "", BY_NAME);
    let (to, hello) = (at(PERMITTED[0], 443), flights::tls_hello("a.example", &[]));
    let kept = scene.client.ask(&json!({"do": "keep", "to": to, "hex": hex(&hello)}));
    assert!(kept["kept"].is_u64(), "{kept}");
    scene.lane_lines("open", 1);
    let later = BY_NAME.replace("refused.example", "a.example");
    scene.gateway.reload(&written("FR", "", &later));
    let closed = scene.lane_lines("close", 1);
    assert_eq!(
        (&closed[0]["end"], &closed[0]["reason"]),
        (&json!("policy-change"), &json!("rule"))
    );
    assert_eq!(closed[0]["host"], "a.example");
    let before = scene.world.arrived(PERMITTED[0]).0;
    let end = scene.client.ask(&json!({"do": "say-on", "to": to, "hex": hex(MORE)}));
    assert_eq!(end["end"], "reset", "{end}");
    assert_eq!(scene.world.arrived(PERMITTED[0]).0, before);
}

#[test]
fn a_datagram_is_judged_anew_where_a_policy_refused_and_permits_again() {
    let Some(lab) = lab("a lane and a client with one port") else { return };
    let mut scene = Scene::start(&lab, "", "");
    let long = "sysctl -qw net.netfilter.nf_conntrack_udp_timeout=120 \
                net.netfilter.nf_conntrack_udp_timeout_stream=120";
    lab.gateway.shell(long).unwrap();
    let to = at(PERMITTED[0], EXCHANGE);
    let say = |scene: &mut Scene<'_>, what: &str| {
        let ask = json!({"do": what, "to": to, "datagrams": ["0011"], "patience_ms": 500});
        scene.client.ask(&ask)
    };
    assert_eq!(say(&mut scene, "open")["answers"], json!(["0011"]));
    let block = format!("[[rule]]\nname = 'n'\nto = ['{}/32']\naction = 'block'\n", PERMITTED[0]);
    scene.gateway.reload(&written("FR", "", &block));
    scene.lane_lines("close", 1);
    let arrived = scene.world.arrived(PERMITTED[0]);
    assert_eq!(say(&mut scene, "go-on")["answers"], json!([]));
    assert_eq!(scene.world.arrived(PERMITTED[0]), arrived);
    scene.gateway.reload(&written("FR", "", ""));
    wait_until("it is permitted again, from the same port", || {
        (say(&mut scene, "go-on")["answers"] == json!(["0011"])).then_some(())
    });
}

#[test]
fn a_packet_that_goes_its_own_way_and_a_second_connection_do_not_ride_on_one_that_is_carried() {
    let Some(lab) = lab("a lane and odd packets") else { return };
    let mut scene = Scene::start(&lab, "", "");
    let ip = PERMITTED[0];
    let to = at(ip, EXCHANGE);
    scene.keep(ip);
    scene.client.ask(&json!({"do": "open", "to": to, "datagrams": ["00"], "patience_ms": 500}));
    let opened = scene.lane_lines("open", 2);
    let client = |transport: &str| {
        let line = opened.iter().find(|line| line["transport"] == transport).unwrap();
        line["client"].as_str().unwrap().parse::<SocketAddr>().unwrap()
    };
    let before = scene.arrived();
    let to: SocketAddr = to.parse().unwrap();
    let syn = Sent::new(client("tcp"), to, SYN, 7, 0).bytes();
    let from = client("udp");
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    let datagram = [&ports[..], &[0, 9, 0, 0, 7]].concat();
    // By way of another host, and on from the destination.
    let routed = wrap(from.ip(), to.ip(), 17, &[131, 7, 4, 203, 0, 113, 9, 0], &datagram);
    for (count, packet) in [(1, syn), (2, routed)] {
        let ask = json!({"do": "raw", "to": at(ip, 0), "packets": [hex(&packet)]});
        scene.client.ask(&ask);
        wait_until("it is dropped", || (counted(&lab, "halted") == count).then_some(()));
    }
    assert_eq!(scene.arrived(), before);
    // The connection is as it was.
    scene.say_on(ip);
    wait_until("its bytes arrive", || {
        (scene.arrived()[ip] == before[ip] + MORE.len() as u64).then_some(())
    });
}

#[test]
fn a_flow_in_a_zone_of_connection_tracking_is_the_proxys() {
    let Some(lab) = lab("a lane and a zone") else { return };
    let mut scene = Scene::start(&lab, "", "");
    let rules = lab.write(
        "zone.nft",
        "table inet zone {
            chain zone {
                type filter hook prerouting priority -300; policy accept;
                ct zone set 5
            }
        }",
    );
    lab.gateway.shell(&format!("nft -f {}", rules.display())).unwrap();
    let here = scene.exchange(PERMITTED[0], 10, 10);
    assert_eq!(here["received"], 10, "{here}");
    let lines =
        wait_until("it is recorded", || Some(scene.log()).filter(|lines| !lines.is_empty()));
    assert!(lines.iter().all(|line| line["listener"] == "tproxy"), "{lines:?}");
}

#[test]
fn a_later_policy_ends_what_is_carried_both_ways_and_leaves_the_rest() {
    let Some(lab) = lab("a lane and a later policy") else { return };
    let mut scene = Scene::start(&lab, "", "");
    scene.keep(PERMITTED[1]);
    scene.keep(PERMITTED[0]);
    // One whose server has not closed its side: it hears of the reset.
    let silent = json!({"do": "keep", "to": at(PERMITTED[0], SILENCE), "hex": "00"});
    assert!(scene.client.ask(&silent)["kept"].is_u64());
    let block = format!("[[rule]]\nname = 'n'\nto = ['{}/32']\naction = 'block'\n", PERMITTED[0]);
    scene.gateway.reload(&written("FR", "", &block));
    let closed = scene.lane_lines("close", 2);
    assert_eq!(closed.len(), 2, "{closed:?}");
    for line in closed {
        assert_eq!((&line["end"], &line["reason"]), (&json!("policy-change"), &json!("rule")));
        assert!(line["destination"].as_str().unwrap().starts_with(PERMITTED[0]), "{line}");
        assert!(line["bytes_up"].as_u64().unwrap() > 8, "{line}");
    }
    let before = scene.arrived();
    let more = json!({"do": "say-on", "to": at(PERMITTED[0], SILENCE), "hex": hex(MORE)});
    let end = scene.client.ask(&more);
    assert_eq!(end["end"], "reset", "{end}");
    scene.say_on(PERMITTED[0]);
    assert_eq!(scene.arrived(), before);
    assert!(counted(&lab, "refused") >= 2);
    // The other one goes on.
    scene.say_on(PERMITTED[1]);
    wait_until("the other's bytes arrive", || {
        (scene.arrived()[PERMITTED[1]] == before[PERMITTED[1]] + MORE.len() as u64).then_some(())
    });
    assert_eq!(scene.arrived()[PERMITTED[0]], before[PERMITTED[0]]);
}

/// What becomes of a gateway, what is then tried, and whether it carries again by itself.
type Case = (&'static str, fn(&mut Scene<'_>));

/// After each of these nothing of a new flow arrives, nor a byte more of one that was carried.
const STOPPED: &[Case] = &[
    ("killed", |scene| scene.gateway.kill()),
    ("stopped", |scene| scene.signal("STOP")),
    ("the lane's table is deleted", |scene| {
        scene.signal("STOP");
        scene.lab.gateway.shell("nft delete table inet schengate_lane").unwrap();
    }),
    ("every rule is flushed", |scene| {
        scene.lab.gateway.shell("nft flush ruleset").unwrap();
    }),
    ("every rule is flushed, and the process is gone", |scene| {
        scene.gateway.kill();
        scene.lab.gateway.shell("nft flush ruleset").unwrap();
    }),
    ("the rule that hands packets over is gone", |scene| {
        scene.signal("STOP");
        scene.lab.gateway.shell("nft flush chain inet schengate_lane hand_over").unwrap();
    }),
    ("the rules behind the verdict are gone", |scene| {
        scene.signal("STOP");
        scene.lab.gateway.shell("nft flush chain inet schengate_lane judged").unwrap();
    }),
    ("the kernel forgets every connection", |scene| {
        scene.signal("STOP");
        scene.lab.gateway.shell("conntrack -F 2>/dev/null").unwrap();
    }),
];

#[test]
fn nothing_passes_where_a_part_of_the_lane_is_gone() {
    for (what, befalls) in STOPPED {
        let Some(lab) = lab("a lane that fails") else { return };
        let mut scene = Scene::start(&lab, "", "");
        let ip = PERMITTED[0];
        scene.keep(ip);
        lab.switch_forwarding_on();
        befalls(&mut scene);
        // What is carried stops within a second.
        wait_until(what, || carried(&lab).is_empty().then_some(()));
        let before = scene.arrived();
        scene.try_all();
        scene.say_on(ip);
        scene.try_all();
        assert_eq!(scene.arrived(), before, "{what}: bytes in the world");
        if scene.gateway.descriptors_if_there().is_some() {
            scene.signal("CONT");
        }
    }
}

#[test]
fn a_live_flow_goes_on_under_the_next_process_where_the_policy_says_so() {
    let Some(lab) = lab("a lane that carries on") else { return };
    let carry = "on_death = \"carry\"\n";
    let mut scene = Scene::start(&lab, carry, "");
    let ip = PERMITTED[0];
    scene.keep(ip);
    scene.keep(ip);
    let before = scene.world.arrived(ip).0;
    scene.gateway.kill();
    // Nobody judges, so nothing new passes; what was permitted goes on.
    scene.try_all();
    assert_eq!(scene.world.arrived(ip).0, before);
    scene.say_on(ip);
    let went_on = before + MORE.len() as u64;
    wait_until("it goes on", || (scene.world.arrived(ip).0 == went_on).then_some(()));
    let old = carried(&lab);
    // The next process finds it, judges it, and records it.
    scene.gateway = lab.start_gateway(&written("FR", carry, ""));
    scene.carries();
    let opened = scene.lane_lines("open", 1);
    assert_eq!(opened[0]["destination"], at(ip, EXCHANGE), "{opened:?}");
    wait_until("the mark of the last process is gone", || {
        let now = carried(&lab);
        (now != old && now.matches("0x").count() == 1).then_some(())
    });
    scene.say_on(ip);
    let went_on = went_on + MORE.len() as u64;
    wait_until("it goes on", || (scene.world.arrived(ip).0 == went_on).then_some(()));
}

#[test]
fn what_an_earlier_process_carried_and_the_next_does_not_permit_is_reset_with_a_line() {
    let Some(lab) = lab("a lane that carries nothing on") else { return };
    let carry = "on_death = \"carry\"\n";
    let by_name = format!("{BY_NAME}port = [443]\n");
    let mut scene = Scene::start(&lab, carry, &by_name);
    // Of one the address is refused from now on; what the other said is not known any more.
    scene.keep(PERMITTED[0]);
    let (to, hello) = (at(PERMITTED[1], 443), flights::tls_hello("a.example", &[]));
    assert!(
        scene.client.ask(&json!({"do": "keep", "to": to, "hex": hex(&hello)}))["kept"].is_u64()
    );
    scene.lane_lines("open", 2);
    scene.gateway.kill();
    let before = scene.arrived();
    let block =
        format!("{by_name}[[rule]]\nname = 'm'\nto = ['{}/32']\naction = 'block'\n", PERMITTED[0]);
    scene.gateway = lab.start_gateway(&written("FR", carry, &block));
    let refused = scene.lane_lines("refused", 2);
    for (ip, reason) in PERMITTED.into_iter().zip(["rule", "overload"]) {
        let its = |line: &&Value| line["destination"].as_str().unwrap().contains(ip);
        let line = refused.iter().find(its).unwrap();
        assert_eq!(
            (&line["reason"], &line["verdict"]),
            (&json!(reason), &json!("block")),
            "{line}"
        );
    }
    let end = scene.client.ask(&json!({"do": "say-on", "to": to, "hex": hex(MORE)}));
    assert_eq!(end["end"], "reset", "{end}");
    assert_eq!(scene.arrived(), before);
}

#[test]
fn half_a_hello_is_given_up_and_a_large_one_is_read() {
    let Some(lab) = lab("a lane and hellos of every size") else { return };
    let mut scene = Scene::start(&lab, "", BY_NAME);
    // Of both families: one is left to the proxy behind the first.
    let hello = flights::tls_hello_of("a.example", 15_000);
    let ask = json!({"do": "send", "to": at(PERMITTED[1], 443), "hex": hex(&hello), "enough": 1});
    let end = scene.client.ask(&ask);
    assert!(end["received"].as_str().unwrap().starts_with("160303"), "{end}");
    assert_eq!(scene.lane_lines("open", 1)[0]["host"], "a.example");
    let ask = json!({"do": "send", "to": at(PERMITTED[0], 443), "hex": hex(&hello[..900])});
    let end = scene.client.ask(&ask);
    assert_eq!((&end["end"], scene.world.arrived(PERMITTED[0]).0), (&json!("reset"), 0), "{end}");
    let left = scene.lane_lines("unjudged", 1);
    assert_eq!(left[0]["end"], "restarted");
}

#[test]
fn a_client_has_a_share_of_what_waits_and_more_of_it_is_the_proxys() {
    let Some(lab) = lab("a lane and a crowd") else { return };
    let mut scene = Scene::start(&lab, "max_connections_per_client = 8\n", BY_NAME);
    let half = &flights::tls_hello("a.example", &[])[..100];
    for _ in 0..12 {
        let ask = json!({"do": "keep", "to": at(PERMITTED[0], 443), "hex": hex(half)});
        assert!(scene.client.ask(&ask)["kept"].is_u64());
    }
    let (works, text) = curl(&lab, "a.example", PERMITTED[0]);
    assert!(works && text.contains(GREETING), "{text}");
    let opened = wait_until("it is recorded", || {
        let opened: Vec<_> =
            scene.log().into_iter().filter(|line| line["event"] == "open").collect();
        (!opened.is_empty()).then_some(opened)
    });
    assert!(opened.len() == 1 && opened[0]["listener"] == "tproxy", "{opened:?}");
}

#[test]
fn what_no_server_takes_ends_as_that() {
    let Some(lab) = lab("a lane and nobody there") else { return };
    let mut scene = Scene::start(&lab, "", BY_NAME);
    lab.world
        .shell(
            "nft add table inet shut; nft add chain inet shut input \
        '{ type filter hook input priority 0; }'; \
        nft add rule inet shut input tcp dport 443 reject with tcp reset",
        )
        .unwrap();
    let ask = json!({"do": "send", "to": at(PERMITTED[0], 443), "hex": "00"});
    assert_eq!(scene.client.ask(&ask)["end"], "refused");
    let lines =
        wait_until("it is recorded", || Some(scene.log()).filter(|lines| !lines.is_empty()));
    assert_eq!(
        (&lines[0]["event"], &lines[0]["end"]),
        (&json!("unjudged"), &json!("connect-refused"))
    );
}

#[test]
fn a_queue_that_somebody_else_reads_is_no_start() {
    let Some(lab) = lab("a lane and another program") else { return };
    let _first = Scene::start(&lab, "queues = \"7-8\"\n", "");
    let admin = lab::ADMIN.replace("9643", "9644");
    let policy = written("FR", "queues = \"8\"\n", "").replace(lab::ADMIN, &admin);
    let policy = lab.write("second.toml", &policy.replace("15001", "15002"));
    let mut second = lab.gateway.command(env!("CARGO_BIN_EXE_schengate"));
    let output = second.args(["run", "--config"]).arg(policy).output().unwrap();
    assert!(!output.status.success());
    let why = said(&output);
    assert!(why.contains("queue 8: another program reads it"), "{why}");
}

#[test]
fn a_queue_that_is_full_drops_and_nothing_of_it_passes_unjudged() {
    let Some(lab) = lab("a lane whose queue is full") else { return };
    let mut scene = Scene::start(&lab, "queues = \"7\"\n", "");
    lab.gateway.shell(lab::BEHIND_THE_CLIENT).unwrap();
    scene.signal("STOP");
    for ip in [REFUSED[0], PERMITTED[0]] {
        let flood =
            json!({"do": "flood", "to": at(ip, EXCHANGE), "hex": "00112233", "count": 15_000});
        assert_eq!(scene.client.ask(&flood)["sent"], 15_000);
    }
    let listed = lab.gateway.shell("cat /proc/self/net/netfilter/nfnetlink_queue").unwrap();
    let words: Vec<u64> =
        listed.split_whitespace().map(|word| word.parse().unwrap_or_default()).collect();
    assert!(words[5] + words[6] > 5000, "packets were dropped: {listed}");
    assert!(scene.arrived().values().all(|bytes| *bytes == 0), "{:?}", scene.arrived());
    scene.signal("CONT");
    scene.carries();
    // What waited is judged now, and what comes then is served.
    let here = scene.exchange(PERMITTED[1], 1000, 2000);
    assert_eq!(here["received"], 2000, "{here}");
    wait_until("the kernel's want of room was noticed", || {
        (scene.gateway.count("schengate_lane_lost_total{what=\"packets\"}") > 0.0).then_some(())
    });
    assert_eq!(REFUSED.map(|ip| scene.world.arrived(ip).0), [0, 0]);
}

/// Takes a packet from a queue, gives up what it may do, and lets the packet go all the same.
pub(crate) fn uncapped() {
    let queue = PacketQueue::bind(7, 64).unwrap();
    role::serve(|_| {
        let (mut batch, mut verdicts) = (QueueBatch::default(), Verdicts::default());
        wait_until("a packet waits", || {
            queue.receive(&mut batch).ok()?;
            batch.messages().find_map(|queued| match queued {
                Queued::Packet(packet) => {
                    verdicts.accept(7, packet.id, settings::Lane::FORWARDED);
                    Some(())
                }
                Queued::Fault(_) => None,
            })
        });
        sys::drop_capabilities(false).unwrap();
        let told = queue.send(&mut verdicts).map_err(|fault| fault.raw_os_error());
        let said = told.map_or_else(Some, |()| {
            wait_until("the kernel answers", || {
                queue.receive(&mut batch).ok()?;
                batch.messages().find_map(|queued| match queued {
                    Queued::Fault(fault) => Some(Some(fault.raw_os_error())),
                    Queued::Packet(_) => None,
                })
            })
        });
        json!(said.flatten())
    });
}

#[test]
fn a_verdict_of_who_may_not_say_one_lets_nothing_pass() {
    let Some(lab) = lab("a lane without a capability") else { return };
    let policy = lab.write("policy.toml", &written("FR", "queues = \"7\"\n", ""));
    let up = capture(&lab, &["up", "--gateway", "--config", policy.to_str().unwrap()]);
    assert!(up.0, "{}", up.1);
    let mut world = lab.world.helper("world");
    let (mut client, mut uncapped) = (lab.client.helper("client"), lab.gateway.helper("uncapped"));
    let udp =
        json!({"do": "udp", "to": at(PERMITTED[0], EXCHANGE), "hex": "00", "patience_ms": 100});
    client.ask(&udp);
    assert_eq!(uncapped.ask(&json!("go")), libc::EPERM);
    assert_eq!(world.arrived(PERMITTED[0]), (0, 0));
    assert_eq!(client.ask(&udp)["end"], "silence");
    assert_eq!(world.arrived(PERMITTED[0]), (0, 0));
}
