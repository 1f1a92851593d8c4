//! Serves the explicit HTTP proxy: CONNECT and absolute-form requests. Each request of a connection is
//! judged by itself, and dialled by itself.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::tunnel::{self, CLOSING, give_up};
use crate::account::End;
use crate::egress::connect::DialFault;
use crate::flow::authority::Target;
use crate::flow::first_flight::{FirstFlight, read_until};
use crate::flow::http::{self, Client, Done, Held, Next, Order, SCHEME, Upstream};
use crate::flow::refuse::{
    self, BAD_GATEWAY, BAD_REQUEST, FROM_A_PROGRAM, LATER, Purpose, Rejection, Status, TIMEOUT,
    UNAVAILABLE, Unserved,
};
use crate::flow::registry::Registration;
use crate::flow::resolve::{self, ConnectError, Connected, resolve_and_dial};
use crate::flow::session::{Connection, Session, run_until};
use crate::identify::http::{Form, Head};
use crate::identify::{
    Fault, Host, NameSource, Progress, Protocol, Step, identify, identify_further,
};
use crate::net::socket::TcpSocket;

/// The most fields of a request's head; more is answered with 431.
const FIELDS_MAX: usize = 1000;

/// The most time between two requests of a connection.
const KEPT: Duration = Duration::from_secs(120);

const TIMED_OUT: Status = Status(408, "Request Timeout");
const TOO_LARGE: Status = Status(431, "Request Header Fields Too Large");

/// What the client of a CONNECT is told.
const OPEN: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";

/// Serves one HTTP client, request by request.
pub(super) async fn serve(client: TcpSocket, connection: Connection) {
    let Connection { worker, listener, peer, .. } = &connection;
    // A request has its own time; this is the connection's.
    let place = connection.register();
    let mut client = Client::new(client, Held::default());
    let timeout = listener.idle_timeout.min(KEPT);
    let mut is_first = true;
    loop {
        let end =
            match client.next(None, place.closed(), worker.stopping.subscribe(), timeout).await {
                Next::Bytes => None,
                Next::Over => Some(End::ClientGone),
                Next::Cut(end) => Some(end),
            };
        if let Some(end) = end {
            // Each request keeps a record of its own; a connection that brought none has one as well.
            if is_first {
                worker.account.open(*peer, listener.ingress()).finish(end);
            }
            if end == End::ClientGone {
                client.close(listener.timeouts().half_closed).await;
            }
            return;
        }
        is_first = false;
        match Box::pin(one(client, &place, &connection)).await {
            Some(back) => client = back,
            None => return,
        }
    }
}

/// Serves one request; gives the client back where another may follow.
async fn one(mut client: Client, place: &Registration, connection: &Connection) -> Option<Client> {
    let mut session = connection.begin();
    let listener = &connection.listener;
    let mut seen = FirstFlight::with(client.held.take());
    let closed = session.registration.either_closed(place);
    let read =
        run_until(closed, pin!(read(&client.socket, &mut seen, listener.peek_timeout))).await;
    client.held = Held::with(seen.into_bytes());
    connection.slot.heard();
    if let Err(end) = read.flatten() {
        session.close(end);
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
            let asked = Purpose::of(&session.record);
            session.close(End::BadRequest);
            let said = format!("The gateway does not take this request: {what}.");
            let unserved = Unserved(status, "http_request_error", &what);
            let answer = unserved.answer(asked, Some(said), FROM_A_PROGRAM, bytes);
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
    let wanted = resolve::Request { target, protocol, source };
    let closed = session.registration.either_closed(place);
    let reached = run_until(closed, pin!(resolve_and_dial(&wanted, &mut session))).await;
    let Connected { upstream, subject } = match reached {
        Ok(Ok(reached)) => reached,
        Ok(Err(missed)) => {
            let event = session.record.id();
            session.close(missed.end());
            let is_refused = matches!(missed, ConnectError::Stopped(_));
            if is_refused && listener.silent {
                client.close(Duration::ZERO).await;
            } else {
                client.last(&missed_answer(&missed, &wanted.target, event, &head)).await;
            }
            return None;
        }
        Err(end) => {
            let asked = Purpose::of(&session.record);
            session.close(end);
            let unserved = Unserved(UNAVAILABLE, "connection_terminated", CLOSING);
            client.last(&unserved.answer(asked, None, LATER, &head)).await;
            return None;
        }
    };
    if order.is_connect() {
        connected(client, Connected { upstream, subject }, connection, session).await;
        return None;
    }
    let mut upstream = Upstream::new(upstream, subject.destination);
    let answered = {
        let last = *connection.worker.stopping.borrow();
        let (bytes, timeouts) = (Arc::clone(session.record.bytes()), listener.timeouts());
        let closed = session.registration.either_closed(place);
        http::run(&mut client, &mut upstream, &order, &bytes, timeouts, last, closed).await
    };
    match answered {
        Ok(Done::Whole { client_stays, .. }) => {
            upstream.socket.end_in_order();
            client.answered(session.into_record());
            if client_stays {
                return Some(client);
            }
            drop(upstream);
            client.close(listener.timeouts().half_closed).await;
        }
        // Nobody asked for another protocol.
        Ok(Done::Switched { .. }) => session.close(End::BadAnswer),
        Err(broken) => {
            drop(upstream);
            give_up(client, broken, &order, session).await;
        }
    }
    None
}

/// Opens the tunnel of a CONNECT, and serves it.
async fn connected(client: Client, reached: Connected, connection: &Connection, session: Session) {
    let (socket, held) = client.into_socket().await;
    let told = run_until(session.closed(), pin!(socket.write_all(OPEN))).await;
    match told {
        Ok(Ok(())) => tunnel::run(socket, held, reached, connection, session).await,
        Ok(Err(_)) => session.close(End::ClientReset),
        Err(end) => session.close(end),
    }
}

/// Reads a whole head, or as much of one as comes in time.
async fn read(client: &TcpSocket, seen: &mut FirstFlight, time: Duration) -> Result<(), End> {
    let deadline = Instant::now() + time;
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
    let Some(head) = head else { return bad("this is not an HTTP/1 request") };
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
        return bad(
            "the destination is not a host and a port, or one that could be read in two ways",
        );
    };
    if is_tunnel {
        return Ok((target, Order::captured(bytes, head)));
    }
    Ok((target, Order::explicit(bytes, head, &target.to_field(80))))
}

/// What the client is told whose destination was not reached.
fn missed_answer(missed: &ConnectError, target: &Target, event: String, request: &[u8]) -> Vec<u8> {
    // No target has the port 0, so that the port is said.
    let at = target.to_field(0);
    let (host, destination) = match target.host {
        Host::Name(name) => (Some(name.to_string()), None),
        Host::Address(_) => (None, Some(at.clone())),
    };
    let name = host.as_deref().unwrap_or(&at);
    let (unserved, said, what_to_do) = match missed {
        ConnectError::Stopped(Rejection::Refused(refusal)) => {
            return refuse::response(&refusal.notice, request);
        }
        ConnectError::Stopped(Rejection::Ended(_)) => (
            Unserved(BAD_GATEWAY, "proxy_internal_error", "the request was given up"),
            format!("The gateway gave up the request for {at}."),
            LATER,
        ),
        ConnectError::Unresolved => (
            Unserved(BAD_GATEWAY, "dns_error", "the name has no address"),
            format!("The name {name} has no address."),
            "Check the spelling.",
        ),
        ConnectError::Unanswered => (
            Unserved(BAD_GATEWAY, "dns_error", "the name has no address"),
            format!("No name server told the gateway in time where {name} is."),
            LATER,
        ),
        ConnectError::Undialled(DialFault::Refused) => (
            Unserved(BAD_GATEWAY, "connection_refused", "the destination refused"),
            format!("{at} refused the connection: nothing serves that port there."),
            "Check the port, or ask those who run that site.",
        ),
        ConnectError::Undialled(DialFault::TimedOut) => (
            Unserved(TIMEOUT, "connection_timeout", "the destination did not answer"),
            format!("{at} did not answer in time."),
            LATER,
        ),
        ConnectError::Undialled(DialFault::Unreachable) => (
            Unserved(BAD_GATEWAY, "destination_ip_unroutable", "no way to the destination"),
            format!("There is no way from the gateway to {at}."),
            LATER,
        ),
        ConnectError::Undialled(DialFault::Failed(_)) => (
            Unserved(BAD_GATEWAY, "proxy_internal_error", "the gateway could not connect"),
            format!("The gateway could not connect to {at}."),
            LATER,
        ),
    };
    let asked = Purpose { host, destination, event };
    unserved.answer(asked, Some(said), what_to_do, request)
}
