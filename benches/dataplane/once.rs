//! What is measured once, and not in rounds: new connections beside many held ones, and a reload.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::lab::{self, Lab};
use crate::{Contender, OURS, ask, line_of, role};

/// Threads that open them.
const THREADS: u64 = 32;

/// Time between two looks at the metrics.
const POLL: Duration = Duration::from_millis(5);

/// `crowd` connections are held, and new ones come for `seconds`.
pub(crate) fn run(lab: &Lab, contenders: &[Contender], crowd: u64, seconds: u64) {
    println!(
        "\n1,000 new connections a second beside {crowd} held ones    (asked: p99 x <= 1.10 of empty)"
    );
    for one in contenders.iter().skip(1).filter(|one| !one.name.starts_with("bare")) {
        beside_a_crowd(lab, one, crowd, seconds);
    }
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
    let words = ["load", "hold", &one.to, &crowd.to_string(), "0", "0"];
    let mut command = lab.client.command(std::env::current_exe().expect("this program"));
    let mut held = role(command.args(words));
    if line_of(&mut held) != "held" {
        return println!("  {:<12} LEFT OUT: it does not hold as many", one.name);
    }
    let beside = rate();
    println!(
        "  {:<12} p99 {beside:>10.0} us, empty {empty:>10.0} us  x {:.2}",
        one.name,
        beside / empty
    );
}

/// Time from SIGHUP to the policy's effect, under load.
fn reload(lab: &Lab, ours: &Contender) {
    let Some(child) = &ours.child else { return };
    let pid = child.0.id();
    let metric = |name: &str| {
        let url = format!("http://{}/metrics", lab::ADMIN);
        let output = lab.gateway.command("curl").args(["-s", &url]).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok())
    };
    let memory = |key: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        kib.unwrap_or(f64::NAN) / 1024.0
    };
    // From here on the peak is that of the reload (proc(5), clear_refs).
    fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("the peak can be reset");
    let (before, done) = (memory("VmRSS:"), "schengate_policy_reload_total{result=\"done\"}");
    let count = metric(done).unwrap_or(0.0);
    thread::scope(|scope| {
        let load = scope.spawn(|| ask(lab, ours, &["rate", "32", "125", "517"]));
        thread::sleep(Duration::from_millis(500));
        let begun = Instant::now();
        let sent = Command::new("kill").args(["-HUP", &pid.to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "SIGHUP");
        let is_done = || metric(done).is_some_and(|now| now > count);
        assert!(
            (0..1000).any(|_| is_done() || {
                thread::sleep(POLL);
                false
            }),
            "no reload"
        );
        let took = begun.elapsed().as_secs_f64();
        let load = load.join().expect("no connection fails while the policy is loaded");
        println!("\nreload of policy and tables under 1,000 connections a second");
        println!(
            "  {OURS:<12} {took:.2} s to effect    (asked: <= 0.25 s, nothing refused or lost)"
        );
        println!("  {OURS:<12} p99 of new connections {:.0} us", load.p99);
        println!(
            "  {OURS:<12} peak {:.1} MB, before {before:.1} MB  x {:.2}    (asked: <= 1.5)",
            memory("VmHWM:"),
            memory("VmHWM:") / before
        );
    });
}
