//! `schengate data list|verify|diff`: what the tables are, whether they are sound, what they change.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::cli::common::{Exit, PolicyFile, complain};
use crate::cli::progress::Shown;
use crate::control::config::{self, CountryField, Source};
use crate::control::data::{self, DataFault, Kind, Table};
use crate::control::progress::reading;

/// What a file is read as.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(super) enum KindName {
    /// Where an address is
    Country,
    /// Whose network it is in, by AS number
    Asn,
    /// Ranges that a provider publishes
    Providers,
}

impl From<KindName> for Kind {
    fn from(name: KindName) -> Self {
        match name {
            KindName::Country => Self::Country,
            KindName::Asn => Self::Asn,
            KindName::Providers => Self::Providers,
        }
    }
}

/// Arguments of `data verify`.
#[derive(Debug, clap::Args)]
pub(super) struct Verify {
    /// Tables; without any, all that the policy names
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    policy: PolicyFile,
    /// What the files are; without it, the content tells
    #[arg(long, requires = "files")]
    kind: Option<KindName>,
    /// How many countries or AS numbers to show of each, the largest first; 0 is all
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
    /// One JSON array instead of text
    #[arg(long)]
    json: bool,
}

/// Arguments of `data diff`.
#[derive(Debug, clap::Args)]
pub(super) struct Diff {
    /// The table in use; "embedded" is the one in the program
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// The table that would follow
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// What the files are; without it, the content tells
    #[arg(long)]
    kind: Option<KindName>,
    /// How many changes and moves to show, the largest first; 0 is all
    #[arg(long, value_name = "N", default_value_t = 20)]
    top: usize,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Exit status: 0 every table is sound, 1 one is not, 2 the policy cannot be read.
pub(super) fn list(file: &PolicyFile, json: bool, out: &mut impl Write) -> io::Result<Exit> {
    let loaded = match config::load(file.noted()) {
        Ok(loaded) => loaded,
        Err(faults) => return Ok(complain(faults)),
    };
    let listings = data::list(&loaded.config.data);
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&listings)?)?;
    } else {
        for listing in &listings {
            writeln!(out, "{listing}")?;
        }
    }
    let sound = listings.iter().all(|listing| listing.fault.is_none());
    Ok(if sound { Exit::Yes } else { Exit::No })
}

/// Exit status: 0 every table is sound, 1 one is not, 2 the policy cannot be read.
pub(super) fn verify(arguments: &Verify, out: &mut impl Write) -> io::Result<Exit> {
    let now = Timestamp::now();
    let progress = Shown::on_stderr();
    let verified = if arguments.files.is_empty() {
        match config::load(arguments.policy.noted()) {
            Ok(loaded) => data::verify(&loaded.config.data, arguments.top, now, &progress),
            Err(faults) => return Ok(complain(faults)),
        }
    } else {
        let kind = arguments.kind.map(Kind::from);
        data::verify_files(&arguments.files, kind, arguments.top, now, &progress)
    };
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&verified)?)?;
    } else {
        for table in &verified {
            writeln!(out, "{table}")?;
        }
    }
    let sound = verified.iter().all(|table| table.listing.fault.is_none());
    Ok(if sound { Exit::Yes } else { Exit::No })
}

/// Exit status, as of diff(1): 0 the tables say the same, 1 they differ, 2 they cannot be compared.
pub(super) fn diff(arguments: &Diff, out: &mut impl Write) -> io::Result<Exit> {
    let tables = pair(arguments).map_err(|fault| fault.to_string());
    let mut diff = match tables
        .and_then(|(old, new)| data::diff(&old, &new).map_err(|fault| fault.to_string()))
    {
        Ok(diff) => diff,
        Err(refusal) => return Ok(complain(refusal)),
    };
    diff.truncate(arguments.top);
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&diff)?)?;
    } else {
        writeln!(out, "{diff}")?;
    }
    Ok(if diff.is_empty() { Exit::Yes } else { Exit::No })
}

/// Both tables, the second of the kind of the first. What the program holds is of the kind of the
/// file beside it.
fn pair(arguments: &Diff) -> Result<(Table, Table), DataFault> {
    let kind = arguments.kind.map(Kind::from);
    if arguments.old == Path::new(EMBEDDED) {
        let new = table(&arguments.new, kind)?;
        return Ok((Table::load(new.kind(), &Source::Embedded, FIELD)?, new));
    }
    let old = table(&arguments.old, kind)?;
    let new = table(&arguments.new, Some(old.kind()))?;
    Ok((old, new))
}

/// Two tables are compared by where addresses are.
const FIELD: CountryField = CountryField::Country;

/// The word that stands for the table in the program, as in `[data]`.
const EMBEDDED: &str = "embedded";

fn table(path: &Path, kind: Option<Kind>) -> Result<Table, DataFault> {
    if path == Path::new(EMBEDDED) {
        return Table::load(kind.unwrap_or(Kind::Country), &Source::Embedded, FIELD);
    }
    reading(&Shown::on_stderr(), path, || match kind {
        Some(kind) => Table::load(kind, &Source::File(path.to_owned()), FIELD),
        None => Table::guess(path),
    })
}
