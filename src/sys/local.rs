//! A network namespace of which the loopback is all there is: every address is delivered in it.

use std::io;
use std::net::IpAddr;

use super::netlink::put;
use super::route::{CREATE, NEW_ROUTE, REPLACE, change, loopback, route_message};

/// `RTM_NEWLINK`, `RTM_NEWADDR`.
const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
/// The address at the far end, and the interface's own; on the loopback they are the same.
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
/// `RTA_PREFSRC`: whom a packet comes from where its sender named no address.
const SOURCE: u16 = 7;
/// `IFA_F_NODAD`: nobody else can have it.
const ALONE: u8 = 2;
/// The routing table `main`.
const MAIN: u32 = 254;

/// Switches the loopback interface on.
///
/// # Errors
/// Without CAP_NET_ADMIN.
pub fn start_loopback() -> io::Result<()> {
    const UP: [u8; 4] = 1_u32.to_ne_bytes();
    let mut header = vec![0; 4];
    header.extend(loopback()?.to_ne_bytes());
    header.extend(UP);
    header.extend(UP);
    change(NEW_LINK, 0, &(header, Vec::new()))
}

/// Gives the loopback interface one more address.
///
/// # Errors
/// Without CAP_NET_ADMIN, where it is there already, or where the family is switched off.
pub fn add_own_address(address: IpAddr) -> io::Result<()> {
    let (family, octets, flags) = match address {
        IpAddr::V4(ip) => (libc::AF_INET, ip.octets().to_vec(), 0),
        IpAddr::V6(ip) => (libc::AF_INET6, ip.octets().to_vec(), ALONE),
    };
    let family = u8::try_from(family).map_err(io::Error::other)?;
    let bits = u8::try_from(octets.len() * 8).map_err(io::Error::other)?;
    let mut header = vec![family, bits, flags, 0];
    header.extend(loopback()?.to_ne_bytes());
    let mut attributes = Vec::new();
    put(&mut attributes, LOCAL, &octets);
    put(&mut attributes, ADDRESS, &octets);
    change(NEW_ADDRESS, CREATE, &(header, attributes))
}

/// Delivers whatever is sent to any address of the family of `from` in this namespace, where it comes
/// from `from` unless its sender says otherwise.
///
/// # Errors
/// Without CAP_NET_ADMIN, or where `from` is not an address of this namespace.
pub fn deliver_all_here(from: IpAddr) -> io::Result<()> {
    let (header, mut attributes) = route_message(from.is_ipv6(), MAIN)?;
    match from {
        IpAddr::V4(ip) => put(&mut attributes, SOURCE, &ip.octets()),
        IpAddr::V6(ip) => put(&mut attributes, SOURCE, &ip.octets()),
    }
    change(NEW_ROUTE, CREATE | REPLACE, &(header, attributes))
}
