//! One side of a connection.

use std::cell::Cell;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::sys::{self, Pipe};

/// A TCP stream that ends in a reset unless someone said that it ended in order: a relay that is
/// cut short, by a fault, a panic or a new policy, must not look like a complete answer.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    orderly: Cell<bool>,
}

impl Wire {
    /// Takes a stream over that was dialled, and turns Nagle's algorithm off: the bytes were paced
    /// by their sender.
    pub(super) fn new(stream: TcpStream) -> Self {
        prepare(&stream);
        Self::accepted(stream)
    }

    /// Takes a stream over that has its options from a listener ([`prepare`]).
    pub(super) fn accepted(stream: TcpStream) -> Self {
        Self { stream, orderly: Cell::new(false) }
    }

    /// Reads once into `buffer`, without waiting. Where the kernel says that nothing is left, the
    /// next wait for a byte is a wait, and not a read in vain: half of the reads of a connection
    /// that sends small messages.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        receive(&self.stream, buffer)
    }

    /// Moves bytes from here into a pipe, without waiting; 0 is the end of the stream.
    pub(super) fn fill(&self, pipe: &mut Pipe) -> io::Result<usize> {
        self.stream.try_io(Interest::READABLE, || pipe.fill(self.stream.as_fd()))
    }

    /// Moves bytes out of a pipe to here, without waiting.
    pub(super) fn drain(&self, pipe: &mut Pipe) -> io::Result<usize> {
        self.stream.try_io(Interest::WRITABLE, || pipe.drain(self.stream.as_fd()))
    }

    /// The stream.
    pub(super) const fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends what is still queued, and a FIN, when dropped.
    pub(super) fn end_in_order(&self) {
        self.orderly.set(true);
    }

    /// No more bytes follow; the other direction stays open.
    pub(super) fn half_close(&self) -> io::Result<()> {
        SockRef::from(&self.stream).shutdown(Shutdown::Write)
    }

    /// Writes everything, however long the peer takes.
    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.stream.writable().await?;
            match self.stream.try_write(bytes) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// Sets what every relayed socket has; accepted ones inherit it from their listener.
pub(super) fn prepare(socket: &impl AsFd) {
    // Fails only where the connection is already gone, which the next read will say.
    SockRef::from(socket).set_tcp_nodelay(true).ok();
    // An older kernel does not say what is left to read; then it is found out by reading.
    sys::tell_left(socket.as_fd()).ok();
}

/// Sets when a peer that says nothing is taken for gone; `None` leaves it to the kernel.
pub(super) fn set_limits(
    socket: &impl AsFd,
    keepalive: Option<Duration>,
    user_timeout: Option<Duration>,
) -> io::Result<()> {
    let socket = SockRef::from(socket);
    if let Some(time) = keepalive {
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(time))?;
    }
    if user_timeout.is_some() {
        socket.set_tcp_user_timeout(user_timeout)?;
    }
    Ok(())
}

/// As [`Wire::receive`].
pub(super) fn receive(from: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut read = None;
    let tried = from.try_io(Interest::READABLE, || {
        let received = sys::receive(from.as_fd(), buffer)?;
        read = Some(received.bytes);
        if received.bytes > 0 && received.left == Some(0) {
            // The runtime takes this for "not readable any more", which it is.
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(())
    });
    match (read, tried) {
        (Some(read), _) => Ok(read),
        (None, Err(fault)) => Err(fault),
        (None, Ok(())) => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if !self.orderly.get() {
            // A socket that has no peer any more refuses; there is nobody left to tell.
            SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).ok();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

/// To shut down is to end in order.
impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end_in_order();
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
