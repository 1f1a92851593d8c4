//! CONTROL PLANE: may block, allocate, read files; the data plane never calls it.

pub mod admin;
pub mod config;
pub mod data;
pub mod notify;
