//! What tests of this crate share.

use std::path::PathBuf;

/// The folder of comparison material that lies beside the project (`SCHENGATE_SHARED`, else
/// `../shared`). A clone without it leaves the comparison out and says so; in CI
/// (`SCHENGATE_CI=1`) its absence is a failure.
pub(crate) fn shared(comparison: &str) -> Option<PathBuf> {
    let beside = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared"));
    let folder = std::env::var_os("SCHENGATE_SHARED").map_or_else(beside, PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    let why = format!("{comparison}: there is no {}", folder.display());
    assert!(std::env::var_os("SCHENGATE_CI").is_none(), "{why}");
    eprintln!("LEFT OUT: {why}");
    None
}
