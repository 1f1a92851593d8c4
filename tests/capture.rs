//! The interception rules in a kernel, with listeners that say where a connection was delivered.

mod lab;

use std::io::Write;

use lab::role::{self, GREETING, unhex};
use lab::{
    ADMIN, GATEWAY, Gateway, Helper, Lab, PERMITTED, REFUSED, at, bytes_in_the_world, lab, shout,
    wait_until,
};
use serde_json::json;

#[test]
fn a_helper_process_does_as_its_role_says() {
    role::run_if_asked();
}

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
    assert_eq!(set.matches("table inet schengate {").count(), 1, "{set}");
    assert_eq!(set.matches("fwmark 0x5347 lookup 21319").count(), 2, "{set}");
    assert_eq!(set.matches("local default dev lo table 21319").count(), 2, "{set}");
    for _ in 0..2 {
        assert_eq!(standin.ask(&json!("down")), "done");
    }
    let after = rules(&lab);
    let guard = lab.gateway.shell("nft list table inet schengate_guard").unwrap();
    assert!(guard.contains("policy drop"), "{guard}");
    assert_eq!(after.replace(&guard, ""), before);
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

/// A gateway with the rules of its capture, and nothing that is wrong.
fn watched(lab: &Lab) -> Gateway<'_> {
    let gateway = lab.start_gateway(&format!(
        "schema = 1\n[policy]\npermit = [\"FR\"]\n[[listen]]\nmode = \"tproxy\"\n\
         address = \"[::]:15001\"\n[admin]\naddress = \"{ADMIN}\"\n"
    ));
    gateway.capture();
    for check in ["rules", "guard", "routing", "forwarding", "rp_filter", "offload"] {
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
