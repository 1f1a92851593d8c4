//! Services of the world in which the server speaks first, or TLS begins behind another protocol.

use std::io::{self, BufRead, BufReader, Read, Write};

/// Where the world is an SSH server, as far as its banner.
pub(crate) const SSH: u16 = 22;

/// Where TLS begins behind another protocol: the name that `openssl s_client -starttls` has for it,
/// and the port.
pub(crate) const UPGRADES: [(&str, u16); 3] = [("smtp", 587), ("imap", 143), ("postgres", 5432)];

/// Every port of this file.
pub(crate) fn ports() -> impl Iterator<Item = u16> {
    UPGRADES.into_iter().map(|(_, port)| port).chain([SSH])
}

/// Says its banner, and leaves when the client has said its own.
pub(crate) fn ssh(stream: &mut (impl Read + Write)) -> io::Result<()> {
    stream.write_all(b"SSH-2.0-laboratory\r\n")?;
    BufReader::new(stream).read_line(&mut String::new()).map(drop)
}

/// Speaks in the clear until TLS is to begin. Nothing that the client says behind its request for
/// TLS may have been read by then, and clients wait for the answer.
pub(crate) fn upgrade(port: u16, stream: &mut (impl Read + Write)) -> io::Result<()> {
    match port {
        587 => lines(stream, "220 world ESMTP\r\n", |line| match line {
            "STARTTLS" => ("220 go on\r\n", true),
            _ => ("250-world\r\n250 STARTTLS\r\n", false),
        }),
        143 => lines(stream, "* OK world\r\n", |line| {
            if line.ends_with("STARTTLS") {
                (". OK go on\r\n", true)
            } else {
                ("* CAPABILITY IMAP4rev1 STARTTLS\r\n. OK\r\n", false)
            }
        }),
        _ => {
            // SSLRequest.
            stream.read_exact(&mut [0; 8])?;
            stream.write_all(b"S")
        }
    }
}

fn lines(
    stream: &mut (impl Read + Write),
    greeting: &str,
    answer: impl Fn(&str) -> (&'static str, bool),
) -> io::Result<()> {
    stream.write_all(greeting.as_bytes())?;
    loop {
        let mut line = String::new();
        // One byte at a time: what is behind the line is not ours.
        if BufReader::with_capacity(1, &mut *stream).read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (text, tls) = answer(line.trim());
        stream.write_all(text.as_bytes())?;
        if tls {
            return Ok(());
        }
    }
}
