//! Dials what was permitted, and nothing else; then relays.

use super::along;
use super::evaluate::{First, Subject};
use super::first_flight::FirstFlight;
use super::hello_retry::{HelloRetryGuard, Opening};
use super::http;
use super::listener::Slot;
use super::refuse;
use super::relay;
use super::session::Session;
use super::starttls::{self, Preamble};
use crate::account::End;
use crate::egress::connect::connect;
use crate::identify::{Identity, Step, each_name, identify};
use crate::net::socket::TcpSocket;
use crate::policy::Permit;

/// Dials the permitted destination. One that cannot be reached is a reset for the client, as it would
/// be without a gateway.
pub(super) async fn run(
    client: TcpSocket,
    slot: Slot,
    seen: FirstFlight,
    first: First,
    preamble: Option<Preamble>,
    permit: Permit,
    session: &mut Session,
) -> Result<Joined, End> {
    let Session { listener, record, .. } = session;
    if seen.bytes().first() != Some(&HANDSHAKE) {
        // Only a whole hello is certain to be answered before the client says more.
        client.quickack();
    }
    let source = listener.source(record.client().ip());
    // Behind an upgrade the destination speaks first.
    let speaks = !seen.bytes().is_empty() && preamble.is_none();
    // Before anything that the destination could see.
    record.forwarding()?;
    let dialled = connect(&permit, listener, speaks, source, record.metrics()).await;
    let upstream = dialled.map_err(|fault| fault.end())?;
    if let Some(preamble) = preamble
        && let Err(end) = Box::pin(preamble.replay(&upstream, &client)).await
    {
        if seen.bytes().first() == Some(&HANDSHAKE) && !listener.silent {
            refuse::say(client, &starttls::HANDSHAKE_FAILURE).await;
        }
        tracing::debug!(fault = %end, destination = %permit.destination(), "no upgrade to TLS");
        return Err(End::NoUpgrade);
    }
    let is_open = first == First::Judged;
    let is_read_along = !is_open && seen.bytes().is_empty();
    let first = seen.into_bytes().into();
    Ok(Joined { client, upstream, first, is_open, is_read_along, slot })
}

/// The type of a TLS record that holds a hello (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;

/// A client and its destination.
pub(super) struct Joined {
    pub(super) client: TcpSocket,
    pub(super) upstream: TcpSocket,
    /// What was read, and is to be replayed.
    pub(super) first: Box<[u8]>,
    /// The client has said nothing yet, and what it says is judged before it goes on.
    is_open: bool,
    /// It was judged without a byte, and what comes is read along.
    is_read_along: bool,
    /// Held as long as the connection.
    pub(super) slot: Slot,
}

impl Joined {
    /// Whether the client has its say before it, and what it says is judged.
    pub(super) const fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether it was judged without a byte, and nothing that comes can change that.
    pub(super) const fn is_read_along(&self) -> bool {
        self.is_read_along
    }

    /// Whether what was read begins with a request that can be answered by itself.
    pub(super) fn is_request(&self) -> bool {
        if matches!(*self.first, [] | [HANDSHAKE, ..]) {
            return false;
        }
        match identify(&self.first, true) {
            Step::Done(identity) => http::request(&identity).is_some(),
            Step::NeedMore(_) => false,
        }
    }

    /// Replays what was read, relays until the end, and closes the record.
    pub(super) fn relay(self, mut session: Session) -> impl Future<Output = ()> {
        let Self { client, upstream, first, is_read_along, slot, .. } = self;
        // A block: a function would hold its arguments twice, for as long as the connection lives.
        async move {
            let (mut guard, mut read) = (HelloRetryGuard::default(), None);
            let Session { listener, record, .. } = &session;
            let opening = match record.judgement().filter(|_| is_read_along) {
                Some(judged) => {
                    let subject = Subject::permitted(record.client().ip(), &judged.verdict);
                    let learn = |identity: &Identity<'_>, seen: &[u8]| {
                        let subject = subject.read(identity, |see| each_name(seen, see));
                        let goes_on = session.learnt(&subject);
                        // Boxed: what was asked is large, and kept as long as the connection.
                        read = Some(Box::new(subject));
                        goes_on
                    };
                    let (bytes, time) = (record.bytes(), listener.peek_timeout);
                    let along = along::read(&client, &upstream, first.into(), bytes, time, learn);
                    Opening::Watched(Box::pin(along))
                }
                None => guard.follow(&client, &upstream, first.into(), &session),
            };
            // Made in its place: a connection has room for one of them.
            let end = tokio::select! {
                biased;
                end = session.closed() => end,
                end = relay::run(&client, &upstream, opening, listener.timeouts(), record.bytes()) => end,
            };
            guard.note(&mut session);
            if let Some(read) = read {
                session.label(&read);
            }
            drop((client, upstream, slot));
            session.close(end);
        }
    }
}
