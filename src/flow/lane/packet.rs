//! Reads whose a queued packet is: the first of a flow, by the addresses that it bears.

use std::net::SocketAddr;

use etherparse::{TcpHeaderSlice, UdpHeaderSlice};

use crate::ip::{self, Part};
use crate::sys::FlowKey;

/// The first packet of a flow, or the same packet once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct First {
    pub(super) key: FlowKey,
    /// The sequence number that TCP begins at, which tells a packet that comes again from that of the
    /// next connection of these ports; of UDP nothing does.
    pub(super) begins_at: Option<u32>,
}

/// `bytes` is a packet from its IP header on, or the front of one; `None` for what begins no flow, or
/// does not end where it is sent to.
pub(super) fn first(bytes: &[u8]) -> Option<First> {
    let packet = ip::read(bytes).ok().filter(|packet| !packet.is_routed_on)?;
    let Part::Whole { kind, payload } = packet.part else { return None };
    let (ports, begins_at) = match i32::from(kind) {
        libc::IPPROTO_TCP => {
            let tcp = TcpHeaderSlice::from_slice(payload).ok()?;
            if !tcp.syn() || tcp.ack() || tcp.rst() || tcp.fin() {
                return None;
            }
            ((tcp.source_port(), tcp.destination_port()), Some(tcp.sequence_number()))
        }
        libc::IPPROTO_UDP => {
            let udp = UdpHeaderSlice::from_slice(payload).ok()?;
            ((udp.source_port(), udp.destination_port()), None)
        }
        _ => return None,
    };
    let key = FlowKey {
        protocol: kind,
        client: SocketAddr::new(packet.from, ports.0),
        destination: SocketAddr::new(packet.to, ports.1),
    };
    Some(First { key, begins_at })
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    const FROM: [u8; 4] = [192, 0, 2, 2];
    const TO: [u8; 4] = [198, 51, 100, 7];

    fn tcp(flags: &str) -> Vec<u8> {
        let mut builder = PacketBuilder::ipv4(FROM, TO, 64).tcp(40_000, 443, 77, 1024);
        for flag in flags.chars() {
            builder = match flag {
                's' => builder.syn(),
                'a' => builder.ack(9),
                'r' => builder.rst(),
                _ => builder.fin(),
            };
        }
        let mut packet = Vec::new();
        builder.write(&mut packet, b"").unwrap();
        packet
    }

    #[test]
    fn only_what_begins_a_flow_is_one() {
        let read = first(&tcp("s")).unwrap();
        assert_eq!(read.key.client, "192.0.2.2:40000".parse().unwrap());
        assert_eq!(read.key.destination, "198.51.100.7:443".parse().unwrap());
        assert_eq!((read.key.protocol, read.begins_at), (6, Some(77)));
        for flags in ["", "a", "sa", "sr", "sf", "f"] {
            assert_eq!(first(&tcp(flags)), None, "{flags}");
        }
    }

    #[test]
    fn a_datagram_is_read_where_only_its_front_is_shown() {
        let builder = PacketBuilder::ipv6([0x20; 16], [0x2a; 16], 64).udp(40_000, 443);
        let mut packet = Vec::new();
        builder.write(&mut packet, &[7; 1200]).unwrap();
        let read = first(&packet[..512]).unwrap();
        assert_eq!((read.key.protocol, read.begins_at), (17, None));
        assert_eq!(read.key.destination.port(), 443);
        assert!(read.key.client.is_ipv6());
    }

    #[test]
    fn no_cut_of_a_packet_is_another_flow() {
        let whole = tcp("s");
        for end in 0..whole.len() {
            assert_eq!(first(&whole[..end]), None, "{end}");
        }
    }
}
