//! Holds a request as it goes on. A captured one goes byte for byte as it came: no fault was found in
//! its head, so that it has one reading. An explicit one is written anew for its destination.

use super::body::Framing;
use super::fields::{self, Field, has_option, is_of_one_hop, members};
use crate::identify::http::{Form, Head};

/// The request that is being answered.
#[derive(Debug)]
pub(in crate::flow) struct Order {
    /// The head as it goes on.
    pub(super) head: Vec<u8>,
    /// Bytes of the head as it came.
    length: usize,
    /// The body behind it.
    pub(super) framing: Framing,
    pub(super) is_head: bool,
    /// CONNECT, of a captured client to a proxy of its own.
    pub(super) is_connect: bool,
    /// The client asks for another protocol, and may have it.
    pub(super) upgrades: bool,
    /// The body waits for a 100 (RFC 9110 §10.1.1).
    pub(super) expects: bool,
    /// HTTP/1.0: no interim answers, no chunks.
    pub(super) is_old: bool,
    /// The client would go on behind the answer.
    pub(super) persists: bool,
    /// The client knows that this is a proxy.
    pub(super) is_explicit: bool,
}

impl Order {
    /// A request of a captured connection, or inside a tunnel. `bytes` are its head, in which no fault
    /// was found.
    pub(in crate::flow) fn captured(bytes: &[u8], head: &Head<'_>) -> Self {
        let is_connect = head.form == Form::Authority;
        let order = Self::read(bytes, head.method);
        Self { head: bytes.to_vec(), is_connect, upgrades: head.upgrade, ..order }
    }

    /// A request to an explicit proxy: in origin form (RFC 9112 §3.2.1), with one Host, which is
    /// `host`, and without a field of the hop before.
    pub(in crate::flow) fn explicit(bytes: &[u8], head: &Head<'_>, host: &str) -> Self {
        let order = Self::read(bytes, head.method);
        let authority = head.target_authority().map_or(0, <[u8]>::len);
        let path = head.target.get(SCHEME.len() + authority..).unwrap_or_default();
        let mut anew = head.method.to_vec();
        anew.push(b' ');
        match path.first() {
            // RFC 9112 §3.2.4: the server as a whole.
            None if head.method == b"OPTIONS" => anew.push(b'*'),
            Some(b'/') => {}
            _ => anew.push(b'/'),
        }
        anew.extend_from_slice(path);
        anew.extend_from_slice(b" HTTP/1.1\r\nHost: ");
        anew.extend_from_slice(host.as_bytes());
        anew.extend_from_slice(b"\r\n");
        let all = fields::of(bytes);
        let named = |field: &Field<'_>| {
            let mut connection = all.clone().filter(|other| other.is("connection"));
            connection.any(|c| members(c.value).any(|name| name.eq_ignore_ascii_case(field.name)))
        };
        for field in all.clone() {
            let frames = field.is("content-length") || field.is("transfer-encoding");
            let ends_here = field.is("host") || is_of_one_hop(field.name) || named(&field);
            if frames || !ends_here {
                push(&mut anew, field.line);
            }
        }
        let version = if order.is_old { "1.0" } else { "1.1" };
        push(&mut anew, format!("Via: {version} schengate\r\nConnection: close\r\n").as_bytes());
        Self { head: anew, is_explicit: true, ..order }
    }

    fn read(bytes: &[u8], method: &[u8]) -> Self {
        let all = fields::of(bytes);
        let length = all.clone().find(|field| field.is("content-length"));
        let length = length.and_then(|field| std::str::from_utf8(field.value).ok()?.parse().ok());
        let framing = match length {
            _ if all.clone().any(|field| field.is("transfer-encoding")) => Framing::Chunked,
            Some(length) if length > 0 => Framing::Length(length),
            Some(_) | None => Framing::None,
        };
        let first = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let is_old = first.trim_ascii_end().ends_with(b"HTTP/1.0");
        let pairs = || all.clone().map(|field| (field.name, field.value));
        let persists =
            if is_old { has_option(pairs(), "keep-alive") } else { !has_option(pairs(), "close") };
        let mut expectations = all.clone().filter(|field| field.is("expect"));
        Self {
            head: Vec::new(),
            length: bytes.len(),
            framing,
            is_head: method == b"HEAD",
            is_connect: false,
            upgrades: false,
            expects: framing != Framing::None && expectations.next().is_some(),
            is_old,
            persists,
            is_explicit: false,
        }
    }

    /// Bytes of the head as it came.
    pub(in crate::flow) const fn length(&self) -> usize {
        self.length
    }

    /// The head as it goes on.
    pub(in crate::flow) fn head(&self) -> &[u8] {
        &self.head
    }

    /// Whether it asks for a tunnel.
    pub(in crate::flow) const fn is_connect(&self) -> bool {
        self.is_connect
    }

    /// Whether the client knows that this is a proxy.
    pub(in crate::flow) const fn is_explicit(&self) -> bool {
        self.is_explicit
    }
}

/// What the target of an explicit request begins with, in any case of letters.
pub(in crate::flow) const SCHEME: &[u8] = b"http://";

fn push(head: &mut Vec<u8>, line: &[u8]) {
    head.extend_from_slice(line);
    head.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identify::{Step, identify};

    fn with<T>(bytes: &str, see: impl FnOnce(&[u8], &Head<'_>) -> T) -> T {
        let Step::Done(identity) = identify(bytes.as_bytes(), false) else { panic!("{bytes}") };
        assert_eq!(identity.fault, None, "{bytes}");
        see(bytes.as_bytes(), &identity.http.unwrap())
    }

    #[test]
    fn a_captured_request_goes_on_as_it_came() {
        let bytes = "POST /a HTTP/1.1\r\nhOsT: a.example\r\nX:1\r\nContent-Length: 3\r\n\
                     Expect: 100-continue\r\nConnection: Upgrade , close\r\nUpgrade: h2c\r\n\r\n";
        let order = with(bytes, Order::captured);
        assert_eq!(order.head, bytes.as_bytes());
        assert_eq!(order.framing, Framing::Length(3));
        assert!(order.expects && order.upgrades && !order.persists && !order.is_explicit);
    }

    #[test]
    fn an_explicit_request_is_written_for_its_destination() {
        let bytes = "GET http://A.example:80?b=c HTTP/1.0\r\nHost: a.example\r\nX-End:  2 \r\n\
                     Connection: X-Hop, content-length, keep-alive\r\nX-Hop: 1\r\nTE: trailers\r\n\
                     Content-Length: 0\r\nProxy-Authorization: x\r\nUpgrade: h2c\r\n\r\n";
        let order = with(bytes, |bytes, head| Order::explicit(bytes, head, "a.example"));
        let text = String::from_utf8(order.head).unwrap();
        assert_eq!(
            text,
            "GET /?b=c HTTP/1.1\r\nHost: a.example\r\nX-End:  2 \r\nContent-Length: 0\r\n\
             Via: 1.0 schengate\r\nConnection: close\r\n\r\n"
        );
        assert!(order.is_old && order.persists && !order.upgrades);
        let options = "OPTIONS http://a.example HTTP/1.1\r\nHost: a.example\r\n\r\n";
        let order = with(options, |bytes, head| Order::explicit(bytes, head, "a.example"));
        assert!(order.head.starts_with(b"OPTIONS * HTTP/1.1\r\n"));
    }
}
