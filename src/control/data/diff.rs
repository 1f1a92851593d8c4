//! What one table says otherwise than another: `schengate data diff`.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::coverage::{Extent, Label, grouped};
use super::model::{Kind, Ranges, Table};

/// The difference between two tables of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// Their kind.
    pub kind: Kind,
    /// What changed for each label that gained or lost anything, the largest change first.
    pub changes: Vec<Change>,
    /// What moved from whom to whom, the largest first.
    pub moves: Vec<Move>,
    /// What both say alike.
    pub same: Extent,
}

/// What changed for one label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Country code, `anycast`, `EU`, `several`, `unplaced`, or an AS number.
    pub label: Label,
    /// What the old table gave it.
    pub before: Extent,
    /// What the new one gives it.
    pub after: Extent,
    /// What it has and had not.
    pub gained: Extent,
    /// What it had and has not.
    pub lost: Extent,
}

/// Addresses that are in another place now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Move {
    /// Where they were; `None`: the old table did not say.
    pub from: Option<Label>,
    /// Where they are; `None`: the new table does not say.
    pub to: Option<Label>,
    /// How many.
    #[serde(flatten)]
    pub extent: Extent,
}

/// Tables of two kinds say nothing of each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{old} is a table of kind {}, {new} one of kind {}: name two of one kind",
    .old_kind.label(), .new_kind.label()
)]
pub struct KindsDiffer {
    /// Name of the one.
    pub old: String,
    /// Its kind.
    pub old_kind: Kind,
    /// Name of the other.
    pub new: String,
    /// Its kind.
    pub new_kind: Kind,
}

/// Compares two tables, address by address.
///
/// # Errors
/// That they are of different kinds.
pub fn diff(old: &Table, new: &Table) -> Result<Diff, KindsDiffer> {
    let kind = old.kind();
    let new_kind = new.kind();
    if kind != new_kind {
        let names = (old.info().name.clone(), new.info().name.clone());
        let (old, new) = names;
        return Err(KindsDiffer { old, old_kind: kind, new, new_kind });
    }
    let pairs = pairs(&old.labels(), &new.labels());
    let mut sums: BTreeMap<Label, Change> = BTreeMap::new();
    let mut moves = Vec::new();
    let mut same = Extent::default();
    for ((from, to), extent) in pairs {
        let mut change = |label: Option<Label>, put: fn(&mut Change) -> &mut Extent| {
            if let Some(label) = label {
                let empty = Extent::default();
                let none =
                    Change { label, before: empty, after: empty, gained: empty, lost: empty };
                put(sums.entry(label).or_insert(none)).add(extent);
            }
        };
        change(from, |change| &mut change.before);
        change(to, |change| &mut change.after);
        if from == to {
            same.add(extent);
        } else {
            change(from, |change| &mut change.lost);
            change(to, |change| &mut change.gained);
            moves.push(Move { from, to, extent });
        }
    }
    let changed = |change: &Change| !change.gained.is_empty() || !change.lost.is_empty();
    let mut changes: Vec<Change> = sums.into_values().filter(changed).collect();
    let turnover = |change: &Change| change.gained.weight().saturating_add(change.lost.weight());
    changes.sort_by_key(|change| (Reverse(turnover(change)), change.label));
    moves.sort_by_key(|moved| (Reverse(moved.extent.weight()), moved.from, moved.to));
    Ok(Diff { kind, changes, moves, same })
}

impl Diff {
    /// Whether the tables say the same of every address.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.moves.is_empty()
    }

    /// Leaves the `top` largest changes and moves; 0 leaves all.
    pub fn truncate(&mut self, top: usize) {
        if top > 0 {
            self.changes.truncate(top);
            self.moves.truncate(top);
        }
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("both say the same of every address");
        }
        let spelled =
            |extent: Extent| format!("{:>15} {:>13}", grouped(extent.v4), grouped(extent.v6_48s()));
        write!(f, "unchanged {}\n\n", spelled(self.same))?;
        let (v4, v6) = ("IPv4", "IPv6 /48s");
        let head = format!("{v4:>15} {v6:>13}");
        writeln!(f, "{:<10} {head} gained {head} lost {head} now", self.kind.label())?;
        for Change { label, after, gained, lost, .. } in &self.changes {
            let (gained, lost, after) = (spelled(*gained), spelled(*lost), spelled(*after));
            writeln!(f, "{label:<10} {gained}        {lost}      {after}")?;
        }
        let name = |label: Option<Label>| {
            label.map_or_else(|| "(no answer)".to_owned(), |label| label.to_string())
        };
        write!(f, "\n{:<26} {head}", "moved")?;
        for Move { from, to, extent } in &self.moves {
            write!(f, "\n{:<11} -> {:<11} {}", name(*from), name(*to), spelled(*extent))?;
        }
        Ok(())
    }
}

/// How much of the space has each pair of labels; what neither table knows is left out.
pub(super) fn pairs(
    old: &Ranges<Label>,
    new: &Ranges<Label>,
) -> BTreeMap<(Option<Label>, Option<Label>), Extent> {
    let mut sums: BTreeMap<(Option<Label>, Option<Label>), Extent> = BTreeMap::new();
    let wide = |&(first, last, label): &(u32, u32, Label)| (first.into(), last.into(), label);
    sweep(old.v4.iter().map(wide), new.v4.iter().map(wide), |first, last, pair| {
        // Both came from 32 bits.
        sums.entry(pair).or_default().add_v4(first as u32, last as u32);
    });
    sweep(old.v6.iter().copied(), new.v6.iter().copied(), |first, last, pair| {
        sums.entry(pair).or_default().add_v6(first, last);
    });
    sums
}

/// Walks two lists of sorted, disjoint ranges and calls `piece` for each stretch on which neither
/// changes and that at least one of them holds.
fn sweep(
    mut old: impl Iterator<Item = (u128, u128, Label)>,
    mut new: impl Iterator<Item = (u128, u128, Label)>,
    mut piece: impl FnMut(u128, u128, (Option<Label>, Option<Label>)),
) {
    let (mut a, mut b) = (old.next(), new.next());
    while let Some(at) = [a, b].into_iter().flatten().map(|range| range.0).min() {
        let edges = [a, b].into_iter().flatten().map(|(first, last, _)| {
            // A range that begins later ends the stretch before it.
            if first > at { first - 1 } else { last }
        });
        let Some(end) = edges.min() else { return };
        let here = |range: Option<(u128, u128, Label)>| {
            range.filter(|range| range.0 == at).map(|range| range.2)
        };
        piece(at, end, (here(a), here(b)));
        for (head, rest) in [(&mut a, &mut old as &mut dyn Iterator<Item = _>), (&mut b, &mut new)]
        {
            *head = match *head {
                Some((_, last, _)) if last <= end => rest.next(),
                Some((first, last, label)) if first <= end => Some((end + 1, last, label)),
                later => later,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::Country;

    fn label(at: u8) -> Label {
        Label::Country(Country::from_index(at.into()).unwrap())
    }

    /// Disjoint ranges of a small space, so that every address of it can be asked.
    fn ranges() -> impl Strategy<Value = Vec<(u32, u32, Label)>> {
        proptest::collection::btree_map(0..200_u32, 0..4_u8, 0..40).prop_map(|points| {
            let points: Vec<_> = points.into_iter().collect();
            points.chunks_exact(2).map(|pair| (pair[0].0, pair[1].0, label(pair[0].1))).collect()
        })
    }

    proptest! {
        #[test]
        fn the_sweep_agrees_with_asking_every_address(old in ranges(), new in ranges()) {
            let wide = |ranges: &[(u32, u32, Label)]| {
                ranges.iter().map(|r| (r.0.into(), r.1.into(), r.2)).collect::<Vec<_>>()
            };
            let (old, new) = (
                Ranges { v6: wide(&old), v4: old },
                Ranges { v6: wide(&new), v4: new },
            );
            let mut asked: BTreeMap<_, u64> = BTreeMap::new();
            for at in 0..=201_u32 {
                let at = std::net::IpAddr::V4(at.into());
                let pair = (old.lookup(at), new.lookup(at));
                if pair != (None, None) {
                    *asked.entry(pair).or_default() += 1;
                }
            }
            let swept = pairs(&old, &new);
            let v4: BTreeMap<_, _> = swept.iter().map(|(&pair, sum)| (pair, sum.v4)).collect();
            let v6: BTreeMap<_, _> =
                swept.iter().map(|(&pair, sum)| (pair, sum.v6 as u64)).collect();
            prop_assert_eq!(&v4, &asked);
            prop_assert_eq!(&v6, &asked);
        }
    }

    #[test]
    fn the_sweep_ends_at_the_last_address() {
        let all =
            |at| Ranges { v4: vec![(0, u32::MAX, label(at))], v6: vec![(0, u128::MAX, label(at))] };
        let moved = pairs(&all(1), &all(2));
        assert_eq!(moved.len(), 1);
        assert_eq!(moved[&(Some(label(1)), Some(label(2)))].v4, 1 << 32);
    }
}
