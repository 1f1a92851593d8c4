//! Connects, and is the one place that does: to what may be dialled, of which a [`Destination`] says
//! who permitted it. Sockets that answer a client go back to where it came from, and are not dialled.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::net::{TcpStream, UdpSocket};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::policy::Permit;
use crate::settings::Resolver;
use crate::sys;

/// An address that may be dialled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Destination(SocketAddr);

impl From<&Permit> for Destination {
    /// The policy permitted it.
    fn from(permit: &Permit) -> Self {
        Self(permit.destination())
    }
}

impl From<&Resolver> for Destination {
    /// The administrator named it: in `[names] resolvers`, or in this host's `/etc/resolv.conf`.
    fn from(resolver: &Resolver) -> Self {
        Self(resolver.at)
    }
}

/// Begins to connect a socket that never blocks, from the address that it is bound to.
///
/// # Errors
/// As connect(2); that it takes time is none.
pub(crate) fn begin<'s>(
    socket: impl Into<SockRef<'s>>,
    to: impl Into<Destination>,
) -> io::Result<()> {
    let Destination(at) = to.into();
    match socket.into().connect(&at.into()) {
        Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => Err(e),
        _ => Ok(()),
    }
}

/// Connects a stream of the runtime's.
///
/// # Errors
/// As connect(2).
pub(crate) async fn tcp(to: impl Into<Destination>) -> io::Result<TcpStream> {
    let Destination(at) = to.into();
    TcpStream::connect(at).await
}

/// As [`tcp`], and speaks TLS with the holder of a certificate of this name.
///
/// # Errors
/// As connect(2), where the name cannot be one of a certificate, or where the handshake fails.
pub(crate) async fn tls(
    to: impl Into<Destination>,
    name: String,
    client: &Arc<ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name).map_err(io::Error::other)?;
    let stream = tcp(to).await?;
    TlsConnector::from(Arc::clone(client)).connect(name, stream).await
}

/// A socket of the runtime's at a port of its own, connected: the kernel gives it the datagrams of that
/// address and port alone.
///
/// # Errors
/// As bind(2) and connect(2).
pub(crate) async fn udp(to: impl Into<Destination>) -> io::Result<UdpSocket> {
    let Destination(at) = to.into();
    let any: IpAddr = match at {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = sys::unreserved(UdpSocket::bind((any, 0)).await?)?;
    socket.connect(at).await?;
    Ok(socket)
}
