//! The one table in a tar archive, as MaxMind hands its tables out: a folder with an mmdb and its
//! licence. Nothing is unpacked to the disk, so that no path of the archive is ever followed.

use std::io;
use std::ops::Range;
use std::path::Path;

use tar::{Archive, Header};

use super::mmdb;
use crate::control::data::model::shown_path;

/// Length of a header, and what members are padded to.
const BLOCK_BYTES: usize = 512;

/// Where the checksum stands in a header.
const SUM: Range<usize> = 148..156;

/// Members that are looked at; an archive of tables has a handful.
const MEMBERS_MAX: usize = 1_000;

/// What lies beside a table and is none.
const PAPERS: [&str; 4] = ["license", "copyright", "readme", "notice"];

/// What is wrong with an archive.
#[derive(Debug, thiserror::Error)]
pub(in crate::control::data) enum TarFault {
    #[error("is not a sound tar archive")]
    Unsound(#[source] io::Error),
    #[error("is a tar archive that is cut within {0}")]
    Cut(String),
    #[error("is a tar archive of more than {MEMBERS_MAX} files")]
    Long,
    #[error("is a tar archive without a table")]
    NoTable,
    #[error("is a tar archive of several tables ({0}); unpack it and name one")]
    Several(String),
}

/// Whether the bytes begin with the header of a member: its checksum holds. An mmdb in an archive has
/// its marker near the end of the bytes too, so this is asked first.
pub(in crate::control::data) fn is_tar(bytes: &[u8]) -> bool {
    let Some(block) = bytes.get(..BLOCK_BYTES) else { return false };
    let sum = |(at, &byte): (usize, &u8)| u32::from(if SUM.contains(&at) { b' ' } else { byte });
    let sum: u32 = block.iter().enumerate().map(sum).sum();
    block.first().is_some_and(|&byte| byte != 0)
        && Header::from_byte_slice(block).cksum().is_ok_and(|written| written == sum)
}

/// The bytes of the table in an archive: its only mmdb, else its only file but for papers.
pub(in crate::control::data) fn table(bytes: &[u8]) -> Result<&[u8], TarFault> {
    let mut members = Vec::new();
    for entry in Archive::new(bytes).entries().map_err(TarFault::Unsound)? {
        let entry = entry.map_err(TarFault::Unsound)?;
        if !entry.header().entry_type().is_file() || entry.size() == 0 {
            continue;
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let first = usize::try_from(entry.raw_file_position());
        let content = first.ok().zip(usize::try_from(entry.size()).ok());
        let content = content.and_then(|(first, size)| bytes.get(first..first.checked_add(size)?));
        let shown = shown_path(Path::new(&name));
        let content = content.ok_or(TarFault::Cut(shown))?;
        members.push((name, content));
        if members.len() > MEMBERS_MAX {
            return Err(TarFault::Long);
        }
    }
    let mmdbs: Vec<_> = members.iter().filter(|(_, content)| mmdb::is_mmdb(content)).collect();
    let others: Vec<_> = members.iter().filter(|(name, _)| !is_paper(name)).collect();
    let tables = if mmdbs.is_empty() { others } else { mmdbs };
    match tables.as_slice() {
        [(_, content)] => Ok(content),
        [] => Err(TarFault::NoTable),
        several => {
            let names = several.iter().take(5).map(|(name, _)| shown_path(Path::new(name)));
            let names = names.collect::<Vec<_>>().join(", ");
            Err(TarFault::Several(names))
        }
    }
}

fn is_paper(name: &str) -> bool {
    let stem = Path::new(name).file_stem().unwrap_or_default().to_string_lossy();
    PAPERS.iter().any(|paper| stem.eq_ignore_ascii_case(paper))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in members {
            let mut header = Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            builder.append_data(&mut header, name, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    const MMDB: &[u8] = b"tree\xab\xcd\xefMaxMind.com\xe0";
    const TABLE: &[u8] = b"192.0.2.0,192.0.2.9,FR\n";

    #[test]
    fn the_mmdb_of_an_archive_is_found_and_else_its_only_table() {
        let long = format!("{}/table.csv", "folder".repeat(30));
        for (members, found) in [
            (vec![("G_1/COPYRIGHT.txt", TABLE), ("G_1/G.mmdb", MMDB), ("G_1/x.txt", TABLE)], MMDB),
            (vec![("LICENSE.txt", MMDB)], MMDB),
            (vec![("a/README.md", &b"words"[..]), ("a/table.csv", TABLE)], TABLE),
            (vec![("empty", &b""[..]), (long.as_str(), TABLE)], TABLE),
        ] {
            let bytes = archive(&members);
            assert!(is_tar(&bytes), "{members:?}");
            assert_eq!(table(&bytes).unwrap(), found, "{members:?}");
        }
    }

    #[test]
    fn an_archive_that_holds_no_table_or_several_is_refused() {
        for (members, why) in [
            (vec![("a.mmdb", MMDB), ("b.mmdb", MMDB)], "several tables (a.mmdb, b.mmdb)"),
            (vec![("a.csv", TABLE), ("b.csv", TABLE)], "several tables"),
            (vec![("LICENSE", TABLE), ("empty.csv", &b""[..])], "without a table"),
        ] {
            let fault = table(&archive(&members)).unwrap_err().to_string();
            assert!(fault.contains(why), "{members:?}: {fault}");
        }
    }

    #[test]
    fn an_archive_that_is_cut_gives_nothing() {
        let bytes = archive(&[("folder/table.csv", &[b'x'; 2_000][..])]);
        for end in BLOCK_BYTES..2 * BLOCK_BYTES + 1_488 {
            assert!(table(&bytes[..end]).is_err(), "cut at {end}");
        }
        let mut spoilt = bytes;
        spoilt[3] ^= 1;
        assert!(!is_tar(&spoilt) && table(&spoilt).is_err());
    }

    #[test]
    fn what_is_no_archive_is_not_taken_for_one() {
        for bytes in [&[0; 2 * BLOCK_BYTES][..], &[b' '; 2 * BLOCK_BYTES][..], MMDB, TABLE] {
            assert!(!is_tar(bytes));
        }
    }
}
