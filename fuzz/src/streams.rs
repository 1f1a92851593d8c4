//! Readers of TCP streams.

use std::net::IpAddr;

use rustls::server::Acceptor;
use schengate::identify::socks::{Command, Destination, Part, Unserved, datagram, put};
use schengate::identify::starttls::{Upgrade, Via, upgrade};
use schengate::identify::tls::{SecondHello, Watch};
use schengate::identify::{Authority, Host, HostName, Protocol, Step, identify};

use super::{Summary, consistent, directed, flights, summary};

/// An answer to any stream is final, and its name is the one that other readers find.
pub fn tls(data: &[u8]) {
    stream(data);
    let whole = ended(data);
    agrees_with_rustls(data, &whole);
    // The same bytes as a handshake message in records, which damage alone seldom gets right, and
    // as the extensions of a hello that is sound up to them.
    if data.len() > 4 {
        let mut message = data.to_vec();
        message[0] = 1;
        let len = u32::try_from(data.len() - 4).expect("short").to_be_bytes();
        message[1..4].copy_from_slice(&len[1..]);
        message_in_records(&message, data);
    }
    if data.len() < 60_000 {
        message_in_records(&hello_with(data), data);
    }
}

/// A hello whose extensions are `data` and then those without which rustls reads no hello.
fn hello_with(data: &[u8]) -> Vec<u8> {
    let needed = [0, 13, 0, 4, 0, 2, 4, 3, 0, 10, 0, 4, 0, 2, 0, 23];
    let extensions = data.len() + needed.len();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 4, 0x13, 1, 0xc0, 0x2b, 1, 0]);
    body.extend(u16::try_from(extensions).expect("short").to_be_bytes());
    body.extend(data);
    body.extend(needed);
    let len = u32::try_from(body.len()).expect("short").to_be_bytes();
    [&[1], &len[1..], &body].concat()
}

fn message_in_records(message: &[u8], data: &[u8]) {
    let cuts: Vec<_> = data.iter().take(4).map(|&cut| usize::from(cut)).collect();
    // A record has 2^14 bytes at most.
    let few: Vec<_> = (1..=message.len() / 0x4000).map(|record| record * 0x4000).collect();
    let whole = ended(&flights::records(message, &few));
    let cut = flights::records(message, &[cuts, few.clone()].concat());
    assert_eq!(whole, ended(&cut), "the cuts change the answer");
    agrees_with_rustls(&cut, &whole);
    if let (Some(ours), Some(theirs)) = (&whole.1, tls_parser_name(message)) {
        assert_eq!(*ours, theirs, "as tls-parser reads it");
    }
}

fn ended(seen: &[u8]) -> Summary {
    let Step::Done(identity) = identify(seen, true) else { panic!("the stream has ended") };
    summary(&identity)
}

/// The name that tls-parser reads, where it reads one.
fn tls_parser_name(message: &[u8]) -> Option<String> {
    let name = flights::tls_parser_names(message)?.into_iter().next()?;
    Some(String::from_utf8_lossy(name.strip_suffix(b".").unwrap_or(&name)).into_owned())
}

/// What rustls takes for a hello is TLS here too, and read to the same name and ALPN, or refused
/// with a cause.
fn agrees_with_rustls(mut stream: &[u8], ours: &Summary) {
    let mut acceptor = Acceptor::default();
    while !stream.is_empty() {
        if !acceptor.read_tls(&mut stream).is_ok_and(|read| read > 0) {
            return;
        }
        match acceptor.accept() {
            Err(_) => return,
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                assert_eq!(ours.0, Protocol::Tls, "rustls reads a hello");
                if ours.2.is_none() {
                    let name = hello.server_name().map(str::to_lowercase);
                    let name = name.map(|name| name.trim_end_matches('.').to_owned());
                    assert_eq!(ours.1, name, "the name that rustls reads");
                    let alpn = hello.alpn().into_iter().flatten().map(<[u8]>::to_vec);
                    assert_eq!(ours.5, alpn.collect::<Vec<_>>(), "the ALPN that rustls reads");
                }
                return;
            }
        }
    }
}

/// Where the ends of looks at a stream are put.
fn ends(len: usize) -> impl Iterator<Item = usize> {
    [len / 2, len / 3, len.saturating_sub(1)].into_iter().filter(move |&end| end < len)
}

fn stream(data: &[u8]) {
    let Step::Done(whole) = identify(data, true) else { panic!("the stream has ended") };
    consistent(&whole);
    for end in ends(data.len()) {
        let part = &data[..end];
        match identify(part, false) {
            Step::Done(early) => assert_eq!(summary(&early), summary(&whole), "an answer is final"),
            Step::NeedMore(missing) => {
                assert!(!missing.has_come(part, end), "what is missing has not come");
                // Until it has come, nothing is missed by waiting for it.
                let has_come = missing.has_come(data, end);
                let waits = matches!(identify(data, false), Step::NeedMore(_));
                assert!(has_come || waits, "waited for {missing:?} at {end}");
            }
        }
    }
}

/// What a client sends behind its first hello is followed to the same end however it is cut, and a
/// hello for another name is seen behind whatever a server skips.
pub fn second(data: &[u8]) {
    let first = flights::tls_hello("a.example", &[]);
    follow(&first, data);
    let Some(([cut, kind], rest)) = directed(data) else { return };
    // The bytes as the second hello's message, in a record or two.
    let message = [&[1, 0, 0, 0], rest].concat();
    let mut message = message.get(..0x4000).unwrap_or(&message).to_vec();
    let len = u32::try_from(message.len() - 4).expect("short").to_be_bytes();
    message[1..4].copy_from_slice(&len[1..]);
    let records = flights::records(&message, &[cut]);
    let watch = follow(&first, &records);
    let read = ended(&records);
    let same = read.1.as_deref() == Some("a.example") && read.2.is_none();
    assert_eq!(watch, if same { Watch::Over } else { Watch::Changed });
    // Another name, behind records that a server skips.
    let kind = [20, 21, 23][kind % 3];
    let short = rest.get(..0x3fff).unwrap_or(rest);
    let len = u16::try_from(short.len()).expect("short").to_be_bytes();
    let skipped = [&[kind, 3, 3], &len[..], short].concat();
    let other = flights::tls_hello("b.example", &[]);
    let other = flights::records(&other[5..], &[cut, cut * 2]);
    assert_eq!(follow(&first, &[skipped, other].concat()), Watch::Changed);
}

fn follow(first: &[u8], behind: &[u8]) -> Watch {
    let mut at_once = SecondHello::after(first).expect("a whole hello");
    let watch = at_once.feed(behind);
    let step = behind.first().map_or(1, |&step| usize::from(step) + 1);
    let mut in_parts = SecondHello::after(first).expect("a whole hello");
    for part in behind.chunks(step) {
        in_parts.feed(part);
    }
    assert_eq!(in_parts.watch(), watch, "in parts of {step}");
    let all = SecondHello::after(&[first, behind].concat()).expect("a whole hello");
    assert_eq!(all.watch(), watch, "in one flight");
    watch
}

/// Where TLS begins behind another protocol is found once and for all.
pub fn starttls(data: &[u8]) {
    let whole = upgrade(data);
    if let Upgrade::Tls { at, .. } = whole {
        assert!(at < data.len(), "TLS begins in the stream");
        let hello = ended(&data[at..]);
        assert!(hello.1.is_none() || hello.0 == Protocol::Tls);
    }
    for end in ends(data.len()) {
        match upgrade(&data[..end]) {
            Upgrade::NeedMore => {}
            found @ (Upgrade::No | Upgrade::Tls { .. }) => assert_eq!(found, whole, "at {end}"),
        }
    }
}

/// A request head; one with a name has exactly one Host or absolute target, and is read the same
/// by httparse, which hyper reads with.
pub fn http(data: &[u8]) {
    stream(data);
    let Step::Done(identity) = identify(data, true) else { panic!("the stream has ended") };
    let Some(head) = identity.http else { return };
    assert!(head.len <= data.len(), "the head lies in the stream");
    if identity.fault.is_some() || head.authority.is_none() {
        return;
    }
    let mut fields = vec![httparse::EMPTY_HEADER; 4096];
    let mut request = httparse::Request::new(&mut fields);
    let len = match request.parse(&data[..head.len]) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => panic!("httparse waits for more"),
        // A byte over 0x7f in a target, for one: what hyper would refuse may be read here.
        Err(_) => return,
    };
    assert_eq!(len, head.len, "the end of the head");
    assert_eq!(request.method.map(str::as_bytes), Some(head.method));
    assert_eq!(request.path.map(str::as_bytes), Some(head.target));
    let hosts: Vec<_> = request
        .headers
        .iter()
        .filter(|field| field.name.eq_ignore_ascii_case("host"))
        .map(|field| field.value.trim_ascii())
        .collect();
    assert!(hosts.len() < 2, "one Host");
    assert_eq!(hosts.first().copied(), head.host, "the Host");
    assert!(!hosts.is_empty() || head.target_authority().is_some(), "a host from somewhere");
}

/// An authority is read to one host, which is written back the same.
pub fn connect_target(data: &[u8]) {
    let Ok(authority) = Authority::parse_connect(data) else { return };
    let port = authority.port.expect("a CONNECT target has a port");
    let text = match authority.host {
        Host::Name(name) => format!("{name}:{port}"),
        Host::Address(IpAddr::V4(address)) => format!("{address}:{port}"),
        Host::Address(IpAddr::V6(address)) => format!("[{address}]:{port}"),
    };
    assert_eq!(Authority::parse_connect(text.as_bytes()), Ok(authority));
    // What is a name is no other spelling of an address: an octal or hexadecimal one, a number.
    if let Host::Name(name) = authority.host {
        let last = name.as_bytes().rsplit(|&byte| byte == b'.').next().unwrap_or_default();
        let hex =
            last.strip_prefix(b"0x").filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        assert!(!last.iter().all(u8::is_ascii_digit) && hex.is_none(), "{name}");
    }
}

/// A greeting and a request: each asks for its own bytes, and says where it goes in one way.
pub fn socks(data: &[u8]) {
    if let Ok((to, payload)) = datagram(data) {
        let mut again = vec![0; 3];
        put(&mut again, to.host, to.port);
        again.extend(payload);
        assert_eq!(datagram(&again), Ok((to, payload)), "a header says one thing");
        if let Host::Address(_) = to.host {
            assert_eq!(again, data);
        }
    }
    let Some(greeting) = whole(data, schengate::identify::socks::greeting) else { return };
    let (offered, greeted) = greeting;
    let behind = &data[greeted..];
    let Some((request, len)) = whole(behind, schengate::identify::socks::request) else { return };
    let wire = &behind[..len];
    match request {
        Ok(Command::Connect(Destination { host, port })) => {
            assert!(port != 0);
            let mut again = vec![5, 1, wire[2]];
            match host {
                // An address in the place of a name, in its one spelling.
                Host::Address(address) if wire[3] == 3 => {
                    let text = std::str::from_utf8(&wire[5..len - 2]).expect("an address is ASCII");
                    let text = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
                    let text =
                        text.unwrap_or_else(|| std::str::from_utf8(&wire[5..len - 2]).unwrap());
                    let read: IpAddr = text.parse().expect("an address");
                    assert_eq!(read.to_canonical(), address.to_canonical());
                    again.extend(&wire[3..len - 2]);
                }
                Host::Address(IpAddr::V4(v4)) => again.extend([&[1], &v4.octets()[..]].concat()),
                Host::Address(IpAddr::V6(v6)) => again.extend([&[4], &v6.octets()[..]].concat()),
                // In its one form; the final dot may be gone.
                Host::Name(name) => {
                    assert_eq!(HostName::parse(&wire[5..len - 2]), Ok(name));
                    again.extend(&wire[3..len - 2]);
                }
            }
            again.extend(port.to_be_bytes());
            assert_eq!(again, wire, "a request says one thing");
        }
        Ok(Command::Associate { port }) => {
            assert_eq!(
                (wire[1], port.unwrap_or(0).to_be_bytes()),
                (3, [wire[len - 2], wire[len - 1]])
            );
        }
        Err(Unserved::Version) => assert!(wire[0] != 5),
        Err(Unserved::Kind) => assert!(!matches!(wire[3], 1 | 3 | 4)),
        Err(Unserved::Command) => assert!(!matches!(wire[1], 1 | 3)),
        Err(Unserved::Destination) => {}
    }
    // The reader of tunnels by others finds TLS exactly behind a request that is served here.
    if data[0] == 5 && offered && matches!(request, Ok(Command::Connect(_))) {
        let tunnel = [&data[..greeted + len], &[22, 3, 1]].concat();
        let tls = Upgrade::Tls { via: Via::Socks5, at: greeted + len };
        assert_eq!(upgrade(&tunnel), tls);
    }
}

/// The message and its length, read byte for byte as it asks for them; `None` where it is cut off.
fn whole<T: Copy + PartialEq + std::fmt::Debug>(
    data: &[u8],
    read: impl Fn(&[u8]) -> Part<T>,
) -> Option<(T, usize)> {
    let mut len = 0;
    loop {
        match read(data.get(..len)?) {
            Part::Missing(missing) => {
                assert!(missing > 0);
                len += missing;
            }
            Part::Whole(message) => {
                assert_eq!(read(data), Part::Whole(message), "what is behind it changes nothing");
                return Some((message, len));
            }
        }
    }
}
