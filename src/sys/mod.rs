//! The only place in which `unsafe` or a raw descriptor may appear.
#![allow(unsafe_code, reason = "what libc offers and no safe crate of the tree does")]

mod channel;
mod confine;
mod conntrack;
mod descriptors;
pub mod epoll;
mod filter;
mod held;
mod landlock;
mod links;
mod local;
mod mapping;
mod memory;
mod message;
mod mounts;
mod netfilter;
mod netlink;
mod news;
mod options;
mod parent;
mod passed;
mod pipe;
mod process;
mod queue;
mod receive;
mod route;
mod ruleset;
mod sets;
mod signals;
mod socket;
mod spawn;
mod tun;
pub mod udp;
mod writers;

use std::{io, ptr};

pub use channel::{Channel, Packet};
pub use confine::{
    close_at_exec, drop_capabilities, forbid_ways_out, hide_from_others, holds_network_socket,
    leave_no_core,
};
pub use conntrack::{ConnectionCounting, Conntrack, ConntrackEnds, FlowKey, Heard, Tracked};
pub use descriptors::{connections_max, is_reserved, raise_descriptor_limit, unreserved};
pub use filter::{Role, restrict_calls};
pub use held::{
    Descriptors, HeldConnect, HeldConnects, bound_file, connect_held, hold_connects, waits,
};
pub use landlock::{Fenced, Holds, Paths, restrict_files};
pub use links::{Link, links, local_addresses};
pub use local::{add_own_address, deliver_all_here, start_loopback};
pub use mapping::SharedWords;
pub use memory::{prefer_huge_pages, set_mmap_threshold};
pub use mounts::make_read_only;
pub use netfilter::{Counted, NamedCounter, add_intervals, counters};
pub use news::{News, messages};
pub use options::choose_port_at_connect;
pub use parent::{end_with_parent, outlive_parent, signal};
pub use passed::{Passed, inherited};
pub use pipe::Pipe;
pub use process::{ignore, keep_only, leave_no_dumps};
pub use queue::{PacketQueue, QueueBatch, Queued, QueuedPacket, Verdicts};
pub use receive::{Received, first_byte, receive, shortest_round_trip, tell_left, unacknowledged};
pub use route::{
    Act, AddressWatch, RoutingRule, Switches, add_routing_rule, delete_routing_rule,
    deliver_locally, deliver_no_longer, delivers_locally, routing_rules, switches,
};
pub use ruleset::{Diverted, divert};
use rustix::process::setpriority_process;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
pub use sets::{MarkSet, queue_by_target};
pub use signals::{Signals, Woken};
pub use socket::{accept, is_of_this_network};
pub use spawn::{
    Forked, Gone, NUMBERS, foreground, fork, leads_session, leave, reap, take_terminal, unshare,
    wait,
};
pub use tun::Tun;
pub use writers::Writers;

/// Columns and rows of the terminal that stdout is; `None` where it is none, or tells nothing.
#[must_use]
pub fn terminal_size() -> Option<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(rustix::stdio::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

/// The number of the user that this process acts as.
#[must_use]
pub fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The number of a user of this name, from every user database of the system (getpwnam_r(3));
/// `None` where there is none.
///
/// # Errors
/// A database that cannot be read, or a name with a NUL in it.
pub fn user_id(name: &str) -> io::Result<Option<u32>> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: an entry of zeros is a valid one.
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    let mut found: *mut libc::passwd = ptr::null_mut();
    let mut text = vec![0_u8; 1024];
    loop {
        // SAFETY: name, entry, buffer with its length, and the place for the answer are valid for
        // the whole call; of what is found only a number is read.
        let code = unsafe {
            libc::getpwnam_r(
                name.as_ptr(),
                &raw mut entry,
                text.as_mut_ptr().cast(),
                text.len(),
                &raw mut found,
            )
        };
        match code {
            0 => return Ok((!found.is_null()).then_some(entry.pw_uid)),
            libc::ERANGE if text.len() < 1 << 20 => text.resize(2 * text.len(), 0),
            code => return Err(io::Error::from_raw_os_error(code)),
        }
    }
}

/// Gives memory that was freed back to the system: after a load, of which most is freed at once.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes no pointer and may be called from any thread at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The clock that files are stamped by: seconds and nanoseconds since 1970, no later than the stamp
/// of anything that is written from now on.
#[must_use]
pub fn file_clock() -> (i64, i64) {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    (now.tv_sec, now.tv_nsec)
}

/// Keeps the calling thread to one of the processors that it may use so far: to the `number`-th,
/// counted from 0 and round again.
///
/// # Errors
/// Whatever sched_getaffinity(2) or sched_setaffinity(2) says.
pub fn keep_to_processor(number: usize) -> io::Result<()> {
    let allowed = sched_getaffinity(None)?;
    let all: Vec<_> = (0..CpuSet::MAX_CPU).filter(|&number| allowed.is_set(number)).collect();
    let own = all.get(number % all.len().max(1)).ok_or(io::ErrorKind::NotFound)?;
    let mut one = CpuSet::new();
    one.set(*own);
    Ok(sched_setaffinity(None, &one)?)
}

/// Lets every other thread go before the calling one: its nice value becomes 10 (setpriority(2); on
/// Linux a nice value is a thread's own).
///
/// # Errors
/// Whatever setpriority(2) says.
pub fn yield_to_others() -> io::Result<()> {
    Ok(setpriority_process(None, 10)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_a_number_or_is_none() {
        assert_eq!(user_id("root").unwrap(), Some(0));
        assert_eq!(user_id("no-such-user-here").unwrap(), None);
        assert!(user_id("a\0b").is_err());
    }

    #[test]
    fn only_the_calling_thread_yields() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        let other = std::thread::spawn(move || {
            yield_to_others().unwrap();
            nice()
        });
        assert_eq!((other.join().unwrap(), nice()), (10, before));
    }

    #[test]
    fn a_thread_keeps_to_the_processor_of_its_number() {
        let allowed = || std::thread::available_parallelism().unwrap().get();
        let all = allowed();
        for number in [0, all - 1, all] {
            let one = std::thread::spawn(move || keep_to_processor(number).map(|()| allowed()));
            assert_eq!(one.join().unwrap().unwrap(), 1);
        }
        assert_eq!(allowed(), all, "other threads go where they like");
    }
}
