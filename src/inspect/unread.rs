//! What of a capture is in no flow, so that it is said and not passed over.

use std::collections::BTreeMap;
use std::fmt;

use crate::ip::BadHeader;

/// A kind of packets, or of connections, that could not be read. Those that carry no connection
/// (ARP, ICMP, spanning tree ...) are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unread {
    /// Frames of a link type that is not read (the tcpdump.org registry).
    LinkType(i32),
    /// Frames of an EtherType that is not read.
    EtherType(u16),
    /// Frames of an 802.2 service access point other than SNAP and IP.
    ServiceAccessPoint(u8),
    /// PPP frames of a protocol that is not read; compressed ones are such.
    Ppp(u16),
    /// IP packets of a protocol that is not read: encrypted (ESP), or a transport without a reader.
    IpProtocol(u8),
    /// GRE packets of a version or form that is not read (RFC 2784, RFC 2637).
    Gre(u16),
    /// Packets inside of more tunnels and tags than are followed.
    Nested,
    /// Frames that end inside a header, or whose header makes no sense.
    Header,
    /// IP packets whose fragments overlap, which a receiver drops (RFC 5722), or break the rules.
    Overlap,
    /// IP packets of which fragments are not in the file.
    Fragments,
    /// Connections of whose first bytes the file lacks some: cut by the snap length, or lost.
    FirstBytes,
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::LinkType(number) => write!(
                f,
                "frames of link type {number} (read are Ethernet, Linux cooked 1 and 2, raw IP, \
                 PPP, PPPoE, Cisco HDLC, BSD loopback: capture on another interface)"
            ),
            Self::EtherType(number) => write!(f, "frames of EtherType {number:#06x}"),
            Self::ServiceAccessPoint(number) => {
                write!(f, "802.2 frames of service access point {number:#04x}")
            }
            Self::Ppp(number) => write!(f, "PPP frames of protocol {number:#06x}"),
            Self::IpProtocol(50) => write!(f, "packets of ESP, which is encrypted"),
            Self::IpProtocol(number) => write!(f, "packets of IP protocol {number}"),
            Self::Gre(number) => write!(f, "GRE packets with flags {number:#06x}"),
            Self::Nested => write!(f, "packets inside of too many tunnels"),
            Self::Header => write!(f, "frames that end inside a header or make no sense"),
            Self::Overlap => write!(f, "IP packets whose fragments overlap or break the rules"),
            Self::Fragments => write!(f, "IP packets of which fragments are not in the file"),
            Self::FirstBytes => {
                write!(f, "connections whose first bytes are not all in the file")
            }
        }
    }
}

impl From<BadHeader> for Unread {
    fn from(_: BadHeader) -> Self {
        Self::Header
    }
}

/// How many of each kind.
#[derive(Debug, Default)]
pub(super) struct Tally(BTreeMap<Unread, u64>);

impl Tally {
    pub(super) fn add(&mut self, kind: Unread, count: u64) {
        if count > 0 {
            *self.0.entry(kind).or_default() += count;
        }
    }

    pub(super) fn into_kinds(self) -> Vec<(Unread, u64)> {
        self.0.into_iter().collect()
    }
}
