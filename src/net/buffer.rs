//! Lends each thread one buffer to read into, so that an idle connection holds none.

use std::cell::RefCell;
use std::io;

use super::socket::TcpSocket;

/// One read's worth. A connection holds bytes of its own only while the other side does not take
/// them: an idle connection costs no buffer.
pub(crate) const BUFFER: usize = 64 * 1024;

thread_local! {
    static SHARED: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER]);
}

/// Lends the thread's buffer, whose content means nothing, for as long as `work` takes.
pub(crate) fn with_shared<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    SHARED.with_borrow_mut(|buffer| work(buffer))
}

/// Reads once, up to `most` bytes, into the thread's buffer, without waiting.
pub(crate) fn read_shared(
    from: &TcpSocket,
    most: usize,
    take: impl FnOnce(&[u8]),
) -> io::Result<usize> {
    with_shared(|buffer| {
        let room = most.min(buffer.len());
        let read = from.receive(buffer.get_mut(..room).unwrap_or_default())?.bytes;
        take(buffer.get(..read).unwrap_or_default());
        Ok(read)
    })
}
