//! Explicit mode: HTTP CONNECT, plain HTTP/1.1 and SOCKS5 on one port, told apart by the first byte;
//! and what flows inside a tunnel, or behind a captured request.

mod http;
mod socks;
mod tunnel;

use std::io;
use std::rc::Rc;

use tokio::time::timeout;

use super::admit;
use super::gate::Gate;
use super::listener::Accepted;
use super::refuse;
use super::seat::Seat;
use super::wire::Wire;
use crate::account::End;

pub(super) use tunnel::{captured, listen};

/// SOCKS4: "request rejected or failed", in the eight bytes of its reply.
const SOCKS4_REJECTED: [u8; 8] = [0, 91, 0, 0, 0, 0, 0, 0];

/// Serves one connection of an explicit client.
pub(super) async fn serve(client: Accepted, gate: Rc<Gate>) {
    let seat = Seat::take(&gate, client.door.lifetime);
    let first = tokio::select! {
        biased;
        end = seat.cut() => Err(end),
        first = timeout(client.door.peek_timeout, first_byte(&client.wire)) => match first {
            Ok(first) => Ok(first),
            Err(_) => Err(End::Idle),
        },
    };
    match first {
        // Each takes a seat of its own before it waits for anything.
        Ok(Ok(Some(b'A'..=b'Z' | b'a'..=b'z'))) => {
            drop(seat);
            http::serve(client, gate).await;
        }
        Ok(Ok(Some(5))) => {
            drop(seat);
            socks::serve(client, gate).await;
        }
        other => {
            let record = gate.account.open(client.peer, client.door.way);
            let end = match other {
                Ok(Ok(None) | Err(_)) => End::ClientGone,
                Ok(Ok(Some(4))) if !client.door.silent => {
                    refuse::say(client.wire, &SOCKS4_REJECTED).await;
                    End::BadRequest
                }
                Ok(Ok(Some(_))) => End::BadRequest,
                Err(end) => end,
            };
            admit::close(record, &seat, end);
        }
    }
}

/// The first byte, left where it is; `None` where the client closed without one.
async fn first_byte(client: &Wire) -> io::Result<Option<u8>> {
    loop {
        client.readable().await?;
        match client.first_byte() {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            seen => return seen,
        }
    }
}
