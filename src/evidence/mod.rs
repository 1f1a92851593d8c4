//! Evidence: a record that shows by itself whether it is whole.
//!
//! Records are the leaves of a Merkle tree that only grows ([`tree`]); what it holds is signed from
//! time to time ([`note`], [`checkpoint`]), so that whoever keeps one line of it elsewhere can tell
//! any record that was changed, taken out or put in before it. The forms are those of RFC 9162 and of
//! C2SP, which other programs read.
//!
//! ```text
//!  any thread ─ line ─▶ ring: a mapped file, which survives the process      (sink, ring)
//!                        │ one thread, in batches
//!                        ▼
//!                      segment: records, their hashes, checkpoints           (writer, segment)
//!                        │ after whatever end                 │ offline, with a public key
//!                        ▼                                    ▼
//!                      recover                              verify
//!                        ▼
//!                      register: what left, in sums, read off the segments  (register)
//! ```

mod added;
pub mod checkpoint;
mod clients;
mod happened;
mod leave;
pub mod note;
mod recover;
pub mod register;
mod ring;
mod segment;
mod settings;
mod sink;
pub mod tree;
mod verify;
mod writer;

pub use clients::{Client, KeyChange, Shown, Unrevealed, reveal};
pub use happened::{Events, Happened, Unreadable, happened};
pub use leave::{Unrecorded, record_beside};
pub use segment::{Entry, Segment, lines};
pub use settings::{Clients, Durability, OnFailure, Pseudonyms, Settings};
pub use sink::{Kind, OnDisk, Sink, SinkFault, Status, Unkept, public_path, write_key};
pub use verify::{Finding, Kind as FindingKind, Report, verify};
