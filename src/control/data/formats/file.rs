//! Reads a file whole, under limits, and says what it read.

use std::fmt;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::magic::{SGP_MAGIC, SGT_MAGIC};
use super::{mmdb, tar};
use crate::control::data::model::{DataFault, FileStamp};

/// The largest file that is read, before and after gzip: 1 GiB. Nothing is mapped: a file that
/// shrinks under a mapping ends the process.
const MAX_BYTES: u64 = 1 << 30;

/// How many times its size a gzip file may be unpacked to, beyond the least that any may: tables of
/// the known sources shrink to a third to a tenth, and nothing honest to a thousandth.
const INFLATES_MAX: u64 = 64;
const INFLATED_MIN_BYTES: u64 = 16 << 20;

/// Why a file is not read, or not as a table.
#[derive(Debug, thiserror::Error)]
pub enum FileFault {
    /// The system does not open it.
    #[error("cannot be opened")]
    Unopened(#[source] io::Error),
    /// The system does not give its bytes.
    #[error("cannot be read")]
    Unreadable(#[source] io::Error),
    /// A folder, a device, a FIFO.
    #[error("is not a regular file; name a file that holds a table")]
    NotRegular,
    /// More bytes than that.
    #[error("is larger than {0} bytes; use a smaller table")]
    TooLarge(u64),
    /// More bytes than that, unpacked.
    #[error("unpacks to more than {0} bytes; use a smaller table")]
    UnpacksTooLarge(u64),
    /// The stream breaks off or does not match its sum.
    #[error("is not a sound gzip file")]
    Gzip(#[source] io::Error),
    /// No byte.
    #[error("is empty; an empty table answers nothing")]
    Empty,
    /// No reader would know what to do with it.
    #[error("is in no known form (no mmdb marker, no text); fetch it again")]
    Formless,
    /// Text in 16-bit units.
    #[error("is UTF-16; write it as UTF-8")]
    Utf16,
    /// An archive.
    #[error("is a zip archive; unpack it and name the table in it")]
    Zip,
}

/// A file's content and origin.
pub struct Content {
    /// The bytes, gunzipped; of a tar archive, those of the table in it.
    pub bytes: Vec<u8>,
    /// When the file was last written.
    pub modified: Option<Timestamp>,
    /// SHA-256 of the bytes on disk, hex.
    pub digest: String,
}

impl Content {
    /// What the file at `path` was when this was read of it.
    pub(in crate::control::data) fn stamp(&self, path: &Path) -> FileStamp {
        let (digest, modified) = (self.digest.clone(), self.modified);
        FileStamp { path: path.to_owned(), digest, modified, beside: None }
    }
}

/// Reads the regular file at `path`; gzip is recognised by its magic and unpacked, a tar archive by
/// the checksum of its first header, and its table taken out.
pub fn read(path: &Path) -> Result<Content, DataFault> {
    read_up_to(path, MAX_BYTES)
}

/// As [`read`], with another limit.
pub(in crate::control::data) fn read_up_to(path: &Path, limit: u64) -> Result<Content, DataFault> {
    let fault = |what: FileFault| DataFault::whole(path, what);
    let (file, about) = open(path).map_err(|error| fault(FileFault::Unopened(error)))?;
    if !about.is_file() {
        return Err(fault(FileFault::NotRegular));
    }
    let too_large = || fault(FileFault::TooLarge(limit));
    if about.len() > limit {
        return Err(too_large());
    }
    let unreadable = |error: io::Error| fault(FileFault::Unreadable(error));
    if is_formless(&file, about.len()).map_err(unreadable)? {
        return Err(fault(FileFault::Formless));
    }
    let raw = drain(file, limit).map_err(unreadable)?.ok_or_else(too_large)?;
    let digest = digest(&raw);
    let modified = modified(&about);
    let bytes = if raw.starts_with(&[0x1f, 0x8b]) {
        let packed = u64::try_from(raw.len()).unwrap_or(u64::MAX);
        let most = limit.min(packed.saturating_mul(INFLATES_MAX).max(INFLATED_MIN_BYTES));
        let too_large = || fault(FileFault::UnpacksTooLarge(most));
        drain(MultiGzDecoder::new(raw.as_slice()), most)
            .map_err(|error| fault(FileFault::Gzip(error)))?
            .ok_or_else(too_large)?
    } else {
        raw
    };
    let bytes = if tar::is_tar(&bytes) {
        let table = tar::table(&bytes).map_err(|bad| DataFault::whole(path, bad))?;
        table.to_vec()
    } else {
        bytes
    };
    if bytes.is_empty() {
        return Err(fault(FileFault::Empty));
    }
    Ok(Content { bytes, modified, digest })
}

/// The digest and the time of the file that [`read`] would read, at no cost in memory; `None` where
/// it would not.
pub(in crate::control::data) fn stat_digest(path: &Path) -> Option<(String, Option<Timestamp>)> {
    let (file, about) = open(path).ok().filter(|(_, about)| about.is_file())?;
    let mut digest = Sha256::new();
    let mut piece = vec![0; 64 << 10];
    let mut file = file.take(MAX_BYTES + 1);
    loop {
        match file.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => digest.update(piece.get(..read)?),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    Some((hex(&digest.finalize()), modified(&about)))
}

fn modified(about: &Metadata) -> Option<Timestamp> {
    about.modified().ok().and_then(|time| Timestamp::try_from(time).ok())
}

/// Opens without waiting for a writer where the path is a FIFO.
fn open(path: &Path) -> io::Result<(File, Metadata)> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let about = file.metadata()?;
    Ok((file, about))
}

/// Whether the head of the file is neither text nor packed, and its end no mmdb's: then it is not
/// worth the memory that reading it takes (a disk that ran full leaves gigabytes of zeros).
fn is_formless(file: &File, length: u64) -> io::Result<bool> {
    let mut head = [0; 4 << 10];
    let read = file.read_at(&mut head, 0)?;
    let head = head.get(..read).unwrap_or_default();
    // Packed, or something that is better called by its name: UTF-16, a zip archive.
    let known: [&[u8]; 6] =
        [&[0x1f, 0x8b], SGT_MAGIC, SGP_MAGIC, &[0xff, 0xfe], &[0xfe, 0xff], b"PK\x03\x04"];
    let known = known.iter().any(|magic| head.starts_with(magic)) || tar::is_tar(head);
    if !head.contains(&0) || known {
        return Ok(false);
    }
    let mut tail = Vec::new();
    let mut end = file;
    end.seek(SeekFrom::Start(length.saturating_sub(mmdb::MARKER_WITHIN)))?;
    end.take(mmdb::MARKER_WITHIN).read_to_end(&mut tail)?;
    end.seek(SeekFrom::Start(0))?;
    Ok(!mmdb::is_mmdb(&tail))
}

/// Everything up to `limit`; `None` where there is more.
fn drain(from: impl Read, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    from.take(limit + 1).read_to_end(&mut bytes)?;
    Ok(u64::try_from(bytes.len()).is_ok_and(|len| len <= limit).then_some(bytes))
}

/// SHA-256, in lower-case hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(digest: &[u8]) -> String {
    use fmt::Write;
    digest.iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").unwrap_or_default();
        text
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn why(path: &Path, limit: u64) -> String {
        read_up_to(path, limit).err().map(|fault| fault.to_string()).unwrap_or_default()
    }

    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        assert!(why(dir.path(), 9).contains("not a regular file"));
        assert!(why(Path::new("/dev/zero"), 9).contains("not a regular file"));
        assert!(why(&dir.path().join("absent"), 9).contains("cannot be opened"));
    }

    #[test]
    fn ten_gigabytes_of_zeros_are_refused_unread() {
        let path = tempfile::NamedTempFile::new().unwrap();
        path.as_file().set_len(10 << 30).unwrap();
        assert!(why(path.path(), MAX_BYTES).contains("larger than"));
    }

    #[test]
    fn a_gzip_bomb_stops_at_the_limit() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&vec![0; 1 << 20]).unwrap();
        file.write_all(&gzip.finish().unwrap()).unwrap();
        assert!(why(file.path(), 1 << 16).contains("unpacks to more than 65536"));
        assert_eq!(read_up_to(file.path(), 1 << 20).unwrap().bytes.len(), 1 << 20);
        // Whatever the limit, not to a thousand times its size.
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&vec![0; 17 << 20]).unwrap();
        std::fs::write(file.path(), gzip.finish().unwrap()).unwrap();
        assert!(why(file.path(), MAX_BYTES).contains("unpacks to more than 16777216"));
    }
}
