//! A process beside the gateway that does for it what the gateway itself gave up: it opens the few
//! files that others replace where the gateway may not open files, and runs `nft`.
//!
//! ```text
//!  gateway ── names ─────◄── broker   /etc/resolv.conf, /etc/hosts: open files, as they change
//!          ── keeper ────◄──          what the keeper of the capture says, as it changes
//!          ── firewall ──►◄──         nft: five ways to list, and rulesets of the short cut alone
//! ```
//! It is a copy of the gateway from before its first thread, has none of its sockets, hears no byte of a
//! client, and takes no path and no program from the gateway: what it may be asked stands here. It ends
//! with the gateway, whose end of the channels then closes.

mod files;
mod firewall;

use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

pub use files::{Feed, Followed, News};
pub use firewall::{Firewall, Ran, SHORTCUT};

use crate::sys::{self, Channel, Forked, Role};
use files::Teller;

/// Where a host says who resolves its names, and which it knows itself.
pub const RESOLV: &str = "/etc/resolv.conf";
/// The names that a host knows itself.
pub const HOSTS: &str = "/etc/hosts";

/// Time between two looks at the files.
const LOOK: Duration = Duration::from_secs(1);

/// The gateway's ends.
#[derive(Debug)]
pub struct Broker {
    /// [`RESOLV`] and [`HOSTS`], in this order.
    pub names: Feed,
    /// The file in which the keeper of the capture says what it found.
    pub keeper: Feed,
    /// The firewall.
    pub firewall: Firewall,
}

impl Broker {
    /// Starts the other process, which follows the keeper's file at `keeper`.
    ///
    /// # Errors
    /// This process has several threads, or no other can be had.
    pub fn start(keeper: &Path) -> io::Result<Self> {
        let (names, tell_names) = Channel::pair()?;
        let (said, tell_said) = Channel::pair()?;
        let (firewall, serve) = Channel::pair()?;
        match sys::fork()? {
            Forked::Parent(_) => Ok(Self {
                names: Feed::new(names, 2),
                keeper: Feed::new(said, 1),
                firewall: Firewall::new(firewall),
            }),
            Forked::Child => {
                let ends = [tell_names.as_fd(), tell_said.as_fd(), serve.as_fd()];
                let prepared = prepare(&ends);
                let tellers = [
                    Teller::new(tell_names, &[Path::new(RESOLV), Path::new(HOSTS)]),
                    Teller::new(tell_said, &[keeper]),
                ];
                let status = i32::from(prepared.and_then(|()| run(tellers, &serve)).is_err());
                // Nothing of the gateway's may be dropped in this copy of it.
                sys::leave(status)
            }
        }
    }
}

/// Lets go of what is the gateway's.
fn prepare(kept: &[std::os::fd::BorrowedFd<'_>]) -> io::Result<()> {
    // The end of the gateway is the end of this: what a terminal or a service manager sends to both is
    // for the gateway.
    sys::ignore(&[libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT])?;
    sys::keep_only(kept)?;
    sys::leave_no_dumps()?;
    // Where the kernel has no such filter, the gateway says so.
    sys::restrict_calls(Role::Broker).map(drop)
}

/// Until the gateway is gone.
fn run(mut tellers: [Teller; 2], serve: &Channel) -> io::Result<()> {
    loop {
        tellers.iter_mut().for_each(Teller::tell);
        if serve.wait(LOOK)? {
            match serve.receive()? {
                Some(packet) => firewall::answer(serve, packet)?,
                None => return Ok(()),
            }
        }
    }
}
