//! The walk of a transparent connection: origin, first flight, verdict, dial, relay.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;

use tokio::task::spawn_local;

use super::admit::{self, refused};
use super::first_flight::{self, Seen};
use super::forward::{self, Joined};
use super::gate::Gate;
use super::judge::{Asked, First};
use super::listener::Accepted;
use super::origin;
use super::proxy;
use super::refuse::{self, Stop};
use super::seat::Seat;
use super::starttls::{self, Dialogue, Spoken};
use crate::account::{End, Record, Way};
use crate::policy::{Permit, Verdict};

/// Serves one accepted connection to its end, in a task of its own.
pub(super) fn serve(client: Accepted, gate: Rc<Gate>) {
    // It ends by itself, and with the runtime at the latest.
    match client.door.way {
        Way::Tproxy | Way::Redirect => drop(spawn_local(serve_transparent(client, gate))),
        Way::Proxy | Way::Dns => drop(spawn_local(proxy::serve(client, gate))),
    }
}

pub(super) fn serve_transparent(client: Accepted, gate: Rc<Gate>) -> impl Future<Output = ()> {
    // Boxed: what only the judgement and the dial need does not last as long as the relay.
    let opened = Box::pin(open(client, gate));
    async move {
        // Made in its place: a connection has room for one of them.
        let relay = pin!(match opened.await {
            Some((joined, record, seat)) => joined.relay(record, seat),
            None => return,
        });
        relay.await;
    }
}

/// Judges and dials; [`None`] where the connection ended with that, and its record is closed, or was
/// served request by request.
async fn open(client: Accepted, gate: Rc<Gate>) -> Option<(Joined, Record, Seat)> {
    let mut record = gate.account.open(client.peer, client.door.way);
    let seat = Seat::take(&gate, client.door.lifetime);
    let walk = walk(client, &gate, &seat, &mut record);
    let walked = tokio::select! {
        biased;
        end = seat.cut() => Err(end),
        walked = walk => walked,
    };
    let end = match walked {
        Ok(joined) if joined.is_open() => {
            Box::pin(proxy::captured(joined, record, seat)).await;
            return None;
        }
        Ok(mut joined) => match listened(&mut joined, &seat, &mut record).await {
            Ok(()) if joined.is_request() => {
                Box::pin(proxy::captured(joined, record, seat)).await;
                return None;
            }
            Ok(()) => return Some((joined, record, seat)),
            Err(Stop::Ended(end)) => end,
            Err(Stop::Refused(refusal)) => {
                let Joined { client, first, door, .. } = joined;
                refuse::run(client, &first, *refusal, door.silent).await
            }
        },
        Err(end) => end,
    };
    admit::close(record, &seat, end);
    None
}

/// Hears what the client says first, where its destination was judged without it.
async fn listened(joined: &mut Joined, seat: &Seat, record: &mut Record) -> Result<(), Stop> {
    if !joined.is_read_along() {
        return Ok(());
    }
    tokio::select! {
        biased;
        end = seat.cut() => Err(Stop::Ended(end)),
        listened = Box::pin(proxy::listen(joined, record, seat)) => listened,
    }
}

async fn walk(
    client: Accepted,
    gate: &Gate,
    seat: &Seat,
    record: &mut Record,
) -> Result<Joined, End> {
    let mut seen = Seen::default();
    let mut dialogue = None;
    let judged = judge(&client, &mut seen, &mut dialogue, gate, seat, record).await;
    client.slot.heard();
    match judged {
        Ok((permit, first)) => forward::run(client, seen, first, dialogue, permit, record).await,
        Err(Stop::Refused(refusal)) => {
            Err(refuse::run(client.wire, seen.bytes(), *refusal, client.door.silent).await)
        }
        Err(Stop::Ended(end)) => Err(end),
    }
}

async fn judge(
    client: &Accepted,
    seen: &mut Seen,
    dialogue: &mut Option<Dialogue>,
    gate: &Gate,
    seat: &Seat,
    record: &mut Record,
) -> Result<(Permit, First), Stop> {
    let origin = destination(client, record)?;
    let asked = Asked::unread(record.client().ip(), origin);
    if let Some((verdict, first)) = gate.admit_unread(&asked, seat, record) {
        let verdict = first_flight::shaped(verdict, client, seen, asked, record).await;
        return verdict.map(|permit| (permit, first));
    }
    let spoken = Spoken::on(origin.port()).filter(|_| client.door.starttls);
    let asked = match spoken {
        None => first_flight::read(client, seen, asked, record).await?,
        Some(spoken) => {
            // Boxed: few connections are played for.
            let played = starttls::play(spoken, client, seen, dialogue, asked, record);
            Box::pin(played).await?
        }
    };
    // A client that was silent has had its time, and not its say.
    let is_silent = seen.bytes().is_empty() && dialogue.is_none();
    let first = if is_silent { First::Judged } else { First::Settled };
    gate.admit(asked, seat, record).await.map(|permit| (permit, first))
}

/// Where a transparent client was going; what cannot be sent anywhere stops here.
fn destination(client: &Accepted, record: &mut Record) -> Result<SocketAddr, Stop> {
    let door = &client.door;
    let origin = match origin::of(&client.wire, door.way, door.address) {
        Ok(origin) => origin,
        Err(origin::Fault::Loop(to)) => return Err(refused(Verdict::looped(to), record)),
        Err(fault @ origin::Fault::Unknown(_)) => {
            tracing::warn!(fault = &fault as &dyn std::error::Error, listener = %door.address,
                "a connection that no rule of the firewall redirected");
            return Err(Stop::Ended(End::NoOrigin));
        }
    };
    record.bound_for(origin);
    if door.dialled.as_ref().is_some_and(|dialled| dialled.is_own(client.peer, origin)) {
        return Err(refused(Verdict::looped(origin), record));
    }
    Ok(origin)
}
