//! The messages of netlink(7), as every family of them is written.

use std::io;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// Bytes of the header of a message.
pub(super) const HEADER: usize = 16;
/// `NLM_F_REQUEST`.
pub(super) const REQUEST: u16 = 0x0001;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
pub(super) const DUMP: u16 = 0x0301;
/// Types of the messages that say how it went, and that a list has ended.
pub(super) const ERROR: u16 = 2;
pub(super) const DONE: u16 = 3;
/// Longest answer to one read, in bytes; the kernel fills what it is given, 32 KiB at most.
pub(super) const READ_MAX: usize = 64 << 10;

/// The bits of an attribute's type that are its type; the others say how it is written.
const KIND_MASK: u16 = 0x3fff;

/// A socket to a family of netlink, which waits 5 s for an answer.
pub(super) fn open(family: libc::c_int) -> io::Result<Socket> {
    let (domain, protocol) = (Domain::from(libc::AF_NETLINK), Protocol::from(family));
    let socket = Socket::new(domain, Type::RAW.cloexec(), Some(protocol))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok(socket)
}

/// A message: header, what its family puts first, attributes. `family` is a multiple of 4 bytes.
pub(super) fn message(kind: u16, flags: u16, family: &[u8], attributes: &[u8]) -> Vec<u8> {
    let length = HEADER + family.len() + attributes.len();
    let mut message = Vec::with_capacity(length);
    message.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    message.extend([kind, flags].iter().flat_map(|half| half.to_ne_bytes()));
    // Sequence and sender: the kernel fills in who asks.
    message.extend([1_u32, 0].iter().flat_map(|word| word.to_ne_bytes()));
    message.extend(family);
    message.extend(attributes);
    message
}

/// Adds an attribute.
pub(super) fn put(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    to.extend(u16::try_from(4 + value.len()).unwrap_or(u16::MAX).to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

/// Length and type of the message at the front.
pub(super) fn head(bytes: &[u8]) -> Option<(usize, u16)> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    (length >= HEADER && length <= bytes.len()).then_some((length, kind))
}

/// The value of the first attribute of a type.
pub(super) fn attribute(mut rest: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?);
        let value = rest.get(4..length)?;
        if kind & KIND_MASK == wanted {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}
