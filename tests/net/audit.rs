//! The record as evidence: nothing leaves without its line, nothing can be changed without being
//! found, and another program agrees.

use std::collections::{HashMap, HashSet};
use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use schengate::evidence::checkpoint::Checkpoint;
use schengate::evidence::note::PublicKey;
use schengate::evidence::{
    Durability, FindingKind, Kind, OnFailure, Report, Segment, Settings, Sink, SinkFault, lines,
    verify,
};
use serde_json::Value;

use crate::lab::role::VARIABLE;

/// The directory of the record, for a helper.
const DIRECTORY: &str = "SCHENGATE_AUDIT_DIRECTORY";

/// What stands before a helper's own lines among those of the test harness.
const MARK: &str = "helper ";

const LIMIT: Duration = Duration::from_secs(60);

fn settings(directory: &Path) -> Settings {
    Settings { name: "gateway.example".to_owned(), ..Settings::new(directory.to_owned()) }
}

/// A line as the gateway's are, of an event and an id.
fn line(event: &str, id: &str) -> String {
    let now = jiff::Timestamp::now();
    format!(
        "{{\"event\":\"{event}\",\"id\":\"{id}\",\"time\":\"{now:.3}\",\"host\":\"pacs.example\",\
         \"location\":[\"FR\"],\"verdict\":\"allow\",\"reason\":\"permitted\"}}"
    )
}

fn put(sink: &Sink, kind: Kind, text: &str) -> bool {
    let kept = sink.line(kind, |buffer| buffer.extend_from_slice(text.as_bytes()));
    match kept {
        Ok(Some(on_disk)) => {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(on_disk).is_ok()
        }
        kept => kept.is_ok(),
    }
}

fn public_key(directory: &Path) -> PublicKey {
    PublicKey::parse(&fs::read_to_string(directory.join("signing.pub")).unwrap()).unwrap()
}

pub(crate) fn checked(directory: &Path) -> Report {
    verify(directory, &public_key(directory), &[]).unwrap()
}

/// Every record of a log.
pub(crate) fn records(directory: &Path) -> Vec<Value> {
    let segments = Segment::all(directory).unwrap();
    let read = |segment: &Segment| {
        let records = segment.records().unwrap();
        lines(&records).map(|line| serde_json::from_slice(line).unwrap()).collect::<Vec<Value>>()
    };
    segments.iter().flat_map(read).collect()
}

fn ids(records: &[Value], event: &str) -> Vec<String> {
    let of = records.iter().filter(|record| record["event"] == event);
    of.map(|record| record["id"].as_str().unwrap().to_owned()).collect()
}

/// This program as a helper in a role.
fn helper(role: &str, directory: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["a_helper_process_does_as_its_role_says", "--exact", "--nocapture"])
        .env(VARIABLE, role)
        .env(DIRECTORY, directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}

/// What a helper said, each time that it said something.
fn said(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.map_while(Result::ok).filter_map(|line| {
        // The harness writes its own words before the first line of a helper.
        line.split_once(MARK).map(|(_, said)| said.to_owned())
    })
}

fn say(text: &str) {
    let line = format!("{MARK}{text}\n");
    // One write, so that a line is there whole or not at all.
    std::io::stdout().write_all(line.as_bytes()).unwrap();
    std::io::stdout().flush().unwrap();
}

/// The helper in one of the roles of this file.
pub(crate) fn play(role: &str) {
    let directory = PathBuf::from(std::env::var(DIRECTORY).unwrap());
    match role {
        "audit-load" => load(&directory),
        "audit-full-block" => full(&directory, OnFailure::Block),
        "audit-full-pass" => full(&directory, OnFailure::Pass),
        other => panic!("no role {other}"),
    }
}

/// Connections until the end of the world: each is let out once its line is kept, and closed.
fn load(directory: &Path) {
    let sink = Sink::start(&settings(directory), false).unwrap();
    let run = std::process::id();
    thread::scope(|scope| {
        for thread in 0..3 {
            let sink = &sink;
            scope.spawn(move || {
                for number in 0_u64.. {
                    let id = format!("{run}.{thread}-{number}");
                    if put(sink, Kind::Opening, &line("open", &id)) {
                        say(&id);
                        put(sink, Kind::Other, &line("close", &id));
                    }
                }
            });
        }
    });
}

#[test]
fn a04_no_kill_leaves_bytes_in_the_world_without_their_open_line() {
    let kills = std::env::var("SCHENGATE_KILLS").map_or(20, |kills| kills.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let mut world = Vec::new();
    for round in 0..kills {
        let mut child = helper("audit-load", dir.path()).spawn().unwrap();
        let mut lines = said(&mut child);
        // Somewhere between the first line and some batches later.
        let wanted = 1 + round * 2_654_435_761_usize % 3000;
        world.extend(lines.by_ref().take(wanted));
        child.kill().unwrap();
        child.wait().unwrap();
        world.extend(lines);
    }
    let sink = Sink::start(&settings(dir.path()), false).unwrap();
    assert!(sink.close(LIMIT));
    let records = records(dir.path());
    let open = ids(&records, "open");
    let kept: HashSet<&String> = open.iter().collect();
    let unkept: Vec<_> = world.iter().filter(|id| !kept.contains(id)).collect();
    assert!(unkept.is_empty(), "{} of {}: {:?}", unkept.len(), world.len(), unkept.first());
    assert_eq!(kept.len(), open.len(), "a line is in the record twice");
    assert!(world.len() > kills, "{}", world.len());
    let report = checked(dir.path());
    assert!(report.holds(), "{:?}", report.findings);
    assert_eq!((report.records, report.signed), (records.len() as u64, records.len() as u64));
    eprintln!("{kills} kills, {} connections in the world, {} open lines", world.len(), open.len());
}

#[test]
fn a_directory_has_one_writer_and_the_next_one_may_wait_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let first = Sink::start(&settings(dir.path()), false).unwrap();
    let taken = Sink::start(&settings(dir.path()), false);
    assert!(matches!(taken, Err(SinkFault::Taken(_))), "{taken:?}");
    let next = Sink::start(&settings(dir.path()), true).unwrap();
    assert!(put(&first, Kind::Opening, &line("open", "first")));
    assert!(put(&next, Kind::Opening, &line("open", "next")));
    assert!(put(&first, Kind::Other, &line("close", "first")));
    assert!(first.close(LIMIT));
    assert!(next.close(LIMIT));
    let records = records(dir.path());
    assert_eq!(ids(&records, "open"), ["first", "next"]);
    assert_eq!(ids(&records, "close"), ["first"]);
    assert!(checked(dir.path()).holds());
    let left = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(!left.into_iter().any(|name| name.to_string_lossy().starts_with("ring.")));
}

#[test]
fn what_was_opened_is_on_the_disk_where_the_policy_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let durable = Settings { durability: Durability::Disk, ..settings(dir.path()) };
    let sink = Sink::start(&durable, false).unwrap();
    for number in 0..20 {
        assert!(put(&sink, Kind::Opening, &line("open", &number.to_string())));
        // No flush: it is in the segment by the time the connection goes on.
        assert_eq!(ids(&records(dir.path()), "open").len(), number + 1);
    }
    assert!(sink.close(LIMIT));
}

/// A log of several segments, the first of them sealed, and its last checkpoint.
fn log(directory: &Path) -> Checkpoint {
    let small = Settings { segment_bytes: 12_000, ..settings(directory) };
    for run in 0..2 {
        let sink = Sink::start(&small, false).unwrap();
        for round in 0..4 {
            for number in 0..60 {
                let id = format!("{run}.{round}-{number}");
                assert!(put(&sink, Kind::Opening, &line("open", &id)));
            }
            assert!(sink.flush(LIMIT));
        }
        assert!(sink.close(LIMIT));
    }
    let note = fs::read_to_string(directory.join("head")).unwrap();
    Checkpoint::open(&note, &public_key(directory)).unwrap()
}

/// Numbers that look like chance, the same in every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % most as u64) as usize
    }
}

/// The content of the files of a log by their names.
fn files(directory: &Path) -> HashMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// Writes the records of a segment anew, compressed where they were.
fn rewrite(directory: &Path, segment: &Segment, records: &[Vec<u8>]) {
    let mut bytes = records.join(&b'\n');
    if !records.is_empty() {
        bytes.push(b'\n');
    }
    let path = directory.join(segment.name());
    let bytes = if segment.is_sealed { zstd::encode_all(&bytes[..], 1).unwrap() } else { bytes };
    fs::write(path, bytes).unwrap();
}

#[test]
fn a06_each_of_a_thousand_changes_is_found_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let head = log(dir.path());
    let key = public_key(dir.path());
    let check = || verify(dir.path(), &key, std::slice::from_ref(&head)).unwrap();
    let whole = check();
    assert!(whole.holds() && whole.records == head.size, "{:?}", whole.findings);
    let segments = Segment::all(dir.path()).unwrap();
    assert!(segments.len() > 4 && segments.iter().any(|segment| segment.is_sealed));
    let original = files(dir.path());
    let mut chance = Chance(0x5eed_0f16);
    let mut done: HashMap<&str, usize> = HashMap::new();
    let mut round = 0;
    while done.values().sum::<usize>() < 1000 {
        round += 1;
        let at = chance.below(segments.len());
        let segment = &segments[at];
        let bytes = segment.records().unwrap();
        let mut records: Vec<Vec<u8>> = lines(&bytes).map(<[u8]>::to_vec).collect();
        if records.len() < 2 {
            continue;
        }
        let index = chance.below(records.len());
        let number = segment.first + index as u64;
        let (change, named): (&str, Option<FindingKind>) = match chance.below(8) {
            0 => {
                let record = &mut records[index];
                let byte = chance.below(record.len());
                record[byte] = if record[byte] == b'x' { b'y' } else { b'x' };
                ("edit", Some(FindingKind::Edited))
            }
            1 => {
                records.remove(index);
                ("deletion", Some(FindingKind::Deleted))
            }
            2 => {
                let other = (index + 1 + chance.below(records.len() - 1)) % records.len();
                records.swap(index, other);
                ("reorder", Some(FindingKind::Reordered))
            }
            3 => {
                let to = chance.below(records.len());
                records.insert(to, records[index].clone());
                ("copy", Some(FindingKind::Inserted))
            }
            4 => {
                records.insert(index, line("open", "forged").into_bytes());
                ("insertion", Some(FindingKind::Inserted))
            }
            5 => {
                records.truncate(index);
                ("cut", Some(FindingKind::Deleted))
            }
            6 => {
                let ending = if chance.below(2) == 0 { "leaves" } else { "notes" };
                let path = dir.path().join(format!("{:020}.{ending}", segment.first));
                let mut bytes = fs::read(&path).unwrap();
                let byte = chance.below(bytes.len());
                // Of a checkpoint, the time is beside what is signed; and one without its end was
                // never whole.
                let begins = bytes[..byte].iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
                if ending == "notes" && (byte - begins < 40 || byte + 1 == bytes.len()) {
                    continue;
                }
                bytes[byte] ^= 1;
                fs::write(path, bytes).unwrap();
                (ending, None)
            }
            _ => {
                // Everything from a checkpoint on, without a trace in the directory itself.
                for gone in &segments[at..] {
                    for ending in ["jsonl", "jsonl.zst", "leaves", "notes"] {
                        fs::remove_file(dir.path().join(format!("{:020}.{ending}", gone.first)))
                            .ok();
                    }
                }
                ("end", None)
            }
        };
        if let Some(kind) = named {
            rewrite(dir.path(), segment, &records);
            let report = check();
            let is_named = report.findings.iter().any(|finding| {
                finding.kind == kind && (finding.record == number || kind != FindingKind::Edited)
            });
            assert!(is_named, "round {round}: {change} of {number}: {:?}", report.findings);
        } else {
            let report = check();
            assert!(!report.holds(), "round {round}: {change} of {number} is not found");
        }
        *done.entry(change).or_default() += 1;
        for (path, bytes) in &original {
            fs::write(path, bytes).unwrap();
        }
        for entry in fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()) {
            assert!(original.contains_key(&entry), "{}", entry.display());
        }
    }
    assert!(check().holds());
    assert!(done.len() == 9 && done.values().all(|&times| times > 30), "{done:?}");
}

#[test]
fn a05_a_torn_tail_is_cut_and_recorded_and_the_log_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path());
    let last = Segment::all(dir.path()).unwrap().pop().unwrap();
    let (path, original) = (dir.path().join(last.name()), files(dir.path()));
    let whole = original[&path].clone();
    for end in (0..whole.len()).step_by(97) {
        fs::write(&path, &whole[..end]).unwrap();
        let sink = Sink::start(&settings(dir.path()), false).unwrap();
        assert!(put(&sink, Kind::Opening, &line("open", "after")));
        assert!(sink.close(LIMIT));
        let report = checked(dir.path());
        // What was signed and is gone is named; the log says itself that it was cut.
        let kinds: HashSet<_> = report.findings.iter().map(|finding| finding.kind).collect();
        assert_eq!(kinds, HashSet::from([FindingKind::Deleted]), "{end}");
        let said: HashSet<_> = report.remarks.iter().map(|remark| remark.kind).collect();
        assert!(said.contains(&FindingKind::Gap), "{end}: {said:?}");
        let is_torn = end > 0 && whole[end - 1] != b'\n';
        assert_eq!(said.contains(&FindingKind::Mended), is_torn, "{end}: {said:?}");
        assert!(ids(&records(dir.path()), "open").contains(&"after".to_owned()));
        for path in files(dir.path()).keys() {
            fs::remove_file(path).unwrap();
        }
        for (path, bytes) in &original {
            fs::write(path, bytes).unwrap();
        }
    }
}

/// What `audit export` writes of a log, a value a line.
fn exported(directory: &Path) -> Vec<Value> {
    let mut export = Command::new(env!("CARGO_BIN_EXE_schengate"));
    let output = export.args(["audit", "export"]).arg(directory).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a07_what_is_delivered_twice_or_lost_on_the_way_shows_by_its_number() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path());
    let first = exported(dir.path());
    let sink = Sink::start(&settings(dir.path()), false).unwrap();
    assert!(put(&sink, Kind::Opening, &line("open", "after")));
    assert!(sink.close(LIMIT));
    // A shipper that had no answer sends all of it once more.
    let again = exported(dir.path());
    assert!(again.len() > first.len());
    let number = |record: &Value| record["seq"].as_u64().unwrap();
    let mut kept: HashMap<u64, &Value> = HashMap::new();
    for record in first.iter().chain(&again) {
        let before = kept.insert(number(record), record);
        assert!(before.is_none_or(|before| before == record), "{record}");
    }
    assert_eq!(kept.len(), again.len());
    let ids: HashSet<_> = kept.values().filter_map(|one| one["id"].as_str()).collect();
    let named = kept.values().filter(|one| one["id"].is_string()).count();
    assert_eq!(ids.len(), named, "an id is one record's, with open lines alone");
    // A collector that took some and lost them has a gap in the numbers, and what it lacks is to be had.
    let mut chance = Chance(0x5eed_0a07);
    let lost: HashSet<u64> = (0..20).map(|_| chance.below(kept.len() - 1) as u64).collect();
    kept.retain(|number, _| !lost.contains(number));
    let last = *kept.keys().max().unwrap();
    let missing: HashSet<u64> = (0..=last).filter(|number| !kept.contains_key(number)).collect();
    assert_eq!(missing, lost);
    for number in missing {
        let mut show = Command::new(env!("CARGO_BIN_EXE_schengate"));
        let output =
            show.args(["audit", "show", &number.to_string(), "-d"]).arg(dir.path()).output();
        let told: Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
        assert_eq!(told, again[number as usize]);
    }
}

#[test]
fn a07_a_segment_that_is_removed_or_emptied_under_its_writer_is_named_and_the_log_goes_on() {
    for is_removed in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let sink = Sink::start(&settings(dir.path()), false).unwrap();
        let put_some = |sink: &Sink, round: &str| {
            for number in 0..50 {
                assert!(put(sink, Kind::Opening, &line("open", &format!("{round}-{number}"))));
            }
            assert!(sink.flush(LIMIT));
        };
        put_some(&sink, "before");
        let segment = Segment::all(dir.path()).unwrap().pop().unwrap();
        let path = dir.path().join(segment.name());
        if is_removed {
            fs::remove_file(&path).unwrap();
        } else {
            // As a rotation that copies and truncates does.
            OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
        }
        put_some(&sink, "meanwhile");
        assert!(sink.close(LIMIT));
        // The segment is gone, or each of its records is.
        let found = |report: &Report| {
            let kinds = report.findings.iter().map(|finding| finding.kind);
            kinds.collect::<HashSet<FindingKind>>()
        };
        let report = checked(dir.path());
        let wanted = if is_removed { FindingKind::Missing } else { FindingKind::Deleted };
        assert!(found(&report).contains(&wanted), "{is_removed}: {:?}", report.findings);
        // The next one goes on behind what was signed, says that something is lost, and what it writes
        // stands.
        let signed = report.signed;
        assert!(signed > 50);
        let sink = Sink::start(&settings(dir.path()), false).unwrap();
        put_some(&sink, "after");
        assert!(sink.close(LIMIT));
        let report = checked(dir.path());
        assert!(report.findings.iter().all(|finding| finding.record < signed), "{report:?}");
        assert!(found(&report).contains(&FindingKind::Deleted), "{:?}", report.findings);
        let said: HashSet<_> = report.remarks.iter().map(|remark| remark.kind).collect();
        assert!(said.contains(&FindingKind::Gap), "{is_removed}: {said:?}");
        assert!(report.records > signed + 50);
        let after = ids(&records(dir.path()), "open");
        let after: Vec<_> = after.iter().filter(|id| id.starts_with("after-")).collect();
        assert_eq!(after.len(), 50);
        // Where nothing is left but the last checkpoint, that says what there was.
        for path in files(dir.path()).keys() {
            let is_kept = ["head", "signing.pub"].iter().any(|name| path.ends_with(name));
            if !is_kept {
                fs::remove_file(path).ok();
            }
        }
        let report = checked(dir.path());
        assert!(found(&report).contains(&FindingKind::Cut), "{:?}", report.findings);
    }
}

#[test]
fn a_fork_and_a_segment_that_is_gone_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let head = log(dir.path());
    let key = public_key(dir.path());
    let before = files(dir.path());
    let grow = |id: &str| {
        let sink = Sink::start(&settings(dir.path()), false).unwrap();
        assert!(put(&sink, Kind::Opening, &line("open", id)));
        assert!(sink.close(LIMIT));
        let note = fs::read_to_string(dir.path().join("head")).unwrap();
        Checkpoint::open(&note, &key).unwrap()
    };
    let one = grow("one");
    for path in files(dir.path()).keys() {
        fs::remove_file(path).unwrap();
    }
    for (path, bytes) in &before {
        fs::write(path, bytes).unwrap();
    }
    let other = grow("other");
    assert_eq!(one.size, other.size);
    let report = verify(dir.path(), &key, &[head.clone(), other]).unwrap();
    assert!(report.holds(), "{:?}", report.findings);
    let report = verify(dir.path(), &key, &[head, one]).unwrap();
    let kinds: Vec<_> = report.findings.iter().map(|finding| finding.kind).collect();
    assert_eq!(kinds, [FindingKind::Fork]);
    let second = Segment::all(dir.path()).unwrap()[1].clone();
    fs::remove_file(dir.path().join(second.name())).unwrap();
    let report = checked(dir.path());
    assert!(
        report.findings.iter().any(|finding| {
            finding.kind == FindingKind::Missing && finding.record == second.first
        }),
        "{:?}",
        report.findings
    );
}

/// Fills the disk under the record, and gives it room again.
fn full(directory: &Path, on_failure: OnFailure) {
    let settings = Settings { on_failure, ..settings(directory) };
    let sink = Sink::start(&settings, false).unwrap();
    let room = directory.join("room");
    // What is left of the disk, but for a little.
    let mut filler = OpenOptions::new().create(true).append(true).open(&room).unwrap();
    while filler.write_all(&[0; 4096]).is_ok() {}
    filler.set_len(filler.metadata().unwrap().len().saturating_sub(64 * 1024)).unwrap();
    let (mut kept, mut tried) = (0_u64, 0_u64);
    while tried < 40_000 && (on_failure == OnFailure::Pass || kept == tried) {
        kept += u64::from(put(&sink, Kind::Opening, &line("open", &tried.to_string())));
        tried += 1;
    }
    let refuses = !sink.keeps();
    // A refusal is recorded where connections are no longer opened.
    let told = put(&sink, Kind::Other, &line("refused", "told"));
    let fault = sink.status().fault;
    fs::remove_file(&room).unwrap();
    drop(filler);
    let freed = sink.close(LIMIT);
    say(&format!("{kept} {tried} {refuses} {told} {} {freed}", fault.is_some()));
}

/// Runs a helper on a small disk of its own, and gives what it said, and the log.
fn on_a_full_disk(role: &str) -> Option<(String, tempfile::TempDir)> {
    let kept = tempfile::tempdir().unwrap();
    let disk = kept.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let script = "mount -t tmpfs -o size=40m none \"$1\" && \"$2\" a_helper_process_does_as_its_role_says \
                  --exact --nocapture && rm -f \"$1\"/ring.* && mkdir \"$3\" && cp \"$1\"/* \"$3\"";
    let log = kept.path().join("log");
    let output = Command::new("unshare")
        .args(["--mount", "--map-root-user", "sh", "-c", script, "sh"])
        .args([disk.as_path(), &std::env::current_exe().unwrap(), &log])
        .env(VARIABLE, role)
        .env(DIRECTORY, &disk)
        .output()
        .unwrap();
    let (out, told) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if told.contains("unshare") || told.contains("mount:") {
        let required = std::env::var("SCHENGATE_NETNS").is_ok_and(|value| value == "require");
        assert!(!required, "no mount namespace: {told}");
        eprintln!("SKIPPED: no mount namespace: {told}");
        return None;
    }
    let said = out.lines().find_map(|line| line.split_once(MARK).map(|(_, said)| said.to_owned()));
    Some((said.unwrap_or_else(|| panic!("{out}{told}")), kept))
}

#[test]
fn a02_a_full_disk_lets_nothing_out_unrecorded() {
    let Some((said, dir)) = on_a_full_disk("audit-full-block") else { return };
    let words: Vec<&str> = said.split(' ').collect();
    let [kept, tried, "true", "true", "true", "true"] = words[..] else { panic!("{said}") };
    let (kept, tried): (u64, u64) = (kept.parse().unwrap(), tried.parse().unwrap());
    assert_eq!(tried, kept + 1, "the first that is not kept is refused");
    let log = dir.path().join("log");
    let records = records(&log);
    assert_eq!(ids(&records, "open").len() as u64, kept);
    assert_eq!(ids(&records, "refused"), ["told"]);
    let report = checked(&log);
    assert!(report.holds() && report.remarks.is_empty(), "{report:?}");
}

#[test]
fn a02_a_full_disk_that_is_passed_over_leaves_an_exact_gap() {
    let Some((said, dir)) = on_a_full_disk("audit-full-pass") else { return };
    let words: Vec<&str> = said.split(' ').collect();
    let ["40000", "40000", "false", "true", "true", "true"] = words[..] else { panic!("{said}") };
    let log = dir.path().join("log");
    let records = records(&log);
    let lost: u64 = records.iter().filter_map(|record| record["lost"].as_u64()).sum();
    let open = ids(&records, "open").len() as u64;
    let told = ids(&records, "refused").len() as u64;
    assert!(lost > 0);
    assert_eq!(open + told + lost, 40_001);
    let report = checked(&log);
    assert!(report.holds(), "{:?}", report.findings);
    assert!(report.remarks.iter().all(|remark| remark.kind == FindingKind::Gap));
}

/// A program that shares nothing with this one: Python's hashlib and OpenSSL's Ed25519.
const OTHER: &str = r#"
import base64, hashlib, sys
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
name, key_id, key = open(sys.argv[1]).read().strip().split("+", 2)
key = base64.b64decode(key)
assert key[0] == 1
body, signatures = open(sys.argv[2], encoding="utf-8").read().split("\n\n")
signer, signature = signatures.strip().removeprefix("\u2014 ").split(" ")
signature = base64.b64decode(signature)
assert signer == name and signature[:4].hex() == key_id
assert hashlib.sha256(name.encode() + b"\n" + key).digest()[:4].hex() == key_id
Ed25519PublicKey.from_public_bytes(key[1:]).verify(signature[4:], (body + "\n").encode())
origin, size, root = body.split("\n")
leaves = [hashlib.sha256(b"\0" + line).digest() for line in open(sys.argv[3], "rb").read().splitlines()]
def tree(leaves):
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\1" + tree(leaves[:k]) + tree(leaves[k:])).digest()
assert origin == name and int(size) == len(leaves) and base64.b64decode(root) == tree(leaves)
print("holds")
"#;

#[test]
fn another_program_verifies_a_checkpoint_and_the_tree_under_it() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path());
    let all = dir.path().join("all");
    let records = Segment::all(dir.path())
        .unwrap()
        .iter()
        .flat_map(|segment| segment.records().unwrap())
        .collect::<Vec<u8>>();
    fs::write(&all, &records).unwrap();
    let run = || {
        let files = ["signing.pub", "head", "all"].map(|name| dir.path().join(name));
        Command::new("python3").arg("-c").arg(OTHER).args(files).output()
    };
    let Ok(output) = run() else {
        assert!(std::env::var_os("SCHENGATE_CI").is_none(), "no python3");
        return eprintln!("LEFT OUT: another_program_verifies_a_checkpoint: no python3");
    };
    let told = String::from_utf8_lossy(&output.stderr);
    if told.contains("ModuleNotFoundError") {
        assert!(std::env::var_os("SCHENGATE_CI").is_none(), "{told}");
        return eprintln!("LEFT OUT: another_program_verifies_a_checkpoint: {told}");
    }
    assert_eq!(String::from_utf8_lossy(&output.stdout), "holds\n", "{told}");
    fs::write(&all, [&records[..], b"{}\n"].concat()).unwrap();
    assert!(!run().unwrap().status.success(), "the other program sees a record more");
}

pub(crate) fn schengate(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_schengate")).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_commands_verify_prove_and_show() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path());
    let directory = dir.path().to_str().unwrap();
    let key = dir.path().join("signing.pub");
    let key = key.to_str().unwrap();
    let (code, out, _) = schengate(&["audit", "verify", directory, "--key", key]);
    assert!(code == 0 && out.contains("gateway.example holds"), "{out}");
    let (code, out, _) = schengate(&["audit", "verify", directory, "--key", key, "--json"]);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &report["holds"], &report["unsigned"]), (0, &true.into(), &0.into()));
    let (code, proof, _) = schengate(&["audit", "prove", "1.2-7", "-d", directory]);
    assert_eq!(code, 0);
    let file = dir.path().join("proof");
    fs::write(&file, &proof).unwrap();
    let text = fs::read_to_string(key).unwrap();
    let check =
        |key: &str| schengate(&["audit", "verify-proof", file.to_str().unwrap(), "--key", key]);
    let (code, out, told) = check(text.trim());
    assert!(
        code == 0 && out.contains("\"id\":\"1.2-7\"") && told.contains("stands in"),
        "{out}{told}"
    );
    fs::write(&file, proof.replace("index ", "index 1")).unwrap();
    assert_eq!(check(text.trim()).0, 1);
    fs::write(&file, "no proof").unwrap();
    assert_eq!(check(text.trim()).0, 2);
    let (code, out, _) = schengate(&["audit", "head", "-d", directory]);
    assert!(code == 0 && out == fs::read_to_string(dir.path().join("head")).unwrap());
    let (code, out, _) = schengate(&["audit", "show", "0.0-3", "-d", directory]);
    assert!(code == 0 && out.lines().count() == 1 && out.contains("\"seq\":"), "{out}");
    let (code, out, _) = schengate(&["audit", "tail", "-n", "3", "-d", directory]);
    assert!(code == 0 && out.lines().count() == 3 && out.contains("1.3-59"), "{out}");
    assert_eq!(schengate(&["audit", "grep", "no such text", "-d", directory]).0, 1);
    let (code, out, _) = schengate(&["audit", "export", "--format", "csv", "-d", directory]);
    let rows = out.lines().count() as u64;
    assert_eq!((code, rows), (0, report["records"].as_u64().unwrap() + 1));
    let nowhere = dir.path().join("nowhere");
    let (code, _, told) = schengate(&["audit", "verify", nowhere.to_str().unwrap(), "--key", key]);
    assert!(code == 2 && told.contains("nowhere"), "{told}");
    let (code, _, told) = schengate(&["audit", "verify", directory, "--key", "a+b"]);
    assert!(code == 2 && told.contains("is not a public key"), "{told}");
    let segment = Segment::all(dir.path()).unwrap().into_iter().find(|one| one.is_sealed).unwrap();
    let mut records: Vec<_> = lines(&segment.records().unwrap()).map(<[u8]>::to_vec).collect();
    records[4] = String::from_utf8(records[4].clone())
        .unwrap()
        .replace("pacs.example", "evil.example")
        .into_bytes();
    rewrite(dir.path(), &segment, &records);
    let (code, out, _) = schengate(&["audit", "verify", directory, "--key", key]);
    let named = format!("edited: record {}, {} line 5: ", segment.first + 4, segment.name());
    assert!(code == 1 && out.contains(&named) && out.contains("does not hold"), "{named}\n{out}");
}

#[test]
fn a_key_is_made_once_and_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("own.key");
    let path = file.to_str().unwrap();
    let (code, out, _) = schengate(&["audit", "keygen", path, "--name", "gw1.example.org"]);
    assert!(code == 0 && PublicKey::parse(&out).is_ok(), "{out}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_to_string(dir.path().join("own.pub")).unwrap(), out);
    let secret = fs::read_to_string(&file).unwrap();
    assert_eq!(schengate(&["audit", "keygen", path, "--name", "other"]).0, 2);
    assert_eq!(fs::read_to_string(&file).unwrap(), secret, "a key is never overwritten");
    assert_eq!(schengate(&["audit", "keygen", path, "--name", "two words"]).0, 2);
    let log = dir.path().join("log");
    let given = Settings { key: file, ..settings(&log) };
    let sink = Sink::start(&given, false).unwrap();
    assert_eq!(sink.public_key().as_deref(), Some(out.trim()));
    assert!(sink.close(LIMIT));
}
