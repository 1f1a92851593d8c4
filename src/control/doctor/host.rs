//! Other software of the host that changes rules and switches.

use super::diagnosis::{Diagnosis, State};
use super::files::Files;

pub(super) fn look(files: &Files, captured: bool, found: &mut Vec<Diagnosis>) {
    let mut put = |check, state| found.push(Diagnosis { check, state });
    if captured {
        put("nftables.service", nftables(files));
        put("networkd", networkd(files));
        put("NetworkManager", network_manager(files));
        put("docker", docker(files));
        put("libvirt", libvirt(files));
        put("ufw", ufw(files));
        put("firewalld", firewalld(files));
    }
    put("clock", clock(files));
    put("resolver", resolver(files));
}

/// Lines of a configuration file without its comments.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']) && !line.is_empty())
}

/// Whether a line sets a key to one of these values.
fn says(line: &str, key: &str, values: &[&str]) -> bool {
    let Some((found, value)) = line.split_once('=') else { return false };
    let value = value.trim().trim_matches(['"', '\'']).to_lowercase();
    found.trim().eq_ignore_ascii_case(key) && values.contains(&value.as_str())
}

const YES: [&str; 4] = ["yes", "true", "1", "on"];

fn nftables(files: &Files) -> State {
    let flushes = files
        .read("etc/nftables.conf")
        .is_some_and(|text| lines(&text).any(|line| line.starts_with("flush ruleset")));
    if flushes
        && files.is_enabled("nftables.service")
        && !files.is_enabled("schengate-keeper.service")
    {
        return State::bad(
            "/etc/nftables.conf begins with `flush ruleset`: each start, reload and stop of nftables.service \
             takes the capture and the guard away, and nobody puts them back",
            "systemctl enable --now schengate-keeper.service, and write `include` files in place of the flush",
        );
    }
    State::Good
}

fn networkd(files: &Files) -> State {
    if !files.is_enabled("systemd-networkd.service") {
        return State::Good;
    }
    let mut all = files.texts("etc/systemd/network", ".network");
    all.extend(files.texts("etc/systemd/networkd.conf.d", ".conf"));
    all.extend(
        files
            .read("etc/systemd/networkd.conf")
            .map(|text| ("/etc/systemd/networkd.conf".to_owned(), text)),
    );
    let keys = ["IPForward", "IPv4Forwarding", "IPv6Forwarding"];
    let on = ["yes", "true", "1", "on", "ipv4", "ipv6"];
    for (path, text) in all {
        if let Some(line) = lines(&text).find(|line| keys.iter().any(|key| says(line, key, &on))) {
            return State::bad(
                format!(
                    "{path} says {line:?}: systemd-networkd switches forwarding on after the guard has \
                         switched it off"
                ),
                format!("take the line out of {path}; networkctl reload"),
            );
        }
    }
    State::Good
}

fn network_manager(files: &Files) -> State {
    for (path, text) in files.texts("etc/NetworkManager/system-connections", ".nmconnection") {
        if lines(&text).any(|line| says(line, "method", &["shared"])) {
            return State::bad(
                format!(
                    "{path} shares its connection (method=shared): NetworkManager switches forwarding on and \
                         lets clients out past the gateway"
                ),
                "nmcli connection modify NAME ipv4.method manual ipv6.method manual",
            );
        }
    }
    State::Good
}

fn docker(files: &Files) -> State {
    let units = ["docker.service", "docker.socket"];
    if !units.iter().any(|unit| files.is_enabled(unit)) {
        return State::Good;
    }
    let settings = files.read("etc/docker/daemon.json").unwrap_or_default();
    let settings = serde_json::from_str::<serde_json::Value>(&settings).unwrap_or_default();
    if settings["ip-forward"] == false {
        return State::Good;
    }
    State::bad(
        "Docker switches forwarding on, and accepts what is forwarded for its containers: those leave past the \
         gateway unless the guard stands",
        "write {\"ip-forward\": false} into /etc/docker/daemon.json, or run containers on another host",
    )
}

fn libvirt(files: &Files) -> State {
    for (path, text) in files.texts("etc/libvirt/qemu/networks/autostart", ".xml") {
        if text.contains("<forward") {
            return State::bad(
                format!(
                    "{path} forwards for its machines: libvirt switches forwarding on and accepts what they \
                         send"
                ),
                "virsh net-autostart --disable NAME, or an isolated network (no <forward>)",
            );
        }
    }
    State::Good
}

fn ufw(files: &Files) -> State {
    let said = |path: &str, key: &str, values: &[&str]| {
        files.read(path).is_some_and(|text| lines(&text).any(|line| says(line, key, values)))
    };
    if said("etc/ufw/ufw.conf", "ENABLED", &YES)
        && said("etc/default/ufw", "DEFAULT_INPUT_POLICY", &["drop", "reject"])
    {
        return State::bad(
            "ufw drops what comes in: what is captured is for this host, and comes in",
            "ufw allow in on INTERFACE (the clients' one)",
        );
    }
    State::Good
}

fn firewalld(files: &Files) -> State {
    if files.is_enabled("firewalld.service") {
        return State::bad(
            "firewalld rejects what comes in for no service of its zone: what is captured is for this host, and \
             comes in",
            "firewall-cmd --permanent --zone=trusted --add-interface=INTERFACE (the clients' one), then --reload",
        );
    }
    State::Good
}

fn clock(files: &Files) -> State {
    let keepers = [
        "systemd-timesyncd.service",
        "chrony.service",
        "chronyd.service",
        "ntp.service",
        "ntpd.service",
        "ntpsec.service",
        "openntpd.service",
    ];
    let pvclock = files.list("sys/class/ptp").into_iter().next();
    if keepers.iter().any(|unit| files.is_enabled(unit)) || pvclock.is_some() {
        return State::Good;
    }
    State::bad(
        "nothing keeps the clock: waivers, zones and the ages of tables go by it, and so does the record",
        "systemctl enable --now systemd-timesyncd (or install chrony)",
    )
}

fn resolver(files: &Files) -> State {
    match files.read("etc/resolv.conf") {
        None => State::bad("/etc/resolv.conf cannot be read: no name has an address", NAME_SERVER),
        Some(text) if !lines(&text).any(|line| line.starts_with("nameserver ")) => no_name_server(),
        Some(_) => State::Good,
    }
}

const NAME_SERVER: &str =
    "write `nameserver ADDRESS` into /etc/resolv.conf, or [names] resolvers in the policy";

/// Nobody is there who could be asked for a name.
pub(super) fn no_name_server() -> State {
    State::bad("/etc/resolv.conf names no name server: no name has an address", NAME_SERVER)
}
