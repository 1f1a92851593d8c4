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

/// What the first bytes allow to be said.
#[derive(Debug)]
pub enum Step<'a> {
    /// More bytes are needed.
    NeedMore,
    /// All that can be said.
    Done(Identity<'a>),
}

/// Who a connection is for.
#[derive(Debug)]
pub struct Identity<'a> {
    /// What it speaks.
    pub protocol: Protocol,
    /// The name, and where it stood.
    pub name: Option<(HostName, NameSource)>,
    /// Why the bytes cannot be trusted, where they cannot.
    pub fault: Option<Fault>,
    /// The hello carries ECH.
    pub ech: bool,
    /// The hello carries ESNI.
    pub esni: bool,
    /// The ALPN list.
    pub alpn: Alpn<'a>,
}

/// The ALPN list.
#[derive(Debug, Default)]
pub struct Alpn<'a>(&'a [u8]);

impl<'a> Alpn<'a> {
    /// The list as it stands in the hello.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.0
    }
}

/// What is wrong with the first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// They end before the name.
    Incomplete,
}

impl Fault {
    /// A label for metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        "incomplete"
    }
}

/// A stand-in that reads enough for the tests of the data plane: TLS by its first byte, and the
/// Host header of HTTP.
#[must_use]
pub fn identify(seen: &[u8], ended: bool) -> Step<'_> {
    let done = |protocol, name: Option<(HostName, NameSource)>, fault| {
        Step::Done(Identity {
            protocol,
            name,
            fault,
            ech: false,
            esni: false,
            alpn: Alpn::default(),
        })
    };
    let incomplete = |protocol| match ended {
        true => done(protocol, None, Some(Fault::Incomplete)),
        false => Step::NeedMore,
    };
    match seen {
        [] if !ended => Step::NeedMore,
        [22, ..] => {
            let Some(at) = seen.windows(4).position(|w| w == b"sni=") else {
                return incomplete(Protocol::Tls);
            };
            let rest = seen.get(at + 4..).unwrap_or_default();
            let Some(end) = rest.iter().position(|&b| b == b';') else {
                return incomplete(Protocol::Tls);
            };
            let name = HostName::parse(rest.get(..end).unwrap_or_default()).ok();
            done(Protocol::Tls, name.map(|name| (name, NameSource::Sni)), None)
        }
        [b'A'..=b'Z', ..] => {
            if !seen.windows(4).any(|w| w == b"\r\n\r\n") {
                return incomplete(Protocol::Http);
            }
            let text = String::from_utf8_lossy(seen);
            let host = text.lines().find_map(|line| line.strip_prefix("Host: "));
            let name = host.and_then(|host| HostName::parse(host.as_bytes()).ok());
            done(Protocol::Http, name.map(|name| (name, NameSource::HttpHost)), None)
        }
        _ => done(Protocol::Other, None, None),
    }
}
