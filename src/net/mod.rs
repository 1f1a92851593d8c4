//! Sockets of the data plane and how they are waited for: one reactor a worker, one idle timer a
//! connection, one buffer a thread. Nothing here knows of a policy, or of who is at the other end.

use std::net::SocketAddr;

pub(crate) mod bind;
pub(crate) mod buffer;
pub(crate) mod close;
pub(crate) mod dialled;
pub(crate) mod idle;
pub(crate) mod reactor;
pub(crate) mod socket;

/// The address with an IPv4-mapped IPv6 address as that IPv4, and without flow label and scope.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
