//! Reads along what a permitted client sends first, where no name could change the verdict: for the
//! record, and for the policies that come later. The bytes go on as they come.

use std::time::Duration;

use tokio::time::Instant;

use super::first_flight::FirstFlight;
use crate::account::{Bytes, End};
use crate::identify::{Identity, Missing, Progress, Step, identify_further};
use crate::net::socket::TcpSocket;

/// Passes on `first`, which was not sent yet, and the client's next bytes, until they say who the
/// connection is for, or that it cannot be known, for no longer than `time` from the first one. `learn`
/// is told that, with all of them, and says whether the connection goes on. What this yields was not
/// sent.
///
/// # Errors
/// The end, where a side broke off, or the connection goes no further.
pub(super) async fn read(
    client: &TcpSocket,
    upstream: &TcpSocket,
    first: Vec<u8>,
    bytes: &Bytes,
    time: Duration,
    learn: impl FnOnce(&Identity<'_>, &[u8]) -> bool,
) -> Result<Vec<u8>, End> {
    let (mut seen, mut progress) = (FirstFlight::with(first), Progress::default());
    let mut sent = 0;
    let mut wanted = Missing::UntilLength(1);
    let mut until = None;
    loop {
        if seen.bytes().len() == sent {
            // A client that stays silent is ended by the relay.
            seen.more(client, None).await.map_err(|_| End::ClientReset)?;
        }
        let new = seen.bytes().get(sent..).unwrap_or_default();
        if seen.bytes().is_empty() {
            return Ok(Vec::new());
        }
        let until = *until.get_or_insert_with(|| Instant::now() + time);
        let ended = seen.ended().is_some() || Instant::now() >= until;
        if ended || wanted.has_come(seen.bytes(), sent) {
            match identify_further(seen.bytes(), ended, &mut progress) {
                Step::Done(identity) => {
                    let rest = new.to_vec();
                    return if learn(&identity, seen.bytes()) {
                        Ok(rest)
                    } else {
                        Err(End::Refused)
                    };
                }
                Step::NeedMore(missing) => wanted = missing,
            }
        }
        upstream.write_all(new).await.map_err(|_| End::UpstreamReset)?;
        bytes.up(new.len());
        sent = seen.bytes().len();
        client.idle_timer().touch();
    }
}
