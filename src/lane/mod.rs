//! The normaliser of the fast lane: packets in, what becomes of them out. Pure: no I/O, no clock, no
//! heap on the path.
//!
//! In the fast lane the kernel carries a connection that this process has judged, and the client's own
//! packets reach the server. So what is judged has to be what the server reads, whatever its client
//! sends and whatever of it arrives: for every number of the stream there is one byte that is ever let
//! go, the first that came; it counts from the number that the *server* has acknowledged; and what could
//! make a receiver read it in another way (urgent data, options, data beside a SYN) is cut out. A
//! [`Flow`] holds a client's packets until its hello is whole and judged, compares what is sent again
//! with that until the server has answered, and reads a second hello where the server asks for one.
//!
//! `flow` calls it: packets come from the kernel's queue there, and the verdicts go back. Captures are
//! read by `inspect`, which puts a stream together as some receiver did, and has no say in what that
//! one gets.
//!
//! Whoever calls it
//! * hands [`Flow::from_client`] every packet with a SYN, a FIN, an RST or a payload of the client, and
//!   [`Flow::from_server`] every packet with a SYN, an RST or a payload of the server, told apart by the
//!   interface at which they came in, until [`Event::Carried`], and those with a SYN behind it as well;
//! * keeps a flow by its two ends, whatever conntrack calls a connection, for ten seconds behind
//!   [`Event::Closed`] or a refusal: it knows late packets by that;
//! * measures how long a flow waits, and tells [`Flow::waited`];
//! * sends what [`Disposition::PassCut`] and [`Disposition::HoldCut`] ask for.
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod answer;
mod flow;
mod options;
pub mod packet;
mod room;
mod segment;
mod step;

pub use answer::HELLO_RETRY_REQUEST;
pub use flow::{ANSWER_TIME, Flow, HELD_TIME, REACH};
pub use options::Options;
pub use room::{HELD_MAX, LARGE, Pool, SMALL};
pub use segment::Segment;
pub use step::{Cause, Disposition, Event, Held, Judgement, Outcome, Step};
