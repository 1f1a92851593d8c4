//! What the normaliser costs a packet, and a connection from its SYN to the server's answer.

use std::hint::black_box;
use std::net::SocketAddr;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use schengate::lane::packet::{Offload, Packet};
use schengate::lane::{Event, Flow, Judgement, Pool};

#[path = "../tests/flights/mod.rs"]
mod flights;
#[path = "../tests/support/packets.rs"]
mod packets;

use packets::{ACK, PSH, SYN, Sent};

fn ends() -> [SocketAddr; 2] {
    ["192.0.2.2:40000", "198.51.100.7:443"].map(|at| at.parse().expect("an address"))
}

/// SYN, the server's answer, the third one, a hello in segments, a ServerHello.
fn connection(hello: usize) -> Vec<(bool, Vec<u8>)> {
    let [client, server] = ends();
    let hello = flights::tls_hello_of("images.storage.region-eu-west.example", hello);
    let mut packets = vec![
        (true, Sent::new(client, server, SYN, 99, 0)),
        (false, Sent::new(server, client, SYN | ACK, 500, 100)),
        (true, Sent::new(client, server, ACK, 100, 501)),
    ];
    for (at, part) in hello.chunks(1448).enumerate() {
        let number = 100 + u32::try_from(1448 * at).expect("small");
        packets.push((true, Sent::new(client, server, ACK | PSH, number, 501).with(part)));
    }
    let answer = [&[22, 3, 3, 0, 122, 2, 0, 0, 118, 3, 3][..], &[7; 116]].concat();
    let taken = 100 + u32::try_from(hello.len()).expect("small");
    packets.push((false, Sent::new(server, client, ACK, 501, taken).with(&answer)));
    packets.into_iter().map(|(by_client, sent)| (by_client, sent.bytes())).collect()
}

fn run(packets: &[(bool, Vec<u8>)], pool: &mut Pool) -> bool {
    let (mut flow, mut carried) = (Flow::new(), false);
    for (by_client, bytes) in packets {
        let Ok(packet) = Packet::read(black_box(bytes), Offload::default()) else { return false };
        let step = if *by_client {
            flow.from_client(&packet, pool)
        } else {
            flow.from_server(&packet, pool)
        };
        match step.event {
            Some(Event::FirstFlight) => {
                let read = matches!(flow.identify(), schengate::identify::Step::Done(_));
                let judgement = if read { Judgement::Permitted } else { Judgement::NeedMore };
                let _outcome = black_box(flow.judged(judgement, pool));
            }
            Some(Event::Carried) => carried = true,
            _ => {}
        }
    }
    carried
}

fn lane(criterion: &mut Criterion) {
    let mut pool = Pool::new(1, 1);
    for hello in [517, 1750] {
        let packets = connection(hello);
        assert!(run(&packets, &mut pool), "the kernel carries it on");
        let mut group = criterion.benchmark_group(format!("lane_{hello}"));
        group.throughput(Throughput::Elements(packets.len() as u64));
        group.bench_function("connection", |bencher| bencher.iter(|| run(&packets, &mut pool)));
        let bytes = &packets[3].1;
        group.throughput(Throughput::Elements(1));
        group.bench_function("packet_read_and_summed", |bencher| {
            bencher.iter(|| {
                Packet::read(black_box(bytes), Offload::default()).is_ok_and(|it| it.is_intact())
            });
        });
        group.finish();
    }
}

criterion_group!(benches, lane);
criterion_main!(benches);
