//! The head of an HTTP/1 request (RFC 9112), as far as it says who the request is for.

use super::Missing;
use super::authority::{Authority, Host};
use super::fault::Fault;
use super::name::HostName;

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

/// Bytes of a method that is looked at byte by byte, so that another protocol is told at once. IANA's
/// longest is `UPDATEREDIRECTREF`; of a longer one the end of the line is waited for.
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
    Part { sure: Option<Head<'a>>, missing: Missing },
    /// A whole head, or one that has grown too large.
    Head(Head<'a>),
    /// Not HTTP.
    Other,
}

/// Reads `seen`, all that the client has sent from byte 0.
///
/// HTTP is what some common server answers as HTTP, whatever the RFC says of it; the rest of its rules
/// make faults. Servers skip any number of empty lines and blanks in front (nginx, Node, Apache;
/// waitress, `http.server`), take methods of any length and letter case, blanks of every kind between
/// the words, and requests without a version. So a first line is one of HTTP where
///
/// - some word but the first begins with `HTTP/`, in any case;
/// - the last begins with `ICE/` or `RTSP/` (llhttp of Node), and the target is no `rtsp:` address or a
///   Host follows;
/// - it has no version, and is GET with a target, a method of HTTP with a target and nothing else, or
///   any method with a path or an absolute target.
///
/// Every other first line is of another protocol, as soon as it has ended; so is a first word with a
/// byte that is not printable, or that begins as XML, JSON and HL7 do, and, where the first word is no
/// method of HTTP, a line with a control byte. `EHLO x`, `USER x`, `a1 LOGIN x`,
/// `SSH-2.0-x` are none of HTTP (waitress alone would answer some of them).
pub(super) fn read(seen: &[u8]) -> Found<'_> {
    let start = seen.iter().take_while(|&&byte| is_blank(byte) || is_end(byte)).count();
    let (before, request) = seen.split_at_checked(start).unwrap_or((&[], seen));
    let request = request.get(..HEAD_MAX).unwrap_or(request);
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
    if before.iter().any(|&byte| !is_end(byte)) {
        head.fault = Some(Fault::RequestLine);
    }
    if request.starts_with(PREFACE) || PREFACE.starts_with(request) && request.len() > 4 {
        return read_preface(request, start, head.fault);
    }
    let Some(sure) = sure(request) else { return Found::Other };
    let too_large = Head { fault: Some(Fault::TooLarge), ..head };
    if start >= HEAD_MAX {
        return Found::Head(too_large);
    }
    // Control bytes are in no line of text: behind what is no method of HTTP, they tell another
    // protocol.
    let is_text = |&byte: &u8| is_blank(byte) || is_end(byte) || !byte.is_ascii_control();
    if !sure && !request.iter().take_while(|&&byte| byte != b'\n').all(is_text) {
        return Found::Other;
    }
    let mut lines = Lines { rest: request };
    let Some(first) = lines.next() else {
        if request.len() >= HEAD_MAX {
            return Found::Head(too_large);
        }
        // Behind the method, nothing but the end of the line tells HTTP from the others.
        let in_method = request.len() <= METHOD_MAX && !request.iter().any(|&b| is_blank(b));
        let missing = if in_method {
            Missing::UntilLength(seen.len() + 1)
        } else {
            Missing::Line(start + HEAD_MAX)
        };
        return Found::Part { sure: sure.then_some(head), missing };
    };
    let Some(version) = head.read_request_line(first) else { return Found::Other };
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
            let missing = Missing::EmptyLine(start + HEAD_MAX);
            return Found::Part { sure: Some(head), missing };
        }
        head.blame(Fault::TooLarge);
    }
    if version == Version::Streaming && fields.hosts == 0 {
        return Found::Other;
    }
    head.conclude(version, &fields);
    Found::Head(head)
}

/// Tells every name in a head that could not be read as a whole: that of the target, and of each Host.
/// For what is judged by any of several names.
pub(super) fn each_name(seen: &[u8], mut see: impl FnMut(HostName)) {
    let mut tell = |authority: &[u8]| {
        if let Some(name) = Authority::lenient(authority) {
            see(name);
        }
    };
    let mut lines = seen.split(|&byte| matches!(byte, b'\n' | b'\r')).map(<[u8]>::trim_ascii);
    let Some(request) = lines.find(|line| !line.is_empty()) else { return };
    for target in request.split(u8::is_ascii_whitespace).skip(1) {
        if let Some(authority) = absolute_authority(target) {
            // Whoever takes a backslash for a slash reads another host than whoever does not.
            authority.split(|&byte| byte == b'\\').for_each(&mut tell);
        } else if request.get(..7).is_some_and(|method| method.eq_ignore_ascii_case(b"CONNECT")) {
            tell(target);
        }
    }
    for line in lines {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        let (name, value) = line.split_at_checked(colon).unwrap_or_default();
        if name.trim_ascii().eq_ignore_ascii_case(b"host") {
            let value = value.get(1..).unwrap_or_default();
            value.split(|&byte| matches!(byte, b',' | b' ' | b'\t')).for_each(&mut tell);
        }
    }
}

fn read_preface(request: &[u8], start: usize, fault: Option<Fault>) -> Found<'_> {
    let head = Head {
        method: b"PRI",
        target: b"*",
        form: Form::Preface,
        host: None,
        authority: None,
        upgrade: false,
        len: start + request.len().min(PREFACE.len()),
        fault,
    };
    if request.len() < PREFACE.len() {
        let missing = Missing::UntilLength(start + request.len() + 1);
        return Found::Part { sure: Some(head), missing };
    }
    Found::Head(head)
}

/// Whether the bytes begin a request line: `None` where they do not, else whether nothing but HTTP
/// begins so.
fn sure(request: &[u8]) -> Option<bool> {
    let is_inside = |byte: u8| !is_blank(byte) && !is_end(byte);
    let end = request.iter().position(|&byte| !is_inside(byte)).unwrap_or(request.len());
    let method = request.get(..end)?;
    let printable = method.iter().all(u8::is_ascii_graphic);
    // HL7 version 2, whose lines end in CR alone: a message, a file or a batch (MSH, FHS, BHS).
    let hl7 = matches!(method, [b'M', b'S', b'H', b'|', ..] | [b'F' | b'B', b'H', b'S', b'|', ..]);
    if !printable || hl7 || matches!(method, [b'<' | b'{' | b'[' | b'"', ..]) {
        return None;
    }
    Some(end < request.len() && METHODS.contains(&method))
}

/// What some server takes for a blank: Python's `str.split` for all of these.
const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | 0x0b | 0x0c | 0x1c..=0x1f | 0x85 | 0xa0)
}

/// What some server takes for the end of a line.
const fn is_end(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

fn begins(word: &[u8], with: &[u8]) -> bool {
    word.get(..with.len()).is_some_and(|begun| begun.eq_ignore_ascii_case(with))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    /// HTTP/0.9: one line, no version.
    Zero9,
    One0,
    One1,
    /// RTSP to an address of its own: HTTP where it has a Host, which RTSP knows not.
    Streaming,
    Unknown,
}

#[derive(Default)]
struct Fields {
    hosts: usize,
    lengths: usize,
    /// Some length is other than 0.
    has_length: bool,
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

    /// `None` where the line is of another protocol, as [`read`] says.
    fn read_request_line(&mut self, line: Line<'a>) -> Option<Version> {
        let is_gap = |byte: &u8| is_blank(*byte) || is_end(*byte);
        let mut words = line.text.split(is_gap).filter(|word| !word.is_empty());
        self.method = words.next()?;
        let versioned = words.clone().any(|word| begins(word, b"HTTP/"));
        self.target = words.next()?;
        let last = words.next_back();
        let gaps = line.text.iter().filter(|byte| is_gap(byte)).count();
        let version = match last {
            Some(b"HTTP/1.1") => Version::One1,
            Some(b"HTTP/1.0") => Version::One0,
            _ if versioned => Version::Unknown,
            Some(last) if begins(last, b"RTSP/") && begins(self.target, b"rtsp") => {
                Version::Streaming
            }
            Some(last) if begins(last, b"RTSP/") || begins(last, b"ICE/") => Version::Unknown,
            _ if self.method == b"GET" => Version::Zero9,
            // Some server answers a method of HTTP without a version, whatever its target.
            None if METHODS.contains(&self.method) => Version::Zero9,
            _ if self.method.iter().all(|b| b.is_ascii_alphabetic() || b"-_".contains(b))
                && (matches!(self.target, [b'/', ..])
                    || absolute_authority(self.target).is_some()) =>
            {
                Version::Zero9
            }
            _ => return None,
        };
        let strict = gaps == 2 && line.text.iter().filter(|&&byte| byte == b' ').count() == 2;
        let is_method = self.method.iter().all(|&byte| is_token(byte));
        self.blame_if(line.bare, Fault::BareLf);
        self.blame_if(!matches!(version, Version::One0 | Version::One1), Fault::HttpVersion);
        self.blame_if(!strict || !is_method || words.next().is_some(), Fault::RequestLine);
        self.blame_if(has_control(line.text), Fault::ControlByte);
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
        self.blame_if(has_control(line.text), Fault::ControlByte);
        if matches!(line.text, [b' ' | b'\t', ..]) {
            return self.blame(Fault::Folded);
        }
        let Some(colon) = memchr::memchr(b':', line.text) else {
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
            fields.has_length |= value.iter().any(|&digit| digit != b'0');
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
        let has_body = fields.encodings > 0 || fields.has_length;
        self.blame_if(self.form == Form::Authority && has_body, Fault::ConnectBody);
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

/// The authority of `http://authority/...`, unparsed; `None` where the target has another form. It
/// goes up to where RFC 3986 §3.2 ends it. Whoever ends it at a backslash as well (WHATWG) reads
/// another: with one in it, it is none that can be read.
fn absolute_authority(target: &[u8]) -> Option<&[u8]> {
    let scheme = target.iter().position(|&byte| byte == b':')?;
    let (name, rest) = target.split_at_checked(scheme)?;
    let letter = name.first().is_some_and(u8::is_ascii_alphabetic);
    if !letter || !name.iter().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(b)) {
        return None;
    }
    let rest = rest.strip_prefix(b"://")?;
    let end = rest.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(rest.len());
    rest.get(..end)
}

/// RFC 9110 §5.6.2.
const fn is_token(byte: u8) -> bool {
    byte < 128 && TOKENS >> byte & 1 == 1
}

/// A bit for each ASCII byte that a token may hold.
const TOKENS: u128 = {
    let (mut tokens, mut byte) = (0, 0_u8);
    while byte < 128 {
        if byte.is_ascii_alphanumeric() {
            tokens |= 1 << byte;
        }
        byte += 1;
    }
    let mut rest: &[u8] = b"!#$%&'*+-.^_`|~";
    while let [byte, others @ ..] = rest {
        tokens |= 1 << *byte;
        rest = others;
    }
    tokens
};

/// Whether a line holds a control byte. All of it is looked at, many bytes at a time.
fn has_control(line: &[u8]) -> bool {
    line.iter().fold(false, |found, &byte| found | is_control(byte))
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
        let end = memchr::memchr(b'\n', self.rest)?;
        let (line, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest.get(1..)?;
        Some(match line.strip_suffix(b"\r") {
            Some(text) => Line { text, bare: false },
            None => Line { text: line, bare: true },
        })
    }
}

#[cfg(test)]
mod tests;
