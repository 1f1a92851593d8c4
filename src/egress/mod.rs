//! The one way out: whatever leaves the gateway is dialled in `dial`, and the one resolver stands
//! behind the binding of names, explicit requests, the gateway as a name server and `data update`.

mod allowance;
pub(crate) mod connect;
pub(crate) mod dial;
mod exchange;
mod host;
pub(crate) mod name_binding;
pub(crate) mod permitted;
mod question;
mod resolver;
mod servers;
#[cfg(test)]
mod tls;

pub(crate) use allowance::parent;
pub use allowance::{Allowance, NamesLimit, OverLimit};
pub(crate) use exchange::framed;
pub use host::host_name_servers;
pub(crate) use question::{Question, UDP_MAX};
pub use resolver::Resolver;
pub(crate) use resolver::{Addresses, Family, NoAddresses, localhost};
pub(crate) use servers::ANSWER_TIMEOUT;
