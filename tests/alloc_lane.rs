//! Holding, judging and following a connection reaches the heap not once: its room was made before.
#![expect(unsafe_code, reason = "an allocator that counts has to be an allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::net::SocketAddr;

use schengate::lane::packet::{Offload, Packet};
use schengate::lane::{Event, Flow, Held, Judgement, Pool};

mod flights;
#[path = "support/packets.rs"]
mod packets;

use packets::{ACK, SYN, Sent, URG};

struct Counting;

thread_local! {
    /// Per thread: the test harness allocates in others.
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it came; the count is beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is ending has no count left, and needs none.
        COUNT.try_with(|count| count.set(count.get() + 1)).unwrap_or_default();
        // SAFETY: the caller keeps the promises of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block came from `System` by `alloc` above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn the_packets_of_a_connection_allocate_nothing() {
    let [client, server]: [SocketAddr; 2] =
        ["192.0.2.2:40000", "198.51.100.7:443"].map(|at| at.parse().unwrap());
    let hello = flights::tls_hello_of("host.example", 3_000);
    let mut packets = vec![Sent::new(client, server, SYN, 99, 0)];
    // Behind a gap, sent again, and with what is cut; then all that is missing.
    for (from, to, flags) in
        [(2_000, 3_000, ACK), (2_000, 3_000, ACK), (500, 1_500, ACK | URG), (0, 2_200, ACK)]
    {
        let number = 100 + u32::try_from(from).unwrap();
        packets.push(Sent::new(client, server, flags, number, 501).with(&hello[from..to]));
    }
    packets.push(Sent::new(client, server, ACK, 3_100, 501).with(&[20, 3, 3, 0, 1, 1]));
    let packets: Vec<_> = packets.iter().map(Sent::bytes).collect();
    let taken = Sent::new(server, client, SYN | ACK, 500, 100).bytes();
    let answer = Sent::new(server, client, ACK, 501, 3_100).with(&[23, 3, 3]).bytes();
    let mut pool = Pool::new(4, 4);
    let mut room = vec![0; 2_000];
    let before = COUNT.get();
    let mut flow = Flow::new();
    let mut permitted = false;
    for (at, bytes) in packets.iter().enumerate() {
        let packet = Packet::read(black_box(bytes), Offload::default()).unwrap();
        let step = flow.from_client(&packet, &mut pool);
        if packet.needs_cut() {
            black_box(packet.cut_into(&mut room).unwrap());
        }
        if at == 0 {
            let taken = Packet::read(&taken, Offload::default()).unwrap();
            assert_eq!(flow.from_server(&taken, &mut pool).event, Some(Event::Opened));
        }
        if step.event == Some(Event::FirstFlight) {
            black_box(flow.identify());
            black_box(flow.alert(client, server));
            let outcome = flow.judged(Judgement::Permitted, &mut pool);
            permitted = outcome.held == Held::Release(0b111);
        }
    }
    assert!(permitted);
    let answer = Packet::read(&answer, Offload::default()).unwrap();
    assert_eq!(flow.from_server(&answer, &mut pool).event, Some(Event::Carried));
    assert_eq!(COUNT.get() - before, 0);
    assert_eq!(pool.left(), (4, 4));
    let before = COUNT.get();
    black_box(vec![0_u8; 8]);
    assert_eq!(COUNT.get() - before, 1, "the count counts");
    assert!(size_of::<Flow>() <= 320, "{} bytes a flow", size_of::<Flow>());
}
