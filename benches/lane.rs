//! What a connection, a round trip and a gigabyte cost that the lane carries, beside the proxy, each over
//! what the kernel's own forwarding costs.
//!
//! ```text
//! cargo bench --bench lane                 five rounds
//! cargo bench --bench lane -- --brief      one short round
//! ```
//! To measure what is installed: `cargo build --profile dist`, and its path in `SCHENGATE_BENCH_PROGRAM`.
//!
//! Needs root, `nft` and `ip`. Three laboratories stand side by side: in one the kernel forwards and
//! follows connections, with no gateway; in the second a gateway proxies; in the third it has a lane. The
//! policy permits by address, and records to a file. Each round asks each of them in turn.
//!
//! CPU is all time that the machine was not idle (`/proc/stat`), both ends of the connections, kernel
//! threads and the gateway included: forwarding is done in the time of whoever sends. What the first
//! laboratory takes in the same round is taken off, so that a figure is what the gateway adds. Leave the
//! machine alone.

#[path = "../tests/lab/mod.rs"]
mod lab;

use std::env;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lab::{Lab, PERMITTED, has, wait_until};

const PORT: u16 = 9001;

/// Clock ticks a second in `/proc/stat`, which is an interface of the kernel and does not change.
const TICKS: f64 = 100.0;

/// Bytes that a client says first, and that a server answers.
const ASKED: usize = 517;
const ANSWERED: u64 = 100;

/// Title and unit of each row, and the load: kind, clients at once, how many each, and by how much the
/// seconds are multiplied for one of them.
const ROWS: [(&str, &str, &str, usize, u64, f64); 6] = [
    ("CPU, new connection, 517 B, 8 at once", "us", "connect", 8, 2500, 1e6),
    ("CPU, 64 B round trip, 1 connection", "us", "trips", 1, 20_000, 1e6),
    ("CPU, 64 B round trip, 64 connections", "us", "trips", 64, 1500, 1e6),
    ("CPU, one download", "s/GB", "down", 1, 1 << 30, 1e9),
    ("CPU, 64 downloads", "s/GB", "down", 64, 24 << 20, 1e9),
    ("first byte, p50, one at a time", "us", "connect", 1, 1500, 0.0),
];

fn main() {
    let words: Vec<String> = env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["serve"] => return serve().expect("the server"),
        ["load", kind, clients, each] => {
            return load(kind, clients.parse().unwrap(), each.parse().unwrap());
        }
        _ => {}
    }
    let brief = words.iter().any(|word| word == "--brief");
    if !(has("nft") && has("ip")) {
        return println!("LEFT OUT: the bench needs nft and ip");
    }
    let labs = ["forwarding", "the proxy", "the lane"].map(lab::lab);
    let [Some(plain), Some(proxy), Some(lane)] = labs else { return };
    bench(&plain, &proxy, &lane, if brief { (1, 20) } else { (5, 1) });
}

fn bench(plain: &Lab, proxy: &Lab, lane: &Lab, (rounds, share): (usize, u64)) {
    plain.switch_forwarding_on();
    let follow = "nft -f - <<'END'
        add table inet follow
        add chain inet follow forward { type filter hook forward priority filter; }
        add rule inet follow forward ct state invalid drop
END";
    plain.gateway.shell(follow).unwrap();
    let gateways = [(proxy, ""), (lane, "[[listen]]\nmode = \"lane\"\n")].map(|(lab, more)| {
        let policy = lab.write("bench.toml", &policy(more));
        let gateway = gateway(lab, &policy);
        let mut up = lab.gateway.command(env!("CARGO_BIN_EXE_schengate"));
        up.args(["capture", "up", "--gateway", "--interface", "lan0", "--config"]).arg(&policy);
        assert!(up.status().unwrap().success(), "capture up");
        gateway
    });
    wait_until("the lane carries", || {
        let set =
            lane.gateway.shell("nft list set inet schengate_lane carried").unwrap_or_default();
        set.contains("elements").then_some(())
    });
    let labs = [plain, proxy, lane];
    let servers = labs.map(server);
    // Each has served before anything is measured.
    for lab in labs {
        run(lab, "connect", 4, 50);
        run(lab, "down", 4, 1 << 20);
    }
    println!("{}", machine());
    let mut figures = vec![[(); 3].map(|()| Vec::new()); ROWS.len()];
    for round in 0..rounds {
        for (row, &(_, _, kind, clients, each, unit)) in ROWS.iter().enumerate() {
            let each = (each / share).max(1);
            // Who goes first takes turns.
            for step in 0..3 {
                let at = (step + round) % 3;
                let (spent, median) = run(labs[at], kind, clients, each);
                let one = spent * unit / (clients as f64 * each as f64);
                figures[row][at].push(if unit > 0.0 { one } else { median });
            }
        }
        eprintln!("round {} of {rounds}", round + 1);
    }
    for ((title, unit, ..), of_row) in ROWS.iter().zip(&figures) {
        let over = |at: usize| {
            median(of_row[at].iter().zip(&of_row[0]).map(|(one, plain)| one - plain).collect())
        };
        let (proxy, lane) = (over(1), over(2));
        println!(
            "{title:40} forwarding {:9.3}  proxy {proxy:+9.3}  lane {lane:+9.3} {unit}  lane of proxy {:.2}",
            median(of_row[0].clone()),
            lane / proxy,
        );
    }
    drop((servers, gateways));
}

fn policy(more: &str) -> String {
    let [p4, p6] = PERMITTED;
    let admin = lab::ADMIN;
    format!(
        "schema = 1
[policy]
permit = [\"FR\"]
[[place]]
to = [\"{p4}/32\", \"{p6}/128\"]
location = [\"FR\"]
reason = \"the permitted side of the laboratory\"
[[listen]]
mode = \"tproxy\"
address = \"[::]:15001\"
max_connections_per_client = 0
{more}{}
[admin]
address = \"{admin}\"
",
        if more.is_empty() { "" } else { "max_connections_per_client = 0" }
    )
}

/// A process that ends with this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may be gone already.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The program, as it is installed where the environment says so.
fn gateway(lab: &Lab, policy: &std::path::Path) -> Running {
    let program = env::var("SCHENGATE_BENCH_PROGRAM")
        .unwrap_or_else(|_| env!("CARGO_BIN_EXE_schengate").into());
    let log = File::create(lab.write("gateway.log", "")).unwrap();
    let mut command = lab.gateway.command(program);
    command.args(["run", "--config"]).arg(policy).stdin(Stdio::null());
    let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    let child = Running(child);
    wait_until("the gateway is ready", || {
        let ready = format!("curl -sf --noproxy '*' http://{}/readyz", lab::ADMIN);
        lab.gateway.shell(&ready).is_ok().then_some(())
    });
    child
}

fn server(lab: &Lab) -> Running {
    let mut command: Command = lab.world.command(env::current_exe().unwrap());
    let mut child = command.arg("serve").stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    Running(child)
}

/// Seconds of the machine that a load takes, and the median of its parts in microseconds.
fn run(lab: &Lab, kind: &str, clients: usize, each: u64) -> (f64, f64) {
    let mut command = lab.client.command(env::current_exe().unwrap());
    command.args(["load", kind, &clients.to_string(), &each.to_string()]);
    let before = busy();
    let output = command.output().unwrap();
    let spent = (busy() - before) / TICKS;
    assert!(output.status.success(), "{kind}: {}", lab::said(&output));
    (spent, String::from_utf8_lossy(&output.stdout).trim().parse().unwrap())
}

/// Ticks that no processor was idle.
fn busy() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap();
    let first = stat.lines().next().unwrap();
    let ticks: Vec<f64> =
        first.split_whitespace().skip(1).map(|word| word.parse().unwrap()).collect();
    // user, nice, system, idle, iowait, irq, softirq
    ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The first eight bytes of what a client says: how many bytes to send and then close, or, where the
/// highest bit is set, to send back 64 bytes at a time whatever comes.
fn serve() -> io::Result<()> {
    let listener = TcpListener::bind((PERMITTED[0], PORT))?;
    println!("ready");
    for stream in listener.incoming() {
        let mut stream = stream?;
        thread::spawn(move || {
            let mut asked = [0; ASKED];
            // A client that leaves early says so itself.
            if stream.set_nodelay(true).is_err() || stream.read_exact(&mut asked).is_err() {
                return;
            }
            let order = u64::from_be_bytes(*asked.first_chunk().expect("eight bytes"));
            let mut block = vec![1; 256 * 1024];
            if order >> 63 == 1 {
                while stream.read_exact(&mut block[..64]).is_ok() {
                    if stream.write_all(&block[..64]).is_err() {
                        return;
                    }
                }
            }
            let mut left = order;
            while left > 0 && order >> 63 == 0 {
                let part = usize::try_from(left).unwrap_or(block.len()).min(block.len());
                if stream.write_all(&block[..part]).is_err() {
                    return;
                }
                left -= part as u64;
            }
        });
    }
    Ok(())
}

fn ask(order: u64) -> TcpStream {
    let mut stream = TcpStream::connect((PERMITTED[0], PORT)).expect("a connection");
    stream.set_nodelay(true).expect("a socket");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
    let mut asked = [7; ASKED];
    asked[..8].copy_from_slice(&order.to_be_bytes());
    stream.write_all(&asked).expect("an order");
    stream
}

fn read_all(mut stream: TcpStream, mut left: u64) {
    let mut block = vec![0; 256 * 1024];
    while left > 0 {
        let read = stream.read(&mut block).expect("bytes");
        assert_ne!(read, 0, "the end came early");
        left -= read as u64;
    }
}

/// Prints the median time of one connection to its first byte, in microseconds; 0 for other kinds.
fn load(kind: &str, clients: usize, each: u64) {
    let sum = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..clients)
        .map(|_| {
            let (kind, sum) = (kind.to_owned(), Arc::clone(&sum));
            thread::spawn(move || {
                let mut waits = Vec::new();
                match kind.as_str() {
                    "connect" => {
                        for _ in 0..each {
                            let begun = Instant::now();
                            let mut stream = ask(ANSWERED);
                            stream.read_exact(&mut [0; 1]).expect("a byte");
                            waits.push(begun.elapsed().as_secs_f64() * 1e6);
                            read_all(stream, ANSWERED - 1);
                        }
                    }
                    "trips" => {
                        let mut stream = ask(1 << 63);
                        let mut block = [0; 64];
                        for _ in 0..each {
                            stream.write_all(&block).expect("room");
                            stream.read_exact(&mut block).expect("an answer");
                        }
                    }
                    _ => read_all(ask(each), each),
                }
                sum.fetch_max(median(waits).max(0.0) as u64, Ordering::Relaxed);
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().expect("a client"));
    println!("{}", sum.load(Ordering::Relaxed));
}

fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("");
    format!(
        "machine: {} x{}, Linux {}, load {}",
        model.trim_start_matches(['\t', ' ', ':']),
        cpus.matches("processor\t").count(),
        read("/proc/sys/kernel/osrelease").trim(),
        read("/proc/loadavg").trim()
    )
}
