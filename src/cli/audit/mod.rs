//! `schengate audit`: the record read, verified and proven, offline.

pub(super) mod place;
pub(super) mod register;
mod reveal;
mod show;

use std::fs;
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::common::{Exit, complain};
use crate::evidence::checkpoint::{Checkpoint, Proof};
use crate::evidence::note::PrivateKey;
use crate::evidence::tree::{Frontier, Hash, Window};
use crate::evidence::{self, Entry, Finding, Segment};
use crate::report::ocsf;
use crate::report::text::printable;
use place::{Place, last_entry, public_key};
use show::{Export, Format, Selected, is_of};

/// Arguments of `audit`.
#[derive(Debug, clap::Args)]
pub(super) struct Audit {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Verify a whole record offline: name each record that was edited, deleted, inserted or moved
    Verify {
        #[command(flatten)]
        place: Place,
        /// The public key, or the file that it is in
        #[arg(long, value_name = "PUB")]
        key: String,
        /// A checkpoint that was kept elsewhere: what was cut off behind it shows by nothing else
        #[arg(long, value_name = "FILE")]
        head: Vec<PathBuf>,
        /// One JSON object instead of text
        #[arg(long)]
        json: bool,
    },
    /// Prove that a record stands in the log, to whoever has the public key
    Prove {
        /// The event id, or the number of a record
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        place: Place,
    },
    /// Check a proof with the key alone, and print the records that it proves
    VerifyProof {
        /// The file with the proof, or - for standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The public key, or the file that it is in
        #[arg(long, value_name = "PUB")]
        key: String,
    },
    /// Print the last signed checkpoint, for whoever keeps it elsewhere
    Head {
        #[command(flatten)]
        place: Place,
        /// One JSON object instead of the signed note
        #[arg(long)]
        json: bool,
    },
    /// Print the last records
    Tail {
        #[command(flatten)]
        place: Place,
        /// How many
        #[arg(long, short = 'n', value_name = "N", default_value_t = 10)]
        lines: usize,
    },
    /// Print every record of one event id, or the one of a number
    Show {
        /// The event id, or the number of a record
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        place: Place,
    },
    /// Print the records in which a text stands
    Grep {
        /// The text, as it is written in the record
        #[arg(value_name = "TEXT")]
        text: String,
        #[command(flatten)]
        place: Place,
    },
    /// Print every record in another form
    Export {
        #[command(flatten)]
        place: Place,
        /// The form
        #[arg(long, value_enum, default_value_t = Format::Json)]
        format: Format,
        /// Records of this day or instant (UTC) or later: 2026-11-30, 2026-11-30T10:00Z
        #[arg(long, value_name = "WHEN", value_parser = register::second)]
        from: Option<i64>,
        /// Records before this day or instant
        #[arg(long, value_name = "WHEN", value_parser = register::second)]
        to: Option<i64>,
        /// The version of OCSF that the events are of, 1.1 to 1.9
        #[arg(long, value_name = "1.x", default_value = "1.1", value_parser = ocsf_version)]
        ocsf_version: u8,
    },
    /// What left, in hourly sums: where to, under whose law, on what ground
    Register(register::Ask),
    /// Compare the register with the segments, and these with the counters of the gateway
    Reconcile(register::Compare),
    /// Tell who a pseudonym is, by the key of its period; that it was asked is recorded first
    Reveal(reveal::Reveal),
    /// Check that a report is the one that was signed (`schengate report --sign`)
    VerifyReport(super::report::Check),
    /// Make a key that signs checkpoints, readable by its owner alone, and print the public one
    Keygen {
        /// The file of the private key; the public one is beside it, with the ending .pub
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The name of the log, without blanks
        #[arg(long, value_name = "NAME")]
        name: String,
    },
}

/// Exit status: 0 yes, 1 no (the record does not hold, nothing was found, the proof fails), 2 could
/// not answer.
pub(super) fn audit(audit: Audit, out: &mut impl Write) -> io::Result<Exit> {
    match audit.command {
        Command::Verify { place, key, head, json } => {
            verify(place.directory(), &key, &head, json, out)
        }
        Command::Prove { id, place } => prove(place.directory(), &id, out),
        Command::VerifyProof { file, key } => verify_proof(&file, &key, out),
        Command::Head { place, json } => head(place.directory(), json, out),
        Command::Tail { place, lines } => show::tail(place.directory(), lines, out),
        Command::Show { id, place } => show::print(place.directory(), &Selected::Id(id), out),
        Command::Grep { text, place } => show::print(place.directory(), &Selected::Text(text), out),
        Command::Export { place, format, from, to, ocsf_version } => {
            let export = Export { format, between: (from, to), minor: ocsf_version };
            show::export(place.directory(), &export, out)
        }
        Command::Register(ask) => register::ask(ask, out),
        Command::Reconcile(compare) => register::compare(&compare, out),
        Command::Reveal(asked) => reveal::run(&asked, out),
        Command::VerifyReport(check) => super::report::check(&check, out),
        Command::Keygen { file, name } => keygen(&file, &name, out),
    }
}

fn verify(
    directory: &Path,
    key: &str,
    heads: &[PathBuf],
    as_json: bool,
    out: &mut impl Write,
) -> io::Result<Exit> {
    let key = match public_key(key) {
        Ok(key) => key,
        Err(fault) => return Ok(complain(fault)),
    };
    let mut kept = Vec::new();
    for path in heads {
        let note = match fs::read_to_string(path) {
            Ok(note) => note,
            Err(fault) => return Ok(complain(format!("{}: {fault}", path.display()))),
        };
        match Checkpoint::open(&note, &key) {
            Ok(checkpoint) => kept.push(checkpoint),
            Err(fault) => return Ok(complain(format!("{}: {fault}", path.display()))),
        }
    }
    let report = match evidence::verify(directory, &key, &kept) {
        Ok(report) if report.segments == 0 => {
            return Ok(complain(format!("{}: there is no record", directory.display())));
        }
        Ok(report) => report,
        Err(fault) => return Ok(complain(format!("{}: {fault}", directory.display()))),
    };
    let unsigned = report.records.saturating_sub(report.signed);
    if as_json {
        let each = |findings: &[Finding]| -> Vec<_> {
            let told = |f: &Finding| {
                json!({
                    "kind": f.kind.label(), "record": f.record, "line": f.line,
                    "segment": Some(&f.segment).filter(|name| !name.is_empty()), "detail": f.detail,
                })
            };
            findings.iter().map(told).collect()
        };
        let told = json!({
            "holds": report.holds(), "log": key.name(), "first": report.first,
            "records": report.records, "signed": report.signed, "unsigned": unsigned,
            "segments": report.segments, "checkpoints": report.checkpoints, "bytes": report.bytes,
            "findings": each(&report.findings), "remarks": each(&report.remarks),
        });
        writeln!(out, "{told}")?;
    } else {
        report.findings.iter().try_for_each(|finding| writeln!(out, "{finding}"))?;
        report.remarks.iter().try_for_each(|remark| writeln!(out, "note: {remark}"))?;
        let (first, records, signed) = (report.first, report.records, report.signed);
        let end = if report.holds() { "holds" } else { "does not hold" };
        writeln!(
            out,
            "the record {} {end}: records {first} to before {records} in {}, {signed} under {}, \
             {unsigned} not signed yet",
            key.name(),
            counted(report.segments, "segment"),
            counted(report.checkpoints, "checkpoint"),
        )?;
        if heads.is_empty() {
            writeln!(
                out,
                "note: what was cut off at the end shows by a checkpoint that was kept \
                elsewhere alone (--head)"
            )?;
        }
    }
    Ok(if report.holds() { Exit::Yes } else { Exit::No })
}

/// So many of a thing.
fn counted(number: u64, of: &str) -> String {
    format!("{number} {of}{}", if number == 1 { "" } else { "s" })
}

/// The number behind `1.` of a version of OCSF.
fn ocsf_version(text: &str) -> Result<u8, String> {
    let text = text.strip_suffix(".0").unwrap_or(text);
    let minor = text.strip_prefix("1.").and_then(|minor| minor.parse().ok());
    minor
        .filter(|minor| ocsf::VERSIONS.contains(minor))
        .ok_or_else(|| "write a version from 1.1 to 1.9".to_owned())
}

fn head(directory: &Path, as_json: bool, out: &mut impl Write) -> io::Result<Exit> {
    let entry = match last_entry(directory) {
        Ok(Some(entry)) => entry,
        Ok(None) => return Ok(complain(format!("{}: there is no record", directory.display()))),
        Err(fault) => return Ok(complain(format!("{}: {fault}", directory.display()))),
    };
    if as_json {
        let root: String = entry.frontier.root().iter().map(|byte| format!("{byte:02x}")).collect();
        let told = json!({
            "size": entry.frontier.size(), "root": root, "time": entry.time, "note": entry.note,
        });
        writeln!(out, "{told}")?;
    } else {
        out.write_all(entry.note.as_bytes())?;
    }
    Ok(Exit::Yes)
}

fn prove(directory: &Path, id: &str, out: &mut impl Write) -> io::Result<Exit> {
    match proofs(directory, id) {
        Ok(Proofs::Nothing) => {
            eprintln!("schengate: there is no record of {id:?}");
            Ok(Exit::No)
        }
        Ok(Proofs::NotYet) => {
            eprintln!("schengate: no record of {id:?} is under a checkpoint yet");
            Ok(Exit::No)
        }
        Ok(Proofs::Of(proofs)) => {
            proofs.iter().try_for_each(|proof| write!(out, "{proof}"))?;
            Ok(Exit::Yes)
        }
        Err(fault) => Ok(complain(fault)),
    }
}

/// What there is to prove of an id.
enum Proofs {
    /// No record is of it.
    Nothing,
    /// Its records are under no checkpoint yet.
    NotYet,
    /// A proof of each.
    Of(Vec<Proof>),
}

/// A proof of each record of an id that is under the last checkpoint.
fn proofs(directory: &Path, id: &str) -> Result<Proofs, String> {
    let named = |fault: io::Error| format!("{}: {fault}", directory.display());
    let last = last_entry(directory).map_err(named)?;
    let size = last.as_ref().map_or(0, |last| last.frontier.size());
    let segments = Segment::all(directory).map_err(named)?;
    let mut found: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut is_known = false;
    for segment in &segments {
        let records = segment.records();
        let records = records.map_err(|fault| segment.unreadable(&fault))?;
        for (number, line) in (segment.first..).zip(evidence::lines(&records)) {
            if is_of(line, number, id) {
                is_known = true;
                if number < size {
                    found.push((number, line.to_vec()));
                }
            }
        }
    }
    let Some(((first, _), last)) = found.first().zip(last) else {
        return Ok(if is_known { Proofs::NotYet } else { Proofs::Nothing });
    };
    // The tree from the segment on in which the first of them stands.
    let from = segments.iter().rposition(|segment| segment.first <= *first).unwrap_or(0);
    let segments = segments.get(from..).unwrap_or_default();
    let begins =
        segments.first().map(Segment::entries).transpose().map_err(named)?.unwrap_or_default();
    let begins = begins.first().and_then(|line| Entry::parse(line));
    let begins = begins.map_or_else(Frontier::default, |entry| entry.frontier);
    let mut leaves: Vec<Hash> = Vec::new();
    for segment in segments {
        leaves.extend(segment.leaves().map_err(named)?);
    }
    let tree = Window::new(&begins, &leaves);
    let proof = |(index, record): (u64, Vec<u8>)| {
        let path = tree.inclusion(index, last.frontier.size())?;
        Some(Proof { record, index, path, note: last.note.clone() })
    };
    Ok(Proofs::Of(found.into_iter().filter_map(proof).collect()))
}

fn verify_proof(file: &Path, key: &str, out: &mut impl Write) -> io::Result<Exit> {
    let key = match public_key(key) {
        Ok(key) => key,
        Err(fault) => return Ok(complain(fault)),
    };
    let mut text = String::new();
    let read = if file == Path::new("-") {
        io::stdin().read_to_string(&mut text).map(drop)
    } else {
        fs::read_to_string(file).map(|read| text = read)
    };
    if let Err(fault) = read {
        return Ok(complain(format!("{}: {fault}", file.display())));
    }
    let proofs = match Proof::parse_all(&text) {
        Ok(proofs) => proofs,
        Err(fault) => return Ok(complain(format!("{}: {fault}", file.display()))),
    };
    for proof in proofs {
        match proof.check(&key) {
            Ok(checkpoint) => {
                out.write_all(printable(&proof.record).as_bytes())?;
                writeln!(out)?;
                writeln!(
                    io::stderr(),
                    "record {} stands in {} of {} records",
                    proof.index,
                    checkpoint.origin,
                    checkpoint.size
                )
                .ok();
            }
            Err(fault) => {
                writeln!(io::stderr(), "schengate: record {}: {fault}", proof.index).ok();
                return Ok(Exit::No);
            }
        }
    }
    Ok(Exit::Yes)
}

fn keygen(file: &Path, name: &str, out: &mut impl Write) -> io::Result<Exit> {
    let key = match PrivateKey::generate(name) {
        Ok(key) => key,
        Err(fault) => return Ok(complain(format!("--name {name:?}: {fault}"))),
    };
    if let Err(fault) = evidence::write_key(file, &key) {
        return Ok(complain(fault));
    }
    writeln!(out, "{}", key.public())?;
    Ok(Exit::Yes)
}
