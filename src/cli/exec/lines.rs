//! Takes the lines of the record as they are written, and adds them up.

use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use super::summary::{Final, Summary};

/// How every line of the record begins.
const BEGINS: &[u8] = b"{\"event\":";

/// What was added up so far, shared with the sink.
#[derive(Debug, Default)]
pub(super) struct Lines(Arc<Mutex<Summary>>);

/// The end of the record: adds up what is in it, and passes it on where it is to be kept.
#[derive(Debug)]
pub(super) struct Sink {
    summary: Arc<Mutex<Summary>>,
    file: Option<File>,
    /// The beginning of a line that has not ended.
    rest: Vec<u8>,
}

impl Lines {
    pub(super) fn sink(&self, file: Option<File>) -> Sink {
        Sink { summary: Arc::clone(&self.0), file, rest: Vec::new() }
    }

    /// What there is by now.
    pub(super) fn summary(&self) -> Summary {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.rest.extend_from_slice(bytes);
        let Some(end) = self.rest.iter().rposition(|&byte| byte == b'\n') else {
            return Ok(bytes.len());
        };
        let mut summary = self.summary.lock().unwrap_or_else(PoisonError::into_inner);
        let whole: Vec<u8> = self.rest.drain(..=end).collect();
        for line in whole.split(|&byte| byte == b'\n').filter(|line| line.starts_with(BEGINS)) {
            // Others are of the gateway itself, or of what is yet to end.
            if let Ok(last) = serde_json::from_slice::<Final>(line) {
                summary.add(last);
            }
        }
        if let Some(file) = &mut self.file {
            // What was added up is not lost with it.
            if let Err(fault) = file.write_all(&whole) {
                summary.record_fault.get_or_insert_with(|| fault.to_string());
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
