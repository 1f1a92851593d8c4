//! The TLS records (RFC 8446 §5.1) that a hello comes in, cut anywhere.

use super::fault::Fault;
use super::reader::{RECORD_HEADER, Reader};
use super::tls::{CLIENT_HELLO, HANDSHAKE, HELLO_MAX};

/// The most records that one hello may be cut into. Bounds the work of a client that sends records
/// of one byte, each in its own segment.
pub const RECORDS_MAX: usize = 8192;

/// RFC 8446 §5.1.
pub(super) const RECORD_MAX: usize = 1 << 14;
/// Type and length of a handshake message (RFC 8446 §4).
const HANDSHAKE_HEADER: usize = 4;

/// How far the records of a stream were walked by an earlier look at it, which found them sound. A
/// look goes on from there: a hello that comes in thousands of records, byte by byte, costs no more
/// than twice one that comes at once.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Walked {
    /// Bytes of the whole records.
    pub(super) at: usize,
    /// How many they are.
    records: usize,
    /// Bytes of the message in them.
    have: usize,
    /// Bytes of the message with its header; 0 while that has not come.
    need: usize,
}

/// Where the hello of a stream is.
pub(super) enum Walk<'a> {
    /// Its body, behind the handshake header.
    Hello(Reader<'a>),
    /// At least so many bytes are missing, of the record or of the hello; from 1.
    Missing(usize),
}

/// Walks the records of `seen`, all that the client has sent from byte 0, until the whole hello is
/// covered.
///
/// # Errors
/// The rule that a record, or the header of the message, breaks.
pub(super) fn find_hello<'a>(seen: &'a [u8], walked: &mut Walked) -> Result<Walk<'a>, Fault> {
    let mut records =
        Records { rest: seen.get(walked.at..).unwrap_or_default(), count: walked.records };
    loop {
        let Some(record) = records.next()? else { return Ok(Walk::Missing(records.of_header())) };
        if walked.have == 0 && record.payload.first().is_some_and(|&kind| kind != CLIENT_HELLO) {
            return Err(Fault::NotClientHello);
        }
        let have = walked.have + record.payload.len();
        if walked.need == 0 && have >= HANDSHAKE_HEADER {
            let mut header = message(seen, HANDSHAKE_HEADER).ok_or(Fault::FieldLength)?;
            header.skip(1).ok_or(Fault::FieldLength)?; // the type
            let len = header.u24().ok_or(Fault::FieldLength)?;
            if len > HELLO_MAX {
                return Err(Fault::TooLarge);
            }
            walked.need = HANDSHAKE_HEADER + len;
        }
        if walked.need > 0 && have >= walked.need {
            let mut body = message(seen, walked.need).ok_or(Fault::FieldLength)?;
            body.skip(HANDSHAKE_HEADER).ok_or(Fault::FieldLength)?;
            return Ok(Walk::Hello(body));
        }
        if record.missing > 0 {
            if have == 0 {
                return Ok(Walk::Missing(1)); // the type of the message
            }
            let need = if walked.need == 0 { HANDSHAKE_HEADER } else { walked.need };
            return Ok(Walk::Missing(record.missing.min(need - have)));
        }
        let at = seen.len() - records.rest.len();
        *walked = Walked { at, records: records.count, have, need: walked.need };
    }
}

/// Whatever has come of the handshake message that begins `seen`.
pub(super) fn begun(seen: &[u8]) -> Option<Reader<'_>> {
    message(seen, HANDSHAKE_HEADER + HELLO_MAX)
}

/// The first `len` bytes of the handshake message whose first record begins `seen`. The caller has
/// seen that the records of so much are there.
#[inline]
fn message(seen: &[u8], len: usize) -> Option<Reader<'_>> {
    let (&[_, _, _, high, low], rest) = seen.split_first_chunk::<RECORD_HEADER>()?;
    let record = usize::from(u16::from_be_bytes([high, low]));
    let (first, behind) = rest.split_at_checked(record).unwrap_or((rest, &[]));
    Some(Reader::over_records(first, behind, len))
}

struct Record<'a> {
    /// What has arrived of it.
    payload: &'a [u8],
    /// Bytes of it that have not.
    missing: usize,
}

struct Records<'a> {
    rest: &'a [u8],
    count: usize,
}

impl<'a> Records<'a> {
    /// Bytes that are missing of the next record's header, up to the next one that may be wrong.
    const fn of_header(&self) -> usize {
        match self.rest.len() {
            0 | 1 => 1,
            some => RECORD_HEADER.saturating_sub(some),
        }
    }

    /// The next handshake record; `None` where its header has not arrived whole. A header that is
    /// wrong in its first bytes is a fault as soon as these are there.
    #[inline]
    fn next(&mut self) -> Result<Option<Record<'a>>, Fault> {
        let Some((&[kind, _, _, high, low], rest)) = self.rest.split_first_chunk::<RECORD_HEADER>()
        else {
            return match *self.rest {
                [] | [HANDSHAKE, ..] => Ok(None),
                _ => Err(Fault::RecordType),
            };
        };
        // Any version: servers ignore it (RFC 8446 §5.1), so this reader must.
        if kind != HANDSHAKE {
            return Err(Fault::RecordType);
        }
        let len = usize::from(u16::from_be_bytes([high, low]));
        if len == 0 || len > RECORD_MAX {
            return Err(Fault::RecordLength);
        }
        self.count += 1;
        if self.count > RECORDS_MAX {
            return Err(Fault::TooManyPieces);
        }
        Ok(Some(match rest.split_at_checked(len) {
            Some((payload, rest)) => {
                self.rest = rest;
                Record { payload, missing: 0 }
            }
            None => {
                self.rest = &[];
                Record { payload: rest, missing: len - rest.len() }
            }
        }))
    }
}
