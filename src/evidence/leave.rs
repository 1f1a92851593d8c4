//! A record that another program than the gateway puts into the gateway's log.

use std::fs::{self, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::settings::Settings;
use super::sink::{Kind, Sink, SinkFault, own_ring};

/// Time between two looks whether the gateway has taken a line.
const LOOK: Duration = Duration::from_millis(50);

/// Why a record was not put into a log.
#[derive(Debug, thiserror::Error)]
pub enum Unrecorded {
    /// The directory, the key or a file.
    #[error(transparent)]
    Sink(#[from] SinkFault),
    /// There is no gateway, and no key to sign with.
    #[error(
        "no gateway writes the record, and {} is not there to sign it: give the key with --signing-key",
        .0.display()
    )]
    Key(PathBuf),
    /// There is no gateway, and what this user writes the gateway could not read.
    #[error(
        "no gateway writes the record, and its directory is another user's: run this as the user with \
         the number {0}, so that the gateway can go on with what is written"
    )]
    User(u32),
    /// It was not written in time.
    #[error("the record was not written within {} s; the gateway's log says why", .0.as_secs())]
    Late(Duration),
}

/// Puts a record, an object of JSON, into the log of a directory, and waits until it is in a segment. A
/// gateway that writes there takes it up, out of a ring that is left for it; where none does, this
/// process takes the directory, and signs with the key.
///
/// # Errors
/// It is not in the log.
pub fn record_beside(
    directory: &Path,
    key: &Path,
    line: &[u8],
    limit: Duration,
) -> Result<(), Unrecorded> {
    if is_taken(directory)? {
        return leave(directory, line, limit);
    }
    let owner = |path: &Path| fs::metadata(path).map(|file| file.uid());
    let fault = SinkFault::file(directory, "cannot be read");
    let (of_directory, own) =
        owner(directory).and_then(|of| Ok((of, owner(Path::new("/proc/self"))?))).map_err(fault)?;
    if of_directory != own {
        return Err(Unrecorded::User(of_directory));
    }
    if !key.exists() {
        return Err(Unrecorded::Key(key.to_owned()));
    }
    let settings =
        Settings { key: key.to_owned(), register: false, ..Settings::new(directory.to_owned()) };
    match Sink::start(&settings, false) {
        Ok(sink) => {
            let fill = |buffer: &mut Vec<u8>| buffer.extend_from_slice(line);
            // The close says whether it was written.
            let _kept = sink.line(Kind::Other, fill);
            if sink.close(limit) { Ok(()) } else { Err(Unrecorded::Late(limit)) }
        }
        // A gateway began in between.
        Err(SinkFault::Taken(_)) => leave(directory, line, limit),
        Err(fault) => Err(fault.into()),
    }
}

/// Whether a gateway writes there.
fn is_taken(directory: &Path) -> Result<bool, SinkFault> {
    let path = directory.join("lock");
    let lock = match OpenOptions::new().append(true).open(&path) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(SinkFault::file(&path, "cannot be opened")(error)),
    };
    match lock.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(SinkFault::file(&path, "cannot be locked")(error)),
    }
}

/// Leaves a line for the gateway, and waits until it has taken it.
fn leave(directory: &Path, line: &[u8], limit: Duration) -> Result<(), Unrecorded> {
    let fault = || SinkFault::file(directory, "cannot be read");
    let owner = fs::metadata(directory).map_err(fault())?;
    let (ring, file, path) = own_ring(directory)?;
    let put = ring.put(0, |buffer| buffer.extend_from_slice(line));
    let given = chown(&path, Some(owner.uid()), Some(owner.gid()));
    if put.is_err() || given.is_err() {
        fs::remove_file(&path).ok();
        let what = "cannot be given to the user of the directory";
        let error = given.err().unwrap_or_else(|| io::Error::other("the line is too long"));
        return Err(SinkFault::file(&path, what)(error).into());
    }
    // From here on it is the gateway's, which removes it once the line is in a segment.
    drop((ring, file));
    let until = Instant::now() + limit;
    while path.exists() {
        if Instant::now() >= until {
            return Err(Unrecorded::Late(limit));
        }
        thread::sleep(LOOK);
    }
    Ok(())
}
