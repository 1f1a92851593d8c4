//! The README does what it says: its commands are the ones that CI runs, its policy loads.

use schengate::control::config;

const README: &str = include_str!("../README.md");

/// The first code block behind the line `<!-- MARK -->`.
fn block(mark: &str) -> &'static str {
    let (_, rest) = README.split_once(&format!("<!-- {mark} -->\n```")).expect("the mark");
    let (_, rest) = rest.split_once('\n').expect("a code block");
    rest.split_once("```").expect("the end of the block").0
}

#[test]
fn the_policy_of_the_readme_loads() {
    let loaded = config::parse(block("policy"), None).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(loaded.config.rules.len(), 1);
    assert!(loaded.config.rules[0].is_waiver());
}

#[test]
fn the_policy_of_the_first_command_loads_and_enforces() {
    let command = block("run");
    let (_, path) = command.trim().split_once("--config ").expect("a policy file");
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let loaded = config::load(Some(&path)).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(loaded.config.policy.mode, schengate::policy::Mode::Enforce);
    assert!(loaded.lints.is_empty(), "{:?}", loaded.lints);
}

#[test]
fn the_test_command_is_one_line_of_cargo() {
    assert_eq!(block("test").trim().lines().count(), 1);
    assert!(block("test").starts_with("cargo test"));
}

#[test]
fn every_file_that_the_readme_links_to_is_there() {
    let links = README.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let local: Vec<_> = links.filter(|link| !link.starts_with("http")).collect();
    assert!(local.len() > 5);
    for link in local {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(link);
        assert!(path.is_file(), "{link}");
    }
}

#[test]
fn the_catalogue_has_each_row_once() {
    let text = include_str!("../docs/catalogue.md");
    let rows: Vec<_> = text.lines().filter(|line| line.starts_with("| ")).collect();
    let mut once = std::collections::BTreeSet::new();
    for row in rows.iter().filter(|row| !row.starts_with("| case ")) {
        assert!(once.insert(row), "{row}");
    }
    assert!(once.len() > 100);
}
