use super::super::{Identity, NameSource, Protocol, Step, identify};
use super::*;

fn done(seen: &[u8]) -> Identity<'_> {
    match identify(seen, false) {
        Step::Done(identity) => identity,
        Step::NeedMore(_) => panic!("needs more than {}", seen.escape_ascii()),
    }
}

fn name(head: &str) -> (String, NameSource) {
    let identity = done(head.as_bytes());
    assert_eq!((identity.protocol, identity.fault), (Protocol::Http, None), "{head:?}");
    let (name, source) = identity.name.unwrap_or_else(|| panic!("{head:?}"));
    (name.to_string(), source)
}

fn fault(head: &str) -> Option<Fault> {
    let identity = done(head.as_bytes());
    assert_eq!(identity.protocol, Protocol::Http, "{head:?}");
    assert!(identity.fault.is_none() || identity.name.is_none(), "{head:?}");
    identity.fault
}

#[test]
fn the_host_is_the_name_in_every_form() {
    use NameSource::{Connect, HttpHost};
    for (head, source) in [
        ("GET / HTTP/1.1\r\nHost: Host.Example\r\n\r\n", HttpHost),
        ("GET / HTTP/1.0\r\nhost:\thost.example:8080 \r\n\r\n", HttpHost),
        ("OPTIONS * HTTP/1.1\r\nHost: host.example\r\n\r\n", HttpHost),
        ("GET http://host.example/x HTTP/1.1\r\nHost: host.example:80\r\n\r\n", HttpHost),
        ("GET HTTP://host.example HTTP/1.0\r\n\r\n", HttpHost),
        ("CONNECT host.example:443 HTTP/1.1\r\nHost: host.example\r\n\r\n", Connect),
        ("CONNECT host.example:443 HTTP/1.0\r\nContent-Length: 0\r\n\r\n", Connect),
        ("x-custom /a HTTP/1.1\r\nHost: host.example\r\n\r\n", HttpHost),
    ] {
        assert_eq!(name(head), ("host.example".to_owned(), source), "{head:?}");
    }
}

#[test]
fn an_address_for_a_host_is_no_name_and_no_fault() {
    for host in ["192.0.2.1", "[2001:db8::1]:8080"] {
        let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let identity = done(head.as_bytes());
        assert_eq!((identity.name, identity.fault), (None, None), "{host}");
    }
}

#[test]
fn whatever_servers_read_in_several_ways_is_a_fault() {
    let get = |rest: &str| format!("GET / HTTP/1.1\r\nHost: a.example\r\n{rest}\r\n");
    for (head, expected) in [
        (get("Host: a.example\r\n"), Fault::HostTwice),
        (get("Host : b.example\r\n"), Fault::FieldLine),
        (get(" Host: b.example\r\n"), Fault::Folded),
        (get("\tx\r\n"), Fault::Folded),
        (get("X: y\n"), Fault::BareLf),
        (get("X: \0\r\n"), Fault::ControlByte),
        (get("X: a\rHost: b\r\n"), Fault::ControlByte),
        (get("no colon\r\n"), Fault::FieldLine),
        (get(": x\r\n"), Fault::FieldLine),
        (get("Content-Length: 1\r\nContent-Length: 1\r\n"), Fault::ContentLength),
        (get("Content-Length: +1\r\n"), Fault::ContentLength),
        (get("Content-Length: 1, 1\r\n"), Fault::ContentLength),
        (get("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), Fault::LengthAndEncoding),
        (get("Transfer-Encoding: xchunked\r\n"), Fault::TransferEncoding),
        (
            get("Transfer-Encoding: chunked\r\nTransfer-encoding: chunked\r\n"),
            Fault::TransferEncoding,
        ),
        ("GET / HTTP/1.1\r\n\r\n".into(), Fault::NoHost),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n".into(), Fault::Authority),
        ("GET / HTTP/1.1\r\nHost: a@b.example\r\n\r\n".into(), Fault::UserInfo),
        ("GET / HTTP/1.1\r\nHost: a.example:x\r\n\r\n".into(), Fault::Port),
        ("GET / HTTP/1.1\r\nHost: a.example, b.example\r\n\r\n".into(), Fault::Authority),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n".into(), Fault::RequestLine),
        ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n".into(), Fault::RequestLine),
        ("GET / x HTTP/1.1\r\nHost: a\r\n\r\n".into(), Fault::RequestLine),
        ("GET a HTTP/1.1\r\nHost: a\r\n\r\n".into(), Fault::RequestLine),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n".into(), Fault::HttpVersion),
        ("GET / HTTP/1.1\nHost: a\r\n\r\n".into(), Fault::BareLf),
        ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".into(), Fault::LeadingLine),
        ("GET /\r\n".into(), Fault::HttpVersion),
        ("GET http://b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n".into(), Fault::HostDisagrees),
        (
            "GET http://a.example/ HTTP/1.1\r\nHost: a.example:81\r\n\r\n".into(),
            Fault::HostDisagrees,
        ),
        (
            "GET http://b.example\\@a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n".into(),
            Fault::UserInfo,
        ),
        (
            "GET http://b.example\\.a.example/ HTTP/1.1\r\nHost: b.example\r\n\r\n".into(),
            Fault::Authority,
        ),
        ("CONNECT a.example HTTP/1.1\r\nHost: a.example\r\n\r\n".into(), Fault::Port),
        (
            "CONNECT a:443 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n".into(),
            Fault::ConnectBody,
        ),
        (
            "CONNECT a:443 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
            Fault::ConnectBody,
        ),
        ("CONNECT a.example:443 HTTP/1.1\r\nHost: b.example\r\n\r\n".into(), Fault::HostDisagrees),
        ("CONNECT 2130706433:443 HTTP/1.0\r\n\r\n".into(), Fault::Authority),
    ] {
        assert_eq!(fault(&head), Some(expected), "{head:?}");
    }
}

#[test]
fn every_strict_prefix_of_a_head_needs_more() {
    let head = b"POST /x HTTP/1.1\r\nHost: host.example\r\nContent-Length: 3\r\n\r\n";
    for end in 0..head.len() {
        assert!(matches!(identify(&head[..end], false), Step::NeedMore(_)), "at {end}");
        let Step::Done(identity) = identify(&head[..end], true) else { panic!("at {end}") };
        assert!(identity.name.is_none());
        let half = (Protocol::Http, Some(Fault::Incomplete));
        let expected = match end {
            0 => (Protocol::Other, None),
            1..5 => (Protocol::Other, Some(Fault::Incomplete)),
            _ => half,
        };
        assert_eq!((identity.protocol, identity.fault), expected, "at {end}");
    }
    assert_eq!(done(&[&head[..], b"abc"].concat()).http.map(|head| head.len), Some(head.len()));
}

#[test]
fn w09_a_method_of_http_without_a_version_is_http_whatever_its_target() {
    for line in ["POST *\r\n\r\n", "POST \\ \r\n\r\n", "DELETE x\n\n", "OPTIONS *\r\n\r\n"] {
        let identity = done(line.as_bytes());
        assert_eq!(identity.protocol, Protocol::Http, "{line:?}");
        assert!(identity.fault.is_some(), "{line:?}");
    }
}

#[test]
fn other_protocols_of_text_are_told_at_the_first_byte_that_rules_http_out() {
    for text in [
        "SSH-2.0-x\r\n",
        "EHLO client.example\r\n",
        "EHLO [192.0.2.1]\r\n",
        "HELO client\r\n",
        "USER anonymous\r\n",
        "a1 LOGIN me secret\r\n",
        "NICK me\r\n",
        "get key\r\n",
        "QUIT\n",
        "@RSYNCD: 31.0\n",
        "OPTIONS sip:host.example SIP/2.0\r\n",
        "DESCRIBE rtsp://host.example/ RTSP/1.0\r\nCSeq: 1\r\n\r\n",
        "0032git-upload-pack /x\0",
        "CONNECT\n",
        "#! /bin/sh\n",
        "0\x1d\x02",
        "~ \x07",
        "\x0bMSH|",
        "<stream",
        "{",
        "\r\n\r\n\0",
    ] {
        assert_eq!(done(text.as_bytes()).protocol, Protocol::Other, "{text:?}");
        let before = &text.as_bytes()[..text.len() - 1];
        if before.len() > 1 && !text.starts_with('<') {
            assert!(matches!(identify(before, false), Step::NeedMore(_)), "{text:?}");
        }
    }
}

#[test]
fn w09_whatever_some_server_takes_for_http_is_http() {
    let host = "Host: a.example\r\n\r\n";
    let long = "M".repeat(200);
    for first in [
        &format!("{}GET / HTTP/1.1\r\n", "\r\n".repeat(9)),
        &format!("{}GET / HTTP/1.1\r\n", "\n".repeat(4_000)),
        " GET / HTTP/1.1\r\n",
        "\t \x0b\x1cGET / HTTP/1.1\r\n",
        &format!("{long} / HTTP/1.1\r\n"),
        "get / HTTP/1.1\r\n",
        "G(T / HTTP/1.1\r\n",
        "GET\t/\tHTTP/1.1\r\n",
        "ODD\x0b/\x0bHTTP/1.1\r\n",
        "ODD / http/1.1\r\n",
        "ODD / HTTP/1.1 x\r\n",
        "ODD / HTTP/1.1\rX: y\r\n",
        "ODD / HTTP/11\r\n",
        "ODD / HTTP/3.0\r\n",
        "GET / ICE/1.0\r\n",
        "SOURCE x ICE/1.0\r\n",
        "GET / RTSP/1.0\r\n",
        "OPTIONS * RTSP/1.0\r\n",
        "OPTIONS rtsp://b.example/ RTSP/1.0\r\n",
        "GET /\n",
        "GET x\r\n",
        "ODD /x\r\n",
        "ODD http://b.example/\r\n",
        "GET /HTTP/1.1\r\n",
    ] {
        let head = format!("{first}{host}");
        let Step::Done(identity) = identify(head.as_bytes(), false) else {
            panic!("{first:?} is not whole")
        };
        assert_eq!(identity.protocol, Protocol::Http, "{first:?}");
        let plain = first.starts_with("get /") || first.starts_with(&long);
        assert_eq!(identity.fault.is_none(), plain, "{first:?}: {:?}", identity.fault);
        // However much of it has come, a pause makes it no other protocol.
        for end in 1..head.len() {
            let Step::Done(half) = identify(&head.as_bytes()[..end], true) else { panic!() };
            let same = half.protocol == Protocol::Http || half.protocol == Protocol::Other;
            let same = same && half.fault.is_some();
            let zero9 = !first.contains("1.") && first.len() <= end;
            assert!(same || zero9, "{first:?} up to {end}: {:?}", half.protocol);
        }
    }
}

#[test]
fn every_name_of_a_head_that_contradicts_itself_is_told() {
    for head in [
        "GET http://B.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\nHost : b.example.:80\r\n\r\n",
        "GET / HTTP/1.1\nHost: a.example\n Host: b.example\n\n",
        "GET http://a.example\\@b.example/ HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example, b.example\r\n\r\n",
        "CONNECT b.example:443 HTTP/1.1\r\nHost: a.example\r\n",
    ] {
        let mut names = Vec::new();
        each_name(head.as_bytes(), |name| names.push(name.to_string()));
        assert!(names.iter().any(|name| name == "b.example"), "{head:?}: {names:?}");
    }
}

#[test]
fn http_2_with_prior_knowledge_is_http_without_a_name() {
    for end in 1..PREFACE.len() {
        assert!(matches!(identify(&PREFACE[..end], false), Step::NeedMore(_)), "at {end}");
    }
    let identity = done(PREFACE);
    assert_eq!((identity.protocol, identity.name), (Protocol::Http, None));
    assert_eq!(identity.http.map(|head| head.form), Some(Form::Preface));
}

#[test]
fn a_head_over_64_kib_is_too_large() {
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(HEAD_MAX));
    assert_eq!(fault(&head), Some(Fault::TooLarge));
    assert!(matches!(identify(&head.as_bytes()[..HEAD_MAX - 1], false), Step::NeedMore(_)));
    for endless in [vec![b'x'; HEAD_MAX], vec![b'\n'; HEAD_MAX + 1]] {
        let Step::Done(identity) = identify(&endless, false) else { panic!() };
        assert_eq!((identity.protocol, identity.fault), (Protocol::Http, Some(Fault::TooLarge)));
    }
    let line = format!("GET /{}", "x".repeat(HEAD_MAX));
    assert_eq!(fault(&line), Some(Fault::TooLarge));
}

#[test]
fn an_upgrade_is_told() {
    let head = b"GET / HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\n\r\n";
    assert!(done(head).http.is_some_and(|head| head.upgrade));
}
