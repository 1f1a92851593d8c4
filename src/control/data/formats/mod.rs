//! The forms in which tables come, each with the one reader that knows it: bytes in, rows or a fault
//! out.

pub(super) mod country;
pub mod file;
pub(super) mod magic;
pub(super) mod mmdb;
pub mod provider;
pub mod ranges;
pub(super) mod services;
pub(super) mod sgp;
pub mod sgt;
pub(super) mod tar;
pub mod text;
