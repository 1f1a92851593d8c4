//! A mixed load over reloads, after which the counters of final verdicts equal the final lines of the
//! record exactly, the transfer register the segments and the counters, and memory and descriptors are where they were.
//!
//! A few rounds, each with a reload, unless `SCHENGATE_SOAK` says how many seconds it lasts; then the
//! reloads are 20, spread over them:
//!
//! ```sh
//! SCHENGATE_SOAK=900 cargo test --release --test net soak -- --nocapture
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use schengate::evidence::{Segment, Settings, Sink};
use serde_json::{Value, json};

use crate::lab::role::{self, EXCHANGE, SILENCE, hex};
use crate::lab::{
    self, Gateway, Helper, Lab, NAME_SERVER, PERMITTED, REFUSED, at, lab, wait_until,
};

const PROXY: &str = "192.0.2.1:3128";

/// Reloads of a soak.
const RELOADS: u32 = 20;

/// Descriptors of the empty pipes that the workers keep.
const PIPES: usize = 64;

/// `record`: where the record is kept; `permits`: whether [`PERMITTED`] is permitted.
fn policy(record: &Path, permits: bool, word: u32) -> String {
    let record = record.display();
    let (places, admin) = (lab::places(), lab::ADMIN);
    let permit = if permits { "FR" } else { "DE" };
    format!(
        "schema = 1
[policy]
mode = \"enforce\"
permit = [\"{permit}\"]

[policy.on]
unread = \"block\"
private = \"block\"

[names]
binding = \"verify\"
resolvers = [\"{NAME_SERVER}:53\"]

[[rule]]
name = \"a name that is refused\"
host = [\"foreign.example\"]
port = [80, 443]
action = \"block\"
reason = \"reload {word}\"

{places}[[listen]]
mode = \"tproxy\"
address = \"[::]:15001\"
peek_timeout = \"200ms\"

[[listen]]
mode = \"proxy\"
address = \"{PROXY}\"
max_connections = 8
max_connections_per_client = 0

[admin]
address = \"{admin}\"

[audit]
directory = \"{record}\"

[log]
connections = \"all\"
"
    )
}

/// A ClientHello (RFC 8446 §4.1.2) with one extension, `server_name`.
fn hello(name: &str) -> Vec<u8> {
    let sized = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
    let entry = [&[0][..], &sized(name.as_bytes())].concat();
    let extension = [&[0, 0][..], &sized(&sized(&entry))].concat();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(sized(&extension));
    let handshake = [&[1, 0][..], &sized(&body)].concat();
    [&[22, 3, 1][..], &sized(&handshake)].concat()
}

struct Soak<'lab> {
    gateway: Gateway<'lab>,
    log: PathBuf,
    record: tempfile::TempDir,
    world: Helper,
    client: Helper,
}

impl<'lab> Soak<'lab> {
    fn start(lab: &'lab Lab) -> Self {
        let (world, client) = (lab.world.helper("world"), lab.client.helper("client"));
        let record = tempfile::tempdir().unwrap();
        let gateway = lab.start_gateway(&policy(record.path(), true, 0));
        gateway.capture();
        let log = lab.write("soak", "").with_file_name("gateway.log");
        Self { gateway, log, record, world, client }
    }

    fn send(&mut self, to: &str, bytes: &[u8]) -> Value {
        self.client.ask(&json!({"do": "send", "to": to, "hex": hex(bytes), "patience_ms": 5000}))
    }

    /// A tunnel to this host, in which the client then says these bytes.
    fn tunnel(&mut self, host: &str, inside: &[u8]) {
        let ask = format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        self.client.ask(&json!({"do": "send", "to": PROXY, "hex": hex(ask.as_bytes()),
            "enough": 19, "then": hex(inside), "patience_ms": 5000}));
    }

    /// What the record has to tell apart, once each.
    fn load(&mut self) {
        for ip in PERMITTED {
            self.client.ask(
                &json!({"do": "exchange", "to": at(ip, EXCHANGE), "up": 300_000, "down": 300_000}),
            );
        }
        for ip in REFUSED {
            self.send(&at(ip, EXCHANGE), b"\0\0\0\0\0\0\0\x01 refused");
        }
        let (permitted, refused) = (at(PERMITTED[0], 443), at(REFUSED[0], 443));
        self.send(&permitted, &hello("permitted.example"));
        self.send(&permitted, &hello("foreign.example"));
        self.send(&refused, &hello("permitted.example"));
        // Half a hello; nothing; a reset in the middle.
        self.send(&permitted, &hello("permitted.example")[..20]);
        self.send(&permitted, b"");
        let reset = json!({"do": "send", "to": permitted, "hex": "160301", "reset": true});
        self.client.ask(&reset);
        // A tunnel to one host with the hello of another, one that is right, and one that is none.
        self.tunnel("permitted.example:443", &hello("moved.example"));
        self.tunnel("permitted.example:443", &hello("permitted.example"));
        self.tunnel(&at(PERMITTED[0], EXCHANGE), b"\0\0\0\0\0\0\0\x05 and more");
        self.tunnel("refused.example:443", b"");
        self.tunnel("servfail.example:443", b"");
        // Requests on one connection: the last ends it.
        let host = "permitted.example";
        let get = |host: &str, last: bool| {
            let last = if last { "Connection: close\r\n" } else { "" };
            format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n{last}\r\n")
        };
        let requests = get(host, false) + &get("foreign.example", false) + &get(host, true);
        self.send(PROXY, requests.as_bytes());
        self.send(PROXY, b"GARBAGE\r\n\r\n");
        self.send(PROXY, &[5, 1, 0]);
        for ip in [PERMITTED[0], REFUSED[0]] {
            for port in role::UDP {
                let ask = json!({"do": "udp", "to": at(ip, port), "hex": "00112233",
                    "patience_ms": 300});
                self.client.ask(&ask);
            }
        }
        // More than the explicit listener takes.
        let to = at(PERMITTED[0], SILENCE);
        let ask = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n");
        let crowd = json!({"do": "crowd", "to": PROXY, "count": 12, "hex": hex(ask.as_bytes())});
        self.client.ask(&crowd);
        self.client.ask(&json!("disperse"));
    }

    /// Two reloads, of which the first cuts what is held.
    fn reload(&mut self, word: u32) {
        let crowd = json!({"do": "crowd", "to": at(PERMITTED[0], SILENCE), "count": 5});
        assert_eq!(self.client.ask(&crowd), 5);
        self.gateway.reload(&policy(self.record.path(), false, word));
        wait_until("what was held is cut", || {
            let cut = r#"schengate_verdicts_final_total{verdict="block",reason="outside"}"#;
            (self.gateway.count(cut) >= 5.0 * f64::from(word)).then_some(())
        });
        self.client.ask(&json!("disperse"));
        self.gateway.reload(&policy(self.record.path(), true, word));
    }

    /// Waits until nobody is served any more.
    fn quiet(&mut self) {
        // UDP flows end by their silence, which lasts 30 s and more: a reload that refuses all of
        // them ends them now.
        self.gateway.reload(&policy(self.record.path(), false, 0));
        wait_until("every connection has ended", || {
            self.world.ask(&json!("let go"));
            (self.gateway.count("schengate_connections_active ") == 0.0).then_some(())
        });
        self.gateway.reload(&policy(self.record.path(), true, 0));
    }

    /// Final lines of the record, by verdict and reason.
    fn lines(&self) -> BTreeMap<String, u64> {
        let mut lines = BTreeMap::new();
        for line in fs::read_to_string(&self.log).unwrap().lines() {
            let line: Value = serde_json::from_str(line).expect("each line is whole");
            if line["end"].is_null() {
                continue;
            }
            let word = |key: &str| line[key].as_str().unwrap_or("none").to_owned();
            let series = format!("verdict={:?},reason={:?}", word("verdict"), word("reason"));
            *lines.entry(series).or_default() += 1;
        }
        lines
    }

    /// The counters, by the same labels.
    fn counters(&self) -> BTreeMap<String, u64> {
        let text = self.gateway.metrics();
        let own = text.lines().filter_map(|line| {
            let (labels, count) =
                line.strip_prefix("schengate_verdicts_final_total{")?.split_once("} ")?;
            Some((labels.to_owned(), count.parse().unwrap()))
        });
        own.filter(|&(_, count)| count > 0).collect()
    }

    /// Holds the counters against the record, and says how many final lines there are.
    fn agree(&mut self) -> u64 {
        self.quiet();
        let counters = self.counters();
        wait_until("the record is written", || {
            let sum = |of: &BTreeMap<_, u64>| of.values().sum::<u64>();
            (sum(&self.lines()) >= sum(&counters)).then_some(())
        });
        assert_eq!(self.lines(), counters, "final lines, and counters of them");
        assert_eq!(self.gateway.count("schengate_audit_lost_total "), 0.0);
        self.reconciled();
        let bytes = self.gateway.count("schengate_bytes_total{direction=\"up\"}");
        assert_eq!(bytes as u64, self.bytes_up(), "bytes up");
        counters.values().sum()
    }

    /// Holds the register, the segments and the counters against each other.
    fn reconciled(&self) {
        let metrics = self.log.with_file_name("metrics");
        let told = wait_until("the register has read everything", || {
            fs::write(&metrics, self.gateway.metrics()).unwrap();
            let mut reconcile = Command::new(env!("CARGO_BIN_EXE_schengate"));
            reconcile.args(["audit", "reconcile", "--json", "--metrics"]).arg(&metrics);
            let output = reconcile.arg("-d").arg(self.record.path()).output().unwrap();
            let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            // What is not in a segment yet is no difference.
            (told["behind"] == 0 && told["agrees"] == true).then_some(told)
        });
        assert!(told["counters"].as_u64() > Some(10) && told["lost"] == 0, "{told}");
        assert_eq!(
            (&told["differences"], &told["hours_left_out"]),
            (&json!([]), &json!(0)),
            "{told}"
        );
        println!("reconciled: {told}");
    }

    /// Records of the whole run, and the bytes of their segments once the next start has sealed them.
    fn sealed(&mut self) -> (u64, u64) {
        self.gateway.stop();
        let settings = Settings::new(self.record.path().to_owned());
        assert!(Sink::start(&settings, false).unwrap().close(Duration::from_secs(60)));
        let segments = Segment::all(self.record.path()).unwrap();
        let sizes = segments.iter().filter(|segment| segment.is_sealed).map(|segment| {
            let size = |name| fs::metadata(self.record.path().join(name)).unwrap().len();
            (size(format!("{:020}.leaves", segment.first)) / 32, size(segment.name()))
        });
        sizes.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    fn bytes_up(&self) -> u64 {
        let text = fs::read_to_string(&self.log).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let finals = lines.filter(|line| !line["end"].is_null());
        finals.filter_map(|line| line["bytes_up"].as_u64()).sum()
    }
}

#[test]
fn s04_counters_of_final_verdicts_equal_the_final_lines_over_a_mixed_soak() {
    let Some(lab) = lab("s04_soak") else { return };
    let lasts = std::env::var("SCHENGATE_SOAK").ok();
    let lasts = lasts.map(|text| Duration::from_secs(text.parse().expect("seconds")));
    let mut soak = Soak::start(&lab);
    // What is kept once it was needed is there after this.
    for _ in 0..3 {
        soak.load();
    }
    soak.reload(1);
    soak.agree();
    let (memory, descriptors) = (soak.gateway.memory_kib(), soak.gateway.descriptors());
    let begun = Instant::now();
    let (mut rounds, mut reloads) = (0_u32, 1);
    loop {
        soak.load();
        rounds += 1;
        let due = match lasts {
            Some(lasts) => begun.elapsed() >= lasts * (reloads) / (RELOADS / 2 + 1),
            None => true,
        };
        if due {
            reloads += 1;
            soak.reload(reloads);
        }
        if lasts.map_or(rounds == 2, |lasts| begun.elapsed() >= lasts) {
            break;
        }
    }
    let lines = soak.agree();
    let (after, open) = (soak.gateway.memory_kib(), soak.gateway.descriptors());
    let took = begun.elapsed().as_secs();
    let reloads = soak.gateway.count("schengate_policy_reload_total{result=\"done\"}");
    println!(
        "{rounds} rounds in {took} s, {reloads} reloads: {lines} final lines and as many counted; \
         memory {memory} KiB, then {after} KiB; descriptors {descriptors}, then {open}"
    );
    for (series, count) in soak.counters() {
        println!("  {series} {count}");
    }
    assert!(after <= memory + memory / 5, "{memory} KiB, then {after} KiB");
    assert!(open <= descriptors + PIPES, "{descriptors} descriptors, then {open}");
    for reason in ["outside", "mismatch", "overload", "permitted"] {
        let label = format!(
            "schengate_verdicts_final_total{{verdict=\"{}\",reason=\"{reason}\"}}",
            if reason == "permitted" { "allow" } else { "block" }
        );
        assert!(soak.gateway.count(&label) > 0.0, "{reason} was met");
    }
    let (records, sealed) = soak.sealed();
    let each = sealed as f64 / records as f64;
    println!("{records} records sealed: {each:.1} bytes each, and 32 of its hash");
    // A few records share little with each other.
    assert!(lasts.is_none() || each <= 150.0, "{each}");
}
