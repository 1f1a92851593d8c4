//! Where TLS begins in a stream that begins with another protocol: STARTTLS and its kin, and
//! proxies in front. Read from the client's side alone.

use super::http;

/// How the client came to TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Via {
    /// SMTP, IMAP, IRC, NNTP or ManageSieve: `STARTTLS` (RFC 3207, RFC 9051 §6.2.1).
    Starttls,
    /// POP3: `STLS` (RFC 2595 §4).
    Stls,
    /// FTP: `AUTH TLS` (RFC 4217).
    AuthTls,
    /// XMPP: `<starttls/>` (RFC 6120 §5).
    Xmpp,
    /// PostgreSQL: SSLRequest.
    Postgres,
    /// MySQL and MariaDB: a handshake response cut short, with the flag CLIENT_SSL.
    Mysql,
    /// LDAP: the extended operation StartTLS (RFC 4511 §4.14).
    Ldap,
    /// RDP: an X.224 connection request (MS-RDPBCGR §2.2.1.1).
    Rdp,
    /// SOCKS4 and 4a.
    Socks4,
    /// SOCKS5 (RFC 1928).
    Socks5,
    /// HTTP CONNECT (RFC 9110 §9.3.6).
    Connect,
    /// HAProxy's PROXY protocol, versions 1 and 2.
    ProxyProtocol,
}

impl Via {
    /// A short name for records; never renamed.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Starttls => "starttls",
            Self::Stls => "stls",
            Self::AuthTls => "auth-tls",
            Self::Xmpp => "xmpp",
            Self::Postgres => "postgres",
            Self::Mysql => "mysql",
            Self::Ldap => "ldap",
            Self::Rdp => "rdp",
            Self::Socks4 => "socks4",
            Self::Socks5 => "socks5",
            Self::Connect => "connect",
            Self::ProxyProtocol => "proxy-protocol",
        }
    }
}

/// What a stream says about the way to TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upgrade {
    /// None of the ways that are known, or the client went on in the clear.
    No,
    /// It may still come.
    NeedMore,
    /// A TLS record begins at offset `at`.
    Tls {
        /// The way.
        via: Via,
        /// Offset in the stream.
        at: usize,
    },
}

const POSTGRES_SSL: &[u8] = &[0, 0, 0, 8, 4, 210, 22, 47];
const POSTGRES_GSS: &[u8] = &[0, 0, 0, 8, 4, 210, 22, 48];
const PROXY_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const STARTTLS_OID: &[u8] = b"1.3.6.1.4.1.1466.20037";

/// Finds the TLS record in `seen`, all that the client has sent from byte 0 of a stream that does
/// not begin with TLS.
///
/// Only a client's word: whether the server agreed to the upgrade is not seen, so TLS is found only
/// where a handshake record stands exactly where the protocol puts it.
#[must_use]
pub fn upgrade(seen: &[u8]) -> Upgrade {
    let Some(&first) = seen.first() else { return Upgrade::NeedMore };
    let rest = Scan { seen, at: 0 };
    match first {
        0 => rest.postgres(),
        3 => rest.rdp(),
        4 => rest.socks4(),
        5 => rest.socks5(),
        b'\r' => rest.proxy_2(),
        b'<' => rest.xmpp(),
        32 => rest.mysql(), // the length of its packet, and no command begins with a blank
        b'0' => match rest.ldap() {
            Upgrade::No => rest.lines(), // an IMAP tag
            found @ (Upgrade::NeedMore | Upgrade::Tls { .. }) => found,
        },
        _ if seen.starts_with(b"CONNECT ") => rest.connect(),
        0x21..=0x7e => rest.lines(),
        _ => Upgrade::No,
    }
}

/// A position in the stream. `None` at its end always means that more is needed.
#[derive(Clone, Copy)]
struct Scan<'a> {
    seen: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    fn rest(&self) -> &'a [u8] {
        self.seen.get(self.at..).unwrap_or_default()
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, _) = self.rest().split_first_chunk::<N>()?;
        self.at += N;
        Some(*head)
    }

    fn skip(&mut self, len: usize) -> Option<()> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.seen.len())?;
        self.at = end;
        Some(())
    }

    /// Behind the next `byte`.
    fn past(&mut self, byte: u8) -> Option<()> {
        let end = self.rest().iter().position(|&other| other == byte)?;
        self.skip(end + 1)
    }

    /// Whether a TLS handshake record begins here; `None` where that cannot be told yet.
    fn is_tls(&self) -> Option<bool> {
        match *self.rest() {
            [] | [22] => None,
            [22, 3, ..] => Some(true),
            // A hello in the SSLv2 format.
            [0x80..=0xff] | [0x80..=0xff, _] => None,
            [0x80..=0xff, _, 1, ..] => Some(true),
            _ => Some(false),
        }
    }

    /// TLS must begin here, or nowhere.
    fn here(&self, via: Via) -> Upgrade {
        match self.is_tls() {
            None => Upgrade::NeedMore,
            Some(true) => Upgrade::Tls { via, at: self.at },
            Some(false) => Upgrade::No,
        }
    }

    fn postgres(mut self) -> Upgrade {
        while self.rest().starts_with(POSTGRES_GSS) {
            self.at += POSTGRES_GSS.len();
        }
        if self.rest().starts_with(POSTGRES_SSL) {
            self.at += POSTGRES_SSL.len();
            return self.here(Via::Postgres);
        }
        let half = POSTGRES_SSL.starts_with(self.rest()) || POSTGRES_GSS.starts_with(self.rest());
        if half { Upgrade::NeedMore } else { Upgrade::No }
    }

    /// Length 32, sequence 1, then flags of which 0x0800 is CLIENT_SSL.
    fn mysql(mut self) -> Upgrade {
        match self.array::<8>() {
            None => Upgrade::NeedMore,
            Some([32, 0, 0, 1, _, flags, _, _]) if flags & 8 != 0 => match self.skip(28) {
                None => Upgrade::NeedMore,
                Some(()) => self.here(Via::Mysql),
            },
            Some(_) => Upgrade::No,
        }
    }

    fn rdp(mut self) -> Upgrade {
        let Some([version, _, high, low, _, kind]) = self.array() else { return Upgrade::NeedMore };
        let len = usize::from(u16::from_be_bytes([high, low]));
        if version != 3 || kind != 0xe0 || len < 11 {
            return Upgrade::No;
        }
        match self.skip(len - 6) {
            None => Upgrade::NeedMore,
            Some(()) => self.here(Via::Rdp),
        }
    }

    fn socks4(mut self) -> Upgrade {
        let mut read = || {
            let [_, command, _, _, a, b, c, d] = self.array()?;
            self.past(0)?; // user
            if [a, b, c] == [0; 3] && d != 0 {
                self.past(0)?; // SOCKS4a: a name in the place of the address
            }
            Some(command == 1)
        };
        match read() {
            None => Upgrade::NeedMore,
            Some(true) => self.here(Via::Socks4),
            Some(false) => Upgrade::No,
        }
    }

    fn socks5(mut self) -> Upgrade {
        let mut read = || {
            let [_, methods] = self.array()?;
            self.skip(methods.into())?;
            let mut next = self.array()?;
            if next == [1] {
                // User and password (RFC 1929).
                for _ in 0..2 {
                    let [len] = self.array()?;
                    self.skip(len.into())?;
                }
                next = self.array()?;
            }
            let [command, _, kind] = self.array()?;
            let address = match kind {
                1 => 4,
                3 => self.array().map(|[len]| usize::from(len))?,
                4 => 16,
                _ => return Some(false),
            };
            self.skip(address + 2)?;
            Some(next == [5] && command == 1)
        };
        match read() {
            None => Upgrade::NeedMore,
            Some(true) => self.here(Via::Socks5),
            Some(false) => Upgrade::No,
        }
    }

    fn proxy_2(mut self) -> Upgrade {
        if !self.rest().starts_with(PROXY_2) {
            let half = PROXY_2.starts_with(self.rest());
            return if half { Upgrade::NeedMore } else { Upgrade::No };
        }
        self.at += PROXY_2.len();
        let Some([version, _, high, low]) = self.array() else { return Upgrade::NeedMore };
        if version >> 4 != 2 {
            return Upgrade::No;
        }
        match self.skip(usize::from(u16::from_be_bytes([high, low]))) {
            None => Upgrade::NeedMore,
            Some(()) => self.here(Via::ProxyProtocol),
        }
    }

    fn connect(mut self) -> Upgrade {
        match http::read(self.seen) {
            http::Found::Head(head) => {
                self.at = head.len;
                self.here(Via::Connect)
            }
            http::Found::Part { .. } => Upgrade::NeedMore,
            http::Found::Other => Upgrade::No,
        }
    }

    fn xmpp(mut self) -> Upgrade {
        let needle = b"<starttls";
        let Some(begin) = self.seen.windows(needle.len()).position(|window| window == needle)
        else {
            return Upgrade::NeedMore;
        };
        self.at = begin + needle.len();
        if self.past(b'>').is_none() {
            return Upgrade::NeedMore;
        }
        let end = b"</starttls>";
        if self.seen.get(self.at.saturating_sub(2)) != Some(&b'/') {
            if !self.rest().starts_with(end) {
                let half = end.starts_with(self.rest());
                return if half { Upgrade::NeedMore } else { Upgrade::No };
            }
            self.at += end.len();
        }
        while self.rest().first().is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        self.here(Via::Xmpp)
    }

    /// A chain of LDAP messages (RFC 4511 §5.1), until one is the StartTLS request.
    fn ldap(mut self) -> Upgrade {
        loop {
            match self.is_sequence() {
                None => return Upgrade::NeedMore,
                Some(false) => return Upgrade::No,
                Some(true) => {}
            }
            let Some(len) = self.ber_len() else { return Upgrade::NeedMore };
            let begin = self.at;
            if self.skip(len).is_none() {
                return Upgrade::NeedMore;
            }
            let message = self.seen.get(begin..self.at).unwrap_or_default();
            if is_starttls_request(message) {
                return self.here(Via::Ldap);
            }
        }
    }

    fn is_sequence(&mut self) -> Option<bool> {
        self.array().map(|[tag]| tag == b'0')
    }

    /// A BER length of at most four bytes.
    fn ber_len(&mut self) -> Option<usize> {
        let [first] = self.array()?;
        if first < 0x80 {
            return Some(first.into());
        }
        let mut len = 0;
        for _ in 0..(first & 0x7f).min(4) {
            let [byte] = self.array()?;
            len = len << 8 | usize::from(byte);
        }
        Some(len)
    }

    /// Protocols of lines: SMTP, IMAP, POP3, FTP, IRC, and the PROXY line.
    fn lines(mut self) -> Upgrade {
        loop {
            let begin = self.at;
            // Text alone: a byte that no command has ends the search.
            let end = self.rest().iter().position(|&b| b == b'\n' || is_binary(b));
            let Some(end) = end else { return Upgrade::NeedMore };
            if self.rest().get(end) != Some(&b'\n') {
                return Upgrade::No;
            }
            self.at = begin + end + 1;
            let line = self.seen.get(begin..begin + end).unwrap_or_default();
            let via = if begin == 0 && line.starts_with(b"PROXY ") {
                Some(Via::ProxyProtocol)
            } else {
                command(line.trim_ascii())
            };
            let Some(via) = via else { continue };
            match self.is_tls() {
                None => return Upgrade::NeedMore,
                Some(true) => return Upgrade::Tls { via, at: self.at },
                // Refused: the client goes on in the clear.
                Some(false) => {}
            }
        }
    }
}

fn is_binary(byte: u8) -> bool {
    byte.is_ascii_control() && !byte.is_ascii_whitespace()
}

/// The way that one line of a command asks for.
fn command(line: &[u8]) -> Option<Via> {
    let mut words = line.split(|&byte| byte == b' ');
    let (first, second) = (words.next()?, words.next());
    if words.next().is_some() {
        return None;
    }
    match second {
        None if first.eq_ignore_ascii_case(b"STLS") => Some(Via::Stls),
        None if first.eq_ignore_ascii_case(b"STARTTLS") => Some(Via::Starttls),
        // IMAP: any tag in front.
        Some(second) if second.eq_ignore_ascii_case(b"STARTTLS") => Some(Via::Starttls),
        Some(second) if first.eq_ignore_ascii_case(b"AUTH") => {
            let kinds: [&[u8]; 4] = [b"TLS", b"SSL", b"TLS-C", b"TLS-P"];
            let known = kinds.iter().any(|kind| second.eq_ignore_ascii_case(kind));
            known.then_some(Via::AuthTls)
        }
        _ => None,
    }
}

/// Message id, then an ExtendedRequest (0x77) with the name (0x80) of StartTLS and nothing else.
fn is_starttls_request(message: &[u8]) -> bool {
    let mut scan = Scan { seen: message, at: 0 };
    let mut read = || {
        let [2, len] = scan.array()? else { return None };
        scan.skip(len.into())?;
        let [0x77] = scan.array()? else { return None };
        scan.ber_len()?;
        let [0x80] = scan.array()? else { return None };
        scan.ber_len()?;
        Some(scan.rest() == STARTTLS_OID)
    };
    read().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TLS: &[u8] = &[22, 3, 1, 0];

    fn ways() -> Vec<(Via, Vec<u8>)> {
        let ldap = [&[0x30, 0x1d, 2, 1, 1, 0x77, 0x18, 0x80, 0x16], STARTTLS_OID].concat();
        let bind = [0x30, 0x0c, 2, 1, 1, 0x60, 7, 2, 1, 3, 4, 0, 0x80, 0];
        let mut mysql = vec![32, 0, 0, 1, 0, 8];
        mysql.resize(36, 0);
        let mut rdp = vec![3, 0, 0, 19, 14, 0xe0];
        rdp.resize(19, 0);
        let socks5 = [&b"\x05\x01\x00\x05\x01\x00\x03\x0chost.example"[..], &[1, 187]].concat();
        let password = b"\x05\x02\x00\x02\x01\x01u\x01p\x05\x01\x00\x01\xc0\x00\x02\x01\x01\xbb";
        vec![
            (Via::Starttls, b"EHLO client.example\r\nSTARTTLS\r\n".to_vec()),
            (Via::Starttls, b"a CAPABILITY\r\nb starttls\r\n".to_vec()),
            (Via::Stls, b"CAPA\r\nSTLS\r\n".to_vec()),
            (Via::AuthTls, b"AUTH SSL\r\nAUTH TLS\r\n".to_vec()),
            (Via::Xmpp, b"<stream:stream to='x.example'><starttls xmlns='urn:x'/>".to_vec()),
            (Via::Xmpp, b"<stream:stream><starttls xmlns='urn:x'></starttls>\n".to_vec()),
            (Via::Postgres, POSTGRES_SSL.to_vec()),
            (Via::Postgres, [POSTGRES_GSS, POSTGRES_SSL].concat()),
            (Via::Mysql, mysql),
            (Via::Ldap, ldap.clone()),
            (Via::Ldap, [&bind[..], &ldap].concat()),
            (Via::Rdp, rdp),
            (Via::Socks4, b"\x04\x01\x01\xbb\xc0\x00\x02\x01user\0".to_vec()),
            (Via::Socks4, b"\x04\x01\x01\xbb\0\0\0\x01\0host.example\0".to_vec()),
            (Via::Socks5, socks5),
            (Via::Socks5, password.to_vec()),
            (Via::Connect, b"CONNECT host.example:443 HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
            (Via::ProxyProtocol, b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 443\r\n".to_vec()),
            (Via::ProxyProtocol, [PROXY_2, &[0x21, 0x11, 0, 3, 1, 2, 3]].concat()),
        ]
    }

    #[test]
    fn tls_is_found_where_each_protocol_puts_it() {
        for (via, clear) in ways() {
            let stream = [&clear, TLS].concat();
            assert_eq!(upgrade(&stream), Upgrade::Tls { via, at: clear.len() }, "{via:?}");
        }
    }

    #[test]
    fn every_strict_prefix_needs_more() {
        for (via, clear) in ways() {
            for end in 0..=clear.len() {
                assert_eq!(upgrade(&clear[..end]), Upgrade::NeedMore, "{via:?} at {end}");
            }
        }
    }

    #[test]
    fn a_client_that_goes_on_in_the_clear_has_no_tls() {
        for (via, clear) in ways() {
            let stream = [&clear, &b"\x07 no hello\r\n"[..], TLS].concat();
            assert!(!matches!(upgrade(&stream), Upgrade::Tls { .. }), "{via:?}");
        }
    }

    #[test]
    fn a_refused_starttls_can_be_asked_for_again() {
        let stream = [b"STARTTLS\r\nNOOP\r\nSTARTTLS\r\n", TLS].concat();
        assert_eq!(upgrade(&stream), Upgrade::Tls { via: Via::Starttls, at: 26 });
    }
}
