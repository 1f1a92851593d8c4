//! Dials what was permitted, and nothing else.

use super::evaluate::First;
use super::first_flight::FirstFlight;
use super::http;
use super::refuse;
use super::session::Session;
use super::slots::Slot;
use super::starttls::{self, Preamble};
use crate::account::End;
use crate::egress::connect::connect;
use crate::identify::{Step, identify};
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
    record.forwarding().await?;
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
    pub(super) is_read_along: bool,
    /// Held as long as the connection.
    pub(super) slot: Slot,
}

impl Joined {
    /// Whether the client has its say before it, and what it says is judged.
    pub(super) const fn is_open(&self) -> bool {
        self.is_open
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
}
