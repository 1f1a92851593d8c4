//! What the commands have in common: where their policy is, how they end, and where messages go.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tracing_subscriber::fmt::MakeWriter;

use super::journal;
use crate::account::notice;

/// Where the policy of the installed service is.
pub(super) const INSTALLED: &str = "/etc/schengate/policy.toml";

/// Where the policy file is.
#[derive(Debug, clap::Args)]
pub(super) struct PolicyFile {
    /// Policy file; without it: /etc/schengate/policy.toml where there is one, else the built-in
    /// policy, which only observes
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl PolicyFile {
    /// The path of the policy by which the answer is given, `None` for the built-in one. Where it was
    /// not named, says on stderr which it is.
    pub(super) fn noted(&self) -> Option<&Path> {
        let taken = self.taken();
        if self.config.is_none() {
            eprintln!("note: no --config: {}", said(taken));
        }
        taken
    }

    /// The same, unsaid. One that is there and cannot be read is taken, and a fault: nothing else may
    /// answer in its place.
    pub(super) fn taken(&self) -> Option<&Path> {
        let installed = Path::new(INSTALLED);
        let is_there = || match std::fs::metadata(installed) {
            Ok(_) => true,
            Err(error) => {
                !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
            }
        };
        self.config.as_deref().or_else(|| is_there().then_some(installed))
    }
}

/// A policy in words.
pub(super) fn said(path: Option<&Path>) -> String {
    path.map_or_else(
        || "the built-in policy, which only observes".to_owned(),
        |path| format!("the policy {}", path.display()),
    )
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    Yes,
    No,
    NoAnswer,
    /// That of a command that was run.
    Of(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Yes => Self::SUCCESS,
            Exit::No => Self::from(1),
            Exit::NoAnswer => Self::from(2),
            Exit::Of(status) => Self::from(status),
        }
    }
}

/// Has messages written there, one JSON object a line. What cannot be written is lost, and nothing is
/// said of it: there is nowhere to say it.
pub(super) fn log(writer: impl for<'a> MakeWriter<'a> + Send + Sync + 'static) {
    tracing_subscriber::fmt()
        .with_writer(writer)
        .log_internal_errors(false)
        .with_max_level(tracing::Level::INFO)
        .with_target(false)
        .json()
        .map_event_format(journal::Leveled::on_stderr)
        .init();
}

/// Says on stderr what went wrong, in the form every command uses.
pub(super) fn complain(what: impl std::fmt::Display) -> Exit {
    // A path or a file may have in it what a terminal takes for orders. Where stderr takes nothing, the exit
    // status says it alone.
    writeln!(io::stderr(), "schengate: {}", notice::printable(&what.to_string())).ok();
    Exit::NoAnswer
}
