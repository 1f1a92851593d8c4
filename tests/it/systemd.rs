//! The systemd units, judged by systemd's own tools.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Highest exposure that `systemd-analyze security` may find, in tenths.
const EXPOSURE_MAX: &str = "15";

/// Programs that the units start; stand-ins take their place where only the unit is judged.
const PROGRAMS: [&str; 4] = ["usr/bin/schengate", "usr/sbin/nft", "usr/sbin/sysctl", "bin/kill"];

/// Units of systemd itself that ours, or their default dependencies, name.
const SYSTEM_UNITS: [&str; 7] = [
    "modprobe@.service",
    "sysinit.target",
    "basic.target",
    "sockets.target",
    "multi-user.target",
    "network-pre.target",
    "shutdown.target",
];

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd")
}

fn units(suffixes: &[&str]) -> Vec<PathBuf> {
    let is_unit = |path: &PathBuf| {
        path.extension().is_some_and(|found| suffixes.iter().any(|wanted| found == *wanted))
    };
    let mut units: Vec<PathBuf> = fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(is_unit)
        .collect();
    units.sort();
    units
}

fn read(name: &str) -> String {
    fs::read_to_string(directory().join(name)).unwrap()
}

/// Values of a key in a unit file, in order.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

/// Runs `systemd-analyze`; `None`, after saying so, where it is not installed. In CI
/// (`SCHENGATE_CI`) that is a panic instead.
fn analyze(arguments: &[&str]) -> Option<Output> {
    match Command::new("systemd-analyze").env("SYSTEMD_COLORS", "0").args(arguments).output() {
        Ok(output) => Some(output),
        Err(e) if std::env::var_os("SCHENGATE_CI").is_some() => {
            panic!("systemd-analyze is needed here: {e}")
        }
        Err(e) => {
            println!("LEFT OUT: systemd-analyze cannot be run: {e}");
            None
        }
    }
}

fn said(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&both).into_owned()
}

#[test]
fn systemd_finds_nothing_to_say_about_any_unit() {
    let root = tempfile::tempdir().unwrap();
    for program in PROGRAMS {
        let path = root.path().join(program);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let installed = root.path().join("etc/systemd/system");
    fs::create_dir_all(&installed).unwrap();
    for unit in SYSTEM_UNITS {
        let does = if unit.ends_with(".service") { "[Service]\nExecStart=/bin/kill\n" } else { "" };
        let text = format!("[Unit]\nDescription=stand-in\n{does}");
        fs::write(installed.join(unit), text).unwrap();
    }
    let root_option = format!("--root={}", root.path().display());
    let mut arguments = vec!["verify".to_owned(), "--man=no".to_owned(), root_option];
    for unit in units(&["service", "socket"]) {
        let name = unit.file_name().unwrap().to_str().unwrap().to_owned();
        fs::copy(&unit, installed.join(&name)).unwrap();
        arguments.push(name);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let Some(output) = analyze(&arguments) else { return };
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(said(&output), "");
}

#[test]
fn the_service_is_exposed_no_more_than_it_says() {
    let unit = directory().join("schengate.service");
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    let arguments = ["security", "--offline=true", &threshold, unit.to_str().unwrap()];
    let Some(output) = analyze(&arguments) else { return };
    assert!(output.status.success(), "{}", said(&output));
    let said = said(&output);
    println!("{}", said.lines().last().unwrap_or_default());
}

#[test]
fn the_service_holds_no_capability() {
    let service = read("schengate.service");
    assert_eq!(values(&service, "CapabilityBoundingSet"), [""]);
    assert_eq!(values(&service, "AmbientCapabilities"), [""]);
    assert_eq!(values(&service, "NoNewPrivileges"), ["yes"]);
}

/// Only who asks for the kernel short cut or for a lane gives the service a capability, and one only.
#[test]
fn the_short_cut_and_the_lane_give_the_service_one_capability() {
    for drop_in in ["schengate-shortcut.conf", "schengate-lane.conf"].map(read) {
        assert_eq!(values(&drop_in, "CapabilityBoundingSet"), ["CAP_NET_ADMIN"]);
        assert_eq!(values(&drop_in, "AmbientCapabilities"), ["CAP_NET_ADMIN"]);
    }
}

/// CAP_NET_ADMIN is the keeper's, and nothing else is; who stops `nftables` must not stop it.
#[test]
fn the_keeper_holds_one_capability_and_ends_with_the_rules_alone() {
    let keeper = read("schengate-keeper.service");
    assert_eq!(values(&keeper, "CapabilityBoundingSet"), ["CAP_NET_ADMIN"]);
    assert_eq!(values(&keeper, "PartOf"), ["schengate-capture.service"]);
    assert_eq!(values(&keeper, "BindsTo"), Vec::<&str>::new());
    assert!(read("schengate-capture.service").contains(" schengate-keeper.service\n"));
}

#[test]
fn a_reload_checks_the_file_before_the_signal() {
    let service = read("schengate.service");
    let reload = values(&service, "ExecReload");
    assert!(reload[0].contains("schengate check "), "{reload:?}");
    assert!(reload[1].contains("-HUP"), "{reload:?}");
    // `run` loads the file itself, and new connections wait for as long as that takes.
    assert_eq!(values(&service, "ExecStartPre"), Vec::<&str>::new());
}

#[test]
fn stopping_opens_no_fence() {
    let guard = read("schengate-guard.service");
    for key in ["ExecStop", "ExecStopPost", "PartOf", "BindsTo"] {
        assert_eq!(values(&guard, key), Vec::<&str>::new(), "{key}");
    }
    assert_eq!(values(&guard, "RemainAfterExit"), ["yes"]);
    for other in ["schengate-capture.service", "schengate.service"] {
        assert!(!read(other).contains("schengate_guard"), "{other}");
    }
}

#[test]
fn the_transparent_listener_is_opened_after_the_guard() {
    for unit in ["schengate-tcp.socket", "schengate-udp.socket"] {
        let socket = read(unit);
        // Not required: a restart of the guard would close the sockets of a running gateway (H02).
        assert_eq!(values(&socket, "Requires"), Vec::<&str>::new(), "{unit}");
        assert_eq!(values(&socket, "Wants"), ["schengate-guard.service"], "{unit}");
        assert_eq!(values(&socket, "After"), ["schengate-guard.service"], "{unit}");
        assert_eq!(values(&socket, "Transparent"), ["yes"], "{unit}");
    }
    let udp = read("schengate-udp.socket");
    assert_eq!(values(&udp, "ListenDatagram"), ["[::]:443"]);
    assert_eq!(values(&udp, "FileDescriptorName"), ["tproxy"]);
    assert_eq!(values(&udp, "BindIPv6Only"), ["both"]);
}

/// The service takes a passed socket for a `[[listen]]` entry by its name and its address.
#[test]
fn each_socket_bears_the_mode_and_the_address_of_one_listen_entry() {
    for (unit, mode, address) in [
        ("tcp", "tproxy", "[::]:15001"),
        ("redirect", "redirect", "[::]:15002"),
        ("proxy", "proxy", "127.0.0.1:3128"),
    ] {
        let socket = read(&format!("schengate-{unit}.socket"));
        assert_eq!(values(&socket, "FileDescriptorName"), [mode]);
        assert_eq!(values(&socket, "ListenStream"), [address]);
        assert_eq!(values(&socket, "Service"), ["schengate.service"]);
        let both = if address.starts_with("[::]") { vec!["both"] } else { vec![] };
        assert_eq!(values(&socket, "BindIPv6Only"), both, "{unit}");
    }
}

/// systemd itself as process 1 of namespaces of its own, with the units as they are installed: see
/// `tests/units/drive.sh` for what is done with them. Takes half a minute, ten seconds of it for
/// the watchdog. Left out, with a word, where namespaces cannot be made; in CI
/// (`SCHENGATE_NETNS=require`) that is a panic instead.
#[test]
fn the_units_start_reload_hand_over_sockets_and_stop_under_a_real_systemd() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report");
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/units");
    let output = Command::new("timeout")
        .args(["-k", "5", "150", "unshare", "-m", "-p", "-n", "-C", "-i", "-u"])
        .args(["--fork", "--kill-child", "--mount-proc", "bash"])
        .arg(tests.join("boot.sh"))
        .arg(env!("CARGO_BIN_EXE_schengate"))
        .arg(directory())
        .arg(tests.join("drive.sh"))
        .arg(&report)
        .output()
        .unwrap();
    let told = fs::read_to_string(&report).unwrap_or_default();
    if !told.contains("ok ") && !told.contains("NOT ") {
        let why = format!("systemd does not come up here: {}{told}", said(&output));
        let required = std::env::var("SCHENGATE_NETNS").is_ok_and(|value| value == "require");
        assert!(!required, "{why}");
        return println!("LEFT OUT: {why}");
    }
    assert!(!told.contains("NOT ") && told.ends_with("done\n"), "{told}{}", said(&output));
    assert!(told.matches("ok ").count() >= 14, "{told}");
}

#[test]
fn every_unit_is_a_file_that_the_install_page_names() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/install.md");
    let page = fs::read_to_string(page).unwrap();
    for path in units(&["service", "socket", "nft", "sysusers", "tmpfiles", "conf"]) {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(page.contains(name), "docs/install.md does not install {name}");
    }
}

#[test]
fn every_alert_asks_for_a_metric_that_the_gateway_has() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // Every file that may register one: which file it is must not matter.
    let metrics: String = fs::read_dir(root.join("src/account"))
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    let alerts = fs::read_to_string(root.join("config/prometheus/alerts.yml")).unwrap();
    let word = |c: char| !(c.is_ascii_lowercase() || c == '_');
    let asked: Vec<&str> =
        alerts.split(word).filter(|word| word.starts_with("schengate_")).collect();
    assert!(asked.len() > 5, "{asked:?}");
    for name in asked {
        assert!(metrics.contains(&format!("\"{name}\"")), "no metric {name}");
    }
}
