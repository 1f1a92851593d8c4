//! Files of the configuration: regular ones, of a bounded size.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::error::Wrong;

/// All bytes of a regular file of at most `max_bytes`.
pub(super) fn read(path: &Path, max_bytes: u64) -> Result<Vec<u8>, Wrong> {
    let shown = path.display();
    let failed = |error: std::io::Error| {
        Wrong::new(format!("{shown} cannot be read: {error}"), "check the path and its permissions")
    };
    // Non-blocking, so that opening a FIFO without a writer does not hold up the whole program; on
    // a regular file the flag means nothing.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(Wrong::new(format!("{shown} is not a regular file"), "name a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > max_bytes) {
        return Err(Wrong::new(
            format!("{shown} is longer than {max_bytes} bytes"),
            "name the right file, or split it",
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_regular_file_of_a_bounded_size_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"12345").unwrap();
        assert_eq!(read(&path, 5), Ok(b"12345".to_vec()));
        assert!(read(&path, 4).unwrap_err().what.contains("longer than 4 bytes"));
        assert!(read(dir.path(), 5).unwrap_err().what.contains("not a regular file"));
        assert!(read(&dir.path().join("none"), 5).unwrap_err().what.contains("cannot be read"));
    }

    #[test]
    fn a_pipe_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        if !made.is_ok_and(|status| status.success()) {
            eprintln!("LEFT OUT: a_pipe_is_refused_and_not_waited_for: no mkfifo here");
            return;
        }
        assert!(read(&path, 5).unwrap_err().what.contains("not a regular file"));
    }
}
