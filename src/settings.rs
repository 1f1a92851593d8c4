//! What is set once: plain data that the policy file is read into and both planes work by.
//!
//! A new key of a listener has its place here, is read in `control/config/listen.rs`, and takes its
//! effect in `flow`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::identify::HostName;

/// `[[listen]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// How connections arrive.
    pub mode: ListenMode,
    /// Address and port.
    pub address: SocketAddr,
    /// Time allowed for the first bytes. Default 3 s, 50 ms to 60 s.
    pub peek_timeout: Duration,
    /// Time allowed for the connect to the destination. Default 10 s.
    pub connect_timeout: Duration,
    /// Time without a byte either way after which a relay ends. Default 1 h.
    pub idle_timeout: Duration,
    /// As `idle_timeout`, once one side has closed; never longer. Default: the same.
    pub half_closed_timeout: Duration,
    /// Time after which a connection ends, whatever it does. Default: never.
    pub lifetime: Option<Duration>,
    /// Silence after which a peer is asked whether it is there (TCP keep-alive). Default: never.
    pub keepalive: Option<Duration>,
    /// Time that sent bytes may stay unacknowledged (RFC 5482). Default: the kernel's.
    pub user_timeout: Option<Duration>,
    /// Dial from the client's own address; transparent modes only. Default false.
    pub keep_source: bool,
    /// Connections at once on this listener; more are refused as `overload`. Default 65,536.
    pub max_connections: usize,
    /// Connections at once of one client (an IPv4 address or an IPv6 /64); more are refused as
    /// `overload`. 0 is no limit of its own. Default: a quarter of what all listeners together may
    /// have, by their limits and by the descriptors of the process, and no more than 14,116, half of
    /// the local ports that there are to one destination.
    pub max_connections_per_client: Option<usize>,
    /// Drop instead of refusing aloud (no alert, no reset, no answer). Default false.
    pub silent: bool,
    /// Follow STARTTLS to the name in the hello, on the ports of SMTP, IMAP, POP3 and PostgreSQL;
    /// transparent modes only. Default false.
    pub starttls: bool,
    /// Where UDP comes in beside it (TPROXY only): `udp = true`, the default of that mode, is the
    /// same address and port; an address puts it elsewhere; `false` leaves UDP to the firewall.
    pub udp: Option<SocketAddr>,
    /// Whom its connections and datagrams are judged and recorded as. No key of the policy file.
    pub client: ClientAddress,
}

impl Listen {
    /// The defaults, but for mode and address, which have none.
    pub const DEFAULT: Self = Self {
        mode: ListenMode::Proxy,
        address: SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)),
        peek_timeout: Duration::from_secs(3),
        connect_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(60 * 60),
        half_closed_timeout: Duration::from_secs(60 * 60),
        lifetime: None,
        keepalive: None,
        user_timeout: None,
        keep_source: false,
        max_connections: 65_536,
        max_connections_per_client: None,
        silent: false,
        starttls: false,
        udp: None,
        client: ClientAddress::OfPackets,
    };
}

/// Whom what comes in is judged, limited and recorded as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAddress {
    /// Whoever its packets are from.
    OfPackets,
    /// One client that is known otherwise, by an address of each family. It may send from whichever address
    /// it likes, so that the one in its packets says nothing.
    Fixed(Ipv4Addr, Ipv6Addr),
}

impl ClientAddress {
    /// The client of a packet that is from this address; its port stays.
    #[must_use]
    pub fn of(self, packet: SocketAddr) -> SocketAddr {
        let ip = match (self, packet.ip().to_canonical()) {
            (Self::OfPackets, _) => return packet,
            (Self::Fixed(v4, _), IpAddr::V4(_)) => IpAddr::from(v4),
            (Self::Fixed(_, v6), IpAddr::V6(_)) => v6.into(),
        };
        SocketAddr::new(ip, packet.port())
    }
}

/// `[[listen]] mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ListenMode {
    /// TPROXY: the local address of the accepted socket is the original destination.
    Tproxy,
    /// REDIRECT: the original destination is asked of conntrack.
    Redirect,
    /// Explicit proxy: HTTP CONNECT, plain HTTP and SOCKS5 on one port.
    Proxy,
}

impl ListenMode {
    /// `tproxy`, `redirect` or `proxy`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tproxy => "tproxy",
            Self::Redirect => "redirect",
            Self::Proxy => "proxy",
        }
    }
}

/// `[[listen]] mode = "lane"`: flows that the kernel carries once they are judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    /// Queues in which new flows wait for their verdict. Default 21320 to 21323.
    pub queues: RangeInclusive<u16>,
    /// Interfaces by which their clients come in; empty: those of the capture.
    pub interfaces: Vec<String>,
    /// What becomes of live flows when the process ends or hangs. Default: they stop.
    pub on_death: OnDeath,
    /// Time after which a flow ends, whatever it does. Default: never.
    pub lifetime: Option<Duration>,
    /// Flows at once; more go to the proxy. Default 65,536.
    pub max_connections: usize,
    /// The same for one client. Default as in [`Listen`].
    pub max_connections_per_client: Option<usize>,
}

impl Lane {
    /// The defaults.
    pub const DEFAULT: Self = Self {
        queues: 21_320..=21_323,
        interfaces: Vec::new(),
        on_death: OnDeath::Halt,
        lifetime: None,
        max_connections: Listen::DEFAULT.max_connections,
        max_connections_per_client: None,
    };

    /// Firewall mark of the packets that the kernel may forward.
    pub const FORWARDED: u32 = 0x5348;
    /// The bits of a connection mark that say that it is the lane's, and their value.
    pub const MARK_MASK: u32 = 0xffff_0000;
    /// See [`Lane::MARK_MASK`].
    pub const MARK: u32 = 0x534c_0000;
    /// Connection mark of a flow that the proxy takes.
    pub const PROXIED: u32 = Self::MARK | 1;
    /// Connection mark of a flow that is refused, or no longer permitted: it is reset both ways.
    pub const REFUSED: u32 = Self::MARK | 2;
    /// Connection mark of a flow whose first bytes are to be judged: every packet of it waits.
    pub const HELD: u32 = Self::MARK | 4;
    /// The port on which it reads names: that of TLS. What is said in the clear is one request of several,
    /// and elsewhere TLS may begin behind another protocol.
    pub const NAMED_PORT: u16 = 443;
    /// The table of its rules, of family `inet`.
    pub const TABLE: &str = "schengate_lane";
    /// The set of the marks whose flows are carried, in [`Lane::TABLE`].
    pub const CARRIED_SET: &str = "carried";

    /// Connection mark of a flow that is carried; `epoch`, 0 to 8191, tells one process from another.
    #[must_use]
    pub const fn carried(epoch: u16) -> u32 {
        Self::MARK | ((epoch as u32 & 0x1fff) << 3) | 3
    }
}

/// `[[listen]] on_death` of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDeath {
    /// What is carried stops within a second.
    Halt,
    /// It goes on unwatched, and the next process takes it over.
    Carry,
}

impl OnDeath {
    /// `stop` or `carry`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Halt => "stop",
            Self::Carry => "carry",
        }
    }
}

/// One of `[names] resolvers`: `address:port`, or `tls://address:port#name`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolver {
    /// Where it answers.
    pub at: SocketAddr,
    /// The name in its certificate, where it is asked over TLS (RFC 7858).
    pub tls: Option<HostName>,
}

impl fmt::Display for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tls {
            None => self.at.fmt(f),
            Some(name) => write!(f, "tls://{}#{name}", self.at),
        }
    }
}

/// `[dns]`: the gateway as a name server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// Address and port, for UDP and TCP.
    pub listen: SocketAddr,
    /// `refuse = "nxdomain"`: a refused name does not exist. Default `"refused"`.
    pub nxdomain: bool,
    /// Whether the addresses that the policy refuses are left out. Default true.
    pub filter: bool,
    /// Whether the keys of ECH are left out. Default false.
    pub strip_ech: bool,
    /// Questions a second that one client may ask, 1 to 100,000. Default 100.
    pub rate: u32,
    /// Types of records that may be asked for, in ascending order. Default: those that browsers, mail and
    /// directory clients need.
    pub types: Vec<u16>,
    /// Whom questions are judged and recorded as. No key of the policy file.
    pub client: ClientAddress,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_client_is_the_same_whatever_its_packets_say_and_keeps_its_port() {
        let (v4, v6) = (Ipv4Addr::new(192, 0, 0, 2), Ipv6Addr::new(0xfd73, 0, 0, 0, 0, 0, 0, 2));
        let fixed = ClientAddress::Fixed(v4, v6);
        for (packet, client) in [
            ("127.0.0.5:7", "192.0.0.2:7"),
            ("[::ffff:10.0.0.1]:8", "192.0.0.2:8"),
            ("[::1]:9", "[fd73::2]:9"),
        ] {
            let packet = packet.parse().unwrap();
            assert_eq!(fixed.of(packet).to_string(), client);
            assert_eq!(ClientAddress::OfPackets.of(packet), packet);
        }
    }
}
