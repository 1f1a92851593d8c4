//! What a process gives up before it becomes a command that must not leave the way it was given.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};

use rustix::fs::{FileType, fstat};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::AddressFamily;
use rustix::net::sockopt::socket_domain;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// Gives up every capability for good, but CAP_NET_ADMIN where the rules of its own namespace are yet
/// to be read: not by a program that it becomes either.
///
/// # Errors
/// Whatever prctl(2) and capset(2) say.
pub fn drop_capabilities(keep_rules: bool) -> io::Result<()> {
    for number in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << number);
        match capability_is_in_bounding_set(one) {
            Ok(true) => remove_capability_from_bounding_set(one)?,
            Ok(false) => {}
            // The kernel knows no more of them.
            Err(Errno::INVAL) if number > 0 => break,
            Err(fault) => return Err(fault.into()),
        }
    }
    clear_ambient_capability_set()?;
    let left = if keep_rules { CapabilitySet::NET_ADMIN } else { CapabilitySet::empty() };
    let inheritable = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: left, permitted: left, inheritable })?;
    Ok(set_no_new_privs(true)?)
}

/// Lets no process of the same user look into this one or trace it (prctl(2), PR_SET_DUMPABLE).
///
/// # Errors
/// Whatever prctl(2) says.
pub fn hide_from_others() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Has every descriptor beyond the first three closed when this process becomes another program, but
/// pipes and files: a socket or a device that was left open might lead elsewhere.
///
/// # Errors
/// The descriptors cannot be listed.
pub fn close_at_exec() -> io::Result<()> {
    let listed: io::Result<Vec<_>> = fs::read_dir("/proc/self/fd")?.collect();
    for entry in listed? {
        let Ok(number) = entry.file_name().to_string_lossy().parse::<RawFd>() else { continue };
        if number <= 2 {
            continue;
        }
        // SAFETY: it is only asked what it is and marked; the one of the listing itself is closed by
        // now, and the kernel says so.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        let Ok(about) = fstat(descriptor) else { continue };
        let kind = FileType::from_raw_mode(about.st_mode);
        if !matches!(kind, FileType::Fifo | FileType::RegularFile) {
            fcntl_setfd(descriptor, FdFlags::CLOEXEC)?;
        }
    }
    Ok(())
}

/// Whether standard input, output or error is a socket of a network: whoever has it connects it to where
/// they like, past every namespace.
#[must_use]
pub fn holds_network_socket() -> bool {
    // What cannot be told counts as one.
    let leads_out = |descriptor: BorrowedFd<'_>| match socket_domain(descriptor) {
        Ok(domain) => domain != AddressFamily::UNIX,
        Err(fault) => !matches!(fault, Errno::NOTSOCK | Errno::BADF),
    };
    leads_out(io::stdin().as_fd())
        || leads_out(io::stdout().as_fd())
        || leads_out(io::stderr().as_fd())
}

/// The families of sockets that stay within a network namespace. AF_VSOCK, which leads to the
/// hypervisor, does not, and is not the only one.
const FAMILIES: [libc::c_int; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Calls that are forbidden whatever their arguments: io_uring makes sockets without a call for each;
/// for a key that is not there the kernel starts a program outside, as the host's administrator, which
/// may ask the host's name servers (keyrings(7), request-key(8)).
const WHOLE_CALLS: [i64; 4] =
    [libc::SYS_io_uring_setup, libc::SYS_request_key, libc::SYS_add_key, libc::SYS_keyctl];

/// Requests of ioctl(2) that put words into the terminal, for the shell outside to read.
const TO_THE_TERMINAL: [libc::c_ulong; 2] = [libc::TIOCSTI, libc::TIOCLINUX];

/// The bit of the numbers of calls of x32, a second way to make the same calls.
#[cfg(target_arch = "x86_64")]
const OTHER_NUMBERS: [i64; 2] = [0, 0x4000_0000];
#[cfg(not(target_arch = "x86_64"))]
const OTHER_NUMBERS: [i64; 1] = [0];

/// Forbids the calls by which a network namespace is got round: sockets of families that it does not
/// confine, io_uring (which makes sockets without a call for each), keys that the kernel asks for outside,
/// input for the terminal. Programs
/// of another architecture are killed. For this thread and whatever comes of it.
///
/// # Errors
/// The kernel has no seccomp(2), or the processor is none that the library knows.
pub fn forbid_ways_out() -> io::Result<()> {
    let program = filter().map_err(io::Error::other)?;
    seccompiler::apply_filter(&program).map_err(io::Error::other)
}

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    use seccompiler::SeccompCmpOp::{Eq, Ne};
    let is = |argument, op: SeccompCmpOp, value: u64| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value)
    };
    let families = FAMILIES.map(|family| is(0, Ne, family.unsigned_abs().into()));
    let families: Result<Vec<_>, _> = families.into_iter().collect();
    let family = SeccompRule::new(families?)?;
    let mut terminal = Vec::new();
    for request in TO_THE_TERMINAL {
        terminal.push(SeccompRule::new(vec![is(1, Eq, request)?])?);
    }
    let mut rules = BTreeMap::new();
    for bit in OTHER_NUMBERS {
        rules.insert(libc::SYS_socket | bit, vec![family.clone()]);
        rules.insert(libc::SYS_ioctl | bit, terminal.clone());
        for call in WHOLE_CALLS {
            rules.insert(call | bit, Vec::new());
        }
    }
    let refusal = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, SeccompAction::Allow, refusal, arch)?.try_into()
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, Socket, Type};

    use super::*;

    #[test]
    fn a_thread_that_gave_up_the_ways_out_has_no_sockets_but_those_of_its_namespace() {
        let confined = std::thread::spawn(|| {
            set_no_new_privs(true).unwrap();
            forbid_ways_out().unwrap();
            let made = |domain| Socket::new(Domain::from(domain), Type::DGRAM, None).map(drop);
            [libc::AF_INET, libc::AF_UNIX, libc::AF_VSOCK, libc::AF_PACKET].map(made)
        });
        let [inet, unix, vsock, packet] = confined.join().unwrap();
        assert!(inet.is_ok() && unix.is_ok(), "{inet:?} {unix:?}");
        let forbidden = |made: io::Result<()>| made.unwrap_err().raw_os_error();
        assert_eq!([forbidden(vsock), forbidden(packet)], [Some(libc::EPERM); 2]);
    }
}
