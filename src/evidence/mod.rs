//! Evidence: a record that shows by itself whether it is whole.
//!
//! Records are the leaves of a Merkle tree that only grows ([`tree`]); what it holds is signed from
//! time to time ([`note`], [`checkpoint`]), so that whoever keeps one line of it elsewhere can tell
//! any record that was changed, taken out or put in before it. The forms are those of RFC 9162 and of
//! C2SP, which other programs read.

pub mod checkpoint;
pub mod note;
pub mod tree;
