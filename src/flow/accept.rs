//! Accepts connections, and tells the failures of accept(2) apart: one is of that connection alone, one
//! passes, one is the end of the listener. Reads no bytes.

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::sleep;

use super::listener::Listener;
use super::overload;
use super::slots::Slot;
use super::worker::Worker;
use crate::account::{Accept, Limit, Probed};
use crate::net::reactor::{Side, Token};
use crate::net::socket::TcpSocket;
use crate::policy::probe;
use crate::sys;

/// Wait after a failure for want of descriptors or memory: doubled from the first to the last.
const FIRST_WAIT: Duration = Duration::from_millis(10);
const LAST_WAIT: Duration = Duration::from_secs(1);

/// Connections that are taken before those that were taken have their turn.
const BATCH: usize = 64;

/// A connection, and what it holds while it lives.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) socket: TcpSocket,
    pub(super) peer: SocketAddr,
    pub(super) listener: Rc<Listener>,
    pub(super) slot: Slot,
}

/// Begins to serve a connection, in a task of its own.
pub(super) type Serve = fn(Accepted, Rc<Worker>);

/// Accepts until the listener breaks; to stop it, drop the future.
pub(super) async fn run(
    socket: StdListener,
    listener: Rc<Listener>,
    worker: Rc<Worker>,
    serve: Serve,
) -> io::Error {
    let token = match Token::new(socket.as_fd(), true) {
        Ok(token) => token,
        Err(fault) => return fault,
    };
    let mut wait = FIRST_WAIT;
    loop {
        if let Err(fault) = poll_fn(|context| token.poll(Side::Read, context)).await {
            return fault;
        }
        let mut left = BATCH;
        while left > 0 {
            left -= 1;
            let accepted = sys::accept(socket.as_fd());
            let taken =
                accepted.and_then(|(socket, peer)| take(socket, peer, &listener, &worker, serve));
            let fault = match taken {
                Ok(()) => {
                    wait = FIRST_WAIT;
                    continue;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    token.exhausted(Side::Read);
                    break;
                }
                Err(fault) => fault,
            };
            let class = class(&fault);
            worker.account.metrics().accept_failed(class);
            match class {
                Accept::Connection => {}
                Accept::Exhausted => {
                    tracing::warn!(%fault, ?wait, "accept: out of descriptors or memory");
                    sleep(wait).await;
                    wait = (wait * 2).min(LAST_WAIT);
                }
                Accept::Listener => return fault,
            }
        }
        if left == 0 {
            // Those that were taken have their turn before the next ones.
            yield_now().await;
        }
    }
}

fn take(
    socket: OwnedFd,
    peer: SocketAddr,
    listener: &Rc<Listener>,
    worker: &Rc<Worker>,
    serve: Serve,
) -> io::Result<()> {
    let socket = TcpSocket::accepted(socket)?;
    let peer = listener.client.of(peer);
    if probe::is_from(peer.ip()) {
        // Nobody's: it asks whether connections arrive, and a reset is the answer.
        worker.account.metrics().probed(Probed::Tcp);
        return socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO));
    }
    let slot = if sys::is_reserved(socket.as_fd(), 1) {
        Err(Limit::Descriptors)
    } else {
        listener.slots.take(peer.ip())
    };
    match slot {
        Ok(slot) => {
            let accepted = Accepted { socket, peer, listener: Rc::clone(listener), slot };
            serve(accepted, Rc::clone(worker));
        }
        Err(limit) => {
            worker.account.metrics().limit_hit(limit);
            overload::turn_away(socket, peer, listener, worker);
        }
    }
    Ok(())
}

/// Linux passes pending network errors of the new connection through accept(2), which are of that
/// connection alone (accept(2), "Error handling").
pub(super) fn class(fault: &io::Error) -> Accept {
    match fault.raw_os_error() {
        Some(
            libc::ECONNABORTED
            | libc::EPROTO
            | libc::EINTR
            | libc::EPERM
            | libc::ENETDOWN
            | libc::ENOPROTOOPT
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::EHOSTUNREACH
            | libc::EOPNOTSUPP
            | libc::ENETUNREACH
            | libc::ETIMEDOUT,
        ) => Accept::Connection,
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::ENOSPC) => {
            Accept::Exhausted
        }
        _ => Accept::Listener,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_failures_are_told_apart() {
        let of = |errno| class(&io::Error::from_raw_os_error(errno));
        for errno in [libc::ECONNABORTED, libc::EPROTO, libc::EPERM, libc::EHOSTUNREACH] {
            assert_eq!(of(errno), Accept::Connection, "{errno}");
        }
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
            assert_eq!(of(errno), Accept::Exhausted, "{errno}");
        }
        for errno in [libc::EBADF, libc::EINVAL, libc::ENOTSOCK, libc::EFAULT] {
            assert_eq!(of(errno), Accept::Listener, "{errno}");
        }
        assert_eq!(class(&io::Error::other("unheard of")), Accept::Listener);
    }
}
