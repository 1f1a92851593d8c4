//! Long work says how far it is, to whoever shows it.

use std::fs;
use std::path::Path;

/// A file from this size on takes long enough to be told of.
const LONG_BYTES: u64 = 1 << 20;

/// Hears of long work, one piece after the other.
pub trait Progress {
    /// A piece begins: `what` in words, and how many bytes it is, where they will be counted.
    fn begin(&self, what: &str, total: Option<u64>);
    /// So many bytes more are done.
    fn advance(&self, bytes: u64);
    /// The piece is over.
    fn end(&self);
}

/// Nobody listens.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
}

/// Reads a file, and tells of it where it is a long one.
pub fn reading<T>(progress: &dyn Progress, path: &Path, read: impl FnOnce() -> T) -> T {
    let length = fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|about| about.len());
    let Some(length) = length.filter(|&length| length >= LONG_BYTES) else { return read() };
    let name = path.to_string_lossy().escape_debug().to_string();
    progress.begin(&format!("reading {name}, {} MiB", length.div_ceil(1 << 20)), None);
    let value = read();
    progress.end();
    value
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[derive(Default)]
    struct Kept(RefCell<Vec<String>>);

    impl Progress for Kept {
        fn begin(&self, what: &str, _: Option<u64>) {
            self.0.borrow_mut().push(what.to_owned());
        }
        fn advance(&self, _: u64) {}
        fn end(&self) {
            self.0.borrow_mut().push("end".to_owned());
        }
    }

    #[test]
    fn only_a_long_file_is_told_of() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let kept = Kept::default();
        file.as_file().set_len(LONG_BYTES - 1).unwrap();
        assert_eq!(reading(&kept, file.path(), || 7), 7);
        assert!(kept.0.borrow().is_empty());
        file.as_file().set_len(LONG_BYTES + 1).unwrap();
        reading(&kept, file.path(), || ());
        reading(&kept, Path::new("/dev/zero"), || ());
        let told = kept.0.into_inner();
        assert!(told[0].ends_with(", 2 MiB") && told[1] == "end" && told.len() == 2, "{told:?}");
    }
}
