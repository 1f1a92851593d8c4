//! Closes a socket in stages (RFC 9112 §9.6), so that the last bytes arrive: to close one on which
//! unread bytes lie is a reset, which destroys what its peer has not taken yet.

use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::buffer::read_shared;
use super::idle::IdleTimer;
use super::socket::TcpSocket;

/// Time until the first look at what was acknowledged; doubled from the first to the last.
pub(crate) const FIRST_LOOK: Duration = Duration::from_millis(1);
pub(crate) const LAST_LOOK: Duration = Duration::from_millis(64);

/// One read's worth of what is dropped.
const PART: usize = 64 * 1024;

/// What a close in stages may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Time in which nothing is acknowledged and nothing comes.
    pub(crate) silence: Duration,
    /// Time in all.
    pub(crate) time: Duration,
    /// Bytes that the peer may still send, and that are dropped.
    pub(crate) bytes: usize,
}

/// Says that no more bytes follow, drops what the peer still sends until it closes as well, and has
/// the socket closed in order; whether the peer's kernel acknowledged everything. Where it did not
/// within `bounds`, the socket ends in a reset, as one does that broke off.
pub(crate) async fn in_stages(socket: &TcpSocket, bounds: &Bounds) -> bool {
    if socket.half_close().is_err() {
        return false;
    }
    let until = Instant::now() + bounds.time;
    let heard = IdleTimer::start();
    let mut left = socket.unacknowledged();
    let mut pause = FIRST_LOOK;
    let (mut dropped, mut is_open) = (0, true);
    loop {
        let now = Instant::now();
        let unacknowledged = socket.unacknowledged();
        if unacknowledged < left {
            left = unacknowledged;
            heard.touch();
        }
        let due = until.min(heard.due(bounds.silence));
        if (left == 0 && !is_open) || now >= due || dropped >= bounds.bytes {
            break;
        }
        let look = if left == 0 { due } else { due.min(now + pause) };
        pause = (pause * 2).min(LAST_LOOK);
        if !is_open {
            sleep_until(look).await;
            continue;
        }
        match timeout_at(look, socket.readable()).await {
            Err(_) => continue,
            Ok(Ok(())) => {}
            Ok(Err(_)) => is_open = false,
        }
        match read_shared(socket, PART, |_| ()) {
            Ok(0) => is_open = false,
            Ok(read) => {
                dropped += read;
                heard.touch();
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            // Who broke off may have taken everything before.
            Err(_) => return socket.unacknowledged() == 0,
        }
    }
    let arrived = socket.unacknowledged() == 0;
    if arrived {
        socket.end_in_order();
    }
    arrived
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::spawn_local;

    use super::*;

    const LONG: Bounds = Bounds {
        silence: Duration::from_secs(600),
        time: Duration::from_secs(3600),
        bytes: usize::MAX,
    };

    #[tokio::test(flavor = "local")]
    async fn l02_an_answer_arrives_whole_though_its_client_goes_on_sending() {
        let (client, socket) = TcpSocket::pair().await;
        let (mut from, mut to) = client.into_split();
        let sending = spawn_local(async move {
            let body = vec![7; 8_000_000];
            to.write_all(&body).await.unwrap();
            to
        });
        let closed = spawn_local(async move {
            socket.write_all(&[1; 20_000]).await.unwrap();
            in_stages(&socket, &LONG).await
        });
        // The whole upload first, as a client does that reads the answer only then.
        let to = sending.await.unwrap();
        let mut answer = Vec::new();
        from.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, [1; 20_000]);
        drop((from, to));
        assert!(closed.await.unwrap());
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn a_slow_reader_has_the_tail_and_one_that_stalls_is_not_waited_for() {
        for reads in [true, false] {
            let (mut client, socket) = TcpSocket::pair().await;
            let mut sent = 0;
            while let Ok(count) = socket.send(&[1; 65_536], false) {
                sent += count;
            }
            let bounds = Bounds { silence: Duration::from_secs(5), ..LONG };
            let closed = spawn_local(async move { in_stages(&socket, &bounds).await });
            if !reads {
                assert!(!closed.await.unwrap());
                continue;
            }
            let (mut got, mut block) = (0, vec![0; 65_536]);
            loop {
                // What the kernel does takes its own time: a clock that is put forward meanwhile would be
                // a silence.
                tokio::time::resume();
                match client.read(&mut block).await.unwrap() {
                    0 => break,
                    read => got += read,
                }
                tokio::time::pause();
                // Longer in all than any silence may last.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            assert_eq!(got, sent);
            drop(client);
            assert!(closed.await.unwrap());
            tokio::time::pause();
        }
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn what_is_dropped_is_bounded_by_bytes_and_by_time() {
        let (mut client, socket) = TcpSocket::pair().await;
        let bounds = Bounds { bytes: 100_000, ..LONG };
        let closed = spawn_local(async move { in_stages(&socket, &bounds).await });
        let body = vec![7; 65_536];
        while client.write_all(&body).await.is_ok() {}
        assert!(closed.await.unwrap(), "there was nothing that had to arrive");
        let (_client, socket) = TcpSocket::pair().await;
        let begun = Instant::now();
        in_stages(&socket, &Bounds { silence: Duration::from_secs(2), ..LONG }).await;
        // The clock may be put forward before the kernel has acknowledged the FIN, once.
        assert!((2..=4).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    }
}
