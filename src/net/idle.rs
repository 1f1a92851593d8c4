//! Measures silence where no socket of the reactor does: of a UDP flow, of an association, of a close
//! in stages. A TCP connection that is relayed has its own ([`super::socket::TcpSocket::idle_timer`]),
//! which costs it no timer and no room.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How long nothing has moved.
#[derive(Debug)]
pub(crate) struct IdleTimer(Cell<Instant>);

impl IdleTimer {
    /// Something moves now.
    pub(crate) fn start() -> Self {
        Self(Cell::new(Instant::now()))
    }

    /// Something moved.
    pub(crate) fn touch(&self) {
        self.0.set(Instant::now());
    }

    /// When it will have been silent for `timeout`, if nothing moves.
    pub(crate) fn due(&self, timeout: Duration) -> Instant {
        self.0.get() + timeout
    }

    /// Whether it has been silent for `timeout`.
    pub(crate) fn has_timed_out(&self, timeout: Duration) -> bool {
        self.due(timeout) <= Instant::now()
    }

    /// Waits until it has been silent for `timeout`, however much moves meanwhile.
    pub(crate) async fn timed_out(&self, timeout: Duration) {
        while !self.has_timed_out(timeout) {
            sleep_until(self.due(timeout)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_silence_is_counted_from_what_moved_last() {
        let (begun, timer) = (Instant::now(), IdleTimer::start());
        let second = Duration::from_secs(1);
        let moves = async {
            for _ in 0..3 {
                tokio::time::sleep(second).await;
                timer.touch();
            }
        };
        let ((), ()) = tokio::join!(moves, timer.timed_out(2 * second));
        assert_eq!(begun.elapsed().as_secs(), 5);
        assert!(timer.has_timed_out(2 * second) && !timer.has_timed_out(3 * second));
    }
}
