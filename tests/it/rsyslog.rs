//! Debian's rsyslog reads what `audit export` writes: each line whole, and each field by its name.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::export::{log, schengate};

const LIMIT: Duration = Duration::from_secs(60);

/// The program; `None`, said loudly, where it is not installed.
fn rsyslogd() -> Option<&'static str> {
    let known = ["/usr/sbin/rsyslogd", "/sbin/rsyslogd"];
    let found = known.into_iter().find(|path| Path::new(path).exists());
    if found.is_none() {
        assert!(std::env::var_os("SCHENGATE_CI").is_none(), "no rsyslogd: install rsyslog");
        eprintln!("LEFT OUT: no rsyslogd: that it reads what is exported was not shown");
    }
    found
}

/// Follows `export`, and writes each line as it came into `lines`, and four of its fields, which rsyslog
/// itself reads out of the JSON, into `fields`.
fn configuration(directory: &Path, fields: [&str; 4]) -> String {
    let at = directory.display();
    let [first, second, third, fourth] = fields;
    format!(
        r#"
global(workDirectory="{at}" maxMessageSize="64k")
module(load="imfile")
module(load="mmjsonparse")
input(type="imfile" File="{at}/export" Tag="schengate" freshStartTail="off")
template(name="line" type="string" string="%msg%\n")
template(name="fields" type="string" string="%$!{first}%|%$!{second}%|%$!{third}%|%$!{fourth}%\n")
action(type="omfile" file="{at}/lines" template="line" asyncWriting="off" flushOnTXEnd="on")
action(type="mmjsonparse" cookie="")
if $parsesuccess == "OK" then {{
    action(type="omfile" file="{at}/fields" template="fields" asyncWriting="off" flushOnTXEnd="on")
}}
"#
    )
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may be gone already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn debians_rsyslog_reads_every_exported_line_and_its_fields() {
    let Some(rsyslogd) = rsyslogd() else { return };
    let record = tempfile::tempdir().unwrap();
    log(record.path());
    let source = record.path().to_str().unwrap();
    for (format, fields) in [
        ("json", ["seq", "event", "client", "verdict"]),
        ("ocsf", ["class_uid", "action", "metadata!version", "status_detail"]),
    ] {
        let (code, exported, _) = schengate(&["audit", "export", source, "--format", format]);
        assert_eq!(code, 0);
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        fs::write(file("conf"), configuration(dir.path(), fields)).unwrap();
        // It comes in two parts, as from a pipe, of which the first ends in the middle of a line.
        let (first, rest) = exported.split_at(exported.len() / 2);
        fs::write(file("export"), first).unwrap();
        let log = fs::File::create(file("log")).unwrap();
        let mut rsyslog = Command::new(rsyslogd);
        rsyslog.arg("-n").arg("-f").arg(file("conf")).arg("-i").arg(file("pid"));
        rsyslog.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut rsyslog = Running(rsyslog.spawn().unwrap());
        let read = |name: &str| fs::read_to_string(file(name)).unwrap_or_default();
        let mut wait = |wanted: usize| {
            let begun = Instant::now();
            while [read("lines"), read("fields")].iter().any(|text| text.lines().count() < wanted) {
                let gone = rsyslog.0.try_wait().unwrap();
                assert!(gone.is_none() && begun.elapsed() < LIMIT, "{gone:?}: {}", read("log"));
                thread::sleep(Duration::from_millis(20));
            }
        };
        wait(first.lines().count() - 1);
        let mut whole = fs::OpenOptions::new().append(true).open(file("export")).unwrap();
        std::io::Write::write_all(&mut whole, rest.as_bytes()).unwrap();
        wait(exported.lines().count());
        assert_eq!(read("lines"), exported, "{format}");
        let told = |line: &str| -> String {
            let line: Value = serde_json::from_str(line).unwrap();
            let field = |path: &str| {
                let value = path.split('!').fold(&line, |value, part| &value[part]);
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                if value.is_null() { String::new() } else { text }
            };
            fields.map(field).join("|") + "\n"
        };
        let wanted: String = exported.lines().map(told).collect();
        assert_eq!(read("fields"), wanted, "{format}");
    }
}
