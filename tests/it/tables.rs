//! The tables as a whole: against the ranges they were made of, against a list of their limits, and
//! while they are swapped under those who read them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use jiff::Timestamp;
use schengate::control::compile::Compiler;
use schengate::control::data::{Located, embedded_country};
use schengate::control::{config, data};
use schengate::identify::{HostName, Protocol};
use schengate::policy::{
    Action, Claim, IpTable, Live, Memory, Policy, Question, RuleId, Transport,
};

fn compiled(text: &str) -> Policy {
    let loaded = config::parse(text, None).unwrap_or_else(|faults| panic!("{faults}"));
    let sources = data::load(&loaded.config.data).expect("embedded tables");
    let now = Timestamp::now();
    Compiler::new(loaded.config, sources, text, Vec::new(), now).policy_at(now)
}

fn question(name: &HostName) -> Question<'_> {
    Question {
        client: Some(IpAddr::V4(Ipv4Addr::new(10, 40, 3, 9))),
        destination: (Ipv4Addr::new(213, 186, 33, 5), 443).into(),
        transport: Transport::Tcp,
        protocol: Protocol::Tls,
        name: Claim::Bound(name),
        ech: false,
    }
}

/// Ranges as starts, a 0 where a gap begins.
fn starts<A: Copy + PartialEq>(
    ranges: &[(A, A, Located)],
    next: impl Fn(A) -> Option<A>,
) -> Vec<(A, u32)> {
    let mut starts: Vec<(A, u32)> = Vec::new();
    for &(first, last, said) in ranges {
        starts.pop_if(|gap| gap.0 == first);
        starts.push((first, number(Some(said))));
        starts.extend(next(last).map(|gap| (gap, 0)));
    }
    starts
}

fn number(said: Option<Located>) -> u32 {
    match said {
        None => 0,
        Some(Located::Anycast) => 1,
        Some(Located::Country(country)) => country.index() as u32 + 2,
    }
}

#[test]
fn every_edge_of_the_embedded_country_table_and_one_step_outside_is_answered_as_it_says() {
    let ranges = embedded_country().expect("the embedded table").ranges;
    let v4 = starts(&ranges.v4, |last| last.checked_add(1));
    let v6 = starts(&ranges.v6, |last| last.checked_add(1));
    let tables = [Memory::Fast, Memory::Compact].map(|memory| IpTable::build(&v4, &v6, memory));
    let v4 = ranges.v4.iter().flat_map(|&(first, last, _)| {
        [first.wrapping_sub(1), first, last, last.wrapping_add(1)].map(Ipv4Addr::from_bits)
    });
    let v6 = ranges.v6.iter().flat_map(|&(first, last, _)| {
        [first.wrapping_sub(1), first, last, last.wrapping_add(1)].map(Ipv6Addr::from_bits)
    });
    let mut asked = 0;
    for address in v4.map(IpAddr::V4).chain(v6.map(IpAddr::V6)) {
        // `lookup` takes a mapped address for the IPv4 one; the table is asked after that is done.
        if address.to_canonical() == address {
            for table in &tables {
                assert_eq!(table.value(address), number(ranges.lookup(address)), "{address}");
            }
            asked += 1;
        }
    }
    assert!(asked > 2_000_000, "{asked}");
}

#[test]
fn a_compact_policy_judges_as_a_fast_one_does_in_less_memory() {
    let head = "schema = 1\n[policy]\npermit = [\"eea\"]\n";
    let of = |memory: &str| compiled(&format!("{head}[data]\n{memory}\n"));
    let [left_out, fast, compact] =
        ["max_age = \"90d\"", "memory = \"fast\"", "memory = \"compact\""].map(of);
    assert_eq!(left_out.bytes(), fast.bytes());
    assert!(fast.bytes() < 64 << 20, "{}", fast.bytes());
    assert!(compact.bytes() < 16 << 20, "{}", compact.bytes());
    let name = HostName::parse(b"www.example.eu").expect("a name");
    for n in 0..20_000_u32 {
        let destination = (Ipv4Addr::from_bits(n.wrapping_mul(0x9e37_79b9)), 443).into();
        let asked = Question { destination, ..question(&name) };
        assert_eq!(compact.decide(&asked), fast.decide(&asked), "{destination}");
    }
    let faults = config::parse(&format!("{head}[data]\nmemory = \"small\""), None).unwrap_err();
    assert!(faults.to_string().contains("write \"fast\" or \"compact\""), "{faults}");
}

/// A policy in which each part of a verdict says which one it is.
fn generation(letter: char, action: &str) -> Policy {
    compiled(&format!(
        "schema = 1\n[policy]\npermit = [\"FR\"]\n[[group]]\nname = \"g{letter}\"\n\
         clients = [\"10.40.0.0/16\"]\npermit = [\"FR\"]\n[[rule]]\nname = \"r{letter}\"\n\
         host = [\"*.example.eu\"]\naction = \"{action}\"\nbasis = \"x\"\n"
    ))
}

#[test]
fn a_verdict_is_of_one_generation_while_policies_are_swapped() {
    let policies = [generation('a', "allow"), generation('b', "block")].map(Arc::new);
    let live = Live::new(Arc::clone(&policies[0]), None);
    let name = HostName::parse(b"www.example.eu").expect("a name");
    let done = AtomicBool::new(false);
    // A bit for each generation that each reader has seen.
    let seen = [AtomicU32::new(0), AtomicU32::new(0)];
    std::thread::scope(|scope| {
        for seen in &seen {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let policy = live.load(0).expect("a policy in force");
                    let verdict = policy.decide(&question(&name));
                    let rule = policy.rule_name(verdict.rule().expect("a rule"));
                    let group = policy.group_name(verdict.group());
                    let said = (rule, group, verdict.action());
                    let first = said == ("ra", "ga", Action::Allow);
                    assert!(first || said == ("rb", "gb", Action::Block), "{said:?}");
                    assert_eq!(Arc::ptr_eq(&policy, &policies[0]), first);
                    seen.fetch_or(if first { 1 } else { 2 }, Ordering::Relaxed);
                }
            });
        }
        // Until both readers have met both, which a swap that nobody sees would never reach.
        for turn in 0..20_000_000_usize {
            live.publish(Arc::clone(&policies[turn % 2]), None);
            std::thread::yield_now();
            let met = |seen: &AtomicU32| seen.load(Ordering::Relaxed) == 3;
            if turn > 1_000 && seen.iter().all(met) {
                break;
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(seen.iter().all(|seen| seen.load(Ordering::Relaxed) == 3), "{seen:?}");
}

#[test]
fn a_host_file_of_more_names_than_a_rule_once_could_have_is_judged_by() {
    let directory = tempfile::tempdir().expect("a directory");
    let names: String = (0..300_000)
        .map(|n| format!("{}n{n}.of.example.eu\n", if n % 3 == 0 { "*." } else { "" }))
        .collect();
    std::fs::write(directory.path().join("hosts"), names).expect("a file");
    let path = directory.path().join("policy.toml");
    let text = "schema = 1\n[policy]\npermit = [\"FR\"]\n[[rule]]\nname = \"list\"\n\
                host_file = \"hosts\"\naction = \"block\"\n";
    std::fs::write(&path, text).expect("a file");
    let loaded = config::load(Some(&path)).unwrap_or_else(|faults| panic!("{faults}"));
    let sources = data::load(&loaded.config.data).expect("embedded tables");
    let now = Timestamp::now();
    let policy = Compiler::new(loaded.config, sources, text, Vec::new(), now).policy_at(now);
    for (name, listed) in [
        ("n0.of.example.eu", false),
        ("x.n0.of.example.eu", true),
        ("n1.of.example.eu", true),
        ("x.n1.of.example.eu", false),
        ("n299997.of.example.eu", false),
        ("a.b.n299997.of.example.eu", true),
        ("n300000.of.example.eu", false),
    ] {
        let host = HostName::parse(name.as_bytes()).expect("a name");
        let rule = policy.decide(&question(&host)).rule();
        assert_eq!(
            rule.map(|rule: RuleId| policy.rule_name(rule)),
            listed.then_some("list"),
            "{name}"
        );
    }
}

/// Rules of every kind, in such numbers that sets have several blocks: what decides is the first
/// that a walk over the rules finds.
#[test]
fn the_first_of_ten_thousand_rules_decides() {
    use std::fmt::Write as _;
    let mut text = String::from("schema = 1\n[policy]\npermit = [\"FR\"]\n");
    for rule in 0..10_000 {
        let condition = match rule % 5 {
            0 => format!("host = [\"h{}.example.eu\"]", rule / 5 % 500),
            1 => format!("to = [\"185.{}.{}.0/24\"]", rule / 5 % 4, rule / 20 % 100),
            2 => format!("from = [\"10.{}.0.0/16\"]\nport = [{}]", rule / 5 % 200, rule / 1000 + 1),
            3 => format!("port = [{}]\nlocation = [\"DE\"]", 1_000 + rule),
            _ => format!(
                "host = [\"*.w{}.example.eu\"]\nfrom = [\"10.{}.0.0/16\"]",
                rule / 5 % 400,
                rule / 5 % 200
            ),
        };
        let condition = format!("{condition}\naction = \"block\"");
        writeln!(text, "[[rule]]\nname = \"r{rule}\"\n{condition}").expect("memory");
    }
    let policy = compiled(&text);
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut below = |end: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % end
    };
    let mut found = 0;
    for _ in 0..2_000 {
        let (client, third) = (below(220), below(8));
        let (second, fourth) = (below(5), below(120));
        let port = 1 + below(12);
        let (host, wide) = (below(520), below(2) == 1);
        let name =
            if wide { format!("x.w{host}.example.eu") } else { format!("h{host}.example.eu") };
        let name = HostName::parse(name.as_bytes()).expect("a name");
        let asked = Question {
            client: Some(IpAddr::V4(Ipv4Addr::new(10, client as u8, third as u8, 1))),
            destination: (Ipv4Addr::new(185, second as u8, fourth as u8, 7), port as u16).into(),
            ..question(&name)
        };
        let walk = (0..10_000_u64).find(|rule| match rule % 5 {
            0 => !wide && rule / 5 % 500 == host,
            1 => rule / 5 % 4 == second && rule / 20 % 100 == fourth,
            2 => rule / 5 % 200 == client && rule / 1000 + 1 == port,
            3 => false,
            _ => wide && rule / 5 % 400 == host && rule / 5 % 200 == client,
        });
        let decided = policy.decide(&asked).rule().map(|rule| policy.rule_name(rule).to_owned());
        assert_eq!(decided, walk.map(|rule| format!("r{rule}")), "{asked:?}");
        found += usize::from(walk.is_some());
    }
    assert!(found > 500 && found < 2_000, "{found}");
}
