//! Which provider table speaks for which provider.

use std::collections::HashMap;

use crate::control::data::{ProviderRow, Sources, UNNAMED_PROVIDER};

/// For each provider the first table of `[data] providers` that holds rows of it (docs/policy.md §3): a
/// newer list that stands before the embedded one replaces what that one says of the provider, and
/// its other providers go on being read there.
pub(super) struct Voices<'a>(HashMap<&'a str, usize>);

impl<'a> Voices<'a> {
    pub(super) fn of(sources: &'a Sources) -> Self {
        let mut first = HashMap::new();
        for (table, provider) in sources.providers.iter().enumerate() {
            for row in &provider.rows {
                first.entry(row.provider.as_str()).or_insert(table);
            }
        }
        // Geofeeds that name no provider are of different networks: no one replaces another.
        first.remove(UNNAMED_PROVIDER);
        Self(first)
    }

    /// Whether this row of this table counts.
    pub(super) fn hears(&self, table: usize, row: &ProviderRow) -> bool {
        self.0.get(row.provider.as_str()).is_none_or(|&first| first == table)
    }
}
