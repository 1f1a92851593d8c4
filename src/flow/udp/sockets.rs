//! Opens the sockets by which UDP clients are answered, and sends on them.

use std::io;
use std::net::SocketAddr;

use socket2::Socket;
use tokio::net::UdpSocket;

use super::ports::datagrams;
use super::table::Key;
use crate::sys::udp;

/// Sends from the listener, as from `from`, whose port is the listener's.
pub(in crate::flow) fn send_from(
    listener: &UdpSocket,
    run: &[u8],
    segment: usize,
    client: SocketAddr,
    from: SocketAddr,
) -> io::Result<()> {
    // A dual-stack socket takes IPv4 clients by their mapped address only.
    let dual = listener.local_addr()?.is_ipv6();
    let to = match client {
        SocketAddr::V4(v4) if dual => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        SocketAddr::V4(_) | SocketAddr::V6(_) => client,
    };
    udp::send(listener, run, segment, Some(to), Some(from.ip()))
}

/// A transparent socket with the destination's address and port, connected to the client; none for a
/// client of another network namespace (`is_foreign`), whom it would not reach.
pub(super) fn answer_from(key: Key, is_foreign: bool) -> io::Result<UdpSocket> {
    if is_foreign {
        return Err(io::ErrorKind::AddrNotAvailable.into());
    }
    let socket = datagrams(key.to)?;
    socket.set_reuse_address(true)?;
    // One flag in the kernel, whichever of the two options sets it; each asks its own family.
    if key.to.is_ipv6() {
        socket.set_ip_transparent_v6(true)?;
    } else {
        socket.set_ip_transparent_v4(true)?;
    }
    socket.bind(&key.to.into())?;
    socket.connect(&key.client.into())?;
    finish(socket)
}

/// Hands a socket over to the runtime.
pub(super) fn finish(socket: Socket) -> io::Result<UdpSocket> {
    // A kernel without it hands over one datagram at a time.
    udp::want_runs(&socket).ok();
    UdpSocket::from_std(socket.into())
}
