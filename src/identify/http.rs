//! The head of an HTTP/1 request (RFC 9112), as far as it says who the request is for.

use super::authority::{Authority, Host};
use super::fault::Fault;

/// The largest request head that is read, in bytes.
pub const HEAD_MAX: usize = 64 * 1024;

/// The HTTP/2 connection preface (RFC 9113 §3.4), as far as it looks like a request.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Methods that make a stream HTTP before its version is seen. Others are HTTP once it is.
const METHODS: [&[u8]; 17] = [
    b"GET",
    b"POST",
    b"HEAD",
    b"PUT",
    b"DELETE",
    b"CONNECT",
    b"OPTIONS",
    b"TRACE",
    b"PATCH",
    b"PROPFIND",
    b"PROPPATCH",
    b"MKCOL",
    b"COPY",
    b"MOVE",
    b"LOCK",
    b"UNLOCK",
    b"REPORT",
];

/// The longest method that is waited for. IANA's longest is `UPDATEREDIRECTREF`.
const METHOD_MAX: usize = 32;

/// How the request target is written (RFC 9112 §3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `/path`.
    Origin,
    /// `http://host/path`.
    Absolute,
    /// `host:port`, of CONNECT.
    Authority,
    /// `*`, of OPTIONS.
    Asterisk,
    /// The preface of HTTP/2 with prior knowledge: the requests are behind it, in frames.
    Preface,
    /// None of these.
    Unknown,
}

/// The head of a request.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// The method, as sent.
    pub method: &'a [u8],
    /// The target, as sent.
    pub target: &'a [u8],
    /// How the target is written.
    pub form: Form,
    /// The first Host field, as sent, without the blanks around it.
    pub host: Option<&'a [u8]>,
    /// Whom the request is for: the target's authority, else the Host. `None` where there is
    /// neither, or a fault.
    pub authority: Option<Authority>,
    /// The client asks for another protocol behind the head (RFC 9110 §7.8): h2c, WebSocket.
    pub upgrade: bool,
    /// Bytes of the head, its empty last line included; what has arrived, where it is not whole.
    pub len: usize,
    /// The first fault found, by which servers may differ in whom the request is for or where it
    /// ends.
    pub fault: Option<Fault>,
}

/// What became of the first bytes of a TCP stream, read as HTTP.
#[derive(Debug, Clone, Copy)]
pub(super) enum Found<'a> {
    /// HTTP as far as it goes. `sure`: no other protocol begins so; then what has arrived is read.
    Part { sure: Option<Head<'a>> },
    /// A whole head, or one that has grown too large.
    Head(Head<'a>),
    /// Not HTTP.
    Other,
}

/// Reads `seen`, all that the client has sent from byte 0.
pub(super) fn read(seen: &[u8]) -> Found<'_> {
    let start = seen.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let (_, request) = seen.split_at_checked(start).unwrap_or((&[], seen));
    let request = request.get(..HEAD_MAX).unwrap_or(request);
    if start > 16 {
        return Found::Other;
    }
    if request.starts_with(PREFACE) || PREFACE.starts_with(request) && request.len() > 4 {
        return read_preface(request, start);
    }
    let sure = match sure(request) {
        Some(sure) => sure,
        None => return Found::Other,
    };
    let mut head = Head {
        method: &[],
        target: &[],
        form: Form::Unknown,
        host: None,
        authority: None,
        upgrade: false,
        len: start,
        fault: (start > 0).then_some(Fault::LeadingLine),
    };
    let mut lines = Lines { rest: request };
    let Some(first) = lines.next() else {
        return match (sure, request.len() >= HEAD_MAX) {
            (true, true) => Found::Head(Head { fault: Some(Fault::TooLarge), ..head }),
            (false, true) => Found::Other,
            (sure, false) => Found::Part { sure: sure.then_some(head) },
        };
    };
    let Some(version) = head.read_request_line(first, sure) else { return Found::Other };
    let mut fields = Fields::default();
    let whole = loop {
        match lines.next() {
            None => break version == Version::Zero9,
            Some(Line { text: [], bare }) => {
                head.blame_if(bare, Fault::BareLf);
                break true;
            }
            Some(line) => head.read_field(line, &mut fields),
        }
    };
    head.len = start + (request.len() - lines.rest.len());
    if !whole {
        if request.len() < HEAD_MAX {
            return Found::Part { sure: Some(head) };
        }
        head.blame(Fault::TooLarge);
    }
    head.conclude(version, &fields);
    Found::Head(head)
}

fn read_preface(request: &[u8], start: usize) -> Found<'_> {
    let head = Head {
        method: b"PRI",
        target: b"*",
        form: Form::Preface,
        host: None,
        authority: None,
        upgrade: false,
        len: start + request.len().min(PREFACE.len()),
        fault: (start > 0).then_some(Fault::LeadingLine),
    };
    if request.len() < PREFACE.len() { Found::Part { sure: Some(head) } } else { Found::Head(head) }
}

/// Whether the bytes begin a request line: `None` where they do not, else whether nothing but HTTP
/// begins so.
fn sure(request: &[u8]) -> Option<bool> {
    let end = request.iter().position(|&byte| !is_token(byte));
    let method = request.get(..end.unwrap_or(request.len()))?;
    if method.len() > METHOD_MAX {
        return None;
    }
    match end.and_then(|end| request.get(end)) {
        None => Some(false),
        Some(b' ' | b'\t') if !method.is_empty() => Some(METHODS.contains(&method)),
        Some(_) => None,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    /// HTTP/0.9: one line, no version.
    Zero9,
    One0,
    One1,
    Unknown,
}

#[derive(Default)]
struct Fields {
    hosts: usize,
    lengths: usize,
    encodings: usize,
}

impl<'a> Head<'a> {
    /// The authority of an absolute or CONNECT target, as sent.
    #[must_use]
    pub fn target_authority(&self) -> Option<&'a [u8]> {
        match self.form {
            Form::Authority => Some(self.target),
            Form::Absolute => absolute_authority(self.target),
            Form::Origin | Form::Asterisk | Form::Preface | Form::Unknown => None,
        }
    }

    /// Keeps the first fault: the others may be its consequences.
    fn blame(&mut self, fault: Fault) {
        self.fault = self.fault.or(Some(fault));
    }

    fn blame_if(&mut self, wrong: bool, fault: Fault) {
        if wrong {
            self.blame(fault);
        }
    }

    /// `None` where the line is of another protocol that begins with a method and a target (SIP,
    /// RTSP, or with `sure` not set, any line of text).
    fn read_request_line(&mut self, line: Line<'a>, sure: bool) -> Option<Version> {
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
        let mut words = line.text.split(blank).filter(|word| !word.is_empty());
        self.method = words.next()?;
        let last = words.next_back();
        self.target = words.next().or(last).unwrap_or_default();
        let strict = line.text.iter().filter(|byte| blank(byte)).count();
        let version = match last {
            Some(b"HTTP/1.1") => Version::One1,
            Some(b"HTTP/1.0") => Version::One0,
            Some([b'H', b'T', b'T', b'P', b'/', ..]) => Version::Unknown,
            // A target in the form of a path, and no version: HTTP/0.9 knows GET alone.
            _ if sure && self.method == b"GET" && matches!(self.target, [b'/', ..]) => {
                Version::Zero9
            }
            _ => return None,
        };
        self.blame_if(line.bare, Fault::BareLf);
        self.blame_if(matches!(version, Version::Zero9 | Version::Unknown), Fault::HttpVersion);
        self.blame_if(strict != 2 || words.next().is_some(), Fault::RequestLine);
        self.blame_if(line.text.contains(&b'\t'), Fault::RequestLine);
        self.blame_if(line.text.iter().any(|&byte| is_control(byte)), Fault::ControlByte);
        self.form = match self.target {
            _ if self.method == b"CONNECT" => Form::Authority,
            [b'/', ..] => Form::Origin,
            b"*" => Form::Asterisk,
            target if absolute_authority(target).is_some() => Form::Absolute,
            _ => Form::Unknown,
        };
        self.blame_if(self.form == Form::Unknown, Fault::RequestLine);
        self.blame_if(self.target.iter().any(|byte| !byte.is_ascii_graphic()), Fault::RequestLine);
        Some(version)
    }

    fn read_field(&mut self, line: Line<'a>, fields: &mut Fields) {
        self.blame_if(line.bare, Fault::BareLf);
        self.blame_if(line.text.iter().any(|&byte| is_control(byte)), Fault::ControlByte);
        if matches!(line.text, [b' ' | b'\t', ..]) {
            return self.blame(Fault::Folded);
        }
        let Some(colon) = line.text.iter().position(|&byte| byte == b':') else {
            return self.blame(Fault::FieldLine);
        };
        let (name, value) = line.text.split_at_checked(colon).unwrap_or_default();
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        self.blame_if(name.is_empty() || !name.iter().all(|&b| is_token(b)), Fault::FieldLine);
        // `Host :` is a fault, and yet some server's Host.
        let name = name.trim_ascii();
        if name.eq_ignore_ascii_case(b"host") {
            fields.hosts += 1;
            self.host = self.host.or(Some(value));
        } else if name.eq_ignore_ascii_case(b"content-length") {
            fields.lengths += 1;
            let plain = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
            self.blame_if(!plain || value.len() > 18, Fault::ContentLength);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            fields.encodings += 1;
            self.blame_if(!value.eq_ignore_ascii_case(b"chunked"), Fault::TransferEncoding);
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.upgrade = true;
        }
    }

    /// The rules about the whole head, and whom it is for.
    fn conclude(&mut self, version: Version, fields: &Fields) {
        self.blame_if(fields.hosts > 1, Fault::HostTwice);
        self.blame_if(fields.hosts == 0 && version == Version::One1, Fault::NoHost);
        self.blame_if(fields.lengths > 0 && fields.encodings > 0, Fault::LengthAndEncoding);
        self.blame_if(fields.lengths > 1, Fault::ContentLength);
        let encoding = fields.encodings > 1 || fields.encodings > 0 && version != Version::One1;
        self.blame_if(encoding, Fault::TransferEncoding);
        let target = self.target_authority().map(|target| match self.form {
            Form::Authority => Authority::parse_connect(target),
            Form::Absolute | Form::Origin | Form::Asterisk | Form::Preface | Form::Unknown => {
                Authority::parse(target)
            }
        });
        let host = self.host.map(Authority::parse);
        self.authority = match (target, host) {
            (Some(Err(fault)), _) | (_, Some(Err(fault))) => {
                self.blame(fault);
                None
            }
            (Some(Ok(target)), Some(Ok(host))) => {
                let port = self.default_port();
                self.blame_if(!agree(&target, &host, port), Fault::HostDisagrees);
                Some(target)
            }
            (Some(Ok(one)), None) | (None, Some(Ok(one))) => Some(one),
            (None, None) => None,
        };
        if self.fault.is_some() {
            self.authority = None;
        }
    }

    /// The port that an authority without one means. A CONNECT target has one, and clients leave
    /// it out of its Host.
    fn default_port(&self) -> Option<u16> {
        let scheme = self.target.get(..5).unwrap_or_default();
        match self.form {
            Form::Absolute if scheme.eq_ignore_ascii_case(b"https") => Some(443),
            Form::Absolute => Some(80),
            Form::Authority | Form::Origin | Form::Asterisk | Form::Preface | Form::Unknown => None,
        }
    }
}

fn agree(target: &Authority, host: &Authority, default_port: Option<u16>) -> bool {
    let same_host = match (&target.host, &host.host) {
        (Host::Name(a), Host::Name(b)) => a == b,
        (Host::Address(a), Host::Address(b)) => a == b,
        (Host::Name(_), Host::Address(_)) | (Host::Address(_), Host::Name(_)) => false,
    };
    let ports = (target.port.or(default_port), host.port.or(default_port));
    same_host && (ports.1.is_none() || ports.0 == ports.1)
}

/// The authority of `http://authority/...`, unparsed; `None` where the target has another form.
fn absolute_authority(target: &[u8]) -> Option<&[u8]> {
    let scheme = target.iter().position(|&byte| byte == b':')?;
    let (name, rest) = target.split_at_checked(scheme)?;
    let letter = name.first().is_some_and(u8::is_ascii_alphabetic);
    if !letter || !name.iter().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(b)) {
        return None;
    }
    let rest = rest.strip_prefix(b"://")?;
    let end = rest.iter().position(|byte| b"/?#\\".contains(byte)).unwrap_or(rest.len());
    rest.get(..end)
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Control bytes that no line of a head holds (RFC 9110 §5.5), a CR inside a line among them.
const fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}

#[derive(Clone, Copy)]
struct Line<'a> {
    /// Without its end.
    text: &'a [u8],
    /// It ends in LF alone.
    bare: bool,
}

struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Lines<'a> {
    /// The next line; `None` where its end has not arrived.
    fn next(&mut self) -> Option<Line<'a>> {
        let end = self.rest.iter().position(|&byte| byte == b'\n')?;
        let (line, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest.get(1..)?;
        Some(match line.strip_suffix(b"\r") {
            Some(text) => Line { text, bare: false },
            None => Line { text: line, bare: true },
        })
    }
}
