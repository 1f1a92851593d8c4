//! `schengate check`: the real load, stopped before the swap.

use std::io::{self, Write};

use jiff::Timestamp;

use super::{Exit, PolicyFile};
use crate::control::load::{Against, LoadFault, load_against};

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    #[command(flatten)]
    file: PolicyFile,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
    /// Accept tables that are older than those that the gateway last used
    #[arg(long)]
    allow_older: bool,
}

/// Exit status: 0 the policy loads, 1 it does not, 2 the file cannot be read.
pub(super) fn check(arguments: Check, out: &mut impl Write) -> io::Result<Exit> {
    let path = arguments.file.config.as_deref();
    let now = Timestamp::now();
    let against = Against::Remembered { allow_older: arguments.allow_older };
    let loaded = load_against(path, now, against);
    let exit = match &loaded {
        Ok(_) => Exit::Yes,
        Err(LoadFault::Policy(faults)) if faults.is_unreadable() => Exit::NoAnswer,
        Err(_) => Exit::No,
    };
    if arguments.json {
        let answer = match &loaded {
            Ok(loaded) => serde_json::json!({
                "ok": true,
                "version": loaded.compiler.policy_at(now).version(),
                "faults": [],
                "lints": loaded.lints,
            }),
            Err(LoadFault::Policy(faults)) => {
                serde_json::json!({ "ok": false, "faults": faults, "lints": [] })
            }
            Err(LoadFault::Data(faults)) => {
                let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
                serde_json::json!({ "ok": false, "faults": faults, "lints": [] })
            }
        };
        writeln!(out, "{answer}")?;
        return Ok(exit);
    }
    match loaded {
        Ok(loaded) => {
            for lint in &loaded.lints {
                eprintln!("{lint}");
            }
            let compiler = &loaded.compiler;
            let policy = compiler.policy_at(now);
            let name =
                path.map_or_else(|| "built-in default policy".into(), |p| p.display().to_string());
            writeln!(
                out,
                "{name}: loads. version {}, {} rules, {} groups, {} address classes, {} KiB of tables, \
                 {} lints",
                policy.version(),
                compiler.config().rules.len(),
                compiler.config().groups.len(),
                policy.atlas().classes().len(),
                policy.bytes() / 1024,
                loaded.lints.len(),
            )?;
        }
        Err(fault) => eprintln!("{fault}"),
    }
    Ok(exit)
}
