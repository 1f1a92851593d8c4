//! The addresses by which the capture is tried: nobody else has them, and no policy opens them.
//!
//! Who keeps the capture (`schengate capture keep`) has packets arrive from the one to the other, as
//! a client would send them, and waits for the gateway's refusal.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where a probe comes from, IPv4 and IPv6: the dummy addresses of RFC 7600 and RFC 9780, valid as
/// a source and never as a destination.
pub const FROM: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 8)),
    IpAddr::V6(Ipv6Addr::new(0x100, 0, 0, 1, 0, 0, 0, 0x5347)),
];

/// Where it wants to go: for documentation (RFC 5737), and to be discarded (RFC 6666).
pub const TO: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 253)),
    IpAddr::V6(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0x5347)),
];

/// Whether a connection or datagram from this address is a probe: refused, and in no record, since
/// it is nobody's. Who forges the address gets the same refusal.
#[must_use]
pub fn is_from(client: IpAddr) -> bool {
    FROM.contains(&client.to_canonical())
}
