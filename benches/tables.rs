//! The tables beside their peers, in one run, on the embedded country table and on a million names;
//! then what they cost to build and to hold, and what a swap costs those who read.
//!
//! `cargo bench --bench tables`. The lines behind `==` are the figures asked for beside those seen.
//! Times are those of the least disturbed of many rounds over the same questions, for ours and the
//! peers alike, and of the processor where one turn takes long: the machine may have other work.

#![expect(missing_docs, reason = "criterion's macros make public functions")]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ip_network_table::IpNetworkTable;
use ipnet::{Ipv4Net, Ipv4Subnets, Ipv6Net, Ipv6Subnets};
use jiff::Timestamp;
use prefix_trie::PrefixMap;
use schengate::control::compile::Compiler;
use schengate::control::data::{CountryTable, Whereabouts, embedded_country};
use schengate::control::{config, data, load};
use schengate::identify::{HostName, Protocol};
use schengate::policy::{Claim, IpTable, Live, NameTable, Policy, Question, Transport};

#[path = "support/mod.rs"]
mod support;
use support::{Draw, best, least_cpu, mmdb_v4, peak_kib, thread_cpu};

const ASKED: usize = 1 << 18;

fn number(said: Whereabouts) -> u32 {
    match said {
        Whereabouts::Anycast => 1,
        Whereabouts::Country(country) => country.index() as u32 + 2,
    }
}

/// Ranges as starts, with a 0 where a gap begins.
fn starts<A: Copy + PartialEq>(
    ranges: &[(A, A, Whereabouts)],
    next: impl Fn(A) -> Option<A>,
) -> Vec<(A, u32)> {
    let mut starts: Vec<(A, u32)> = Vec::new();
    for &(first, last, said) in ranges {
        starts.pop_if(|gap| gap.0 == first);
        starts.push((first, number(said)));
        starts.extend(next(last).map(|gap| (gap, 0)));
    }
    starts
}

struct Tables {
    country: CountryTable,
    ours: IpTable,
    v4: Vec<(Ipv4Net, u32)>,
    v6: Vec<(Ipv6Net, u32)>,
}

impl Tables {
    fn new() -> Self {
        let country = embedded_country().expect("the embedded table");
        let ours = IpTable::build(
            &starts(&country.ranges.v4, |last| last.checked_add(1)),
            &starts(&country.ranges.v6, |last| last.checked_add(1)),
        );
        let v4 = country.ranges.v4.iter().flat_map(|&(first, last, said)| {
            let nets = Ipv4Subnets::new(Ipv4Addr::from(first), Ipv4Addr::from(last), 0);
            nets.map(move |net| (net, number(said)))
        });
        let v6 = country.ranges.v6.iter().flat_map(|&(first, last, said)| {
            let nets = Ipv6Subnets::new(Ipv6Addr::from(first), Ipv6Addr::from(last), 0);
            nets.map(move |net| (net, number(said)))
        });
        let (v4, v6) = (v4.collect(), v6.collect());
        Self { country, ours, v4, v6 }
    }
}

fn v4_questions(tables: &Tables, draw: &mut Draw, count: usize) -> Vec<IpAddr> {
    let ranges = &tables.country.ranges.v4;
    let one = |draw: &mut Draw| {
        let (first, last, _) = ranges[draw.below(ranges.len() as u64) as usize];
        Ipv4Addr::from(first + draw.below(u64::from(last - first) + 1) as u32).into()
    };
    (0..count).map(|_| one(draw)).collect()
}

fn v6_questions(tables: &Tables, draw: &mut Draw, count: usize) -> Vec<IpAddr> {
    let ranges = &tables.country.ranges.v6;
    let one = |draw: &mut Draw| {
        let (first, last, _) = ranges[draw.below(ranges.len() as u64) as usize];
        let random = u128::from(draw.next()) << 64 | u128::from(draw.next());
        Ipv6Addr::from(first + random % (last - first).saturating_add(1).max(1)).into()
    };
    (0..count).map(|_| one(draw)).collect()
}

/// What each of the readers answers, at what cost a question.
type Reader<'a> = (&'a str, Box<dyn Fn(&[IpAddr]) -> u64 + 'a>);

fn readers(tables: &Tables, v4: bool) -> Vec<Reader<'_>> {
    let ours = &tables.ours;
    let mut readers: Vec<Reader<'_>> = vec![(
        "schengate",
        Box::new(move |asked| asked.iter().map(|&at| u64::from(ours.value(at))).sum()),
    )];
    let mut treebitmap = IpNetworkTable::new();
    if v4 {
        let mut trie = PrefixMap::new();
        for &(net, value) in &tables.v4 {
            trie.insert(net, value);
            let net = ip_network::Ipv4Network::new(net.addr(), net.prefix_len()).expect("a net");
            treebitmap.insert(net, value);
        }
        readers.push((
            "prefix-trie",
            Box::new(move |asked| {
                let value = |at: &IpAddr| {
                    let IpAddr::V4(at) = *at else { return 0 };
                    trie.get_lpm(&Ipv4Net::from(at)).map_or(0, |(_, &value)| u64::from(value))
                };
                asked.iter().map(value).sum()
            }),
        ));
        let mmdb = maxminddb::Reader::from_source(mmdb_v4(&tables.country)).expect("an mmdb");
        readers.push((
            "maxminddb",
            Box::new(move |asked| {
                let value = |&at: &IpAddr| {
                    let found = mmdb.lookup(at).expect("a sound mmdb");
                    let country = found.decode::<maxminddb::geoip2::Country<'_>>();
                    let country = country.expect("a record").map(|record| record.country.iso_code);
                    u64::from(country.flatten().map_or(0, |code| code.as_bytes()[0]))
                };
                asked.iter().map(value).sum()
            }),
        ));
    } else {
        let mut trie = PrefixMap::new();
        for &(net, value) in &tables.v6 {
            trie.insert(net, value);
            let net = ip_network::Ipv6Network::new(net.addr(), net.prefix_len()).expect("a net");
            treebitmap.insert(net, value);
        }
        readers.push((
            "prefix-trie",
            Box::new(move |asked| {
                let value = |at: &IpAddr| {
                    let IpAddr::V6(at) = *at else { return 0 };
                    trie.get_lpm(&Ipv6Net::from(at)).map_or(0, |(_, &value)| u64::from(value))
                };
                asked.iter().map(value).sum()
            }),
        ));
    }
    readers.push((
        "ip_network_table",
        Box::new(move |asked| {
            let value = |&at: &IpAddr| treebitmap.longest_match(at).map_or(0, |(_, &v)| v.into());
            asked.iter().map(value).sum()
        }),
    ));
    readers
}

fn addresses(criterion: &mut Criterion) {
    println!("== machine: {}", support::machine());
    let tables = Tables::new();
    let (v4, v6) = (tables.country.ranges.v4.len(), tables.country.ranges.v6.len());
    println!(
        "== embedded country table: {v4} IPv4 and {v6} IPv6 ranges ({} and {} prefixes), {} KiB",
        tables.v4.len(),
        tables.v6.len(),
        tables.ours.bytes() / 1024
    );
    let mut draw = Draw(0x2545_f491_4f6c_dd1d);
    let random = v4_questions(&tables, &mut draw, ASKED);
    let hot = v4_questions(&tables, &mut draw, 512);
    let random_v6 = v6_questions(&tables, &mut draw, ASKED);
    /// What is asked, the addresses, whether they are hot, ns to reach, peers with ratios to reach.
    type Row<'a> = (&'a str, &'a [IpAddr], bool, f64, &'a [(&'a str, f64)]);
    let rows: [Row<'_>; 3] = [
        ("IPv4 random", &random, true, 16.0, &[("prefix-trie", 7.0), ("maxminddb", 20.0)]),
        ("IPv4 512 hot", &hot, true, 6.0, &[]),
        ("IPv6 random", &random_v6, false, 45.0, &[("prefix-trie", 2.5)]),
    ];
    for (row, asked, v4, reach, ratios) in rows {
        let readers = readers(&tables, v4);
        // The peers that hold numbers answer alike, or the comparison says nothing.
        let numbers: Vec<u64> = readers
            .iter()
            .filter(|(name, _)| *name != "maxminddb")
            .map(|(_, read)| read(asked))
            .collect();
        assert!(numbers.windows(2).all(|pair| pair[0] == pair[1]), "{row}: {numbers:?}");
        let mut group = criterion.benchmark_group(row);
        group.throughput(Throughput::Elements(asked.len() as u64));
        let mut seen: HashMap<&str, f64> = HashMap::new();
        for (name, read) in &readers {
            group.bench_function(*name, |bench| bench.iter(|| read(black_box(asked))));
            let rounds = if asked.len() < 4096 { 2_000 } else { 12 };
            seen.insert(name, best(rounds, 256, asked, read));
        }
        group.finish();
        let ours = seen["schengate"];
        println!("== {row}: {ours:.1} ns, asked <= {reach} ns");
        for (name, ns) in &seen {
            if *name != "schengate" {
                let asked = ratios.iter().find(|(peer, _)| peer == name);
                let asked = asked.map_or(String::new(), |(_, times)| format!(", asked >= {times}"));
                println!("==   {name}: {ns:.1} ns, {:.1} times ours{asked}", ns / ours);
            }
        }
    }
}

/// Names of four labels, as lists of hosts have them.
fn four_labels(draw: &mut Draw, count: usize) -> Vec<String> {
    let word = |draw: &mut Draw| -> String {
        let length = 2 + draw.below(7);
        (0..length).map(|_| char::from(b'a' + draw.below(26) as u8)).collect()
    };
    let ends = ["com", "net", "org", "eu", "de", "fr"];
    (0..count)
        .map(|n| {
            let end = ends[draw.below(6) as usize];
            format!("{}{n}.{}.{}.{end}", word(draw), word(draw), word(draw))
        })
        .collect()
}

fn names(criterion: &mut Criterion) {
    let mut draw = Draw(0x9e37_79b9_7f4a_7c15);
    for count in [1_000, 1_000_000] {
        let held = four_labels(&mut draw, count);
        let patterns = held.iter().enumerate().map(|(n, name)| {
            // Every tenth stands for the names below it, so that suffixes are asked for as well.
            (name.as_str(), n % 10 == 0, 1 + (n % 100) as u32)
        });
        let table = NameTable::build(patterns);
        let text: usize = held.iter().map(String::len).sum();
        println!(
            "== {count} names: {:.1} bytes a name over the text, asked <= 24",
            (table.bytes() - text) as f64 / count as f64
        );
        let parsed = |text: &String| HostName::parse(text.as_bytes()).expect("a name");
        let some: Vec<_> = (0..1 << 15).map(|_| draw.below(count as u64) as usize).collect();
        let hits: Vec<_> =
            some.iter().filter(|&&at| at % 10 != 0).map(|&at| parsed(&held[at])).collect();
        let misses: Vec<_> = four_labels(&mut draw, 1 << 15).iter().map(parsed).collect();
        // Suffixes as many as there can be, and names that differ from one in the table at an end.
        let adversarial: Vec<_> = some
            .iter()
            .map(|&at| {
                let mut long = held[at].clone();
                while long.len() < 251 {
                    long.insert_str(0, "a.");
                }
                parsed(&long)
            })
            .take(1 << 12)
            .collect();
        let mut group = criterion.benchmark_group(format!("names/{count}"));
        for (row, asked) in [("hit", &hits), ("miss", &misses), ("126 labels", &adversarial)] {
            group.throughput(Throughput::Elements(asked.len() as u64));
            let read = |asked: &[HostName]| {
                asked.iter().map(|name| u64::from(table.value(name))).sum::<u64>()
            };
            group.bench_function(row, |bench| bench.iter(|| read(black_box(asked))));
            let ns = best(20, 64, asked, read);
            let reach = if row == "126 labels" { "bounded" } else { "<= 60 ns" };
            println!("== {count} names, {row}: {ns:.1} ns, asked {reach}");
        }
        group.finish();
    }
}

fn compiled(text: &str) -> Policy {
    let loaded = config::parse(text, None).expect("a sound policy");
    let sources = data::load(&loaded.config.data).expect("embedded tables");
    let now = Timestamp::now();
    Compiler::new(loaded.config, sources, text, Vec::new(), now).policy_at(now)
}

const PLAIN: &str = "schema = 1\n[policy]\npermit = [\"eea\"]\npermit_law = [\"eea\"]\n";

/// 2,000,000 ranges of 256 to 512 addresses, and a list of a million names.
fn large(directory: &std::path::Path) -> std::path::PathBuf {
    let mut draw = Draw(0x1234_5678_9abc_def1);
    let mut csv = String::new();
    let countries = ["FR", "DE", "US", "NL", "CH", "JP", "BR", "SE"];
    for n in 0..2_000_000_u32 {
        let first = 0x0100_0000 + n * 1024;
        let last = first + 255 + draw.below(256) as u32;
        let country = countries[draw.below(8) as usize];
        let (first, last) = (Ipv4Addr::from(first), Ipv4Addr::from(last));
        writeln!(csv, "{first},{last},{country}").expect("memory");
    }
    std::fs::write(directory.join("country.csv"), csv).expect("a file");
    let names = four_labels(&mut draw, 1_000_000).join("\n");
    std::fs::write(directory.join("hosts"), names).expect("a file");
    let policy = directory.join("policy.toml");
    let text = "schema = 1\n[policy]\npermit = [\"eea\"]\n[data]\ncountry = [\"country.csv\"]\n\
                [[rule]]\nname = \"list\"\nhost_file = \"hosts\"\naction = \"block\"\n";
    std::fs::write(&policy, text).expect("a file");
    policy
}

fn build(_: &mut Criterion) {
    let seen = least_cpu(7, || compiled(PLAIN)) * 1e3;
    println!("== build from embedded sources: {seen:.0} ms, asked <= 400 ms");
    let policy = compiled(PLAIN);
    let mib = policy.bytes() as f64 / f64::from(1 << 20);
    println!("== memory with embedded tables: {mib:.1} MiB, asked <= 64 (fast), <= 16 (compact)");
    let directory = tempfile::tempdir().expect("a directory");
    let path = large(directory.path());
    let before = peak_kib();
    let seen = least_cpu(2, || {
        let loaded = load::load(Some(&path), Timestamp::now()).expect("a sound policy");
        loaded.compiler.policy_at(Timestamp::now())
    });
    println!(
        "== 2,000,000 ranges and 1,000,000 names: {:.2} s, asked <= 3 s; peak memory {} MiB \
         ({} before)",
        seen,
        peak_kib() / 1024,
        before / 1024
    );
}

/// Verdicts for each second of processor time that two threads had.
fn rate(live: &Live, swap: Option<&[Arc<Policy>; 2]>, time: Duration) -> f64 {
    let done = AtomicBool::new(false);
    let begin = Barrier::new(3);
    let name = HostName::parse(b"www.example.org").expect("a name");
    std::thread::scope(|scope| {
        let readers = [1_u64, 2].map(|seed| {
            let (done, begin, name) = (&done, &begin, &name);
            scope.spawn(move || {
                let mut draw = Draw(seed * 0x2545_f491_4f6c_dd1d);
                begin.wait();
                let (mut verdicts, started) = (0_u64, thread_cpu());
                while !done.load(Ordering::Relaxed) {
                    for _ in 0..256 {
                        let address = Ipv4Addr::from_bits(draw.next() as u32);
                        let policy = live.load(0).expect("a policy in force");
                        black_box(policy.decide(&Question {
                            client: Some(IpAddr::V4(Ipv4Addr::new(10, 40, 3, 9))),
                            destination: (address, 443).into(),
                            transport: Transport::Tcp,
                            protocol: Protocol::Tls,
                            name: Claim::Bound(name),
                            ech: false,
                        }));
                    }
                    verdicts += 256;
                }
                verdicts as f64 / (thread_cpu() - started).as_secs_f64()
            })
        });
        begin.wait();
        let started = Instant::now();
        for turn in 1.. {
            std::thread::sleep(Duration::from_millis(100));
            if let Some(policies) = swap {
                live.publish(Arc::clone(&policies[turn % 2]), None);
            }
            if started.elapsed() >= time {
                break;
            }
        }
        done.store(true, Ordering::Relaxed);
        readers.into_iter().map(|reader| reader.join().expect("a reader")).sum()
    })
}

fn swaps(_: &mut Criterion) {
    let policies = [compiled(PLAIN), compiled(PLAIN)].map(Arc::new);
    let live = Live::new(Arc::clone(&policies[0]), None);
    // By turns, so that what else the machine does falls on both.
    let mut ratios: Vec<f64> = (0..9)
        .map(|_| {
            let still = rate(&live, None, Duration::from_secs(1));
            let swapped = rate(&live, Some(&policies), Duration::from_secs(1));
            print!("{:.1}/{:.1} ", swapped / 1e6, still / 1e6);
            swapped / still
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    println!(
        "million verdicts a second\n== verdicts of two threads while tables are swapped 10 times a \
         second: {:.1} % of those without, asked within 5 % (least {:.1}, most {:.1})",
        ratios[4] * 100.0,
        ratios[0] * 100.0,
        ratios[8] * 100.0
    );
}

criterion_group!(
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(700));
    targets = addresses, names, build, swaps
);
criterion_main!(benches);
