//! How far long work is, on stderr: a bar on a terminal, plain lines elsewhere. Answers go to stdout,
//! so that nothing of this is ever among them.

use std::cell::RefCell;
use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::control::progress::Progress;

/// Draws a second so often at most.
const DRAWS_A_SECOND: u8 = 10;

/// Work whose bytes are counted, and work of which only the time is known.
const COUNTED: &str = "{spinner} {msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
const TIMED: &str = "{spinner} {msg} {prefix} {elapsed}";

/// What stderr can show.
#[derive(Debug)]
pub(super) enum Shown {
    /// A terminal.
    Bar(RefCell<Option<ProgressBar>>),
    /// A file, a pipe, a journal.
    Lines,
}

impl Shown {
    /// By what stderr is.
    pub(super) fn on_stderr() -> Self {
        if io::stderr().is_terminal() { Self::Bar(RefCell::default()) } else { Self::Lines }
    }
}

impl Progress for Shown {
    fn begin(&self, what: &str, total: Option<u64>) {
        let Self::Bar(shown) = self else {
            let length = total.map_or_else(String::new, |total| format!(", {}", HumanBytes(total)));
            eprintln!("schengate: {what}{length}");
            return;
        };
        let target = ProgressDrawTarget::stderr_with_hz(DRAWS_A_SECOND);
        let bar = ProgressBar::with_draw_target(total, target);
        let style = ProgressStyle::with_template(if total.is_some() { COUNTED } else { TIMED });
        // The templates above are sound, else the bar looks as it does without one.
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(what.to_owned());
        // Time goes on where no byte does.
        bar.enable_steady_tick(Duration::from_millis(100));
        if let Some(before) = shown.replace(Some(bar)) {
            before.finish_and_clear();
        }
    }

    fn advance(&self, bytes: u64) {
        if let Self::Bar(shown) = self
            && let Some(bar) = &*shown.borrow()
        {
            bar.inc(bytes);
            if bar.length().is_none() {
                bar.set_prefix(HumanBytes(bar.position()).to_string());
            }
        }
    }

    fn end(&self) {
        if let Self::Bar(shown) = self
            && let Some(bar) = shown.take()
        {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_sound() {
        for template in [COUNTED, TIMED] {
            ProgressStyle::with_template(template).unwrap();
        }
    }
}
