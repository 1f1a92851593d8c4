//! The Merkle tree of RFC 9162 §2.1: leaves, roots, and the two proofs.
//!
//! A log is only ever appended to. [`Frontier`] is what an appender has to know of a tree, whatever
//! its size; [`Window`] is a tree of which the leaves are at hand from some record on, as they are
//! where the oldest segments were removed.

use ring::digest::{Context, SHA256};

/// Bytes of a hash.
pub const HASH_LEN: usize = 32;

/// A hash of the tree (SHA-256).
pub type Hash = [u8; HASH_LEN];

/// The hash of a record as a leaf: SHA-256 of a zero byte and the record (RFC 9162 §2.1.1).
#[must_use]
pub fn leaf_hash(record: &[u8]) -> Hash {
    hashed(&[&[0], record])
}

/// The hash of a node above two others: SHA-256 of a byte of 1 and both (RFC 9162 §2.1.1).
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    hashed(&[&[1], left, right])
}

fn hashed(parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut hash = [0; HASH_LEN];
    // SHA-256 gives 32 bytes.
    hash.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
    hash
}

/// The roots of the largest whole subtrees of a tree, from the left: all that is needed to append to
/// it, and to name its root. At most 64 hashes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    nodes: Vec<Hash>,
}

impl Frontier {
    /// The frontier of a tree of `size` leaves; `None` where that many nodes are none of such a tree.
    #[must_use]
    pub fn new(size: u64, nodes: Vec<Hash>) -> Option<Self> {
        (nodes.len() == size.count_ones() as usize).then_some(Self { size, nodes })
    }

    /// Leaves.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The roots of the whole subtrees, the largest first.
    #[must_use]
    pub fn nodes(&self) -> &[Hash] {
        &self.nodes
    }

    /// Appends a leaf.
    pub fn push(&mut self, leaf: Hash) {
        let mut node = leaf;
        // Each whole subtree at the right end that is as large as what stands beside it.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.nodes.pop() {
                node = node_hash(&left, &node);
            }
        }
        self.nodes.push(node);
        self.size += 1;
    }

    /// The root of the tree (RFC 9162 §2.1.1); of an empty one, the hash of nothing.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut nodes = self.nodes.iter().rev();
        match nodes.next() {
            Some(last) => nodes.fold(*last, |right, left| node_hash(left, &right)),
            None => hashed(&[]),
        }
    }

    /// The subtree that holds the leaves from `from` to before `to`, where it is one of the nodes.
    fn node(&self, from: u64, to: u64) -> Option<Hash> {
        let mut begins = 0;
        for node in &self.nodes {
            let width = 1 << (63 - (self.size - begins).leading_zeros());
            if begins == from && from + width == to {
                return Some(*node);
            }
            begins += width;
        }
        None
    }
}

/// A tree of which the leaves are at hand from some record on; what is before them is a frontier.
#[derive(Debug, Clone, Copy)]
pub struct Window<'a> {
    before: &'a Frontier,
    leaves: &'a [Hash],
}

impl<'a> Window<'a> {
    /// The tree of what is before the leaves, and the leaves.
    #[must_use]
    pub const fn new(before: &'a Frontier, leaves: &'a [Hash]) -> Self {
        Self { before, leaves }
    }

    /// Leaves of the whole tree.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.before.size + self.leaves.len() as u64
    }

    /// Shows that a leaf is in the tree of the first `size` leaves: the hashes beside its way to the
    /// root, from the leaf upwards (RFC 9162 §2.1.3.1). `None` where the leaf is not at hand, or the
    /// tree is larger than this one.
    #[must_use]
    pub fn inclusion(&self, index: u64, size: u64) -> Option<Vec<Hash>> {
        if index >= size || size > self.size() || index < self.before.size {
            return None;
        }
        let (mut from, mut to) = (0, size);
        let mut path = Vec::new();
        while to - from > 1 {
            let middle = from + split(to - from);
            let beside = if index < middle { (middle, to) } else { (from, middle) };
            path.push(self.hash(beside.0, beside.1)?);
            (from, to) = if index < middle { (from, middle) } else { (middle, to) };
        }
        path.reverse();
        Some(path)
    }

    /// Shows that the tree of the first `old` leaves is the beginning of that of the first `new`
    /// (RFC 9162 §2.1.4.1). `None` where the leaves that takes are not at hand.
    #[must_use]
    pub fn consistency(&self, old: u64, new: u64) -> Option<Vec<Hash>> {
        if old == 0 || old > new || new > self.size() || old < self.before.size {
            return None;
        }
        let (mut from, mut to, mut is_old) = (0, new, true);
        let mut path = Vec::new();
        while old < to {
            let middle = from + split(to - from);
            if old <= middle {
                path.push(self.hash(middle, to)?);
                to = middle;
            } else {
                path.push(self.hash(from, middle)?);
                from = middle;
                is_old = false;
            }
        }
        if !is_old {
            path.push(self.hash(from, to)?);
        }
        path.reverse();
        Some(path)
    }

    /// The root of the tree of the first `size` leaves.
    #[must_use]
    pub fn root(&self, size: u64) -> Option<Hash> {
        let more = usize::try_from(size.checked_sub(self.before.size)?).ok()?;
        let mut frontier = self.before.clone();
        self.leaves.get(..more)?.iter().for_each(|leaf| frontier.push(*leaf));
        Some(frontier.root())
    }

    /// The root of the subtree over these leaves.
    fn hash(&self, from: u64, to: u64) -> Option<Hash> {
        if let Some(first) = from.checked_sub(self.before.size) {
            let (first, last) = (usize::try_from(first).ok()?, usize::try_from(to - from).ok()?);
            let mut all = Frontier::default();
            let leaves = self.leaves.get(first..)?.get(..last)?;
            leaves.iter().for_each(|leaf| all.push(*leaf));
            return Some(all.root());
        }
        self.before.node(from, to).or_else(|| {
            let middle = (to - from > 1).then(|| from + split(to - from))?;
            Some(node_hash(&self.hash(from, middle)?, &self.hash(middle, to)?))
        })
    }
}

/// Whether `path` shows that `leaf` is number `index` of a tree of `size` leaves with this root (RFC
/// 9162 §2.1.3.2).
#[must_use]
pub fn includes(leaf: &Hash, index: u64, size: u64, path: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut at, mut last, mut node) = (index, size - 1, *leaf);
    for beside in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            node = node_hash(beside, &node);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            node = node_hash(&node, beside);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && node == *root
}

/// Whether `path` shows that a tree of `old` leaves with the first root is the beginning of one of
/// `new` leaves with the second (RFC 9162 §2.1.4.2).
#[must_use]
pub fn extends(old: (u64, &Hash), new: (u64, &Hash), path: &[Hash]) -> bool {
    let ((old_size, old_root), (new_size, new_root)) = (old, new);
    if old_size == new_size {
        return path.is_empty() && old_root == new_root;
    }
    if old_size == 0 || old_size > new_size {
        return false;
    }
    // A whole subtree is not repeated in the path.
    let (first, path) = if old_size.is_power_of_two() {
        (old_root, path)
    } else {
        let Some((first, rest)) = path.split_first() else { return false };
        (first, rest)
    };
    let (mut at, mut last) = (old_size - 1, new_size - 1);
    while at & 1 == 1 {
        (at, last) = (at >> 1, last >> 1);
    }
    let (mut of_old, mut of_new) = (*first, *first);
    for beside in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            of_old = node_hash(beside, &of_old);
            of_new = node_hash(beside, &of_new);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            of_new = node_hash(&of_new, beside);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && of_old == *old_root && of_new == *new_root
}

/// The largest power of two below a number above 1: where its tree is divided.
const fn split(leaves: u64) -> u64 {
    1 << (63 - (leaves - 1).leading_zeros())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The tree of the definition (RFC 9162 §2.1.1), without anything kept.
    fn defined(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => hashed(&[]),
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(split(leaves.len() as u64) as usize);
                node_hash(&defined(left), &defined(right))
            }
        }
    }

    fn leaves(count: u64) -> Vec<Hash> {
        (0..count).map(|number| leaf_hash(&number.to_be_bytes())).collect()
    }

    fn frontier(leaves: &[Hash]) -> Frontier {
        let mut frontier = Frontier::default();
        leaves.iter().for_each(|leaf| frontier.push(*leaf));
        frontier
    }

    fn hex(hash: &Hash) -> String {
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The inputs and roots that the implementations of Certificate Transparency are tested with.
    #[test]
    fn roots_are_those_of_other_programs() {
        let inputs: [&[u8]; 8] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        let roots = [
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let leaves = inputs.map(leaf_hash);
        for (size, root) in roots.iter().enumerate() {
            assert_eq!(hex(&frontier(&leaves[..size]).root()), *root, "{size} leaves");
        }
    }

    #[test]
    fn every_proof_of_every_small_tree_holds_and_no_other_does() {
        let all = leaves(34);
        let empty = Frontier::default();
        let tree = Window::new(&empty, &all);
        for size in 1..=all.len() as u64 {
            let root = defined(&all[..size as usize]);
            assert_eq!(tree.root(size), Some(root));
            for index in 0..size {
                let path = tree.inclusion(index, size).unwrap();
                let leaf = &all[index as usize];
                assert!(includes(leaf, index, size, &path, &root), "{index} of {size}");
                assert!(
                    !includes(&all[33 - index as usize], index, size, &path, &root) || size == 1
                );
                assert!(!includes(leaf, (index + 1) % size, size, &path, &root) || size == 1);
                assert!(!includes(leaf, size, size, &path, &root));
                let longer: Vec<Hash> = path.iter().chain([leaf]).copied().collect();
                assert!(!includes(leaf, index, size, &longer, &root), "one hash too many");
                assert!(path.is_empty() || !includes(leaf, index, size, &path[1..], &root));
            }
            for old in 1..=size {
                let before = defined(&all[..old as usize]);
                let path = tree.consistency(old, size).unwrap();
                assert!(extends((old, &before), (size, &root), &path), "{old} of {size}");
                let other = all[0];
                assert!(!extends((old, &other), (size, &root), &path) || old == 1);
                assert!(!extends((old, &before), (size, &before), &path) || old == size);
                let longer: Vec<Hash> = path.iter().chain([&other]).copied().collect();
                assert!(!extends((old, &before), (size, &root), &longer));
            }
        }
        assert_eq!(tree.inclusion(34, 34), None);
        assert_eq!(tree.inclusion(0, 35), None);
        assert_eq!(tree.consistency(0, 34), None);
        assert_eq!(tree.consistency(3, 35), None);
    }

    #[test]
    fn a_frontier_has_as_many_nodes_as_its_size_has_ones() {
        let one = leaf_hash(b"");
        assert!(Frontier::new(5, vec![one; 2]).is_some());
        assert!(Frontier::new(5, vec![one; 3]).is_none());
        assert!(Frontier::new(0, Vec::new()).is_some());
    }

    proptest! {
        /// Whatever was removed at the front, what is left is proven as it was.
        #[test]
        fn a_tree_without_its_first_leaves_gives_the_same_proofs(
            count in 1_u64..300, first in 0_u64..300, index in 0_u64..300, size in 1_u64..300,
        ) {
            let first = first.min(count);
            let all = leaves(count);
            let (empty, gone) = (Frontier::default(), frontier(&all[..first as usize]));
            let (whole, part) = (Window::new(&empty, &all), Window::new(&gone, &all[first as usize..]));
            prop_assert_eq!(whole.size(), part.size());
            prop_assert_eq!(frontier(&all).root(), defined(&all));
            if index >= first {
                prop_assert_eq!(whole.inclusion(index, size), part.inclusion(index, size));
            } else {
                prop_assert_eq!(part.inclusion(index, size), None);
            }
            let old = index.max(first);
            prop_assert_eq!(whole.consistency(old, size), part.consistency(old, size));
        }
    }
}
