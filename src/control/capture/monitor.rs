//! Watches whether the capture rules still stand in the kernel, on a thread of its own, and has the
//! sets of the short cut kept in sync.

use std::collections::HashMap;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::{error, info, warn};

use super::check::Fences;
use super::finding::{Check, Finding};
use super::program::Nft;
use super::set_sync::{DesiredState, KernelSetSync, State};
use super::shortcut::{TABLE as SHORTCUT_TABLE, counted};
use crate::account::Account;
use crate::control::config::{Config, Lane, Listen, ListenMode, Shortcut};
use crate::sys;

/// Time between two polls: what is torn down is told of in less than ten seconds.
pub const POLL_EVERY: Duration = Duration::from_secs(5);

/// The thread that watches.
#[derive(Debug)]
pub struct CaptureMonitor {
    set_sync: Arc<KernelSetSync>,
    states: Sender<DesiredState>,
    hindered: Arc<Mutex<Option<String>>>,
}

impl CaptureMonitor {
    /// Begins to watch, and sees the rules by `nft`; `None` where no listener is captured for.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn start(config: &Config, account: Account, nft: Nft) -> io::Result<Option<Self>> {
        if config.listen.iter().all(|listen| listen.mode == ListenMode::Proxy) {
            return Ok(None);
        }
        let set_sync = Arc::new(KernelSetSync::new(nft.clone()));
        let (states, heard) = channel();
        let hindered = Arc::default();
        let watch = Watch {
            nft,
            set_sync: Arc::clone(&set_sync),
            hindered: Arc::clone(&hindered),
            account,
            listen: config.listen.clone(),
            setting: config.capture.shortcut,
            lane: config.lane.clone(),
            found: HashMap::new(),
            state: State::Off,
            counted: HashMap::new(),
        };
        let work = move || watch.run(&heard);
        thread::Builder::new().name("fence".into()).spawn(work)?;
        Ok(Some(Self { set_sync, states, hindered }))
    }

    /// What keeps packets from the listeners by the last look, with what mends it; `None` where nothing
    /// is seen to.
    #[must_use]
    pub fn hindered(&self) -> Option<String> {
        self.hindered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps the sets of the short cut in the kernel as the policy says.
    #[must_use]
    pub const fn set_sync(&self) -> &Arc<KernelSetSync> {
        &self.set_sync
    }

    /// The policy that is in force from now on; its sets are handed over soon, unless
    /// [`KernelSetSync::install`] already did.
    pub fn follow(&self, desired: DesiredState) {
        // The thread lasts as long as the process.
        if self.states.send(desired).is_err() {
            error!("the watch over the capture has ended");
        }
    }
}

struct Watch {
    nft: Nft,
    set_sync: Arc<KernelSetSync>,
    hindered: Arc<Mutex<Option<String>>>,
    account: Account,
    listen: Vec<Listen>,
    setting: Shortcut,
    lane: Option<Lane>,
    /// What was found at the last look.
    found: HashMap<Check, Finding>,
    state: State,
    /// Packets and bytes of each counter at the last look.
    counted: HashMap<String, (u64, u64)>,
}

impl Watch {
    fn run(mut self, states: &Receiver<DesiredState>) {
        loop {
            let state = match states.recv_timeout(POLL_EVERY) {
                Ok(desired) => {
                    self.setting = desired.setting();
                    self.set_sync.follow(desired)
                }
                Err(RecvTimeoutError::Timeout) => self.set_sync.poll(),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            match state {
                Ok(state) => self.stands(state),
                Err(fault) => error!(%fault, "the sets of the kernel short cut cannot be changed"),
            }
            if self.setting != Shortcut::Off {
                self.count();
            }
            self.poll();
        }
    }

    fn stands(&mut self, state: State) {
        if state == self.state {
            return;
        }
        let intervals = match &state {
            State::Off => 0,
            State::NoFrame => {
                info!("the kernel judges nothing: `schengate capture up` has set no short cut");
                0
            }
            State::Installed(intervals) => {
                info!(intervals, "the kernel judges by address");
                *intervals
            }
            State::Without(why) => {
                error!(%why, "the kernel judges nothing: every connection passes the gateway");
                0
            }
        };
        self.account.metrics().kernel_intervals(intervals);
        self.state = state;
    }

    /// Adds what the kernel counted since the last look.
    fn count(&mut self) {
        let Ok(counters) = sys::counters(SHORTCUT_TABLE) else { return };
        for counter in counters {
            let now = (counter.packets, counter.bytes);
            let before = self.counted.insert(counter.name.clone(), now).unwrap_or_default();
            // A table that was set anew counts from nothing.
            let grown = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
            let (packets, bytes) = (grown(now.0, before.0), grown(now.1, before.1));
            if let Some(what) = counted(&counter.name) {
                let labels = (what.action.label(), what.reason.label());
                self.account.metrics().kernel_counted(labels, what.place, packets, bytes);
            }
        }
    }

    fn poll(&mut self) {
        let Some(fences) = Fences::new(&self.listen, self.setting, self.lane.as_ref()) else {
            return;
        };
        let mut hindered = None;
        for (check, finding) in fences.look(&self.nft) {
            if let (Finding::Broken(how), true) = (&finding, Check::HINDERS.contains(&check)) {
                hindered.get_or_insert_with(|| how.clone());
            }
            let before = self.found.get(&check);
            if before == Some(&finding) {
                continue;
            }
            let check_name = check.label();
            match &finding {
                Finding::Intact => {
                    if matches!(before, Some(Finding::Broken(_))) {
                        info!(check = check_name, "the capture is whole again");
                    }
                    self.account.metrics().capture_intact(check_name, true);
                }
                Finding::Broken(how) => {
                    warn!(check = check_name, %how, "the capture is not whole");
                    self.account.metrics().capture_intact(check_name, false);
                }
                Finding::Unseen(why) => {
                    info!(check = check_name, %why, "this part of the capture is not seen from here");
                }
            }
            self.found.insert(check, finding);
        }
        *self.hindered.lock().unwrap_or_else(PoisonError::into_inner) = hindered;
    }
}
