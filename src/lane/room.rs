//! Where the bytes of a first flight are kept: rooms of two sizes, made before they are needed.

/// Bytes that a room of the usual size has: a hello is 500 to 2,000 bytes long.
pub const SMALL: usize = 2048;

/// Bytes that a flow may have held: what a client sends before it hears anything, ten segments of
/// Ethernet (RFC 6928), and the hello of a slow one.
pub const LARGE: usize = 16 * 1024;

/// Packets of one flow that are held.
pub const HELD_MAX: usize = 64;

/// Rooms that are not in use. Whoever runs the flows owns it; one that has none left gives a flow up.
#[derive(Debug)]
#[expect(clippy::vec_box, reason = "a flow has its room by a pointer, and none is made for that")]
pub struct Pool {
    small: Vec<Box<Room>>,
    large: Vec<Box<Room>>,
}

/// The bytes of one flow, by their offset from its first, and the packets that they came in.
#[derive(Debug)]
pub(super) struct Room {
    bytes: Box<[u8]>,
    /// Where each held packet begins and ends, in the order in which they came.
    held: [(u32, u32); HELD_MAX],
    count: usize,
}

impl Pool {
    /// Makes so many rooms of [`SMALL`] and of [`LARGE`] bytes, of which a flow has one.
    #[must_use]
    pub fn new(small: usize, large: usize) -> Self {
        let rooms = |count, size| (0..count).map(|_| Room::new(size)).collect();
        Self { small: rooms(small, SMALL), large: rooms(large, LARGE) }
    }

    /// Rooms of each size that are left.
    #[must_use]
    pub const fn left(&self) -> (usize, usize) {
        (self.small.len(), self.large.len())
    }

    pub(super) fn take(&mut self, size: usize) -> Option<Box<Room>> {
        let fitting = if size <= SMALL { self.small.pop() } else { None };
        fitting.or_else(|| self.large.pop())
    }

    pub(super) fn put_back(&mut self, mut room: Box<Room>) {
        room.count = 0;
        if room.bytes.len() > SMALL { self.large.push(room) } else { self.small.push(room) }
    }
}

impl Room {
    fn new(size: usize) -> Box<Self> {
        let bytes = vec![0; size].into_boxed_slice();
        Box::new(Self { bytes, held: [(0, 0); HELD_MAX], count: 0 })
    }

    pub(super) const fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Takes over what a smaller one has.
    pub(super) fn take_over(&mut self, smaller: &Self) {
        if let Some(room) = self.bytes.get_mut(..smaller.bytes.len()) {
            room.copy_from_slice(&smaller.bytes);
        }
        (self.held, self.count) = (smaller.held, smaller.count);
    }

    pub(super) fn get(&self, from: usize, to: usize) -> &[u8] {
        self.bytes.get(from..to).unwrap_or_default()
    }

    pub(super) fn write(&mut self, at: usize, bytes: &[u8]) {
        if let Some(room) = self.bytes.get_mut(at..).and_then(|room| room.get_mut(..bytes.len())) {
            room.copy_from_slice(bytes);
        }
    }

    /// The packets that are held.
    pub(super) fn held(&self) -> &[(u32, u32)] {
        self.held.get(..self.count).unwrap_or_default()
    }

    /// Notes a packet that is held; `false` where there are too many.
    pub(super) fn hold(&mut self, from: usize, to: usize) -> bool {
        let (Ok(from), Ok(to)) = (u32::try_from(from), u32::try_from(to)) else { return false };
        let Some(place) = self.held.get_mut(self.count) else { return false };
        *place = (from, to);
        self.count += 1;
        true
    }

    pub(super) const fn release(&mut self) {
        self.count = 0;
    }
}
