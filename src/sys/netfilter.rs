//! Large tables of nftables, and their counters, by the kernel's own messages (nfnetlink(7),
//! nf_tables).
//!
//! `nft` of nftables 1.0.6 reads every element of every set before it changes one: beside 260,000
//! intervals, 4 to 6 s and 340 MB for a list of counters, and beside 190,000, 8 to 16 s and 440 to
//! 650 MB for other intervals. The kernel answers at once, and has 414,000 intervals in 2.6 s.

use std::io::{self, Read};
use std::net::IpAddr;
use std::os::fd::AsFd;

use socket2::Socket;

use super::netlink::{self, DONE, DUMP, ERROR, HEADER, READ_MAX, REQUEST, attribute, head, put};
use super::options;

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
/// `NFT_MSG_NEWSETELEM`.
const ADD: u16 = 0x0a0c;
/// What stands around a transaction, and the subsystem that it is for (`res_id` of its header).
pub(super) const BEGIN: u16 = 0x10;
pub(super) const END: u16 = 0x11;
pub(super) const NFTABLES: [u8; 2] = [0, 10];
/// `NLM_F_REQUEST`, with `NLM_F_ACK` and `NLM_F_CREATE`.
pub(super) const CREATE: u16 = 0x0405;
/// `NFPROTO_INET`.
pub(super) const INET: u8 = 1;
/// Attributes of an object: table, name, type, data; and of a counter: bytes, packets.
const TABLE: u16 = 1;
const NAME: u16 = 2;
const KIND: u16 = 3;
const DATA: u16 = 4;
const BYTES: u16 = 1;
const PACKETS: u16 = 2;
/// `NFT_OBJECT_COUNTER`.
const COUNTER: [u8; 4] = [0, 0, 0, 1];
/// The bit of an attribute's type that says that there are attributes in it.
pub(super) const NEST: u16 = 0x8000;
/// Attributes of a list of elements: table, set, elements; of the list, one element; of an element:
/// key, flags, object; of a key, its bytes.
const SET: u16 = 2;
const ELEMENTS: u16 = 3;
const ELEMENT: u16 = 1;
const KEY: u16 = 1;
const FLAGS: u16 = 3;
const OBJECT: u16 = 9;
const VALUE: u16 = 1;
/// `NFT_SET_ELEM_INTERVAL_END`.
const INTERVAL_END: [u8; 4] = [0, 0, 0, 1];
/// Bytes of elements in one message: the length of a nest is 16 bits.
const LIST_MAX: usize = 60_000;
/// Messages in one transaction, which the kernel takes in one piece, and the buffer that this needs.
/// A transaction costs the kernel 12 ms, however little is in it.
const MESSAGES: usize = 64;
const SEND_BUFFER: libc::c_int = 8 << 20;

const FAMILY: usize = 4;
/// Reads for one dump, at most.
const READS_MAX: usize = 4096;

/// Every named counter of the table `inet TABLE`. An empty list where there is no such table.
///
/// # Errors
/// Without CAP_NET_ADMIN, where the kernel has no nf_tables, or where it changed meanwhile.
pub fn counters(table: &str) -> io::Result<Vec<NamedCounter>> {
    let mut socket = open()?;
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

/// An interval of a map from addresses to named counters.
#[derive(Debug, Clone, Copy)]
pub struct Counted<'a> {
    /// First and last address, of one family.
    pub first: IpAddr,
    /// See `first`.
    pub last: IpAddr,
    /// Name of the counter.
    pub counter: &'a str,
}

/// Adds intervals, ascending and apart from each other, to a map of the table `inet TABLE`. They go
/// over in many transactions: the map must be one that no rule looks into yet.
///
/// # Errors
/// Without CAP_NET_ADMIN, or where the kernel does not take one of them: no such table, map or
/// counter, an interval of another family, or one that lies over another. Those before it stay.
pub fn add_intervals<'a>(
    table: &str,
    map: &str,
    intervals: impl IntoIterator<Item = Counted<'a>>,
) -> io::Result<()> {
    let mut socket = open()?;
    options::set(socket.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BUFFER)?;
    let mut intervals = intervals.into_iter().peekable();
    let mut buffer = vec![0; READ_MAX];
    while intervals.peek().is_some() {
        let mut transaction = message(BEGIN, REQUEST, [0, 0], NFTABLES, &[]);
        let mut messages = 0;
        while messages < MESSAGES && intervals.peek().is_some() {
            let mut elements = Vec::with_capacity(LIST_MAX + 256);
            while elements.len() < LIST_MAX
                && let Some(interval) = intervals.next()
            {
                put_interval(&mut elements, &interval);
            }
            let mut attributes = Vec::with_capacity(elements.len() + 256);
            put(&mut attributes, TABLE, &[table.as_bytes(), &[0]].concat());
            put(&mut attributes, SET, &[map.as_bytes(), &[0]].concat());
            put(&mut attributes, ELEMENTS | NEST, &elements);
            transaction.extend(message(ADD, CREATE, [INET, 0], [0, 0], &attributes));
            messages += 1;
        }
        transaction.extend(message(END, REQUEST, [0, 0], NFTABLES, &[]));
        socket.send(&transaction)?;
        // Each message is answered, with a fault or without.
        let mut answered = 0;
        while answered < messages {
            let length = socket.read(&mut buffer)?;
            answered += answers(buffer.get(..length).unwrap_or_default())?;
        }
    }
    Ok(())
}

pub(super) fn open() -> io::Result<Socket> {
    netlink::open(libc::NETLINK_NETFILTER)
}

fn request(table: &str) -> Vec<u8> {
    let mut attributes = Vec::new();
    put(&mut attributes, TABLE, &[table.as_bytes(), &[0]].concat());
    put(&mut attributes, KIND, &COUNTER);
    message(GET, DUMP, [INET, 0], [0, 0], &attributes)
}

/// A message with the header of its subsystem: family and version, and what it is for.
pub(super) fn message(
    kind: u16,
    flags: u16,
    family: [u8; 2],
    resource: [u8; 2],
    attributes: &[u8],
) -> Vec<u8> {
    netlink::message(kind, flags, &[family, resource].concat(), attributes)
}

/// An interval is two elements: its first address, and the one behind its last; the last address
/// of all has none behind it.
fn put_interval(to: &mut Vec<u8>, interval: &Counted<'_>) {
    let mut first = key(interval.first);
    put(&mut first, OBJECT, &[interval.counter.as_bytes(), &[0]].concat());
    put(to, ELEMENT | NEST, &first);
    let behind = match interval.last {
        IpAddr::V4(last) => last.to_bits().checked_add(1).map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(last) => last.to_bits().checked_add(1).map(|bits| IpAddr::V6(bits.into())),
    };
    if let Some(behind) = behind {
        let mut end = key(behind);
        put(&mut end, FLAGS, &INTERVAL_END);
        put(to, ELEMENT | NEST, &end);
    }
}

fn key(address: IpAddr) -> Vec<u8> {
    let mut value = Vec::new();
    match address {
        IpAddr::V4(ip) => put(&mut value, VALUE, &ip.octets()),
        IpAddr::V6(ip) => put(&mut value, VALUE, &ip.octets()),
    }
    let mut key = Vec::new();
    put(&mut key, KEY | NEST, &value);
    key
}

/// How many messages the answers of one read say were taken.
///
/// # Errors
/// One was not.
pub(super) fn answers(mut rest: &[u8]) -> io::Result<usize> {
    let mut taken = 0;
    while let Some((length, kind)) = head(rest) {
        let message = rest.get(HEADER..length).ok_or(io::ErrorKind::InvalidData)?;
        if kind == ERROR {
            match message.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
                Some(0) => taken += 1,
                Some(code) => return Err(io::Error::from_raw_os_error(code.wrapping_neg())),
                None => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(taken)
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
    fn an_interval_is_its_first_address_and_the_one_behind_its_last() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        for (first, last, elements) in [
            ("192.0.2.0", "192.0.2.255", 2),
            ("255.0.0.0", "255.255.255.255", 1),
            ("2001:db8::", "2001:db8::", 2),
            ("ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 1),
        ] {
            let mut list = Vec::new();
            let counter = "allow_permitted_FR";
            let (first, last) = (address(first), address(last));
            put_interval(&mut list, &Counted { first, last, counter });
            let mut seen = 0;
            let mut rest = &list[..];
            while let Some(element) = attribute(rest, ELEMENT) {
                let bytes = attribute(attribute(element, KEY).unwrap(), VALUE).unwrap();
                let name = attribute(element, OBJECT);
                if seen == 0 {
                    assert_eq!(bytes.len(), if first.is_ipv4() { 4 } else { 16 });
                    assert_eq!(name, Some(&b"allow_permitted_FR\0"[..]));
                    assert_eq!(attribute(element, FLAGS), None);
                } else {
                    assert_eq!(name, None);
                    assert_eq!(attribute(element, FLAGS), Some(&INTERVAL_END[..]));
                }
                seen += 1;
                rest = &rest[(4 + element.len()).next_multiple_of(4)..];
            }
            assert_eq!(seen, elements, "{first}-{last}");
        }
    }

    #[test]
    fn a_message_that_was_not_taken_is_an_error() {
        let answer = |code: i32| {
            let mut answer = message(ERROR, 0, [0, 0], [0, 0], &[0; 16]);
            answer[HEADER..HEADER + 4].copy_from_slice(&code.to_ne_bytes());
            answer
        };
        let all = [answer(0), answer(0)].concat();
        assert_eq!(answers(&all).unwrap(), 2);
        let refused = answers(&[answer(0), answer(-libc::EEXIST)].concat()).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EEXIST));
        assert_eq!(answers(&all[..HEADER]).unwrap(), 0, "a part of an answer says nothing");
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
