//! The inside of an explicit tunnel: nothing of the client's first flight goes on before it was
//! read, and judged with what it says.

use std::sync::Arc;

use tokio::time::Instant;

use super::At;
use super::reach::Reached;
use crate::account::{End, Hello, Record};
use crate::flow::gate::{Stop, read_until, result};
use crate::flow::judge::Asked;
use crate::flow::peek::{Ended, Seen};
use crate::flow::refuse;
use crate::flow::relay;
use crate::flow::second::{self, Follower};
use crate::flow::wire::Wire;
use crate::identify::{HostName, Identity, Progress, Protocol, Step, each_name, identify_further};

/// Relays the tunnel to its end. `held` is what the client sent before it was told that the tunnel
/// is open. Where the policy lets any protocol pass, the destination may speak first.
pub(super) async fn run(
    client: Wire,
    held: Vec<u8>,
    reached: Reached,
    at: &At<'_>,
    record: &mut Record,
) -> End {
    let Reached { upstream, asked } = reached;
    let bytes = Arc::clone(record.bytes());
    let idle = at.door.patience;
    let server_may_speak = at.gate.permits(&Asked { protocol: Protocol::Other, ..asked.clone() });
    let mut seen = Seen::with(held);
    let mut stop = None;
    let mut follower = None;
    let opening = Box::pin(async {
        let flight = Flight { client: &client, asked, waits: server_may_speak };
        Box::pin(flight.judge(&mut seen, at, record)).await.map_err(|stopped| match stopped {
            Stop::Ended(end) => end,
            Stop::Refused(refusal) => {
                stop = Some(refusal);
                End::Refused
            }
        })?;
        let first = std::mem::take(&mut seen).into_bytes();
        let follower = follower.insert(Follower::default());
        // Where the destination may not speak before the hello was judged, it may from here on.
        if !server_may_speak {
            return Ok(first);
        }
        follower.follow(&client, &upstream, &bytes, first, at.seat, record.judgement()).await
    });
    let end = if server_may_speak {
        relay::run(&client, &upstream, opening, idle, &bytes).await
    } else {
        match opening.await {
            Ok(first) => {
                return second::run(&client, &upstream, first, idle, at.seat, record).await;
            }
            Err(end) => end,
        }
    };
    if let Some(follower) = follower {
        follower.note(at.seat, record);
    }
    match stop {
        // Once the destination has spoken, an answer of ours would be a part of its own.
        Some(refusal) if bytes.totals().1 == 0 => {
            refuse::run(client, seen.bytes(), *refusal, at.door.silent).await
        }
        Some(_) | None => end,
    }
}

/// The first bytes inside a tunnel.
struct Flight<'a> {
    client: &'a Wire,
    asked: Asked,
    /// Whether the client may stay silent as long as it likes.
    waits: bool,
}

impl Flight<'_> {
    /// Reads the first flight; `Ok` where the policy lets it pass.
    async fn judge(self, seen: &mut Seen, at: &At<'_>, record: &mut Record) -> Result<(), Stop> {
        let gone = |_| Stop::Ended(End::ClientReset);
        if self.waits && seen.bytes().is_empty() {
            seen.more(self.client, None).await.map_err(gone)?;
        }
        if seen.bytes().is_empty() && seen.ended() == Some(Ended::Closed) {
            return Ok(());
        }
        let deadline = Instant::now() + at.door.peek_timeout;
        let mut progress = Progress::default();
        let inside = loop {
            match identify_further(seen.bytes(), seen.ended().is_some(), &mut progress) {
                Step::Done(identity) => break Inside::of(&identity, seen, &self.asked),
                // Whatever was read cannot be told: no name, and no protocol that carries one.
                Step::NeedMore(_) if seen.ended().is_some() => break Inside::untold(&self.asked),
                Step::NeedMore(missing) => {
                    read_until(missing, seen, self.client, deadline).await.map_err(gone)?;
                }
            }
        };
        record.metrics().hello(inside.hello, record.age());
        if let Some(other) = inside.other {
            record.heard_inside(other);
        }
        // The tunnel's own name stays; a tunnel to an address gets the name that was read inside,
        // as something that the client says.
        let name = self.asked.name.or(inside.read.name);
        let (tie, mismatched) = (self.asked.tie, inside.unreadable);
        let asked = Asked { name, tie, inside: inside.other, mismatched, ..inside.read };
        at.gate.admit(asked, at.seat, record).await.map(drop)
    }
}

/// What the first flight says of itself.
struct Inside {
    /// The tunnel's question with what was read.
    read: Asked,
    hello: Hello,
    /// The host that a hello names, where it is not the tunnel's.
    other: Option<HostName>,
    /// A hello that cannot be read, which might name anybody.
    unreadable: bool,
}

impl Inside {
    fn of(identity: &Identity<'_>, seen: &Seen, tunnel: &Asked) -> Self {
        let read = tunnel.clone().read(identity, |see| each_name(seen.bytes(), see));
        let (other, unreadable) = match (&tunnel.name, identity.protocol) {
            (Some((host, _)), Protocol::Tls) => {
                let other = read.name.map(|(name, _)| name).filter(|name| name != host);
                (other, identity.fault.is_some())
            }
            // A tunnel to an address has no name to differ from, and POLICY.md §3 compares hellos.
            (None, _) | (_, Protocol::Http | Protocol::Quic | Protocol::Dtls | Protocol::Other) => {
                (None, false)
            }
        };
        Self { read, hello: result(identity, seen), other, unreadable }
    }

    fn untold(tunnel: &Asked) -> Self {
        let read = Asked { protocol: Protocol::Other, ech: false, ..tunnel.clone() };
        Self { read, hello: Hello::Other, other: None, unreadable: false }
    }
}
