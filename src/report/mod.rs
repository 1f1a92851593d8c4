//! What people read of the record. Pure: rows and records in, texts out.
//!
//! ```text
//!  register: hourly rows ─▶ model: sums, each with its rows ─┐
//!  record: starts, tables, gaps ─▶ history ──────────────────┤
//!  policy: waivers; the record verified and compared ────────┴▶ Report ─▶ page (HTML) | tables (CSV, JSON)
//! ```

mod charts;
pub mod distance;
pub mod figures;
pub mod history;
pub mod model;
pub mod ocsf;
mod page;
mod style;
pub mod tables;
pub mod text;
pub mod texts;
pub mod world;

use crate::evidence;
use crate::evidence::Unreadable;
use crate::evidence::register::Reconciled;
use history::History;
use model::{Model, Preset, Totals};
pub use page::html;

/// Everything that a report says.
#[derive(Debug)]
pub struct Report {
    /// Which.
    pub preset: Preset,
    /// Of this group alone.
    pub group: Option<String>,
    /// Hours that begin in it; seconds since 1970.
    pub span: (i64, i64),
    /// When it was made, milliseconds since 1970.
    pub made: i64,
    /// The sums.
    pub model: Model,
    /// What the register answered when it was asked for the whole at once; `None` where the report
    /// leaves rows out, so that it has to say something else.
    pub asked: Option<Totals>,
    /// The record itself.
    pub record: Record,
    /// What the record says of the gateway.
    pub history: History,
    /// Waivers of the policy file; `None` where it was not read.
    pub waivers: Option<Vec<Waiver>>,
}

/// What is known of the record.
#[derive(Debug, Default)]
pub struct Record {
    /// The last signed checkpoint.
    pub head: Option<Head>,
    /// Every record held against what was signed; `None`: not done.
    pub verified: Option<evidence::Report>,
    /// The register held against the record; `None`: not done.
    pub reconciled: Option<Reconciled>,
    /// Records that were removed before the register had read them, and lines that are no records.
    pub missing: u64,
    /// Segments that cannot be read.
    pub unreadable: Vec<Unreadable>,
}

impl Record {
    /// Whether records are known to be gone, or not to be readable.
    #[must_use]
    pub fn lacks(&self) -> bool {
        !self.unreadable.is_empty()
            || self.verified.as_ref().is_some_and(evidence::Report::lacks_records)
    }

    /// Whether the register was held against the record, and differs.
    #[must_use]
    pub fn differs(&self) -> bool {
        self.reconciled.as_ref().is_some_and(|told| !told.agrees())
    }
}

/// A checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The name of the log.
    pub log: String,
    /// Records under it.
    pub size: u64,
    /// The root of their tree, in hexadecimal digits.
    pub root: String,
    /// When it was signed, as the gateway's clock had it.
    pub time: String,
    /// Whether the signature holds; `None`: no key was at hand.
    pub is_signed: Option<bool>,
}

/// A waiver, as the policy file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiver {
    /// Its name.
    pub rule: String,
    /// Who answers for it.
    pub owner: String,
    /// Why.
    pub reason: String,
    /// The ground.
    pub basis: String,
    /// First second in which it holds.
    pub since: Option<i64>,
    /// First second in which it holds no longer.
    pub until: i64,
}

impl Report {
    /// What is said of the segments that cannot be read. What is to be published says nothing of the
    /// host that it was made on.
    fn unreadable(&self) -> impl Iterator<Item = &str> {
        let is_public = self.preset == Preset::Transfers;
        let segments = self.record.unreadable.iter();
        segments.map(move |one| if is_public { one.name.as_str() } else { one.told.as_str() })
    }

    /// Whether nothing speaks against the record and the sums: what was looked at holds and agrees.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let holds = self.record.verified.as_ref().is_none_or(evidence::Report::holds);
        let agrees = !self.record.differs() && self.record.unreadable.is_empty();
        let is_signed = self.record.head.as_ref().is_none_or(|head| head.is_signed != Some(false));
        holds && agrees && is_signed && self.asked.is_none_or(|asked| asked == self.model.total)
    }
}
