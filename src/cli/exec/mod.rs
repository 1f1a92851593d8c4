//! `schengate exec`: runs one command, of which the gateway in this process is the only way out, and
//! says where its bytes went.

mod lines;
mod policy;
mod propose;
mod show;
mod summary;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

use super::common::{Exit, PolicyFile, complain, log};
use crate::account::Account;
use crate::control::load;
use crate::enclosure::{self, Enclosure, Ended, Event, Plan};
use crate::service::{EnclosedGateway, LAST_LINES};
use crate::sys::Gone;
use lines::Lines;
use policy::Origin;

/// Time between two looks at the clock.
const TICK: Duration = Duration::from_secs(1);

/// How long what is on its way has to arrive once the command has ended.
const LAST_BYTES: Duration = Duration::from_secs(2);

/// Arguments of `exec`.
#[derive(Debug, clap::Args)]
pub(super) struct Exec {
    #[command(flatten)]
    file: PolicyFile,
    /// A policy without a file: permit=ZONES, law=ZONES, on.CAUSE=ACTION, apart by spaces; zones apart
    /// by commas, as in 'permit=eea,gdpr-adequacy law=eea on.unknown=log'
    #[arg(long, value_name = "WORDS", conflicts_with = "config")]
    policy: Option<String>,
    /// Only look: judge and record, refuse nothing but what no policy opens
    #[arg(long)]
    observe: bool,
    /// Write the policy with the rules that this run would have needed, to FILE (without it: stderr)
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "-")]
    propose: Option<PathBuf>,
    /// Write the summary there instead of to stderr
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// The summary as one JSON object
    #[arg(long)]
    json: bool,
    /// No summary
    #[arg(long, short, conflicts_with_all = ["report", "json"])]
    quiet: bool,
    /// Write the lines of the record there, and what the gateway says of itself
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Leave this socket, file or directory of the host within reach, of those that are not: all of /run
    /// and /dev/shm, and sockets elsewhere
    #[arg(long, value_name = "PATH")]
    keep: Vec<PathBuf>,
    /// No way for QUIC: clients fall back to TCP
    #[arg(long)]
    no_quic: bool,
    /// The command and its arguments
    #[arg(required = true, last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Exit status: the command's; 128 and the signal's number where one ended it; 125 where it was never
/// started, 126 where it cannot be run, 127 where it is not there.
pub(super) fn exec(arguments: &Exec) -> Exit {
    match run(arguments) {
        Ok(status) => Exit::Of(status),
        Err(fault) => {
            complain(format_args!("exec: {fault}"));
            Exit::Of(u8::try_from(enclosure::NOT_STARTED).unwrap_or(u8::MAX))
        }
    }
}

type Fault = Box<dyn std::error::Error>;

fn run(arguments: &Exec) -> Result<u8, Fault> {
    let origin = Origin::of(arguments.policy.as_deref(), &arguments.file)?;
    // Before anything is begun: what cannot be written is said before the command has run.
    let report = arguments.report.as_deref().map(Kept::create).transpose()?;
    let proposal = arguments.propose.as_deref().filter(|path| path.as_os_str() != "-");
    let proposal = proposal.map(Kept::create).transpose()?;
    let record = arguments.record.as_deref().map(create).transpose()?;
    let keep = arguments.keep.iter().map(|path| keep(path));
    let plan = Plan {
        command: arguments.command.clone(),
        keep: keep.collect::<Result<_, _>>()?,
        quic: !arguments.no_quic,
    };
    // First of all, while this process has one thread.
    let enclosure = Enclosure::begin(&plan)?;
    let (summary, ended) = served(arguments, &origin, record, &enclosure)?;
    drop(enclosure);
    let summary = summary::Summary { command: arguments.command.clone(), ended, ..summary };
    if !arguments.quiet {
        let is_colored = report.is_none()
            && io::stderr().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let text = match arguments.json {
            true => format!("{}\n", show::json(&summary)),
            false => show::text(&summary, is_colored),
        };
        deliver("the summary", report, &text);
    }
    if arguments.propose.is_some() {
        match propose::proposal(&origin, &summary) {
            Ok(text) => deliver("the proposal", proposal, &text),
            Err(fault) => {
                complain(format_args!("exec: nothing can be proposed: {fault}"));
            }
        }
    }
    if let Some((path, fault)) = arguments.record.as_deref().zip(summary.record_fault.as_deref()) {
        let path = path.display();
        complain(format_args!("exec: the record {path} is not whole, lines are lost: {fault}"));
    }
    Ok(status(summary.ended.gone))
}

/// Serves the command until it ends.
fn served(
    arguments: &Exec,
    origin: &Origin,
    record: Option<File>,
    enclosure: &Enclosure,
) -> Result<(summary::Summary, Ended), Fault> {
    let mut loaded = origin.load()?;
    if arguments.observe {
        loaded.only_observe();
    }
    let loaded = load::complete(loaded, Timestamp::now())?;
    let lines = Lines::default();
    let account = Account::start(Box::new(lines.sink(record)))?;
    let messages = account.clone();
    log(move || messages.messages());
    let sockets = enclosure.sockets()?;
    let about = origin.about(&loaded);
    let mut gateway = EnclosedGateway::start(loaded, sockets, account.clone())?;
    enclosure.go()?;
    let ended = loop {
        match enclosure.next(TICK)? {
            Event::Ended(ended) => break ended,
            Event::Nothing => gateway.tick(),
        }
    };
    gateway.end(LAST_BYTES);
    let is_whole = account.flush(LAST_LINES);
    let summary = lines.summary();
    Ok((summary::Summary { about, is_whole, ..summary }, ended))
}

/// As a shell has it.
fn status(gone: Gone) -> u8 {
    let number = match gone {
        Gone::Exited(status) => status,
        Gone::Killed(signal) => 128 + signal,
    };
    u8::try_from(number).unwrap_or(u8::MAX)
}

fn create(path: &Path) -> Result<File, Fault> {
    File::create(path).map_err(|fault| at(path, &fault).into())
}

/// What is to stay within reach, by the one name that it has.
fn keep(path: &Path) -> Result<PathBuf, Fault> {
    let whole = path.canonicalize().map_err(|fault| at(path, &fault))?;
    if whole.parent().is_none() {
        return Err(
            "--keep /: that is all of this host: name a socket, a file or a directory".into()
        );
    }
    Ok(whole)
}

fn at(path: &Path, fault: &io::Error) -> String {
    format!("{}: {fault}", path.display())
}

/// A file in which something of the run is kept.
struct Kept<'a> {
    path: &'a Path,
    file: File,
}

impl<'a> Kept<'a> {
    fn create(path: &'a Path) -> Result<Self, Fault> {
        Ok(Self { path, file: create(path)? })
    }
}

/// Writes there, or to stderr. What cannot be written there is not lost, and the status stays the command's:
/// it has run.
fn deliver(what: &str, to: Option<Kept<'_>>, text: &str) {
    if let Some(mut kept) = to {
        let Err(fault) = kept.file.write_all(text.as_bytes()) else { return };
        let path = kept.path.display();
        complain(format_args!(
            "exec: {what} cannot be written to {path}: {fault}. It follows here"
        ));
    }
    // Where stderr takes nothing, there is nobody to tell.
    io::stderr().write_all(text.as_bytes()).ok();
}
