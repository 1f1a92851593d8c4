//! Rules by service: what a name stands for, whose files are believed, and what `explain` says of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

/// A policy over these files, whose rules name services.
fn served(rules: &str, data: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let text = format!("schema = 1\n[policy]\npermit = ['FR']\n[data]\n{data}\n{rules}");
    let policy = folder.path().join("policy.toml");
    fs::write(&policy, text).unwrap();
    (folder, policy)
}

fn run(arguments: &[&str], policy: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_schengate"));
    let output = command.args(arguments).arg("--config").arg(policy).output().unwrap();
    let both = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&both).into_owned())
}

const MAIL: &str = "[[rule]]\nname = 'mail'\nservice = ['microsoft-365/exchange']\n\
    action = 'allow'\nbasis = 'contract'\n";

#[test]
fn a_service_is_its_hosts_and_prefixes_and_explain_says_by_what() {
    let media = "[[rule]]\nname = 'media'\nservice = ['microsoft-365/teams', 'pki']\n\
                 action = 'block'\n";
    let (_folder, policy) = served(&format!("{MAIL}{media}"), "");
    let explain = |to: &str, host: &str| {
        run(&["explain", "--to", to, "--host", host, "--at", "2026-11-30"], &policy).1
    };
    // An address in the United States, which `permit` refuses.
    let (mail, media) = ("52.96.0.9", "52.112.0.9");
    let said = explain(mail, "outlook.office365.com");
    assert!(said.starts_with("allow: rule `mail`"), "{said}");
    let by = "service microsoft-365/exchange (by embedded:services of 2026-11-30)";
    assert!(said.contains(by), "{said}");
    assert!(explain(mail, "x.protection.outlook.com").starts_with("allow: rule `mail`"));
    // Another host at the same address, and the service's host unbound, are not opened.
    let other = explain(mail, "outlook.example.com");
    assert!(other.starts_with("block: ") && !other.contains("rule `mail`"), "{other}");
    let claimed =
        run(&["explain", "--to", mail, "--host", "outlook.office365.com", "--unbound"], &policy).1;
    assert!(claimed.starts_with("block: mismatch"), "{claimed}");
    // A prefix that is published without a host matches by address, a host by name.
    assert!(explain(media, "any.example.com").starts_with("block: rule `media`"));
    assert!(explain("198.51.100.1", "c.pki.goog").starts_with("block: rule `media`"));
    let json = run(&["explain", "--json", "--to", mail, "--host", "outlook.office.com"], &policy).1;
    let answer: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(answer["rule"], "mail");
    assert!(answer["ground"]["service"][0].as_str().unwrap().contains("exchange"), "{answer}");
    let (status, said) = run(&["check"], &policy);
    assert_eq!(status, Some(0), "{said}");
}

#[test]
fn a_service_that_nobody_knows_is_a_fault_with_the_names_that_are_near() {
    let (_folder, policy) = served(&MAIL.replace("exchange", "exchnage"), "");
    let (status, said) = run(&["check"], &policy);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("nobody knows the service \"microsoft-365/exchnage\""), "{said}");
    assert!(said.contains("those that are near: \"microsoft-365/exchange\""), "{said}");
    for more in ["host = ['a.example']", "to = ['192.0.2.0/24']"] {
        let (_folder, policy) = served(&format!("{MAIL}{more}\n"), "");
        let (status, said) = run(&["check"], &policy);
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains("write two rules"), "{said}");
    }
    let (_folder, policy) = served(&MAIL.replace("['microsoft-365/exchange']", "[]"), "");
    assert!(run(&["check"], &policy).1.contains("the list is empty"));
}

#[test]
fn a_file_of_services_speaks_for_its_family_and_only_the_key_opens_it() {
    let (folder, policy) = served(MAIL, "services = ['own.csv', 'embedded']");
    let at = |name: &str| folder.path().join(name);
    let header = "service,endpoint,use,source,as_of\n";
    let row = |host: &str| {
        format!("{header}microsoft-365/exchange,{host},,https://example.eu/,2026-11-01\n")
    };
    fs::write(at("plain.csv"), row("mail.example.eu")).unwrap();
    fs::write(at("own.csv"), row("mail.example.eu")).unwrap();
    let explain = |host: &str| run(&["explain", "--to", "52.96.0.9", "--host", host], &policy).1;
    let said = explain("mail.example.eu");
    assert!(said.contains("(by own.csv of 2026-11-01)"), "{said}");
    let of_the_program = explain("outlook.office365.com");
    assert!(!of_the_program.contains("rule `mail`"), "the file speaks alone: {of_the_program}");
    // With a key, only what it signed.
    let build = |key: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_schengate"));
        command.args(["data", "build", "--services"]).arg(at("own.csv")).arg("--sign").arg(at(key));
        let output = command.arg(at("plain.csv")).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    };
    let keygen = |key: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_schengate"));
        let output = command.args(["data", "keygen"]).arg(at(key)).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().replace("pack_key", "services_key")
    };
    let (own, _) = (keygen("own.pem"), keygen("stranger.pem"));
    let text = fs::read_to_string(&policy).unwrap();
    fs::write(&policy, text.replace("[data]\n", &format!("[data]\n{own}\n"))).unwrap();
    let (status, said) = run(&["check"], &policy);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("is not signed, and [data] services_key asks"), "{said}");
    build("stranger.pem");
    let (status, said) = run(&["check"], &policy);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("is not signed by [data] services_key"), "{said}");
    build("own.pem");
    let (status, said) = run(&["check"], &policy);
    assert_eq!(status, Some(0), "{said}");
    assert!(explain("mail.example.eu").starts_with("allow: rule `mail`"));
    let (_, listed) = run(&["data", "list"], &policy);
    assert!(listed.lines().any(|line| line.starts_with("services   own.csv")), "{listed}");
}
