//! `schengate data`: the tables behind the verdicts.

use std::io::{self, Write};
use std::path::PathBuf;

use super::{Exit, PolicyFile, complain};
use crate::control::{config, data};

/// Arguments of `data`.
#[derive(Debug, clap::Args)]
pub(super) struct Data {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show every table: name, kind, rows, date, age, licence, digest
    List {
        #[command(flatten)]
        file: PolicyFile,
        /// One JSON array instead of text
        #[arg(long)]
        json: bool,
    },
    /// Build the embedded tables from the unpacked packages (see config/README.md)
    Build {
        /// Directory of the unpacked packages
        #[arg(long, value_name = "DIR")]
        from: PathBuf,
        /// Directory that receives the tables
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

/// Exit status: 0 done, 1 a table is refused, 2 could not answer.
pub(super) fn data(arguments: Data, out: &mut impl Write) -> io::Result<Exit> {
    match arguments.command {
        Command::List { file, json } => list(&file, json, out),
        Command::Build { from, out: to } => match data::rebuild(&from, &to) {
            Ok(built) => {
                for info in built {
                    writeln!(out, "{}: {} rows, sha256 {}", info.name, info.rows, info.digest)?;
                }
                Ok(Exit::Yes)
            }
            Err(fault) => {
                eprintln!("schengate: {fault}");
                Ok(Exit::No)
            }
        },
    }
}

fn list(file: &PolicyFile, json: bool, out: &mut impl Write) -> io::Result<Exit> {
    let loaded = match config::load(file.config.as_deref()) {
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
