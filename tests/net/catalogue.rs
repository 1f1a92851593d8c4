//! What every row of the catalogue shares: one gateway with a transparent and an explicit listener
//! for all rows of a file, and the oracle: nothing outside for a block, one final line of the
//! record for each attempt, counters that equal the lines, a process that lives, its descriptors
//! back to where they were.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use crate::lab::role::{hex, unhex};
use crate::lab::{self, ADMIN, Helper, Lab, NAME_SERVER, PERMITTED, REFUSED, at, said, wait_until};

/// Where the explicit listener is.
pub(crate) const PROXY: &str = "192.0.2.1:3128";

/// Fatal alert `access_denied` (RFC 8446 §6).
pub(crate) const ALERT: &str = "15030300020231";

/// A scene that the rows of one file take turns at. It lives as long as the process: the gateway
/// ends, and its directory goes, when the pipe to its keeper closes.
type Shared = &'static Mutex<Option<Scene>>;

/// The scene of each file of rows, by its path.
static SCENES: Mutex<BTreeMap<&str, Shared>> = Mutex::new(BTreeMap::new());

fn scene_of(file: &'static str) -> Shared {
    let mut scenes = SCENES.lock().unwrap_or_else(PoisonError::into_inner);
    scenes.entry(file).or_insert_with(|| Box::leak(Box::default()))
}

/// A gateway at work, the world behind it and a client before it.
pub(crate) struct Scene {
    lab: Lab,
    /// Ends the gateway when its standard input closes.
    _keeper: Child,
    pid: u32,
    log: PathBuf,
    pub(crate) world: Helper,
    pub(crate) client: Helper,
    /// Lines of the record that earlier rows have had.
    had: usize,
    descriptors: usize,
}

fn policy() -> String {
    let ([p4, p6], [r4, r6]) = (PERMITTED, REFUSED);
    format!(
        "schema = 1
[policy]
mode = \"enforce\"
permit = [\"FR\"]

[policy.on]
unread = \"block\"
private = \"block\"

[names]
binding = \"verify\"
resolvers = [\"{NAME_SERVER}:53\"]

[[rule]]
name = \"foreign\"
host = [\"*.foreign.example\"]
port = [80, 443]
action = \"block\"

[[rule]]
name = \"names\"
host = [\"allowed.example\", \"*.permitted.example\"]
port = [80, 443]
action = \"allow\"
reason = \"the name decides in these tests\"

[[place]]
to = [\"{p4}/32\", \"{p6}/128\", \"198.51.100.96/28\"]
location = [\"FR\"]
reason = \"the permitted side of the laboratory\"

[[place]]
to = [\"203.0.113.0/24\", \"{r4}/32\", \"{r6}/128\"]
location = [\"US\"]
reason = \"the refused side of the laboratory\"

[[listen]]
mode = \"tproxy\"
address = \"[::]:15001\"
peek_timeout = \"500ms\"
connect_timeout = \"800ms\"

[[listen]]
mode = \"proxy\"
address = \"{PROXY}\"
peek_timeout = \"500ms\"
connect_timeout = \"800ms\"

[admin]
address = \"{ADMIN}\"
"
    )
}

impl Scene {
    fn start(test: &str) -> Option<Self> {
        let lab = lab::lab(test)?;
        let world = lab.world.helper("world");
        let config = lab.write("policy.toml", &policy());
        let log = lab.write("gateway.log", "");
        let script = "\"$1\" run --workers 2 --config \"$2\" >\"$3\" 2>&1 & gateway=$!
            echo $gateway; cat >/dev/null; kill -9 $gateway; rm -rf \"${2%/*}\"";
        // Data in a SYN is taken by every listener, without a cookie (ip-sysctl, tcp_fastopen).
        lab.gateway.shell("sysctl -qw net.ipv4.tcp_fastopen=0x602").unwrap();
        let mut keeper = lab
            .gateway
            .command("sh")
            .args(["-c", script, "sh", env!("CARGO_BIN_EXE_schengate")])
            .args([&config, &log])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pid = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut pid).unwrap();
        let client = lab.client.helper("client");
        let pid = pid.trim().parse().unwrap();
        let mut scene =
            Self { lab, _keeper: keeper, pid, log, world, client, had: 0, descriptors: 0 };
        wait_until("the gateway is ready", || scene.admin("/readyz"));
        let gateway = &scene.lab.gateway;
        let output = gateway
            .command(env!("CARGO_BIN_EXE_schengate"))
            .args(["capture", "up", "--gateway", "--config"])
            .arg(&config)
            .output()
            .unwrap();
        assert!(output.status.success(), "capture up: {}", said(&output));
        // Sockets to the resolver, once opened, stay.
        scene.proxy(&connect("nobody.example:443"));
        wait_until("its line is written", || (!scene.final_lines().is_empty()).then_some(()));
        scene.descriptors = scene.open_descriptors();
        scene.had = scene.final_lines().len();
        Some(scene)
    }

    fn admin(&self, page: &str) -> Option<String> {
        let url = format!("http://{ADMIN}{page}");
        let mut curl = self.lab.gateway.command("curl");
        let output =
            curl.args(["-sf", "--noproxy", "*", "--max-time", "5", &url]).output().unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The value of the one metric of this name.
    pub(crate) fn metric(&self, name: &str) -> Option<u64> {
        let text = self.admin("/metrics")?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(Some(0), |value| value.parse().ok())
    }

    /// Open descriptors but pipes, of which each worker keeps some for its next connections.
    fn open_descriptors(&self) -> usize {
        let open = fs::read_dir(Path::new("/proc").join(self.pid.to_string()).join("fd"));
        let open = open.expect("the gateway lives").filter_map(|entry| entry.ok()?.path().into());
        let is_pipe = |to: &PathBuf| to.as_os_str().as_encoded_bytes().starts_with(b"pipe:");
        open.filter(|path: &PathBuf| !fs::read_link(path).is_ok_and(|to| is_pipe(&to))).count()
    }

    /// Every line of the record that ends a connection or request.
    fn final_lines(&self) -> Vec<Value> {
        let text = fs::read(&self.log).unwrap();
        let text = String::from_utf8(text).expect("the record is UTF-8 whatever clients send");
        let lines = text.lines().filter(|line| line.starts_with("{\"event\":"));
        let lines = lines.map(|line| serde_json::from_str::<Value>(line).expect("a whole line"));
        lines.filter(|line| line["event"] != "open").collect()
    }

    /// Payload bytes and connections that the world has seen, over all its addresses.
    fn arrived(&mut self) -> (u64, u64) {
        let each = [PERMITTED, REFUSED].concat();
        let each = each.into_iter().map(|ip| self.world.arrived(ip));
        each.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    /// A client of its own, for what goes on beside the row.
    pub(crate) fn another_client(&self) -> Helper {
        self.lab.client.helper("client")
    }

    /// Runs a shell script in the gateway's namespace.
    pub(crate) fn in_the_gateway(&self, script: &str) -> String {
        self.lab.gateway.shell(script).unwrap()
    }

    /// Runs a shell script in the client's namespace.
    pub(crate) fn in_the_client(&self, script: &str) -> String {
        self.lab.client.shell(script).unwrap()
    }

    /// Runs a shell script in the world's namespace.
    pub(crate) fn in_the_world(&self, script: &str) -> String {
        self.lab.world.shell(script).unwrap()
    }

    /// Names that the world's name server was asked about so far.
    pub(crate) fn asked(&mut self) -> Vec<String> {
        serde_json::from_value(self.world.ask(&json!("asked"))).unwrap()
    }

    /// Every plain request that the world has had so far, as it came.
    pub(crate) fn requests(&mut self) -> Vec<String> {
        serde_json::from_value(self.world.ask(&json!("requests"))).unwrap()
    }

    /// Sends bytes to a port, in segments of `step`, and says what came back: `end`, `received`.
    pub(crate) fn send(&mut self, to: &str, bytes: &[u8], step: usize) -> Value {
        self.send_with(to, bytes, json!({"step": step}))
    }

    pub(crate) fn send_with(&mut self, to: &str, bytes: &[u8], more: Value) -> Value {
        let mut ask = json!({"do": "send", "to": to, "hex": hex(bytes), "enough": 7,
            "patience_ms": 6_000});
        let fields = ask.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        self.client.ask(&ask)
    }

    /// Sends bytes to the explicit listener, and gives all that comes back until it closes.
    pub(crate) fn proxy(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.proxy_with(bytes, json!({}))
    }

    pub(crate) fn proxy_with(&mut self, bytes: &[u8], more: Value) -> Vec<u8> {
        let mut all = json!({"enough": u64::MAX});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = self.send_with(PROXY, bytes, all);
        assert_ne!(answer["end"], "silence", "the proxy left its client waiting");
        unhex(answer["received"].as_str().unwrap())
    }

    /// The status of an HTTP answer of the explicit listener; 0 where there was none.
    pub(crate) fn status(&mut self, request: &[u8]) -> u16 {
        let answer = self.proxy(request);
        let text = String::from_utf8_lossy(&answer).into_owned();
        text.strip_prefix("HTTP/1.1 ").map_or(0, |rest| rest[..3].parse().unwrap())
    }
}

/// What must have come of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expect {
    /// No byte and no connection outside.
    Blocked,
    /// Exactly so many payload bytes outside.
    Forwarded(usize),
    /// The row looks for itself.
    Told,
}

/// Plays one row that makes `attempts`, and gives their lines of the record. `None` where there
/// is no laboratory.
#[track_caller]
pub(crate) fn row(
    id: &str,
    expect: Expect,
    attempts: usize,
    act: impl FnOnce(&mut Scene),
) -> Option<Vec<Value>> {
    let mut scene =
        scene_of(Location::caller().file()).lock().unwrap_or_else(PoisonError::into_inner);
    if scene.is_none() {
        *scene = Scene::start(id);
    }
    let scene = scene.as_mut()?;
    let (bytes, connections) = scene.arrived();
    wait_until(&format!("{id} begins with no connection"), || {
        (scene.metric("schengate_connections_active") == Some(0)).then_some(())
    });
    let counted = scene.metric("schengate_connection_duration_seconds_count").unwrap();
    // A line is written a moment after it is counted: that of the start, or of a row that failed.
    wait_until(&format!("{id} begins with all lines of before"), || {
        (scene.final_lines().len() as u64 >= counted).then_some(())
    });
    scene.had = scene.final_lines().len();
    act(scene);
    wait_until(&format!("{id} has {attempts} lines"), || {
        (scene.final_lines().len() >= scene.had + attempts).then_some(())
    });
    wait_until(&format!("{id} leaves no connection"), || {
        (scene.metric("schengate_connections_active") == Some(0)).then_some(())
    });
    wait_until(&format!("{id} leaves no descriptor"), || {
        (scene.open_descriptors() <= scene.descriptors).then_some(())
    });
    let mut lines = scene.final_lines().split_off(scene.had);
    // Each worker hands its lines over in batches; the ids say in which order connections came.
    let number = |line: &Value| line["id"].as_str()?.rsplit('-').next()?.parse::<u64>().ok();
    lines.sort_by_key(number);
    assert_eq!(lines.len(), attempts, "{id}: one record for each attempt: {lines:#?}");
    let count = scene.metric("schengate_connection_duration_seconds_count").unwrap();
    assert_eq!(count - counted, attempts as u64, "{id}: counters equal records");
    let (bytes_now, connections_now) = scene.arrived();
    match expect {
        Expect::Blocked => {
            let outside = (bytes_now - bytes, connections_now - connections);
            assert_eq!(outside, (0, 0), "{id}: bytes and connections outside: {lines:#?}");
        }
        Expect::Forwarded(all) => assert_eq!(bytes_now - bytes, all as u64, "{id}: {lines:#?}"),
        Expect::Told => {}
    }
    Some(lines)
}

/// Plays a row of first flights to one destination, each of which must be refused, and asserts the
/// reason in the record.
#[track_caller]
pub(crate) fn refused(id: &str, to: &str, flights: &[Vec<u8>], reason: &str) {
    let lines = row(id, Expect::Blocked, flights.len(), |scene| {
        for flight in flights {
            let end = scene.send_with(to, flight, json!({"enough": u64::MAX}));
            let received = end["received"].as_str().unwrap();
            let told = received.is_empty() || received == ALERT || received.starts_with("48545450");
            assert!(told, "{id}: {end}");
            assert_ne!(end["end"], "silence", "{id}: nobody refused {}", flight.escape_ascii());
        }
    });
    for (line, flight) in lines.into_iter().flatten().zip(flights) {
        let what = (line["verdict"].as_str(), line["reason"].as_str());
        assert_eq!(what, (Some("block"), Some(reason)), "{id}: {} {line}", flight.escape_ascii());
    }
}

/// Plays a row of first flights, each of which must arrive byte for byte.
#[track_caller]
pub(crate) fn forwarded(id: &str, to: &str, flights: &[Vec<u8>], step: usize) -> Vec<Value> {
    let all = flights.iter().map(Vec::len).sum();
    let lines = row(id, Expect::Forwarded(all), flights.len(), |scene| {
        for flight in flights {
            let end = scene.send(to, flight, step);
            assert_ne!(end["received"], "", "{id}: {end}");
            assert_ne!(end["received"], ALERT, "{id}: {end}");
        }
    });
    lines.unwrap_or_default()
}

/// A CONNECT request.
pub(crate) fn connect(authority: &str) -> Vec<u8> {
    format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n").into_bytes()
}

/// The refused side of the laboratory, port 443.
pub(crate) fn abroad() -> String {
    at(REFUSED[0], 443)
}

pub(crate) fn sized(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

pub(crate) fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &sized(body)].concat()
}

/// The extension `server_name` of these names, each of its type (RFC 6066 §3).
pub(crate) fn server_names(names: &[(u8, &[u8])]) -> Vec<u8> {
    let list = names.iter().flat_map(|(kind, name)| [&[*kind][..], &sized(name)].concat());
    extension(0, &sized(&list.collect::<Vec<_>>()))
}

/// The handshake message of a ClientHello with these extensions (RFC 8446 §4.1.2).
pub(crate) fn message(extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 4, 0x13, 1, 0xc0, 0x2f, 1, 0]);
    body.extend(sized(extensions));
    let [_, length @ ..] = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[1][..], &length, &body].concat()
}

pub(crate) fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind, 3, 1][..], &sized(payload)].concat()
}

/// A whole ClientHello that names `name`.
pub(crate) fn hello(name: &[u8]) -> Vec<u8> {
    record(22, &message(&server_names(&[(0, name)])))
}
