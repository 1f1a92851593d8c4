//! A whole verdict (client, address, name, no, 200 and 10,000 rules, embedded tables), each of its
//! questions timed by itself, beside a walk over the same rules. Must reach: under 400 ns at 200
//! rules; at 10,000 rules 150 ns median, 400 ns at the 99th percentile; that nothing is allocated
//! is asserted by `tests/alloc_verdict.rs`.

use std::fmt::Write as _;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use jiff::Timestamp;
use schengate::control::compile::Compiler;
use schengate::control::config::{self, From, Rule};
use schengate::control::data;
use schengate::identify::{HostName, Protocol};
use schengate::policy::{Claim, HostRef, Policy, Question, Transport};

/// `rules` rules that look at every dimension; the name asked for is that of the last but one.
fn policy_text(rules: usize) -> String {
    let mut text = String::from(
        "schema = 1\n[policy]\nmode = \"enforce\"\npermit = [\"eea\", \"gdpr-adequacy\"]\n\
         permit_law = [\"eea\", \"gdpr-adequacy\"]\n\
         [[group]]\nname = \"lab\"\nclients = [\"10.40.0.0/16\"]\nmode = \"observe\"\n",
    );
    for rule in 0..rules {
        let condition = match rule % 4 {
            0 => format!("host = [\"h{rule}.example.eu\", \"*.w{rule}.example.com\"]"),
            1 => format!("to = [\"185.{}.{}.0/24\"]\nport = [443]", rule / 256 % 256, rule % 256),
            2 => format!("host = [\"only{rule}.example.org\"]\nlocation = [\"CH\"]"),
            _ => format!(
                "from = [\"10.{}.{}.0/24\"]\noperator = [\"hetzner\"]",
                rule / 256 % 256,
                rule % 256
            ),
        };
        writeln!(
            text,
            "[[rule]]\nname = \"r{rule}\"\n{condition}\naction = \"allow\"\nreason = \"x\""
        )
        .unwrap();
    }
    text
}

fn policy(rules: usize) -> (Policy, Vec<Rule>) {
    let text = policy_text(rules);
    let loaded = config::parse(&text, None).expect("a sound policy");
    let sources = data::load(&loaded.config.data).expect("embedded tables");
    let now = Timestamp::now();
    let walked = loaded.config.rules.clone();
    (Compiler::new(loaded.config, sources, &text, Vec::new(), now).policy_at(now), walked)
}

/// The peer: the rules one after the other, by name, prefixes and port only. It looks up neither
/// place, operator nor axes, so that it does less than a verdict.
fn walk(rules: &[Rule], question: &Question<'_>) -> Option<usize> {
    let host = question.name.host().map_or("", HostName::as_str);
    let below = |name: &str| host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'));
    let client = question.client.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let destination = question.destination;
    let from = |from: &From| matches!(from, From::Net(net) if net.contains(&client));
    rules.iter().position(|rule| {
        let Rule { port, from: clients, to, host: hosts, .. } = rule;
        port.as_ref().is_none_or(|list| list.iter().any(|r| r.contains(&destination.port())))
            && clients.as_ref().is_none_or(|list| list.iter().any(from))
            && to.as_ref().is_none_or(|list| list.iter().any(|net| net.contains(&destination.ip())))
            && hosts.as_ref().is_none_or(|hosts| {
                let holds = |h: HostRef<'_>| if h.below { below(h.name) } else { h.name == host };
                hosts.iter().any(holds)
            })
    })
}

/// Addresses over the whole of unicast IPv4, in an order that no cache foresees.
fn addresses() -> Vec<SocketAddr> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u32
    };
    (0..4096)
        .map(|_| {
            SocketAddr::new(
                IpAddr::V4(Ipv4Addr::from_bits(draw() % 0xdf00_0000 + 0x0100_0000)),
                443,
            )
        })
        .collect()
}

/// Median, 99th and 99.9th percentile of single verdicts in nanoseconds, less what it takes to read
/// the clock; of each question the fastest of some turns, so that other programs do not count.
fn percentiles(questions: &[Question<'_>], policy: &Policy) -> [f64; 3] {
    let mut least = vec![Duration::MAX; questions.len()];
    let mut clock = Duration::MAX;
    for _ in 0..16 {
        for (question, least) in questions.iter().zip(&mut least) {
            let empty = Instant::now();
            let started = Instant::now();
            black_box(policy.decide(black_box(question)));
            let ended = Instant::now();
            clock = clock.min(started - empty);
            *least = (*least).min(ended - started);
        }
    }
    least.sort_unstable();
    [50.0, 99.0, 99.9].map(|share| {
        let at = ((least.len() - 1) as f64 * share / 100.0) as usize;
        (least[at].saturating_sub(clock)).as_secs_f64() * 1e9
    })
}

fn verdicts(criterion: &mut Criterion) {
    let name = HostName::parse(b"only198.example.org").expect("a name");
    let addresses = addresses();
    for rules in [0, 200, 10_000] {
        let (policy, walked) = policy(rules);
        println!("{rules} rules: {} KiB of tables and sets", policy.bytes() / 1024);
        let question = |destination| Question {
            client: Some(IpAddr::V4(Ipv4Addr::new(10, 40, 3, 9))),
            destination,
            transport: Transport::Tcp,
            protocol: Protocol::Tls,
            name: Claim::Bound(&name),
            ech: false,
        };
        let known: SocketAddr = "213.186.33.5:443".parse().expect("an address");
        let mut group = criterion.benchmark_group(format!("verdict/{rules} rules"));
        group.bench_function("one address", |bench| {
            bench.iter(|| policy.decide(black_box(&question(known))));
        });
        let mut at = 0;
        group.bench_function("random addresses", |bench| {
            bench.iter(|| {
                at = (at + 1) % addresses.len();
                policy.decide(black_box(&question(addresses[at])))
            });
        });
        group.bench_function("random addresses, a walk over the rules", |bench| {
            bench.iter(|| {
                at = (at + 1) % addresses.len();
                walk(&walked, black_box(&question(addresses[at])))
            });
        });
        group.finish();
        let questions: Vec<_> = addresses.iter().map(|&address| question(address)).collect();
        let [p50, p99, p999] = percentiles(&questions, &policy);
        println!(
            "== {rules} rules, random addresses: median {p50:.0} ns, p99 {p99:.0} ns, p99.9 \
             {p999:.0} ns; asked at 10,000: <= 150 and <= 400"
        );
        let names: Vec<_> = [0, 4, 198, 2_000, 7_999]
            .iter()
            .map(|n| HostName::parse(format!("h{n}.example.eu").as_bytes()).expect("a name"))
            .collect();
        let clients = (0..addresses.len()).map(|n| Ipv4Addr::new(10, (n % 64) as u8, 3, 9));
        let mixed: Vec<_> = addresses
            .iter()
            .zip(clients)
            .enumerate()
            .map(|(n, (&address, client))| Question {
                client: Some(client.into()),
                name: match n % 6 {
                    5 => Claim::Unread,
                    at => Claim::Bound(&names[at]),
                },
                ..question(address)
            })
            .collect();
        let [p50, p99, p999] = percentiles(&mixed, &policy);
        println!(
            "== {rules} rules, all mixed: median {p50:.0} ns, p99 {p99:.0} ns, p99.9 {p999:.0} ns"
        );
    }
}

criterion_group!(
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = verdicts
);
criterion_main!(benches);
