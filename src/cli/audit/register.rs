//! `audit register` and `audit reconcile`: what left in sums, and whether they are what the record
//! and the counters say.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};

use super::place::Place;
use crate::cli::common::{Exit, complain};
use crate::evidence::register::{
    Column, Metrics, Query, REST, Reconciled, Register, RegisterFault, Row, reconcile,
};
use crate::report::text::{cell, printable};

/// The names of the sums, as in the table.
const SUMS: [&str; 8] = [
    "connections",
    "opened",
    "bytes_up",
    "bytes_down",
    "first_seen",
    "last_seen",
    "partial",
    "contradicted",
];

/// Arguments of `audit register`.
#[derive(Debug, clap::Args)]
pub(super) struct Ask {
    #[command(flatten)]
    place: Place,
    /// From the hour in which this day or instant (UTC) is: 2026-11-30, 2026-11-30T10:00Z
    #[arg(long, value_name = "WHEN", value_parser = begins)]
    from: Option<i64>,
    /// Up to this day or instant, which is not in it
    #[arg(long, value_name = "WHEN", value_parser = ends)]
    to: Option<i64>,
    /// Clients of this group alone; `default` are those in none
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// What a row is of, separated by commas
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "COLUMN",
        default_values_t = [
            Column::Group, Column::Location, Column::Operator, Column::Law, Column::Basis,
            Column::Rule, Column::Verdict, Column::Reason,
        ]
    )]
    by: Vec<Column>,
    /// The form
    #[arg(long, value_enum, default_value_t = Form::Text, conflicts_with = "json")]
    format: Form,
    /// One JSON object, as --format json
    #[arg(long)]
    json: bool,
}

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// A table for people
    Text,
    /// One JSON object
    Json,
    /// Comma-separated values (RFC 4180), with a first line of names
    Csv,
}

/// Arguments of `audit reconcile`.
#[derive(Debug, clap::Args)]
pub(super) struct Compare {
    #[command(flatten)]
    place: Place,
    /// What /metrics of the gateway says, in a file, or - for standard input: its counters are held
    /// against the records of the run that began last
    #[arg(long, value_name = "FILE")]
    metrics: Option<PathBuf>,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// The second in which a day or an instant begins.
pub(in crate::cli) fn second(text: &str) -> Result<i64, String> {
    let day = text.parse::<Date>().ok().filter(|_| !text.contains('T'));
    let day = day.and_then(|day| day.to_zoned(TimeZone::UTC).ok()).map(|day| day.timestamp());
    let at = day.or_else(|| text.parse::<Timestamp>().ok());
    let at = at.map(Timestamp::as_second);
    at.ok_or_else(|| "write a day or an instant of UTC: 2026-11-30, 2026-11-30T10:00Z".to_owned())
}

/// The beginning of the hour in which it is.
pub(in crate::cli) fn begins(text: &str) -> Result<i64, String> {
    second(text).map(|second| second.div_euclid(3600) * 3600)
}

/// An instant, before which an hour begins.
fn ends(text: &str) -> Result<i64, String> {
    second(text)
}

/// The register of a directory, or one that is made of its segments where none is kept there.
pub(in crate::cli) fn register(directory: &Path) -> Result<Register, RegisterFault> {
    if let Some(register) = Register::read(directory)? {
        return Ok(register);
    }
    eprintln!("note: no register is kept there: it is made of the segments, with every name");
    let mut register = Register::in_memory(usize::MAX)?;
    while register.feed(directory, u64::MAX)? {}
    Ok(register)
}

/// Says on standard error where a group is asked for that the register does not have: a report of noughts
/// would look like one of a group that did nothing.
pub(in crate::cli) fn miss(register: &Register, group: Option<&str>) {
    let Some(group) = group else { return };
    let known: BTreeSet<&str> =
        register.labels().map(|(_, label)| &*label[0]).filter(|known| !known.is_empty()).collect();
    if known.contains(group) {
        return;
    }
    let known: Vec<String> = known.iter().map(|known| printable(known.as_bytes())).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    let group = printable(group.as_bytes());
    eprintln!("note: no group `{group}` in the register: there are: {known}");
}

/// Exit status: 0 there are rows, 1 there are none, 2 it cannot be read.
pub(super) fn ask(ask: Ask, out: &mut impl Write) -> io::Result<Exit> {
    let directory = ask.place.directory();
    if let Err(fault) = fs::read_dir(directory) {
        return Ok(complain(format!("{}: {fault}", directory.display())));
    }
    let query = Query { from: ask.from, to: ask.to, group: ask.group, by: ask.by };
    let asked = register(directory).and_then(|register| {
        let rows = register.query(&query)?;
        Ok((rows, register))
    });
    let (rows, register) = match asked {
        Ok(asked) => asked,
        Err(fault) => return Ok(complain(fault)),
    };
    miss(&register, query.group.as_deref());
    let progress = register.progress();
    if progress.missing + progress.unread > 0 {
        eprintln!(
            "note: {} records were gone before they were read, {} are not readable",
            progress.missing, progress.unread
        );
    }
    let names = query.by.iter().map(|column| column.label()).chain(SUMS);
    match if ask.json { Form::Json } else { ask.format } {
        Form::Json => {
            let names: Vec<&str> = names.collect();
            let rows: Vec<Value> = rows.iter().map(|row| object(&names, row)).collect();
            let told = json!({
                "rows": rows, "began": progress.began, "next": progress.next,
                "missing": progress.missing, "unread": progress.unread,
            });
            writeln!(out, "{}", printable(told.to_string().as_bytes()))?;
        }
        Form::Csv => {
            writeln!(out, "{}\r", names.collect::<Vec<_>>().join(","))?;
            for row in &rows {
                let cells: Vec<String> = cells(row).iter().map(|text| cell(text)).collect();
                writeln!(out, "{}\r", cells.join(","))?;
            }
        }
        Form::Text => table(&names.collect::<Vec<_>>(), &rows, out)?,
    }
    Ok(if rows.is_empty() { Exit::No } else { Exit::Yes })
}

/// An instant, as the record writes it.
fn instant(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |at| format!("{at:.3}"))
}

/// The texts of a row.
fn cells(row: &Row) -> Vec<String> {
    let sums = &row.sums;
    let mut cells = row.values.clone();
    cells.extend(
        [sums.connections, sums.opened, sums.bytes_up, sums.bytes_down].map(|n| n.to_string()),
    );
    cells.extend([instant(sums.first_seen), instant(sums.last_seen), row.partial.to_string()]);
    cells.push(sums.contradicted.to_string());
    cells
}

fn object(names: &[&str], row: &Row) -> Value {
    let sums = &row.sums;
    let texts = row.values.iter().map(|text| Some(text).filter(|text| !text.is_empty()));
    let numbers = [sums.connections, sums.opened, sums.bytes_up, sums.bytes_down];
    let values = texts.map(|text| json!(text)).chain(numbers.map(Value::from)).chain([
        instant(sums.first_seen).into(),
        instant(sums.last_seen).into(),
        row.partial.into(),
        sums.contradicted.into(),
    ]);
    Value::Object(names.iter().map(|name| (*name).to_owned()).zip(values).collect::<Map<_, _>>())
}

/// A table for people: columns as wide as what is in them, numbers to the right.
fn table(names: &[&str], rows: &[Row], out: &mut impl Write) -> io::Result<()> {
    // When a name is whole, and which places are contradicted: what a reader does not need to see each
    // time.
    let shown = names.len() - 2;
    let first_number = names.len() - SUMS.len();
    let text = |text: &String| {
        let safe = printable(text.as_bytes());
        match safe.as_str() {
            "" => "-".to_owned(),
            REST => "(others)".to_owned(),
            _ => safe,
        }
    };
    let lines = rows.iter().map(|row| {
        let mut cells: Vec<String> = cells(row).iter().map(text).collect();
        if row.partial
            && let Some(last) = cells.get_mut(shown - 1)
        {
            last.push('+');
        }
        cells
    });
    let head = names.iter().map(|name| (*name).to_owned()).collect();
    let lines: Vec<Vec<String>> = std::iter::once(head).chain(lines).collect();
    let width = |at: usize| {
        lines.iter().filter_map(|line| line.get(at)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..shown).map(|at| width(at).unwrap_or(0)).collect();
    for line in &lines {
        let mut shown = String::new();
        for (at, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let room = " ".repeat(width.saturating_sub(cell.chars().count()));
            let is_number = (first_number..first_number + 4).contains(&at);
            shown += &if is_number { format!("{room}{cell}  ") } else { format!("{cell}{room}  ") };
        }
        writeln!(out, "{}", shown.trim_end())?;
    }
    if rows.iter().any(|row| row.partial) {
        writeln!(out, "+ a name of which a part may be among the (others) of the hour")?;
    }
    Ok(())
}

/// Exit status: 0 everything agrees, 1 something does not, 2 it cannot be compared.
pub(super) fn compare(compare: &Compare, out: &mut impl Write) -> io::Result<Exit> {
    let directory = compare.place.directory();
    let metrics = match compare.metrics.as_deref().map(read_metrics).transpose() {
        Ok(metrics) => metrics,
        Err(fault) => return Ok(complain(fault)),
    };
    let register = match Register::read(directory) {
        Ok(Some(register)) => register,
        Ok(None) => {
            return Ok(complain(format!("{}: no register is kept there", directory.display())));
        }
        Err(fault) => return Ok(complain(fault)),
    };
    let told = match reconcile(directory, &register, metrics.as_ref()) {
        Ok(told) => told,
        Err(fault) => return Ok(complain(fault)),
    };
    let progress = register.progress();
    if compare.json {
        let differences: Vec<Value> = told
            .differences
            .iter()
            .map(|d| json!({ "of": d.of, "in": d.here, "there": d.one, "record": d.record }))
            .collect();
        let told = json!({
            "agrees": told.agrees(), "records": told.records, "behind": told.behind,
            "rows": told.rows, "events": told.events, "hours_left_out": told.left_out,
            "counters": told.counters, "lost": told.lost, "missing": progress.missing, "unread": progress.unread,
            "differences": differences,
        });
        writeln!(out, "{}", printable(told.to_string().as_bytes()))?;
    } else {
        for difference in &told.differences {
            let line = difference.to_string();
            writeln!(out, "{}", printable(line.as_bytes()))?;
        }
        summary(&told, out)?;
    }
    Ok(if told.agrees() { Exit::Yes } else { Exit::No })
}

fn summary(told: &Reconciled, out: &mut impl Write) -> io::Result<()> {
    let Reconciled { records, behind, rows, events, left_out, lost, counters, differences } = told;
    let end = if differences.is_empty() { "agrees" } else { "does not agree" };
    writeln!(
        out,
        "the register {end}: {rows} rows, {events} events and {counters} counters against {records} \
         records, {} differences",
        differences.len()
    )?;
    if *behind > 0 {
        writeln!(out, "note: the register has not read the last {behind} records yet")?;
    }
    if *left_out > 0 {
        writeln!(
            out,
            "note: {left_out} hours were left out: records of them, or of connections that lived in \
             them, were removed"
        )?;
    }
    match lost {
        Some(0) => Ok(()),
        Some(lost) => writeln!(out, "note: the record says that {lost} lines were lost"),
        None => writeln!(out, "note: the record says that lines were lost, nobody knows how many"),
    }
}

fn read_metrics(path: &Path) -> Result<Metrics, String> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin().read_to_string(&mut text).map(drop)
    } else {
        fs::read_to_string(path).map(|read| text = read)
    };
    read.map_err(|fault| format!("--metrics {}: {fault}", path.display()))?;
    Metrics::parse(&text).ok_or_else(|| {
        format!(
            "--metrics {}: no counters of a gateway are in it; write what http://ADMIN/metrics \
             answers into the file",
            path.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_instants_are_read_and_begin_their_hour() {
        assert_eq!(begins("1970-01-02"), Ok(86_400));
        assert_eq!(begins("1970-01-01T01:59:59Z"), Ok(3600));
        assert_eq!(ends("1970-01-01T01:30Z"), Ok(5400));
        for bad in ["", "yesterday", "1970-13-01", "1970-01-01T01:00"] {
            assert!(second(bad).is_err(), "{bad}");
        }
    }
}
