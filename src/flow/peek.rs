//! The first bytes of a connection, under one deadline and one bound. Interprets nothing.

use std::io;

use tokio::time::{Instant, timeout_at};

use super::relay::read_shared;
use super::wire::Wire;

/// The most bytes that are read before a verdict: 64 KiB of handshake, which is more than any
/// hello may have, and room for the headers of the records it is split over.
pub(super) const SEEN_MAX: usize = 72 * 1024;

/// The most reads: a hello of the largest size sent byte by byte costs no more than this.
const READS_MAX: u32 = 16 * 1024;

/// What a client has sent, from byte 0. Nothing is held before the first byte.
#[derive(Debug, Default)]
pub(super) struct Seen {
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

impl Seen {
    /// Starts with bytes that were read elsewhere.
    pub(super) fn with(bytes: Vec<u8>) -> Self {
        Self { bytes, ..Self::default() }
    }

    /// The bytes so far.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
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
        client: &Wire,
        deadline: Option<Instant>,
    ) -> io::Result<()> {
        if !self.bytes.is_empty() {
            client.prompt();
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (TcpStream, Wire) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, Wire::new(listener.accept().await.unwrap().0))
    }

    #[tokio::test(flavor = "local")]
    async fn every_byte_is_kept_in_order_and_the_end_is_told() {
        let (mut client, server) = pair().await;
        let mut seen = Seen::default();
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
        let (_client, server) = pair().await;
        let mut seen = Seen::default();
        let deadline = Instant::now() + Duration::from_secs(3);
        seen.more(&server, Some(deadline)).await.unwrap();
        assert_eq!(seen.ended(), Some(Ended::Deadline));
        assert_eq!(seen.bytes.capacity(), 0, "a silent client costs no buffer");
    }

    #[tokio::test(flavor = "local")]
    async fn a_client_that_never_stops_reaches_the_limit() {
        let (mut client, server) = pair().await;
        let flood = tokio::spawn(async move {
            let zeros = vec![0; 4096];
            while client.write_all(&zeros).await.is_ok() {}
        });
        let mut seen = Seen::default();
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
        let (client, server) = pair().await;
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        assert!(Seen::default().more(&server, None).await.is_err());
    }
}
