//! `schengate doctor`: what on this host breaks the way, what that means, and what mends it.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::json;

use super::common::{Exit, PolicyFile, complain};
use crate::control::capture::STATE;
use crate::control::doctor::{self, Diagnosis, Expected, Files, State};
use crate::control::load::{self, LoadFault};

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    file: PolicyFile,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
    /// Show what is as it should be as well
    #[arg(long, short)]
    all: bool,
    /// Look at the files of the host below this directory, and not at its kernel
    #[arg(long, value_name = "DIRECTORY", default_value = "/")]
    root: PathBuf,
    /// Where `capture keep` says what it found
    #[arg(long, value_name = "FILE", default_value = STATE)]
    keeper: PathBuf,
}

/// Exit status: 0 nothing was found, 1 something was, 2 something could not be looked at.
pub(super) fn doctor(arguments: &Doctor, out: &mut impl Write) -> io::Result<Exit> {
    let root = &arguments.root;
    if !root.is_dir() {
        return Ok(complain(format_args!("{} is not a directory", root.display())));
    }
    let now = Timestamp::now();
    let path = arguments.file.noted();
    let loaded = load::load(path, now);
    let mut found = vec![Diagnosis { check: "policy", state: policy(path, loaded.as_ref().err()) }];
    let compiler = loaded.as_ref().ok().map(|loaded| &loaded.compiler);
    let wanted = Expected {
        config: compiler.map(|compiler| compiler.config()),
        tables: compiler.map_or(&[], |compiler| compiler.infos()),
        keeper: &arguments.keeper,
    };
    found.extend(doctor::look(&Files::below(root), wanted, now));
    let is = |bad: fn(&State) -> bool| found.iter().filter(|it| bad(&it.state)).count();
    let bad = is(|state| matches!(state, State::Bad { .. }));
    let unseen = is(|state| matches!(state, State::Unseen(_)));
    if arguments.json {
        let all: Vec<_> = found.iter().map(told).collect();
        writeln!(out, "{}", json!({ "findings": all, "bad": bad, "unseen": unseen }))?;
    } else {
        for Diagnosis { check, state } in &found {
            match state {
                State::Good if arguments.all => writeln!(out, "good    {check}")?,
                State::Good => {}
                State::Bad { what, mend } => {
                    writeln!(out, "BAD     {check}: {what}\n        mend it: {mend}")?;
                }
                State::Unseen(why) => writeln!(out, "unseen  {check}: {why}")?,
            }
        }
        let looked = found.len();
        writeln!(out, "{looked} things looked at: {bad} bad, {unseen} not seen")?;
    }
    Ok(match (bad, unseen) {
        (0, 0) => Exit::Yes,
        (0, _) => Exit::NoAnswer,
        (_, _) => Exit::No,
    })
}

fn policy(path: Option<&Path>, fault: Option<&LoadFault>) -> State {
    let Some(fault) = fault else { return State::Good };
    let file = path.map_or_else(String::new, |path| format!(" --config {}", path.display()));
    let first = fault.to_string().lines().next().unwrap_or_default().to_owned();
    State::Bad {
        what: format!("the policy does not load, so that the gateway does not start: {first}"),
        mend: format!("schengate check{file}"),
    }
}

fn told(found: &Diagnosis) -> serde_json::Value {
    let (state, says, mend) = match &found.state {
        State::Good => ("good", None, None),
        State::Bad { what, mend } => ("bad", Some(what), Some(mend)),
        State::Unseen(why) => ("unseen", Some(why), None),
    };
    json!({ "check": found.check, "state": state, "says": says, "mend": mend })
}
