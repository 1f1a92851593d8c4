//! What becomes of packets, and what they and a judgement say of their flow.

use super::packet::Packet;
use crate::identify::{Identity, Protocol};

/// What becomes of one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// It goes on as it is.
    Pass,
    /// A [copy](Packet::cut_into) goes in its place.
    PassCut,
    /// It waits for [`Flow::judged`](super::Flow::judged), and goes or not as that says.
    Hold,
    /// It waits, and a copy goes in its place.
    HoldCut,
    /// It goes nowhere.
    Drop,
}

/// What a packet says of its flow, beside what becomes of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The server has taken the connection. Whatever was held or known of one between the same ends
    /// belongs to another connection, which is over.
    Opened,
    /// The bytes of a hello may be whole: to be read by [`Flow::identify`](super::Flow::identify), and told [`Flow::judged`](super::Flow::judged).
    FirstFlight,
    /// Nothing that is held or comes can change what was judged: the kernel carries the flow on.
    Carried,
    /// The server asks for a second hello (RFC 8446 §4.1.4), which is judged as the first was.
    Retry,
    /// The flow cannot be read to its end. What is held stays until [`Flow::judged`](super::Flow::judged) is told what the
    /// policy says of such flows.
    GiveUp(Cause),
    /// One side has broken the connection off. What is held is dropped.
    Closed,
    /// The client of a refused flow repeats itself: it is to be sent [`Flow::alert`](super::Flow::alert) again.
    RepeatAlert,
    /// The client of a refused flow ends: it is to be sent [`Flow::reset_client`](super::Flow::reset_client).
    ResetClient,
    /// The server of a refused flow is still there: it is to be sent [`Flow::reset_server`](super::Flow::reset_server) again.
    ResetServer,
}

/// Why a flow cannot be read to its end: a closed set, so that each is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// A first flight of more than [`LARGE`](super::LARGE) bytes.
    TooLarge,
    /// One in more packets than are held.
    TooManyPackets,
    /// It was not whole in [`HELD_TIME`](super::HELD_TIME).
    Deadline,
    /// The client ended before it was whole.
    Ended,
    /// Behind a hello, before the server's answer, stands what no client sends there: another
    /// handshake message, or a record of a type that is none.
    BehindHello,
    /// The server speaks first.
    ServerFirst,
    /// It did not answer in [`ANSWER_TIME`](super::ANSWER_TIME).
    Unanswered,
    /// No room is left for what has to be kept.
    NoRoom,
}

impl Cause {
    /// A short name for metrics and records; never renamed.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::TooLarge => "too-large",
            Self::TooManyPackets => "too-many-packets",
            Self::Deadline => "deadline",
            Self::Ended => "ended",
            Self::BehindHello => "behind-hello",
            Self::ServerFirst => "server-first",
            Self::Unanswered => "unanswered",
            Self::NoRoom => "no-room",
        }
    }

    /// Whether the client broke the rules of its protocol, so that the flow is judged as `malformed`;
    /// else it is one that was not read.
    #[must_use]
    pub const fn is_malformed(self) -> bool {
        match self {
            Self::TooLarge | Self::TooManyPackets | Self::Ended | Self::BehindHello => true,
            Self::Deadline | Self::ServerFirst | Self::Unanswered | Self::NoRoom => false,
        }
    }
}

/// What becomes of a packet, and what it says of its flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Step {
    /// Of the packet.
    pub packet: Disposition,
    /// Of the flow; where there is one, it counts behind what becomes of the packet.
    pub event: Option<Event>,
}

impl Step {
    pub(super) const DROP: Self = Self { packet: Disposition::Drop, event: None };

    pub(super) const fn and(packet: Disposition, event: Event) -> Self {
        Self { packet, event: Some(event) }
    }

    /// Lets a packet go, or the copy that goes in its place.
    pub(super) fn pass(packet: &Packet<'_>) -> Self {
        let cut = packet.needs_cut();
        Self { packet: if cut { Disposition::PassCut } else { Disposition::Pass }, event: None }
    }

    pub(super) fn hold(packet: &Packet<'_>) -> Self {
        let cut = packet.needs_cut();
        Self { packet: if cut { Disposition::HoldCut } else { Disposition::Hold }, event: None }
    }
}

/// What was found about a first flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// It may go to where it was going.
    Permitted,
    /// It may not.
    Refused,
    /// More has to be seen.
    NeedMore,
}

/// What becomes of the packets that are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// They wait on.
    Keep,
    /// They go nowhere.
    Drop,
    /// Those of which the bit is set go on, in the order in which they came, the first by the lowest
    /// bit; the others are dropped, and their client sends them again.
    Release(u64),
}

/// What follows from a judgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Outcome {
    /// Of the packets that are held.
    pub held: Held,
    /// Of the flow; it counts behind what becomes of the packets.
    pub event: Option<Event>,
}

/// What stands behind a hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Records {
    /// What a client may send before it is answered, and no server takes for a hello: early data, a
    /// ChangeCipherSpec, alerts.
    Harmless,
    /// The hello that the server has asked for.
    Hello,
    /// Another handshake message, or no TLS.
    Other,
}

/// A whole hello: what follows it is followed until the server answers.
pub(super) fn is_hello(identity: &Identity<'_>) -> bool {
    // A hello with a name that is none is whole, and has a version.
    identity.protocol == Protocol::Tls && (identity.fault.is_none() || identity.tls_version != 0)
}
