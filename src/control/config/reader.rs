//! A TOML document read by hand: each value with its key and place, each fault kept, none the last.
//! (A derived reader stops at the first unknown key or wrong type; a person wants them all.)

use std::ops::Range;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Fault, Faults, Position, Wrong};
use super::keys;
use crate::control::spelling::nearest;

/// The text under the reader, and what was found wrong with it.
pub(super) struct Reader<'t> {
    /// How the file is named in faults.
    pub(super) file: String,
    /// What paths in the file are relative to.
    pub(super) base: PathBuf,
    pub(super) faults: Vec<Fault>,
    /// Host files that were read, or should have been.
    pub(super) host_files: Vec<PathBuf>,
    /// Whether the policy is read to fetch what it names.
    pub(super) fetching: bool,
    text: &'t str,
    /// Byte at which each line begins.
    lines: Vec<usize>,
}

/// A table of the document. `path` is what its keys are called in faults, with the final dot.
#[derive(Clone)]
pub(super) struct Table<'d> {
    pub(super) path: String,
    pub(super) span: Range<usize>,
    pub(super) entries: &'d DeTable<'d>,
}

/// A value of the document, under its full key.
#[derive(Clone)]
pub(super) struct Item<'d> {
    pub(super) key: String,
    pub(super) span: Range<usize>,
    pub(super) value: &'d DeValue<'d>,
}

impl<'d> Table<'d> {
    /// The value of `key`, where there is one.
    pub(super) fn item(&self, key: &str) -> Option<Item<'d>> {
        let value = self.entries.get(key)?;
        let key = format!("{}{key}", self.path);
        Some(Item { key, span: value.span(), value: value.get_ref() })
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.get(key).is_some()
    }

    /// Keys with their places and values, in the order of the text.
    pub(super) fn in_order(&self) -> Vec<(&'d str, Range<usize>, Item<'d>)> {
        let mut entries: Vec<_> = self
            .entries
            .iter()
            .map(|(key, value)| {
                let item = Item {
                    key: format!("{}{}", self.path, key.get_ref()),
                    span: value.span(),
                    value: value.get_ref(),
                };
                (key.get_ref().as_ref(), key.span(), item)
            })
            .collect();
        entries.sort_by_key(|(_, span, _)| span.start);
        entries
    }
}

impl<'t> Reader<'t> {
    pub(super) fn new(text: &'t str, file: String, base: PathBuf) -> Self {
        let breaks = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n');
        let lines = std::iter::once(0).chain(breaks.map(|(at, _)| at + 1)).collect();
        let (faults, host_files) = (Vec::new(), Vec::new());
        Self { file, base, faults, host_files, fetching: false, text, lines }
    }

    /// Lines of the text that are neither empty nor a comment.
    pub(super) fn lines_that_say(&self) -> usize {
        let says =
            |line: &&str| !line.trim_start().is_empty() && !line.trim_start().starts_with('#');
        self.text.lines().filter(says).count()
    }

    /// The faults in the order of the text, those of other files behind them; never empty, so that
    /// whatever was left out without a word is refused as well.
    pub(super) fn into_faults(self) -> Faults {
        let Self { file, mut faults, .. } = self;
        faults.sort_by_key(|fault| (fault.file != file, fault.file.clone(), fault.position));
        faults.dedup();
        if faults.is_empty() {
            let wrong = Wrong::new("some part could not be read", "report this file as a bug");
            faults.push(Fault::whole(&file, wrong));
        }
        Faults(faults)
    }

    /// Line and column of a byte of the text.
    pub(super) fn position(&self, at: usize) -> Position {
        let line = self.lines.partition_point(|&start| start <= at).max(1);
        let start = self.lines.get(line - 1).copied().unwrap_or_default();
        let before = self.text.get(start..at).unwrap_or_default();
        Position { line, column: before.chars().count() + 1 }
    }

    /// A fault at a place of the text, not yet recorded.
    pub(super) fn finding(&self, at: usize, key: &str, wrong: Wrong) -> Fault {
        let Wrong { what, help } = wrong;
        let position = Some(self.position(at));
        Fault { file: self.file.clone(), position, key: key.to_owned(), what, help }
    }

    pub(super) fn fault_at(&mut self, at: usize, key: &str, wrong: Wrong) {
        let fault = self.finding(at, key, wrong);
        self.faults.push(fault);
    }

    pub(super) fn fault(
        &mut self,
        item: &Item<'_>,
        what: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.fault_at(item.span.start, &item.key, Wrong::new(what, help));
    }

    /// Keeps what a parser gave; records what it found wrong.
    pub(super) fn keep<T>(&mut self, item: &Item<'_>, parsed: Result<T, Wrong>) -> Option<T> {
        parsed.map_err(|wrong| self.fault_at(item.span.start, &item.key, wrong)).ok()
    }

    /// Records every key that [`keys::KEYS`] does not have for this table.
    pub(super) fn only(&mut self, table: &Table<'_>) {
        let known = keys::of(&table.path);
        for (key, span, item) in table.in_order() {
            if known.contains(&key) {
                continue;
            }
            let help = match nearest(key, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the keys here are {}", known.join(", ")),
            };
            self.fault_at(span.start, &item.key, Wrong::new("unknown key", help));
        }
    }

    /// The value of a key that must be there.
    pub(super) fn required<'d>(
        &mut self,
        table: &Table<'d>,
        key: &str,
        help: &str,
    ) -> Option<Item<'d>> {
        let item = table.item(key);
        if item.is_none() {
            let path = format!("{}{key}", table.path);
            self.fault_at(table.span.start, &path, Wrong::new("missing", help));
        }
        item
    }

    pub(super) fn wrong_type(&mut self, item: &Item<'_>, wanted: &str, help: &str) {
        let found = kind(item.value);
        self.fault(item, format!("{found} stands where {wanted} is wanted"), help);
    }

    pub(super) fn string<'d>(&mut self, item: &Item<'d>, help: &str) -> Option<&'d str> {
        let text = item.value.as_str();
        if text.is_none() {
            self.wrong_type(item, "a string", help);
        }
        text
    }

    /// A text for people: not empty, one line, no control characters.
    pub(super) fn line(&mut self, item: &Item<'_>) -> Option<String> {
        let text = self.string(item, "write it in quotes")?;
        if text.trim().is_empty() {
            self.fault(item, "the text is empty", "say it in words, or leave the key out");
            None
        } else if text.chars().any(char::is_control) {
            self.fault(item, "the text holds a control character", "write it on one line");
            None
        } else {
            Some(text.trim().to_owned())
        }
    }

    pub(super) fn boolean(&mut self, item: &Item<'_>) -> Option<bool> {
        let value = item.value.as_bool();
        if value.is_none() {
            self.wrong_type(item, "a boolean", "write true or false, without quotes");
        }
        value
    }

    /// A whole number within bounds.
    pub(super) fn number(&mut self, item: &Item<'_>, bounds: Range<u64>) -> Option<u64> {
        let help = format!("write a whole number from {} to {}", bounds.start, bounds.end - 1);
        let Some(number) = item.value.as_integer() else {
            self.wrong_type(item, "a number", &help);
            return None;
        };
        let read = u64::from_str_radix(number.as_str(), number.radix()).ok();
        let value = read.filter(|value| bounds.contains(value));
        if value.is_none() {
            self.fault(item, format!("{number} is out of bounds"), help);
        }
        value
    }

    /// One of a closed set of words.
    pub(super) fn word<T: Copy>(&mut self, item: &Item<'_>, words: &[(&str, T)]) -> Option<T> {
        let names: Vec<_> = words.iter().map(|&(name, _)| format!("{name:?}")).collect();
        let help = format!("write {}", names.join(" or "));
        let text = self.string(item, &help)?;
        let value = words.iter().find(|&&(name, _)| name == text).map(|&(_, value)| value);
        if value.is_none() {
            self.fault(item, format!("{text:?} is none of the values"), help);
        }
        value
    }

    /// The members of a list that is not empty.
    pub(super) fn list<'d>(&mut self, item: &Item<'d>, help: &str) -> Option<Vec<Item<'d>>> {
        let Some(array) = item.value.as_array() else {
            let wrapped = match item.value {
                DeValue::String(text) => format!("write a list: [{text:?}]"),
                DeValue::Integer(number) => format!("write a list: [{number}]"),
                DeValue::Float(_)
                | DeValue::Boolean(_)
                | DeValue::Datetime(_)
                | DeValue::Array(_)
                | DeValue::Table(_) => help.to_owned(),
            };
            self.wrong_type(item, "a list", &wrapped);
            return None;
        };
        if array.is_empty() {
            let help = format!("{help}, or leave the key out");
            self.fault(item, "the list is empty; it means neither \"any\" nor \"none\"", help);
            return None;
        }
        let member = |value: &'d Spanned<DeValue<'d>>| Item {
            key: item.key.clone(),
            span: value.span(),
            value: value.get_ref(),
        };
        Some(array.iter().map(member).collect())
    }

    /// The members of a list, each as a string through `parse`; `None` where any is faulty.
    pub(super) fn parsed_list<T>(
        &mut self,
        item: &Item<'_>,
        help: &str,
        mut parse: impl FnMut(&str) -> Result<T, Wrong>,
    ) -> Option<Vec<T>> {
        let members = self.list(item, help)?;
        self.each(&members, |reader, member| {
            let text = reader.string(member, help)?;
            let parsed = parse(text);
            reader.keep(member, parsed)
        })
    }

    /// Reads every member, so that each fault is found; `None` where any is faulty.
    pub(super) fn each<'d, T>(
        &mut self,
        members: &[Item<'d>],
        mut read: impl FnMut(&mut Self, &Item<'d>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let values: Vec<Option<T>> = members.iter().map(|member| read(self, member)).collect();
        values.into_iter().collect()
    }

    /// The table under `key`; nothing where it is not written.
    pub(super) fn table<'d>(&mut self, parent: &Table<'d>, key: &str) -> Option<Table<'d>> {
        let item = parent.item(key)?;
        let help = format!("write [{}]", item.key);
        let table = self.as_table(&item, format!("{}.", item.key));
        if table.is_none() {
            self.wrong_type(&item, "a table", &help);
        }
        table
    }

    /// The tables of `[[key]]`, in order; those that are no tables are recorded and left out.
    pub(super) fn tables<'d>(&mut self, parent: &Table<'d>, key: &str) -> Vec<Table<'d>> {
        let Some(item) = parent.item(key) else { return Vec::new() };
        let help = format!("write [[{}]]", item.key);
        let Some(array) = item.value.as_array() else {
            self.wrong_type(&item, "a list of tables", &help);
            return Vec::new();
        };
        if array.is_empty() {
            self.fault(&item, "the list is empty", "leave the key out");
        }
        let mut tables = Vec::with_capacity(array.len());
        for value in array.iter() {
            let member = Item { key: item.key.clone(), span: value.span(), value: value.get_ref() };
            match self.as_table(&member, format!("{}.", item.key)) {
                Some(table) => tables.push(table),
                None => self.wrong_type(&member, "a table", &help),
            }
        }
        tables
    }

    fn as_table<'d>(&self, item: &Item<'d>, path: String) -> Option<Table<'d>> {
        let entries = item.value.as_table()?;
        Some(Table { path, span: item.span.clone(), entries })
    }
}

/// What a value is, with its article.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_counts_characters_and_a_line_counts_from_one() {
        let reader = Reader::new("a\nüb\n", "f".into(), PathBuf::new());
        assert_eq!(reader.position(0), Position { line: 1, column: 1 });
        assert_eq!(reader.position(2), Position { line: 2, column: 1 });
        assert_eq!(reader.position(4), Position { line: 2, column: 2 });
        assert_eq!(reader.position(99), Position { line: 3, column: 1 });
    }
}
