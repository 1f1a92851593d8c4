//! The only place in which `unsafe` or a raw descriptor may appear.
#![allow(unsafe_code, reason = "what libc offers and no safe crate of the tree does")]

pub mod epoll;
mod links;
mod mapping;
mod memory;
mod netfilter;
mod netlink;
mod news;
mod parent;
mod pipe;
mod receive;
mod route;
mod socket;
mod tun;
pub mod udp;
mod writers;

use std::ffi::c_int;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub use links::{Link, links};
pub use mapping::SharedWords;
pub use memory::{keep_large_blocks_apart, prefer_huge_pages};
pub use netfilter::{Counted, NamedCounter, add_intervals, counters};
pub use news::{News, messages};
pub use parent::{end_with_parent, outlive_parent, signal};
pub use pipe::Pipe;
pub use receive::{Received, first_byte, receive, shortest_round_trip, tell_left, unacknowledged};
pub use route::{
    Act, AddressWatch, RoutingRule, Switches, add_routing_rule, delete_routing_rule,
    deliver_locally, deliver_no_longer, delivers_locally, routing_rules, switches,
};
pub use socket::accept;
pub use tun::Tun;
pub use writers::Writers;

/// The number of the user that this process acts as.
#[must_use]
pub fn user() -> u32 {
    // SAFETY: takes nothing, and cannot fail.
    unsafe { libc::geteuid() }
}

/// The number of a user of this name, from every user database of the system (getpwnam_r(3));
/// `None` where there is none.
///
/// # Errors
/// A database that cannot be read, or a name with a NUL in it.
pub fn user_id(name: &str) -> io::Result<Option<u32>> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: an entry of zeros is a valid one.
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    let mut found: *mut libc::passwd = ptr::null_mut();
    let mut text = vec![0_u8; 1024];
    loop {
        // SAFETY: name, entry, buffer with its length, and the place for the answer are valid for
        // the whole call; of what is found only a number is read.
        let code = unsafe {
            libc::getpwnam_r(
                name.as_ptr(),
                &raw mut entry,
                text.as_mut_ptr().cast(),
                text.len(),
                &raw mut found,
            )
        };
        match code {
            0 => return Ok((!found.is_null()).then_some(entry.pw_uid)),
            libc::ERANGE if text.len() < 1 << 20 => text.resize(2 * text.len(), 0),
            code => return Err(io::Error::from_raw_os_error(code)),
        }
    }
}

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
    set(socket, level, name, 1)
}

fn set(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: the pointer and the length describe one integer.
    let done = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length)
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

/// Lets the process have as many descriptors as it may: the soft limit becomes the hard one
/// (getrlimit(2)). A held connection takes two. The number that it may have.
///
/// # Errors
/// Whatever getrlimit(2) or setrlimit(2) says.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for a limit.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: `limit` is a limit.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    DESCRIPTORS.store(limit.rlim_cur, Ordering::Relaxed);
    Ok(limit.rlim_cur)
}

/// Descriptors that [`raise_descriptor_limit`] found the process may have; 0 before.
static DESCRIPTORS: AtomicU64 = AtomicU64::new(0);

/// Descriptors, the last ones, that are kept for other things than connections: the admin pages, the
/// record, a reload.
const RESERVED: u64 = 32;

/// Connections that the descriptors of the process are enough for, of two each, beside those that
/// are kept for other things; as many as there can be before [`raise_descriptor_limit`].
#[must_use]
pub fn connections_max() -> usize {
    let limit = DESCRIPTORS.load(Ordering::Relaxed);
    if limit <= 2 * RESERVED {
        return usize::MAX;
    }
    usize::try_from((limit - RESERVED) / 2).unwrap_or(usize::MAX)
}

/// Whether a socket or pipe has one of the last descriptors, or `more` that it needs would. The
/// kernel gives the lowest one that is free (open(2)), so that its number says how many are taken.
#[must_use]
pub fn is_reserved(descriptor: BorrowedFd<'_>, more: u64) -> bool {
    let limit = DESCRIPTORS.load(Ordering::Relaxed);
    let number = u64::try_from(descriptor.as_raw_fd()).unwrap_or_default();
    limit > 2 * RESERVED && number + more >= limit - RESERVED
}

/// The socket, where its descriptor is none of the last ones.
///
/// # Errors
/// As where there are no descriptors left (EMFILE); the socket is closed.
pub fn unreserved<S: AsFd>(socket: S) -> io::Result<S> {
    if is_reserved(socket.as_fd(), 0) {
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    Ok(socket)
}

/// Keeps the calling thread to one of the processors that it may use so far: to the `number`-th,
/// counted from 0 and round again.
///
/// # Errors
/// Whatever sched_getaffinity(2) or sched_setaffinity(2) says.
pub fn keep_to_processor(number: usize) -> io::Result<()> {
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: a set of zeros is the empty one.
    let mut allowed: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `allowed` is a set of `size` bytes; 0 is the calling thread.
    if unsafe { libc::sched_getaffinity(0, size, &raw mut allowed) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let processors = 0..8 * size;
    // SAFETY: every number asked about is below the 8 * `size` bits of the set.
    let all: Vec<_> =
        processors.filter(|&number| unsafe { libc::CPU_ISSET(number, &allowed) }).collect();
    let own = all.get(number % all.len().max(1)).ok_or(io::ErrorKind::NotFound)?;
    // SAFETY: as above.
    let mut one: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `own` is a number of the same set.
    unsafe { libc::CPU_SET(*own, &mut one) };
    // SAFETY: `one` is a set of `size` bytes; 0 is the calling thread.
    let done = unsafe { libc::sched_setaffinity(0, size, &raw const one) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
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
    fn a_user_has_a_number_or_is_none() {
        assert_eq!(user_id("root").unwrap(), Some(0));
        assert_eq!(user_id("no-such-user-here").unwrap(), None);
        assert!(user_id("a\0b").is_err());
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
    fn the_process_may_have_as_many_descriptors_as_are_allowed() {
        let limit = raise_descriptor_limit().unwrap();
        let text = std::fs::read_to_string("/proc/self/limits").unwrap();
        let line = text.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(words[3..5], [limit.to_string(), limit.to_string()], "{line}");
    }

    #[test]
    fn a_thread_keeps_to_the_processor_of_its_number() {
        let allowed = || std::thread::available_parallelism().unwrap().get();
        let all = allowed();
        for number in [0, all - 1, all] {
            let one = std::thread::spawn(move || keep_to_processor(number).map(|()| allowed()));
            assert_eq!(one.join().unwrap().unwrap(), 1);
        }
        assert_eq!(allowed(), all, "other threads go where they like");
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
