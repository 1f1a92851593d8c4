//! What every thread of a gateway, and of the process beside it, can do no more (docs/operations.md). A
//! program of its own with one test: these filters are of the whole process, and are never taken away.

#![cfg(target_os = "linux")]

use std::fs::{self, File};
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
    assert!(restrict_calls(Role::Broker).unwrap(), "this kernel has no seccomp");
    assert_eq!((starts_a_program(), has_vsock()), (true, false));
    assert!(restrict_calls(Role::Gateway).unwrap());
    assert_eq!((starts_a_program(), has_vsock()), (false, false));
    assert!(File::open("/proc/self/status").is_ok(), "files are landlock's");
    assert!(thread::spawn(|| true).join().unwrap(), "it still has threads");
    // A thread that was there before is held as well.
    drop(wait);
    assert_eq!(other.join().unwrap(), (true, true, false));
}
