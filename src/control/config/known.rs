//! What the built-in facts know by name: operators and regions.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use crate::control::data::Facts;
pub(super) use crate::policy::leads;

/// Ids of the built-in operators.
pub(super) fn operator_ids() -> &'static BTreeSet<String> {
    static IDS: LazyLock<BTreeSet<String>> =
        LazyLock::new(|| Facts::built_in().operators.iter().map(|fact| fact.id.clone()).collect());
    &IDS
}

/// `provider:region` of every built-in region, whatever its kind.
pub(super) fn region_keys() -> &'static BTreeSet<String> {
    static KEYS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
        let regions = Facts::built_in().regions.iter();
        regions.map(|fact| format!("{}:{}", fact.provider, fact.region)).collect()
    });
    &KEYS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_words_lead() {
        assert!(leads("akamai", "akamai-international"));
        assert!(leads("akamai", "akamai"));
        assert!(!leads("aka", "akamai"));
        assert!(!leads("akamai-international", "akamai"));
    }

    #[test]
    fn regions_of_every_kind_are_known() {
        for key in ["aws:eu-west-3", "aws:GLOBAL", "gcp:eu", "aws-short:use1", "azure:global"] {
            assert!(region_keys().contains(key), "{key}");
        }
    }
}
