//! Pipes that carry bytes from one socket to another without a copy through user space.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use super::descriptors::is_reserved;

/// Bytes that a pipe is asked to hold. Where the kernel does not allow it (`fs.pipe-max-size`,
/// `fs.pipe-user-pages-soft`), the pipe keeps the size that it has.
const CAPACITY: usize = 1024 * 1024;

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
        let (far, near) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        if is_reserved(far.as_fd(), 0) || is_reserved(near.as_fd(), 0) {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        // Refused, it keeps the size that it has.
        fcntl_setpipe_size(&near, CAPACITY).ok();
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
        let moved = move_bytes(from, self.near.as_fd(), CAPACITY)?;
        self.held += moved;
        Ok(moved)
    }

    /// Moves what the pipe holds into a socket, as far as that takes it.
    ///
    /// # Errors
    /// `WouldBlock` where the socket takes none, or the pipe is empty; else the socket's own.
    pub fn drain(&mut self, to: BorrowedFd<'_>) -> io::Result<usize> {
        let moved = move_bytes(self.far.as_fd(), to, self.held)?;
        self.held = self.held.saturating_sub(moved);
        Ok(moved)
    }
}

fn move_bytes(from: BorrowedFd<'_>, to: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
    Ok(splice(from, None, to, None, most, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?)
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
