//! The rules as text, and as the kernel takes them.

use std::time::Duration;

use super::family::Family;
use super::matches::EMPTY_TABLE;
use super::program::{checked, run, words};
use super::rules::REJECT_UDP;
use super::{shortcut, *};
use crate::control::config::{Listen, ListenMode, Shortcut};

fn listen(mode: ListenMode, address: &str) -> Listen {
    Listen {
        mode,
        address: address.parse().unwrap(),
        peek_timeout: Duration::from_secs(3),
        connect_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(3600),
        half_closed_timeout: Duration::from_secs(3600),
        lifetime: None,
        keepalive: None,
        user_timeout: None,
        keep_source: false,
        max_connections: 1,
        max_connections_per_client: None,
        silent: false,
        starttls: false,
        udp: None,
        ..Listen::DEFAULT
    }
}

const HOST: Form = Form::Host { exempt_uid: 990 };

fn every_form() -> Vec<(&'static str, Capture)> {
    let tproxy = [listen(ListenMode::Tproxy, "[::]:15001")];
    let loopback = ["127.0.0.1:15001", "[::1]:15001"];
    let loopback = loopback.map(|address| listen(ListenMode::Tproxy, address));
    let redirect = [listen(ListenMode::Redirect, "[::]:15002")];
    let mixed = [
        listen(ListenMode::Proxy, "127.0.0.1:3128"),
        listen(ListenMode::Tproxy, "0.0.0.0:15001"),
        listen(ListenMode::Redirect, "[::]:15002"),
    ];
    let new = |form, listen: &[Listen]| Capture::new(form, listen).unwrap();
    let names = ["lan0".to_owned(), "wg-é".to_owned()];
    vec![
        ("tproxy", new(Form::Gateway, &tproxy)),
        ("loopback", new(Form::Gateway, &loopback)),
        ("udp", new(Form::Gateway, &tproxy).with_udp("[::]:15001".parse().unwrap())),
        ("quic", new(Form::Gateway, &tproxy).with_udp("[::]:443".parse().unwrap())),
        ("interfaces", new(Form::Gateway, &tproxy).on_interfaces(&names).unwrap()),
        ("redirect", new(Form::Gateway, &redirect)),
        ("mixed", new(Form::Gateway, &mixed)),
        ("host", new(HOST, &redirect)),
        ("servers", new(HOST, &redirect).with_servers(Servers::every_kind()).unwrap()),
    ]
}

fn form(wanted: &str) -> Capture {
    every_form().into_iter().find(|(name, _)| *name == wanted).unwrap().1
}

fn has(text: &str, rule: &str) -> bool {
    text.lines().any(|line| line.trim() == rule)
}

#[test]
fn a_dual_stack_tproxy_listener_takes_both_families() {
    let text = form("tproxy").ruleset();
    for rule in [
        "meta nfproto ipv4 meta l4proto 6 tproxy ip to :15001 meta mark set 0x5347 accept",
        "meta nfproto ipv6 meta l4proto 6 tproxy ip6 to :15001 meta mark set 0x5347 accept",
        "meta l4proto != 6 socket transparent 1 meta mark set 0x5347 accept",
        "tcp flags & (fin | syn | rst | ack) != syn socket transparent 1 meta mark set 0x5347 accept",
        "fib daddr type { local, broadcast, anycast, multicast } return",
        "counter drop",
    ] {
        assert!(has(&text, rule), "no {rule} in\n{text}");
    }
}

#[test]
fn what_no_listener_takes_is_dropped_at_the_end_of_the_chain() {
    for (name, capture) in every_form() {
        let text = capture.ruleset();
        if capture.form == HOST {
            assert!(
                text.ends_with("counter name refused_other drop\n    }\n}\n"),
                "{name}:\n{text}"
            );
        } else {
            let chain = text.split("chain prerouting {").nth(1).unwrap();
            let chain = chain.split("    }\n").next().unwrap();
            let last: Vec<&str> = chain.lines().rev().take(2).map(str::trim).collect();
            assert_eq!(last, ["counter drop", REJECT_UDP], "{name}:\n{text}");
        }
    }
}

#[test]
fn an_ipv4_listener_leaves_ipv6_to_the_drop() {
    let only_v4 = [listen(ListenMode::Tproxy, "0.0.0.0:15001")];
    let text = Capture::new(Form::Gateway, &only_v4).unwrap().ruleset();
    assert!(text.contains("tproxy ip to :15001") && !text.contains("tproxy ip6"), "{text}");
    assert!(has(&text, "counter drop"), "{text}");
}

#[test]
fn udp_goes_to_its_listener_before_it_is_refused() {
    let mark = "meta mark set 0x5347 accept";
    for (name, rule) in [
        ("udp", format!("meta nfproto ipv6 meta l4proto 17 tproxy ip6 to :15001 {mark}")),
        ("quic", format!("meta nfproto ipv4 udp dport 443 tproxy ip to :443 {mark}")),
    ] {
        let text = form(name).ruleset();
        let at = |rule: &str| text.lines().position(|line| line.trim() == rule);
        let (taken, refused) = (at(&rule), at(REJECT_UDP));
        assert!(taken.is_some() && taken < refused, "{name}: no {rule} in\n{text}");
    }
    assert!(!form("tproxy").ruleset().contains("l4proto 17 tproxy"));
}

#[test]
fn no_form_names_a_protocol_by_the_next_header_or_by_a_word() {
    for (name, capture) in every_form() {
        assert!(!capture.ruleset().contains("nexthdr"), "{name}");
        let side = capture.clone().on_interfaces(&["lan0".to_owned()]).unwrap();
        let short = side.with_shortcut(Shortcut::Address, &[]).unwrap();
        for text in [capture.script(), short.script()] {
            let words = text.split("l4proto ").skip(1);
            let mut named =
                words.filter(|rest| !rest.starts_with(|c: char| "!{ 0123456789".contains(c)));
            assert_eq!(named.next(), None, "{name}: needs /etc/protocols");
        }
    }
}

#[test]
fn the_host_form_leaves_the_gateways_own_user_alone_before_anything_else() {
    let host = form("host");
    let text = host.ruleset();
    for chain in ["redirect_out", "leave"] {
        let body = text.split(&format!("chain {chain} {{")).nth(1).unwrap();
        let first = body.lines().nth(2).unwrap().trim();
        assert!(first.starts_with("meta skuid 990 "), "{chain}: {first}");
    }
    assert_eq!(host.routed().count(), 0);
}

#[test]
fn the_own_table_is_replaced_and_the_guard_is_never_touched() {
    for (name, capture) in every_form() {
        let text = capture.ruleset();
        assert!(text.starts_with(EMPTY_TABLE), "{name}");
        assert!(!text.contains("schengate_guard"), "{name}");
    }
    assert!(GUARD.contains("hook forward") && GUARD.contains("policy drop"));
}

#[test]
fn only_transparent_families_are_routed_locally() {
    let routed = |name| form(name).routed().collect::<Vec<_>>();
    assert_eq!(routed("tproxy"), [Family::V4, Family::V6]);
    assert_eq!(routed("mixed"), [Family::V4]);
    assert_eq!(routed("redirect"), []);
}

#[test]
fn a_listener_that_redirect_never_reaches_is_a_fault() {
    let loopback = [listen(ListenMode::Redirect, "127.0.0.1:15002")];
    let fault = Capture::new(Form::Gateway, &loopback).unwrap_err();
    assert!(matches!(fault, CaptureFault::Unreachable { .. }), "{fault}");
    assert!(Capture::new(HOST, &loopback).is_ok());
    let elsewhere = [listen(ListenMode::Redirect, "192.0.2.1:15002")];
    let fault = Capture::new(HOST, &elsewhere).unwrap_err();
    assert!(matches!(fault, CaptureFault::Unreachable { .. }), "{fault}");
}

#[test]
fn a_policy_without_a_fitting_listener_is_told_what_to_add() {
    let proxy = [listen(ListenMode::Proxy, "127.0.0.1:3128")];
    let gateway = Capture::new(Form::Gateway, &proxy).unwrap_err().to_string();
    assert!(gateway.contains("gateway form") && gateway.contains("tproxy"), "{gateway}");
    let tproxy = [listen(ListenMode::Tproxy, "[::]:15001")];
    let host = Capture::new(HOST, &tproxy).unwrap_err().to_string();
    assert!(host.contains("host form") && host.contains("redirect"), "{host}");
}

#[test]
fn an_interface_name_cannot_carry_rules() {
    for name in ["", "a b", "x\"}accept", "sixteen-bytes-xx", "a/b", "a\n", "a\\"] {
        let fault = form("tproxy").on_interfaces(&[name.to_owned()]).unwrap_err();
        assert!(matches!(fault, CaptureFault::Interface { .. }), "{name:?}: {fault}");
    }
}

#[test]
fn a_command_that_fails_is_named_with_what_it_wrote() {
    let fault = checked("ls", &words("/nonexistent/schengate"), None).unwrap_err().to_string();
    assert!(fault.starts_with("`ls /nonexistent/schengate` failed"), "{fault}");
    assert!(fault.contains("No such file"), "{fault}");
    let fault = checked("schengate-no-such-program", &words("x y"), None).unwrap_err();
    assert!(fault.to_string().contains("`schengate-no-such-program x y`"), "{fault}");
}

#[test]
fn a_user_is_found_by_name_or_said_to_be_missing() {
    assert_eq!(user_id("root").unwrap(), 0);
    assert_eq!(user_id("65532").unwrap(), 65_532);
    let fault = user_id("no-such-user-here").unwrap_err();
    assert!(matches!(fault, CaptureFault::NoUser { .. }), "{fault}");
}

/// The kernel's own opinion, in a network namespace of its own, twice in a row.
#[test]
fn nft_takes_every_form_and_takes_it_again() {
    let works = |flags: &&str| {
        run("unshare", &[*flags, "nft", "list", "ruleset"], None)
            .is_ok_and(|output| output.status.success())
    };
    let Some(flags) = ["-n", "-Urn"].into_iter().find(works) else {
        assert!(std::env::var("SCHENGATE_CI").is_err(), "no nft, or no network namespace");
        println!("LEFT OUT: nft in a network namespace is not to be had here");
        return;
    };
    let load = words(&format!("{flags} nft -f -"));
    for (name, capture) in every_form() {
        for text in [format!("{GUARD}{0}{0}", capture.ruleset()), capture.script()] {
            if let Err(fault) = checked("unshare", &load, Some(&text)) {
                panic!("{name}: {fault}\n{text}");
            }
        }
    }
}

#[test]
fn without_the_short_cut_not_a_byte_of_any_form_is_another() {
    for (name, capture) in every_form() {
        let off = capture.clone().with_shortcut(Shortcut::Off, &[]).unwrap();
        assert_eq!(off.script(), capture.script(), "{name}");
        assert!(!capture.script().contains("0x5348"), "{name}");
    }
    // The host form has none: what a host opens itself always passes the gateway.
    let host = form("host").with_shortcut(Shortcut::Address, &[]).unwrap();
    assert_eq!(host, form("host"));
    // The text as it has always been.
    assert_eq!(
        form("interfaces").ruleset(),
        "table inet schengate\ndelete table inet schengate\ntable inet schengate {
    counter loop { }
    counter astray { }
    counter no_route { }
    chain prerouting {
        type filter hook prerouting priority mangle; policy accept;
        iifname != { \"lan0\", \"wg-é\" } return
        meta l4proto != 6 socket transparent 1 meta mark set 0x5347 accept
        tcp flags & (fin | syn | rst | ack) != syn socket transparent 1 meta mark set 0x5347 accept
        fib daddr type { local, broadcast, anycast, multicast } return
        meta l4proto 6 fib daddr oif missing counter name no_route reject with tcp reset
        meta l4proto 17 fib daddr oif missing counter name no_route reject with icmpx type admin-prohibited
        meta nfproto ipv4 meta l4proto 6 tproxy ip to :15001 meta mark set 0x5347 accept
        meta nfproto ipv6 meta l4proto 6 tproxy ip6 to :15001 meta mark set 0x5347 accept
        meta l4proto 17 counter reject with icmpx type admin-prohibited
        counter drop
    }
    chain astray {
        ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept
        udp sport 67 udp dport 68 fib daddr type { local, broadcast } accept
        ip6 saddr fe80::/10 accept
        ip6 saddr :: ip6 daddr ff02::/16 accept
        fib saddr type local counter name loop drop
        counter name astray drop
    }
    chain sources {
        type filter hook prerouting priority raw; policy accept;
        iif lo accept
        iifname { \"lan0\", \"wg-é\" } fib saddr . iif oif missing goto astray
        iifname { \"lan0\", \"wg-é\" } accept
        fib saddr oif missing fib saddr type local goto astray
        fib saddr oifname { \"lan0\", \"wg-é\" } goto astray
    }
}
"
    );
}

#[test]
fn answers_to_a_kept_source_are_let_in_on_the_far_side_and_only_where_a_listener_keeps_it() {
    let far = "        iifname != { \"lan0\" } fib daddr oifname { \"lan0\" }";
    let mark = "socket transparent 1 meta mark set 0x5347 accept\n";
    let answers = format!(
        "{far} meta l4proto != 6 socket wildcard 0 {mark}{far} tcp flags & (fin | syn | rst | ack) != \
         syn {mark}        iifname != {{ \"lan0\" }} return\n"
    );
    for mode in [ListenMode::Tproxy, ListenMode::Redirect] {
        for keep_source in [true, false] {
            let listen = [Listen { keep_source, ..listen(mode, "[::]:15001") }];
            let capture = Capture::new(Form::Gateway, &listen).unwrap();
            assert!(!capture.ruleset().contains("wildcard"), "every interface counts");
            let capture = capture.on_interfaces(&["lan0".to_owned()]).unwrap();
            assert_eq!(capture.ruleset().contains(&answers), keep_source, "{mode:?}");
            assert_eq!(capture.ruleset().contains("wildcard"), keep_source, "{mode:?}");
            let routed = keep_source || mode == ListenMode::Tproxy;
            assert_eq!(capture.script().contains("table 21319"), routed, "{mode:?}");
        }
    }
}

#[test]
fn the_short_cut_takes_udp_only_where_a_listener_does() {
    let set = |name: &str| {
        let capture = form(name).on_interfaces(&["lan0".to_owned()]).unwrap();
        capture.with_shortcut(Shortcut::Address, &[]).unwrap().script()
    };
    let asked = |text: &str| {
        let rules = text
            .lines()
            .filter(|line| line.contains(" prerouting ") && line.contains("l4proto 17"));
        rules.filter(|line| line.ends_with("jump judge")).count()
    };
    assert_eq!(asked(&set("tproxy")), 0);
    assert_eq!(asked(&set("udp")), 2);
    assert!(set("quic").contains("meta nfproto ipv4 udp dport 443 jump judge"));
    let missing = form("tproxy").with_shortcut(Shortcut::Permitted, &[]).unwrap_err();
    assert!(matches!(missing, CaptureFault::NoSide), "{missing}");
}

#[test]
fn the_guard_of_the_short_cut_opens_to_its_mark_alone() {
    let guard = shortcut::guard(GUARD);
    let rules = guard.lines().map(str::trim).filter(|line| line.starts_with("meta mark"));
    assert_eq!(
        rules.collect::<Vec<_>>(),
        ["meta mark 0x5348 ct status dnat counter drop", "meta mark 0x5348 accept"]
    );
    let added = guard.replace("        meta mark 0x5348 ct status dnat counter drop\n", "");
    assert_eq!(added.replace("        meta mark 0x5348 accept\n", ""), GUARD);
}

#[test]
fn a_counters_name_says_what_it_counts() {
    let counted = counted("block_outside").unwrap();
    assert_eq!(
        (counted.action, counted.reason.label(), counted.place),
        (crate::policy::Action::Block, "outside", "none")
    );
    assert_eq!(super::counted("allow_permitted_FR").unwrap().place, "FR");
    assert!(super::counted("somebody_elses").is_none() && super::counted("").is_none());
}
