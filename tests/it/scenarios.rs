//! The contract by example: every line of the scenarios through `schengate explain --json`.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support;

/// Lines where the policy's text, which stands, says something else than the line, by
/// `config to at`, with the reason.
const DIFFERENCES: &[(&str, &str)] = &[];

/// Whether one line is answered as expected; `Err` holds what came instead.
fn answers(home: &Path, line: &Value) -> Result<(), String> {
    let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    let mut command = Command::new(env!("CARGO_BIN_EXE_schengate"));
    command.arg("explain").arg("--config").arg(home.join(text("config")));
    command.args(["--json", "--to", &text("to")]);
    for key in ["host", "client", "protocol", "at"] {
        if line[key].is_string() {
            command.args([&format!("--{key}"), &text(key)]);
        }
    }
    for key in ["unbound", "ech"] {
        if line[key] == Value::Bool(true) {
            command.arg(format!("--{key}"));
        }
    }
    let output = command.output().map_err(|error| error.to_string())?;
    let got: Value = serde_json::from_slice(&output.stdout)
        .map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let mut wanted = vec!["rule"];
    wanted.extend(["verdict", "reason", "would"].into_iter().filter(|&key| !line[key].is_null()));
    let code = if line["verdict"] == "block" { 1 } else { 0 };
    if wanted.iter().all(|&key| got[key] == line[key]) && output.status.code() == Some(code) {
        return Ok(());
    }
    Err(format!("exit {:?}, {got}", output.status.code()))
}

fn score(folder: &str) {
    let Some(shared) = support::shared(folder) else { return };
    let home = shared.join(folder);
    let lines = std::fs::read_to_string(home.join("expect.jsonl")).expect("the expected answers");
    let (mut good, mut bad) = (0, Vec::new());
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).expect("a line of JSON");
        let id = [&line["config"], &line["to"], &line["at"]]
            .map(|part| part.as_str().unwrap_or(""))
            .join(" ");
        match answers(&home, &line) {
            Ok(()) => good += 1,
            Err(_) if DIFFERENCES.iter().any(|(known, _)| *known == id) => {}
            Err(got) => bad.push(format!("{line}\n    got {got}")),
        }
    }
    println!("{folder}: {good} of {} lines", lines.lines().count());
    assert!(
        bad.is_empty(),
        "{} lines differ, the first:\n{}",
        bad.len(),
        bad[..bad.len().min(5)].join("\n")
    );
    assert!(good > 0);
}

#[test]
fn every_hand_made_scenario_is_answered_as_expected() {
    score("scenarios");
}

#[test]
fn every_drawn_scenario_is_answered_as_expected() {
    score("scenarios/drawn");
    score("scenarios/drawn-2");
}
