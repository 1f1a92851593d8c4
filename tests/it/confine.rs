//! What a gateway that runs can still do: told by the kernel, and tried.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::gateway::{Gateway, PATIENCE};

/// A policy that reads a list of hosts from `hosts`, with two workers and a record.
fn policy(dir: &Path, hosts: &str) -> String {
    format!(
        "schema = 1
[policy]
mode = 'enforce'
permit = ['FR']
[admin]
address = '127.0.0.1:0'
[audit]
directory = '{}'
[data]
directory = '{}'
[[rule]]
name = 'list'
action = 'block'
host_file = '{hosts}'
[[listen]]
mode = 'proxy'
address = '127.0.0.1:0'
",
        dir.join("audit").display(),
        dir.join("state").display(),
    )
}

/// Three folders: of the policy, of what it writes, and one that is nobody's.
fn folders() -> (tempfile::TempDir, [std::path::PathBuf; 3]) {
    let dir = tempfile::tempdir().unwrap();
    let folders = ["etc", "lib", "other"].map(|name| dir.path().join(name));
    folders.iter().for_each(|folder| fs::create_dir(folder).unwrap());
    fs::create_dir(folders[1].join("state")).unwrap();
    fs::write(folders[0].join("hosts"), "a.example\n").unwrap();
    fs::write(folders[0].join("policy.toml"), policy(&folders[1], "hosts")).unwrap();
    (dir, folders)
}

fn start(etc: &Path) -> Gateway {
    let file = etc.join("policy.toml");
    Gateway::start(&["--workers", "2", "--config", file.to_str().unwrap()])
}

/// What it says of its confinement.
fn confinement(gateway: &Gateway) -> String {
    let page = gateway.page("/api/v1/state");
    let state = page.split_once("\r\n\r\n").unwrap().1;
    let state: serde_json::Value = serde_json::from_str(state).unwrap();
    state["facts"]["Confinement"].as_str().unwrap_or_else(|| panic!("{state}")).to_owned()
}

/// A field of a `status` file below /proc.
fn field(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
}

#[test]
fn s06_every_thread_is_filtered_and_workers_more_than_the_others() {
    let (_dir, [etc, ..]) = folders();
    let gateway = start(&etc);
    let mut filters: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{}/task", gateway.pid())).unwrap() {
        let task = task.unwrap().path();
        let name = fs::read_to_string(task.join("comm")).unwrap().trim().to_owned();
        let status = fs::read_to_string(task.join("status")).unwrap();
        assert_eq!(field(&status, "Seccomp"), "2", "{name}");
        assert_eq!(field(&status, "NoNewPrivs"), "1", "{name}");
        filters.entry(name).or_default().push(field(&status, "Seccomp_filters").parse().unwrap());
    }
    let (workers, others): (Vec<_>, Vec<_>) =
        filters.iter().partition(|(name, _)| name.starts_with("worker-"));
    assert_eq!(workers.len(), 2, "{filters:?}");
    assert!(others.iter().any(|(name, _)| *name == "record"), "{filters:?}");
    let most = others.iter().flat_map(|(_, counts)| counts.iter()).max().unwrap();
    for (name, counts) in &workers {
        assert!(counts.iter().all(|count| count > most), "{name}: {filters:?}");
    }
    let limits = fs::read_to_string(format!("/proc/{}/limits", gateway.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    let said = confinement(&gateway);
    assert!(said.contains("calls: gateway and workers (seccomp)"), "{said}");
}

#[test]
fn s06_a_reload_reads_the_folders_of_the_start_and_no_other_whoever_the_gateway_is() {
    let (_dir, [etc, lib, other]) = folders();
    let file = etc.join("policy.toml");
    let mut gateway = start(&etc);
    let said = confinement(&gateway);
    if said.contains("files: NOT CONFINED") {
        assert!(std::env::var_os("SCHENGATE_CI").is_none(), "this kernel has no landlock");
        eprintln!("NOT TRIED: this kernel has no landlock");
        return;
    }
    // Replaced, as editors and packages do.
    let replace = |place: &Path, text: &str| {
        let next = place.with_extension("next");
        fs::write(&next, text).unwrap();
        fs::rename(next, place).unwrap();
    };
    replace(&etc.join("more"), "b.example\n");
    replace(&file, &policy(&lib, "more"));
    gateway.signal("HUP");
    gateway.until("policy reloaded");
    fs::write(other.join("hosts"), "c.example\n").unwrap();
    let outside = other.join("hosts");
    for place in [outside.to_str().unwrap(), "/etc/shadow"] {
        replace(&file, &policy(&lib, place));
        gateway.signal("HUP");
        let line = gateway.until("the one in force stays");
        assert!(line.contains("Permission denied"), "{line}");
        assert!(line.contains("for another folder restart it"), "{line}");
    }
    // What it writes goes on: the record, and the tables in use.
    replace(&file, &policy(&lib, "hosts"));
    gateway.signal("HUP");
    gateway.until("policy reloaded");
    let page = gateway.page("/readyz");
    assert!(page.contains("200 OK"), "{page}");
}

#[test]
fn s06_without_its_broker_a_gateway_is_not_ready() {
    let (_dir, [etc, ..]) = folders();
    let gateway = start(&etc);
    assert!(gateway.page("/readyz").contains("200 OK"));
    let broker = broker_of(&gateway).to_string();
    assert!(Command::new("kill").args(["-KILL", &broker]).status().unwrap().success());
    let until = Instant::now() + PATIENCE;
    while !gateway.page("/readyz").contains("not ready; missing: the broker (") {
        assert!(Instant::now() < until, "ready without its broker");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The process beside a gateway.
fn broker_of(gateway: &Gateway) -> u32 {
    let children = format!("/proc/{0}/task/{0}/children", gateway.pid());
    let children = fs::read_to_string(children).unwrap();
    children.trim().parse().unwrap_or_else(|_| panic!("one child: {children}"))
}

#[test]
fn s06_the_broker_has_none_of_the_gateways_sockets_and_ends_with_it() {
    let (_dir, [etc, ..]) = folders();
    let gateway = start(&etc);
    let broker = broker_of(&gateway);
    let at = |file: &str| format!("/proc/{broker}/{file}");
    let status = fs::read_to_string(at("status")).unwrap();
    assert_eq!(field(&status, "Seccomp"), "2");
    assert_eq!(field(&status, "NoNewPrivs"), "1");
    assert_eq!(field(&status, "Threads"), "1");
    let mut open: Vec<String> = fs::read_dir(at("fd"))
        .unwrap()
        .filter_map(|entry| Some(fs::read_link(entry.unwrap().path()).ok()?.display().to_string()))
        .map(|target| target.split(':').next().unwrap().to_owned())
        .collect();
    open.sort();
    let nothing = "/dev/null".to_owned();
    // A channel each for names, the keeper and the firewall.
    let wanted = [[nothing.clone(), nothing.clone(), nothing], ["socket"; 3].map(str::to_owned)];
    assert!(open == wanted.concat() || open == wanted.concat()[..5], "{open:?}");
    assert!(Command::new("kill").arg(broker.to_string()).status().unwrap().success());
    assert!(Path::new(&at("status")).exists(), "what is sent to both is for the gateway");
    drop(gateway);
    let until = Instant::now() + PATIENCE;
    while fs::read_to_string(at("status"))
        .is_ok_and(|status| field(&status, "State") != "Z (zombie)")
    {
        assert!(Instant::now() < until, "the broker outlives its gateway");
        std::thread::sleep(Duration::from_millis(20));
    }
}
