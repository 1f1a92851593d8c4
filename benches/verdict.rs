//! A whole verdict (client, address, name, 200 and 10,000 rules, embedded tables) beside a walk over
//! the same rules. Must reach: under 400 ns at 200 rules; the allocations are asserted by a test.

#![expect(missing_docs, reason = "criterion's macros make public functions")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use criterion::{Criterion, criterion_group, criterion_main};
use jiff::Timestamp;
use schengate::control::compile::Compiler;
use schengate::control::{config, data};
use schengate::identify::{HostName, Protocol};
use schengate::policy::{Claim, Policy, Question, Transport};

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

fn policy(rules: usize) -> Policy {
    let text = policy_text(rules);
    let loaded = config::parse(&text, None).expect("a sound policy");
    let sources = data::load(&loaded.config.data).expect("embedded tables");
    let now = Timestamp::now();
    Compiler::new(loaded.config, sources, &text, Vec::new(), now).policy_at(now)
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

fn verdicts(criterion: &mut Criterion) {
    let name = HostName::parse(b"only198.example.org").expect("a name");
    let addresses = addresses();
    for rules in [0, 200, 10_000] {
        let policy = policy(rules);
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
        group.finish();
    }
}

criterion_group!(benches, verdicts);
criterion_main!(benches);
