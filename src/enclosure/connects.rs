//! Answers the calls of connect(2) of the command, each of which is held: a socket with a name in the file
//! system is reached where a process inside made it, or where it was to stay within reach, and nowhere
//! else. So it does not matter by which name a socket of the host is called, when it was made, or in which
//! namespace.
//!
//! What is answered is done here, on the command's own socket, so that no other argument takes the place
//! of the one that was looked at.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::net::AddressFamily;
use rustix::net::sockopt::{socket_acceptconn, socket_domain};

use super::mounts::Kept;
use crate::sys::{self, Descriptors, HeldConnect, HeldConnects};

/// Where `sun_path` begins and ends in an address (unix(7)).
const PATH_FROM: usize = size_of::<libc::sa_family_t>();
const PATH_TO: usize = size_of::<libc::sockaddr_un>();

/// Answers for as long as there is somebody who calls.
pub(super) fn answer(held: &HeldConnects, kept: &Kept) {
    // Where none can be taken any more, none is answered, and none is let pass.
    while let Ok(call) = held.next() {
        settle(call, kept);
    }
}

fn settle(call: HeldConnect, kept: &Kept) {
    let wanted = call.address().and_then(|address| Ok((call.socket()?, address)));
    let wanted = wanted.and_then(|(socket, address)| {
        let (address, file) = resolved(&call, &socket, address, kept)?;
        Ok((sys::waits(socket.as_fd())?, socket, address, file))
    });
    match wanted {
        Err(fault) => call.answer(&Err(fault)),
        Ok((false, socket, address, _file)) => {
            call.answer(&sys::connect_held(socket.as_fd(), &address));
        }
        // It waits for as long as its caller does: others do not wait for that.
        Ok((true, socket, address, file)) => {
            let connect = move || {
                let _file = file;
                call.answer(&sys::connect_held(socket.as_fd(), &address));
            };
            // Without a thread there is no room for one more, and its caller hears so.
            drop(thread::Builder::new().stack_size(64 << 10).spawn(connect));
        }
    }
}

/// The address to connect to, with the file that it names where it is of one: that one is held open, and the
/// address leads to it and to nothing else.
///
/// # Errors
/// It is of a socket that is not within reach (ECONNREFUSED), or of none.
fn resolved(
    call: &HeldConnect,
    socket: &OwnedFd,
    address: Vec<u8>,
    kept: &Kept,
) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let Some(path) = named(&address).filter(|_| is_unix(socket)) else {
        return Ok((address, None));
    };
    if address.len() > PATH_TO {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let file = opened(call.thread(), path)?;
    if !kept.holds(&file)? && !is_of_the_inside(&file)? {
        return Err(io::Error::from_raw_os_error(libc::ECONNREFUSED));
    }
    let mut own =
        libc::sa_family_t::try_from(libc::AF_UNIX).unwrap_or_default().to_ne_bytes().to_vec();
    own.extend(format!("/proc/self/fd/{}\0", file.as_raw_fd()).into_bytes());
    Ok((own, Some(file)))
}

/// Whether the socket is one to which names of the file system mean something; one of which it cannot be
/// told counts as one.
fn is_unix(socket: &OwnedFd) -> bool {
    !socket_domain(socket).is_ok_and(|domain| domain != AddressFamily::UNIX)
}

/// The name in the file system of which an address is, where it is of one.
fn named(address: &[u8]) -> Option<&Path> {
    let path = address.get(PATH_FROM..)?.split(|&byte| byte == 0).next()?;
    (!path.is_empty()).then(|| Path::new(OsStr::from_bytes(path)))
}

/// What a thread calls by this name, opened for nothing but to look at.
fn opened(thread: i32, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let directory = |name: &str| {
        openat(CWD, format!("/proc/{thread}/{name}"), flags | OFlags::DIRECTORY, Mode::empty())
    };
    let mounts = |of: &str| fs::read_link(format!("/proc/{of}/ns/mnt"));
    let base = directory(if path.is_absolute() { "root" } else { "cwd" })?;
    let root = |of: &str| fs::metadata(of).map(|about| (about.dev(), about.ino()));
    let has_own_root = mounts(&thread.to_string())? != mounts("self")?
        || root(&format!("/proc/{thread}/root"))? != root("/")?;
    if has_own_root {
        // A link in it leads from there, and not from the root of this process.
        return Ok(openat2(base, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?);
    }
    Ok(openat(base, of_thread(path, thread), flags, Mode::empty())?)
}

/// The name, where it says "my own" of the thread and would mean this process.
fn of_thread(path: &Path, thread: i32) -> PathBuf {
    for own in ["/proc/self", "/proc/thread-self"] {
        if let Ok(rest) = path.strip_prefix(own) {
            return Path::new("/proc").join(thread.to_string()).join(rest);
        }
    }
    path.to_owned()
}

/// Whether a socket of a process inside is bound to this file. The kernel says to which file a socket is
/// bound where it is of the network namespace inside, or of one made there; of the host's it does not.
fn is_of_the_inside(file: &OwnedFd) -> io::Result<bool> {
    let Some(wanted) = identity(file)? else { return Ok(false) };
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(process) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        // Whoever ends meanwhile listens no more.
        let Ok(descriptors) = Descriptors::of(process) else { continue };
        let is_it = |socket: OwnedFd| {
            socket_acceptconn(&socket) == Ok(true)
                && sys::bound_file(socket.as_fd())
                    .and_then(|bound| identity(&bound))
                    .is_ok_and(|bound| bound == Some(wanted))
        };
        if descriptors.into_iter().any(is_it) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// By which one socket in the file system is told from every other: its file system, and its number there.
fn identity(file: &OwnedFd) -> io::Result<Option<(u64, u64)>> {
    let about = rustix::fs::fstat(file)?;
    let is_socket = FileType::from_raw_mode(about.st_mode) == FileType::Socket;
    Ok(is_socket.then_some((about.st_dev, about.st_ino)))
}
