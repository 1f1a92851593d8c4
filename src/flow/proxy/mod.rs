//! Serves explicit clients: HTTP CONNECT, plain HTTP/1.1 and SOCKS5 on one port, told apart by the
//! first byte; and carries what flows inside a tunnel, or behind a captured request.

mod http;
mod socks;
mod tunnel;

use std::io;
use std::pin::pin;
use std::rc::Rc;

use tokio::time::timeout;

use super::accept::Accepted;
use super::refuse;
use super::session::{Connection, run_until};
use super::worker::Worker;
use crate::account::End;
use crate::net::socket::TcpSocket;

pub(super) use tunnel::{captured, listen};

/// SOCKS4: "request rejected or failed", in the eight bytes of its reply.
const SOCKS4_REJECTED: [u8; 8] = [0, 91, 0, 0, 0, 0, 0, 0];

/// Serves one connection of an explicit client.
pub(super) async fn serve(client: Accepted, worker: Rc<Worker>) {
    let Accepted { socket, peer, listener, slot } = client;
    let connection = Connection { worker, listener, peer, slot };
    let registration = connection.register();
    let first = timeout(connection.listener.peek_timeout, first_byte(&socket));
    let first = run_until(registration.closed(), pin!(first)).await;
    let first = first.and_then(|first| first.map_err(|_| End::Idle));
    match first {
        // Each takes a place of its own before it waits for anything.
        Ok(Ok(Some(b'A'..=b'Z' | b'a'..=b'z'))) => {
            drop(registration);
            http::serve(socket, connection).await;
        }
        Ok(Ok(Some(5))) => {
            drop(registration);
            socks::serve(socket, connection).await;
        }
        other => {
            let record = connection.worker.account.open(peer, connection.listener.ingress());
            let end = match other {
                Ok(Ok(None) | Err(_)) => End::ClientGone,
                Ok(Ok(Some(4))) if !connection.listener.silent => {
                    refuse::say(socket, &SOCKS4_REJECTED).await;
                    End::BadRequest
                }
                Ok(Ok(Some(_))) => End::BadRequest,
                Err(end) => end,
            };
            record.finish(end);
        }
    }
}

/// The first byte, left where it is; `None` where the client closed without one.
async fn first_byte(client: &TcpSocket) -> io::Result<Option<u8>> {
    loop {
        client.readable().await?;
        match client.first_byte() {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            seen => return seen,
        }
    }
}
