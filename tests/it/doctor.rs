//! `schengate doctor` on hosts that are broken in one way each, made of files below a root of their own.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

/// A host without a fault, as files.
fn sound() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| put(root.path(), path, text);
    for (switch, value) in [
        ("kernel/osrelease", "6.12.0"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/lan0/rp_filter", "2"),
        ("net/ipv4/conf/lan0/src_valid_mark", "0"),
        ("net/ipv4/tcp_fwmark_accept", "0"),
        ("net/ipv4/tcp_rfc1337", "0"),
        ("net/ipv4/ip_forward", "0"),
        ("net/ipv6/conf/all/forwarding", "0"),
        ("net/ipv4/ip_nonlocal_bind", "0"),
        ("net/bridge/bridge-nf-call-iptables", "0"),
        ("net/netfilter/nf_conntrack_count", "10"),
        ("net/netfilter/nf_conntrack_max", "65536"),
        ("net/ipv4/ip_local_port_range", "32768\t60999"),
        ("net/ipv4/ip_local_reserved_ports", ""),
        ("net/core/somaxconn", "4096"),
        ("fs/nr_open", "1048576"),
        ("fs/file-max", "1048576"),
    ] {
        write(&format!("proc/sys/{switch}"), &format!("{value}\n"));
    }
    write("lib/modules/6.12.0/modules.dep", "kernel/net/netfilter/nft_tproxy.ko.xz: x\n");
    write("etc/resolv.conf", "nameserver 192.0.2.53\n");
    write("etc/passwd", "root:x:0:0::/root:/bin/sh\nschengate:x:990:990::/:/bin/false\n");
    write("etc/nftables.conf", "#!/usr/sbin/nft -f\nflush ruleset\n");
    write("etc/schengate/policy.toml", "");
    write("usr/lib/systemd/system/schengate.service", "");
    fs::create_dir_all(root.path().join("var/lib/schengate/audit")).unwrap();
    for unit in [
        "schengate.service",
        "schengate-guard.service",
        "schengate-capture.service",
        "schengate-keeper.service",
        "schengate-tcp.socket",
        "schengate-udp.socket",
        "systemd-timesyncd.service",
        "nftables.service",
        "systemd-networkd.service",
    ] {
        enable(root.path(), unit);
    }
    root
}

fn put(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn enable(root: &Path, unit: &str) {
    let folder = root.join("etc/systemd/system/multi-user.target.wants");
    fs::create_dir_all(&folder).unwrap();
    symlink(format!("/usr/lib/systemd/system/{unit}"), folder.join(unit)).unwrap();
}

fn disable(root: &Path, unit: &str) {
    fs::remove_file(root.join("etc/systemd/system/multi-user.target.wants").join(unit)).unwrap();
}

/// A captured listener, a record on the disk, and tables of the test's own, which are small.
const POLICY: &str = "schema = 1
[policy]
mode = 'enforce'
permit = ['FR']
[data]
directory = 'data'
country = ['country.csv']
asn = ['asn.csv']
[audit]
directory = '/var/lib/schengate/audit'
[[listen]]
mode = 'tproxy'
address = '[::]:15001'
";

/// What it found, and its exit status.
fn doctor(root: &Path, policy: &Path) -> (Option<i32>, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_schengate"))
        .args(["doctor", "--json", "--config"])
        .arg(policy)
        .arg("--root")
        .arg(root)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let answer = serde_json::from_str(&text);
    (output.status.code(), answer.unwrap_or_else(|fault| panic!("{fault}: {text}{said}")))
}

/// The checks that are not good, each with what it says; without the ages of the tables, of which some
/// are in the program and grow old with it, and without the room on the disk of the test itself.
fn broken(answer: &Value) -> Vec<(String, String)> {
    let is_of_the_test =
        |(check, says): &(String, String)| check == "tables" || says.contains("MiB are free");
    bad(answer).into_iter().filter(|found| !is_of_the_test(found)).collect()
}

/// The checks that are not good, each with what it says.
fn bad(answer: &Value) -> Vec<(String, String)> {
    let all = answer["findings"].as_array().unwrap();
    let text = |found: &Value, key: &str| found[key].as_str().unwrap_or_default().to_owned();
    all.iter()
        .filter(|found| found["state"] != "good")
        .map(|found| {
            assert_ne!(text(found, "says"), "", "{found}");
            assert!(found["state"] != "bad" || !text(found, "mend").is_empty(), "{found}");
            (text(found, "check"), text(found, "says"))
        })
        .collect()
}

fn policy(folder: &Path, text: &str) -> std::path::PathBuf {
    let path = folder.join("policy.toml");
    fs::write(&path, text).unwrap();
    fs::write(folder.join("country.csv"), "203.0.113.0,203.0.113.255,FR\n").unwrap();
    fs::write(folder.join("asn.csv"), "203.0.113.0,203.0.113.255,64500,x\n").unwrap();
    path
}

/// A way to break a host.
type Break = fn(&Path);

/// A switch of the kernel.
fn switch(root: &Path, name: &str, value: &str) {
    assert!(root.join("proc/sys").join(name).exists(), "{name}");
    put(root, &format!("proc/sys/{name}"), value);
}

/// Hosts, each broken in one way, with the check that finds it and a word of what it says.
const BROKEN: &[(&str, &str, Break)] = &[
    ("rp_filter", "lan0", |root| switch(root, "net/ipv4/conf/lan0/rp_filter", "1")),
    ("src_valid_mark", "lan0", |root| switch(root, "net/ipv4/conf/lan0/src_valid_mark", "1")),
    ("tcp_fwmark_accept", "mark", |root| switch(root, "net/ipv4/tcp_fwmark_accept", "1")),
    ("br_netfilter", "bridge", |root| switch(root, "net/bridge/bridge-nf-call-iptables", "1")),
    ("tcp_rfc1337", "TIME-WAIT", |root| switch(root, "net/ipv4/tcp_rfc1337", "1")),
    ("forwarding", "forwards", |root| switch(root, "net/ipv4/ip_forward", "1")),
    ("forwarding", "forwards", |root| switch(root, "net/ipv6/conf/all/forwarding", "1")),
    ("ip_nonlocal_bind", "loop", |root| switch(root, "net/ipv4/ip_nonlocal_bind", "1")),
    ("conntrack", "60000", |root| switch(root, "net/netfilter/nf_conntrack_count", "60000")),
    ("local_ports", "1000", |root| switch(root, "net/ipv4/ip_local_port_range", "60000 60999")),
    ("local_ports", "15001", |root| switch(root, "net/ipv4/ip_local_port_range", "10000 60999")),
    ("somaxconn", "128", |root| switch(root, "net/core/somaxconn", "128")),
    ("descriptors", "1024", |root| switch(root, "fs/nr_open", "1024")),
    ("nft_tproxy", "6.12.0", |root| put(root, "lib/modules/6.12.0/modules.dep", "other.ko:\n")),
    ("nftables.service", "flush ruleset", |root| disable(root, "schengate-keeper.service")),
    ("networkd", "IPForward=yes", |root| {
        put(root, "etc/systemd/network/lan.network", "[Network]\nIPForward=yes\n");
    }),
    ("NetworkManager", "shared", |root| {
        let path = "etc/NetworkManager/system-connections/hotspot.nmconnection";
        put(root, path, "[ipv4]\nmethod=shared\n");
    }),
    ("docker", "Docker", |root| enable(root, "docker.service")),
    ("libvirt", "default.xml", |root| {
        let path = "etc/libvirt/qemu/networks/autostart/default.xml";
        put(root, path, "<network><forward mode='nat'/></network>");
    }),
    ("ufw", "ufw", |root| {
        put(root, "etc/ufw/ufw.conf", "ENABLED=yes\n");
        put(root, "etc/default/ufw", "DEFAULT_INPUT_POLICY=\"DROP\"\n");
    }),
    ("firewalld", "firewalld", |root| enable(root, "firewalld.service")),
    ("clock", "clock", |root| disable(root, "systemd-timesyncd.service")),
    ("resolver", "names no name server", |root| put(root, "etc/resolv.conf", "# none\n")),
    ("resolver", "cannot be read", |root| fs::remove_file(root.join("etc/resolv.conf")).unwrap()),
    ("units", "guard", |root| disable(root, "schengate-guard.service")),
    ("units", "capture rules", |root| disable(root, "schengate-capture.service")),
    ("units", "schengate-udp.socket", |root| disable(root, "schengate-udp.socket")),
    ("user", "user", |root| put(root, "etc/passwd", "root:x:0:0::/root:/bin/sh\n")),
    ("policy_file", "everybody", |root| {
        let path = root.join("etc/schengate/policy.toml");
        fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
    }),
    ("audit_directory", "/var/lib/schengate/audit", |root| {
        fs::remove_dir(root.join("var/lib/schengate/audit")).unwrap();
    }),
];

#[test]
fn each_of_thirty_broken_hosts_is_found_and_nothing_else_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let policy = policy(folder.path(), POLICY);
    let (status, answer) = doctor(sound().path(), &policy);
    assert_eq!(broken(&answer), [], "{answer:#}");
    assert_eq!(status, Some(i32::from(!bad(&answer).is_empty())), "{answer:#}");
    for (at, (check, word, break_it)) in BROKEN.iter().enumerate() {
        let host = sound();
        break_it(host.path());
        let (status, answer) = doctor(host.path(), &policy);
        let found = broken(&answer);
        assert_eq!(status, Some(1), "host {at}, {check}: {found:?}");
        assert_eq!(found.len(), 1, "host {at}, {check}: {found:?}");
        assert_eq!(found[0].0, *check, "host {at}: {found:?}");
        assert!(found[0].1.contains(word), "host {at}, {check}: {found:?}");
    }
}

#[test]
fn what_cannot_be_looked_at_is_said_and_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let sight = policy(folder.path(), POLICY);
    let host = sound();
    fs::remove_dir_all(host.path().join("lib/modules")).unwrap();
    let (status, answer) = doctor(host.path(), &sight);
    let is_old = answer["bad"] != 0;
    assert_eq!(status, Some(if is_old { 1 } else { 2 }), "{answer:#}");
    assert_eq!(broken(&answer)[0].0, "nft_tproxy");
    assert_eq!(answer["unseen"], 1);
    let nowhere = Command::new(env!("CARGO_BIN_EXE_schengate"))
        .args(["doctor", "--root", "/nowhere/at/all"])
        .output()
        .unwrap();
    assert_eq!(nowhere.status.code(), Some(2));
}

#[test]
fn a_policy_that_does_not_load_and_tables_that_are_old_are_findings() {
    let folder = tempfile::tempdir().unwrap();
    let host = sound();
    let broken = policy(folder.path(), "schema = 1\n[policy]\npermit = ['nowhere']\n");
    let (status, answer) = doctor(host.path(), &broken);
    assert_eq!(status, Some(1));
    assert_eq!(bad(&answer)[0].0, "policy", "{answer:#}");
    let proxy = policy(
        folder.path(),
        "schema = 1\n[policy]\npermit = ['FR']\n[data]\ncountry = ['country.csv']\nasn = ['asn.csv']\n",
    );
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(100 * 86_400);
    let table = fs::File::options().write(true).open(folder.path().join("country.csv")).unwrap();
    table.set_modified(old).unwrap();
    let (status, answer) = doctor(host.path(), &proxy);
    let found = bad(&answer);
    assert_eq!((status, found.len()), (Some(1), 1), "{answer:#}");
    assert_eq!(found[0].0, "tables", "{found:?}");
    assert!(found[0].1.contains("country.csv is 100 days old"), "{found:?}");
}

#[test]
fn for_people_it_says_what_it_means_and_what_mends_it() {
    let folder = tempfile::tempdir().unwrap();
    let policy = policy(folder.path(), POLICY);
    let host = sound();
    switch(host.path(), "net/ipv4/tcp_rfc1337", "1");
    let output = Command::new(env!("CARGO_BIN_EXE_schengate"))
        .args(["doctor", "--config"])
        .arg(&policy)
        .arg("--root")
        .arg(host.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for part in
        ["BAD     tcp_rfc1337: ", "mend it: sysctl -w net.ipv4.tcp_rfc1337=0", " bad, 0 not seen"]
    {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}
