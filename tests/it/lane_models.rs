//! The normaliser before servers that read alike only what leaves no choice: which copy of a byte
//! counts, whether the urgent byte is one of the stream, whether what comes beside a SYN is taken. A
//! client drawn at random tries to have them read another name than was judged.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use proptest::prelude::*;
use schengate::lane::Pool;

use crate::lane_drive::{Tally, World, play};
use crate::packets::{ACK, FIN, RST, SYN, Sent, URG};

/// A server of some kind, which has one client.
struct Model {
    ends: (SocketAddr, SocketAddr),
    last_counts: bool,
    urgent_is_apart: bool,
    takes_with_syn: bool,
    connections: Vec<Connection>,
}

#[derive(Default)]
struct Connection {
    first: u32,
    own: u32,
    known: BTreeMap<u32, u8>,
    read: Vec<u8>,
    is_over: bool,
}

impl Model {
    fn reply(&self, flags: u8, at: &Connection) -> Vec<u8> {
        let next = at.first.wrapping_add(u32::try_from(at.read.len()).unwrap());
        Sent::new(self.ends.1, self.ends.0, flags, at.own, next).bytes()
    }
}

impl World for Model {
    fn take(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        let header = if packet[0] >> 4 == 4 { 20 } else { 40 };
        let tcp = &packet[header..];
        let number = u32::from_be_bytes(tcp[4..8].try_into().unwrap());
        let (flags, mut payload) = (tcp[13], &tcp[usize::from(tcp[12] >> 4) * 4..]);
        let live = self.connections.last().is_some_and(|connection| !connection.is_over);
        if flags & SYN != 0 && !live {
            let own = u32::try_from(self.connections.len()).unwrap() << 20 | 0xfff0_0000;
            let first = number.wrapping_add(1);
            self.connections.push(Connection { first, own, ..Connection::default() });
            if !self.takes_with_syn {
                payload = &[];
            }
        }
        let (last_counts, apart) = (self.last_counts, self.urgent_is_apart);
        let Some(connection) = self.connections.last_mut().filter(|it| !it.is_over) else {
            return Vec::new();
        };
        let begins = flags & SYN != 0;
        let from = number.wrapping_add(u32::from(begins)).wrapping_sub(connection.first);
        let next = u32::try_from(connection.read.len()).unwrap();
        if flags & RST != 0 {
            connection.is_over = from == next;
            return Vec::new();
        }
        let mut payload = payload.to_vec();
        if flags & URG != 0 && apart && !payload.is_empty() {
            let pointer = usize::from(u16::from_be_bytes([tcp[18], tcp[19]]));
            payload.remove(pointer.min(payload.len()) - 1);
        }
        for (at, byte) in (0..).zip(payload) {
            let at = from.wrapping_add(at);
            if at >= 65_536 || at < next {
                continue; // outside of its window
            }
            let place = connection.known.entry(at).or_insert(byte);
            if last_counts {
                *place = byte;
            }
        }
        // What is next is read when something comes in order, and is then past.
        if from <= next {
            while let Some(byte) =
                connection.known.get(&u32::try_from(connection.read.len()).unwrap())
            {
                connection.read.push(*byte);
            }
        }
        let next = u32::try_from(connection.read.len()).unwrap();
        if flags & FIN != 0 && from == next {
            connection.is_over = true;
        }
        let connection = self.connections.last().unwrap();
        if begins && next == 0 && connection.first == number.wrapping_add(1) {
            let mut before = Connection { own: connection.own, ..Connection::default() };
            before.first = connection.first;
            let answer = self.reply(SYN | ACK, &before);
            self.connections.last_mut().unwrap().own = before.own;
            return vec![answer];
        }
        // A challenge, or an acknowledgement.
        let own = connection.own.wrapping_add(1);
        let read = connection.read.clone();
        let at = Connection { first: connection.first, own, read, ..Connection::default() };
        vec![self.reply(ACK, &at)]
    }

    fn streams(&mut self) -> Vec<Vec<u8>> {
        self.connections.iter().map(|connection| connection.read.clone()).collect()
    }

    fn write(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let Some(connection) = self.connections.last() else { return Vec::new() };
        let next = connection.first.wrapping_add(u32::try_from(connection.read.len()).unwrap());
        let own = connection.own.wrapping_add(1);
        vec![Sent::new(self.ends.1, self.ends.0, ACK, own, next).with(bytes).bytes()]
    }
}

const V4: [&str; 2] = ["192.0.2.2:40000", "198.51.100.7:443"];
const V6: [&str; 2] = ["[2001:db8:1::2]:40000", "[2001:db8:2::7]:443"];

fn run(seed: u64, pool: &mut Pool) -> Tally {
    let mut tally = Tally::default();
    for kind in 0..8 {
        let ends = if seed & 1 == 0 { V4 } else { V6 }.map(|at| at.parse().unwrap());
        let ends = (ends[0], ends[1]);
        let mut model = Model {
            ends,
            last_counts: kind & 1 == 1,
            urgent_is_apart: kind & 2 == 2,
            takes_with_syn: kind & 4 == 4,
            connections: Vec::new(),
        };
        let before = pool.left();
        tally.add(play(seed, ends, &mut model, pool));
        assert_eq!(pool.left(), before, "a room is lost");
    }
    tally
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_client_sends_a_server_of_any_kind_reads_what_was_judged(seed in any::<u64>()) {
        run(seed, &mut Pool::new(1, 2));
    }
}

#[test]
fn drawn_clients_come_to_every_end() {
    let (mut pool, mut all) = (Pool::new(1, 2), Tally::default());
    for seed in 0..400 {
        all.add(run(seed, &mut pool));
    }
    let Tally { permitted, refused, given_up, retried, carried, reopened, read } = all;
    let least = [permitted, refused, given_up, retried, carried, reopened, read].into_iter().min();
    assert!(least > Some(20), "{all:?}");
}
