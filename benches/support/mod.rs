//! What benches share: numbers without a crate, the clock, and a table in MaxMind's form.

use std::hint::black_box;
use std::time::{Duration, Instant};

use schengate::control::data::{CountryTable, Located};

/// Marsaglia's xorshift; the seed is not 0.
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }
}

/// Nanoseconds a question. The questions are put in pieces of `piece`, over and over; of each piece
/// the fastest of `rounds` turns counts, so that what a turn loses to other programs does not, and
/// what the other pieces do to the caches does. A piece is copied before the clock starts: in
/// service, too, a question has just been read.
pub(crate) fn best<Q: Copy, T>(
    rounds: usize,
    piece: usize,
    questions: &[Q],
    ask: impl Fn(&[Q]) -> T,
) -> f64 {
    let mut least = vec![Duration::MAX; questions.len().div_ceil(piece)];
    for _ in 0..rounds {
        for (questions, least) in questions.chunks(piece).zip(&mut least) {
            let questions = black_box(questions.to_vec());
            let started = Instant::now();
            black_box(ask(&questions));
            *least = started.elapsed().min(*least);
        }
    }
    least.iter().sum::<Duration>().as_secs_f64() * 1e9 / questions.len() as f64
}

/// Processor time of the cheapest of `rounds` turns, in seconds.
pub(crate) fn least_cpu<T>(rounds: usize, mut work: impl FnMut() -> T) -> f64 {
    let time = |_| {
        let started = thread_cpu();
        black_box(work());
        thread_cpu() - started
    };
    (0..rounds).map(time).min().unwrap_or_default().as_secs_f64()
}

/// Processor time of this thread so far; 0 where the kernel does not tell.
pub(crate) fn thread_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split_whitespace().next().and_then(|word| word.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

/// The most memory this process ever held, in KiB; 0 where the kernel does not tell.
pub(crate) fn peak_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Processor and number of cores.
pub(crate) fn machine() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut models = text.lines().filter_map(|line| line.strip_prefix("model name"));
    let model = models.next().unwrap_or("unknown").trim_start_matches([' ', '\t', ':']);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{model}, {cores} cores")
}

/// The IPv4 half of a country table in MaxMind's form, each record `{"country": {"iso_code": ..}}`
/// as GeoLite2 has it; records of 32 bits.
pub(crate) fn mmdb_v4(table: &CountryTable) -> Vec<u8> {
    // Children of each node: above 0 a node, below 0 a record's number less one, 0 nothing.
    let mut nodes: Vec<[i64; 2]> = vec![[0, 0]];
    let mut codes: Vec<&str> = Vec::new();
    for &(first, last, said) in &table.ranges.v4 {
        let code = match said {
            Located::Country(country) => country.code(),
            Located::Anycast => "ZZ",
        };
        let record = codes.iter().position(|&known| known == code).unwrap_or_else(|| {
            codes.push(code);
            codes.len() - 1
        });
        for net in ipnet::Ipv4Subnets::new(first.into(), last.into(), 0) {
            let (bits, length) = (net.addr().to_bits(), net.prefix_len());
            let mut node = 0;
            for depth in 0..length {
                let side = (bits >> (31 - depth) & 1) as usize;
                if depth + 1 == length {
                    nodes[node][side] = -1 - record as i64;
                } else if nodes[node][side] <= 0 {
                    nodes.push([0, 0]);
                    nodes[node][side] = nodes.len() as i64 - 1;
                    node = nodes.len() - 1;
                } else {
                    node = nodes[node][side] as usize;
                }
            }
        }
    }
    // Each record takes as many bytes: map, "country", map, "iso_code", code.
    let text = |out: &mut Vec<u8>, text: &str| {
        out.push(0x40 | text.len() as u8);
        out.extend(text.as_bytes());
    };
    let mut records = Vec::new();
    let mut places = Vec::new();
    for code in codes {
        places.push(records.len());
        records.push(0xe1);
        text(&mut records, "country");
        records.push(0xe1);
        text(&mut records, "iso_code");
        text(&mut records, code);
    }
    let mut file = Vec::new();
    for child in nodes.iter().flatten() {
        let record = match child {
            0 => nodes.len(),
            1.. => *child as usize,
            record => nodes.len() + 16 + places[(-1 - record) as usize],
        };
        file.extend((record as u32).to_be_bytes());
    }
    file.extend([0; 16]);
    file.extend(records);
    file.extend(b"\xab\xcd\xefMaxMind.com");
    let number = |out: &mut Vec<u8>, key: &str, kind: &[u8], value: u64, bytes: usize| {
        text(out, key);
        out.extend(kind);
        out.extend(&value.to_be_bytes()[8 - bytes..]);
    };
    file.push(0xe9);
    number(&mut file, "node_count", &[0xc4], nodes.len() as u64, 4);
    number(&mut file, "record_size", &[0xa2], 32, 2);
    number(&mut file, "ip_version", &[0xa2], 4, 2);
    number(&mut file, "binary_format_major_version", &[0xa2], 2, 2);
    number(&mut file, "binary_format_minor_version", &[0xa2], 0, 2);
    number(&mut file, "build_epoch", &[0x08, 0x02], 1_700_000_000, 8);
    text(&mut file, "database_type");
    text(&mut file, "bench");
    text(&mut file, "languages");
    file.extend([0x00, 0x04]);
    text(&mut file, "description");
    file.push(0xe0);
    file
}
