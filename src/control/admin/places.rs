//! Room for those who ask. Where all of it is taken, the newcomer comes in all the same, and who has
//! waited longest with nothing asked goes: somebody who opens connections and says nothing, says it byte
//! by byte, or does not read what is answered, cannot keep monitoring out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// So many places.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    held: HashMap<u64, Held>,
    /// The number of what happened last: an order, and no clock.
    last: u64,
}

#[derive(Debug)]
struct Held {
    doing: Doing,
    /// The number of when it began to do that.
    since: u64,
    cut: Arc<Notify>,
}

/// What a connection does, those first that go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Doing {
    /// Nothing is asked: the request is not whole, or its answer was made and waits to be read.
    Nothing,
    /// A whole request is being answered.
    Asking,
    /// It looks on. There are fewer of these than places, so that none of them goes.
    Streaming,
}

/// A place, given back on drop.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    /// Told when the connection has to end.
    pub(super) cut: Arc<Notify>,
}

/// As long as it is there, its connection is not one of those with nothing asked.
#[derive(Debug)]
pub(super) struct Asking {
    places: Arc<Places>,
    number: u64,
}

impl Places {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::default() })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a newcomer, and whether somebody else had to go for it. `None` where everybody
    /// streams.
    pub(super) fn take(self: &Arc<Self>) -> Option<(Place, bool)> {
        let mut taken = self.taken();
        let is_full = taken.held.len() >= self.most;
        if is_full {
            let goes = |held: &Held| held.doing != Doing::Streaming;
            let first = taken.held.iter().filter(|(_, held)| goes(held));
            let first = first.min_by_key(|(_, held)| (held.doing, held.since))?;
            let number = *first.0;
            if let Some(held) = taken.held.remove(&number) {
                held.cut.notify_one();
            }
        }
        taken.last += 1;
        let (number, cut) = (taken.last, Arc::new(Notify::new()));
        let held = Held { doing: Doing::Nothing, since: number, cut: Arc::clone(&cut) };
        taken.held.insert(number, held);
        drop(taken);
        Some((Place { places: Arc::clone(self), number, cut }, is_full))
    }

    fn turns(&self, number: u64, doing: Doing) {
        let mut taken = self.taken();
        taken.last += 1;
        let since = taken.last;
        // One that had to go is not there any more.
        if let Some(held) = taken.held.get_mut(&number) {
            (held.doing, held.since) = (doing, since);
        }
    }
}

impl Place {
    /// A whole request is there, and is answered until what is returned is dropped.
    pub(super) fn asks(&self) -> Asking {
        self.places.turns(self.number, Doing::Asking);
        Asking { places: Arc::clone(&self.places), number: self.number }
    }
}

impl Asking {
    /// The answer is a stream.
    pub(super) fn streams(&self) {
        self.places.turns(self.number, Doing::Streaming);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken().held.remove(&self.number);
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.places.turns(self.number, Doing::Nothing);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use proptest::prelude::*;

    use super::*;

    fn is_cut(place: &Place) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let notified = pin!(place.cut.notified());
        let is_cut = notified.poll(&mut context) == Poll::Ready(());
        if is_cut {
            place.cut.notify_one();
        }
        is_cut
    }

    #[test]
    fn who_has_waited_longest_with_nothing_asked_goes_for_the_newcomer() {
        let places = Places::new(3);
        let take = || places.take().unwrap();
        let [(first, _), (second, _), (third, _)] = [take(), take(), take()];
        // The first was asked something and has its answer: it waits since then.
        drop(first.asks());
        let asking = third.asks();
        let (fourth, cost) = take();
        assert!(cost && is_cut(&second));
        assert!(![&first, &third, &fourth].into_iter().any(is_cut));
        drop(second);
        let (fifth, _) = take();
        assert!(is_cut(&first) && !is_cut(&fourth));
        asking.streams();
        let asking = [fourth.asks(), fifth.asks()];
        // Nobody waits: of those who are answered the first goes, and no stream.
        let (sixth, _) = take();
        assert!(is_cut(&fourth) && ![&third, &fifth, &sixth].into_iter().any(is_cut));
        drop(asking);
        assert!(!is_cut(&sixth), "what one that has to go does later changes nothing");
    }

    #[test]
    fn where_everybody_streams_there_is_no_place() {
        let places = Places::new(2);
        let all: Vec<_> = (0..2).filter_map(|_| places.take()).collect();
        let asking: Vec<_> = all.iter().map(|(place, _)| place.asks()).collect();
        asking.iter().for_each(Asking::streams);
        assert!(places.take().is_none());
        drop((asking, all));
        assert!(places.take().is_some_and(|(_, cost)| !cost), "places come back");
    }

    proptest! {
        /// Whatever those inside do, the places are never more than there are, nobody goes while there
        /// is room, and the newcomer is never the one that goes.
        #[test]
        fn there_are_never_more_inside_than_places(acts in prop::collection::vec((0..4_u8, 0..8_usize), 0..200)) {
            let places = Places::new(4);
            let (mut inside, mut asking) = (Vec::new(), Vec::new());
            for (act, which) in acts {
                match act {
                    0 | 1 => {
                        let before = places.taken().held.len();
                        let (place, cost) = places.take().unwrap();
                        prop_assert_eq!(cost, before == 4);
                        prop_assert!(!is_cut(&place));
                        inside.push(place);
                    }
                    2 => asking.extend(inside.get(which).map(Place::asks)),
                    _ if which < inside.len() => drop(inside.remove(which)),
                    _ => asking.clear(),
                }
                let uncut = inside.iter().filter(|place| !is_cut(place)).count();
                prop_assert_eq!(places.taken().held.len(), uncut);
                prop_assert!(uncut <= 4);
            }
        }
    }
}
