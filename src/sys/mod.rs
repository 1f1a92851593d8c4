//! The only place in which `unsafe` or a raw descriptor may appear.
#![allow(unsafe_code, reason = "what libc offers and no safe crate of the tree does")]

mod memory;
mod pipe;
mod receive;
pub mod udp;

use std::ffi::c_int;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

pub use memory::prefer_huge_pages;
pub use pipe::Pipe;
pub use receive::{Received, receive, tell_left};

/// Gives memory that was freed back to the system: after a load, of which most is freed at once.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes no pointer and may be called from any thread at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Every address of every interface of this host, loopback included, in canonical form.
///
/// # Errors
/// Whatever getifaddrs(3) says; never a partial list.
pub fn local_addresses() -> io::Result<Vec<IpAddr>> {
    let mut head: *mut libc::ifaddrs = ptr::null_mut();
    // SAFETY: `head` is a valid place for the list's first node.
    if unsafe { libc::getifaddrs(&raw mut head) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut found = Vec::new();
    let mut node = head;
    while !node.is_null() {
        // SAFETY: getifaddrs made the list, every `ifa_next` is a node of it or null, and it is
        // freed below, after the last use.
        let entry = unsafe { &*node };
        // SAFETY: `ifa_addr` is null or a socket address of that list.
        found.extend(unsafe { address_of(entry.ifa_addr) });
        node = entry.ifa_next;
    }
    // SAFETY: `head` came from getifaddrs, and no reference into the list is left.
    unsafe { libc::freeifaddrs(head) };
    Ok(found)
}

/// # Safety
/// `address` is null or points to a socket address that is as long as its family says.
unsafe fn address_of(address: *const libc::sockaddr) -> Option<IpAddr> {
    if address.is_null() {
        return None;
    }
    // SAFETY: the caller promises a socket address; each begins with its family.
    let family = c_int::from(unsafe { (*address).sa_family });
    match family {
        libc::AF_INET => {
            // SAFETY: an AF_INET address is a sockaddr_in; read_unaligned asks for no alignment.
            let v4 = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: an AF_INET6 address is a sockaddr_in6; see above.
            let v6 = unsafe { address.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).to_canonical())
        }
        _ => None,
    }
}

/// The sockets that the service manager passed, by name.
#[derive(Debug, Default)]
pub struct Passed {
    /// Listening TCP sockets.
    pub listeners: Vec<(String, TcpListener)>,
    /// UDP sockets.
    pub datagrams: Vec<(String, UdpSocket)>,
}

/// The sockets that the service manager passed (sd_listen_fds(3)). They can be taken once; a second
/// call finds none. Passed descriptors of other kinds are closed.
///
/// # Errors
/// Where the environment that describes them makes no sense.
pub fn inherited() -> io::Result<Passed> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let mut passed = Passed::default();
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(passed);
    }
    for (fd, name) in sd_notify::listen_fds_with_names()? {
        // SAFETY: LISTEN_PID names this process, so that the descriptors are its own, and
        // nobody else closes them: this is the one place that takes them, once.
        let owned = unsafe { OwnedFd::from_raw_fd(fd) };
        if is_tcp_listener(fd) {
            passed.listeners.push((name, TcpListener::from(owned)));
        } else if is_udp(fd) {
            passed.datagrams.push((name, UdpSocket::from(owned)));
        }
    }
    Ok(passed)
}

fn is_internet(fd: RawFd) -> bool {
    matches!(option(fd, libc::SO_DOMAIN), Some(libc::AF_INET | libc::AF_INET6))
}

fn is_udp(fd: RawFd) -> bool {
    is_internet(fd) && option(fd, libc::SO_PROTOCOL) == Some(libc::IPPROTO_UDP)
}

/// Lets a bind to port 0 leave the port to the connect, so that one port serves many destinations
/// (IP_BIND_ADDRESS_NO_PORT; IPv6 sockets take it too).
///
/// # Errors
/// The kernel does not know the option.
pub fn choose_port_at_connect(socket: BorrowedFd<'_>) -> io::Result<()> {
    switch_on(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT)
}

/// Sets an option that is an integer to 1.
fn switch_on(socket: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<()> {
    let on: c_int = 1;
    let length = libc::socklen_t::try_from(size_of_val(&on)).map_err(io::Error::other)?;
    // SAFETY: the pointer and the length describe one integer.
    let done = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const on).cast(), length)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
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

/// The clock that files are stamped by: seconds and nanoseconds since 1970, no later than the stamp
/// of anything that is written from now on.
///
/// # Errors
/// Whatever clock_gettime(2) says.
pub fn file_clock() -> io::Result<(i64, i64)> {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid place for a time.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_REALTIME_COARSE, &raw mut now) };
    if done == 0 { Ok((now.tv_sec, now.tv_nsec)) } else { Err(io::Error::last_os_error()) }
}

/// Lets every other thread go before the calling one: its nice value becomes 10 (setpriority(2); on
/// Linux a nice value is a thread's own).
///
/// # Errors
/// Whatever setpriority(2) says.
pub fn yield_to_others() -> io::Result<()> {
    // SAFETY: no memory is passed; 0 is the calling thread.
    let done = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 10) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn the_loopback_address_is_among_the_local_ones() {
        let found = local_addresses().unwrap();
        assert!(found.contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)), "{found:?}");
    }

    #[test]
    fn only_the_calling_thread_yields() {
        let nice = || {
            // SAFETY: no memory is passed; 0 is the calling thread.
            unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
        };
        let before = nice();
        let other = std::thread::spawn(move || {
            yield_to_others().unwrap();
            nice()
        });
        assert_eq!((other.join().unwrap(), nice()), (10, before));
    }

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
