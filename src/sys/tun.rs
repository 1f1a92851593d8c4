//! A network interface whose far end is this process (the kernel's `networking/tuntap`): what is
//! written arrives as if by a cable, what the host sends there is read.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// `struct ifreq`, as TUNSETIFF reads it.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

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
        let flags = libc::c_short::try_from(libc::IFF_TUN | libc::IFF_NO_PI);
        let flags = flags.map_err(io::Error::other)?;
        let mut request = Request { name: [0; libc::IFNAMSIZ], flags, rest: [0; 22] };
        let room = request.name.get_mut(..name.len()).filter(|_| name.len() < libc::IFNAMSIZ);
        room.ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(name.as_bytes());
        // SAFETY: the request is as long as an ifreq, with a name that ends in a NUL, read during the call.
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
        let mut both = [either, other].map(|tun| PollFd::new(&tun.0, PollFlags::IN));
        match poll(&mut both, Timespec::try_from(limit).ok().as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(fault) => Err(fault.into()),
        }
    }
}
