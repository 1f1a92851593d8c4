//! What a gigabyte costs that the kernel carries by the short cut, beside one that it merely forwards.
//!
//! ```text
//! BENCH=1 cargo bench --bench shortcut              nine rounds
//! cargo bench --bench shortcut -- --brief           one short round
//! ```
//! Needs root, `nft` and `ip`. Two laboratories stand side by side: in one the kernel forwards, with
//! no rule at all; in the other it forwards what the embedded tables permit, by the sets that a
//! running gateway filled in. Each round downloads in both, one after the other.
//!
//! CPU is all time that the machine was not idle (`/proc/stat`), both ends of the connections
//! included, since forwarding over veth is done in the time of whoever sends. Leave the machine
//! alone. What is forwarded without the ends is less, so that the share of the sets in it is more
//! than the ratio says: the difference in CPU a GB is printed as well.

#[path = "../tests/lab/mod.rs"]
mod lab;

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;

use lab::{Lab, PERMITTED, has, wait_until};

const PORT: u16 = 9001;

/// Clock ticks a second in `/proc/stat`, which is an interface of the kernel and does not change.
const TICKS: f64 = 100.0;

struct Volume {
    rounds: usize,
    connections: usize,
    /// Bytes of one connection.
    each: u64,
}

fn main() {
    let words: Vec<String> = env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["serve"] => return serve().expect("the server"),
        ["load", connections, each] => {
            return load(connections.parse().unwrap(), each.parse().unwrap());
        }
        _ => {}
    }
    let volume = if words.iter().any(|word| word == "--brief") {
        Volume { rounds: 1, connections: 8, each: 16 << 20 }
    } else {
        Volume { rounds: 9, connections: 64, each: 64 << 20 }
    };
    if !(has("nft") && has("ip")) {
        return println!("LEFT OUT: the bench needs nft and ip");
    }
    let labs = (lab::lab("plain forwarding"), lab::lab("the short cut"));
    let (Some(plain), Some(short)) = labs else { return };
    bench(&plain, &short, &volume);
}

fn bench(plain: &Lab, short: &Lab, volume: &Volume) {
    plain.switch_forwarding_on();
    let policy = policy();
    let file = short.write("frame.toml", &policy);
    let mut up = short.gateway.command(env!("CARGO_BIN_EXE_schengate"));
    up.args(["capture", "up", "--gateway", "--interface", "lan0", "--config"]).arg(&file);
    assert!(up.status().unwrap().success(), "capture up");
    let gateway = short.start_gateway(&policy);
    let intervals = wait_until("the kernel has its sets", || {
        Some(gateway.count("schengate_kernel_intervals ")).filter(|&count| count > 0.0)
    });
    println!("embedded tables, permit = [\"FR\"]: {intervals} intervals in the kernel");
    let servers = [plain, short].map(server);
    let mut ratios = Vec::new();
    let mut costs = (Vec::new(), Vec::new());
    for round in 0..volume.rounds {
        // Who goes first takes turns.
        let mut cost = [0.0; 2];
        for at in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            cost[at] = download([plain, short][at], volume);
        }
        println!("round {round}: forwarding {:.3}, short cut {:.3} CPU s a GB", cost[0], cost[1]);
        costs.0.push(cost[0]);
        costs.1.push(cost[1]);
        ratios.push(cost[1] / cost[0]);
    }
    assert_eq!(gateway.count("schengate_connections_total{"), 0.0, "the gateway saw connections");
    let (forwarding, shortcut) = (median(&mut costs.0), median(&mut costs.1));
    println!(
        "median: forwarding {forwarding:.3}, short cut {shortcut:.3} CPU s a GB (difference {:+.3}); \
         ratio in a round, median {:.3}; at most 1.1 is asked",
        shortcut - forwarding,
        median(&mut ratios)
    );
    drop(servers);
}

fn policy() -> String {
    let [p4, p6] = PERMITTED;
    let admin = lab::ADMIN;
    format!(
        "schema = 1
[policy]
permit = [\"FR\"]
[capture]
shortcut = \"address\"
[[place]]
to = [\"{p4}/32\", \"{p6}/128\"]
location = [\"FR\"]
reason = \"the permitted side of the laboratory\"
[[listen]]
mode = \"tproxy\"
address = \"[::]:15001\"
[admin]
address = \"{admin}\"
"
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

fn server(lab: &Lab) -> Running {
    let mut command: Command = lab.world.command(env::current_exe().unwrap());
    let mut child = command.arg("serve").stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    Running(child)
}

/// CPU seconds a GB of a download.
fn download(lab: &Lab, volume: &Volume) -> f64 {
    let Volume { connections, each, .. } = *volume;
    let mut command = lab.client.command(env::current_exe().unwrap());
    command.args(["load", &connections.to_string(), &each.to_string()]);
    let before = busy();
    assert!(command.status().unwrap().success(), "the download failed");
    let spent = (busy() - before) / TICKS;
    spent / (connections as f64 * each as f64 / 1e9)
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

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Sends each client as many bytes as it asks for.
fn serve() -> io::Result<()> {
    let listener = TcpListener::bind((PERMITTED[0], PORT))?;
    println!("ready");
    for stream in listener.incoming() {
        let mut stream = stream?;
        thread::spawn(move || {
            let mut count = [0; 8];
            let block = vec![1; 256 * 1024];
            // A client that leaves early says so itself.
            if stream.read_exact(&mut count).is_err() {
                return;
            }
            let mut left = u64::from_be_bytes(count);
            while left > 0 {
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

fn load(connections: usize, each: u64) {
    let clients: Vec<_> = (0..connections)
        .map(|_| {
            thread::spawn(move || {
                let mut stream = TcpStream::connect((PERMITTED[0], PORT)).expect("a connection");
                stream.write_all(&each.to_be_bytes()).expect("an order");
                let mut block = vec![0; 256 * 1024];
                let mut left = each;
                while left > 0 {
                    let read = stream.read(&mut block).expect("bytes");
                    assert_ne!(read, 0, "the end came early");
                    left -= read as u64;
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().expect("a client"));
}
