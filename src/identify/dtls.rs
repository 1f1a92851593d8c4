//! The ClientHello of DTLS 1.0, 1.2 and 1.3 (RFC 4347, RFC 6347, RFC 9147), over many datagrams.

use super::assembly::Assembly;
use super::fault::Fault;
use super::name::HostName;
use super::reader::Reader;
use super::tls::{self, CLIENT_HELLO, HANDSHAKE, HELLO_MAX, Hello};
use super::{Identity, NameSource, Protocol, from_hello};

/// A client sends a second hello with the server's cookie (RFC 6347 §4.2.1), and a third after a
/// HelloRetryRequest of DTLS 1.3.
const HELLOS: usize = 3;

/// What one datagram brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DtlsStep {
    /// No part of a hello.
    Nothing,
    /// Every hello that was begun is not yet whole.
    NeedMore,
    /// The hellos that were begun are whole and agree, or there is a fault:
    /// [`DtlsReader::identity`] has the answer.
    Done,
}

/// Reads the first flight of one DTLS flow. Holds at most about 400 KiB.
#[derive(Debug, Default)]
pub struct DtlsReader {
    seen: bool,
    fault: Option<Fault>,
    hellos: [Message; HELLOS],
}

#[derive(Debug, Default)]
struct Message {
    len: Option<usize>,
    body: Assembly,
}

/// Whether a datagram begins with a DTLS record in the clear, or some server finds a hello in it.
#[must_use]
pub fn is_dtls(datagram: &[u8]) -> bool {
    record(&mut Reader::flat(datagram)).is_some() || is_hello(datagram)
}

/// Whether some record of a datagram begins with a part of a ClientHello in the clear.
#[must_use]
pub fn is_hello(datagram: &[u8]) -> bool {
    Records::of(datagram).any(|(kind, payload)| begins_hello(kind, payload))
}

fn begins_hello(kind: u8, mut payload: Reader<'_>) -> bool {
    kind == HANDSHAKE && payload.u8() == Some(CLIENT_HELLO)
}

/// Type, version, epoch, number and length of a record (RFC 6347 §4.1).
const HEADER: usize = 13;

/// The records of a datagram as the most lenient server finds them: OpenSSL drops a header that it
/// cannot take, or that has nothing behind it, and looks for the next one right there.
struct Records<'a> {
    rest: &'a [u8],
    /// Something stood before the last record that is none.
    strayed: bool,
}

impl<'a> Records<'a> {
    const fn of(datagram: &'a [u8]) -> Self {
        Self { rest: datagram, strayed: false }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = (u8, Reader<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        while self.rest.len() > HEADER {
            let mut reader = Reader::flat(self.rest);
            let found = record(&mut reader);
            let length = if found.is_some() { self.rest.len() - reader.left() } else { HEADER };
            self.rest = self.rest.get(length..)?;
            if found.is_some() {
                return found;
            }
            self.strayed = true;
        }
        None
    }
}

/// Content type and payload of the next record.
fn record<'a>(datagram: &mut Reader<'a>) -> Option<(u8, Reader<'a>)> {
    let [kind, major, minor] = datagram.array()?;
    // Servers look at the first byte of the version of a first record alone. 0x0100 is what OpenSSL
    // sent before RFC 4347 was out, and some VPN clients still do.
    let known = major == 0xfe || (major, minor) == (1, 0);
    if !known || !(20..=26).contains(&kind) {
        return None;
    }
    let [epoch_high, epoch_low, number_high, number, ..] = datagram.array::<8>()?;
    // That version alone is also what DNS, LLMNR and NetBIOS questions begin with (RFC 1035 §4.1.1):
    // id 0x1401 to 0x1a01, no flags. No DTLS of it has heartbeats, nor 2^32 records, which is what
    // the count of their questions says.
    let is_dns = kind > 23 || [epoch_high, number_high, number] != [0; 3];
    if major == 1 && is_dns {
        return None;
    }
    let len = datagram.u16()?;
    let payload = datagram.view(len)?;
    // Handshake records of later epochs are encrypted.
    let clear = (epoch_high, epoch_low) == (0, 0);
    (len > 0).then_some((if clear { kind } else { 0 }, payload))
}

impl DtlsReader {
    /// Reads one UDP payload that the client sent.
    pub fn push(&mut self, datagram: &[u8]) -> DtlsStep {
        self.seen |= is_dtls(datagram);
        if self.fault.is_some() {
            return DtlsStep::Done;
        }
        match self.read(datagram) {
            Ok(false) => DtlsStep::Nothing,
            Ok(true) => match self.agree() {
                Ok(false) => DtlsStep::NeedMore,
                Ok(true) => DtlsStep::Done,
                Err(fault) => self.fail(fault),
            },
            Err(fault) => self.fail(fault),
        }
    }

    /// What is known by now: DTLS once a record was seen, with [`Fault::Incomplete`] where a hello
    /// was begun and is not whole.
    #[must_use]
    pub fn identity(&self) -> Identity<'_> {
        if !self.seen {
            return Identity::of(Protocol::Other);
        }
        if let Some(fault) = self.fault {
            return Identity::faulty(Protocol::Dtls, fault);
        }
        match self.hellos.iter().find_map(|message| message.hello().transpose()) {
            Some(Ok(hello)) => from_hello(Protocol::Dtls, NameSource::Sni, &hello),
            Some(Err(fault)) => Identity::faulty(Protocol::Dtls, fault),
            None if self.hellos.iter().any(|message| message.len.is_some()) => {
                Identity::faulty(Protocol::Dtls, Fault::Incomplete)
            }
            None => Identity::of(Protocol::Dtls),
        }
    }

    /// Tells every name in the hellos, where they cannot be read as they stand or disagree.
    pub fn each_name(&self, mut see: impl FnMut(HostName)) {
        for message in &self.hellos {
            tls::each_body_name(Reader::flat(message.body.front()), true, &mut see);
        }
    }

    /// Memory held for fragments, in bytes.
    #[must_use]
    pub fn held(&self) -> usize {
        self.hellos.iter().map(|message| message.body.held()).sum()
    }

    fn fail(&mut self, fault: Fault) -> DtlsStep {
        self.fault = Some(fault);
        DtlsStep::Done
    }

    /// Whether the datagram held a part of a hello.
    fn read(&mut self, datagram: &[u8]) -> Result<bool, Fault> {
        let mut records = Records::of(datagram);
        let mut part = false;
        while let Some((kind, mut payload)) = records.next() {
            if records.strayed {
                // No client sends a hello so; its name is still one that may be meant.
                if begins_hello(kind, payload) {
                    self.read_fragment(&mut payload)?;
                    return Err(Fault::RecordType);
                }
                continue;
            }
            while kind == HANDSHAKE && payload.left() > 0 {
                part |= self.read_fragment(&mut payload)?;
            }
        }
        Ok(part)
    }

    /// RFC 6347 §4.2.2: type, length (3), sequence (2), offset (3), length of the fragment (3).
    fn read_fragment(&mut self, payload: &mut Reader<'_>) -> Result<bool, Fault> {
        let kind = payload.u8().ok_or(Fault::FieldLength)?;
        let len = payload.u24().ok_or(Fault::FieldLength)?;
        let sequence = payload.u16().ok_or(Fault::FieldLength)?;
        let offset = payload.u24().ok_or(Fault::FieldLength)?;
        let fragment_len = payload.u24().ok_or(Fault::FieldLength)?;
        let fragment = payload.view(fragment_len).ok_or(Fault::FieldLength)?;
        // Other messages of a client come after its hellos.
        let Some(message) = self.hellos.get_mut(sequence).filter(|_| kind == CLIENT_HELLO) else {
            return if sequence == 0 { Err(Fault::NotClientHello) } else { Ok(false) };
        };
        if len > HELLO_MAX {
            return Err(Fault::TooLarge);
        }
        if *message.len.get_or_insert(len) != len || offset + fragment_len > len {
            return Err(Fault::LengthsDisagree);
        }
        let mut fragment = fragment;
        let bytes = fragment.bytes(fragment_len, &mut []).ok_or(Fault::FieldLength)?;
        message.body.add(offset as u64, bytes)?;
        Ok(true)
    }

    /// Whether every hello that was begun is whole; they must name one host.
    fn agree(&self) -> Result<bool, Fault> {
        let mut first = None;
        for message in self.hellos.iter().filter(|message| message.len.is_some()) {
            let Some(hello) = message.hello()? else { return Ok(false) };
            if !first.get_or_insert(hello).covers(&hello) {
                return Err(Fault::NameChanged);
            }
        }
        Ok(true)
    }
}

impl Message {
    fn hello(&self) -> Result<Option<Hello<'_>>, Fault> {
        let body = self.len.and_then(|len| self.body.front().get(..len));
        let Some(body) = body else { return Ok(None) };
        let mut hello = Hello::EMPTY;
        hello.read(Reader::flat(body), true)?;
        Ok(Some(hello))
    }
}
