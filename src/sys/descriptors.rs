//! How many descriptors the process may have, and the last of them, which are kept.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Lets the process have as many descriptors as it may: the soft limit becomes the hard one
/// (getrlimit(2)). A held connection takes two. The number that it may have.
///
/// # Errors
/// Whatever setrlimit(2) says.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    }
    let limit = maximum.unwrap_or(u64::MAX);
    DESCRIPTORS.store(limit, Ordering::Relaxed);
    Ok(limit)
}

/// How many files the process may have open.
#[must_use]
pub fn descriptor_limit() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

/// Descriptors that [`raise_descriptor_limit`] found the process may have; 0 before.
static DESCRIPTORS: AtomicU64 = AtomicU64::new(0);

/// Descriptors, the last ones, that are kept for other things than connections: the admin pages, the
/// record, a reload.
const RESERVED: u64 = 32;

/// Connections that the descriptors of the process are enough for, of two each, beside those that
/// are kept for other things; as many as there can be before [`raise_descriptor_limit`].
#[must_use]
pub fn connections_max() -> usize {
    let limit = DESCRIPTORS.load(Ordering::Relaxed);
    if limit <= 2 * RESERVED {
        return usize::MAX;
    }
    usize::try_from((limit - RESERVED) / 2).unwrap_or(usize::MAX)
}

/// Whether a socket or pipe has one of the last descriptors, or `more` that it needs would. The
/// kernel gives the lowest one that is free (open(2)), so that its number says how many are taken.
#[must_use]
pub fn is_reserved(descriptor: BorrowedFd<'_>, more: u64) -> bool {
    let limit = DESCRIPTORS.load(Ordering::Relaxed);
    let number = u64::try_from(descriptor.as_raw_fd()).unwrap_or_default();
    limit > 2 * RESERVED && number + more >= limit - RESERVED
}

/// The socket, where its descriptor is none of the last ones.
///
/// # Errors
/// As where there are no descriptors left (EMFILE); the socket is closed.
pub fn unreserved<S: AsFd>(socket: S) -> io::Result<S> {
    if is_reserved(socket.as_fd(), 0) {
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_may_have_as_many_descriptors_as_are_allowed() {
        let limit = raise_descriptor_limit().unwrap();
        let text = std::fs::read_to_string("/proc/self/limits").unwrap();
        let line = text.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(words[3..5], [limit.to_string(), limit.to_string()], "{line}");
    }
}
