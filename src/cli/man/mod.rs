//! `schengate man`: a manual page for every command, with what the help does not say: files, exit
//! status, examples.

mod pages;

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap_mangen::roff::{Roff, bold, roman};

use self::pages::Page;
use super::common::{Exit, INSTALLED, complain};

/// Arguments of `man`.
#[derive(Debug, clap::Args)]
pub(super) struct Manual {
    /// The command, as in `schengate man capture up`; without it the page of schengate itself
    #[arg(value_name = "COMMAND", conflicts_with = "output")]
    command: Vec<String>,
    /// Write the page of every command into this directory instead
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// Exit status: 0 printed or written, 2 there is no such command or the directory takes nothing.
pub(super) fn man(
    arguments: &Manual,
    program: clap::Command,
    out: &mut impl Write,
) -> io::Result<Exit> {
    let program = built(program);
    if let Some(folder) = &arguments.output {
        let written = pages_below(&program, &mut Vec::new())
            .into_iter()
            .try_for_each(|(path, command)| write_into(folder, &path, command));
        return Ok(match written {
            Ok(()) => Exit::Yes,
            Err(error) => complain(format_args!("{}: {error}", folder.display())),
        });
    }
    let mut command = &program;
    for name in &arguments.command {
        match command.find_subcommand(name) {
            Some(found) => command = found,
            None => {
                let place = command.get_bin_name().unwrap_or("schengate");
                return Ok(complain(format_args!(
                    "{place} has no command {name:?}; `{place} --help` lists them"
                )));
            }
        }
    }
    // An alias finds its command too: the page is looked up by the command's own name.
    let path = command.get_bin_name().unwrap_or_default().split(' ').skip(1);
    render(&path.map(str::to_owned).collect::<Vec<_>>(), command, out)?;
    Ok(Exit::Yes)
}

/// The command line with the names of all its commands filled in, without `help`.
fn built(program: clap::Command) -> clap::Command {
    let mut program = program.disable_help_subcommand(true);
    program.build();
    program
}

/// Every command with the names that lead to it, the program itself first.
fn pages_below<'a>(
    command: &'a clap::Command,
    path: &mut Vec<String>,
) -> Vec<(Vec<String>, &'a clap::Command)> {
    let mut all = vec![(path.clone(), command)];
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        path.push(below.get_name().to_owned());
        all.append(&mut pages_below(below, path));
        path.pop();
    }
    all
}

fn write_into(folder: &Path, path: &[String], command: &clap::Command) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let name = ["schengate"].into_iter().chain(path.iter().map(String::as_str));
    let name = format!("{}.1", name.collect::<Vec<_>>().join("-"));
    let mut file = io::BufWriter::new(File::create(folder.join(name))?);
    render(path, command, &mut file)?;
    file.flush()
}

fn render(path: &[String], command: &clap::Command, out: &mut dyn Write) -> io::Result<()> {
    let page = Page::of(path);
    let man = clap_mangen::Man::new(command.clone())
        .source(concat!("schengate ", env!("CARGO_PKG_VERSION")))
        .manual("schengate");
    man.render_title(out)?;
    man.render_name_section(out)?;
    man.render_synopsis_section(out)?;
    man.render_description_section(out)?;
    if command.get_arguments().any(|argument| !argument.is_hide_set()) {
        man.render_options_section(out)?;
    }
    if command.has_subcommands() {
        man.render_subcommands_section(out)?;
    }
    let mut roff = Roff::new();
    section_of_files(&mut roff, command, page);
    roff.control("SH", ["EXIT STATUS"]);
    for (status, means) in ["0", "1", "2"].iter().zip(page.exit) {
        roff.control("TP", []).text([bold(*status)]).text([roman(means)]);
    }
    roff.control("SH", ["EXAMPLES"]);
    for (what, line) in page.examples {
        roff.control("PP", []).text([roman(format!("{what}:"))]);
        roff.control("PP", []).control("RS", ["4"]).control("nf", []);
        roff.text([bold(*line)]).control("fi", []).control("RE", []);
    }
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman(see_also(path, command))]);
    roff.to_writer(out)
}

/// What it reads and writes: the policy wherever one may be named, and what the page adds.
fn section_of_files(roff: &mut Roff, command: &clap::Command, page: &Page) {
    let reads_policy = command.get_arguments().any(|argument| argument.get_id() == "config");
    let policy = reads_policy.then_some((INSTALLED, "The policy."));
    let files: Vec<_> = policy.into_iter().chain(page.files.iter().copied()).collect();
    if files.is_empty() {
        return;
    }
    roff.control("SH", ["FILES"]);
    for (file, what) in files {
        roff.control("TP", []).text([bold(file)]).text([roman(what)]);
    }
}

/// The page above, or those beside it for the program itself.
fn see_also(path: &[String], command: &clap::Command) -> String {
    let joined = |names: &[String]| {
        let names = ["schengate"].into_iter().chain(names.iter().map(String::as_str));
        format!("{}(1)", names.collect::<Vec<_>>().join("-"))
    };
    match path {
        [] => {
            let below = command.get_subcommands().filter(|below| !below.is_hide_set());
            let below = below.map(|below| joined(&[below.get_name().to_owned()]));
            below
                .chain(["nft(8)".to_owned(), "systemd(1)".to_owned()])
                .collect::<Vec<_>>()
                .join(", ")
        }
        [above @ .., _] => {
            let mut all = vec!["schengate(1)".to_owned()];
            all.extend((1..=above.len()).map(|end| joined(&above[..end])));
            all.join(", ")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use clap::{CommandFactory, Parser};

    use super::super::Arguments;
    use super::*;

    fn all() -> Vec<(Vec<String>, String)> {
        let program = built(Arguments::command());
        let render = |(path, command): (Vec<String>, &clap::Command)| {
            let mut page = Vec::new();
            render(&path, command, &mut page).unwrap();
            (path, String::from_utf8(page).unwrap())
        };
        pages_below(&program, &mut Vec::new()).into_iter().map(render).collect()
    }

    #[test]
    fn every_command_has_a_page_with_exit_status_and_an_example() {
        let pages = all();
        assert!(pages.len() > 30, "{}", pages.len());
        for (path, page) in pages {
            for heading in ["NAME", "SYNOPSIS", "DESCRIPTION", "\"EXIT STATUS\"", "EXAMPLES"] {
                assert!(page.contains(&format!(".SH {heading}\n")), "{path:?}: no {heading}");
            }
            let is_written = !Page::of(&path).examples.is_empty();
            assert!(is_written, "{path:?} has no example: give it a row in src/cli/man/pages.rs");
        }
    }

    #[test]
    fn every_row_of_the_pages_is_of_a_command() {
        let paths: Vec<String> = all().into_iter().map(|(path, _)| path.join(" ")).collect();
        for page in pages::PAGES {
            assert!(paths.iter().any(|path| path == page.command), "no command {:?}", page.command);
        }
    }

    #[test]
    fn every_example_is_a_command_line_that_is_understood() {
        for page in pages::PAGES {
            for (_, line) in page.examples {
                let own = line.split([';', '|', '>']).next().unwrap();
                let words = own.split_whitespace().map(|word| word.trim_matches('\''));
                let parsed = Arguments::try_parse_from(words);
                let is_help = line.ends_with("--help");
                assert!(is_help || parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
                let is_of_it = own.trim().starts_with(format!("schengate {}", page.command).trim());
                assert!(is_of_it, "{line:?} begins otherwise than {:?}", page.command);
            }
        }
    }

    #[test]
    fn groff_finds_nothing_to_say_of_any_page() {
        for (path, page) in all() {
            let started = Command::new("groff")
                .args(["-man", "-Tutf8", "-ww", "-z"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn();
            let mut groff = match started {
                Ok(groff) => groff,
                Err(error) if std::env::var_os("SCHENGATE_CI").is_some() => {
                    panic!("groff is needed here: {error}")
                }
                Err(error) => {
                    println!("LEFT OUT: groff cannot be run: {error}");
                    return;
                }
            };
            groff.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
            let said = groff.wait_with_output().unwrap();
            let said = [said.stdout, said.stderr].concat();
            assert!(said.is_empty(), "{path:?}: {}", String::from_utf8_lossy(&said));
        }
    }
}
