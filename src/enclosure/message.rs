//! What the process outside and process 1 inside say to each other.

use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// From inside.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromInside {
    /// The way out is made; its sockets are in the same packet: TCP, names over UDP, names over TCP, and
    /// QUIC where there is one.
    Ready { has_quic: bool },
    /// A step failed, with this error number; `is_first`: there are no namespaces at all.
    Fault { step: String, code: i32, is_first: bool },
    /// The command has ended: by itself with a status, or by a signal; and what found no way out.
    Ended { exited: bool, number: i32, udp: u64, others: u64 },
}

/// To the inside.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToInside {
    /// Start the command. It is to have these signals, which came before it was there.
    Go { early: Vec<i32> },
    /// Pass this signal on to it.
    Signal(i32),
}

pub(super) fn written(message: &impl Serialize) -> Vec<u8> {
    // Of numbers and texts alone: nothing in it cannot be written.
    serde_json::to_vec(message).unwrap_or_default()
}

pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    serde_json::from_slice(bytes).map_err(io::Error::from)
}
