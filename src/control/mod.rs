//! CONTROL PLANE: may block, allocate, read files; the data plane never calls it.

pub mod addresses;
pub mod admin;
pub mod capture;
pub mod compile;
pub mod config;
pub mod data;
pub mod doctor;
pub mod explain;
pub mod host_pattern;
pub mod load;
pub mod loss;
pub mod notify;
pub mod progress;
pub mod reload;
mod side_by_side;
pub mod spelling;
pub mod trust_roots;
pub mod update;
pub mod watch;
