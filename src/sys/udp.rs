//! Datagrams with what the plain calls leave out: the original destination (TPROXY), a source that
//! is not the socket's own, and runs of datagrams in one call (UDP_GRO, UDP_SEGMENT).

use std::ffi::c_int;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::sockopt::{ip_mtu, ipv6_mtu};

pub use super::descriptors::descriptor_limit;
use super::message::{self, Name};
use super::options::set;

/// The longest UDP payload, and the most bytes of one run of datagrams.
pub const RUN_MAX: usize = 65_535;

/// Datagrams that one [`RecvBatch::receive`] takes at most.
pub const BATCH: usize = 16;

/// Datagrams of one run that the kernel takes at most (UDP_MAX_SEGMENTS of kernels before 6.9).
const SEGMENTS_MAX: usize = 64;

/// Room for ancillary data: an original destination or a source address, and a segment size.
type Control = message::Control<120>;

/// Room for a batch of datagrams that arrive on a transparent listener.
#[derive(Debug)]
pub struct RecvBatch {
    /// [`BATCH`] slots of [`RUN_MAX`] bytes.
    buffer: Vec<u8>,
    datagrams: Vec<Datagram>,
}

/// One datagram that arrived on a transparent listener.
#[derive(Debug, Clone, Copy)]
pub struct Datagram {
    /// Who sent it, in canonical form.
    pub from: Option<SocketAddr>,
    /// Where it was going, in canonical form; `None` where the kernel did not tell.
    pub to: Option<SocketAddr>,
    slot: usize,
    len: usize,
}

/// A run of datagrams from one sender: all of `segment` bytes, but the last may be shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Bytes of all of them.
    pub len: usize,
    /// Bytes of each; `len` where there is but one.
    pub segment: usize,
    /// Who sent them, in canonical form.
    pub from: Option<SocketAddr>,
}

/// Asks for the original destination of each datagram. An IPv6 socket is asked for both families.
///
/// # Errors
/// As setsockopt(2).
pub fn want_origin(socket: &impl AsFd, v6: bool) -> io::Result<()> {
    if v6 {
        set(socket.as_fd(), libc::SOL_IPV6, libc::IPV6_RECVORIGDSTADDR, 1)?;
    }
    set(socket.as_fd(), libc::SOL_IP, libc::IP_RECVORIGDSTADDR, 1)
}

/// Asks for runs of datagrams instead of single ones.
///
/// # Errors
/// As setsockopt(2); a kernel before 5.0 knows no such option.
pub fn want_runs(socket: &impl AsFd) -> io::Result<()> {
    set(socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1)
}

/// Has every datagram of a socket leave in one piece, or not at all (`EMSGSIZE`): IPv4 with "don't
/// fragment" set, either family without regard to what routers said of the path, which is for the
/// sender to know (IP_PMTUDISC_PROBE; RFC 9000 §14).
///
/// # Errors
/// As setsockopt(2).
pub fn keep_whole(socket: &impl AsFd, v6: bool) -> io::Result<()> {
    cut(socket.as_fd(), v6, libc::IP_PMTUDISC_PROBE)
}

fn cut(socket: BorrowedFd<'_>, v6: bool, how: c_int) -> io::Result<()> {
    // The values are the same for both families.
    if v6 {
        set(socket, libc::SOL_IPV6, libc::IPV6_MTU_DISCOVER, how)
    } else {
        set(socket, libc::SOL_IP, libc::IP_MTU_DISCOVER, how)
    }
}

/// Sends one datagram of a connected socket in fragments, where it is longer than a packet may be.
///
/// # Errors
/// As setsockopt(2) and sendmsg(2).
pub fn send_in_pieces(socket: &impl AsFd, v6: bool, datagram: &[u8]) -> io::Result<()> {
    let socket = socket.as_fd();
    cut(socket, v6, libc::IP_PMTUDISC_DONT)?;
    let sent = send_once(socket, datagram, None, None, None);
    cut(socket, v6, libc::IP_PMTUDISC_PROBE)?;
    sent
}

/// The longest packet, headers included, on the path of a connected socket, in bytes.
///
/// # Errors
/// As getsockopt(2).
pub fn mtu(socket: &impl AsFd, v6: bool) -> io::Result<usize> {
    let bytes = if v6 { ipv6_mtu(socket)? } else { ip_mtu(socket)? };
    usize::try_from(bytes).map_err(io::Error::other)
}

/// Keeps what ICMP says of a socket's datagrams for [`told`].
///
/// # Errors
/// As setsockopt(2).
pub fn want_errors(socket: &impl AsFd, v6: bool) -> io::Result<()> {
    if v6 {
        set(socket.as_fd(), libc::SOL_IPV6, libc::IPV6_RECVERR, 1)
    } else {
        set(socket.as_fd(), libc::SOL_IP, libc::IP_RECVERR, 1)
    }
}

/// What ICMP said of a datagram that a socket sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// The type of the message, of the socket's family; `None` where it was not ICMP.
    pub kind: Option<u8>,
    /// Its code.
    pub code: u8,
    /// The MTU, in a "packet too big".
    pub mtu: u32,
    /// Bytes of the datagram that the message held.
    pub quoted: usize,
}

/// Takes the next of what ICMP said (IP_RECVERR), without waiting.
///
/// # Errors
/// As recvmsg(2); `WouldBlock` where nothing was said.
pub fn told(socket: &impl AsFd) -> io::Result<Told> {
    let mut quoted = [0_u8; 2048];
    let mut control = Control::EMPTY;
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    let quoted = message::receive(socket.as_fd(), &mut quoted, None, &mut control, flags)?;
    let mut told = Told { kind: None, code: 0, mtu: 0, quoted };
    for (level, kind, data) in control.messages() {
        let ours = (level, kind) == (libc::SOL_IP, libc::IP_RECVERR)
            || (level, kind) == (libc::SOL_IPV6, libc::IPV6_RECVERR);
        // struct sock_extended_err: errno (4), origin, type, code, padding, info (4).
        if ours
            && let Some([_, _, _, _, origin, kind, code, _, info @ ..]) = data.first_chunk::<12>()
        {
            let icmp = [libc::SO_EE_ORIGIN_ICMP, libc::SO_EE_ORIGIN_ICMP6].contains(origin);
            told.kind = icmp.then_some(*kind);
            told.code = *code;
            told.mtu = u32::from_ne_bytes(*info);
        }
    }
    Ok(told)
}

/// The ports that the kernel hands out (net.ipv4.ip_local_port_range, for both families); its own
/// default where that cannot be read.
#[must_use]
pub fn local_ports() -> RangeInclusive<u16> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().map_while(|number| number.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(first), Some(last)) if first <= last => first..=last,
        _ => 32_768..=60_999,
    }
}

impl Default for RecvBatch {
    fn default() -> Self {
        // Pages of it are taken as datagrams come in.
        Self { buffer: vec![0; BATCH * RUN_MAX], datagrams: Vec::with_capacity(BATCH) }
    }
}

impl RecvBatch {
    /// Takes what has arrived, without waiting, and says how many datagrams that are.
    ///
    /// # Errors
    /// As recvmmsg(2); `WouldBlock` where nothing has arrived.
    pub fn receive(&mut self, socket: &impl AsFd) -> io::Result<usize> {
        self.datagrams.clear();
        let (mut lengths, mut from) = ([0; BATCH], [Name::EMPTY; BATCH]);
        let mut controls = [Control::EMPTY; BATCH];
        let taken = message::receive_batch::<RUN_MAX, _, _>(
            socket.as_fd(),
            &mut self.buffer,
            &mut lengths,
            &mut from,
            &mut controls,
        )?;
        let arrived = lengths.iter().zip(&from).zip(&controls);
        for (slot, ((length, from), control)) in arrived.enumerate().take(taken) {
            let (from, to, len) = (from.address(), origin(control), (*length).min(RUN_MAX));
            self.datagrams.push(Datagram { from, to, slot, len });
        }
        Ok(taken)
    }

    /// The datagrams that the last [`RecvBatch::receive`] took, in order.
    pub fn datagrams(&self) -> impl Iterator<Item = (Datagram, &[u8])> {
        self.datagrams.iter().map(|datagram| {
            let start = datagram.slot * RUN_MAX;
            (*datagram, self.buffer.get(start..start + datagram.len).unwrap_or_default())
        })
    }
}

/// Takes one run of datagrams, without waiting.
///
/// # Errors
/// As recvmsg(2); `WouldBlock` where nothing has arrived.
pub fn receive(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<Run> {
    let (mut from, mut control) = (Name::EMPTY, Control::EMPTY);
    let (socket, flags) = (socket.as_fd(), libc::MSG_DONTWAIT);
    let len = message::receive(socket, buffer, Some(&mut from), &mut control, flags)?;
    let mut segment = len;
    for (level, kind, data) in control.messages() {
        if (level, kind) == (libc::SOL_UDP, libc::UDP_GRO)
            && let Some(size) = data.first_chunk().map(|bytes| c_int::from_ne_bytes(*bytes))
        {
            segment = usize::try_from(size).unwrap_or(len).clamp(1, len.max(1));
        }
    }
    Ok(Run { len, segment, from: from.address() })
}

/// Sends a run of datagrams of `segment` bytes, the last of which may be shorter, without waiting.
///
/// `to`: for a socket that is not connected. `source`: the address that they come from, where it is
/// not the socket's own; the socket is transparent then, and its port stays the source port.
/// A run that the kernel or the device cannot cut is sent datagram by datagram.
///
/// # Errors
/// As sendmsg(2). Part of the run may be gone then; datagrams may be lost at any time.
pub fn send(
    socket: &impl AsFd,
    run: &[u8],
    segment: usize,
    to: Option<SocketAddr>,
    source: Option<IpAddr>,
) -> io::Result<()> {
    let socket = socket.as_fd();
    if segment == 0 || run.len() <= segment {
        return send_once(socket, run, None, to, source);
    }
    for part in run.chunks(segment * SEGMENTS_MAX) {
        let cut = if part.len() > segment { u16::try_from(segment).ok() } else { None };
        match send_once(socket, part, cut, to, source) {
            Ok(()) => {}
            // The segment does not fit the route's MTU, or the device computes no checksums.
            Err(e)
                if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EIO | libc::EMSGSIZE)) =>
            {
                for datagram in part.chunks(segment) {
                    send_once(socket, datagram, None, to, source)?;
                }
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn send_once(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    segment: Option<u16>,
    to: Option<SocketAddr>,
    source: Option<IpAddr>,
) -> io::Result<()> {
    let mut control = Control::EMPTY;
    if let Some(segment) = segment {
        control.put(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
    }
    match source {
        Some(IpAddr::V4(ip)) => {
            // struct in_pktinfo: interface, the address to send from, and one for received ones.
            let mut info = [0; 12];
            info[4..8].copy_from_slice(&ip.octets());
            control.put(libc::SOL_IP, libc::IP_PKTINFO, &info);
        }
        Some(IpAddr::V6(ip)) => {
            // struct in6_pktinfo: the address, the interface.
            let mut info = [0; 20];
            info[..16].copy_from_slice(&ip.octets());
            control.put(libc::SOL_IPV6, libc::IPV6_PKTINFO, &info);
        }
        None => {}
    }
    message::send(socket, bytes, to.map(socket2::SockAddr::from).as_ref(), &control)
}

fn origin(control: &Control) -> Option<SocketAddr> {
    let ours = |&(level, kind, _): &(c_int, c_int, &[u8])| {
        (level, kind) == (libc::SOL_IP, libc::IP_ORIGDSTADDR)
            || (level, kind) == (libc::SOL_IPV6, libc::IPV6_ORIGDSTADDR)
    };
    control.messages().find(ours).and_then(|(_, _, data)| message::address(data))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    fn pair(any: &str) -> (UdpSocket, UdpSocket) {
        let (a, b) = (UdpSocket::bind(any).unwrap(), UdpSocket::bind(any).unwrap());
        a.connect(b.local_addr().unwrap()).unwrap();
        b.connect(a.local_addr().unwrap()).unwrap();
        (a, b)
    }

    #[test]
    fn a_run_arrives_as_it_was_sent_in_one_call_or_more() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let (a, b) = pair(any);
            want_runs(&b).unwrap();
            let sent: Vec<u8> = (0..10_500_u32).map(|n| n as u8).collect();
            send(&a, &sent, 1000, None, None).unwrap();
            let mut buffer = vec![0; RUN_MAX];
            let mut got = Vec::new();
            let mut datagrams = 0;
            while got.len() < sent.len() {
                let run = receive(&b, &mut buffer).unwrap();
                assert_eq!(run.from, Some(a.local_addr().unwrap()));
                assert!(run.segment == 1000 || run.len == 500, "{run:?}");
                datagrams += run.len.div_ceil(run.segment);
                got.extend(&buffer[..run.len]);
            }
            assert_eq!((got, datagrams), (sent, 11), "{any}");
            let nothing = receive(&b, &mut buffer).unwrap_err();
            assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        }
    }

    #[test]
    fn a_run_longer_than_the_kernel_takes_at_once_is_cut() {
        let (a, b) = pair("127.0.0.1:0");
        send(&a, &[7; 100], 1, None, None).unwrap();
        let mut buffer = [0; 16];
        let arrived = std::iter::from_fn(|| receive(&b, &mut buffer).ok());
        assert_eq!(arrived.map(|run| run.len).sum::<usize>(), 100);
    }

    #[test]
    fn letters_tell_where_they_were_going() {
        for (listen, to) in
            [("[::]:0", "127.0.0.1"), ("[::]:0", "::1"), ("127.0.0.1:0", "127.0.0.1")]
        {
            let listener = UdpSocket::bind(listen).unwrap();
            let port = listener.local_addr().unwrap().port();
            want_origin(&listener, listen.starts_with('[')).unwrap();
            let to = SocketAddr::new(to.parse().unwrap(), port);
            let client = UdpSocket::bind((to.ip(), 0)).unwrap();
            for n in 0..BATCH as u8 + 3 {
                client.send_to(&[n; 3], to).unwrap();
            }
            let mut batch = RecvBatch::default();
            let mut next = 0;
            while next < BATCH as u8 + 3 {
                batch.receive(&listener).unwrap();
                for (datagram, bytes) in batch.datagrams() {
                    assert_eq!((datagram.from, datagram.to), (client.local_addr().ok(), Some(to)));
                    assert_eq!(bytes, [next; 3]);
                    next += 1;
                }
            }
            let nothing = batch.receive(&listener).unwrap_err();
            assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
            assert_eq!(batch.datagrams().count(), 0);
        }
    }

    #[test]
    fn a_source_of_ones_own_choice_is_the_sender() {
        for (own, source) in [("127.0.0.1", "127.0.0.1"), ("::1", "::1")] {
            let (own, source): (IpAddr, IpAddr) = (own.parse().unwrap(), source.parse().unwrap());
            let any: IpAddr = if own.is_ipv4() { [0, 0, 0, 0].into() } else { [0; 16].into() };
            let sender = UdpSocket::bind((any, 0)).unwrap();
            let receiver = UdpSocket::bind((own, 0)).unwrap();
            let to = receiver.local_addr().unwrap();
            send(&sender, b"abc", 2, Some(to), Some(source)).unwrap();
            let mut buffer = [0; 16];
            let run = receive(&receiver, &mut buffer).unwrap();
            assert_eq!(run.len, 2, "sent as two datagrams");
            let port = sender.local_addr().unwrap().port();
            assert_eq!(run.from, Some(SocketAddr::new(source, port)));
        }
    }
}
