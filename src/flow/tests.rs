//! The walk from accept to record, on loopback sockets, with the real decision over a policy of
//! few addresses, and a resolver of the tests'.

mod explicit;
mod judged_again;

use std::num::NonZeroUsize;
use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::accept::Accepted;
use super::evaluate::First;
use super::first_flight::FirstFlight;
use super::listener::Listener;
use super::registry::Registry;
use super::serve::{serve, serve_transparent};
use super::session::Session;
use super::worker::Worker;
use super::*;
use crate::account::kept::{self, CapturedLog};
use crate::account::{Account, Bytes, Decision, End, Named};
use crate::egress::name_binding::fake::FakeResolver;
use crate::net::socket::TcpSocket;
use crate::policy::fixture::{At, Fixture};
use crate::policy::{Action, Live, Reason, Verdict};
use crate::settings::{Listen, ListenMode};

const ALERT: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x31];

/// A worker without threads: connections are handed to `serve` one by one.
struct Harness {
    worker: Rc<Worker>,
    live: std::sync::Arc<Live>,
    account: Account,
    kept: CapturedLog,
}

impl Harness {
    fn new(policy: Fixture, resolver: &FakeResolver) -> Self {
        let (live, kept) = (published(policy), CapturedLog::default());
        let account = kept.account();
        let worker = Worker {
            live: live.clone(),
            account: account.clone(),
            names: resolver.names(),
            registry: Rc::new(Registry::default()),
            associated: udp::Table::new(udp::Limits::of(16)),
            ports: udp::Ports::new(),
            stopping: watch::Sender::new(false),
        };
        Self { worker: Rc::new(worker), live, account, kept }
    }

    /// Connects to `world` and serves what it accepts. Transparent connections take the
    /// listener's own address for their destination, as under TPROXY.
    async fn client(&self, world: &TcpListener, mode: ListenMode) -> TcpStream {
        self.client_at(world, Listener::for_tests(mode)).await
    }

    async fn client_at(&self, world: &TcpListener, listener: Listener) -> TcpStream {
        let client = TcpStream::connect(world.local_addr().unwrap()).await.unwrap();
        let (stream, peer) = world.accept().await.unwrap();
        let (socket, listener) = (TcpSocket::new(stream), Rc::new(listener));
        match listener.slots.take(peer.ip()) {
            Ok(slot) => serve(Accepted { socket, peer, listener, slot }, Rc::clone(&self.worker)),
            Err(_) => overload::turn_away(socket, peer, &listener, &self.worker),
        }
        client
    }

    /// Every line of the record, once no connection is left.
    async fn lines(&self) -> Vec<Value> {
        // The connection that was accepted last takes a place in the registry when it first runs.
        tokio::task::yield_now().await;
        self.worker.registry.emptied().await;
        self.kept.lines(&self.account)
    }
}

fn published(policy: Fixture) -> std::sync::Arc<Live> {
    std::sync::Arc::new(Live::new(policy.policy(), None))
}

async fn listener() -> TcpListener {
    TcpListener::bind(("127.0.0.1", 0)).await.unwrap()
}

/// A ClientHello (RFC 8446 §4.1.2) with one extension, `server_name`.
fn hello(name: &str) -> Vec<u8> {
    let name = name.as_bytes();
    let entry = [&[0][..], &sized(name)].concat();
    let extension = [&[0, 0][..], &sized(&sized(&entry))].concat();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(sized(&extension));
    let handshake = [&[1, 0][..], &sized(&body)].concat();
    [&[22, 3, 1][..], &sized(&handshake)].concat()
}

/// The bytes behind their length in two bytes.
fn sized(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

/// Permits these names, where they are bound, and nothing else.
fn only(names: &[&str]) -> Fixture {
    let nothing = Fixture::outside().on(|on| {
        on.unread = Action::Block;
        on.malformed = Action::Block;
    });
    if names.is_empty() { nothing } else { nothing.names(Action::Allow, names) }
}

/// Permits all but a few names, so that the first bytes matter.
fn everything() -> Fixture {
    Fixture::new().names(Action::Block, &["*.refused.example"])
}

fn local(names: &[&str]) -> FakeResolver {
    names
        .iter()
        .fold(FakeResolver::default(), |resolver, name| resolver.entry(name, &["127.0.0.1"]))
}

#[tokio::test(flavor = "local")]
async fn what_a_connection_holds_is_small() {
    let harness = Harness::new(everything(), &FakeResolver::default());
    let world = listener().await;
    let listener = Listener::for_tests(ListenMode::Tproxy);
    let _client = TcpStream::connect(world.local_addr().unwrap()).await.unwrap();
    let (stream, peer) = world.accept().await.unwrap();
    let slot = listener.slots.take(peer.ip()).unwrap();
    let accepted =
        Accepted { socket: TcpSocket::new(stream), peer, listener: Rc::new(listener), slot };
    let size = size_of_val(&serve_transparent(accepted, Rc::clone(&harness.worker)));
    println!("{size} B");
    // With what tokio adds, 640 bytes in its steps of 128.
    assert!(size <= 496, "{size} B, for as long as the connection lives");
}

/// Of each of these a connection has one until it ends: the last in its task, the others on the heap,
/// behind counts of 16 bytes where they are shared.
#[test]
fn what_a_connection_holds_beside_its_task_is_small() {
    for (what, size, most) in [
        ("its handle", size_of::<registry::ConnHandle>(), 56),
        ("what it asked", size_of::<evaluate::Subject<Named, Box<str>>>(), 104),
        ("its verdict", size_of::<Decision>(), 88),
        ("its bytes", size_of::<Bytes>(), 72),
        ("its place among those of its listener", size_of::<slots::Slot>(), 24),
    ] {
        println!("{what}: {size} B");
        assert!(size <= most, "{what}: {size} B");
    }
}

async fn all_of(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    all
}

async fn some(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut some = vec![0; count];
    stream.read_exact(&mut some).await.unwrap();
    some
}

/// Reads an HTTP head and the body that its Content-Length announces.
async fn http(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.extend(some(stream, 1).await);
    }
    let head = String::from_utf8(text).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    head + &String::from_utf8(some(stream, length.unwrap_or(0)).await).unwrap()
}

fn connect(port: u16) -> String {
    format!("CONNECT pacs.example:{port} HTTP/1.1\r\nHost: pacs.example:{port}\r\n\r\n")
}

fn field<'a>(line: &'a Value, name: &str) -> &'a str {
    line[name].as_str().unwrap_or("null")
}

#[tokio::test(flavor = "local")]
async fn a_permitted_hello_arrives_as_it_was_sent() {
    let harness = Harness::new(only(&["pacs.example"]), &local(&["pacs.example"]));
    let world = listener().await;
    let mut client = harness.client(&world, ListenMode::Tproxy).await;
    let sent = hello("pacs.example");
    for part in sent.chunks(7) {
        client.write_all(part).await.unwrap();
    }
    let (mut server, _) = world.accept().await.unwrap();
    assert_eq!(some(&mut server, sent.len()).await, sent);
    server.write_all(b"answer").await.unwrap();
    drop(server);
    client.shutdown().await.unwrap();
    assert_eq!(all_of(&mut client).await, b"answer");
    let lines = harness.lines().await;
    let events: Vec<_> = lines.iter().map(|line| field(line, "event")).collect();
    assert_eq!(events, ["open", "close"]);
    assert_eq!(field(&lines[1], "end"), "done");
    assert_eq!(lines[1]["bytes_up"], sent.len());
    assert_eq!(lines[1]["name_bound"], true);
}

#[tokio::test(flavor = "local")]
async fn a_refused_hello_gets_an_alert_and_nothing_is_dialled() {
    let harness = Harness::new(only(&["pacs.example"]), &local(&["pacs.example", "cloud.example"]));
    let world = listener().await;
    let mut client = harness.client(&world, ListenMode::Tproxy).await;
    client.write_all(&hello("cloud.example")).await.unwrap();
    assert_eq!(all_of(&mut client).await, ALERT);
    drop(client);
    let lines = harness.lines().await;
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(field(&lines[0], "verdict"), "block");
    assert_eq!(field(&lines[0], "host"), "cloud.example");
    nobody_came(&world).await;
}

/// A client, its destination and the rig, once the hello of `pacs.example` has arrived and been
/// answered with a request for another one.
async fn asked_for_another_hello(harness: &Harness, mode: ListenMode) -> (TcpStream, TcpStream) {
    let (front, world) = (listener().await, listener().await);
    let mut client = match mode {
        ListenMode::Proxy => harness.client(&front, mode).await,
        ListenMode::Tproxy | ListenMode::Redirect => harness.client(&world, mode).await,
    };
    if mode == ListenMode::Proxy {
        client.write_all(connect(world.local_addr().unwrap().port()).as_bytes()).await.unwrap();
        assert!(http(&mut client).await.starts_with("HTTP/1.1 200 "));
    }
    client.write_all(&hello("pacs.example")).await.unwrap();
    let (mut server, _) = world.accept().await.unwrap();
    some(&mut server, hello("pacs.example").len()).await;
    server.write_all(b"retry!").await.unwrap();
    assert_eq!(some(&mut client, 6).await, b"retry!");
    (client, server)
}

#[tokio::test(flavor = "local")]
async fn a_second_hello_of_another_host_ends_the_connection_and_is_not_sent_on() {
    for (policy, mode) in [
        (only(&["pacs.example"]), ListenMode::Tproxy),
        (only(&["pacs.example"]), ListenMode::Proxy),
        (everything(), ListenMode::Proxy),
    ] {
        let harness = Harness::new(policy, &local(&["pacs.example"]));
        let (mut client, mut server) = asked_for_another_hello(&harness, mode).await;
        let sent = [&[20, 3, 3, 0, 1, 1][..], &hello("cloud.example")].concat();
        client.write_all(&sent).await.unwrap();
        assert!(client.read(&mut [0; 8]).await.is_err(), "a reset");
        assert!(server.read(&mut [0; 8]).await.is_err(), "a reset, and no byte before it");
        drop((client, server));
        let line = harness.lines().await.pop().unwrap();
        assert_eq!((field(&line, "verdict"), field(&line, "reason")), ("block", "mismatch"));
        assert_eq!((field(&line, "end"), field(&line, "host")), ("refused", "pacs.example"));
        assert_eq!(line["bytes_up"], hello("pacs.example").len());
    }
}

#[tokio::test(flavor = "local")]
async fn a_second_hello_of_the_same_host_and_all_behind_it_goes_on() {
    for mode in [ListenMode::Tproxy, ListenMode::Proxy] {
        let harness = Harness::new(only(&["pacs.example"]), &local(&["pacs.example"]));
        let (mut client, mut server) = asked_for_another_hello(&harness, mode).await;
        let data = [&[23, 3, 3, 0x10, 0][..], &[7; 4096]].concat().repeat(40);
        let sent = [hello("pacs.example"), data].concat();
        client.write_all(&sent).await.unwrap();
        client.shutdown().await.unwrap();
        assert!(all_of(&mut server).await == sent);
        server.write_all(b"answer").await.unwrap();
        drop(server);
        assert_eq!(all_of(&mut client).await, b"answer");
        let line = harness.lines().await.pop().unwrap();
        assert_eq!((field(&line, "end"), field(&line, "verdict")), ("done", "allow"));
        assert_eq!(line["bytes_up"], sent.len() + hello("pacs.example").len());
    }
}

/// Fails where a connection waits to be accepted.
async fn nobody_came(world: &TcpListener) {
    let came = tokio::time::timeout(Duration::ZERO, world.accept()).await;
    assert!(came.is_err(), "a refused connection was dialled: {came:?}");
}

#[tokio::test(flavor = "local")]
async fn a_name_of_another_address_opens_nothing() {
    let resolver = FakeResolver::default().entry("pacs.example", &["198.51.100.7"]);
    let harness = Harness::new(only(&["pacs.example"]), &resolver);
    let world = listener().await;
    let mut client = harness.client(&world, ListenMode::Tproxy).await;
    client.write_all(&hello("pacs.example")).await.unwrap();
    assert_eq!(all_of(&mut client).await, ALERT);
    drop(client);
    assert_eq!(field(&harness.lines().await[0], "reason"), "mismatch");
    nobody_came(&world).await;
}

#[tokio::test(flavor = "local")]
async fn a_verdict_that_needs_no_byte_lets_the_server_speak_first() {
    let harness = Harness::new(Fixture::new(), &FakeResolver::default());
    let world = listener().await;
    let mut client = harness.client(&world, ListenMode::Redirect).await;
    assert_eq!(
        client.read(&mut [0; 8]).await.map_err(|e| e.kind()).unwrap_or(0),
        0,
        "a connection that nothing redirected has no origin"
    );
    let mut client = harness.client(&world, ListenMode::Tproxy).await;
    let (mut server, _) = world.accept().await.unwrap();
    server.write_all(b"220 mail").await.unwrap();
    assert_eq!(some(&mut client, 8).await, b"220 mail");
    drop((client, server));
    let ends: Vec<_> =
        harness.lines().await.iter().map(|line| field(line, "end").to_owned()).collect();
    assert_eq!(ends[0], End::NoOrigin.label());
}

#[tokio::test(flavor = "local")]
async fn a_refusal_that_needed_no_byte_still_speaks_the_clients_protocol() {
    let harness = Harness::new(Fixture::outside(), &FakeResolver::default());
    let world = listener().await;
    let mut client = harness.client(&world, ListenMode::Tproxy).await;
    client.write_all(&hello("cloud.example")).await.unwrap();
    assert_eq!(all_of(&mut client).await, ALERT);
    let mut client = harness.client(&world, ListenMode::Tproxy).await;
    client.write_all(b"GET / HTTP/1.1\r\nHost: cloud.example\r\n\r\n").await.unwrap();
    let answer = String::from_utf8(all_of(&mut client).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 451 "), "{answer}");
    assert!(answer.contains("it@hospital.example"), "{answer}");
    drop(client);
    let lines = harness.lines().await;
    assert_eq!(field(&lines[0], "host"), "cloud.example");
    assert_eq!(lines.len(), 2);
    nobody_came(&world).await;
}

#[tokio::test(flavor = "local")]
async fn without_a_policy_in_force_nothing_is_forwarded() {
    let harness = Harness::new(everything(), &local(&["pacs.example"]));
    harness.live.publish(everything().lapsed().policy(), None);
    let world = listener().await;
    let mut client = harness.client(&world, ListenMode::Tproxy).await;
    client.write_all(&hello("pacs.example")).await.unwrap();
    client.read_to_end(&mut Vec::new()).await.ok();
    let mut explicit = harness.client(&listener().await, ListenMode::Proxy).await;
    let port = world.local_addr().unwrap().port();
    let request = format!("CONNECT pacs.example:{port} HTTP/1.1\r\nHost: pacs.example\r\n\r\n");
    explicit.write_all(request.as_bytes()).await.unwrap();
    assert!(http(&mut explicit).await.starts_with("HTTP/1.1 503 "));
    drop((client, explicit));
    for line in harness.lines().await {
        assert_eq!(field(&line, "reason"), "overload", "{line}");
    }
    nobody_came(&world).await;
}

#[tokio::test(flavor = "local")]
async fn a_listener_that_is_full_refuses() {
    let harness = Harness::new(everything(), &FakeResolver::default());
    let world = listener().await;
    let listener = Listener::for_tests(ListenMode::Tproxy);
    let client = std::net::IpAddr::from([192, 0, 2, 1]);
    let taken: Vec<_> = std::iter::from_fn(|| listener.slots.take(client).ok()).collect();
    let mut client = harness.client_at(&world, listener).await;
    assert!(client.read(&mut [0; 8]).await.is_err(), "a reset");
    drop(taken);
    assert_eq!(field(&harness.lines().await[0], "reason"), "overload");
    nobody_came(&world).await;
}

#[tokio::test(flavor = "local")]
async fn a_client_that_has_as_many_connections_as_it_may_is_refused_one_more() {
    let harness = Harness::new(everything(), &FakeResolver::default());
    let world = listener().await;
    let listener = Listener::for_tests(ListenMode::Tproxy).with_per_client(1);
    let held = listener.slots.take(std::net::Ipv4Addr::LOCALHOST.into()).unwrap();
    let mut client = harness.client_at(&world, listener).await;
    assert!(client.read(&mut [0; 8]).await.is_err(), "a reset");
    drop(held);
    assert_eq!(field(&harness.lines().await[0], "reason"), "overload");
    nobody_came(&world).await;
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_silent_client_is_judged_at_the_deadline_as_unread() {
    let harness = Harness::new(only(&["pacs.example"]), &FakeResolver::default());
    let world = listener().await;
    let mut client = harness.client(&world, ListenMode::Tproxy).await;
    assert!(client.read(&mut [0; 8]).await.is_err(), "a reset");
    assert_eq!(field(&harness.lines().await[0], "reason"), "unread");
}

#[tokio::test(flavor = "local")]
async fn a_client_that_leaves_before_a_verdict_has_one_line() {
    let harness = Harness::new(everything(), &FakeResolver::default());
    let world = listener().await;
    drop(harness.client(&world, ListenMode::Tproxy).await);
    let lines = harness.lines().await;
    assert_eq!(lines.len(), 1);
    assert_eq!((field(&lines[0], "event"), field(&lines[0], "end")), ("unjudged", "client-gone"));
    nobody_came(&world).await;
}

#[tokio::test(flavor = "local")]
async fn a_new_policy_ends_what_it_no_longer_permits() {
    let harness = Harness::new(everything(), &local(&["pacs.example", "cloud.example"]));
    let world = listener().await;
    let mut clients = Vec::new();
    for name in ["pacs.example", "cloud.example"] {
        let mut client = harness.client(&world, ListenMode::Tproxy).await;
        client.write_all(&hello(name)).await.unwrap();
        let (mut server, _) = world.accept().await.unwrap();
        some(&mut server, hello(name).len()).await;
        clients.push((client, server));
    }
    reload(&harness, only(&["pacs.example"])).await;
    let (mut client, mut server) = clients.pop().unwrap();
    assert!(client.read(&mut [0; 8]).await.is_err(), "a reset");
    assert!(server.read(&mut [0; 8]).await.is_err(), "a reset");
    let (mut client, mut server) = clients.pop().unwrap();
    server.write_all(b"still here").await.unwrap();
    assert_eq!(some(&mut client, 10).await, b"still here");
    drop((client, server));
    let lines = harness.lines().await;
    let ended: Vec<_> = lines.iter().filter(|l| field(l, "end") == "policy-change").collect();
    assert_eq!(ended.len(), 1, "{lines:?}");
    assert_eq!((field(ended[0], "host"), field(ended[0], "verdict")), ("cloud.example", "block"));
}

/// Puts another policy in force, as a reload does.
async fn reload(harness: &Harness, policy: Fixture) {
    harness.live.publish(policy.policy(), None);
    harness.worker.rejudge().await;
}

/// `observe` is in force at first: then, and once more after the second hello where `enforces` says
/// so, the policy changes. What the last line says in the end.
#[tokio::test(flavor = "local")]
async fn a_second_hello_of_another_host_is_judged_when_it_comes_and_when_the_policy_changes() {
    let observes = || everything().observing();
    let other = hello("cloud.example");
    for (mode, at_its_hello, enforces, said) in [
        (ListenMode::Tproxy, observes(), false, ["log", "block", "observe", "done"]),
        (ListenMode::Proxy, observes(), false, ["log", "block", "observe", "done"]),
        (ListenMode::Tproxy, observes(), true, ["block", "null", "enforce", "policy-change"]),
        (ListenMode::Proxy, observes(), true, ["block", "null", "enforce", "policy-change"]),
        (ListenMode::Tproxy, everything(), false, ["block", "null", "enforce", "refused"]),
        (ListenMode::Proxy, everything(), false, ["block", "null", "enforce", "refused"]),
    ] {
        let harness = Harness::new(observes(), &local(&["pacs.example"]));
        let (mut client, mut server) = asked_for_another_hello(&harness, mode).await;
        reload(&harness, at_its_hello).await;
        client.write_all(&other).await.unwrap();
        if said[3] != "refused" {
            assert_eq!(some(&mut server, other.len()).await, other);
            reload(&harness, observes()).await;
            client.write_all(b"still here").await.unwrap();
            assert_eq!(some(&mut server, 10).await, b"still here");
        }
        if enforces {
            reload(&harness, everything()).await;
        }
        if said[3] == "done" {
            client.shutdown().await.unwrap();
            server.shutdown().await.unwrap();
        } else {
            assert!(client.read(&mut [0; 8]).await.is_err(), "a reset");
            assert!(server.read(&mut [0; 8]).await.is_err(), "a reset, and no byte before it");
        }
        drop((client, server));
        let line = harness.lines().await.pop().unwrap();
        assert_eq!(["verdict", "would", "mode", "end"].map(|name| field(&line, name)), said);
        assert_eq!((field(&line, "reason"), field(&line, "host")), ("mismatch", "pacs.example"));
    }
}

#[tokio::test(flavor = "local")]
async fn one_task_waits_for_the_end_of_the_grace_however_often_the_policy_changes() {
    let refuses = || Fixture::outside().grace(Duration::from_secs(2));
    let harness = Harness::new(everything(), &local(&["pacs.example"]));
    let world = listener().await;
    let mut client = harness.client(&world, ListenMode::Tproxy).await;
    client.write_all(&hello("pacs.example")).await.unwrap();
    let (mut server, _) = world.accept().await.unwrap();
    some(&mut server, hello("pacs.example").len()).await;
    let held = Rc::strong_count(&harness.worker);
    for _ in 0..5 {
        reload(&harness, refuses()).await;
    }
    assert_eq!(Rc::strong_count(&harness.worker), held + 1, "each task holds the worker");
    reload(&harness, everything()).await;
    // Time is made to pass only where no byte is under way.
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(3)).await;
    tokio::time::resume();
    assert_eq!(Rc::strong_count(&harness.worker), held, "it was permitted again");
    server.write_all(b"still here").await.unwrap();
    assert_eq!(some(&mut client, 10).await, b"still here");
    reload(&harness, refuses()).await;
    tokio::time::pause();
    assert!(client.read(&mut [0; 8]).await.is_err(), "a reset, after the grace");
    drop((client, server));
    assert_eq!(field(&harness.lines().await.pop().unwrap(), "end"), "policy-change");
}

/// A whole data plane, with threads.
fn plane(policy: Fixture, resolver: &FakeResolver, kept: &CapturedLog) -> (DataPlane, Account) {
    let (account, resolver) = (kept.account(), resolver.clone());
    let settings = Listen {
        connect_timeout: Duration::from_secs(3),
        idle_timeout: Duration::from_secs(60),
        half_closed_timeout: Duration::from_secs(60),
        lifetime: Some(Duration::from_secs(3600)),
        max_connections: 100,
        ..Listen::DEFAULT
    };
    let listener = settings::Listener { settings, socket: None, datagrams: None };
    let names = NameService {
        resolvers: Vec::new(),
        tls: None,
        remember: Duration::from_secs(600),
        limit: Default::default(),
        host: None,
    };
    let workers = NonZeroUsize::new(2).unwrap();
    let settings = Settings {
        listeners: vec![listener],
        workers,
        affinity: true,
        names,
        dns: None,
        dns_sockets: None,
        lane: None,
        confined: true,
    };
    let names =
        std::sync::Arc::new(move |_: &std::sync::Arc<crate::egress::Resolver>| resolver.names());
    let plane = DataPlane::launch(settings, published(policy), account.clone(), names).unwrap();
    (plane, account)
}

#[tokio::test]
async fn a_drained_data_plane_finishes_every_record_and_takes_nobody_new() {
    let kept = CapturedLog::default();
    let (plane, account) = plane(everything(), &local(&["pacs.example"]), &kept);
    assert!(plane.ping(Duration::from_secs(30)));
    let (_, at) = plane.listeners()[0];
    let world = listener().await;
    let mut live = Vec::new();
    for _ in 0..8 {
        let mut client = TcpStream::connect(at).await.unwrap();
        client.write_all(connect(world.local_addr().unwrap().port()).as_bytes()).await.unwrap();
        assert!(http(&mut client).await.starts_with("HTTP/1.1 200 "));
        live.push((client, world.accept().await.unwrap()));
    }
    let drained = tokio::task::spawn_blocking(|| plane.drain(Duration::ZERO));
    drained.await.unwrap();
    let lines = kept.lines(&account);
    let ends = lines.iter().filter(|line| field(line, "end") == "drained").count();
    assert_eq!(ends, 8, "{lines:?}");
    for (mut client, _server) in live {
        assert!(client.read(&mut [0; 8]).await.is_err(), "a reset");
    }
    assert!(TcpStream::connect(at).await.is_err());
}

#[tokio::test(flavor = "local")]
async fn a02_what_cannot_be_recorded_is_not_dialled() {
    let dir = tempfile::tempdir().unwrap();
    let harness = Harness::new(everything(), &local(&[]));
    let first = kept::fill(&harness.account, dir.path());
    let world = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    world.set_nonblocking(true).unwrap();
    let clients = listener().await;
    let _client = TcpStream::connect(clients.local_addr().unwrap()).await.unwrap();
    let (stream, peer) = clients.accept().await.unwrap();
    let listener = Rc::new(Listener::for_tests(ListenMode::Tproxy));
    let slot = listener.slots.take(peer.ip()).unwrap();
    let mut session = Session::open(Rc::clone(&harness.worker), listener, peer);
    // The room was there when the verdict fell.
    let verdict = Verdict::given(Action::Allow, Reason::Permitted, world.local_addr().unwrap());
    session.record.judged(Decision::without_policy(verdict));
    let (seen, permit) = (FirstFlight::with(Vec::new()), verdict.permit().unwrap());
    let socket = TcpSocket::new(stream);
    let joined = forward::run(socket, slot, seen, First::Settled, None, permit, &mut session).await;
    assert_eq!(joined.err(), Some(End::Refused));
    session.close(End::Refused);
    let lines = harness.lines().await;
    let told: Vec<_> =
        lines.iter().map(|line| (field(line, "event"), field(line, "reason"))).collect();
    assert_eq!(told, [("refused", "record")]);
    // A connect on loopback would be in the queue by now.
    assert_eq!(world.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    assert!(first.close(Duration::from_secs(60)) && harness.account.close(Duration::from_secs(60)));
}

#[tokio::test(flavor = "local")]
async fn a02_who_waits_for_the_disk_keeps_nobody_else_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let harness = Harness::new(everything(), &local(&[]));
    let first = kept::hold(&harness.account, dir.path());
    let world = listener().await;
    let mut waits = harness.client(&world, ListenMode::Tproxy).await;
    let sent = hello("pacs.example");
    waits.write_all(&sent).await.unwrap();
    for _ in 0..3 {
        let mut other = harness.client(&world, ListenMode::Tproxy).await;
        other.write_all(&hello("other.refused.example")).await.unwrap();
        assert_eq!(all_of(&mut other).await, ALERT);
    }
    assert!(first.close(Duration::from_secs(60)));
    let (mut server, _) = world.accept().await.unwrap();
    assert_eq!(some(&mut server, sent.len()).await, sent);
    drop((server, waits));
    let lines = harness.lines().await;
    let mut events: Vec<_> = lines.iter().map(|line| field(line, "event")).collect();
    events.sort_unstable();
    assert_eq!(events, ["close", "open", "refused", "refused", "refused"]);
    assert!(harness.account.close(Duration::from_secs(60)));
}

#[tokio::test]
async fn draining_waits_for_what_ends_by_itself() {
    let kept = CapturedLog::default();
    let (plane, account) = plane(everything(), &local(&["pacs.example"]), &kept);
    let (_, at) = plane.listeners()[0];
    let world = listener().await;
    let mut client = TcpStream::connect(at).await.unwrap();
    client.write_all(connect(world.local_addr().unwrap().port()).as_bytes()).await.unwrap();
    assert!(http(&mut client).await.starts_with("HTTP/1.1 200 "));
    let (mut server, _) = world.accept().await.unwrap();
    let drained = tokio::task::spawn_blocking(|| plane.drain(Duration::from_secs(600)));
    server.write_all(b"the rest").await.unwrap();
    drop(server);
    assert_eq!(some(&mut client, 8).await, b"the rest");
    drop(client);
    drained.await.unwrap();
    let lines = kept.lines(&account);
    assert_eq!(lines.last().map(|line| field(line, "end")), Some("done"), "{lines:?}");
}
