//! What the gateway would read in recorded traffic: captures and raw first flights in, one
//! [`Flow`] per connection out. For `schengate inspect`; the data plane uses `identify` alone.
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod capture;
mod flow;
mod fragments;
mod packet;
mod raw;
mod stream;
mod track;
mod unread;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

pub use flow::{Flow, Upgraded, ascii_json};
pub use unread::Unread;

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A capture, pcap or pcapng, told by its first bytes.
    Auto,
    /// The bytes that one client sent over TCP.
    Stream,
    /// The UDP payloads that one client sent, each behind its length in two bytes, big-endian.
    Datagrams,
}

/// Why a file could not be read to its end, or not in all its parts. The flows that were found have
/// been given out.
#[derive(Debug, thiserror::Error)]
pub enum InspectFault {
    /// It could not be opened or read.
    #[error("cannot read {file}")]
    Read {
        /// The file.
        file: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Neither pcap nor pcapng.
    #[error(
        "{file} is neither pcap nor pcapng; for a raw first flight say --stream (one TCP stream) \
         or --datagrams (UDP payloads, each behind its length in two bytes)"
    )]
    NotACapture {
        /// The file.
        file: String,
    },
    /// The capture ends or makes no sense at an offset.
    #[error("{file} is broken at byte {offset}: {what}")]
    Broken {
        /// The file.
        file: String,
        /// Offset in the file, near which it is broken.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The file was read, and some of what it holds is in no flow.
    #[error("{file}: not read: {kinds}")]
    NotRead {
        /// The file.
        file: String,
        /// What, and how many of each.
        kinds: Kinds,
    },
}

/// How many there are of each kind that was not read; not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kinds(pub Vec<(Unread, u64)>);

impl fmt::Display for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (kind, count)) in self.0.iter().enumerate() {
            write!(f, "{}{kind} ({count})", if at == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

/// Everything that speaks against taking the flows of a file for all that it holds; not empty.
#[derive(Debug)]
pub struct InspectFaults(pub Vec<InspectFault>);

impl fmt::Display for InspectFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, fault) in self.0.iter().enumerate() {
            write!(f, "{}{fault}", if at == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for InspectFaults {}

impl From<InspectFault> for InspectFaults {
    fn from(fault: InspectFault) -> Self {
        Self(vec![fault])
    }
}

/// Reads a file and gives each flow to `each`, as soon as it is known or the file ends. Memory is
/// bounded whatever the size of the file.
///
/// # Errors
/// Each [`InspectFault`], after the flows that could be read.
pub fn inspect_file(
    path: &Path,
    form: Form,
    mut each: impl FnMut(Flow),
) -> Result<(), InspectFaults> {
    let name = path.display().to_string();
    let source = |source| InspectFault::Read { file: name.clone(), source };
    let mut file = File::open(path).map_err(source)?;
    match form {
        Form::Auto => capture::inspect(&name, file, &mut each),
        Form::Stream => {
            let mut bytes = Vec::new();
            file.by_ref().take(stream::SEEN_MAX as u64).read_to_end(&mut bytes).map_err(source)?;
            each(Flow::of_stream(&name, &bytes));
            Ok(())
        }
        Form::Datagrams => Ok(raw::inspect_datagrams(&name, file, &mut each)?),
    }
}
