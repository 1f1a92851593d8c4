//! `schengate check`: the real load, stopped before the swap.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::common::{Exit, PolicyFile};
use crate::control::admin::{Access, AccessFault};
use crate::control::compile::Compiler;
use crate::control::config::{self, Data, Fault, Source};
use crate::control::data::DataFault;
use crate::control::explain::unplaced_regions;
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
    let path = arguments.file.noted();
    let now = Timestamp::now();
    let against = Against::Remembered { allow_older: arguments.allow_older };
    let loaded = load_against(path, now, against);
    // What only the start reads, and would stop at.
    let admin = loaded.as_ref().ok().map(|loaded| Access::load(&loaded.compiler.config().admin));
    let admin = admin.and_then(Result::err);
    if let Some(fault) = admin {
        return not_served(&fault, arguments.json, out);
    }
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
                "old_tables": old_tables(&loaded.compiler, now),
                "unplaced_regions": unplaced(&loaded.compiler, now),
            }),
            Err(LoadFault::Policy(faults)) => {
                let faults: Vec<_> = faults.0.iter().map(policy_fault).collect();
                serde_json::json!({ "ok": false, "faults": faults, "lints": [] })
            }
            // A load that was asked for has none.
            Err(LoadFault::Loss(lost)) => {
                serde_json::json!({ "ok": false, "faults": lost, "lints": [] })
            }
            Err(LoadFault::Data(faults)) => {
                let faults: Vec<_> =
                    TableFault::all(path, faults).iter().map(TableFault::json).collect();
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
            for old in old_tables(&loaded.compiler, now) {
                eprintln!("warning: {old}");
            }
            for region in unplaced(&loaded.compiler, now) {
                eprintln!("warning: {region}");
            }
            let compiler = &loaded.compiler;
            let policy = compiler.policy_at(now);
            let name =
                path.map_or_else(|| "built-in default policy".into(), |p| p.display().to_string());
            writeln!(
                out,
                "{name}: loads. version {}, {} rules, {} groups, {} address classes, {} KiB of tables, \
                 {} {}",
                policy.version(),
                compiler.config().rules.len(),
                compiler.config().groups.len(),
                policy.address_table().classes().len(),
                policy.bytes() / 1024,
                loaded.lints.len(),
                if loaded.lints.len() == 1 { "lint" } else { "lints" },
            )?;
        }
        Err(LoadFault::Policy(faults)) => eprintln!("{faults}"),
        Err(fault @ LoadFault::Loss(_)) => eprintln!("{fault}"),
        Err(LoadFault::Data(faults)) => {
            for fault in TableFault::all(path, &faults) {
                eprintln!("{fault}");
            }
        }
    }
    Ok(exit)
}

/// The policy is sound, and the gateway would not start with its admin listener.
fn not_served(fault: &AccessFault, as_json: bool, out: &mut impl Write) -> io::Result<Exit> {
    if as_json {
        let faults = [json!({ "key": "admin", "what": fault.to_string() })];
        writeln!(out, "{}", json!({ "ok": false, "faults": faults, "lints": [] }))?;
    } else {
        eprintln!("{fault}");
    }
    Ok(Exit::No)
}

/// What is to be said of each table that is older than 90 days.
fn old_tables(compiler: &Compiler, now: Timestamp) -> Vec<String> {
    compiler.infos().iter().filter_map(|info| info.old(now)).collect()
}

/// What is to be said of each region of the policy's own lists that has no country.
fn unplaced(compiler: &Compiler, now: Timestamp) -> Vec<String> {
    unplaced_regions(&compiler.policy_at(now), compiler.infos())
}

/// A fault of the policy; what is not known is null, as in one of a table.
fn policy_fault(fault: &Fault) -> Value {
    let Fault { file, position, key, what, help } = fault;
    json!({
        "file": file,
        "line": position.map(|position| position.line),
        "column": position.map(|position| position.column),
        "key": Some(key).filter(|key| !key.is_empty()),
        "what": what,
        "help": help,
    })
}

/// A fault of a table, and which list of the policy names the table.
struct TableFault<'a> {
    fault: &'a DataFault,
    key: Option<&'static str>,
    help: Option<String>,
}

impl<'a> TableFault<'a> {
    /// Each fault once, though its table be named twice.
    fn all(path: Option<&Path>, faults: &'a [DataFault]) -> Vec<Self> {
        let data = config::load(path).ok().map(|loaded| loaded.config.data);
        let mut told = BTreeSet::new();
        let new = faults.iter().filter(|fault| told.insert(fault.to_string()));
        new.map(|fault| Self::new(fault, data.as_ref())).collect()
    }

    fn new(fault: &'a DataFault, data: Option<&Data>) -> Self {
        let is_meant = |source: &Source| match source {
            Source::Embedded => false,
            Source::File(file) => file.display().to_string() == fault.source,
        };
        let key = data.and_then(|data| {
            let lists = [
                ("data.country", &data.country),
                ("data.asn", &data.asn),
                ("data.providers", &data.providers),
            ];
            lists.into_iter().find(|(_, list)| list.iter().any(is_meant)).map(|(key, _)| key)
        });
        let name = Path::new(&fault.source).file_name().and_then(|name| name.to_str());
        let slip = name.filter(|name| config::nearest(name, ["embedded"]).is_some());
        let help = key.map(|key| match slip {
            Some(_) => format!("did you mean \"embedded\" in {key}?"),
            None => format!("mend the file, or take it out of {key}"),
        });
        Self { fault, key, help }
    }

    fn json(&self) -> Value {
        let DataFault { source, row, what: _ } = self.fault;
        json!({
            "file": source,
            "line": row,
            "column": null,
            "key": self.key,
            "what": self.fault.said(),
            "help": self.help,
        })
    }
}

impl fmt::Display for TableFault<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(key) = self.key {
            write!(f, "{key}: ")?;
        }
        write!(f, "{}", self.fault)?;
        self.help.as_ref().map_or(Ok(()), |help| write!(f, "\n  help: {help}"))
    }
}
