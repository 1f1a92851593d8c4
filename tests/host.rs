//! Debian 12 and 13 as they boot: systemd as process 1, systemd-networkd and nftables.service on, the
//! files of docs/install.md where it puts them. What is done there is in `tests/host/*.sh`, one line
//! `ok WHAT` or `NOT WHAT` for each thing that must hold.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{LazyLock, Mutex};

/// What a tree has besides the base system.
const PACKAGES: &str =
    "systemd,systemd-sysv,dbus,nftables,iproute2,procps,iputils-ping,curl,ca-certificates,python3";

/// Other software with rules of its own, off until a driver starts it.
const OTHERS: &str = "libpam-systemd,iptables,ufw,firewalld,docker.io,docker-cli";

/// Seconds that one boot may take with all that is done in it.
const LIMIT: &str = "420";

/// One boot at a time: what is measured is not the others.
static TURN: Mutex<()> = Mutex::new(());

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn said(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let text = String::from_utf8_lossy(&both).into_owned();
    let tail = text.lines().rev().take(30).collect::<Vec<_>>();
    tail.into_iter().rev().map(|line| format!("{line}\n")).collect()
}

/// Why nothing can be booted here; `None` where it can. In CI (`SCHENGATE_CI`) that is a panic.
fn left_out() -> Option<String> {
    let runs = |program: &str| Command::new(program).arg("--version").output().is_ok();
    let uid = Command::new("id").arg("-u").output();
    let is_root = uid.is_ok_and(|output| output.stdout == b"0\n");
    let missing = ["debootstrap", "systemd-nspawn", "unshare"].into_iter().find(|it| !runs(it));
    let why = match missing {
        Some(program) => format!("{program} is not installed"),
        None if !is_root => "it needs root".to_owned(),
        None => return None,
    };
    assert!(std::env::var_os("SCHENGATE_CI").is_none(), "{why}");
    println!("SKIPPED: a Debian cannot be booted here: {why}");
    Some(why)
}

/// The archive that this machine itself is installed from, where it is a Debian.
fn mirror() -> Option<String> {
    let format = "$(ORIGIN) $(REPO_URI)";
    let arguments = ["indextargets", "--format", format, "Created-By: Packages"];
    let targets = Command::new("apt-get").args(arguments).output().ok()?;
    let targets = String::from_utf8(targets.stdout).ok()?;
    let own = targets.lines().filter_map(|line| line.strip_prefix("Debian "));
    own.map(str::to_owned).find(|uri| uri.trim_end_matches('/').ends_with("/debian"))
}

/// The tree of a release, made once and kept beside what cargo builds; with the programs of [`OTHERS`]
/// where they are asked for.
fn tree(release: &str, has_others: bool) -> PathBuf {
    let trees = Path::new(env!("CARGO_TARGET_TMPDIR")).join("trees");
    let (name, packages) = match has_others {
        false => (release.to_owned(), PACKAGES.to_owned()),
        true => (format!("{release}-others"), format!("{PACKAGES},{OTHERS}")),
    };
    let ready = trees.join(name);
    if ready.is_dir() {
        return ready;
    }
    fs::create_dir_all(&trees).unwrap();
    let making = tempfile::tempdir_in(&trees).unwrap();
    let tree = making.path().join(release);
    let mut command = Command::new("debootstrap");
    command.args(["--variant=minbase", &format!("--include={packages}"), release]);
    command.arg(&tree).args(mirror());
    let output = command.output().unwrap();
    assert!(output.status.success(), "debootstrap {release}: {}", said(&output));
    fs::rename(&tree, &ready).unwrap();
    ready
}

/// Versions of the package, later ones after earlier ones.
const VERSIONS: [&str; 2] = ["0.1.0-1", "99.0.0-1"];

/// The packages of this program, built once: the same in each of [`VERSIONS`].
static PACKAGES_BUILT: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages");
    VERSIONS.iter().for_each(|version| package(version, &folder));
    folder
});

/// Builds a package of the program that is tested.
fn package(version: &str, folder: &Path) {
    build_packages(version, &["--only", "deb"], folder);
}

/// Builds packages of the program that is tested.
fn build_packages(version: &str, which: &[&str], folder: &Path) {
    let output = Command::new(here().join("packaging/build"))
        .args(["--binary", env!("CARGO_BIN_EXE_schengate"), "--version", version])
        .args(which)
        .args(["--fast", "--output"])
        .arg(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "packaging/build {version}: {}", said(&output));
}

/// The one package of a version that is there.
fn built(version: &str, folder: &Path) -> PathBuf {
    let named = |path: &PathBuf| path.to_string_lossy().contains(&format!("_{version}_"));
    let mut paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.find(named).unwrap()
}

/// Boots a release with a driver, and holds every line of its report.
fn boot(release: &str, driver: &str, prepare: &str) {
    if left_out().is_some() {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let tree = tree(release, driver == "others.sh");
    let packages = (driver == "package.sh").then(|| PACKAGES_BUILT.as_path());
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report");
    let scripts = here().join("tests/host");
    let output = Command::new("timeout")
        .args(["-k", "10", LIMIT, "unshare", "-m", "-p", "-n", "--fork", "--kill-child", "bash"])
        .arg(scripts.join("boot.sh"))
        .args([&tree, Path::new(env!("CARGO_BIN_EXE_schengate")), here()])
        .arg(scripts.join(driver))
        .arg(&report)
        .env("PREPARE", prepare)
        .env("PACKAGES", packages.unwrap_or_else(|| Path::new("")))
        .env("FORWARD", "1")
        // Without optimisation the policy alone takes longer to load.
        .env("LOAD", if cfg!(debug_assertions) { "100 15000" } else { "500 1000" })
        .output()
        .unwrap();
    let told = fs::read_to_string(&report).unwrap_or_default();
    println!("{release}, {driver}:\n{told}");
    assert!(told.ends_with("done\n") && !told.contains("NOT "), "{told}{}", said(&output));
}

#[test]
fn h01_h02_h07_w10_what_is_taken_away_on_debian_12_is_back_at_once_and_nothing_leaves() {
    boot("bookworm", "keeper.sh", "installed.sh");
}

#[test]
fn h01_h02_h07_w10_what_is_taken_away_on_debian_13_is_back_at_once_and_nothing_leaves() {
    boot("trixie", "keeper.sh", "installed.sh");
}

#[test]
fn w10_no_command_of_ufw_firewalld_docker_or_iptables_opens_the_post() {
    boot("trixie", "others.sh", "installed-others.sh");
}

#[test]
fn h05_restarts_on_debian_13_refuse_nobody_and_nobody_waits_for_the_old() {
    boot("trixie", "restart.sh", "installed.sh");
}

#[test]
fn h10_the_recipes_of_the_install_page_hold_on_debian_12() {
    boot("bookworm", "recipes.sh", "");
}

#[test]
fn h10_the_recipes_of_the_install_page_hold_on_debian_13() {
    boot("trixie", "recipes.sh", "");
}

#[test]
fn r01_the_commands_of_the_readme_hold_on_debian_13() {
    boot("trixie", "readme.sh", "");
}

#[test]
fn p01_ten_commands_lead_from_the_package_to_enforcing_and_back_on_debian_12() {
    boot("bookworm", "package.sh", "");
}

#[test]
fn p01_ten_commands_lead_from_the_package_to_enforcing_and_back_on_debian_13() {
    boot("trixie", "package.sh", "");
}

#[test]
fn p02_lintian_finds_no_error_in_the_package_and_a_second_one_is_the_same_bytes() {
    let is_there = Command::new("lintian").arg("--version").output().is_ok();
    if !is_there {
        assert!(std::env::var_os("SCHENGATE_CI").is_none(), "lintian is needed here");
        println!("SKIPPED: lintian is not installed");
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let first = built(VERSIONS[0], &PACKAGES_BUILT);
    let output = Command::new("lintian").args(["--fail-on", "error"]).arg(&first).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let folder = tempfile::tempdir().unwrap();
    package(VERSIONS[0], folder.path());
    let second = built(VERSIONS[0], folder.path());
    let read = |path: &Path| fs::read(path).unwrap();
    assert!(read(&first) == read(&second), "two packages of one program differ");
}

#[test]
fn p08_rpm_installs_the_other_package_upgrades_and_removes_it() {
    let is_there = Command::new("rpm").arg("--version").output().is_ok();
    if !is_there {
        assert!(std::env::var_os("SCHENGATE_CI").is_none(), "rpm is needed here");
        println!("SKIPPED: rpm is not installed");
        return;
    }
    if left_out().is_some() {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    build_packages(VERSIONS[0], &[], folder.path());
    let mut paths = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let package = paths.find(|path| path.extension().is_some_and(|it| it == "rpm")).unwrap();
    let output = Command::new("timeout")
        .args(["-k", "10", LIMIT, "unshare", "-m", "bash"])
        .arg(here().join("tests/host/rpm.sh"))
        .args([&tree("trixie", false), &package])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    println!("{told}");
    assert!(told.ends_with("done\n") && !told.contains("NOT "), "{told}{}", said(&output));
}
