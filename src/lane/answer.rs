//! What the server's first bytes answer: the hello, a request for another one, or something else.

/// The random of a ServerHello that is a HelloRetryRequest (RFC 8446 §4.1.3): SHA-256 of
/// "HelloRetryRequest".
pub const HELLO_RETRY_REQUEST: [u8; 32] =
    *b"\xcf\x21\xad\x74\xe5\x9a\x61\x11\xbe\x1d\x8c\x02\x1e\x65\xb8\x91\xc2\xa2\x11\x16\x7a\xbb\x8c\x5e\x07\x9e\x09\xe2\xc8\xa8\x33\x9c";

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const HELLO_REQUEST: u8 = 0;
const SERVER_HELLO: u8 = 2;

const RECORD_HEADER: usize = 5;
/// Lengths of the fields of a ServerHello that are read.
const VERSION: u32 = 2;
const RANDOM: u32 = 32;
/// Type, length, version and random of a ServerHello.
const MESSAGE: usize = 4 + 2 + 32;

/// What a server has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// It asks for a second hello.
    Retry,
    /// The hello, or nothing of TLS: it asks for no other one.
    Final,
}

/// Follows the records of a server from its first byte.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answers {
    /// The header of the record, as far as it has come.
    header: [u8; RECORD_HEADER],
    in_header: u8,
    /// Bytes of the record that have not come.
    left: u16,
    /// The beginning of the handshake message, as far as it has come.
    message: [u8; MESSAGE],
    in_message: u8,
    /// Bytes of the message that nobody has to read, and that have not come.
    skipped: u32,
}

impl Answers {
    /// Nothing has come.
    pub(super) const NONE: Self = Self {
        header: [0; RECORD_HEADER],
        in_header: 0,
        left: 0,
        message: [0; MESSAGE],
        in_message: 0,
        skipped: 0,
    };

    /// Reads the next bytes of the server. What they answer at last, where they answer.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Option<Answer> {
        let mut answer = None;
        while let Some((&byte, rest)) = bytes.split_first() {
            if self.left == 0 {
                bytes = rest;
                if !self.header_byte(byte) {
                    return Some(Answer::Final);
                }
                continue;
            }
            let (part, rest) = bytes.split_at_checked(self.left.into()).unwrap_or((bytes, &[]));
            bytes = rest;
            self.left -= u16::try_from(part.len()).unwrap_or(self.left);
            if self.header.first() == Some(&HANDSHAKE) {
                answer = self.handshake(part).or(answer);
                if answer == Some(Answer::Final) {
                    return answer;
                }
            }
        }
        answer
    }

    /// Whether the record can be one before the answer: a warning (`unrecognized_name`), a
    /// ChangeCipherSpec behind a HelloRetryRequest (RFC 8446 appendix D.4), a handshake message.
    fn header_byte(&mut self, byte: u8) -> bool {
        if let Some(place) = self.header.get_mut(usize::from(self.in_header)) {
            *place = byte;
        }
        self.in_header += 1;
        if usize::from(self.in_header) == RECORD_HEADER {
            self.in_header = 0;
            let [_, _, _, high, low] = self.header;
            self.left = u16::from_be_bytes([high, low]);
        }
        matches!(self.header.first(), Some(&(CHANGE_CIPHER_SPEC | ALERT | HANDSHAKE)))
    }

    fn handshake(&mut self, mut part: &[u8]) -> Option<Answer> {
        let mut answer = None;
        while let Some((&byte, rest)) = part.split_first() {
            if self.skipped > 0 {
                let skipped = part.len().min(usize::try_from(self.skipped).unwrap_or(usize::MAX));
                part = part.get(skipped..).unwrap_or_default();
                self.skipped -= u32::try_from(skipped).unwrap_or(self.skipped);
                continue;
            }
            part = rest;
            if let Some(place) = self.message.get_mut(usize::from(self.in_message)) {
                *place = byte;
            }
            self.in_message += 1;
            let [kind, a, b, c, _, _, random @ ..] = &self.message;
            let length = u32::from_be_bytes([0, *a, *b, *c]);
            match (*kind, usize::from(self.in_message)) {
                // A server may send it at any time, and it says nothing (RFC 5246 §7.4.1.1).
                (HELLO_REQUEST, 4) => (self.in_message, self.skipped) = (0, length),
                (SERVER_HELLO, MESSAGE) if *random == HELLO_RETRY_REQUEST => {
                    self.in_message = 0;
                    self.skipped = length.saturating_sub(VERSION + RANDOM);
                    answer = Some(Answer::Retry);
                }
                (HELLO_REQUEST | SERVER_HELLO, 1..MESSAGE) => {}
                _ => return Some(Answer::Final),
            }
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [&[kind, 3, 3][..], &length, payload].concat()
    }

    fn server_hello(random: [u8; 32]) -> Vec<u8> {
        let body = [&[3, 3][..], &random, &[0, 0x13, 1, 0, 0, 0]].concat();
        [&[SERVER_HELLO, 0, 0, u8::try_from(body.len()).unwrap()][..], &body].concat()
    }

    /// Every answer to the bytes, cut into pieces of `step`.
    fn answers(bytes: &[u8], step: usize) -> Vec<Answer> {
        let mut answers = Answers::NONE;
        bytes.chunks(step).filter_map(|piece| answers.read(piece)).collect()
    }

    #[test]
    fn a_server_hello_is_told_from_a_request_for_another_hello_in_any_pieces() {
        let [retry, hello] = [HELLO_RETRY_REQUEST, [7; 32]].map(server_hello);
        let warning = record(ALERT, &[1, 112]);
        let changed = record(CHANGE_CIPHER_SPEC, &[1]);
        let asked = record(HANDSHAKE, &[HELLO_REQUEST, 0, 0, 0]);
        let small: Vec<u8> = retry.chunks(3).flat_map(|part| record(HANDSHAKE, part)).collect();
        let (retry, hello) = (record(HANDSHAKE, &retry), record(HANDSHAKE, &hello));
        for (bytes, wanted) in [
            (hello.clone(), vec![Answer::Final]),
            ([warning, asked, hello.clone()].concat(), vec![Answer::Final]),
            (retry.clone(), vec![Answer::Retry]),
            (small, vec![Answer::Retry]),
            ([&retry[..], &changed].concat(), vec![Answer::Retry]),
            ([&retry[..], &changed, &hello].concat(), vec![Answer::Retry, Answer::Final]),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), vec![Answer::Final]),
            (record(HANDSHAKE, &[11, 0, 0, 0]), vec![Answer::Final]),
        ] {
            for step in [1, 2, 7, 40] {
                let mut found = answers(&bytes, step);
                found.dedup();
                found.truncate(wanted.len());
                assert_eq!(found, wanted, "{bytes:?} in pieces of {step}");
            }
        }
        assert_eq!(answers(&hello[..RECORD_HEADER + MESSAGE - 1], 9), []);
    }
}
