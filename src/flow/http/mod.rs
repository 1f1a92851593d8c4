//! Serves clear-text HTTP/1, request by request, in every way in: captured, inside an explicit tunnel,
//! to the explicit proxy. Each request is judged and recorded by itself; what goes on has one reading.
//!
//! It is written here and not left to hyper, with which it began: hyper's server asks for a body with
//! a `100` of its own, has no way for other interim answers, does not see that a client has left while
//! its answer is waited for, and writes every field anew; a captured head has to go on as it came.

mod body;
mod exchange;
mod fields;
mod held;
mod ledger;
mod reply;
mod request;

use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::account::{Bytes, End, Record};
use crate::identify::http::{Form, Head};
use crate::identify::{Identity, Protocol};
use crate::net::buffer::read_shared;
use crate::net::close::{FIRST_LOOK, LAST_LOOK};
use crate::net::idle::IdleTimer;
use crate::net::socket::TcpSocket;

pub(super) use exchange::{Broken, Done, Upstream, Why, run, silent};
pub(super) use held::Held;
pub(super) use request::{Order, SCHEME};

use exchange::failed;
use ledger::Ledger;

/// How long, for how long in silence, and for how many bytes, a client that was told the last word may
/// go on sending: some read an answer only when all of their request is written. To close on unread
/// bytes is a reset, which would overtake the answer (RFC 9112 §9.6).
const LINGER: Duration = Duration::from_secs(30);
const LINGER_SILENCE: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 128 * 1024 * 1024;

/// The head of a request that can be answered by itself: HTTP/1, and without a fault.
pub(super) fn request<'a>(identity: &Identity<'a>) -> Option<Head<'a>> {
    let is_http = identity.protocol == Protocol::Http && identity.fault.is_none();
    identity.http.filter(|head| is_http && head.form != Form::Preface)
}

/// A client that speaks HTTP/1.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) socket: TcpSocket,
    /// What it has sent that is no part of a request yet.
    pub(super) held: Held,
    ledger: Ledger,
}

/// The client takes no more.
#[derive(Debug)]
pub(super) struct Gone;

/// What comes behind a request.
#[derive(Debug)]
pub(super) enum Next {
    /// More bytes.
    Bytes,
    /// Nothing: a side closed, or the connection was kept long enough.
    Over,
    /// The connection was told to end, or broke off.
    Cut(End),
}

impl Client {
    /// A client of which `held` was read.
    pub(super) fn new(socket: TcpSocket, held: Held) -> Self {
        Self { socket, held, ledger: Ledger::default() }
    }

    /// Sends a head that ends an answer by itself; see [`Client::answered`].
    pub(super) async fn say(&self, head: &[u8], bytes: &Arc<Bytes>) -> Result<(), Gone> {
        self.ledger.begin(bytes);
        let count = |count: usize| self.ledger.sent(count);
        body::put(&self.socket, head, &count, &Cell::new(false)).await.map_err(|_| {
            self.ledger.broken();
            Gone
        })
    }

    /// The answer is written; its record ends when the client has it.
    pub(super) fn answered(&self, record: Record) {
        self.ledger.whole(record);
        self.ledger.settle(&self.socket);
    }

    /// Waits for what the client says next; empty lines between two requests are dropped (RFC 9112
    /// §2.2). Nothing is asked of the destination meanwhile, so that whatever it does is its end. At
    /// most for `timeout` behind the last byte that moved, an acknowledged one included. `closed` tells
    /// the connection to end, and `stopping` that no more requests are wanted.
    pub(super) async fn next(
        &mut self,
        upstream: Option<&Upstream>,
        closed: impl Future<Output = End>,
        mut stopping: watch::Receiver<bool>,
        timeout: Duration,
    ) -> Next {
        let Self { socket, held, ledger } = self;
        held.let_go();
        socket.idle_timer().touch();
        socket.idle_timer().set_timeout(timeout);
        let mut closed = pin!(closed);
        let mut look = FIRST_LOOK;
        loop {
            while let [b'\r', b'\n', ..] = held.bytes() {
                held.used(2);
            }
            if !matches!(held.bytes(), [] | [b'\r']) {
                return Next::Bytes;
            }
            let before = ledger.acknowledged();
            let settled = ledger.settle(socket);
            if ledger.acknowledged() > before {
                socket.idle_timer().touch();
                look = FIRST_LOOK;
            }
            let elsewhere = async {
                match upstream {
                    Some(upstream) => upstream.socket.readable().await.ok(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                end = closed.as_mut() => return Next::Cut(end),
                read = held.more(socket) => match read {
                    Ok(0) => return Next::Over,
                    Ok(_) => {}
                    Err(_) => return Next::Cut(End::ClientReset),
                },
                _ = stopping.wait_for(|&stopping| stopping) => return Next::Over,
                _ = elsewhere => return Next::Over,
                () = silent(socket) => return Next::Over,
                () = sleep(look), if !settled => look = (look * 2).min(LAST_LOOK),
            }
        }
    }

    /// Says the last word, and closes so that it arrives.
    pub(super) async fn last(self, answer: &[u8]) {
        let count = |count: usize| self.ledger.sent(count);
        let never = Cell::new(false);
        let said = async { body::put(&self.socket, answer, &count, &never).await.is_ok() };
        // A client that takes nothing is not waited for; its request is over all the same.
        if tokio::time::timeout(LINGER_SILENCE, said).await == Ok(true) {
            self.close(LINGER_SILENCE).await;
        }
    }

    /// Closes in stages (RFC 9112 §9.6): half of the connection, then, once the client has closed the
    /// other half or kept silent long enough, all of it. What was sent is waited for as long as some
    /// of it arrives every `timeout`.
    pub(super) async fn close(self, timeout: Duration) {
        let Self { socket, ledger, .. } = self;
        if socket.half_close().is_err() {
            ledger.give_up(End::ClientReset);
            return;
        }
        // The FIN.
        ledger.sent(1);
        let (begun, heard, mut look) = (Instant::now(), IdleTimer::start(), FIRST_LOOK);
        let (mut discarded, mut closed) = (0, false);
        let mut end = End::Idle;
        loop {
            let before = ledger.acknowledged();
            ledger.settle(&socket);
            if ledger.acknowledged() > before {
                heard.touch();
                look = FIRST_LOOK;
            }
            let arrived = ledger.acknowledged() >= ledger.total();
            if arrived && (closed || begun.elapsed() >= LINGER || discarded >= LINGER_BYTES) {
                break;
            }
            if heard.has_timed_out(if arrived { LINGER_SILENCE.min(timeout) } else { timeout }) {
                break;
            }
            tokio::select! {
                biased;
                read = discard(&socket), if !closed && discarded < LINGER_BYTES => match read {
                    Ok(0) => closed = true,
                    Ok(read) => {
                        discarded += read;
                        heard.touch();
                    }
                    Err(_) => {
                        ledger.settle(&socket);
                        ledger.give_up(End::ClientReset);
                        return;
                    }
                },
                () = failed(&socket), if closed && !arrived => {
                    // In order, where the FIN was the last thing to be acknowledged.
                    ledger.settle(&socket);
                    end = End::ClientReset;
                    break;
                }
                () = sleep(look) => look = (look * 2).min(LAST_LOOK),
            }
        }
        if ledger.acknowledged() + 1 >= ledger.total() {
            socket.end_in_order();
        }
        ledger.give_up(end);
    }

    /// Breaks off, once what was accepted has arrived.
    pub(super) async fn break_off(self) {
        let (heard, mut look) = (IdleTimer::start(), FIRST_LOOK);
        loop {
            let before = self.ledger.acknowledged();
            self.ledger.settle(&self.socket);
            if self.ledger.acknowledged() > before {
                heard.touch();
                look = FIRST_LOOK;
            }
            let arrived = self.ledger.acknowledged() >= self.ledger.total();
            if arrived || heard.has_timed_out(LINGER_SILENCE) {
                return;
            }
            tokio::select! {
                () = failed(&self.socket) => return,
                () = sleep(look) => look = (look * 2).min(LAST_LOOK),
            }
        }
    }

    /// Gives the socket back to the caller, once the answers on it have arrived.
    pub(super) async fn into_socket(self) -> (TcpSocket, Vec<u8>) {
        let (begun, mut look) = (Instant::now(), FIRST_LOOK);
        while !self.ledger.settle(&self.socket) && begun.elapsed() < LINGER_SILENCE {
            tokio::select! {
                () = failed(&self.socket) => break,
                () = sleep(look) => look = (look * 2).min(LAST_LOOK),
            }
        }
        let Self { socket, mut held, .. } = self;
        (socket, held.take())
    }
}

/// Reads once, for nobody.
async fn discard(socket: &TcpSocket) -> io::Result<usize> {
    loop {
        socket.readable().await?;
        match read_shared(socket, usize::MAX, |_| {}) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}
