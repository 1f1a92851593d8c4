//! CONTROL PLANE: may block, allocate, read files; the data plane never calls it.

pub mod capture;
pub mod config;
pub mod data;
