//! Holds what a connection, a request or a UDP flow carries from its first byte to the end of its
//! record.

use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;

use super::listener::Listener;
use super::registry::Registration;
use super::slots::Slot;
use super::worker::Worker;
use crate::account::{Decision, End, Record, Rejudged};

/// One of them, from its begin to its end.
pub(super) struct Session {
    pub(super) worker: Rc<Worker>,
    pub(super) listener: Rc<Listener>,
    pub(super) record: Record,
    pub(super) registration: Registration,
}

impl Session {
    /// Opens the record of a client, and takes a place among the live ones.
    pub(super) fn open(worker: Rc<Worker>, listener: Rc<Listener>, client: SocketAddr) -> Self {
        let record = worker.account.open(client, listener.ingress());
        let registration = worker.registry.register(listener.lifetime);
        Self { worker, listener, record, registration }
    }

    /// Waits until it is told to end; one task at a time may.
    pub(super) fn closed(&self) -> impl Future<Output = End> + use<> {
        self.registration.closed()
    }

    /// Closes the record, with the verdict that ended it where that was a later one.
    pub(super) fn close(mut self, end: End) {
        self.take_last_verdict();
        self.record.finish(end);
    }

    /// The record alone, with the latest verdict, for who ends it later.
    pub(super) fn into_record(mut self) -> Record {
        self.take_last_verdict();
        self.record
    }

    /// Records that more was heard of a live connection, and that it goes on by this verdict. Where
    /// there is no room for that, its last line says it.
    pub(super) fn tell_again(&self, judged: &Decision) {
        let _told = self.worker.account.judged_again(self.record.bytes(), judged, Rejudged::Heard);
    }

    pub(super) fn take_last_verdict(&mut self) {
        if let Some(judged) = self.registration.last_judged() {
            self.record.replace(judged);
        }
    }
}

/// Does `work`, unless `closed` comes first: then it is broken off.
///
/// # Errors
/// What `closed` says.
pub(super) async fn run_until<T>(
    closed: impl Future<Output = End>,
    work: Pin<&mut impl Future<Output = T>>,
) -> Result<T, End> {
    tokio::select! {
        biased;
        end = closed => Err(end),
        done = work => Ok(done),
    }
}

/// A client's connection that carries one request after the other, each of which has a session.
pub(super) struct Connection {
    pub(super) worker: Rc<Worker>,
    pub(super) listener: Rc<Listener>,
    pub(super) peer: SocketAddr,
    /// Held as long as the connection.
    pub(super) slot: Slot,
}

impl Connection {
    /// Begins with what comes next.
    pub(super) fn begin(&self) -> Session {
        Session::open(Rc::clone(&self.worker), Rc::clone(&self.listener), self.peer)
    }

    /// The place of the connection itself: its lifetime is not that of its requests.
    pub(super) fn register(&self) -> Registration {
        self.worker.registry.register(self.listener.lifetime)
    }
}
