//! Packets that the kernel holds until somebody says what becomes of them (nfnetlink_queue).
//!
//! A queue without a reader drops what comes, and so does one that is full: the switch by which the
//! kernel would let such packets pass (`NFQA_CFG_F_FAIL_OPEN`) is cleared and never set.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::{fmt, fs};

use socket2::Socket;

use super::message::{Control, Name, receive_batch};
use super::netfilter::{answers, message, open};
use super::netlink::{ERROR, HEADER, READ_MAX, REQUEST, attribute, head, put};
use super::options;

/// `NFNL_SUBSYS_QUEUE << 8` with `NFQNL_MSG_PACKET`, `NFQNL_MSG_VERDICT`, `NFQNL_MSG_CONFIG`.
const PACKET: u16 = 0x0300;
const VERDICT: u16 = 0x0301;
const CONFIG: u16 = 0x0302;
/// `NLM_F_ACK`.
const ACK: u16 = 0x0004;
/// Bytes of `struct nfgenmsg`.
const FAMILY: usize = 4;
/// Attributes of a configuration: command, how packets are shown, room, which flags, their values.
const COMMAND: u16 = 1;
const SHOWN: u16 = 2;
const ROOM: u16 = 3;
const WHICH: u16 = 4;
const FLAGS: u16 = 5;
/// `NFQNL_CFG_CMD_BIND`, `NFQNL_COPY_PACKET`.
const BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
/// `NFQA_CFG_F_FAIL_OPEN`, `NFQA_CFG_F_GSO`: large packets are not cut before they are shown.
const FAIL_OPEN: u32 = 1;
const WHOLE: u32 = 4;
/// Attributes of a packet and of a verdict.
const PACKET_HEADER: u16 = 1;
const VERDICT_HEADER: u16 = 2;
const MARK: u16 = 3;
const CAME_IN_BY: u16 = 5;
const PAYLOAD: u16 = 10;
const STATE: u16 = 14;
/// `NFQA_SKB_CSUMNOTREADY`, `NFQA_SKB_GSO`.
const CHECKSUM_MISSING: u32 = 1;
const SEVERAL: u32 = 2;
/// `NF_DROP`, `NF_ACCEPT`.
const DROP: u32 = 0;
const ACCEPT: u32 = 1;

/// Packets in one read, and the room for each: what is shown of it, and what is said of it. Memory that
/// no packet has needed yet is none.
const COUNT: usize = 32;
const SLOT: usize = 66 * 1024;
/// Bytes of a packet that are shown: all.
const SHOWN_MAX: u32 = 0xffff;
/// Bytes of verdicts in one message to the kernel, which has to find room for it in one piece.
const TOLD_MAX: usize = 32 * 1024;
/// Room for messages that were not read yet.
const RECEIVE_BUFFER: libc::c_int = 4 << 20;

/// A queue that this process reads.
#[derive(Debug)]
pub struct PacketQueue {
    socket: Socket,
    number: u16,
}

impl PacketQueue {
    /// Takes the queue of a number, in which `room` packets may wait: more are dropped.
    ///
    /// # Errors
    /// Another program has it (`AddrInUse`), without CAP_NET_ADMIN, or the kernel has no queues.
    pub fn bind(number: u16, room: u32) -> io::Result<Self> {
        let mut socket = open()?;
        let mut attributes = Vec::new();
        put(&mut attributes, COMMAND, &[BIND, 0, 0, 0]);
        let shown = [&SHOWN_MAX.to_be_bytes()[..], &[COPY_PACKET]].concat();
        put(&mut attributes, SHOWN, &shown);
        put(&mut attributes, ROOM, &room.to_be_bytes());
        put(&mut attributes, WHICH, &(FAIL_OPEN | WHOLE).to_be_bytes());
        put(&mut attributes, FLAGS, &WHOLE.to_be_bytes());
        let ask = message(CONFIG, REQUEST | ACK, [0, 0], number.to_be_bytes(), &attributes);
        socket.send(&ask)?;
        let mut buffer = vec![0; READ_MAX];
        let length = socket.read(&mut buffer)?;
        answers(buffer.get(..length).unwrap_or_default())
            .map_err(|fault| explained(number, fault))?;
        options::set(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, number })
    }

    /// Its number.
    #[must_use]
    pub const fn number(&self) -> u16 {
        self.number
    }

    /// Reads as many packets as wait, a batch at most, without waiting.
    ///
    /// # Errors
    /// `WouldBlock` where none waits; ENOBUFS where the kernel had no room to show some, which it
    /// dropped.
    pub fn receive(&self, batch: &mut QueueBatch) -> io::Result<()> {
        batch.taken = 0;
        batch.taken = receive_batch::<SLOT, 0, COUNT>(
            self.socket.as_fd(),
            &mut batch.bytes,
            &mut batch.lengths,
            &mut batch.from,
            &mut batch.controls,
        )?;
        Ok(())
    }

    /// Says what becomes of packets, and takes out of the list what was said; what the kernel has
    /// against it comes back as [`Queued::Fault`].
    ///
    /// # Errors
    /// As sendto(2): the kernel was told nothing of what is left.
    pub fn send(&self, verdicts: &mut Verdicts) -> io::Result<()> {
        while let Some(piece) = verdicts.piece() {
            let length = piece.len();
            self.socket.send(piece)?;
            verdicts.0.drain(..length);
        }
        Ok(())
    }
}

impl AsFd for PacketQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whoever may not ask, and whoever asks for a queue of somebody else, is told the same.
fn explained(number: u16, fault: io::Error) -> io::Error {
    if ![Some(libc::EPERM), Some(libc::EBUSY)].contains(&fault.raw_os_error()) {
        return fault;
    }
    let listed = fs::read_to_string("/proc/self/net/netfilter/nfnetlink_queue").unwrap_or_default();
    let owner = listed.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()?.parse() == Ok(number)).then(|| words.next().map(str::to_owned))?
    });
    match owner {
        Some(owner) => io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("another program reads it (netlink port {owner})"),
        ),
        None => fault,
    }
}

/// Room for the packets of one read.
pub struct QueueBatch {
    bytes: Vec<u8>,
    lengths: [usize; COUNT],
    from: [Name; COUNT],
    controls: [Control<0>; COUNT],
    taken: usize,
}

impl Default for QueueBatch {
    fn default() -> Self {
        Self {
            bytes: vec![0; SLOT * COUNT],
            lengths: [0; COUNT],
            from: [Name::EMPTY; COUNT],
            controls: [Control::EMPTY; COUNT],
            taken: 0,
        }
    }
}

impl fmt::Debug for QueueBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueBatch").field("taken", &self.taken).finish_non_exhaustive()
    }
}

/// A packet that waits for its verdict.
#[derive(Debug, Clone, Copy)]
pub struct QueuedPacket<'a> {
    /// Its number in the queue.
    pub id: u32,
    /// From the IP header on.
    pub bytes: &'a [u8],
    /// Number of the interface that it came in by; 0 where the kernel does not say.
    pub interface: u32,
    /// Its checksum is not computed yet.
    pub checksum_missing: bool,
    /// It is several packets in one, which are cut apart later.
    pub several: bool,
}

/// What was read from a queue.
#[derive(Debug)]
pub enum Queued<'a> {
    /// A packet waits for its verdict.
    Packet(QueuedPacket<'a>),
    /// The kernel did not take a verdict.
    Fault(io::Error),
}

impl QueueBatch {
    /// Whether there may be more to read.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.taken == COUNT
    }

    /// What was read.
    pub fn messages(&self) -> impl Iterator<Item = Queued<'_>> {
        let slots = self.bytes.chunks_exact(SLOT).zip(&self.lengths).take(self.taken);
        let read = slots.filter_map(|(slot, length)| slot.get(..*length));
        read.flat_map(|mut rest| {
            std::iter::from_fn(move || {
                let (length, kind) = head(rest)?;
                let message = rest.get(HEADER..length)?;
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                Some((kind, message))
            })
        })
        .filter_map(|(kind, message)| queued(kind, message))
    }
}

fn queued(kind: u16, message: &[u8]) -> Option<Queued<'_>> {
    match kind {
        PACKET => {
            let attributes = message.get(FAMILY..)?;
            let id = *attribute(attributes, PACKET_HEADER)?.first_chunk()?;
            let number = |which| {
                let value = attribute(attributes, which).and_then(|value| value.first_chunk());
                value.map_or(0, |value| u32::from_be_bytes(*value))
            };
            let state = number(STATE);
            Some(Queued::Packet(QueuedPacket {
                id: u32::from_be_bytes(id),
                bytes: attribute(attributes, PAYLOAD).unwrap_or_default(),
                interface: number(CAME_IN_BY),
                checksum_missing: state & CHECKSUM_MISSING != 0,
                several: state & SEVERAL != 0,
            }))
        }
        ERROR => match i32::from_ne_bytes(*message.first_chunk()?) {
            0 => None,
            code => Some(Queued::Fault(io::Error::from_raw_os_error(code.wrapping_neg()))),
        },
        _ => None,
    }
}

/// What is to become of packets of one queue.
#[derive(Debug, Default)]
pub struct Verdicts(Vec<u8>);

impl Verdicts {
    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The packet goes on to the next chain, and bears this mark there.
    pub fn accept(&mut self, queue: u16, id: u32, mark: u32) {
        self.add(queue, id, ACCEPT, Some(mark));
    }

    /// The packet is dropped.
    pub fn drop(&mut self, queue: u16, id: u32) {
        self.add(queue, id, DROP, None);
    }

    /// The first of them, as many as go into one message; `None` where there are none.
    fn piece(&self) -> Option<&[u8]> {
        let mut end = 0;
        while let Some((length, _)) = self.0.get(end..).and_then(head)
            && (end == 0 || end + length <= TOLD_MAX)
        {
            end += length.next_multiple_of(4);
        }
        self.0.get(..end).filter(|piece| !piece.is_empty())
    }

    fn add(&mut self, queue: u16, id: u32, verdict: u32, mark: Option<u32>) {
        let mut attributes = Vec::with_capacity(20);
        put(&mut attributes, VERDICT_HEADER, &[verdict.to_be_bytes(), id.to_be_bytes()].concat());
        if let Some(mark) = mark {
            put(&mut attributes, MARK, &mark.to_be_bytes());
        }
        self.0.extend(message(VERDICT, REQUEST, [0, 0], queue.to_be_bytes(), &attributes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(id: u32, bytes: &[u8]) -> Vec<u8> {
        let mut attributes = Vec::new();
        put(&mut attributes, PACKET_HEADER, &[&id.to_be_bytes()[..], &[8, 0, 1]].concat());
        put(&mut attributes, CAME_IN_BY, &3_u32.to_be_bytes());
        put(&mut attributes, STATE, &5_u32.to_be_bytes());
        put(&mut attributes, PAYLOAD, bytes);
        message(PACKET, 0, [2, 0], 5_u16.to_be_bytes(), &attributes)
    }

    fn batch(reads: &[Vec<u8>]) -> QueueBatch {
        let mut batch = QueueBatch::default();
        for (at, read) in reads.iter().enumerate() {
            batch.bytes[at * SLOT..at * SLOT + read.len()].copy_from_slice(read);
            batch.lengths[at] = read.len();
        }
        batch.taken = reads.len();
        batch
    }

    #[test]
    fn packets_and_faults_are_told_apart() {
        let fault = [&20_u32.to_ne_bytes()[..], &ERROR.to_ne_bytes(), &[0; 10]].concat();
        let fault = [&fault[..], &(-1_i32).to_ne_bytes()].concat();
        let read = batch(&[packet(7, b"one"), fault, packet(8, b"")]);
        let found: Vec<_> = read.messages().map(|queued| format!("{queued:?}")).collect();
        assert_eq!(found.len(), 3);
        assert!(found[0].contains("id: 7") && found[0].contains("111, 110, 101"), "{found:?}");
        assert!(found[1].contains("PermissionDenied"), "{found:?}");
        assert!(found[2].contains("id: 8"), "{found:?}");
        let Some(Queued::Packet(packet)) = read.messages().next() else { panic!("{found:?}") };
        assert_eq!((packet.interface, packet.checksum_missing, packet.several), (3, true, false));
    }

    #[test]
    fn no_cut_of_a_packet_is_read_beyond_its_end() {
        let whole = packet(7, b"twelve bytes");
        for end in 0..whole.len() {
            let read = batch(&[whole[..end].to_vec()]);
            assert_eq!(read.messages().count(), 0, "{end}");
        }
    }

    #[test]
    fn many_verdicts_are_told_in_whole_pieces() {
        let mut verdicts = Verdicts::default();
        (0..5000).for_each(|id| verdicts.accept(5, id, 1));
        let (all, mut told) = (verdicts.0.clone(), Vec::new());
        while let Some(piece) = verdicts.piece().map(<[u8]>::to_vec) {
            assert!(piece.len() <= TOLD_MAX && head(&piece).is_some());
            verdicts.0.drain(..piece.len());
            told.extend(piece);
        }
        assert_eq!((told, verdicts.is_empty()), (all, true));
    }

    #[test]
    fn a_verdict_says_the_queue_the_packet_and_the_mark() {
        let mut verdicts = Verdicts::default();
        verdicts.accept(0x0506, 9, 0x1234_5678);
        let accepted = verdicts.0.len();
        verdicts.drop(0x0506, 10);
        let (length, kind) = head(&verdicts.0).unwrap();
        assert_eq!((length, kind), (accepted, VERDICT));
        assert_eq!(verdicts.0[HEADER + 2..HEADER + 4], [5, 6]);
        let attributes = &verdicts.0[HEADER + FAMILY..accepted];
        assert_eq!(attribute(attributes, VERDICT_HEADER).unwrap(), [0, 0, 0, 1, 0, 0, 0, 9]);
        assert_eq!(attribute(attributes, MARK).unwrap(), [0x12, 0x34, 0x56, 0x78]);
        let dropped = &verdicts.0[accepted + HEADER + FAMILY..];
        assert_eq!(attribute(dropped, VERDICT_HEADER).unwrap(), [0, 0, 0, 0, 0, 0, 0, 10]);
        assert_eq!(attribute(dropped, MARK), None);
    }
}
