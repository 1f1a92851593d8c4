//! The tables beside their peers, in one run, on the embedded country table and on a million names;
//! then what they cost to build and to hold, and what a swap costs those who read.
//!
//! `cargo bench --bench tables`. The lines behind `==` are the figures seen; the last of them are a
//! table of what is asked, what was seen, and the one as a share of the other.
//! Times are those of the least disturbed of many rounds over the same questions, for ours and the
//! peers alike, and of the processor where one turn takes long: the machine may have other work.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ip_network_table::IpNetworkTable;
use ipnet::{Ipv4Net, Ipv4Subnets, Ipv6Net, Ipv6Subnets};
use jiff::Timestamp;
use prefix_trie::PrefixMap;
use schengate::control::compile::Compiler;
use schengate::control::data::{CountryTable, Located, embedded_country};
use schengate::control::{config, data, load};
use schengate::identify::{HostName, Protocol};
use schengate::policy::{Claim, IpTable, Live, Memory, NameTable, Policy, Question, Transport};

#[path = "support/mod.rs"]
mod support;
use support::{Draw, best, least_cpu, mmdb_v4, peak_kib, thread_cpu};

const ASKED: usize = 1 << 18;

/// The lines of the table at the end.
static SHEET: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Adds a figure that is to be at most (`<=`) or at least (`>=`) what is asked.
fn figure(what: &str, bound: &str, asked: f64, seen: f64, unit: &str) {
    let ratio = if asked == 0.0 { f64::NAN } else { seen / asked };
    let kept = if bound == "<=" { ratio <= 1.0 } else { ratio >= 1.0 };
    let (asked, seen) = (format!("{bound} {asked} {unit}"), format!("{seen:.1} {unit}"));
    let mark = if kept { "" } else { "  short" };
    let line = format!("{what:<52} | {asked:>12} | {seen:>12} | {ratio:>5.2}{mark}");
    println!("== {line}");
    SHEET.lock().expect("no bench panicked").push(line);
}

fn sheet(_: &mut Criterion) {
    println!("== {:<52} | {:>12} | {:>12} | ratio", "what", "asked", "seen");
    for line in SHEET.lock().expect("no bench panicked").iter() {
        println!("== {line}");
    }
}

fn number(said: Located) -> u32 {
    match said {
        Located::Anycast => 1,
        Located::Country(country) => country.index() as u32 + 2,
    }
}

/// Ranges as starts, with a 0 where a gap begins.
fn starts<A: Copy + PartialEq>(
    ranges: &[(A, A, Located)],
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
    compact: IpTable,
    v4: Vec<(Ipv4Net, u32)>,
    v6: Vec<(Ipv6Net, u32)>,
}

impl Tables {
    fn new() -> Self {
        let country = embedded_country().expect("the embedded table");
        let v4 = starts(&country.ranges.v4, |last| last.checked_add(1));
        let v6 = starts(&country.ranges.v6, |last| last.checked_add(1));
        let [ours, compact] =
            [Memory::Fast, Memory::Compact].map(|memory| IpTable::build(&v4, &v6, memory));
        let v4 = country.ranges.v4.iter().flat_map(|&(first, last, said)| {
            let nets = Ipv4Subnets::new(Ipv4Addr::from(first), Ipv4Addr::from(last), 0);
            nets.map(move |net| (net, number(said)))
        });
        let v6 = country.ranges.v6.iter().flat_map(|&(first, last, said)| {
            let nets = Ipv6Subnets::new(Ipv6Addr::from(first), Ipv6Addr::from(last), 0);
            nets.map(move |net| (net, number(said)))
        });
        let (v4, v6) = (v4.collect(), v6.collect());
        Self { country, ours, compact, v4, v6 }
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
    let mut readers: Vec<Reader<'_>> = Vec::new();
    for (name, ours) in [("schengate", &tables.ours), ("schengate, compact", &tables.compact)] {
        let read =
            move |asked: &[IpAddr]| asked.iter().map(|&at| u64::from(ours.value(at))).sum::<u64>();
        readers.push((name, Box::new(read)));
    }
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
        "== embedded country table: {v4} IPv4 and {v6} IPv6 ranges ({} and {} prefixes), {} KiB fast, {} KiB \
         compact",
        tables.v4.len(),
        tables.v6.len(),
        tables.ours.bytes() / 1024,
        tables.compact.bytes() / 1024
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
        figure(row, "<=", reach, ours, "ns");
        for (name, ns) in &seen {
            if *name != "schengate" {
                println!("==   {name}: {ns:.1} ns, {:.1} times ours", ns / ours);
            }
            if let Some((_, times)) = ratios.iter().find(|(peer, _)| peer == name) {
                figure(&format!("{row}, time of {name}"), ">=", *times, ns / ours, "x");
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
        let over = (table.bytes() - text) as f64 / count as f64;
        figure(&format!("{count} names, over the text of each"), "<=", 24.0, over, "B");
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
            if row == "126 labels" {
                println!("== {count} names, {row}: {ns:.1} ns, asked bounded");
            } else {
                figure(&format!("{count} names, {row}"), "<=", 60.0, ns, "ns");
            }
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
    figure("build from embedded sources, one core", "<=", 400.0, seen, "ms");
    for (form, asked) in [("fast", 64.0), ("compact", 16.0)] {
        let policy = compiled(&format!("{PLAIN}[data]\nmemory = \"{form}\"\n"));
        let mib = policy.bytes() as f64 / f64::from(1 << 20);
        figure(&format!("memory with embedded tables, {form}"), "<=", asked, mib, "MiB");
    }
    let directory = tempfile::tempdir().expect("a directory");
    let path = large(directory.path());
    let before = peak_kib();
    let seen = least_cpu(2, || {
        let loaded = load::load(Some(&path), Timestamp::now()).expect("a sound policy");
        loaded.compiler.policy_at(Timestamp::now())
    });
    figure("build of 2,000,000 ranges and 1,000,000 names", "<=", 3.0, seen, "s");
    println!("== its peak of memory: {} MiB ({} before)", peak_kib() / 1024, before / 1024);
}

/// What goes on beside those who judge.
#[derive(Clone, Copy)]
enum Beside<'a> {
    Nothing,
    /// Ten times a second the other of two policies that were built before, each with tables of its
    /// own: what is seen is the swap, and that the caches hold the other tables.
    Swaps(&'a [Arc<Policy>; 2]),
    /// A policy is built, over and over, by a thread that lets the others go first.
    Builds,
}

/// Verdicts of two threads, for each second of processor time that they had.
fn rate(live: &Live, beside: Beside<'_>, time: Duration) -> f64 {
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
        let builder = matches!(beside, Beside::Builds).then(|| {
            scope.spawn(|| {
                schengate::sys::yield_to_others().expect("a lower priority");
                while !done.load(Ordering::Relaxed) {
                    live.publish(Arc::new(compiled(PLAIN)), None);
                }
            })
        });
        for turn in 1.. {
            std::thread::sleep(Duration::from_millis(100));
            if let Beside::Swaps(policies) = beside {
                live.publish(Arc::clone(&policies[turn % 2]), None);
            }
            if started.elapsed() >= time {
                break;
            }
        }
        done.store(true, Ordering::Relaxed);
        let verdicts = readers.into_iter().map(|reader| reader.join().expect("a reader")).sum();
        builder.into_iter().for_each(|builder| builder.join().expect("a builder"));
        verdicts
    })
}

/// The share of the verdicts without, of pairs of windows that follow each other, which of the two
/// comes first by turns, so that what else the machine does falls on both: least, median, most.
fn share(live: &Live, beside: Beside<'_>, rounds: usize) -> [f64; 3] {
    let window = Duration::from_millis(600);
    let pair = |round: usize| {
        let (mut still, mut busy) = (0.0, 0.0);
        for turn in 0..2 {
            if (round + turn).is_multiple_of(2) {
                still = rate(live, Beside::Nothing, window);
            } else {
                busy = rate(live, beside, window);
            }
        }
        busy / still * 100.0
    };
    let mut shares: Vec<f64> = (0..rounds).map(pair).collect();
    shares.sort_by(f64::total_cmp);
    [shares[0], shares[rounds / 2], shares[rounds - 1]]
}

fn swaps(_: &mut Criterion) {
    let policies = [compiled(PLAIN), compiled(PLAIN)].map(Arc::new);
    let live = Live::new(Arc::clone(&policies[0]), None);
    let [least, median, most] = share(&live, Beside::Swaps(&policies), 25);
    figure("verdicts of two threads with 10 swaps a second", ">=", 95.0, median, "%");
    println!("==   median of 25 pairs of windows, from {least:.1} to {most:.1} %");
    let [least, median, most] = share(&live, Beside::Builds, 9);
    println!(
        "== with a third thread that builds all the time, niced: {median:.1} % for each second of \
         processor time ({least:.1} to {most:.1})"
    );
}

criterion_group!(
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(700));
    targets = addresses, names, build, swaps, sheet
);
criterion_main!(benches);
