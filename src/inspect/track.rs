//! Which packets belong to one connection, who its client is, and when it is known.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use super::flow::{Datagrams, Flow};
use super::packet::{Packet, Part, Segment};
use super::stream::Client;
use crate::policy::Transport;

/// Connections that are kept in mind, known ones included; then the oldest is closed.
const FLOWS_MAX: usize = 65_536;

/// Bytes held for connections that are not yet known; then the oldest of them is closed.
const HELD_MAX: usize = 128 * 1024 * 1024;

/// Connections kept in mind between the same ends and ports.
const LIVES_MAX: usize = 8;

/// The connections of one capture.
#[derive(Debug)]
pub(super) struct Tracker<'f> {
    file: &'f str,
    flows: HashMap<Key, Tracked>,
    /// In the order in which they began, and the number of each, for a pair of ports that is used
    /// again has two entries here.
    order: VecDeque<(Key, u64)>,
    begun: u64,
    held: usize,
    /// Connections that were given out though some of their first bytes are not in the file.
    lacking: u64,
}

/// The two ends, the smaller first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    transport: Transport,
    ends: [SocketAddr; 2],
}

#[derive(Debug)]
struct Tracked {
    number: u64,
    client: SocketAddr,
    server: SocketAddr,
    state: State,
    held: usize,
}

#[derive(Debug)]
enum State {
    /// Every TCP connection between the two, the oldest first. A SYN within a connection ends
    /// nothing (RFC 5961 §4): it may begin another one, which is read beside it.
    Tcp(Vec<Life>),
    Udp(Box<Datagrams>),
    /// Given out.
    KnownUdp,
}

/// One TCP connection.
#[derive(Debug)]
struct Life {
    read: Reading,
    /// Whether it is one: the server answered its SYN, or it has bytes of its own, or there was no
    /// other whose SYN or bytes it could be a decoy for.
    sure: bool,
    /// Whether one of the two said that it is over, were it only a decoy.
    over: bool,
}

#[derive(Debug)]
enum Reading {
    Live(Box<Client>),
    /// Given out; the sequence number of its first byte.
    Known(Option<u32>),
}

impl<'f> Tracker<'f> {
    pub(super) fn new(file: &'f str) -> Self {
        let (flows, order) = (HashMap::new(), VecDeque::new());
        Self { file, flows, order, begun: 0, held: 0, lacking: 0 }
    }

    pub(super) fn add(&mut self, packet: &Packet<'_>, each: &mut dyn FnMut(Flow)) {
        let transport = match packet.part {
            Part::Tcp(_) => Transport::Tcp,
            Part::Udp { .. } => Transport::Udp,
        };
        let mut ends = [packet.from, packet.to];
        ends.sort();
        let key = Key { transport, ends };
        if self.flows.get(&key).is_some_and(|tracked| tracked.turns(packet)) {
            self.close(&key, each);
            self.flows.remove(&key);
        }
        if !self.flows.contains_key(&key) {
            self.begin(key, packet, each);
        }
        let Some(tracked) = self.flows.get_mut(&key) else { return };
        let mut given = Given { file: self.file, lacking: &mut self.lacking, each };
        tracked.add(packet, &mut given);
        let held = tracked.state.held();
        self.held = self.held - tracked.held + held;
        tracked.held = held;
        self.shed(each);
    }

    /// Gives out the connections that are still open, in the order in which they began, and tells of
    /// how many some first bytes are not in the file.
    pub(super) fn finish(mut self, each: &mut dyn FnMut(Flow)) -> u64 {
        while let Some((key, number)) = self.order.pop_front() {
            if self.flows.get(&key).is_some_and(|tracked| tracked.number == number) {
                self.close(&key, each);
            }
        }
        self.lacking
    }

    fn begin(&mut self, key: Key, packet: &Packet<'_>, each: &mut dyn FnMut(Flow)) {
        if self.flows.len() >= FLOWS_MAX {
            self.drop_oldest(each);
        }
        let (client, server) = if is_from_client(packet) {
            (packet.from, packet.to)
        } else {
            (packet.to, packet.from)
        };
        let state = match packet.part {
            Part::Tcp(_) => State::Tcp(Vec::new()),
            Part::Udp { .. } => State::Udp(Box::default()),
        };
        self.begun += 1;
        self.order.push_back((key, self.begun));
        let tracked = Tracked { number: self.begun, client, server, state, held: 0 };
        self.flows.insert(key, tracked);
    }

    /// Gives the connections of the two out, and keeps them in mind as known.
    fn close(&mut self, key: &Key, each: &mut dyn FnMut(Flow)) {
        let Some(tracked) = self.flows.get_mut(key) else { return };
        self.held -= std::mem::take(&mut tracked.held);
        tracked.close(&mut Given { file: self.file, lacking: &mut self.lacking, each });
    }

    /// Closes the oldest connections until no more than the limit is held.
    fn shed(&mut self, each: &mut dyn FnMut(Flow)) {
        while self.held > HELD_MAX && self.drop_oldest(each) {}
    }

    fn drop_oldest(&mut self, each: &mut dyn FnMut(Flow)) -> bool {
        while let Some((key, number)) = self.order.pop_front() {
            if self.flows.get(&key).is_some_and(|tracked| tracked.number == number) {
                self.close(&key, each);
                self.flows.remove(&key);
                return true;
            }
        }
        false
    }
}

/// Where flows are given out.
struct Given<'a> {
    file: &'a str,
    lacking: &'a mut u64,
    each: &'a mut dyn FnMut(Flow),
}

impl Given<'_> {
    fn give(&mut self, client: SocketAddr, server: SocketAddr, flow: Flow, lacks: bool) {
        *self.lacking += u64::from(lacks);
        (self.each)(Flow {
            flow: Some(format!("{client}>{server}")),
            client: Some(client.ip()),
            destination: Some(server),
            ..flow
        });
    }
}

impl Tracked {
    /// Whether the other end begins a connection, and nothing is known of one the other way round.
    fn turns(&self, packet: &Packet<'_>) -> bool {
        let Part::Tcp(Segment { syn: true, acknowledged: None, .. }) = packet.part else {
            return false;
        };
        let State::Tcp(lives) = &self.state else { return false };
        packet.from == self.server
            && lives.iter().all(|life| match &life.read {
                Reading::Live(client) => life.over || !client.has_sent(),
                Reading::Known(_) => true,
            })
    }

    fn add(&mut self, packet: &Packet<'_>, given: &mut Given<'_>) {
        let from_client = packet.from == self.client;
        let (client, server) = (self.client, self.server);
        match (&mut self.state, packet.part) {
            (State::Tcp(lives), Part::Tcp(segment)) => {
                match (from_client, segment.syn) {
                    (true, true) => begins(lives, &segment),
                    (true, false) => goes_on(lives, &segment),
                    (false, _) => answers(lives, &segment),
                }
                for life in lives.iter_mut() {
                    life.give_if_done(client, server, given);
                }
                while lives.len() > LIVES_MAX {
                    let mut life = lives.remove(spare(lives));
                    life.give(client, server, given);
                }
            }
            (State::Udp(datagrams), Part::Udp { payload, missing }) => {
                if from_client && datagrams.push(payload, missing > 0) {
                    self.close(given);
                }
            }
            (State::KnownUdp, _) | (State::Tcp(_), _) | (State::Udp(_), _) => {}
        }
    }

    fn close(&mut self, given: &mut Given<'_>) {
        let (client, server) = (self.client, self.server);
        match &mut self.state {
            State::Tcp(lives) => lives.iter_mut().for_each(|life| life.give(client, server, given)),
            State::Udp(datagrams) => {
                let flow = datagrams.flow(given.file);
                let lacks = !flow.complete && datagrams.is_cut();
                given.give(client, server, flow, lacks);
                self.state = State::KnownUdp;
            }
            State::KnownUdp => {}
        }
    }
}

/// The client's SYN: sent again, or the beginning of another connection.
fn begins(lives: &mut Vec<Life>, segment: &Segment<'_>) {
    let base = segment.sequence.wrapping_add(1);
    for life in lives.iter_mut() {
        match &mut life.read {
            Reading::Live(client) if client.base().is_none_or(|known| known == base) => {
                // Of one that was begun by other packets the beginning is known now.
                life.sure |= client.base().is_none();
                client.begin(base, segment.payload);
                return;
            }
            Reading::Known(Some(known)) if *known == base => return,
            Reading::Live(_) | Reading::Known(_) => {}
        }
    }
    let sure = lives.iter().all(|life| life.over);
    let mut client = Client::from(base);
    client.begin(base, segment.payload);
    lives.push(Life { read: Reading::Live(Box::new(client)), sure, over: false });
}

/// What else the client sends.
fn goes_on(lives: &mut Vec<Life>, segment: &Segment<'_>) {
    if lives.is_empty() {
        lives.push(Life { read: Reading::Live(Box::default()), sure: false, over: false });
    }
    let has_bytes = !segment.payload.is_empty() || segment.missing > 0;
    let is_next = |life: &Life| match &life.read {
        Reading::Live(client) => has_bytes && client.is_next(segment),
        Reading::Known(_) => false,
    };
    // The bytes of one connection are no proof of another.
    let has_taker = lives.iter().any(|life| life.sure && is_next(life));
    for life in lives {
        life.sure |= !has_taker && is_next(life);
        match &mut life.read {
            Reading::Live(client) => client.add(segment),
            Reading::Known(_) => life.over |= segment.fin || segment.rst,
        }
    }
}

/// What the server sends. What it acknowledges with its SYN is where the client's bytes begin.
fn answers(lives: &mut Vec<Life>, segment: &Segment<'_>) {
    if segment.fin || segment.rst {
        lives.iter_mut().for_each(|life| life.over = true);
    }
    let Some(acknowledged) = segment.acknowledged.filter(|_| segment.syn) else { return };
    for life in lives.iter_mut() {
        match &mut life.read {
            Reading::Live(client) if client.is_answered_by(acknowledged) => {
                client.answered(acknowledged);
                life.sure = true;
                return;
            }
            // Sent again.
            Reading::Known(Some(base)) if acknowledged.wrapping_sub(*base) <= 0xffff => return,
            Reading::Live(_) | Reading::Known(_) => {}
        }
    }
    let client = Box::new(Client::from(acknowledged));
    lives.push(Life { read: Reading::Live(client), sure: true, over: false });
}

/// Which of too many connections is let go of first: one that is given out, one that is most likely
/// a decoy, the oldest.
fn spare(lives: &[Life]) -> usize {
    let known = lives.iter().position(|life| matches!(life.read, Reading::Known(_)));
    let unsure = || lives.iter().position(|life| !life.sure);
    known.or_else(unsure).unwrap_or(0)
}

impl Life {
    fn give_if_done(&mut self, client: SocketAddr, server: SocketAddr, given: &mut Given<'_>) {
        if let Reading::Live(reading) = &mut self.read
            && reading.is_done()
        {
            self.over |= reading.has_ended();
            self.give(client, server, given);
        }
    }

    /// Gives the connection out, and keeps it in mind as known.
    fn give(&mut self, client: SocketAddr, server: SocketAddr, given: &mut Given<'_>) {
        let base = match &self.read {
            Reading::Live(client) => client.base(),
            Reading::Known(base) => *base,
        };
        let read = std::mem::replace(&mut self.read, Reading::Known(base));
        let Reading::Live(mut reading) = read else { return };
        if !self.sure {
            return;
        }
        reading.finish();
        let lacks = reading.lacks_bytes();
        let flow = Flow::of_client(given.file, reading.seen(), lacks);
        let lacks = lacks && !flow.complete;
        given.give(client, server, flow, lacks);
    }
}

impl State {
    fn held(&self) -> usize {
        match self {
            Self::Tcp(lives) => lives
                .iter()
                .map(|life| match &life.read {
                    Reading::Live(client) => client.held(),
                    Reading::Known(_) => 0,
                })
                .sum(),
            Self::Udp(datagrams) => datagrams.held(),
            Self::KnownUdp => 0,
        }
    }
}

/// A SYN says it. Of a connection older than the capture, the end with a well-known port is the
/// server; else the one that sends first is the client.
fn is_from_client(packet: &Packet<'_>) -> bool {
    if let Part::Tcp(Segment { syn: true, acknowledged, .. }) = packet.part {
        return acknowledged.is_none();
    }
    let well_known = |end: SocketAddr| end.port() < 1024;
    !well_known(packet.from) || well_known(packet.to)
}
