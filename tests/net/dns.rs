//! The gateway as a name server (`[dns]`), through the built binary and the laboratory.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use serde_json::json;

use crate::lab::role::{hex, unhex};
use crate::lab::{self, ADMIN, Gateway, Helper, Lab, NAME_SERVER, PERMITTED, REFUSED, at, lab};

/// Where the gateway is a name server.
const HERE: &str = "192.0.2.1:53";

fn policy(dns: &str, more: &str) -> String {
    let ([p4, p6], [r4, r6]) = (PERMITTED, REFUSED);
    format!(
        "schema = 1
[policy]
mode = \"enforce\"
permit = [\"FR\"]
contact = \"it@hospital.example\"

[policy.on]
unread = \"block\"

[names]
binding = \"verify\"
resolvers = [\"{NAME_SERVER}:53\"]

[dns]
listen = \"{HERE}\"
{dns}

[[rule]]
name = \"foreign\"
host = [\"*.foreign.example\"]
action = \"block\"

[[rule]]
name = \"names\"
host = [\"*.permitted.example\"]
port = [443]
action = \"allow\"
reason = \"the name decides in these tests\"

[[place]]
to = [\"{p4}/32\", \"{p6}/128\"]
location = [\"FR\"]
reason = \"the permitted side of the laboratory\"

[[place]]
to = [\"203.0.113.0/24\", \"{r6}/128\"]
location = [\"US\"]
reason = \"the refused side of the laboratory, {r4} among it\"

[[listen]]
mode = \"tproxy\"
address = \"[::]:15001\"
peek_timeout = \"500ms\"

[admin]
address = \"{ADMIN}\"
{more}"
    )
}

/// The name server of the world is in France.
const SERVER_HERE: &str =
    "\n[[place]]\nto = [\"198.51.100.53/32\"]\nlocation = [\"FR\"]\nreason = \"x\"\n";

struct Scene<'lab> {
    gateway: Gateway<'lab>,
    world: Helper,
    client: Helper,
}

impl<'lab> Scene<'lab> {
    fn start(lab: &'lab Lab, dns: &str, more: &str) -> Self {
        Self::under(lab, &policy(dns, more))
    }

    fn under(lab: &'lab Lab, policy: &str) -> Self {
        let world = lab.world.helper("world");
        let gateway = lab.start_gateway(policy);
        gateway.capture();
        Self { gateway, world, client: lab.client.helper("client") }
    }

    /// The answer over UDP; `None` where there is none.
    fn ask(&mut self, name: &str, kind: RecordType) -> Option<Message> {
        let query = query(name, kind).to_vec().unwrap();
        let said = self
            .client
            .ask(&json!({"do": "udp", "to": HERE, "hex": hex(&query), "patience_ms": 7_000}));
        let answer = unhex(said["received"].as_str().unwrap());
        let answer = (!answer.is_empty()).then(|| Message::from_vec(&answer).unwrap())?;
        assert_eq!(answer.metadata.id, 4711);
        Some(answer)
    }

    fn asked(&mut self) -> Vec<String> {
        serde_json::from_value(self.world.ask(&json!("asked"))).unwrap()
    }

    fn queries(&self, result: &str) -> f64 {
        self.gateway.count(&format!("schengate_dns_queries_total{{result=\"{result}\"}}"))
    }

    fn refused(&self, reason: &str) -> f64 {
        let labels = format!("mode=\"dns\",verdict=\"block\",reason=\"{reason}\"");
        self.gateway.count(&labels)
    }
}

/// A query; `~` in a name stands for a zero byte.
fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let labels = name.trim_end_matches('.').split('.').map(|it| it.replace('~', "\0"));
    let name = Name::from_labels(labels.map(String::into_bytes)).unwrap();
    message.add_query(Query::query(name, kind));
    message.set_edns(Edns::new());
    message
}

fn addresses(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

/// The code and the words of an extended error (RFC 8914).
fn extended(message: &Message) -> Option<(u16, String)> {
    let option = message.edns.as_ref()?.options().as_ref().iter().find_map(|(code, option)| {
        (u16::from(*code) == 15).then(|| Vec::<u8>::try_from(option).unwrap())
    })?;
    let (code, words) = option.split_first_chunk()?;
    Some((u16::from_be_bytes(*code), String::from_utf8(words.to_vec()).unwrap()))
}

#[test]
fn what_a_client_was_told_ties_the_name_to_the_address() {
    let Some(lab) = lab("dns") else { return };
    let mut scene = Scene::start(&lab, "", SERVER_HERE);
    for (kind, permitted, refused) in
        [(RecordType::A, PERMITTED[0], REFUSED[0]), (RecordType::AAAA, PERMITTED[1], REFUSED[1])]
    {
        let answer = scene.ask("permitted.example.", kind).unwrap();
        assert_eq!(
            (answer.metadata.response_code, addresses(&answer)),
            (ResponseCode::NoError, vec![permitted.to_owned()])
        );
        // Abroad, and let through by its name on one port.
        let answer = scene.ask("a.permitted.example.", kind).unwrap();
        assert_eq!(addresses(&answer), [refused]);
        assert_eq!(scene.asked().iter().filter(|name| *name == "a.permitted.example").count(), 1);
        let hello = tls_hello("a.permitted.example");
        let ask = json!({"do": "send", "to": at(refused, 443), "hex": hex(&hello), "enough": 1,
            "patience_ms": 500});
        scene.client.ask(&ask);
        lab::wait_until("the hello has arrived", || {
            (scene.world.arrived(refused).0 > 0).then_some(())
        });
        // Nobody but the client has asked about it.
        let asked = scene.asked();
        assert_eq!(asked.iter().filter(|name| *name == "a.permitted.example").count(), 1);
        scene.world.ask(&json!("forget"));
    }
    assert_eq!(scene.queries("forwarded"), 4.0);
    assert_eq!(scene.gateway.count("mode=\"dns\",verdict=\"block\""), 0.0, "no refusal");
    let unknown = scene.ask("nobody.example.", RecordType::A).unwrap();
    assert_eq!(unknown.metadata.response_code, ResponseCode::NXDomain);
}

/// A ClientHello of this name.
fn tls_hello(name: &str) -> Vec<u8> {
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    hello
}

#[test]
fn a_name_that_is_refused_everywhere_is_never_asked_about() {
    let Some(lab) = lab("dns refused") else { return };
    for (refuse, code) in [("refused", ResponseCode::Refused), ("nxdomain", ResponseCode::NXDomain)]
    {
        let mut scene = Scene::start(&lab, &format!("refuse = \"{refuse}\""), SERVER_HERE);
        let names = ["x.foreign.example.", "SECRET.X.Foreign.Example.", "a~b.foreign.example."];
        for (name, kind) in
            names.into_iter().zip([RecordType::A, RecordType::TXT, RecordType::HTTPS])
        {
            let answer = scene.ask(name, kind).unwrap();
            assert_eq!((answer.metadata.response_code, answer.answers.len()), (code, 0), "{name}");
            let (extended, words) = extended(&answer).unwrap();
            assert_eq!(extended, 15);
            assert!(words.starts_with("rule: "), "{words}");
            assert!(words.contains("event ") && words.contains("it@hospital"), "{words}");
        }
        assert_eq!(scene.asked(), Vec::<String>::new());
        assert_eq!((scene.queries("refused"), scene.refused("rule")), (3.0, 3.0));
    }
}

#[test]
fn addresses_that_no_rule_opens_are_not_told() {
    let Some(lab) = lab("dns filter") else { return };
    let mut scene = Scene::start(&lab, "strip_ech = true", SERVER_HERE);
    let none = scene.ask("refused.example.", RecordType::A).unwrap();
    assert_eq!((none.metadata.response_code, none.answers.len()), (ResponseCode::NoError, 0));
    let (code, words) = extended(&none).unwrap();
    assert_eq!(code, 15);
    assert!(words.starts_with("outside: "), "{words}");
    assert_eq!((scene.queries("refused"), scene.refused("outside")), (1.0, 1.0));
    let some = scene.ask("mixed.example.", RecordType::A).unwrap();
    assert_eq!(addresses(&some), [PERMITTED[0]]);
    assert!(extended(&some).is_none());
    assert_eq!(scene.queries("filtered"), 1.0);
    // Rebinding: neither the metadata service nor the gateway itself has a name.
    for name in ["meta.example.", "self.example."] {
        assert_eq!(scene.ask(name, RecordType::A).unwrap().answers.len(), 0, "{name}");
    }
    assert!(scene.refused("guard") + scene.refused("loop") >= 2.0);
    let service = scene.ask("service.example.", RecordType::HTTPS).unwrap();
    let text = addresses(&service).concat();
    assert!(text.contains("alpn") && text.contains(PERMITTED[0]), "{text}");
    assert!(!text.contains("ech") && !text.contains(REFUSED[0]), "{text}");
    drop(scene);
    let mut scene = Scene::start(&lab, "filter = false", SERVER_HERE);
    assert_eq!(addresses(&scene.ask("refused.example.", RecordType::A).unwrap()), [REFUSED[0]]);
    let service = scene.ask("service.example.", RecordType::HTTPS).unwrap();
    assert!(addresses(&service).concat().contains("ech"));
}

#[test]
fn a_name_server_that_the_policy_refuses_is_not_asked() {
    let Some(lab) = lab("dns server") else { return };
    let abroad = "\n[[place]]\nto = [\"198.51.100.53/32\"]\nlocation = [\"US\"]\nreason = \"x\"\n";
    let mut scene = Scene::start(&lab, "", abroad);
    let answer = scene.ask("permitted.example.", RecordType::A).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
    let (code, words) = extended(&answer).unwrap();
    assert_eq!(code, 18);
    assert!(words.starts_with("outside: "), "{words}");
    assert_eq!(scene.asked(), Vec::<String>::new());
    assert_eq!((scene.queries("refused"), scene.refused("outside")), (1.0, 1.0));
}

#[test]
fn what_is_no_question_is_dropped_and_what_fails_is_said() {
    let Some(lab) = lab("dns bad") else { return };
    let mut scene = Scene::start(&lab, "rate = 40", SERVER_HERE);
    let mut answer = query("permitted.example.", RecordType::A).to_vec().unwrap();
    answer[2] |= 0x80;
    for junk in [b"x".to_vec(), vec![0; 12], answer] {
        let ask = json!({"do": "udp", "to": HERE, "hex": hex(&junk), "patience_ms": 200});
        assert_eq!(scene.client.ask(&ask)["received"], "");
    }
    assert_eq!(scene.queries("malformed"), 3.0);
    // No answer, a lie, an answer that is cut where nobody can be asked for the rest.
    for name in ["silent.example.", "lie.example.", "truncated.example."] {
        let answer = scene.ask(name, RecordType::A).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail, "{name}");
    }
    assert_eq!(scene.queries("failed"), 3.0);
    let over_tcp = query("permitted.example.", RecordType::A).to_vec().unwrap();
    let framed = [&u16::try_from(over_tcp.len()).unwrap().to_be_bytes()[..], &over_tcp].concat();
    let two = [framed.clone(), framed].concat();
    let ask = json!({"do": "send", "to": HERE, "hex": hex(&two), "shut": true});
    let said = scene.client.ask(&ask);
    let received = unhex(said["received"].as_str().unwrap());
    let length = usize::from(u16::from_be_bytes([received[0], received[1]]));
    assert_eq!(received.len(), 2 * (length + 2), "two answers");
    let first = Message::from_vec(&received[2..length + 2]).unwrap();
    assert_eq!(addresses(&first), [PERMITTED[0]]);
    // Far more than it may: the rest goes unanswered.
    let many: Vec<String> = (0..200)
        .map(|_| hex(&query("x.foreign.example.", RecordType::A).to_vec().unwrap()))
        .collect();
    let ask = json!({"do": "talk", "to": HERE, "datagrams": many, "pause_ms": 1,
        "patience_ms": 300});
    scene.client.ask(&ask);
    assert!(scene.queries("limited") > 0.0);
}

/// One client may have five new names of a domain asked about in a minute.
fn five_names(more: &str) -> String {
    let names = "[names]\nnew_names_per_domain = 5\n";
    policy("", &format!("{SERVER_HERE}{more}")).replace("[names]\n", names)
}

#[test]
fn w07_questions_whose_answers_carry_anything_never_leave() {
    let Some(lab) = lab("w07 types") else { return };
    let mut scene = Scene::start(&lab, "", SERVER_HERE);
    for kind in [RecordType::TXT, RecordType::NULL, RecordType::Unknown(65400), RecordType::ANY] {
        let answer = scene.ask("secret.permitted.example.", kind).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused, "{kind}");
        let (code, words) = extended(&answer).unwrap();
        assert_eq!(code, 18);
        assert!(words.starts_with("guard: ") && words.contains("event "), "{words}");
    }
    assert_eq!(scene.asked(), Vec::<String>::new());
    assert_eq!((scene.queries("unsupported"), scene.refused("guard")), (4.0, 1.0));
    for kind in [RecordType::A, RecordType::AAAA, RecordType::HTTPS, RecordType::MX] {
        let answer = scene.ask("permitted.example.", kind).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError, "{kind}");
    }
    // What was asked is in the record, each question once.
    let lines = scene.gateway.stop();
    let told = |event: &str, reason: &str| -> Vec<u64> {
        let of = lines.iter().filter(|it| it["event"] == event && it["reason"] == reason);
        of.map(|it| it["queries"].as_u64().unwrap()).collect()
    };
    assert_eq!(told("refused", "guard"), [1, 3], "{lines:?}");
    assert_eq!(told("asked", "permitted"), [4], "{lines:?}");
    let asked = lines.iter().find(|it| it["event"] == "asked").unwrap();
    assert_eq!((&asked["host"], &asked["listener"]), (&"permitted.example".into(), &"dns".into()));
    assert_eq!(asked["destination"], "198.51.100.53:53");
    assert_eq!((&asked["verdict"], &asked["end"]), (&"allow".into(), &"done".into()));
    drop(scene);
    // Who wants them says so.
    let types = "types = [\"A\", \"txt\", \"TYPE65400\"]";
    let mut scene = Scene::start(&lab, types, SERVER_HERE);
    for (kind, code) in [
        (RecordType::TXT, ResponseCode::NoError),
        (RecordType::Unknown(65400), ResponseCode::NoError),
        (RecordType::AAAA, ResponseCode::Refused),
    ] {
        assert_eq!(
            scene.ask("permitted.example.", kind).unwrap().metadata.response_code,
            code,
            "{kind}"
        );
    }
}

#[test]
fn w07_new_names_are_bounded_in_every_way_in() {
    const EXPLICIT: &str = "192.0.2.1:3128";
    let Some(lab) = lab("w07 names") else { return };
    let more = format!(
        "
[[rule]]
name = \"whose names would leak\"
host = [\"*.dns-leak.example\", \"*.connect-leak.example\", \"*.socks-leak.example\", \"*.tls-leak.example\"]
action = \"allow\"
reason = \"the name decides in these tests\"

[[listen]]
mode = \"proxy\"
address = \"{EXPLICIT}\"
"
    );
    let mut scene = Scene::under(&lab, &five_names(&more));
    let name = |n: usize, way: &str| format!("n{n}.{way}-leak.example");
    let asked_about = |scene: &mut Scene<'_>, way: &str| {
        let mut asked = scene.asked();
        asked.retain(|asked| asked.contains(way));
        asked.sort();
        asked.dedup();
        asked
    };
    let five = |way: &str| (0..5).map(|n| name(n, way)).collect::<Vec<_>>();

    for n in 0..9 {
        let answer = scene.ask(&name(n, "dns"), RecordType::A).unwrap();
        let code = if n < 5 { ResponseCode::NoError } else { ResponseCode::Refused };
        assert_eq!(answer.metadata.response_code, code, "{n}");
        if n >= 5 {
            let (code, words) = extended(&answer).unwrap();
            assert_eq!(code, 18);
            assert!(words.starts_with("overload: "), "{words}");
        }
    }
    assert_eq!(asked_about(&mut scene, "dns-leak"), five("dns"));
    // One that is known is asked about as before.
    let known = scene.ask(&name(2, "dns"), RecordType::AAAA).unwrap();
    assert_eq!(known.metadata.response_code, ResponseCode::NoError);

    for n in 0..9 {
        let request =
            format!("CONNECT {0}:443 HTTP/1.1\r\nHost: {0}:443\r\n\r\n", name(n, "connect"));
        let ask =
            json!({"do": "send", "to": EXPLICIT, "hex": hex(request.as_bytes()), "enough": 12});
        let said = unhex(scene.client.ask(&ask)["received"].as_str().unwrap());
        let passed = said.starts_with(b"HTTP/1.1 200");
        assert_eq!(passed, n < 5, "{}", String::from_utf8_lossy(&said));
    }
    assert_eq!(asked_about(&mut scene, "connect-leak"), five("connect"));

    for n in 0..9 {
        let host = name(n, "socks");
        let length = u8::try_from(host.len()).unwrap();
        let request = [&[5, 1, 0, 3, length][..], host.as_bytes(), &443_u16.to_be_bytes()].concat();
        let ask = json!({"do": "send", "to": EXPLICIT, "hex": "050100", "enough": 2,
            "then": hex(&request), "patience_ms": 1_000});
        let said = unhex(scene.client.ask(&ask)["received"].as_str().unwrap());
        let reply = said.get(3).copied();
        assert_eq!(reply == Some(0), n < 5, "{said:?}");
    }
    assert_eq!(asked_about(&mut scene, "socks-leak"), five("socks"));

    for n in 0..9 {
        let hello = tls_hello(&name(n, "tls"));
        let ask = json!({"do": "send", "to": at(REFUSED[0], 443), "hex": hex(&hello), "enough": 1,
            "patience_ms": 500});
        scene.client.ask(&ask);
    }
    assert_eq!(asked_about(&mut scene, "tls-leak"), five("tls"));

    let lines = scene.gateway.stop();
    for (way, listener) in
        [("dns", "dns"), ("connect", "proxy"), ("socks", "proxy"), ("tls", "tproxy")]
    {
        let domain = format!(".{way}-leak.example");
        let refused: u64 = lines
            .iter()
            .filter(|it| it["host"].as_str().is_some_and(|host| host.ends_with(&domain)))
            .filter(|it| it["event"] == "refused" && it["listener"] == listener)
            .inspect(|it| assert_eq!(it["reason"], "overload", "{it}"))
            .map(|it| it["queries"].as_u64().unwrap_or(1))
            .sum();
        assert_eq!(refused, 4, "{way}");
    }
}

#[test]
fn l05_a_live_connection_stays_bound_as_it_was_dialled() {
    let Some(lab) = lab("l05") else { return };
    let rule = |action: &str| {
        format!(
            "
[[rule]]
name = \"by name\"
host = [\"*.turn.example\", \"turn.example\"]
action = \"{action}\"
reason = \"the name decides in these tests\"
"
        )
    };
    // No answer holds longer than it says itself, which is not at all.
    let policy = |action: &str, words: &str| {
        let more = format!("{SERVER_HERE}{}", rule(action));
        policy("", &more)
            .replace("[names]\n", "[names]\nremember = \"0s\"\n")
            .replace("reason = \"x\"", words)
    };
    let mut scene = Scene::under(&lab, &policy("allow", "reason = \"x\""));
    let hello = tls_hello("turn.example");
    let open = |scene: &mut Scene<'_>| {
        let ask = json!({"do": "crowd", "count": 1, "to": at(REFUSED[0], 443), "hex": hex(&hello),
            "patience_ms": 2_000});
        scene.client.ask(&ask)
    };
    open(&mut scene);
    lab::wait_until("it is let through", || {
        let opened = scene.gateway.records();
        opened.iter().any(|it| it["event"] == "open" && it["name_bound"] == true).then_some(())
    });
    // The name has other addresses by now. Nothing changed for the connection.
    scene.gateway.reload(&policy("allow", "reason = \"y\""));
    scene.gateway.reload(&policy("allow", "reason = \"x\""));
    let ended =
        |scene: &Scene<'_>| scene.gateway.records().into_iter().find(|it| it["event"] == "close");
    // Another connection to the address is none of the name's now, which also shows that time passed.
    open(&mut scene);
    lab::wait_until("the second one is refused", || {
        let refused = scene.gateway.records();
        refused
            .iter()
            .any(|it| it["reason"] == "mismatch" && it["event"] == "refused")
            .then_some(())
    });
    assert_eq!(ended(&scene), None);
    // The rule changed.
    scene.gateway.reload(&policy("block", "reason = \"x\""));
    let line = lab::wait_until("it ends", || ended(&scene));
    assert_eq!(
        (&line["end"], &line["reason"]),
        (&"policy-change".into(), &"rule".into()),
        "{line}"
    );
}

/// Names that decide, for clients of either way in, and the name servers of the host.
fn by_name(names: &str) -> String {
    let more = format!(
        "{SERVER_HERE}
[[rule]]
name = \"by name\"
host = [{names}]
action = \"allow\"
reason = \"the name decides in these tests\"

[[listen]]
mode = \"proxy\"
address = \"192.0.2.1:3128\"
"
    );
    policy("", &more)
}

impl Scene<'_> {
    /// Whether a CONNECT is answered with 200.
    fn connects(&mut self, host: &str) -> bool {
        let request = format!("CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n");
        let ask = json!({"do": "send", "to": "192.0.2.1:3128", "hex": hex(request.as_bytes()),
            "enough": 12});
        let said = unhex(self.client.ask(&ask)["received"].as_str().unwrap());
        said.starts_with(b"HTTP/1.1 200")
    }

    /// Whether a captured hello of this name arrives at an address.
    fn arrives(&mut self, host: &str, address: &str) -> bool {
        let before = self.world.arrived(address).1;
        let ask = json!({"do": "send", "to": at(address, 443), "hex": hex(&tls_hello(host)),
            "enough": 1});
        self.client.ask(&ask);
        self.world.arrived(address).1 > before
    }
}

#[test]
fn a05_a_name_of_which_one_family_is_never_heard_of_is_reached() {
    let Some(lab) = lab("a05") else { return };
    let mut scene = Scene::under(&lab, &by_name("\"four.example\", \"six.example\""));
    for (host, address) in [("four.example", REFUSED[0]), ("six.example", REFUSED[1])] {
        assert!(scene.connects(host), "{host}");
        assert!(scene.arrives(host, address), "{host}");
    }
    let refused = scene.gateway.records().into_iter().find(|it| it["verdict"] == "block");
    assert_eq!(refused, None);
}

#[test]
fn a06_a_lost_datagram_is_no_failure_and_localhost_is_never_asked_about() {
    let Some(lab) = lab("a06") else { return };
    let mut scene = Scene::start(&lab, "", SERVER_HERE);
    for kind in [RecordType::A, RecordType::AAAA] {
        let answer = scene.ask("lost.example.", kind).unwrap();
        assert_eq!(
            (answer.metadata.response_code, answer.answers.len()),
            (ResponseCode::NoError, 1)
        );
    }
    scene.world.ask(&json!("forget"));
    for (kind, address) in [(RecordType::A, "127.0.0.1"), (RecordType::AAAA, "::1")] {
        for name in ["localhost.", "x.LocalHost."] {
            assert_eq!(addresses(&scene.ask(name, kind).unwrap()), [address], "{name}");
        }
    }
    let none = scene.ask("localhost.", RecordType::MX).unwrap();
    assert_eq!((none.metadata.response_code, none.answers.len()), (ResponseCode::NoError, 0));
    assert_eq!((scene.asked(), scene.queries("local")), (Vec::new(), 5.0));
}

#[test]
fn a07_the_files_of_the_host_are_followed_and_every_address_of_a_name_is_its_own() {
    let Some(lab) = lab("a07") else { return };
    // Nobody answers there.
    let resolv = lab.write("resolv.conf", "nameserver 198.51.100.99\n");
    let hosts = lab.write("hosts", &format!("{} fixed.example\n", PERMITTED[0]));
    lab.gateway.shell(&format!("mount --bind {} /etc/hosts", hosts.display())).unwrap();
    let policy = by_name("\"many.example\"");
    let own = format!("resolvers = [\"{NAME_SERVER}:53\"]\n");
    let dns = format!("[dns]\nlisten = \"{HERE}\"\n");
    let mut scene = Scene::under(&lab, &policy.replace(&own, "").replace(&dns, ""));
    assert!(scene.connects("fixed.example"), "without any name server");
    assert!(!scene.connects("permitted.example"));
    std::fs::write(resolv, format!("nameserver {NAME_SERVER}\n")).unwrap();
    std::fs::write(hosts, format!("{} moved-here.example\n", PERMITTED[0])).unwrap();
    lab::wait_until("the new files are taken up", || {
        (scene.connects("permitted.example") && scene.connects("moved-here.example")).then_some(())
    });
    assert!(!scene.connects("fixed.example"), "it stands there no more");
    assert!(scene.arrives("many.example", REFUSED[0]), "the 69th address of the name");
}
