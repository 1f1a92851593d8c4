//! Calls of connect(2) that the kernel holds until another process has answered them
//! (seccomp_unotify(2)). The answer is never "go on": between a look at its arguments and the call itself
//! they could be others. Who answers takes the socket over, and connects it in the place of its owner.

use std::fs;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{OFlags, fcntl_getfl};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// The longest address of a socket (`struct sockaddr_storage`).
const ADDRESS_MAX: usize = 128;

/// `SECCOMP_IOCTL_NOTIF_RECV`, `_SEND` and `_ID_VALID` (linux/seccomp.h).
const RECEIVE: libc::Ioctl = 0xc050_2100_u32 as libc::Ioctl;
const ANSWER: libc::Ioctl = 0xc018_2101_u32 as libc::Ioctl;
const IS_WAITING: libc::Ioctl = 0x4008_2102_u32 as libc::Ioctl;

/// `SIOCUNIXFILE` (unix(7)).
const BOUND_FILE: libc::Ioctl = 0x89e0;

/// `PIDFD_THREAD`, since Linux 6.9.
const OF_A_THREAD: PidfdFlags = PidfdFlags::from_bits_retain(libc::O_EXCL.cast_unsigned());

/// `AUDIT_ARCH_*` of the processors that seccompiler knows.
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;
#[cfg(target_arch = "riscv64")]
const ARCH: u32 = 0xc000_00f3;

/// The bit of the numbers of calls of x32, a second way to make the same calls; on other processors no
/// number has it.
const OTHER_NUMBERS: u32 = 0x4000_0000;

/// Where the calls of connect(2) are taken from.
#[derive(Debug, Clone)]
pub struct HeldConnects(Arc<OwnedFd>);

/// One call of connect(2), which waits.
#[derive(Debug)]
pub struct HeldConnect {
    listener: Arc<OwnedFd>,
    id: u64,
    /// The thread that calls, as this process knows it.
    thread: Pid,
    /// Its arguments.
    socket: i32,
    address: u64,
    length: usize,
    is_answered: bool,
}

/// Has every connect(2) of this thread, and of whatever comes of it, held from now on, and every call with
/// a number of x32 refused. What is returned is for the process that answers.
///
/// # Errors
/// Whatever seccomp(2) says: there is such a listener already (EBUSY), or the kernel is older than 5.0.
pub fn hold_connects() -> io::Result<OwnedFd> {
    let mut program = program();
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap_or_default(),
        filter: program.as_mut_ptr(),
    };
    let install = |flags: libc::c_ulong| {
        // SAFETY: `program` and the instructions that it points to outlive the call, which copies them.
        let code = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | flags,
                &raw const program,
            )
        };
        i32::try_from(code)
            .ok()
            .filter(|&listener| listener >= 0)
            .ok_or_else(io::Error::last_os_error)
    };
    // A signal does not have the call begin anew once it was taken (Linux 5.19); before, it may.
    let listener = match install(libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
        Err(fault) if fault.raw_os_error() == Some(libc::EINVAL) => install(0),
        installed => installed,
    };
    // SAFETY: seccomp made the descriptor, and nobody else has it.
    listener.map(|listener| unsafe { OwnedFd::from_raw_fd(listener) })
}

/// Loads words of `struct seccomp_data`: the processor first, then the number of the call. What is of
/// another processor is left to the filter that knows of it.
fn program() -> [libc::sock_filter; 8] {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    let word = |code: u32, yes: u8, no: u8, value: u32| libc::sock_filter {
        code: u16::try_from(code).unwrap_or_default(),
        jt: yes,
        jf: no,
        k: value,
    };
    let connect = u32::try_from(libc::SYS_connect).unwrap_or_default();
    let refusal = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
    [
        word(LOAD, 0, 0, 4),
        word(EQUAL, 0, 3, ARCH),
        word(LOAD, 0, 0, 0),
        word(ANY_BIT, 2, 0, OTHER_NUMBERS),
        word(EQUAL, 2, 0, connect),
        word(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
        word(RETURN, 0, 0, refusal),
        word(RETURN, 0, 0, libc::SECCOMP_RET_USER_NOTIF),
    ]
}

impl From<OwnedFd> for HeldConnects {
    fn from(listener: OwnedFd) -> Self {
        Self(Arc::new(listener))
    }
}

impl HeldConnects {
    /// Waits for the next one.
    ///
    /// # Errors
    /// Whatever ioctl(2) says.
    pub fn next(&self) -> io::Result<HeldConnect> {
        loop {
            let mut held = MaybeUninit::<libc::seccomp_notif>::zeroed();
            // SAFETY: the kernel writes one `struct seccomp_notif`, which is plain numbers, into room for
            // one that is all zero, as it asks for.
            let code = unsafe { libc::ioctl(self.0.as_raw_fd(), RECEIVE, held.as_mut_ptr()) };
            if code == 0 {
                // SAFETY: zeroed, and then written.
                let held = unsafe { held.assume_init() };
                let [socket, address, length, ..] = held.data.args;
                let thread = i32::try_from(held.pid).ok().and_then(Pid::from_raw);
                // One without a number in this process's namespace cannot be answered for.
                let Some(thread) = thread else { continue };
                return Ok(HeldConnect {
                    listener: Arc::clone(&self.0),
                    id: held.id,
                    thread,
                    // The kernel takes the lower half of each.
                    socket: (socket as u32).cast_signed(),
                    address,
                    length: usize::try_from((length as u32).cast_signed()).unwrap_or(usize::MAX),
                    is_answered: false,
                });
            }
            let fault = io::Error::last_os_error();
            match fault.raw_os_error() {
                // Who called is gone meanwhile.
                Some(libc::ENOENT | libc::EINTR) => {}
                _ => return Err(fault),
            }
        }
    }
}

impl HeldConnect {
    /// The thread that calls, as this process knows it.
    #[must_use]
    pub fn thread(&self) -> i32 {
        self.thread.as_raw_nonzero().get()
    }

    /// The socket, which is its owner's as well.
    ///
    /// # Errors
    /// There is none of that number; whatever pidfd_getfd(2) says.
    pub fn socket(&self) -> io::Result<OwnedFd> {
        let process = match pidfd_open(self.thread, OF_A_THREAD) {
            Ok(process) => process,
            Err(_) => pidfd_open(self.leader()?, PidfdFlags::empty())?,
        };
        Ok(pidfd_getfd(process, self.socket, PidfdGetfdFlags::empty())?)
    }

    /// The first thread of the process: before Linux 6.9 there is no descriptor of another one.
    fn leader(&self) -> io::Result<Pid> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.thread()))?;
        let number = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
        let leader = number.and_then(|number| number.trim().parse().ok()).and_then(Pid::from_raw);
        leader.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// A copy of the address, as the call has it.
    ///
    /// # Errors
    /// It is longer than addresses are, or not to be read.
    pub fn address(&self) -> io::Result<Vec<u8>> {
        if self.length > ADDRESS_MAX {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let mut bytes = vec![0_u8; self.length];
        let to = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        let from = libc::iovec {
            iov_base: std::ptr::with_exposed_provenance_mut(
                usize::try_from(self.address).unwrap_or_default(),
            ),
            iov_len: bytes.len(),
        };
        if !bytes.is_empty() {
            // SAFETY: `to` is room of that length; what `from` points to is of another process, where the
            // kernel looks whether it is there.
            let read = unsafe {
                libc::process_vm_readv(self.thread(), &raw const to, 1, &raw const from, 1, 0)
            };
            if usize::try_from(read) != Ok(bytes.len()) {
                return Err(io::Error::from_raw_os_error(libc::EFAULT));
            }
        }
        // Else the number of the thread may be another's by now.
        if self.is_waiting() { Ok(bytes) } else { Err(io::Error::from_raw_os_error(libc::EINTR)) }
    }

    fn is_waiting(&self) -> bool {
        // SAFETY: the kernel reads one number.
        unsafe { libc::ioctl(self.listener.as_raw_fd(), IS_WAITING, &raw const self.id) == 0 }
    }

    /// Ends the call with this.
    pub fn answer(mut self, done: &io::Result<()>) {
        self.tell(done);
        self.is_answered = true;
    }

    fn tell(&self, done: &io::Result<()>) {
        let error = match done {
            Ok(()) => 0,
            Err(fault) => -fault.raw_os_error().unwrap_or(libc::EPERM),
        };
        let answer = libc::seccomp_notif_resp { id: self.id, val: 0, error, flags: 0 };
        // Where who called is gone, nobody waits for it.
        // SAFETY: the kernel reads one `struct seccomp_notif_resp`.
        unsafe {
            libc::ioctl(self.listener.as_raw_fd(), ANSWER, &raw const answer);
        }
    }
}

impl Drop for HeldConnect {
    /// Nobody waits for ever: what was given up is to be tried again.
    fn drop(&mut self) {
        if !self.is_answered {
            self.tell(&Err(io::Error::from_raw_os_error(libc::EAGAIN)));
        }
    }
}

/// Connects a socket of another process that this one has a descriptor of, to the address as it stands.
///
/// # Errors
/// Whatever connect(2) says.
pub fn connect_held(socket: BorrowedFd<'_>, address: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(address.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `length` bytes of the address, and looks at what they say.
    let code = unsafe { libc::connect(socket.as_raw_fd(), address.as_ptr().cast(), length) };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether a call on this socket may have to wait.
///
/// # Errors
/// Whatever fcntl(2) says.
pub fn waits(socket: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(!fcntl_getfl(socket)?.contains(OFlags::NONBLOCK))
}

/// The file that a socket with a name in the file system is bound to, opened for nothing but to look at.
/// Asks for CAP_NET_ADMIN over its network namespace.
///
/// # Errors
/// It has no such file; whatever ioctl(2) says.
pub fn bound_file(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: this request has no argument, and returns a descriptor.
    let file = unsafe { libc::ioctl(socket.as_raw_fd(), BOUND_FILE) };
    if file < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel made the descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(file) })
}

/// The descriptors of another process, each opened here as well where that is allowed.
#[derive(Debug)]
pub struct Descriptors {
    process: OwnedFd,
    numbers: std::ops::Range<i32>,
}

impl Descriptors {
    /// Those of this process.
    ///
    /// # Errors
    /// It is gone.
    pub fn of(process: i32) -> io::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        let room = status.lines().find_map(|line| line.strip_prefix("FDSize:"));
        let room = room.and_then(|room| room.trim().parse().ok()).unwrap_or(0);
        let process = Pid::from_raw(process).ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { process: pidfd_open(process, PidfdFlags::empty())?, numbers: 0..room })
    }
}

impl Iterator for Descriptors {
    type Item = OwnedFd;

    fn next(&mut self) -> Option<OwnedFd> {
        let flags = PidfdGetfdFlags::empty();
        self.numbers.find_map(|number| pidfd_getfd(self.process.as_fd(), number, flags).ok())
    }
}

const _: () = assert!(
    size_of::<libc::seccomp_notif>() == 80 && size_of::<libc::seccomp_notif_resp>() == 24,
    "the numbers of the requests have these sizes in them"
);
