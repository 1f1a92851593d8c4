//! The gateway's own addresses: what leads to one of them is a loop.

use std::net::IpAddr;

use super::address::{LastBytes, Target, canonical};

/// In canonical form.
#[derive(Debug)]
pub(super) struct OwnAddresses {
    /// On every port.
    every_port: Box<[IpAddr]>,
    /// On one.
    one_port: Box<[(IpAddr, u16)]>,
    /// Of both.
    ends: LastBytes,
}

impl OwnAddresses {
    pub(super) fn new(every_port: &[IpAddr], one_port: &[(IpAddr, u16)]) -> Self {
        let every_port: Box<[_]> = every_port.iter().copied().map(canonical).collect();
        let one_port: Box<[_]> = one_port.iter().map(|&(ip, port)| (canonical(ip), port)).collect();
        let ends = LastBytes::collect(every_port.iter().chain(one_port.iter().map(|(ip, _)| ip)));
        Self { every_port, one_port, ends }
    }

    /// Whether a destination is the gateway itself, by any of its forms.
    #[inline(always)]
    pub(super) fn hold(&self, target: &Target, port: u16) -> bool {
        (target.outer.is_some() || self.ends.holds(target.judged)) && self.are(target, port)
    }

    #[inline(never)]
    fn are(&self, target: &Target, port: u16) -> bool {
        let outer = target.outer.map(IpAddr::V6);
        let is = |own: &IpAddr| *own == target.judged || Some(*own) == outer;
        self.every_port.iter().any(is)
            || self.one_port.iter().any(|(own, own_port)| is(own) && *own_port == port)
    }

    /// All of them, whatever the port.
    pub(super) fn all(&self) -> impl Iterator<Item = IpAddr> {
        self.every_port.iter().copied().chain(self.one_port.iter().map(|&(own, _)| own))
    }
}
