//! The explicit HTTP proxy: CONNECT and absolute-form requests. Each request of a connection is judged
//! by itself, and dialled by itself.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::tunnel::{self, CLOSING, either, give_up};
use crate::account::{End, Record};
use crate::flow::admit;
use crate::flow::authority::Target;
use crate::flow::connect::DialFault;
use crate::flow::first_flight::{Seen, read_until};
use crate::flow::gate::Gate;
use crate::flow::http::{self, Client, Done, Guest, Held, Next, Order, SCHEME, Upstream};
use crate::flow::listener::Accepted;
use crate::flow::reach::{self, At, Missed, Reached, reach};
use crate::flow::refuse::{BAD_GATEWAY, BAD_REQUEST, Status, Stop, TIMEOUT, UNAVAILABLE, problem};
use crate::flow::seat::Seat;
use crate::flow::wire::Wire;
use crate::identify::http::{Form, Head};
use crate::identify::{Fault, NameSource, Progress, Protocol, Step, identify, identify_further};

/// The most fields of a request's head; more is answered with 431.
const FIELDS_MAX: usize = 1000;

/// The most time between two requests of a connection.
const KEPT: Duration = Duration::from_secs(120);

const TIMED_OUT: Status = Status(408, "Request Timeout");
const TOO_LARGE: Status = Status(431, "Request Header Fields Too Large");

/// What the client of a CONNECT is told.
const OPEN: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";

/// Serves one HTTP client, request by request.
pub(super) async fn serve(client: Accepted, gate: Rc<Gate>) {
    let Accepted { wire, peer, door, slot } = client;
    let guest = Guest { gate, door, peer, slot };
    // A request has its own time; this is the connection's.
    let place = Seat::take(&guest.gate, guest.door.lifetime);
    let mut client = Client::new(wire, Held::default());
    let patience = guest.door.patience.idle.min(KEPT);
    let mut is_first = true;
    loop {
        let end = match client.next(None, &place, &guest, patience).await {
            Next::Bytes => None,
            Next::Over => Some(End::ClientGone),
            Next::Cut(end) => Some(end),
        };
        if let Some(end) = end {
            // Each request keeps a record of its own; a connection that brought none has one as well.
            if is_first {
                guest.gate.account.open(guest.peer, guest.door.way).finish(end);
            }
            if end == End::ClientGone {
                client.close(guest.door.patience.half_closed).await;
            }
            return;
        }
        is_first = false;
        match Box::pin(one(client, &place, &guest)).await {
            Some(back) => client = back,
            None => return,
        }
    }
}

/// Serves one request; gives the client back where another may follow.
async fn one(mut client: Client, place: &Seat, guest: &Guest) -> Option<Client> {
    let (mut record, seat) = guest.enter();
    let mut seen = Seen::with(client.held.take());
    let read = tokio::select! {
        biased;
        end = either(&seat, place) => Err(end),
        read = read(&client.wire, &mut seen, guest) => read,
    };
    client.held = Held::with(seen.into_bytes());
    guest.slot.heard();
    if let Err(end) = read {
        admit::close(record, &seat, end);
        return None;
    }
    let bytes = client.held.bytes();
    let wanted = match identify(bytes, true) {
        Step::Done(identity) => {
            let head = identity.http.filter(|_| identity.protocol == Protocol::Http);
            wanted(bytes, head.as_ref())
        }
        Step::NeedMore(_) => wanted(bytes, None),
    };
    let (target, order) = match wanted {
        Ok(wanted) => wanted,
        Err((status, what)) => {
            admit::close(record, &seat, End::BadRequest);
            let answer = problem(status, "http_request_error", &what, bytes);
            client.last(&answer).await;
            return None;
        }
    };
    let head = bytes.get(..order.length()).unwrap_or_default().to_vec();
    client.held.used(order.length());
    let (protocol, source) = if order.is_connect() {
        (Protocol::Tls, NameSource::Connect)
    } else {
        (Protocol::Http, NameSource::HttpHost)
    };
    let wanted = reach::Request { target, protocol, source };
    let at = At { gate: &guest.gate, door: &guest.door, seat: &seat };
    let reached = tokio::select! {
        biased;
        end = either(&seat, place) => Err(end),
        reached = reach(&wanted, &at, &mut record) => Ok(reached),
    };
    let Reached { upstream, asked } = match reached {
        Ok(Ok(reached)) => reached,
        Ok(Err(missed)) => {
            admit::close(record, &seat, missed.end());
            let is_refused = matches!(missed, Missed::Stopped(_));
            if is_refused && guest.door.silent {
                client.close(Duration::ZERO).await;
            } else {
                client.last(&missed_answer(&missed, &head)).await;
            }
            return None;
        }
        Err(end) => {
            admit::close(record, &seat, end);
            let answer = problem(UNAVAILABLE, "connection_terminated", CLOSING, &head);
            client.last(&answer).await;
            return None;
        }
    };
    if order.is_connect() {
        connected(client, Reached { upstream, asked }, guest, record, seat).await;
        return None;
    }
    let mut upstream = Upstream::new(upstream, asked.destination);
    let answered = {
        let last = *guest.gate.stopping.borrow();
        let (bytes, patience) = (Arc::clone(record.bytes()), guest.door.patience);
        let cut = either(&seat, place);
        http::run(&mut client, &mut upstream, &order, &bytes, patience, last, cut).await
    };
    match answered {
        Ok(Done::Whole { client_stays, .. }) => {
            upstream.wire.end_in_order();
            client.answered(record, &seat);
            if client_stays {
                return Some(client);
            }
            drop((upstream, seat));
            client.close(guest.door.patience.half_closed).await;
        }
        // Nobody asked for another protocol.
        Ok(Done::Switched { .. }) => admit::close(record, &seat, End::BadAnswer),
        Err(broken) => {
            drop(upstream);
            give_up(client, broken, &order, record, seat).await;
        }
    }
    None
}

/// Opens the tunnel of a CONNECT, and serves it.
async fn connected(client: Client, reached: Reached, guest: &Guest, record: Record, seat: Seat) {
    let (wire, held) = client.into_wire().await;
    let told = tokio::select! {
        biased;
        end = seat.cut() => Err(end),
        told = wire.write_all(OPEN) => told.map_err(|_| End::ClientReset),
    };
    match told {
        Ok(()) => tunnel::run(wire, held, reached, guest, record, seat).await,
        Err(end) => admit::close(record, &seat, end),
    }
}

/// Reads a whole head, or as much of one as comes in time.
async fn read(client: &Wire, seen: &mut Seen, guest: &Guest) -> Result<(), End> {
    let deadline = Instant::now() + guest.door.peek_timeout;
    let mut progress = Progress::default();
    loop {
        match identify_further(seen.bytes(), seen.ended().is_some(), &mut progress) {
            Step::Done(_) => return Ok(()),
            Step::NeedMore(_) if seen.ended().is_some() => return Ok(()),
            Step::NeedMore(missing) => {
                let read = read_until(missing, seen, client, deadline).await;
                read.map_err(|_| End::ClientReset)?;
            }
        }
    }
}

/// Where a request goes, and how it goes on. The target decides; a Host field that says otherwise is a
/// fault, since the destination might follow it.
fn wanted(bytes: &[u8], head: Option<&Head<'_>>) -> Result<(Target, Order), (Status, String)> {
    let bad = |what: &str| Err((BAD_REQUEST, what.to_owned()));
    let Some(head) = head else { return bad("this is no request of HTTP/1") };
    let is_tunnel = head.form == Form::Authority;
    match head.fault {
        None => {}
        // Older clients leave it out of a CONNECT, where the target says it all.
        Some(Fault::NoHost) if is_tunnel => {}
        Some(fault @ Fault::TooLarge) => return Err((TOO_LARGE, fault.to_string())),
        Some(Fault::Incomplete) => {
            return Err((TIMED_OUT, "the head of the request did not come in time".to_owned()));
        }
        Some(fault) => return bad(&fault.to_string()),
    }
    let bytes = bytes.get(..head.len).unwrap_or_default();
    if bytes.iter().filter(|&&byte| byte == b'\n').count() > FIELDS_MAX {
        return Err((TOO_LARGE, "the request has too many fields".to_owned()));
    }
    let authority = match (head.form, head.target_authority()) {
        (Form::Authority, Some(authority)) => authority,
        (Form::Absolute, Some(authority)) => {
            if !head.target.get(..SCHEME.len()).is_some_and(|s| s.eq_ignore_ascii_case(SCHEME)) {
                return bad("only http addresses can be asked for; use CONNECT for the others");
            }
            let behind = head.target.get(SCHEME.len() + authority.len()..).unwrap_or_default();
            if behind.iter().any(|byte| matches!(byte, b'#' | b'\\')) {
                return bad("the address of the destination could be read in two ways");
            }
            authority
        }
        _ => return bad("a proxy needs the whole address of the destination"),
    };
    let default_port = if is_tunnel { None } else { Some(80) };
    let Ok(target) = Target::parse(authority, default_port) else {
        return bad("the destination is no host and port, or one that could be read in two ways");
    };
    if is_tunnel {
        return Ok((target, Order::captured(bytes, head)));
    }
    Ok((target, Order::explicit(bytes, head, &target.to_field(80))))
}

fn missed_answer(missed: &Missed, request: &[u8]) -> Vec<u8> {
    let (status, error, what) = match missed {
        Missed::Stopped(Stop::Refused(refusal)) => return refusal.notice.response(request),
        Missed::Stopped(Stop::Ended(_)) => {
            (BAD_GATEWAY, "proxy_internal_error", "the request was given up")
        }
        Missed::Unresolved => (BAD_GATEWAY, "dns_error", "the name has no address"),
        Missed::Undialled(DialFault::Refused) => {
            (BAD_GATEWAY, "connection_refused", "the destination refused")
        }
        Missed::Undialled(DialFault::TimedOut) => {
            (TIMEOUT, "connection_timeout", "the destination did not answer")
        }
        Missed::Undialled(DialFault::Unreachable) => {
            (BAD_GATEWAY, "destination_ip_unroutable", "no way to the destination")
        }
        Missed::Undialled(DialFault::Failed(_)) => {
            (BAD_GATEWAY, "proxy_internal_error", "the gateway could not connect")
        }
    };
    problem(status, error, what, request)
}
