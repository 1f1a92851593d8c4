//! Whether the register, the record and the counters of the gateway say the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::Path;

use super::told::{Stage, Told, Transfer, told};
use super::{LABELS, Label, REST, Register, RegisterFault};
use crate::evidence::happened::Events;
use crate::evidence::segment::{Segment, lines};

/// Numbers of one row: opened, connections, bytes up and down, contradicted.
type Numbers = [u64; 5];

/// The names of [`Numbers`].
const NUMBERS: [&str; 5] = ["opened", "connections", "bytes_up", "bytes_down", "contradicted"];

/// What of `/metrics` is held against the record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Final verdicts by verdict and reason.
    pub finals: BTreeMap<(String, String), u64>,
    /// Bytes up and down.
    pub bytes: (u64, u64),
    /// Connections that live.
    pub active: u64,
}

impl Metrics {
    /// Reads a text exposition; `None` where it is not one of this gateway.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut metrics = Self::default();
        let mut has_bytes = false;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let label = |wanted: &str| {
                let labels = labels.trim_end_matches('}').split(',');
                let mut pairs = labels.filter_map(|pair| pair.split_once('='));
                let value = pairs.find(|(name, _)| *name == wanted).map(|(_, value)| value);
                value.unwrap_or_default().trim_matches('"').to_owned()
            };
            match name {
                "schengate_verdicts_final_total" => {
                    let key = (label("verdict"), label("reason"));
                    metrics.finals.insert(key, value.parse().ok()?);
                }
                "schengate_bytes_total" => {
                    has_bytes = true;
                    let value = value.parse().ok()?;
                    match label("direction").as_str() {
                        "up" => metrics.bytes.0 = value,
                        "down" => metrics.bytes.1 = value,
                        _ => {}
                    }
                }
                "schengate_connections_active" => metrics.active = value.parse().ok()?,
                _ => {}
            }
        }
        (has_bytes && !metrics.finals.is_empty()).then_some(metrics)
    }
}

/// Two sums that should be the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What they are of.
    pub of: String,
    /// Where the first of the two is from.
    pub here: &'static str,
    /// The first of the two.
    pub one: u64,
    /// What the record says.
    pub record: u64,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { of, here, one, record } = self;
        write!(f, "{of}: {one} in {here}, {record} in the record")
    }
}

/// What was compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Records that were read.
    pub records: u64,
    /// Records that the register has not read yet.
    pub behind: u64,
    /// Rows of hour and label that were compared, and rows of a name.
    pub rows: u64,
    /// Hours that cannot be compared, because records of them were removed.
    pub left_out: u64,
    /// Lines that the record says were lost; `None` where nobody knows how many.
    pub lost: Option<u64>,
    /// Events of the gateway itself that were compared.
    pub events: u64,
    /// Counters that were compared.
    pub counters: u64,
    /// What does not agree.
    pub differences: Vec<Difference>,
}

/// Of one run of the gateway: final verdicts by verdict and reason, bytes up, bytes down.
type Run = (BTreeMap<(String, String), u64>, u64, u64);

/// By hour and label.
type Rows = HashMap<(i64, Label), Numbers>;

/// A plain sum over the record: it shares no more with the register than how a record is read.
#[derive(Default)]
struct Plain {
    rows: Rows,
    named: HashMap<(i64, Label, Box<str>), Numbers>,
    /// What is known of each connection that lives.
    living: HashMap<String, (Label, Box<str>, u64, u64)>,
    /// Hours in which a connection moved something of which the beginning is gone.
    unclear: BTreeSet<i64>,
    runs: HashMap<String, Run>,
    latest_run: String,
    lost: u64,
    is_lost_unknown: bool,
}

/// Holds the register of a log against its segments, and these against the counters of the gateway.
///
/// # Errors
/// A file cannot be read.
pub fn reconcile(
    directory: &Path,
    register: &Register,
    metrics: Option<&Metrics>,
) -> Result<Reconciled, RegisterFault> {
    let file = |source| RegisterFault::File { path: directory.to_owned(), source };
    let (rows, named) = sums(register).map_err(|source| register.fault(source))?;
    let mut told_of = Reconciled::default();
    let mut plain = Plain::default();
    let mut later = Plain::default();
    let segments = Segment::all(directory).map_err(file)?;
    let first = segments.first().map_or(0, |segment| segment.first);
    let is_whole = first <= register.progress.began;
    let (mut events, of_events) = (Events::default(), register.known_of_events());
    for segment in &segments {
        let records = segment.records();
        let records =
            records.map_err(|fault| RegisterFault::Segment(segment.unreadable(&fault)))?;
        events.read(segment.first, &records, &of_events);
        for (number, line) in (segment.first..).zip(lines(&records)) {
            told_of.records += 1;
            let is_read = number < register.progress.next;
            told_of.behind += u64::from(!is_read);
            // Counters are of everything; the register, of what it has read.
            let into = if is_read { &mut plain } else { &mut later };
            into.losses(line);
            match told(line) {
                Some(Told::Transfer(transfer)) => {
                    plain.count(&transfer, is_read, &named);
                }
                Some(Told::Start(run)) => plain.latest_run = run,
                Some(Told::Other) | None => {}
            }
        }
    }
    plain.lost += later.lost;
    plain.is_lost_unknown |= later.is_lost_unknown;
    told_of.lost = (!plain.is_lost_unknown).then_some(plain.lost);
    let mut left_out = BTreeSet::new();
    if !is_whole {
        let oldest = plain.rows.keys().map(|(hour, _)| *hour).min().unwrap_or(i64::MAX);
        left_out.extend(rows.keys().map(|(hour, _)| *hour).filter(|hour| *hour <= oldest));
        left_out.append(&mut plain.unclear);
    }
    let expired = register.expired().map_err(|source| register.fault(source))?;
    if let Some(before) = expired {
        let hours = rows.keys().chain(plain.rows.keys()).map(|(hour, _)| *hour);
        left_out.extend(hours.filter(|hour| *hour < before));
    }
    told_of.left_out = left_out.len() as u64;
    let labels: BTreeSet<&(i64, Label)> = rows.keys().chain(plain.rows.keys()).collect();
    for key in labels.into_iter().filter(|(hour, _)| !left_out.contains(hour)) {
        let get = |rows: &Rows| rows.get(key).copied().unwrap_or_default();
        let of = || words(key.0, &key.1, None);
        told_of.compare(of, "the register", get(&rows), get(&plain.rows));
        told_of.rows += 1;
    }
    for ((hour, label, name), (numbers, is_partial)) in &named {
        if left_out.contains(hour) || *is_partial {
            continue;
        }
        let key = (*hour, label.clone(), name.clone());
        let record = plain.named.get(&key).copied().unwrap_or_default();
        let of = || words(*hour, label, Some(name));
        told_of.compare(of, "the register", *numbers, record);
        told_of.rows += 1;
    }
    told_of.events = events.all.len() as u64;
    let differ = register.compare_events(first, &events.all);
    let differ = differ.map_err(|source| register.fault(source))?;
    told_of.differences.extend(differ.into_iter().map(|(number, is_written)| Difference {
        of: format!("the event of record {number} as it stands"),
        here: "the register",
        one: u64::from(!is_written),
        record: u64::from(is_written),
    }));
    if let Some(metrics) = metrics {
        told_of.counted(metrics, plain);
    }
    Ok(told_of)
}

impl Reconciled {
    /// Whether everything that was compared agrees.
    #[must_use]
    pub const fn agrees(&self) -> bool {
        self.differences.is_empty()
    }

    fn compare(
        &mut self,
        of: impl Fn() -> String,
        here: &'static str,
        one: Numbers,
        record: Numbers,
    ) {
        for ((name, one), record) in NUMBERS.iter().zip(one).zip(record) {
            if one != record {
                let of = format!("{} {name}", of());
                self.differences.push(Difference { of, here, one, record });
            }
        }
    }

    fn counted(&mut self, metrics: &Metrics, mut plain: Plain) {
        let (finals, up, down) = plain.runs.remove(&plain.latest_run).unwrap_or_default();
        let here = "the counters";
        let keys: BTreeSet<_> = metrics.finals.keys().chain(finals.keys()).collect();
        for key in keys {
            let [one, record] = [&metrics.finals, &finals].map(|of| of.get(key).copied());
            let (one, record) = (one.unwrap_or(0), record.unwrap_or(0));
            self.counters += 1;
            if one != record {
                let of = format!("verdict={} reason={} connections", key.0, key.1);
                self.differences.push(Difference { of, here, one, record });
            }
        }
        for (name, one, record) in [("up", metrics.bytes.0, up), ("down", metrics.bytes.1, down)] {
            self.counters += 1;
            // What lives has moved bytes of which no record says anything yet.
            let is_as_it_should = one == record || metrics.active > 0 && one > record;
            if !is_as_it_should {
                let of = format!("direction={name} bytes");
                self.differences.push(Difference { of, here, one, record });
            }
        }
    }
}

impl Plain {
    fn count(
        &mut self,
        transfer: &Transfer,
        is_read: bool,
        kept: &HashMap<(i64, Label, Box<str>), (Numbers, bool)>,
    ) {
        let known = self.living.remove(&transfer.id);
        let (up, down) = known.as_ref().map_or((0, 0), |(_, _, up, down)| (*up, *down));
        let hour = transfer.hour();
        if known.is_none() && transfer.stage == Stage::Update {
            self.unclear.insert(hour);
            return;
        }
        // A connection that was let go has an open line, unless it is gone.
        let moved = transfer.bytes.0.saturating_sub(up) + transfer.bytes.1.saturating_sub(down);
        if known.is_none() && transfer.stage == Stage::Final && moved > 0 {
            self.unclear.insert(hour);
        }
        let told = |label: Label| (label, transfer.name.clone());
        let (counted, goes_on) = match (&transfer.label, known) {
            // A judgement of what lives is of what it moves from there on.
            (Some(_), Some((label, name, ..))) if transfer.stage == Stage::Update => {
                let goes_on = told(transfer.relabelled(&label));
                ((label, name), goes_on)
            }
            (Some(label), _) => (told(label.clone()), told(label.clone())),
            (None, Some((label, name, ..))) => ((label.clone(), name.clone()), (label, name)),
            (None, None) => return,
        };
        let (label, name) = counted;
        let run = self.runs.entry(transfer.run().to_owned()).or_default();
        run.1 += transfer.bytes.0.saturating_sub(up);
        run.2 += transfer.bytes.1.saturating_sub(down);
        if transfer.stage == Stage::Final {
            let word = |name: &str| {
                let at = LABELS.iter().position(|label| *label == name);
                let word = at.and_then(|at| label.get(at)).filter(|word| !word.is_empty());
                word.map_or("none", |word| word).to_owned()
            };
            *run.0.entry((word("verdict"), word("reason"))).or_default() += transfer.times;
        }
        if is_read {
            let numbers = [
                u64::from(transfer.stage == Stage::Open),
                if transfer.stage == Stage::Final { transfer.times } else { 0 },
                transfer.bytes.0.saturating_sub(up),
                transfer.bytes.1.saturating_sub(down),
                if transfer.is_contradicted { transfer.times } else { 0 },
            ];
            let add = |row: &mut Numbers| {
                row.iter_mut().zip(numbers).for_each(|(sum, more)| *sum += more);
            };
            let key = (hour, label.clone(), name.clone());
            if kept.contains_key(&key) {
                add(self.named.entry(key).or_default());
            }
            add(self.rows.entry((hour, label.clone())).or_default());
        }
        if transfer.stage != Stage::Final {
            let bytes = (transfer.bytes.0.max(up), transfer.bytes.1.max(down));
            let (label, name) = goes_on;
            self.living.insert(transfer.id.clone(), (label, name, bytes.0, bytes.1));
        }
    }

    /// What a record says of lost lines.
    fn losses(&mut self, line: &[u8]) {
        const GAP: &[u8] = b"\"event\":\"gap\"";
        if !line.windows(GAP.len()).any(|window| window == GAP) {
            return;
        }
        let Ok(record) = serde_json::from_slice::<serde_json::Value>(line) else { return };
        match record["lost"].as_u64() {
            Some(lost) => self.lost += lost,
            None => self.is_lost_unknown = true,
        }
    }
}

type Named = HashMap<(i64, Label, Box<str>), (Numbers, bool)>;

/// What the register has: by hour and label, and of each name.
fn sums(register: &Register) -> Result<(Rows, Named), rusqlite::Error> {
    let (mut all, mut named) = (HashMap::new(), Named::new());
    let by_number: HashMap<i64, &Label> =
        register.labels.iter().map(|(label, number)| (*number, label)).collect();
    let mut select = register.database().prepare(&format!(
        "SELECT hour, label, name, opened, connections, bytes_up, bytes_down, {}, partial FROM hourly",
        register.contradicted()
    ))?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (hour, label): (i64, i64) = (row.get(0)?, row.get(1)?);
        let label = by_number.get(&label).map(|label| Label::clone(label)).unwrap_or_default();
        let name: String = row.get(2)?;
        let mut numbers = Numbers::default();
        for (at, number) in numbers.iter_mut().enumerate() {
            *number = row.get::<_, i64>(at + 3)?.unsigned_abs();
        }
        let sum: &mut Numbers = all.entry((hour, label.clone())).or_default();
        sum.iter_mut().zip(numbers).for_each(|(sum, more)| *sum += more);
        if name != REST {
            let is_partial = row.get::<_, i64>(8)? != 0;
            named.insert((hour, label, name.into()), (numbers, is_partial));
        }
    }
    Ok((all, named))
}

/// A row in words.
fn words(hour: i64, label: &Label, name: Option<&str>) -> String {
    let at =
        jiff::Timestamp::from_second(hour).map_or_else(|_| hour.to_string(), |at| at.to_string());
    let parts = LABELS.iter().zip(label).filter(|(_, value)| !value.is_empty());
    let parts = parts.map(|(name, value)| format!(" {name}={value:?}")).collect::<String>();
    let name = name.map_or_else(String::new, |name| format!(" name={name:?}"));
    format!("{at}{parts}{name}")
}
