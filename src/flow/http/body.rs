//! Passes bodies on: tells how long they are, and writes them anew in the one reading that they have
//! (RFC 9112 §6, §7.1).

use std::cell::Cell;
use std::io::{self, Write as _};

use tokio::task::yield_now;

use super::fields::{is_forbidden_in_trailer, is_token};
use super::held::Held;
use crate::net::socket::TcpSocket;

/// How long a message's body is (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none.
    None,
    /// So many bytes.
    Length(u64),
    /// As many chunks as come.
    Chunked,
    /// Up to the end of the connection; of an answer alone.
    UntilClose,
}

/// The longest line that begins a chunk, its extensions included, and all trailers together.
const CHUNK_LINE_MAX: usize = 4 * 1024;
const TRAILERS_MAX: usize = 16 * 1024;

/// Why a body went no further.
#[derive(Debug)]
pub(super) enum Fault {
    /// Its sender broke the connection off.
    From,
    /// Its sender ended before it did.
    Short,
    /// It is no body of its framing.
    Malformed,
    /// Its receiver takes no more.
    To,
    /// Nobody wants the rest.
    Stopped,
}

/// The way from one side to the other.
pub(super) struct Passage<'a, C> {
    pub(super) from: &'a TcpSocket,
    pub(super) held: &'a mut Held,
    pub(super) to: &'a TcpSocket,
    /// Is told of each byte that was written.
    pub(super) count: C,
    /// Set where nothing more may be written.
    pub(super) stopped: &'a Cell<bool>,
    /// Reads so far.
    pub(super) turns: usize,
}

/// Reads before other connections have their turn.
const TURN: usize = 16;

impl<C: Fn(usize)> Passage<'_, C> {
    /// Passes a body on. `in_chunks`: whether it is written in chunks, which it is where it came so
    /// unless its receiver knows none.
    pub(super) async fn pass(&mut self, framing: Framing, in_chunks: bool) -> Result<(), Fault> {
        match framing {
            Framing::None => Ok(()),
            Framing::Length(length) => self.pass_length(length).await,
            Framing::Chunked => self.pass_chunks(in_chunks).await,
            Framing::UntilClose => self.pass_until_close(in_chunks).await,
        }
    }

    async fn pass_length(&mut self, mut left: u64) -> Result<(), Fault> {
        while left > 0 {
            if self.held.bytes().is_empty() && !self.more().await? {
                return Err(Fault::Short);
            }
            let most = usize::try_from(left).unwrap_or(usize::MAX);
            let part = self.held.bytes();
            let part = part.get(..most).unwrap_or(part);
            let length = part.len();
            put(self.to, part, &self.count, self.stopped).await?;
            self.held.used(length);
            left -= length as u64;
        }
        Ok(())
    }

    async fn pass_until_close(&mut self, in_chunks: bool) -> Result<(), Fault> {
        let mut chunk = Vec::new();
        loop {
            if self.held.bytes().is_empty() && !self.more().await? {
                break;
            }
            let part = self.held.bytes();
            let length = part.len();
            if in_chunks {
                chunk.clear();
                write_chunk(&mut chunk, part);
                put(self.to, &chunk, &self.count, self.stopped).await?;
            } else {
                put(self.to, part, &self.count, self.stopped).await?;
            }
            self.held.used(length);
        }
        if in_chunks {
            put(self.to, b"0\r\n\r\n", &self.count, self.stopped).await?;
        }
        Ok(())
    }

    async fn pass_chunks(&mut self, in_chunks: bool) -> Result<(), Fault> {
        let mut chunks = Chunks::new(in_chunks);
        let mut out = Vec::new();
        loop {
            out.clear();
            let read = chunks.read(self.held, &mut out);
            // What came whole before a fault is a part of the body still.
            put(self.to, &out, &self.count, self.stopped).await?;
            match read {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(Malformed) => return Err(Fault::Malformed),
            }
            if !self.more().await? {
                return Err(Fault::Short);
            }
        }
    }

    /// Reads on; `false` at the end.
    async fn more(&mut self) -> Result<bool, Fault> {
        self.turns += 1;
        if self.turns.is_multiple_of(TURN) {
            // A fast pair of peers must not keep the thread from the others.
            yield_now().await;
        }
        self.held.more(self.from).await.map(|read| read > 0).map_err(|_| Fault::From)
    }
}

/// Writes everything.
pub(super) async fn put(
    to: &TcpSocket,
    mut bytes: &[u8],
    count: &impl Fn(usize),
    stopped: &Cell<bool>,
) -> Result<(), Fault> {
    while !bytes.is_empty() {
        if stopped.get() {
            return Err(Fault::Stopped);
        }
        let sent = match to.send(bytes, false) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                to.writable().await.map_err(|_| Fault::To)?;
                continue;
            }
            sent => sent.map_err(|_| Fault::To)?,
        };
        count(sent);
        bytes = bytes.get(sent..).unwrap_or_default();
    }
    Ok(())
}

/// One chunk of these bytes.
fn write_chunk(out: &mut Vec<u8>, bytes: &[u8]) {
    // Into a vector nothing fails.
    write!(out, "{:x}\r\n", bytes.len()).ok();
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// What is no chunked body.
#[derive(Debug, PartialEq, Eq)]
struct Malformed;

/// Reads a chunked body and writes it anew: without extensions, which nobody has to know, with its
/// trailers. Strict, since what two readers end in different places is two requests to one of them.
struct Chunks {
    next: Next,
    in_chunks: bool,
    trailers: usize,
}

#[derive(Clone, Copy)]
enum Next {
    /// The line that begins a chunk.
    Size,
    /// So many bytes of the chunk.
    Data(u64),
    /// The line's end behind them.
    End,
    /// A trailer, or the empty line behind the last one.
    Trailer,
}

impl Chunks {
    const fn new(in_chunks: bool) -> Self {
        Self { next: Next::Size, in_chunks, trailers: 0 }
    }

    /// Reads what is held, up to the end of the body; `true` is that end.
    fn read(&mut self, held: &mut Held, out: &mut Vec<u8>) -> Result<bool, Malformed> {
        loop {
            let bytes = held.bytes();
            match self.next {
                Next::Size => {
                    let Some((line, length)) = line(bytes, CHUNK_LINE_MAX)? else {
                        return Ok(false);
                    };
                    let size = size(line)?;
                    held.used(length);
                    self.next = if size == 0 { Next::Trailer } else { Next::Data(size) };
                    if size == 0 && self.in_chunks {
                        out.extend_from_slice(b"0\r\n");
                    }
                }
                Next::Data(left) => {
                    let most = usize::try_from(left).unwrap_or(usize::MAX);
                    let part = bytes.get(..most).unwrap_or(bytes);
                    let length = part.len();
                    if length == 0 {
                        return Ok(false);
                    }
                    if self.in_chunks {
                        write_chunk(out, part);
                    } else {
                        out.extend_from_slice(part);
                    }
                    held.used(length);
                    let left = left - length as u64;
                    self.next = if left == 0 { Next::End } else { Next::Data(left) };
                }
                Next::End => match bytes {
                    [b'\r', b'\n', ..] => {
                        held.used(2);
                        self.next = Next::Size;
                    }
                    [] | [b'\r'] => return Ok(false),
                    _ => return Err(Malformed),
                },
                Next::Trailer => {
                    let room = TRAILERS_MAX.saturating_sub(self.trailers);
                    let Some((line, length)) = line(bytes, room)? else { return Ok(false) };
                    if !line.is_empty() && !is_field(line) {
                        return Err(Malformed);
                    }
                    let goes_on = line.is_empty() || !is_forbidden_in_trailer(line);
                    if self.in_chunks && goes_on {
                        out.extend_from_slice(line);
                        out.extend_from_slice(b"\r\n");
                    }
                    let is_last = line.is_empty();
                    self.trailers += length;
                    held.used(length);
                    if is_last {
                        return Ok(true);
                    }
                }
            }
        }
    }
}

/// The next line, without its end, and its length with it; `None` where its end has not come.
fn line(bytes: &[u8], most: usize) -> Result<Option<(&[u8], usize)>, Malformed> {
    let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
        return if bytes.len() > most { Err(Malformed) } else { Ok(None) };
    };
    let line = bytes.get(..end).unwrap_or_default();
    let line = line.strip_suffix(b"\r").ok_or(Malformed)?;
    let is_clean = |byte: &u8| !byte.is_ascii_control() || *byte == b'\t';
    if end >= most || !line.iter().all(is_clean) {
        return Err(Malformed);
    }
    Ok(Some((line, end + 1)))
}

/// The size that a chunk's first line says: hexadecimal digits, and extensions behind a semicolon.
fn size(line: &[u8]) -> Result<u64, Malformed> {
    let end = line.iter().position(|&byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (digits, rest) = line.split_at_checked(end).ok_or(Malformed)?;
    if !(rest.is_empty() || rest.trim_ascii_start().starts_with(b";")) || digits.len() > 16 {
        return Err(Malformed);
    }
    let digits = std::str::from_utf8(digits).map_err(|_| Malformed)?;
    u64::from_str_radix(digits, 16).map_err(|_| Malformed)
}

/// Whether a line is a field (RFC 9112 §5), no folded one.
fn is_field(line: &[u8]) -> bool {
    let colon = line.iter().position(|&byte| byte == b':');
    let name = colon.and_then(|colon| line.get(..colon)).unwrap_or_default();
    !name.is_empty() && name.iter().copied().all(is_token)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of a body that arrives in pieces of `step` bytes, and what is left behind it.
    fn anew(body: &[u8], step: usize, in_chunks: bool) -> Result<(Vec<u8>, Vec<u8>), Malformed> {
        let (mut chunks, mut out) = (Chunks::new(in_chunks), Vec::new());
        let mut held = Vec::new();
        let mut ended = false;
        for part in body.chunks(step) {
            held.extend_from_slice(part);
            let mut now = Held::with(std::mem::take(&mut held));
            if !ended {
                ended = chunks.read(&mut now, &mut out)?;
            }
            held = now.take();
        }
        if ended { Ok((out, held)) } else { Err(Malformed) }
    }

    #[test]
    fn a_body_is_written_anew_whatever_pieces_it_comes_in() {
        let body = b"3;name=\"v\"\r\nabc\r\n00A\r\n0123456789\r\n0;last\r\nX-Sum: 42\r\n\
                     Content-Length: 3\r\n\r\nGET /";
        for step in 1..=body.len() {
            let (out, rest) = anew(body, step, true).unwrap();
            assert!(out.ends_with(b"0\r\nX-Sum: 42\r\n\r\n"), "{}", out.escape_ascii());
            assert_eq!(rest, b"GET /", "{step}");
            let (plain, rest) = anew(body, step, false).unwrap();
            assert_eq!((plain.as_slice(), rest.as_slice()), (&b"abc0123456789"[..], &b"GET /"[..]));
            let (again, _) = anew(&out, step, false).unwrap();
            assert_eq!(again, plain, "what was written is read as the same");
        }
        let (whole, _) = anew(b"3\r\nabc\r\n0\r\n\r\n", 100, true).unwrap();
        assert_eq!(whole, b"3\r\nabc\r\n0\r\n\r\n");
    }

    #[test]
    fn what_could_end_in_two_places_is_no_body() {
        for body in [
            &b"3\nabc\r\n0\r\n\r\n"[..],
            b"3\r\nabc\n0\r\n\r\n",
            b"3\r\nabcd\r\n0\r\n\r\n",
            b"+3\r\nabc\r\n0\r\n\r\n",
            b"0x3\r\nabc\r\n0\r\n\r\n",
            b" 3\r\nabc\r\n0\r\n\r\n",
            b"3 3\r\nabc\r\n0\r\n\r\n",
            b"\r\n3\r\nabc\r\n0\r\n\r\n",
            b"3;\n\r\nabc\r\n0\r\n\r\n",
            b"3;a\rb\r\nabc\r\n0\r\n\r\n",
            b"3;a\0\r\nabc\r\n0\r\n\r\n",
            b"-1\r\nabc\r\n0\r\n\r\n",
            b"10000000000000003\r\nabc\r\n0\r\n\r\n",
            b"3\r\nabc\r\n0\r\n\n",
            b"3\r\nabc\r\n0\r\n folded\r\n\r\n",
            b"3\r\nabc\r\n0\r\nHost : x\r\n\r\n",
            b"3\r\nabc\r\n0\r\nno colon\r\n\r\n",
            b"3\r\nabc\r\n0\r\n",
        ] {
            for step in [1, 3, body.len()] {
                assert_eq!(anew(body, step, true), Err(Malformed), "{}", body.escape_ascii());
            }
        }
        let long = [&b"3;"[..], &vec![b'a'; CHUNK_LINE_MAX], b"\r\nabc\r\n0\r\n\r\n"].concat();
        assert_eq!(anew(&long, 1000, true), Err(Malformed));
        let trailers = [&b"0\r\n"[..], &b"A: b\r\n".repeat(TRAILERS_MAX / 6 + 1), b"\r\n"].concat();
        assert_eq!(anew(&trailers, 1000, true), Err(Malformed));
    }
}
