//! What a process gives up before it becomes a command that must not leave the way it was given.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};

use rustix::fs::{FileType, fstat};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::sockopt::{socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// Gives up every capability for good, but for those over its own namespaces by which rules are read and
/// calls of connect(2) answered, where that is yet to be done (`serves`): not by a program that it becomes
/// either.
///
/// # Errors
/// Whatever prctl(2) and capset(2) say.
pub fn drop_capabilities(serves: bool) -> io::Result<()> {
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
    let serving = CapabilitySet::NET_ADMIN | CapabilitySet::SYS_PTRACE;
    let left = if serves { serving } else { CapabilitySet::empty() };
    let inheritable = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: left, permitted: left, inheritable })?;
    Ok(set_no_new_privs(true)?)
}

/// Has the kernel keep no core of this process, and of whatever comes of it, and start no program of the host
/// for one (core(5): 1 is the limit that says so; 0 does not). Where there was a limit of 0 before, that stays.
///
/// # Errors
/// Whatever setrlimit(2) says.
pub fn leave_no_core() -> io::Result<()> {
    if getrlimit(Resource::Core).maximum == Some(0) {
        return Ok(());
    }
    Ok(setrlimit(Resource::Core, Rlimit { current: Some(1), maximum: Some(1) })?)
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

/// Whether standard input, output or error is a socket of a network, or one that sends datagrams to whichever
/// name: whoever has it sends to where they like, past every namespace.
#[must_use]
pub fn holds_network_socket() -> bool {
    // What cannot be told counts as one.
    let leads_out = |descriptor: BorrowedFd<'_>| match socket_domain(descriptor) {
        Ok(AddressFamily::UNIX) => socket_type(descriptor) != Ok(SocketType::STREAM),
        Ok(_) => true,
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

/// Kinds of AF_UNIX that send to whichever name without a connect(2) for it: datagrams, and what the kernel
/// makes of SOCK_RAW. The type stands beside flags in its argument.
const BY_NAME: [libc::c_int; 2] = [libc::SOCK_DGRAM, libc::SOCK_RAW];
const TYPE_MASK: u64 = 0xf;

/// Forbids the calls by which a network namespace is got round: sockets of families that it does not
/// confine, and those that reach names of the file system by themselves, io_uring (which makes sockets
/// without a call for each), keys that the kernel asks for outside, input for the terminal. Programs of
/// another architecture are killed. For this thread and whatever comes of it.
///
/// # Errors
/// The kernel has no seccomp(2), or the processor is none that the library knows.
pub fn forbid_ways_out() -> io::Result<()> {
    let program = filter().map_err(io::Error::other)?;
    seccompiler::apply_filter(&program).map_err(io::Error::other)
}

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    use seccompiler::SeccompCmpOp::{Eq, MaskedEq, Ne};
    let is = |argument, op: SeccompCmpOp, value: u64| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value)
    };
    let families = FAMILIES.map(|family| is(0, Ne, family.unsigned_abs().into()));
    let families: Result<Vec<_>, _> = families.into_iter().collect();
    let family = SeccompRule::new(families?)?;
    let mut by_name = Vec::new();
    for kind in BY_NAME {
        let unix = is(0, Eq, libc::AF_UNIX.unsigned_abs().into())?;
        let kind = is(1, MaskedEq(TYPE_MASK), kind.unsigned_abs().into())?;
        by_name.push(SeccompRule::new(vec![unix, kind])?);
    }
    let mut terminal = Vec::new();
    for request in TO_THE_TERMINAL {
        terminal.push(SeccompRule::new(vec![is(1, Eq, request)?])?);
    }
    let mut rules = BTreeMap::new();
    rules.insert(libc::SYS_socket, [&by_name[..], &[family]].concat());
    rules.insert(libc::SYS_socketpair, by_name);
    rules.insert(libc::SYS_ioctl, terminal);
    rules.extend(WHOLE_CALLS.map(|call| (call, Vec::new())));
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
            let stream = Socket::new(Domain::UNIX, Type::STREAM, None).map(drop);
            let pair = Socket::pair(Domain::UNIX, Type::DGRAM, None).map(drop);
            let stream_pair = Socket::pair(Domain::UNIX, Type::STREAM, None).map(drop);
            let forbidden = [libc::AF_UNIX, libc::AF_VSOCK, libc::AF_PACKET].map(made);
            ([made(libc::AF_INET), stream, stream_pair], forbidden, pair)
        });
        let (allowed, forbidden, pair) = confined.join().unwrap();
        assert!(allowed.iter().all(Result::is_ok), "{allowed:?}");
        for made in forbidden.into_iter().chain([pair]) {
            assert_eq!(made.unwrap_err().raw_os_error(), Some(libc::EPERM));
        }
    }
}
