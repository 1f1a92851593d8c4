//! What the gateway sends of its own, for its clients: questions about names. Used by `flow`.

mod allowance;

pub(crate) use allowance::parent;
pub use allowance::{Allowance, NamesLimit, OverLimit};
