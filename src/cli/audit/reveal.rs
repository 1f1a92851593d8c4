//! `schengate audit reveal`: who a pseudonym is, by the key of its period. That somebody asked is in the
//! log before the answer is given.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::show::{is_of, walk};
use crate::cli::common::{Exit, complain};
use crate::evidence::{Unrevealed, record_beside, reveal};

/// How long the gateway may take to write what it is left.
const LIMIT: Duration = Duration::from_secs(30);

/// Arguments of `audit reveal`.
#[derive(Debug, clap::Args)]
pub(super) struct Reveal {
    /// The directory of the record
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// The event id of a record, its number, or a pseudonym
    #[arg(value_name = "WHO")]
    who: String,
    /// The directory of the keys [default: pseudonym-keys in the directory of the record]
    #[arg(long, value_name = "DIR")]
    keys: Option<PathBuf>,
    /// What it is asked for; stands in the record
    #[arg(long, value_name = "TEXT")]
    purpose: Option<String>,
    /// The key that signs the record, where no gateway runs [default: signing.key in its directory]
    #[arg(long, value_name = "FILE")]
    signing_key: Option<PathBuf>,
}

/// Exit status: 0 the address, 1 there is none or its key is gone, 2 could not answer, or not record it.
pub(super) fn run(asked: &Reveal, out: &mut impl Write) -> io::Result<Exit> {
    let Reveal { directory, who, .. } = asked;
    let (pseudonym, sealed) = match found(directory, who) {
        Ok(Some(found)) => found,
        Ok(None) => {
            writeln!(io::stderr(), "schengate: no record has a pseudonym by {who:?}").ok();
            return Ok(Exit::No);
        }
        Err(fault) => return Ok(complain(fault)),
    };
    let keys = asked.keys.clone().unwrap_or_else(|| directory.join("pseudonym-keys"));
    let address = match reveal(&keys, &pseudonym, &sealed) {
        Ok(address) => address,
        Err(fault @ (Unrevealed::Erased(_) | Unrevealed::Forged)) => {
            writeln!(io::stderr(), "schengate: {fault}").ok();
            return Ok(Exit::No);
        }
        Err(fault @ (Unrevealed::Keys(_) | Unrevealed::Pseudonym(_))) => {
            return Ok(complain(fault));
        }
    };
    // Nobody learns it whose question is not in the log.
    let line = json!({
        "event": "reveal",
        "time": format!("{:.3}", jiff::Timestamp::now()),
        "client": pseudonym,
        "asked": who,
        "uid": fs::metadata("/proc/self")?.uid(),
        "login_uid": login(),
        "purpose": asked.purpose,
    });
    let key = asked.signing_key.clone().unwrap_or_else(|| directory.join("signing.key"));
    if let Err(fault) = record_beside(directory, &key, line.to_string().as_bytes(), LIMIT) {
        return Ok(complain(format!("nothing is told that is not recorded: {fault}")));
    }
    writeln!(out, "{address}")?;
    Ok(Exit::Yes)
}

/// The user who logged in, whoever they became since; none of a service.
fn login() -> Option<u32> {
    let text = fs::read_to_string("/proc/self/loginuid").ok()?;
    text.trim().parse().ok().filter(|uid| *uid != u32::MAX)
}

/// The pseudonym, and the sealed address, of the first record that is meant.
fn found(directory: &Path, who: &str) -> Result<Option<(String, String)>, String> {
    let mut found = None;
    let walked = walk(directory, |number, line| {
        if found.is_some() {
            return Ok(());
        }
        let Ok(record) = serde_json::from_slice::<Value>(line) else { return Ok(()) };
        let text = |name: &str| record[name].as_str().map(str::to_owned);
        if let Some((client, sealed)) = text("client").zip(text("client_sealed"))
            && (client == who || is_of(line, number, who))
        {
            found = Some((client, sealed));
        }
        Ok(())
    });
    walked.map_err(|fault| fault.to_string()).flatten()?;
    Ok(found)
}
