//! The page on the data does what it says: its policies load, and its commands are run again, in
//! order, and answer as it shows.

use std::fs;
use std::path::Path;
use std::process::Command;

use schengate::control::config;

const PAGE: &str = include_str!("../../docs/data.md");

/// Every code block behind a line `<!-- MARK -->`, in order.
fn blocks(mark: &str) -> Vec<&'static str> {
    let mark = format!("<!-- {mark} -->\n```");
    let marked = PAGE.split(&mark).skip(1);
    let content = marked.map(|rest| rest.split_once('\n').expect("a code block").1);
    content.map(|rest| rest.split_once("```").expect("the end of the block").0).collect()
}

/// The commands of a console block, each with what it answers.
fn commands(block: &str) -> Vec<(String, String)> {
    let mut commands: Vec<(String, String)> = Vec::new();
    for line in block.lines() {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (Some(command), _) => commands.push((command.to_owned(), String::new())),
            (None, Some((_, answer))) => *answer += &format!("{line}\n"),
            (None, None) => panic!("an answer before any command: {line}"),
        }
    }
    commands
}

/// A line without what is another each day, key or program: ages, digests, versions. Columns are not
/// compared by their width.
fn lasting(line: &str) -> String {
    let words: Vec<_> = line.split_whitespace().collect();
    let kept = words.iter().enumerate().map(|(at, word)| {
        let next = words.get(at + 1).copied().unwrap_or_default();
        let bare = word.trim_matches(['(', ')', ',']);
        let age = next.starts_with('d') && bare.bytes().all(|byte| byte.is_ascii_digit());
        let hex = bare.bytes().all(|byte| byte.is_ascii_hexdigit());
        if age || hex && [12, 64].contains(&bare.len()) { "#" } else { word }
    });
    kept.collect::<Vec<_>>().join(" ")
}

/// Whether an answer is what the page shows, where a line `...` stands for any number of lines.
fn agrees(shown: &[String], answer: &[String]) -> bool {
    match (shown.split_first(), answer.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if first == "..." => {
            (0..=answer.len()).any(|at| agrees(rest, &answer[at..]))
        }
        (Some((first, rest)), Some((line, more))) => first == line && agrees(rest, more),
        (None, Some(_)) | (Some(_), None) => false,
    }
}

#[test]
fn the_commands_of_the_page_answer_as_it_shows() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("site.toml"), blocks("file: site.toml")[0]).unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_schengate")).parent().unwrap();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
    let (mut asked, mut explained, mut differences) = (0, 0, String::new());
    for (command, shown) in blocks("run").into_iter().flat_map(commands) {
        let mut shell = Command::new("sh");
        shell.args(["-c", &command]).current_dir(dir.path()).env("PATH", &path);
        let output = shell.output().unwrap();
        let answer = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        let lines = |text: &str| text.lines().map(lasting).collect::<Vec<_>>();
        if !agrees(&lines(&shown), &lines(&answer)) {
            differences += &format!("$ {command}\n{answer}");
        }
        asked += 1;
        explained += usize::from(command.starts_with("schengate explain"));
    }
    assert!(asked >= 12 && explained >= 10, "{asked}, {explained}");
    assert!(differences.is_empty(), "the page shows other answers than\n{differences}");
}

#[test]
fn the_policies_of_the_page_load() {
    for (block, sources) in blocks("policy").into_iter().zip([2, 3]) {
        let update = config::parse(block, None).unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(update.config.update.unwrap().sources.len(), sources);
        assert!(update.lints.is_empty(), "{:?}", update.lints);
    }
    let rules =
        config::parse(blocks("services")[0], None).unwrap_or_else(|faults| panic!("{faults}"));
    assert!(rules.config.rules.iter().all(|rule| rule.service.is_some()));
    assert!(config::parse(blocks("file: site.toml")[0], None).is_ok());
}

#[test]
fn every_file_that_the_page_links_to_is_there() {
    let links = PAGE.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    assert!(links.filter(|link| !link.starts_with("http")).all(|link| docs.join(link).is_file()));
}
