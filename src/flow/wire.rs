//! One side of a connection.

use std::cell::Cell;
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A TCP stream that ends in a reset unless someone said that it ended in order: a relay that is
/// cut short, by a fault, a panic or a new policy, must not look like a complete answer.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    orderly: Cell<bool>,
}

impl Wire {
    /// Takes the stream over and turns Nagle's algorithm off: the bytes were paced by their sender.
    pub(super) fn new(stream: TcpStream) -> Self {
        // Fails only where the connection is already gone, which the next read will say.
        stream.set_nodelay(true).ok();
        Self { stream, orderly: Cell::new(false) }
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
