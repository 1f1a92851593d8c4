//! Bytes in, who they are for out. Pure: no I/O, clock or log; no heap but for the datagrams of a
//! hello that is spread over several.
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod assembly;
mod authority;
pub mod dtls;
mod fault;
pub mod http;
mod name;
pub mod quic;
mod reader;
pub mod starttls;
pub mod tls;

pub use authority::{Authority, Host};
pub use fault::Fault;
pub use name::{BadName, HostName, NAME_MAX};
pub use tls::Alpn;

/// All that the first bytes of a TCP connection say.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// What the bytes are.
    pub protocol: Protocol,
    /// The name that the client claims, and where it stands. Never set beside a fault.
    pub name: Option<(HostName, NameSource)>,
    /// Why the bytes could not be read to their end.
    pub fault: Option<Fault>,
    /// The hello carries the ECH extension (0xfe0d), real or GREASE.
    pub ech: bool,
    /// The hello carries ESNI (0xffce), the predecessor of ECH.
    pub esni: bool,
    /// The ALPN list of the hello.
    pub alpn: Alpn<'a>,
    /// The highest TLS version that the hello offers, as on the wire (0x0304 is TLS 1.3); 0 where
    /// there is no whole hello.
    pub tls_version: u16,
    /// The request head, where the bytes are HTTP; as far as it has arrived, where it is not whole.
    pub http: Option<http::Head<'a>>,
}

impl Identity<'_> {
    /// What silence says.
    pub const NOTHING: Self = Self::of(Protocol::Other);

    const fn of(protocol: Protocol) -> Self {
        Self {
            protocol,
            name: None,
            fault: None,
            ech: false,
            esni: false,
            alpn: Alpn::NONE,
            tls_version: 0,
            http: None,
        }
    }

    const fn faulty(protocol: Protocol, fault: Fault) -> Self {
        Self { fault: Some(fault), ..Self::of(protocol) }
    }
}

/// Whether the first bytes are enough.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::large_enum_variant, reason = "a box would be a heap allocation for each hello")]
pub enum Step<'a> {
    /// They still look like a protocol that carries a name.
    NeedMore,
    /// More bytes would change nothing.
    Done(Identity<'a>),
}

/// Reads the first bytes of a TCP connection.
///
/// `seen` is all that the client has sent, from byte 0; on [`Step::NeedMore`] call again with more.
/// `ended`: no more will come (end of stream, or of the time allowed); then the answer is always
/// [`Step::Done`], and half a hello or request head is TLS or HTTP with [`Fault::Incomplete`] and no
/// name. A malformed hello is TLS with its fault, never another protocol. Looks at no more than
/// about 128 KiB, and allocates nothing.
#[must_use]
pub fn identify(seen: &[u8], ended: bool) -> Step<'_> {
    let half = |protocol| Identity::faulty(protocol, Fault::Incomplete);
    let mut hello = tls::Hello::EMPTY;
    match tls::read(seen, &mut hello) {
        tls::Found::Hello => Step::Done(from_hello(Protocol::Tls, NameSource::Sni, &hello)),
        tls::Found::Fault(fault) => Step::Done(Identity::faulty(Protocol::Tls, fault)),
        tls::Found::Part { .. } if !ended => Step::NeedMore,
        tls::Found::Part { sure: true } => Step::Done(half(Protocol::Tls)),
        tls::Found::Part { sure: false } => Step::Done(Identity::NOTHING),
        tls::Found::Other => match http::read(seen) {
            http::Found::Head(head) => Step::Done(from_head(head)),
            http::Found::Part { .. } if !ended => Step::NeedMore,
            http::Found::Part { sure: Some(head) } => {
                let head = http::Head { fault: head.fault.or(Some(Fault::Incomplete)), ..head };
                Step::Done(from_head(head))
            }
            http::Found::Part { sure: None } | http::Found::Other => Step::Done(Identity::NOTHING),
        },
    }
}

fn from_hello<'a>(protocol: Protocol, source: NameSource, hello: &tls::Hello<'a>) -> Identity<'a> {
    Identity {
        protocol,
        name: hello.name.map(|name| (name, source)),
        fault: hello.name_fault,
        ech: hello.ech,
        esni: hello.esni,
        alpn: hello.alpn,
        tls_version: hello.version,
        http: None,
    }
}

fn from_head(head: http::Head<'_>) -> Identity<'_> {
    let source = match head.form {
        http::Form::Authority => NameSource::Connect,
        http::Form::Origin
        | http::Form::Absolute
        | http::Form::Asterisk
        | http::Form::Preface
        | http::Form::Unknown => NameSource::HttpHost,
    };
    Identity {
        name: head.authority.and_then(|authority| authority.name()).map(|name| (name, source)),
        fault: head.fault,
        http: Some(head),
        ..Identity::of(Protocol::Http)
    }
}

/// What a client's UDP payload is, told from this one alone: QUIC, DTLS or another protocol.
#[must_use]
pub fn udp_protocol(datagram: &[u8]) -> Protocol {
    if quic::version(datagram).is_some() {
        Protocol::Quic
    } else if dtls::is_dtls(datagram) {
        Protocol::Dtls
    } else {
        Protocol::Other
    }
}

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
