//! Dials what was permitted, and nothing else; then relays.

use std::io;
use std::time::Duration;

use tokio::net::TcpSocket;
use tokio::time::{Instant, timeout};

use super::accept::Door;
use super::peek::Seen;
use super::second;
use super::wire::Wire;
use crate::account::{Connect, End, Metrics, Record};
use crate::policy::Permit;

/// Dials the permitted destination, replays what was read, and relays until the end. A destination
/// that cannot be reached is a reset for the client, as it would be without a gateway.
pub(super) async fn run(
    client: Wire,
    seen: Seen,
    permit: Permit,
    door: &Door,
    record: &mut Record,
) -> End {
    record.forwarding();
    // Boxed, so that what only the dial needs does not last as long as the relay.
    let dialled = Box::pin(dial(&permit, door.connect_timeout, record.metrics())).await;
    let upstream = match dialled {
        Ok(upstream) => upstream,
        Err(fault) => return fault.end(),
    };
    second::run(&client, &upstream, seen.into_bytes(), door.idle_timeout, record).await
}

/// Why a connect failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialFault {
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
    pub(super) const fn end(&self) -> End {
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

/// Connects to exactly the permitted address.
pub(super) async fn dial(
    permit: &Permit,
    limit: Duration,
    metrics: &Metrics,
) -> Result<Wire, DialFault> {
    let begun = Instant::now();
    let destination = permit.destination();
    let connect = async {
        let socket = if destination.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        socket?.connect(destination).await
    };
    let dialled = match timeout(limit, connect).await {
        Ok(connected) => connected.map_err(DialFault::from),
        Err(_) => Err(DialFault::TimedOut),
    };
    let result = dialled.as_ref().map_or_else(DialFault::result, |_| Connect::Done);
    metrics.connected(result, begun.elapsed());
    dialled.map(Wire::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Action, Reason, Verdict};

    fn permit(destination: &str) -> Permit {
        let destination = destination.parse().unwrap();
        Verdict::given(Action::Allow, Reason::Permitted, destination).permit().unwrap()
    }

    #[tokio::test]
    async fn a_closed_port_is_a_refusal_and_counted_as_one() {
        let port = {
            let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
            listener.local_addr().unwrap()
        };
        let metrics = Metrics::register();
        let dialled = dial(&permit(&port.to_string()), Duration::from_secs(5), &metrics).await;
        assert!(matches!(dialled, Err(DialFault::Refused)), "{dialled:?}");
        let text = metrics.render();
        assert!(text.contains("schengate_upstream_connect_total{result=\"refused\"} 1"), "{text}");
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
