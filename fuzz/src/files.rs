//! Readers of files: captures, tables, packs, policies.

use std::cell::RefCell;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use schengate::control::compile::Compiler;
use schengate::control::config::{self, CountryField, Data, Source};
use schengate::control::data::{
    CountryTable, DataFault, Kind, Label, Located, Ranges, SourceInfo, Sources, Table, load,
    load_asn, load_country_by, load_provider,
};
use schengate::identify::{HostName, Protocol};
use schengate::inspect::{Form, ascii_json, inspect_file};
use schengate::policy::{Action, Claim, Country, Question, Reason, Transport};
use sha2::{Digest, Sha256};

thread_local! {
    /// One file, filled anew each time: to make one costs more than to read it.
    static SCRATCH: RefCell<Option<(tempfile::TempDir, File)>> = const { RefCell::new(None) };
}

/// Calls `read` with the path of a file that holds `data`.
fn with_file<T>(data: &[u8], read: impl FnOnce(&Path) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| {
        let (dir, file) = scratch.get_or_insert_with(|| {
            let memory = Path::new("/dev/shm");
            let dir = if memory.is_dir() {
                tempfile::tempdir_in(memory).expect("a directory")
            } else {
                tempfile::tempdir().expect("a directory")
            };
            let file = File::create(dir.path().join("input")).expect("a file");
            (dir, file)
        });
        file.set_len(0).expect("a file can be emptied");
        file.seek(SeekFrom::Start(0)).expect("a file has a start");
        file.write_all(data).expect("room for it");
        read(&dir.path().join("input"))
    })
}

/// A capture, or any file: flows or a clear error, and JSON that any terminal may see.
pub fn pcap(data: &[u8]) {
    with_file(data, |path| {
        for form in [Form::Auto, Form::Stream, Form::Datagrams] {
            let end = inspect_file(path, form, |flow| {
                let line = ascii_json(&flow.to_json(None));
                assert!(line.bytes().all(|byte| matches!(byte, b' '..=b'~')));
            });
            if let Err(fault) = end {
                assert!(!fault.to_string().is_empty());
            }
        }
    });
}

/// A file of MaxMind's form: ranges in order, or a clear refusal.
pub fn mmdb(data: &[u8]) {
    // The metadata decides how all else is read; bytes without any are a text (see `table`).
    let marker = b"\xab\xcd\xefMaxMind.com";
    if data.windows(marker.len()).any(|window| window == marker) {
        tables(data);
    }
}

/// A table of any other form: texts as they are, `.sgt` with a digest that is right, and `.sgt` of
/// a payload that is packed right (the fuzzer does not see through deflate).
pub fn table(data: &[u8]) {
    tables(data);
    tables(&sealed(data));
    if let Some((kind, payload)) = data.split_first() {
        tables(&sealed(&table_of(*kind % 4, payload)));
    }
}

fn sealed(table: &[u8]) -> Vec<u8> {
    [b"SGT1", Sha256::digest(table).as_slice(), table].concat()
}

/// What follows the digest of an `.sgt`: a header without texts, and the payload in one stored block
/// (RFC 1951 §3.2.4).
fn table_of(kind: u8, payload: &[u8]) -> Vec<u8> {
    let payload = payload.get(..0xffff).unwrap_or(payload);
    let len = u16::try_from(payload.len()).expect("cut to that");
    let mut table = vec![kind];
    table.extend(i64::MIN.to_le_bytes()); // no date
    table.extend(1_u64.to_le_bytes());
    table.extend(u32::from(len).to_le_bytes());
    table.extend([0; 6]);
    table.push(1);
    table.extend(len.to_le_bytes());
    table.extend((!len).to_le_bytes());
    table.extend(payload);
    table
}

/// A pack whose digest is right and whose tables' digests are, with what the bytes say of them.
pub fn pack(data: &[u8]) {
    let mut content = data.get(..10).unwrap_or(data).to_vec();
    for part in data.get(10..).unwrap_or_default().chunks(300).take(8) {
        let table = match part.split_first() {
            Some((&kind @ 4..8, payload)) => sealed(&table_of(kind % 4, payload)),
            _ => sealed(part),
        };
        content.extend(u32::try_from(table.len()).expect("short").to_le_bytes());
        content.extend(table);
    }
    for content in [data, &content] {
        let digest = Sha256::digest(content);
        let pack = [b"SGP1", [0; 65].as_slice(), digest.as_slice(), content].concat();
        with_file(&pack, |path| {
            // A table of each kind that is refused at once: where a kind is missing, the table of
            // the program would be read each time.
            let none = || vec![Source::File(PathBuf::from("/dev/null"))];
            let (country, asn, providers) = (none(), none(), none());
            let pack = Some(path.to_owned());
            let settings = Data { country, asn, providers, pack, ..Data::default() };
            load(&settings).expect_err("three are refused").iter().for_each(said);
        });
    }
}

fn tables(data: &[u8]) {
    with_file(data, |path| {
        for field in [CountryField::Country, CountryField::Registered] {
            check(load_country_by(path, field).map(Table::Country));
        }
        check(load_asn(path).map(Table::Asn));
        check(load_provider(path).map(Table::Providers));
        if let Err(fault) = Table::guess(path) {
            said(&fault);
        }
    });
}

/// What was read is sorted and disjoint, and answers something; what was not says why.
fn check(table: Result<Table, DataFault>) {
    match table {
        Err(fault) => said(&fault),
        Ok(table) => {
            let Ranges { v4, v6 } = table.labels();
            assert!(table.kind() == Kind::Providers || !(v4.is_empty() && v6.is_empty()));
            ordered(&v4);
            ordered(&v6);
        }
    }
}

fn ordered<A: Copy + Ord + std::fmt::Debug>(ranges: &[(A, A, Label)]) {
    for &(first, last, _) in ranges {
        assert!(first <= last, "a range begins before it ends");
    }
    for pair in ranges.windows(2) {
        assert!(pair[0].1 < pair[1].0, "ranges are disjoint and in order");
    }
}

fn said(fault: &DataFault) {
    assert!(!fault.said().is_empty());
    assert!(!fault.to_string().chars().any(char::is_control), "{fault}");
}

/// A policy file: a policy, or faults that stand in the text. A policy never opens what is guarded,
/// and answers the same each time.
pub fn policy_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let now = Timestamp::from_second(1_780_000_000).expect("an instant");
    let loaded = match config::parse_at(text, Some(Path::new("/nonexistent/policy.toml")), now) {
        Ok(loaded) => loaded,
        Err(faults) => {
            assert!(!faults.0.is_empty(), "a refusal says why");
            for fault in &faults.0 {
                assert!(!fault.what.is_empty() && !fault.help.is_empty());
                if let Some(position) = &fault.position {
                    let lines = text.split('\n').count();
                    assert!((1..=lines).contains(&position.line), "{faults}");
                }
            }
            return;
        }
    };
    for lint in &loaded.lints {
        assert!(!lint.to_string().is_empty());
    }
    let compiler = Compiler::new(loaded.config, sources(), text, Vec::new(), now);
    let policy = compiler.policy_at(now);
    let name = HostName::parse(b"a.example").expect("a name");
    for (destination, guarded) in [
        (IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), true),
        (IpAddr::V4(Ipv4Addr::new(0, 0, 0, 1)), true),
        (IpAddr::V6(Ipv4Addr::new(224, 0, 0, 1).to_ipv6_mapped()), true),
        (IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1)), false),
        (IpAddr::V4(Ipv4Addr::new(81, 2, 69, 142)), false),
        (IpAddr::V6(Ipv6Addr::new(0x2a00, 1, 0, 0, 0, 0, 0, 1)), false),
    ] {
        for claim in [Claim::Unread, Claim::Claimed(&name), Claim::Bound(&name)] {
            let question = Question {
                client: Some(IpAddr::V4(Ipv4Addr::new(10, 40, 0, 1))),
                destination: SocketAddr::new(destination, 443),
                transport: Transport::Tcp,
                protocol: Protocol::Tls,
                name: claim,
                ech: false,
            };
            let verdict = policy.decide(&question);
            assert_eq!(verdict.action(), policy.decide(&question).action());
            if guarded {
                assert_eq!(verdict.action(), Action::Block);
                assert!(matches!(verdict.reason(), Reason::Guard | Reason::Loop));
            }
        }
    }
}

/// One small table: what a policy says is weighed against something.
fn sources() -> Sources {
    let there = |code| Located::Country(Country::from_code(code).expect("a country"));
    let info = SourceInfo {
        name: "small".to_owned(),
        origin: Some(PathBuf::from("/nonexistent/small.csv")),
        as_of: None,
        dated_by_file: false,
        rows: 2,
        licence: None,
        digest: String::new(),
        files: Vec::new(),
    };
    let v4 = vec![
        (u32::from(Ipv4Addr::new(81, 0, 0, 0)), u32::from(Ipv4Addr::new(81, 3, 0, 0)), there("FR")),
        (u32::from(Ipv4Addr::new(82, 0, 0, 0)), u32::from(Ipv4Addr::new(83, 0, 0, 0)), there("US")),
    ];
    let v6 = vec![(0x2a00 << 112, 0x2a01 << 112, there("DE"))];
    let table = CountryTable { info, ranges: Ranges { v4, v6 } };
    Sources { countries: vec![table], ..Sources::default() }
}
