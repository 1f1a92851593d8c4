//! Serves SOCKS5 UDP ASSOCIATE (RFC 1928 §7) on the relay socket of one client. Every destination that
//! its datagrams name is a flow with a verdict and a record of its own, as on a transparent listener.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::task::yield_now;

use super::association::{Association, Pin, canonical_end, parse};
use super::context::{UdpContext, UdpIngress};
use super::walk;
use crate::account::{Dropped, End};
use crate::flow::listener::Listener;
use crate::flow::worker::Worker;
use crate::net::socket::TcpSocket;
use crate::sys;

/// The longest datagram, its header included; one more byte tells that there was more.
const DATAGRAM_MAX: usize = 65_535;

/// Datagrams that are taken before others have their turn.
const TURN: usize = 32;

/// The socket that a client's datagrams come to.
#[derive(Debug)]
pub(in crate::flow) struct Near {
    socket: UdpSocket,
    address: SocketAddr,
}

impl Near {
    /// Opens the relay socket at the address that the client's control connection came to.
    ///
    /// # Errors
    /// As socket(2) and bind(2).
    pub(in crate::flow) fn open(control: &TcpSocket) -> io::Result<Self> {
        let here = SockRef::from(control).local_addr()?.as_socket();
        let mut at = canonical_end(here.ok_or(io::ErrorKind::AddrNotAvailable)?);
        at.set_port(0);
        let socket = sys::unreserved(std::net::UdpSocket::bind(at)?)?;
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from_std(socket)?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// Where the client is to send its datagrams.
    pub(in crate::flow) const fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Serves an association to its end, which is that of its control connection, or silence.
pub(in crate::flow) async fn serve(
    near: Near,
    pin: Pin,
    control: &TcpSocket,
    listener: &Rc<Listener>,
    worker: &Rc<Worker>,
) -> End {
    let table = Rc::clone(&worker.associated);
    let association = Rc::new(Association::new(near.socket, pin, &table));
    let _until_here = Closing(Rc::clone(&association));
    let ingress = UdpIngress::Association(Rc::clone(&association));
    let context = Rc::new(UdpContext {
        worker: Rc::clone(worker),
        listener: Rc::clone(listener),
        table,
        ingress,
        serve: walk::serve,
    });
    tokio::select! {
        biased;
        end = hung_up(control) => end,
        () = association.idled(worker, listener.idle_timeout) => End::Idle,
        fault = take(&association, &context) => {
            tracing::warn!(%fault, "the socket of a SOCKS5 association failed");
            End::IoError
        }
    }
}

/// Ends the flows of an association, however it ended itself.
struct Closing(Rc<Association>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Waits for the end of the control connection; what comes over it is nothing that is expected.
async fn hung_up(control: &TcpSocket) -> End {
    let mut ignored = [0; 64];
    loop {
        if control.readable().await.is_err() {
            return End::ClientReset;
        }
        match control.receive(&mut ignored).map(|read| read.bytes) {
            Ok(0) => return End::Done,
            Ok(_) => yield_now().await,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return End::ClientReset,
        }
    }
}

/// Takes the client's datagrams until the socket breaks.
async fn take(association: &Association, context: &Rc<UdpContext>) -> io::Error {
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        if let Err(fault) = association.socket().readable().await {
            return fault;
        }
        for _ in 0..TURN {
            match association.socket().try_recv_from(&mut buffer) {
                Ok((length, from)) => {
                    let datagram = buffer.get(..length).unwrap_or_default();
                    deliver(association, from, datagram, context);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                // An ICMP error about an answer to the client: it may pass.
                Err(_) => {}
            }
        }
        yield_now().await;
    }
}

fn deliver(association: &Association, from: SocketAddr, datagram: &[u8], context: &Rc<UdpContext>) {
    let metrics = context.worker.account.metrics();
    let from = canonical_end(from);
    if !association.is_client(from) {
        return metrics.dropped(Dropped::Stranger);
    }
    let (target, payload) = match parse(datagram) {
        Ok(both) => both,
        Err(cause) => return metrics.dropped(cause),
    };
    association.heard(from);
    match association.key(from, target, &context.table) {
        Some(key) => context.deliver(key, payload),
        None => metrics.dropped(Dropped::ClientLimit),
    }
}
