//! What a look finds, and what the host is held against.

use std::path::Path;

use crate::control::config::{Config, ListenMode};
use crate::control::data::SourceInfo;

/// What one look at one thing found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// What was looked at: a short name that stays.
    pub check: &'static str,
    /// How it is.
    pub state: State,
}

/// How something is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// As it should be.
    Good,
    /// Not so.
    Bad {
        /// What it is, and what that means.
        what: String,
        /// The command, or the words for a file, that mend it.
        mend: String,
    },
    /// It cannot be seen from here, and why.
    Unseen(String),
}

impl State {
    pub(super) fn bad(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::Bad { what: what.into(), mend: mend.into() }
    }
}

/// What the host is to be held against.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The policy; [`None`] where it cannot be read, which is a finding of its caller's.
    pub config: Option<&'a Config>,
    /// The tables that it judges by.
    pub tables: &'a [SourceInfo],
    /// Where the keeper of the capture says what it found.
    pub keeper: &'a Path,
}

impl Expected<'_> {
    /// Whether connections are captured for a listener.
    pub(super) fn is_captured(self) -> bool {
        let listeners = self.config.map_or(&[][..], |config| &config.listen);
        listeners.iter().any(|listen| listen.mode != ListenMode::Proxy)
    }

    pub(super) fn has_tproxy(self) -> bool {
        let listeners = self.config.map_or(&[][..], |config| &config.listen);
        listeners.iter().any(|listen| listen.mode == ListenMode::Tproxy)
    }
}
