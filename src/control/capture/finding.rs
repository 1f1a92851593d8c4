//! What is looked at, and what a look finds.

use std::fmt;

/// What is looked at: the label `check` of `schengate_capture_intact`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Check {
    /// The capture table is there, and ends in a drop.
    Rules,
    /// The guard is there, drops, and lets nothing through but what the short cut marks.
    Guard,
    /// The routing rules prohibit what would be forwarded: the fence that `nft` does not reach.
    Fence,
    /// Marked packets are delivered to this host.
    Routing,
    /// Forwarding is off where nothing needs it.
    Forwarding,
    /// No interface filters by strict reverse path, which drops without a count what is routed back
    /// by another interface.
    ReversePath,
    /// No flow table takes packets past the hooks.
    Offload,
    /// `src_valid_mark` is off where marked packets come in: it drops them.
    ValidMark,
    /// `tcp_fwmark_accept` is off: it keeps the answers here.
    AcceptMark,
    /// No bridge shows its packets to the hooks before they are for this host (`br_netfilter`).
    Bridge,
    /// No interface that is named is the port of another one.
    Port,
    /// The rules of the lane are there, its queues are read, and the kernel counts what it carries.
    Lane,
}

impl Check {
    /// The label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Guard => "guard",
            Self::Fence => "fence",
            Self::Routing => "routing",
            Self::Forwarding => "forwarding",
            Self::ReversePath => "rp_filter",
            Self::Offload => "offload",
            Self::ValidMark => "src_valid_mark",
            Self::AcceptMark => "tcp_fwmark_accept",
            Self::Bridge => "br_netfilter",
            Self::Port => "bridge_port",
            Self::Lane => "lane",
        }
    }

    /// What keeps packets from the listeners where it is broken, although nothing leaves.
    pub const HINDERS: [Self; 4] = [Self::ValidMark, Self::AcceptMark, Self::Bridge, Self::Port];
}

/// What one look found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It is as it should be.
    Intact,
    /// It is not, and how.
    Broken(String),
    /// It cannot be seen, and why.
    Unseen(String),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Intact => f.write_str("intact"),
            Self::Broken(how) => write!(f, "BROKEN: {how}"),
            Self::Unseen(why) => write!(f, "not seen: {why}"),
        }
    }
}
