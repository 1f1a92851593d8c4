//! The catalogue's rows about the explicit proxy (docs/catalogue.md), each a test of its id, over
//! the built binary; and the two ways to tie a name to its address, end to end.

use serde_json::{Value, json};

use crate::catalogue::{self, ALERT, Expect, connect, hello, row};
use crate::lab::role::hex;
use crate::lab::{ADMIN, NAME_SERVER, PERMITTED, REFUSED, at, lab};

/// Plays CONNECTs that must all be answered with `status`, and nothing outside.
fn answered(id: &str, status: u16, authorities: &[&str]) -> Vec<Value> {
    let lines = row(id, Expect::Blocked, authorities.len(), |scene| {
        for authority in authorities {
            assert_eq!(scene.status(&connect(authority)), status, "{id}: {authority:?}");
        }
    });
    lines.unwrap_or_default()
}

/// Plays CONNECTs that the policy must refuse for one of `reasons`.
fn refused(id: &str, reasons: &[&str], authorities: &[&str]) {
    for (line, authority) in answered(id, 451, authorities).iter().zip(authorities) {
        let reason = line["reason"].as_str().unwrap();
        assert!(reasons.contains(&reason), "{id}: {authority}: {line}");
    }
}

/// A tunnel, and behind its request a hello.
fn tunnel(authority: &str, inside: &str) -> Vec<u8> {
    [connect(authority), hello(inside.as_bytes())].concat()
}

#[test]
fn p01_one_host_has_one_form_and_the_rest_is_400() {
    let same = ["refused.example.:443", "ReFuSeD.example:443", "refused.example:00443"];
    for line in answered("p01", 451, &same) {
        assert_eq!(line["host"], "refused.example");
    }
    let bad = [
        "[refused.example]:443",
        "refused.example%00:443",
        "refused.example:443:80",
        "refused.example:",
        "a@refused.example:443",
        "refused.example:0",
        "refused.example:65536",
        "refused.example:+443",
        "*.refused.example:443",
        "refused..example:443",
    ];
    answered("p01 bad", 400, &bad);
    refused("p01 port 25", &["outside"], &["refused.example:25"]);
}

#[test]
fn p02_numbers_that_resolvers_take_for_addresses_are_400_and_never_resolved() {
    let texts = [
        "0177.0.0.1:80",
        "2130706433:80",
        "0x7f.1:80",
        "127.1:80",
        "0x7f000001:80",
        "127.0.0.1.:80",
        "1.2.3.04:80",
        "%EF%BC%91.0.0.1:80",
    ];
    row("p02", Expect::Blocked, texts.len() + 3, |scene| {
        let before = scene.asked().len();
        for text in texts {
            assert_eq!(scene.status(&connect(text)), 400, "{text}");
        }
        // Fullwidth digits, ideographic dots, a soft hyphen.
        for raw in ["１２７.0.0.1:80", "127。0。0。1:80", "permitted.exa\u{ad}mple:80"] {
            let answer = scene.proxy(&connect(raw));
            assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400 "), "{raw}");
        }
        assert_eq!(scene.asked().len(), before, "nothing was resolved");
    });
}

#[test]
fn p03_an_address_inside_an_address_is_judged_as_both() {
    refused("p03 mapped", &["outside"], &["[::ffff:203.0.113.7]:8443"]);
    refused(
        "p03 carried",
        &["outside", "unknown", "guard"],
        &[
            "[64:ff9b::203.0.113.7]:8443",
            "[2002:cb00:7107::1]:8443",
            "[2001:0:c633:6407::34ff:8ef8]:8443",
            "[64:ff9b:1::203.0.113.7]:8443",
            "[2001:db8::5efe:cb00:7107]:8443",
        ],
    );
    refused(
        "p03 private inside",
        &["guard"],
        &[
            "[64:ff9b::10.0.0.1]:8443",
            "[64:ff9b::169.254.169.254]:8443",
            "[2002:a00:1::1]:8443",
            "[::203.0.113.7]:8443",
        ],
    );
}

#[test]
fn p04_special_addresses_are_refused() {
    refused(
        "p04",
        &["guard", "loop", "private"],
        &[
            "0.0.0.0:8443",
            "[::]:8443",
            "[::ffff:0.0.0.0]:8443",
            "127.9.9.9:8443",
            "[::1]:8443",
            "[::ffff:127.0.0.1]:8443",
            "10.0.0.1:8443",
            "100.64.0.1:8443",
            "[fc00::1]:8443",
            "[fe80::1]:8443",
            "240.0.0.1:8443",
            "255.255.255.255:8443",
            "224.0.0.1:8443",
            "[ff02::1]:8443",
        ],
    );
    answered("p04 zone", 400, &["[fe80::1%25eth0]:8443", "[fe80::1%eth0]:8443"]);
}

#[test]
fn p05_the_metadata_service_is_refused_by_address_and_by_name() {
    refused(
        "p05",
        &["guard"],
        &[
            "169.254.169.254:80",
            "[fd00:ec2::254]:80",
            "[::ffff:169.254.169.254]:80",
            "meta.example:80",
        ],
    );
    let get = b"GET /latest/meta-data/ HTTP/1.1\r\nHost: a.permitted.example\r\n\r\n";
    catalogue::refused("p05 transparent", "169.254.169.254:80", &[get.to_vec()], "guard");
}

#[test]
fn p06_the_gateway_itself_is_a_loop_by_every_alias() {
    refused(
        "p06",
        &["loop"],
        &[
            "192.0.2.1:3128",
            "198.51.100.1:3128",
            "127.0.0.1:9643",
            "[::1]:9643",
            "[::ffff:192.0.2.1]:3128",
            "[2001:db8:1::1]:15001",
            "192.0.2.1:22",
            "self.example:9643",
        ],
    );
}

#[test]
fn p07_the_address_that_was_judged_is_the_one_that_is_dialled() {
    let flight = tunnel("rebind.example:443", "rebind.example");
    let inside = hello(b"rebind.example").len();
    // One resolution is two queries (A and AAAA): the first is permitted, the second is not.
    let lines = row("p07", Expect::Forwarded(inside), 2, |scene| {
        let before = scene.world.arrived(REFUSED[0]);
        let answer = scene.proxy_with(&flight, json!({"enough": 60}));
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", answer.escape_ascii());
        assert_eq!(scene.status(&flight), 451);
        assert_eq!(scene.world.arrived(REFUSED[0]), before, "bytes and connections");
    });
    // The tunnel's line may come behind that of the later refusal.
    for line in lines.into_iter().flatten() {
        let to = if line["verdict"] == "allow" { PERMITTED[0] } else { REFUSED[0] };
        assert_eq!(line["destination"], at(to, 443), "{line}");
    }
}

#[test]
fn p08_of_many_addresses_only_the_permitted_ones_are_dialled() {
    let flight = tunnel("mixed.example:443", "mixed.example");
    let inside = hello(b"mixed.example").len();
    let lines = row("p08", Expect::Forwarded(inside), 1, |scene| {
        let before = REFUSED.map(|ip| scene.world.arrived(ip));
        let answer = scene.proxy_with(&flight, json!({"enough": 60}));
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", answer.escape_ascii());
        assert_eq!(REFUSED.map(|ip| scene.world.arrived(ip)), before);
    });
    for line in lines.into_iter().flatten() {
        assert_eq!(line["destination"], at(PERMITTED[0], 443));
    }
}

#[test]
fn p09_aliases_are_judged_by_the_addresses_at_their_end() {
    // `link.permitted.example`, in the middle, is a name that a rule allows.
    refused("p09", &["outside"], &["chain.example:443"]);
    row("p09 loops", Expect::Blocked, 2, |scene| {
        assert_eq!(scene.status(&connect("loop.example:443")), 502);
        let long = scene.status(&connect("long.example:443"));
        assert!([451, 502].contains(&long), "{long}");
    });
}

#[test]
fn p10_a_resolver_that_fails_or_lies_gives_no_address_to_dial() {
    let names = [
        "servfail.example:443",
        "truncated.example:443",
        "lie.example:443",
        "silent.example:443",
        "none.example:443",
    ];
    for line in answered("p10", 502, &names) {
        assert_eq!((&line["end"], &line["verdict"]), (&json!("dns-error"), &Value::Null), "{line}");
    }
}

#[test]
fn p11_another_name_inside_a_tunnel_is_refused_and_told() {
    let lines = row("p11", Expect::Told, 1, |scene| {
        let before = scene.world.arrived(PERMITTED[0]).0;
        let answer = scene.proxy(&tunnel("permitted.example:443", "cloud.example"));
        let answer = hex(&answer);
        assert!(answer.starts_with(&hex(b"HTTP/1.1 200 ")) && answer.ends_with(ALERT), "{answer}");
        assert_eq!(scene.world.arrived(PERMITTED[0]).0, before, "bytes");
    });
    for line in lines.into_iter().flatten() {
        assert_eq!(
            (&line["reason"], &line["host"]),
            (&json!("mismatch"), &json!("permitted.example"))
        );
        assert_eq!(line["sni_inside"], "cloud.example");
    }
    row("p11 Host", Expect::Blocked, 1, |scene| {
        let request =
            b"CONNECT permitted.example:443 HTTP/1.1\r\nHost: refused.example:443\r\n\r\n";
        assert_eq!(scene.status(request), 400);
    });
}

#[test]
fn p12_what_stands_behind_a_refused_request_is_discarded() {
    row("p12", Expect::Blocked, 2, |scene| {
        let answer = scene.proxy(&tunnel("refused.example:443", "refused.example"));
        assert!(answer.starts_with(b"HTTP/1.1 451 "));
        let second = [connect("refused.example:443"), connect("permitted.example:443")].concat();
        let answer = String::from_utf8(scene.proxy(&second)).unwrap();
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    });
}

#[test]
fn p13_socks_requests_that_are_none_are_answered_with_an_error() {
    let domain = |name: &[u8]| {
        let length = [u8::try_from(name.len()).unwrap()];
        [&[5, 1, 0, 5, 1, 0, 3][..], &length, name, &[1, 187]].concat()
    };
    let command = |command: u8| vec![5, 1, 0, 5, command, 0, 1, 198, 51, 100, 7, 1, 187];
    let cases = [
        (domain(b"permitted\0.example"), 1),
        (domain(b""), 1),
        (domain(&[b'a'; 255]), 1),
        // An address in the place of a name is that address (L09), which no name opens here.
        (domain(b"198.51.100.7"), 2),
        (domain(b"refused.example"), 2),
        (domain(b"x.foreign.example"), 2),
        (domain(b"none.example"), 4),
        (command(2), 7),
        (vec![5, 1, 0, 5, 1, 0, 9, 1, 187], 8),
    ];
    row("p13", Expect::Blocked, cases.len() + 2, |scene| {
        for (request, code) in &cases {
            let answer = scene.proxy(request);
            assert_eq!(answer.get(..4), Some(&[5, 0, 5, *code][..]), "{}", request.escape_ascii());
        }
        let socks4 = [4, 1, 1, 187, 0, 0, 0, 1, b'u', 0, b'a', 0];
        assert_eq!(scene.proxy(&socks4).get(1), Some(&91));
        assert_eq!(scene.proxy(&[5, 1, 2]), [5, 0xff]);
    });
}

#[test]
fn p14_a_rule_below_a_name_matches_nothing_else() {
    let lines = row("p14", Expect::Told, 4, |scene| {
        assert_eq!(scene.status(&connect("permitted.example.evil:443")), 502);
        assert_eq!(scene.status(&connect("evilpermitted.example:443")), 502);
        let inside = tunnel("permitted.example:443", "permitted.example");
        scene.proxy_with(&inside, json!({"enough": 60}));
        let inside = tunnel("a.permitted.example:443", "a.permitted.example");
        scene.proxy_with(&inside, json!({"enough": 60}));
    });
    let lines = lines.unwrap_or_default();
    let rules: Vec<_> = lines.iter().map(|line| line["rule"].clone()).collect();
    if !rules.is_empty() {
        assert_eq!(rules, [Value::Null, Value::Null, Value::Null, json!("names")]);
    }
}

/// `allowed` by name alone, whatever address the client gives.
#[test]
fn a_redialled_name_goes_to_the_gateways_own_answer_and_nowhere_else() {
    let Some(lab) = lab("redial") else { return };
    let mut world = lab.world.helper("world");
    let gateway = lab.start_gateway(&format!(
        "schema = 1
[policy]
mode = \"enforce\"
permit = [\"FR\"]
[names]
binding = \"redial\"
resolvers = [\"{NAME_SERVER}:53\"]
[[rule]]
name = \"moved\"
host = [\"moved.example\", \"none.example\"]
action = \"allow\"
reason = \"the name decides in this test\"
[[place]]
to = [\"203.0.113.0/24\", \"198.51.100.0/24\"]
location = [\"US\"]
reason = \"outside, so that only the name opens\"
[[listen]]
mode = \"tproxy\"
address = \"[::]:15001\"
peek_timeout = \"500ms\"
[admin]
address = \"{ADMIN}\"
"
    ));
    gateway.capture();
    let mut client = lab.client.helper("client");
    let mut send = |name: &str| {
        let flight = hex(&hello(name.as_bytes()));
        let ask = json!({"do": "send", "to": at(REFUSED[0], 443), "hex": flight, "enough": 7});
        client.ask(&ask)
    };
    let end = send("moved.example");
    assert!(end["received"] != ALERT && end["received"] != "", "{end}");
    assert_eq!(world.arrived(PERMITTED[0]), (hello(b"moved.example").len() as u64, 1));
    // No answer, no dial: never the address that the client gave.
    assert_eq!(send("none.example")["received"], ALERT);
    assert_eq!(send("other.example")["received"], ALERT);
    assert_eq!(world.arrived(REFUSED[0]), (0, 0), "bytes and connections");
    assert!(gateway.count("reason=\"mismatch\"") >= 1.0);
}
