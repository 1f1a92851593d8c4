//! What of the host's files leads out past its network, and is hidden: what lives no longer than the host
//! runs, memory and queues with a name, processes of the host, switches of the kernel. Sockets with a name
//! are there to see, and `connects` says which are within reach.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_bind_recursive, mount_change,
    mount_remount,
};

use super::Plan;
use super::inside::{Failed, Step, exists};
use crate::sys;

/// Where the host keeps sockets and what else lives no longer than it runs.
const RUN: &str = "/run";

/// Where names are asked: an address of nobody's, which is delivered as every other one is.
const NAME_SERVER: &str = "192.0.0.1";

const RESOLV: &str = "/etc/resolv.conf";

/// What stays within reach of all that the host has in its files: mounts, by their numbers. Nothing else can
/// be moved or linked into one of them, even where its file system is the same.
#[derive(Debug, Default)]
pub(super) struct Kept(HashSet<u64>);

impl Kept {
    /// Whether a file is in one of them, by the way by which it was opened.
    ///
    /// # Errors
    /// That cannot be asked.
    pub(super) fn holds(&self, file: &impl AsRawFd) -> io::Result<bool> {
        if self.0.is_empty() {
            return Ok(false);
        }
        let about = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
        let mount = about.lines().find_map(|line| line.strip_prefix("mnt_id:"));
        Ok(mount.and_then(|id| id.trim().parse().ok()).is_some_and(|id: u64| self.0.contains(&id)))
    }
}

/// Hides them, in the mount namespace of this process.
pub(super) fn hide(plan: &Plan) -> Result<Kept, Failed> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).step("the mounts")?;
    processes()?;
    kept(plan, || run().step("/run"))?;
    for path in plan.keep.iter().filter(|path| !path.starts_with(RUN)) {
        let step = format!("--keep {}", path.display());
        mount_bind_recursive(path.as_path(), path.as_path()).step(&step)?;
    }
    for (path, kind, options) in
        [("/dev/shm", "tmpfs", Some(c"mode=1777")), ("/dev/mqueue", "mqueue", None)]
    {
        let path = Path::new(path);
        let is_kept = plan.keep.iter().any(|kept| path.starts_with(kept) || kept.starts_with(path));
        if exists(path) && !is_kept {
            let flags = MountFlags::NOSUID | MountFlags::NODEV;
            mount(kind, path, kind, flags, options).step(&path.display().to_string())?;
        }
    }
    names()?;
    let table = fs::read("/proc/self/mountinfo").step("the mounts")?;
    let kept = Kept(mounts_below(&table, &plan.keep));
    enter_anew()?;
    Ok(kept)
}

/// The numbers of the mounts at these paths and below, in the text of `/proc/self/mountinfo` (proc(5)).
fn mounts_below(table: &[u8], paths: &[PathBuf]) -> HashSet<u64> {
    let below = |line: &[u8]| {
        let mut words = line.split(|&byte| byte == b' ');
        let number = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
        let point = unescaped(words.nth(3)?);
        let point = Path::new(OsStr::from_bytes(&point));
        paths.iter().any(|path| point.starts_with(path)).then_some(number)
    };
    table.split(|&byte| byte == b'\n').filter_map(below).collect()
}

/// Without the three octal digits behind a backslash in which blanks and backslashes stand there.
fn unescaped(word: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&byte, behind)) = rest.split_first() {
        let digits = behind.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let code = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        (rest, _) = match code.filter(|_| byte == b'\\') {
            Some(code) => (behind.get(3..).unwrap_or_default(), text.push(code)),
            None => (behind, text.push(byte)),
        };
    }
    text
}

/// Takes the working directory again by its name: a directory that was entered before leads beneath
/// what was mounted since.
fn enter_anew() -> Result<(), Failed> {
    let entered = std::env::current_dir().and_then(std::env::set_current_dir);
    entered.or_else(|_| std::env::set_current_dir("/")).step("the working directory")
}

/// The processes of the namespace alone, and no switch of the kernel's to write to: those of an
/// administrator would have it start a program outside (`kernel.core_pattern`).
fn processes() -> Result<(), Failed> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    // Where a container's runtime hides parts of it, the kernel gives no whole one. The old one stays:
    // whose processes it shows are not this user's to look into.
    let _whole = mount("proc", "/proc", "proc", flags, None);
    for path in ["/proc/sys", "/proc/sysrq-trigger", "/sys"].map(Path::new) {
        if !exists(path) {
            continue;
        }
        // Everything below as well: what is mounted there has attributes of its own.
        let read_only = mount_bind_recursive(path, path).map_err(io::Error::from);
        let read_only = read_only.and_then(|()| match sys::make_read_only(path) {
            // Before Linux 5.12: the mount itself.
            Err(fault) if fault.raw_os_error() == Some(libc::ENOSYS) => {
                let flags = MountFlags::BIND | MountFlags::RDONLY | flags;
                Ok(mount_remount(path, flags, c"")?)
            }
            done => done,
        });
        read_only.step(&path.display().to_string())?;
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
    fn mounts_are_known_by_where_they_are_whatever_is_in_their_names() {
        let table = b"22 1 0:5 / / rw - ext4 a rw
23 22 0:6 / /tmp/a\\040b rw shared:1 - tmpfs t rw
24 23 0:7 /x /tmp/a\\040b/\xff\\134c rw - tmpfs t rw
25 22 0:8 / /tmp/a rw - tmpfs t rw
";
        let below = |path: &str| {
            let mut all: Vec<_> = mounts_below(table, &[PathBuf::from(path)]).into_iter().collect();
            all.sort_unstable();
            all
        };
        assert_eq!(below("/tmp/a b"), [23, 24]);
        assert_eq!(below("/tmp/a"), [25]);
        assert!(below("/nowhere").is_empty());
        assert_eq!(unescaped(b"\\134x\\04"), b"\\x\\04");
    }

    #[test]
    fn the_one_name_server_stands_in_for_those_of_the_host() {
        let old = "# comment\nsearch site.example\nnameserver 10.0.0.1\noptions edns0\n";
        assert_eq!(resolv(old), "nameserver 192.0.0.1\nsearch site.example\noptions edns0\n");
    }
}
