//! What whoever runs the gateway relies on: which policy a command takes, levels in the journal,
//! alerts.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::gateway::Gateway;

const POLICY: &str = "schema = 1
[policy]
permit = ['FR']
[zones]
mine = ['FR']
[admin]
address = '127.0.0.1:0'
[[listen]]
mode = 'tproxy'
address = '127.0.0.1:0'
[[rule]]
name = 'installed'
to = ['81.0.0.1/32']
action = 'block'
";

/// Runs the program where /etc holds nothing but, where there is one, an installed policy. `None`,
/// after saying so, where no mount namespace can be made; in CI that is a failure.
fn with_etc(policy: Option<&str>, arguments: &[&str]) -> Option<Output> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.toml");
    fs::write(&file, policy.unwrap_or_default()).unwrap();
    let script = "mount -t tmpfs none /etc && mkdir /etc/schengate && \
                  if [ $1 = yes ]; then cp \"$2\" /etc/schengate/; fi && shift 2 && exec \"$@\"";
    let run = |program: &[&str]| {
        Command::new("unshare")
            .args(["--mount", "--map-root-user", "sh", "-c", script, "sh"])
            .arg(if policy.is_some() { "yes" } else { "no" })
            .arg(&file)
            .args(program)
            .args(arguments)
            .output()
            .unwrap()
    };
    let tried = Command::new("unshare")
        .args(["--mount", "--map-root-user", "mount", "-t", "tmpfs", "none", "/etc"])
        .output()
        .unwrap();
    if !tried.status.success() {
        let why = String::from_utf8_lossy(&tried.stderr).into_owned();
        let required = std::env::var("SCHENGATE_NETNS").is_ok_and(|value| value == "require");
        assert!(!required, "no mount namespace: {why}");
        eprintln!("SKIPPED: no mount namespace: {why}");
        return None;
    }
    Some(run(&[env!("CARGO_BIN_EXE_schengate")]))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Every command that answers by a policy, and what it answers by the one above alone.
const COMMANDS: [(&[&str], &str); 9] = [
    (&["explain", "--to", "81.0.0.1"], "`installed`"),
    (&["explain", "--to", "81.0.0.1", "--json"], "\"rule\":\"installed\""),
    (&["check"], "/etc/schengate/policy.toml: loads"),
    (&["check", "--json"], "\"ok\":true"),
    (&["inspect", "--datagrams", "/dev/null"], "no destination"),
    (&["capture", "print"], "table inet schengate"),
    (&["data", "list"], "embedded"),
    (&["data", "verify"], "embedded"),
    (&["zones", "show", "mine"], "FR"),
];

#[test]
fn h10_commands_take_the_installed_policy_and_say_so() {
    for (command, answer) in COMMANDS {
        let Some(output) = with_etc(Some(POLICY), command) else { return };
        let (out, told) = (text(&output.stdout), text(&output.stderr));
        let note = "note: no --config: the policy /etc/schengate/policy.toml\n";
        assert!(told.starts_with(note) && !out.contains("note:"), "{command:?}: {told}");
        assert!(out.contains(answer), "{command:?}: {out}{told}");
    }
    let explained = with_etc(Some(POLICY), &["explain", "--to", "81.0.0.1"]).unwrap();
    let line = "file         the policy /etc/schengate/policy.toml\n";
    assert!(text(&explained.stdout).contains(line));
    // One that is broken is no reason to answer by another.
    for (command, _) in COMMANDS {
        let output = with_etc(Some("schema = 1\n[policy]\n"), command).unwrap();
        assert_ne!(output.status.code(), Some(0), "{command:?}");
        let told = text(&output.stdout) + &text(&output.stderr);
        assert!(told.contains("policy.permit"), "{command:?}: {told}");
    }
}

#[test]
fn explain_says_whether_the_lane_takes_what_a_name_decides() {
    let lane = |binding: &str, to: &str| {
        let policy = format!(
            "schema = 1\n[policy]\npermit = ['FR']\n[names]\nbinding = '{binding}'\n\
             [[place]]\nto = ['81.0.0.1/32']\nlocation = ['FR']\nreason = 'a test'\n\
             [[rule]]\nname = 'n'\nhost = ['refused.example']\naction = 'block'\n\
             [[listen]]\nmode = 'tproxy'\naddress = '[::]:15001'\n[[listen]]\nmode = 'lane'\n"
        );
        let output = with_etc(Some(&policy), &["explain", "--json", "--to", to])?;
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        Some(said["path"].as_str().unwrap().to_owned())
    };
    let Some(named) = lane("trust", "81.0.0.1:443") else { return };
    assert_eq!(named, "lane");
    assert_eq!(lane("trust", "81.0.0.1:80").unwrap(), "gateway");
    assert_eq!(lane("redial", "81.0.0.1:443").unwrap(), "gateway");
}

#[test]
fn w06_explain_says_of_an_address_what_a_host_leaves_unjudged() {
    let host = format!(
        "{POLICY}[[listen]]\nmode = 'redirect'\naddress = '[::]:15002'\n[capture]\n\
         ntp = ['81.0.0.9']\n"
    );
    let explain = |policy: &str, more: &[&str]| {
        let arguments = [&["explain", "--to", "81.0.0.9:123"], more].concat();
        with_etc(Some(policy), &arguments).map(|output| text(&output.stdout))
    };
    let Some(said) = explain(&host, &[]) else { return };
    let unjudged = said.split("\nunjudged, where this host's own traffic is captured").nth(1);
    let unjudged = unjudged.unwrap_or_else(|| panic!("{said}"));
    for way in ["NTP: UDP to port 123", "ICMP type 8 (echo request) of at most 84 bytes"] {
        assert!(unjudged.contains(way), "{said}");
    }
    let json = explain(&host, &["--json"]).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json["host_unjudged"][0].as_str().unwrap().starts_with("NTP"), "{json}");
    // Without a listener for it a host's own traffic is not captured.
    assert!(!explain(POLICY, &[]).unwrap().contains("unjudged"));
}

#[test]
fn h10_without_an_installed_policy_the_built_in_one_answers_and_is_named() {
    let note = "note: no --config: the built-in policy, which only observes\n";
    for (command, _) in COMMANDS {
        let Some(output) = with_etc(None, command) else { return };
        assert!(text(&output.stderr).starts_with(note), "{command:?}: {}", text(&output.stderr));
    }
    let explained = with_etc(None, &["explain", "--to", "81.0.0.1"]).unwrap();
    assert!(text(&explained.stdout).contains("file         the built-in policy"));
}

#[test]
fn h10_run_takes_no_policy_that_it_is_not_told_of() {
    // Without a file the default holds, an explicit proxy that observes. The installed policy is
    // broken, so that whoever took it would end at once.
    let bad = ["run", "--config", "/etc/schengate/policy.toml"];
    let Some(output) = with_etc(Some("no policy"), &bad) else { return };
    assert_eq!(output.status.code(), Some(2));
    let dir = tempfile::tempdir().unwrap();
    let stop = dir.path().join("stop");
    // A network of its own: its ports are fixed. `timeout` ends it when it is ready and long after.
    let script = format!(
        "mount -t tmpfs none /etc && mkdir /etc/schengate && echo x > /etc/schengate/policy.toml && \
         ip link set lo up && {{ {} run 2>&1 & echo $! > {}; wait; }}",
        env!("CARGO_BIN_EXE_schengate"),
        stop.display()
    );
    let mut child = Command::new("unshare")
        .args(["--mount", "--net", "--map-root-user", "sh", "-c", &script])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut seen = Vec::new();
    for line in lines {
        let ready = line.contains("listening");
        seen.push(line);
        if ready {
            let id = fs::read_to_string(&stop).unwrap();
            assert!(Command::new("kill").arg(id.trim()).status().unwrap().success());
        }
    }
    child.wait().unwrap();
    assert!(seen.iter().any(|line| line.contains("127.0.0.1:3128")), "{seen:#?}");
}

/// Lines of a gateway that starts, warns and errs, with stderr on a stream that is said to be the
/// journal's.
fn lines_on(journal: impl Fn(&File) -> String) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.toml");
    let policy = |admin: u8| {
        POLICY.replace("'127.0.0.1:0'", &format!("'127.0.0.{admin}:0'")).replace("tproxy", "proxy")
    };
    fs::write(&file, policy(1)).unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let stream = File::from(OwnedFd::from(writer.try_clone().unwrap()));
    let mut child = Command::new(env!("CARGO_BIN_EXE_schengate"))
        .args(["run", "--config"])
        .arg(&file)
        .env("JOURNAL_STREAM", journal(&stream))
        .stderr(writer)
        .spawn()
        .unwrap();
    drop(stream);
    let signal = |name: &str| {
        let id = child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    };
    let mut seen = Vec::new();
    for line in BufReader::new(reader).lines().map_while(Result::ok) {
        if line.contains("\"listening\"") {
            fs::write(&file, policy(2)).unwrap();
            signal("HUP");
        } else if line.contains("policy reloaded") {
            fs::write(&file, "no policy").unwrap();
            signal("HUP");
        } else if line.contains("does not load") {
            signal("TERM");
        }
        seen.push(line);
    }
    child.wait().unwrap();
    seen
}

#[test]
fn h10_a_line_to_the_journal_has_its_level_in_front_and_no_other_line_has() {
    let told = |file: &File| {
        let about = file.metadata().unwrap();
        format!("{}:{}", about.dev(), about.ino())
    };
    let lines = lines_on(told);
    for (level, front) in [("INFO", "<6>{"), ("WARN", "<4>{"), ("ERROR", "<3>{")] {
        let of: Vec<_> =
            lines.iter().filter(|line| line.contains(&format!("\"level\":\"{level}\""))).collect();
        assert!(!of.is_empty(), "{level}: {lines:#?}");
        assert!(of.iter().all(|line| line.starts_with(front)), "{of:#?}");
    }
    for elsewhere in ["1:1", "", "journal"] {
        let lines = lines_on(|_| elsewhere.to_owned());
        assert!(lines.iter().all(|line| !line.starts_with('<')), "{lines:#?}");
    }
}

fn alerts() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/prometheus/alerts.yml")
}

#[test]
fn h10_every_counter_that_an_alert_watches_is_there_before_it_counts() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.toml");
    fs::write(&file, POLICY.replace("tproxy", "proxy")).unwrap();
    let gateway = Gateway::start(&["--config", file.to_str().unwrap()]);
    let page = gateway.page("/metrics");
    let rules = fs::read_to_string(alerts()).unwrap();
    let mut watched = 0;
    for part in rules.split("increase(").skip(1) {
        let series = part.split('[').next().unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels: Vec<_> = labels.trim_end_matches('}').split(',').collect();
        let is_it = |line: &&str| {
            let starts = line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
            starts && labels.iter().all(|label| line.contains(label))
        };
        assert!(page.lines().any(|line| is_it(&line)), "{series} is absent at the start");
        watched += 1;
    }
    assert!(watched > 5, "{watched}");
}

#[test]
fn h10_prometheus_takes_the_alerts_and_a_first_burst_raises_one() {
    let Ok(version) = Command::new("promtool").arg("--version").output() else {
        assert!(std::env::var_os("SCHENGATE_CI").is_none(), "promtool is not installed");
        eprintln!("SKIPPED: promtool is not installed (Debian: prometheus)");
        return;
    };
    assert!(version.status.success());
    let checked = Command::new("promtool").args(["check", "rules"]).arg(alerts()).output().unwrap();
    assert!(checked.status.success(), "{}{}", text(&checked.stdout), text(&checked.stderr));
    // What raises each alert, and what keeps it silent.
    let cases = alerts().with_file_name("alerts_test.yml");
    let tested = Command::new("promtool").args(["test", "rules"]).arg(&cases).output().unwrap();
    assert!(tested.status.success(), "{}{}", text(&tested.stdout), text(&tested.stderr));
    let cases = fs::read_to_string(cases).unwrap();
    let rules = fs::read_to_string(alerts()).unwrap();
    let names = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    let mut count = 0;
    for name in names {
        for case in ["fires", "silent"] {
            assert!(cases.contains(&format!("- name: {name} {case}\n")), "{name} {case}: no case");
        }
        count += 1;
    }
    assert!(count > 15, "{count}");
    let dir = tempfile::tempdir().unwrap();
    let series = "schengate_connections_total{instance=\"gw\",mode=\"tproxy\",verdict=\"block\",\
                  reason=\"overload\"}";
    // There from the start, at 0; and as it was, absent before the burst.
    for (values, raised) in [("0 0 0 40 40", true), ("_ _ _ 40 40", false)] {
        let alert = "\n          - exp_labels: { severity: critical, instance: gw, mode: tproxy, \
                     verdict: block, reason: overload }\n            exp_annotations:\n              \
                     summary: \"gw refuses connections that it cannot take on\"";
        let test = format!(
            "rule_files: ['{}']\nevaluation_interval: 1m\ntests:\n  - interval: 1m\n    \
             input_series:\n      - series: '{series}'\n        values: '{values}'\n    \
             alert_rule_test:\n      - eval_time: 4m\n        alertname: SchengateOverload\n        \
             exp_alerts:{}\n",
            alerts().display(),
            if raised { alert } else { " []" }
        );
        let file = dir.path().join("test.yml");
        fs::write(&file, test).unwrap();
        let tested = Command::new("promtool").args(["test", "rules"]).arg(&file).output().unwrap();
        assert!(tested.status.success(), "{}{}", text(&tested.stdout), text(&tested.stderr));
    }
}
