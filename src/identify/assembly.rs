//! A handshake message put together from fragments in any order: CRYPTO frames, DTLS fragments.

use super::fault::Fault;
use super::tls::HELLO_MAX;

/// Room for the header of a handshake message and the largest hello; a second hello of the same
/// size (after a HelloRetryRequest, RFC 8446 §4.1.4) fits as well.
const ROOM: usize = 2 * (HELLO_MAX + 4);

/// The most gaps between fragments. Chromium cuts a hello into about 20 frames.
const RANGES_MAX: usize = 256;

/// Bytes of a stream, known in ranges.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    bytes: Vec<u8>,
    /// Known ranges, `start..end`: sorted, disjoint, and not touching.
    known: Vec<(usize, usize)>,
}

impl Assembly {
    /// Adds `fragment` at `offset`.
    ///
    /// # Errors
    /// [`Fault::Overlap`] where it contradicts what is known, [`Fault::TooLarge`] and
    /// [`Fault::TooManyPieces`] where it goes over a limit. Nothing is added then.
    pub(super) fn add(&mut self, offset: u64, fragment: &[u8]) -> Result<(), Fault> {
        let start = usize::try_from(offset).map_err(|_| Fault::TooLarge)?;
        let end = start.checked_add(fragment.len()).ok_or(Fault::TooLarge)?;
        if end > ROOM {
            return Err(Fault::TooLarge);
        }
        if fragment.is_empty() {
            return Ok(());
        }
        // Ranges that end before the fragment begins stay as they are, as do those behind it.
        let first = self.known.partition_point(|&(_, known_end)| known_end < start);
        let last = self.known.partition_point(|&(known_start, _)| known_start <= end);
        let touched = self.known.get(first..last).unwrap_or_default();
        for &(known_start, known_end) in touched {
            let (from, to) = (known_start.max(start), known_end.min(end));
            if from < to && self.bytes.get(from..to) != fragment.get(from - start..to - start) {
                return Err(Fault::Overlap);
            }
        }
        if touched.is_empty() && self.known.len() >= RANGES_MAX {
            return Err(Fault::TooManyPieces);
        }
        let merged = touched
            .iter()
            .fold((start, end), |(from, to), &(start, end)| (from.min(start), to.max(end)));
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        if let Some(room) = self.bytes.get_mut(start..end) {
            room.copy_from_slice(fragment);
        }
        self.known.splice(first..last, [merged]);
        Ok(())
    }

    /// What is known without a gap from the beginning.
    pub(super) fn front(&self) -> &[u8] {
        match self.known.first() {
            Some(&(0, end)) => self.bytes.get(..end).unwrap_or_default(),
            _ => &[],
        }
    }

    /// Memory held, in bytes.
    pub(super) const fn held(&self) -> usize {
        self.bytes.capacity()
    }

    /// Whether nothing is known behind a gap.
    pub(super) fn is_whole(&self) -> bool {
        matches!(*self.known, [] | [(0, _)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_join_in_any_order() {
        let mut assembly = Assembly::default();
        for (offset, fragment) in [(4, "ef"), (8, "ij"), (0, "ab"), (5, "fgh"), (1, "bcde")] {
            assembly.add(offset, fragment.as_bytes()).unwrap();
        }
        assert_eq!(assembly.front(), b"abcdefghij");
        assert_eq!(assembly.known, [(0, 10)]);
    }

    #[test]
    fn a_gap_ends_what_is_known() {
        let mut assembly = Assembly::default();
        assembly.add(2, b"cd").unwrap();
        assert_eq!(assembly.front(), b"");
        assembly.add(0, b"a").unwrap();
        assert_eq!(assembly.front(), b"a");
    }

    #[test]
    fn overlaps_must_agree() {
        let mut assembly = Assembly::default();
        assembly.add(2, b"cdef").unwrap();
        assert_eq!(assembly.add(0, b"abcx"), Err(Fault::Overlap));
        assert_eq!(assembly.add(5, b"xg"), Err(Fault::Overlap));
        assert_eq!(assembly.add(0, b"abcdefg"), Ok(()));
        assert_eq!(assembly.front(), b"abcdefg");
    }

    #[test]
    fn limits_hold() {
        let mut assembly = Assembly::default();
        assert_eq!(assembly.add(u64::MAX, b"a"), Err(Fault::TooLarge));
        assert_eq!(assembly.add(ROOM as u64, b"a"), Err(Fault::TooLarge));
        for i in 0..RANGES_MAX as u64 {
            assembly.add(2 * i, b"a").unwrap();
        }
        assert_eq!(assembly.add(9000, b"a"), Err(Fault::TooManyPieces));
        assert_eq!(assembly.add(1, b"b"), Ok(()));
    }
}
