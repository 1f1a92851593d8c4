//! Says what the data plane is to do, in types of its own, so that it knows nothing of the policy file.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

use crate::account::Way;
use crate::egress::NamesLimit;
pub use crate::settings::{Dns, Resolver};

/// Everything that is fixed for the life of a data plane.
#[derive(Debug)]
pub struct Settings {
    /// Where connections come in.
    pub listeners: Vec<Listener>,
    /// Worker threads; each has a socket of its own on every address.
    pub workers: NonZeroUsize,
    /// Each worker keeps to a processor of its own.
    pub affinity: bool,
    /// How names are resolved.
    pub names: NameService,
    /// The gateway's own name server, where it is one.
    pub dns: Option<Dns>,
}

/// How names are resolved, and for how long an answer ties a name to its addresses.
#[derive(Debug, Clone)]
pub struct NameService {
    /// Who is asked; where there is none, the resolvers of the host.
    pub resolvers: Vec<Resolver>,
    /// Who may vouch for those that are asked over TLS; without it none of them is believed.
    pub tls: Option<Arc<ClientConfig>>,
    /// How long an answer holds, where its TTL is shorter.
    pub remember: Duration,
    /// How many names one client may have asked about.
    pub limit: NamesLimit,
}

/// One place where connections come in.
#[derive(Debug)]
pub struct Listener {
    /// How connections arrive.
    pub way: Way,
    /// Its address, or the socket itself.
    pub socket: Socket,
    /// Time allowed for the first bytes.
    pub peek_timeout: Duration,
    /// Time allowed for the connect to the destination.
    pub connect_timeout: Duration,
    /// Time without a byte either way after which a relay ends.
    pub idle_timeout: Duration,
    /// As `idle_timeout`, once one of the two sides has closed.
    pub half_closed_timeout: Duration,
    /// Time after which a connection, request or UDP flow ends, whatever it does.
    pub lifetime: Option<Duration>,
    /// Silence after which either side is asked whether it is still there (TCP keep-alive).
    pub keepalive: Option<Duration>,
    /// Time that sent bytes may stay unacknowledged (TCP_USER_TIMEOUT, RFC 5482); the kernel's own
    /// limit where there is none.
    pub user_timeout: Option<Duration>,
    /// Dial from the client's address and not from the gateway's; needs CAP_NET_ADMIN, and answers
    /// that are routed back through this host. For the transparent ways alone.
    pub keep_source: bool,
    /// Connections at once, over all workers; more are refused as `overload`.
    pub max_connections: usize,
    /// Connections at once of one client, over all workers; more are refused as `overload`. 0 is no
    /// limit of its own; `None` a share of what all listeners together may have. An IPv6 client is
    /// its /64.
    pub max_connections_per_client: Option<usize>,
    /// Close without an answer instead of refusing aloud.
    pub silent: bool,
    /// Play the server of protocols that go over to TLS (SMTP, IMAP, POP3, PostgreSQL, on their own
    /// ports) up to the hello, and judge by its name. For the transparent ways alone.
    pub starttls: bool,
    /// Where transparent UDP comes in beside it, under the same limits.
    pub udp: Option<Datagrams>,
}

/// A UDP listener's socket.
#[derive(Debug)]
pub enum Datagrams {
    /// To be opened here; port 0 is the port of the TCP listener.
    Address(SocketAddr),
    /// Opened by the service manager, options (IP_TRANSPARENT) included.
    Inherited(UdpSocket),
}

/// A listener's socket.
#[derive(Debug)]
pub enum Socket {
    /// To be opened here.
    Address(SocketAddr),
    /// Opened by the service manager, options (IP_TRANSPARENT) included.
    Inherited(TcpListener),
}
