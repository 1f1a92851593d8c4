//! Reads what a client's datagrams say of whom they are for: the first ones, before the verdict, and
//! every one of a live flow that could begin another connection. Forwards nothing.

use crate::identify::dtls::{self, DtlsReader, DtlsStep};
use crate::identify::quic::{self, Initial, QuicReader, QuicStep};
use crate::identify::{HostName, Identity, Protocol, udp_protocol};

use super::table::{QueuedDatagram, WAITING_MAX};

/// Datagrams of one flow that are held, read and not forwarded.
const HELD_MAX: usize = WAITING_MAX;

/// Bytes that a reader may hold, in hello fragments and its buffer: eight Initials and more. One that
/// is forged can make it hold 128 KiB with a fragment far from the beginning.
const READER_MAX: usize = 48 * 1024;

/// Bytes of a reader that a live flow may hold without a charge: the hellos of most, each of which is
/// kept for the next one to be compared with.
const READER_FREE: usize = 8 * 1024;

/// Content type of a DTLS handshake record.
const HANDSHAKE: u8 = 22;

/// A flow's datagrams that were read and not yet forwarded, and what they say.
#[derive(Debug, Default)]
pub(super) struct Flight {
    held: Vec<QueuedDatagram>,
    reader: Reader,
    /// What the verdict on the flow rests on; `None` before it.
    known: Option<Known>,
    /// Nothing that is read can change the verdict, by the policy of this turn of the registry.
    settled: Option<u64>,
}

#[derive(Debug, Default)]
enum Reader {
    /// Nothing was seen, or nothing that carries a name.
    #[default]
    None,
    Quic(Box<QuicReader>),
    Dtls(Box<DtlsReader>),
}

/// What a verdict was given for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    protocol: Protocol,
    name: Option<HostName>,
}

/// Whether more datagrams are waited for before the verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// They look like a protocol that carries a name.
    More,
    /// More would change nothing.
    Nothing,
    /// As many are held as may be.
    Full,
}

/// What becomes of a datagram of a live flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// It may go, and what is held before it.
    Go,
    /// It is part of a hello that is not yet whole: it is held now.
    Held,
    /// It cannot be read here, and its receiver may read a name in it.
    Drop,
    /// It speaks of another protocol, host or connection than the one judged, or more of it is
    /// held than may be: it is held now, and what is held begins a flow of its own.
    Restart,
}

impl Flight {
    /// Reads and holds a datagram that came before the verdict.
    pub(super) fn first(&mut self, datagram: QueuedDatagram) -> Need {
        let need = self.reader.first(datagram.bytes());
        self.held.push(datagram);
        let many = need == Need::More && self.held.len() >= HELD_MAX;
        if many || self.reader_bytes() > READER_MAX { Need::Full } else { need }
    }

    /// Bytes that the reader holds.
    pub(super) fn reader_bytes(&self) -> usize {
        match &self.reader {
            Reader::None => 0,
            Reader::Quic(reader) => reader.held(),
            Reader::Dtls(reader) => reader.held(),
        }
    }

    /// Bytes that the reader of a live flow holds beyond what each may.
    pub(super) fn excess(&self) -> usize {
        self.reader_bytes().saturating_sub(READER_FREE)
    }

    /// Nothing that is read can change the verdict, as long as the registry's turn is this one.
    pub(super) const fn settle(&mut self, turn: u64) {
        self.settled = Some(turn);
    }

    /// See [`Flight::settle`].
    pub(super) const fn is_settled(&self) -> bool {
        self.settled.is_some()
    }

    /// Holds a datagram that nobody has to read.
    pub(super) fn hold_unread(&mut self, datagram: QueuedDatagram) {
        self.held.push(datagram);
    }

    /// What is known by now.
    pub(super) fn identity(&self) -> Identity<'_> {
        match &self.reader {
            Reader::None => Identity::NOTHING,
            Reader::Quic(reader) => reader.identity(),
            Reader::Dtls(reader) => reader.identity(),
        }
    }

    /// Tells every name in a first flight that cannot be read as it stands.
    pub(super) fn each_name(&self, see: &mut dyn FnMut(HostName)) {
        match &self.reader {
            Reader::None => {}
            Reader::Quic(reader) => reader.each_name(see),
            Reader::Dtls(reader) => reader.each_name(see),
        }
    }

    /// The Initial that a refusal can answer.
    pub(super) fn initial(&self) -> Option<Initial> {
        match &self.reader {
            Reader::Quic(reader) => reader.initial(),
            Reader::None | Reader::Dtls(_) => None,
        }
    }

    /// The flow has its verdict on what is known by now: from here on it is held to that.
    pub(super) fn judged(&mut self) {
        self.known = Some(self.known());
    }

    /// Bytes of the first datagram that is held.
    pub(super) fn first_length(&self) -> usize {
        self.held.first().map_or(0, |held| held.bytes().len())
    }

    /// What is held, in order, to be forwarded.
    pub(super) fn take(&mut self) -> Vec<QueuedDatagram> {
        std::mem::take(&mut self.held)
    }

    /// Whether a datagram of a live flow needs [`Flight::pass`]; every other one may go. A look at two
    /// bytes, and at two of every thirteen, for all that are no handshake. `turn` is the registry's: under another policy than
    /// the one that settled the flow, what comes may matter.
    pub(super) fn looks_at(&self, datagram: &[u8], turn: u64) -> bool {
        if self.settled == Some(turn) {
            return false;
        }
        match datagram.first() {
            // While a part of a hello is held, nothing overtakes it.
            _ if !self.held.is_empty() => true,
            // The long header of QUIC, and the one of Google QUIC with a version in it.
            // A hello of DTLS may stand behind other records, and behind what is none.
            Some(first) => {
                let begins = first & 0x80 != 0 || first & 0xcb == 0x09 || *first == HANDSHAKE;
                begins || dtls::is_hello(datagram)
            }
            None => false,
        }
    }

    /// Reads a datagram of a live flow.
    pub(super) fn pass(&mut self, datagram: QueuedDatagram) -> Pass {
        let whole = match (&mut self.reader, udp_protocol(datagram.bytes())) {
            // Another protocol than the one judged: a name may be in it.
            (Reader::None | Reader::Quic(_), Protocol::Dtls)
                if dtls::is_hello(datagram.bytes()) =>
            {
                self.held.push(datagram);
                return Pass::Restart;
            }
            (Reader::Quic(reader), _) => match reader.push(datagram.bytes()) {
                QuicStep::Done => true,
                QuicStep::NeedMore => false,
                // What nobody could read was judged as such, and goes where the rest went.
                QuicStep::Unread if reader.initial().is_none() => self.held.is_empty(),
                QuicStep::Unread => return Pass::Drop,
                QuicStep::Nothing => self.held.is_empty(),
            },
            (Reader::Dtls(reader), Protocol::Dtls) => match reader.push(datagram.bytes()) {
                DtlsStep::Done => true,
                DtlsStep::NeedMore => false,
                DtlsStep::Nothing => self.held.is_empty(),
            },
            (_, Protocol::Quic) => {
                self.held.push(datagram);
                return Pass::Restart;
            }
            (Reader::None | Reader::Dtls(_), _) => self.held.is_empty(),
        };
        self.held.push(datagram);
        if self.reader_bytes() > READER_MAX {
            return Pass::Restart;
        }
        if !whole {
            return if self.held.len() >= HELD_MAX { Pass::Restart } else { Pass::Held };
        }
        if self.identity().fault.is_some() || self.known.is_some_and(|known| known != self.known())
        {
            return Pass::Restart;
        }
        Pass::Go
    }

    fn known(&self) -> Known {
        let identity = self.identity();
        Known { protocol: identity.protocol, name: identity.name.map(|(name, _)| name) }
    }
}

impl Reader {
    fn first(&mut self, datagram: &[u8]) -> Need {
        if matches!(self, Self::None) {
            *self = match udp_protocol(datagram) {
                Protocol::Quic => Self::Quic(Box::default()),
                Protocol::Dtls => Self::Dtls(Box::default()),
                Protocol::Tls | Protocol::Http | Protocol::Other => return Need::Nothing,
            };
        }
        match self {
            Self::None => Need::Nothing,
            Self::Quic(reader) => match reader.push(datagram) {
                QuicStep::Done => Need::Nothing,
                QuicStep::NeedMore | QuicStep::Unread | QuicStep::Nothing => Need::More,
            },
            Self::Dtls(reader) => match reader.push(datagram) {
                DtlsStep::NeedMore => Need::More,
                // A record that is no part of a hello: a flow that began before the gateway did.
                DtlsStep::Done | DtlsStep::Nothing => Need::Nothing,
            },
        }
    }
}

/// Whether a refused client that sends this may be asking for something else than it was refused.
pub(super) fn may_carry_a_name(datagram: &[u8]) -> bool {
    quic::version(datagram).is_some() || dtls::is_hello(datagram)
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use rustls::quic::Version;

    use super::super::table::{Delivered, Key, Limits, Place, Table};
    use super::*;
    use crate::identify::Fault;
    use crate::identify::quic::flights;

    const DCID: &[u8] = b"\x83\x94\xc8\xf0\x3e\x51\x57\x08";

    /// Counts what is held, as the table of a worker does.
    fn place() -> Place {
        let table: Rc<Table> = Table::new(Limits::of(1));
        let client = "192.0.2.2:40000".parse().unwrap();
        let key = Key::transparent(client, "198.51.100.7:443".parse().unwrap());
        let Delivered::New(place) = table.deliver(key, b"") else { panic!("the first is new") };
        place
    }

    /// A hello in as many Initials.
    fn initials(version: Version, dcid: &[u8], name: &str, count: usize) -> Vec<Vec<u8>> {
        let hello = flights::quic_hello(name, &[b"h3".to_vec()]);
        let step = hello.len().div_ceil(count);
        let parts = hello.chunks(step).enumerate();
        parts
            .map(|(n, part)| {
                let frame = flights::crypto_frame(n * step, part);
                flights::initial(version, dcid, u32::try_from(n).unwrap(), &frame)
            })
            .collect()
    }

    fn name(flight: &Flight) -> Option<String> {
        flight.identity().name.map(|(name, _)| name.as_str().to_owned())
    }

    #[test]
    fn q02_a_hello_over_initials_in_any_order_is_read_when_the_last_has_come() {
        let place = place();
        for count in [1, 2, 3, 8] {
            for turn in 0..count {
                let mut datagrams = initials(Version::V1, DCID, "allowed.example", count);
                datagrams.rotate_left(turn);
                datagrams.reverse();
                let mut flight = Flight::default();
                for (n, datagram) in datagrams.iter().enumerate() {
                    let need = flight.first(place.hold(datagram).unwrap());
                    let wanted = if n + 1 < count { Need::More } else { Need::Nothing };
                    assert_eq!(need, wanted, "{n} of {count}, turned by {turn}");
                }
                assert_eq!(name(&flight).as_deref(), Some("allowed.example"));
                let held: Vec<_> = flight.take().iter().map(|h| h.bytes().to_vec()).collect();
                assert_eq!(held, datagrams, "all of them, as they came");
            }
        }
    }

    #[test]
    fn q04_junk_needs_nothing_more_and_names_nobody() {
        let place = place();
        for junk in [&b""[..], b"junk", &[0x40; 1200], &[0xff; 3]] {
            let mut flight = Flight::default();
            assert_eq!(flight.first(place.hold(junk).unwrap()), Need::Nothing, "{junk:?}");
            assert_eq!((flight.identity().protocol, name(&flight)), (Protocol::Other, None));
            assert!(!may_carry_a_name(junk));
        }
        assert!(may_carry_a_name(&initials(Version::V2, DCID, "allowed.example", 1)[0]));
    }

    #[test]
    fn q13_a_fragment_far_from_the_beginning_is_not_waited_for() {
        let place = place();
        let far = flights::crypto_frame(100_000, b"far away");
        let datagram = flights::initial(Version::V1, DCID, 0, &far);
        let mut flight = Flight::default();
        assert_eq!(flight.first(place.hold(&datagram).unwrap()), Need::Full);
        assert_eq!(flight.identity().fault, Some(Fault::Incomplete));
    }

    #[test]
    fn q05_an_unknown_version_is_held_and_no_name_is_read() {
        let place = place();
        let mut datagram = initials(Version::V1, DCID, "allowed.example", 1).remove(0);
        datagram[1..5].copy_from_slice(&[0x1a, 0x2a, 0x3a, 0x4a]);
        let mut flight = Flight::default();
        for n in 1..HELD_MAX {
            assert_eq!(flight.first(place.hold(&datagram).unwrap()), Need::More, "{n}");
        }
        assert_eq!(flight.first(place.hold(&datagram).unwrap()), Need::Full);
        assert_eq!((flight.identity().protocol, name(&flight)), (Protocol::Quic, None));
        assert!(flight.initial().is_none(), "nothing that could be answered");
    }

    fn judged(datagrams: &[Vec<u8>], place: &Place) -> Flight {
        let mut flight = Flight::default();
        for datagram in datagrams {
            flight.first(place.hold(datagram).unwrap());
        }
        flight.judged();
        drop(flight.take());
        flight
    }

    #[test]
    fn q06_another_hello_on_a_live_flow_begins_anew_and_the_same_one_goes() {
        let place = place();
        let mut flight = judged(&initials(Version::V1, DCID, "allowed.example", 1), &place);
        // After a Retry: the same name under other keys.
        let again =
            initials(Version::V1, b"\x01\x02\x03\x04\x05\x06\x07\x08", "allowed.example", 2);
        assert!(again.iter().all(|datagram| flight.looks_at(datagram, 0)));
        assert_eq!(flight.pass(place.hold(&again[0]).unwrap()), Pass::Held);
        assert!(flight.looks_at(b"\x40 short", 0), "nothing overtakes a part of a hello");
        assert_eq!(flight.pass(place.hold(b"\x40 short").unwrap()), Pass::Held);
        assert_eq!(flight.pass(place.hold(&again[1]).unwrap()), Pass::Go);
        assert_eq!(flight.take().len(), 3);
        assert!(!flight.looks_at(b"\x40 short", 0));
        let other = initials(Version::V1, b"\x01\x01\x01\x01\x01\x01\x01\x01", "other.example", 1);
        assert_eq!(flight.pass(place.hold(&other[0]).unwrap()), Pass::Restart);
        assert_eq!(flight.identity().fault, Some(Fault::NameChanged));
        assert_eq!(flight.take().len(), 1);
    }

    #[test]
    fn a_name_on_a_flow_that_was_judged_without_one_begins_anew() {
        let place = place();
        let hello = initials(Version::V1, DCID, "allowed.example", 1).remove(0);
        let mut other = judged(&[b"junk".to_vec()], &place);
        assert!(!other.looks_at(b"more junk", 0) && other.looks_at(&hello, 0));
        assert_eq!(other.pass(place.hold(&hello).unwrap()), Pass::Restart);
        let mut unknown = hello.clone();
        unknown[1..5].copy_from_slice(&[0x1a, 0x2a, 0x3a, 0x4a]);
        let mut unread = judged(std::slice::from_ref(&unknown), &place);
        assert_eq!(unread.pass(place.hold(&unknown).unwrap()), Pass::Go, "judged as what it is");
        drop(unread.take());
        assert_eq!(unread.pass(place.hold(&hello).unwrap()), Pass::Restart);
        let mut named = judged(&[hello], &place);
        assert_eq!(named.pass(place.hold(&unknown).unwrap()), Pass::Drop);
    }

    #[test]
    fn a_flow_that_nothing_read_can_change_is_not_looked_at() {
        let place = place();
        let mut flight = Flight::default();
        let hello = initials(Version::V1, DCID, "allowed.example", 1).remove(0);
        flight.settle(0);
        flight.hold_unread(place.hold(&hello).unwrap());
        assert!(!flight.looks_at(&hello, 0));
        drop(flight.take());
        assert!(!flight.looks_at(&hello, 0));
        // Under the next policy the name may matter.
        assert!(flight.looks_at(&hello, 1) && !flight.looks_at(b"\x40 short", 1));
        assert_eq!(flight.pass(place.hold(&hello).unwrap()), Pass::Restart);
    }

    #[test]
    fn q06_a_dtls_hello_on_a_live_quic_flow_begins_anew() {
        let place = place();
        let mut flight = judged(&initials(Version::V1, DCID, "allowed.example", 1), &place);
        // A handshake record of epoch 0, and a ClientHello in it.
        let hello = [&[HANDSHAKE, 0xfe, 0xfd][..], &[0; 8], &[0, 1, 1]].concat();
        assert!(flight.looks_at(&hello, 0));
        assert_eq!(flight.pass(place.hold(&hello).unwrap()), Pass::Restart);
        assert_eq!(flight.take().len(), 1);
    }

    #[test]
    fn q13_a_flow_whose_hellos_are_too_much_to_keep_begins_anew() {
        let place = place();
        let large = |n: u8| {
            let hello = flights::quic_hello("allowed.example", &vec![vec![b'x'; 200]; 70]);
            let initial =
                flights::initial(Version::V1, &[n; 8], 0, &flights::crypto_frame(0, &hello));
            place.hold(&initial).unwrap()
        };
        let mut flight = Flight::default();
        let full = (1..6).find(|n| flight.first(large(*n)) == Need::Full);
        assert!(full.is_some(), "{} B are held", flight.reader_bytes());
        assert!(flight.excess() > READER_MAX / 2, "what is kept is charged");
        let mut flight = Flight::default();
        assert_eq!(flight.first(large(1)), Need::Nothing);
        flight.judged();
        let begun = (2..6).find(|n| {
            drop(flight.take());
            flight.pass(large(*n)) == Pass::Restart
        });
        assert!(begun.is_some(), "{} B are held", flight.reader_bytes());
    }

    /// As a client reads it: rustls opens it with the keys of the other side.
    #[test]
    fn a_refusal_is_a_connection_close_that_the_client_can_open() {
        let place = place();
        for version in [Version::V1, Version::V2] {
            let flight = judged(&initials(version, DCID, "other.example", 1), &place);
            let mut close = flight.initial().unwrap().refusal().unwrap();
            assert!(close.len() < 100);
            let suite = rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
            let suite = suite.tls13().unwrap();
            let keys = rustls::quic::Keys::initial(
                version,
                suite,
                suite.quic.unwrap(),
                DCID,
                rustls::Side::Client,
            );
            // Version, an empty id of the client, the server's id, no token, the length.
            let number_at = 1 + 4 + 1 + 1 + DCID.len() + 1 + 2;
            assert_eq!(close[5], 0, "the client's own id is empty");
            assert_eq!(&close[7..7 + DCID.len()], DCID);
            let (header, sealed) = close.split_at_mut(number_at);
            let (number, _) = sealed.split_at_mut(4);
            let mut number: [u8; 4] = number.try_into().unwrap();
            let (first, _) = header.split_at_mut(1);
            let sample = sealed[4..20].to_vec();
            keys.remote.header.decrypt_in_place(&sample, &mut first[0], &mut number).unwrap();
            assert_eq!((header[0] & 0xcf, number[0]), (0xc0, 0), "an Initial with the number 0");
            assert_eq!(header[0] >> 4 & 3, u8::from(matches!(version, Version::V2)));
            let aad = [header, &[0][..]].concat();
            let mut payload = sealed[1..].to_vec();
            let frames = keys.remote.packet.decrypt_in_place(0, &aad, &mut payload).unwrap();
            assert_eq!(frames, [0x1c, 2, 0, 0], "CONNECTION_CLOSE, CONNECTION_REFUSED");
        }
    }
}
