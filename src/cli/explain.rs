//! `schengate explain`: one verdict with each step, source, date and rule.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::common::{Exit, PolicyFile, complain, said};
use crate::control::config;
use crate::control::explain::{Answer, Asked, Spoken, destination};
use crate::control::load::load;
use crate::identify::HostName;
use crate::policy::Action;

/// Arguments of `explain`.
#[derive(Debug, clap::Args)]
pub(super) struct Explain {
    #[command(flatten)]
    file: PolicyFile,
    /// Destination; without a port: 443
    #[arg(long, value_name = "IP[:PORT]", value_parser = destination)]
    to: SocketAddr,
    /// The name that the client asks for; without it none could be read
    #[arg(long, value_name = "NAME", value_parser = host_name)]
    host: Option<HostName>,
    /// The client's address; without it no `from` matches and no group applies
    #[arg(long, value_name = "IP")]
    client: Option<IpAddr>,
    /// What the first bytes are
    #[arg(long, value_name = "PROTOCOL", value_enum, default_value = "tls")]
    protocol: Spoken,
    /// When; a time needs an offset, a day is its first instant in UTC; without it: now
    #[arg(long, value_name = "TIME", value_parser = instant)]
    at: Option<Timestamp>,
    /// The hello carries the ECH extension
    #[arg(long)]
    ech: bool,
    /// The first bytes break the rules of their protocol, contradict themselves (`--host` is one of
    /// the names in them), or stop half-way
    #[arg(long)]
    malformed: bool,
    /// Judge the name as the client's claim only, not as bound to the address
    #[arg(long)]
    unbound: bool,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

fn host_name(text: &str) -> Result<HostName, String> {
    config::host_name(text).map_err(|fault| format!("{fault}; {}", fault.help()))
}

/// Reads a point in time: RFC 3339 with an offset, or a day, which is its first instant in UTC.
pub(super) fn instant(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = Timestamp::from_str(text) {
        return Ok(at);
    }
    let day = Date::from_str(text).ok().filter(|_| !text.contains(['T', 't', ' ', ':']));
    // The clock ends within the last day of the calendar; what holds through that day still does at
    // the instant before the end.
    let end = Timestamp::MAX - SignedDuration::from_nanos(1);
    let first = |day: Date| day.to_zoned(TimeZone::UTC).map_or(end, |zoned| zoned.timestamp());
    day.map(first)
        .ok_or_else(|| "write 2026-11-24, 2026-11-24T12:00:00Z or 2026-11-24T14:00:00+02:00".into())
}

/// Exit status: 0 forwarded, 1 refused, 2 no answer.
pub(super) fn explain(arguments: &Explain, out: &mut impl Write) -> io::Result<Exit> {
    let at = arguments.at.unwrap_or_else(Timestamp::now);
    let loaded = match load(arguments.file.noted(), at) {
        Ok(loaded) => loaded,
        Err(fault) => return Ok(complain(fault)),
    };
    let policy = loaded.compiler.policy_at(at);
    let asked = Asked {
        to: arguments.to,
        host: arguments.host,
        client: arguments.client,
        protocol: arguments.protocol,
        ech: arguments.ech,
        malformed: arguments.malformed,
        unbound: arguments.unbound,
    };
    let answer = Answer::new(&asked, &loaded.compiler, &policy, at);
    if arguments.json {
        writeln!(out, "{}", answer.json())?;
    } else {
        let file = loaded.compiler.config().path.as_deref();
        write!(out, "{}", answer.text(&said(file)))?;
    }
    Ok(if answer.verdict().action() == Action::Block { Exit::No } else { Exit::Yes })
}
