//! What a running gateway does next, without input or output: the state machine of reloads, and what
//! follows from what the supervisor hears.
//!
//! ```text
//!             reload                 built, refused, lost
//!   idle ───────────────▶ building ──────────────────────▶ idle, or at once:
//!                           │  ▲ reload: kept, one at most    building, where a reload was kept
//!                           └──┘                              promoting, where tables are compact
//! ```
//! The supervisor gathers events and carries out actions in their order; a test needs neither a
//! policy nor a clock, since a built policy (`P`) and promoted tables (`T`) only pass through.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;

use crate::control::addresses::Heard;
use crate::control::capture::Word;
use crate::control::watch::Seen;

/// What the gateway needs to be ready, and may lose while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// This host's addresses are followed: without them the gateway does not know itself.
    OwnAddresses,
    /// The capture, where it is probed, refuses the probes.
    Probe,
}

/// Who asked for a reload; a later one outranks those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Asked {
    /// Nobody: a file behind the policy changed.
    Watch,
    /// The operator, by SIGHUP.
    Signal,
}

/// What a thread is begun for; one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// The next policy.
    Policy,
    /// The tables in use, in their final form.
    Promotion,
}

/// Why there is no next policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NotBuilt {
    /// What is told of it.
    pub(super) said: String,
    pub(super) cause: Cause,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Policy,
    /// A table is at fault, and not the file.
    Data,
    /// Nobody asked for it, and it lacks much of what is refused now.
    Loss,
    /// Nobody asked for it, and a file changed while it was read.
    Unfinished,
}

/// A policy that was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate<P> {
    pub(super) policy: P,
    /// Whether its tables stand in a smaller and slower form until they are promoted.
    pub(super) is_compact: bool,
}

/// A table in use, and the date of what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dated {
    pub(super) table: String,
    pub(super) as_of: Timestamp,
    /// How old it may be.
    pub(super) max_age: Option<Duration>,
}

/// What happens to a running gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event<P, T> {
    /// SIGHUP.
    Reload,
    /// What a look at the files behind the policy found.
    Files(Seen),
    /// The thread that built the policy has ended.
    Built(Result<Candidate<P>, NotBuilt>),
    /// The thread that promoted the tables has ended.
    Promoted(T),
    /// A thread ended before it was done.
    Lost,
    /// No thread could be begun for it, and why.
    NotBegun(Work, String),
    /// This host's addresses, or that they are not followed.
    Addresses(Heard),
    /// What the keeper of the capture says; only where one is kept.
    Capture(Word),
    /// The ages of the tables are due; those without a date have none.
    Ages { now: Timestamp, tables: Vec<Dated> },
    /// A date in the policy has passed: its successor is in force.
    Advanced,
}

/// What the supervisor is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action<P, T> {
    /// Write an ordinary message.
    Note(&'static str),
    /// Tell the service manager that a reload begins; [`Action::TellReady`] ends it.
    TellReloading,
    /// Tell the service manager that the gateway takes connections, and by which policy.
    TellReady,
    /// Tell the service manager the line of its state.
    TellStatus,
    /// Begin to build the next policy on a thread of its own.
    Build(Asked),
    /// Begin to promote the tables on a thread of its own.
    Promote,
    /// Put this policy in force.
    Install(P),
    /// Put the policy in force over promoted tables.
    InstallPromoted(T),
    /// Say why the policy in force stays.
    Refuse(NotBuilt),
    /// Say that the tables stay in their slower form, and why.
    PromotionPutOff(String),
    /// Have the policy in force know these addresses as this host's own; where they are others than
    /// before, judge anew.
    Readdress(Vec<IpAddr>),
    /// Say that this host's addresses are not followed, and why.
    AddressesUnknown(String),
    /// Tell the outside what is in force.
    Publish,
    /// Judge live connections anew.
    Rejudge,
    /// This need is met.
    Met(Need),
    /// The gateway is not ready for the want of this.
    Misses(Need),
    /// Say what is wrong with the capture.
    CaptureFails(String),
    /// Say how the capture stands.
    CaptureStands(String),
    /// Show how the capture stands on the status page.
    CaptureFact(String),
    /// Count the age of a table, and whether it is older than it may be.
    Age { table: String, age: Duration, is_stale: bool },
    /// Say that a table grew older than it may be.
    GrownStale { table: String, age: Duration, max_age: Duration },
}

/// What the supervisor has to remember from one event to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    /// Whether a thread is at work.
    is_building: bool,
    /// What asked for a reload while a thread was at work.
    again: Option<Asked>,
    /// Whether the tables in use wait to be promoted.
    is_compact: bool,
    /// This host's addresses as they were last heard.
    local: Option<Vec<IpAddr>>,
    /// What the keeper of the capture last said.
    capture: Word,
    /// Tables that are known to be older than they may be.
    stale: BTreeSet<String>,
}

impl State {
    /// A gateway that has just started.
    pub(super) const fn started() -> Self {
        Self {
            is_building: false,
            again: None,
            is_compact: false,
            local: None,
            capture: Word::Nobody,
            stale: BTreeSet::new(),
        }
    }
}

/// What follows from `event`: the next state, and what is to be done, in this order.
pub(super) fn step<P, T>(mut state: State, event: Event<P, T>) -> (State, Vec<Action<P, T>>) {
    let mut actions = Vec::new();
    match event {
        Event::Reload => reload(&mut state, Asked::Signal, &mut actions),
        Event::Files(Seen::Nothing) => {}
        Event::Files(Seen::Changing) => {
            let said = "a file behind the policy changes: taken up once it is whole";
            actions.push(Action::Note(said));
        }
        Event::Files(Seen::Changed) => {
            actions.push(Action::Note("a file behind the policy changed"));
            reload(&mut state, Asked::Watch, &mut actions);
        }
        Event::Built(built) => {
            match built {
                Ok(Candidate { policy, is_compact }) => {
                    state.is_compact = is_compact;
                    actions.push(Action::Install(policy));
                }
                Err(why) => actions.push(Action::Refuse(why)),
            }
            actions.push(Action::TellReady);
            ended(&mut state, Promotion::Begins, &mut actions);
        }
        Event::Promoted(tables) => {
            state.is_compact = false;
            actions.push(Action::InstallPromoted(tables));
            ended(&mut state, Promotion::Begins, &mut actions);
        }
        Event::Lost => {
            let said = "the thread that built the policy ended before it was done";
            refuse(said.to_owned(), &mut actions);
            // What a thread died of, the next one may die of as well.
            ended(&mut state, Promotion::Waits, &mut actions);
        }
        Event::NotBegun(Work::Policy, fault) => {
            state.is_building = false;
            refuse(format!("no thread to build the policy: {fault}"), &mut actions);
        }
        Event::NotBegun(Work::Promotion, fault) => {
            state.is_building = false;
            actions.push(Action::PromotionPutOff(fault));
        }
        Event::Addresses(heard) => addresses(&mut state, heard, &mut actions),
        Event::Capture(word) => capture(&mut state, word, &mut actions),
        Event::Ages { now, tables } => ages(&mut state, now, tables, &mut actions),
        Event::Advanced => {
            let said = "a date in the policy has passed: judged anew";
            actions.extend([Action::Publish, Action::Rejudge, Action::Note(said)]);
        }
    }
    (state, actions)
}

/// Begins to build the next policy, or keeps in mind that it was asked for: one thread at a time.
fn reload<P, T>(state: &mut State, asked: Asked, actions: &mut Vec<Action<P, T>>) {
    if state.is_building {
        state.again = state.again.max(Some(asked));
        return;
    }
    state.is_building = true;
    actions.extend([Action::TellReloading, Action::Build(asked)]);
}

/// Whether tables in their slower form are promoted now, or after the next reload.
enum Promotion {
    Begins,
    Waits,
}

/// A thread has ended: the next one begins where there is work.
fn ended<P, T>(state: &mut State, promotion: Promotion, actions: &mut Vec<Action<P, T>>) {
    state.is_building = false;
    // What was built knows the addresses of when it was begun.
    actions.extend(state.local.clone().map(Action::Readdress));
    match (state.again.take(), promotion) {
        (Some(asked), _) => reload(state, asked, actions),
        (None, Promotion::Begins) if state.is_compact => {
            state.is_building = true;
            actions.push(Action::Promote);
        }
        (None, Promotion::Begins | Promotion::Waits) => {}
    }
}

fn refuse<P, T>(said: String, actions: &mut Vec<Action<P, T>>) {
    let why = NotBuilt { said, cause: Cause::Policy };
    actions.extend([Action::Refuse(why), Action::TellReady]);
}

/// Takes up this host's addresses, or says that they are not known any more: what it would get is
/// then not known for the gateway itself, and it is not ready.
fn addresses<P, T>(state: &mut State, heard: Heard, actions: &mut Vec<Action<P, T>>) {
    match heard.fault {
        Some(fault) => {
            actions.extend([Action::AddressesUnknown(fault), Action::Misses(Need::OwnAddresses)])
        }
        None => actions.push(Action::Met(Need::OwnAddresses)),
    }
    if let Some(list) = heard.addresses {
        state.local = Some(list.clone());
        actions.push(Action::Readdress(list));
    }
}

/// Hears what the keeper of the capture says: the gateway is ready as far as its probes are. The same
/// is told once.
fn capture<P, T>(state: &mut State, word: Word, actions: &mut Vec<Action<P, T>>) {
    let tells = |word: &Word| match word {
        Word::Says(said) => (said.wrong(), said.probe.is_empty()),
        Word::Hindered(how) => (Some(how.clone()), true),
        Word::Nobody | Word::Silent => (None, true),
    };
    let same = std::mem::discriminant(&word) == std::mem::discriminant(&state.capture)
        && tells(&word) == tells(&state.capture);
    state.capture = word;
    if same {
        return;
    }
    let (wrong, stands) = match &state.capture {
        Word::Nobody => (None, "not probed: `schengate capture keep` does not run".to_owned()),
        Word::Hindered(how) => (Some(how.clone()), how.clone()),
        Word::Silent => {
            let gone = "the keeper of the capture is gone, or hangs".to_owned();
            (Some(gone.clone()), gone)
        }
        Word::Says(said) => match said.wrong() {
            Some(wrong) => (Some(wrong.clone()), wrong),
            None if said.probe.is_empty() => (None, format!("kept, not probed: {}", said.unprobed)),
            None => (None, "probed, and holds".to_owned()),
        },
    };
    match wrong {
        Some(wrong) => actions.extend([Action::CaptureFails(wrong), Action::Misses(Need::Probe)]),
        None => {
            actions.extend([Action::CaptureStands(stands.clone()), Action::Met(Need::Probe)]);
        }
    }
    actions.extend([Action::CaptureFact(stands), Action::TellStatus]);
}

/// Ages of the tables; one that grew older than it may be is told of once.
fn ages<P, T>(
    state: &mut State,
    now: Timestamp,
    tables: Vec<Dated>,
    actions: &mut Vec<Action<P, T>>,
) {
    let mut stale = BTreeSet::new();
    for Dated { table, as_of, max_age } in tables {
        // A date to come is no age.
        let Ok(age) = Duration::try_from(now.duration_since(as_of)) else { continue };
        let limit = max_age.filter(|&max_age| age > max_age);
        actions.push(Action::Age { table: table.clone(), age, is_stale: limit.is_some() });
        let Some(max_age) = limit else { continue };
        if !state.stale.contains(&table) {
            actions.push(Action::GrownStale { table: table.clone(), age, max_age });
        }
        stale.insert(table);
    }
    state.stale = stale;
}

/// What is done at the end, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Refuse to be ready: the gateway is stopping.
    Unready,
    /// Tell the service manager that the gateway is stopping.
    TellStopping,
    /// Free every listener; connections live on.
    LetGo,
    /// Empty the kernel's sets: it judges nothing any more.
    StopShortcut,
    /// Free the address of the admin pages.
    CloseAdmin,
    /// Tell the process in front that all is free for the next gateway.
    TellFront,
    /// Let connections end within the time they have.
    Drain,
    /// Write the last records.
    Flush,
}

/// The end of a gateway, in this order. Where another process is watched in its place (`has_front`),
/// the next gateway waits for what this one frees, so that comes first; the kernel's sets are the
/// next one's once the front is told.
pub(super) const fn endings(has_front: bool) -> &'static [Ending] {
    use Ending::{CloseAdmin, Drain, Flush, LetGo, StopShortcut, TellFront, TellStopping, Unready};
    if has_front {
        &[Unready, LetGo, StopShortcut, CloseAdmin, TellFront, Drain, Flush]
    } else {
        &[Unready, TellStopping, Drain, StopShortcut, Flush]
    }
}

#[cfg(test)]
mod tests;
