//! Two pieces of work at once, where there is a thread to be had.

use std::thread;

/// Both results: `other` is worked out on a thread of its own meanwhile, or after `this` where none can
/// be had. The thread is gone when this returns.
pub(super) fn side_by_side<A, B: Send>(
    this: impl FnOnce() -> A,
    other: impl Fn() -> B + Sync,
) -> (A, B) {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("reader".to_owned()).spawn_scoped(scope, &other);
        let first = this();
        let second = match thread.map(thread::ScopedJoinHandle::join) {
            Ok(Ok(second)) => second,
            // It is the same panic, on the thread that asked for it.
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(_) => other(),
        };
        (first, second)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::sync::{Mutex, PoisonError};

    use super::*;

    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

    #[test]
    fn both_are_done_at_once() {
        // Each waits for the other: one after the other, neither would end.
        let ((to_other, from_this), (to_this, from_other)) = (channel(), channel());
        let ends = Mutex::new((from_this, to_this));
        let this = || {
            to_other.send(1).unwrap();
            from_other.recv_timeout(PATIENCE).unwrap()
        };
        let other = || {
            let (heard, tell) = &*ends.lock().unwrap_or_else(PoisonError::into_inner);
            tell.send(2).unwrap();
            heard.recv_timeout(PATIENCE).unwrap()
        };
        assert_eq!(side_by_side(this, other), (2, 1));
    }

    #[test]
    fn a_panic_is_the_callers() {
        let ended = thread::spawn(|| side_by_side(|| 1, || -> u32 { panic!("other") })).join();
        let panic = ended.unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"other"));
    }
}
