//! `schengate capture`: the rules that bring traffic to the gateway.

use std::io::{self, Write};
use std::path::PathBuf;

use super::common::{Exit, PolicyFile, complain, log};
use crate::control::capture::{
    self, CaptureFault, Fences, Finding, Form, Keep, Nft, PROBE_INTERFACE, SHORTCUT_TABLE, STATE,
    Servers, TABLE, counted,
};
use crate::control::config::{self, Lane};
use crate::sys;

/// Arguments of `capture`.
#[derive(Debug, clap::Args)]
pub(super) struct Capture {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Set the guard, the routes and the rules; may be repeated
    Up(Rules),
    /// Set the guard alone: nothing is forwarded, whatever other software does
    Guard,
    /// Set what `up` sets, and set it again whenever somebody takes a part of it away; ends by a signal
    Keep {
        #[command(flatten)]
        rules: Rules,
        /// Where to say what was found, for the gateway
        #[arg(long, value_name = "FILE", default_value = STATE)]
        state: PathBuf,
    },
    /// Take back rules and routes; the guard stays
    Down {
        /// Accepted for symmetry with `up`: the rules of either form are taken back
        #[arg(long, conflicts_with = "host")]
        gateway: bool,
        /// As --gateway
        #[arg(long)]
        host: bool,
        /// Take the guard away as well: what the kernel is told to forward is then forwarded
        #[arg(long)]
        guard: bool,
    },
    /// Print what `up` sets
    Print(Rules),
    /// Look whether what `up` set, and the guard, still stand (as root)
    Check(PolicyFile),
    /// What the rules refused, and what the kernel short cut counted (as root)
    Show,
}

#[derive(Debug, clap::Args)]
struct Rules {
    #[command(flatten)]
    file: PolicyFile,
    /// For traffic that other machines send through this one (the default)
    #[arg(long, conflicts_with = "host")]
    gateway: bool,
    /// For this machine's own traffic
    #[arg(long)]
    host: bool,
    /// User, by name or number, whose traffic is left alone with --host: the gateway's own
    #[arg(long, value_name = "USER", default_value = capture::USER)]
    user: String,
    /// Capture only what arrives on this interface (gateway); may be repeated
    #[arg(long, value_name = "NAME")]
    interface: Vec<String>,
}

/// Exit status: 0 done or intact, 1 the policy has no listener for it or something is broken, 2 a
/// command failed or something cannot be seen.
pub(super) fn capture(arguments: Capture, out: &mut impl Write) -> io::Result<Exit> {
    let done = match arguments.command {
        Command::Check(file) => return check(&file, out),
        Command::Show => return show(out),
        Command::Guard => capture::guard(),
        Command::Down { guard, .. } => capture::Capture::down()
            .and_then(|()| if guard { capture::open_guard() } else { Ok(()) }),
        Command::Up(rules) => match rules.capture() {
            Ok(capture) => capture.up(),
            Err(exit) => return Ok(exit),
        },
        Command::Keep { rules, state } => match rules.capture() {
            Ok(capture) => {
                log(io::stderr);
                Keep::new(capture, &state).run()
            }
            Err(exit) => return Ok(exit),
        },
        Command::Print(rules) => match rules.capture() {
            Ok(capture) => {
                write!(out, "{}", capture.script())?;
                Ok(())
            }
            Err(exit) => return Ok(exit),
        },
    };
    Ok(done.map_or_else(fail, |()| Exit::Yes))
}

fn check(file: &PolicyFile, out: &mut impl Write) -> io::Result<Exit> {
    let config = match config::load(file.noted()) {
        Ok(loaded) => loaded.config,
        Err(faults) => return Ok(complain(faults)),
    };
    let lane = config.lane.as_ref();
    let Some(fences) = Fences::new(&config.listen, config.capture.shortcut, lane) else {
        // Nothing was looked at: a timer that runs this must not take it for "intact".
        let help = match file.taken() {
            Some(_) => "a captured one has mode = \"tproxy\" or \"redirect\"",
            None => "name the policy that the gateway runs with: --config FILE",
        };
        return Ok(complain(format_args!("no [[listen]] is captured for; {help}")));
    };
    let mut exit = Exit::Yes;
    for (check, finding) in fences.look(&Nft::Here) {
        writeln!(out, "{:12} {finding}", check.label())?;
        exit = match (exit, &finding) {
            (_, Finding::Broken(_)) | (Exit::No, _) => Exit::No,
            (_, Finding::Unseen(_)) | (Exit::NoAnswer, _) => Exit::NoAnswer,
            (Exit::Yes | Exit::Of(_), Finding::Intact) => exit,
        };
    }
    Ok(exit)
}

fn show(out: &mut impl Write) -> io::Result<Exit> {
    let read = |table| sys::counters(table);
    let (rules, lane, shortcut) = match (read(TABLE), read(Lane::TABLE), read(SHORTCUT_TABLE)) {
        (Ok(rules), Ok(lane), Ok(shortcut)) => (rules, lane, shortcut),
        (Err(error), _, _) | (_, Err(error), _) | (_, _, Err(error)) => {
            return Ok(complain(format_args!("the kernel's counters: {error}")));
        }
    };
    for (of, counters) in [("rules", rules), ("lane", lane)] {
        for counter in counters {
            let (name, packets, bytes) = (counter.name, counter.packets, counter.bytes);
            writeln!(out, "{of:6} {name:19} {packets:12} packets {bytes:16} bytes")?;
        }
    }
    for counter in shortcut {
        if let Some(what) = counted(&counter.name) {
            let (verdict, reason) = (what.action.label(), what.reason.label());
            let (packets, bytes) = (counter.packets, counter.bytes);
            let place = what.place;
            writeln!(
                out,
                "{verdict:6} {reason:10} {place:8} {packets:12} packets {bytes:16} bytes"
            )?;
        }
    }
    Ok(Exit::Yes)
}

fn fail(fault: CaptureFault) -> Exit {
    let source = std::error::Error::source(&fault).map(|source| format!(": {source}"));
    let exit = complain(format_args!("{fault}{}", source.unwrap_or_default()));
    match fault {
        CaptureFault::NoListener { .. }
        | CaptureFault::Unreachable { .. }
        | CaptureFault::Stub { .. }
        | CaptureFault::NoSide => Exit::No,
        CaptureFault::Interface { .. }
        | CaptureFault::NoUser { .. }
        | CaptureFault::RuleTaken { .. }
        | CaptureFault::Queue { .. }
        | CaptureFault::Switch { .. }
        | CaptureFault::Intervals(_)
        | CaptureFault::Routing(_)
        | CaptureFault::News { .. }
        | CaptureFault::Tun { .. }
        | CaptureFault::NotRun { .. }
        | CaptureFault::Refused { .. } => exit,
    }
}

impl Rules {
    /// The clients' interfaces, and the one by which probes arrive as clients do.
    fn interfaces(&self) -> Vec<String> {
        let probes = PROBE_INTERFACE.to_owned();
        let is_named = !self.interface.is_empty() && !self.interface.contains(&probes);
        self.interface.iter().cloned().chain(is_named.then_some(probes)).collect()
    }

    fn capture(&self) -> Result<capture::Capture, Exit> {
        let loaded = config::load(self.file.noted()).map_err(complain)?;
        let form = if self.host {
            Form::Host { exempt_uid: capture::user_id(&self.user).map_err(fail)? }
        } else {
            Form::Gateway
        };
        let listen = &loaded.config.listen;
        let capture = capture::Capture::new(form, listen)
            .and_then(|capture| capture.on_interfaces(&self.interfaces()))
            .and_then(|capture| capture.with_shortcut(loaded.config.capture.shortcut, listen))
            .and_then(|capture| capture.with_lane(loaded.config.lane.as_ref(), listen))
            .map_err(fail)?;
        if self.host {
            return capture.with_servers(Servers::new(&loaded.config)).map_err(fail);
        }
        // As for TCP, the first listener of each family in file order: so it is set last.
        let datagrams = listen.iter().rev().filter_map(|listen| listen.udp);
        Ok(datagrams.fold(capture, capture::Capture::with_udp))
    }
}
