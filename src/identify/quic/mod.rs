//! The ClientHello inside QUIC Initial packets (RFC 9001), over many datagrams in any order.

mod keys;
mod packet;

use std::fmt;
use std::ops::Range;

pub use packet::{ConnectionId, Version, version};

use self::keys::Keys;
use self::packet::{Cursor, Next, Packet};
use super::assembly::Assembly;
use super::fault::Fault;
use super::name::HostName;
use super::reader::Reader;
use super::tls::{self, Alpn, CLIENT_HELLO, HELLO_MAX, Hello};
use super::{Identity, NameSource, Protocol, from_hello};

/// Connection attempts of one flow that are followed: a first one, a Retry, a Version Negotiation,
/// and as many again for a port that is used anew.
const ATTEMPTS_MAX: usize = 6;

/// Packets of one datagram that are looked at. Clients coalesce at most four.
const PACKETS_MAX: usize = 8;

/// Frames of one packet that are looked at, runs of PADDING not counted.
const FRAMES_MAX: usize = 1024;

/// Bytes of the room for an opened packet that are kept for the next one.
const ROOM_KEPT: usize = 2048;

/// What one datagram brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuicStep {
    /// No Initial: a short header, 0-RTT, Handshake, or no QUIC. It says nothing of a name.
    Nothing,
    /// A version that is not read, or an Initial that does not open: never to be forwarded on the
    /// strength of a name, for whoever can read it may read another.
    Unread,
    /// It belongs to a hello that is not yet whole.
    NeedMore,
    /// Every hello that was begun is whole, and they agree; or there is a fault. Either way
    /// [`QuicReader::identity`] has the answer.
    Done,
}

/// Reads the first flight of one UDP flow, datagram by datagram.
///
/// Every Initial that opens is read, whatever its connection id: servers answer each. So a flow is
/// [`QuicStep::Done`] only while no hello is half known, and a second hello with another name is a
/// [`Fault::NameChanged`]. Keep pushing the client's long-header datagrams after `Done`: a second
/// hello (HelloRetryRequest, Retry, a new attempt on the same port) is read as the first was.
///
/// Holds at most about 130 KiB for each of 6 attempts; a datagram costs at most 8 packets of 1024
/// frames.
pub struct QuicReader {
    attempts: Vec<Attempt>,
    /// Of the first long-header packet.
    version: Option<Version>,
    fault: Option<Fault>,
    /// The hello that was whole first, to which every other is held.
    first: Option<First>,
    /// Where packets are opened.
    room: Vec<u8>,
}

/// What a hello said when it was read: it is read once, however many datagrams come behind it.
struct First {
    /// Without its ALPN list, which stays in the stream of its attempt.
    hello: Hello<'static>,
    attempt: usize,
    alpn: Range<usize>,
}

/// One connection attempt: its keys, and the hello under them.
struct Attempt {
    keys: Keys,
    version: Version,
    /// The keys of the version that the server chose instead (RFC 9369 §4.1), once one of the
    /// client's Initials was opened with them: from the same id, for the same packet numbers and the
    /// same stream.
    negotiated: Option<(Version, Keys)>,
    /// The id that the keys follow from.
    dcid: ConnectionId,
    scid: ConnectionId,
    google_frames: bool,
    largest: Option<u64>,
    crypto: Assembly,
    /// Bytes of the stream that are whole, checked hellos.
    read: usize,
}

/// What a refusal has to know of the client's first Initial that was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Initial {
    /// Its version.
    pub version: Version,
    /// The client's Destination Connection ID, from which the Initial keys follow.
    pub dcid: ConnectionId,
    /// The client's Source Connection ID.
    pub scid: ConnectionId,
}

/// `CONNECTION_REFUSED` (RFC 9000 §20.1).
const REFUSED: u8 = 2;

impl Initial {
    /// The datagram with which a server refuses this client: a CONNECTION_CLOSE frame with the error
    /// CONNECTION_REFUSED, in an Initial packet (RFC 9000 §10.2.3). It is shorter than any Initial
    /// of a client, and not padded, for it asks for no acknowledgement (§14.1). `None` for versions
    /// with frames of their own.
    #[must_use]
    pub fn refusal(&self) -> Option<Vec<u8>> {
        let suite = self.version.suite().filter(|suite| !suite.google_frames)?;
        let (client, server) = (self.scid.as_bytes(), self.dcid.as_bytes());
        // Error, the type of the frame that it is about (none), and no reason phrase.
        let frames = [0x1c, REFUSED, 0, 0];
        // Version 2 turns the packet types by one (RFC 9369 §3.2); one byte of packet number.
        let mut header = vec![if suite.v2 { 0xd0 } else { 0xc0 }];
        header.extend(self.version.0.to_be_bytes());
        for id in [client, server] {
            header.push(u8::try_from(id.len()).ok()?);
            header.extend(id);
        }
        // No token; packet number, frames and tag in a length of two bytes.
        header.extend([0, 0x40, 1 + 4 + 16]);
        Keys::server(suite, server)?.seal(header, &frames)
    }
}

impl Default for QuicReader {
    fn default() -> Self {
        Self::new()
    }
}

/// Key material and the client's bytes stay out of it.
impl fmt::Debug for QuicReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicReader")
            .field("attempts", &self.attempts.len())
            .field("version", &self.version)
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}

impl QuicReader {
    /// A reader that has seen nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { attempts: Vec::new(), version: None, fault: None, first: None, room: Vec::new() }
    }

    /// Reads one UDP payload that the client sent.
    pub fn push(&mut self, datagram: &[u8]) -> QuicStep {
        self.version = self.version.or_else(|| version(datagram));
        if self.fault.is_some() {
            return QuicStep::Done;
        }
        let read = self.read(datagram);
        // A datagram of the usual size leaves its room to the next one.
        self.room.clear();
        self.room.shrink_to(ROOM_KEPT);
        match read {
            Ok(step @ (QuicStep::Nothing | QuicStep::Unread)) => step,
            Ok(QuicStep::NeedMore | QuicStep::Done) if self.is_settled() => QuicStep::Done,
            Ok(QuicStep::NeedMore | QuicStep::Done) => QuicStep::NeedMore,
            Err(fault) => {
                self.fault = Some(fault);
                QuicStep::Done
            }
        }
    }

    /// What is known by now. The name is that of the first whole hello; a flow without one is
    /// QUIC with [`Fault::Incomplete`] once an Initial was opened, QUIC without a fault where none
    /// could be (another version), and no QUIC where no datagram was.
    #[must_use]
    pub fn identity(&self) -> Identity<'_> {
        if self.version.is_none() {
            return Identity::of(Protocol::Other);
        }
        let mut identity = match &self.first {
            Some(first) => {
                let hello = Hello { alpn: self.alpn_of(first), ..first.hello };
                from_hello(Protocol::Quic, NameSource::QuicSni, &hello)
            }
            None if self.attempts.is_empty() => Identity::of(Protocol::Quic),
            None => Identity::faulty(Protocol::Quic, Fault::Incomplete),
        };
        if let Some(fault) = self.fault {
            identity.fault = Some(fault);
            identity.name = None;
        }
        identity
    }

    fn alpn_of(&self, first: &First) -> Alpn<'_> {
        let stream = self.attempts.get(first.attempt).map(|attempt| attempt.crypto.front());
        Alpn::checked(stream.and_then(|stream| stream.get(first.alpn.clone())).unwrap_or_default())
    }

    /// The version of the first long-header packet, read or not.
    #[must_use]
    pub const fn version(&self) -> Option<Version> {
        self.version
    }

    /// The first Initial that was opened.
    #[must_use]
    pub fn initial(&self) -> Option<Initial> {
        let first = self.attempts.first()?;
        Some(Initial { version: first.version, dcid: first.dcid, scid: first.scid })
    }

    /// Tells every name in the hellos, where they cannot be read as they stand or disagree.
    pub fn each_name(&self, mut see: impl FnMut(HostName)) {
        self.attempts.iter().for_each(|attempt| attempt.each_name(&mut see));
    }

    /// Memory held for fragments, in bytes.
    #[must_use]
    pub fn held(&self) -> usize {
        self.attempts.iter().map(|attempt| attempt.crypto.held()).sum::<usize>()
            + self.room.capacity()
    }

    /// At least one hello is whole, and none is half known.
    fn is_settled(&self) -> bool {
        !self.attempts.is_empty() && self.attempts.iter().all(Attempt::is_settled)
    }

    /// Opens the Initials of a datagram; `NeedMore` stands for "all of them were opened".
    fn read(&mut self, datagram: &[u8]) -> Result<QuicStep, Fault> {
        let mut rest = datagram;
        let mut first: Option<ConnectionId> = None;
        let mut step = QuicStep::Nothing;
        for _ in 0..PACKETS_MAX {
            let packet = match packet::next(rest) {
                Next::Packet(packet, behind) => {
                    rest = behind;
                    packet
                }
                Next::Unread => return Ok(QuicStep::Unread),
                Next::End => return Ok(step),
            };
            // Servers ought to ignore a packet with another id; those that do not would be told
            // another name than this reader.
            if packet.dcid != *first.get_or_insert(packet.dcid) {
                return Err(Fault::Coalesced);
            }
            if packet.initial {
                let opened = self.open(&packet)? && step != QuicStep::Unread;
                step = if opened { QuicStep::NeedMore } else { QuicStep::Unread };
            }
        }
        // More packets than any client sends, and what is behind them was not looked at.
        if rest.is_empty() { Ok(step) } else { Err(Fault::TooManyPieces) }
    }

    /// Whether the Initial was opened: under the keys of an earlier attempt (whose server may have
    /// changed the id since), or else of its own id.
    fn open(&mut self, packet: &Packet<'_>) -> Result<bool, Fault> {
        for attempt in &mut self.attempts {
            if let Some(frames) = attempt.open(packet, &mut self.room) {
                attempt.read_frames(frames)?;
                return self.agree().map(|()| true);
            }
        }
        let Some(keys) = Keys::client(packet.suite, packet.key_id().as_bytes()) else {
            return Ok(false);
        };
        let mut attempt = Attempt {
            keys,
            version: packet.version,
            negotiated: None,
            dcid: packet.dcid,
            scid: packet.scid,
            google_frames: packet.suite.google_frames,
            largest: None,
            crypto: Assembly::default(),
            read: 0,
        };
        let Some(frames) = attempt.open(packet, &mut self.room) else {
            return self.open_negotiated(packet);
        };
        if self.attempts.len() >= ATTEMPTS_MAX {
            return Err(Fault::TooManyPieces);
        }
        // Kept before its frames are read: a refusal needs its ids, whatever they hold.
        self.attempts.push(attempt);
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.read_frames(frames)?;
        }
        self.agree().map(|()| true)
    }

    /// Whether the Initial is one of an earlier attempt whose server went over to another version
    /// (compatible version negotiation, RFC 9368 §2.3): the client goes on in that one.
    fn open_negotiated(&mut self, packet: &Packet<'_>) -> Result<bool, Fault> {
        for attempt in &mut self.attempts {
            if attempt.negotiate(packet, &mut self.room) {
                let Some(frames) = attempt.open(packet, &mut self.room) else { return Ok(false) };
                attempt.read_frames(frames)?;
                return self.agree().map(|()| true);
            }
        }
        Ok(false)
    }

    /// Reads the hellos that have become whole, and holds them to the first.
    fn agree(&mut self) -> Result<(), Fault> {
        for (index, attempt) in self.attempts.iter_mut().enumerate() {
            while let Some((hello, end)) = attempt.next_hello()? {
                match &self.first {
                    Some(first) if !first.hello.covers(&hello) => return Err(Fault::NameChanged),
                    Some(_) => {}
                    None => {
                        let alpn = hello.alpn.place_in(attempt.crypto.front());
                        let hello = Hello { alpn: Alpn::NONE, ..hello };
                        self.first = Some(First { hello, attempt: index, alpn });
                    }
                }
                attempt.read = end;
            }
        }
        Ok(())
    }
}

impl Attempt {
    fn open<'r>(&mut self, packet: &Packet<'_>, room: &'r mut Vec<u8>) -> Option<&'r [u8]> {
        let keys = match &self.negotiated {
            _ if packet.version == self.version => &self.keys,
            Some((version, keys)) if packet.version == *version => keys,
            Some(_) | None => return None,
        };
        keys.open(packet, &mut self.largest, room)
    }

    /// Keeps the keys of another version where they open the packet.
    fn negotiate(&mut self, packet: &Packet<'_>, room: &mut Vec<u8>) -> bool {
        if self.negotiated.is_some() || !self.version.is_compatible(packet.version) {
            return false;
        }
        let Some(keys) = Keys::client(packet.suite, self.dcid.as_bytes()) else { return false };
        // The number is noted by whoever reads the frames.
        let opened = keys.open(packet, &mut self.largest.clone(), room).is_some();
        if opened {
            self.negotiated = Some((packet.version, keys));
        }
        opened
    }

    /// Takes the CRYPTO frames out of an opened Initial. A client's Initial holds PADDING, PING,
    /// ACK, CRYPTO and CONNECTION_CLOSE and nothing else (RFC 9000 §12.4).
    fn read_frames(&mut self, frames: &[u8]) -> Result<(), Fault> {
        let mut cursor = Cursor { bytes: frames, at: 0 };
        for _ in 0..FRAMES_MAX {
            while cursor.bytes.get(cursor.at) == Some(&0) {
                cursor.at += 1;
            }
            if cursor.is_empty() {
                return Ok(());
            }
            self.frame(&mut cursor).ok_or(Fault::Frame)??;
        }
        Err(Fault::TooManyPieces)
    }

    /// `None` where the frame is cut short, or of a type that does not belong here.
    fn frame(&mut self, cursor: &mut Cursor<'_>) -> Option<Result<(), Fault>> {
        let kind = match (cursor.varint()?, self.google_frames) {
            (kind, false) => kind,
            (7, true) => 1,
            (8, true) => 6,
            (_, true) => return None,
        };
        match kind {
            1 => {} // PING
            kind @ (2 | 3) => {
                let [_largest, _delay, ranges] =
                    [cursor.varint()?, cursor.varint()?, cursor.varint()?];
                cursor.varint()?; // first range
                // Each turn takes a byte at least, so the packet's length bounds them.
                for _ in 0..ranges {
                    cursor.varint()?;
                    cursor.varint()?;
                }
                for _ in 0..if kind == 3 { 3 } else { 0 } {
                    cursor.varint()?; // ECN counts
                }
            }
            6 => {
                let offset = cursor.varint()?;
                let len = usize::try_from(cursor.varint()?).ok()?;
                return Some(self.crypto.add(offset, cursor.take(len)?));
            }
            kind @ (0x1c | 0x1d) => {
                cursor.varint()?; // error code
                if kind == 0x1c {
                    cursor.varint()?; // frame type
                }
                let len = usize::try_from(cursor.varint()?).ok()?;
                cursor.take(len)?;
            }
            _ => return None,
        }
        Some(Ok(()))
    }

    /// Tells every name in the hellos, where they cannot be read as they stand or disagree.
    fn each_name(&self, see: &mut impl FnMut(HostName)) {
        let mut stream = self.crypto.front();
        // One behind the other, each with its header.
        while let &[_, a, b, c, ..] = stream {
            tls::each_name(Reader::flat(stream), &mut *see);
            let len = 4 + (usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c));
            stream = stream.get(len..).unwrap_or_default();
        }
    }

    /// The next hello that is whole and was not yet read, and where it ends in the stream.
    fn next_hello(&self) -> Result<Option<(Hello<'_>, usize)>, Fault> {
        let unread = self.crypto.front().get(self.read..).unwrap_or_default();
        Ok(message(unread)?.map(|(hello, len)| (hello, self.read + len)))
    }

    fn is_settled(&self) -> bool {
        self.read > 0 && self.crypto.is_whole() && self.crypto.front().len() == self.read
    }
}

/// The ClientHello at the start of a CRYPTO stream, and its length; `None` where it is not whole.
fn message(stream: &[u8]) -> Result<Option<(Hello<'_>, usize)>, Fault> {
    let mut reader = Reader::flat(stream);
    // Each byte is told as soon as it is there: nothing else is waited for.
    let Some(kind) = reader.u8() else { return Ok(None) };
    if kind != CLIENT_HELLO {
        return Err(Fault::NotClientHello);
    }
    let Some(len) = reader.u24() else { return Ok(None) };
    if len > HELLO_MAX {
        return Err(Fault::TooLarge);
    }
    let Some(body) = reader.view(len) else { return Ok(None) };
    let mut hello = Hello::EMPTY;
    hello.read(body, false)?;
    Ok(Some((hello, stream.len() - reader.left())))
}

#[cfg(test)]
#[path = "../../../tests/flights/mod.rs"]
pub(crate) mod flights;

#[cfg(test)]
mod tests {
    use super::super::tls::tests::hello_with;
    use super::*;

    const V1: rustls::quic::Version = rustls::quic::Version::V1;

    /// An Initial of the connection `dcid`, with `bytes` of its stream.
    fn initial(dcid: &[u8], number: u32, offset: usize, bytes: &[u8]) -> Vec<u8> {
        flights::initial(V1, dcid, number, &flights::crypto_frame(offset, bytes))
    }

    /// The message of a hello, without its record.
    fn message_of(name: &[u8], more: &[u16]) -> Vec<u8> {
        hello_with(name, more).split_off(5)
    }

    fn name(reader: &QuicReader) -> Option<String> {
        reader.identity().name.map(|(name, _)| name.to_string())
    }

    #[test]
    fn the_first_hello_is_read_once_however_many_datagrams_follow() {
        for (second, fault) in [("a.example", None), ("b.example", Some(Fault::NameChanged))] {
            let mut reader = QuicReader::new();
            let hello = message_of(b"a.example", &[]);
            assert_eq!(reader.push(&initial(b"11111111", 0, 0, &hello)), QuicStep::Done);
            // Whoever looked at its bytes again would find no hello in them.
            reader.attempts[0].crypto = Assembly::default();
            reader.attempts[0].crypto.add(0, &vec![0xff; hello.len()]).unwrap();
            for number in 1..9 {
                let ping = flights::initial(V1, b"11111111", number, &[1]);
                assert_eq!(reader.push(&ping), QuicStep::Done);
                assert_eq!(name(&reader).as_deref(), Some("a.example"));
            }
            let second = initial(b"22222222", 0, 0, &message_of(second.as_bytes(), &[]));
            assert_eq!(reader.push(&second), QuicStep::Done);
            assert_eq!(reader.identity().fault, fault);
        }
    }

    #[test]
    fn l10_a_client_goes_on_in_the_version_that_the_server_chose() {
        const V2: rustls::quic::Version = rustls::quic::Version::V2;
        let (first, id) = (b"11111111", b"server's id");
        let hello = message_of(b"a.example", &[]);
        let other = message_of(b"b.example", &[]);
        for (from, to) in [(V1, V2), (V2, V1)] {
            let begun = || {
                let mut reader = QuicReader::new();
                let initial = flights::initial(from, first, 0, &flights::crypto_frame(0, &hello));
                assert_eq!(reader.push(&initial), QuicStep::Done);
                reader
            };
            // To the id that the server chose, under keys of the first one (RFC 9369 §4.1).
            let on = |number, frames: &[u8]| flights::initial_to(to, first, id, number, frames);
            let mut reader = begun();
            assert_eq!(reader.push(&on(1, &[1])), QuicStep::Done, "PING");
            let more = flights::crypto_frame(hello.len(), &hello[..20]);
            assert_eq!(reader.push(&on(2, &more)), QuicStep::NeedMore, "the same stream");
            let more = flights::crypto_frame(hello.len() + 20, &hello[20..]);
            assert_eq!(reader.push(&on(3, &more)), QuicStep::Done);
            let again = flights::initial(from, first, 4, &[1]);
            assert_eq!(reader.push(&again), QuicStep::Done, "what is repeated in the first");
            assert_eq!(name(&reader).as_deref(), Some("a.example"));
            assert_eq!((reader.attempts.len(), reader.identity().fault), (1, None));
            let mut reader = begun();
            let more = flights::crypto_frame(hello.len(), &other);
            assert_eq!(reader.push(&on(1, &more)), QuicStep::Done);
            assert_eq!(reader.identity().fault, Some(Fault::NameChanged));
            // Under keys of nobody's.
            let mut reader = begun();
            let strange = flights::initial_to(to, b"22222222", id, 1, &[1]);
            assert_eq!(reader.push(&strange), QuicStep::Unread);
            assert!(reader.attempts[0].negotiated.is_none());
        }
    }

    #[test]
    fn the_protocols_are_those_of_the_hello_that_was_whole_first() {
        let hello = |protocol: &[u8]| flights::quic_hello("a.example", &[protocol.to_vec()]);
        let (late, early) = (hello(b"late"), hello(b"early"));
        let mut reader = QuicReader::new();
        reader.push(&initial(b"11111111", 0, 0, &late[..20]));
        reader.push(&initial(b"22222222", 0, 0, &early));
        assert_eq!(reader.push(&initial(b"11111111", 1, 20, &late[20..])), QuicStep::Done);
        // More of the stream does not move it.
        reader.push(&initial(b"22222222", 1, early.len(), &early));
        let identity = reader.identity();
        assert_eq!(identity.fault, None);
        assert!(identity.alpn.contains(b"early") && !identity.alpn.contains(b"late"));
    }

    #[test]
    fn a_later_hello_that_hides_its_name_or_names_it_badly_is_another() {
        let (plain, hiding) = (message_of(b"a.example", &[]), message_of(b"a.example", &[0xfe0d]));
        let nameless = {
            let mut hello = Hello::EMPTY;
            let message = flights::quic_hello("192.0.2.1", &[]);
            assert!(hello.read(Reader::flat(&message[4..]), false).is_ok());
            assert_eq!((hello.name, hello.name_fault), (None, None), "no name for an address");
            message
        };
        let bad = message_of(b"a..example", &[]);
        for (first, second, fault) in [
            (&plain, &hiding, Some(Fault::NameChanged)),
            (&hiding, &plain, None),
            (&hiding, &hiding, None),
            (&nameless, &bad, Some(Fault::NameChanged)),
            (&nameless, &nameless, None),
        ] {
            let mut reader = QuicReader::new();
            reader.push(&initial(b"11111111", 0, 0, first));
            assert_eq!(reader.identity().fault, None);
            assert_eq!(reader.push(&initial(b"22222222", 0, 0, second)), QuicStep::Done);
            assert_eq!(reader.identity().fault, fault);
        }
    }
}
