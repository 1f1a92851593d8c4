//! Binds the sockets that clients reach: of listeners, of the UDP beside them, of the name server.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};

/// Who else may have the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// No other socket.
    Alone,
    /// Connections of an earlier socket that are still closing (`SO_REUSEADDR`).
    AfterOthers,
    /// Sockets of other workers, and of the next process (`SO_REUSEPORT`).
    WithOthers,
}

/// Binds a socket that never blocks. A transparent one takes what is addressed to anybody
/// (`IP_TRANSPARENT`), which needs CAP_NET_ADMIN or CAP_NET_RAW.
///
/// # Errors
/// As socket(2), setsockopt(2) and bind(2).
pub(crate) fn bind(
    address: SocketAddr,
    protocol: Protocol,
    sharing: Sharing,
    transparent: bool,
) -> io::Result<Socket> {
    let kind = if protocol == Protocol::TCP { Type::STREAM } else { Type::DGRAM };
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking(), Some(protocol))?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        // `[::]` means every address, whatever net.ipv6.bindv6only says.
        socket.set_only_v6(false)?;
    }
    if sharing != Sharing::Alone {
        socket.set_reuse_address(true)?;
    }
    if sharing == Sharing::WithOthers {
        socket.set_reuse_port(true)?;
    }
    if transparent {
        // One flag in the kernel, whichever of the two options sets it; an IPv6 socket takes both.
        socket.set_ip_transparent_v4(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}
