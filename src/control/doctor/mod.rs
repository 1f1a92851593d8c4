//! What on a host breaks the way of packets or of the service, and the command that mends it
//! (`schengate doctor`). Whether the capture stands is looked at by the one set of checks that there is
//! (`capture/check.rs`); what is here is read from files.

mod diagnosis;
mod files;
mod host;
mod kernel;
mod service;

use std::path::Path;
use std::time::Instant;

use jiff::Timestamp;

use super::capture::{Fences, Finding, Nft, StateListener, Word};
pub use diagnosis::{Diagnosis, Expected, State};
pub use files::Files;

/// Looks at everything once. Below another root than `/` at files alone: the kernel that answers is not
/// that host's.
#[must_use]
pub fn look(files: &Files, wanted: Expected<'_>, now: Timestamp) -> Vec<Diagnosis> {
    let mut found = Vec::new();
    let captured = wanted.is_captured();
    if captured && files.is_own() {
        found.extend(fences(wanted));
    }
    kernel::look(files, wanted, &mut found);
    host::look(files, captured, &mut found);
    service::look(files, wanted, now, &mut found);
    if captured && files.is_own() {
        found.push(Diagnosis { check: "probe", state: probe(wanted.keeper) });
    }
    found
}

/// What a gateway that runs sees of its host by itself: of these checks those that read nothing but the
/// kernel's own files, which keep nobody waiting and which it may open. `resolves`: whether there is a
/// name server that it could ask.
#[must_use]
pub fn look_while_running(wanted: Expected<'_>, resolves: bool, now: Timestamp) -> Vec<Diagnosis> {
    let mut found = Vec::new();
    kernel::look(&Files::below(Path::new("/")), wanted, &mut found);
    found.push(Diagnosis { check: "tables", state: service::tables(wanted, now) });
    let state = if resolves { State::Good } else { host::no_name_server() };
    found.push(Diagnosis { check: RESOLVER, state });
    found
}

/// Looked at by every gateway: whether there is a name server.
const RESOLVER: &str = "resolver";

/// Whether a gateway cannot do its work while this is bad: nothing is handed over to it, or it answers
/// for names and can ask nobody (an explicit proxy still serves addresses, and names of `/etc/hosts`). What keeps captured packets away is seen by the checks of the capture.
#[must_use]
pub fn is_vital(found: &Diagnosis, wanted: Expected<'_>) -> bool {
    let asks = wanted.config.is_some_and(|config| config.dns.is_some());
    matches!(found.state, State::Bad { .. })
        && (found.check == "nft_tproxy" || found.check == RESOLVER && asks)
}

/// The checks of `schengate capture check`.
fn fences(wanted: Expected<'_>) -> Vec<Diagnosis> {
    let config = wanted.config;
    let fences = config.and_then(|config| {
        Fences::new(&config.listen, config.capture.shortcut, config.lane.as_ref())
    });
    let look = fences.map(|fences| fences.look(&Nft::Here)).unwrap_or_default();
    look.into_iter()
        .map(|(check, finding)| {
            let state = match finding {
                Finding::Intact => State::Good,
                Finding::Broken(how) => State::bad(
                    how,
                    "systemctl restart schengate-guard schengate-capture (schengate capture up)",
                ),
                Finding::Unseen(why) => State::Unseen(why),
            };
            Diagnosis { check: check.label(), state }
        })
        .collect()
}

/// Whether packets were seen to arrive lately.
fn probe(keeper: &Path) -> State {
    let start = "systemctl enable --now schengate-keeper.service";
    match StateListener::default().hear(keeper, Instant::now()) {
        Word::Nobody | Word::Silent => State::bad(
            "nobody keeps the capture: what other software takes away is not put back, and whether \
             packets arrive is not tried",
            start,
        ),
        Word::Hindered(how) => State::bad(how, start),
        Word::Says(said) => match said.wrong() {
            Some(wrong) => State::bad(wrong, "schengate capture check"),
            None => State::Good,
        },
    }
}
