//! Passes one request on, and its answer back: both ways at once, since either side may speak before
//! the other has ended, and each ends by itself (RFC 9112 §9.5).

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use tokio::sync::Notify;

use super::Client;
use super::body::{Fault, Framing, Passage, put};
use super::held::Held;
use super::ledger::Ledger;
use super::reply::{self, Reply};
use super::request::Order;
use crate::account::{Bytes, End};
use crate::flow::relay::IdleTimeouts;
use crate::net::socket::TcpSocket;

/// A connection to a destination.
#[derive(Debug)]
pub(in crate::flow) struct Upstream {
    pub(in crate::flow) socket: TcpSocket,
    /// What it has said that is no part of an answer.
    pub(in crate::flow) held: Held,
    /// The address that was judged and dialled.
    pub(in crate::flow) at: SocketAddr,
    /// Bytes that were written to it, and how many of them were counted.
    sent: Cell<u64>,
    counted: Cell<u64>,
}

impl Upstream {
    /// A connection over which nothing went yet.
    pub(in crate::flow) fn new(socket: TcpSocket, at: SocketAddr) -> Self {
        Self { socket, held: Held::default(), at, sent: Cell::new(0), counted: Cell::new(0) }
    }
}

/// Counts what a destination has acknowledged.
struct Sent<'a> {
    socket: &'a TcpSocket,
    sent: &'a Cell<u64>,
    counted: &'a Cell<u64>,
    bytes: &'a Bytes,
}

impl Sent<'_> {
    fn settle(&self) {
        let left = self.socket.unacknowledged() as u64;
        self.count_to(self.sent.get().saturating_sub(left));
    }

    /// An answer to all of it has come.
    fn all(&self) {
        self.count_to(self.sent.get());
    }

    fn count_to(&self, acknowledged: u64) {
        let more = acknowledged.saturating_sub(self.counted.get());
        self.counted.set(self.counted.get() + more);
        self.bytes.up(usize::try_from(more).unwrap_or(usize::MAX));
    }
}

/// What came of a request that was answered.
#[derive(Debug)]
pub(in crate::flow) enum Done {
    /// The answer was passed on whole. Whether another request may come, and go the same way.
    Whole { client_stays: bool, upstream_stays: bool },
    /// The destination goes over to another protocol (101, or 2xx to a CONNECT); `head` says so, and
    /// has not been passed on.
    Switched { head: Vec<u8> },
}

/// A request without a whole answer.
#[derive(Debug)]
pub(in crate::flow) struct Broken {
    pub(in crate::flow) why: Why,
    /// Whether a part of the answer went to the client.
    pub(in crate::flow) answered: bool,
}

/// Why there is no whole answer.
#[derive(Debug)]
pub(in crate::flow) enum Why {
    /// The connection was told to end.
    Cut(End),
    /// No byte moved for as long as the listener waits.
    Idle,
    /// The client left, or takes no more.
    ClientGone,
    /// The body is not what its head says.
    BadBody,
    /// The destination closed instead of answering, in order or not.
    NoAnswer { in_order: bool },
    /// What the destination said is no answer.
    BadAnswer(&'static str),
    /// The answer ended before its end.
    Short,
}

/// What both directions know of each other.
#[derive(Default)]
struct Progress {
    /// The request has gone out whole.
    uploaded: Cell<bool>,
    whole: Notify,
    /// Nothing more of the request may go out.
    stopped: Cell<bool>,
    /// The destination has asked for the body.
    continued: Cell<bool>,
    /// The final answer has begun.
    answered: Cell<bool>,
}

/// Sends a request on and passes its answer back. `cut` ends it; `last`: no other request is wanted
/// behind it.
pub(in crate::flow) async fn run(
    client: &mut Client,
    upstream: &mut Upstream,
    order: &Order,
    bytes: &Arc<Bytes>,
    timeouts: IdleTimeouts,
    last: bool,
    cut: impl Future<Output = End>,
) -> Result<Done, Broken> {
    let Client { socket: near, held: ahead, ledger } = client;
    let Upstream { socket: far, held: said, sent, counted, .. } = upstream;
    let (near, far, ledger) = (&*near, &*far, &*ledger);
    let sent = Sent { socket: far, sent, counted, bytes };
    let progress = Progress::default();
    near.idle_timer().touch();
    near.idle_timer().set_timeout(timeouts.idle);
    ledger.begin(bytes);
    let exchange = Exchange { order, near, far, progress: &progress };
    let mut up = pin!(exchange.upload(ahead, &sent, timeouts));
    let mut down = pin!(exchange.download(said, ledger, last));
    let mut cut = pin!(cut);
    let mut up_over = false;
    let passed = loop {
        tokio::select! {
            biased;
            end = &mut cut => break Err(Why::Cut(end)),
            why = &mut up, if !up_over => match why {
                Some(why) => break Err(why),
                // The answer may have been said before the destination stopped listening.
                None => up_over = true,
            },
            passed = &mut down => break passed,
            () = silent(near) => break Err(Why::Idle),
        }
    };
    let passed = match passed {
        Ok(passed) => passed,
        Err(why) => {
            sent.settle();
            ledger.settle(near);
            ledger.broken();
            return Err(Broken { why, answered: progress.answered.get() });
        }
    };
    let (client_stays, upstream_stays) = match passed {
        Passed::Switched(head) => {
            sent.all();
            ledger.broken();
            return Ok(Done::Switched { head });
        }
        Passed::Whole { client_stays, upstream_stays } => (client_stays, upstream_stays),
    };
    // An early answer: a destination that stays still reads the rest.
    let goes_on = upstream_stays && !up_over && !progress.stopped.get();
    if !progress.uploaded.get() && goes_on {
        tokio::select! {
            biased;
            end = &mut cut => {
                ledger.broken();
                return Err(Broken { why: Why::Cut(end), answered: true });
            }
            _ = &mut up => {}
            () = progress.whole.notified() => {}
            _ = far.readable() => {}
            () = silent(near) => {}
        }
    }
    let whole = progress.uploaded.get();
    if whole {
        sent.all()
    } else {
        sent.settle()
    }
    Ok(Done::Whole { client_stays: whole && client_stays, upstream_stays: whole && upstream_stays })
}

/// Waits until no byte has moved for too long.
pub(in crate::flow) async fn silent(near: &TcpSocket) {
    // A socket that is watched no more has failed, as the next read will tell.
    poll_fn(|context| near.idle_timer().poll_timed_out(context)).await.ok();
}

/// Waits until the connection has failed.
pub(super) async fn failed(socket: &TcpSocket) {
    poll_fn(|context| socket.poll_failed(context)).await.ok();
}

enum Passed {
    Whole { client_stays: bool, upstream_stays: bool },
    Switched(Vec<u8>),
}

struct Exchange<'a> {
    order: &'a Order,
    near: &'a TcpSocket,
    far: &'a TcpSocket,
    progress: &'a Progress,
}

impl Exchange<'_> {
    /// Sends the request on, then watches the client. Ends where the client is at fault, with the
    /// reason, or where the destination takes no more.
    async fn upload(
        &self,
        held: &mut Held,
        sent: &Sent<'_>,
        timeouts: IdleTimeouts,
    ) -> Option<Why> {
        let Self { order, near, far, progress } = *self;
        let count = |count: usize| {
            sent.sent.set(sent.sent.get() + count as u64);
            sent.settle();
            near.idle_timer().touch();
        };
        let mut head = order.head.clone();
        let framing = fill_up(&mut head, held, order.framing);
        put(far, &head, &count, &progress.stopped).await.ok()?;
        let stopped = &progress.stopped;
        let mut passage = Passage { from: near, held, to: far, count, stopped, turns: 0 };
        match passage.pass(framing, true).await {
            Ok(()) => {}
            Err(Fault::From | Fault::Short) => return Some(Why::ClientGone),
            Err(Fault::Malformed) => return Some(Why::BadBody),
            Err(Fault::To | Fault::Stopped) => return None,
        }
        progress.uploaded.set(true);
        progress.whole.notify_one();
        let held = passage.held;
        // What comes now belongs to another request, or says that nobody waits any more.
        while !held.is_full() {
            match held.more(near).await {
                Ok(0) => {
                    near.idle_timer().set_timeout(timeouts.half_closed);
                    break;
                }
                Ok(_) => {}
                Err(_) => return Some(Why::ClientGone),
            }
        }
        failed(near).await;
        Some(Why::ClientGone)
    }

    /// Passes the answer back, and whatever comes before the final one.
    async fn download(&self, held: &mut Held, ledger: &Ledger, last: bool) -> Result<Passed, Why> {
        let Self { order, near, far, progress } = *self;
        let count = |count: usize| {
            ledger.sent(count);
            ledger.settle(near);
            near.idle_timer().touch();
        };
        let never = Cell::new(false);
        loop {
            let head = head(held, far).await?;
            let reply = Reply::parse(&head).map_err(Why::BadAnswer)?;
            if reply.is_interim() {
                progress.continued.set(progress.continued.get() || reply.status == 100);
                if !order.is_old {
                    let head = reply.anew(order, Framing::None, true);
                    put(near, &head, &count, &never).await.map_err(|_| Why::ClientGone)?;
                }
                continue;
            }
            let framing = reply.framing(order).map_err(Why::BadAnswer)?;
            if reply.status == 101 || order.is_connect && reply.status / 100 == 2 {
                let may_switch = order.is_connect || order.upgrades;
                if !may_switch || !progress.uploaded.get() {
                    return Err(Why::BadAnswer("the destination changes the protocol unasked"));
                }
                return Ok(Passed::Switched(reply.anew(order, framing, true)));
            }
            // A server that answers instead of asking for the body may take what comes behind its
            // answer for another request (RFC 9110 §10.1.1).
            if order.expects && !progress.continued.get() && !progress.uploaded.get() {
                progress.stopped.set(true);
            }
            let upstream_stays = reply.persists(framing) && !order.is_explicit;
            let in_chunks = !order.is_old
                && (framing == Framing::Chunked
                    || framing == Framing::UntilClose && order.is_explicit);
            let has_end = in_chunks || matches!(framing, Framing::None | Framing::Length(_));
            let stays = has_end && (order.is_explicit || upstream_stays);
            let client_stays = stays && order.persists && !last && !progress.stopped.get();
            let mut head = reply.anew(order, framing, client_stays);
            let framing = fill_up(&mut head, held, framing);
            progress.answered.set(true);
            put(near, &head, &count, &never).await.map_err(|_| Why::ClientGone)?;
            let mut passage =
                Passage { from: far, held, to: near, count, stopped: &never, turns: 0 };
            passage.pass(framing, in_chunks).await.map_err(|fault| match fault {
                Fault::To => Why::ClientGone,
                Fault::From | Fault::Short | Fault::Malformed | Fault::Stopped => Why::Short,
            })?;
            return Ok(Passed::Whole { client_stays, upstream_stays });
        }
    }
}

/// Puts what has come of a body of known length behind its head, so that both go in one segment, and
/// says what is left of it.
fn fill_up(head: &mut Vec<u8>, held: &mut Held, framing: Framing) -> Framing {
    let Framing::Length(length) = framing else { return framing };
    let most = usize::try_from(length).unwrap_or(usize::MAX);
    let part = held.bytes().get(..most).unwrap_or_else(|| held.bytes());
    let count = part.len();
    head.extend_from_slice(part);
    held.used(count);
    Framing::Length(length - count as u64)
}

/// The next head of the destination.
async fn head(held: &mut Held, far: &TcpSocket) -> Result<Vec<u8>, Why> {
    let mut looked = 0;
    loop {
        // Some servers end a body with a line too many.
        while looked == 0 && held.bytes().starts_with(b"\r\n") {
            held.used(2);
        }
        let bytes = held.bytes();
        let new = bytes.get(looked..).unwrap_or_default();
        if new.contains(&b'\n')
            && let Some(end) = reply::end(bytes)
        {
            let head = bytes.get(..end).unwrap_or_default().to_vec();
            held.used(end);
            return Ok(head);
        }
        if bytes.len() >= reply::HEAD_MAX {
            return Err(Why::BadAnswer("the head of the answer is larger than 64 KiB"));
        }
        if !b"HTTP/1.".starts_with(bytes) && !bytes.starts_with(b"HTTP/1.") && bytes != b"\r" {
            return Err(Why::BadAnswer("the answer begins with no status line of HTTP/1"));
        }
        looked = bytes.len();
        if bytes == b"\r" {
            looked = 0;
        }
        match held.more(far).await {
            Ok(0) if looked > 0 => return Err(Why::BadAnswer("the answer ends in its head")),
            Ok(0) => return Err(Why::NoAnswer { in_order: true }),
            Ok(_) => {}
            Err(_) => return Err(Why::NoAnswer { in_order: false }),
        }
    }
}
