//! What the gateway would read in recorded traffic: captures and raw first flights in, one
//! [`Flow`] per connection out. For `schengate inspect`; the data plane uses `identify` alone.
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod capture;
mod flow;
mod packet;
mod raw;
mod stream;
mod track;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

pub use flow::{Flow, Upgraded, ascii_json};

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

/// Why a file could not be read to its end. The flows that were found before it have been given
/// out.
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
    /// Packets of a link type that is not read; those of other interfaces were.
    #[error(
        "{file}: link type {link_type} is not read (Ethernet, Linux cooked 1 and 2, raw IP, PPP, \
         BSD loopback are); capture on another interface"
    )]
    LinkType {
        /// The file.
        file: String,
        /// Number of the link type (the tcpdump.org registry).
        link_type: i32,
    },
}

/// Reads a file and gives each flow to `each`, as soon as it is known or the file ends. Memory is
/// bounded whatever the size of the file.
///
/// # Errors
/// An [`InspectFault`], after the flows that could be read.
pub fn inspect_file(
    path: &Path,
    form: Form,
    mut each: impl FnMut(Flow),
) -> Result<(), InspectFault> {
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
        Form::Datagrams => raw::inspect_datagrams(&name, file, &mut each),
    }
}
