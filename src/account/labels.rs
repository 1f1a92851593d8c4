//! What is counted apart, and the labels by which it is: closed sets.

/// How reading the first bytes ended: the label `result` of `schengate_hello_parse_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Hello {
    /// A name was read.
    Named,
    /// A protocol that carries a name, without one.
    Nameless,
    /// No protocol that carries a name.
    Other,
    /// Bytes that broke the protocol's rules.
    Malformed,
    /// Nothing came before the deadline.
    Silent,
}

/// How a connect ended: the label `result` of `schengate_upstream_connect_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Connect {
    /// Connected.
    Done,
    /// The peer answered with a reset.
    Refused,
    /// No answer in time.
    TimedOut,
    /// No route, or a router said no.
    Unreachable,
    /// Anything else, on this host.
    Failed,
}

/// Which limit was reached: the label `limit` of `schengate_limits_hit_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Limit {
    /// `max_connections` of a listener.
    Connections,
    /// The most bytes or reads that are spent on a first flight.
    FirstFlight,
    /// The most connections at once on the admin listener.
    Admin,
    /// The descriptors of the process, but for those that are kept for other things.
    Descriptors,
    /// `max_connections_per_client` of a listener.
    Client,
    /// New names that one client may have asked about (`[names] new_names`).
    Names,
    /// First flights under way on a listener.
    Hellos,
    /// First flights under way of one client.
    ClientHellos,
}

/// What a probe of the capture came as: the label `proto` of `schengate_probes_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Probed {
    /// A connection.
    Tcp,
    /// A datagram.
    Udp,
}

/// The class of a failed accept(2): the label `class` of `schengate_accept_errors_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Accept {
    /// One connection died in the queue.
    Connection,
    /// No descriptors or memory.
    Exhausted,
    /// The listener is broken.
    Listener,
}

/// Why a UDP datagram went nowhere, or no answer to it: the label `cause` of
/// `schengate_udp_dropped_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Dropped {
    /// No more flows at once.
    TableFull,
    /// No more flows for this client.
    ClientLimit,
    /// No more bytes or datagrams may wait for a verdict.
    Held,
    /// No original destination: not intercepted, or the firewall rule is wrong.
    NoOrigin,
    /// QUIC that cannot be read, on a flow that was let go by what was read.
    Unread,
    /// No socket can send from the destination's address (CAP_NET_RAW).
    NoReplyPath,
    /// The ICMP answer to a refused datagram cannot be sent (CAP_NET_RAW).
    NoIcmp,
    /// The network or this host did not take it.
    Unsent,
    /// More ICMP answers in a second than one listener sends.
    IcmpLimit,
    /// A fragment of a SOCKS5 datagram (RFC 1928 §7), which is never put together here.
    Fragment,
    /// No SOCKS5 datagram, or one whose destination is no host and port.
    Malformed,
    /// To an association, from another than its client; or to a client, from another than the
    /// destination that was permitted.
    Stranger,
    /// No local port is free (net.ipv4.ip_local_port_range).
    NoPort,
    /// The client has a quarter of the local ports.
    ClientPorts,
    /// Longer than a packet on the way to its destination; its client was told.
    TooBig,
    /// More answers of the gateway's own in a second than one network of clients is sent.
    NetworkLimit,
}

/// What became of a question to the gateway's own name server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsQuery {
    /// Asked and answered.
    Forwarded,
    /// The same, and addresses that the policy refuses were left out.
    Filtered,
    /// The policy refuses the name, all of its addresses, or the name servers.
    Refused,
    /// No name server answered.
    Failed,
    /// No question; not answered.
    Malformed,
    /// Of a kind or type that is not forwarded.
    Unsupported,
    /// Its client asks too often, which is not answered, or about too many new names.
    Limited,
    /// Too many questions or clients at once; not answered.
    Busy,
    /// Answered here: a name of the client's own host.
    Local,
}

pub(super) const DNS: [&str; 9] = [
    "forwarded",
    "filtered",
    "refused",
    "failed",
    "malformed",
    "unsupported",
    "limited",
    "busy",
    "local",
];
pub(super) const HELLO: [&str; 5] = ["named", "nameless", "other", "malformed", "silent"];
pub(super) const CONNECT: [&str; 5] = ["done", "refused", "timed-out", "unreachable", "failed"];
pub(super) const LIMIT: [&str; 8] = [
    "connections",
    "first-flight",
    "admin",
    "descriptors",
    "client",
    "names",
    "hellos",
    "client-hellos",
];
pub(super) const PROBED: [&str; 2] = ["tcp", "udp"];
pub(super) const ACCEPT: [&str; 3] = ["connection", "exhausted", "listener"];
pub(super) const DROPPED: [&str; 16] = [
    "table-full",
    "client-limit",
    "held",
    "no-origin",
    "unread",
    "no-reply-path",
    "no-icmp",
    "unsent",
    "icmp-limit",
    "fragment",
    "malformed",
    "stranger",
    "no-port",
    "client-ports",
    "too-big",
    "network-limit",
];
