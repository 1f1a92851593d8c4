//! `schengate inspect`: what the gateway would read and decide, from captures and raw flights.

use std::io::{self, Write};
use std::path::PathBuf;

use jiff::Timestamp;

use super::common::{Exit, PolicyFile, complain};
use crate::control::load::load;
use crate::inspect::{Flow, Form, ascii_json, inspect_file};
use crate::policy::{Action, Claim, Policy, Question};

/// Arguments of `inspect`.
#[derive(Debug, clap::Args)]
pub(super) struct Inspect {
    #[command(flatten)]
    file: PolicyFile,
    /// Captures (pcap, pcapng), or raw first flights with --stream or --datagrams
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Each file is the raw byte stream of one TCP client
    #[arg(long, conflicts_with = "datagrams")]
    stream: bool,
    /// Each file is one client's UDP payloads, each behind a 2-byte big-endian length
    #[arg(long)]
    datagrams: bool,
    /// One JSON object a flow instead of text
    #[arg(long)]
    json: bool,
    /// Judge as of this time; without it: now
    #[arg(long, value_name = "TIME", value_parser = super::explain::instant)]
    at: Option<Timestamp>,
}

/// Exit status: 0 every flow would be forwarded, 1 some flow would be refused, 2 a file could not
/// be read, or some of what it holds.
pub(super) fn inspect(arguments: Inspect, out: &mut impl Write) -> io::Result<Exit> {
    let at = arguments.at.unwrap_or_else(Timestamp::now);
    let policy = match load(arguments.file.noted(), at) {
        Ok(loaded) => loaded.compiler.policy_at(at),
        Err(fault) => return Ok(complain(fault)),
    };
    let form = match (arguments.stream, arguments.datagrams) {
        (true, _) => Form::Stream,
        (_, true) => Form::Datagrams,
        _ => Form::Auto,
    };
    let mut exit = Exit::Yes;
    let mut written = Ok(());
    for file in &arguments.files {
        let inspected = inspect_file(file, form, |flow| {
            let verdict = judge(&policy, &flow);
            if verdict.is_some_and(|(action, _)| action == Action::Block) && exit == Exit::Yes {
                exit = Exit::No;
            }
            if written.is_ok() {
                written = write(&flow, verdict, arguments.json, out);
            }
        });
        for fault in inspected.err().into_iter().flat_map(|faults| faults.0) {
            let cause = std::error::Error::source(&fault).map(|cause| format!(": {cause}"));
            exit = complain(format_args!("{fault}{}", cause.unwrap_or_default()));
        }
    }
    written.map(|()| exit)
}

fn write(
    flow: &Flow,
    verdict: Option<(Action, &'static str)>,
    json: bool,
    out: &mut impl Write,
) -> io::Result<()> {
    let labels = verdict.map(|(action, reason)| (action.label(), reason));
    if json {
        return writeln!(out, "{}", ascii_json(&flow.to_json(labels)));
    }
    let which = flow.flow.as_deref().unwrap_or(&flow.file);
    let name = flow.sni.as_deref().or(flow.host.as_deref()).unwrap_or("-");
    let (action, reason) = labels.unwrap_or(("-", "no destination to judge"));
    write!(out, "{which}  {}  {name}  {action} {reason}", flow.proto.label())?;
    if flow.ech {
        write!(out, "  ech")?;
    }
    if let Some(fault) = flow.fault {
        write!(out, "  ({})", fault.label())?;
    }
    writeln!(out)
}

/// The verdict on a flow whose destination is known; a raw file has none. The name is taken as the
/// client's claim, since nothing is looked up here.
fn judge(policy: &Policy, flow: &Flow) -> Option<(Action, &'static str)> {
    let verdict = policy.decide(&Question {
        client: flow.client,
        destination: flow.destination?,
        transport: flow.transport,
        protocol: flow.proto,
        name: match (&flow.name, flow.fault) {
            (_, Some(_)) => Claim::Malformed(&flow.names),
            (Some((name, _)), None) => Claim::Claimed(name),
            (None, None) => Claim::Unread,
        },
        ech: flow.ech,
    });
    Some((verdict.action(), verdict.reason().label()))
}
