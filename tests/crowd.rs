//! Many connections at once, too few descriptors, and a network that loses packets.

mod lab;

use lab::role::{self, EXCHANGE, SILENCE};
use lab::{Gateway, Helper, Lab, PERMITTED, at, lab, wait_until};
use serde_json::{Value, json};

#[test]
fn a_helper_process_does_as_its_role_says() {
    role::run_if_asked();
}

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
        self.world.ask(&json!("let go"));
        wait_until("every connection has ended", || (self.active() == 0.0).then_some(()));
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
    let mut scene = Scene::start(&lab, "ulimit -n 65536 || true;");
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
    let mut scene = Scene::start(&lab, "ulimit -n 160;");
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
        assert_eq!(scene.gateway.count("reason=\"overload\""), f64::from(30 * round));
        // The same host over IPv6 is another client.
        scene.passes_whole_to(PERMITTED[1], 100_000);
        scene.disperse();
    }
    assert_eq!(scene.gateway.count("schengate_limits_hit_total{limit=\"connections\"}"), 0.0);
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
