//! The same for explicit clients: CONNECT, plain HTTP and SOCKS5.

use super::*;

#[tokio::test(flavor = "local")]
async fn a_tunnel_carries_the_hello_of_its_own_name() {
    let harness = Harness::new(only(&["pacs.example"]), &local(&["pacs.example"]));
    let (front, world) = (listener().await, listener().await);
    let mut client = harness.client(&front, ListenMode::Proxy).await;
    // The hello right behind the request, before the 200.
    let mut sent = connect(world.local_addr().unwrap().port()).into_bytes();
    sent.extend(hello("pacs.example"));
    client.write_all(&sent).await.unwrap();
    assert!(http(&mut client).await.starts_with("HTTP/1.1 200 "));
    let (mut server, _) = world.accept().await.unwrap();
    assert_eq!(some(&mut server, hello("pacs.example").len()).await, hello("pacs.example"));
    server.write_all(b"answer").await.unwrap();
    server.shutdown().await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(all_of(&mut client).await, b"answer");
    let lines = harness.lines().await;
    let events: Vec<_> = lines.iter().map(|line| field(line, "event")).collect();
    assert_eq!(events, ["open", "close"], "{lines:?}");
    assert_eq!(field(&lines[1], "end"), "done");
    assert_eq!(field(&lines[1], "name_source"), "connect");
    let text = harness.account.metrics().render();
    let count = r#"schengate_connections_total{mode="proxy",verdict="allow",reason="rule"} 1"#;
    assert!(text.contains(count), "judged twice, counted once: {text}");
}

#[tokio::test(flavor = "local")]
async fn a_tunnel_refuses_the_hello_of_another_name_or_of_none_that_can_be_read() {
    for inside in [hello("cloud.example"), hello("pacs\0.example")] {
        let harness =
            Harness::new(only(&["pacs.example", "cloud.example"]), &local(&["pacs.example"]));
        let (front, world) = (listener().await, listener().await);
        let mut client = harness.client(&front, ListenMode::Proxy).await;
        client.write_all(connect(world.local_addr().unwrap().port()).as_bytes()).await.unwrap();
        assert!(http(&mut client).await.starts_with("HTTP/1.1 200 "));
        let (mut server, _) = world.accept().await.unwrap();
        client.write_all(&inside).await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(all_of(&mut client).await, ALERT);
        assert!(!matches!(server.read(&mut [0; 8]).await, Ok(1..)), "bytes went on");
        let lines = harness.lines().await;
        let last = lines.last().unwrap();
        assert_eq!((field(last, "reason"), field(last, "end")), ("mismatch", "refused"));
        assert_eq!(last["bytes_up"], 0);
    }
}

/// What comes of a tunnel to `pacs.example` whose hello names `inside`, and its last line.
async fn tunnel_with_inside(on: Action, inside: &str) -> (bool, Value) {
    let policy = everything().names(Action::Block, &["blocked.example"]);
    let policy = policy.on(|causes| causes.mismatch = on);
    let harness = Harness::new(policy, &local(&["pacs.example"]));
    let (front, world) = (listener().await, listener().await);
    let mut client = harness.client(&front, ListenMode::Proxy).await;
    client.write_all(connect(world.local_addr().unwrap().port()).as_bytes()).await.unwrap();
    assert!(http(&mut client).await.starts_with("HTTP/1.1 200 "));
    let (mut server, _) = world.accept().await.unwrap();
    client.write_all(&hello(inside)).await.unwrap();
    client.shutdown().await.unwrap();
    let mut arrived = Vec::new();
    server.read_to_end(&mut arrived).await.ok();
    drop(server);
    client.read_to_end(&mut Vec::new()).await.ok();
    drop(client);
    let line = harness.lines().await.pop().unwrap();
    (arrived == hello(inside), line)
}

#[tokio::test(flavor = "local")]
async fn the_policy_decides_what_another_name_inside_a_tunnel_leads_to() {
    for (on, passes, verdict, reason) in [
        (Action::Block, false, "block", "mismatch"),
        (Action::Log, true, "log", "mismatch"),
        (Action::Allow, true, "allow", "permitted"),
    ] {
        let (passed, line) = tunnel_with_inside(on, "cloud.example").await;
        assert_eq!(passed, passes, "{line}");
        assert_eq!((field(&line, "verdict"), field(&line, "reason")), (verdict, reason));
        assert_eq!(field(&line, "host"), "pacs.example");
        assert_eq!(field(&line, "sni_inside"), "cloud.example");
    }
    let (passed, line) = tunnel_with_inside(Action::Block, "PACS.example").await;
    assert!(passed && line["sni_inside"].is_null(), "{line}");
}

#[tokio::test(flavor = "local")]
async fn a_name_inside_a_tunnel_that_a_rule_refuses_is_refused_whatever_a_mismatch_leads_to() {
    for on in Action::ALL {
        let (passed, line) = tunnel_with_inside(on, "blocked.example").await;
        assert!(!passed, "{line}");
        assert_eq!((field(&line, "verdict"), field(&line, "reason")), ("block", "rule"));
    }
}

#[tokio::test(flavor = "local")]
async fn no_query_leaves_for_an_explicit_name_that_no_address_can_save() {
    let resolver = local(&["x.refused.example", "pacs.example"]);
    let harness = Harness::new(everything(), &resolver);
    let front = listener().await;
    let request = "CONNECT x.refused.example:443 HTTP/1.1\r\nHost: x.refused.example\r\n\r\n";
    let mut client = harness.client(&front, ListenMode::Proxy).await;
    client.write_all(request.as_bytes()).await.unwrap();
    assert!(http(&mut client).await.starts_with("HTTP/1.1 451 "));
    let mut socks = harness.client(&front, ListenMode::Proxy).await;
    let name = b"x.refused.example";
    socks.write_all(&[5, 1, 0, 5, 1, 0, 3, name.len() as u8]).await.unwrap();
    socks.write_all(&[&name[..], &[1, 187]].concat()).await.unwrap();
    assert_eq!(some(&mut socks, 4).await[3], 2);
    drop((client, socks));
    let lines = harness.lines().await;
    assert_eq!(resolver.queries(), 0);
    assert_eq!(lines.len(), 2, "{lines:?}");
    for line in lines {
        assert_eq!((field(&line, "event"), field(&line, "reason")), ("refused", "rule"));
        assert_eq!(field(&line, "host"), "x.refused.example");
        assert_eq!(field(&line, "destination"), "[::]:443", "nothing was resolved");
    }
}

#[tokio::test(flavor = "local")]
async fn a_server_may_speak_first_in_a_tunnel_whose_protocol_does_not_matter() {
    let harness = Harness::new(everything(), &local(&["pacs.example"]));
    let (front, world) = (listener().await, listener().await);
    let mut client = harness.client(&front, ListenMode::Proxy).await;
    client.write_all(connect(world.local_addr().unwrap().port()).as_bytes()).await.unwrap();
    assert!(http(&mut client).await.starts_with("HTTP/1.1 200 "));
    let (mut server, _) = world.accept().await.unwrap();
    server.write_all(b"SSH-2.0-x\r\n").await.unwrap();
    assert_eq!(some(&mut client, 11).await, b"SSH-2.0-x\r\n");
    client.write_all(b"SSH-2.0-y\r\n").await.unwrap();
    assert_eq!(some(&mut server, 11).await, b"SSH-2.0-y\r\n");
}

#[tokio::test(flavor = "local")]
async fn only_permitted_addresses_of_a_name_are_dialled() {
    // The policy permits 127.0.0.1 alone; the refused address comes first and last.
    let policy = Fixture::outside().at("127.0.0.1", At::Inside);
    let resolver = FakeResolver::default()
        .entry("pacs.example", &["127.0.0.2", "127.0.0.1", "127.0.0.3", "::1"]);
    let harness = Harness::new(policy, &resolver);
    let (front, world) = (listener().await, listener().await);
    let port = world.local_addr().unwrap().port();
    let forbidden = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
    let mut client = harness.client(&front, ListenMode::Proxy).await;
    client.write_all(connect(port).as_bytes()).await.unwrap();
    assert!(http(&mut client).await.starts_with("HTTP/1.1 200 "));
    let (server, _) = world.accept().await.unwrap();
    assert_eq!(server.local_addr().unwrap().ip().to_string(), "127.0.0.1");
    nobody_came(&forbidden).await;
}

#[tokio::test(flavor = "local")]
async fn a_name_whose_every_address_is_refused_is_451_with_the_reason() {
    let harness = Harness::new(only(&[]), &local(&["pacs.example"]));
    let (front, world) = (listener().await, listener().await);
    let mut client = harness.client(&front, ListenMode::Proxy).await;
    client.write_all(connect(world.local_addr().unwrap().port()).as_bytes()).await.unwrap();
    let answer = http(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 451 "), "{answer}");
    assert!(answer.contains("Proxy-Status: schengate; error=http_request_denied"), "{answer}");
    assert!(answer.contains("\"reason\":\"outside\""), "{answer}");
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0, "closed after it");
    drop(client);
    assert_eq!(field(&harness.lines().await[0], "end"), "refused");
    nobody_came(&world).await;
}

#[tokio::test(flavor = "local")]
async fn a_resolver_that_is_down_is_502_and_recorded() {
    let harness = Harness::new(everything(), &FakeResolver::default());
    let mut client = harness.client(&listener().await, ListenMode::Proxy).await;
    client.write_all(connect(443).as_bytes()).await.unwrap();
    let answer = http(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert!(answer.contains("error=dns_error"), "{answer}");
    assert!(answer.contains("No name server told the gateway in time where "), "{answer}");
    assert!(!answer.contains("Check the spelling."), "{answer}");
    drop(client);
    let lines = harness.lines().await;
    assert_eq!((field(&lines[0], "event"), field(&lines[0], "end")), ("unjudged", "dns-error"));
    // The question has left, and with it the name.
    assert_eq!(
        (field(&lines[0], "host"), field(&lines[0], "name_source")),
        ("pacs.example", "connect")
    );
}

#[tokio::test(flavor = "local")]
async fn a_name_without_an_address_is_told_in_the_form_that_was_asked_for() {
    for (accept, media_type) in [
        ("text/html", "text/html; charset=utf-8"),
        ("text/plain", "text/plain; charset=utf-8"),
        ("*/*", "application/problem+json"),
    ] {
        let resolver = FakeResolver::default().entry("no-such.example", &[]);
        let harness = Harness::new(everything(), &resolver);
        let mut client = harness.client(&listener().await, ListenMode::Proxy).await;
        let request = format!(
            "GET http://no-such.example/ HTTP/1.1\r\nHost: no-such.example\r\nAccept: {accept}\r\n\r\n"
        );
        client.write_all(request.as_bytes()).await.unwrap();
        let answer = http(&mut client).await;
        drop(client);
        let lines = harness.lines().await;
        assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{answer}");
        let status =
            "\r\nProxy-Status: schengate; error=dns_error; details=\"the name has no address\"\r\n";
        assert!(answer.contains(status), "{answer}");
        assert!(answer.contains(&format!("\r\nContent-Type: {media_type}\r\n")), "{answer}");
        let event = field(&lines[0], "id");
        for word in ["The name no-such.example has no address.", "Check the spelling.", event] {
            assert!(answer.contains(word), "{word} in {answer}");
        }
        if accept == "*/*" {
            let body: Value =
                serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
            let before = ["about:blank", "Bad Gateway", "the name has no address"];
            assert_eq!(["type", "title", "detail"].map(|key| body[key].as_str().unwrap()), before);
            assert_eq!((&body["status"], &body["host"]), (&502.into(), &"no-such.example".into()));
            assert_eq!(body["event"], event);
        }
    }
}

#[tokio::test(flavor = "local")]
async fn requests_that_can_be_read_in_two_ways_are_400() {
    for request in [
        "CONNECT pacs.example HTTP/1.1\r\nHost: pacs.example\r\n\r\n",
        "CONNECT pacs.example:0 HTTP/1.1\r\nHost: pacs.example\r\n\r\n",
        "CONNECT host%00:443 HTTP/1.1\r\nHost: host\r\n\r\n",
        "CONNECT a@pacs.example:443 HTTP/1.1\r\nHost: pacs.example\r\n\r\n",
        "CONNECT 2130706433:443 HTTP/1.1\r\nHost: 2130706433:443\r\n\r\n",
        "CONNECT pacs.example:443 HTTP/1.1\r\nHost: cloud.example:443\r\n\r\n",
        "CONNECT pacs.example:443 HTTP/1.1\r\nHost: pacs.example\r\nContent-Length: 5\r\n\r\nhello",
        "GET / HTTP/1.1\r\nHost: pacs.example\r\n\r\n",
        "GET ftp://pacs.example/ HTTP/1.1\r\nHost: pacs.example\r\n\r\n",
        "GET http://pacs.example/ HTTP/1.1\r\nHost: cloud.example\r\n\r\n",
        "GET http://pacs.example/ HTTP/1.1\r\nHost: pacs.example\r\nHost: pacs.example\r\n\r\n",
        "GET http://pacs.example/ HTTP/1.1\r\n\r\n",
        "GET http://u:p@pacs.example/ HTTP/1.1\r\nHost: pacs.example\r\n\r\n",
        "GET http://0x7f.1/ HTTP/1.1\r\nHost: 0x7f.1\r\n\r\n",
        "GET http://pacs.example/ HTTP/1.1\r\nHost: pacs.example\r\n folded: yes\r\n\r\n",
        "POST http://pacs.example/ HTTP/1.1\r\nHost: pacs.example\r\nContent-Length: +5\r\n\r\n",
        "POST http://pacs.example/ HTTP/1.1\r\nHost: pacs.example\r\nContent-Length: 3\r\n\
         Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST http://pacs.example/ HTTP/1.1\r\nHost: pacs.example\r\n\
         Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "GET http://pacs.example#a HTTP/1.1\r\nHost: pacs.example\r\n\r\n",
        "hello\r\n\r\n",
    ] {
        let resolver = local(&["pacs.example", "cloud.example"]);
        let harness = Harness::new(everything(), &resolver);
        let mut client = harness.client(&listener().await, ListenMode::Proxy).await;
        client.write_all(request.as_bytes()).await.unwrap();
        let answer = http(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{request:?}: {answer}");
        drop(client);
        let lines = harness.lines().await;
        assert_eq!(lines.len(), 1, "{request:?}: {lines:?}");
        assert_eq!(field(&lines[0], "end"), "bad-request", "{request:?}");
        assert_eq!(resolver.queries(), 0, "{request:?}");
    }
}

#[tokio::test(flavor = "local")]
async fn each_request_of_a_connection_is_judged_by_itself() {
    let harness = Harness::new(only(&["pacs.example"]), &local(&["pacs.example", "cloud.example"]));
    let (front, world) = (listener().await, listener().await);
    let port = world.local_addr().unwrap().port();
    let mut client = harness.client(&front, ListenMode::Proxy).await;
    let request = format!(
        "GET http://PACS.example:{port}/a?b HTTP/1.1\r\nHost: pacs.example:{port}\r\n\
         Proxy-Authorization: Basic eA==\r\nConnection: X-Hop\r\nX-Hop: 1\r\nX-End: 2\r\n\
         Upgrade: h2c\r\n\r\n"
    );
    client.write_all(request.as_bytes()).await.unwrap();
    let (mut server, _) = world.accept().await.unwrap();
    let got = http(&mut server).await.to_ascii_lowercase();
    assert!(got.starts_with("get /a?b http/1.1\r\n"), "{got}");
    assert!(got.contains(&format!("\r\nhost: pacs.example:{port}\r\n")), "{got}");
    assert!(got.contains("\r\nx-end: 2\r\n"), "{got}");
    for gone in ["proxy-authorization", "x-hop:", "upgrade"] {
        assert!(!got.contains(gone), "{gone} in {got}");
    }
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nKeep-Alive: 9\r\n\r\nimage";
    server.write_all(answer.as_bytes()).await.unwrap();
    drop(server);
    let first = http(&mut client).await;
    assert!(first.ends_with("\r\n\r\nimage"), "{first}");
    assert!(!first.to_ascii_lowercase().contains("keep-alive: 9"), "{first}");
    let second =
        format!("GET http://cloud.example:{port}/ HTTP/1.1\r\nHost: cloud.example:{port}\r\n\r\n");
    client.write_all(second.as_bytes()).await.unwrap();
    assert!(http(&mut client).await.starts_with("HTTP/1.1 451 "));
    drop(client);
    let lines = harness.lines().await;
    let of = |event: &str| lines.iter().filter(|line| field(line, "event") == event).count();
    assert_eq!((of("open"), of("close"), of("refused")), (1, 1, 1), "{lines:?}");
    nobody_came(&world).await;
}

fn socks(name: &str, port: u16) -> Vec<u8> {
    let mut bytes = vec![5, 1, 0, 5, 1, 0, 3, u8::try_from(name.len()).unwrap()];
    bytes.extend(name.as_bytes());
    bytes.extend(port.to_be_bytes());
    bytes
}

#[tokio::test(flavor = "local")]
async fn socks_connects_where_the_policy_permits_and_says_no_elsewhere() {
    let harness = Harness::new(only(&["pacs.example"]), &local(&["pacs.example", "cloud.example"]));
    let (front, world) = (listener().await, listener().await);
    let port = world.local_addr().unwrap().port();
    let mut client = harness.client(&front, ListenMode::Proxy).await;
    client.write_all(&socks("pacs.example", port)).await.unwrap();
    assert_eq!(some(&mut client, 12).await, [5, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    let (mut server, _) = world.accept().await.unwrap();
    client.write_all(&hello("pacs.example")).await.unwrap();
    assert_eq!(some(&mut server, hello("pacs.example").len()).await, hello("pacs.example"));
    let mut refused = harness.client(&front, ListenMode::Proxy).await;
    refused.write_all(&socks("cloud.example", port)).await.unwrap();
    assert_eq!(all_of(&mut refused).await, [5, 0, 5, 2, 0, 1, 0, 0, 0, 0, 0, 0]);
    let mut unknown = harness.client(&front, ListenMode::Proxy).await;
    unknown.write_all(&socks("nowhere.example", port)).await.unwrap();
    assert_eq!(all_of(&mut unknown).await[3], 4);
    nobody_came(&world).await;
}

#[tokio::test(flavor = "local")]
async fn what_is_neither_http_nor_socks5_is_told_so_or_cut() {
    let harness = Harness::new(everything(), &FakeResolver::default());
    let front = listener().await;
    let mut socks4 = harness.client(&front, ListenMode::Proxy).await;
    socks4.write_all(&[4, 1, 1, 187, 198, 51, 100, 7, 0]).await.unwrap();
    assert_eq!(all_of(&mut socks4).await, [0, 91, 0, 0, 0, 0, 0, 0]);
    let mut tls = harness.client(&front, ListenMode::Proxy).await;
    tls.write_all(&hello("pacs.example")).await.unwrap();
    assert!(tls.read(&mut [0; 8]).await.is_err(), "a reset");
    drop(harness.client(&front, ListenMode::Proxy).await);
    drop((socks4, tls));
    let mut ends = Vec::new();
    while ends.len() < 3 {
        tokio::task::yield_now().await;
        ends = harness.lines().await.iter().map(|line| field(line, "end").to_owned()).collect();
    }
    ends.sort();
    assert_eq!(ends, ["bad-request", "bad-request", "client-gone"]);
}

#[tokio::test(flavor = "local")]
async fn a_client_that_has_asked_for_nothing_yet_is_recorded_when_the_gateway_stops() {
    for sent in ["", "GET http://pacs.exam"] {
        let harness = Harness::new(everything(), &local(&["pacs.example"]));
        let front = listener().await;
        let mut client = harness.client(&front, ListenMode::Proxy).await;
        client.write_all(sent.as_bytes()).await.unwrap();
        // The first byte is met, and the rest is waited for.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        harness.worker.registry.cut_all(End::Drained);
        let lines = harness.lines().await;
        assert_eq!(lines.len(), 1, "{sent:?}: {lines:?}");
        assert_eq!(field(&lines[0], "end"), "drained", "{sent:?}");
    }
}

#[tokio::test(flavor = "local")]
async fn a_permitted_address_behind_many_refused_ones_is_found() {
    let policy = Fixture::outside().at("127.0.0.1", At::Inside);
    let mut all: Vec<String> = (1..40).map(|n| format!("198.51.100.{n}")).collect();
    all.push("127.0.0.1".to_owned());
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let harness = Harness::new(policy, &FakeResolver::default().entry("pacs.example", &all));
    let (front, world) = (listener().await, listener().await);
    let mut client = harness.client(&front, ListenMode::Proxy).await;
    client.write_all(connect(world.local_addr().unwrap().port()).as_bytes()).await.unwrap();
    assert!(http(&mut client).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test(flavor = "local")]
async fn the_counters_know_the_verdict_on_the_address_that_was_connected_to() {
    // The first address refuses the connect; the second one is permitted for another reason.
    let policy = Fixture::new().at("127.0.0.1", At::Disputed);
    let policy = policy.on(|on| on.disputed = Action::Log);
    let resolver = FakeResolver::default().entry("pacs.example", &["127.0.0.2", "127.0.0.1"]);
    let harness = Harness::new(policy, &resolver);
    let (front, world) = (listener().await, listener().await);
    let mut client = harness.client(&front, ListenMode::Proxy).await;
    client.write_all(connect(world.local_addr().unwrap().port()).as_bytes()).await.unwrap();
    assert!(http(&mut client).await.starts_with("HTTP/1.1 200 "));
    drop((client, world));
    let lines = harness.lines().await;
    assert_eq!(field(lines.last().unwrap(), "reason"), "disputed");
    let text = harness.account.metrics().render();
    let count = r#"schengate_connections_total{mode="proxy",verdict="log",reason="disputed"} 1"#;
    assert!(text.contains(count), "{text}");
}
