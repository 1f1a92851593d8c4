//! Why first bytes could not be read to their end: a closed set, so that each cause is counted.

use super::BadName;

/// What is wrong with the first bytes of a connection. They still belong to the protocol that
/// [`super::Identity::protocol`] names: a peer more lenient than this reader might accept them, so
/// they are never taken for "another protocol" (which could mean less checking).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Fault {
    /// The client ended, or its time did, before the hello or the request head did.
    #[error("the first flight ended before the hello or the request head was whole")]
    Incomplete,
    /// Over 64 KiB of hello or request head.
    #[error("the hello or the request head is larger than 64 KiB")]
    TooLarge,
    /// More records, ranges or connection attempts than a client ever needs.
    #[error("the hello is cut into more pieces than any client needs")]
    TooManyPieces,

    /// On a connection that has carried requests of HTTP/1, and was not switched to another protocol,
    /// something that is no request (RFC 9112 §2.2).
    #[error("what follows a request is not a request")]
    NotARequest,

    /// A record of another type before the hello is whole (RFC 8446 §5.1).
    #[error("a record of another type stands before or inside the ClientHello")]
    RecordType,
    /// A record of no bytes, or over 2^14 (RFC 8446 §5.1).
    #[error("a TLS record is empty or longer than 2^14 bytes")]
    RecordLength,
    /// The handshake does not begin with a ClientHello.
    #[error("the first handshake message is not a ClientHello")]
    NotClientHello,
    /// A hello in the SSLv2 format, which has no room for a name (RFC 5246 appendix E.2).
    #[error("the hello is in the SSLv2 format, which carries no name")]
    Sslv2,
    /// A field of the hello reaches over the end of what holds it.
    #[error("a field of the ClientHello reaches over its end")]
    FieldLength,
    /// Bytes are left behind the last field, or inner and outer lengths disagree.
    #[error("lengths inside the ClientHello disagree")]
    LengthsDisagree,
    /// A value that no server accepts (session id over 32 bytes, odd cipher suites, no
    /// compression method).
    #[error("a field of the ClientHello has a value that no server accepts")]
    FieldValue,
    /// One of the extensions read here appears twice (RFC 8446 §4.2).
    #[error("an extension appears twice")]
    ExtensionTwice,
    /// A `server_name` list without a name.
    #[error("the server_name list is empty")]
    NameListEmpty,
    /// A `server_name` list with more than one entry (RFC 6066 §3).
    #[error("the server_name list has more than one name")]
    NameTwice,
    /// A name type other than host_name.
    #[error("the server_name is of a type other than host_name")]
    NameType,
    /// The name is no host name.
    #[error("the server name is not a host name: {0}")]
    Name(BadName),
    /// An ALPN list that is empty, or holds an empty protocol (RFC 7301 §3.1).
    #[error("the ALPN list is malformed")]
    Alpn,

    /// The request line is malformed.
    #[error("the request line is malformed")]
    RequestLine,
    /// HTTP/0.9, or a version other than 1.0 and 1.1.
    #[error("the HTTP version is neither 1.0 nor 1.1")]
    HttpVersion,
    /// Empty lines before the request line.
    #[error("an empty line stands before the request line")]
    LeadingLine,
    /// A line ends in LF alone (RFC 9112 §2.2).
    #[error("a line ends in a bare LF")]
    BareLf,
    /// A CR that ends no line, a NUL or another control byte.
    #[error("the request head has a control byte")]
    ControlByte,
    /// A folded field line (RFC 9112 §5.2).
    #[error("a field line is folded")]
    Folded,
    /// A field line without a colon, or whose name is no token (RFC 9112 §5.1).
    #[error("a field line is malformed")]
    FieldLine,
    /// HTTP/1.1 without a Host (RFC 9112 §3.2).
    #[error("the request has no Host")]
    NoHost,
    /// More than one Host (RFC 9112 §3.2).
    #[error("the request has more than one Host")]
    HostTwice,
    /// Target and Host name different authorities.
    #[error("the request target and the Host disagree")]
    HostDisagrees,
    /// An authority that holds user information (RFC 9110 §4.2.4).
    #[error("the authority holds user information")]
    UserInfo,
    /// An authority whose port is missing, empty, 0 or over 65535.
    #[error("the authority's port is missing or no port")]
    Port,
    /// An authority whose host is neither a host name nor an address.
    #[error("the authority's host is neither a host name nor an address")]
    Authority,
    /// Content-Length and Transfer-Encoding together (RFC 9112 §6.1).
    #[error("the request has both Content-Length and Transfer-Encoding")]
    LengthAndEncoding,
    /// More than one Content-Length, or one that is no plain number (RFC 9112 §6.3).
    #[error("the Content-Length is repeated or no plain number")]
    ContentLength,
    /// A Transfer-Encoding other than one `chunked`, or any in HTTP/1.0 (RFC 9112 §6.1).
    #[error("the Transfer-Encoding is other than one `chunked`")]
    TransferEncoding,

    /// A CONNECT with a body, which no server knows of: it is taken for the tunnel's first bytes
    /// (RFC 9110 §9.3.6).
    #[error("a CONNECT request has a body")]
    ConnectBody,

    /// Two CRYPTO frames or fragments put different bytes in one place.
    #[error("fragments that overlap hold different bytes")]
    Overlap,
    /// A frame that an Initial packet never holds, or one cut short (RFC 9000 §12.4).
    #[error("an Initial packet holds a malformed frame")]
    Frame,
    /// Packets of several connections in one datagram (RFC 9000 §12.2).
    #[error("a datagram holds packets of several connections")]
    Coalesced,
    /// Two hellos of one flow name different hosts, or the later one names none that can be read or
    /// hides one (ECH) where the first did not.
    #[error("two hellos of one flow name different hosts")]
    NameChanged,
}

impl Fault {
    /// A short name for metrics and records; never renamed.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Incomplete => "incomplete",
            Self::TooLarge => "too-large",
            Self::TooManyPieces => "too-many-pieces",
            Self::NotARequest => "not-a-request",
            Self::RecordType => "record-type",
            Self::RecordLength => "record-length",
            Self::NotClientHello => "not-client-hello",
            Self::Sslv2 => "sslv2",
            Self::FieldLength => "field-length",
            Self::LengthsDisagree => "lengths-disagree",
            Self::FieldValue => "field-value",
            Self::ExtensionTwice => "extension-twice",
            Self::NameListEmpty => "name-list-empty",
            Self::NameTwice => "name-twice",
            Self::NameType => "name-type",
            Self::Name(BadName::Address) => "name-is-address",
            Self::Name(
                BadName::Empty | BadName::TooLong | BadName::EmptyLabel | BadName::BadByte,
            ) => "bad-name",
            Self::Alpn => "alpn",
            Self::RequestLine => "request-line",
            Self::HttpVersion => "http-version",
            Self::LeadingLine => "leading-line",
            Self::BareLf => "bare-lf",
            Self::ControlByte => "control-byte",
            Self::Folded => "folded",
            Self::FieldLine => "field-line",
            Self::NoHost => "no-host",
            Self::HostTwice => "host-twice",
            Self::HostDisagrees => "host-disagrees",
            Self::UserInfo => "user-info",
            Self::Port => "port",
            Self::Authority => "authority",
            Self::LengthAndEncoding => "length-and-encoding",
            Self::ContentLength => "content-length",
            Self::TransferEncoding => "transfer-encoding",
            Self::ConnectBody => "connect-body",
            Self::Overlap => "overlap",
            Self::Frame => "frame",
            Self::Coalesced => "coalesced",
            Self::NameChanged => "name-changed",
        }
    }
}
