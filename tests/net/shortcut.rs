//! The kernel short cut: its sets against the decision, and at work between a client and a world.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path as File;
use std::sync::OnceLock;

use jiff::Timestamp;
use proptest::prelude::*;
use schengate::control::capture::candidates;
use schengate::control::compile::Compiler;
use schengate::control::config::{self, LintKind};
use schengate::control::data::{self, Sources};
use schengate::identify::{HostName, Protocol};
use schengate::policy::{
    Action, Claim, Datapath, Interval, KernelVerdict, Policy, Question, Shortcut, TooMuch,
    Transport,
};
use schengate::sys::{Counted, add_intervals};
use serde_json::{Value, json};

use crate::lab::role::{self, EXCHANGE, hex};
use crate::lab::{self, Gateway, Helper, Lab, PERMITTED, REFUSED, at, lab, said, wait_until};

/// Fills sets of the kernel as the process that keeps them does.
pub(crate) fn filler() {
    role::serve(|question| {
        let map = question["map"].as_str().unwrap();
        let sent = serde_json::from_value::<Sent>(question["intervals"].clone()).unwrap();
        let counted =
            |(first, last, counter): &(IpAddr, IpAddr, String)| (*first, *last, counter.clone());
        let owned: Vec<_> = sent.iter().map(counted).collect();
        let intervals = owned.iter().map(|(first, last, counter)| Counted {
            first: *first,
            last: *last,
            counter,
        });
        let added = add_intervals("filled", map, intervals);
        json!(added.map_or_else(|fault| fault.to_string(), |()| "added".to_owned()))
    });
}

/// First and last address of each interval, and its counter.
type Sent = Vec<(IpAddr, IpAddr, String)>;

// ---------------------------------------------------------------- the sets against the decision

const TABLE: &str = "1.0.0.0,1.255.255.255,FR
2.0.0.0,2.15.255.255,DE
2.16.0.0,2.16.0.255,US
2.16.1.0,2.16.255.255,FR
5.0.0.0,5.0.255.255,US
9.9.9.9,9.9.9.9,FR
2400::,2400:ffff:ffff:ffff:ffff:ffff:ffff:ffff,US
2a00::,2a00:ffff:ffff:ffff:ffff:ffff:ffff:ffff,FR
2a01:1::,2a01:1:0:0:ffff:ffff:ffff:ffff,DE
";

/// Clients in a group, in the prefix of a rule, and in none.
const CLIENTS: [&str; 4] = ["10.1.2.3", "10.2.0.1", "10.255.0.1", "fd00::1"];

fn tables() -> &'static File {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("t.csv"), TABLE).unwrap();
        folder
    });
    folder.path()
}

fn policy(text: &str) -> (Policy, Result<Shortcut, TooMuch>) {
    let head = "schema = 1\n[capture]\nshortcut = 'address'\n[data]\ncountry = ['t.csv']\n\
                [[listen]]\nmode = 'tproxy'\naddress = '[::]:15001'\n";
    let text = format!("{head}{text}");
    let path = tables().join("policy.toml");
    let loaded = config::parse(&text, Some(&path)).unwrap_or_else(|faults| panic!("{faults}"));
    let loaded_tables = data::load(&config_of_countries(&loaded.config)).expect("the table");
    let sources = Sources { asns: Vec::new(), providers: Vec::new(), ..loaded_tables };
    let candidates = candidates(&loaded.config);
    let own = vec!["1.2.3.4".parse().unwrap(), "2a00::5".parse().unwrap()];
    let now = Timestamp::now();
    let policy = Compiler::new(loaded.config, sources, &text, own, now).policy_at(now);
    let shortcut = policy.shortcut(&policy.clients(candidates), true);
    (policy, shortcut)
}

/// The settings of the data with the country table alone: the others are not needed here.
fn config_of_countries(config: &config::Config) -> config::Data {
    config::Data { asn: Vec::new(), providers: Vec::new(), ..config.data.clone() }
}

fn find<A: PartialOrd + Copy>(intervals: &[Interval<A>], at: A) -> Option<KernelVerdict> {
    let after = intervals.partition_point(|interval| interval.first <= at);
    let interval = intervals.get(after.checked_sub(1)?)?;
    (at <= interval.last).then_some(interval.fate)
}

/// What the kernel does with a packet, by the sets.
fn kernel(shortcut: &Shortcut, to: SocketAddr, transport: Transport) -> Option<KernelVerdict> {
    let mut planes = shortcut.planes.iter().filter(|plane| {
        plane.ports.iter().any(|(of, ports)| *of == transport && ports.contains(&to.port()))
    });
    let plane = planes.next()?;
    assert!(planes.next().is_none(), "a port is in one plane");
    match to.ip() {
        IpAddr::V4(ip) => find(&plane.v4, ip.to_bits()),
        IpAddr::V6(ip) => find(&plane.v6, ip.to_bits()),
    }
}

/// Every edge of a set, one step to each side of it, and some addresses of other kinds.
fn edges(shortcut: &Shortcut) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = [
        "64:ff9b::102:304",
        "::ffff:1.2.3.5",
        "2002:102:305::1",
        "2001:0:1::1",
        "1.2.3.4",
        "2a00::5",
        "127.0.0.1",
        "169.254.169.254",
        "10.9.9.9",
        "::1",
        "224.0.0.1",
        "198.51.100.1",
        "3.3.3.3",
        "fd00:ec2::254",
    ]
    .map(|text| text.parse().unwrap())
    .into();
    for plane in &shortcut.planes {
        for interval in &plane.v4 {
            let (first, last) = (interval.first, interval.last);
            let near = [first.wrapping_sub(1), first, last, last.wrapping_add(1)];
            found.extend(near.map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))));
        }
        for interval in &plane.v6 {
            let (first, last) = (interval.first, interval.last);
            let near = [first.wrapping_sub(1), first, last, last.wrapping_add(1)];
            found.extend(near.map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))));
        }
    }
    found
}

/// Every answer of the policy to a connection, whoever asks and whatever is sent.
fn answers(policy: &Policy, to: SocketAddr, transport: Transport) -> Vec<(Action, &'static str)> {
    let names =
        ["www.example.eu", "other.test"].map(|name| HostName::parse(name.as_bytes()).unwrap());
    let claims: Vec<Claim<'_>> = names
        .iter()
        .flat_map(|name| [Claim::Claimed(name), Claim::Bound(name)])
        .chain([Claim::Unread])
        .collect();
    let protocols = match transport {
        Transport::Tcp => [Protocol::Tls, Protocol::Http, Protocol::Other],
        Transport::Udp => [Protocol::Quic, Protocol::Dtls, Protocol::Other],
    };
    let clients = CLIENTS.map(|text| Some(text.parse().unwrap()));
    let mut found = Vec::new();
    for client in clients.into_iter().chain([None]) {
        for &name in &claims {
            for protocol in protocols {
                for ech in [false, true] {
                    let question =
                        Question { client, destination: to, transport, protocol, name, ech };
                    let verdict = policy.decide(&question);
                    found.push((verdict.action(), verdict.reason().label()));
                }
            }
        }
    }
    found
}

fn agree(policy: &Policy, shortcut: &Shortcut, ports: &[u16]) -> Result<(), TestCaseError> {
    let clients = policy.clients(CLIENTS.map(|text| text.parse().unwrap()));
    for ip in edges(shortcut) {
        for (&port, transport) in
            ports.iter().flat_map(|port| [(port, Transport::Tcp), (port, Transport::Udp)])
        {
            let to = SocketAddr::new(ip, port);
            let fate = kernel(shortcut, to, transport);
            let path = policy.path(to, transport, &clients);
            match fate {
                Some(fate) => {
                    prop_assert_eq!(path, Datapath::Kernel(fate.action, fate.reason), "{}", to);
                    prop_assert_ne!(fate.action, Action::Log);
                    for answer in answers(policy, to, transport) {
                        prop_assert_eq!(answer, (fate.action, fate.reason.label()), "{}", to);
                    }
                }
                None => prop_assert!(matches!(path, Datapath::Gateway(_)), "{to}: {path:?}"),
            }
        }
    }
    Ok(())
}

fn rule(at: usize, (conditions, action, pick): &(u8, u8, u8)) -> String {
    let has = |bit: u8| conditions >> bit & 1 == 1;
    let pick = usize::from(*pick);
    let one = |list: &[&str]| list[pick % list.len()].to_owned();
    let action = ["allow", "log", "block"][usize::from(*action) % 3];
    let mut text = format!("[[rule]]\nname = 'r{at}'\naction = '{action}'\nreason = 'a test'\n");
    let mut add = |key: &str, list: &[&str]| text += &format!("{key} = [{}]\n", one(list));
    // A rule has a condition.
    if has(0) || conditions & 0b111_1111 == 0 {
        add(
            "to",
            &["'1.0.0.0/16'", "'5.0.0.0/8', '2a00:5::/32'", "'0.0.0.0/0', '::/0'", "'9.9.9.9/32'"],
        );
    }
    if has(1) && pick % 3 == 0 {
        add("host", &["'www.example.eu'", "'*.example.eu'"]);
    }
    if has(2) {
        add("port", &["443", "'80-500'", "53, 443"]);
    }
    if has(3) && pick % 4 == 0 {
        add("from", &["'10.2.0.0/16'", "'dev'"]);
    }
    if has(4) {
        add("location", &["'FR'", "'DE', 'US'", "'US'"]);
    }
    if has(5) {
        add("transport", &["'tcp'", "'udp'"]);
    }
    if has(6) && pick % 3 == 1 {
        add("protocol", &["'tls'", "'other'"]);
    }
    if has(7) && action != "block" {
        text += "owner = 'DSI'\nuntil = 2099-01-01\n";
    }
    // Where chance took every condition away.
    let named = ["to =", "host =", "port =", "from =", "location =", "transport =", "protocol ="];
    if named.iter().all(|key| !text.contains(key)) {
        text += "to = ['1.0.0.0/16']\n";
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn at_every_edge_of_a_set_and_one_step_outside_the_kernel_answers_as_the_policy_does(
        rules in prop::collection::vec((any::<u8>(), any::<u8>(), any::<u8>()), 0..5),
        group in 0_u8..6,
        ech in 0_usize..6,
        private in 0_usize..3,
    ) {
        let ech = ["claim", "claim", "claim", "claim", "unread", "block"][ech];
        let private = ["allow", "log", "block"][private];
        let mut text = format!(
            "[names]\nech = '{ech}'\n[policy]\npermit = ['FR']\n[policy.on]\nprivate = '{private}'\n"
        );
        let group = match group {
            0 => "[[group]]\nname = 'dev'\nclients = ['10.1.0.0/16']\nmode = 'observe'\n",
            1 => "[[group]]\nname = 'dev'\nclients = ['10.1.0.0/16']\npermit = ['FR', 'DE']\n",
            _ => "[[group]]\nname = 'dev'\nclients = ['10.1.0.0/16']\n",
        };
        text += group;
        rules.iter().enumerate().for_each(|(at, drawn)| text += &rule(at, drawn));
        let (policy, shortcut) = policy(&text);
        match shortcut {
            Ok(shortcut) => agree(&policy, &shortcut, &[443, 80, 53, 25, 0, 65_535])?,
            Err(TooMuch::Planes(many)) => prop_assert!(many > 4),
            Err(TooMuch::Intervals(many)) => prop_assert!(false, "{many} intervals"),
        }
    }
}

#[test]
fn a_plain_policy_is_the_kernels_but_for_what_somebody_must_see() {
    let (policy, shortcut) = policy("[policy]\npermit = ['FR']\n");
    let shortcut = shortcut.unwrap();
    assert_eq!(shortcut.planes.len(), 1);
    let fate = |ip: &str| {
        let to = SocketAddr::new(ip.parse().unwrap(), 443);
        kernel(&shortcut, to, Transport::Tcp).map(|fate| (fate.action, fate.reason.label()))
    };
    assert_eq!(fate("1.1.1.1"), Some((Action::Allow, "permitted")));
    assert_eq!(fate("2.0.0.1"), Some((Action::Block, "outside")));
    assert_eq!(fate("3.3.3.3"), Some((Action::Block, "unknown")));
    assert_eq!(fate("10.0.0.1"), Some((Action::Allow, "private")));
    for ip in ["1.2.3.4", "169.254.169.254", "127.0.0.1", "::ffff:1.1.1.1", "64:ff9b::101:101"] {
        assert_eq!(fate(ip), None, "{ip}");
    }
    // Neighbours of one fate are one interval: 2.16.1.0 to 2.16.255.255 stands alone.
    let first = u32::from(Ipv4Addr::new(2, 16, 1, 0));
    assert!(shortcut.planes[0].v4.iter().any(|interval| interval.first == first));
    let v4 = &shortcut.planes[0].v4;
    assert!(v4.windows(2).all(|two| two[0].last + 1 < two[1].first || two[0].fate != two[1].fate));
    agree(&policy, &shortcut, &[443]).unwrap();
}

#[test]
fn a_rule_by_name_over_everything_leaves_nothing_to_the_kernel() {
    let by_name = "[policy]\npermit = ['FR']\n[[rule]]\nname = 'n'\nhost = ['a.example']\n\
                   action = 'block'\n";
    assert_eq!(policy(by_name).1.unwrap().intervals(), 0);
    let observe = "[policy]\nmode = 'observe'\npermit = ['FR']\n";
    assert_eq!(policy(observe).1.unwrap().intervals(), 0);
}

#[test]
fn ports_that_are_judged_in_too_many_ways_are_an_error_that_says_so() {
    let mut text = "[policy]\npermit = ['FR']\n".to_owned();
    for (port, country) in [(1, "FR"), (2, "DE"), (3, "US")] {
        text += &format!(
            "[[rule]]\nname = 'r{port}'\nport = [{port}]\nlocation = ['{country}']\n\
             action = 'log'\nreason = 'a test'\n"
        );
    }
    assert_eq!(policy(&text).1.unwrap().planes.len(), 4);
    text += "[[rule]]\nname = 'r4'\nport = [4]\naction = 'block'\n";
    let too_many = policy(&text).1.unwrap_err();
    assert_eq!(too_many, TooMuch::Planes(5));
    assert!(too_many.to_string().contains("`capture.shortcut`"), "{too_many}");
}

#[test]
fn a_short_cut_is_beside_a_transparent_listener_and_its_price_is_said() {
    let parse = |tail: &str| {
        config::parse(&format!("schema = 1\n[policy]\npermit = ['eea']\n{tail}"), None)
    };
    for (tail, said) in [
        ("[capture]\nshortcut = 'address'\n", "explicit proxy"),
        ("[capture]\nshortcut = 'yes'\n", "none of the values"),
        ("[capture]\nshort = 'address'\n", "capture.short"),
    ] {
        let faults = parse(tail).err().unwrap_or_else(|| panic!("sound: {tail}")).to_string();
        assert!(faults.contains(said), "{faults}");
    }
    let listen = "[[listen]]\nmode = 'tproxy'\naddress = '[::]:15001'\n";
    let unrecorded = |setting: &str| {
        let loaded = parse(&format!("{listen}[capture]\nshortcut = '{setting}'\n")).unwrap();
        loaded.lints.iter().filter(|lint| lint.kind == LintKind::Unrecorded).count()
    };
    assert_eq!(["off", "permitted", "address"].map(unrecorded), [0, 1, 1]);
}

#[test]
fn what_ends_by_date_ends_in_the_kernel_as_well() {
    let until = "[policy]\npermit = ['FR']\n[[rule]]\nname = 'r'\nto = ['5.0.0.0/16']\n\
                 action = 'allow'\nreason = 'a test'\nuntil = 2099-01-01T00:00:00Z\n";
    let (policy, shortcut) = policy(until);
    let shortcut = shortcut.unwrap();
    assert_eq!(shortcut.valid_until_ms, policy.valid_until_ms());
    assert_eq!(shortcut.valid_until_ms, 4_070_908_800_000);
    assert_eq!(shortcut.version, policy.version());
}

// ---------------------------------------------------------------- at work

/// [`PERMITTED`] is in France, which is permitted; [`REFUSED`] is in the United States.
fn written(permit: &str, listen: &str, shortcut: &str, more: &str) -> String {
    let (places, admin) = (lab::places(), lab::ADMIN);
    format!(
        "schema = 1
[policy]
permit = [{permit}]
[names]
binding = \"trust\"
[capture]
shortcut = \"{shortcut}\"
[data]
country = [\"t.csv\"]
{places}[[listen]]
{listen}
peek_timeout = \"500ms\"
[admin]
address = \"{admin}\"
{more}"
    )
}

const TPROXY: &str = "mode = \"tproxy\"\naddress = \"[::]:15001\"";
const REDIRECT: &str = "mode = \"redirect\"\naddress = \"[::]:15002\"";
const FR: &str = "\"FR\"";

/// A rule that makes the name matter for [`PERMITTED`], IPv4.
const BY_NAME: &str = "[[rule]]
name = \"one name\"
to = [\"198.51.100.7/32\"]
host = [\"refused.example\"]
action = \"block\"
";

/// A gateway at work, with the short cut before it, the world behind it and a client.
struct Scene<'lab> {
    lab: &'lab Lab,
    gateway: Gateway<'lab>,
    world: Helper,
    client: Helper,
}

impl<'lab> Scene<'lab> {
    fn start(lab: &'lab Lab, listen: &str, shortcut: &str, more: &str) -> Self {
        let world = lab.world.helper("world");
        let policy = written(FR, listen, shortcut, more);
        lab.write("t.csv", TABLE);
        let frame = lab.write("frame.toml", &policy);
        let frame = frame.to_str().unwrap();
        capture(lab, &["up", "--gateway", "--interface", "lan0", "--config", frame]);
        let gateway = lab.start_gateway(&policy);
        Self { lab, gateway, world, client: lab.client.helper("client") }
    }

    fn exchange(&mut self, ip: &str, up: u64, down: u64) -> Value {
        let to = at(ip, EXCHANGE);
        self.client.ask(&json!({"do": "exchange", "to": to, "up": up, "down": down}))
    }

    fn send(&mut self, ip: &str) -> Value {
        let payload = hex(b"\0\0\0\0\0\0\0\0 never to be seen");
        let to = at(ip, EXCHANGE);
        self.client.ask(&json!({"do": "send", "to": to, "hex": payload, "patience_ms": 3000}))
    }

    fn is_refused_without_a_byte(&mut self, ip: &str) {
        let before = self.world.arrived(ip);
        let end = self.send(ip);
        // The kernel answers the SYN with a reset, the gateway what comes after it.
        let told = end["end"] == "refused" || end["end"] == "reset";
        assert!(told && end["received"] == "", "{ip}: {end}");
        assert_eq!(self.world.arrived(ip), before, "{ip}: bytes and connections");
    }

    /// Connections that the gateway has judged.
    fn judged(&self) -> f64 {
        self.gateway.count("schengate_connections_total{")
    }

    /// Bytes that the kernel counted under a verdict and reason.
    fn counted(&self, verdict: &str) -> u64 {
        let shown = capture(self.lab, &["show"]);
        let lines = shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        lines
            .filter(|words| words[..2].join(" ") == verdict)
            .map(|words| words[words.len() - 2].parse::<u64>().unwrap())
            .sum()
    }
}

/// `schengate capture`, in the gateway's namespace.
fn capture(lab: &Lab, arguments: &[&str]) -> String {
    let mut command = lab.gateway.command(env!("CARGO_BIN_EXE_schengate"));
    let output = command.arg("capture").args(arguments).output().unwrap();
    assert!(output.status.success(), "capture {arguments:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// The elements of a map as `nft list map` writes them: prefixes, ranges and single addresses.
fn listed(text: &str) -> Sent {
    let elements = text.split_once("elements = {").map_or("", |(_, rest)| rest);
    let elements = elements.split('}').next().unwrap().split(',').map(str::trim);
    let interval = |element: &str| {
        let (key, counter) = element.split_once(" : ").unwrap();
        let (first, last) = match key.split_once('-') {
            Some((first, last)) => (first.parse().unwrap(), last.parse().unwrap()),
            None if key.contains('/') => {
                let net: ipnet::IpNet = key.parse().unwrap();
                (net.network(), net.broadcast())
            }
            None => (key.parse().unwrap(), key.parse().unwrap()),
        };
        (first, last, counter.trim_matches('"').to_owned())
    };
    elements.filter(|element| !element.is_empty()).map(interval).collect()
}

#[test]
fn every_interval_stands_in_the_kernel_as_it_was_sent() {
    let Some(lab) = lab("intervals of the short cut") else { return };
    lab.gateway
        .shell(
            "nft -f - <<'END'
            add table inet filled
            add counter inet filled one
            add counter inet filled two
            add map inet filled v4 { type ipv4_addr : counter; flags interval; }
            add map inet filled v6 { type ipv6_addr : counter; flags interval; }
END",
        )
        .unwrap();
    let counter = |at: u32| if at.is_multiple_of(3) { "one" } else { "two" }.to_owned();
    // Neighbours of other counters, gaps, single addresses, and both ends of the space.
    let v4: Sent = (0..20_000_u32)
        .map(|at| {
            let first = at * 200_000;
            let last = if at.is_multiple_of(2) { first + 199_999 } else { first + at % 7 };
            (Ipv4Addr::from_bits(first).into(), Ipv4Addr::from_bits(last).into(), counter(at))
        })
        .chain([(Ipv4Addr::new(255, 0, 0, 0).into(), Ipv4Addr::BROADCAST.into(), counter(1))])
        .collect();
    let v6: Sent = (0..2_000_u32)
        .map(|at| {
            let first = u128::from(at) << 116;
            let last = first + (u128::from(at % 3) << 90);
            (Ipv6Addr::from_bits(first).into(), Ipv6Addr::from_bits(last).into(), counter(at))
        })
        .chain([("ffff::".parse().unwrap(), Ipv6Addr::from_bits(u128::MAX).into(), counter(1))])
        .collect();
    let mut filler = lab.gateway.helper("filler");
    for (map, sent) in [("v4", v4), ("v6", v6)] {
        assert_eq!(filler.ask(&json!({ "map": map, "intervals": sent })), "added");
        let text = lab.gateway.shell(&format!("nft list map inet filled {map}")).unwrap();
        let (stand, sent) = (listed(&text), &sent);
        assert_eq!(stand.len(), sent.len(), "{map}");
        let differs = stand.iter().zip(sent).find(|(stand, sent)| stand != sent);
        assert_eq!(differs, None, "{map}: in the kernel, and sent");
    }
    // What the kernel does not take is an error.
    let one: Sent = vec![("1.2.3.4".parse().unwrap(), "1.2.3.4".parse().unwrap(), counter(0))];
    let unknown: Sent = vec![(one[0].0, one[0].1, "three".to_owned())];
    for (map, intervals) in [("none", &one), ("v4", &one), ("v6", &one), ("v4", &unknown)] {
        let answer = filler.ask(&json!({ "map": map, "intervals": intervals }));
        assert!(answer.as_str().is_some_and(|answer| answer.contains("os error")), "{answer}");
    }
}

#[test]
fn the_kernel_carries_a_permitted_connection_and_the_gateway_sees_nothing_of_it() {
    let Some(lab) = lab("a short cut") else { return };
    for listen in [TPROXY, REDIRECT] {
        let mut scene = Scene::start(&lab, listen, "address", "");
        for ip in PERMITTED {
            let here = scene.exchange(ip, 3_000_000, 2_000_000);
            assert_eq!(here["received"], 2_000_000, "{listen}: {here}");
            // The world may still be reading when its own bytes have arrived.
            wait_until("all of the client's bytes are in the world", || {
                (scene.world.arrived(ip).0 == 3_000_008).then_some(())
            });
        }
        assert_eq!(scene.judged(), 0.0, "{listen}");
        assert!(scene.counted("allow permitted") > 10_000_000);
        let metric =
            "schengate_kernel_bytes_total{verdict=\"allow\",reason=\"permitted\",country=\"FR\"}";
        wait_until("the kernel's counters are exported", || {
            (scene.gateway.count(metric) > 10_000_000.0).then_some(())
        });
    }
}

#[test]
fn the_kernel_rejects_a_refused_connection_and_no_byte_leaves() {
    let Some(lab) = lab("a short cut that refuses") else { return };
    let mut scene = Scene::start(&lab, TPROXY, "address", "");
    for ip in REFUSED {
        scene.is_refused_without_a_byte(ip);
        let udp = json!({"do": "udp", "to": at(ip, 443), "hex": "00", "patience_ms": 3000});
        let end = scene.client.ask(&udp);
        assert!(end["end"] != "silence" && end["received"] == "", "{ip}: {end}");
        assert_eq!(scene.world.arrived(ip), (0, 0));
    }
    assert_eq!(scene.judged(), 0.0);
    assert!(scene.counted("block outside") > 0);
}

#[test]
fn where_only_permitted_ones_take_the_short_cut_the_gateway_refuses_and_records() {
    let Some(lab) = lab("a short cut for permitted ones") else { return };
    let mut scene = Scene::start(&lab, TPROXY, "permitted", "");
    assert_eq!(scene.exchange(PERMITTED[0], 1000, 1000)["received"], 1000);
    assert_eq!(scene.judged(), 0.0);
    scene.is_refused_without_a_byte(REFUSED[0]);
    assert_eq!(scene.gateway.count("reason=\"outside\""), 1.0);
    assert_eq!(scene.counted("block outside"), 0);
}

#[test]
fn a_destination_whose_name_matters_passes_the_gateway() {
    let Some(lab) = lab("a name and a short cut") else { return };
    let mut scene = Scene::start(&lab, TPROXY, "address", BY_NAME);
    assert_eq!(scene.exchange(PERMITTED[0], 1000, 1000)["received"], 1000);
    assert_eq!(scene.judged(), 1.0);
    assert_eq!(scene.counted("allow permitted"), 0);
    assert_eq!(scene.exchange(PERMITTED[1], 1000, 1000)["received"], 1000);
    assert_eq!(scene.judged(), 1.0);
    assert!(scene.counted("allow permitted") > 0);
    let refused = scene.client.ask(&json!({"do": "send", "to": at(PERMITTED[0], 80),
        "hex": hex(b"GET / HTTP/1.1\r\nHost: refused.example\r\n\r\n")}));
    assert!(refused["received"].as_str().unwrap().contains(&hex(b" 451 ")), "{refused}");
}

#[test]
fn a_policy_that_takes_a_network_away_cuts_what_the_kernel_carries() {
    let Some(lab) = lab("a policy swap") else { return };
    let mut scene = Scene::start(&lab, TPROXY, "address", "");
    let ip = PERMITTED[0];
    let datagrams = |what: &str| {
        json!({"do": what, "to": at(ip, 9000), "datagrams": ["0102"],
        "patience_ms": 2000})
    };
    let first = scene.client.ask(&datagrams("open"));
    assert_eq!(first["answers"], json!(["0102"]), "{first}");
    // Small segments for half a minute, unless the policy that comes meanwhile ends it.
    let mut other = lab.client.helper("client");
    let to = at(ip, EXCHANGE);
    let sender = std::thread::spawn(move || {
        let slow = json!({"do": "send", "to": to, "hex": "00".repeat(30_000), "step": 10,
            "pause_ms": 10, "patience_ms": 20_000});
        other.ask(&slow)
    });
    wait_until("bytes flow", || (scene.world.arrived(ip).0 > 200).then_some(()));
    scene.gateway.reload(&written("\"DE\"", TPROXY, "address", ""));
    let at_the_swap = scene.counted("allow permitted");
    let end = sender.join().unwrap();
    assert_eq!(end["end"], "reset", "{end}");
    assert!(scene.world.arrived(ip).0 < 30_000);
    let answer = scene.client.ask(&datagrams("go-on"));
    assert_eq!(answer["answers"], json!([]), "{answer}");
    scene.is_refused_without_a_byte(ip);
    assert_eq!(scene.counted("allow permitted"), at_the_swap, "nothing passed after the swap");
    assert_eq!(scene.judged(), 0.0);
}

#[test]
fn policies_that_permit_the_same_are_swapped_under_a_connection_without_a_break() {
    let Some(lab) = lab("swaps under load") else { return };
    let mut scene = Scene::start(&lab, TPROXY, "address", "");
    // Ten kilobytes in as many hundred segments: a load that leaves the processor to the reloads,
    // which yield to everybody.
    let mut other = lab.client.helper("client");
    let to = at(PERMITTED[1], EXCHANGE);
    let sender = std::thread::spawn(move || {
        other.ask(&json!({"do": "send", "to": to, "hex": "00".repeat(10_000), "step": 10,
            "pause_ms": 10, "shut": true, "patience_ms": 20_000}))
    });
    wait_until("bytes flow", || (scene.world.arrived(PERMITTED[1]).0 > 100).then_some(()));
    for swap in 0..3 {
        let more = format!("# {swap}\n");
        scene.gateway.reload(&written(FR, TPROXY, "address", &more));
    }
    let end = sender.join().unwrap();
    assert_eq!(end["end"], "end of stream", "{end}");
    assert_eq!(scene.world.arrived(PERMITTED[1]), (10_000, 1));
    assert_eq!(scene.judged(), 0.0);
}

#[test]
fn with_the_gateway_dead_what_was_refused_stays_refused_and_nothing_else_leaves() {
    let Some(lab) = lab("a dead gateway and a short cut") else { return };
    let mut scene = Scene::start(&lab, TPROXY, "address", BY_NAME);
    scene.gateway.kill();
    for ip in REFUSED {
        scene.is_refused_without_a_byte(ip);
    }
    scene.send(PERMITTED[0]);
    assert_eq!(scene.world.arrived(PERMITTED[0]), (0, 0), "its name would have to be read");
    assert_eq!(scene.exchange(PERMITTED[1], 1000, 1000)["received"], 1000);
}

#[test]
fn a_frame_that_nobody_filled_forwards_nothing() {
    let Some(lab) = lab("an empty frame") else { return };
    let policy = written(FR, TPROXY, "address", "");
    lab.write("t.csv", TABLE);
    let file = lab.write("frame.toml", &policy);
    let file = file.to_str().unwrap();
    let up = ["up", "--gateway", "--interface", "lan0", "--config", file];
    capture(&lab, &up);
    capture(&lab, &up);
    let (mut world, mut client) = (lab.world.helper("world"), lab.client.helper("client"));
    lab::shout(&mut client);
    assert_eq!(lab::bytes_in_the_world(&mut world), [0; 4]);
    capture(&lab, &["down"]);
    let left = lab.gateway.shell("nft list ruleset; cat /proc/sys/net/ipv4/ip_forward").unwrap();
    assert!(!left.contains("schengate_shortcut") && !left.contains("accept\n"), "{left}");
    assert!(left.ends_with("0\n") && left.contains("schengate_guard"), "{left}");
}

#[test]
fn a_destination_that_is_rewritten_after_the_judgement_is_not_forwarded() {
    let Some(lab) = lab("a rewritten destination") else { return };
    let mut scene = Scene::start(&lab, TPROXY, "address", "");
    let (from, to) = (PERMITTED[0], REFUSED[0]);
    lab.gateway
        .shell(&format!(
            "nft 'table ip other {{ chain pre {{ type nat hook prerouting priority dstnat; \
             ip daddr {from} dnat to {to}\n }}\n }}'"
        ))
        .unwrap();
    scene.send(from);
    assert_eq!(scene.world.arrived(to), (0, 0));
    // Nobody else's mark opens the guard.
    lab.gateway
        .shell(
            "nft 'table inet early { chain pre { type filter hook prerouting priority raw; \
                meta mark set 0x5348\n }\n }'",
        )
        .unwrap();
    scene.is_refused_without_a_byte(to);
}

#[test]
fn a_short_cut_without_the_clients_side_by_name_is_not_set() {
    let Some(lab) = lab("no interface") else { return };
    let file = lab.write("frame.toml", &written(FR, TPROXY, "address", ""));
    let mut command = lab.gateway.command(env!("CARGO_BIN_EXE_schengate"));
    let output = command.args(["capture", "up", "--config"]).arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("--interface"), "{}", said(&output));
    assert_eq!(lab.gateway.shell("nft list ruleset").unwrap(), "");
}
