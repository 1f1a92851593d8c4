//! A reading position in one handshake message, which may lie in many records.

/// TLS record header: type, version (2), length (2) (RFC 8446 §5.1).
pub(super) const RECORD_HEADER: usize = 5;

/// A view of `left` bytes of a handshake message. The message lies in one piece (`near`), or goes
/// on in the records of `far`, whose headers are hopped over while reading: nothing is copied
/// together, so a hello of 64 KiB in records of one byte costs neither heap nor a large stack.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    /// What is left of the current record; may hold more than the view.
    near: &'a [u8],
    /// The records behind it, headers included.
    far: &'a [u8],
    left: usize,
}

impl<'a> Reader<'a> {
    /// A message in one piece.
    pub(super) const fn flat(bytes: &'a [u8]) -> Self {
        Self { near: bytes, far: &[], left: bytes.len() }
    }

    /// `left` bytes of message, which begin with `near` and go on in the records of `far`. The
    /// caller has checked that the records are there.
    pub(super) const fn over_records(near: &'a [u8], far: &'a [u8], left: usize) -> Self {
        Self { near, far, left }
    }

    /// The same place, with `left` bytes to read. The caller has checked that they are there.
    pub(super) const fn with_left(self, left: usize) -> Self {
        Self { left, ..self }
    }

    pub(super) const fn left(&self) -> usize {
        self.left
    }

    /// Bytes from here to the end of the record, or of the piece, that holds this place.
    pub(super) const fn up_to_end(&self) -> usize {
        self.near.len()
    }

    #[inline]
    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    #[inline]
    pub(super) fn u16(&mut self) -> Option<usize> {
        self.array().map(|bytes| usize::from(u16::from_be_bytes(bytes)))
    }

    #[inline]
    pub(super) fn u24(&mut self) -> Option<usize> {
        self.array().map(|[a, b, c]| usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c))
    }

    #[inline]
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let left = self.left.checked_sub(N)?;
        if let Some((head, tail)) = self.near.split_first_chunk::<N>() {
            (self.near, self.left) = (tail, left);
            return Some(*head);
        }
        let mut bytes = [0; N];
        self.gather(&mut bytes)?;
        Some(bytes)
    }

    /// The next `len` bytes as a view of their own; this one goes on behind them.
    #[inline]
    pub(super) fn view(&mut self, len: usize) -> Option<Self> {
        let view = Self { left: len, ..*self };
        self.skip(len)?;
        Some(view)
    }

    #[inline]
    pub(super) fn skip(&mut self, len: usize) -> Option<()> {
        let left = self.left.checked_sub(len)?;
        if let Some(near) = self.near.get(len..) {
            (self.near, self.left) = (near, left);
            return Some(());
        }
        self.skip_records(len)?;
        self.left = left;
        Some(())
    }

    /// The next `len` bytes in one piece: where they lie, or copied into `scratch`. `None` where
    /// the view or the scratch is shorter.
    #[inline]
    pub(super) fn bytes<'b>(&mut self, len: usize, scratch: &'b mut [u8]) -> Option<&'b [u8]>
    where
        'a: 'b,
    {
        let left = self.left.checked_sub(len)?;
        if let Some((head, tail)) = self.near.split_at_checked(len) {
            (self.near, self.left) = (tail, left);
            return Some(head);
        }
        let scratch = scratch.get_mut(..len)?;
        self.gather(scratch)?;
        Some(scratch)
    }

    // What reaches over the end of a record is rare, and kept out of line: the fast path of each
    // method above is then a handful of instructions where it is used.

    #[cold]
    #[inline(never)]
    fn skip_records(&mut self, len: usize) -> Option<()> {
        let mut missing = len;
        while missing > self.near.len() {
            missing -= self.near.len();
            self.hop()?;
        }
        self.near = self.near.get(missing..)?;
        Some(())
    }

    #[cold]
    #[inline(never)]
    fn gather(&mut self, to: &mut [u8]) -> Option<()> {
        self.left = self.left.checked_sub(to.len())?;
        for to in to {
            while self.near.is_empty() {
                self.hop()?;
            }
            let (&first, rest) = self.near.split_first()?;
            *to = first;
            self.near = rest;
        }
        Some(())
    }

    /// Goes on to the next record.
    fn hop(&mut self) -> Option<()> {
        let (&[_, _, _, high, low], rest) = self.far.split_first_chunk::<RECORD_HEADER>()?;
        let len = usize::from(u16::from_be_bytes([high, low]));
        // The last record may be longer than what has arrived of it.
        (self.near, self.far) = rest.split_at_checked(len).unwrap_or((rest, &[]));
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "abcdef" in records of 2, 1 and 3 bytes.
    const FAR: &[u8] = &[22, 3, 1, 0, 1, b'c', 22, 3, 1, 0, 3, b'd', b'e', b'f'];

    #[test]
    fn fields_are_read_across_records() {
        let mut reader = Reader::over_records(b"ab", FAR, 6);
        assert_eq!(reader.u8(), Some(b'a'));
        assert_eq!(reader.array(), Some(*b"bcd"));
        assert_eq!(reader.bytes(2, &mut [0; 2]), Some(&b"ef"[..]));
        assert_eq!((reader.left(), reader.u8()), (0, None));
    }

    #[test]
    fn a_view_ends_where_it_was_told_to() {
        let mut reader = Reader::over_records(b"ab", FAR, 6);
        let mut view = reader.view(3).unwrap();
        assert_eq!(view.bytes(4, &mut [0; 9]), None);
        assert_eq!(view.bytes(3, &mut [0; 9]), Some(&b"abc"[..]));
        assert_eq!(reader.u24(), Some(0x64_65_66));
        assert!(Reader::over_records(b"ab", FAR, 6).skip(7).is_none());
    }

    #[test]
    fn a_view_longer_than_the_records_reads_nothing_beyond_them() {
        let mut reader = Reader::over_records(b"ab", FAR, 9);
        assert!(reader.skip(6).is_some());
        assert_eq!(reader.u8(), None);
    }
}
