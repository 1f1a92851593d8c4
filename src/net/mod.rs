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

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::socket::TcpSocket;

    impl TcpSocket {
        /// A client of the runtime's, and what its listener accepted.
        pub(crate) async fn pair() -> (TcpStream, Self) {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            (client, Self::new(listener.accept().await.unwrap().0))
        }
    }
}
