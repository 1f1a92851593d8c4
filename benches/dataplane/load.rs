//! Both ends of the measured connections: the world's server and the clients' load.
//!
//! A client opens with a TLS hello that names [`HOST`], and 9 bytes behind it that say what the
//! server has to do: a letter and a count, big-endian. Nothing else is TLS.

use std::io::{self, BufRead, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

/// The name in every hello.
pub(crate) const HOST: &str = "www.example.com";

/// Bytes of an order behind the hello.
const ORDER: usize = 9;

/// Threads that accept; each serves short exchanges itself.
const ACCEPTORS: usize = 32;

/// What the server is to do, after it has read the hello.
#[derive(Clone, Copy)]
pub(crate) enum Order {
    /// Send this many bytes and close.
    Down(u64),
    /// Send this many bytes, and close once the client has.
    Answer(u64),
    /// Read this many bytes, send one, close.
    Up(u64),
    /// Send back whatever comes, 64 bytes at a time.
    Echo,
    /// Send 64 bytes back, then stay silent until the client goes.
    Keep,
}

impl Order {
    fn bytes(self) -> [u8; ORDER] {
        let (letter, count) = match self {
            Self::Down(count) => (b'D', count),
            Self::Answer(count) => (b'A', count),
            Self::Up(count) => (b'U', count),
            Self::Echo => (b'E', 0),
            Self::Keep => (b'K', 0),
        };
        let mut bytes = [letter; ORDER];
        bytes[1..].copy_from_slice(&count.to_be_bytes());
        bytes
    }
}

/// A ClientHello (RFC 8446 §4.1.2) with an order behind it, `size` bytes together; the padding
/// extension (RFC 7685) fills it up.
fn opening(size: usize, order: Order) -> Vec<u8> {
    fn counted(width: usize, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u64).to_be_bytes();
        [&length[8 - width..], body].concat()
    }
    let name = counted(2, &[&[0][..], &counted(2, HOST.as_bytes())].concat());
    let extension = |kind: u16, body: &[u8]| [&kind.to_be_bytes()[..], &counted(2, body)].concat();
    let mut extensions = [
        extension(0, &name),
        extension(43, &[2, 3, 4]),
        extension(16, &counted(2, &counted(1, b"h2"))),
    ]
    .concat();
    let fixed = 5 + 4 + 2 + 32 + 33 + 4 + 2 + 2 + 4 + ORDER;
    extensions.extend(extension(21, &vec![0; size - fixed - extensions.len()]));
    let body = [
        &[3, 3][..],
        &[7; 32],
        &counted(1, &[9; 32]),
        &counted(2, &[0x13, 0x01]),
        &[1, 0],
        &counted(2, &extensions),
    ]
    .concat();
    let handshake = [&[1][..], &counted(3, &body)].concat();
    let all = [&[22, 3, 1][..], &counted(2, &handshake), &order.bytes()].concat();
    assert_eq!(all.len(), size);
    all
}

/// Serves on a port for ever. Prints `ready` when it listens.
pub(crate) fn serve(port: u16) -> io::Result<()> {
    let listener = Arc::new(TcpListener::bind(("0.0.0.0", port))?);
    println!("ready");
    let (keep, kept) = channel();
    thread::spawn(move || keep_all(&kept));
    let acceptors: Vec<_> = (0..ACCEPTORS)
        .map(|_| {
            let (listener, keep) = (Arc::clone(&listener), keep.clone());
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    // A client that leaves early is the load's business, which will say so.
                    take(stream, &keep).ok();
                }
            })
        })
        .collect();
    acceptors.into_iter().for_each(|acceptor| acceptor.join().expect("an acceptor ended"));
    Ok(())
}

/// Holds connections without a thread for each, until their clients go.
fn keep_all(more: &Receiver<TcpStream>) {
    let mut kept: Vec<TcpStream> = Vec::new();
    loop {
        match more.recv_timeout(Duration::from_secs(1)) {
            Ok(stream) => kept.push(stream),
            Err(RecvTimeoutError::Timeout) => kept.retain_mut(|stream| {
                stream.read(&mut [0]).is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
            }),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn take(mut stream: TcpStream, keep: &Sender<TcpStream>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let mut rest = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]])) + ORDER];
    stream.read_exact(&mut rest)?;
    let order = &rest[rest.len() - ORDER..];
    let count = u64::from_be_bytes(order[1..].try_into().expect("eight bytes"));
    match order[0] {
        b'D' if count < 4096 => stream.write_all(&vec![1; count as usize]),
        b'A' if count < 4096 => {
            stream.write_all(&vec![1; count as usize])?;
            stream.read(&mut [0]).map(drop)
        }
        b'K' => {
            let mut message = [0; 64];
            stream.read_exact(&mut message)?;
            stream.write_all(&message)?;
            stream.set_nonblocking(true)?;
            keep.send(stream).map_err(io::Error::other)
        }
        letter => thread::Builder::new()
            .stack_size(128 * 1024)
            .spawn(move || obey(stream, letter, count).ok())
            .map(drop),
    }
}

fn obey(mut stream: TcpStream, letter: u8, mut count: u64) -> io::Result<()> {
    match letter {
        b'D' => {
            let block = vec![1; 256 * 1024];
            while count > 0 {
                let part = (block.len() as u64).min(count);
                stream.write_all(&block[..part as usize])?;
                count -= part;
            }
            Ok(())
        }
        b'U' => {
            swallow(&mut stream, count)?;
            stream.write_all(&[1])
        }
        _ => {
            let mut message = [0; 64];
            loop {
                stream.read_exact(&mut message)?;
                stream.write_all(&message)?;
            }
        }
    }
}

fn swallow(stream: &mut TcpStream, mut count: u64) -> io::Result<()> {
    let mut block = vec![0; 256 * 1024];
    while count > 0 {
        let read = stream.read(&mut block)? as u64;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        count = count.saturating_sub(read);
    }
    Ok(())
}

fn dial(to: SocketAddr, hello: usize, order: Order) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(10))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.set_nodelay(true)?;
    stream.write_all(&opening(hello, order))?;
    Ok(stream)
}

/// One load, by its words; prints one line: seconds it took, and the median and the 99th percentile
/// of its parts in microseconds (of a connection or a round trip).
pub(crate) fn run(words: &[String]) -> io::Result<()> {
    let [kind, to, threads, each, size] = words else {
        return Err(io::Error::other("load KIND TO THREADS EACH SIZE"));
    };
    let number = |word: &str| word.parse::<u64>().map_err(io::Error::other);
    let (threads, each, size) = (number(threads)?, number(each)?, number(size)?);
    if let Some((to, other)) = to.split_once(',') {
        let [to, other] = [to, other].map(|to| to.parse().map_err(io::Error::other));
        return in_turn(to?, other?, each, size as usize);
    }
    let to: SocketAddr = to.parse().map_err(io::Error::other)?;
    if kind == "hold" {
        return hold(to, threads);
    }
    let start = Arc::new(Barrier::new(threads as usize + 1));
    let loads: Vec<_> = (0..threads)
        .map(|number| {
            let start = Arc::clone(&start);
            let kind = match kind.as_str() {
                "both" => ["down", "up"][number as usize % 2],
                kind => kind,
            };
            let kind = kind.to_owned();
            thread::spawn(move || one(&kind, to, each, size, threads, &start))
        })
        .collect();
    start.wait();
    let begun = Instant::now();
    let mut parts = Vec::new();
    for load in loads {
        parts.extend(load.join().map_err(|_| io::Error::other("a load ended in a panic"))??);
    }
    let took = begun.elapsed().as_secs_f64();
    parts.sort_unstable();
    let at = |rank: usize| parts.get(rank).map_or(0.0, |part| part.as_nanos() as f64 / 1e3);
    println!("{took} {} {}", at(parts.len() / 2), at(parts.len() * 99 / 100));
    Ok(())
}

fn one(
    kind: &str,
    to: SocketAddr,
    each: u64,
    size: u64,
    threads: u64,
    start: &Barrier,
) -> io::Result<Vec<Duration>> {
    let mut parts = Vec::new();
    match kind {
        // As many as can be, or 1,000 a second over all threads, each counted from when it was due.
        "connect" | "leave" | "rate" => {
            start.wait();
            let first = Instant::now();
            for number in 0..each {
                let mut begun = Instant::now();
                if kind == "rate" {
                    let due = first + Duration::from_millis(number * threads);
                    thread::sleep(due.saturating_duration_since(begun));
                    begun = due;
                }
                let order = if kind == "leave" { Order::Answer } else { Order::Down };
                parts.push(first_byte(to, size as usize, order, begun)?);
            }
        }
        "down" => {
            start.wait();
            swallow(&mut dial(to, 517, Order::Down(size))?, size)?;
        }
        "up" => {
            start.wait();
            let mut stream = dial(to, 517, Order::Up(size))?;
            let block = vec![1; 256 * 1024];
            let mut count = size;
            while count > 0 {
                let part = (block.len() as u64).min(count);
                stream.write_all(&block[..part as usize])?;
                count -= part;
            }
            swallow(&mut stream, 1)?;
        }
        _ => {
            let mut stream = dial(to, 517, Order::Echo)?;
            let mut message = [5; 64];
            stream.write_all(&message)?;
            stream.read_exact(&mut message)?;
            start.wait();
            for _ in 0..each {
                let begun = Instant::now();
                stream.write_all(&message)?;
                stream.read_exact(&mut message)?;
                parts.push(begun.elapsed());
            }
        }
    }
    Ok(parts)
}

/// Opens a connection, and reads what the server sends: to its end, or so far that the client closes
/// first. Time from `begun` to its first byte.
fn first_byte(
    to: SocketAddr,
    hello: usize,
    order: fn(u64) -> Order,
    begun: Instant,
) -> io::Result<Duration> {
    let order = order(100);
    let mut stream = dial(to, hello, order)?;
    let mut answer = [0; 100];
    stream.read_exact(&mut answer[..1])?;
    let waited = begun.elapsed();
    stream.read_exact(&mut answer[1..])?;
    // Where the server closes first, no port of the gateway waits.
    if matches!(order, Order::Down(_)) && stream.read(&mut answer)? != 0 {
        return Err(io::Error::other("more than was ordered"));
    }
    Ok(waited)
}

/// Opens connections to two in turn, each as often first as second; prints as [`run`] does how much
/// later the first byte comes through the first of the two, which may be earlier.
fn in_turn(to: SocketAddr, other: SocketAddr, pairs: u64, size: usize) -> io::Result<()> {
    let begun = Instant::now();
    let mut later = Vec::new();
    for number in 0..pairs {
        let wait = |to| {
            first_byte(to, size, Order::Down, Instant::now()).map(|waited| waited.as_nanos() as f64)
        };
        let (one, two) = if number % 2 == 0 {
            let one = wait(to)?;
            (one, wait(other)?)
        } else {
            let two = wait(other)?;
            (wait(to)?, two)
        };
        later.push((one - two) / 1e3);
    }
    let took = begun.elapsed().as_secs_f64();
    later.sort_by(f64::total_cmp);
    let at = |rank: usize| later.get(rank).copied().unwrap_or_default();
    println!("{took} {} {}", at(later.len() / 2), at(later.len() * 99 / 100));
    Ok(())
}

/// Opens connections, has one message go both ways in each, and holds them until its input ends.
fn hold(to: SocketAddr, count: u64) -> io::Result<()> {
    let mut held = Vec::new();
    for _ in 0..count {
        let mut stream = dial(to, 517, Order::Keep)?;
        let mut message = [5; 64];
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        held.push(stream);
    }
    println!("held");
    io::stdin().lock().read_line(&mut String::new())?;
    Ok(())
}
