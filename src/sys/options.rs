//! Options of sockets that are one integer.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Lets a bind to port 0 leave the port to the connect, so that one port serves many destinations
/// (IP_BIND_ADDRESS_NO_PORT; IPv6 sockets take it too).
///
/// # Errors
/// The kernel does not know the option.
pub fn choose_port_at_connect(socket: BorrowedFd<'_>) -> io::Result<()> {
    switch_on(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT)
}

/// Sets an option that is an integer to 1.
pub(super) fn switch_on(socket: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<()> {
    set(socket, level, name, 1)
}

/// Sets an option that is an integer.
pub(super) fn set(
    socket: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: c_int,
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: the pointer and the length describe one integer.
    let done = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
