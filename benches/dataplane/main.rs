//! What a connection and a gigabyte cost in the data plane, beside others that relay TCP.
//!
//! ```text
//! cargo bench --bench dataplane              seven rounds, some ten minutes
//! cargo bench --bench dataplane -- --brief   one round of a quarter, about a minute
//! ... --rounds=5 --only=schengate,haproxy-1m fewer rounds, or contenders
//! ... --only=schengate,unfiltered            what its seccomp filters cost: a second one runs without
//! ```
//! To measure what is installed: `cargo build --profile dist`, and its path in
//! `SCHENGATE_BENCH_PROGRAM`.
//!
//! Needs root, `nft`, `ip`, `cc`; `haproxy` and `nginx` with its stream module are left out, with a
//! word, where they are not installed.
//!
//! Client, gateway and world are network namespaces joined by veth. All contenders run at once in
//! the gateway's, one thread each, and every round asks each of them in turn. schengate judges by
//! 200 rules with the embedded tables and writes records; HAProxy and nginx look the destination
//! up among 200,000 prefixes and the hello's name among 10,000 in the fastest form that each has
//! (exact names, no case to fold), and write a log line; the two of `bare.c` do neither. All but
//! nginx, which cannot listen transparently and forwards to a fixed address, get their connections
//! by TPROXY.
//!
//! CPU is the run time that the kernel counts for the contender's threads
//! (`/proc/PID/task/*/schedstat`), its share of the network stack included. A ratio is to HAProxy
//! with pipes of 1 MiB in the same round; figures and ratios are medians over the rounds.

#[path = "../../tests/lab/mod.rs"]
mod lab;
mod load;
mod once;

use std::env;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use lab::{Lab, has, wait_until};
use schengate::sys;

const SERVER_PORT: u16 = 443;

/// The address whose connections schengate judges by name, and the one whose connections it judges by
/// the address alone, without waiting for a byte: the last part of each.
const READ: u16 = 11;
const UNREAD: u16 = 17;

/// Among the contenders, the one that ratios are to.
const MEASURE: &str = "haproxy-1m";

/// What is measured: title, unit.
/// What is asked of schengate follows: a ratio to [`MEASURE`], or a figure of its own.
const ROWS: [(&str, &str, &str); 12] = [
    ("CPU, new connection, hello of 517 B", "us", "x <= 0.82, and <= 0.87 of nginx"),
    ("CPU, new connection, hello of 1750 B", "us", "x <= 0.82, and <= 0.87 of nginx"),
    ("CPU, the same with 517 B, closed by the client", "us", "x <= 0.90"),
    ("CPU, the same with 1750 B, closed by the client", "us", "x <= 0.90"),
    ("new connections, 64 at a time", "1/s", "x >= 1.15"),
    ("added time to first byte, p50", "us", "x <= 0.75"),
    ("CPU, one download", "s/GB", "x <= 0.95"),
    ("CPU, 64 downloads", "s/GB", "x <= 0.88"),
    ("CPU, 64 uploads", "s/GB", "x <= 0.88"),
    ("CPU, 32 downloads and 32 uploads", "s/GB", "x <= 0.88"),
    ("64 downloads", "Gbit/s", "x >= 1.00"),
    ("CPU, 64 B round trip, 64 conns", "us", "x <= 0.72"),
];

/// Where the added time to the first byte stands among the rows.
const FIRST_BYTE: usize = 5;

/// Volumes of a round.
struct Volume {
    rounds: usize,
    connections: u64,
    waits: u64,
    one: u64,
    each_of_64: u64,
    trips: u64,
    held: u64,
    /// Connections that are held while new ones come.
    crowd: u64,
    /// Seconds for which new ones come.
    seconds: u64,
}

const FULL: Volume = Volume {
    rounds: 7,
    connections: 2000,
    waits: 300,
    one: 1 << 30,
    each_of_64: 24 << 20,
    trips: 200,
    held: 2000,
    crowd: 10_000,
    seconds: 4,
};

const BRIEF: Volume = Volume {
    rounds: 1,
    connections: 400,
    waits: 100,
    one: 128 << 20,
    each_of_64: 3 << 20,
    trips: 40,
    held: 500,
    crowd: 1000,
    seconds: 1,
};

/// One that relays, and how the client reaches the world through it.
struct Contender {
    name: &'static str,
    to: String,
    /// `None` for the kernel's own forwarding.
    child: Option<Running>,
}

/// The contender that is held against the others.
const OURS: &str = "schengate";

/// The same without its seccomp filters; only where it is asked for.
const UNFILTERED: &str = "unfiltered";

/// A process that ends with this, so that a bench that breaks off leaves none behind.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may be gone already.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn main() {
    let words: Vec<String> = env::args().skip(1).collect();
    match words.split_first() {
        Some((role, _)) if role == "serve" => return load::serve(SERVER_PORT).expect("the server"),
        Some((role, rest)) if role == "load" => return load::run(rest).expect("the load"),
        _ => {}
    }
    let volume = if words.iter().any(|word| word == "--brief") { &BRIEF } else { &FULL };
    let only = words.iter().find_map(|word| word.strip_prefix("--only="));
    let rounds = words.iter().find_map(|word| word.strip_prefix("--rounds=")?.parse().ok());
    let volume = &Volume { rounds: rounds.unwrap_or(volume.rounds), ..*volume };
    if !(has("nft") && has("ip") && has("cc")) {
        return println!("LEFT OUT: the bench needs nft, ip and cc");
    }
    let Some(lab) = lab::lab("the bench of the data plane") else { return };
    bench(&lab, volume, only);
}

fn bench(lab: &Lab, volume: &Volume, only: Option<&str>) {
    println!("{}", machine());
    connections_max();
    let mut server = role(lab.world.command(env::current_exe().unwrap()).arg("serve"));
    assert_eq!(line_of(&mut server), "ready");
    let contenders = start(lab, only);
    // Each has served before anything is measured.
    for contender in &contenders {
        ask(lab, contender, &["connect", "4", "50", "517"]);
        ask(lab, contender, &["down", "4", "0", "33554432"]);
    }
    let mut rounds: Vec<Vec<[f64; ROWS.len()]>> = Vec::new();
    let find = |name: &str| contenders.iter().find(|one| one.name == name);
    let (unread, bare) = (at(UNREAD), find("bare-copy").map(|bare| bare.to.clone()));
    let mut later = [vec![], vec![]];
    for number in 0..volume.rounds {
        let mut round: Vec<_> = contenders.iter().map(|one| measure(lab, one, volume)).collect();
        let direct = round[0][FIRST_BYTE];
        round.iter_mut().for_each(|figures| figures[FIRST_BYTE] -= direct);
        rounds.push(round);
        let others = [find(OURS).map(|_| &unread), bare.as_ref()];
        for (later, other) in later.iter_mut().zip(others) {
            later.extend(other.map(|other| later_than(lab, other, volume.waits)));
        }
        eprintln!("round {} of {}", number + 1, volume.rounds);
    }
    print!("{}", table(&contenders, &rounds));
    println!("\nfirst byte through {OURS} later than, in turn, p50    (asked: <= 5 us)");
    let named = ["unread", "bare-copy"].into_iter().zip(later);
    for (other, later) in named.filter(|(_, later)| !later.is_empty()) {
        println!("  {other:<12} {:>10.2} us", median(later));
    }
    once::memory(lab, &contenders, volume.held.min(connections_max() / 8));
    let crowd = volume.crowd.min(connections_max() - 300);
    once::crowd(lab, &contenders, crowd, volume.seconds);
    once::reloads(lab, &contenders);
}

fn measure(lab: &Lab, one: &Contender, volume: &Volume) -> [f64; ROWS.len()] {
    let cpu = |words: &[&str]| {
        let before = one.cpu();
        let answer = ask(lab, one, words);
        (one.cpu() - before, answer)
    };
    let text = |number: u64| number.to_string();
    let per_thread = text(volume.connections / 8);
    let connects = (volume.connections / 8 * 8) as f64;
    let (small, _) = cpu(&["connect", "8", &per_thread, "517"]);
    let (large, _) = cpu(&["connect", "8", &per_thread, "1750"]);
    let (small_left, _) = cpu(&["leave", "8", &per_thread, "517"]);
    let (large_left, _) = cpu(&["leave", "8", &per_thread, "1750"]);
    let (_, many) = cpu(&["connect", "64", &text(volume.connections / 64), "517"]);
    let (_, first) = cpu(&["connect", "1", &text(volume.waits), "517"]);
    let (down, _) = cpu(&["down", "1", "0", &text(volume.one)]);
    let (downs, downloads) = cpu(&["down", "64", "0", &text(volume.each_of_64)]);
    let (ups, _) = cpu(&["up", "64", "0", &text(volume.each_of_64)]);
    let (both, _) = cpu(&["both", "64", "0", &text(volume.each_of_64)]);
    let (trips, _) = cpu(&["trips", "64", &text(volume.trips), "64"]);
    let all = (volume.each_of_64 * 64) as f64;
    [
        small * 1e6 / connects,
        large * 1e6 / connects,
        small_left * 1e6 / connects,
        large_left * 1e6 / connects,
        (volume.connections / 64 * 64) as f64 / many.took,
        first.median,
        down * 1e9 / volume.one as f64,
        downs * 1e9 / all,
        ups * 1e9 / all,
        both * 1e9 / all,
        all * 8.0 / downloads.took / 1e9,
        trips * 1e6 / (64 * volume.trips) as f64,
    ]
}

/// How much later the first byte comes through schengate, which reads the hello and judges by its name,
/// than the other way, in microseconds; both other ways dial without waiting for the hello, so that the
/// time until it comes is in the figure. Taken in turn, connection by connection: from one phase of a
/// round to the next the machine changes by more than this is.
fn later_than(lab: &Lab, other: &str, pairs: u64) -> f64 {
    let both = Contender { name: OURS, to: format!("{},{other}", at(READ)), child: None };
    ask(lab, &both, &["connect", "1", &pairs.to_string(), "517"]).median
}

impl Contender {
    /// Seconds on a processor so far, all threads.
    fn cpu(&self) -> f64 {
        let Some(child) = &self.child else { return 0.0 };
        let tasks =
            fs::read_dir(format!("/proc/{}/task", child.0.id())).expect("a contender ended");
        let of = |path: &Path| {
            let text = fs::read_to_string(path.join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<f64>().ok()
        };
        tasks.flatten().filter_map(|task| of(&task.path())).sum::<f64>() / 1e9
    }

    /// Anonymous resident memory in bytes.
    fn memory(&self) -> f64 {
        let Some(child) = &self.child else { return 0.0 };
        let status = fs::read_to_string(format!("/proc/{}/status", child.0.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1024.0
    }
}

/// What a load says of itself: seconds it took, and of its parts the median and the 99th percentile
/// in microseconds.
#[derive(Clone, Copy)]
struct Answer {
    took: f64,
    median: f64,
    p99: f64,
}

/// Runs a load against a contender.
fn ask(lab: &Lab, one: &Contender, words: &[&str]) -> Answer {
    let [kind, rest @ ..] = words else { unreachable!("a load has a kind") };
    let words = [&["load", kind, &one.to][..], rest].concat();
    let output =
        lab.client.command(env::current_exe().unwrap()).args(&words).output().expect("a load");
    assert!(output.status.success(), "{}: {words:?}: {}", one.name, lab::said(&output));
    let text = String::from_utf8_lossy(&output.stdout);
    let mut numbers = text.split_whitespace().map(|word| word.parse::<f64>().unwrap());
    let mut next = || numbers.next().expect("a load prints three numbers");
    Answer { took: next(), median: next(), p99: next() }
}

/// Starts every contender there is.
fn start(lab: &Lab, only: Option<&str>) -> Vec<Contender> {
    lab.world
        .shell(
            "for n in 10 11 12 13 14 15 16 17 18; do ip address add 198.51.100.$n/32 dev eth0; done",
        )
        .unwrap();
    lab.gateway
        .shell(
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.tcp_tw_reuse=1
            sysctl -qw net.ipv4.ip_local_port_range='10000 64000' || true
            ip rule add fwmark 1 lookup 100; ip route add local default dev lo table 100",
        )
        .unwrap();
    let mut rules = String::from(
        "table ip bench { chain prerouting { type filter hook prerouting priority mangle;\n\
         meta l4proto tcp socket transparent 1 meta mark set 1 accept\n",
    );
    let mut all = vec![Contender { name: "direct", to: at(10), child: None }];
    let wanted = |name: &str| only.is_none_or(|only| only.split(',').any(|one| one == name));
    let mut add = |name: &'static str, octet: u16, command: Option<Command>| {
        let Some(mut command) = command.filter(|_| wanted(name)) else { return };
        let log = File::create(lab.write(&format!("{name}.log"), "")).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let child = Running(child);
        let port = 15_000 + octet;
        writeln!(rules, "ip daddr 198.51.100.{octet} tcp dport {SERVER_PORT} tproxy to :{port} meta mark set 1 accept").unwrap();
        let to = if name == "nginx" { format!("{}:{port}", lab::GATEWAY[0]) } else { at(octet) };
        wait_until(&format!("{name} listens"), || {
            let sockets =
                lab.gateway.shell(&format!("cat /proc/{}/net/tcp*", child.0.id())).ok()?;
            sockets.contains(&format!(":{port:04X} ")).then_some(())
        });
        all.push(Contender { name, to, child: Some(child) });
    };
    add(OURS, READ, Some(schengate(lab, READ)));
    add(UNFILTERED, 18, only.map(|_| unfiltered(lab, 18)));
    add("haproxy", 12, has("haproxy").then(|| haproxy(lab, 12, "")));
    add(MEASURE, 13, has("haproxy").then(|| haproxy(lab, 13, "tune.pipesize 1048576")));
    add("nginx", 14, nginx(lab, 14));
    add("bare-copy", 15, Some(bare(lab, "copy", 15)));
    add("bare-splice", 16, Some(bare(lab, "splice", 16)));
    writeln!(
        rules,
        "ip daddr 198.51.100.{UNREAD} tcp dport {SERVER_PORT} tproxy to :{} meta mark set 1 accept",
        15_000 + READ
    )
    .unwrap();
    let path = lab.write("bench.nft", &(rules + "}\n}\n"));
    lab.gateway.shell(&format!("nft -f {}", path.display())).unwrap();
    all
}

fn at(octet: u16) -> String {
    format!("198.51.100.{octet}:{SERVER_PORT}")
}

fn schengate(lab: &Lab, octet: u16) -> Command {
    let mut policy = format!(
        "schema = 1\n[policy]\nmode = 'enforce'\npermit = ['eea']\n\
         [[place]]\nto = ['198.51.100.0/24']\nlocation = ['FR']\nreason = 'bench'\n\
         [[listen]]\nmode = 'tproxy'\naddress = '0.0.0.0:{}'\n\
         [admin]\naddress = '127.0.0.1:{}'\n\
         [[rule]]\nname = 'unread'\nto = ['198.51.100.{UNREAD}/32']\naction = 'allow'\n",
        15_000 + octet,
        // Where it is asked for its figures.
        if octet == READ { 9643 } else { 9643 + octet },
    );
    for n in 0..200 {
        let hosts = format!("['h{n}.example.net', '*.z{n}.example.org']");
        writeln!(policy, "[[rule]]\nname = 'r{n}'\nhost = {hosts}\naction = 'block'").unwrap();
    }
    // The one that is reloaded by its name.
    let file = if octet == READ { "bench.toml".to_owned() } else { format!("bench{octet}.toml") };
    let path = lab.write(&file, &policy);
    let program = env::var("SCHENGATE_BENCH_PROGRAM")
        .unwrap_or_else(|_| env!("CARGO_BIN_EXE_schengate").into());
    let mut command = lab.gateway.command(program);
    command.args(["run", "--workers", "1", "--config"]).arg(path);
    command
}

/// A gateway that finds a kernel without seccomp filters.
fn unfiltered(lab: &Lab, octet: u16) -> Command {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/dataplane/unfiltered.c");
    let library = lab.write("unfiltered.so", "");
    let mut cc = Command::new("cc");
    let built = cc.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(source);
    assert!(built.arg("-ldl").status().unwrap().success(), "unfiltered.c does not compile");
    let mut command = schengate(lab, octet);
    command.env("LD_PRELOAD", library);
    command
}

fn haproxy(lab: &Lab, octet: u16, tuning: &str) -> Command {
    let (port, most) = (15_000 + octet, connections_max());
    let known = lab.write("prefixes", &prefixes("\n"));
    let refused = lab.write("names", &names("\n"));
    let text = format!(
        "global\n nbthread 1\n maxconn {most}\n log stdout format raw local0\n {tuning}\n\
         defaults\n mode tcp\n log global\n option tcplog\n option splice-auto\n\
         \x20timeout connect 10s\n timeout client 1h\n timeout server 1h\n\
         listen bench\n bind 0.0.0.0:{port} transparent\n tcp-request inspect-delay 3s\n\
         \x20tcp-request connection reject unless {{ dst -f {known} }}\n\
         \x20tcp-request content capture req.ssl_sni len 100\n\
         \x20tcp-request content reject if {{ req.ssl_sni -m str -f {refused} }}\n\
         \x20tcp-request content accept if {{ req.ssl_hello_type 1 }}\n server world 0.0.0.0\n",
        known = known.display(),
        refused = refused.display(),
    );
    let path = lab.write(&format!("haproxy{octet}.cfg"), &text);
    let mut command = lab.gateway.command("haproxy");
    command.args(["-db", "-f"]).arg(path);
    command
}

/// Networks of /24 that HAProxy and nginx let pass, the world and nginx's own address among them,
/// each before `end`.
fn prefixes(end: &str) -> String {
    let mut text = format!("198.51.100.0/24{end}{}/32{end}", lab::GATEWAY[0]);
    for n in 1..=200_000_u32 {
        // An odd factor: no network twice.
        let [_, a, b, c] = (n.wrapping_mul(0x9E37_79B1) & 0xFF_FFFF).to_be_bytes();
        write!(text, "{a}.{b}.{c}.0/24{end}").unwrap();
    }
    text
}

/// Names that HAProxy and nginx refuse, each before `end`.
fn names(end: &str) -> String {
    (0..10_000).fold(String::new(), |text, n| text + &format!("n{n}.names.example{end}"))
}

/// Connections that every process here may have at once: two descriptors each, and HAProxy, which
/// does not start with fewer, wants a half for pipes. `bare-splice` has four more for pipes: it
/// is asked for far fewer.
fn connections_max() -> u64 {
    // Children have the limit of this process.
    let limit = sys::raise_descriptor_limit().expect("a limit of descriptors");
    (limit.saturating_sub(500) / 3).min(30_000)
}

fn nginx(lab: &Lab, octet: u16) -> Option<Command> {
    let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
    if !has("nginx") || !Path::new(module).exists() {
        println!("LEFT OUT: nginx with its stream module is not installed");
        return None;
    }
    let log = lab.write("nginx-access.log", "");
    let known = lab.write("nginx-prefixes", &prefixes(" 1;\n"));
    let refused = lab.write("nginx-names", &names(" 1;\n"));
    let text = format!(
        "load_module {module};\ndaemon off;\nmaster_process off;\nerror_log stderr;\n\
         pid {log}.pid;\nevents {{ worker_connections 60000; }}\n\
         stream {{ log_format line '$remote_addr $ssl_preread_server_name $bytes_sent';\n\
         access_log {log} line;\nmap_hash_max_size 32768; map_hash_bucket_size 128;\n\
         geo $server_addr $known {{ default 0; include {known}; }}\n\
         map $ssl_preread_server_name $refused {{ default 0; include {refused}; }}\n\
         map $known$refused $to {{ default 127.0.0.1:1; 10 {to}; }}\n\
         server {{ listen {}; ssl_preread on; proxy_timeout 1h; proxy_pass $to; }} }}\n",
        15_000 + octet,
        to = at(octet),
        log = log.display(),
        known = known.display(),
        refused = refused.display(),
    );
    let path = lab.write("nginx.conf", &text);
    let mut command = lab.gateway.command("nginx");
    command.arg("-c").arg(path);
    Some(command)
}

fn bare(lab: &Lab, how: &str, octet: u16) -> Command {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/dataplane/bare.c");
    let program = lab.write("bare", "").with_file_name(format!("bare-{how}"));
    let built = Command::new("cc").arg("-O2").arg("-o").arg(&program).arg(source).status().unwrap();
    assert!(built.success(), "bare.c does not compile");
    let mut command = lab.gateway.command(program);
    command.args([how, &(15_000 + octet).to_string()]);
    command
}

fn role(command: &mut Command) -> Running {
    Running(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
}

fn line_of(child: &mut Running) -> String {
    let mut line = String::new();
    BufReader::new(child.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

fn table(contenders: &[Contender], rounds: &[Vec<[f64; ROWS.len()]>]) -> String {
    let mut text = String::new();
    let column_of = |name: &str| contenders.iter().position(|one| one.name == name);
    let (measure, nginx) = (column_of(MEASURE), column_of("nginx"));
    for (row, (title, unit, asked)) in ROWS.iter().enumerate() {
        writeln!(text, "\n{title}    (asked: {asked})").unwrap();
        for (column, one) in contenders.iter().enumerate().skip(1) {
            let figure = median(rounds.iter().map(|round| round[column][row]).collect());
            write!(text, "  {:<12} {figure:>10.2} {unit:<6}", one.name).unwrap();
            let ratio = |to: usize| {
                median(rounds.iter().map(|round| round[column][row] / round[to][row]).collect())
            };
            if let Some(measure) = measure {
                write!(text, "  x {:.2}", ratio(measure)).unwrap();
            }
            if let Some(nginx) = nginx.filter(|_| one.name == OURS && asked.contains("nginx")) {
                write!(text, ", x {:.2} of nginx", ratio(nginx)).unwrap();
            }
            writeln!(text).unwrap();
        }
    }
    text
}

fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("");
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    format!(
        "machine: {} x{}, Linux {}, load {}",
        model.trim_start_matches(['\t', ' ', ':']),
        cpus.matches("processor\t").count(),
        kernel.trim(),
        load.trim()
    )
}
