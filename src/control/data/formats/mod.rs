//! The forms in which tables come, each with the one reader that knows it: bytes in, rows or a fault
//! out.

pub(super) mod country;
pub mod file;
pub(super) mod mmdb;
pub mod provider;
pub mod ranges;
pub(super) mod services;
pub(super) mod sgp;
pub mod sgt;
pub(super) mod tar;
pub mod text;

use std::path::Path;

use super::model::{DataFault, Ranges};

/// The first bytes of a table in the compact form.
pub(super) const SGT_MAGIC: &[u8; 4] = b"SGT1";

/// The first bytes of a pack.
pub(super) const SGP_MAGIC: &[u8; 4] = b"SGP1";

/// A table that answers nothing is a mistake, not a table: what no row of it names.
#[derive(Debug, thiserror::Error)]
#[error("names no {0} in any row; is it another table?")]
struct Unanswering(String);

/// A table that answers nothing is a mistake, not a table.
pub(super) fn answering<V>(
    path: &Path,
    ranges: Ranges<V>,
    what: &str,
) -> Result<Ranges<V>, DataFault> {
    if ranges.is_empty() {
        return Err(DataFault::whole(path, Unanswering(what.to_owned())));
    }
    Ok(ranges)
}
