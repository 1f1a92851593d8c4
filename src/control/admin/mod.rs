//! What operators and their monitoring see: `/metrics`, `/healthz`, `/readyz`, the API and the page.
//! On a thread and a runtime of its own, so that a slow reader costs the data plane nothing.

mod access;
mod api;
mod console;
mod events;
mod health;
mod live;
mod markup;
mod page;
mod parameters;
mod places;
mod pulse;
mod shown;
pub mod units;
mod words;

use std::convert::Infallible;
use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY,
    WWW_AUTHENTICATE,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::yield_now;
use tokio::time::{interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;

pub use self::access::{Access, AccessFault, REQUEST};
use self::access::{Denied, Peer, Who, digest};
pub use self::console::{Console, Flows};
pub use self::health::{Health, OLD_TABLES, RECORD};
use self::parameters::Wrong;
use self::places::{Asking, Place, Places};
use self::pulse::Door;
use crate::account::{Account, Limit};
use crate::control::config::Admin;

/// Connections at once of the address, and as many of the socket: who may not open the socket takes no
/// place of those who may.
const CONNECTIONS_MAX: usize = 64;

/// Time for a request's head, and for a whole connection that is no stream.
const HEAD_TIME: Duration = Duration::from_secs(5);
const WHOLE_TIME: Duration = Duration::from_secs(30);

/// How long a stream lasts; who looks on comes back by itself.
const STREAM_TIME: Duration = Duration::from_secs(3600);

/// Bytes that the kernel holds for somebody who does not read.
const SEND_BUFFER: usize = 64 * 1024;

/// How often histogram samples are moved into their buckets.
const UPKEEP: Duration = Duration::from_secs(1);

/// Where requests come in, bound and not yet served: whoever asks waits.
#[derive(Debug)]
pub struct Doors {
    tcp: std::net::TcpListener,
    local: Option<std::os::unix::net::UnixListener>,
}

impl Doors {
    /// Binds the address, and the socket where there is one.
    ///
    /// # Errors
    /// Where one cannot be bound, with which.
    pub fn open(settings: &Admin) -> io::Result<Self> {
        let address = settings.address;
        let tcp = std::net::TcpListener::bind(address)
            .map_err(|e| io::Error::new(e.kind(), format!("admin listener {address}: {e}")))?;
        tcp.set_nonblocking(true)?;
        Ok(Self { tcp, local: settings.socket.as_deref().map(bind_local).transpose()? })
    }
}

/// Starts the server behind the doors, which answers those that `access` names, and returns the address
/// that it is bound to, and what it answers from. It lasts as long as the process.
///
/// # Errors
/// Where the thread cannot be started.
pub fn start(
    doors: Doors,
    access: Access,
    account: Account,
    health: Arc<Health>,
) -> io::Result<(SocketAddr, Arc<Console>)> {
    let bound = doors.tcp.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listeners = {
        let _inside = runtime.enter();
        let local = doors.local.map(UnixListener::from_std).transpose()?;
        Listeners { tcp: TcpListener::from_std(doors.tcp)?, local }
    };
    let console = Arc::new(Console::new(account, Arc::clone(&health), access));
    let served = Arc::clone(&console);
    let serve = move || {
        runtime.block_on(serve(listeners, served));
        // Readers that are slow are not waited for.
        runtime.shutdown_background();
    };
    let thread = thread::Builder::new().name("admin".to_owned()).spawn(serve)?;
    *health.closed.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
    Ok((bound, console))
}

/// Where requests come in.
struct Listeners {
    tcp: TcpListener,
    local: Option<UnixListener>,
}

/// A Unix socket at a path, for its owner and group. It takes the place of what an earlier process left
/// there, in one step: whoever asks meanwhile is answered by one of the two.
fn bind_local(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    let fault =
        |e: io::Error| io::Error::new(e.kind(), format!("[admin] socket {}: {e}", path.display()));
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}", std::process::id()));
    let aside = PathBuf::from(aside);
    let bind = || {
        let listener = std::os::unix::net::UnixListener::bind(&aside)?;
        std::fs::set_permissions(&aside, std::fs::Permissions::from_mode(0o660))?;
        std::fs::rename(&aside, path)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(|e| {
        std::fs::remove_file(&aside).ok();
        fault(e)
    })
}

/// One who came in.
enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Local(UnixStream),
}

impl Listeners {
    async fn accept(&self) -> io::Result<Accepted> {
        let local = async {
            match &self.local {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = self.tcp.accept() => accepted.map(|(stream, peer)| Accepted::Tcp(stream, peer)),
            accepted = local => accepted.map(|(stream, _)| Accepted::Local(stream)),
        }
    }
}

async fn serve(listeners: Listeners, console: Arc<Console>) {
    let [at_address, at_socket] = [(); 2].map(|()| Places::new(CONNECTIONS_MAX));
    let (mut upkeep, mut turns) = (interval(UPKEEP), interval(pulse::TURN));
    // What was missed is not made up for: a turn takes all there is.
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut closing = console.health.closing.subscribe();
    loop {
        let accepted = tokio::select! {
            accepted = listeners.accept() => accepted,
            // Whoever could close them is there as long as this is.
            _ = closing.wait_for(|closing| *closing) => return,
            _ = upkeep.tick() => {
                console.account.metrics().upkeep();
                continue;
            }
            _ = turns.tick() => {
                console.pulse.turn(Instant::now());
                continue;
            }
        };
        let accepted = match accepted {
            Ok(accepted) => accepted,
            Err(fault) => {
                tracing::warn!(%fault, "admin: accept");
                sleep(UPKEEP).await;
                continue;
            }
        };
        let place = match accepted {
            Accepted::Tcp(..) => at_address.take(),
            Accepted::Local(_) => at_socket.take(),
        };
        if place.as_ref().is_none_or(|(_, cost)| *cost) {
            console.account.metrics().limit_hit(Limit::Admin);
        }
        if let Some((place, _)) = place {
            tokio::spawn(admit(accepted, Arc::clone(&console), place));
            // What was asked with the connection is answered before the next one comes in, and one that
            // has to go is gone: a crowd at the door neither pushes out who is served at once, nor adds up.
            yield_now().await;
        }
    }
}

/// Serves one who came in, over TLS where the address is, until another one needs the place.
async fn admit(accepted: Accepted, console: Arc<Console>, place: Place) {
    let place = Arc::new(place);
    tokio::select! {
        () = place.cut.notified() => {}
        () = admitted(accepted, console, &place) => {}
    }
}

async fn admitted(accepted: Accepted, console: Arc<Console>, place: &Arc<Place>) {
    match accepted {
        Accepted::Local(stream) => {
            bound_buffer(&stream);
            let uid = stream.peer_cred().ok().map(|peer| peer.uid());
            serve_one(stream, Peer::Local(uid), console, place).await;
        }
        Accepted::Tcp(stream, address) => {
            bound_buffer(&stream);
            match console.access.tls().map(Arc::clone) {
                None => serve_one(stream, Peer::Address(address, None), console, place).await,
                Some(tls) => {
                    // Whoever does not finish the handshake is not waited for.
                    let shaken = timeout(HEAD_TIME, TlsAcceptor::from(tls).accept(stream)).await;
                    if let Ok(Ok(stream)) = shaken {
                        let shown = stream.get_ref().1.peer_certificates();
                        let shown = shown.and_then(<[_]>::first).map(|first| digest(first));
                        serve_one(stream, Peer::Address(address, shown), console, place).await;
                    }
                }
            }
        }
    }
}

/// Whoever does not read has the kernel hold little for them.
fn bound_buffer(stream: &impl std::os::fd::AsFd) {
    // Without the bound the kernel's own holds.
    SockRef::from(stream).set_send_buffer_size(SEND_BUFFER).ok();
}

async fn serve_one<S>(stream: S, peer: Peer, console: Arc<Console>, place: &Arc<Place>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream_begun = Arc::new(Notify::new());
    let service = {
        let (begun, place) = (Arc::clone(&stream_begun), Arc::clone(place));
        service_fn(move |request: Request<Incoming>| {
            let console = Arc::clone(&console);
            let (peer, begun, place) = (peer.clone(), Arc::clone(&begun), Arc::clone(&place));
            async move { Ok::<_, Infallible>(respond(&request, &peer, &console, &begun, &place).await) }
        })
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .serve_connection(TokioIo::new(stream), service);
    let limit = async {
        tokio::select! {
            () = sleep(WHOLE_TIME) => {}
            () = stream_begun.notified() => sleep(STREAM_TIME).await,
        }
    };
    // Whatever a reader of this port does wrong is its own affair.
    tokio::select! {
        _ = connection => {}
        () = limit => {}
    }
}

/// A body that is there, or one that comes as things happen.
enum Reply {
    Whole(Full<Bytes>),
    Stream {
        pieces: mpsc::Receiver<Bytes>,
        /// The place of a stream is its own as long as this is.
        _asking: Asking,
    },
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(context),
            Self::Stream { pieces, .. } => {
                pieces.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Stream { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Stream { .. } => SizeHint::default(),
        }
    }
}

const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";

/// What the path of the page of one event begins with.
const EVENT: &str = "/event/";
const JSON: &str = "application/json";
const PROBLEM: &str = "application/problem+json";

async fn respond(
    request: &Request<Incoming>,
    peer: &Peer,
    console: &Console,
    stream_begun: &Notify,
    place: &Place,
) -> Response<Reply> {
    let asking = place.asks();
    let (method, path) = (request.method(), request.uri().path());
    let below = path.strip_prefix(api::ROOT);
    let is_page = path == "/" || path.starts_with(EVENT);
    if below.is_none() && !is_page {
        return answer(method, path, &console.account, &console.health);
    }
    let who = match console.access.admit(method, request.headers(), peer) {
        Ok(who) => who,
        // What the address always had: the lines that it says of itself.
        Err(Denied::Closed) if path == "/" => {
            return reply(StatusCode::OK, HTML, status_page(&console.health));
        }
        Err(denied) => return denial(denied),
    };
    let query = request.uri().query().unwrap_or_default();
    let Some(below) = below else {
        return html_answer(console, method, path, query).await;
    };
    if below == "stream" && *method == Method::GET {
        let from = match peer {
            Peer::Address(..) => Door::Address,
            Peer::Local(_) => Door::Socket,
        };
        return stream(console, query, stream_begun, Arc::clone(&place.cut), (from, asking));
    }
    api_answer(console, method, below, query, &who).await
}

/// The page, or that of one event.
async fn html_answer(
    console: &Console,
    method: &Method,
    path: &str,
    query: &str,
) -> Response<Reply> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return answer(method, path, &console.account, &console.health);
    }
    let (status, text) = match path.strip_prefix(EVENT) {
        Some(id) => {
            let answer = events::event(console, id).await;
            let status = answer.as_ref().err().map_or(StatusCode::OK, |wrong| wrong.0);
            (status, markup::event(id, &answer.map_err(|wrong| wrong.1)))
        }
        None => {
            let wishes = shown::Wishes::read(query);
            let shown = shown::shown(console, &wishes).await;
            (StatusCode::OK, page::page(&shown, wishes.parts))
        }
    };
    let mut response = reply(status, HTML, text);
    let fields = response.headers_mut();
    fields.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(page::POLICY));
    fields.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

async fn api_answer(
    console: &Console,
    method: &Method,
    below: &str,
    query: &str,
    who: &Who,
) -> Response<Reply> {
    match api::answer(console, method, below, query, who).await {
        Ok(answer) => reply(StatusCode::OK, JSON, format!("{answer}\n")),
        Err(wrong) => {
            let mut response = reply(wrong.0, PROBLEM, format!("{}\n", wrong.json()));
            let allowed = wrong.1.strip_prefix("allowed here: ");
            if let Some(allowed) = allowed.and_then(|it| HeaderValue::from_str(it).ok()) {
                response.headers_mut().insert(ALLOW, allowed);
            }
            response
        }
    }
}

/// A stream of what happens, for as long as it is read.
fn stream(
    console: &Console,
    query: &str,
    stream_begun: &Notify,
    cut: Arc<Notify>,
    (door, asking): (Door, Asking),
) -> Response<Reply> {
    let wants_all = match query {
        "" => false,
        "all=true" | "all=1" => true,
        _ => {
            let wrong = Wrong(StatusCode::BAD_REQUEST, "write ?all=true, or nothing".to_owned());
            return reply(wrong.0, PROBLEM, format!("{}\n", wrong.json()));
        }
    };
    let Some(pieces) = console.pulse.join(wants_all, door, cut) else {
        console.account.metrics().limit_hit(Limit::Admin);
        let most = pulse::STREAMS_MAX;
        let what = format!("{most} look on already, which is the most; ask /api/v1/verdicts.");
        let wrong = Wrong(StatusCode::SERVICE_UNAVAILABLE, what);
        return reply(wrong.0, PROBLEM, format!("{}\n", wrong.json()));
    };
    stream_begun.notify_one();
    asking.streams();
    let mut response = reply(StatusCode::OK, "text/event-stream", String::new());
    *response.body_mut() = Reply::Stream { pieces, _asking: asking };
    response
}

/// Why somebody is not answered, and what to do.
fn denial(denied: Denied) -> Response<Reply> {
    let status = match denied {
        Denied::Closed | Denied::Site | Denied::Header => StatusCode::FORBIDDEN,
        Denied::Host => StatusCode::MISDIRECTED_REQUEST,
        Denied::Token => StatusCode::UNAUTHORIZED,
    };
    let wrong = Wrong(status, denied.sentence().to_owned());
    let mut response = reply(status, PROBLEM, format!("{}\n", wrong.json()));
    if denied == Denied::Token {
        let asked = HeaderValue::from_static("Basic realm=\"schengate\", charset=\"UTF-8\"");
        response.headers_mut().append(WWW_AUTHENTICATE, asked);
        let asked = HeaderValue::from_static("Bearer realm=\"schengate\"");
        response.headers_mut().append(WWW_AUTHENTICATE, asked);
    }
    response
}

fn answer(method: &Method, path: &str, account: &Account, health: &Health) -> Response<Reply> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET or HEAD\n".to_owned());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/metrics" => {
            let media_type = "text/plain; version=0.0.4; charset=utf-8";
            reply(StatusCode::OK, media_type, account.metrics().render())
        }
        "/healthz" => reply(StatusCode::OK, TEXT, "alive\n".to_owned()),
        "/readyz" => match health.missing().as_slice() {
            [] => reply(StatusCode::OK, TEXT, "ready\n".to_owned()),
            missing => {
                let text = format!("not ready; missing: {}\n", missing.join(", "));
                reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, text)
            }
        },
        "/page.js" => reply(StatusCode::OK, "text/javascript; charset=utf-8", page::SCRIPT.into()),
        "/page.css" => reply(StatusCode::OK, "text/css; charset=utf-8", page::STYLE.into()),
        _ => reply(
            StatusCode::NOT_FOUND,
            TEXT,
            "/metrics /healthz /readyz /api/v1/state\n".to_owned(),
        ),
    }
}

fn reply(status: StatusCode, media_type: &'static str, body: String) -> Response<Reply> {
    let mut response = Response::new(Reply::Whole(Full::from(body)));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    fields.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    // A status page is to be read, not to be framed or to load anything.
    let csp = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
    fields.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(csp));
    response
}

fn status_page(health: &Health) -> String {
    let missing = health.missing();
    let state = if missing.is_empty() {
        "Ready.".to_owned()
    } else {
        format!("Not ready; missing: {}.", missing.join(", "))
    };
    let mut rows = String::new();
    let version = ("Version", env!("CARGO_PKG_VERSION").to_owned());
    for (term, value) in [version].into_iter().chain(health.facts()) {
        // Writing to a string cannot fail.
        writeln!(rows, "<tr><th>{}</th><td>{}</td></tr>", escaped(term), escaped(&value)).ok();
    }
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>schengate</title>\
         <style>body{{font:1rem/1.5 sans-serif;margin:2rem auto;max-width:46rem;padding:0 1rem}}\
         th{{text-align:left;padding-right:2rem;vertical-align:top}}</style></head>\n\
         <body><h1>schengate</h1>\n<p>{}</p>\n<table>\n{rows}</table>\n\
         <p><a href=\"/metrics\">Metrics</a> · <a href=\"/readyz\">Readiness</a> · \
         <a href=\"/healthz\">Health</a></p>\n</body></html>\n",
        escaped(&state)
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write as _};

    use super::*;

    fn health(missing: &[&'static str]) -> (Account, Arc<Health>) {
        let account = Account::start(Box::new(io::sink())).unwrap();
        let health = Arc::new(Health::new(account.clone(), missing));
        (account, health)
    }

    fn started(account: Account, health: Arc<Health>) -> SocketAddr {
        let settings = Admin::at("127.0.0.1:0".parse().unwrap());
        let doors = Doors::open(&settings).unwrap();
        start(doors, Access::load(&settings).unwrap(), account, health).unwrap().0
    }

    /// Status line and body of one request.
    fn get(at: SocketAddr, request: &str) -> (String, String) {
        let mut stream = std::net::TcpStream::connect(at).unwrap();
        write!(stream, "{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }

    #[test]
    fn readiness_says_what_is_missing_until_nothing_is() {
        let (account, health) = health(&["policy", "listeners"]);
        let at = started(account.clone(), Arc::clone(&health));
        health.met("policy");
        let (status, body) = get(at, "GET /readyz");
        assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
        assert_eq!(body, "not ready; missing: listeners\n");
        assert_eq!(get(at, "GET /healthz").1, "alive\n");
        health.met("listeners");
        assert_eq!(get(at, "GET /readyz").0, "HTTP/1.1 200 OK");
        assert!(get(at, "GET /metrics").1.contains("\nschengate_ready 1\n"));
        health.misses("policy");
        assert_eq!(get(at, "GET /readyz").0, "HTTP/1.1 503 Service Unavailable");
        health.misses_since("policy", "old".to_owned());
        health.misses_since("policy", "it lapsed".to_owned());
        health.misses("policy");
        assert_eq!(get(at, "GET /readyz").1, "not ready; missing: policy (it lapsed)\n");
        assert!(account.metrics().render().contains("\nschengate_ready 0\n"));
    }

    #[test]
    fn only_get_and_head_of_known_paths_are_answered() {
        let (account, health) = health(&[]);
        let at = started(account, health);
        assert_eq!(get(at, "POST /metrics").0, "HTTP/1.1 405 Method Not Allowed");
        assert_eq!(get(at, "GET /metrics/..").0, "HTTP/1.1 404 Not Found");
        let (status, body) = get(at, "HEAD /");
        assert_eq!((status.as_str(), body.as_str()), ("HTTP/1.1 200 OK", ""));
    }

    #[test]
    fn the_status_page_shows_the_facts_as_text() {
        let (_, health) = health(&["<policy>"]);
        health.fact("Policy", "old".to_owned());
        health.fact("Policy", "<script>\"x\"&".to_owned());
        let page = status_page(&health);
        assert!(page.contains("<td>&lt;script&gt;&quot;x&quot;&amp;</td>"), "{page}");
        assert!(page.contains("missing: &lt;policy&gt;"), "{page}");
        assert!(!page.contains("old"), "{page}");
    }
}
