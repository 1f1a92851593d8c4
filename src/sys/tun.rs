//! A network interface whose far end is this process (the kernel's `networking/tuntap`): what is
//! written arrives as if by a cable, what the host sends there is read.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

/// An interface for IP packets, which goes when this is dropped.
#[derive(Debug)]
pub struct Tun(File);

impl Tun {
    /// Makes the interface.
    ///
    /// # Errors
    /// Without CAP_NET_ADMIN, without `/dev/net/tun`, or where the name is taken.
    pub fn open(name: &str) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")?;
        // SAFETY: plain data for which zeros are a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        if name.len() >= request.ifr_name.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *place = libc::c_char::from_ne_bytes([byte]);
        }
        let flags = libc::IFF_TUN | libc::IFF_NO_PI;
        request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
        // SAFETY: the request is one ifreq with a name that ends in a NUL, read during the call.
        let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw const request) };
        if done == 0 { Ok(Self(file)) } else { Err(io::Error::last_os_error()) }
    }

    /// Has a packet arrive by this interface.
    ///
    /// # Errors
    /// The interface is down, or the packet is none.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        (&self.0).write(packet).map(drop)
    }

    /// The next packet that the host sent here; `None` where there is none now.
    ///
    /// # Errors
    /// Whatever read(2) says.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match (&self.0).read(buffer) {
            Ok(length) => Ok(Some(length)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Waits until one of the two has a packet, for `limit` at most.
    ///
    /// # Errors
    /// Whatever poll(2) says.
    pub fn wait(either: &Self, other: &Self, limit: Duration) -> io::Result<()> {
        let one =
            |tun: &Self| libc::pollfd { fd: tun.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let mut both = [one(either), one(other)];
        let limit = libc::c_int::try_from(limit.as_millis()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the pointer and the count describe the array.
        let done = unsafe { libc::poll(both.as_mut_ptr(), 2, limit) };
        match done {
            0.. => Ok(()),
            _ => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => Ok(()),
                fault => Err(fault),
            },
        }
    }
}
