//! Runs `nft` where the gateway may run nothing: five ways to list, and rulesets that say nothing of any
//! table but the short cut's.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::sys::{Channel, Packet};

/// The table of the short cut, which alone the gateway changes.
pub const SHORTCUT: &str = "schengate_shortcut";

/// How long the broker may take to answer.
const LIMIT: Duration = Duration::from_secs(60);

/// How long `nft` may run: the broker does nothing else meanwhile.
const RUN_LIMIT: Duration = Duration::from_secs(30);

/// Time between two looks whether `nft` has ended.
const LOOK: Duration = Duration::from_millis(2);

/// Bytes of the number of a question, before it and before its answer.
const NUMBER: usize = size_of::<u32>();

/// What may be asked, by its place here; the last one reads a ruleset.
const WAYS: [&[&str]; 6] = [
    &["list", "chains"],
    &["list", "table", "inet", "schengate"],
    &["list", "table", "inet", "schengate_guard"],
    &["list", "flowtables"],
    &["-t", "list", "table", "inet", "schengate_lane"],
    &["-f", "-"],
];

/// The place of the way that reads a ruleset.
const LOAD: usize = WAYS.len() - 1;

/// What came of a run.
#[derive(Debug)]
pub struct Ran {
    /// How `nft` ended.
    pub status: ExitStatus,
    /// What it wrote.
    pub stdout: Vec<u8>,
    /// What it complained of.
    pub stderr: Vec<u8>,
}

/// The gateway's side. One run at a time.
#[derive(Debug)]
pub struct Firewall(Mutex<Line>);

/// The way to the broker, and how many questions it was asked.
#[derive(Debug)]
struct Line {
    channel: Channel,
    asked: u32,
}

impl Line {
    /// Asks, and waits for the answer to this question: one that comes behind its time is nobody's.
    fn ask(&mut self, way: u8, files: &[BorrowedFd<'_>], limit: Duration) -> io::Result<Vec<u8>> {
        self.asked = self.asked.wrapping_add(1);
        let number = self.asked.to_ne_bytes();
        let mut question = number.to_vec();
        question.push(way);
        self.channel.send(&question, files)?;
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // A signal ends the wait, and not the time.
            if self.channel.wait(left)? {
                let answer = self.channel.receive()?.ok_or(io::ErrorKind::BrokenPipe)?;
                if let Some(rest) = answer.bytes.strip_prefix(&number) {
                    return Ok(rest.to_vec());
                }
            }
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}

impl Firewall {
    pub(super) const fn new(channel: Channel) -> Self {
        Self(Mutex::new(Line { channel, asked: 0 }))
    }

    /// Whether the broker lives. Never waits.
    #[must_use]
    pub fn is_there(&self) -> bool {
        // It is at work for somebody, who will be told of its end.
        self.0.try_lock().map_or(true, |line| !line.channel.has_ended())
    }

    /// Runs `nft` with these arguments, which must be among the ways that there are.
    ///
    /// # Errors
    /// Nobody runs that, or the broker has ended, or does not answer.
    pub fn run(&self, arguments: &[&str], input: &str) -> io::Result<Ran> {
        self.run_within(arguments, input, LIMIT)
    }

    fn run_within(&self, arguments: &[&str], input: &str, limit: Duration) -> io::Result<Ran> {
        let way = WAYS.iter().position(|way| *way == arguments);
        let way = way.and_then(|way| u8::try_from(way).ok()).ok_or(io::ErrorKind::Unsupported)?;
        let (mut stdin, mut stdout, mut stderr) = (memory()?, memory()?, memory()?);
        stdin.write_all(input.as_bytes())?;
        stdin.rewind()?;
        let files = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = line.ask(way, &files, limit)?;
        drop(line);
        let (done, said) = answer.split_at_checked(4).ok_or(io::ErrorKind::InvalidData)?;
        if !said.is_empty() {
            return Err(io::Error::other(String::from_utf8_lossy(said).into_owned()));
        }
        let raw = i32::from_ne_bytes(done.try_into().map_err(io::Error::other)?);
        let read = |file: &mut File| -> io::Result<Vec<u8>> {
            let mut text = Vec::new();
            file.rewind()?;
            file.read_to_end(&mut text)?;
            Ok(text)
        };
        let (stdout, stderr) = (read(&mut stdout)?, read(&mut stderr)?);
        Ok(Ran { status: ExitStatus::from_raw(raw), stdout, stderr })
    }
}

/// A file in memory.
fn memory() -> io::Result<File> {
    Ok(File::from(memfd_create("nft", MemfdFlags::CLOEXEC)?))
}

/// The broker's side: one request.
pub(super) fn answer(channel: &Channel, packet: Packet) -> io::Result<()> {
    let mut bytes = packet.bytes.get(..NUMBER).unwrap_or_default().to_vec();
    let (raw, said) = match run(packet) {
        Ok(status) => (status.into_raw(), String::new()),
        Err(fault) => (0, fault.to_string()),
    };
    bytes.extend_from_slice(&raw.to_ne_bytes());
    bytes.extend_from_slice(said.as_bytes());
    channel.send(&bytes, &[])
}

fn run(packet: Packet) -> io::Result<ExitStatus> {
    let refused = || io::Error::from(io::ErrorKind::PermissionDenied);
    let way = packet.bytes.get(NUMBER).map(|way| usize::from(*way));
    let arguments = way.and_then(|way| WAYS.get(way)).ok_or_else(refused)?;
    let files: [OwnedFd; 3] = packet.descriptors.try_into().map_err(|_| refused())?;
    let files = files.map(File::from);
    // Of a file in memory every byte is there, and it takes every byte: a pipe could hold this process up
    // for good.
    if !files.iter().all(|file| file.metadata().is_ok_and(|about| about.is_file())) {
        return Err(refused());
    }
    let [mut stdin, stdout, stderr] = files;
    let mut ruleset = String::new();
    (&mut stdin).take(1 << 24).read_to_string(&mut ruleset)?;
    if !(way == Some(LOAD) && is_of_the_shortcut(&ruleset) || ruleset.is_empty()) {
        return Err(refused());
    }
    // What is read there is what was looked at: nobody else writes to this one.
    let mut looked_at = memory()?;
    looked_at.write_all(ruleset.as_bytes())?;
    looked_at.rewind()?;
    let mut nft = Command::new("nft");
    nft.args(*arguments).env("LC_ALL", "C").stdin(looked_at).stdout(stdout).stderr(stderr);
    ended(nft.spawn()?, RUN_LIMIT)
}

/// How a program ended, which has so long.
fn ended(mut program: Child, limit: Duration) -> io::Result<ExitStatus> {
    let until = Instant::now() + limit;
    loop {
        if let Some(status) = program.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= until {
            program.kill()?;
            program.wait()?;
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::sleep(LOOK);
    }
}

/// What no rule of the short cut says: where a chain is hooked in, and what sends packets elsewhere.
const ELSEWHERE: [&str; 9] =
    ["hook", "dnat", "snat", "redirect", "masquerade", "tproxy", "queue", "dup", "fwd"];

/// Whether each line of a ruleset is one command about the table of the short cut, and nothing else.
fn is_of_the_shortcut(ruleset: &str) -> bool {
    ruleset.lines().all(|line| {
        let mut words = line.split(' ');
        let head = [words.next(), words.next(), words.next(), words.next()];
        let [Some(verb), Some(kind), Some("inet"), Some(SHORTCUT)] = head else { return false };
        let is_known = ["add", "flush", "delete"].contains(&verb)
            && ["counter", "map", "chain", "rule"].contains(&kind);
        // A semicolon, or a line that goes on, begins another command, but within braces.
        let mut depth = 0_usize;
        let is_one = line.chars().all(|c| match c {
            '{' => {
                depth += 1;
                true
            }
            '}' => {
                depth = depth.wrapping_sub(1);
                depth != usize::MAX
            }
            ';' => depth > 0,
            '\\' | '"' | '\'' | '$' | '#' => false,
            c => !c.is_control(),
        });
        let stays = !line.split([' ', '{', '}', ';']).any(|word| ELSEWHERE.contains(&word));
        is_known && is_one && depth == 0 && stays
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ruleset_is_of_the_shortcut_alone() {
        let ours = "add counter inet schengate_shortcut a\n\
                    add map inet schengate_shortcut m { type ipv4_addr : counter; flags interval; }\n\
                    flush chain inet schengate_shortcut judge\n\
                    add rule inet schengate_shortcut judge tcp dport { 1-2, 4-5 } jump plane_0\n";
        assert!(is_of_the_shortcut(ours));
        for other in [
            "flush ruleset\n",
            "delete table inet schengate_guard\n",
            "delete table inet schengate_shortcut\n",
            "flush chain inet schengate_guard forward\n",
            "include \"/etc/shadow\"\n",
            "add chain inet schengate_shortcut x; flush ruleset\n",
            "add chain inet schengate_shortcut x } ; flush ruleset {\n",
            "add chain inet schengate_shortcut x {\n; flush ruleset }\n",
            "add chain inet schengate_shortcut x \\\nflush ruleset\n",
            "add rule inet  schengate_shortcut x accept\n",
            "add chain inet schengate_shortcut x { type nat hook output priority -100; }\n",
            "add chain inet schengate_shortcut x {type nat;hook output priority -100;}\n",
            "add rule inet schengate_shortcut x meta l4proto 6 dnat ip to 192.0.2.66:443\n",
            "\n",
        ] {
            assert!(!is_of_the_shortcut(&format!("{ours}{other}")), "{other}");
        }
    }

    #[test]
    fn nobody_runs_what_is_not_among_the_ways() {
        let (here, there) = Channel::pair().unwrap();
        let firewall = Firewall::new(here);
        for arguments in [&["flush", "ruleset"][..], &["list"], &[]] {
            let fault = firewall.run(arguments, "").unwrap_err();
            assert_eq!(fault.kind(), io::ErrorKind::Unsupported);
        }
        let served = thread::spawn(move || {
            while let Some(packet) = there.receive().unwrap() {
                answer(&there, packet).unwrap();
            }
        });
        let refused = |arguments: &[&str], input| {
            let fault = firewall.run(arguments, input).unwrap_err().to_string();
            assert_eq!(fault, io::Error::from(io::ErrorKind::PermissionDenied).to_string());
        };
        refused(&["-f", "-"], "flush ruleset\n");
        refused(&["list", "chains"], "flush ruleset\n");
        // What never ends, or takes nothing, holds nobody up.
        let (reads, writes) = io::pipe().unwrap();
        let file = memory().unwrap();
        for place in 0..3 {
            let mut files = [file.as_fd(); 3];
            files[place] = if place == 0 { reads.as_fd() } else { writes.as_fd() };
            let answer = firewall.0.lock().unwrap().ask(0, &files, LIMIT);
            let answer = answer.unwrap_or_else(|fault| panic!("held up by {place}: {fault}"));
            let denied = io::Error::from(io::ErrorKind::PermissionDenied).to_string();
            assert_eq!(&answer[4..], denied.as_bytes(), "{place}");
        }
        drop(firewall);
        served.join().unwrap();
    }

    #[test]
    fn an_answer_that_comes_behind_its_time_is_taken_for_no_other() {
        let (here, there) = Channel::pair().unwrap();
        let firewall = Firewall::new(here);
        let list = |limit| firewall.run_within(WAYS[0], "", limit);
        assert_eq!(list(Duration::from_millis(1)).unwrap_err().kind(), io::ErrorKind::TimedOut);
        let served = thread::spawn(move || {
            // The first one failed, and says so only now.
            for raw in [256_i32, 0] {
                let question = there.receive().unwrap().unwrap();
                let answer = [&question.bytes[..NUMBER], &raw.to_ne_bytes()].concat();
                there.send(&answer, &[]).unwrap();
            }
        });
        assert_eq!(list(LIMIT).unwrap().status.into_raw(), 0);
        served.join().unwrap();
    }

    #[test]
    fn a_program_that_does_not_end_is_ended() {
        let sleeps = Command::new("sleep").arg("1000").spawn().unwrap();
        let fault = ended(sleeps, Duration::from_millis(20)).unwrap_err();
        assert_eq!(fault.kind(), io::ErrorKind::TimedOut);
        let fails = Command::new("false").spawn().unwrap();
        assert_eq!(ended(fails, RUN_LIMIT).unwrap().code(), Some(1));
    }
}
