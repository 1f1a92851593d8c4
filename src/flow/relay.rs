//! Copies both ways between a client and its destination, with half-close, back-pressure and idle time.
//!
//! A side that breaks off ends what goes to it, and nothing else. What it had sent before is delivered
//! to the other side, up to the last acknowledgement, and only then is that one told by a reset: an
//! early answer (RFC 9112 §9.5) has come whole by then, and a cut one is not taken for complete.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use crate::account::{Bytes, End};
use crate::net::buffer::{BUFFER, read_shared, with_shared};
use crate::net::close::{FIRST_LOOK, LAST_LOOK};
use crate::net::socket::{Read, TcpSocket};
use crate::sys::Pipe;

/// Reads in a row that fill the buffer, after which bytes go through a pipe: small messages, and the
/// first kilobytes of everything, are cheaper copied.
const BULK: u8 = 2;

/// Reads of one direction before the other one, and then other connections, have theirs.
const TURN: usize = 16;

/// Pipes that a thread lends at once. Each holds up to 1 MiB for a peer that does not read; more
/// than these, and their connections, are relayed by copies, which hold 64 KiB.
const PIPES_MAX: usize = 64;

/// Empty pipes that a thread keeps.
const SPARE_MAX: usize = 16;

thread_local! {
    static SPARE: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
    static LENT: Cell<usize> = const { Cell::new(0) };
}

/// How long a relay in which no byte moves is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct IdleTimeouts {
    /// While both sides are open.
    pub(super) idle: Duration,
    /// Once one of them has closed or broken off; no longer than `idle`.
    pub(super) half_closed: Duration,
}

#[cfg(test)]
impl IdleTimeouts {
    /// The same for both.
    pub(super) const fn even(time: Duration) -> Self {
        Self { idle: time, half_closed: time }
    }
}

/// Relays until both sides have closed, one broke off and the other has what it sent, or `timeouts`
/// ran out. The bytes that
/// `opening` yields go to the destination first, and nothing that the client sends goes before it
/// has ended; an end that it yields ends the relay.
///
/// One hand-written future for both ways, which holds what a connection needs while it lives and
/// nothing else: the four that a `select!` of two loops nests took 2.4 kB.
pub(super) fn run<'w, O>(
    client: &'w TcpSocket,
    upstream: &'w TcpSocket,
    opening: O,
    timeouts: IdleTimeouts,
    bytes: &'w Bytes,
) -> Relay<'w, O>
where
    O: Future<Output = Result<Vec<u8>, End>> + Unpin,
{
    client.idle_timer().set_timeout(timeouts.idle);
    Relay {
        up: Direction::new(client, upstream),
        down: Direction::new(upstream, client),
        opening: Some(opening),
        half_closed: Some(u32::try_from(timeouts.half_closed.as_millis()).unwrap_or(u32::MAX)),
        broken: None,
        bytes,
    }
}

/// A relay at work; see [`run`].
pub(super) struct Relay<'w, O> {
    up: Direction<'w>,
    down: Direction<'w>,
    /// Until it has ended.
    opening: Option<O>,
    /// The time-out once a side has closed, until it is the one in force; in milliseconds, so that
    /// it takes one word of a connection instead of two (a listener has a month at most).
    half_closed: Option<u32>,
    /// Once a side has broken off.
    broken: Option<Box<Broken>>,
    bytes: &'w Bytes,
}

/// A side of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peer {
    Client,
    Upstream,
}

impl Peer {
    /// How a relay ends that this side broke off.
    const fn end(self) -> End {
        match self {
            Self::Client => End::ClientReset,
            Self::Upstream => End::UpstreamReset,
        }
    }
}

/// Why a relay does not go on as before.
enum Halt {
    /// It is over.
    Over(End),
    /// A side broke off.
    Broke(Peer),
}

/// A side has broken off, and the other one gets what it had sent.
struct Broken {
    by: Peer,
    /// What the other side had not acknowledged at the last look.
    left: usize,
    /// Until the next look.
    look: Pin<Box<Sleep>>,
    pause: Duration,
    /// The other side still sends.
    hears: bool,
}

impl<O: Future<Output = Result<Vec<u8>, End>> + Unpin> Relay<'_, O> {
    fn turn(&mut self, context: &mut Context<'_>) -> Result<Poll<()>, Halt> {
        let (client, bytes) = (self.up.from, self.bytes);
        if let Some(opening) = &mut self.opening
            && let Poll::Ready(first) = Pin::new(opening).poll(context)
        {
            self.up.rest = first.map_err(|end| {
                let peers = [Peer::Client, Peer::Upstream];
                let broke = peers.into_iter().find(|peer| peer.end() == end);
                broke.map_or(Halt::Over(end), Halt::Broke)
            })?;
            self.opening = None;
        }
        if self.opening.is_none() {
            let count = |count| {
                bytes.up(count);
                client.idle_timer().touch();
            };
            self.up.turn(context, self.down.ended, count).map_err(|fault| match fault {
                Fault::From => Halt::Broke(Peer::Client),
                Fault::To => Halt::Broke(Peer::Upstream),
            })?;
        }
        let count = |count| {
            bytes.down(count);
            client.idle_timer().touch();
        };
        self.down.turn(context, self.up.ended, count).map_err(|fault| match fault {
            Fault::From => Halt::Broke(Peer::Upstream),
            Fault::To => Halt::Broke(Peer::Client),
        })?;
        if self.up.ended && self.down.ended {
            client.end_in_order();
            self.up.to.end_in_order();
            return Ok(Poll::Ready(()));
        }
        if (self.up.ended || self.down.ended)
            && let Some(timeout) = self.half_closed.take()
        {
            client.idle_timer().set_timeout(Duration::from_millis(timeout.into()));
        }
        match client.idle_timer().poll_timed_out(context) {
            Poll::Ready(_) => Err(Halt::Over(End::Idle)),
            Poll::Pending => Ok(Poll::Pending),
        }
    }

    /// Nothing goes to this side any more, and nothing comes from it but what has come already.
    fn broke(&mut self, by: Peer) {
        let hears = match by {
            Peer::Client => !self.down.ended,
            Peer::Upstream => !self.up.ended,
        };
        if self.opening.take().is_some() {
            // What was not judged goes nowhere.
            self.up.ended = true;
        }
        if let Some(timeout) = self.half_closed.take() {
            self.up.from.idle_timer().set_timeout(Duration::from_millis(timeout.into()));
        }
        self.up.from.idle_timer().touch();
        let (last, dead) = match by {
            Peer::Client => (&mut self.up, &mut self.down),
            Peer::Upstream => (&mut self.down, &mut self.up),
        };
        last.is_cut = true;
        dead.drop_held();
        let look = Box::pin(sleep(FIRST_LOOK));
        self.broken =
            Some(Box::new(Broken { by, left: usize::MAX, look, pause: FIRST_LOOK, hears }));
    }

    /// Delivers what the side that broke off had sent; ready when the other one has it, or is lost.
    fn deliver_last(&mut self, context: &mut Context<'_>) -> Poll<End> {
        let Some(broken) = &mut self.broken else { return Poll::Pending };
        let (client, bytes, end) = (self.up.from, self.bytes, broken.by.end());
        let last = match broken.by {
            Peer::Client => &mut self.up,
            Peer::Upstream => &mut self.down,
        };
        let count = |count| {
            match broken.by {
                Peer::Client => bytes.up(count),
                Peer::Upstream => bytes.down(count),
            }
            client.idle_timer().touch();
        };
        if !last.ended && last.turn(context, false, count).is_err() {
            return Poll::Ready(end);
        }
        // What it says finds nobody any more; unread, it would hold back a peer that writes first.
        for _ in 0..TURN {
            if !broken.hears {
                break;
            }
            match last.to.poll_readable(context) {
                Poll::Pending => break,
                Poll::Ready(Err(_)) => return Poll::Ready(end),
                Poll::Ready(Ok(())) => {}
            }
            match read_shared(last.to, BUFFER, |_| ()) {
                Ok(0) => broken.hears = false,
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(end),
            }
        }
        if last.to.poll_failed(context).is_ready() {
            return Poll::Ready(end);
        }
        if broken.hears && last.to.poll_readable(context).is_ready() {
            context.waker().wake_by_ref();
        }
        if last.ended {
            loop {
                let left = last.to.unacknowledged();
                if left == 0 {
                    return Poll::Ready(end);
                }
                if left < broken.left {
                    broken.left = left;
                    client.idle_timer().touch();
                }
                if broken.look.as_mut().poll(context).is_pending() {
                    break;
                }
                broken.pause = (broken.pause * 2).min(LAST_LOOK);
                broken.look.as_mut().reset(Instant::now() + broken.pause);
            }
        }
        client.idle_timer().poll_timed_out(context).map(|_| end)
    }
}

impl<O: Future<Output = Result<Vec<u8>, End>> + Unpin> Future for Relay<'_, O> {
    type Output = End;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<End> {
        if self.broken.is_none() {
            match self.turn(context) {
                Ok(done) => return done.map(|()| End::Done),
                Err(Halt::Over(end)) => return Poll::Ready(end),
                Err(Halt::Broke(peer)) => self.broke(peer),
            }
        }
        self.deliver_last(context)
    }
}

/// Which socket of a direction failed.
enum Fault {
    From,
    To,
}

/// One direction of a relay.
struct Direction<'w> {
    from: &'w TcpSocket,
    to: &'w TcpSocket,
    /// Bytes that `to` did not take yet, and how many of them it took.
    rest: Vec<u8>,
    sent: usize,
    /// Held while something is in it, or may be read at once.
    pipe: Option<PooledPipe>,
    /// Bytes that came through the pipe since it was lent.
    run: u32,
    full_reads: u8,
    /// The kernel keeps what was sent last for what follows it.
    kept: bool,
    ended: bool,
    /// `from` has broken off: the end of what it sent is none in order.
    is_cut: bool,
}

impl<'w> Direction<'w> {
    const fn new(from: &'w TcpSocket, to: &'w TcpSocket) -> Self {
        Self {
            from,
            to,
            rest: Vec::new(),
            sent: 0,
            pipe: None,
            run: 0,
            full_reads: 0,
            kept: false,
            ended: false,
            is_cut: false,
        }
    }

    /// Drops what `to` did not take, and whatever follows it.
    fn drop_held(&mut self) {
        (self.rest, self.sent, self.pipe) = (Vec::new(), 0, None);
    }

    /// Moves what can be moved without waiting, up to a turn's worth. `other_ended`: whether the
    /// other direction has, so that a close of both sockets is next.
    fn turn(
        &mut self,
        context: &mut Context<'_>,
        other_ended: bool,
        count: impl Fn(usize),
    ) -> Result<(), Fault> {
        if self.ended {
            return self.watch(context, other_ended);
        }
        for _ in 0..TURN {
            if self.flush(context, &count)?.is_pending() {
                // Held back, nobody reads `from`, and nobody would see it break off.
                return self.watch(context, self.is_cut);
            }
            match self.from.poll_readable(context) {
                Poll::Pending => return Ok(()),
                Poll::Ready(ready) => ready.map_err(|_| Fault::From)?,
            }
            let kept = mem::take(&mut self.kept);
            let taken = self.take_in(&count)?;
            if kept && taken == Taken::Nothing {
                // What was to come with the last bytes did not.
                self.to.uncork().map_err(|_| Fault::To)?;
            }
            if taken == Taken::End {
                self.ended = true;
                self.pipe.take().into_iter().for_each(PooledPipe::give_back);
                if self.is_cut {
                    // A FIN would say that all has come.
                    return self.to.uncork().map_err(|_| Fault::To);
                }
                if other_ended {
                    // Both sockets are closed next, which says it as well.
                    return Ok(());
                }
                self.to.half_close().map_err(|_| Fault::To)?;
                return self.watch(context, other_ended);
            }
        }
        // A fast pair of peers must not keep the thread from the others.
        context.waker().wake_by_ref();
        Ok(())
    }

    /// A side that closed in order may still break off while the other one goes on sending; nobody
    /// reads from it any more, so that its reset would go unseen until the next write.
    fn watch(&mut self, context: &mut Context<'_>, in_vain: bool) -> Result<(), Fault> {
        if in_vain {
            return Ok(());
        }
        if self.from.poll_failed(context).is_ready() { Err(Fault::From) } else { Ok(()) }
    }

    /// Sends what is held.
    fn flush(
        &mut self,
        context: &mut Context<'_>,
        count: impl Fn(usize),
    ) -> Result<Poll<()>, Fault> {
        loop {
            let unsent = self.rest.get(self.sent..).unwrap_or_default();
            let tried = match &mut self.pipe {
                _ if !unsent.is_empty() => {
                    let written = self.to.send(unsent, false);
                    written.inspect(|written| self.sent += written)
                }
                Some(lent) if lent.pipe.held() > 0 => self.to.drain(&mut lent.pipe),
                Some(_) | None => {
                    if self.sent > 0 {
                        (self.rest, self.sent) = (Vec::new(), 0);
                    }
                    return Ok(Poll::Ready(()));
                }
            };
            match tried {
                Ok(moved) => count(moved),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    match self.to.poll_writable(context) {
                        Poll::Pending => return Ok(Poll::Pending),
                        Poll::Ready(ready) => ready.map_err(|_| Fault::To)?,
                    }
                }
                Err(_) => return Err(Fault::To),
            }
        }
    }

    /// Reads once, and sends on what `to` takes of it at once.
    fn take_in(&mut self, count: impl Fn(usize)) -> Result<Taken, Fault> {
        if self.full_reads >= BULK {
            if self.pipe.is_none() {
                (self.pipe, self.run) = (PooledPipe::take(), 0);
            }
            if let Some(lent) = &mut self.pipe {
                match self.from.fill(&mut lent.pipe) {
                    Ok(moved) if moved > 0 => {
                        self.run =
                            self.run.saturating_add(u32::try_from(moved).unwrap_or(u32::MAX));
                        return Ok(Taken::Some);
                    }
                    Err(e) if e.kind() != io::ErrorKind::WouldBlock && !self.is_cut => {
                        return Err(Fault::From);
                    }
                    // Nothing left, an end, or an urgent byte, at which splice(2) stops for ever,
                    // and says that it is an end where one has come behind it: a read tells.
                    Ok(_) | Err(_) => {
                        self.pipe.take().into_iter().for_each(PooledPipe::give_back);
                        if usize::try_from(self.run).is_ok_and(|run| run < BUFFER) {
                            self.full_reads = 0;
                        }
                    }
                }
            }
        }
        let bulk = self.full_reads >= BULK;
        with_shared(|buffer| {
            let (read, last_follows) = match self.from.receive(buffer) {
                Ok(Read { bytes: 0, .. }) => return Ok(Taken::End),
                Ok(read) => (buffer.get(..read.bytes).unwrap_or_default(), read.last_follows),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Taken::Nothing),
                // All that had come before it broke off is read.
                Err(_) if self.is_cut => return Ok(Taken::End),
                Err(_) => return Err(Fault::From),
            };
            if !bulk {
                let full = read.len() == BUFFER;
                self.full_reads = if full { self.full_reads + 1 } else { 0 };
            }
            // The end of a stream goes out in the segment of its last bytes: one packet less.
            let moved = match self.to.send(read, last_follows) {
                Ok(written) => written,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
                Err(_) => return Err(Fault::To),
            };
            if moved > 0 {
                count(moved);
                self.kept = last_follows;
            }
            self.rest.extend_from_slice(read.get(moved..).unwrap_or_default());
            Ok(Taken::Some)
        })
    }
}

/// What one read brought.
#[derive(Debug, PartialEq, Eq)]
enum Taken {
    Nothing,
    Some,
    End,
}

/// A pipe of the thread's.
struct PooledPipe {
    pipe: Pipe,
    _permit: PipePermit,
}

impl PooledPipe {
    /// `None` where the thread has lent as many as it may, or no descriptor is left: then bytes are
    /// copied, which always works.
    fn take() -> Option<Self> {
        let permit = PipePermit::take()?;
        let spare = SPARE.with_borrow_mut(Vec::pop);
        Some(Self { pipe: spare.map_or_else(Pipe::new, Ok).ok()?, _permit: permit })
    }

    /// Keeps the pipe for the next one. A pipe that is dropped instead, with the bytes of a
    /// connection that broke off, is closed.
    fn give_back(self) {
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < SPARE_MAX && self.pipe.held() == 0 {
                spare.push(self.pipe);
            }
        });
    }
}

/// One of the pipes that the thread may lend at once.
struct PipePermit;

impl PipePermit {
    fn take() -> Option<Self> {
        let lent = LENT.get();
        (lent < PIPES_MAX).then(|| LENT.set(lent + 1)).map(|()| Self)
    }
}

impl Drop for PipePermit {
    fn drop(&mut self) {
        LENT.set(LENT.get().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests;
