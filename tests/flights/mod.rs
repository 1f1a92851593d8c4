//! First flights made by rustls, the second opinion of these tests: hellos of its own client, and
//! Initial packets sealed under its own keys.
#![allow(dead_code, unreachable_pub, reason = "several tests include this file, each for a part")]

use std::sync::Arc;

use rustls::crypto::ring::{cipher_suite::TLS13_AES_128_GCM_SHA256, default_provider};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, Side, quic};
use tls_parser::{TlsExtension, TlsMessage, TlsMessageHandshake};

fn config(alpn: &[Vec<u8>]) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for both versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.to_vec();
    Arc::new(config)
}

fn server_name(name: &str) -> ServerName<'static> {
    ServerName::try_from(name.to_owned()).expect("tests give names that rustls takes")
}

/// The record in which rustls sends its hello over TCP.
pub fn tls_hello(name: &str, alpn: &[Vec<u8>]) -> Vec<u8> {
    let mut client = ClientConnection::new(config(alpn), server_name(name)).expect("a client");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("a vector takes all");
    hello
}

/// The same hello in a record of `len` bytes, made longer by ALPN protocols.
pub fn tls_hello_of(name: &str, len: usize) -> Vec<u8> {
    let mut alpn = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    while tls_hello(name, &alpn).len() + 130 < len {
        alpn.push(vec![b'x'; 100]);
    }
    let missing = len - tls_hello(name, &alpn).len();
    alpn.push(vec![b'y'; missing - 1]);
    let hello = tls_hello(name, &alpn);
    assert_eq!(hello.len(), len);
    hello
}

/// The handshake message in which rustls sends its hello over QUIC.
pub fn quic_hello(name: &str, alpn: &[Vec<u8>]) -> Vec<u8> {
    let version = quic::Version::V1;
    let mut client =
        quic::ClientConnection::new(config(alpn), version, server_name(name), vec![0; 40])
            .expect("a client");
    let mut hello = Vec::new();
    assert!(client.write_hs(&mut hello).is_none());
    hello
}

/// Every name that tls-parser reads in a handshake message; `None` where it stumbles.
pub fn tls_parser_names(message: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (_, message) = tls_parser::parse_tls_message_handshake(message).ok()?;
    let TlsMessage::Handshake(TlsMessageHandshake::ClientHello(hello)) = message else {
        return None;
    };
    let (_, extensions) = tls_parser::parse_tls_client_hello_extensions(hello.ext?).ok()?;
    let mut all = Vec::new();
    for extension in extensions {
        if let TlsExtension::SNI(names) = extension {
            all.extend(names.into_iter().map(|(_, name)| name.to_ascii_lowercase()));
        }
    }
    Some(all)
}

/// A handshake message in records that end at `cuts`.
pub fn records(message: &[u8], cuts: &[usize]) -> Vec<u8> {
    let mut ends: Vec<_> = cuts.iter().map(|cut| cut % message.len()).collect();
    ends.push(message.len());
    ends.sort_unstable();
    ends.dedup();
    let mut stream = Vec::new();
    let mut start = 0;
    for end in ends.into_iter().filter(|&end| end > 0) {
        let payload = &message[start..end];
        stream.extend([22, 3, 1]);
        stream.extend(u16::try_from(payload.len()).expect("records are short").to_be_bytes());
        stream.extend(payload);
        start = end;
    }
    stream
}

/// A CRYPTO frame (RFC 9000 §19.6).
pub fn crypto_frame(offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = vec![6];
    for number in [offset, bytes.len()] {
        frame.extend((0x8000_0000 | u32::try_from(number).expect("small")).to_be_bytes());
    }
    frame.extend(bytes);
    frame
}

/// An Initial packet of a client, in a datagram of at least 1200 bytes.
pub fn initial(version: quic::Version, dcid: &[u8], number: u32, frames: &[u8]) -> Vec<u8> {
    initial_to(version, dcid, dcid, number, frames)
}

/// An Initial packet to the id `dcid`, under the keys of the id `first`.
pub fn initial_to(
    version: quic::Version,
    first: &[u8],
    dcid: &[u8],
    number: u32,
    frames: &[u8],
) -> Vec<u8> {
    let suite = TLS13_AES_128_GCM_SHA256.tls13().expect("a suite of TLS 1.3");
    let algorithm = suite.quic.expect("ring has QUIC keys");
    let keys = quic::Keys::initial(version, suite, algorithm, first, Side::Client);
    // Their numbers, which rustls does not tell.
    let (kind, version) = if matches!(version, quic::Version::V2) {
        (1, 0x6b33_43cf)
    } else if matches!(version, quic::Version::V1Draft) {
        (0, 0xff00_001d)
    } else {
        (0, 1_u32)
    };
    let header_len = 1 + 4 + 1 + dcid.len() + 1 + 1 + 2 + 4;
    let mut payload = frames.to_vec();
    payload.resize(payload.len().max(1200 - header_len - 16), 0);
    let len = u16::try_from(4 + payload.len() + 16).expect("a datagram");
    let mut packet = vec![0xc0 | kind << 4 | 3];
    packet.extend(version.to_be_bytes());
    packet.push(u8::try_from(dcid.len()).expect("an id"));
    packet.extend(dcid);
    packet.extend([0, 0]); // no source id, no token
    packet.extend((0x4000 | len).to_be_bytes());
    packet.extend(number.to_be_bytes());
    let local = keys.local;
    let tag = local.packet.encrypt_in_place(number.into(), &packet, &mut payload).expect("sealed");
    packet.extend(payload);
    packet.extend(tag.as_ref());
    let (header, sealed) = packet.split_at_mut(header_len);
    let (first, rest) = header.split_at_mut(1);
    let number_at = rest.len() - 4;
    // The sample begins four bytes behind the start of the number, which has four bytes.
    local
        .header
        .encrypt_in_place(&sealed[..16], &mut first[0], &mut rest[number_at..])
        .expect("a sample of the right length");
    packet
}

/// The hello that rustls sends over TCP, in a DTLS 1.2 record, with the cookie that DTLS adds.
pub fn dtls_hello(name: &str) -> Vec<u8> {
    dtls_fragments(name, 1).remove(0)
}

/// The same in as many records, each in a datagram of its own.
pub fn dtls_fragments(name: &str, count: usize) -> Vec<Vec<u8>> {
    let tls = tls_hello(name, &[]);
    // Record header, message header; version and random; session id.
    let body = &tls[9..];
    let id_end = 35 + usize::from(body[34]);
    let mut hello = body[..id_end].to_vec();
    hello[..2].copy_from_slice(&[0xfe, 0xfd]);
    hello.push(0);
    hello.extend(&body[id_end..]);
    let u24 = |number: usize| {
        let [_, bytes @ ..] = u32::try_from(number).expect("small").to_be_bytes();
        bytes
    };
    let step = hello.len().div_ceil(count);
    let parts = hello.chunks(step).enumerate();
    let record = |(n, part): (usize, &[u8])| {
        // Type, length, sequence, where the fragment begins, its length (RFC 6347 §4.2.2).
        let mut message = vec![1];
        message.extend(u24(hello.len()));
        message.extend([0, 0]);
        message.extend([u24(n * step), u24(part.len())].concat());
        message.extend(part);
        let mut record = vec![22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0];
        record.push(u8::try_from(n).expect("few"));
        record.extend(u16::try_from(message.len()).expect("a datagram").to_be_bytes());
        record.extend(message);
        record
    };
    parts.map(record).collect()
}
