//! Watches the sockets of a worker, and wakes the tasks that wait for them.
//!
//! What tokio's own registration does for a socket, in less: one epoll instance a thread, which the
//! runtime watches as one descriptor; a place of 48 bytes a socket in a table of the thread's own,
//! instead of some 300 on the heap that threads may share; no call to deregister, since a closed
//! socket is forgotten by the kernel; a silence that lasts too long found by one look at the table
//! every [`TICK`], instead of a timer a connection.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::sleep;

use crate::sys::epoll::{self, Epoll, Event, Events};

/// Time between two looks for silent connections: how late their end may be found.
const TICK: Duration = Duration::from_millis(250);

/// As many events at once mean that there will be more by the time that they are dealt with: they
/// are asked for without waiting first.
const BUSY: usize = 4;

const READABLE: u8 = 1;
const WRITABLE: u8 = 2;
const FAILED: u8 = 4;
const SILENT: u8 = 8;
/// The peer has closed its side, or the connection has ended; never taken back.
const ENDED: u8 = 16;

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Something to read, or an end.
    Read,
    /// Room to write.
    Write,
}

impl Side {
    const fn mask(self) -> u8 {
        match self {
            Self::Read => READABLE,
            Self::Write => WRITABLE,
        }
    }
}

thread_local! {
    static HERE: RefCell<Option<Reactor>> = const { RefCell::new(None) };
    /// Number of the next place that is given, over all reactors of the thread.
    static NEXT: Cell<u32> = const { Cell::new(0) };
}

/// The sockets of one thread.
struct Reactor {
    epoll: Rc<Epoll>,
    places: Vec<Place>,
    free: Vec<u32>,
    /// Places of which a silence is measured.
    timed: usize,
    first_timed: Rc<Notify>,
    /// Gone with the runtime that turns the reactor.
    turns: Weak<()>,
}

#[derive(Default)]
struct Place {
    number: u32,
    flags: u8,
    /// Ticks that have passed since a byte moved, and how many may; 0 is any number.
    silence: u32,
    timeout: u32,
    reads: Option<Waker>,
    writes: Option<Waker>,
}

/// A socket's place, given up when dropped. Of use only on the thread that made it.
#[derive(Debug)]
pub(crate) struct Token {
    index: u32,
    number: u32,
}

impl Token {
    /// Takes a place for a socket that never waits; `ready` says whether it is tried, to read and
    /// to write, before anything is known of it.
    ///
    /// # Errors
    /// The kernel takes no more registrations, or there is no runtime for local tasks.
    pub(crate) fn new(socket: BorrowedFd<'_>, ready: bool) -> io::Result<Self> {
        HERE.with_borrow_mut(|here| {
            let reactor = match here {
                Some(reactor) if reactor.turns.strong_count() > 0 => reactor,
                _ => here.insert(Reactor::start()?),
            };
            reactor.place(socket, if ready { READABLE | WRITABLE } else { 0 })
        })
    }

    /// Waits until the socket may be tried.
    pub(crate) fn poll(&self, side: Side, context: &Context<'_>) -> Poll<io::Result<()>> {
        self.wait(side, side.mask(), context)
    }

    /// Waits until the connection has failed.
    pub(crate) fn poll_failed(&self, context: &Context<'_>) -> Poll<io::Result<()>> {
        self.wait(Side::Read, FAILED, context)
    }

    /// Waits until no byte has moved for as long as [`Token::set_timeout`] said.
    pub(crate) fn poll_timed_out(&self, context: &Context<'_>) -> Poll<io::Result<()>> {
        self.wait(Side::Read, SILENT, context)
    }

    fn wait(&self, side: Side, mask: u8, context: &Context<'_>) -> Poll<io::Result<()>> {
        let waker = context.waker();
        let waited = self.with(|place| {
            if place.flags & mask != 0 {
                return (Poll::Ready(Ok(())), None);
            }
            let waiting = match side {
                Side::Read => &mut place.reads,
                Side::Write => &mut place.writes,
            };
            match waiting {
                Some(known) if known.will_wake(waker) => (Poll::Pending, None),
                other => (Poll::Pending, other.replace(waker.clone())),
            }
        });
        // An older waker is dropped here, where the table is not borrowed.
        waited.map_or_else(|lost| Poll::Ready(Err(lost)), |(poll, _)| poll)
    }

    /// Whether the socket may be tried.
    pub(crate) fn may_try(&self, side: Side) -> bool {
        self.with(|place| place.flags & side.mask() != 0).unwrap_or(true)
    }

    /// Whether the connection has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.with(|place| place.flags & FAILED != 0).unwrap_or(true)
    }

    /// The socket was tried, and would have had to wait.
    pub(crate) fn exhausted(&self, side: Side) {
        // A place that is gone has nothing to note.
        self.with(|place| place.flags &= !side.mask()).ok();
    }

    /// The kernel said that nothing is left to read (TCP_INQ). It says so of a connection that was
    /// reset as well, of which no more is told: where an end has come, only a read in vain counts.
    pub(crate) fn emptied(&self) {
        self.with(|place| {
            if place.flags & ENDED == 0 {
                place.flags &= !READABLE;
            }
        })
        .ok();
    }

    /// A byte moved.
    pub(crate) fn touch(&self) {
        self.with(|place| {
            place.silence = 0;
            place.flags &= !SILENT;
        })
        .ok();
    }

    /// Measures silences from now on, or by another patience; those up to now count.
    pub(crate) fn set_timeout(&self, timeout: Duration) {
        let ticks = timeout.as_nanos().div_ceil(TICK.as_nanos()).max(1);
        let ticks = u32::try_from(ticks).unwrap_or(u32::MAX);
        let began = self.with(|place| std::mem::replace(&mut place.timeout, ticks) == 0);
        if began.unwrap_or(false) {
            HERE.with_borrow_mut(|here| {
                if let Some(reactor) = here {
                    reactor.timed += 1;
                    reactor.first_timed.notify_one();
                }
            });
        }
    }

    fn with<T>(&self, see: impl FnOnce(&mut Place) -> T) -> io::Result<T> {
        HERE.with_borrow_mut(|here| {
            let places = here.as_mut().map(|reactor| &mut reactor.places);
            let place = places.and_then(|places| places.get_mut(usize::try_from(self.index).ok()?));
            match place.filter(|place| place.number == self.number) {
                Some(place) => Ok(see(place)),
                None => Err(io::Error::other("a socket of another thread, or of one that ended")),
            }
        })
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        let place = self.with(std::mem::take);
        let was_timed = place.as_ref().is_ok_and(|place| place.timeout > 0);
        if place.is_ok() {
            HERE.with_borrow_mut(|here| {
                if let Some(reactor) = here {
                    reactor.free.push(self.index);
                    reactor.timed -= usize::from(was_timed);
                }
            });
        }
        // The wakers go here, where the table is not borrowed.
    }
}

impl Reactor {
    fn start() -> io::Result<Self> {
        let epoll = Rc::new(Epoll::new()?);
        let watched = epoll::watch(Rc::clone(&epoll))?;
        let alive = Rc::new(());
        let first_timed = Rc::new(Notify::new());
        let turns = Rc::downgrade(&alive);
        spawn_local(async move {
            let fault = turn(&watched).await;
            tracing::error!(%fault, "the worker's sockets cannot be watched any more");
            drop(alive);
        });
        spawn_local(look_for_silence(Rc::clone(&first_timed)));
        Ok(Self { epoll, places: Vec::new(), free: Vec::new(), timed: 0, first_timed, turns })
    }

    fn place(&mut self, socket: BorrowedFd<'_>, flags: u8) -> io::Result<Token> {
        let number = NEXT.get().wrapping_add(1);
        NEXT.set(number);
        let index = match self.free.pop() {
            Some(index) => index,
            None => u32::try_from(self.places.len()).map_err(io::Error::other)?,
        };
        let at = usize::try_from(index).map_err(io::Error::other)?;
        if at == self.places.len() {
            self.places.push(Place::default());
        }
        if let Err(fault) = self.epoll.add(socket, u64::from(index) << 32 | u64::from(number)) {
            self.free.push(index);
            return Err(fault);
        }
        if let Some(place) = self.places.get_mut(at) {
            *place = Place { number, flags, ..Place::default() };
        }
        Ok(Token { index, number })
    }

    /// The tasks run in the order in which they are woken. What has ended can wait: to close two
    /// sockets takes as long as to pass on a hello, for which somebody waits.
    fn note_all(&mut self, events: &Events) {
        events.iter().filter(|event| !event.ended).for_each(|event| self.note(event));
        events.iter().filter(|event| event.ended).for_each(|event| self.note(event));
    }

    fn note(&mut self, event: Event) {
        let index = usize::try_from(event.token >> 32).unwrap_or(usize::MAX);
        let Some(place) = self.places.get_mut(index) else { return };
        if u64::from(place.number) != event.token & u64::from(u32::MAX) {
            return;
        }
        let told = if event.readable { READABLE } else { 0 }
            | if event.writable { WRITABLE } else { 0 }
            | if event.ended { ENDED } else { 0 }
            | if event.failed { FAILED } else { 0 };
        let news = told & !place.flags;
        place.flags |= told;
        wake(&place.reads, news & (READABLE | FAILED));
        wake(&place.writes, news & (WRITABLE | FAILED));
    }

    fn look(&mut self) {
        for place in self.places.iter_mut().filter(|place| place.timeout > 0) {
            place.silence = place.silence.saturating_add(1);
            if place.silence > place.timeout {
                place.flags |= SILENT;
                wake(&place.reads, SILENT);
                wake(&place.writes, SILENT);
            }
        }
    }
}

fn wake(waiting: &Option<Waker>, why: u8) {
    if why != 0
        && let Some(waker) = waiting
    {
        waker.wake_by_ref();
    }
}

/// Takes events as long as the runtime runs.
async fn turn(watched: &AsyncFd<Rc<Epoll>>) -> io::Error {
    let mut events = Box::new(Events::default());
    loop {
        let mut guard = match watched.readable().await {
            Ok(guard) => guard,
            Err(fault) => return fault,
        };
        match watched.get_ref().take(&mut events) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(fault) => return fault,
        }
        HERE.with_borrow_mut(|here| {
            if let Some(reactor) = here {
                reactor.note_all(&events);
            }
        });
        if events.len() < BUSY {
            // What came since is told as a change of the epoll descriptor itself.
            guard.clear_ready();
        } else {
            drop(guard);
            last_in_turn().await;
        }
    }
}

/// Waits until every task that can run has run. Unlike the runtime's own way to yield, this does
/// not ask the kernel for events in between, which is asked next anyway.
async fn last_in_turn() {
    let mut waited = false;
    poll_fn(|context| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Looks for silent connections, while there are any whose silence is measured.
async fn look_for_silence(first_timed: Rc<Notify>) {
    loop {
        sleep(TICK).await;
        let any = HERE.with_borrow_mut(|here| {
            here.as_mut().is_some_and(|reactor| {
                reactor.look();
                reactor.timed > 0
            })
        });
        if !any {
            first_timed.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use tokio::time::Instant;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    fn places() -> (usize, usize, usize) {
        HERE.with_borrow(|here| {
            let reactor = here.as_ref().unwrap();
            (reactor.places.len(), reactor.free.len(), reactor.timed)
        })
    }

    #[tokio::test(flavor = "local")]
    async fn a_socket_is_waited_for_until_something_comes() {
        let (mut client, server) = pair();
        let token = Token::new(server.as_fd(), false).unwrap();
        poll_fn(|context| token.poll(Side::Write, context)).await.unwrap();
        assert!(!token.may_try(Side::Read) && !token.has_failed());
        client.write_all(b"x").unwrap();
        poll_fn(|context| token.poll(Side::Read, context)).await.unwrap();
        token.exhausted(Side::Read);
        assert!(!token.may_try(Side::Read));
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        poll_fn(|context| token.poll_failed(context)).await.unwrap();
        assert!(token.may_try(Side::Read) && token.may_try(Side::Write));
    }

    #[tokio::test(flavor = "local")]
    async fn l01_what_the_kernel_says_is_left_does_not_hide_a_reset_that_came_with_it() {
        let (mut client, server) = pair();
        let token = Token::new(server.as_fd(), false).unwrap();
        poll_fn(|context| token.poll(Side::Write, context)).await.unwrap();
        client.write_all(b"x").unwrap();
        poll_fn(|context| token.poll(Side::Read, context)).await.unwrap();
        token.emptied();
        assert!(!token.may_try(Side::Read), "a hint spares the read in vain");
        // Without a turn of the reactor in between: one event tells of both.
        client.write_all(b"x").unwrap();
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        poll_fn(|context| token.poll(Side::Read, context)).await.unwrap();
        token.emptied();
        assert!(token.may_try(Side::Read), "the reset is still to be read");
        token.exhausted(Side::Read);
        assert!(!token.may_try(Side::Read), "a read in vain counts even then");
    }

    #[tokio::test(flavor = "local")]
    async fn who_goes_on_is_woken_before_who_has_ended() {
        let order = Rc::new(RefCell::new(Vec::new()));
        let (mut clients, mut tasks) = (Vec::new(), Vec::new());
        for number in 0..4 {
            let (client, server) = pair();
            let token = Token::new(server.as_fd(), false).unwrap();
            poll_fn(|context| token.poll(Side::Write, context)).await.unwrap();
            let order = Rc::clone(&order);
            tasks.push(spawn_local(async move {
                poll_fn(|context| token.poll(Side::Read, context)).await.unwrap();
                order.borrow_mut().push(number);
                drop(server);
            }));
            clients.push(client);
        }
        // All wait, and one event after the other comes before the reactor turns.
        tokio::task::yield_now().await;
        for (number, client) in clients.iter_mut().enumerate() {
            match number % 2 {
                0 => client.shutdown(std::net::Shutdown::Write).unwrap(),
                _ => client.write_all(b"x").unwrap(),
            }
        }
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.borrow(), [1, 3, 0, 2]);
    }

    #[tokio::test(flavor = "local")]
    async fn places_are_used_again_and_nothing_of_before_is_in_them() {
        for _ in 0..3 {
            let pairs: Vec<_> = (0..5).map(|_| pair()).collect();
            let tokens: Vec<_> =
                pairs.iter().map(|(_, server)| Token::new(server.as_fd(), true).unwrap()).collect();
            tokens.iter().for_each(|token| token.set_timeout(TICK));
            assert_eq!(places(), (5, 0, 5));
            drop(tokens);
            assert_eq!(places(), (5, 5, 0));
            let fresh = Token::new(pairs[0].1.as_fd(), false);
            assert!(fresh.is_err(), "the same socket, still registered, is refused");
            assert_eq!(places(), (5, 5, 0));
        }
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn a_silence_ends_neither_early_nor_much_late() {
        let (_client, server) = pair();
        let token = Token::new(server.as_fd(), true).unwrap();
        sleep(Duration::from_secs(7)).await;
        let begun = Instant::now();
        token.set_timeout(Duration::from_secs(10));
        sleep(Duration::from_secs(9)).await;
        token.touch();
        poll_fn(|context| token.poll_timed_out(context)).await.unwrap();
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(19), "{took:?}");
        assert!(took <= Duration::from_secs(19) + 2 * TICK, "{took:?}");
    }
}
