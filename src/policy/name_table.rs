//! Name -> a small number, by exact names and by `*.` suffixes.
//!
//! A look-up finds the dots of the name, and asks for the name itself and for each suffix of as many
//! labels as some `*.` pattern has. A question is a keyed hash over words of eight bytes and one load
//! of fourteen tags (a byte of each pattern's hash); only where a tag agrees, of a pattern that is as
//! long, in one of a hundred cases by accident, the pattern's own text is read and compared. So the
//! time depends neither on how many names there are nor on what they are, but for the memory that
//! they are in; the keys are drawn anew for each table, so that nobody can choose names that collide
//! (sums of words times keys: two names have one sum for one choice of keys in 2^63).
//!
//! What bounds it is memory. A table that the caches hold answers in 20 ns (a miss) or 30 (a hit,
//! four labels; AMD EPYC); of a million names, 37 MiB, a miss reads one line, and a hit two, the
//! second of which cannot be asked for before the first has come, at 20 ns each from the last cache
//! and 120 from memory. Tags, sizes and place stand in half a line for that reason: as three tables a
//! hit waited three times. A filter in front would save a miss little and cost a hit a third line.
//! One line of four patterns, each by 96 bits of its hash and no text, was tried as well: a hit took
//! 146 ns instead of 174 and a miss 153 instead of 52, since the tags alone fit the last cache and
//! 32 MiB do not (8 MiB answered in 71 ns, 16 in 123); and what is found would be so but for a chance.
//! Over the text a name takes 15.5 bytes.

use std::hash::{BuildHasher, RandomState};

use super::huge_pages::zeroed;
use crate::identify::{HostName, NAME_MAX};

/// An immutable table of patterns. The most specific pattern of a name decides: the name itself,
/// else the longest `*.` suffix.
#[derive(Debug)]
pub struct NameTable {
    hash: Hash,
    /// One more at the end, for where the records of the last one end.
    groups: Box<[Group]>,
    /// For each pattern a word of value (31 bits), [`BELOW`] and length (the upper 32), and its text
    /// in words, padded with zeros; the patterns of a group side by side.
    records: Box<[u64]>,
    /// A bit for each pattern of a small table, by its length and its first eight bytes. Most names
    /// that are not in it are told by that, for a fifth of what their hash takes. A large table has
    /// none: it would be one more line of memory to wait for.
    screen: Box<[u64]>,
    /// Bit n: some name of n labels is in the table.
    exact_depths: u128,
    /// Bit n: some `*.` pattern has n labels behind the star.
    below_depths: u128,
}

/// The patterns of one place in the table, half a cache line, so that one load tells where the one
/// record is that may be asked for.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(32))]
struct Group {
    /// The tags of up to [`GROUP_ROOM`] patterns, one a byte, 0 where there is none; the first word is
    /// [`CROWDED`] where there are more, and no tag of the second agrees. The upper two bytes of the second are of the place.
    tags: [u64; 2],
    /// The words of each pattern's record, in the order of the tags, and the rest of the place.
    sizes: [u64; 2],
}

impl Group {
    /// Where the records begin.
    const fn place(&self) -> u32 {
        let [[_, tags], [_, sizes]] = [self.tags, self.sizes];
        ((tags >> 48) << 16 | sizes >> 48) as u32
    }

    const fn set_place(&mut self, place: u32) {
        let [[_, tags], [_, sizes]] = [&mut self.tags, &mut self.sizes];
        *tags = *tags & ROOM_MASK | (place as u64 >> 16) << 48;
        *sizes = *sizes & ROOM_MASK | (place as u64) << 48;
    }

    const fn is_crowded(&self) -> bool {
        let [tags, _] = self.tags;
        tags == CROWDED
    }

    /// Adds a pattern; `count` have been.
    fn add(&mut self, count: u8, tag: u64, size: usize) {
        let (half, shift) = (usize::from(count) / 8, count % 8 * 8);
        match (self.tags.get_mut(half), self.sizes.get_mut(half)) {
            (Some(tags), Some(sizes)) if count < GROUP_ROOM => {
                *tags |= tag << shift;
                *sizes |= (size as u64) << shift;
            }
            _ => {
                let [first, second] = &mut self.tags;
                (*first, *second) = (CROWDED, *second | ROOM_MASK);
            }
        }
    }
}

/// The six bytes of a group's second words that are tags and sizes.
const ROOM_MASK: u64 = (1 << 48) - 1;

/// Marks the value of a `*.` pattern.
const BELOW: u32 = 1 << 31;

/// Patterns for each group, on the average: one group in sixty is crowded.
const GROUP_LOAD: usize = 8;

/// The same in a table that the caches hold, where room costs nothing: one in thirty thousand. In a
/// crowded one each name below a suffix of it is compared with every pattern there, some 650
/// instructions (250 suffixes, callgrind).
const SMALL_GROUP_LOAD: usize = 4;

/// Patterns up to which a table is small.
const SMALL: usize = 16_384;

/// Patterns that a group has tags for.
const GROUP_ROOM: u8 = 14;

/// The first tags of a group of more, which is looked through whatever the tag.
const CROWDED: u64 = u64::MAX;

/// Words of a name that is hashed and compared without a loop: 40 bytes.
const SHORT: usize = 5;

/// Words of the longest name.
const LONGEST: usize = NAME_MAX.div_ceil(8);

/// A name, or a suffix of one, behind which there is nothing but zeros.
#[derive(Clone, Copy)]
struct Text<'a> {
    padded: &'a [u8; NAME_MAX],
    begins: usize,
    length: usize,
}

impl<'a> Text<'a> {
    fn of(name: &'a HostName) -> Self {
        Self { padded: name.padded(), begins: 0, length: name.as_bytes().len() }
    }

    /// The suffix from `begins` on.
    const fn suffix(self, begins: usize) -> Self {
        Self { begins, length: self.length.saturating_sub(begins), ..self }
    }

    const fn words(self) -> usize {
        self.length.div_ceil(8)
    }

    /// The word at a place, padded with zeros.
    #[inline(always)]
    fn word(self, at: usize) -> u64 {
        let from = self.begins + at * 8;
        match self.padded.get(from..from + 8) {
            Some(&[a, b, c, d, e, f, g, h]) => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            _ => self.last_word(from),
        }
    }

    /// A word that reaches beyond the end.
    #[cold]
    fn last_word(self, from: usize) -> u64 {
        let rest = self.padded.get(from..).unwrap_or_default();
        rest.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
    }

    /// Where the dots are, a bit for each byte.
    #[inline(always)]
    fn dots<const CHUNKS: usize>(self, words: usize) -> [u64; CHUNKS] {
        let mut dots = [0; CHUNKS];
        for at in 0..words {
            let found = zero_bytes(self.word(at) ^ DOTS) >> 7;
            // Gathers the lowest bit of each byte in the uppermost byte.
            let found = found.wrapping_mul(0x0102_0408_1020_4080) >> 56;
            if let Some(chunk) = dots.get_mut(at / 8) {
                *chunk |= found << (at % 8 * 8);
            }
        }
        dots
    }
}

impl NameTable {
    /// Builds from patterns (name, and whether it stands for the names below it) and their values,
    /// from 1 to below 2^31; 0 is "no pattern". No pattern comes twice.
    #[must_use]
    pub fn build<'a>(patterns: impl ExactSizeIterator<Item = (&'a str, bool, u32)>) -> Self {
        let load = if patterns.len() <= SMALL { SMALL_GROUP_LOAD } else { GROUP_LOAD };
        let groups = patterns.len() / load + 1;
        let mut table = Self {
            hash: Hash::drawn(),
            groups: zeroed(groups + 1),
            records: Box::default(),
            screen: screen(patterns.len()),
            exact_depths: 0,
            below_depths: 0,
        };
        let mut padded = Padded::default();
        let mut places = vec![0_u32; groups];
        let mut hashed = Vec::with_capacity(patterns.len());
        for (name, below, value) in patterns {
            let Some(text) = padded.text(name) else { continue };
            let depths = if below { &mut table.below_depths } else { &mut table.exact_depths };
            let depth = 1 + name.bytes().filter(|&byte| byte == b'.').count();
            *depths |= 1_u128.checked_shl(depth as u32).unwrap_or(0);
            let (word, bit) = table.screened(text, below);
            if let Some(word) = table.screen.get_mut(word) {
                *word |= 1 << bit;
            }
            let hash = table.hash.of(text, below);
            let size = 1 + text.words();
            let group = table.group(hash);
            // The words of each group for now; where they begin below.
            if let Some(words) = places.get_mut(group) {
                *words += size as u32;
            }
            hashed.push((group as u32, tag(hash), name, value | if below { BELOW } else { 0 }));
        }
        // The names of a policy are limited to 1 GiB where they are read.
        let mut end = 0_u32;
        for place in &mut places {
            (*place, end) = (end, end + *place);
        }
        for (group, &place) in table.groups.iter_mut().zip(places.iter().chain([&end])) {
            group.set_place(place);
        }
        // Behind the last record as many words as one is compared with at once.
        let mut records = zeroed::<u64>(end as usize + SHORT);
        let mut counts = vec![0_u8; groups];
        for (group, tag, name, value) in hashed {
            let at = group as usize;
            let (Some(text), Some(place)) = (padded.text(name), places.get_mut(at)) else {
                continue;
            };
            let size = 1 + text.words();
            let own = *place as usize..*place as usize + size;
            *place += size as u32;
            if let Some([head, words @ ..]) = records.get_mut(own) {
                *head = (text.length as u64) << 32 | u64::from(value);
                words.iter_mut().enumerate().for_each(|(at, word)| *word = text.word(at));
            }
            if let Some((group, count)) = table.groups.get_mut(at).zip(counts.get_mut(at)) {
                group.add(*count, tag, size);
                *count = count.saturating_add(1);
            }
        }
        table.records = records;
        table
    }

    /// The value of the most specific pattern that matches `name`, or 0.
    #[must_use]
    pub fn value(&self, name: &HostName) -> u32 {
        let text = Text::of(name);
        if text.length <= SHORT * 8 {
            self.most_specific::<1>(text, text.dots(SHORT))
        } else {
            self.most_specific::<4>(text, text.dots(text.words()))
        }
    }

    /// The values of a name in two tables, its labels told apart once.
    #[must_use]
    pub fn values([first, second]: [&Self; 2], name: &HostName) -> [u32; 2] {
        let text = Text::of(name);
        if text.length <= SHORT * 8 {
            let dots = text.dots(SHORT);
            [first, second].map(|table| table.most_specific::<1>(text, dots))
        } else {
            let dots = text.dots(text.words());
            [first, second].map(|table| table.most_specific::<4>(text, dots))
        }
    }

    #[inline(always)]
    fn most_specific<const CHUNKS: usize>(&self, text: Text<'_>, dots: [u64; CHUNKS]) -> u32 {
        let depth = 1 + dots.iter().map(|chunk| chunk.count_ones()).sum::<u32>();
        let mut best = 0;
        // The numbers of labels to ask for, from the fewest, and the dots that are left of them.
        let mut wanted = self.below_depths & ((1 << (depth & 127)) - 1);
        if CHUNKS == 1 {
            // A short name has few labels: the rest is zero, and the compiler knows.
            wanted = u128::from(self.below_depths as u64 & ((1 << (depth & 63)) - 1));
        }
        let (mut left, mut labels) = (dots, 1);
        while wanted != 0 {
            while labels < wanted.trailing_zeros() {
                take_last(&mut left);
                labels += 1;
            }
            wanted &= wanted - 1;
            let suffix = text.suffix(take_last(&mut left));
            labels += 1;
            let value = self.find(suffix, true);
            best = if value == 0 { best } else { value };
        }
        if self.exact_depths >> (depth & 127) & 1 == 1 {
            let value = self.find(text, false);
            best = if value == 0 { best } else { value };
        }
        best
    }

    #[inline(always)]
    fn find(&self, text: Text<'_>, below: bool) -> u32 {
        if !self.may_hold(text, below) {
            return 0;
        }
        let hash = self.hash.of(text, below);
        let at = self.group(hash);
        let Some(group) = self.groups.get(at) else { return 0 };
        let asked = tag(hash) * ONES;
        let [first, second] = group.tags;
        let agree = [zero_bytes(first ^ asked), zero_bytes(second ^ asked) & ROOM_MASK];
        if agree == [0; 2] {
            return if group.is_crowded() { self.look_through(at, text, below) } else { 0 };
        }
        self.compare(group, agree, text, below)
    }

    /// False where the screen tells that no pattern is this one.
    #[inline(always)]
    fn may_hold(&self, text: Text<'_>, below: bool) -> bool {
        if self.screen.is_empty() {
            return true;
        }
        let (word, bit) = self.screened(text, below);
        self.screen.get(word).is_none_or(|word| word >> bit & 1 == 1)
    }

    /// The word of the screen, and the bit in it, that stand for a pattern.
    #[inline(always)]
    fn screened(&self, text: Text<'_>, below: bool) -> (usize, u32) {
        let length = (text.length as u64) << 1 | u64::from(below);
        let [key, ..] = self.hash.keys;
        let hash = (text.word(0) ^ length).wrapping_mul(key | 1);
        ((hash >> 38) as usize & self.screen.len().wrapping_sub(1), (hash >> 58) as u32)
    }

    /// Compares the patterns of a group whose tags agree.
    #[inline(always)]
    fn compare(&self, group: &Group, agree: [u64; 2], text: Text<'_>, below: bool) -> u32 {
        let asked = (1 + text.words() as u64) * ONES;
        let mut before = group.place() as usize;
        for (sizes, agree) in group.sizes.iter().zip(agree) {
            let mut agree = agree & zero_bytes(sizes ^ asked);
            while agree != 0 {
                // The sizes of those that stand before it.
                let others = sizes & ((1 << (agree.trailing_zeros() - 7)) - 1);
                if let Some(value) = self.same(before + sum_of_bytes(others), text, below) {
                    return value;
                }
                agree &= agree - 1;
            }
            before += sum_of_bytes(*sizes);
        }
        0
    }

    /// The value of the record at a place, if it is that of the name.
    #[inline(always)]
    fn same(&self, at: usize, text: Text<'_>, below: bool) -> Option<u32> {
        let (&head, words) = self.records.get(at..)?.split_first()?;
        let words_of_text = text.words();
        let mut differ = (head >> 31) ^ (text.length as u64) << 1 ^ u64::from(below);
        for (at, word) in words.first_chunk::<SHORT>()?.iter().enumerate() {
            // What follows the record is of another one.
            differ |= if at < words_of_text { word ^ text.word(at) } else { 0 };
        }
        if words_of_text > SHORT {
            for (at, word) in words.iter().enumerate().take(words_of_text).skip(SHORT) {
                differ |= word ^ text.word(at);
            }
        }
        (differ == 0).then_some(head as u32 & !BELOW)
    }

    /// Compares every pattern of a group.
    #[cold]
    fn look_through(&self, group: usize, text: Text<'_>, below: bool) -> u32 {
        let Some([group, next]) = self.groups.get(group..group + 2) else { return 0 };
        let mut at = group.place() as usize;
        while at < next.place() as usize {
            if let Some(value) = self.same(at, text, below) {
                return value;
            }
            let length = self.records.get(at).map_or(0, |head| (head >> 32) as usize);
            at += 1 + length.div_ceil(8);
        }
        0
    }

    fn group(&self, hash: u64) -> usize {
        (((hash >> 32) * (self.groups.len() as u64 - 1)) >> 32) as usize
    }

    /// Bytes held, the texts included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.groups) + size_of_val(&*self.records) + size_of_val(&*self.screen)
    }
}

/// The screen of so many patterns: sixteen bits for each and more, a power of two.
fn screen(patterns: usize) -> Box<[u64]> {
    let words = if patterns <= SMALL { (patterns / 4 + 1).next_power_of_two() } else { 0 };
    vec![0; words].into()
}

/// Takes the last dot out; where a label begins behind it.
#[inline(always)]
fn take_last<const CHUNKS: usize>(dots: &mut [u64; CHUNKS]) -> usize {
    for (at, chunk) in dots.iter_mut().enumerate().rev() {
        if let Some(last) = chunk.checked_ilog2() {
            *chunk ^= 1 << last;
            return at * 64 + last as usize + 1;
        }
    }
    0
}

/// A text that is padded with zeros, for the names of patterns one after the other.
struct Padded {
    bytes: [u8; NAME_MAX],
    length: usize,
}

impl Default for Padded {
    fn default() -> Self {
        Self { bytes: [0; NAME_MAX], length: 0 }
    }
}

impl Padded {
    /// [`None`] where it is longer than a name can be.
    fn text(&mut self, name: &str) -> Option<Text<'_>> {
        self.bytes.get_mut(..self.length)?.fill(0);
        self.length = 0;
        self.bytes.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        self.length = name.len();
        Some(Text { padded: &self.bytes, begins: 0, length: name.len() })
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;

const DOTS: u64 = b'.' as u64 * ONES;

/// The top bit of each byte that is zero.
const fn zero_bytes(word: u64) -> u64 {
    const LOW: u64 = 0x7f * ONES;
    !(((word & LOW) + LOW) | word | LOW)
}

/// The sum of the eight bytes of a word.
const fn sum_of_bytes(word: u64) -> usize {
    const PAIRS: u64 = 0x00ff_00ff_00ff_00ff;
    let pairs = (word & PAIRS) + (word >> 8 & PAIRS);
    (pairs.wrapping_mul(0x0001_0001_0001_0001) >> 48) as usize
}

/// A byte of the hash that the group does not depend on; 0 stands for no pattern, and 255 for a
/// group that is [`CROWDED`].
const fn tag(hash: u64) -> u64 {
    let byte = hash & 0xff;
    if byte == 0 || byte == 0xff { 1 } else { byte }
}

/// A keyed hash of names: the sum of each word times a key of its own, 128 bits wide (multilinear
/// hashing, Carter and Wegman 1979), mixed in the end as wyhash does. The products do not depend on
/// each other, and words of zeros change nothing, so that a short name takes no loop.
#[derive(Debug, Clone)]
struct Hash {
    keys: [u64; LONGEST],
    last: [u64; 2],
}

impl Hash {
    fn drawn() -> Self {
        let random = RandomState::new();
        let key = |at: usize| random.hash_one(at);
        Self { keys: std::array::from_fn(key), last: [key(LONGEST), key(LONGEST + 1)] }
    }

    #[inline(always)]
    fn of(&self, text: Text<'_>, below: bool) -> u64 {
        let term = |(at, key): (usize, &u64)| u128::from(text.word(at)) * u128::from(*key);
        let mut sum = 0_u128;
        for at in self.keys.iter().enumerate().take(SHORT) {
            sum = sum.wrapping_add(term(at));
        }
        if text.length > SHORT * 8 {
            for at in self.keys.iter().enumerate().take(text.words()).skip(SHORT) {
                sum = sum.wrapping_add(term(at));
            }
        }
        let [low, high] = self.last;
        mix(sum as u64 ^ low ^ u64::from(below), (sum >> 64) as u64 ^ high)
    }
}

fn mix(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    (wide >> 64) as u64 ^ wide as u64
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
        let group = |hash: &Hash, text: &str| hash.of(Text::of(&name(text)), false) >> 48;
        let first = Hash::drawn();
        let chosen: Vec<_> = names.iter().filter(|text| group(&first, text) < 64).collect();
        assert!(chosen.len() > 100, "{} of {groups} groups", chosen.len());
        let second = Hash::drawn();
        let still = chosen.iter().filter(|text| group(&second, text) < 64).count();
        assert!(still < 10, "{still} of {}", chosen.len());
    }

    /// What a look-up costs is how many groups it reads: bounded, and the same at every size.
    #[test]
    fn the_groups_that_are_read_do_not_grow_with_the_table() {
        for count in [1_000, 100_000] {
            let names: Vec<String> = (0..count).map(|n| format!("n{n}.example.eu")).collect();
            let table = NameTable::build(names.iter().map(|text| (text.as_str(), false, 1)));
            let crowded = table.groups.iter().filter(|group| group.is_crowded()).count();
            let few = if count <= SMALL { 2 } else { table.groups.len() / 12 };
            assert!(crowded <= few, "{crowded} of {}", table.groups.len());
            let ends = table.groups.windows(2).map(|pair| pair[1].place() - pair[0].place());
            let longest = ends.max().unwrap();
            assert!(longest < 35 * 4, "{longest} words in one group");
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
