//! Bytes in, who they are for out. Pure: no I/O, clock, log or heap.

mod name;

pub use name::{BadName, HostName, NAME_MAX};

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TLS over TCP, an SSLv2-format hello included.
    Tls,
    /// QUIC over UDP.
    Quic,
    /// HTTP/1, or HTTP/2 with prior knowledge.
    Http,
    /// DTLS over UDP; rules count it as `other`.
    Dtls,
    /// Anything else, silence included.
    Other,
}

impl Protocol {
    /// `tls`, `quic`, `http`, `dtls` or `other`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Quic => "quic",
            Self::Http => "http",
            Self::Dtls => "dtls",
            Self::Other => "other",
        }
    }
}

/// Where a name was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NameSource {
    /// The `server_name` extension of a TLS ClientHello.
    Sni,
    /// The same, in a QUIC Initial.
    QuicSni,
    /// The Host header or the absolute target of an HTTP request.
    HttpHost,
    /// The authority of a CONNECT request or a SOCKS5 domain.
    Connect,
}

impl NameSource {
    /// `sni`, `quic-sni`, `http-host` or `connect`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Sni => "sni",
            Self::QuicSni => "quic-sni",
            Self::HttpHost => "http-host",
            Self::Connect => "connect",
        }
    }
}
