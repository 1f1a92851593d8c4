//! A client that keeps to no rule, the caller of the normaliser, and what has to hold of whatever server
//! is behind it. The server is given by the test: models of several, or a kernel.
#![allow(dead_code, unreachable_pub, reason = "several tests include this file, each for a part")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::LazyLock;

use schengate::identify::{Fault, Identity, Step, identify};
use schengate::lane::packet::{Offload, Packet};
use schengate::lane::{Disposition, Event, Flow, HELLO_RETRY_REQUEST, Held, Judgement, Pool};

use crate::flights;
use crate::packets::{ACK, FIN, PSH, RST, SYN, Sent, URG};

pub const GOOD: &str = "permitted.example";
pub const BAD: &str = "forbidden.example";

/// Numbers that a seed gives again (xorshift).
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 11).unwrap() % bound.max(1)
    }

    pub fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }
}

/// A server with its network: what is sent to it, what it says, what its application reads.
pub trait World {
    /// A packet arrives. What is sent back, from the IP header on.
    fn take(&mut self, packet: &[u8]) -> Vec<Vec<u8>>;
    /// What the application has read of every connection, in the order in which they were accepted.
    fn streams(&mut self) -> Vec<Vec<u8>>;
    /// The application writes to its last connection. What is sent, from the IP header on.
    fn write(&mut self, bytes: &[u8]) -> Vec<Vec<u8>>;
}

/// The hellos of one name, and what a client says behind them.
fn hello(name: &str) -> Vec<u8> {
    static BOTH: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
        [GOOD, BAD].map(|name| flights::tls_hello(name, &[b"h2".to_vec(), b"http/1.1".to_vec()]))
    });
    BOTH[usize::from(name == BAD)].clone()
}

pub fn server_hello(random: [u8; 32]) -> Vec<u8> {
    let body = [&[3, 3][..], &random, &[0, 0x13, 1, 0, 0, 0]].concat();
    let message = [&[2, 0, 0, u8::try_from(body.len()).unwrap()][..], &body].concat();
    [&[22, 3, 3, 0, u8::try_from(message.len()).unwrap()][..], &message].concat()
}

/// What runs the normaliser: judges by the name, and lets go what may.
#[derive(Default)]
struct Gateway {
    flow: Flow,
    held: Vec<(Vec<u8>, bool)>,
    /// Number of the first byte of each connection that was opened, and what was let go of it.
    opened: Vec<(u32, BTreeMap<u32, u8>)>,
    /// All that was judged and permitted, by connection.
    permitted: Vec<(usize, Vec<u8>)>,
    tally: Tally,
    carried: bool,
}

/// What came of a run, so that a test can say that its runs were worth something.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub permitted: u32,
    pub refused: u32,
    pub given_up: u32,
    pub retried: u32,
    pub carried: u32,
    pub reopened: u32,
    /// Whole hellos that servers have read.
    pub read: u32,
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        self.permitted += other.permitted;
        self.refused += other.refused;
        self.given_up += other.given_up;
        self.retried += other.retried;
        self.carried += other.carried;
        self.reopened += other.reopened;
        self.read += other.read;
    }
}

impl Gateway {
    /// What goes on, and whether it dies before it arrives.
    fn take_from_client(
        &mut self,
        bytes: &[u8],
        dies: bool,
        pool: &mut Pool,
    ) -> Vec<(Vec<u8>, bool)> {
        let packet = Packet::read(bytes, Offload::default()).expect("it is one of TCP");
        let step = self.flow.from_client(&packet, pool);
        let mut room = vec![0; bytes.len()];
        let mut cut = || {
            let length = packet.cut_into(&mut room).expect("it fits");
            room[..length].to_vec()
        };
        let mut goes = Vec::new();
        match step.packet {
            Disposition::Pass => goes.push((bytes.to_vec(), dies)),
            Disposition::PassCut => goes.push((cut(), dies)),
            Disposition::Hold => self.held.push((bytes.to_vec(), dies)),
            Disposition::HoldCut => {
                let cut = cut();
                self.held.push((cut, dies));
            }
            Disposition::Drop => {}
        }
        goes.extend(self.follow(step.event, 0, pool));
        for (packet, _) in &goes {
            self.note(packet);
        }
        goes
    }

    fn take_from_server(&mut self, bytes: &[u8], pool: &mut Pool) -> bool {
        let packet = Packet::read(bytes, Offload::default()).expect("a kernel sends packets");
        let step = self.flow.from_server(&packet, pool);
        let acknowledged = u32::from_be_bytes(transport(bytes)[8..12].try_into().unwrap());
        let released = self.follow(step.event, acknowledged, pool);
        assert!(released.is_empty(), "what a server says lets nothing go");
        step.packet == Disposition::Pass
    }

    fn follow(
        &mut self,
        event: Option<Event>,
        acknowledged: u32,
        pool: &mut Pool,
    ) -> Vec<(Vec<u8>, bool)> {
        let judgement = match event {
            Some(Event::Opened) => {
                self.tally.reopened += u32::from(!self.opened.is_empty());
                self.opened.push((acknowledged, BTreeMap::new()));
                self.held.clear();
                return Vec::new();
            }
            Some(Event::Closed) => {
                self.held.clear();
                return Vec::new();
            }
            Some(Event::Carried) => {
                (self.carried, self.tally.carried) = (true, self.tally.carried + 1);
                return Vec::new();
            }
            Some(Event::Retry) => {
                self.tally.retried += 1;
                return Vec::new();
            }
            Some(Event::GiveUp(_)) => {
                self.tally.given_up += 1;
                Judgement::Refused
            }
            Some(Event::FirstFlight) => match self.flow.identify() {
                Step::NeedMore(_) => Judgement::NeedMore,
                Step::Done(identity) if is_good(&identity) => Judgement::Permitted,
                Step::Done(_) => Judgement::Refused,
            },
            Some(Event::RepeatAlert | Event::ResetClient | Event::ResetServer) | None => {
                return Vec::new();
            }
        };
        let flight = self.flow.first_flight().to_vec();
        let outcome = self.flow.judged(judgement, pool);
        match outcome.held {
            Held::Keep => self.follow(outcome.event, acknowledged, pool),
            Held::Drop => {
                self.tally.refused += 1;
                self.held.clear();
                Vec::new()
            }
            Held::Release(bits) => {
                self.tally.permitted += 1;
                self.permitted.push((self.opened.len() - 1, flight));
                assert_eq!(outcome.event, None, "a permitted hello waits for its answer");
                let held = self.held.drain(..).enumerate();
                held.filter(|(at, _)| bits >> at & 1 == 1).map(|(_, packet)| packet).collect()
            }
        }
    }

    /// Notes what is let go, read by this function alone: one byte for each number, of the connection
    /// that the server has taken, and none beside a SYN or out of its place.
    fn note(&mut self, packet: &[u8]) {
        let tcp = transport(packet);
        let header = usize::from(tcp[12] >> 4) * 4;
        let (payload, flags) = (&tcp[header..], tcp[13]);
        assert_eq!(flags & URG, 0, "an urgent pointer goes on");
        assert!(!tcp[20..header].windows(2).any(|pair| pair == [30, 12]), "MPTCP goes on");
        if payload.is_empty() {
            return;
        }
        assert_eq!(flags & SYN, 0, "bytes beside a SYN go on");
        let (first, bytes) = self.opened.last_mut().expect("bytes go on that no server waits for");
        let number = u32::from_be_bytes(tcp[4..8].try_into().unwrap());
        for (offset, &byte) in (number.wrapping_sub(*first)..).zip(payload) {
            assert!(offset < 65_536, "{offset}");
            assert_eq!(*bytes.entry(offset).or_insert(byte), byte, "two bytes at {offset}");
        }
    }
}

fn is_good(identity: &Identity<'_>) -> bool {
    let name = identity.name.map(|(name, _)| name.to_string());
    identity.fault.is_none() && name.as_deref() == Some(GOOD)
}

/// From the TCP header on.
fn transport(packet: &[u8]) -> &[u8] {
    let header = if packet[0] >> 4 == 4 { usize::from(packet[0] & 15) * 4 } else { 40 };
    &packet[header..]
}

/// A client that would have its server read another name than is judged.
struct Client {
    ends: (SocketAddr, SocketAddr),
    /// Numbers of the first byte of the connections that it asks for.
    firsts: Vec<u32>,
    /// Number of the server's next byte, as far as it was told.
    server: u32,
    is_tame: bool,
    is_heard: bool,
    /// Bytes of its first stream that it has sent.
    sent: usize,
    streams: Vec<Vec<u8>>,
    before: Vec<Sent>,
}

impl Client {
    fn draw(chance: &mut Chance, ends: (SocketAddr, SocketAddr)) -> Self {
        let (good, bad) = (hello(GOOD), hello(BAD));
        let early = [&[20, 3, 3, 0, 1, 1, 23, 3, 3, 0, 60][..], &[9; 60]].concat();
        let second = if chance.one_in(3) { &bad } else { &good };
        let first = if chance.one_in(8) { &bad } else { &good };
        let tail = match chance.below(4) {
            0 => [&early[..], second].concat(),
            1 => early,
            2 => [&[20, 3, 3, 0, 1, 1][..], second].concat(),
            _ => second.clone(),
        };
        let mut shifted = good.clone();
        let at = chance.below(good.len() - 8);
        shifted.splice(at..at, bad.iter().copied());
        let streams = vec![
            [&first[..], &tail].concat(),
            [&bad[..], &tail].concat(),
            shifted,
            (0..1200).map(|_| u8::try_from(chance.below(256)).unwrap()).collect(),
        ];
        // Now and then near the end of the numbers.
        let first = u32::try_from(chance.next() >> 32).unwrap();
        let first = if chance.one_in(2) { u32::MAX - first % 1_500 } else { first };
        Self {
            ends,
            firsts: vec![first],
            server: 0,
            is_tame: chance.one_in(3),
            is_heard: false,
            sent: 0,
            streams,
            before: Vec::new(),
        }
    }

    fn packet(&self, flags: u8, number: u32) -> Sent {
        Sent::new(self.ends.0, self.ends.1, flags, number, self.server)
    }

    fn first(&self) -> u32 {
        *self.firsts.last().unwrap()
    }

    fn data(&self, from: usize, length: usize, stream: usize) -> Sent {
        let stream = &self.streams[stream];
        let from = from.min(stream.len());
        let bytes = &stream[from..stream.len().min(from + length)];
        let number = self.first().wrapping_add(u32::try_from(from).unwrap());
        self.packet(ACK | PSH, number).with(bytes)
    }

    fn next(&mut self, chance: &mut Chance) -> Sent {
        let sent = self.next_of(chance);
        self.before.push(sent.clone());
        sent
    }

    fn next_of(&mut self, chance: &mut Chance) -> Sent {
        let length = match chance.below(4) {
            0 => 1 + chance.below(20),
            1 => 1 + chance.below(300),
            _ => 100 + chance.below(1400),
        };
        let asks = !self.is_heard && (self.is_tame || !chance.one_in(4));
        if self.before.is_empty() || asks {
            return self.packet(SYN, self.first().wrapping_sub(1));
        }
        let around = chance.below(self.streams[0].len());
        let kind = chance.below(if self.is_tame { 70 } else { 100 });
        match kind {
            0..45 => {
                let sent = self.data(self.sent, length, 0);
                self.sent += sent.payload.len();
                if self.sent >= self.streams[0].len() && chance.one_in(2) {
                    self.sent = 0;
                }
                sent
            }
            45..60 => self.data(around, length, 0),
            60..70 => self.data(0, self.sent.max(1), 0),
            70..78 => self.data(around, length, 1 + chance.below(3)),
            78..82 => self.data(0, length, 1 + chance.below(3)),
            82..86 => {
                let mut sent = self.before[chance.below(self.before.len())].clone();
                match chance.below(4) {
                    0 => (sent.flags, sent.urgent) = (sent.flags | URG, 3),
                    1 => sent.wrong = 1,
                    2 => sent.options = [&[30, 12][..], &[0x81; 10]].concat(),
                    _ => {}
                }
                sent
            }
            86..89 => {
                let near = u32::try_from(chance.below(self.sent + 2)).unwrap();
                self.packet(RST | ACK, self.first().wrapping_add(near))
            }
            89..92 => {
                let mut sent = self.data(around, chance.below(2) * length, chance.below(2));
                sent.flags |= FIN;
                sent
            }
            92..96 => self.syn(chance),
            96..98 => {
                let mut sent = self.data(0, length, chance.below(4));
                let odd = [0, 1, 200, 1 << 31, 70_000_u32][chance.below(5)];
                sent.sequence =
                    sent.sequence.wrapping_sub(odd).wrapping_add(odd / 70_000 * 140_000);
                sent
            }
            _ => self.packet(ACK, self.first().wrapping_add(u32::try_from(self.sent).unwrap())),
        }
    }

    /// Asks for a connection once more, or for another one, near the first or far from it.
    fn syn(&mut self, chance: &mut Chance) -> Sent {
        let first = self.firsts[chance.below(self.firsts.len())];
        let first = match chance.below(4) {
            0 => first,
            1 => first.wrapping_add(u32::try_from(chance.below(900)).unwrap()),
            2 => first.wrapping_sub(u32::try_from(chance.below(900)).unwrap()),
            _ => first.wrapping_add(1 << 22),
        };
        if !self.firsts.contains(&first) {
            self.firsts.push(first);
            self.sent = 0;
        }
        let mut sent = self.packet(SYN, first.wrapping_sub(1));
        if chance.one_in(2) {
            sent.payload = self.streams[1].clone();
            if chance.one_in(2) {
                sent.options = vec![34, 2, 1, 1];
            }
        }
        sent
    }

    fn hears(&mut self, packet: &[u8]) {
        let tcp = transport(packet);
        let number = u32::from_be_bytes(tcp[4..8].try_into().unwrap());
        let length = u32::try_from(tcp.len() - usize::from(tcp[12] >> 4) * 4).unwrap();
        if tcp[13] & SYN != 0 {
            self.is_heard = true;
            self.server = number.wrapping_add(1);
        } else if tcp[13] & RST == 0 {
            self.server = number.wrapping_add(length);
        }
    }
}

/// One client, its gateway and its server, until the kernel would carry the connection on.
///
/// # Panics
/// Where a server reads what was not judged.
pub fn play(
    seed: u64,
    ends: (SocketAddr, SocketAddr),
    world: &mut impl World,
    pool: &mut Pool,
) -> Tally {
    let mut chance = Chance::new(seed);
    let mut client = Client::draw(&mut chance, ends);
    let mut gateway = Gateway::default();
    let lossy = [2, 5, 20][chance.below(3)];
    let retries = chance.one_in(2);
    let mut answered = 0;
    for _ in 0..80 {
        let sent = client.next(&mut chance);
        let dies = chance.one_in(lossy);
        for (packet, dies) in gateway.take_from_client(&sent.bytes(), dies, pool) {
            if !dies {
                for reply in world.take(&packet) {
                    if gateway.take_from_server(&reply, pool) && !chance.one_in(lossy) {
                        client.hears(&reply);
                    }
                }
            }
        }
        // Its application answers a whole hello.
        let streams = world.streams();
        let read = streams.last().map_or(&[][..], |stream| stream);
        let Step::Done(identity) = identify(read, false) else { continue };
        if answered < streams.len() && identity.fault.is_none() {
            answered = streams.len();
            let random = if retries { HELLO_RETRY_REQUEST } else { [7; 32] };
            for reply in world.write(&server_hello(random)) {
                if gateway.take_from_server(&reply, pool) {
                    client.hears(&reply);
                }
            }
        }
        if gateway.carried {
            break;
        }
    }
    check(&mut gateway, &world.streams());
    gateway.flow.end(pool);
    gateway.tally
}

/// What servers read is what was let go of one connection, which begins with what was judged; and they
/// read no hello of another name.
fn check(gateway: &mut Gateway, streams: &[Vec<u8>]) {
    for read in streams.iter().filter(|read| !read.is_empty()) {
        let of = gateway.opened.iter().position(|(_, bytes)| {
            (0..).zip(read).all(|(offset, byte)| bytes.get(&offset) == Some(byte))
        });
        let of = of.unwrap_or_else(|| panic!("a server read {:02x?}, which was not let go", read));
        let judged: Vec<_> = gateway.permitted.iter().filter(|(at, _)| *at == of).collect();
        let first = judged.first().map_or(&[][..], |(_, flight)| flight);
        assert!(!first.is_empty(), "read and not judged");
        let common = first.len().min(read.len());
        assert_eq!(read[..common], first[..common], "others than were judged");
        let Step::Done(identity) = identify(read, true) else { panic!("it has ended") };
        match identity.fault {
            Some(Fault::Incomplete) => {}
            _ => {
                assert!(is_good(&identity), "{identity:?}");
                gateway.tally.read += 1;
            }
        }
        // Behind it: no other hello but one that was judged as well.
        for at in 1..read.len() {
            let Step::Done(inner) = identify(&read[at..], false) else { continue };
            let name = inner.name.map(|(name, _)| name.to_string());
            let is_bad = name.as_deref() == Some(BAD) && is_record(read, at);
            assert!(!is_bad, "a hello of {BAD} at {at}");
        }
    }
}

/// Whether a record begins at this byte of a stream.
fn is_record(read: &[u8], wanted: usize) -> bool {
    let mut at = 0;
    while at < wanted {
        let Some(&[_, _, _, high, low]) = read.get(at..at + 5) else { return false };
        at += 5 + usize::from(u16::from_be_bytes([high, low]));
    }
    at == wanted
}
