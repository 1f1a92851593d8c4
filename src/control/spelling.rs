//! Which known word was probably meant.

/// The candidate nearest to `word`, where it is near enough to be meant: at most one edit in
/// three characters, and never more than three.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A longer word is no slip of the pen, and the distance costs the product of the lengths.
    if word.len() > 64 {
        return None;
    }
    let limit = (word.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| (distance(&word.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|&(distance, _)| distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Edits between two words in characters; two neighbours that changed places are one edit
/// (optimal string alignment).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut rows: [Vec<usize>; 2] = [Vec::new(), (0..=right.len()).collect()];
    let mut above = None;
    for (i, from) in left.chars().enumerate() {
        let [before, last] = &rows;
        let mut row = vec![i + 1];
        for (j, &to) in right.iter().enumerate() {
            let cell = |row: &[usize], at: usize| row.get(at).copied().unwrap_or(usize::MAX - 1);
            let mut best = cell(last, j) + usize::from(from != to);
            best = best.min(cell(last, j + 1) + 1).min(cell(&row, j) + 1);
            let beside = j.checked_sub(1).and_then(|at| right.get(at).map(|&left| (at, left)));
            if let Some((at, left)) = beside
                && above == Some(to)
                && left == from
            {
                best = best.min(cell(before, at) + 1);
            }
            row.push(best);
        }
        above = Some(from);
        rows = [std::mem::take(&mut rows[1]), row];
    }
    rows[1].last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_is_that_of_the_textbook() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("permit", "permit"), 0);
        assert_eq!(distance("eae", "eea"), 1);
        assert_eq!(distance("ca", "abc"), 3);
    }

    #[test]
    fn only_a_near_word_is_suggested() {
        let keys = ["permit", "permit_law", "mode"];
        assert_eq!(nearest("permitt", keys), Some("permit"));
        assert_eq!(nearest("Permit-Law", keys), Some("permit_law"));
        assert_eq!(nearest("colour", keys), None);
        assert_eq!(nearest(&"permit".repeat(100), keys), None);
    }
}
