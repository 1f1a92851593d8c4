//! Tells UDP clients what the gateway itself has to say: to a refused one (docs/policy.md §4)
//! CONNECTION_CLOSE for QUIC that was read, else ICMP "administratively prohibited"; to a permitted one
//! what ICMP said of its datagrams on their way (RFC 5508 §4).
//!
//! Whoever forges a source address has the gateway send there, where no rule of the firewall dropped
//! the datagram before (`fib saddr . iif oif missing drop`); the gateway itself cannot know. So: one
//! answer for one datagram at most, four for a flow, nothing to a flow that is permitted but what came
//! from its destination; never more bytes than the client sent in a QUIC Initial, and an ICMP error of
//! 56 bytes (IPv6: 96) else; so many in a second for one network, and for all of a worker.

use std::io;
use std::time::Duration;

use tokio::net::UdpSocket;

use super::context::{UdpContext, UdpIngress};
use super::icmp::Error;
use super::sockets::{answer_from, send_from};
use super::table::Key;
use crate::account::Dropped;
use crate::identify::quic::Initial;
use crate::sys::udp;

/// How long a refused flow keeps its place.
pub(super) const REFUSED_FOR: Duration = Duration::from_secs(3);

/// How often a refused flow is answered: clients repeat what goes unanswered, and one answer may be
/// lost; more would be noise for somebody whose address was forged.
pub(super) const ANSWERS_MAX: u32 = 4;

/// Whether the client of a flow can be told by ICMP.
pub(super) fn can_tell(context: &UdpContext, key: Key) -> bool {
    match &context.ingress {
        UdpIngress::Listener { icmp, .. } => icmp.can_tell(key.client.is_ipv6()),
        UdpIngress::Association(_) => false,
    }
}

/// Tells the client of a transparent flow by ICMP what became of its datagram of `length` bytes;
/// SOCKS5 has no word for it.
pub(super) fn tell(context: &UdpContext, key: Key, error: Error, length: usize) {
    let UdpIngress::Listener { icmp, .. } = &context.ingress else { return };
    let metrics = context.worker.account.metrics();
    let second = icmp.second();
    if !icmp.network_allows(key.client.ip(), second) {
        metrics.dropped(Dropped::NetworkLimit);
    } else {
        icmp.tell(key, error, length, second, metrics);
    }
}

/// Answers a refused flow, whose last datagram had `length` bytes.
pub(super) fn answer(context: &UdpContext, key: Key, refused: Option<Initial>, length: usize) {
    if context.listener.silent {
        return;
    }
    let metrics = context.worker.account.metrics();
    let closed = refused.and_then(|initial| initial.refusal());
    match &context.ingress {
        UdpIngress::Listener { socket, icmp, is_foreign } => {
            let second = icmp.second();
            if !icmp.network_allows(key.client.ip(), second) {
                return metrics.dropped(Dropped::NetworkLimit);
            }
            if let Some(close) = closed
                && say(socket, *is_foreign, key, &close).is_ok()
            {
                return;
            }
            icmp.tell(key, Error::prohibited(key), length, second, metrics);
        }
        // The client is who holds the control connection: its address is no forged one.
        UdpIngress::Association(association) => {
            if closed.is_some_and(|close| association.refuse(key, &close).is_err()) {
                metrics.dropped(Dropped::Unsent);
            }
        }
    }
}

/// Sends a datagram to the client, from where it sent its own.
fn say(listener: &UdpSocket, is_foreign: bool, key: Key, datagram: &[u8]) -> io::Result<()> {
    if listener.local_addr()?.port() == key.to.port() {
        return send_from(listener, datagram, datagram.len(), key.client, key.to);
    }
    udp::send(&answer_from(key, is_foreign)?, datagram, datagram.len(), None, None)
}
