//! Why rules could not be made, set or taken back.

use std::io;
use std::net::SocketAddr;

use super::matches::ROUTE_TABLE;

/// Why rules could not be made, set or taken back.
#[derive(Debug, thiserror::Error)]
pub enum CaptureFault {
    /// No listener of the policy file can take captured connections.
    #[error("no [[listen]] takes what the {form} form captures; add one with {wanted}")]
    NoListener {
        /// `gateway` or `host`.
        form: &'static str,
        /// What to write.
        wanted: &'static str,
    },
    /// A listener sits where REDIRECT never delivers.
    #[error(
        "[[listen]] {address}: REDIRECT delivers to the address of the interface that a client \
         came in by; listen on [::] or 0.0.0.0"
    )]
    Unreachable {
        /// The listener.
        address: SocketAddr,
    },
    /// The short cut forwards what arrives, wherever it arrives.
    #[error(
        "the kernel short cut, or a lane, needs the clients' side by name, or it would forward what \
         comes from the far side: add --interface NAME"
    )]
    NoSide,
    /// The kernel hands packets over in neither way.
    #[error(
        "the kernel hands no packets to queues, which a lane needs: by nft: {by_nft}; by x_tables"
    )]
    Queue {
        /// Why not by `nft_queue`.
        by_nft: String,
        /// Why not by `xt_NFQUEUE` and `nft_compat`.
        #[source]
        source: io::Error,
    },
    /// A switch of the kernel cannot be set.
    #[error("{path} cannot be set")]
    Switch {
        /// The file below `/proc/sys`.
        path: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The kernel did not take the intervals of the short cut.
    #[error("the kernel did not take the intervals of the short cut")]
    Intervals(#[source] io::Error),
    /// The kernel does not tell of changes.
    #[error("the kernel does not tell what changes; the keeper needs CAP_NET_ADMIN")]
    News {
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// An interface for probes cannot be made.
    #[error(
        "the interface {name} for probes cannot be made; it needs /dev/net/tun and CAP_NET_ADMIN"
    )]
    Tun {
        /// Its name.
        name: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Not the name of a network interface.
    #[error("{name:?} is not an interface name: 1 to 15 bytes, no blank, quote, slash or control")]
    Interface {
        /// What was written.
        name: String,
    },
    /// The user whose connections are left alone is not there.
    #[error("no user {name:?} on this host; create it (systemd-sysusers) or name another")]
    NoUser {
        /// The user's name.
        name: String,
    },
    /// A routing rule or route cannot be read or set.
    #[error("a routing rule or route cannot be set")]
    Routing(#[source] io::Error),
    /// The host's programs would ask the gateway, and the gateway the host's programs, for ever.
    #[error(
        "[dns] would ask {at}, a resolver on this host, whose own questions come back to [dns]; \
         name the resolvers behind it: [names] resolvers"
    )]
    Stub {
        /// The resolver.
        at: SocketAddr,
    },
    /// A rule of somebody else is where ours belongs.
    #[error("routing rule {ROUTE_TABLE} is taken: {found:?}; remove it, or move it elsewhere")]
    RuleTaken {
        /// What `ip rule` shows.
        found: String,
    },
    /// A program could not be started, or not be talked to.
    #[error("could not run `{command}`; is the package installed?")]
    NotRun {
        /// The command line.
        command: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A program ran and refused.
    #[error("`{command}` failed ({status}): {stderr}")]
    Refused {
        /// The command line.
        command: String,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// What it wrote.
        stderr: String,
    },
}
