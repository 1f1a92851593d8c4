//! What each preset of `schengate init` decides, as its text says.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use jiff::Timestamp;
use schengate::control::load::load;
use schengate::identify::{HostName, Protocol};
use schengate::policy::{Claim, Policy, Question, Transport};

/// Destinations: in France (OVH), in Switzerland, in the United States, in China, in Frankfurt under the
/// law of the United States (AWS), and one that nobody knows.
const DESTINATIONS: [&str; 6] =
    ["213.186.33.5", "195.186.1.110", "52.96.0.9", "202.96.128.86", "3.120.5.1", "198.51.100.1"];

/// What becomes of each, enforced.
const DECISIONS: [(&str, [&str; 6]); 7] = [
    ("eea", ["allow", "block", "block", "block", "allow", "block"]),
    ("gdpr-free-flow", ["allow", "allow", "block", "block", "allow", "block"]),
    ("hds", ["allow", "block", "block", "block", "log", "block"]),
    ("secnumcloud", ["allow", "block", "block", "block", "block", "block"]),
    ("dora", ["allow", "allow", "allow", "allow", "allow", "block"]),
    ("us-dsp", ["allow", "allow", "allow", "block", "allow", "block"]),
    ("agent", ["block", "block", "block", "block", "block", "block"]),
];

fn init(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_schengate")).arg("init").args(arguments).output();
    let output = output.unwrap();
    let both = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&both).into_owned())
}

fn decided(policy: &Policy, to: &str, host: Option<&str>) -> &'static str {
    let host = host.map(|host| HostName::parse(host.as_bytes()).unwrap());
    let question = Question {
        client: None,
        destination: SocketAddr::new(to.parse().unwrap(), 443),
        transport: Transport::Tcp,
        protocol: Protocol::Tls,
        name: host.as_ref().map_or(Claim::Unread, Claim::Bound),
        ech: false,
    };
    policy.decide(&question).action().label()
}

fn policy(preset: &str, folder: &Path) -> Policy {
    let file = folder.join(format!("{preset}.toml"));
    let (status, said) = init(&[preset, "--enforce", "--output", file.to_str().unwrap()]);
    assert_eq!(status, Some(0), "{said}");
    let now = Timestamp::now();
    load(Some(&file), now)
        .unwrap_or_else(|fault| panic!("{preset}: {fault}"))
        .compiler
        .policy_at(now)
}

#[test]
fn each_preset_decides_as_its_text_says() {
    let folder = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    for (preset, expected) in DECISIONS {
        let policy = policy(preset, folder.path());
        let found = DESTINATIONS.map(|to| decided(&policy, to, None));
        if found != expected {
            wrong.push(format!("{preset}: {found:?}, not {expected:?}"));
        }
        if preset == "agent" {
            for (host, expected) in [
                ("registry.npmjs.org", "allow"),
                ("api.mistral.ai", "allow"),
                ("api.openai.com", "block"),
            ] {
                assert_eq!(decided(&policy, "52.96.0.9", Some(host)), expected, "{host}");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_file_that_is_there_is_written_over_only_where_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.toml");
    fs::write(&file, "mine").unwrap();
    let path = file.to_str().unwrap();
    let (status, said) = init(&["eea", "--output", path]);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("--force"), "{said}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    assert_eq!(init(&["eea", "--output", path, "--force"]).0, Some(0));
    assert!(fs::read_to_string(&file).unwrap().contains("# Preset eea"));
    assert_eq!(init(&["eea", "--output", "/nowhere/policy.toml"]).0, Some(2));
    let (status, said) = init(&[]);
    assert_eq!(status, Some(0));
    for (preset, _) in DECISIONS {
        assert!(said.contains(preset), "{said}");
    }
}
