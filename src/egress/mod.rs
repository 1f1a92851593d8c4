//! What the gateway asks of its own, for its clients: questions about names, and how many each client
//! may have asked. The one resolver stands behind the binding of names, explicit requests and the
//! gateway as a name server.

mod allowance;
mod exchange;
mod host;
mod question;
mod resolver;
mod servers;
#[cfg(test)]
mod tls;

pub(crate) use allowance::parent;
pub use allowance::{Allowance, NamesLimit, OverLimit};
pub(crate) use exchange::framed;
pub(crate) use question::{Question, UDP_MAX};
pub use resolver::Resolver;
pub(crate) use resolver::{Addresses, Family, NoAddresses, localhost};
pub(crate) use servers::PATIENCE;
