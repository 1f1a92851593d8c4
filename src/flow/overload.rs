//! Refuses connections beyond a limit at once, with a reason and a record, and keeps nothing of them.

use std::cell::Cell;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time::timeout;

use super::listener::Listener;
use super::origin;
use super::worker::Worker;
use crate::account::{Decision, End};
use crate::net::buffer::read_shared;
use crate::net::close::{self, Bounds};
use crate::net::socket::TcpSocket;
use crate::policy::Verdict;
use crate::settings::ListenMode;

/// Clients of an explicit listener that a worker tells in words at once; the others get a reset, so
/// that a crowd of them costs neither memory nor descriptors.
const TOLD_MAX: usize = 64;

/// How long a client that is told may take to begin its request, which shows that it speaks HTTP.
const BEGIN_TIME: Duration = Duration::from_secs(1);

/// The most of a request that is read, and dropped.
const READ_MAX: usize = 4096;

const LINGER: Bounds =
    Bounds { silence: Duration::from_millis(500), time: Duration::from_secs(2), bytes: 64 * 1024 };

/// What an HTTP client is told (RFC 9110 §15.6.4, RFC 9209 §2.3.12).
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n\
    Proxy-Status: schengate; error=connection_limit_reached; details=\"reason=overload\"\r\n\
    Content-Length: 0\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n";

thread_local! {
    static TOLD: Cell<usize> = const { Cell::new(0) };
}

/// Refuses a connection for which there is no room. Its record is closed with that: what it may yet
/// be told is no part of it.
pub(super) fn turn_away(
    socket: TcpSocket,
    peer: SocketAddr,
    listener: &Listener,
    worker: &Rc<Worker>,
) {
    let mut record = worker.account.open(peer, listener.ingress());
    let to = match listener.mode {
        mode @ (ListenMode::Tproxy | ListenMode::Redirect) => {
            match origin::of(&socket, mode, listener.address) {
                Ok(to) | Err(origin::Fault::Loop(to)) => Some(to),
                Err(origin::Fault::Unknown(_)) => None,
            }
        }
        // It was not read for whom it is.
        ListenMode::Proxy => Some(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))),
    };
    let end = match to {
        Some(to) => {
            record.judged(Decision::without_policy(*Verdict::overload(to).verdict()));
            End::Refused
        }
        None => End::NoOrigin,
    };
    record.finish(end);
    if listener.silent {
        socket.end_in_order();
    } else if listener.mode == ListenMode::Proxy
        && let Some(told) = Told::one_more()
    {
        // Ends by itself, within seconds.
        drop(spawn_local(async move {
            let _told = told;
            tell(&socket).await;
        }));
    }
}

/// Tells a client that speaks HTTP, and leaves any other with a reset.
async fn tell(client: &TcpSocket) {
    let begins = async {
        loop {
            client.readable().await?;
            match client.first_byte() {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                seen => return seen,
            }
        }
    };
    let Ok(Ok(Some(b'A'..=b'Z' | b'a'..=b'z'))) = timeout(BEGIN_TIME, begins).await else { return };
    if read_shared(client, READ_MAX, |_| ()).is_ok_and(|read| read > 0) && client_takes(client) {
        close::in_stages(client, &LINGER).await;
    }
}

fn client_takes(client: &TcpSocket) -> bool {
    // A socket on which nothing was sent yet takes this much at once.
    client.send(BUSY, false).is_ok_and(|sent| sent == BUSY.len())
}

/// One of the clients that are being told.
struct Told;

impl Told {
    fn one_more() -> Option<Self> {
        let told = TOLD.get();
        (told < TOLD_MAX).then(|| TOLD.set(told + 1)).map(|()| Self)
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        TOLD.set(TOLD.get().saturating_sub(1));
    }
}
