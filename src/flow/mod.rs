//! DATA PLANE, in the order in which a connection meets the files.
//!
//! [`serve`] is the walk: accept, origin, peek, identify, decide, forward or refuse, account.
//!
//! # What a connection costs
//!
//! System calls of a connection that is permitted by its name: a hello of 517 bytes, an answer of
//! 100, closed by the server; eight at a time (`strace -c -f`, 1,000 connections):
//!
//! | calls | runtime's sockets, a wake-up a line | now |
//! |---|---|---|
//! | `epoll_wait`, `accept4` | 1.3, 1.6 | 1.3, 1.4 |
//! | `epoll_ctl` | 4.0 | 2.0 |
//! | `recvmsg`, `sendto` | 4.0, 2.0 | 4.0, 2.0 |
//! | `socket`, `connect`, `getsockname`, `shutdown` | 1.0 each | 1.0 each |
//! | `getsockopt`, `setsockopt` | 1.0, 2.0 | 0, 3.0 |
//! | `close` | 2.0 | 2.0 |
//! | `futex`, `write`: the record | 4.2, 2.6 | 0.1, 0.1 |
//! | all | 28.7 | 19.8 |
//!
//! Outside the kernel it takes some 28,300 instructions (`dist` profile, 1,300 connections,
//! `valgrind --tool=callgrind`), 4,100 of them for the two lines of its record. It took 58,500 while
//! those were made by a serializer and counters were shared, and 36,600 before what many connections
//! have in common was kept in words, and a connection was one task instead of two. mimalloc was tried
//! for the tenth that the allocator takes: it held 209 MB where glibc holds 65.
//!
//! While it is held and silent it takes a task of 640 bytes and some 600 beside it, in eight pieces:
//! what was asked and judged, the name, the counters, the place in the registry and in the reactor.
//!
//! A round trip of 64 B is two reads and two writes, and 2,400 instructions around them: what HAProxy
//! 2.6 and nginx call as well, so that all three cost the same within the noise.
//!
//! Packets that the gateway sends for it: 6.0, where HAProxy 2.6 sends 9.8 and a relay that reads and
//! judges nothing 10.0 (`/proc/net/dev`).

mod accept;
mod along;
mod bind;
mod clients;
mod close;
mod dialled;
mod dns;
mod drain;
mod forward;
mod gate;
mod http;
mod judge;
mod origin;
mod overload;
mod peek;
mod proxy;
mod reactor;
mod refuse;
mod registry;
mod relay;
mod seat;
mod second;
mod settings;
mod starttls;
#[cfg(test)]
mod tests;
mod udp;
mod wire;

use std::pin::pin;
use std::rc::Rc;

use tokio::task::spawn_local;

pub use drain::DataPlane;
pub use settings::{Datagrams, Dns, Listener, NameService, Resolver, Settings, Socket};

use crate::account::{End, Record, Way};
use crate::policy::Permit;
use accept::{Accepted, Slot};
use forward::Joined;
use gate::{First, Gate, Stop};
use judge::Asked;
use peek::Seen;
use seat::Seat;
use starttls::{Dialogue, Spoken};

/// Serves one accepted connection to its end, in a task of its own.
fn serve(client: Accepted, gate: Rc<Gate>) {
    // It ends by itself, and with the runtime at the latest.
    match client.door.way {
        Way::Tproxy | Way::Redirect => drop(spawn_local(serve_transparent(client, gate))),
        Way::Proxy | Way::Dns => drop(spawn_local(proxy::serve(client, gate))),
    }
}

fn serve_transparent(client: Accepted, gate: Rc<Gate>) -> impl Future<Output = ()> {
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
    gate::close(record, &seat, end);
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
    client.slot.iter().for_each(Slot::heard);
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
    let origin = gate.origin(client, record)?;
    let asked = Asked::unread(record.client().ip(), origin);
    if let Some((verdict, first)) = gate.admit_unread(&asked, seat, record) {
        let verdict = gate.shaped(verdict, client, seen, asked, record).await;
        return verdict.map(|permit| (permit, first));
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
    // A client that was silent has had its time, and not its say.
    let is_silent = seen.bytes().is_empty() && dialogue.is_none();
    let first = if is_silent { First::Judged } else { First::Settled };
    gate.admit(asked, seat, record).await.map(|permit| (permit, first))
}
