//! Of several lists that hold rows of one provider, the first speaks for it alone (POLICY.md §3).

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

/// An AWS list with one prefix, which the embedded table places in several countries.
const AWS: &str = r#"{"syncToken": "1", "createDate": "2026-09-16-12-00-00", "ipv6_prefixes": [],
    "prefixes": [{"ip_prefix": "184.76.0.0/14", "region": "eu-central-1", "service": "AMAZON",
                  "network_border_group": "eu-central-1"}]}"#;

fn folder(providers: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("aws.json"), AWS).unwrap();
    fs::write(folder.path().join("a.csv"), "192.0.2.0/24,NL,,,\n").unwrap();
    fs::write(folder.path().join("b.csv"), "198.51.100.0/24,BE,,,\n9.9.9.0/24,BE,,,\n").unwrap();
    fs::write(folder.path().join("c.csv"), "9.9.9.0/24,NL,,,\n").unwrap();
    let text =
        format!("schema = 1\n[policy]\npermit = [\"FR\"]\n[data]\nproviders = {providers}\n");
    fs::write(folder.path().join("policy.toml"), text).unwrap();
    folder
}

fn location(folder: &Path, to: &str) -> (Vec<String>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_schengate"))
        .args(["explain", "--json", "--to", to, "--config"])
        .arg(folder.join("policy.toml"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"));
    let codes = answer["location"]["codes"].as_array().unwrap().iter();
    let codes = codes.map(|code| code.as_str().unwrap().to_owned()).collect();
    (codes, answer["location"]["source"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_newer_list_replaces_the_embedded_rows_of_its_provider() {
    let first = folder(r#"["aws.json", "embedded"]"#);
    let (codes, source) = location(first.path(), "184.76.0.1");
    assert_eq!((codes, source.as_str()), (vec!["DE".to_owned()], "aws-ranges"));
    // The embedded row alone says less.
    let alone = folder(r#"["embedded"]"#);
    assert!(location(alone.path(), "184.76.0.1").0.len() > 1);
    // Standing behind it, the list is not heard.
    let behind = folder(r#"["embedded", "aws.json"]"#);
    assert_eq!(location(behind.path(), "184.76.0.1"), location(alone.path(), "184.76.0.1"));
}

#[test]
fn what_the_newer_list_leaves_out_is_no_longer_its_providers() {
    // 3.120.0.0/14 is eu-central-1 in the embedded table.
    let alone = folder(r#"["embedded"]"#);
    let (codes, source) = location(alone.path(), "3.120.0.1");
    assert_eq!(codes, ["DE"]);
    let first = folder(r#"["aws.json", "embedded"]"#);
    assert_ne!(location(first.path(), "3.120.0.1").1, source, "by a country table, if at all");
    // Other providers of the embedded table go on speaking.
    let (_, azure) = location(first.path(), "20.43.40.1");
    assert_eq!(azure, location(alone.path(), "20.43.40.1").1);
}

#[test]
fn geofeeds_without_a_provider_do_not_silence_each_other() {
    let both = folder(r#"["a.csv", "b.csv"]"#);
    assert_eq!(location(both.path(), "9.9.9.9").0, ["BE"]);
    // Where two of them speak of one prefix, either may be right.
    let three = folder(r#"["b.csv", "c.csv"]"#);
    assert_eq!(location(three.path(), "9.9.9.9").0, ["BE", "NL"]);
}
