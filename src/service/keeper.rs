//! What the keeper of the capture says, as another process hands it over: its file is replaced as it is
//! written, in a folder that comes and goes with the keeper.

use std::time::Instant;

use crate::broker::Feed;
use crate::control::capture::{StateListener, Word};

/// Hears the keeper.
#[derive(Debug)]
pub(super) struct Keeper {
    feed: Feed,
    /// The text of the file, where it is there.
    text: Option<Vec<u8>>,
    was_heard: bool,
    listener: StateListener,
}

impl Keeper {
    pub(super) fn new(feed: Feed) -> Self {
        Self { feed, text: None, was_heard: false, listener: StateListener::default() }
    }

    /// What is said now. Waits the first time alone.
    pub(super) fn hear(&mut self, now: Instant) -> Word {
        let is_first = !std::mem::replace(&mut self.was_heard, true);
        match if is_first { self.feed.first() } else { self.feed.news() } {
            Ok(news) => {
                if let Some((_, text)) = news.into_iter().next_back() {
                    self.text = text.ok();
                }
            }
            // Who cannot be heard any more is silent, and the supervisor says so.
            Err(_) => self.text = None,
        }
        self.listener.said(self.text.as_deref(), now)
    }
}
