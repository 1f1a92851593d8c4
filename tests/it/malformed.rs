//! The cause `malformed`, and what a name may still change: by policies drawn at random and by hand.

use jiff::Timestamp;
use schengate::control::compile::Compiler;
use schengate::control::config;
use schengate::control::data::Sources;
use schengate::identify::{HostName, Protocol};
use schengate::policy::{
    Action, Claim, Mode, Outlook, Policy, Question, Reason, Transport, Verdict,
};

const HEAD: &str = r#"
schema = 1
[policy]
mode = "enforce"
permit = ["eea"]
[[place]]
to = ["213.186.33.0/24"]
location = ["FR"]
reason = "x"
[[place]]
to = ["8.8.8.0/24"]
location = ["US"]
reason = "x"
[[group]]
name = "watched"
clients = ["10.9.0.0/16"]
mode = "observe"
"#;

const RULES: [&str; 14] = [
    "host = [\"*.bad.example\"]\naction = \"block\"",
    "host = [\"x.bad.example\"]\naction = \"allow\"",
    "host = [\"y.bad.example\"]\nport = [443]\naction = \"allow\"",
    "host = [\"good.example\"]\naction = \"log\"",
    "host = [\"good.example\"]\nprotocol = [\"http\"]\naction = \"block\"",
    "host = [\"good.example\"]\nlocation = [\"US\"]\naction = \"block\"",
    "to = [\"8.8.8.0/24\"]\naction = \"log\"",
    "to = [\"213.186.33.0/24\"]\nport = [443]\naction = \"allow\"",
    "protocol = [\"http\"]\naction = \"block\"",
    "protocol = [\"tls\", \"other\"]\naction = \"allow\"",
    "operator = [\"afar\"]\naction = \"block\"",
    "from = [\"10.8.0.0/16\"]\naction = \"allow\"",
    "law = [\"US\"]\naction = \"block\"",
    "law = [\"FR\"]\naction = \"log\"",
];

const OPERATOR: &str =
    "[[operator]]\nname = \"afar\"\nhost = [\"*.afar.example\"]\nhomes = [\"US\"]\n";

const NAMES: [&str; 6] = [
    "x.bad.example",
    "y.bad.example",
    "a.afar.example",
    "good.example",
    "other.example",
    "app.datadoghq.com",
];

fn compile(text: &str) -> Policy {
    let loaded = config::parse(text, None).unwrap_or_else(|faults| panic!("{faults}\n{text}"));
    // Without tables, which take long to chart: the places and operators here are all there is.
    let now = Timestamp::now();
    Compiler::new(loaded.config, Sources::default(), text, Vec::new(), now).policy_at(now)
}

fn ask<'a>(client: &str, to: &str, protocol: Protocol, name: Claim<'a>) -> Question<'a> {
    Question {
        client: Some(client.parse().expect("an address")),
        destination: to.parse().expect("an address and a port"),
        transport: Transport::Tcp,
        protocol,
        name,
        ech: false,
    }
}

fn host(name: &str) -> HostName {
    HostName::parse(name.as_bytes()).expect("a name")
}

/// The policy that `seed` draws: some rules, each at most once, and what the causes lead to.
fn drawn(mut seed: u64) -> String {
    let mut draw = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    let mut text = HEAD.to_owned();
    let unread = ["judge", "judge", "log", "block"][draw(4)];
    let [mismatch, malformed] = [(); 2].map(|()| ["allow", "log", "block"][draw(3)]);
    text += &format!("[policy.on]\nunread = \"{unread}\"\nmismatch = \"{mismatch}\"\n");
    text += &format!("malformed = \"{malformed}\"\n");
    if draw(3) == 0 {
        text += OPERATOR;
        text = text.replace("permit = [\"eea\"]\n", "permit = [\"eea\"]\npermit_law = [\"eea\"]\n");
    }
    let mut left: Vec<usize> = (0..RULES.len()).collect();
    for nth in 0..draw(4) {
        let rule = left.remove(draw(left.len()));
        if RULES[rule].contains("afar") && !text.contains("afar") {
            continue;
        }
        text += &format!("[[rule]]\nname = \"r{nth}\"\nreason = \"x\"\n{}\n", RULES[rule]);
    }
    text
}

/// What `enforce` does.
fn enforced(verdict: &Verdict) -> Action {
    verdict.would().unwrap_or_else(|| verdict.action())
}

const CLIENTS: [&str; 3] = ["10.7.0.1", "10.8.0.1", "10.9.0.1"];
const PLACES: [&str; 4] = ["8.8.8.8:443", "8.8.8.8:25", "213.186.33.5:443", "213.186.33.5:25"];

#[test]
fn what_is_settled_before_a_byte_is_settled_for_every_name_and_protocol() {
    let names = NAMES.map(host);
    let (mut settled, mut unless, mut open) = (0, 0, 0);
    for seed in 0..400 {
        let text = drawn(seed);
        let policy = compile(&text);
        for client in CLIENTS {
            for to in PLACES {
                let silent = ask(client, to, Protocol::Other, Claim::Unread);
                let outlook = policy.outlook(&silent);
                let (verdict, mismatch) = match outlook {
                    Outlook::Settled(verdict) => (verdict, false),
                    Outlook::Unless(verdict) => (verdict, true),
                    Outlook::Open => {
                        open += 1;
                        continue;
                    }
                };
                assert_eq!(verdict, policy.decide(&silent), "{text}");
                settled += usize::from(!mismatch);
                unless += usize::from(mismatch);
                let claims = names
                    .iter()
                    .flat_map(|name| [Claim::Claimed(name), Claim::Bound(name)])
                    .chain([Claim::Unread, Claim::Malformed(&[])]);
                for claim in claims {
                    for protocol in [Protocol::Tls, Protocol::Http, Protocol::Other] {
                        let later = policy.decide(&ask(client, to, protocol, claim));
                        let same = enforced(&later) == enforced(&verdict);
                        assert!(
                            // A name is refused elsewhere, or for the law that it brings along; it
                            // never opens.
                            same || mismatch
                                && (later.reason() == Reason::Mismatch
                                    || enforced(&later) > enforced(&verdict)),
                            "{claim:?} {protocol:?} to {to} from {client}: {later:?}, but \
                             {outlook:?}\n{text}"
                        );
                    }
                }
            }
        }
    }
    assert!(settled > 300 && unless > 80 && open > 500, "{settled} {unless} {open}");
}

#[test]
fn malformed_bytes_are_weighed_exactly_where_a_name_could_change_the_answer() {
    let names = NAMES.map(host);
    let mut weighed = 0;
    for seed in 0..400 {
        let text = drawn(seed);
        let policy = compile(&text);
        let leads_to = ["allow", "log", "block"]
            .into_iter()
            .find(|action| text.contains(&format!("malformed = \"{action}\"")));
        for client in CLIENTS {
            for to in PLACES {
                for protocol in [Protocol::Tls, Protocol::Http] {
                    let of = |claim| policy.decide(&ask(client, to, protocol, claim));
                    let malformed = of(Claim::Malformed(&[]));
                    let unread = of(Claim::Unread);
                    let turned = names
                        .iter()
                        .flat_map(|name| [Claim::Claimed(name), Claim::Bound(name)])
                        .map(of)
                        .filter(|named| named.reason() != Reason::Mismatch)
                        .any(|named| enforced(&named) != enforced(&unread));
                    let case = format!("{protocol:?} to {to} from {client}\n{text}");
                    match leads_to {
                        Some("allow") => assert_eq!(malformed, unread, "{case}"),
                        Some("log") => {
                            assert!(enforced(&malformed) >= enforced(&unread), "{case}");
                        }
                        _ if turned => {
                            weighed += 1;
                            assert_eq!(enforced(&malformed), Action::Block, "{case}");
                            assert_eq!(malformed.reason(), Reason::Malformed, "{case}");
                        }
                        _ => assert!(
                            malformed == unread || malformed.reason() == Reason::Malformed,
                            "{case}"
                        ),
                    }
                    let watched = malformed.mode() == Mode::Observe;
                    assert!(!watched || malformed.action() != Action::Block, "{case}");
                }
            }
        }
    }
    assert!(weighed > 300, "{weighed}");
}

const BLOCK: &str = "[[rule]]\nname = \"no\"\nhost = [\"*.bad.example\"]\naction = \"block\"\n";
const ALLOW: &str =
    "[[rule]]\nname = \"yes\"\nhost = [\"good.example\"]\naction = \"allow\"\nreason = \"x\"\n";

fn answer(on: &str, rules: &str, to: &str, names: &[&str]) -> (Action, Reason) {
    let policy = compile(&format!("{HEAD}[policy.on]\n{on}\n{rules}"));
    let names: Vec<HostName> = names.iter().map(|name| host(name)).collect();
    let verdict = policy.decide(&ask("10.7.0.1", to, Protocol::Tls, Claim::Malformed(&names)));
    (verdict.action(), verdict.reason())
}

#[test]
fn malformed_is_refused_by_default_and_let_go_or_noted_where_the_file_says_so() {
    let here = "213.186.33.5:443";
    let of = |on: &str| answer(on, BLOCK, here, &[]);
    assert_eq!(of(""), (Action::Block, Reason::Malformed));
    assert_eq!(of("malformed = \"log\""), (Action::Log, Reason::Malformed));
    assert_eq!(of("malformed = \"allow\""), (Action::Allow, Reason::Permitted));
    assert_eq!(
        of("malformed = \"allow\"\nunread = \"block\""),
        (Action::Block, Reason::Unread),
        "`allow` makes of it what `unread` does"
    );
    assert_eq!(answer("", "", here, &[]), (Action::Allow, Reason::Permitted), "no name matters");
    assert_eq!(answer("", BLOCK, "8.8.8.8:443", &[]), (Action::Block, Reason::Outside));
    assert_eq!(
        answer("", ALLOW, here, &[]),
        (Action::Allow, Reason::Permitted),
        "a rule that allows what is permitted anyway turns nothing"
    );
    assert_eq!(answer("", ALLOW, "8.8.8.8:443", &[]), (Action::Block, Reason::Malformed));
}

#[test]
fn of_names_that_contradict_each_other_a_block_rule_matches_on_either() {
    let here = "213.186.33.5:443";
    for on in ["malformed = \"allow\"", "malformed = \"log\""] {
        for names in [["x.bad.example", "ok.example"], ["ok.example", "x.bad.example"]] {
            assert_eq!(answer(on, BLOCK, here, &names), (Action::Block, Reason::Rule), "{on}");
        }
    }
    let both = format!("{ALLOW}{BLOCK}");
    let names = ["good.example", "x.bad.example"];
    let allow = "malformed = \"allow\"";
    assert_eq!(answer(allow, &both, here, &names), (Action::Block, Reason::Rule));
    assert_eq!(answer(allow, ALLOW, "8.8.8.8:443", &names), (Action::Block, Reason::Outside));
    let law = "permit_law = [\"eea\"]";
    let text = format!("{HEAD}[policy.on]\n{allow}\noperator = \"allow\"\n{OPERATOR}")
        .replace("permit = [\"eea\"]\n", &format!("permit = [\"eea\"]\n{law}\n"));
    let (policy, names) = (compile(&text), ["ok.example", "a.afar.example"].map(host));
    let verdict = policy.decide(&ask("10.7.0.1", here, Protocol::Tls, Claim::Malformed(&names)));
    assert_eq!((verdict.action(), verdict.reason()), (Action::Block, Reason::Law));
}

#[test]
fn what_may_still_become_http_is_taken_for_the_strictest_that_it_may_be() {
    let http = "[[rule]]\nname = \"no\"\nprotocol = [\"http\"]\naction = \"block\"\n";
    let policy = compile(&format!("{HEAD}{http}"));
    let of = |protocol, claim| policy.decide(&ask("10.7.0.1", "213.186.33.5:80", protocol, claim));
    let doubt = of(Protocol::Other, Claim::Malformed(&[]));
    assert_eq!((doubt.action(), doubt.reason()), (Action::Block, Reason::Rule));
    assert_eq!(of(Protocol::Other, Claim::Unread).action(), Action::Allow, "surely another one");
}
