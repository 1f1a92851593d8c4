//! Which files this process may open from here on (landlock(7)).

use std::io;
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus,
};

/// The rights that are asked for: what later kernels add is of no file that is opened here.
const RIGHTS: ABI = ABI::V5;

/// Folders and files, each with all that is below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paths {
    /// May be read and listed.
    pub read: Vec<PathBuf>,
    /// May be written, made and removed as well.
    pub write: Vec<PathBuf>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fenced {
    /// How much of it the kernel holds.
    pub holds: Holds,
    /// The paths that are not there, to which nothing was permitted.
    pub missing: Vec<PathBuf>,
}

/// How much of a restriction the kernel holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// All of it.
    Whole,
    /// What an older kernel knows of it.
    Part,
    /// Nothing: it has no landlock, or was started without.
    Nothing,
}

/// Restricts the calling thread, and the threads that it starts from now on, to these paths: no other
/// file is opened, made or removed, and none is run as a program. Files that are open stay so.
///
/// # Errors
/// The kernel has landlock, and did not take this; or a path is there and cannot be opened.
pub fn restrict_files(paths: &Paths) -> io::Result<Fenced> {
    if !has_landlock()? {
        return Ok(Fenced { holds: Holds::Nothing, missing: Vec::new() });
    }
    let fault = |fault: RulesetError| io::Error::other(fault);
    let all = AccessFs::from_all(RIGHTS);
    let mut ruleset =
        Ruleset::default().handle_access(all).map_err(fault)?.create().map_err(fault)?;
    let mut missing = Vec::new();
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = all & !(AccessFs::Execute | AccessFs::MakeBlock | AccessFs::MakeChar);
    let wanted = paths.read.iter().map(|path| (path, read));
    for (path, rights) in wanted.chain(paths.write.iter().map(|path| (path, write))) {
        let about = match std::fs::metadata(path) {
            Ok(about) => about,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                missing.push(path.clone());
                continue;
            }
            Err(error) => return Err(named(path, &error)),
        };
        // Of a file there are fewer rights than of a folder.
        let rights = if about.is_dir() { rights } else { rights & AccessFs::from_file(RIGHTS) };
        let opened = PathFd::new(path).map_err(|error| named(path, &error))?;
        ruleset = ruleset.add_rule(PathBeneath::new(&opened, rights)).map_err(fault)?;
        if path.starts_with("/proc") {
            // What is permitted is this entry, and the kernel makes another one of the same name as
            // soon as nobody has this one open.
            std::mem::forget(opened);
        }
    }
    let holds = match ruleset.restrict_self().map_err(fault)?.ruleset {
        RulesetStatus::FullyEnforced => Holds::Whole,
        RulesetStatus::PartiallyEnforced => Holds::Part,
        RulesetStatus::NotEnforced => return Err(io::Error::other("landlock took no rule")),
    };
    Ok(Fenced { holds, missing })
}

/// Whether landlock can be had (landlock_create_ruleset(2), `LANDLOCK_CREATE_RULESET_VERSION`): not where
/// the kernel has none, nor where the filter of a container answers for it that there is none, or that
/// nobody may ask (EPERM, as systemd-nspawn 252 and others have it).
///
/// # Errors
/// It was asked, and failed otherwise.
fn has_landlock() -> io::Result<bool> {
    const VERSION: libc::c_uint = 1;
    let nothing = std::ptr::null::<libc::c_void>();
    // SAFETY: with this flag the call reads no attributes: there is no pointer that it follows.
    #[expect(unsafe_code, reason = "a call that no library makes")]
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0_usize, VERSION) };
    if version > 0 {
        return Ok(true);
    }
    let fault = io::Error::last_os_error();
    match fault.raw_os_error() {
        Some(libc::ENOSYS | libc::EOPNOTSUPP | libc::EPERM) => Ok(false),
        _ => Err(fault),
    }
}

fn named(path: &std::path::Path, error: &impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::thread;

    use super::*;

    #[test]
    fn where_nobody_may_ask_nothing_is_said_to_hold() {
        let asked = thread::spawn(|| {
            let refusal = seccompiler::SeccompAction::Errno(libc::EPERM.unsigned_abs());
            let calls = [(libc::SYS_landlock_create_ruleset, Vec::new())];
            let filter = seccompiler::SeccompFilter::new(
                calls.into(),
                seccompiler::SeccompAction::Allow,
                refusal,
                std::env::consts::ARCH.try_into().unwrap(),
            );
            let program: seccompiler::BpfProgram = filter.unwrap().try_into().unwrap();
            seccompiler::apply_filter(&program).unwrap();
            restrict_files(&Paths::default()).map(|fenced| fenced.holds)
        });
        assert_eq!(asked.join().unwrap().unwrap(), Holds::Nothing);
    }

    #[test]
    fn nothing_is_opened_but_what_was_permitted_and_replaced_files_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["read", "write", "other"] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("file"), name).unwrap();
        }
        let paths = Paths { read: vec![at("read"), at("gone")], write: vec![at("write")] };
        let [read, write, other] = ["read", "write", "other"].map(|name| at(name).join("file"));
        let tried = move || {
            let fenced = restrict_files(&paths).unwrap();
            if fenced.holds == Holds::Nothing {
                return None;
            }
            assert_eq!(fenced.missing, [paths.read[1].clone()]);
            let next = write.with_extension("next");
            let replaced = fs::write(&next, "x").and_then(|()| fs::rename(&next, &write));
            let denied = |done: io::Result<()>| {
                done.is_err_and(|fault| fault.kind() == io::ErrorKind::PermissionDenied)
            };
            Some([
                fs::read(&read).is_ok(),
                replaced.is_ok() && fs::read(&write).is_ok_and(|text| text == b"x"),
                denied(fs::write(&read, "y")),
                denied(fs::remove_file(&read)),
                denied(fs::read(&other).map(drop)),
                denied(fs::read_dir(other.parent().unwrap()).map(drop)),
                denied(std::process::Command::new("/bin/true").status().map(drop)),
            ])
        };
        match thread::spawn(tried).join().unwrap() {
            Some(seen) => assert_eq!(seen, [true; 7]),
            None => {
                assert!(std::env::var_os("SCHENGATE_CI").is_none(), "this kernel has no landlock");
                eprintln!("NOT TRIED: this kernel has no landlock");
            }
        }
    }
}
