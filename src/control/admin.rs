//! What operators and their monitoring see: `/metrics`, `/healthz`, `/readyz` and a status page.
//! On a thread and a runtime of its own, so that a slow reader costs the data plane nothing.

use std::convert::Infallible;
use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{interval, sleep, timeout};

use crate::account::{Account, Limit};

/// Connections at once; more are closed at once.
const CONNECTIONS_MAX: usize = 32;

/// Time for a request's head, and for a whole connection.
const HEAD_TIME: Duration = Duration::from_secs(5);
const WHOLE_TIME: Duration = Duration::from_secs(30);

/// How often histogram samples are moved into their buckets.
const UPKEEP: Duration = Duration::from_secs(1);

/// What the gateway says of itself. Ready when nothing is missing any more.
#[derive(Debug)]
pub struct Health {
    account: Account,
    said: Mutex<Said>,
    /// Whether the pages are closed, and who has closed them.
    closing: watch::Sender<bool>,
    closed: Mutex<Option<thread::JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Said {
    missing: Vec<Missing>,
    facts: Vec<(&'static str, String)>,
}

/// One thing that is needed and not there, and why where that is known.
#[derive(Debug, Clone)]
struct Missing {
    what: &'static str,
    why: Option<String>,
}

impl Missing {
    const fn of(what: &'static str) -> Self {
        Self { what, why: None }
    }

    fn text(&self) -> String {
        let why = self.why.as_ref().map(|why| format!(" ({why})"));
        format!("{}{}", self.what, why.unwrap_or_default())
    }
}

impl Health {
    /// Not ready until each of `missing` was met.
    #[must_use]
    pub fn new(account: Account, missing: &[&'static str]) -> Self {
        account.metrics().ready(missing.is_empty());
        let missing = missing.iter().copied().map(Missing::of).collect();
        let said = Said { missing, facts: Vec::new() };
        let closing = watch::Sender::new(false);
        Self { account, said: Mutex::new(said), closing, closed: Mutex::default() }
    }

    /// One thing that is needed is there.
    pub fn met(&self, what: &str) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.missing.retain(|missing| missing.what != what);
        self.account.metrics().ready(said.missing.is_empty());
    }

    /// One thing that is needed is not there (any more): the policy lapsed, the gateway is stopping.
    pub fn misses(&self, what: &'static str) {
        let why = self.why(what);
        self.lacks(Missing { what, why });
    }

    /// As [`Health::misses`], with the reason and what mends it, in words. A later reason replaces it.
    pub fn misses_since(&self, what: &'static str, why: String) {
        self.lacks(Missing { what, why: Some(why) });
    }

    /// The reason that was told before.
    fn why(&self, what: &str) -> Option<String> {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.missing.iter().find(|missing| missing.what == what)?.why.clone()
    }

    fn lacks(&self, missing: Missing) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        match said.missing.iter_mut().find(|known| known.what == missing.what) {
            Some(known) => *known = missing,
            None => said.missing.push(missing),
        }
        self.account.metrics().ready(false);
    }

    /// A line of the status page: `Policy`, `Data`, `Mode` ... A later one of the same term
    /// replaces it.
    pub fn fact(&self, term: &'static str, value: String) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        match said.facts.iter_mut().find(|(known, _)| *known == term) {
            Some((_, old)) => *old = value,
            None => said.facts.push((term, value)),
        }
    }

    /// Whether nothing is missing.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.missing().is_empty()
    }

    /// Closes the pages: on return their address is free for the next process.
    pub fn close(&self) {
        self.closing.send_replace(true);
        let thread = self.closed.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the admin pages ended in a panic");
        }
    }

    fn missing(&self) -> Vec<String> {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.missing.iter().map(Missing::text).collect()
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).facts.clone()
    }
}

/// Starts the server and returns the address that it is bound to. It lasts as long as the process.
///
/// # Errors
/// Where the address cannot be bound or the thread cannot be started.
pub fn start(address: SocketAddr, account: Account, health: Arc<Health>) -> io::Result<SocketAddr> {
    let socket = std::net::TcpListener::bind(address)
        .map_err(|e| io::Error::new(e.kind(), format!("admin listener {address}: {e}")))?;
    socket.set_nonblocking(true)?;
    let bound = socket.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _inside = runtime.enter();
        TcpListener::from_std(socket)?
    };
    let served = Arc::clone(&health);
    let serve = move || {
        runtime.block_on(serve(listener, account, served));
        // Readers that are slow are not waited for.
        runtime.shutdown_background();
    };
    let thread = thread::Builder::new().name("admin".to_owned()).spawn(serve)?;
    *health.closed.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
    Ok(bound)
}

async fn serve(listener: TcpListener, account: Account, health: Arc<Health>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut upkeep = interval(UPKEEP);
    let mut closing = health.closing.subscribe();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // Whoever could close them is there as long as this is.
            _ = closing.wait_for(|closing| *closing) => return,
            _ = upkeep.tick() => {
                account.metrics().upkeep();
                continue;
            }
        };
        match (accepted, Arc::clone(&places).try_acquire_owned()) {
            (Ok((stream, _)), Ok(place)) => {
                let (account, health) = (account.clone(), Arc::clone(&health));
                tokio::spawn(async move {
                    serve_one(stream, account, health).await;
                    drop(place);
                });
            }
            (Ok(_), Err(_)) => account.metrics().limit_hit(Limit::Admin),
            (Err(fault), _) => {
                tracing::warn!(%fault, "admin: accept");
                sleep(UPKEEP).await;
            }
        }
    }
}

async fn serve_one(stream: TcpStream, account: Account, health: Arc<Health>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(request.method(), request.uri().path(), &account, &health);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .serve_connection(TokioIo::new(stream), service);
    // Whatever a reader of this port does wrong is its own affair.
    timeout(WHOLE_TIME, connection).await.ok();
}

fn answer(
    method: &Method,
    path: &str,
    account: &Account,
    health: &Health,
) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET or HEAD\n".to_owned());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/metrics" => {
            let media_type = "text/plain; version=0.0.4; charset=utf-8";
            page(StatusCode::OK, media_type, account.metrics().render())
        }
        "/healthz" => page(StatusCode::OK, TEXT, "alive\n".to_owned()),
        "/readyz" => match health.missing().as_slice() {
            [] => page(StatusCode::OK, TEXT, "ready\n".to_owned()),
            missing => {
                let text = format!("not ready; missing: {}\n", missing.join(", "));
                page(StatusCode::SERVICE_UNAVAILABLE, TEXT, text)
            }
        },
        "/" => page(StatusCode::OK, "text/html; charset=utf-8", status_page(health)),
        _ => page(StatusCode::NOT_FOUND, TEXT, "/metrics /healthz /readyz\n".to_owned()),
    }
}

fn page(status: StatusCode, media_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    // A status page is to be read, not to be framed or to load anything.
    let csp = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
    fields.insert("content-security-policy", HeaderValue::from_static(csp));
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

    /// Status line and body of one request.
    fn get(at: SocketAddr, request: &str) -> (String, String) {
        let mut stream = std::net::TcpStream::connect(at).unwrap();
        write!(stream, "{request} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }

    #[test]
    fn readiness_says_what_is_missing_until_nothing_is() {
        let (account, health) = health(&["policy", "listeners"]);
        let at =
            start("127.0.0.1:0".parse().unwrap(), account.clone(), Arc::clone(&health)).unwrap();
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
        let at = start("127.0.0.1:0".parse().unwrap(), account, health).unwrap();
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
