//! Keeps what `capture up` set: whoever takes a part of it away, it is back at once. A process of its
//! own with CAP_NET_ADMIN, so that the gateway needs none.
//!
//! Nothing is asked again and again: the kernel tells of each change of the firewall, the routing
//! rules and the switches of forwarding ([`News`]). A look from time to time is for what it does not
//! tell of.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::{error, info, warn};

use super::apply::switch_forwarding;
use super::check::forwarding_interfaces;
use super::delivery::Delivery;
use super::family::families;
use super::fault::CaptureFault;
use super::finding::Finding;
use super::matches::ROUTE_TABLE;
use super::model::{Capture, Form};
use super::own::Own;
use super::probe::Probe;
use super::program::{checked, words};
use super::routing;
use super::state::{Said, Seen};
use crate::sys::{self, News};

/// Time between two looks where nothing was told, and between two probes.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// Changes come in crowds: what follows within this time is looked at together.
const CROWD: Duration = Duration::from_millis(50);

/// After a change that could not be put right.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// A part of the capture, and what is said of it: empty where it is gone.
type CurrentState = BTreeMap<&'static str, String>;

/// Parts of the capture, by name.
type Parts = BTreeSet<&'static str>;

/// Probes once, and says what became of it by way.
type Asker = Box<dyn FnMut() -> BTreeMap<String, Seen> + Send>;

/// Who keeps a capture.
#[derive(Debug)]
pub struct Keep {
    capture: Capture,
    board: Arc<Board>,
}

/// Where it is said what was found, by the one who keeps and by the one who probes.
#[derive(Debug)]
struct Board {
    said: Mutex<Said>,
    state: PathBuf,
}

impl Board {
    fn say(&self, change: impl FnOnce(&mut Said)) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut said);
        said.turn += 1;
        if let Err(fault) = said.write(&self.state) {
            warn!(%fault, file = %self.state.display(), "what was found cannot be written down");
        }
    }
}

impl Keep {
    /// Who will keep this capture, and say in the file `state` what was found.
    #[must_use]
    pub fn new(capture: Capture, state: &Path) -> Self {
        let board = Board { said: Mutex::default(), state: state.to_owned() };
        Self { capture, board: Arc::new(board) }
    }

    /// Sets everything, and keeps it until something ends that cannot be done without.
    ///
    /// # Errors
    /// The capture cannot be set, or the kernel does not tell of changes.
    pub fn run(self) -> Result<(), CaptureFault> {
        let subscribed = |source| CaptureFault::News { source };
        let news = News::start(is_of_our_tables, is_of_our_routing).map_err(subscribed)?;
        // Before anything is compared: it may have been on all the time.
        if self.forbids_forwarding() {
            stop_forwarding()?;
        }
        self.capture.up()?;
        let mut wanted = self.current_state();
        // Where these stand, there is nothing to say of them.
        for part in ["routing", "fence", FORWARDING] {
            wanted.entry(part).and_modify(String::clear);
        }
        info!("the capture is set, and kept");
        let probe = self.probe().map_err(subscribed)?;
        let mut before = BTreeMap::new();
        // What was put back, and not seen to stand yet.
        let mut unsure = BTreeSet::new();
        loop {
            if news.wait(LOOK_EVERY).map_err(subscribed)? {
                thread::sleep(CROWD);
            }
            news.forget();
            let found = self.current_state();
            let hindered = self.hindered();
            if hindered != before {
                tell_of_hindrances(&hindered, &before);
                before.clone_from(&hindered);
            }
            self.board.say(|said| said.hindered = hindered);
            if found == wanted {
                if !unsure.is_empty() {
                    warn!(parts = ?unsure, "a part of the capture that was taken away is back");
                }
                self.board.say(|said| {
                    said.fault = None;
                    said.put_back(std::mem::take(&mut unsure));
                });
            } else if self.restore(&wanted, &found, &mut unsure) {
                // Whoever probes may have seen the gap. One turn that waits already will do.
                probe.try_send(()).ok();
            } else {
                thread::sleep(TRY_AGAIN);
            }
        }
    }

    /// Whoever probes; `None` where nothing that this process does is captured.
    fn asker(&self) -> Result<Option<Asker>, CaptureFault> {
        Ok(match self.capture.form {
            Form::Gateway => {
                let mut probe = Probe::start(&self.capture)?;
                Some(Box::new(move || probe.ask()))
            }
            Form::Host { .. } => {
                Own::start(&self.capture)?.map(|own| -> Asker { Box::new(move || own.ask()) })
            }
        })
    }

    /// Probes on a thread of its own: an answer that does not come must not hold up a repair. Told
    /// to, it probes at once.
    fn probe(&self) -> io::Result<SyncSender<()>> {
        let (orders, heard) = sync_channel(1);
        let board = Arc::clone(&self.board);
        let unprobed = |why: String| {
            warn!(%why, "the capture is not probed");
            self.board.say(|said| said.unprobed = why);
        };
        match self.asker() {
            Ok(Some(mut ask)) => {
                let probing = move || {
                    let mut before = BTreeMap::new();
                    loop {
                        let seen = ask();
                        tell_of(&seen, &before);
                        board.say(|said| said.probe = seen.clone());
                        before = seen;
                        if heard.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Disconnected) {
                            return;
                        }
                    }
                };
                drop(thread::Builder::new().name("probe".into()).spawn(probing)?);
            }
            Ok(None) => {
                let why =
                    "the keeper runs as the gateway's own user, whose connections are left alone";
                self.board.say(|said| said.unprobed = why.to_owned());
            }
            Err(fault @ CaptureFault::Tun { .. }) => {
                let source = std::error::Error::source(&fault).map(ToString::to_string);
                unprobed(format!("{fault}: {}", source.unwrap_or_default()));
            }
            Err(fault) => unprobed(fault.to_string()),
        }
        Ok(orders)
    }

    /// Puts back what is gone; whether all is well again.
    fn restore(&self, wanted: &CurrentState, found: &CurrentState, unsure: &mut Parts) -> bool {
        let is_lost = |(part, is): &(&&'static str, &String)| found.get(**part) != Some(*is);
        let lost: Vec<&'static str> =
            wanted.iter().filter(is_lost).map(|(part, _)| *part).collect();
        let parts = lost.join(", ");
        let mended = if lost.contains(&FORWARDING) { stop_forwarding() } else { Ok(()) };
        let fault = match mended.and_then(|()| self.capture.up()) {
            Ok(()) if self.current_state() != *wanted => {
                let still: Vec<&str> = found.values().map(String::as_str).collect();
                let still = still.into_iter().find(|text| text.contains("routing rule"));
                let why = still.unwrap_or("somebody takes it away again");
                error!(%parts, %why, "a part of the capture does not stand as it was set");
                Some(format!("{parts}: {why}"))
            }
            Ok(()) => {
                warn!(%parts, "somebody took a part of the capture away; it is back");
                None
            }
            Err(fault) => {
                error!(%parts, %fault, "a part of the capture is gone and cannot be set again");
                Some(format!("{parts}: {fault}"))
            }
        };
        let mended = fault.is_none();
        unsure.extend(lost);
        self.board.say(|said| {
            if mended {
                said.put_back(std::mem::take(unsure));
            }
            said.fault = fault;
        });
        mended
    }

    /// What keeps packets from the listeners, by the label of the check: nothing where all is well.
    fn hindered(&self) -> BTreeMap<String, String> {
        if self.capture.form != Form::Gateway {
            return BTreeMap::new();
        }
        let looked = Delivery::of(&self.capture).look().into_iter();
        let seen = looked.filter_map(|(check, finding)| match finding {
            Finding::Intact => Some((check.label().to_owned(), String::new())),
            Finding::Broken(how) => Some((check.label().to_owned(), how)),
            Finding::Unseen(_) => None,
        });
        seen.collect()
    }

    /// Whether nothing may be forwarded: not even what bears a mark.
    fn forbids_forwarding(&self) -> bool {
        self.capture.form == Form::Gateway && !self.capture.forwards()
    }

    /// What stands now.
    fn current_state(&self) -> CurrentState {
        // No answer is a loss as well: what cannot be seen is set again.
        let shown = |program: &str, line: &str| checked(program, &words(line), None);
        let mut current = CurrentState::new();
        let table = shown("nft", "-s -t list table inet schengate");
        current.insert("rules", table.unwrap_or_default());
        let faults = self.capture.routed().map(routing::way_fault);
        current.insert("routing", said(faults));
        if self.capture.form != Form::Gateway {
            return current;
        }
        let guard = shown("nft", "-s -t list table inet schengate_guard");
        current.insert("guard", guard.unwrap_or_default());
        let fence = |family| routing::fence_fault(family, self.capture.forwards());
        current.insert("fence", said(families().map(fence)));
        if self.capture.lane.is_some() {
            let table = shown("nft", "-s -t list table inet schengate_lane");
            current.insert("lane", table.unwrap_or_default());
        }
        if self.forbids_forwarding() {
            let forwarding = forwarding_interfaces();
            let names = forwarding.map_or_else(|why| why.to_string(), |names| names.join(" "));
            current.insert(FORWARDING, names);
        }
        current
    }
}

/// Tells of what has come into the way since the last look, and of what has gone from it.
fn tell_of_hindrances(now: &BTreeMap<String, String>, before: &BTreeMap<String, String>) {
    for (check, how) in now.iter().filter(|(check, how)| before.get(*check) != Some(*how)) {
        match how.as_str() {
            "" if before.contains_key(check) => info!(%check, "is as it should be again"),
            "" => {}
            how => warn!(%check, %how, "clients' packets do not arrive"),
        }
    }
}

/// Tells of what has changed since the last probe.
fn tell_of(seen: &BTreeMap<String, Seen>, before: &BTreeMap<String, Seen>) {
    for (way, now) in seen.iter().filter(|(way, now)| before.get(*way) != Some(now)) {
        match now {
            Seen::Held => info!(%way, "the probe was refused by the gateway, as it should be"),
            Seen::Open => error!(%way, "THE POST IS OPEN: a probe went past the gateway"),
            Seen::Lost => warn!(%way, "the probe got no answer: clients' packets do not arrive"),
        }
    }
}

const FORWARDING: &str = "forwarding";

/// What is wrong, one fault behind the other; nothing where all is well.
fn said(faults: impl Iterator<Item = io::Result<Option<String>>>) -> String {
    let texts = faults.filter_map(|fault| fault.unwrap_or_else(|error| Some(error.to_string())));
    texts.collect::<Vec<_>>().join("; ")
}

/// Switches forwarding off wherever it is on: the switch of all interfaces does nothing where it
/// says so already.
fn stop_forwarding() -> Result<(), CaptureFault> {
    switch_forwarding("0")?;
    let names = forwarding_interfaces().unwrap_or_default();
    for (family, name) in names.iter().flat_map(|name| [("ipv4", name), ("ipv6", name)]) {
        // The name of an interface may hold a dot, a path's part as it stands.
        let path = format!("/proc/sys/net/{family}/conf/{name}/forwarding");
        if Path::new(&path).exists() {
            std::fs::write(&path, "0").map_err(|source| CaptureFault::Switch {
                path: "net.*.conf.*.forwarding",
                source,
            })?;
        }
    }
    Ok(())
}

/// Whether messages of nf_tables may be about a table of ours, but for the sets of the short cut and
/// the elements of the lane, which the gateway changes itself.
fn is_of_our_tables(read: &[u8]) -> bool {
    /// `NFNL_SUBSYS_NFTABLES << 8` with the numbers of a new element and of one that is gone.
    const ELEMENTS: [u16; 2] = [0x0a0c, 0x0a0e];
    sys::messages(read).any(|(kind, message)| {
        let names = |name: &[u8]| message.windows(name.len()).any(|part| part == name);
        names(b"schengate\0")
            || names(b"schengate_guard\0")
            || (names(b"schengate_lane\0") && !ELEMENTS.contains(&kind))
    })
}

/// Whether messages of rtnetlink(7) are about routing rules, our routing table, or forwarding.
fn is_of_our_routing(read: &[u8]) -> bool {
    let table = ROUTE_TABLE.to_ne_bytes();
    sys::messages(read).any(|(kind, message)| match kind {
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => {
            message.windows(table.len()).any(|part| part == table)
        }
        _ => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message of netlink(7).
    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + body.len()).unwrap();
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(body);
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }

    #[test]
    fn routes_of_others_are_no_news_and_rules_are() {
        let theirs = message(libc::RTM_NEWROUTE, &254_u32.to_ne_bytes());
        let ours = message(libc::RTM_DELROUTE, &ROUTE_TABLE.to_ne_bytes());
        assert!(!is_of_our_routing(&theirs));
        assert!(is_of_our_routing(&[theirs.clone(), ours].concat()));
        assert!(is_of_our_routing(&[theirs, message(libc::RTM_DELRULE, &[0; 12])].concat()));
        let of_table =
            |kind, name: &[u8]| is_of_our_tables(&message(kind, &[b"\x08\0\x01\0", name].concat()));
        assert!(!of_table(0x0a06, b"schengate_shortcut\0"));
        assert!(of_table(0x0a06, b"schengate_guard\0"));
        assert!(of_table(0x0a06, b"schengate_lane\0"));
        assert!(!of_table(0x0a0c, b"schengate_lane\0"), "the gateway says that it lives");
    }

    #[test]
    fn a_message_that_is_cut_off_is_none() {
        let whole = message(libc::RTM_NEWRULE, &[7; 12]);
        for end in 0..whole.len() {
            assert_eq!(sys::messages(&whole[..end]).count(), 0, "{end}");
        }
        assert_eq!(sys::messages(&[whole.clone(), whole].concat()).count(), 2);
    }
}
