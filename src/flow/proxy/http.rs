//! HTTP/1: CONNECT and absolute-form requests. Each request of a connection is judged by itself.

use std::cell::Cell;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderValue,
    TRANSFER_ENCODING,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::task::spawn_local;

use super::At;
use super::authority::Target;
use super::exchange;
use super::reach::{self, Missed, Reached, reach};
use super::tunnel;
use crate::account::{End, Record};
use crate::flow::accept::{Accepted, Door, Slot};
use crate::flow::forward::DialFault;
use crate::flow::gate::{self, Gate, Stop};
use crate::flow::refuse::{self, sf_string};
use crate::flow::seat::Seat;
use crate::flow::wire::Wire;
use crate::identify::{NameSource, Protocol};

/// The body of an answer: the gateway's own, or the destination's.
pub(super) type Body = Either<Full<Bytes>, Incoming>;

/// The most bytes and fields of a request's head; more is answered with 431.
const HEAD_MAX: usize = 64 * 1024;
const FIELDS_MAX: usize = 128;

/// The least time for a request's head, the wait for the next request of a connection included.
const HEAD_TIME: Duration = Duration::from_secs(15);

/// What the requests of one connection share.
struct Connection {
    gate: Rc<Gate>,
    peer: SocketAddr,
    door: Rc<Door>,
    /// Held as long as the connection, or a tunnel that came of it.
    slot: Option<Slot>,
    requests: Cell<u64>,
}

/// A refusal on a silent listener: the connection closes without an answer.
#[derive(Debug, thiserror::Error)]
#[error("refused in silence")]
struct Silence;

/// Serves one HTTP client, request by request.
pub(super) async fn serve(client: Accepted, gate: Rc<Gate>) {
    let Accepted { wire, peer, door, slot } = client;
    let head_time = door.peek_timeout.max(HEAD_TIME);
    let (requests, connection_gate) = (Cell::new(0), Rc::clone(&gate));
    let shared = Rc::new(Connection { gate: connection_gate, peer, door, slot, requests });
    let answered = Rc::clone(&shared);
    let service = service_fn(move |request| answer(request, Rc::clone(&answered)));
    let mut served = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(head_time)
            .max_buf_size(HEAD_MAX)
            .max_headers(FIELDS_MAX)
            .half_close(true)
            .serve_connection(TokioIo::new(wire), service)
            .with_upgrades()
    );
    // A request has its own time, and a connection between two of them its own patience.
    let seat = Seat::take(&gate, None);
    let mut stopping = gate.stopping.subscribe();
    let ended = tokio::select! {
        biased;
        end = seat.cut() => Err(end),
        ended = served.as_mut() => Ok(ended),
        _ = stopping.wait_for(|&stopping| stopping) => {
            served.as_mut().graceful_shutdown();
            tokio::select! {
                end = seat.cut() => Err(end),
                ended = served => Ok(ended),
            }
        }
    };
    let ended = match ended {
        Ok(ended) => ended,
        Err(end) => {
            if shared.requests.get() == 0 {
                gate.account.open(peer, shared.door.way).finish(end);
            }
            return;
        }
    };
    // Each request keeps a record of its own; a connection that brought none has one as well.
    let is_bad = ended.as_ref().is_err_and(|fault| fault.is_parse() || fault.is_timeout());
    if shared.requests.get() == 0 || (is_bad && !ended.is_err_and(|fault| fault.is_timeout())) {
        let end = if is_bad { End::BadRequest } else { End::ClientGone };
        gate.account.open(peer, shared.door.way).finish(end);
    }
}

async fn answer(
    mut request: Request<Incoming>,
    on: Rc<Connection>,
) -> Result<Response<Body>, Silence> {
    on.requests.set(on.requests.get() + 1);
    let upgrade = (request.method() == Method::CONNECT).then(|| hyper::upgrade::on(&mut request));
    let record = on.gate.account.open(on.peer, on.door.way);
    match wanted(&request) {
        Ok(target) => Box::pin(serve_one(request, target, upgrade, record, on)).await,
        Err(what) => {
            record.finish(End::BadRequest);
            dismiss(upgrade, on);
            Ok(fault(StatusCode::BAD_REQUEST, "http_request_error", what))
        }
    }
}

/// Hyper hands the stream of a CONNECT over whatever the answer was, and does not close it. The
/// answer must still arrive, and what the client sent behind its request is discarded.
fn dismiss(upgrade: Option<OnUpgrade>, on: Rc<Connection>) {
    let Some(upgrade) = upgrade else { return };
    spawn_local(async move {
        if let Some((wire, _)) = taken_over(upgrade).await {
            refuse::say(wire, b"").await;
        }
        drop(on);
    });
}

/// The stream behind an answered CONNECT, and what was read of it beyond the request.
async fn taken_over(upgrade: OnUpgrade) -> Option<(Wire, Vec<u8>)> {
    let parts = upgrade.await.ok()?.downcast::<TokioIo<Wire>>().ok()?;
    Some((parts.io.into_inner(), parts.read_buf.to_vec()))
}

async fn serve_one(
    request: Request<Incoming>,
    target: Target,
    upgrade: Option<OnUpgrade>,
    mut record: Record,
    on: Rc<Connection>,
) -> Result<Response<Body>, Silence> {
    let seat = Seat::take(&on.gate, on.door.lifetime);
    let (protocol, source) = if upgrade.is_some() {
        (Protocol::Tls, NameSource::Connect)
    } else {
        (Protocol::Http, NameSource::HttpHost)
    };
    let wanted = reach::Request { target, protocol, source, has_room: on.slot.is_some() };
    let at = At { gate: &on.gate, door: &on.door, seat: &seat };
    let reached = tokio::select! {
        biased;
        end = seat.cut() => {
            gate::close(record, &seat, end);
            dismiss(upgrade, Rc::clone(&on));
            return Ok(fault(StatusCode::SERVICE_UNAVAILABLE, "connection_terminated", "closing"));
        }
        reached = reach(&wanted, &at, &mut record) => reached,
    };
    let reached = match reached {
        Ok(reached) => reached,
        Err(missed) => {
            let accept = request.headers().get(ACCEPT).map_or(&b""[..], HeaderValue::as_bytes);
            let answer = missed_answer(&missed, accept, on.door.silent);
            gate::close(record, &seat, missed.end());
            dismiss(upgrade, on);
            return answer;
        }
    };
    if let Some(upgrade) = upgrade {
        spawn_local(serve_tunnel(upgrade, reached, seat, record, on));
        return Ok(Response::new(Either::Left(Full::default())));
    }
    let idle = on.door.patience.idle;
    let got = exchange::run(request, target, reached.upstream, seat, record, idle).await;
    Ok(got.map_or_else(
        |_| {
            let what = "the destination did not answer the request";
            fault(StatusCode::BAD_GATEWAY, "connection_terminated", what)
        },
        |response| response.map(Either::Right),
    ))
}

async fn serve_tunnel(
    upgrade: OnUpgrade,
    reached: Reached,
    seat: Seat,
    mut record: Record,
    on: Rc<Connection>,
) {
    let at = At { gate: &on.gate, door: &on.door, seat: &seat };
    let relayed = async {
        match taken_over(upgrade).await {
            Some((wire, held)) => tunnel::run(wire, held, reached, &at, &mut record).await,
            None => End::ClientReset,
        }
    };
    let end = tokio::select! {
        biased;
        end = seat.cut() => end,
        end = relayed => end,
    };
    gate::close(record, &seat, end);
}

/// Where a request goes. The target decides; a Host field that says otherwise is a fault, since the
/// destination might follow it.
fn wanted(request: &Request<Incoming>) -> Result<Target, &'static str> {
    parse_target(request.method(), request.uri(), request.version(), request.headers())
}

fn parse_target(
    method: &Method,
    uri: &hyper::Uri,
    version: Version,
    headers: &HeaderMap,
) -> Result<Target, &'static str> {
    let is_tunnel = method == Method::CONNECT;
    let default_port = if is_tunnel { None } else { Some(80) };
    let authority = uri.authority().ok_or("a proxy needs the whole address of the destination")?;
    if !is_tunnel && uri.scheme_str() != Some("http") {
        return Err("only http addresses can be asked for; use CONNECT for the others");
    }
    let target = Target::parse(authority.as_str().as_bytes(), default_port).map_err(
        |_| "the destination is no host and port, or one that could be read in two ways",
    )?;
    if headers.contains_key(CONTENT_LENGTH) && headers.contains_key(TRANSFER_ENCODING) {
        return Err("the length of the body is given twice");
    }
    if is_tunnel && (has_body(headers)) {
        return Err("a CONNECT request has no body");
    }
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => {
            let port = default_port.unwrap_or(target.port);
            match Target::parse(host.as_bytes(), Some(port)) {
                Ok(host) if host == target => Ok(target),
                _ => Err("the Host field names another host than the request"),
            }
        }
        (Some(_), Some(_)) => Err("there are two Host fields"),
        // Older clients leave it out of a CONNECT, where the target says it all.
        (None, _) if is_tunnel || version == Version::HTTP_10 => Ok(target),
        (None, _) => Err("the Host field is missing"),
    }
}

fn has_body(headers: &HeaderMap) -> bool {
    let length = headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0");
    length || headers.contains_key(TRANSFER_ENCODING)
}

fn missed_answer(missed: &Missed, accept: &[u8], silent: bool) -> Result<Response<Body>, Silence> {
    let (status, error, what) = match missed {
        Missed::Stopped(_) if silent => return Err(Silence),
        Missed::Stopped(Stop::Refused(refusal)) => {
            let notice = &refusal.notice;
            let (media_type, body) = notice.body(accept);
            let status = StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS;
            return Ok(whole(status, &notice.proxy_status(), media_type, body));
        }
        Missed::Stopped(Stop::Ended(_)) => {
            (StatusCode::BAD_GATEWAY, "proxy_internal_error", "the request was given up")
        }
        Missed::Unresolved => (StatusCode::BAD_GATEWAY, "dns_error", "the name has no address"),
        Missed::Undialled(DialFault::Refused) => {
            (StatusCode::BAD_GATEWAY, "connection_refused", "the destination refused")
        }
        Missed::Undialled(DialFault::TimedOut) => {
            (StatusCode::GATEWAY_TIMEOUT, "connection_timeout", "the destination did not answer")
        }
        Missed::Undialled(DialFault::Unreachable) => {
            (StatusCode::BAD_GATEWAY, "destination_ip_unroutable", "no way to the destination")
        }
        Missed::Undialled(DialFault::Failed(_)) => {
            (StatusCode::BAD_GATEWAY, "proxy_internal_error", "the gateway could not connect")
        }
    };
    Ok(fault(status, error, what))
}

/// An answer of the gateway's own; the connection closes after it, so that whatever was sent behind
/// the request is not taken for another one.
fn fault(status: StatusCode, error: &str, what: &str) -> Response<Body> {
    let proxy_status = format!("schengate; error={error}; details={}", sf_string(what));
    let problem = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason(),
        "status": status.as_u16(),
        "detail": what,
    });
    whole(status, &proxy_status, "application/problem+json", format!("{problem}\n"))
}

fn whole(
    status: StatusCode,
    proxy_status: &str,
    media_type: &'static str,
    body: String,
) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::from(body)));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    // `sf_string` leaves printable ASCII only, which is always a field value.
    if let Ok(value) = HeaderValue::from_str(proxy_status) {
        fields.insert("proxy-status", value);
    }
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    fields.insert(CONNECTION, HeaderValue::from_static("close"));
    fields.insert("cache-control", HeaderValue::from_static("no-store"));
    response
}
