//! What both ends of a refused connection are sent.

use std::net::SocketAddr;

use super::super::segment::{Fields, Flags, Segment};
use super::Flow;
use crate::identify::tls::ACCESS_DENIED;

impl Flow {
    /// The segment that tells a refused client so: a fatal alert and the end, as if from its server.
    #[must_use]
    pub fn alert(&self, client: SocketAddr, server: SocketAddr) -> Segment {
        let timestamps = self.timestamps.map(|[value, echo]| [echo, value]);
        let fields = Fields {
            sequence: self.acknowledged,
            acknowledged: Some(self.next()),
            flags: Flags::End,
            timestamps,
        };
        Segment::new(server, client, fields, &ACCESS_DENIED)
    }

    /// The segment that breaks a refused connection off towards the client.
    #[must_use]
    pub fn reset_client(&self, client: SocketAddr, server: SocketAddr) -> Segment {
        let [since, _] = self.since;
        let fields = Fields {
            sequence: since.unwrap_or(self.acknowledged),
            acknowledged: Some(self.next()),
            flags: Flags::Reset,
            timestamps: None,
        };
        Segment::new(server, client, fields, &[])
    }

    /// The segment that breaks a refused connection off towards the server: at the number that it
    /// waits for, since it takes none at another (RFC 5961 §3.2).
    #[must_use]
    pub fn reset_server(&self, client: SocketAddr, server: SocketAddr) -> Segment {
        let [_, since] = self.since;
        let fields = Fields {
            sequence: since.unwrap_or_else(|| self.number(self.passed)),
            acknowledged: Some(self.acknowledged),
            flags: Flags::Reset,
            timestamps: None,
        };
        Segment::new(client, server, fields, &[])
    }
}
