//! Whether the gateway is ready, what it misses, and what it says of itself.

use std::sync::{Mutex, PoisonError};
use std::thread;

use tokio::sync::watch;

use crate::account::Account;

/// What [`Health`] calls the line of tables that are old; the page says it beside each table.
pub const OLD_TABLES: &str = "Tables older than 90 days";

/// What [`Health`] calls the line of how the record fares; the page says it first.
pub const RECORD: &str = "Record";

/// What the gateway says of itself. Ready when nothing is missing any more.
#[derive(Debug)]
pub struct Health {
    account: Account,
    said: Mutex<Said>,
    /// Whether the pages are closed, and who has closed them.
    pub(super) closing: watch::Sender<bool>,
    pub(super) closed: Mutex<Option<thread::JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Said {
    missing: Vec<Missing>,
    facts: Vec<(&'static str, String)>,
}

/// One thing that is needed and not there, and why where that is known.
#[derive(Debug, Clone)]
struct Missing {
    what: &'static str,
    why: Option<String>,
}

impl Missing {
    const fn of(what: &'static str) -> Self {
        Self { what, why: None }
    }

    fn text(&self) -> String {
        let why = self.why.as_ref().map(|why| format!(" ({why})"));
        format!("{}{}", self.what, why.unwrap_or_default())
    }
}

impl Health {
    /// Not ready until each of `missing` was met.
    #[must_use]
    pub fn new(account: Account, missing: &[&'static str]) -> Self {
        account.metrics().ready(missing.is_empty());
        let missing = missing.iter().copied().map(Missing::of).collect();
        let said = Said { missing, facts: Vec::new() };
        let closing = watch::Sender::new(false);
        Self { account, said: Mutex::new(said), closing, closed: Mutex::default() }
    }

    /// One thing that is needed is there.
    pub fn met(&self, what: &str) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.missing.retain(|missing| missing.what != what);
        self.account.metrics().ready(said.missing.is_empty());
    }

    /// One thing that is needed is not there (any more): the policy lapsed, the gateway is stopping.
    pub fn misses(&self, what: &'static str) {
        let why = self.why(what);
        self.lacks(Missing { what, why });
    }

    /// As [`Health::misses`], with the reason and what mends it, in words. A later reason replaces it.
    pub fn misses_since(&self, what: &'static str, why: String) {
        self.lacks(Missing { what, why: Some(why) });
    }

    /// The reason that was told before.
    fn why(&self, what: &str) -> Option<String> {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.missing.iter().find(|missing| missing.what == what)?.why.clone()
    }

    fn lacks(&self, missing: Missing) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        match said.missing.iter_mut().find(|known| known.what == missing.what) {
            Some(known) => *known = missing,
            None => said.missing.push(missing),
        }
        self.account.metrics().ready(false);
    }

    /// A line of the status page: `Policy`, `Data`, `Mode` ... A later one of the same term
    /// replaces it.
    pub fn fact(&self, term: &'static str, value: String) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        match said.facts.iter_mut().find(|(known, _)| *known == term) {
            Some((_, old)) => *old = value,
            None => said.facts.push((term, value)),
        }
    }

    /// Whether nothing is missing.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.missing().is_empty()
    }

    /// Closes the pages: on return their address is free for the next process.
    pub fn close(&self) {
        self.closing.send_replace(true);
        let thread = self.closed.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the admin pages ended in a panic");
        }
    }

    pub(super) fn missing(&self) -> Vec<String> {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.missing.iter().map(Missing::text).collect()
    }

    pub(super) fn facts(&self) -> Vec<(&'static str, String)> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).facts.clone()
    }
}
