//! What needs no laboratory: the library and the built program, asked on this machine alone. One
//! program, so that what is shared is compiled once; each module is a test subject of its own.
//!
//! A test that measures its own process, or changes what all of a process shares (environment, working
//! directory, limits), is a program of its own beside this one.

#[allow(clippy::duplicate_mod, reason = "the fuzz targets have it too, as a crate of their own")]
#[path = "../flights/mod.rs"]
mod flights;
#[path = "../support/gateway.rs"]
mod gateway;
#[path = "../support/lane.rs"]
mod lane_drive;
#[path = "../support/mmdb.rs"]
mod mmdb;
#[path = "../support/packets.rs"]
mod packets;
#[path = "../support/schema.rs"]
mod schema;
#[path = "../support/mod.rs"]
mod support;

mod address_blocks;
mod api;
mod bad_data;
mod config;
mod config_names;
mod confine;
mod corpus;
mod data;
mod data_page;
mod decide_name;
mod distance;
mod doctor;
mod export;
mod fuzz_corpus;
mod identify;
mod inspect;
mod lane;
mod lane_models;
mod malformed;
mod operations;
mod packaging;
mod page;
mod policy_page;
mod presets;
mod register;
mod reload;
mod report;
mod rsyslog;
mod scenarios;
mod services;
mod systemd;
mod tables;
mod trust;
mod voices;
mod widening;
