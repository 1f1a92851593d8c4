//! How the record is kept (`[audit]`).

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::sink::SinkFault;

/// `[audit]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the log is.
    pub directory: PathBuf,
    /// The private key; one is made where there is none. Default: `signing.key` in the directory.
    pub key: PathBuf,
    /// The log's name in its checkpoints, for a key that is made. Default: the host's name.
    pub name: String,
    /// When a connection may go on.
    pub durability: Durability,
    /// How long the disk may take to have an `open` record, under [`Durability::Disk`]. Default 2 s.
    pub disk_limit: Duration,
    /// What becomes of connections while the record cannot be kept.
    pub on_failure: OnFailure,
    /// Time between two `update` records of a live connection. Default 5 min.
    pub interval: Duration,
    /// Time between two checkpoints, while records come. Default 1 min.
    pub checkpoint: Duration,
    /// Bytes of records at which a segment is sealed. Default 64 MiB.
    pub segment_bytes: u64,
    /// The age at which it is. Default 1 day.
    pub segment_age: Duration,
    /// How long sealed segments are kept; `None`: until somebody removes them.
    pub retain: Option<Duration>,
    /// Bytes of sealed segments above which the oldest are removed.
    pub retain_bytes: Option<u64>,
    /// Whether the transfer register is kept.
    pub register: bool,
    /// Rows with a name that it keeps of an hour. Default 1000.
    pub register_names: u64,
    /// How long hours stay in the register; `None`: until somebody removes them.
    pub register_retain: Option<Duration>,
    /// How clients stand in the record. Default: as they are.
    pub clients: Clients,
}

/// `clients`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Clients {
    /// Address and port.
    Plain,
    /// The network alone, of so many bits.
    Prefix {
        /// Of an IPv4 address.
        v4: u8,
        /// Of an IPv6 address.
        v6: u8,
    },
    /// A pseudonym, and beside it the address, sealed.
    Pseudonym(Pseudonyms),
}

/// The keys of pseudonyms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pseudonyms {
    /// How long a key is good for.
    pub period: Duration,
    /// Where the keys are, a file each.
    pub keys: PathBuf,
    /// How long a key is kept once its period is over; `None`: until somebody destroys it.
    pub retain: Option<Duration>,
}

/// `durability`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Its `open` record is with the kernel: nothing that becomes of the process loses it.
    Process,
    /// Its `open` record is on the disk: nothing that becomes of the machine loses it.
    Disk,
}

/// `on_failure`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// They are refused, for the reason `record`.
    Block,
    /// They go on, and what is lost is counted in the record.
    Pass,
}

impl Settings {
    /// Makes the folders that are not there: of the log, and of the keys of pseudonyms.
    ///
    /// # Errors
    /// One cannot be made.
    pub fn make_folders(&self) -> Result<(), SinkFault> {
        make_folder(&self.directory, LOG_MODE)?;
        self.keys().map_or(Ok(()), |keys| make_folder(keys, KEYS_MODE))
    }

    /// The folder with the keys of pseudonyms, where there are any.
    #[must_use]
    pub fn keys(&self) -> Option<&Path> {
        match &self.clients {
            Clients::Plain | Clients::Prefix { .. } => None,
            Clients::Pseudonym(pseudonyms) => Some(&pseudonyms.keys),
        }
    }

    /// What holds where nothing but the directory is given.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
        let name: String = name.chars().filter(is_plain).collect();
        Self {
            key: directory.join("signing.key"),
            directory,
            name: if name.is_empty() { "schengate".to_owned() } else { name },
            durability: Durability::Process,
            disk_limit: Duration::from_secs(2),
            on_failure: OnFailure::Block,
            interval: Duration::from_secs(5 * 60),
            checkpoint: Duration::from_secs(60),
            segment_bytes: 64 << 20,
            segment_age: DAY,
            retain: None,
            retain_bytes: None,
            register: true,
            register_names: 1000,
            register_retain: None,
            clients: Clients::Plain,
        }
    }
}

/// Permissions of the folder of the log, and of the one with the keys of pseudonyms.
pub(super) const LOG_MODE: u32 = 0o750;
pub(super) const KEYS_MODE: u32 = 0o700;

/// Makes a folder, and those above it, where it is not there.
pub(super) fn make_folder(path: &Path, mode: u32) -> Result<(), SinkFault> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    made.map_err(SinkFault::file(path, "cannot be made"))
}
