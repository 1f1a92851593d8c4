//! What `audit export` writes: OCSF that its published schema takes, tables that no spreadsheet runs,
//! and nothing that a client wrote as anything but text.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

/// Names that a client may send, each meant to be more than text somewhere.
const HOSTILE: [&str; 8] = [
    "=HYPERLINK(\"http://x\")",
    "+1+cmd|' /c calc'!A0",
    "-2",
    "@sum(1)",
    "\ttab",
    "\r\nforged,line",
    "<script>alert(1)</script>",
    "\u{1b}[2J\u{202e}moc.elpmaxe",
];

pub(crate) fn schengate(arguments: &[&str]) -> (i32, String, String) {
    let done = Command::new(env!("CARGO_BIN_EXE_schengate")).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (done.status.code().unwrap(), text(done.stdout), text(done.stderr))
}

/// A record of each kind that there is, those of connections with every hostile name.
pub(crate) fn log(directory: &Path) -> usize {
    let mut records = Vec::new();
    let mut put = |mut record: Value| {
        record["seq"] = records.len().into();
        records.push(record);
    };
    put(json!({ "event": "start", "id": "19a-1", "time": "2026-11-30T09:00:00.000Z",
        "policy": "p", "mode": "enforce", "version": "0.1.0" }));
    for (at, name) in HOSTILE.iter().enumerate() {
        for (event, verdict, end) in [
            ("open", json!("allow"), Value::Null),
            ("close", json!("log"), json!("done")),
            ("close", json!("allow"), json!("upstream-reset")),
            ("refused", json!("block"), json!("refused")),
            ("unjudged", Value::Null, json!("client-gone")),
            ("asked", json!("block"), Value::Null),
        ] {
            let mut record = json!({ "event": event, "id": format!("19a-{at}"),
                "time": format!("2026-11-30T1{at}:00:00.000Z"), "client": "10.0.0.9:50000",
                "listener": "tproxy", "transport": "tcp", "destination": "203.0.113.7:443",
                "host": name, "name_source": "sni", "name_bound": true, "sni_inside": name,
                "ech": false, "protocol": "tls", "fault": null, "location": ["DE"],
                "anycast": false, "source": "t", "region": null, "operator": name, "asn": 64500,
                "law": ["DE", "US"], "policy": "p", "group": name, "rule": name, "basis": name,
                "verdict": verdict, "reason": "rule", "would": null, "mode": "enforce",
                "bytes_up": 3, "bytes_down": 4, "duration_ms": 1000, "rtt_min_us": 900,
                "end": end, "queries": null });
            if event == "refused" {
                record["count"] = 9.into();
                record["first"] = "2026-11-30T08:00:00.000Z".into();
                record["last"] = "2026-11-30T08:00:01.000Z".into();
            }
            if event == "unjudged" {
                record["destination"] = Value::Null;
                record["host"] = Value::Null;
                record["location"] = Value::Null;
            }
            put(record);
        }
        put(json!({ "event": "update", "id": format!("19a-{at}"),
            "time": format!("2026-11-30T1{at}:30:00.000Z"), "bytes_up": 1, "bytes_down": 2,
            "duration_ms": 5 }));
    }
    let text: String = records.iter().map(|record| record.to_string() + "\n").collect();
    fs::write(directory.join(format!("{:020}.jsonl", 0)), text).unwrap();
    records.len()
}

#[test]
fn hostile_names_are_text_in_every_form() {
    let dir = tempfile::tempdir().unwrap();
    let records = log(dir.path());
    let directory = dir.path().to_str().unwrap();
    for (format, wanted) in [("json", records), ("csv", records + 1), ("ocsf", HOSTILE.len() * 6)] {
        let (code, out, _) = schengate(&["audit", "export", directory, "--format", format]);
        assert_eq!(code, 0);
        let is_end = |c: char| c == '\n' || format == "csv" && c == '\r';
        let bad = out
            .chars()
            .find(|&c| c.is_control() && !is_end(c) || matches!(c, '\u{202a}'..='\u{202e}'));
        assert_eq!(bad, None, "{format}");
        assert_eq!(out.lines().count(), wanted, "{format}");
        if format == "csv" {
            for line in out.lines().skip(1) {
                for cell in line.split(',') {
                    let cell = cell.trim_start_matches('"');
                    let is_formula = cell.starts_with(['=', '+', '@', '\t', '\r'])
                        || cell.starts_with('-') && cell.parse::<i64>().is_err();
                    assert!(!is_formula, "{cell}");
                }
            }
        } else {
            out.lines().for_each(|line| drop(serde_json::from_str::<Value>(line).unwrap()));
        }
    }
}

#[test]
fn a_span_is_exported_and_a_version_that_is_none_is_not() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path());
    let directory = dir.path().to_str().unwrap();
    let span = |from: &str, to: &str| {
        let given = ["audit", "export", "-d", directory, "--from", from, "--to", to];
        let (code, out, _) = schengate(&given);
        (code, out.lines().count())
    };
    assert_eq!(span("2026-11-30T12:00Z", "2026-11-30T13:00Z"), (0, 7));
    assert_eq!(span("2026-11-30T12:00Z", "2026-11-30T12:30Z"), (0, 6));
    assert_eq!(span("2026-12-01", "2026-12-02"), (1, 0));
    let version = |version: &str| {
        let given = ["audit", "export", directory, "--format", "ocsf", "--ocsf-version", version];
        schengate(&given).0
    };
    assert_eq!(["1.1", "1.9.0"].map(version), [0, 0]);
    assert_eq!(["1.0", "2.1", "1.10", "x"].map(version), [2; 4]);
}

/// Checks each line of standard input against the schema that the OCSF project published as that
/// version, and says how many it was.
const CHECK: &str = "
import json, sys
from jsonschema import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema
version = sys.argv[1]
schema = OcsfJsonSchemaEmbedded(get_ocsf_schema(version))
schema = schema.get_class_schema('network_activity', ['security_control'])
check, count = Draft202012Validator(schema), 0
for line in sys.stdin:
    event = json.loads(line)
    assert event['metadata']['version'] == version
    for fault in check.iter_errors(event):
        print(version, fault.json_path, fault.message[:300])
        sys.exit(1)
    count += 1
print(count)
";

/// A Python that has the schema; `None`, said loudly, where the index of packages is not to be had.
fn python() -> Option<PathBuf> {
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ocsf-1.2.0");
    let python = venv.join("bin/python");
    let has_all = |python: &Path| {
        let mut asked = Command::new(python);
        asked.args(["-c", "import jsonschema, ocsf_json_schema"]);
        asked.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    if has_all(&python) {
        return Some(python);
    }
    let run = |program: &Path, arguments: &[&str]| {
        Command::new(program).args(arguments).status().is_ok_and(|status| status.success())
    };
    let made = run(Path::new("python3"), &["-m", "venv", venv.to_str().unwrap()])
        && run(
            &venv.join("bin/pip"),
            &["install", "-q", "ocsf-json-schema==1.2.0", "jsonschema==4.26.0"],
        );
    if made && has_all(&python) {
        return Some(python);
    }
    assert!(std::env::var_os("SCHENGATE_CI").is_none(), "no Python with the schema of OCSF");
    eprintln!("LEFT OUT: no Python with the schema of OCSF: nothing was checked against it");
    None
}

#[test]
fn the_published_schema_takes_every_event() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    log(dir.path());
    let directory = dir.path().to_str().unwrap();
    let check = |version: &str, events: &str| {
        let mut asked = Command::new(&python);
        asked.args(["-c", CHECK, version]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut asked = asked.spawn().unwrap();
        // Of one that leaves at the first fault the pipe breaks.
        let _gone = asked.stdin.take().unwrap().write_all(events.as_bytes());
        let done = asked.wait_with_output().unwrap();
        (done.status.success(), String::from_utf8(done.stdout).unwrap())
    };
    for minor in 1..=8 {
        let version = format!("1.{minor}.0");
        let given = ["audit", "export", directory, "--format", "ocsf", "--ocsf-version", &version];
        let (code, events, told) = schengate(&given);
        assert!(code == 0 && told.contains("not network activity"), "{told}");
        let wanted = format!("{}\n", HOSTILE.len() * 6);
        assert_eq!(check(&version, &events), (true, wanted));
        // What is not of the schema is found.
        let broken = events.replacen("\"direction_id\"", "\"heading_id\"", 1);
        assert!(!check(&version, &broken).0);
    }
}
