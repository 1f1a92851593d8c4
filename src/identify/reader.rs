//! A reading position in one handshake message, which may lie in many records.

/// TLS record header: type, version (2), length (2) (RFC 8446 §5.1).
pub const RECORD_HEADER: usize = 5;

/// A view of a handshake message. The message lies in one piece (`near`), or goes on in the records
/// of `far`, whose headers are hopped over while reading: nothing is copied together, so a hello of
/// 64 KiB in records of one byte costs neither heap nor a large stack.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    /// What of the view is left in the current record. What is read here needs one check and
    /// touches nothing else.
    near: &'a [u8],
    /// The records behind it, headers included.
    far: &'a [u8],
    /// Bytes of the view in them.
    beyond: usize,
}

impl<'a> Reader<'a> {
    /// A message in one piece.
    pub(super) const fn flat(bytes: &'a [u8]) -> Self {
        Self { near: bytes, far: &[], beyond: 0 }
    }

    /// `left` bytes of message, which begin with `near` and go on in the records of `far`.
    pub(super) const fn over_records(near: &'a [u8], far: &'a [u8], left: usize) -> Self {
        match near.split_at_checked(left) {
            Some((near, _)) => Self::flat(near),
            None => Self { near, far, beyond: left - near.len() },
        }
    }

    pub(super) const fn left(&self) -> usize {
        self.near.len() + self.beyond
    }

    /// What is left, where it lies in one piece.
    pub(super) const fn piece(&self) -> Option<&'a [u8]> {
        if self.beyond == 0 { Some(self.near) } else { None }
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
        if let Some((head, tail)) = self.near.split_first_chunk::<N>() {
            self.near = tail;
            return Some(*head);
        }
        let mut bytes = [0; N];
        self.gather(&mut bytes)?;
        Some(bytes)
    }

    /// The next `len` bytes as a view of their own; this one goes on behind them.
    #[inline]
    pub(super) fn view(&mut self, len: usize) -> Option<Self> {
        if let Some((head, tail)) = self.near.split_at_checked(len) {
            self.near = tail;
            return Some(Self::flat(head));
        }
        let view = Self::over_records(self.near, self.far, len);
        self.skip_records(len)?;
        Some(view)
    }

    #[inline]
    pub(super) fn skip(&mut self, len: usize) -> Option<()> {
        if let Some(tail) = self.near.get(len..) {
            self.near = tail;
            return Some(());
        }
        self.skip_records(len)
    }

    /// The next `len` bytes in one piece: where they lie, or copied into `scratch`. `None` where
    /// the view or the scratch is shorter.
    #[inline]
    pub(super) fn bytes<'b>(&mut self, len: usize, scratch: &'b mut [u8]) -> Option<&'b [u8]>
    where
        'a: 'b,
    {
        if let Some((head, tail)) = self.near.split_at_checked(len) {
            self.near = tail;
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
        if len > self.left() {
            return None;
        }
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
        if to.len() > self.left() {
            return None;
        }
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
        let (record, far) = rest.split_at_checked(len).unwrap_or((rest, &[]));
        *self = Self::over_records(record, far, self.beyond);
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
