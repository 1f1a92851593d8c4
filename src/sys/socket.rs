//! Accepting in one call.

use std::ffi::c_int;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use socket2::{Domain, Socket, Type};

/// Takes one connection from a listener of TCP, without waiting: a socket that never waits, and its
/// peer.
///
/// # Errors
/// `WouldBlock` where there is none, or what accept4(2) says.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, SocketAddr)> {
    let mut peer = [0_u8; size_of::<libc::sockaddr_in6>()];
    let mut length = libc::socklen_t::try_from(peer.len()).map_err(io::Error::other)?;
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: `peer` and `length` describe the room for an address, longer than an IPv4 one.
    let fd = unsafe {
        libc::accept4(listener.as_raw_fd(), peer.as_mut_ptr().cast(), &raw mut length, flags)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: accept4 made the descriptor, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let peer = peer_of(&peer).ok_or_else(|| io::Error::from_raw_os_error(libc::EPROTO))?;
    Ok((socket, peer))
}

/// A `sockaddr_in` or `sockaddr_in6`, as it is but for its scope.
fn peer_of(bytes: &[u8; size_of::<libc::sockaddr_in6>()]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
    let family = u16::from_ne_bytes(*bytes.first_chunk()?);
    let ip: IpAddr = match c_int::from(family) {
        libc::AF_INET => Ipv4Addr::from(*bytes.get(4..)?.first_chunk()?).into(),
        libc::AF_INET6 => Ipv6Addr::from(*bytes.get(8..)?.first_chunk()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Whether a socket is of the network namespace in which this process makes its sockets; one that was
/// passed on may be of another. A kernel that cannot say (before 5.14) has it of this one.
///
/// # Errors
/// Whatever socket(2) says.
pub fn is_of_this_network(socket: BorrowedFd<'_>) -> io::Result<bool> {
    // Of a family that every thread that carries connections may have.
    let own = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    Ok(network(socket) == network(own.as_fd()))
}

/// The number of a socket's network namespace.
fn network(socket: BorrowedFd<'_>) -> Option<u64> {
    let mut number = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of_val(&number)).ok()?;
    // SAFETY: `number` and `length` describe the room for a number of eight bytes.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut number).cast(),
            &raw mut length,
        )
    };
    (done == 0).then_some(number)
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
