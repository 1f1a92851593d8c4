//! schengate: a data-residency-aware egress gateway for Linux.
//!
//! ```text
//!  control    config ─ data ─ compile ─ reload            admin (/metrics /healthz /readyz)
//!                               │ one swap                        ▲
//!  policy                    snapshot: tables, rules              │ counters
//!                               │ one load a connection           │
//!  flow       accept ─ origin ─ peek ─ identify ─ decide ─ forward │ refuse ─ account
//!                               │ names
//!  egress                    the one way out, and what the gateway asks of its own
//! ```
//! `flow` (data plane) and `control` never use each other; both use `policy`, `account` and `egress`.
//! `service` starts and supervises both; `cli` has its arguments.
//! `identify` and `policy` are pure: bytes and facts in, a value out.

pub mod account;
pub mod broker;
pub mod cli;
pub mod control;
pub mod egress;
pub mod enclosure;
pub mod evidence;
pub mod flow;
pub mod identify;
pub mod inspect;
mod ip;
pub mod lane;
mod net;
pub mod policy;
pub mod report;
pub mod service;
pub mod settings;
pub mod sys;
