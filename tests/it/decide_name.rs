//! A name that is refused before it is resolved is refused at every address it could have.

use jiff::Timestamp;
use schengate::control::compile::Compiler;
use schengate::control::config;
use schengate::control::data::Sources;
use schengate::identify::{HostName, Protocol};
use schengate::policy::{Action, Claim, Outlook, Policy, Question, Reason, Transport};

const HEAD: &str = r#"
schema = 1
[policy]
mode = "enforce"
permit = ["*"]
[policy.on]
private = "allow"
unknown = "allow"
anycast = "allow"
[[group]]
name = "watched"
clients = ["10.9.0.0/16"]
mode = "observe"
[[operator]]
name = "afar"
host = ["*.afar.example"]
homes = ["US"]
[[operator]]
name = "google"
prefix = ["8.8.8.0/24"]
homes = ["US"]
[[operator]]
name = "ovh"
prefix = ["213.186.33.0/24"]
homes = ["FR"]
[[place]]
to = ["8.8.8.0/24", "52.95.110.0/24"]
location = ["US"]
reason = "x"
[[place]]
to = ["213.186.33.0/24", "2a01:4f8::/32"]
location = ["FR"]
reason = "x"
[[place]]
to = ["1.1.1.0/24", "2606:4700::/32"]
anycast = true
reason = "x"
"#;

/// Rules of every kind of condition; each test policy is some of them, in some order.
const RULES: [&str; 12] = [
    "host = [\"*.bad.example\"]\naction = \"block\"",
    "host = [\"*.bad.example\"]\nto = [\"8.8.8.0/24\"]\naction = \"allow\"",
    "host = [\"x.bad.example\"]\naction = \"allow\"",
    "host = [\"*.bad.example\"]\nlocation = [\"US\"]\naction = \"block\"",
    "host = [\"*.bad.example\"]\nport = [\"1-1023\"]\naction = \"block\"",
    "to = [\"8.8.8.0/24\", \"64:ff9b::/96\"]\naction = \"log\"",
    "operator = [\"afar\"]\naction = \"block\"",
    "law = [\"US\"]\naction = \"block\"",
    "operator = [\"google\"]\naction = \"allow\"",
    "from = [\"10.8.0.0/16\"]\naction = \"allow\"",
    "protocol = [\"http\"]\naction = \"block\"",
    "host = [\"*.bad.example\", \"*.afar.example\"]\ntransport = [\"tcp\"]\naction = \"block\"",
];

const NAMES: [&str; 5] =
    ["x.bad.example", "y.bad.example", "a.afar.example", "bad.example", "good.example"];

/// Every standing, embedded forms, several countries, operators, ports and anycast.
const ADDRESSES: [&str; 14] = [
    "8.8.8.8",
    "213.186.33.5",
    "10.0.0.1",
    "169.254.169.254",
    "192.0.2.7",
    "52.95.110.1",
    "1.1.1.1",
    "64:ff9b::808:808",
    "2002:808:808::1",
    "::ffff:8.8.8.8",
    "2a01:4f8::1",
    "2001:db8::1",
    "fd00::1",
    "2606:4700::1111",
];

fn compile(text: &str) -> Policy {
    let loaded = config::parse(text, None).unwrap_or_else(|faults| panic!("{faults}"));
    // Without tables, which take long to chart: the places and operators of `HEAD` are all there is.
    let now = Timestamp::now();
    Compiler::new(loaded.config, Sources::default(), text, Vec::new(), now).policy_at(now)
}

fn ask<'a>(
    client: &str,
    address: &str,
    port: u16,
    protocol: Protocol,
    name: Claim<'a>,
) -> Question<'a> {
    Question {
        client: Some(client.parse().expect("an address")),
        destination: (address.parse::<std::net::IpAddr>().expect("an address"), port).into(),
        transport: Transport::Tcp,
        protocol,
        name,
        ech: false,
    }
}

/// Some of the rules, drawn from `seed`, each at most once.
fn drawn(mut seed: u64) -> String {
    let mut text = HEAD.to_owned();
    let mut left: Vec<usize> = (0..RULES.len()).collect();
    for nth in 0..4 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let rule = left.remove((seed >> 33) as usize % left.len());
        text += &format!("[[rule]]\nname = \"r{nth}\"\nreason = \"x\"\n{}\n", RULES[rule]);
    }
    text
}

#[test]
fn a_name_server_refuses_what_every_port_and_protocol_refuses() {
    let of = |rules: &[usize]| {
        let rule = |&n: &usize| format!("[[rule]]\nname = \"r{n}\"\n{}\n", RULES[n]);
        format!("{HEAD}{}", rules.iter().map(rule).collect::<String>())
    };
    let client = Some("10.1.0.1".parse().unwrap());
    let name = HostName::parse(b"y.bad.example").unwrap();
    let ask = |ip: &str| Question {
        client,
        destination: std::net::SocketAddr::new(ip.parse().unwrap(), 443),
        transport: Transport::Tcp,
        protocol: Protocol::Tls,
        name: Claim::Bound(&name),
        ech: false,
    };
    // A block rule about the name; about its low ports; about TCP; about places.
    for (rules, by_name, by_address) in [
        (&[0][..], true, true),
        (&[4], false, false),
        (&[11], false, false),
        (&[3], false, true),
        (&[1, 0], false, false),
        (&[2, 0], true, true),
        (&[10, 4], false, false),
    ] {
        let policy = compile(&of(rules));
        let us = ask("8.8.8.8");
        assert_eq!(policy.refuses_name(&us).is_some(), by_name, "{rules:?}");
        let verdict = policy.refuses_address(&us);
        assert_eq!(verdict.is_some(), by_address, "{rules:?}");
        assert!(verdict.is_none_or(|verdict| verdict.reason() == Reason::Rule));
        let watched = Question { client: Some("10.9.0.1".parse().unwrap()), ..us };
        assert!(
            policy.refuses_name(&watched).is_none() && policy.refuses_address(&watched).is_none()
        );
    }
    let policy = compile(HEAD);
    assert!(policy.refuses_address(&ask("169.254.169.254")).is_some(), "a guard");
    assert!(policy.refuses_address(&ask("213.186.33.5")).is_none());
}

#[test]
fn what_is_refused_by_name_is_refused_at_every_address() {
    let mut refused = 0;
    for seed in 0..60 {
        let text = drawn(seed);
        let policy = compile(&text);
        for name in NAMES {
            let name = HostName::parse(name.as_bytes()).expect("a name");
            for client in ["10.7.0.1", "10.8.0.1", "10.9.0.1"] {
                for (port, protocol) in
                    [(443, Protocol::Tls), (80, Protocol::Http), (8443, Protocol::Tls)]
                {
                    let at = |address| ask(client, address, port, protocol, Claim::Bound(&name));
                    let Some(verdict) = policy.decide_name(&at("::")) else { continue };
                    refused += 1;
                    assert_eq!(verdict.action(), Action::Block);
                    for address in ADDRESSES {
                        let there = policy.decide(&at(address));
                        assert_eq!(
                            there.action(),
                            Action::Block,
                            "{name} from {client} at {address}:{port}, though {verdict:?}\n{text}"
                        );
                    }
                }
            }
        }
    }
    assert!(refused > 300, "the sample refuses by name often enough to say something: {refused}");
}

#[test]
fn a_claim_is_judged_once_where_it_comes_to_what_a_bound_name_comes_to() {
    // An operator is the address's own for sure where the name is bound, and else one that it may be.
    let own = "[[rule]]\nname = \"own\"\noperator = [\"afar\"]\naction = \"log\"\nreason = \"x\"\n";
    let (mut once, mut twice) = (0, 0);
    for seed in 0..120 {
        let text = drawn(seed) + own;
        let policy = compile(&text);
        for name in NAMES {
            let name = HostName::parse(name.as_bytes()).expect("a name");
            for client in ["10.7.0.1", "10.8.0.1", "10.9.0.1"] {
                for (port, protocol) in [(443, Protocol::Tls), (80, Protocol::Http)] {
                    for address in ADDRESSES {
                        let of =
                            |claim| policy.decide(&ask(client, address, port, protocol, claim));
                        let (bound, claimed) = (of(Claim::Bound(&name)), of(Claim::Claimed(&name)));
                        let claim = ask(client, address, port, protocol, Claim::Claimed(&name));
                        let (verdict, hangs) = policy.decide_claimed(&claim);
                        let told = format!("{name} from {client} at {address}:{port}\n{text}");
                        assert_eq!(verdict, claimed, "{told}");
                        assert!(hangs || verdict == bound, "{told}");
                        once += u32::from(!hangs);
                        twice += u32::from(verdict != bound);
                    }
                }
            }
        }
    }
    println!("{once} were settled by one question, of {twice} the binding turns the answer");
    assert!(once > 10_000 && twice > 1_000, "{once}, {twice}");
}

/// What a policy of [`HEAD`] and these rules says about a name before it is resolved.
fn before(rules: &str, client: &str, name: &str) -> Option<(Reason, Option<String>)> {
    let policy = compile(&format!("{HEAD}{rules}"));
    let name = HostName::parse(name.as_bytes()).expect("a name");
    let verdict =
        policy.decide_name(&ask(client, "::", 443, Protocol::Tls, Claim::Bound(&name)))?;
    let rule = verdict.rule().map(|rule| policy.rule_name(rule).to_owned());
    Some((verdict.reason(), rule))
}

const BLOCK: &str = "[[rule]]\nname = \"no\"\nhost = [\"*.bad.example\"]\naction = \"block\"\n";

#[test]
fn a_block_rule_about_the_name_alone_refuses_it() {
    let no = Some((Reason::Rule, Some("no".to_owned())));
    assert_eq!(before(BLOCK, "10.7.0.1", "y.bad.example"), no);
    assert_eq!(before(BLOCK, "10.7.0.1", "bad.example"), None);
    assert_eq!(before(BLOCK, "10.9.0.1", "y.bad.example"), None, "observe refuses nothing");
}

#[test]
fn an_allow_rule_about_some_address_before_it_leaves_it_open() {
    let allow =
        "[[rule]]\nname = \"some\"\nto = [\"8.8.8.0/24\"]\naction = \"allow\"\nreason = \"x\"\n";
    assert_eq!(before(&format!("{allow}{BLOCK}"), "10.7.0.1", "y.bad.example"), None);
    let no = Some((Reason::Rule, Some("no".to_owned())));
    assert_eq!(before(&format!("{BLOCK}{allow}"), "10.7.0.1", "y.bad.example"), no);
}

#[test]
fn a_law_that_reaches_the_names_own_operator_refuses_it_where_private_space_is_refused_too() {
    let foreign = |private: &str| {
        let head = HEAD
            .replace("permit = [\"*\"]", "permit = [\"*\"]\npermit_law = [\"eea\"]")
            .replace("private = \"allow\"", &format!("private = \"{private}\""));
        let policy = compile(&head);
        let name = HostName::parse(b"a.afar.example").expect("a name");
        let asked = ask("10.7.0.1", "::", 443, Protocol::Tls, Claim::Bound(&name));
        policy.decide_name(&asked).map(|verdict| verdict.reason())
    };
    assert_eq!(foreign("block"), Some(Reason::Law));
    assert_eq!(foreign("allow"), None, "the name may have a private address");
}

#[test]
fn a_name_brings_the_law_of_who_answers_to_it_along() {
    let head = HEAD
        .replace("permit = [\"*\"]", "permit = [\"*\"]\npermit_law = [\"eea\"]")
        .replace("private = \"allow\"", "private = \"block\"\noperator = \"allow\"");
    let own = "[[operator]]\nname = \"ours\"\nhost = [\"eu.datadoghq.com\"]\nhomes = [\"DE\"]\n";
    let rule = "[[rule]]\nname = \"us\"\nlaw = [\"US\"]\naction = \"block\"\n";
    let fr = "213.186.33.5";
    let reason = |text: &str, claim: Claim<'_>| {
        compile(text).decide(&ask("10.7.0.1", fr, 443, Protocol::Tls, claim)).reason()
    };
    let [app, eu, plain] = ["app.datadoghq.com", "eu.datadoghq.com", "x.example"]
        .map(|name| HostName::parse(name.as_bytes()).expect("a name"));
    for claim in [Claim::Claimed(&app), Claim::Bound(&app)] {
        assert_eq!(reason(&head, claim), Reason::Law);
        assert_eq!(reason(&format!("{head}{rule}"), claim), Reason::Rule);
    }
    assert_eq!(reason(&head, Claim::Malformed(&[app])), Reason::Malformed);
    // Where malformed bytes are judged on, the names that were read are, and so is their law.
    let lenient = head.replace("[policy.on]", "[policy.on]\nmalformed = \"allow\"");
    assert_eq!(reason(&lenient, Claim::Malformed(&[app])), Reason::Law);
    assert_eq!(reason(&lenient, Claim::Malformed(&[plain])), Reason::Permitted);
    assert_eq!(reason(&head, Claim::Bound(&plain)), Reason::Permitted);
    assert_eq!(reason(&head, Claim::Unread), Reason::Permitted);
    // An operator of the policy that is bound says all there is to say; a claim takes nothing away.
    let head = head.replace("[[group]]", &format!("{own}[[group]]"));
    assert_eq!(reason(&head, Claim::Bound(&eu)), Reason::Permitted);
    assert_eq!(reason(&head, Claim::Claimed(&eu)), Reason::Law);
    // Whatever address it has, so that it needs not be resolved.
    let policy = compile(&head);
    let early = |name: &HostName| {
        let asked = ask("10.7.0.1", "::", 443, Protocol::Tls, Claim::Bound(name));
        policy.decide_name(&asked).map(|verdict| verdict.reason())
    };
    assert_eq!(early(&app), Some(Reason::Law));
    assert_eq!((early(&eu), early(&plain)), (None, None));
}

#[test]
fn a_law_that_a_name_may_bring_along_keeps_no_server_from_speaking_first() {
    let head = HEAD.replace("private", "operator = \"allow\"\nprivate");
    let law = |law: &str| head.replace("permit = [\"*\"]", &format!("permit = [\"*\"]\n{law}"));
    let outlook = |text: &str, to: &str| {
        // Without hosts of operators, which leave it open whatever the law.
        let text = text.replace("host = [\"*.afar.example\"]", "prefix = [\"192.0.2.0/24\"]");
        let policy = compile(&text);
        let asked = ask("10.7.0.1", to, 25, Protocol::Other, Claim::Unread);
        (policy.outlook(&asked), policy.decide_unread(&asked).is_some())
    };
    let (fr, us) = ("213.186.33.5", "8.8.8.8");
    let eea = law("permit_law = [\"eea\"]");
    assert!(matches!(outlook(&head, fr), (Outlook::Settled(_), true)), "no law is judged");
    assert!(matches!(outlook(&eea, fr), (Outlook::Unless(_), false)));
    assert!(matches!(outlook(&eea, us), (Outlook::Settled(_), true)), "refused in any case");
    let everywhere = law("permit_law = [\"*\"]");
    assert!(matches!(outlook(&everywhere, fr), (Outlook::Settled(_), true)), "none is foreign");
    let rule = |action: &str, law: &str| {
        format!(
            "{head}[[rule]]\nname = \"l\"\nlaw = [{law}]\nreason = \"x\"\naction = \"{action}\"\n"
        )
    };
    assert!(matches!(outlook(&rule("block", "\"US\""), fr), (Outlook::Unless(_), false)));
    // A name may take an address out of a rule that logs it, and so open it further.
    assert!(matches!(outlook(&rule("log", "\"FR\""), fr), (Outlook::Open, false)));
}
