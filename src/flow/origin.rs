//! Finds where a transparent client was going. It is never guessed: without an answer of the kernel
//! the connection ends.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use socket2::SockRef;

use crate::net::canonical;
use crate::settings::ListenMode;

/// Why a connection has no destination that it could be sent to.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// Not intercepted, or the firewall rule is wrong.
    #[error("no original destination")]
    Unknown(#[source] io::Error),
    /// The client connected to the listener itself: to forward that is to call oneself for ever.
    #[error("the destination is the listener itself")]
    Loop(SocketAddr),
}

/// The original destination of an accepted connection, in canonical form (an IPv4-mapped IPv6
/// address is that IPv4). `listener` is the address that the listener is bound to.
pub(super) fn of(
    client: &impl AsFd,
    mode: ListenMode,
    listener: SocketAddr,
) -> Result<SocketAddr, Fault> {
    let client = SockRef::from(client);
    let origin = match mode {
        // TPROXY hands the connection over as it is: its local address is the destination.
        ListenMode::Tproxy => local(&client),
        // REDIRECT rewrote the destination, and conntrack remembers what it was.
        ListenMode::Redirect => redirected(&client),
        ListenMode::Proxy => {
            Err(io::Error::other("whoever is asked by name has no original destination"))
        }
    };
    let origin = canonical(origin.map_err(Fault::Unknown)?);
    if is_own(origin, listener).map_err(Fault::Unknown)? {
        return Err(Fault::Loop(origin));
    }
    Ok(origin)
}

fn redirected(socket: &SockRef<'_>) -> io::Result<SocketAddr> {
    // A dual-stack listener sees IPv4 clients at mapped addresses, and conntrack keeps those flows
    // in its IPv4 table.
    let origin = match local(socket)?.ip().to_canonical() {
        IpAddr::V4(_) => socket.original_dst_v4()?,
        IpAddr::V6(_) => socket.original_dst_v6()?,
    };
    origin.as_socket().ok_or_else(no_address)
}

fn local(socket: &SockRef<'_>) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(no_address)
}

fn no_address() -> io::Error {
    io::Error::other("the original destination is not an address")
}

/// Whether `origin` is the listener itself, which is bound to `listener`.
///
/// A listener on port 443 is asked for each flow, and a worker may not list interfaces, so this asks the
/// kernel about one address: a plain socket can be bound to an address of the host's own, and to no other
/// (with net.ipv4.ip_nonlocal_bind = 1 to any, and everything on that port is refused as a loop).
pub(super) fn is_own(origin: SocketAddr, listener: SocketAddr) -> io::Result<bool> {
    let mut any_port = origin;
    any_port.set_port(0);
    is_listener(origin, listener, || match UdpSocket::bind(any_port) {
        Ok(_) => Ok(vec![origin.ip()]),
        Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable => Ok(Vec::new()),
        Err(e) => Err(e),
    })
}

/// The interfaces are asked only where the port is the listener's, which is rare.
fn is_listener(
    origin: SocketAddr,
    listener: SocketAddr,
    local_addresses: impl FnOnce() -> io::Result<Vec<IpAddr>>,
) -> io::Result<bool> {
    if origin.port() != listener.port() {
        return Ok(false);
    }
    let bound = listener.ip().to_canonical();
    if !bound.is_unspecified() {
        return Ok(origin.ip() == bound);
    }
    Ok(origin.ip().is_loopback() || local_addresses()?.contains(&origin.ip()))
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_listener_is_known_by_every_address_of_the_host() {
        let own = || Ok(vec![address("192.0.2.1:0").ip()]);
        let is = |origin: &str, listener: &str| {
            is_listener(address(origin), address(listener), own).unwrap()
        };
        assert!(is("192.0.2.1:15001", "[::]:15001"));
        assert!(is("127.0.0.1:15001", "0.0.0.0:15001"));
        assert!(is("192.0.2.7:15001", "192.0.2.7:15001"));
        assert!(!is("192.0.2.2:15001", "[::]:15001"), "a foreign host may use the port");
        assert!(!is("192.0.2.1:443", "[::]:15001"), "another port is for the policy to judge");
        assert!(!is("192.0.2.1:15001", "192.0.2.7:15001"));
    }

    #[test]
    fn an_address_of_the_host_is_known_without_a_list_of_them() {
        let own = |origin, listener| is_own(address(origin), address(listener)).unwrap();
        assert!(own("127.0.0.1:443", "[::]:443") && own("[::1]:443", "[::]:443"));
        assert!(!own("198.51.100.7:443", "[::]:443"));
        assert!(!own("[2001:db8::7]:443", "[::]:443"));
        assert!(!own("127.0.0.1:444", "[::]:443"));
    }

    #[test]
    fn interfaces_that_cannot_be_read_are_no_leave_to_forward() {
        let fails = || Err(io::Error::other("none"));
        let judged = is_listener(address("192.0.2.1:15001"), address("[::]:15001"), fails);
        assert!(judged.is_err());
    }

    #[tokio::test]
    async fn a_client_of_the_port_itself_is_a_loop() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        let _client = TcpStream::connect(at).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        assert!(matches!(of(&accepted, ListenMode::Tproxy, at), Err(Fault::Loop(to)) if to == at));
        let redirect = of(&accepted, ListenMode::Redirect, at);
        assert!(redirect.is_err(), "never redirected: {redirect:?}");
        assert!(of(&accepted, ListenMode::Proxy, at).is_err());
    }
}
