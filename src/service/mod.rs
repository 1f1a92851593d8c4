//! The service: the order of the start, supervision, the end. It wires the control plane to the data
//! plane, and may use every room.
//!
//! `step` decides what follows from what is heard, without input or output; `supervise` hears it and
//! does what was decided; `front` is the process that a service manager may watch in its place.

mod confine;
mod enclosed;
mod events;
mod flows;
mod front;
mod host;
mod keeper;
mod record;
mod settings;
mod start;
mod step;
mod supervise;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

pub use enclosed::EnclosedGateway;
pub use front::{Behind, FrontEnd, front};
pub use start::StartFault;
pub use supervise::Service;

pub use crate::egress::host_name_servers;

/// How long the last lines are waited for, where stderr takes them slowly.
pub const LAST_LINES: Duration = Duration::from_secs(2);

/// What an operator says beside the policy.
#[derive(Debug, Clone)]
pub struct Options {
    /// Policy file; `None`: the built-in policy.
    pub config: Option<PathBuf>,
    /// Worker threads; `None`: one for each core.
    pub workers: Option<NonZeroUsize>,
    /// Keep each worker on a processor of its own.
    pub affinity: bool,
    /// Time that live connections have to end.
    pub drain: Duration,
    /// Take up tables at the start even where they are older than those last in use.
    pub allow_older: bool,
}
