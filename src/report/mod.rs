//! What people read of the record. Pure: rows and records in, texts out.

pub mod world;
