//! What runs now, at a terminal: `top`, `connections`, `tail` and `why`, by the API of the admin
//! listener. Plain text where it is read by no terminal; nothing that a client named is a command to
//! one.

mod api;
mod connections;
mod shown;
mod tail;
mod top;
mod why;

use std::io::{self, Write};

pub(super) use self::connections::Connections;
pub(super) use self::tail::Tail;
pub(super) use self::top::Top;
pub(super) use self::why::Why;
use super::common::Exit;

/// Exit status: 0 printed, 2 the gateway does not answer.
pub(super) fn top(arguments: &Top, out: &mut impl Write) -> io::Result<Exit> {
    top::run(arguments, out)
}

/// Exit status: 0 printed, or the connection is ended; 1 there is no such connection; 2 no answer.
pub(super) fn connections(arguments: &Connections, out: &mut impl Write) -> io::Result<Exit> {
    connections::run(arguments, out)
}

/// Exit status: 0 as much was printed as was asked for, 2 the gateway does not answer.
pub(super) fn tail(arguments: &Tail, out: &mut impl Write) -> io::Result<Exit> {
    tail::run(arguments, out)
}

/// Exit status: 0 it is known and would be let go today, 1 it is known and would be refused, 2 it is
/// not known, or the gateway does not answer.
pub(super) fn why(arguments: &Why, out: &mut impl Write) -> io::Result<Exit> {
    why::run(arguments, out)
}
