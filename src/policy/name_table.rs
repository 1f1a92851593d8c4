//! Name -> a small number, by exact names and by `*.` suffixes.
//!
//! One open-addressed table holds every pattern's text. A look-up walks the name's labels from the
//! right, folding them into a keyed hash as it goes, and probes once a label, at most as many labels
//! as the longest pattern has; so its time does not depend on how many names there are, and the key
//! is drawn anew for each table, so that nobody can choose names that collide.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use crate::identify::HostName;

/// A pattern: a name, and whether it stands for every name below it (`*.name`) or for itself.
pub(super) type Pattern = (HostName, bool);

/// An immutable table of patterns. The most specific pattern of a name decides: the name itself,
/// else the longest `*.` suffix.
#[derive(Debug)]
pub(super) struct NameTable {
    key: u64,
    /// Slots of the open-addressed table, a power of two; `u32::MAX` is free.
    slots: Box<[u32]>,
    entries: Box<[Entry]>,
    texts: Box<[u8]>,
    deepest: usize,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Upper half of the hash: most probes of a foreign name end here.
    tag: u32,
    text: u32,
    length: u8,
    /// Value for the name itself, 0 for none.
    exact: u32,
    /// Value for the names below, 0 for none.
    below: u32,
}

const FREE: u32 = u32::MAX;

impl NameTable {
    /// Builds from patterns and their values (from 1; 0 is "no pattern").
    pub(super) fn build(patterns: &HashMap<Pattern, u32>) -> Self {
        let key = RandomState::new().hash_one(0);
        let mut places: HashMap<HostName, usize> = HashMap::with_capacity(patterns.len());
        let (mut entries, mut texts) = (Vec::new(), Vec::new());
        let mut deepest = 0;
        for (&(name, below), &value) in patterns {
            let place = *places.entry(name).or_insert_with(|| {
                let text = name.as_bytes();
                entries.push(Entry {
                    tag: tag(hash(key, text)),
                    text: u32::try_from(texts.len()).unwrap_or(u32::MAX),
                    length: u8::try_from(text.len()).unwrap_or(u8::MAX),
                    exact: 0,
                    below: 0,
                });
                texts.extend_from_slice(text);
                deepest = deepest.max(text.split(|&b| b == b'.').count());
                entries.len() - 1
            });
            if let Some(entry) = entries.get_mut(place) {
                *(if below { &mut entry.below } else { &mut entry.exact }) = value;
            }
        }
        let mut slots = vec![FREE; (entries.len() * 2).next_power_of_two()].into_boxed_slice();
        for (place, entry) in entries.iter().enumerate() {
            let text = &texts[entry.text as usize..][..usize::from(entry.length)];
            let mut at = hash(key, text) as usize & (slots.len() - 1);
            while slots[at] != FREE {
                at = (at + 1) & (slots.len() - 1);
            }
            slots[at] = u32::try_from(place).unwrap_or(FREE);
        }
        Self { key, slots, entries: entries.into(), texts: texts.into(), deepest }
    }

    /// The value of the most specific pattern that matches `name`, or 0.
    pub(super) fn value(&self, name: &HostName) -> u32 {
        let text = name.as_bytes();
        let mut state = self.key;
        let mut best = 0;
        let mut label_end = text.len();
        for _ in 0..self.deepest {
            let head = text.get(..label_end).unwrap_or_default();
            let start = head.iter().rposition(|&b| b == b'.').map_or(0, |dot| dot + 1);
            let label = text.get(start..label_end).unwrap_or_default();
            state = fold(state, label);
            let suffix = text.get(start..).unwrap_or_default();
            if let Some(entry) = self.find(state, suffix) {
                match start {
                    0 if entry.exact != 0 => return entry.exact,
                    0 => {}
                    _ if entry.below != 0 => best = entry.below,
                    _ => {}
                }
            }
            match start.checked_sub(1) {
                Some(dot) => label_end = dot,
                None => break,
            }
        }
        best
    }

    fn find(&self, hash: u64, text: &[u8]) -> Option<&Entry> {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let entry = self.entries.get(*self.slots.get(at)? as usize)?;
            if entry.tag == tag(hash) {
                let from = entry.text as usize;
                if self.texts.get(from..from + usize::from(entry.length)) == Some(text) {
                    return Some(entry);
                }
            }
            at = (at + 1) & mask;
        }
    }

    /// Bytes held, the texts included.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.slots) + size_of_val(&*self.entries) + self.texts.len()
    }
}

const fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// The hash of a whole name: its labels folded from the right, as a look-up does.
fn hash(key: u64, text: &[u8]) -> u64 {
    text.rsplit(|&b| b == b'.').fold(key, fold)
}

/// Folds one label into the hash: eight bytes at a time through a multiply whose halves are mixed
/// (the folded multiply of wyhash), with the length so that `a.bc` and `ab.c` part ways.
fn fold(state: u64, label: &[u8]) -> u64 {
    let mix = |state: u64, word: u64| {
        let wide = u128::from(state ^ word) * u128::from(0x9e37_79b9_7f4a_7c15_u64);
        (wide >> 64) as u64 ^ wide as u64
    };
    let (words, rest) = label.as_chunks::<8>();
    let state = words.iter().fold(state, |state, word| mix(state, u64::from_le_bytes(*word)));
    let mut tail = [0; 8];
    tail.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    mix(mix(state, u64::from_le_bytes(tail)), label.len() as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> HostName {
        HostName::parse(text.as_bytes()).unwrap()
    }

    fn table(patterns: &[(&str, u32)]) -> NameTable {
        let pattern = |text: &str| match text.strip_prefix("*.") {
            Some(rest) => (name(rest), true),
            None => (name(text), false),
        };
        NameTable::build(&patterns.iter().map(|&(text, value)| (pattern(text), value)).collect())
    }

    #[test]
    fn the_most_specific_pattern_decides() {
        let table = table(&[("*.eu", 1), ("*.example.eu", 2), ("a.example.eu", 3), ("eu", 4)]);
        for (text, value) in [
            ("a.example.eu", 3),
            ("b.a.example.eu", 2),
            ("b.example.eu", 2),
            ("example.eu", 1),
            ("eu", 4),
            ("xexample.eu", 1),
            ("a.example.eu.evil.org", 0),
            ("de", 0),
        ] {
            assert_eq!(table.value(&name(text)), value, "{text}");
        }
    }

    #[test]
    fn an_empty_table_knows_no_name() {
        assert_eq!(table(&[]).value(&name("example.eu")), 0);
    }

    proptest! {
        #[test]
        fn the_table_agrees_with_a_scan_over_all_patterns(
            patterns in prop::collection::hash_map("(\\*\\.)?[ab]{1,2}(\\.[ab]{1,9}){0,3}", 1_u32..99, 0..60),
            asked in prop::collection::vec("[ab]{1,2}(\\.[ab]{1,9}){0,4}", 1..30),
        ) {
            let list: Vec<_> = patterns.iter().map(|(text, &value)| (text.as_str(), value)).collect();
            let table = table(&list);
            for text in asked.iter().chain(patterns.keys()) {
                let text = text.trim_start_matches("*.");
                let exact = patterns.get(text).copied();
                let below = list
                    .iter()
                    .filter_map(|&(p, value)| Some((p.strip_prefix('*')?, value)))
                    .filter(|(suffix, _)| text.ends_with(suffix))
                    .max_by_key(|(suffix, _)| suffix.len())
                    .map(|(_, value)| value);
                prop_assert_eq!(table.value(&name(text)), exact.or(below).unwrap_or(0), "{}", text);
            }
        }
    }
}
