//! The named counters of an nftables table, asked of the kernel (nfnetlink(7), nf_tables).
//!
//! `nft list counters` of nftables 1.0.6 reads every element of every set first: 4 to 6 s and
//! 340 MB beside 260,000 intervals. The kernel itself answers at once.

use std::io::{self, Read};

use socket2::{Domain, Protocol, Socket, Type};

/// A named counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedCounter {
    /// Its name.
    pub name: String,
    /// Packets counted.
    pub packets: u64,
    /// Bytes counted, IP headers included.
    pub bytes: u64,
}

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETOBJ`, and the message of an answer.
const GET: u16 = 0x0a13;
const NEW: u16 = 0x0a12;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x0301;
/// `NFPROTO_INET`.
const INET: u8 = 1;
/// Attributes of an object: table, name, type, data; and of a counter: bytes, packets.
const TABLE: u16 = 1;
const NAME: u16 = 2;
const KIND: u16 = 3;
const DATA: u16 = 4;
const BYTES: u16 = 1;
const PACKETS: u16 = 2;
/// `NFT_OBJECT_COUNTER`.
const COUNTER: [u8; 4] = [0, 0, 0, 1];
/// The bits of an attribute's type that say how it is written.
const KIND_MASK: u16 = 0x3fff;

const HEADER: usize = 16;
const FAMILY: usize = 4;
/// Longest answer to one read, in bytes; the kernel fills what it is given, 32 KiB at most.
const READ_MAX: usize = 64 << 10;
/// Reads for one dump, at most.
const READS_MAX: usize = 4096;

/// Every named counter of the table `inet TABLE`. An empty list where there is no such table.
///
/// # Errors
/// Without CAP_NET_ADMIN, where the kernel has no nf_tables, or where it changed meanwhile.
pub fn counters(table: &str) -> io::Result<Vec<NamedCounter>> {
    let family = Domain::from(libc::AF_NETLINK);
    let protocol = Protocol::from(libc::NETLINK_NETFILTER);
    let mut socket = Socket::new(family, Type::RAW.cloexec(), Some(protocol))?;
    socket.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
    socket.send(&request(table))?;
    let mut buffer = vec![0; READ_MAX];
    let mut found = Vec::new();
    for _ in 0..READS_MAX {
        let length = socket.read(&mut buffer)?;
        if length == 0 || take(buffer.get(..length).unwrap_or_default(), table, &mut found)? {
            return Ok(found);
        }
    }
    Err(io::Error::other("the kernel's list of counters has no end"))
}

fn request(table: &str) -> Vec<u8> {
    let mut attributes = Vec::new();
    put(&mut attributes, TABLE, &[table.as_bytes(), &[0]].concat());
    put(&mut attributes, KIND, &COUNTER);
    let length = HEADER + FAMILY + attributes.len();
    let mut message = Vec::with_capacity(length);
    message.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    message.extend([GET, DUMP].iter().flat_map(|half| half.to_ne_bytes()));
    // Sequence and sender: the kernel fills in who asks.
    message.extend([1_u32, 0].iter().flat_map(|word| word.to_ne_bytes()));
    message.extend([INET, 0, 0, 0]);
    message.extend(attributes);
    message
}

fn put(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    to.extend(u16::try_from(4 + value.len()).unwrap_or(u16::MAX).to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

/// Takes the messages of one read; true where the list has ended.
fn take(mut rest: &[u8], table: &str, found: &mut Vec<NamedCounter>) -> io::Result<bool> {
    while let Some((length, kind)) = head(rest) {
        let message = rest.get(HEADER..length).ok_or(io::ErrorKind::InvalidData)?;
        match kind {
            DONE => return Ok(true),
            ERROR => {
                let code = message.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                return match code {
                    0 => Ok(true),
                    code if code == -libc::ENOENT => Ok(true),
                    code => Err(io::Error::from_raw_os_error(-code)),
                };
            }
            NEW => found.extend(counter(message.get(FAMILY..).unwrap_or_default(), table)),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// Length and type of the message at the front.
fn head(bytes: &[u8]) -> Option<(usize, u16)> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    (length >= HEADER && length <= bytes.len()).then_some((length, kind))
}

/// A counter of the table, from the attributes of an object.
fn counter(attributes: &[u8], table: &str) -> Option<NamedCounter> {
    let text = |kind| {
        let bytes = attribute(attributes, kind)?;
        std::str::from_utf8(bytes.strip_suffix(&[0]).unwrap_or(bytes)).ok()
    };
    if text(TABLE)? != table || attribute(attributes, KIND)? != COUNTER {
        return None;
    }
    let data = attribute(attributes, DATA)?;
    let number = |kind| Some(u64::from_be_bytes(*attribute(data, kind)?.first_chunk()?));
    Some(NamedCounter {
        name: text(NAME)?.to_owned(),
        packets: number(PACKETS)?,
        bytes: number(BYTES)?,
    })
}

/// The value of the first attribute of a type.
fn attribute(mut rest: &[u8], wanted: u16) -> Option<&[u8]> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn object(table: &str, name: &str) -> Vec<u8> {
        let mut data = Vec::new();
        put(&mut data, BYTES, &1234_u64.to_be_bytes());
        put(&mut data, PACKETS, &5_u64.to_be_bytes());
        let mut attributes = vec![INET, 0, 0, 0];
        put(&mut attributes, TABLE, &[table.as_bytes(), &[0]].concat());
        put(&mut attributes, NAME, &[name.as_bytes(), &[0]].concat());
        put(&mut attributes, KIND, &COUNTER);
        put(&mut attributes, DATA | 0x8000, &data);
        let mut message = u32::try_from(HEADER + attributes.len()).unwrap().to_ne_bytes().to_vec();
        message.extend([NEW, 2].iter().flat_map(|half: &u16| half.to_ne_bytes()));
        message.extend([0; 8]);
        message.extend(attributes);
        message
    }

    #[test]
    fn the_counters_of_the_table_are_read_and_no_others() {
        let mut answer = [object("ours", "allow_permitted_FR"), object("other", "x")].concat();
        let mut found = Vec::new();
        assert!(!take(&answer, "ours", &mut found).unwrap(), "more may follow");
        let (name, packets, bytes) = ("allow_permitted_FR".to_owned(), 5, 1234);
        assert_eq!(found, [NamedCounter { name, packets, bytes }]);
        answer.truncate(answer.len() - 1);
        found.clear();
        assert!(!take(&answer, "ours", &mut found).unwrap());
        assert_eq!(found.len(), 1, "a message that is cut off says nothing");
    }

    #[test]
    fn no_cut_of_an_answer_is_more_than_an_end_or_an_error() {
        let answer = object("ours", "name");
        for end in 0..answer.len() {
            let mut found = Vec::new();
            assert!(!take(&answer[..end], "ours", &mut found).unwrap());
            assert!(found.is_empty(), "{end}");
        }
    }
}
