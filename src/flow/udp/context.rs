//! Holds what the flows of one way in share, and brings a datagram to its flow.

use std::fmt;
use std::rc::Rc;

use tokio::net::UdpSocket;

use super::association::Association;
use super::icmp::IcmpSockets;
use super::table::{Delivered, Key, Place, Table};
use crate::flow::listener::Listener;
use crate::flow::worker::Worker;

/// What the UDP flows of one way in share: of a listener, or of an association.
pub(super) struct UdpContext {
    pub(super) worker: Rc<Worker>,
    pub(super) listener: Rc<Listener>,
    pub(super) table: Rc<Table>,
    pub(super) ingress: UdpIngress,
    /// Begins to serve a new flow, in a task of its own.
    pub(super) serve: fn(Place, Rc<Self>),
}

/// Where datagrams come in, and how their clients are answered.
pub(super) enum UdpIngress {
    /// A transparent listener. One of another network namespace answers by itself alone: what is opened
    /// here would answer from here.
    Listener { socket: Rc<UdpSocket>, icmp: IcmpSockets, is_foreign: bool },
    /// The relay socket of one SOCKS5 client.
    Association(Rc<Association>),
}

impl UdpContext {
    /// Brings a datagram to its flow, and begins the flow where there is none.
    pub(super) fn deliver(self: &Rc<Self>, key: Key, datagram: &[u8]) {
        match self.table.deliver(key, datagram) {
            Delivered::Waits => {}
            Delivered::New(place) => (self.serve)(place, Rc::clone(self)),
            Delivered::Dropped(cause) => self.worker.account.metrics().dropped(cause),
        }
    }

    /// Waits until the way in is gone, and its flows with it; that of a listener outlives them.
    pub(super) async fn closed(&self) {
        match &self.ingress {
            UdpIngress::Listener { .. } => std::future::pending().await,
            UdpIngress::Association(association) => association.closed().await,
        }
    }
}

impl fmt::Debug for UdpContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpContext").field("listener", &self.listener).finish_non_exhaustive()
    }
}
