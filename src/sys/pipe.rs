//! Pipes that carry bytes from one socket to another without a copy through user space.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

/// Bytes that a pipe is asked to hold. Where the kernel does not allow it (`fs.pipe-max-size`,
/// `fs.pipe-user-pages-soft`), the pipe keeps the size that it has.
const CAPACITY: libc::c_int = 1024 * 1024;

/// A pipe that never waits. What is in it came in by [`Pipe::fill`] and leaves by [`Pipe::drain`].
#[derive(Debug)]
pub struct Pipe {
    near: OwnedFd,
    far: OwnedFd,
    held: usize,
}

impl Pipe {
    /// An empty pipe of 1 MiB, or of as much as is allowed.
    ///
    /// # Errors
    /// No descriptors left (EMFILE, ENFILE).
    pub fn new() -> io::Result<Self> {
        let mut ends = [-1; 2];
        // SAFETY: `ends` has room for the two descriptors.
        if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let [far, near] = ends;
        // SAFETY: pipe2 made both descriptors, and nobody else has them.
        let (near, far) = unsafe { (OwnedFd::from_raw_fd(near), OwnedFd::from_raw_fd(far)) };
        if super::is_reserved(far.as_fd(), 0) || super::is_reserved(near.as_fd(), 0) {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        // SAFETY: sets an integer of the pipe; refused, it changes nothing.
        unsafe { libc::fcntl(near.as_raw_fd(), libc::F_SETPIPE_SZ, CAPACITY) };
        Ok(Self { near, far, held: 0 })
    }

    /// Bytes that came in and did not leave yet.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.held
    }

    /// Moves bytes from a socket into the pipe; 0 is the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` where the socket has none, or the pipe is full; else the socket's own.
    pub fn fill(&mut self, from: BorrowedFd<'_>) -> io::Result<usize> {
        let room = usize::try_from(CAPACITY).unwrap_or_default();
        let moved = splice(from.as_raw_fd(), self.near.as_raw_fd(), room)?;
        self.held += moved;
        Ok(moved)
    }

    /// Moves what the pipe holds into a socket, as far as that takes it.
    ///
    /// # Errors
    /// `WouldBlock` where the socket takes none, or the pipe is empty; else the socket's own.
    pub fn drain(&mut self, to: BorrowedFd<'_>) -> io::Result<usize> {
        let moved = splice(self.far.as_raw_fd(), to.as_raw_fd(), self.held)?;
        self.held = self.held.saturating_sub(moved);
        Ok(moved)
    }
}

fn splice(from: libc::c_int, to: libc::c_int, most: usize) -> io::Result<usize> {
    let flags = libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE;
    // SAFETY: null offsets are what splice(2) wants of pipes and sockets; no memory is handed over.
    let moved = unsafe { libc::splice(from, ptr::null_mut(), to, ptr::null_mut(), most, flags) };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn bytes_pass_in_order_and_the_end_of_the_stream_is_zero() {
        let ((mut client, near), (far, mut server)) = (pair(), pair());
        let mut pipe = Pipe::new().unwrap();
        client.write_all(b"through the pipe").unwrap();
        drop(client);
        while pipe.held() < 16 {
            pipe.fill(near.as_fd()).unwrap();
        }
        assert_eq!(pipe.fill(near.as_fd()).unwrap(), 0);
        while pipe.held() > 0 {
            pipe.drain(far.as_fd()).unwrap();
        }
        drop(far);
        let mut all = String::new();
        server.read_to_string(&mut all).unwrap();
        assert_eq!(all, "through the pipe");
    }

    #[test]
    fn nothing_to_move_is_would_block() {
        let (_client, server) = pair();
        server.set_nonblocking(true).unwrap();
        let mut pipe = Pipe::new().unwrap();
        let would_block = Some(io::ErrorKind::WouldBlock);
        assert_eq!(pipe.fill(server.as_fd()).err().map(|e| e.kind()), would_block);
        assert_eq!(pipe.held(), 0);
    }
}
