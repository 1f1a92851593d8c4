//! Properties of the readers of first flights, with rustls and tls-parser as second opinions.

use proptest::prelude::*;
use rustls::quic::Version;
use rustls::server::Acceptor;
use schengate::identify::dtls::{DtlsReader, DtlsStep};
use schengate::identify::quic::{QuicReader, QuicStep};
use schengate::identify::socks::{self, Command, Destination, Part, Unserved};
use schengate::identify::{
    Fault, Host, HostName, Identity, Missing, Progress, Protocol, Step, identify, identify_further,
};

use crate::flights::{crypto_frame, initial, quic_hello, records, tls_hello, tls_parser_names};

const DCID: &[u8] = b"\x83\x94\xc8\xf0\x3e\x51\x57\x08";

fn name(identity: &Identity<'_>) -> Option<String> {
    identity.name.map(|(name, _)| name.to_string())
}

fn alpn(identity: &Identity<'_>) -> Vec<Vec<u8>> {
    let mut list = Vec::new();
    identity.alpn.each(|protocol| list.push(protocol.to_vec()));
    list
}

fn done(seen: &[u8]) -> Identity<'_> {
    match identify(seen, false) {
        Step::Done(identity) => identity,
        Step::NeedMore(_) => panic!("needs more than {} bytes", seen.len()),
    }
}

/// All that an answer says, to compare two.
fn summary(
    identity: &Identity<'_>,
) -> (Protocol, Option<String>, Option<Fault>, Vec<Vec<u8>>, u16) {
    let version = identity.tls_version;
    (identity.protocol, name(identity), identity.fault, alpn(identity), version)
}

/// What rustls reads in a stream.
fn rustls_reads(mut stream: &[u8]) -> Option<(Option<String>, Vec<Vec<u8>>)> {
    let mut acceptor = Acceptor::default();
    while !stream.is_empty() {
        acceptor.read_tls(&mut stream).ok()?;
        if let Some(accepted) = acceptor.accept().ok()? {
            let hello = accepted.client_hello();
            let alpn = hello.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect();
            return Some((hello.server_name().map(str::to_lowercase), alpn));
        }
    }
    None
}

/// The one name that tls-parser reads in a handshake message; `None` where it reads none, several,
/// or stumbles.
fn tls_parser_reads(message: &[u8]) -> Option<String> {
    match &tls_parser_names(message)?[..] {
        [name] => String::from_utf8(name.clone()).ok(),
        _ => None,
    }
}

fn host_name() -> impl Strategy<Value = String> {
    "[a-z]([a-z0-9-]{0,30}[a-z0-9])?(\\.[a-z]([a-z0-9-]{0,30}[a-z0-9])?){1,4}"
}

fn protocols() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..20)
}

/// Pieces of a message, in any order, some of them twice.
fn frames(message: &[u8], cuts: &[usize], order: &[usize]) -> Vec<(usize, Vec<u8>)> {
    let mut ends: Vec<_> = cuts.iter().map(|cut| cut % message.len()).collect();
    ends.extend([0, message.len()]);
    ends.sort_unstable();
    ends.dedup();
    let mut pieces: Vec<_> =
        ends.windows(2).map(|ends| (ends[0], message[ends[0]..ends[1]].to_vec())).collect();
    for (i, &other) in order.iter().enumerate() {
        let len = pieces.len();
        pieces.swap(i % len, other % len);
    }
    if let Some(&twice) = order.first() {
        pieces.push(pieces[twice % pieces.len()].clone());
    }
    pieces
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_hello_of_rustls_reads_as_rustls_reads_it(
        host in host_name(),
        protocols in protocols(),
        cuts in prop::collection::vec(any::<usize>(), 0..40),
    ) {
        let hello = tls_hello(&host, &protocols);
        let stream = records(&hello[5..], &cuts);
        let identity = done(&stream);
        prop_assert_eq!(name(&identity), Some(host.clone()));
        prop_assert_eq!(alpn(&identity), protocols.clone());
        prop_assert_eq!(identity.tls_version, 0x0304);
        prop_assert_eq!(rustls_reads(&stream), Some((Some(host.clone()), protocols)));
        prop_assert_eq!(tls_parser_reads(&hello[5..]), Some(host));
    }

    #[test]
    fn every_strict_prefix_of_a_hello_needs_more(
        host in host_name(),
        cuts in prop::collection::vec(any::<usize>(), 0..40),
    ) {
        let stream = records(&tls_hello(&host, &[])[5..], &cuts);
        for end in 0..stream.len() {
            prop_assert!(matches!(identify(&stream[..end], false), Step::NeedMore(_)), "at {}", end);
        }
    }

    /// Where this reader, rustls and tls-parser all read a name in a damaged hello, it is one name;
    /// and once there is an answer, more bytes do not change it.
    #[test]
    fn a_damaged_hello_has_no_second_reading(
        host in host_name(),
        cuts in prop::collection::vec(any::<usize>(), 0..4),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        end in any::<prop::sample::Index>(),
    ) {
        let mut stream = records(&tls_hello(&host, &[b"h2".to_vec()])[5..], &cuts);
        for (at, byte) in damage {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        let Step::Done(identity) = identify(&stream, true) else { panic!("the stream has ended") };
        if let (Some(ours), Some((Some(theirs), _))) = (name(&identity), rustls_reads(&stream)) {
            prop_assert_eq!(ours, theirs);
        }
        if cuts.is_empty()
            && let (Some(ours), Some(theirs)) = (name(&identity), tls_parser_reads(&stream[5..]))
        {
            prop_assert_eq!(ours, theirs.trim_end_matches('.'));
        }
        if let Step::Done(early) = identify(&stream[..end.index(stream.len())], false) {
            prop_assert_eq!(summary(&early), summary(&identity));
        }
    }

    #[test]
    fn an_answer_is_final_and_no_bytes_are_too_strange(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        start in prop::sample::select(vec![
            &b""[..], b"\x16\x03\x01", b"\x16\x03\x01\x00\x40\x01\x00\x00\x3c\x03\x03", b"\x80\x40\x01\x03",
            b"GET / HTTP/1.1\r\nHost: ", b"CONNECT a.example:443 HTTP/1.1\r\n", b"PRI * HTTP/2", b"\r\n",
        ]),
        end in any::<prop::sample::Index>(),
    ) {
        let stream = [start, &bytes].concat();
        let Step::Done(whole) = identify(&stream, true) else { panic!("the stream has ended") };
        prop_assert!(whole.name.is_none() || whole.fault.is_none());
        if let Step::Done(early) = identify(&stream[..end.index(stream.len() + 1)], false) {
            prop_assert_eq!(summary(&early), summary(&whole));
        }
    }

    /// However a stream is cut into segments, and however often it is looked at on the way, its
    /// answer is that of the whole; and an answer that falls early is that one too.
    #[test]
    fn any_segments_give_the_answer_of_the_whole(
        host in host_name(),
        cuts in prop::collection::vec(any::<usize>(), 0..40),
        fields in prop::collection::vec("[A-Za-z]{1,9}: ?[ -~]{0,30}", 0..8),
        http in any::<bool>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        segments in prop::collection::vec(1_usize..400, 1..60),
        behind in prop::collection::vec(any::<u8>(), 0..30),
    ) {
        let mut stream = if http {
            let lines: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
            format!("GET / HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n").into_bytes()
        } else {
            records(&tls_hello(&host, &[b"h2".to_vec()])[5..], &cuts)
        };
        for (at, byte) in damage {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        stream.extend(behind);
        let Step::Done(whole) = identify(&stream, true) else { panic!("the stream has ended") };
        let (mut progress, mut wanted, mut end) = (Progress::default(), None::<Missing>, 0);
        for segment in segments.iter().cycle() {
            let before = end;
            end = stream.len().min(end + segment);
            let (seen, ended) = (&stream[..end], end == stream.len());
            if !ended && wanted.is_some_and(|missing| !missing.has_come(seen, before)) {
                // What is waited for changes nothing until it has come.
                let waits = matches!(identify(seen, false), Step::NeedMore(_));
                prop_assert!(waits, "{:?} at {}", wanted, end);
                continue;
            }
            match identify_further(seen, ended, &mut progress) {
                Step::NeedMore(missing) => wanted = Some(missing),
                Step::Done(identity) => {
                    prop_assert_eq!(summary(&identity), summary(&whole));
                    break;
                }
            }
        }
    }

    /// A SOCKS5 client's messages ask for their own bytes alone, and say the same whatever has come
    /// with them.
    #[test]
    fn a_socks_request_is_the_same_in_any_segments(
        host in host_name(),
        methods in prop::collection::vec(any::<u8>(), 0..8),
        port in any::<u16>(),
        behind in prop::collection::vec(any::<u8>(), 0..30),
    ) {
        let name_len = u8::try_from(host.len()).unwrap();
        let greeting = [&[5, u8::try_from(methods.len()).unwrap()][..], &methods].concat();
        let request = [&[5, 1, 0, 3, name_len][..], host.as_bytes(), &port.to_be_bytes()].concat();
        for end in 0..greeting.len() {
            let Part::Missing(missing) = socks::greeting(&greeting[..end]) else { panic!("{end}") };
            prop_assert!(missing > 0 && end + missing <= greeting.len());
        }
        for end in 0..request.len() {
            let Part::Missing(missing) = socks::request(&request[..end]) else { panic!("{end}") };
            prop_assert!(missing > 0 && end + missing <= request.len());
        }
        let offered = socks::greeting(&[&greeting[..], &behind].concat());
        prop_assert_eq!(offered, Part::Whole(methods.contains(&0)));
        let host = Host::Name(HostName::parse(host.as_bytes()).unwrap());
        let expected = if port == 0 {
            Err(Unserved::Destination)
        } else {
            Ok(Command::Connect(Destination { host, port }))
        };
        prop_assert_eq!(socks::request(&[&request[..], &behind].concat()), Part::Whole(expected));
    }

    #[test]
    fn a_quic_hello_reads_the_same_from_frames_and_datagrams_in_any_order(
        host in host_name(),
        protocols in protocols(),
        cuts in prop::collection::vec(any::<usize>(), 0..30),
        order in prop::collection::vec(any::<usize>(), 0..30),
        per_datagram in 1_usize..8,
        version in prop::sample::select(vec![Version::V1, Version::V2, Version::V1Draft]),
    ) {
        let hello = quic_hello(&host, &protocols);
        let pieces = frames(&hello, &cuts, &order);
        let mut reader = QuicReader::new();
        let mut last = QuicStep::Nothing;
        for (number, pieces) in pieces.chunks(per_datagram).enumerate() {
            let mut payload = vec![1, 0, 0, 2, 5, 0, 0, 3]; // PING, PADDING, ACK
            for (offset, bytes) in pieces {
                payload.extend(crypto_frame(*offset, bytes));
                payload.push(0);
            }
            let number = u32::try_from(number).unwrap();
            last = reader.push(&initial(version, DCID, number, &payload));
            prop_assert!(matches!(last, QuicStep::NeedMore | QuicStep::Done));
        }
        let identity = reader.identity();
        prop_assert_eq!(last, QuicStep::Done);
        prop_assert_eq!(identity.fault, None);
        prop_assert_eq!(name(&identity), Some(host));
        prop_assert_eq!(alpn(&identity), protocols);
    }

    #[test]
    fn a_dtls_hello_reads_the_same_from_fragments_in_any_order(
        host in host_name(),
        cuts in prop::collection::vec(any::<usize>(), 0..10),
        order in prop::collection::vec(any::<usize>(), 0..10),
        cookie in prop::collection::vec(any::<u8>(), 0..32),
    ) {
        let body = dtls_body(&host, &cookie);
        let mut reader = DtlsReader::default();
        let mut last = DtlsStep::Nothing;
        for (offset, bytes) in frames(&body, &cuts, &order) {
            last = reader.push(&dtls_record(&body, 0, offset, &bytes));
        }
        prop_assert_eq!(last, DtlsStep::Done);
        prop_assert_eq!(name(&reader.identity()), Some(host));
        prop_assert_eq!(reader.identity().protocol, Protocol::Dtls);
    }

    #[test]
    fn no_datagram_is_too_strange(
        datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 1..4),
        frames in prop::collection::vec(any::<u8>(), 0..200),
        start in prop::sample::select(vec![
            &b""[..], b"\xc0\0\0\0\x01\x08", b"\xd0\x6b\x33\x43\xcf\x08", b"\x16\xfe\xfd\0\0\0\0\0\0\0\0",
        ]),
    ) {
        let mut quic = QuicReader::new();
        let mut dtls = DtlsReader::default();
        quic.push(&initial(Version::V1, DCID, 0, &frames));
        for datagram in datagrams {
            let datagram = [start, &datagram].concat();
            quic.push(&datagram);
            dtls.push(&datagram);
        }
        prop_assert!(quic.identity().name.is_none());
        prop_assert!(dtls.identity().name.is_none());
    }
}

/// The body of a DTLS hello: that of a TLS hello, with a cookie behind the session id.
fn dtls_body(host: &str, cookie: &[u8]) -> Vec<u8> {
    let hello = tls_hello(host, &[]);
    let body = &hello[9..];
    let session_end = 35 + usize::from(body[34]);
    let cookie_len = [u8::try_from(cookie.len()).unwrap()];
    [&body[..session_end], &cookie_len, cookie, &body[session_end..]].concat()
}

fn dtls_record(body: &[u8], sequence: u8, offset: usize, fragment: &[u8]) -> Vec<u8> {
    let three = |len: usize| u32::try_from(len).unwrap().to_be_bytes()[1..].to_vec();
    let mut payload = vec![1];
    payload.extend(three(body.len()));
    payload.extend([0, sequence]);
    payload.extend(three(offset));
    payload.extend(three(fragment.len()));
    payload.extend(fragment);
    let mut record = vec![22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, sequence];
    record.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    record.extend(payload);
    record
}

#[test]
fn a_second_dtls_hello_must_name_the_same_host() {
    let (first, second) = (dtls_body("a.example", b""), dtls_body("b.example", b"cookie"));
    let mut reader = DtlsReader::default();
    assert_eq!(reader.push(&dtls_record(&first, 0, 0, &first)), DtlsStep::Done);
    let again = dtls_body("a.example", b"cookie");
    assert_eq!(reader.push(&dtls_record(&again, 1, 0, &again)), DtlsStep::Done);
    assert_eq!(name(&reader.identity()).as_deref(), Some("a.example"));
    assert_eq!(reader.push(&dtls_record(&second, 2, 0, &second)), DtlsStep::Done);
    assert_eq!(reader.identity().fault, Some(Fault::NameChanged));
    assert_eq!(reader.identity().name, None);
}

fn pushed(datagrams: &[Vec<u8>]) -> (QuicStep, Option<String>, Option<Fault>) {
    let mut reader = QuicReader::new();
    let mut last = QuicStep::Nothing;
    for datagram in datagrams {
        last = reader.push(datagram);
    }
    let identity = reader.identity();
    (last, name(&identity), identity.fault)
}

#[test]
fn junk_in_front_of_an_initial_does_not_hide_it() {
    let hello = crypto_frame(0, &quic_hello("host.example", &[]));
    let good = initial(Version::V1, DCID, 0, &hello);
    let mut broken = initial(Version::V1, b"another!", 0, &hello);
    broken[600] ^= 1;
    let named = Some("host.example".to_owned());
    for junk in [vec![], vec![0x40; 1200], vec![0xff; 1200], broken.clone()] {
        assert_eq!(pushed(&[junk, good.clone()]), (QuicStep::Done, named.clone(), None));
    }
    assert_eq!(pushed(&[broken]), (QuicStep::Unread, None, None));
}

#[test]
fn a_sacrificial_half_hello_keeps_the_flow_open() {
    let first = quic_hello("permitted.example", &[]);
    let second = quic_hello("foreign.example", &[]);
    let half = initial(Version::V1, b"11111111", 0, &crypto_frame(0, &first[..60]));
    let other = initial(Version::V1, b"22222222", 0, &crypto_frame(0, &second));
    let rest = initial(Version::V1, b"11111111", 1, &crypto_frame(60, &first[60..]));
    assert_eq!(pushed(&[half.clone(), other.clone()]).0, QuicStep::NeedMore);
    let all = pushed(&[half, other, rest]);
    assert_eq!(all, (QuicStep::Done, None, Some(Fault::NameChanged)));
}

#[test]
fn a_retry_and_a_second_hello_are_read_as_the_first() {
    let hello = quic_hello("host.example", &[]);
    let other = quic_hello("other.example", &[]);
    let first = initial(Version::V1, DCID, 0, &crypto_frame(0, &hello));
    let retried = initial(Version::V1, b"from server", 1, &crypto_frame(0, &hello));
    let named = Some("host.example".to_owned());
    assert_eq!(pushed(&[first.clone(), retried]), (QuicStep::Done, named.clone(), None));
    // HelloRetryRequest: the stream goes on, under the keys of the first id.
    for (second, expected) in [
        (&hello, (QuicStep::Done, named, None)),
        (&other, (QuicStep::Done, None, Some(Fault::NameChanged))),
    ] {
        let again = initial(Version::V1, DCID, 1, &crypto_frame(hello.len(), second));
        assert_eq!(pushed(&[first.clone(), again]), expected);
    }
}

#[test]
fn fragments_that_contradict_each_other_are_a_fault() {
    let hello = quic_hello("host.example", &[]);
    let mut other = hello.clone();
    other[50] ^= 1;
    let first = initial(Version::V1, DCID, 0, &crypto_frame(0, &hello[..100]));
    let second = initial(Version::V1, DCID, 1, &crypto_frame(40, &other[40..]));
    let overlap = (QuicStep::Done, None, Some(Fault::Overlap));
    assert_eq!(pushed(&[first, second]), overlap);
}

#[test]
fn a_datagram_is_of_one_connection() {
    let hello = crypto_frame(0, &quic_hello("host.example", &[]));
    let one = initial(Version::V1, DCID, 0, &hello);
    let two = initial(Version::V1, b"another!", 0, &hello);
    let coalesced = (QuicStep::Done, None, Some(Fault::Coalesced));
    assert_eq!(pushed(&[[one, two].concat()]), coalesced);
}

#[test]
fn frames_that_no_initial_holds_are_a_fault() {
    let hello = crypto_frame(0, &quic_hello("host.example", &[]));
    for bad in
        [&[4][..], &[8, 0], &[0x1e], &[6, 0, 0x7f, 0xff], &[2, 0, 0, 0xbf, 0xff, 0xff, 0xff, 0]]
    {
        let datagram = initial(Version::V1, DCID, 0, &[&hello[..], bad].concat());
        // A frame cut short reaches into the padding, and over its end.
        assert_eq!(pushed(&[datagram]), (QuicStep::Done, None, Some(Fault::Frame)), "{bad:?}");
    }
    let pings = [vec![1; 1100], hello].concat();
    let datagram = initial(Version::V1, DCID, 0, &pings);
    assert_eq!(pushed(&[datagram]).2, Some(Fault::TooManyPieces));
}

#[test]
fn versions_that_are_not_read_are_quic_without_a_name() {
    for (version, text) in [
        (0x1a2a_3a4a_u32, "grease-1a2a3a4a"),
        (0xff00_0013, "draft-19"),
        (0xcafe_f00d, "cafef00d"),
        (0x5130_3436, "Q046"),
    ] {
        let mut datagram = initial(Version::V1, DCID, 0, &[]);
        datagram[1..5].copy_from_slice(&version.to_be_bytes());
        let mut reader = QuicReader::new();
        assert_eq!(reader.push(&datagram), QuicStep::Unread, "{text}");
        assert_eq!(reader.version().map(|version| version.to_string()).as_deref(), Some(text));
        let identity = reader.identity();
        assert_eq!((identity.protocol, identity.name), (Protocol::Quic, None));
    }
}
