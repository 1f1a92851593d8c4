//! Which packets belong to one connection, who its client is, and when it is known.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use super::flow::{Datagrams, Flow};
use super::packet::{Packet, Part};
use super::stream::Client;
use crate::policy::Transport;

/// Connections that are kept in mind, known ones included; then the oldest is closed.
const FLOWS_MAX: usize = 65_536;

/// Bytes held for connections that are not yet known; then the oldest of them is closed.
const HELD_MAX: usize = 128 * 1024 * 1024;

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
    /// TCP. `sure`: the beginning was seen, or a byte of the client.
    Tcp {
        client: Box<Client>,
        sure: bool,
    },
    Udp(Box<Datagrams>),
    /// Given out; the sequence number of its first byte, where it was TCP.
    Known(Option<u32>),
}

impl<'f> Tracker<'f> {
    pub(super) fn new(file: &'f str) -> Self {
        Self { file, flows: HashMap::new(), order: VecDeque::new(), begun: 0, held: 0 }
    }

    pub(super) fn add(&mut self, packet: &Packet<'_>, each: &mut dyn FnMut(Flow)) {
        let transport = match packet.part {
            Part::Tcp { .. } => Transport::Tcp,
            Part::Udp { .. } => Transport::Udp,
        };
        let mut ends = [packet.from, packet.to];
        ends.sort();
        let key = Key { transport, ends };
        if self.begins_anew(&key, packet) {
            self.close(&key, each);
            self.flows.remove(&key);
        }
        if !self.flows.contains_key(&key) {
            self.begin(key, packet, each);
        }
        let Some(tracked) = self.flows.get_mut(&key) else { return };
        let done = tracked.add(packet);
        let held = tracked.state.held();
        self.held = self.held - tracked.held + held;
        tracked.held = held;
        if done {
            self.close(&key, each);
        }
        self.shed(each);
    }

    /// Gives out the connections that are still open, in the order in which they began.
    pub(super) fn finish(mut self, each: &mut dyn FnMut(Flow)) {
        while let Some((key, number)) = self.order.pop_front() {
            if self.flows.get(&key).is_some_and(|tracked| tracked.number == number) {
                self.close(&key, each);
            }
        }
    }

    /// A SYN with another sequence number begins a new connection between the same ends.
    fn begins_anew(&self, key: &Key, packet: &Packet<'_>) -> bool {
        let Part::Tcp { sequence, syn: true, acknowledged: None, .. } = packet.part else {
            return false;
        };
        self.flows.get(key).is_some_and(|tracked| match &tracked.state {
            State::Tcp { client, .. } => !client.could_start_at(sequence.wrapping_add(1)),
            State::Udp(_) => false,
            State::Known(base) => *base != Some(sequence.wrapping_add(1)),
        })
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
            Part::Tcp { .. } => State::Tcp { client: Box::default(), sure: false },
            Part::Udp { .. } => State::Udp(Box::default()),
        };
        self.begun += 1;
        self.order.push_back((key, self.begun));
        let tracked = Tracked { number: self.begun, client, server, state, held: 0 };
        self.flows.insert(key, tracked);
    }

    /// Gives the connection out, and keeps it in mind as known.
    fn close(&mut self, key: &Key, each: &mut dyn FnMut(Flow)) {
        let Some(tracked) = self.flows.get_mut(key) else { return };
        self.held -= std::mem::take(&mut tracked.held);
        let base = match &tracked.state {
            State::Tcp { client, .. } => client.base(),
            State::Udp(_) | State::Known(_) => None,
        };
        let state = std::mem::replace(&mut tracked.state, State::Known(base));
        let flow = match state {
            State::Tcp { client, sure: true } => Flow::of_stream(self.file, client.seen()),
            State::Udp(datagrams) => datagrams.flow(self.file),
            State::Tcp { sure: false, .. } | State::Known(_) => return,
        };
        each(Flow {
            flow: Some(format!("{}>{}", tracked.client, tracked.server)),
            client: Some(tracked.client.ip()),
            destination: Some(tracked.server),
            ..flow
        });
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

impl Tracked {
    /// Whether the connection is known with this packet.
    fn add(&mut self, packet: &Packet<'_>) -> bool {
        let from_client = packet.from == self.client;
        match (&mut self.state, packet.part) {
            (
                State::Tcp { client, sure },
                Part::Tcp { sequence, acknowledged, syn, end, payload },
            ) => {
                if !from_client {
                    // What the server acknowledges first is where the client's bytes begin.
                    if let Some(acknowledged) = acknowledged.filter(|_| syn) {
                        client.starts_at(acknowledged);
                        *sure = true;
                    }
                    return false;
                }
                let sequence = if syn { sequence.wrapping_add(1) } else { sequence };
                *sure |= syn || !payload.is_empty();
                if payload.is_empty() && !syn && !end {
                    return false; // a bare ACK, whose number may be of a keep-alive
                }
                client.add(sequence, payload, end);
                client.is_done()
            }
            (State::Udp(datagrams), Part::Udp { payload }) => {
                from_client && datagrams.push(payload)
            }
            (State::Known(_), _) | (State::Tcp { .. }, _) | (State::Udp(_), _) => false,
        }
    }
}

impl State {
    fn held(&self) -> usize {
        match self {
            Self::Tcp { client, .. } => client.held(),
            Self::Udp(datagrams) => datagrams.held(),
            Self::Known(_) => 0,
        }
    }
}

/// A SYN says it. Of a connection older than the capture, the end with a well-known port is the
/// server; else the one that sends first is the client.
fn is_from_client(packet: &Packet<'_>) -> bool {
    if let Part::Tcp { syn: true, acknowledged, .. } = packet.part {
        return acknowledged.is_none();
    }
    let well_known = |end: SocketAddr| end.port() < 1024;
    !well_known(packet.from) || well_known(packet.to)
}
