//! `schengate data`: the tables behind the verdicts.

mod fetch;
mod make;
mod show;

use std::io::{self, Write};

use super::common::{Exit, PolicyFile};

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
    /// Fetch tables over HTTPS from where [data.update] of the policy says, as far as it permits
    Update(fetch::Fetch),
    /// Build one pack of any tables, or the embedded tables from their packages
    Build(make::Build),
    /// Make a key to sign packs with, and print the line for the policy
    Keygen {
        /// The file that receives the private key; it is never overwritten
        #[arg(value_name = "FILE")]
        file: std::path::PathBuf,
    },
}

/// Exit status: 0 done, 1 a table is refused, 2 could not answer.
pub(super) fn data(arguments: Data, out: &mut impl Write) -> io::Result<Exit> {
    match arguments.command {
        Command::List { file, json } => show::list(&file, json, out),
        Command::Verify(verify) => show::verify(&verify, out),
        Command::Diff(diff) => show::diff(&diff, out),
        Command::Update(update) => fetch::fetch(&update, out),
        Command::Build(build) => make::build(&build, out),
        Command::Keygen { file } => make::keygen(&file, out),
    }
}
