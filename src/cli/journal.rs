//! Levels that the journal understands.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// An event format with, where stderr goes to the journal, its level in front (sd-daemon(3)), so that
/// `journalctl -p warning` finds warnings.
#[derive(Debug)]
pub(super) struct Leveled<F> {
    inner: F,
    in_front: bool,
}

impl<F> Leveled<F> {
    /// For what is written to stderr.
    pub(super) fn on_stderr(inner: F) -> Self {
        let stream = std::env::var("JOURNAL_STREAM").ok();
        Self { inner, in_front: stream.is_some_and(|stream| is_stderr(&stream).unwrap_or(false)) }
    }
}

/// Whether stderr is the stream that systemd connected to the journal: `DEVICE:INODE`. A process that
/// was started by a service and writes elsewhere has the variable as well (systemd.exec(5)).
fn is_stderr(stream: &str) -> io::Result<bool> {
    let about = File::from(io::stderr().as_fd().try_clone_to_owned()?).metadata()?;
    Ok(stream == format!("{}:{}", about.dev(), about.ino()))
}

impl<S, N, F> FormatEvent<S, N> for Leveled<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.in_front {
            writer.write_str(match *event.metadata().level() {
                Level::ERROR => "<3>",
                Level::WARN => "<4>",
                Level::INFO => "<6>",
                Level::DEBUG | Level::TRACE => "<7>",
            })?;
        }
        self.inner.format_event(context, writer, event)
    }
}
