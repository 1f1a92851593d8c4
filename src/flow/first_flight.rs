//! Reads the first bytes of a connection, under one deadline and one bound, until it is known who the
//! connection is for.

use std::io;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::evaluate::Subject;
use super::refuse::{Refusal, Rejection};
use super::session::Session;
use crate::account::{End, Hello, Limit};
use crate::identify::{Identity, Missing, Progress, Protocol, Step, each_name, identify_further};
use crate::net::buffer::read_shared;
use crate::net::socket::TcpSocket;

/// The most bytes that are read before a verdict: 64 KiB of handshake, which is more than any
/// hello may have, and room for the headers of the records it is split over.
pub(super) const SEEN_MAX: usize = 72 * 1024;

/// The most reads: a hello of the largest size sent byte by byte costs no more than this.
const READS_MAX: u32 = 16 * 1024;

/// How long a client that is refused whatever it says may be silent before it is told so: one that
/// speaks first has spoken by then, and is told in its own protocol.
const FIRST_BYTE: Duration = Duration::from_millis(300);

/// What a client has sent, from byte 0. Nothing is held before the first byte.
#[derive(Debug, Default)]
pub(super) struct FirstFlight {
    bytes: Vec<u8>,
    reads: u32,
    end: Option<Ended>,
}

/// Why no more bytes are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The client closed its side.
    Closed,
    /// The deadline passed.
    Deadline,
    /// As many bytes or reads as are spent on a first flight.
    Limit,
}

impl FirstFlight {
    /// Starts with bytes that were read elsewhere.
    pub(super) fn with(bytes: Vec<u8>) -> Self {
        Self { bytes, ..Self::default() }
    }

    /// The bytes so far.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes the first bytes off, of which there are so many at least.
    pub(super) fn split(&mut self, length: usize) -> Vec<u8> {
        let rest = self.bytes.split_off(length.min(self.bytes.len()));
        std::mem::replace(&mut self.bytes, rest)
    }

    /// Puts bytes back in front.
    pub(super) fn put_back(&mut self, first: Vec<u8>) {
        self.bytes.splice(0..0, first);
    }

    /// Why no more come, where that is so.
    pub(super) const fn ended(&self) -> Option<Ended> {
        self.end
    }

    /// The bytes, to be replayed.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Waits for more bytes, or for a reason why there will be none.
    ///
    /// # Errors
    /// The client broke the connection off.
    pub(super) async fn more(
        &mut self,
        client: &TcpSocket,
        deadline: Option<Instant>,
    ) -> io::Result<()> {
        if !self.bytes.is_empty() {
            client.quickack();
        }
        let room = SEEN_MAX.saturating_sub(self.bytes.len());
        if room == 0 || self.reads == READS_MAX {
            self.end = Some(Ended::Limit);
            return Ok(());
        }
        loop {
            match deadline {
                None => client.readable().await?,
                Some(deadline) => match timeout_at(deadline, client.readable()).await {
                    Ok(ready) => ready?,
                    Err(_) => {
                        self.end = Some(Ended::Deadline);
                        return Ok(());
                    }
                },
            }
            match read_shared(client, room, |read| self.bytes.extend_from_slice(read)) {
                Ok(0) => self.end = Some(Ended::Closed),
                Ok(_) => self.reads += 1,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
                Err(e) => return Err(e),
            }
            return Ok(());
        }
    }
}

/// Reads until it is known who the connection is for, or that nobody can know.
pub(super) async fn read(
    client: &TcpSocket,
    seen: &mut FirstFlight,
    subject: Subject,
    session: &Session,
) -> Result<Subject, Rejection> {
    let Session { listener, record, .. } = session;
    let deadline = Instant::now() + listener.peek_timeout;
    let mut progress = Progress::default();
    loop {
        let ended = seen.ended();
        match identify_further(seen.bytes(), ended.is_some(), &mut progress) {
            Step::Done(identity) => {
                record.metrics().hello(result(&identity, seen), record.age());
                return Ok(subject.read(&identity, |see| each_name(seen.bytes(), see)));
            }
            // Whatever was read cannot be told; it is a connection without a name.
            Step::NeedMore(_) if ended.is_some() => return Ok(subject),
            Step::NeedMore(missing) => {
                let more = read_until(missing, seen, client, deadline).await;
                more.map_err(|_| Rejection::Ended(End::ClientGone))?;
            }
        }
        match seen.ended() {
            Some(Ended::Closed) if seen.bytes().is_empty() => {
                return Err(Rejection::Ended(End::ClientGone));
            }
            Some(Ended::Limit) => record.metrics().limit_hit(Limit::FirstFlight),
            Some(Ended::Closed | Ended::Deadline) | None => {}
        }
    }
}

/// A refusal that fell without a byte still waits for the client's first ones, so that it can
/// be told in its own protocol.
pub(super) async fn shaped(
    mut refusal: Box<Refusal>,
    client: &TcpSocket,
    seen: &mut FirstFlight,
    subject: Subject,
    session: &mut Session,
) -> Rejection {
    if session.listener.silent {
        return Rejection::Refused(refusal);
    }
    // Whom nobody speaks to waits for the server, and is told at once. A client that is gone
    // meanwhile is refused all the same.
    let first = Instant::now() + session.listener.peek_timeout.min(FIRST_BYTE);
    let gone = seen.bytes().is_empty() && seen.more(client, Some(first)).await.is_err();
    if !gone
        && !seen.bytes().is_empty()
        && let Ok(subject) = read(client, seen, subject, session).await
    {
        session.label(&subject);
        refusal.protocol = subject.protocol;
    }
    Rejection::Refused(refusal)
}

/// Reads until `missing` has arrived, or there is a reason why no more will.
///
/// # Errors
/// The client broke the connection off.
pub(super) async fn read_until(
    missing: Missing,
    seen: &mut FirstFlight,
    client: &TcpSocket,
    deadline: Instant,
) -> io::Result<()> {
    loop {
        let before = seen.bytes().len();
        seen.more(client, Some(deadline)).await?;
        if seen.ended().is_some() || missing.has_come(seen.bytes(), before) {
            return Ok(());
        }
    }
}

/// How a first flight is counted.
pub(super) fn result(identity: &Identity<'_>, seen: &FirstFlight) -> Hello {
    match (identity.fault, identity.name, identity.protocol) {
        _ if seen.bytes().is_empty() => Hello::Silent,
        (Some(_), ..) => Hello::Malformed,
        (None, Some(_), _) => Hello::Named,
        (None, None, Protocol::Other) => Hello::Other,
        (None, None, Protocol::Tls | Protocol::Http | Protocol::Quic | Protocol::Dtls) => {
            Hello::Nameless
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test(flavor = "local")]
    async fn every_byte_is_kept_in_order_and_the_end_is_told() {
        let (mut client, server) = TcpSocket::pair().await;
        let mut seen = FirstFlight::default();
        for byte in 0..50_u8 {
            client.write_all(&[byte]).await.unwrap();
            while seen.bytes().len() < usize::from(byte) + 1 {
                seen.more(&server, None).await.unwrap();
            }
        }
        client.shutdown().await.unwrap();
        while seen.ended().is_none() {
            seen.more(&server, None).await.unwrap();
        }
        assert_eq!(seen.ended(), Some(Ended::Closed));
        assert!(seen.bytes().iter().copied().eq(0..50));
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn silence_ends_at_the_deadline() {
        let (_client, server) = TcpSocket::pair().await;
        let mut seen = FirstFlight::default();
        let deadline = Instant::now() + Duration::from_secs(3);
        seen.more(&server, Some(deadline)).await.unwrap();
        assert_eq!(seen.ended(), Some(Ended::Deadline));
        assert_eq!(seen.bytes.capacity(), 0, "a silent client costs no buffer");
    }

    #[tokio::test(flavor = "local")]
    async fn a_client_that_never_stops_reaches_the_limit() {
        let (mut client, server) = TcpSocket::pair().await;
        let flood = tokio::spawn(async move {
            let zeros = vec![0; 4096];
            while client.write_all(&zeros).await.is_ok() {}
        });
        let mut seen = FirstFlight::default();
        while seen.ended().is_none() {
            seen.more(&server, None).await.unwrap();
        }
        assert_eq!(seen.ended(), Some(Ended::Limit));
        assert_eq!(seen.bytes().len(), SEEN_MAX);
        drop(server);
        flood.await.unwrap();
    }

    #[tokio::test(flavor = "local")]
    async fn a_reset_is_an_error() {
        let (client, server) = TcpSocket::pair().await;
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        assert!(FirstFlight::default().more(&server, None).await.is_err());
    }
}
