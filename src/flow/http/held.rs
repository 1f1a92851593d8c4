//! Keeps bytes that were read ahead of what they are for.

use std::io;

use crate::net::buffer::read_shared;
use crate::net::socket::TcpSocket;

/// The most bytes that are read ahead: a head of the largest size, or what a client sends behind a
/// request that is not answered yet.
pub(super) const HELD_MAX: usize = 64 * 1024;

/// What one side has sent and nobody has used yet.
#[derive(Debug, Default)]
pub(in crate::flow) struct Held {
    bytes: Vec<u8>,
    /// How many of them were used.
    from: usize,
}

impl Held {
    /// Begins with bytes that were read elsewhere.
    pub(in crate::flow) const fn with(bytes: Vec<u8>) -> Self {
        Self { bytes, from: 0 }
    }

    /// The bytes.
    pub(in crate::flow) fn bytes(&self) -> &[u8] {
        self.bytes.get(self.from..).unwrap_or_default()
    }

    /// Whether there are as many as may be.
    pub(super) fn is_full(&self) -> bool {
        self.bytes().len() >= HELD_MAX
    }

    /// The first bytes are used.
    pub(in crate::flow) fn used(&mut self, count: usize) {
        self.from = self.from.saturating_add(count).min(self.bytes.len());
        if self.from == self.bytes.len() {
            self.bytes.clear();
            self.from = 0;
        }
    }

    /// All bytes, which are held here no longer.
    pub(in crate::flow) fn take(&mut self) -> Vec<u8> {
        let from = std::mem::take(&mut self.from);
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.drain(..from);
        bytes
    }

    /// Gives the memory back where nothing is in it: the next bytes may be long in coming.
    pub(in crate::flow) fn let_go(&mut self) {
        if self.bytes().is_empty() {
            *self = Self::default();
        }
    }

    /// Waits for more bytes; 0 is the end.
    ///
    /// # Errors
    /// The connection broke off.
    pub(super) async fn more(&mut self, from: &TcpSocket) -> io::Result<usize> {
        if self.from > 0 {
            self.bytes.drain(..self.from);
            self.from = 0;
        }
        let room = HELD_MAX.saturating_sub(self.bytes.len()).max(1);
        loop {
            from.readable().await?;
            match read_shared(from, room, |read| self.bytes.extend_from_slice(read)) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }
}
