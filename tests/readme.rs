//! The README does what it says: its commands are the ones that CI runs, its policy loads.

use std::fs;
use std::path::{Path, PathBuf};

use schengate::control::config;
use schengate::policy::Reason;

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
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let loaded = config::load(Some(&path)).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(loaded.config.policy.mode, schengate::policy::Mode::Enforce);
    assert!(loaded.lints.is_empty(), "{:?}", loaded.lints);
}

#[test]
fn the_line_to_try_it_by_is_a_policy_and_a_command() {
    let line = block("exec");
    let (options, command) = line.trim().split_once(" -- ").expect("a command behind two dashes");
    let words = options.strip_prefix("schengate exec --policy permit=").expect("a policy in words");
    assert!(config::is_built_in(words), "{words}");
    assert!(command.starts_with("curl "));
}

/// What stands between two dots of the block is the answer, word by word; `...` leaves lines out.
#[test]
fn what_the_readme_says_of_an_address_is_what_the_program_says() {
    let (command, shown) = block("explain").split_once('\n').expect("a command and its answer");
    let words = command.strip_prefix("$ schengate ").expect("a command").split(' ');
    let program = env!("CARGO_BIN_EXE_schengate");
    let output = std::process::Command::new(program).args(words).output().expect("the program");
    let said = String::from_utf8(output.stdout).expect("text");
    let mut rest = said.as_str();
    for piece in shown.split("...\n") {
        let at = rest.find(piece).unwrap_or_else(|| panic!("{piece:?} is not in\n{said}"));
        rest = &rest[at + piece.len()..];
    }
}

#[test]
fn the_test_command_is_one_line_of_cargo() {
    assert_eq!(block("test").trim().lines().count(), 1);
    assert!(block("test").starts_with("cargo test"));
}

/// Every page, by its path in the tree.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["", "docs", "tests", "config", "fuzz"].map(|folder| root.join(folder));
    let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).expect("a folder"));
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.extension().is_some_and(|ending| ending == "md")).collect()
}

#[test]
fn every_file_that_a_page_links_to_or_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let rooms = [
        "src/",
        "tests/",
        "docs/",
        "config/",
        "benches/",
        "fuzz/",
        "systemd/",
        "packaging/",
        ".ci/",
    ];
    let mut seen = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).expect("a page");
        let links = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
        let local = links.filter(|link| !link.is_empty() && !link.starts_with("http"));
        let linked = local.map(|link| page.parent().expect("a folder").join(link));
        // What stands between two backticks on one line.
        let quoted = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
        let is_path = |word: &&str| {
            rooms.iter().any(|room| word.starts_with(room)) && !word.contains(['*', ' ', '<'])
        };
        let named = quoted.filter(is_path).map(|word| root.join(word));
        for path in linked.chain(named) {
            seen += 1;
            assert!(path.exists(), "{} names {}", page.display(), path.display());
        }
    }
    assert!(seen > 80, "{seen}");
}

#[test]
fn the_page_of_the_policy_has_every_reason_code() {
    let text = include_str!("../docs/policy.md");
    let (_, table) = text.split_once("| reason | ").expect("the table of reasons");
    let (table, _) = table.split_once("\n\n").expect("its end");
    let shown: Vec<_> = table.lines().skip(2).filter_map(|row| row.split('`').nth(1)).collect();
    assert_eq!(shown, Reason::ALL.map(Reason::label));
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
