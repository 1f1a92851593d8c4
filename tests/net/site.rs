//! A world that counts who comes, and a client that asks the gateway for it: helper processes of the
//! catalogue's rows about data.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::lab::role;

/// World addresses; the tables say where they are.
pub(crate) const FIRST: &str = "11.0.0.7";
pub(crate) const SECOND: &str = "11.1.0.7";

pub(crate) const PROXY: &str = "192.0.2.1:3128";

/// Answers a request with one, and anything else with itself; counts who came.
pub(crate) fn site() {
    let came = Arc::new(Mutex::new(BTreeMap::new()));
    for address in [FIRST, SECOND] {
        let listener = TcpListener::bind((address, 80)).unwrap();
        let came = Arc::clone(&came);
        thread::spawn(move || {
            for stream in listener.incoming() {
                *came.lock().unwrap().entry(address).or_insert(0_u64) += 1;
                // A client may go away at any moment.
                thread::spawn(move || drop(talk(stream.unwrap())));
            }
        });
    }
    role::serve(|_| json!(*came.lock().unwrap()));
}

fn talk(mut stream: TcpStream) -> io::Result<()> {
    let mut block = [0; 4_096];
    loop {
        let read = stream.read(&mut block)?;
        if read == 0 {
            return Ok(());
        }
        if block.starts_with(b"GET ") {
            stream
                .write_all(b"HTTP/1.1 200 -\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
            return stream.shutdown(std::net::Shutdown::Write);
        }
        stream.write_all(&block[..read])?;
    }
}

/// Asks the gateway for what it is told to.
pub(crate) fn visitor() {
    let mut kept = None;
    role::serve(|question| {
        let to = question["to"].as_str().unwrap_or_default();
        match question["do"].as_str() {
            Some("get") => json!(get(to)),
            Some("crowd") => crowd(question["times"].as_u64().unwrap()),
            Some("open") => {
                let (status, stream) = open(to);
                kept = stream;
                json!(status)
            }
            Some("say") => json!(kept.as_mut().is_some_and(say)),
            Some("end") => json!(kept.as_mut().map(end)),
            _ => panic!("the visitor does not understand {question}"),
        }
    });
}

fn get(to: &str) -> u16 {
    let host = if to.contains(':') { format!("[{to}]") } else { to.to_owned() };
    let head = format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let asked = || {
        let mut stream = TcpStream::connect(PROXY)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(head.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let status = answer.get(9..12).map(String::from_utf8_lossy);
        io::Result::Ok(status.and_then(|status| status.parse().ok()).unwrap_or_default())
    };
    asked().unwrap_or_default()
}

/// Four at once, each asking for both addresses in turn; how often which status came.
fn crowd(times: u64) -> Value {
    let one = move || {
        let mut seen = BTreeMap::new();
        for _ in 0..times {
            for to in [FIRST, SECOND] {
                *seen.entry(get(to).to_string()).or_insert(0_u64) += 1;
            }
        }
        seen
    };
    let all: Vec<_> = (0..4).map(|_| thread::spawn(one)).collect();
    let mut sum = BTreeMap::new();
    for (status, count) in all.into_iter().flat_map(|one| one.join().unwrap()) {
        *sum.entry(status).or_insert(0_u64) += count;
    }
    json!(sum)
}

fn open(to: &str) -> (u16, Option<TcpStream>) {
    let asked = || {
        let mut stream = TcpStream::connect(PROXY)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        write!(stream, "CONNECT {to}:80 HTTP/1.1\r\nHost: {to}:80\r\n\r\n")?;
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let status = String::from_utf8_lossy(&head[9..12]).parse().map_err(io::Error::other)?;
        io::Result::Ok((status, Some(stream)))
    };
    asked().unwrap_or_default()
}

/// Whether what is said comes back.
fn say(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    stream.write_all(b"?").and_then(|()| stream.read_exact(&mut byte)).is_ok() && byte == *b"?"
}

/// Waits until the other side ends the connection.
fn end(stream: &mut TcpStream) -> String {
    match stream.read(&mut [0; 64]) {
        Ok(0) => "closed".to_owned(),
        Ok(_) => "bytes".to_owned(),
        Err(e) if e.kind() == io::ErrorKind::ConnectionReset => "reset".to_owned(),
        Err(e) => e.to_string(),
    }
}
