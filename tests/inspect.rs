//! Captures of every form that `inspect` reads, made here, and what comes out of them.

use std::io::Write;
use std::path::Path;

use etherparse::PacketBuilder;
use schengate::identify::{NameSource, Protocol};
use schengate::inspect::{Flow, Form, InspectFault, inspect_file};
use schengate::policy::Transport;

mod flights;

const CLIENT: [u8; 4] = [192, 0, 2, 1];
const SERVER: [u8; 4] = [203, 0, 113, 7];

#[derive(Clone, Copy)]
enum Flag {
    Syn,
    SynAck,
    Data,
    Fin,
}

/// A TCP packet over IPv4, without a link layer.
fn tcp(to_server: bool, sequence: u32, flag: Flag, payload: &[u8]) -> Vec<u8> {
    let (from, to, ports) =
        if to_server { (CLIENT, SERVER, (5000, 443)) } else { (SERVER, CLIENT, (443, 5000)) };
    let builder = PacketBuilder::ipv4(from, to, 64).tcp(ports.0, ports.1, sequence, 65_000);
    let builder = match flag {
        Flag::Syn => builder.syn(),
        Flag::SynAck => builder.syn().ack(1001),
        Flag::Data => builder.ack(1),
        Flag::Fin => builder.ack(1).fin(),
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

fn inspect(bytes: &[u8], form: Form) -> (Vec<Flow>, Result<(), InspectFault>) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let mut flows = Vec::new();
    let end = inspect_file(file.path(), form, |flow| flows.push(flow));
    (flows, end)
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
    let mut packets = vec![tcp(true, 1000, Flag::Syn, &[]), tcp(false, 7000, Flag::SynAck, &[])];
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
    let (flows, _) = inspect(&pcap(101, &gap), Form::Auto);
    assert!(!flows[0].complete && flows[0].sni.is_none());
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
    let message = end.unwrap_err().to_string();
    assert!(message.contains("ends inside a block"), "{message}");
    let numbered: Vec<_> = connection(&[]).into_iter().map(|packet| (3, packet)).collect();
    let message = inspect(&pcapng(&[101], &numbered), Form::Auto).1.unwrap_err().to_string();
    assert!(message.contains("not described"), "{message}");
    let message = inspect(&pcap(147, &[vec![0; 9]]), Form::Auto).1.unwrap_err().to_string();
    assert!(message.contains("link type 147"), "{message}");
    let mixed: Vec<_> = (0..2)
        .flat_map(|n| connection(&[(0, &hello())]).into_iter().map(move |p| (n, p)))
        .collect();
    let (flows, end) = inspect(&pcapng(&[147, 101], &mixed), Form::Auto);
    assert_eq!(flows.len(), 1, "the other interface was read");
    assert!(matches!(end, Err(InspectFault::LinkType { link_type: 147, .. })));
    let (flows, end) = inspect(b"GET / HTTP/1.1\r\n", Form::Auto);
    assert!(flows.is_empty() && matches!(end, Err(InspectFault::NotACapture { .. })));
    let missing = inspect_file(Path::new("/nowhere/at/all"), Form::Auto, |_| {});
    assert!(matches!(missing, Err(InspectFault::Read { .. })));
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
    assert!(matches!(end, Err(InspectFault::Broken { offset: 4, .. })));
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
