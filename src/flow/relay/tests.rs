use std::future::ready;
use std::os::fd::AsFd;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, spawn_local};

use super::*;

const LONG: Duration = Duration::from_secs(3600);

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (client, listener.accept().await.unwrap().0)
}

/// Client end, destination end, and the relay between them.
async fn relay(first: &[u8], idle: Duration) -> (TcpStream, TcpStream, JoinHandle<Outcome>) {
    let ((client, near), (far, server)) = (pair().await, pair().await);
    let first = first.to_vec();
    let task = spawn_local(async move {
        let bytes = Bytes::default();
        let timeouts = IdleTimeouts { idle, half_closed: idle / 4 };
        let (near, far) = (TcpSocket::new(near), TcpSocket::new(far));
        let end = run(&near, &far, ready(Ok(first)), timeouts, &bytes).await;
        (end, bytes.totals())
    });
    (client, server, task)
}

type Outcome = (End, (u64, u64));

#[tokio::test(flavor = "local")]
async fn the_first_bytes_arrive_first_and_both_half_closes_arrive() {
    let (mut client, mut server, relay) = relay(b"hello ", LONG).await;
    client.write_all(b"world").await.unwrap();
    client.shutdown().await.unwrap();
    let mut request = String::new();
    server.read_to_string(&mut request).await.unwrap();
    assert_eq!(request, "hello world");
    server.write_all(b"an answer after the request's end").await.unwrap();
    server.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "an answer after the request's end");
    assert_eq!(relay.await.unwrap(), (End::Done, (11, 33)));
}

#[tokio::test(flavor = "local")]
async fn the_destination_may_close_first() {
    let (mut client, mut server, relay) = relay(b"", LONG).await;
    server.write_all(b"banner").await.unwrap();
    server.shutdown().await.unwrap();
    let mut banner = String::new();
    client.read_to_string(&mut banner).await.unwrap();
    client.write_all(b"still listening?").await.unwrap();
    client.shutdown().await.unwrap();
    let mut rest = String::new();
    server.read_to_string(&mut rest).await.unwrap();
    assert_eq!((banner.as_str(), rest.as_str()), ("banner", "still listening?"));
    assert_eq!(relay.await.unwrap(), (End::Done, (16, 6)));
}

#[tokio::test(flavor = "local")]
async fn a_reset_of_one_side_is_a_reset_of_the_other() {
    for client_breaks in [true, false] {
        let (client, server, relay) = relay(b"", LONG).await;
        let (breaks, mut sees) = if client_breaks { (client, server) } else { (server, client) };
        SockRef::from(&breaks).set_linger(Some(Duration::ZERO)).unwrap();
        drop(breaks);
        let seen = sees.read(&mut [0; 8]).await;
        assert_eq!(seen.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let end = if client_breaks { End::ClientReset } else { End::UpstreamReset };
        assert_eq!(relay.await.unwrap().0, end);
    }
}

#[tokio::test(flavor = "local")]
async fn a_reset_after_a_half_close_is_seen_without_a_write() {
    let (mut client, mut server, relay) = relay(b"", LONG).await;
    client.shutdown().await.unwrap();
    assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    assert_eq!(relay.await.unwrap().0, End::ClientReset);
}

/// Says its last words and breaks off with a reset, both before anybody else has a turn.
fn break_off(stream: TcpStream, words: &[u8]) {
    let socket = SockRef::from(&stream);
    assert_eq!(socket.send(words).unwrap(), words.len());
    socket.set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// All that comes, and whether the end is one in order.
async fn hear_out(stream: &mut TcpStream) -> (Vec<u8>, bool) {
    let mut all = Vec::new();
    let end = stream.read_to_end(&mut all).await;
    (all, end.is_ok())
}

// Where an end goes unseen, the clock is put forward and the relay ends as idle.
#[tokio::test(flavor = "local", start_paused = true)]
async fn l01_a_reset_that_comes_with_data_ends_the_relay_and_the_data_arrives() {
    for round in 0..100 {
        let (mut client, mut server, relay) = relay(b"", LONG).await;
        for (from, to) in [(true, b"c"), (false, b"s")] {
            let (from, to_whom) =
                if from { (&mut client, &mut server) } else { (&mut server, &mut client) };
            from.write_all(to).await.unwrap();
            to_whom.read_exact(&mut [0]).await.unwrap();
        }
        let client_breaks = round % 2 == 0;
        let (breaks, mut sees) = if client_breaks { (client, server) } else { (server, client) };
        break_off(breaks, b"last words");
        assert_eq!(hear_out(&mut sees).await, (b"last words".to_vec(), false), "{round}");
        let end = if client_breaks { End::ClientReset } else { End::UpstreamReset };
        let bytes = if client_breaks { (11, 1) } else { (1, 11) };
        assert_eq!(relay.await.unwrap(), (end, bytes), "{round}");
    }
}

#[tokio::test(flavor = "local")]
async fn l02_an_early_answer_arrives_whole_though_its_server_reads_no_more() {
    for in_order in [false, true] {
        for _ in 0..30 {
            let (client, mut server, relay) = relay(b"", LONG).await;
            let (mut from, mut to) = client.into_split();
            let uploads = spawn_local(async move {
                // Ends in a reset at the latest when the answer has arrived.
                to.write_all(&vec![7; 8_000_000]).await.ok();
                to
            });
            server.read_exact(&mut [0; 100]).await.unwrap();
            server.write_all(&[1; 20_000]).await.unwrap();
            if in_order {
                server.shutdown().await.unwrap();
            }
            // Of what lies unread the kernel makes a reset.
            server.readable().await.unwrap();
            drop(server);
            // Only who is through with the upload reads the answer.
            let to = uploads.await.unwrap();
            let mut answer = Vec::new();
            from.read_to_end(&mut answer).await.ok();
            assert!(answer == [1; 20_000], "{} bytes", answer.len());
            drop((from, to));
            assert_eq!(relay.await.unwrap().0, End::UpstreamReset);
        }
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn l02_an_acknowledged_answer_is_not_cut_by_the_reset_behind_it() {
    let (mut client, mut server, relay) = relay(b"", LONG).await;
    let answer = vec![1; 2_000_000];
    let sends = spawn_local(async move {
        server.write_all(&answer).await.unwrap();
        while crate::sys::unacknowledged(SockRef::from(&server).as_fd()).unwrap() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
        break_off(server, b"!");
    });
    let (mut got, mut block) = (0, vec![0; 65_536]);
    let end = loop {
        match client.read(&mut block).await {
            Ok(0) => break None,
            Ok(read) => got += read,
            Err(fault) => break Some(fault.kind()),
        }
        sleep(Duration::from_secs(20)).await;
    };
    assert_eq!(got, 2_000_001);
    assert_eq!(end, Some(io::ErrorKind::ConnectionReset), "it must not look complete");
    sends.await.unwrap();
    assert_eq!(relay.await.unwrap(), (End::UpstreamReset, (0, 2_000_001)));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn l02_who_does_not_take_the_last_bytes_is_waited_for_as_long_as_a_half_closed_one() {
    let (_client, mut server, relay) = relay(b"", Duration::from_secs(60)).await;
    let mut sent = 0;
    while let Ok(Ok(count)) =
        tokio::time::timeout(Duration::from_secs(1), server.write(&[1; 65_536])).await
    {
        sent += count;
    }
    let begun = Instant::now();
    SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
    drop(server);
    let (end, (_, down)) = relay.await.unwrap();
    assert_eq!(end, End::UpstreamReset);
    assert!(down < sent as u64, "the client held it back");
    let took = begun.elapsed().as_secs();
    assert!((14..=16).contains(&took), "{took} s");
}

/// A sequence of numbers that nobody sends by chance (xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }
}

async fn send(mut to: tokio::net::tcp::OwnedWriteHalf, seed: u64, total: usize) -> Vec<u8> {
    let mut chance = Chance(seed);
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    let mut left = total;
    while left > 0 {
        // Mostly small messages, now and then enough to fill every buffer on the way.
        let most = [100, 5_000, 70_000, 3_000_000][chance.below(4)];
        let chunk: Vec<u8> = (0..left.min(1 + chance.below(most)))
            .map(|at| u8::try_from((at ^ left) % 251).unwrap())
            .collect();
        digest.update(&chunk);
        left -= chunk.len();
        to.write_all(&chunk).await.unwrap();
        for _ in 0..chance.below(20) {
            tokio::task::yield_now().await;
        }
    }
    to.shutdown().await.unwrap();
    digest.finish().as_ref().to_vec()
}

async fn receive(mut from: tokio::net::tcp::OwnedReadHalf, seed: u64) -> (usize, Vec<u8>) {
    let mut chance = Chance(seed);
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    let mut total = 0;
    let mut buffer = vec![0; 200_000];
    loop {
        let room = 1 + chance.below(buffer.len());
        let read = from.read(&mut buffer[..room]).await.unwrap();
        if read == 0 {
            return (total, digest.finish().as_ref().to_vec());
        }
        digest.update(&buffer[..read]);
        total += read;
        // A reader that stalls, so that pipes and socket buffers are full when the end comes.
        for _ in 0..chance.below(60) * chance.below(2) {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "local")]
async fn every_byte_arrives_once_and_in_order_whatever_the_sizes_and_stalls() {
    for seed in 1..=12_u64 {
        let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (up, down) = (chance.below(9_000_000), chance.below(9_000_000));
        let (client, server, relay) = relay(b"", LONG).await;
        let ((from_relay, to_relay), (from_far, to_far)) =
            (client.into_split(), server.into_split());
        let (sent_up, sent_down) =
            (spawn_local(send(to_relay, seed, up)), spawn_local(send(to_far, seed + 99, down)));
        let (got_up, got_down) =
            tokio::join!(receive(from_far, seed + 7), receive(from_relay, seed + 8));
        assert_eq!(got_up, (up, sent_up.await.unwrap()), "seed {seed}");
        assert_eq!(got_down, (down, sent_down.await.unwrap()), "seed {seed}");
        let outcome = relay.await.unwrap();
        assert_eq!(outcome, (End::Done, (up as u64, down as u64)), "seed {seed}");
        assert_eq!(LENT.get(), 0, "no pipe is held any more");
    }
    assert!(SPARE.with_borrow(Vec::len) > 0, "bulk went through pipes");
}

#[tokio::test(flavor = "local")]
async fn a_stalled_reader_holds_no_more_pipes_than_may_be_lent() {
    let places: Vec<_> = std::iter::from_fn(PipePermit::take).collect();
    assert_eq!(places.len(), PIPES_MAX);
    assert!(PooledPipe::take().is_none());
    drop(places);
    assert_eq!(LENT.get(), 0);
}

#[tokio::test(flavor = "local")]
async fn bytes_behind_an_urgent_one_are_not_left_lying() {
    let (mut client, mut server, relay) = relay(b"", LONG).await;
    client.write_all(b"before").await.unwrap();
    let mut word = [0; 6];
    server.read_exact(&mut word).await.unwrap();
    // Everything is on its way before the relay has a turn to read.
    let socket = SockRef::from(&client);
    assert_eq!(socket.send_out_of_band(b"ab!").unwrap(), 3);
    assert_eq!(socket.send(b"after").unwrap(), 5);
    let mut rest = [0; 7];
    server.read_exact(&mut rest).await.unwrap();
    assert_eq!(&rest, b"abafter");
    drop(client);
    drop(server);
    relay.await.unwrap();
}

#[tokio::test(flavor = "local")]
async fn an_urgent_byte_in_bulk_costs_no_other_byte() {
    for (ends, seed) in [(true, 1), (false, 2), (true, 3), (false, 4)] {
        let (client, mut server, relay) = relay(b"", LONG).await;
        // So large that pipes are in use, and more than the sockets hold.
        let bulk: Vec<u8> = (0..4_000_000 + seed).map(|at: u32| (at % 251) as u8).collect();
        let (mut from, mut to) = client.into_split();
        let sent = bulk.clone();
        let sending = spawn_local(async move {
            let (before, behind) = sent.split_at(3_999_000);
            to.write_all(before).await.unwrap();
            let socket = SockRef::from(to.as_ref());
            assert_eq!(socket.send_out_of_band(b"!").unwrap(), 1);
            to.write_all(behind).await.unwrap();
            if ends {
                to.shutdown().await.unwrap();
            }
            to
        });
        let mut all = vec![0; bulk.len()];
        server.read_exact(&mut all).await.unwrap();
        assert!(all == bulk, "bytes are lost or out of order");
        server.write_all(b"got it").await.unwrap();
        let mut answer = [0; 6];
        from.read_exact(&mut answer).await.unwrap();
        drop((from, sending.await.unwrap(), server));
        relay.await.unwrap();
    }
}

#[tokio::test(flavor = "local")]
async fn a_destination_that_does_not_read_holds_the_client_back() {
    let (client, mut server, relay) = relay(b"", LONG).await;
    let chunk = vec![7; BUFFER];
    let mut sent = 0_u64;
    // A client that is not held back would go on for ever; one that is stops being writable.
    let mut full = 0;
    while full < 100 {
        match client.try_write(&chunk) {
            Ok(written) => (sent, full) = (sent + written as u64, 0),
            Err(_) => full += 1,
        }
        tokio::task::yield_now().await;
    }
    let reader = spawn_local(async move {
        let mut all = Vec::new();
        server.read_to_end(&mut all).await.unwrap();
        all.len() as u64
    });
    drop(client);
    assert_eq!(reader.await.unwrap(), sent);
    assert_eq!(relay.await.unwrap(), (End::Done, (sent, 0)));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn an_idle_relay_ends_in_a_reset() {
    let (mut client, _server, relay) = relay(b"", Duration::from_secs(60)).await;
    assert_eq!(relay.await.unwrap().0, End::Idle);
    let seen = client.read(&mut [0; 8]).await;
    assert_eq!(seen.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_half_closed_relay_is_kept_for_less_long() {
    let (mut client, mut server, relay) = relay(b"", Duration::from_secs(60)).await;
    let begun = Instant::now();
    client.shutdown().await.unwrap();
    assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
    assert_eq!(relay.await.unwrap().0, End::Idle);
    assert!((15..=16).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "local")]
async fn nothing_of_the_client_passes_before_the_opening_ends() {
    let ((mut client, near), (far, mut server)) = (pair().await, pair().await);
    client.write_all(b"early").await.unwrap();
    server.write_all(b"banner").await.unwrap();
    let (open, opened) = tokio::sync::oneshot::channel();
    let relay = spawn_local(async move {
        let (near, far) = (TcpSocket::new(near), TcpSocket::new(far));
        let opening = Box::pin(async { opened.await.map_err(|_| End::Refused) });
        run(&near, &far, opening, IdleTimeouts::even(LONG), &Bytes::default()).await
    });
    let mut banner = [0; 6];
    client.read_exact(&mut banner).await.unwrap();
    assert_eq!(&banner, b"banner", "the server may speak first");
    let nothing = server.try_read(&mut [0; 8]).unwrap_err();
    assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    open.send(b"judged ".to_vec()).unwrap();
    client.shutdown().await.unwrap();
    let mut all = String::new();
    server.read_to_string(&mut all).await.unwrap();
    assert_eq!(all, "judged early");
    drop(server);
    assert_eq!(relay.await.unwrap(), End::Done);
}
