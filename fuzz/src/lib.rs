//! What each fuzz target checks. The repository's tests run the same functions over the seeds.

use std::io::Write;

use schengate::identify::dtls::DtlsReader;
use schengate::identify::quic::QuicReader;
use schengate::identify::starttls::{Upgrade, upgrade};
use schengate::identify::{Authority, Host, HostName, Identity, Protocol, Step, identify};
use schengate::inspect::{Form, ascii_json, inspect_file};

#[path = "../../tests/flights/mod.rs"]
mod flights;

/// An answer to any stream is final, and its name is the one that a second reader finds.
pub fn tls(data: &[u8]) {
    stream(data);
    // The same bytes as a handshake message in records, which damage alone seldom gets right.
    if data.len() > 4 {
        let mut message = data.to_vec();
        message[0] = 1;
        let len = u32::try_from(data.len() - 4).expect("short").to_be_bytes();
        message[1..4].copy_from_slice(&len[1..]);
        let cuts: Vec<_> = data.iter().take(4).map(|&cut| usize::from(cut)).collect();
        let whole = identity(&message, &[]);
        assert_eq!(whole, identity(&message, &cuts), "the cuts change the answer");
        if let (Some(ours), Some(theirs)) = (whole.1, second_opinion(&message)) {
            assert_eq!(ours, theirs);
        }
    }
}

fn identity(message: &[u8], cuts: &[usize]) -> (Protocol, Option<String>, Option<&'static str>) {
    let records = flights::records(message, cuts);
    let Step::Done(identity) = identify(&records, true) else { panic!("the stream has ended") };
    let name = identity.name.map(|(name, _)| name.to_string());
    (identity.protocol, name, identity.fault.map(|fault| fault.label()))
}

/// The name that tls-parser reads, where it reads one.
fn second_opinion(message: &[u8]) -> Option<String> {
    let name = flights::tls_parser_names(message)?.into_iter().next()?;
    Some(String::from_utf8_lossy(name.strip_suffix(b".").unwrap_or(&name)).into_owned())
}

fn stream(data: &[u8]) {
    let Step::Done(whole) = identify(data, true) else { panic!("the stream has ended") };
    consistent(&whole);
    let half = data.get(..data.len() / 2).unwrap_or_default();
    if let Step::Done(early) = identify(half, false) {
        assert_eq!(early.protocol, whole.protocol, "an answer is final");
        assert_eq!(early.fault, whole.fault, "an answer is final");
        assert_eq!(early.name, whole.name, "an answer is final");
    }
    if let Upgrade::Tls { at, .. } = upgrade(data) {
        assert!(at < data.len(), "TLS begins in the stream");
    }
}

fn consistent(identity: &Identity<'_>) {
    assert!(identity.name.is_none() || identity.fault.is_none(), "a fault leaves no name");
    identity.alpn.each(|protocol| assert!(!protocol.is_empty()));
    if let Some((name, _)) = identity.name {
        assert_eq!(HostName::parse(name.as_bytes()), Ok(name), "a name is in its one form");
    }
}

/// The bytes as datagrams, and as the frames of an Initial that opens.
pub fn quic(data: &[u8]) {
    let mut quic = QuicReader::new();
    let mut dtls = DtlsReader::default();
    for (number, frames) in (0..).zip(data.chunks(1300).take(8)) {
        quic.push(&flights::initial(rustls::quic::Version::V1, b"12345678", number, frames));
    }
    consistent(&quic.identity());
    for datagram in data.chunks(600).take(32) {
        quic.push(datagram);
        dtls.push(datagram);
    }
    consistent(&quic.identity());
    consistent(&dtls.identity());
    assert!(quic.held() < 1024 * 1024, "memory is bounded");
}

/// A request head; one with a name has exactly one Host or absolute target.
pub fn http(data: &[u8]) {
    stream(data);
    let Step::Done(identity) = identify(data, true) else { panic!("the stream has ended") };
    let Some(head) = identity.http else { return };
    assert!(head.len <= data.len(), "the head lies in the stream");
    if identity.name.is_some() {
        let text = data[..head.len].to_ascii_lowercase();
        let hosts = text.windows(7).filter(|window| window == b"\r\nhost:").count();
        assert!(hosts == 1 || hosts == 0 && head.target_authority().is_some());
    }
}

/// An authority is read to one host, which is written back the same.
pub fn connect_target(data: &[u8]) {
    let Ok(authority) = Authority::parse_connect(data) else { return };
    let port = authority.port.expect("a CONNECT target has a port");
    let text = match authority.host {
        Host::Name(name) => format!("{name}:{port}"),
        Host::Address(std::net::IpAddr::V4(address)) => format!("{address}:{port}"),
        Host::Address(std::net::IpAddr::V6(address)) => format!("[{address}]:{port}"),
    };
    assert_eq!(Authority::parse_connect(text.as_bytes()), Ok(authority));
}

/// A capture, or any file: flows or a clear error, and JSON that any terminal may see.
pub fn pcap(data: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(data).expect("room for it");
    for form in [Form::Auto, Form::Stream, Form::Datagrams] {
        let end = inspect_file(file.path(), form, |flow| {
            let line = ascii_json(&flow.to_json(None));
            assert!(line.bytes().all(|byte| matches!(byte, b' '..=b'~')));
        });
        if let Err(fault) = end {
            assert!(!fault.to_string().is_empty());
        }
    }
}
