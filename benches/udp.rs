//! What reading a QUIC Initial costs, and what the UDP relay carries beside a plain relay of two
//! sockets (UDP_GRO, UDP_SEGMENT) in the same run: client, gateway and world in network namespaces,
//! the built binary with its real rules. Must reach: an Initial in 12 us, 70 % of the plain relay.

use std::env;
use std::fs;
use std::hint::black_box;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use criterion::Criterion;
use rustls::quic::Version;
use schengate::identify::quic::{QuicReader, QuicStep};
use schengate::sys::udp::{self, RUN_MAX};
use serde_json::{Value, json};
use tokio::io::Interest;

#[path = "../tests/flights/mod.rs"]
mod flights;
#[path = "../tests/lab/mod.rs"]
mod lab;

use lab::{PERMITTED, at};

const NAME: &str = "images.storage.region-eu-west.example";
const DCID: &[u8] = b"\x83\x94\xc8\xf0\x3e\x51\x57\x08";

/// Where the world counts, and where the plain relay listens on the gateway.
const SINK: u16 = 9100;
const PLAIN: &str = "192.0.2.1:9101";

/// As QUIC sends: datagrams of 1200 bytes, 25 in a run.
const DATAGRAM: usize = 1200;
const BURST: usize = 25;
/// Between two runs, so that the sender does not starve the relay on a small machine.
const PACE: Duration = Duration::from_micros(40);
const ROUND: Duration = Duration::from_millis(1500);
const ROUNDS: usize = 5;

fn main() {
    match env::var(lab::role::VARIABLE).as_deref() {
        Ok("sink") => sink(),
        Ok("plain") => plain(),
        Ok("blast") => lab::role::serve(blast),
        _ => {
            initials(&mut Criterion::default().configure_from_args());
            relays();
        }
    }
}

fn initials(criterion: &mut Criterion) {
    for (what, version) in [("v1", Version::V1), ("v2", Version::V2)] {
        let hello = flights::quic_hello(NAME, &[b"h3".to_vec()]);
        let datagram = flights::initial(version, DCID, 0, &flights::crypto_frame(0, &hello));
        assert_eq!(datagram.len(), DATAGRAM);
        let read = |datagram: &[u8]| {
            let mut reader = QuicReader::new();
            assert_eq!(reader.push(datagram), QuicStep::Done);
            reader.identity().name.map_or(0, |(name, _)| name.as_bytes().len())
        };
        assert_eq!(read(&datagram), NAME.len());
        criterion.bench_function(&format!("quic_initial_{what}"), |bencher| {
            bencher.iter(|| read(black_box(&datagram)));
        });
        let initial = {
            let mut reader = QuicReader::new();
            reader.push(&datagram);
            reader.initial().expect("an Initial")
        };
        criterion.bench_function(&format!("quic_refusal_{what}"), |bencher| {
            bencher.iter(|| black_box(initial).refusal());
        });
    }
}

/// What a relay carried in one round, and the processor time that it took.
#[derive(Clone, Copy)]
struct Carried {
    bytes: f64,
    seconds: f64,
    cpu_seconds: f64,
}

impl Carried {
    fn gigabits(self) -> f64 {
        self.bytes * 8.0 / self.seconds / 1e9
    }

    /// Bytes for each second of one processor: what a relay can carry where nothing else limits it.
    fn by_cpu(self) -> f64 {
        self.bytes * 8.0 / self.cpu_seconds / 1e9
    }
}

fn relays() {
    let Some(lab) = lab::lab("the relay's bench") else {
        println!("LEFT OUT: no network namespaces, so that the relays are not compared");
        return;
    };
    let policy = format!(
        "schema = 1\n[policy]\nmode = \"enforce\"\npermit = [\"FR\"]\n\
         [[place]]\nto = [\"{}/32\"]\nlocation = [\"FR\"]\nreason = \"the laboratory\"\n\
         [[listen]]\nmode = \"tproxy\"\naddress = \"[::]:15001\"\n\
         [admin]\naddress = \"{}\"\n",
        PERMITTED[0],
        lab::ADMIN,
    );
    let gateway = lab.start_gateway(&policy);
    gateway.capture();
    let (mut world, plain) = (lab.world.helper("sink"), lab.gateway.helper("plain"));
    let mut client = lab.client.helper("blast");
    let mut round = |to: &str, pid: u32| {
        let before = (world.ask(&Value::Null), cpu_seconds(pid));
        let begun = Instant::now();
        client.ask(&json!({"to": to, "ms": ROUND.as_millis() as u64}));
        let after = (world.ask(&Value::Null), cpu_seconds(pid));
        Carried {
            bytes: after.0.as_f64().expect("bytes") - before.0.as_f64().expect("bytes"),
            seconds: begun.elapsed().as_secs_f64(),
            cpu_seconds: after.1 - before.1,
        }
    };
    let mut ratios = Vec::new();
    for n in 0..ROUNDS {
        let ours = round(&at(PERMITTED[0], SINK), gateway.pid());
        let plain = round(PLAIN, plain.pid());
        println!(
            "round {n}: schengate {:.2} Gbit/s, {:.2} per processor; plain {:.2}, {:.2}",
            ours.gigabits(),
            ours.by_cpu(),
            plain.gigabits(),
            plain.by_cpu()
        );
        ratios.push((ours.bytes / plain.bytes, ours.by_cpu() / plain.by_cpu()));
    }
    let median = |mut of: Vec<f64>| {
        of.sort_by(f64::total_cmp);
        of[of.len() / 2]
    };
    let (carried, by_cpu): (Vec<f64>, Vec<f64>) = ratios.into_iter().unzip();
    println!(
        "udp relay, ratio to the plain one (median of {ROUNDS}): carried {:.2}, per processor {:.2}",
        median(carried),
        median(by_cpu)
    );
}

/// User and system time of a process, in ticks of 10 ms.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    let (_, behind_name) = stat.rsplit_once(") ").expect("a name in brackets");
    let ticks = |field: usize| behind_name.split(' ').nth(field).and_then(|t| t.parse().ok());
    let (user, system): (u32, u32) = (ticks(11).expect("utime"), ticks(12).expect("stime"));
    f64::from(user + system) / 100.0
}

/// Counts what arrives.
fn sink() {
    static BYTES: AtomicU64 = AtomicU64::new(0);
    let socket = UdpSocket::bind(at(PERMITTED[0], SINK)).expect("the world's address");
    udp::want_runs(&socket).expect("UDP_GRO");
    thread::spawn(move || {
        let mut buffer = vec![0; RUN_MAX];
        // Bytes of a run count whole, however the kernel cut it.
        while let Ok(read) = socket.recv(&mut buffer) {
            BYTES.fetch_add(read as u64, Ordering::Relaxed);
        }
    });
    lab::role::serve(|_| json!(BYTES.load(Ordering::Relaxed)));
}

/// The plain relay: two sockets, runs in, runs out, and nothing else.
fn plain() {
    let near = UdpSocket::bind(PLAIN).expect("the gateway's address");
    let far = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    far.connect(at(PERMITTED[0], SINK)).expect("the world's address");
    near.set_nonblocking(true).expect("a socket");
    udp::want_runs(&near).expect("UDP_GRO");
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async move {
            let near = tokio::net::UdpSocket::from_std(near).expect("a socket");
            let mut buffer = vec![0; RUN_MAX];
            loop {
                near.readable().await.expect("a socket");
                let taken = near.try_io(Interest::READABLE, || udp::receive(&near, &mut buffer));
                if let Ok(run) = taken {
                    // A full queue loses datagrams, here as there.
                    drop(udp::send(&far, &buffer[..run.len], run.segment, None, None));
                }
            }
        });
    });
    lab::role::serve(|_| Value::Null);
}

/// Sends runs for a while.
fn blast(question: &Value) -> Value {
    let to: SocketAddr = question["to"].as_str().expect("to").parse().expect("an address");
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    socket.connect(to).expect("a route");
    let run = vec![0x41; DATAGRAM * BURST];
    let until = Instant::now() + Duration::from_millis(question["ms"].as_u64().expect("ms"));
    let mut sent = 0_u64;
    while Instant::now() < until {
        match udp::send(&socket, &run, DATAGRAM, None, None) {
            Ok(()) => sent += run.len() as u64,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => panic!("{e}"),
        }
        let next = Instant::now() + PACE;
        while Instant::now() < next {
            thread::yield_now();
        }
    }
    // What is on the way arrives.
    thread::sleep(Duration::from_millis(50));
    json!(sent)
}
