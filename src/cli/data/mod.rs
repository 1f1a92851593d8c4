//! `schengate data`: the tables behind the verdicts.

mod show;

use std::io::{self, Write};
use std::path::PathBuf;

use super::{Exit, PolicyFile, complain};
use crate::control::data;

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
    /// Read tables to their end and show what each covers
    Verify(show::Verify),
    /// Show what a new table says otherwise than an old one, for whom and how many addresses
    Diff(show::Diff),
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
        Command::List { file, json } => show::list(&file, json, out),
        Command::Verify(verify) => show::verify(&verify, out),
        Command::Diff(diff) => show::diff(&diff, out),
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
