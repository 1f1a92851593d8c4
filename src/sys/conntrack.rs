//! The connections that the kernel follows (nf_conntrack), by its own messages (ctnetlink): what
//! `conntrack -L`, `-U` and `-E` do, without that program.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::Socket;

use super::message::{Control, Name, receive_batch};
use super::netfilter::{NEST, message, open};
use super::netlink::{DONE, DUMP, ERROR, HEADER, READ_MAX, REQUEST, attribute, head, put};
use super::options;

/// `NFNL_SUBSYS_CTNETLINK << 8` with `IPCTNL_MSG_CT_NEW`, `_GET`, `_DELETE`.
const NEW: u16 = 0x0100;
const GET: u16 = 0x0101;
const DELETE: u16 = 0x0102;
/// `NLM_F_ACK`.
const ACK: u16 = 0x0004;
/// Bytes of `struct nfgenmsg`.
const FAMILY: usize = 4;
/// Attributes of a connection: its addresses as they were first asked for, what its protocol knows,
/// how long it is kept, its mark, its counters each way, and which bits of a mark are asked for.
const ORIGINAL: u16 = 1;
const PROTOCOL_INFO: u16 = 4;
const TIMEOUT: u16 = 7;
const MARK: u16 = 8;
const COUNTERS: [u16; 2] = [9, 10];
const MARK_MASK: u16 = 21;
/// Within the addresses: those of IP, and those of the transport.
const OF_IP: u16 = 1;
const OF_TRANSPORT: u16 = 2;
const V4: [u16; 2] = [1, 2];
const V6: [u16; 2] = [3, 4];
const NUMBER: u16 = 1;
const PORTS: [u16; 2] = [2, 3];
/// Within counters: bytes. Within [`PROTOCOL_INFO`]: that of TCP, and in it the state.
const BYTES: u16 = 2;
const OF_TCP: u16 = 1;
const STATE: u16 = 1;

/// `NFNLGRP_CONNTRACK_DESTROY`.
const ENDS: libc::c_int = 3;
/// Room for messages that were not read yet.
const RECEIVE_BUFFER: libc::c_int = 16 << 20;
/// Connections in one request: each has two answers, of some four kilobytes as the kernel counts.
const AT_ONCE: usize = 256;
/// Messages in one read, and the room for each.
const COUNT: usize = 32;
const SLOT: usize = 1024;
/// Reads of events before others have their turn.
const READS: usize = 64;
/// Reads for one list, at most.
const READS_MAX: usize = 1 << 20;

/// A flow of TCP or UDP by the addresses that its client first used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    pub protocol: u8,
    /// The client.
    pub client: SocketAddr,
    /// Where it wanted to go.
    pub destination: SocketAddr,
}

/// A connection as the kernel knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tracked {
    /// Its addresses.
    pub key: FlowKey,
    /// Its mark; 0 where it has none.
    pub mark: u32,
    /// Bytes of whole packets, IP headers included, from the client and to it; `None` where the kernel
    /// did not count (`net.netfilter.nf_conntrack_acct`).
    pub bytes: Option<[u64; 2]>,
    /// The state of TCP (`enum tcp_conntrack`).
    pub tcp_state: Option<u8>,
}

/// Asks about connections, and changes their marks.
#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
    buffer: Vec<u8>,
    /// Number of the next question: an answer to an earlier one is known by it.
    next: u32,
}

impl Conntrack {
    /// Opens the way to the kernel.
    ///
    /// # Errors
    /// No socket is to be had.
    pub fn open() -> io::Result<Self> {
        let socket = open()?;
        options::set(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER)?;
        Ok(Self { socket, buffer: vec![0; READ_MAX], next: 1 })
    }

    /// Every connection whose mark, of the bits in `mask`, is `mark`.
    ///
    /// # Errors
    /// Without CAP_NET_ADMIN, or where the kernel cannot be asked; never a partial list.
    pub fn list(&mut self, mark: u32, mask: u32) -> io::Result<Vec<Tracked>> {
        let mut attributes = Vec::new();
        put(&mut attributes, MARK, &mark.to_be_bytes());
        put(&mut attributes, MARK_MASK, &mask.to_be_bytes());
        self.socket.send(&message(GET, DUMP, [0, 0], [0, 0], &attributes))?;
        let mut found = Vec::new();
        for _ in 0..READS_MAX {
            let length = self.socket.read(&mut self.buffer)?;
            let mut rest = self.buffer.get(..length).unwrap_or_default();
            while let Some((length, kind)) = head(rest) {
                let message = rest.get(HEADER..length).ok_or(io::ErrorKind::InvalidData)?;
                match kind {
                    DONE => return Ok(found),
                    ERROR => fault(message).map_or(Ok(()), Err)?,
                    NEW => found.extend(tracked(message).filter(|it| it.mark & mask == mark)),
                    _ => {}
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
        Err(io::Error::other("the kernel's list of connections has no end"))
    }

    /// Gives connections another mark; of each what it is then, `None` where the kernel knows it no more.
    /// With `keep`, one of TCP is forgotten after that time, and one of UDP at once: its client may go on
    /// for ever from the same port, and every datagram would keep it.
    ///
    /// # Errors
    /// Without CAP_NET_ADMIN, or where the kernel cannot be asked: some may have the mark.
    pub fn mark(
        &mut self,
        keys: &[FlowKey],
        mark: u32,
        keep: Option<Duration>,
    ) -> io::Result<Vec<Option<Tracked>>> {
        let mut found = Vec::with_capacity(keys.len());
        for keys in keys.chunks(AT_ONCE) {
            let from = found.len();
            found.resize(from + keys.len(), None);
            let begin = self.next;
            let questions = u32::try_from(3 * keys.len()).unwrap_or(u32::MAX);
            self.next = begin.wrapping_add(questions);
            let (mut ask, mut awaited) = (Vec::new(), 0_usize);
            for (at, key) in keys.iter().enumerate() {
                let addresses = addresses(key);
                let mut change = addresses.clone();
                put(&mut change, MARK, &mark.to_be_bytes());
                if let Some(keep) = keep {
                    let seconds = u32::try_from(keep.as_secs()).unwrap_or(u32::MAX);
                    put(&mut change, TIMEOUT, &seconds.to_be_bytes());
                }
                let family = [family(key), 0];
                // The number says which question an answer is to: of those about a connection, the
                // second is to be told what is there.
                let forgets = keep.is_some() && i32::from(key.protocol) == libc::IPPROTO_UDP;
                let forget = forgets.then_some((DELETE, REQUEST | ACK, &addresses, 2));
                let asked = [(NEW, REQUEST | ACK, &change, 0), (GET, REQUEST, &addresses, 1)];
                for (kind, flags, body, question) in asked.into_iter().chain(forget) {
                    awaited += 1;
                    let mut message = message(kind, flags, family, [0, 0], body);
                    let number = u32::try_from(3 * at + question).unwrap_or(u32::MAX);
                    message.splice(8..12, begin.wrapping_add(number).to_ne_bytes());
                    ask.extend(message);
                }
            }
            self.socket.send(&ask)?;
            let mut refused = None;
            while awaited > 0 {
                let length = self.socket.read(&mut self.buffer)?;
                let mut rest = self.buffer.get(..length).unwrap_or_default();
                while let Some((length, kind)) = head(rest) {
                    let number = rest.get(8..).and_then(|rest| rest.first_chunk()).copied();
                    let number = number.map_or(u32::MAX, u32::from_ne_bytes).wrapping_sub(begin);
                    let message = rest.get(HEADER..length).ok_or(io::ErrorKind::InvalidData)?;
                    rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                    if number >= questions {
                        continue;
                    }
                    awaited = awaited.saturating_sub(1);
                    match kind {
                        ERROR => {
                            let gone =
                                |fault: &io::Error| fault.raw_os_error() == Some(libc::ENOENT);
                            refused =
                                refused.or_else(|| fault(message).filter(|fault| !gone(fault)));
                        }
                        NEW => {
                            if let Some(place) = found.get_mut(from + number as usize / 3) {
                                *place = tracked(message);
                            }
                        }
                        _ => {}
                    }
                }
            }
            if let Some(fault) = refused {
                return Err(fault);
            }
        }
        Ok(found)
    }
}

/// What has come of waiting for events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Some, or none within the time.
    All,
    /// The kernel had no room for some, and told of them to nobody.
    Lost,
}

/// Hears which connections the kernel has forgotten.
pub struct ConntrackEnds {
    socket: Socket,
    bytes: Vec<u8>,
    lengths: [usize; COUNT],
    from: [Name; COUNT],
    controls: [Control<0>; COUNT],
}

impl std::fmt::Debug for ConntrackEnds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConntrackEnds").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl ConntrackEnds {
    /// Begins to listen. What the kernel cannot tell at once it tells again later.
    ///
    /// # Errors
    /// Without CAP_NET_ADMIN, or where no socket is to be had.
    pub fn subscribe() -> io::Result<Self> {
        let socket = open()?;
        options::set(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER)?;
        let (level, again) = (libc::SOL_NETLINK, libc::NETLINK_BROADCAST_ERROR);
        options::switch_on(socket.as_fd(), level, again)?;
        // A socket has no address before it has sent something, and without one it is told nothing.
        socket.send(&[&16_u32.to_ne_bytes()[..], &1_u16.to_ne_bytes(), &[0; 10]].concat())?;
        options::set(socket.as_fd(), level, libc::NETLINK_ADD_MEMBERSHIP, ENDS)?;
        Ok(Self {
            socket,
            bytes: vec![0; SLOT * COUNT],
            lengths: [0; COUNT],
            from: [Name::EMPTY; COUNT],
            controls: [Control::EMPTY; COUNT],
        })
    }

    /// Waits for `limit` at most, and shows each connection that was forgotten.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn wait(&mut self, limit: Duration, mut see: impl FnMut(Tracked)) -> io::Result<Heard> {
        let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
        let mut waiting = [PollFd::new(&self.socket, PollFlags::IN)];
        match poll(&mut waiting, Some(&limit)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(Heard::All),
            Ok(_) => {}
            Err(fault) => return Err(fault.into()),
        }
        for _ in 0..READS {
            let taken = receive_batch::<SLOT, 0, COUNT>(
                self.socket.as_fd(),
                &mut self.bytes,
                &mut self.lengths,
                &mut self.from,
                &mut self.controls,
            );
            let taken = match taken {
                Ok(taken) => taken,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Heard::All),
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => return Ok(Heard::Lost),
                Err(fault) => return Err(fault),
            };
            for (slot, length) in self.bytes.chunks_exact(SLOT).zip(&self.lengths).take(taken) {
                let mut rest = slot.get(..*length).unwrap_or_default();
                while let Some((length, kind)) = head(rest) {
                    let message = rest.get(HEADER..length).unwrap_or_default();
                    if kind == DELETE {
                        tracked(message).into_iter().for_each(&mut see);
                    }
                    rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                }
            }
        }
        Ok(Heard::All)
    }
}

/// Whether the kernel counts the bytes of connections of this network: the switch
/// `net.netfilter.nf_conntrack_acct`, which stays open, so that who may open no file can look again.
#[derive(Debug)]
pub struct ConnectionCounting(File);

impl ConnectionCounting {
    /// Finds the switch.
    ///
    /// # Errors
    /// The kernel follows no connections, or nobody may look.
    pub fn find() -> io::Result<Self> {
        File::open("/proc/sys/net/netfilter/nf_conntrack_acct").map(Self)
    }

    /// Whether it is on; what cannot be seen is not.
    #[must_use]
    pub fn is_on(&self) -> bool {
        let mut value = [0; 4];
        let read = self.0.read_at(&mut value, 0).unwrap_or_default();
        value.get(..read).is_some_and(|text| text.trim_ascii() == b"1")
    }
}

/// What an answer says that is none to be glad of; `None` for "done".
fn fault(message: &[u8]) -> Option<io::Error> {
    match message.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
        Some(0) => None,
        Some(code) => Some(io::Error::from_raw_os_error(code.wrapping_neg())),
        None => Some(io::ErrorKind::InvalidData.into()),
    }
}

const fn family(key: &FlowKey) -> u8 {
    match key.client {
        SocketAddr::V4(_) => libc::AF_INET as u8,
        SocketAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

fn addresses(key: &FlowKey) -> Vec<u8> {
    let mut ip = Vec::new();
    let mut transport = Vec::new();
    put(&mut transport, NUMBER, &[key.protocol]);
    for (at, end) in [key.client, key.destination].into_iter().enumerate() {
        match end.ip() {
            IpAddr::V4(address) => put(&mut ip, V4[at], &address.octets()),
            IpAddr::V6(address) => put(&mut ip, V6[at], &address.octets()),
        }
        put(&mut transport, PORTS[at], &end.port().to_be_bytes());
    }
    let mut both = Vec::new();
    put(&mut both, OF_IP | NEST, &ip);
    put(&mut both, OF_TRANSPORT | NEST, &transport);
    let mut addresses = Vec::new();
    put(&mut addresses, ORIGINAL | NEST, &both);
    addresses
}

/// A connection of TCP or UDP; `None` for one of anything else.
fn tracked(message: &[u8]) -> Option<Tracked> {
    let attributes = message.get(FAMILY..)?;
    let original = attribute(attributes, ORIGINAL)?;
    let (ip, transport) = (attribute(original, OF_IP)?, attribute(original, OF_TRANSPORT)?);
    let protocol = *attribute(transport, NUMBER)?.first()?;
    if ![libc::IPPROTO_TCP, libc::IPPROTO_UDP].contains(&protocol.into()) {
        return None;
    }
    let end = |at: usize| {
        let four = attribute(ip, V4[at]).and_then(|bytes| bytes.first_chunk());
        let six = attribute(ip, V6[at]).and_then(|bytes| bytes.first_chunk());
        let address = four
            .map(|octets: &[u8; 4]| IpAddr::from(Ipv4Addr::from(*octets)))
            .or_else(|| six.map(|octets: &[u8; 16]| Ipv6Addr::from(*octets).into()))?;
        let port = u16::from_be_bytes(*attribute(transport, PORTS[at])?.first_chunk()?);
        Some(SocketAddr::new(address, port))
    };
    let key = FlowKey { protocol, client: end(0)?, destination: end(1)? };
    let mark = attribute(attributes, MARK).and_then(|bytes| bytes.first_chunk());
    let count = |which| {
        let bytes = attribute(attribute(attributes, which)?, BYTES)?;
        Some(u64::from_be_bytes(*bytes.first_chunk()?))
    };
    let counted = (count(COUNTERS[0]), count(COUNTERS[1]));
    let bytes = match counted {
        (Some(up), Some(down)) => Some([up, down]),
        _ => None,
    };
    let info = attribute(attributes, PROTOCOL_INFO).and_then(|info| attribute(info, OF_TCP));
    let tcp_state = info.and_then(|tcp| attribute(tcp, STATE)?.first().copied());
    Some(Tracked { key, mark: mark.map_or(0, |m| u32::from_be_bytes(*m)), bytes, tcp_state })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(client: &str, destination: &str) -> FlowKey {
        let [client, destination] = [client, destination].map(|text| text.parse().unwrap());
        FlowKey { protocol: 6, client, destination }
    }

    fn shown(key: &FlowKey) -> Vec<u8> {
        let mut body = vec![family(key), 0, 0, 0];
        body.extend(addresses(key));
        put(&mut body, MARK, &0x534c_0103_u32.to_be_bytes());
        for (which, bytes) in COUNTERS.into_iter().zip([273_u64, 278]) {
            let mut counters = Vec::new();
            put(&mut counters, 1, &5_u64.to_be_bytes());
            put(&mut counters, BYTES, &bytes.to_be_bytes());
            put(&mut body, which | NEST, &counters);
        }
        let mut tcp = Vec::new();
        put(&mut tcp, STATE, &[7]);
        let mut info = Vec::new();
        put(&mut info, OF_TCP | NEST, &tcp);
        put(&mut body, PROTOCOL_INFO | NEST, &info);
        body
    }

    #[test]
    fn what_is_asked_about_is_read_back_in_both_families() {
        for key in [
            key("192.0.2.2:40000", "198.51.100.7:443"),
            key("[2001:db8::2]:40000", "[2001:db8::7]:443"),
        ] {
            let bytes = Some([273, 278]);
            let wanted = Tracked { key, mark: 0x534c_0103, bytes, tcp_state: Some(7) };
            assert_eq!(tracked(&shown(&key)), Some(wanted));
        }
    }

    #[test]
    fn what_is_not_counted_is_not_zero() {
        let key = key("192.0.2.2:40000", "198.51.100.7:443");
        let mut body = vec![family(&key), 0, 0, 0];
        body.extend(addresses(&key));
        let found = tracked(&body).unwrap();
        assert_eq!((found.bytes, found.mark, found.tcp_state), (None, 0, None));
    }

    #[test]
    fn other_protocols_and_what_is_cut_off_are_none() {
        let key = key("192.0.2.2:40000", "198.51.100.7:443");
        assert_eq!(tracked(&shown(&FlowKey { protocol: 1, ..key })), None);
        let whole = shown(&key);
        for end in 0..addresses(&key).len() + FAMILY {
            assert_eq!(tracked(&whole[..end]), None, "{end}");
        }
    }
}
