//! The normaliser before the kernel's own TCP: a client drawn at random sends segmentations, overlaps,
//! losses, decoys, retransmissions and options through it, to a server that listens in a namespace.
//! What that one reads is what was judged, or nothing.
//!
//! A run in CI draws some thousand clients; `SCHENGATE_DRAW_SECONDS=3600 cargo test --test net
//! lane_fuzz::` goes on for an hour, and a failure prints the seed that repeats it
//! (`SCHENGATE_DRAW_SEED`).

use std::env;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::time::{Duration, Instant};

use schengate::lane::Pool;
use schengate::sys::Tun;
use serde_json::{Value, json};
use socket2::{Domain, SockRef, Socket, Type};

use crate::lab;
use crate::lab::role::serve;
use crate::lane_drive::{Tally, World, play};
use crate::packets::{RST, Sent};

const SERVERS: [&str; 2] = ["198.18.7.7:443", "[2001:db8:7::7]:443"];
const CLIENTS: [&str; 2] = ["198.18.7.2", "2001:db8:7::2"];

/// The kernel of this namespace, behind an interface whose far end is this process.
struct Kernel {
    tun: Tun,
    listeners: [TcpListener; 2],
    family: usize,
    client: SocketAddr,
    accepted: Vec<(TcpStream, Vec<u8>)>,
    /// Every number that the client used, so that what is half open can be ended.
    firsts: Vec<u32>,
}

impl Kernel {
    fn open() -> io::Result<Self> {
        let tun = Tun::open("lane0")?;
        let script = "sysctl -qw net.ipv4.tcp_synack_retries=0 net.core.somaxconn=4096 \
                      net.ipv4.tcp_max_syn_backlog=4096 net.ipv4.tcp_syncookies=0 \
                      net.ipv4.tcp_fastopen=0x603 net.ipv4.tcp_invalid_ratelimit=0
            ip link set lane0 up
            ip address add 198.18.7.7/24 dev lane0
            ip address add 2001:db8:7::7/64 dev lane0 nodad";
        let done = Command::new("sh").args(["-euc", script]).status()?;
        assert!(done.success(), "{script}");
        let listeners = SERVERS.map(|at| listen(at.parse().unwrap()).unwrap());
        let client = "192.0.2.2:1".parse().unwrap();
        let (accepted, firsts) = (Vec::new(), Vec::new());
        Ok(Self { tun, listeners, family: 0, client, accepted, firsts })
    }

    /// Begins with another client.
    fn begin(&mut self, seed: u64) -> (SocketAddr, SocketAddr) {
        self.family = usize::try_from(seed & 1).unwrap();
        let port = 1024 + u16::try_from((seed >> 1) % 60_000).unwrap();
        self.client = SocketAddr::new(CLIENTS[self.family].parse().unwrap(), port);
        (self.client, SERVERS[self.family].parse().unwrap())
    }

    /// What the kernel has sent to the client.
    fn replies(&mut self) -> Vec<Vec<u8>> {
        let mut replies = Vec::new();
        let mut room = vec![0; 65_536];
        while let Some(length) = self.tun.receive(&mut room).unwrap() {
            let packet = &room[..length];
            // Of other clients, late; and what is no TCP.
            let (header, kind) =
                if packet[0] >> 4 == 4 { (20, packet[9]) } else { (40, packet[6]) };
            let port = self.client.port().to_be_bytes();
            if kind == 6 && packet.get(header + 2..header + 4) == Some(&port) {
                replies.push(packet.to_vec());
            }
        }
        replies
    }

    fn accept(&mut self) {
        while let Ok((stream, peer)) = self.listeners[self.family].accept() {
            if peer == self.client {
                stream.set_nonblocking(true).unwrap();
                self.accepted.push((stream, Vec::new()));
            }
        }
    }

    /// Leaves nothing of the client behind.
    fn end(&mut self) {
        for (stream, _) in self.accepted.drain(..) {
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
        let server = SERVERS[self.family].parse().unwrap();
        for first in std::mem::take(&mut self.firsts) {
            let reset = Sent::new(self.client, server, RST, first, 0);
            self.tun.send(&reset.bytes()).unwrap();
        }
        self.replies();
    }
}

fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    socket.listen(4096)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

impl World for Kernel {
    fn take(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        let header = if packet[0] >> 4 == 4 { usize::from(packet[0] & 15) * 4 } else { 40 };
        if packet[header + 13] & 2 != 0 {
            let number = packet[header + 4..header + 8].try_into().unwrap();
            self.firsts.push(u32::from_be_bytes(number).wrapping_add(1));
        }
        // The kernel is through with it when the write is.
        self.tun.send(packet).unwrap();
        self.replies()
    }

    fn streams(&mut self) -> Vec<Vec<u8>> {
        self.accept();
        let mut room = [0; 65_536];
        for (stream, read) in &mut self.accepted {
            while let Ok(length @ 1..) = stream.read(&mut room) {
                read.extend(&room[..length]);
            }
        }
        self.accepted.iter().map(|(_, read)| read.clone()).collect()
    }

    fn write(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let Some((stream, _)) = self.accepted.last_mut() else { return Vec::new() };
        // A client may have broken off meanwhile.
        drop(stream.write(bytes));
        self.replies()
    }
}

/// The helper process in the namespace: plays as many clients as it is asked for.
pub(crate) fn server() {
    let mut kernel = Kernel::open().unwrap();
    let mut pool = Pool::new(1, 2);
    serve(|question| {
        let number = |key: &str| question[key].as_u64().unwrap();
        let mut all = Tally::default();
        let first = number("seed");
        for seed in first..first + number("count") {
            let ends = kernel.begin(seed);
            let played =
                catch_unwind(AssertUnwindSafe(|| play(seed, ends, &mut kernel, &mut pool)));
            match played {
                Ok(tally) => all.add(tally),
                Err(_) => return json!({"failed": seed}),
            }
            kernel.end();
        }
        json!({"permitted": all.permitted, "refused": all.refused, "given_up": all.given_up,
            "retried": all.retried, "carried": all.carried, "reopened": all.reopened,
            "read": all.read})
    });
}

#[test]
fn l00_what_a_kernel_reads_is_what_was_judged() {
    let Some(lab) = lab::lab("lane") else { return };
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let until = Instant::now() + Duration::from_secs(number("SCHENGATE_DRAW_SECONDS").unwrap_or(0));
    let mut seed = number("SCHENGATE_DRAW_SEED").unwrap_or(1);
    let mut server = lab.world.helper("lane-server");
    let count = 4_000;
    let mut sums = [0_u64; 7];
    let fields = ["permitted", "refused", "given_up", "retried", "carried", "reopened", "read"];
    loop {
        let played: Value = server.ask(&json!({"seed": seed, "count": count}));
        assert_eq!(
            played.get("failed"),
            None,
            "SCHENGATE_DRAW_SEED={} repeats it",
            played["failed"]
        );
        for (sum, field) in sums.iter_mut().zip(fields) {
            *sum += played[field].as_u64().unwrap();
        }
        seed += count;
        if Instant::now() >= until {
            break;
        }
    }
    println!("{seed} is the next seed: {fields:?} {sums:?}");
    for (sum, field) in sums.into_iter().zip(fields) {
        assert!(sum > 20, "{field}: {sum}");
    }
}
