//! The transfer register: its sums are those of the record, whatever becomes of it.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use proptest::prelude::*;
use rusqlite::Connection;
use schengate::evidence::register::{Column, Query, REST, Register, reconcile, register_path};
use schengate::evidence::{Kind, Segment, Settings, Sink};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

/// What is summed up: opened, connections, bytes up and down.
type Numbers = [i64; 4];

/// A record of a transfer, as the gateway's are.
#[derive(Debug, Clone)]
struct Event {
    event: &'static str,
    connection: u32,
    /// Seconds after 2026-11-30T00:00:00Z.
    at: i64,
    group: String,
    rule: Option<String>,
    name: Option<String>,
    bytes: (i64, i64),
}

const BASE: i64 = 1_795_996_800;

/// An `update` of a connection that was judged again.
const JUDGED: &str = "judged";

impl Event {
    fn record(&self, number: usize) -> Value {
        let at = jiff::Timestamp::from_second(BASE + self.at).unwrap();
        let time = format!("{at:.3}");
        let id = format!("19a-{}", self.connection);
        let (up, down) = self.bytes;
        if self.event == "update" {
            return json!({ "seq": number, "event": "update", "id": id, "time": time, "bytes_up": up,
                "bytes_down": down, "duration_ms": 1 });
        }
        if self.event == JUDGED {
            return json!({ "seq": number, "event": "update", "id": id, "time": time,
                "cause": "policy", "destination": "203.0.113.1:443", "host": self.name,
                "location": ["DE"], "anycast": false, "operator": "o", "law": ["DE", "US"],
                "group": self.group, "rule": self.rule, "basis": null, "verdict": "allow",
                "reason": "permitted", "bytes_up": up, "bytes_down": down, "duration_ms": 1 });
        }
        json!({ "seq": number, "event": self.event, "id": id, "time": time, "host": self.name,
            "location": ["DE"], "anycast": false, "operator": "o", "law": ["DE", "US"],
            "group": self.group, "rule": self.rule, "basis": null, "verdict": "allow",
            "reason": "permitted", "listener": "tproxy", "transport": "tcp", "bytes_up": up,
            "bytes_down": down, "rtt_contradicts": self.is_contradicted().then_some(["DE"]) })
    }

    /// It ended, and was too near for its location.
    fn is_contradicted(&self) -> bool {
        self.event == "close" && self.connection.is_multiple_of(3)
    }

    fn hour(&self) -> i64 {
        (BASE + self.at).div_euclid(3600) * 3600
    }
}

/// What rows of the register are of: hour, group, rule, name.
type Key = (i64, String, String, String);

/// The sums as a person would make them: what each connection moved since it was last heard of.
fn fold(events: &[Event]) -> BTreeMap<Key, Numbers> {
    let mut living: HashMap<u32, (Key, i64, i64)> = HashMap::new();
    let mut sums: BTreeMap<Key, Numbers> = BTreeMap::new();
    for event in events {
        let known = living.remove(&event.connection);
        if ["update", JUDGED].contains(&event.event) && known.is_none() {
            continue;
        }
        let (up, down) = known.as_ref().map_or((0, 0), |(_, up, down)| (*up, *down));
        let (rule, name) = (event.rule.clone().unwrap_or_default(), event.name.clone());
        let own = (event.hour(), event.group.clone(), rule, name.unwrap_or_default());
        let key = match (event.event, known) {
            ("update" | JUDGED, Some(((_, group, rule, name), ..))) => {
                (event.hour(), group, rule, name)
            }
            _ => own.clone(),
        };
        let (more_up, more_down) = ((event.bytes.0 - up).max(0), (event.bytes.1 - down).max(0));
        let is_open = i64::from(event.event == "open");
        let is_final = i64::from(!matches!(event.event, "open" | "update" | JUDGED));
        let row = sums.entry(key.clone()).or_default();
        for (sum, more) in row.iter_mut().zip([is_open, is_final, more_up, more_down]) {
            *sum += more;
        }
        if is_final == 0 {
            let key = if event.event == JUDGED { own } else { key };
            living.insert(event.connection, (key, up + more_up, down + more_down));
        }
    }
    sums
}

/// The rows of the database, by plain SQL; the second value says whether a row may lack a part.
fn rows(directory: &Path) -> BTreeMap<Key, (Numbers, bool)> {
    let database = Connection::open(register_path(directory)).unwrap();
    let mut select = database
        .prepare(
            "SELECT hour_seconds, group_name, ifnull(rule, ''), ifnull(name, ''), opened, \
             connections, bytes_up, bytes_down, partial FROM transfer",
        )
        .unwrap();
    let row = |row: &rusqlite::Row<'_>| {
        let key = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        let numbers = [row.get(4)?, row.get(5)?, row.get(6)?, row.get(7)?];
        Ok((key, (numbers, row.get::<_, i64>(8)? != 0)))
    };
    select.query_map([], row).unwrap().collect::<Result<_, _>>().unwrap()
}

/// The same, whatever the name.
fn nameless(rows: impl Iterator<Item = (Key, Numbers)>) -> BTreeMap<Key, Numbers> {
    let mut sums: BTreeMap<Key, Numbers> = BTreeMap::new();
    for ((hour, group, rule, _), numbers) in rows {
        let row = sums.entry((hour, group, rule, String::new())).or_default();
        row.iter_mut().zip(numbers).for_each(|(sum, more)| *sum += more);
    }
    sums
}

/// Holds a register against the sums of its events.
fn agrees(directory: &Path, events: &[Event]) -> Result<(), TestCaseError> {
    let (rows, wanted) = (rows(directory), fold(events));
    let plain = rows.iter().map(|(key, (numbers, _))| (key.clone(), *numbers));
    prop_assert_eq!(nameless(plain), nameless(wanted.clone().into_iter()));
    let database = Connection::open(register_path(directory)).unwrap();
    let contradicted = "SELECT ifnull(sum(contradicted), 0) FROM transfer";
    let contradicted: i64 = database.query_row(contradicted, [], |row| row.get(0)).unwrap();
    let wanted_of_them = events.iter().filter(|event| event.is_contradicted()).count();
    prop_assert_eq!(usize::try_from(contradicted).unwrap(), wanted_of_them);
    for (key, (numbers, is_partial)) in &rows {
        let whole = wanted.get(key);
        if key.3 == REST || *is_partial {
            continue;
        }
        prop_assert_eq!(Some(numbers), whole, "{:?}", key);
    }
    Ok(())
}

/// A log of these records, as one open segment.
fn segment(directory: &Path, first: usize, records: impl Iterator<Item = Value>) -> PathBuf {
    let path = directory.join(format!("{first:020}.jsonl"));
    let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
    let text: String = records.map(|record| record.to_string() + "\n").collect();
    file.write_all(text.as_bytes()).unwrap();
    path
}

fn read_all(register: &mut Register, directory: &Path, limit: u64) {
    while register.feed(directory, limit).unwrap() {}
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let one = (0..8_u32, 0..7_u8, 0..7_u8, 0..3_u8, -2..3_i64, 0..4_i64, 0..900_i64, 0..900_i64);
    proptest::collection::vec(one, 0..120).prop_map(|all| {
        let mut hour = 0;
        all.into_iter()
            .map(|(connection, event, name, group, minutes, hours, up, down)| {
                // Time goes on, and back a little where an hour turns.
                hour += i64::from(hours == 3);
                Event {
                    event: ["open", "open", "update", "close", "refused", "unjudged", JUDGED]
                        [usize::from(event)],
                    connection,
                    at: hour * 3600 + minutes * 60,
                    group: format!("group {group}"),
                    rule: (group == 1).then(|| "a rule".to_owned()),
                    name: (name > 0).then(|| format!("{name}.example")),
                    bytes: (up, down),
                }
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// However many records are read at once, however often the register is opened again, and
    /// however few names it keeps.
    #[test]
    fn sums_by_sql_are_the_sums_of_a_plain_fold(
        events in events(),
        most in 0..4_usize,
        steps in proptest::collection::vec((1..40_u64, any::<bool>()), 1..8),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let records = events.iter().enumerate().map(|(number, event)| event.record(number));
        segment(dir.path(), 0, records);
        let (mut register, why) = Register::open(dir.path(), most).unwrap();
        prop_assert_eq!(why, None);
        let mut limit = 0;
        for (more, opens_again) in steps {
            limit += more;
            read_all(&mut register, dir.path(), limit);
            if opens_again {
                drop(register);
                let (again, why) = Register::open(dir.path(), most).unwrap();
                prop_assert_eq!(why, None);
                register = again;
            }
        }
        read_all(&mut register, dir.path(), u64::MAX);
        prop_assert_eq!(register.progress().next, events.len() as u64);
        let reconciled = reconcile(dir.path(), &register, None).unwrap();
        prop_assert!(reconciled.agrees(), "{:?}", reconciled.differences);
        drop(register);
        agrees(dir.path(), &events)?;
    }
}

/// Connections to `many` names within an hour, and to a few that take the most bytes.
fn flood(many: u32) -> Vec<Event> {
    let one = |connection: u32, name: String, at: i64, bytes: i64| Event {
        event: "close",
        connection,
        at,
        group: "default".to_owned(),
        rule: None,
        name: Some(name),
        bytes: (bytes, 2 * bytes),
    };
    let span = i64::from(many) + 1;
    let mut all: Vec<Event> =
        (0..5).map(|number| one(number, format!("large-{number}.example"), 0, 1_000_000)).collect();
    all.extend((0..many).map(|number| {
        one(100 + number, format!("{number}.flood.example"), 1800 * i64::from(number) / span, 7)
    }));
    all.push(one(50, "large-3.example".to_owned(), 1900, 5));
    // The next hour begins, and a late record of the first one comes.
    all.push(one(51, "next.example".to_owned(), 3601, 1));
    all.push(one(52, "late.example".to_owned(), 3599, 3));
    all
}

#[test]
fn names_of_a_flood_are_one_exact_row_and_the_largest_stay() {
    let dir = tempfile::tempdir().unwrap();
    let events = flood(20_000);
    let records = events.iter().enumerate().map(|(number, event)| event.record(number));
    segment(dir.path(), 0, records);
    let (mut register, _) = Register::open(dir.path(), 100).unwrap();
    let mut limit = 0;
    while register.progress().next < events.len() as u64 {
        limit += 900;
        read_all(&mut register, dir.path(), limit);
        let rows = rows(dir.path()).len();
        assert!(rows <= 100 * 4 + 2, "{rows} rows while the hour lasts");
    }
    agrees(dir.path(), &events).unwrap();
    let rows = rows(dir.path());
    let of_hour = |hour: i64| rows.iter().filter(move |(key, _)| key.0 == BASE + hour);
    assert_eq!(of_hour(0).count(), 101, "the largest and the rest");
    for number in 0..5 {
        let name = format!("large-{number}.example");
        let (_, (numbers, is_partial)) = of_hour(0).find(|(key, _)| key.3 == name).unwrap();
        let more = if number == 3 { 5 } else { 0 };
        assert_eq!((numbers[2], *is_partial), (1_000_000 + more, false), "{name}");
    }
    let (_, (rest, _)) = of_hour(0).find(|(key, _)| key.3 == REST).unwrap();
    assert!(rest[1] >= 19_900, "{rest:?}");
    assert_eq!(of_hour(3600).count(), 1);
}

/// The register of some records, made, and what it says.
fn made(directory: &Path) -> (Vec<Event>, BTreeMap<Key, (Numbers, bool)>) {
    let events = flood(50);
    let records = events.iter().enumerate().map(|(number, event)| event.record(number));
    segment(directory, 0, records);
    let (mut register, _) = Register::open(directory, 1000).unwrap();
    read_all(&mut register, directory, u64::MAX);
    drop(register);
    (events, rows(directory))
}

fn asides(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.into_string().unwrap());
    names.filter(|name| name.starts_with("aside-")).collect()
}

#[test]
fn a_register_that_cannot_be_read_is_moved_aside_and_made_anew() {
    type Spoil = (&'static str, fn(&Path));
    let spoil: [Spoil; 6] = [
        ("no database", |path| {
            fs::write(path, "no database, but long enough to be one".repeat(99)).unwrap()
        }),
        ("overwritten in the middle", |path| {
            let mut bytes = fs::read(path).unwrap();
            for page in bytes.chunks_mut(4096).skip(1) {
                page[..512].fill(0xa5);
            }
            fs::write(path, bytes).unwrap();
        }),
        ("cut", |path| {
            let length = fs::metadata(path).unwrap().len();
            OpenOptions::new().write(true).open(path).unwrap().set_len(length / 2).unwrap();
        }),
        ("of another version", |path| {
            Connection::open(path).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
        }),
        ("without a table", |path| {
            Connection::open(path)
                .unwrap()
                .execute_batch("DROP VIEW transfer; DROP TABLE progress")
                .unwrap();
        }),
        ("without its row", |path| {
            Connection::open(path).unwrap().execute_batch("DELETE FROM progress").unwrap();
        }),
    ];
    for (what, spoil) in spoil {
        let dir = tempfile::tempdir().unwrap();
        let (_, before) = made(dir.path());
        let path = register_path(dir.path());
        spoil(&path);
        let (mut register, why) = Register::open(dir.path(), 1000).unwrap();
        let why = why.unwrap_or_else(|| panic!("{what}: it is taken for sound"));
        assert!(why.contains("register.db") && why.contains("made anew"), "{what}: {why}");
        read_all(&mut register, dir.path(), u64::MAX);
        drop(register);
        assert_eq!(rows(dir.path()), before, "{what}");
        let asides = asides(dir.path());
        assert!(asides.iter().any(|name| name.ends_with("register.db")), "{what}: {asides:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    let (_, before) = made(dir.path());
    fs::remove_file(register_path(dir.path())).unwrap();
    let (mut register, why) = Register::open(dir.path(), 1000).unwrap();
    read_all(&mut register, dir.path(), u64::MAX);
    assert_eq!((why, rows(dir.path())), (None, before), "one that is lost is made anew");
}

#[test]
fn a_register_of_before_the_last_column_is_read_and_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let (events, before) = made(dir.path());
    let path = register_path(dir.path());
    Connection::open(&path)
        .unwrap()
        .execute_batch(
            "DROP VIEW transfer; ALTER TABLE hourly DROP COLUMN contradicted;
             CREATE VIEW transfer AS SELECT * FROM hourly",
        )
        .unwrap();
    // Who only reads it changes nothing.
    let register = Register::read(dir.path()).unwrap().unwrap();
    let row = register.query(&Query::default()).unwrap().remove(0);
    assert_eq!((row.sums.contradicted, row.sums.connections > 0), (0, true));
    let mut hours = 0;
    register.each_row((0, i64::MAX), |row| hours += u64::from(row.sums.contradicted == 0)).unwrap();
    assert!(hours > 0);
    drop(register);
    let (mut register, why) = Register::open(dir.path(), 1000).unwrap();
    assert_eq!(why, None);
    let more = Event { event: "close", connection: 3, at: 7000, ..events[0].clone() };
    segment(dir.path(), 0, std::iter::once(more.record(events.len())));
    read_all(&mut register, dir.path(), u64::MAX);
    let row = register.query(&Query::default()).unwrap().remove(0);
    assert_eq!(row.sums.contradicted, 1);
    drop(register);
    let after = rows(dir.path());
    assert!(before.keys().all(|key| after.contains_key(key)));
}

#[test]
fn a_register_of_another_log_is_not_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    made(dir.path());
    let path = dir.path().join(format!("{:020}.jsonl", 0));
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("late.example", "evil.example")).unwrap();
    let (_, why) = Register::open(dir.path(), 1000).unwrap();
    assert!(why.is_some_and(|why| why.contains("another one")));
}

#[test]
fn records_that_were_removed_before_they_were_read_are_counted_as_missing() {
    let dir = tempfile::tempdir().unwrap();
    let events = flood(30);
    let record = |number: usize| events[number].record(number);
    let path = segment(dir.path(), 0, (0..10).map(record));
    let (mut register, _) = Register::open(dir.path(), 1000).unwrap();
    read_all(&mut register, dir.path(), u64::MAX);
    fs::remove_file(path).unwrap();
    let mut bad = (14..30).map(record).collect::<Vec<_>>();
    bad[3] = json!("a line that is no record");
    segment(dir.path(), 14, bad.into_iter());
    read_all(&mut register, dir.path(), u64::MAX);
    let progress = register.progress();
    assert_eq!((progress.next, progress.missing, progress.unread), (30, 4, 1));
    let all = Query { by: vec![Column::Verdict], ..Query::default() };
    let told = register.query(&all).unwrap();
    assert_eq!((told.len(), told[0].sums.connections), (1, 25));
}

/// A gateway's record in small segments, with its register.
fn kept(directory: &Path, more: impl FnOnce(&Sink)) {
    let settings = Settings {
        name: "gateway.example".to_owned(),
        segment_bytes: 64 * 1024,
        ..Settings::new(directory.to_owned())
    };
    let sink = Sink::start(&settings, false).unwrap();
    more(&sink);
    assert!(sink.close(LIMIT));
    // The end of a process does not wait long for the register: the next start goes on from there.
    while !is_read(directory) {
        assert!(Sink::start(&settings, false).unwrap().close(LIMIT));
    }
}

/// Whether the register has read every record that has an id.
fn is_read(directory: &Path) -> bool {
    let mut wanted = 0;
    for segment in Segment::all(directory).unwrap() {
        let records = segment.records().unwrap();
        let lines = schengate::evidence::lines(&records).map(String::from_utf8_lossy);
        for (number, _) in (segment.first..).zip(lines).filter(|(_, line)| line.contains("\"id\":"))
        {
            wanted = number + 1;
        }
    }
    let register = Register::read(directory).ok().flatten();
    register.is_some_and(|register| register.progress().next >= wanted)
}

fn put(sink: &Sink, event: &Event) {
    let mut record = event.record(0);
    record.as_object_mut().unwrap().remove("seq");
    let text = record.to_string();
    assert!(sink.line(Kind::Other, |buffer| buffer.extend_from_slice(text.as_bytes())).is_ok());
}

fn schengate(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_schengate")).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_register_is_kept_behind_the_record_and_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let events = flood(600);
    let (first, second) = events.split_at(300);
    kept(dir.path(), |sink| first.iter().for_each(|event| put(sink, event)));
    agrees(dir.path(), first).unwrap();
    kept(dir.path(), |sink| second.iter().for_each(|event| put(sink, event)));
    agrees(dir.path(), &events).unwrap();
    assert!(Segment::all(dir.path()).unwrap().iter().any(|segment| segment.is_sealed));
    let directory = dir.path().to_str().unwrap();
    let (code, out, told) = schengate(&["audit", "reconcile", "-d", directory, "--json"]);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &report["agrees"]), (0, &json!(true)), "{out}{told}");
    assert!(report["rows"].as_u64() > Some(600), "{out}");
    // One that is spoilt is made anew by the next start, and the record says so.
    fs::write(register_path(dir.path()), "spoilt").unwrap();
    kept(dir.path(), |_| ());
    agrees(dir.path(), &events).unwrap();
    kept(dir.path(), |_| ());
    let (code, out, _) = schengate(&["audit", "grep", "\"event\":\"register\"", "-d", directory]);
    assert!(code == 0 && out.contains("moved aside"), "{out}");
}

#[test]
fn the_register_answers_and_escapes_what_it_shows() {
    let dir = tempfile::tempdir().unwrap();
    let mut events = flood(20);
    events[0].rule = Some("=cmd|'/c calc'!A0".to_owned());
    events[1].group = "a\u{1b}[31m\u{202e}\"group\"\r\n".to_owned();
    kept(dir.path(), |sink| events.iter().for_each(|event| put(sink, event)));
    let directory = dir.path().to_str().unwrap();
    let ask =
        |more: &[&str]| schengate(&[&["audit", "register", "-d", directory][..], more].concat());
    let (code, out, _) = ask(&["--json", "--by", "group,name"]);
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, told["rows"].as_array().unwrap().len()), (0, 5 + 20 + 2), "{out}");
    let of = |name: &str| {
        told["rows"].as_array().unwrap().iter().find(|row| row["name"] == name).cloned()
    };
    let large = of("large-3.example").unwrap();
    assert_eq!((&large["connections"], &large["bytes_up"]), (&json!(2), &json!(1_000_005)));
    assert_eq!(of("large-1.example").unwrap()["group"], json!(events[1].group));
    for form in [&["--format", "csv"][..], &["--json"], &[]] {
        let (code, out, _) = ask(form);
        assert_eq!(code, 0, "{form:?}");
        let is_bad = |c: char| c.is_control() && c != '\n' && c != '\r' || c == '\u{202e}';
        assert!(!out.contains(is_bad), "{form:?}: {out:?}");
        let lines = out.lines().count();
        assert_eq!(lines, if form == ["--json"] { 1 } else { 4 }, "{form:?}: {out}");
    }
    let (_, out, _) = ask(&["--format", "csv"]);
    assert!(out.contains(",\"'=cmd|'/c calc'!A0\","), "{out}");
    let count = |more: &[&str]| {
        let (code, out, _) = ask(&[more, &["--json", "--by", "verdict"]].concat());
        let told: Value = serde_json::from_str(&out).unwrap();
        (code, told["rows"][0]["connections"].as_u64())
    };
    assert_eq!(count(&[]), (0, Some(events.len() as u64)));
    assert_eq!(count(&["--from", "2026-11-30T01:00Z"]), (0, Some(1)));
    assert_eq!(count(&["--to", "2026-11-30T01:00Z"]), (0, Some(events.len() as u64 - 1)));
    assert_eq!(count(&["--from", "2026-12-01"]), (1, None));
    assert_eq!(count(&["--group", "no such group"]), (1, None));
    assert_eq!(ask(&["--from", "yesterday"]).0, 2);
    assert_eq!(ask(&["--by", "client"]).0, 2);
    let nowhere = dir.path().join("nowhere");
    let nowhere = nowhere.to_str().unwrap();
    for command in ["register", "reconcile"] {
        let (code, _, told) = schengate(&["audit", command, "-d", nowhere]);
        assert!(code == 2 && told.contains("nowhere"), "{told}");
    }
    // Segments alone, as an auditor has them.
    let path = register_path(dir.path());
    fs::remove_file(&path).unwrap();
    assert_eq!(count(&[]), (0, Some(events.len() as u64)));
    assert!(!path.exists(), "who asks writes nothing");
    fs::write(&path, "no database").unwrap();
    let (code, _, told) = ask(&[]);
    assert!(code == 2 && told.contains("register.db"), "{told}");
}

#[test]
fn each_number_that_was_changed_in_the_register_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let events = flood(40);
    kept(dir.path(), |sink| events.iter().for_each(|event| put(sink, event)));
    let directory = dir.path().to_str().unwrap();
    let counters = |allowed: usize, up: i64, active: u32| {
        let file = dir.path().join("metrics");
        let text = format!(
            "# HELP schengate_bytes_total Bytes.\n\
             schengate_verdicts_final_total{{verdict=\"allow\",reason=\"permitted\"}} {allowed}\n\
             schengate_verdicts_final_total{{verdict=\"none\",reason=\"none\"}} 0\n\
             schengate_bytes_total{{direction=\"up\"}} {up}\n\
             schengate_bytes_total{{direction=\"down\"}} {}\n\
             schengate_connections_active {active}\n",
            2 * up
        );
        fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap().to_owned();
        let (code, out, told) =
            schengate(&["audit", "reconcile", "-d", directory, "--metrics", &file]);
        (code, out + &told)
    };
    // Counters are those of the run that began last, of which there is no record yet.
    assert_eq!(counters(0, 0, 0).0, 0);
    assert_eq!(counters(1, 0, 0).0, 1);
    let start = json!({ "event": "start", "id": "19a-9", "time": "2026-11-30T00:00:00.000Z" });
    kept(dir.path(), |sink| {
        sink.line(Kind::Other, |buffer| buffer.extend(start.to_string().bytes())).unwrap();
    });
    let up: i64 = events.iter().map(|event| event.bytes.0).sum();
    let (code, out) = counters(events.len(), up, 0);
    assert!(code == 0 && out.contains("agrees"), "{out}");
    assert_eq!(counters(events.len(), up + 1, 1).0, 0, "what lives moves on");
    let (code, out) = counters(events.len(), up + 1, 0);
    assert!(code == 1 && out.contains("direction=up bytes"), "{out}");
    let (code, out) = counters(events.len() - 1, up, 0);
    assert!(code == 1 && out.contains("verdict=allow reason=permitted"), "{out}");
    fs::write(dir.path().join("metrics"), "nothing").unwrap();
    let file = dir.path().join("metrics");
    let given = ["audit", "reconcile", "-d", directory, "--metrics", file.to_str().unwrap()];
    assert_eq!(schengate(&given).0, 2);
    for column in ["opened", "connections", "bytes_up", "bytes_down"] {
        let path = register_path(dir.path());
        let change = |more: i32| {
            let database = Connection::open(&path).unwrap();
            let text = format!(
                "UPDATE hourly SET {column} = {column} + {more} WHERE name = 'large-2.example'"
            );
            assert_eq!(database.execute(&text, []).unwrap(), 1);
        };
        change(1);
        let (code, out, _) = schengate(&["audit", "reconcile", "-d", directory]);
        let is_named = out.contains("2026-11-30T00:00:00Z") && out.contains(column);
        assert!(code == 1 && is_named && out.contains("large-2.example"), "{column}: {out}");
        change(-1);
    }
    // What happened to the gateway is compared as well, each column of it.
    let database = Connection::open(register_path(dir.path())).unwrap();
    let of_start = "FROM event WHERE event = 'start'";
    let start: i64 =
        database.query_row(&format!("SELECT number {of_start}"), [], |row| row.get(0)).unwrap();
    database.execute_batch(&format!("CREATE TABLE kept AS SELECT * {of_start}")).unwrap();
    for change in [
        "UPDATE event SET record = replace(record, '19a-9', '19a-8')",
        "UPDATE event SET event = 'stop'",
        "UPDATE event SET time = time + 1",
        "UPDATE event SET sign = '2020-01-01T00:00:00.000Z'",
        "DELETE FROM event",
        "UPDATE event SET number = 4",
    ] {
        assert_eq!(database.execute(&format!("{change} WHERE number = {start}"), []).unwrap(), 1);
        let (code, out, _) = schengate(&["audit", "reconcile", "-d", directory]);
        let is_named = out.contains(&format!("the event of record {start} as it stands"));
        let is_other = out.contains("the event of record 4 as it stands: 1 in the register, 0");
        assert!(code == 1 && is_named, "{change}: {out}");
        assert_eq!(is_other, change.contains("number"), "{change}: {out}");
        let back = format!(
            "DELETE FROM event WHERE number IN (4, {start});
            INSERT INTO event SELECT * FROM kept"
        );
        database.execute_batch(&back).unwrap();
    }
    let (code, out, _) = schengate(&["audit", "reconcile", "-d", directory]);
    assert!(code == 0 && !out.contains(" 0 events"), "{out}");
}

/// Everything that was put in is sealed, verified and in the register. What it took is said with the
/// profile that it was built with; `SCHENGATE_RECORDS=200000 cargo test --release --test it
/// register::all -- --nocapture` says it of more connections.
#[test]
fn all_that_was_put_in_is_sealed_verified_and_in_the_register() {
    use schengate::evidence::note::PublicKey;
    use schengate::evidence::verify;
    use std::time::Instant;

    let connections = std::env::var("SCHENGATE_RECORDS");
    let connections = connections.map_or(10_000, |count| count.parse::<u32>().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { register: false, ..Settings::new(dir.path().to_owned()) };
    let sink = Sink::start(&settings, false).unwrap();
    let begun = Instant::now();
    for number in 0..connections {
        // Mixed: some 50 names, 20 groups of addresses, a tenth refused.
        let mix = number.wrapping_mul(2_654_435_761) >> 8;
        let event = |event, bytes| Event {
            event,
            connection: number,
            at: i64::from(number / 100),
            group: format!("group {}", mix % 4),
            rule: (mix % 7 == 0).then(|| "a rule".to_owned()),
            name: Some(format!("{}.example", mix % 50)),
            bytes,
        };
        let moved = (i64::from(mix % 5_000), i64::from(mix % 900_000));
        if mix % 10 == 0 {
            put(&sink, &event("refused", (0, 0)));
        } else {
            put(&sink, &event("open", (0, 0)));
            put(&sink, &event("close", moved));
        }
        if number % 2_000 == 0 {
            assert!(sink.flush(LIMIT));
        }
    }
    assert!(sink.close(LIMIT));
    let put_in = begun.elapsed();
    // The next start seals what is there.
    assert!(Sink::start(&settings, false).unwrap().close(LIMIT));
    let segments = Segment::all(dir.path()).unwrap();
    let sealed: Vec<_> = segments.iter().filter(|segment| segment.is_sealed).collect();
    let on_disk: u64 =
        sealed.iter().map(|one| fs::metadata(dir.path().join(one.name())).unwrap().len()).sum();
    let leaves: u64 = sealed
        .iter()
        .map(|one| dir.path().join(format!("{:020}.leaves", one.first)))
        .map(|path| fs::metadata(path).unwrap().len())
        .sum();
    let records = leaves / 32;
    let key = fs::read_to_string(dir.path().join("signing.pub")).unwrap();
    let begun = Instant::now();
    let report = verify(dir.path(), &PublicKey::parse(&key).unwrap(), &[]).unwrap();
    let took = begun.elapsed();
    assert!(report.holds(), "{:?}", report.findings);
    let begun = Instant::now();
    let (mut register, _) = Register::open(dir.path(), 1000).unwrap();
    read_all(&mut register, dir.path(), u64::MAX);
    let fed = begun.elapsed();
    let begun = Instant::now();
    let all = Query { by: vec![Column::Group, Column::Location], ..Query::default() };
    let rows = register.query(&all).unwrap();
    let asked = begun.elapsed();
    let counted: u64 = rows.iter().map(|row| row.sums.connections).sum();
    assert_eq!(counted, u64::from(connections));
    let profile = if cfg!(debug_assertions) { "without optimisation" } else { "optimised" };
    eprintln!(
        "{profile}: {} records, {} bytes each plain, {} sealed and {} with their hashes; put in {:.1} \
         s; verify {:.1} MB/s ({:.1} s); register {:.0} records/s; query {:.1} ms",
        report.records,
        report.bytes / report.records,
        on_disk / records,
        (on_disk + leaves) / records,
        put_in.as_secs_f64(),
        report.bytes as f64 / 1e6 / took.as_secs_f64(),
        took.as_secs_f64(),
        report.records as f64 / fed.as_secs_f64(),
        asked.as_secs_f64() * 1e3,
    );
}

/// The hours of the register, in days before now.
fn days(directory: &Path) -> Vec<i64> {
    let now = jiff::Timestamp::now().as_second();
    let hours = rows(directory).into_keys().map(|(hour, ..)| (now - hour) / 86_400);
    let mut days: Vec<i64> = hours.collect();
    days.dedup();
    days.sort_unstable();
    days
}

#[test]
fn hours_are_removed_by_age_and_not_while_there_is_a_hold() {
    let dir = tempfile::tempdir().unwrap();
    let now = jiff::Timestamp::now().as_second();
    let event = |connection: u32, days: i64| Event {
        event: "refused",
        connection,
        at: now - days * 86_400 - BASE,
        group: "g".to_owned(),
        rule: None,
        name: Some("erased.example".to_owned()).filter(|_| days == 9),
        bytes: (0, 0),
    };
    kept(dir.path(), |sink| {
        for (connection, days) in [(1, 9), (2, 5), (3, 0)] {
            put(sink, &event(connection, days));
        }
    });
    assert_eq!(days(dir.path()), [0, 5, 9]);
    let again = || {
        let retain = Some(Duration::from_secs(6 * 86_400));
        let settings = Settings::new(dir.path().to_owned());
        let sink = Sink::start(&Settings { register_retain: retain, ..settings }, false).unwrap();
        assert!(sink.close(LIMIT));
    };
    fs::write(dir.path().join("hold"), "").unwrap();
    again();
    assert_eq!(days(dir.path()), [0, 5, 9]);
    fs::remove_file(dir.path().join("hold")).unwrap();
    again();
    assert_eq!(days(dir.path()), [0, 5]);
    // What was removed is left out of what is compared, and said to be.
    let register = Register::read(dir.path()).unwrap().unwrap();
    let reconciled = reconcile(dir.path(), &register, None).unwrap();
    assert!(reconciled.agrees() && reconciled.left_out == 1, "{reconciled:?}");
    drop(register);
    let database = Connection::open(register_path(dir.path())).unwrap();
    database.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(database);
    let bytes = fs::read(register_path(dir.path())).unwrap();
    let name = b"erased.example";
    assert!(!bytes.windows(name.len()).any(|part| part == name), "nothing of it is left");
}
