//! What of the host's files leads out past its network, and is hidden: sockets with a name (a session's
//! bus, a container engine, a cache of names), processes of the host, switches of the kernel.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_bind_recursive, mount_change,
    mount_remount,
};

use super::Plan;
use super::inside::{Failed, Step, exists};

/// Where the host keeps sockets and what else lives no longer than it runs.
const RUN: &str = "/run";

/// Where names are asked: an address of nobody's, which is delivered as every other one is.
const NAME_SERVER: &str = "192.0.0.1";

const RESOLV: &str = "/etc/resolv.conf";

/// Every socket of this host with a name in its files, but those in `/run`.
///
/// # Errors
/// The kernel's list cannot be read.
pub(super) fn sockets_of_the_host() -> io::Result<Vec<PathBuf>> {
    let text = fs::read("/proc/net/unix")?;
    Ok(named_sockets(&String::from_utf8_lossy(&text)))
}

/// The names in the text of `/proc/net/unix` (proc(5)).
fn named_sockets(text: &str) -> Vec<PathBuf> {
    let name = |line: &str| {
        let at = line.find(" /")? + 1;
        line.get(at..).map(PathBuf::from)
    };
    let mut all: Vec<PathBuf> = text.lines().skip(1).filter_map(name).collect();
    all.retain(|path| !path.starts_with(RUN) && !path.starts_with("/var/run"));
    all.sort();
    all.dedup();
    all
}

/// Hides them, in the mount namespace of this process.
pub(super) fn hide(plan: &Plan, sockets: &[PathBuf]) -> Result<(), Failed> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).step("the mounts")?;
    processes()?;
    kept(plan, || run().step("/run"))?;
    for socket in sockets.iter().filter(|socket| !is_kept(plan, socket)) {
        hide_socket(socket)?;
    }
    names()?;
    enter_anew()
}

/// Takes the working directory again by its name: a directory that was entered before leads beneath
/// what was mounted since.
fn enter_anew() -> Result<(), Failed> {
    let entered = std::env::current_dir().and_then(std::env::set_current_dir);
    entered.or_else(|_| std::env::set_current_dir("/")).step("the working directory")
}

fn is_kept(plan: &Plan, path: &Path) -> bool {
    plan.keep.iter().any(|kept| path.starts_with(kept))
}

/// The processes of the namespace alone, and no switch of the kernel's to write to: those of an
/// administrator would have it start a program outside (`kernel.core_pattern`).
fn processes() -> Result<(), Failed> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    // Where a container's runtime hides parts of it, the kernel gives no whole one. The old one stays:
    // whose processes it shows are not this user's to look into.
    let _whole = mount("proc", "/proc", "proc", flags, None);
    let is_root = rustix::process::geteuid().is_root();
    for path in ["/proc/sys", "/proc/sysrq-trigger", "/sys"] {
        let read_only = mount_bind_recursive(path, path)
            .and_then(|()| mount_remount(path, MountFlags::BIND | MountFlags::RDONLY | flags, c""));
        if let Err(fault) = read_only
            && is_root
            && exists(Path::new(path))
        {
            return Err(fault).step(path);
        }
    }
    Ok(())
}

/// Hides something, and puts back what of it is to stay within reach.
fn kept(plan: &Plan, hide: impl FnOnce() -> Result<(), Failed>) -> Result<(), Failed> {
    let mut held = Vec::new();
    for path in plan.keep.iter().filter(|path| path.starts_with(RUN)) {
        let step = format!("--keep {}", path.display());
        let flags = libc::O_PATH | libc::O_CLOEXEC;
        let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path).step(&step)?;
        held.push((path, file, step));
    }
    hide()?;
    for (path, file, step) in held {
        let is_directory = file.metadata().step(&step)?.is_dir();
        let parent = if is_directory { Some(path.as_path()) } else { path.parent() };
        fs::create_dir_all(parent.unwrap_or(path)).step(&step)?;
        if !is_directory {
            fs::write(path, "").step(&step)?;
        }
        let source = format!("/proc/self/fd/{}", file.as_raw_fd());
        mount_bind_recursive(source.as_str(), path.as_path()).step(&step)?;
    }
    Ok(())
}

/// An empty `/run`, but for the links in it, and a directory of the user's own.
fn run() -> io::Result<()> {
    let links: Vec<_> = fs::read_dir(RUN)?
        .flatten()
        .filter_map(|entry| Some((entry.path(), fs::read_link(entry.path()).ok()?)))
        .collect();
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", RUN, "tmpfs", flags, Some(c"mode=0755,size=64m"))?;
    for (path, target) in links {
        symlink(target, path)?;
    }
    let user = rustix::process::geteuid().as_raw();
    fs::DirBuilder::new().recursive(true).create(format!("{RUN}/user"))?;
    fs::DirBuilder::new().mode(0o700).create(format!("{RUN}/user/{user}"))?;
    fs::DirBuilder::new().create(format!("{RUN}/lock"))
}

/// Puts nothing in the place of a socket.
fn hide_socket(path: &Path) -> Result<(), Failed> {
    // Whatever is not there, or not to be reached, leads nowhere.
    let is_socket = |about: fs::Metadata| about.file_type().is_socket();
    if !fs::metadata(path).is_ok_and(is_socket) {
        return Ok(());
    }
    mount_bind("/dev/null", path).step(&format!("the socket {}", path.display()))
}

/// Has names asked of the gateway. Every address leads to it; this one says so.
fn names() -> Result<(), Failed> {
    const STEP: &str = "resolv.conf";
    let old = fs::read_to_string(RESOLV).unwrap_or_default();
    let own = format!("{RUN}/schengate-resolv.conf");
    fs::write(&own, resolv(&old)).step(STEP)?;
    if fs::metadata(RESOLV).is_ok() {
        return mount_bind(own.as_str(), RESOLV).step(STEP);
    }
    // It leads into what is hidden now, or is not there: then 127.0.0.1 is asked (resolv.conf(5)).
    if let Ok(target) = fs::read_link(RESOLV) {
        let target = Path::new("/etc").join(target);
        let made = target.parent().map_or(Ok(()), fs::create_dir_all);
        drop(made.and_then(|()| fs::copy(&own, &target)));
    }
    Ok(())
}

/// The file with one name server, and what else it says.
fn resolv(old: &str) -> String {
    let rest = old.lines().filter(|line| {
        ["search", "domain", "options"]
            .contains(&line.split_whitespace().next().unwrap_or_default())
    });
    let mut text = format!("nameserver {NAME_SERVER}\n");
    for line in rest {
        text.push_str(line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_with_a_name_are_read_and_abstract_ones_and_those_of_run_are_not() {
        let text = "Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 20 /run/dbus/system_bus_socket
0000000000000000: 00000002 00000000 00010000 0001 01 21 @abstract
0000000000000000: 00000002 00000000 00010000 0001 01 22 /tmp/ssh-a b/agent.1
0000000000000000: 00000003 00000000 00000000 0001 03 23
0000000000000000: 00000002 00000000 00010000 0001 01 24 /tmp/ssh-a b/agent.1
0000000000000000: 00000002 00000000 00010000 0005 01 25 /var/lib/x
";
        assert_eq!(
            named_sockets(text),
            [Path::new("/tmp/ssh-a b/agent.1"), Path::new("/var/lib/x")]
        );
    }

    #[test]
    fn the_one_name_server_stands_in_for_those_of_the_host() {
        let old = "# comment\nsearch site.example\nnameserver 10.0.0.1\noptions edns0\n";
        assert_eq!(resolv(old), "nameserver 192.0.0.1\nsearch site.example\noptions edns0\n");
    }
}
