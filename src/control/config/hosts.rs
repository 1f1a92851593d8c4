//! `host` and `host_file` of a rule: lists of host patterns.

use std::path::Path;

use super::error::{Fault, Position, Wrong};
use super::file;
use super::reader::{Item, Reader, Table};
use crate::control::host_pattern::{HostPattern, PatternFault};
use crate::policy::{HostList, HostListBuilder};

/// The longest host file: a million names take 20 to 30 MB.
const FILE_MAX_BYTES: u64 = 64 << 20;

/// Patterns that one condition may hold. The largest lists in use have a million; a pattern takes
/// its own length and some 35 bytes.
const PATTERNS_MAX: usize = 2_000_000;

/// Faults reported of one host file; who feeds it something else altogether needs no more.
const FILE_FAULTS_MAX: usize = 20;

fn pattern(text: &str) -> Result<HostPattern, Wrong> {
    HostPattern::parse(text)
        .map_err(|fault: PatternFault| Wrong::new(fault.to_string(), fault.help()))
}

/// `host` and `host_file`, which are one condition. `Ok(None)` where neither is written, `Err`
/// where either is faulty.
pub(super) fn condition(
    reader: &mut Reader<'_>,
    table: &Table<'_>,
) -> Result<Option<HostList>, ()> {
    let inline = table.item("host");
    let files = table.item("host_file");
    if inline.is_none() && files.is_none() {
        return Ok(None);
    }
    let mut patterns = HostListBuilder::default();
    let mut sound = true;
    if let Some(item) = &inline {
        match list(reader, item) {
            Some(list) => list.iter().for_each(|host| patterns.push(&host.name, host.below)),
            None => sound = false,
        }
    }
    if let Some(item) = &files {
        sound &= read_files(reader, item, &mut patterns).is_some();
    }
    if !sound {
        return Err(());
    }
    if patterns.len() > PATTERNS_MAX {
        if let Some(item) = files.or(inline) {
            let what = format!("more than {PATTERNS_MAX} patterns in one rule");
            reader.fault(&item, what, "split it into several rules; \"*.\" covers many names");
        }
        return Err(());
    }
    Ok(Some(patterns.finish()))
}

/// A list of patterns.
pub(super) fn list(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Vec<HostPattern>> {
    reader.parsed_list(item, "write a list of names: [\"example.eu\"]", pattern)
}

/// `host_file`: a path or a list of paths, read behind what `patterns` holds already.
fn read_files(
    reader: &mut Reader<'_>,
    item: &Item<'_>,
    patterns: &mut HostListBuilder,
) -> Option<()> {
    let help = "write a path in quotes, relative to this file, or a list of paths";
    let members = match item.value.as_str() {
        Some(_) => vec![item.clone()],
        None => reader.list(item, help)?,
    };
    reader.each(&members, |reader, member| {
        let path = reader.string(member, help)?;
        let path = reader.base.join(path);
        reader.host_files.push(path.clone());
        // Past the limit nothing more is kept: the condition is refused.
        if patterns.len() > PATTERNS_MAX {
            return Some(());
        }
        let read = file::read(&path, FILE_MAX_BYTES);
        let bytes = reader.keep(member, read)?;
        let (faults, before) = (reader.faults.len(), patterns.len());
        file_patterns(&path, &bytes, patterns, &mut reader.faults);
        if reader.faults.len() > faults {
            return None;
        }
        if patterns.len() == before {
            let what = format!("{} holds no name", path.display());
            reader.fault(member, what, "write one name a line into it, or leave the key out");
            return None;
        }
        Some(())
    })?;
    Some(())
}

/// One pattern a line; `#` begins a comment.
fn file_patterns(
    path: &Path,
    bytes: &[u8],
    patterns: &mut HostListBuilder,
    faults: &mut Vec<Fault>,
) {
    let file = path.display().to_string();
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut faulty = 0_usize;
    for (i, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let code = line.split(|&byte| byte == b'#').next().unwrap_or_default();
        let indent = code.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let code = code.trim_ascii();
        if code.is_empty() {
            continue;
        }
        let parsed = std::str::from_utf8(code)
            .map_err(|_| Wrong::new("the line is not UTF-8", "save the file as UTF-8"))
            .and_then(pattern);
        match parsed {
            Ok(pattern) => patterns.push(&pattern.name, pattern.below),
            Err(wrong) => {
                faulty += 1;
                if faulty <= FILE_FAULTS_MAX {
                    let position = Some(Position { line: i + 1, column: indent + 1 });
                    faults.push(Fault { position, ..Fault::whole(&file, wrong) });
                }
            }
        }
    }
    if let Some(more) = faulty.checked_sub(FILE_FAULTS_MAX).filter(|&more| more > 0) {
        let wrong =
            Wrong::new(format!("{more} more lines are not host patterns"), "write one name a line");
        faults.push(Fault::whole(&file, wrong));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_file_has_comments_blank_lines_and_either_line_end() {
        let mut faults = Vec::new();
        let text = "\u{feff}# names\r\n\r\na.example # one\r\n\t*.b.example\nbad*.example\n";
        let mut patterns = HostListBuilder::default();
        file_patterns(Path::new("h.txt"), text.as_bytes(), &mut patterns, &mut faults);
        assert_eq!(patterns.len(), 2);
        assert_eq!(faults.len(), 1);
        assert!(
            faults[0].to_string().starts_with("h.txt:5:1: in \"bad*.example\""),
            "{}",
            faults[0]
        );
    }

    #[test]
    fn a_file_of_something_else_gives_a_bounded_number_of_faults() {
        let mut faults = Vec::new();
        let text = "not a name\n".repeat(1_000);
        let mut patterns = HostListBuilder::default();
        file_patterns(Path::new("h"), text.as_bytes(), &mut patterns, &mut faults);
        assert!(patterns.is_empty());
        assert_eq!(faults.len(), FILE_FAULTS_MAX + 1);
        assert!(faults[FILE_FAULTS_MAX].what.starts_with("980 more lines"));
    }
}
