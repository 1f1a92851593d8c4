//! Name -> a small number, by exact names and by `*.` suffixes.
//!
//! A look-up walks the name from the right, eight bytes at a time, into a keyed hash, and at each
//! dot asks for the suffix behind it, where any `*.` pattern has as many labels. A question is one
//! load of eight tags (a byte of each pattern's hash), and only where a tag agrees, in one of 64
//! cases by accident, the patterns themselves. So its time depends neither on how many names there
//! are nor on what they are: the key and the multiplier are drawn anew for each table, so that
//! nobody can choose names that collide.
//!
//! The patterns of a group stand side by side with their texts, and its tags beside the place where
//! they stand, so that a hit costs two far loads and not four. Over the text, 8 bytes a pattern.

use std::hash::{BuildHasher, RandomState};

use crate::identify::HostName;

/// An immutable table of patterns. The most specific pattern of a name decides: the name itself,
/// else the longest `*.` suffix.
#[derive(Debug)]
pub struct NameTable {
    hash: Hash,
    /// One more at the end, which says where the last one's records do.
    groups: Box<[Group]>,
    /// For each pattern: length of the name, value with [`BELOW`] (4 bytes), name.
    records: Box<[u8]>,
    /// Bit n: some name of n labels is in the table.
    exact_depths: u128,
    /// Bit n: some `*.` pattern has n labels behind the star.
    below_depths: u128,
}

/// The patterns of one place in the table: 12 bytes, so that tags and place come with one load.
#[derive(Debug, Clone, Copy, Default)]
struct Group {
    /// The tags of its patterns, one a byte; [`CROWDED`] where there are more than eight.
    tags: [u32; 2],
    /// Where its records begin; they end where the next group's do.
    place: u32,
}

impl Group {
    fn tags(&self) -> u64 {
        u64::from(self.tags[1]) << 32 | u64::from(self.tags[0])
    }

    /// A byte that is 0 is the next free one; a full word has none, and is crowded.
    fn add(&mut self, tag: u64) {
        let tags = self.tags();
        let free = zero_bytes(tags).trailing_zeros() / 8 * 8;
        let tags = tag.checked_shl(free).map_or(CROWDED, |tag| tags | tag);
        self.tags = [tags as u32, (tags >> 32) as u32];
    }
}

/// Marks the value of a `*.` pattern.
const BELOW: u32 = 1 << 31;

/// Patterns for each group, on the average: one group in fifty is crowded.
const GROUP_LOAD: usize = 4;

/// The tags of a group of more than eight, which is looked through whatever the tag.
const CROWDED: u64 = u64::MAX;

/// Bytes of a record before its name.
const HEAD: usize = 5;

impl NameTable {
    /// Builds from patterns (name, and whether it stands for the names below it) and their values,
    /// from 1 to below 2^31; 0 is "no pattern". No pattern comes twice.
    #[must_use]
    pub fn build<'a>(patterns: impl ExactSizeIterator<Item = (&'a str, bool, u32)>) -> Self {
        let groups = patterns.len() / GROUP_LOAD + 1;
        let mut table = Self {
            hash: Hash::drawn(),
            groups: vec![Group::default(); groups + 1].into(),
            records: Box::default(),
            exact_depths: 0,
            below_depths: 0,
        };
        let mut hashed = Vec::with_capacity(patterns.len());
        let mut sizes = vec![0_usize; groups];
        for (name, below, value) in patterns {
            let depths = if below { &mut table.below_depths } else { &mut table.exact_depths };
            let depth = 1 + name.bytes().filter(|&byte| byte == b'.').count();
            *depths |= 1_u128.checked_shl(depth as u32).unwrap_or(0);
            let hash = table.hash.whole(name.as_bytes(), below);
            let group = table.group(hash);
            if let Some((own, size)) = table.groups.get_mut(group).zip(sizes.get_mut(group)) {
                own.add(tag(hash));
                *size += HEAD + name.len();
            }
            hashed.push((group, name, value | if below { BELOW } else { 0 }));
        }
        // The names of a policy are limited to 1 GiB where they are read.
        let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        let mut end = 0;
        let mut starts: Vec<usize> = Vec::with_capacity(groups);
        for size in sizes {
            starts.push(end);
            end += size;
        }
        for (group, start) in table.groups.iter_mut().zip(starts.iter().copied().chain([end])) {
            group.place = place(start);
        }
        let mut records = vec![0; end];
        for (group, name, value) in hashed {
            let size = HEAD + name.len();
            let Some(start) = starts.get_mut(group) else { continue };
            if let Some(record) = records.get_mut(*start..*start + size) {
                record[0] = u8::try_from(name.len()).unwrap_or(u8::MAX);
                record[1..HEAD].copy_from_slice(&value.to_le_bytes());
                record[HEAD..].copy_from_slice(name.as_bytes());
            }
            *start += size;
        }
        table.records = records.into();
        table
    }

    /// The value of the most specific pattern that matches `name`, or 0.
    #[must_use]
    pub fn value(&self, name: &HostName) -> u32 {
        let text = name.as_bytes();
        let mut best = 0;
        let mut depth = 0_u32;
        let whole = self.hash.walk(text, |suffix, hash| {
            depth += 1;
            if self.below_depths >> (depth & 127) & 1 == 1 {
                let value = self.find(hash.finish(true), suffix, BELOW);
                best = if value == 0 { best } else { value };
            }
        });
        depth += 1;
        if self.exact_depths >> (depth & 127) & 1 == 1 {
            let value = self.find(whole.finish(false), text, 0);
            best = if value == 0 { best } else { value };
        }
        best
    }

    #[inline]
    fn find(&self, hash: u64, text: &[u8], kind: u32) -> u32 {
        let group = self.group(hash);
        let Some([own, next]) = self.groups.get(group..group + 2) else { return 0 };
        let tags = own.tags();
        if zero_bytes(tags ^ tag(hash).wrapping_mul(ONES)) == 0 && tags != CROWDED {
            return 0;
        }
        let mut records =
            self.records.get(own.place as usize..next.place as usize).unwrap_or_default();
        while let Some((&[length, value @ ..], rest)) = records.split_first_chunk::<HEAD>() {
            let Some((name, rest)) = rest.split_at_checked(length.into()) else { return 0 };
            let value = u32::from_le_bytes(value);
            if value & BELOW == kind && name == text {
                return value & !BELOW;
            }
            records = rest;
        }
        0
    }

    fn group(&self, hash: u64) -> usize {
        (((hash >> 32) * (self.groups.len() as u64 - 1)) >> 32) as usize
    }

    /// Bytes held, the texts included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.groups) + self.records.len()
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;

const DOTS: u64 = b'.' as u64 * ONES;

/// The top bit of each byte that is zero.
const fn zero_bytes(word: u64) -> u64 {
    const LOW: u64 = 0x7f * ONES;
    !(((word & LOW) + LOW) | word | LOW)
}

/// A byte of the hash that the group does not depend on; 0 stands for no pattern, and 255, eight
/// times, for [`CROWDED`].
const fn tag(hash: u64) -> u64 {
    let byte = hash & 0xff;
    if byte == 0 || byte == 0xff { 1 } else { byte }
}

/// A keyed hash of names that is read from the right, so that one walk gives the hash of every
/// suffix: words of eight bytes through a multiply whose halves are mixed (as wyhash does).
#[derive(Debug, Clone, Copy)]
struct Hash {
    key: u64,
    multiplier: u64,
}

/// The hash of a suffix, but for what kind of pattern is asked.
#[derive(Clone, Copy)]
struct Unfinished {
    state: u64,
    multiplier: u64,
}

impl Unfinished {
    fn finish(self, below: bool) -> u64 {
        mix(self.state ^ u64::from(below) << 32, self.multiplier)
    }
}

fn mix(word: u64, multiplier: u64) -> u64 {
    let wide = u128::from(word) * u128::from(multiplier);
    (wide >> 64) as u64 ^ wide as u64
}

impl Hash {
    fn drawn() -> Self {
        let random = RandomState::new();
        Self { key: random.hash_one(0), multiplier: random.hash_one(1) | 1 }
    }

    /// Tells `suffix` every proper suffix that begins at a label, shortest first; returns the hash
    /// of the whole.
    #[inline]
    fn walk(self, text: &[u8], mut suffix: impl FnMut(&[u8], Unfinished)) -> Unfinished {
        let (head, words) = text.as_rchunks::<8>();
        let mut state = self.key;
        let mut start = text.len();
        let unfinished = |state: u64, part: u64, start: usize| Unfinished {
            state: mix(state ^ part, self.multiplier) ^ (text.len() - start) as u64,
            multiplier: self.multiplier,
        };
        let mut dots_of = |state: u64, word: u64, start: usize| {
            let mut dots = zero_bytes(word ^ DOTS);
            while dots != 0 {
                let behind = 64 - dots.leading_zeros();
                dots &= !(1 << (behind - 1));
                let part = word.checked_shr(behind).unwrap_or(0);
                let from = start + behind as usize / 8;
                suffix(text.get(from..).unwrap_or_default(), unfinished(state, part, from));
            }
        };
        for word in words.iter().rev() {
            let word = u64::from_le_bytes(*word);
            start -= 8;
            dots_of(state, word, start);
            state = mix(state ^ word, self.multiplier);
        }
        // The first bytes, up to seven, as the upper ones of a word.
        let free = 64 - 8 * head.len() as u32;
        let part = match text.first_chunk::<8>() {
            Some(first) => u64::from_le_bytes(*first).checked_shl(free).unwrap_or(0),
            None => head.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)) << free,
        };
        // Its first byte would stand before the text, were there eight.
        if part != 0 {
            let mut dots = zero_bytes(part ^ DOTS);
            while dots != 0 {
                let behind = 64 - dots.leading_zeros();
                dots &= !(1 << (behind - 1));
                let from = (behind as usize / 8 + head.len()).saturating_sub(8);
                let rest = part.checked_shr(behind).unwrap_or(0);
                suffix(text.get(from..).unwrap_or_default(), unfinished(state, rest, from));
            }
        }
        unfinished(state, part.checked_shr(free).unwrap_or(0), 0)
    }

    /// The hash of a whole name.
    fn whole(self, text: &[u8], below: bool) -> u64 {
        self.walk(text, |_, _| ()).finish(below)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> HostName {
        HostName::parse(text.as_bytes()).unwrap()
    }

    fn table(patterns: &[(&str, u32)]) -> NameTable {
        NameTable::build(patterns.iter().map(|&(text, value)| match text.strip_prefix("*.") {
            Some(rest) => (rest, true, value),
            None => (text, false, value),
        }))
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
    fn a_name_is_found_at_every_length_and_with_as_many_labels_as_there_can_be() {
        let mut names: Vec<String> =
            (1..=250).map(|length| "ab.cdefg.".repeat(28)[250 - length..].to_owned()).collect();
        names.retain(|name| !name.starts_with('.') && !name.ends_with('.'));
        names.push("a.".repeat(126) + "a");
        for text in &names {
            let below = format!("*.{text}");
            let table = table(&[(text, 7), (&below, 8)]);
            assert_eq!(table.value(&name(text)), 7, "{text}");
            if text.len() <= 251 {
                assert_eq!(table.value(&name(&format!("x.{text}"))), 8, "{text}");
                assert_eq!(table.value(&name(&format!("x{text}"))), 0, "{text}");
            }
        }
    }

    /// Two names that collide in one table part ways in the next: the hash is keyed.
    #[test]
    fn names_that_collide_under_one_key_do_not_under_another() {
        let names: Vec<String> = (0..200_000).map(|n| format!("n{n}.example")).collect();
        let groups = 1 << 16;
        let group = |hash: Hash, text: &str| hash.whole(text.as_bytes(), false) >> 48;
        let first = Hash::drawn();
        let chosen: Vec<_> = names.iter().filter(|text| group(first, text) < 64).collect();
        assert!(chosen.len() > 100, "{} of {groups} groups", chosen.len());
        let second = Hash::drawn();
        let still = chosen.iter().filter(|text| group(second, text) < 64).count();
        assert!(still < 10, "{still} of {}", chosen.len());
    }

    /// What a look-up costs is how many groups it reads: bounded, and the same at every size.
    #[test]
    fn the_groups_that_are_read_do_not_grow_with_the_table() {
        for count in [1_000, 100_000] {
            let names: Vec<String> = (0..count).map(|n| format!("n{n}.example.eu")).collect();
            let table = NameTable::build(names.iter().map(|text| (text.as_str(), false, 1)));
            let crowded = table.groups.iter().filter(|group| group.tags() == CROWDED).count();
            assert!(crowded * 12 < table.groups.len(), "{crowded} of {}", table.groups.len());
            let ends = table.groups.windows(2).map(|pair| pair[1].place - pair[0].place);
            let longest = ends.max().unwrap();
            assert!(longest < 25 * 26, "{longest} bytes in one group");
            assert!(names.iter().all(|text| table.value(&name(text)) == 1));
            let text: usize = names.iter().map(String::len).sum();
            assert!(table.bytes() - text < 24 * count, "{} bytes", table.bytes());
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
