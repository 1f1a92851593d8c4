//! What a reload widens is what a scan of both policies finds, and nothing else.

use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;
use proptest::prelude::*;
use schengate::control::compile::Compiler;
use schengate::control::config::{self, Config};
use schengate::control::data::Sources;
use schengate::control::reload::widened;
use schengate::identify::{HostName, Protocol};
use schengate::policy::{
    Action, Claim, Country, CountrySet, Host, Policy, Question, Transport, Widened,
};

const HEAD: &str = r#"
schema = 1
[policy]
mode = "enforce"
permit = ["FR"]
[audit]
directory = "/nowhere"
[[group]]
name = "watched"
clients = ["10.9.0.0/16"]
permit = ["FR", "US"]
[[operator]]
name = "google"
prefix = ["8.8.8.0/24"]
homes = ["US"]
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

/// Rules of every kind of condition; each policy has some of them, in their order.
const RULES: [&str; 14] = [
    "host = [\"*.bad.example\"]\naction = \"block\"",
    "host = [\"*.bad.example\"]\nto = [\"8.8.8.0/24\"]\naction = \"allow\"",
    "host = [\"x.bad.example\"]\naction = \"allow\"",
    "host = [\"good.example\"]\nport = [443]\naction = \"allow\"",
    "host = [\"*.bad.example\"]\nport = [\"1-1023\"]\naction = \"block\"",
    "to = [\"8.8.8.0/25\"]\naction = \"log\"",
    "to = [\"52.95.110.7/32\", \"2606:4700:7::/48\"]\naction = \"allow\"",
    "law = [\"US\"]\naction = \"block\"",
    "operator = [\"google\"]\naction = \"allow\"",
    "from = [\"10.8.0.0/16\"]\naction = \"allow\"",
    "location = [\"US\"]\nport = [\"8000-9000\"]\ntransport = [\"udp\"]\naction = \"allow\"",
    "protocol = [\"http\"]\naction = \"allow\"",
    "from = [\"watched\"]\nto = [\"213.186.33.0/24\"]\naction = \"block\"",
    "action = \"block\"\nto = [\"52.95.0.0/16\"]",
];

const CLIENTS: [&str; 4] = ["10.9.0.1", "10.8.255.255", "10.7.0.1", "2001:db8::1"];
const DESTINATIONS: [&str; 12] = [
    "8.8.8.8",
    "8.8.8.200",
    "8.8.9.1",
    "52.95.110.7",
    "52.95.110.8",
    "52.95.111.1",
    "213.186.33.5",
    "1.1.1.1",
    "192.0.2.1",
    "2a01:4f8::1",
    "2606:4700:7::1",
    "2606:4700:8::1",
];
const PORTS: [u16; 6] = [80, 443, 1023, 1024, 8443, 9001];
const NAMES: [&str; 4] = ["x.bad.example", "y.bad.example", "good.example", "other.example"];

fn policy(chosen: &[usize]) -> (Config, Policy) {
    let mut text = HEAD.to_owned();
    for number in chosen {
        let rule = RULES[*number];
        text += &format!("[[rule]]\nname = \"rule {number}\"\nreason = \"x\"\n{rule}\n");
    }
    let now = Timestamp::now();
    let loaded = config::parse(&text, None).unwrap_or_else(|faults| panic!("{faults:?}\n{text}"));
    let compiler = Compiler::new(loaded.config, Sources::default(), &text, Vec::new(), now);
    let policy = compiler.policy_at(now);
    (compiler.config().clone(), policy)
}

/// Whether a row is about a name that is asked like this.
fn is_of(host: &Host, name: Claim<'_>) -> bool {
    let below = |pattern: &str, name: &HostName| match pattern.strip_prefix("*.") {
        Some(above) => name.as_str().ends_with(&format!(".{above}")),
        None => name.as_str() == pattern,
    };
    match (host, name) {
        (Host::Any, _) | (Host::Unread, Claim::Unread) => true,
        (Host::Unnamed, Claim::Bound(_) | Claim::Claimed(_)) => true,
        (Host::Pattern(pattern), Claim::Bound(name) | Claim::Claimed(name))
        | (Host::Claimed(pattern), Claim::Claimed(name)) => below(pattern, name),
        _ => false,
    }
}

fn agree(one: &[usize], other: &[usize]) -> Result<(), TestCaseError> {
    let ((old_config, old), (new_config, new)) = (policy(one), policy(other));
    let told = widened((&old_config, &old), (&new_config, &new));
    prop_assert_eq!(told.inexact, None);
    let names: Vec<HostName> =
        NAMES.iter().map(|name| HostName::parse(name.as_bytes()).unwrap()).collect();
    let mut found = 0;
    for (client, destination) in
        CLIENTS.iter().flat_map(|client| DESTINATIONS.iter().map(move |to| (client, to)))
    {
        let (client, ip): (IpAddr, IpAddr) =
            (client.parse().unwrap(), destination.parse().unwrap());
        let place = new.address_info(ip);
        for port in PORTS {
            for (transport, protocol) in [
                (Transport::Tcp, Protocol::Tls),
                (Transport::Tcp, Protocol::Http),
                (Transport::Tcp, Protocol::Other),
                (Transport::Udp, Protocol::Quic),
                (Transport::Udp, Protocol::Other),
            ] {
                let claims =
                    names.iter().flat_map(|name| [Claim::Bound(name), Claim::Claimed(name)]);
                for name in claims.chain([Claim::Unread]) {
                    let question = Question {
                        client: Some(client),
                        destination: SocketAddr::new(ip, port),
                        transport,
                        protocol,
                        name,
                        ech: false,
                    };
                    let (before, now) = (old.decide(&question), new.decide(&question));
                    if before.action() != Action::Block || now.action() == Action::Block {
                        continue;
                    }
                    found += 1;
                    let is_told = |row: &&Widened| {
                        row.group == new.group_name(now.group())
                            && row.transport == transport
                            && row.ports.iter().any(|ports| ports.contains(&port))
                            && (row.codes, row.anycast) == (place.codes, place.anycast)
                            && row.operator == place.operator.unwrap_or_default()
                            && is_of(&row.host, name)
                    };
                    let row = told.widened.iter().find(is_told);
                    prop_assert!(row.is_some(), "{:?} is not in {:?}", question, told.widened);
                }
            }
        }
    }
    // Each row has addresses, and nothing is told where nothing is widened.
    prop_assert!(told.widened.iter().all(|row| row.v4 + row.v6_networks > 0));
    prop_assert!(found > 0 || told.widened.iter().all(|row| !is_scanned(row)), "{:?}", told);
    Ok(())
}

/// Whether the scan would have seen what a row tells.
fn is_scanned(row: &Widened) -> bool {
    let has_port = PORTS.iter().any(|port| row.ports.iter().any(|ports| ports.contains(port)));
    let seen = ["FR", "US"].map(|code| countries(&[code]));
    has_port && seen.contains(&row.codes) && matches!(row.host, Host::Any | Host::Unread)
}

fn countries(codes: &[&str]) -> CountrySet {
    codes.iter().filter_map(|code| Country::from_code(code)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn everything_that_a_scan_finds_widened_is_told(
        one in proptest::sample::subsequence((0..RULES.len()).collect::<Vec<_>>(), 0..6),
        other in proptest::sample::subsequence((0..RULES.len()).collect::<Vec<_>>(), 0..6),
    ) {
        agree(&one, &other)?;
    }
}

#[test]
fn a_policy_widens_nothing_against_itself_and_says_what_a_rule_opens() {
    let (config, same) = policy(&[0, 5, 8]);
    assert_eq!(widened((&config, &same), (&config, &same)).widened, []);
    let ((old_config, old), (new_config, new)) = (policy(&[]), policy(&[6]));
    let told = widened((&old_config, &old), (&new_config, &new));
    let of_rule: Vec<_> = told.widened.iter().filter(|row| row.group == "default").collect();
    assert_eq!(of_rule.len(), 4, "two places, over TCP and UDP: {:?}", told.widened);
    for row in of_rule {
        assert_eq!((&row.host, row.rule.as_deref()), (&Host::Any, Some("rule 6")), "{row:?}");
        assert_eq!(row.ports, [0..=65535]);
        if row.anycast {
            assert_eq!((row.v4, row.v6_networks), (0, 1 << 16));
        } else {
            assert_eq!((row.v4, row.v6_networks, row.codes), (1, 0, countries(&["US"])));
        }
    }
    // The other way round nothing is let go that was refused.
    assert_eq!(widened((&new_config, &new), (&old_config, &old)).widened, []);
    let without = HEAD.replace("[audit]\ndirectory = \"/nowhere\"", "");
    let loaded = config::parse(&without, None).unwrap();
    let now = Timestamp::now();
    let compiler = Compiler::new(loaded.config, Sources::default(), &without, Vec::new(), now);
    let lean = compiler.policy_at(now);
    let told = widened((compiler.config(), &lean), (&new_config, &new));
    assert!(told.inexact.is_some_and(|why| why.contains("ranges")), "{told:?}");
}
