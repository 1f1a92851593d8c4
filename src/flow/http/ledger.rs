//! Counts what a client has acknowledged of the answers that it was sent: an answer is over, and its
//! bytes are counted, when its client's kernel has them, and not when they are in a buffer of this
//! host.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;

use crate::account::{Bytes, End, Record};
use crate::net::socket::TcpSocket;

/// What was sent on one connection, in the order of its answers.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Bytes written so far, and how many of them were acknowledged when this was looked at last.
    sent: Cell<u64>,
    acknowledged: Cell<u64>,
    answers: RefCell<VecDeque<Answer>>,
}

/// One answer.
#[derive(Debug)]
struct Answer {
    bytes: Arc<Bytes>,
    /// Where it ended, once it was written, and the record that ends with it.
    whole: Option<(u64, Record)>,
}

impl Ledger {
    /// An answer begins: what is sent from here on is counted in `bytes`.
    pub(super) fn begin(&self, bytes: &Arc<Bytes>) {
        let answer = Answer { bytes: Arc::clone(bytes), whole: None };
        self.answers.borrow_mut().push_back(answer);
    }

    /// So many bytes more were written.
    pub(super) fn sent(&self, count: usize) {
        self.sent.set(self.sent.get() + count as u64);
    }

    /// Bytes written so far.
    pub(super) const fn total(&self) -> u64 {
        self.sent.get()
    }

    /// How many of them were acknowledged when this was looked at last.
    pub(super) const fn acknowledged(&self) -> u64 {
        self.acknowledged.get()
    }

    /// The answer that began last is written; its record ends when it is acknowledged.
    pub(super) fn whole(&self, record: Record) {
        if let Some(last) = self.answers.borrow_mut().back_mut() {
            last.whole = Some((self.sent.get(), record));
        }
    }

    /// The answer that began last goes no further.
    pub(super) fn broken(&self) {
        let mut answers = self.answers.borrow_mut();
        if answers.back().is_some_and(|last| last.whole.is_none()) {
            answers.pop_back();
        }
    }

    /// Asks the kernel what was acknowledged, and ends the records of the answers that were. Whether
    /// none is left.
    pub(super) fn settle(&self, client: &TcpSocket) -> bool {
        let left = client.unacknowledged() as u64;
        self.settle_to(self.sent.get().saturating_sub(left))
    }

    fn settle_to(&self, acknowledged: u64) -> bool {
        let mut at = self.acknowledged.get();
        let mut answers = self.answers.borrow_mut();
        while let Some(answer) = answers.front() {
            let end = answer.whole.as_ref().map_or(u64::MAX, |(end, _)| *end);
            let to = acknowledged.min(end).max(at);
            answer.bytes.down(usize::try_from(to - at).unwrap_or(usize::MAX));
            at = to;
            if at < end {
                break;
            }
            if let Some((_, record)) = answers.pop_front().and_then(|answer| answer.whole) {
                record.finish(End::Done);
            }
        }
        self.acknowledged.set(at.max(acknowledged));
        answers.is_empty()
    }

    /// What was not acknowledged never will be.
    pub(super) fn give_up(&self, end: End) {
        for answer in self.answers.borrow_mut().drain(..) {
            if let Some((_, record)) = answer.whole {
                record.finish(end);
            }
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.give_up(End::ClientReset);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::Ingress;
    use crate::account::kept::CapturedLog;

    #[test]
    fn an_answer_is_done_when_its_last_byte_is_acknowledged() {
        let kept = CapturedLog::default();
        let account = kept.account();
        let ledger = Ledger::default();
        for length in [10, 0, 5] {
            let record = account.open("192.0.2.9:40000".parse().unwrap(), Ingress::Proxy);
            ledger.begin(record.bytes());
            ledger.sent(length);
            ledger.whole(record);
        }
        assert!(!ledger.settle_to(9));
        assert_eq!(kept.lines(&account).len(), 0);
        assert!(!ledger.settle_to(12));
        ledger.give_up(End::ClientReset);
        let lines = kept.lines(&account);
        let told = lines.iter().map(|l| (l["end"].as_str(), l["bytes_down"].as_u64()));
        let told: Vec<_> = told.collect();
        let done = Some("done");
        assert_eq!(
            told,
            [(done, Some(10)), (done, Some(0)), (Some("client-reset"), Some(2))],
            "{lines:?}"
        );
    }

    #[test]
    fn what_the_gateway_says_of_its_own_is_in_nobodys_count() {
        let account = CapturedLog::default().account();
        let ledger = Ledger::default();
        let record = account.open("192.0.2.9:40000".parse().unwrap(), Ingress::Proxy);
        let bytes = Arc::clone(record.bytes());
        ledger.begin(&bytes);
        ledger.sent(7);
        ledger.whole(record);
        ledger.sent(100);
        assert!(ledger.settle_to(107));
        assert_eq!(bytes.totals(), (0, 7));
    }
}
