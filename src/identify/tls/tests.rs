//! Hellos of every form, read; and the hellos that other tests read.

use super::super::records::RECORD_MAX;
use super::super::{Identity, NameSource, Protocol, Step, identify};
use super::*;

/// A minimal hello in one record.
pub(crate) fn hello(name: &[u8]) -> Vec<u8> {
    hello_with(name, &[])
}

/// The same, with empty extensions behind the name.
pub(crate) fn hello_with(name: &[u8], more: &[u16]) -> Vec<u8> {
    let mut extensions = extension(SERVER_NAME, &server_name(name));
    extensions.extend(more.iter().flat_map(|&kind| extension(kind, &[])));
    record(&message(&extensions))
}

/// A hello of the largest size, its name at the end, in records of `len` bytes.
pub(crate) fn largest_in_records(len: usize) -> Vec<u8> {
    let name = extension(SERVER_NAME, &server_name(b"host.example"));
    let padding = vec![0; HELLO_MAX - 43 - name.len() - 4];
    let message = message(&[extension(21, &padding), name].concat());
    assert_eq!(message.len(), HELLO_MAX + 4);
    records(&message, len)
}

fn server_name(name: &[u8]) -> Vec<u8> {
    let entry = [&[0][..], &u16(name.len()), name].concat();
    [&u16(entry.len())[..], &entry].concat()
}

fn u16(len: usize) -> [u8; 2] {
    u16::try_from(len).unwrap().to_be_bytes()
}

fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &u16(body.len()), body].concat()
}

fn message(extensions: &[u8]) -> Vec<u8> {
    with_fields(&[0], &[0, 2, 0x13, 0x01], &[1, 0], extensions)
}

fn with_fields(session: &[u8], suites: &[u8], compression: &[u8], rest: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([session, suites, compression].concat());
    body.extend(u16(rest.len()));
    body.extend(rest);
    handshake(&body)
}

fn handshake(body: &[u8]) -> Vec<u8> {
    let [_, len @ ..] = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[CLIENT_HELLO][..], &len, body].concat()
}

fn record(payload: &[u8]) -> Vec<u8> {
    [&[HANDSHAKE, 3, 1][..], &u16(payload.len()), payload].concat()
}

fn records(message: &[u8], len: usize) -> Vec<u8> {
    message.chunks(len).flat_map(record).collect()
}

fn done(seen: &[u8]) -> Identity<'_> {
    match identify(seen, false) {
        Step::Done(identity) => identity,
        Step::NeedMore(_) => panic!("needs more than {} bytes", seen.len()),
    }
}

fn name(seen: &[u8]) -> String {
    let identity = done(seen);
    assert_eq!((identity.protocol, identity.fault), (Protocol::Tls, None));
    let (name, source) = identity.name.unwrap();
    assert_eq!(source, NameSource::Sni);
    name.to_string()
}

fn fault(seen: &[u8]) -> Fault {
    let identity = done(seen);
    assert_eq!(identity.protocol, Protocol::Tls, "a malformed hello is still TLS");
    assert!(identity.name.is_none());
    identity.fault.unwrap()
}

#[test]
fn a_hello_reads_the_same_in_records_of_any_length() {
    let message = message(&extension(SERVER_NAME, &server_name(b"pacs.Example.eu.")));
    for len in 1..=message.len() {
        assert_eq!(name(&records(&message, len)), "pacs.example.eu", "records of {len}");
    }
}

#[test]
fn every_strict_prefix_of_a_hello_needs_more_and_is_incomplete_at_the_end() {
    let message = message(&extension(SERVER_NAME, &server_name(b"host.example")));
    for hello in [records(&message, 1), records(&message, 60), record(&message)] {
        for end in 0..hello.len() {
            let part = &hello[..end];
            assert!(matches!(identify(part, false), Step::NeedMore(_)), "at {end}");
            let Step::Done(identity) = identify(part, true) else { panic!("at {end}") };
            let tls = (Protocol::Tls, Some(Fault::Incomplete));
            let expected = if end == 0 { (Protocol::Other, None) } else { tls };
            assert_eq!((identity.protocol, identity.fault), expected, "at {end}");
            assert!(identity.name.is_none());
        }
    }
}

#[test]
fn w02_every_record_version_is_tls() {
    let message = message(&extension(SERVER_NAME, &server_name(b"host.example")));
    for major in 0..=u8::MAX {
        for minor in 0..=u8::MAX {
            let mut hello = record(&message);
            hello[1..3].copy_from_slice(&[major, minor]);
            assert_eq!(name(&hello), "host.example");
            let mut later = records(&message, 40);
            later[46..48].copy_from_slice(&[major, minor]);
            assert_eq!(name(&later), "host.example", "of the second record");
        }
    }
    assert_eq!(fault(&[ALERT, 0, 0, 0, 2, 1, 0]), Fault::RecordType, "which Go skips");
}

#[test]
fn every_name_of_a_hello_that_contradicts_itself_is_told() {
    let two = |a: &[u8], b: &[u8]| {
        let entry = |name: &[u8]| [&[0][..], &u16(name.len()), name].concat();
        let list = [entry(a), entry(b)].concat();
        extension(SERVER_NAME, &[&u16(list.len())[..], &list].concat())
    };
    let of = |name: &[u8]| extension(SERVER_NAME, &server_name(name));
    let twice = message(&[of(b"a.example"), of(b"B.example.")].concat());
    let entries = message(&two(b"a.example", b"b.example"));
    let ends = message(&[of(b"a.example"), of(b"b.example"), extension(0, &[0])].concat());
    for message in [twice, entries, ends] {
        for flight in [record(&message), records(&message, 3)] {
            let mut names = Vec::new();
            super::super::each_name(&flight, |name| names.push(name.to_string()));
            assert_eq!(names, ["a.example", "b.example"]);
        }
    }
    let whole = record(&message(&[of(b"a.example"), of(b"b.example")].concat()));
    let mut names = Vec::new();
    super::super::each_name(&whole[..whole.len() - 1], |name| names.push(name.to_string()));
    assert_eq!(names, ["a.example"], "as far as it has come");
}

#[test]
fn a_record_that_does_not_belong_there_is_a_fault() {
    let message = message(&extension(SERVER_NAME, &server_name(b"host.example")));
    let (first, rest) = message.split_at(50);
    let around = |middle: &[u8]| [&record(first), middle, &record(rest)].concat();
    assert_eq!(fault(&around(&[HANDSHAKE, 3, 1, 0, 0])), Fault::RecordLength);
    assert_eq!(fault(&around(&[HANDSHAKE, 3, 1, 0x40, 1])), Fault::RecordLength);
    for kind in [CHANGE_CIPHER_SPEC, ALERT, 23, 24, 0x80] {
        assert_eq!(fault(&around(&[kind, 3, 3, 0, 1, 1])), Fault::RecordType, "{kind}");
    }
    assert_eq!(fault(&[ALERT, 3, 1, 0, 2, 1, 0]), Fault::RecordType);
    assert_eq!(fault(&[HANDSHAKE, 3, 1, 0, 5, 2]), Fault::NotClientHello);
    assert_eq!(name(&around(&[])), "host.example");
}

#[test]
fn lengths_that_disagree_are_faults() {
    let name = server_name(b"host.example");
    let outer = |list: &[u8]| fault(&record(&message(&extension(SERVER_NAME, list))));
    assert_eq!(outer(&[&name[..], &[0]].concat()), Fault::LengthsDisagree);
    assert_eq!(outer(&name[..name.len() - 1]), Fault::LengthsDisagree);
    let longer = [&[0, 15, 0, 0, 0x0d], &b"host.example"[..]].concat();
    assert_eq!(outer(&longer), Fault::FieldLength);
    assert_eq!(outer(&[0, 15, 0, 0xff, 0xff, 1]), Fault::LengthsDisagree);
    let mut trailing = message(&extension(SERVER_NAME, &name));
    trailing.push(0);
    trailing[3] += 1;
    assert_eq!(fault(&record(&trailing)), Fault::LengthsDisagree);
    let over = extension(SERVER_NAME, &name);
    assert_eq!(fault(&record(&message(&over[..over.len() - 1]))), Fault::FieldLength);
}

#[test]
fn a_hello_names_one_host_in_one_way() {
    let name = server_name(b"host.example");
    let extension = extension(SERVER_NAME, &name);
    let twice = record(&message(&[&extension[..], &extension].concat()));
    assert_eq!(fault(&twice), Fault::ExtensionTwice);
    let of = |list: &[u8]| fault(&record(&message(&self::extension(SERVER_NAME, list))));
    assert_eq!(of(&[0, 8, 0, 0, 1, b'a', 0, 0, 1, b'b']), Fault::NameTwice);
    assert_eq!(of(&[0, 4, 1, 0, 1, b'a']), Fault::NameType);
    assert_eq!(of(&[0, 0]), Fault::NameListEmpty);
    assert_eq!(of(&[0, 3, 0, 0, 0]), Fault::Name(BadName::Empty));
    assert_eq!(of(&[]), Fault::FieldLength);
}

#[test]
fn a_bad_name_is_a_fault_that_leaves_the_rest_readable() {
    for byte in 0..=u8::MAX {
        let good = byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        assert_eq!(done(&hello(&[b'a', byte, b'b'])).fault.is_none(), good, "{byte:#04x}");
    }
    let long = [b'a'; 255];
    for bad in [&b"192.0.2.7"[..], b"2001:db8::1", b"*.example", b".a", b"a..b", &long] {
        assert!(matches!(fault(&hello(bad)), Fault::Name(_)));
    }
    let alpn = extension(ALPN, &[0, 3, 2, b'h', b'2']);
    let bad = extension(SERVER_NAME, &server_name(b"192.0.2.7"));
    let hello = record(&message(&[bad, alpn].concat()));
    assert_eq!(done(&hello).fault, Some(Fault::Name(BadName::Address)));
    assert!(done(&hello).alpn.contains(b"h2"));
}

#[test]
fn fields_that_no_server_accepts_are_faults() {
    let of = |session: &[u8], suites: &[u8], compression: &[u8]| {
        fault(&record(&with_fields(session, suites, compression, &[])))
    };
    let long = [&[33][..], &[0; 33]].concat();
    assert_eq!(of(&long, &[0, 2, 1, 1], &[1, 0]), Fault::FieldValue);
    assert_eq!(of(&[0], &[0, 0], &[1, 0]), Fault::FieldValue);
    assert_eq!(of(&[0], &[0, 3, 1, 1, 1], &[1, 0]), Fault::FieldValue);
    assert_eq!(of(&[0], &[0, 2, 1, 1], &[0]), Fault::FieldValue);
}

#[test]
fn extensions_are_told() {
    let parts = [
        extension(0x0a0a, &[]),
        extension(SUPPORTED_VERSIONS, &[6, 0x7a, 0x7a, 3, 4, 3, 3]),
        extension(ALPN, &[0, 12, 2, b'h', b'2', 8, b'h', b't', b't', b'p', b'/', b'1', b'.', b'1']),
        extension(ENCRYPTED_CLIENT_HELLO, &[0; 40]),
        extension(ENCRYPTED_SERVER_NAME, &[0; 9]),
    ];
    let message = message(&parts.concat());
    for len in [1, 7, message.len()] {
        let hello = records(&message, len);
        let identity = done(&hello);
        assert_eq!((identity.name, identity.fault), (None, None));
        assert!(identity.ech && identity.esni);
        assert_eq!(identity.tls_version, 0x0304);
        let mut alpn = Vec::new();
        identity.alpn.each(|protocol| alpn.push(protocol.to_vec()));
        assert_eq!(alpn, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    }
    for bad in [&[0, 0][..], &[0, 1, 0], &[0, 2, 2, b'h']] {
        assert_eq!(fault(&record(&self::message(&extension(ALPN, bad)))), Fault::Alpn);
    }
}

#[test]
fn a_hello_of_64_kib_is_read_and_a_larger_one_refused_at_its_header() {
    for len in [RECORD_MAX, 9] {
        assert_eq!(name(&largest_in_records(len)), "host.example");
    }
    assert_eq!(fault(&[HANDSHAKE, 3, 1, 0x40, 0, 1, 1, 0, 1]), Fault::TooLarge);
    assert_eq!(fault(&[HANDSHAKE, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff]), Fault::TooLarge);
    assert_eq!(fault(&largest_in_records(7)), Fault::TooManyPieces);
}

#[test]
fn an_sslv2_hello_is_tls_without_a_name() {
    let mut hello = vec![0x80, 0x1c, 1, 3, 1, 0, 3, 0, 0, 0, 16, 0, 0, 4];
    hello.extend([9; 16]);
    assert_eq!(fault(&hello), Fault::Sslv2);
    for end in 0..hello.len() {
        assert!(matches!(identify(&hello[..end], false), Step::NeedMore(_)), "at {end}");
    }
    hello[1] = 0x1d;
    assert_eq!(fault(&hello), Fault::LengthsDisagree);
}

#[test]
fn other_bytes_are_told_at_the_first_that_rules_tls_out() {
    for other in [
        &[22, 0, 0x84, 0xaa, 8][..],
        &[22, 2, 0, 0, 0],
        &[22, 0, 0x84, 0, 9, 8],
        &[0x17, 3],
        &[0x80, 0, 2],
        &[0],
        &[0x15, 3, 9, 7],
        &[0x14, 0x10],
    ] {
        assert_eq!(done(other).protocol, Protocol::Other, "{other:?}");
    }
}
