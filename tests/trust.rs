//! Whether data can be trusted, from the outside: what the commands say of tables, and which tables
//! they refuse.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn schengate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_schengate")).args(arguments).output().unwrap()
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", stderr(output)))
}

fn write(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> String {
    let path: PathBuf = folder.join(name);
    fs::write(&path, content).unwrap();
    path.into_os_string().into_string().unwrap()
}

const OLD: &str = "192.0.2.0,192.0.2.255,FR\n198.51.100.0,198.51.100.255,DE\n2001:db8::,2001:db8:0:ffff:ffff:ffff:ffff:ffff,FR\n";
const NEW: &str = "192.0.2.0,192.0.2.127,FR\n192.0.2.128,192.0.2.255,US\n203.0.113.0,203.0.113.255,DE\n2001:db8::,2001:db8:0:ffff:ffff:ffff:ffff:ffff,CH\n";

#[test]
fn verify_says_what_a_table_covers_and_refuses_a_faulty_one_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let good = write(dir.path(), "good.csv", OLD);
    let asn = write(dir.path(), "asn.csv", "192.0.2.0,192.0.2.255,64500,\"Example, Inc\"\n");
    let aws = write(
        dir.path(),
        "aws.json",
        r#"{"createDate": "2026-11-04-12-00-00", "prefixes":
        [{"ip_prefix": "192.0.2.0/24", "region": "eu-west-3", "service": "EC2",
          "network_border_group": "eu-west-3"}]}"#,
    );
    let sound = schengate(&["data", "verify", &good, &asn, &aws, "--json"]);
    assert_eq!(status(&sound), 0, "{}", stderr(&sound));
    let told = json(&sound);
    let kinds: Vec<_> = (0..3).map(|at| told[at]["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["country", "asn", "providers"]);
    assert_eq!(told[0]["coverage"]["total"], serde_json::json!({"ipv4": 512, "ipv6_48s": 1}));
    let first = serde_json::json!({"label": "FR", "ipv4": 256, "ipv6_48s": 1});
    assert_eq!(told[0]["coverage"]["top"][0], first);
    assert_eq!(told[1]["coverage"]["top"][0]["label"], "AS64500");
    assert_eq!(told[2]["coverage"]["top"][0]["label"], "FR");
    assert_eq!(told[2]["date"], "2026-11-04T12:00:00Z");
    assert_eq!(told[0]["digest"].as_str().unwrap().len(), 64);
    let bad = write(dir.path(), "bad.csv", &OLD[..OLD.len() - 30]);
    let refused = schengate(&["data", "verify", &good, &bad]);
    assert_eq!(status(&refused), 1);
    let text = stdout(&refused);
    assert!(text.contains("good.csv: sound, 3 rows"), "{text}");
    assert!(text.contains("bad.csv") && text.contains("REFUSED"), "{text}");
}

#[test]
fn verify_without_files_reads_what_the_policy_names() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "c.csv", OLD);
    let policy =
        "schema = 1\n[policy]\npermit = ['eea']\n[data]\ncountry = ['c.csv', 'embedded']\n";
    let policy = write(dir.path(), "policy.toml", policy);
    let answer = schengate(&["data", "verify", "--json", "--config", &policy]);
    assert_eq!(status(&answer), 0, "{}", stderr(&answer));
    let names: Vec<_> =
        json(&answer).as_array().unwrap().iter().map(|t| t["name"].to_string()).collect();
    let embedded = ["\"embedded:geo-whois\"", "\"embedded:asn\"", "\"embedded:cloud\""];
    assert_eq!(names, [&["\"c.csv\""], &embedded[..]].concat());
    fs::remove_file(dir.path().join("c.csv")).unwrap();
    assert_eq!(status(&schengate(&["data", "verify", "--config", &policy])), 1);
    assert_eq!(status(&schengate(&["data", "verify", "--config", "/nowhere.toml"])), 2);
}

#[test]
fn diff_counts_what_was_gained_lost_and_moved() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (write(dir.path(), "o.csv", OLD), write(dir.path(), "n.csv", NEW));
    let differs = schengate(&["data", "diff", &old, &new, "--json"]);
    assert_eq!(status(&differs), 1, "{}", stderr(&differs));
    let told = json(&differs);
    let change = |label: &str| {
        let changes = told["changes"].as_array().unwrap();
        let found = changes.iter().find(|change| change["label"] == label).unwrap();
        let count = |key: &str| found[key]["ipv4"].as_u64().unwrap();
        (count("before"), count("after"), count("gained"), count("lost"))
    };
    assert_eq!(change("FR"), (256, 128, 0, 128));
    assert_eq!(change("US"), (0, 128, 128, 0));
    assert_eq!(change("DE"), (256, 256, 256, 256));
    let moves = told["moves"].as_array().unwrap();
    assert_eq!(moves.len(), 4);
    let moved = |from, to, ipv4, ipv6_48s| serde_json::json!({"from": from, "to": to, "ipv4": ipv4, "ipv6_48s": ipv6_48s});
    assert!(moves.contains(&moved(Some("FR"), Some("US"), 128, 0)), "{moves:?}");
    assert!(moves.contains(&moved(Some("FR"), Some("CH"), 0, 1)), "{moves:?}");
    assert!(moves.contains(&moved(Some("DE"), None, 256, 0)), "{moves:?}");
    assert!(stdout(&schengate(&["data", "diff", &old, &new])).contains("FR          -> US"));
    assert_eq!(status(&schengate(&["data", "diff", &old, &old])), 0);
    assert_eq!(status(&schengate(&["data", "diff", "embedded", "embedded"])), 0);
    assert_eq!(status(&schengate(&["data", "diff", "embedded", &old])), 1);
    let asn = write(dir.path(), "asn.csv", "192.0.2.0,192.0.2.255,64500,x\n");
    let kinds = schengate(&["data", "diff", &old, &asn]);
    assert_eq!(status(&kinds), 2, "{}", stdout(&kinds));
}
