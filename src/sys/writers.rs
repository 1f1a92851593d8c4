//! Who writes to the files of a folder, as inotify(7) tells it.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};

/// Room for several events with the longest names.
const ROOM: usize = 16 * 1024;

/// The files that somebody has written to and not yet closed, of those in the watched folders.
#[derive(Debug)]
pub struct Writers {
    fd: OwnedFd,
    folders: HashMap<i32, PathBuf>,
    open: HashSet<PathBuf>,
}

impl Writers {
    /// Watches no folder yet.
    ///
    /// # Errors
    /// Whatever inotify_init1(2) says.
    pub fn new() -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
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
        let wanted = WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE
            | WatchFlags::ONLYDIR;
        let watch = inotify::add_watch(&self.fd, folder, wanted)?;
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
        let mut room = [MaybeUninit::uninit(); ROOM];
        let mut events = Reader::new(&self.fd, &mut room);
        while let Ok(event) = events.next() {
            let happened = event.events();
            if happened.contains(ReadFlags::QUEUE_OVERFLOW) {
                self.open.clear(); // what is open is not known any more
            }
            if happened.contains(ReadFlags::IGNORED) {
                self.folders.remove(&event.wd());
            }
            let Some(folder) = self.folders.get(&event.wd()) else { continue };
            let name = event.file_name().map(CStr::to_bytes).unwrap_or_default();
            let file = folder.join(OsStr::from_bytes(name));
            if happened.contains(ReadFlags::MODIFY) {
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
