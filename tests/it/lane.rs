//! The normaliser of the fast lane: each way by which a client may have its server read other bytes
//! than were judged, and what becomes of it. `L` and a number names the way.

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use schengate::identify::{Identity, Step};
use schengate::lane::packet::{Offload, Packet, Unfit};
use schengate::lane::{
    ANSWER_TIME, Cause, Disposition, Event, Flow, HELD_MAX, HELD_TIME, HELLO_RETRY_REQUEST, Held,
    Judgement, LARGE, Pool, REACH,
};

use crate::flights;
use crate::packets::{ACK, FIN, PSH, RST, SYN, Sent, URG, checksum, wrap};

const CLIENT: [&str; 2] = ["192.0.2.2:40000", "[2001:db8:1::2]:40000"];
const SERVER: [&str; 2] = ["198.51.100.7:443", "[2001:db8:2::7]:443"];
/// Near the end of the numbers, so that every test goes over it.
const FIRST: u32 = u32::MAX - 99;
const SERVER_FIRST: u32 = 7_000;
const GOOD: &str = "permitted.example";
const BAD: &str = "forbidden.example";

/// The hello of one of the two names: the same each time.
fn hello(name: &str) -> Vec<u8> {
    static BOTH: LazyLock<[Vec<u8>; 2]> =
        LazyLock::new(|| [GOOD, BAD].map(|name| flights::tls_hello(name, &[b"h2".to_vec()])));
    BOTH[usize::from(name == BAD)].clone()
}

/// A flow with the ends that it is between, and all that went on.
struct Wire {
    client: SocketAddr,
    server: SocketAddr,
    flow: Flow,
    pool: Pool,
    held: Vec<Vec<u8>>,
    /// What went to the server, from the IP header on.
    passed: Vec<Vec<u8>>,
    opened: u32,
}

impl Wire {
    fn of(family: usize) -> Self {
        Self {
            client: CLIENT[family].parse().unwrap(),
            server: SERVER[family].parse().unwrap(),
            flow: Flow::new(),
            pool: Pool::new(2, 2),
            held: Vec::new(),
            passed: Vec::new(),
            opened: 0,
        }
    }

    /// One whose server has taken the client's SYN.
    fn open() -> Self {
        let mut wire = Self::of(0);
        let syn = wire.sends(SYN, FIRST.wrapping_sub(1));
        wire.give(&syn);
        wire.taken(FIRST);
        wire
    }

    /// One whose hello was permitted and let go.
    fn permitted() -> Self {
        let mut wire = Self::open();
        let hello = hello(GOOD);
        assert_eq!(wire.at(0, &hello), Some(Event::FirstFlight));
        assert_eq!(wire.judge(Judgement::Permitted), None);
        assert_eq!(wire.read(), hello);
        wire
    }

    fn sends(&self, flags: u8, sequence: u32) -> Sent {
        Sent::new(self.client, self.server, flags, sequence, SERVER_FIRST)
    }

    fn data(&self, offset: usize, bytes: &[u8]) -> Sent {
        let number = FIRST.wrapping_add(u32::try_from(offset).unwrap());
        self.sends(ACK | PSH, number).with(bytes)
    }

    /// The client's bytes at an offset arrive.
    fn at(&mut self, offset: usize, bytes: &[u8]) -> Option<Event> {
        self.give(&self.data(offset, bytes))
    }

    fn give(&mut self, sent: &Sent) -> Option<Event> {
        self.offloaded(&sent.bytes(), Offload::default())
    }

    fn offloaded(&mut self, bytes: &[u8], offload: Offload) -> Option<Event> {
        let packet = Packet::read(bytes, offload).unwrap();
        let step = self.flow.from_client(&packet, &mut self.pool);
        let mut room = [0; 70_000];
        let mut cut = || {
            let length = packet.cut_into(&mut room).unwrap();
            room[..length].to_vec()
        };
        match step.packet {
            Disposition::Pass => self.passed.push(bytes.to_vec()),
            Disposition::PassCut => self.passed.push(cut()),
            Disposition::Hold => self.held.push(bytes.to_vec()),
            Disposition::HoldCut => self.held.push(cut()),
            Disposition::Drop => {}
        }
        self.note(step.event)
    }

    fn note(&mut self, event: Option<Event>) -> Option<Event> {
        match event {
            Some(Event::Opened) => {
                self.held.clear();
                self.opened += 1;
            }
            Some(Event::Closed) => self.held.clear(),
            _ => {}
        }
        event
    }

    fn answers(&self, flags: u8, sequence: u32, acknowledged: u32) -> Sent {
        Sent::new(self.server, self.client, flags, sequence, acknowledged)
    }

    fn hears(&mut self, sent: &Sent) -> (Disposition, Option<Event>) {
        let bytes = sent.bytes();
        let packet = Packet::read(&bytes, Offload::default()).unwrap();
        let step = self.flow.from_server(&packet, &mut self.pool);
        (step.packet, self.note(step.event))
    }

    /// The server takes the connection whose client's first byte has this number.
    fn taken(&mut self, first: u32) -> (Disposition, Option<Event>) {
        self.hears(&self.answers(SYN | ACK, SERVER_FIRST.wrapping_sub(1), first))
    }

    /// The server has taken all that was let go, and says this.
    fn says(&mut self, offset: u32, bytes: &[u8]) -> Option<Event> {
        let taken = FIRST.wrapping_add(u32::try_from(self.read().len()).unwrap());
        let sent = self.answers(ACK | PSH, SERVER_FIRST.wrapping_add(offset), taken).with(bytes);
        self.hears(&sent).1
    }

    fn judge(&mut self, judgement: Judgement) -> Option<Event> {
        let outcome = self.flow.judged(judgement, &mut self.pool);
        let held = match outcome.held {
            Held::Keep => return outcome.event,
            Held::Drop => 0,
            Held::Release(bits) => bits,
        };
        for (at, packet) in self.held.drain(..).enumerate() {
            if held >> at & 1 == 1 {
                self.passed.push(packet);
            }
        }
        outcome.event
    }

    fn name(&mut self) -> Option<String> {
        let Step::Done(Identity { name, .. }) = self.flow.identify() else { return None };
        name.map(|(name, _)| name.to_string())
    }

    /// The bytes that a server has which got all that went on: those in their places from the first.
    fn read(&self) -> Vec<u8> {
        let mut read = Vec::new();
        for bytes in &self.passed {
            let packet = Packet::read(bytes, Offload::default()).unwrap();
            assert!(packet.is_intact() && !packet.needs_cut(), "{bytes:?}");
            let tcp = packet.tcp().unwrap();
            let at = tcp.sequence.wrapping_sub(FIRST) as usize;
            if tcp.payload.is_empty() {
                continue;
            }
            let to = at + tcp.payload.len();
            assert!(to <= REACH, "{at} to {to}");
            if read.len() < to {
                read.resize(to, None);
            }
            for (place, &byte) in read[at..to].iter_mut().zip(tcp.payload) {
                assert_eq!(*place.get_or_insert(byte), byte, "two bytes in one place");
            }
        }
        read.into_iter().map_while(|byte| byte).collect()
    }
}

#[test]
fn a_hello_is_held_judged_and_goes() {
    for family in [0, 1] {
        let mut wire = Wire::of(family);
        assert_eq!(wire.give(&wire.sends(SYN, FIRST.wrapping_sub(1))), None);
        assert_eq!(wire.taken(FIRST), (Disposition::Pass, Some(Event::Opened)));
        assert_eq!(wire.give(&wire.sends(ACK, FIRST)), None);
        assert_eq!(wire.passed.len(), 2);
        let hello = hello(GOOD);
        assert_eq!(wire.at(0, &hello), Some(Event::FirstFlight));
        assert_eq!((wire.name().as_deref(), wire.passed.len()), (Some(GOOD), 2));
        assert_eq!(wire.flow.first_flight(), hello);
        assert_eq!(wire.judge(Judgement::Permitted), None);
        assert_eq!(wire.read(), hello);
        assert_eq!(wire.pool.left(), (1, 2));
        assert_eq!(wire.says(0, &server_hello([7; 32])), Some(Event::Carried));
        assert_eq!(wire.pool.left(), (2, 2), "nothing is kept");
        assert_eq!(wire.at(hello.len(), b"anything"), None);
        assert_eq!(wire.read()[hello.len()..], *b"anything");
    }
}

#[test]
fn a_refused_hello_goes_nowhere_and_both_ends_are_told() {
    for family in [0, 1] {
        let mut wire = Wire::of(family);
        wire.give(&wire.sends(SYN, FIRST.wrapping_sub(1)));
        wire.taken(FIRST);
        let hello = hello(BAD);
        let mut sent = wire.data(0, &hello);
        sent.options = vec![1, 1, 8, 10, 0, 0, 0, 5, 0, 0, 0, 6];
        assert_eq!(wire.give(&sent), Some(Event::FirstFlight));
        assert_eq!(wire.judge(Judgement::Refused), None);
        assert_eq!((wire.read(), wire.pool.left()), (vec![], (2, 2)));
        let Wire { client, server, .. } = wire;
        let end = u32::try_from(hello.len()).unwrap();
        let alert = wire.flow.alert(client, server);
        let mut wanted = wire.answers(ACK | PSH | FIN, SERVER_FIRST, FIRST.wrapping_add(end));
        wanted.options = vec![1, 1, 8, 10, 0, 0, 0, 6, 0, 0, 0, 5];
        (wanted.window, wanted.payload) = (512, vec![21, 3, 3, 0, 2, 2, 49]);
        assert_eq!(alert.as_bytes(), wanted.segment());
        assert_eq!((alert.from, alert.to), (server, client));
        let reset = wire.flow.reset_server(client, server);
        let mut wanted = wire.sends(ACK | RST, FIRST);
        wanted.window = 512;
        assert_eq!(reset.as_bytes(), wanted.segment());
        // What it repeats is answered, and nothing of it goes on.
        assert_eq!(wire.at(0, &hello), Some(Event::RepeatAlert));
        let mut end = wire.sends(ACK | FIN, FIRST.wrapping_add(end));
        end.acknowledged = SERVER_FIRST + 8;
        assert_eq!(wire.give(&end), Some(Event::ResetClient));
        let reset = wire.flow.reset_client(client, server);
        assert_eq!(reset.as_bytes()[4..8], (SERVER_FIRST + 8).to_be_bytes());
        assert_eq!(reset.as_bytes()[13], RST | ACK);
        // A server that did not take the reset says what it waits for.
        let challenge = wire.answers(ACK, SERVER_FIRST, FIRST.wrapping_add(3));
        assert_eq!(wire.hears(&challenge), (Disposition::Drop, Some(Event::ResetServer)));
        let reset = wire.flow.reset_server(client, server);
        assert_eq!(reset.as_bytes()[4..8], FIRST.wrapping_add(3).to_be_bytes());
        assert_eq!(wire.read(), b"");
    }
}

#[test]
fn l01_the_first_byte_is_the_one_whose_number_the_server_acknowledged() {
    // Two SYNs whose numbers are so near that the bytes behind both meet.
    for (other, taken) in [(100, true), (100, false), (0_u32.wrapping_sub(100), true)] {
        let mut wire = Wire::of(0);
        let first = FIRST.wrapping_add(if taken { 0 } else { other });
        wire.give(&wire.sends(SYN, FIRST.wrapping_add(other).wrapping_sub(1)));
        wire.give(&wire.sends(SYN, FIRST.wrapping_sub(1)));
        // Before the server has said which, nothing goes; so it is whichever the server takes.
        assert_eq!(wire.at(0, &hello(GOOD)), None);
        assert_eq!(wire.passed.len(), 2);
        let (_, event) = wire.taken(first);
        assert_eq!(event, taken.then_some(Event::Opened));
        assert_eq!(wire.at(0, &hello(GOOD)), taken.then_some(Event::FirstFlight));
    }
}

#[test]
fn l02_the_first_copy_counts_and_another_one_goes_nowhere() {
    let (good, bad) = (hello(GOOD), hello(BAD));
    // The good bytes first, and then first the others.
    for (first, second) in [(&good, &bad), (&bad, &good)] {
        let mut wire = Wire::open();
        assert_eq!(wire.at(0, &first[..200]), Some(Event::FirstFlight));
        wire.flow.identify();
        wire.judge(Judgement::NeedMore);
        assert_eq!(wire.at(0, second), None);
        assert_eq!(wire.at(100, &second[100..]), None);
        assert_eq!(wire.at(150, &first[150..]), Some(Event::FirstFlight));
        assert_eq!((wire.flow.first_flight(), wire.held.len()), (&first[..], 2));
        wire.judge(Judgement::Permitted);
        assert_eq!(wire.read(), *first);
        // Until the server has answered, and what went may be lost.
        for at in [0, 1, 150, 199] {
            wire.at(at, &second[at..]);
        }
        wire.at(0, first);
        assert_eq!(wire.read(), *first);
        assert_eq!(wire.passed.len(), 4);
    }
}

#[test]
fn l03_what_stands_behind_a_gap_is_compared_too() {
    let (good, bad) = (hello(GOOD), hello(BAD));
    let mut wire = Wire::open();
    wire.at(100, &good[100..]);
    wire.at(100, &bad[100..]);
    wire.at(90, &bad[90..]);
    assert_eq!(wire.held.len(), 1);
    assert_eq!(wire.at(0, &good[..120]), Some(Event::FirstFlight));
    assert_eq!(wire.name().as_deref(), Some(GOOD));
    wire.judge(Judgement::Permitted);
    assert_eq!(wire.read(), good);
}

#[test]
fn l04_nothing_goes_below_the_first_byte_or_far_above_it() {
    let mut wire = Wire::open();
    for sequence in [FIRST.wrapping_sub(1), FIRST.wrapping_sub(200), FIRST.wrapping_add(1 << 31)] {
        assert_eq!(wire.give(&wire.sends(ACK, sequence).with(&[22; 300])), None);
    }
    wire.at(REACH - 299, &[22; 300]);
    assert_eq!((wire.held.len(), wire.passed.len()), (0, 1));
    wire.at(0, &hello(GOOD));
    wire.judge(Judgement::Permitted);
    wire.at(REACH - 299, &[23; 300]);
    wire.give(&wire.sends(ACK, FIRST.wrapping_sub(1)).with(&hello(GOOD)[..1]));
    assert_eq!(wire.read(), hello(GOOD));
    assert_eq!(wire.passed.len(), 2);
}

#[test]
fn l05_a_payload_beside_a_syn_and_fast_open_are_cut() {
    // Some servers take the payload without the option (`tcp_fastopen` of Linux, bit 9).
    for asks in [&[34, 6, 1, 2, 3, 4, 1, 1][..], &[1; 8]] {
        let mut wire = Wire::of(0);
        let mut syn = wire.sends(SYN, FIRST.wrapping_sub(1)).with(&hello(BAD));
        syn.options = [&[2, 4, 5, 180][..], asks].concat();
        wire.give(&syn);
        let gone = Packet::read(&wire.passed[0], Offload::default()).unwrap();
        let tcp = gone.tcp().unwrap();
        assert!(gone.is_intact() && tcp.payload.is_empty());
        assert_eq!(gone.bytes()[40..], [2, 4, 5, 180, 1, 1, 1, 1, 1, 1, 1, 1]);
        assert_eq!(tcp.largest_segment(), Some(1460));
        wire.taken(FIRST);
        assert_eq!(wire.at(0, &hello(GOOD)), Some(Event::FirstFlight));
    }
}

#[test]
fn l06_urgent_data_and_other_maps_of_the_stream_are_cut_from_what_is_held() {
    let hello = hello(GOOD);
    let mut wire = Wire::open();
    let mut urgent = wire.data(0, &hello[..100]);
    (urgent.flags, urgent.urgent) = (ACK | URG, 5);
    let mut mapped = wire.data(100, &hello[100..]);
    mapped.options = [&[30, 20][..], &[0x20; 18]].concat();
    wire.give(&urgent);
    wire.flow.identify();
    wire.judge(Judgement::NeedMore);
    assert_eq!(wire.give(&mapped), Some(Event::FirstFlight));
    wire.judge(Judgement::Permitted);
    assert_eq!(wire.read(), hello);
    // And from what is sent again.
    wire.give(&urgent);
    wire.give(&mapped);
    let mut alone = wire.sends(ACK, FIRST);
    alone.options = vec![30, 12, 0x81, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    wire.give(&alone);
    assert_eq!(wire.read(), hello);
    assert_eq!(wire.passed.len(), 6);
}

#[test]
fn l07_what_is_several_packets_in_one_goes_anew_and_cut() {
    let hello = flights::tls_hello_of(GOOD, 9000);
    let mut wire = Wire::open();
    let mut sent = wire.data(0, &hello);
    (sent.flags, sent.urgent, sent.wrong) = (ACK | PSH | URG, 9, 77);
    let bytes = sent.bytes();
    let offload = Offload { checksum_missing: true, gso: true };
    assert_eq!(wire.offloaded(&bytes, offload), Some(Event::FirstFlight));
    assert_eq!(wire.name().as_deref(), Some(GOOD));
    let packet = Packet::read(&bytes, offload).unwrap();
    let (mut room, mut gone) = ([0; 1500], Vec::<u8>::new());
    packet
        .segments(1400, &mut room, |segment| {
            let bytes = wrap(wire.client.ip(), wire.server.ip(), 6, &[], segment);
            let piece = Packet::read(&bytes, Offload::default()).unwrap();
            assert!(piece.is_intact() && !piece.needs_cut());
            let tcp = piece.tcp().unwrap();
            assert_eq!(tcp.sequence, FIRST.wrapping_add(u32::try_from(gone.len()).unwrap()));
            assert!(tcp.payload.len() <= 1400);
            assert_eq!(segment[13] & PSH != 0, gone.len() + tcp.payload.len() == hello.len());
            gone.extend(tcp.payload);
        })
        .unwrap();
    assert_eq!(gone, hello);
}

#[test]
fn l08_a_copy_with_a_wrong_checksum_is_none() {
    let mut wire = Wire::open();
    for (bytes, wrong) in [(hello(BAD), 1), (hello(GOOD), 0)] {
        let mut sent = wire.data(0, &bytes);
        sent.wrong = wrong;
        assert_eq!(wire.give(&sent), (wrong == 0).then_some(Event::FirstFlight));
    }
    assert_eq!(wire.name().as_deref(), Some(GOOD));
}

#[test]
fn l09_between_hello_and_answer_goes_what_no_server_takes_for_a_hello() {
    let early = [&[20, 3, 3, 0, 1, 1, 23, 3, 3, 0, 200][..], &[7; 200], &[21, 3, 3, 0, 2]].concat();
    let end = hello(GOOD).len();
    let mut wire = Wire::permitted();
    for (at, part) in early.chunks(9).enumerate() {
        assert_eq!(wire.at(end + 9 * at, part), None);
    }
    assert_eq!(wire.read()[end..], early);
    // What went is held to, as the hello is; a gap is not leapt over.
    let passed = wire.passed.len();
    wire.at(end + 6, &[22, 3, 3, 0, 200]);
    assert_eq!(wire.at(end + early.len() + 9, &[22; 90]), None);
    assert_eq!(wire.passed.len(), passed);
    // Nor does what was held behind one go with the hello.
    let mut wire = Wire::open();
    wire.at(end + 50, &hello(BAD));
    assert_eq!(wire.at(0, &hello(GOOD)), Some(Event::FirstFlight));
    wire.judge(Judgement::Permitted);
    assert_eq!((wire.read(), wire.passed.len()), (hello(GOOD), 2));
    // Another hello, though the same, is none that a client sends before it is asked for one.
    for behind in [hello(GOOD), hello(BAD), vec![24, 3, 3], vec![0]] {
        let mut wire = Wire::permitted();
        let given_up = Some(Event::GiveUp(Cause::BehindHello));
        assert_eq!(wire.at(end, &behind), given_up, "{behind:?}");
        assert_eq!(wire.read(), hello(GOOD));
        assert_eq!(wire.judge(Judgement::Refused), None);
        // In the same segment.
        let mut wire = Wire::open();
        let both = [&hello(GOOD)[..], &behind].concat();
        assert_eq!(wire.at(0, &both), Some(Event::FirstFlight));
        assert_eq!(wire.judge(Judgement::Permitted), given_up);
        assert_eq!(wire.judge(Judgement::Refused), None);
        assert_eq!((wire.read(), wire.pool.left()), (vec![], (2, 2)));
    }
}

#[test]
fn l10_a_hello_that_shares_its_record_is_not_let_go() {
    let mut shared = hello(GOOD);
    shared.extend(&hello(BAD)[5..]);
    let length = u16::try_from(shared.len() - 5).unwrap().to_be_bytes();
    shared[3..5].copy_from_slice(&length);
    let mut wire = Wire::open();
    assert_eq!(wire.at(0, &shared), Some(Event::FirstFlight));
    let given_up = Some(Event::GiveUp(Cause::BehindHello));
    assert_eq!(wire.judge(Judgement::Permitted), given_up);
    // A policy that permits what breaks the rules has it carried.
    assert_eq!(wire.judge(Judgement::Permitted), Some(Event::Carried));
    assert_eq!(wire.read(), shared);
}

/// A record with a ServerHello of this random.
fn server_hello(random: [u8; 32]) -> Vec<u8> {
    let body = [&[3, 3][..], &random, &[0, 0x13, 1, 0, 0, 0]].concat();
    let message = [&[2, 0, 0, u8::try_from(body.len()).unwrap()][..], &body].concat();
    [&[22, 3, 3, 0, u8::try_from(message.len()).unwrap()][..], &message].concat()
}

#[test]
fn l11_a_second_hello_that_the_server_asks_for_is_judged() {
    let end = hello(GOOD).len();
    for name in [GOOD, BAD] {
        let mut wire = Wire::permitted();
        let retry = server_hello(HELLO_RETRY_REQUEST);
        // In pieces, one of them twice.
        assert_eq!(wire.says(0, &retry[..30]), None);
        assert_eq!(wire.says(10, &retry[10..30]), None);
        assert_eq!(wire.says(20, &retry[20..]), Some(Event::Retry));
        let changed = [20, 3, 3, 0, 1, 1];
        let second = [&changed[..], &hello(name)].concat();
        assert_eq!(wire.at(end, &second[..40]), Some(Event::FirstFlight));
        wire.flow.identify();
        wire.judge(Judgement::NeedMore);
        assert_eq!(wire.at(end + 40, &second[40..]), Some(Event::FirstFlight));
        assert_eq!(wire.name().as_deref(), Some(name));
        assert_eq!(wire.read(), hello(GOOD));
        // The first one may be sent again meanwhile.
        wire.at(0, &hello(GOOD));
        wire.at(0, &hello(BAD));
        let permitted = name == GOOD;
        wire.judge(if permitted { Judgement::Permitted } else { Judgement::Refused });
        let wanted = [hello(GOOD), if permitted { second } else { Vec::new() }].concat();
        assert_eq!(wire.read(), wanted);
        let server = u32::try_from(retry.len()).unwrap();
        let event = wire.says(server, &[&changed[..], &server_hello([9; 32])].concat());
        assert_eq!(event, Some(if permitted { Event::Carried } else { Event::ResetServer }));
    }
}

#[test]
fn l12_a_reset_or_an_end_that_its_server_never_sees_opens_nothing() {
    let good = hello(GOOD);
    let mut wire = Wire::open();
    wire.at(0, &good[..90]);
    // Neither in the window nor of the connection.
    assert_eq!(wire.give(&wire.sends(RST, FIRST.wrapping_sub(9))), None);
    assert_eq!(wire.give(&wire.sends(RST | ACK, FIRST.wrapping_add(1 << 20))), None);
    assert_eq!((wire.held.len(), wire.passed.len()), (1, 1));
    assert_eq!(wire.give(&wire.sends(RST, FIRST.wrapping_add(90))), Some(Event::Closed));
    assert_eq!(wire.passed.len(), 2, "the reset goes");
    wire.at(90, &good[90..]);
    wire.at(0, &hello(BAD));
    assert_eq!(wire.judge(Judgement::Permitted), None, "a judgement that comes late");
    assert_eq!((wire.read(), wire.pool.left()), (vec![], (2, 2)));
    // Ends: before a byte one goes, behind half a hello the half is judged as such.
    let mut wire = Wire::open();
    assert_eq!(wire.give(&wire.sends(FIN | ACK, FIRST)), None);
    assert_eq!(wire.passed.len(), 2);
    let mut wire = Wire::open();
    wire.at(0, &good[..90]);
    wire.flow.identify();
    wire.judge(Judgement::NeedMore);
    let end = wire.sends(FIN | ACK, FIRST.wrapping_add(90));
    assert_eq!(wire.give(&end), Some(Event::GiveUp(Cause::Ended)));
    let Step::Done(identity) = wire.flow.identify() else { panic!("it has ended") };
    assert!(identity.fault.is_some());
    assert_eq!(wire.judge(Judgement::Refused), None);
    // With the bytes, and contradicted by what comes behind it.
    let mut wire = Wire::open();
    let mut end = wire.data(0, &good);
    end.flags |= FIN;
    assert_eq!(wire.give(&end), Some(Event::FirstFlight));
    wire.at(good.len(), &[23; 50]);
    wire.judge(Judgement::Permitted);
    wire.at(good.len(), &[23; 50]);
    assert_eq!(wire.read(), good);
}

#[test]
fn l13_a_connection_at_the_numbers_of_the_one_before_is_not_taken() {
    let reset = |wire: &mut Wire| {
        assert_eq!(wire.give(&wire.sends(RST, FIRST)), Some(Event::Closed));
    };
    // The server lives on with part of the first hello, and the client would have the rest of another
    // one put behind it; a late answer to the first SYN seems to take it.
    for near in [0, 100, 0_u32.wrapping_sub(100), 200_000] {
        let mut wire = Wire::permitted();
        reset(&mut wire);
        let passed = wire.passed.len();
        wire.give(&wire.sends(SYN, FIRST.wrapping_add(near).wrapping_sub(1)));
        assert_eq!(wire.passed.len(), passed, "{near}");
        assert_eq!(wire.taken(FIRST.wrapping_add(near)), (Disposition::Drop, None));
    }
    let mut wire = Wire::permitted();
    reset(&mut wire);
    let far = FIRST.wrapping_add(1 << 20);
    wire.give(&wire.sends(SYN, far.wrapping_sub(1)));
    assert_eq!(wire.taken(far), (Disposition::Pass, Some(Event::Opened)));
    assert_eq!(wire.give(&wire.sends(ACK, far).with(&hello(GOOD))), Some(Event::FirstFlight));
    assert_eq!(wire.opened, 2);
}

#[test]
fn l14_a_syn_inside_a_live_flow_changes_nothing_until_the_server_takes_it() {
    let good = hello(GOOD);
    let mut wire = Wire::permitted();
    let far = FIRST.wrapping_add(1 << 24);
    wire.give(&wire.sends(SYN, far.wrapping_sub(1)));
    assert_eq!(wire.give(&wire.sends(ACK, far).with(&hello(GOOD))), None);
    // The server challenges it (RFC 5961 §4.2), and the first connection goes on.
    let challenge = wire.answers(ACK, SERVER_FIRST, FIRST);
    assert_eq!(wire.hears(&challenge), (Disposition::Pass, None));
    wire.at(0, &hello(BAD));
    wire.at(0, &good);
    assert_eq!(wire.read(), good);
    // A server that has lost it takes the other one.
    assert_eq!(wire.taken(far).1, Some(Event::Opened));
    let passed = wire.passed.len();
    wire.at(0, &good);
    assert_eq!(wire.passed.len(), passed, "bytes of the connection before");
    assert_eq!(wire.give(&wire.sends(ACK, far).with(&good)), Some(Event::FirstFlight));
    // The same SYN again is one that was lost.
    wire.give(&wire.sends(SYN, far.wrapping_sub(1)));
    assert_eq!(wire.passed.len(), passed + 1);
    assert_eq!(wire.taken(far), (Disposition::Pass, None));
    assert_eq!(wire.flow.first_flight(), good);
}

#[test]
fn l15_a_hello_byte_by_byte_is_held_to_the_limit_and_given_up_behind_it() {
    let hello = hello(GOOD);
    let mut wire = Wire::open();
    let mut events = Vec::new();
    for (at, byte) in hello.iter().enumerate() {
        let event = wire.at(at, &[*byte]);
        if event == Some(Event::FirstFlight) {
            wire.flow.identify();
            wire.judge(Judgement::NeedMore);
        } else if let Some(event) = event {
            events.push((at, event));
        }
    }
    assert_eq!(events, [(HELD_MAX, Event::GiveUp(Cause::TooManyPackets))]);
    assert_eq!(wire.held.len(), HELD_MAX);
    assert_eq!(wire.judge(Judgement::Permitted), Some(Event::Carried), "where it is only noted");
    assert_eq!(wire.read(), hello[..HELD_MAX]);
}

#[test]
fn l16_a_hello_of_the_largest_size_is_held_and_a_larger_one_given_up() {
    for (length, wanted) in
        [(LARGE, Event::FirstFlight), (LARGE + 200, Event::GiveUp(Cause::TooLarge))]
    {
        let hello = flights::tls_hello_of(GOOD, length);
        let mut wire = Wire::open();
        let mut last = None;
        for (at, part) in hello.chunks(1400).enumerate() {
            let event = wire.at(1400 * at, part);
            if event == Some(Event::FirstFlight) && wire.name().is_none() {
                wire.judge(Judgement::NeedMore);
            }
            last = event.or(last);
        }
        assert_eq!(last, Some(wanted));
        assert_eq!(wire.pool.left(), (2, 1), "a large room in the place of a small one");
        assert_eq!(wire.name().as_deref(), (length == LARGE).then_some(GOOD));
    }
}

#[test]
fn l17_what_waits_too_long_or_finds_no_room_is_given_up() {
    let hello = hello(GOOD);
    let mut wire = Wire::open();
    wire.at(0, &hello[..9]);
    wire.flow.identify();
    wire.judge(Judgement::NeedMore);
    assert_eq!(wire.flow.waited(HELD_TIME - Duration::from_millis(1)), None);
    assert_eq!(wire.flow.waited(HELD_TIME), Some(Event::GiveUp(Cause::Deadline)));
    assert_eq!(wire.flow.waited(HELD_TIME), None, "once");
    assert!(matches!(wire.flow.identify(), Step::Done(_)), "it has said all that it may");
    wire.judge(Judgement::Refused);
    let mut wire = Wire::permitted();
    assert_eq!(wire.flow.waited(ANSWER_TIME), Some(Event::GiveUp(Cause::Unanswered)));
    let mut wire = Wire::open();
    wire.pool = Pool::new(0, 0);
    assert_eq!(wire.at(0, &hello), Some(Event::GiveUp(Cause::NoRoom)));
    assert_eq!(wire.held.len(), 0);
}

#[test]
fn l18_a_server_that_speaks_first_is_none_of_tls() {
    let mut wire = Wire::open();
    assert_eq!(wire.says(0, b"SSH-2.0-x\r\n"), Some(Event::GiveUp(Cause::ServerFirst)));
    assert_eq!(wire.judge(Judgement::Permitted), Some(Event::Carried));
}

#[test]
fn l18_what_a_server_says_before_it_has_taken_the_hello_is_no_answer_to_it() {
    let mut wire = Wire::permitted();
    let size = u32::try_from(hello(GOOD).len()).unwrap();
    // The hello that was judged died on its way, or was too old for the server (RFC 7323 §5).
    for taken in [FIRST, FIRST.wrapping_add(size - 1)] {
        let banner = wire.answers(ACK | PSH, SERVER_FIRST, taken).with(b"SSH-2.0-x\r\n");
        assert_eq!(wire.hears(&banner), (Disposition::Drop, None), "{taken}");
    }
    let unsaid = wire.answers(PSH, SERVER_FIRST, 0).with(b"SSH-2.0-x\r\n");
    assert_eq!(wire.hears(&unsaid), (Disposition::Drop, None));
    let passed = wire.passed.len();
    wire.at(0, &hello(BAD));
    assert_eq!(wire.passed.len(), passed, "other bytes in the place of those that were judged");
    // What stands behind a gap waits for what is missing.
    let late = wire.answers(ACK | PSH, SERVER_FIRST.wrapping_add(4), FIRST.wrapping_add(size));
    assert_eq!(wire.hears(&late.with(b"2.0-x\r\n")), (Disposition::Drop, None));
    assert_eq!(wire.says(0, b"SSH-2.0-x\r\n"), Some(Event::Carried));
}

#[test]
fn l19_packets_that_another_host_or_reader_takes_otherwise_are_unfit() {
    let wire = Wire::of(0);
    let six = Wire::of(1);
    let offload = Offload::default();
    let read = |bytes: &[u8]| Packet::read(bytes, offload).err();
    let plain = wire.data(0, b"data");
    assert_eq!(read(&plain.bytes()), None);
    assert_eq!(read(&[&plain.bytes()[..], b"padding"].concat()), None);
    assert_eq!(read(&plain.bytes()[..43]), Some(Unfit::Truncated));
    assert_eq!(read(&plain.bytes()[..19]), Some(Unfit::Header));
    assert_eq!(read(&[]), Some(Unfit::Header));
    let mut fragment = plain.bytes();
    fragment[6] = 0x20;
    assert_eq!(read(&fragment), Some(Unfit::Fragment));
    let mut short = plain.bytes();
    short[32] = 0xf0;
    assert_eq!(read(&short), Some(Unfit::Header));
    for (route, wanted) in [
        (&[131, 7, 4, 203, 0, 113, 7, 0][..], Some(Unfit::RoutedOn)),
        (&[1, 137, 7, 4, 203, 0, 113, 7], Some(Unfit::RoutedOn)),
        (&[131, 7, 8, 203, 0, 113, 7, 0], None),
        (&[7, 7, 4, 0, 0, 0, 0, 0], None),
        (&[7, 1, 131, 7], Some(Unfit::RoutedOn)),
    ] {
        let mut sent = plain.clone();
        sent.between.1 = route.to_vec();
        assert_eq!(read(&sent.bytes()), wanted, "{route:?}");
    }
    let routing = |left| [&[6, 2, 0, left, 0, 0, 0, 0][..], &[0x20; 16]].concat();
    let options = [43, 0, 1, 4, 0, 0, 0, 0];
    for (first, headers, wanted) in [
        (43, routing(1), Some(Unfit::RoutedOn)),
        (43, routing(0), None),
        (60, [&options[..], &routing(3)].concat(), Some(Unfit::RoutedOn)),
        (44, vec![6, 0, 0, 1, 0, 0, 0, 9], Some(Unfit::Fragment)),
        (44, vec![6, 0, 0, 0, 0, 0, 0, 9], None),
        (50, vec![0; 8], Some(Unfit::Protocol(50))),
        (60, [60, 0, 1, 4, 0, 0, 0, 0].repeat(40), Some(Unfit::Header)),
        (60, vec![6, 200, 1, 4, 0, 0, 0, 0], Some(Unfit::Header)),
    ] {
        let mut sent = six.data(0, b"data");
        sent.between = (first, headers);
        assert_eq!(read(&sent.bytes()), wanted, "{:?}", sent.between);
        if wanted.is_none() {
            let bytes = sent.bytes();
            let packet = Packet::read(&bytes, offload).unwrap();
            assert!(packet.is_intact());
            assert_eq!((packet.from, packet.to), (six.client, six.server));
            assert_eq!(packet.tcp().unwrap().payload, b"data");
        }
    }
    let (from, to) = (wire.client.ip(), wire.server.ip());
    let mut datagram = [156, 64, 1, 187, 0, 12, 0, 0, 1, 2, 3, 4];
    let sum = checksum(from, to, 17, &datagram);
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    let bytes = wrap(from, to, 17, &[], &datagram);
    assert!(Packet::read(&bytes, offload).unwrap().is_intact());
    let gso = Offload { gso: true, ..offload };
    assert!(Packet::read(&bytes, gso).unwrap().offload().gso);
}

#[test]
fn l20_segments_that_mean_two_things_go_nowhere() {
    let mut wire = Wire::open();
    for flags in [SYN | FIN, SYN | RST, SYN | ACK, PSH, FIN, 0] {
        let sent = wire.sends(flags, FIRST).with(if flags & SYN == 0 { b"x" } else { b"" });
        assert_eq!(wire.give(&sent), None);
    }
    // A SYN of the server that answers none.
    let sent = wire.answers(SYN, SERVER_FIRST, 0);
    assert_eq!(wire.hears(&sent), (Disposition::Drop, None));
    assert_eq!((wire.passed.len(), wire.held.len()), (1, 0));
}
