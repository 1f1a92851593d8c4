//! DATA PLANE, in the order in which a connection meets the files.
//!
//! [`serve`] is the walk: accept, origin, peek, identify, decide, forward or refuse, account.

mod accept;
mod bind;
mod drain;
mod forward;
mod gate;
mod judge;
mod origin;
mod peek;
mod proxy;
mod reactor;
mod refuse;
mod registry;
mod relay;
mod second;
mod settings;
#[cfg(test)]
mod tests;
mod udp;
mod wire;

use std::rc::Rc;

use tokio::task::spawn_local;

pub use drain::DataPlane;
pub use settings::{Datagrams, Listener, NameService, Settings, Socket};

use crate::account::{End, Record, Way};
use crate::policy::Permit;
use accept::Accepted;
use forward::Joined;
use gate::{Gate, Stop};
use judge::Asked;
use peek::Seen;
use registry::Seat;

/// Serves one accepted connection to its end, in a task of its own.
fn serve(client: Accepted, gate: Rc<Gate>) {
    // It ends by itself, and with the runtime at the latest.
    match client.door.way {
        Way::Tproxy | Way::Redirect => drop(spawn_local(serve_transparent(client, gate))),
        Way::Proxy => drop(spawn_local(proxy::serve(client, gate))),
    }
}

async fn serve_transparent(client: Accepted, gate: Rc<Gate>) {
    let mut record = gate.account.open(client.peer, client.door.way);
    let seat = gate.registry.seat(client.door.lifetime);
    // Boxed, so that what only the judgement and the dial need does not last as long as the relay.
    let walk = Box::pin(walk(client, &gate, &seat, &mut record));
    let walked = tokio::select! {
        biased;
        end = seat.cut() => Err(end),
        walked = walk => walked,
    };
    let end = match walked {
        Ok(joined) => tokio::select! {
            biased;
            end = seat.cut() => end,
            end = joined.relay(&mut record) => end,
        },
        Err(end) => end,
    };
    gate::close(record, &seat, end);
}

async fn walk(
    client: Accepted,
    gate: &Gate,
    seat: &Seat,
    record: &mut Record,
) -> Result<Joined, End> {
    let mut seen = Seen::default();
    match judge(&client, &mut seen, gate, seat, record).await {
        Ok(permit) => forward::run(client, seen, permit, record).await,
        Err(Stop::Refused(refusal)) => {
            Err(refuse::run(client.wire, seen.bytes(), *refusal, client.door.silent).await)
        }
        Err(Stop::Ended(end)) => Err(end),
    }
}

async fn judge(
    client: &Accepted,
    seen: &mut Seen,
    gate: &Gate,
    seat: &Seat,
    record: &mut Record,
) -> Result<Permit, Stop> {
    let origin = gate.origin(client, record)?;
    let asked = Asked::unread(record.client().ip(), origin);
    if let Some(verdict) = gate.admit_unread(&asked, seat, record) {
        return gate.shaped(verdict, client, seen, asked, record).await;
    }
    let asked = gate.read(client, seen, asked, record).await?;
    gate.admit(asked, seat, record).await
}
