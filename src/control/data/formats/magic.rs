//! What the forms of this program begin with.

/// The first bytes of a table in the compact form.
pub(in crate::control::data) const SGT_MAGIC: &[u8; 4] = b"SGT1";

/// The first bytes of a pack.
pub(in crate::control::data) const SGP_MAGIC: &[u8; 4] = b"SGP1";
