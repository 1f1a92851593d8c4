//! Plays protocols that begin in the clear and go over to TLS where the client asks for it: SMTP
//! (RFC 3207), IMAP (RFC 9051 §6.2.1), POP3 (RFC 2595 §4), PostgreSQL (SSLRequest).
//!
//! Whom the client means stands in the hello behind the upgrade, and a server speaks before that.
//! So the gateway plays the server up to the hello ([`serve_preamble`]), judges, and only then dials
//! and plays the client ([`Preamble::replay`]): nothing leaves before the verdict, and TLS is between
//! the client and the server. A client that goes on in the clear is judged as one of whom no name can be read.

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::evaluate::Subject;
use super::first_flight::{self, Ended, FirstFlight};
use super::refuse::Rejection;
use super::session::Session;
use crate::account::End;
use crate::identify::Fault;
use crate::net::buffer::read_shared;
use crate::net::socket::TcpSocket;

/// The longest line of a client (RFC 5321 §4.5.3.1.4 asks for 512, RFC 9051 for more), and of a
/// server.
const LINE_MAX: usize = 2048;

/// Lines that a client may say before it goes over to TLS, and that a server may say in one reply.
const LINES_MAX: usize = 64;

/// Time for the greeting of a server, and for each of its replies (RFC 5321 §4.5.3.2): mail servers let
/// strangers wait, and look them up meanwhile.
const REPLY_TIME: Duration = Duration::from_secs(5 * 60);

/// PostgreSQL's requests for TLS and for GSS encryption: a length of 8 and a number.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 48];

/// A fatal alert `handshake_failure` (40), for a server that does not go over to TLS.
pub(super) const HANDSHAKE_FAILURE: [u8; 7] = [21, 3, 3, 0, 2, 2, 40];

/// A protocol that is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StartTlsProtocol {
    Smtp,
    Imap,
    Pop3,
    Postgres,
}

/// What was played with the client, to be played again with the server.
#[derive(Debug)]
pub(super) struct Preamble {
    protocol: StartTlsProtocol,
    /// What the client said that the server has to hear, each with its reply.
    said: Vec<Vec<u8>>,
}

/// What follows a line of the client.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// This is said, and the next line heard.
    Reply(Vec<u8>),
    /// The same, and the server has to hear the line in the place of an earlier one.
    Greeted(Vec<u8>),
    /// This is said, and TLS begins.
    Upgrade(Vec<u8>),
    /// This is said, and the connection ends.
    Quit(Vec<u8>),
    /// The client goes on in the clear.
    Plain,
}

impl StartTlsProtocol {
    /// What is spoken on a port, where it is played (IANA's registry of service names).
    pub(super) const fn on(port: u16) -> Option<Self> {
        match port {
            25 | 587 => Some(Self::Smtp),
            143 => Some(Self::Imap),
            110 => Some(Self::Pop3),
            5432 => Some(Self::Postgres),
            _ => None,
        }
    }

    /// The first words of a server.
    const fn greeting(self) -> &'static [u8] {
        match self {
            Self::Smtp => b"220 gateway ESMTP\r\n",
            Self::Imap => b"* OK [CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED] ready\r\n",
            Self::Pop3 => b"+OK ready\r\n",
            Self::Postgres => b"",
        }
    }

    /// The length of the client's next line or request, if it is whole; `None` where more is
    /// needed, an error where it cannot be one.
    fn line(self, bytes: &[u8]) -> Result<Option<usize>, Plain> {
        if self == Self::Postgres {
            let length = SSL_REQUEST.len().min(bytes.len());
            let begun = bytes.get(..length).unwrap_or_default();
            return match [SSL_REQUEST, GSS_REQUEST].iter().any(|whole| whole.starts_with(begun)) {
                true if length == SSL_REQUEST.len() => Ok(Some(length)),
                true => Ok(None),
                false => Err(Plain),
            };
        }
        match bytes.iter().position(|&byte| byte == b'\n') {
            Some(at) => Ok(Some(at + 1)),
            None if bytes.len() >= LINE_MAX => Err(Plain),
            None => Ok(None),
        }
    }

    /// What a server says to a line.
    fn respond(self, line: &[u8]) -> Next {
        let words: Vec<&[u8]> = line.trim_ascii().split(|&byte| byte == b' ').collect();
        let is = |at: usize, word: &str| {
            words.get(at).is_some_and(|said| said.eq_ignore_ascii_case(word.as_bytes()))
        };
        let alone = |at: usize, word: &str| is(at, word) && words.len() == at + 1;
        match self {
            Self::Smtp if is(0, "EHLO") => {
                Next::Greeted(b"250-gateway\r\n250 STARTTLS\r\n".to_vec())
            }
            Self::Smtp if is(0, "HELO") => Next::Greeted(b"250 gateway\r\n".to_vec()),
            Self::Smtp if is(0, "NOOP") || is(0, "RSET") => Next::Reply(b"250 OK\r\n".to_vec()),
            Self::Smtp if alone(0, "STARTTLS") => Next::Upgrade(b"220 go ahead\r\n".to_vec()),
            Self::Smtp if is(0, "QUIT") => Next::Quit(b"221 bye\r\n".to_vec()),
            Self::Pop3 if is(0, "CAPA") => Next::Reply(b"+OK\r\nSTLS\r\n.\r\n".to_vec()),
            Self::Pop3 if alone(0, "STLS") => Next::Upgrade(b"+OK go ahead\r\n".to_vec()),
            Self::Pop3 if is(0, "QUIT") => Next::Quit(b"+OK bye\r\n".to_vec()),
            Self::Imap => {
                let tag = words.first().copied().unwrap_or_default();
                let done = [tag, b" OK done\r\n"].concat();
                // RFC 9051 §9: what a tag may be made of.
                let of_tag = |&byte: &u8| byte.is_ascii_graphic() && !b"(){%*\"\\+".contains(&byte);
                if tag.is_empty() || !tag.iter().all(of_tag) {
                    Next::Plain
                } else if alone(1, "STARTTLS") {
                    Next::Upgrade(done)
                } else if alone(1, "CAPABILITY") {
                    let list = b"* CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED\r\n";
                    Next::Reply([&list[..], &done].concat())
                } else if alone(1, "NOOP") || is(1, "ID") {
                    Next::Reply(done)
                } else if alone(1, "LOGOUT") {
                    Next::Quit([&b"* BYE\r\n"[..], &done].concat())
                } else {
                    Next::Plain
                }
            }
            Self::Postgres if line == SSL_REQUEST => Next::Upgrade(b"S".to_vec()),
            Self::Postgres if line == GSS_REQUEST => Next::Reply(b"N".to_vec()),
            Self::Smtp | Self::Pop3 | Self::Postgres => Next::Plain,
        }
    }

    /// Whether a line ends a server's reply to `said` (its greeting, where that is `None`), and
    /// whether the reply is a yes; `None` where more lines follow.
    fn verdict(self, said: Option<&[u8]>, line: &[u8]) -> Option<bool> {
        match self {
            Self::Smtp => match line {
                [_, _, _, b'-', ..] => None,
                _ => Some(line.starts_with(b"2")),
            },
            Self::Pop3 => Some(line.starts_with(b"+OK")),
            Self::Imap => match said {
                None => Some(line.starts_with(b"* OK")),
                Some(said) => {
                    let tag = said.split(|&byte| byte == b' ').next().unwrap_or_default();
                    let answer = line.strip_prefix(tag)?.strip_prefix(b" ")?;
                    Some(answer.get(..2).is_some_and(|ok| ok.eq_ignore_ascii_case(b"OK")))
                }
            },
            Self::Postgres => Some(line == b"S"),
        }
    }
}

/// What came is no line of the protocol.
#[derive(Debug, PartialEq, Eq)]
struct Plain;

/// Plays the server for a client up to its hello, which is left in `seen`, and says who the
/// connection is for.
///
/// # Errors
/// As [`first_flight::read`]. Bytes that came with the request for TLS, before the reply to it, end the
/// connection: whoever put them there is not the one who speaks TLS.
pub(super) async fn serve_preamble(
    protocol: StartTlsProtocol,
    client: &TcpSocket,
    seen: &mut FirstFlight,
    preamble: &mut Option<Preamble>,
    subject: Subject,
    session: &Session,
) -> Result<Subject, Rejection> {
    let gone = |_| Rejection::Ended(End::ClientGone);
    let preamble = preamble.insert(Preamble { protocol, said: Vec::new() });
    client.write_all(protocol.greeting()).await.map_err(gone)?;
    for _ in 0..LINES_MAX {
        let deadline = Instant::now() + session.listener.peek_timeout;
        let line = loop {
            match protocol.line(seen.bytes()) {
                Ok(Some(length)) => break seen.split(length),
                Err(Plain) => return first_flight::read(client, seen, subject, session).await,
                Ok(None) if seen.ended() == Some(Ended::Closed) && seen.bytes().is_empty() => {
                    return Err(Rejection::Ended(End::ClientGone));
                }
                // Silence, or half a line, which may be the beginning of another protocol.
                Ok(None) if seen.ended().is_some() => {
                    return read(client, seen, subject, session).await;
                }
                Ok(None) => {
                    seen.more(client, Some(deadline)).await.map_err(gone)?;
                }
            }
        };
        let reply = match protocol.respond(&line) {
            Next::Reply(reply) => reply,
            Next::Greeted(reply) => {
                preamble.said = vec![line];
                reply
            }
            Next::Upgrade(_) if !seen.bytes().is_empty() => {
                return Err(Rejection::Ended(End::BadRequest));
            }
            Next::Upgrade(reply) => {
                preamble.said.push(line);
                client.write_all(&reply).await.map_err(gone)?;
                return read(client, seen, subject, session).await;
            }
            Next::Quit(reply) => {
                client.write_all(&reply).await.map_err(gone)?;
                client.end_in_order();
                return Err(Rejection::Ended(End::ClientGone));
            }
            Next::Plain => {
                // Another protocol may well have a line feed in its first bytes.
                seen.put_back(line);
                return first_flight::read(client, seen, subject, session).await;
            }
        };
        client.write_all(&reply).await.map_err(gone)?;
    }
    Err(Rejection::Ended(End::BadRequest))
}

/// As [`first_flight::read`]. Who falls silent has stopped half-way, and may name anybody later: to the server,
/// with whom nobody would listen any more.
async fn read(
    client: &TcpSocket,
    seen: &mut FirstFlight,
    subject: Subject,
    session: &Session,
) -> Result<Subject, Rejection> {
    let subject = first_flight::read(client, seen, subject, session).await?;
    Ok(if seen.bytes().is_empty() { subject.breaking(Fault::Incomplete) } else { subject })
}

impl Preamble {
    /// Plays the client for the server, up to where the two go on by themselves.
    ///
    /// # Errors
    /// Where the server does not greet, says no, says more than it was asked, or lets
    /// [`REPLY_TIME`] pass, or the client breaks off meanwhile.
    pub(super) async fn replay(&self, server: &TcpSocket, client: &TcpSocket) -> io::Result<()> {
        let replay = async {
            let mut heard = Vec::new();
            if self.protocol != StartTlsProtocol::Postgres {
                self.yes(server, &mut heard, None).await?;
            }
            for said in &self.said {
                server.write_all(said).await?;
                self.yes(server, &mut heard, Some(said)).await?;
            }
            // What a server says before TLS must not be taken for something that it said inside.
            if heard.is_empty() { Ok(()) } else { Err(io::Error::other("more than was asked")) }
        };
        tokio::select! {
            biased;
            _ = poll_fn(|context| client.poll_failed(context)) => {
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            replayed = replay => replayed,
        }
    }

    /// Reads one reply, which has to be a yes.
    async fn yes(
        &self,
        server: &TcpSocket,
        heard: &mut Vec<u8>,
        said: Option<&[u8]>,
    ) -> io::Result<()> {
        let until = Instant::now() + REPLY_TIME;
        for _ in 0..LINES_MAX {
            let line = timeout_at(until, self.server_line(server, heard)).await;
            let line = line.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            match self.protocol.verdict(said, &line) {
                Some(true) => return Ok(()),
                Some(false) => return Err(io::Error::other("the server says no")),
                None => {}
            }
        }
        Err(io::Error::other("a reply without an end"))
    }

    async fn server_line(&self, server: &TcpSocket, heard: &mut Vec<u8>) -> io::Result<Vec<u8>> {
        loop {
            let end = match self.protocol {
                StartTlsProtocol::Postgres => (!heard.is_empty()).then_some(1),
                StartTlsProtocol::Smtp | StartTlsProtocol::Imap | StartTlsProtocol::Pop3 => {
                    heard.iter().position(|&byte| byte == b'\n').map(|at| at + 1)
                }
            };
            if let Some(end) = end {
                return Ok(heard.drain(..end).collect());
            }
            if heard.len() >= LINE_MAX {
                return Err(io::Error::other("a line without an end"));
            }
            server.readable().await?;
            match read_shared(server, LINE_MAX, |read| heard.extend_from_slice(read)) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(next: Next) -> String {
        match next {
            Next::Reply(bytes) | Next::Greeted(bytes) => String::from_utf8(bytes).unwrap(),
            Next::Upgrade(bytes) => format!("TLS {}", String::from_utf8(bytes).unwrap()),
            Next::Quit(bytes) => format!("end {}", String::from_utf8(bytes).unwrap()),
            Next::Plain => "plain".to_owned(),
        }
    }

    #[test]
    fn a_server_is_played_up_to_the_upgrade_and_no_further() {
        for (protocol, line, reply) in [
            (StartTlsProtocol::Smtp, "EHLO a.example\r\n", "250-gateway\r\n250 STARTTLS\r\n"),
            (StartTlsProtocol::Smtp, "starttls\r\n", "TLS 220 go ahead\r\n"),
            (StartTlsProtocol::Smtp, "STARTTLS now\r\n", "plain"),
            (StartTlsProtocol::Smtp, "MAIL FROM:<a@a.example>\r\n", "plain"),
            (StartTlsProtocol::Smtp, "QUIT\r\n", "end 221 bye\r\n"),
            (StartTlsProtocol::Imap, "a1 STARTTLS\r\n", "TLS a1 OK done\r\n"),
            (StartTlsProtocol::Imap, "a1 LOGIN me secret\r\n", "plain"),
            (StartTlsProtocol::Imap, "* STARTTLS\r\n", "plain"),
            (StartTlsProtocol::Pop3, "CAPA\r\n", "+OK\r\nSTLS\r\n.\r\n"),
            (StartTlsProtocol::Pop3, "STLS\r\n", "TLS +OK go ahead\r\n"),
            (StartTlsProtocol::Pop3, "USER me\r\n", "plain"),
        ] {
            assert_eq!(said(protocol.respond(line.as_bytes())), reply, "{protocol:?} {line}");
        }
        assert_eq!(said(StartTlsProtocol::Postgres.respond(&SSL_REQUEST)), "TLS S");
        assert_eq!(said(StartTlsProtocol::Postgres.respond(&GSS_REQUEST)), "N");
    }

    #[test]
    fn a_line_is_whole_at_its_end_and_endless_ones_are_none() {
        assert_eq!(StartTlsProtocol::Smtp.line(b"EHLO a"), Ok(None));
        assert_eq!(StartTlsProtocol::Smtp.line(b"EHLO a\r\nmore"), Ok(Some(8)));
        assert_eq!(StartTlsProtocol::Smtp.line(&[b'x'; LINE_MAX]), Err(Plain));
        for end in 0..8 {
            assert_eq!(StartTlsProtocol::Postgres.line(&SSL_REQUEST[..end]), Ok(None), "{end}");
        }
        assert_eq!(StartTlsProtocol::Postgres.line(&SSL_REQUEST), Ok(Some(8)));
        assert_eq!(
            StartTlsProtocol::Postgres.line(&[0, 0, 0, 9]),
            Err(Plain),
            "a start in the clear"
        );
        assert_eq!(StartTlsProtocol::Postgres.line(&[22, 3, 1]), Err(Plain), "TLS at once");
    }

    #[test]
    fn only_a_yes_to_what_was_asked_is_a_yes() {
        let starttls = Some(&b"a1 STARTTLS\r\n"[..]);
        for (protocol, said, line, verdict) in [
            (StartTlsProtocol::Smtp, None, "220-hello\r\n", None),
            (StartTlsProtocol::Smtp, None, "220 hello\r\n", Some(true)),
            (StartTlsProtocol::Smtp, None, "554 no\r\n", Some(false)),
            (StartTlsProtocol::Smtp, None, "454 TLS not available\r\n", Some(false)),
            (StartTlsProtocol::Imap, None, "* OK ready\r\n", Some(true)),
            (StartTlsProtocol::Imap, None, "* BYE\r\n", Some(false)),
            (StartTlsProtocol::Imap, starttls, "* CAPABILITY IMAP4rev1\r\n", None),
            (StartTlsProtocol::Imap, starttls, "a1 OK begin\r\n", Some(true)),
            (StartTlsProtocol::Imap, starttls, "a1 NO\r\n", Some(false)),
            (StartTlsProtocol::Imap, starttls, "a12 OK\r\n", None),
            (StartTlsProtocol::Pop3, None, "-ERR\r\n", Some(false)),
            (StartTlsProtocol::Postgres, Some(&SSL_REQUEST), "S", Some(true)),
            (StartTlsProtocol::Postgres, Some(&SSL_REQUEST), "N", Some(false)),
        ] {
            assert_eq!(protocol.verdict(said, line.as_bytes()), verdict, "{protocol:?} {line}");
        }
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn l06_a_server_has_five_minutes_for_each_reply_and_no_more() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        for (pause, joins) in [(Duration::from_secs(200), true), (Duration::from_secs(301), false)]
        {
            let (_held, client) = TcpSocket::pair().await;
            let (mut peer, server) = TcpSocket::pair().await;
            let speaks = tokio::task::spawn_local(async move {
                for reply in ["220 late\r\n", "250 STARTTLS\r\n", "220 go\r\n"] {
                    tokio::time::sleep(pause).await;
                    if peer.write_all(reply.as_bytes()).await.is_err() {
                        return;
                    }
                    let mut line = [0; 64];
                    if !reply.ends_with("go\r\n") && peer.read(&mut line).await.is_err() {
                        return;
                    }
                }
            });
            let said = ["EHLO a\r\n", "STARTTLS\r\n"].map(|line| line.as_bytes().to_vec());
            let preamble = Preamble { protocol: StartTlsProtocol::Smtp, said: said.into() };
            assert_eq!(preamble.replay(&server, &client).await.is_ok(), joins, "{pause:?}");
            speaks.abort();
        }
    }
}
