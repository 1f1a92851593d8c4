//! The service itself: units, policy, tables, the room for its record.

use std::os::unix::fs::PermissionsExt;

use jiff::Timestamp;
use rustix::fs::statvfs;

use super::diagnosis::{Diagnosis, Expected, State};
use super::files::Files;

/// Room for the record, at least: bytes, and one part in so many of the disk.
const ROOM: u64 = 1 << 30;
const PART: u64 = 20;

const POLICY: &str = "etc/schengate/policy.toml";

pub(super) fn look(
    files: &Files,
    wanted: Expected<'_>,
    now: Timestamp,
    found: &mut Vec<Diagnosis>,
) {
    let mut put = |check, state| found.push(Diagnosis { check, state });
    put("units", units(files, wanted));
    put("user", user(files));
    put("policy_file", policy_file(files));
    put("tables", tables(wanted, now));
    if let Some(audit) = wanted.config.and_then(|config| config.audit.as_ref()) {
        put("audit_directory", room(files, &audit.directory.to_string_lossy()));
    }
}

fn units(files: &Files, wanted: Expected<'_>) -> State {
    let (service, guard) = ("schengate.service", "schengate-guard.service");
    let sockets = ["schengate-tcp.socket", "schengate-udp.socket"];
    let is = |unit: &str| files.is_enabled(unit);
    if !is(service) && !sockets.iter().any(|unit| is(unit)) {
        // Nothing is installed as a service.
        return State::Good;
    }
    if !wanted.is_captured() {
        return State::Good;
    }
    if !is(guard) {
        return State::bad(
            "the guard is not started with the system: until the gateway runs, and where it is gone, what is \
             forwarded leaves",
            format!("systemctl enable --now {guard}"),
        );
    }
    if !is("schengate-capture.service") {
        return State::bad(
            "the capture rules are not set at the start: nothing is brought to the gateway",
            "systemctl enable --now schengate-capture.service",
        );
    }
    if wanted.has_tproxy()
        && let Some(socket) = sockets.iter().find(|unit| !is(unit))
    {
        return State::bad(
            format!(
                "{socket} is not started with the system: without it a transparent listener needs \
                     CAP_NET_ADMIN, which the service does not have"
            ),
            format!("systemctl enable --now {socket}"),
        );
    }
    State::Good
}

fn user(files: &Files) -> State {
    let installed = files.exists("etc/systemd/system/schengate.service")
        || files.exists("usr/lib/systemd/system/schengate.service")
        || files.exists("lib/systemd/system/schengate.service");
    let known = files
        .read("etc/passwd")
        .is_some_and(|text| text.lines().any(|line| line.starts_with("schengate:")));
    if installed && !known {
        return State::bad(
            "there is no user `schengate`, as whom the service runs",
            "systemd-sysusers (packages do it; the file is schengate.sysusers)",
        );
    }
    State::Good
}

fn policy_file(files: &Files) -> State {
    const OTHERS_WRITE: u32 = 0o002;
    match std::fs::metadata(files.path(POLICY)) {
        Ok(about) if about.permissions().mode() & OTHERS_WRITE != 0 => State::bad(
            format!("everybody of this host may write /{POLICY}, and saving it deploys"),
            format!("chmod o-w /{POLICY}"),
        ),
        Ok(_) => State::Good,
        Err(_) => State::Good,
    }
}

pub(super) fn tables(wanted: Expected<'_>, now: Timestamp) -> State {
    let ahead = wanted.tables.iter().find(|table| table.as_of.is_some_and(|as_of| as_of > now));
    if let Some(table) = ahead {
        return State::bad(
            format!("the table {} is of a day to come: the clock is behind", table.name),
            "timedatectl set-ntp true",
        );
    }
    let old: Vec<_> = wanted.tables.iter().filter_map(|table| table.old(now)).collect();
    match old.is_empty() {
        true => State::Good,
        false => State::bad(
            old.join("; "),
            "systemctl enable --now schengate-update.timer (with [data.update]), or install a newer version",
        ),
    }
}

/// Whether there is room for the record.
fn room(files: &Files, directory: &str) -> State {
    let path = files.path(directory);
    let Ok(disk) = statvfs(&path) else {
        return State::bad(
            format!(
                "{directory} is not there, or cannot be looked at: without a record nothing goes on"
            ),
            format!("install -d -o schengate -g schengate -m 0750 {directory}"),
        );
    };
    let (free, all) = (disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize);
    if free < ROOM || free < all / PART {
        return State::bad(
            format!(
                "{} MiB are free for the record in {directory}: a full disk refuses connections",
                free >> 20
            ),
            "give it a disk of its own, or shorten [audit] retention",
        );
    }
    State::Good
}
