//! IPv4 and IPv6, and which of them this kernel has.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// IPv4 or IPv6, with the word that each tool has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// `meta nfproto ipvN`, `ip -N`.
    pub(super) fn digit(self) -> char {
        if self == Self::V4 { '4' } else { '6' }
    }

    /// Whether a socket on `address` gets this family's connections; `[::]` gets both.
    pub(super) fn served_by(self, address: SocketAddr) -> bool {
        match address.ip() {
            IpAddr::V4(_) => self == Self::V4,
            IpAddr::V6(ip) => self == Self::V6 || ip.is_unspecified(),
        }
    }

    /// Whether the kernel has the family at all.
    pub(super) fn exists(self) -> bool {
        self == Self::V4 || Path::new("/proc/sys/net/ipv6").exists()
    }
}

/// The families that the kernel has.
pub(super) fn families() -> impl Iterator<Item = Family> {
    Family::ALL.into_iter().filter(|family| family.exists())
}
