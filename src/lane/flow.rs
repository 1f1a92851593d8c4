//! One TCP connection, from its SYN to the answer of its server.

mod refused;

use std::time::Duration;

use super::answer::{Answer, Answers};
use super::packet::{Packet, Tcp};
use super::room::{LARGE, Pool, Room};
use super::step::{Cause, Disposition, Event, Held, Judgement, Outcome, Records, Step, is_hello};
use crate::identify::tls::{
    ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, HANDSHAKE, RECORD_HEADER, hello_end,
};
use crate::identify::{self, Missing, Progress, identify_further};

/// Bytes above the first one that a segment may reach: what is farther off is none of a first flight.
pub const REACH: usize = 64 * 1024;

/// How long a packet may be held before its flow is given up.
pub const HELD_TIME: Duration = Duration::from_secs(5);

/// How long a server may take to answer a hello, as [`crate::flow`] waits for it.
pub const ANSWER_TIME: Duration = Duration::from_secs(60);

/// How far the first number of a new connection has to be from that of the one before, between the
/// same ends: farther than any byte of that one. Systems count it on, 64 ns at a time (RFC 6528 §3), so
/// that it is this far after 17 ms.
const APART: u32 = 256 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No server has taken it.
    Opening,
    /// What the client says is held until it is judged.
    Reading,
    /// It was permitted, and the server has not answered.
    Answering,
    /// The kernel carries it on.
    Carried,
    Refused,
    /// One side has broken it off.
    Closed,
}

/// One TCP connection between two ends, and the one that follows it there. About 200 bytes, and a
/// [room](Pool) from its first payload to the server's answer.
#[derive(Debug)]
pub struct Flow {
    state: State,
    /// Number of the client's first byte, as the server has acknowledged it.
    base: Option<u32>,
    /// The same of a connection that the client asks for, and no server has taken.
    offered: Option<u32>,
    room: Option<Box<Room>>,
    /// Bytes known from the first on without a gap.
    whole: usize,
    /// Bytes of these that were let go.
    passed: usize,
    /// Where the hello begins that is read.
    start: usize,
    /// Where the hello ends that was judged last.
    end: usize,
    /// Where, behind it, the next record begins.
    record: usize,
    /// Where the client ends.
    fin: Option<usize>,
    progress: Progress,
    missing: Option<Missing>,
    /// Bytes of the hello when it was last looked at.
    looked: usize,
    /// It is being judged: what is known of it is enough.
    is_judged_now: bool,
    given_up: bool,
    /// What is read begins with a whole hello of TLS.
    is_hello: Option<bool>,
    /// The server has asked for a second hello.
    retry: bool,
    /// Number of the server's next byte.
    server: u32,
    answers: Answers,
    /// What the client had acknowledged when its last bytes were taken.
    acknowledged: u32,
    /// What it has acknowledged since it was refused, and what the server has.
    since: [Option<u32>; 2],
    /// The client's last timestamp, and the server's that it echoes.
    timestamps: Option<[u32; 2]>,
}

impl Default for Flow {
    fn default() -> Self {
        Self::new()
    }
}

impl Flow {
    /// One that begins with the client's SYN.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::Opening,
            base: None,
            offered: None,
            room: None,
            whole: 0,
            passed: 0,
            start: 0,
            end: 0,
            record: 0,
            fin: None,
            progress: Progress::default(),
            missing: None,
            looked: 0,
            is_judged_now: false,
            given_up: false,
            is_hello: None,
            retry: false,
            server: 0,
            answers: Answers::NONE,
            acknowledged: 0,
            since: [None; 2],
            timestamps: None,
        }
    }

    /// Takes a packet that the client sent, by the interface at which it came in.
    pub fn from_client(&mut self, packet: &Packet<'_>, pool: &mut Pool) -> Step {
        let Some(tcp) = packet.tcp().filter(|tcp| tcp.is_sound() && packet.is_intact()) else {
            return Step::DROP;
        };
        if tcp.syn {
            return self.offer(packet, tcp);
        }
        match self.state {
            State::Opening => return Step::DROP,
            State::Carried => return Step::pass(packet),
            State::Reading | State::Answering | State::Refused | State::Closed => {}
        }
        if tcp.rst {
            return self.reset(packet, tcp, pool);
        }
        match self.state {
            State::Closed => return Step::DROP,
            State::Refused => return self.repeated(tcp),
            State::Opening | State::Carried | State::Reading | State::Answering => {}
        }
        if tcp.payload.is_empty() && !tcp.fin {
            self.note(tcp);
            return Step::pass(packet);
        }
        let Some((from, to)) = self.reach(tcp) else { return Step::DROP };
        if self.differs(from, tcp.payload) {
            return Step::DROP;
        }
        let step = if tcp.payload.is_empty() {
            self.bare_fin(packet, from)
        } else if self.state == State::Reading {
            self.collect(packet, tcp, from, to, pool)
        } else {
            self.follow(packet, tcp, from, to, pool)
        };
        if step.packet != Disposition::Drop {
            self.note(tcp);
        }
        step
    }

    /// Takes a packet that the server sent, by the interface at which it came in: those of which the
    /// SYN bit is set, and, while the flow is not carried, those with a payload.
    pub fn from_server(&mut self, packet: &Packet<'_>, pool: &mut Pool) -> Step {
        let Some(tcp) = packet.tcp().filter(|tcp| tcp.is_sound() && packet.is_intact()) else {
            return Step::DROP;
        };
        if tcp.syn {
            return self.taken(packet, tcp, pool);
        }
        let pass = Step { packet: Disposition::Pass, event: None };
        match self.state {
            State::Carried | State::Closed => return pass,
            State::Refused if tcp.rst => return Step::DROP,
            State::Refused => {
                let [_, server] = &mut self.since;
                *server = tcp.acknowledged.or(*server);
                return Step::and(Disposition::Drop, Event::ResetServer);
            }
            State::Opening | State::Reading | State::Answering => {}
        }
        if tcp.rst {
            self.leave(State::Closed, pool);
            return Step::and(Disposition::Pass, Event::Closed);
        }
        if tcp.payload.is_empty() {
            return pass;
        }
        match self.state {
            State::Opening => Step::DROP,
            // It comes again, and is read then.
            State::Reading if self.passed == 0 && self.is_judged_now => Step::DROP,
            State::Reading if self.passed == 0 => {
                self.give_up(Disposition::Pass, Cause::ServerFirst)
            }
            // It has not taken the hello: what a receiver drops (an old timestamp, RFC 7323 §5; a packet
            // that died on its way) may come once more with other bytes.
            _ if !self.has_taken(tcp) => Step::DROP,
            State::Reading | State::Answering | State::Carried | State::Refused | State::Closed => {
                self.hear(tcp, pool)
            }
        }
    }

    /// Whether the server has acknowledged the hello that was judged.
    fn has_taken(&self, tcp: &Tcp<'_>) -> bool {
        let behind = |number: u32| number.wrapping_sub(self.number(self.end)).cast_signed();
        tcp.acknowledged.is_some_and(|number| behind(number) >= 0)
    }

    /// Looks at a flow of which a packet has been held, or no answer has come, for so long.
    pub fn waited(&mut self, time: Duration) -> Option<Event> {
        let (limit, cause) = match self.state {
            State::Reading => (HELD_TIME, Cause::Deadline),
            State::Answering => (ANSWER_TIME, Cause::Unanswered),
            State::Opening | State::Carried | State::Refused | State::Closed => return None,
        };
        if time < limit || self.is_judged_now {
            return None;
        }
        self.give_up(Disposition::Drop, cause).event
    }

    /// The bytes that are judged, from the first of a hello on without a gap.
    #[must_use]
    pub fn first_flight(&self) -> &[u8] {
        self.room.as_ref().map_or(&[], |room| room.get(self.start, self.whole))
    }

    /// Reads the bytes that are judged. [`identify::Step::NeedMore`](crate::identify::Step::NeedMore)
    /// is to be told as [`Judgement::NeedMore`]; it never comes behind [`Event::GiveUp`].
    pub fn identify(&mut self) -> identify::Step<'_> {
        let flight = self.room.as_ref().map_or(&[][..], |room| room.get(self.start, self.whole));
        let ended = self.given_up || self.fin == Some(self.whole);
        let step = identify_further(flight, ended, &mut self.progress);
        self.looked = flight.len();
        match &step {
            identify::Step::NeedMore(missing) => self.missing = Some(*missing),
            identify::Step::Done(identity) => self.is_hello = Some(is_hello(identity)),
        }
        step
    }

    /// Whether behind a whole hello stands what no client sends there before its server has answered:
    /// permitted, it would be [given up](Event::GiveUp).
    #[must_use]
    pub fn is_followed(&mut self) -> bool {
        let Some(end) = hello_end(self.first_flight()) else { return true };
        let before = std::mem::replace(&mut self.record, self.start + end);
        let walked = self.walk();
        self.record = before;
        walked != Records::Harmless
    }

    /// Is told what was found about the bytes that are judged, of the connection that the last
    /// [`Event::Opened`] began. One that is over by then gets nothing of it.
    pub fn judged(&mut self, judgement: Judgement, pool: &mut Pool) -> Outcome {
        if self.state != State::Reading {
            return Outcome { held: Held::Drop, event: None };
        }
        self.is_judged_now = false;
        match judgement {
            Judgement::NeedMore => Outcome { held: Held::Keep, event: None },
            Judgement::Refused => {
                self.leave(State::Refused, pool);
                Outcome { held: Held::Drop, event: None }
            }
            Judgement::Permitted => {
                if !self.given_up && self.is_hello.is_none() {
                    // Whoever judged has read it in another way.
                    let _read = self.identify();
                }
                if self.given_up || self.is_hello != Some(true) {
                    self.carry(pool)
                } else {
                    self.permit()
                }
            }
        }
    }

    /// Gives back what it holds of the pool. The flow remembers which connection it was: kept for
    /// some seconds, it knows late packets of it from those of the next one between the same ends.
    pub fn end(&mut self, pool: &mut Pool) {
        self.leave(State::Closed, pool);
    }

    /// Number of the byte at an offset.
    fn number(&self, offset: usize) -> u32 {
        // No offset is larger than [`REACH`].
        self.base.unwrap_or_default().wrapping_add(u32::try_from(offset).unwrap_or_default())
    }

    /// The number behind all that the client has sent without a gap.
    fn next(&self) -> u32 {
        self.number(self.whole + usize::from(self.fin == Some(self.whole)))
    }

    /// A SYN: asks for a connection, of which nothing goes on until the server has taken it. So the
    /// first of several, one that dies on its way, or one that the server challenges, because the
    /// connection before lives on, is never mistaken for the one that it takes.
    fn offer(&mut self, packet: &Packet<'_>, tcp: &Tcp<'_>) -> Step {
        if tcp.acknowledged.is_some() {
            return Step::DROP;
        }
        let first = tcp.sequence.wrapping_add(1);
        match self.base {
            Some(base) if base == first => match self.state {
                State::Refused | State::Closed => return Step::DROP,
                State::Opening | State::Reading | State::Answering | State::Carried => {}
            },
            // A server that still has the one before could put the bytes of both together.
            Some(base) if is_near(base, first) => return Step::DROP,
            Some(_) | None => self.offered = Some(first),
        }
        Step::pass(packet)
    }

    /// The server's answer to a SYN.
    fn taken(&mut self, packet: &Packet<'_>, tcp: &Tcp<'_>, pool: &mut Pool) -> Step {
        let Some(first) = tcp.acknowledged.filter(|_| tcp.payload.is_empty()) else {
            return Step::DROP;
        };
        let server = tcp.sequence.wrapping_add(1);
        if self.offered == Some(first) {
            self.leave(State::Closed, pool);
            *self = Self { state: State::Reading, base: self.offered, server, ..Self::new() };
            return Step::and(Disposition::Pass, Event::Opened);
        }
        match self.state {
            _ if self.base != Some(first) => Step::DROP,
            State::Opening | State::Refused | State::Closed => Step::DROP,
            State::Reading if self.passed == 0 => {
                self.server = server;
                Step::pass(packet)
            }
            State::Reading | State::Answering | State::Carried => Step::pass(packet),
        }
    }

    /// The client breaks off.
    fn reset(&mut self, packet: &Packet<'_>, tcp: &Tcp<'_>, pool: &mut Pool) -> Step {
        match self.state {
            State::Refused => Step::DROP,
            State::Closed => Step::pass(packet),
            State::Opening | State::Reading | State::Answering | State::Carried => {
                if self.offset(tcp).is_none_or(|offset| offset > REACH) {
                    return Step::DROP;
                }
                self.leave(State::Closed, pool);
                Step { event: Some(Event::Closed), ..Step::pass(packet) }
            }
        }
    }

    /// What a refused client sends.
    fn repeated(&mut self, tcp: &Tcp<'_>) -> Step {
        let [client, _] = &mut self.since;
        *client = tcp.acknowledged.or(*client);
        if tcp.fin {
            Step::and(Disposition::Drop, Event::ResetClient)
        } else if tcp.payload.is_empty() {
            Step::DROP
        } else {
            Step::and(Disposition::Drop, Event::RepeatAlert)
        }
    }

    /// Where a segment stands, counted from the client's first byte round the numbers; of one below
    /// that, more than [`REACH`].
    fn offset(&self, tcp: &Tcp<'_>) -> Option<usize> {
        usize::try_from(tcp.sequence.wrapping_sub(self.base?)).ok()
    }

    /// Where the bytes of a segment begin and end, if that is neither below the first nor too far above.
    fn reach(&self, tcp: &Tcp<'_>) -> Option<(usize, usize)> {
        let from = self.offset(tcp)?;
        let to = from.checked_add(tcp.payload.len())?;
        (to <= REACH).then_some((from, to))
    }

    /// All that is known, and what is held behind gaps, as offsets from and to.
    fn ranges(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let held = self.room.as_ref().map_or(&[][..], |room| room.held());
        let held = held.iter().filter_map(|&(from, to)| {
            Some((usize::try_from(from).ok()?, usize::try_from(to).ok()?))
        });
        std::iter::once((0, self.whole)).chain(held)
    }

    /// Whether bytes are others than those that are known in their place: the first copy counts.
    fn differs(&self, at: usize, bytes: &[u8]) -> bool {
        let Some(room) = &self.room else { return false };
        self.ranges().any(|(from, to)| {
            let (from, to) = (from.max(at), to.min(at + bytes.len()));
            from < to && bytes.get(from - at..to - at) != Some(room.get(from, to))
        })
    }

    /// Whether all bytes between two offsets are known.
    fn knows(&self, mut from: usize, to: usize) -> bool {
        while from < to {
            let Some((_, end)) = self.ranges().find(|&(start, end)| start <= from && from < end)
            else {
                return false;
            };
            from = end;
        }
        true
    }

    /// A FIN without a byte.
    fn bare_fin(&mut self, packet: &Packet<'_>, at: usize) -> Step {
        if at != self.whole || self.is_judged_now || self.given_up {
            return Step::DROP;
        }
        if self.state == State::Reading && self.whole > self.passed {
            self.fin = Some(at);
            return self.give_up(Disposition::Drop, Cause::Ended);
        }
        self.fin = Some(at);
        Step::pass(packet)
    }

    /// Whether a segment contradicts a FIN that came, or is one that what came contradicts.
    fn passes_the_end(&self, tcp: &Tcp<'_>, to: usize) -> bool {
        self.fin.is_some_and(|fin| to > fin || tcp.fin && to < fin)
            || tcp.fin && self.ranges().any(|(_, end)| end > to)
    }

    /// Holds bytes of a client that is not judged.
    fn collect(
        &mut self,
        packet: &Packet<'_>,
        tcp: &Tcp<'_>,
        from: usize,
        to: usize,
        pool: &mut Pool,
    ) -> Step {
        if self.passes_the_end(tcp, to) {
            return Step::DROP;
        }
        if to <= self.passed {
            return Step::pass(packet);
        }
        // Sent again while it is held.
        if self.given_up || self.knows(from, to) && (!tcp.fin || self.fin.is_some()) {
            return Step::DROP;
        }
        let is_next = from <= self.whole;
        if to > LARGE {
            return if is_next {
                self.give_up(Disposition::Drop, Cause::TooLarge)
            } else {
                Step::DROP
            };
        }
        if !self.has_room(to, pool) {
            return self.give_up(Disposition::Drop, Cause::NoRoom);
        }
        let Some(room) = &mut self.room else { return Step::DROP };
        if !room.hold(from, to) {
            let given_up = Cause::TooManyPackets;
            return if is_next { self.give_up(Disposition::Drop, given_up) } else { Step::DROP };
        }
        room.write(from, tcp.payload);
        if tcp.fin {
            self.fin = Some(to);
        }
        self.join();
        let step = Step::hold(packet);
        if self.is_due() {
            self.is_judged_now = true;
            return Step { event: Some(Event::FirstFlight), ..step };
        }
        step
    }

    /// Whether another look at the bytes may tell more.
    fn is_due(&self) -> bool {
        let flight = self.first_flight();
        let has_come = |missing: Missing| missing.has_come(flight, self.looked);
        !self.is_judged_now
            && flight.len() > self.looked
            && (self.missing.is_none_or(has_come) || self.fin == Some(self.whole))
    }

    /// Counts what is held without a gap.
    fn join(&mut self) {
        loop {
            let next = self.ranges().find(|&(from, to)| from <= self.whole && self.whole < to);
            let Some((_, end)) = next else { return };
            self.whole = end;
        }
    }

    /// Makes room for so many bytes; `false` where none is left.
    fn has_room(&mut self, size: usize, pool: &mut Pool) -> bool {
        if self.room.as_ref().is_some_and(|room| room.size() >= size) {
            return true;
        }
        let Some(mut room) = pool.take(size) else { return false };
        if let Some(smaller) = self.room.take() {
            room.take_over(&smaller);
            pool.put_back(smaller);
        }
        self.room = Some(room);
        true
    }

    /// Follows a client that was permitted, and whose server has not answered.
    fn follow(
        &mut self,
        packet: &Packet<'_>,
        tcp: &Tcp<'_>,
        from: usize,
        to: usize,
        pool: &mut Pool,
    ) -> Step {
        // Behind a gap nobody knows where a record begins.
        if from > self.whole || self.passes_the_end(tcp, to) {
            return Step::DROP;
        }
        if to > self.whole {
            if to > LARGE || !self.has_room(to, pool) {
                return Step::DROP;
            }
            let Some(room) = &mut self.room else { return Step::DROP };
            room.write(from, tcp.payload);
            self.whole = to;
        }
        if tcp.fin {
            self.fin = Some(to);
        }
        match self.walk() {
            Records::Harmless => {
                self.passed = self.whole;
                Step::pass(packet)
            }
            Records::Hello => {
                self.begin_second();
                self.hold(packet, from, to)
            }
            Records::Other => {
                let step = self.hold(packet, from, to);
                self.give_up(step.packet, Cause::BehindHello)
            }
        }
    }

    /// Holds the packet in which a second hello begins.
    fn hold(&mut self, packet: &Packet<'_>, from: usize, to: usize) -> Step {
        let step = Step::hold(packet);
        if self.room.as_mut().is_none_or(|room| !room.hold(from, to)) {
            return Step::DROP;
        }
        if self.state == State::Reading && self.is_due() {
            self.is_judged_now = true;
            return Step { event: Some(Event::FirstFlight), ..step };
        }
        step
    }

    /// The next record is a second hello: it is read from its first byte.
    fn begin_second(&mut self) {
        self.state = State::Reading;
        self.start = self.record;
        (self.progress, self.missing, self.looked) = (Progress::default(), None, 0);
        self.is_hello = None;
    }

    /// Walks over the records behind the hello, as far as they have come.
    fn walk(&mut self) -> Records {
        let Some(room) = &self.room else { return Records::Other };
        loop {
            match *room.get(self.record, self.whole) {
                [] => return Records::Harmless,
                [CHANGE_CIPHER_SPEC | ALERT | APPLICATION_DATA, _, _, high, low, ..] => {
                    self.record += RECORD_HEADER + usize::from(u16::from_be_bytes([high, low]));
                }
                [CHANGE_CIPHER_SPEC | ALERT | APPLICATION_DATA, ..] => return Records::Harmless,
                [HANDSHAKE, ..] if self.retry => return Records::Hello,
                _ => return Records::Other,
            }
        }
    }

    /// The hello is permitted: lets go what is held without a gap, if nothing stands behind it that a
    /// server might take for another hello.
    fn permit(&mut self) -> Outcome {
        let end = hello_end(self.first_flight());
        self.retry = false;
        let walked = end.map(|end| {
            self.end = self.start + end;
            self.record = self.end;
            self.walk()
        });
        if walked != Some(Records::Harmless) {
            let event = self.give_up(Disposition::Drop, Cause::BehindHello).event;
            return Outcome { held: Held::Keep, event };
        }
        let whole = self.whole;
        let Some(room) = &mut self.room else {
            return Outcome { held: Held::Drop, event: None };
        };
        let bits = room.held().iter().enumerate();
        let known = bits.filter(|(_, (_, to))| usize::try_from(*to).is_ok_and(|to| to <= whole));
        let released = known.fold(0, |bits, (at, _)| bits | 1 << at);
        room.release();
        self.passed = whole;
        self.state = State::Answering;
        Outcome { held: Held::Release(released), event: None }
    }

    /// Nothing that comes could turn what was judged: everything goes.
    fn carry(&mut self, pool: &mut Pool) -> Outcome {
        let count = self.room.as_ref().map_or(0, |room| room.held().len());
        let all = 1_u64.checked_shl(u32::try_from(count).unwrap_or(u32::MAX));
        self.leave(State::Carried, pool);
        Outcome {
            held: Held::Release(all.unwrap_or(0).wrapping_sub(1)),
            event: Some(Event::Carried),
        }
    }

    /// Reads the server's next bytes.
    fn hear(&mut self, tcp: &Tcp<'_>, pool: &mut Pool) -> Step {
        let pass = Step { packet: Disposition::Pass, event: None };
        // What is behind a gap comes again once the gap is filled.
        let Ok(heard) = usize::try_from(self.server.wrapping_sub(tcp.sequence).cast_signed())
        else {
            return Step::DROP;
        };
        let Some(new) = tcp.payload.get(heard..).filter(|new| !new.is_empty()) else { return pass };
        self.server = self.server.wrapping_add(u32::try_from(new.len()).unwrap_or_default());
        match self.answers.read(new) {
            None => pass,
            Some(Answer::Retry) => {
                self.retry = true;
                Step::and(Disposition::Pass, Event::Retry)
            }
            // It answers before it has the second hello.
            Some(Answer::Final) if self.state == State::Reading => {
                self.give_up(Disposition::Pass, Cause::ServerFirst)
            }
            Some(Answer::Final) => {
                self.leave(State::Carried, pool);
                Step::and(Disposition::Pass, Event::Carried)
            }
        }
    }

    /// Gives the flow up, once; where it is being judged, that is waited for.
    fn give_up(&mut self, packet: Disposition, cause: Cause) -> Step {
        if self.is_judged_now || self.given_up {
            return Step { packet, event: None };
        }
        (self.given_up, self.state) = (true, State::Reading);
        Step::and(packet, Event::GiveUp(cause))
    }

    /// Goes over to a state in which no bytes are kept.
    fn leave(&mut self, state: State, pool: &mut Pool) {
        self.state = state;
        if let Some(room) = self.room.take() {
            pool.put_back(room);
        }
    }

    fn note(&mut self, tcp: &Tcp<'_>) {
        self.acknowledged = tcp.acknowledged.unwrap_or(self.acknowledged);
        self.timestamps = tcp.timestamps().or(self.timestamps);
    }
}

/// Whether two first bytes are so near that those behind them could meet.
const fn is_near(one: u32, other: u32) -> bool {
    one.wrapping_sub(other).wrapping_add(APART) <= 2 * APART
}
