//! Serves SOCKS5 clients (RFC 1928), without authentication: CONNECT and UDP ASSOCIATE.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;

use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::tunnel;
use crate::account::End;
use crate::egress::connect::DialFault;
use crate::flow::authority::{Target, canonical};
use crate::flow::refuse;
use crate::flow::resolve::{ConnectError, Connected, Request, resolve_and_dial};
use crate::flow::session::{Connection, Session, run_until};
use crate::flow::slots::Slot;
use crate::flow::udp;
use crate::identify::socks::{self, Destination, Part, Unserved};
use crate::identify::{Host, NameSource, Protocol};
use crate::net::socket::TcpSocket;

/// Reply codes (RFC 1928 §6).
const GENERAL_FAILURE: u8 = 1;
const NOT_ALLOWED: u8 = 2;
const NETWORK_UNREACHABLE: u8 = 3;
const HOST_UNREACHABLE: u8 = 4;
const CONNECTION_REFUSED: u8 = 5;
const TTL_EXPIRED: u8 = 6;
const COMMAND_NOT_SUPPORTED: u8 = 7;
const ADDRESS_NOT_SUPPORTED: u8 = 8;

/// Serves one SOCKS5 client.
pub(super) async fn serve(client: TcpSocket, connection: Connection) {
    let mut session = connection.begin();
    let closed = session.closed();
    let walked = run_until(closed, pin!(walk(client, &connection.slot, &mut session))).await;
    match walked {
        Ok(Walked::Opened(socket, reached)) => {
            Box::pin(tunnel::run(socket, Vec::new(), *reached, &connection, session)).await;
        }
        Ok(Walked::Ended(end)) | Err(end) => session.close(end),
    }
}

/// What came of a client's request.
enum Walked {
    /// A tunnel.
    Opened(TcpSocket, Box<Connected>),
    /// All of the connection.
    Ended(End),
}

async fn walk(mut socket: TcpSocket, slot: &Slot, session: &mut Session) -> Walked {
    let command = match timeout(session.listener.peek_timeout, negotiate(&mut socket)).await {
        Ok(Ok(command)) => command,
        Ok(Err(Fault::Answer(answer))) => {
            refuse::say(socket, &answer).await;
            return Walked::Ended(End::BadRequest);
        }
        Ok(Err(Fault::Gone)) => return Walked::Ended(End::ClientGone),
        Err(_) => return Walked::Ended(End::Idle),
    };
    slot.heard();
    let target = match command {
        Command::Connect(target) => target,
        Command::Associate { port } => {
            let end = Box::pin(associate(socket, port, session)).await;
            return Walked::Ended(end);
        }
    };
    let (protocol, source) = (Protocol::Tls, NameSource::Connect);
    let request = Request { target, protocol, source };
    match Box::pin(resolve_and_dial(&request, session)).await {
        Ok(reached) => match socket.write_all(&reply(0)).await {
            Ok(()) => Walked::Opened(socket, Box::new(reached)),
            Err(_) => Walked::Ended(End::ClientReset),
        },
        Err(missed) if session.listener.silent && matches!(missed, ConnectError::Stopped(_)) => {
            refuse::close(socket);
            Walked::Ended(missed.end())
        }
        Err(missed) => {
            refuse::say(socket, &reply(code(&missed))).await;
            Walked::Ended(missed.end())
        }
    }
}

/// Opens an association for the client, and serves it.
async fn associate(socket: TcpSocket, port: Option<u16>, session: &Session) -> End {
    let Session { worker, listener, record, .. } = session;
    let client = record.client().ip();
    let near = match udp::Near::open(&socket) {
        Ok(near) => near,
        Err(fault) => {
            tracing::warn!(%fault, "no socket for a SOCKS5 association");
            refuse::say(socket, &reply(GENERAL_FAILURE)).await;
            return End::IoError;
        }
    };
    if socket.write_all(&bound(near.address())).await.is_err() {
        return End::ClientReset;
    }
    let end = udp::associate(near, udp::Pin { client, port }, &socket, listener, worker).await;
    socket.end_in_order();
    end
}

/// What a client asks for.
#[derive(Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "on the stack for a moment, once a connection")]
enum Command {
    Connect(Target),
    /// UDP; the port that the client will send from, where it says so.
    Associate {
        port: Option<u16>,
    },
}

#[derive(Debug)]
enum Fault {
    /// The client left.
    Gone,
    /// No request that could be served, and the bytes that say so.
    Answer(Vec<u8>),
}

impl From<io::Error> for Fault {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// Reads exactly the greeting and the request: what follows belongs to the tunnel.
async fn negotiate(socket: &mut TcpSocket) -> Result<Command, Fault> {
    if !read(socket, socks::greeting).await? {
        // "No acceptable methods": credentials are not judged here.
        return Err(Fault::Answer(vec![5, 0xff]));
    }
    socket.write_all(&[5, 0]).await?;
    let refused = |code| Err(Fault::Answer(reply(code).to_vec()));
    match read(socket, socks::request).await? {
        Ok(socks::Command::Connect(Destination { host, port })) => {
            Ok(Command::Connect(Target { host: canonical(host), port }))
        }
        Ok(socks::Command::Associate { port }) => Ok(Command::Associate { port }),
        Err(Unserved::Command) => refused(COMMAND_NOT_SUPPORTED),
        Err(Unserved::Version | Unserved::Destination) => refused(GENERAL_FAILURE),
        Err(Unserved::Kind) => refused(ADDRESS_NOT_SUPPORTED),
    }
}

/// The next message of the client, and not a byte of what is behind it.
async fn read<T>(socket: &mut TcpSocket, message: impl Fn(&[u8]) -> Part<T>) -> io::Result<T> {
    let mut seen = Vec::new();
    loop {
        match message(&seen) {
            Part::Whole(message) => return Ok(message),
            Part::Missing(missing) => {
                let have = seen.len();
                seen.resize(have + missing, 0);
                socket.read_exact(seen.split_at_mut(have).1).await?;
            }
        }
    }
}

/// A reply with no bound address: which one the gateway used is none of the client's business.
const fn reply(code: u8) -> [u8; 10] {
    [5, code, 0, 1, 0, 0, 0, 0, 0, 0]
}

/// The reply that says where to send datagrams.
fn bound(at: SocketAddr) -> Vec<u8> {
    let mut reply = vec![5, 0, 0];
    socks::put(&mut reply, Host::Address(at.ip()), at.port());
    reply
}

const fn code(missed: &ConnectError) -> u8 {
    match missed {
        ConnectError::Stopped(_) => NOT_ALLOWED,
        ConnectError::Unresolved | ConnectError::Unanswered => HOST_UNREACHABLE,
        ConnectError::Undialled(DialFault::Refused) => CONNECTION_REFUSED,
        ConnectError::Undialled(DialFault::TimedOut) => TTL_EXPIRED,
        ConnectError::Undialled(DialFault::Unreachable) => NETWORK_UNREACHABLE,
        ConnectError::Undialled(DialFault::Failed(_)) => GENERAL_FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::identify::HostName;

    /// What comes of a client's bytes, which arrive one by one.
    async fn negotiated(bytes: &[u8]) -> Result<Command, Fault> {
        let (mut client, mut socket) = TcpSocket::pair().await;
        let said = async {
            for byte in bytes {
                client.write_all(&[*byte]).await.unwrap();
            }
            client.shutdown().await.unwrap();
        };
        tokio::join!(negotiate(&mut socket), said).0
    }

    fn domain(name: &[u8], port: u16) -> Vec<u8> {
        let mut bytes = vec![5, 1, 0, 5, 1, 0, 3, u8::try_from(name.len()).unwrap()];
        bytes.extend(name);
        bytes.extend(port.to_be_bytes());
        bytes
    }

    fn answer(negotiated: Result<Command, Fault>) -> Vec<u8> {
        match negotiated {
            Err(Fault::Answer(answer)) => answer,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(flavor = "local")]
    async fn the_three_kinds_of_address_are_read() {
        let name = HostName::parse(b"pacs.example").unwrap();
        let read = negotiated(&domain(b"PACS.example", 443)).await.unwrap();
        assert_eq!(read, Command::Connect(Target { host: Host::Name(name), port: 443 }));
        let v4 = negotiated(&[5, 1, 0, 5, 1, 0, 1, 198, 51, 100, 7, 1, 187]).await.unwrap();
        let target = Target::parse(b"198.51.100.7:443", None).unwrap();
        assert_eq!(v4, Command::Connect(target));
        assert_eq!(
            negotiated(&domain(b"198.51.100.7", 443)).await.unwrap(),
            v4,
            "as Chromium does"
        );
        let mapped = negotiated(&domain(b"::ffff:198.51.100.7", 443)).await.unwrap();
        assert_eq!(mapped, v4, "in whatever form, the same is judged");
        let mut v6 = vec![5, 2, 2, 0, 5, 1, 0, 4];
        v6.extend(Ipv4Addr::new(198, 51, 100, 7).to_ipv6_mapped().octets());
        v6.extend([1, 187]);
        assert_eq!(negotiated(&v6).await.unwrap(), v4);
    }

    #[tokio::test(flavor = "local")]
    async fn names_that_are_none_are_refused() {
        let long = [b'a'; 255];
        for name in
            [&b""[..], b"evil\0.google.example", b"127.1", b"2130706433", b"[::1%lo]", &long]
        {
            let code = answer(negotiated(&domain(name, 443)).await)[1];
            assert_eq!(code, GENERAL_FAILURE, "{name:?}");
        }
        assert_eq!(answer(negotiated(&domain(b"a.example", 0)).await)[1], GENERAL_FAILURE);
    }

    #[tokio::test(flavor = "local")]
    async fn other_commands_kinds_and_methods_have_their_replies() {
        for command in [2, 9] {
            let bytes = [5, 1, 0, 5, command, 0, 1, 198, 51, 100, 7, 1, 187];
            assert_eq!(answer(negotiated(&bytes).await)[1], COMMAND_NOT_SUPPORTED);
        }
        let bytes = [5, 1, 0, 5, 1, 0, 2, 198, 51, 100, 7, 1, 187];
        assert_eq!(answer(negotiated(&bytes).await)[1], ADDRESS_NOT_SUPPORTED);
        assert_eq!(answer(negotiated(&[5, 2, 1, 2]).await), [5, 0xff]);
    }

    #[tokio::test(flavor = "local")]
    async fn every_strict_prefix_of_a_request_is_no_request() {
        let whole = domain(b"pacs.example", 443);
        for end in 0..whole.len() {
            let prefix = negotiated(&whole[..end]).await;
            assert!(matches!(prefix, Err(Fault::Gone)), "{end}: {prefix:?}");
        }
    }
}
