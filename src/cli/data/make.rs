//! `schengate data build|keygen`: tables made, packed and signed.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use jiff::Timestamp;

use crate::cli::common::{Exit, complain};
use crate::cli::explain::instant;
use crate::cli::progress::Shown;
use crate::control::config::{CountryField, Source};
use crate::control::data::{self, DataFault, Kind, SigningKey, SourceInfo, Table};
use crate::control::progress::{Progress, reading};

/// A pack from this many rows on takes long enough to be told of.
const LONG_ROWS: u64 = 100_000;

/// Arguments of `data build`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("made").required(true).args(["pack", "services"]))]
pub(super) struct Build {
    /// Build one pack and write it to this file
    #[arg(long, value_name = "OUT")]
    pack: Option<PathBuf>,
    /// Put files of services into one and write it to this file
    #[arg(long, value_name = "OUT", conflicts_with = "date")]
    services: Option<PathBuf>,
    /// Sign it with this key (`schengate data keygen`)
    #[arg(long, value_name = "KEYFILE")]
    sign: Option<PathBuf>,
    /// Date of the build; without it now. A pack is never taken up after a later one
    #[arg(long, value_name = "TIME", value_parser = instant)]
    date: Option<Timestamp>,
    /// Tables, best first of each kind: FILE, or country=FILE, asn=FILE, providers=FILE where the
    /// content does not tell; "embedded" for FILE is the table in the program
    #[arg(value_name = "SOURCES", required = true, value_parser = Input::from_str)]
    sources: Vec<Input>,
}

/// One table of a pack, as written on the command line.
#[derive(Debug, Clone)]
enum Input {
    /// A file whose content tells its kind.
    Any(PathBuf),
    /// A file or the embedded table, of this kind.
    Of(Kind, Source),
}

impl FromStr for Input {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = |(word, path): (&str, &str)| {
            let kind = Kind::ALL.into_iter().find(|kind| kind.label() == word)?;
            Some((kind, path.to_owned()))
        };
        match text.split_once('=').and_then(known) {
            Some((_, path)) if path.is_empty() => Err("name a file".to_owned()),
            Some((kind, path)) if path == "embedded" => Ok(Self::Of(kind, Source::Embedded)),
            Some((kind, path)) => Ok(Self::Of(kind, Source::File(path.into()))),
            None if text.is_empty() => Err("name a file".to_owned()),
            None if text == "embedded" => {
                Err("say which: country=embedded, asn=embedded or providers=embedded".to_owned())
            }
            None => Ok(Self::Any(text.into())),
        }
    }
}

impl Input {
    fn load(&self, progress: &dyn Progress) -> Result<Table, DataFault> {
        let load = |kind, source| Table::load(kind, source, CountryField::Country);
        match self {
            Self::Any(path) => reading(progress, path, || Table::guess(path)),
            Self::Of(kind, Source::Embedded) => load(*kind, &Source::Embedded),
            Self::Of(kind, source @ Source::File(path)) => {
                reading(progress, path, || load(*kind, source))
            }
        }
    }
}

/// Exit status: 0 built, 1 a source is refused, 2 the key cannot be used.
pub(super) fn build(arguments: &Build, out: &mut impl Write) -> io::Result<Exit> {
    let progress = Shown::on_stderr();
    let key = match arguments.sign.as_deref().map(SigningKey::read).transpose() {
        Ok(key) => key,
        Err(fault) => return Ok(complain(fault)),
    };
    let built = match (&arguments.pack, &arguments.services) {
        (Some(pack), _) => build_pack(arguments, pack, key.as_ref(), &progress, out)?,
        (None, Some(services)) => build_services(&arguments.sources, services, key.as_ref()),
        (None, None) => return Ok(complain("say --pack or --services")),
    };
    match built {
        Ok(built) => {
            for info in built {
                writeln!(out, "{}: {} rows, sha256 {}", info.name, info.rows, info.digest)?;
            }
            Ok(Exit::Yes)
        }
        Err(faults) => {
            for fault in faults {
                eprintln!("schengate: {fault}");
            }
            Ok(Exit::No)
        }
    }
}

/// Every source read, then the pack written; every fault at once.
fn build_pack(
    arguments: &Build,
    pack: &Path,
    key: Option<&SigningKey>,
    progress: &dyn Progress,
    out: &mut impl Write,
) -> io::Result<Result<Vec<SourceInfo>, Vec<DataFault>>> {
    let (mut tables, mut faults) = (Vec::new(), Vec::new());
    for input in &arguments.sources {
        match input.load(progress) {
            Ok(table) => tables.push(table),
            Err(fault) => faults.push(fault),
        }
    }
    if !faults.is_empty() {
        return Ok(Err(faults));
    }
    for table in &tables {
        let info = table.info();
        writeln!(out, "  {} {}: {} rows", table.kind().label(), info.name, info.rows)?;
    }
    let date = arguments.date.unwrap_or_else(Timestamp::now);
    let rows: u64 = tables.iter().map(|table| table.info().rows).sum();
    let long = rows >= LONG_ROWS;
    if long {
        progress.begin(&format!("packing {rows} rows"), None);
    }
    let built = data::build_pack(tables, date, key, pack);
    if long {
        progress.end();
    }
    Ok(built.map(|info| vec![info]).map_err(|fault| vec![fault]))
}

/// Files of services, put into one.
fn build_services(
    inputs: &[Input],
    services: &Path,
    key: Option<&SigningKey>,
) -> Result<Vec<SourceInfo>, Vec<DataFault>> {
    let file = |input: &Input| match input {
        Input::Any(path) => Ok(path.clone()),
        Input::Of(..) => {
            let what = "takes files of services alone, and no table of a kind";
            Err(vec![DataFault::whole(Path::new("--services"), what)])
        }
    };
    let files = inputs.iter().map(file).collect::<Result<Vec<_>, _>>()?;
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    data::build_services(&files, key, services).map(|info| vec![info])
}

/// Exit status: 0 written, 2 not.
pub(super) fn keygen(file: &Path, out: &mut impl Write) -> io::Result<Exit> {
    match SigningKey::generate(file) {
        Ok(key) => {
            writeln!(out, "pack_key = \"{}\"", key.public())?;
            Ok(Exit::Yes)
        }
        Err(error) => Ok(complain(format_args!("{}: {error}", file.display()))),
    }
}
