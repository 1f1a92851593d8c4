//! What happens for every connection, counted by the thread that sees it happen.
//!
//! An update of a counter in the registry is two locked adds, and of a histogram a place in a list
//! that all threads share: lines of memory that go from core to core with each connection. Here a
//! thread adds to numbers that it alone writes, and whoever reads the metrics sums them up.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Buckets that a histogram may have, the one without an upper bound included.
pub(super) const BUCKETS_MAX: usize = 11;

thread_local! {
    /// The thread's own numbers, by the [`ShardedCounters`] that they are of; there is one in a process.
    static OWN: RefCell<Vec<(u64, Arc<Shard>)>> = const { RefCell::new(Vec::new()) };
}

/// Upper bounds of a histogram's buckets, nanoseconds, ascending.
pub(super) type Bounds = &'static [u64];

/// The numbers of all threads.
pub(super) struct ShardedCounters {
    key: u64,
    counters: usize,
    histograms: &'static [Bounds],
    all: Mutex<All>,
}

struct All {
    /// Of threads that have ended.
    gone: Shard,
    live: Vec<Arc<Shard>>,
}

/// One thread's numbers, which it alone writes.
struct Shard {
    counts: Box<[AtomicU64]>,
    times: Box<[Times]>,
}

/// A histogram: how many samples fell into each bucket, and their sum in nanoseconds.
#[derive(Default)]
struct Times {
    counts: [AtomicU64; BUCKETS_MAX],
    nanos: [AtomicU64; BUCKETS_MAX],
}

/// Samples of one bucket: how many, and the sum of them in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Samples {
    pub(super) count: u64,
    pub(super) nanos: u64,
}

/// The numbers of all threads, summed up.
pub(super) struct Sums {
    /// By counter.
    pub(super) counts: Vec<u64>,
    /// By histogram and bucket.
    pub(super) times: Vec<[Samples; BUCKETS_MAX]>,
}

impl ShardedCounters {
    /// Numbers for so many counters and for histograms of these bounds.
    pub(super) fn new(counters: usize, histograms: &'static [Bounds]) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let gone = Shard::new(counters, histograms.len());
        Self {
            key: NEXT.fetch_add(1, Ordering::Relaxed),
            counters,
            histograms,
            all: Mutex::new(All { gone, live: Vec::new() }),
        }
    }

    /// Adds to a counter; one that there is not counts nothing.
    pub(super) fn count(&self, counter: usize, more: u64) {
        self.own(|shard| {
            if let Some(cell) = shard.counts.get(counter) {
                add(cell, more);
            }
        });
    }

    /// Adds a sample to a histogram.
    pub(super) fn time(&self, histogram: usize, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bounds = self.histograms.get(histogram).copied().unwrap_or_default();
        let bucket = bounds.iter().take_while(|&&bound| nanos > bound).count();
        self.own(|shard| {
            let times = shard.times.get(histogram);
            let cells = times.and_then(|of| of.counts.get(bucket).zip(of.nanos.get(bucket)));
            if let Some((count, sum)) = cells {
                add(count, 1);
                add(sum, nanos);
            }
        });
    }

    /// Everything so far.
    pub(super) fn sums(&self) -> Sums {
        let all = self.lock();
        let mut sums = Sums {
            counts: vec![0; self.counters],
            times: vec![Default::default(); self.histograms.len()],
        };
        let live = all.live.iter().map(|shard| &**shard);
        live.chain([&all.gone]).for_each(|shard| shard.add_to(&mut sums));
        sums
    }

    fn own(&self, see: impl FnOnce(&Shard)) {
        OWN.with_borrow_mut(|own| {
            let known = own.iter().position(|(key, _)| *key == self.key);
            let at = known.unwrap_or_else(|| {
                own.push((self.key, self.enter()));
                own.len() - 1
            });
            if let Some((_, shard)) = own.get(at) {
                see(shard);
            }
        });
    }

    /// A thread's first number. Those of threads that have ended are added up and given back.
    fn enter(&self) -> Arc<Shard> {
        let mut all = self.lock();
        let All { gone, live } = &mut *all;
        live.retain(|shard| {
            let is_used = Arc::strong_count(shard) > 1;
            if !is_used {
                gone.take_over(shard);
            }
            is_used
        });
        let shard = Arc::new(Shard::new(self.counters, self.histograms.len()));
        live.push(Arc::clone(&shard));
        shard
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    fn new(counters: usize, histograms: usize) -> Self {
        Self {
            counts: (0..counters).map(|_| AtomicU64::default()).collect(),
            times: (0..histograms).map(|_| Times::default()).collect(),
        }
    }

    /// Adds the numbers of a thread that writes no more.
    fn take_over(&self, other: &Self) {
        let cells = |shard: &Self, to: &mut dyn FnMut(usize, &AtomicU64)| {
            let times = shard.times.iter().flat_map(|of| of.counts.iter().chain(&of.nanos));
            shard.counts.iter().chain(times).enumerate().for_each(|(at, cell)| to(at, cell));
        };
        let mut values = Vec::new();
        cells(other, &mut |_, cell| values.push(cell.load(Ordering::Relaxed)));
        cells(self, &mut |at, cell| add(cell, values.get(at).copied().unwrap_or(0)));
    }

    fn add_to(&self, sums: &mut Sums) {
        for (sum, cell) in sums.counts.iter_mut().zip(&self.counts) {
            *sum = sum.wrapping_add(cell.load(Ordering::Relaxed));
        }
        for (sum, of) in sums.times.iter_mut().zip(&self.times) {
            for ((sum, count), nanos) in sum.iter_mut().zip(&of.counts).zip(&of.nanos) {
                sum.count = sum.count.wrapping_add(count.load(Ordering::Relaxed));
                sum.nanos = sum.nanos.wrapping_add(nanos.load(Ordering::Relaxed));
            }
        }
    }
}

/// No other thread writes here, so that nothing is lost between the load and the store.
fn add(cell: &AtomicU64, more: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const HISTOGRAMS: &[Bounds] = &[&[10, 20], &[5]];

    fn samples(count: u64, nanos: u64) -> Samples {
        Samples { count, nanos }
    }

    #[test]
    fn nothing_is_lost_between_threads_nor_when_they_end() {
        let tallies = ShardedCounters::new(2, HISTOGRAMS);
        for round in 1..=3_u64 {
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        for number in 0..1000 {
                            tallies.count(1, number % 3);
                            tallies.time(0, Duration::from_nanos(number % 30));
                        }
                    });
                }
            });
            let each: u64 = (0..1000).map(|number| number % 3).sum();
            let sums = tallies.sums();
            assert_eq!(sums.counts, [0, 4 * round * each]);
            let times: u64 = sums.times[0].iter().map(|of| of.count).sum();
            assert_eq!(times, 4 * round * 1000);
        }
        let live = tallies.lock().live.len();
        assert!(live <= 4, "the numbers of {live} threads are kept, though at most 4 ran at once");
    }

    #[test]
    fn a_sample_falls_below_the_first_bound_that_it_does_not_exceed() {
        let tallies = ShardedCounters::new(0, HISTOGRAMS);
        for nanos in [0, 10, 11, 20, 21, 1000] {
            tallies.time(0, Duration::from_nanos(nanos));
        }
        tallies.time(1, Duration::MAX);
        let sums = tallies.sums();
        assert_eq!(sums.times[0][..3], [samples(2, 10), samples(2, 31), samples(2, 1021)]);
        assert_eq!(sums.times[1][..2], [samples(0, 0), samples(1, u64::MAX)]);
    }

    #[test]
    fn two_of_them_on_one_thread_are_kept_apart() {
        let (first, second) = (ShardedCounters::new(1, &[]), ShardedCounters::new(1, &[]));
        first.count(0, 3);
        second.count(0, 5);
        first.count(0, 1);
        first.count(7, 1);
        assert_eq!((first.sums().counts, second.sums().counts), (vec![4], vec![5]));
    }
}
