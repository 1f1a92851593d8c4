//! Reads one queue of the kernel, and hands the verdicts back many at a time.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;

use tokio::task::{spawn_local, yield_now};

use crate::net::reactor::{Side, Token};
use crate::sys::{PacketQueue, QueueBatch, Queued, QueuedPacket, Verdicts};

/// Times that the kernel is told of verdicts which it had no room to hear.
const TRIES: usize = 50;

/// A queue, and the verdicts that it has not been told yet.
#[derive(Debug)]
pub(super) struct Queue {
    packets: PacketQueue,
    token: Token,
    verdicts: RefCell<Verdicts>,
    /// The kernel was not told of verdicts, whatever was tried.
    is_deaf: Cell<bool>,
}

impl Queue {
    /// # Errors
    /// The reactor takes no more.
    pub(super) fn new(packets: PacketQueue) -> io::Result<Rc<Self>> {
        use std::os::fd::AsFd;
        let token = Token::new(packets.as_fd(), true)?;
        let (verdicts, is_deaf) = (RefCell::default(), Cell::default());
        Ok(Rc::new(Self { packets, token, verdicts, is_deaf }))
    }

    /// The packet goes on with this mark.
    pub(super) fn accept(self: &Rc<Self>, id: u32, mark: u32) {
        self.say(|number, verdicts| verdicts.accept(number, id, mark));
    }

    /// The packet is dropped.
    pub(super) fn drop(self: &Rc<Self>, id: u32) {
        self.say(|number, verdicts| verdicts.drop(number, id));
    }

    fn say(self: &Rc<Self>, add: impl FnOnce(u16, &mut Verdicts)) {
        let mut verdicts = self.verdicts.borrow_mut();
        let is_first = verdicts.is_empty();
        add(self.packets.number(), &mut verdicts);
        if is_first {
            // It runs behind the tasks that are ready now: what they say goes with it.
            spawn_local(Rc::clone(self).tell());
        }
    }

    async fn tell(self: Rc<Self>) {
        for _ in 0..TRIES {
            let told = self.packets.send(&mut self.verdicts.borrow_mut());
            match told {
                Ok(()) => return,
                Err(_) => yield_now().await,
            }
        }
        // Packets would wait for ever: better the queue is let go, which drops them.
        self.is_deaf.set(true);
    }

    /// Reads packets until the queue breaks, and shows each; `lost` is called where the kernel had no
    /// room to show some, which it dropped.
    pub(super) async fn read(
        self: &Rc<Self>,
        mut see: impl FnMut(QueuedPacket<'_>),
        mut lost: impl FnMut(),
    ) -> io::Error {
        let mut batch = QueueBatch::default();
        loop {
            if let Err(fault) = poll_fn(|context| self.token.poll(Side::Read, context)).await {
                return fault;
            }
            if self.is_deaf.get() {
                return io::Error::other("the kernel does not hear verdicts");
            }
            match self.packets.receive(&mut batch) {
                Ok(()) => {
                    for queued in batch.messages() {
                        match queued {
                            Queued::Packet(packet) => see(packet),
                            // It went with its interface, or was dropped with the rules.
                            Queued::Fault(fault) if fault.raw_os_error() == Some(libc::ENOENT) => {}
                            Queued::Fault(fault) => return fault,
                        }
                    }
                    // The flows have their turn before the next ones.
                    yield_now().await;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.token.exhausted(Side::Read),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => lost(),
                Err(fault) => return fault,
            }
        }
    }
}
