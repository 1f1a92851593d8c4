//! epoll(7), edge-triggered: one call tells of many sockets, and a socket is registered once.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Events that one call brings at most.
pub const EVENTS_MAX: usize = 256;

/// An epoll instance. A descriptor that is closed is forgotten by itself.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

/// Room for the events of one call.
pub struct Events {
    room: [epoll::Event; EVENTS_MAX],
    count: usize,
}

/// What happened to one socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// What the socket was registered with.
    pub token: u64,
    /// There is something to read, an end included.
    pub readable: bool,
    /// There is room to write.
    pub writable: bool,
    /// The peer has closed its side, or the connection has ended.
    pub ended: bool,
    /// The connection failed.
    pub failed: bool,
}

impl Epoll {
    /// A new instance.
    ///
    /// # Errors
    /// No descriptors or memory left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// Tells of every change of `socket` from now on, and at once of what is so already.
    ///
    /// # Errors
    /// No memory left, or as many registrations as a user may have (fs.epoll.max_user_watches).
    pub fn add(&self, socket: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let wanted = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.0, socket, EventData::new_u64(token), wanted)?)
    }

    /// Fills `events` with what happened, without waiting; fewer than [`EVENTS_MAX`] are all.
    ///
    /// # Errors
    /// Whatever epoll_wait(2) says; never a part of the events.
    pub fn take(&self, events: &mut Events) -> io::Result<()> {
        const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        events.count = 0;
        events.count = epoll::wait(&self.0, &mut events.room, Some(&AT_ONCE))?;
        Ok(())
    }
}

/// Has the runtime tell when `descriptor` is readable.
///
/// # Errors
/// The runtime's own, at its registration.
pub fn watch<T: AsFd + AsRawFd>(descriptor: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: `AsFd` promises a descriptor that stays open as long as its owner lives, which the
    // `AsyncFd` takes over; a type of this crate or of std has one descriptor by either trait.
    let watched = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    Ok(watched?)
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Epoll {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Default for Events {
    fn default() -> Self {
        let none = epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) };
        Self { room: [none; EVENTS_MAX], count: 0 }
    }
}

impl Events {
    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The events of the last call.
    pub fn iter(&self) -> impl Iterator<Item = Event> {
        self.room.iter().take(self.count).map(|event| {
            let (flags, data) = (event.flags, event.data);
            let over = EventFlags::HUP | EventFlags::ERR;
            let ended = over | EventFlags::RDHUP;
            Event {
                token: data.u64(),
                readable: flags.intersects(ended | EventFlags::IN),
                writable: flags.intersects(over | EventFlags::OUT),
                ended: flags.intersects(ended),
                failed: flags.intersects(EventFlags::ERR),
            }
        })
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn of(epoll: &Epoll) -> Vec<Event> {
        let mut events = Events::default();
        epoll.take(&mut events).unwrap();
        events.iter().collect()
    }

    #[test]
    fn each_change_is_told_once_and_a_closed_socket_is_forgotten() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut server = listener.accept().unwrap().0;
        let epoll = Epoll::new().unwrap();
        epoll.add(server.as_fd(), 7).unwrap();
        let open = Event { token: 7, readable: false, writable: true, ended: false, failed: false };
        assert_eq!(of(&epoll), [open]);
        assert!(of(&epoll).is_empty(), "nothing has changed");
        client.write_all(b"x").unwrap();
        server.read_exact(&mut [0]).unwrap();
        assert_eq!(of(&epoll).len(), 1, "one byte came, though it was read");
        socket2::SockRef::from(&client).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(client);
        assert!(server.read(&mut [0]).is_err());
        let told = of(&epoll);
        assert!(matches!(told[..], [Event { token: 7, ended: true, .. }]), "{told:?}");
        drop(server);
        assert!(of(&epoll).is_empty());
    }
}
