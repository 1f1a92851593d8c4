//! Reads the head of an answer as leniently as its reading stays one, and writes it anew.

use std::borrow::Cow;
use std::io::Write as _;

use super::body::Framing;
use super::fields::{has_option, is_of_one_hop, is_token, members};
use super::request::Order;

/// The largest head of an answer, in bytes and in fields.
pub(super) const HEAD_MAX: usize = super::held::HELD_MAX;
const FIELDS_MAX: usize = 1000;

/// The head of one answer.
#[derive(Debug)]
pub(super) struct Reply<'a> {
    pub(super) status: u16,
    /// HTTP/1.0.
    is_old: bool,
    /// What stands behind the version.
    rest: &'a [u8],
    fields: Vec<(&'a [u8], Cow<'a, [u8]>)>,
}

/// Where a head ends, the line that is empty included; `None` where its end has not come.
pub(super) fn end(bytes: &[u8]) -> Option<usize> {
    let mut line_from = 0;
    for (at, _) in bytes.iter().enumerate().filter(|&(_, &byte)| byte == b'\n') {
        let line = bytes.get(line_from..at)?;
        if matches!(line, [] | [b'\r']) {
            return Some(at + 1);
        }
        line_from = at + 1;
    }
    None
}

impl<'a> Reply<'a> {
    /// Reads a whole head.
    ///
    /// # Errors
    /// What is wrong with it, where it has no one reading.
    pub(super) fn parse(head: &'a [u8]) -> Result<Self, &'static str> {
        let mut lines = head.split(|&byte| byte == b'\n');
        let mut lines = lines.by_ref().map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let first = lines.next().unwrap_or_default();
        let (version, rest) = first.split_at_checked(8).ok_or(NO_STATUS)?;
        let is_old = match version {
            b"HTTP/1.0" => true,
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0'..=b'9'] => false,
            _ => return Err(NO_STATUS),
        };
        let (status, reason) = match rest {
            [b' ', a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', reason @ ..] => {
                let digit = |byte: u8| u16::from(byte - b'0');
                (digit(*a) * 100 + digit(*b) * 10 + digit(*c), reason)
            }
            _ => return Err(NO_STATUS),
        };
        if !matches!(reason, [] | [b' ', ..]) || !is_clean(reason) {
            return Err(NO_STATUS);
        }
        let mut fields: Vec<(&[u8], Cow<'_, [u8]>)> = Vec::new();
        for line in lines.take_while(|line| !line.is_empty()) {
            if !is_clean(line) {
                return Err("a field of the answer holds a control byte");
            }
            if let [b' ' | b'\t', ..] = line {
                // RFC 9112 §5.2: a folded line becomes one of its field.
                let (_, value) = fields.last_mut().ok_or("the answer begins with a folded line")?;
                let value = value.to_mut();
                value.push(b' ');
                value.extend_from_slice(line.trim_ascii());
                continue;
            }
            let colon = line.iter().position(|&byte| byte == b':');
            let colon = colon.ok_or("a line of the answer's head is not a field")?;
            let (name, value) = line.split_at_checked(colon).unwrap_or_default();
            // RFC 9112 §5.1: a proxy removes blanks before the colon.
            let name = name.trim_ascii_end();
            if name.is_empty() || !name.iter().copied().all(is_token) {
                return Err("a field of the answer has no name that is one");
            }
            if fields.len() == FIELDS_MAX {
                return Err("the answer has more than 1000 fields");
            }
            fields.push((name, value.get(1..).unwrap_or_default().trim_ascii().into()));
        }
        Ok(Self { status, is_old, rest, fields })
    }

    fn all(&self, name: &'static str) -> impl Iterator<Item = &[u8]> {
        let named =
            move |field: &&(&[u8], Cow<'_, [u8]>)| field.0.eq_ignore_ascii_case(name.as_bytes());
        self.fields.iter().filter(named).map(|(_, value)| &**value)
    }

    /// Whether the final answer is yet to come. A 101 is one.
    pub(super) const fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }

    /// How long the body is: the one reading that RFC 9112 §6.3 leaves.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn framing(&self, order: &Order) -> Result<Framing, &'static str> {
        let encoding = self.all("transfer-encoding").flat_map(members).collect::<Vec<_>>();
        let in_chunks = match encoding.as_slice() {
            [] => false,
            [one] if one.eq_ignore_ascii_case(b"chunked") => true,
            _ => return Err("the answer has a transfer coding other than chunked"),
        };
        let length = self.length()?;
        let has_none = order.is_head
            || matches!(self.status, 100..=199 | 204 | 304)
            || (order.is_connect && self.status / 100 == 2);
        Ok(match length {
            _ if has_none => Framing::None,
            _ if in_chunks => Framing::Chunked,
            Some(length) => Framing::Length(length),
            None => Framing::UntilClose,
        })
    }

    /// The one length that the answer says; a list of the same one is that one (RFC 9110 §8.6).
    fn length(&self) -> Result<Option<u64>, &'static str> {
        const WRONG: &str = "the length of the answer is given twice, or is not a number";
        let mut found = None;
        for value in self.all("content-length") {
            for member in value.split(|&byte| byte == b',') {
                let digits = member.trim_ascii();
                let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
                let text = std::str::from_utf8(digits).ok().filter(|_| plain).ok_or(WRONG)?;
                let length: u64 = text.parse().map_err(|_| WRONG)?;
                if found.is_some_and(|found| found != length) {
                    return Err(WRONG);
                }
                found = Some(length);
            }
        }
        Ok(found)
    }

    /// Whether the destination would go on behind the answer.
    pub(super) fn persists(&self, framing: Framing) -> bool {
        let pairs = || self.fields.iter().map(|(name, value)| (*name, &**value));
        let both = self.all("content-length").next().is_some()
            && self.all("transfer-encoding").next().is_some();
        // RFC 9112 §6.1: a sender of both, or of chunks in HTTP/1.0, is not to be trusted further.
        let doubtful = both || self.is_old && framing == Framing::Chunked;
        let says = if self.is_old {
            has_option(pairs(), "keep-alive")
        } else {
            !has_option(pairs(), "close")
        };
        says && !doubtful && framing != Framing::UntilClose
    }

    /// The head as it goes to the client. `stays`: the connection to the client does.
    pub(super) fn anew(&self, order: &Order, framing: Framing, stays: bool) -> Vec<u8> {
        let mut head = Vec::with_capacity(512);
        let is_explicit = order.is_explicit;
        let version = if self.is_old && !is_explicit { "HTTP/1.0" } else { "HTTP/1.1" };
        head.extend_from_slice(version.as_bytes());
        head.extend_from_slice(self.rest);
        head.extend_from_slice(b"\r\n");
        let mut is_framed = false;
        let named = |name: &[u8]| {
            let mut connection = self.all("connection").flat_map(members);
            connection.any(|one| one.eq_ignore_ascii_case(name))
        };
        for (name, value) in &self.fields {
            let value: &[u8] = value;
            if name.eq_ignore_ascii_case(b"content-length") {
                // Of a body that is not sent, it tells the length all the same (RFC 9110 §8.6).
                if !is_framed && matches!(framing, Framing::Length(_) | Framing::None) {
                    is_framed = true;
                    let first = members(value).next().unwrap_or_default();
                    push(&mut head, name, first);
                }
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                if !is_framed && framing == Framing::Chunked && !order.is_old {
                    is_framed = true;
                    push(&mut head, name, b"chunked");
                }
            } else if !is_explicit || !(is_of_one_hop(name) || named(name)) {
                push(&mut head, name, value);
            }
        }
        if is_explicit {
            if framing == Framing::UntilClose && !order.is_old {
                push(&mut head, b"Transfer-Encoding", b"chunked");
            }
            push(&mut head, b"Via", if self.is_old { b"1.0 schengate" } else { b"1.1 schengate" });
            match (stays, order.is_old) {
                _ if self.is_interim() => {}
                (false, _) => push(&mut head, b"Connection", b"close"),
                (true, true) => push(&mut head, b"Connection", b"keep-alive"),
                (true, false) => {}
            }
        }
        head.extend_from_slice(b"\r\n");
        head
    }
}

const NO_STATUS: &str = "the answer begins with no status line of HTTP/1";

/// No NUL, no CR, no other control byte (RFC 9110 §5.5).
fn is_clean(line: &[u8]) -> bool {
    line.iter().all(|byte| !byte.is_ascii_control() || *byte == b'\t')
}

fn push(head: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    // Into a vector nothing fails.
    head.write_all(name).ok();
    head.extend_from_slice(b": ");
    head.extend_from_slice(value);
    head.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identify::{Step, identify};

    fn order(request: &str) -> Order {
        let Step::Done(identity) = identify(request.as_bytes(), false) else { panic!("{request}") };
        let head = identity.http.unwrap();
        if head.target_authority().is_some() && head.method != b"CONNECT" {
            return Order::explicit(request.as_bytes(), &head, "a.example");
        }
        Order::captured(request.as_bytes(), &head)
    }

    fn get() -> Order {
        order("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
    }

    #[test]
    fn a_body_has_the_one_length_that_is_left() {
        let get = get();
        let head = order("HEAD / HTTP/1.1\r\nHost: a.example\r\n\r\n");
        let tunnel = order("CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n");
        for (order, status, fields, framing) in [
            (&get, 200, "Content-Length: 5", Some(Framing::Length(5))),
            (&get, 200, "Content-Length : 5", Some(Framing::Length(5))),
            (&get, 200, "Content-Length: 5, 5", Some(Framing::Length(5))),
            (&get, 200, "Content-Length: 5\r\nContent-Length: 05", Some(Framing::Length(5))),
            (&get, 200, "Content-Length: 5\r\nContent-Length: 6", None),
            (&get, 200, "Content-Length: +5", None),
            (&get, 200, "Content-Length: 5,", None),
            (&get, 200, "Content-Length:", None),
            (&get, 200, "Content-Length: 99999999999999999999", None),
            (&get, 200, "Transfer-Encoding: CHUNKED", Some(Framing::Chunked)),
            (&get, 200, "Content-Length: 3\r\nTransfer-Encoding: chunked", Some(Framing::Chunked)),
            (&get, 200, "Transfer-Encoding: gzip, chunked", None),
            (&get, 200, "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", None),
            (&get, 200, "Transfer-Encoding: identity", None),
            (&get, 200, "X: y", Some(Framing::UntilClose)),
            (&get, 204, "X: y", Some(Framing::None)),
            (&get, 304, "Content-Length: 5", Some(Framing::None)),
            (&get, 103, "X: y", Some(Framing::None)),
            (&head, 200, "Content-Length: 5", Some(Framing::None)),
            (&tunnel, 200, "Content-Length: 5", Some(Framing::None)),
            (&tunnel, 407, "Content-Length: 5", Some(Framing::Length(5))),
        ] {
            let text = format!("HTTP/1.1 {status} X\r\n{fields}\r\n\r\n");
            assert_eq!(end(text.as_bytes()), Some(text.len()));
            let reply = Reply::parse(text.as_bytes()).unwrap();
            assert_eq!(reply.framing(order).ok(), framing, "{text}");
        }
    }

    #[test]
    fn the_length_that_goes_on_is_the_one_that_was_read() {
        for (fields, anew) in [
            ("Content-Length: 5, 5", "Content-Length: 5\r\n"),
            ("content-length: 5\r\nX: y\r\nContent-Length: 5", "content-length: 5\r\nX: y\r\n"),
            (
                "Content-Length: 3\r\nX: y\r\nTransfer-Encoding: chunked",
                "X: y\r\nTransfer-Encoding: chunked\r\n",
            ),
            (
                "X-A : b\r\nX-B: c\r\n  d\r\nContent-Length: 5",
                "X-A: b\r\nX-B: c d\r\nContent-Length: 5\r\n",
            ),
        ] {
            let text = format!("HTTP/1.1 200\r\n{fields}\r\n\r\n");
            let reply = Reply::parse(text.as_bytes()).unwrap();
            let order = get();
            let framing = reply.framing(&order).unwrap();
            let out = String::from_utf8(reply.anew(&order, framing, true)).unwrap();
            assert_eq!(out, format!("HTTP/1.1 200\r\n{anew}\r\n"));
        }
        let both = b"HTTP/1.1 200\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(!Reply::parse(both).unwrap().persists(Framing::Chunked));
    }

    #[test]
    fn an_explicit_client_gets_the_version_and_the_fields_of_its_own_hop() {
        let order = order("GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n");
        let text = b"HTTP/1.0 200 Fine\r\nConnection: content-length, x-hop\r\nX-Hop: 1\r\n\
                     Keep-Alive: 9\r\nContent-Length: 5\r\n\r\n";
        let reply = Reply::parse(text).unwrap();
        let framing = reply.framing(&order).unwrap();
        let out = String::from_utf8(reply.anew(&order, framing, true)).unwrap();
        assert_eq!(out, "HTTP/1.1 200 Fine\r\nContent-Length: 5\r\nVia: 1.0 schengate\r\n\r\n");
        assert!(!reply.persists(framing));
        let endless = Reply::parse(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        let out = String::from_utf8(endless.anew(&order, Framing::UntilClose, false)).unwrap();
        assert!(out.contains("\r\nTransfer-Encoding: chunked\r\n"), "{out}");
        assert!(out.contains("\r\nConnection: close\r\n"), "{out}");
    }

    #[test]
    fn many_fields_are_an_answer_and_what_is_none_is_said_to_be_none() {
        let many =
            |count| format!("HTTP/1.1 200 OK\r\n{}\r\n", "Set-Cookie: a=1\r\n".repeat(count));
        assert!(Reply::parse(many(120).as_bytes()).is_ok());
        assert!(Reply::parse(many(FIELDS_MAX).as_bytes()).is_ok());
        assert!(Reply::parse(many(FIELDS_MAX + 1).as_bytes()).is_err());
        for text in [
            "ICY 200 OK\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 1000 X\r\n\r\n",
            "HTTP/1.1 20 X\r\n\r\n",
            "HTTP/1.1 200X\r\n\r\n",
            "HTTP/1.1  200 X\r\n\r\n",
            "HTTP/1.1 200 X\rY\r\n\r\n",
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/1.1 200 OK\r\n: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX (y): x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\rY: b\r\n\r\n",
            "HTTP/1.1 200 OK\r\n folded\r\n\r\n",
        ] {
            assert!(Reply::parse(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
