//! What every thread of a gateway, and of the process beside it, can do no more (docs/operations.md). A
//! program of its own with one test: these filters are of the whole process, and are never taken away.

#![cfg(target_os = "linux")]
#![expect(unsafe_code, reason = "calls that no library makes yet are made by their numbers")]

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;

use schengate::sys::{Role, restrict_calls};
use socket2::{Domain, Socket, Type};

/// AF_VSOCK of Linux: the way to the host of a virtual machine.
const VSOCK: i32 = 40;

fn starts_a_program() -> bool {
    Command::new("/bin/true").status().is_ok()
}

/// Whether a socket can be had by which services of this host are reached, and whether a file's mode and
/// times can be changed by its name; a file that is open is changed by its descriptor.
fn reaches(file: &std::path::Path) -> [bool; 3] {
    let by_name = fs::set_permissions(file, fs::Permissions::from_mode(0o600)).is_ok();
    let opened = File::options().write(true).open(file).unwrap();
    opened.set_permissions(fs::Permissions::from_mode(0o640)).unwrap();
    [
        UnixDatagram::unbound().is_ok(),
        UnixStream::connect("/nonexistent").is_err_and(is_missing),
        by_name,
    ]
}

/// That the socket was made, and nobody is there.
fn is_missing(fault: std::io::Error) -> bool {
    fault.kind() == std::io::ErrorKind::NotFound
}

/// Whether calls that newer kernels have are held back: they change a file's attributes by its name, or a
/// mount's. Without a filter they fail for their arguments, or for want of such a call.
fn newer_calls_are_refused() -> bool {
    // setxattrat(2), removexattrat(2), open_tree_attr(2), file_setattr(2).
    [463, 466, 467, 469].into_iter().all(|number: libc::c_long| {
        // SAFETY: no descriptor, no address and no length: the kernel has nothing to read or to write.
        let done = unsafe { libc::syscall(number, -1, 0, 0, 0, 0, 0) };
        let fault = std::io::Error::last_os_error();
        done == -1 && fault.raw_os_error() == Some(libc::EPERM)
    })
}

fn has_vsock() -> bool {
    Socket::new(Domain::from(VSOCK), Type::DGRAM, None).is_ok()
}

#[test]
fn a_broker_starts_programs_and_a_gateway_does_not() {
    let (wait, go) = channel::<()>();
    let other = thread::spawn(move || {
        go.recv().ok();
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        (status.contains("Seccomp:\t2\n"), status.contains("NoNewPrivs:\t1\n"), starts_a_program())
    });
    assert!(starts_a_program());
    let file = tempfile::NamedTempFile::new().unwrap();
    assert_eq!(reaches(file.path()), [true; 3]);
    assert!(!newer_calls_are_refused());
    assert!(restrict_calls(Role::Broker).unwrap(), "this kernel has no seccomp");
    assert_eq!((starts_a_program(), has_vsock()), (true, false));
    assert_eq!(reaches(file.path()), [true, true, false]);
    assert!(newer_calls_are_refused());
    assert!(restrict_calls(Role::Gateway).unwrap());
    assert_eq!(reaches(file.path()), [false; 3]);
    assert!(UnixStream::pair().is_ok(), "pairs lead nowhere");
    assert_eq!((starts_a_program(), has_vsock()), (false, false));
    assert!(File::open("/proc/self/status").is_ok(), "files are landlock's");
    assert!(thread::spawn(|| true).join().unwrap(), "it still has threads");
    // A thread that was there before is held as well.
    drop(wait);
    assert_eq!(other.join().unwrap(), (true, true, false));
}
