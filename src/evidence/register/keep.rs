//! The thread that keeps the register of a log which is being written.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::json;

use super::Register;
use crate::evidence::sink::Shared;
use crate::evidence::writer::HOLD;
use crate::sys::yield_to_others;

/// Time between two looks at what was written.
const EVERY: Duration = Duration::from_secs(5);

/// How long the end of the process waits for what is not read yet.
const ENDING: Duration = Duration::from_secs(2);

/// Reads the record behind the one who writes it.
pub(in crate::evidence) struct Keeper {
    stop: Arc<Stop>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Stop {
    is_asked: Mutex<bool>,
    bell: Condvar,
}

impl Keeper {
    /// Begins; `None` where there is no thread for it.
    pub(in crate::evidence) fn start(shared: &Arc<Shared>) -> Option<Self> {
        let stop = Arc::new(Stop::default());
        let (shared, asked) = (Arc::clone(shared), Arc::clone(&stop));
        let run = move || run(&shared, &asked);
        let thread = thread::Builder::new().name("register".to_owned()).spawn(run).ok()?;
        Some(Self { stop, thread })
    }

    /// Reads what there is, for a moment at the most, and ends.
    pub(in crate::evidence) fn end(self) {
        *self.stop.is_asked.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.bell.notify_one();
        drop(self.thread.join());
    }
}

fn run(shared: &Shared, stop: &Stop) {
    // Where that is forbidden, nothing else changes.
    yield_to_others().ok();
    let mut register = None;
    let mut missing = 0;
    let mut said = None;
    let mut expired = None;
    loop {
        let asked = stop.is_asked.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = stop.bell.wait_timeout_while(asked, EVERY, |is_asked| !*is_asked);
        let is_last = *waited.unwrap_or_else(PoisonError::into_inner).0;
        let round = round(shared, &mut register, &mut missing, is_last);
        let fault = round.and_then(|()| expire(shared, register.as_mut(), &mut expired)).err();
        if fault.is_some() {
            // What it holds in memory is not what the database has.
            register = None;
        }
        if fault != said {
            match &fault {
                Some(fault) => tracing::warn!(%fault, "the transfer register is not written"),
                None => tracing::info!("the transfer register is written again"),
            }
            said = fault;
        }
        if is_last {
            return;
        }
    }
}

/// Reads what was written since the last round.
fn round(
    shared: &Shared,
    kept: &mut Option<Register>,
    missing: &mut u64,
    is_last: bool,
) -> Result<(), String> {
    let begun = Instant::now();
    let directory = &shared.settings.directory;
    let limit = shared.numbers.records.load(Ordering::Relaxed);
    let register = match kept {
        Some(register) => register,
        None => {
            let most = usize::try_from(shared.settings.register_names).unwrap_or(usize::MAX);
            let (register, why) =
                Register::open(directory, most).map_err(|fault| fault.to_string())?;
            if let Some(why) = why {
                note(shared, &why);
            }
            *missing = register.progress().missing;
            kept.insert(register)
        }
    };
    while register.feed(directory, limit).map_err(|fault| fault.to_string())? {
        let progress = register.progress();
        shared.numbers.registered.store(progress.next, Ordering::Relaxed);
        if progress.missing > *missing {
            note(
                shared,
                &format!("{} records were gone before they were read", progress.missing - *missing),
            );
            *missing = progress.missing;
        }
        if is_last && begun.elapsed() > ENDING {
            // The next start goes on from here.
            break;
        }
    }
    shared.numbers.registered.store(register.progress().next, Ordering::Relaxed);
    Ok(())
}

/// Removes what is kept no longer, once an hour.
fn expire(
    shared: &Shared,
    register: Option<&mut Register>,
    done: &mut Option<Instant>,
) -> Result<(), String> {
    const HOURLY: Duration = Duration::from_secs(60 * 60);
    let Some((retain, register)) = shared.settings.register_retain.zip(register) else {
        return Ok(());
    };
    let is_held = shared.settings.directory.join(HOLD).exists();
    if is_held || done.is_some_and(|at| at.elapsed() < HOURLY) {
        return Ok(());
    }
    let retain = i64::try_from(retain.as_secs()).unwrap_or(i64::MAX);
    let before = Timestamp::now().as_second().saturating_sub(retain);
    let gone = register.expire(before).map_err(|fault| fault.to_string())?;
    if gone > 0 {
        tracing::info!(rows = gone, "hours are removed from the transfer register by their age");
    }
    *done = Some(Instant::now());
    Ok(())
}

/// Says in the log, and in the record, what became of the register.
fn note(shared: &Shared, cause: &str) {
    tracing::warn!(%cause, "the transfer register");
    let time = format!("{:.3}", Timestamp::now());
    let line = json!({ "event": "register", "time": time, "cause": cause }).to_string();
    if shared.ring.put(0, |buffer| buffer.extend_from_slice(line.as_bytes())).is_err() {
        shared.ring.lose(1);
    }
}
