//! What the helper processes do: the world that listens and counts, the client that connects, and
//! a stand-in that shows where the rules deliver.

use std::collections::BTreeMap;
use std::env;
use std::io::{self, BufRead, Read, Write};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket,
};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection};
use schengate::control::capture::{Capture, Form};
use schengate::control::config::{Listen, ListenMode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::names::NameServer;
use super::{NAME_SERVER, PERMITTED, REFUSED, answers, services, strange};

/// Name of the test that is a helper process where [`VARIABLE`] says so.
pub(crate) const TEST: &str = "a_helper_process_does_as_its_role_says";
/// Environment variable that names the role.
pub(crate) const VARIABLE: &str = "SCHENGATE_LAB_ROLE";
/// What an answer begins with.
pub(crate) const ANSWER: &str = "@answer ";

/// Port on which the world hashes what it gets and sends what it is asked for.
pub(crate) const EXCHANGE: u16 = 9000;
/// Port on which the world speaks first.
pub(crate) const BANNER: u16 = 25;
/// Ports on which the world counts datagrams and sends them back.
pub(crate) const UDP: [u16; 2] = [443, 9000];
/// A datagram to which the world answers with whom it sees, as STUN does.
pub(crate) const WHO: &[u8] = b"who";
/// Port on which the world greets with one byte and then stays silent.
pub(crate) const SILENCE: u16 = 9001;
/// What the world's web servers say.
pub(crate) const GREETING: &str = "the world greets you";

/// Becomes the helper that the environment asks for, and never returns; else does nothing.
pub(crate) fn run_if_asked() {
    let Ok(role) = env::var(VARIABLE) else { return };
    schengate::sys::raise_descriptor_limit().expect("as many descriptors as are allowed");
    match role.as_str() {
        "world" => world(),
        "client" => {
            let (mut kept, mut streams) = (Kept::default(), Vec::new());
            serve(|question| {
                if question == "disperse" {
                    return json!(kept.crowd.drain(..).count());
                }
                let to = question["to"].as_str().unwrap().parse().unwrap();
                let strange = strange::ask(&mut streams, to, question);
                strange.unwrap_or_else(|| client(&mut kept, to, question))
            });
        }
        "stand-in" => stand_in(),
        "sealed" => serve(sealed),
        "holder" => strange::hold(),
        other => panic!("no role {other:?}"),
    }
    std::process::exit(0);
}

fn answer(value: &Value) {
    // One write, so that nothing of the test runner gets between.
    let line = format!("{ANSWER}{value}\n");
    io::stdout().write_all(line.as_bytes()).unwrap();
    io::stdout().flush().unwrap();
}

/// Answers questions until the test is gone.
pub(crate) fn serve(mut reply: impl FnMut(&Value) -> Value) {
    answer(&json!("ready"));
    for line in io::stdin().lock().lines() {
        answer(&reply(&serde_json::from_str(&line.unwrap()).unwrap()));
    }
}

#[derive(Clone, Copy, Default)]
struct Seen {
    connections: u64,
    bytes: u64,
}

/// What arrived where, and the hashes of each exchange.
#[derive(Default)]
struct Ledger {
    seen: BTreeMap<String, Seen>,
    exchanges: Vec<Value>,
    /// Every plain request, head and body, as it came.
    requests: Vec<String>,
    /// All that came to the servers that keep their connections.
    kept: String,
    silent: Vec<TcpStream>,
    names: NameServer,
}

type Shared = Arc<Mutex<Ledger>>;

fn note(ledger: &Shared, at: &str, connections: u64, bytes: usize) {
    let mut ledger = ledger.lock().unwrap();
    let seen = ledger.seen.entry(at.to_owned()).or_default();
    seen.connections += connections;
    seen.bytes += bytes as u64;
}

/// A connection whose every received byte is counted.
struct Counted {
    stream: TcpStream,
    at: String,
    ledger: Shared,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer)?;
        note(&self.ledger, &self.at, 0, read);
        Ok(read)
    }
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

fn world() {
    let ledger = Shared::default();
    let tls = server_config();
    for ip in [PERMITTED, REFUSED].concat() {
        let ip: IpAddr = ip.parse().unwrap();
        for port in [80, 443, EXCHANGE, BANNER, SILENCE].into_iter().chain(services::ports()) {
            let listener = TcpListener::bind((ip, port)).unwrap();
            let (ledger, tls) = (ledger.clone(), tls.clone());
            thread::spawn(move || {
                for stream in listener.incoming() {
                    let at = format!("tcp {}", SocketAddr::new(ip, port));
                    note(&ledger, &at, 1, 0);
                    let mut stream = stream.unwrap();
                    if port == SILENCE {
                        // Without a thread: there may be thousands of them. Under the lock, so that
                        // who has heard it is among those that can be let go.
                        let mut ledger = ledger.lock().unwrap();
                        if stream.write_all(b"!").is_ok() {
                            ledger.silent.push(stream);
                        }
                        continue;
                    }
                    let counted = Counted { stream, at, ledger: ledger.clone() };
                    let tls = tls.clone();
                    // A client may go away at any moment; what arrived is counted all the same.
                    thread::spawn(move || drop(world_connection(port, counted, tls)));
                }
            });
        }
        for port in UDP {
            let socket = UdpSocket::bind((ip, port)).unwrap();
            let ledger = ledger.clone();
            thread::spawn(move || {
                let at = format!("udp {}", SocketAddr::new(ip, port));
                let mut buffer = [0; 65_536];
                while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    note(&ledger, &at, 1, length);
                    let seen = from.to_string().into_bytes();
                    let whole = buffer[..length] == *WHO;
                    let reply = if whole { &seen[..] } else { &buffer[..length] };
                    drop(socket.send_to(reply, from));
                }
            });
        }
    }
    let names = UdpSocket::bind((NAME_SERVER, 53)).unwrap();
    let asked = ledger.clone();
    thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = names.recv_from(&mut buffer) {
            let reply = asked.lock().unwrap().names.reply(&buffer[..length]);
            if let Some(reply) = reply {
                drop(names.send_to(&reply, from));
            }
        }
    });
    serve(|question| {
        let mut ledger = ledger.lock().unwrap();
        match question.as_str() {
            Some("counts") => ledger
                .seen
                .iter()
                .map(|(at, seen)| {
                    let seen = json!({"connections": seen.connections, "bytes": seen.bytes});
                    (at.clone(), seen)
                })
                .collect(),
            Some("asked") => json!(ledger.names.asked),
            Some("let go") => json!(ledger.silent.drain(..).count()),
            Some("forget") => {
                ledger.names.asked.clear();
                json!("done")
            }
            Some("exchanges") => Value::Array(ledger.exchanges.clone()),
            Some("requests") => json!(ledger.requests),
            Some("kept") => json!(std::mem::take(&mut ledger.kept)),
            _ => panic!("the world does not understand {question}"),
        }
    });
}

fn world_connection(port: u16, mut stream: Counted, tls: Arc<ServerConfig>) -> io::Result<()> {
    match port {
        80 => {
            let ledger = Arc::clone(&stream.ledger);
            let seen = |request: &[u8]| String::from_utf8_lossy(request).into_owned();
            greet(stream, |request| ledger.lock().unwrap().requests.push(seen(request)))
        }
        443 => greet_over_tls(stream, tls),
        BANNER => speak_first(stream),
        services::SSH => services::ssh(&mut stream),
        answers::PORT => {
            let ledger = Arc::clone(&stream.ledger);
            answers::serve(stream.stream, |came| {
                ledger.lock().unwrap().kept.push_str(&String::from_utf8_lossy(came));
            })
        }
        services::KEPT => {
            let ledger = Arc::clone(&stream.ledger);
            services::keep(&mut stream, |came| {
                ledger.lock().unwrap().kept.push_str(&String::from_utf8_lossy(came));
            })
        }
        EXCHANGE => world_exchange(stream),
        _ => {
            services::upgrade(port, &mut stream)?;
            let connection = ServerConnection::new(tls).map_err(io::Error::other)?;
            let mut inside = rustls::StreamOwned::new(connection, stream);
            inside.write_all(GREETING.as_bytes())?;
            inside.conn.send_close_notify();
            inside.flush()?;
            // What the client still says is read, lest the kernel answers it with a reset.
            io::copy(&mut inside.sock, &mut io::sink()).map(drop)
        }
    }
}

fn greet_over_tls(stream: Counted, tls: Arc<ServerConfig>) -> io::Result<()> {
    let connection = ServerConnection::new(tls).map_err(io::Error::other)?;
    greet(rustls::StreamOwned::new(connection, stream), |_| {})
}

/// Reads a request's head, and a body in chunks, and answers it, whatever it asks for. `seen` is told
/// of all that came, whole or not.
fn greet(mut stream: impl Read + Write, seen: impl FnOnce(&[u8])) -> io::Result<()> {
    let mut request = Vec::new();
    let mut byte = [0];
    let mut until = |request: &mut Vec<u8>, end: &[u8]| {
        while !request.ends_with(end) {
            if stream.read(&mut byte).unwrap_or_default() == 0 {
                return false;
            }
            request.push(byte[0]);
        }
        true
    };
    let mut whole = until(&mut request, b"\r\n\r\n");
    if request.to_ascii_lowercase().windows(26).any(|part| part == b"transfer-encoding: chunked") {
        whole = until(&mut request, b"\r\n0\r\n\r\n");
    }
    seen(&request);
    if !whole {
        return Ok(());
    }
    let length = GREETING.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{GREETING}"
    )?;
    stream.flush()
}

/// Greets, then counts what comes.
fn speak_first(mut stream: Counted) -> io::Result<()> {
    stream.write_all(format!("220 {GREETING}\r\n").as_bytes())?;
    io::copy(&mut stream, &mut io::sink()).map(drop)
}

/// The first eight bytes say how much to send; the rest is hashed. Both at once.
fn world_exchange(mut stream: Counted) -> io::Result<()> {
    let mut head = [0; 8];
    stream.read_exact(&mut head)?;
    let writer = stream.stream.try_clone()?;
    let sending = thread::spawn(move || send_pattern(writer, u64::from_be_bytes(head), 2));
    let (received, hash) = hash_all(&mut stream)?;
    let sent = sending.join().unwrap()?;
    let ledger = stream.ledger.clone();
    let done = json!({"received": received, "received_hash": hash, "sent_hash": sent});
    ledger.lock().unwrap().exchanges.push(done);
    Ok(())
}

/// Writes `length` bytes that no compressor or cache could make up, and closes that direction.
fn send_pattern(mut stream: TcpStream, mut length: u64, seed: u64) -> io::Result<String> {
    let (mut state, mut hash) = (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), Sha256::new());
    let mut block = [0; 65_536];
    while length > 0 {
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let part = &block[..block.len().min(usize::try_from(length).unwrap_or(usize::MAX))];
        stream.write_all(part)?;
        hash.update(part);
        length -= part.len() as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(hex(&hash.finalize()))
}

fn hash_all(stream: &mut impl Read) -> io::Result<(u64, String)> {
    let (mut length, mut hash, mut block) = (0, Sha256::new(), vec![0; 65_536]);
    loop {
        match stream.read(&mut block)? {
            0 => return Ok((length, hex(&hash.finalize()))),
            read => {
                hash.update(&block[..read]);
                length += read as u64;
            }
        }
    }
}

fn server_config() -> Arc<ServerConfig> {
    let names = ["allowed.example", "other.example"].map(str::to_owned).to_vec();
    let own = rcgen::generate_simple_self_signed(names).unwrap();
    let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], PrivateKeyDer::Pkcs8(key))
        .unwrap();
    Arc::new(config)
}

/// What a client keeps open from one question to the next.
#[derive(Default)]
struct Kept {
    socket: Option<UdpSocket>,
    crowd: Vec<TcpStream>,
}

/// Opens `count` connections, sends `hex` on each, and keeps those from which a byte comes.
fn crowd(kept: &mut Kept, to: SocketAddr, question: &Value) -> io::Result<Value> {
    let bytes = unhex(question["hex"].as_str().unwrap_or_default());
    let before = kept.crowd.len();
    for _ in 0..question["count"].as_u64().unwrap() {
        // Who is turned away is not counted, however early that is.
        let Ok(mut stream) = connect(to, question) else { continue };
        if stream.write_all(&bytes).is_err() {
            continue;
        }
        if stream.read(&mut [0]).is_ok_and(|read| read == 1) {
            kept.crowd.push(stream);
        }
    }
    Ok(json!(kept.crowd.len() - before))
}

fn client(kept: &mut Kept, to: SocketAddr, question: &Value) -> Value {
    let said = ask_client(kept, to, question);
    said.unwrap_or_else(|e| json!({"end": e.to_string(), "received": ""}))
}

fn ask_client(kept: &mut Kept, to: SocketAddr, question: &Value) -> io::Result<Value> {
    match question["do"].as_str() {
        Some("exchange") => exchange(to, question["up"].as_u64().unwrap(), &question["down"]),
        Some("send") => Ok(send(to, question)),
        Some("udp") => udp(to, question),
        Some("talk") => talk(&fresh(to)?, to, question),
        Some("open") => {
            let socket = fresh(to)?;
            let said = talk(&socket, to, question);
            kept.socket = Some(socket);
            said
        }
        Some("crowd") => crowd(kept, to, question),
        Some("go-on") => match &kept.socket {
            Some(socket) => talk(socket, to, question),
            None => Err(io::ErrorKind::NotConnected.into()),
        },
        Some("flood") => flood(to, question),
        Some("many") => many(to, question),
        Some("associate") => associate(to, question),
        _ => panic!("the client does not understand {question}"),
    }
}

pub(super) fn connect(to: SocketAddr, question: &Value) -> io::Result<TcpStream> {
    let stream: TcpStream = match question["from"].as_str() {
        None => TcpStream::connect_timeout(&to, patience(question))?,
        Some(from) => {
            let from = SocketAddr::new(from.parse().unwrap(), 0);
            let socket = socket2::Socket::new(
                socket2::Domain::for_address(to),
                socket2::Type::STREAM,
                None,
            )?;
            socket.bind(&from.into())?;
            socket.connect_timeout(&to.into(), patience(question))?;
            socket.into()
        }
    };
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience(question)))?;
    Ok(stream)
}

pub(super) fn patience(question: &Value) -> Duration {
    Duration::from_millis(question["patience_ms"].as_u64().unwrap_or(20_000))
}

fn exchange(to: SocketAddr, up: u64, down: &Value) -> io::Result<Value> {
    let down = down.as_u64().unwrap();
    let mut stream = connect(to, &Value::Null)?;
    stream.write_all(&down.to_be_bytes())?;
    let writer = stream.try_clone()?;
    let sending = thread::spawn(move || send_pattern(writer, up, 1));
    let (received, hash) = hash_all(&mut stream)?;
    let sent = sending.join().unwrap()?;
    Ok(json!({"received": received, "received_hash": hash, "sent_hash": sent}))
}

/// Sends `hex` in segments of `step` bytes, then reads until the end or `enough` bytes; where there
/// is more to be said, `then`, or in `parts` with `pause_ms` behind each, it is said there, and the
/// rest read.
fn send(to: SocketAddr, question: &Value) -> Value {
    let bytes = unhex(question["hex"].as_str().unwrap_or_default());
    let step = question["step"].as_u64().unwrap_or(u64::MAX);
    let step = usize::try_from(step).unwrap_or(usize::MAX);
    let enough = question["enough"].as_u64().unwrap_or(u64::MAX);
    let pause = Duration::from_millis(question["pause_ms"].as_u64().unwrap_or_default());
    let rest = unhex(question["rest"].as_str().unwrap_or_default());
    let mut received = Vec::new();
    let mut talk = || {
        let mut stream = connect(to, question)?;
        for part in bytes.chunks(step) {
            stream.write_all(part)?;
            if !pause.is_zero() {
                thread::sleep(pause);
            }
        }
        if question["urgent"] == true {
            socket2::SockRef::from(&stream).send_out_of_band(b"!")?;
            stream.write_all(&rest)?;
        }
        if question["shut"] == true {
            stream.shutdown(Shutdown::Write)?;
        }
        if question["reset"] == true {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            return Ok("reset by us");
        }
        let mut block = [0; 4096];
        let mut then = question["then"].as_str().map(unhex);
        let mut parts = question["parts"].as_array();
        let mut limit = enough;
        loop {
            while (received.len() as u64) < limit {
                match stream.read(&mut block)? {
                    0 => return Ok("end of stream"),
                    read => received.extend(&block[..read]),
                }
            }
            if let Some(parts) = parts.take() {
                for part in parts {
                    stream.write_all(&unhex(part.as_str().unwrap()))?;
                    thread::sleep(pause);
                }
                limit = u64::MAX;
                continue;
            }
            let Some(more) = then.take() else { return Ok("enough") };
            stream.write_all(&more)?;
            limit = u64::MAX;
        }
    };
    let end = match talk() {
        Ok(end) => end.to_owned(),
        Err(e) => io_end(&e),
    };
    json!({"end": end, "received": hex(&received)})
}

fn udp(to: SocketAddr, question: &Value) -> io::Result<Value> {
    let socket = fresh(to)?;
    socket.set_read_timeout(Some(patience(question)))?;
    socket.connect(to)?;
    socket.send(&unhex(question["hex"].as_str().unwrap_or_default()))?;
    let mut block = [0; 65_536];
    Ok(match socket.recv(&mut block) {
        Ok(read) => json!({"end": "enough", "received": hex(&block[..read])}),
        Err(e) => json!({"end": io_end(&e), "received": ""}),
    })
}

/// A socket on a port that this process had not yet. The kernel may give a port of a moment ago once
/// more, and what the gateway refused there is refused while it is remembered.
fn fresh(to: SocketAddr) -> io::Result<UdpSocket> {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    // Below those that the kernel gives, and not those of another process of before.
    const PORTS: Range<u32> = 10_000..32_000;
    let any = if to.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        IpAddr::from(Ipv6Addr::UNSPECIFIED)
    };
    let start = std::process::id().wrapping_mul(97);
    let mut bound = Err(io::ErrorKind::AddrInUse.into());
    for _ in PORTS {
        let turn = start.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + turn % (PORTS.end - PORTS.start);
        bound = UdpSocket::bind((any, u16::try_from(port).unwrap()));
        if !bound.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::AddrInUse) {
            break;
        }
    }
    bound
}

/// Sends datagrams from one port, each once the one before it was answered, or nothing came for a
/// moment; then hears out the rest, until there was an answer (or an ICMP error) for each.
fn talk(socket: &UdpSocket, to: SocketAddr, question: &Value) -> io::Result<Value> {
    socket.connect(to)?;
    let datagrams = question["datagrams"].as_array().unwrap();
    let pause = Duration::from_millis(question["pause_ms"].as_u64().unwrap_or(150));
    let mut block = vec![0; 65_536];
    let mut answers: Vec<Value> = Vec::new();
    let mut end = "silence".to_owned();
    let mut heard = 0;
    let mut hear = |limit| {
        socket.set_read_timeout(Some(limit))?;
        match socket.recv(&mut block) {
            Ok(read) => answers.push(json!(hex(&block[..read]))),
            Err(e) => match io_end(&e) {
                silence if silence == "silence" => return Ok(false),
                told => end = told,
            },
        }
        io::Result::Ok(true)
    };
    for datagram in datagrams {
        // An ICMP error of an earlier datagram may be told here, once.
        let bytes = unhex(datagram.as_str().unwrap());
        socket.send(&bytes).or_else(|_| socket.send(&bytes))?;
        heard += usize::from(hear(pause)?);
    }
    while heard < datagrams.len() && hear(patience(question))? {
        heard += 1;
    }
    Ok(json!({"answers": answers, "end": end}))
}

/// Asks the SOCKS5 proxy for an association, talks over it, then sends what is in `strange` from
/// another port; the control connection closes last.
fn associate(to: SocketAddr, question: &Value) -> io::Result<Value> {
    let mut control = connect(to, question)?;
    control.write_all(&[5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0])?;
    let mut reply = [0; 6];
    control.read_exact(&mut reply)?;
    assert_eq!(reply[..5], [5, 0, 5, 0, 0]);
    let mut at = vec![0; if reply[5] == 1 { 4 + 2 } else { 16 + 2 }];
    control.read_exact(&mut at)?;
    // The address of the control connection, zone included, and the port that it told.
    let mut relay = to;
    let (ip, port) = at.split_last_chunk().unwrap();
    relay.set_port(u16::from_be_bytes(*port));
    let own = match to.ip() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    assert_eq!(ip, own);
    let said = talk(&fresh(relay)?, relay, question)?;
    let Some(strange) = question["strange"].as_array() else { return Ok(said) };
    let ask = json!({"datagrams": strange, "patience_ms": 1, "pause_ms": 100});
    let other = talk(&fresh(relay)?, relay, &ask)?;
    Ok(json!({"answers": said["answers"], "end": said["end"], "strange": other["answers"]}))
}

/// Sends one datagram from each of `count` ports; how many were answered.
fn many(to: SocketAddr, question: &Value) -> io::Result<Value> {
    let count = question["count"].as_u64().unwrap();
    let open = |_| -> io::Result<UdpSocket> {
        let socket = fresh(to)?;
        socket.connect(to)?;
        socket.send(b"one of many")?;
        thread::sleep(Duration::from_millis(1));
        Ok(socket)
    };
    let mut silent = (0..count).map(open).collect::<io::Result<Vec<_>>>()?;
    for socket in &silent {
        socket.set_read_timeout(Some(patience(question)))?;
    }
    // Until nothing more comes while each is waited for once more.
    loop {
        let before = silent.len();
        silent.retain(|socket| socket.recv(&mut [0; 64]).is_err());
        if silent.is_empty() || silent.len() == before {
            return Ok(json!(count - silent.len() as u64));
        }
    }
}

/// Sends one datagram again and again, each time from another address of 198.18.0.0/15.
fn flood(to: SocketAddr, question: &Value) -> io::Result<Value> {
    let SocketAddr::V4(to) = to else { return Err(io::ErrorKind::Unsupported.into()) };
    let payload = unhex(question["hex"].as_str().unwrap());
    let raw = socket2::Protocol::from(255);
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(raw))?;
    let count = question["count"].as_u64().unwrap();
    for n in 0..u32::try_from(count).unwrap() {
        let source = (0xc612_0000 + n % 0x0002_0000).to_be_bytes();
        let port = 1024 + u16::try_from(n / 0x0002_0000).unwrap();
        let mut packet = Vec::new();
        etherparse::PacketBuilder::ipv4(source, to.ip().octets(), 64)
            .udp(port, to.port())
            .write(&mut packet, &payload)
            .map_err(io::Error::other)?;
        while let Err(e) = socket.send_to(&packet, &SocketAddr::from((*to.ip(), 0)).into()) {
            if e.kind() != io::ErrorKind::WouldBlock && e.raw_os_error() != Some(105) {
                return Err(e);
            }
            thread::yield_now();
        }
    }
    Ok(json!({"sent": count}))
}

/// How a connection ended, in the same words whatever the system's language.
#[expect(clippy::wildcard_enum_match_arm, reason = "io::ErrorKind is open-ended")]
pub(super) fn io_end(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "reset".to_owned(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "silence".to_owned(),
        io::ErrorKind::ConnectionRefused => "refused".to_owned(),
        _ => e.to_string(),
    }
}

/// Starts the gateway as the units do: with sockets that somebody else opened, and without a single
/// capability. It ends with this process.
fn sealed(question: &Value) -> Value {
    let udp = transparent(socket2::Type::DGRAM, 443);
    let tcp = transparent(socket2::Type::STREAM, 15_001);
    tcp.listen(16).unwrap();
    let start = "exec 3<&0 4<&1 <&2 >&2
        export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=tproxy:tproxy
        exec setpriv --pdeathsig KILL --bounding-set=-all --inh-caps=-all \"$0\" run --config \"$1\"";
    let log = std::fs::File::create(question["log"].as_str().unwrap()).unwrap();
    let mut child = std::process::Command::new("sh")
        .args(["-c", start])
        .args([&question["binary"], &question["config"]].map(|value| value.as_str().unwrap()))
        .stdin(std::os::fd::OwnedFd::from(udp))
        .stdout(std::os::fd::OwnedFd::from(tcp))
        .stderr(log)
        .spawn()
        .unwrap();
    let pid = child.id();
    thread::spawn(move || drop(child.wait()));
    json!(pid)
}

/// A dual-stack transparent socket.
pub(super) fn transparent(kind: socket2::Type, port: u16) -> socket2::Socket {
    let socket = socket2::Socket::new(socket2::Domain::IPV6, kind, None).unwrap();
    socket.set_only_v6(false).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_ip_transparent_v4(true).unwrap();
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into()).unwrap();
    socket
}

/// Sets the real rules, with listeners that tell each client where its connection was delivered.
fn stand_in() {
    let listener = |port: u16, transparent: bool| {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
        socket.set_only_v6(false).unwrap();
        socket.set_reuse_address(true).unwrap();
        if transparent {
            socket.set_ip_transparent_v4(true).unwrap();
        }
        let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        socket.bind(&address.into()).unwrap();
        socket.listen(16).unwrap();
        TcpListener::from(socket)
    };
    for (port, transparent) in [(15_001, true), (15_002, false)] {
        let listener = listener(port, transparent);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let local = stream.local_addr().unwrap();
                let local = SocketAddr::new(local.ip().to_canonical(), local.port());
                drop(write!(stream, "{local}"));
            }
        });
    }
    serve(|question| {
        let listen = |mode, port: u16| Listen {
            mode,
            address: SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
            peek_timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(1),
            half_closed_timeout: Duration::from_secs(1),
            lifetime: None,
            keepalive: None,
            user_timeout: None,
            keep_source: false,
            max_connections: 1,
            max_connections_per_client: None,
            silent: false,
            starttls: false,
            udp: None,
            ..Listen::DEFAULT
        };
        let tproxy = [listen(ListenMode::Tproxy, 15_001)];
        let redirect = [listen(ListenMode::Redirect, 15_002)];
        let done = match question.as_str() {
            Some("tproxy") => Capture::new(Form::Gateway, &tproxy).and_then(|it| it.up()),
            Some("redirect") => Capture::new(Form::Gateway, &redirect).and_then(|it| it.up()),
            Some("host") => {
                let form = Form::Host { exempt_uid: 65_534 };
                Capture::new(form, &redirect).and_then(|it| it.up())
            }
            Some("down") => Capture::down(),
            _ => panic!("the stand-in does not understand {question}"),
        };
        done.map_or_else(|fault| json!(fault.to_string()), |()| json!("done"))
    });
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks_exact(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}
