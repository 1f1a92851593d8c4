//! A file that is memory as well: what is stored there is the kernel's, whatever becomes of the
//! process.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// The words of a file, mapped shared (mmap(2)). A word that was stored survives the end of the
/// process, however it ends, without a system call.
#[derive(Debug)]
pub struct SharedWords {
    first: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the mapping belongs to no thread, and all that can be reached through it is atomic.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// Maps the first `count` words of a file, and has the file system set room for all of them
    /// aside, so that no later store can find the disk full.
    ///
    /// # Errors
    /// No room, or a file that cannot be mapped. A `count` of 0 is an error.
    pub fn map(file: &File, count: usize) -> io::Result<Self> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let bytes = count.checked_mul(size_of::<AtomicU64>()).ok_or_else(invalid)?;
        let length = libc::off_t::try_from(bytes).map_err(|_| invalid())?;
        // SAFETY: no pointer is passed, and the descriptor is open while `file` is borrowed.
        let fault = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, length) };
        if fault != 0 {
            return Err(io::Error::from_raw_os_error(fault));
        }
        // SAFETY: the kernel chooses a place where nothing is mapped; the length is that of the
        // file at least, which was just made so.
        let mapped = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let first = NonNull::new(mapped.cast()).ok_or_else(invalid)?;
        Ok(Self { first, count })
    }
}

impl Deref for SharedWords {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: `count` words from `first` are mapped, readable and writable, as long as `self`
        // lives; a mapping begins on a page, so that they are aligned; every value is a valid one,
        // and whoever else maps the file changes words that are atomic here.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        let bytes = self.count * size_of::<AtomicU64>();
        // SAFETY: this is the mapping that was made, whole, and nobody can reach it any more.
        unsafe {
            libc::munmap(self.first.as_ptr().cast(), bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn what_is_stored_is_in_the_file_and_the_file_is_as_long() {
        let file = tempfile::tempfile().unwrap();
        let one = SharedWords::map(&file, 1000).unwrap();
        let other = SharedWords::map(&file, 1000).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 8000);
        for (at, word) in one.iter().enumerate() {
            word.store(at as u64 * 7, Ordering::Relaxed);
        }
        drop(one);
        assert!(
            other
                .iter()
                .enumerate()
                .all(|(at, word)| { word.load(Ordering::Relaxed) == at as u64 * 7 })
        );
        assert!(SharedWords::map(&file, 0).is_err());
        assert!(SharedWords::map(&file, usize::MAX).is_err());
    }
}
