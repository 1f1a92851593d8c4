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
pub(crate) mod tests;
