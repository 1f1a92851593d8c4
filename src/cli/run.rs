//! `schengate run`: the service's arguments, and what the process says of itself.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use tracing::error;

use super::common::{Exit, complain, log};
use crate::account::Account;
use crate::broker::Broker;
use crate::control::capture::STATE;
use crate::service::{Behind, FrontEnd, LAST_LINES, Options, Service, front};
use crate::sys;

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub(super) struct Run {
    /// Policy file; without it: an explicit proxy on 127.0.0.1:3128 that observes, embedded tables
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Worker threads; without it one for each core
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,
    /// Keep each worker on a processor of its own
    #[arg(long)]
    affinity: bool,
    /// Time that live connections have to end after SIGTERM, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    drain: u64,
    /// End at once at SIGTERM, and leave the connections to a process behind this one: for a service
    /// manager that passes the listeners
    #[arg(long)]
    hand_over: bool,
    /// Where `capture keep` says what it found
    #[arg(long, value_name = "FILE", default_value = STATE)]
    keeper: PathBuf,
    /// Take up tables at the start even where they are older than those last in use
    #[arg(long)]
    allow_older: bool,
}

/// Exit status: 0 after an orderly stop, 2 where the gateway could not start.
pub(super) fn run(arguments: Run) -> Exit {
    let behind = match Behind::find() {
        Ok(None) if arguments.hand_over => return in_front(),
        Ok(behind) => behind,
        Err(error) => return complain(error),
    };
    // Before the first thread: it is a copy of this process.
    let broker = match Broker::start(&arguments.keeper) {
        Ok(broker) => broker,
        Err(fault) => {
            return complain(format_args!("the process beside the gateway (broker): {fault}"));
        }
    };
    let account = match account() {
        Ok(account) => account,
        Err(fault) => return complain(fault),
    };
    let messages = account.clone();
    log(move || messages.messages());
    // Where nobody reads stderr, a thread that panics must not wait there with what it says.
    std::panic::set_hook(Box::new(|panic| error!(%panic, "a thread of the gateway panicked")));
    sys::set_mmap_threshold();
    let started = Service::start(options(arguments), behind, broker, account.clone());
    let ended = started.map(Service::supervise);
    let _written = account.flush(LAST_LINES);
    match ended {
        Ok(()) => Exit::Yes,
        Err(fault) => complain(fault),
    }
}

fn options(arguments: Run) -> Options {
    let Run { config, workers, affinity, drain, hand_over: _, keeper: _, allow_older } = arguments;
    let drain = Duration::from_secs(drain);
    Options { config, workers, affinity, drain, allow_older }
}

/// Stands in front of the gateway, and ends as it does.
fn in_front() -> Exit {
    match front() {
        Ok(FrontEnd::LetGo) => Exit::Yes,
        Ok(FrontEnd::Ended(status)) => match status.code() {
            Some(0) => Exit::Yes,
            Some(1) => Exit::No,
            _ => complain(format_args!("the gateway ended: {status}")),
        },
        Err(error) => complain(format_args!("the process in front of the gateway: {error}")),
    }
}

/// Keeps the record, and what the process says of itself, on stderr by a descriptor of its own: the
/// standard library's handle has a lock, at which everybody would wait for a reader that is stuck.
fn account() -> io::Result<Account> {
    let stderr = io::stderr().as_fd().try_clone_to_owned()?;
    Account::start(Box::new(File::from(stderr)))
}
