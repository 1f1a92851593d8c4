//! The nftables and policy-routing rules that bring connections to the listeners.
//!
//! Everything lives in one table of its own, `inet schengate`, and one routing table, so that
//! [`Capture::down`] takes back exactly what [`Capture::up`] set. The guard ([`GUARD`]) is a table
//! apart: `up` loads it first in the gateway form, and nothing here ever removes it, because an
//! nft `tproxy` statement that finds no listener lets the packet pass on to be forwarded.
//!
//! The guard is two fences, neither of which one command reaches together with the other: the table,
//! and routing rules that prohibit what would be forwarded (`routing`).
//!
//! The rules name protocols by `meta l4proto`, never by `ip6 nexthdr`: one extension header that a
//! client sets with one socket option makes the latter miss; and by number, so that `nft` needs no
//! `/etc/protocols`.

mod apply;
mod check;
mod delivery;
mod family;
mod fault;
mod finding;
mod keep;
mod lane;
mod matches;
mod model;
mod monitor;
mod own;
mod probe;
mod program;
mod routing;
mod rules;
mod servers;
mod set_sync;
mod shortcut;
mod state;

pub use self::apply::{GUARD, guard, open_guard};
pub use self::check::Fences;
pub use self::fault::CaptureFault;
pub use self::finding::{Check, Finding};
pub use self::keep::Keep;
pub use self::matches::{MARK, NEAR as PROBE_INTERFACE, ROUTE_TABLE, TABLE};
pub use self::model::{Capture, Form, USER, user_id};
pub use self::monitor::{CaptureMonitor, POLL_EVERY};
pub use self::program::Nft;
pub use self::servers::Servers;
pub use self::set_sync::{DesiredState, KernelSetSync, State, candidates};
pub use self::shortcut::{Counted, TABLE as SHORTCUT_TABLE, counted};
pub use self::state::{Listener as StateListener, STATE, Said, Seen, Word};

#[cfg(test)]
mod tests;
