//! Readers of first flights over UDP.

use rustls::quic::Version;
use schengate::identify::dtls::DtlsReader;
use schengate::identify::quic::{QuicReader, QuicStep};
use schengate::identify::{Fault, Identity};

use super::{consistent, directed, flights, summary};

const DCID: &[u8] = b"12345678";

/// The bytes as datagrams, as the frames of an Initial that opens, as a hello in frames of any cut
/// and order, and as an Initial whose header they choose.
pub fn quic(data: &[u8]) {
    let mut quic = QuicReader::new();
    for (number, frames) in (0..).zip(data.chunks(1300).take(8)) {
        quic.push(&flights::initial(Version::V1, DCID, number, frames));
    }
    consistent(&quic.identity());
    for datagram in data.chunks(600).take(32) {
        quic.push(datagram);
    }
    consistent(&quic.identity());
    assert!(quic.held() < 1024 * 1024, "memory is bounded");
    in_any_order(data);
    sealed_by_rustls(data);
}

/// A hello is read the same from one frame after the other and from frames of another cut in
/// another order.
fn in_any_order(data: &[u8]) {
    let Some((directions, hello)) = directed::<6>(data) else { return };
    if hello.is_empty() || hello.len() > 16_000 {
        return;
    }
    let straight = pieces(hello, &[], &[]);
    let crossed = pieces(hello, &directions[..3], &directions[3..]);
    let read = |pieces: &[(usize, &[u8])]| {
        let mut quic = QuicReader::new();
        for (number, (offset, bytes)) in (0..).zip(pieces) {
            let frame = flights::crypto_frame(*offset, bytes);
            quic.push(&flights::initial(Version::V1, DCID, number, &frame));
        }
        let identity = quic.identity();
        consistent(&identity);
        summary(&identity)
    };
    assert_eq!(read(&straight), read(&crossed), "the order changes the answer");
}

/// Pieces of at most 1200 bytes, also cut at `cuts`, some of them swapped.
fn pieces<'a>(whole: &'a [u8], cuts: &[usize], order: &[usize]) -> Vec<(usize, &'a [u8])> {
    let mut ends: Vec<_> = cuts.iter().map(|cut| cut * 7 % whole.len()).collect();
    ends.extend((0..whole.len()).step_by(1200));
    ends.push(whole.len());
    ends.sort_unstable();
    ends.dedup();
    let mut pieces: Vec<_> =
        ends.windows(2).map(|ends| (ends[0], &whole[ends[0]..ends[1]])).collect();
    for (i, &other) in order.iter().enumerate() {
        let len = pieces.len();
        pieces.swap(i % len, other % len);
    }
    pieces
}

/// What rustls seals, whatever its ids and numbers, is opened: its hello is read.
fn sealed_by_rustls(data: &[u8]) {
    let Some(([version, number], id)) = directed(data) else { return };
    let version = [Version::V1, Version::V2, Version::V1Draft][version % 3];
    let id = id.get(..20).unwrap_or(id);
    let hello = flights::quic_hello("host.example", &[]);
    let number = u32::try_from(number).expect("a byte") << 8;
    let datagram = flights::initial(version, id, number, &flights::crypto_frame(0, &hello));
    let mut quic = QuicReader::new();
    assert_eq!(quic.push(&datagram), QuicStep::Done, "{version:?} {id:02x?}");
    let name = |identity: &Identity<'_>| identity.name.map(|(name, _)| name.to_string());
    assert_eq!(name(&quic.identity()).as_deref(), Some("host.example"));
    // One bit of it changed: nothing opens, and no name is read.
    let mut broken = datagram;
    let last = broken.len() - 1;
    broken[last - data.len() % 900] ^= 1;
    let mut quic = QuicReader::new();
    assert_eq!(quic.push(&broken), QuicStep::Unread);
    assert_eq!(name(&quic.identity()), None);
}

/// The bytes as datagrams, and as the body of a hello in fragments of any cut and order.
pub fn dtls(data: &[u8]) {
    let mut dtls = DtlsReader::default();
    for datagram in data.chunks(300).take(64) {
        dtls.push(datagram);
        consistent(&dtls.identity());
    }
    assert!(dtls.held() < 1024 * 1024, "memory is bounded");
    let Some((directions, body)) = directed::<6>(data) else { return };
    if body.is_empty() || body.len() > 16_000 {
        return;
    }
    let read = |pieces: &[(usize, &[u8])]| {
        let mut dtls = DtlsReader::default();
        for (offset, bytes) in pieces {
            dtls.push(&fragment(body.len(), *offset, bytes));
        }
        let identity = dtls.identity();
        assert_ne!(identity.fault, Some(Fault::Overlap));
        summary(&identity)
    };
    let straight = read(&pieces(body, &[], &[]));
    let crossed = read(&pieces(body, &directions[..3], &directions[3..]));
    assert_eq!(straight, crossed, "the order changes the answer");
}

/// A DTLS record of one fragment of a ClientHello (RFC 6347 §4.2.2).
fn fragment(len: usize, offset: usize, bytes: &[u8]) -> Vec<u8> {
    let three = |len: usize| u32::try_from(len).expect("short").to_be_bytes();
    let mut payload = vec![1];
    payload.extend(&three(len)[1..]);
    payload.extend([0, 0]);
    payload.extend(&three(offset)[1..]);
    payload.extend(&three(bytes.len())[1..]);
    payload.extend(bytes);
    let mut record = vec![22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0];
    record.extend(u16::try_from(payload.len()).expect("short").to_be_bytes());
    record.extend(payload);
    record
}
