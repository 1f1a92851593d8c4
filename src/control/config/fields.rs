//! How keys are read that are alike in many tables, and where the tables stand.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::error::Wrong;
use super::net;
use super::reader::{Item, Reader, Table};
use crate::policy::Action;

pub(super) const ACTIONS: [(&str, Action); 3] =
    [("allow", Action::Allow), ("log", Action::Log), ("block", Action::Block)];

/// Where the keys of a table stand, for what is found once all is read.
#[derive(Debug, Default)]
pub(super) struct Mark {
    pub(super) header: usize,
    keys: BTreeMap<String, usize>,
}

impl Mark {
    pub(super) fn of(table: &Table<'_>) -> Self {
        let keys = table.in_order().into_iter();
        let keys = keys.map(|(key, span, _)| (key.to_owned(), span.start)).collect();
        Self { header: table.span.start, keys }
    }

    /// The place of a key, else of the table.
    pub(super) fn at(&self, key: &str) -> usize {
        self.keys.get(key).copied().unwrap_or(self.header)
    }
}

/// Where the tables of a [`Config`] stand in its text, each list in the order of the config's.
#[derive(Debug, Default)]
pub(super) struct Marks {
    pub(super) policy: Mark,
    pub(super) names: Mark,
    pub(super) capture: Mark,
    pub(super) data: Mark,
    pub(super) groups: Vec<Mark>,
    pub(super) rules: Vec<Mark>,
}

/// Reads an optional key: `Some(None)` where it is not written, `None` where it is faulty.
pub(super) fn optional<'d, T>(
    table: &Table<'d>,
    key: &str,
    read: impl FnOnce(&Item<'d>) -> Option<T>,
) -> Option<Option<T>> {
    table.item(key).map_or(Some(None), |item| read(&item).map(Some))
}

/// Reads a key that has a default.
pub(super) fn or<'d, T>(
    table: &Table<'d>,
    key: &str,
    default: T,
    read: impl FnOnce(&Item<'d>) -> Option<T>,
) -> Option<T> {
    table.item(key).map_or(Some(default), |item| read(&item))
}

/// `name`, which no other table of its kind may have; `taken` holds the line of each.
pub(super) fn unique_name(
    reader: &mut Reader<'_>,
    table: &Table<'_>,
    taken: &mut BTreeMap<String, usize>,
) -> Option<String> {
    let item = reader.required(table, "name", "give it a name of its own: name = \"...\"")?;
    let name = reader.line(&item)?;
    if let Some(line) = taken.get(&name) {
        let what = format!("the name {name:?} was given in line {line} already");
        reader.fault(&item, what, "give each a name of its own");
        return None;
    }
    let line = reader.position(item.span.start).line;
    taken.insert(name.clone(), line);
    Some(name)
}

/// Records every prefix of a list that an earlier table has already, by its name; whether there was
/// none. A prefix that cannot be read is left to whoever reads the list.
pub(super) fn only_owner(
    reader: &mut Reader<'_>,
    table: &Table<'_>,
    key: &str,
    owners: &mut BTreeMap<IpNet, String>,
    name: &str,
) -> bool {
    let mut alone = true;
    let mut own = Vec::new();
    let Some(item) = table.item(key) else { return true };
    for value in item.value.as_array().into_iter().flat_map(|array| array.iter()) {
        let Some(net) = value.get_ref().as_str().and_then(|text| net::prefix(text).ok()) else {
            continue;
        };
        if let Some(owner) = owners.get(&net) {
            let what = format!("{net} is in {owner} already");
            let wrong = Wrong::new(what, "leave it in one of the two");
            reader.fault_at(value.span().start, &item.key, wrong);
            alone = false;
        }
        own.push(net);
    }
    for net in own {
        owners.entry(net).or_insert_with(|| name.to_owned());
    }
    alone
}
