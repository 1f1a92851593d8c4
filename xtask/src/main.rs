//! The maintainer's tools: `cargo xtask COMMAND`. None of it is in the program.
//!
//! A command is a module with its arguments and a function `run`; exit status 0: done, 1: not.

mod embed;
mod truth;
mod world;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The maintainer's tools of schengate.
#[derive(Debug, Parser)]
#[command(name = "xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Rebuild the embedded tables from the packages that config/README.md names
    Embed(embed::Embed),
    /// Hold what the embedded tables say against what providers publish
    Truth(truth::Truth),
    /// Make the map and the names of countries of reports from the packages that config/README.md names
    World(world::World),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Embed(arguments) => embed::run(&arguments),
        Command::Truth(arguments) => truth::run(&arguments),
        Command::World(arguments) => world::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("xtask: {fault}");
            ExitCode::FAILURE
        }
    }
}

/// How a command ends: what went wrong is said on stderr.
type Done = Result<(), Box<dyn Error>>;
