//! Long-header packets (RFC 8999 §5.1, RFC 9000 §17.2) and the versions that are told apart.

use std::fmt;

/// The longest connection id of the versions that are read (RFC 9000 §17.2).
const CID_MAX: usize = 20;

/// A QUIC version number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version(pub u32);

/// How the Initial packets of a version are protected and numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Suite {
    /// Salt of the initial secret (RFC 9001 §5.2).
    pub(super) salt: &'static [u8; 20],
    /// Labels and packet types of version 2 (RFC 9369 §3).
    pub(super) v2: bool,
    /// Google's own frames, of which PADDING (0), PING (7) and CRYPTO (8) are read.
    pub(super) google_frames: bool,
}

/// RFC 9001 §5.2.
const SALT_V1: [u8; 20] =
    *b"\x38\x76\x2c\xf7\xf5\x59\x34\xb3\x4d\x17\x9a\xe6\xa4\xc8\x0c\xad\xcc\xbb\x7f\x0a";
/// RFC 9369 §3.3.1.
const SALT_V2: [u8; 20] =
    *b"\x0d\xed\xe3\xde\xf7\x00\xa6\xdb\x81\x93\x81\xbe\x6e\x26\x9d\xcb\xf9\xbd\x2e\xd9";
/// draft-ietf-quic-v2-01 to -05.
const SALT_V2_DRAFT: [u8; 20] =
    *b"\xa7\x07\xc2\x03\xa5\x9b\x47\x18\x4a\x1d\x62\xca\x57\x04\x06\xea\x7a\xe3\xe5\xd3";
/// draft-ietf-quic-tls-29 to -32.
const SALT_29: [u8; 20] =
    *b"\xaf\xbf\xec\x28\x99\x93\xd2\x4c\x9e\x97\x86\xf1\x9c\x61\x11\xe0\x43\x90\xa8\x99";
/// draft-ietf-quic-tls-23 to -28.
const SALT_23: [u8; 20] =
    *b"\xc3\xee\xf7\x12\xc7\x2e\xbb\x5a\x11\xa7\xd2\x43\x2b\xb4\x63\x65\xbe\xf9\xf5\x02";
/// draft-ietf-quic-tls-22, and the mvfst versions made from it.
const SALT_22: [u8; 20] =
    *b"\x7f\xbc\xdb\x0e\x7c\x66\xbb\xe9\x19\x3a\x96\xcd\x21\x51\x9e\xbd\x7a\x02\x64\x4a";

/// Google's T050 and T051, QUIC with TLS before it was a standard.
const SALT_T050: [u8; 20] =
    *b"\x7f\xf5\x79\xe5\xac\xd0\x72\x91\x55\x80\x30\x4c\x43\xa2\x36\x7c\x60\x48\x83\x10";
const SALT_T051: [u8; 20] =
    *b"\x7a\x4e\xde\xf4\xe7\xcc\xee\x5f\xa4\x50\x6c\x19\x12\x4f\xc8\xcc\xda\x6e\x03\x3d";

const V2_DRAFT: u32 = 0x709a_50c4;

impl Version {
    /// RFC 9000.
    pub const V1: Self = Self(1);
    /// RFC 9369.
    pub const V2: Self = Self(0x6b33_43cf);

    /// How this version's Initial packets are opened; `None` where that is not known.
    pub(super) const fn suite(self) -> Option<Suite> {
        let (salt, v2) = match self.0 {
            // Drafts 33 and 34 took the salt of version 1 before they took its number.
            1 | 0xff00_0021 | 0xff00_0022 => (&SALT_V1, false),
            0x6b33_43cf => (&SALT_V2, true),
            V2_DRAFT => (&SALT_V2_DRAFT, true),
            0xff00_001d..=0xff00_0020 => (&SALT_29, false),
            0xff00_0017..=0xff00_001c | 0xface_b002 | 0xface_b00e => (&SALT_23, false),
            0x5430_3530 => (&SALT_T050, false),
            0x5430_3531 => (&SALT_T051, false),
            0xff00_0016 | 0xface_b001 => (&SALT_22, false),
            _ => return None,
        };
        Some(Suite { salt, v2, google_frames: self.google().is_some() })
    }

    /// Whether a server may go over from one to the other without a new connection (RFC 9369 §4.1).
    pub(super) fn is_compatible(self, other: Self) -> bool {
        let these = [Self::V1, Self::V2, Self(V2_DRAFT)];
        self != other && [self, other].iter().all(|version| these.contains(version))
    }

    /// Versions that are QUIC beyond doubt, though most of them are not read.
    const fn is_known(self) -> bool {
        self.suite().is_some()
            || self.0 >> 8 == 0x00ff_0000
            || self.0 >> 8 == 0x00fa_ceb0
            || self.google().is_some()
    }

    /// Reserved to exercise version negotiation (RFC 9000 §15).
    const fn is_grease(self) -> bool {
        self.0 & 0x0f0f_0f0f == 0x0a0a_0a0a
    }

    /// `Qnnn` and `Tnnn`: Google QUIC, in ASCII.
    const fn google(self) -> Option<[u8; 4]> {
        match self.0.to_be_bytes() {
            name @ [b'Q' | b'T', b'0', b'0'..=b'9', b'0'..=b'9'] => Some(name),
            _ => None,
        }
    }
}

/// `v1`, `v2`, `v2-draft`, `draft-29`, `mvfst-faceb002`, `Q050`, `grease-1a2a3a4a`, else eight hex
/// digits.
impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::V1 => f.write_str("v1"),
            Self::V2 => f.write_str("v2"),
            Self(V2_DRAFT) => f.write_str("v2-draft"),
            Self(draft) if draft >> 8 == 0x00ff_0000 => write!(f, "draft-{:02}", draft & 0xff),
            Self(mvfst) if mvfst >> 8 == 0x00fa_ceb0 => write!(f, "mvfst-{mvfst:08x}"),
            grease if grease.is_grease() => write!(f, "grease-{:08x}", grease.0),
            other => match other.google() {
                Some(name) => name.iter().try_for_each(|&byte| write!(f, "{}", char::from(byte))),
                None => write!(f, "{:08x}", other.0),
            },
        }
    }
}

/// A connection id of up to 20 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionId {
    len: u8,
    bytes: [u8; CID_MAX],
}

impl ConnectionId {
    fn new(wire: &[u8]) -> Option<Self> {
        let mut bytes = [0; CID_MAX];
        bytes.get_mut(..wire.len())?.copy_from_slice(wire);
        Some(Self { len: u8::try_from(wire.len()).ok()?, bytes })
    }

    /// The id as on the wire.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// The part of a long header that does not depend on keys, for a version that is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet<'a> {
    pub(super) version: Version,
    pub(super) suite: Suite,
    pub(super) initial: bool,
    pub(super) dcid: ConnectionId,
    pub(super) scid: ConnectionId,
    /// From the first byte to the end of the protected payload.
    pub(super) bytes: &'a [u8],
    /// Where the protected packet number begins in `bytes`.
    pub(super) number_at: usize,
}

impl Packet<'_> {
    /// The connection id from which the keys of a first Initial follow. Google's T050 can leave the
    /// Destination Connection ID empty, and takes the other.
    pub(super) fn key_id(&self) -> ConnectionId {
        let google = self.version.google().is_some();
        if google && self.dcid.as_bytes().is_empty() { self.scid } else { self.dcid }
    }
}

/// One step through a datagram.
pub(super) enum Next<'a> {
    /// A packet, and what is coalesced behind it.
    Packet(Packet<'a>, &'a [u8]),
    /// A long header of a version that is not read: nothing behind it can be told apart.
    Unread,
    /// A short header, or nothing that is QUIC: the rest of the datagram is not read.
    End,
}

/// Reads the packet at the start of `datagram`.
pub(super) fn next(datagram: &[u8]) -> Next<'_> {
    let Some(version) = long_header(datagram) else { return Next::End };
    let Some(suite) = version.suite() else { return Next::Unread };
    read(datagram, version, suite).unwrap_or(Next::End)
}

fn read(datagram: &[u8], version: Version, suite: Suite) -> Option<Next<'_>> {
    let mut cursor = Cursor { bytes: datagram, at: 5 };
    let dcid = ConnectionId::new(cursor.short()?)?;
    let scid = ConnectionId::new(cursor.short()?)?;
    let kind = datagram.first()? >> 4 & 3;
    // RFC 9369 §3.2 turns the types of version 2 by one.
    let kind = if suite.v2 { kind.wrapping_sub(1) & 3 } else { kind };
    match kind {
        0 => {
            let token = usize::try_from(cursor.varint()?).ok()?;
            cursor.take(token)?;
        }
        3 => return None, // Retry: servers send it, and it has no length
        _ => {}
    }
    let len = usize::try_from(cursor.varint()?).ok()?;
    let number_at = cursor.at;
    cursor.take(len)?;
    let (bytes, rest) = datagram.split_at_checked(cursor.at)?;
    let packet = Packet { version, suite, initial: kind == 0, dcid, scid, bytes, number_at };
    Some(Next::Packet(packet, rest))
}

/// The version of a long header; version 0 is Version Negotiation, which clients do not send.
fn long_header(datagram: &[u8]) -> Option<Version> {
    match *datagram {
        [first, a, b, c, d, ..] if first & 0x80 != 0 => {
            Some(Version(u32::from_be_bytes([a, b, c, d]))).filter(|version| version.0 != 0)
        }
        _ => None,
    }
}

/// The QUIC version of a client's datagram, where it is QUIC beyond reasonable doubt: a version
/// that is known, or one that is not in a packet otherwise well-formed. The public header of
/// Google QUIC up to Q043 is told by its version too.
#[must_use]
pub fn version(datagram: &[u8]) -> Option<Version> {
    if let Some(version) = long_header(datagram) {
        if version.is_known() {
            return Some(version);
        }
        // RFC 9000 §14.1: a first datagram has 1200 bytes, of whatever version (RFC 8999 says less).
        let fixed_bit = datagram.first().is_some_and(|first| first & 0x40 != 0);
        let mut cursor = Cursor { bytes: datagram, at: 5 };
        let ids = cursor.short().zip(cursor.short());
        let plausible = ids.is_some_and(|(dcid, scid)| {
            (8..=CID_MAX).contains(&dcid.len()) && scid.len() <= CID_MAX
        });
        let long = datagram.len() >= 1200;
        return Some(version).filter(|v| plausible && (v.is_grease() || long && fixed_bit));
    }
    // Flags (version, 8-byte connection id, no reserved bit), connection id, version.
    match *datagram {
        [flags, _, _, _, _, _, _, _, _, a, b, c, d, ..] if flags & 0xcb == 0x09 => {
            Some(Version(u32::from_be_bytes([a, b, c, d]))).filter(|v| v.google().is_some())
        }
        _ => None,
    }
}

/// Reads forward; every method answers `None` at the end.
pub(super) struct Cursor<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(len)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    /// Bytes behind a length of one byte.
    pub(super) fn short(&mut self) -> Option<&'a [u8]> {
        let len = self.u8()?;
        self.take(len.into())
    }

    /// RFC 9000 §16.
    pub(super) fn varint(&mut self) -> Option<u64> {
        let first = *self.bytes.get(self.at)?;
        let bytes = self.take(1 << (first >> 6))?;
        let value = bytes.iter().fold(0, |value, &byte| value << 8 | u64::from(byte));
        Some(value & (u64::MAX >> (66 - 8 * bytes.len())))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }
}
