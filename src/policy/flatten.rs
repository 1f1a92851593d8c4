//! Nested prefixes -> disjoint ranges, each with the prefixes around it.

/// The bits of an address, of either family.
pub trait AddressBits: Copy + Ord {
    /// The last address.
    const MAX: Self;
    /// The address after this one; the last has none.
    fn next(self) -> Option<Self>;
}

impl AddressBits for u32 {
    const MAX: Self = Self::MAX;
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl AddressBits for u128 {
    const MAX: Self = Self::MAX;
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

/// Cuts the address space at every edge of the prefixes `(first, last, payload)` and gives, for
/// each piece, its first address and the payloads of the prefixes that hold it, outermost first
/// (equal prefixes in the order given). A piece ends where the next begins; what lies before the
/// first piece is in no prefix. Prefixes nest or are disjoint, as CIDR blocks do.
pub fn flatten_prefixes<A: AddressBits, P: Clone>(
    mut prefixes: Vec<(A, A, P)>,
) -> Vec<(A, Vec<P>)> {
    prefixes.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
    let mut pieces: Vec<(A, Vec<P>)> = Vec::new();
    let mut open: Vec<(A, P)> = Vec::new();
    let mut cut = |at: A, open: &[(A, P)]| {
        let chain = open.iter().map(|(_, payload)| payload.clone()).collect();
        match pieces.last_mut() {
            Some(last) if last.0 == at => last.1 = chain,
            _ => pieces.push((at, chain)),
        }
    };
    for (first, last, payload) in prefixes {
        while let Some((end, _)) = open.pop_if(|(end, _)| *end < first) {
            if let Some(next) = end.next() {
                cut(next, &open);
            }
        }
        open.push((last, payload));
        cut(first, &open);
    }
    while let Some((end, _)) = open.pop() {
        if let Some(next) = end.next() {
            cut(next, &open);
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_piece_knows_the_prefixes_that_hold_it(
            nets in prop::collection::vec((any::<u32>(), 0_u32..=12), 0..40)
        ) {
            // A space of 12 bits in the top of the address, so that prefixes meet often.
            let prefixes: Vec<_> = nets
                .iter()
                .enumerate()
                .map(|(i, &(bits, len))| {
                    let mask = u32::MAX.checked_shl(32 - len).unwrap_or(0);
                    let first = (bits & 0xfff0_0000) & mask;
                    (first, first | !mask, i)
                })
                .collect();
            let pieces = flatten_prefixes(prefixes.clone());
            prop_assert!(pieces.is_sorted_by(|a, b| a.0 < b.0));
            for at in (0..4096_u32).map(|n| n << 20) {
                let mut holding: Vec<_> = prefixes
                    .iter()
                    .filter(|(first, last, _)| (*first..=*last).contains(&at))
                    .map(|&(first, last, i)| (last - first, i))
                    .collect();
                holding.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
                let expected: Vec<_> = holding.into_iter().map(|(_, i)| i).collect();
                let found = pieces.iter().take_while(|(start, _)| *start <= at).last();
                prop_assert_eq!(found.map(|(_, chain)| chain.clone()).unwrap_or_default(), expected);
            }
        }
    }
}
