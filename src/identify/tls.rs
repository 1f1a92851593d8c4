//! The ClientHello (RFC 8446 §4.1.2, RFC 5246 §7.4.1.2), over any split of segments and records.
//!
//! What it costs (`cargo bench --bench identify`, two cores of an AMD EPYC, medians): 171 ns for a
//! hello of 517 bytes and 223 ns for one of 1,750, where tls-parser takes 914 and 1,489 and rustls
//! 1,927 and 3,301. It was 250 ns and more while a name went from hand to hand: each copy of bytes
//! that were just written, in other widths than they were, waits until these are in the cache. So a
//! name is read in its place, and a view of a message in one piece is one slice.

use std::ops::Range;

use super::fault::Fault;
use super::name::{BadName, HostName, NAME_MAX};
pub use super::reader::RECORD_HEADER;
use super::reader::Reader;
pub use super::records::RECORDS_MAX;
pub(super) use super::records::Walked;
use super::records::{Walk, find_hello};
pub use super::second::{SecondHello, Watch, hello_end};

/// The largest hello that is read, in bytes of handshake message. Browsers send about 2 KiB with a
/// post-quantum key share; the largest that OpenSSL accepts is 128 KiB, by default.
pub const HELLO_MAX: usize = 64 * 1024;

/// The longest record that some server takes: the limit of TLS 1.2, before decryption (RFC 5246
/// §6.2.3).
const CIPHERTEXT_MAX: u16 = (1 << 14) + 2048;

/// Content type of ChangeCipherSpec records (RFC 8446 §5.1).
pub const CHANGE_CIPHER_SPEC: u8 = 20;
/// Content type of alerts.
pub const ALERT: u8 = 21;
/// Content type of handshake records, in TLS and DTLS.
pub const HANDSHAKE: u8 = 22;
/// Content type of application data, early data among it.
pub const APPLICATION_DATA: u8 = 23;
/// A fatal `access_denied` alert (49) in a plaintext record of version 3.3 (RFC 8446 §5.1, §6.2).
pub const ACCESS_DENIED: [u8; 7] = [ALERT, 3, 3, 0, 2, 2, 49];
/// Handshake type, in TLS, DTLS and QUIC.
pub(super) const CLIENT_HELLO: u8 = 1;

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
const ENCRYPTED_SERVER_NAME: u16 = 0xffce;

/// What the outer ClientHello says. It borrows the bytes that it was read from.
#[derive(Debug, Clone, Copy)]
pub struct Hello<'a> {
    /// The `server_name`, if the hello has one and it is a host name.
    pub name: Option<HostName>,
    /// What is wrong with the `server_name` extension; the rest of the hello is well-formed.
    pub name_fault: Option<Fault>,
    /// The protocols of the application layer, in the order of the client.
    pub alpn: Alpn<'a>,
    /// The highest version offered: of `supported_versions`, else the legacy field.
    pub version: u16,
    /// The `encrypted_client_hello` extension (0xfe0d) is there, real or GREASE.
    pub ech: bool,
    /// Its predecessor `encrypted_server_name` (0xffce) is there.
    pub esni: bool,
}

/// What became of the first bytes of a TCP stream, read as TLS.
#[derive(Debug, Clone, Copy)]
pub(super) enum Found {
    /// TLS as far as it goes, and not yet a whole hello. `sure`: no other protocol begins so.
    /// `missing`: as long as fewer bytes come, the answer stays; from 1.
    Part { sure: bool, missing: usize },
    /// A whole, well-formed hello.
    Hello,
    /// TLS, and not to be read.
    Fault(Fault),
    /// Not TLS.
    Other,
}

impl Found {
    /// What another protocol may begin with as well.
    const MAYBE: Self = Self::Part { sure: false, missing: 1 };
}

/// Reads `seen`, all that the client has sent from byte 0, into `hello`: a name has 254 bytes, and
/// each hand that it goes through by value is a copy.
pub(super) fn read<'a>(seen: &'a [u8], walked: &mut Walked, hello: &mut Hello<'a>) -> Found {
    match *seen {
        [] => Found::MAYBE,
        // Whatever version stands behind it: servers must ignore it (RFC 8446 §5.1), and some do.
        // A length that no server takes, or no hello behind it, tells another protocol where the
        // version is none either.
        [HANDSHAKE, 0..=2 | 4.., _, high, low, ref payload @ ..]
            if !(1..=CIPHERTEXT_MAX).contains(&u16::from_be_bytes([high, low]))
                || payload.first().is_some_and(|&kind| kind != CLIENT_HELLO) =>
        {
            Found::Other
        }
        [HANDSHAKE, ..] => read_records(seen, walked, hello),
        // A server that skips a warning alert or an early CCS reads the hello behind it, crypto/tls
        // of Go where the version is below 0x1000. Before application data no server does.
        [CHANGE_CIPHER_SPEC | ALERT, ref rest @ ..] => match rest {
            [] | [0..=0x0f] | [0..=0x0f, _] | [0..=0x0f, _, 0] => Found::MAYBE,
            [3, 0..=4, 0..=0x40, ..] | [0..=0x0f, _, 0, 1 | 2, ..] => {
                Found::Fault(Fault::RecordType)
            }
            _ => Found::Other,
        },
        [0x80..=0xff, ..] => read_sslv2(seen),
        _ => Found::Other,
    }
}

fn read_records<'a>(seen: &'a [u8], walked: &mut Walked, hello: &mut Hello<'a>) -> Found {
    match find_hello(seen, walked) {
        Ok(Walk::Missing(missing)) => Found::Part { sure: true, missing },
        Ok(Walk::Hello(body)) => match hello.read(body, false) {
            Ok(()) => Found::Hello,
            Err(fault) => Found::Fault(fault),
        },
        Err(fault) => Found::Fault(fault),
    }
}

/// A hello in the SSLv2 format (RFC 5246 appendix E.2): a two-byte length with its high bit set,
/// type 1, version, then the lengths of cipher specs, session id and challenge.
fn read_sslv2(seen: &[u8]) -> Found {
    let [high, rest @ ..] = seen else { return Found::MAYBE };
    let [low, kind, version @ ..] = rest else { return Found::MAYBE };
    if *kind != CLIENT_HELLO {
        return Found::Other;
    }
    let [major, minor, lengths @ ..] = version else { return Found::MAYBE };
    if !matches!((major, minor), (3, 0..=4) | (0, 2)) {
        return Found::Other;
    }
    let len = usize::from(u16::from_be_bytes([high & 0x7f, *low]));
    let Some((lengths, _)) = lengths.split_first_chunk::<6>() else {
        return Found::Part { sure: true, missing: 1 };
    };
    let [specs, session, challenge] =
        [[lengths[0], lengths[1]], [lengths[2], lengths[3]], [lengths[4], lengths[5]]]
            .map(|bytes| usize::from(u16::from_be_bytes(bytes)));
    if specs == 0 || specs % 3 != 0 || len != 9 + specs + session + challenge {
        return Found::Fault(Fault::LengthsDisagree);
    }
    match (2 + len).checked_sub(seen.len()) {
        None | Some(0) => Found::Fault(Fault::Sslv2),
        Some(missing) => Found::Part { sure: true, missing },
    }
}

impl<'a> Hello<'a> {
    /// A hello that says nothing.
    pub(super) const EMPTY: Self = Self {
        name: None,
        name_fault: None,
        alpn: Alpn::NONE,
        version: 0,
        ech: false,
        esni: false,
    };

    /// Whether a server may be told `later` after this was judged: it names the same host, soundly,
    /// and hides no other where this hid none. (A client that sends ECH in the second hello of a
    /// connection has sent it in the first.)
    pub(super) fn covers(&self, later: &Hello<'_>) -> bool {
        let sound = later.name_fault.is_none() || self.name_fault.is_some();
        self.name == later.name && sound && (self.ech || !later.ech)
    }

    /// Reads the body of a ClientHello, without its handshake header, into an empty hello.
    /// `cookie`: the DTLS form, which has one behind the session id (RFC 6347 §4.2.1).
    ///
    /// # Errors
    /// A [`Fault`] that says which rule was broken; what was read by then is not to be used.
    pub(super) fn read(&mut self, mut body: Reader<'a>, cookie: bool) -> Result<(), Fault> {
        let legacy_version: [u8; 2] = body.array().ok_or(Fault::FieldLength)?;
        body.skip(32).ok_or(Fault::FieldLength)?; // random
        let session = body.u8().ok_or(Fault::FieldLength)?;
        if session > 32 {
            return Err(Fault::FieldValue);
        }
        body.skip(session.into()).ok_or(Fault::FieldLength)?;
        if cookie {
            let cookie = body.u8().ok_or(Fault::FieldLength)?;
            body.skip(cookie.into()).ok_or(Fault::FieldLength)?;
        }
        let suites = body.u16().ok_or(Fault::FieldLength)?;
        if suites == 0 || suites % 2 != 0 {
            return Err(Fault::FieldValue);
        }
        body.skip(suites).ok_or(Fault::FieldLength)?;
        let compressions = body.u8().ok_or(Fault::FieldLength)?;
        if compressions == 0 {
            return Err(Fault::FieldValue);
        }
        body.skip(compressions.into()).ok_or(Fault::FieldLength)?;
        self.version = u16::from_be_bytes(legacy_version);
        if body.left() == 0 {
            return Ok(()); // no extensions at all, as SSL 3.0 and TLS 1.0 allow
        }
        let extensions = body.u16().ok_or(Fault::FieldLength)?;
        if extensions != body.left() {
            return Err(Fault::LengthsDisagree);
        }
        self.read_extensions(body)
    }

    fn read_extensions(&mut self, mut extensions: Reader<'a>) -> Result<(), Fault> {
        let mut versions = false;
        let mut names = false;
        let mut alpns = false;
        while extensions.left() > 0 {
            let [kind_high, kind_low, high, low] = extensions.array().ok_or(Fault::FieldLength)?;
            let kind = u16::from_be_bytes([kind_high, kind_low]);
            let len = usize::from(u16::from_be_bytes([high, low]));
            let body = extensions.view(len).ok_or(Fault::FieldLength)?;
            match kind {
                SERVER_NAME => {
                    once(&mut names)?;
                    // In its place: a name has 254 bytes, and a copy of bytes that were just
                    // written waits for them.
                    if let Err(fault) = read_server_name(body, self.name.insert(HostName::NONE)) {
                        (self.name, self.name_fault) = (None, Some(fault));
                    }
                }
                ALPN => {
                    once(&mut alpns)?;
                    self.alpn = Alpn::read(body)?;
                }
                SUPPORTED_VERSIONS => {
                    once(&mut versions)?;
                    self.version = read_versions(body)?.unwrap_or(self.version);
                }
                ENCRYPTED_CLIENT_HELLO => once(&mut self.ech)?,
                ENCRYPTED_SERVER_NAME => once(&mut self.esni)?,
                _ => {}
            }
        }
        Ok(())
    }
}

/// Tells every name in a hello that could not be read as a whole, as far as there is one: in each
/// `server_name`, each entry. For what is judged by any of several names; `message` begins with the
/// handshake header.
pub(super) fn each_name(mut message: Reader<'_>, see: impl FnMut(HostName)) {
    if message.skip(4).is_some() {
        each_body_name(message, false, see);
    }
}

/// As [`each_name`], of a message without its header. `cookie` as in [`Hello::read`].
pub(super) fn each_body_name(mut message: Reader<'_>, cookie: bool, mut see: impl FnMut(HostName)) {
    let mut walk = || {
        message.skip(2 + 32)?; // version, random
        let session = message.u8()?;
        message.skip(session.into())?;
        if cookie {
            let cookie = message.u8()?;
            message.skip(cookie.into())?;
        }
        let suites = message.u16()?;
        message.skip(suites)?;
        let compressions = message.u8()?;
        message.skip(compressions.into())?;
        message.skip(2)?; // length of the extensions
        loop {
            let [kind_high, kind_low, high, low] = message.array()?;
            let mut body = message;
            message.skip(usize::from(u16::from_be_bytes([high, low])))?;
            if u16::from_be_bytes([kind_high, kind_low]) == SERVER_NAME {
                each_entry(&mut body, usize::from(u16::from_be_bytes([high, low])), &mut see);
            }
        }
    };
    let _end: Option<()> = walk();
}

/// The entries of one `server_name` of `len` bytes.
fn each_entry(body: &mut Reader<'_>, len: usize, see: &mut impl FnMut(HostName)) -> Option<()> {
    let mut body = body.view(len)?;
    body.skip(2)?; // length of the list
    loop {
        let kind = body.u8()?;
        let len = body.u16()?;
        let mut scratch = [0; NAME_MAX + 1];
        let mut entry = body.view(len)?;
        if kind == 0
            && let Some(wire) = entry.bytes(len, &mut scratch)
            && let Ok(name) = HostName::parse(wire)
        {
            see(name);
        }
    }
}

fn once(seen: &mut bool) -> Result<(), Fault> {
    if std::mem::replace(seen, true) { Err(Fault::ExtensionTwice) } else { Ok(()) }
}

/// Exactly one host_name that fills its list, which fills the extension (RFC 6066 §3). nginx,
/// sniproxy and others take the first of several, and servers differ: so several are a fault.
fn read_server_name(mut extension: Reader<'_>, name: &mut HostName) -> Result<(), Fault> {
    let list = extension.u16().ok_or(Fault::FieldLength)?;
    if list != extension.left() {
        return Err(Fault::LengthsDisagree);
    }
    if list == 0 {
        return Err(Fault::NameListEmpty);
    }
    if extension.u8() != Some(0) {
        return Err(Fault::NameType);
    }
    let len = extension.u16().ok_or(Fault::FieldLength)?;
    if len > extension.left() {
        return Err(Fault::FieldLength);
    }
    if len < extension.left() {
        return Err(Fault::NameTwice);
    }
    if let Some(wire) = extension.piece() {
        return name.read(wire).map_err(Fault::Name);
    }
    // One more byte than a name has, for the final dot.
    let mut scratch = [0; NAME_MAX + 1];
    if len > scratch.len() {
        return Err(Fault::Name(BadName::TooLong));
    }
    let wire = extension.bytes(len, &mut scratch).ok_or(Fault::FieldLength)?;
    name.read(wire).map_err(Fault::Name)
}

/// The highest version that is no GREASE (RFC 8446 §4.2.1, RFC 8701).
fn read_versions(mut extension: Reader<'_>) -> Result<Option<u16>, Fault> {
    let len = extension.u8().ok_or(Fault::FieldLength)?;
    if usize::from(len) != extension.left() || len % 2 != 0 {
        return Err(Fault::LengthsDisagree);
    }
    let mut highest = None;
    while let Some(bytes) = extension.array::<2>() {
        if bytes[0] & 0x0f != 0x0a {
            highest = highest.max(Some(u16::from_be_bytes(bytes)));
        }
    }
    Ok(highest)
}

/// The ALPN list of a hello (RFC 7301), borrowed from its bytes. It was checked when the hello was
/// read.
#[derive(Debug, Clone, Copy)]
pub struct Alpn<'a> {
    list: Reader<'a>,
}

impl<'a> Alpn<'a> {
    /// The list of a hello that has none.
    pub(super) const NONE: Self = Self { list: Reader::flat(&[]) };

    fn read(mut extension: Reader<'a>) -> Result<Self, Fault> {
        let len = extension.u16().ok_or(Fault::FieldLength)?;
        if len != extension.left() {
            return Err(Fault::LengthsDisagree);
        }
        let list = Self { list: extension };
        while extension.left() > 0 {
            let len = extension.u8().filter(|&len| len > 0).ok_or(Fault::Alpn)?;
            extension.skip(len.into()).ok_or(Fault::Alpn)?;
        }
        if list.is_empty() { Err(Fault::Alpn) } else { Ok(list) }
    }

    /// A list that was checked when it was [read](Self::read), where it lies in one piece.
    pub(super) const fn checked(list: &'a [u8]) -> Self {
        Self { list: Reader::flat(list) }
    }

    /// Where the list stands in `stream`, from which it was read in one piece.
    pub(super) fn place_in(&self, stream: &[u8]) -> Range<usize> {
        let list = self.list.piece().unwrap_or_default();
        // A list that is not of the stream, as that of a hello without one, is nowhere in it.
        let start = list.as_ptr().addr().wrapping_sub(stream.as_ptr().addr());
        start..start.saturating_add(list.len())
    }

    /// Calls `see` with each protocol, in order: bytes as the client sent them, not to be logged
    /// unescaped.
    pub fn each(&self, mut see: impl FnMut(&[u8])) {
        let mut list = self.list;
        let mut scratch = [0; u8::MAX as usize];
        while let Some(len) = list.u8() {
            let Some(protocol) = list.bytes(len.into(), &mut scratch) else { return };
            see(protocol);
        }
    }

    /// Whether the client offers `protocol`.
    #[must_use]
    pub fn contains(&self, protocol: &[u8]) -> bool {
        let mut found = false;
        self.each(|offered| found |= offered == protocol);
        found
    }

    /// Whether there is no list.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.list.left() == 0
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::records::RECORD_MAX;
    use super::super::{Identity, NameSource, Protocol, Step, identify};
    use super::*;

    /// A minimal hello in one record.
    pub(crate) fn hello(name: &[u8]) -> Vec<u8> {
        hello_with(name, &[])
    }

    /// The same, with empty extensions behind the name.
    pub(crate) fn hello_with(name: &[u8], more: &[u16]) -> Vec<u8> {
        let mut extensions = extension(SERVER_NAME, &server_name(name));
        extensions.extend(more.iter().flat_map(|&kind| extension(kind, &[])));
        record(&message(&extensions))
    }

    /// A hello of the largest size, its name at the end, in records of `len` bytes.
    pub(crate) fn largest_in_records(len: usize) -> Vec<u8> {
        let name = extension(SERVER_NAME, &server_name(b"host.example"));
        let padding = vec![0; HELLO_MAX - 43 - name.len() - 4];
        let message = message(&[extension(21, &padding), name].concat());
        assert_eq!(message.len(), HELLO_MAX + 4);
        records(&message, len)
    }

    fn server_name(name: &[u8]) -> Vec<u8> {
        let entry = [&[0][..], &u16(name.len()), name].concat();
        [&u16(entry.len())[..], &entry].concat()
    }

    fn u16(len: usize) -> [u8; 2] {
        u16::try_from(len).unwrap().to_be_bytes()
    }

    fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &u16(body.len()), body].concat()
    }

    fn message(extensions: &[u8]) -> Vec<u8> {
        with_fields(&[0], &[0, 2, 0x13, 0x01], &[1, 0], extensions)
    }

    fn with_fields(session: &[u8], suites: &[u8], compression: &[u8], rest: &[u8]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([session, suites, compression].concat());
        body.extend(u16(rest.len()));
        body.extend(rest);
        handshake(&body)
    }

    fn handshake(body: &[u8]) -> Vec<u8> {
        let [_, len @ ..] = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[CLIENT_HELLO][..], &len, body].concat()
    }

    fn record(payload: &[u8]) -> Vec<u8> {
        [&[HANDSHAKE, 3, 1][..], &u16(payload.len()), payload].concat()
    }

    fn records(message: &[u8], len: usize) -> Vec<u8> {
        message.chunks(len).flat_map(record).collect()
    }

    fn done(seen: &[u8]) -> Identity<'_> {
        match identify(seen, false) {
            Step::Done(identity) => identity,
            Step::NeedMore(_) => panic!("needs more than {} bytes", seen.len()),
        }
    }

    fn name(seen: &[u8]) -> String {
        let identity = done(seen);
        assert_eq!((identity.protocol, identity.fault), (Protocol::Tls, None));
        let (name, source) = identity.name.unwrap();
        assert_eq!(source, NameSource::Sni);
        name.to_string()
    }

    fn fault(seen: &[u8]) -> Fault {
        let identity = done(seen);
        assert_eq!(identity.protocol, Protocol::Tls, "a malformed hello is still TLS");
        assert!(identity.name.is_none());
        identity.fault.unwrap()
    }

    #[test]
    fn a_hello_reads_the_same_in_records_of_any_length() {
        let message = message(&extension(SERVER_NAME, &server_name(b"pacs.Example.eu.")));
        for len in 1..=message.len() {
            assert_eq!(name(&records(&message, len)), "pacs.example.eu", "records of {len}");
        }
    }

    #[test]
    fn every_strict_prefix_of_a_hello_needs_more_and_is_incomplete_at_the_end() {
        let message = message(&extension(SERVER_NAME, &server_name(b"host.example")));
        for hello in [records(&message, 1), records(&message, 60), record(&message)] {
            for end in 0..hello.len() {
                let part = &hello[..end];
                assert!(matches!(identify(part, false), Step::NeedMore(_)), "at {end}");
                let Step::Done(identity) = identify(part, true) else { panic!("at {end}") };
                let tls = (Protocol::Tls, Some(Fault::Incomplete));
                let expected = if end == 0 { (Protocol::Other, None) } else { tls };
                assert_eq!((identity.protocol, identity.fault), expected, "at {end}");
                assert!(identity.name.is_none());
            }
        }
    }

    #[test]
    fn w02_every_record_version_is_tls() {
        let message = message(&extension(SERVER_NAME, &server_name(b"host.example")));
        for major in 0..=u8::MAX {
            for minor in 0..=u8::MAX {
                let mut hello = record(&message);
                hello[1..3].copy_from_slice(&[major, minor]);
                assert_eq!(name(&hello), "host.example");
                let mut later = records(&message, 40);
                later[46..48].copy_from_slice(&[major, minor]);
                assert_eq!(name(&later), "host.example", "of the second record");
            }
        }
        assert_eq!(fault(&[ALERT, 0, 0, 0, 2, 1, 0]), Fault::RecordType, "which Go skips");
    }

    #[test]
    fn every_name_of_a_hello_that_contradicts_itself_is_told() {
        let two = |a: &[u8], b: &[u8]| {
            let entry = |name: &[u8]| [&[0][..], &u16(name.len()), name].concat();
            let list = [entry(a), entry(b)].concat();
            extension(SERVER_NAME, &[&u16(list.len())[..], &list].concat())
        };
        let of = |name: &[u8]| extension(SERVER_NAME, &server_name(name));
        let twice = message(&[of(b"a.example"), of(b"B.example.")].concat());
        let entries = message(&two(b"a.example", b"b.example"));
        let ends = message(&[of(b"a.example"), of(b"b.example"), extension(0, &[0])].concat());
        for message in [twice, entries, ends] {
            for flight in [record(&message), records(&message, 3)] {
                let mut names = Vec::new();
                super::super::each_name(&flight, |name| names.push(name.to_string()));
                assert_eq!(names, ["a.example", "b.example"]);
            }
        }
        let whole = record(&message(&[of(b"a.example"), of(b"b.example")].concat()));
        let mut names = Vec::new();
        super::super::each_name(&whole[..whole.len() - 1], |name| names.push(name.to_string()));
        assert_eq!(names, ["a.example"], "as far as it has come");
    }

    #[test]
    fn a_record_that_does_not_belong_there_is_a_fault() {
        let message = message(&extension(SERVER_NAME, &server_name(b"host.example")));
        let (first, rest) = message.split_at(50);
        let around = |middle: &[u8]| [&record(first), middle, &record(rest)].concat();
        assert_eq!(fault(&around(&[HANDSHAKE, 3, 1, 0, 0])), Fault::RecordLength);
        assert_eq!(fault(&around(&[HANDSHAKE, 3, 1, 0x40, 1])), Fault::RecordLength);
        for kind in [CHANGE_CIPHER_SPEC, ALERT, 23, 24, 0x80] {
            assert_eq!(fault(&around(&[kind, 3, 3, 0, 1, 1])), Fault::RecordType, "{kind}");
        }
        assert_eq!(fault(&[ALERT, 3, 1, 0, 2, 1, 0]), Fault::RecordType);
        assert_eq!(fault(&[HANDSHAKE, 3, 1, 0, 5, 2]), Fault::NotClientHello);
        assert_eq!(name(&around(&[])), "host.example");
    }

    #[test]
    fn lengths_that_disagree_are_faults() {
        let name = server_name(b"host.example");
        let outer = |list: &[u8]| fault(&record(&message(&extension(SERVER_NAME, list))));
        assert_eq!(outer(&[&name[..], &[0]].concat()), Fault::LengthsDisagree);
        assert_eq!(outer(&name[..name.len() - 1]), Fault::LengthsDisagree);
        let longer = [&[0, 15, 0, 0, 0x0d], &b"host.example"[..]].concat();
        assert_eq!(outer(&longer), Fault::FieldLength);
        assert_eq!(outer(&[0, 15, 0, 0xff, 0xff, 1]), Fault::LengthsDisagree);
        let mut trailing = message(&extension(SERVER_NAME, &name));
        trailing.push(0);
        trailing[3] += 1;
        assert_eq!(fault(&record(&trailing)), Fault::LengthsDisagree);
        let over = extension(SERVER_NAME, &name);
        assert_eq!(fault(&record(&message(&over[..over.len() - 1]))), Fault::FieldLength);
    }

    #[test]
    fn a_hello_names_one_host_in_one_way() {
        let name = server_name(b"host.example");
        let extension = extension(SERVER_NAME, &name);
        let twice = record(&message(&[&extension[..], &extension].concat()));
        assert_eq!(fault(&twice), Fault::ExtensionTwice);
        let of = |list: &[u8]| fault(&record(&message(&self::extension(SERVER_NAME, list))));
        assert_eq!(of(&[0, 8, 0, 0, 1, b'a', 0, 0, 1, b'b']), Fault::NameTwice);
        assert_eq!(of(&[0, 4, 1, 0, 1, b'a']), Fault::NameType);
        assert_eq!(of(&[0, 0]), Fault::NameListEmpty);
        assert_eq!(of(&[0, 3, 0, 0, 0]), Fault::Name(BadName::Empty));
        assert_eq!(of(&[]), Fault::FieldLength);
    }

    #[test]
    fn a_bad_name_is_a_fault_that_leaves_the_rest_readable() {
        for byte in 0..=u8::MAX {
            let good = byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            assert_eq!(done(&hello(&[b'a', byte, b'b'])).fault.is_none(), good, "{byte:#04x}");
        }
        let long = [b'a'; 255];
        for bad in [&b"192.0.2.7"[..], b"2001:db8::1", b"*.example", b".a", b"a..b", &long] {
            assert!(matches!(fault(&hello(bad)), Fault::Name(_)));
        }
        let alpn = extension(ALPN, &[0, 3, 2, b'h', b'2']);
        let bad = extension(SERVER_NAME, &server_name(b"192.0.2.7"));
        let hello = record(&message(&[bad, alpn].concat()));
        assert_eq!(done(&hello).fault, Some(Fault::Name(BadName::Address)));
        assert!(done(&hello).alpn.contains(b"h2"));
    }

    #[test]
    fn fields_that_no_server_accepts_are_faults() {
        let of = |session: &[u8], suites: &[u8], compression: &[u8]| {
            fault(&record(&with_fields(session, suites, compression, &[])))
        };
        let long = [&[33][..], &[0; 33]].concat();
        assert_eq!(of(&long, &[0, 2, 1, 1], &[1, 0]), Fault::FieldValue);
        assert_eq!(of(&[0], &[0, 0], &[1, 0]), Fault::FieldValue);
        assert_eq!(of(&[0], &[0, 3, 1, 1, 1], &[1, 0]), Fault::FieldValue);
        assert_eq!(of(&[0], &[0, 2, 1, 1], &[0]), Fault::FieldValue);
    }

    #[test]
    fn extensions_are_told() {
        let parts = [
            extension(0x0a0a, &[]),
            extension(SUPPORTED_VERSIONS, &[6, 0x7a, 0x7a, 3, 4, 3, 3]),
            extension(
                ALPN,
                &[0, 12, 2, b'h', b'2', 8, b'h', b't', b't', b'p', b'/', b'1', b'.', b'1'],
            ),
            extension(ENCRYPTED_CLIENT_HELLO, &[0; 40]),
            extension(ENCRYPTED_SERVER_NAME, &[0; 9]),
        ];
        let message = message(&parts.concat());
        for len in [1, 7, message.len()] {
            let hello = records(&message, len);
            let identity = done(&hello);
            assert_eq!((identity.name, identity.fault), (None, None));
            assert!(identity.ech && identity.esni);
            assert_eq!(identity.tls_version, 0x0304);
            let mut alpn = Vec::new();
            identity.alpn.each(|protocol| alpn.push(protocol.to_vec()));
            assert_eq!(alpn, [b"h2".to_vec(), b"http/1.1".to_vec()]);
        }
        for bad in [&[0, 0][..], &[0, 1, 0], &[0, 2, 2, b'h']] {
            assert_eq!(fault(&record(&self::message(&extension(ALPN, bad)))), Fault::Alpn);
        }
    }

    #[test]
    fn a_hello_of_64_kib_is_read_and_a_larger_one_refused_at_its_header() {
        for len in [RECORD_MAX, 9] {
            assert_eq!(name(&largest_in_records(len)), "host.example");
        }
        assert_eq!(fault(&[HANDSHAKE, 3, 1, 0x40, 0, 1, 1, 0, 1]), Fault::TooLarge);
        assert_eq!(fault(&[HANDSHAKE, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff]), Fault::TooLarge);
        assert_eq!(fault(&largest_in_records(7)), Fault::TooManyPieces);
    }

    #[test]
    fn an_sslv2_hello_is_tls_without_a_name() {
        let mut hello = vec![0x80, 0x1c, 1, 3, 1, 0, 3, 0, 0, 0, 16, 0, 0, 4];
        hello.extend([9; 16]);
        assert_eq!(fault(&hello), Fault::Sslv2);
        for end in 0..hello.len() {
            assert!(matches!(identify(&hello[..end], false), Step::NeedMore(_)), "at {end}");
        }
        hello[1] = 0x1d;
        assert_eq!(fault(&hello), Fault::LengthsDisagree);
    }

    #[test]
    fn other_bytes_are_told_at_the_first_that_rules_tls_out() {
        for other in [
            &[22, 0, 0x84, 0xaa, 8][..],
            &[22, 2, 0, 0, 0],
            &[22, 0, 0x84, 0, 9, 8],
            &[0x17, 3],
            &[0x80, 0, 2],
            &[0],
            &[0x15, 3, 9, 7],
            &[0x14, 0x10],
        ] {
            assert_eq!(done(other).protocol, Protocol::Other, "{other:?}");
        }
    }
}
