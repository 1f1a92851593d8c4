//! Who writes to the files of a folder, as inotify(7) tells it.

use std::collections::{HashMap, HashSet};
use std::ffi::{CString, OsStr, c_int};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Length of an event without its name: watch, mask, cookie, length of the name, each 4 bytes.
const HEADER: usize = 16;

/// Room for several events with the longest names.
const ROOM: usize = 16 * 1024;

/// The files that somebody has written to and not yet closed, of those in the watched folders.
#[derive(Debug)]
pub struct Writers {
    fd: OwnedFd,
    folders: HashMap<c_int, PathBuf>,
    open: HashSet<PathBuf>,
}

impl Writers {
    /// Watches no folder yet.
    ///
    /// # Errors
    /// Whatever inotify_init1(2) says.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointer is passed.
        let fd = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just opened and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd, folders: HashMap::new(), open: HashSet::new() })
    }

    /// Watches the folder of a file from now on, where it is not watched.
    ///
    /// # Errors
    /// Whatever inotify_add_watch(2) says: the folder is not there or not ours to read, or there are
    /// too many watches.
    pub fn follow(&mut self, folder: &Path) -> io::Result<()> {
        if self.folders.values().any(|known| known == folder) {
            return Ok(());
        }
        let path = CString::new(folder.as_os_str().as_bytes())?;
        let mask = libc::IN_MODIFY
            | libc::IN_CLOSE_WRITE
            | libc::IN_MOVED_FROM
            | libc::IN_MOVED_TO
            | libc::IN_DELETE
            | libc::IN_ONLYDIR;
        // SAFETY: `path` ends with a zero byte and outlives the call.
        let watch = unsafe { libc::inotify_add_watch(self.fd.as_raw_fd(), path.as_ptr(), mask) };
        if watch < 0 {
            return Err(io::Error::last_os_error());
        }
        self.folders.insert(watch, folder.to_owned());
        Ok(())
    }

    /// Whether somebody has written to the file and not yet closed it, as far as was seen.
    #[must_use]
    pub fn is_open(&self, file: &Path) -> bool {
        self.open.contains(file)
    }

    /// Takes in what happened since the last time.
    pub fn poll(&mut self) {
        let mut room = [0; ROOM];
        loop {
            // SAFETY: `room` is valid for writes of its length.
            let read =
                unsafe { libc::read(self.fd.as_raw_fd(), room.as_mut_ptr().cast(), room.len()) };
            let events = usize::try_from(read).ok().and_then(|len| room.get(..len));
            let Some(events) = events.filter(|events| !events.is_empty()) else { return };
            self.take(events);
        }
    }

    fn take(&mut self, mut events: &[u8]) {
        while let Some((header, rest)) = events.split_first_chunk::<HEADER>() {
            let number = |at: usize| {
                let bytes = header.get(at..at + 4).and_then(|bytes| bytes.first_chunk());
                bytes.map_or(0, |bytes| u32::from_ne_bytes(*bytes))
            };
            let (watch, mask) = (number(0).cast_signed(), number(4));
            let (name, behind) = rest.split_at_checked(number(12) as usize).unwrap_or_default();
            events = behind;
            if mask & libc::IN_Q_OVERFLOW != 0 {
                self.open.clear(); // what is open is not known any more
            }
            if mask & libc::IN_IGNORED != 0 {
                self.folders.remove(&watch);
            }
            let Some(folder) = self.folders.get(&watch) else { continue };
            let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
            let file = folder.join(OsStr::from_bytes(name.get(..end).unwrap_or_default()));
            if mask & libc::IN_MODIFY != 0 {
                self.open.insert(file);
            } else {
                self.open.remove(&file);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_is_open_from_its_first_byte_until_it_is_closed_or_exchanged() {
        let dir = tempfile::tempdir().unwrap();
        let [file, other] = ["a", "b"].map(|name| dir.path().join(name));
        let mut writers = Writers::new().unwrap();
        writers.follow(dir.path()).unwrap();
        writers.follow(dir.path()).unwrap();
        let mut open = |path: &Path| {
            writers.poll();
            writers.is_open(path)
        };
        let mut writer = fs::File::create(&file).unwrap();
        assert!(!open(&file));
        writer.write_all(b"half").unwrap();
        assert!(open(&file) && !open(&other));
        writer.write_all(b"whole").unwrap();
        drop(writer);
        assert!(!open(&file));
        let mut writer = fs::File::create(&file).unwrap();
        assert!(open(&file), "it was emptied");
        fs::write(&other, "new").unwrap();
        fs::rename(&other, &file).unwrap();
        assert!(!open(&file), "another was put in its place");
        writer.write_all(b"to the one that is gone").unwrap();
        drop(writer);
        assert!(!open(&file));
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        assert!(Writers::new().unwrap().follow(Path::new("/nowhere/at/all")).is_err());
    }
}
