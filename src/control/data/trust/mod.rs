//! Whether a table may take the place of the one before it.

pub(super) mod fingerprint;
pub(super) mod last_good;
pub(super) mod vet;
