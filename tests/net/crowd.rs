//! Many connections at once, too few descriptors, and a network that loses packets.

use serde_json::{Value, json};

use crate::lab::role::{self, EXCHANGE, SILENCE, hex};
use crate::lab::{self, Gateway, Helper, Lab, PERMITTED, REFUSED, at, lab, wait_until};

fn policy(listen: &str) -> String {
    let (places, admin) = (lab::places(), lab::ADMIN);
    format!(
        "schema = 1
[policy]
mode = \"enforce\"
permit = [\"FR\"]

{places}[[listen]]
mode = \"tproxy\"
address = \"[::]:15001\"
{listen}
[admin]
address = \"{admin}\"
"
    )
}

struct Scene<'lab> {
    gateway: Gateway<'lab>,
    world: Helper,
    client: Helper,
}

impl<'lab> Scene<'lab> {
    fn start(lab: &'lab Lab, before: &str) -> Self {
        Self::start_with(lab, before, "")
    }

    /// With these lines in its `[[listen]]`.
    fn start_with(lab: &'lab Lab, before: &str, listen: &str) -> Self {
        let (world, client) = (lab.world.helper("world"), lab.client.helper("client"));
        let gateway = lab.start_gateway_with(&policy(listen), before);
        gateway.capture();
        Self { gateway, world, client }
    }

    /// Opens connections to the silent port, and says how many of them were served.
    fn crowd(&mut self, count: u64) -> u64 {
        let ask = json!({"do": "crowd", "to": at(PERMITTED[0], SILENCE), "count": count});
        self.client.ask(&ask).as_u64().expect("a number of connections")
    }

    fn disperse(&mut self) {
        self.client.ask(&json!("disperse"));
        // Again and again: the world may take one up that the gateway dialled a moment ago.
        wait_until("every connection has ended", || {
            self.world.ask(&json!("let go"));
            (self.gateway.count("schengate_connections_active ") == 0.0).then_some(())
        });
    }

    fn active(&self) -> f64 {
        self.gateway.count("schengate_connections_active ")
    }

    /// Sends this much each way at once, and compares the hashes of both ends.
    fn passes_whole(&mut self, much: u64) {
        self.passes_whole_to(PERMITTED[0], much);
    }

    fn passes_whole_to(&mut self, ip: &str, much: u64) {
        let to = at(ip, EXCHANGE);
        let before = self.exchanges().len();
        let here = self.client.ask(&json!({"do": "exchange", "to": to, "up": much, "down": much}));
        let there =
            wait_until("the world has hashed all", || self.exchanges().get(before).cloned());
        assert_eq!((&here["received"], &there["received"]), (&much.into(), &much.into()), "{here}");
        assert_eq!(there["received_hash"], here["sent_hash"]);
        assert_eq!(there["sent_hash"], here["received_hash"]);
    }

    fn exchanges(&mut self) -> Vec<Value> {
        self.world.ask(&json!("exchanges")).as_array().cloned().unwrap_or_default()
    }
}

/// Descriptors of the empty pipes that two workers keep.
const PIPES: usize = 64;

#[test]
fn ten_thousand_held_connections_cost_little_and_leave_nothing_behind() {
    let Some(lab) = lab("ten_thousand_held_connections") else { return };
    let all = "max_connections_per_client = 0\n";
    let mut scene = Scene::start_with(&lab, "ulimit -n 65536 || true;", all);
    // Two each, and some for everything else; not everybody may raise the limit.
    let crowd = 10_000.min((scene.gateway.descriptor_limit() - 200) / 2);
    if crowd < 10_000 {
        println!("LEFT OUT: more than {crowd} connections, as descriptors are limited");
    }
    // Pipes and buffers that are kept once they were needed.
    scene.passes_whole(3_000_000);
    wait_until("it has ended", || (scene.active() == 0.0).then_some(()));
    let (descriptors, memory) = (scene.gateway.descriptors(), scene.gateway.memory_kib());
    assert_eq!(scene.crowd(crowd), crowd);
    wait_until("all are held", || (scene.active() == crowd as f64).then_some(()));
    assert!(scene.gateway.descriptors() >= 2 * crowd as usize);
    let held = scene.gateway.memory_kib();
    let each = (held - memory) * 1024 / crowd;
    println!("a held connection: {each} B of user memory");
    assert!(each <= 4096, "{each} B a connection");
    scene.disperse();
    assert!(scene.gateway.descriptors() <= descriptors + PIPES, "every socket is closed");
    scene.passes_whole(3_000_000);
    // The allocator keeps what was free'd; what leaks would come on top of it.
    assert_eq!(scene.crowd(crowd), crowd);
    let again = scene.gateway.memory_kib();
    assert!(again <= held + held / 10, "{held} KiB, then {again} KiB");
    scene.disperse();
    assert!(scene.gateway.descriptors() <= descriptors + PIPES, "every socket is closed");
}

#[test]
fn n11_without_descriptors_nobody_spins_and_the_admin_pages_answer() {
    let Some(lab) = lab("n11") else { return };
    let mut scene = Scene::start_with(&lab, "ulimit -n 160;", "max_connections_per_client = 0\n");
    let descriptors = scene.gateway.descriptors();
    let served = scene.crowd(150);
    assert!(0 < served && served < 75, "{served} connections of two descriptors each");
    assert!(scene.gateway.count("schengate_limits_hit_total{limit=\"descriptors\"}") > 0.0);
    assert!(scene.gateway.count("reason=\"overload\"") > 0.0, "in the record, and counted");
    let failed = scene.gateway.count("schengate_accept_errors_total");
    assert!(failed < 100.0, "{failed} accepts failed: somebody spins");
    scene.disperse();
    wait_until("every descriptor is back", || {
        (scene.gateway.descriptors() <= descriptors).then_some(())
    });
    scene.passes_whole(100_000);
}

#[test]
fn c03_a_client_has_no_more_connections_than_it_may_and_others_are_served() {
    let Some(lab) = lab("c03_a_client") else { return };
    let limit = "max_connections = 40\nmax_connections_per_client = 20\n";
    let mut scene = Scene::start_with(&lab, "", limit);
    let hit = |scene: &Scene| scene.gateway.count("schengate_limits_hit_total{limit=\"client\"}");
    for round in 1..=2 {
        assert_eq!(scene.crowd(50), 20, "the limit, and what was given back in the first round");
        assert_eq!(hit(&scene), f64::from(30 * round));
        let finals = "schengate_verdicts_final_total{verdict=\"block\",reason=\"overload\"}";
        assert_eq!(scene.gateway.count(finals), f64::from(30 * round));
        // The same host over IPv6 is another client.
        scene.passes_whole_to(PERMITTED[1], 100_000);
        scene.disperse();
    }
    assert_eq!(scene.gateway.count("schengate_limits_hit_total{limit=\"connections\"}"), 0.0);
}

/// What an explicit client asks for a tunnel with.
fn connect_to(to: &str) -> String {
    hex(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n").as_bytes())
}

#[test]
fn h09_one_client_does_not_take_what_the_others_need() {
    let Some(lab) = lab("h09_one_client") else { return };
    let more = "
[[listen]]
mode = \"proxy\"
address = \"[2001:db8:1::1]:3128\"

[[rule]]
name = \"a name decides\"
host = [\"allowed.example\"]
port = [443]
action = \"allow\"
reason = \"so that first flights are read\"
";
    // Of 1,024 descriptors 496 connections, of these a quarter, and 62 first flights, for one client.
    let mut scene = Scene::start_with(&lab, "ulimit -n 1024;", more);
    let hit = |scene: &Scene<'_>, limit: &str| {
        scene.gateway.count(&format!("schengate_limits_hit_total{{limit=\"{limit}\"}}"))
    };
    let served = scene.crowd(1000);
    assert_eq!(served, 124, "a quarter of what the descriptors are enough for");
    assert_eq!(hit(&scene, "client"), 876.0);
    assert_eq!(hit(&scene, "descriptors"), 0.0);
    // Another client, by its IPv6 address, is served on both listeners.
    scene.passes_whole_to(PERMITTED[1], 100_000);
    let to = at(PERMITTED[1], SILENCE);
    let ask = json!({"do": "send", "to": "[2001:db8:1::1]:3128", "hex": connect_to(&to),
        "enough": 20});
    let told = scene.client.ask(&ask);
    assert!(told["received"].as_str().unwrap().starts_with(&hex(b"HTTP/1.1 200")), "{told}");
    scene.disperse();
    // Half a hello each, kept, to where only a name opens: as many first flights as one client may
    // have under way.
    for _ in 0..100 {
        let half = json!({"do": "keep", "to": at(REFUSED[0], 443), "hex": "1603010200010001fc"});
        scene.client.ask(&half);
    }
    wait_until("first flights are over their limit", || {
        (hit(&scene, "client-hellos") == 38.0).then_some(())
    });
    scene.passes_whole_to(PERMITTED[1], 100_000);
    scene.client.ask(&json!({"do": "let-go", "to": to}));
    wait_until("every connection has ended", || (scene.active() == 0.0).then_some(()));
    // And all of it comes back, a moment after the records are closed.
    wait_until("the places are given back", || {
        let served = scene.crowd(124);
        scene.disperse();
        (served == 124).then_some(())
    });
}

#[test]
fn h09_a_connection_over_the_limits_is_refused_at_once_and_nothing_of_it_is_kept() {
    let Some(lab) = lab("h09_over_the_limits") else { return };
    let more = "max_connections_per_client = 0

[[listen]]
mode = \"proxy\"
address = \"192.0.2.1:3128\"
max_connections = 20
max_connections_per_client = 0
";
    let mut scene = Scene::start_with(&lab, "", more);
    let proxy = "192.0.2.1:3128";
    let tunnel = connect_to(&at(PERMITTED[0], SILENCE));
    // One kept-alive client after the other gives its first flight back: twenty have room.
    let crowd = json!({"do": "crowd", "to": proxy, "count": 20, "hex": tunnel});
    assert_eq!(scene.client.ask(&crowd), 20);
    let overload = |scene: &Scene<'_>| {
        scene.gateway.count("schengate_verdicts_final_total{verdict=\"block\",reason=\"overload\"}")
    };
    // Who speaks HTTP is told so, without a wait for the rest of its head.
    let begun = format!("GET http://{}/ HTTP/1.1\r\n", PERMITTED[0]);
    let told = scene.client.ask(&json!({"do": "send", "to": proxy, "hex": hex(begun.as_bytes())}));
    let answer = role::unhex(told["received"].as_str().unwrap());
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("Retry-After: "), "{answer}");
    assert_eq!((&told["end"], overload(&scene)), (&json!("end of stream"), 1.0), "{told}");
    // Heads without an end, which took 64 KiB each for 15 s.
    let memory = scene.gateway.memory_kib();
    let head = begun + &"x-filler: 0123456789abcdef\r\n".repeat(2000);
    let storm = json!({"do": "storm", "to": proxy, "count": 1000, "hex": hex(head.as_bytes())});
    let left = scene.client.ask(&storm)["left_alone"].clone();
    assert_eq!(left, 0, "each was ended");
    let held = scene.gateway.memory_kib();
    assert!(held <= memory + 16 * 1024, "{memory} KiB before 1000 heads, {held} KiB after");
    assert_eq!(overload(&scene), 1001.0, "each of them is counted, by its reason");
    assert_eq!(scene.gateway.count("schengate_limits_hit_total{limit=\"connections\"}"), 1001.0);
    scene.disperse();
    // A place is given back a moment after the record is closed.
    wait_until("the places are given back", || {
        let served = scene.client.ask(&crowd);
        scene.disperse();
        (served == 20).then_some(())
    });
}

/// A policy with more faults than messages may wait.
fn many_faults() -> String {
    let faults = (0..1000).map(|n| format!("no_such_key_{n} = 1\n"));
    format!("schema = 1\n{}", faults.collect::<String>())
}

/// Reloads without waiting for it, and waits until this counter has grown.
fn reload_until(lab: &Lab, scene: &Scene<'_>, policy: &str, series: &str) {
    let before = scene.gateway.count(series);
    lab.write("policy.toml", policy);
    let pid = scene.gateway.pid().to_string();
    let hangup = std::process::Command::new("kill").args(["-HUP", &pid]).status();
    assert!(hangup.unwrap().success());
    wait_until(series, || (scene.gateway.count(series) > before).then_some(()));
}

#[test]
fn h03_nobody_who_reads_stderr_stops_nothing_and_what_is_lost_is_counted() {
    // A pipe that is open and that nobody reads; a device that takes nothing.
    for stderr in ["mkfifo pipe; exec 2<>pipe; rm pipe;", "exec 2>/dev/full;"] {
        let Some(lab) = lab("h03") else { return };
        let before = format!("cd {}; {stderr}", lab.write("x", "").parent().unwrap().display());
        let mut scene = Scene::start(&lab, &before);
        assert_eq!(scene.crowd(200), 200, "{stderr}");
        scene.passes_whole(1_000_000);
        scene.disperse();
        let lost = "schengate_messages_lost_total ";
        for _ in 0..10 {
            let failed = "schengate_policy_reload_total{result=\"failed\"}";
            reload_until(&lab, &scene, &many_faults(), failed);
        }
        wait_until("a lost message is counted", || (scene.gateway.count(lost) > 0.0).then_some(()));
        let done = "schengate_policy_reload_total{result=\"done\"}";
        reload_until(&lab, &scene, &policy(""), done);
        assert_eq!(scene.crowd(200), 200, "{stderr}");
        scene.passes_whole(1_000_000);
        scene.disperse();
        if stderr.contains("full") {
            wait_until("lost lines of the record are counted", || {
                (scene.gateway.count("schengate_audit_lost_total ") > 0.0).then_some(())
            });
        }
    }
}

#[test]
fn n13_what_the_network_loses_and_disorders_arrives_whole() {
    let Some(lab) = lab("n13") else { return };
    let mut scene = Scene::start(&lab, "");
    // One packet in twenty, either way, on both sides.
    let lossy = "table ip lossy { chain input { type filter hook input priority 0
        iifname eth0 meta l4proto tcp numgen random mod 20 == 0 drop\n}\n}\n";
    let path = lab.write("lossy.nft", lossy);
    for space in [&lab.client, &lab.world] {
        space.shell(&format!("nft -f {}", path.display())).unwrap();
    }
    let lossy = lossy.replace("iifname eth0", "iifname { lan0, wan0 }");
    let path = lab.write("lossy.nft", &lossy);
    lab.gateway.shell(&format!("nft -f {}", path.display())).unwrap();
    scene.passes_whole(1_000_000);
    for space in [&lab.client, &lab.gateway, &lab.world] {
        space.shell("nft delete table ip lossy").unwrap();
    }
    // One packet in three waits in a slow class while others overtake it. HTB, since kernels without
    // netem have it.
    let disorder = "tc qdisc add dev eth0 root handle 1: htb default 1
        tc class add dev eth0 parent 1: classid 1:1 htb rate 10gbit
        tc class add dev eth0 parent 1: classid 1:2 htb rate 10mbit
        nft 'add table ip disorder'
        nft 'add chain ip disorder output { type filter hook output priority 0; }'
        nft 'add rule ip disorder output numgen random mod 3 == 0 meta priority set 1:2'";
    for space in [&lab.client, &lab.world] {
        space.shell(disorder).unwrap();
    }
    let before = out_of_order(&lab);
    scene.passes_whole(1_000_000);
    let after = out_of_order(&lab);
    assert!(after > before, "{before} segments came out of order before, {after} after");
    // And one in fifty is lost.
    let lossy = "nft 'add chain ip disorder input { type filter hook input priority 0; }'
        nft 'add rule ip disorder input meta l4proto tcp numgen random mod 50 == 0 drop'";
    for space in [&lab.client, &lab.world] {
        space.shell(lossy).unwrap();
    }
    scene.passes_whole(1_000_000);
}

/// Segments that the gateway's kernel got before those that stand in front of them.
fn out_of_order(lab: &Lab) -> u64 {
    let text = lab.gateway.shell("grep ^TcpExt: /proc/net/netstat").unwrap();
    let (names, values) = text.split_once('\n').unwrap();
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    pairs.find(|(name, _)| *name == "TCPOFOQueue").unwrap().1.parse().unwrap()
}
