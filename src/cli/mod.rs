//! The command line: a thin door to library code. Answers go to stdout, the rest to stderr; the
//! exit status is 0 for yes, 1 for no, 2 for "could not answer".

mod audit;
mod capture;
mod check;
mod common;
mod data;
mod doctor;
mod exec;
mod explain;
mod init;
mod inspect;
mod journal;
mod live;
mod man;
mod progress;
mod report;
mod run;
mod zones;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use common::Exit;

/// A data-residency-aware egress gateway for Linux.
///
/// Reads the destination address and the TLS SNI of what leaves (never the contents) and asks:
/// where can these bytes land, whose law reaches the one who holds them, on what ground may they
/// leave. Forwards, records or refuses, and says why.
#[derive(Debug, Parser)]
#[command(name = "schengate", version, propagate_version = true, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway
    Run(run::Run),
    /// Run one command whose only way out is the gateway, and say where its bytes went
    Exec(Box<exec::Exec>),
    /// Write a policy to begin with, from a preset
    Init(init::Init),
    /// Load the policy as `run` would, print every fault and lint, and stop
    Check(check::Check),
    /// Say what on this host breaks the way of packets or of the service, and what mends it
    Doctor(doctor::Doctor),
    /// Judge one destination and show each step
    Explain(Box<explain::Explain>),
    /// What goes on now, drawn anew each time
    Top(live::Top),
    /// Live connections, and the end of one
    Connections(live::Connections),
    /// What is refused, as it happens
    Tail(live::Tail),
    /// One event: what the refused was told, and what would be decided today
    Why(live::Why),
    /// Read captures or raw first flights and say what the gateway would read and decide
    Inspect(inspect::Inspect),
    /// The nftables and policy-routing rules that bring traffic to the gateway
    Capture(capture::Capture),
    /// The record as evidence: verify, prove, read and export it
    Audit(audit::Audit),
    /// What left, where to, under whose law and on what ground: a report for people
    Report(Box<report::Make>),
    /// The tables behind the verdicts
    Data(data::Data),
    /// The zones that a policy may name, and who was in them when
    Zones(zones::ZonesCommand),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page of a command (roff), or write those of all
    Man(man::Manual),
}

/// Parses the command line, runs the command, and gives the exit status.
#[must_use]
pub fn main() -> ExitCode {
    let command = Arguments::parse().command;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let ended = dispatch(command, &mut out).and_then(|exit| out.flush().map(|()| exit));
    match ended {
        Ok(exit) => exit.into(),
        // Whoever read the answer has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("schengate: cannot write the answer: {error}");
            Exit::NoAnswer.into()
        }
    }
}

fn dispatch(command: Command, out: &mut impl Write) -> io::Result<Exit> {
    match command {
        Command::Run(run) => Ok(run::run(run)),
        Command::Exec(exec) => Ok(exec::exec(&exec)),
        Command::Init(init) => init::init(&init, out),
        Command::Check(check) => check::check(check, out),
        Command::Doctor(doctor) => doctor::doctor(&doctor, out),
        Command::Explain(explain) => explain::explain(&explain, out),
        Command::Top(top) => live::top(&top, out),
        Command::Connections(connections) => live::connections(&connections, out),
        Command::Tail(tail) => live::tail(&tail, out),
        Command::Why(why) => live::why(&why, out),
        Command::Inspect(inspect) => inspect::inspect(inspect, out),
        Command::Capture(capture) => capture::capture(capture, out),
        Command::Audit(audit) => audit::audit(audit, out),
        Command::Report(report) => report::make(&report, out),
        Command::Data(data) => data::data(data, out),
        Command::Zones(zones) => zones::zones(&zones, out),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "schengate", out);
            Ok(Exit::Yes)
        }
        Command::Man(manual) => man::man(&manual, Arguments::command(), out),
    }
}
