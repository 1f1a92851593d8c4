//! The catalogue's rows about TLS over TCP (docs/catalogue.md), each a test of its id, over the
//! built binary.

use serde_json::json;

use crate::catalogue::{
    self, ALERT, Expect, abroad, connect, extension, forwarded, hello, message, record, refused,
    row, server_names,
};
use crate::lab::role::{self, BANNER, EXCHANGE, GREETING};
use crate::lab::{PERMITTED, REFUSED, at};

const ALLOWED: &[u8] = b"allowed.example";

#[test]
fn t01_a_permitted_name_at_an_address_of_its_own_is_forwarded() {
    for line in forwarded("t01", &abroad(), &[hello(ALLOWED)], usize::MAX) {
        assert_eq!((&line["rule"], &line["name_bound"]), (&json!("names"), &json!(true)), "{line}");
    }
}

#[test]
fn t02_any_split_into_segments_has_the_verdict_of_the_whole() {
    forwarded("t02", &abroad(), &[hello(ALLOWED)], 1);
    forwarded("t02", &at(REFUSED[1], 443), &[hello(ALLOWED)], 11);
    let id = "t02 refused";
    row(id, Expect::Blocked, 12, |scene| {
        let hello = hello(b"other.example");
        for step in 1..=12 {
            assert_eq!(scene.send(&abroad(), &hello, step * step)["received"], ALERT);
        }
    });
}

#[test]
fn t03_any_split_into_records_has_the_verdict_of_the_whole() {
    let cut = |name: &[u8], length: usize| -> Vec<u8> {
        let message = message(&server_names(&[(0, name)]));
        message.chunks(length).flat_map(|part| record(22, part)).collect()
    };
    forwarded("t03", &abroad(), &[cut(ALLOWED, 1), cut(ALLOWED, 5), cut(ALLOWED, 60)], usize::MAX);
    refused("t03", &abroad(), &[cut(b"other.example", 1), cut(b"other.example", 7)], "outside");
}

#[test]
fn t04_a_record_that_does_not_belong_between_fragments_is_refused() {
    let message = message(&server_names(&[(0, ALLOWED)]));
    let (first, rest) = message.split_at(30);
    let around = |middle: &[u8]| [&record(22, first), middle, &record(22, rest)].concat();
    let flights: Vec<_> = [
        record(22, b""),
        record(21, &[1, 0]),
        record(20, &[1]),
        record(23, b"data"),
        record(24, b"beat"),
    ]
    .iter()
    .map(|middle| around(middle))
    .collect();
    refused("t04", &abroad(), &flights, "malformed");
}

#[test]
fn t05_a_hello_longer_than_a_segment_is_forwarded() {
    let shares = extension(51, &[9; 1_700]);
    let long = record(22, &message(&[shares, server_names(&[(0, ALLOWED)])].concat()));
    forwarded("t05", &abroad(), &[long], 1_400);
}

#[test]
fn t06_a_hello_above_the_limit_is_refused_at_its_header() {
    let announced = |length: [u8; 3]| [&[22, 3, 1, 0x3f, 0xff, 1][..], &length].concat();
    let many = record(22, &message(&extension(0x0a0a, b"").repeat(4_000)));
    let flights = [announced([1, 0, 1]), announced([0xff; 3])];
    refused("t06", &abroad(), &flights, "malformed");
    refused("t06 many extensions", &abroad(), &[many], "unread");
}

#[test]
fn t07_lengths_that_disagree_are_refused() {
    let name = server_names(&[(0, ALLOWED)]);
    let with = |at: usize, byte: u8| {
        let mut name = name.clone();
        name[at] = byte;
        record(22, &message(&name))
    };
    let mut trailing = message(&name);
    trailing.push(0);
    trailing[3] += 1;
    // Extension length, list length, name length; each too long, then too short.
    let mut flights: Vec<_> =
        [3, 5, 8].iter().flat_map(|&at| [with(at, 0xff), with(at, 2)]).collect();
    flights.extend([with(7, 0xff), record(22, &trailing)]);
    refused("t07", &abroad(), &flights, "malformed");
}

#[test]
fn t08_two_names_are_refused() {
    let name = server_names(&[(0, ALLOWED)]);
    let flights = [
        record(22, &message(&[&name[..], &name].concat())),
        record(22, &message(&server_names(&[(0, ALLOWED), (0, b"other.example")]))),
    ];
    refused("t08", &abroad(), &flights, "malformed");
}

#[test]
fn t09_names_of_another_type_and_empty_ones_are_refused() {
    let lists = [server_names(&[(1, ALLOWED)]), server_names(&[]), server_names(&[(0, b"")])];
    refused("t09", &abroad(), &lists.map(|list| record(22, &message(&list))), "malformed");
}

#[test]
fn t10_an_address_for_a_name_is_refused() {
    let names = [&b"203.0.113.7"[..], b"2001:db8:bad::7", b"[2001:db8:bad::7]"];
    refused("t10", &abroad(), &names.map(hello), "malformed");
}

#[test]
fn t11_bytes_that_no_name_has_are_refused_and_never_reach_the_record_raw() {
    let mut names: Vec<Vec<u8>> = [0, b'\r', b'\n', 27, 0x7f, 0x80, 0xff, b' ', b',', b'"', b'/']
        .iter()
        .map(|&byte| [b"allowed", &[byte][..], b".example"].concat())
        .collect();
    names.extend([&b".allowed.example"[..], b"allowed..example"].map(<[u8]>::to_vec));
    names.extend([vec![b'a'; 64], b"abc.".repeat(64)]);
    let flights: Vec<_> = names.iter().map(|name| hello(name)).collect();
    refused("t11", &abroad(), &flights, "malformed");
}

#[test]
fn t12_case_and_a_final_dot_make_no_other_name() {
    let names = [&b"ALLOWED.example"[..], b"aLLowed.ExamplE", b"allowed.example."];
    for line in forwarded("t12", &abroad(), &names.map(hello), usize::MAX) {
        assert_eq!(line["host"], "allowed.example");
    }
}

#[test]
fn t13_confusable_names_are_other_names_or_none() {
    refused("t13", &abroad(), &[hello(b"xn--allowed-.example")], "outside");
    refused("t13 raw", &abroad(), &[hello("\u{430}llowed.example".as_bytes())], "malformed");
}

#[test]
fn t14_a_star_in_a_hello_is_no_wildcard() {
    refused("t14", &abroad(), &[hello(b"*.permitted.example")], "malformed");
    refused("t14 unbound", &abroad(), &[hello(b"_x.permitted.example")], "mismatch");
    forwarded("t14 below", &abroad(), &[hello(b"a.permitted.example")], usize::MAX);
}

#[test]
fn t15_a_hello_without_a_name_is_refused_where_one_is_needed() {
    refused("t15", &abroad(), &[record(22, &message(b""))], "unread");
}

#[test]
fn t16_ech_leaves_the_outer_name_a_claim_and_the_record_says_so() {
    let flight = |name: &[u8], kind| {
        let ech = extension(kind, &[0; 40]);
        record(22, &message(&[server_names(&[(0, name)]), ech].concat()))
    };
    for line in forwarded("t16", &abroad(), &[flight(ALLOWED, 0xfe0d)], usize::MAX) {
        assert_eq!(line["ech"], true);
    }
    refused("t16", &abroad(), &[flight(b"other.example", 0xfe0d)], "outside");
    forwarded("t16 esni", &abroad(), &[flight(ALLOWED, 0xffce)], usize::MAX);
}

#[test]
fn t17_a_hello_in_the_sslv2_format_is_refused() {
    let mut hello = vec![0x80, 0x1c, 1, 3, 1, 0, 3, 0, 0, 0, 16, 0, 0, 4];
    hello.extend([9; 16]);
    refused("t17", &abroad(), &[hello], "malformed");
}

#[test]
fn t18_no_version_makes_a_hello_something_else() {
    let version = |name: &[u8], record_minor: u8, hello: [u8; 2]| {
        let mut flight = self::hello(name);
        flight[2] = record_minor;
        flight[9..11].copy_from_slice(&hello);
        flight
    };
    let versions =
        [(0, [3, 0]), (1, [3, 1]), (3, [3, 3]), (4, [3, 4]), (0xff, [3, 3]), (1, [9, 9])];
    let flights = |name: &[u8]| versions.map(|(minor, hello)| version(name, minor, hello));
    forwarded("t18", &abroad(), &flights(ALLOWED), usize::MAX);
    refused("t18", &abroad(), &flights(b"other.example"), "outside");
}

/// A hello of TLS 1.3 without a key share, which a server answers with a request for another.
pub(crate) fn without_a_share(name: &[u8]) -> Vec<u8> {
    let extensions = [
        server_names(&[(0, name)]),
        extension(43, &[2, 3, 4]),
        extension(10, &[0, 2, 0, 0x1d]),
        extension(13, &[0, 4, 4, 3, 8, 7]),
        extension(51, &[0, 0]),
    ];
    record(22, &message(&extensions.concat()))
}

#[test]
fn t19_a_second_hello_of_another_host_ends_the_connection() {
    let first = without_a_share(ALLOWED);
    let lines = row("t19", Expect::Forwarded(first.len()), 1, |scene| {
        let then = [record(20, &[1]), without_a_share(b"x.foreign.example")].concat();
        let end = scene.send_with(&abroad(), &first, json!({"then": role::hex(&then)}));
        // A ServerHello, which here is a HelloRetryRequest, and no more.
        assert!(end["received"].as_str().unwrap().starts_with("160303"), "{end}");
        assert_eq!(end["end"], "reset", "{end}");
    });
    for line in lines.into_iter().flatten() {
        assert_eq!((&line["reason"], &line["verdict"]), (&json!("mismatch"), &json!("block")));
    }
}

#[test]
fn t20_early_data_leaves_with_its_hello_or_not_at_all() {
    let early = |name: &[u8]| [hello(name), record(20, &[1]), record(23, &[7; 900])].concat();
    refused("t20", &abroad(), &[early(b"other.example")], "outside");
    // The world ends a handshake that goes wrong; what it had read by then has arrived.
    row("t20 permitted", Expect::Told, 1, |scene| {
        let end = scene.send(&abroad(), &early(ALLOWED), usize::MAX);
        assert_ne!(end["received"], ALERT, "{end}");
    });
}

#[test]
fn t21_a_permitted_name_opens_no_address_of_others() {
    refused("t21", "203.0.113.200:443", &[hello(ALLOWED)], "mismatch");
}

#[test]
fn t22_a_refused_name_is_refused_at_a_permitted_address() {
    refused("t22", &at(PERMITTED[0], 443), &[hello(b"x.foreign.example")], "rule");
}

#[test]
fn t23_a_name_whose_answers_do_not_hold_the_address_is_a_mismatch() {
    let lines = row("t23", Expect::Blocked, 1, |scene| {
        let end = scene.send(&at(PERMITTED[0], 443), &hello(ALLOWED), usize::MAX);
        assert_eq!(end["received"], ALERT);
    });
    for line in lines.into_iter().flatten() {
        assert_eq!((&line["reason"], &line["name_bound"]), (&json!("mismatch"), &json!(false)));
    }
}

#[test]
fn t25_data_in_names_leaves_neither_in_a_hello_nor_in_a_query() {
    const EACH: usize = 100;
    row("t25", Expect::Blocked, 2 * EACH, |scene| {
        let before = scene.asked().len();
        let alerts =
            |scene: &catalogue::Scene| scene.metric("schengate_many_refused_names_total").unwrap();
        let told = alerts(scene);
        for nth in 0..EACH {
            let name = format!("secret-{nth:08x}.foreign.example");
            assert_eq!(
                scene.send(&abroad(), &hello(name.as_bytes()), usize::MAX)["received"],
                ALERT
            );
            assert_eq!(scene.status(&connect(&format!("{name}:443"))), 451);
        }
        assert_eq!(scene.asked().len(), before, "no query leaves");
        assert_eq!(alerts(scene), told + 1, "one source, many names");
    });
}

#[test]
fn t26_other_protocols_are_refused_where_a_name_is_needed_and_judged_by_address_elsewhere() {
    let flights = [&b"SSH-2.0-x\r\n"[..], b"\x01\x02\x03 garbage"];
    refused("t26", &abroad(), &flights.map(<[u8]>::to_vec), "unread");
    let http = b"GET / HTTP/1.1\r\nHost: other.example\r\n\r\n".to_vec();
    refused("t26 http", &abroad(), &[http], "outside");
    // On a port of which no rule asks for a name, the address decides, whatever is spoken.
    refused("t26 by address", &at(REFUSED[0], EXCHANGE), &[hello(ALLOWED)], "outside");
    row("t26 at once", Expect::Told, 1, |scene| {
        scene.send_with(
            &at(PERMITTED[0], EXCHANGE),
            &hello(ALLOWED),
            json!({"enough": 1, "patience_ms": 200}),
        );
    });
}

#[test]
fn t27_starttls_is_judged_by_its_address_at_once() {
    row("t27", Expect::Told, 1, |scene| {
        let end = scene.send_with(
            &at(PERMITTED[0], BANNER),
            b"EHLO a\r\nSTARTTLS\r\n",
            json!({"shut": true, "enough": u64::MAX}),
        );
        let greeting = role::hex(GREETING.as_bytes());
        assert!(end["received"].as_str().unwrap().contains(&greeting), "{end}");
    });
    refused("t27", &at(REFUSED[0], BANNER), &[b"EHLO a\r\nSTARTTLS\r\n".to_vec()], "outside");
}
