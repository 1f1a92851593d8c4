//! DATA PLANE: what becomes of a connection or datagram, from accept to the end of its record.
//!
//! `serve` is the walk of a TLS connection: `ARCHITECTURE.md` has it file by file, and `FLOW_ROOMS` of
//! `tests/architecture.rs` says which file may use which.
//!
//! # What a connection costs
//!
//! System calls of a connection that is permitted by its name: a hello of 517 bytes, an answer of
//! 100, closed by the server; eight at a time (`strace -c -f`, 1,000 connections):
//!
//! | calls | with sockets of tokio, and a wake-up for each line of the record | as it is |
//! |---|---|---|
//! | `epoll_wait`, `accept4` | 1.3, 1.6 | 1.3, 1.4 |
//! | `epoll_ctl` | 4.0 | 2.0 |
//! | `recvmsg`, `sendto` | 4.0, 2.0 | 4.0, 2.0 |
//! | `socket`, `connect`, `getsockname`, `shutdown` | 1.0 each | 1.0 each |
//! | `getsockopt`, `setsockopt` | 1.0, 2.0 | 0, 3.0 |
//! | `close` | 2.0 | 2.0 |
//! | `futex`, `write`: the record | 4.2, 2.6 | 0.1, 0.1 |
//! | all | 28.7 | 19.8 |
//!
//! Outside the kernel it takes some 28,300 instructions (`dist` profile, 1,300 connections,
//! `valgrind --tool=callgrind`), 4,100 of them for the two lines of its record. It took 58,500 while
//! those were made by a serializer and counters were shared, and 36,600 before what many connections
//! have in common was kept in words, and a connection was one task instead of two. mimalloc was tried
//! for the tenth that the allocator takes: it held 209 MB where glibc holds 65.
//!
//! While it is held and silent it takes a task of 640 bytes and some 600 beside it, in eight pieces:
//! what was asked and judged, the name, the counters, the place in the registry and in the reactor.
//!
//! A round trip of 64 B is two reads and two writes, and 2,400 instructions around them: what HAProxy
//! 2.6 and nginx call as well, so that all three cost the same within the noise.
//!
//! Packets that the gateway sends for it: 6.0, where HAProxy 2.6 sends 9.8 and a relay that reads and
//! judges nothing 10.0 (`/proc/net/dev`).

mod accept;
mod admit;
mod along;
mod authority;
mod dns;
mod drain;
mod evaluate;
mod first_flight;
mod forward;
mod hello_retry;
mod http;
mod lane;
mod listener;
mod origin;
mod overload;
mod proxy;
mod refuse;
mod registry;
mod rejudge;
mod relay;
mod resolve;
mod serve;
mod session;
mod settings;
mod slots;
mod starttls;
#[cfg(test)]
mod tests;
mod udp;
mod worker;

pub use drain::{Connections, DataPlane};
pub use settings::{Listener, NameService, Settings};
