//! One plain HTTP request and its answer, over a connection that is used once: what was judged is
//! this request, and the next one is judged by itself.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, VIA};
use hyper::{Request, Response, Uri, Version};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::spawn_local;
use tokio::time::Instant;

use super::authority::Target;
use crate::account::{Bytes, End, Record};
use crate::flow::gate;
use crate::flow::relay::idled;
use crate::flow::seat::Seat;
use crate::flow::wire::Wire;

/// Fields of one hop (RFC 9110 §7.6.1), beside those that `Connection` names. `Upgrade` is among
/// them: no protocol is spoken here that was not judged.
const ONE_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Sends the request and returns the head of the answer; a task of its own carries the bodies, and
/// the record, to the end.
pub(super) async fn run(
    mut request: Request<Incoming>,
    target: Target,
    upstream: Wire,
    seat: Seat,
    record: Record,
    idle: Duration,
) -> hyper::Result<Response<Incoming>> {
    let moved = Rc::new(Cell::new(Instant::now()));
    let counted =
        Counted { wire: upstream, bytes: Arc::clone(record.bytes()), moved: Rc::clone(&moved) };
    let (mut sender, connection) = match http1::handshake(TokioIo::new(counted)).await {
        Ok(both) => both,
        Err(fault) => {
            gate::close(record, &seat, End::UpstreamReset);
            return Err(fault);
        }
    };
    spawn_local(async move {
        let end = tokio::select! {
            biased;
            end = seat.cut() => end,
            done = connection => if done.is_ok() { End::Done } else { End::UpstreamReset },
            () = idled(&moved, idle) => End::Idle,
        };
        gate::close(record, &seat, end);
    });
    rewrite(&mut request, target);
    let mut response = sender.send_request(request).await?;
    strip(response.headers_mut());
    response.headers_mut().append(VIA, HeaderValue::from_static("1.1 schengate"));
    Ok(response)
}

/// The request as the destination is to see it: origin form (RFC 9112 §3.2.1), one Host field, no
/// field of the hop before.
fn rewrite(request: &mut Request<Incoming>, target: Target) {
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    *request.version_mut() = Version::HTTP_11;
    let fields = request.headers_mut();
    strip(fields);
    if let Ok(host) = HeaderValue::from_str(&target.to_field(80)) {
        fields.insert(HOST, host);
    }
    fields.insert(CONNECTION, HeaderValue::from_static("close"));
    fields.append(VIA, HeaderValue::from_static("1.1 schengate"));
}

fn strip(fields: &mut HeaderMap) {
    let named: Vec<HeaderName> = fields
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    for name in named {
        fields.remove(name);
    }
    for name in ONE_HOP {
        fields.remove(name);
    }
}

/// The connection to the destination, counted.
struct Counted {
    wire: Wire,
    bytes: Arc<Bytes>,
    moved: Rc<Cell<Instant>>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.wire).poll_read(context, buffer);
        let count = buffer.filled().len() - before;
        if count > 0 {
            self.bytes.down(count);
            self.moved.set(Instant::now());
        }
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.wire).poll_write(context, bytes);
        if let Poll::Ready(Ok(count)) = written {
            self.bytes.up(count);
            self.moved.set(Instant::now());
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(context)
    }
}
