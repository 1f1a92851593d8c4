//! Captures of every form that `inspect` reads, made here, and what comes out of them.

use std::io::Write;
use std::path::Path;

use etherparse::PacketBuilder;
use schengate::identify::{NameSource, Protocol};
use schengate::inspect::{Flow, Form, InspectFault, Unread, inspect_file};
use schengate::policy::Transport;

use crate::flights;

const CLIENT: [u8; 4] = [192, 0, 2, 1];
const SERVER: [u8; 4] = [203, 0, 113, 7];

#[derive(Clone, Copy)]
enum Flag {
    Syn,
    /// With the number that it acknowledges.
    SynAck(u32),
    Data,
    Fin,
    Rst,
}

/// A TCP packet over IPv4, without a link layer.
fn tcp(to_server: bool, sequence: u32, flag: Flag, payload: &[u8]) -> Vec<u8> {
    let (from, to, ports) =
        if to_server { (CLIENT, SERVER, (5000, 443)) } else { (SERVER, CLIENT, (443, 5000)) };
    let builder = PacketBuilder::ipv4(from, to, 64).tcp(ports.0, ports.1, sequence, 65_000);
    let builder = match flag {
        Flag::Syn => builder.syn(),
        Flag::SynAck(number) => builder.syn().ack(number),
        Flag::Data => builder.ack(1),
        Flag::Fin => builder.ack(1).fin(),
        Flag::Rst => builder.rst(),
    };
    let mut packet = Vec::new();
    builder.write(&mut packet, payload).unwrap();
    packet
}

fn udp(payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let ports = PacketBuilder::ipv6([1; 16], [2; 16], 64).udp(6000, 443);
    ports.write(&mut packet, payload).unwrap();
    packet
}

fn pcap(link: u32, packets: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    file.extend(0xa1b2_c3d4_u32.to_le_bytes());
    file.extend([2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    file.extend(262_144_u32.to_le_bytes());
    file.extend(link.to_le_bytes());
    for packet in packets {
        let len = u32::try_from(packet.len()).unwrap().to_le_bytes();
        file.extend([0; 8]);
        file.extend(len);
        file.extend(len);
        file.extend(packet);
    }
    file
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let mut body = body.to_vec();
    body.resize(body.len().next_multiple_of(4), 0);
    let len = u32::try_from(12 + body.len()).unwrap().to_le_bytes();
    [&kind.to_le_bytes()[..], &len, &body, &len].concat()
}

fn pcapng(interfaces: &[u16], packets: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let section = [&0x1a2b_3c4d_u32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xff; 8]].concat();
    let mut file = block(0x0a0d_0d0a, &section);
    for link in interfaces {
        file.extend(block(1, &[&link.to_le_bytes()[..], &[0, 0, 0, 0, 4, 0]].concat()));
    }
    for (interface, packet) in packets {
        let len = u32::try_from(packet.len()).unwrap().to_le_bytes();
        let header = [&interface.to_le_bytes()[..], &[0; 8], &len, &len].concat();
        file.extend(block(6, &[header, packet.clone()].concat()));
    }
    file
}

fn inspect(bytes: &[u8], form: Form) -> (Vec<Flow>, Result<(), Vec<InspectFault>>) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let mut flows = Vec::new();
    let end = inspect_file(file.path(), form, |flow| flows.push(flow));
    (flows, end.map_err(|faults| faults.0))
}

/// The one thing that speaks against a file.
fn fault(end: Result<(), Vec<InspectFault>>) -> InspectFault {
    let mut faults = end.unwrap_err();
    assert_eq!(faults.len(), 1, "{faults:?}");
    faults.remove(0)
}

/// What of a capture is not read, with its flows.
fn unread(bytes: &[u8]) -> (Vec<Flow>, Vec<(Unread, u64)>) {
    let (flows, end) = inspect(bytes, Form::Auto);
    if end.is_ok() {
        return (flows, Vec::new());
    }
    let fault = fault(end);
    let InspectFault::NotRead { kinds, .. } = fault else { panic!("{fault}") };
    (flows, kinds.0)
}

fn names(bytes: &[u8]) -> Vec<Option<String>> {
    let (flows, end) = inspect(bytes, Form::Auto);
    end.unwrap();
    flows.into_iter().map(|flow| flow.sni).collect()
}

fn hello() -> Vec<u8> {
    flights::tls_hello("host.example", &[b"h2".to_vec()])
}

/// A handshake, the hello in pieces from sequence number 1001, and the end.
fn connection(pieces: &[(u32, &[u8])]) -> Vec<Vec<u8>> {
    let mut packets =
        vec![tcp(true, 1000, Flag::Syn, &[]), tcp(false, 7000, Flag::SynAck(1001), &[])];
    for (offset, piece) in pieces {
        packets.push(tcp(true, 1001 + offset, Flag::Data, piece));
    }
    packets
}

#[test]
fn a_flow_says_all_that_the_first_bytes_say() {
    let (flows, end) = inspect(&pcap(101, &connection(&[(0, &hello())])), Form::Auto);
    end.unwrap();
    let [flow] = &flows[..] else { panic!("{flows:?}") };
    assert_eq!(flow.flow.as_deref(), Some("192.0.2.1:5000>203.0.113.7:443"));
    assert_eq!(flow.destination, Some("203.0.113.7:443".parse().unwrap()));
    assert_eq!((flow.transport, flow.proto, flow.complete), (Transport::Tcp, Protocol::Tls, true));
    let (name, source) = flow.name.unwrap();
    assert_eq!((name.as_str(), source), ("host.example", NameSource::Sni));
    let json = flow.to_json(Some(("allow", "permitted")));
    assert_eq!(json["sni"], "host.example");
    assert_eq!(json["alpn"], serde_json::json!(["h2"]));
    assert_eq!((&json["verdict"], &json["reason"]), (&"allow".into(), &"permitted".into()));
    assert!(json["host"].is_null() && json["quic_version"].is_null() && json["fault"].is_null());
}

#[test]
fn every_link_type_carries_the_same_flow() {
    let ip = connection(&[(0, &hello())]);
    let behind =
        |header: &[u8]| -> Vec<_> { ip.iter().map(|packet| [header, packet].concat()).collect() };
    let ethernet = [0; 12];
    for (what, link, header) in [
        ("Ethernet", 1, [&ethernet[..], &[8, 0]].concat()),
        ("VLAN", 1, [&ethernet[..], &[0x81, 0, 0, 7, 8, 0]].concat()),
        ("QinQ", 1, [&ethernet[..], &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 8, 8, 0]].concat()),
        ("PPPoE", 1, [&ethernet[..], &[0x88, 0x64, 0x11, 0, 0, 1, 0, 9, 0, 0x21]].concat()),
        ("MPLS", 1, [&ethernet[..], &[0x88, 0x47, 0, 0, 0, 9, 0, 0, 1, 9]].concat()),
        ("PPP", 9, vec![0xff, 3, 0, 0x21]),
        ("SNAP", 1, [&ethernet[..], &[0, 99, 0xaa, 0xaa, 3, 0, 0, 0, 8, 0]].concat()),
        ("802.2", 1, [&ethernet[..], &[0, 99, 6, 6, 3]].concat()),
        ("802.1ah", 1, [&ethernet[..], &[0x88, 0xe7, 0, 0, 0, 9], &ethernet, &[8, 0]].concat()),
        (
            "pseudowire",
            1,
            [&ethernet[..], &[0x88, 0x47, 0, 0, 1, 9, 0, 0, 0, 0], &ethernet, &[8, 0]].concat(),
        ),
        ("PPP, short", 9, vec![0x21]),
        ("PPPoE", 51, vec![0x11, 0, 0, 1, 0, 9, 0, 0x21]),
        ("Cisco HDLC", 104, vec![0x0f, 0, 8, 0]),
        ("raw", 101, vec![]),
        ("loopback", 0, vec![2, 0, 0, 0]),
        ("SLL", 113, [&[0; 14][..], &[8, 0]].concat()),
        ("SLL2", 276, [&[8, 0][..], &[0; 18]].concat()),
    ] {
        let packets = behind(&header);
        assert_eq!(names(&pcap(link, &packets)), [Some("host.example".into())], "{what}");
        let numbered: Vec<_> = packets.into_iter().map(|packet| (1, packet)).collect();
        let link = u16::try_from(link).unwrap();
        let capture = pcapng(&[147, link], &numbered);
        assert_eq!(names(&capture), [Some("host.example".into())], "{what} in pcapng");
    }
}

#[test]
fn segments_come_in_any_order_and_more_than_once() {
    let hello = hello();
    let (a, rest) = hello.split_at(90);
    let (b, c) = rest.split_at(50);
    let named = [Some("host.example".to_owned())];
    let junk = vec![0xee; b.len()];
    for pieces in [
        vec![(140, c), (90, b), (0, a)],
        vec![(0, a), (140, c), (0, a), (90, b)],
        vec![(0, &hello[..120]), (90, b), (100, &hello[100..])],
        // What arrived first counts, as in the kernel.
        vec![(0, a), (90, b), (90, &junk), (140, c)],
    ] {
        assert_eq!(names(&pcap(101, &connection(&pieces))), named);
    }
    let gap = connection(&[(0, a), (140, c)]);
    let (flows, unread) = unread(&pcap(101, &gap));
    assert!(!flows[0].complete && flows[0].sni.is_none());
    assert_eq!(unread, [(Unread::FirstBytes, 1)]);
}

#[test]
fn a_hello_in_the_syn_and_a_capture_that_begins_late_are_read() {
    let fast_open = [tcp(true, 1000, Flag::Syn, &hello())];
    assert_eq!(names(&pcap(101, &fast_open)), [Some("host.example".into())]);
    let repeated = [fast_open[0].clone(), fast_open[0].clone()];
    assert_eq!(names(&pcap(101, &repeated)), [Some("host.example".into())]);
    let late = [tcp(false, 9, Flag::Data, b"banner"), tcp(true, 5, Flag::Data, &hello())];
    assert_eq!(names(&pcap(101, &late)), [Some("host.example".into())]);
}

#[test]
fn ports_that_are_used_again_are_another_flow() {
    let mut packets = connection(&[(0, &hello())]);
    packets.push(tcp(true, 2000, Flag::Fin, &[]));
    packets.push(tcp(true, 90_000, Flag::Syn, &[]));
    packets.push(tcp(true, 90_001, Flag::Data, &flights::tls_hello("other.example", &[])));
    let expected = ["host.example", "other.example"].map(|name| Some(name.to_owned()));
    assert_eq!(names(&pcap(101, &packets)), expected);
}

#[test]
fn no_decoy_within_a_connection_hides_its_hello() {
    let hello = hello();
    let (a, b) = hello.split_at(90);
    let other = flights::tls_hello("other.example", &[]);
    let named = |packets: &[Vec<u8>]| {
        let (flows, unread) = unread(&pcap(101, packets));
        assert_eq!(unread, []);
        flows.into_iter().map(|flow| (flow.sni, flow.complete)).collect::<Vec<_>>()
    };
    let expected = [(Some("host.example".to_owned()), true)];
    for at in [0, 999, 1000, 1002, 1090, 1092, 5000, u32::MAX] {
        for (what, decoy) in [
            ("RST", tcp(true, at, Flag::Rst, &[])),
            ("FIN", tcp(true, at, Flag::Fin, &[])),
            ("SYN", tcp(true, at, Flag::Syn, &[])),
            ("SYN with bytes", tcp(true, at, Flag::Syn, b"\r\n\r\n")),
        ] {
            for twice in [false, true] {
                let mut packets = connection(&[(0, a)]);
                packets.insert(1, decoy.clone());
                packets.insert(3, decoy.clone());
                packets.push(decoy.clone());
                if twice {
                    packets.extend(vec![decoy.clone(); 20]);
                }
                packets.push(tcp(true, 1091, Flag::Data, b));
                packets.push(decoy.clone());
                let found = named(&packets);
                // A SYN with bytes is a connection that may be one: said beside it.
                let own = found.iter().filter(|flow| **flow == expected[0]).count();
                assert_eq!(own, 1, "{what} at {at}: {found:?}");
                assert!(what == "SYN with bytes" || found == expected, "{what} at {at}: {found:?}");
            }
        }
    }
    // Where a SYN begins a connection, it is read: beside the one before it, ended or not.
    for (end, answered) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut packets = connection(&[(0, a)]);
        packets.extend(end.then(|| tcp(true, 1091, Flag::Fin, &[])));
        packets.push(tcp(true, 90_000_000, Flag::Syn, &[]));
        packets.extend(answered.then(|| tcp(false, 9, Flag::SynAck(90_000_001), &[])));
        packets.push(tcp(true, 90_000_001, Flag::Data, &other));
        let mut found = named(&packets);
        found.sort();
        let known = (Some("other.example".to_owned()), true);
        assert_eq!(found, [(None, false), known], "{end} {answered}");
    }
}

#[test]
fn bytes_with_a_syn_that_the_server_leaves_aside_are_none() {
    let other = flights::tls_hello("decoy.example", &[]);
    for answer in [1001, 1001 + u32::try_from(other.len()).unwrap()] {
        let packets = [
            tcp(true, 1000, Flag::Syn, &other),
            tcp(false, 9, Flag::SynAck(answer), &[]),
            tcp(true, 1001, Flag::Data, &hello()),
        ];
        let expected = if answer == 1001 { "host.example" } else { "decoy.example" };
        assert_eq!(names(&pcap(101, &packets)), [Some(expected.to_owned())]);
    }
}

#[test]
fn what_the_capture_cut_off_is_said() {
    let packets = connection(&[(0, &hello())]);
    // Headers alone; a part of the hello.
    for snap in [40, 100] {
        let mut capture = pcap(101, &packets[..2]);
        let frame = &packets[2];
        capture.extend([0; 8]);
        capture.extend(u32::try_from(snap).unwrap().to_le_bytes());
        capture.extend(u32::try_from(frame.len()).unwrap().to_le_bytes());
        capture.extend(&frame[..snap]);
        let (flows, unread) = unread(&capture);
        let [flow] = &flows[..] else { panic!("{flows:?}") };
        assert!(!flow.complete && flow.sni.is_none() && flow.fault.is_some(), "{flow:?}");
        assert_eq!(unread, [(Unread::FirstBytes, 1)], "{snap}");
    }
    // Nothing was lost, and nothing is known.
    let (flows, unread) = unread(&pcap(101, &connection(&[])));
    assert!(!flows[0].complete && flows[0].fault.is_none() && unread.is_empty());
    // A datagram.
    let frame = flights::crypto_frame(0, &flights::quic_hello("quic.example", &[]));
    let datagram = udp(&flights::initial(rustls::quic::Version::V1, b"12345678", 0, &frame));
    let (flows, unread) = self::unread(&pcap(101, &[datagram[..200].to_vec()]));
    assert!(!flows[0].complete && unread == [(Unread::FirstBytes, 1)], "{flows:?} {unread:?}");
}

#[test]
fn a_tunnel_is_read_through_or_said() {
    let v4 = |kind: u8, payload: &[u8]| {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv4(CLIENT, SERVER, 64);
        builder.write(&mut packet, kind.into(), payload).unwrap();
        packet
    };
    let v6 = |kind: u8, payload: &[u8]| {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv6([1; 16], [2; 16], 64);
        builder.write(&mut packet, kind.into(), payload).unwrap();
        packet
    };
    let inner = connection(&[(0, &hello())]);
    let ethernet = [&[0; 12][..], &[8, 0]].concat();
    for (what, kind, header) in [
        ("IP in IP", 4, vec![]),
        ("GRE", 47, vec![0, 0, 8, 0]),
        (
            "GRE with key, checksum and sequence",
            47,
            vec![0xb0, 0, 8, 0, 0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 9],
        ),
        ("GRE with a frame", 47, [&[0, 0, 0x65, 0x58][..], &ethernet].concat()),
        ("GRE with MPLS", 47, vec![0, 0, 0x88, 0x47, 0, 0, 1, 9]),
        ("ERSPAN", 47, [&[0x10, 0, 0x88, 0xbe, 0, 0, 0, 1][..], &[0; 8], &ethernet].concat()),
        ("PPTP", 47, vec![0x30, 1, 0x88, 0x0b, 0, 9, 0, 1, 0, 0, 0, 1, 0xff, 3, 0, 0x21]),
        ("WCCP", 47, vec![0, 0, 0x88, 0x3e, 0, 0, 0, 0]),
        ("EtherIP", 97, [&[0x30, 0][..], &ethernet].concat()),
        ("MPLS in IP", 137, vec![0, 0, 1, 9]),
        (
            "authentication header",
            51,
            vec![4, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ),
    ] {
        for outer in [&v4 as &dyn Fn(u8, &[u8]) -> Vec<u8>, &v6] {
            let packets: Vec<_> =
                inner.iter().map(|packet| outer(kind, &[&header, &packet[..]].concat())).collect();
            assert_eq!(names(&pcap(101, &packets)), [Some("host.example".into())], "{what}");
        }
    }
    let six: Vec<_> = [udp(b"other")].iter().map(|packet| v4(41, packet)).collect();
    assert_eq!(unread(&pcap(101, &six)).0.len(), 1, "IPv6 in IPv4");
    let nested = (0..20).fold(inner[2].clone(), |packet, _| v4(4, &packet));
    for (packet, kind) in [
        (v4(50, &[0; 40]), Unread::IpProtocol(50)),
        (v6(132, &[0; 40]), Unread::IpProtocol(132)),
        (v4(47, &[0x40, 0, 8, 0]), Unread::Gre(0x4000)),
        (v4(47, &[0, 0, 0x12, 0x34, 0]), Unread::EtherType(0x1234)),
        (nested, Unread::Nested),
        (v4(6, &[0; 9]), Unread::Header),
        (vec![0x70; 40], Unread::Header),
    ] {
        let (flows, unread) = unread(&pcap(101, &[packet.clone(), packet]));
        assert_eq!((flows.len(), unread), (0, vec![(kind, 2)]));
    }
    for (frame, kind) in [
        ([0x81, 0x37, 0, 0, 0, 0], Unread::EtherType(0x8137)),
        ([0, 50, 0xe0, 0xe0, 3, 0], Unread::ServiceAccessPoint(0xe0)),
        ([0x88, 0x64, 0, 0, 0, 0], Unread::Header),
    ] {
        let frame = [&[0; 12][..], &frame].concat();
        assert_eq!(unread(&pcap(1, &[frame])).1, [(kind, 1)]);
    }
    // What carries no connection is nothing that is left out.
    let silent = [
        [&[0; 12][..], &[8, 6, 0, 0]].concat(),
        [&[0; 12][..], &[0x88, 0xcc, 0, 0]].concat(),
        [&[0; 12][..], &[0, 38, 0x42, 0x42, 3]].concat(),
        [&ethernet[..], &v4(1, &[8, 0, 0, 0])].concat(),
    ];
    let (flows, unread) = unread(&pcap(1, &silent));
    assert!(flows.is_empty() && unread.is_empty(), "{flows:?} {unread:?}");
}

#[test]
fn the_fragments_of_an_ipv6_packet_are_joined() {
    let packets = connection(&[]);
    let segment = [
        &[0x13, 0x88, 1, 187, 0, 0, 3, 233, 0, 0, 0, 1, 0x50, 0x10, 9, 9, 0, 0, 0, 0][..],
        &hello(),
    ]
    .concat();
    let packet = |next: u8, payload: &[u8]| {
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        packet.extend([next, 64]);
        packet.extend([1; 16]);
        packet.extend([2; 16]);
        packet.extend(payload);
        packet
    };
    // RFC 8200 §4.5: next header, zero, offset in the upper 13 bits and M in the lowest, id.
    let fragment = |next: u8, at: usize, bytes: &[u8], more: bool| {
        let place = u16::try_from(at).unwrap() | u16::from(more);
        let [high, low] = place.to_be_bytes();
        packet(44, &[&[next, 0, high, low, 0, 0, 0, 7][..], bytes].concat())
    };
    let named = [Some("host.example".to_owned())];
    assert_eq!(names(&pcap(101, &[packet(6, &segment)])), named);
    // A fragment that is all of its packet (RFC 6946); options before and within.
    assert_eq!(names(&pcap(101, &[fragment(6, 0, &segment, false)])), named);
    let options = [6, 0, 1, 4, 0, 0, 0, 0];
    let behind = [&options[..], &segment].concat();
    assert_eq!(names(&pcap(101, &[packet(60, &behind)])), named);
    for (next, whole) in [(6, &segment), (60, &behind)] {
        let [a, b, c] = [&whole[..64], &whole[64..128], &whole[128..]];
        let pieces = [
            fragment(next, 0, a, true),
            fragment(next, 64, b, true),
            fragment(next, 128, c, false),
        ];
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let packets: Vec<_> = order.iter().map(|&at| pieces[at].clone()).collect();
            assert_eq!(names(&pcap(101, &packets)), named, "{next} {order:?}");
        }
        let (flows, unread) = unread(&pcap(101, &pieces[..2]));
        assert_eq!((flows.len(), unread), (0, vec![(Unread::Fragments, 1)]));
        let overlap = fragment(next, 56, &[0; 16], true);
        let (flows, unread) =
            self::unread(&pcap(101, &[&pieces[..2], &[overlap], &pieces[2..]].concat()));
        assert_eq!((flows.len(), unread), (0, vec![(Unread::Overlap, 1)]), "RFC 5722");
    }
    assert_eq!(packets.len(), 2);
}

#[test]
fn every_packet_block_of_pcapng_is_read_in_both_byte_orders() {
    // Cut within the name, where a check sequence that is taken for payload would stand.
    let hello = hello();
    let name = hello.windows(12).position(|part| part == b"host.example").unwrap() + 4;
    let (begins, ends) = hello.split_at(name);
    let packets = connection(&[(0, begins), (u32::try_from(name).unwrap(), ends)]);
    for big in [false, true] {
        let two = |n: usize| {
            let n = u16::try_from(n).unwrap();
            if big { n.to_be_bytes() } else { n.to_le_bytes() }
        };
        let four = |n: usize| {
            let n = u32::try_from(n).unwrap();
            if big { n.to_be_bytes() } else { n.to_le_bytes() }
        };
        let block = |kind: usize, mut body: Vec<u8>| {
            body.resize(body.len().next_multiple_of(4), 0);
            [&four(kind)[..], &four(12 + body.len()), &body, &four(12 + body.len())].concat()
        };
        let section = [&four(0x1a2b_3c4d)[..], &two(1), &two(0), &[0xff; 8]].concat();
        // A check sequence of 4 bytes behind each frame, as the interface says: in bits, as is right,
        // or in bytes; or as each packet says. And the most that is captured.
        let check = |bits: u8| [&two(13)[..], &two(1), &[bits, 0, 0, 0], &four(0)].concat();
        let flags =
            [&two(1)[..], &two(2), b"hi\0\0", &two(2), &two(4), &four(4 << 5), &four(0)].concat();
        for (what, options, flags) in
            [("bits", check(32), &[][..]), ("bytes", check(4), &[]), ("flags", vec![], &flags)]
        {
            for kind in [2, 3, 6] {
                if kind == 3 && what == "flags" {
                    continue; // a Simple Packet Block has none
                }
                let snap = 20_000;
                let interface = [&two(101)[..], &two(0), &four(snap), &options].concat();
                let mut file = [block(0x0a0d_0d0a, section.clone()), block(1, interface)].concat();
                for packet in &packets {
                    // With a length of 0, as a card that cuts by itself leaves it, nothing but the
                    // length of the frame tells where the payload ends.
                    let mut packet = packet.clone();
                    packet[2..4].fill(0);
                    packet.extend(b"FCS.");
                    let len = packet.len();
                    let padded = {
                        let mut padded = packet.clone();
                        padded.resize(len.next_multiple_of(4), 0);
                        padded
                    };
                    let body = match kind {
                        2 => {
                            [&two(0)[..], &two(0), &[0; 8], &four(len), &four(len), &padded, flags]
                                .concat()
                        }
                        3 => [&four(len)[..], &padded].concat(),
                        _ => {
                            [&four(0)[..], &[0; 8], &four(len), &four(len), &padded, flags].concat()
                        }
                    };
                    file.extend(block(kind, body));
                }
                let (flows, unread) = unread(&file);
                let [flow] = &flows[..] else { panic!("{what} {kind} {big}: {flows:?}") };
                assert_eq!(flow.sni.as_deref(), Some("host.example"), "{what} {kind} {big}");
                assert_eq!(unread, [], "{what} {kind} {big}");
            }
        }
    }
    // The link type of a pcap file with the length of the check sequence in its upper bits: two
    // units of two bytes.
    let checked: Vec<_> = packets.iter().map(|packet| [packet, &b"FCS."[..]].concat()).collect();
    let capture = pcap(101 | 0x0400_0000 | 2 << 28, &checked);
    assert_eq!(names(&capture), [Some("host.example".into())]);
}

#[test]
fn a_simple_packet_block_holds_what_the_interface_captures() {
    let section = [&0x1a2b_3c4d_u32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xff; 8]].concat();
    let mut file = block(0x0a0d_0d0a, &section);
    file.extend(block(1, &[&[101, 0, 0, 0][..], &41_u32.to_le_bytes()].concat()));
    // Bytes one by one, but for a segment in the name that is cut after its first: what it lacks comes
    // again behind it, and what pads it would stand in the name.
    let hello = hello();
    let name = hello.windows(4).position(|part| part == b"host").unwrap();
    let mut pieces: Vec<(u32, &[u8])> = (0..).zip(hello.chunks(1)).collect();
    pieces[name].1 = &hello[name..name + 3];
    for packet in connection(&pieces) {
        let len = u32::try_from(packet.len()).unwrap().to_le_bytes();
        file.extend(block(3, &[&len[..], &packet[..packet.len().min(41)]].concat()));
    }
    assert_eq!(names(&file), [Some("host.example".into())]);
}

#[test]
fn names_asked_for_in_clear_are_no_dtls() {
    // Questions of LLMNR, mDNS and NetBIOS, with every id that a record type could be.
    for kind in 20..=26 {
        for (flags, low) in [([0, 0], 1), ([0, 0x20], 1), ([0, 0x10], 1)] {
            let header = [kind, low, flags[0], flags[1], 0, 1, 0, 0, 0, 0, 0, 0];
            let question = [&header[..], b"\x06isatap\0\0\x01\0\x01"].concat();
            let file =
                [&u16::try_from(question.len()).unwrap().to_be_bytes()[..], &question].concat();
            let (flows, end) = inspect(&file, Form::Datagrams);
            end.unwrap();
            assert_eq!(flows[0].proto, Protocol::Other, "{kind}");
        }
    }
}

/// Inputs that failed once, which lie beside the repository.
#[test]
fn cases_that_failed_are_read_right() {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let shared = std::env::var_os("SCHENGATE_SHARED").map_or(beside, Into::into).join("cases");
    if !shared.is_dir() {
        println!("LEFT OUT: the cases are not here (set SCHENGATE_SHARED)");
        return;
    }
    for (case, file) in [
        ("rst-outside-window-min", "input.pcap"),
        ("rst-outside-window-then-syn-again", "input.pcap"),
        ("ipv6-fragments-tcp", "input.pcap"),
        ("silent-gre", "input.pcap"),
        ("silent-llc-snap", "input.pcap"),
        ("snaplen-empty-payload", "input.pcap"),
        ("pcapng-packet-block", "input.pcapng"),
        ("one-byte-segments-smtp", "input.pcap"),
        ("llmnr-id-1801", "input.dg"),
    ] {
        let form = if file == "input.dg" { Form::Datagrams } else { Form::Auto };
        let mut flows = Vec::new();
        let end = inspect_file(&shared.join(case).join(file), form, |flow| flows.push(flow));
        let expected = std::fs::read_to_string(shared.join(case).join("expect.json")).unwrap();
        let expected: serde_json::Value = serde_json::from_str(&expected).unwrap();
        let right = &expected["right"];
        assert!(!flows.is_empty() || end.is_err(), "{case}: nothing, and no word");
        if let Some(proto) = right.get("proto") {
            assert_eq!(flows[0].proto.label(), proto, "{case}");
        }
        let Some(right) = right["flows"].as_array() else { continue };
        assert_eq!(right.len(), flows.len(), "{case}: {flows:?}");
        for (right, flow) in right.iter().zip(&flows) {
            let flow = flow.to_json(None);
            for (key, value) in right.as_object().unwrap() {
                assert_eq!(&flow[key], value, "{case}: {key}");
            }
        }
    }
}

#[test]
fn the_fragments_of_an_ip_packet_are_joined() {
    let frame = flights::crypto_frame(0, &flights::quic_hello("quic.example", &[]));
    let datagram = flights::initial(rustls::quic::Version::V1, b"12345678", 0, &frame);
    assert_eq!(names(&pcap(101, &[udp(&datagram)])), [Some("quic.example".into())]);
    let mut whole = Vec::new();
    let builder = PacketBuilder::ipv4(CLIENT, SERVER, 64).udp(6000, 443);
    builder.write(&mut whole, &datagram).unwrap();
    let (header, payload) = whole.split_at(20);
    let fragment = |at: usize, bytes: &[u8], more: bool| {
        let mut packet = [header, bytes].concat();
        let len = u16::try_from(packet.len()).unwrap().to_be_bytes();
        packet[2..4].copy_from_slice(&len);
        packet[4..6].copy_from_slice(&[7, 7]);
        let flags = u16::try_from(at / 8).unwrap() | if more { 0x2000 } else { 0 };
        packet[6..8].copy_from_slice(&flags.to_be_bytes());
        packet
    };
    let fragments = [fragment(800, &payload[800..], false), fragment(0, &payload[..800], true)];
    assert_eq!(names(&pcap(101, &fragments)), [Some("quic.example".into())]);
}

#[test]
fn a_broken_capture_gives_its_flows_and_then_a_clear_error() {
    let capture = pcap(101, &connection(&[(0, &hello())]));
    let (flows, end) = inspect(&capture[..capture.len() - 3], Form::Auto);
    assert_eq!(flows.len(), 1, "the handshake was read");
    let message = fault(end).to_string();
    assert!(message.contains("ends inside a block"), "{message}");
    let numbered: Vec<_> = connection(&[]).into_iter().map(|packet| (3, packet)).collect();
    let message = fault(inspect(&pcapng(&[101], &numbered), Form::Auto).1).to_string();
    assert!(message.contains("not described"), "{message}");
    let message = fault(inspect(&pcap(147, &[vec![0; 9]]), Form::Auto).1).to_string();
    assert!(message.contains("link type 147"), "{message}");
    let mixed: Vec<_> = (0..2)
        .flat_map(|n| connection(&[(0, &hello())]).into_iter().map(move |p| (n, p)))
        .collect();
    let (flows, unread) = unread(&pcapng(&[147, 101], &mixed));
    assert_eq!(flows.len(), 1, "the other interface was read");
    assert_eq!(unread, [(Unread::LinkType(147), 3)]);
    // Both are said: that it is broken, and what was not read before that.
    let half = pcap(147, &[vec![0; 9], vec![0; 9]]);
    let both = inspect(&half[..half.len() - 3], Form::Auto).1.unwrap_err();
    assert!(matches!(both[..], [InspectFault::Broken { .. }, InspectFault::NotRead { .. }]));
    let (flows, end) = inspect(b"GET / HTTP/1.1\r\n", Form::Auto);
    assert!(flows.is_empty() && matches!(fault(end), InspectFault::NotACapture { .. }));
    let missing = inspect_file(Path::new("/nowhere/at/all"), Form::Auto, |_| {});
    assert!(matches!(missing.unwrap_err().0[..], [InspectFault::Read { .. }]));
}

#[test]
fn raw_datagrams_are_read_to_where_they_break() {
    let frame = flights::crypto_frame(0, &flights::quic_hello("quic.example", &[]));
    let datagram = flights::initial(rustls::quic::Version::V2, b"12345678", 0, &frame);
    let len = u16::try_from(datagram.len()).unwrap().to_be_bytes();
    let file = [&[0, 2, 9, 9][..], &len, &datagram].concat();
    let (flows, end) = inspect(&file, Form::Datagrams);
    end.unwrap();
    assert_eq!(flows[0].sni.as_deref(), Some("quic.example"));
    assert_eq!(flows[0].quic_version.as_deref(), Some("v2"));
    let (flows, end) = inspect(&file[..file.len() - 1], Form::Datagrams);
    assert_eq!((flows.len(), flows[0].sni.as_deref()), (1, None));
    assert!(matches!(fault(end), InspectFault::Broken { offset: 4, .. }));
    let (flows, _) = inspect(b"CONNECT a.example:443 HTTP/1.1\r\n\r\n", Form::Stream);
    assert_eq!(flows[0].host.as_deref(), Some("a.example:443"));
}

#[test]
fn memory_is_bounded_by_closing_the_oldest_flows() {
    // 66,000 connections that never end, each with half a hello: more than are kept in mind.
    let mut packets = Vec::new();
    let half = &hello()[..9];
    for n in 0..66_000_u32 {
        let [_, _, c, d] = n.to_be_bytes();
        let client = [10, u8::try_from(n >> 16).unwrap(), c, d];
        let builder = PacketBuilder::ipv4(client, SERVER, 64).tcp(5000, 443, 1, 9).ack(1);
        let mut packet = Vec::new();
        builder.write(&mut packet, half).unwrap();
        packets.push(packet);
    }
    let (flows, end) = inspect(&pcap(101, &packets), Form::Auto);
    end.unwrap();
    assert_eq!(flows.len(), 66_000);
    assert!(flows.iter().all(|flow| !flow.complete && flow.proto == Protocol::Tls));
}
