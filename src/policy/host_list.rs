//! The host patterns of one condition, lean enough for a million of them.

use std::sync::Arc;

use crate::identify::HostName;

/// Host patterns in the order written. A clone shares the text.
///
/// Held as one text, a line a pattern, since a [`HostName`] has room for the longest name: a list
/// of a million names is some 20 MB so, and was 254 MB for each list that carried it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostList {
    /// `name` or `*.name`, each with a line feed behind it.
    text: Arc<str>,
    count: usize,
}

/// One pattern of a [`HostList`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HostRef<'a> {
    /// A name in the form of [`HostName`], without `*.`.
    pub name: &'a str,
    /// Whether it stands for every name below it, and not for itself.
    pub below: bool,
}

impl HostRef<'_> {
    /// Whether every name that `other` stands for is one of this pattern's.
    #[must_use]
    pub fn covers(&self, other: &HostRef<'_>) -> bool {
        if !self.below {
            return self == other;
        }
        let rest = other.name.strip_suffix(self.name);
        rest.is_some_and(|rest| rest.ends_with('.') || (rest.is_empty() && other.below))
    }
}

impl HostList {
    /// How many patterns there are; one that was written twice counts twice.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no pattern.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of text held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// The patterns.
    pub fn iter(&self) -> impl Iterator<Item = HostRef<'_>> {
        self.text.split_terminator('\n').map(|line| match line.strip_prefix("*.") {
            Some(name) => HostRef { name, below: true },
            None => HostRef { name: line, below: false },
        })
    }
}

/// Collects the patterns of a [`HostList`].
#[derive(Debug, Default)]
pub struct HostListBuilder {
    text: String,
    count: usize,
}

impl HostListBuilder {
    /// Adds a name, or with `below` every name below it.
    pub fn push(&mut self, name: &HostName, below: bool) {
        if below {
            self.text.push_str("*.");
        }
        self.text.push_str(name.as_str());
        self.text.push('\n');
        self.count += 1;
    }

    /// How many patterns were added.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether none was added.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The list.
    #[must_use]
    pub fn finish(self) -> HostList {
        HostList { text: self.text.into(), count: self.count }
    }
}

impl FromIterator<(HostName, bool)> for HostList {
    fn from_iter<I: IntoIterator<Item = (HostName, bool)>>(patterns: I) -> Self {
        let mut list = HostListBuilder::default();
        patterns.into_iter().for_each(|(name, below)| list.push(&name, below));
        list.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_gives_back_what_was_put_in() {
        let name = |text: &str| HostName::parse(text.as_bytes()).unwrap();
        let list: HostList =
            [(name("a.example"), false), (name("b.example"), true)].into_iter().collect();
        let read: Vec<_> = list.iter().map(|host| (host.name, host.below)).collect();
        assert_eq!(read, [("a.example", false), ("b.example", true)]);
        assert_eq!(list.len(), 2);
        assert!(HostList::default().is_empty() && HostList::default().iter().next().is_none());
    }

    #[test]
    fn a_pattern_covers_what_it_stands_for() {
        let host = |text: &'static str| match text.strip_prefix("*.") {
            Some(name) => HostRef { name, below: true },
            None => HostRef { name: text, below: false },
        };
        for (wide, narrow, covers) in [
            ("a.eu", "a.eu", true),
            ("a.eu", "*.a.eu", false),
            ("*.a.eu", "*.a.eu", true),
            ("*.a.eu", "a.eu", false),
            ("*.a.eu", "x.a.eu", true),
            ("*.a.eu", "*.x.a.eu", true),
            ("*.a.eu", "xa.eu", false),
        ] {
            assert_eq!(host(wide).covers(&host(narrow)), covers, "{wide} {narrow}");
        }
    }
}
