//! The policy file: read, resolved, every fault at once (docs/policy.md §2).
//!
//! `reader` walks the TOML document and keeps each fault with its place; `resolve` and `rules` turn
//! its tables into the types below, in which nothing unsound can be written; `lint` looks at the
//! result once more for what is sound and still not meant.

mod audit;
mod codes;
mod credential;
mod error;
mod fields;
mod file;
mod hosts;
pub mod keys;
mod known;
mod lint;
mod listen;
mod model;
mod net;
mod reader;
mod resolve;
mod rules;
mod services;
mod shadow;
mod share;
mod source_url;
mod time;
mod update;
mod zones;

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use toml::de::DeTable;

use self::error::Wrong;
pub use self::error::{Fault, Faults, Lint, LintKind, Position, UnknownRegion};
pub use self::model::{
    Admin, AdminTls, Capture, Config, Credential, CredentialAt, CredentialSent, DNS_TYPES,
    DatedMember, Defaults, Digest, From, Group, Members, Names, OperatorEntry, Place,
    PlaceLocation, Rule, Shortcut, Signature, Term, Until, Update, UpdateSource, Zone, ZoneList,
    Zones,
};
use self::reader::{Reader, Table};
pub use self::resolve::dns_defaults;
pub use self::source_url::SourceUrl;
pub(super) use self::source_url::{percent_encoded, unfit};
pub use self::zones::{built_in, is_built_in};
pub use super::data::{CountryField, Data, PackKey, Source};
pub use super::host_pattern::{HostPattern, host_name};
pub use super::spelling::nearest;
use crate::policy::Mode;
pub use crate::settings::{Dns, Lane, Listen, ListenMode, OnDeath, Resolver};

/// What holds where no file is given, written out.
pub const DEFAULT: &str = include_str!("../../../config/default.toml");

/// The longest policy file; lists that need more go into a `host_file`.
const FILE_MAX_BYTES: u64 = 4 << 20;

/// A policy that may be used, and what to say about it.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The policy.
    pub config: Config,
    /// The file as read, for its digest.
    pub text: String,
    /// What is sound and maybe not meant, in the order of the text.
    pub lints: Vec<Lint>,
    /// Regions that only a loaded provider table can still know. Where none does, the fault of each
    /// is a fault of the policy.
    pub unknown_regions: Vec<UnknownRegion>,
}

impl Loaded {
    /// Has it judge and record, and refuse nothing but guards, whatever its modes say.
    pub fn only_observe(&mut self) {
        self.config.policy.mode = Mode::Observe;
        self.config.groups.iter_mut().for_each(|group| group.mode = Mode::Observe);
    }
}

/// Reads a policy file, or what holds without one (`config/default.toml`).
///
/// # Errors
/// Every fault of the file and of the host files it names.
pub fn load(path: Option<&Path>) -> Result<Loaded, Faults> {
    open(path, false)
}

/// As [`load`], for an update: the files of services that it is to bring may be missing, and a rule
/// that names a service of such a file is left out.
///
/// # Errors
/// As [`load`].
pub fn load_to_fetch(path: Option<&Path>) -> Result<Loaded, Faults> {
    open(path, true)
}

fn open(path: Option<&Path>, fetching: bool) -> Result<Loaded, Faults> {
    let now = Timestamp::now();
    let Some(path) = path else {
        return read(DEFAULT, "the built-in policy".to_owned(), None, now, fetching);
    };
    let named = path.display().to_string();
    let fault = |wrong| Faults(vec![Fault::whole(&named, wrong)]);
    let bytes = file::read(path, FILE_MAX_BYTES).map_err(|Wrong { what, help }| {
        // The fault names the file already.
        let what = what.strip_prefix(&format!("{named} ")).unwrap_or(&what);
        fault(Wrong::new(what, help))
    })?;
    let text = String::from_utf8(bytes).map_err(|bad| {
        let sound = bad.as_bytes().get(..bad.utf8_error().valid_up_to()).unwrap_or_default();
        let sound = String::from_utf8_lossy(sound);
        let position = Reader::new(&sound, String::new(), PathBuf::new()).position(sound.len());
        let wrong = Wrong::new("the file is not UTF-8 from here on", "save the file as UTF-8");
        Faults(vec![Fault { position: Some(position), ..Fault::whole(&named, wrong) }])
    })?;
    read(&text, named, Some(path), now, fetching)
}

/// Reads the text of a policy file. `path` names it in faults, and what it names is relative to
/// `path`'s directory; without a path, to the current one.
///
/// # Errors
/// Every fault of the text and of the host files it names; one that is no TOML gives one fault.
pub fn parse(text: &str, path: Option<&Path>) -> Result<Loaded, Faults> {
    parse_at(text, path, Timestamp::now())
}

/// As [`parse`], with the lints of another instant (what has expired, what a zone holds).
///
/// # Errors
/// As [`parse`].
pub fn parse_at(text: &str, path: Option<&Path>, now: Timestamp) -> Result<Loaded, Faults> {
    let file = path.map_or_else(|| "<policy>".to_owned(), |path| path.display().to_string());
    read(text, file, path, now, false)
}

fn read(
    text: &str,
    file: String,
    path: Option<&Path>,
    now: Timestamp,
    fetching: bool,
) -> Result<Loaded, Faults> {
    let base = path.and_then(Path::parent).unwrap_or_else(|| Path::new("")).to_owned();
    let mut reader = Reader::new(text, file, base);
    reader.fetching = fetching;
    let document = match DeTable::parse(text) {
        Ok(document) => document,
        Err(error) => {
            let at = error.span().unwrap_or_default().start;
            let help = "mend the TOML here: texts and durations stand in quotes, dates do not \
                        (2026-12-31), and a table or key is written once";
            reader.fault_at(at, "", Wrong::new(error.message(), help));
            return Err(Faults(reader.faults));
        }
    };
    let root = Table { path: String::new(), span: 0..0, entries: document.get_ref() };
    let resolved = resolve::config(&mut reader, &root, path);
    match resolved {
        Some((config, marks, unknown_regions)) if reader.faults.is_empty() => {
            let lints = lint::all(&reader, &config, &marks, now);
            Ok(Loaded { config, text: text.to_owned(), lints, unknown_regions })
        }
        _ => Err(reader.into_faults()),
    }
}
