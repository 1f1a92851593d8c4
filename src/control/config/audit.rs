//! `[audit]` and `[log]`: where the record is kept, and how.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::Wrong;
use super::fields::{optional, or};
use super::reader::{Reader, Table};
use super::time;
use crate::account::View;
use crate::evidence::{Clients, Durability, OnFailure, Pseudonyms, Settings};
use crate::report::distance::{NoPosition, Position};

/// Where the installed service may write.
const DIRECTORY: &str = "/var/lib/schengate/audit";

/// The least and the most bytes of a segment: one is read whole.
const SEGMENT: std::ops::Range<u64> = 64 * 1024..(1 << 30) + 1;

/// The least and the most rows with a name that the register keeps of an hour.
const NAMES: std::ops::Range<u64> = 0..100_001;

/// The least and the most bits of a client's network: one that has them all is a client.
const PREFIX_IPV4: std::ops::Range<u64> = 1..29;
const PREFIX_IPV6: std::ops::Range<u64> = 1..65;

/// How long the key of pseudonyms is good for.
const PERIOD: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// `clients`.
#[derive(Clone, Copy)]
enum Word {
    Plain,
    Prefix,
    Pseudonym,
}

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// `[audit]` and the position in it; `None` where it is not written: the record is then the lines on the
/// log alone.
pub(super) fn audit(
    reader: &mut Reader<'_>,
    root: &Table<'_>,
) -> Option<(Option<Settings>, Option<Position>)> {
    if !root.has("audit") {
        return Some((None, None));
    }
    let table = reader.table(root, "audit")?;
    reader.only(&table);
    let directory = or(&table, "directory", PathBuf::from(DIRECTORY), |item| {
        reader.line(item).map(|path| reader.base.join(path))
    });
    let default = Settings::new(directory.clone().unwrap_or_default());
    let key =
        or(&table, "key", default.key, |item| reader.line(item).map(|path| reader.base.join(path)));
    let name = or(&table, "name", default.name, |item| {
        let name = reader.line(item)?;
        let is_bad = |c: char| c.is_whitespace() || c == '+';
        let help = "write a name without blanks and plus signs, as a host's: \"gw1.example.org\"";
        let bad = name
            .contains(is_bad)
            .then(|| Wrong::new(format!("{name:?} is not a log's name"), help));
        reader.keep(item, bad.map_or(Ok(name), Err))
    });
    let words = [("process", Durability::Process), ("disk", Durability::Disk)];
    let durability = or(&table, "durability", default.durability, |item| reader.word(item, &words));
    let words = [("block", OnFailure::Block), ("pass", OnFailure::Pass)];
    let on_failure = or(&table, "on_failure", default.on_failure, |item| reader.word(item, &words));
    let interval = or(&table, "interval", default.interval, |item| {
        time::duration(reader, item, 20 * SECOND, Some(DAY))
    });
    let checkpoint = or(&table, "checkpoint", default.checkpoint, |item| {
        time::duration(reader, item, SECOND, Some(DAY))
    });
    let segment_bytes =
        or(&table, "segment_bytes", default.segment_bytes, |item| reader.number(item, SEGMENT));
    let segment_age = or(&table, "segment_age", default.segment_age, |item| {
        time::duration(reader, item, 60 * SECOND, Some(366 * DAY))
    });
    let retain = optional(&table, "retain", |item| time::duration(reader, item, DAY, None));
    let retain_bytes =
        optional(&table, "retain_bytes", |item| reader.number(item, 1 << 20..1 << 62));
    let register = or(&table, "register", default.register, |item| reader.boolean(item));
    let register_names =
        or(&table, "register_names", default.register_names, |item| reader.number(item, NAMES));
    let register_retain =
        optional(&table, "register_retain", |item| time::duration(reader, item, DAY, None));
    let clients = clients(reader, &table, directory.as_deref());
    let position = optional(&table, "position", |item| {
        let text = reader.line(item)?;
        let wrong = |_| Wrong::new(format!("{text:?} is not a position"), NoPosition::HELP);
        let position = text.parse::<Position>().map_err(wrong);
        reader.keep(item, position)
    });
    let settings = Settings {
        directory: directory?,
        key: key?,
        name: name?,
        durability: durability?,
        disk_limit: default.disk_limit,
        on_failure: on_failure?,
        interval: interval?,
        checkpoint: checkpoint?,
        segment_bytes: segment_bytes?,
        segment_age: segment_age?,
        retain: retain?,
        retain_bytes: retain_bytes?,
        register: register?,
        register_names: register_names?,
        register_retain: register_retain?,
        clients: clients?,
    };
    Some((Some(settings), position?))
}

/// How clients stand in the record.
fn clients(
    reader: &mut Reader<'_>,
    table: &Table<'_>,
    directory: Option<&Path>,
) -> Option<Clients> {
    let words = [("plain", Word::Plain), ("prefix", Word::Prefix), ("pseudonym", Word::Pseudonym)];
    let word = or(table, "clients", Word::Plain, |item| reader.word(item, &words));
    let v4 = or(table, "clients_ipv4", 24, |item| reader.number(item, PREFIX_IPV4));
    let v6 = or(table, "clients_ipv6", 48, |item| reader.number(item, PREFIX_IPV6));
    let period = or(table, "pseudonym_period", PERIOD, |item| {
        time::duration(reader, item, 60 * 60 * SECOND, Some(366 * DAY))
    });
    let keys = directory.map(|directory| directory.join("pseudonym-keys")).unwrap_or_default();
    let keys = or(table, "pseudonym_keys", keys, |item| {
        reader.line(item).map(|path| reader.base.join(path))
    });
    let retain =
        optional(table, "pseudonym_retain", |item| time::duration(reader, item, SECOND, None));
    let bits = |number: u64| u8::try_from(number).unwrap_or(0);
    Some(match word? {
        Word::Plain => Clients::Plain,
        Word::Prefix => Clients::Prefix { v4: bits(v4?), v6: bits(v6?) },
        Word::Pseudonym => {
            Clients::Pseudonym(Pseudonyms { period: period?, keys: keys?, retain: retain? })
        }
    })
}

/// `[log] connections`. Where the record is kept elsewhere, the log shows what was refused.
pub(super) fn log(reader: &mut Reader<'_>, root: &Table<'_>, is_kept: bool) -> Option<View> {
    let default = if is_kept { View::Refused } else { View::All };
    if !root.has("log") {
        return Some(default);
    }
    let table = reader.table(root, "log")?;
    reader.only(&table);
    let words = [("all", View::All), ("refused", View::Refused), ("none", View::Nothing)];
    let view = or(&table, "connections", default, |item| reader.word(item, &words))?;
    if view != View::All
        && !is_kept
        && let Some(item) = table.item("connections")
    {
        let help = "keep the record in [audit], or write connections = \"all\"";
        reader.fault(
            &item,
            "the log is the only record there is, and would not have every connection",
            help,
        );
        return None;
    }
    Some(view)
}
