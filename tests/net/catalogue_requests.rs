//! The rows of docs/catalogue.md about clear-text HTTP in every way in, each a test of its id, over
//! the built binary in a laboratory of namespaces: TPROXY, REDIRECT, CONNECT, SOCKS5 and the explicit
//! HTTP proxy.

use serde_json::json;

use crate::lab::role::{self, GREETING};
use crate::lab::services::KEPT;
use crate::lab::{self, lab, wait_until};
use crate::requests::{self, EXPLICIT, SITES, Scene, Site, Way, request};

/// The shapes in which a second request follows a first one on the same connection.
const SHAPES: [&str; 9] = [
    "kept alive",
    "in one segment",
    "behind a body of a length",
    "behind a body in chunks",
    "in two pieces",
    "behind one that closes",
    "behind an upgrade",
    "behind an upgrade, in one segment",
    "behind a CONNECT",
];

fn shape(name: &str, way: Way, site: &Site) -> Vec<(Vec<u8>, &'static str)> {
    let fine =
        |method: &str, more: &str| request(way, &format!("{method} /"), site.fine, KEPT, more);
    let second = request(way, "GET /", site.refused, KEPT, "");
    let upgrade =
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n";
    let then = |first: Vec<u8>| vec![([first, second.clone()].concat(), "")];
    match name {
        "kept alive" => vec![(fine("GET", ""), GREETING), (second, "")],
        "in one segment" => then(fine("GET", "")),
        "behind a body of a length" => {
            then([&fine("POST", "Content-Length: 5\r\n")[..], b"GET /"].concat())
        }
        "behind a body in chunks" => {
            let body = b"5;x=y\r\nGET /\r\n0\r\n\r\n";
            then([&fine("POST", "Transfer-Encoding: chunked\r\n")[..], body].concat())
        }
        "in two pieces" => {
            let (half, rest) = second.split_at(second.len() - 9);
            let first = [&fine("GET", "")[..], half].concat();
            vec![(first, GREETING), (rest.to_vec(), "")]
        }
        "behind one that closes" => then(fine("GET", "Connection: close\r\n")),
        // The explicit proxy asks without the upgrade.
        "behind an upgrade" if way == Way::Http => {
            vec![(fine("GET", upgrade), GREETING), (second, "")]
        }
        "behind an upgrade" => vec![(fine("GET", upgrade), " 101 "), (second, "")],
        "behind an upgrade, in one segment" => then(fine("GET", upgrade)),
        _ => {
            let head = format!("CONNECT {0}:443 HTTP/1.1\r\nHost: {0}:443\r\n\r\n", site.fine);
            vec![(head.into_bytes(), " 200 "), (second, "")]
        }
    }
}

/// Final lines that a shape leaves, where both of its requests are judged.
fn lines_of(shape: &str, way: Way, site: &Site) -> usize {
    match shape {
        // Nothing behind it is read.
        "behind one that closes" => 1,
        // What follows has no name, and may not go there: that is the end of the first one.
        _ if shape.contains("upgrade") && way != Way::Http && !site.is_open => 1,
        "behind a CONNECT" if !site.is_open => 1,
        _ => 2,
    }
}

fn second_requests(mode: &str, ways: &[Way]) {
    let Some(lab) = lab("w01") else { return };
    let mut scene = Scene::start(&lab, mode, "");
    for &way in ways {
        for site in &SITES {
            // A tunnel to an address that is refused without a name is not opened.
            if matches!(way, Way::ConnectAddress | Way::SocksAddress) && !site.is_open {
                continue;
            }
            for name in SHAPES {
                if way == Way::Http && name == "behind a CONNECT" {
                    continue;
                }
                let before = scene.lines().len();
                let end = scene.converse(way, site, &shape(name, way, site));
                let what = format!("{way:?}, {}, {name}: {end}", site.refused);
                assert_ne!(end["end"], "silence", "{what}");
                let wanted = before + lines_of(name, way, site);
                wait_until(&format!("{what} has its lines"), || {
                    (scene.lines().len() >= wanted).then_some(())
                });
                wait_until("no connection is left", || {
                    scene.gateway.shows("schengate_connections_active 0").then_some(())
                });
                let lines = scene.lines().split_off(before);
                let came = scene.world.ask(&json!("kept"));
                let came = came.as_str().unwrap();
                assert!(came.contains(site.fine), "{what}: the first request arrived: {came:?}");
                assert!(!came.contains(site.refused), "{what}: {came:?}");
                assert_eq!(lines.len(), lines_of(name, way, site), "{what}: {lines:#?}");
                let verdicts: Vec<_> =
                    lines.iter().map(|line| line["verdict"].as_str().unwrap()).collect();
                if name == "behind one that closes" {
                    assert_eq!(verdicts, ["allow"], "{what}");
                } else {
                    assert_eq!(
                        verdicts.iter().filter(|v| **v == "block").count(),
                        1,
                        "{what}: {lines:#?}"
                    );
                }
                if name == "kept alive" {
                    let told = String::from_utf8(role::unhex(end["received"].as_str().unwrap()));
                    assert!(told.unwrap().starts_with("HTTP/1.1 451 "), "{what}");
                    // What the policy says of a name inside a tunnel stands first, where it refuses.
                    let reason = if site.is_open { "rule" } else { "outside" };
                    let block = lines.iter().find(|line| line["verdict"] == "block").unwrap();
                    assert_eq!(block["reason"], reason, "{what}: {block}");
                }
            }
        }
    }
}

#[test]
fn w01_each_request_is_judged_behind_tproxy() {
    second_requests("tproxy", &[Way::Tproxy]);
}

#[test]
fn w01_each_request_is_judged_behind_redirect() {
    second_requests("redirect", &[Way::Redirect]);
}

#[test]
fn w01_each_request_is_judged_in_tunnels_and_by_the_explicit_proxy() {
    second_requests("tproxy", &EXPLICIT);
}

/// A server takes what is sent as the body of a CONNECT for the first bytes inside the tunnel.
#[test]
fn w01_a_connect_with_a_body_is_malformed_in_every_way_in() {
    for (mode, ways) in [
        ("tproxy", &[Way::Tproxy, Way::Connect, Way::ConnectAddress, Way::Socks][..]),
        ("redirect", &[Way::Redirect]),
    ] {
        let Some(lab) = lab("w01 connect") else { return };
        let mut scene = Scene::start(&lab, mode, "");
        for &way in ways {
            let site = &SITES[0];
            let inside = request(way, "GET /", site.refused, KEPT, "");
            for framing in ["Content-Length: LENGTH", "Transfer-Encoding: chunked"] {
                let framing = framing.replace("LENGTH", &inside.len().to_string());
                let head = format!("CONNECT {0}:443 HTTP/1.1\r\nHost: {0}:443\r\n", site.fine);
                let chunk = format!("{:x}\r\n", inside.len());
                let chunk = if framing.starts_with('T') { &chunk[..] } else { "" };
                let said = [format!("{head}{framing}\r\n\r\n{chunk}").as_bytes(), &inside].concat();
                let before = scene.lines().len();
                let end = scene.converse(way, site, &[(said, "")]);
                let what = format!("{way:?}, {framing}: {end}");
                let line = wait_until(&what, || scene.lines().get(before).cloned());
                assert_eq!(scene.world.ask(&json!("kept")), "", "{what}");
                assert_eq!(
                    (&line["verdict"], &line["fault"]),
                    (&json!("block"), &json!("connect-body")),
                    "{what}: {line}"
                );
            }
        }
    }
}

/// Where no name can change the answer, nobody is kept waiting, and each request is in the record all
/// the same; the policy that is in force when it comes judges it.
#[test]
fn w01_each_request_is_recorded_where_the_address_decides_and_judged_by_the_policy_in_force() {
    for mode in ["tproxy", "redirect"] {
        let Some(lab) = lab("w01 address") else { return };
        let with_names = requests::policy(mode, "");
        let rules = with_names.find("[[rule]]").unwrap()..with_names.find("[[place]]").unwrap();
        let mut without = with_names.clone();
        without.replace_range(rules, "");
        let mut scene = Scene::start_with(&lab, &without);
        let (way, site) = (if mode == "tproxy" { Way::Tproxy } else { Way::Redirect }, &SITES[0]);
        for name in ["kept alive", "in one segment", "in two pieces"] {
            scene.world.ask(&json!("kept"));
            let before = scene.lines().len();
            let mut said = shape(name, way, site);
            let last = request(way, "GET /", site.fine, KEPT, "Connection: close\r\n");
            said.push((last, ""));
            let end = scene.converse(way, site, &said);
            assert_ne!(end["end"], "silence", "{mode}, {name}: {end}");
            wait_until("three lines", || (scene.lines().len() >= before + 3).then_some(()));
            let lines = scene.lines().split_off(before);
            let hosts: Vec<_> = lines.iter().map(|line| line["host"].as_str()).collect();
            let [fine, other] = [site.fine, site.refused].map(Some);
            assert_eq!(hosts, [fine, other, fine], "{mode}, {name}: {lines:#?}");
            assert!(lines.iter().all(|line| line["verdict"] == "allow" && line["end"] == "done"));
        }
        // Another policy comes between two requests of one connection.
        let first = request(way, "GET /", site.fine, KEPT, "");
        let to = lab::at(site.address, KEPT);
        let hex = role::hex(&first);
        scene.client.ask(&json!({"do": "keep", "to": to, "hex": hex}));
        let before = 9;
        wait_until("it is answered", || (scene.lines().len() > before).then_some(()));
        scene.world.ask(&json!("kept"));
        scene.gateway.reload(&with_names);
        let second = request(way, "GET /", site.refused, KEPT, "");
        let end = scene.client.ask(&json!({"do": "say-on", "to": to, "hex": role::hex(&second)}));
        let text = String::from_utf8(role::unhex(end["received"].as_str().unwrap())).unwrap();
        assert!(text.contains(GREETING) && text.contains("HTTP/1.1 451 "), "{mode}: {text}");
        assert_eq!(scene.world.ask(&json!("kept")), "", "{mode}");
    }
}
