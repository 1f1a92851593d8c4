//! Holds what is fixed for the life of a data plane. The keys of a listener are `crate::settings::Listen`,
//! as the policy file has them; nothing copies them.

use std::net::{TcpListener, UdpSocket};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

use crate::broker::Feed;
use crate::egress::NamesLimit;
use crate::settings::{Dns, Lane, Listen, Resolver};

/// Everything that is fixed for the life of a data plane.
#[derive(Debug)]
pub struct Settings {
    /// Where connections come in.
    pub listeners: Vec<Listener>,
    /// Which flows the kernel carries, where some are.
    pub lane: Option<Lane>,
    /// Worker threads; each has a socket of its own on every address.
    pub workers: NonZeroUsize,
    /// Each worker keeps to a processor of its own.
    pub affinity: bool,
    /// How names are resolved.
    pub names: NameService,
    /// The gateway's own name server, where it is one.
    pub dns: Option<Dns>,
    /// Its sockets, UDP and TCP, where somebody else opened them.
    pub dns_sockets: Option<(UdpSocket, TcpListener)>,
    /// Workers may open no file and start no program: they are confined to the calls of their role.
    pub confined: bool,
}

/// How names are resolved, and for how long an answer ties a name to its addresses.
#[derive(Debug)]
pub struct NameService {
    /// Who is asked; where there is none, the resolvers of the host.
    pub resolvers: Vec<Resolver>,
    /// Who may vouch for those that are asked over TLS; without it none of them is believed.
    pub tls: Option<Arc<ClientConfig>>,
    /// How long an answer holds, where its TTL is shorter.
    pub remember: Duration,
    /// How many names one client may have asked about.
    pub limit: NamesLimit,
    /// The files of the host's own configuration, where workers may not open them.
    pub host: Option<Feed>,
}

/// One place where connections come in.
#[derive(Debug)]
pub struct Listener {
    /// What the policy file says of it.
    pub settings: Listen,
    /// Its socket, where the service manager opened it, options (IP_TRANSPARENT) included; else one
    /// is opened here for each worker.
    pub socket: Option<TcpListener>,
    /// The same for UDP, where the settings have it; port 0 is the port of the TCP listener.
    pub datagrams: Option<UdpSocket>,
}
