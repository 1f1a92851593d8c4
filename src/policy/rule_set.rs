//! Sets of rules as bits, and the first rule that is in all of several sets.
//!
//! Each dimension of a question (client, address, port, carrier, name) gives a set; a verdict is
//! the lowest bit of their intersection. Over every 64 words of a set stands a summary word that
//! says which of them hold a bit at all, so that ten thousand rules cost their three summary words
//! and the words that every term has in common.
//!
//! A rule that does not look at a dimension is in every set of it, so that sets are full and the
//! summaries say little. Therefore `host`, `from` and `to` give the rules that *name* what is asked
//! (a few), apart from those that do not look (the same for all): a rule that matches is among the
//! few of one of the three, or looks at none of them ([`Question`]). With 10,000 rules of all kinds,
//! one word or two are left of 157; without the distinction all of them were.
//!
//! The few are cheap to keep: of 64 words only those with a bit are stored, unless most have one.

use std::collections::HashMap;

/// Index of a set in [`RuleSets`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct SetId(u32);

/// Every set of a policy, each once.
#[derive(Debug)]
pub(super) struct RuleSets {
    /// The blocks of each set, one set after the other.
    blocks: Vec<Block>,
    words: Vec<u64>,
    /// Blocks in a set.
    stride: usize,
}

/// 64 words of a set.
#[derive(Clone, Copy, Debug)]
struct Block {
    /// Bit n: word n holds a bit.
    summary: u64,
    /// Where the words begin.
    at: u32,
    /// Every word is stored, and not only those that hold a bit.
    whole: bool,
}

/// Collects sets before they are frozen.
#[derive(Debug)]
pub(super) struct RuleSetsBuilder {
    sets: RuleSets,
    known: HashMap<Bits, SetId>,
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
        let stride = rules.div_ceil(64).div_ceil(64);
        let sets = RuleSets { blocks: Vec::new(), words: Vec::new(), stride };
        Self { sets, known: HashMap::new() }
    }

    /// The id of a set of these bits; equal sets have equal ids.
    pub(super) fn intern(&mut self, bits: &Bits) -> SetId {
        if let Some(&id) = self.known.get(bits) {
            return id;
        }
        let id = SetId(u32::try_from(self.known.len()).unwrap_or(u32::MAX));
        let RuleSets { blocks, words, .. } = &mut self.sets;
        for chunk in bits.0.chunks(64) {
            let flag = |(i, &word): (usize, &u64)| u64::from(word != 0) << i;
            let summary: u64 = chunk.iter().enumerate().map(flag).sum();
            let whole = summary.count_ones() as usize * 2 >= chunk.len();
            let at = u32::try_from(words.len()).unwrap_or(u32::MAX);
            blocks.push(Block { summary, at, whole });
            words.extend(chunk.iter().filter(|&&word| whole || word != 0));
        }
        self.known.insert(bits.clone(), id);
        id
    }

    pub(super) fn finish(mut self) -> RuleSets {
        self.sets.blocks.shrink_to_fit();
        self.sets.words.shrink_to_fit();
        self.sets
    }
}

/// The conditions of `host`, `from` or `to`: the rules that name what is asked, and those that do
/// not look at it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named {
    pub(super) own: SetId,
    pub(super) unasked: SetId,
}

/// What is asked of the rules. A rule matches where it is in each of `name`, `client`, `to` (in one
/// half or the other) and in each of `others`.
///
/// It is looked for among the candidates only: the rules that name the name; those without a `host`
/// that name the address; those without either that name the client; and those that have none of
/// the three. Every rule that matches is one of these.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    pub(super) name: Named,
    pub(super) client: Named,
    pub(super) to: Named,
    pub(super) others: [SetId; 3],
    /// Rules without `host`, `from` and `to`.
    pub(super) loose: SetId,
}

/// One term of an intersection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Term {
    /// A set.
    Set(SetId),
    /// Either half.
    Named(Named),
    /// `(a & b & c & d) | ((a | b | c | d) & either)`: all four for the rules that need every
    /// possibility, one of them for the rules of `either`, which match on any.
    Fold([SetId; 4], SetId),
}

impl RuleSets {
    fn block(&self, id: SetId, block: usize) -> Block {
        const EMPTY: Block = Block { summary: 0, at: 0, whole: false };
        self.blocks.get(id.0 as usize * self.stride + block).copied().unwrap_or(EMPTY)
    }

    /// Word `word` (of 64) of a block.
    #[inline]
    fn word(&self, block: Block, word: u32) -> u64 {
        if block.summary >> word & 1 == 0 {
            return 0;
        }
        let before =
            if block.whole { word } else { (block.summary & ((1 << word) - 1)).count_ones() };
        self.words.get((block.at + before) as usize).copied().unwrap_or(0)
    }

    /// Whether a set holds `rule`.
    pub(super) fn contains(&self, id: SetId, rule: usize) -> bool {
        let word = self.word(self.block(id, rule / 4096), (rule / 64 % 64) as u32);
        word >> (rule % 64) & 1 == 1
    }

    /// The lowest rule from `from` on that matches.
    pub(super) fn first(&self, question: &Question, from: usize) -> Option<usize> {
        let Question { name, client, to, others, loose } = *question;
        self.search(from, |at| {
            let block = |id| self.block(id, at);
            let [own_name, own_client, own_to] = [name.own, client.own, to.own].map(block);
            let [any_name, any_client, any_to] =
                [name.unasked, client.unasked, to.unasked].map(block);
            let (loose, others) = (block(loose), others.map(block));
            // What a rule of each kind must be in, by summaries and by words alike.
            let meet = |[own_name, own_client, own_to]: [u64; 3],
                        [any_name, any_client, any_to]: [u64; 3],
                        loose: u64,
                        others: [u64; 3]| {
                let candidates = own_name | (any_name & (own_to | (any_to & own_client))) | loose;
                candidates
                    & (own_name | any_name)
                    & (own_client | any_client)
                    & (own_to | any_to)
                    & others.into_iter().fold(u64::MAX, |all, set| all & set)
            };
            let summary = |block: Block| block.summary;
            let live = meet(
                [own_name, own_client, own_to].map(summary),
                [any_name, any_client, any_to].map(summary),
                loose.summary,
                others.map(summary),
            );
            (live, move |word| {
                let word = |block| self.word(block, word);
                meet(
                    [own_name, own_client, own_to].map(word),
                    [any_name, any_client, any_to].map(word),
                    word(loose),
                    others.map(word),
                )
            })
        })
    }

    /// The lowest rule from `from` on that is in every term.
    pub(super) fn first_of(&self, terms: &[Term], from: usize) -> Option<usize> {
        self.search(from, |at| {
            let summary = |id| self.block(id, at).summary;
            // Possibly a bit too many, never one too few: all that a fold holds is in one of its
            // sets.
            let live = terms.iter().fold(u64::MAX, |all, term| {
                all & match *term {
                    Term::Set(set) => summary(set),
                    Term::Named(Named { own, unasked }) => summary(own) | summary(unasked),
                    Term::Fold(sets, _) => sets.map(summary).into_iter().fold(0, |a, b| a | b),
                }
            });
            (live, move |word| {
                let word = |id| self.word(self.block(id, at), word);
                terms.iter().fold(u64::MAX, |all, term| {
                    all & match *term {
                        Term::Set(set) => word(set),
                        Term::Named(Named { own, unasked }) => word(own) | word(unasked),
                        Term::Fold(sets, either) => {
                            let [a, b, c, d] = sets.map(word);
                            (a & b & c & d) | ((a | b | c | d) & word(either))
                        }
                    }
                })
            })
        })
    }

    /// The lowest rule from `from` on; `look` gives a block's words that may hold it, and the words.
    #[inline]
    fn search<W: Fn(u32) -> u64>(
        &self,
        from: usize,
        look: impl Fn(usize) -> (u64, W),
    ) -> Option<usize> {
        let (from_block, from_word) = (from / 4096, (from / 64 % 64) as u32);
        for block in from_block..self.stride {
            let (mut live, word_at) = look(block);
            if block == from_block {
                live &= u64::MAX << from_word;
            }
            while live != 0 {
                let word = live.trailing_zeros();
                let mut bits = word_at(word);
                if block == from_block && word == from_word {
                    bits &= u64::MAX << (from % 64);
                }
                if bits != 0 {
                    return Some(
                        block * 4096 + word as usize * 64 + bits.trailing_zeros() as usize,
                    );
                }
                live &= live - 1;
            }
        }
        None
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.blocks) + size_of_val(&*self.words)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn members(seeds: Vec<Vec<usize>>, rules: usize) -> Vec<Vec<usize>> {
        seeds.into_iter().map(|set| set.into_iter().map(|rule| rule % rules).collect()).collect()
    }

    proptest! {
        #[test]
        fn the_first_common_rule_is_the_one_a_scan_finds(
            rules in 1_usize..9_000,
            seeds in prop::collection::vec(prop::collection::vec(0_usize..9_000, 0..40), 4),
            full in 0_usize..9_000,
            from in 0_usize..9_000,
        ) {
            let mut members = members(seeds, rules);
            // One set that is full in part, so that both ways of storing a block are read.
            members[0].extend(full.min(rules)..rules);
            let mut builder = RuleSetsBuilder::new(rules);
            let ids: Vec<_> = members
                .iter()
                .map(|set| builder.intern(&Bits::collect(rules, set.iter().copied())))
                .collect();
            let sets = builder.finish();
            let [a, b, c, d]: [SetId; 4] = ids.try_into().unwrap();
            let is = |set: usize, rule: usize| members[set].contains(&rule);
            let scan = |test: &dyn Fn(usize) -> bool| (from..rules).find(|&rule| test(rule));
            for rule in (0..rules).step_by(61) {
                prop_assert_eq!(sets.contains(a, rule), is(0, rule));
            }
            prop_assert_eq!(
                sets.first_of(&[Term::Set(a), Term::Set(b)], from),
                scan(&|r| is(0, r) && is(1, r))
            );
            prop_assert_eq!(
                sets.first_of(&[Term::Named(Named { own: a, unasked: b }), Term::Set(c)], from),
                scan(&|r| (is(0, r) || is(1, r)) && is(2, r))
            );
            prop_assert_eq!(
                sets.first_of(&[Term::Fold([a, b, c, b], d), Term::Set(c)], from),
                scan(&|r| {
                    let all = is(0, r) && is(1, r) && is(2, r);
                    let any = is(0, r) || is(1, r) || is(2, r);
                    (all || (any && is(3, r))) && is(2, r)
                })
            );
        }

        /// Each rule is drawn with the dimensions that it looks at and whether it names what is
        /// asked; the candidates leave out none that matches.
        #[test]
        fn the_candidates_hold_every_rule_that_matches(
            kinds in prop::collection::vec(0_u32..(1 << 7), 1..9_000),
            sparse in 0_u32..4,
            from in 0_usize..9_000,
        ) {
            // Bits 0 to 2: looks at name, client, address; 3 to 5: names it; 6: in the others.
            let rules = kinds.len();
            let bit = |kind: u32, bit: u32| kind >> bit & 1 == 1;
            let kinds: Vec<u32> = kinds
                .into_iter()
                .enumerate()
                .map(|(i, kind)| if i % 97 != 0 && sparse != 0 { kind & 0b100_0111 } else { kind })
                .collect();
            let mut builder = RuleSetsBuilder::new(rules);
            let mut set = |test: &dyn Fn(u32) -> bool| {
                let held = kinds.iter().enumerate().filter(|&(_, &kind)| test(kind));
                builder.intern(&Bits::collect(rules, held.map(|(i, _)| i)))
            };
            let mut named = |at: u32| Named {
                own: set(&|kind| bit(kind, at) && bit(kind, at + 3)),
                unasked: set(&|kind| !bit(kind, at)),
            };
            let (name, client, to) = (named(0), named(1), named(2));
            let others = [set(&|kind| bit(kind, 6)); 3];
            let loose = set(&|kind| kind & 0b111 == 0);
            let sets = builder.finish();
            let matches = |kind: u32| {
                (0..3).all(|at| !bit(kind, at) || bit(kind, at + 3)) && bit(kind, 6)
            };
            prop_assert_eq!(
                sets.first(&Question { name, client, to, others, loose }, from),
                (from..rules).find(|&rule| matches(kinds[rule]))
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
        assert_eq!(sets.first_of(&[Term::Set(empty)], 0), None);
    }
}
