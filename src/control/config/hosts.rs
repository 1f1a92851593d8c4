//! Host patterns, one dialect: `example.eu` is that name, `*.example.eu` every name below it.

use std::net::IpAddr;
use std::path::Path;

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use ipnet::IpNet;

use super::HostPattern;
use super::error::{Fault, Position, Wrong};
use super::file;
use super::reader::{Item, Reader, Table};
use crate::identify::{BadName, HostName};
use crate::policy::{HostList, HostListBuilder};

/// The longest host file: a million names take 20 to 30 MB.
const FILE_MAX_BYTES: u64 = 64 << 20;

/// Patterns that one condition may hold. The largest lists in use have a million; a pattern takes
/// its own length and some 35 bytes.
const PATTERNS_MAX: usize = 2_000_000;

/// Faults reported of one host file; who feeds it something else altogether needs no more.
const FILE_FAULTS_MAX: usize = 20;

const HELP: &str = "write a name (\"example.eu\") or every name below one (\"*.example.eu\")";

/// Reads one pattern: case folded, the final dot dropped, U-labels converted (UTS #46).
pub(super) fn pattern(text: &str) -> Result<HostPattern, Wrong> {
    let (below, name) = text.strip_prefix("*.").map_or((false, text), |name| (true, name));
    if name.contains('*') {
        return Err(Wrong::new(format!("in {text:?}, \"*\" is not a whole first label"), HELP));
    }
    // A list of a million names is nearly all of this form, and UTS #46 has nothing to add to it.
    if !has_ace(name)
        && let Ok(name) = HostName::parse(name.as_bytes())
    {
        return Ok(HostPattern { name, below });
    }
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    if bare.parse::<IpAddr>().is_ok() || bare.parse::<IpNet>().is_ok() {
        return Err(address(text));
    }
    if let Some(mark) = name.chars().find(|mark| matches!(mark, ':' | '/' | '@' | '?')) {
        let what = format!("{text:?} holds {mark:?}, which no host name does");
        return Err(Wrong::new(what, "write the name alone; `port` takes the port"));
    }
    // The whole of UTS #46 but its length and hyphen rules: the wire's rules on both are looser
    // (`r3---sn-x.example`), and `HostName` holds the ones that matter.
    let ascii = Uts46::new()
        .to_ascii(name.as_bytes(), AsciiDenyList::EMPTY, Hyphens::Allow, DnsLength::Ignore)
        .map_err(|_| {
            let what = format!("{text:?} has a label that stands for no name");
            Wrong::new(what, "write the name as people read it; a label \"xn--...\" must decode")
        })?;
    let name = HostName::parse(ascii.as_bytes()).map_err(|bad| match bad {
        BadName::Address => address(text),
        BadName::Empty | BadName::TooLong | BadName::EmptyLabel | BadName::BadByte => {
            Wrong::new(format!("{text:?} is no host name: {bad}"), HELP)
        }
    })?;
    Ok(HostPattern { name, below })
}

/// Whether some label may be an A-label, which must decode; a U-label is no [`HostName`].
fn has_ace(name: &str) -> bool {
    name.as_bytes().windows(4).any(|four| four.eq_ignore_ascii_case(b"xn--"))
}

fn address(text: &str) -> Wrong {
    Wrong::new(format!("{text:?} is an address, not a name"), "use `to` for addresses")
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
            .map_err(|_| Wrong::new("the line is no UTF-8", "save the file as UTF-8"))
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
        let wrong = Wrong::new(format!("{more} more lines are no host patterns"), HELP);
        faults.push(Fault::whole(&file, wrong));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        pattern(text)
            .map(|p| format!("{}{}", if p.below { "*." } else { "" }, p.name))
            .map_err(|wrong| wrong.what)
    }

    #[test]
    fn a_pattern_is_read_into_the_one_form() {
        for (text, form) in [
            ("example.eu", "example.eu"),
            ("PACS.Example.EU.", "pacs.example.eu"),
            ("*.example.eu", "*.example.eu"),
            ("*.münchen.example", "*.xn--mnchen-3ya.example"),
            ("MÜNCHEN.example", "xn--mnchen-3ya.example"),
            ("xn--mnchen-3ya.example", "xn--mnchen-3ya.example"),
            ("straße.example", "xn--strae-oqa.example"),
            ("_dmarc.example", "_dmarc.example"),
            ("r3---sn-x.example", "r3---sn-x.example"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(form), "{text}");
        }
    }

    #[test]
    fn a_star_is_a_whole_first_label_or_a_fault() {
        for text in ["*", "*.", "*.*.example", "a.*.example", "a*.example", "*a.example", "**.b"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_is_no_name_in_any_spelling() {
        for text in ["192.0.2.1", "[2001:db8::1]", "2001:db8::1", "192.0.2.0/24", "2130706433"] {
            assert!(read(text).unwrap_err().contains("is an address"), "{text}");
        }
        // Digits that UTS #46 folds to ASCII.
        assert!(read("１９２.0.2.1").unwrap_err().contains("is an address"));
    }

    #[test]
    fn fake_punycode_ports_and_urls_are_refused() {
        for text in ["xn--a.example", "xn--mnchen-3y.example", "xn--.example"] {
            assert!(read(text).unwrap_err().contains("stands for no name"), "{text}");
        }
        for text in ["example.eu:443", "https://example.eu/", "a@example.eu"] {
            assert!(read(text).unwrap_err().contains("which no host name does"), "{text}");
        }
        assert!(read("").is_err() && read("a..b").is_err() && read("a b.example").is_err());
    }

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
