//! What a report says, as numbers: rows of the register in, sums by every question out. Each sum knows
//! the rows that make it.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::evidence::register::{Hourly, Label, REST};

/// Seconds of a day.
const DAY: i64 = 86_400;

/// What a gateway could not decide by what it knows: these reasons.
pub const UNDECIDABLE: [&str; 8] =
    ["unknown", "disputed", "anycast", "operator", "stale", "mismatch", "unread", "malformed"];

/// Which report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Preset {
    /// Everything
    #[default]
    Full,
    /// The countries and laws that data were let go to, and on what ground: fit to be published, so
    /// without groups, rules, names and owners
    Transfers,
    /// Exceptions: their owners, reasons, ends and use
    Waivers,
    /// Destinations and countries that were never there before
    FirstSeen,
    /// What each group of clients did
    Group,
}

/// Sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Connections that ended, or were refused.
    pub connections: u64,
    /// Connections that were let go.
    pub opened: u64,
    /// Bytes to destinations.
    pub up: u64,
    /// Bytes to clients.
    pub down: u64,
}

impl Totals {
    /// Adds others to these.
    pub const fn add(&mut self, other: &Self) {
        self.connections = self.connections.saturating_add(other.connections);
        self.opened = self.opened.saturating_add(other.opened);
        self.up = self.up.saturating_add(other.up);
        self.down = self.down.saturating_add(other.down);
    }

    const fn is_nothing(&self) -> bool {
        self.connections == 0 && self.opened == 0 && self.up == 0 && self.down == 0
    }
}

/// What became of data, in the words of the first page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fate {
    /// Let go, since every place and law is permitted.
    Permitted,
    /// Let go on a ground that the policy names: a rule.
    Rule,
    /// Let go on a ground that ends: a waiver.
    Waiver,
    /// Let go though something spoke against it: the policy only records it.
    Despite,
    /// Let go to a private address.
    Private,
    /// Refused.
    Refused,
    /// Ended before a verdict.
    Unjudged,
}

impl Fate {
    /// All of them, in the order of the page.
    pub const ALL: [Self; 7] = [
        Self::Permitted,
        Self::Rule,
        Self::Waiver,
        Self::Despite,
        Self::Private,
        Self::Refused,
        Self::Unjudged,
    ];

    /// Of a verdict and its reason. What is not known counts as having left on no ground.
    fn of(verdict: &str, reason: &str) -> Self {
        match (verdict, reason) {
            ("block", _) => Self::Refused,
            ("", _) => Self::Unjudged,
            (_, "permitted") => Self::Permitted,
            (_, "private") => Self::Private,
            (_, "waiver") => Self::Waiver,
            (_, "rule") => Self::Rule,
            _ => Self::Despite,
        }
    }

    /// Whether it left, and not because every place and law is permitted.
    #[must_use]
    pub const fn is_outside(self) -> bool {
        matches!(self, Self::Rule | Self::Waiver | Self::Despite)
    }

    /// Whether it left at all.
    #[must_use]
    pub const fn is_let_go(self) -> bool {
        matches!(self, Self::Permitted | Self::Rule | Self::Waiver | Self::Despite | Self::Private)
    }

    /// Its code in JSON and CSV.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Permitted => "permitted",
            Self::Rule => "rule",
            Self::Waiver => "waiver",
            Self::Despite => "despite",
            Self::Private => "private",
            Self::Refused => "refused",
            Self::Unjudged => "unjudged",
        }
    }
}

/// A row: everything of one span that is alike in these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The clients' group.
    pub group: String,
    /// Countries, separated by blanks; `anycast` among them.
    pub location: String,
    /// The operator's id.
    pub operator: String,
    /// Countries, separated by blanks.
    pub law: String,
    /// The ground of the rule.
    pub basis: String,
    /// The rule or waiver.
    pub rule: String,
    /// What became of it.
    pub verdict: String,
    /// Why.
    pub reason: String,
    /// The same, in the words of the first page.
    pub fate: Fate,
    /// The sums.
    pub totals: Totals,
    /// First and last record, milliseconds since 1970.
    pub seen: (i64, i64),
}

/// What of a row a sum is by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Where.
    Location,
    /// Whose law.
    Law,
    /// Whose network.
    Operator,
    /// Rule and ground.
    Ground,
    /// Whose clients.
    Group,
    /// Why.
    Reason,
    /// What became of it.
    Fate,
}

impl Row {
    fn key(&self, by: By) -> String {
        match by {
            By::Location => self.location.clone(),
            By::Law => self.law.clone(),
            By::Operator => self.operator.clone(),
            By::Ground => format!("{}\u{1f}{}", self.rule, self.basis),
            By::Group => self.group.clone(),
            By::Reason => self.reason.clone(),
            By::Fate => self.fate.code().to_owned(),
        }
    }
}

/// A sum, and the rows that make it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Part {
    /// What it is of.
    pub key: String,
    /// The sums.
    pub totals: Totals,
    /// Of these, what left and was not permitted by place and law.
    pub outside: Totals,
    /// Of these, what was refused.
    pub refused: u64,
    /// Numbers of the rows, from 0.
    pub rows: Vec<usize>,
}

/// A name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// As it was asked for.
    pub name: String,
    /// The sums.
    pub totals: Totals,
    /// The first record of the span.
    pub first_seen: i64,
    /// A part of it may stand under the rest.
    pub partial: bool,
}

/// Connections that were measured to be nearer than every country of their location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contradicted {
    /// The operator's id; empty where nobody knows.
    pub operator: String,
    /// The name; empty where there is none, `*` the rest.
    pub name: String,
    /// The countries.
    pub location: String,
    /// How many.
    pub connections: u64,
}

/// A day, as it begins in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Day {
    /// Bytes up that were permitted by place and law, or stayed private.
    pub permitted: u64,
    /// Bytes up that left otherwise.
    pub outside: u64,
    /// Connections that were refused.
    pub refused: u64,
}

/// What was there for the first time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FirstSeen {
    /// Countries: code and first record.
    pub countries: Vec<(String, i64)>,
    /// Operators.
    pub operators: Vec<(String, i64)>,
    /// Names that were let go to.
    pub names: Vec<Name>,
    /// How many there are beside those.
    pub more_names: usize,
    /// Whether the register knows hours before the span.
    pub hours_before: bool,
}

/// The sums of a span.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Model {
    /// The rows, those that left outside of what is permitted first, then by bytes up.
    pub rows: Vec<Row>,
    /// Of all rows.
    pub total: Totals,
    /// Each day in which there was something.
    pub days: BTreeMap<i64, Day>,
    /// Names with the most bytes up, of what was let go.
    pub names: Vec<Name>,
    /// Names that were refused most often, by reason.
    pub refused: BTreeMap<String, Vec<(String, u64)>>,
    /// What was never there before.
    pub first_seen: FirstSeen,
    /// How many names there are beside those that are listed.
    pub more_names: usize,
    /// What was measured to be nearer than its location, most connections first.
    pub contradicted: Vec<Contradicted>,
    /// How many of them there are beside those that are listed.
    pub more_contradicted: usize,
}

/// Names of a list at the most.
const NAMES_MAX: usize = 100;
/// Contradicted locations of a list, at the most.
const CONTRADICTED_MAX: usize = 200;
/// Names that are new, at the most.
const NEW_MAX: usize = 1000;
/// Refused names of one reason at the most.
const REFUSED_MAX: usize = 10;

/// Adds rows of the register up.
#[derive(Debug)]
pub struct Builder {
    preset: Preset,
    group: Option<String>,
    /// The row of each label; `None`: not in this report.
    of_label: HashMap<i64, Option<usize>>,
    labels: HashMap<i64, Label>,
    by_key: HashMap<[String; 8], usize>,
    model: Model,
    names: HashMap<Box<str>, NameSums>,
    refused: HashMap<(Box<str>, Box<str>), u64>,
    /// By operator, name and location.
    contradicted: HashMap<[Box<str>; 3], u64>,
    new_countries: HashMap<String, i64>,
    new_operators: HashMap<String, i64>,
    old_labels: HashSet<i64>,
}

#[derive(Debug, Clone, Copy)]
struct NameSums {
    totals: Totals,
    first_seen: i64,
    partial: bool,
    is_new: bool,
}

impl Builder {
    /// Of a register's labels.
    #[must_use]
    pub fn new(preset: Preset, group: Option<String>, labels: HashMap<i64, Label>) -> Self {
        Self {
            preset,
            group,
            of_label: HashMap::new(),
            labels,
            by_key: HashMap::new(),
            model: Model::default(),
            names: HashMap::new(),
            refused: HashMap::new(),
            contradicted: HashMap::new(),
            new_countries: HashMap::new(),
            new_operators: HashMap::new(),
            old_labels: HashSet::new(),
        }
    }

    /// The row that a label belongs to.
    fn row(&mut self, label: i64) -> Option<usize> {
        if let Some(known) = self.of_label.get(&label) {
            return *known;
        }
        let row = self.made(label);
        self.of_label.insert(label, row);
        row
    }

    fn made(&mut self, label: i64) -> Option<usize> {
        let label = self.labels.get(&label)?;
        let [group, location, operator, law, basis, rule, verdict, reason, ..] = label.clone();
        if self.group.as_ref().is_some_and(|wanted| **wanted != *group) {
            return None;
        }
        let fate = Fate::of(&verdict, &reason);
        let mut key =
            [group, location, operator, law, basis, rule, verdict, reason].map(String::from);
        if self.preset == Preset::Transfers {
            // It is to be published: of whose clients, and by which rule, is nobody's business.
            if !fate.is_let_go() || fate == Fate::Private {
                return None;
            }
            key[0].clear();
            key[5].clear();
        }
        if self.preset == Preset::Waivers && fate != Fate::Waiver {
            return None;
        }
        if let Some(known) = self.by_key.get(&key) {
            return Some(*known);
        }
        let number = self.model.rows.len();
        self.by_key.insert(key.clone(), number);
        let [group, location, operator, law, basis, rule, verdict, reason] = key;
        self.model.rows.push(Row {
            group,
            location,
            operator,
            law,
            basis,
            rule,
            verdict,
            reason,
            fate,
            totals: Totals::default(),
            seen: (i64::MAX, i64::MIN),
        });
        Some(number)
    }

    /// Counts a row of the span.
    pub fn count(&mut self, hourly: &Hourly<'_>) {
        let Some(number) = self.row(hourly.label) else { return };
        let Some(row) = self.model.rows.get_mut(number) else { return };
        let sums = &hourly.sums;
        let totals = Totals {
            connections: sums.connections,
            opened: sums.opened,
            up: sums.bytes_up,
            down: sums.bytes_down,
        };
        row.totals.add(&totals);
        row.seen = (row.seen.0.min(sums.first_seen), row.seen.1.max(sums.last_seen));
        self.model.total.add(&totals);
        let fate = row.fate;
        let day = self.model.days.entry(hourly.hour.div_euclid(DAY) * DAY).or_default();
        if fate.is_outside() {
            day.outside += totals.up;
        } else {
            day.permitted += totals.up;
        }
        if fate == Fate::Refused {
            day.refused += totals.connections;
        }
        // Of what is published nobody's name is said.
        if sums.contradicted > 0 && self.preset != Preset::Transfers {
            let key = [row.operator.as_str(), hourly.name, row.location.as_str()].map(Box::from);
            *self.contradicted.entry(key).or_default() += sums.contradicted;
        }
        let has_name = !hourly.name.is_empty() && hourly.name != REST;
        if !has_name || self.preset == Preset::Transfers {
            return;
        }
        if fate == Fate::Refused {
            let key = (Box::from(row.reason.as_str()), Box::from(hourly.name));
            *self.refused.entry(key).or_default() += totals.connections;
        }
        if !fate.is_let_go() {
            return;
        }
        if let Some(known) = self.names.get_mut(hourly.name) {
            known.totals.add(&totals);
            known.first_seen = known.first_seen.min(sums.first_seen);
            known.partial |= hourly.partial;
        } else {
            let (first_seen, partial) = (sums.first_seen, hourly.partial);
            let sums = NameSums { totals, first_seen, partial, is_new: true };
            self.names.insert(hourly.name.into(), sums);
        }
    }

    /// Takes note of what was there before the span; `false` where nothing new is left to tell.
    pub fn before(&mut self, label: i64, name: &str) -> bool {
        self.model.first_seen.hours_before = true;
        let is_in = self.row(label).is_some();
        if is_in {
            self.old_labels.insert(label);
            if let Some(known) = self.names.get_mut(name) {
                known.is_new = false;
            }
        }
        true
    }

    /// The sums.
    #[must_use]
    pub fn end(mut self) -> Model {
        self.novelties();
        let mut model = self.model;
        // A label that is known from before the span alone has made a row of nothing.
        model.rows.retain(|row| !row.totals.is_nothing());
        model.rows.sort_by(|one, other| {
            let order = |row: &Row| {
                (
                    !row.fate.is_outside(),
                    row.fate,
                    std::cmp::Reverse((row.totals.up, row.totals.connections)),
                )
            };
            let texts = |row: &Row| {
                (row.location.clone(), row.operator.clone(), row.rule.clone(), row.group.clone())
            };
            order(one).cmp(&order(other)).then_with(|| texts(one).cmp(&texts(other)))
        });
        let mut contradicted: Vec<Contradicted> = self
            .contradicted
            .into_iter()
            .map(|([operator, name, location], connections)| Contradicted {
                operator: operator.into(),
                name: name.into(),
                location: location.into(),
                connections,
            })
            .collect();
        contradicted.sort_by(|one, other| {
            let texts =
                |of: &Contradicted| (of.operator.clone(), of.name.clone(), of.location.clone());
            other.connections.cmp(&one.connections).then_with(|| texts(one).cmp(&texts(other)))
        });
        model.more_contradicted = contradicted.len().saturating_sub(CONTRADICTED_MAX);
        contradicted.truncate(CONTRADICTED_MAX);
        model.contradicted = contradicted;
        model.more_names = self.names.len().saturating_sub(NAMES_MAX);
        let names = largest(self.names.iter(), NAMES_MAX);
        model.names = names;
        for ((reason, name), count) in self.refused {
            model.refused.entry(reason.into()).or_default().push((name.into(), count));
        }
        for names in model.refused.values_mut() {
            names.sort_by(|one, other| (other.1, &one.0).cmp(&(one.1, &other.0)));
            names.truncate(REFUSED_MAX);
        }
        model
    }

    /// What of the span was never there before it.
    fn novelties(&mut self) {
        if self.preset == Preset::Transfers {
            return;
        }
        let each = |label: &Label| {
            let [_, location, operator, ..] = label;
            let countries: Vec<String> = location
                .split(' ')
                .filter(|code| !code.is_empty() && *code != "anycast")
                .map(str::to_owned)
                .collect();
            (countries, operator.to_string())
        };
        let (mut old_countries, mut old_operators) = (HashSet::new(), HashSet::new());
        for label in self.old_labels.iter().filter_map(|label| self.labels.get(label)) {
            let (countries, operator) = each(label);
            old_countries.extend(countries);
            old_operators.insert(operator);
        }
        for row in
            self.model.rows.iter().filter(|row| !row.totals.is_nothing() && row.fate.is_let_go())
        {
            for code in
                row.location.split(' ').filter(|code| !code.is_empty() && *code != "anycast")
            {
                if !old_countries.contains(code) {
                    let first = self.new_countries.entry(code.to_owned()).or_insert(i64::MAX);
                    *first = row.seen.0.min(*first);
                }
            }
            if !row.operator.is_empty() && !old_operators.contains(&row.operator) {
                let first = self.new_operators.entry(row.operator.clone()).or_insert(i64::MAX);
                *first = row.seen.0.min(*first);
            }
        }
        let sorted = |all: &mut HashMap<String, i64>| {
            let mut all: Vec<(String, i64)> = all.drain().collect();
            all.sort_by(|one, other| (one.1, &one.0).cmp(&(other.1, &other.0)));
            all
        };
        self.model.first_seen.countries = sorted(&mut self.new_countries);
        self.model.first_seen.operators = sorted(&mut self.new_operators);
        let new = || self.names.iter().filter(|(_, sums)| sums.is_new);
        self.model.first_seen.more_names = new().count().saturating_sub(NEW_MAX);
        let names = largest(new(), NEW_MAX);
        self.model.first_seen.names = names;
    }
}

/// The names with the most bytes up, so many at the most; the largest first.
fn largest<'n>(
    names: impl Iterator<Item = (&'n Box<str>, &'n NameSums)>,
    most: usize,
) -> Vec<Name> {
    let mut all: Vec<(u64, u64, &str, &NameSums)> = names
        .map(|(name, sums)| (sums.totals.up, sums.totals.connections, &**name, sums))
        .collect();
    let order = |one: &(u64, u64, &str, &NameSums), other: &(u64, u64, &str, &NameSums)| {
        (other.0, other.1, one.2).cmp(&(one.0, one.1, other.2))
    };
    // Of a million names nobody wants the order of all.
    if all.len() > most {
        all.select_nth_unstable_by(most, order);
        all.truncate(most);
    }
    all.sort_unstable_by(order);
    let each = all.into_iter().map(|(_, _, name, sums)| Name {
        name: name.to_owned(),
        totals: sums.totals,
        first_seen: sums.first_seen,
        partial: sums.partial,
    });
    each.collect()
}

impl Model {
    /// Sums by one question; the largest first. Every row is in one part, so that the parts add up to
    /// the whole.
    #[must_use]
    pub fn by(&self, by: By) -> Vec<Part> {
        self.parts(by, |_| true)
    }

    /// The same, of the rows that are wanted.
    #[must_use]
    pub fn parts(&self, by: By, is_wanted: impl Fn(&Row) -> bool) -> Vec<Part> {
        let mut parts: BTreeMap<String, Part> = BTreeMap::new();
        for (number, row) in self.rows.iter().enumerate().filter(|(_, row)| is_wanted(row)) {
            let key = row.key(by);
            let part = parts
                .entry(key)
                .or_insert_with_key(|key| Part { key: key.clone(), ..Part::default() });
            part.take(number, row);
        }
        let mut parts: Vec<Part> = parts.into_values().collect();
        parts.sort_by(|one, other| {
            let order = |part: &Part| (part.totals.up, part.totals.connections);
            order(other).cmp(&order(one)).then_with(|| one.key.cmp(&other.key))
        });
        parts
    }

    /// All rows that are wanted, as one sum.
    #[must_use]
    pub fn sum(&self, is_wanted: impl Fn(&Row) -> bool) -> Part {
        let mut part = Part::default();
        for (number, row) in self.rows.iter().enumerate().filter(|(_, row)| is_wanted(row)) {
            part.take(number, row);
        }
        part
    }

    /// Of each country, what may have landed there: a row of several countries counts in each of them,
    /// so that these do not add up to the whole.
    #[must_use]
    pub fn countries(&self) -> BTreeMap<String, Part> {
        let mut countries: BTreeMap<String, Part> = BTreeMap::new();
        for (number, row) in self.rows.iter().enumerate().filter(|(_, row)| row.fate.is_let_go()) {
            for code in
                row.location.split(' ').filter(|code| !code.is_empty() && *code != "anycast")
            {
                let part = countries
                    .entry(code.to_owned())
                    .or_insert_with_key(|key| Part { key: key.clone(), ..Part::default() });
                part.take(number, row);
            }
        }
        countries
    }
}

impl Part {
    fn take(&mut self, number: usize, row: &Row) {
        self.totals.add(&row.totals);
        if row.fate.is_outside() {
            self.outside.add(&row.totals);
        }
        if row.fate == Fate::Refused {
            self.refused = self.refused.saturating_add(row.totals.connections);
        }
        self.rows.push(number);
    }
}
