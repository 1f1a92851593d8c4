//! What reading a ClientHello costs, beside the two other readers in the same run.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use rustls::server::Acceptor;
use schengate::identify::{Step, identify};
use tls_parser::{TlsExtension, TlsMessage, TlsMessageHandshake};

#[path = "../tests/flights/mod.rs"]
mod flights;

const NAME: &str = "images.storage.region-eu-west.example";

type Read = fn(&[u8]) -> usize;

/// Each answers the length of the name.
const READERS: [(&str, Read); 3] =
    [("schengate", ours), ("tls-parser", tls_parser), ("rustls", rustls_acceptor)];

fn ours(hello: &[u8]) -> usize {
    match identify(hello, false) {
        Step::Done(identity) => identity.name.map_or(0, |(name, _)| name.as_bytes().len()),
        Step::NeedMore(_) => 0,
    }
}

fn tls_parser(hello: &[u8]) -> usize {
    let Ok((_, record)) = tls_parser::parse_tls_plaintext(hello) else { return 0 };
    let Some(TlsMessage::Handshake(TlsMessageHandshake::ClientHello(hello))) = record.msg.first()
    else {
        return 0;
    };
    let extensions = hello.ext.map(tls_parser::parse_tls_client_hello_extensions);
    let Some(Ok((_, extensions))) = extensions else { return 0 };
    let names = extensions.iter().find_map(|extension| {
        if let TlsExtension::SNI(names) = extension { names.first() } else { None }
    });
    names.map_or(0, |(_, name)| name.len())
}

fn rustls_acceptor(mut hello: &[u8]) -> usize {
    let mut acceptor = Acceptor::default();
    if acceptor.read_tls(&mut hello).is_err() {
        return 0;
    }
    match acceptor.accept() {
        Ok(Some(accepted)) => accepted.client_hello().server_name().map_or(0, str::len),
        _ => 0,
    }
}

fn readers(criterion: &mut Criterion) {
    for len in [517, 1750] {
        let hello = flights::tls_hello_of(NAME, len);
        let mut group = criterion.benchmark_group(format!("hello_{len}"));
        for (reader, read) in READERS {
            assert_eq!(read(&hello), NAME.len(), "{reader} reads the name");
            group.bench_function(reader, |bencher| bencher.iter(|| read(black_box(&hello))));
        }
        group.finish();
    }
    let hello = flights::tls_hello_of(NAME, 1750);
    let bytes = flights::records(&hello[5..], &(0..1745).collect::<Vec<_>>());
    criterion.bench_function("hello_1750_in_records_of_1", |bencher| {
        bencher.iter(|| ours(black_box(&bytes)));
    });
    let mut head = b"GET /index.html HTTP/1.1\r\nHost: images.example\r\n".to_vec();
    for n in 0..12 {
        head.extend(format!("X-Field-{n}: a value of some length, as browsers send\r\n").bytes());
    }
    head.extend(b"\r\n");
    criterion.bench_function(&format!("http_{}", head.len()), |bencher| {
        bencher.iter(|| ours(black_box(&head)));
    });
}

criterion_group!(benches, readers);
criterion_main!(benches);
