//! Connects to what was permitted, and to nothing else: a `Permit` is the only way to name a
//! destination here.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::time::{Instant, timeout};

use super::dial;
use crate::account::{Connect, End, Limit, Metrics};
use crate::net::dialled::Source;
use crate::net::socket::{TcpSocket, delay_acks, prepare, set_limits};
use crate::policy::Permit;
use crate::settings::Listen;
use crate::sys;

/// Why a connect failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialFault {
    /// The destination answered with a reset.
    #[error("the destination refused the connection")]
    Refused,
    /// Nobody answered in time.
    #[error("the destination did not answer in time")]
    TimedOut,
    /// No route, or a router said that it is prohibited.
    #[error("the destination cannot be reached")]
    Unreachable,
    /// Anything else, on this host: no descriptors, no local port ...
    #[error("the connect failed on the gateway")]
    Failed(#[source] io::Error),
}

impl DialFault {
    /// The end of a connection that got no further.
    pub(crate) const fn end(&self) -> End {
        match self {
            Self::Refused => End::ConnectRefused,
            Self::TimedOut => End::ConnectTimedOut,
            Self::Unreachable => End::ConnectUnreachable,
            Self::Failed(_) => End::ConnectFailed,
        }
    }

    const fn result(&self) -> Connect {
        match self {
            Self::Refused => Connect::Refused,
            Self::TimedOut => Connect::TimedOut,
            Self::Unreachable => Connect::Unreachable,
            Self::Failed(_) => Connect::Failed,
        }
    }
}

impl From<io::Error> for DialFault {
    fn from(fault: io::Error) -> Self {
        use io::ErrorKind;
        if fault.kind() == ErrorKind::ConnectionRefused {
            return Self::Refused;
        }
        // An ICMP "administratively prohibited" comes as EACCES or EHOSTUNREACH.
        let unreachable = [
            ErrorKind::HostUnreachable,
            ErrorKind::NetworkUnreachable,
            ErrorKind::PermissionDenied,
        ];
        if unreachable.contains(&fault.kind()) {
            return Self::Unreachable;
        }
        if fault.kind() == ErrorKind::TimedOut { Self::TimedOut } else { Self::Failed(fault) }
    }
}

/// A socket that can connect to `destination`, and does so from `source` where that is given. Its
/// port is chosen by the connect, for the one destination: the bind would take it for all of them.
fn socket(
    destination: SocketAddr,
    settings: &Listen,
    speaks: bool,
    source: Option<IpAddr>,
) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking();
    let socket = Socket::new(Domain::for_address(destination), kind, Some(Protocol::TCP))?;
    let socket = sys::unreserved(socket)?;
    prepare(&socket);
    set_limits(&socket, settings.keepalive, settings.user_timeout)?;
    if speaks {
        delay_acks(&socket);
    }
    if let Some(source) = source {
        // One flag in the kernel, whichever of the two options sets it.
        socket.set_ip_transparent_v4(true)?;
        sys::choose_port_at_connect(socket.as_fd())?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(socket)
}

/// Connects to exactly the permitted address, with the limits of the listener; from `source`, or not at
/// all, where that is given. `speaks`: bytes are sent as soon as the connect is done.
pub(crate) async fn connect(
    permit: &Permit,
    settings: &Listen,
    speaks: bool,
    source: Option<Source>,
    metrics: &Metrics,
) -> Result<TcpSocket, DialFault> {
    let begun = Instant::now();
    let connected = match begin(permit, settings, speaks, source) {
        Ok(socket) => match timeout(settings.connect_timeout, socket.connected()).await {
            Ok(connected) => connected.map(|()| socket).map_err(DialFault::from),
            Err(_) => Err(DialFault::TimedOut),
        },
        Err(fault) => Err(fault),
    };
    if let Err(DialFault::Failed(cause)) = &connected
        && cause.raw_os_error() == Some(libc::EMFILE)
    {
        metrics.limit_hit(Limit::Descriptors);
    }
    let result = connected.as_ref().map_or_else(DialFault::result, |_| Connect::Done);
    metrics.connected(result, begun.elapsed());
    connected
}

/// Begins to connect.
fn begin(
    permit: &Permit,
    settings: &Listen,
    speaks: bool,
    source: Option<Source>,
) -> Result<TcpSocket, DialFault> {
    // What fails here fails on this host, whatever the error is called.
    let ip = source.as_ref().map(|source| source.ip);
    let socket = socket(permit.destination(), settings, speaks, ip).map_err(DialFault::Failed)?;
    let in_question = match source {
        None => dial::begin(&socket, permit).map(|()| None)?,
        Some(source) => Some(source.dial(permit.destination(), || {
            dial::begin(&socket, permit)?;
            Ok(socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?)
        })?),
    };
    TcpSocket::connecting(socket.into(), in_question).map_err(DialFault::Failed)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::policy::fixture::permit;

    #[tokio::test(flavor = "local")]
    async fn a_closed_port_is_a_refusal_and_counted_as_one() {
        let port = {
            let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
            listener.local_addr().unwrap()
        };
        let metrics = Metrics::register();
        let dialled = connect(&permit(port), &Listen::DEFAULT, false, None, &metrics).await;
        assert!(matches!(dialled, Err(DialFault::Refused)), "{dialled:?}");
        let text = metrics.render();
        assert!(text.contains("schengate_upstream_connect_total{result=\"refused\"} 1"), "{text}");
    }

    #[tokio::test(flavor = "local")]
    async fn the_source_of_a_dial_is_the_one_that_is_asked_for() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let to = listener.local_addr().unwrap();
        let metrics = Metrics::register();
        let ip = IpAddr::from([127, 0, 0, 99]);
        let source = |ip| Some(Source { ip, dialled: Arc::default() });
        let dialled = connect(&permit(to), &Listen::DEFAULT, false, source(ip), &metrics).await;
        if let Err(DialFault::Failed(fault)) = &dialled
            && fault.kind() == io::ErrorKind::PermissionDenied
        {
            return println!("LEFT OUT: a transparent socket needs CAP_NET_ADMIN");
        }
        let dialled = dialled.unwrap();
        let (_, from) = listener.accept().unwrap();
        assert_eq!(from.ip(), ip);
        assert_eq!(socket2::SockRef::from(&dialled).local_addr().unwrap().as_socket(), Some(from));
        // Of another family than the destination: refused here, never sent from elsewhere.
        let source = source("2001:db8::1".parse().unwrap());
        let dialled = connect(&permit(to), &Listen::DEFAULT, false, source, &metrics).await;
        assert!(matches!(dialled, Err(DialFault::Failed(_))), "{dialled:?}");
    }

    #[test]
    fn every_failed_connect_has_an_end() {
        for (errno, end) in [
            (libc::ECONNREFUSED, End::ConnectRefused),
            (libc::ETIMEDOUT, End::ConnectTimedOut),
            (libc::EHOSTUNREACH, End::ConnectUnreachable),
            (libc::ENETUNREACH, End::ConnectUnreachable),
            (libc::EACCES, End::ConnectUnreachable),
            (libc::EMFILE, End::ConnectFailed),
            (libc::EADDRNOTAVAIL, End::ConnectFailed),
        ] {
            assert_eq!(DialFault::from(io::Error::from_raw_os_error(errno)).end(), end, "{errno}");
        }
    }
}
