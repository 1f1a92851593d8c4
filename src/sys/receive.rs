//! Reading a TCP socket in one call that also says whether anything is left to read.

use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::net::{RecvFlags, recv};

use super::message::{self, Control};
use super::options::switch_on;

/// One read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes that were read; 0 is the end of the stream.
    pub bytes: usize,
    /// Bytes that can be read at once; an end that has come counts as one. `None` where the kernel
    /// does not say, which needs [`tell_left`] on the socket, or on the listener that it came from.
    pub left: Option<usize>,
}

/// Has [`receive`] say what is left (`TCP_INQ`, Linux 4.18). Sockets inherit it from a listener.
///
/// # Errors
/// The kernel does not know the option, or the socket is not one of TCP.
pub fn tell_left(socket: BorrowedFd<'_>) -> io::Result<()> {
    switch_on(socket, libc::IPPROTO_TCP, libc::TCP_INQ)
}

/// Room for one control message that holds an integer.
type Left = Control<64>;

/// Reads into `buffer` without waiting. A short read alone does not say that nothing is left: a
/// read stops at an urgent byte.
///
/// # Errors
/// `WouldBlock`, or what recvmsg(2) says of the connection.
pub fn receive(from: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = Left::EMPTY;
    let bytes = message::receive(from, buffer, None, &mut control, libc::MSG_DONTWAIT)?;
    let left = control.integer(libc::IPPROTO_TCP, libc::TCP_INQ);
    let left = left.and_then(|count| usize::try_from(count).ok());
    Ok(Received { bytes, left })
}

/// Bytes that were sent and that the peer's kernel has not acknowledged (SIOCOUTQ, tcp(7)); a FIN
/// counts as one.
///
/// # Errors
/// The socket is not one of TCP, or listens.
pub fn unacknowledged(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: the request writes one integer, for which `count` is the place.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    usize::try_from(count).map_err(io::Error::other)
}

/// The shortest round trip that the kernel measured on a connection, in microseconds (`tcpi_min_rtt`,
/// Linux 4.6); `None` before the first.
///
/// # Errors
/// The socket is none of TCP.
pub fn shortest_round_trip(socket: BorrowedFd<'_>) -> io::Result<Option<NonZeroU32>> {
    /// Where the field is in `struct tcp_info` of linux/tcp.h, in words; what comes later is cut off.
    const AT: usize = 37;
    let mut words = [0_u32; AT + 1];
    let mut length = libc::socklen_t::try_from(size_of_val(&words)).map_err(io::Error::other)?;
    // SAFETY: `words` has room for `length` bytes, and takes every pattern of bits.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            words.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    let [.., time] = words;
    // An older kernel fills less; a connection without a sample has the largest number.
    let is_there = length as usize == size_of_val(&words) && time != u32::MAX;
    Ok(NonZeroU32::new(time).filter(|_| is_there))
}

/// The first byte that can be read, left where it is, without waiting; `None` at the end.
///
/// # Errors
/// `WouldBlock`, or what recv(2) says of the connection.
pub fn first_byte(from: BorrowedFd<'_>) -> io::Result<Option<u8>> {
    let mut byte = [0_u8];
    let (read, _) = recv(from, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
    Ok((read > 0).then_some(byte[0]))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;

    /// The accepted side has what its listener had.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        tell_left(listener.as_fd()).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn what_is_left_is_told_to_the_byte() {
        let (mut client, server) = pair();
        client.write_all(b"0123456789").unwrap();
        let mut buffer = [0; 4];
        assert_eq!(receive(server.as_fd(), &mut buffer).unwrap().left, Some(6));
        assert_eq!(&buffer, b"0123");
        let mut buffer = [0; 64];
        let all = receive(server.as_fd(), &mut buffer).unwrap();
        assert_eq!(all, Received { bytes: 6, left: Some(0) });
        let nothing = receive(server.as_fd(), &mut buffer).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn what_the_peer_has_acknowledged_is_told_though_nobody_read_it() {
        let (mut client, server) = pair();
        // More than the peer's kernel takes while nobody reads there.
        client.set_nonblocking(true).unwrap();
        let block = [0; 65_536];
        while client.write(&block).is_ok() {}
        assert!(unacknowledged(client.as_fd()).unwrap() > 0);
        server.set_nonblocking(true).unwrap();
        let mut buffer = vec![0; 1_000_000];
        let mut rounds = 0;
        while unacknowledged(client.as_fd()).unwrap() > 0 {
            drop(receive(server.as_fd(), &mut buffer));
            rounds += 1;
            assert!(rounds < 10_000_000, "never acknowledged");
        }
        let (mut small, peer) = pair();
        small.write_all(b"x").unwrap();
        peer.peek(&mut [0]).unwrap();
        assert_eq!(unacknowledged(small.as_fd()).unwrap(), 0, "acknowledged, and not yet read");
    }

    #[test]
    fn an_end_that_has_come_is_something_left() {
        let (mut client, server) = pair();
        client.write_all(b"bye").unwrap();
        drop(client);
        let mut buffer = [0; 64];
        let all = receive(server.as_fd(), &mut buffer).unwrap();
        assert_eq!(all, Received { bytes: 3, left: Some(1) });
        assert_eq!(receive(server.as_fd(), &mut buffer).unwrap().bytes, 0);
    }

    #[test]
    fn the_first_byte_stays() {
        let (mut client, server) = pair();
        let nothing = first_byte(server.as_fd()).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        client.write_all(b"xy").unwrap();
        drop(client);
        server.peek(&mut [0]).unwrap();
        for _ in 0..2 {
            assert_eq!(first_byte(server.as_fd()).unwrap(), Some(b'x'));
        }
        while receive(server.as_fd(), &mut [0; 8]).unwrap().bytes > 0 {}
        assert_eq!(first_byte(server.as_fd()).unwrap(), None);
    }

    #[test]
    fn without_the_option_nothing_is_said() {
        let (client, mut server) = pair();
        server.write_all(b"x").unwrap();
        let read = receive(client.as_fd(), &mut [0; 64]).unwrap();
        assert_eq!(read, Received { bytes: 1, left: None });
    }
}
