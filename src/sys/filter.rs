//! Which system calls a thread may make from here on (seccomp(2)).
//!
//! Two filters: of the process one that refuses what a gateway never does once it runs, of each thread
//! that reads bytes of strangers one that allows what moving bytes takes, and nothing else. A refused
//! call fails with EPERM; whoever made it goes on without.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// What a thread is for, and so which calls it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Any thread of a gateway that runs: no new program, nothing of the system's administration.
    Gateway,
    /// The process beside the gateway that runs programs for it: as [`Role::Gateway`], but it may.
    Broker,
    /// A thread that carries connections: it opens no file, starts nothing, and has sockets of IPv4 and
    /// IPv6 alone. Those that it was given stay, whatever their family.
    Worker,
}

/// Calls of Linux 6.13 to 6.17 by their numbers, which are the same on every processor since 5.1.
const SETXATTRAT: i64 = 463;
const REMOVEXATTRAT: i64 = 466;
const OPEN_TREE_ATTR: i64 = 467;
const FILE_SETATTR: i64 = 469;

/// What no thread of a gateway does: programs, other processes' memory, mounts and namespaces, the
/// kernel's own parts, clocks, users, keys; io_uring makes calls that no filter sees. Mode, owner, times and
/// attributes of a file by its name are here because landlock does not hold them; of a file that is open they
/// are changed by its descriptor (the register's database does), and open are those alone that landlock lets
/// be.
const REFUSED: &[i64] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_fanotify_init,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_personality,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_mknodat,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_fchmodat,
    libc::SYS_fchmodat2,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_utimensat,
    SETXATTRAT,
    REMOVEXATTRAT,
    OPEN_TREE_ATTR,
    FILE_SETATTR,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utime,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utimes,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_futimesat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mknod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
];

/// How a process becomes another program.
const PROGRAMS: [i64; 2] = [libc::SYS_execve, libc::SYS_execveat];

/// All that a thread of connections calls: bytes, sockets, waiting, memory, time.
const WORKER: &[i64] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_splice,
    libc::SYS_tee,
    libc::SYS_pipe2,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_fcntl,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getcpu,
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_pipe,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_time,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_arch_prctl,
];

/// The families of sockets that a worker makes, each with the protocol of its raw ones: of ICMP errors.
const WORKER_FAMILIES: [(libc::c_int, libc::c_int); 2] =
    [(libc::AF_INET, libc::IPPROTO_ICMP), (libc::AF_INET6, libc::IPPROTO_ICMPV6)];

/// The part of a socket's type that is no flag.
const SOCKET_TYPE: u64 = 0xf;

/// What clone(2) puts the new process into, each a namespace of its own.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// Those of the other threads: this host's addresses are asked for over AF_NETLINK. None is of AF_UNIX, by
/// which services of this host (a container engine) are reached whatever files may be opened; those that were
/// made before stay, and pairs can be made.
const FAMILIES: &[libc::c_int] = &[libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Those of the broker, whose programs ask this host's services by sockets of AF_UNIX.
const BROKER_FAMILIES: &[libc::c_int] =
    &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Requests of ioctl(2) that a worker makes: how many bytes wait, on either side.
const WORKER_REQUESTS: [libc::c_ulong; 3] = [libc::FIONREAD, libc::TIOCOUTQ, libc::FIONBIO];

/// The bit of the numbers of calls of x32, a second way to make the same calls.
#[cfg(target_arch = "x86_64")]
const OTHER_NUMBERS: [i64; 2] = [0, 0x4000_0000];
#[cfg(not(target_arch = "x86_64"))]
const OTHER_NUMBERS: [i64; 1] = [0];

/// Calls of [`REFUSED`] and [`PROGRAMS`] that x32 has by numbers of its own: execve, ptrace, kexec_load,
/// process_vm_readv and process_vm_writev, execveat.
#[cfg(target_arch = "x86_64")]
const X32_OWN: [i64; 6] = [520, 521, 528, 539, 540, 545];

/// Restricts the calling thread, and the threads that it starts from now on, to what the role needs; of
/// [`Role::Gateway`] and [`Role::Broker`] every thread that there is. No program gains rights after this
/// (`no_new_privs`). `false`: the kernel has no such filters.
///
/// # Errors
/// The kernel has them, and did not take this one.
pub fn restrict_calls(role: Role) -> io::Result<bool> {
    let program = program(role).map_err(io::Error::other)?;
    let applied = match role {
        Role::Gateway | Role::Broker => {
            // Of clone3(2) the flags lie in memory, where no filter reads: as if there were none, so that
            // clone(2) is called instead.
            let unknown = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
            let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
            let clone3 =
                compiled(clone3, SeccompAction::Allow, unknown).map_err(io::Error::other)?;
            seccompiler::apply_filter_all_threads(&clone3)
                .and_then(|()| seccompiler::apply_filter_all_threads(&program))
        }
        Role::Worker => seccompiler::apply_filter(&program),
    };
    match applied {
        Ok(()) => Ok(true),
        Err(seccompiler::Error::Seccomp(fault) | seccompiler::Error::Prctl(fault))
            if matches!(fault.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) =>
        {
            Ok(false)
        }
        Err(fault) => Err(io::Error::other(fault)),
    }
}

fn program(role: Role) -> Result<BpfProgram, seccompiler::BackendError> {
    let refusal = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let is = SeccompCmpOp::Eq;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    if role == Role::Worker {
        rules.extend(WORKER.iter().map(|&call| (call, Vec::new())));
        let mut sockets = Vec::new();
        let kind = SeccompCmpOp::MaskedEq(SOCKET_TYPE);
        for (family, errors) in WORKER_FAMILIES {
            let family = || condition(0, &is, family.unsigned_abs().into());
            for of_bytes in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
                let of_bytes = condition(1, &kind, of_bytes.unsigned_abs().into())?;
                sockets.push(SeccompRule::new(vec![family()?, of_bytes])?);
            }
            let raw = condition(1, &kind, libc::SOCK_RAW.unsigned_abs().into())?;
            let errors = condition(2, &is, errors.unsigned_abs().into())?;
            sockets.push(SeccompRule::new(vec![family()?, raw, errors])?);
        }
        rules.insert(libc::SYS_socket, sockets);
        rules.insert(
            libc::SYS_ioctl,
            any_of(WORKER_REQUESTS.map(|request| condition(1, &is, request)))?,
        );
        // Its own limits, and its own process: a worker that has to end ends it.
        rules.insert(libc::SYS_prlimit64, any_of([condition(0, &is, 0)])?);
        let own = std::process::id().into();
        rules.insert(libc::SYS_tgkill, any_of([condition(0, &is, own)])?);
        return compiled(rules, refusal, SeccompAction::Allow);
    }
    let programs = if role == Role::Gateway { &PROGRAMS[..] } else { &[] };
    let is_not = SeccompCmpOp::Ne;
    let families = if role == Role::Gateway { FAMILIES } else { BROKER_FAMILIES };
    let others = families.iter();
    let others = others.map(|family| condition(0, &is_not, family.unsigned_abs().into()));
    let others: Result<Vec<_>, _> = others.collect();
    let foreign = vec![SeccompRule::new(others?)?];
    let namespaces = any_of(NAMESPACES.map(|flag| {
        let flag = flag.unsigned_abs().into();
        condition(0, &SeccompCmpOp::MaskedEq(flag), flag)
    }))?;
    for bit in OTHER_NUMBERS {
        rules.extend(REFUSED.iter().chain(programs).map(|call| (call | bit, Vec::new())));
        rules.insert(libc::SYS_socket | bit, foreign.clone());
        rules.insert(libc::SYS_clone | bit, namespaces.clone());
    }
    #[cfg(target_arch = "x86_64")]
    rules.extend(X32_OWN.map(|call| (call | 0x4000_0000, Vec::new())));
    compiled(rules, SeccompAction::Allow, refusal)
}

/// A filter that does `met` where a rule is met, and `unmet` where none is.
fn compiled(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    unmet: SeccompAction,
    met: SeccompAction,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, unmet, met, arch)?.try_into()
}

type Condition = Result<SeccompCondition, seccompiler::BackendError>;

fn condition(argument: u8, how: &SeccompCmpOp, value: u64) -> Condition {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, how.clone(), value)
}

/// One rule for each condition: any of them will do.
fn any_of<const N: usize>(
    conditions: [Condition; N],
) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    conditions.into_iter().map(|one| SeccompRule::new(vec![one?])).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
    use std::process::Command;
    use std::thread;

    use rustix::process::{Resource, getppid, getrlimit, prlimit};
    use socket2::{Domain, Protocol, Socket, Type};

    use super::*;

    fn errno<T>(done: io::Result<T>) -> Option<i32> {
        done.err().and_then(|fault| fault.raw_os_error())
    }

    #[test]
    fn a_worker_has_its_sockets_and_opens_no_file_and_starts_no_program() {
        let tried = thread::spawn(|| {
            let before = File::open("/proc/self/status").map(drop);
            assert!(before.is_ok());
            let (parent, core) = (getppid(), getrlimit(Resource::Core));
            assert!(restrict_calls(Role::Worker).unwrap());
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let made = |domain| Socket::new(Domain::from(domain), Type::DGRAM, None);
            [
                errno(File::open("/proc/self/status")),
                errno(File::create("/tmp/schengate-worker-was-here")),
                errno(std::fs::read_dir("/")),
                errno(std::fs::remove_file("/nonexistent")),
                errno(std::fs::metadata("/")),
                errno(Command::new("/bin/true").status()),
                errno(made(libc::AF_UNIX)),
                errno(made(libc::AF_NETLINK)),
                errno(made(libc::AF_PACKET)),
                errno(Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP))),
                errno(Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV6))),
                errno(prlimit(parent, Resource::Core, core).map_err(Into::into)),
                errno(thread::Builder::new().spawn(|| ())),
            ]
        });
        assert_eq!(tried.join().unwrap(), [Some(libc::EPERM); 13]);
    }
}
