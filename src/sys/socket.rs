//! Accepting in one call.

use std::ffi::c_int;
use std::io;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Takes one connection from a listener of TCP, without waiting: a socket that never waits, and its
/// peer.
///
/// # Errors
/// `WouldBlock` where there is none, or what accept4(2) says.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, SocketAddr)> {
    // SAFETY: a socket address of zeros is a valid one.
    let mut peer: libc::sockaddr_in6 = unsafe { mem::zeroed() };
    let mut length = libc::socklen_t::try_from(size_of_val(&peer)).map_err(io::Error::other)?;
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: `peer` and `length` describe the room for an address, longer than an IPv4 one.
    let fd = unsafe {
        libc::accept4(listener.as_raw_fd(), (&raw mut peer).cast(), &raw mut length, flags)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: accept4 made the descriptor, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    match c_int::from(peer.sin6_family) {
        libc::AF_INET => {
            // SAFETY: of this family, the kernel wrote a sockaddr_in, which is shorter.
            let v4 = unsafe { (&raw const peer).cast::<libc::sockaddr_in>().read_unaligned() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Ok((socket, SocketAddr::from((ip, u16::from_be(v4.sin_port)))))
        }
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(peer.sin6_addr.s6_addr);
            Ok((socket, SocketAddr::from((ip, u16::from_be(peer.sin6_port)))))
        }
        _ => Err(io::Error::from_raw_os_error(libc::EPROTO)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn an_accepted_socket_never_waits_and_knows_its_peer() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(at).unwrap();
            listener.set_nonblocking(true).unwrap();
            let none = accept(listener.as_fd()).unwrap_err();
            assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (socket, peer) = accept(listener.as_fd()).unwrap();
            assert_eq!(peer, client.local_addr().unwrap());
            let server = TcpStream::from(socket);
            let nothing = server.peek(&mut [0]).unwrap_err();
            assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        }
    }
}
