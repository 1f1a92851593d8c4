//! What is measured once, and not in rounds: the memory of connections that are held, new ones beside
//! them, and a reload.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::lab::{self, Lab};
use crate::{Contender, OURS, Running, ask, line_of, role};

/// Threads that open them.
const THREADS: u64 = 32;

/// Time between two looks at the metrics.
const POLL: Duration = Duration::from_millis(5);

/// Growth of each one's anonymous memory for each of `count` connections that are open and silent.
/// As many are held before it is looked at first: they take up what was free already.
pub(crate) fn memory(lab: &Lab, contenders: &[Contender], count: u64) {
    println!("\nuser memory, idle connection, of {count}    (asked: <= 1000 B)");
    for one in contenders.iter().skip(1) {
        let Some(_first) = hold(lab, one, count) else { continue };
        let before = one.memory();
        let Some(_second) = hold(lab, one, count) else { continue };
        println!("  {:<12} {:>10.0} B", one.name, (one.memory() - before) / count as f64);
    }
}

/// A load that holds connections until it is dropped.
fn hold(lab: &Lab, one: &Contender, count: u64) -> Option<Running> {
    let words = ["load", "hold", &one.to, &count.to_string(), "0", "0"];
    let mut command = lab.client.command(std::env::current_exe().expect("this program"));
    let mut held = role(command.args(words));
    if line_of(&mut held) == "held" {
        return Some(held);
    }
    println!("  {:<12} LEFT OUT: it does not hold as many", one.name);
    None
}

/// `crowd` connections are held, and new ones come for `seconds`.
pub(crate) fn crowd(lab: &Lab, contenders: &[Contender], crowd: u64, seconds: u64) {
    println!(
        "\n1,000 new connections a second beside {crowd} held ones    (asked: p99 x <= 1.10 of empty)"
    );
    for one in contenders.iter().skip(1).filter(|one| !one.name.starts_with("bare")) {
        beside_a_crowd(lab, one, crowd, seconds);
    }
}

/// Reloads of the one that is held against the others.
pub(crate) fn reloads(lab: &Lab, contenders: &[Contender]) {
    if let Some(ours) = contenders.iter().find(|one| one.name == OURS) {
        reload(lab, ours);
    }
}

fn beside_a_crowd(lab: &Lab, one: &Contender, crowd: u64, seconds: u64) {
    let rate = || {
        let each = (seconds * 1000 / THREADS).to_string();
        ask(lab, one, &["rate", &THREADS.to_string(), &each, "517"]).p99
    };
    let empty = rate();
    let Some(_held) = hold(lab, one, crowd) else { return };
    let beside = rate();
    println!(
        "  {:<12} p99 {beside:>10.0} us, empty {empty:>10.0} us  x {:.2}",
        one.name,
        beside / empty
    );
}

/// Rows of the country table that is exchanged.
const ROWS: u32 = 10_000;

/// Time from SIGHUP to the effect, and memory, under load: of a policy whose rules were edited, and of
/// one of whose tables was written anew.
fn reload(lab: &Lab, ours: &Contender) {
    let Some(child) = &ours.child else { return };
    let gateway = Gateway { lab, pid: child.0.id() };
    let text = gateway.policy();
    let edited = "[[rule]]\nname = 'edited'\nhost = ['edited.example.net']\naction = 'block'\n";
    println!("\nreload under 1,000 connections a second");
    under_load(&gateway, ours, "edited policy", || {
        lab.write("bench.toml", &format!("{text}{edited}"));
    });
    let table = |country: [&str; 2]| {
        let row = |n: u32| {
            let at = |low: u32| Ipv4Addr::from_bits((11 << 24) + (n << 9) + low);
            format!("{},{},{}\n", at(0), at(255), country[(n % 2) as usize])
        };
        lab.write("bench.csv", &(0..ROWS).map(row).collect::<String>());
    };
    table(["FR", "DE"]);
    lab.write("bench.toml", &format!("{text}[data]\ncountry = ['bench.csv', 'embedded']\n"));
    gateway.reload();
    // The memory of what is no longer in use is given back.
    thread::sleep(Duration::from_secs(1));
    under_load(&gateway, ours, "changed table", || table(["DE", "FR"]));
}

fn under_load(gateway: &Gateway<'_>, ours: &Contender, what: &str, change: impl FnOnce()) {
    let clear = format!("/proc/{}/clear_refs", gateway.pid);
    // From here on the peak is that of the reload (proc(5), clear_refs).
    fs::write(clear, "5").expect("the peak can be reset");
    let before = gateway.memory("VmRSS:");
    thread::scope(|scope| {
        let load = scope.spawn(|| ask(gateway.lab, ours, &["rate", "32", "125", "517"]));
        thread::sleep(Duration::from_millis(500));
        change();
        let took = gateway.reload();
        let load = load.join().expect("no connection fails while the policy is loaded");
        let peak = gateway.memory("VmHWM:");
        let asked = "(asked: <= 0.25 s, nothing refused or lost)";
        println!("  {what:<14} {:.3} s to effect    {asked}", took.as_secs_f64());
        println!("  {what:<14} p99 of new connections {:.0} us", load.p99);
        println!(
            "  {what:<14} peak {peak:.1} MB, before {before:.1} MB  x {:.2}    (asked: <= 1.5)",
            peak / before
        );
    });
}

struct Gateway<'a> {
    lab: &'a Lab,
    pid: u32,
}

impl Gateway<'_> {
    /// The text of the policy in force.
    fn policy(&self) -> String {
        let words = fs::read(format!("/proc/{}/cmdline", self.pid)).expect("its words");
        let words = String::from_utf8(words).expect("words in UTF-8");
        let path = words.split_terminator('\0').next_back().expect("the policy is named last");
        fs::read_to_string(path).expect("the policy")
    }

    fn reloads_done(&self) -> f64 {
        let url = format!("http://{}/metrics", lab::ADMIN);
        let output = self.lab.gateway.command("curl").args(["-s", &url]).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let name = "schengate_policy_reload_total{result=\"done\"}";
        let lines = text.unwrap_or_default();
        let count = lines.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        count.unwrap_or(0.0)
    }

    /// Reloads, and tells how long it took.
    fn reload(&self) -> Duration {
        let count = self.reloads_done();
        let begun = Instant::now();
        let sent = Command::new("kill").args(["-HUP", &self.pid.to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "SIGHUP");
        let done = || {
            let done = self.reloads_done() > count;
            if !done {
                thread::sleep(POLL);
            }
            done
        };
        assert!((0..1000).any(|_| done()), "no reload");
        begun.elapsed()
    }

    /// A line of the process's status, in MB.
    fn memory(&self, key: &str) -> f64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        kib.unwrap_or(f64::NAN) / 1024.0
    }
}
