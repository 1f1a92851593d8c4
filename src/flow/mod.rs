//! DATA PLANE, in the order in which a connection meets the files.
//!
//! [`serve`] is the walk: accept, origin, peek, identify, decide, forward or refuse, account.

mod accept;
mod bind;
mod dns;
mod drain;
mod forward;
mod gate;
mod judge;
mod origin;
mod peek;
mod proxy;
mod refuse;
mod registry;
mod relay;
mod second;
mod settings;
mod starttls;
#[cfg(test)]
mod tests;
mod udp;
mod wire;

use std::rc::Rc;

pub use drain::DataPlane;
pub use settings::{Datagrams, Dns, Listener, NameService, Resolver, Settings, Socket};

use crate::account::{End, Record, Way};
use crate::policy::Permit;
use accept::Accepted;
use gate::{Gate, Stop};
use judge::Asked;
use peek::Seen;
use registry::Seat;
use starttls::{Dialogue, Spoken};

/// Serves one accepted connection to its end.
async fn serve(client: Accepted, gate: Rc<Gate>) {
    match client.door.way {
        Way::Tproxy | Way::Redirect => serve_transparent(client, &gate).await,
        // Boxed, so that a transparent connection does not hold room for an explicit one.
        Way::Proxy | Way::Dns => Box::pin(proxy::serve(client, gate)).await,
    }
}

async fn serve_transparent(client: Accepted, gate: &Gate) {
    let mut record = gate.account.open(client.peer, client.door.way);
    let seat = gate.registry.seat();
    let end = tokio::select! {
        biased;
        end = seat.cut() => end,
        end = walk(client, gate, &seat, &mut record) => end,
    };
    gate::close(record, &seat, end);
}

async fn walk(client: Accepted, gate: &Gate, seat: &Seat, record: &mut Record) -> End {
    let mut seen = Seen::default();
    let mut dialogue = None;
    // Boxed, so that what only the judgement needs does not last as long as the relay.
    match Box::pin(judge(&client, &mut seen, &mut dialogue, gate, seat, record)).await {
        Ok(permit) => forward::run(client.wire, seen, dialogue, permit, &client.door, record).await,
        Err(Stop::Refused(refusal)) => {
            Box::pin(refuse::run(client.wire, seen.bytes(), *refusal, client.door.silent)).await
        }
        Err(Stop::Ended(end)) => end,
    }
}

async fn judge(
    client: &Accepted,
    seen: &mut Seen,
    dialogue: &mut Option<Dialogue>,
    gate: &Gate,
    seat: &Seat,
    record: &mut Record,
) -> Result<Permit, Stop> {
    let origin = gate.origin(client, record)?;
    let asked = Asked::unread(record.client().ip(), origin);
    if let Some(verdict) = gate.admit_unread(&asked, seat, record) {
        return gate.shaped(verdict, client, seen, asked, record).await;
    }
    let spoken = Spoken::on(origin.port()).filter(|_| client.door.starttls);
    let asked = match spoken {
        None => gate.read(client, seen, asked, record).await?,
        Some(spoken) => {
            // Boxed: few connections are played for.
            let played = starttls::play(spoken, client, seen, dialogue, gate, asked, record);
            Box::pin(played).await?
        }
    };
    gate.admit(asked, seat, record).await
}
