//! Watches a client behind its ClientHello until no second one can come: a server that sends a
//! HelloRetryRequest (RFC 8446 §4.1.4) answers the second, which may name another host.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::relay;
use super::session::Session;
use crate::account::End;
use crate::identify::NameSource;
use crate::identify::tls::{SecondHello, Watch};
use crate::net::buffer::read_shared;
use crate::net::socket::TcpSocket;
use crate::policy::Action;

/// A server that asks for a second hello has said no more than that: a few hundred bytes, and a
/// cookie. One that has said this much has answered the first.
const ANSWERED: u64 = 2048;

/// How long servers wait for the rest of a handshake, at most.
const HANDSHAKE_TIME: Duration = Duration::from_secs(60);

/// One read's worth.
const PART: usize = 16 * 1024;

/// Relays as [`relay::run`] does. `first` was judged; a second hello of another host, or one that
/// cannot be read, is its verdict, `mismatch`, and ends the connection where the policy enforces.
pub(super) async fn run(
    client: &TcpSocket,
    upstream: &TcpSocket,
    first: Vec<u8>,
    session: &mut Session,
) -> End {
    let mut guard = HelloRetryGuard::default();
    let end = {
        let session = &*session;
        let opening = guard.follow(client, upstream, first, session);
        let (timeouts, bytes) = (session.listener.timeouts(), session.record.bytes());
        relay::run(client, upstream, opening, timeouts, bytes).await
    };
    guard.note(session);
    end
}

/// What [`HelloRetryGuard::follow`] waits for. Boxed where something is watched: that is over long
/// before the relay is.
pub(super) enum Opening<'a> {
    Known(Vec<u8>),
    Watched(Pin<Box<dyn Future<Output = Result<Vec<u8>, End>> + 'a>>),
}

impl Future for Opening<'_> {
    type Output = Result<Vec<u8>, End>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Known(first) => Poll::Ready(Ok(std::mem::take(first))),
            Self::Watched(watch) => watch.as_mut().poll(context),
        }
    }
}

/// Follows one client whose connection was judged.
#[derive(Default)]
pub(super) struct HelloRetryGuard {
    changed: bool,
}

impl HelloRetryGuard {
    /// Sends `first` on, and what follows it, until no second hello can come; the rest that it
    /// yields has not been sent. The session's verdict tells what was read in `first`, if that is where
    /// the name is from.
    ///
    /// # Errors
    /// The end, where the hello changed or a side broke off.
    pub(super) fn follow<'a>(
        &'a mut self,
        client: &'a TcpSocket,
        upstream: &'a TcpSocket,
        first: Vec<u8>,
        session: &'a Session,
    ) -> Opening<'a> {
        let read = session.record.judgement().and_then(|judged| {
            let name = judged.name.as_ref().filter(|name| name.source() == NameSource::Sni)?;
            Some(SecondHello::behind(&first, Some(Arc::clone(name.shared())), judged.ech))
        });
        let second = read.or_else(|| SecondHello::after(&first));
        match second.filter(|second| second.watch() != Watch::Over) {
            None => Opening::Known(first),
            Some(second) => {
                let watch = self.watch(second, client, upstream, first, session);
                Opening::Watched(Box::pin(watch))
            }
        }
    }

    async fn watch(
        &mut self,
        mut second: SecondHello,
        client: &TcpSocket,
        upstream: &TcpSocket,
        mut part: Vec<u8>,
        session: &Session,
    ) -> Result<Vec<u8>, End> {
        let bytes = session.record.bytes();
        // Looked at when something comes: a silent client costs no timer, and is ended by the relay.
        let until = Instant::now() + HANDSHAKE_TIME;
        loop {
            if second.watch() == Watch::Changed {
                self.changed = true;
                return if mismatched(session) { Ok(part) } else { Err(End::Refused) };
            }
            if second.watch() == Watch::Over || bytes.totals().1 > ANSWERED {
                return Ok(part);
            }
            upstream.write_all(&part).await.map_err(|_| End::UpstreamReset)?;
            bytes.up(part.len());
            client.idle_timer().touch();
            part.clear();
            while part.is_empty() {
                client.readable().await.map_err(|_| End::ClientReset)?;
                if Instant::now() >= until {
                    return Ok(part);
                }
                match read_shared(client, PART, |read| part.extend_from_slice(read)) {
                    // The relay meets the same end.
                    Ok(0) => return Ok(part),
                    Ok(_) => {}
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return Err(End::ClientReset),
                }
            }
            second.feed(&part);
        }
    }

    /// Makes a changed hello the record's verdict.
    pub(super) fn note(&self, session: &mut Session) {
        let Session { record, registration, .. } = session;
        let Some(judged) = record.judgement().filter(|_| self.changed) else { return };
        // Where no policy was in force any more, by the verdict that had let it pass.
        let overruled = || judged.overruled(judged.verdict.mismatched(Action::Block));
        let judged = registration.last_judged().unwrap_or_else(overruled);
        record.ends_as(judged);
    }
}

/// Notes that a second hello names another host, of a connection whose hellos somebody else holds. Whether
/// it may go on all the same.
pub(super) fn changed(session: &mut Session) -> bool {
    let goes_on = mismatched(session);
    HelloRetryGuard { changed: true }.note(session);
    goes_on
}

/// The client has named another host than the one that was judged. Whether it may go on by the
/// policy in force: `observe` only notes it. The same is asked again when the policy changes.
fn mismatched(session: &Session) -> bool {
    let Some(Ok(subject)) = session.registration.mismatched() else { return false };
    let Some(judged) = session.worker.judged_at_once(&subject) else {
        // What a reload said of the first hello is no verdict on this one.
        drop(session.registration.last_judged());
        return false;
    };
    let goes_on = judged.verdict.action() != Action::Block;
    if goes_on {
        session.tell_again(&judged);
    }
    session.registration.judge(judged);
    goes_on
}
