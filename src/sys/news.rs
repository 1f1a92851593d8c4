//! Tells when somebody changes the firewall, a routing rule, a route or a switch of the network, by
//! the kernel's own messages (netlink(7), rtnetlink(7), nfnetlink(7)): nothing is asked again and
//! again.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;

use socket2::{Domain, Protocol, Socket, Type};

use super::options;

/// Longest run of messages in one read, in bytes.
const READ_MAX: usize = 64 << 10;

/// Room for messages that were not read yet; where it does not do, the kernel says so, which counts
/// as a change.
const RECEIVE_BUFFER: libc::c_int = 4 << 20;

/// `NLMSG_NOOP`.
const NOTHING: u16 = 1;

/// `RTNLGRP_IPV4_NETCONF`, `RTNLGRP_IPV6_NETCONF`, and the groups of rules and routes.
const ROUTE_GROUPS: [u32; 6] = [
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV6_RULE,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV4_NETCONF,
    libc::RTNLGRP_IPV6_NETCONF,
];

/// `NFNLGRP_NFTABLES`.
const FIREWALL_GROUPS: [u32; 1] = [libc::NFNLGRP_NFTABLES.cast_unsigned()];

/// Subscribes, and says once for many changes that there were some. What [`News::start`] did not
/// see, because it came before, is never told.
#[derive(Debug)]
pub struct News(Receiver<()>);

impl News {
    /// Begins to listen. `concerns` says of the bytes of one read whether they are of interest.
    ///
    /// # Errors
    /// Without CAP_NET_ADMIN, or where no socket or thread is to be had.
    pub fn start(firewall: fn(&[u8]) -> bool, routing: fn(&[u8]) -> bool) -> io::Result<Self> {
        // One place: who reads it looks at everything.
        let (told, news) = sync_channel(1);
        let parts = [
            (libc::NETLINK_NETFILTER, &FIREWALL_GROUPS[..], firewall),
            (libc::NETLINK_ROUTE, &ROUTE_GROUPS[..], routing),
        ];
        for (protocol, groups, concerns) in parts {
            let socket = subscribe(protocol, groups)?;
            let told = told.clone();
            thread::Builder::new()
                .name("news".into())
                .spawn(move || listen(socket, concerns, &told))?;
        }
        Ok(Self(news))
    }

    /// Waits for a change, for `limit` at most; whether there was one.
    ///
    /// # Errors
    /// The kernel tells nothing any more.
    pub fn wait(&self, limit: std::time::Duration) -> io::Result<bool> {
        use std::sync::mpsc::RecvTimeoutError;
        match self.0.recv_timeout(limit) {
            Ok(()) => Ok(true),
            Err(RecvTimeoutError::Timeout) => Ok(false),
            Err(RecvTimeoutError::Disconnected) => {
                Err(io::Error::other("the kernel tells of no changes any more"))
            }
        }
    }

    /// Forgets what was told so far: it was the reader's own doing.
    pub fn forget(&self) {
        while self.0.try_recv().is_ok() {}
    }
}

/// The messages of one read: type, and what follows the header. What is cut off is no message.
pub fn messages(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const HEADER: usize = 16;
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*rest.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*rest.get(4..)?.first_chunk()?);
        let message = rest.get(HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, message))
    })
}

fn subscribe(protocol: libc::c_int, groups: &[u32]) -> io::Result<Socket> {
    let family = Domain::from(libc::AF_NETLINK);
    let socket = Socket::new(family, Type::RAW.cloexec(), Some(Protocol::from(protocol)))?;
    // A smaller one is told of as lost messages, which is a change too.
    options::set(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER).ok();
    // A socket has no address before it has sent something, and without one it is told nothing.
    let nothing = [&16_u32.to_ne_bytes()[..], &NOTHING.to_ne_bytes(), &[0; 10]].concat();
    socket.send(&nothing)?;
    for group in groups {
        let group = libc::c_int::try_from(*group).map_err(io::Error::other)?;
        options::set(socket.as_fd(), libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group)?;
    }
    Ok(socket)
}

/// Ends when nobody listens any more, or when the socket breaks.
fn listen(mut socket: Socket, concerns: fn(&[u8]) -> bool, told: &SyncSender<()>) {
    let mut buffer = vec![0; READ_MAX];
    loop {
        let is_news = match socket.read(&mut buffer) {
            Ok(length) => concerns(buffer.get(..length).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => false,
            // Messages were lost: any of them may have been of interest.
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => true,
            Err(_) => return,
        };
        if is_news && matches!(told.try_send(()), Err(TrySendError::Disconnected(()))) {
            return;
        }
    }
}
