//! What is counted apart, and the labels by which it is: closed sets.

/// Declares a closed set with the word of each member beside it, so that none is without one.
macro_rules! labels {
    ($(#[$doc:meta])* pub enum $name:ident { $($(#[$of:meta])* $member:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$of])* $member,)*
        }

        impl $name {
            /// The word of each, in their order.
            pub(super) const WORDS: [&str; [$($word),*].len()] = [$($word),*];
        }
    };
}

labels! {
    /// How reading the first bytes ended: the label `result` of `schengate_hello_parse_total`.
    pub enum Hello {
        /// A name was read.
        Named = "named",
        /// A protocol that carries a name, without one.
        Nameless = "nameless",
        /// No protocol that carries a name.
        Other = "other",
        /// Bytes that broke the protocol's rules.
        Malformed = "malformed",
        /// Nothing came before the deadline.
        Silent = "silent",
    }
}

labels! {
    /// How a connect ended: the label `result` of `schengate_upstream_connect_total`.
    pub enum Connect {
        /// Connected.
        Done = "done",
        /// The peer answered with a reset.
        Refused = "refused",
        /// No answer in time.
        TimedOut = "timed-out",
        /// No route, or a router said no.
        Unreachable = "unreachable",
        /// Anything else, on this host.
        Failed = "failed",
    }
}

labels! {
    /// Which limit was reached: the label `limit` of `schengate_limits_hit_total`.
    pub enum Limit {
        /// `max_connections` of a listener.
        Connections = "connections",
        /// The most bytes or reads that are spent on a first flight.
        FirstFlight = "first-flight",
        /// The most connections at once on the admin listener.
        Admin = "admin",
        /// The descriptors of the process, but for those that are kept for other things.
        Descriptors = "descriptors",
        /// `max_connections_per_client` of a listener.
        Client = "client",
        /// New names that one client may have asked about (`[names] new_names`).
        Names = "names",
        /// First flights under way on a listener.
        Hellos = "hellos",
        /// First flights under way of one client.
        ClientHellos = "client-hellos",
    }
}

labels! {
    /// What a probe of the capture came as: the label `proto` of `schengate_probes_total`.
    pub enum Probed {
        /// A connection.
        Tcp = "tcp",
        /// A datagram.
        Udp = "udp",
        /// The first packet of either, in a queue of the lane; it goes on and arrives as that.
        Lane = "lane",
    }
}

labels! {
    /// What of the lane was lost: the label `what` of `schengate_lane_lost_total`.
    pub enum LaneLoss {
        /// Packets that a queue had no room to show; they are dropped, and come again.
        Packets = "packets",
        /// Packets that cannot be read, or begin no flow; they are dropped.
        Unread = "unread",
        /// Word of connections that have ended; the kernel's list makes it good.
        Ends = "ends",
    }
}

labels! {
    /// The class of a failed accept(2): the label `class` of `schengate_accept_errors_total`.
    pub enum Accept {
        /// One connection died in the queue.
        Connection = "connection",
        /// No descriptors or memory.
        Exhausted = "exhausted",
        /// The listener is broken.
        Listener = "listener",
    }
}

labels! {
    /// Why a UDP datagram went nowhere, or no answer to it: the label `cause` of
    /// `schengate_udp_dropped_total`.
    pub enum Dropped {
        /// No more flows at once.
        TableFull = "table-full",
        /// No more flows for this client.
        ClientLimit = "client-limit",
        /// No more bytes or datagrams may wait for a verdict.
        Held = "held",
        /// No original destination: not intercepted, or the firewall rule is wrong.
        NoOrigin = "no-origin",
        /// QUIC that cannot be read, on a flow that was let go by what was read.
        Unread = "unread",
        /// No socket can send from the destination's address (CAP_NET_RAW).
        NoReplyPath = "no-reply-path",
        /// The ICMP answer to a refused datagram cannot be sent (CAP_NET_RAW).
        NoIcmp = "no-icmp",
        /// The network or this host did not take it.
        Unsent = "unsent",
        /// More ICMP answers in a second than one listener sends.
        IcmpLimit = "icmp-limit",
        /// A fragment of a SOCKS5 datagram (RFC 1928 §7), which is never put together here.
        Fragment = "fragment",
        /// No SOCKS5 datagram, or one whose destination is no host and port.
        Malformed = "malformed",
        /// To an association, from another than its client; or to a client, from another than the
        /// destination that was permitted.
        Stranger = "stranger",
        /// No local port is free (net.ipv4.ip_local_port_range).
        NoPort = "no-port",
        /// The client has a quarter of the local ports.
        ClientPorts = "client-ports",
        /// Longer than a packet on the way to its destination; its client was told.
        TooBig = "too-big",
        /// More answers of the gateway's own in a second than one network of clients is sent.
        NetworkLimit = "network-limit",
    }
}

labels! {
    /// What became of a question to the gateway's own name server.
    pub enum DnsQuery {
        /// Asked and answered.
        Forwarded = "forwarded",
        /// The same, and addresses that the policy refuses were left out.
        Filtered = "filtered",
        /// The policy refuses the name, all of its addresses, or the name servers.
        Refused = "refused",
        /// No name server answered.
        Failed = "failed",
        /// No question; not answered.
        Malformed = "malformed",
        /// Of a kind or type that is not forwarded.
        Unsupported = "unsupported",
        /// Its client asks too often, which is not answered, or about too many new names.
        Limited = "limited",
        /// Too many questions or clients at once; not answered.
        Busy = "busy",
        /// Answered here: a name of the client's own host.
        Local = "local",
    }
}
