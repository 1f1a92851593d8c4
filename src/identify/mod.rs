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
mod records;
mod second;
pub mod socks;
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

/// What has to arrive before another look at the first bytes can change the answer, so that a
/// client who sends them one by one costs no more than one who sends them at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// So many bytes, counted from byte 0 of the stream.
    UntilLength(usize),
    /// The end of a line, or so many bytes from byte 0.
    Line(usize),
    /// An empty line, or so many bytes from byte 0.
    EmptyLine(usize),
}

impl Missing {
    /// Whether it has arrived. `seen` is all that has, from byte 0; `before` is how long that was
    /// when this was asked last, or when [`identify`] answered. Looks at the bytes since, and two.
    #[must_use]
    pub fn has_come(self, seen: &[u8], before: usize) -> bool {
        let since = |overlap: usize| seen.get(before.saturating_sub(overlap)..).unwrap_or_default();
        match self {
            Self::UntilLength(length) => seen.len() >= length,
            Self::Line(length) => seen.len() >= length || since(0).contains(&b'\n'),
            Self::EmptyLine(length) => {
                let new = since(2);
                let bare = new.windows(2).any(|pair| pair == b"\n\n");
                seen.len() >= length || bare || new.windows(3).any(|three| three == b"\n\r\n")
            }
        }
    }
}

/// Whether the first bytes are enough.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::large_enum_variant, reason = "a box would be a heap allocation for each hello")]
pub enum Step<'a> {
    /// They still look like a protocol that carries a name; until this has arrived, another look
    /// gives the same answer.
    NeedMore(Missing),
    /// More bytes would change nothing.
    Done(Identity<'a>),
}

/// Reads the first bytes of a TCP connection.
///
/// `seen` is all that the client has sent, from byte 0; on [`Step::NeedMore`] call again with more.
/// `ended`: no more will come (end of stream, or of the time allowed); then the answer is always
/// [`Step::Done`], and half a hello or request head is TLS or HTTP with [`Fault::Incomplete`] and no
/// name. So is what may begin one, be it a single byte, save that its protocol is not known: `Other`
/// with that fault, which judgement takes for the strictest that it may be. A malformed hello is TLS with its fault, never another protocol. Looks at no more than
/// about 128 KiB, and allocates nothing. A stream that is looked at again and again is better told
/// by [`identify_further`].
#[must_use]
pub fn identify(seen: &[u8], ended: bool) -> Step<'_> {
    identify_further(seen, ended, &mut Progress::default())
}

/// What earlier looks at a stream have found, so that the next need not look at the same bytes
/// again. Of one stream alone: [`identify_further`] takes its word for them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress(tls::Walked);

/// As [`identify`], with what it found when it looked at fewer bytes of the same stream. The work
/// over all looks grows with the length of the stream, whatever the sizes of its segments and
/// records, where each waits for what the one before found [`Missing`].
#[must_use]
pub fn identify_further<'a>(seen: &'a [u8], ended: bool, progress: &mut Progress) -> Step<'a> {
    let half = |protocol| Identity::faulty(protocol, Fault::Incomplete);
    let mut hello = tls::Hello::EMPTY;
    match tls::read(seen, &mut progress.0, &mut hello) {
        tls::Found::Hello => Step::Done(from_hello(Protocol::Tls, NameSource::Sni, &hello)),
        tls::Found::Fault(fault) => Step::Done(Identity::faulty(Protocol::Tls, fault)),
        tls::Found::Part { missing, .. } if !ended => {
            Step::NeedMore(Missing::UntilLength(seen.len() + missing))
        }
        tls::Found::Part { .. } if seen.is_empty() => Step::Done(Identity::NOTHING),
        tls::Found::Part { sure: true, .. } => Step::Done(half(Protocol::Tls)),
        // What may still become one, or not, is no protocol, and no whole flight either.
        tls::Found::Part { sure: false, .. } => Step::Done(half(Protocol::Other)),
        tls::Found::Other => match http::read(seen) {
            http::Found::Head(head) => Step::Done(from_head(head)),
            http::Found::Part { missing, .. } if !ended => Step::NeedMore(missing),
            http::Found::Part { sure: Some(head), .. } => {
                let head = http::Head { fault: head.fault.or(Some(Fault::Incomplete)), ..head };
                Step::Done(from_head(head))
            }
            http::Found::Part { sure: None, .. } => Step::Done(half(Protocol::Other)),
            http::Found::Other => Step::Done(Identity::NOTHING),
        },
    }
}

/// Tells every name in the first bytes of a TCP connection that could not be read as a whole, or that
/// contradict themselves ([`Identity::fault`]): a block rule matches on any of them.
pub fn each_name(seen: &[u8], see: impl FnMut(HostName)) {
    if seen.first() == Some(&tls::HANDSHAKE) {
        if let Some(message) = records::begun(seen) {
            tls::each_name(message, see);
        }
    } else {
        http::each_name(seen, see);
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
    // First, since a server of DTLS finds its hello behind the header of any other protocol.
    if dtls::is_hello(datagram) {
        Protocol::Dtls
    } else if quic::version(datagram).is_some() {
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
    /// A question to the gateway's own name server.
    Dns,
}

impl NameSource {
    /// `sni`, `quic-sni`, `http-host`, `connect` or `dns`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Sni => "sni",
            Self::QuicSni => "quic-sni",
            Self::HttpHost => "http-host",
            Self::Connect => "connect",
            Self::Dns => "dns",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `stream` byte by byte to a reader that looks only when it is told to. Looks in all,
    /// and the length at which the answer fell; every look left out would have changed nothing.
    fn looks(stream: &[u8], check: bool) -> (usize, usize) {
        let (mut looks, mut waits) = (0, None::<Missing>);
        for end in 0..=stream.len() {
            let seen = &stream[..end];
            if waits.is_some_and(|missing| !missing.has_come(seen, end.saturating_sub(1))) {
                let same = !check || matches!(identify(seen, false), Step::NeedMore(_));
                assert!(same, "a look at {end} was left out: {:?}", seen.escape_ascii());
                continue;
            }
            looks += 1;
            match identify(seen, false) {
                Step::NeedMore(missing) => waits = Some(missing),
                Step::Done(_) => return (looks, end),
            }
        }
        (looks, stream.len())
    }

    fn head(lines: &str) -> Vec<u8> {
        format!("GET / HTTP/1.1\r\nHost: a.example\r\n{lines}\r\n").into_bytes()
    }

    #[test]
    fn no_look_that_is_left_out_would_have_changed_the_answer() {
        let hello = tls::tests::hello(b"host.example");
        let mut sslv2 = vec![0x80, 0x1c, 1, 3, 1, 0, 3, 0, 0, 0, 16, 0, 0, 4];
        sslv2.extend([9; 16]);
        let mut small = vec![22, 3, 1, 0, 1, 1];
        small.extend(hello.iter().skip(6).flat_map(|&byte| [22, 3, 1, 0, 1, byte]));
        let alert = [&hello[..20], &[21, 3, 3, 0, 2, 2, 40]].concat();
        for stream in [
            hello.clone(),
            sslv2,
            small,
            alert,
            vec![22, 3, 1, 0x40, 1, 1, 0, 1],
            vec![21, 3, 3, 0, 2, 1, 0],
            head(""),
            head("A: b\r\n c\r\n"),
            b"\r\n\r\nGET / HTTP/1.1\nHost: a\n\nrest".to_vec(),
            b"GET /\r\n".to_vec(),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore".to_vec(),
            b"PRI * HTTP/1.1\r\n\r\n".to_vec(),
            b"SSH-2.0-x\r\n".to_vec(),
            b"OPTIONS sip:x SIP/2.0\r\n\r\n".to_vec(),
            b"x-long /path and words\r\nand more".to_vec(),
            vec![b'a'; 64],
            vec![b'\n'; 32],
        ] {
            looks(&stream, true);
        }
    }

    #[test]
    fn bytes_that_come_one_by_one_are_looked_at_as_often_as_the_answer_can_change() {
        let long = head(&"A: b\r\n".repeat(9_000));
        let (many, end) = looks(&long, false);
        assert_eq!(end, long.len());
        assert!(many < 12, "{many} looks at a head of {end} bytes");
        let line = [&b"GET /"[..], &vec![b'a'; http::HEAD_MAX]].concat();
        let (many, end) = looks(&line, false);
        assert_eq!(end, http::HEAD_MAX, "too large");
        assert!(many < 12, "{many} looks at a line of {end} bytes");
        let (many, end) = looks(&tls::tests::hello(&[b'a'; 60]), false);
        assert!(many < 8, "{many} looks at a hello of {end} bytes");
    }

    /// Reads a stream that comes byte by byte as the data plane does: each look waits for what the
    /// one before found missing. Gives the last answer's name and fault, the looks, and the bytes
    /// that they had before them.
    fn byte_by_byte(stream: &[u8]) -> (Option<String>, Option<Fault>, usize, usize) {
        let mut progress = Progress::default();
        let (mut looks, mut looked_at) = (0, 0);
        let mut wanted: Option<(Missing, usize)> = None;
        for end in 1..=stream.len() {
            let seen = &stream[..end];
            if wanted.is_some_and(|(missing, before)| !missing.has_come(seen, before)) {
                wanted = wanted.map(|(missing, _)| (missing, end));
                continue;
            }
            looks += 1;
            looked_at += end - progress.0.at;
            match identify_further(seen, false, &mut progress) {
                Step::NeedMore(missing) => wanted = Some((missing, end)),
                Step::Done(identity) => {
                    assert_eq!(end, stream.len(), "as late as it can be told");
                    let name = identity.name.map(|(name, _)| name.to_string());
                    return (name, identity.fault, looks, looked_at);
                }
            }
        }
        panic!("no answer");
    }

    /// A hello of the largest size in records of `len` bytes.
    fn largest(len: usize) -> Vec<u8> {
        tls::tests::largest_in_records(len)
    }

    #[test]
    fn the_bytes_that_are_looked_at_grow_with_the_stream_and_not_with_its_square() {
        for len in [9, 100, 1 << 14] {
            let stream = largest(len);
            let (name, fault, looks, looked_at) = byte_by_byte(&stream);
            assert_eq!((name.as_deref(), fault), (Some("host.example"), None));
            let records = stream.len() / (len + 5) + 1;
            assert!(looks <= 8 + 4 * records, "{looks} looks at {records} records");
            assert!(looked_at <= 3 * stream.len(), "{looked_at} of {}", stream.len());
        }
        let fields = "A: b\r\n".repeat(10_000);
        let head = format!("GET / HTTP/1.1\r\nHost: host.example\r\n{fields}\r\n");
        let (name, fault, looks, looked_at) = byte_by_byte(head.as_bytes());
        assert_eq!((name.as_deref(), fault), (Some("host.example"), None));
        assert!(looks <= 8, "{looks} looks");
        assert!(looked_at <= 2 * head.len(), "{looked_at} of {}", head.len());
    }

    #[test]
    fn what_was_walked_before_changes_no_answer() {
        let stream = largest(300);
        for (first, then) in [(1, 304), (2, 306), (305, 310), (900, 20_000), (40_000, 60_000)] {
            let mut progress = Progress::default();
            for end in [first, then] {
                let step = identify_further(&stream[..end], false, &mut progress);
                let Step::NeedMore(missing) = step else { panic!("at {end}") };
                let Step::NeedMore(afresh) = identify(&stream[..end], false) else { panic!() };
                assert_eq!(missing, afresh, "at {end}");
            }
            let mut broken = stream[..then].to_vec();
            let record = progress.0.at;
            broken.truncate(record);
            broken.extend([21, 3, 1, 0, 2]);
            let Step::Done(identity) = identify_further(&broken, false, &mut progress) else {
                panic!("at {then}")
            };
            assert_eq!(identity.fault, Some(Fault::RecordType));
        }
    }
}
