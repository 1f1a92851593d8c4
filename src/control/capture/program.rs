//! `nft`, the one program that this needs.

use std::io::{self, Write as _};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use super::fault::CaptureFault;
use crate::broker::{Firewall, Ran};

/// Who runs `nft` to see the rules, and to fill the sets of the short cut.
#[derive(Debug, Clone, Default)]
pub enum Nft {
    /// This process.
    #[default]
    Here,
    /// The one beside it, where this one may run nothing.
    Broker(Arc<Firewall>),
}

impl Nft {
    /// What `nft` writes for these words.
    pub(super) fn shown(&self, line: &str) -> Result<String, CaptureFault> {
        self.run(line, "")
    }

    /// Loads a ruleset, as one transaction.
    pub(super) fn load(&self, ruleset: &str) -> Result<(), CaptureFault> {
        self.run("-f -", ruleset).map(drop)
    }

    fn run(&self, line: &str, input: &str) -> Result<String, CaptureFault> {
        let arguments = words(line);
        match self {
            Self::Here => checked("nft", &arguments, (!input.is_empty()).then_some(input)),
            Self::Broker(firewall) => {
                let words: Vec<&str> = line.split(' ').collect();
                let ran = firewall.run(&words, input).map_err(|source| CaptureFault::NotRun {
                    command: format!("nft {line}"),
                    source,
                })?;
                let Ran { status, stdout, stderr } = ran;
                written("nft", &arguments, Output { status, stdout, stderr })
            }
        }
    }
}

pub(super) fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

/// Loads a ruleset, as one transaction.
pub(super) fn nft(ruleset: &str) -> Result<(), CaptureFault> {
    checked("nft", &words("-f -"), Some(ruleset)).map(drop)
}

/// Runs a program to its end and gives back what it wrote, if it says that all went well.
pub(super) fn checked(
    program: &str,
    arguments: &[String],
    input: Option<&str>,
) -> Result<String, CaptureFault> {
    written(program, arguments, run(program, arguments, input)?)
}

fn written(program: &str, arguments: &[String], output: Output) -> Result<String, CaptureFault> {
    if !output.status.success() {
        return Err(CaptureFault::Refused {
            command: format!("{program} {}", arguments.join(" ")),
            status: output.status,
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

pub(super) fn run(
    program: &str,
    arguments: &[impl AsRef<str>],
    input: Option<&str>,
) -> Result<Output, CaptureFault> {
    let arguments: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
    let not_run = |source| CaptureFault::NotRun {
        command: format!("{program} {}", arguments.join(" ")),
        source,
    };
    let mut child = Command::new(program)
        .args(&arguments)
        .env("LC_ALL", "C")
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(not_run)?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        match stdin.write_all(input.as_bytes()) {
            // A program that refuses before it has read all: its own words say why.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
            written => written.map_err(not_run)?,
        }
    }
    child.wait_with_output().map_err(not_run)
}
