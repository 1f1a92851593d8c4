//! The interception rules in a kernel, with listeners that say where a connection was delivered.

use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Output, Stdio};

use serde_json::json;

use crate::lab::role::{GREETING, hex, unhex};
use crate::lab::{
    self, ADMIN, GATEWAY, Gateway, Helper, Lab, PERMITTED, REFUSED, at, bytes_in_the_world, lab,
    said, shout, wait_until,
};

/// Where the stand-in says that a connection to `ip`, port 80, was delivered.
fn delivered(client: &mut Helper, ip: &str) -> String {
    let to = at(ip, 80);
    let reply = client.ask(&json!({"do": "send", "to": to, "patience_ms": 3000}));
    String::from_utf8(unhex(reply["received"].as_str().unwrap())).unwrap()
}

fn rules(lab: &Lab) -> String {
    let all = "nft list ruleset; ip -4 rule; ip -6 rule
        ip -4 route show table all type local; ip -6 route show table all type local";
    let shown = lab.gateway.shell(all).unwrap();
    // Link-local addresses come when they come.
    shown.lines().filter(|line| !line.contains("fe80:")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn tproxy_rules_deliver_a_connection_with_its_destination_intact() {
    let Some(lab) = lab("tproxy rules") else { return };
    let (mut standin, mut client) = (lab.gateway.helper("stand-in"), lab.client.helper("client"));
    assert_eq!(standin.ask(&json!("tproxy")), "done");
    for ip in [PERMITTED, REFUSED].concat() {
        assert_eq!(delivered(&mut client, ip), at(ip, 80));
    }
}

#[test]
fn redirect_rules_deliver_a_connection_to_the_listener() {
    let Some(lab) = lab("redirect rules") else { return };
    let (mut standin, mut client) = (lab.gateway.helper("stand-in"), lab.client.helper("client"));
    assert_eq!(standin.ask(&json!("redirect")), "done");
    for (ip, gateway) in PERMITTED.into_iter().zip(GATEWAY) {
        assert_eq!(delivered(&mut client, ip), at(gateway, 15_002));
    }
}

#[test]
fn host_rules_capture_what_this_host_opens_but_not_what_the_gateway_dials() {
    let Some(lab) = lab("host rules") else { return };
    let mut standin = lab.gateway.helper("stand-in");
    let (mut local, _world) = (lab.gateway.helper("client"), lab.world.helper("world"));
    assert_eq!(standin.ask(&json!("host")), "done");
    for (ip, own) in PERMITTED.into_iter().zip(["127.0.0.1", "::1"]) {
        assert_eq!(delivered(&mut local, ip), at(own, 15_002));
        let udp = json!({"do": "udp", "to": at(ip, 443), "hex": "00", "patience_ms": 3000});
        let end = local.ask(&udp);
        assert!(end["end"] != "silence" && end["received"] == "", "{ip}: {end}");
    }
    let dial = format!("setpriv --reuid 65534 --clear-groups curl -s http://{}/", PERMITTED[0]);
    match lab.gateway.shell(&dial) {
        Ok(page) => assert_eq!(page, GREETING),
        // A user namespace of an ordinary user has one user only.
        Err(e) => assert!(lab.gateway.shell("setpriv --reuid 65534 true").is_err(), "{e}"),
    }
}

#[test]
fn rules_are_set_twice_and_taken_back_twice_and_only_the_guard_stays() {
    let Some(lab) = lab("up and down") else { return };
    let mut standin = lab.gateway.helper("stand-in");
    let before = rules(&lab);
    for form in ["tproxy", "tproxy", "redirect", "tproxy"] {
        assert_eq!(standin.ask(&json!(form)), "done");
    }
    let set = rules(&lab);
    assert_eq!(set.matches("0:\tnot from all iif lo prohibit").count(), 2, "{set}");
    assert_eq!(set.matches("0:\tfrom all fwmark 0x5347 goto 21319").count(), 2, "{set}");
    assert_eq!(set.matches("table inet schengate {").count(), 1, "{set}");
    assert_eq!(set.matches("fwmark 0x5347 lookup 21319").count(), 2, "{set}");
    assert_eq!(set.matches("local default dev lo table 21319").count(), 2, "{set}");
    for _ in 0..2 {
        assert_eq!(standin.ask(&json!("down")), "done");
    }
    let after = rules(&lab);
    let guard = lab.gateway.shell("nft list table inet schengate_guard").unwrap();
    assert!(guard.contains("policy drop"), "{guard}");
    // The guard's second fence stays as well.
    assert_eq!(after.matches("0:\tnot from all iif lo prohibit").count(), 2, "{after}");
    let own = ["0:\tnot from all iif lo prohibit", "0:\tfrom all fwmark 0x5347 goto 21319"];
    let mut left = after.replace(&guard, "");
    left = left
        .lines()
        .filter(|line| !own.iter().any(|own| line.starts_with(own)))
        .fold(String::new(), |text, line| text + line + "\n");
    assert_eq!(left, before);
    // Whoever wants the guard gone says so.
    let all = schengate(&lab, "capture down --guard");
    assert!(all.status.success(), "{}", said(&all));
    assert_eq!(rules(&lab), before);
}

#[test]
fn a_routing_rule_of_somebody_else_is_named_and_left_alone() {
    let Some(lab) = lab("foreign rule") else { return };
    let mut standin = lab.gateway.helper("stand-in");
    lab.gateway.shell("ip rule add priority 21319 from 10.9.8.7 lookup main").unwrap();
    let fault = standin.ask(&json!("tproxy")).to_string();
    assert!(fault.contains("10.9.8.7"), "{fault}");
    assert_eq!(standin.ask(&json!("down")), "done");
    assert!(rules(&lab).contains("10.9.8.7"));
}

#[test]
fn nothing_leaves_where_the_rules_stand_and_nobody_listens() {
    let Some(lab) = lab("dead listener") else { return };
    let (mut world, mut client) = (lab.world.helper("world"), lab.client.helper("client"));
    lab.switch_forwarding_on();
    for form in ["tproxy", "redirect"] {
        let mut standin = lab.gateway.helper("stand-in");
        assert_eq!(standin.ask(&json!(form)), "done");
        drop(standin);
        shout(&mut client);
        assert_eq!(bytes_in_the_world(&mut world), [0; 4], "{form}");
        // The rules hold without the guard, too.
        lab.gateway.shell("nft delete table inet schengate_guard").unwrap();
        if form == "tproxy" {
            shout(&mut client);
            assert_eq!(bytes_in_the_world(&mut world), [0; 4], "{form}, without the guard");
        }
    }
}

#[test]
fn nothing_leaves_where_only_the_guard_stands() {
    let Some(lab) = lab("guard alone") else { return };
    let (mut world, mut client) = (lab.world.helper("world"), lab.client.helper("client"));
    lab.switch_forwarding_on();
    let guard = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/schengate-guard.nft");
    lab.gateway.shell(&format!("nft -f {guard}; nft -f {guard}")).unwrap();
    shout(&mut client);
    assert_eq!(bytes_in_the_world(&mut world), [0; 4]);
    // The measure itself: without the guard everything arrives, in all four families.
    lab.gateway.shell("nft delete table inet schengate_guard").unwrap();
    shout(&mut client);
    let arrived = bytes_in_the_world(&mut world);
    assert!(arrived.iter().all(|bytes| *bytes > 100), "{arrived:?}");
}

#[test]
fn quic_without_a_listener_is_told_at_once() {
    let Some(lab) = lab("quic refusal") else { return };
    let (mut standin, mut client) = (lab.gateway.helper("stand-in"), lab.client.helper("client"));
    assert_eq!(standin.ask(&json!("tproxy")), "done");
    for ip in PERMITTED {
        let udp = json!({"do": "udp", "to": at(ip, 443), "hex": "c0", "patience_ms": 5000});
        let end = client.ask(&udp);
        assert!(end["end"] != "silence" && end["received"] == "", "{ip}: {end}");
    }
}

/// The built binary in the gateway's namespace.
fn schengate(lab: &Lab, arguments: &str) -> Output {
    let mut command = lab.gateway.command(env!("CARGO_BIN_EXE_schengate"));
    command.args(arguments.split(' ')).output().unwrap()
}

/// A gateway with the rules of its capture, and nothing that is wrong.
fn watched(lab: &Lab) -> Gateway<'_> {
    let gateway = lab.start_gateway(&format!(
        "schema = 1\n[policy]\npermit = [\"FR\"]\n[[listen]]\nmode = \"tproxy\"\n\
         address = \"[::]:15001\"\n[admin]\naddress = \"{ADMIN}\"\n"
    ));
    gateway.capture();
    for check in ["rules", "guard", "fence", "routing", "forwarding", "rp_filter", "offload"] {
        is_told(&gateway, check, 1.0);
    }
    gateway
}

/// Waits until the gateway's own look at the capture says so.
fn is_told(gateway: &Gateway<'_>, check: &str, intact: f64) {
    let metric = format!("schengate_capture_intact{{check=\"{check}\"}} {intact}");
    wait_until(&metric, || gateway.shows(&metric).then_some(()));
}

/// Catalogue N12.
#[test]
fn an_earlier_table_that_accepts_opens_nothing_and_a_flow_table_is_told_of() {
    let Some(lab) = lab("somebody else's tables") else { return };
    let gateway = watched(&lab);
    let (mut world, mut client) = (lab.world.helper("world"), lab.client.helper("client"));
    lab.switch_forwarding_on();
    lab.gateway
        .shell(
            "nft 'table inet early {
                chain pre { type filter hook prerouting priority -300; accept
                }
                chain onward { type filter hook forward priority -300; accept
                }
            }'",
        )
        .unwrap();
    // Nothing is located here, so that the gateway refuses all of it.
    shout(&mut client);
    assert_eq!(bytes_in_the_world(&mut world), [0; 4]);
    let offload = "nft 'table inet shortcuts {
        flowtable f { hook ingress priority 0; devices = { lan0, wan0 };
        }
    }'";
    match lab.gateway.shell(offload) {
        Ok(_) => {
            is_told(&gateway, "offload", 0.0);
            lab.gateway.shell("nft delete table inet shortcuts").unwrap();
            is_told(&gateway, "offload", 1.0);
        }
        // A kernel without nf_flow_table; said where it can be seen, for nothing was shown.
        Err(e) => writeln!(std::io::stderr(), "LEFT OUT: n12 with a flow table: {e}").unwrap(),
    }
}

/// Catalogue N15.
#[test]
fn a_fence_that_other_software_takes_down_is_told_of_and_the_others_hold() {
    let Some(lab) = lab("fences") else { return };
    let gateway = watched(&lab);
    let (mut world, mut client) = (lab.world.helper("world"), lab.client.helper("client"));
    for (what, check) in [
        ("sysctl -qw net.ipv4.ip_forward=1", "forwarding"),
        ("ip rule del priority 21319; ip -6 rule del priority 21319", "routing"),
        ("sysctl -qw net.ipv4.conf.lan0.rp_filter=1", "rp_filter"),
        ("nft flush table inet schengate", "rules"),
    ] {
        lab.gateway.shell(what).unwrap();
        is_told(&gateway, check, 0.0);
    }
    // Forwarding is on, the rules are flushed: the guard holds.
    shout(&mut client);
    assert_eq!(bytes_in_the_world(&mut world), [0; 4]);
    lab.gateway.shell("sysctl -qw net.ipv4.ip_forward=0 net.ipv4.conf.lan0.rp_filter=0").unwrap();
    gateway.capture();
    for check in ["forwarding", "routing", "rp_filter", "rules"] {
        is_told(&gateway, check, 1.0);
    }
    lab.gateway.shell("nft delete table inet schengate_guard").unwrap();
    is_told(&gateway, "guard", 0.0);
    shout(&mut client);
    assert_eq!(bytes_in_the_world(&mut world), [0; 4]);
}

/// Catalogue W10.
#[test]
fn w10_no_single_command_opens_the_post() {
    let Some(lab) = lab("w10") else { return };
    let gateway = watched(&lab);
    let (mut world, mut client) = (lab.world.helper("world"), lab.client.helper("client"));
    // What nftables.service, a VPN, systemd-networkd, docker, ufw or an administrator do, one each.
    for command in [
        "nft flush ruleset",
        "nft delete table inet schengate_guard",
        "nft flush table inet schengate",
        "ip -4 rule flush",
        "ip -6 rule flush",
        "ip -4 rule del priority 21319",
        "ip -4 rule add from 192.0.2.0/24 lookup main",
        "ip -6 rule add from 2001:db8:1::/64 lookup main",
        "ip -4 rule add iif lan0 lookup main priority 1",
        "ip -4 rule del not iif lo prohibit priority 0",
        "ip -6 rule del not iif lo prohibit priority 0",
        "nft 'table ip docker { chain f { type filter hook forward priority -10; accept; }; }'",
    ] {
        // Behind the administrator's back forwarding is on all the while.
        lab.switch_forwarding_on();
        lab.gateway.shell(command).unwrap();
        shout(&mut client);
        assert_eq!(bytes_in_the_world(&mut world), [0; 4], "{command}");
        // The rules of the kernel's own and of others are not ours to mend.
        let mend = "for f in 4 6; do ip -$f rule show | grep -q 32766 ||
            ip -$f rule add priority 32766 lookup main; done
            ip -4 rule del from 192.0.2.0/24 lookup main || true
            ip -6 rule del from 2001:db8:1::/64 lookup main || true";
        lab.gateway.shell(mend).unwrap();
        gateway.capture();
        let output = schengate_check(&lab, &gateway);
        let intact = ["rules", "guard", "fence", "routing"];
        for check in intact {
            let line = output.lines().find(|line| line.starts_with(check)).unwrap();
            assert!(line.ends_with(" intact"), "{command}: {output}");
        }
    }
    // The measure itself: with both fences down everything arrives, in all four families.
    lab.open();
    shout(&mut client);
    let arrived = bytes_in_the_world(&mut world);
    assert!(arrived.iter().all(|bytes| *bytes > 100), "{arrived:?}");
}

/// Who keeps the capture, in the gateway's namespace; ended on drop.
struct Keeper(Child);

impl Keeper {
    fn start(lab: &Lab, config: &Path, state: &Path, form: &[&str]) -> Self {
        let mut command = lab.gateway.command(env!("CARGO_BIN_EXE_schengate"));
        command.args(["capture", "keep", "--config"]).arg(config).arg("--state").arg(state);
        let child = command
            .args(form)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Catalogue H07.
#[test]
fn h07_what_keeps_packets_away_is_named_with_what_mends_it_and_the_gateway_is_not_ready() {
    let Some(lab) = lab("h07") else { return };
    let state = lab.write("state.json", "");
    // By itself a bridge is no hindrance; where br_netfilter is there it may be one from the start.
    let hooks = ["ip", "ip6"].map(|word| format!("net.bridge.bridge-nf-call-{word}tables"));
    let has_hooks =
        lab.gateway.shell(&format!("sysctl -qw {0}=0 {1}=0", hooks[0], hooks[1])).is_ok();
    let bridge = |hooks: &str| format!("ip link set br1 type bridge nf_call_iptables {hooks}");
    lab.gateway.shell("ip link add br1 type bridge").unwrap();
    let policy = format!(
        "schema = 1\n[policy]\npermit = [\"FR\"]\n[[listen]]\nmode = \"tproxy\"\n\
         address = \"[::]:15001\"\n[admin]\naddress = \"{ADMIN}\"\n"
    );
    let run = format!("exec \"$0\" run --keeper {} --config \"$1\";", state.display());
    let gateway = lab.start_gateway_with(&policy, &run);
    let sides = ["--interface", "lan0", "--interface", "br1"];
    let _keeper = Keeper::start(&lab, gateway.config(), &state, &sides);
    let says = |wanted: &str| {
        wait_until(wanted, || {
            let said = lab.gateway.shell(&format!("curl -s http://{ADMIN}/readyz; true")).unwrap();
            said.contains(wanted).then_some(())
        });
    };
    let probed = "schengate_capture_probe{way=\"tcp4\"} 1";
    wait_until("it is probed", || gateway.shows(probed).then_some(()));
    says("ready\n");
    let to = |name: &str, on: &str| format!("sysctl -qw {name}={on}");
    let mark = "net.ipv4.conf.lan0.src_valid_mark";
    let accept = "net.ipv4.tcp_fwmark_accept";
    let port = "ip link add br0 type bridge; ip link set lan0 master br0".to_owned();
    let mut hindrances = vec![
        ("src_valid_mark", to(mark, "1"), to(mark, "0"), to(mark, "0").replace("-qw", "-w")),
        ("tcp_fwmark_accept", to(accept, "1"), to(accept, "0"), "-w net.ipv4.tcp_fwmark".into()),
        ("bridge_port", port, "ip link del br0".into(), "name `--interface br0`".into()),
    ];
    if has_hooks {
        let off = to(&hooks[1], "0");
        let words = off.replace("-qw", "-w");
        hindrances.push(("br_netfilter", bridge("1"), bridge("0"), bridge("0")));
        hindrances.push(("br_netfilter", to(&hooks[1], "1"), off, words));
    } else {
        // Said where it can be seen, for nothing was shown.
        writeln!(std::io::stderr(), "LEFT OUT: h07 with br_netfilter").unwrap();
    }
    for (check, hinder, mend, words) in hindrances {
        lab.gateway.shell(&hinder).unwrap();
        says(&words);
        is_told(&gateway, check, 0.0);
        let output = schengate_check(&lab, &gateway);
        let line = output.lines().find(|line| line.starts_with(check)).unwrap();
        assert!(line.contains("BROKEN") && line.contains(&words), "{output}");
        lab.gateway.shell(&mend).unwrap();
        is_told(&gateway, check, 1.0);
        says("ready\n");
    }
}

/// Catalogue H07: REDIRECT delivers to an address of the interface that a probe comes in by.
#[test]
fn h07_probes_arrive_with_redirect_over_both_families() {
    let Some(lab) = lab("h07 redirect") else { return };
    let state = lab.write("state.json", "");
    let gateway = lab.start_gateway(&format!(
        "schema = 1\n[policy]\npermit = [\"FR\"]\n[[listen]]\nmode = \"redirect\"\n\
         address = \"[::]:15002\"\n[admin]\naddress = \"{ADMIN}\"\n"
    ));
    let _keeper = Keeper::start(&lab, gateway.config(), &state, &["--interface", "lan0"]);
    let ways = ["tcp4", "tcp6", "udp4", "udp6", "past4", "past6"];
    probes(&state, &ways, "held");
}

/// Waits until the keeper says so of its probes.
fn probes(state: &Path, ways: &[&str], seen: &str) {
    wait_until(&format!("{ways:?} {seen}"), || {
        let said = std::fs::read_to_string(state).ok()?;
        let said: serde_json::Value = serde_json::from_str(&said).ok()?;
        ways.iter().all(|way| said["probe"][way] == seen).then_some(())
    });
}

/// Catalogue H07: a host's own traffic.
#[test]
fn h07_the_host_form_is_probed_as_a_program_of_the_host_asks() {
    let Some(lab) = lab("h07 host") else { return };
    let state = lab.write("state.json", "");
    let mut gateway = lab.start_gateway(&both_forms());
    let keep = |config: &Path| Keeper::start(&lab, config, &state, &["--host", "--user", "65534"]);
    let keeper = keep(gateway.config());
    probes(&state, &["tcp4", "tcp6", "udp4", "udp6"], "held");
    // Nobody's connections are in no record.
    assert_eq!(gateway.records(), Vec::<serde_json::Value>::new());
    gateway.kill();
    probes(&state, &["tcp4", "tcp6"], "lost");
    probes(&state, &["udp4", "udp6"], "held");
    drop(keeper);
}

fn schengate_check(lab: &Lab, gateway: &Gateway<'_>) -> String {
    let arguments = format!("capture check --config {}", gateway.config().display());
    String::from_utf8(schengate(lab, &arguments).stdout).unwrap()
}

/// Catalogue W10: what the guard's unit runs, before any interface is known.
#[test]
fn w10_the_guard_alone_is_two_fences_and_leaves_this_hosts_own_traffic_alone() {
    let Some(lab) = lab("w10 guard") else { return };
    let (mut world, mut client) = (lab.world.helper("world"), lab.client.helper("client"));
    let mut own = lab.gateway.helper("client");
    for _ in 0..2 {
        lab.switch_forwarding_on();
        let guard = schengate(&lab, "capture guard");
        assert!(guard.status.success(), "{}", said(&guard));
        let switches = "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding";
        assert_eq!(lab.gateway.shell(switches).unwrap(), "0\n0\n");
    }
    let rules = lab.gateway.shell("ip -4 -d rule; ip -6 -d rule").unwrap();
    assert_eq!(rules.matches("iif lo prohibit proto kernel").count(), 2, "{rules}");
    lab.switch_forwarding_on();
    for fences in ["true", "nft flush ruleset"] {
        lab.gateway.shell(fences).unwrap();
        shout(&mut client);
        assert_eq!(bytes_in_the_world(&mut world), [0; 4], "{fences}");
        // This host asks, and is answered: nothing of it is forwarded.
        for ip in PERMITTED {
            let asked = json!({"do": "send", "to": at(ip, 25), "enough": 3, "patience_ms": 5_000});
            assert_eq!(own.ask(&asked)["end"], "enough", "{ip}");
        }
        for ip in GATEWAY {
            let to = json!({"do": "send", "to": at(ip, 9), "patience_ms": 5_000});
            let end = client.ask(&to);
            assert!(end.to_string().contains("refused"), "it reaches this host: {end}");
        }
    }
}

/// Catalogue H11: a minimal image has `nft`, and neither `ip`, `sysctl`, `id` nor names of protocols.
#[test]
fn h11_rules_need_no_program_but_nft() {
    let Some(lab) = lab("h11") else { return };
    let gateway = lab.start_gateway(&both_forms());
    lab.gateway
        .shell(
            "mkdir -p /run/h11 && mount -t tmpfs none /run/h11 && ln -s $(command -v nft) /run/h11/nft
            for name in protocols services; do mount --bind /dev/null /etc/$name; done",
        )
        .unwrap();
    let run = |arguments: &str| {
        let mut command = lab.gateway.command("/usr/bin/env");
        command.args(["-i", "PATH=/run/h11", env!("CARGO_BIN_EXE_schengate")]);
        let output = command.args(arguments.split(' ')).arg("--config").arg(gateway.config());
        let output = output.output().unwrap();
        assert!(output.status.success(), "{arguments}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    run("capture up --gateway --interface lan0");
    let standing = run("capture check");
    assert!(!standing.contains("BROKEN") && !standing.contains("not seen"), "{standing}");
    run("capture up --host --user 65532");
    let rules = lab.gateway.shell("nft -n list table inet schengate").unwrap();
    assert_eq!(rules.matches("meta skuid 65532").count(), 2, "{rules}");
}

fn both_forms() -> String {
    format!(
        "schema = 1\n[policy]\npermit = [\"FR\"]\n[[listen]]\nmode = \"tproxy\"\n\
         address = \"[::]:15001\"\n[[listen]]\nmode = \"redirect\"\naddress = \"[::]:15002\"\n\
         [admin]\naddress = \"{ADMIN}\"\n[capture]\nntp = [\"{}\"]\n{}",
        PERMITTED[0],
        lab::places()
    )
}

/// An IP packet of this host.
fn packet(from: IpAddr, to: IpAddr, protocol: u8, hops: u8, behind: &[u8]) -> Vec<u8> {
    let length = u16::try_from(behind.len()).unwrap();
    let mut packet = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut packet = vec![0x45, 0];
            packet.extend((20 + length).to_be_bytes());
            packet.extend([0, 0, 0, 0, hops, protocol, 0, 0]);
            packet.extend([from, to].map(|ip| ip.octets()).concat());
            packet
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut packet = vec![0x60, 0, 0, 0];
            packet.extend(length.to_be_bytes());
            packet.extend([protocol, hops]);
            packet.extend([from, to].map(|ip| ip.octets()).concat());
            packet
        }
        _ => panic!("one family"),
    };
    packet.extend(behind);
    packet
}

/// Catalogue W06.
#[test]
fn w06_a_host_lets_nothing_out_unjudged_but_to_named_servers_and_small_icmp() {
    let Some(lab) = lab("w06") else { return };
    let world = lab.world.helper("world");
    let mut own = lab.gateway.helper("client");
    let config = lab.write("host.toml", &both_forms());
    let up = format!("capture up --host --user 65532 --config {}", config.display());
    let up = schengate(&lab, &up);
    assert!(up.status.success(), "{}", said(&up));
    lab.world
        .shell(
            "nft 'table inet everybody { counter seen { }
            chain c { type filter hook prerouting priority -300;
                meta l4proto 58 icmpv6 type { 133, 134, 135, 136, 143 } accept
                fib daddr type local counter name seen
            }
            }'",
        )
        .unwrap();
    let seen = || {
        let text = lab.world.shell("nft list counter inet everybody seen").unwrap();
        let mut words = text.split_whitespace();
        let packets = words.find(|word| *word == "packets").and_then(|_| words.next());
        packets.unwrap().parse::<u64>().unwrap()
    };
    let parse = |ip: &str| ip.parse::<IpAddr>().unwrap();
    let own_addresses = ["198.51.100.1", "2001:db8:2::1"].map(parse);
    let mut send = |to: IpAddr, packet: &[u8]| {
        let ask = json!({"do": "raw", "to": at(&to.to_string(), 0), "packets": [hex(packet)]});
        own.ask(&ask)
    };
    let filler = |length: usize| vec![b'd'; length];
    for (family, from) in own_addresses.into_iter().enumerate() {
        let (udp, icmp) = (17, [1, 58][family]);
        for to in [PERMITTED[family], REFUSED[family]].map(parse) {
            for port in [53_u16, 67, 68, 123, 443, 546, 547, 853, 5353, 9000] {
                if to == parse(PERMITTED[0]) && port == 123 {
                    continue;
                }
                for source in [port, 40_000] {
                    let head = [source, port, 8 + 100, 0].map(u16::to_be_bytes).concat();
                    send(to, &packet(from, to, udp, 64, &[head, filler(100)].concat()));
                }
            }
            // Too long an echo, errors about nothing, a timestamp, neighbour discovery that a
            // router passes on, an answer that nobody asked for; and other protocols.
            let echo = [8, 128][family];
            let said = [[0, 3, 11, 13], [129, 1, 3, 135]][family];
            let echoed = [[echo, 0, 0, 0, 0, 1, 0, 1].to_vec(), filler(100)].concat();
            send(to, &packet(from, to, icmp, 64, &echoed));
            for kind in said {
                let message = [[kind, 0, 0, 0, 0, 1, 0, 1].to_vec(), filler(40)].concat();
                send(to, &packet(from, to, icmp, 64, &message));
            }
            for protocol in [4, 47, 50, 132, 253] {
                send(to, &packet(from, to, protocol, 64, &filler(64)));
            }
        }
    }
    assert_eq!(seen(), 0, "packets in the world");
    let counted = |name: &str| {
        let shown = String::from_utf8(schengate(&lab, "capture show").stdout).unwrap();
        let line = shown.lines().find(|line| line.contains(&format!(" {name} "))).unwrap();
        line.split_whitespace().nth(2).unwrap().parse::<u64>().unwrap()
    };
    assert!(counted("refused_udp") >= 76, "{}", counted("refused_udp"));
    assert!(counted("refused_other") >= 40, "{}", counted("refused_other"));
    // What may leave does: to the time server of the policy, to the resolver, a ping.
    for (family, from) in own_addresses.into_iter().enumerate() {
        let to = parse(PERMITTED[family]);
        let echo = [[[8, 128][family], 0, 0, 0, 0, 1, 0, 1].to_vec(), filler(56)].concat();
        send(to, &packet(from, to, [1, 58][family], 64, &echo));
    }
    let to = parse(PERMITTED[0]);
    let head = [123_u16, 123, 8 + 48, 0].map(u16::to_be_bytes).concat();
    send(to, &packet(own_addresses[0], to, 17, 64, &[head, filler(48)].concat()));
    wait_until("a ping in either family and a question for the time arrive", || {
        (seen() >= 3).then_some(())
    });
    drop(world);
}

/// Catalogue W06, where the policy has `[dns]`.
#[test]
fn w06_a_hosts_questions_are_judged_by_dns_where_there_is_one() {
    let Some(lab) = lab("w06 dns") else { return };
    if !lab::has("setpriv") || lab.gateway.shell("setpriv --reuid 65534 true").is_err() {
        return;
    }
    let _world = lab.world.helper("world");
    let dns = "[names]\nresolvers = [\"198.51.100.53:53\"]\n[dns]\nlisten = \"127.0.0.1:5353\"\n\
         [[place]]\nto = [\"198.51.100.53/32\"]\nlocation = [\"FR\"]\nreason = \"the server\"\n";
    let mut gateway = lab.start_gateway(&format!("{}{dns}", both_forms()));
    // The gateway runs as root here.
    let up = format!("capture up --host --user root --config {}", gateway.config().display());
    let up = schengate(&lab, &up);
    assert!(up.status.success(), "{}", said(&up));
    let ask = |name: &str| {
        lab.gateway.shell(&format!("setpriv --reuid 65534 --clear-groups getent ahosts {name}"))
    };
    let found = ask("permitted.example").unwrap();
    assert!(found.contains(PERMITTED[0]), "{found}");
    assert!(gateway.count("schengate_dns") > 0.0, "it went past [dns]");
    gateway.kill();
    assert!(ask("permitted.example").is_err(), "another resolver was asked");
    // A resolver on this host that would ask [dns] again.
    let stub = format!("{}{}", both_forms(), dns.replace("198.51.100.53:", "127.0.0.53:"));
    let stub = lab.write("stub.toml", &stub);
    let up = format!("capture up --host --user root --config {}", stub.display());
    let up = schengate(&lab, &up);
    assert!(!up.status.success() && said(&up).contains("[names] resolvers"), "{}", said(&up));
}
