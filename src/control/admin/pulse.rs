//! What moves: verdicts of the last minute, refusals of late, and who looks on.
//!
//! One task of the admin thread takes what the workers left, some times a second. Whoever looks on gets
//! the same bytes in one piece a turn; one that does not read in time is let go.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};

use crate::account::{Account, Counts, Happened};
use crate::policy::{Action, Reason};

/// Time between two turns.
pub(super) const TURN: Duration = Duration::from_millis(200);

/// Time between two counts that rates are told by.
const SAMPLE: Duration = Duration::from_secs(1);

/// Counts that are kept: a minute, and the one that it began with.
const SAMPLES: usize = 61;

/// Refusals that are kept.
const REFUSALS_MAX: usize = 1000;

/// Who looks on at once through each door. Fewer than there may be connections, so that there is always
/// room for `/metrics`.
pub(super) const STREAMS_MAX: usize = 16;

/// Pieces that wait for somebody who looks on: more than that many turns behind is too slow.
const BEHIND_MAX: usize = 16;

/// Events that are told in one turn; of more, it is told how many they were.
const TOLD_MAX: usize = 500;

/// The first thing that who looks on is told: after how long to come back, milliseconds.
const HELLO: &[u8] = b"retry: 3000\n\n";

/// What moves.
#[derive(Debug)]
pub(super) struct Pulse {
    account: Account,
    kept: Mutex<Kept>,
    streams: Mutex<Vec<Stream>>,
}

/// Counters, and when they were read.
type Sample = (Instant, Counts);

#[derive(Debug, Default)]
struct Kept {
    samples: VecDeque<Sample>,
    /// The oldest first.
    refusals: VecDeque<Arc<Happened>>,
    /// What was written over before it was seen.
    missed: u64,
    /// Refusals since the gateway began, as far as they were seen.
    seen: u64,
}

/// Where somebody came in. Whoever may not open the socket takes no place of those who may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    Address,
    Socket,
}

#[derive(Debug)]
struct Stream {
    pieces: mpsc::Sender<Bytes>,
    door: Door,
    /// Ends the connection of one that is too slow.
    cut: Arc<Notify>,
    wants_all: bool,
}

/// Verdicts and bytes a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Rates {
    /// Seconds that they are of; 0 where nothing is known yet.
    pub(super) over: f64,
    pub(super) allow: f64,
    pub(super) log: f64,
    pub(super) block: f64,
    pub(super) bytes_up: f64,
    pub(super) bytes_down: f64,
}

impl Rates {
    fn between(before: &Sample, now: &Sample) -> Self {
        let over = now.0.duration_since(before.0).as_secs_f64();
        if over <= 0.0 {
            return Self::default();
        }
        let rate = |before: u64, now: u64| now.saturating_sub(before) as f64 / over;
        let of = |action| rate(count(&before.1, action), count(&now.1, action));
        Self {
            over,
            allow: of(Action::Allow),
            log: of(Action::Log),
            block: of(Action::Block),
            bytes_up: rate(before.1.bytes_up, now.1.bytes_up),
            bytes_down: rate(before.1.bytes_down, now.1.bytes_down),
        }
    }

    pub(super) fn json(&self) -> Value {
        let round = |rate: f64| (rate * 100.0).round() / 100.0;
        json!({
            "over_s": round(self.over),
            "allow": round(self.allow),
            "log": round(self.log),
            "block": round(self.block),
            "bytes_up": round(self.bytes_up),
            "bytes_down": round(self.bytes_down),
        })
    }
}

/// Verdicts of an action.
pub(super) fn count(counts: &Counts, action: Action) -> u64 {
    counts.verdicts.iter().filter(|(of, ..)| *of == action).map(|(.., count)| count).sum()
}

impl Pulse {
    pub(super) fn new(account: Account) -> Self {
        let kept = Kept::default();
        Self { account, kept: Mutex::new(kept), streams: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn streams(&self) -> MutexGuard<'_, Vec<Stream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what was left since the last turn, and tells it.
    pub(super) fn turn(&self, now: Instant) {
        let (happened, missed) = self.account.take_recent();
        let mut piece = String::new();
        let mut all = String::new();
        let mut told = 0;
        let mut kept = self.kept();
        kept.missed += missed;
        let mut untold = missed;
        let is_watched = !self.streams().is_empty();
        for happened in happened {
            let is_refusal = happened.is_refusal();
            if is_watched && told < TOLD_MAX {
                told += 1;
                let fields = Value::Object(happened.fields(self.account.id(happened.sequence)));
                let text = format!("event: decision\ndata: {fields}\n\n");
                if is_refusal {
                    piece.push_str(&text);
                }
                all.push_str(&text);
            } else if is_watched {
                untold += 1;
            }
            if is_refusal {
                kept.seen += 1;
                kept.refusals.push_back(Arc::new(happened));
                if kept.refusals.len() > REFUSALS_MAX {
                    kept.refusals.pop_front();
                }
            }
        }
        let due = |(at, _): &Sample| now.duration_since(*at) >= SAMPLE;
        if kept.samples.back().is_none_or(due) {
            kept.samples.push_back((now, self.account.metrics().counts()));
            if kept.samples.len() > SAMPLES {
                kept.samples.pop_front();
            }
            let tick = tick(&kept);
            for text in [&mut piece, &mut all] {
                // Into a string nothing fails.
                write!(text, "event: tick\ndata: {tick}\n\n").ok();
            }
        }
        drop(kept);
        if untold > 0 {
            for text in [&mut piece, &mut all] {
                write!(text, "event: missed\ndata: {{\"count\":{untold}}}\n\n").ok();
            }
        }
        self.tell(piece.into(), all.into());
    }

    fn tell(&self, piece: Bytes, all: Bytes) {
        let mut streams = self.streams();
        streams.retain(|stream| {
            let piece = if stream.wants_all { &all } else { &piece };
            if piece.is_empty() {
                return !stream.pieces.is_closed();
            }
            match stream.pieces.try_send(piece.clone()) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Closed(_)) => false,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    stream.cut.notify_one();
                    false
                }
            }
        });
        self.account.watch(streams.iter().any(|stream| stream.wants_all));
    }

    /// A place for somebody who looks on: at refusals, or at everything. `cut` is told when they are
    /// too slow. `None` where there are as many as may be.
    pub(super) fn join(
        &self,
        wants_all: bool,
        door: Door,
        cut: Arc<Notify>,
    ) -> Option<mpsc::Receiver<Bytes>> {
        let mut streams = self.streams();
        streams.retain(|stream| !stream.pieces.is_closed());
        if streams.iter().filter(|stream| stream.door == door).count() >= STREAMS_MAX {
            return None;
        }
        let (pieces, received) = mpsc::channel(BEHIND_MAX);
        pieces.try_send(Bytes::from_static(HELLO)).ok()?;
        streams.push(Stream { pieces, door, cut, wants_all });
        self.account.watch(streams.iter().any(|stream| stream.wants_all));
        Some(received)
    }

    /// Refusals of late, the newest first, behind `before`, and how many were seen in all.
    pub(super) fn refusals(
        &self,
        before: Option<u64>,
        limit: usize,
        takes: impl Fn(&Happened) -> bool,
    ) -> (Vec<Arc<Happened>>, u64) {
        let kept = self.kept();
        let rows = kept.refusals.iter().rev();
        // They come from several workers, and so nearly in order.
        let rows = rows.filter(|row| before.is_none_or(|before| row.sequence < before));
        (rows.filter(|row| takes(row)).take(limit).map(Arc::clone).collect(), kept.seen)
    }

    /// What is known of an event, where it was a refusal of late.
    pub(super) fn event(&self, sequence: u64) -> Option<Arc<Happened>> {
        let kept = self.kept();
        kept.refusals.iter().rev().find(|row| row.sequence == sequence).map(Arc::clone)
    }

    /// The last count, and rates over so many seconds.
    pub(super) fn rates(&self, over: usize) -> Rates {
        rates(&self.kept(), over)
    }

    /// Verdicts of each of the last seconds, the oldest first: `[allow, log, block]`.
    pub(super) fn seconds(&self) -> Vec<[u64; 3]> {
        let kept = self.kept();
        let pairs = kept.samples.iter().zip(kept.samples.iter().skip(1));
        let more = |before: &Counts, now: &Counts, action| {
            count(now, action).saturating_sub(count(before, action))
        };
        pairs.map(|((_, a), (_, b))| Action::ALL.map(|action| more(a, b, action))).collect()
    }

    /// Verdicts of a reason a second, over the last so many.
    pub(super) fn rate_of(&self, action: Action, reason: Reason, over: usize) -> f64 {
        let kept = self.kept();
        let Some((before, now)) = ends(&kept, over) else { return 0.0 };
        let of = |counts: &Counts| {
            let found = counts.verdicts.iter().find(|(a, r, _)| (*a, *r) == (action, reason));
            found.map_or(0, |(.., count)| *count)
        };
        let seconds = now.0.duration_since(before.0).as_secs_f64();
        if seconds <= 0.0 { 0.0 } else { of(&now.1).saturating_sub(of(&before.1)) as f64 / seconds }
    }
}

/// The sample of so many turns ago, or the oldest, and the last.
fn ends(kept: &Kept, over: usize) -> Option<(&Sample, &Sample)> {
    let now = kept.samples.back()?;
    let from = kept.samples.len().saturating_sub(over + 1);
    Some((kept.samples.get(from)?, now))
}

fn rates(kept: &Kept, over: usize) -> Rates {
    ends(kept, over).map(|(before, now)| Rates::between(before, now)).unwrap_or_default()
}

/// What who looks on is told each second.
fn tick(kept: &Kept) -> Value {
    let counts = kept.samples.back().map(|(_, counts)| counts);
    let last = rates(kept, 1);
    let totals = Action::ALL.map(|action| counts.map_or(0, |counts| count(counts, action)));
    json!({
        "live": counts.map_or(0, |counts| counts.live),
        "now": last.json(),
        "minute": rates(kept, SAMPLES - 1).json(),
        "totals": { "allow": totals[0], "log": totals[1], "block": totals[2] },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::{Decision, End, Ingress};
    use crate::policy::Verdict;

    fn pulse() -> Pulse {
        Pulse::new(Account::start(Box::new(std::io::sink())).unwrap())
    }

    fn refuse(account: &Account) {
        let mut record = account.open("192.0.2.9:1".parse().unwrap(), Ingress::Proxy);
        let to = "198.51.100.1:443".parse().unwrap();
        record.judged(Decision::without_policy(*Verdict::overload(to).verdict()));
        record.finish(End::Refused);
    }

    #[test]
    fn refusals_are_kept_up_to_a_bound_and_come_newest_first() {
        let pulse = pulse();
        for _ in 0..3 {
            (0..600).for_each(|_| refuse(&pulse.account));
            pulse.turn(Instant::now());
        }
        let (rows, seen) = pulse.refusals(None, usize::MAX, |_| true);
        assert_eq!((rows.len(), seen), (REFUSALS_MAX, 1800));
        assert!(rows.is_sorted_by_key(|row| std::cmp::Reverse(row.sequence)));
        let (page, _) = pulse.refusals(Some(rows[9].sequence), 5, |_| true);
        assert_eq!(page[0].sequence, rows[10].sequence);
        assert_eq!(page.len(), 5);
        assert!(pulse.event(rows[0].sequence).is_some());
        assert!(pulse.event(1).is_none(), "the oldest are gone");
    }

    #[test]
    fn those_who_look_on_are_bounded_and_a_slow_one_is_let_go() {
        let pulse = pulse();
        let cuts: Vec<_> = (0..1000).map(|_| Arc::new(Notify::new())).collect();
        let joined: Vec<_> = cuts
            .iter()
            .filter_map(|cut| pulse.join(false, Door::Address, Arc::clone(cut)))
            .collect();
        assert_eq!(joined.len(), STREAMS_MAX);
        assert!(pulse.join(false, Door::Socket, Arc::default()).is_some(), "another door");
        let begun = Instant::now();
        for second in 0..2 * BEHIND_MAX as u32 {
            refuse(&pulse.account);
            pulse.turn(begun + SAMPLE * second);
        }
        assert!(pulse.streams().is_empty(), "nobody has read");
        let waiting: usize = joined.iter().map(|stream| stream.len()).sum();
        assert_eq!(waiting, STREAMS_MAX * BEHIND_MAX, "what waits for them is bounded");
        drop(joined);
        let mut reading = pulse.join(false, Door::Address, Arc::default()).unwrap();
        for second in 0..3 * BEHIND_MAX as u32 {
            pulse.turn(begun + SAMPLE * (second + 100));
            while reading.try_recv().is_ok() {}
        }
        assert_eq!(pulse.streams().len(), 1, "one that reads stays");
    }

    #[test]
    fn what_was_let_go_is_told_where_somebody_wants_it_and_not_else() {
        let pulse = pulse();
        let let_go = || pulse.account.open("192.0.2.9:1".parse().unwrap(), Ingress::Proxy);
        drop(let_go());
        assert_eq!(pulse.account.take_recent().0.len(), 0);
        let mut stream = pulse.join(true, Door::Address, Arc::default()).unwrap();
        drop(let_go());
        pulse.turn(Instant::now());
        let text: Vec<u8> = std::iter::from_fn(|| stream.try_recv().ok()).flatten().collect();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("\"event\":\"unjudged\""), "{text}");
        drop(stream);
        pulse.turn(Instant::now());
        drop(let_go());
        assert_eq!(pulse.account.take_recent().0.len(), 0, "nobody looks on any more");
    }
}
