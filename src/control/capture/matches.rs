//! What nftables statements match, in the words that several of the tables here share.

/// Matches destinations that this machine, or nobody in particular, answers for.
pub(super) const HERE: &str = "fib daddr type { local, broadcast, anycast, multicast }";

/// TCP, UDP, ICMP: by number, so that `nft` needs no `/etc/protocols`.
pub(super) const TCP: &str = "meta l4proto 6";
pub(super) const UDP: &str = "meta l4proto 17";
pub(super) const ICMP: &str = "meta l4proto { 1, 58 }";
