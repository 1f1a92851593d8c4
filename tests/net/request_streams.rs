//! Streams of HTTP/1 requests drawn at random, sound and damaged, through every way in: whatever
//! cuts, framings and second hosts a client tries, the world reads requests of the permitted name
//! alone, each in the one form that no two servers read differently.
//!
//! The world judges by a reader of its own (`httparse` and RFC 9112 §6.3 to the letter). A run in CI
//! draws a few hundred streams a way;
//! `SCHENGATE_DRAW_SECONDS=3600 cargo test --test net request_streams::w01` goes on for an hour, and a
//! failure prints the seed that repeats it (`SCHENGATE_DRAW_SEED`).

use std::env;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::lab::names::NameServer;
use crate::lab::role::serve;
use crate::lab::{self, ADMIN, NAME_SERVER, PERMITTED, places, wait_until};

/// The name whose requests may pass.
const GOOD: &str = "permitted.example";
/// A name of the same address that a rule refuses.
const BAD: &str = "foreign.example";
const PROXY: &str = "192.0.2.1:3128";

/// How a client comes in. The address of the world is IPv6 for TPROXY, and IPv4 for REDIRECT, so that
/// one gateway has both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Tproxy,
    Redirect,
    Connect,
    Socks,
    Http,
}

impl Way {
    const ALL: [Self; 5] = [Self::Tproxy, Self::Redirect, Self::Connect, Self::Socks, Self::Http];

    /// A connection on which the requests can be sent.
    fn open(self) -> io::Result<TcpStream> {
        let [p4, p6] = PERMITTED;
        let to = match self {
            Self::Tproxy => lab::at(p6, 80),
            Self::Redirect => lab::at(p4, 80),
            Self::Connect | Self::Socks | Self::Http => PROXY.to_owned(),
        };
        let patience = Duration::from_secs(20);
        let mut stream = TcpStream::connect_timeout(&to.parse().unwrap(), patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        let (open, answer) = match self {
            Self::Connect => {
                (format!("CONNECT {GOOD}:80 HTTP/1.1\r\nHost: {GOOD}:80\r\n\r\n").into_bytes(), 0)
            }
            Self::Socks => {
                let length = u8::try_from(GOOD.len()).unwrap();
                let ask = [&[5, 1, 0, 5, 1, 0, 3, length], GOOD.as_bytes(), &[0, 80]].concat();
                (ask, 12)
            }
            Self::Tproxy | Self::Redirect | Self::Http => return Ok(stream),
        };
        stream.write_all(&open)?;
        let mut got = Vec::new();
        let whole =
            |got: &[u8]| if answer > 0 { got.len() == answer } else { got.ends_with(b"\r\n\r\n") };
        while !whole(&got) {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            got.extend(byte);
        }
        let opened =
            if answer > 0 { got.get(3) == Some(&0) } else { got.starts_with(b"HTTP/1.1 200") };
        if opened { Ok(stream) } else { Err(io::Error::other(got.escape_ascii().to_string())) }
    }
}

/// Numbers that a seed gives again (xorshift).
struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % bound
    }

    fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len())]
    }
}

/// One stream: requests, mostly sound, in the parts in which they are sent.
fn draw(chance: &mut Chance, way: Way) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    for _ in 0..=chance.below(4) {
        let mut bytes = request(chance, way);
        if chance.one_in(8) {
            damage(chance, &mut bytes);
        }
        // In one segment with what was sent before, or in parts of its own.
        match parts.last_mut() {
            Some(last) if chance.one_in(2) => Vec::extend(last, bytes),
            _ => parts.push(bytes),
        }
    }
    if chance.one_in(3) {
        let whole = parts.concat();
        let cut = 1 + chance.below(whole.len().max(2) - 1);
        return whole.chunks(cut.max(whole.len() / 50 + 1)).map(<[u8]>::to_vec).collect();
    }
    parts
}

fn request(chance: &mut Chance, way: Way) -> Vec<u8> {
    let host = if chance.one_in(4) { BAD } else { GOOD };
    let other = if host == BAD { GOOD } else { BAD };
    let end = if chance.one_in(24) { "\n" } else { "\r\n" };
    let method = match chance.below(12) {
        0 => "CONNECT",
        1 => chance.of(&[
            "PRI",
            "get",
            "OPTIONS",
            "A-METHOD-OF-MORE-THAN-THIRTY-TWO-BYTES-X",
            "HEAD",
        ]),
        2..6 => "POST",
        _ => "GET",
    };
    let is_absolute = if way == Way::Http { !chance.one_in(8) } else { chance.one_in(8) };
    let named = if chance.one_in(24) { other } else { host };
    let target = match (method, is_absolute) {
        ("CONNECT", _) => format!("{named}:80"),
        ("PRI", _) => "*".to_owned(),
        (_, true) => format!("http://{named}/{}", chance.below(9)),
        (_, false) => chance.of(&["/", "/a?b=c", "/", "*", "//foreign.example/", "\\"]).to_owned(),
    };
    let version = match chance.below(30) {
        0 => "HTTP/1.0",
        1 => chance.of(&["HTTP/2.0", "HTTP/0.9", "ICE/1.0", "HTTP/1.1 ", "http/1.1", ""]),
        _ => "HTTP/1.1",
    };
    let blank = chance.of(&[
        " ", " ", " ", " ", " ", " ", " ", " ", " ", " ", " ", " ", " ", " ", " ", " ", "  ", "\t",
    ]);
    let lead = match chance.below(40) {
        0 => chance.of(&["\r\n", "\n", " ", "\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n", "\0"]),
        _ => "",
    };
    let mut head = format!("{lead}{method}{blank}{target}{blank}{version}{end}");
    let field = |name: &str, value: &str| format!("{name}: {value}{end}");
    match chance.below(30) {
        0 => {}
        1 => head += &[field("Host", host), field("Host", other)].concat(),
        2 => {
            head += &format!(
                "{}: {other}{end}{}",
                chance.of(&["Host ", " Host", "Host\t", "H\0ost"]),
                field("Host", host)
            )
        }
        3 => head += &format!("Host: {host}{end} {other}{end}"),
        4 => {
            head += &field(
                "X",
                &format!("y{}Host: {other}", chance.of(&["\r", "\n", "\r\n\t", "\0", "\x0b"])),
            )
        }
        5 => {
            head += &field(
                "Host",
                &format!(
                    "{host}{}",
                    chance.of(&[
                        ":80",
                        ":",
                        ":443",
                        ".",
                        ",foreign.example",
                        "/",
                        "@foreign.example",
                        " "
                    ])
                ),
            )
        }
        _ => head += &field(chance.of(&["Host", "host", "HOST"]), host),
    }
    let body = body(chance, other);
    let length = body.len();
    let chunked = || format!("{length:x}\r\n{}\r\n0\r\n\r\n", body.escape_debug());
    let (fields, body): (String, Vec<u8>) = match chance.below(22) {
        0..8 => (String::new(), Vec::new()),
        8..12 => (field("Content-Length", &length.to_string()), body.into()),
        12 => (field("Content-Length", &(length / 2).to_string()), body.into()),
        13 => (field("Content-Length", &format!("{length}, {length}")), body.into()),
        14 => (
            [field("Content-Length", "0"), field("Content-Length", &length.to_string())].concat(),
            body.into(),
        ),
        15 => (
            [field("Content-Length", &length.to_string()), field("Transfer-Encoding", "chunked")]
                .concat(),
            chunked().into(),
        ),
        16 => (
            field(
                chance.of(&["Transfer-Encoding ", "Transfer-Encoding"]),
                chance.of(&[
                    "xchunked",
                    "gzip, chunked",
                    "chunked, identity",
                    "chunked, chunked",
                    "\x0bchunked",
                    "identity",
                ]),
            ),
            body.into(),
        ),
        17 => (
            field("Transfer-Encoding", "chunked"),
            format!(
                "{length:x}{}{body}\r\n0\r\n{}\r\n",
                chance.of(&["\n", "\r\n", ";a=b\r\n", ";\n\r\n", " \r\n"]),
                chance.of(&["", "Host: foreign.example\r\n"])
            )
            .into(),
        ),
        _ => (
            field("Transfer-Encoding", "chunked"),
            format!("{length:x}\r\n{body}\r\n0\r\n\r\n").into(),
        ),
    };
    head += &fields;
    head += &match chance.below(16) {
        0 => field("Connection", "close"),
        1 => [
            field("Connection", "Upgrade, HTTP2-Settings"),
            field("Upgrade", "h2c"),
            field("HTTP2-Settings", "AAMAAABkAAQAAP__"),
        ]
        .concat(),
        2 => [field("Connection", "Upgrade"), field("Upgrade", "websocket")].concat(),
        3 => field("Expect", "100-continue"),
        4 => field("Connection", "Host"),
        5 => field("Connection", "keep-alive"),
        _ => String::new(),
    };
    [head.as_bytes(), end.as_bytes(), &body].concat()
}

/// A body, some of which would be a request if its length were read otherwise.
fn body(chance: &mut Chance, other: &str) -> String {
    match chance.below(4) {
        0 => String::new(),
        1 => "x".repeat(chance.below(3000)),
        _ => format!("GET / HTTP/1.1\r\nHost: {other}\r\n\r\n"),
    }
}

fn damage(chance: &mut Chance, bytes: &mut Vec<u8>) {
    for _ in 0..=chance.below(3) {
        let at = chance.below(bytes.len().max(1));
        let odd = b"\r\n \t:;,\0\x0b\x7f\x80\xff0"[chance.below(13)];
        match chance.below(4) {
            0 if at < bytes.len() => bytes[at] = odd,
            1 if at < bytes.len() => drop(bytes.remove(at)),
            2 => bytes.truncate(at),
            _ => bytes.insert(at, odd),
        }
    }
}

/// Sends one stream and hears it out. `true` where some request was answered with 200.
fn send(way: Way, seed: u64) -> bool {
    let mut chance = Chance::new(seed);
    let parts = draw(&mut chance, way);
    let waits = chance.one_in(2);
    let mut heard = Vec::new();
    let talk = |heard: &mut Vec<u8>| -> io::Result<()> {
        let mut stream = way.open()?;
        let mut block = [0; 8192];
        for (at, part) in parts.iter().enumerate() {
            stream.write_all(part)?;
            if waits && at + 1 < parts.len() {
                stream.set_read_timeout(Some(Duration::from_millis(50)))?;
                match stream.read(&mut block) {
                    Ok(0) => return Ok(()),
                    Ok(read) => heard.extend(&block[..read]),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(e) => return Err(e),
                }
                stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            }
        }
        stream.shutdown(Shutdown::Write)?;
        loop {
            match stream.read(&mut block)? {
                0 => return Ok(()),
                read => heard.extend(&block[..read]),
            }
        }
    };
    // A client that is turned away was turned away; what passed is seen in the world.
    drop(talk(&mut heard));
    heard.windows(12).any(|part| part == b"HTTP/1.1 200")
}

/// What the world read, and what of it nothing permitted.
#[derive(Default)]
struct Ledger {
    requests: u64,
    kept_alive: u64,
    wrong: Vec<String>,
}

/// The world's web server: answers each request that its reader finds, and keeps the connection.
pub(crate) fn origin() {
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    for ip in PERMITTED {
        let listener = TcpListener::bind(lab::at(ip, 80)).unwrap();
        let ledger = Arc::clone(&ledger);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, ledger) = (stream.unwrap(), Arc::clone(&ledger));
                thread::spawn(move || {
                    let mut raw = Vec::new();
                    let read = answer_all(&mut stream, &mut raw);
                    let mut ledger = ledger.lock().unwrap();
                    match read {
                        Ok(requests) => {
                            ledger.requests += requests;
                            ledger.kept_alive += u64::from(requests > 1);
                        }
                        Err(what) => ledger.wrong.push(format!("{what}: {}", shortened(&raw))),
                    }
                });
            }
        });
    }
    let names = UdpSocket::bind((NAME_SERVER, 53)).unwrap();
    thread::spawn(move || {
        let (mut server, mut buffer) = (NameServer::default(), [0; 512]);
        while let Ok((length, from)) = names.recv_from(&mut buffer) {
            if let Some(reply) = server.reply(&buffer[..length]) {
                drop(names.send_to(&reply, from));
            }
        }
    });
    serve(|_| {
        let Ledger { requests, kept_alive, wrong } = std::mem::take(&mut *ledger.lock().unwrap());
        json!({"requests": requests, "kept_alive": kept_alive, "wrong": wrong})
    });
}

/// The bytes for a message, long runs of one of them cut.
fn shortened(raw: &[u8]) -> String {
    let mut text = raw.escape_ascii().to_string();
    while let Some(at) = text.find("xxxxxxxxxx") {
        let rest = text[at..].trim_start_matches('x').to_owned();
        text = format!("{}(x){rest}", &text[..at]);
    }
    text
}

/// Requests on one connection, read strictly; an error says what is not the one permitted form.
fn answer_all(stream: &mut TcpStream, raw: &mut Vec<u8>) -> Result<u64, String> {
    let (mut at, mut requests) = (0, 0);
    let mut block = [0; 16 * 1024];
    let mut more = |raw: &mut Vec<u8>, stream: &mut TcpStream| {
        let read = stream.read(&mut block).unwrap_or(0);
        raw.extend(&block[..read]);
        read > 0
    };
    loop {
        let (head, length) = loop {
            let rest = &raw[at..];
            match head_of(rest) {
                Ok(Some(found)) => break found,
                Ok(None) => {}
                // Something else than HTTP, from the first byte on, is a flow of its own.
                Err(_) if at == 0 && !is_served(rest) => return Ok(0),
                Err(what) => return Err(what),
            }
            if !more(raw, stream) {
                let cut = rest_of_a_head(&raw[at..]);
                return cut.map(|()| requests);
            }
        };
        let begin = at + head;
        let end = loop {
            if let Some(length) = length.of(&raw[begin..])? {
                break begin + length;
            }
            // A client that goes away in the middle of its body leaves it cut.
            if !more(raw, stream) {
                return Ok(requests + 1);
            }
        };
        requests += 1;
        let head = raw[at..begin].to_ascii_lowercase();
        let has = |what: &[u8]| head.windows(what.len()).any(|part| part == what);
        let switches = has(b"\r\nupgrade:") || head.starts_with(b"connect ");
        at = end;
        let answer: &[u8] = if has(b"\r\nupgrade:") {
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        } else {
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        };
        drop(stream.write_all(answer));
        if switches {
            // `unread` is refused: no byte may come behind it.
            while more(raw, stream) {}
            if raw.len() > at {
                return Err("bytes behind a switch of protocols".to_owned());
            }
            return Ok(requests);
        }
    }
}

/// How long a body is (RFC 9112 §6.3).
enum Length {
    Bytes(usize),
    Chunks,
}

impl Length {
    /// Where the body ends, once it is whole.
    fn of(&self, bytes: &[u8]) -> Result<Option<usize>, String> {
        match self {
            Self::Bytes(length) => Ok((bytes.len() >= *length).then_some(*length)),
            Self::Chunks => {
                let mut at = 0;
                loop {
                    let rest = &bytes[at..];
                    let Some(line) = rest.windows(2).position(|two| two == b"\r\n") else {
                        return Ok(None);
                    };
                    let digits = std::str::from_utf8(&rest[..line]).unwrap_or("?");
                    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
                    let size = usize::from_str_radix(digits, 16).ok().filter(|_| plain);
                    let Some(size) = size else { return Err(format!("chunk size {digits:?}")) };
                    let end = line + 2 + size + 2;
                    if size == 0 {
                        let end = end_of_trailers(&rest[line + 2..])?;
                        return Ok(end.map(|end| at + line + 2 + end));
                    }
                    if rest.len() < end {
                        return Ok(None);
                    }
                    if &rest[end - 2..end] != b"\r\n" {
                        return Err("a chunk without its end".to_owned());
                    }
                    at += end;
                }
            }
        }
    }
}

/// Where the trailers end (RFC 9112 §7.1.2), once they are whole: fields, none of which says how a
/// message is framed or whom it is for (RFC 9110 §6.5.1).
fn end_of_trailers(bytes: &[u8]) -> Result<Option<usize>, String> {
    let mut at = 0;
    while let Some(length) = bytes[at..].windows(2).position(|two| two == b"\r\n") {
        let line = &bytes[at..at + length];
        at += length + 2;
        if line.is_empty() {
            return Ok(Some(at));
        }
        let name = line.split(|b| *b == b':').next().filter(|name| name.len() < line.len());
        let name = name.map(|name| String::from_utf8_lossy(name).to_ascii_lowercase());
        let is_token = |name: &String| {
            let is = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
            !name.is_empty() && name.bytes().all(is)
        };
        let forbidden = ["host", "content-length", "transfer-encoding"];
        if !name.is_some_and(|name| is_token(&name) && !forbidden.contains(&name.as_str())) {
            return Err(format!("trailer {:?}", String::from_utf8_lossy(line)));
        }
    }
    Ok(None)
}

/// The length of the head and how its body is framed; `None` while it is not whole.
fn head_of(bytes: &[u8]) -> Result<Option<(usize, Length)>, String> {
    let mut fields = [httparse::EMPTY_HEADER; 256];
    let mut head = httparse::Request::new(&mut fields);
    let size = match head.parse(bytes) {
        Ok(httparse::Status::Complete(size)) => size,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(e) => return Err(format!("no request: {e}")),
    };
    one_form(&bytes[..size])?;
    let target = head.path.unwrap_or_default();
    let authority =
        target.strip_prefix("http://").map_or(Some(GOOD), |rest| rest.split('/').next());
    // Any other name of the address is permitted with it. The root's dot and the port of HTTP say
    // nothing new (RFC 1034 §3.1).
    let may_pass = |host: &str| {
        let (name, port) = host.split_once(':').unwrap_or((host, "80"));
        let name = name.strip_suffix('.').unwrap_or(name);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let sound = !name.is_empty() && name.bytes().all(plain) && port.parse::<u16>().is_ok();
        sound && !name.eq_ignore_ascii_case(BAD)
    };
    if !authority.is_some_and(may_pass) || head.method == Some("CONNECT") && !may_pass(target) {
        return Err(format!("target {target:?}"));
    }
    let named = |name: &str| -> Vec<&[u8]> {
        let same = head.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
        same.map(|field| field.value).collect()
    };
    match named("host").as_slice() {
        [host] if std::str::from_utf8(host).is_ok_and(may_pass) => {}
        // HTTP/1.0 needs none: it asks for the one host that the connection was judged for.
        [] if head.version == Some(0) => {}
        hosts => return Err(format!("{} Hosts", hosts.len())),
    }
    let length = match (named("content-length").as_slice(), named("transfer-encoding").as_slice()) {
        ([], []) => Length::Bytes(0),
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") => Length::Chunks,
        ([length], []) => {
            let digits = std::str::from_utf8(length).ok();
            let digits = digits.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            Length::Bytes(digits.and_then(|text| text.parse().ok()).ok_or("a length that is none")?)
        }
        (lengths, codings) => {
            return Err(format!("{} lengths and {} codings", lengths.len(), codings.len()));
        }
    };
    Ok(Some((size, length)))
}

/// Whether the most lenient of servers would take this for a request: lines that end in LF, blanks of
/// any kind and number, a version that may be missing.
fn is_served(bytes: &[u8]) -> bool {
    let lines = bytes.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
    let Some(line) = lines.into_iter().find(|line| !line.is_empty()) else { return false };
    if line.iter().any(|byte| byte.is_ascii_control() && !byte.is_ascii_whitespace()) {
        return false;
    }
    let words: Vec<&[u8]> =
        line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
    let is_method =
        |word: &[u8]| word.iter().all(|&b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    match words.as_slice() {
        // Without a version, which HTTP/0.9 knows GET alone for (RFC 1945 §5): a method of HTTP, or
        // a path or an address with a scheme (RFC 3986 §3.1) for any other word.
        [method, target] => {
            let known: [&[u8]; 6] = [b"GET", b"POST", b"HEAD", b"PUT", b"OPTIONS", b"CONNECT"];
            let is_scheme = |name: &[u8]| {
                name.first().is_some_and(u8::is_ascii_alphabetic)
                    && name.iter().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(b))
            };
            let end = target.windows(3).position(|part| part == b"://");
            let is_target =
                target.starts_with(b"/") || end.is_some_and(|at| is_scheme(&target[..at]));
            let is_word = method.iter().all(|b| b.is_ascii_alphabetic() || b"-_".contains(b));
            known.contains(method) || is_word && is_target
        }
        [method, _, version] => {
            let version = version.to_ascii_uppercase();
            is_method(method) && (version.starts_with(b"HTTP/") || version.starts_with(b"ICE/"))
        }
        _ => false,
    }
}

/// No byte of a head that some server reads as the end of a line, a fold, or nothing at all.
fn one_form(head: &[u8]) -> Result<(), String> {
    let lines = head.split(|&byte| byte == b'\n');
    for line in lines {
        let Some(line) = line.strip_suffix(b"\r") else {
            if line.is_empty() {
                continue;
            }
            return Err("a bare LF".to_owned());
        };
        if line.contains(&b'\r') || line.contains(&0) {
            return Err("a bare CR or NUL".to_owned());
        }
        if line.first().is_some_and(u8::is_ascii_whitespace) {
            return Err("a folded line".to_owned());
        }
        let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
        if name.trim_ascii().eq_ignore_ascii_case(b"host") && name.len() != 4 {
            return Err("a Host with blanks".to_owned());
        }
    }
    Ok(())
}

/// A head that was cut: nothing of the refused name may stand in it.
fn rest_of_a_head(rest: &[u8]) -> Result<(), String> {
    let text = String::from_utf8_lossy(rest).to_lowercase().replace(&format!("/{BAD}/"), "");
    if text.contains(BAD) {
        Err("the refused name in a head that is not whole".to_owned())
    } else {
        Ok(())
    }
}

pub(crate) fn asker() {
    serve(|question| {
        let number = |key: &str| question[key].as_u64().unwrap();
        let (first, count) = (number("seed"), number("count"));
        let way = Way::ALL[usize::try_from(number("way")).unwrap()];
        let lanes = (0..4).map(|lane| {
            thread::spawn(move || {
                let seeds = (first + lane..first + count).step_by(4);
                seeds.filter(|&seed| send(way, seed)).count()
            })
        });
        let lanes: Vec<_> = lanes.collect();
        json!(lanes.into_iter().map(|lane| lane.join().unwrap()).sum::<usize>())
    });
}

fn policy() -> String {
    format!(
        "schema = 1
[policy]
mode = \"enforce\"
permit = [\"FR\"]
[policy.on]
unread = \"block\"
[names]
binding = \"verify\"
resolvers = [\"{NAME_SERVER}:53\"]
[[rule]]
name = \"refused\"
host = [\"{BAD}\"]
action = \"block\"
[[rule]]
name = \"good\"
host = [\"{GOOD}\"]
action = \"allow\"
reason = \"the name decides in these tests\"
[[listen]]
mode = \"tproxy\"
address = \"[2001:db8:1::1]:15001\"
peek_timeout = \"500ms\"
[[listen]]
mode = \"redirect\"
address = \"0.0.0.0:15002\"
peek_timeout = \"500ms\"
[[listen]]
mode = \"proxy\"
address = \"{PROXY}\"
peek_timeout = \"500ms\"
[admin]
address = \"{ADMIN}\"
{}",
        places()
    )
}

#[test]
fn w01_no_stream_of_requests_brings_another_name_out() {
    let Some(lab) = lab::lab("requests") else { return };
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let seconds = number("SCHENGATE_DRAW_SECONDS");
    let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(0));
    let mut seed = number("SCHENGATE_DRAW_SEED").unwrap_or(1);
    let mut world = lab.world.helper("origin");
    let gateway = lab.start_gateway(&policy());
    gateway.capture();
    let mut client = lab.client.helper("asker");
    let batch = 200;
    let mut rounds = 0_u64;
    loop {
        let mut faults = Vec::new();
        for (index, way) in Way::ALL.into_iter().enumerate() {
            let ask = json!({"way": index, "seed": seed, "count": batch});
            let answered = client.ask(&ask).as_u64().unwrap();
            let descriptors = gateway.descriptors();
            // A connection counts once the world has heard its end. The explicit proxy answers a CONNECT
            // itself, which the world knows nothing of.
            let all = if way == Way::Http { 0 } else { answered };
            let (mut requests, mut kept, mut wrong) = (0, 0, Vec::new());
            wait_until("the world has read what was answered", || {
                let told: Value = world.ask(&json!("tell"));
                requests += told["requests"].as_u64().unwrap();
                kept += told["kept_alive"].as_u64().unwrap();
                wrong.extend(told["wrong"].as_array().unwrap().iter().cloned());
                (!wrong.is_empty() || requests >= all).then_some(())
            });
            if rounds.is_multiple_of(50) {
                println!(
                    "{way:?}: seeds {seed}..{}: {answered} streams answered, {requests} requests in \
                     the world, {kept} connections of several; {descriptors} descriptors, {} KiB",
                    seed + batch,
                    gateway.memory_kib()
                );
            }
            if !wrong.is_empty() {
                faults.push(format!("{way:?} from seed {seed}: {wrong:#?}"));
            } else if answered < batch / 10 {
                faults.push(format!("{way:?} from seed {seed}: {answered} answered"));
            }
        }
        assert!(faults.is_empty(), "{}", faults.join("\n"));
        seed += batch;
        rounds += 1;
        if Instant::now() >= until {
            println!("{rounds} rounds of {batch} streams a way");
            return;
        }
    }
}

/// The world's reader is what the claim above hangs on.
#[test]
fn the_worlds_reader_takes_one_form_alone() {
    let sound = format!("GET / HTTP/1.1\r\nHost: {GOOD}\r\n\r\n");
    assert!(matches!(head_of(sound.as_bytes()), Ok(Some((_, Length::Bytes(0))))));
    for bad in [
        format!("GET / HTTP/1.1\r\nHost: {BAD}\r\n\r\n"),
        format!("GET http://{BAD}/ HTTP/1.1\r\nHost: {GOOD}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: {GOOD}\r\nHost: {GOOD}\r\n\r\n"),
        format!("GET / HTTP/1.1\nHost: {GOOD}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: {GOOD}\r\n{BAD}\r\n\r\n"),
        format!(
            "GET / HTTP/1.1\r\nHost: {GOOD}\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
        ),
        format!("GET / HTTP/1.1\r\nHost: {GOOD}\r\nContent-Length: 1, 1\r\n\r\n"),
        format!("CONNECT {BAD}:80 HTTP/1.1\r\nHost: {GOOD}\r\n\r\n"),
    ] {
        assert!(head_of(bad.as_bytes()).is_err(), "{bad:?}");
    }
    for (line, served) in [
        ("BREW http://foreign.example/", true),
        ("PST http\u{ff}://foreign.example/", false),
        ("BREW ://foreign.example/", false),
        ("BR3W /", false),
        ("BREW /", true),
        ("GET x", true),
    ] {
        assert_eq!(is_served(line.as_bytes()), served, "{line:?}");
    }
    assert!(Length::Chunks.of(b"+1\r\nx\r\n0\r\n\r\n").is_err());
    assert!(matches!(Length::Chunks.of(b"1\r\nx\r\n0\r\n\r\n"), Ok(Some(11))));
    assert!(matches!(Length::Chunks.of(b"0\r\nHos: x\r\n\r\nGET"), Ok(Some(13))));
    for bad in ["Host: x", "hOST:x", "Host : x", "Transfer-Encoding: chunked", "GET / HTTP/1.1"] {
        assert!(Length::Chunks.of(format!("0\r\n{bad}\r\n\r\n").as_bytes()).is_err(), "{bad}");
    }
}
