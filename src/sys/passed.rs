//! Sockets that the service manager opened and passed on.

use std::ffi::c_int;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The sockets that the service manager passed, by name.
#[derive(Debug, Default)]
pub struct Passed {
    /// Listening TCP sockets.
    pub listeners: Vec<(String, TcpListener)>,
    /// UDP sockets.
    pub datagrams: Vec<(String, UdpSocket)>,
}

/// The sockets that the service manager passed (sd_listen_fds(3)). They can be taken once; a second
/// call finds none. Passed descriptors of other kinds are closed. `front`: they were passed to this
/// process, which started this one and passed them on.
///
/// # Errors
/// Where the environment that describes them makes no sense.
pub fn inherited(front: Option<u32>) -> io::Result<Passed> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let mut passed = Passed::default();
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(passed);
    }
    let described: Vec<(RawFd, String)> = match front {
        None => sd_notify::listen_fds_with_names()?.collect(),
        Some(front) => passed_on(front)?,
    };
    for (fd, name) in described {
        // SAFETY: LISTEN_PID names this process, or the one in front of it that passed on its
        // descriptors, so that they are its own, and nobody else closes them: this is the one place
        // that takes them, once.
        let owned = unsafe { OwnedFd::from_raw_fd(fd) };
        if is_tcp_listener(fd) {
            passed.listeners.push((name, TcpListener::from(owned)));
        } else if is_udp(fd) {
            passed.datagrams.push((name, UdpSocket::from(owned)));
        }
    }
    Ok(passed)
}

/// What the environment of the process in front says of its descriptors: they are inherited as they
/// were.
fn passed_on(front: u32) -> io::Result<Vec<(RawFd, String)>> {
    const FIRST: RawFd = 3;
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(front) {
        return Ok(Vec::new());
    }
    let count = number("LISTEN_FDS").and_then(|count| RawFd::try_from(count).ok()).unwrap_or(0);
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let described = (FIRST..FIRST + count).map(|fd| {
        let known = option(fd, libc::SO_TYPE).is_some();
        let name = names.next().unwrap_or_default().to_owned();
        known.then_some((fd, name)).ok_or_else(|| io::Error::other("a socket was not passed on"))
    });
    described.collect()
}

fn is_internet(fd: RawFd) -> bool {
    matches!(option(fd, libc::SO_DOMAIN), Some(libc::AF_INET | libc::AF_INET6))
}

fn is_udp(fd: RawFd) -> bool {
    is_internet(fd) && option(fd, libc::SO_PROTOCOL) == Some(libc::IPPROTO_UDP)
}

fn is_tcp_listener(fd: RawFd) -> bool {
    is_internet(fd)
        && option(fd, libc::SO_PROTOCOL) == Some(libc::IPPROTO_TCP)
        && option(fd, libc::SO_ACCEPTCONN) == Some(1)
}

/// An integer option of level SOL_SOCKET.
fn option(fd: RawFd, name: c_int) -> Option<c_int> {
    let mut value: c_int = 0;
    let mut length = libc::socklen_t::try_from(size_of::<c_int>()).ok()?;
    // SAFETY: `value` and `length` describe one integer; a wrong `fd` is an error, not a fault.
    let done = unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, name, (&raw mut value).cast(), &raw mut length)
    };
    (done == 0).then_some(value)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn only_a_listening_tcp_socket_is_taken_for_one() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let datagrams = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        assert!(is_tcp_listener(listener.as_raw_fd()));
        assert!(!is_tcp_listener(stream.as_raw_fd()));
        assert!(!is_tcp_listener(datagrams.as_raw_fd()));
        assert!(!is_tcp_listener(-1));
        assert!(is_udp(datagrams.as_raw_fd()));
        assert!(!is_udp(listener.as_raw_fd()) && !is_udp(-1));
    }
}
