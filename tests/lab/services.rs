//! Services of the world in which the server speaks first, or TLS begins behind another protocol.

use std::io::{self, BufRead, BufReader, Read, Write};

/// Where the world is an SSH server, as far as its banner.
pub(crate) const SSH: u16 = 22;

/// Where TLS begins behind another protocol: the name that `openssl s_client -starttls` has for it,
/// and the port.
pub(crate) const UPGRADES: [(&str, u16); 4] =
    [("smtp", 587), ("imap", 143), ("pop3", 110), ("postgres", 5432)];

/// Where the world is a web server that answers every request of a connection.
pub(crate) const KEPT: u16 = 8080;

/// Every port of this file.
pub(crate) fn ports() -> impl Iterator<Item = u16> {
    UPGRADES.into_iter().map(|(_, port)| port).chain([SSH, KEPT, super::answers::PORT])
}

/// Answers each request of a connection, whatever its Host and whatever was asked before: one that
/// asks for another protocol or a tunnel gets it, and what follows is answered as a request again.
/// `came` is told of each byte.
pub(crate) fn keep(stream: &mut (impl Read + Write), came: impl Fn(&[u8])) -> io::Result<()> {
    let mut request: Vec<u8> = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 {
        came(&byte);
        request.push(byte[0]);
        let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let (head, body) = request.split_at(end + 4);
        let head = String::from_utf8_lossy(head).to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length = length.map_or(0, |length| length.trim().parse().unwrap_or(0));
        let is_whole = if head.contains("transfer-encoding: chunked") {
            body.ends_with(b"0\r\n\r\n")
        } else {
            body.len() >= length
        };
        if !is_whole {
            continue;
        }
        let greeting = super::role::GREETING;
        if head.starts_with("connect ") {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        } else if head.contains("upgrade: ") {
            let switch =
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
            stream.write_all(switch.as_bytes())?;
        } else {
            let length = greeting.len();
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{greeting}")?;
        }
        request.clear();
    }
    Ok(())
}

/// Says its banner, and leaves when the client has said its own.
pub(crate) fn ssh(stream: &mut (impl Read + Write)) -> io::Result<()> {
    stream.write_all(b"SSH-2.0-laboratory\r\n")?;
    BufReader::new(stream).read_line(&mut String::new()).map(drop)
}

/// Speaks in the clear until TLS is to begin. Nothing that the client says behind its request for
/// TLS may have been read by then: one byte at a time. A client that greets with a name in which
/// `no-tls` stands is told that there is none.
pub(crate) fn upgrade(port: u16, stream: &mut (impl Read + Write)) -> io::Result<()> {
    let greeting: &[u8] = match port {
        587 => b"220-world\r\n220 ESMTP\r\n",
        143 => b"* OK IMAP4rev1\r\n",
        110 => b"+OK world\r\n",
        _ => b"",
    };
    stream.write_all(greeting)?;
    let mut has_tls = true;
    loop {
        let mut line = Vec::new();
        let mut byte = [0];
        while !(line.ends_with(b"\n") || port == 5432 && line.len() == 8) {
            stream.read_exact(&mut byte)?;
            line.push(byte[0]);
        }
        let text = String::from_utf8_lossy(&line).trim().to_owned();
        let tag = text.split(' ').next().unwrap_or_default().to_owned();
        let (reply, upgrade) = match (port, text.as_str()) {
            (587, "STARTTLS") if has_tls => ("220 go\r\n".to_owned(), true),
            (587, "STARTTLS") => ("454 no\r\n".to_owned(), false),
            (587, hello) if hello.starts_with("EHLO") => {
                has_tls = !hello.contains("no-tls");
                ("250-world\r\n250-SIZE 9000\r\n250 STARTTLS\r\n".to_owned(), false)
            }
            (587, _) => (format!("250 world heard {tag}\r\n"), false),
            (143, command) if command.ends_with("STARTTLS") => {
                (format!("* OK wait\r\n{tag} OK go\r\n"), true)
            }
            (143, _) => (format!("* CAPABILITY IMAP4rev1 STARTTLS\r\n{tag} OK\r\n"), false),
            (110, "CAPA") => ("+OK\r\nSTLS\r\n.\r\n".to_owned(), false),
            (110, command) => ("+OK\r\n".to_owned(), command == "STLS"),
            _ => ("S".to_owned(), true),
        };
        stream.write_all(reply.as_bytes())?;
        if upgrade {
            return Ok(());
        }
    }
}
