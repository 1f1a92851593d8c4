//! Sets of rules as bits, and the first rule that is in all of several sets.
//!
//! Each dimension of a question (client, address, port, carrier, name) gives one set; a verdict is
//! their intersection's lowest bit. Over every 64 words of a set stands a summary word that says
//! which of them hold a bit at all, so that ten thousand rules cost the three summary words and the
//! words that every set has in common, not 157 words a dimension.

use std::collections::HashMap;

/// Index of a set in [`RuleSets`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct SetId(u32);

/// Every set of a policy, each once.
#[derive(Debug)]
pub(super) struct RuleSets {
    /// Sets one after the other: summary words, then the words.
    arena: Vec<u64>,
    summary: usize,
    stride: usize,
}

/// Collects sets before they are frozen.
#[derive(Debug)]
pub(super) struct RuleSetsBuilder {
    sets: RuleSets,
    known: HashMap<Box<[u64]>, SetId>,
    words: usize,
}

/// A set under construction, one bit a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Bits(Box<[u64]>);

impl Bits {
    pub(super) fn new(rules: usize) -> Self {
        Self(vec![0; rules.div_ceil(64)].into())
    }

    pub(super) fn collect(rules: usize, members: impl IntoIterator<Item = usize>) -> Self {
        let mut bits = Self::new(rules);
        members.into_iter().for_each(|rule| bits.insert(rule));
        bits
    }

    pub(super) fn insert(&mut self, rule: usize) {
        if let Some(word) = self.0.get_mut(rule / 64) {
            *word |= 1 << (rule % 64);
        }
    }

    pub(super) fn or(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a |= b);
        self
    }

    pub(super) fn and(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a &= b);
        self
    }
}

impl RuleSetsBuilder {
    pub(super) fn new(rules: usize) -> Self {
        let words = rules.div_ceil(64);
        let summary = words.div_ceil(64);
        Self {
            sets: RuleSets { arena: Vec::new(), summary, stride: summary + words },
            known: HashMap::new(),
            words,
        }
    }

    /// The id of a set of these bits; equal sets have equal ids.
    pub(super) fn intern(&mut self, bits: &Bits) -> SetId {
        debug_assert_eq!(bits.0.len(), self.words);
        if let Some(&id) = self.known.get(&bits.0) {
            return id;
        }
        let id = SetId(u32::try_from(self.known.len()).unwrap_or(u32::MAX));
        for chunk in bits.0.chunks(64) {
            let flag = |(i, &word): (usize, &u64)| u64::from(word != 0) << i;
            self.sets.arena.push(chunk.iter().enumerate().map(flag).sum());
        }
        self.sets.arena.extend_from_slice(&bits.0);
        self.known.insert(bits.0.clone(), id);
        id
    }

    pub(super) fn finish(mut self) -> RuleSets {
        self.sets.arena.shrink_to_fit();
        self.sets
    }
}

/// One term of an intersection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Term<'a> {
    /// A set.
    Set(&'a [u64]),
    /// `(a & b & c) | ((a | b | c) & either)`: all three for the rules that need every possibility,
    /// one of them for the rules of `either`, which match on any.
    Fold([&'a [u64]; 3], &'a [u64]),
}

impl Term<'_> {
    fn word(&self, at: usize) -> u64 {
        let word = |set: &[u64]| set.get(at).copied().unwrap_or(0);
        match *self {
            Self::Set(set) => word(set),
            Self::Fold(sets, either) => {
                let [a, b, c] = sets.map(word);
                (a & b & c) | ((a | b | c) & word(either))
            }
        }
    }

    /// The summary word of a term: possibly a bit too many, never one too few, since all that a
    /// fold holds is in one of its sets.
    fn summary(&self, at: usize) -> u64 {
        let word = |set: &[u64]| set.get(at).copied().unwrap_or(0);
        match *self {
            Self::Set(set) => word(set),
            Self::Fold(sets, _) => sets.map(word).into_iter().fold(0, |any, word| any | word),
        }
    }
}

impl RuleSets {
    /// The words of a set, summary first.
    pub(super) fn set(&self, id: SetId) -> &[u64] {
        let start = id.0 as usize * self.stride;
        self.arena.get(start..start + self.stride).unwrap_or_default()
    }

    /// Whether a set holds `rule`.
    pub(super) fn contains(&self, id: SetId, rule: usize) -> bool {
        let word = self.set(id).get(self.summary + rule / 64).copied().unwrap_or(0);
        word >> (rule % 64) & 1 == 1
    }

    /// The lowest rule from `from` on that is in every term.
    pub(super) fn first(&self, terms: &[Term<'_>], from: usize) -> Option<usize> {
        let first_word = from / 64;
        for block in first_word / 64..self.summary {
            let mut live = terms.iter().fold(u64::MAX, |all, term| all & term.summary(block));
            if block == first_word / 64 {
                live &= u64::MAX << (first_word % 64);
            }
            while live != 0 {
                let word = block * 64 + live.trailing_zeros() as usize;
                let at = self.summary + word;
                let mut bits = terms.iter().fold(u64::MAX, |all, term| all & term.word(at));
                if word == first_word {
                    bits &= u64::MAX << (from % 64);
                }
                if bits != 0 {
                    return Some(word * 64 + bits.trailing_zeros() as usize);
                }
                live &= live - 1;
            }
        }
        None
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.arena.len() * size_of::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_first_common_rule_is_the_one_a_scan_finds(
            rules in 1_usize..9_000,
            seeds in prop::collection::vec(prop::collection::vec(0_usize..9_000, 0..40), 4),
            from in 0_usize..9_000,
        ) {
            let members: Vec<Vec<usize>> = seeds
                .into_iter()
                .map(|set| set.into_iter().map(|rule| rule % rules).collect())
                .collect();
            let mut builder = RuleSetsBuilder::new(rules);
            let ids: Vec<_> = members
                .iter()
                .map(|set| builder.intern(&Bits::collect(rules, set.iter().copied())))
                .collect();
            let sets = builder.finish();
            let [a, b, c, d] = ids.try_into().unwrap();
            let is = |set: usize, rule: usize| members[set].contains(&rule);
            let scan = |test: &dyn Fn(usize) -> bool| (from..rules).find(|&rule| test(rule));
            let [a, b, c, d] = [a, b, c, d].map(|id| sets.set(id));
            prop_assert_eq!(
                sets.first(&[Term::Set(a), Term::Set(b)], from),
                scan(&|r| is(0, r) && is(1, r))
            );
            prop_assert_eq!(
                sets.first(&[Term::Fold([a, b, c], d), Term::Set(c)], from),
                scan(&|r| {
                    let all = is(0, r) && is(1, r) && is(2, r);
                    let any = is(0, r) || is(1, r) || is(2, r);
                    (all || (any && is(3, r))) && is(2, r)
                })
            );
        }
    }

    #[test]
    fn equal_sets_have_one_id() {
        let mut builder = RuleSetsBuilder::new(70);
        let (a, b) = (Bits::collect(70, [1, 69]), Bits::collect(70, [69, 1]));
        assert_eq!(builder.intern(&a), builder.intern(&b));
        assert_ne!(builder.intern(&a), builder.intern(&Bits::new(70)));
    }

    #[test]
    fn a_policy_without_rules_has_no_first_rule() {
        let mut builder = RuleSetsBuilder::new(0);
        let empty = builder.intern(&Bits::new(0));
        let sets = builder.finish();
        assert_eq!(sets.first(&[Term::Set(sets.set(empty))], 0), None);
    }
}
