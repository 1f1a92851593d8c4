//! Wraps the TCP socket of one side of a connection, which ends in a reset unless it ended in order.

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::dialled::InQuestion;
use super::reactor::{Side, Token};
use crate::sys::{self, Pipe};

/// A TCP socket that ends in a reset unless someone said that it ended in order: a relay that is
/// cut short, by a fault, a panic or a new policy, must not look like a complete answer.
pub(crate) struct TcpSocket {
    socket: OwnedFd,
    token: Token,
    orderly: Cell<bool>,
    /// Acknowledgements wait for bytes to go with; see [`TcpSocket::quickack`].
    waits: Cell<bool>,
    /// Dialled from a client's address, and not answered yet; see [`InQuestion::hold`].
    in_question: Cell<bool>,
}

/// What one read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Read {
    /// Bytes; 0 is the end.
    pub(crate) bytes: usize,
    /// One byte more, or the end, has come already.
    pub(crate) last_follows: bool,
}

impl TcpSocket {
    /// Takes a socket over that has its options from a listener ([`prepare`]).
    ///
    /// # Errors
    /// The kernel does not watch any more sockets.
    pub(crate) fn accepted(socket: OwnedFd) -> io::Result<Self> {
        let token = Token::new(socket.as_fd(), true)?;
        let (orderly, waits) = (Cell::new(false), Cell::new(true));
        Ok(Self { socket, token, orderly, waits, in_question: Cell::default() })
    }

    /// Takes a socket over on which a connect has begun; see [`TcpSocket::connected`].
    ///
    /// # Errors
    /// As [`TcpSocket::accepted`].
    pub(crate) fn connecting(socket: OwnedFd, in_question: Option<InQuestion>) -> io::Result<Self> {
        let token = Token::new(socket.as_fd(), false)?;
        let (orderly, waits) = (Cell::new(false), Cell::new(false));
        let is_held = Cell::new(in_question.is_some());
        if let Some(in_question) = in_question {
            in_question.hold(socket.as_fd());
        }
        Ok(Self { socket, token, orderly, waits, in_question: is_held })
    }

    /// Waits until the connect has ended.
    pub(crate) async fn connected(&self) -> io::Result<()> {
        self.writable().await?;
        if self.token.has_failed() {
            return Err(SockRef::from(&self.socket)
                .take_error()?
                .unwrap_or_else(|| io::ErrorKind::NotConnected.into()));
        }
        Ok(())
    }

    /// Waits until there may be something to read.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        poll_fn(|context| self.poll_readable(context)).await
    }

    /// Waits until there may be room to write.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        poll_fn(|context| self.poll_writable(context)).await
    }

    /// As [`TcpSocket::readable`].
    pub(crate) fn poll_readable(&self, context: &Context<'_>) -> Poll<io::Result<()>> {
        self.token.poll(Side::Read, context)
    }

    /// As [`TcpSocket::writable`].
    pub(crate) fn poll_writable(&self, context: &Context<'_>) -> Poll<io::Result<()>> {
        self.token.poll(Side::Write, context)
    }

    /// Waits until the connection has failed, though nobody reads or writes.
    pub(crate) fn poll_failed(&self, context: &Context<'_>) -> Poll<io::Result<()>> {
        self.token.poll_failed(context)
    }

    /// How silences are measured here; see [`Token`].
    pub(crate) const fn idle_timer(&self) -> &Token {
        &self.token
    }

    /// Reads once into `buffer`, without waiting; 0 is the end. Where the kernel says that nothing
    /// is left, the next wait for a byte is a wait, and not a read in vain: half of the reads of a
    /// connection that sends small messages; see [`Token::emptied`].
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Read> {
        self.tried(Side::Read, || {
            let received = sys::receive(self.socket.as_fd(), buffer)?;
            if received.bytes > 0 && received.left == Some(0) {
                self.token.emptied();
            }
            if received.bytes > 0 {
                self.answered();
            }
            Ok(Read { bytes: received.bytes, last_follows: received.left == Some(1) })
        })
    }

    /// Writes once, without waiting. `more`: the rest of a segment, or a FIN, follows at once, so
    /// that the kernel keeps the bytes for it; see [`TcpSocket::uncork`].
    pub(crate) fn send(&self, bytes: &[u8], more: bool) -> io::Result<usize> {
        let flags = libc::MSG_NOSIGNAL | if more { libc::MSG_MORE } else { 0 };
        let sent =
            self.tried(Side::Write, || SockRef::from(&self.socket).send_with_flags(bytes, flags))?;
        if !more {
            self.quickack();
        }
        Ok(sent)
    }

    /// Has what comes from now on acknowledged as the kernel does by itself. A listener's sockets
    /// wait with the acknowledgement of a hello for what answers it, which saves a packet; a peer
    /// that holds its next bytes back until it is told of the last ones (RFC 896) must not wait for
    /// an answer that needs those bytes.
    pub(crate) fn quickack(&self) {
        if self.waits.replace(false) {
            // Where the option is refused, the connection is gone.
            SockRef::from(&self.socket).set_tcp_quickack(true).ok();
        }
    }

    /// Has the kernel send what it kept for more that did not come.
    pub(crate) fn uncork(&self) -> io::Result<()> {
        SockRef::from(&self.socket).set_tcp_nodelay(true)
    }

    /// Bytes that were sent and that the peer's kernel has not acknowledged; a FIN counts as one.
    pub(crate) fn unacknowledged(&self) -> usize {
        // Of a socket that cannot be asked nothing is known to have arrived.
        sys::unacknowledged(self.socket.as_fd()).unwrap_or(usize::MAX)
    }

    /// The shortest round trip to the peer, microseconds.
    pub(crate) fn shortest_round_trip(&self) -> Option<NonZeroU32> {
        sys::shortest_round_trip(self.socket.as_fd()).ok().flatten()
    }

    /// The first byte, left where it is, without waiting; `None` where the client has closed.
    pub(crate) fn first_byte(&self) -> io::Result<Option<u8>> {
        self.tried(Side::Read, || sys::first_byte(self.socket.as_fd()))
    }

    /// Moves bytes from here into a pipe, without waiting. That there are none says neither that
    /// nothing is left nor that the stream has ended: splice(2) stops at an urgent byte.
    pub(crate) fn fill(&self, pipe: &mut Pipe) -> io::Result<usize> {
        if self.token.may_try(Side::Read) {
            pipe.fill(self.socket.as_fd()).inspect(|&bytes| {
                if bytes > 0 {
                    self.answered();
                }
            })
        } else {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }

    /// Moves bytes out of a pipe to here, without waiting.
    pub(crate) fn drain(&self, pipe: &mut Pipe) -> io::Result<usize> {
        self.quickack();
        self.tried(Side::Write, || pipe.drain(self.socket.as_fd()))
    }

    /// A byte has come.
    fn answered(&self) {
        if self.in_question.replace(false)
            && let Some(in_question) = InQuestion::held(self.as_fd())
        {
            in_question.answered();
        }
    }

    /// Does what may have to wait, and notes whether it had to.
    fn tried<T>(&self, side: Side, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if !self.token.may_try(side) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        act().inspect_err(|fault| {
            if fault.kind() == io::ErrorKind::WouldBlock {
                self.token.exhausted(side);
            }
        })
    }

    fn poll_send(
        &self,
        context: &Context<'_>,
        send: impl Fn() -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_writable(context))?;
            match send() {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    /// Sends what is still queued, and a FIN, when dropped.
    pub(crate) fn end_in_order(&self) {
        self.orderly.set(true);
    }

    /// No more bytes follow; the other direction stays open.
    pub(crate) fn half_close(&self) -> io::Result<()> {
        SockRef::from(&self.socket).shutdown(Shutdown::Write)
    }

    /// Writes everything, however long the peer takes.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.writable().await?;
            match self.send(bytes, false) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

impl fmt::Debug for TcpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpSocket").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl AsFd for TcpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
impl TcpSocket {
    /// Takes a stream of the runtime's over.
    #[expect(clippy::disallowed_methods, reason = "a test pays for the second registration")]
    pub(crate) fn new(stream: tokio::net::TcpStream) -> Self {
        prepare(&stream);
        Self::accepted(stream.into_std().unwrap().into()).unwrap()
    }
}

/// Sets what every relayed socket has; accepted ones inherit it from their listener.
pub(crate) fn prepare(socket: &impl AsFd) {
    // Fails only where the connection is already gone, which the next read will say.
    SockRef::from(socket).set_tcp_nodelay(true).ok();
    // An older kernel does not say what is left to read; then it is found out by reading.
    sys::tell_left(socket.as_fd()).ok();
}

/// Has the kernel wait with an acknowledgement for the bytes that are about to be sent anyway, up to
/// 40 ms (TCP_QUICKACK off, tcp(7)): a packet less. Set before a connect, it is the answer to the
/// server's SYN that waits, and nothing after it; set on a listener that listens already, the sockets
/// that come from it inherit it, see [`TcpSocket::quickack`].
pub(crate) fn delay_acks(socket: &impl AsFd) {
    // Refused, each goes out by itself, which costs the packet.
    SockRef::from(socket).set_tcp_quickack(false).ok();
}

/// Sets when a peer that says nothing is taken for gone; `None` leaves it to the kernel.
pub(crate) fn set_limits(
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

impl Drop for TcpSocket {
    fn drop(&mut self) {
        if self.in_question.get() {
            drop(InQuestion::held(self.as_fd()));
        }
        if !self.orderly.get() {
            // A socket that has no peer any more refuses; there is nobody left to tell.
            SockRef::from(&self.socket).set_linger(Some(Duration::ZERO)).ok();
        }
    }
}

/// Bytes that one read of a runtime's buffer takes, which have to be set to zero before.
const READ_MAX: usize = 64 * 1024;

impl AsyncRead for TcpSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_readable(context))?;
            let room = buffer.remaining().min(READ_MAX);
            match self.receive(buffer.initialize_unfilled_to(room)) {
                Ok(read) => {
                    buffer.advance(read.bytes);
                    return Poll::Ready(Ok(()));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }
}

/// To shut down is to end in order.
impl AsyncWrite for TcpSocket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(context, || self.send(bytes, false))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end_in_order();
        Poll::Ready(self.half_close())
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(context, || {
            self.tried(Side::Write, || {
                let socket = SockRef::from(&self.socket);
                socket.send_vectored_with_flags(slices, libc::MSG_NOSIGNAL)
            })
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
