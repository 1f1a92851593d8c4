//! `schengate data update`: tables fetched from where the policy says.

use std::io::{self, Write};

use jiff::Timestamp;

use crate::cli::common::{Exit, PolicyFile, complain};
use crate::cli::progress::Shown;
use crate::control::update::{Asked, Ended, Report, update};

/// Arguments of `data update`.
#[derive(Debug, clap::Args)]
pub(super) struct Fetch {
    /// Names of [[data.update.source]] entries; without any, all
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    file: PolicyFile,
    /// Judge each destination and say what would be fetched, and fetch nothing
    #[arg(long)]
    dry_run: bool,
    /// One JSON array instead of text
    #[arg(long)]
    json: bool,
}

/// Exit status: 0 each file is the published one, 1 one was refused, 2 one could not be fetched.
pub(super) fn fetch(arguments: &Fetch, out: &mut impl Write) -> io::Result<Exit> {
    let asked = Asked { names: &arguments.names, dry_run: arguments.dry_run };
    let path = arguments.file.noted();
    let (left_out, reports) = match update(path, asked, Timestamp::now(), &Shown::on_stderr()) {
        Ok(done) => done,
        Err(fault) => return Ok(complain(fault)),
    };
    for fault in left_out {
        eprintln!("schengate: {fault}; what else there is judges where it is fetched from");
    }
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&reports)?)?;
    } else {
        for report in &reports {
            line(report, out)?;
        }
    }
    let any = |ended| reports.iter().any(|report| report.result == ended);
    Ok(match (any(Ended::Refused), any(Ended::Failed)) {
        (true, _) => Exit::No,
        (false, true) => Exit::NoAnswer,
        (false, false) => Exit::Yes,
    })
}

fn line(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let Report { name, url, file, rows, date, digest, what, .. } = report;
    let what = what.as_deref().map_or_else(String::new, |what| format!(": {what}"));
    match report.result {
        Ended::Updated => {
            let rows = rows.unwrap_or_default();
            let date = date.as_deref().and_then(|date| date.get(..10)).unwrap_or("an unknown day");
            let digest = digest.as_deref().unwrap_or_default();
            writeln!(out, "{name}: updated {file}: {rows} rows of {date}, sha256 {digest}{what}")
        }
        Ended::Unchanged => writeln!(out, "{name}: unchanged {file}{what}"),
        Ended::WouldFetch => {
            let at = report.address.map_or_else(String::new, |at| format!(" at {at}"));
            let verdict = report.verdict.unwrap_or_default();
            let reason = report.reason.unwrap_or_default();
            writeln!(out, "{name}: would fetch {url}{at} ({verdict}: {reason}) into {file}{what}")
        }
        Ended::Refused => writeln!(out, "{name}: REFUSED{what}"),
        Ended::Failed => writeln!(out, "{name}: FAILED{what}"),
    }
}
