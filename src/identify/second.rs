//! The hello behind a HelloRetryRequest (RFC 8446 §4.1.4): the client sends its ClientHello twice,
//! and a server that asks for that answers the second, whatever the first was judged by.

use std::sync::Arc;

use super::name::HostName;
use super::tls::{
    ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, CLIENT_HELLO, Found, HANDSHAKE, HELLO_MAX, Hello,
    RECORD_HEADER, Walked, read,
};

/// Bytes behind the first hello that are followed. Before a second hello stand at most a
/// ChangeCipherSpec and early data, of which servers skip 16 KiB by default (RFC 8446 §4.2.10);
/// the hello itself may have 64 KiB.
const FOLLOWED_MAX: usize = 128 * 1024;

/// What the client's bytes behind its first hello say about a second one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// One may still come.
    Goes,
    /// None will, or it named the same host: nothing is to be watched any more.
    Over,
    /// It names another host than the first, hides a name where that hid none, or cannot be read: the
    /// connection is to be ended, and the bytes in which that was found are not to be sent on.
    Changed,
}

/// Follows the records of a client behind its first hello, until no second one can come. Holds the
/// bytes of a second hello while it is not whole, and nothing else.
#[derive(Debug)]
pub struct SecondHello {
    /// In as many bytes as it has: this is kept for as long as a destination is silent.
    first: Option<Arc<str>>,
    /// The first hello has the ECH extension.
    ech: bool,
    header: [u8; RECORD_HEADER],
    in_header: usize,
    /// Bytes of the current record that have not come.
    left: usize,
    followed: usize,
    /// The second hello, its record headers included, as far as it has come.
    hello: Vec<u8>,
    /// How far its records were walked.
    walked: Walked,
    /// Length of `hello` below which another look would tell nothing.
    look_at: usize,
    watch: Watch,
}

impl SecondHello {
    /// Begins behind the first hello of `seen`, all that the client has sent from byte 0, and
    /// follows what stands behind it. `None` where that is no whole, well-formed hello.
    #[must_use]
    pub fn after(seen: &[u8]) -> Option<Self> {
        let mut hello = Hello::EMPTY;
        let Found::Hello = read(seen, &mut Walked::default(), &mut hello) else { return None };
        Some(Self::behind(seen, hello.name.map(|name| name.as_str().into()), hello.ech))
    }

    /// As [`SecondHello::after`], where the hello was read already: its name, and whether it has the
    /// ECH extension.
    #[must_use]
    pub fn behind(seen: &[u8], first: Option<Arc<str>>, ech: bool) -> Self {
        let mut this = Self {
            first,
            ech,
            header: [0; RECORD_HEADER],
            in_header: 0,
            left: 0,
            followed: 0,
            hello: Vec::new(),
            walked: Walked::default(),
            look_at: 0,
            watch: Watch::Goes,
        };
        match behind_hello(seen) {
            Some(rest) => {
                this.feed(rest);
            }
            // RFC 8446 §5.1: no message shares a record with the end of a ClientHello.
            None => this.watch = Watch::Changed,
        }
        this
    }

    /// What is known so far.
    #[must_use]
    pub const fn watch(&self) -> Watch {
        self.watch
    }

    /// Follows the client's next bytes. Each is looked at once, headers alone but for a hello.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Watch {
        while self.watch == Watch::Goes {
            let Some((&byte, rest)) = bytes.split_first() else { break };
            if self.left > 0 {
                let (part, rest) = bytes.split_at_checked(self.left).unwrap_or((bytes, &[]));
                bytes = rest;
                self.left -= part.len();
                self.payload(part);
            } else {
                bytes = rest;
                self.header_byte(byte);
            }
        }
        self.watch
    }

    fn header_byte(&mut self, byte: u8) {
        if let Some(at) = self.header.get_mut(self.in_header) {
            *at = byte;
        }
        self.in_header += 1;
        if self.in_header < RECORD_HEADER {
            return;
        }
        self.in_header = 0;
        let [kind, _, _, high, low] = self.header;
        self.left = usize::from(u16::from_be_bytes([high, low]));
        self.followed += RECORD_HEADER + self.left;
        self.watch = match kind {
            // A hello that another record interrupts, or that no server would read on.
            _ if !self.hello.is_empty() && kind != HANDSHAKE => Watch::Changed,
            HANDSHAKE if self.hello.len() > 2 * HELLO_MAX => Watch::Changed,
            HANDSHAKE => {
                self.hello.extend_from_slice(&self.header);
                Watch::Goes
            }
            CHANGE_CIPHER_SPEC | ALERT | APPLICATION_DATA if self.followed <= FOLLOWED_MAX => {
                Watch::Goes
            }
            _ => Watch::Over,
        };
    }

    fn payload(&mut self, part: &[u8]) {
        if self.hello.is_empty() {
            return; // of a record that is skipped
        }
        // The first handshake message behind the hello is a hello, or none will come: TLS 1.2 goes
        // on with a key exchange or a certificate, TLS 1.3 encrypts.
        if self.hello.len() == RECORD_HEADER && part.first() != Some(&CLIENT_HELLO) {
            self.watch = Watch::Over;
            self.hello = Vec::new();
            return;
        }
        self.hello.extend_from_slice(part);
        if self.hello.len() < self.look_at {
            return;
        }
        let mut second = Hello::EMPTY;
        self.watch = match read(&self.hello, &mut self.walked, &mut second) {
            Found::Part { missing, .. } => {
                self.look_at = self.hello.len() + missing;
                Watch::Goes
            }
            Found::Hello if self.is_same(&second) => Watch::Over,
            Found::Hello | Found::Fault(_) | Found::Other => Watch::Changed,
        };
        if self.watch != Watch::Goes {
            self.hello = Vec::new();
        }
    }

    fn is_same(&self, second: &Hello) -> bool {
        let name = second.name.as_ref().map(HostName::as_str);
        // As `Hello::covers`, for a hello of which only so much is kept.
        name == self.first.as_deref() && second.name_fault.is_none() && (self.ech || !second.ech)
    }
}

/// Where the hello ends that begins `seen`, all that the client has sent from byte 0; `None` where it
/// is not whole, or does not end with its record, as it must (RFC 8446 §5.1).
#[must_use]
pub fn hello_end(seen: &[u8]) -> Option<usize> {
    Some(seen.len() - behind_hello(seen)?.len())
}

/// The bytes behind a whole hello; `None` where it does not end with its record.
fn behind_hello(seen: &[u8]) -> Option<&[u8]> {
    let (mut rest, mut have, mut length) = (seen, 0, [0; 4]);
    loop {
        let (&[_, _, _, high, low], records) = rest.split_first_chunk::<RECORD_HEADER>()?;
        let (payload, behind) =
            records.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
        for (to, from) in length.iter_mut().skip(have).zip(payload) {
            *to = *from;
        }
        have += payload.len();
        rest = behind;
        let [_, a, b, c] = length.map(usize::from);
        let need = length.len() + (a << 16 | b << 8 | c);
        if have >= length.len() && have >= need {
            return (have == need).then_some(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tls::tests::{hello, hello_with};
    use super::*;

    const CCS: [u8; 6] = [20, 3, 3, 0, 1, 1];

    fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [&[kind, 3, 3][..], &length, payload].concat()
    }

    /// What is found when everything behind the first hello comes in pieces of `step`.
    fn watched(behind: &[u8], step: usize) -> Watch {
        let mut second = SecondHello::after(&hello(b"a.example")).unwrap();
        behind.chunks(step).for_each(|piece| {
            second.feed(piece);
        });
        second.watch()
    }

    #[test]
    fn a_second_hello_of_another_name_is_found_in_any_split_and_behind_early_data() {
        let other = hello(b"b.example");
        let early = record(APPLICATION_DATA, &[7; 900]);
        let body = &other[RECORD_HEADER..];
        let small: Vec<u8> = body.chunks(3).flat_map(|part| record(HANDSHAKE, part)).collect();
        for behind in [
            other.clone(),
            small,
            [&CCS[..], &other].concat(),
            [&CCS[..], &early, &early, &other].concat(),
        ] {
            for step in [1, 2, 7, 100, behind.len()] {
                assert_eq!(watched(&behind, step), Watch::Changed, "in steps of {step}");
            }
            assert_eq!(watched(&behind[..behind.len() - 1], 5), Watch::Goes);
        }
    }

    #[test]
    fn a_second_hello_of_the_same_name_ends_the_watch() {
        for behind in [hello(b"A.example."), [&CCS[..], &hello(b"a.example")].concat()] {
            for step in [1, 9, behind.len()] {
                assert_eq!(watched(&behind, step), Watch::Over);
            }
        }
    }

    #[test]
    fn a_second_hello_without_a_readable_name_is_another() {
        for name in [&b"a..example"[..], b"192.0.2.1"] {
            assert_eq!(watched(&hello(name), 8), Watch::Changed);
        }
        let mut cut = hello(b"a.example");
        cut.truncate(40);
        assert_eq!(watched(&[&cut[..], &CCS].concat(), 8), Watch::Goes, "inside its record");
        let torn = [&record(HANDSHAKE, &cut[5..20]), &CCS[..]].concat();
        assert_eq!(watched(&torn, 8), Watch::Changed);
    }

    #[test]
    fn a_second_hello_that_hides_a_name_where_the_first_hid_none_is_another() {
        let [bare, hiding] = [&[][..], &[0xfe0d]].map(|more| hello_with(b"a.example", more));
        for (first, second, watch) in [
            (&bare, &hiding, Watch::Changed),
            (&hiding, &hiding, Watch::Over),
            (&hiding, &bare, Watch::Over),
        ] {
            assert_eq!(SecondHello::after(first).unwrap().feed(second), watch);
        }
    }

    #[test]
    fn a_connection_that_goes_on_as_tls_1_2_or_for_long_is_watched_no_more() {
        let key_exchange = record(HANDSHAKE, &[16, 0, 0, 2, 1, 2]);
        assert_eq!(watched(&key_exchange, 1), Watch::Over);
        assert_eq!(watched(b"no records at all", 1), Watch::Over);
        let data = record(APPLICATION_DATA, &[7; 16_000]);
        assert_eq!(watched(&data, 1_000), Watch::Goes);
        assert_eq!(watched(&data.repeat(9), 1_000), Watch::Over);
    }

    #[test]
    fn what_stands_behind_the_hello_in_the_first_bytes_is_followed() {
        let both = [hello(b"a.example"), hello(b"b.example")].concat();
        assert_eq!(SecondHello::after(&both).unwrap().watch(), Watch::Changed);
        let mut shared = hello(b"a.example");
        shared.extend(&hello(b"b.example")[RECORD_HEADER..]);
        let length = u16::try_from(shared.len() - RECORD_HEADER).unwrap().to_be_bytes();
        shared[3..5].copy_from_slice(&length);
        assert_eq!(SecondHello::after(&shared).unwrap().watch(), Watch::Changed);
        assert!(SecondHello::after(b"GET / HTTP/1.1\r\n").is_none());
        assert!(SecondHello::after(&hello(b"a.example")[..30]).is_none());
    }
}
