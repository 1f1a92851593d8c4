//! What the built-in facts know by name: operators, regions, and the rows of our own tables.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

const OPERATORS: &str = include_str!("../../../config/facts/operators.csv");
const REGIONS: &str = include_str!("../../../config/facts/cloud-regions.csv");

/// Ids of the built-in operators.
static OPERATOR_IDS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    Rows::new(OPERATORS).filter_map(|row| row.field("operator").map(operator_id)).collect()
});

/// `provider:region` of every row, whatever its kind.
static REGION_KEYS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let key = |row: Row| Some(format!("{}:{}", row.field("provider")?, row.field("region")?));
    Rows::new(REGIONS).filter_map(key).collect()
});

pub(super) fn operator_ids() -> &'static BTreeSet<String> {
    &OPERATOR_IDS
}

pub(super) fn region_keys() -> &'static BTreeSet<String> {
    &REGION_KEYS
}

/// The operator id of a name as `operators.csv` writes it: up to ` / ` or ` (`, lower case, `-` for
/// every other run of characters (POLICY.md §3).
fn operator_id(name: &str) -> String {
    let end = [" / ", " ("].iter().filter_map(|mark| name.find(mark)).min();
    let head = end.and_then(|end| name.get(..end)).unwrap_or(name);
    let mut id = String::with_capacity(head.len());
    for character in head.chars() {
        if character.is_ascii_alphanumeric() {
            id.push(character.to_ascii_lowercase());
        } else if !id.ends_with('-') {
            id.push('-');
        }
    }
    id
}

/// Whether `words` are whole leading words of the operator id `id`, or all of it.
pub(super) fn leads(words: &str, id: &str) -> bool {
    id.strip_prefix(words).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// The rows of one of our own CSV files (RFC 4180), each field by its column's name.
pub(super) struct Rows<'t> {
    columns: BTreeMap<String, usize>,
    rest: &'t str,
}

/// One row of [`Rows`].
pub(super) struct Row<'c> {
    columns: &'c BTreeMap<String, usize>,
    fields: Vec<String>,
}

impl<'t> Rows<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        let mut rest = text;
        let header = record(&mut rest).unwrap_or_default();
        let columns = header.into_iter().enumerate().map(|(i, name)| (name, i)).collect();
        Self { columns, rest }
    }

    /// Reads each row through `read`, which gives `None` for a row that is to be left out.
    pub(super) fn filter_map<T>(
        mut self,
        mut read: impl FnMut(Row<'_>) -> Option<T>,
    ) -> impl Iterator<Item = T> {
        std::iter::from_fn(move || {
            loop {
                let fields = record(&mut self.rest)?;
                if let Some(value) = read(Row { columns: &self.columns, fields }) {
                    return Some(value);
                }
            }
        })
    }
}

impl Row<'_> {
    /// The field in the column of that name.
    pub(super) fn field(&self, column: &str) -> Option<&str> {
        self.fields.get(*self.columns.get(column)?).map(String::as_str)
    }
}

/// Takes one record off the front of `rest`; `None` at the end.
fn record(rest: &mut &str) -> Option<Vec<String>> {
    if rest.is_empty() {
        return None;
    }
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut characters = rest.char_indices().peekable();
    let mut end = rest.len();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' if quoted && characters.next_if(|&(_, next)| next == '"').is_some() => {
                push(&mut fields, '"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            '\n' if !quoted => {
                end = at + 1;
                break;
            }
            '\r' if !quoted => {}
            other => push(&mut fields, other),
        }
    }
    *rest = rest.get(end..).unwrap_or_default();
    Some(fields)
}

fn push(fields: &mut [String], character: char) {
    if let Some(field) = fields.last_mut() {
        field.push(character);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_the_names_of_the_table() {
        for (name, id) in [
            ("Amazon / AWS", "amazon"),
            ("Akamai International", "akamai-international"),
            ("1&1 Versatel (United Internet)", "1-1-versatel"),
            ("e& Etisalat UAE", "e-etisalat-uae"),
            ("i3D.net (Ubisoft)", "i3d-net"),
            ("F5 / Silverline / Volterra", "f5"),
        ] {
            assert_eq!(operator_id(name), id, "{name}");
        }
        assert!(operator_ids().contains("akamai-international"));
        assert!(operator_ids().len() > 300, "{}", operator_ids().len());
    }

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

    #[test]
    fn a_quoted_field_may_hold_commas_quotes_and_line_ends() {
        let mut text = "a,\"b,\"\"c\"\"\nd\",e\r\nf\n";
        assert_eq!(record(&mut text), Some(vec!["a".into(), "b,\"c\"\nd".into(), "e".into()]));
        assert_eq!(record(&mut text), Some(vec!["f".into()]));
        assert_eq!(record(&mut text), None);
    }
}
