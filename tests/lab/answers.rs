//! A web server of the world that answers as its paths say, well or badly.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Where it listens.
pub(crate) const PORT: u16 = 8081;

/// Body of the answers that have a short one.
pub(crate) const BODY: &str = "0123456789";

/// Serves one connection. `came` is told of each byte behind a head.
pub(crate) fn serve(mut stream: TcpStream, came: impl Fn(&[u8])) -> io::Result<()> {
    let mut held = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = held.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if more(&mut stream, &mut held)? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8_lossy(&held[..end]).into_owned();
        held.drain(..end);
        came(head.as_bytes());
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let path = path.split('/').next_back().unwrap_or_default().to_owned();
        if !answer(&mut stream, &path, &head.to_lowercase(), &mut held, &came)? {
            return Ok(());
        }
    }
}

fn more(stream: &mut TcpStream, held: &mut Vec<u8>) -> io::Result<usize> {
    let mut block = [0; 65_536];
    let read = stream.read(&mut block)?;
    held.extend(&block[..read]);
    Ok(read)
}

/// Whether the connection goes on.
fn answer(
    stream: &mut TcpStream,
    path: &str,
    head: &str,
    held: &mut Vec<u8>,
    came: &impl Fn(&[u8]),
) -> io::Result<bool> {
    const OK: &str = "HTTP/1.1 200 OK\r\n";
    let chunked = format!("a\r\n{BODY}\r\n0\r\n\r\n");
    let plain = |fields: &str| format!("{OK}{fields}\r\n{BODY}");
    let said = match path {
        "length-and-chunks" => {
            format!("{OK}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}")
        }
        "chunks-and-length" => {
            format!("{OK}Transfer-Encoding: chunked\r\nContent-Length: 300\r\n\r\n{chunked}")
        }
        "same-lengths" => plain("Content-Length: 10\r\nContent-Length: 10\r\n"),
        "list-of-lengths" => plain("Content-Length: 10, 10\r\n"),
        "other-lengths" => plain("Content-Length: 10\r\nContent-Length: 6\r\n"),
        "gzip-chunked" => {
            format!("{OK}Transfer-Encoding: gzip, chunked\r\n\r\n{chunked}")
        }
        "chunked-twice" => format!("{OK}Transfer-Encoding: chunked, chunked\r\n\r\n{chunked}"),
        "signed-length" => plain("Content-Length: +10\r\n"),
        "many-fields" => plain(&format!("{}Content-Length: 10\r\n", "A: b\r\n".repeat(120))),
        "blank-before-colon" => plain("Content-Length : 10\r\nX-A : b\r\n"),
        "no-status" => "SSH-2.0-laboratory\r\n\r\n".to_owned(),
        "hints" => {
            let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n";
            format!("{hints}{hints}{}", plain("Content-Length: 10\r\n"))
        }
        "hang" => {
            // Until the other side has had enough.
            while more(stream, held)? > 0 {}
            return Ok(false);
        }
        "drip" => {
            stream.write_all(format!("{OK}Transfer-Encoding: chunked\r\n\r\n").as_bytes())?;
            loop {
                stream.write_all(b"1\r\n.\r\n")?;
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        "refuse-the-body" | "ask-for-the-body" => {
            // A body that nobody asked for would be here by then.
            stream.set_read_timeout(Some(Duration::from_millis(700)))?;
            let early = more(stream, held).unwrap_or(0);
            stream.set_read_timeout(None)?;
            came(format!("early: {early};").as_bytes());
            if path == "refuse-the-body" {
                stream
                    .write_all(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n")?;
                // What comes now would be taken for another request.
                return Ok(true);
            }
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            plain("Content-Length: 10\r\n")
        }
        size if size.parse::<usize>().is_ok() => {
            let length: usize = size.parse().unwrap();
            stream.write_all(format!("{OK}Content-Length: {length}\r\n\r\n").as_bytes())?;
            stream.write_all(&vec![b'x'; length])?;
            return Ok(true);
        }
        _ => plain("Content-Length: 10\r\n"),
    };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut left = length.map_or(0, |length| length.trim().parse::<usize>().unwrap_or(0));
    loop {
        let part = left.min(held.len());
        held.drain(..part);
        left -= part;
        if left == 0 {
            break;
        }
        if more(stream, held)? == 0 {
            return Ok(false);
        }
    }
    if head.contains("transfer-encoding: chunked") {
        while !held.windows(5).any(|five| five == b"0\r\n\r\n") {
            if more(stream, held)? == 0 {
                return Ok(false);
            }
        }
        came(held);
        held.clear();
    }
    stream.write_all(said.as_bytes())?;
    Ok(true)
}
