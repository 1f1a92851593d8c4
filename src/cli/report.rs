//! `schengate report`: what left, where to, whose law reached it, on what ground, and whether the record
//! of it is whole; for people, and for programs.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::audit::place::{Place, last_entry, public_key};
use super::audit::register::{begins, miss, register, second};
use super::common::{Exit, PolicyFile, complain};
use crate::control::config::{self, Config};
use crate::evidence::note::{PrivateKey, PublicKey};
use crate::evidence::register::{Query, Register, reconcile, register_path};
use crate::evidence::{self, Unreadable, happened};
use crate::report::history::History;
use crate::report::model::{Builder, Model, Preset, Totals};
use crate::report::world::Language;
use crate::report::{Head, Record, Report, Waiver, html, tables};

/// Seconds of the span where none is asked for.
const USUAL: i64 = 30 * 86_400;

/// The first line of what is signed: no checkpoint of a log begins like this.
const SIGNED: &str = "schengate report v1";

/// Arguments of `report`.
#[derive(Debug, clap::Args)]
pub(super) struct Make {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    policy: PolicyFile,
    /// From the hour in which this day or instant (UTC) is: 2026-11-01, 2026-11-01T10:00Z; without it,
    /// 30 days before --to
    #[arg(long, value_name = "WHEN", value_parser = begins)]
    from: Option<i64>,
    /// Up to this day or instant, which is not in it; without it, now
    #[arg(long, value_name = "WHEN", value_parser = second)]
    to: Option<i64>,
    /// Clients of this group alone; `default` are those in none
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// The form
    #[arg(long, value_enum, default_value_t = Form::Html)]
    format: Form,
    /// What it is about
    #[arg(long, value_enum, default_value_t = Preset::Full)]
    preset: Preset,
    /// The language of a page
    #[arg(long, value_enum, default_value_t = Language::En)]
    lang: Language,
    /// The file that it is written to; without it, standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Sign it with this private key (`schengate audit keygen`); the note is beside it, with the ending
    /// .note
    #[arg(long, value_name = "KEY", requires = "output")]
    sign: Option<PathBuf>,
    /// The public key of the record, or the file that it is in; without it, signing.pub of the directory,
    /// which whoever can change the record can change as well
    #[arg(long, value_name = "PUB")]
    key: Option<String>,
    /// Do not read the whole record to verify it and to compare the sums with it; the report says so
    #[arg(long)]
    quick: bool,
}

/// The form of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// A page for people, which prints on A4
    Html,
    /// The table that it is about, as comma-separated values (RFC 4180)
    Csv,
    /// One JSON object
    Json,
}

/// Exit status: 0 it is written, and nothing speaks against the record; 1 it is written, and says what
/// does; 2 it cannot be made.
pub(super) fn make(make: &Make, out: &mut impl Write) -> io::Result<Exit> {
    let report = match gather(make) {
        Ok(report) => report,
        Err(fault) => return Ok(complain(fault)),
    };
    let told = match make.format {
        Form::Html => html(&report, make.lang),
        Form::Csv => tables::csv(&report),
        Form::Json => tables::json(&report),
    };
    match &make.output {
        None => out.write_all(told.as_bytes())?,
        Some(path) => {
            let note = make.sign.as_ref().map(|key| signed(key, &told, &report)).transpose();
            let written = note.and_then(|note| {
                put(path, told.as_bytes())?;
                note.map_or(Ok(()), |note| put(&note_of(path), note.as_bytes()))
            });
            if let Err(fault) = written {
                return Ok(complain(fault));
            }
        }
    }
    if report.is_sound() {
        return Ok(Exit::Yes);
    }
    eprintln!("schengate: the record or the sums are not as they should be: the report says what");
    Ok(Exit::No)
}

/// Where the note of a report is.
fn note_of(report: &Path) -> PathBuf {
    let mut name = report.as_os_str().to_owned();
    name.push(".note");
    PathBuf::from(name)
}

/// Writes a file as a whole, or not at all.
fn put(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let written = fs::write(&part, bytes).and_then(|()| fs::rename(&part, path));
    written.map_err(|fault| {
        // What was begun is of no use to anybody.
        fs::remove_file(&part).ok();
        format!("{}: {fault}", path.display())
    })
}

/// The digest and the length of a report, as its note has them.
fn digest(report: &[u8]) -> String {
    let digest: String = Sha256::digest(report).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{SIGNED}\nsha256 {digest}\nbytes {}\n", report.len())
}

/// The signed note over a report.
fn signed(key: &Path, told: &str, report: &Report) -> Result<String, String> {
    let fault = |fault: &dyn std::fmt::Display| format!("--sign {}: {fault}", key.display());
    let text = fs::read_to_string(key).map_err(|error| fault(&error))?;
    let private = PrivateKey::parse(&text).map_err(|error| fault(&error))?;
    let at = |second| {
        Timestamp::from_second(second).map_or_else(|_| second.to_string(), |at| at.to_string())
    };
    let span = format!("span {} {}\n", at(report.span.0), at(report.span.1));
    let head = report.record.head.as_ref();
    let head =
        head.map_or_else(String::new, |head| format!("record {} {}\n", head.size, head.root));
    Ok(private.sign(&format!("{}{span}{head}", digest(told.as_bytes()))))
}

/// Arguments of `audit verify-report`.
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// The report
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The public key, or the file that it is in
    #[arg(long, value_name = "PUB")]
    key: String,
    /// The note; without it, the file beside the report with the ending .note
    #[arg(long, value_name = "FILE")]
    note: Option<PathBuf>,
}

/// Exit status: 0 the report is what was signed, 1 it is not, 2 it cannot be told.
pub(super) fn check(check: &Check, out: &mut impl Write) -> io::Result<Exit> {
    let note = check.note.clone().unwrap_or_else(|| note_of(&check.file));
    let read = public_key(&check.key).and_then(|key| {
        let fault = |path: &Path| {
            let named = path.display().to_string();
            move |fault: io::Error| format!("{named}: {fault}")
        };
        let report = fs::read(&check.file).map_err(fault(&check.file))?;
        let text = fs::read_to_string(&note).map_err(fault(&note))?;
        Ok((key, report, text))
    });
    let (key, report, text) = match read {
        Ok(read) => read,
        Err(fault) => return Ok(complain(fault)),
    };
    let says = match key.open(&text) {
        Ok(says) if says.starts_with(&digest(&report)) => says,
        Ok(_) => {
            writeln!(io::stderr(), "schengate: the report is not the one that was signed").ok();
            return Ok(Exit::No);
        }
        Err(fault) => {
            writeln!(io::stderr(), "schengate: {}: {fault}", note.display()).ok();
            return Ok(Exit::No);
        }
    };
    write!(out, "{says}")?;
    Ok(Exit::Yes)
}

/// Everything that the report says.
fn gather(make: &Make) -> Result<Report, String> {
    let directory = make.place.directory();
    let named = |fault: &dyn std::fmt::Display| format!("{}: {fault}", directory.display());
    let now = Timestamp::now();
    let to = make.to.unwrap_or_else(|| now.as_second());
    let from = make.from.unwrap_or_else(|| (to - USUAL).div_euclid(3600) * 3600);
    if from >= to {
        return Err("--from is not before --to".to_owned());
    }
    fs::read_dir(directory).map_err(|fault| named(&fault))?;
    let is_kept = register_path(directory).exists();
    let register = register(directory).map_err(|fault| fault.to_string())?;
    let (model, asked) = sums(make, &register, (from, to)).map_err(|fault| fault.to_string())?;
    miss(&register, make.group.as_deref());
    let kept = if make.quick { register.events(directory) } else { Ok(None) };
    let events = match kept.map_err(|fault| fault.to_string())? {
        Some(events) => events,
        None => happened(directory).map_err(|fault| named(&fault))?,
    };
    events.unreadable.iter().for_each(|segment| eprintln!("schengate: {}", segment.told));
    let last =
        events.last.and_then(|time| time.parse::<Timestamp>().ok()).map(Timestamp::as_millisecond);
    let span = (from.saturating_mul(1000), to.saturating_mul(1000));
    let history = History::of(&events.all, last, span, now.as_millisecond());
    let record = record(make, &register, is_kept, events.unreadable)?;
    let waivers = waivers(&make.policy);
    Ok(Report {
        preset: make.preset,
        group: make.group.clone(),
        span: (from, to),
        made: now.as_millisecond(),
        model,
        asked,
        record,
        history,
        waivers,
    })
}

/// The sums of the register, and what it answers when it is asked for the whole at once.
fn sums(
    make: &Make,
    register: &Register,
    (from, to): (i64, i64),
) -> Result<(Model, Option<Totals>), evidence::register::RegisterFault> {
    let labels: HashMap<i64, _> =
        register.labels().map(|(number, label)| (number, label.clone())).collect();
    let mut builder = Builder::new(make.preset, make.group.clone(), labels);
    register.each_row((from, to), |hourly| builder.count(&hourly))?;
    if matches!(make.preset, Preset::Full | Preset::FirstSeen) {
        register.each_before(from, |label, name| builder.before(label, name))?;
    }
    let is_whole = matches!(make.preset, Preset::Full | Preset::FirstSeen | Preset::Group);
    let asked = if is_whole {
        let query =
            Query { from: Some(from), to: Some(to), group: make.group.clone(), by: Vec::new() };
        let row = register.query(&query)?.pop();
        Some(row.map_or_else(Totals::default, |row| Totals {
            connections: row.sums.connections,
            opened: row.sums.opened,
            up: row.sums.bytes_up,
            down: row.sums.bytes_down,
        }))
    } else {
        None
    };
    Ok((builder.end(), asked))
}

/// What is known of the record: its head, and where nobody is in a hurry whether all of it holds.
fn record(
    make: &Make,
    register: &Register,
    is_kept: bool,
    unreadable: Vec<Unreadable>,
) -> Result<Record, String> {
    let directory = make.place.directory();
    let named = |fault: &dyn std::fmt::Display| format!("{}: {fault}", directory.display());
    let own = directory.join("signing.pub");
    let key: Option<PublicKey> = match &make.key {
        Some(key) => Some(public_key(key)?),
        None if own.exists() => {
            eprintln!("note: no --key: the record is held against {}", own.display());
            Some(public_key(&own.display().to_string())?)
        }
        None => None,
    };
    let entry = last_entry(directory).map_err(|fault| named(&fault))?;
    let head = entry.map(|entry| Head {
        log: entry.note.lines().next().unwrap_or_default().to_owned(),
        size: entry.frontier.size(),
        root: entry.frontier.root().iter().map(|byte| format!("{byte:02x}")).collect(),
        is_signed: key.as_ref().map(|key| entry.open(key).is_ok()),
        time: entry.time,
    });
    let progress = register.progress();
    let missing = progress.missing + progress.unread;
    let mut record = Record { head, missing, unreadable, ..Record::default() };
    if let (Some(sign), Some(key)) = (&make.sign, &key) {
        warn_of_own(sign, key);
    }
    if make.quick || record.head.is_none() {
        return Ok(record);
    }
    if let Some(key) = &key {
        let report = evidence::verify(directory, key, &[]).map_err(|fault| named(&fault))?;
        record.verified = Some(report);
    }
    // The sums of a record of which a part cannot be read are not those of the register.
    if is_kept && record.unreadable.is_empty() {
        let told = reconcile(directory, register, None).map_err(|fault| fault.to_string())?;
        record.reconciled = Some(told);
    }
    Ok(record)
}

/// Says so where a report is to be signed with the key of the record: whoever trusts that key for the
/// record would have to trust it for what was written of it as well.
fn warn_of_own(sign: &Path, key: &PublicKey) {
    let private = fs::read_to_string(sign).ok().and_then(|text| PrivateKey::parse(&text).ok());
    if private.is_some_and(|private| private.public().to_string() == key.to_string()) {
        eprintln!(
            "note: --sign {}: this is the key of the record itself; take another, of `schengate audit \
             keygen`",
            sign.display()
        );
    }
}

/// The waivers of the policy file; `None` where there is none, or it cannot be read.
fn waivers(policy: &PolicyFile) -> Option<Vec<Waiver>> {
    let path = policy.taken()?;
    let loaded = config::load(Some(path)).inspect_err(|faults| {
        eprintln!(
            "note: {}: not read, so what is said of waivers is what the record tells: {faults}",
            path.display()
        );
    });
    Some(of_policy(&loaded.ok()?.config))
}

fn of_policy(config: &Config) -> Vec<Waiver> {
    let mut all: Vec<Waiver> = Vec::new();
    for rule in config.rules.iter().filter(|rule| rule.is_waiver()) {
        let Some(until) = &rule.until else { continue };
        // One of services is two rules of one name.
        if all.iter().any(|known| known.rule == rule.name) {
            continue;
        }
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        all.push(Waiver {
            rule: rule.name.clone(),
            owner: text(&rule.owner),
            reason: text(&rule.reason),
            basis: text(&rule.basis),
            since: rule.since.map(Timestamp::as_second),
            until: until.0.as_second(),
        });
    }
    all
}
