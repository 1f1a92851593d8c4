//! What nftables statements match and set, in the words and numbers that several of the tables here
//! share.

/// Matches destinations that this machine, or nobody in particular, answers for.
pub(super) const HERE: &str = "fib daddr type { local, broadcast, anycast, multicast }";

/// TCP, UDP, ICMP: by number, so that `nft` needs no `/etc/protocols`.
pub(super) const TCP: &str = "meta l4proto 6";
pub(super) const UDP: &str = "meta l4proto 17";
pub(super) const ICMP: &str = "meta l4proto { 1, 58 }";

/// Firewall mark of the packets that are handed to a transparent listener.
pub const MARK: u32 = 0x5347;

/// Number of the routing table, and preference of the rule, that deliver marked packets locally.
pub const ROUTE_TABLE: u32 = 21_319;

/// Makes the table and deletes it: as the whole input it removes the table whether or not there is
/// one, before a table it empties it.
pub(super) const EMPTY_TABLE: &str = "table inet schengate\ndelete table inet schengate\n";

/// The table of the capture, of family `inet`: its named counters say what was refused, and why.
pub const TABLE: &str = "schengate";

/// The port of QUIC.
pub(super) const HTTPS: u16 = 443;

/// Longest packets that the host form lets out unjudged, in bytes, IP header included: what `ping`
/// sends by default, what the kernel quotes in an error (RFC 1812 §4.3.2.3, RFC 4443 §2.4), and
/// neighbour discovery (RFC 4861 §4).
pub(super) const ECHO_MAX: [u16; 2] = [84, 104];
pub(super) const ERROR_MAX: [u16; 2] = [576, 1280];
pub(super) const NEIGHBOUR_MAX: u16 = 120;

/// The interface by which probes arrive: the rules capture it as they do the clients'.
pub const NEAR: &str = "schg-near";
